//! What speaks wgpu: devices, buffers, pipelines, launches and timestamps.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use wgpu::{Backend, Backends, DeviceType, Features};

use crate::catalogue::MatrixTile;
use crate::error::one_line;
use crate::hal;
use crate::input::Element;
use crate::machine;
use crate::plan::BUFFER_STRIDE;
use crate::protocol::{Device, FaultKind, Span, Timer};
use crate::spirv;

/// A device call that did not work.
#[derive(Clone, Debug)]
pub struct GpuError {
    /// What kind of trouble.
    pub kind: FaultKind,
    /// One line for people.
    pub message: String,
}

impl GpuError {
    fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// The result of a device call.
pub type GpuResult<T> = Result<T, GpuError>;

/// How long one submission may take before it is given up.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Optional features that kernels or the clock can use, each asked for only where it is offered.
const WANTED: [(Features, &str); 5] = [
    (Features::TIMESTAMP_QUERY, "timestamp_query"),
    (Features::SUBGROUP, "subgroup"),
    (Features::SHADER_F16, "shader_f16"),
    (Features::SHADER_INT64, "shader_int64"),
    (
        Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
        "cooperative_matrix",
    ),
];

/// The smallest and the largest subgroup of a device, where they are known. Where an API does not tell,
/// wgpu reports the widest range there is; on Apple's own GPUs both are 32 all the same.
fn subgroup_sizes(info: &wgpu::AdapterInfo) -> Option<(u32, u32)> {
    match (info.backend, info.subgroup_min_size, info.subgroup_max_size) {
        (Backend::Metal, ..) if info.name.starts_with("Apple") => Some((32, 32)),
        (Backend::Metal, ..)
        | (_, wgpu::MINIMUM_SUBGROUP_MIN_SIZE, wgpu::MAXIMUM_SUBGROUP_MAX_SIZE) => None,
        (_, smallest, largest) => Some((smallest, largest)),
    }
}

/// The limits that reports and messages speak of, and what kernels may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Largest buffer.
    pub buffer_bytes_max: u64,
    /// Largest storage binding.
    pub binding_bytes_max: u64,
    /// Largest texture of [`Gpu::create_texture`]; zero where it could not be written and read.
    pub texture_bytes_max: u64,
    /// Workgroup memory of one workgroup.
    pub workgroup_bytes_max: u32,
    /// Invocations of one workgroup.
    pub invocation_count_max: u32,
    /// Workgroup size per dimension.
    pub workgroup_size_max: [u32; 3],
    /// Workgroups per dimension of a grid.
    pub workgroup_count_max: u32,
    /// Smallest subgroup, where there are subgroup operations.
    pub subgroup_size_min: Option<u32>,
    /// Largest subgroup, likewise.
    pub subgroup_size_max: Option<u32>,
    /// Whether shaders may compute in f16.
    pub shader_f16: bool,
    /// Whether shaders may use 64-bit integers.
    pub shader_int64: bool,
    /// Products of matrices that subgroups can form by themselves.
    pub matrix_tiles: Vec<MatrixTile>,
    /// Memory that all buffers together may use, where it can be known.
    pub memory_bytes_budget: Option<u64>,
}

/// A device that could be opened.
pub struct Candidate {
    /// What the driver says of it.
    pub device: Device,
    adapter: wgpu::Adapter,
}

fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Vulkan => "vulkan",
        Backend::Metal => "metal",
        Backend::Dx12 => "dx12",
        Backend::Gl => "gl",
        Backend::BrowserWebGpu => "webgpu",
        Backend::Noop => "noop",
    }
}

/// The names that `--backend` takes.
pub const BACKENDS: [&str; 4] = ["vulkan", "metal", "dx12", "gl"];

fn device_type_name(kind: DeviceType) -> &'static str {
    match kind {
        DeviceType::DiscreteGpu => "discrete_gpu",
        DeviceType::IntegratedGpu => "integrated_gpu",
        DeviceType::VirtualGpu => "virtual_gpu",
        DeviceType::Cpu => "cpu",
        DeviceType::Other => "other",
    }
}

/// The driver and its version, with what compiles for it where the API says nothing of that: searches are
/// remembered and series of reports kept by driver, and another compiler makes other programs.
fn driver(info: &wgpu::AdapterInfo, features: Features) -> String {
    let told = format!("{} {}", info.driver, info.driver_info);
    let told = told.trim();
    match info.backend {
        // Metal's compiler is a part of the system.
        Backend::Metal if told.is_empty() => machine::os(),
        // Microsoft's new compiler brings shader model 6, and with it subgroups.
        Backend::Dx12 if features.contains(Features::SUBGROUP) => format!("{told} (DXC)"),
        Backend::Dx12 => format!("{told} (FXC)"),
        _ => told.to_owned(),
    }
}

fn accelerated_dot4_i8(adapter: &wgpu::Adapter) -> Option<String> {
    hal::accelerates_dot4_i8(adapter).then(|| hal::ACCELERATED_DOT4_I8.to_owned())
}

fn describe(adapter: &wgpu::Adapter) -> Device {
    let info = adapter.get_info();
    let features = adapter.features();
    let pci = (info.vendor != 0 && info.vendor <= 0xffff && info.device != 0)
        .then(|| format!("{:04x}:{:04x}", info.vendor, info.device));
    Device {
        name: info.name.trim().to_owned(),
        backend: backend_name(info.backend).to_owned(),
        driver: driver(&info, features),
        device_type: device_type_name(info.device_type).to_owned(),
        runner: "wgpu".to_owned(),
        pci_id: pci,
        pci_bus_id: Some(info.device_pci_bus_id.clone()).filter(|id| !id.is_empty()),
        chip_id: None,
        limits: limits_map(&capacity(adapter)),
        features: WANTED
            .iter()
            .filter(|(feature, _)| features.contains(*feature))
            .map(|(_, name)| (*name).to_owned())
            .chain(accelerated_dot4_i8(adapter))
            .collect(),
        also_reached_by: Vec::new(),
    }
}

/// The products of matrices that the device lists and a shader can name. Any other would be
/// undefined, and neither wgpu nor the driver would say so.
fn matrix_tiles(adapter: &wgpu::Adapter) -> Vec<MatrixTile> {
    let element = |scalar: wgpu::CooperativeScalarType| match scalar {
        wgpu::CooperativeScalarType::F32 => Some(Element::F32),
        wgpu::CooperativeScalarType::F16 => Some(Element::F16),
        _ => None,
    };
    adapter
        .cooperative_matrix_properties()
        .into_iter()
        .filter(|tile| tile.m_size == tile.n_size && tile.m_size == tile.k_size)
        .filter_map(|tile| {
            Some(MatrixTile {
                size: tile.m_size,
                input: element(tile.ab_type)?,
                accumulator: element(tile.cr_type)?,
            })
        })
        .collect()
}

