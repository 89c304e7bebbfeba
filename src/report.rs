//! The report: everything learnt about one device in one run, as one JSON file.
//!
//! The only file that knows the format. Readers ignore what they do not know; a change that breaks
//! them raises the major version.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::op::{Dtype, OpName, Shape};
use crate::protocol::{Device, RunnerInfo, Timer, Tunables};
use crate::shader::sha256;

/// Version of the format: readers of the same major version understand each other.
pub const SCHEMA_VERSION: &str = "1.10.0";

/// How the reason begins why something is not there that a signal cut off.
pub(crate) const INTERRUPTED: &str = "the run was interrupted";

/// How the reason of a case begins that the user's time limit left out.
pub(crate) const BUDGET_USED: &str = "the budget of the run was used up";

/// How the reason of a case begins that its share of the budget left out.
pub(crate) const SHARE_USED: &str = "the case's share of the budget";

/// How the reason of a case begins whose calls would take too long.
pub(crate) const TOO_SLOW: &str = "one call may take";

/// Whether a reason says that a case was left out for want of time.
pub(crate) fn by_budget(reason: &str) -> bool {
    reason.starts_with(BUDGET_USED) || reason.starts_with(SHARE_USED)
}

/// Whether a reason says that nobody tried, or that there was no time for more: another run may well
/// have measured the case on the same device.
pub(crate) fn is_left_over(reason: &str) -> bool {
    by_budget(reason) || reason.starts_with(INTERRUPTED) || reason.starts_with(TOO_SLOW)
}

/// Everything learnt in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Semantic version of this format.
    pub schema_version: String,
    /// SHA-256 of the report's canonical form (RFC 8785) without this field.
    pub report_id: String,
    /// Whether every case has an outcome that was sought.
    pub status: Status,
    /// When the run began, in UTC (RFC 3339).
    pub started_at: String,
    /// How long it took.
    pub duration_s: f64,
    /// Seed that the inputs of every case derive from.
    pub seed: u32,
    /// What made this report.
    pub tool: Tool,
    /// The machine.
    pub host: Host,
    /// The list of cases.
    pub suite: Suite,
    /// The device of the first runner.
    pub device: Device,
    /// The chip that this device is, where the catalogue knows it.
    #[serde(default)]
    pub chip: Option<ChipRecord>,
    /// Every runner that took part, with the device it opened and its clock.
    pub runners: Vec<RunnerRecord>,
    /// Peaks measured by probe kernels in this run.
    pub ceilings: Vec<Ceiling>,
    /// The memory hierarchy as each runner sees it.
    #[serde(default)]
    pub memory: Vec<MemoryHierarchy>,
    /// What differences this machine can tell, where the run was asked to find out.
    #[serde(default)]
    pub calibration: Option<Calibration>,
    /// Name of the race that this report is one side of: the processes of both sides then ran in
    /// pairs, by turns or one after the other.
    #[serde(default)]
    pub interleave_id: Option<String>,
    /// One per case and runner.
    pub outcomes: Vec<Outcome>,
    /// What other programs printed, as `chipmark import` read it: unverified, and never compared or
    /// ranked with outcomes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
}

/// A figure that another program printed. Nobody here checked the result it belongs to or the clock it
/// was taken by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    /// The program: `clpeak`, `nvbench`, `llama.cpp test-backend-ops`.
    pub source: String,
    /// Its version or commit, where the file tells.
    pub source_version: Option<String>,
    /// What was run, in the words of that program.
    pub op: String,
    /// At which sizes and types, in its words; empty where it has none.
    pub case: String,
    /// Which of its figures, in its words.
    pub figure: String,
    /// `duration`, `operations_per_second`, `bytes_per_second`, `items_per_second`, or its own word.
    pub quantity: String,
    /// The figure in `unit`; absent where the program has none.
    pub value: Option<f64>,
    /// `s`, `op/s`, `B/s`, `1/s`, or its own.
    pub unit: String,
    /// The number and unit as they stand in the file.
    pub stated: Option<String>,
    /// Why there is no figure.
    pub reason: Option<String>,
}

impl Claim {
    /// What files and people read where an outcome has its status.
    pub const STATUS: &str = "unverified";

    /// The program with its version.
    #[must_use]
    pub fn program(&self) -> String {
        let version = self
            .source_version
            .iter()
            .map(|version| format!(" {version}"));
        std::iter::once(self.source.clone())
            .chain(version)
            .collect()
    }

    /// What was run and which of its figures this is, as one text.
    #[must_use]
    pub fn case_text(&self) -> String {
        let parts = [&*self.op, &*self.case, &*self.figure];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(" ")
    }

    /// The figure as its program stated it, or why there is none.
    #[must_use]
    pub fn remark(&self) -> String {
        let stated = self.stated.as_ref();
        let stated = stated.map(|stated| format!("stated as {stated}"));
        stated.or_else(|| self.reason.clone()).unwrap_or_default()
    }
}

