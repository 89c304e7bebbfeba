//! `chipmark check`: whether a change may pass, by what `compare` can tell and by the thresholds of
//! the user.
//!
//! A threshold is a tie width: a case fails only where its whole interval lies beyond it and the
//! difference survives the correction for many cases. So a wider threshold forgives more, and no
//! threshold makes a verdict of what could be luck.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use quick_junit::{NonSuccessKind, Property, TestCase, TestCaseStatus, TestSuite};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::compare::{CaseComparison, Comparison, FALSE_DISCOVERY_RATE, Terms, Verdict};
use crate::compare::{decide, is_not_slower, time_and_error};
use crate::display;
use crate::error::{Error, Result, one_line};
use crate::files;
use crate::report::{Outcome, OutcomeStatus, Report};
use crate::stats;

/// The widest slowdown that a threshold may forgive, in per cent: beyond ten times there is nothing
/// left to guard.
const SLOWER_PERCENT_MAX: f64 = 1000.0;

/// What a gate makes of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Nothing became slower, and that can be told of every case.
    Passed,
    /// Some case is confirmed slower, below its floor, or required and lost.
    Regressed,
    /// Nothing is confirmed, but some case cannot be told.
    Unclear,
}

impl Gate {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Regressed => "regressed",
            Self::Unclear => "unclear",
        }
    }
}

/// What a gate makes of one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It is not slower by more than its threshold.
    Passed,
    /// It is confirmed slower by more than its threshold.
    Slower,
    /// It is confirmed below its least fraction of the ceiling.
    BelowFloor,
    /// The baseline has a number and the candidate has none, or it is required and has none.
    Lost,
    /// It cannot be told, or not be compared.
    Unclear,
    /// The baseline has no number to hold it against.
    NotAsked,
    /// The thresholds leave it out.
    LeftOut,
}

impl Finding {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Slower => "slower",
            Self::BelowFloor => "below its floor",
            Self::Lost => "lost",
            Self::Unclear => "unclear",
            Self::NotAsked => "not asked",
            Self::LeftOut => "left out",
        }
    }
}

/// One case before the gate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseFinding {
    /// The case.
    pub case_id: String,
    /// The runner of the candidate.
    pub runner: String,
    /// What became of it.
    pub finding: Finding,
    /// Whether this alone fails the gate.
    pub fails: bool,
    /// Why, in words; absent where it plainly passed.
    pub reason: Option<String>,
}

/// The gate's verdict with all that it rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// Which of the three.
    pub gate: Gate,
    /// One line that says why.
    pub reason: String,
    /// Every case, those left out included.
    pub findings: Vec<CaseFinding>,
}

/// What is asked of a case.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// Per cent more time that still count as the same.
    slower_percent: Option<f64>,
    /// Whether losing the case fails the gate.
    required: Option<bool>,
    /// Least fraction of the measured ceiling.
    fraction_of_ceiling_min: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseRule {
    filter: String,
    ignore: Option<bool>,
    slower_percent: Option<f64>,
    required: Option<bool>,
    fraction_of_ceiling_min: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    default: Rule,
    #[serde(default, rename = "case")]
    cases: Vec<CaseRule>,
}

/// What the user asks of the cases, by regular expression; a later rule goes before an earlier one,
/// field by field.
#[derive(Clone, Debug, Default)]
pub struct Thresholds {
    /// Where they were read, for complaints.
    name: String,
    default: Rule,
    rules: Vec<(Regex, CaseRule)>,
}

/// The rule that holds for one case.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    rule: Rule,
    ignore: bool,
}

