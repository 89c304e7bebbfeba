//! What differences a machine can tell: known slowdowns are injected, and the very rule that judges
//! comparisons has to find them.
//!
//! A kernel of nothing but multiply-adds is given exactly x % more steps, so that it truly does x %
//! more work, verified like any other. Each block starts one fresh process for the plain kernel,
//! one for the same again, and one for each slowdown, in an order shuffled per block; so many
//! blocks in a row make one comparison of each with the first.

use std::fs;
use std::path::{Path, PathBuf};

use crate::case::{Sight, sight};
use crate::compare::{Verdict, verdict_of_pairs};
use crate::display;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::input;
use crate::interleave::{
    Choice, Contestant, Way, choose, first_pair, fresh, pair, policy, with_session,
};
use crate::interrupt::interrupted;
use crate::measure::ask_spans;
use crate::op::{Case, Dtype, OpName, Shape};
use crate::protocol::Device;
use crate::report::{
    Calibration, ClockAgreement, Confirmation, MEDIAN, MINIMUM, RunnerRecord, SlowdownFound, TURNS,
    slug,
};
use crate::run::{self, Reach, Watcher};
use crate::stats;
use crate::tune::End;

/// The slowdowns that are injected unless others are asked for, relative.
pub const SLOWDOWNS: [f64; 5] = [0.005, 0.01, 0.02, 0.05, 0.1];

/// Steps come in multiples of this: half a per cent of it is eight, which is one turn of the
/// kernels' unrolled loop, so that more steps are more of the same turns and nothing else.
const STEPS_UNIT: u64 = 1600;

/// The largest slowdown that can be injected, relative.
pub const SLOWDOWN_MAX: f64 = 0.5;

/// The most steps of the plain kernel: with [`SLOWDOWN_MAX`] more they still count exactly.
const STEPS_MAX: u64 = 86_400;

/// The most invocations; beyond this even large devices are full.
const INVOCATIONS_MAX: u64 = 1 << 20;

/// A call should take this long: far above what a launch costs, short against what one process may
/// measure.
const CALL_S_WANTED: f64 = 3e-3;

/// Least tie width: a clock and a span of a hundred of its quanta cannot promise more.
const TIE_WIDTH_MIN: f64 = 0.005;

/// How often a slowdown has to be found to count as detectable.
const FOUND_SHARE: f64 = 0.95;

/// Blocks lost in a row after which the calibration is given up.
const LOSSES_MAX: u32 = 5;

/// Seconds for the search of the variant.
const SEARCH_S: f64 = 2.0;

/// What is to be calibrated.
#[derive(Clone, Debug)]
pub struct Request {
    /// The runner by name, path or command.
    pub runner: String,
    /// How to reach it.
    pub reach: Reach,
    /// Fresh processes on each side of a comparison.
    pub process_count: u32,
    /// Comparisons of each kind.
    pub comparison_count: u32,
    /// The slowdowns to inject, relative, ascending: multiples of 0.005 up to [`SLOWDOWN_MAX`].
    pub slowdowns: Vec<f64>,
    /// Seed of inputs and of the order of processes.
    pub seed: u32,
}

/// A calibration, and what it says beyond what a report keeps.
#[derive(Clone, Debug)]
pub struct Findings {
    /// What a report keeps.
    pub calibration: Calibration,
    /// The device it holds for.
    pub device: Device,
    /// Comparisons of the same with the same that were called the same.
    pub called_same_count: u32,
    /// Whether the user ended it before all comparisons were made.
    pub interrupted: bool,
}

/// The case with its share more steps.
fn slowed(invocations: u64, steps: u64, slowdown: f64) -> Result<Case> {
    // Whole by STEPS_UNIT: the smallest slowdown is 1/200.
    let thousandths = (slowdown * 1000.0).round();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // five to five hundred
    let more = steps * thousandths as u64 / 1000;
    let sizes = [("invocations", invocations), ("steps", steps + more)];
    Case::new(OpName::Fma, &Shape::of(&sizes), Dtype::F32)
}

/// Finds the size at which a call takes long enough, and the variant that does it best.
fn size_up(request: &Request, first: &RunnerRecord) -> Result<(u64, u64, Choice)> {
    let (mut invocations, mut steps) = (4096, STEPS_UNIT);
    loop {
        let case = slowed(invocations, steps, 0.0)?;
        let choice = choose(
            &request.runner,
            &request.reach,
            first,
            &case,
            case.clone(),
            request.seed,
            SEARCH_S,
        )
        .map_err(|end| ended(&request.runner, end))?;
        let time_s = choice.time_s(&choice.variant).unwrap_or(CALL_S_WANTED);
        let factor = CALL_S_WANTED / time_s;
        // Wider first, so that the whole device is busy; then longer.
        if factor < 1.5 || steps >= STEPS_MAX {
            return Ok((invocations, steps, choice));
        }
        if invocations < INVOCATIONS_MAX {
            invocations = (invocations * doublings(factor)).min(INVOCATIONS_MAX);
        } else {
            steps = (steps * doublings(factor)).min(STEPS_MAX);
        }
    }
}

/// The power of two next to `factor`, from two to 64: a small size says little of a large one.
fn doublings(factor: f64) -> u64 {
    (1..6)
        .map(|power| 1u64 << power)
        .find(|&by| factor < 1.5 * f64::from(u32::try_from(by).unwrap_or(u32::MAX)))
        .unwrap_or(64)
}

