//! One case on one runner: search, check, measure, check again; then the same variant with cold
//! caches, on zero data, and over a window long enough for a counter of energy.

use std::time::Instant;

use crate::energy::energy;
use crate::input::Data;
use crate::measure::{Measurement, Policy, Trouble};
use crate::normalise;
use crate::op::{Case, Shape};
use crate::plan::RegimeName;
use crate::protocol::{Request, Response, Variant};
use crate::report::{
    self, Labels, Outcome, OutcomeStatus, Regime, SecondClock, Times, Tried, Verification,
};
use crate::runner::Fault;
use crate::telemetry::Sensors;
use crate::tune::{End, Ready, Session, Task, choose};
use crate::verify::{self, Verdict};

/// Length of the span by which an external runner's clock is compared with the conductor's.
pub const AUDIT_S_EXTERNAL: f64 = 0.25;

/// Longest time for each further regime of a case, and the least that is worth beginning with.
const REGIME_S_MAX: f64 = 1.5;
const REGIME_S_MIN: f64 = 0.4;

/// Most sets of buffers: beyond it a case is too small for its caches to be turned cold by rotation.
const SET_COUNT_MAX: u64 = 512;

/// From so many equal samples on, of so many quanta of the clock each, chance is out of the question.
const EQUAL_SAMPLES_MIN: usize = 10;
const EQUAL_QUANTA_MIN: f64 = 1e4;

/// How much longer twice the work of a probe must take at least.
const GROWTH_MIN: f64 = 1.4;

/// Probes shorter than this are mostly launch, and do not double.
const MOSTLY_LAUNCH_S: f64 = 8e-6;

/// Seconds that an energy window takes beside itself: steady work before it, steps of the counter.
const ENERGY_OVERHEAD_S: f64 = 1.5;

/// Two clocks that differ by more than this do not confirm each other.
pub const CLOCKS_DIFFER: f64 = 0.05;

/// What a case is measured under, besides the case itself.
pub struct Conditions<'a> {
    /// Seconds for the whole case.
    pub budget_s: f64,
    /// Whether kernels keep bounds checks.
    pub checks: bool,
    /// Whether the runner is one of this program's own.
    pub native: bool,
    /// The regimes the suite asks for beside the headline.
    pub regimes: &'a [RegimeName],
    /// Bytes that a rotation must cover for caches to be cold; absent where no cache is known.
    pub cold_bytes: Option<u64>,
    /// Why an outcome cannot be true, by the ceilings known so far.
    pub implausible: &'a dyn Fn(&Outcome) -> Option<String>,
    /// Length of the window that energy is counted over, in seconds; zero for none.
    pub energy_window_s: f64,
    /// The device's sensors.
    pub sensors: &'a Sensors,
    /// Seconds of one launch, where that is known.
    pub launch_s: Option<f64>,
    /// How the runner ended after the headline was measured, if it did: the outcome stands, and the
    /// runner has to be replaced.
    pub fault: Option<Fault>,
    /// Called when the final measurement begins and, with its outcome, when it has ended: for
    /// whoever watches the sensors.
    pub watch: &'a mut dyn FnMut(Moment<'_>),
}

/// What sensors are told of a case.
pub enum Moment<'a> {
    /// The final measurement begins.
    Begin,
    /// It has ended.
    End(&'a mut Outcome),
}

