//! `chipmark goals`: how far our kernels in a report are from what they are meant to reach.
//!
//! A goal is held against an interval and not against a number: it is reached where the whole
//! interval lies at or above it, missed where all of it lies below, and in between nobody can tell.

use std::fmt::Write;
use std::path::Path;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::display;
use crate::error::{Error, Result, one_line};
use crate::files;
use crate::normalise::MEMORY_COPY;
use crate::report::{Outcome, OutcomeStatus, Report};

/// The goals that come with the program.
const GOALS: &str = include_str!("../goals/kernels.toml");

/// The runner whose kernels have goals: these are wishes for our own.
const OURS: &str = "wgpu";

/// How many of the largest gaps are named.
const GAPS_NAMED: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Devices {
    Gpu,
    Cpu,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    filter: String,
    devices: Devices,
    fraction_of_ceiling_min: Option<f64>,
    library_ratio_min: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "goal")]
    goals: Vec<Entry>,
}

/// A list of goals.
#[derive(Clone, Debug)]
pub struct Goals(Vec<(Regex, Entry)>);

/// What a goal is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The fraction of the ceiling that binds the case.
    FractionOfCeiling,
    /// The time of the fastest library over ours.
    LibraryRatio,
}

impl Measure {
    fn word(self) -> &'static str {
        match self {
            Self::FractionOfCeiling => "of ceiling",
            Self::LibraryRatio => "of library",
        }
    }
}

/// What became of a goal at one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The whole interval is at or above it.
    Reached,
    /// The whole interval is below it.
    Missed,
    /// The interval holds the goal.
    Undecided,
    /// There is no figure to hold against it.
    Unknown,
}

impl Finding {
    fn word(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Missed => "missed",
            Self::Undecided => "undecided",
            Self::Unknown => "unknown",
        }
    }
}

/// One goal at one case of one runner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The goal's name.
    pub goal: String,
    /// The case.
    pub case_id: String,
    /// The runner.
    pub runner: String,
    /// The kernel; absent where nothing was measured.
    pub kernel: Option<String>,
    /// What is compared.
    pub measure: Measure,
    /// What is asked for.
    pub asked: f64,
    /// What was reached; absent where there is none.
    pub reached: Option<f64>,
    /// The least and the most that the 95 % interval of the times leaves.
    pub low: Option<f64>,
    /// See `low`.
    pub high: Option<f64>,
    /// What the figure is a fraction of: a ceiling with its name, or a library's runner and kernel.
    pub against: Option<String>,
    /// What became of it.
    pub finding: Finding,
    /// Why there is no figure.
    pub reason: Option<String>,
}

/// All goals that concern a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// The device.
    pub device: String,
    /// A row for each goal and case that it asks about, in the order of the goals.
    pub rows: Vec<Row>,
}

impl Goals {
    /// The goals of a file, or those that come with the program.
    ///
    /// # Errors
    /// A usage error that names the file, the goal and the remedy.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let Some(path) = file else {
            return Self::parse("goals/kernels.toml", GOALS);
        };
        let name = path.display().to_string();
        let text = files::read_text(path)
            .map_err(|error| Error::usage(format!("--goals {name}: {error}")))?;
        Self::parse(&name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let refuse = |what: String| Error::usage(format!("--goals {name}: {what}"));
        let file: File =
            toml::from_str(text).map_err(|error| refuse(one_line(&error.to_string())))?;
        let mut goals = Vec::new();
        for (number, entry) in (1..).zip(file.goals) {
            let place = format!("[[goal]] {number}, {:?}", entry.name);
            let regex = Regex::new(&entry.filter)
                .map_err(|error| refuse(format!("{place}: {}", one_line(&error.to_string()))))?;
            for (field, value) in [
                ("fraction_of_ceiling_min", entry.fraction_of_ceiling_min),
                ("library_ratio_min", entry.library_ratio_min),
            ] {
                if let Some(value) = value
                    && !(value > 0.0 && value.is_finite())
                {
                    return Err(refuse(format!(
                        "{place}: {field} is {value}; it must be a number above 0"
                    )));
                }
            }
            if entry.fraction_of_ceiling_min.is_some() == entry.library_ratio_min.is_some() {
                return Err(refuse(format!(
                    "{place}: give it either fraction_of_ceiling_min or library_ratio_min"
                )));
            }
            goals.push((regex, entry));
        }
        if goals.is_empty() {
            return Err(refuse("it has no [[goal]]".to_owned()));
        }
        Ok(Self(goals))
    }

    /// Holds a report against the goals for its kind of device.
    #[must_use]
    pub fn hold(&self, report: &Report) -> Standing {
        let mut rows = Vec::new();
        for (regex, entry) in &self.0 {
            for record in report.runners.iter().filter(|one| one.runner.name == OURS) {
                let devices = match record.device.device_type.as_str() {
                    "cpu" => Devices::Cpu,
                    _ => Devices::Gpu,
                };
                let asked_of = report.outcomes.iter().filter(|outcome| {
                    devices == entry.devices
                        && outcome.runner == record.runner.name
                        && regex.is_match(&outcome.case_id)
                });
                rows.extend(asked_of.map(|outcome| entry.row(outcome)));
            }
        }
        Standing {
            device: report.device.name.clone(),
            rows,
        }
    }
}

