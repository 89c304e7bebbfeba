//! Performance portability: what a runner's kernels keep of their efficiency from chip to chip.
//!
//! The metric of Pennycook, Sewall and Lee (2016): the harmonic mean of the efficiencies of one
//! application at one problem over a set of platforms, and zero where one of them cannot run it.
//! Here the application is a runner, the problem a case, a platform a device. It rates kernels and
//! not devices: a slow device used well has a high efficiency.

use std::collections::BTreeSet;
use std::fmt::Write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::display;
use crate::report::{Outcome, OutcomeStatus, Report, is_left_over, slug};

/// What an efficiency is a fraction of.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Efficiency {
    /// Of the roofline that probes of the same run measured (`fraction_of_ceiling`): architectural
    /// efficiency.
    FractionOfCeiling,
    /// Of the speed of the fastest runner known on the same device, where a library of its vendor
    /// ran (`gap`): application efficiency.
    FractionOfBest,
}

impl Efficiency {
    /// As people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::FractionOfCeiling => "fraction of the measured ceiling",
            Self::FractionOfBest => "fraction of the best time on the device",
        }
    }

    /// Of a measured outcome, where it is known. What beats its ceiling from a cache, or beats the
    /// vendor's library, has an efficiency of one: more would let one platform make up for another.
    fn of(self, outcome: &Outcome) -> Option<f64> {
        let fraction = match self {
            Self::FractionOfCeiling => outcome.fraction_of_ceiling?,
            Self::FractionOfBest => 1.0 / outcome.gap.as_ref()?.time_ratio,
        };
        fraction.is_finite().then(|| fraction.clamp(0.0, 1.0))
    }
}

/// One platform in a cascade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Which report of the list it is from.
    pub report_index: usize,
    /// The device.
    pub device: String,
    /// Its efficiency; zero where it cannot run the case.
    pub efficiency: f64,
    /// The performance portability over this platform and those before it.
    pub performance_portability: f64,
}

/// One runner at one case over all devices it was asked to run it on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Portability {
    /// The runner.
    pub runner: String,
    /// The case.
    pub case_id: String,
    /// What an efficiency is a fraction of.
    pub efficiency: Efficiency,
    /// Distinct devices.
    pub device_count: usize,
    /// The harmonic mean of the efficiencies, zero where one is; absent where one is not known.
    pub performance_portability: Option<f64>,
    /// Why it is absent.
    pub reason: Option<String>,
    /// The devices by descending efficiency, with what the mean is over the first of them; empty
    /// where an efficiency is not known.
    pub cascade: Vec<Step>,
}

/// What names a chip wherever it is: a driver's version in brackets is no part of it.
fn platform(report: &Report, runner: &str) -> (String, String) {
    let record = report
        .runners
        .iter()
        .find(|record| record.runner.name == runner);
    let device = record.map_or(&report.device, |record| &record.device);
    let key = device.chip_id.clone().unwrap_or_else(|| slug(&device.name));
    (key, device.name.clone())
}

/// What is known of one runner, case and device.
struct Place<'a> {
    report_index: usize,
    key: String,
    device: String,
    outcome: &'a Outcome,
}

/// The performance portability of every runner and case that at least two distinct devices were
/// asked to run. Probes have none: they measure devices and not kernels.
#[must_use]
pub fn portability(reports: &[(String, Report)]) -> Vec<Portability> {
    let mut rows: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (_, report) in reports {
        let outcomes = report.outcomes.iter().filter(|o| !o.op.is_probe());
        rows.extend(outcomes.map(|o| (o.runner.as_str(), o.case_id.as_str())));
    }
    let mut found = Vec::new();
    for (runner, case_id) in rows {
        let places: Vec<Place<'_>> = (0..)
            .zip(reports)
            .filter_map(|(report_index, (_, report))| {
                let (key, device) = platform(report, runner);
                let outcome = report
                    .outcomes
                    .iter()
                    .find(|o| o.runner == runner && o.case_id == case_id)?;
                Some(Place {
                    report_index,
                    key,
                    device,
                    outcome,
                })
            })
            .collect();
        for efficiency in [Efficiency::FractionOfCeiling, Efficiency::FractionOfBest] {
            found.extend(over(runner, case_id, efficiency, &places));
        }
    }
    found
}

