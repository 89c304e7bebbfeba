//! The processor as Linux shows it: RAPL energy counters, clocks, temperature, thermal events.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::sysfs::{PACKAGE, entries, number, refusal, text};
use super::{Counter, Facts, Opened, PowerFromEnergy, Source};
use crate::report::TracePoint;

/// Most processors that one reading looks at: each is a few files, and a reading must stay short.
const CPU_COUNT_MAX: usize = 64;

/// Monitors that measure a processor.
const MONITORS: [&str; 4] = ["k10temp", "coretemp", "zenpower", "cpu_thermal"];

/// The energy counters of all processor packages together.
pub(super) struct Rapl {
    packages: Vec<Package>,
}

/// One package's counter, which starts again from zero when it is full.
struct Package {
    folder: PathBuf,
    /// Joules at which the counter starts again; absent where the kernel does not say.
    range_j: Option<f64>,
    last_j: Option<f64>,
    total_j: f64,
}

impl Rapl {
    /// The counters, or why they cannot be had.
    pub(super) fn open(root: &Path) -> Result<Self, String> {
        let class = root.join("sys/class/powercap");
        let mut packages = Vec::new();
        for folder in entries(&class, "intel-rapl:") {
            // Parts of a package (`intel-rapl:0:0`) are in its own sum already; `psys` is the whole
            // machine, and takes the packages in.
            let name = text(&folder.join("name")).unwrap_or_default();
            if !name.starts_with("package") {
                continue;
            }
            if let Some(reason) = refusal(&folder.join("energy_uj")) {
                return Err(reason);
            }
            packages.push(Package {
                range_j: number(&folder.join("max_energy_range_uj")).map(|range| range * 1e-6),
                folder,
                last_j: None,
                total_j: 0.0,
            });
        }
        if packages.is_empty() {
            return Err(format!(
                "{} has no energy counter of a processor package; virtual machines seldom have one",
                class.display()
            ));
        }
        Ok(Self { packages })
    }

    pub(super) fn counter(&self) -> Counter {
        Counter {
            source: match self.packages.len() {
                1 => "rapl package".to_owned(),
                count => format!("rapl, sum of {count} packages"),
            },
            covers: format!("{PACKAGE}; memory is not in it"),
            package: true,
        }
    }

    /// What the packages may draw together for more than a moment, in watts.
    fn limit_w(&self) -> Option<f64> {
        let limit = |package: &Package| {
            let named = |wanted: &str| {
                (0..4).find_map(|index| {
                    let file =
                        |part: &str| package.folder.join(format!("constraint_{index}_{part}"));
                    (text(&file("name")).as_deref() == Some(wanted))
                        .then(|| number(&file("power_limit_uw")))
                        .flatten()
                        .filter(|&microwatts| microwatts > 0.0)
                })
            };
            // The long-term limit may be passed for tens of seconds, so it bounds no short window.
            named("short_term").or_else(|| named("long_term"))
        };
        self.packages
            .iter()
            .map(limit)
            .sum::<Option<f64>>()
            .map(|microwatts| microwatts * 1e-6)
    }

    /// Joules since the counters were first read, all packages together.
    pub(super) fn energy_j(&mut self) -> Option<f64> {
        self.packages
            .iter_mut()
            .map(|package| package.advance(number(&package.folder.join("energy_uj"))? * 1e-6))
            .sum()
    }
}

impl Package {
    /// Takes a reading in. A counter that was nearly full and is nearly empty has started again;
    /// any other step back is passed on, for the caller to see.
    fn advance(&mut self, now_j: f64) -> Option<f64> {
        if now_j < 0.0 || self.range_j.is_some_and(|range_j| now_j > range_j) {
            return None;
        }
        let last_j = self.last_j.replace(now_j).unwrap_or(now_j);
        let step_j = match self.range_j {
            Some(range_j) if now_j < range_j / 2.0 && last_j > range_j / 2.0 => {
                range_j - last_j + now_j
            }
            _ => now_j - last_j,
        };
        self.total_j += step_j;
        Some(self.total_j)
    }
}

