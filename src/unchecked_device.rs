//! A device of wgpu's whose driver does not check accesses to buffers, for kernels that do so themselves.
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

/// What a device's features say where its driver checks no access to a buffer.
pub const UNCHECKED: &str = "unchecked_buffers";

/// A device and its queue.
type Opened = (wgpu::Device, wgpu::Queue);

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
