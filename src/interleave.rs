//! Two runners raced by turns: every time is taken in a fresh process, and the processes of both
//! sides live at the same time and take turns of a few milliseconds.
//!
//! What two runs an hour apart disagree about is mostly the hour: clocks, temperature, neighbours,
//! where memory happened to lie. A fresh process for every observation makes the last of these part
//! of the spread; turns (A B, B A, A B, ...) that are short against what the rest comes and goes in
//! make it common to both sides, so that it cancels in each round. Where a device is not given to two
//! processes at once, they run one after the other, in the next block the other way round, and only
//! what is slower than a process cancels.

use std::time::{Duration, Instant};

use regex::Regex;

use crate::case::{AUDIT_S_EXTERNAL, Sight, ended, right, set_time, sight, sights_by_turns, times};
use crate::datasheet::Datasheets;
use crate::display;
use crate::error::{Error, Result};
use crate::hierarchy;
use crate::input::Data;
use crate::interrupt::interrupted;
use crate::machine;
use crate::measure::Policy;
use crate::normalise;
use crate::op::{Case, OpName};
use crate::plan::{self, Plan};
use crate::protocol::{Timer, Variant};
use crate::report::{
    self, Calibration, Ceiling, Outcome, OutcomeStatus, Report, RunnerRecord, SCHEMA_VERSION,
    Status, Suite, Times, Tool, Tried, Verification,
};
use crate::run::{self, Opened, Reach, WRONG, Watcher};
use crate::runner::{Fault, NATIVE};
use crate::shader::sha256;
use crate::stats;
use crate::tune::{self, End, Session, Task};
use crate::verify;

/// Seconds that one process may spend on timing. Between processes medians vary more than a longer
/// look at one of them could mend, so the time goes into more of them.
const PROCESS_S_MAX: f64 = 0.6;

/// Least seconds that the samples of one process span together.
const SAMPLED_S_MIN: f64 = 0.4;

/// Blocks lost in a row after which a case is given up.
const LOSSES_MAX: u32 = 3;

/// What is to be raced.
#[derive(Clone, Debug)]
pub struct Race {
    /// The cases, and the probes that size them.
    pub plan: Plan,
    /// Which cases are raced, by regular expression; all if absent.
    pub filter: Option<String>,
    /// The two runners by name, path or command: baseline and candidate.
    pub runners: [String; 2],
    /// How to reach both.
    pub reach: Reach,
    /// Seed of all inputs.
    pub seed: u32,
    /// Blocks of one process on each side.
    pub pair_count: u32,
    /// What figures are measured against beside the ceilings of the run.
    pub datasheets: Datasheets,
    /// The command line, for the reports.
    pub command: String,
    /// What differences this machine can tell, for both reports.
    pub calibration: Option<Calibration>,
}

/// The words for the two sides.
const SIDES: [&str; 2] = ["baseline", "candidate"];

/// How one process of the runner `name` measures, in an interleaved race and in a calibration alike.
#[must_use]
pub fn policy(name: &str, timer: &Timer, silence: Duration) -> Policy {
    let policy = Policy {
        sample_count_floor: 3,
        sampled_s_min: SAMPLED_S_MIN,
        ..Policy::thorough(timer, PROCESS_S_MAX, silence)
    };
    let external_s = if NATIVE.contains(&name) {
        0.0
    } else {
        AUDIT_S_EXTERNAL
    };
    Policy {
        audit_s: policy.audit_s.max(external_s),
        ..policy
    }
}