impl Entry {
    fn row(&self, outcome: &Outcome) -> Row {
        let (measure, asked) = match (self.fraction_of_ceiling_min, self.library_ratio_min) {
            (Some(asked), _) => (Measure::FractionOfCeiling, asked),
            (_, asked) => (Measure::LibraryRatio, asked.unwrap_or_default()),
        };
        let figure = figure(outcome, measure);
        let (numbers, against, reason) = match figure {
            Ok((numbers, against)) => (Some(numbers), Some(against), None),
            Err(reason) => (None, None, Some(reason)),
        };
        Row {
            goal: self.name.clone(),
            case_id: outcome.case_id.clone(),
            runner: outcome.runner.clone(),
            kernel: outcome.kernel.clone(),
            measure,
            asked,
            reached: numbers.map(|[reached, _, _]| reached),
            low: numbers.map(|[_, low, _]| low),
            high: numbers.map(|[_, _, high]| high),
            against,
            finding: match numbers {
                None => Finding::Unknown,
                Some([_, low, _]) if low >= asked => Finding::Reached,
                Some([_, _, high]) if high < asked => Finding::Missed,
                Some(_) => Finding::Undecided,
            },
            reason,
        }
    }
}

/// What was reached with the ends of its interval, and against what; or why nobody knows.
fn figure(outcome: &Outcome, measure: Measure) -> std::result::Result<([f64; 3], String), String> {
    if outcome.status != OutcomeStatus::Measured {
        return Err(outcome
            .reason
            .clone()
            .unwrap_or_else(|| "it was not measured".to_owned()));
    }
    match measure {
        Measure::FractionOfCeiling => {
            let fraction = outcome.fraction_of_ceiling.zip(outcome.time_s.as_ref());
            let (fraction, hot) = fraction.ok_or("no ceiling of this work was measured")?;
            let mut bound = outcome.roofline_bound.clone().unwrap_or_default();
            // What lies in a cache says nothing of how a kernel reads memory.
            let cold = outcome.regimes.iter().find(|regime| regime.set_count > 1);
            let cold = cold.filter(|_| bound == MEMORY_COPY);
            let times = cold.map_or(hot, |regime| &regime.time_s);
            if cold.is_some() {
                bound += ", cold";
            }
            let at = |time_s: f64| fraction * hot.median / time_s;
            let reached = [times.median, times.ci95_high, times.ci95_low].map(at);
            Ok((reached, bound))
        }
        Measure::LibraryRatio => {
            let gap = outcome
                .gap
                .as_ref()
                .ok_or("no library measured this case in the same run")?;
            let against = format!("{} {}", gap.runner, gap.kernel);
            Ok((
                [1.0 / gap.time_ratio, 1.0 / gap.high, 1.0 / gap.low],
                against,
            ))
        }
    }
}

