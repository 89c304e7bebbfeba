//! Which of two reports is faster, case by case, and where nobody can tell.

use std::collections::BTreeMap;
use std::fmt::Write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::{Outcome, OutcomeStatus, Report};
use crate::screen;

/// What can be said of one case in two reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The candidate takes less time, and the intervals do not overlap.
    Faster,
    /// The candidate takes more time, and the intervals do not overlap.
    Slower,
    /// The intervals overlap: a tie is a tie.
    Same,
    /// The two were not measured in the same way, or not both measured.
    NotComparable,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Same => "same",
            Self::NotComparable => "not comparable",
        }
    }
}

/// One case of a candidate beside the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseComparison {
    /// The case.
    pub case_id: String,
    /// The runner of the candidate.
    pub runner: String,
    /// Which report of the list the candidate is; the baseline is 0.
    pub report_index: usize,
    /// What can be said.
    pub verdict: Verdict,
    /// Baseline's median over the candidate's: above one the candidate is faster.
    pub ratio: Option<f64>,
    /// Least ratio that the two intervals allow.
    pub ci95_low: Option<f64>,
    /// Largest ratio that they allow.
    pub ci95_high: Option<f64>,
    /// Median seconds of the baseline.
    pub baseline_time_s: Option<f64>,
    /// Median seconds of the candidate.
    pub candidate_time_s: Option<f64>,
    /// Why the two are not comparable.
    pub reason: Option<String>,
}

/// One report in a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Side {
    /// How it was given on the command line.
    pub name: String,
    /// Its id.
    pub report_id: String,
    /// Its device.
    pub device: String,
    /// The API it was reached by.
    pub backend: String,
}

/// Reports side by side: the first is the baseline of all others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The reports, baseline first.
    pub reports: Vec<Side>,
    /// What holds for whole reports and should be known.
    pub warnings: Vec<String>,
    /// How many cases are measured on both sides, of how many that appear on either.
    pub common_case_count: usize,
    /// All cases that appear on either side, per candidate.
    pub case_count: usize,
    /// Every case of every candidate.
    pub cases: Vec<CaseComparison>,
}

/// Compares every report with the first.
#[must_use]
pub fn compare(reports: &[(String, Report)]) -> Comparison {
    let Some(((_, baseline), candidates)) = reports.split_first() else {
        return Comparison {
            reports: vec![],
            warnings: vec![],
            common_case_count: 0,
            case_count: 0,
            cases: vec![],
        };
    };
    let mut warnings = Vec::new();
    let mut cases = Vec::new();
    for (index, (name, candidate)) in (1..).zip(candidates) {
        if candidate.suite.sha256 != baseline.suite.sha256 {
            warnings.push(format!("{name}: its suite ({}) is another text than the baseline's ({}); only cases of equal name are compared", candidate.suite.name, baseline.suite.name));
        }
        if candidate.report_id == baseline.report_id {
            warnings.push(format!("{name}: it is the baseline itself"));
        }
        cases.extend(pair(baseline, candidate, index));
    }
    Comparison {
        reports: reports
            .iter()
            .map(|(name, report)| Side {
                name: name.clone(),
                report_id: report.report_id.clone(),
                device: report.device.name.clone(),
                backend: report.device.backend.clone(),
            })
            .collect(),
        warnings,
        common_case_count: cases.iter().filter(|c| c.ratio.is_some()).count(),
        case_count: cases.len(),
        cases,
    }
}

/// The outcomes of one report by case; with several runners each has its own.
fn by_case(report: &Report) -> BTreeMap<&str, Vec<&Outcome>> {
    let mut map: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in &report.outcomes {
        map.entry(&outcome.case_id).or_default().push(outcome);
    }
    map
}

