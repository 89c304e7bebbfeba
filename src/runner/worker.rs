//! The native runner: cases on a wgpu device.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::Instant;

use rayon::prelude::*;

use crate::catalogue::{Engine, Kernel};
use crate::driver_statistics;
use crate::estimate;
use crate::gpu::{
    self, Access, Bound, Buffer, Call, Compiler, Gpu, GpuError, GpuResult, Pipeline, Texture,
};
use crate::input::{self, Cycle, Data, Element};
use crate::npy;
use crate::op::{Case, Dtype, OpName, Role, Tensor};
use crate::plan;
use crate::protocol::{
    Device, FaultKind, InspectedPass, Inspection, PROTOCOL_VERSION, Refused, Request, Response,
    Runner, RunnerInfo, Span, Variant, WhatIf,
};
use crate::runner::{error, no_set, outputs};
use crate::shader;
use crate::unroll::{UnrollOptions, unroll};
use crate::variant::{Legal, combinations, fit, padding, shortest};
use crate::what_if;

/// Loops that would grow a kernel beyond this many expressions stay loops.
const UNROLLED_EXPRESSIONS_MAX: usize = 64_000;

/// The most expressions that a driver for a CPU is given: they optimise for minutes beyond it.
const EXPRESSIONS_MAX_CPU: usize = 40_000;

/// The most expressions that FXC is given: it takes 7 s for 4,000 and four times as long for twice as
/// many (docs/kernels.md).
const EXPRESSIONS_MAX_FXC: usize = 10_000;

/// Executes cases through wgpu with a given set of kernels.
pub struct WgpuRunner {
    kernels: Vec<Kernel>,
    open: Option<Open>,
    /// The device, the backend and the checks that were asked for last.
    asked: (Option<String>, Option<String>, bool),
    /// What the case that is there was loaded from: seed, data and the number of sets.
    loaded: Option<(Case, u32, Data, u32)>,
    /// Programs that a driver gave the device up over, and what it said.
    refused: HashMap<Key, String>,
}

/// What there is once the device is open.
struct Open {
    gpu: Gpu,
    fill: Pipeline,
    /// Buffers by set and binding, kept between cases because allocating is slow. There is always
    /// one set; scratch belongs to the first.
    sets: Vec<Vec<Option<Buffer>>>,
    /// Scratch of a kernel that wants it so.
    texture: Option<Texture>,
    case: Option<Case>,
    /// The host's side of a transfer: what is sent, or where it arrives.
    host: Vec<f32>,
    job: Option<Job>,
    /// What has been compiled for the current op: a variant is prepared several times, at several
    /// shapes, and some drivers take seconds for each.
    built: HashMap<Key, Built>,
    /// Why what was to be built ahead could not be, until somebody wants it.
    not_built: HashMap<Key, GpuError>,
}

/// A program: nothing else of a case or a request changes it.
type Key = (Variant, Dtype, Option<WhatIf>);

/// The most variants that are built side by side: each holds the memory of a compiler.
const BUILDS_MAX: u32 = 16;

/// Compilers recurse as deep as kernels are long, and a thread has 2 MiB unless more is asked for.
pub(crate) const STACK_BYTES: usize = 16 << 20;

/// What is called when the prepared variant is called.
enum Job {
    /// Launches, all in one submission.
    Launch(Call),
    /// Launches, each submitted and waited for by itself.
    Apart(Call),
    /// The host's tensor goes to the output buffer.
    Upload,
    /// The input buffer comes to the host's tensor.
    Readback,
}

/// The kernel of a transfer, which has no source: the driver does the work.
pub(crate) fn transfer_kernel(op: OpName) -> Option<&'static str> {
    match op {
        OpName::Upload => Some("transfer/upload"),
        OpName::Readback => Some("transfer/readback"),
        _ => None,
    }
}

/// Whether what holds so many bytes can be kept for `bytes`: enough, and not many more.
fn serves(held_bytes: u64, bytes: u64) -> bool {
    held_bytes > 0 && held_bytes >= bytes && held_bytes / 4 <= bytes.max(1 << 20)
}

/// A compiled variant. Its source does not depend on the shape.
struct Built {
    op: OpName,
    pipeline: Pipeline,
    compile_s: f64,
    passes: Vec<String>,
    /// Of a what-if variant, the share of what it looks for that it leaves out.
    left_out: Option<f64>,
}

impl From<GpuError> for Response {
    fn from(fault: GpuError) -> Self {
        error(fault.kind, fault.message)
    }
}

impl WgpuRunner {
    /// A runner of these kernels; the catalogue's, or a test's.
    #[must_use]
    pub fn new(kernels: Vec<Kernel>) -> Self {
        Self {
            kernels,
            open: None,
            asked: (None, None, false),
            loaded: None,
            refused: HashMap::new(),
        }
    }

    fn hello(
        &mut self,
        device: Option<&str>,
        backend: Option<&str>,
        checks: bool,
    ) -> GpuResult<Response> {
        self.asked = (
            device.map(str::to_owned),
            backend.map(str::to_owned),
            checks,
        );
        let candidate = gpu::select(gpu::enumerate(backend), device)?;
        let mut gpu = Gpu::open(candidate, checks)?;
        let module = shader::build(
            "input/fill",
            include_str!("../../shaders/input/fill.wgsl"),
            &Variant::default().variant,
            Dtype::F32,
        )
        .map_err(|e| GpuError {
            kind: FaultKind::Internal,
            message: e.message,
        })?
        .module;
        let fill = gpu
            .compiler()
            .compile("input/fill", module, &["main"], &[Access::Write])?;
        // The shortest launch there is: its own buffer of one word.
        let word = gpu.create_buffer("word", 4)?;
        let shortest = gpu.bind(
            &fill,
            &[1, 2, 0, 0, 0, 0, 1, 0],
            &[vec![Bound::Buffer(&word, 4)]],
            vec![[1, 1, 1]],
        )?;
        gpu.measure_quantum(&shortest)?;
        let hello = Response::Hello {
            protocol: PROTOCOL_VERSION,
            runner: RunnerInfo {
                name: "wgpu".to_owned(),
                version: format!("{} (wgpu 30.0.1)", env!("CARGO_PKG_VERSION")),
            },
            device: Box::new(gpu.info.clone()),
            timer: gpu.timer(),
        };
        self.open = Some(Open {
            gpu,
            fill,
            sets: vec![Vec::new()],
            texture: None,
            case: None,
            host: Vec::new(),
            job: None,
            built: HashMap::new(),
            not_built: HashMap::new(),
        });
        Ok(hello)
    }