/// Finds the best variant of a case and measures it.
///
/// # Errors
/// When there is no number: why, in the terms of [`End`]. `tried` holds what was learnt.
pub fn measure_case(
    task: &Task<'_>,
    session: &mut Session<'_>,
    conditions: &mut Conditions<'_>,
    tried: &mut Vec<Tried>,
) -> Result<Outcome, End> {
    let started = Instant::now();
    let case = task.case;
    let ranking = choose(task, session, tried)?;
    let chosen = ranking
        .first()
        .cloned()
        .ok_or_else(|| End::Failed("no variant was chosen".to_owned()))?;

    let verification_exact = if case.exact() {
        session.case(case, task.seed, &Data::Integer)?;
        session.prepare(&chosen)?.map_err(End::Failed)?;
        Some(right(session, case, task.seed, &Data::Integer, &chosen, 0)?)
    } else {
        None
    };
    session.case(case, task.seed, &Data::Uniform)?;
    let ready = session.prepare(&chosen)?.map_err(End::Failed)?;
    right(session, case, task.seed, &Data::Uniform, &chosen, 0)?;

    let left = || conditions.budget_s - started.elapsed().as_secs_f64();
    // What comes beside the headline gets its part of the time that is left.
    #[allow(clippy::cast_precision_loss)] // two regimes
    let reserved_s = if case.op.is_probe() {
        0.0
    } else {
        (conditions.regimes.len() as f64 * REGIME_S_MAX).min(0.4 * left().max(0.0))
    };
    let mut policy = Policy::thorough(
        &session.timer,
        (left() - reserved_s).max(conditions.budget_s * 0.15),
        session.silence,
    );
    if !conditions.native {
        policy.audit_s = policy.audit_s.max(AUDIT_S_EXTERNAL);
    }
    (conditions.watch)(Moment::Begin);
    let measurement = session.measure(&policy).map_err(ended)?;
    if let Some(reason) = without_variance(&measurement, session.timer.quantum_s) {
        return Err(End::Implausible(reason));
    }
    // The very buffers that were timed, poisoned before and checked at places chosen after.
    let verification = right(session, case, task.seed, &Data::Uniform, &chosen, 0)?;

    let mut outcome = report::unmeasured(case, "", OutcomeStatus::Measured, String::new());
    outcome.reason = None;
    outcome.kernel = Some(chosen.kernel.clone());
    outcome.variant.clone_from(&chosen.variant);
    outcome.shader_sha256.clone_from(&ready.shader_sha256);
    outcome.shader_passes.clone_from(&ready.passes);
    outcome.compile_s = tried
        .iter()
        .find(|t| Some(&t.kernel) == outcome.kernel.as_ref() && t.variant == outcome.variant)
        .and_then(|t| t.compile_s);
    set_time(&mut outcome, &measurement, &ready, case, conditions.checks);
    outcome.verification = Some(verification);
    outcome.verification_exact = verification_exact;
    (conditions.watch)(Moment::End(&mut outcome));

    if let Some(reason) = (conditions.implausible)(&outcome) {
        second_opinion(
            &mut outcome,
            reason,
            &policy,
            session,
            conditions,
            &measurement,
        )?;
        right(session, case, task.seed, &Data::Uniform, &chosen, 0)?;
    }
    // The headline is there and right. What goes wrong from here on costs what it was for, and not
    // the headline, unless it shows that results are wrong.
    match besides(&mut outcome, task, session, conditions, &chosen, started) {
        Ok(()) | Err(End::Interrupted) => {}
        Err(End::Wrong(reason)) => return Err(End::Wrong(reason)),
        Err(End::Fault(fault)) => {
            outcome
                .energy_reason
                .get_or_insert_with(|| fault.message.clone());
            conditions.fault = Some(fault);
        }
        Err(End::Skipped(reason) | End::Failed(reason) | End::Implausible(reason)) => {
            outcome.energy_reason.get_or_insert(reason);
        }
    }
    Ok(outcome)
}

/// What is measured beside the headline: whether a probe's work was done, regimes and energy.
fn besides(
    outcome: &mut Outcome,
    task: &Task<'_>,
    session: &mut Session<'_>,
    conditions: &Conditions<'_>,
    chosen: &Variant,
    started: Instant,
) -> Result<(), End> {
    let case = task.case;
    let left = || conditions.budget_s - started.elapsed().as_secs_f64();
    if outcome.status == OutcomeStatus::Measured
        && let Some(shape) = case.op.op().doubled(&case.shape)
        && let Some(reason) = left_out(task, session, conditions, chosen, &shape, outcome)?
    {
        outcome.status = OutcomeStatus::Implausible;
        outcome.reason = Some(reason);
    }
    if outcome.status == OutcomeStatus::Measured && !case.op.is_probe() {
        for &regime in conditions.regimes {
            let time_s_max = left().min(REGIME_S_MAX);
            if time_s_max < REGIME_S_MIN {
                break;
            }
            match regime_of(
                task, session, conditions, chosen, outcome, regime, time_s_max,
            ) {
                Ok(found) => outcome.regimes.extend(found),
                Err(End::Failed(_) | End::Implausible(_) | End::Skipped(_)) => {}
                Err(end) => return Err(end),
            }
        }
    }
    if outcome.status == OutcomeStatus::Measured {
        count_energy(outcome, task, session, conditions, chosen, left())?;
    }
    Ok(())
}

