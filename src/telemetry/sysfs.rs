//! Graphics cards as Linux shows them: hwmon and the drivers' own files, for AMD and Intel.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::cpu::Rapl;
use super::{Counter, Facts, Meter, Opened, POWER_SETTLE_S, PciAddress, PowerFromEnergy, Source};
use crate::protocol::Device;
use crate::report::TracePoint;

/// The number in a file; absent where there is no such file, or something else in it.
pub(super) fn number(path: &Path) -> Option<f64> {
    fs::read_to_string(path)
        .ok()?
        .trim()
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
}

/// The number in a file in another unit, where it is above zero: drivers write zero for unknown.
fn positive(path: &Path, unit: f64) -> Option<f64> {
    number(path)
        .filter(|&value| value > 0.0)
        .map(|value| value * unit)
}

/// The words in a file.
pub(super) fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Why the number in a file cannot be had.
pub(super) fn refusal(path: &Path) -> Option<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(format!(
            "{} may only be read with more rights: run as root, or allow it with `sudo chmod a+r {}`",
            path.display(),
            path.display()
        )),
        Err(error) => Some(format!("{}: {error}", path.display())),
        Ok(text) => text
            .trim()
            .parse::<f64>()
            .is_err()
            .then(|| format!("{} holds no number", path.display())),
    }
}