/// Whether the run got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every case was measured, or skipped because this device or runner cannot do it.
    Complete,
    /// Some case failed, is implausible, or was left out for want of time.
    Partial,
    /// The user or the system ended the run before its end.
    Interrupted,
}

/// What made a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Version of chipmark.
    pub version: String,
    /// Commit it was built from, where known; `-dirty` if the tree had changes.
    pub commit: Option<String>,
    /// The command line.
    pub command: String,
}

/// The machine that the run happened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Operating system and version.
    pub os: String,
    /// Kernel version.
    pub kernel: String,
    /// Processor.
    pub cpu: String,
    /// Logical processors this process may use.
    pub cpu_count: u64,
    /// Main memory.
    pub memory_bytes: u64,
}

/// The list of cases that was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// SHA-256 of its text.
    pub sha256: String,
    /// Which share of its cases this report holds, as `1/3`; absent if all.
    #[serde(default)]
    pub shard: Option<String>,
}

/// One runner of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunnerRecord {
    /// Name and version.
    #[serde(flatten)]
    pub runner: RunnerInfo,
    /// The device it opened.
    pub device: Device,
    /// Its clock.
    pub timer: Timer,
}

/// How far a number can be trusted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Read on a page or in a repository of the vendor.
    Vendor,
    /// Read on another page, in a data set or a price table.
    Secondary,
    /// From memory only; no source was found.
    Recalled,
    /// Given by the user.
    User,
}

impl Confidence {
    /// As people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Vendor => "vendor",
            Self::Secondary => "secondary",
            Self::Recalled => "recalled",
            Self::User => "user",
        }
    }
}

/// The chip of a report's device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChipRecord {
    /// Its id in the chip catalogue.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Who makes it.
    pub vendor: String,
    /// By what it was told: `PCI id 10de:2330`, `name`, `runner`, `--chip`.
    pub by: String,
    /// Versions of it that nobody can tell apart from here.
    #[serde(default)]
    pub note: Option<String>,
    /// Devices that a runtime sees on one chip, where that is more than one: peaks and prices here
    /// are of one device.
    #[serde(default)]
    pub devices_per_chip: Option<f64>,
    /// What an hour of the device costs.
    #[serde(default)]
    pub price: Option<PriceRecord>,
}

/// A price, with its date and source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PriceRecord {
    /// Dollars for an hour of one device, host, memory and network included.
    pub usd_per_hour: f64,
    /// Who asks it, how it is paid, and since when.
    pub origin: String,
    /// When it held.
    pub as_of: Option<String>,
    /// How far it can be trusted.
    pub confidence: Confidence,
    /// Where it was read.
    pub sources: Vec<String>,
}

impl PriceRecord {
    /// A price that the user gave on the command line, today.
    #[must_use]
    pub fn given(usd_per_hour: f64) -> Self {
        let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        Self {
            usd_per_hour,
            origin: format!("--price, {today}"),
            as_of: Some(today),
            confidence: Confidence::User,
            sources: vec!["the command line".to_owned()],
        }
    }
}

/// The datasheet peak behind a fraction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Datasheet {
    /// The chip.
    pub chip_id: String,
    /// Which of its peaks bounds this case: `matrix f16`, `vector f32`, `memory bandwidth`.
    pub peak: String,
    /// That peak, of one device.
    pub value: f64,
    /// `flop_per_s`, `op_per_s` or `bytes_per_s`.
    pub unit: String,
    /// What clock it assumes, in the words of the source; absent for memory.
    pub clock_basis: Option<String>,
    /// How far it can be trusted.
    pub confidence: Confidence,
    /// Where it was read, as ids in `chips/sources.toml`.
    pub sources: Vec<String>,
    /// Median of the clock that sensors saw while the case was timed.
    pub observed_clock_hz: Option<f64>,
    /// The fraction of what the peak would be at that clock; of arithmetic, where both clocks are
    /// known.
    pub fraction_at_observed_clock: Option<f64>,
}

/// A peak that a probe kernel measured in this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ceiling {
    /// `alu_f32`, `alu_i8`, `matrix_f16`, `memory_copy`, `launch_latency`, ...
    pub name: String,
    /// The figure.
    pub value: f64,
    /// `flop_per_s`, `op_per_s` (operations on integers), `bytes_per_s` or `s`.
    pub unit: String,
    /// The case it comes from.
    pub case_id: String,
    /// The runner it holds for.
    pub runner: String,
}

