//! Whether the figures of a report follow from one another, as they do in every report that a run has
//! written: who edits one figure has to edit all that come from it.
//!
//! This shows mistakes and clumsy edits, not a forger who computes them all; for that there are
//! signatures. What a chip can do at all is another question, and asked elsewhere.

use std::collections::BTreeSet;

use crate::catalogue::kernels;
use crate::normalise;
use crate::op::transfer::CHAIN_LAUNCHES;
use crate::op::{Case, OpName};
use crate::report::{Outcome, OutcomeStatus, Report, Times, Verification};
use crate::stats::Summary;

/// Figures that follow from others by a few operations differ by no more than this, relative.
const ROUNDING: f64 = 1e-9;

/// Everything in the report that contradicts something else in it, one line each, with both figures.
#[must_use]
pub fn violations(report: &Report) -> Vec<String> {
    let mut found = Found::default();
    let independent = samples_are_independent(&report.schema_version);
    origin(report, &mut found);
    for outcome in &report.outcomes {
        work(outcome, &mut found);
        if let Some(times) = &outcome.time_s {
            time(&place(outcome), "time_s", times, independent, &mut found);
            rates(outcome, times, report, &mut found);
        }
        if outcome.status == OutcomeStatus::Measured {
            evidence(outcome, &mut found);
        }
    }
    ceilings(report, &mut found);
    rooflines(report, &mut found);
    found.0
}

/// Where the search has failed: cases of which a kernel was chosen although a simpler one of the
/// catalogue, tried at the same size, took less time than the whole interval of the chosen one. No
/// elaborate kernel should ever be slower than one that it was made to replace. Such a report is no
/// forgery: looks are short, and a machine may have had other work when the last word was spoken.
#[must_use]
pub fn slower_than_simpler(outcomes: &[Outcome]) -> Vec<String> {
    // Within an op the catalogue goes from the plainest kernel to the most elaborate.
    let order: Vec<String> = kernels().into_iter().map(|k| k.name.into_owned()).collect();
    let place_of = |name: &str| order.iter().position(|kernel| kernel == name);
    let mut found = Vec::new();
    for outcome in outcomes {
        let (Some(times), Some(chosen)) = (&outcome.time_s, &outcome.kernel) else {
            continue;
        };
        let Some(chosen_place) = place_of(chosen).filter(|_| !outcome.op.is_probe()) else {
            continue;
        };
        let simpler = outcome
            .tried
            .iter()
            .filter(|tried| tried.status == "timed" && tried.at_case_id.is_none())
            .filter(|tried| place_of(&tried.kernel).is_some_and(|place| place < chosen_place))
            .filter_map(|tried| Some((&tried.kernel, tried.time_s_median?)))
            .filter(|(_, time_s)| *time_s < times.ci95_low)
            .min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((kernel, time_s)) = simpler {
            found.push(format!(
                "{}: {chosen} was chosen and took {:.3e} s ({:.3e} at least), but {kernel}, which is simpler, took {time_s:.3e} s when it was tried",
                place(outcome),
                times.median,
                times.ci95_low
            ));
        }
    }
    found
}

#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn add(&mut self, place: &str, what: String) {
        self.0.push(format!("{place}: {what}"));
    }

    /// Notes a figure that is not what it follows from.
    fn equal(&mut self, place: &str, field: &str, stated: f64, follows: f64, from: &str) {
        if !near(stated, follows) {
            self.add(
                place,
                format!("{field} is {stated:e}, but {from} is {follows:e}"),
            );
        }
    }

    fn equal_count(&mut self, place: &str, field: &str, stated: u64, follows: u64, from: &str) {
        if stated != follows {
            self.add(
                place,
                format!("{field} is {stated}, but {from} is {follows}"),
            );
        }
    }

    fn equal_text(&mut self, place: &str, field: &str, stated: &str, follows: &str, from: &str) {
        if stated != follows {
            self.add(
                place,
                format!("{field} is {stated:?}, but {from} is {follows:?}"),
            );
        }
    }
}

fn near(stated: f64, follows: f64) -> bool {
    (stated - follows).abs() <= ROUNDING * stated.abs().max(follows.abs())
}

fn place(outcome: &Outcome) -> String {
    format!("outcome {} ({})", outcome.case_id, outcome.runner)
}

