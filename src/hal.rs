//! What wgpu keeps to itself and the layer below it (wgpu-hal) hands out: of Vulkan, a device without
//! checks of buffers, whether products of bytes are the hardware's, and how much memory a GPU has.
//!
//! wgpu promises that no shader reads or writes beyond a buffer, and asks every Vulkan driver to see to it
//! (`robustBufferAccess`, `robustBufferAccess2`), however a module is created. By these rules each element
//! of a vector is inside or outside by itself. Drivers that check in the program, as Mesa's for NVIDIA's
//! and Apple's GPUs do, therefore load the four elements of a vector one by one, each behind a comparison;
//! libraries that a kernel is held against do neither. `tests/bounds.rs` watches our kernels for what lies
//! beyond.

// Vulkan is a C interface, and so is what wgpu hands out of its own. What each call demands is said
// beside it.
#![allow(unsafe_code)]

#[cfg(not(target_vendor = "apple"))]
use std::ffi::c_char;

#[cfg(not(target_vendor = "apple"))]
use ash::vk;

#[cfg(not(target_vendor = "apple"))]
use crate::spirv;

/// What a device's features say where its driver checks no access to a buffer.
pub const UNCHECKED: &str = "unchecked_buffers";

/// What a device's features say where a product of four signed bytes in a word (`dot4I8Packed`) is faster
/// than one written out, by its driver's word. Where it is absent the driver denies it, or the API does not
/// tell: only Vulkan does.
pub const ACCELERATED_DOT4_I8: &str = "accelerated_dot4_i8";

/// A device and its queue.
type Opened = (wgpu::Device, wgpu::Queue);

/// Whether the device is said to accelerate `dot4I8Packed`, and wgpu writes its shaders so that it can
/// (`integerDotProduct4x8BitPackedSignedAccelerated` of `VK_KHR_shader_integer_dot_product`).
#[must_use]
pub fn accelerates_dot4_i8(adapter: &wgpu::Adapter) -> bool {
    #[cfg(not(target_vendor = "apple"))]
    {
        vulkan_accelerates_dot4_i8(adapter) == Some(true)
    }
    #[cfg(target_vendor = "apple")]
    {
        let _ = adapter;
        false
    }
}

#[cfg(not(target_vendor = "apple"))]
fn vulkan_accelerates_dot4_i8(adapter: &wgpu::Adapter) -> Option<bool> {
    // SAFETY: nothing of it is destroyed, and nothing kept.
    let inner = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    // The extension is a part of Vulkan 1.3, and drivers of that version list it still.
    let capabilities = inner.physical_device_capabilities();
    if !capabilities.supports_extension(ash::khr::shader_integer_dot_product::NAME) {
        return Some(false);
    }
    let shared = inner.shared_instance();
    if shared.instance_api_version() < vk::API_VERSION_1_1 {
        return None;
    }
    let mut dot = vk::PhysicalDeviceShaderIntegerDotProductProperties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut dot);
    // SAFETY: the instance is wgpu's, alive and of Vulkan 1.1 at least, the physical device one of its, and
    // it has the extension of the structure.
    unsafe {
        (shared.raw_instance())
            .get_physical_device_properties2(inner.raw_physical_device(), &mut properties);
    }
    Some(dot.integer_dot_product4x8_bit_packed_signed_accelerated == vk::TRUE)
}

/// Bytes that a device with memory of its own has for this process: what its driver says is left of the
/// largest heap, or nine tenths of that heap where it does not say. Beyond it Windows moves buffers to the
/// host's memory without a word, and a bandwidth would be that of the bus. Only Vulkan tells.
#[must_use]
pub fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    #[cfg(not(target_vendor = "apple"))]
    {
        vulkan_memory_bytes(adapter)
    }
    #[cfg(target_vendor = "apple")]
    {
        let _ = adapter;
        None
    }
}

