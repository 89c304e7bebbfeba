//! The host runner: cases on the CPU itself, on all its cores, with no driver in between.
//!
//! It gives every report a line that anyone can reproduce without a GPU, and its probes give that
//! line a ceiling: they go through the same vector instructions as the matrix product.

mod arithmetic;
mod attention;
mod matmul;
mod memory;

use std::hint::black_box;
use std::sync::Once;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::input::{Data, Values};
use crate::machine;
use crate::npy;
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

/// The tensors of one case, as they lie in memory: where elements are no f32, as 32-bit words.
struct Set {
    inputs: Vec<Vec<f32>>,
    output: Vec<f32>,
}

/// A kernel with its tunables fixed, in the order in which the kernel lists them.
struct Prepared {
    run: Run,
    values: Vec<usize>,
}

/// What is to be computed.
struct Work<'a> {
    shape: &'a Shape,
    dtype: Dtype,
    /// Of the kernel's tunables.
    values: &'a [usize],
}

/// Computes it from the inputs into the output.
type Run = fn(&Work<'_>, &[Vec<f32>], &mut [f32]);

/// One implementation of an op.
struct Kernel {
    name: &'static str,
    op: OpName,
    dtypes: &'static [Dtype],
    /// Names and values, the preferred value first.
    tunables: &'static [(&'static str, &'static [u32])],
    run: Run,
}

const F32: &[Dtype] = &[Dtype::F32];
const SHORT_FLOATS: &[Dtype] = &[Dtype::F16, Dtype::Bf16];

/// Rows of queries that a thread works on at a time, and keys whose scores it holds.
const ATTENTION_BLOCKS: &[(&str, &[u32])] = &[
    ("QUERY_BLOCK", &[128, 64, 256]),
    ("KEY_BLOCK", &[512, 256, 1024]),
];

/// Pieces that each thread's share of a stream is cut into.
const STREAM: &[(&str, &[u32])] = &[("PIECES", &[1, 16])];

const KERNELS: [Kernel; 11] = [
    Kernel {
        name: "matmul/gemm",
        op: OpName::Matmul,
        dtypes: F32,
        tunables: &[],
        run: matmul::gemm,
    },
    Kernel {
        name: "matmul/gemm_widened",
        op: OpName::Matmul,
        dtypes: SHORT_FLOATS,
        tunables: &[("BLOCK", &[512, 256, 1024])],
        run: matmul::gemm_widened,
    },
    Kernel {
        name: "matmul/rten",
        op: OpName::Matmul,
        dtypes: &[Dtype::I8],
        tunables: &[],
        run: matmul::rten,
    },
    Kernel {
        name: "attention/gemm",
        op: OpName::Attention,
        dtypes: F32,
        tunables: ATTENTION_BLOCKS,
        run: attention::attention,
    },
    Kernel {
        name: "attention/gemm_widened",
        op: OpName::Attention,
        dtypes: SHORT_FLOATS,
        tunables: ATTENTION_BLOCKS,
        run: attention::attention,
    },
    Kernel {
        name: "probe/fma_f32",
        op: OpName::Fma,
        dtypes: F32,
        tunables: &[("ACCUMULATORS", &[12, 8, 24])],
        run: arithmetic::fma,
    },
    Kernel {
        name: "probe/copy",
        op: OpName::Copy,
        dtypes: F32,
        tunables: STREAM,
        run: memory::copy,
    },
    Kernel {
        name: "probe/read",
        op: OpName::Read,
        dtypes: F32,
        tunables: STREAM,
        run: memory::read,
    },
    Kernel {
        name: "probe/write",
        op: OpName::Write,
        dtypes: F32,
        tunables: STREAM,
        run: memory::write,
    },
    Kernel {
        name: "probe/triad",
        op: OpName::Triad,
        dtypes: F32,
        tunables: STREAM,
        run: memory::triad,
    },
    Kernel {
        name: "probe/chase",
        op: OpName::Chase,
        dtypes: F32,
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
            driver: format!(
                "gemm 0.19, pulp 0.22: {}; rten-gemm 0.27: {}",
                instruction_set(),
                matmul::bytes_kernel()
            ),
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
            OpName::Attention if case.shape.get("page") > 0 => {
                Some("the host has no attention over keys in pages")
            }
            _ => None,
        };
        if let Some(message) = missing {
            return Err(refuse(FaultKind::Unsupported, message));
        }
        let variants: Vec<Variant> = KERNELS
            .iter()
            .filter(|kernel| kernel.op == case.op && kernel.dtypes.contains(&case.dtype))
            .flat_map(Kernel::variants)
            .collect();
        if variants.is_empty() {
            return Err(refuse(
                FaultKind::Unsupported,
                format!("the host has no {} in {}", case.op, case.dtype),
            ));
        }
        if case.op == OpName::Matmul
            && case.dtype == Dtype::I8
            && let Some(reason) = matmul::bytes_refused()
        {
            return Err(refuse(FaultKind::Unsupported, reason));
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
                    let mut made = input(tensor, number, seed, data)?;
                    if case.dtype == Dtype::I8 && number == 0 {
                        offset_bytes(&mut made);
                    }
                    inputs.push(made);
                }
            }
            let poison = poison(&case);
            let output = filled(&case.output(), |_| {}, |_| poison)?;
            sets.push(Set { inputs, output });
        }
        self.loaded = Some(Loaded {
            case,
            sets,
            turn: 0,
            prepared: None,
        });
        Ok(Response::variants(variants, set_count.max(1)))
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
            .find(|kernel| {
                kernel.op == self.case.op
                    && kernel.dtypes.contains(&self.case.dtype)
                    && kernel.name == variant.kernel
            })
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
        Ok(Response::ready(first_call_s))
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
        let work = Work {
            shape: &self.case.shape,
            dtype: self.case.dtype,
            values: &prepared.values,
        };
        (prepared.run)(&work, &set.inputs, &mut set.output);
        // Without this, a call whose output is overwritten by the next could be left out.
        black_box(&mut set.output);
    }

    /// Overwrites the output, so that an element nobody writes shows.
    fn poison(&mut self) {
        let poison = poison(&self.case);
        for set in &mut self.sets {
            let piece = share(set.output.len(), 1);
            set.output
                .par_chunks_mut(piece)
                .for_each(|piece| piece.fill(poison));
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
                pin_threads();
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
            (Request::Build { .. } | Request::WhatIf { .. } | Request::Inspect { .. }, Some(_)) => {
                Err(refuse(
                    FaultKind::Unsupported,
                    "kernels of the host are no shaders that could be taken apart",
                ))
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
                        loaded.case.output().len(),
                        |index| {
                            let bytes = bytemuck::cast_slice(&set.output);
                            loaded.case.output().element.get(bytes, index)
                        },
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
            version: format!("{} (gemm 0.19, rten-gemm 0.27)", env!("CARGO_PKG_VERSION")),
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

/// What each word of an output holds before anything is written.
fn poison(case: &Case) -> f32 {
    f32::from_bits(case.output().element.poison())
}

/// Makes signed bytes unsigned, which is what the product wants on its left, by adding 128 to each.
fn offset_bytes(words: &mut [f32]) {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
    bytes
        .par_iter_mut()
        .for_each(|byte| *byte ^= matmul::BYTE_OFFSET);
}

/// Gives each thread a core of its own, so that none is moved to another in the middle of a span.
fn pin_threads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        // Where the threads are there already, or fewer cores are known than threads, so be it.
        let _ = rayon::ThreadPoolBuilder::new()
            .start_handler(move |thread| {
                if let Some(&core) = cores.get(thread) {
                    core_affinity::set_for_current(core);
                }
            })
            .build_global();
    });
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
        let values = npy::read(path, &tensor.dims)
            .map_err(|refused| refuse(FaultKind::Input, refused.message))?;
        return Ok(bytemuck::pod_collect_to_vec(&tensor.element.pack(&values)));
    }
    match tensor.values(data, seed, number) {
        Some(Values::Cycle(cycle)) => memory::links(tensor, cycle),
        values => {
            let values = values.unwrap_or(Values::Zero);
            let (element, len) = (tensor.element, tensor.len());
            let bits = element.size_bits();
            filled(
                tensor,
                |_| {},
                |word| {
                    // The first element is in the lowest bits; what fills the last word is zero.
                    let first = word * 32 / bits;
                    let present = (32 / bits).min(len - first);
                    let packed = (0..present).fold(0, |packed, at| {
                        packed | element.bits(values.get(first + at)) << (at * bits)
                    });
                    f32::from_bits(packed)
                },
            )
        }
    }
}