/// What a report must tell of where it comes from, and that no case stands there twice.
fn origin(report: &Report, found: &mut Found) {
    let suite = &report.suite;
    if suite.name.is_empty() {
        found.add("suite", "name is empty".to_owned());
    }
    let digits = suite.sha256.chars().filter(char::is_ascii_hexdigit).count();
    if digits != 64 || suite.sha256.len() != 64 {
        found.add(
            "suite",
            format!(
                "sha256 has {digits} hexadecimal digits of {}, but a SHA-256 has 64 of 64",
                suite.sha256.len()
            ),
        );
    }
    if let Some(first) = report.runners.first() {
        found.equal_text(
            "device",
            "name",
            &report.device.name,
            &first.device.name,
            "that of the first runner",
        );
    }
    let there: BTreeSet<&str> = report
        .runners
        .iter()
        .map(|record| record.runner.name.as_str())
        .collect();
    let mut seen = BTreeSet::new();
    for outcome in &report.outcomes {
        if !seen.insert((&outcome.case_id, &outcome.runner)) {
            found.add(&place(outcome), "it stands there twice".to_owned());
        }
        if outcome.status == OutcomeStatus::Measured && !there.contains(outcome.runner.as_str()) {
            found.add(
                &place(outcome),
                format!(
                    "it is measured by {}, but the runners are {}",
                    outcome.runner,
                    there.iter().copied().collect::<Vec<_>>().join(", ")
                ),
            );
        }
    }
}

/// What the case itself says of its name and its work.
fn work(outcome: &Outcome, found: &mut Found) {
    let place = place(outcome);
    let case = match Case::new(outcome.op, &outcome.shape, outcome.dtype) {
        Ok(case) => case,
        Err(error) => return found.add(&place, format!("shape: {error}")),
    };
    let from = "that of op, shape and dtype";
    found.equal_text(&place, "case_id", &outcome.case_id, &case.id(), from);
    found.equal_text(
        &place,
        "accumulator",
        &outcome.accumulator,
        case.dtype.accumulator(),
        from,
    );
    found.equal_count(
        &place,
        "flop_count",
        outcome.flop_count,
        case.flop_count(),
        from,
    );
    found.equal_count(
        &place,
        "bytes_min",
        outcome.bytes_min,
        case.bytes_min(),
        from,
    );
}

/// Whether intervals of this version of reports took all samples for independent.
fn samples_are_independent(schema_version: &str) -> bool {
    let minor = schema_version.split('.').nth(1);
    minor.and_then(|minor| minor.parse::<u32>().ok()) < Some(8)
}

/// The order statistics of the samples, which count as `independent` or not.
fn time(place: &str, field: &str, times: &Times, independent: bool, found: &mut Found) {
    let summary = if independent {
        Summary::of_independent(&times.samples)
    } else {
        Summary::of(&times.samples)
    };
    let Some(summary) = summary else {
        return found.add(
            place,
            format!(
                "{field}.samples has {} finite numbers of {}, but a median needs one, and no other",
                times.samples.iter().filter(|s| s.is_finite()).count(),
                times.samples.len()
            ),
        );
    };
    for (name, stated, follows) in [
        ("median", times.median, summary.median),
        ("ci95_low", times.ci95_low, summary.ci95_low),
        ("ci95_high", times.ci95_high, summary.ci95_high),
        ("min", times.min, summary.min),
        ("max", times.max, summary.max),
        ("q1", times.q1, summary.q1),
        ("q3", times.q3, summary.q3),
    ] {
        let field = format!("{field}.{name}");
        found.equal(place, &field, stated, follows, "that of the samples");
    }
    let turn_count = times.turn_ratios.len();
    if turn_count != 0 && turn_count != times.process_medians.len() {
        found.add(
            place,
            format!(
                "{field}.turn_ratios has {turn_count} values for {} processes",
                times.process_medians.len()
            ),
        );
    }
    if times.turn_ratios.iter().any(|ratio| *ratio <= 0.0) {
        found.add(
            place,
            format!("{field}.turn_ratios has one that is not above zero"),
        );
    }
    if let Some(&first) = times.process_medians.first() {
        found.equal(
            place,
            &format!("{field}.process_medians[0]"),
            first,
            times.median,
            "the median",
        );
    }
}