fn capacity(adapter: &wgpu::Adapter) -> Capacity {
    let limits = adapter.limits();
    let info = adapter.get_info();
    let shares_memory = matches!(
        info.device_type,
        DeviceType::Cpu | DeviceType::IntegratedGpu
    );
    let sizes = (adapter.features().contains(Features::SUBGROUP))
        .then(|| subgroup_sizes(&info))
        .flatten();
    Capacity {
        buffer_bytes_max: limits.max_buffer_size,
        binding_bytes_max: limits.max_storage_buffer_binding_size,
        texture_bytes_max: {
            let features = adapter.get_texture_format_features(TEXTURE_FORMAT);
            let access = wgpu::TextureFormatFeatureFlags::STORAGE_READ_ONLY
                | wgpu::TextureFormatFeatureFlags::STORAGE_WRITE_ONLY;
            if features.allowed_usages.contains(TEXTURE_USAGES)
                && features.flags.contains(access)
                && limits.max_texture_dimension_2d >= TEXTURE_WIDTH
            {
                TEXEL_BYTES * u64::from(TEXTURE_WIDTH) * u64::from(limits.max_texture_dimension_2d)
            } else {
                0
            }
        },
        workgroup_bytes_max: limits.max_compute_workgroup_storage_size,
        invocation_count_max: limits.max_compute_invocations_per_workgroup,
        workgroup_size_max: [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ],
        workgroup_count_max: limits.max_compute_workgroups_per_dimension,
        subgroup_size_min: sizes.map(|(smallest, _)| smallest),
        subgroup_size_max: sizes.map(|(_, largest)| largest),
        shader_f16: adapter.features().contains(Features::SHADER_F16),
        shader_int64: adapter.features().contains(Features::SHADER_INT64),
        matrix_tiles: if adapter
            .features()
            .contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
        {
            matrix_tiles(adapter)
        } else {
            Vec::new()
        },
        // A device that lives in the host's memory must leave half of it to everything else.
        memory_bytes_budget: if shares_memory {
            Some(machine::memory_bytes() / 2).filter(|bytes| *bytes > 0)
        } else {
            hal::memory_bytes(adapter)
        },
    }
}

fn limits_map(capacity: &Capacity) -> BTreeMap<String, u64> {
    let mut limits = BTreeMap::from([
        ("buffer_bytes_max".to_owned(), capacity.buffer_bytes_max),
        ("binding_bytes_max".to_owned(), capacity.binding_bytes_max),
        (
            "workgroup_bytes_max".to_owned(),
            u64::from(capacity.workgroup_bytes_max),
        ),
        (
            "invocation_count_max".to_owned(),
            u64::from(capacity.invocation_count_max),
        ),
        (
            "workgroup_count_max".to_owned(),
            u64::from(capacity.workgroup_count_max),
        ),
    ]);
    for (name, size) in [
        ("subgroup_size_min", capacity.subgroup_size_min),
        ("subgroup_size_max", capacity.subgroup_size_max),
    ] {
        limits.extend(size.map(|size| (name.to_owned(), u64::from(size))));
    }
    if let Some(bytes) = capacity.memory_bytes_budget {
        limits.insert("memory_bytes_budget".to_owned(), bytes);
    }
    limits
}

/// Every device that can compute, best first, one entry per device: where several APIs reach the
/// same one, the entry is the first of Vulkan, Metal, DX12 and GL, and names the others.
#[must_use]
pub fn enumerate(backend: Option<&str>) -> Vec<Candidate> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = match backend {
        None => Backends::VULKAN | Backends::METAL | Backends::DX12 | Backends::GL,
        Some("vulkan") => Backends::VULKAN,
        Some("metal") => Backends::METAL,
        Some("dx12") => Backends::DX12,
        Some(_) => Backends::GL,
    };
    let backends = descriptor.backends;
    // Debug layers change what is measured.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let mut found: Vec<Candidate> = pollster::block_on(instance.enumerate_adapters(backends))
        .into_iter()
        .filter(|adapter| {
            adapter.get_info().backend != Backend::Noop
                && adapter
                    .get_downlevel_capabilities()
                    .flags
                    .contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        })
        .map(|adapter| Candidate {
            device: describe(&adapter),
            adapter,
        })
        .collect();
    let type_rank = |device: &Device| {
        [
            "discrete_gpu",
            "integrated_gpu",
            "virtual_gpu",
            "other",
            "cpu",
        ]
        .iter()
        .position(|name| *name == device.device_type)
    };
    let backend_rank = |device: &Device| BACKENDS.iter().position(|name| *name == device.backend);
    // The API comes first so that of two entries for one device the preferred one is kept.
    found.sort_by_key(|candidate| backend_rank(&candidate.device));
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in found {
        match kept
            .iter_mut()
            .find(|other| same_device(&other.device, &candidate.device))
        {
            Some(first) => first
                .device
                .also_reached_by
                .push(candidate.device.backend.clone()),
            None => kept.push(candidate),
        }
    }
    kept.sort_by_key(|candidate| type_rank(&candidate.device));
    kept
}

/// Whether two entries of different APIs are one device: by PCI address where both know it, else
/// by PCI id, else by name. Two entries of one API are two devices.
fn same_device(one: &Device, other: &Device) -> bool {
    if one.backend == other.backend || one.also_reached_by.contains(&other.backend) {
        return false;
    }
    match (
        &one.pci_bus_id,
        &other.pci_bus_id,
        &one.pci_id,
        &other.pci_id,
    ) {
        (Some(a), Some(b), _, _) => a == b,
        (_, _, Some(a), Some(b)) if a == b => true,
        _ => {
            // GL adds its own decorations, such as "/PCIe/SSE2", to the name.
            let (a, b) = (one.name.to_lowercase(), other.name.to_lowercase());
            !a.is_empty() && !b.is_empty() && (a.starts_with(&b) || b.starts_with(&a))
        }
    }
}