/// A tensor made word by word in parallel, so that each page is first touched by a thread that may
/// use it; `advise` is shown the memory before that.
fn filled(
    tensor: &Tensor,
    advise: impl FnOnce(&mut Vec<f32>),
    value: impl Fn(u64) -> f32 + Sync,
) -> Result<Vec<f32>, Refusal> {
    let words = tensor.element.bytes(tensor.len()).div_ceil(4);
    let len = usize::try_from(words).unwrap_or(usize::MAX);
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|cause| {
        let bytes = words * 4;
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

    fn asked(case: &Case, data: &Data) -> Request {
        Request::Case {
            case: case.clone(),
            seed: SEED,
            data: data.clone(),
            set_count: 1,
        }
    }

    fn load(runner: &mut HostRunner, case: &Case, data: &Data) -> Vec<Variant> {
        match runner.handle(asked(case, data)) {
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
    fn products_of_short_numbers_are_right_few_rows_and_many_whatever_the_layout() {
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::I8] {
            for (m, n, k) in [(1, 37, 129), (16, 70, 33), (17, 65, 1031), (41, 1, 600)] {
                for trans_b in [0, 1] {
                    let sizes = [
                        ("batch", 2),
                        ("m", m),
                        ("n", n),
                        ("k", k),
                        ("trans_b", trans_b),
                    ];
                    let case = Case::new(OpName::Matmul, &Shape::of(&sizes), dtype).unwrap();
                    // Without a dot product of bytes the library's sums saturate, and no such CPU may
                    // offer them.
                    if dtype == Dtype::I8
                        && let Some(reason) = matmul::bytes_refused()
                    {
                        let answer = opened().handle(asked(&case, &Data::Integer));
                        assert_eq!(fault(answer), (FaultKind::Unsupported, reason));
                        continue;
                    }
                    assert_right(&case, &Data::Integer);
                    assert_right(&case, &Data::Uniform);
                }
            }
        }
    }

    #[test]
    fn attention_of_short_numbers_is_right() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            for sizes in [[2, 6, 2, 70, 530, 12, 1], [1, 3, 3, 1, 77, 33, 0]] {
                let case = Case::new(OpName::Attention, &attention_case(sizes).shape, dtype);
                assert_right(&case.unwrap(), &Data::Uniform);
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
        for (name, values) in ATTENTION_BLOCKS {
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
                .all(|value| value.to_bits() == poison(&loaded.case).to_bits())
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
