//! Operations: mathematics that exists independently of any kernel.
//!
//! An [`Op`] owns its dimensions, tensors, counts of work, parameters and its reference in f64.
//! Nothing else in the crate knows what a matmul is.

pub mod attention;
pub mod dot4;
pub mod matmul;
pub mod matrix_fma;
pub mod memory;
pub mod probe;
pub mod transfer;
pub mod workgroup_read;

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::input::{Data, Element, Values};

/// Unit roundoff of f32: half the distance from one to the next number.
pub const F32_ROUNDOFF: f64 = 1.0 / 16_777_216.0;

/// The most elements one tensor may have: indices are 32-bit in every kernel and in the hash.
pub const ELEMENTS_MAX: u64 = u32::MAX as u64;

/// The operations that can be asked for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OpName {
    /// One workgroup that copies one word: what a launch costs.
    Empty,
    /// Independent chains of fused multiply-adds: the arithmetic ceiling.
    Fma,
    /// Independent chains of dot products of four 8-bit integers: the ceiling of quantised work.
    Dot4,
    /// Blocks multiplied and added over and over by matrix units: their ceiling.
    MatrixFma,
    /// Reads of workgroup memory at changing places: its ceiling.
    WorkgroupRead,
    /// A copy of one buffer to another: the memory ceiling.
    Copy,
    /// Every element is loaded and summed.
    Read,
    /// Every element is written.
    Write,
    /// `a = b + s c`, element by element.
    Triad,
    /// A walk from slot to slot, each load waiting for the one before: latency.
    Chase,
    /// Sixteen launches, each of which needs the result of the one before.
    Chain,
    /// One launch, submitted and waited for by itself.
    RoundTrip,
    /// A copy from the host's memory to the device's.
    Upload,
    /// A copy from the device's memory to the host's.
    Readback,
    /// `C[m,n] = A[m,k] B[k,n]`.
    Matmul,
    /// `O = softmax(Q K^T / sqrt(d)) V` with grouped-query heads.
    Attention,
}

impl OpName {
    /// Every operation, probes first.
    pub const ALL: [Self; 16] = [
        Self::Empty,
        Self::Fma,
        Self::Dot4,
        Self::MatrixFma,
        Self::WorkgroupRead,
        Self::Copy,
        Self::Read,
        Self::Write,
        Self::Triad,
        Self::Chase,
        Self::Chain,
        Self::RoundTrip,
        Self::Upload,
        Self::Readback,
        Self::Matmul,
        Self::Attention,
    ];

    /// The operation of this name.
    #[must_use]
    pub fn op(self) -> &'static dyn Op {
        match self {
            Self::Empty => &probe::Empty,
            Self::Fma => &probe::Fma,
            Self::Dot4 => &dot4::Dot4,
            Self::MatrixFma => &matrix_fma::MatrixFma,
            Self::WorkgroupRead => &workgroup_read::WorkgroupRead,
            Self::Copy => &probe::Copy,
            Self::Read => &memory::Read,
            Self::Write => &memory::Write,
            Self::Triad => &memory::Triad,
            Self::Chase => &memory::Chase,
            Self::Chain => &transfer::Chain,
            Self::RoundTrip => &transfer::RoundTrip,
            Self::Upload => &transfer::Upload,
            Self::Readback => &transfer::Readback,
            Self::Matmul => &matmul::Matmul,
            Self::Attention => &attention::Attention,
        }
    }

    /// Whether this is a probe: it measures the hardware, makes its own inputs and runs before the
    /// cases that are measured against it.
    #[must_use]
    pub fn is_probe(self) -> bool {
        !matches!(self, Self::Matmul | Self::Attention)
    }

    /// Whether this is a probe of more than arithmetic that other cases are measured against, and so
    /// runs whatever the user filters. The walk is among them for the size of the last cache.
    #[must_use]
    pub fn is_yardstick(self) -> bool {
        matches!(self, Self::Empty | Self::Copy | Self::Read | Self::Chase)
    }

    /// Whether arithmetic and memory rates bound its time. What waits for single loads, for
    /// launches or for the link to the host is bound by something else.
    #[must_use]
    pub fn has_roofline(self) -> bool {
        !matches!(
            self,
            Self::Chase | Self::Chain | Self::RoundTrip | Self::Upload | Self::Readback
        )
    }
}