/// Hands `opened` to `work` as a session.
pub fn with_session<T>(
    opened: &mut Opened,
    silence: Duration,
    work: impl FnOnce(&mut Session<'_>) -> T,
) -> T {
    let mut session = Session::new(
        &mut *opened.conversation,
        opened.record.timer.clone(),
        silence,
        &interrupted,
    );
    work(&mut session)
}

/// Starts the runner and makes sure that it opened the device it opened before.
fn reopen(name: &str, reach: &Reach, first: &RunnerRecord) -> std::result::Result<Opened, End> {
    let opened = run::open(name, reach).map_err(|error| End::Fault(Fault::new(error.message)))?;
    if opened.record.device.is_same(&first.device) {
        Ok(opened)
    } else {
        Err(End::Fault(Fault::new(format!(
            "{} was there instead of {}",
            opened.record.device.name, first.device.name
        ))))
    }
}

/// Measures one variant of one case in a fresh process: built, verified, timed, and verified again
/// on the very buffers that were timed.
///
/// # Errors
/// When the process dies, refuses, or computes wrong numbers.
pub fn fresh(
    name: &str,
    reach: &Reach,
    first: &RunnerRecord,
    case: &Case,
    seed: u32,
    variant: &Variant,
) -> std::result::Result<Sight, End> {
    if interrupted() {
        return Err(End::Interrupted);
    }
    let mut opened = reopen(name, reach, first)?;
    with_session(&mut opened, reach.silence, |session| {
        let policy = policy(name, &session.timer, session.silence);
        sight(session, case, seed, variant, &policy)
    })
}

/// What one process of a block runs.
#[derive(Clone, Copy, Debug)]
pub struct Contestant<'a> {
    /// The runner by name, path or command.
    pub name: &'a str,
    /// What it was when it was opened first.
    pub first: &'a RunnerRecord,
    /// The case.
    pub case: &'a Case,
    /// The variant.
    pub variant: &'a Variant,
}

/// Two fresh processes, and how they compare.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What each of them measured.
    pub sights: [Sight; 2],
    /// Time of a call in the second over that in the first by turns; `None` where they ran one after
    /// the other.
    pub ratio: Option<f64>,
}

/// How the two processes of a block share the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Both live, and take turns of milliseconds.
    Turns,
    /// One is gone before the other starts.
    Apart,
}