/// What came of one case on one runner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// The name that carries the whole case.
    pub case_id: String,
    /// The operation.
    pub op: OpName,
    /// Its sizes.
    pub shape: Shape,
    /// Element type.
    pub dtype: Dtype,
    /// Type that sums are kept in.
    pub accumulator: String,
    /// Who ran it.
    pub runner: String,
    /// What came of it.
    pub status: OutcomeStatus,
    /// Why it is not `measured`.
    pub reason: Option<String>,
    /// The kernel that was chosen.
    pub kernel: Option<String>,
    /// Its tunables.
    pub variant: Tunables,
    /// SHA-256 of the very source that was timed.
    pub shader_sha256: Option<String>,
    /// What was done to the source before the driver got it.
    pub shader_passes: Vec<String>,
    /// Seconds from source to pipeline.
    pub compile_s: Option<f64>,
    /// How the number came about.
    pub labels: Option<Labels>,
    /// Seconds of one call.
    pub time_s: Option<Times>,
    /// Which condition ended the measurement.
    pub stop_reason: Option<String>,
    /// The condition that was wanted and not met, with both numbers.
    #[serde(default)]
    pub not_converged: Option<String>,
    /// Why the clock is not the one that the runner offered.
    #[serde(default)]
    pub clock_note: Option<String>,
    /// Whether the device kept its pace, with the evidence.
    #[serde(default)]
    pub throttle: Option<Throttle>,
    /// The same variant under other conditions: cold caches, zero data.
    #[serde(default)]
    pub regimes: Vec<Regime>,
    /// Why regimes that the suite asks for are not there: no device can have reached the time, or there
    /// was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regimes_reason: Option<String>,
    /// What the other clock said, where the first was not believed.
    #[serde(default)]
    pub second_clock: Option<SecondClock>,
    /// Clocks, power and temperature through the final measurement.
    #[serde(default)]
    pub telemetry: Option<Trace>,
    /// Floating-point operations of one call.
    pub flop_count: u64,
    /// Least bytes that one call must move.
    pub bytes_min: u64,
    /// Achieved arithmetic rate.
    pub flops_per_second: Option<f64>,
    /// Achieved rate of the least bytes.
    pub bytes_per_second: Option<f64>,
    /// Seconds that the ceilings of this run allow at best.
    pub roofline_time_s: Option<f64>,
    /// The ceiling that binds: `alu_f32` or `memory_copy`.
    pub roofline_bound: Option<String>,
    /// `roofline_time_s` over the median time. Above one means that the working set fits a cache
    /// which the bandwidth probe did not, or that the number is implausible.
    pub fraction_of_ceiling: Option<f64>,
    /// The least seconds that the chip's datasheet allows over the median time, where the chip and
    /// the peak are known.
    pub fraction_of_datasheet: Option<f64>,
    /// The peak that this fraction is of.
    #[serde(default)]
    pub datasheet: Option<Datasheet>,
    /// Of portable kernels: how far they are from the best that the vendor's own library does on this
    /// device.
    #[serde(default)]
    pub gap: Option<Gap>,
    /// The check of the very buffers that were timed, after they were timed.
    pub verification: Option<Verification>,
    /// The check with integer inputs, where the op is exact on them.
    pub verification_exact: Option<Verification>,
    /// Joules, where there is a counter or a power reading.
    pub energy: Option<Energy>,
    /// Why there is no energy.
    #[serde(default)]
    pub energy_reason: Option<String>,
    /// Joules of one call over its floating-point operations.
    #[serde(default)]
    pub joules_per_flop: Option<f64>,
    /// Joules of one call over the bytes it moves, of ops without arithmetic.
    #[serde(default)]
    pub joules_per_byte: Option<f64>,
    /// Dollars of one call over its floating-point operations, at the price in `chip`.
    #[serde(default)]
    pub usd_per_flop: Option<f64>,
    /// Dollars of one call over the bytes it moves, of ops without arithmetic.
    #[serde(default)]
    pub usd_per_byte: Option<f64>,
    /// Every variant that was looked at, chosen one included.
    pub tried: Vec<Tried>,
}

/// The four things that can come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// Verified and timed.
    Measured,
    /// Not run; the reason says why.
    Skipped,
    /// Tried, and did not work.
    Failed,
    /// Timed, but beyond what the device can do.
    Implausible,
}

impl OutcomeStatus {
    /// As files and people write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Implausible => "implausible",
        }
    }
}

/// How a number came about. Numbers that differ in cache, data or checks are not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Labels {
    /// `alu` or `matrix`.
    pub engine: String,
    /// `device` or `host`.
    pub timer: String,
    /// `hot` (the same buffers each call) or `cold`.
    pub cache: String,
    /// `uniform`, `integer`, `zero` or `files`.
    pub data: String,
    /// `on` or `off`: bounds checks and loop limits in kernels.
    pub checks: String,
    /// What the output was rounded to before it was handed over, where that is shorter than the
    /// dtype's own: `f16` of some libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// Whether the device kept its pace around and during a case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Throttle {
    /// Whether anything in the evidence says that it did not.
    pub suspected: bool,
    /// Seconds of one call of the canary before the case. The canary is arithmetic alone, so its
    /// time is the inverse of the clock.
    pub canary_before_s: Option<f64>,
    /// The same after the case.
    pub canary_after_s: Option<f64>,
    /// Relative change of the canary's time over the case; above zero it became slower.
    pub canary_change: Option<f64>,
    /// What speaks for throttling, one line each.
    pub evidence: Vec<String>,
}

