//! One case on one runner: search, check, measure, check again; then the same variant with cold
//! caches, on zero data, and over a window long enough for a counter of energy.

use std::time::Instant;

use crate::energy::{WINDOW_S_MIN, energy, no_joules};
use crate::input::Data;
use crate::measure::{Measurement, Policy, REPEAT_COUNT_MAX, Trouble, ask_spans};
use crate::normalise;
use crate::op::{Case, OpName, Shape};
use crate::plan::RegimeName;
use crate::protocol::Variant;
use crate::report::{
    self, Energy, INTERRUPTED, Labels, Outcome, OutcomeStatus, Regime, SecondClock, Times, Tried,
    Verification,
};
use crate::runner::Fault;
use crate::telemetry::Sensors;
use crate::tune::{End, Ready, Session, Task, choose};
use crate::verify::{self, Verdict};

/// Seconds that a case is left, of a long one, for what follows the time for samples.
const TAIL_S: f64 = 0.5;

/// Length of the span by which an external runner's clock is compared with the conductor's.
pub const AUDIT_S_EXTERNAL: f64 = 0.25;

/// Longest time for each further regime of a case, and the least that is worth beginning with.
const REGIME_S_MAX: f64 = 1.5;
const REGIME_S_MIN: f64 = 0.4;

/// Most of a regime's time that it may take to settle.
const REGIME_WARM_UP_SHARE: f64 = 0.5;

/// Longest call of a probe of twice the work: one workgroup that runs for longer is stopped by some
/// systems, which then have no device any more or none of its results.
const DOUBLED_S_MAX: f64 = 0.4;

/// Most sets of buffers: beyond it a case is too small for its caches to be turned cold by rotation.
const SET_COUNT_MAX: u64 = 1024;

/// From so many equal samples on, of so many quanta of the clock each, chance is out of the question.
const EQUAL_SAMPLES_MIN: usize = 10;
const EQUAL_QUANTA_MIN: f64 = 1e4;

/// How much longer twice the work of a probe must take at least.
const GROWTH_MIN: f64 = 1.4;

/// Probes shorter than this are mostly launch, and do not double.
const MOSTLY_LAUNCH_S: f64 = 8e-6;

/// Seconds that an energy window takes beside itself: steady work before it, steps of the counter.
const ENERGY_OVERHEAD_S: f64 = 1.5;

/// Seconds that are kept for it beyond that, since what comes before may end a little late.
const ENERGY_SLACK_S: f64 = 0.5;

/// Least length of one request for calls while energy is counted, unless one call is longer.
const ENERGY_REQUEST_S: f64 = 0.25;

/// Least length of a span while energy is counted.
const ENERGY_SPAN_S: f64 = 0.02;

/// Why there is no energy of what waits for launches, single loads or the link to the host.
const NO_WORK: &str = "energy is counted for arithmetic and memory only";

/// Two clocks that differ by more than this do not confirm each other.
pub const CLOCKS_DIFFER: f64 = 0.05;

/// Least length of a span where the slope of the host's clock is used in the place of the device's.
const SLOPE_SPAN_S_MIN: f64 = 5e-3;

/// What a case is measured under, besides the case itself.
pub struct Conditions<'a> {
    /// Seconds for the whole case but its energy, for which [`energy_s`] comes on top.
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
    /// When the count of energy must have ended, where the whole run has a limit. Without one it has
    /// its time, however long the rest of the case took.
    pub energy_until: Option<Instant>,
    /// The device's sensors.
    pub sensors: &'a Sensors,
    /// What it drew before the first case, with nothing to do, where that is known.
    pub idle_power_w: Option<f64>,
    /// Seconds of one launch, where that is known.
    pub launch_s: Option<f64>,
    /// How the runner ended after the headline was measured, if it did: the outcome stands, and the
    /// runner has to be replaced.
    pub fault: Option<Fault>,
    /// Called when the final measurement begins, when it has ended and when there is an outcome of it:
    /// for whoever watches the sensors.
    pub watch: &'a mut dyn FnMut(Moment<'_>),
}