/// Joules of a call over a window of steady work, or the reason why there are none.
fn count_energy(
    outcome: &mut Outcome,
    task: &Task<'_>,
    session: &mut Session<'_>,
    conditions: &Conditions<'_>,
    chosen: &Variant,
    left_s: f64,
) -> Result<(), End> {
    let case = task.case;
    let window_s = conditions.energy_window_s;
    let clock_is_host = session.clock.is_some();
    outcome.energy_reason = if let Some(reason) = conditions.sensors.energy_absent() {
        Some(reason)
    } else if window_s == 0.0 {
        Some("this suite takes no energy windows".to_owned())
    } else if case.op.is_probe() && case.flop_count() == 0 || clock_is_host {
        Some("energy is counted for arithmetic only".to_owned())
    } else if left_s < window_s + ENERGY_OVERHEAD_S {
        Some(format!(
            "the case had {left_s:.1} s left; a window of {window_s} s needs {ENERGY_OVERHEAD_S} s more than itself"
        ))
    } else {
        None
    };
    let (None, Some(times)) = (&outcome.energy_reason, &outcome.time_s) else {
        return Ok(());
    };
    let (call_s, repeat_count) = (times.host_median, times.repeat_count);
    let span_s = (call_s * f64::from(repeat_count)).max(1e-6);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 250
    let sample_count = (0.25 / span_s).clamp(1.0, 250.0) as u32;
    session.case(case, task.seed, &Data::Uniform)?;
    session.prepare(chosen)?.map_err(End::Failed)?;
    let counted = energy(conditions.sensors, window_s, |least_s| {
        let begun = Instant::now();
        let mut call_count = 0;
        while begun.elapsed().as_secs_f64() < least_s {
            if (session.interrupted)() {
                return Err(End::Interrupted);
            }
            let request = Request::Measure {
                repeat_count,
                sample_count,
                poison: false,
            };
            match session.runner.ask(&request, session.silence)? {
                Response::Samples { samples } => {
                    call_count += samples
                        .iter()
                        .map(|span| u64::from(span.repeat_count))
                        .sum::<u64>();
                }
                Response::Error { message, .. } => return Err(End::Failed(message)),
                _ => {
                    return Err(End::Failed(
                        "the runner answered a measurement with something else".to_owned(),
                    ));
                }
            }
        }
        Ok(call_count)
    })?;
    match counted {
        Ok(counted) => {
            // What was counted was the work that is claimed.
            right(session, case, task.seed, &Data::Uniform, chosen, 0)?;
            outcome.energy = Some(counted);
            normalise::set_rates(outcome);
        }
        Err(reason) => outcome.energy_reason = Some(reason),
    }
    Ok(())
}

/// The outcome's figures from a measurement.
pub fn set_time(
    outcome: &mut Outcome,
    measurement: &Measurement,
    ready: &Ready,
    case: &Case,
    checks: bool,
) {
    outcome.labels = Some(Labels {
        engine: ready.engine.clone(),
        timer: measurement.clock.to_owned(),
        cache: "hot".to_owned(),
        data: case.data_label(&Data::Uniform).to_owned(),
        checks: if checks { "on" } else { "off" }.to_owned(),
        output: ready.output.map(|element| element.label().to_owned()),
    });
    outcome.time_s = Some(times(measurement));
    outcome.stop_reason = Some(measurement.stop_reason.to_owned());
    outcome.not_converged.clone_from(&measurement.not_converged);
    outcome.clock_note.clone_from(&measurement.clock_note);
    normalise::set_rates(outcome);
}

/// What a report says of a measurement's time.
#[must_use]
pub fn times(measurement: &Measurement) -> Times {
    let summary = measurement.summary;
    Times {
        median: summary.median,
        ci95_low: summary.ci95_low,
        ci95_high: summary.ci95_high,
        min: summary.min,
        max: summary.max,
        q1: summary.q1,
        q3: summary.q3,
        samples: measurement.samples.clone(),
        repeat_count: measurement.repeat_count,
        host_median: measurement.host_s_median,
        invalid_count: measurement.invalid_count,
        submit_median: measurement.submit_s_median,
        burst_median: measurement.burst_s_median,
        process_medians: Vec::new(),
        process_minima: Vec::new(),
        turn_ratios: Vec::new(),
    }
}

/// Turns what went wrong with a measurement into the end of its case.
#[must_use]
pub fn ended(trouble: Trouble) -> End {
    match trouble {
        Trouble::Fault(fault) => End::Fault(fault),
        Trouble::Refused(reason) => End::Failed(reason),
        Trouble::Untrue(reason) => End::Implausible(reason),
    }
}

