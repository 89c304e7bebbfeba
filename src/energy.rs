//! Joules of one call, from an energy counter or from sampled power over a steady window.
//!
//! The device repeats one call without a pause while a thread watches the counter. The counter moves
//! in steps, so the average power is taken between two moments at which it was seen to move, both
//! inside the steady work: neither the grain of the counter nor what the device does before and
//! after is in it. Joules of one call are that power times the mean time of one call.

use std::time::{Duration, Instant};

use crate::report::Energy;
use crate::telemetry::{Background, Counter, Meter, Sensors};

/// Shortest window: counters step every 20 to 100 ms on many devices.
pub const WINDOW_S_MIN: f64 = 2.0;

/// Longest time to wait for what a counter or a power reading says of the time before to pass.
const SETTLE_S_MIN: f64 = 0.3;

/// Time between two looks at the counter: the ends of the window are known to about this much.
const POLL: Duration = Duration::from_millis(5);

/// A power reading is taken at every so many looks: it is slower to get, and changes less often.
const LOOKS_PER_POWER: u32 = 4;

/// Fewest power readings that make an integral.
const POWER_COUNT_MIN: usize = 5;

/// Least part of the window that a counter's steps, or power readings, must span.
const SPAN_FRACTION_MIN: f64 = 0.5;

/// Average power may exceed the enforced limit by this much: limits hold on average, not at once.
const LIMIT_EXCESS_MAX: f64 = 0.05;

/// Counter and sampled power may differ by this much before one of them is doubted.
const DISAGREEMENT_MAX: f64 = 0.1;

/// One look at the sensors.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at_s: f64,
    energy_j: Option<f64>,
    power_w: Option<f64>,
}

/// Average power between two steps of a counter.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    power_w: f64,
    window_s: f64,
    update_period_s: f64,
    /// How well the ends of the window are known, relative to it.
    resolution: f64,
}

/// Average of sampled power.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Integrated {
    power_w: f64,
    window_s: f64,
    reading_count: usize,
}

/// The steady work that was watched, in seconds of the looks' clock.
#[derive(Clone, Copy, Debug)]
struct Steady {
    /// When the device had been at work long enough for a counter.
    from_s: f64,
    /// The same for a power reading, which may be a mean over a second.
    power_from_s: f64,
    /// When the work ended.
    to_s: f64,
    /// Calls between `from_s` and `to_s`.
    call_count: u64,
}

/// Measures the joules of one call while `work` keeps the device busy.
///
/// `work` gets the seconds it should at least take, makes calls without a pause for about that long
/// and gives back how many it made; it is asked again if it took less. It is asked first to settle
/// the device and then for the window. The window is at least [`WINDOW_S_MIN`]. Where there is no
/// counter and no power reading nothing is run, and the inner result says why.
///
/// # Errors
/// The outer error is that of `work`. The inner one is why there is no number.
pub fn energy<E>(
    sensors: &Sensors,
    window_s: f64,
    work: impl FnMut(f64) -> Result<u64, E>,
) -> Result<Result<Energy, String>, E> {
    over(sensors, window_s.max(WINDOW_S_MIN), SETTLE_S_MIN, work)
}

fn over<E>(
    sensors: &Sensors,
    window_s: f64,
    settle_s_min: f64,
    mut work: impl FnMut(f64) -> Result<u64, E>,
) -> Result<Result<Energy, String>, E> {
    if let Some(reason) = no_joules(sensors) {
        return Ok(Err(reason));
    }
    let started = Instant::now();
    let Some(looks) = watch(sensors, started) else {
        return Ok(Err(
            "the system gave no thread to watch the sensors".to_owned()
        ));
    };
    let now_s = || started.elapsed().as_secs_f64();
    let begun_s = now_s();
    // A counter is what counts where there is one; power beside it only has to agree.
    let power_settle_s = sensors.meter().map_or(0.0, |meter| meter.settle_s);
    let settle_s = match sensors.counter() {
        Some(_) => settle_s_min,
        None => power_settle_s.max(settle_s_min),
    };
    busy(settle_s, &mut work)?;
    let from_s = now_s();
    let call_count = busy(window_s, &mut work)?;
    let steady = Steady {
        from_s,
        power_from_s: from_s.max(begun_s + power_settle_s),
        to_s: now_s(),
        call_count,
    };
    let Some(looks) = looks.stop() else {
        return Ok(Err("the sensors stopped answering".to_owned()));
    };
    if let Some(reason) = sensors.absent() {
        return Ok(Err(reason));
    }
    Ok(assess(
        sensors.counter(),
        sensors.meter(),
        sensors.power_limit_w(),
        &looks,
        &steady,
    ))
}

