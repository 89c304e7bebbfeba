//! How one prepared variant is timed: warm-up, batching to the clock, when to stop, which clock to
//! believe, and whether the runner's own clock can be believed at all.

use std::time::{Duration, Instant};

use crate::protocol::{FaultKind, Request, Response, Span, Timer};
use crate::runner::{Conversation, Fault};
use crate::settle::Settling;
use crate::stats::Summary;

/// Below this many samples no order statistics enclose the median with 95 % probability.
const MEDIAN_SAMPLES_MIN: u32 = 6;

/// Length of one window of the warm-up; the first is the burst.
const WARM_UP_WINDOW_S: f64 = 0.1;

/// Relative change of successive windows below which the device counts as settled.
const WARM_UP_CHANGE_MAX: f64 = 0.01;

/// Least time that the samples of a number for the report span together.
const SAMPLED_S_MIN: f64 = 0.2;

/// Spans that a timestamp pair must be long, in quanta of its clock.
const QUANTA_MIN: f64 = 100.0;

/// Least length of a span by the host's clock, and of what the longer span of a pair has more than the
/// shorter one: submission and completion jitter by a fraction of a millisecond and more.
const HOST_SPAN_S_MIN: f64 = 5e-3;

/// Length of the audit in spans by the device's clock: so long that the host's sees as much of it within
/// a few per cent.
const AUDIT_SPANS: f64 = 20.0;

/// By this factor a device's clock may run slower than the host's before it is not believed.
const CLOCKS_APART_MAX: f64 = 1.5;

/// The longest submission that this system certainly lets a GPU finish: Windows resets a GPU that has not
/// answered for two seconds, macOS ends command buffers after some seconds, both at the cost of the device.
pub const SUBMISSION_S_MAX: f64 = if cfg!(any(windows, target_os = "macos")) {
    0.5
} else {
    f64::INFINITY
};

/// A device clock coarser than this is `quantised`: a browser's, for instance.
const QUANTISED_S: f64 = 1e-6;

/// Burst and settled rate are told apart from this relative difference on.
const BURST_DIFFERENCE_MIN: f64 = 0.03;

/// A hundred thousand launches in one submission is where drivers begin to choke.
pub const REPEAT_COUNT_MAX: u32 = 100_000;

/// A span this many times as long as it has to be is no hiccup, or one that does not matter.
const CERTAINLY_LONG: f64 = 20.0;

/// What recording one launch may cost a runner on the host, beside the span it reports.
const RECORDING_S_MAX: f64 = 20e-6;

/// A call among many may be slower than one among few, for a device that gets hot or busy, but three
/// times in a row not by this factor.
const SLOWER_AMONG_MANY_MAX: f64 = 4.0;

/// What one request may cost beside its spans: pipes, wake-ups, reading timestamps back.
const REQUEST_S_MAX: f64 = 0.05;

/// Seconds of one turn where two runners are timed by turns: far below what other work on a machine
/// comes and goes in. The shorter the better, down to the spans themselves.
const TURN_S: f64 = 4e-3;

/// Beside longer spans it does not count what the first costs to get the caches back.
const LEAD_SPAN_S_MAX: f64 = 20e-3;

/// Longest time for the turns of both sides, in times that one side alone would have.
const TURNS_TIME: f64 = 3.0;

/// Fewest rounds of each order, also when the time is up.
const ROUND_COUNT_FLOOR: usize = 2;

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
    /// Use the slope of the host's clock even where the device has one: the second opinion.
    pub host_slope: bool,
    /// Length of one more span that is timed by the conductor's own clock as well, to see that
    /// time grows with the calls and that the runner's clock runs as ours does; zero for none.
    pub audit_s: f64,
}

impl Policy {
    /// For the number that goes into the report.
    #[must_use]
    pub fn thorough(timer: &Timer, time_s_max: f64, silence: Duration) -> Self {
        let span_s_min = span_s_min(timer);
        Self {
            span_s_min,
            sample_count_floor: MEDIAN_SAMPLES_MIN,
            sample_count_min: 10,
            sample_count_max: 400,
            precision: 0.005,
            sampled_s_min: SAMPLED_S_MIN,
            warm_up_s_max: (time_s_max * 0.25).clamp(0.0, 3.0),
            time_s_max,
            silence,
            give_up_above_s: None,
            host_slope: false,
            audit_s: span_s_min
                * if timer.clock == "device" {
                    AUDIT_SPANS
                } else {
                    4.0
                },
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
            audit_s: 0.0,
            ..Self::thorough(timer, time_s_max, silence)
        }
    }
}

/// A span must be long against the clock's quantum, and long enough that the cost of a submission
/// and the jitter of the clock itself are small against it.
fn span_s_min(timer: &Timer) -> f64 {
    (QUANTA_MIN * timer.quantum_s).max(if timer.clock == "device" {
        1e-3
    } else {
        HOST_SPAN_S_MIN
    })
}

/// A measured variant.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Seconds of one call, one value per sample, in the order taken.
    pub samples: Vec<f64>,
    /// Their order statistics.
    pub summary: Summary,
    /// The clock they come from: `device`, `quantised` (the device's, but coarse), `host_slope`
    /// (the host's, with what a submission costs taken out) or `host`.
    pub clock: &'static str,
    /// Why it is not the clock that the runner offered, where it is not.
    pub clock_note: Option<String>,
    /// Calls per span.
    pub repeat_count: u32,
    /// Spans or pairs of spans whose times make no sense; left out.
    pub invalid_count: u32,
    /// Median over the spans of host time per call, beside the device's.
    pub host_s_median: f64,
    /// Median over the spans of the time to hand a submission over, per call.
    pub submit_s_median: Option<f64>,
    /// Median over the first 0.1 s, where it differs from the settled one.
    pub burst_s_median: Option<f64>,
    /// Which condition ended it.
    pub stop_reason: &'static str,
    /// The condition that was wanted and not met, with both numbers.
    pub not_converged: Option<String>,
}

/// What can come of a request to time.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The runner is gone.
    Fault(Fault),
    /// The runner refused or the numbers make no sense; it can go on with something else.
    Refused(String),
    /// The times contradict the conductor's own clock or do not grow with the work.
    Untrue(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// How a sample is made of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The device's timestamps around one span.
    Device,
    /// The host's clock around one span: nothing is submitted, so nothing need be taken out.
    Host,
    /// The difference of two spans of different length on the host's clock, over the difference of
    /// their calls: what every submission costs besides falls out.
    HostSlope,
}

impl Mode {
    fn label(self, timer: &Timer) -> &'static str {
        match self {
            Self::Device if timer.quantum_s >= QUANTISED_S => "quantised",
            Self::Device => "device",
            Self::Host => "host",
            Self::HostSlope => "host_slope",
        }
    }
}