impl Thresholds {
    /// Reads thresholds from a file.
    ///
    /// # Errors
    /// A usage error that names the file, the field and the remedy.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = files::read_text(path)
            .map_err(|error| Error::usage(format!("--thresholds {name}: {error}")))?;
        Self::parse(&name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let refuse = |what: String| Error::usage(format!("--thresholds {name}: {what}"));
        let file: File =
            toml::from_str(text).map_err(|error| refuse(one_line(&error.to_string())))?;
        let check = |place: &str, rule: &Rule| {
            let within = |field: &str, value: Option<f64>, max: f64| match value {
                Some(value) if !(value > 0.0 && value <= max) => Err(refuse(format!(
                    "{place}: {field} is {value}; it must be above 0 and at most {max}"
                ))),
                _ => Ok(()),
            };
            within("slower_percent", rule.slower_percent, SLOWER_PERCENT_MAX)?;
            within("fraction_of_ceiling_min", rule.fraction_of_ceiling_min, 1.0)
        };
        check("[default]", &file.default)?;
        let mut rules = Vec::new();
        for (number, rule) in (1..).zip(file.cases) {
            let place = format!("[[case]] {number}, filter '{}'", rule.filter);
            let regex = Regex::new(&rule.filter)
                .map_err(|error| refuse(format!("{place}: {}", one_line(&error.to_string()))))?;
            check(&place, &rule.asks())?;
            let asks_nothing = rule.slower_percent.is_none()
                && rule.required.is_none()
                && rule.fraction_of_ceiling_min.is_none();
            match rule.ignore {
                Some(true) if !asks_nothing => {
                    return Err(refuse(format!(
                        "{place}: what is left out by ignore cannot be asked for anything; remove one or the other"
                    )));
                }
                None if asks_nothing => {
                    return Err(refuse(format!(
                        "{place}: it asks for nothing; give it slower_percent, fraction_of_ceiling_min, required or ignore"
                    )));
                }
                _ => {}
            }
            rules.push((regex, rule));
        }
        Ok(Self {
            name: name.to_owned(),
            default: file.default,
            rules,
        })
    }

    fn asked(&self, case_id: &str) -> Asked {
        let mut asked = Asked {
            rule: self.default,
            ignore: false,
        };
        let rules = self.rules.iter();
        for (_, rule) in rules.filter(|(regex, _)| regex.is_match(case_id)) {
            let Rule {
                slower_percent,
                required,
                fraction_of_ceiling_min,
            } = rule.asks();
            asked.rule = Rule {
                slower_percent: slower_percent.or(asked.rule.slower_percent),
                required: required.or(asked.rule.required),
                fraction_of_ceiling_min: fraction_of_ceiling_min
                    .or(asked.rule.fraction_of_ceiling_min),
            };
            asked.ignore = rule.ignore.unwrap_or(asked.ignore);
        }
        asked
    }

    /// Writes the thresholds of all cases of the reports into the terms of their comparison.
    ///
    /// # Errors
    /// A usage error where a rule matches no case.
    pub fn apply(&self, reports: &[(String, Report)], terms: &mut Terms) -> Result<()> {
        let ids: BTreeSet<&str> = reports
            .iter()
            .flat_map(|(_, report)| &report.outcomes)
            .map(|outcome| outcome.case_id.as_str())
            .collect();
        for (number, (regex, _)) in (1..).zip(&self.rules) {
            if !ids.iter().any(|id| regex.is_match(id)) {
                return Err(Error::usage(format!(
                    "--thresholds {}: [[case]] {number}, filter '{regex}': it matches no case of either report; mend the filter or remove the rule",
                    self.name
                )));
            }
        }
        for id in ids {
            let asked = self.asked(id);
            if asked.ignore {
                terms.left_out.insert(id.to_owned());
            } else if let Some(percent) = asked.rule.slower_percent {
                terms.ties.insert(id.to_owned(), percent / 100.0);
            }
        }
        Ok(())
    }
}

impl CaseRule {
    fn asks(&self) -> Rule {
        Rule {
            slower_percent: self.slower_percent,
            required: self.required,
            fraction_of_ceiling_min: self.fraction_of_ceiling_min,
        }
    }
}

/// What a floor says of a case.
enum Floor {
    Above,
    Below(String),
    Unclear(String),
}