/// Average power over `window_s` with nothing to do, for [`Energy::idle_power_w`]; absent where it
/// cannot be measured. Right after work a device is warm and its clocks are up, so this belongs
/// before.
#[must_use]
pub fn idle_power_w(sensors: &Sensors, window_s: f64) -> Option<f64> {
    if no_joules(sensors).is_some() {
        return None;
    }
    let started = Instant::now();
    let looks = watch(sensors, started)?;
    // What a reading looks back at may be the opening of the device.
    let settle_s = match (sensors.counter(), sensors.meter()) {
        (None, Some(meter)) => meter.settle_s.clamp(0.0, 5.0),
        _ => 0.0,
    };
    let whole_s = settle_s + window_s.clamp(0.0, 60.0);
    std::thread::sleep(Duration::from_secs_f64(whole_s));
    let to_s = started.elapsed().as_secs_f64();
    let looks = looks.stop()?;
    let counted = sensors.counter().map(|_| counted(&looks, 0.0, to_s));
    match counted {
        Some(Ok(counted)) => Some(counted.power_w),
        _ => integrated(&looks, settle_s, to_s).map(|integrated| integrated.power_w),
    }
}

/// Why there can be no number: neither counter nor meter. One of them is enough.
#[must_use]
pub fn no_joules(sensors: &Sensors) -> Option<String> {
    if let Some(reason) = sensors.absent() {
        return Some(reason);
    }
    (sensors.counter().is_none() && sensors.meter().is_none()).then(|| {
        sensors
            .energy_absent()
            .unwrap_or_else(|| "the device shows neither energy nor power".to_owned())
    })
}

fn watch(sensors: &Sensors, started: Instant) -> Option<Background<Look>> {
    let sensors = sensors.clone();
    let mut count = 0u32;
    Background::start(POLL, move || {
        let before = started.elapsed();
        let energy_j = sensors.energy_j();
        let at_s = (before + started.elapsed()).as_secs_f64() / 2.0;
        let power_w = count
            .is_multiple_of(LOOKS_PER_POWER)
            .then(|| sensors.power_w())
            .flatten();
        count = count.wrapping_add(1);
        Look {
            at_s,
            energy_j,
            power_w,
        }
    })
}

