//! The host runner: cases on the CPU itself, on all its cores, with no driver in between.
//!
//! It gives every report a line that anyone can reproduce without a GPU, and its probes give that
//! line a ceiling: they go through the same vector instructions as the matrix product.

mod memory;

use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use gemm::Parallelism;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::input::{Data, Element, Values};
use crate::machine;
use crate::npy;
use crate::op::probe::FMA_CHAINS;
use crate::op::{Case, Dtype, OpName, Role, Shape, Tensor};
use crate::protocol::{
    Device, FaultKind, PROTOCOL_VERSION, Request, Response, Runner, RunnerInfo, Span, Timer,
    Tunables, Variant,
};
use crate::runner::{error, no_set, outputs};
use crate::variant;

/// Executes cases on the CPU.
#[derive(Default)]
pub struct HostRunner {
    open: Option<Open>,
}

/// What there is after `hello`.
struct Open {
    memory_bytes_budget: u64,
    loaded: Option<Loaded>,
}

/// What there is after `case`.
struct Loaded {
    case: Case,
    /// Inputs and output, as often as successive calls are to take them by turns.
    sets: Vec<Set>,
    /// The set that the next call takes.
    turn: usize,
    prepared: Option<Prepared>,
}

/// The tensors of one case.
struct Set {
    inputs: Vec<Vec<f32>>,
    output: Vec<f32>,
}

/// A kernel with its tunables fixed, in the order in which the kernel lists them.
struct Prepared {
    run: Run,
    values: Vec<usize>,
}

/// Computes an op of this shape with these tunables from the inputs into the output.
type Run = fn(&Shape, &[usize], &[Vec<f32>], &mut [f32]);

/// One implementation of an op.
struct Kernel {
    name: &'static str,
    op: OpName,
    /// Names and values, the preferred value first.
    tunables: &'static [(&'static str, &'static [u32])],
    run: Run,
}

const KERNELS: [Kernel; 8] = [
    Kernel {
        name: "matmul/gemm",
        op: OpName::Matmul,
        tunables: &[],
        run: matmul,
    },
    Kernel {
        name: "attention/gemm",
        op: OpName::Attention,
        tunables: &[
            ("QUERY_BLOCK", &[128, 64, 256]),
            ("KEY_BLOCK", &[512, 256, 1024]),
        ],
        run: attention,
    },
    Kernel {
        name: "probe/fma_f32",
        op: OpName::Fma,
        tunables: &[("ACCUMULATORS", &[12, 8, 24])],
        run: fma,
    },
    Kernel {
        name: "probe/copy",
        op: OpName::Copy,
        tunables: &[("PIECES", &[1, 16])],
        run: copy,
    },
    Kernel {
        name: "probe/read",
        op: OpName::Read,
        tunables: &[("PIECES", &[1, 16])],
        run: memory::read,
    },
    Kernel {
        name: "probe/write",
        op: OpName::Write,
        tunables: &[("PIECES", &[1, 16])],
        run: memory::write,
    },
    Kernel {
        name: "probe/triad",
        op: OpName::Triad,
        tunables: &[("PIECES", &[1, 16])],
        run: memory::triad,
    },
    Kernel {
        name: "probe/chase",
        op: OpName::Chase,
        tunables: &[],
        run: memory::chase,
    },
];

/// Why a request is not carried out.
#[derive(Debug)]
struct Refusal {
    kind: FaultKind,
    message: String,
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        error(refusal.kind, refusal.message)
    }
}

fn refuse(kind: FaultKind, message: impl Into<String>) -> Refusal {
    Refusal {
        kind,
        message: message.into(),
    }
}

impl Kernel {
    /// Every combination of the tunables, the preferred one first.
    fn variants(&self) -> Vec<Variant> {
        variant::product(self.tunables.iter().copied())
            .into_iter()
            .map(|tunables| Variant {
                kernel: self.name.to_owned(),
                variant: tunables,
            })
            .collect()
    }

    /// Fixes the tunables; one that is left out has its preferred value.
    fn prepare(&self, tunables: &Tunables) -> Result<Prepared, Refusal> {
        let invalid = |message| refuse(FaultKind::Validation, message);
        if let Some(unknown) = tunables
            .keys()
            .find(|name| !self.tunables.iter().any(|(known, _)| known == name))
        {
            return Err(invalid(format!("{} has no tunable {unknown:?}", self.name)));
        }
        let mut fixed = Vec::new();
        for (name, values) in self.tunables {
            let value = tunables.get(*name).copied().unwrap_or(values[0]);
            if !values.contains(&value) {
                return Err(invalid(format!(
                    "{} knows {name} {values:?}, not {value}",
                    self.name
                )));
            }
            fixed.push(value as usize);
        }
        Ok(Prepared {
            run: self.run,
            values: fixed,
        })
    }
}