/// Measures two fresh processes; where `turned`, the second begins.
///
/// # Errors
/// As [`fresh`], with the side that it is of.
pub fn pair(
    way: Way,
    reach: &Reach,
    contestants: [Contestant<'_>; 2],
    seed: u32,
    turned: bool,
) -> std::result::Result<Pair, (usize, End)> {
    let alone = |index: usize| {
        let side = contestants[index];
        fresh(side.name, reach, side.first, side.case, seed, side.variant)
    };
    if way == Way::Apart {
        let sights = in_order(turned, alone)?;
        return Ok(Pair {
            sights,
            ratio: None,
        });
    }
    if interrupted() {
        return Err((0, End::Interrupted));
    }
    let [mut one, mut other] = in_order(turned, |index| {
        reopen(contestants[index].name, reach, contestants[index].first)
    })?;
    with_session(&mut one, reach.silence, |first| {
        with_session(&mut other, reach.silence, |second| {
            // The coarser clock of the two says how long spans must be.
            let [ours, theirs] = contestants.map(|side| side.name);
            let mut shared = policy(ours, &first.timer, reach.silence);
            let theirs = policy(theirs, &second.timer, reach.silence);
            shared.span_s_min = shared.span_s_min.max(theirs.span_s_min);
            shared.audit_s = shared.audit_s.max(theirs.audit_s);
            let cases = contestants.map(|side| side.case);
            let variants = contestants.map(|side| side.variant);
            let (sights, ratio) =
                sights_by_turns(first, second, cases, seed, variants, &shared, turned)?;
            Ok(Pair {
                sights,
                ratio: Some(ratio),
            })
        })
    })
}

/// [`pair`] for the first block of a comparison, which finds out whether both processes can live at
/// the same time. `say` is told where they cannot.
///
/// # Errors
/// As [`pair`].
pub fn first_pair(
    reach: &Reach,
    contestants: [Contestant<'_>; 2],
    seed: u32,
    say: &mut dyn FnMut(&str),
) -> std::result::Result<(Pair, Way), (usize, End)> {
    let by_turns = || pair(Way::Turns, reach, contestants, seed, false);
    let obstacle = match too_large_together(contestants) {
        Some(reason) => reason,
        None => match by_turns() {
            Ok(pair) => return Ok((pair, Way::Turns)),
            Err((index, end @ (End::Wrong(_) | End::Implausible(_) | End::Interrupted))) => {
                return Err((index, end));
            }
            Err((index, end)) if interrupted() => return Err((index, end)),
            Err((_, end)) => end.reason().to_owned(),
        },
    };
    let apart = pair(Way::Apart, reach, contestants, seed, false)?;
    // It may have been an accident.
    if too_large_together(contestants).is_none()
        && let Ok(pair) = by_turns()
    {
        return Ok((pair, Way::Turns));
    }
    say(&format!(
        "the processes run one after the other, not by turns, for both at once did not work: {obstacle}"
    ));
    Ok((apart, Way::Apart))
}

/// Why two processes must not even be tried at once: each runner checks that one fits, and where
/// memory is overcommitted the system kills somebody instead of refusing.
fn too_large_together(contestants: [Contestant<'_>; 2]) -> Option<String> {
    let bytes: u64 = contestants
        .map(|side| side.case.tensor_bytes())
        .iter()
        .sum();
    let limits = contestants
        .iter()
        .filter_map(|side| side.first.device.limits.get("memory_bytes_budget"));
    let limit = limits.copied().min()?;
    (bytes > limit)
        .then(|| format!("both need {bytes} bytes together, and {limit} are there for one process"))
}

/// The variant that a side will run, and how it was found.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The variant.
    pub variant: Variant,
    /// Every variant that could run.
    pub offered: Vec<Variant>,
    /// Every variant that was looked at.
    pub tried: Vec<Tried>,
    /// The check with integer inputs, where the op is exact on them.
    pub verification_exact: Option<Verification>,
}

impl Choice {
    /// Seconds of one call of `variant`, where the search timed it at full size.
    #[must_use]
    pub fn time_s(&self, variant: &Variant) -> Option<f64> {
        self.tried
            .iter()
            .find(|tried| {
                tried.kernel == variant.kernel
                    && tried.variant == variant.variant
                    && tried.at_case_id.is_none()
            })
            .and_then(|tried| tried.time_s_median)
    }
}

/// The variant that both sides should run, where each offers what the other chose: then they differ
/// in luck and not in what they have, and a short search must not decide a race. Of the two it is
/// the one with the lower product of times, as far as both sides looked at it. Where one side has a
/// variant that the other lacks, each runs its own best.
fn common(first: &Choice, second: &Choice) -> Option<Variant> {
    if !first.offered.contains(&second.variant) || !second.offered.contains(&first.variant) {
        return None;
    }
    let product = |variant: &Variant| Some(first.time_s(variant)? * second.time_s(variant)?);
    let by_second = product(&second.variant).unwrap_or(f64::INFINITY)
        < product(&first.variant).unwrap_or(f64::MAX);
    let chosen = if by_second { second } else { first };
    Some(chosen.variant.clone())
}

/// Searches for the best variant in a process of its own.
///
/// # Errors
/// When nothing works, the process dies or the user wants to stop.
pub fn choose(
    name: &str,
    reach: &Reach,
    first: &RunnerRecord,
    case: &Case,
    scout: Case,
    seed: u32,
    budget_s: f64,
) -> std::result::Result<Choice, End> {
    let mut opened = reopen(name, reach, first)?;
    with_session(&mut opened, reach.silence, |session| {
        let task = Task {
            case,
            scout,
            seed,
            budget_s,
            case_budget_s: budget_s,
            share_s: None,
            banned: &[],
            remembered: &[],
            remembered_of_all: true,
            pinned: false,
            device: &first.device,
            // The race is between searches that know nothing beforehand.
            ceilings: &[],
            runner: name,
        };
        let (offered, _) = session.case(case, seed, &Data::Uniform)?;
        let mut choice = Choice {
            offered,
            ..Choice::default()
        };
        let ranking = tune::choose(&task, session, &mut choice.tried)?;
        choice.variant = ranking
            .into_iter()
            .next()
            .ok_or_else(|| End::Failed("no variant was chosen".to_owned()))?;
        choice.verification_exact = right_on_integers(session, case, seed, &choice.variant)?;
        Ok(choice)
    })
}

/// The check of a variant on integers, where the case has one.
fn right_on_integers(
    session: &mut Session<'_>,
    case: &Case,
    seed: u32,
    variant: &Variant,
) -> std::result::Result<Option<Verification>, End> {
    if !case.exact() {
        return Ok(None);
    }
    session.case(case, seed, &Data::Integer)?;
    session.prepare(variant)?.map_err(End::Failed)?;
    right(session, case, seed, &Data::Integer, variant, 0).map(Some)
}

/// One side of the race.
struct Side<'a> {
    name: &'a str,
    record: RunnerRecord,
}

impl Side<'_> {
    fn label(&self) -> &str {
        &self.record.runner.name
    }

    fn end(&self, case: &Case, end: End) -> Outcome {
        let (status, reason) = match end {
            End::Skipped(reason) => (OutcomeStatus::Skipped, reason),
            End::Interrupted => (OutcomeStatus::Skipped, INTERRUPTED.to_owned()),
            End::Fault(_) if interrupted() => (OutcomeStatus::Skipped, INTERRUPTED.to_owned()),
            End::Failed(reason) => (OutcomeStatus::Failed, reason),
            End::Implausible(reason) => (OutcomeStatus::Implausible, reason),
            End::Wrong(reason) => (OutcomeStatus::Failed, format!("{WRONG}: {reason}")),
            End::Fault(fault) => (OutcomeStatus::Failed, fault.message),
        };
        report::unmeasured(case, self.label(), status, reason)
    }
}