    /// The device anew, with the case that was there. Where a driver refuses to compile a program, wgpu
    /// takes the device for lost on Vulkan (its issue 10027), though nothing that runs there has failed:
    /// that costs the variant, and neither the case nor this process.
    fn reopen(&mut self) -> GpuResult<()> {
        let lost = |message: String| GpuError {
            kind: FaultKind::DeviceLost,
            message,
        };
        // The old device goes before the new one comes: both together may not fit.
        let before = self.open.take().map(|open| open.gpu.info.clone());
        let (device, backend, checks) = self.asked.clone();
        self.hello(device.as_deref(), backend.as_deref(), checks)
            .map_err(|error| lost(error.message))?;
        let Some(open) = &mut self.open else {
            return Err(lost("the device did not open again".to_owned()));
        };
        if before.is_some_and(|before| !open.gpu.info.is_same(&before)) {
            return Err(lost(format!(
                "the device was lost, and {} is there instead",
                open.gpu.info.name
            )));
        }
        match &self.loaded {
            Some((case, seed, data, set_count)) => open
                .load(case, *seed, data, *set_count)
                .map_err(|error| lost(error.message)),
            None => Ok(()),
        }
    }

    fn variants(&self, open: &Open, case: &Case) -> Response {
        let (mut variants, mut refused, mut estimates) = (Vec::new(), Vec::new(), Vec::new());
        let capacity = &open.gpu.capacity;
        variants.extend(transfer_kernel(case.op).map(|kernel| Variant {
            kernel: kernel.to_owned(),
            ..Variant::default()
        }));
        let asked: Vec<(&Kernel, Variant)> = self
            .kernels
            .iter()
            .filter(|kernel| kernel.op == case.op && kernel.dtypes.contains(&case.dtype))
            .flat_map(|kernel| {
                let named = move |tunables| Variant {
                    kernel: kernel.name.to_string(),
                    variant: tunables,
                };
                combinations(kernel)
                    .into_iter()
                    .map(move |tunables| (kernel, named(tunables)))
            })
            .collect();
        // At the first case of an op they are all parsed.
        let fitted: Vec<_> = asked
            .into_par_iter()
            .with_min_len(8)
            .map(
                |(kernel, variant)| match fit(kernel, &variant.variant, case, capacity) {
                    Ok(legal) => Ok((estimate::of(kernel, &variant, &legal, case), variant)),
                    Err(reason) => Err(Refused { variant, reason }),
                },
            )
            .collect();
        for one in fitted {
            match one {
                Ok((estimate, variant)) => {
                    estimates.push(estimate);
                    variants.push(variant);
                }
                Err(reason) => refused.push(reason),
            }
        }
        Response::Variants {
            variants,
            refused,
            set_count: u32::try_from(open.sets.len()).unwrap_or(u32::MAX),
            estimates,
            builds_at_once: builds_at_once(&open.gpu.info),
        }
    }