/// Holds the fractions of the ceiling that the candidate reached against their floors: below is what
/// lies below with its whole interval, and survives the correction for all floors.
fn floors(
    candidate: &Report,
    cases: &[&CaseComparison],
    thresholds: &Thresholds,
) -> Vec<Option<Floor>> {
    let estimates: Vec<Option<std::result::Result<(f64, stats::Estimate), String>>> = cases
        .iter()
        .map(|case| {
            let floor = thresholds
                .asked(&case.case_id)
                .rule
                .fraction_of_ceiling_min?;
            let outcome = outcome_of(candidate, &case.case_id, &case.runner)
                .filter(|outcome| outcome.status == OutcomeStatus::Measured)?;
            let Some(roofline_s) = outcome
                .roofline_time_s
                .filter(|_| outcome.fraction_of_ceiling.is_some())
            else {
                return Some(Err(format!(
                    "it has no fraction of a ceiling to hold against the least of {floor}"
                )));
            };
            // The longest time that the floor allows over the time it took.
            let estimate = time_and_error(candidate, outcome)
                .and_then(|(time_s, error)| stats::assumed(roofline_s / floor, time_s, error));
            Some(
                estimate
                    .map(|estimate| (floor, estimate))
                    .ok_or_else(|| "a time is no positive number".to_owned()),
            )
        })
        .collect();
    let p_values: Vec<f64> = estimates
        .iter()
        .filter_map(|estimate| Some(below(&estimate.as_ref()?.as_ref().ok()?.1)))
        .collect();
    let mut survives = stats::benjamini_hochberg(&p_values, FALSE_DISCOVERY_RATE).into_iter();
    estimates
        .into_iter()
        .map(|estimate| {
            Some(match estimate? {
                Err(reason) => Floor::Unclear(reason),
                Ok((floor, estimate)) => {
                    let survives = survives.next().unwrap_or(false);
                    let figures = format!(
                        "fraction of ceiling {:.3} [{:.3}, {:.3}], at least {floor} asked",
                        floor * estimate.ratio,
                        floor * estimate.ci95_low,
                        floor * estimate.ci95_high
                    );
                    match decide(&estimate, 0.0, survives) {
                        Verdict::Slower => Floor::Below(figures),
                        Verdict::Faster | Verdict::Same => Floor::Above,
                        _ if estimate.ci95_low >= 1.0 => Floor::Above,
                        _ => Floor::Unclear(figures),
                    }
                }
            })
        })
        .collect()
}

/// How probable so low a fraction is where it is the floor exactly. Of one side alone: floors that are
/// passed by far are no discoveries, and as such would make others of the same gate easier.
fn below(estimate: &stats::Estimate) -> f64 {
    if estimate.ratio < 1.0 {
        estimate.p_value / 2.0
    } else {
        1.0 - estimate.p_value / 2.0
    }
}

fn outcome_of<'a>(report: &'a Report, case_id: &str, runner: &str) -> Option<&'a Outcome> {
    let mut outcomes = report.outcomes.iter();
    outcomes.find(|outcome| outcome.case_id == case_id && outcome.runner == runner)
}

/// What a case comparison alone means for the gate.
fn finding(
    case: &CaseComparison,
    baseline: &Report,
    candidate: &Report,
    required: bool,
) -> (Finding, bool, Option<String>) {
    let measured = |outcome: Option<&Outcome>| {
        outcome.is_some_and(|outcome| outcome.status == OutcomeStatus::Measured)
    };
    let ours = case
        .baseline_runner
        .as_deref()
        .and_then(|runner| outcome_of(baseline, &case.case_id, runner));
    let theirs = outcome_of(candidate, &case.case_id, &case.runner);
    let reason = case.reason.clone();
    match case.verdict {
        Verdict::Faster | Verdict::Same => (Finding::Passed, false, None),
        Verdict::Slower => {
            let slowdown = case.ratio.map_or(0.0, |ratio| (1.0 / ratio - 1.0) * 100.0);
            let tie = case.tie_width.unwrap_or_default() * 100.0;
            let reason = format!(
                "takes {} % longer, {} % allowed",
                display::digits(slowdown),
                display::digits(tie)
            );
            (Finding::Slower, true, Some(reason))
        }
        // Faster or the same, and nobody can tell which: that is all a gate asks.
        Verdict::Ambiguous if is_not_slower(case) => (Finding::Passed, false, reason),
        Verdict::Ambiguous => (Finding::Unclear, false, reason),
        Verdict::NotComparable if !measured(theirs) && (measured(ours) || required) => {
            let reason = match reason {
                _ if theirs.is_none() => "it is not in the candidate".to_owned(),
                Some(reason) => reason,
                None => "the candidate has no number".to_owned(),
            };
            let reason = if required {
                format!("it is required, and {reason}")
            } else {
                reason
            };
            (Finding::Lost, required, Some(reason))
        }
        Verdict::NotComparable if measured(ours) => (Finding::Unclear, false, reason),
        Verdict::NotComparable => (Finding::NotAsked, false, reason),
    }
}