fn ended(runner: &str, end: End) -> Error {
    match end {
        End::Interrupted => Error::new(ErrorKind::Partial, "the calibration was interrupted"),
        End::Fault(_) if interrupted() => {
            Error::new(ErrorKind::Partial, "the calibration was interrupted")
        }
        End::Fault(fault) => Error::new(ErrorKind::Transient, fault.message),
        End::Wrong(reason) => Error::new(ErrorKind::WrongResults, reason),
        End::Skipped(reason) | End::Failed(reason) | End::Implausible(reason) => Error::new(
            ErrorKind::MeasurementInvalid,
            format!("runner {runner} cannot be calibrated: {reason}"),
        ),
    }
}

/// A permutation of `0..count`, another one for each `turn`.
fn shuffled(count: usize, seed: u32, turn: u32) -> Vec<usize> {
    let keys = input::keys(seed, turn);
    let mut order: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        let word = input::word(keys, u32::try_from(place).unwrap_or(u32::MAX));
        order.swap(place, word as usize % (place + 1));
    }
    order
}

/// Calibrates, and tells `watcher` how it goes.
///
/// # Errors
/// When the runner cannot be opened or cannot run the kernel, or not one comparison was completed.
pub fn calibrate(request: &Request, watcher: &mut dyn Watcher) -> Result<Findings> {
    let first = run::open(&request.runner, &request.reach)?.record;
    let device = first.device.clone();
    let (invocations, steps, choice) = size_up(request, &first)?;
    let mut cases = vec![
        slowed(invocations, steps, 0.0)?,
        slowed(invocations, steps, 0.0)?,
    ];
    for &slowdown in &request.slowdowns {
        cases.push(slowed(invocations, steps, slowdown)?);
    }
    let block_count = request.process_count * request.comparison_count;
    let clocks = compare_clocks(request, &first, &cases[0], &choice);
    let bench = Bench {
        request,
        first: &first,
        choice: &choice,
        cases: &cases,
    };
    let way = bench.find_way(watcher)?;
    watcher.say(&format!(
        "calibrating {} on {} ({}) with {}: {block_count} blocks, {} of it against {} others",
        first.runner.name,
        device.name,
        device.backend,
        cases[0].id(),
        match way {
            Way::Turns => "each a race by turns",
            Way::Apart => "each one process after the other",
        },
        cases.len() - 1
    ));
    let blocks = bench.measure(way, 0, watcher)?;
    let (mut calibration, called_same_count) =
        conclude_by_the_steadier(&blocks, request.process_count, &request.slowdowns).ok_or_else(
            || {
                Error::new(
                    ErrorKind::Partial,
                    "the calibration ended before one comparison was complete",
                )
            },
        )?;
    if let Some(slowdown) = calibration.detectable_change.and_then(twice)
        && !interrupted()
    {
        watcher.say(&format!(
            "smallest change found: {} %; now twice of it, by processes that had no part in finding it",
            display::digits(calibration.detectable_change.unwrap_or_default() * 100.0)
        ));
        let slower = slowed(invocations, steps, slowdown)?;
        let cases = [cases[0].clone(), cases[1].clone(), slower];
        let bench = Bench {
            cases: &cases,
            ..bench
        };
        let fresh = bench.measure(way, block_count, watcher)?;
        calibration.confirmation = confirm(&fresh, request.process_count, &calibration, slowdown);
    }
    Ok(Findings {
        calibration: Calibration {
            made_at: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            runner: first.runner.name.clone(),
            device: device.name.clone(),
            backend: Some(device.backend.clone()),
            driver: Some(device.driver.clone()),
            case_id: cases[0].id(),
            clocks,
            ..calibration
        },
        device,
        called_same_count,
        interrupted: interrupted(),
    })
}

/// Twice the threshold as a slowdown that can be injected: the next one upwards; `None` where it is
/// more than can be.
fn twice(threshold: f64) -> Option<f64> {
    // A threshold that is a level itself must not be rounded up by what binary fractions leave.
    let wanted = (2.0 * threshold / SLOWDOWNS[0] - 1e-9).ceil() * SLOWDOWNS[0];
    (wanted <= SLOWDOWN_MAX).then_some(wanted)
}

/// What one block says.
#[derive(Clone, Debug, PartialEq)]
struct Block {
    /// Time of each case over that of the plain kernel in the process it took turns with; one for the
    /// plain kernel itself. Empty where processes ran one after the other.
    ratios: Vec<f64>,
    /// Median and fastest sample of a process of each case.
    times: Vec<[f64; 2]>,
}

/// What every block runs.
struct Bench<'a> {
    request: &'a Request,
    /// The runner as it was when it was opened first.
    first: &'a RunnerRecord,
    choice: &'a Choice,
    /// The plain kernel, the same again, and its slowdowns.
    cases: &'a [Case],
}

