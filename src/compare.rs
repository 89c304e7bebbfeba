//! Which of two reports is faster, case by case, and where nobody can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::display;
use crate::error::{Error, Result};
use crate::op::OpName;
use crate::portability::{self, Portability, portability};
use crate::report::{Calibration, MINIMUM, Outcome, OutcomeStatus, Report, TURNS, Times};
use crate::stats::{self, Estimate};

/// Relative difference below which two times count as the same, unless a calibration or the user
/// says otherwise.
pub const TIE_WIDTH: f64 = 0.01;

/// Of all cases called faster or slower, at most this share may be so by chance.
pub const FALSE_DISCOVERY_RATE: f64 = 0.05;

/// Fewest fresh processes on a side for an interval of their medians.
pub const PROCESSES_MIN: usize = 5;

/// Fewest processes that took turns for an interval of their ratios: that of a median of five holds at
/// most 1 - 2/32 = 93.75 %, of six 96.9 %.
pub const PAIRS_MIN: usize = 6;

/// Relative standard deviation between processes where nobody measured it. Memory layout, clocks
/// and neighbours commonly move a median by a few per cent from one process to the next; five makes
/// a difference of 3 times clear and leaves one of 2 % open.
pub const ASSUMED_PROCESS_SD: f64 = 0.05;

/// What can be said of one case in two reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The candidate takes less time: the ratio's interval lies above the tie band, and the case
    /// survives the correction for many cases.
    Faster,
    /// The candidate takes more time: the interval lies below the band, and the case survives.
    Slower,
    /// The interval lies within the tie band.
    Same,
    /// None of these can be told from what was measured.
    Ambiguous,
    /// The two were not measured in the same way, or not both measured.
    NotComparable,
}

impl Verdict {
    /// As people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Same => "same",
            Self::Ambiguous => "ambiguous",
            Self::NotComparable => "not comparable",
        }
    }
}

/// What an interval was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Ratios of fresh processes that took turns of milliseconds: their median, a bootstrap interval,
    /// the signed-rank test.
    PairedTurns,
    /// Medians of fresh processes of which one side's ran after the other's, pair by pair: the median
    /// ratio of the pairs, a bootstrap interval, the signed-rank test.
    PairedProcesses,
    /// Medians of fresh processes: the ratio of their medians, a bootstrap interval, the rank-sum
    /// test.
    Processes,
    /// Too few processes: the intervals of the samples, widened by what medians vary between
    /// processes, as calibrated or assumed; a normal test.
    SamplesAndSpread,
}

/// One case of a candidate beside the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseComparison {
    /// The case.
    pub case_id: String,
    /// The runner of the candidate.
    pub runner: String,
    /// The runner of the baseline; absent where the baseline lacks the case.
    pub baseline_runner: Option<String>,
    /// Which report of the list the candidate is; the baseline is 0.
    pub report_index: usize,
    /// What can be said.
    pub verdict: Verdict,
    /// Baseline's time over the candidate's: above one the candidate is faster.
    pub ratio: Option<f64>,
    /// Lower end of the ratio's 95 % interval.
    pub ci95_low: Option<f64>,
    /// Upper end of it.
    pub ci95_high: Option<f64>,
    /// How often chance alone would show a difference as clear as this, were there none; not yet
    /// corrected for the number of cases.
    pub p_value: Option<f64>,
    /// Relative difference below which the two count as the same.
    pub tie_width: Option<f64>,
    /// What the interval was made of.
    pub method: Option<Method>,
    /// Fresh processes of the baseline.
    pub baseline_process_count: usize,
    /// Fresh processes of the candidate.
    pub candidate_process_count: usize,
    /// Seconds of the baseline: the median of its processes.
    pub baseline_time_s: Option<f64>,
    /// Seconds of the candidate: the median of its processes.
    pub candidate_time_s: Option<f64>,
    /// Why the two are not comparable, or nothing can be told of them.
    pub reason: Option<String>,
    /// What should be known beside the verdict, one line each.
    pub notes: Vec<String>,
}

/// How often each verdict was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictCounts {
    /// Cases in which the candidate is faster.
    pub faster: usize,
    /// Cases in which it is slower.
    pub slower: usize,
    /// Cases in which it is the same.
    pub same: usize,
    /// Cases of which nothing can be told.
    pub ambiguous: usize,
    /// Cases that cannot be compared.
    pub not_comparable: usize,
}

/// All cases together that one runner of one candidate has in common with the baseline. Probes are
/// left out: they measure the device and not the kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Which report of the list the candidate is.
    pub report_index: usize,
    /// Its runner.
    pub runner: String,
    /// Cases that were compared.
    pub common_case_count: usize,
    /// Cases that appear on either side.
    pub case_count: usize,
    /// Geometric mean of the ratios of the cases compared: above one the candidate is faster. It
    /// counts each case alike, however little time it takes.
    pub ratio_geometric_mean: Option<f64>,
    /// Seconds that one call of each of these cases takes in the baseline, together: large cases
    /// dominate it.
    pub baseline_time_s_total: f64,
    /// The same in the candidate.
    pub candidate_time_s_total: f64,
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
    /// Of all cases called faster or slower, at most this share is expected to be so by chance
    /// (Benjamini-Hochberg).
    pub false_discovery_rate: f64,
    /// How often each verdict was given.
    pub verdicts: VerdictCounts,
    /// What all cases together show, per candidate and runner.
    pub summaries: Vec<Summary>,
    /// The performance portability of each runner and case, where the reports are of two distinct
    /// devices or more.
    pub portability: Vec<Portability>,
    /// Every case of every candidate.
    pub cases: Vec<CaseComparison>,
}

/// What is compared, and how wide a tie is.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Relative difference below which two times count as the same; the reports' calibration or
    /// [`TIE_WIDTH`] if absent.
    pub tie: Option<f64>,
    /// The same for single cases, which goes before `tie`.
    pub ties: BTreeMap<String, f64>,
    /// Cases that are left out, and so do not count among those judged together.
    pub left_out: BTreeSet<String>,
    /// The only runner of the baseline to look at.
    pub baseline_runner: Option<String>,
    /// The only runner of the candidates to look at.
    pub runner: Option<String>,
}

impl Terms {
    /// Makes sure that the runners named take part in the reports.
    ///
    /// # Errors
    /// A usage error that names the report and the runners it has.
    pub fn check(&self, reports: &[(String, Report)]) -> Result<()> {
        let (first, others) = match reports.split_first() {
            Some((first, others)) => (std::slice::from_ref(first), others),
            None => (&[][..], &[][..]),
        };
        for (flag, wanted, side) in [
            ("--baseline-runner", &self.baseline_runner, first),
            ("--runner", &self.runner, others),
        ] {
            let Some(wanted) = wanted else { continue };
            for (name, report) in side {
                let there: BTreeSet<&str> =
                    report.outcomes.iter().map(|o| o.runner.as_str()).collect();
                if !there.contains(wanted.as_str()) {
                    return Err(Error::usage(format!(
                        "{flag} {wanted}: {name} has no such runner; it has {}",
                        there.into_iter().collect::<Vec<_>>().join(", ")
                    )));
                }
            }
        }
        Ok(())
    }