/// Judges a comparison of two reports by the thresholds that its terms came from.
#[must_use]
pub fn judge(
    comparison: &Comparison,
    baseline: &Report,
    candidate: &Report,
    thresholds: &Thresholds,
) -> Judgement {
    let cases: Vec<&CaseComparison> = comparison.cases.iter().collect();
    let floors = floors(candidate, &cases, thresholds);
    let mut findings: Vec<CaseFinding> = cases
        .iter()
        .zip(floors)
        .map(|(case, floor)| {
            let required = thresholds.asked(&case.case_id).rule.required == Some(true);
            let (mut found, mut fails, mut reason) = finding(case, baseline, candidate, required);
            let mut add = |more: String| {
                reason = Some(match &reason {
                    Some(reason) => format!("{reason}; {more}"),
                    None => more,
                });
            };
            match floor {
                Some(Floor::Below(figures)) => {
                    if found != Finding::Slower {
                        found = Finding::BelowFloor;
                    }
                    fails = true;
                    add(figures);
                }
                Some(Floor::Unclear(figures)) => {
                    if matches!(found, Finding::Passed | Finding::NotAsked) {
                        found = Finding::Unclear;
                    }
                    add(figures);
                }
                Some(Floor::Above) if found == Finding::NotAsked => found = Finding::Passed,
                Some(Floor::Above) | None => {}
            }
            CaseFinding {
                case_id: case.case_id.clone(),
                runner: case.runner.clone(),
                finding: found,
                fails,
                reason,
            }
        })
        .collect();
    let (gate, reason) = verdict(comparison, &findings);
    let left_out: BTreeSet<(&str, &str)> = [baseline, candidate]
        .iter()
        .flat_map(|report| &report.outcomes)
        .filter(|outcome| thresholds.asked(&outcome.case_id).ignore)
        .map(|outcome| (outcome.case_id.as_str(), outcome.runner.as_str()))
        .collect();
    findings.extend(left_out.into_iter().map(|(case_id, runner)| CaseFinding {
        case_id: case_id.to_owned(),
        runner: runner.to_owned(),
        finding: Finding::LeftOut,
        fails: false,
        reason: Some("the thresholds leave it out".to_owned()),
    }));
    Judgement {
        gate,
        reason,
        findings,
    }
}