impl Open {
    fn new() -> (Self, Device) {
        let name = Some(machine::cpu_name())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "CPU".to_owned());
        // Where nothing is known, allocation itself is left to say no.
        let memory_bytes_budget = Some(machine::memory_bytes())
            .filter(|&bytes| bytes > 0)
            .map_or(u64::MAX, |bytes| bytes / 2);
        let device = Device {
            name,
            backend: "cpu".to_owned(),
            driver: format!("gemm 0.19, pulp 0.22: {}", instruction_set()),
            device_type: "cpu".to_owned(),
            runner: "host".to_owned(),
            limits: [
                ("thread_count".to_owned(), thread_count() as u64),
                ("memory_bytes_budget".to_owned(), memory_bytes_budget),
            ]
            .into(),
            features: features(),
            ..Device::default()
        };
        (
            Self {
                memory_bytes_budget,
                loaded: None,
            },
            device,
        )
    }

    fn load(
        &mut self,
        case: Case,
        seed: u32,
        data: &Data,
        set_count: u32,
    ) -> Result<Response, Refusal> {
        // Both cases together may not fit, and a refused case leaves none behind.
        self.loaded = None;
        let missing = match case.op {
            OpName::Empty | OpName::Chain | OpName::RoundTrip => {
                Some("the host has no launch to measure")
            }
            OpName::Upload | OpName::Readback => Some("the host has no link to itself to measure"),
            _ => None,
        };
        if let Some(message) = missing {
            return Err(refuse(FaultKind::Unsupported, message));
        }
        if case.dtype != Dtype::F32 {
            return Err(refuse(
                FaultKind::Unsupported,
                format!("the host computes in f32, not in {}", case.dtype),
            ));
        }
        let needed = case
            .tensor_bytes()
            .saturating_mul(u64::from(set_count.max(1)));
        let budget = self.memory_bytes_budget;
        if needed > budget {
            return Err(refuse(
                FaultKind::OutOfMemory,
                format!("the tensors need {needed} bytes; the memory budget is {budget}"),
            ));
        }
        let mut sets = Vec::new();
        for _ in 0..set_count.max(1) {
            let mut inputs = Vec::new();
            for (number, tensor) in (0u32..).zip(&case.tensors()) {
                if tensor.role == Role::Input {
                    inputs.push(input(tensor, number, seed, data)?);
                }
            }
            let output = filled(&case.output(), |_| {}, |_| poison())?;
            sets.push(Set { inputs, output });
        }
        let variants = KERNELS
            .iter()
            .filter(|k| k.op == case.op)
            .flat_map(Kernel::variants)
            .collect();
        self.loaded = Some(Loaded {
            case,
            sets,
            turn: 0,
            prepared: None,
        });
        Ok(Response::Variants {
            variants,
            refused: Vec::new(),
            set_count: set_count.max(1),
        })
    }

    fn loaded(&mut self) -> Result<&mut Loaded, Refusal> {
        self.loaded
            .as_mut()
            .ok_or_else(|| refuse(FaultKind::Input, "there is no case yet"))
    }
}

impl Loaded {
    fn prepare(&mut self, variant: &Variant) -> Result<Response, Refusal> {
        self.prepared = None;
        let kernel = KERNELS
            .iter()
            .find(|kernel| kernel.op == self.case.op && kernel.name == variant.kernel)
            .ok_or_else(|| {
                let message = format!("there is no {} kernel {:?}", self.case.op, variant.kernel);
                refuse(FaultKind::Validation, message)
            })?;
        let prepared = kernel.prepare(&variant.variant)?;
        self.poison();
        let started = Instant::now();
        self.call(&prepared);
        let first_call_s = started.elapsed().as_secs_f64();
        self.prepared = Some(prepared);
        Ok(Response::Ready {
            compile_s: 0.0,
            first_call_s,
            shader_sha256: None,
            engine: "alu".to_owned(),
            passes: Vec::new(),
            clock: None,
            output: None,
        })
    }

    fn measure(
        &mut self,
        repeat_count: u32,
        sample_count: u32,
        poison: bool,
    ) -> Result<Response, Refusal> {
        if poison {
            self.poison();
        }
        let Some(prepared) = self.prepared.take() else {
            return Err(refuse(FaultKind::Input, "no variant is prepared"));
        };
        let samples = (0..sample_count)
            .map(|_| {
                let started = Instant::now();
                for _ in 0..repeat_count {
                    self.call(&prepared);
                }
                Span {
                    device_s: None,
                    host_s: started.elapsed().as_secs_f64(),
                    submit_s: None,
                    repeat_count,
                }
            })
            .collect();
        self.prepared = Some(prepared);
        Ok(Response::Samples { samples })
    }

    fn call(&mut self, prepared: &Prepared) {
        let turn = self.turn;
        self.turn = (turn + 1) % self.sets.len();
        let set = &mut self.sets[turn];
        (prepared.run)(
            &self.case.shape,
            &prepared.values,
            &set.inputs,
            &mut set.output,
        );
        // Without this, a call whose output is overwritten by the next could be left out.
        black_box(&mut set.output);
    }

    /// Overwrites the output, so that an element nobody writes shows.
    fn poison(&mut self) {
        for set in &mut self.sets {
            let piece = share(set.output.len(), 1);
            set.output
                .par_chunks_mut(piece)
                .for_each(|piece| piece.fill(poison()));
        }
    }
}

impl Runner for HostRunner {
    fn handle(&mut self, request: Request) -> Response {
        let result = match (request, &mut self.open) {
            (Request::Hello { protocol, .. }, _) if protocol != PROTOCOL_VERSION => Err(refuse(
                FaultKind::Unsupported,
                format!("this runner speaks protocol {PROTOCOL_VERSION}, not {protocol}"),
            )),
            // There is one host, so there is nothing to select.
            (Request::Hello { .. }, _) => {
                let (open, device) = Open::new();
                self.open = Some(open);
                Ok(hello(device))
            }
            (Request::Bye, _) => Ok(Response::Bye),
            (_, None) => Err(refuse(FaultKind::Input, "say hello first")),
            (
                Request::Case {
                    case,
                    seed,
                    data,
                    set_count,
                },
                Some(open),
            ) => match Case::new(case.op, &case.shape, case.dtype) {
                Err(refused) => Err(refuse(FaultKind::Input, refused.message)),
                Ok(case) => open.load(case, seed, &data, set_count),
            },
            (Request::Prepare { variant }, Some(open)) => {
                open.loaded().and_then(|loaded| loaded.prepare(&variant))
            }
            (
                Request::Measure {
                    repeat_count,
                    sample_count,
                    poison,
                },
                Some(open),
            ) => open
                .loaded()
                .and_then(|loaded| loaded.measure(repeat_count, sample_count, poison)),
            (
                Request::Outputs {
                    positions,
                    projection_seed,
                    all,
                    set_index,
                },
                Some(open),
            ) => open
                .loaded()
                .map(|loaded| match loaded.sets.get(set_index as usize) {
                    Some(set) => outputs(
                        &loaded.case,
                        set.output.len() as u64,
                        |index| f64::from(set.output[index]),
                        &positions,
                        projection_seed,
                        all,
                    ),
                    None => no_set(set_index, loaded.sets.len()),
                }),
        };
        result.unwrap_or_else(Response::from)
    }
}