/// Calls of the longer span of a slope, in units of the shorter.
const SLOPE_FACTOR: u32 = 3;

/// A span with the conductor's verdict on its host time.
#[derive(Clone, Copy, Debug)]
struct Seen {
    span: Span,
    /// Above zero, and not longer than the conductor itself waited.
    host_is_valid: bool,
}

impl Seen {
    /// Whether the device's clock can be believed for this span: it ran forward, and not for longer
    /// than the host waited (with a little grace for two clocks that tick differently).
    fn device_s(&self) -> Option<f64> {
        self.span
            .device_s
            .filter(|&device_s| self.host_is_valid && device_fits(&self.span, device_s))
    }

    fn host_s(&self) -> Option<f64> {
        self.host_is_valid.then_some(self.span.host_s)
    }

    /// Seconds of the whole span by the clock of `mode`.
    fn length_s(&self, mode: Mode) -> Option<f64> {
        match mode {
            Mode::Device => self.device_s(),
            Mode::Host | Mode::HostSlope => self.host_s(),
        }
    }
}

/// Times the prepared variant.
///
/// # Errors
/// When the runner dies, refuses or cannot be believed.
pub fn measure(
    runner: &mut dyn Conversation,
    timer: &Timer,
    policy: &Policy,
) -> Result<Measurement, Trouble> {
    let started = Instant::now();
    measure_by(runner, timer, policy, &|| started.elapsed().as_secs_f64())
}

/// Two measurements that were taken by turns.
#[derive(Clone, Debug)]
pub struct Turns {
    /// Each side's own.
    pub measurements: [Measurement; 2],
    /// Time of a call on the second side over that on the first: the geometric mean of the medians over
    /// the rounds that the first side began and over those that the second did.
    pub ratio: f64,
}

/// Times what two runners have prepared, by turns of a few milliseconds: a b, b a, a b, ..., or the
/// other side first. What disturbs a machine for longer than that disturbs both turns of a round
/// alike and falls out of their ratio, even where it makes each side's own times jump by half. What
/// it costs to come second has one sign in the rounds of one order and the other in those of the
/// other, and falls out of the mean of both medians.
///
/// # Errors
/// As [`measure`], with the side that it is of.
pub fn measure_by_turns(
    runners: [(&mut dyn Conversation, &Timer); 2],
    policy: &Policy,
    second_begins: bool,
) -> Result<Turns, (usize, Trouble)> {
    let started = Instant::now();
    let now = || started.elapsed().as_secs_f64();
    measure_by_turns_by(runners, policy, second_begins, &now)
}

/// As [`measure_by_turns`], with the conductor's clock given: seconds since any moment.
fn measure_by_turns_by(
    runners: [(&mut dyn Conversation, &Timer); 2],
    policy: &Policy,
    second_begins: bool,
    now: &dyn Fn() -> f64,
) -> Result<Turns, (usize, Trouble)> {
    let order = if second_begins { [1, 0] } else { [0, 1] };
    let mut sides = runners.map(|(runner, timer)| Stopwatch::new(runner, timer, policy, now));
    let mut ramps = [None, None];
    for index in order {
        let of = |trouble| (index, trouble);
        sides[index].fill_a_span().map_err(of)?;
        // No burst: the side that comes second finds a device that is warm already.
        (_, ramps[index]) = sides[index].warm_up().map_err(of)?;
    }
    let begun = now();
    let mut samples = [Samples::default(), Samples::default()];
    let mut poison = [true; 2];
    // Logarithms of the ratios of rounds, by which of the sides began.
    let mut ratios = [Vec::new(), Vec::new()];
    loop {
        for order in [order, [order[1], order[0]]] {
            let mut medians = [None; 2];
            for index in order {
                let side = &mut sides[index];
                let mode = side.mode;
                medians[index] = side
                    .turn(&mut samples[index], poison[index])
                    .map_err(|trouble| (index, trouble))?;
                // The two clocks are never mixed, and what is timed by the other one begins anew.
                poison[index] = side.mode != mode;
                if poison[index] {
                    ratios = [Vec::new(), Vec::new()];
                    medians = [None; 2];
                    break;
                }
            }
            if let [Some(first), Some(second)] = medians {
                ratios[order[0]].push(f64::ln(second / first));
            }
        }
        let of_both = |is: &dyn Fn(&Samples) -> bool| samples.iter().all(is);
        let enough = of_both(&|s| {
            s.count() >= policy.sample_count_min && s.host_s_total >= policy.sampled_s_min
        });
        let late = now() - begun >= TURNS_TIME * policy.time_s_max
            && of_both(&|s| s.count() >= policy.sample_count_floor);
        let rounds = ratios.iter().all(|list| list.len() >= ROUND_COUNT_FLOOR);
        if (enough || late) && rounds {
            break;
        }
        let asked_count_max = 2 * policy.sample_count_max;
        if let Some(index) = (0..2).find(|&index| samples[index].asked_count >= asked_count_max) {
            return Err((index, samples[index].useless()));
        }
    }
    let mut finished = Vec::new();
    for (index, samples) in samples.into_iter().enumerate() {
        let side = &mut sides[index];
        let of = |trouble| (index, trouble);
        let unmet = Summary::of(&samples.seconds).and_then(|summary| unmet(&summary, policy));
        let stop_reason = if samples.host_s_total >= policy.sampled_s_min {
            "turns_complete"
        } else {
            "time_limit"
        };
        let unmet: Vec<String> = [ramps[index].take(), unmet].into_iter().flatten().collect();
        let unmet = (!unmet.is_empty()).then(|| unmet.join("; "));
        let measurement = side.finish(samples, None, stop_reason, unmet).map_err(of)?;
        if policy.audit_s > 0.0
            && let Some(why) = side.audit(measurement.summary.median).map_err(of)?
        {
            return Err((index, Trouble::Untrue(why)));
        }
        finished.push(measurement);
    }
    let [first, second] = ratios.map(|list| Summary::of(&list).map_or(f64::NAN, |s| s.median));
    let ratio = f64::midpoint(first, second).exp();
    match <[Measurement; 2]>::try_from(finished) {
        Ok(measurements) if ratio.is_finite() => Ok(Turns {
            measurements,
            ratio,
        }),
        _ => Err((0, Trouble::Refused("no round has a valid ratio".to_owned()))),
    }
}

/// As [`measure`], with the conductor's clock given: seconds since any moment.
///
/// # Errors
/// As [`measure`].
pub fn measure_by(
    runner: &mut dyn Conversation,
    timer: &Timer,
    policy: &Policy,
    now: &dyn Fn() -> f64,
) -> Result<Measurement, Trouble> {
    Stopwatch::new(runner, timer, policy, now).run()
}