/// The portability gap of a case: the time of a portable kernel over that of the fastest one that is
/// not portable, of the same run, on the same device, verified alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// The runner that was fastest.
    pub runner: String,
    /// Its kernel.
    pub kernel: String,
    /// The portable kernel's median over the other's: above one it is slower.
    pub time_ratio: f64,
    /// The ratio of the near ends of both intervals of 95 %: the least that the gap is.
    pub low: f64,
    /// The ratio of the far ends.
    pub high: f64,
}

/// The chosen variant timed under other conditions than the headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Regime {
    /// `hot` or `cold`.
    pub cache: String,
    /// `uniform` or `zero`.
    pub data: String,
    /// Sets of buffers that the calls took by turns.
    pub set_count: u32,
    /// Seconds of one call.
    pub time_s: Times,
    /// Its median over the headline's.
    pub time_ratio: f64,
    /// Whether the two intervals lie apart.
    pub differs: bool,
    /// The condition that was wanted and not met, with both numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_converged: Option<String>,
    /// The check of the buffers that were timed.
    pub verification: Verification,
}

/// A time by the clock that is not the headline's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecondClock {
    /// `host_slope` or `device`.
    pub clock: String,
    /// Median seconds of one call by it.
    pub median_s: f64,
    /// It over the first clock's median.
    pub ratio: f64,
    /// What was concluded.
    pub conclusion: String,
}

/// What sensors said while a case was timed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trace {
    /// Where the figures come from, such as `nvml` or `hwmon amdgpu`.
    pub source: String,
    /// Readings in the order taken.
    pub points: Vec<TracePoint>,
}

/// One reading of all sensors; what a device does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TracePoint {
    /// Seconds since the measurement began.
    pub at_s: f64,
    /// Clock of the compute units.
    pub sm_clock_hz: Option<f64>,
    /// Clock of the memory.
    pub memory_clock_hz: Option<f64>,
    /// Power of the board or package.
    pub power_w: Option<f64>,
    /// Temperature of the chip.
    pub temperature_c: Option<f64>,
    /// Reasons the driver gives for not running at full clock, in its words.
    #[serde(default)]
    pub throttle_reasons: Vec<String>,
}

/// Latency and bandwidth by working set, and the caches they show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryHierarchy {
    /// The runner it holds for.
    pub runner: String,
    /// Seconds of one dependent load, by bytes of the working set, ascending.
    pub latency: Vec<HierarchyPoint>,
    /// Bytes read per second, by bytes of the working set, ascending.
    pub bandwidth: Vec<HierarchyPoint>,
    /// Sizes of the caches found, ascending.
    pub caches_bytes: Vec<u64>,
    /// Sizes of the caches that the operating system states, ascending, where the device is the
    /// processor itself.
    #[serde(default)]
    pub stated_bytes: Vec<u64>,
    /// Size of the last cache: the larger of what was found and what is stated, since a shared or
    /// virtual machine may get less than all of it now and all of it later. Absent where neither is
    /// known.
    pub last_level_bytes: Option<u64>,
    /// How the sizes were found.
    pub method: String,
}

/// One point of a curve over the working set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HierarchyPoint {
    /// Size of the working set.
    pub bytes: u64,
    /// Seconds, or bytes per second.
    pub value: f64,
}

/// What differences a machine can tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Calibration {
    /// When it was made, in UTC.
    pub made_at: String,
    /// The runner and device it holds for.
    pub runner: String,
    /// Its device.
    pub device: String,
    /// The API it was reached by; absent in versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The driver it was reached by; absent in versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The case that was slowed down.
    pub case_id: String,
    /// Fresh processes on each side of one comparison.
    pub process_count: u32,
    /// Comparisons of the same with the same.
    pub same_count: u32,
    /// How many of them were called faster or slower.
    pub false_alarm_count: u32,
    /// How often each known slowdown was found.
    pub slowdowns: Vec<SlowdownFound>,
    /// Smallest relative change found at least 95 % of the time; absent if none was.
    pub detectable_change: Option<f64>,
    /// Relative difference below which two times count as the same, where both sides were measured
    /// by turns.
    pub tie_width: f64,
    /// The same where one side was measured after the other: what 95 % of the comparisons between
    /// different stretches of the calibration stay within, and so with the drift of the machine over
    /// that time; never below `tie_width`. Absent from calibrations of fewer than five comparisons
    /// and of versions that did not ask; then `tie_width` stands for it, or, where that is of turns,
    /// twice `process_relative_sd` if that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart_width: Option<f64>,
    /// Relative standard deviation of the processes' medians (up to version 1.9 of their minima where
    /// `statistic` is that).
    pub process_relative_sd: f64,
    /// What is compared of the processes of a block: the ratio of their `turns`, which they took in
    /// milliseconds; where they ran one after the other, the `median` of each, or its `minimum` where
    /// other work on the machine makes medians scatter more than twice as much.
    #[serde(default = "median_statistic")]
    pub statistic: String,
    /// The device's clock against the slope of the host's on the same kernel; absent where there is
    /// only one clock.
    #[serde(default)]
    pub clocks: Option<ClockAgreement>,
    /// Whether a slowdown of twice `detectable_change` was found by comparisons that had no part in
    /// choosing it; absent where no change was found, or by versions that did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
}

