//! NVIDIA's management library, loaded at run time: nothing of it is needed to build or to start.

use super::{Counter, Facts, Meter, Opened, POWER_SETTLE_S, PciAddress, SETTLE_S, Source};
use crate::protocol::Device;
use crate::report::TracePoint;

/// One number that the library gives of a GPU, in the library's own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    SmClockMhz,
    MemoryClockMhz,
    SmClockMaxMhz,
    /// Power now, without averaging.
    PowerInstantMw,
    /// Power as the driver shows it: the mean of the last second on most GPUs since Ampere.
    PowerMw,
    PowerLimitMw,
    TemperatureC,
    /// A bit for each reason; see [`REASONS`].
    ClockReasons,
    /// Energy since the driver was loaded.
    EnergyMj,
    /// One where the GPU is cut into instances.
    MigMode,
}

/// A GPU as the library lists it.
#[derive(Clone, Debug)]
pub(super) struct Gpu {
    pub index: u32,
    pub name: String,
    pub bus_id: String,
}

/// The part of the library that is used here; tests put a made-up one in its place.
pub(super) trait Library: Send {
    fn gpus(&self) -> Result<Vec<Gpu>, String>;
    fn figure(&self, index: u32, figure: Figure) -> Result<u64, String>;
}

/// The word for a clock that is low because there is nothing to do.
pub(super) const IDLE: &str = "idle";

/// Limits that somebody set on purpose: they are constant, so a device under them keeps its pace.
pub(super) const SETTINGS: [&str; 2] = ["applications clocks setting", "display clock setting"];

/// The library's bits for why clocks are not at their highest, in its words.
const REASONS: [(u64, &str); 9] = [
    (0x1, IDLE),
    (0x2, SETTINGS[0]),
    (0x4, "sw power cap"),
    (0x8, "hw slowdown"),
    (0x10, "sync boost"),
    (0x20, "sw thermal slowdown"),
    (0x40, "hw thermal slowdown"),
    (0x80, "hw power brake slowdown"),
    (0x100, SETTINGS[1]),
];

/// Finds the device among the library's GPUs.
pub(super) fn open(device: &Device, library: Box<dyn Library>) -> Result<Opened, String> {
    let gpu = find(device, library.gpus()?)?;
    let index = gpu.index;
    let figure = |figure| library.figure(index, figure);
    let power = [
        (Figure::PowerInstantMw, SETTLE_S),
        (Figure::PowerMw, POWER_SETTLE_S),
    ]
    .into_iter()
    .find(|(wanted, _)| figure(*wanted).is_ok());
    let covers = if figure(Figure::MigMode) == Ok(1) {
        "the whole board with every instance it is cut into"
    } else {
        "the whole board"
    };
    let counter = figure(Figure::EnergyMj).map(|_| Counter {
        source: "nvml total energy".to_owned(),
        covers: covers.to_owned(),
        package: false,
    });
    let facts = Facts {
        sources: vec!["nvml".to_owned()],
        energy_absent: counter
            .as_ref()
            .err()
            .map(|error| format!("NVML gives no energy of {}: {error}", gpu.name)),
        counter: counter.ok(),
        meter: power.map(|(_, settle_s)| Meter {
            source: "nvml power".to_owned(),
            covers: covers.to_owned(),
            settle_s,
        }),
        power_limit_w: positive(figure(Figure::PowerLimitMw), 1e-3),
        clock_max_hz: positive(figure(Figure::SmClockMaxMhz), 1e6),
    };
    Ok(Opened {
        facts,
        source: Box::new(Reader {
            library,
            index,
            power: power.map(|(figure, _)| figure),
        }),
    })
}