    /// Builds variants side by side and keeps them until they are prepared. Why one cannot be built
    /// is said then.
    fn build(&mut self, variants: &[Variant]) -> GpuResult<Response> {
        let Some(open) = &mut self.open else {
            return Ok(not_open());
        };
        let Some(case) = &open.case else {
            return Ok(no_case());
        };
        let mut wanted: Vec<(Key, &Kernel, Vec<Access>)> = Vec::new();
        for variant in variants {
            let key = (variant.clone(), case.dtype, None);
            let known = open.built.contains_key(&key)
                || self.refused.contains_key(&key)
                || wanted.iter().any(|(k, ..)| *k == key);
            let kernel = (self.kernels.iter()).find(|kernel| kernel.name == variant.kernel);
            if let (false, Some(kernel)) = (known, kernel)
                && let Ok(legal) = fit(kernel, &variant.variant, case, &open.gpu.capacity)
            {
                wanted.push((key, kernel, accesses(kernel, case, legal.scratch_bytes)));
            }
        }
        let thread_count = (builds_at_once(&open.gpu.info) as usize).min(wanted.len());
        let queue = Mutex::new(wanted.into_iter());
        let (compiler, form) = (open.gpu.compiler(), Form::of(&open.gpu.info));
        let work = || {
            let mut made = Vec::new();
            // A thread that panics holds no lock, and its panic goes on below.
            while let Some((key, kernel, accesses)) = queue.lock().ok().and_then(|mut q| q.next()) {
                let variant = &key.0;
                let result = module_of(kernel, variant, key.1).and_then(|module| {
                    build(compiler, &form, kernel, variant, &module, &accesses, None)
                });
                made.push((key, result));
            }
            made
        };
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..thread_count)
                .map(|_| {
                    let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
                    builder.spawn_scoped(scope, work)
                })
                .collect();
            // Where the system gives no thread, what is left is built when it is prepared.
            threads
                .into_iter()
                .flatten()
                .flat_map(|thread| match thread.join() {
                    Ok(made) => made,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        });
        let lost = made
            .iter()
            .filter_map(|(_, result)| result.as_ref().err())
            .find(|error| error.kind == FaultKind::DeviceLost)
            .map(|error| error.message.clone());
        if let Some(reason) = lost {
            drop(made);
            self.reopen()?;
            // Which of them it was shows when they are built one by one.
            return Ok(error(
                FaultKind::Internal,
                format!("a driver that built several gave the device up: {reason}"),
            ));
        }
        for (key, result) in made {
            match result {
                Ok(built) => {
                    open.built.insert(key, built);
                }
                Err(error) => {
                    open.not_built.insert(key, error);
                }
            }
        }
        Ok(Response::Built)
    }

    /// Prepares a variant, or with `what_if` what it would be if a part of it were changed.
    fn prepare(&mut self, variant: &Variant, what_if: Option<WhatIf>) -> GpuResult<Response> {
        let invalid = |message: String| GpuError {
            kind: FaultKind::Validation,
            message,
        };
        let Some(open) = &mut self.open else {
            return Ok(not_open());
        };
        let Some(case) = open.case.clone() else {
            return Ok(no_case());
        };
        if let Some(name) = transfer_kernel(case.op) {
            if *variant
                != (Variant {
                    kernel: name.to_owned(),
                    ..Variant::default()
                })
            {
                return Err(invalid(format!(
                    "there is no {} variant {variant}",
                    case.op
                )));
            }
            if what_if.is_some() {
                return Err(unsupported(NO_SOURCE));
            }
            let job = match case.op {
                OpName::Upload => Job::Upload,
                _ => Job::Readback,
            };
            return open.start(job, 0.0, None, Vec::new(), None);
        }
        let kernel = self
            .kernels
            .iter()
            .find(|kernel| kernel.name == variant.kernel)
            .ok_or_else(|| invalid(format!("there is no kernel {:?}", variant.kernel)))?;
        // Less to sum over is another size and no other program.
        let (sized, shortened) = match what_if {
            Some(WhatIf::StoresOnly) => {
                let (short, dim, length) =
                    shortest(kernel, &variant.variant, &case, &open.gpu.capacity).ok_or_else(
                        || unsupported("there is no shorter sum that this kernel could form"),
                    )?;
                let note = format!("{dim} is {length} instead of {}", case.shape.get(dim));
                (short, Some(note))
            }
            _ => (case.clone(), None),
        };
        let program = what_if.filter(|what_if| *what_if != WhatIf::StoresOnly);
        let Legal {
            grids,
            scratch_bytes,
            ..
        } = fit(kernel, &variant.variant, &sized, &open.gpu.capacity).map_err(invalid)?;

        let tensors = case.tensors();
        let mut sizes: Vec<u64> = tensors.iter().map(Tensor::size_bytes).collect();
        let in_texture = kernel.scratch_is_texture;
        if scratch_bytes > 0 && !in_texture {
            sizes.push(scratch_bytes);
        }
        let key = (variant.clone(), case.dtype, program);
        if program == Some(WhatIf::Cold) {
            // Cold once, it is warm.
            open.built.remove(&key);
        }
        if let Some(error) = open.not_built.remove(&key) {
            return Err(error);
        }
        if let Some(reason) = self.refused.get(&key) {
            return Err(invalid(format!(
                "compiling it lost the device before: {reason}"
            )));
        }
        let built = match open.built.get(&key) {
            Some(built) => built,
            None => {
                let module = module_of(kernel, variant, case.dtype)?;
                let accesses = accesses(kernel, &case, scratch_bytes);
                let result = build(
                    open.gpu.compiler(),
                    &Form::of(&open.gpu.info),
                    kernel,
                    variant,
                    &module,
                    &accesses,
                    program,
                );
                match result {
                    Err(error) if error.kind == FaultKind::DeviceLost => {
                        self.refused.insert(key, error.message.clone());
                        self.reopen()?;
                        return Err(invalid(format!(
                            "compiling it lost the device, which was opened again: {}",
                            error.message
                        )));
                    }
                    result => open.built.entry(key).or_insert(result?),
                }
            }
        };
        let (pipeline, compile_s, mut passes, left_out) = (
            built.pipeline.clone(),
            built.compile_s,
            built.passes.clone(),
            built.left_out,
        );

        passes.extend(shortened);
        open.job = None;
        if scratch_bytes > 0 && in_texture {
            open.reserve_texture(scratch_bytes)?;
        } else if scratch_bytes > 0 {
            open.reserve(0, tensors.len(), scratch_bytes)?;
        }
        let mut sets = Vec::new();
        for set in 0..open.sets.len() {
            let mut bound = Vec::new();
            for (slot, &size) in sizes.iter().enumerate() {
                // Scratch is an intermediate result that any application would use again.
                let from = if slot < tensors.len() { set } else { 0 };
                bound.push(Bound::Buffer(open.buffer(from, slot)?, size));
            }
            if in_texture {
                bound.extend(open.texture.as_ref().map(Bound::Texture));
            }
            sets.push(bound);
        }
        let call = open.gpu.bind(&pipeline, &sized.params(), &sets, grids)?;
        let job = if kernel.apart {
            Job::Apart(call)
        } else {
            Job::Launch(call)
        };
        let set = &variant.variant;
        let source = shader::specialise(&kernel.name, &kernel.source, set, case.dtype)
            .map_err(|error| invalid(error.message))?;
        let sha256 = shader::sha256(source.as_bytes());
        let engine = kernel.engine;
        open.start(job, compile_s, Some((sha256, engine)), passes, left_out)
    }

    /// What a variant takes of the device. Asking the driver compiles it once more on a device of its
    /// own, on which nothing is launched; it comes last in a diagnosis, for a driver that dies of it
    /// takes this process along.
    fn inspect(&self, variant: &Variant) -> GpuResult<Response> {
        let invalid = |message: String| GpuError {
            kind: FaultKind::Validation,
            message,
        };
        let Some(open) = &self.open else {
            return Ok(not_open());
        };
        let Some(case) = &open.case else {
            return Ok(no_case());
        };
        let kernel = self
            .kernels
            .iter()
            .find(|kernel| kernel.name == variant.kernel)
            .ok_or_else(|| match transfer_kernel(case.op) {
                Some(_) => unsupported(NO_SOURCE),
                None => invalid(format!("there is no kernel {:?}", variant.kernel)),
            })?;
        let capacity = &open.gpu.capacity;
        let legal = fit(kernel, &variant.variant, case, capacity).map_err(invalid)?;
        let form = Form::of(&open.gpu.info);
        let (module, _) = unroll(&module_of(kernel, variant, case.dtype)?, &form.unroll);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let paddings = padding(kernel, case, &legal.reflection);
        let passes = kernel
            .passes
            .iter()
            .zip(&legal.grids)
            .zip(paddings)
            .filter_map(|((pass, grid), padding)| {
                let mut entries = module.entry_points.iter();
                let entry = entries.find(|entry| entry.name == pass.entry_point)?;
                Some(InspectedPass {
                    entry_point: pass.entry_point.to_owned(),
                    workgroup_size: entry.workgroup_size,
                    workgroup_count: *grid,
                    padding,
                    register_count: *legal.reflection.register_counts.get(pass.entry_point)?,
                    expression_count: count(entry.function.expressions.len()),
                })
            })
            .collect();
        let mut entry_points: Vec<&str> =
            kernel.passes.iter().map(|pass| pass.entry_point).collect();
        entry_points.sort_unstable();
        entry_points.dedup();
        let asked = driver_statistics::statistics(&open.gpu.info, &module, &entry_points);
        let (driver_statistics, driver_statistics_reason) = match asked {
            Ok(found) => (Some(found), None),
            Err(reason) => (None, Some(reason)),
        };
        Ok(Response::Inspected {
            inspection: Box::new(Inspection {
                passes,
                workgroup_bytes: legal.reflection.workgroup_bytes,
                subgroup_size_min: capacity.subgroup_size_min,
                driver_statistics,
                driver_statistics_reason,
            }),
        })
    }
}