fn hello(device: Device) -> Response {
    Response::Hello {
        protocol: PROTOCOL_VERSION,
        runner: RunnerInfo {
            name: "host".to_owned(),
            version: format!("{} (gemm 0.19)", env!("CARGO_PKG_VERSION")),
        },
        device: Box::new(device),
        timer: Timer {
            clock: "host".to_owned(),
            quantum_s: machine::clock_quantum_s(),
            period_s: None,
            note: Some("the host is the device".to_owned()),
        },
    }
}

/// What an output holds before anything is written.
fn poison() -> f32 {
    f32::from_bits(Element::F32.poison())
}

fn thread_count() -> usize {
    rayon::current_num_threads()
}

/// Length of the pieces when every thread is to get `pieces` of `len` elements.
fn share(len: usize, pieces: usize) -> usize {
    len.div_ceil(thread_count() * pieces).max(1)
}

/// How many f32 fit the vectors that the kernels use.
fn lane_count() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        fn with_simd<S: Simd>(self, _simd: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// The instruction set that the kernels use, which may be less than the CPU has.
fn instruction_set() -> &'static str {
    let x86 = cfg!(any(target_arch = "x86", target_arch = "x86_64"));
    match lane_count() {
        16 if x86 => "x86-64 v4 (avx512)",
        8 if x86 => "x86-64 v3 (avx2, fma)",
        4 if cfg!(target_arch = "aarch64") => "neon",
        1 => "scalar",
        _ => "simd",
    }
}