fn find(device: &Device, gpus: Vec<Gpu>) -> Result<Gpu, String> {
    let listed = || {
        gpus.iter()
            .map(|gpu| format!("{} at {}", gpu.name, gpu.bus_id))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if gpus.is_empty() {
        return Err("NVML sees no GPU".to_owned());
    }
    let matches: Vec<&Gpu> = if let Some(text) = &device.pci_bus_id {
        let wanted = PciAddress::parse(text)
            .ok_or_else(|| format!("{text:?} is not understood as a PCI address"))?;
        let there = |gpu: &&Gpu| PciAddress::parse(&gpu.bus_id) == Some(wanted);
        gpus.iter().filter(there).collect()
    } else if gpus.len() == 1 {
        gpus.iter().collect()
    } else {
        // Drivers write the same name with more or fewer words around it.
        let named = |gpu: &&Gpu| device.name.contains(&gpu.name) || gpu.name.contains(&device.name);
        gpus.iter().filter(named).collect()
    };
    match (matches.as_slice(), &device.pci_bus_id) {
        ([gpu], _) => Ok((*gpu).clone()),
        (_, Some(text)) => Err(format!("NVML has no GPU at {text}, only {}", listed())),
        (_, None) => Err(format!(
            "the device gives no PCI address and NVML has several GPUs that it may be: {}",
            listed()
        )),
    }
}

#[allow(clippy::cast_precision_loss)] // far below 2^53
fn positive(figure: Result<u64, String>, unit: f64) -> Option<f64> {
    figure
        .ok()
        .filter(|&value| value > 0)
        .map(|value| value as f64 * unit)
}

struct Reader {
    library: Box<dyn Library>,
    index: u32,
    power: Option<Figure>,
}

impl Reader {
    fn scaled(&self, figure: Figure, unit: f64) -> Option<f64> {
        positive(self.library.figure(self.index, figure), unit)
    }
}

impl Source for Reader {
    fn read(&mut self) -> TracePoint {
        let bits = self
            .library
            .figure(self.index, Figure::ClockReasons)
            .unwrap_or(0);
        TracePoint {
            at_s: 0.0,
            sm_clock_hz: self.scaled(Figure::SmClockMhz, 1e6),
            memory_clock_hz: self.scaled(Figure::MemoryClockMhz, 1e6),
            power_w: self.power_w(),
            temperature_c: self.scaled(Figure::TemperatureC, 1.0),
            throttle_reasons: REASONS
                .iter()
                .filter(|(bit, _)| bits & bit != 0)
                .map(|(_, words)| (*words).to_owned())
                .collect(),
        }
    }

    fn power_w(&mut self) -> Option<f64> {
        self.scaled(self.power?, 1e-3)
    }

    fn energy_j(&mut self) -> Option<f64> {
        self.scaled(Figure::EnergyMj, 1e-3)
    }
}

/// Loads the library of the NVIDIA driver that is installed here.
#[cfg(target_os = "linux")]
pub(super) fn load() -> Result<Box<dyn Library>, String> {
    use std::sync::OnceLock;

    use nvml_wrapper::Nvml;
    use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
    use nvml_wrapper::enums::device::SampleValue;
    use nvml_wrapper::error::NvmlError;
    use nvml_wrapper::structs::device::FieldId;
    use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT;

    // Loaded once and never closed: initialising takes long, and a handle lives as long as this.
    static NVML: OnceLock<Result<Nvml, String>> = OnceLock::new();

    struct Loaded(&'static Nvml);

    impl Library for Loaded {
        fn gpus(&self) -> Result<Vec<Gpu>, String> {
            let words = |error: NvmlError| format!("NVML does not list its GPUs: {error}");
            let count = self.0.device_count().map_err(words)?;
            // One that is broken or not ours must not hide the others.
            Ok((0..count)
                .filter_map(|index| {
                    let gpu = self.0.device_by_index(index).ok()?;
                    Some(Gpu {
                        index,
                        name: gpu.name().unwrap_or_default(),
                        bus_id: gpu.pci_info().ok()?.bus_id,
                    })
                })
                .collect())
        }

        fn figure(&self, index: u32, figure: Figure) -> Result<u64, String> {
            let read = || -> Result<u64, NvmlError> {
                let gpu = self.0.device_by_index(index)?;
                Ok(match figure {
                    Figure::SmClockMhz => gpu.clock_info(Clock::SM)?.into(),
                    Figure::MemoryClockMhz => gpu.clock_info(Clock::Memory)?.into(),
                    Figure::SmClockMaxMhz => gpu.max_clock_info(Clock::SM)?.into(),
                    Figure::PowerMw => gpu.power_usage()?.into(),
                    Figure::PowerLimitMw => gpu.enforced_power_limit()?.into(),
                    Figure::TemperatureC => gpu.temperature(TemperatureSensor::Gpu)?.into(),
                    Figure::ClockReasons => gpu.current_throttle_reasons()?.bits(),
                    Figure::EnergyMj => gpu.total_energy_consumption()?,
                    Figure::MigMode => gpu.mig_mode()?.current.into(),
                    Figure::PowerInstantMw => {
                        let mut values =
                            gpu.field_values_for(&[FieldId(NVML_FI_DEV_POWER_INSTANT)])?;
                        match values.pop().ok_or(NvmlError::NoData)??.value? {
                            SampleValue::U32(value) => value.into(),
                            SampleValue::U64(value) => value,
                            _ => return Err(NvmlError::NoData),
                        }
                    }
                })
            };
            read().map_err(|error| error.to_string())
        }
    }

    NVML.get_or_init(|| Nvml::init().map_err(|error| error.to_string()))
        .as_ref()
        .map(|nvml| Box::new(Loaded(nvml)) as Box<dyn Library>)
        .map_err(|error| {
            format!(
                "NVML could not be used ({error}); its library, libnvidia-ml.so.1, comes with the \
                 NVIDIA driver"
            )
        })
}

/// Elsewhere this is never reached: no sensors are read there.
#[cfg(not(target_os = "linux"))]
pub(super) fn load() -> Result<Box<dyn Library>, String> {
    Err("NVML is used on Linux only".to_owned())
}