impl Calibration {
    /// Relative difference below which two times count as the same that were not measured by turns.
    #[must_use]
    pub fn width_apart(&self) -> f64 {
        let unknown = if self.statistic == TURNS {
            // Turns see nothing of what tells two runs apart.
            self.tie_width.max(2.0 * self.process_relative_sd)
        } else {
            self.tie_width
        };
        self.apart_width.unwrap_or(unknown)
    }
}

/// What comparisons say that were made after tie width and threshold were fixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Confirmation {
    /// Comparisons of the same with the same.
    pub same_count: u32,
    /// How many of them were called faster or slower.
    pub false_alarm_count: u32,
    /// How often a slowdown of twice the threshold was found.
    pub slowdown: SlowdownFound,
}

/// The value of [`Calibration::statistic`] for medians.
pub const MEDIAN: &str = "median";
/// The value of [`Calibration::statistic`] for fastest samples.
pub const MINIMUM: &str = "minimum";
/// The value of [`Calibration::statistic`] for ratios of turns.
pub const TURNS: &str = "turns";

fn median_statistic() -> String {
    MEDIAN.to_owned()
}

/// Two clocks on the same kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClockAgreement {
    /// Seconds of one call by the slope of the device's clock: the median of several pairs of spans.
    pub device_s: f64,
    /// Seconds of one call by the slope of the host's clock over the same spans.
    pub host_slope_s: f64,
    /// The host's over the device's: the median of the pairs.
    pub ratio: f64,
}

/// How often a known slowdown was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowdownFound {
    /// The slowdown, relative.
    pub injected: f64,
    /// Comparisons made.
    pub count: u32,
    /// How many were called slower.
    pub found_count: u32,
    /// Median of the relative slowdown that was measured.
    pub measured: f64,
}

/// Seconds of one call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Times {
    /// Median over the samples.
    pub median: f64,
    /// Lower end of the median's 95 % order-statistic interval.
    pub ci95_low: f64,
    /// Upper end of it.
    pub ci95_high: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// First quartile.
    pub q1: f64,
    /// Third quartile.
    pub q3: f64,
    /// Every sample in the order taken: the mean over the calls of one span.
    pub samples: Vec<f64>,
    /// Calls in each span.
    pub repeat_count: u32,
    /// Median of the host's clock over the same spans, per call: submission and wake-up included.
    pub host_median: f64,
    /// Spans whose device time made no sense: left out where most were good, and counted only where
    /// the host's clock serves instead.
    pub invalid_count: u32,
    /// Median per call of the host's time to hand a submission over; absent where there is none.
    #[serde(default)]
    pub submit_median: Option<f64>,
    /// Median over the first 0.1 s, where it differs from the settled one by more than 3 %.
    #[serde(default)]
    pub burst_median: Option<f64>,
    /// Medians of the same variant in fresh processes, this one's first; empty where there was one.
    #[serde(default)]
    pub process_medians: Vec<f64>,
    /// Fastest samples of the same processes, in the same order.
    #[serde(default)]
    pub process_minima: Vec<f64>,
    /// Where two sides were raced by turns of a few milliseconds: for each of the same processes, the
    /// time of a call over that on the other side: the geometric mean of two medians, over the rounds
    /// that this side began and over those that the other began. Empty where processes ran one after
    /// the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turn_ratios: Vec<f64>,
}

/// The evidence that an output is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// Which elements were checked and how.
    pub method: String,
    /// Inputs it was checked on.
    pub data: String,
    /// Whether equality to the last bit was demanded.
    pub exact: bool,
    /// Largest absolute difference from the f64 reference over the checked elements.
    pub max_error: f64,
    /// Root of the mean square of them.
    pub rms_error: f64,
    /// What rounding can explain at the element with the largest difference.
    pub tolerance: f64,
    /// Largest ratio of difference to tolerance over everything checked; at most one when right.
    pub error_to_tolerance_max: f64,
    /// Single elements compared.
    pub positions_checked: u64,
    /// Rows whose signed sum was compared.
    pub rows_checked: u64,
    /// Seed that chose elements and signs, drawn after the runner had its output.
    pub challenge_seed: u32,
}