impl fmt::Display for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Fma => "fma",
            Self::Dot4 => "dot4",
            Self::MatrixFma => "matrix_fma",
            Self::WorkgroupRead => "workgroup_read",
            Self::Copy => "copy",
            Self::Read => "read",
            Self::Write => "write",
            Self::Triad => "triad",
            Self::Chase => "chase",
            Self::Chain => "chain",
            Self::RoundTrip => "round_trip",
            Self::Upload => "upload",
            Self::Readback => "readback",
            Self::Matmul => "matmul",
            Self::Attention => "attention",
        })
    }
}

/// The arithmetic of a case: what its inputs are made of and what sums are kept in. Each tensor has
/// an [`Element`] type of its own, which the op derives from this.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE 754 binary32, accumulated in binary32.
    F32,
    /// IEEE 754 binary16, accumulated in binary32.
    F16,
    /// IEEE 754 binary16, accumulated in binary16.
    F16F16,
    /// TF32 of matrix units: binary32 in memory, products of 11 bits, accumulated in binary32.
    Tf32,
    /// bfloat16, accumulated in binary32.
    Bf16,
    /// OFP8 E4M3, accumulated in binary32.
    #[serde(rename = "f8e4m3")]
    F8E4M3,
    /// 32-bit integers, accumulated in the same, wrapping.
    I32,
    /// 8-bit integers, four to a word, accumulated in 32-bit integers.
    I8,
    /// 4-bit weights in blocks of 32 that share a scale, and activations in binary16; accumulated in
    /// binary32.
    #[serde(rename = "w4a16")]
    W4A16,
    /// 4-bit weights in blocks of 32 that share a scale, and activations in binary32; accumulated in
    /// the same.
    #[serde(rename = "w4a32")]
    W4A32,
}

impl Dtype {
    /// Every dtype there is.
    pub const ALL: [Self; 10] = [
        Self::F32,
        Self::Tf32,
        Self::F16,
        Self::F16F16,
        Self::Bf16,
        Self::F8E4M3,
        Self::I32,
        Self::I8,
        Self::W4A16,
        Self::W4A32,
    ];

    /// What inputs are made of; activations, where weights are made of something else.
    #[must_use]
    pub const fn input(self) -> Element {
        match self {
            Self::F32 | Self::W4A32 => Element::F32,
            Self::Tf32 => Element::Tf32,
            Self::F16 | Self::F16F16 | Self::W4A16 => Element::F16,
            Self::Bf16 => Element::Bf16,
            Self::F8E4M3 => Element::F8E4M3,
            Self::I32 => Element::I32,
            Self::I8 => Element::I8,
        }
    }

    /// What sums are kept in, and outputs are made of unless an op says otherwise.
    #[must_use]
    pub const fn output(self) -> Element {
        match self {
            Self::F32
            | Self::Tf32
            | Self::F16
            | Self::Bf16
            | Self::F8E4M3
            | Self::W4A16
            | Self::W4A32 => Element::F32,
            Self::F16F16 => Element::F16,
            Self::I32 | Self::I8 => Element::I32,
        }
    }

    /// Whether weights are integers of 4 bits.
    #[must_use]
    pub const fn has_4_bit_weights(self) -> bool {
        matches!(self, Self::W4A16 | Self::W4A32)
    }

    /// The type sums are kept in.
    #[must_use]
    pub const fn accumulator(self) -> &'static str {
        self.output().label()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::F16F16 => "f16_f16",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::F8E4M3 => "f8e4m3",
            Self::I32 => "i32",
            Self::I8 => "i8",
            Self::W4A16 => "w4a16",
            Self::W4A32 => "w4a32",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Dtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| {
                Error::usage(format!(
                    "dtype {text:?} is not known; use {}",
                    names(&Self::ALL)
                ))
            })
    }
}