/// The vector extensions of the CPU that matter to arithmetic in f32.
fn features() -> Vec<String> {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [("neon", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let known: [(&str, bool); 0] = [];
    known
        .iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

/// Makes input tensor `number`.
fn input(tensor: &Tensor, number: u32, seed: u32, data: &Data) -> Result<Vec<f32>, Refusal> {
    let data = tensor.data(data);
    if let Data::Files(files) = data {
        let path = files.get(tensor.name).ok_or_else(|| {
            refuse(
                FaultKind::Input,
                format!("no file was given for tensor {:?}", tensor.name),
            )
        })?;
        return npy::read(path, &tensor.dims)
            .map_err(|refused| refuse(FaultKind::Input, refused.message));
    }
    match tensor.values(data, seed, number) {
        Some(Values::Cycle(cycle)) => memory::links(tensor, cycle),
        values => {
            let values = values.unwrap_or(Values::Zero);
            filled(tensor, |_| {}, |index| values.get(index))
        }
    }
}

/// A tensor made in parallel, so that each page is first touched by a thread that may use it;
/// `advise` is shown the memory before that.
fn filled(
    tensor: &Tensor,
    advise: impl FnOnce(&mut Vec<f32>),
    value: impl Fn(u64) -> f32 + Sync,
) -> Result<Vec<f32>, Refusal> {
    let len = usize::try_from(tensor.len()).unwrap_or(usize::MAX);
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|cause| {
        let bytes = tensor.len() * 4;
        refuse(
            FaultKind::OutOfMemory,
            format!(
                "tensor {} of {bytes} bytes cannot be allocated: {cause}",
                tensor.name
            ),
        )
    })?;
    advise(&mut values);
    (0..len)
        .into_par_iter()
        .map(|index| value(index as u64))
        .collect_into_vec(&mut values);
    Ok(values)
}

/// The size called `name`. A tensor of that size is in memory, so it can be counted.
fn size(shape: &Shape, name: &str) -> usize {
    usize::try_from(shape.get(name)).unwrap_or(usize::MAX)
}

/// A matrix that lies in a slice: element `(i, j)` at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    fn row_major(data: &'a [f32], columns: usize) -> Self {
        Self {
            data,
            row_stride: columns,
            column_stride: 1,
        }
    }

    fn transposed(self) -> Self {
        Self {
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Whether a matrix of this size lies within the slice.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows > 0
            && columns > 0
            && (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// `c = scale a b`, or `c += scale a b`, with a dense row-major `c` of `columns` columns.
#[allow(unsafe_code)]
fn product(
    c: &mut [f32],
    columns: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    add: bool,
    parallelism: Parallelism,
) {
    let rows = c.len() / columns;
    // Of the two, only `a` knows how deep the sum is: its rows are dense wherever this is called.
    let depth = a.row_stride;
    assert_eq!(c.len(), rows * columns, "the result is not a whole matrix");
    assert!(
        a.holds(rows, depth) && b.holds(depth, columns),
        "an operand is too short"
    );
    // SAFETY: every element gemm reads of `a` and `b` and writes of `c` is inside its slice, as
    // checked above; `c` is borrowed mutably, so it overlaps neither; all three are f32, which
    // any bit pattern is, and strides of slices that exist fit an isize.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            c.as_mut_ptr(),
            1,
            columns.cast_signed(),
            add,
            a.data.as_ptr(),
            a.column_stride.cast_signed(),
            a.row_stride.cast_signed(),
            b.data.as_ptr(),
            b.column_stride.cast_signed(),
            b.row_stride.cast_signed(),
            if add { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Products one after the other, each on all threads: a batch is too rare a case here to tune.
fn matmul(shape: &Shape, _values: &[usize], inputs: &[Vec<f32>], output: &mut [f32]) {
    let (m, n, k) = (size(shape, "m"), size(shape, "n"), size(shape, "k"));
    for ((c, a), b) in output
        .chunks_mut(m * n)
        .zip(inputs[0].chunks(m * k))
        .zip(inputs[1].chunks(k * n))
    {
        let a = Matrix::row_major(a, k);
        let b = match shape.get("trans_b") {
            1 => Matrix::row_major(b, k).transposed(),
            _ => Matrix::row_major(b, n),
        };
        product(c, n, a, b, 1.0, false, Parallelism::Rayon(0));
    }
}

/// Attention as products of blocks, with the softmax carried along the keys: a block of scores
/// stays in cache between the product that makes it and the one that uses it.
///
/// The query heads that share a key-value head lie next to one another, so together they are one
/// matrix of queries; blocks are cut from that, and few queries per head still make a product.
fn attention(shape: &Shape, values: &[usize], inputs: &[Vec<f32>], output: &mut [f32]) {
    let (heads, kv_heads) = (size(shape, "heads"), size(shape, "kv_heads"));
    let (query_len, head_dim) = (size(shape, "query_len"), size(shape, "head_dim"));
    let (query_block, key_block) = (values[0], values[1]);
    let sizes = Sizes {
        query_len,
        kv_len: size(shape, "kv_len"),
        head_dim,
        causal: shape.get("causal") == 1,
        key_block,
    };
    let rows = heads / kv_heads * query_len;
    let mut blocks: Vec<Block<'_>> = output
        .chunks_mut(rows * head_dim)
        .zip(inputs[0].chunks(rows * head_dim))
        .enumerate()
        .flat_map(|(kv_head, (output, queries))| {
            let kv = kv_head * sizes.kv_len * head_dim..(kv_head + 1) * sizes.kv_len * head_dim;
            let (keys, values) = (&inputs[1][kv.clone()], &inputs[2][kv]);
            output
                .chunks_mut(query_block * head_dim)
                .zip(queries.chunks(query_block * head_dim))
                .enumerate()
                .map(move |(block, (output, queries))| Block {
                    output,
                    queries,
                    keys,
                    values,
                    first_row: block * query_block,
                })
        })
        .collect();
    if blocks.len() >= thread_count() {
        blocks
            .par_iter_mut()
            .with_max_len(1)
            .for_each(|b| b.attend(&sizes, Parallelism::None));
    } else {
        blocks
            .iter_mut()
            .for_each(|block| block.attend(&sizes, Parallelism::Rayon(0)));
    }
}

/// What all blocks of one attention have in common.
struct Sizes {
    query_len: usize,
    kv_len: usize,
    head_dim: usize,
    causal: bool,
    /// Keys whose scores are held at a time.
    key_block: usize,
}

impl Sizes {
    /// How many keys the query in this row of the queries of a key-value head sees.
    fn visible(&self, row: usize) -> usize {
        if self.causal {
            (row % self.query_len + 1 + self.kv_len).saturating_sub(self.query_len)
        } else {
            self.kv_len
        }
    }
}

/// Some rows of the queries that share a key-value head, and where their results go.
struct Block<'a> {
    output: &'a mut [f32],
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    first_row: usize,
}

thread_local! {
    /// Scores and the state of the softmax. It is taken out while in use, so that a thread that
    /// is lent to another block meanwhile makes its own instead of finding this one borrowed.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Up to so many rows, scores are made one row at a time; at 16 that is slower.
const FEW_ROWS: usize = 4;

impl Block<'_> {
    fn attend(&mut self, sizes: &Sizes, parallelism: Parallelism) {
        let arch = Arch::new();
        let d = sizes.head_dim;
        let rows = self.output.len() / d;
        #[allow(clippy::cast_precision_loss)] // head dimensions are small
        let scale = 1.0 / (d as f32).sqrt();
        // Keys that no row of the block sees are never looked at.
        let row_range = self.first_row..self.first_row + rows;
        let seen = row_range.map(|row| sizes.visible(row)).max().unwrap_or(0);
        let mut scratch = SCRATCH.take();
        scratch.resize(rows * (sizes.key_block.min(seen) + 2), 0.0);
        let (maxima, rest) = scratch.split_at_mut(rows);
        let (totals, scores) = rest.split_at_mut(rows);
        maxima.fill(f32::NEG_INFINITY);
        totals.fill(0.0);

        for first_key in (0..seen).step_by(sizes.key_block) {
            let width = sizes.key_block.min(seen - first_key);
            let keys = first_key * d..(first_key + width) * d;
            let scores = &mut scores[..rows * width];
            let transposed_keys = Matrix::row_major(&self.keys[keys.clone()], d).transposed();
            // For few rows, a product would spend more on rearranging the keys than on using them.
            let rows_at_once = if rows <= FEW_ROWS { 1 } else { rows };
            for (scores, queries) in scores
                .chunks_mut(rows_at_once * width)
                .zip(self.queries.chunks(rows_at_once * d))
            {
                let queries = Matrix::row_major(queries, d);
                product(
                    scores,
                    width,
                    queries,
                    transposed_keys,
                    scale,
                    false,
                    parallelism,
                );
            }
            arch.dispatch(Weigh {
                scores: &mut *scores,
                output: self.output,
                maxima,
                totals,
                sizes,
                first_row: self.first_row,
                first_key,
                width,
            });
            let weights = Matrix::row_major(scores, width);
            let values = Matrix::row_major(&self.values[keys], d);
            product(
                self.output,
                d,
                weights,
                values,
                1.0,
                first_key > 0,
                parallelism,
            );
        }
        for (row, &total) in self.output.chunks_mut(d).zip(&*totals) {
            if total > 0.0 {
                let factor = 1.0 / total;
                row.iter_mut().for_each(|value| *value *= factor);
            } else {
                row.fill(0.0);
            }
        }
        SCRATCH.set(scratch);
    }
}

/// Turns a block of scores into weights relative to the largest score of each row so far, and
/// brings what was summed up before to the same scale.
struct Weigh<'a> {
    scores: &'a mut [f32],
    output: &'a mut [f32],
    maxima: &'a mut [f32],
    totals: &'a mut [f32],
    sizes: &'a Sizes,
    first_row: usize,
    first_key: usize,
    width: usize,
}

impl WithSimd for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let state = self.maxima.iter_mut().zip(self.totals);
        let rows = self
            .scores
            .chunks_mut(self.width)
            .zip(self.output.chunks_mut(self.sizes.head_dim));
        for (row, ((scores, output), (maximum, total))) in (self.first_row..).zip(rows.zip(state)) {
            let visible = self
                .sizes
                .visible(row)
                .saturating_sub(self.first_key)
                .min(self.width);
            let (scores, masked) = scores.split_at_mut(visible);
            masked.fill(0.0);
            if scores.is_empty() {
                continue;
            }
            let larger = maximum.max(largest(simd, scores));
            // The first time this is exp(-inf), and the output holds nothing yet.
            let correction = (*maximum - larger).exp();
            if self.first_key > 0 {
                output.iter_mut().for_each(|value| *value *= correction);
            }
            *total = *total * correction + weigh(simd, scores, larger);
            *maximum = larger;
        }
    }
}

/// Vectors that one turn of a reduction keeps apart, so that it need not wait for itself.
const REDUCTION_WIDTH: usize = 4;

#[inline(always)]
fn largest<S: Simd>(simd: S, scores: &[f32]) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(scores);
    let (turns, odd) = vectors.as_chunks::<REDUCTION_WIDTH>();
    let mut parts = [simd.splat_f32s(f32::NEG_INFINITY); REDUCTION_WIDTH];
    for turn in turns {
        for (part, &vector) in parts.iter_mut().zip(turn) {
            *part = simd.max_f32s(*part, vector);
        }
    }
    for &vector in odd {
        parts[0] = simd.max_f32s(parts[0], vector);
    }
    let [a, b, c, d] = parts;
    let all = simd.max_f32s(simd.max_f32s(a, b), simd.max_f32s(c, d));
    rest.iter()
        .copied()
        .fold(simd.reduce_max_f32s(all), f32::max)
}

/// Replaces scores by `exp(score - largest)` and returns the sum of these.
#[inline(always)]
fn weigh<S: Simd>(simd: S, scores: &mut [f32], largest: f32) -> f32 {
    let largest = simd.splat_f32s(largest);
    let (vectors, rest) = S::as_mut_simd_f32s(scores);
    let mut sum = simd.splat_f32s(0.0);
    for vector in vectors {
        *vector = exp(simd, simd.sub_f32s(*vector, largest));
        sum = simd.add_f32s(sum, *vector);
    }
    let weights = exp(simd, simd.sub_f32s(simd.partial_load_f32s(rest), largest));
    simd.partial_store_f32s(rest, weights);
    simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}

/// `exp(x)` for `x <= 0`, to about one unit in the last place.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Below this the result would leave the normal numbers; as a weight it is nothing.
    const SMALLEST: f32 = -86.0;
    // Added to a small number, it leaves that number rounded to an integer in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0;
    // ln 2 in two parts, the first of few bits, so that its multiples are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Cephes' minimax polynomial for (exp(r) - 1 - r) / r^2 where |r| <= ln(2) / 2.
    const COEFFICIENTS: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let constant = |value: f32| simd.splat_f32s(value);
    let x = simd.max_f32s(x, constant(SMALLEST));
    let shifted = simd.mul_add_e_f32s(x, constant(std::f32::consts::LOG2_E), constant(ROUNDER));
    let n = simd.sub_f32s(shifted, constant(ROUNDER));
    let r = simd.mul_add_e_f32s(n, constant(-LN_2[0]), x);
    let r = simd.mul_add_e_f32s(n, constant(-LN_2[1]), r);
    let mut polynomial = constant(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = simd.mul_add_e_f32s(polynomial, r, constant(*coefficient));
    }
    let r_plus_one = simd.add_f32s(r, constant(1.0));
    let mantissa = simd.mul_add_e_f32s(polynomial, simd.mul_f32s(r, r), r_plus_one);
    // Times 2^n, by adding n to the exponent.
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(mantissa), exponent))
}