/// Unrolls and compiles one variant, or what it would be if a part of it were changed.
fn build(
    compiler: &Compiler,
    form: &Form,
    kernel: &Kernel,
    variant: &Variant,
    module: &naga::Module,
    accesses: &[Access],
    what_if: Option<WhatIf>,
) -> GpuResult<Built> {
    let started = Instant::now();
    let (module, stats) = unroll(module, &form.unroll);
    let expression_count: usize = functions(&module).map(|f| f.expressions.len()).sum();
    let expressions_max = form.expressions_max;
    if expression_count > expressions_max {
        return Err(GpuError {
            kind: FaultKind::Validation,
            message: format!(
                "unrolled it has {expression_count} expressions; beyond {expressions_max} this driver compiles for too long"
            ),
        });
    }
    let mut passes = Vec::new();
    if stats.loops_unrolled > 0 {
        passes.push(format!(
            "unrolled {} loops to {expression_count} expressions",
            stats.loops_unrolled
        ));
    }
    let mut left_out = None;
    let module = match what_if {
        None => module,
        Some(what_if) => {
            let (changed, note, share) = changed(&module, what_if).map_err(unsupported)?;
            passes.push(note);
            left_out = share;
            changed
        }
    };
    let entry_points: Vec<&str> = kernel.passes.iter().map(|pass| pass.entry_point).collect();
    let label = variant.to_string();
    let pipeline = compiler.compile(&label, module, &entry_points, accesses)?;
    Ok(Built {
        op: kernel.op,
        pipeline,
        compile_s: started.elapsed().as_secs_f64(),
        passes,
        left_out,
    })
}

/// An unrolled module with a part of it changed, what was changed, and which share of what could be;
/// or that there is nothing to change.
fn changed(
    module: &naga::Module,
    what_if: WhatIf,
) -> Result<(naga::Module, String, Option<f64>), String> {
    let share =
        |found: what_if::Changed| Some(f64::from(found.changed) / f64::from(found.found.max(1)));
    match what_if {
        // Less to sum over is a size, and the program stays.
        WhatIf::StoresOnly => Ok((module.clone(), String::new(), None)),
        WhatIf::Cold => {
            let word = RandomState::new().hash_one(0u32).to_le_bytes();
            // No size is so large, so that the comparison never holds.
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3] | 0x80]);
            let module = what_if::unique(module, word)
                .ok_or("it has no parameters by which it could be made unlike any other")?;
            Ok((
                module,
                "made unlike any program that was compiled before".to_owned(),
                None,
            ))
        }
        WhatIf::MathOnly => {
            let (module, found) = what_if::math_only(module);
            if found.changed == 0 {
                return Err(
                    "it has no loads at places of its own choice but of what it writes".to_owned(),
                );
            }
            let places = found.changed;
            Ok((
                module,
                format!("{places} loads come from few elements"),
                share(found),
            ))
        }
        WhatIf::LoadsOnly => {
            let (module, found) = what_if::loads_only(module);
            if found.found == 0 {
                return Err("it has no multiply-adds that could be left out".to_owned());
            }
            if found.changed == 0 {
                return Err(format!(
                    "each of its {} multiply-adds is needed by a value that nothing else needs",
                    found.found
                ));
            }
            Ok((
                module,
                format!(
                    "{} of {} multiply-adds are left out",
                    found.changed, found.found
                ),
                share(found),
            ))
        }
    }
}

fn functions(module: &naga::Module) -> impl Iterator<Item = &naga::Function> {
    let entries = module.entry_points.iter().map(|entry| &entry.function);
    entries.chain(module.functions.iter().map(|(_, function)| function))
}

/// The module of a variant that fits.
/// In which form the compiler of a device's driver is given programs.
struct Form {
    unroll: UnrollOptions,
    /// What has more is not compiled.
    expressions_max: usize,
}