/// Picks the device that `selector` means: its index, its PCI id or address, or part of its name.
///
/// # Errors
/// When there is none, none fits, or several do; the message lists what there is.
pub fn select(candidates: Vec<Candidate>, selector: Option<&str>) -> GpuResult<Candidate> {
    let list = || {
        candidates
            .iter()
            .enumerate()
            .map(|(index, c)| format!("{index}: {} ({})", c.device.name, c.device.backend))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let refuse = |message: String| GpuError::new(FaultKind::NoDevice, message);
    let index = match selector {
        _ if candidates.is_empty() => Err(refuse("no wgpu adapter was found".to_owned())),
        None => Ok(0),
        Some(text) => {
            if let Ok(index) = text.parse::<usize>() {
                if index < candidates.len() {
                    Ok(index)
                } else {
                    Err(refuse(format!(
                        "there is no device {index}; these are there: {}",
                        list()
                    )))
                }
            } else {
                let wanted = text.to_lowercase();
                let fits = |device: &Device| {
                    device.name.to_lowercase().contains(&wanted)
                        || device.pci_id.as_deref() == Some(&wanted)
                        || device.pci_bus_id.as_deref() == Some(&wanted)
                };
                let mut hits = (0..candidates.len()).filter(|&i| fits(&candidates[i].device));
                match (hits.next(), hits.next()) {
                    (Some(index), None) => Ok(index),
                    (None, _) => Err(refuse(format!(
                        "no device fits {text:?}; these are there: {}",
                        list()
                    ))),
                    (Some(_), Some(_)) => Err(refuse(format!(
                        "{text:?} fits more than one device; choose by index: {}",
                        list()
                    ))),
                }
            }
        }
    }?;
    candidates
        .into_iter()
        .nth(index)
        .ok_or_else(|| GpuError::new(FaultKind::NoDevice, "no wgpu adapter was found"))
}

/// Storage the device owns.
pub struct Buffer {
    /// Where it lies, by itself or with others ([`Gpu::create_buffers`]).
    inner: wgpu::Buffer,
    offset: u64,
    size: u64,
}

impl Buffer {
    /// Its size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// The size of what the API knows as one buffer and this is a part of.
    #[must_use]
    pub fn whole_bytes(&self) -> u64 {
        self.inner.size()
    }

    /// Whether both lie in what the API knows as one buffer.
    #[must_use]
    pub fn lies_with(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

/// Texels in a row of a texture that stands for a buffer; kernels know it as `TEXTURE_WIDTH`.
pub const TEXTURE_WIDTH: u32 = 4096;

/// Four floats, which shaders of every API can write and read as storage.
const TEXTURE_FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba32Float;
const TEXEL_BYTES: u64 = 16;
/// Copies into it are there for wgpu, which zeroes what nobody has written: without them it does so by
/// a render pass, and after one lavapipe takes timestamps by its rasteriser's threads, which get no
/// turn while a dispatch has all cores (17 us were stated of a dispatch that took 3 ms).
const TEXTURE_USAGES: wgpu::TextureUsages =
    wgpu::TextureUsages::STORAGE_BINDING.union(wgpu::TextureUsages::COPY_DST);

/// A texture that stands for a buffer of vectors of four f32: vector `i` is the texel at
/// `i % TEXTURE_WIDTH`, `i / TEXTURE_WIDTH`. Kernels read it as storage and not through a sampler's
/// way, which asks of each lane which level of detail it wants: on lavapipe twice the time of a load.
pub struct Texture {
    view: wgpu::TextureView,
    size_bytes: u64,
}

impl Texture {
    /// Its size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// How a kernel uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Storage that is only read.
    Read,
    /// Storage that is read and written.
    Write,
    /// A texture, which no dispatch may both write and read: the entry points that write it know it
    /// at this binding, those that read it at the next one. It is the last.
    Texture,
}

/// What is bound.
#[derive(Clone, Copy)]
pub enum Bound<'a> {
    /// A buffer with the bytes that the kernel may see.
    Buffer(&'a Buffer, u64),
    /// A whole texture.
    Texture(&'a Texture),
}

/// Compiled entry points that share bindings: a uniform block, then storage buffers, then a texture
/// where there is one. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    /// One; where there is a texture, that of the entry points which read it, then that of those
    /// which write it.
    layouts: Vec<wgpu::BindGroupLayout>,
    /// In the order of dispatch, each with the index of its layout.
    stages: Vec<(wgpu::ComputePipeline, usize)>,
}

/// Whether an entry point stores to a texture.
fn stores_to_texture(module: &naga::Module, entry_point: &str) -> bool {
    let stores = |handle| {
        let variable: &naga::GlobalVariable = &module.global_variables[handle];
        let class = match module.types[variable.ty].inner {
            naga::TypeInner::Image { class, .. } => Some(class),
            _ => None,
        };
        matches!(class, Some(naga::ImageClass::Storage { access, .. })
            if access.contains(naga::StorageAccess::STORE))
    };
    let mut entries = module.entry_points.iter();
    entries.any(|entry| {
        entry.name == entry_point
            && entry.function.expressions.iter().any(|(_, expression)| {
                matches!(*expression, naga::Expression::GlobalVariable(handle) if stores(handle))
            })
    })
}

/// A pipeline with its buffers and grids: ready to be called.
pub struct Call {
    pipeline: Pipeline,
    /// One for each set of buffers that successive calls take by turns and each layout.
    bindings: Vec<Vec<wgpu::BindGroup>>,
    /// The set that the next call takes. Only one thread encodes at a time.
    turn: AtomicUsize,
    grids: Vec<[u32; 3]>,
}

impl Call {
    /// Encodes one call on the set whose turn it is. `bound` says what the pass has bound.
    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, bound: &mut Option<(usize, usize)>) {
        let turn = self.turn.load(Ordering::Relaxed);
        let next = (turn + 1) % self.bindings.len();
        self.turn.store(next, Ordering::Relaxed);
        for ((stage, layout), grid) in self.pipeline.stages.iter().zip(&self.grids) {
            if *bound != Some((turn, *layout)) {
                pass.set_bind_group(0, &self.bindings[turn][*layout], &[]);
                *bound = Some((turn, *layout));
            }
            pass.set_pipeline(stage);
            pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        }
    }
}

struct Clock {
    stamps: Stamps,
    /// Seconds of one tick, as the API states it.
    period_s: f64,
    /// Smallest difference seen between timestamps.
    quantum_s: Cell<f64>,
    /// The last pair of timestamps, in ticks.
    last: Cell<(u64, u64)>,
}

/// Where a span's two timestamps are written, and where they are read.
struct Stamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
}

impl Stamps {
    /// Brings the two timestamps to where the host can read them.
    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, 16);
    }
}