const INTERRUPTED: &str = "the run was interrupted before this case had a whole block";

/// Races two runners over the cases and returns a report of each: baseline and candidate.
///
/// # Errors
/// When one of them cannot be opened. A case that fails is in the reports.
pub fn race(options: &Race, watcher: &mut dyn Watcher) -> Result<[Report; 2]> {
    let started = Instant::now();
    let started_at = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let filter = options.filter.as_deref().map(Regex::new).transpose();
    let filter = filter.map_err(|_| Error::usage("--filter: it is no regular expression"))?;
    let open = |index: usize| -> Result<Side<'_>> {
        let name = &options.runners[index];
        let opened = run::open(name, &options.reach).map_err(|error| {
            Error::new(
                error.kind,
                format!("--{} {name}: {}", SIDES[index], error.message),
            )
        })?;
        Ok(Side {
            name,
            record: opened.record,
        })
    };
    // One after the other: the first is gone before the second opens the device.
    let sides = [open(0)?, open(1)?];
    for (word, side) in SIDES.iter().zip(&sides) {
        let device = &side.record.device;
        watcher.say(&format!(
            "{word} {}: {} ({})",
            side.label(),
            device.name,
            device.backend
        ));
    }
    let ceilings = size_up(
        &options.plan,
        sides[0].name,
        &options.reach,
        &sides[0].record,
        options.seed,
    );
    let cases: Vec<&Case> = options
        .plan
        .cases
        .iter()
        .filter(|case| filter.as_ref().is_none_or(|f| f.is_match(&case.id())))
        .collect();
    let mut outcomes: [Vec<Outcome>; 2] = [Vec::new(), Vec::new()];
    for (index, case) in cases.iter().enumerate() {
        watcher.begin(index, cases.len(), &case.id(), sides[1].label());
        let place = format!("[{}/{}] {}", index + 1, cases.len(), case.id());
        let pair = race_case(options, &sides, case, &ceilings, &mut |line| {
            watcher.say(&format!("{place}: {line}"));
        });
        watcher.say(&format!("{place}: {}", news(&pair)));
        for (outcomes, outcome) in outcomes.iter_mut().zip(pair) {
            outcomes.push(outcome);
        }
    }
    let [baseline, candidate] = outcomes;
    let interleave_id =
        sha256(format!("{started_at} {} {}", options.command, verify::entropy()).as_bytes());
    let seal = |side: &Side<'_>, outcomes: Vec<Outcome>| -> Result<Report> {
        let mut report = assemble(options, side, outcomes);
        report.started_at.clone_from(&started_at);
        report.duration_s = started.elapsed().as_secs_f64();
        report.interleave_id = Some(interleave_id[..16].to_owned());
        report.seal()?;
        Ok(report)
    };
    Ok([seal(&sides[0], baseline)?, seal(&sides[1], candidate)?])
}

/// The ceilings that say how long a case may take: from the smallest probe of each kind, one
/// short look, on the baseline. They size the search and stand in no report. What fails here is
/// merely not known.
#[must_use]
pub fn size_up(
    plan: &Plan,
    name: &str,
    reach: &Reach,
    first: &RunnerRecord,
    seed: u32,
) -> Vec<Ceiling> {
    let smallest = |op: OpName| {
        let cases = plan.cases.iter().filter(move |case| case.op == op);
        cases.min_by_key(|case| case.flop_count().max(case.bytes_min()))
    };
    let Ok(mut opened) = reopen(name, reach, first) else {
        return Vec::new();
    };
    let label = first.runner.name.as_str();
    let mut outcomes = Vec::new();
    for case in [OpName::Fma, OpName::Copy].into_iter().filter_map(smallest) {
        let found = with_session(&mut opened, reach.silence, |session| {
            let (variants, _) = session.case(case, seed, &Data::Uniform)?;
            let variant = variants
                .first()
                .ok_or_else(|| End::Skipped("no variant".to_owned()))?;
            session.prepare(variant)?.map_err(End::Failed)?;
            right(session, case, seed, &Data::Uniform, variant, 0)?;
            let glance = Policy::glance(&session.timer, 6, PROCESS_S_MAX, session.silence);
            session.measure(&glance).map_err(ended)
        });
        if let Ok(measurement) = found {
            let status = OutcomeStatus::Measured;
            let mut outcome = report::unmeasured(case, label, status, String::new());
            outcome.time_s = Some(times(&measurement));
            normalise::set_rates(&mut outcome);
            outcomes.push(outcome);
        }
    }
    normalise::ceilings(&outcomes, label, None)
}