    fn tie_of(&self, case_id: &str) -> Option<f64> {
        self.ties.get(case_id).copied().or(self.tie)
    }

    fn names_a_runner(&self) -> bool {
        self.baseline_runner.is_some() || self.runner.is_some()
    }
}

/// A case on two sides, or what is already known of it.
enum Pending<'a> {
    Known(Box<CaseComparison>),
    Pair(&'a Report, &'a Outcome, &'a Report, &'a Outcome, usize),
}

/// Compares every report with the first.
#[must_use]
pub fn compare(reports: &[(String, Report)], terms: &Terms) -> Comparison {
    let mut warnings = Vec::new();
    let mut pending = Vec::new();
    if let Some(((_, baseline), candidates)) = reports.split_first() {
        for (index, (name, candidate)) in (1..).zip(candidates) {
            if candidate.suite.sha256 != baseline.suite.sha256 {
                warnings.push(format!("{name}: its suite ({}) is another text than the baseline's ({}); only cases of equal name are compared", candidate.suite.name, baseline.suite.name));
            }
            // Two runners of one report are as good a pair as any.
            if candidate.report_id == baseline.report_id && !terms.names_a_runner() {
                warnings.push(format!("{name}: it is the baseline itself"));
            }
            pending.extend(pair(baseline, candidate, index, terms));
        }
    }
    // Resampling is the work here, and each case is on its own until all are judged together.
    let mut cases: Vec<CaseComparison> = pending
        .into_par_iter()
        .map(|pending| match pending {
            Pending::Known(case) => *case,
            Pending::Pair(a, baseline, b, candidate, index) => {
                weigh((a, baseline), (b, candidate), index, terms)
            }
        })
        .collect();
    judge(&mut cases);
    let probes: BTreeSet<&str> = reports
        .iter()
        .flat_map(|(_, report)| &report.outcomes)
        .filter(|outcome| outcome.op.is_probe())
        .map(|outcome| outcome.case_id.as_str())
        .collect();
    let count = |verdict: Verdict| cases.iter().filter(|case| case.verdict == verdict).count();
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
        false_discovery_rate: FALSE_DISCOVERY_RATE,
        verdicts: VerdictCounts {
            faster: count(Verdict::Faster),
            slower: count(Verdict::Slower),
            same: count(Verdict::Same),
            ambiguous: count(Verdict::Ambiguous),
            not_comparable: count(Verdict::NotComparable),
        },
        summaries: summaries(&cases, &probes),
        portability: portability(reports),
        cases,
    }
}

/// What all cases together show, per candidate and runner.
#[allow(clippy::cast_precision_loss)]
fn summaries(cases: &[CaseComparison], probes: &BTreeSet<&str>) -> Vec<Summary> {
    let groups: BTreeSet<(usize, &str)> = cases
        .iter()
        .map(|case| (case.report_index, case.runner.as_str()))
        .collect();
    let summary = |(report_index, runner): (usize, &str)| {
        let group: Vec<&CaseComparison> = cases
            .iter()
            .filter(|case| case.report_index == report_index && case.runner == runner)
            .filter(|case| !probes.contains(case.case_id.as_str()))
            .collect();
        let common: Vec<(f64, f64, f64)> = group
            .iter()
            .filter_map(|case| Some((case.ratio?, case.baseline_time_s?, case.candidate_time_s?)))
            .collect();
        let logarithms: f64 = common.iter().map(|(ratio, _, _)| ratio.ln()).sum();
        Summary {
            report_index,
            runner: runner.to_owned(),
            common_case_count: common.len(),
            case_count: group.len(),
            ratio_geometric_mean: (!common.is_empty())
                .then(|| (logarithms / common.len() as f64).exp()),
            baseline_time_s_total: common.iter().map(|(_, baseline, _)| baseline).sum(),
            candidate_time_s_total: common.iter().map(|(_, _, candidate)| candidate).sum(),
        }
    };
    groups.into_iter().map(summary).collect()
}

/// The outcomes of one report by case; with several runners each has its own, unless only one is
/// wanted.
fn by_case<'a>(
    report: &'a Report,
    runner: Option<&str>,
    terms: &Terms,
) -> BTreeMap<&'a str, Vec<&'a Outcome>> {
    let mut map: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    let wanted = report.outcomes.iter().filter(|outcome| {
        runner.is_none_or(|runner| outcome.runner == runner)
            && !terms.left_out.contains(&outcome.case_id)
    });
    for outcome in wanted {
        map.entry(&outcome.case_id).or_default().push(outcome);
    }
    map
}

fn blank(case_id: &str, runner: &str, report_index: usize) -> CaseComparison {
    CaseComparison {
        case_id: case_id.to_owned(),
        runner: runner.to_owned(),
        baseline_runner: None,
        report_index,
        verdict: Verdict::NotComparable,
        ratio: None,
        ci95_low: None,
        ci95_high: None,
        p_value: None,
        tie_width: None,
        method: None,
        baseline_process_count: 0,
        candidate_process_count: 0,
        baseline_time_s: None,
        candidate_time_s: None,
        reason: None,
        notes: Vec::new(),
    }
}

fn pair<'a>(
    baseline: &'a Report,
    candidate: &'a Report,
    report_index: usize,
    terms: &Terms,
) -> Vec<Pending<'a>> {
    let ours = by_case(baseline, terms.baseline_runner.as_deref(), terms);
    let theirs = by_case(candidate, terms.runner.as_deref(), terms);
    let is_itself = |one: &Outcome, other: &Outcome| {
        terms.names_a_runner()
            && baseline.report_id == candidate.report_id
            && one.runner == other.runner
    };
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
        let missing = |runner: &str, of: Option<&str>, reason: &str| {
            Pending::Known(Box::new(CaseComparison {
                reason: Some(reason.to_owned()),
                baseline_runner: of.map(str::to_owned),
                ..blank(id, runner, report_index)
            }))
        };
        // The same runner where it took part; a report of another runner is compared as it is.
        let partner = |candidate: &Outcome| {
            base.iter()
                .find(|b| b.runner == candidate.runner)
                .or(if base.len() == 1 { base.first() } else { None })
                .copied()
        };
        let mut met: Vec<&str> = Vec::new();
        for &outcome in other {
            match partner(outcome) {
                Some(partner) => {
                    met.push(&partner.runner);
                    if !is_itself(partner, outcome) {
                        cases.push(Pending::Pair(
                            baseline,
                            partner,
                            candidate,
                            outcome,
                            report_index,
                        ));
                    }
                }
                None => cases.push(missing(&outcome.runner, None, "it is not in the baseline")),
            }
        }
        let unmet = base.iter().filter(|b| !met.contains(&b.runner.as_str()));
        cases.extend(unmet.map(|b| {
            let runner = terms.runner.as_deref().unwrap_or(&b.runner);
            missing(runner, Some(&b.runner), ONLY_IN_BASELINE)
        }));
    }
    cases
}

/// Why a case is not comparable that the candidate lost.
const ONLY_IN_BASELINE: &str = "it is only in the baseline";

