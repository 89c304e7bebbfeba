//! The sensors of one device: clocks, power, temperature, reasons for slowing down, energy.
//!
//! The conductor reads them, never a runner, and a machine without sensors is no error: what cannot
//! be read is absent, and a reason says why. `nvml` reaches NVIDIA's GPUs, `sysfs` those of AMD and
//! Intel on Linux, `cpu` the processor.

mod cpu;
mod nvml;
mod sysfs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::protocol::Device;
use crate::report::{Throttle, Trace, TracePoint};

/// Most points that a trace keeps.
pub const POINT_COUNT_MAX: usize = 200;

/// A time between readings that tells what happened and disturbs nothing.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// Relative change of a clock or of a canary's time that is more than chance.
pub const CHANGE_MAX: f64 = 0.05;

/// How long a driver may take over a reading before its sensors are given up.
const ANSWER_S_MAX: f64 = 2.0;

/// Time after which a counter or an instantaneous power shows steady work and nothing from before.
const SETTLE_S: f64 = 0.3;

/// The same for a power that may be the mean of the last second.
const POWER_SETTLE_S: f64 = 1.1;

/// An energy counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name, such as `nvml total energy` or `rapl package`.
    pub source: String,
    /// What it counts the energy of.
    pub covers: String,
    /// Whether that is a processor's package, and so all work on it, whoever asked for it.
    pub package: bool,
}

/// A power reading that does not come from the energy counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Meter {
    /// Its name, such as `nvml power` or `hwmon amdgpu power1_average`.
    pub source: String,
    /// What it measures the power of.
    pub covers: String,
    /// Seconds of steady work before a reading shows that work alone: many are means over a while.
    pub settle_s: f64,
}

/// What was found out when the sensors were opened, and does not change.
#[derive(Clone, Debug, Default)]
struct Facts {
    sources: Vec<String>,
    counter: Option<Counter>,
    meter: Option<Meter>,
    energy_absent: Option<String>,
    power_limit_w: Option<f64>,
    clock_max_hz: Option<f64>,
}

/// Something that can be read. What it does not tell, or not any more, is absent.
trait Source: Send {
    /// Everything but the energy; the time is the caller's to set.
    fn read(&mut self) -> TracePoint;
    /// Watts, where they are measured and not made of the energy counter.
    fn power_w(&mut self) -> Option<f64>;
    /// Joules since some moment in the past.
    fn energy_j(&mut self) -> Option<f64>;
}

struct Opened {
    facts: Facts,
    source: Box<dyn Source>,
}

/// The sensors of one device. A clone reads the same sensors.
#[derive(Clone)]
pub struct Sensors(Arc<Inner>);

struct Inner {
    facts: Facts,
    /// Why there are none at all.
    absent: Option<String>,
    source: Mutex<Option<Box<dyn Source>>>,
    /// Why they were given up after they had been opened.
    lost: OnceLock<String>,
}

impl std::fmt::Debug for Sensors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sensors")
            .field("facts", &self.0.facts)
            .field("absent", &self.absent())
            .finish_non_exhaustive()
    }
}

impl Sensors {
    /// Finds the sensors of `device`. Never fails: where there are none, [`Sensors::absent`] says
    /// why.
    #[must_use]
    pub fn open(device: &Device) -> Self {
        if !cfg!(target_os = "linux") {
            return Self::none(format!(
                "sensors are read on Linux only, not on {}",
                std::env::consts::OS
            ));
        }
        Self::open_at(Path::new("/"), device, nvml::load)
    }