/// Checks the output of a set of buffers as it lies.
///
/// # Errors
/// [`End::Wrong`] where it is wrong, others as the runner ends.
pub fn right(
    session: &mut Session<'_>,
    case: &Case,
    seed: u32,
    data: &Data,
    variant: &Variant,
    set_index: u32,
) -> Result<Verification, End> {
    let inputs = verify::inputs(case, seed, data).map_err(|error| End::Failed(error.message))?;
    match session.verify_set(case, &inputs, data, set_index)? {
        Verdict::Right(verification) => Ok(verification),
        Verdict::Wrong(_, reason) => Err(End::Wrong(format!(
            "{variant} on {} data: {reason}",
            data.label()
        ))),
        Verdict::Refused(reason) => Err(End::Failed(reason)),
    }
}

/// A time that no device can have reached is taken again by the other clock. Where that one is
/// plausible and differs, the first clock was wrong and the second stands; where both agree, the
/// number stays implausible, with the evidence of both.
fn second_opinion(
    outcome: &mut Outcome,
    reason: String,
    policy: &Policy,
    session: &mut Session<'_>,
    conditions: &Conditions<'_>,
    first: &Measurement,
) -> Result<(), End> {
    outcome.status = OutcomeStatus::Implausible;
    outcome.reason = Some(reason);
    if first.clock == "host_slope" || first.clock == "host" {
        // The host's clock was used already; the conductor's own has confirmed its pace.
        return Ok(());
    }
    let policy = Policy {
        host_slope: true,
        span_s_min: policy.span_s_min.max(5e-3),
        time_s_max: policy.time_s_max.min(REGIME_S_MAX),
        warm_up_s_max: 0.3,
        ..*policy
    };
    let second = match session.measure(&policy) {
        Ok(second) => second,
        Err(Trouble::Fault(fault)) => return Err(End::Fault(fault)),
        Err(Trouble::Refused(_) | Trouble::Untrue(_)) => return Ok(()),
    };
    let ratio = second.summary.median / first.summary.median;
    let mut again = outcome.clone();
    again.status = OutcomeStatus::Measured;
    again.reason = None;
    again.time_s = Some(times(&second));
    normalise::set_rates(&mut again);
    let overturned =
        (ratio - 1.0).abs() > CLOCKS_DIFFER && (conditions.implausible)(&again).is_none();
    let conclusion = if overturned {
        "the first clock was wrong; this one stands".to_owned()
    } else if (ratio - 1.0).abs() > CLOCKS_DIFFER {
        "the clocks disagree, and neither time can be".to_owned()
    } else {
        "both clocks agree: the time is no fault of the clock, so work was left out or the ceiling is too low".to_owned()
    };
    let record = SecondClock {
        clock: second.clock.to_owned(),
        median_s: second.summary.median,
        ratio,
        conclusion,
    };
    if overturned {
        *outcome = again;
        if let Some(labels) = &mut outcome.labels {
            second.clock.clone_into(&mut labels.timer);
        }
        outcome.stop_reason = Some(second.stop_reason.to_owned());
        outcome.not_converged = second.not_converged;
        outcome.clock_note = Some(format!(
            "by the {} clock it took {:.3e} s, which cannot be",
            first.clock, first.summary.median
        ));
    }
    outcome.second_clock = Some(record);
    Ok(())
}

/// Why the time of a probe is not that of its work: twice the work takes hardly longer. A time that
/// is mostly launch proves nothing and is let through.
fn left_out(
    task: &Task<'_>,
    session: &mut Session<'_>,
    conditions: &Conditions<'_>,
    chosen: &Variant,
    doubled: &Shape,
    outcome: &Outcome,
) -> Result<Option<String>, End> {
    let Ok(case) = Case::new(task.case.op, doubled, task.case.dtype) else {
        return Ok(None);
    };
    // The fastest sample: what disturbed the others would make the double look short.
    let Some(mut single_s) = outcome.time_s.as_ref().map(|times| times.min) else {
        return Ok(None);
    };
    match session.case(&case, task.seed, &Data::Uniform) {
        Ok(_) => {}
        Err(End::Skipped(_) | End::Failed(_)) => return Ok(None),
        Err(end) => return Err(end),
    }
    let launch_s = conditions.launch_s.unwrap_or(MOSTLY_LAUNCH_S / 2.5);
    if single_s < MOSTLY_LAUNCH_S.max(2.5 * launch_s) || session.prepare(chosen)?.is_err() {
        return Ok(None);
    }
    right(session, &case, task.seed, &Data::Uniform, chosen, 0)?;
    let policy = Policy::glance(&session.timer, 6, 0.5, session.silence);
    let double_s = session.measure(&policy).map_err(ended)?.summary.min;
    if double_s < GROWTH_MIN * single_s {
        // Once more side by side, for the machine may have been busier then than it is now.
        session.case(task.case, task.seed, &Data::Uniform)?;
        session.prepare(chosen)?.map_err(End::Failed)?;
        let again = session.measure(&policy).map_err(ended)?;
        single_s = single_s.min(again.summary.min);
    }
    Ok((double_s < GROWTH_MIN * single_s).then(|| {
        format!(
            "twice the work, {}, takes {double_s:.3e} s against {single_s:.3e} s: some of it is left out",
            case.id()
        )
    }))
}