impl Standing {
    /// The rows that are missed, the farthest from its goal first.
    #[must_use]
    pub fn missed(&self) -> Vec<&Row> {
        let mut missed: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| row.finding == Finding::Missed)
            .collect();
        let part = |row: &Row| row.reached.unwrap_or_default() / row.asked;
        missed.sort_by(|a, b| part(a).total_cmp(&part(b)));
        missed
    }

    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        if self.rows.is_empty() {
            return format!("{}: no goal asks for a case of this report\n", self.device);
        }
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.3}"));
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                vec![
                    row.case_id.clone(),
                    row.runner.clone(),
                    row.kernel.clone().unwrap_or_else(|| "-".to_owned()),
                    match (row.low, row.high) {
                        (Some(low), Some(high)) => {
                            format!("{} [{low:.3}, {high:.3}]", number(row.reached))
                        }
                        _ => "-".to_owned(),
                    },
                    format!("{} {}", display::digits(row.asked), row.measure.word()),
                    row.against
                        .clone()
                        .or_else(|| row.reason.clone())
                        .unwrap_or_default(),
                    row.finding.word().to_owned(),
                ]
            })
            .collect();
        let count = |finding| {
            self.rows
                .iter()
                .filter(|row| row.finding == finding)
                .count()
        };
        let mut text = format!(
            "{}\n{}\n{} reached, {} missed, {} undecided, {} unknown\n",
            self.device,
            display::table(
                &[
                    "case", "runner", "kernel", "reached", "asked", "against", ""
                ],
                &rows
            ),
            count(Finding::Reached),
            count(Finding::Missed),
            count(Finding::Undecided),
            count(Finding::Unknown),
        );
        for (place, row) in (1..).zip(self.missed().into_iter().take(GAPS_NAMED)) {
            let _ = writeln!(
                text,
                "gap {place}: {} on {}: {} where {} is asked ({})",
                row.case_id,
                row.runner,
                number(row.reached),
                display::digits(row.asked),
                row.goal
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Case, Dtype, OpName, Shape};
    use crate::protocol::{Device, RunnerInfo, Timer};
    use crate::report::{Gap, Regime, RunnerRecord, Times, Verification, unmeasured};

    /// A report of one square product of f32 by wgpu that takes 1 s, give or take a tenth.
    fn report(device_type: &str, fraction: Option<f64>, gap: Option<[f64; 3]>) -> Report {
        let shape = Shape::of(&[("m", 4096), ("n", 4096), ("k", 4096)]);
        let case = Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.kernel = Some("matmul/register_tile".to_owned());
        outcome.time_s = Some(Times {
            median: 1.0,
            ci95_low: 0.9,
            ci95_high: 1.1,
            ..Times::default()
        });
        outcome.fraction_of_ceiling = fraction;
        outcome.roofline_bound = fraction.map(|_| "alu_f32".to_owned());
        outcome.gap = gap.map(|[time_ratio, low, high]| Gap {
            runner: "torch".to_owned(),
            kernel: "matmul/cublas".to_owned(),
            time_ratio,
            low,
            high,
        });
        let mut report = crate::report::empty();
        report.runners = vec![RunnerRecord {
            runner: RunnerInfo {
                name: "wgpu".to_owned(),
                version: String::new(),
            },
            device: Device {
                device_type: device_type.to_owned(),
                ..Device::default()
            },
            timer: Timer {
                clock: "device".to_owned(),
                quantum_s: 1e-9,
                period_s: None,
                note: None,
            },
        }];
        report.outcomes = vec![outcome];
        report
    }

    fn goals(text: &str) -> Goals {
        Goals::parse("g.toml", text).unwrap()
    }

    const CEILING: &str = "[[goal]]\nname = 'half of the ceiling'\nfilter = '^matmul/'\ndevices = 'gpu'\nfraction_of_ceiling_min = 0.5";
    const LIBRARY: &str = "[[goal]]\nname = 'the library'\nfilter = '^matmul/'\ndevices = 'gpu'\nlibrary_ratio_min = 1.0";

    #[test]
    fn a_goal_is_reached_or_missed_only_with_the_whole_interval() {
        let finding = |fraction| {
            let standing = goals(CEILING).hold(&report("discrete_gpu", Some(fraction), None));
            standing.rows[0].finding
        };
        assert_eq!(finding(0.6), Finding::Reached);
        assert_eq!(finding(0.5), Finding::Undecided);
        assert_eq!(finding(0.4), Finding::Missed);
        let of = |gap| {
            goals(LIBRARY)
                .hold(&report("discrete_gpu", None, Some(gap)))
                .rows[0]
                .clone()
        };
        assert_eq!(of([0.8, 0.7, 0.9]).finding, Finding::Reached);
        assert_eq!(of([1.0, 0.9, 1.1]).finding, Finding::Undecided);
        let missed = of([2.0, 1.6, 2.5]);
        assert_eq!(missed.finding, Finding::Missed);
        assert_eq!(
            (missed.reached, missed.low, missed.high),
            (Some(0.5), Some(0.4), Some(0.625))
        );
        assert_eq!(missed.against.as_deref(), Some("torch matmul/cublas"));
    }

    #[test]
    fn work_of_memory_is_judged_by_its_cold_time() {
        let mut report = report("discrete_gpu", Some(0.6), None);
        let outcome = &mut report.outcomes[0];
        outcome.regimes = vec![Regime {
            cache: "cold".to_owned(),
            data: "uniform".to_owned(),
            set_count: 4,
            time_ratio: 2.0,
            differs: true,
            time_s: Times {
                median: 2.0,
                ci95_low: 1.9,
                ci95_high: 2.1,
                ..Times::default()
            },
            not_converged: None,
            verification: Verification::default(),
        }];
        // Bound by arithmetic: where the operands lie is no matter.
        let row = goals(CEILING).hold(&report).rows.remove(0);
        assert_eq!(row.finding, Finding::Reached);
        report.outcomes[0].roofline_bound = Some(MEMORY_COPY.to_owned());
        let row = goals(CEILING).hold(&report).rows.remove(0);
        assert_eq!((row.finding, row.reached), (Finding::Missed, Some(0.3)));
        assert_eq!(row.against.as_deref(), Some("memory_copy, cold"));
    }

    #[test]
    fn what_has_no_figure_is_unknown_with_its_reason_and_never_reached() {
        let mut report = report("discrete_gpu", None, None);
        let row = goals(CEILING).hold(&report).rows.remove(0);
        assert_eq!(row.finding, Finding::Unknown);
        assert!(row.reason.unwrap().contains("no ceiling"));
        let row = goals(LIBRARY).hold(&report).rows.remove(0);
        assert!(row.reason.unwrap().contains("no library"));
        report.outcomes[0].status = OutcomeStatus::Failed;
        report.outcomes[0].reason = Some("the device was lost".to_owned());
        let row = goals(LIBRARY).hold(&report).rows.remove(0);
        assert_eq!(row.reason.as_deref(), Some("the device was lost"));
    }

    #[test]
    fn goals_of_gpus_are_not_asked_of_software_drivers_nor_any_of_libraries() {
        let mut report = report("cpu", Some(0.1), None);
        assert!(goals(CEILING).hold(&report).rows.is_empty());
        report.runners[0].device.device_type = "discrete_gpu".to_owned();
        report.runners[0].runner.name = "torch".to_owned();
        report.outcomes[0].runner = "torch".to_owned();
        let standing = goals(CEILING).hold(&report);
        assert!(standing.rows.is_empty());
        assert!(standing.text().contains("no goal asks"));
    }

    #[test]
    fn the_farthest_from_its_goal_is_named_first() {
        let mut report = report("discrete_gpu", Some(0.4), Some([10.0, 9.0, 11.0]));
        report.outcomes.push(report.outcomes[0].clone());
        report.outcomes[1].case_id = "matmul/other/f32".to_owned();
        report.outcomes[1].fraction_of_ceiling = Some(0.1);
        let standing = goals(&format!("{CEILING}\n{LIBRARY}")).hold(&report);
        let reached: Vec<_> = standing.missed().iter().map(|row| row.reached).collect();
        assert_eq!(reached, [Some(0.1), Some(0.1), Some(0.1), Some(0.4)]);
        let text = standing.text();
        assert!(text.contains("0 reached, 4 missed"), "{text}");
        assert!(
            text.contains("gap 3: ") && !text.contains("gap 4: "),
            "{text}"
        );
    }

    #[test]
    fn the_goals_that_come_along_can_be_read_and_bad_ones_are_refused() {
        Goals::load(None).unwrap();
        for (text, needle) in [
            ("", "no [[goal]]"),
            ("[[goal]]\nname = 'a'", "filter"),
            (
                "[[goal]]\nname = 'a'\nfilter = '('\ndevices = 'gpu'\nlibrary_ratio_min = 1",
                "unclosed",
            ),
            (
                "[[goal]]\nname = 'a'\nfilter = 'a'\ndevices = 'tpu'\nlibrary_ratio_min = 1",
                "devices",
            ),
            (
                "[[goal]]\nname = 'a'\nfilter = 'a'\ndevices = 'gpu'",
                "either fraction_of_ceiling_min or library_ratio_min",
            ),
            (
                "[[goal]]\nname = 'a'\nfilter = 'a'\ndevices = 'gpu'\nlibrary_ratio_min = -1",
                "library_ratio_min is -1",
            ),
        ] {
            let complaint = Goals::parse("g.toml", text).unwrap_err().message;
            assert!(complaint.starts_with("--goals g.toml: "), "{complaint}");
            assert!(complaint.contains(needle), "{needle} is not in {complaint}");
            assert!(!complaint.contains('\n'), "{complaint}");
        }
    }
}