/// One case on both sides.
fn race_case(
    options: &Race,
    sides: &[Side<'_>; 2],
    case: &Case,
    ceilings: &[Ceiling],
    say: &mut dyn FnMut(&str),
) -> [Outcome; 2] {
    let both = |end: &End| [0, 1].map(|index| sides[index].end(case, end.clone()));
    if interrupted() {
        return both(&End::Interrupted);
    }
    let label = sides[0].label();
    if let Some(reason) = plan::too_slow(case, ceilings, label, options.plan.call_s_max) {
        return both(&End::Skipped(reason));
    }
    let seed = run::case_seed(options.seed, case);
    let search = |side: &Side<'_>| {
        choose(
            side.name,
            &options.reach,
            &side.record,
            case,
            run::scout(case, ceilings, label),
            seed,
            options.plan.case_budget_s * 0.65,
        )
    };
    // A side that cannot do the case costs the other its race, and says why.
    let alone = |index: usize, end: End| {
        let mut outcomes = both(&End::Skipped(String::new()));
        outcomes[index] = sides[index].end(case, end);
        let reason = outcomes[index].reason.clone().unwrap_or_default();
        outcomes[1 - index].reason = Some(format!("not raced, for the {}: {reason}", SIDES[index]));
        outcomes
    };
    let mut first = match search(&sides[0]) {
        Ok(choice) => choice,
        Err(end) => return alone(0, end),
    };
    let mut second = match search(&sides[1]) {
        Ok(choice) => choice,
        Err(end) => return alone(1, end),
    };
    if let Some(variant) = common(&first, &second) {
        let choices = [&mut first, &mut second];
        for (index, choice) in choices.into_iter().enumerate() {
            if choice.variant == variant {
                continue;
            }
            choice.variant.clone_from(&variant);
            // What was checked on integers is the variant that it gave up.
            let side = &sides[index];
            let checked = reopen(side.name, &options.reach, &side.record).and_then(|mut opened| {
                with_session(&mut opened, options.reach.silence, |session| {
                    right_on_integers(session, case, seed, &variant)
                })
            });
            match checked {
                Ok(verification) => choice.verification_exact = verification,
                Err(end) => return alone(index, end),
            }
        }
    }
    let choices = [first, second];
    let contestants = [0, 1].map(|index| Contestant {
        name: sides[index].name,
        first: &sides[index].record,
        case,
        variant: &choices[index].variant,
    });
    let mut blocks: [Vec<Sight>; 2] = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    let mut way = None;
    let mut losses = 0;
    let mut lost = None;
    for block in 0..options.pair_count {
        let result = match way {
            Some(way) => pair(way, &options.reach, contestants, seed, block % 2 == 1),
            None => first_pair(&options.reach, contestants, seed, say).map(|(pair, found)| {
                way = Some(found);
                pair
            }),
        };
        match result {
            Ok(pair) if blocks_agree(&blocks, &pair.sights) => {
                losses = 0;
                for (blocks, fresh) in blocks.iter_mut().zip(pair.sights) {
                    blocks.push(fresh);
                }
                ratios.extend(pair.ratio);
            }
            Ok(_) => {
                losses += 1;
                let reason = "the processes did not measure by the same clock".to_owned();
                say(&format!("block {} is lost: {reason}", block + 1));
                lost = Some((0, End::Failed(reason)));
            }
            Err((_, End::Interrupted)) => break,
            Err(_) if interrupted() => break,
            // A side that computes wrong numbers has no time at all, whatever it had before.
            Err((index, end @ End::Wrong(_))) => return alone(index, end),
            Err((index, end)) => {
                losses += 1;
                let reason = sides[index].end(case, end.clone()).reason;
                let reason = reason.unwrap_or_default();
                say(&format!(
                    "block {} is lost: {}: {reason}",
                    block + 1,
                    SIDES[index]
                ));
                lost = Some((index, end));
            }
        }
        if losses >= LOSSES_MAX {
            break;
        }
    }
    if blocks[0].is_empty() {
        return match lost {
            Some((index, end)) => alone(index, end),
            None => both(&End::Interrupted),
        };
    }
    let [base, other] = blocks;
    let [first, second] = choices;
    [
        outcome(
            options,
            &sides[0],
            case,
            first,
            &base,
            ratios.iter().map(|ratio| 1.0 / ratio).collect(),
        ),
        outcome(options, &sides[1], case, second, &other, ratios),
    ]
}