/// What is in a folder and begins with `prefix`, in a fixed order: shorter names first, so that 10
/// comes after 2.
pub(super) fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(usize, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?;
            name.starts_with(prefix).then(|| (name.len(), entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// A line `KEY=value` of a `uevent` file.
fn uevent(card: &Path, key: &str) -> Option<String> {
    text(&card.join("device/uevent"))?
        .lines()
        .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
}

/// The card that the device is.
fn find(root: &Path, device: &Device) -> Result<PathBuf, String> {
    let folder = root.join("sys/class/drm");
    let cards: Vec<PathBuf> = entries(&folder, "card")
        .into_iter()
        // Connectors are called card0-DP-1.
        .filter(|card| {
            !card
                .file_name()
                .is_some_and(|n| n.to_string_lossy().contains('-'))
        })
        .collect();
    let listed = |cards: &[PathBuf]| {
        cards
            .iter()
            .filter_map(|card| uevent(card, "PCI_SLOT_NAME"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let none = format!("{} shows no card", folder.display());
    let (matches, wanted): (Vec<PathBuf>, String) = match (&device.pci_bus_id, &device.pci_id) {
        (Some(address), _) => {
            let wanted = PciAddress::parse(address)
                .ok_or_else(|| format!("{address:?} is not understood as a PCI address"))?;
            let there = |card: &&PathBuf| {
                uevent(card, "PCI_SLOT_NAME").and_then(|slot| PciAddress::parse(&slot))
                    == Some(wanted)
            };
            let found = cards.iter().filter(there).cloned().collect();
            (found, format!("at {address}"))
        }
        (None, Some(id)) => {
            let there = |card: &&PathBuf| {
                uevent(card, "PCI_ID").is_some_and(|found| found.eq_ignore_ascii_case(id))
            };
            let found = cards.iter().filter(there).cloned().collect();
            (found, format!("with PCI id {id}"))
        }
        (None, None) => {
            return Err("the device gives no PCI address to find its sensors by".to_owned());
        }
    };
    match matches.as_slice() {
        [card] => Ok(card.clone()),
        [] if cards.is_empty() => Err(none),
        [] => Err(format!(
            "{} shows no card {wanted}, only those at {}",
            folder.display(),
            listed(&cards)
        )),
        several => Err(format!(
            "several cards are there {wanted} ({}), and the device gives no address",
            listed(several)
        )),
    }
}

/// A file and the value of its unit.
type Gauge = (PathBuf, f64);

/// Where the energy of a card is counted.
enum EnergyFile {
    Own(PathBuf),
    Package(Rapl),
}

/// One card with the files that were there when it was opened.
struct Card {
    clocks: Vec<Gauge>,
    memory_clocks: Vec<Gauge>,
    power: Option<PathBuf>,
    temperature: Option<PathBuf>,
    energy: Option<EnergyFile>,
    /// Files that hold 1 while their reason holds.
    reasons: Vec<(String, PathBuf)>,
    gpu_metrics: PathBuf,
    power_from_energy: PowerFromEnergy,
}

/// Finds the device's card and the files its driver offers.
pub(super) fn open(root: &Path, device: &Device) -> Result<Opened, String> {
    let card = find(root, device)?;
    let driver = uevent(&card, "DRIVER").unwrap_or_else(|| "unknown".to_owned());
    let folder = card.join("device");
    let monitors = entries(&folder.join("hwmon"), "hwmon");
    // i915 has further monitors for single tiles; the one named like the driver is the whole.
    let monitor = monitors
        .iter()
        .find(|path| text(&path.join("name")).as_deref() == Some(&driver))
        .or(monitors.first());
    let readable = |names: &[&str]| -> Option<PathBuf> {
        names
            .iter()
            .filter_map(|name| Some(monitor?.join(name)))
            .find(|path| number(path).is_some())
    };
    let gauges = |paths: Vec<PathBuf>, unit: f64| -> Vec<Gauge> {
        paths
            .into_iter()
            .filter(|path| number(path).is_some())
            .map(|path| (path, unit))
            .collect()
    };
    let below = |paths: Vec<PathBuf>, name: &str| -> Vec<PathBuf> {
        paths.iter().map(|path| path.join(name)).collect()
    };
    let i915_gts = entries(&card.join("gt"), "gt");
    let xe_gts: Vec<PathBuf> = entries(&folder, "tile")
        .iter()
        .flat_map(|tile| entries(tile, "gt"))
        .map(|gt| gt.join("freq0"))
        .collect();

    let mut clocks = gauges(readable(&["freq1_input"]).into_iter().collect(), 1.0);
    clocks.extend(gauges(below(i915_gts.clone(), "rps_act_freq_mhz"), 1e6));
    clocks.extend(gauges(below(xe_gts.clone(), "act_freq"), 1e6));
    if clocks.is_empty() {
        clocks = gauges(vec![card.join("gt_act_freq_mhz")], 1e6);
    }
    let mut clocks_max = gauges(below(i915_gts.clone(), "rps_max_freq_mhz"), 1e6);
    clocks_max.extend(gauges(below(xe_gts.clone(), "max_freq"), 1e6));
    clocks_max.extend(gauges(vec![card.join("gt_max_freq_mhz")], 1e6));
    let reasons = i915_gts
        .iter()
        .flat_map(|gt| reason_files(gt, "throttle_reason_"))
        .chain(
            xe_gts
                .iter()
                .flat_map(|gt| reason_files(&gt.join("throttle"), "reason_")),
        )
        .collect();

    let integrated = device.device_type == "integrated_gpu";
    let (own_covers, own_is_package) = match (driver.as_str(), integrated) {
        (_, true) => (PACKAGE, true),
        ("amdgpu", _) => (
            "what the driver calls the GPU's power; on some boards fans, memory and regulators are \
             not in it",
            false,
        ),
        _ => ("what the driver counts", false),
    };
    // Intel counts on two channels: the card first, its package second where that is all there is.
    let own = readable(&["energy1_input", "energy2_input"]);
    let mut energy_absent = None;
    let (energy, counter) = match own {
        Some(path) => {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let label = monitor
                .and_then(|monitor| text(&monitor.join(file.replace("_input", "_label"))))
                .map_or_else(String::new, |label| format!(" ({label})"));
            let counter = Counter {
                source: format!("hwmon {driver} {file}{label}"),
                covers: own_covers.to_owned(),
                package: own_is_package,
            };
            (Some(EnergyFile::Own(path)), Some(counter))
        }
        // Integrated graphics draw from the package, whose counter is the processor's.
        None if integrated => match Rapl::open(root) {
            Ok(rapl) => {
                let counter = rapl.counter();
                (Some(EnergyFile::Package(rapl)), Some(counter))
            }
            Err(reason) => {
                energy_absent = Some(reason);
                (None, None)
            }
        },
        None => {
            energy_absent = Some(format!(
                "the {driver} driver offers no energy counter for this device"
            ));
            (None, None)
        }
    };
    // The average first: one reading of a power that jumps says little.
    let power = readable(&["power1_average", "power1_input"]);
    let meter = power.as_ref().map(|path| Meter {
        source: format!(
            "hwmon {driver} {}",
            path.file_name().unwrap_or_default().to_string_lossy()
        ),
        covers: own_covers.to_owned(),
        settle_s: POWER_SETTLE_S,
    });
    let limit = readable(&["power1_cap", "power1_max", "power2_max"]);
    let temperature = readable(&["temp1_input", "temp2_input"]);
    let gpu_metrics = folder.join("gpu_metrics");
    if clocks.is_empty() && power.is_none() && energy.is_none() && temperature.is_none() {
        let also = energy_absent.map_or_else(String::new, |reason| format!("; {reason}"));
        return Err(format!(
            "the {driver} driver offers no sensors under {}{also}",
            folder.display()
        ));
    }
    let facts = Facts {
        sources: vec![format!("hwmon {driver}")],
        counter,
        meter,
        energy_absent,
        power_limit_w: limit.and_then(|path| positive(&path, 1e-6)),
        clock_max_hz: highest(&clocks_max).or_else(|| clock_table_max_hz(&folder)),
    };
    Ok(Opened {
        facts,
        source: Box::new(Card {
            clocks,
            memory_clocks: gauges(readable(&["freq2_input"]).into_iter().collect(), 1.0),
            power,
            temperature,
            energy,
            reasons,
            gpu_metrics,
            power_from_energy: PowerFromEnergy::default(),
        }),
    })
}

/// What a counter of a whole package takes in.
pub(super) const PACKAGE: &str =
    "the whole package: processor cores, graphics and all work on them";

/// The highest of several clocks: a device with several engines is as fast as its fastest.
fn highest(gauges: &[Gauge]) -> Option<f64> {
    gauges
        .iter()
        .filter_map(|(path, unit)| positive(path, *unit))
        .reduce(f64::max)
}

/// The highest entry of amdgpu's table of clocks, whose lines read `2: 2475Mhz *`.
fn clock_table_max_hz(folder: &Path) -> Option<f64> {
    text(&folder.join("pp_dpm_sclk"))?
        .lines()
        .filter_map(|line| {
            let value = line.split_once(':')?.1.trim();
            let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<f64>().ok()
        })
        .reduce(f64::max)
        .map(|mhz| mhz * 1e6)
}

/// Intel's files that each tell one reason, with the reason in words.
fn reason_files(folder: &Path, prefix: &str) -> Vec<(String, PathBuf)> {
    entries(folder, prefix)
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_prefix(prefix)?;
            let words = match name {
                // Says that there is some reason, which the others name.
                "status" => return None,
                "pl1" | "pl2" | "pl4" => format!("power limit {name}"),
                other => other.replace('_', " "),
            };
            Some((words, path))
        })
        .collect()
}

/// Reasons in amdgpu's binary `gpu_metrics`, by bits that mean the same on every chip. Only version
/// 1.3, which discrete cards of RDNA and CDNA 2 write, has them at this place.
fn amd_reasons(bytes: &[u8]) -> Vec<String> {
    const LENGTH: usize = 120;
    let bits = match (bytes.get(..4), bytes.get(LENGTH - 8..LENGTH)) {
        (Some([120, 0, 1, 3]), Some(last)) => last
            .iter()
            .rev()
            .fold(0u64, |bits, &byte| bits << 8 | u64::from(byte)),
        _ => return Vec::new(),
    };
    // The driver fills what it does not know with ones.
    if bits == u64::MAX {
        return Vec::new();
    }
    let groups = [
        (0..=7, "power cap"),
        (16..=23, "current limit"),
        (32..=45, "thermal"),
        (46..=47, "prochot"),
    ];
    groups
        .into_iter()
        .filter(|(range, _)| range.clone().any(|bit: u32| bits >> bit & 1 == 1))
        .map(|(_, words)| words.to_owned())
        .collect()
}

impl Source for Card {
    fn read(&mut self) -> TracePoint {
        let mut reasons: Vec<String> = self
            .reasons
            .iter()
            .filter(|(_, path)| number(path) == Some(1.0))
            .map(|(words, _)| words.clone())
            .collect();
        reasons.extend(amd_reasons(
            &fs::read(&self.gpu_metrics).unwrap_or_default(),
        ));
        reasons.sort();
        reasons.dedup();
        let mut power_w = self.power_w();
        if self.power.is_none()
            && let Some(energy_j) = self.energy_j()
        {
            power_w = self.power_from_energy.update(Instant::now(), energy_j);
        }
        TracePoint {
            at_s: 0.0,
            sm_clock_hz: highest(&self.clocks),
            memory_clock_hz: highest(&self.memory_clocks),
            power_w,
            temperature_c: self
                .temperature
                .as_ref()
                .and_then(|path| number(path))
                .map(|thousandths| thousandths * 1e-3),
            throttle_reasons: reasons,
        }
    }

    fn power_w(&mut self) -> Option<f64> {
        positive(self.power.as_ref()?, 1e-6)
    }

    fn energy_j(&mut self) -> Option<f64> {
        match self.energy.as_mut()? {
            EnergyFile::Own(path) => number(path).map(|microjoules| microjoules * 1e-6),
            EnergyFile::Package(rapl) => rapl.energy_j(),
        }
    }
}