/// Has work done for at least `least_s`, and counts the calls.
fn busy<E>(least_s: f64, work: &mut impl FnMut(f64) -> Result<u64, E>) -> Result<u64, E> {
    let started = Instant::now();
    let mut call_count = 0u64;
    loop {
        let left_s = least_s - started.elapsed().as_secs_f64();
        if left_s <= 0.0 {
            return Ok(call_count);
        }
        let made = work(left_s)?;
        call_count = call_count.saturating_add(made);
        if made == 0 {
            return Ok(call_count);
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn assess(
    counter: Option<&Counter>,
    meter: Option<&Meter>,
    power_limit_w: Option<f64>,
    looks: &[Look],
    steady: &Steady,
) -> Result<Energy, String> {
    if steady.call_count == 0 {
        return Err("not one call was made in the window".to_owned());
    }
    let sampled = meter.and_then(|meter| {
        integrated(looks, steady.power_from_s, steady.to_s).map(|sampled| (meter, sampled))
    });
    let counted = counter.map(|counter| {
        counted(looks, steady.from_s, steady.to_s)
            .map(|counted| (counter, counted))
            .map_err(|trouble| (format!("{}: {}", counter.source, trouble.words()), trouble))
    });
    let mut energy = match (counted, sampled) {
        (Some(Ok((counter, counted))), sampled) => by_counter(counter, &counted, sampled),
        // A counter that makes no sense casts doubt on everything from there; one that only moves
        // too seldom does not.
        (Some(Err((reason, Trouble::Backwards { .. }))), _) => return Err(reason),
        (Some(Err((reason, _))), Some((meter, sampled))) => by_power(meter, &sampled, Some(reason)),
        (Some(Err((reason, _))), None) => return Err(reason),
        (None, Some((meter, sampled))) => by_power(meter, &sampled, None),
        (None, None) => {
            return Err(format!(
                "{} gave too few readings in the window",
                meter.map_or("the power meter", |meter| meter.source.as_str())
            ));
        }
    };
    let power_w = energy.power_w.unwrap_or_default();
    let call_s = (steady.to_s - steady.from_s) / steady.call_count as f64;
    energy.joules = power_w * call_s;
    energy.call_count = Some(steady.call_count);
    energy.power_limit_w = power_limit_w;
    if !(energy.joules.is_finite() && energy.joules > 0.0) {
        return Err(format!(
            "{} says {power_w} W on average, which no device at work draws",
            energy.source
        ));
    }
    if let Some(limit_w) =
        power_limit_w.filter(|limit_w| power_w > limit_w * (1.0 + LIMIT_EXCESS_MAX))
    {
        doubt(
            &mut energy,
            format!(
                "{power_w:.1} W on average is above the enforced limit of {limit_w:.1} W, so the \
                 source or the window is wrong"
            ),
        );
    }
    Ok(energy)
}

fn by_counter(
    counter: &Counter,
    counted: &Counted,
    sampled: Option<(&Meter, Integrated)>,
) -> Energy {
    let class = match (counter.package, counted.resolution < 0.01) {
        (true, _) => "package",
        (false, true) => "counter",
        (false, false) => "counter_coarse",
    };
    let mut energy = Energy {
        source: counter.source.clone(),
        window_s: counted.window_s,
        quality: format!(
            "{class}: covers {}; it stepped every {:.3} s, and the ends of the window are known to \
             {:.1} % of it",
            counter.covers,
            counted.update_period_s,
            counted.resolution * 100.0
        ),
        power_w: Some(counted.power_w),
        update_period_s: Some(counted.update_period_s),
        ..Energy::default()
    };
    if let Some((meter, sampled)) = sampled {
        let ratio = sampled.power_w / counted.power_w;
        energy.sampled_power_ratio = Some(ratio).filter(|ratio| ratio.is_finite());
        let both = format!(
            "{} says {:.1} W where the counter says {:.1} W ({:+.1} %)",
            meter.source,
            sampled.power_w,
            counted.power_w,
            (ratio - 1.0) * 100.0
        );
        if (ratio - 1.0).abs() > DISAGREEMENT_MAX {
            doubt(&mut energy, both);
        } else {
            energy.quality += &format!("; {both}");
        }
    }
    energy
}

fn by_power(meter: &Meter, sampled: &Integrated, instead_of: Option<String>) -> Energy {
    let instead_of = instead_of.map_or_else(String::new, |reason| format!("; {reason}"));
    Energy {
        source: meter.source.clone(),
        window_s: sampled.window_s,
        quality: format!(
            "integrated_power: {} readings over {:.2} s; covers {}{instead_of}",
            sampled.reading_count, sampled.window_s, meter.covers
        ),
        power_w: Some(sampled.power_w),
        ..Energy::default()
    }
}

/// Writes down what speaks against a number, also where people read how good it is.
fn doubt(energy: &mut Energy, words: String) {
    energy.quality += &format!("; doubtful: {words}");
    energy.doubt = Some(match energy.doubt.take() {
        Some(before) => format!("{before}; {words}"),
        None => words,
    });
}

/// Why a counter gave no average.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Unread,
    Backwards { from_j: f64, to_j: f64 },
    Still { step_count: usize, window_s: f64 },
}

impl Trouble {
    fn words(self) -> String {
        match self {
            Self::Unread => "it could not be read through the window".to_owned(),
            Self::Backwards { from_j, to_j } => {
                format!("it ran backwards, from {from_j} J to {to_j} J")
            }
            Self::Still {
                step_count,
                window_s,
            } => format!("it moved only {step_count} times in {window_s:.2} s of steady work"),
        }
    }
}

/// Average power between the first and the last step of the counter from `from_s` to `to_s`.
#[allow(clippy::cast_precision_loss)]
fn counted(looks: &[Look], from_s: f64, to_s: f64) -> Result<Counted, Trouble> {
    struct Step {
        at_s: f64,
        energy_j: f64,
        /// Since the look before, in which the counter had not moved yet.
        gap_s: f64,
    }
    let readings: Vec<(f64, f64)> = looks
        .iter()
        .filter_map(|look| Some((look.at_s, look.energy_j?)))
        .collect();
    let mut steps: Vec<Step> = Vec::new();
    for pair in readings.windows(2) {
        let ((before_s, before_j), (at_s, energy_j)) = (pair[0], pair[1]);
        if energy_j < before_j {
            return Err(Trouble::Backwards {
                from_j: before_j,
                to_j: energy_j,
            });
        }
        if energy_j > before_j && (from_s..=to_s).contains(&at_s) {
            steps.push(Step {
                at_s,
                energy_j,
                gap_s: at_s - before_s,
            });
        }
    }
    let within = || {
        looks
            .iter()
            .filter(|look| (from_s..=to_s).contains(&look.at_s))
    };
    if within().filter(|look| look.energy_j.is_none()).count() * 2 >= within().count() {
        return Err(Trouble::Unread);
    }
    let still = Trouble::Still {
        step_count: steps.len(),
        window_s: to_s - from_s,
    };
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return Err(still);
    };
    let window_s = last.at_s - first.at_s;
    if window_s <= 0.0 || window_s < SPAN_FRACTION_MIN * (to_s - from_s) {
        return Err(still);
    }
    Ok(Counted {
        power_w: (last.energy_j - first.energy_j) / window_s,
        window_s,
        update_period_s: window_s / (steps.len() - 1) as f64,
        resolution: (first.gap_s + last.gap_s) / window_s,
    })
}

/// Average of the power readings from `from_s` to `to_s`, by the trapezoid rule; absent where they
/// are few or do not span the window.
fn integrated(looks: &[Look], from_s: f64, to_s: f64) -> Option<Integrated> {
    let readings: Vec<(f64, f64)> = looks
        .iter()
        .filter(|look| (from_s..=to_s).contains(&look.at_s))
        .filter_map(|look| Some((look.at_s, look.power_w?)))
        .collect();
    let (first, last) = (readings.first()?, readings.last()?);
    let window_s = last.0 - first.0;
    if readings.len() < POWER_COUNT_MIN
        || window_s <= 0.0
        || window_s < SPAN_FRACTION_MIN * (to_s - from_s)
    {
        return None;
    }
    let joules: f64 = readings
        .windows(2)
        .map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0)
        .sum();
    Some(Integrated {
        power_w: joules / window_s,
        window_s,
        reading_count: readings.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(package: bool) -> Counter {
        Counter {
            source: "nvml total energy".to_owned(),
            covers: "the whole board".to_owned(),
            package,
        }
    }

    fn meter() -> Meter {
        Meter {
            source: "nvml power".to_owned(),
            covers: "the whole board".to_owned(),
            settle_s: 0.5,
        }
    }

    const STEADY: Steady = Steady {
        from_s: 0.5,
        power_from_s: 0.5,
        to_s: 2.5,
        call_count: 1000,
    };

    /// Looks every 5 ms for 3 s at a counter that steps every `period_s`, on a device that draws
    /// `power_w` from 0.2 s to 2.6 s and a tenth of it before and after.
    fn looks(power_w: f64, period_s: f64) -> Vec<Look> {
        let truth_j = |at_s: f64| {
            let busy_s = (at_s - 0.2).clamp(0.0, 2.4);
            power_w * busy_s + 0.1 * power_w * (at_s - busy_s)
        };
        (0..600)
            .map(|index| {
                let at_s = f64::from(index) * 0.005;
                let busy = (0.2..2.6).contains(&at_s);
                Look {
                    at_s,
                    energy_j: Some(truth_j((at_s / period_s + 1e-9).floor() * period_s)),
                    power_w: (index % 4 == 0).then_some(if busy { power_w } else { 0.1 * power_w }),
                }
            })
            .collect()
    }

    fn by(
        counter: Option<&Counter>,
        meter: Option<&Meter>,
        looks: &[Look],
    ) -> Result<Energy, String> {
        assess(counter, meter, Some(350.0), looks, &STEADY)
    }

    fn near(value: f64, wanted: f64) {
        assert!((value / wanted - 1.0).abs() < 0.01, "{value} {wanted}");
    }

    #[test]
    fn a_counter_gives_the_power_of_the_steady_part_whatever_its_grain() {
        for period_s in [0.005, 0.02, 0.1] {
            let energy = by(Some(&counter(false)), None, &looks(300.0, period_s)).unwrap();
            // 300 W over 2 ms a call.
            near(energy.joules, 0.6);
            near(energy.power_w.unwrap(), 300.0);
            near(energy.update_period_s.unwrap(), period_s);
            assert!(
                energy
                    .quality
                    .starts_with("counter: covers the whole board")
            );
            assert_eq!((energy.call_count, energy.doubt), (Some(1000), None));
        }
    }

    #[test]
    fn quality_names_its_class_first() {
        let package = by(Some(&counter(true)), None, &looks(65.0, 0.005)).unwrap();
        assert!(package.quality.starts_with("package: "), "{package:?}");
        // Looks at every tenth time: the ends of the window are known to 5 %.
        let seldom: Vec<Look> = looks(300.0, 0.1).into_iter().step_by(10).collect();
        let coarse = by(Some(&counter(false)), None, &seldom).unwrap();
        assert!(coarse.quality.starts_with("counter_coarse: "), "{coarse:?}");
        let sampled = by(None, Some(&meter()), &looks(300.0, 0.1)).unwrap();
        assert!(
            sampled.quality.starts_with("integrated_power: "),
            "{sampled:?}"
        );
    }

    #[test]
    fn a_known_power_is_integrated_by_the_trapezoid_rule() {
        // A ramp from 100 W to 300 W over 2 s, read at uneven moments: 400 J.
        let ramp: Vec<Look> = [0.0, 0.1, 0.5, 0.6, 1.3, 1.9, 2.0]
            .into_iter()
            .map(|at_s| Look {
                at_s,
                energy_j: None,
                power_w: Some(100.0 + 100.0 * at_s),
            })
            .collect();
        let found = integrated(&ramp, 0.0, 2.0).unwrap();
        assert!((found.power_w * found.window_s - 400.0).abs() < 1e-9);
        assert_eq!((found.window_s, found.reading_count), (2.0, 7));
        assert_eq!(integrated(&ramp, 0.0, 5.0), None);
        assert_eq!(integrated(&ramp[..4], 0.0, 0.6), None);
        assert_eq!(integrated(&[], 0.0, 1.0), None);
    }

    #[test]
    fn power_serves_where_there_is_no_counter_or_it_stands_still() {
        let energy = by(None, Some(&meter()), &looks(300.0, 0.1)).unwrap();
        near(energy.joules, 0.6);
        assert_eq!(energy.source, "nvml power");
        let still = looks(300.0, 10.0);
        let energy = by(Some(&counter(false)), Some(&meter()), &still).unwrap();
        near(energy.joules, 0.6);
        assert_eq!(energy.source, "nvml power");
        assert!(energy.quality.contains("moved only 0 times"), "{energy:?}");
        let reason = by(Some(&counter(false)), None, &still).unwrap_err();
        assert!(reason.contains("moved only 0 times in 2.00 s"), "{reason}");
    }

    #[test]
    fn counter_and_power_that_disagree_cast_doubt_and_say_by_how_much() {
        let mut looks = looks(300.0, 0.02);
        let agreed = by(Some(&counter(false)), Some(&meter()), &looks).unwrap();
        near(agreed.sampled_power_ratio.unwrap(), 1.0);
        assert_eq!(agreed.doubt, None);
        for look in &mut looks {
            look.power_w = look.power_w.map(|watts| watts * 0.8);
        }
        let apart = by(Some(&counter(false)), Some(&meter()), &looks).unwrap();
        near(apart.sampled_power_ratio.unwrap(), 0.8);
        let doubt = apart.doubt.unwrap();
        assert!(
            doubt.contains("240.0 W") && doubt.contains("-20"),
            "{doubt}"
        );
        assert!(apart.quality.contains("doubtful"));
    }

    #[test]
    fn power_above_the_limit_casts_doubt_with_both_numbers() {
        let energy = by(Some(&counter(false)), None, &looks(360.0, 0.02)).unwrap();
        assert_eq!(energy.doubt, None);
        let energy = by(Some(&counter(false)), None, &looks(400.0, 0.02)).unwrap();
        let doubt = energy.doubt.unwrap();
        assert!(
            doubt.contains("350.0 W") && doubt.contains("400.0 W"),
            "{doubt}"
        );
        assert!(energy.quality.contains(&doubt));
    }

    #[test]
    fn a_counter_that_runs_backwards_is_a_reason_and_not_a_number() {
        let mut looks = looks(300.0, 0.02);
        looks[300].energy_j = Some(1.0);
        let reason = by(Some(&counter(false)), Some(&meter()), &looks).unwrap_err();
        assert!(reason.contains("ran backwards, from "), "{reason}");
    }

    #[test]
    fn a_device_that_vanishes_is_a_reason_and_not_a_number() {
        let mut looks = looks(300.0, 0.02);
        for look in &mut looks[200..] {
            (look.energy_j, look.power_w) = (None, None);
        }
        let reason = by(Some(&counter(false)), Some(&meter()), &looks).unwrap_err();
        assert!(reason.contains("could not be read"), "{reason}");
        let reason = by(None, Some(&meter()), &looks).unwrap_err();
        assert!(reason.contains("too few readings"), "{reason}");
        assert!(by(Some(&counter(false)), None, &[]).is_err());
    }

    #[test]
    fn no_call_and_no_power_are_reasons() {
        let none = Steady {
            call_count: 0,
            ..STEADY
        };
        let found = assess(
            Some(&counter(false)),
            None,
            None,
            &looks(300.0, 0.02),
            &none,
        );
        assert!(found.unwrap_err().contains("not one call"));
        let reason = by(None, Some(&meter()), &looks(0.0, 0.02)).unwrap_err();
        assert!(reason.contains("0 W on average"), "{reason}");
    }

    #[test]
    fn work_is_asked_until_the_window_is_full_and_its_calls_are_counted() {
        let sensors = Sensors::of_formulas(
            Some(counter(false)),
            Some(meter()),
            |at_s| Some(50.0 * at_s),
            |_| Some(50.0),
        );
        let mut calls = 0;
        let found = over(&sensors, 0.2, 0.02, |_| {
            std::thread::sleep(Duration::from_millis(1));
            calls += 3;
            Ok::<u64, String>(3)
        });
        let energy = found.unwrap().unwrap();
        assert_eq!(energy.source, "nvml total energy");
        // The calls that settled the device are not counted.
        assert!(
            energy
                .call_count
                .is_some_and(|counted| counted > 0 && counted < calls)
        );
        // How near to 50 W it comes is up to the machine's load.
        assert!(energy.joules > 0.0 && energy.window_s > 0.0);
        assert!(idle_power_w(&sensors, 0.1).is_some());
    }

    #[test]
    fn trouble_of_the_work_is_passed_on_and_no_work_is_done_for_nothing() {
        let sensors = Sensors::of_formulas(Some(counter(false)), None, Some, |_| None);
        let found = over(&sensors, 0.2, 0.02, |_| Err("the runner died"));
        assert_eq!(found, Err("the runner died"));
        let found = over(&sensors, 0.05, 0.02, |_| Ok::<u64, String>(0));
        assert!(found.unwrap().unwrap_err().contains("not one call"));
        let absent = Sensors::none("no sensors here".to_owned());
        let found = energy(&absent, 10.0, |_| -> Result<u64, String> {
            panic!("nothing should be run")
        });
        assert_eq!(found, Ok(Err("no sensors here".to_owned())));
        assert_eq!(idle_power_w(&absent, 10.0), None);
    }
}