fn pair(baseline: &Report, candidate: &Report, report_index: usize) -> Vec<CaseComparison> {
    let (ours, theirs) = (by_case(baseline), by_case(candidate));
    let mut ids: Vec<&str> = ours.keys().chain(theirs.keys()).copied().collect();
    ids.sort_unstable();
    ids.dedup();
    let none = Vec::new();
    let mut cases = Vec::new();
    for id in ids {
        let (base, other) = (
            ours.get(id).unwrap_or(&none),
            theirs.get(id).unwrap_or(&none),
        );
        let missing = |runner: &str, reason: &str| CaseComparison {
            case_id: id.to_owned(),
            runner: runner.to_owned(),
            report_index,
            verdict: Verdict::NotComparable,
            ratio: None,
            ci95_low: None,
            ci95_high: None,
            baseline_time_s: None,
            candidate_time_s: None,
            reason: Some(reason.to_owned()),
        };
        if other.is_empty() {
            cases.extend(
                base.iter()
                    .map(|b| missing(&b.runner, "it is only in the baseline")),
            );
        }
        for candidate in other {
            // The same runner where it took part; a report of another runner is compared as it is.
            let partner = base
                .iter()
                .find(|b| b.runner == candidate.runner)
                .or(if base.len() == 1 { base.first() } else { None });
            cases.push(match partner {
                Some(partner) => judge(partner, candidate, report_index),
                None => missing(&candidate.runner, "it is not in the baseline"),
            });
        }
    }
    cases
}

fn judge(baseline: &Outcome, candidate: &Outcome, report_index: usize) -> CaseComparison {
    let times = baseline.time_s.as_ref().zip(candidate.time_s.as_ref());
    let mut result = CaseComparison {
        case_id: candidate.case_id.clone(),
        runner: candidate.runner.clone(),
        report_index,
        verdict: Verdict::NotComparable,
        ratio: None,
        ci95_low: None,
        ci95_high: None,
        baseline_time_s: baseline.time_s.as_ref().map(|t| t.median),
        candidate_time_s: candidate.time_s.as_ref().map(|t| t.median),
        reason: None,
    };
    for (side, outcome) in [("baseline", baseline), ("candidate", candidate)] {
        if outcome.status != OutcomeStatus::Measured {
            let reason = outcome.reason.as_deref().unwrap_or("not measured");
            result.reason = Some(format!("the {side} has no number: {reason}"));
            return result;
        }
    }
    if baseline.accumulator != candidate.accumulator {
        result.reason = Some(format!(
            "accumulators differ: {} and {}",
            baseline.accumulator, candidate.accumulator
        ));
        return result;
    }
    if let Some((a, b)) = baseline.labels.as_ref().zip(candidate.labels.as_ref()) {
        for (what, a, b) in [
            ("cache", &a.cache, &b.cache),
            ("data", &a.data, &b.data),
            ("checks", &a.checks, &b.checks),
        ] {
            if a != b {
                result.reason = Some(format!("{what} differs: {a} and {b}"));
                return result;
            }
        }
    }
    let Some((base, other)) = times else {
        result.reason = Some("a time is missing".to_owned());
        return result;
    };
    result.ratio = Some(base.median / other.median);
    result.ci95_low = Some(base.ci95_low / other.ci95_high);
    result.ci95_high = Some(base.ci95_high / other.ci95_low);
    result.verdict = if other.ci95_high < base.ci95_low {
        Verdict::Faster
    } else if other.ci95_low > base.ci95_high {
        Verdict::Slower
    } else {
        Verdict::Same
    };
    result
}