fn names(dtypes: &[Dtype]) -> String {
    let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
    names.join(", ")
}

/// One named dimension of an op.
#[derive(Clone, Copy, Debug)]
pub struct Dim {
    /// Name in JSON and on the command line.
    pub name: &'static str,
    /// Abbreviation in case ids; a flag (0 or 1) appears as its bare name when set.
    pub short: &'static str,
    /// Value when the user leaves it out; `None` if it must be given.
    pub default: Option<u64>,
    /// Whether this is a yes-or-no dimension.
    pub flag: bool,
    /// Whether case ids leave it out when it has its default.
    pub quiet: bool,
}

impl Dim {
    const fn size(name: &'static str, short: &'static str, default: Option<u64>) -> Self {
        Self {
            name,
            short,
            default,
            flag: false,
            quiet: false,
        }
    }

    const fn quiet(name: &'static str, short: &'static str, default: u64) -> Self {
        Self {
            quiet: true,
            ..Self::size(name, short, Some(default))
        }
    }

    /// A dimension that most cases do not have: 0 is the same as leaving it out, and a shape without
    /// it is what it was before there was such a dimension.
    const fn optional(name: &'static str, short: &'static str) -> Self {
        Self::quiet(name, short, 0)
    }

    const fn flag(name: &'static str) -> Self {
        Self {
            name,
            short: name,
            default: Some(0),
            flag: true,
            quiet: true,
        }
    }

    /// Whether shapes may be without it.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        !self.flag && self.default == Some(0)
    }
}

/// The sizes of an op by name. Which names there are is the op's business ([`Op::dims`]).
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Shape(pub BTreeMap<String, u64>);

impl Shape {
    /// A shape from pairs of name and size.
    #[must_use]
    pub fn of(sizes: &[(&str, u64)]) -> Self {
        Self(
            sizes
                .iter()
                .map(|&(name, size)| (name.to_owned(), size))
                .collect(),
        )
    }

    /// The size called `name`; 0 if there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// This shape with `name` set to `size`.
    #[must_use]
    pub fn with(&self, name: &str, size: u64) -> Self {
        let mut sizes = self.0.clone();
        sizes.insert(name.to_owned(), size);
        Self(sizes)
    }
}

/// What is asked: an op at a shape in an element type.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Case {
    /// The operation.
    pub op: OpName,
    /// Its sizes.
    pub shape: Shape,
    /// Element type.
    pub dtype: Dtype,
}

impl Case {
    /// What an output of this case is judged by when its inputs are these, drawn by `data`.
    #[must_use]
    pub fn given<'a>(&'a self, inputs: &'a [Values], data: &Data) -> Given<'a> {
        Given {
            shape: &self.shape,
            dtype: self.dtype,
            inputs,
            exact: *data == Data::Integer && self.exact(),
        }
    }