/// The arithmetic ceiling. Lanes are neighbouring invocations, and each works on `ACCUMULATORS`
/// chains at a time, because one chain would wait for its own result at every step.
fn fma(shape: &Shape, values: &[usize], inputs: &[Vec<f32>], output: &mut [f32]) {
    let steps = size(shape, "steps");
    // Several pieces per thread, so that a core that is held up does not hold up the others.
    let piece = share(output.len(), 4).next_multiple_of(lane_count());
    // A factor that the compiler knew to be one would be left out.
    let factor = black_box(1.0);
    let pieces = output
        .par_chunks_mut(piece)
        .zip(inputs[0].par_chunks(piece).zip(inputs[1].par_chunks(piece)));
    let arch = Arch::new();
    match values[0] {
        8 => pieces.for_each(|(out, (x, y))| {
            arch.dispatch(Chains::<8> {
                x,
                y,
                out,
                factor,
                steps,
            })
        }),
        12 => pieces.for_each(|(out, (x, y))| {
            arch.dispatch(Chains::<12> {
                x,
                y,
                out,
                factor,
                steps,
            })
        }),
        _ => pieces.for_each(|(out, (x, y))| {
            arch.dispatch(Chains::<24> {
                x,
                y,
                out,
                factor,
                steps,
            })
        }),
    }
}

struct Chains<'a, const ACCUMULATORS: usize> {
    x: &'a [f32],
    y: &'a [f32],
    out: &'a mut [f32],
    factor: f32,
    steps: usize,
}

impl<const ACCUMULATORS: usize> WithSimd for Chains<'_, ACCUMULATORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let factor = simd.splat_f32s(self.factor);
        let (x, x_rest) = S::as_simd_f32s(self.x);
        let (y, y_rest) = S::as_simd_f32s(self.y);
        let (out, out_rest) = S::as_mut_simd_f32s(self.out);
        for (out, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = chains::<S, ACCUMULATORS>(simd, x, y, factor, self.steps);
        }
        if !out_rest.is_empty() {
            let (x, y) = (
                simd.partial_load_f32s(x_rest),
                simd.partial_load_f32s(y_rest),
            );
            let sums = chains::<S, ACCUMULATORS>(simd, x, y, factor, self.steps);
            simd.partial_store_f32s(out_rest, sums);
        }
    }
}