/// The chosen variant under other conditions; `None` where they cannot be brought about here.
fn regime_of(
    task: &Task<'_>,
    session: &mut Session<'_>,
    conditions: &Conditions<'_>,
    chosen: &Variant,
    outcome: &Outcome,
    regime: RegimeName,
    time_s_max: f64,
) -> Result<Option<Regime>, End> {
    let case = task.case;
    let (data, set_count) = match regime {
        RegimeName::Cold => {
            let Some(set_count) = conditions
                .cold_bytes
                .and_then(|bytes| cold_set_count(case, bytes))
            else {
                return Ok(None);
            };
            (Data::Uniform, set_count)
        }
        RegimeName::Zero => (Data::Zero, 1),
    };
    match session.case_in_sets(case, task.seed, &data, set_count) {
        Ok(_) => {}
        // So many buffers do not fit, or the runner does not do this: the headline stands alone.
        Err(End::Skipped(_) | End::Failed(_)) => return Ok(None),
        Err(end) => return Err(end),
    }
    if session.prepare(chosen)?.is_err() {
        return Ok(None);
    }
    right(session, case, task.seed, &data, chosen, 0)?;
    let policy = Policy {
        warm_up_s_max: 0.3,
        audit_s: 0.0,
        ..Policy::thorough(&session.timer, time_s_max, session.silence)
    };
    let measurement = session.measure(&policy).map_err(ended)?;
    // Once round, so that every set has been written since it was poisoned; then one that the
    // runner could not foresee is checked.
    if set_count > 1 {
        let round = Request::Measure {
            repeat_count: set_count,
            sample_count: 1,
            poison: false,
        };
        if let Response::Error { message, .. } = session.runner.ask(&round, session.silence)? {
            return Err(End::Failed(message));
        }
    }
    let set_index = verify::entropy() % set_count;
    let verification = right(session, case, task.seed, &data, chosen, set_index)?;
    let time_s = times(&measurement);
    let Some(headline) = &outcome.time_s else {
        return Ok(None);
    };
    Ok(Some(Regime {
        cache: if set_count > 1 { "cold" } else { "hot" }.to_owned(),
        data: case.data_label(&data).to_owned(),
        set_count,
        time_ratio: time_s.median / headline.median,
        differs: time_s.ci95_low > headline.ci95_high || time_s.ci95_high < headline.ci95_low,
        time_s,
        verification,
    }))
}

/// Why samples cannot be true that are all equal: no device repeats itself to the last digit of a
/// fine clock.
fn without_variance(measurement: &Measurement, quantum_s: f64) -> Option<String> {
    let samples = &measurement.samples;
    let quanta = measurement.summary.median * f64::from(measurement.repeat_count) / quantum_s;
    let equal = samples.windows(2).all(|pair| pair[0] == pair[1]);
    (equal && samples.len() >= EQUAL_SAMPLES_MIN && quanta >= EQUAL_QUANTA_MIN).then(|| {
        format!(
            "all {} samples are {:.6e} s to the last digit, by a clock that tells {quanta:.0} steps in each span",
            samples.len(),
            measurement.summary.median
        )
    })
}

/// Sets of buffers that the calls must take by turns so that each finds its own evicted; `None`
/// where a single set does that already, or where too many would be needed.
fn cold_set_count(case: &Case, cold_bytes: u64) -> Option<u32> {
    let sets = cold_bytes.div_ceil(case.tensor_bytes()) + 1;
    (case.tensor_bytes() < cold_bytes && sets <= SET_COUNT_MAX)
        .then(|| u32::try_from(sets).ok())
        .flatten()
}