    /// As [`Sensors::open`], with the system's files under `root` and NVML from `load`.
    fn open_at(
        root: &Path,
        device: &Device,
        load: impl FnOnce() -> Result<Box<dyn nvml::Library>, String>,
    ) -> Self {
        let open = || {
            if device.device_type == "cpu" {
                cpu::open(root)
            } else if is_nvidia(device) {
                let nvml = load().and_then(|library| nvml::open(device, library));
                // Without NVIDIA's own driver another one may show a little.
                nvml.or_else(|reason| sysfs::open(root, device).map_err(|_| reason))
            } else {
                sysfs::open(root, device)
            }
        };
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(opened)) => Self::of(opened.facts, opened.source),
            Ok(Err(reason)) => Self::none(reason),
            Err(_) => Self::none("the sensor library broke down while it was opened".to_owned()),
        }
    }

    fn of(facts: Facts, source: Box<dyn Source>) -> Self {
        Self(Arc::new(Inner {
            facts,
            absent: None,
            source: Mutex::new(Some(source)),
            lost: OnceLock::new(),
        }))
    }

    /// Sensors that tell nothing, for `reason`.
    #[must_use]
    pub fn none(reason: String) -> Self {
        Self(Arc::new(Inner {
            facts: Facts::default(),
            absent: Some(reason),
            source: Mutex::new(None),
            lost: OnceLock::new(),
        }))
    }

    /// Asks the source, unless it broke down or stopped answering before.
    fn ask<T>(&self, question: impl FnOnce(&mut dyn Source) -> Option<T>) -> Option<T> {
        if self.absent().is_some() {
            return None;
        }
        let asked = Instant::now();
        let mut source = loop {
            match self.0.source.try_lock() {
                Ok(source) => break source,
                Err(TryLockError::Poisoned(source)) => break source.into_inner(),
                // Another thread is reading; if a driver keeps it, nobody else may hang with it.
                Err(TryLockError::WouldBlock) => {
                    if asked.elapsed().as_secs_f64() > ANSWER_S_MAX {
                        self.give_up("the sensors stopped answering");
                        return None;
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        };
        let source = source.as_mut()?;
        let answer = catch_unwind(AssertUnwindSafe(|| question(source.as_mut())));
        answer.unwrap_or_else(|_| {
            self.give_up("the sensor library broke down while it was read");
            None
        })
    }

    fn give_up(&self, reason: &str) {
        let _ = self.0.lost.set(reason.to_owned()); // the first reason stands
    }

    /// Why nothing can be read; absent where something can.
    #[must_use]
    pub fn absent(&self) -> Option<String> {
        self.0.absent.clone().or_else(|| self.0.lost.get().cloned())
    }

    /// Where figures come from, such as `nvml`, or `rapl` and `cpufreq`; empty where nowhere.
    #[must_use]
    pub fn sources(&self) -> &[String] {
        &self.0.facts.sources
    }

    /// One reading of everything but the energy; `at_s` is left at zero.
    #[must_use]
    pub fn read(&self) -> TracePoint {
        self.ask(|source| Some(source.read())).unwrap_or_default()
    }

    /// Joules that the energy counter stands at: only differences mean anything. Absent where there
    /// is no counter or it cannot be read any more.
    #[must_use]
    pub fn energy_j(&self) -> Option<f64> {
        self.counter()?;
        self.ask(|source| source.energy_j())
            .filter(|joules| joules.is_finite())
    }

    /// Watts by the power meter; absent where there is none.
    #[must_use]
    pub fn power_w(&self) -> Option<f64> {
        self.meter()?;
        self.ask(|source| source.power_w())
            .filter(|watts| watts.is_finite())
    }

    /// The energy counter, and what it covers.
    #[must_use]
    pub fn counter(&self) -> Option<&Counter> {
        self.0.facts.counter.as_ref()
    }

    /// The power meter, and what it covers.
    #[must_use]
    pub fn meter(&self) -> Option<&Meter> {
        self.0.facts.meter.as_ref()
    }

    /// Why there is no energy counter; absent where there is one.
    #[must_use]
    pub fn energy_absent(&self) -> Option<String> {
        self.absent().or_else(|| self.0.facts.energy_absent.clone())
    }

    /// Watts that the driver holds the device to; absent where it does not say.
    #[must_use]
    pub fn power_limit_w(&self) -> Option<f64> {
        self.0.facts.power_limit_w
    }

    /// Highest clock of the compute units, in hertz; absent where the driver does not say.
    #[must_use]
    pub fn clock_max_hz(&self) -> Option<f64> {
        self.0.facts.clock_max_hz
    }
}

/// One line on the sensors of `device`, or on why there are none.
#[must_use]
pub fn describe(device: &Device) -> String {
    described(&Sensors::open(device))
}

fn described(sensors: &Sensors) -> String {
    if let Some(reason) = sensors.absent() {
        return format!("none: {reason}");
    }
    let energy = match (sensors.counter(), sensors.meter(), sensors.energy_absent()) {
        (Some(counter), _, _) => format!("energy: {}", counter.source),
        (None, Some(meter), _) => format!("energy: from {}", meter.source),
        (None, None, Some(reason)) => format!("no energy: {reason}"),
        (None, None, None) => "no energy".to_owned(),
    };
    let limit = sensors
        .power_limit_w()
        .map_or_else(String::new, |watts| format!("; limit {watts:.0} W"));
    format!("{}; {energy}{limit}", sensors.sources().join(", "))
}

fn is_nvidia(device: &Device) -> bool {
    match &device.pci_id {
        Some(id) => id.to_ascii_lowercase().starts_with("10de:"),
        None => device.backend == "cuda" || device.name.to_ascii_lowercase().contains("nvidia"),
    }
}

/// A PCI address, which is written with four or eight digits of domain, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PciAddress {
    domain: u32,
    bus: u32,
    device: u32,
    function: u32,
}

impl PciAddress {
    fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
        let (front, function) = text.trim().rsplit_once('.').unwrap_or((text.trim(), "0"));
        let mut parts = front.rsplit(':');
        let address = Self {
            device: number(parts.next()?)?,
            bus: number(parts.next()?)?,
            domain: parts.next().map_or(Some(0), number)?,
            function: number(function)?,
        };
        parts.next().is_none().then_some(address)
    }
}