/// The interval of the median that was wanted and what it is, where it is wider.
fn unmet(summary: &Summary, policy: &Policy) -> Option<String> {
    let half_width = summary.relative_half_width();
    (half_width > policy.precision).then(|| {
        format!(
            "half the interval's width is {:.2} % of the median; wanted {:.2} %",
            100.0 * half_width,
            100.0 * policy.precision
        )
    })
}

/// Asks for timed spans, as many as `sample_count`, and wants them of `repeat_count` calls each.
///
/// # Errors
/// When the runner dies, refuses, or answers with something else than what was asked for.
pub fn ask_spans(
    runner: &mut dyn Conversation,
    silence: Duration,
    repeat_count: u32,
    sample_count: u32,
    poison: bool,
) -> Result<Vec<Span>, Trouble> {
    let request = Request::Measure {
        repeat_count,
        sample_count,
        poison,
    };
    match runner.ask(&request, silence)? {
        Response::Samples { samples } if samples.len() == sample_count as usize => {
            if let Some(span) = samples.iter().find(|span| {
                span.repeat_count != repeat_count
                    || !span.host_s.is_finite()
                    || span.device_s.is_some_and(|s| !s.is_finite())
            }) {
                return Err(Trouble::Refused(format!(
                    "the runner sent an impossible span: {span:?}"
                )));
            }
            Ok(samples)
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
}

/// Whether the host's time of a span fits into how long the conductor waited for the response.
#[must_use]
pub fn host_fits(span: &Span, waited_s: f64) -> bool {
    span.host_s > 0.0 && span.host_s <= waited_s * 1.02 + 1e-3
}

/// Whether the device's time of a span fits into the host's.
#[must_use]
pub fn device_fits(span: &Span, device_s: f64) -> bool {
    device_s > 0.0 && device_s <= span.host_s * 1.02 + 1e-4
}

/// One measurement under way.
struct Stopwatch<'a> {
    runner: &'a mut dyn Conversation,
    timer: &'a Timer,
    policy: &'a Policy,
    now: &'a dyn Fn() -> f64,
    started: f64,
    mode: Mode,
    repeat_count: u32,
    /// Seconds that one span takes on the host, as last seen.
    span_s: f64,
    note: Option<String>,
    /// Spans of the warm-up by a clock that was not believed.
    invalid_count: u32,
    /// Whether the runner submits work, which costs something besides the calls.
    submits: bool,
}

impl<'a> Stopwatch<'a> {
    fn new(
        runner: &'a mut dyn Conversation,
        timer: &'a Timer,
        policy: &'a Policy,
        now: &'a dyn Fn() -> f64,
    ) -> Self {
        Self {
            runner,
            timer,
            policy,
            now,
            started: now(),
            mode: if timer.clock == "device" && !policy.host_slope {
                Mode::Device
            } else {
                Mode::Host
            },
            repeat_count: 1,
            span_s: policy.span_s_min,
            note: None,
            invalid_count: 0,
            submits: false,
        }
    }
}

impl Stopwatch<'_> {
    fn elapsed(&self) -> f64 {
        (self.now)() - self.started
    }

    fn ask(
        &mut self,
        repeat_count: u32,
        sample_count: u32,
        poison: bool,
    ) -> Result<Vec<Seen>, Trouble> {
        let asked = (self.now)();
        let silence = self.policy.silence;
        let spans = ask_spans(self.runner, silence, repeat_count, sample_count, poison)?;
        let waited_s = (self.now)() - asked;
        self.submits |= spans.iter().any(|span| span.submit_s.is_some());
        Ok(spans
            .into_iter()
            .map(|span| Seen {
                span,
                host_is_valid: host_fits(&span, waited_s),
            })
            .collect())
    }

    fn run(&mut self) -> Result<Measurement, Trouble> {
        if let Some(slow) = self.fill_a_span()? {
            let mut samples = Samples::default();
            // A clock that says nothing of it must not make a slow variant a broken one.
            let told = slow.iter().any(|seen| seen.length_s(self.mode).is_some());
            if !told {
                self.mode = Mode::Host;
            }
            samples.take(&slow, self.mode, self.repeat_count);
            return self.finish(samples, None, "slower_than_needed", None);
        }
        let (burst, ramp) = self.warm_up()?;
        let measurement = self.settled(burst, ramp.clone())?;
        if self.policy.audit_s > 0.0
            && let Some(why) = self.audit(measurement.summary.median)?
        {
            self.distrust(why)?;
            let measurement = self.settled(None, ramp)?;
            self.audit(measurement.summary.median)?;
            return Ok(measurement);
        }
        Ok(measurement)
    }

    /// The samples of a device that has warmed up.
    fn settled(
        &mut self,
        burst: Option<f64>,
        ramp: Option<String>,
    ) -> Result<Measurement, Trouble> {
        let (samples, stop_reason, unmet) = self.sample()?;
        let unmet: Vec<String> = [ramp, unmet].into_iter().flatten().collect();
        self.finish(
            samples,
            burst,
            stop_reason,
            (!unmet.is_empty()).then(|| unmet.join("; ")),
        )
    }

    /// From now on by the host's clock: by the slope of it where work is submitted.
    fn distrust(&mut self, why: String) -> Result<(), Trouble> {
        self.note = Some(why);
        if self.submits {
            self.mode = Mode::HostSlope;
            self.fill_a_pair()
        } else {
            self.mode = Mode::Host;
            Ok(())
        }
    }

    /// Finds how many calls the spans of a pair need, so that the longer one takes longer by more than
    /// submissions vary. What a submission and the news of its end cost is in both.
    fn fill_a_pair(&mut self) -> Result<(), Trouble> {
        let wanted_s = self.policy.span_s_min.max(HOST_SPAN_S_MIN);
        let begun = (self.now)();
        self.repeat_count = self.repeat_count.min(self.repeat_count_max());
        let mut agreeing = 0;
        for _ in 0..12 {
            let short = self.ask(self.repeat_count, 1, false)?;
            let Some(short_s) = short[0].host_s() else {
                continue;
            };
            self.span_s = short_s.max(1e-6);
            let calls = self.repeat_count.saturating_mul(SLOPE_FACTOR);
            if short_s * f64::from(SLOPE_FACTOR) > SUBMISSION_S_MAX {
                // Beside so long a call a submission does not count.
                if self.repeat_count == 1 {
                    self.mode = Mode::Host;
                }
                self.repeat_count = (self.repeat_count / SLOPE_FACTOR).max(1);
                return Ok(());
            }
            let long = self.ask(calls, 1, false)?;
            let Some(long_s) = long[0].host_s() else {
                continue;
            };
            let more_s = long_s - short_s;
            // It may have been a hiccup, so it has to be as long once more.
            agreeing = if more_s >= wanted_s { agreeing + 1 } else { 0 };
            if agreeing >= 2
                || more_s >= CERTAINLY_LONG * wanted_s
                || self.repeat_count >= self.repeat_count_max()
                || (self.now)() - begun > 1.0
            {
                break;
            }
            if agreeing == 0 {
                let factor = (wanted_s / more_s.max(1e-9) * 1.2).clamp(2.0, 10.0);
                self.repeat_count = scaled(self.repeat_count, factor).min(self.repeat_count_max());
            }
        }
        Ok(())
    }

    /// Finds how many calls fill a span. Estimated more than once, because the first call of all is
    /// often slow and a single short one is mostly launch. A span is returned if it is so slow that
    /// the search has no use for more.
    fn fill_a_span(&mut self) -> Result<Option<Vec<Seen>>, Trouble> {
        for turn in 0..5 {
            let asked = (self.now)();
            let first = self.ask(self.repeat_count, 1, false)?;
            if turn == 0 && self.mode == Mode::Host {
                // A submission costs something that belongs to no call.
                if first[0].span.submit_s.is_some() {
                    self.mode = Mode::HostSlope;
                }
            }
            let mut span_s = first[0]
                .length_s(self.mode)
                .or(first[0].host_s())
                .unwrap_or(self.policy.span_s_min);
            self.span_s = first[0].host_s().unwrap_or(span_s);
            let call_s = span_s / f64::from(self.repeat_count);
            // A short span is mostly launch, and says nothing of the call.
            if span_s >= self.policy.span_s_min
                && self
                    .policy
                    .give_up_above_s
                    .is_some_and(|limit| call_s > limit)
            {
                return Ok(Some(first));
            }
            // By the conductor's own clock too: a runner that claims tiny spans must not be asked
            // for ever more calls.
            if (self.now)() - asked > 1.0 || span_s >= CERTAINLY_LONG * self.policy.span_s_min {
                break;
            }
            if span_s >= self.policy.span_s_min {
                // It may have been a hiccup, so it has to be as long once more.
                let again = self.ask(self.repeat_count, 1, false)?;
                span_s = again[0].length_s(self.mode).unwrap_or(span_s).min(span_s);
                if span_s >= self.policy.span_s_min {
                    break;
                }
            }
            let factor = (self.policy.span_s_min / span_s.max(1e-9) * 1.2).clamp(2.0, 1000.0);
            self.repeat_count = scaled(self.repeat_count, factor).min(self.repeat_count_max());
        }
        if self.mode == Mode::HostSlope {
            self.fill_a_pair()?;
        }
        Ok(None)
    }

    fn repeat_count_max(&self) -> u32 {
        match self.mode {
            Mode::HostSlope => REPEAT_COUNT_MAX / SLOPE_FACTOR,
            Mode::Device | Mode::Host => REPEAT_COUNT_MAX,
        }
    }

    /// Windows until the device has settled: real GPUs take from half a second to several to raise
    /// their clocks and to heat up. A window is long against one span, and three must agree, or
    /// neighbours would agree on any slow ramp. Returns the first window's median, which is the
    /// burst, and what was still moving when the time was up.
    fn warm_up(&mut self) -> Result<(Option<f64>, Option<String>), Trouble> {
        let (mut burst, mut previous, mut agreeing) = (None, None, 0);
        let mut change = None;
        let mut settled_s = None;
        let begun = (self.now)();
        while (self.now)() - begun < self.policy.warm_up_s_max {
            let span_count = whole(WARM_UP_WINDOW_S / self.span_s.max(1e-6)).clamp(1, 200);
            let window = self.ask(self.repeat_count, span_count, false)?;
            let mut samples = Samples::default();
            samples.take(&window, self.mode, self.repeat_count);
            let Some(summary) = Summary::of(&samples.seconds) else {
                if self.mode == Mode::Device {
                    self.invalid_count += samples.invalid_count;
                    self.distrust(samples.not_believed())?;
                    continue;
                }
                break;
            };
            burst.get_or_insert(summary.median);
            settled_s = Some(summary.median);
            change = previous.map(|previous: f64| (summary.median / previous - 1.0).abs());
            agreeing = match change {
                Some(change) if change < WARM_UP_CHANGE_MAX => agreeing + 1,
                _ => 0,
            };
            if agreeing >= 2 {
                break;
            }
            previous = Some(summary.median);
        }
        // A device that has raised its clocks meanwhile needs more calls for a span.
        if let Some(call_s) = settled_s {
            let span_s = call_s * f64::from(self.repeat_count);
            if span_s < 0.8 * self.policy.span_s_min {
                let factor = 1.1 * self.policy.span_s_min / span_s.max(1e-9);
                self.repeat_count = scaled(self.repeat_count, factor).min(self.repeat_count_max());
            }
        }
        if agreeing >= 2 {
            return Ok((burst, None));
        }
        let percent = 100.0 * WARM_UP_CHANGE_MAX;
        let ramp = match change {
            _ if self.policy.warm_up_s_max <= 0.0 => None,
            Some(change) if agreeing == 0 => Some(format!(
                "the last windows of the warm-up still differed by {:.1} %; wanted {percent:.0} %",
                100.0 * change
            )),
            // Two agreed, and there was no time for the third.
            Some(_) => None,
            None if burst.is_none() => None,
            None => Some(format!(
                "the warm-up had time for one window; wanted three in a row within {percent:.0} %"
            )),
        };
        Ok((burst, ramp))
    }

    fn sample(&mut self) -> Result<(Samples, &'static str, Option<String>), Trouble> {
        let policy = self.policy;
        let mut samples = Samples::default();
        let mut settling: Option<Settling> = None;
        let mut poison = true;
        loop {
            let chunk = self.chunk(samples.asked_count);
            let (before, mode) = (samples.seconds.len(), self.mode);
            self.take(chunk, poison, &mut samples)?;
            poison = false;
            if self.mode != mode {
                settling = None;
                poison = true;
                continue;
            }
            let count = samples.count();
            self.refuse_if_hopeless(&samples)?;
            let Some(summary) = Summary::of(&samples.seconds) else {
                continue;
            };
            let settling = settling.get_or_insert_with(|| {
                Settling::new(
                    (policy.precision * summary.median)
                        .max(self.timer.quantum_s / f64::from(self.repeat_count)),
                )
            });
            for &sample in &samples.seconds[before..] {
                settling.push(sample);
            }
            let unmet = unmet(&summary, policy);
            let reached = unmet.is_none();
            let enough =
                count >= policy.sample_count_min && samples.host_s_total >= policy.sampled_s_min;
            if enough && reached {
                return Ok((samples, "precision_reached", None));
            }
            if enough && settling.noise_settled() {
                return Ok((samples, "noise_settled", unmet));
            }
            if enough && settling.entropy_settled() {
                return Ok((samples, "entropy_settled", unmet));
            }
            if samples.asked_count >= policy.sample_count_max && count >= policy.sample_count_floor
            {
                return Ok((samples, "sample_limit", unmet));
            }
            if self.elapsed() >= policy.time_s_max && count >= policy.sample_count_floor {
                return Ok((samples, "time_limit", unmet));
            }
        }
    }

    /// One more chunk of samples. Where the device's clock turns out not to be believed, the samples
    /// by it are dropped, and the next ones are by the host's: the two are never mixed.
    fn take(&mut self, chunk: u32, poison: bool, samples: &mut Samples) -> Result<(), Trouble> {
        let mut short = Vec::new();
        if self.mode == Mode::HostSlope {
            // Pair by pair, so that a drift is in both alike; and one span a request, for among several a
            // runner may do the next one's work on the host while this one is timed there.
            let mut long = Vec::new();
            for taken in 0..chunk {
                short.extend(self.ask(self.repeat_count, 1, poison && taken == 0)?);
                let longer = self.repeat_count.saturating_mul(SLOPE_FACTOR);
                long.extend(self.ask(longer, 1, false)?);
            }
            samples.take_pairs(&short, &long, self.repeat_count);
        } else {
            short = self.ask(self.repeat_count, chunk, poison)?;
            samples.take(&short, self.mode, self.repeat_count);
        }
        if let Some(seen) = short.last() {
            self.span_s = seen.span.host_s.max(1e-6);
        }
        let enough = self.policy.sample_count_min.min(MEDIAN_SAMPLES_MIN);
        if self.mode == Mode::Device && samples.mostly_invalid(enough) {
            self.distrust(samples.not_believed())?;
            *samples = Samples {
                invalid_count: samples.invalid_count,
                ..Samples::default()
            };
        }
        Ok(())
    }

    /// Refuses a clock of which many spans have not given few valid samples.
    fn refuse_if_hopeless(&self, samples: &Samples) -> Result<(), Trouble> {
        let many = 2 * self.policy.sample_count_max.max(MEDIAN_SAMPLES_MIN);
        if samples.asked_count >= many && samples.count() < self.policy.sample_count_floor {
            return Err(samples.useless());
        }
        Ok(())
    }

    /// One turn of a race: the median of its valid samples, which are added to `samples`.
    fn turn(&mut self, samples: &mut Samples, poison: bool) -> Result<Option<f64>, Trouble> {
        // The other side has had the caches: its first span is what it costs to get them back.
        let lead = self.span_s < LEAD_SPAN_S_MAX;
        if lead {
            self.ask(self.repeat_count, 1, poison)?;
        }
        let span_s = self.span_s.max(1e-6) * self.spans_a_sample();
        let chunk = whole(TURN_S / span_s).clamp(1, 50);
        let before = samples.seconds.len();
        self.take(chunk, poison && !lead, samples)?;
        self.refuse_if_hopeless(samples)?;
        let taken = samples.seconds.get(before..).unwrap_or_default();
        Ok(Summary::of(taken).map(|summary| summary.median))
    }

    /// How long one sample is, in shorter spans.
    fn spans_a_sample(&self) -> f64 {
        match self.mode {
            Mode::HostSlope => f64::from(1 + SLOPE_FACTOR),
            Mode::Device | Mode::Host => 1.0,
        }
    }

    /// Spans to ask for at once: near a quarter of a second, so that an interrupt is heeded soon,
    /// and no more than there is time for.
    fn chunk(&self, asked_count: u32) -> u32 {
        let policy = self.policy;
        let span_s = (self.span_s * self.spans_a_sample()).max(1e-6);
        let wanted = if asked_count == 0 {
            policy.sample_count_min
        } else {
            policy.sample_count_max / 16
        };
        let room = policy.sample_count_max.saturating_sub(asked_count);
        let left_s = (policy.time_s_max - self.elapsed()).max(0.0);
        let missing = policy.sample_count_floor.saturating_sub(asked_count);
        whole(left_s.min(0.25) / span_s)
            .max(missing.min(whole(0.25 / span_s)))
            .clamp(1, wanted.max(1))
            .min(room.max(1))
    }

    fn finish(
        &self,
        samples: Samples,
        burst: Option<f64>,
        stop_reason: &'static str,
        not_converged: Option<String>,
    ) -> Result<Measurement, Trouble> {
        let (Some(summary), Some(host)) =
            (Summary::of(&samples.seconds), Summary::of(&samples.host))
        else {
            return Err(Trouble::Refused("no timed span is valid".to_owned()));
        };
        if summary.median <= 0.0 {
            return Err(Trouble::Refused("no timed span is valid".to_owned()));
        }
        let differs = |burst: &f64| (burst / summary.median - 1.0).abs() > BURST_DIFFERENCE_MIN;
        Ok(Measurement {
            clock: self.mode.label(self.timer),
            clock_note: self.note.clone(),
            repeat_count: self.repeat_count,
            invalid_count: samples.invalid_count + self.invalid_count,
            host_s_median: host.median,
            submit_s_median: Summary::of(&samples.submit).map(|summary| summary.median),
            // The slope takes the submission out, the first window does not.
            burst_s_median: burst
                .filter(differs)
                .filter(|_| self.mode != Mode::HostSlope),
            stop_reason,
            not_converged,
            samples: samples.seconds,
            summary,
        })
    }

    /// One more span, longer than the others, seen by the conductor's clock as well. Work that is
    /// left out does not grow with the calls; a clock that is too slow does not agree with ours.
    /// Only what three tries in a row confirm is held against a runner, for a machine may be busy.
    /// Returns why the device's clock is not to be believed where the host's, by which so many more calls
    /// take longer, contradicts it.
    fn audit(&mut self, median_s: f64) -> Result<Option<String>, Trouble> {
        let calls = (self.policy.audit_s / median_s).max(2.0 * f64::from(self.repeat_count));
        let calls = calls.min(SUBMISSION_S_MAX / median_s);
        let repeat_count = whole(calls).clamp(1, REPEAT_COUNT_MAX);
        let mut complaint = None;
        let mut slow_clock = None;
        for _ in 0..3 {
            // A short span right before the long one: the machine may be busier now than it was.
            let short = self.ask(self.repeat_count, 1, false)?;
            let asked = (self.now)();
            let seen = self.ask(repeat_count, 1, false)?;
            let waited_s = (self.now)() - asked;
            let calls = f64::from(repeat_count);
            let (Some(claimed_s), Some(short_s)) =
                (seen[0].length_s(self.mode), short[0].length_s(self.mode))
            else {
                complaint = None;
                slow_clock = None;
                continue;
            };
            slow_clock = self.slower_than_the_hosts(&short[0], &seen[0]);
            if slow_clock.is_some() {
                complaint = None;
                continue;
            }
            let call_s = claimed_s / calls;
            let median_s = median_s.min(short_s / f64::from(self.repeat_count));
            let believable_s =
                1.5 * claimed_s.max(median_s * calls) + RECORDING_S_MAX * calls + REQUEST_S_MAX;
            complaint = if repeat_count >= 2 * self.repeat_count && call_s < median_s / 1.5 {
                Some(format!(
                    "time does not grow with the work: {} calls take {:.3e} s each, {repeat_count} take {call_s:.3e} s each",
                    self.repeat_count, median_s
                ))
            } else if call_s > median_s * SLOWER_AMONG_MANY_MAX {
                Some(format!(
                    "{} calls take {median_s:.3e} s each, but {repeat_count} take {call_s:.3e} s each: one of the two is untrue",
                    self.repeat_count
                ))
            } else if waited_s > believable_s {
                Some(format!(
                    "the runner says that {repeat_count} calls took {claimed_s:.3e} s, but the conductor waited {waited_s:.3e} s for them"
                ))
            } else {
                None
            };
            if complaint.is_none() {
                return Ok(None);
            }
        }
        complaint.map_or(Ok(slow_clock), |reason| Err(Trouble::Untrue(reason)))
    }

    /// What is to be said of a device's clock that sees much less time pass than the host's between a
    /// shorter and a longer span, so that what submissions cost counts for neither: the period that the
    /// API states for its ticks may be wrong, and all numbers would be off by the same factor.
    fn slower_than_the_hosts(&self, short: &Seen, long: &Seen) -> Option<String> {
        if self.mode != Mode::Device || long.span.repeat_count < 2 * short.span.repeat_count {
            return None;
        }
        let device_s = long.device_s()? - short.device_s()?;
        let host_s = long.host_s()? - short.host_s()?;
        let calls = long.span.repeat_count - short.span.repeat_count;
        // Below that the news of the end may be what took long.
        (host_s > HOST_SPAN_S_MIN && host_s > CLOCKS_APART_MAX * device_s).then(|| {
            format!(
                "by the device's clock {calls} calls more took {device_s:.3e} s more, by the host's {host_s:.3e} s"
            )
        })
    }
}