#[cfg(not(target_vendor = "apple"))]
fn vulkan_memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: nothing of it is destroyed, and nothing kept.
    let inner = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let shared = inner.shared_instance();
    if shared.instance_api_version() < vk::API_VERSION_1_1 {
        return None;
    }
    let tells =
        (inner.physical_device_capabilities()).supports_extension(ash::ext::memory_budget::NAME);
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceMemoryProperties2::default();
    if tells {
        properties = properties.push_next(&mut budget);
    }
    // SAFETY: the instance is wgpu's, alive and of Vulkan 1.1 at least, the physical device one of its, and
    // the structure that asks for budgets is there only where the device has the extension.
    unsafe {
        (shared.raw_instance())
            .get_physical_device_memory_properties2(inner.raw_physical_device(), &mut properties);
    }
    let memory = properties.memory_properties;
    let (place, heap) = (memory.memory_heaps_as_slice().iter().enumerate())
        .filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL))
        .max_by_key(|(_, heap)| heap.size)?;
    Some(if tells && budget.heap_budget[place] > 0 {
        budget.heap_budget[place].min(heap.size)
    } else {
        heap.size / 10 * 9
    })
}

/// The version of SPIR-V that wgpu writes for a Vulkan device.
#[must_use]
pub fn spirv_version(adapter: &wgpu::Adapter) -> Option<(u8, u8)> {
    #[cfg(not(target_vendor = "apple"))]
    {
        // SAFETY: nothing of it is destroyed, and nothing kept.
        let inner = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
        let properties = inner.physical_device_capabilities().properties();
        spirv::version(properties.api_version)
    }
    #[cfg(target_vendor = "apple")]
    {
        let _ = adapter;
        None
    }
}

/// Opens a device as `adapter.request_device` would, without those checks; `None` where the API is not
/// Vulkan or the driver refuses.
#[must_use]
pub fn open(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Option<Opened> {
    #[cfg(not(target_vendor = "apple"))]
    {
        vulkan(adapter, descriptor)
    }
    #[cfg(target_vendor = "apple")]
    {
        let _ = (adapter, descriptor);
        None
    }
}

#[cfg(not(target_vendor = "apple"))]
fn vulkan(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Option<Opened> {
    // SAFETY: the guard is dropped before the device is made of what it gave, and destroys nothing.
    let inner = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let wanted = descriptor.required_features;
    let extensions = inner.required_device_extensions(wanted);
    let mut features = inner.physical_device_features(&extensions, wanted);
    let names: Vec<*const c_char> = extensions.iter().map(|name| name.as_ptr()).collect();
    // The family that wgpu takes.
    let queues = [vk::DeviceQueueCreateInfo::default()
        .queue_family_index(0)
        .queue_priorities(&[1.0])];
    let mut create = features.add_to_device_create(
        vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names),
    );
    // SAFETY: wgpu has just set it, to a part of `features`.
    let mut core = unsafe { create.p_enabled_features.as_ref() }.copied()?;
    core.robust_buffer_access = vk::FALSE;
    create.p_enabled_features = &raw const core;
    let mut next = create.p_next.cast_mut().cast::<vk::BaseOutStructure<'_>>();
    // SAFETY: the chain is of structures in `features`, which is ours and borrowed by nobody else, each
    // beginning with its type and the next one's address.
    while let Some(structure) = unsafe { next.as_mut() } {
        if structure.s_type == vk::StructureType::PHYSICAL_DEVICE_ROBUSTNESS_2_FEATURES_EXT {
            let robustness = next.cast::<vk::PhysicalDeviceRobustness2FeaturesEXT<'_>>();
            // SAFETY: its type says that it is one.
            unsafe { (*robustness).robust_buffer_access2 = vk::FALSE };
        }
        next = structure.p_next;
    }
    let instance = inner.shared_instance().raw_instance();
    // SAFETY: the instance is wgpu's and alive, the physical device one of its, and all that `create`
    // points to lives until the call returns. wgpu relies on the two features for modules with runtime
    // checks alone; on this device all are created without.
    let opened = unsafe {
        let raw = instance
            .create_device(inner.raw_physical_device(), &create, None)
            .ok()?;
        inner.device_from_raw(
            raw,
            None,
            &extensions,
            wanted,
            &descriptor.required_limits,
            &descriptor.memory_hints,
            0,
            0,
        )
    };
    let opened = opened.ok()?;
    drop(inner);
    // SAFETY: it was made of this adapter, with the features of the descriptor.
    unsafe { adapter.create_device_from_hal(opened, descriptor) }.ok()
}