/// What sensors are told of a case.
pub enum Moment<'a> {
    /// The final measurement begins.
    Begin,
    /// It has ended, and what follows is no steady work.
    Over,
    /// There is an outcome of it.
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
    // The last request for samples, the audit and the check of the output come after that.
    let tail_s = (0.1 * conditions.budget_s).min(TAIL_S);
    let mut policy = Policy::thorough(
        &session.timer,
        (left() - reserved_s - tail_s).max(conditions.budget_s * 0.15),
        session.silence,
    );
    if !conditions.native {
        policy.audit_s = policy.audit_s.max(AUDIT_S_EXTERNAL);
    }
    (conditions.watch)(Moment::Begin);
    let measurement = session.measure(&policy);
    // While the output is checked the device idles, which is no evidence of its clock at work.
    (conditions.watch)(Moment::Over);
    let measurement = measurement.map_err(ended)?;
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
        Ok(()) => {}
        Err(End::Interrupted) => {
            outcome
                .energy_reason
                .get_or_insert_with(|| format!("{INTERRUPTED} before it was counted"));
        }
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
            let found = if time_s_max < REGIME_S_MIN {
                let left_s = time_s_max.max(0.0);
                Err(End::Skipped(format!(
                    "{left_s:.2} s of the case's time were left"
                )))
            } else {
                regime_of(
                    task, session, conditions, chosen, outcome, regime, time_s_max,
                )
            };
            match found {
                Ok(found) => outcome.regimes.extend(found),
                Err(End::Implausible(reason) | End::Failed(reason) | End::Skipped(reason)) => {
                    let before = outcome.regimes_reason.take();
                    let before = before.map_or_else(String::new, |before| format!("{before}; "));
                    let reason = format!("{before}{}: {reason}", regime.label());
                    outcome.regimes_reason = Some(reason);
                }
                Err(end) => return Err(end),
            }
        }
    }
    if outcome.status == OutcomeStatus::Measured {
        count_energy(outcome, task, session, conditions, chosen)?;
    }
    Ok(())
}

/// Why the energy of a case is not counted; absent where it is to be.
fn uncounted(case: &Case, window_s: f64, sensors: &Sensors) -> Option<String> {
    // A launch moves its two words for form's sake.
    let moves = case.op.has_roofline() && case.op != OpName::Empty && case.bytes_min() > 0;
    if let Some(reason) = no_joules(sensors) {
        Some(reason)
    } else if window_s == 0.0 {
        Some("this suite takes no energy windows".to_owned())
    } else {
        (case.flop_count() == 0 && !moves).then(|| NO_WORK.to_owned())
    }
}

/// Seconds that counting the energy of a case takes, on top of its own budget; zero where it is not
/// counted.
#[must_use]
pub fn energy_s(case: &Case, window_s: f64, sensors: &Sensors) -> f64 {
    match uncounted(case, window_s, sensors) {
        Some(_) => 0.0,
        None => window_s.max(WINDOW_S_MIN) + ENERGY_OVERHEAD_S + ENERGY_SLACK_S,
    }
}