/// Energy over a steady window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Energy {
    /// Joules of one call.
    pub joules: f64,
    /// The counter, or the power reading that was integrated.
    pub source: String,
    /// Length of the window that the average power was taken over.
    pub window_s: f64,
    /// `hot` or `cold`, as in `labels` and `regimes`: how the calls found their tensors that it was
    /// counted over. Absent from versions that counted hot ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// How good the number is: a class, a colon, and the details in words. The classes are
    /// `counter` (an energy counter, the ends of the window known to better than 1 % of it),
    /// `counter_coarse` (the same, known less well), `package` (a counter of a whole processor
    /// package, all work on it included), `integrated_power` (sampled power, integrated).
    pub quality: String,
    /// Average power over the window.
    #[serde(default)]
    pub power_w: Option<f64>,
    /// Calls that the time of one call was averaged over.
    #[serde(default)]
    pub call_count: Option<u64>,
    /// Average power before the runner's first case, with nothing to do, where it was measured. It is part
    /// of `joules` and has not been taken away.
    #[serde(default)]
    pub idle_power_w: Option<f64>,
    /// Watts that the driver holds the device to.
    #[serde(default)]
    pub power_limit_w: Option<f64>,
    /// Seconds between two steps of the counter, as seen.
    #[serde(default)]
    pub update_period_s: Option<f64>,
    /// Average of sampled power over the same window, over `power_w`; one where a counter and a
    /// power reading of the same device agree.
    #[serde(default)]
    pub sampled_power_ratio: Option<f64>,
    /// Why the number should not be believed, where something speaks against it.
    #[serde(default)]
    pub doubt: Option<String>,
}

impl Energy {
    /// [`Energy::cache`], and `hot` where a version had no other.
    #[must_use]
    pub fn cache(&self) -> &str {
        self.cache.as_deref().unwrap_or("hot")
    }
}

/// One variant that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tried {
    /// Its kernel.
    pub kernel: String,
    /// Its tunables.
    pub variant: Tunables,
    /// `timed`, `refused` (cannot run here), `wrong`, `failed`, `pruned` (it cannot be the best, so it
    /// was not built), or `untried` (the budget ended).
    pub status: String,
    /// Median seconds of one call.
    pub time_s_median: Option<f64>,
    /// The case it was timed at, where that was a smaller one.
    pub at_case_id: Option<String>,
    /// Seconds from source to pipeline.
    pub compile_s: Option<f64>,
    /// Why it is not `timed`.
    pub reason: Option<String>,
}

impl Report {
    /// The id this report should have.
    ///
    /// # Errors
    /// When a number in it is not finite, which JSON cannot write.
    pub fn computed_id(&self) -> Result<String> {
        let value = serde_json::to_value(self).map_err(|e| Error::internal(e.to_string()))?;
        // A float that is not finite becomes null, and null where a number must be is no report.
        serde_json::from_value::<Self>(with_id(&value)).map_err(|error| {
            Error::internal(format!(
                "the report holds a number that is not finite: {error}"
            ))
        })?;
        content_id(value)
    }

    /// Sets the id from everything else.
    ///
    /// # Errors
    /// As [`Report::computed_id`].
    pub fn seal(&mut self) -> Result<()> {
        self.report_id = self.computed_id()?;
        Ok(())
    }