/// The processor with the files that were there when it was opened.
struct Processor {
    clocks: Vec<PathBuf>,
    temperatures: Vec<PathBuf>,
    /// Files that count events, by what they count.
    events: Vec<(&'static str, PathBuf)>,
    counts: BTreeMap<&'static str, f64>,
    rapl: Option<Rapl>,
    power_from_energy: PowerFromEnergy,
}

/// Finds what the processors that this process may use show.
pub(super) fn open(root: &Path) -> Result<Opened, String> {
    let cpus = cpus(root);
    let files = |name: &str| -> Vec<PathBuf> {
        cpus.iter()
            .map(|cpu| cpu.join(name))
            .filter(|path| number(path).is_some())
            .collect()
    };
    let clocks = files("cpufreq/scaling_cur_freq");
    let temperatures: Vec<(String, PathBuf)> = entries(&root.join("sys/class/hwmon"), "hwmon")
        .into_iter()
        .filter_map(|monitor| {
            let name = text(&monitor.join("name"))?;
            let path = monitor.join("temp1_input");
            (MONITORS.contains(&name.as_str()) && number(&path).is_some()).then_some((name, path))
        })
        .collect();
    let mut events = Vec::new();
    for (file, words) in [
        ("core_throttle_count", "core thermal throttle"),
        ("package_throttle_count", "package thermal throttle"),
        ("core_power_limit_count", "core power limit"),
        ("package_power_limit_count", "package power limit"),
    ] {
        let paths = files(&format!("thermal_throttle/{file}"));
        events.extend(paths.into_iter().map(|path| (words, path)));
    }
    let rapl = Rapl::open(root);
    let mut sources = Vec::new();
    if rapl.is_ok() {
        sources.push("rapl".to_owned());
    }
    if !clocks.is_empty() {
        sources.push("cpufreq".to_owned());
    }
    sources.extend(
        temperatures
            .first()
            .map(|(name, _)| format!("hwmon {name}")),
    );
    if !events.is_empty() {
        sources.push("thermal_throttle".to_owned());
    }
    let (rapl, energy_absent) = match rapl {
        Ok(rapl) => (Some(rapl), None),
        Err(reason) => (None, Some(reason)),
    };
    if sources.is_empty() {
        let reason = energy_absent.unwrap_or_default();
        return Err(format!(
            "this processor shows no clock, temperature or energy here: {reason}"
        ));
    }
    let facts = Facts {
        sources,
        counter: rapl.as_ref().map(Rapl::counter),
        meter: None,
        energy_absent,
        power_limit_w: rapl.as_ref().and_then(Rapl::limit_w),
        clock_max_hz: mean_hz(&files("cpufreq/cpuinfo_max_freq")),
    };
    let mut processor = Processor {
        clocks,
        temperatures: temperatures.into_iter().map(|(_, path)| path).collect(),
        events,
        counts: BTreeMap::new(),
        rapl,
        power_from_energy: PowerFromEnergy::default(),
    };
    // The counts go back to when the machine was started.
    processor.counts = processor.count_events();
    Ok(Opened {
        facts,
        source: Box::new(processor),
    })
}

/// The folders of the processors that this process may use; of very many, some evenly spread.
fn cpus(root: &Path) -> Vec<PathBuf> {
    let folder = root.join("sys/devices/system/cpu");
    let allowed = text(&root.join("proc/self/status"))
        .and_then(|status| {
            let list = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            Some(numbers(list))
        })
        .filter(|list| !list.is_empty());
    let all: Vec<PathBuf> = entries(&folder, "cpu")
        .into_iter()
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Beside cpu0 there are cpufreq and cpuidle.
            name.strip_prefix("cpu")
                .and_then(|index| index.parse::<u32>().ok())
                .is_some_and(|index| {
                    allowed
                        .as_ref()
                        .is_none_or(|ranges| ranges.iter().any(|range| range.contains(&index)))
                })
        })
        .collect();
    let step = all.len().div_ceil(CPU_COUNT_MAX).max(1);
    all.into_iter().step_by(step).collect()
}

/// The ranges of a list such as `0-3,8`.
fn numbers(list: &str) -> Vec<std::ops::RangeInclusive<u32>> {
    list.split(',')
        .filter_map(|part| {
            let (low, high) = part.trim().split_once('-').unwrap_or((part, part));
            Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
        })
        .collect()
}

/// Mean over files that hold kilohertz.
#[allow(clippy::cast_precision_loss)]
fn mean_hz(paths: &[PathBuf]) -> Option<f64> {
    let values: Vec<f64> = paths
        .iter()
        .filter_map(|path| number(path))
        .filter(|&value| value > 0.0)
        .collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() * 1e3 / values.len() as f64)
}

impl Processor {
    fn count_events(&self) -> BTreeMap<&'static str, f64> {
        let mut counts = BTreeMap::new();
        for (words, path) in &self.events {
            *counts.entry(*words).or_insert(0.0) += number(path).unwrap_or(0.0);
        }
        counts
    }
}

impl Source for Processor {
    fn read(&mut self) -> TracePoint {
        let counts = self.count_events();
        let throttle_reasons = counts
            .iter()
            .filter(|(words, count)| {
                self.counts
                    .get(*words)
                    .is_some_and(|before| *count > before)
            })
            .map(|(words, _)| (*words).to_owned())
            .collect();
        self.counts = counts;
        let power_w = self
            .energy_j()
            .and_then(|energy_j| self.power_from_energy.update(Instant::now(), energy_j));
        TracePoint {
            at_s: 0.0,
            sm_clock_hz: mean_hz(&self.clocks),
            memory_clock_hz: None,
            power_w,
            temperature_c: self
                .temperatures
                .iter()
                .filter_map(|path| number(path))
                .reduce(f64::max)
                .map(|thousandths| thousandths * 1e-3),
            throttle_reasons,
        }
    }

    fn power_w(&mut self) -> Option<f64> {
        // What follows from the energy counter is no second opinion on it.
        None
    }

    fn energy_j(&mut self) -> Option<f64> {
        self.rapl.as_mut()?.energy_j()
    }
}
