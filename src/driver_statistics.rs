//! What a Vulkan driver says of compiled programs: registers, spills, workgroup memory, occupancy
//! (`VK_KHR_pipeline_executable_properties`), which wgpu does not pass on.
//!
//! A small Vulkan device of our own compiles the same module and is asked; nothing is ever launched on
//! it, and it is gone when the answer is there. Vulkan is loaded at run time: where there is none, no
//! such device or no such extension, that is the answer.

use crate::protocol::{Device, Executable};

/// What the driver of `device` says of each entry point of `module`.
///
/// # Errors
/// Why it says nothing, as one line.
pub fn statistics(
    device: &Device,
    module: &naga::Module,
    entry_points: &[&str],
) -> Result<Vec<Executable>, String> {
    if device.backend != "vulkan" {
        return Err(format!(
            "only Vulkan has such statistics; the device was opened through {}",
            device.backend
        ));
    }
    #[cfg(not(target_vendor = "apple"))]
    {
        vulkan::statistics(device, module, entry_points)
    }
    #[cfg(target_vendor = "apple")]
    {
        let _ = (module, entry_points);
        Err("this build has no Vulkan".to_owned())
    }
}

/// The statistics that tell of registers that did not suffice, with their values: what is spilled, or
/// kept in memory that is private to a lane. Scalar registers spill to vector registers and cost
/// little, and some drivers count what goes from one kind of register to another apart.
#[must_use]
pub fn spilled(executables: &[Executable]) -> Vec<(String, f64)> {
    let tells = |name: &str| {
        let name = name.to_lowercase();
        let kinds = ["spill", "scratch", "stack size", "local memory"];
        kinds.iter().any(|kind| name.contains(kind))
            && !name.contains("sgpr")
            && !name.contains("to reg")
    };
    let all = executables.iter().flat_map(|one| &one.statistics);
    all.filter(|(name, value)| **value > 0.0 && tells(name))
        .map(|(name, value)| (name.clone(), *value))
        .collect()
}

#[cfg(not(target_vendor = "apple"))]
mod vulkan {
    // Vulkan is a C interface. What each call demands is said beside it.
    #![allow(unsafe_code)]

    use std::collections::BTreeMap;
    use std::ffi::{CStr, CString, c_char};

    use crate::hal::UNCHECKED;
    use crate::protocol::{Device, Executable};
    use crate::spirv;
    use ash::{ext, khr, vk};

    /// The extension that drivers answer through.
    const STATISTICS: &CStr = khr::pipeline_executable_properties::NAME;

    /// A Vulkan device that only compiles. Fields are destroyed by [`Drop`], children first.
    struct Compiler {
        // Holds the loaded library, so it has to outlive the rest.
        _entry: ash::Entry,
        instance: ash::Instance,
        device: ash::Device,
        api_version: u32,
        /// Whether the driver tells what it made of a program.
        tells: bool,
    }

    impl Drop for Compiler {
        fn drop(&mut self) {
            // SAFETY: everything made on this device was destroyed where it was made, and nothing
            // was ever submitted.
            unsafe {
                self.device.destroy_device(None);
                self.instance.destroy_instance(None);
            }
        }
    }

    /// A text of fixed length that ends with a zero byte, or with the array.
    fn text(chars: &[c_char]) -> String {
        let bytes: Vec<u8> = chars
            .iter()
            .take_while(|&&c| c != 0)
            .map(|&c| c.to_ne_bytes()[0])
            .collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    fn failed(what: &str) -> impl Fn(vk::Result) -> String + '_ {
        move |error| format!("{what} failed: {error}")
    }

    /// As what Vulkan binds a variable of a module.
    fn descriptor_type(
        module: &naga::Module,
        variable: &naga::GlobalVariable,
    ) -> vk::DescriptorType {
        match (variable.space, &module.types[variable.ty].inner) {
            (naga::AddressSpace::Uniform, _) => vk::DescriptorType::UNIFORM_BUFFER,
            (_, naga::TypeInner::Image { class, .. }) => match class {
                naga::ImageClass::Storage { .. } => vk::DescriptorType::STORAGE_IMAGE,
                _ => vk::DescriptorType::SAMPLED_IMAGE,
            },
            _ => vk::DescriptorType::STORAGE_BUFFER,
        }
    }