/// What has been sampled.
#[derive(Debug, Default)]
struct Samples {
    /// Seconds of one call, by the clock of the mode.
    seconds: Vec<f64>,
    /// The same by the host's clock, submission and wake-up included.
    host: Vec<f64>,
    /// Seconds to hand a submission over, per call.
    submit: Vec<f64>,
    invalid_count: u32,
    asked_count: u32,
    host_s_total: f64,
}

impl Samples {
    /// Why the device's clock is not used.
    fn not_believed(&self) -> String {
        format!(
            "{} of {} spans by the device's clock were zero, backwards or longer than the host waited",
            self.invalid_count, self.asked_count
        )
    }

    /// What is said of a clock of which too few spans are valid.
    fn useless(&self) -> Trouble {
        Trouble::Refused(format!(
            "{} of {} timed spans are zero, backwards or longer than the conductor waited",
            self.invalid_count, self.asked_count
        ))
    }

    fn take(&mut self, spans: &[Seen], mode: Mode, repeat_count: u32) {
        for seen in spans {
            self.note(seen);
            match seen.length_s(mode) {
                Some(length_s) => self.seconds.push(length_s / f64::from(repeat_count)),
                None => self.invalid_count += 1,
            }
        }
    }

    /// One sample per pair of a shorter and a longer span.
    fn take_pairs(&mut self, short: &[Seen], long: &[Seen], repeat_count: u32) {
        let calls = f64::from(repeat_count * (SLOPE_FACTOR - 1));
        for (one, other) in short.iter().zip(long) {
            self.note(one);
            self.host_s_total += other.span.host_s;
            match (one.host_s(), other.host_s()) {
                (Some(one), Some(other)) if other > one => {
                    self.seconds.push((other - one) / calls);
                }
                _ => self.invalid_count += 1,
            }
        }
    }