/// What follows from the median.
#[allow(clippy::cast_precision_loss)]
fn rates(outcome: &Outcome, times: &Times, report: &Report, found: &mut Found) {
    let place = place(outcome);
    for (field, stated, amount) in [
        (
            "flops_per_second",
            outcome.flops_per_second,
            outcome.flop_count,
        ),
        (
            "bytes_per_second",
            outcome.bytes_per_second,
            outcome.bytes_min,
        ),
    ] {
        if let Some(stated) = stated {
            let from = "the count over the median";
            found.equal(&place, field, stated, amount as f64 / times.median, from);
        }
    }
    if let (Some(fraction), Some(roofline_s)) =
        (outcome.fraction_of_ceiling, outcome.roofline_time_s)
    {
        found.equal(
            &place,
            "fraction_of_ceiling",
            fraction,
            roofline_s / times.median,
            "roofline_time_s over the median",
        );
    }
    if let (Some(stated), Some(energy)) = (outcome.joules_per_flop, &outcome.energy) {
        found.equal(
            &place,
            "joules_per_flop",
            stated,
            energy.joules / outcome.flop_count as f64,
            "energy.joules over flop_count",
        );
    }
    if let (Some(stated), Some(energy)) = (outcome.joules_per_byte, &outcome.energy) {
        found.equal(
            &place,
            "joules_per_byte",
            stated,
            energy.joules / outcome.bytes_min as f64,
            "energy.joules over bytes_min",
        );
    }
    if let Some(energy) = &outcome.energy
        && energy.cache() != "hot"
        && !outcome.regimes.iter().any(|r| r.cache == energy.cache())
    {
        let cache = energy.cache();
        found.add(
            &place,
            format!("energy.cache is {cache:?}, but no regime is"),
        );
    }
    for (number, regime) in (0..).zip(&outcome.regimes) {
        time(
            &place,
            &format!("regimes[{number}].time_s"),
            &regime.time_s,
            samples_are_independent(&report.schema_version),
            found,
        );
        found.equal(
            &place,
            &format!("regimes[{number}].time_ratio"),
            regime.time_ratio,
            regime.time_s.median / times.median,
            "its median over the headline's",
        );
    }
    if let Some(gap) = &outcome.gap {
        let other = report
            .outcomes
            .iter()
            .find(|other| other.case_id == outcome.case_id && other.runner == gap.runner)
            .and_then(|other| other.time_s.as_ref());
        match other {
            Some(other) => found.equal(
                &place,
                "gap.time_ratio",
                gap.time_ratio,
                times.median / other.median,
                "the ratio of the medians",
            ),
            None => found.add(
                &place,
                format!(
                    "gap.runner is {}, but it has no time for this case",
                    gap.runner
                ),
            ),
        }
    }
}

/// That what counts as measured was found right.
fn evidence(outcome: &Outcome, found: &mut Found) {
    let mut checks: Vec<(String, &Verification)> = Vec::new();
    checks.extend(
        outcome
            .verification
            .iter()
            .map(|check| ("verification".to_owned(), check)),
    );
    checks.extend(
        outcome
            .verification_exact
            .iter()
            .map(|check| ("verification_exact".to_owned(), check)),
    );
    let regimes = (0..).zip(&outcome.regimes);
    checks.extend(regimes.map(|(number, regime)| {
        (
            format!("regimes[{number}].verification"),
            &regime.verification,
        )
    }));
    for (field, check) in checks {
        let ratio = check.error_to_tolerance_max;
        if !(0.0..=1.0).contains(&ratio) {
            found.add(
                &place(outcome),
                format!(
                    "{field}.error_to_tolerance_max is {ratio}, but what is right has from 0 to 1"
                ),
            );
        }
        if check.positions_checked == 0 && check.rows_checked == 0 {
            found.add(
                &place(outcome),
                format!("{field}: positions_checked and rows_checked are 0, so nothing was"),
            );
        }
    }
}