/// The gate as a whole, and one line that says why.
fn verdict(comparison: &Comparison, findings: &[CaseFinding]) -> (Gate, String) {
    let common = comparison.common_case_count;
    let listed = |wanted: &dyn Fn(&CaseFinding) -> bool| -> Option<(usize, String)> {
        let found: Vec<&CaseFinding> = findings.iter().filter(|found| wanted(found)).collect();
        let show = |found: &&CaseFinding| {
            let reason = found.reason.as_deref().unwrap_or("no reason is known");
            match found.finding {
                Finding::Slower => format!("{} {reason}", found.case_id),
                _ => format!("{}: {reason}", found.case_id),
            }
        };
        let mut list: Vec<String> = found.iter().take(3).map(show).collect();
        if found.len() > 3 {
            list.push(format!("and {} more", found.len() - 3));
        }
        (!found.is_empty()).then(|| (found.len(), list.join("; ")))
    };
    let mut parts = Vec::new();
    if let Some((count, list)) = listed(&|f| f.finding == Finding::Slower) {
        parts.push(format!("{count} of {common} compared cases slower: {list}"));
    }
    if let Some((count, list)) = listed(&|f| f.finding == Finding::BelowFloor) {
        parts.push(format!("{count} below the floor: {list}"));
    }
    if let Some((count, list)) = listed(&|f| f.finding == Finding::Lost && f.fails) {
        parts.push(format!("{count} required and lost: {list}"));
    }
    if !parts.is_empty() {
        return (
            Gate::Regressed,
            format!("regression: {}", parts.join("; and ")),
        );
    }
    if common == 0 {
        return (
            Gate::Unclear,
            "cannot tell: the reports have no measured case in common".to_owned(),
        );
    }
    let ambiguous = |found: &CaseFinding| {
        let mut cases = comparison.cases.iter();
        cases.any(|case| {
            case.verdict == Verdict::Ambiguous
                && case.case_id == found.case_id
                && case.runner == found.runner
        })
    };
    let mut count = 0;
    for (what, found) in [
        ("lost", listed(&|f| f.finding == Finding::Lost)),
        (
            "ambiguous",
            listed(&|f| f.finding == Finding::Unclear && ambiguous(f)),
        ),
        (
            "not to be told",
            listed(&|f| f.finding == Finding::Unclear && !ambiguous(f)),
        ),
    ] {
        if let Some((number, list)) = found {
            count += number;
            parts.push(format!("{number} {what} ({list})"));
        }
    }
    if !parts.is_empty() {
        return (
            Gate::Unclear,
            format!(
                "cannot tell: no case is confirmed slower, but of {count} of {} nobody can say that it is not: {}",
                comparison.case_count,
                parts.join(", ")
            ),
        );
    }
    (
        Gate::Passed,
        format!(
            "passed: none of {common} compared cases is slower ({} faster, {} same)",
            comparison.verdicts.faster, comparison.verdicts.same
        ),
    )
}

impl Judgement {
    /// What the table of the comparison does not show.
    fn beside(&self) -> impl Iterator<Item = &CaseFinding> {
        self.findings.iter().filter(|found| {
            matches!(
                found.finding,
                Finding::BelowFloor | Finding::Lost | Finding::LeftOut
            ) || found.finding == Finding::Unclear && found.reason.is_some()
        })
    }

    fn lines(&self) -> Vec<String> {
        self.beside()
            .map(|found| {
                format!(
                    "{}: {} ({}): {}",
                    found.finding.word(),
                    found.case_id,
                    found.runner,
                    found.reason.as_deref().unwrap_or_default()
                )
            })
            .collect()
    }