/// What one look at one variant found.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Its times.
    pub measurement: Measurement,
    /// What the runner said of the variant it built.
    pub ready: Ready,
    /// The check of the buffers that were timed, after they were timed.
    pub verification: Verification,
}

/// Prepares, checks, times and checks again one variant, without any search.
///
/// # Errors
/// As the runner ends, or where the results are wrong.
pub fn sight(
    session: &mut Session<'_>,
    case: &Case,
    seed: u32,
    variant: &Variant,
    policy: &Policy,
) -> Result<Sight, End> {
    let ready = prepared(session, case, seed, variant)?;
    let measurement = session.measure(policy).map_err(ended)?;
    let verification = right(session, case, seed, &Data::Uniform, variant, 0)?;
    Ok(Sight {
        measurement,
        ready,
        verification,
    })
}

/// Builds a variant and checks it.
fn prepared(
    session: &mut Session<'_>,
    case: &Case,
    seed: u32,
    variant: &Variant,
) -> Result<Ready, End> {
    session.case(case, seed, &Data::Uniform)?;
    let ready = session.prepare(variant)?.map_err(End::Failed)?;
    right(session, case, seed, &Data::Uniform, variant, 0)?;
    Ok(ready)
}

/// Prepares and checks one variant in each of two sessions, times them by turns and checks both
/// again. Beside what each side would have given alone there is the time of the second over that of
/// the first.
///
/// # Errors
/// As [`sight`], with the side that it is of.
pub fn sights_by_turns(
    first: &mut Session<'_>,
    second: &mut Session<'_>,
    cases: [&Case; 2],
    seed: u32,
    variants: [&Variant; 2],
    policy: &Policy,
    second_begins: bool,
) -> Result<([Sight; 2], f64), (usize, End)> {
    let at = |index: usize| move |end: End| (index, end);
    let build = |session: &mut Session<'_>, index: usize| {
        prepared(session, cases[index], seed, variants[index]).map_err(at(index))
    };
    // In the order of the turns, so that neither side's memory is always asked for last.
    let (ready, other_ready) = if second_begins {
        let other = build(second, 1)?;
        (build(first, 0)?, other)
    } else {
        (build(first, 0)?, build(second, 1)?)
    };
    let turns = first
        .measure_by_turns(second, policy, second_begins)
        .map_err(|(index, trouble)| (index, ended(trouble)))?;
    let data = &Data::Uniform;
    let verification = right(first, cases[0], seed, data, variants[0], 0).map_err(at(0))?;
    let other_verification = right(second, cases[1], seed, data, variants[1], 0).map_err(at(1))?;
    let [measurement, other_measurement] = turns.measurements;
    let sights = [
        Sight {
            measurement,
            ready,
            verification,
        },
        Sight {
            measurement: other_measurement,
            ready: other_ready,
            verification: other_verification,
        },
    ];
    Ok((sights, turns.ratio))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Dtype, OpName};
    use crate::stats::Summary;

    #[test]
    fn equal_samples_of_a_fine_clock_are_not_believed() {
        let measurement = |samples: &[f64]| Measurement {
            summary: Summary::of(samples).unwrap(),
            samples: samples.to_vec(),
            clock: "host",
            clock_note: None,
            repeat_count: 10,
            invalid_count: 0,
            host_s_median: 1e-3,
            submit_s_median: None,
            burst_s_median: None,
            stop_reason: "precision_reached",
            not_converged: None,
        };
        let equal = measurement(&[1e-3; 12]);
        assert!(
            without_variance(&equal, 1e-8)
                .unwrap()
                .contains("to the last digit")
        );
        // By a coarse clock they may well be equal.
        assert_eq!(without_variance(&equal, 1e-5), None);
        let mut samples = [1e-3; 12];
        samples[7] += 1e-9;
        assert_eq!(without_variance(&measurement(&samples), 1e-8), None);
    }

    #[test]
    fn a_rotation_covers_the_caches_and_large_cases_need_none() {
        let matmul = |n: u64| {
            let shape = Shape::of(&[("m", n), ("n", n), ("k", n)]);
            Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap()
        };
        // 3 x 4 MiB against 64 MiB.
        let sets = cold_set_count(&matmul(1024), 64 << 20).unwrap();
        assert!(u64::from(sets - 1) * 12 >= 64 && sets <= 8, "{sets}");
        assert_eq!(cold_set_count(&matmul(4096), 64 << 20), None);
        assert_eq!(cold_set_count(&matmul(8), 64 << 20), None);
    }
}