impl Form {
    fn of(device: &Device) -> Self {
        let is = |feature: &str| device.features.iter().any(|name| name == feature);
        // wgpu tells no name; shader model 6, which is DXC's, has subgroups and FXC's has not.
        let fxc = device.backend == "dx12" && !is("subgroup");
        Self {
            unroll: UnrollOptions {
                max_turns: 64,
                max_expressions: UNROLLED_EXPRESSIONS_MAX,
                // Others keep the elements of arrays in registers by themselves.
                split_arrays: fxc,
            },
            expressions_max: match device.device_type.as_str() {
                _ if fxc => EXPRESSIONS_MAX_FXC,
                "cpu" => EXPRESSIONS_MAX_CPU,
                _ => UNROLLED_EXPRESSIONS_MAX,
            },
        }
    }
}

/// How many variants compile side by side. wgpu has one OpenGL context, which a thread at a time uses,
/// and for DX12 one compiler of HLSL, which is not made for several;
/// drivers for CPUs compile at the first call (lavapipe) or under one lock (SwiftShader), so several at a
/// time would only take the search's time before any of them is looked at.
fn builds_at_once(device: &Device) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match (device.backend.as_str(), device.device_type.as_str()) {
        ("gl" | "dx12", _) | (_, "cpu") => 1,
        _ => u32::try_from(cores).unwrap_or(u32::MAX).min(BUILDS_MAX),
    }
}

/// How a kernel uses its tensors in this case, and its scratch.
fn accesses(kernel: &Kernel, case: &Case, scratch_bytes: u64) -> Vec<Access> {
    let tensors = case.tensors();
    let scratch = match (scratch_bytes, kernel.scratch_is_texture) {
        (0, _) => None,
        (_, true) => Some(Access::Texture),
        (_, false) => Some(Access::Write),
    };
    let of_tensors = tensors.iter().map(|tensor| match tensor.role {
        Role::Input => Access::Read,
        _ => Access::Write,
    });
    of_tensors.chain(scratch).collect()
}

fn module_of(kernel: &Kernel, variant: &Variant, dtype: Dtype) -> GpuResult<naga::Module> {
    shader::build(&kernel.name, &kernel.source, &variant.variant, dtype)
        .map(|built| built.module)
        .map_err(|error| GpuError {
            kind: FaultKind::Validation,
            message: error.message,
        })
}

fn unsupported(message: impl Into<String>) -> GpuError {
    GpuError {
        kind: FaultKind::Unsupported,
        message: message.into(),
    }
}

/// Why a transfer cannot be taken apart.
const NO_SOURCE: &str = "a transfer has no shader that could be taken apart";

fn not_open() -> Response {
    error(FaultKind::Input, "say hello first")
}

fn no_case() -> Response {
    error(FaultKind::Input, "there is no case yet")
}

impl Open {
    fn buffer(&self, set: usize, slot: usize) -> GpuResult<&Buffer> {
        self.sets
            .get(set)
            .and_then(|buffers| buffers.get(slot)?.as_ref())
            .ok_or_else(|| GpuError {
                kind: FaultKind::Internal,
                message: format!("binding {slot} has no buffer"),
            })
    }

    /// Poisons the output, calls the job for the first time and keeps it.
    fn start(
        &mut self,
        job: Job,
        compile_s: f64,
        shader: Option<(String, Engine)>,
        passes: Vec<String>,
        left_out: Option<f64>,
    ) -> GpuResult<Response> {
        self.poison()?;
        // What the host starts and waits for one by one, the device cannot time.
        let clock = (!matches!(job, Job::Launch(_))).then(|| "host".to_owned());
        let first = self.call(&job, 1)?;
        self.job = Some(job);
        let engine = shader.as_ref().map_or(Engine::Alu, |(_, engine)| *engine);
        Ok(Response::Ready {
            compile_s,
            first_call_s: first.host_s,
            shader_sha256: shader.map(|(sha256, _)| sha256),
            engine: engine.label().to_owned(),
            passes,
            clock,
            output: None,
            left_out,
        })
    }

    fn call(&mut self, job: &Job, repeat_count: u32) -> GpuResult<Span> {
        let transferred = |slot: usize| {
            self.sets[0]
                .get(slot)
                .and_then(Option::as_ref)
                .ok_or_else(|| GpuError {
                    kind: FaultKind::Internal,
                    message: format!("binding {slot} has no buffer"),
                })
        };
        match job {
            Job::Launch(call) => self.gpu.run(call, repeat_count),
            Job::Apart(call) => self.gpu.run_apart(call, repeat_count),
            Job::Upload => {
                let bytes = bytemuck::cast_slice(&self.host);
                self.gpu.upload(transferred(1)?, bytes, repeat_count)
            }
            Job::Readback => {
                let bytes = bytemuck::cast_slice_mut(&mut self.host);
                self.gpu.readback(transferred(0)?, bytes, repeat_count)
            }
        }
    }

    /// Makes sure that there is a texture of at least `bytes`, and of not many more.
    fn reserve_texture(&mut self, bytes: u64) -> GpuResult<()> {
        let held = self.texture.as_ref().map_or(0, Texture::size_bytes);
        if !serves(held, bytes) {
            // The old one goes first: both together may not fit.
            self.texture = None;
            self.texture = Some(self.gpu.create_texture("scratch", bytes)?);
        }
        Ok(())
    }

    /// Makes sure that `slot` of a set holds a buffer of at least `bytes`, and of not many more.
    fn reserve(&mut self, set: usize, slot: usize, bytes: u64) -> GpuResult<()> {
        let buffers = &mut self.sets[set];
        if buffers.len() <= slot {
            buffers.resize_with(slot + 1, || None);
        }
        let held = buffers[slot].as_ref();
        // One that lies with others keeps the memory of all of them.
        let whole = held.is_some_and(|buffer| buffer.size_bytes() == buffer.whole_bytes());
        if whole && serves(held.map_or(0, Buffer::size_bytes), bytes) {
            return Ok(());
        }
        // The old one goes first: both together may not fit.
        buffers[slot] = None;
        buffers[slot] = Some(self.gpu.create_buffer("tensor", bytes)?);
        Ok(())
    }