    /// For a terminal, after the comparison.
    #[must_use]
    pub fn text(&self, comparison: &Comparison) -> String {
        let mut text = comparison.text();
        for line in self.lines() {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// For a comment on a change: the verdict first.
    #[must_use]
    pub fn markdown(&self, comparison: &Comparison) -> String {
        let mut text = format!("**{}**\n\n{}", self.reason, comparison.markdown());
        if self.beside().next().is_some() {
            text.push('\n');
        }
        for line in self.lines() {
            let _ = writeln!(text, "- {line}");
        }
        text
    }

    /// JUnit's XML: `failure` for what fails by its time, `error` for what has no number any more,
    /// `skipped` with the reason for what cannot be told, compared or is not asked for.
    ///
    /// # Errors
    /// Never but for want of memory.
    pub fn junit(&self, comparison: &Comparison) -> Result<String> {
        let name = |index: usize| comparison.reports.get(index).map_or("", |side| &side.name);
        let mut suite = TestSuite::new(format!("{} against {}", name(1), name(0)));
        suite.add_property(Property::new("gate", self.gate.word()));
        suite.add_property(Property::new("reason", &self.reason));
        for warning in &comparison.warnings {
            suite.add_property(Property::new("warning", warning));
        }
        for found in &self.findings {
            let status = match found.finding {
                Finding::Passed => TestCaseStatus::success(),
                Finding::Slower | Finding::BelowFloor => {
                    TestCaseStatus::non_success(NonSuccessKind::Failure)
                }
                Finding::Lost => TestCaseStatus::non_success(NonSuccessKind::Error),
                Finding::Unclear | Finding::NotAsked | Finding::LeftOut => {
                    TestCaseStatus::skipped()
                }
            };
            let mut case = TestCase::new(found.case_id.as_str(), status);
            if found.finding != Finding::Passed {
                case.status.set_type(found.finding.word());
                case.status
                    .set_message(found.reason.as_deref().unwrap_or_default());
            }
            case.set_classname(found.runner.as_str());
            suite.add_test_case(case);
        }
        let mut report = quick_junit::Report::new("chipmark check");
        report.add_test_suite(suite);
        report
            .to_string()
            .map_err(|error| Error::internal(format!("the findings as XML: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::compare;
    use crate::op::{Case, Dtype, OpName, Shape};
    use crate::report::{Labels, Times, empty, unmeasured};

    const STEADY: [f64; 8] = [1.0, 1.001, 0.999, 1.002, 1.0, 0.998, 1.001, 1.0];

    /// A report with one case for each time, in eight processes that agree.
    fn report(times: &[f64]) -> Report {
        let mut report = empty();
        for (m, &time) in (1..).zip(times) {
            let shape = Shape::of(&[("m", m), ("n", 4), ("k", 4)]);
            let case = Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap();
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
                median: time,
                ci95_low: time,
                ci95_high: time,
                process_medians: STEADY.iter().map(|factor| factor * time).collect(),
                ..Times::default()
            });
            report.outcomes.push(outcome);
        }
        report
    }

    const ONE: &str = "matmul/m1_n4_k4/f32";

    fn lose(report: &mut Report, index: usize) {
        report.outcomes[index].status = OutcomeStatus::Failed;
        report.outcomes[index].reason = Some("it broke".to_owned());
    }

    fn judged(base: &Report, other: &Report, thresholds: &str) -> (Judgement, Comparison) {
        let thresholds = Thresholds::parse("t.toml", thresholds).unwrap();
        let reports = [
            ("a".to_owned(), base.clone()),
            ("b".to_owned(), other.clone()),
        ];
        let mut terms = Terms::default();
        thresholds.apply(&reports, &mut terms).unwrap();
        let comparison = compare(&reports, &terms);
        (judge(&comparison, base, other, &thresholds), comparison)
    }

    fn gate(base: &Report, other: &Report, thresholds: &str) -> (Gate, String) {
        let (judgement, _) = judged(base, other, thresholds);
        (judgement.gate, judgement.reason)
    }

    fn findings(base: &Report, other: &Report, thresholds: &str) -> Vec<Finding> {
        let (judgement, _) = judged(base, other, thresholds);
        judgement
            .findings
            .iter()
            .map(|found| found.finding)
            .collect()
    }

    #[test]
    fn a_gate_stops_what_is_slower_and_says_where_it_cannot_tell() {
        let base = report(&[1.0]);
        assert_eq!(gate(&base, &report(&[1.0]), "").0, Gate::Passed);
        assert_eq!(gate(&base, &report(&[0.9]), "").0, Gate::Passed);
        let (verdict, line) = gate(&base, &report(&[1.1]), "");
        assert_eq!(verdict, Gate::Regressed);
        assert!(line.contains("1 of 1") && line.contains(ONE), "{line}");
        let (verdict, line) = gate(&base, &report(&[1.01]), "");
        assert_eq!(verdict, Gate::Unclear);
        assert!(line.contains("1 ambiguous"), "{line}");
        assert!(line.contains("tie band"), "{line}");
        assert_eq!(gate(&base, &report(&[]), "").0, Gate::Unclear);
        // What only the candidate has is nobody's regression.
        let mut more = report(&[1.0, 1.0]);
        assert_eq!(gate(&base, &more, "").0, Gate::Passed);
        lose(&mut more, 0);
        let (verdict, line) = gate(&report(&[1.0, 1.0]), &more, "");
        assert_eq!(verdict, Gate::Unclear);
        assert!(line.contains("1 lost") && line.contains("it broke"));
        // What the baseline could not measure either is asked of nobody.
        let mut neither = report(&[1.0, 1.0]);
        lose(&mut neither, 0);
        assert_eq!(gate(&neither, &more, "").0, Gate::Passed);
        assert_eq!(
            findings(&neither, &more, ""),
            [Finding::NotAsked, Finding::Passed]
        );
    }

    #[test]
    fn what_is_faster_or_the_same_passes_though_nobody_can_tell_which() {
        // One per cent faster: the interval crosses the far edge of the tie band.
        let (judgement, comparison) = judged(&report(&[1.0]), &report(&[1.0 / 1.01]), "");
        assert_eq!(comparison.cases[0].verdict, Verdict::Ambiguous);
        assert_eq!(judgement.gate, Gate::Passed);
    }

    #[test]
    fn a_rule_of_a_case_goes_before_the_default_and_a_later_one_before_an_earlier() {
        let (base, other) = (report(&[1.0, 1.0]), report(&[1.1, 1.1]));
        let thresholds = "
            [default]
            slower_percent = 2
            [[case]]
            filter = 'm1_'
            slower_percent = 5
            [[case]]
            filter = '^matmul/m1_'
            slower_percent = 20";
        assert_eq!(
            findings(&base, &other, thresholds),
            [Finding::Passed, Finding::Slower]
        );
        let (_, comparison) = judged(&base, &other, thresholds);
        let ties: Vec<_> = comparison.cases.iter().map(|case| case.tie_width).collect();
        assert_eq!(ties, [Some(0.2), Some(0.02)]);
    }

    #[test]
    fn a_case_left_out_is_listed_and_asked_nothing() {
        let thresholds = "[[case]]\nfilter = 'm1_'\nignore = true";
        let (base, other) = (report(&[1.0, 1.0]), report(&[9.0, 1.0]));
        assert_eq!(gate(&base, &other, "").0, Gate::Regressed);
        assert_eq!(gate(&base, &other, thresholds).0, Gate::Passed);
        assert_eq!(
            findings(&base, &other, thresholds),
            [Finding::Passed, Finding::LeftOut]
        );
    }

    #[test]
    fn losing_a_required_case_fails_the_gate_whether_or_not_the_baseline_had_it() {
        let thresholds = "[[case]]\nfilter = 'm1_'\nrequired = true";
        let base = report(&[1.0, 1.0]);
        let mut other = base.clone();
        lose(&mut other, 0);
        assert_eq!(gate(&base, &other, "").0, Gate::Unclear);
        let (verdict, line) = gate(&base, &other, thresholds);
        assert_eq!(verdict, Gate::Regressed);
        assert!(line.contains("1 required and lost") && line.contains("it broke"));
        let mut neither = base.clone();
        lose(&mut neither, 0);
        assert_eq!(gate(&neither, &other, "").0, Gate::Passed);
        assert_eq!(gate(&neither, &other, thresholds).0, Gate::Regressed);
        assert_eq!(gate(&base, &base, thresholds).0, Gate::Passed);
    }

    #[test]
    fn a_floor_fails_only_what_lies_below_it_with_its_whole_interval() {
        let base = report(&[1.0]);
        let floor = |fraction: f64, process_medians: &[f64]| {
            let mut other = base.clone();
            let outcome = &mut other.outcomes[0];
            outcome.roofline_time_s = Some(fraction);
            outcome.fraction_of_ceiling = Some(fraction);
            outcome.time_s.as_mut().unwrap().process_medians = process_medians.to_vec();
            gate(
                &base,
                &other,
                "[[case]]\nfilter = '.'\nfraction_of_ceiling_min = 0.5\nslower_percent = 100",
            )
        };
        assert_eq!(floor(0.6, &STEADY).0, Gate::Passed);
        let (verdict, line) = floor(0.4, &STEADY);
        assert_eq!(verdict, Gate::Regressed);
        assert!(
            line.contains("1 below the floor") && line.contains("0.400"),
            "{line}"
        );
        // One process, and 5 % assumed between them.
        for near in [0.49, 0.51] {
            let (verdict, line) = floor(near, &[]);
            assert_eq!(verdict, Gate::Unclear);
            assert!(line.contains("at least 0.5 asked"), "{line}");
        }
        assert_eq!(floor(0.4, &[]).0, Gate::Regressed);
        // One process, 5 % assumed, and two of these below: one of forty such cases is by chance. Forty others
        // that pass by far make it no likelier to be more than that.
        let rules = "[[case]]\nfilter = '.'\nfraction_of_ceiling_min = 0.5\nslower_percent = 100";
        let among = |passing: usize| {
            let base = report(&vec![1.0; passing + 1]);
            let mut other = base.clone();
            for (index, outcome) in other.outcomes.iter_mut().enumerate() {
                let fraction = if index == 0 { 0.45 } else { 0.9 };
                outcome.roofline_time_s = Some(fraction);
                outcome.fraction_of_ceiling = Some(fraction);
                outcome.time_s.as_mut().unwrap().process_medians.clear();
            }
            gate(&base, &other, rules).0
        };
        assert_eq!((among(0), among(40)), (Gate::Regressed, Gate::Unclear));
        let without = "[default]\nfraction_of_ceiling_min = 0.5";
        let (verdict, line) = gate(&base, &base, without);
        assert_eq!(verdict, Gate::Unclear);
        assert!(line.contains("no fraction of a ceiling"), "{line}");
    }

    #[test]
    fn bad_thresholds_are_refused_by_file_field_and_remedy() {
        for (text, needles) in [
            ("[default]\nslower = 2", &["slower", "slower_percent"][..]),
            ("[defaults]", &["defaults"]),
            ("[[case]]\nslower_percent = 2", &["filter"]),
            (
                "[default]\nslower_percent = -1",
                &["[default]", "slower_percent is -1", "above 0"],
            ),
            ("[default]\nslower_percent = nan", &["NaN"]),
            ("[default]\nslower_percent = 1e9", &["at most 1000"]),
            ("[default]\nslower_percent = '2'", &["slower_percent"]),
            (
                "[[case]]\nfilter = 'a'\nrequired = true\n[[case]]\nfilter = 'b'\nfraction_of_ceiling_min = 80",
                &["[[case]] 2", "fraction_of_ceiling_min is 80", "at most 1"],
            ),
            (
                "[[case]]\nfilter = '('\nignore = true",
                &["[[case]] 1", "unclosed"],
            ),
            ("[[case]]\nfilter = 'a'", &["asks for nothing", "ignore"]),
            (
                "[[case]]\nfilter = 'a'\nignore = true\nrequired = true",
                &["left out", "remove"],
            ),
        ] {
            let complaint = Thresholds::parse("t.toml", text).unwrap_err().message;
            assert!(complaint.starts_with("--thresholds t.toml: "));
            assert!(!complaint.contains('\n'), "{complaint}");
            for needle in needles {
                assert!(complaint.contains(needle), "{needle} is not in {complaint}");
            }
        }
        let idle = Thresholds::parse("t.toml", "[[case]]\nfilter = '^conv'\nignore = true");
        let reports = [("a".to_owned(), report(&[1.0]))];
        let complaint = idle.unwrap().apply(&reports, &mut Terms::default());
        assert!(
            complaint
                .unwrap_err()
                .message
                .contains("[[case]] 1, filter '^conv': it matches no case")
        );
    }

    #[test]
    fn the_findings_as_xml_are_escaped_and_counted_by_kind() {
        let base = report(&[1.0; 5]);
        let mut other = report(&[1.0, 2.0, 1.01, 1.0, 1.0]);
        lose(&mut other, 3);
        other.outcomes[3].reason = Some("a < b & \"c\" \u{1b}[31mred\u{0}".to_owned());
        let (judgement, comparison) =
            judged(&base, &other, "[[case]]\nfilter = 'm5'\nignore = true");
        let text = judgement.junit(&comparison).unwrap();
        let read = quick_junit::Report::deserialize_from_str(&text).unwrap();
        let [suite] = &read.test_suites[..] else {
            panic!("{text}")
        };
        assert_eq!((suite.tests, suite.failures, suite.errors), (5, 1, 1));
        assert!(text.contains("skipped=\"2\""), "{text}");
        assert!(text.contains("a &lt; b &amp; &quot;c&quot; red"), "{text}");
        assert!(text.contains("<failure message=\"takes 100 % longer, 1 % allowed\""));
        assert!(text.contains("the interval crosses the edge of the tie band"));
    }
}