/// What the processes that measured a case are compared by: their fastest samples if so wanted and
/// there, else their medians.
fn processes(times: &Times, by_minimum: bool) -> Vec<f64> {
    if by_minimum && has_minima(times) {
        times.process_minima.clone()
    } else if times.process_medians.is_empty() {
        vec![times.median]
    } else {
        times.process_medians.clone()
    }
}

fn has_minima(times: &Times) -> bool {
    times.process_minima.len() >= PROCESSES_MIN
        && times.process_minima.len() == times.process_medians.len()
}

/// Whether the processes of a race took turns, every one of them, and are enough.
fn has_turns(times: &Times) -> bool {
    times.turn_ratios.len() >= PAIRS_MIN
        && times.turn_ratios.len() == times.process_medians.len()
        && times
            .turn_ratios
            .iter()
            .all(|ratio| ratio.is_finite() && *ratio > 0.0)
}

/// What makes two outcomes incomparable.
fn obstacle(baseline: &Outcome, candidate: &Outcome) -> Option<String> {
    for (side, outcome) in [("baseline", baseline), ("candidate", candidate)] {
        if outcome.status != OutcomeStatus::Measured {
            let reason = outcome.reason.as_deref().unwrap_or("not measured");
            return Some(format!("the {side} has no number: {reason}"));
        }
    }
    if baseline.accumulator != candidate.accumulator {
        return Some(format!(
            "accumulators differ: {} and {}",
            baseline.accumulator, candidate.accumulator
        ));
    }
    let Some((a, b)) = baseline.labels.as_ref().zip(candidate.labels.as_ref()) else {
        return Some("one side has no labels that say how it was measured".to_owned());
    };
    // A library that rounds its output moves fewer bytes and answers for less.
    let own = "the dtype's own".to_owned();
    let output = |labels: &'_ Option<String>| labels.clone().unwrap_or_else(|| own.clone());
    [
        ("cache", a.cache.clone(), b.cache.clone()),
        ("data", a.data.clone(), b.data.clone()),
        ("checks", a.checks.clone(), b.checks.clone()),
        ("output", output(&a.output), output(&b.output)),
    ]
    .into_iter()
    .find(|(_, a, b)| a != b)
    .map(|(what, a, b)| format!("{what} differs: {a} and {b}"))
}

/// What speaks against trusting a time, though it is compared.
fn doubts(side: &str, outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(throttle) = outcome.throttle.as_ref().filter(|t| t.suspected) {
        let evidence = throttle.evidence.first();
        let evidence = evidence.map_or_else(String::new, |line| format!(": {line}"));
        notes.push(format!("the {side} may have been throttled{evidence}"));
    }
    if let Some(condition) = &outcome.not_converged {
        notes.push(format!("the {side} did not converge: {condition}"));
    }
    notes
}

/// What a side's calibration says, where it is of the runner in question.
fn calibration<'a>(report: &'a Report, outcome: &Outcome) -> Option<&'a Calibration> {
    let calibration = report.calibration.as_ref();
    calibration.filter(|calibration| calibration.runner == outcome.runner)
}

/// What medians vary by between processes, as far as a calibration tells it: for chains of multiply-adds,
/// which it was made on, what it found; for all else no less than is assumed, since what caches, memory
/// and many small launches do from process to process multiply-adds do not show.
fn calibrated_spread(outcome: &Outcome, calibration: Option<&Calibration>) -> Option<f64> {
    let found = calibration?.process_relative_sd;
    (outcome.op == OpName::Fma || found > ASSUMED_PROCESS_SD).then_some(found)
}

/// The standard error of a time on the log scale where too few processes show how they vary: that
/// of the samples with what medians vary between processes, as calibrated or assumed.
#[allow(clippy::cast_precision_loss)]
fn few_processes_error(times: &Times, spread: Option<f64>, process_count: usize) -> f64 {
    let sampled = stats::log_standard_error(times.ci95_low, times.ci95_high);
    let between = spread.unwrap_or(ASSUMED_PROCESS_SD) / (process_count as f64).sqrt();
    sampled.hypot(between)
}

/// The time of one measured case and its standard error on the log scale, as a comparison would take
/// them: from its processes where there are enough, else from its samples and the spread.
#[must_use]
pub fn time_and_error(report: &Report, outcome: &Outcome) -> Option<(f64, f64)> {
    let times = outcome.time_s.as_ref()?;
    let medians = processes(times, false);
    let middle = stats::median(&medians)?;
    let error = if medians.len() < PROCESSES_MIN {
        let spread = calibrated_spread(outcome, calibration(report, outcome));
        few_processes_error(times, spread, medians.len())
    } else {
        let summary = stats::Summary::of_independent(&medians)?;
        stats::log_standard_error(summary.ci95_low, summary.ci95_high)
    };
    Some((middle, error))
}

/// Whether the interval of a case leaves no room for it to be slower by more than the tie width,
/// whatever else it leaves open.
#[must_use]
pub fn is_not_slower(case: &CaseComparison) -> bool {
    let edges = case.ci95_low.zip(case.tie_width);
    edges.is_some_and(|(low, tie_width)| low >= band(tie_width).0)
}

/// Everything about one case but its verdict, which depends on all others.
fn weigh(
    (base_report, baseline): (&Report, &Outcome),
    (other_report, candidate): (&Report, &Outcome),
    report_index: usize,
    terms: &Terms,
) -> CaseComparison {
    let mut result = blank(&candidate.case_id, &candidate.runner, report_index);
    result.baseline_runner = Some(baseline.runner.clone());
    let middle = |outcome: &Outcome| stats::median(&processes(outcome.time_s.as_ref()?, false));
    (result.baseline_time_s, result.candidate_time_s) = (middle(baseline), middle(candidate));
    result.reason = obstacle(baseline, candidate);
    if result.reason.is_some() {
        return result;
    }
    let (Some(base), Some(other)) = (&baseline.time_s, &candidate.time_s) else {
        result.reason = Some("a time is missing".to_owned());
        return result;
    };
    let calibrations = [
        calibration(base_report, baseline),
        calibration(other_report, candidate),
    ];
    let raced = base_report.interleave_id.is_some()
        && base_report.interleave_id == other_report.interleave_id
        // A side of a race held against itself is not the race.
        && base != other;
    let by_turns = raced && has_turns(base) && has_turns(other);
    // A calibration may have found that medians scatter with other work on the machine.
    let by_minimum = !by_turns
        && calibrations
            .iter()
            .flatten()
            .any(|c| c.statistic == MINIMUM)
        && has_minima(base)
        && has_minima(other);
    if by_minimum {
        result.notes.push(
            "compared by the fastest sample of each process, as calibrated: medians scatter with other work on this machine"
                .to_owned(),
        );
    }
    let (ours, theirs) = (processes(base, by_minimum), processes(other, by_minimum));
    (
        result.baseline_process_count,
        result.candidate_process_count,
    ) = (ours.len(), theirs.len());
    let interleaved = raced && ours.len() == theirs.len();
    let calibrated = calibrations.iter().flatten().map(|c| {
        let minima_alone = c.statistic == MINIMUM && !by_minimum;
        // What turns can tell, processes one after the other cannot, nor medians what minima can.
        if interleaved && (by_turns || c.statistic != TURNS) && !minima_alone {
            c.tie_width
        } else if minima_alone {
            let of_medians = 2.0 * c.process_relative_sd;
            c.width_apart().max(of_medians).max(TIE_WIDTH)
        } else {
            // Multiply-adds, on which it was found, repeat better than most else does.
            c.width_apart().max(TIE_WIDTH)
        }
    });
    let tie_width = terms
        .tie_of(&candidate.case_id)
        .unwrap_or_else(|| calibrated.reduce(f64::max).unwrap_or(TIE_WIDTH));
    let (method, estimate) =
        if ours.len().min(theirs.len()) < PROCESSES_MIN {
            let spreads = [
                calibrated_spread(baseline, calibrations[0]),
                calibrated_spread(candidate, calibrations[1]),
            ];
            result.notes.push(spread_note(spreads));
            let error = few_processes_error(base, spreads[0], ours.len())
                .hypot(few_processes_error(other, spreads[1], theirs.len()));
            let medians = result.baseline_time_s.zip(result.candidate_time_s);
            (
                Method::SamplesAndSpread,
                medians.and_then(|(a, b)| stats::assumed(a, b, error)),
            )
        } else if interleaved && by_turns {
            let one = vec![1.0; theirs.len()];
            (Method::PairedTurns, stats::paired(&one, &other.turn_ratios))
        } else if interleaved {
            (Method::PairedProcesses, stats::paired(&ours, &theirs))
        } else {
            (Method::Processes, stats::independent(&ours, &theirs))
        };
    let Some(estimate) = estimate else {
        result.reason = Some("a time is no positive number".to_owned());
        return result;
    };
    result.ratio = Some(estimate.ratio);
    result.ci95_low = Some(estimate.ci95_low);
    result.ci95_high = Some(estimate.ci95_high);
    result.p_value = Some(estimate.p_value);
    result.tie_width = Some(tie_width);
    result.method = Some(method);
    result.notes.extend(doubts("baseline", baseline));
    result.notes.extend(doubts("candidate", candidate));
    result
}