impl Comparison {
    fn header(&self) -> String {
        let mut text = String::new();
        for (index, side) in self.reports.iter().enumerate() {
            let role = if index == 0 { "baseline" } else { "candidate" };
            let _ = writeln!(
                text,
                "{index}  {role}: {} ({}), {}",
                side.device, side.backend, side.name
            );
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let time = |t: Option<f64>| t.map_or_else(|| "-".to_owned(), screen::seconds);
        self.cases
            .iter()
            .map(|case| {
                vec![
                    case.report_index.to_string(),
                    case.case_id.clone(),
                    case.runner.clone(),
                    time(case.baseline_time_s),
                    time(case.candidate_time_s),
                    match (case.ratio, case.ci95_low, case.ci95_high) {
                        (Some(ratio), Some(low), Some(high)) => {
                            format!("{ratio:.3} [{low:.3}, {high:.3}]")
                        }
                        _ => "-".to_owned(),
                    },
                    match &case.reason {
                        Some(reason) => format!("{}: {reason}", case.verdict.word()),
                        None => case.verdict.word().to_owned(),
                    },
                ]
            })
            .collect()
    }

    fn footer(&self) -> String {
        let count = |verdict: Verdict| {
            self.cases
                .iter()
                .filter(|case| case.verdict == verdict)
                .count()
        };
        format!(
            "{} of {} cases compared: {} faster, {} slower, {} same (intervals overlap)\n",
            self.common_case_count,
            self.case_count,
            count(Verdict::Faster),
            count(Verdict::Slower),
            count(Verdict::Same)
        )
    }

    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}{}\n{}",
            self.header(),
            screen::table(&HEADINGS, &self.rows()),
            self.footer()
        )
    }

    /// For a document.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = self
            .header()
            .lines()
            .map(|line| format!("{line}  \n"))
            .collect::<String>();
        let row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        text.push('\n');
        text += &row(&HEADINGS.map(str::to_owned));
        text += &row(&HEADINGS.map(|_| "---".to_owned()));
        for cells in self.rows() {
            text += &row(&cells);
        }
        text.push('\n');
        text + &self.footer()
    }
}

const HEADINGS: [&str; 7] = [
    "#",
    "case",
    "runner",
    "baseline",
    "candidate",
    "speed-up [95 %]",
    "verdict",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Case, Dtype, OpName, Shape};
    use crate::report::{Labels, Times, unmeasured};

    fn outcome(low: f64, median: f64, high: f64) -> Outcome {
        let case = Case::new(OpName::Copy, &Shape::of(&[("n", 4)]), Dtype::F32).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.labels = Some(Labels {
            engine: "alu".to_owned(),
            timer: "device".to_owned(),
            cache: "hot".to_owned(),
            data: "uniform".to_owned(),
            checks: "off".to_owned(),
        });
        outcome.time_s = Some(Times {
            median,
            ci95_low: low,
            ci95_high: high,
            min: low,
            max: high,
            q1: median,
            q3: median,
            samples: vec![median],
            repeat_count: 1,
            host_median: median,
            invalid_count: 0,
            ..Times::default()
        });
        outcome
    }

    #[test]
    fn overlapping_intervals_are_never_ranked() {
        let base = outcome(0.9, 1.0, 1.1);
        let verdict = |low, median, high| judge(&base, &outcome(low, median, high), 1).verdict;
        assert_eq!(verdict(0.5, 0.6, 0.7), Verdict::Faster);
        assert_eq!(verdict(1.2, 1.3, 1.4), Verdict::Slower);
        assert_eq!(verdict(0.5, 0.6, 0.95), Verdict::Same);
        // Touching is overlapping.
        assert_eq!(verdict(1.1, 1.2, 1.3), Verdict::Same);
    }

    #[test]
    fn the_ratio_says_how_many_times_faster_the_candidate_is() {
        let result = judge(&outcome(0.9, 1.0, 1.1), &outcome(0.4, 0.5, 0.55), 1);
        assert_eq!(result.ratio, Some(2.0));
        assert!((result.ci95_low.unwrap() - 0.9 / 0.55).abs() < 1e-12);
        assert!((result.ci95_high.unwrap() - 1.1 / 0.4).abs() < 1e-12);
    }

    #[test]
    fn different_accumulators_checks_and_failures_are_not_compared() {
        let base = outcome(0.9, 1.0, 1.1);
        let mut other = outcome(0.4, 0.5, 0.6);
        other.accumulator = "f16".to_owned();
        assert!(
            judge(&base, &other, 1)
                .reason
                .unwrap()
                .contains("accumulators differ: f32 and f16")
        );
        let mut other = outcome(0.4, 0.5, 0.6);
        other.labels.as_mut().unwrap().checks = "on".to_owned();
        assert_eq!(judge(&base, &other, 1).verdict, Verdict::NotComparable);
        let mut other = outcome(0.4, 0.5, 0.6);
        other.status = OutcomeStatus::Failed;
        other.reason = Some("it broke".to_owned());
        assert!(judge(&base, &other, 1).reason.unwrap().contains("it broke"));
    }
}