    /// As [`Self::reserve`], for the output in `slot` of every set. Together they are one buffer to the
    /// API: nothing else would keep a call from beginning before the last one has ended that wrote to
    /// another set's, and such calls are timed as if each came after the other.
    fn reserve_outputs(&mut self, slot: usize, bytes: u64) -> GpuResult<()> {
        let count = self.sets.len();
        if count == 1 {
            return self.reserve(0, slot, bytes);
        }
        for buffers in &mut self.sets {
            buffers.resize_with(buffers.len().max(slot + 1), || None);
            // The old ones go first: both together may not fit.
            buffers[slot] = None;
        }
        let made = self.gpu.create_buffers("outputs", bytes, count)?;
        for (buffers, buffer) in self.sets.iter_mut().zip(made) {
            buffers[slot] = Some(buffer);
        }
        Ok(())
    }

    fn load(&mut self, case: &Case, seed: u32, data: &Data, set_count: u32) -> GpuResult<()> {
        let tensors = case.tensors();
        if let Some(message) = plan::too_large(case, set_count, &self.gpu.info) {
            return Err(GpuError {
                kind: FaultKind::OutOfMemory,
                message,
            });
        }
        self.job = None;
        self.host = Vec::new();
        if transfer_kernel(case.op).is_some() && set_count > 1 {
            return Err(GpuError {
                kind: FaultKind::Unsupported,
                message: format!(
                    "{} uses one buffer, not {set_count}: it does not live in the device's caches",
                    case.op
                ),
            });
        }
        // Probes stay: the canary among them runs between all cases.
        if !case.op.is_probe() {
            self.built
                .retain(|_, built| built.op.is_probe() || built.op == case.op);
            self.not_built.clear();
        }
        self.case = None;
        // What earlier cases needed beyond this one's tensors is free to go.
        self.texture = None;
        self.sets.resize_with(set_count.max(1) as usize, Vec::new);
        for set in &mut self.sets {
            set.truncate(tensors.len());
        }
        for set in 0..self.sets.len() {
            for (slot, tensor) in tensors.iter().enumerate() {
                // One side of a transfer is the host's.
                if (case.op, tensor.role) == (OpName::Upload, Role::Input) {
                    self.host = host_input(tensor, seed, data)?;
                    continue;
                }
                if (case.op, tensor.role) == (OpName::Readback, Role::Output) {
                    self.host = vec![f32::from_bits(Element::F32.poison()); len(tensor)];
                    continue;
                }
                if tensor.role == Role::Input {
                    self.reserve(set, slot, tensor.size_bytes())?;
                    self.fill_input(set, slot, tensor, seed, data)?;
                } else if set == 0 {
                    self.reserve_outputs(slot, tensor.size_bytes())?;
                }
            }
        }
        self.case = Some(case.clone());
        Ok(())
    }

    fn fill_input(
        &mut self,
        set: usize,
        slot: usize,
        tensor: &Tensor,
        seed: u32,
        data: &Data,
    ) -> GpuResult<()> {
        let keys = input::keys(seed, u32::try_from(slot).unwrap_or(0));
        match tensor.data(data) {
            Data::Uniform => {
                // Values drawn from a coarser grid than the tensor's own are bytes times the scale.
                let mode = if tensor.drawn == tensor.element { 0 } else { 4 };
                let scale = tensor.scale.to_bits();
                self.fill(set, slot, tensor, [mode, keys[0], keys[1], scale, 0])
            }
            Data::Integer => self.fill(set, slot, tensor, [1, keys[0], keys[1], 0, 0]),
            Data::Zero => self.fill(set, slot, tensor, [2, 0, 0, 0, 0]),
            Data::Cycle(lines) => {
                let cycle = Cycle::drawn(keys, *lines);
                let how = [3, cycle.multiplier, cycle.increment, 0, cycle.lines];
                self.fill(set, slot, tensor, how)
            }
            Data::Permutation(count) => {
                self.fill(set, slot, tensor, [5, keys[0], keys[1], 0, *count])
            }
            Data::Files(files) => {
                let refuse = |message: String| GpuError {
                    kind: FaultKind::Input,
                    message,
                };
                let path = files.get(tensor.name).ok_or_else(|| {
                    refuse(format!("no file was given for tensor {:?}", tensor.name))
                })?;
                let values = npy::read(path, &tensor.dims).map_err(|e| refuse(e.message))?;
                tensor.check(&values).map_err(|e| refuse(e.message))?;
                self.gpu
                    .write(self.buffer(set, slot)?, &tensor.element.pack(&values))
            }
        }
    }

    /// Runs the fill shader over a tensor; `how` is mode, two keys, scale and word.
    fn fill(&mut self, set: usize, slot: usize, tensor: &Tensor, how: [u32; 5]) -> GpuResult<()> {
        const THREADS: u64 = 64;
        // Each invocation writes one word, which may hold several elements.
        let words = tensor.size_bytes().div_ceil(4);
        let groups = words.div_ceil(THREADS);
        let across = groups.min(u64::from(self.gpu.capacity.workgroup_count_max));
        let down = groups.div_ceil(across);
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let [mode, add, xor, scale, fill] = how;
        let params = [
            word(words),
            mode,
            add,
            xor,
            scale,
            fill,
            word(across * THREADS),
            tensor.element.code().unwrap_or(0),
        ];
        let call = self.gpu.bind(
            &self.fill,
            &params,
            &[vec![Bound::Buffer(self.buffer(set, slot)?, words * 4)]],
            vec![[word(across), word(down), 1]],
        )?;
        self.gpu.run(&call, 1).map(|_| ())
    }