fn spread_note(spreads: [Option<f64>; 2]) -> String {
    let percent = |spread: f64| format!("{:.1} %", spread * 100.0);
    let what = match spreads {
        [None, None] => format!("{} assumed", percent(ASSUMED_PROCESS_SD)),
        [Some(a), Some(b)] => format!("{} and {} as calibrated", percent(a), percent(b)),
        [Some(a), None] => format!(
            "{} as calibrated for the baseline, {} assumed for the candidate",
            percent(a),
            percent(ASSUMED_PROCESS_SD)
        ),
        [None, Some(b)] => format!(
            "{} assumed for the baseline, {} as calibrated for the candidate",
            percent(ASSUMED_PROCESS_SD),
            percent(b)
        ),
    };
    format!(
        "fewer than {PROCESSES_MIN} fresh processes on a side, so the interval holds a standard deviation between processes of {what}; `chipmark ab` measures it"
    )
}

/// Gives every case its verdict: what one case shows has to stand beside all others.
fn judge(cases: &mut [CaseComparison]) {
    let p_values: Vec<f64> = cases.iter().filter_map(|case| case.p_value).collect();
    let mut survives = stats::benjamini_hochberg(&p_values, FALSE_DISCOVERY_RATE).into_iter();
    for case in cases {
        let (Some(ratio), Some(ci95_low), Some(ci95_high), Some(p_value), Some(tie_width)) = (
            case.ratio,
            case.ci95_low,
            case.ci95_high,
            case.p_value,
            case.tie_width,
        ) else {
            continue;
        };
        let estimate = Estimate {
            ratio,
            ci95_low,
            ci95_high,
            p_value,
        };
        let survives = survives.next().unwrap_or(false);
        case.verdict = decide(&estimate, tie_width, survives);
        if case.verdict == Verdict::Ambiguous {
            let paired = matches!(
                case.method,
                Some(Method::PairedProcesses | Method::PairedTurns)
            );
            let pairs = paired.then_some(case.baseline_process_count);
            case.reason = Some(doubt(&estimate, tie_width, p_values.len(), pairs));
        }
    }
}

/// The rule: the interval within the tie band is `same`; wholly beyond it, and not to be explained
/// by the number of cases, is `faster` or `slower`; anything else is `ambiguous`.
#[must_use]
pub fn decide(estimate: &Estimate, tie_width: f64, survives: bool) -> Verdict {
    let (low, high) = band(tie_width);
    if low <= estimate.ci95_low && estimate.ci95_high <= high {
        Verdict::Same
    } else if estimate.ci95_low > high && survives {
        Verdict::Faster
    } else if estimate.ci95_high < low && survives {
        Verdict::Slower
    } else {
        Verdict::Ambiguous
    }
}

/// The verdict on one pair of lists, times of a race's processes or their ratios beside ones, as a
/// comparison of that one case would give it; `None` where they are no times.
#[must_use]
pub fn verdict_of_pairs(
    baseline: &[f64],
    candidate: &[f64],
    tie_width: f64,
) -> Option<(Estimate, Verdict)> {
    let estimate = stats::paired(baseline, candidate)?;
    let survives = stats::benjamini_hochberg(&[estimate.p_value], FALSE_DISCOVERY_RATE)[0];
    Some((estimate, decide(&estimate, tie_width, survives)))
}

/// Ratios that count as the same.
fn band(tie_width: f64) -> (f64, f64) {
    (1.0 / (1.0 + tie_width), 1.0 + tie_width)
}

