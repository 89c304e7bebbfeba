//! How one prepared variant is timed: warm-up, batching to the clock, and when to stop.

use std::time::{Duration, Instant};

use crate::protocol::{FaultKind, Request, Response, Span, Timer};
use crate::runner::{Conversation, Fault};
use crate::stats::Summary;

/// Below this many samples no order statistics enclose the median with 95 % probability.
const MEDIAN_SAMPLES_MIN: u32 = 6;

/// Length of one window of the warm-up.
const WARM_UP_WINDOW_S: f64 = 0.1;

/// Least time that the samples of a number for the report span together.
const SAMPLED_S_MIN: f64 = 0.2;

/// What a measurement aims for.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Least length of one timed span.
    pub span_s_min: f64,
    /// Fewest samples, also when the time is up; the median's interval needs six.
    pub sample_count_floor: u32,
    /// Fewest samples while there is time.
    pub sample_count_min: u32,
    /// Most samples.
    pub sample_count_max: u32,
    /// Wanted half-width of the median's 95 % interval, relative.
    pub precision: f64,
    /// Least time that the samples span together, while there is time.
    pub sampled_s_min: f64,
    /// Longest warm-up.
    pub warm_up_s_max: f64,
    /// Longest time to spend, warm-up included, unless the floor of samples needs more.
    pub time_s_max: f64,
    /// Longest silence of the runner.
    pub silence: Duration,
    /// Stop after the first span if a call takes longer than this: it cannot win any more.
    pub give_up_above_s: Option<f64>,
}

impl Policy {
    /// For the number that goes into the report.
    #[must_use]
    pub fn thorough(timer: &Timer, time_s_max: f64, silence: Duration) -> Self {
        Self {
            span_s_min: span_s_min(timer),
            sample_count_floor: MEDIAN_SAMPLES_MIN,
            sample_count_min: 10,
            sample_count_max: 200,
            precision: 0.005,
            sampled_s_min: SAMPLED_S_MIN,
            warm_up_s_max: (time_s_max * 0.25).clamp(0.0, 1.0),
            time_s_max,
            silence,
            give_up_above_s: None,
        }
    }

    /// For a look at one of many variants.
    #[must_use]
    pub fn glance(timer: &Timer, sample_count: u32, time_s_max: f64, silence: Duration) -> Self {
        Self {
            sample_count_floor: 1,
            sample_count_min: sample_count,
            sample_count_max: sample_count,
            precision: 0.05,
            sampled_s_min: 0.0,
            warm_up_s_max: 0.0,
            ..Self::thorough(timer, time_s_max, silence)
        }
    }
}

/// A span must be long against the clock's quantum, and long enough that the cost of a submission
/// and the jitter of the clock itself are small against it.
fn span_s_min(timer: &Timer) -> f64 {
    (100.0 * timer.quantum_s).max(if timer.clock == "device" { 1e-3 } else { 5e-3 })
}

/// A measured variant.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Seconds of one call, one value per span, in the order taken.
    pub samples: Vec<f64>,
    /// Their order statistics.
    pub summary: Summary,
    /// The clock they come from: `device` or `host`.
    pub clock: &'static str,
    /// Calls per span.
    pub repeat_count: u32,
    /// Spans whose device time was zero, backwards or longer than the host saw; left out.
    pub invalid_count: u32,
    /// Median over the spans of host time per call, beside the device's.
    pub host_s_median: f64,
    /// Which condition ended it.
    pub stop_reason: &'static str,
}