    /// Overwrites the output, so that an element nobody writes shows.
    fn poison(&mut self) -> GpuResult<()> {
        let Some(case) = &self.case else {
            return Ok(());
        };
        if case.op == OpName::Readback {
            self.host.fill(f32::from_bits(Element::F32.poison()));
            return Ok(());
        }
        let (slot, output) = (case.tensors().len() - 1, case.output());
        for set in 0..self.sets.len() {
            self.fill(set, slot, &output, [2, 0, 0, 0, output.element.poison()])?;
        }
        Ok(())
    }

    fn measure(
        &mut self,
        repeat_count: u32,
        sample_count: u32,
        poison: bool,
    ) -> GpuResult<Response> {
        if poison {
            self.poison()?;
        }
        let Some(job) = self.job.take() else {
            return Ok(error(FaultKind::Input, "no variant is prepared"));
        };
        let samples = match &job {
            Job::Launch(call) => self.gpu.run_spans(call, repeat_count, sample_count),
            _ => (0..sample_count)
                .map(|_| self.call(&job, repeat_count))
                .collect(),
        }?;
        self.job = Some(job);
        Ok(Response::Samples { samples })
    }

    fn outputs(
        &mut self,
        positions: &[u64],
        projection_seed: Option<u32>,
        all: bool,
        set_index: u32,
    ) -> GpuResult<Response> {
        let Some(case) = self.case.clone() else {
            return Ok(no_case());
        };
        let (slot, output) = (case.tensors().len() - 1, case.output());
        let Some(set) = self.sets.get(set_index as usize) else {
            return Ok(no_set(set_index, self.sets.len()));
        };
        if case.op == OpName::Readback {
            // The very tensor that the timed calls filled.
            let host = &self.host;
            return Ok(outputs(
                &case,
                output.len(),
                |index| f64::from(host[index]),
                positions,
                projection_seed,
                all,
            ));
        }
        let Some(buffer) = set.get(slot).and_then(Option::as_ref) else {
            return Ok(no_case());
        };
        // Whole words, as copies are made.
        let size = output.size_bytes().next_multiple_of(4);
        let bytes = self.gpu.read(buffer, size)?;
        let element = output.element;
        Ok(outputs(
            &case,
            output.len(),
            |index| element.get(&bytes, index),
            positions,
            projection_seed,
            all,
        ))
    }
}

fn len(tensor: &Tensor) -> usize {
    usize::try_from(tensor.len()).unwrap_or(usize::MAX)
}

/// An input tensor in the host's memory.
fn host_input(tensor: &Tensor, seed: u32, data: &Data) -> GpuResult<Vec<f32>> {
    let data = tensor.data(data);
    let refuse = |message: String| GpuError {
        kind: FaultKind::Input,
        message,
    };
    match (tensor.values(data, seed, 0), data) {
        (Some(values), _) => Ok((0..len(tensor))
            .into_par_iter()
            .map(|index| values.get(index as u64))
            .collect()),
        (None, Data::Files(files)) => match files.get(tensor.name) {
            Some(path) => npy::read(path, &tensor.dims).map_err(|e| refuse(e.message)),
            None => Err(refuse(format!(
                "no file was given for tensor {:?}",
                tensor.name
            ))),
        },
        (None, _) => Err(refuse(format!("tensor {:?} has no values", tensor.name))),
    }
}