/// Both sides of a block in the order that this block has; with an error the side it is of.
fn in_order<T>(
    turned: bool,
    mut take: impl FnMut(usize) -> std::result::Result<T, End>,
) -> std::result::Result<[T; 2], (usize, End)> {
    let mut side = |index: usize| take(index).map_err(|end| (index, end));
    if turned {
        let second = side(1)?;
        Ok([side(0)?, second])
    } else {
        Ok([side(0)?, side(1)?])
    }
}

/// Times by different clocks are never mixed within a side. Two runners may well have different ones.
fn blocks_agree(blocks: &[Vec<Sight>; 2], pair: &[Sight; 2]) -> bool {
    let clock = |fresh: &Sight| fresh.measurement.clock;
    let settled = |index: usize| blocks[index].first().map_or(clock(&pair[index]), clock);
    (0..2).all(|index| clock(&pair[index]) == settled(index))
}

/// What a report says of a side's processes: the first one's samples, and the median of each.
fn outcome(
    options: &Race,
    side: &Side<'_>,
    case: &Case,
    choice: Choice,
    blocks: &[Sight],
    turn_ratios: Vec<f64>,
) -> Outcome {
    let Some(first) = blocks.first() else {
        return side.end(case, End::Interrupted);
    };
    let status = OutcomeStatus::Measured;
    let mut outcome = report::unmeasured(case, side.label(), status, String::new());
    outcome.reason = None;
    outcome.kernel = Some(choice.variant.kernel);
    outcome.variant = choice.variant.variant;
    outcome.shader_sha256.clone_from(&first.ready.shader_sha256);
    outcome.shader_passes.clone_from(&first.ready.passes);
    outcome.compile_s = Some(first.ready.compile_s(first.measurement.host_s_median));
    set_time(
        &mut outcome,
        &first.measurement,
        &first.ready,
        case,
        options.reach.checks,
    );
    outcome.time_s = Some(Times {
        process_medians: blocks
            .iter()
            .map(|fresh| fresh.measurement.summary.median)
            .collect(),
        process_minima: blocks
            .iter()
            .map(|fresh| fresh.measurement.summary.min)
            .collect(),
        turn_ratios,
        ..times(&first.measurement)
    });
    outcome.verification = Some(first.verification.clone());
    outcome.verification_exact = choice.verification_exact;
    outcome.tried = choice.tried;
    outcome
}

fn assemble(options: &Race, side: &Side<'_>, mut outcomes: Vec<Outcome>) -> Report {
    // The best of a probe's processes is the ceiling: one that was disturbed says nothing about what
    // the device can do.
    let probes: Vec<Outcome> = outcomes.iter().cloned().map(at_its_best).collect();
    let ceilings = normalise::ceilings(
        &probes,
        side.label(),
        hierarchy::last_level_bytes(
            &outcomes,
            side.label(),
            &machine::caches_of(&side.record.device),
        ),
    );
    normalise::set_fractions(&mut outcomes, &ceilings);
    let mut runners = vec![side.record.clone()];
    let identity = options.datasheets.recognise(&mut runners);
    options.datasheets.apply(&mut outcomes, &runners, &[]);
    let failed =
        |o: &Outcome| matches!(o.status, OutcomeStatus::Failed | OutcomeStatus::Implausible);
    Report {
        schema_version: SCHEMA_VERSION.to_owned(),
        report_id: String::new(),
        status: if interrupted() {
            Status::Interrupted
        } else if outcomes.iter().any(failed) {
            Status::Partial
        } else {
            Status::Complete
        },
        started_at: String::new(),
        duration_s: 0.0,
        seed: options.seed,
        tool: Tool {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("CHIPMARK_COMMIT").map(str::to_owned),
            command: options.command.clone(),
        },
        host: machine::host(),
        suite: Suite {
            name: options.plan.suite.clone(),
            sha256: options.plan.suite_sha256.clone(),
            shard: None,
        },
        device: runners[0].device.clone(),
        chip: identity.and_then(|identity| options.datasheets.record(&identity)),
        runners,
        ceilings,
        memory: Vec::new(),
        calibration: options.calibration.clone(),
        interleave_id: None,
        outcomes,
        claims: Vec::new(),
    }
}