/// Why a case is ambiguous, in words.
fn doubt(estimate: &Estimate, tie_width: f64, case_count: usize, pairs: Option<usize>) -> String {
    let (low, high) = band(tie_width);
    let percent = format!("{} %", display::digits(tie_width * 100.0));
    if estimate.ci95_low > high || estimate.ci95_high < low {
        #[allow(clippy::cast_precision_loss)]
        let needed = FALSE_DISCOVERY_RATE / case_count.max(1) as f64;
        let too_few = pairs.filter(|&pairs| stats::paired_p_min(pairs) > needed);
        let remedy = too_few.map_or_else(String::new, |pairs| {
            format!("; {pairs} pairs cannot tell a single one among so many")
        });
        return format!(
            "it differs by more than {percent}, but among {case_count} cases that may be chance (p = {:.2}){remedy}",
            estimate.p_value
        );
    }
    let side = if estimate.ci95_low <= low && estimate.ci95_high >= high {
        "the interval is wider than the tie band"
    } else {
        "the interval crosses the edge of the tie band"
    };
    format!("{side} of {percent}")
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
        let time = |t: Option<f64>| t.map_or_else(|| "-".to_owned(), display::seconds);
        self.cases
            .iter()
            .map(|case| {
                let (ours, theirs) = (case.baseline_process_count, case.candidate_process_count);
                vec![
                    case.report_index.to_string(),
                    case.case_id.clone(),
                    match &case.baseline_runner {
                        Some(baseline) if *baseline != case.runner => {
                            format!("{} against {baseline}", case.runner)
                        }
                        _ => case.runner.clone(),
                    },
                    time(case.baseline_time_s),
                    time(case.candidate_time_s),
                    match (case.ratio, case.ci95_low, case.ci95_high) {
                        (Some(ratio), Some(low), Some(high)) => {
                            format!("{ratio:.3} [{low:.3}, {high:.3}]")
                        }
                        _ => "-".to_owned(),
                    },
                    match case.method {
                        Some(Method::PairedProcesses) => format!("{ours} pairs"),
                        Some(Method::PairedTurns) => format!("{ours} pairs by turns"),
                        Some(_) => format!("{ours} and {theirs}"),
                        None => "-".to_owned(),
                    },
                    match &case.reason {
                        Some(reason) => format!("{}: {reason}", case.verdict.word()),
                        None => case.verdict.word().to_owned(),
                    },
                ]
            })
            .collect()
    }

    /// The notes, each once, with the case it is of or how many it is of.
    fn notes(&self) -> String {
        // What is the same but for its figures, which follow a colon, is told once.
        let kind = |note: &'_ str| note.split(": ").next().unwrap_or_default().to_owned();
        let mut groups: Vec<(String, Vec<(&str, &str)>)> = Vec::new();
        for case in &self.cases {
            for note in &case.notes {
                match groups.iter_mut().find(|(text, _)| *text == kind(note)) {
                    Some((_, cases)) => cases.push((&case.case_id, note)),
                    None => groups.push((kind(note), vec![(&case.case_id, note)])),
                }
            }
        }
        groups
            .iter()
            .map(|(kind, cases)| match cases[..] {
                [(case, note)] => format!("note: {case}: {note}\n"),
                [(_, first), ..] if cases.iter().all(|(_, note)| *note == first) => {
                    format!("note: {} cases: {first}\n", cases.len())
                }
                _ => format!(
                    "note: {} cases: {kind} (--format json says how far)\n",
                    cases.len()
                ),
            })
            .collect()
    }

    fn footer(&self) -> String {
        let mut widths: Vec<f64> = self
            .cases
            .iter()
            .filter_map(|case| case.tie_width)
            .collect();
        widths.sort_unstable_by(f64::total_cmp);
        widths.dedup();
        let rule = match widths[..] {
            [] => String::new(),
            _ => format!(
                "same: the 95 % interval of the speed-up within {} %; faster, slower: wholly beyond, at most {:.0} % of them by chance\n",
                widths
                    .iter()
                    .map(|width| display::digits(width * 100.0))
                    .collect::<Vec<_>>()
                    .join(" or "),
                self.false_discovery_rate * 100.0
            ),
        };
        let VerdictCounts {
            faster,
            slower,
            same,
            ambiguous,
            not_comparable,
        } = self.verdicts;
        format!(
            "{}{rule}{} of {} cases compared: {faster} faster, {slower} slower, {same} same, {ambiguous} ambiguous; {not_comparable} not comparable\n{}",
            self.notes(),
            self.common_case_count,
            self.case_count,
            self.together(),
        )
    }

    /// The summaries, a line each.
    fn together(&self) -> String {
        let baseline = self.reports.first().map_or("", |side| side.name.as_str());
        let mut text = String::new();
        let mut strangers = Vec::new();
        for summary in &self.summaries {
            let Summary {
                report_index,
                runner,
                common_case_count,
                case_count,
                ..
            } = summary;
            // Of probes alone there is nothing to sum up.
            if *case_count == 0 {
                continue;
            }
            let Some(mean) = summary.ratio_geometric_mean else {
                strangers.push(format!("{runner} ({report_index})"));
                continue;
            };
            let _ = writeln!(
                text,
                "candidate {report_index}, {runner}, against {baseline}: geometric mean of the speed-ups {mean:.3} over {common_case_count} of {case_count} cases, probes left out; one call of each takes {}, the baseline's {} ({:.3})",
                display::seconds(summary.candidate_time_s_total),
                display::seconds(summary.baseline_time_s_total),
                summary.baseline_time_s_total / summary.candidate_time_s_total,
            );
        }
        if !strangers.is_empty() {
            let _ = writeln!(
                text,
                "no case but probes in common with the baseline: {}",
                strangers.join(", ")
            );
        }
        text
    }

    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}{}\n{}{}",
            self.header(),
            display::table(&HEADINGS, &self.rows()),
            self.footer(),
            portability::lines(&self.portability),
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
        text.push('\n');
        text += &display::markdown_table(&HEADINGS, &self.rows());
        text.push('\n');
        for line in self.footer().lines() {
            let _ = writeln!(text, "{line}  ");
        }
        let portability = portability::markdown(&self.portability);
        if !portability.is_empty() {
            text.push('\n');
            text += &portability;
        }
        text
    }

    /// For a spreadsheet: a row for each case and candidate (RFC 4180, numbers in full).
    ///
    /// # Errors
    /// Never but for want of memory.
    pub fn csv(&self) -> Result<String> {
        let name = |index: usize| self.reports.get(index).map_or("", |side| &side.name);
        let rows = self.cases.iter().map(|case| {
            let method = serde_json::to_value(case.method).unwrap_or_default();
            vec![
                case.case_id.clone(),
                name(0).to_owned(),
                case.baseline_runner.clone().unwrap_or_default(),
                name(case.report_index).to_owned(),
                case.runner.clone(),
                case.verdict.word().replace(' ', "_"),
                display::plain(case.ratio),
                display::plain(case.ci95_low),
                display::plain(case.ci95_high),
                display::plain(case.p_value),
                display::plain(case.tie_width),
                method.as_str().unwrap_or_default().to_owned(),
                case.baseline_process_count.to_string(),
                case.candidate_process_count.to_string(),
                display::plain(case.baseline_time_s),
                display::plain(case.candidate_time_s),
                case.reason.clone().unwrap_or_default(),
                case.notes.join("; "),
            ]
        });
        display::csv(&COLUMNS, rows)
    }
}

/// The columns of [`Comparison::csv`]: names as in the report and the comparison's JSON.
const COLUMNS: [&str; 18] = [
    "case_id",
    "baseline",
    "baseline_runner",
    "candidate",
    "runner",
    "verdict",
    "ratio",
    "ci95_low",
    "ci95_high",
    "p_value",
    "tie_width",
    "method",
    "baseline_process_count",
    "candidate_process_count",
    "baseline_time_s",
    "candidate_time_s",
    "reason",
    "notes",
];