    impl Compiler {
        fn open(wanted: &Device) -> Result<Self, String> {
            // SAFETY: the system's Vulkan loader, the one that wgpu has loaded already.
            let entry = unsafe { ash::Entry::load() }
                .map_err(|error| format!("there is no Vulkan loader: {error}"))?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let create = vk::InstanceCreateInfo::default().application_info(&application);
            // SAFETY: all that `create` points to lives until the call returns.
            let instance = unsafe { entry.create_instance(&create, None) }
                .map_err(failed("vkCreateInstance"))?;
            match Self::device(&instance, wanted) {
                Ok((device, api_version, tells)) => Ok(Self {
                    _entry: entry,
                    instance,
                    device,
                    api_version,
                    tells,
                }),
                Err(reason) => {
                    // SAFETY: nothing of this instance is left.
                    unsafe { instance.destroy_instance(None) };
                    Err(reason)
                }
            }
        }

        /// Opens the physical device that wgpu opened, with every feature it has, as wgpu may have
        /// used any.
        fn device(
            instance: &ash::Instance,
            wanted: &Device,
        ) -> Result<(ash::Device, u32, bool), String> {
            // SAFETY: the instance is alive, here and below.
            let all = unsafe { instance.enumerate_physical_devices() }
                .map_err(failed("vkEnumeratePhysicalDevices"))?;
            let found = all.into_iter().find_map(|physical| {
                let properties = unsafe { instance.get_physical_device_properties(physical) };
                let pci_id = format!("{:04x}:{:04x}", properties.vendor_id, properties.device_id);
                let same_id = wanted.pci_id.as_ref().is_none_or(|id| *id == pci_id);
                let same_name = text(&properties.device_name) == wanted.name;
                (same_id && same_name).then_some((physical, properties.api_version))
            });
            let (physical, api_version) =
                found.ok_or_else(|| format!("Vulkan has no device {:?}", wanted.name))?;
            if api_version < vk::API_VERSION_1_2 {
                return Err("the device has Vulkan below 1.2".to_owned());
            }
            let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }
                .map_err(failed("vkEnumerateDeviceExtensionProperties"))?;
            let has = |name: &CStr| {
                extensions
                    .iter()
                    .any(|extension| text(&extension.extension_name).as_bytes() == name.to_bytes())
            };
            let tells = has(STATISTICS);
            let matrices = has(khr::cooperative_matrix::NAME);
            // As the device at work has it.
            let checked = !wanted.features.iter().any(|name| name == UNCHECKED);
            let robust = checked && has(ext::robustness2::NAME);
            let mut names = Vec::new();
            let mut v11 = vk::PhysicalDeviceVulkan11Features::default();
            let mut v12 = vk::PhysicalDeviceVulkan12Features::default();
            let mut v13 = vk::PhysicalDeviceVulkan13Features::default();
            let mut telling = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
            let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
            let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
            let mut features = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut v11)
                .push_next(&mut v12);
            if api_version >= vk::API_VERSION_1_3 {
                features = features.push_next(&mut v13);
            }
            if tells {
                names.push(STATISTICS.as_ptr());
                features = features.push_next(&mut telling);
            }
            if matrices {
                names.push(khr::cooperative_matrix::NAME.as_ptr());
                features = features.push_next(&mut matrix);
            }
            if robust {
                names.push(ext::robustness2::NAME.as_ptr());
                features = features.push_next(&mut robustness);
            }
            // SAFETY: each structure of the chain belongs to the version or to an extension that the
            // device has.
            unsafe { instance.get_physical_device_features2(physical, &mut features) };
            features.features.robust_buffer_access &= vk::Bool32::from(checked);
            let families =
                unsafe { instance.get_physical_device_queue_family_properties(physical) };
            let family = (0u32..)
                .zip(&families)
                .find(|(_, family)| family.queue_flags.contains(vk::QueueFlags::COMPUTE))
                .map(|(index, _)| index)
                .ok_or("the device has no queue that computes")?;
            let queues = [vk::DeviceQueueCreateInfo::default()
                .queue_family_index(family)
                .queue_priorities(&[1.0])];
            let create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&names)
                .push_next(&mut features);
            // SAFETY: only what the device said it has is switched on, and all that `create` points
            // to lives until the call returns.
            let device = unsafe { instance.create_device(physical, &create, None) }
                .map_err(failed("vkCreateDevice"))?;
            Ok((device, api_version, tells))
        }

        /// Compiles one entry point and, where the driver tells, asks it what it made.
        fn compile(
            &self,
            module: &naga::Module,
            entry_point: &str,
        ) -> Result<Vec<Executable>, String> {
            let version = spirv::version(self.api_version)
                .ok_or("it has a Vulkan before 1.2, for which no SPIR-V is written here")?;
            let words = spirv::of(module, entry_point, version)?;
            let name = CString::new(entry_point).map_err(|error| error.to_string())?;
            let bindings: Vec<_> = module
                .global_variables
                .iter()
                .filter_map(|(_, variable)| {
                    let binding = variable.binding.as_ref()?.binding;
                    let layout = vk::DescriptorSetLayoutBinding::default()
                        .binding(binding)
                        .descriptor_count(1)
                        .stage_flags(vk::ShaderStageFlags::COMPUTE)
                        .descriptor_type(descriptor_type(module, variable));
                    Some(layout)
                })
                .collect();
            let device = &self.device;
            // SAFETY: the SPIR-V is of a validated module, and the bindings are all that it has. What
            // is made is destroyed below on every way out, and used by nothing else.
            unsafe {
                let shader = device
                    .create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&words), None)
                    .map_err(failed("vkCreateShaderModule"))?;
                let set = device.create_descriptor_set_layout(
                    &vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings),
                    None,
                );
                let sets: Vec<_> = set.iter().copied().collect();
                let layout = set
                    .map_err(failed("vkCreateDescriptorSetLayout"))
                    .and_then(|_| {
                        device
                            .create_pipeline_layout(
                                &vk::PipelineLayoutCreateInfo::default().set_layouts(&sets),
                                None,
                            )
                            .map_err(failed("vkCreatePipelineLayout"))
                    });
                let answer = layout.clone().and_then(|layout| {
                    let stage = vk::PipelineShaderStageCreateInfo::default()
                        .stage(vk::ShaderStageFlags::COMPUTE)
                        .module(shader)
                        .name(&name);
                    let flags = if self.tells {
                        vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                    } else {
                        vk::PipelineCreateFlags::empty()
                    };
                    let create = [vk::ComputePipelineCreateInfo::default()
                        .flags(flags)
                        .stage(stage)
                        .layout(layout)];
                    let made = device
                        .create_compute_pipelines(vk::PipelineCache::null(), &create, None)
                        .map_err(|(made, error)| {
                            for pipeline in made {
                                device.destroy_pipeline(pipeline, None);
                            }
                            failed("vkCreateComputePipelines")(error)
                        })?;
                    let found = match made.first() {
                        Some(&pipeline) if self.tells => self.ask(pipeline, entry_point),
                        _ => Ok(Vec::new()),
                    };
                    for pipeline in made {
                        device.destroy_pipeline(pipeline, None);
                    }
                    found
                });
                if let Ok(layout) = layout {
                    device.destroy_pipeline_layout(layout, None);
                }
                for set in sets {
                    device.destroy_descriptor_set_layout(set, None);
                }
                device.destroy_shader_module(shader, None);
                answer
            }
        }

        /// What the driver says of a pipeline that was made to be asked.
        fn ask(
            &self,
            pipeline: vk::Pipeline,
            entry_point: &str,
        ) -> Result<Vec<Executable>, String> {
            let extension =
                khr::pipeline_executable_properties::Device::new(&self.instance, &self.device);
            let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
            // SAFETY: the extension is on and the pipeline alive; statistics are asked of executables
            // that the driver has just counted, of a pipeline made with the flag that keeps them.
            let properties = unsafe { extension.get_pipeline_executable_properties(&info) }
                .map_err(failed("vkGetPipelineExecutablePropertiesKHR"))?;
            (0u32..)
                .zip(properties)
                .map(|(index, properties)| {
                    let info = vk::PipelineExecutableInfoKHR::default()
                        .pipeline(pipeline)
                        .executable_index(index);
                    // SAFETY: as above.
                    let statistics = unsafe { extension.get_pipeline_executable_statistics(&info) }
                        .map_err(failed("vkGetPipelineExecutableStatisticsKHR"))?;
                    Ok(Executable {
                        entry_point: entry_point.to_owned(),
                        name: text(&properties.name),
                        subgroup_size: properties.subgroup_size,
                        statistics: mapped(&statistics),
                    })
                })
                .collect()
        }
    }

    /// Statistics under their names. Several of one name, as of several halves of a program, count
    /// on: `Scratch size`, `Scratch size 2`.
    fn mapped(statistics: &[vk::PipelineExecutableStatisticKHR<'_>]) -> BTreeMap<String, f64> {
        let mut all = BTreeMap::new();
        for statistic in statistics {
            #[allow(clippy::cast_precision_loss)] // registers and bytes
            // SAFETY: the driver fills the field of the union that the format names.
            let value = unsafe {
                match statistic.format {
                    vk::PipelineExecutableStatisticFormatKHR::BOOL32 => {
                        f64::from(u8::from(statistic.value.b32 != 0))
                    }
                    vk::PipelineExecutableStatisticFormatKHR::INT64 => statistic.value.i64 as f64,
                    vk::PipelineExecutableStatisticFormatKHR::UINT64 => statistic.value.u64 as f64,
                    vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => statistic.value.f64,
                    _ => continue,
                }
            };
            // JSON has no word for what is no number.
            if !value.is_finite() {
                continue;
            }
            let name = text(&statistic.name);
            let mut key = name.clone();
            let mut count = 1;
            while all.contains_key(&key) {
                count += 1;
                key = format!("{name} {count}");
            }
            all.insert(key, value);
        }
        all
    }

    pub(super) fn statistics(
        device: &Device,
        module: &naga::Module,
        entry_points: &[&str],
    ) -> Result<Vec<Executable>, String> {
        let compiler = Compiler::open(device)?;
        if !compiler.tells {
            return Err(
                "the driver does not offer VK_KHR_pipeline_executable_properties".to_owned(),
            );
        }
        let mut all = Vec::new();
        for entry_point in entry_points {
            all.extend(compiler.compile(module, entry_point)?);
        }
        Ok(all)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::catalogue::kernels;
        use crate::driver_statistics;
        use crate::gpu;
        use crate::op::Dtype;
        use crate::shader;
        use crate::unroll::{UnrollOptions, unroll};
        use crate::variant::combinations;

        /// A Vulkan device, where there is one.
        fn device() -> Option<Device> {
            let all = gpu::enumerate(Some("vulkan"));
            all.into_iter().next().map(|candidate| candidate.device)
        }

        fn module(kernel: &str) -> (naga::Module, Vec<&'static str>) {
            let all = kernels();
            let kernel = all.iter().find(|k| k.name == kernel).unwrap();
            let tunables = &combinations(kernel)[0];
            let built = shader::build(&kernel.name, &kernel.source, tunables, Dtype::F32).unwrap();
            let entry_points = kernel.passes.iter().map(|pass| pass.entry_point).collect();
            (
                unroll(&built.module, &UnrollOptions::default()).0,
                entry_points,
            )
        }

        fn name(text: &str) -> [c_char; 256] {
            let mut chars = [0; 256];
            for (to, from) in chars.iter_mut().zip(text.bytes()) {
                *to = c_char::from_ne_bytes([from]);
            }
            chars
        }

        #[test]
        fn every_format_of_a_statistic_becomes_a_number_under_its_name() {
            use vk::PipelineExecutableStatisticFormatKHR as Format;
            let one = |text, format, value| vk::PipelineExecutableStatisticKHR {
                name: name(text),
                format,
                value,
                ..Default::default()
            };
            let value = |u64| vk::PipelineExecutableStatisticValueKHR { u64 };
            let all = mapped(&[
                one("Register Count", Format::UINT64, value(168)),
                one(
                    "Spill Count",
                    Format::INT64,
                    vk::PipelineExecutableStatisticValueKHR { i64: -1 },
                ),
                one(
                    "Occupancy",
                    Format::FLOAT64,
                    vk::PipelineExecutableStatisticValueKHR { f64: 0.5 },
                ),
                one(
                    "Not a number",
                    Format::FLOAT64,
                    vk::PipelineExecutableStatisticValueKHR { f64: f64::NAN },
                ),
                one(
                    "Fused",
                    Format::BOOL32,
                    vk::PipelineExecutableStatisticValueKHR { b32: vk::TRUE },
                ),
                one("Scratch", Format::UINT64, value(64)),
                one("Scratch", Format::UINT64, value(0)),
            ]);
            let json = serde_json::to_value(&all).unwrap();
            assert_eq!(
                json,
                serde_json::json!({
                    "Register Count": 168.0, "Spill Count": -1.0, "Occupancy": 0.5, "Fused": 1.0,
                    "Scratch": 64.0, "Scratch 2": 0.0,
                })
            );
        }

        #[test]
        fn what_is_not_there_is_a_reason_and_no_failure() {
            let (module, entry_points) = module("probe/empty");
            let ask =
                |device: &Device| driver_statistics::statistics(device, &module, &entry_points);
            let metal = Device {
                backend: "metal".to_owned(),
                ..Device::default()
            };
            assert!(ask(&metal).unwrap_err().contains("metal"));
            let nowhere = Device {
                name: "a device that nobody has".to_owned(),
                backend: "vulkan".to_owned(),
                ..Device::default()
            };
            let reason = ask(&nowhere).unwrap_err();
            assert!(
                reason.contains("Vulkan") || reason.contains("vk"),
                "{reason}"
            );
            if let Some(device) = device() {
                match ask(&device) {
                    Ok(found) => assert!(!found.is_empty()),
                    Err(reason) => assert!(
                        reason.contains("VK_KHR_pipeline_executable_properties"),
                        "{reason}"
                    ),
                }
            }
        }

        #[test]
        fn the_driver_takes_the_spirv_that_it_would_be_asked_about() {
            let Some(device) = device() else {
                return;
            };
            let compiler = Compiler::open(&device).unwrap();
            for kernel in [
                "probe/empty",
                "matmul/naive",
                "matmul/register_tile",
                "matmul/subgroup_packed_texture",
                "attention/naive",
            ] {
                let (module, entry_points) = module(kernel);
                for entry_point in entry_points {
                    let made = compiler.compile(&module, entry_point);
                    assert!(made.is_ok(), "{kernel} {entry_point}: {made:?}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spills_are_found_by_the_names_that_drivers_give_them() {
        let of = |statistics: &[(&str, f64)]| {
            let one = Executable {
                statistics: statistics
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), *value))
                    .collect(),
                ..Executable::default()
            };
            let names = spilled(&[one]).into_iter().map(|(name, _)| name);
            names.collect::<Vec<_>>()
        };
        assert_eq!(
            of(&[("Register Count", 255.0), ("Stack Size", 0.0)]),
            [""; 0]
        );
        assert_eq!(
            of(&[("Register Count", 255.0), ("Stack Size", 96.0)]),
            ["Stack Size"]
        );
        assert_eq!(
            of(&[
                ("Spilled SGPRs", 9.0),
                ("Spilled VGPRs", 3.0),
                ("VGPRs", 256.0)
            ]),
            ["Spilled VGPRs"]
        );
        assert_eq!(
            of(&[("Spill Count", 2.0), ("Fill Count", 4.0)]),
            ["Spill Count"]
        );
    }
}