    /// Whether integer inputs make every right result bit-exact.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.op.op().exact(&self.shape, self.dtype)
    }

    /// A checked case: every dimension there but optional ones, none unknown, none zero, nothing
    /// overflowing.
    ///
    /// # Errors
    /// A usage error that names the dimension and what it must be.
    pub fn new(op: OpName, shape: &Shape, dtype: Dtype) -> Result<Self> {
        let dims = op.op().dims();
        let dim_names = || dims.iter().map(|d| d.name).collect::<Vec<_>>().join(", ");
        if let Some(unknown) = shape
            .0
            .keys()
            .find(|name| !dims.iter().any(|dim| dim.name == **name))
        {
            return Err(Error::usage(format!(
                "{op} has no dimension {unknown:?}; its dimensions are {}",
                dim_names()
            )));
        }
        let mut sizes = BTreeMap::new();
        for dim in dims {
            let size = shape
                .0
                .get(dim.name)
                .copied()
                .or(dim.default)
                .ok_or_else(|| {
                    Error::usage(format!(
                        "{op} needs the dimension {:?}; its dimensions are {}",
                        dim.name,
                        dim_names()
                    ))
                })?;
            if dim.is_optional() && size == 0 {
                continue;
            }
            if dim.flag && size > 1 {
                return Err(Error::usage(format!(
                    "{op} {} must be 0 or 1, not {size}",
                    dim.name
                )));
            }
            if !dim.flag && (size == 0 || size > ELEMENTS_MAX) {
                return Err(Error::usage(format!(
                    "{op} {} must be from 1 to {ELEMENTS_MAX}, not {size}",
                    dim.name
                )));
            }
            sizes.insert(dim.name.to_owned(), size);
        }
        let shape = Shape(sizes);
        if !op.op().dtypes().contains(&dtype) {
            return Err(Error::usage(format!(
                "{op} is not defined in {dtype}; it is in {}",
                names(op.op().dtypes())
            )));
        }
        op.op().check(&shape, dtype)?;
        for tensor in op.op().tensors(&shape, dtype) {
            let count = tensor.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            if count.is_none_or(|n| n > ELEMENTS_MAX) {
                return Err(Error::usage(format!(
                    "{op} tensor {:?} of {} elements is too large: at most {ELEMENTS_MAX} can be indexed",
                    tensor.name,
                    tensor
                        .dims
                        .iter()
                        .map(u64::to_string)
                        .collect::<Vec<_>>()
                        .join(" x ")
                )));
            }
        }
        Ok(Self { op, shape, dtype })
    }

    /// The name that carries the whole case, such as `matmul/m1024_n1024_k1024/f32`.
    #[must_use]
    pub fn id(&self) -> String {
        let parts: Vec<String> = self
            .op
            .op()
            .dims()
            .iter()
            .filter_map(|dim| match self.shape.get(dim.name) {
                size if dim.quiet && dim.default == Some(size) => None,
                _ if dim.flag => Some(dim.name.to_owned()),
                size => Some(format!("{}{size}", dim.short)),
            })
            .collect();
        format!("{}/{}/{}", self.op, parts.join("_"), self.dtype)
    }

    /// The tensors of this case, inputs first.
    #[must_use]
    pub fn tensors(&self) -> Vec<Tensor> {
        self.op.op().tensors(&self.shape, self.dtype)
    }

    /// Bytes of all tensors together.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors().iter().map(Tensor::size_bytes).sum()
    }

    /// The output tensor.
    #[must_use]
    pub fn output(&self) -> Tensor {
        self.tensors()
            .pop()
            .unwrap_or_else(|| unreachable!("every op has an output"))
    }

    /// The regime that the inputs are really in when `data` is asked for.
    #[must_use]
    pub fn data_label(&self, data: &Data) -> &'static str {
        self.tensors()
            .first()
            .map_or(data.label(), |tensor| tensor.data(data).label())
    }

    /// The words of the uniform block every kernel of this case is given.
    #[must_use]
    pub fn params(&self) -> Vec<u32> {
        self.op.op().params(&self.shape, self.dtype)
    }

    /// Arithmetic operations of one call, on floating-point numbers or integers.
    #[must_use]
    pub fn flop_count(&self) -> u64 {
        self.op.op().flop_count(&self.shape)
    }

    /// The least bytes one call must move.
    #[must_use]
    pub fn bytes_min(&self) -> u64 {
        self.op.op().bytes_min(&self.shape, self.dtype)
    }
}

/// Whether a tensor is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read by the op.
    Input,
    /// Written by the op.
    Output,
}

/// One tensor of an op at a shape, dense and row-major.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in files and messages; its place in [`Op::tensors`] is its hash number and binding.
    pub name: &'static str,
    /// Read or written.
    pub role: Role,
    /// Sizes, slowest first.
    pub dims: Vec<u64>,
    /// How its elements lie in memory.
    pub element: Element,
    /// Power of two that uniform values are multiplied by.
    pub scale: f32,
    /// The type whose uniform values are drawn: the tensor's own, unless products with it have to be
    /// exact in a type as short as its own.
    pub drawn: Element,
    /// A regime this tensor keeps whatever the case asks for (probes that must stay exact).
    pub always: Option<Data>,
}