/// Power between two readings of an energy counter, for sensors that have no other.
#[derive(Debug, Default)]
struct PowerFromEnergy(Option<(Instant, f64)>);

impl PowerFromEnergy {
    /// Mean watts since the last reading that was taken in; absent where that is too short ago for
    /// the counter's grain, or too long ago to be about now.
    fn update(&mut self, now: Instant, energy_j: f64) -> Option<f64> {
        let Some((then, then_j)) = self.0 else {
            self.0 = Some((now, energy_j));
            return None;
        };
        let elapsed_s = now.saturating_duration_since(then).as_secs_f64();
        if elapsed_s < 0.01 {
            return None;
        }
        self.0 = Some((now, energy_j));
        let watts = (energy_j - then_j) / elapsed_s;
        (elapsed_s < 2.0 && watts > 0.0).then_some(watts)
    }
}

/// A thread that takes something at even intervals until it is told to stop.
pub(crate) struct Background<T> {
    /// Dropped to stop the thread.
    stop: Option<Sender<()>>,
    taken: Receiver<Vec<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts it; absent where the system gives no thread.
    pub(crate) fn start(
        interval: Duration,
        mut take: impl FnMut() -> T + Send + 'static,
    ) -> Option<Self> {
        let (stop, stopped) = channel::<()>();
        let (give, taken) = channel();
        let work = move || {
            let mut all = vec![take()];
            let mut next = Instant::now() + interval;
            loop {
                let wait = next.saturating_duration_since(Instant::now());
                let ended = stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
                all.push(take());
                if ended {
                    break;
                }
                // Never without a pause, also where one reading takes longer than the interval.
                next = (next + interval).max(Instant::now() + interval / 2);
            }
            let _ = give.send(all); // nobody waits any more if the caller gave up
        };
        let thread = std::thread::Builder::new()
            .name("sensors".to_owned())
            .spawn(work)
            .ok()?;
        Some(Self {
            stop: Some(stop),
            taken,
            thread: Some(thread),
        })
    }

    /// Everything taken, the last just now; absent where the thread does not answer, which is then
    /// left to itself.
    pub(crate) fn stop(mut self) -> Option<Vec<T>> {
        self.end()
    }
}