/// Joules of a call over a window of steady work, or the reason why there are none. They are of cold
/// calls where the case has a cold time: seconds and joules of different calls make no sum.
fn count_energy(
    outcome: &mut Outcome,
    task: &Task<'_>,
    session: &mut Session<'_>,
    conditions: &Conditions<'_>,
    chosen: &Variant,
) -> Result<(), End> {
    let case = task.case;
    let window_s = conditions.energy_window_s.max(WINDOW_S_MIN);
    let timed_by_host = session.clock.is_some().then(|| NO_WORK.to_owned());
    outcome.energy_reason =
        uncounted(case, conditions.energy_window_s, conditions.sensors).or(timed_by_host);
    let (None, Some(headline)) = (&outcome.energy_reason, &outcome.time_s) else {
        return Ok(());
    };
    let cold = outcome.regimes.iter().find(|regime| regime.set_count > 1);
    let (times, set_count) = cold.map_or((headline, 1), |cold| (&cold.time_s, cold.set_count));
    let cache = cold.map_or("hot", |cold| &*cold.cache).to_owned();
    let span_s = (times.host_median * f64::from(times.repeat_count)).max(1e-6);
    // Longer spans than those that are timed: between them the device idles.
    let most = f64::from(REPEAT_COUNT_MAX / times.repeat_count.max(1)).max(1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
    let longer = (ENERGY_SPAN_S / span_s).ceil().clamp(1.0, most) as u32;
    let repeat_count = times.repeat_count.saturating_mul(longer);
    let span_s = span_s * f64::from(longer);
    // Steady work and window each end with the request that is under way.
    let needed_s = window_s + ENERGY_OVERHEAD_S + 2.0 * (span_s - ENERGY_REQUEST_S).max(0.0);
    let left_s = conditions.energy_until.map(|until| {
        until
            .saturating_duration_since(Instant::now())
            .as_secs_f64()
    });
    if let Some(left_s) = left_s.filter(|left_s| *left_s < needed_s) {
        outcome.energy_reason = Some(format!(
            "the case had {left_s:.1} s of the run's budget left; a window of {window_s} s needs {needed_s:.1} s"
        ));
        return Ok(());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 250
    let sample_count = (ENERGY_REQUEST_S / span_s).clamp(1.0, 250.0) as u32;
    session.case_in_sets(case, task.seed, &Data::Uniform, set_count)?;
    session.prepare(chosen)?.map_err(End::Failed)?;
    let counted = energy(conditions.sensors, window_s, |least_s| {
        let begun = Instant::now();
        let mut call_count = 0;
        while begun.elapsed().as_secs_f64() < least_s {
            if (session.interrupted)() {
                return Err(End::Interrupted);
            }
            let silence = session.silence;
            let spans = ask_spans(session.runner, silence, repeat_count, sample_count, false);
            for span in spans.map_err(ended)? {
                call_count += u64::from(span.repeat_count);
            }
        }
        Ok(call_count)
    })?;
    match counted {
        Ok(counted) => {
            // What was counted was the work that is claimed.
            let set_index = any_set(session, set_count)?;
            right(session, case, task.seed, &Data::Uniform, chosen, set_index)?;
            outcome.energy = Some(Energy {
                cache: Some(cache),
                idle_power_w: conditions.idle_power_w,
                ..counted
            });
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
        span_s_min: policy.span_s_min.max(SLOPE_SPAN_S_MIN),
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
    if single_s < MOSTLY_LAUNCH_S.max(2.5 * launch_s)
        || 2.0 * single_s > DOUBLED_S_MAX && task.case.op == OpName::Chase
        || session.prepare(chosen)?.is_err()
    {
        return Ok(None);
    }
    right(session, &case, task.seed, &Data::Uniform, chosen, 0)?;
    let policy = Policy::glance(&session.timer, 6, 0.5, session.silence);
    let policy = by_clock_of(outcome, policy);
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

/// A policy by the clock that the headline was timed by in the end: where that of the device was given
/// up, nothing that stands beside the headline is timed by it.
#[must_use]
pub fn by_clock_of(outcome: &Outcome, policy: Policy) -> Policy {
    let labels = outcome.labels.as_ref();
    if labels.is_none_or(|labels| is_the_devices(&labels.timer)) {
        return policy;
    }
    Policy {
        host_slope: true,
        span_s_min: policy.span_s_min.max(SLOPE_SPAN_S_MIN),
        ..policy
    }
}

/// Whether a label of a clock is of the device's. The others are of the host's, whose slope gives way to
/// plain spans where nothing is submitted, or where a system allows no longer ones.
fn is_the_devices(timer: &str) -> bool {
    matches!(timer, "device" | "quantised")
}

/// Why a time cannot stand beside the headline: it came from another clock.
#[must_use]
pub fn by_another_clock(outcome: &Outcome, measurement: &Measurement) -> Option<String> {
    let headline = &*outcome.labels.as_ref()?.timer;
    (is_the_devices(headline) != is_the_devices(measurement.clock)).then(|| {
        format!(
            "it was timed by the {} clock, and the headline by the {headline} clock",
            measurement.clock
        )
    })
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
    // Where so many buffers do not fit, or the runner does not do this, the headline stands alone.
    session.case_in_sets(case, task.seed, &data, set_count)?;
    session.prepare(chosen)?.map_err(End::Failed)?;
    right(session, case, task.seed, &data, chosen, 0)?;
    // Until it has settled, as the headline did: a clock that is still high after the pause would be
    // taken for what the regime does.
    let policy = Policy {
        warm_up_s_max: REGIME_WARM_UP_SHARE * time_s_max,
        audit_s: 0.0,
        ..Policy::thorough(&session.timer, time_s_max, session.silence)
    };
    let policy = by_clock_of(outcome, policy);
    let measurement = session.measure(&policy).map_err(ended)?;
    if let Some(reason) = by_another_clock(outcome, &measurement) {
        return Err(End::Failed(reason));
    }
    if let Some(reason) = without_variance(&measurement, session.timer.quantum_s) {
        return Err(End::Implausible(reason));
    }
    let set_index = any_set(session, set_count)?;
    let verification = right(session, case, task.seed, &data, chosen, set_index)?;
    let time_s = times(&measurement);
    let Some(headline) = &outcome.time_s else {
        return Ok(None);
    };
    let cache = if set_count > 1 { "cold" } else { "hot" };
    // Nothing else holds a cold time against what the device can do. Zeros may be faster than the
    // ceilings, whose data are not.
    if set_count > 1 {
        let mut judged = outcome.clone();
        if let Some(labels) = &mut judged.labels {
            cache.clone_into(&mut labels.cache);
        }
        judged.time_s = Some(time_s.clone());
        normalise::set_rates(&mut judged);
        if let Some(reason) = (conditions.implausible)(&judged) {
            return Err(End::Implausible(reason));
        }
    }
    Ok(Some(Regime {
        cache: cache.to_owned(),
        data: case.data_label(&data).to_owned(),
        set_count,
        time_ratio: time_s.median / headline.median,
        differs: time_s.ci95_low > headline.ci95_high || time_s.ci95_high < headline.ci95_low,
        time_s,
        not_converged: measurement.not_converged,
        verification,
    }))
}

/// Once round, so that every set of buffers has been written since it was poisoned; then one to check
/// that the runner could not foresee.
fn any_set(session: &mut Session<'_>, set_count: u32) -> Result<u32, End> {
    if set_count > 1 {
        ask_spans(session.runner, session.silence, set_count, 1, false).map_err(ended)?;
    }
    Ok(verify::entropy() % set_count)
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
    use std::time::Duration;

    use crate::op::Dtype;
    use crate::protocol::PROTOCOL_VERSION;
    use crate::protocol::{Request, Response};
    use crate::runner::{Conversation, InProcess, native};
    use crate::stats::Summary;
    use crate::telemetry::Meter;

    /// Sensors that show 50 W and count no energy.
    fn metered() -> Sensors {
        let meter = Meter {
            source: "a meter".to_owned(),
            covers: "the board".to_owned(),
            settle_s: 0.1,
        };
        Sensors::of_formulas(None, Some(meter), |_| None, |_| Some(50.0))
    }

    /// What comes of a case on the processor, with a window of 2 s for its energy.
    fn outcome(case: &Case, change: impl Fn(&mut Conditions<'_>)) -> Outcome {
        // A machine that stops for a while makes times untrue, and is not what is asked here.
        let mut seen = attempt(case, &change, false);
        for _ in 0..4 {
            if !matches!(seen, Err(End::Implausible(_))) {
                break;
            }
            seen = attempt(case, &change, false);
        }
        seen.unwrap()
    }

    /// One attempt, which a signal cuts off after the headline if `interrupt`.
    fn attempt(
        case: &Case,
        change: impl Fn(&mut Conditions<'_>),
        interrupt: bool,
    ) -> Result<Outcome, End> {
        let over = std::cell::Cell::new(false);
        let interrupted = || interrupt && over.get();
        let mut runner = InProcess(native("host").unwrap());
        let silence = Duration::from_secs(60);
        let hello = Request::Hello {
            protocol: PROTOCOL_VERSION,
            device: None,
            backend: None,
            checks: false,
        };
        let Response::Hello { device, timer, .. } = runner.ask(&hello, silence).unwrap() else {
            panic!("no device")
        };
        let mut session = Session::new(&mut runner, timer, silence, &interrupted);
        let task = Task {
            case,
            scout: case.clone(),
            seed: 1,
            budget_s: 0.3,
            case_budget_s: 1.2,
            share_s: None,
            banned: &[],
            remembered: &[],
            remembered_of_all: true,
            pinned: false,
            device: &device,
            ceilings: &[],
            runner: "host",
        };
        let mut conditions = Conditions {
            budget_s: 1.2,
            checks: false,
            native: true,
            regimes: &[],
            cold_bytes: None,
            implausible: &|_| None,
            energy_window_s: 2.0,
            energy_until: None,
            sensors: &metered(),
            idle_power_w: None,
            launch_s: None,
            fault: None,
            watch: &mut |moment| over.set(over.get() || matches!(moment, Moment::End(_))),
        };
        change(&mut conditions);
        measure_case(&task, &mut session, &mut conditions, &mut Vec::new())
    }

    fn product(n: u64) -> Case {
        let shape = Shape::of(&[("m", n), ("n", n), ("k", n)]);
        Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap()
    }

    #[test]
    fn a_power_meter_is_enough_and_energy_has_time_of_its_own() {
        // The case itself has less time than the window alone.
        let outcome = outcome(&product(64), |_| {});
        let energy = outcome
            .energy
            .unwrap_or_else(|| panic!("{:?}", outcome.energy_reason));
        assert!(
            energy.quality.starts_with("integrated_power: "),
            "{energy:?}"
        );
        assert_eq!(energy.cache.as_deref(), Some("hot"));
        assert!(outcome.joules_per_flop.is_some() && outcome.joules_per_byte.is_none());
    }

    #[test]
    fn a_cold_time_that_cannot_be_is_left_out_and_says_so() {
        let case = product(64);
        let cold_bytes = Some(case.tensor_bytes() * 8);
        let outcome = outcome(&case, |conditions| {
            conditions.budget_s = 8.0;
            conditions.energy_window_s = 0.0;
            conditions.regimes = &[RegimeName::Cold];
            conditions.cold_bytes = cold_bytes;
            conditions.implausible = &|outcome| {
                let cache = &outcome.labels.as_ref().unwrap().cache;
                (cache == "cold").then(|| "faster than the memory".to_owned())
            };
        });
        assert_eq!(outcome.status, OutcomeStatus::Measured);
        assert_eq!(outcome.regimes, []);
        let reason = outcome.regimes_reason.unwrap();
        assert_eq!(reason, "cold: faster than the memory");
    }

    #[test]
    fn a_regime_that_there_is_no_time_for_says_so() {
        let outcome = outcome(&product(64), |conditions| {
            conditions.budget_s = 0.3;
            conditions.energy_window_s = 0.0;
            conditions.regimes = &[RegimeName::Zero];
        });
        assert_eq!(outcome.regimes, []);
        let reason = outcome.regimes_reason.unwrap();
        assert!(reason.starts_with("zero: "), "{reason}");
        assert!(
            reason.ends_with("s of the case's time were left"),
            "{reason}"
        );
    }

    #[test]
    fn what_a_signal_cut_off_is_said_to_have_been() {
        let mut outcome = attempt(&product(64), |_| {}, true);
        for _ in 0..4 {
            if outcome.is_ok() {
                break;
            }
            outcome = attempt(&product(64), |_| {}, true);
        }
        let outcome = outcome.unwrap();
        assert_eq!(
            (outcome.status, outcome.energy),
            (OutcomeStatus::Measured, None)
        );
        assert!(outcome.energy_reason.unwrap().starts_with(INTERRUPTED));
    }

    #[test]
    fn energy_is_of_cold_calls_where_the_time_is() {
        let case = product(64);
        let cold_bytes = Some(case.tensor_bytes() * 8);
        let outcome = outcome(&case, |conditions| {
            conditions.budget_s = 8.0;
            conditions.regimes = &[RegimeName::Cold];
            conditions.cold_bytes = cold_bytes;
        });
        assert_eq!(outcome.regimes[0].cache, "cold");
        let energy = outcome
            .energy
            .unwrap_or_else(|| panic!("{:?}", outcome.energy_reason));
        assert_eq!(energy.cache(), "cold");
    }

    #[test]
    fn energy_of_memory_is_counted_and_of_waiting_not() {
        let shape = Shape::of(&[("n", 65536)]);
        let case = Case::new(OpName::Copy, &shape, Dtype::F32).unwrap();
        let outcome = outcome(&case, |_| {});
        let energy = outcome
            .energy
            .unwrap_or_else(|| panic!("{:?}", outcome.energy_reason));
        let per_byte = outcome.joules_per_byte.unwrap();
        assert!((per_byte * 2.0 * 4.0 * 65536.0 / energy.joules - 1.0).abs() < 1e-9);
        for (op, sizes) in [
            (OpName::Empty, &[("n", 1)][..]),
            (OpName::RoundTrip, &[("n", 1)]),
            (OpName::Upload, &[("n", 16384)]),
            (OpName::Chase, &[("lines", 256), ("steps", 65537)]),
        ] {
            let case = Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap();
            assert_eq!(uncounted(&case, 2.0, &metered()).unwrap(), NO_WORK);
            assert!(energy_s(&case, 2.0, &metered()) == 0.0);
        }
        let none = Sensors::none("no sensors".to_owned());
        assert_eq!(uncounted(&case, 2.0, &none).unwrap(), "no sensors");
        assert!(energy_s(&case, 10.0, &metered()) >= 11.5);
        assert!(energy_s(&case, 0.0, &metered()) == 0.0);
    }

    #[test]
    fn no_window_is_begun_that_would_end_after_the_share_of_the_case() {
        let outcome = outcome(&product(64), |conditions| {
            conditions.energy_until = Some(Instant::now() + Duration::from_secs(2));
        });
        assert_eq!(outcome.energy, None);
        let reason = outcome.energy_reason.unwrap();
        assert!(reason.contains("of the run's budget left"), "{reason}");
    }

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
        // 3 x 4 MiB against 64 MiB.
        let sets = cold_set_count(&product(1024), 64 << 20).unwrap();
        assert!(u64::from(sets - 1) * 12 >= 64 && sets <= 8, "{sets}");
        assert_eq!(cold_set_count(&product(4096), 64 << 20), None);
        assert_eq!(cold_set_count(&product(8), 64 << 20), None);
    }
}