impl Tensor {
    fn input(name: &'static str, dims: &[u64], element: Element) -> Self {
        Self {
            name,
            role: Role::Input,
            dims: dims.to_vec(),
            element,
            scale: 1.0,
            drawn: element,
            always: None,
        }
    }

    fn output(name: &'static str, dims: &[u64], element: Element) -> Self {
        Self {
            role: Role::Output,
            ..Self::input(name, dims, element)
        }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Bytes of its elements, without the padding to whole words.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.element.bytes(self.len())
    }

    /// Whether there are no elements; never so in a checked case.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of this tensor, which is number `number` of its case; `None` where they come from
    /// the user's files.
    #[must_use]
    pub fn values(&self, data: &Data, seed: u32, number: u32) -> Option<Values> {
        Values::generated(self.data(data), seed, number, self.scale, self.drawn)
    }

    /// Whether values of the user's can be those of this tensor: numbers of a permutation stand for
    /// places, and there are only so many.
    ///
    /// # Errors
    /// A usage error that names the element and what it must be.
    pub fn check(&self, values: &[f32]) -> Result<()> {
        let Some(Data::Permutation(count)) = self.always else {
            return Ok(());
        };
        #[allow(clippy::cast_precision_loss)] // below 2^24
        let is_place = |value: f32| value.fract() == 0.0 && (0.0..count as f32).contains(&value);
        match values.iter().position(|&value| !is_place(value)) {
            None => Ok(()),
            Some(at) => Err(Error::usage(format!(
                "element {at} of {} is {}; it must be a whole number from 0 to {}",
                self.name,
                values[at],
                count - 1
            ))),
        }
    }

    /// The regime this tensor is filled in when the case asks for `data`.
    #[must_use]
    pub fn data<'a>(&'a self, data: &'a Data) -> &'a Data {
        match (&self.always, data) {
            (Some(always), Data::Uniform | Data::Integer | Data::Zero) => always,
            _ => data,
        }
    }
}

/// What the reference expects at one position, and how far a right result may be from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The value in f64 on the very inputs.
    pub value: f64,
    /// Largest absolute difference that rounding can explain; zero demands equality.
    pub bound: f64,
}

/// What an output is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The sizes.
    pub shape: &'a Shape,
    /// The arithmetic.
    pub dtype: Dtype,
    /// The very inputs, in binding order.
    pub inputs: &'a [Values],
    /// Whether they are integers, and the op exact on those.
    pub exact: bool,
}

/// The right value of the output element at an index.
pub type Elements<'a> = Box<dyn Fn(u64) -> f64 + Send + Sync + 'a>;

/// Only this value is right.
fn exactly(value: f64) -> Expected {
    Expected { value, bound: 0.0 }
}

/// One mathematical operation.
pub trait Op: Sync {
    /// Its dimensions in the order of the case id.
    fn dims(&self) -> &'static [Dim];