impl<T> Background<T> {
    fn end(&mut self) -> Option<Vec<T>> {
        self.stop.take()?;
        let all = self
            .taken
            .recv_timeout(Duration::from_secs_f64(ANSWER_S_MAX));
        let thread = self.thread.take();
        if !matches!(all, Err(RecvTimeoutError::Timeout))
            && let Some(thread) = thread
        {
            let _ = thread.join(); // it ended, well or not
        }
        all.ok()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads sensors in the background while something else is measured.
pub struct Recorder {
    sensors: Sensors,
    readings: Option<Background<TracePoint>>,
}

impl Recorder {
    /// Starts with one reading at once, then one every `interval`. Where there are no sensors
    /// nothing is started.
    #[must_use]
    pub fn start(sensors: &Sensors, interval: Duration) -> Self {
        let started = Instant::now();
        let asked = sensors.clone();
        let take = move || {
            let before = started.elapsed();
            let point = asked.read();
            TracePoint {
                // A reading takes a while; it is dated to the middle of it.
                at_s: (before + started.elapsed()).as_secs_f64() / 2.0,
                ..point
            }
        };
        let readings = match sensors.absent() {
            None => Background::start(interval, take),
            Some(_) => None,
        };
        Self {
            sensors: sensors.clone(),
            readings,
        }
    }

    /// Takes a last reading and gives everything back; without points where there are no sensors.
    #[must_use]
    pub fn stop(self) -> Trace {
        let Some(readings) = self.readings else {
            return Trace::default();
        };
        let points = readings.stop().unwrap_or_else(|| {
            self.sensors.give_up("the sensors stopped answering");
            Vec::new()
        });
        // A reading of a device that has gone says nothing.
        let points: Vec<TracePoint> = points.into_iter().filter(tells_something).collect();
        Trace {
            source: self.sensors.sources().join(", "),
            points: thinned(points, POINT_COUNT_MAX),
        }
    }
}

fn tells_something(point: &TracePoint) -> bool {
    let TracePoint {
        at_s: _,
        sm_clock_hz,
        memory_clock_hz,
        power_w,
        temperature_c,
        throttle_reasons,
    } = point;
    [sm_clock_hz, memory_clock_hz, power_w, temperature_c]
        .iter()
        .any(|figure| figure.is_some())
        || !throttle_reasons.is_empty()
}

/// Leaves at most `count_max` points, evenly chosen, the first and the last among them. One that is
/// kept also takes over the reasons of those left out before it, so that none is lost.
fn thinned(points: Vec<TracePoint>, count_max: usize) -> Vec<TracePoint> {
    let count = points.len();
    if count <= count_max || count_max < 2 {
        return points;
    }
    let mut kept: Vec<TracePoint> = Vec::with_capacity(count_max);
    let mut reasons: Vec<String> = Vec::new();
    for (index, mut point) in points.into_iter().enumerate() {
        if index == kept.len() * (count - 1) / (count_max - 1) {
            for reason in reasons.drain(..) {
                if !point.throttle_reasons.contains(&reason) {
                    point.throttle_reasons.push(reason);
                }
            }
            kept.push(point);
        } else {
            reasons.append(&mut point.throttle_reasons);
        }
    }
    kept
}

/// Weighs what speaks for throttling: the seconds of one call of the canary before and after, and
/// the trace in between. What is absent says nothing.
#[must_use]
pub fn suspect(
    trace: Option<&Trace>,
    canary_before_s: Option<f64>,
    canary_after_s: Option<f64>,
) -> Throttle {
    let mut evidence = Vec::new();
    let canary_change = match (canary_before_s, canary_after_s) {
        (Some(before_s), Some(after_s)) if before_s > 0.0 && after_s > 0.0 => {
            Some(after_s / before_s - 1.0)
        }
        _ => None,
    };
    if let (Some(change), Some(before_s), Some(after_s)) =
        (canary_change, canary_before_s, canary_after_s)
        && change.abs() > CHANGE_MAX
    {
        evidence.push(format!(
            "the canary took {before_s:.4e} s before and {after_s:.4e} s after ({:+.1} %)",
            change * 100.0
        ));
    }
    if let Some(trace) = trace {
        evidence.extend(reasons_seen(&trace.points));
        evidence.extend(clock_fall(&trace.points));
    }
    Throttle {
        suspected: !evidence.is_empty(),
        canary_before_s,
        canary_after_s,
        canary_change,
        evidence,
    }
}

/// How often each reason was seen, but idleness and what somebody set on purpose.
fn reasons_seen(points: &[TracePoint]) -> Vec<String> {
    let mut seen: Vec<(&str, usize)> = Vec::new();
    for reason in points.iter().flat_map(|point| &point.throttle_reasons) {
        if reason == nvml::IDLE || nvml::SETTINGS.contains(&reason.as_str()) {
            continue;
        }
        match seen.iter_mut().find(|(words, _)| words == reason) {
            Some((_, count)) => *count += 1,
            None => seen.push((reason, 1)),
        }
    }
    seen.iter()
        .map(|(reason, count)| {
            format!(
                "the driver gave \"{reason}\" as a reason in {count} of {} readings",
                points.len()
            )
        })
        .collect()
}

/// Whether the clock fell while the device was at work. Medians of quarters are compared, because
/// single readings jump.
fn clock_fall(points: &[TracePoint]) -> Option<String> {
    let clocks: Vec<f64> = points
        .iter()
        .filter(|point| {
            !point
                .throttle_reasons
                .iter()
                .any(|reason| reason == nvml::IDLE)
        })
        .filter_map(|point| point.sm_clock_hz)
        .collect();
    if clocks.len() < 2 {
        return None;
    }
    let quarters: Vec<f64> = clocks
        .chunks(clocks.len().div_ceil(4))
        .map(|quarter| {
            let mut sorted = quarter.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        })
        .collect();
    let mut highest = quarters[0];
    let mut worst: Option<(f64, f64)> = None;
    for &clock in &quarters {
        highest = highest.max(clock);
        if worst.is_none_or(|(high, low)| clock / highest < low / high) {
            worst = Some((highest, clock));
        }
    }
    let (high, low) = worst?;
    (low / high < 1.0 - CHANGE_MAX).then(|| {
        format!(
            "the clock fell from {:.0} MHz to {:.0} MHz ({:.1} %) within the measurement",
            high / 1e6,
            low / 1e6,
            (low / high - 1.0) * 100.0
        )
    })
}

#[cfg(test)]
mod tests;