impl Runner for WgpuRunner {
    fn handle(&mut self, request: Request) -> Response {
        let result = match (request, &mut self.open) {
            (Request::Hello { protocol, .. }, _) if protocol != PROTOCOL_VERSION => Ok(error(
                FaultKind::Unsupported,
                format!("this runner speaks protocol {PROTOCOL_VERSION}, not {protocol}"),
            )),
            (
                Request::Hello {
                    device,
                    backend,
                    checks,
                    ..
                },
                _,
            ) => self.hello(device.as_deref(), backend.as_deref(), checks),
            (Request::Bye, _) => Ok(Response::Bye),
            (_, None) => Ok(not_open()),
            (
                Request::Case {
                    case,
                    seed,
                    data,
                    set_count,
                },
                Some(open),
            ) => match Case::new(case.op, &case.shape, case.dtype) {
                Err(refused) => Ok(error(FaultKind::Input, refused.message)),
                Ok(case) if case.tensors().iter().any(|t| t.element.code().is_none()) => Ok(error(
                    FaultKind::Unsupported,
                    format!("WGSL has no {}", case.dtype),
                )),
                Ok(case) => open.load(&case, seed, &data, set_count).map(|()| {
                    self.loaded = Some((case.clone(), seed, data, set_count));
                    self.open
                        .as_ref()
                        .map_or_else(not_open, |open| self.variants(open, &case))
                }),
            },
            (Request::Prepare { variant }, Some(_)) => self.prepare(&variant, None),
            (Request::WhatIf { variant, what_if }, Some(_)) => {
                self.prepare(&variant, Some(what_if))
            }
            (Request::Build { variants }, Some(_)) => self.build(&variants),
            (Request::Inspect { variant }, Some(_)) => self.inspect(&variant),
            (
                Request::Measure {
                    repeat_count,
                    sample_count,
                    poison,
                },
                Some(open),
            ) => open.measure(repeat_count, sample_count, poison),
            (
                Request::Outputs {
                    positions,
                    projection_seed,
                    all,
                    set_index,
                },
                Some(open),
            ) => open.outputs(&positions, projection_seed, all, set_index),
        };
        result.unwrap_or_else(Response::from)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::catalogue::kernels;
    use crate::op::Shape;
    use crate::protocol::Tunables;

    /// A runner with a product in it, on whatever device is there; `None`, said aloud, without one.
    fn with_a_product(set_count: u32) -> Option<WgpuRunner> {
        let mut runner = WgpuRunner::new(kernels());
        if let Err(error) = runner.hello(None, None, false) {
            eprintln!("not tested, without a device: {}", error.message);
            return None;
        }
        let case = product();
        let request = Request::Case {
            case,
            seed: 1,
            data: Data::Uniform,
            set_count,
        };
        let answer = runner.handle(request);
        assert!(matches!(answer, Response::Variants { .. }), "{answer:?}");
        Some(runner)
    }

    fn product() -> Case {
        let shape = Shape::of(&[("m", 33), ("n", 65), ("k", 40)]);
        Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap()
    }

    fn plain() -> Variant {
        let plain = kernels().into_iter().find(|k| k.name == "matmul/naive");
        Variant {
            variant: combinations(&plain.unwrap()).remove(0),
            kernel: "matmul/naive".to_owned(),
        }
    }

    fn answers(runner: &mut WgpuRunner, set_index: u32) -> Vec<f64> {
        let asked = Request::Outputs {
            positions: vec![0, 64, 33 * 65 - 1],
            projection_seed: None,
            all: false,
            set_index,
        };
        match runner.handle(asked) {
            Response::Outputs { values, .. } => values,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn outputs_of_sets_lie_together_so_that_calls_come_one_after_the_other() {
        let Some(mut runner) = with_a_product(3) else {
            return;
        };
        let open = runner.open.as_ref().unwrap();
        let buffer = |set: usize, slot: usize| open.buffer(set, slot).unwrap();
        assert!(buffer(0, 2).lies_with(buffer(1, 2)));
        assert!(buffer(0, 2).lies_with(buffer(2, 2)));
        assert!(!buffer(0, 0).lies_with(buffer(1, 0)));
        // And still each set has its own: one call writes one of them.
        let prepared = runner.handle(Request::Prepare { variant: plain() });
        assert!(matches!(prepared, Response::Ready { .. }), "{prepared:?}");
        let first = answers(&mut runner, 0);
        assert!(first.iter().all(|value| value.is_finite()));
        assert_ne!(answers(&mut runner, 1), first);
        runner.handle(Request::Measure {
            repeat_count: 2,
            sample_count: 1,
            poison: false,
        });
        assert_eq!(answers(&mut runner, 1), first);
        assert_eq!(answers(&mut runner, 2), first);
        // A single one does not keep the memory of three.
        let alone = Request::Case {
            case: product(),
            seed: 1,
            data: Data::Uniform,
            set_count: 1,
        };
        runner.handle(alone);
        let open = runner.open.as_ref().unwrap();
        let output = open.buffer(0, 2).unwrap();
        assert_eq!(output.whole_bytes(), output.size_bytes());
    }

    #[test]
    fn spans_that_are_encoded_ahead_are_the_spans_that_were_asked_for() {
        let Some(mut runner) = with_a_product(3) else {
            return;
        };
        runner.handle(Request::Prepare { variant: plain() });
        let first = answers(&mut runner, 0);
        let open = runner.open.as_mut().unwrap();
        open.poison().unwrap();
        let Some(Job::Launch(call)) = &open.job else {
            panic!("a product is launched");
        };
        let spans = open.gpu.run_ahead(call, 2, 5).unwrap();
        assert_eq!(spans.len(), 5);
        assert!(spans.iter().all(|span| span.repeat_count == 2));
        if open.gpu.timer().clock == "device" {
            assert!(spans.iter().any(|span| span.device_s.is_some()));
        }
        // One call was made before, ten since: the next is on the last set, and each set has been written.
        for set in 0..3 {
            assert_eq!(answers(&mut runner, set), first);
        }
        let open = runner.open.as_mut().unwrap();
        open.poison().unwrap();
        runner.handle(Request::Measure {
            repeat_count: 1,
            sample_count: 1,
            poison: false,
        });
        assert_ne!(answers(&mut runner, 1), first);
        assert_eq!(answers(&mut runner, 2), first);
    }

    #[test]
    fn a_device_that_is_opened_again_has_the_case_that_was_there() {
        let Some(mut runner) = with_a_product(2) else {
            return;
        };
        runner.handle(Request::Prepare { variant: plain() });
        let before = answers(&mut runner, 0);
        runner.reopen().unwrap();
        let prepared = runner.handle(Request::Prepare { variant: plain() });
        assert!(matches!(prepared, Response::Ready { .. }), "{prepared:?}");
        assert_eq!(answers(&mut runner, 0), before);
        assert_eq!(runner.open.as_ref().unwrap().sets.len(), 2);
        // What the device was lost over is not compiled again.
        let key = (plain(), Dtype::F32, None);
        runner.refused.insert(key, "no strategy left".to_owned());
        runner.reopen().unwrap();
        runner.handle(Request::Build {
            variants: vec![plain()],
        });
        assert!(runner.open.as_ref().unwrap().built.is_empty());
        match runner.handle(Request::Prepare { variant: plain() }) {
            Response::Error {
                kind: FaultKind::Validation,
                message,
            } => assert!(message.contains("no strategy left"), "{message}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fxc_is_given_locals_where_other_compilers_get_arrays() {
        let array_count = |device: &Device| {
            let probe = kernels().into_iter().find(|k| k.name == "probe/fma_f32");
            let probe = probe.unwrap();
            let built = shader::build(&probe.name, &probe.source, &Tunables::new(), Dtype::F32);
            let (module, _) = unroll(&built.unwrap().module, &Form::of(device).unroll);
            let locals = functions(&module).flat_map(|function| function.local_variables.iter());
            let is_array = |ty| matches!(module.types[ty].inner, naga::TypeInner::Array { .. });
            locals.filter(|(_, local)| is_array(local.ty)).count()
        };
        let mut device = Device {
            backend: "dx12".to_owned(),
            ..Device::default()
        };
        assert_eq!(array_count(&device), 0);
        assert!(Form::of(&device).expressions_max < UNROLLED_EXPRESSIONS_MAX);
        // With DXC the device has the features of shader model 6.
        device.features.push("subgroup".to_owned());
        assert_ne!(array_count(&device), 0);
        assert_eq!(Form::of(&device).expressions_max, UNROLLED_EXPRESSIONS_MAX);
    }
}