/// What can come of a request to time.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The runner is gone.
    Fault(Fault),
    /// The runner refused or the numbers make no sense; it can go on with something else.
    Refused(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Times the prepared variant.
///
/// # Errors
/// When the runner dies or refuses.
pub fn measure(
    runner: &mut dyn Conversation,
    timer: &Timer,
    policy: &Policy,
) -> Result<Measurement, Trouble> {
    let started = Instant::now();
    let left = || policy.time_s_max - started.elapsed().as_secs_f64();
    let mut ask =
        |repeat_count: u32, sample_count: u32, poison: bool| -> Result<Vec<Span>, Trouble> {
            let request = Request::Measure {
                repeat_count,
                sample_count,
                poison,
            };
            match runner.ask(&request, policy.silence)? {
                Response::Samples { samples } if samples.len() == sample_count as usize => {
                    sane(samples, repeat_count)
                }
                Response::Samples { samples } => Err(Trouble::Refused(format!(
                    "the runner sent {} samples when asked for {sample_count}",
                    samples.len()
                ))),
                Response::Error {
                    kind: FaultKind::DeviceLost,
                    message,
                } => Err(Trouble::Fault(Fault::new(message))),
                Response::Error { message, .. } => Err(Trouble::Refused(message)),
                _ => Err(Trouble::Refused(
                    "the runner answered a measurement with something else".to_owned(),
                )),
            }
        };

    // How many calls fill a span. Estimated twice, because the first call of all is often slow and
    // a single short one is mostly launch.
    let mut repeat_count = 1u32;
    let mut estimated_s = policy.span_s_min;
    for _ in 0..4 {
        let asked = Instant::now();
        let first = ask(repeat_count, 1, false)?;
        let span_s = length_s(&first[0], timer);
        let call_s = span_s / f64::from(repeat_count);
        if policy.give_up_above_s.is_some_and(|limit| call_s > limit) {
            return finish(&first, timer, "slower_than_needed");
        }
        estimated_s = span_s;
        // By the conductor's own clock too: a runner that claims tiny spans must not be asked for
        // ever more calls.
        if span_s >= policy.span_s_min || asked.elapsed().as_secs_f64() > 1.0 {
            break;
        }
        let factor = (policy.span_s_min / span_s.max(1e-9) * 1.2).clamp(2.0, 1000.0);
        repeat_count = scaled(repeat_count, factor);
    }

    // Warm-up: windows until two in a row agree, since real GPUs take time to raise their clocks. A
    // window is long against one span, or two neighbours would agree on any slow ramp.
    let mut previous = f64::INFINITY;
    while started.elapsed().as_secs_f64() < policy.warm_up_s_max {
        let span_count = whole(WARM_UP_WINDOW_S / estimated_s.max(1e-6)).clamp(1, 200);
        let window = ask(repeat_count, span_count, false)?;
        let now =
            window.iter().map(|span| length_s(span, timer)).sum::<f64>() / f64::from(span_count);
        if (now / previous - 1.0).abs() < 0.01 {
            break;
        }
        previous = now;
    }

    let mut spans: Vec<Span> = Vec::new();
    let stop_reason = loop {
        // One request stays near a quarter of a second, so that an interrupt is heeded soon.
        let span_s = spans
            .last()
            .map_or(estimated_s, |span| span.host_s)
            .max(1e-6);
        let wanted = if spans.is_empty() {
            policy.sample_count_min
        } else {
            policy.sample_count_max / 8
        };
        let room = policy.sample_count_max - u32::try_from(spans.len()).unwrap_or(u32::MAX);
        let chunk = whole(0.25 / span_s)
            .clamp(1, wanted.max(1))
            .min(room.max(1));
        spans.extend(ask(repeat_count, chunk, spans.is_empty())?);
        let (samples, _, _) = readings(&spans, timer);
        let count = u32::try_from(samples.len()).unwrap_or(u32::MAX);
        let sampled_s: f64 = spans.iter().map(|span| span.host_s).sum();
        if count >= policy.sample_count_min
            && sampled_s >= policy.sampled_s_min
            && Summary::of(&samples)
                .is_some_and(|summary| summary.relative_half_width() <= policy.precision)
        {
            break "precision_reached";
        }
        if u32::try_from(spans.len()).unwrap_or(u32::MAX) >= policy.sample_count_max {
            break "sample_limit_before_precision";
        }
        if left() <= 0.0 && count >= policy.sample_count_floor {
            break "time_limit_before_precision";
        }
    };

    finish(&spans, timer, stop_reason)
}

fn finish(
    spans: &[Span],
    timer: &Timer,
    stop_reason: &'static str,
) -> Result<Measurement, Trouble> {
    let (samples, clock, invalid_count) = readings(spans, timer);
    let host: Vec<f64> = spans
        .iter()
        .map(|span| span.host_s / f64::from(span.repeat_count))
        .collect();
    match (Summary::of(&samples), Summary::of(&host)) {
        (Some(summary), Some(host)) if summary.median > 0.0 => Ok(Measurement {
            samples,
            summary,
            clock,
            repeat_count: spans[0].repeat_count,
            invalid_count,
            host_s_median: host.median,
            stop_reason,
        }),
        _ => Err(Trouble::Refused("no timed span is valid".to_owned())),
    }
}

/// Refuses spans that no clock can have shown.
fn sane(spans: Vec<Span>, repeat_count: u32) -> Result<Vec<Span>, Trouble> {
    let broken = |span: &Span| {
        !span.host_s.is_finite()
            || span.host_s <= 0.0
            || span.repeat_count != repeat_count
            || span.device_s.is_some_and(|s| !s.is_finite())
    };
    match spans.iter().find(|span| broken(span)) {
        Some(span) => Err(Trouble::Refused(format!(
            "the runner sent an impossible span: {span:?}"
        ))),
        None => Ok(spans),
    }
}

/// Whether the device's clock can be believed for this span: it ran forward, and not for longer
/// than the host waited (with a little grace for two clocks that tick differently).
fn device_time_is_valid(span: &Span) -> bool {
    span.device_s
        .is_some_and(|device_s| device_s > 0.0 && device_s <= span.host_s * 1.02 + 1e-4)
}

fn length_s(span: &Span, timer: &Timer) -> f64 {
    match span.device_s {
        Some(device_s) if timer.clock == "device" && device_time_is_valid(span) => device_s,
        _ => span.host_s,
    }
}

/// Per-call seconds of the valid spans, their clock and how many were invalid. Where most device
/// readings are invalid the host's clock serves for all: the two are never mixed.
fn readings(spans: &[Span], timer: &Timer) -> (Vec<f64>, &'static str, u32) {
    let per_call = |seconds: f64, span: &Span| seconds / f64::from(span.repeat_count);
    let device: Vec<f64> = spans
        .iter()
        .filter(|span| device_time_is_valid(span))
        .filter_map(|span| Some(per_call(span.device_s?, span)))
        .collect();
    if timer.clock == "device" && device.len() * 2 > spans.len() {
        let invalid = u32::try_from(spans.len() - device.len()).unwrap_or(u32::MAX);
        return (device, "device", invalid);
    }
    let invalid = if timer.clock == "device" {
        u32::try_from(spans.len()).unwrap_or(u32::MAX)
    } else {
        0
    };
    (
        spans
            .iter()
            .map(|span| per_call(span.host_s, span))
            .collect(),
        "host",
        invalid,
    )
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped first
fn whole(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

fn scaled(count: u32, factor: f64) -> u32 {
    // A hundred thousand launches in one submission is where drivers begin to choke.
    whole((f64::from(count) * factor).ceil()).clamp(1, 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A runner whose calls take `call_s` on both clocks, with `noise` added to every other span.
    struct Fake {
        call_s: f64,
        noise: f64,
        device: fn(f64) -> Option<f64>,
        asked: Vec<(u32, u32, bool)>,
        spans: u32,
    }

    impl Conversation for Fake {
        fn ask(&mut self, request: &Request, _: Duration) -> Result<Response, Fault> {
            let Request::Measure {
                repeat_count,
                sample_count,
                poison,
            } = *request
            else {
                return Err(Fault::new("not a measurement".to_owned()));
            };
            self.asked.push((repeat_count, sample_count, poison));
            let samples = (0..sample_count)
                .map(|i| {
                    let seconds = self.call_s
                        * f64::from(repeat_count)
                        * (1.0 + self.noise * f64::from((self.spans + i) % 2));
                    Span {
                        device_s: (self.device)(seconds),
                        host_s: seconds,
                        submit_s: None,
                        repeat_count,
                    }
                })
                .collect();
            self.spans += sample_count;
            Ok(Response::Samples { samples })
        }
    }

    fn timer() -> Timer {
        Timer {
            clock: "device".to_owned(),
            quantum_s: 1e-9,
            period_s: None,
            note: None,
        }
    }

    fn run(call_s: f64, noise: f64, device: fn(f64) -> Option<f64>) -> (Measurement, Fake) {
        let mut fake = Fake {
            call_s,
            noise,
            device,
            asked: Vec::new(),
            spans: 0,
        };
        let policy = Policy::thorough(&timer(), 5.0, Duration::from_secs(1));
        (measure(&mut fake, &timer(), &policy).unwrap(), fake)
    }

    #[test]
    fn short_calls_are_batched_until_the_span_is_long_against_the_clock() {
        let (measurement, _) = run(1e-6, 0.0, Some);
        assert!(measurement.repeat_count >= 1000);
        assert!((measurement.summary.median - 1e-6).abs() < 1e-12);
        assert_eq!(
            (measurement.clock, measurement.stop_reason),
            ("device", "precision_reached")
        );
    }

    #[test]
    fn noise_that_does_not_settle_says_which_condition_was_not_met() {
        let (measurement, _) = run(1e-3, 0.5, Some);
        assert_eq!(measurement.stop_reason, "sample_limit_before_precision");
        assert_eq!(measurement.samples.len(), 200);
    }

    #[test]
    fn a_device_clock_that_runs_backwards_or_too_long_gives_way_to_the_host() {
        for device in [
            (|_| Some(0.0)) as fn(f64) -> Option<f64>,
            |s| Some(-s),
            |s| Some(s * 2.0),
            |_| None,
        ] {
            let (measurement, _) = run(2e-3, 0.0, device);
            assert_eq!(measurement.clock, "host");
            assert_eq!(
                measurement.invalid_count as usize,
                measurement.samples.len()
            );
        }
    }

    #[test]
    fn the_output_is_poisoned_once_before_the_first_timed_span() {
        let (_, fake) = run(1e-3, 0.0, Some);
        assert_eq!(
            fake.asked.iter().filter(|(_, _, poison)| *poison).count(),
            1
        );
        let first = fake
            .asked
            .iter()
            .position(|(_, _, poison)| *poison)
            .unwrap();
        // Everything before it was warm-up; everything after it is in the samples.
        assert!(
            fake.asked[first..]
                .iter()
                .all(|(repeat, _, _)| *repeat == fake.asked[first].0)
        );
    }
}