/// What it takes to encode a span of calls, on any thread.
struct Encoding<'a> {
    compiler: &'a Compiler,
    stamps: Option<&'a Stamps>,
    /// Whether the timestamps are resolved with the work.
    resolves: bool,
    call: &'a Call,
    repeat_count: u32,
}

impl Encoding<'_> {
    fn encode(&self) -> GpuResult<wgpu::CommandBuffer> {
        self.compiler.guarded(|| {
            let mut encoder = self
                .compiler
                .device
                .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: self.stamps.map(|stamps| wgpu::ComputePassTimestampWrites {
                        query_set: &stamps.queries,
                        beginning_of_pass_write_index: Some(0),
                        end_of_pass_write_index: Some(1),
                    }),
                });
                let mut bound = None;
                for _ in 0..self.repeat_count {
                    self.call.dispatch(&mut pass, &mut bound);
                }
            }
            if let Some(stamps) = self.stamps.filter(|_| self.resolves) {
                stamps.resolve(&mut encoder);
            }
            encoder.finish()
        })
    }
}

/// What compiles for an open device, on any thread.
#[derive(Clone)]
pub struct Compiler {
    device: wgpu::Device,
    lost: Arc<Mutex<Option<String>>>,
    checks: bool,
    /// The version of SPIR-V in which the device takes programs for matrix units from us; `None` where
    /// wgpu writes them.
    spirv_version: Option<(u8, u8)>,
}

impl Compiler {
    /// What wgpu makes of a module, or where it leaves out what makes a program for matrix units right
    /// ([`spirv::coherent`]) we do: one for each entry point then.
    fn shaders(
        &self,
        label: &str,
        module: naga::Module,
        entry_points: &[&str],
    ) -> GpuResult<Vec<wgpu::ShaderModule>> {
        let is_matrix =
            |ty: &naga::Type| matches!(ty.inner, naga::TypeInner::CooperativeMatrix { .. });
        let version = self
            .spirv_version
            .filter(|_| module.types.iter().any(|(_, ty)| is_matrix(ty)));
        let Some(version) = version else {
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some(label),
                source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module)),
            };
            let shader = self.guarded(|| {
                if self.checks {
                    return self.device.create_shader_module(descriptor);
                }
                // SAFETY: kernels guard every access themselves and every loop ends; the tests run
                // all of them over awkward shapes without the checks, and matmul, probes and plain
                // attention with them as well.
                #[allow(unsafe_code)]
                unsafe {
                    self.device.create_shader_module_trusted(
                        descriptor,
                        wgpu::ShaderRuntimeChecks::unchecked(),
                    )
                }
            })?;
            return Ok(vec![shader]);
        };
        let made = entry_points.iter().map(|name| {
            let words = spirv::of(&module, name, version)
                .map_err(|reason| GpuError::new(FaultKind::Internal, reason))?;
            self.guarded(|| {
                let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
                    label: Some(label),
                    entry_points: std::borrow::Cow::Owned(vec![
                        wgpu::PassthroughShaderEntryPoint {
                            name: std::borrow::Cow::Borrowed(name),
                            workgroup_size: (0, 0, 0), // Vulkan reads it in the program
                        },
                    ]),
                    spirv: Some(std::borrow::Cow::Owned(words)),
                    ..Default::default()
                };
                // SAFETY: it is the SPIR-V of a validated module, as wgpu itself writes it but for the
                // order of accesses to workgroup memory, and has the bindings of the layout below.
                #[allow(unsafe_code)]
                unsafe {
                    self.device.create_shader_module_passthrough(descriptor)
                }
            })
        });
        made.collect()
    }

    /// Runs `work` and returns what it made unless the device objected.
    fn guarded<T>(&self, work: impl FnOnce() -> T) -> GpuResult<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = work();
        let errors = [
            (FaultKind::Validation, pollster::block_on(validation.pop())),
            (FaultKind::Internal, pollster::block_on(internal.pop())),
            (FaultKind::OutOfMemory, pollster::block_on(memory.pop())),
        ];
        self.check_lost()?;
        match errors
            .into_iter()
            .find_map(|(kind, error)| Some((kind, error?)))
        {
            None => Ok(made),
            Some((kind, error)) => Err(GpuError::new(kind, one_line(&error.to_string()))),
        }
    }

    fn check_lost(&self) -> GpuResult<()> {
        match self.lost.lock().ok().and_then(|slot| slot.clone()) {
            Some(reason) => Err(GpuError::new(
                FaultKind::DeviceLost,
                format!("the device was lost: {reason}"),
            )),
            None => Ok(()),
        }
    }

    /// Compiles `entry_points` of `module` for bindings 0 (uniform) and 1.. (`accesses`).
    ///
    /// # Errors
    /// When the driver or wgpu refuses the shader.
    pub fn compile(
        &self,
        label: &str,
        module: naga::Module,
        entry_points: &[&str],
        accesses: &[Access],
    ) -> GpuResult<Pipeline> {
        let entry = |binding: u32, ty: wgpu::BindingType| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty,
            count: None,
        };
        let buffer = |ty: wgpu::BufferBindingType| wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let entries = |writes: bool| -> Vec<_> {
            std::iter::once(entry(0, buffer(wgpu::BufferBindingType::Uniform)))
                .chain((1u32..).zip(accesses).map(|(binding, access)| {
                    let read_only = *access == Access::Read;
                    match access {
                        Access::Read | Access::Write => {
                            let ty = wgpu::BufferBindingType::Storage { read_only };
                            entry(binding, buffer(ty))
                        }
                        Access::Texture if writes => entry(
                            binding,
                            wgpu::BindingType::StorageTexture {
                                access: wgpu::StorageTextureAccess::WriteOnly,
                                format: TEXTURE_FORMAT,
                                view_dimension: wgpu::TextureViewDimension::D2,
                            },
                        ),
                        Access::Texture => entry(
                            binding + 1,
                            wgpu::BindingType::StorageTexture {
                                access: wgpu::StorageTextureAccess::ReadOnly,
                                format: TEXTURE_FORMAT,
                                view_dimension: wgpu::TextureViewDimension::D2,
                            },
                        ),
                    }
                }))
                .collect()
        };
        let layout_count = 1 + usize::from(accesses.contains(&Access::Texture));
        let layout_of = |name: &str| usize::from(stores_to_texture(&module, name));
        let layouts_of: Vec<usize> = entry_points.iter().map(|name| layout_of(name)).collect();
        let shaders = self.shaders(label, module, entry_points)?;
        self.guarded(|| {
            let layouts: Vec<wgpu::BindGroupLayout> = (0..layout_count)
                .map(|index| {
                    self.device
                        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                            label: Some(label),
                            entries: &entries(index == 1),
                        })
                })
                .collect();
            let pipeline_layouts: Vec<wgpu::PipelineLayout> = layouts
                .iter()
                .map(|layout| {
                    self.device
                        .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                            label: Some(label),
                            bind_group_layouts: &[Some(layout)],
                            immediate_size: 0,
                        })
                })
                .collect();
            // An entry point that comes several times is compiled once.
            let mut stages: Vec<(wgpu::ComputePipeline, usize)> = Vec::new();
            for (index, name) in entry_points.iter().enumerate() {
                let layout = layouts_of[index];
                let stage = match entry_points[..index].iter().position(|other| other == name) {
                    Some(first) => stages[first].clone(),
                    None => {
                        let descriptor = wgpu::ComputePipelineDescriptor {
                            label: Some(label),
                            layout: pipeline_layouts.get(layout),
                            module: shaders.get(index).unwrap_or(&shaders[0]),
                            entry_point: Some(name),
                            compilation_options: wgpu::PipelineCompilationOptions {
                                zero_initialize_workgroup_memory: self.checks,
                                ..Default::default()
                            },
                            cache: None,
                        };
                        (self.device.create_compute_pipeline(&descriptor), layout)
                    }
                };
                stages.push(stage);
            }
            Pipeline { layouts, stages }
        })
    }
}