#[inline(always)]
fn chains<S: Simd, const ACCUMULATORS: usize>(
    simd: S,
    x: S::f32s,
    y: S::f32s,
    factor: S::f32s,
    steps: usize,
) -> S::f32s {
    const { assert!(FMA_CHAINS.is_multiple_of(ACCUMULATORS as u64)) };
    #[allow(clippy::cast_precision_loss)] // chains are few
    let start = |chain: u64| simd.add_f32s(x, simd.splat_f32s(chain as f32));
    let mut sum = simd.splat_f32s(0.0);
    for first in (0..FMA_CHAINS).step_by(ACCUMULATORS) {
        let mut z = [x; ACCUMULATORS];
        for (chain, z) in (first..).zip(&mut z) {
            *z = start(chain);
        }
        for _ in 0..steps {
            for z in &mut z {
                // Fused where the CPU can; where not, the result is exact all the same.
                *z = simd.mul_add_e_f32s(factor, *z, y);
            }
        }
        for z in z {
            sum = simd.add_f32s(sum, z);
        }
    }
    sum
}

/// The memory ceiling. Each thread copies its share whole or in pieces: large copies go past the
/// caches, small ones share the work more evenly.
fn copy(_shape: &Shape, values: &[usize], inputs: &[Vec<f32>], output: &mut [f32]) {
    let piece = share(output.len(), values[0]);
    output
        .par_chunks_mut(piece)
        .zip(inputs[0].par_chunks(piece))
        .for_each(|(to, from)| to.copy_from_slice(from));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SEED: u32 = 11;

    fn case(op: OpName, sizes: &[(&str, u64)]) -> Case {
        Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap()
    }

    fn matmul_case(m: u64, n: u64, k: u64) -> Case {
        case(OpName::Matmul, &[("m", m), ("n", n), ("k", k)])
    }

    /// Batch, heads, key-value heads, queries, keys, head dimension, causal.
    fn attention_case([b, h, kv, q, l, d, causal]: [u64; 7]) -> Case {
        let sizes = [
            ("batch", b),
            ("heads", h),
            ("kv_heads", kv),
            ("query_len", q),
            ("kv_len", l),
            ("head_dim", d),
            ("causal", causal),
        ];
        case(OpName::Attention, &sizes)
    }

    fn hello() -> Request {
        Request::Hello {
            protocol: PROTOCOL_VERSION,
            device: None,
            backend: None,
            checks: false,
        }
    }

    fn opened() -> HostRunner {
        let mut runner = HostRunner::default();
        assert!(matches!(runner.handle(hello()), Response::Hello { .. }));
        runner
    }

    fn load(runner: &mut HostRunner, case: &Case, data: &Data) -> Vec<Variant> {
        let request = Request::Case {
            case: case.clone(),
            seed: SEED,
            data: data.clone(),
            set_count: 1,
        };
        match runner.handle(request) {
            Response::Variants { variants, .. } => variants,
            other => panic!("{other:?}"),
        }
    }

    fn all_outputs() -> Request {
        Request::Outputs {
            positions: vec![],
            projection_seed: None,
            all: true,
            set_index: 0,
        }
    }

    fn read(runner: &mut HostRunner) -> Vec<f64> {
        match runner.handle(all_outputs()) {
            Response::Outputs { values, .. } => values,
            other => panic!("{other:?}"),
        }
    }

    fn fault(response: Response) -> (FaultKind, String) {
        match response {
            Response::Error { kind, message } => (kind, message),
            other => panic!("not refused: {other:?}"),
        }
    }

    fn measure(repeat_count: u32, sample_count: u32, poison: bool) -> Request {
        Request::Measure {
            repeat_count,
            sample_count,
            poison,
        }
    }

    /// Runs every variant and compares every element with the reference.
    fn assert_right(case: &Case, data: &Data) {
        let op = case.op.op();
        let inputs: Vec<Values> = (0u32..)
            .zip(case.tensors())
            .filter(|(_, tensor)| tensor.role == Role::Input)
            .map(|(number, tensor)| tensor.values(data, SEED, number).unwrap())
            .collect();
        let positions: Vec<u64> = (0..case.output().len()).collect();
        let expected = op.reference(case.given(&inputs, data), &positions);
        let mut runner = opened();
        let variants = load(&mut runner, case, data);
        assert!(!variants.is_empty(), "{}", case.id());
        for variant in variants {
            let ready = runner.handle(Request::Prepare {
                variant: variant.clone(),
            });
            assert!(matches!(ready, Response::Ready { .. }), "{ready:?}");
            for (position, (got, wanted)) in read(&mut runner).iter().zip(&expected).enumerate() {
                assert!(
                    (got - wanted.value).abs() <= wanted.bound,
                    "{} {variant} at {position}: {got}, not {wanted:?}",
                    case.id()
                );
            }
        }
    }

    #[test]
    fn matrix_products_of_awkward_shapes_are_right() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 37, 129),
            (41, 1, 65),
            (7, 3, 1),
            (33, 65, 17),
            (130, 70, 300),
            (257, 129, 64),
        ] {
            assert_right(&matmul_case(m, n, k), &Data::Uniform);
            assert_right(&matmul_case(m, n, k), &Data::Integer);
            for trans_b in [0, 1] {
                let sizes = [
                    ("batch", 3),
                    ("m", m),
                    ("n", n),
                    ("k", k),
                    ("trans_b", trans_b),
                ];
                let case = Case::new(OpName::Matmul, &Shape::of(&sizes), Dtype::F32).unwrap();
                assert_right(&case, &Data::Integer);
            }
        }
    }

    #[test]
    fn attention_of_awkward_shapes_is_right() {
        for sizes in [
            [1, 1, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1, 1, 1],
            [2, 3, 3, 5, 7, 8, 0],
            [1, 1, 1, 300, 70, 33, 0],
            [1, 2, 1, 150, 150, 16, 1],
            [1, 1, 1, 3, 1500, 20, 0],
            [1, 1, 1, 3, 1500, 20, 1],
            [1, 1, 1, 5, 1030, 20, 1],
        ] {
            assert_right(&attention_case(sizes), &Data::Uniform);
            assert_right(&attention_case(sizes), &Data::Zero);
        }
    }

    #[test]
    fn grouped_query_heads_read_the_head_they_share_with_and_without_mask() {
        for (q, l) in [(1, 600), (5, 9), (70, 530), (90, 90)] {
            for causal in [0, 1] {
                assert_right(&attention_case([2, 6, 2, q, l, 12, causal]), &Data::Uniform);
            }
        }
    }

    #[test]
    fn queries_that_see_no_key_yield_zeros_even_where_whole_blocks_see_none() {
        let case = attention_case([1, 2, 1, 300, 5, 4, 1]);
        assert_right(&case, &Data::Uniform);
        let mut runner = opened();
        let variant = load(&mut runner, &case, &Data::Uniform).remove(0);
        runner.handle(Request::Prepare { variant });
        let values = read(&mut runner);
        assert!(values[..295 * 4].iter().all(|&value| value == 0.0));
        assert!(values[295 * 4..300 * 4].iter().all(|&value| value != 0.0));
    }

    #[test]
    fn large_integer_scores_neither_overflow_nor_vanish() {
        assert_right(&attention_case([1, 2, 2, 40, 700, 64, 1]), &Data::Integer);
    }

    #[test]
    fn the_vectorised_exponential_is_right_to_two_units_in_the_last_place() {
        struct Exp<'a>(&'a mut [f32]);
        impl WithSimd for Exp<'_> {
            type Output = f32;

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) -> f32 {
                weigh(simd, self.0, 0.0)
            }
        }
        let inputs: Vec<f32> = (0..43_003u16).map(|i| f32::from(i) * -2e-3).collect();
        let mut values = inputs.clone();
        let sum = Arch::new().dispatch(Exp(&mut values));
        for (&x, &got) in inputs.iter().zip(&values).filter(|(x, _)| **x >= -86.0) {
            let wanted = f64::from(x).exp();
            assert!(
                (f64::from(got) - wanted).abs() <= 2.4e-7 * wanted,
                "exp({x}) is {got}"
            );
        }
        let wanted: f64 = inputs.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((f64::from(sum) - wanted).abs() < 1e-5 * wanted);
    }

    #[test]
    fn every_step_of_every_chain_counts_for_any_number_of_invocations() {
        for (invocations, steps) in [(1, 1), (7, 5), (8, 3), (100, 17), (1023, 64), (5, 131_072)] {
            let case = case(
                OpName::Fma,
                &[("invocations", invocations), ("steps", steps)],
            );
            assert_right(&case, &Data::Uniform);
        }
    }

    #[test]
    fn copies_of_any_length_are_exact() {
        for n in [1, 2, 31, 4096, 100_003] {
            assert_right(&case(OpName::Copy, &[("n", n)]), &Data::Uniform);
        }
    }

    #[test]
    fn sums_stores_and_triads_of_any_size_are_exact() {
        for (blocks, rounds) in [(1, 1), (2, 3), (5, 1), (37, 4)] {
            let sizes = [("n", blocks * 4096), ("rounds", rounds)];
            assert_right(&case(OpName::Read, &sizes), &Data::Uniform);
        }
        for n in [1, 2, 31, 4096, 100_003] {
            assert_right(&case(OpName::Write, &[("n", n)]), &Data::Uniform);
            assert_right(&case(OpName::Triad, &[("n", n)]), &Data::Uniform);
        }
    }

    #[test]
    fn walks_end_where_their_steps_lead_whatever_the_pages() {
        for (lines, steps) in [(1, 1), (3, 10), (64, 64), (1536, 5000), (65_536, 65_537)] {
            let case = case(OpName::Chase, &[("lines", lines), ("steps", steps)]);
            assert_right(&case, &Data::Uniform);
        }
    }

    #[test]
    fn each_op_offers_its_preferred_variant_first() {
        let mut runner = opened();
        let variants = load(
            &mut runner,
            &attention_case([1, 1, 1, 2, 2, 2, 0]),
            &Data::Uniform,
        );
        assert_eq!(variants.len(), 9);
        let kernel = &KERNELS[1];
        for (name, values) in kernel.tunables {
            assert_eq!(variants[0].variant[*name], values[0]);
        }
        assert_eq!(
            load(&mut runner, &matmul_case(2, 2, 2), &Data::Uniform).len(),
            1
        );
    }

    #[test]
    fn the_output_is_poison_until_something_ran() {
        let mut runner = opened();
        let variant = load(&mut runner, &matmul_case(20, 30, 5), &Data::Uniform).remove(0);
        let all_poison = |runner: &HostRunner| {
            let loaded = runner.open.as_ref().unwrap().loaded.as_ref().unwrap();
            loaded.sets[0]
                .output
                .iter()
                .all(|value| value.to_bits() == poison().to_bits())
        };
        assert!(all_poison(&runner));
        assert!(read(&mut runner).iter().all(|value| value.is_nan()));
        runner.handle(Request::Prepare { variant });
        assert!(read(&mut runner).iter().all(|value| value.is_finite()));
        let nothing = Response::Samples { samples: vec![] };
        assert_eq!(runner.handle(measure(1, 0, true)), nothing);
        assert!(all_poison(&runner));
        runner.handle(measure(1, 1, false));
        assert!(read(&mut runner).iter().all(|value| value.is_finite()));
    }

    #[test]
    fn measured_spans_are_as_many_and_as_long_as_asked() {
        let mut runner = opened();
        let variant = load(&mut runner, &matmul_case(8, 8, 8), &Data::Uniform).remove(0);
        runner.handle(Request::Prepare { variant });
        let Response::Samples { samples } = runner.handle(measure(3, 5, true)) else {
            panic!("no samples")
        };
        assert_eq!(samples.len(), 5);
        assert!(
            samples
                .iter()
                .all(|span| span.repeat_count == 3 && span.device_s.is_none())
        );
        assert!(read(&mut runner).iter().all(|value| value.is_finite()));
    }

    #[test]
    fn requests_out_of_order_are_answered_with_what_is_missing() {
        let prepare = || Request::Prepare {
            variant: Variant {
                kernel: "matmul/gemm".to_owned(),
                ..Variant::default()
            },
        };
        let matmul = || Request::Case {
            case: matmul_case(2, 2, 2),
            seed: 1,
            data: Data::Zero,
            set_count: 1,
        };
        let mut runner = HostRunner::default();
        for early in [matmul(), prepare(), measure(1, 1, true), all_outputs()] {
            let refused = fault(runner.handle(early));
            assert_eq!(refused, (FaultKind::Input, "say hello first".to_owned()));
        }
        runner.handle(hello());
        for early in [prepare(), measure(1, 1, true), all_outputs()] {
            let refused = fault(runner.handle(early));
            assert_eq!(
                refused,
                (FaultKind::Input, "there is no case yet".to_owned())
            );
        }
        runner.handle(matmul());
        let refused = fault(runner.handle(measure(1, 1, true)));
        assert_eq!(
            refused,
            (FaultKind::Input, "no variant is prepared".to_owned())
        );
        assert!(matches!(runner.handle(prepare()), Response::Ready { .. }));
        assert_eq!(runner.handle(Request::Bye), Response::Bye);
    }

    #[test]
    fn another_protocol_is_refused_with_both_versions() {
        let request = Request::Hello {
            protocol: 99,
            device: None,
            backend: None,
            checks: false,
        };
        let (kind, message) = fault(HostRunner::default().handle(request));
        assert_eq!(kind, FaultKind::Unsupported);
        assert!(message.contains("99") && message.contains(&PROTOCOL_VERSION.to_string()));
    }

    #[test]
    fn the_device_says_what_it_is_and_what_it_has() {
        let Response::Hello {
            runner,
            device,
            timer,
            ..
        } = HostRunner::default().handle(hello())
        else {
            panic!("no hello")
        };
        assert_eq!(
            (runner.name.as_str(), device.runner.as_str()),
            ("host", "host")
        );
        assert_eq!(
            (device.backend.as_str(), device.device_type.as_str()),
            ("cpu", "cpu")
        );
        assert!(!device.name.is_empty() && device.driver.starts_with("gemm"));
        assert!(device.limits["thread_count"] > 0 && device.limits["memory_bytes_budget"] > 0);
        assert_eq!(timer.clock, "host");
        assert!(timer.quantum_s > 0.0 && timer.quantum_s < 1e-3);
    }

    #[test]
    fn unknown_kernels_and_tunables_are_refused_and_leave_nothing_prepared() {
        let mut runner = opened();
        load(
            &mut runner,
            &case(OpName::Fma, &[("invocations", 9), ("steps", 2)]),
            &Data::Uniform,
        );
        let mut prepare = |kernel: &str, tunables: &[(&str, u32)]| {
            let variant = tunables
                .iter()
                .map(|&(name, value)| (name.to_owned(), value))
                .collect();
            runner.handle(Request::Prepare {
                variant: Variant {
                    kernel: kernel.to_owned(),
                    variant,
                },
            })
        };
        let mut refused = |kernel: &str, tunables: &[(&str, u32)]| {
            let (kind, message) = fault(prepare(kernel, tunables));
            assert_eq!(kind, FaultKind::Validation);
            message
        };
        // The kernel of another op is as good as none.
        assert!(refused("matmul/gemm", &[]).contains("matmul/gemm"));
        assert!(refused("probe/fma_f32", &[("TILE", 8)]).contains("TILE"));
        assert!(refused("probe/fma_f32", &[("ACCUMULATORS", 7)]).contains('7'));
        assert!(matches!(
            prepare("probe/fma_f32", &[]),
            Response::Ready { .. }
        ));
        fault(prepare("nonsense", &[]));
        assert_eq!(
            fault(runner.handle(measure(1, 1, false))).0,
            FaultKind::Input
        );
    }

    #[test]
    fn a_case_beyond_the_memory_budget_is_refused_with_both_numbers() {
        let open = Open {
            memory_bytes_budget: 1000,
            loaded: None,
        };
        let mut runner = HostRunner { open: Some(open) };
        let case = matmul_case(10, 10, 10);
        let request = Request::Case {
            case,
            seed: 1,
            data: Data::Uniform,
            set_count: 1,
        };
        let (kind, message) = fault(runner.handle(request));
        assert_eq!(kind, FaultKind::OutOfMemory);
        assert!(
            message.contains("1200") && message.contains("1000"),
            "{message}"
        );
        assert_eq!(
            fault(runner.handle(all_outputs())).1,
            "there is no case yet"
        );
    }

    #[test]
    fn the_launch_cost_is_not_supported_and_impossible_shapes_are_the_users() {
        let mut runner = opened();
        let empty = case(OpName::Empty, &[("n", 1)]);
        let request = Request::Case {
            case: empty,
            seed: 1,
            data: Data::Uniform,
            set_count: 1,
        };
        assert_eq!(fault(runner.handle(request)).0, FaultKind::Unsupported);
        let mut impossible = matmul_case(1, 1, 1);
        impossible.shape = impossible.shape.with("m", 0);
        let request = Request::Case {
            case: impossible,
            seed: 1,
            data: Data::Uniform,
            set_count: 1,
        };
        assert_eq!(fault(runner.handle(request)).0, FaultKind::Input);
    }

    #[test]
    fn tensors_from_files_are_used_and_missing_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(format!("{name}.npy"));
        npy::write(&path("a"), &[1, 2], [2.0, 3.0].into_iter()).unwrap();
        npy::write(&path("b"), &[2, 1], [5.0, 7.0].into_iter()).unwrap();
        let case = matmul_case(1, 1, 2);
        let files = |names: &[&str]| {
            let files: BTreeMap<_, _> = names
                .iter()
                .map(|&name| (name.to_owned(), path(name)))
                .collect();
            Data::Files(files)
        };
        let mut runner = opened();
        let variant = load(&mut runner, &case, &files(&["a", "b"])).remove(0);
        runner.handle(Request::Prepare { variant });
        assert_eq!(read(&mut runner), [31.0]);
        let request = Request::Case {
            case,
            seed: 1,
            data: files(&["a"]),
            set_count: 1,
        };
        let (kind, message) = fault(runner.handle(request));
        assert_eq!(kind, FaultKind::Input);
        assert!(message.contains("\"b\""), "{message}");
    }
}