    /// The report as it is written.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        let mut text =
            serde_json::to_string_pretty(self).map_err(|e| Error::internal(e.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    /// Reads and checks a report.
    ///
    /// # Errors
    /// A usage error that names the file, the field and the remedy.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::read_with_id(path)?.0)
    }

    /// As [`Report::read`], with the id that the file's content should have. Fields that this
    /// version does not know are content too: another minor version may have written them.
    ///
    /// # Errors
    /// As [`Report::read`].
    pub fn read_with_id(path: &Path) -> Result<(Self, String)> {
        let text = files::read_text(path)
            .map_err(|error| Error::usage(format!("{}: {error}", path.display())))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The report that a text holds, and the id that its content has; `name` is what messages call it.
    ///
    /// # Errors
    /// As [`Report::read`].
    pub fn parse(text: &str, name: &str) -> Result<(Self, String)> {
        let refuse = |what: String| Error::usage(format!("{name}: {what}"));
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| {
            refuse(if error.is_eof() {
                format!("it ends in the middle of the JSON ({error}); copy the whole file")
            } else {
                format!("it is not JSON: {error}")
            })
        })?;
        let version = value
            .get("schema_version")
            .and_then(serde_json::Value::as_str)
            .ok_or_else(|| {
                refuse("it has no schema_version, so it is no chipmark report".to_owned())
            })?;
        let major = |text: &str| {
            text.split('.')
                .next()
                .and_then(|part| part.parse::<u64>().ok())
        };
        match (major(version), major(SCHEMA_VERSION)) {
            (Some(theirs), Some(ours)) if theirs == ours => {}
            (Some(theirs), Some(ours)) if theirs > ours => {
                return Err(refuse(format!(
                    "schema_version {version} is newer than {SCHEMA_VERSION}; update chipmark to read it"
                )));
            }
            (Some(_), _) => {
                return Err(refuse(format!(
                    "schema_version {version} is older than {SCHEMA_VERSION}; run the cases again"
                )));
            }
            (None, _) => {
                return Err(refuse(format!(
                    "schema_version {version:?} is not a version"
                )));
            }
        }
        let report = Self::deserialize(&value)
            .map_err(|error| refuse(format!("it does not follow the schema: {error}")))?;
        report.check_numbers().map_err(refuse)?;
        Ok((report, content_id(value)?))
    }

    /// Numbers that no measurement can yield, whoever wrote them.
    fn check_numbers(&self) -> std::result::Result<(), String> {
        let positive = |what: &str, place: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(format!(
                    "{place}: {what} is {value}; it must be a finite number above zero"
                ))
            }
        };
        for ceiling in &self.ceilings {
            positive("value", &format!("ceiling {}", ceiling.name), ceiling.value)?;
        }
        for outcome in &self.outcomes {
            let place = format!("outcome {}", outcome.case_id);
            if let Some(times) = &outcome.time_s {
                for (name, value) in [
                    ("median", times.median),
                    ("ci95_low", times.ci95_low),
                    ("ci95_high", times.ci95_high),
                ] {
                    positive(&format!("time_s.{name}"), &place, value)?;
                }
                if times.ci95_low > times.median || times.median > times.ci95_high {
                    return Err(format!(
                        "{place}: time_s.median lies outside its own interval"
                    ));
                }
            }
            if let Some(energy) = &outcome.energy {
                positive("energy.joules", &place, energy.joules)?;
                positive("energy.window_s", &place, energy.window_s)?;
            }
            if outcome.status == OutcomeStatus::Measured
                && (outcome.time_s.is_none() || outcome.verification.is_none())
            {
                return Err(format!(
                    "{place}: it is measured but has no time_s or no verification"
                ));
            }
            if outcome.status != OutcomeStatus::Measured && outcome.reason.is_none() {
                return Err(format!("{place}: it is not measured and gives no reason"));
            }
        }
        for claim in &self.claims {
            let place = format!("claim {} {} {}", claim.source, claim.op, claim.figure);
            match (claim.value, &claim.reason) {
                (None, None) => return Err(format!("{place}: it has no value and no reason")),
                (Some(value), _) if value < 0.0 || !value.is_finite() => {
                    return Err(format!(
                        "{place}: value is {value}; it must be a finite number of zero or more"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The outcomes that a status applies to.
    pub fn with_status(&self, status: OutcomeStatus) -> impl Iterator<Item = &Outcome> {
        self.outcomes
            .iter()
            .filter(move |outcome| outcome.status == status)
    }
}

/// SHA-256 of the canonical form of a report without its id.
fn content_id(mut report: serde_json::Value) -> Result<String> {
    if let Some(object) = report.as_object_mut() {
        object.remove("report_id");
    }
    let canonical =
        serde_json_canonicalizer::to_vec(&report).map_err(|e| Error::internal(e.to_string()))?;
    Ok(sha256(&canonical))
}

fn with_id(value: &serde_json::Value) -> serde_json::Value {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        object.insert(
            "report_id".to_owned(),
            serde_json::Value::String(String::new()),
        );
    }
    value
}

/// The JSON Schema of [`Report`], as published in `docs/report.schema.json`.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

/// Turns a device name into a folder name: lower-case words joined by hyphens.
#[must_use]
pub fn slug(name: &str) -> String {
    // Trade marks are no words, and what else is in brackets is a driver or compiler version, which
    // is not the device.
    let name = name.replace("(R)", " ").replace("(TM)", " ");
    let plain = name.split(['(', '/']).next().unwrap_or_default();
    let words: Vec<String> = plain
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let slug: String = words.join("-").chars().take(64).collect();
    if slug.is_empty() {
        "unknown".to_owned()
    } else {
        slug
    }
}

/// Makes sure that files can be written under `directory`, which the option `flag` named, before
/// anything is measured.
///
/// # Errors
/// A usage error that names the folder and the cause.
pub fn check_writable(flag: &str, directory: &Path) -> Result<()> {
    let refuse = |error: std::io::Error| {
        Error::usage(format!(
            "{flag} {}: {error}; name a folder that can be written",
            directory.display()
        ))
    };
    fs::create_dir_all(directory).map_err(refuse)?;
    tempfile::Builder::new()
        .prefix(".chipmark-")
        .tempfile_in(directory)
        .map_err(refuse)
        .map(|_| ())
}

/// Writes the report as `DIRECTORY/<device>/<date>-<backend>.json`, whole or not at all, and under
/// the next free name if that one is taken: an earlier report is never overwritten, not even by a
/// run that ends at the same moment.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<PathBuf> {
    write_text(report, &report.to_json()?, directory)
}

/// [`write()`] for a report that somebody else wrote: `text` is what goes into the file.
///
/// # Errors
/// As [`write()`].
pub fn write_text(report: &Report, text: &str, directory: &Path) -> Result<PathBuf> {
    // Whatever a runner calls its device, it stays inside the folder.
    let folder = directory.join(slug(
        report
            .device
            .chip_id
            .as_deref()
            .unwrap_or(&report.device.name),
    ));
    let refuse = |error: std::io::Error| {
        Error::new(ErrorKind::Usage, format!("{}: {error}", folder.display()))
    };
    fs::create_dir_all(&folder).map_err(refuse)?;
    let mut file = tempfile::Builder::new()
        .prefix(".chipmark-")
        .tempfile_in(&folder)
        .map_err(refuse)?;
    file.write_all(text.as_bytes()).map_err(refuse)?;
    file.as_file().sync_all().map_err(refuse)?;
    #[cfg(unix)]
    {
        // Temporary files are private; reports are for everyone who can read the folder.
        use std::os::unix::fs::PermissionsExt;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o644))
            .map_err(refuse)?;
    }
    // Not as it is written: a stranger's time may hold more than a day, and slashes.
    let day = report.started_at.parse::<jiff::Timestamp>();
    let day = day.map_or_else(
        |_| "undated".to_owned(),
        |at| at.strftime("%Y-%m-%d").to_string(),
    );
    for number in 1u32.. {
        let suffix = if number == 1 {
            String::new()
        } else {
            format!("-{number}")
        };
        let path = folder.join(format!(
            "{day}-{}{suffix}.json",
            slug(&report.device.backend)
        ));
        // The rename fails if the name is taken, so that two runs cannot race for it.
        match file.persist_noclobber(&path) {
            Ok(_) => return Ok(path),
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                file = error.file
            }
            Err(error) => return Err(refuse(error.error)),
        }
    }
    Err(Error::internal("no file name is free"))
}