    /// The dtypes it is defined in, the most usual first.
    fn dtypes(&self) -> &'static [Dtype] {
        &[Dtype::F32]
    }

    /// What [`Case::new`] cannot know: how dimensions must relate.
    ///
    /// # Errors
    /// A usage error that names the dimensions and the rule.
    fn check(&self, _shape: &Shape, _dtype: Dtype) -> Result<()> {
        Ok(())
    }

    /// Inputs in binding order, then the one output.
    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor>;

    /// The words of the uniform block every kernel of this op is given.
    fn params(&self, shape: &Shape, dtype: Dtype) -> Vec<u32>;

    /// A derived size that kernels' grids may be laid over, beside the dimensions themselves.
    fn extent(&self, shape: &Shape, name: &str) -> u64 {
        shape.get(name)
    }

    /// The dimension that is summed over, where there is one: it has no part in what is written.
    fn summed(&self) -> Option<&'static str> {
        None
    }

    /// Operations of one call on floating-point numbers or integers, a multiply-add counted as two,
    /// padding not counted.
    fn flop_count(&self, shape: &Shape) -> u64;

    /// Each input read once and the output written once.
    fn bytes_min(&self, shape: &Shape, dtype: Dtype) -> u64 {
        self.tensors(shape, dtype)
            .iter()
            .map(Tensor::size_bytes)
            .sum()
    }

    /// The output seen as a matrix: rows and columns.
    fn output_rows(&self, shape: &Shape) -> (u64, u64);

    /// Multiply-adds that the reference of one output element costs, to size a sample.
    fn reference_cost(&self, _shape: &Shape) -> u64 {
        1
    }

    /// Whether the reference of one element costs as much as that of its whole row.
    fn reference_is_by_row(&self) -> bool {
        false
    }

    /// How many rows of the output a projection can afford to check; all of them if it is cheap.
    fn projected_rows(&self, shape: &Shape) -> u64 {
        self.output_rows(shape).0
    }

    /// Whether integer inputs make every right result bit-exact at this shape.
    fn exact(&self, _shape: &Shape, _dtype: Dtype) -> bool {
        true
    }

    /// The one right value of each output element, for operations that are exact on any inputs. The
    /// others say what they expect in [`Op::reference`] and [`Op::project`].
    fn elements<'a>(&self, _given: Given<'a>) -> Elements<'a> {
        Box::new(|_| f64::NAN)
    }

    /// What is expected at `positions` of the row-major output.
    fn reference(&self, given: Given<'_>, positions: &[u64]) -> Vec<Expected> {
        let element = self.elements(given);
        positions
            .iter()
            .map(|&index| exactly(element(index)))
            .collect()
    }

    /// For each of `rows`: the sum over its columns of output times sign, where `signs` has one
    /// entry (plus or minus one) per column. The last row may be short.
    fn project(&self, given: Given<'_>, signs: &[f64], rows: &[u64]) -> Vec<Expected> {
        let len = self
            .tensors(given.shape, given.dtype)
            .last()
            .map_or(0, Tensor::len);
        let (_, columns) = self.output_rows(given.shape);
        let element = self.elements(given);
        rows.par_iter()
            .map(|row| {
                let start = row * columns;
                let end = (start + columns).min(len);
                let (sum, _) = dot((start..end)
                    .zip(signs)
                    .map(|(index, &sign)| (element(index), sign)));
                exactly(sum)
            })
            .collect()
    }

    /// The shape with twice the work on the same tensors, for a probe whose work could be left out by
    /// a compiler that sees through it: if so, time does not grow. `None` where there is none; whether
    /// the shape is allowed is for [`Case::new`] to say.
    fn doubled(&self, shape: &Shape) -> Option<Shape> {
        let steps = shape.0.get("steps")?.checked_mul(2)?;
        Some(shape.with("steps", steps))
    }

    /// A smaller shape of the same kind, to look at slow variants before the full size; `None`
    /// where no smaller one is representative.
    fn shrink(&self, _shape: &Shape) -> Option<Shape> {
        None
    }
}

/// Narrows a size that [`Case::new`] has checked to 32 bits.
pub(crate) fn word(size: u64) -> u32 {
    u32::try_from(size).unwrap_or_else(|_| unreachable!("sizes were checked to fit 32 bits"))
}

/// Rounding errors that add at random grow with the square root of their number (Higham and Mary
/// 2019). The factor of four is a choice: tight enough to see an accumulator that is too short, and
/// several times what right kernels need. For short sums the certain bound `n` is smaller.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn sum_error_factor(count: u64) -> f64 {
    let n = count as f64;
    (4.0 * n.sqrt()).min(n) + 2.0
}

/// How far a sum of `count` errors with random signs may be from zero, in units of the root of the
/// sum of their squares. By Hoeffding's inequality six of those are passed once in thirty million;
/// for a few errors the certain bound, the root of their number, is smaller.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn signed_sum_factor(count: u64) -> f64 {
    (count as f64).sqrt().min(6.0)
}