/// An open device.
pub struct Gpu {
    /// What the driver says of it.
    pub info: Device,
    /// Its limits.
    pub capacity: Capacity,
    device: wgpu::Device,
    queue: wgpu::Queue,
    clock: Option<Clock>,
    /// Why there is no such clock, where there is none.
    clock_note: &'static str,
    compiler: Compiler,
    staging: Option<wgpu::Buffer>,
}

impl Gpu {
    /// Opens a device with its full limits and every useful feature it offers.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn open(candidate: Candidate, checks: bool) -> GpuResult<Self> {
        let Candidate {
            device: mut info,
            adapter,
        } = candidate;
        let offered = adapter.features();
        let mut wanted: Vec<Features> = WANTED
            .iter()
            .map(|(feature, _)| *feature)
            .filter(|f| offered.contains(*f))
            .collect();
        let mut attempts: Vec<Vec<Features>> = wanted
            .iter()
            .map(|left_out| wanted.iter().copied().filter(|f| f != left_out).collect())
            .collect();
        attempts.push(Vec::new());
        let mut unchecked = false;
        let (device, queue) = loop {
            let mut required_features = wanted
                .iter()
                .copied()
                .fold(Features::empty(), Features::union);
            // For programs that naga does not write rightly.
            if info.backend == "vulkan"
                && required_features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
            {
                required_features |= offered & Features::PASSTHROUGH_SHADERS;
            }
            let experimental = required_features.intersects(Features::all_experimental_mask());
            let descriptor = wgpu::DeviceDescriptor {
                label: Some("chipmark"),
                required_features,
                // SAFETY: kernels that use cooperative matrices are offered only where the device
                // lists their very configuration, and their results are verified.
                #[allow(unsafe_code)]
                experimental_features: if experimental {
                    unsafe { wgpu::ExperimentalFeatures::enabled() }
                } else {
                    wgpu::ExperimentalFeatures::disabled()
                },
                required_limits: adapter.limits(),
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                ..Default::default()
            };
            if !checks && let Some(opened) = hal::open(&adapter, &descriptor) {
                unchecked = true;
                break opened;
            }
            let request = adapter.request_device(&descriptor);
            match pollster::block_on(request) {
                Ok(opened) => break opened,
                // A driver may offer a feature and still refuse it: ask again without each one by
                // itself, then without any.
                Err(_) if !attempts.is_empty() => wanted = attempts.remove(0),
                Err(error) => return Err(GpuError::new(FaultKind::NoDevice, error.to_string())),
            }
        };
        let on = device.features();
        info.features = WANTED
            .iter()
            .filter(|(f, _)| on.contains(*f))
            .map(|(_, name)| (*name).to_owned())
            .chain(accelerated_dot4_i8(&adapter))
            .chain(unchecked.then(|| hal::UNCHECKED.to_owned()))
            .collect();
        let lost = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, message| {
            if let Ok(mut slot) = sink.lock() {
                *slot = Some(format!("{reason:?}: {message}"));
            }
        });
        // Errors outside a scope would otherwise abort; they surface through the next scope or wait.
        device.on_uncaptured_error(Arc::new(|error| eprintln!("wgpu: {error}")));
        let mut capacity = capacity(&adapter);
        if !on.contains(Features::SUBGROUP) {
            capacity.subgroup_size_min = None;
            capacity.subgroup_size_max = None;
        }
        capacity.shader_f16 &= on.contains(Features::SHADER_F16);
        capacity.shader_int64 &= on.contains(Features::SHADER_INT64);
        if !on.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            capacity.matrix_tiles.clear();
        }
        let tiles = capacity.matrix_tiles.iter().map(MatrixTile::to_string);
        info.features.extend(tiles);
        let clock = on.contains(Features::TIMESTAMP_QUERY).then(|| {
            let buffer = |usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("timestamps"),
                    size: 256,
                    usage,
                    mapped_at_creation: false,
                })
            };
            Clock {
                stamps: Stamps {
                    queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                        label: Some("timestamps"),
                        ty: wgpu::QueryType::Timestamp,
                        count: 2,
                    }),
                    resolved: buffer(
                        wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                    ),
                    readable: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
                },
                period_s: f64::from(queue.get_timestamp_period()) * 1e-9,
                quantum_s: Cell::new(f64::from(queue.get_timestamp_period()) * 1e-9),
                last: Cell::new((0, 0)),
            }
        });
        let compiler = Compiler {
            device: device.clone(),
            lost,
            checks,
            spirv_version: (!checks && on.contains(Features::PASSTHROUGH_SHADERS))
                .then(|| hal::spirv_version(&adapter))
                .flatten(),
        };
        Ok(Self {
            info,
            capacity,
            device,
            queue,
            clock,
            clock_note: "the device offers no timestamps",
            compiler,
            staging: None,
        })
    }

    /// What compiles for it.
    #[must_use]
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    fn guarded<T>(&self, work: impl FnOnce() -> T) -> GpuResult<T> {
        self.compiler.guarded(work)
    }

    fn check_lost(&self) -> GpuResult<()> {
        self.compiler.check_lost()
    }

    /// The clock that [`Gpu::run`] reports from.
    #[must_use]
    pub fn timer(&self) -> Timer {
        match &self.clock {
            Some(clock) => Timer {
                clock: "device".to_owned(),
                quantum_s: clock.quantum_s.get(),
                period_s: Some(clock.period_s),
                note: None,
            },
            None => Timer {
                clock: "host".to_owned(),
                quantum_s: machine::clock_quantum_s(),
                period_s: None,
                note: Some(self.clock_note.to_owned()),
            },
        }
    }

    /// Finds the true quantum of the device's clock by calling `call`, which should be short, often:
    /// the greatest common divisor of the differences between the timestamps seen. What the API
    /// calls a period is often a fraction of it. A clock that was never written is none.
    ///
    /// # Errors
    /// When the device objects or is lost.
    pub fn measure_quantum(&mut self, call: &Call) -> GpuResult<()> {
        /// With this many differences a divisor that is too large by chance is out of the question.
        const PAIRS: u32 = 24;
        let Some(clock) = &self.clock else {
            return Ok(());
        };
        let mut divisor = 0u64;
        let mut previous: Option<u64> = None;
        let mut written = false;
        for _ in 0..PAIRS {
            self.run(call, 1)?;
            let (start, end) = clock.last.get();
            written |= start != 0 || end != 0;
            for tick in [start, end] {
                if let Some(previous) = previous {
                    divisor = gcd(divisor, tick.abs_diff(previous));
                }
                previous = Some(tick);
            }
        }
        if !written {
            self.clock = None;
            self.clock_note = "the device's timestamps are all zero";
            return Ok(());
        }
        // Nothing but equal timestamps: they cannot be told apart, and every span will be invalid.
        if divisor > 0 {
            #[allow(clippy::cast_precision_loss)]
            clock.quantum_s.set(divisor as f64 * clock.period_s);
        }
        Ok(())
    }

    /// Storage of at least `bytes`, uninitialised.
    ///
    /// # Errors
    /// When it is over a limit or there is no memory for it.
    pub fn create_buffer(&self, label: &str, bytes: u64) -> GpuResult<Buffer> {
        let inner = self.create_whole(label, bytes)?;
        let size = inner.size();
        Ok(Buffer {
            inner,
            offset: 0,
            size,
        })
    }

    /// `count` buffers of at least `bytes` each that the API knows as one: it orders a call that writes
    /// one of them after a call that wrote another, where it would let writes to buffers of their own
    /// overlap.
    ///
    /// # Errors
    /// When together they are over a limit or there is no memory for them.
    pub fn create_buffers(&self, label: &str, bytes: u64, count: usize) -> GpuResult<Vec<Buffer>> {
        let size = bytes.next_multiple_of(16);
        let stride = size.next_multiple_of(BUFFER_STRIDE);
        let behind = stride.saturating_mul(count.saturating_sub(1) as u64);
        let inner = self.create_whole(label, behind.saturating_add(size))?;
        let part = |index| Buffer {
            inner: inner.clone(),
            offset: stride * index as u64,
            size,
        };
        Ok((0..count).map(part).collect())
    }

    fn create_whole(&self, label: &str, bytes: u64) -> GpuResult<wgpu::Buffer> {
        let size = bytes.next_multiple_of(16);
        if size > self.capacity.buffer_bytes_max {
            return Err(GpuError::new(
                FaultKind::OutOfMemory,
                format!(
                    "{label} needs {size} bytes; the largest buffer is {}",
                    self.capacity.buffer_bytes_max
                ),
            ));
        }
        self.guarded(|| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    /// A texture of at least `bytes`, uninitialised.
    ///
    /// # Errors
    /// When it is over a limit or there is no memory for it.
    pub fn create_texture(&self, label: &str, bytes: u64) -> GpuResult<Texture> {
        let row_bytes = TEXEL_BYTES * u64::from(TEXTURE_WIDTH);
        let size_bytes = bytes.max(1).next_multiple_of(row_bytes);
        let height = u32::try_from(size_bytes / row_bytes)
            .ok()
            .filter(|_| size_bytes <= self.capacity.texture_bytes_max)
            .ok_or_else(|| {
                GpuError::new(
                    FaultKind::OutOfMemory,
                    format!(
                        "{label} needs {size_bytes} bytes; the largest texture is {}",
                        self.capacity.texture_bytes_max
                    ),
                )
            })?;
        let view = self.guarded(|| {
            self.device
                .create_texture(&wgpu::TextureDescriptor {
                    label: Some(label),
                    size: wgpu::Extent3d {
                        width: TEXTURE_WIDTH,
                        height,
                        depth_or_array_layers: 1,
                    },
                    mip_level_count: 1,
                    sample_count: 1,
                    dimension: wgpu::TextureDimension::D2,
                    format: TEXTURE_FORMAT,
                    usage: TEXTURE_USAGES,
                    view_formats: &[],
                })
                .create_view(&wgpu::TextureViewDescriptor::default())
        })?;
        Ok(Texture { view, size_bytes })
    }

    /// Uploads `bytes` to the start of `buffer`.
    ///
    /// # Errors
    /// When the device objects.
    pub fn write(&self, buffer: &Buffer, bytes: &[u8]) -> GpuResult<()> {
        self.guarded(|| {
            self.queue.write_buffer(&buffer.inner, buffer.offset, bytes);
        })
    }

    /// Reads the first `bytes` of `buffer` back.
    ///
    /// # Errors
    /// When the device objects or is lost.
    pub fn read(&mut self, buffer: &Buffer, bytes: u64) -> GpuResult<Vec<u8>> {
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.read_into(buffer, &mut data)?;
        Ok(data)
    }

    /// Reads the start of `buffer` back into `target`, whose length is a multiple of four, in
    /// pieces so that a large one needs no second copy of itself in device memory.
    ///
    /// # Errors
    /// When the device objects or is lost.
    pub fn read_into(&mut self, buffer: &Buffer, target: &mut [u8]) -> GpuResult<()> {
        const PIECE: u64 = 64 << 20;
        let piece = PIECE.min(target.len() as u64);
        if self
            .staging
            .as_ref()
            .is_none_or(|staging| staging.size() < piece)
        {
            self.staging = Some(self.guarded(|| {
                self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("readback"),
                    size: piece,
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })?);
        }
        let Some(staging) = self.staging.as_ref() else {
            return Err(GpuError::new(FaultKind::Internal, "no readback buffer"));
        };
        let mut offset = 0;
        for target in target.chunks_mut(usize::try_from(PIECE).unwrap_or(usize::MAX)) {
            let size = target.len() as u64;
            self.guarded(|| {
                let mut encoder = self
                    .device
                    .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                let from = buffer.offset + offset;
                encoder.copy_buffer_to_buffer(&buffer.inner, from, staging, 0, size);
                self.queue.submit([encoder.finish()])
            })?;
            self.map(staging, target)?;
            offset += size;
        }
        Ok(())
    }

    /// Waits for the start of a buffer that the host can read and copies it to `target`.
    fn map(&self, buffer: &wgpu::Buffer, target: &mut [u8]) -> GpuResult<()> {
        let size = target.len() as u64;
        let slice = buffer.slice(..size);
        let (sender, receiver) = std::sync::mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |result| {
            let _ = sender.send(result);
        });
        self.wait(None)?;
        match receiver.try_recv() {
            Ok(Ok(())) => {}
            other => {
                self.check_lost()?;
                return Err(GpuError::new(
                    FaultKind::Internal,
                    format!("readback failed: {other:?}"),
                ));
            }
        }
        let data = slice.get_mapped_range().map_err(|error| {
            GpuError::new(FaultKind::Internal, format!("readback failed: {error}"))
        })?;
        target.copy_from_slice(&data);
        drop(data);
        buffer.unmap();
        Ok(())
    }

    fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> GpuResult<()> {
        let result = self.device.poll(wgpu::PollType::Wait {
            submission_index: submission,
            timeout: Some(WAIT_MAX),
        });
        self.check_lost()?;
        result.map(|_| ()).map_err(|error| {
            GpuError::new(
                FaultKind::DeviceLost,
                format!("waiting for the device failed: {error}"),
            )
        })
    }

    /// Binds a uniform block and what each of `sets` holds, and sets the grid of every entry point.
    /// Successive calls take the sets by turns.
    ///
    /// # Errors
    /// When the device objects.
    pub fn bind(
        &self,
        pipeline: &Pipeline,
        params: &[u32],
        sets: &[Vec<Bound<'_>>],
        grids: Vec<[u32; 3]>,
    ) -> GpuResult<Call> {
        let bytes: &[u8] = bytemuck::cast_slice(params);
        let bindings = self.guarded(|| {
            let uniform = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("params"),
                size: (bytes.len() as u64).next_multiple_of(16),
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            self.queue.write_buffer(&uniform, 0, bytes);
            let group = |set: &Vec<Bound<'_>>, (index, layout): (usize, &_)| {
                let mut entries = vec![wgpu::BindGroupEntry {
                    binding: 0,
                    resource: uniform.as_entire_binding(),
                }];
                entries.extend((1u32..).zip(set).map(|(binding, bound)| match *bound {
                    Bound::Buffer(buffer, size) => wgpu::BindGroupEntry {
                        binding,
                        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                            buffer: &buffer.inner,
                            offset: buffer.offset,
                            // Whole vectors, as buffers are made; never more than was asked for
                            // besides.
                            size: std::num::NonZeroU64::new(size.next_multiple_of(16)),
                        }),
                    },
                    Bound::Texture(texture) => wgpu::BindGroupEntry {
                        binding: binding + u32::from(index == 0),
                        resource: wgpu::BindingResource::TextureView(&texture.view),
                    },
                }));
                self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout,
                    entries: &entries,
                })
            };
            let groups = |set| {
                let layouts = pipeline.layouts.iter().enumerate();
                layouts.map(|layout| group(set, layout)).collect()
            };
            sets.iter().map(groups).collect()
        })?;
        Ok(Call {
            pipeline: pipeline.clone(),
            bindings,
            turn: AtomicUsize::new(0),
            grids,
        })
    }

    /// Calls `repeat_count` times in one submission and waits, timing on both clocks.
    ///
    /// The host's clock runs from before the submission to its completion, encoding excluded.
    /// `device_s` is absent where the device has no timestamps or gave a pair that makes no sense.
    ///
    /// # Errors
    /// When the device objects or is lost.
    pub fn run(&self, call: &Call, repeat_count: u32) -> GpuResult<Span> {
        self.run_encoded(self.encoding(call, repeat_count).encode()?, repeat_count)
    }

    /// [`Gpu::run`] `span_count` times. On a GPU each span is encoded while the one before it runs: of
    /// calls of microseconds the host encodes hardly more than the device does in that time, and the
    /// device would idle for half of it.
    ///
    /// # Errors
    /// When the device objects or is lost.
    pub fn run_spans(
        &self,
        call: &Call,
        repeat_count: u32,
        span_count: u32,
    ) -> GpuResult<Vec<Span>> {
        if span_count > 1 && self.encodes_ahead() {
            self.run_ahead(call, repeat_count, span_count)
        } else {
            self.run_behind(call, repeat_count, span_count)
        }
    }

    /// [`Gpu::run_spans`], each span encoded after the one before it has ended.
    fn run_behind(&self, call: &Call, repeat_count: u32, span_count: u32) -> GpuResult<Vec<Span>> {
        (0..span_count)
            .map(|_| self.run(call, repeat_count))
            .collect()
    }

    /// Whether a second thread may encode: where the device has a clock of its own, since the host's would
    /// tell the two threads' waiting for each other as well (where it has to serve all the same, spans are
    /// asked for one by one), where wgpu has no lock around the whole API, and where the processor is not
    /// what is measured.
    fn encodes_ahead(&self) -> bool {
        self.clock.is_some()
            && !self.resolves_apart()
            && self.info.device_type != "cpu"
            && std::thread::available_parallelism().is_ok_and(|count| count.get() > 1)
    }

    /// [`Gpu::run_spans`], with a thread that encodes.
    pub(crate) fn run_ahead(
        &self,
        call: &Call,
        repeat_count: u32,
        span_count: u32,
    ) -> GpuResult<Vec<Span>> {
        let encoding = self.encoding(call, repeat_count);
        std::thread::scope(|scope| {
            // Without room: no more than one span is encoded ahead.
            let (sender, receiver) = mpsc::sync_channel(0);
            let encode = move || {
                for _ in 0..span_count {
                    let commands = encoding.encode();
                    let failed = commands.is_err();
                    if sender.send(commands).is_err() || failed {
                        break;
                    }
                }
            };
            if std::thread::Builder::new()
                .spawn_scoped(scope, encode)
                .is_err()
            {
                // The system gives no thread.
                return self.run_behind(call, repeat_count, span_count);
            }
            receiver
                .iter()
                .map(|commands| self.run_encoded(commands?, repeat_count))
                .collect()
        })
    }

    fn encoding<'a>(&'a self, call: &'a Call, repeat_count: u32) -> Encoding<'a> {
        Encoding {
            compiler: &self.compiler,
            stamps: self.clock.as_ref().map(|clock| &clock.stamps),
            resolves: !self.resolves_apart(),
            call,
            repeat_count,
        }
    }

    fn run_encoded(&self, commands: wgpu::CommandBuffer, repeat_count: u32) -> GpuResult<Span> {
        let started = Instant::now();
        let submission = self.guarded(|| self.queue.submit([commands]))?;
        let submit_s = started.elapsed().as_secs_f64();
        self.wait(Some(submission))?;
        let host_s = started.elapsed().as_secs_f64();
        let device_s = match &self.clock {
            Some(clock) => self.timestamps(clock)?,
            None => None,
        };
        Ok(Span {
            device_s,
            host_s,
            submit_s: Some(submit_s),
            repeat_count,
        })
    }

    /// Calls `repeat_count` times, each in a submission of its own that is waited for, and adds up
    /// the host's time from submission to completion. Encoding is left out, as in [`Gpu::run`].
    ///
    /// # Errors
    /// When the device objects or is lost.
    pub fn run_apart(&self, call: &Call, repeat_count: u32) -> GpuResult<Span> {
        let (mut host_s, mut submit_s) = (0.0, 0.0);
        for _ in 0..repeat_count {
            let commands = self.guarded(|| {
                let mut encoder = self
                    .device
                    .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                {
                    let mut pass =
                        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    call.dispatch(&mut pass, &mut None);
                }
                encoder.finish()
            })?;
            // No error scope around these: it would be part of the time.
            let started = Instant::now();
            let submission = self.queue.submit([commands]);
            submit_s += started.elapsed().as_secs_f64();
            self.wait(Some(submission))?;
            host_s += started.elapsed().as_secs_f64();
        }
        Ok(Span {
            device_s: None,
            host_s,
            submit_s: Some(submit_s),
            repeat_count,
        })
    }

    /// Uploads `bytes` to the start of `buffer` `repeat_count` times, each time until they are
    /// there, and adds up the host's time. `bytes` are a multiple of four.
    ///
    /// # Errors
    /// When the device objects or is lost.
    pub fn upload(&self, buffer: &Buffer, bytes: &[u8], repeat_count: u32) -> GpuResult<Span> {
        let (mut host_s, mut submit_s) = (0.0, 0.0);
        for _ in 0..repeat_count {
            let started = Instant::now();
            let submission = self.guarded(|| {
                self.queue.write_buffer(&buffer.inner, buffer.offset, bytes);
                // The write itself is not submitted before something else is.
                self.queue.submit([])
            })?;
            submit_s += started.elapsed().as_secs_f64();
            self.wait(Some(submission))?;
            host_s += started.elapsed().as_secs_f64();
        }
        Ok(Span {
            device_s: None,
            host_s,
            submit_s: Some(submit_s),
            repeat_count,
        })
    }

    /// Reads the start of `buffer` back into `target` `repeat_count` times and adds up the host's
    /// time until the bytes lie there. `target` has a multiple of four bytes.
    ///
    /// # Errors
    /// When the device objects or is lost.
    pub fn readback(
        &mut self,
        buffer: &Buffer,
        target: &mut [u8],
        repeat_count: u32,
    ) -> GpuResult<Span> {
        let started = Instant::now();
        for _ in 0..repeat_count {
            self.read_into(buffer, target)?;
        }
        Ok(Span {
            device_s: None,
            host_s: started.elapsed().as_secs_f64(),
            submit_s: None,
            repeat_count,
        })
    }

    /// Whether timestamps are resolved in a submission of their own, after the work is done: Metal has
    /// been seen to return zeros otherwise, and OpenGL is asked as it always was. Elsewhere it would only
    /// be one submission more between two spans, in which the device idles.
    fn resolves_apart(&self) -> bool {
        !matches!(&*self.info.backend, "vulkan" | "dx12")
    }

    /// Seconds between the two timestamps.
    fn timestamps(&self, clock: &Clock) -> GpuResult<Option<f64>> {
        if self.resolves_apart() {
            self.guarded(|| {
                let mut encoder = self
                    .device
                    .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                clock.stamps.resolve(&mut encoder);
                self.queue.submit([encoder.finish()])
            })?;
        }
        let mut bytes = [0u8; 16];
        self.map(&clock.stamps.readable, &mut bytes)?;
        let word = |at: usize| {
            let mut word = [0u8; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (start, end) = (word(0), word(8));
        let last = clock.last.replace((start, end));
        if self.info.backend == "metal" && last.0 != 0 && last.1 > last.0 && (start, end) == last {
            // The system ends a command buffer that takes too long, wgpu takes it for a finished one, and
            // the timestamps are still those of the one before. Zeros are something else: a pair that
            // makes no sense, which Metal has been seen to give of work that was done.
            return Err(GpuError::new(
                FaultKind::DeviceLost,
                "the system ended a submission before its time: timestamps have not moved",
            ));
        }
        // A slot that was never written reads as zero.
        #[allow(clippy::cast_precision_loss)]
        Ok((start != 0 && end > start).then(|| (end - start) as f64 * clock.period_s))
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, backend: &str, pci_bus_id: Option<&str>) -> Device {
        Device {
            name: name.to_owned(),
            backend: backend.to_owned(),
            pci_bus_id: pci_bus_id.map(str::to_owned),
            ..Device::default()
        }
    }

    #[test]
    fn the_quantum_is_the_largest_step_that_explains_every_difference() {
        // A clock that ticks by 32 ns and is read in nanoseconds.
        let differences = [96u64, 4128, 160, 32_000];
        assert_eq!(differences.into_iter().fold(0, gcd), 32);
        assert_eq!(gcd(0, 0), 0);
    }

    #[test]
    fn one_device_behind_two_apis_is_one_and_two_equal_cards_are_two() {
        let vulkan = device("NVIDIA H100", "vulkan", Some("0000:01:00.0"));
        assert!(same_device(
            &vulkan,
            &device("NVIDIA H100/PCIe/SSE2", "gl", None)
        ));
        assert!(!same_device(
            &vulkan,
            &device("NVIDIA H100", "vulkan", Some("0000:02:00.0"))
        ));
        assert!(!same_device(
            &vulkan,
            &device("NVIDIA H100", "dx12", Some("0000:02:00.0"))
        ));
        assert!(!same_device(&vulkan, &device("llvmpipe", "gl", None)));
    }
}