const HEADINGS: [&str; 8] = [
    "#",
    "case",
    "runner",
    "baseline",
    "candidate",
    "speed-up [95 %]",
    "processes",
    "verdict",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Case, Dtype, OpName, Shape};
    use crate::report::MEDIAN;
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
            output: None,
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

    /// A report with this one outcome.
    fn report(outcome: Outcome) -> Report {
        let mut report = crate::report::empty();
        report.outcomes = vec![outcome];
        report
    }

    fn tied(tie: Option<f64>) -> Terms {
        Terms {
            tie,
            ..Terms::default()
        }
    }

    fn case(base: &Report, other: &Report, tie: Option<f64>) -> CaseComparison {
        let reports = [
            ("a".to_owned(), base.clone()),
            ("b".to_owned(), other.clone()),
        ];
        compare(&reports, &tied(tie)).cases.remove(0)
    }

    /// Outcomes of one process each.
    fn single(base: Outcome, other: Outcome) -> CaseComparison {
        case(&report(base), &report(other), None)
    }

    /// A report whose one case was measured in processes with these medians.
    fn of_processes(medians: &[f64], interleave_id: Option<&str>) -> Report {
        let mut outcome = outcome(medians[0], medians[0], medians[0]);
        outcome.time_s.as_mut().unwrap().process_medians = medians.to_vec();
        let mut report = report(outcome);
        report.interleave_id = interleave_id.map(str::to_owned);
        report
    }

    fn calibrated(mut report: Report, tie_width: f64, process_relative_sd: f64) -> Report {
        report.calibration = Some(Calibration {
            made_at: String::new(),
            runner: "wgpu".to_owned(),
            device: String::new(),
            backend: None,
            driver: None,
            case_id: String::new(),
            process_count: 6,
            same_count: 1,
            false_alarm_count: 0,
            slowdowns: vec![],
            detectable_change: None,
            tie_width,
            apart_width: None,
            process_relative_sd,
            statistic: "median".to_owned(),
            clocks: None,
            confirmation: None,
        });
        report
    }

    const STEADY: [f64; 8] = [1.0, 1.001, 0.999, 1.002, 1.0, 0.998, 1.001, 1.0];

    fn times(factor: f64) -> Vec<f64> {
        STEADY.iter().rev().map(|time| time * factor).collect()
    }

    #[test]
    fn chips_that_differ_threefold_are_told_apart_by_one_process_and_two_per_cent_are_not() {
        let base = outcome(0.999, 1.0, 1.001);
        let verdict = |median: f64| {
            let case = single(
                base.clone(),
                outcome(median * 0.999, median, median * 1.001),
            );
            assert_eq!(case.method, Some(Method::SamplesAndSpread));
            assert!(case.notes[0].contains("5.0 % assumed"), "{:?}", case.notes);
            case.verdict
        };
        assert_eq!(verdict(3.0), Verdict::Slower);
        assert_eq!(verdict(1.0 / 3.0), Verdict::Faster);
        for near in [0.98, 1.0, 1.02, 1.1] {
            assert_eq!(verdict(near), Verdict::Ambiguous);
        }
    }

    #[test]
    fn wide_intervals_of_samples_are_not_ranked_though_the_medians_lie_apart() {
        let case = single(outcome(0.3, 1.0, 3.0), outcome(0.6, 2.0, 6.0));
        assert_eq!(case.verdict, Verdict::Ambiguous);
        assert!(case.reason.unwrap().contains("wider than the tie band"));
    }

    #[test]
    fn a_calibrated_spread_takes_the_place_of_the_assumed_one() {
        let of = |median: f64| {
            let mut outcome = outcome(median * 0.9999, median, median * 1.0001);
            outcome.op = OpName::Fma;
            report(outcome)
        };
        let (base, other) = (of(1.0), of(1.05));
        assert_eq!(case(&base, &other, None).verdict, Verdict::Ambiguous);
        let (base, other) = (
            calibrated(base, 0.005, 0.002),
            calibrated(other, 0.008, 0.003),
        );
        let found = case(&base, &other, None);
        assert_eq!(found.verdict, Verdict::Slower);
        // No narrower than without a calibration.
        assert_eq!(found.tie_width, Some(TIE_WIDTH));
        assert!(found.notes[0].contains("0.2 % and 0.3 % as calibrated"));
        assert_eq!(case(&base, &other, Some(0.2)).verdict, Verdict::Same);
        // Reports made one after the other have the drift between them as well; by turns they have not.
        let mut drifting = other.clone();
        drifting.calibration.as_mut().unwrap().apart_width = Some(0.06);
        assert_eq!(case(&base, &drifting, None).tie_width, Some(0.06));
        let by_turns = |report: &Report| Report {
            interleave_id: Some("one".to_owned()),
            ..report.clone()
        };
        let found = case(&by_turns(&base), &by_turns(&drifting), None);
        assert_eq!(found.tie_width, Some(0.008));
        // The calibration of another runner says nothing.
        let mut strange = base.clone();
        strange.calibration.as_mut().unwrap().runner = "host".to_owned();
        let found = case(&strange, &other, None);
        assert!(found.notes[0].contains("5.0 % assumed for the baseline"));
    }

    #[test]
    fn how_multiply_adds_repeat_says_nothing_of_what_else_does() {
        let of = |median: f64, spread: f64| {
            let report = report(outcome(median * 0.9999, median, median * 1.0001));
            calibrated(report, 0.005, spread)
        };
        let found = case(&of(1.0, 0.002), &of(1.05, 0.002), None);
        assert_eq!(found.verdict, Verdict::Ambiguous);
        assert!(
            found.notes[0].contains("5.0 % assumed"),
            "{}",
            found.notes[0]
        );
        // Where even they scatter by more, that counts.
        let found = case(&of(1.0, 0.08), &of(1.05, 0.07), None);
        assert!(
            found.notes[0].contains("8.0 % and 7.0 % as calibrated"),
            "{}",
            found.notes[0]
        );
    }

    #[test]
    fn medians_of_processes_are_the_observations() {
        let base = of_processes(&STEADY, None);
        let verdict = |factor: f64| {
            let found = case(&base, &of_processes(&times(factor), None), None);
            assert_eq!(found.method, Some(Method::Processes));
            assert_eq!(
                (found.baseline_process_count, found.candidate_process_count),
                (8, 8)
            );
            found.verdict
        };
        assert_eq!(verdict(1.0), Verdict::Same);
        assert_eq!(verdict(1.03), Verdict::Slower);
        assert_eq!(verdict(0.97), Verdict::Faster);
        assert_eq!(verdict(1.01), Verdict::Ambiguous);
    }

    #[test]
    fn turns_decide_where_there_were_any_and_only_within_one_race() {
        // Times that jump by a third, and a candidate that is slower by 3 % in every round.
        let jumping: Vec<f64> = (0..8).map(|i| if i % 3 == 0 { 1.3 } else { 1.0 }).collect();
        let with_turns = |ratio: f64, race: &str, statistic: &str| {
            let mut report = calibrated(of_processes(&jumping, Some(race)), 0.008, 0.1);
            let times = report.outcomes[0].time_s.as_mut().unwrap();
            times.process_medians.rotate_left(usize::from(ratio > 1.0));
            times.turn_ratios = (0..8).map(|i| ratio + 1e-4 * f64::from(i)).collect();
            let calibration = report.calibration.as_mut().unwrap();
            statistic.clone_into(&mut calibration.statistic);
            calibration.apart_width = Some(0.4);
            report
        };
        let base = with_turns(1.0 / 1.03, "x", TURNS);
        let found = case(&base, &with_turns(1.03, "x", TURNS), None);
        assert_eq!(found.method, Some(Method::PairedTurns));
        assert_eq!(found.verdict, Verdict::Slower);
        assert!(
            (found.ratio.unwrap() - 1.0 / 1.03).abs() < 1e-3,
            "{found:?}"
        );
        assert_eq!(found.tie_width, Some(0.008));
        // Of another race, turns say nothing, nor does a width that was found by turns.
        let found = case(&base, &with_turns(1.03, "y", TURNS), None);
        assert_eq!(found.method, Some(Method::Processes));
        assert_eq!(found.tie_width, Some(0.4));
        // An interval of the median of five ratios holds less than it says.
        let few = |ratio: f64| {
            let mut report = with_turns(ratio, "x", TURNS);
            let times = report.outcomes[0].time_s.as_mut().unwrap();
            times.process_medians.truncate(5);
            times.turn_ratios.truncate(5);
            report
        };
        let found = case(&few(1.0 / 1.03), &few(1.03), None);
        assert_eq!(found.method, Some(Method::PairedProcesses));
        // One block without a turn: processes one after the other, and their width.
        let mut part = with_turns(1.03, "x", TURNS);
        part.outcomes[0].time_s.as_mut().unwrap().turn_ratios.pop();
        let found = case(&base, &part, None);
        assert_eq!(found.method, Some(Method::PairedProcesses));
        assert_eq!(found.tie_width, Some(0.4));
        // Where a calibration was too short to see the machine drift, its spread stands for that.
        let mut short = with_turns(1.03, "y", TURNS);
        short.calibration.as_mut().unwrap().apart_width = None;
        assert_eq!(short.calibration.as_ref().unwrap().width_apart(), 0.2);
        // A side of a race held against itself is not the race: its ratios are to the other side.
        assert_eq!(case(&base, &base, None).verdict, Verdict::Same);
        // A calibration by medians is a wider one, and holds for turns too.
        let base = with_turns(1.0 / 1.03, "x", MEDIAN);
        let found = case(&base, &with_turns(1.03, "x", MEDIAN), None);
        assert_eq!(found.method, Some(Method::PairedTurns));
        assert_eq!(found.tie_width, Some(0.008));
    }

    #[test]
    fn where_there_are_but_medians_a_calibration_by_minima_is_no_narrower_than_they_scatter() {
        let by_minima = |medians: &[f64]| {
            let mut report = calibrated(of_processes(medians, None), 0.03, 0.2);
            let calibration = report.calibration.as_mut().unwrap();
            MINIMUM.clone_into(&mut calibration.statistic);
            calibration.apart_width = Some(0.04);
            report
        };
        let base = by_minima(&STEADY);
        assert_eq!(case(&base, &base, None).tie_width, Some(0.4));
        let with_minima = |mut report: Report| {
            let times = report.outcomes[0].time_s.as_mut().unwrap();
            times.process_minima.clone_from(&times.process_medians);
            report
        };
        let base = with_minima(base);
        let found = case(&base, &with_minima(by_minima(&times(1.1))), None);
        assert_eq!(found.tie_width, Some(0.04));
        assert_eq!(found.verdict, Verdict::Slower);
    }

    #[test]
    fn runs_taken_by_turns_are_compared_pair_by_pair() {
        // Both drift by a half; each pair is 3 % apart.
        let drifting: Vec<f64> = (0..10).map(|i| 1.0 + 0.05 * f64::from(i)).collect();
        let slower: Vec<f64> = drifting.iter().map(|time| time * 1.03).collect();
        let compared = |ours: Option<&str>, theirs: Option<&str>| {
            case(
                &of_processes(&drifting, ours),
                &of_processes(&slower, theirs),
                None,
            )
        };
        let found = compared(Some("x"), Some("x"));
        assert_eq!(found.method, Some(Method::PairedProcesses));
        assert_eq!(found.verdict, Verdict::Slower);
        assert!((found.ratio.unwrap() - 1.0 / 1.03).abs() < 1e-9);
        // Taken apart, the drift hides it.
        for (ours, theirs) in [(None, None), (Some("x"), Some("y")), (Some("x"), None)] {
            let found = compared(ours, theirs);
            assert_eq!(found.method, Some(Method::Processes));
            assert_eq!(found.verdict, Verdict::Ambiguous);
        }
    }

    #[test]
    fn the_rule_looks_at_the_whole_interval() {
        let verdict = |low: f64, high: f64, survives: bool| {
            let estimate = Estimate {
                ratio: f64::midpoint(low, high),
                ci95_low: low,
                ci95_high: high,
                p_value: 0.01,
            };
            decide(&estimate, 0.01, survives)
        };
        assert_eq!(verdict(0.995, 1.005, true), Verdict::Same);
        assert_eq!(verdict(1.0 / 1.01, 1.01, false), Verdict::Same);
        assert_eq!(verdict(1.011, 1.2, true), Verdict::Faster);
        assert_eq!(verdict(1.011, 1.2, false), Verdict::Ambiguous);
        assert_eq!(verdict(0.8, 0.99, true), Verdict::Slower);
        assert_eq!(verdict(0.8, 0.99, false), Verdict::Ambiguous);
        // Different, but perhaps by less than counts.
        assert_eq!(verdict(1.001, 1.02, true), Verdict::Ambiguous);
        assert_eq!(verdict(0.9, 1.1, true), Verdict::Ambiguous);
    }

    #[test]
    fn among_many_cases_a_difference_has_to_be_clearer() {
        let six = [1.0, 1.001, 0.999, 1.002, 1.0, 0.998];
        let outcomes = |slow: bool, count: u64| -> Report {
            let mut whole = report(outcome(1.0, 1.0, 1.0));
            whole.interleave_id = Some("x".to_owned());
            whole.outcomes = (0..count)
                .map(|index| {
                    let factor = if slow && index == 0 { 1.05 } else { 1.0 };
                    let medians: Vec<f64> = if slow {
                        six.iter().rev().map(|time| time * factor).collect()
                    } else {
                        six.to_vec()
                    };
                    let mut outcome = of_processes(&medians, None).outcomes.remove(0);
                    outcome.case_id = format!("copy/n{}/f32", index + 1);
                    outcome
                })
                .collect();
            whole
        };
        assert_eq!(
            case(&outcomes(false, 1), &outcomes(true, 1), None).verdict,
            Verdict::Slower
        );
        let found = case(&outcomes(false, 20), &outcomes(true, 20), None);
        assert_eq!(found.verdict, Verdict::Ambiguous);
        let reason = found.reason.unwrap();
        assert!(
            reason.contains("among 20 cases") && reason.contains("6 pairs cannot"),
            "{reason}"
        );
    }

    #[test]
    fn doubtful_times_are_compared_with_a_note() {
        let mut other = outcome(2.9, 3.0, 3.1);
        other.not_converged = Some("half-width 2 %, not 0.5 %".to_owned());
        other.throttle = Some(crate::report::Throttle {
            suspected: true,
            evidence: vec!["the canary slowed by 8 %".to_owned()],
            ..Default::default()
        });
        let found = single(outcome(0.9, 1.0, 1.1), other);
        assert_eq!(found.verdict, Verdict::Slower);
        assert!(found.notes[1].contains("throttled: the canary slowed by 8 %"));
        assert!(found.notes[2].contains("half-width 2 %"));
    }

    #[test]
    fn the_ratio_says_how_many_times_faster_the_candidate_is() {
        let found = single(outcome(0.99, 1.0, 1.01), outcome(0.49, 0.5, 0.51));
        assert!((found.ratio.unwrap() - 2.0).abs() < 1e-12);
        // 0.99 to 1.01 is a standard error of 0.51 %, 0.49 to 0.51 one of 1.02 %, and 5 % each.
        let error = 0.0051f64.hypot(0.0102).hypot(0.05).hypot(0.05);
        let low = (2f64.ln() - 1.96 * error).exp();
        assert!((found.ci95_low.unwrap() - low).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn different_accumulators_checks_and_failures_are_not_compared() {
        let base = outcome(0.9, 1.0, 1.1);
        let mut other = outcome(0.4, 0.5, 0.6);
        other.accumulator = "f16".to_owned();
        let reason = single(base.clone(), other).reason.unwrap();
        assert!(reason.contains("accumulators differ: f32 and f16"));
        let mut other = outcome(0.4, 0.5, 0.6);
        other.labels.as_mut().unwrap().checks = "on".to_owned();
        assert_eq!(single(base.clone(), other).verdict, Verdict::NotComparable);
        let mut other = outcome(0.4, 0.5, 0.6);
        other.labels.as_mut().unwrap().output = Some("f16".to_owned());
        let reason = single(base.clone(), other).reason.unwrap();
        assert!(reason.contains("output differs: the dtype's own and f16"));
        let mut other = outcome(0.4, 0.5, 0.6);
        other.labels = None;
        assert_eq!(single(base.clone(), other).verdict, Verdict::NotComparable);
        for status in [OutcomeStatus::Failed, OutcomeStatus::Implausible] {
            let mut other = outcome(0.4, 0.5, 0.6);
            other.status = status;
            other.reason = Some("it broke".to_owned());
            let found = single(base.clone(), other);
            assert_eq!((found.verdict, found.ratio), (Verdict::NotComparable, None));
            assert!(found.reason.unwrap().contains("it broke"));
        }
    }

    /// A report with a case of matmul for each median, on this runner.
    fn products(runner: &str, medians: &[f64]) -> Report {
        let mut whole = report(outcome(1.0, 1.0, 1.0));
        whole.outcomes = (1..)
            .zip(medians)
            .map(|(m, &median)| {
                let shape = Shape::of(&[("m", m), ("n", 4), ("k", 4)]);
                let case = Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap();
                let mut outcome = outcome(median * 0.999, median, median * 1.001);
                (outcome.case_id, outcome.op) = (case.id(), case.op);
                outcome.runner = runner.to_owned();
                outcome
            })
            .collect();
        whole
    }

    #[test]
    fn the_mean_over_the_common_cases_says_how_many_and_leaves_probes_out() {
        let mut base = products("wgpu", &[1.0, 1.0, 10.0]);
        let mut other = products("wgpu", &[0.5, 2.0]);
        // A probe that is ten times faster.
        base.outcomes.push(outcome(0.99, 1.0, 1.01));
        other.outcomes.push(outcome(0.099, 0.1, 0.101));
        let reports = [("a".to_owned(), base), ("b".to_owned(), other)];
        let comparison = compare(&reports, &tied(None));
        let [summary] = &comparison.summaries[..] else {
            panic!("{:?}", comparison.summaries)
        };
        assert_eq!((summary.common_case_count, summary.case_count), (2, 3));
        assert!((summary.ratio_geometric_mean.unwrap() - 1.0).abs() < 1e-12);
        // The mean hides that the slower case dominates.
        assert_eq!(
            (
                summary.baseline_time_s_total,
                summary.candidate_time_s_total
            ),
            (2.0, 2.5)
        );
        let text = comparison.text();
        assert!(
            text.contains("against a: geometric mean of the speed-ups 1.000 over 2 of 3 cases"),
            "{text}"
        );
    }

    #[test]
    fn two_runners_of_one_report_are_a_pair_and_a_runner_is_never_compared_with_itself() {
        let mut both = products("host", &[1.0]);
        both.outcomes.extend(products("wgpu", &[4.0]).outcomes);
        let reports = [("r".to_owned(), both.clone()), ("r".to_owned(), both)];
        let of = |baseline: Option<&str>, candidate: Option<&str>| {
            let terms = Terms {
                baseline_runner: baseline.map(str::to_owned),
                runner: candidate.map(str::to_owned),
                ..Terms::default()
            };
            terms.check(&reports).map(|()| compare(&reports, &terms))
        };
        for found in [of(Some("host"), Some("wgpu")), of(Some("host"), None)] {
            let found = found.unwrap();
            assert_eq!(found.warnings, [""; 0]);
            let [case] = &found.cases[..] else {
                panic!("{:?}", found.cases)
            };
            assert_eq!(case.baseline_runner.as_deref(), Some("host"));
            assert_eq!(
                (case.runner.as_str(), case.verdict),
                ("wgpu", Verdict::Slower)
            );
        }
        let refused = of(Some("torch"), None).unwrap_err().message;
        assert_eq!(
            refused,
            "--baseline-runner torch: r has no such runner; it has host, wgpu"
        );
        assert!(
            of(None, Some("torch"))
                .unwrap_err()
                .message
                .contains("--runner torch")
        );
        let same = of(None, None).unwrap();
        assert_eq!((same.cases.len(), same.warnings.len()), (2, 1));
    }

    #[test]
    fn a_case_may_have_a_tie_of_its_own_and_one_left_out_counts_nowhere() {
        let base = products("wgpu", &[1.0, 1.0, 1.0]);
        let other = products("wgpu", &[2.0, 2.0, 2.0]);
        let reports = [("a".to_owned(), base), ("b".to_owned(), other)];
        let ids: Vec<String> = (1..4).map(|m| format!("matmul/m{m}_n4_k4/f32")).collect();
        let terms = Terms {
            tie: Some(0.02),
            ties: BTreeMap::from([(ids[0].clone(), 2.0)]),
            left_out: BTreeSet::from([ids[1].clone()]),
            ..Terms::default()
        };
        let found = compare(&reports, &terms);
        let seen: Vec<(&str, Verdict, Option<f64>)> = found
            .cases
            .iter()
            .map(|case| (case.case_id.as_str(), case.verdict, case.tie_width))
            .collect();
        assert_eq!(
            seen,
            [
                (ids[0].as_str(), Verdict::Same, Some(2.0)),
                (ids[2].as_str(), Verdict::Slower, Some(0.02)),
            ]
        );
        assert_eq!(found.summaries[0].case_count, 2);
    }

    #[test]
    fn a_table_for_a_spreadsheet_has_a_row_for_each_case_and_quotes_what_it_must() {
        let base = report(outcome(0.9, 1.0, 1.1));
        let mut other = report(outcome(0.4, 0.5, 0.6));
        other.outcomes[0].status = OutcomeStatus::Failed;
        other.outcomes[0].reason = Some("it said \"no\", twice".to_owned());
        let reports = [("a,b.json".to_owned(), base), ("b.json".to_owned(), other)];
        let text = compare(&reports, &tied(None)).csv().unwrap();
        assert!(text.starts_with("case_id,baseline,"));
        assert!(text.contains("copy/n4/f32,\"a,b.json\",wgpu,b.json,wgpu,not_comparable,,"));
        assert!(text.contains("\"the candidate has no number: it said \"\"no\"\", twice\""));
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap(), &COLUMNS[..]);
        assert_eq!(reader.records().count(), 1);
    }
}