/// That ceilings are the rates of the cases they name. In a race they are those of the fastest
/// process, elsewhere those of the median.
#[allow(clippy::cast_precision_loss)]
fn ceilings(report: &Report, found: &mut Found) {
    for ceiling in &report.ceilings {
        let place = format!("ceiling {} ({})", ceiling.name, ceiling.runner);
        let outcome = report
            .outcomes
            .iter()
            .find(|o| o.case_id == ceiling.case_id && o.runner == ceiling.runner);
        let Some((outcome, times)) = outcome.and_then(|o| Some((o, o.time_s.as_ref()?))) else {
            found.add(&place, format!("its case {} has no time", ceiling.case_id));
            continue;
        };
        let value = |median: f64| match (ceiling.unit.as_str(), outcome.op) {
            ("s", OpName::Chain) => median / f64::from(CHAIN_LAUNCHES),
            ("s", _) => median,
            ("bytes_per_s", _) => outcome.bytes_min as f64 / median,
            _ => outcome.flop_count as f64 / median,
        };
        let fastest = times.process_medians.iter().copied();
        let fastest = value(fastest.fold(times.median, f64::min));
        let raced = report.interleave_id.is_some() && near(ceiling.value, fastest);
        if !raced {
            found.equal(
                &place,
                "value",
                ceiling.value,
                value(times.median),
                &format!("the figure of {}", ceiling.case_id),
            );
        }
    }
}