    /// Valid samples so far.
    fn count(&self) -> u32 {
        u32::try_from(self.seconds.len()).unwrap_or(u32::MAX)
    }

    fn note(&mut self, seen: &Seen) {
        let calls = f64::from(seen.span.repeat_count);
        self.asked_count += 1;
        if let Some(host_s) = seen.host_s() {
            self.host.push(host_s / calls);
            self.host_s_total += host_s;
        }
        if let Some(submit_s) = seen.span.submit_s.filter(|s| s.is_finite() && *s >= 0.0) {
            self.submit.push(submit_s / calls);
        }
    }

    /// Whether a clock cannot be believed: at least half of enough spans make no sense by it.
    fn mostly_invalid(&self, enough: u32) -> bool {
        self.asked_count >= enough && self.seconds.len() * 2 <= self.asked_count as usize
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped first
fn whole(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

fn scaled(count: u32, factor: f64) -> u32 {
    whole((f64::from(count) * factor).ceil()).clamp(1, REPEAT_COUNT_MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A runner in a world of its own time: calls take `call_s`, every request costs `submit_s`
    /// besides, and what it says of both clocks is up to the test.
    struct Fake {
        clock: Rc<Cell<f64>>,
        call_s: f64,
        submit_s: f64,
        /// Relative to the number of spans so far.
        noise: fn(u32) -> f64,
        /// What other work makes of a time, by the moment.
        neighbours: fn(f64) -> f64,
        /// What the runner says of a span that took so many seconds and calls.
        device: fn(f64, u32) -> Option<f64>,
        host: fn(f64, u32) -> f64,
        /// Calls that are left out beyond this many.
        calls_max: u32,
        asked: Vec<(u32, u32, bool)>,
        spans: u32,
    }

    impl Fake {
        fn new(call_s: f64) -> Self {
            Self {
                clock: Rc::default(),
                call_s,
                submit_s: 0.0,
                noise: |_| 0.0,
                neighbours: |_| 1.0,
                device: |s, _| Some(s),
                host: |s, _| s,
                calls_max: u32::MAX,
                asked: Vec::new(),
                spans: 0,
            }
        }

        fn measured(&mut self, policy: &Policy) -> Result<Measurement, Trouble> {
            let clock = Rc::clone(&self.clock);
            measure_by(self, &timer(), policy, &|| clock.get())
        }

        fn thorough(&mut self) -> Measurement {
            let policy = Policy::thorough(&timer(), 5.0, Duration::from_secs(1));
            self.measured(&policy).unwrap()
        }
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
                    let calls = f64::from(repeat_count.min(self.calls_max));
                    let work_s = self.call_s
                        * calls
                        * (1.0 + (self.noise)(self.spans + i))
                        * (self.neighbours)(self.clock.get());
                    let host_s = work_s + self.submit_s;
                    self.clock.set(self.clock.get() + host_s);
                    Span {
                        device_s: (self.device)(work_s, self.spans + i),
                        host_s: (self.host)(host_s, self.spans + i),
                        submit_s: Some(self.submit_s),
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

    fn close(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 1e-6
    }

    /// Two sides in the same world.
    fn raced(first: &mut Fake, second: &mut Fake) -> Result<Turns, (usize, Trouble)> {
        second.clock = Rc::clone(&first.clock);
        let clock = Rc::clone(&first.clock);
        let policy = Policy {
            sample_count_floor: 3,
            sampled_s_min: 0.4,
            audit_s: 0.25,
            ..Policy::thorough(&timer(), 0.6, Duration::from_secs(1))
        };
        let timer = timer();
        measure_by_turns_by([(first, &timer), (second, &timer)], &policy, false, &|| {
            clock.get()
        })
    }

    #[test]
    fn turns_see_through_neighbours_that_make_both_sides_jump() {
        // Half as slow again for 0.17 s of every 0.3, which no median of one side survives.
        let fake = |call_s: f64| Fake {
            neighbours: |now| if now % 0.3 < 0.17 { 1.5 } else { 1.0 },
            noise: |i| f64::from(i * 7 % 5) * 1e-3,
            ..Fake::new(call_s)
        };
        for slower in [1.0, 1.02, 0.9] {
            let turns = raced(&mut fake(1e-3), &mut fake(1e-3 * slower)).unwrap();
            assert!(
                (turns.ratio / slower - 1.0).abs() < 2e-3,
                "{slower}: {turns:?}"
            );
            for measurement in &turns.measurements {
                assert!(measurement.summary.max > 1.4 * measurement.summary.min);
                let seconds: f64 = measurement.samples.iter().sum();
                assert!(
                    seconds * f64::from(measurement.repeat_count) >= 0.4,
                    "{seconds}"
                );
            }
        }
        // A call that is longer than a turn takes one turn.
        let turns = raced(&mut fake(0.02), &mut fake(0.021)).unwrap();
        assert!((turns.ratio / 1.05 - 1.0).abs() < 2e-3, "{turns:?}");
    }

    #[test]
    fn a_side_whose_clock_fails_is_raced_by_the_hosts_and_one_without_any_is_named() {
        // Its device's clock is good for the warm-up and stands still from then on.
        let mut bad = Fake {
            device: |s, i| (i < 150).then_some(s),
            ..Fake::new(2e-3)
        };
        let turns = raced(&mut Fake::new(1e-3), &mut bad).unwrap();
        assert_eq!(turns.measurements[0].clock, "device");
        assert_ne!(turns.measurements[1].clock, "device");
        assert!((turns.ratio / 2.0 - 1.0).abs() < 0.01, "{}", turns.ratio);
        let poisoned = bad.asked.iter().filter(|asked| asked.2).count();
        assert_eq!(poisoned, 2, "once by each clock");
        // Valid for a while, and then never again: no ratio can come of it.
        let mut fading = Fake {
            device: |_, _| None,
            host: |s, i| if i < 8 { s } else { -1.0 },
            ..Fake::new(0.1)
        };
        assert!(raced(&mut Fake::new(0.1), &mut fading).is_err());
        let mut broken = Fake {
            device: |_, _| Some(-1.0),
            host: |_, _| -1.0,
            ..Fake::new(1e-3)
        };
        let (side, trouble) = raced(&mut Fake::new(1e-3), &mut broken).unwrap_err();
        assert_eq!(side, 1);
        assert!(matches!(trouble, Trouble::Refused(_)), "{trouble:?}");
        // What is claimed must still agree with the conductor's own clock.
        let mut lying = Fake {
            device: |s, _| Some(0.3 * s),
            host: |s, _| 0.3 * s,
            ..Fake::new(1e-3)
        };
        let (side, trouble) = raced(&mut lying, &mut Fake::new(1e-3)).unwrap_err();
        assert_eq!(side, 0);
        assert!(matches!(trouble, Trouble::Untrue(_)), "{trouble:?}");
    }

    #[test]
    fn short_calls_are_batched_until_the_span_is_long_against_the_clock() {
        let measurement = Fake::new(1e-6).thorough();
        assert!(measurement.repeat_count >= 1000);
        assert!(close(measurement.summary.median, 1e-6));
        assert_eq!(
            (measurement.clock, measurement.stop_reason),
            ("device", "precision_reached")
        );
        assert_eq!(measurement.not_converged, None);
    }

    #[test]
    fn spans_are_a_hundred_quanta_of_a_coarse_clock_and_say_so() {
        let coarse = Timer {
            quantum_s: 65_536e-9,
            ..timer()
        };
        let mut fake = Fake::new(1e-4);
        let clock = Rc::clone(&fake.clock);
        let policy = Policy::thorough(&coarse, 5.0, Duration::from_secs(1));
        let measurement = measure_by(&mut fake, &coarse, &policy, &|| clock.get()).unwrap();
        assert!(f64::from(measurement.repeat_count) * 1e-4 >= 100.0 * 65_536e-9);
        assert_eq!(measurement.clock, "quantised");
    }

    #[test]
    fn noise_that_does_not_narrow_ends_when_it_has_settled_and_says_what_was_not_reached() {
        let mut fake = Fake::new(1e-3);
        fake.noise = |span| f64::from(span % 2) * 0.5;
        let measurement = fake.thorough();
        assert_eq!(measurement.stop_reason, "noise_settled");
        let unmet = measurement.not_converged.unwrap();
        assert!(unmet.contains("wanted 0.50 %"), "{unmet}");
    }

    #[test]
    fn a_drift_ends_at_the_time_limit() {
        let mut fake = Fake::new(2e-3);
        fake.noise = |span| f64::from(span) * 0.01;
        let measurement = fake.thorough();
        assert!(
            ["time_limit", "sample_limit"].contains(&measurement.stop_reason),
            "{}",
            measurement.stop_reason
        );
        assert!(fake.clock.get() < 5.0 * 1.1, "{} s", fake.clock.get());
    }

    #[test]
    fn warm_up_goes_on_while_a_device_gets_slower_and_the_burst_is_told_apart() {
        let mut fake = Fake::new(1e-3);
        // It slows down by 10 % over the first 600 spans of a millisecond.
        fake.noise = |span| 0.1 * (f64::from(span) / 600.0).min(1.0);
        let measurement = fake.thorough();
        assert!(close(measurement.summary.median, 1.1e-3), "{measurement:?}");
        assert!(measurement.burst_s_median.unwrap() < 1.02e-3);
        let steady = Fake::new(1e-3).thorough();
        assert_eq!(steady.burst_s_median, None);
    }

    #[test]
    fn a_device_clock_that_cannot_be_gives_way_to_the_slope_of_the_hosts() {
        let absurd: [fn(f64, u32) -> Option<f64>; 5] = [
            |_, _| Some(0.0),
            |s, _| Some(-s),
            |s, _| Some(s * 2.0),
            |_, _| None,
            // It jumps back every other time.
            |s, span| Some(if span % 2 == 0 { s } else { s - 1e3 }),
        ];
        for device in absurd {
            let mut fake = Fake::new(2e-3);
            fake.device = device;
            // A submission costs a tenth of a call, and none of it may remain.
            fake.submit_s = 2e-4;
            let measurement = fake.thorough();
            assert_eq!(measurement.clock, "host_slope");
            assert!(close(measurement.summary.median, 2e-3), "{measurement:?}");
            assert!(measurement.invalid_count > 0);
            assert!(measurement.clock_note.is_some());
            assert!(measurement.host_s_median > 2.0e-3);
        }
    }

    #[test]
    fn a_device_clock_that_runs_slow_against_the_hosts_gives_way_to_it() {
        for factor in [2.0, 10.0] {
            for call_s in [2e-6, 1e-4, 2e-3, 0.1] {
                let mut fake = Fake::new(call_s);
                // A period of the ticks that is half or a tenth of the true one.
                fake.device = if factor < 3.0 {
                    |s, _| Some(s / 2.0)
                } else {
                    |s, _| Some(s / 10.0)
                };
                fake.submit_s = 2e-4;
                let measurement = fake.thorough();
                assert_eq!(measurement.clock, "host_slope", "{factor} {call_s}");
                assert!(close(measurement.summary.median, call_s), "{measurement:?}");
                let note = measurement.clock_note.unwrap();
                assert!(note.contains("by the host's"), "{note}");
            }
        }
        // Within the audit's tolerance the device's clock is what counts.
        let mut fake = Fake::new(1e-3);
        fake.device = |s, _| Some(s / 1.3);
        assert_eq!(fake.thorough().clock, "device");
    }

    #[test]
    fn pairs_are_so_long_that_what_submissions_vary_by_does_not_count() {
        // Submission and completion take 6 ms, give or take a fifth: far more than the calls.
        for call_s in [1e-5, 1e-4, 1e-3] {
            let mut fake = Fake::new(call_s);
            fake.device = |_, _| None;
            fake.submit_s = 6e-3;
            fake.host = |s, span| s + 1.2e-3 * (f64::from(span * 7919 % 13) / 6.0 - 1.0);
            let measurement = fake.thorough();
            assert_eq!(measurement.clock, "host_slope");
            let ratio = measurement.summary.median / call_s;
            assert!((0.9..1.1).contains(&ratio), "{call_s}: {ratio}");
        }
    }

    #[test]
    fn a_clock_of_nothing_but_zeros_is_left_before_the_warm_up() {
        let mut fake = Fake::new(1e-3);
        fake.device = |_, _| Some(0.0);
        // It slows down by 10 % over the first 100 spans, which a warm-up sees.
        fake.noise = |span| 0.1 * (f64::from(span) / 100.0).min(1.0);
        let measurement = fake.thorough();
        assert_eq!(measurement.clock, "host_slope");
        assert!((measurement.summary.median / 1.1e-3 - 1.0).abs() < 0.01);
        // And what is slower than needed is slow, not broken.
        let mut fake = Fake::new(1e-2);
        fake.device = |_, _| Some(0.0);
        let policy = Policy {
            give_up_above_s: Some(1e-3),
            ..Policy::glance(&timer(), 3, 1.0, Duration::from_secs(1))
        };
        let measurement = fake.measured(&policy).unwrap();
        assert_eq!(measurement.stop_reason, "slower_than_needed");
    }

    #[test]
    fn a_few_invalid_pairs_are_left_out_and_counted() {
        let mut fake = Fake::new(2e-3);
        fake.device = |s, span| (span % 5 != 0).then_some(s);
        let measurement = fake.thorough();
        assert_eq!(measurement.clock, "device");
        assert!(measurement.invalid_count > 0);
        assert!(close(measurement.summary.median, 2e-3));
    }

    #[test]
    fn a_host_clock_that_jumps_ahead_is_not_believed() {
        let mut fake = Fake::new(2e-3);
        fake.device = |_, _| None;
        fake.host = |s, span| if span % 7 == 3 { s + 3600.0 } else { s };
        let measurement = fake.thorough();
        assert!(measurement.invalid_count > 0);
        assert!(close(measurement.summary.median, 2e-3));
        // And one that always does leaves nothing to report.
        let mut fake = Fake::new(2e-3);
        fake.device = |_, _| None;
        fake.host = |s, _| s + 3600.0;
        let policy = Policy::thorough(&timer(), 5.0, Duration::from_secs(1));
        assert!(matches!(fake.measured(&policy), Err(Trouble::Refused(_))));
    }

    #[test]
    fn the_second_clock_agrees_with_the_first() {
        let mut fake = Fake::new(2e-3);
        fake.submit_s = 5e-4;
        let policy = Policy {
            host_slope: true,
            ..Policy::thorough(&timer(), 5.0, Duration::from_secs(1))
        };
        let measurement = fake.measured(&policy).unwrap();
        assert_eq!(measurement.clock, "host_slope");
        assert!(close(measurement.summary.median, 2e-3));
        assert_eq!(measurement.submit_s_median.map(|s| s > 0.0), Some(true));
    }

    fn external() -> Policy {
        Policy {
            audit_s: 0.25,
            ..Policy::thorough(&timer(), 5.0, Duration::from_secs(1))
        }
    }

    #[test]
    fn a_runner_whose_clock_runs_slow_is_caught_by_ours() {
        let mut liar = Fake::new(2e-3);
        liar.device = |s, _| Some(s / 2.5);
        liar.host = |s, _| s / 2.5;
        match liar.measured(&external()) {
            Err(Trouble::Untrue(reason)) => assert!(reason.contains("the conductor waited")),
            other => panic!("believed: {other:?}"),
        }
    }

    #[test]
    fn work_that_does_not_grow_with_the_calls_is_caught() {
        let mut lazy = Fake::new(2e-3);
        lazy.calls_max = 1;
        match lazy.measured(&external()) {
            Err(Trouble::Untrue(reason)) => assert!(reason.contains("does not grow"), "{reason}"),
            other => panic!("believed: {other:?}"),
        }
    }

    #[test]
    fn the_output_is_poisoned_once_before_the_first_timed_span() {
        let mut fake = Fake::new(1e-3);
        fake.thorough();
        assert_eq!(
            fake.asked.iter().filter(|(_, _, poison)| *poison).count(),
            1
        );
    }

    #[test]
    fn slow_calls_get_the_floor_of_samples_and_no_more() {
        let mut fake = Fake::new(2.0);
        let measurement = fake.thorough();
        assert_eq!(measurement.samples.len(), 6);
        assert!(measurement.summary.median > 1.99);
    }
}