/// An outcome of a case that has not been measured yet.
#[must_use]
pub fn unmeasured(
    case: &crate::op::Case,
    runner: &str,
    status: OutcomeStatus,
    reason: String,
) -> Outcome {
    Outcome {
        case_id: case.id(),
        op: case.op,
        shape: case.shape.clone(),
        dtype: case.dtype,
        accumulator: case.dtype.accumulator().to_owned(),
        runner: runner.to_owned(),
        status,
        reason: Some(reason),
        kernel: None,
        variant: BTreeMap::new(),
        shader_sha256: None,
        shader_passes: Vec::new(),
        compile_s: None,
        labels: None,
        time_s: None,
        stop_reason: None,
        not_converged: None,
        clock_note: None,
        throttle: None,
        regimes: Vec::new(),
        regimes_reason: None,
        gap: None,
        second_clock: None,
        telemetry: None,
        flop_count: case.flop_count(),
        bytes_min: case.bytes_min(),
        flops_per_second: None,
        bytes_per_second: None,
        roofline_time_s: None,
        roofline_bound: None,
        fraction_of_ceiling: None,
        fraction_of_datasheet: None,
        datasheet: None,
        verification: None,
        verification_exact: None,
        energy: None,
        energy_reason: None,
        joules_per_flop: None,
        joules_per_byte: None,
        usd_per_flop: None,
        usd_per_byte: None,
        tried: Vec::new(),
    }
}

/// A report of nothing, for tests to fill.
#[cfg(test)]
pub(crate) fn empty() -> Report {
    Report {
        schema_version: SCHEMA_VERSION.to_owned(),
        report_id: String::new(),
        status: Status::Complete,
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        duration_s: 1.0,
        seed: 1,
        tool: Tool {
            version: "0".to_owned(),
            commit: None,
            command: String::new(),
        },
        host: Host {
            os: String::new(),
            kernel: String::new(),
            cpu: String::new(),
            cpu_count: 1,
            memory_bytes: 1,
        },
        suite: Suite {
            name: "tiny".to_owned(),
            sha256: "0".to_owned(),
            shard: None,
        },
        device: Device::default(),
        chip: None,
        runners: Vec::new(),
        ceilings: Vec::new(),
        memory: Vec::new(),
        calibration: None,
        interleave_id: None,
        outcomes: Vec::new(),
        claims: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_names_the_device_and_not_its_driver() {
        assert_eq!(slug("llvmpipe (LLVM 15.0.6, 256 bits)"), "llvmpipe");
        assert_eq!(slug("NVIDIA H100 80GB HBM3"), "nvidia-h100-80gb-hbm3");
        assert_eq!(slug("../../etc/passwd"), "unknown");
        assert_eq!(slug("..\\..\\x"), "x");
        assert_eq!(slug(""), "unknown");
    }
}