impl<'a> Bench<'a> {
    fn contestant(&self, case: &'a Case) -> Contestant<'a> {
        Contestant {
            name: &self.request.runner,
            first: self.first,
            case,
            variant: &self.choice.variant,
        }
    }

    /// Whether two processes can live at the same time here.
    fn find_way(&self, watcher: &mut dyn Watcher) -> Result<Way> {
        let Request { reach, seed, .. } = self.request;
        let contestants = [self.contestant(&self.cases[0]); 2];
        let say = &mut |line: &str| watcher.say(line);
        first_pair(reach, contestants, *seed, say)
            .map(|(_, way)| way)
            .map_err(|(_, end)| ended(&self.request.runner, end))
    }

    /// What all blocks say, for as many as the comparisons need, or as many as were made before the
    /// user had enough.
    fn measure(&self, way: Way, block_first: u32, watcher: &mut dyn Watcher) -> Result<Vec<Block>> {
        let request = self.request;
        let block_count = request.process_count * request.comparison_count;
        let mut blocks: Vec<Block> = Vec::new();
        let mut losses = 0;
        for index in block_first..block_first + block_count {
            let measured = match way {
                Way::Turns => self.by_turns(index),
                Way::Apart => self.apart(index),
            };
            match measured {
                Ok(block) => {
                    losses = 0;
                    blocks.push(block);
                }
                Err(_) if interrupted() => break,
                Err(end @ End::Wrong(_)) => return Err(ended(&request.runner, end)),
                Err(end) => {
                    losses += 1;
                    let error = ended(&request.runner, end);
                    watcher.say(&format!("block {} is lost: {error}", index + 1));
                    if losses >= LOSSES_MAX {
                        return Err(error);
                    }
                }
            }
            if blocks.len().is_multiple_of(request.process_count as usize) && losses == 0 {
                watcher.say(&format!(
                    "[{}/{}] comparisons",
                    blocks.len() / request.process_count as usize,
                    request.comparison_count
                ));
            }
        }
        Ok(blocks)
    }

    /// The plain kernel against every other case by turns, each pair in two fresh processes.
    fn by_turns(&self, block: u32) -> std::result::Result<Block, End> {
        let Request { reach, seed, .. } = self.request;
        let cases = self.cases;
        let mut ratios = vec![1.0; cases.len()];
        let mut times = vec![[0.0; 2]; cases.len()];
        for index in shuffled(cases.len() - 1, *seed, block) {
            let index = index + 1;
            let sides = [&cases[0], &cases[index]].map(|case| self.contestant(case));
            let turned = block % 2 == 1;
            let found = pair(Way::Turns, reach, sides, *seed, turned).map_err(|(_, end)| end)?;
            one_clock(&found.sights)?;
            ratios[index] = found
                .ratio
                .ok_or_else(|| End::Failed("the processes took no turns".to_owned()))?;
            times[index] = both_statistics(&found.sights[1]);
            if index == 1 {
                times[0] = both_statistics(&found.sights[0]);
            }
        }
        Ok(Block { ratios, times })
    }

    /// One fresh process for each case, one after the other.
    fn apart(&self, block: u32) -> std::result::Result<Block, End> {
        let Request {
            runner,
            reach,
            seed,
            ..
        } = self.request;
        let cases = self.cases;
        let mut taken: Vec<Option<Sight>> = cases.iter().map(|_| None).collect();
        for index in shuffled(cases.len(), *seed, block) {
            let variant = &self.choice.variant;
            taken[index] = Some(fresh(
                runner,
                reach,
                self.first,
                &cases[index],
                *seed,
                variant,
            )?);
        }
        let taken: Vec<Sight> = taken.into_iter().flatten().collect();
        one_clock(&taken)?;
        Ok(Block {
            ratios: Vec::new(),
            times: taken.iter().map(both_statistics).collect(),
        })
    }
}

/// Times by different clocks make no block.
fn one_clock(sights: &[Sight]) -> std::result::Result<(), End> {
    let clock = |sight: &Sight| sight.measurement.clock;
    if sights
        .windows(2)
        .all(|two| clock(&two[0]) == clock(&two[1]))
    {
        Ok(())
    } else {
        Err(End::Failed(
            "its processes did not measure by the same clock".to_owned(),
        ))
    }
}

fn both_statistics(sight: &Sight) -> [f64; 2] {
    let summary = sight.measurement.summary;
    [summary.median, summary.min]
}

/// Pairs of spans by which the two clocks are compared, and the length of the shorter of each; the
/// other has three times its calls.
const CLOCK_PAIRS: u32 = 60;
const CLOCK_SPAN_S: f64 = 10e-3;
const CLOCK_FACTOR: u32 = 3;

/// The same kernel by the device's clock and by the slope of the host's, both of the very same spans,
/// so that nothing else can differ; `None` where the device has no clock of its own or does not keep
/// to it.
fn compare_clocks(
    request: &Request,
    first: &RunnerRecord,
    case: &Case,
    choice: &Choice,
) -> Option<ClockAgreement> {
    if first.timer.clock != "device" {
        return None;
    }
    let mut opened = run::open(&request.runner, &request.reach).ok()?;
    with_session(&mut opened, request.reach.silence, |session| {
        let policy = policy(&request.runner, &session.timer, session.silence);
        let checked = sight(session, case, request.seed, &choice.variant, &policy).ok()?;
        if checked.measurement.clock == "host_slope" {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most a million
        let calls = (CLOCK_SPAN_S / checked.measurement.summary.median)
            .ceil()
            .clamp(1.0, 1e6) as u32;
        let mut span = |calls| {
            let spans = ask_spans(session.runner, session.silence, calls, 1, false).ok()?;
            Some((spans[0].host_s, spans[0].device_s?))
        };
        let mut pairs = Vec::new();
        for _ in 0..CLOCK_PAIRS {
            let (short, long) = (span(calls)?, span(CLOCK_FACTOR * calls)?);
            pairs.push((long.0 - short.0, long.1 - short.1));
        }
        agreement(&pairs, f64::from((CLOCK_FACTOR - 1) * calls))
    })
}

/// What pairs of slopes (host's, device's) over so many calls say of the two clocks.
fn agreement(pairs: &[(f64, f64)], calls: f64) -> Option<ClockAgreement> {
    let valid = |pair: &&(f64, f64)| pair.0 > 0.0 && pair.1 > 0.0;
    let valid: Vec<&(f64, f64)> = pairs.iter().filter(valid).collect();
    if 2 * valid.len() < pairs.len() {
        return None;
    }
    let median = |of: &dyn Fn(&(f64, f64)) -> f64| {
        stats::median(&valid.iter().map(|pair| of(pair)).collect::<Vec<_>>())
    };
    Some(ClockAgreement {
        device_s: median(&|pair| pair.1 / calls)?,
        host_slope_s: median(&|pair| pair.0 / calls)?,
        ratio: median(&|pair| pair.0 / pair.1)?,
    })
}

/// By turns, where the processes took any: what they are compared by is then the ratio. Else medians
/// or minima. Other work on a machine makes medians scatter, and hardly the fastest samples; on a
/// quiet one the median is the better statistic, and what reports show. So the minimum is taken only
/// where its spread between processes is less than half of the median's: a rule set beforehand and
/// blind to what is found by either.
fn conclude_by_the_steadier(
    blocks: &[Block],
    process_count: u32,
    slowdowns: &[f64],
) -> Option<(Calibration, u32)> {
    let medians = statistic_of(blocks, MEDIAN);
    let concluded = |judged: &[Vec<f64>], times: &[Vec<f64>], statistic: &str| {
        let (calibration, called_same_count) = conclude(judged, times, process_count, slowdowns)?;
        let statistic = statistic.to_owned();
        Some((
            Calibration {
                statistic,
                ..calibration
            },
            called_same_count,
        ))
    };
    if blocks.iter().all(|block| !block.ratios.is_empty()) {
        return concluded(&statistic_of(blocks, TURNS), &medians, TURNS);
    }
    let minima = statistic_of(blocks, MINIMUM);
    // Typical spread and tails: either can make medians useless.
    let spreads = |blocks: &[Vec<f64>]| {
        let plain = plain(blocks);
        [stats::robust_spread(&plain), stats::relative_sd(&plain)]
    };
    let steadier = spreads(&minima)
        .into_iter()
        .zip(spreads(&medians))
        .any(|(minimum, median)| 2.0 * minimum < median);
    if steadier {
        let (by_minimum, called_same_count) = concluded(&minima, &minima, MINIMUM)?;
        // It serves where medians are all that there is to compare.
        let calibration = Calibration {
            process_relative_sd: stats::relative_sd(&plain(&medians)),
            ..by_minimum
        };
        return Some((calibration, called_same_count));
    }
    concluded(&medians, &medians, MEDIAN)
}

/// The plain kernel's, of which each block has two.
fn plain(blocks: &[Vec<f64>]) -> Vec<f64> {
    blocks
        .iter()
        .flat_map(|block| block.iter().take(2).copied())
        .collect()
}

/// What comparisons are made of, for all blocks: ratios to the plain kernel by turns, medians or
/// minima.
fn statistic_of(blocks: &[Block], statistic: &str) -> Vec<Vec<f64>> {
    let of = |block: &Block| match statistic {
        TURNS => block.ratios.clone(),
        MINIMUM => block.times.iter().map(|both| both[1]).collect(),
        _ => block.times.iter().map(|both| both[0]).collect(),
    };
    blocks.iter().map(of).collect()
}

/// The blocks that make one comparison each.
fn comparisons(blocks: &[Vec<f64>], process_count: u32) -> Vec<&[Vec<f64>]> {
    let size = usize::try_from(process_count).unwrap_or(usize::MAX).max(1);
    blocks.chunks_exact(size).collect()
}

fn column(group: &[Vec<f64>], index: usize) -> Vec<f64> {
    group.iter().map(|block| block[index]).collect()
}

fn count(found: usize) -> u32 {
    u32::try_from(found).unwrap_or(u32::MAX)
}

/// How often the case at `index` was called what, against the plain kernel: faster or slower, the
/// same, slower; and the medians of what was measured.
fn judge(groups: &[&[Vec<f64>]], index: usize, tie_width: f64, injected: f64) -> Judged {
    let judged: Vec<_> = groups
        .iter()
        .filter_map(|group| verdict_of_pairs(&column(group, 0), &column(group, index), tie_width))
        .collect();
    let with = |verdict: Verdict| count(judged.iter().filter(|(_, v)| *v == verdict).count());
    let measured: Vec<f64> = judged.iter().map(|(e, _)| 1.0 / e.ratio - 1.0).collect();
    Judged {
        same_count: with(Verdict::Same),
        different_count: with(Verdict::Faster) + with(Verdict::Slower),
        found: SlowdownFound {
            injected,
            count: count(judged.len()),
            found_count: with(Verdict::Slower),
            measured: stats::median(&measured).unwrap_or(injected),
        },
    }
}

/// What [`judge`] says.
struct Judged {
    same_count: u32,
    different_count: u32,
    found: SlowdownFound,
}

/// Fewest comparisons whose stretches of time say how the machine drifts.
const APART_MIN: usize = 5;

/// How far two runs of the same may differ that were made one after the other: each group's plain
/// kernel against the second plain kernel of every other group, compared as reports are.
fn apart_width(groups: &[&[Vec<f64>]], tie_width: f64) -> Option<f64> {
    if groups.len() < APART_MIN {
        return None;
    }
    let middles = |index: usize| -> Option<Vec<f64>> {
        let middle = |group: &&[Vec<f64>]| Some(stats::median(&column(group, index))?.ln());
        groups.iter().map(middle).collect()
    };
    let (first, second) = (middles(0)?, middles(1)?);
    let mut ratios = Vec::new();
    for (here, one) in first.iter().enumerate() {
        for (there, other) in second.iter().enumerate() {
            if here != there {
                ratios.push((one - other).abs());
            }
        }
    }
    Some(quantile95(&ratios)?.exp_m1().max(tie_width))
}

/// What blocks (the plain kernel, the same again, a slowdown) say that were made after the rule was
/// fixed. `None` where they do not make one comparison.
fn confirm(
    blocks: &[Block],
    process_count: u32,
    calibration: &Calibration,
    slowdown: f64,
) -> Option<Confirmation> {
    let blocks = statistic_of(blocks, &calibration.statistic);
    let groups = comparisons(&blocks, process_count);
    let same = judge(&groups, 1, calibration.tie_width, 0.0);
    let slowdown = judge(&groups, 2, calibration.tie_width, slowdown).found;
    (slowdown.count > 0).then_some(Confirmation {
        same_count: same.found.count,
        false_alarm_count: same.different_count,
        slowdown,
    })
}

/// What blocks (the plain kernel, the same again, each slowdown) say, and how many comparisons of the
/// same were called the same: `blocks` holds what is compared, `times` the processes' own times, which
/// say how they vary. `None` where they do not make one comparison.
fn conclude(
    blocks: &[Vec<f64>],
    times: &[Vec<f64>],
    process_count: u32,
    injected: &[f64],
) -> Option<(Calibration, u32)> {
    let groups = comparisons(blocks, process_count);
    let same_ratios: Vec<f64> = groups
        .iter()
        .filter_map(|group| stats::paired(&column(group, 0), &column(group, 1)))
        .map(|estimate| estimate.ratio.ln().abs())
        .collect();
    if same_ratios.is_empty() {
        return None;
    }
    // The width that nineteen of twenty comparisons of the same with the same stay within. Then the
    // rate of false alarms is bounded without believing in any interval: an alarm needs the whole
    // interval, and so the ratio in it, to lie beyond the width, and that happens to at most one
    // in twenty by construction. Nothing wider is needed, and each bit of width is a difference
    // that can no longer be called one: what can be detected is the width, plus half an interval,
    // plus the luck of the draw, and it is measured below with this very width. A slowdown of twice
    // that then lies further beyond by more than all three, so it is found at least as often.
    let tie_width = quantile95(&same_ratios)?.exp_m1().max(TIE_WIDTH_MIN);

    let same = judge(&groups, 1, tie_width, 0.0);
    let slowdowns: Vec<SlowdownFound> = injected
        .iter()
        .zip(2..)
        .map(|(&injected, index)| judge(&groups, index, tie_width, injected).found)
        .collect();
    let calibration = Calibration {
        made_at: String::new(),
        runner: String::new(),
        device: String::new(),
        backend: None,
        driver: None,
        case_id: String::new(),
        process_count,
        same_count: same.found.count,
        false_alarm_count: same.different_count,
        detectable_change: detectable(&slowdowns),
        slowdowns,
        tie_width,
        apart_width: apart_width(&comparisons(times, process_count), tie_width),
        // Drift is part of it: two runs of one process each, made apart, differ by it as well.
        process_relative_sd: stats::relative_sd(&plain(times)),
        statistic: MEDIAN.to_owned(),
        clocks: None,
        confirmation: None,
    };
    Some((calibration, same.same_count))
}

/// The value that 95 % of `values` do not exceed: the order statistic and not an interpolation, or
/// few values would promise too much.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn quantile95(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (FOUND_SHARE * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The smallest slowdown that is found at least 95 % of the time, and every larger one too. Between
/// the last level that is not and the first that is, the share is taken to grow in proportion; below
/// the smallest level nothing is claimed.
fn detectable(slowdowns: &[SlowdownFound]) -> Option<f64> {
    let share =
        |found: &SlowdownFound| f64::from(found.found_count) / f64::from(found.count.max(1));
    let good = slowdowns
        .iter()
        .rev()
        .take_while(|found| share(found) >= FOUND_SHARE)
        .count();
    let place = slowdowns.len() - good;
    let level = slowdowns.get(place)?;
    let Some(below) = place.checked_sub(1).and_then(|below| slowdowns.get(below)) else {
        return Some(level.injected);
    };
    let part = (FOUND_SHARE - share(below)) / (share(level) - share(below));
    Some(below.injected + part * (level.injected - below.injected))
}

impl Findings {
    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let c = &self.calibration;
        let percent = |value: f64| format!("{} %", display::digits(value * 100.0));
        let rows: Vec<Vec<String>> = c
            .slowdowns
            .iter()
            .map(|found| {
                vec![
                    percent(found.injected),
                    percent(found.measured),
                    format!("{} of {}", found.found_count, found.count),
                ]
            })
            .collect();
        let clocks = c.clocks.map_or_else(String::new, |clocks| {
            format!(
                "the device's clock against the slope of the host's: {} and {}, ratio {:.4}\n",
                display::seconds(clocks.device_s),
                display::seconds(clocks.host_slope_s),
                clocks.ratio
            )
        });
        let detectable = c.detectable_change.map_or_else(
            || {
                let most = c.slowdowns.iter().map(|s| s.injected).fold(0.0, f64::max);
                format!("none up to {}", percent(most))
            },
            percent,
        );
        let confirmation = c.confirmation.as_ref().map_or_else(String::new, |c| {
            format!(
                "twice of it, {}, in fresh comparisons by the rule so found: {} of {} called slower; the same against the same: {} of {} called faster or slower\n",
                percent(c.slowdown.injected),
                c.slowdown.found_count,
                c.slowdown.count,
                c.false_alarm_count,
                c.same_count
            )
        });
        let apart = c.apart_width.map_or_else(String::new, |width| {
            format!("; of reports made one after the other: {}", percent(width))
        });
        format!(
            "{} by {} with {}, {} fresh processes a side\n{}\nthe same against the same: {} of {} called faster or slower, {} called the same\n{clocks}smallest change found at least {:.0} % of the time: {detectable}\n{confirmation}tie width: {}{apart}\nstandard deviation between processes: {}; compared by {}\n",
            c.device,
            c.runner,
            c.case_id,
            c.process_count,
            display::table(&["injected", "measured", "called slower"], &rows),
            c.false_alarm_count,
            c.same_count,
            self.called_same_count,
            FOUND_SHARE * 100.0,
            percent(c.tie_width),
            percent(c.process_relative_sd),
            match c.statistic.as_str() {
                TURNS => "turns of both".to_owned(),
                other => format!("the {other} of each"),
            },
        )
    }
}

fn file_name(device: &Device, runner: &str) -> String {
    let (name, backend) = (slug(&device.name), slug(&device.backend));
    format!("calibration-{name}-{backend}-{}.json", slug(runner))
}

/// Why a calibration says nothing of this device by this runner. One of a version that did not say what
/// API and driver it is of is taken for any.
fn of_another(calibration: &Calibration, device: &Device, runner: &str) -> Option<String> {
    let differs = |one: &Option<String>, here: &str| one.as_deref().is_some_and(|one| one != here);
    let other = calibration.device != device.name
        || calibration.runner != runner
        || differs(&calibration.backend, &device.backend)
        || differs(&calibration.driver, &device.driver);
    let through = |backend: Option<&str>, driver: Option<&str>| {
        let parts: Vec<&str> = [backend, driver].into_iter().flatten().collect();
        if parts.is_empty() {
            String::new()
        } else {
            format!(" ({})", parts.join(", "))
        }
    };
    other.then(|| {
        format!(
            "it is of {}{} by runner {}, not of {}{} by runner {runner}",
            calibration.device,
            through(
                calibration.backend.as_deref(),
                calibration.driver.as_deref()
            ),
            calibration.runner,
            device.name,
            through(Some(&device.backend), Some(&device.driver)),
        )
    })
}

/// Writes a calibration where [`wanted`] finds it, or below a folder of the user's; an earlier one of
/// the same device and runner is replaced.
///
/// # Errors
/// When it cannot be written.
pub fn store(findings: &Findings, directory: &Path) -> Result<PathBuf> {
    let path = directory.join(file_name(&findings.device, &findings.calibration.runner));
    let refuse = |error: std::io::Error| Error::usage(format!("{}: {error}", path.display()));
    let mut text = serde_json::to_string_pretty(&findings.calibration)
        .map_err(|error| Error::internal(error.to_string()))?;
    text.push('\n');
    fs::create_dir_all(directory).map_err(refuse)?;
    files::replace(&path, &text).map_err(refuse)?;
    Ok(path)
}

/// Reads a calibration.
///
/// # Errors
/// A usage error that names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Calibration> {
    let refuse = |what: String| Error::usage(format!("--calibrated {}: {what}", path.display()));
    let text = files::read_text(path).map_err(|error| refuse(error.to_string()))?;
    let calibration: Calibration = serde_json::from_str(&text)
        .map_err(|error| refuse(format!("it is no calibration: {error}")))?;
    for (name, value) in [
        ("tie_width", calibration.tie_width),
        ("apart_width", calibration.apart_width.unwrap_or(0.0)),
        ("process_relative_sd", calibration.process_relative_sd),
    ] {
        if !value.is_finite() || value < 0.0 {
            return Err(refuse(format!(
                "{name} is {value}; it must be a number from zero up"
            )));
        }
    }
    Ok(calibration)
}