/// That rooflines follow from the ceilings, and that nothing that counts as measured lies beyond what
/// a run would have believed.
#[allow(clippy::cast_precision_loss)]
fn rooflines(report: &Report, found: &mut Found) {
    for outcome in &report.outcomes {
        let (Some(roofline_s), Some(bound)) = (outcome.roofline_time_s, &outcome.roofline_bound)
        else {
            continue;
        };
        let ceiling = report
            .ceilings
            .iter()
            .find(|ceiling| ceiling.name == *bound && ceiling.runner == outcome.runner);
        match ceiling {
            Some(ceiling) => {
                let amount = if ceiling.unit == "bytes_per_s" {
                    outcome.bytes_min
                } else {
                    outcome.flop_count
                };
                found.equal(
                    &place(outcome),
                    "roofline_time_s",
                    roofline_s,
                    amount as f64 / ceiling.value,
                    &format!("its work over {bound}"),
                );
            }
            None => found.add(
                &place(outcome),
                format!("roofline_bound is {bound}, but there is no such ceiling"),
            ),
        }
    }
    let mut judged = report.outcomes.clone();
    normalise::set_fractions(&mut judged, &report.ceilings);
    for (outcome, judged) in report.outcomes.iter().zip(judged) {
        if outcome.status == OutcomeStatus::Measured && judged.status != outcome.status {
            let reason = judged.reason.unwrap_or_default();
            found.add(&place(outcome), format!("it is measured, but {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Dtype, Shape};
    use crate::protocol::{Device, RunnerInfo, Timer};
    use crate::report::{Energy, Regime, RunnerRecord, Tried, empty, unmeasured};

    fn verification() -> Verification {
        Verification {
            method: String::new(),
            data: "uniform".to_owned(),
            exact: false,
            max_error: 0.0,
            rms_error: 0.0,
            tolerance: 1.0,
            error_to_tolerance_max: 0.5,
            positions_checked: 4,
            rows_checked: 4,
            challenge_seed: 1,
        }
    }

    fn times(median: f64) -> Times {
        let samples: Vec<f64> = [0.9, 1.0, 1.1, 1.05, 0.95, 1.0, 1.0]
            .map(|factor| factor * median)
            .to_vec();
        let summary = Summary::of(&samples).unwrap();
        Times {
            median: summary.median,
            ci95_low: summary.ci95_low,
            ci95_high: summary.ci95_high,
            min: summary.min,
            max: summary.max,
            q1: summary.q1,
            q3: summary.q3,
            samples,
            process_medians: vec![summary.median, 1.01 * median],
            ..Times::default()
        }
    }

    fn outcome(op: OpName, sizes: &[(&str, u64)], median: f64) -> Outcome {
        let case = Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.time_s = Some(times(median));
        outcome.verification = Some(verification());
        normalise::set_rates(&mut outcome);
        outcome
    }

    /// A report as a run would write it: two probes and a product.
    fn whole() -> Report {
        let mut report = empty();
        report.suite.sha256 = "a1".repeat(32);
        report.runners = vec![RunnerRecord {
            runner: RunnerInfo {
                name: "wgpu".to_owned(),
                version: "1".to_owned(),
            },
            device: Device::default(),
            timer: Timer {
                clock: "device".to_owned(),
                quantum_s: 1e-9,
                period_s: None,
                note: None,
            },
        }];
        let mut product = outcome(OpName::Matmul, &[("m", 64), ("n", 64), ("k", 64)], 2e-2);
        product.regimes.push(Regime {
            cache: "cold".to_owned(),
            data: "uniform".to_owned(),
            set_count: 2,
            time_s: times(4e-2),
            time_ratio: 2.0,
            differs: true,
            not_converged: None,
            verification: verification(),
        });
        product.energy = Some(Energy {
            joules: 0.5,
            window_s: 2.0,
            cache: Some("cold".to_owned()),
            ..Energy::default()
        });
        let mut copy = outcome(OpName::Copy, &[("n", 1 << 20)], 1e-3);
        copy.energy = Some(Energy {
            joules: 0.1,
            window_s: 2.0,
            ..Energy::default()
        });
        for outcome in [&mut product, &mut copy] {
            normalise::set_rates(outcome);
        }
        report.outcomes = vec![
            outcome(OpName::Fma, &[("invocations", 1000), ("steps", 10)], 1e-2),
            copy,
            outcome(OpName::Chain, &[("n", 1)], 32e-6),
            product,
        ];
        report.ceilings = normalise::ceilings(&report.outcomes, "wgpu", None);
        normalise::set_fractions(&mut report.outcomes, &report.ceilings);
        report
    }

    #[test]
    fn a_report_of_a_run_contradicts_itself_nowhere() {
        let report = whole();
        assert_eq!(report.ceilings.len(), 3);
        assert!(report.outcomes[3].fraction_of_ceiling.is_some());
        assert_eq!(violations(&report), [""; 0]);
    }

    #[test]
    fn a_simpler_kernel_that_was_faster_when_tried_is_named_with_both_times() {
        let tried = |kernel: &str, time_s: f64, at: Option<&str>| Tried {
            kernel: kernel.to_owned(),
            variant: Default::default(),
            status: "timed".to_owned(),
            time_s_median: Some(time_s),
            at_case_id: at.map(str::to_owned),
            compile_s: None,
            reason: None,
        };
        let mut product = outcome(OpName::Matmul, &[("m", 64), ("n", 64), ("k", 64)], 2e-2);
        product.kernel = Some("matmul/register_tile".to_owned());
        let fair = [
            tried("matmul/naive", 3e-2, None),
            // Another size, and a kernel that is no simpler.
            tried("matmul/naive", 1e-3, Some("matmul/m8_n8_k8/f32")),
            tried("matmul/subgroup_panel", 1e-2, None),
            tried("matmul/register_tile", 1e-2, None),
        ];
        product.tried = fair.to_vec();
        assert_eq!(slower_than_simpler(&[product.clone()]), [""; 0]);
        product
            .tried
            .push(tried("matmul/workgroup_tile", 1e-2, None));
        let found = slower_than_simpler(&[product]);
        assert_eq!(found.len(), 1);
        for part in [
            "register_tile was chosen and took 2.000e-2",
            "workgroup_tile",
            "1.000e-2",
        ] {
            assert!(found[0].contains(part), "{found:?}");
        }
    }

    #[test]
    fn a_race_takes_its_ceilings_from_the_fastest_process() {
        let mut report = whole();
        let times = report.outcomes[2].time_s.as_mut().unwrap();
        times.process_medians[1] = 0.5 * times.median;
        report.ceilings[2].value *= 0.5;
        assert_eq!(violations(&report).len(), 1);
        report.interleave_id = Some("x".to_owned());
        assert_eq!(violations(&report), [""; 0]);
    }

    type Forgery = fn(&mut Report);

    #[test]
    fn every_figure_that_is_changed_alone_is_found_by_outcome_and_field() {
        let forgeries: [(Forgery, &str); 28] = [
            (|r| r.suite.sha256 = "a1".to_owned(), "suite: sha256"),
            (|r| r.suite.name.clear(), "suite: name"),
            (|r| r.device.name = "Better".to_owned(), "device: name"),
            (
                |r| r.runners[0].runner.name = "x".to_owned(),
                "measured by wgpu",
            ),
            (|r| r.outcomes.push(r.outcomes[3].clone()), "twice"),
            (
                |r| r.outcomes[3].flop_count *= 2,
                "flop_count is 1048576, but that of op",
            ),
            (|r| r.outcomes[3].bytes_min += 1, "bytes_min"),
            (
                |r| r.outcomes[3].accumulator = "f16".to_owned(),
                "accumulator",
            ),
            (
                |r| {
                    r.outcomes[3].shape.0.insert("m".to_owned(), 65);
                },
                "case_id",
            ),
            (
                |r| {
                    r.outcomes[3].shape.0.remove("m");
                },
                "shape: ",
            ),
            (
                |r| r.outcomes[3].time_s.as_mut().unwrap().median *= 0.999,
                "time_s.median",
            ),
            (
                |r| r.outcomes[3].time_s.as_mut().unwrap().q1 *= 0.999,
                "time_s.q1",
            ),
            (
                |r| r.outcomes[3].time_s.as_mut().unwrap().samples.clear(),
                "time_s.samples",
            ),
            (
                |r| r.outcomes[3].time_s.as_mut().unwrap().process_medians[0] *= 0.5,
                "process_medians[0]",
            ),
            (
                |r| r.outcomes[3].time_s.as_mut().unwrap().turn_ratios = vec![1.0; 3],
                "turn_ratios has 3 values for 2 processes",
            ),
            (
                |r| r.outcomes[3].time_s.as_mut().unwrap().turn_ratios = vec![1.0, -1.0],
                "turn_ratios has one that is not above zero",
            ),
            (
                |r| r.outcomes[3].flops_per_second = Some(1e9),
                "flops_per_second is 1e9, but the count over the median is 2.62144e7",
            ),
            (
                |r| r.outcomes[3].joules_per_flop = Some(1.0),
                "joules_per_flop",
            ),
            (
                |r| r.outcomes[1].joules_per_byte = Some(1.0),
                "joules_per_byte",
            ),
            (
                |r| r.outcomes[1].energy.as_mut().unwrap().cache = Some("cold".to_owned()),
                "energy.cache is \"cold\", but no regime is",
            ),
            (
                |r| r.outcomes[1].bytes_per_second = Some(1.0),
                "bytes_per_second",
            ),
            (
                |r| r.outcomes[3].fraction_of_ceiling = Some(0.9),
                "fraction_of_ceiling",
            ),
            (
                |r| r.outcomes[3].roofline_time_s = Some(1e-3),
                "roofline_time_s",
            ),
            (
                |r| r.outcomes[3].regimes[0].time_ratio = 1.0,
                "regimes[0].time_ratio",
            ),
            (
                |r| r.ceilings[0].value *= 2.0,
                "ceiling alu_f32 (wgpu): value",
            ),
            (
                |r| r.ceilings[2].case_id = "chain".to_owned(),
                "chain has no time",
            ),
            (
                |r| {
                    r.outcomes[3]
                        .verification
                        .as_mut()
                        .unwrap()
                        .error_to_tolerance_max = 1.5
                },
                "verification.error_to_tolerance_max is 1.5",
            ),
            (
                |r| {
                    let check = r.outcomes[3].verification.as_mut().unwrap();
                    (check.positions_checked, check.rows_checked) = (0, 0);
                },
                "nothing was",
            ),
        ];
        for (forge, needle) in forgeries {
            let mut report = whole();
            forge(&mut report);
            let found = violations(&report);
            assert!(
                found.iter().any(|line| line.contains(needle)),
                "{needle} is not in {found:?}"
            );
            assert!(found.iter().all(|line| !line.contains('\n')));
        }
    }

    #[test]
    fn a_forger_who_computes_the_rest_is_stopped_by_the_roofline() {
        let mut report = whole();
        let product = &mut report.outcomes[3];
        product.time_s = Some(times(1e-3));
        product.regimes.clear();
        product.energy = None;
        normalise::set_rates(product);
        product.fraction_of_ceiling = product.roofline_time_s.map(|s| s / 1e-3);
        let found = violations(&report);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("it is measured, but it took 1.000e-3 s"));
    }
}