/// Widens bounds by what rounding every element to this type may change. Of a row sum that is a random
/// walk: its steps are at most the roundoff, on average four tenths of it, times the elements, whose
/// typical size the single ones show. Nine of those roundoffs are 22 standard deviations, which
/// leaves room for rows four times as long as others.
pub(crate) fn allow_rounding(
    output: Element,
    elements: &mut [Expected],
    rows: &mut [Expected],
    columns: u64,
) {
    let (roundoff, tiny) = output.roundoff();
    #[allow(clippy::cast_precision_loss)] // counts
    let (count, columns) = (elements.len().max(1) as f64, columns as f64);
    let squares: f64 = elements.iter().map(|e| e.value * e.value).sum();
    for element in elements.iter_mut() {
        element.bound += roundoff * element.value.abs() + tiny;
    }
    let walk = 9.0 * (roundoff * (squares / count).sqrt() + tiny) * columns.sqrt();
    for row in rows {
        row.bound += walk;
    }
}

/// Two-vector dot products in f64: the sum and the sum of magnitudes.
pub(crate) fn dot(pairs: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    pairs.fold((0.0, 0.0), |(sum, magnitude), (a, b)| {
        (sum + a * b, magnitude + (a * b).abs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_id_carries_every_dimension_and_bare_flags() {
        let matmul = Case::new(
            OpName::Matmul,
            &Shape::of(&[("m", 1), ("n", 2), ("k", 3)]),
            Dtype::F32,
        );
        assert_eq!(matmul.map(|c| c.id()).as_deref(), Ok("matmul/m1_n2_k3/f32"));
        let sizes = [
            ("heads", 32),
            ("kv_heads", 8),
            ("query_len", 5),
            ("kv_len", 7),
            ("head_dim", 128),
        ];
        let full = Shape::of(&sizes);
        let id = |shape: &Shape| Case::new(OpName::Attention, shape, Dtype::F32).map(|c| c.id());
        assert_eq!(
            id(&full).as_deref(),
            Ok("attention/b1_h32_kv8_q5_l7_d128/f32")
        );
        assert_eq!(
            id(&full.with("causal", 1)).as_deref(),
            Ok("attention/b1_h32_kv8_q5_l7_d128_causal/f32")
        );
        assert_eq!(
            id(&full.with("page", 16)).as_deref(),
            Ok("attention/b1_h32_kv8_q5_l7_d128_page16/f32")
        );
    }

    #[test]
    fn a_shape_without_an_optional_dimension_is_the_same_as_one_with_none_of_it() {
        let sizes = [("query_len", 5), ("kv_len", 7), ("head_dim", 8)];
        let case = |shape: &Shape| Case::new(OpName::Attention, shape, Dtype::F32).unwrap();
        let without = case(&Shape::of(&sizes));
        assert_eq!(without, case(&Shape::of(&sizes).with("page", 0)));
        assert!(!without.shape.0.contains_key("page"));
    }

    #[test]
    fn impossible_shapes_are_refused_by_dimension_and_rule() {
        let refuse = |op: OpName, sizes: &[(&str, u64)]| match Case::new(
            op,
            &Shape::of(sizes),
            Dtype::F32,
        ) {
            Err(error) => error.message,
            Ok(case) => panic!("{} was accepted", case.id()),
        };
        assert!(
            refuse(OpName::Matmul, &[("m", 0), ("n", 1), ("k", 1)]).contains("m must be from 1")
        );
        assert!(
            refuse(OpName::Matmul, &[("m", 1), ("n", 1)]).contains("needs the dimension \"k\"")
        );
        assert!(
            refuse(OpName::Matmul, &[("m", 1), ("n", 1), ("k", 1), ("z", 1)])
                .contains("no dimension \"z\"")
        );
        assert!(
            refuse(OpName::Matmul, &[("m", 4_000_000_000), ("n", 2), ("k", 1)])
                .contains("too large")
        );
        assert!(
            refuse(
                OpName::Attention,
                &[
                    ("heads", 3),
                    ("kv_heads", 2),
                    ("query_len", 1),
                    ("kv_len", 1),
                    ("head_dim", 8)
                ]
            )
            .contains("multiple of kv_heads")
        );
    }
}