/// The calibration that `--calibrated` asks for: of this file, or else the stored one. It must be of
/// the device and runner that will be measured.
///
/// # Errors
/// A usage error that says what there is instead and what to do.
pub fn wanted(file: Option<&Path>, runner: &str, reach: &Reach) -> Result<Calibration> {
    let record = run::open(runner, reach)?.record;
    let (device, name) = (&record.device, &record.runner.name);
    let folder = files::settings();
    let stored = folder.map(|folder| folder.join(file_name(device, name)));
    let Some(path) = file.or(stored.as_deref().filter(|path| path.exists())) else {
        let place = stored.map_or_else(
            || "there is no folder for settings".to_owned(),
            |path| format!("{} is not there", path.display()),
        );
        return Err(Error::usage(format!(
            "--calibrated: {} ({}) by runner {name} was not calibrated yet ({place}); run `chipmark calibrate` first",
            device.name, device.backend
        )));
    };
    let calibration = read(path)?;
    match of_another(&calibration, device, name) {
        None => Ok(calibration),
        Some(why) => Err(Error::usage(format!(
            "--calibrated {}: {why}; run `chipmark calibrate` for this one",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of a machine whose processes spread by `sd`, from a fixed stream.
    fn blocks(count: usize, sd: f64) -> Vec<Vec<f64>> {
        let keys = input::keys(17, 3);
        let mut index = 0;
        // The sum of twelve uniform values has a variance of four; close enough to normal here.
        let mut normal = || {
            index += 12;
            (index - 12..index)
                .map(|i| f64::from(input::uniform(input::word(keys, i))))
                .sum::<f64>()
                / 2.0
        };
        let mut all = vec![0.0, 0.0];
        all.extend(SLOWDOWNS);
        (0..count)
            .map(|_| {
                let drift = 0.05 * normal();
                all.iter()
                    .map(|slowdown| 1e-3 * (1.0 + slowdown) * (drift + sd * normal()).exp())
                    .collect()
            })
            .collect()
    }

    fn concluded(blocks: &[Vec<f64>]) -> Option<(Calibration, u32)> {
        conclude(blocks, blocks, 6, &SLOWDOWNS)
    }

    #[test]
    fn turns_see_through_what_both_sides_share_and_times_tell_how_much_it_was() {
        // Times that jump by a fifth from block to block, the same for both sides of each.
        let all: Vec<Block> = blocks(240, 0.0005)
            .iter()
            .zip(blocks(240, 0.2))
            .map(|(still, jumping)| Block {
                ratios: still.iter().map(|time_s| time_s / still[0]).collect(),
                times: still
                    .iter()
                    .map(|time_s| [time_s * jumping[0]; 2])
                    .collect(),
            })
            .collect();
        let (found, _) = conclude_by_the_steadier(&all, 6, &SLOWDOWNS).unwrap();
        assert_eq!(found.statistic, TURNS);
        assert_eq!(found.false_alarm_count, 0);
        assert!(found.detectable_change.unwrap() <= 0.01, "{found:?}");
        assert!(found.process_relative_sd > 0.15, "{found:?}");
        assert!(found.apart_width.unwrap() > 0.1, "{found:?}");
        let confirmed = confirm(&all, 6, &found, SLOWDOWNS[0]).unwrap();
        assert_eq!((confirmed.same_count, confirmed.false_alarm_count), (40, 0));
        // One block whose processes took no turns, and nothing can be told by them.
        let mut mixed = all;
        mixed[7].ratios.clear();
        let (found, _) = conclude_by_the_steadier(&mixed, 6, &SLOWDOWNS).unwrap();
        assert_ne!(found.statistic, TURNS);
    }

    #[test]
    fn injected_steps_are_exactly_the_share_they_claim_in_whole_turns() {
        for steps in [STEPS_UNIT, 4800, STEPS_MAX] {
            for slowdown in SLOWDOWNS {
                let case = slowed(4096, steps, slowdown).unwrap();
                let more = case.shape.get("steps") - steps;
                assert_eq!(more * 1000, steps * (slowdown * 1000.0).round() as u64);
                assert_eq!(more % 8, 0);
            }
        }
        assert_eq!(STEPS_MAX % STEPS_UNIT, 0);
    }

    #[test]
    fn a_quiet_machine_finds_small_slowdowns_and_raises_no_alarm() {
        let (found, called_same) = concluded(&blocks(240, 0.0005)).unwrap();
        assert_eq!((found.same_count, found.false_alarm_count), (40, 0));
        assert!(called_same >= 38, "{called_same}");
        assert!((found.tie_width - TIE_WIDTH_MIN).abs() < 1e-12);
        assert!(found.slowdowns[1..].iter().all(|s| s.found_count == 40));
        let detectable = found.detectable_change.unwrap();
        assert!((0.005..=0.01).contains(&detectable), "{detectable}");
        assert!((found.slowdowns[3].measured - 0.05).abs() < 0.001);
        // Drift that is common to a block is in the spread between processes, and in no pair.
        assert!((0.04..0.06).contains(&found.process_relative_sd));
    }

    #[test]
    fn drift_between_comparisons_widens_the_tie_of_reports_made_apart_alone() {
        // A block differs from the next by 5 %, both sides of it alike: medians of six blocks by
        // about 2.5 %, two of them from each other by 3.6 % (standard deviation), 95 % within 7 %.
        let (found, _) = concluded(&blocks(240, 0.0005)).unwrap();
        let apart = found.apart_width.unwrap();
        assert!((0.05..0.10).contains(&apart), "{apart}");
        // Few stretches say nothing of drift; and the width is never below that of turns.
        let (few, _) = concluded(&blocks(24, 0.0005)).unwrap();
        assert_eq!(few.apart_width, None);
        let still: Vec<Vec<f64>> = (0..30).map(|_| vec![1e-3; 7]).collect();
        let (still, _) = concluded(&still).unwrap();
        assert_eq!(still.apart_width, Some(TIE_WIDTH_MIN));
    }

    #[test]
    fn a_noisy_machine_gets_a_wide_tie_and_still_raises_no_alarm() {
        let (found, _) = concluded(&blocks(240, 0.02)).unwrap();
        assert!(found.false_alarm_count <= 2);
        assert!((0.01..0.05).contains(&found.tie_width), "{found:?}");
        assert_eq!(found.slowdowns[0].found_count, 0);
        let (louder, _) = concluded(&blocks(240, 0.2)).unwrap();
        assert_eq!(louder.detectable_change, None);
    }

    #[test]
    fn what_is_detectable_lies_between_the_levels_that_enclose_it() {
        let levels = |found: [u32; 5]| -> Vec<SlowdownFound> {
            SLOWDOWNS
                .into_iter()
                .zip(found)
                .map(|(injected, found_count)| SlowdownFound {
                    injected,
                    count: 20,
                    found_count,
                    measured: injected,
                })
                .collect()
        };
        let close = |found: [u32; 5], want: f64| {
            let got = detectable(&levels(found)).unwrap();
            assert!((got - want).abs() < 1e-12, "{found:?}: {got}, not {want}");
        };
        close([20, 20, 20, 20, 20], 0.005);
        close([0, 20, 20, 20, 20], 0.005 + 0.95 * 0.005);
        close([0, 0, 18, 20, 20], 0.02 + 0.5 * 0.03);
        // A lucky small one does not count where a larger one was missed.
        close([20, 10, 20, 20, 20], 0.01 + 0.9 * 0.01);
        assert_eq!(detectable(&levels([20, 20, 20, 20, 0])), None);
    }

    #[test]
    fn twice_the_threshold_is_the_next_slowdown_that_can_be_injected() {
        for (threshold, wanted) in [(0.005, 0.01), (0.0452, 0.095), (0.025, 0.05), (0.25, 0.5)] {
            let got = twice(threshold).unwrap();
            assert!(
                (got - wanted).abs() < 1e-12,
                "{threshold}: {got}, not {wanted}"
            );
        }
        assert_eq!(twice(0.2501), None);
    }

    #[test]
    fn what_is_confirmed_is_judged_by_the_width_that_was_found_before() {
        let pairs = |blocks: Vec<Vec<f64>>, slower: f64| -> Vec<Block> {
            let of = |block: &Vec<f64>| [block[0], block[1], block[1] * slower];
            let apart = |times: [f64; 3]| Block {
                ratios: Vec::new(),
                times: times.map(|time_s| [time_s, 0.9 * time_s]).to_vec(),
            };
            blocks.iter().map(of).map(apart).collect()
        };
        let (found, _) = concluded(&blocks(240, 0.002)).unwrap();
        let fresh = pairs(blocks(120, 0.002), 1.05);
        let confirmed = confirm(&fresh, 6, &found, 0.05).unwrap();
        assert_eq!((confirmed.same_count, confirmed.slowdown.count), (20, 20));
        assert_eq!(confirmed.slowdown.found_count, 20);
        assert!((confirmed.slowdown.measured - 0.05).abs() < 0.005);
        // A width beyond what was injected finds nothing, whatever these blocks would say themselves.
        let wide = Calibration {
            tie_width: 0.2,
            ..found
        };
        assert_eq!(
            confirm(&fresh, 6, &wide, 0.05)
                .unwrap()
                .slowdown
                .found_count,
            0
        );
        assert!(confirm(&fresh[..5], 6, &wide, 0.05).is_none());
    }

    #[test]
    fn clocks_are_compared_by_the_slopes_of_the_same_spans() {
        // Jumping times, and a host's clock that runs half a per cent faster.
        let pairs: Vec<(f64, f64)> = (0..60)
            .map(|i| {
                let device_s = 0.02 * (1.0 + 0.3 * f64::from(i % 3));
                (device_s * 1.005, device_s)
            })
            .collect();
        let found = agreement(&pairs, 10.0).unwrap();
        assert!((found.ratio - 1.005).abs() < 1e-12);
        assert!((found.device_s - 0.0026).abs() < 1e-12, "{found:?}");
        // A hiccup or two make a slope negative; a clock that does so half of the time is none.
        let mut some = pairs.clone();
        some[3].0 = -0.1;
        assert!((agreement(&some, 10.0).unwrap().ratio - 1.005).abs() < 1e-12);
        let mut none = pairs;
        for pair in none.chunks_mut(3) {
            (pair[1].1, pair[2].1) = (-0.02, -0.02);
        }
        assert_eq!(agreement(&none, 10.0), None);
    }

    #[test]
    fn blocks_that_make_no_comparison_conclude_nothing() {
        assert!(concluded(&blocks(5, 0.01)).is_none());
        let (found, _) = concluded(&blocks(13, 0.01)).unwrap();
        assert_eq!(found.same_count, 2);
    }

    #[test]
    fn every_order_is_a_permutation_and_they_differ() {
        let orders: Vec<Vec<usize>> = (0..20).map(|turn| shuffled(7, 1, turn)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert!(orders.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