/// The efficiency on one device: that of the best of its reports.
fn on_device(efficiency: Efficiency, places: &[&Place<'_>]) -> Result<(usize, f64), String> {
    let best = places
        .iter()
        .filter(|place| place.outcome.status == OutcomeStatus::Measured)
        .filter_map(|place| Some((place.report_index, efficiency.of(place.outcome)?)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    if let Some(best) = best {
        return Ok(best);
    }
    let Some(first) = places.first() else {
        return Err("there is no report of it".to_owned());
    };
    // One that could not be run is no evidence against one that could.
    let unsupported = |place: &&&Place<'_>| {
        let reason = place.outcome.reason.as_deref().unwrap_or_default();
        match place.outcome.status {
            OutcomeStatus::Failed => true,
            OutcomeStatus::Skipped => !is_left_over(reason),
            OutcomeStatus::Measured | OutcomeStatus::Implausible => false,
        }
    };
    if places.iter().all(|place| unsupported(&place)) {
        return Ok((first.report_index, 0.0));
    }
    let why = match first.outcome.status {
        OutcomeStatus::Measured => match efficiency {
            Efficiency::FractionOfCeiling => "it has no fraction_of_ceiling",
            Efficiency::FractionOfBest => "no library of a vendor ran beside it",
        },
        _ => first.outcome.reason.as_deref().unwrap_or("not measured"),
    };
    Err(format!("{}: {why}", first.device))
}

fn over(
    runner: &str,
    case_id: &str,
    efficiency: Efficiency,
    places: &[Place<'_>],
) -> Option<Portability> {
    let mut keys: Vec<&str> = places.iter().map(|place| place.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.len() < 2 {
        return None;
    }
    let known = |place: &Place<'_>| efficiency.of(place.outcome).is_some();
    // Where no vendor's library ran anywhere there is nothing to say of it.
    if efficiency == Efficiency::FractionOfBest && !places.iter().any(known) {
        return None;
    }
    let mut reason = None;
    let mut steps = Vec::new();
    for key in &keys {
        let here: Vec<&Place<'_>> = places.iter().filter(|place| place.key == *key).collect();
        match on_device(efficiency, &here) {
            Ok((report_index, found)) => steps.push((
                report_index,
                here.first()
                    .map_or(String::new(), |place| place.device.clone()),
                found,
            )),
            Err(why) => reason = reason.or(Some(why)),
        }
    }
    if reason.is_some() {
        steps.clear();
    }
    steps.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    let efficiencies: Vec<f64> = steps.iter().map(|step| step.2).collect();
    let cascade: Vec<Step> = (1..)
        .zip(steps)
        .map(|(count, (report_index, device, found))| Step {
            report_index,
            device,
            efficiency: found,
            performance_portability: harmonic_mean(&efficiencies[..count]),
        })
        .collect();
    Some(Portability {
        runner: runner.to_owned(),
        case_id: case_id.to_owned(),
        efficiency,
        device_count: keys.len(),
        performance_portability: cascade.last().map(|step| step.performance_portability),
        reason,
        cascade,
    })
}

/// Zero where one of them is: then there is no mean to speak of.
#[allow(clippy::cast_precision_loss)]
fn harmonic_mean(efficiencies: &[f64]) -> f64 {
    if efficiencies.iter().any(|&efficiency| efficiency <= 0.0) {
        return 0.0;
    }
    efficiencies.len() as f64 / efficiencies.iter().map(|e| 1.0 / e).sum::<f64>()
}

/// The headings of [`rows`].
pub const HEADINGS: [&str; 5] = [
    "case",
    "runner",
    "efficiency",
    "performance portability",
    "cascade",
];

/// One row for each runner, case and kind of efficiency.
#[must_use]
pub fn rows(found: &[Portability]) -> Vec<Vec<String>> {
    found
        .iter()
        .map(|row| {
            let step = |step: &Step| format!("{:.0} % {}", step.efficiency * 100.0, step.device);
            let steps: Vec<String> = row.cascade.iter().map(step).collect();
            vec![
                row.case_id.clone(),
                row.runner.clone(),
                row.efficiency.word().to_owned(),
                match (row.performance_portability, &row.reason) {
                    (Some(value), _) => format!("{value:.3}"),
                    (None, Some(reason)) => format!("not known: {reason}"),
                    (None, None) => "-".to_owned(),
                },
                if steps.is_empty() {
                    "-".to_owned()
                } else {
                    steps.join(", ")
                },
            ]
        })
        .collect()
}

/// A line for each runner and kind of efficiency.
#[must_use]
pub fn lines(found: &[Portability]) -> String {
    let groups: BTreeSet<(&str, Efficiency)> = found
        .iter()
        .map(|row| (row.runner.as_str(), row.efficiency))
        .collect();
    let mut text = String::new();
    for (runner, efficiency) in groups {
        let rows: Vec<&Portability> = found
            .iter()
            .filter(|row| row.runner == runner && row.efficiency == efficiency)
            .collect();
        let mut known: Vec<(f64, &str)> = rows
            .iter()
            .filter_map(|row| Some((row.performance_portability?, row.case_id.as_str())))
            .collect();
        known.sort_by(|a, b| a.0.total_cmp(&b.0));
        let devices = rows.iter().map(|row| row.device_count).max().unwrap_or(0);
        let _ = write!(
            text,
            "performance portability of {runner} over {devices} devices, by {}: ",
            efficiency.word()
        );
        let zeros = known.iter().filter(|(value, _)| *value == 0.0).count();
        let values: Vec<f64> = known.iter().map(|(value, _)| *value).collect();
        match (known.first(), known.last(), crate::stats::median(&values)) {
            (Some((low, worst)), Some((high, best)), Some(middle)) => {
                let _ = write!(
                    text,
                    "{middle:.3} at the median of {} of {} cases, from {low:.3} ({worst}) to {high:.3} ({best})",
                    known.len(),
                    rows.len()
                );
            }
            _ => {
                let why = rows.iter().find_map(|row| row.reason.as_deref());
                let _ = write!(
                    text,
                    "not known of any of {} cases: {}",
                    rows.len(),
                    why.unwrap_or("an efficiency is missing")
                );
            }
        }
        if zeros > 0 {
            let _ = write!(text, "; {zeros} cannot run on some device");
        }
        text.push('\n');
    }
    text
}

/// [`rows`] and [`lines`] as a section of a document; empty where there is nothing to say.
#[must_use]
pub fn markdown(found: &[Portability]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut text = display::markdown_table(&HEADINGS, &rows(found));
    text.push('\n');
    for line in lines(found).lines() {
        let _ = writeln!(text, "{line}  ");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Case, Dtype, OpName, Shape};
    use crate::report::{Gap, unmeasured};

    fn outcome(fraction: Option<f64>) -> Outcome {
        let shape = Shape::of(&[("m", 4), ("n", 4), ("k", 4)]);
        let case = Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.fraction_of_ceiling = fraction;
        outcome
    }

    fn on(device: &str, outcome: Outcome) -> (String, Report) {
        let mut report = crate::report::empty();
        report.device.name = device.to_owned();
        report.outcomes = vec![outcome];
        (format!("{device}.json"), report)
    }

    fn lost(status: OutcomeStatus, reason: &str) -> Outcome {
        let mut outcome = outcome(None);
        outcome.status = status;
        outcome.reason = Some(reason.to_owned());
        outcome
    }

    #[test]
    fn the_mean_is_harmonic_and_the_cascade_goes_down() {
        let found = portability(&[
            on("A", outcome(Some(0.5))),
            on("B", outcome(Some(1.0))),
            on("C", outcome(Some(0.25))),
        ]);
        let [row] = &found[..] else {
            panic!("{found:?}")
        };
        let steps: Vec<(&str, f64)> = row
            .cascade
            .iter()
            .map(|step| (step.device.as_str(), step.efficiency))
            .collect();
        assert_eq!(steps, [("B", 1.0), ("A", 0.5), ("C", 0.25)]);
        let over: Vec<f64> = row
            .cascade
            .iter()
            .map(|step| step.performance_portability)
            .collect();
        assert_eq!(over, [1.0, 2.0 / 3.0, 3.0 / 7.0]);
        assert_eq!(row.performance_portability, Some(3.0 / 7.0));
    }

    #[test]
    fn a_device_that_cannot_run_a_case_makes_it_zero_and_an_unknown_one_makes_it_unknown() {
        let with = |other: Outcome| {
            let found = portability(&[on("A", outcome(Some(0.5))), on("B", other)]);
            found[0].clone()
        };
        for status in [OutcomeStatus::Skipped, OutcomeStatus::Failed] {
            let row = with(lost(status, "no variant can run here"));
            assert_eq!(row.performance_portability, Some(0.0));
            assert_eq!(row.cascade[1].device, "B");
        }
        for unknown in [
            outcome(None),
            lost(OutcomeStatus::Implausible, "too fast"),
            lost(OutcomeStatus::Skipped, "the budget of the run was used up"),
            lost(OutcomeStatus::Skipped, "the run was interrupted"),
        ] {
            let row = with(unknown);
            assert_eq!(row.performance_portability, None);
            assert!(row.reason.unwrap().starts_with("B: "));
            assert!(row.cascade.is_empty());
        }
    }

    #[test]
    fn one_device_is_one_platform_however_often_it_was_measured() {
        let once = portability(&[
            on("A (driver 1)", outcome(Some(0.5))),
            on("A (driver 2)", outcome(Some(0.6))),
        ]);
        assert_eq!(once, []);
        let found = portability(&[
            on("A (driver 1)", outcome(Some(0.5))),
            on("A (driver 2)", outcome(Some(0.6))),
            on("B", outcome(Some(0.6))),
        ]);
        assert_eq!(found[0].device_count, 2);
        // The best of a device's reports.
        assert!((found[0].performance_portability.unwrap() - 0.6).abs() < 1e-12);
        assert_eq!(found[0].cascade[0].report_index, 1);
    }

    #[test]
    fn beside_a_vendors_library_the_efficiency_is_that_of_the_best_time() {
        let beside = |time_ratio: f64| {
            let mut outcome = outcome(None);
            outcome.gap = Some(Gap {
                runner: "torch".to_owned(),
                kernel: "matmul/cublas".to_owned(),
                time_ratio,
                low: time_ratio,
                high: time_ratio,
            });
            outcome
        };
        let found = portability(&[on("A", beside(2.0)), on("B", beside(0.8))]);
        let best = found
            .iter()
            .find(|row| row.efficiency == Efficiency::FractionOfBest)
            .unwrap();
        // Faster than the library is the best there is, and no more.
        assert_eq!(best.cascade[0].efficiency, 1.0);
        assert_eq!(best.performance_portability, Some(2.0 / 3.0));
        let alone = portability(&[on("A", beside(2.0)), on("B", outcome(Some(0.5)))]);
        let reason = alone[1].reason.as_ref().unwrap();
        assert!(reason.contains("no library of a vendor"), "{reason}");
    }
}