/// The outcome as its fastest process alone would have given it.
fn at_its_best(mut outcome: Outcome) -> Outcome {
    if let Some(times) = &mut outcome.time_s {
        times.median = times
            .process_medians
            .iter()
            .copied()
            .fold(times.median, f64::min);
    }
    normalise::set_rates(&mut outcome);
    outcome
}

/// One line about a case that was raced.
fn news(pair: &[Outcome; 2]) -> String {
    let raced = pair[0].time_s.as_ref().zip(pair[1].time_s.as_ref());
    let found = raced.and_then(|(first, second)| {
        let medians =
            stats::median(&first.process_medians).zip(stats::median(&second.process_medians))?;
        Some((first.process_medians.len(), medians, second))
    });
    match found {
        Some((count, (a, b), second)) => format!(
            "{} and {} in {count} pairs{}",
            display::seconds(a),
            display::seconds(b),
            stats::median(&second.turn_ratios).map_or_else(String::new, |ratio| format!(
                ", by turns {ratio:.4} of the baseline's time"
            ))
        ),
        None => {
            let told = pair.iter().find(|o| o.status == OutcomeStatus::Failed);
            let outcome = told.unwrap_or(&pair[0]);
            let reason = outcome.reason.as_deref().unwrap_or_default();
            match outcome.status {
                OutcomeStatus::Skipped => format!("skipped: {reason}"),
                _ => format!("FAILED: {reason}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_take_turns_in_going_first_and_a_loss_names_its_side() {
        let mut order = Vec::new();
        for block in 0..4 {
            let pair = in_order(block % 2 == 1, |index| {
                order.push(index);
                Ok(index)
            });
            assert_eq!(pair.unwrap(), [0, 1]);
        }
        assert_eq!(order, [0, 1, 1, 0, 0, 1, 1, 0]);
        let mut taken = 0;
        let lost = in_order(false, |index| {
            taken += 1;
            if index == 0 {
                Err(End::Failed("no".to_owned()))
            } else {
                Ok(())
            }
        });
        assert!(matches!(lost, Err((0, End::Failed(_)))));
        assert_eq!(taken, 1, "the other side need not run");
    }

    fn variant(kernel: &str) -> Variant {
        Variant {
            kernel: kernel.to_owned(),
            variant: [].into(),
        }
    }

    /// A side that offers variants with these times, the first being its choice.
    fn choice(times: &[(&str, f64)]) -> Choice {
        Choice {
            variant: variant(times[0].0),
            offered: times.iter().map(|(kernel, _)| variant(kernel)).collect(),
            tried: times
                .iter()
                .map(|(kernel, time_s)| {
                    let mut tried = tune::entry(&variant(kernel), "timed", None);
                    tried.time_s_median = Some(*time_s);
                    tried
                })
                .collect(),
            verification_exact: None,
        }
    }

    #[test]
    fn sides_that_offer_the_same_run_the_same() {
        let first = choice(&[("x", 1.0), ("y", 1.1)]);
        assert_eq!(common(&first, &first), Some(variant("x")));
        let second = choice(&[("y", 1.0), ("x", 1.2)]);
        // 1.0 * 1.2 against 1.1 * 1.0.
        assert_eq!(common(&first, &second), Some(variant("y")));
        let mut second = choice(&[("y", 1.0), ("x", 1.05)]);
        assert_eq!(common(&first, &second), Some(variant("x")));
        // What only one of them looked at cannot be weighed.
        second.tried.truncate(1);
        assert_eq!(common(&first, &second), Some(variant("y")));
        second.tried.clear();
        assert_eq!(common(&first, &second), Some(variant("x")));
    }

    #[test]
    fn a_side_with_a_kernel_of_its_own_runs_it() {
        let old = choice(&[("x", 1.0), ("y", 1.1)]);
        let new = choice(&[("z", 0.5), ("x", 1.0), ("y", 1.1)]);
        assert_eq!(common(&old, &new), None);
        assert_eq!(common(&new, &old), None);
    }
}
