//! Finding the best variant for a case within a budget, by successive halving.
//!
//! Every variant is verified before it is timed. Where the full size would make slow variants take
//! seconds, the first look at each kernel is at a smaller one of the same kind, and the search goes on
//! with the good ones as near to the full size as its time allows.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::estimate;
use crate::input::{Data, Element, Values};
use crate::measure::{
    Measurement, Policy, SUBMISSION_S_MAX, Trouble, Turns, measure, measure_by_turns,
};
use crate::op::Case;
use crate::protocol::{
    Device, Estimate, Inspection, Refused, Request, Response, Timer, Variant, WhatIf,
};
use crate::report::{Ceiling, SHARE_USED, Tried};
use crate::runner::{Conversation, Fault};
use crate::verify::{self, Verdict};

/// A runner at work, with what the conductor needs to talk to it.
pub struct Session<'a> {
    /// The line to it.
    pub runner: &'a mut dyn Conversation,
    /// Its clock.
    pub timer: Timer,
    /// Longest silence before it counts as dead.
    pub silence: Duration,
    /// Whether the user wants to stop.
    pub interrupted: &'a dyn Fn() -> bool,
    /// The variant that was last handed over, to blame if the runner dies.
    pub last: Option<Variant>,
    /// The clock of the prepared variant, where it is not the runner's.
    pub clock: Option<String>,
    /// What the prepared variant rounds its output to, where it says so.
    pub output: Option<Element>,
    /// What the variants of the current case will need, as far as the runner can tell.
    pub estimates: Vec<Estimate>,
    /// How many variants the runner builds side by side.
    pub builds_at_once: usize,
    /// Whether variants are only built when they are prepared: a runner that dies while it builds
    /// several does not say of which.
    pub one_by_one: bool,
}

/// Why a case has no measurement.
#[derive(Clone, Debug)]
pub enum End {
    /// The runner died or hung.
    Fault(Fault),
    /// It cannot be done here.
    Skipped(String),
    /// It was tried and did not work.
    Failed(String),
    /// It was timed, and the time cannot be true.
    Implausible(String),
    /// A kernel gave wrong results and none was left that gave right ones.
    Wrong(String),
    /// The user wants to stop.
    Interrupted,
}

impl End {
    /// Why, in words.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Fault(fault) => &fault.message,
            Self::Skipped(reason)
            | Self::Failed(reason)
            | Self::Implausible(reason)
            | Self::Wrong(reason) => reason,
            Self::Interrupted => "it was interrupted",
        }
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What a runner says of a variant it has built.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Seconds from source to pipeline.
    pub compile_s: f64,
    /// Seconds of the first call.
    pub first_call_s: f64,
    /// SHA-256 of the source.
    pub shader_sha256: Option<String>,
    /// `alu` or `matrix`.
    pub engine: String,
    /// What was done to the source.
    pub passes: Vec<String>,
    /// What the variant rounds its output to, where that is shorter than the dtype's own.
    pub output: Option<Element>,
    /// Of a what-if variant, the share of what it looks for that it leaves out.
    pub left_out: Option<f64>,
}

impl Ready {
    /// Seconds of compiling, wherever the driver did it: a first call takes longer than a later one
    /// (`call_s`) by what was still to be compiled.
    #[must_use]
    pub fn compile_s(&self, call_s: f64) -> f64 {
        self.compile_s + (self.first_call_s - call_s).max(0.0)
    }
}

impl<'a> Session<'a> {
    /// A conversation with `runner`, to which nothing has been handed yet.
    pub fn new(
        runner: &'a mut dyn Conversation,
        timer: Timer,
        silence: Duration,
        interrupted: &'a dyn Fn() -> bool,
    ) -> Self {
        Self {
            runner,
            timer,
            silence,
            interrupted,
            last: None,
            clock: None,
            output: None,
            estimates: Vec::new(),
            builds_at_once: 1,
            one_by_one: false,
        }
    }
}

impl Session<'_> {
    /// Sets a case up and returns the variants that can run it.
    ///
    /// # Errors
    /// [`End::Skipped`] where the runner does not do this case or lacks the memory for it.
    pub fn case(
        &mut self,
        case: &Case,
        seed: u32,
        data: &Data,
    ) -> Result<(Vec<Variant>, Vec<Refused>), End> {
        self.case_in_sets(case, seed, data, 1)
    }

    /// As [`Session::case`], with buffers in `set_count` sets that successive calls take by turns.
    ///
    /// # Errors
    /// As [`Session::case`].
    pub fn case_in_sets(
        &mut self,
        case: &Case,
        seed: u32,
        data: &Data,
        set_count: u32,
    ) -> Result<(Vec<Variant>, Vec<Refused>), End> {
        self.last = None;
        self.estimates.clear();
        let request = Request::Case {
            case: case.clone(),
            seed,
            data: data.clone(),
            set_count,
        };
        match self.runner.ask(&request, self.silence)? {
            Response::Variants {
                set_count: made, ..
            } if made != set_count => Err(End::Skipped(format!(
                "the runner has {made} sets of buffers; asked for {set_count}"
            ))),
            Response::Variants {
                variants,
                refused,
                estimates,
                builds_at_once,
                ..
            } => {
                self.estimates = estimates;
                self.builds_at_once = builds_at_once.max(1) as usize;
                Ok((variants, refused))
            }
            Response::Error { kind, message } => {
                use crate::protocol::FaultKind::{DeviceLost, Internal, OutOfMemory, Unsupported};
                Err(match kind {
                    Unsupported | OutOfMemory => End::Skipped(message),
                    DeviceLost | Internal => End::Fault(Fault::new(message)),
                    _ => End::Failed(message),
                })
            }
            _ => Err(End::Fault(Fault::new(
                "the runner answered a case with something else".to_owned(),
            ))),
        }
    }

    /// How many variants are worth handing to [`Session::build_ahead`] at a time.
    #[must_use]
    pub fn build_count(&self) -> usize {
        if self.one_by_one {
            1
        } else {
            self.builds_at_once
        }
    }

    /// Has the runner build variants that will be prepared next side by side, where it can. It builds
    /// what it does not build here when it is prepared.
    ///
    /// # Errors
    /// When the runner dies or its device is lost. It is not known of which variant: from then on they
    /// are built one by one.
    pub fn build_ahead(&mut self, variants: &[Variant]) -> Result<(), Fault> {
        if variants.len() < 2 || self.build_count() < 2 {
            return Ok(());
        }
        // None of them is to blame alone.
        self.last = None;
        for several in variants.chunks(self.build_count()) {
            let request = Request::Build {
                variants: several.to_vec(),
            };
            match self.runner.ask(&request, self.silence) {
                Ok(Response::Built) => {}
                Ok(Response::Error {
                    kind: crate::protocol::FaultKind::DeviceLost,
                    message,
                }) => {
                    self.one_by_one = true;
                    return Err(Fault::new(message));
                }
                Ok(_) => {
                    self.one_by_one = true;
                    break;
                }
                Err(fault) => {
                    self.one_by_one = true;
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    /// Builds a variant and calls it once; `Ok(Err(..))` is the runner's refusal.
    ///
    /// # Errors
    /// When the runner dies or its device is lost.
    pub fn prepare(&mut self, variant: &Variant) -> Result<Result<Ready, String>, Fault> {
        let request = Request::Prepare {
            variant: variant.clone(),
        };
        self.built(variant, &request)
    }

    /// Builds what a variant would be if a part of it were changed, and calls it once; `Ok(Err(..))`
    /// is the runner's refusal, or that there is nothing to change. What it computes is wrong: a time
    /// of it is a diagnosis and never a result.
    ///
    /// # Errors
    /// When the runner dies or its device is lost.
    pub fn what_if(
        &mut self,
        variant: &Variant,
        what_if: WhatIf,
    ) -> Result<Result<Ready, String>, Fault> {
        let request = Request::WhatIf {
            variant: variant.clone(),
            what_if,
        };
        self.built(variant, &request)
    }

    /// What a variant takes of the device; `Ok(Err(..))` is the runner's refusal.
    ///
    /// # Errors
    /// When the runner dies or its device is lost.
    pub fn inspect(&mut self, variant: &Variant) -> Result<Result<Inspection, String>, Fault> {
        let request = Request::Inspect {
            variant: variant.clone(),
        };
        Ok(match self.runner.ask(&request, self.silence)? {
            Response::Inspected { inspection } => Ok(*inspection),
            Response::Error { message, .. } => Err(message),
            _ => Err("the runner answered a question with something else".to_owned()),
        })
    }

    fn built(
        &mut self,
        variant: &Variant,
        request: &Request,
    ) -> Result<Result<Ready, String>, Fault> {
        self.last = Some(variant.clone());
        self.clock = None;
        self.output = None;
        match self.runner.ask(request, self.silence)? {
            Response::Ready {
                compile_s,
                first_call_s,
                shader_sha256,
                engine,
                passes,
                clock,
                output,
                left_out,
            } => {
                self.clock = clock;
                self.output = match output.as_deref() {
                    None => None,
                    Some(label @ ("f16" | "bf16")) => Element::named(label),
                    Some(other) => {
                        return Ok(Err(format!(
                            "the runner rounds its output to {other:?}; known are \"f16\" and \"bf16\""
                        )));
                    }
                };
                Ok(Ok(Ready {
                    compile_s,
                    first_call_s,
                    shader_sha256,
                    engine,
                    passes,
                    output: self.output,
                    left_out,
                }))
            }
            Response::Error {
                kind: crate::protocol::FaultKind::DeviceLost,
                message,
            } => Err(Fault::new(message)),
            Response::Error { message, .. } => Ok(Err(message)),
            _ => Ok(Err(
                "the runner answered a variant with something else".to_owned()
            )),
        }
    }

    /// Verifies the output as it lies.
    ///
    /// # Errors
    /// When the runner dies.
    pub fn verify(
        &mut self,
        case: &Case,
        inputs: &[Values],
        data: &Data,
    ) -> Result<Verdict, Fault> {
        self.verify_set(case, inputs, data, 0)
    }

    /// Verifies the output of one set of buffers as it lies.
    ///
    /// # Errors
    /// When the runner dies.
    pub fn verify_set(
        &mut self,
        case: &Case,
        inputs: &[Values],
        data: &Data,
        set_index: u32,
    ) -> Result<Verdict, Fault> {
        verify::check(
            self.runner,
            case,
            inputs,
            data,
            verify::Challenge {
                seed: verify::entropy(),
                set_index,
                output: self.output,
            },
            self.silence,
        )
    }

    /// Times the prepared variant.
    ///
    /// # Errors
    /// When the runner dies or refuses.
    pub fn measure(&mut self, policy: &Policy) -> Result<Measurement, Trouble> {
        let timer = self.clock_in_use();
        measure(self.runner, &timer, policy)
    }

    /// Times what this session and another have prepared, by turns.
    ///
    /// # Errors
    /// When a runner dies or refuses: this one (0) or the other (1).
    pub fn measure_by_turns(
        &mut self,
        other: &mut Session<'_>,
        policy: &Policy,
        other_begins: bool,
    ) -> Result<Turns, (usize, Trouble)> {
        let timers = [self.clock_in_use(), other.clock_in_use()];
        let sides: [(&mut dyn Conversation, &Timer); 2] = [
            (&mut *self.runner, &timers[0]),
            (&mut *other.runner, &timers[1]),
        ];
        measure_by_turns(sides, policy, other_begins)
    }

    fn clock_in_use(&self) -> Timer {
        match &self.clock {
            Some(clock) => Timer {
                clock: clock.clone(),
                ..self.timer.clone()
            },
            None => self.timer.clone(),
        }
    }
}

/// What a case needs besides the runner.
pub struct Task<'a> {
    /// The case.
    pub case: &'a Case,
    /// A smaller one for the first round; the case itself where it is fast enough.
    pub scout: Case,
    /// Seed of the inputs.
    pub seed: u32,
    /// Seconds for the search.
    pub budget_s: f64,
    /// Seconds for the search and all that follows it.
    pub case_budget_s: f64,
    /// The case's share of the run's budget in seconds: what it takes beyond that, other cases pay.
    pub share_s: Option<f64>,
    /// Variants that must not run: they have killed a runner before.
    pub banned: &'a [Variant],
    /// Variants that an earlier search found best. While one of them works little else is looked at.
    pub remembered: &'a [Variant],
    /// Whether that search looked at every kernel; else it is made as if it had not been, beginning with
    /// what it found.
    pub remembered_of_all: bool,
    /// Whether nothing else is looked at while one of those works.
    pub pinned: bool,
    /// The device, as far as what it can hold orders the search.
    pub device: &'a Device,
    /// The highest that probes have reached so far, which bounds what a variant can take.
    pub ceilings: &'a [Ceiling],
    /// The runner's name among them.
    pub runner: &'a str,
}

/// A variant in the race.
struct Runner {
    variant: Variant,
    time_s: f64,
}

/// The search: its record and its clock.
struct Search<'a, 's, 'r> {
    task: &'a Task<'a>,
    session: &'s mut Session<'r>,
    started: Instant,
    tried: BTreeMap<Variant, Tried>,
    untried: Vec<Refused>,
    wrong: Option<String>,
    failed: Option<String>,
    banned: bool,
    /// Seconds that the final measurement will take at least, as known so far.
    reserve_s: f64,
    /// How late each variant should be looked at, by what is known of it beforehand.
    ranks: BTreeMap<Variant, u32>,
    /// Variants that need more registers than there are: at best slow, and often slow to compile.
    spilling: BTreeSet<Variant>,
    /// What each variant takes at least at the full size, and the ceiling that says so.
    bounds: BTreeMap<Variant, (f64, &'static str)>,
    /// Whether a variant was faster than that: then the ceiling is none, and bounds nothing.
    refuted: bool,
    /// Variants that cannot be the best, and so are not built.
    pruned: Vec<Refused>,
    /// The inputs that were made last, and of which case.
    inputs: Option<(Case, Rc<[Values]>)>,
}

/// Calls that follow the search at least: three checks, a warm-up and six samples.
const CALLS_AFTER: f64 = 10.0;

/// Why a variant was not looked at.
pub(crate) const TIME_UP: &str = "the time for the search was up";
const PINNED: &str = "the report that is replayed chose another";
const REMEMBERED: &str = "an earlier search found others to be the best (--no-cache searches anew)";

/// Share of the search's time within which variants are looked at, and within which kernels of which none
/// was looked at still get their first look.
const LOOK_AROUND: f64 = 0.4;
const FIRST_LOOKS: f64 = 0.6;

/// How many variants of the first round are looked at again nearer to the full size, how much slower than
/// the best of them they may be, which share of the search's time it may take by what the first round let
/// expect, and by which share it ends where a look costs more than is left.
const SECOND_LOOKS: usize = 8;
const SECOND_LOOK_WITHIN: f64 = 4.0;
const SECOND_LOOKS_SHARE: f64 = 0.25;
const SECOND_LOOKS_END: f64 = 0.7;

/// How many variants of the rounds before are looked at in full size whichever kernel they are of.
const FINALISTS: usize = 8;

/// Share of the search's time within which further variants of the kernel that is the best at the full
/// size are looked at there.
const LOOK_BESIDE: f64 = 0.7;

/// Share of the whole case's time within which what is built already is looked at, also where the
/// search's own is up: the final measurement gets less, and of the right variant.
const LOOK_LATEST: f64 = 0.8;

/// Calls that a look at a slow variant takes: when it is built, a warm-up, three samples, one to spare.
const CALLS_OF_A_LOOK: f64 = 6.0;

/// Looks that cost less than this count as if they cost as much: below it the budget does not feel it.
const LOOK_S_MIN: f64 = 0.1;

/// Share of the search's time within which variants are looked at beside those remembered.
const LOOK_AGAIN: f64 = 0.2;

/// How often the inputs of a case are made, or looked at for as long as making them takes.
const LOADS: f64 = 5.0;

/// Ranks the variants of a case, best first, and appends every one looked at to `tried`.
///
/// # Errors
/// When nothing works, the runner dies or the user wants to stop; `tried` holds what was learnt.
pub fn choose(
    task: &Task<'_>,
    session: &mut Session<'_>,
    tried: &mut Vec<Tried>,
) -> Result<Vec<Variant>, End> {
    let started = Instant::now();
    let (offered, refused) = session.case(task.case, task.seed, &Data::Uniform)?;
    let loaded_s = started.elapsed().as_secs_f64();
    if let Some(share_s) = task.share_s
        && LOADS * loaded_s > share_s
    {
        return Err(End::Skipped(format!(
            "{SHARE_USED}, {share_s:.2} s, does not cover its inputs: they took {loaded_s:.2} s to make, and are made or checked {LOADS} times"
        )));
    }
    let mut search = Search::new(task, session);
    search.estimate();
    let result = search.run(offered);
    let (wrong, failed, banned) = (search.wrong.take(), search.failed.take(), search.banned);
    let untried = std::mem::take(&mut search.untried);
    let pruned = std::mem::take(&mut search.pruned);
    tried.extend(search.tried.into_values());
    tried.extend(grouped(&pruned, "pruned"));
    tried.extend(grouped(&untried, "untried"));
    tried.extend(grouped(&refused, "refused"));
    let ranking = result?;
    if !ranking.is_empty() {
        return Ok(ranking);
    }
    Err(match (wrong, failed, refused.first()) {
        (Some(reason), _, _) => End::Wrong(reason),
        (None, Some(reason), _) => End::Failed(reason),
        (None, None, _) if banned => {
            End::Skipped("no variant is left that has not killed the runner before".to_owned())
        }
        (None, None, Some(first)) => End::Skipped(format!(
            "no variant can run here; the first, {}: {}",
            first.variant, first.reason
        )),
        (None, None, None) => End::Skipped("the runner has no kernel for this case".to_owned()),
    })
}

/// One entry for each kernel and reason: hundreds of combinations fail for a handful of causes.
fn grouped(refused: &[Refused], status: &str) -> Vec<Tried> {
    let mut groups: BTreeMap<(&str, &str), (usize, &Variant)> = BTreeMap::new();
    for refusal in refused {
        groups
            .entry((&refusal.variant.kernel, &refusal.reason))
            .or_insert((0, &refusal.variant))
            .0 += 1;
    }
    groups
        .into_iter()
        .map(|((_, reason), (count, variant))| {
            let reason = if count == 1 {
                reason.to_owned()
            } else {
                format!("{reason} (and {} more like it)", count - 1)
            };
            entry(variant, status, Some(reason))
        })
        .collect()
}

/// What a report says of a variant that has no time.
#[must_use]
pub fn entry(variant: &Variant, status: &str, reason: Option<String>) -> Tried {
    Tried {
        kernel: variant.kernel.clone(),
        variant: variant.variant.clone(),
        status: status.to_owned(),
        time_s_median: None,
        at_case_id: None,
        compile_s: None,
        reason,
    }
}

impl<'a, 's, 'r> Search<'a, 's, 'r> {
    fn spent(&self, fraction: f64) -> bool {
        let elapsed_s = self.started.elapsed().as_secs_f64();
        elapsed_s > fraction * self.task.budget_s
            || elapsed_s + self.reserve_s > self.task.case_budget_s
    }

    /// Whether there is time for a look, by `fraction` of the search's time or, as a call of what was
    /// built in small takes about `call_s` and nothing is left to compile, by its end or somewhat later.
    /// Where a driver compiles for seconds the first looks take what the later ones were to have, and
    /// those that decide cost next to nothing.
    fn affords(&self, fraction: f64, call_s: f64) -> bool {
        let look_s = CALLS_OF_A_LOOK * call_s;
        let after_s = self.started.elapsed().as_secs_f64() + look_s;
        let latest_s = self
            .task
            .budget_s
            .max(LOOK_LATEST * self.task.case_budget_s);
        !self.spent(fraction)
            || after_s <= latest_s && after_s + self.reserve_s <= self.task.case_budget_s
    }

    fn run(&mut self, offered: Vec<Variant>) -> Result<Vec<Variant>, End> {
        let task = self.task;
        let scouting = task.scout != *task.case;
        let mut pool = self.look_again(offered.clone())?;
        if pool.is_empty() || !(task.remembered_of_all || task.pinned) {
            let known = std::mem::take(&mut pool);
            let legal = self.without_banned(offered);
            let (mut variants, _) = self.session.case(&task.scout, task.seed, &Data::Uniform)?;
            variants.retain(|variant| legal.contains(variant));
            let mut fields = Field::group(variants, &self.ranks);
            self.look_around(&task.scout, &mut fields, &mut pool, scouting)?;
            if scouting {
                pool = self.look_nearer(&legal, fields, pool)?;
            }
            for runner in known {
                if !pool.iter().any(|other| other.variant == runner.variant) {
                    pool.push(runner);
                }
            }
            pool.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
            self.own_up(legal);
        }
        // Keep the best third and double the samples, until one is left or the time is up.
        let mut sample_count = 6;
        while pool.len() > 1 && sample_count <= 24 && !self.spent(0.9) {
            let keep = pool.len().div_ceil(3).clamp(2, 6);
            let reserve = pool.split_off(keep);
            let inputs = self.inputs(task.case)?;
            for runner in &mut pool {
                let time = self.time(task.case, &inputs, &runner.variant, sample_count, None)?;
                runner.time_s = time.unwrap_or(f64::INFINITY);
            }
            pool.retain(|runner| runner.time_s.is_finite());
            if pool.is_empty() {
                pool = reserve;
            }
            pool.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
            if pool.len() <= 2 && sample_count >= 12 {
                break;
            }
            sample_count *= 2;
        }
        // Those by which others were out may have failed since: then the others are what is left.
        if pool.is_empty() && !self.pruned.is_empty() {
            let inputs = self.inputs(task.case)?;
            self.session.case(task.case, task.seed, &Data::Uniform)?;
            while pool.is_empty()
                && let Some(Refused { variant, .. }) = self.pruned.pop()
            {
                self.look_at(&inputs, variant, &mut pool)?;
            }
        }
        Ok(pool.into_iter().map(|runner| runner.variant).collect())
    }

    /// Counts what is legal at the full size, and at none that there was time for, as not looked at.
    fn own_up(&mut self, legal: Vec<Variant>) {
        let listed = |list: &[Refused], variant: &Variant| {
            list.iter().any(|refused| refused.variant == *variant)
        };
        for variant in legal {
            if !self.tried.contains_key(&variant)
                && !listed(&self.untried, &variant)
                && !listed(&self.pruned, &variant)
            {
                self.untried.push(Refused {
                    variant,
                    reason: TIME_UP.to_owned(),
                });
            }
        }
    }

    fn new(task: &'a Task<'a>, session: &'s mut Session<'r>) -> Self {
        Self {
            task,
            session,
            started: Instant::now(),
            tried: BTreeMap::new(),
            untried: Vec::new(),
            wrong: None,
            failed: None,
            banned: false,
            reserve_s: 0.0,
            ranks: BTreeMap::new(),
            spilling: BTreeSet::new(),
            bounds: BTreeMap::new(),
            refuted: false,
            pruned: Vec::new(),
            inputs: None,
        }
    }

    /// Reads what the runner told of the variants at the full size.
    fn estimate(&mut self) {
        let Task {
            case,
            device,
            ceilings,
            runner,
            ..
        } = *self.task;
        for told in &self.session.estimates {
            let rank = estimate::rank(told, case, device);
            self.ranks.insert(told.variant.clone(), rank);
            if estimate::spills(told, device) {
                self.spilling.insert(told.variant.clone());
            }
            if let Some(bound) = estimate::least_s(told, case, ceilings, runner) {
                self.bounds.insert(told.variant.clone(), bound);
            }
        }
    }

    /// Why this variant cannot beat one that took `best_s` at the full size, where that is certain.
    fn beaten(&self, variant: &Variant, best_s: f64) -> Option<String> {
        let &(least_s, ceiling) = self.bounds.get(variant).filter(|_| !self.refuted)?;
        (least_s > best_s).then(|| {
            format!(
                "with what pads its tiles it takes {least_s:.2e} s at least, by {ceiling}; {best_s:.2e} s have been measured"
            )
        })
    }

    /// Takes the variants that cannot be the best out of the race before they are built, and back in
    /// if the ceiling by which they were out turns out to be none.
    fn prune(&mut self, fields: &mut [Field], pool: &[Runner]) {
        if self.refuted {
            for Refused { variant, .. } in self.pruned.drain(..) {
                if let Some(field) = fields.iter_mut().find(|f| f.kernel == variant.kernel) {
                    field.left.push(variant);
                }
            }
        }
        let best_s = fastest(pool);
        for field in fields {
            let (out, left): (Vec<_>, Vec<_>) = std::mem::take(&mut field.left)
                .into_iter()
                .map(|variant| (self.beaten(&variant, best_s), variant))
                .partition(|(reason, _)| reason.is_some());
            field.left = left.into_iter().map(|(_, variant)| variant).collect();
            self.pruned.extend(
                out.into_iter().filter_map(|(reason, variant)| {
                    reason.map(|reason| Refused { variant, reason })
                }),
            );
        }
    }

    /// The inputs of a case; those of the last one are kept, for at the full size they take their time.
    fn inputs(&mut self, case: &Case) -> Result<Rc<[Values]>, End> {
        if let Some((of, inputs)) = &self.inputs
            && of == case
        {
            return Ok(Rc::clone(inputs));
        }
        let inputs: Rc<[Values]> = verify::inputs(case, self.task.seed, &Data::Uniform)
            .map_err(|error| End::Failed(error.message))?
            .into();
        self.inputs = Some((case.clone(), Rc::clone(&inputs)));
        Ok(inputs)
    }

    /// What an earlier search found best, of what is offered, at the full size, and then for a short
    /// while other variants of the same kernels. If nothing that is known works, or the search that found
    /// it did not get to look at every kernel, what follows goes on as if nothing had been known.
    fn look_again(&mut self, offered: Vec<Variant>) -> Result<Vec<Runner>, End> {
        let task = self.task;
        let mut pool: Vec<Runner> = Vec::new();
        let (known, others): (Vec<Variant>, Vec<Variant>) = offered
            .into_iter()
            .filter(|variant| !task.banned.contains(variant))
            .partition(|variant| task.remembered.contains(variant));
        if known.is_empty() {
            return Ok(pool);
        }
        let inputs = self.inputs(task.case)?;
        for variant in task.remembered.iter().filter(|v| known.contains(v)) {
            if pool.is_empty() || !self.spent(0.4) {
                self.look_at(&inputs, variant.clone(), &mut pool)?;
            }
        }
        if pool.is_empty() || !(task.remembered_of_all || task.pinned) {
            return Ok(pool);
        }
        if task.pinned {
            self.untried
                .extend(others.into_iter().map(|variant| Refused {
                    variant,
                    reason: PINNED.to_owned(),
                }));
            return Ok(pool);
        }
        let mut fields = Field::group(others, &self.ranks);
        for field in &mut fields {
            // Looked at already, if not in this search.
            field.tries = 1;
            for runner in &pool {
                if runner.variant.kernel == field.kernel {
                    field.note(&runner.variant, Some(runner.time_s), 0.0);
                }
            }
        }
        self.prune(&mut fields, &pool);
        while !self.spent(LOOK_AGAIN) {
            let batch: Vec<Variant> = (0..self.session.build_count())
                .map_while(|_| next(&mut fields, |field| field.best.is_some()))
                .collect();
            if batch.is_empty() {
                break;
            }
            let build_s = self.build(&batch)?;
            for (place, variant) in batch.into_iter().enumerate() {
                if place > 0 && self.spent(LOOK_AGAIN) {
                    self.untried.push(Refused {
                        variant,
                        reason: REMEMBERED.to_owned(),
                    });
                    continue;
                }
                let begun = Instant::now();
                let time = self.look_at(&inputs, variant.clone(), &mut pool)?;
                let look_s = build_s + begun.elapsed().as_secs_f64();
                for field in &mut fields {
                    if field.kernel == variant.kernel {
                        field.note(&variant, time, look_s);
                    }
                }
            }
            self.prune(&mut fields, &pool);
        }
        let left = fields.into_iter().flat_map(|field| field.left);
        self.untried.extend(left.map(|variant| Refused {
            variant,
            reason: REMEMBERED.to_owned(),
        }));
        pool.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
        Ok(pool)
    }

    /// Times a variant at the full size and adds it to those that work.
    fn look_at(
        &mut self,
        inputs: &[Values],
        variant: Variant,
        pool: &mut Vec<Runner>,
    ) -> Result<Option<f64>, End> {
        let best = fastest(pool);
        let time = self.time(self.task.case, inputs, &variant, 3, Some(4.0 * best))?;
        pool.extend(time.map(|time_s| Runner { variant, time_s }));
        Ok(time)
    }

    /// Leaves out what has killed a runner before, and says so.
    fn without_banned(&mut self, offered: Vec<Variant>) -> Vec<Variant> {
        let (banned, legal): (Vec<Variant>, Vec<Variant>) = offered
            .into_iter()
            .partition(|variant| self.task.banned.contains(variant));
        for variant in banned {
            self.banned = true;
            self.record(&variant, "failed", |t| {
                t.reason = Some("it killed the runner before".to_owned())
            });
        }
        legal
    }

    /// Looks at variants of these kernels at this size, which is the session's, and adds those that work
    /// to the pool: those most promising first, and as many as the time allows, or `once` at each kernel,
    /// three times at one of which none works.
    fn look_around(
        &mut self,
        size: &Case,
        fields: &mut [Field],
        pool: &mut Vec<Runner>,
        once: bool,
    ) -> Result<(), End> {
        let inputs = self.inputs(size)?;
        // A bound on the time at one size says nothing of another.
        let full_size = size == self.task.case;
        if full_size && !pool.is_empty() {
            self.prune(fields, pool);
        }
        loop {
            let batch = self.batch(fields, pool, once);
            if batch.is_empty() {
                return Ok(());
            }
            let build_s = self.build(&batch)?;
            let built = Instant::now();
            for (place, variant) in batch.into_iter().enumerate() {
                // What is built is worth its look even where building has used the time up.
                let looked_s = built.elapsed().as_secs_f64();
                if place > 0 && !pool.is_empty() && looked_s > LOOK_AROUND * self.task.budget_s {
                    self.untried.push(Refused {
                        variant,
                        reason: TIME_UP.to_owned(),
                    });
                    continue;
                }
                let limit_s = Some(4.0 * fastest(pool));
                let begun = Instant::now();
                let time = self.time(size, &inputs, &variant, 3, limit_s)?;
                let look_s = build_s + begun.elapsed().as_secs_f64();
                if let Some(field) = fields
                    .iter_mut()
                    .find(|field| field.kernel == variant.kernel)
                {
                    field.note(&variant, time, look_s);
                }
                if let Some(time_s) = time {
                    pool.push(Runner { variant, time_s });
                }
            }
            if full_size {
                self.prune(fields, pool);
            }
        }
    }

    /// What to look at next, as many as the runner builds side by side; what there is no time for any
    /// more is put aside.
    fn batch(&mut self, fields: &mut [Field], pool: &[Runner], once: bool) -> Vec<Variant> {
        let mut batch: Vec<Variant> = Vec::new();
        while batch.len() < self.session.build_count() {
            let chosen = |field: &Field| batch.iter().any(|v| v.kernel == field.kernel);
            let wanted =
                &|field: &Field| !once || field.best.is_none() && field.tries < 3 && !chosen(field);
            // While nothing works the search goes on whatever the time, one look after the other.
            if pool.is_empty() && !batch.is_empty() && self.spent(FIRST_LOOKS) {
                break;
            }
            // A batch takes as long as the slowest of it takes to compile.
            let spills = |variant: &Variant| self.spilling.contains(variant);
            if batch.iter().any(|variant| !spills(variant))
                && next_of(fields, wanted).is_some_and(|field| {
                    let best = fields[field].lowest();
                    best.is_some_and(|index| spills(&fields[field].left[index]))
                })
            {
                break;
            }
            let Some(variant) = next(fields, wanted) else {
                break;
            };
            let share = match fields.iter().find(|field| field.kernel == variant.kernel) {
                Some(field) if field.tries > 1 => LOOK_AROUND,
                _ => FIRST_LOOKS,
            };
            if self.spent(share) && !(pool.is_empty() && batch.is_empty()) {
                self.untried.push(Refused {
                    variant,
                    reason: TIME_UP.to_owned(),
                });
            } else {
                batch.push(variant);
            }
        }
        batch
    }

    /// Has variants built side by side; the seconds that each of them took of the search's time.
    fn build(&mut self, batch: &[Variant]) -> Result<f64, End> {
        let begun = Instant::now();
        // What spills compiles longest, and nothing else shall wait for it.
        let (spilling, lean): (Vec<_>, Vec<_>) =
            (batch.iter().cloned()).partition(|variant| self.spilling.contains(variant));
        self.session.build_ahead(&lean)?;
        self.session.build_ahead(&spilling)?;
        #[allow(clippy::cast_precision_loss)] // a handful
        let count = batch.len().max(1) as f64;
        Ok(begun.elapsed().as_secs_f64() / count)
    }

    /// The largest size at which the search has time to look again at the promising ones of the first
    /// round: that round's where no larger one will do. `calls_s` is what one call of each took there.
    fn nearer(&self, calls_s: f64) -> Case {
        let Task { case, scout, .. } = self.task;
        let affordable = |size: &Case| {
            CALLS_OF_A_LOOK * calls_s * growth(scout, size)
                <= SECOND_LOOKS_SHARE * self.task.budget_s
        };
        let smaller = |size: &Case| {
            let shape = case.op.op().shrink(&size.shape)?;
            Some(Case {
                shape,
                ..size.clone()
            })
        };
        std::iter::successors(Some((*case).clone()), smaller)
            .take_while(|size| growth(scout, size) > 1.0)
            .find(affordable)
            .unwrap_or_else(|| scout.clone())
    }

    /// Second round, at a size nearer to the full one: what is done once for a tensor, such as copying
    /// it, weighs more at a small size, and kernels that do it would be out before the size at which
    /// they are best; and calls of a millisecond tell little. The kernels that were good in the first
    /// round (`pool`) are looked at again, and then other variants. Returns the times at the full size.
    fn look_nearer(
        &mut self,
        legal: &[Variant],
        mut fields: Vec<Field>,
        mut pool: Vec<Runner>,
    ) -> Result<Vec<Runner>, End> {
        let task = self.task;
        let expect = |size: &Case, pool: &mut [Runner]| {
            for runner in pool {
                runner.time_s *= growth(size, task.case);
            }
        };
        let offered_small: BTreeSet<Variant> = fields
            .iter()
            .flat_map(|field| field.ranks.keys().cloned())
            .collect();
        pool.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
        let best_s = fastest(&pool);
        let promising = |runner: &Runner| runner.time_s <= SECOND_LOOK_WITHIN * best_s;
        let calls = pool.iter().take_while(|&runner| promising(runner));
        let size = self.nearer(calls.take(SECOND_LOOKS).map(|runner| runner.time_s).sum());
        let mut nearer: Vec<Runner> = Vec::new();
        let mut others = pool;
        if size != task.scout {
            let (mut variants, _) = self.session.case(&size, task.seed, &Data::Uniform)?;
            variants.retain(|variant| legal.contains(variant));
            let inputs = self.inputs(&size)?;
            for field in &mut fields {
                field.keep(&variants, growth(&task.scout, &size));
            }
            // What is for sizes like the full one and not for small ones comes in here.
            variants
                .iter()
                .filter(|&variant| !offered_small.contains(variant))
                .for_each(|variant| Field::add(&mut fields, variant, &self.ranks));
            let (chosen, left): (Vec<_>, Vec<_>) = (others.into_iter())
                .partition(|runner| promising(runner) && variants.contains(&runner.variant));
            others = left;
            let larger = growth(&task.scout, &size);
            for (place, runner) in chosen.into_iter().enumerate() {
                let affordable = self.affords(SECOND_LOOKS_END, larger * runner.time_s);
                if place > 0 && (place >= SECOND_LOOKS || !affordable) {
                    others.push(runner);
                    continue;
                }
                let limit_s = Some(SECOND_LOOK_WITHIN * fastest(&nearer));
                let variant = runner.variant;
                let time = self.time(&size, &inputs, &variant, 3, limit_s)?;
                if let Some(field) = fields.iter_mut().find(|f| f.kernel == variant.kernel) {
                    field.best = None;
                    field.note(&variant, time, 0.0);
                }
                nearer.extend(time.map(|time_s| Runner { variant, time_s }));
            }
        } else {
            std::mem::swap(&mut nearer, &mut others);
        }
        self.look_around(&size, &mut fields, &mut nearer, false)?;
        nearer.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
        others.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
        expect(&task.scout, &mut others);
        if size == *task.case {
            self.at_full_size(legal, nearer, others)
        } else {
            expect(&size, &mut nearer);
            nearer.append(&mut others);
            self.session.case(task.case, task.seed, &Data::Uniform)?;
            self.at_full_size(legal, Vec::new(), nearer)
        }
    }

    /// The best of the rounds before at the full size, then what else there is of the fastest kernel, and
    /// the best of every other one where that is affordable, so that a report can say how kernels
    /// compare. `full` has been timed there, where the session is; the times of `pool` are those to
    /// expect.
    fn at_full_size(
        &mut self,
        legal: &[Variant],
        mut full: Vec<Runner>,
        pool: Vec<Runner>,
    ) -> Result<Vec<Runner>, End> {
        let inputs = self.inputs(self.task.case)?;
        let mut others: Vec<Runner> = Vec::new();
        // Where the best have been timed here already only other kernels are still missing.
        let mut finalists = if full.is_empty() { 0 } else { FINALISTS };
        for runner in pool
            .into_iter()
            .filter(|runner| legal.contains(&runner.variant))
        {
            // It has been built and timed in small, so it stays on record as that.
            if self.beaten(&runner.variant, fastest(&full)).is_some() {
                continue;
            }
            let affordable = self.affords(0.75, runner.time_s);
            if finalists < FINALISTS && affordable || full.is_empty() {
                finalists += 1;
                self.look_at(&inputs, runner.variant, &mut full)?;
            } else {
                others.push(runner);
            }
        }
        full.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
        // Sizes differ less in which kernel is the best than in which of its variants is. What was left
        // out for want of time comes after what has been timed in small.
        while let Some(best) = full.first()
            && !self.spent(LOOK_BESIDE)
        {
            let kernel = best.variant.kernel.clone();
            let late = |left: &Refused| {
                left.variant.kernel == kernel
                    && left.reason == TIME_UP
                    && legal.contains(&left.variant)
            };
            let best_s = best.time_s;
            let mut batch = Vec::new();
            if let Some(at) = others.iter().position(|r| r.variant.kernel == kernel) {
                batch.push(others.remove(at).variant);
            }
            while batch.len() < self.session.build_count()
                && let Some(at) = self.untried.iter().position(late)
            {
                batch.push(self.untried.remove(at).variant);
            }
            if batch.is_empty() {
                break;
            }
            let mut promising = Vec::new();
            for variant in batch {
                match self.beaten(&variant, best_s) {
                    None => promising.push(variant),
                    // What has been timed in small stays on record as that.
                    Some(_) if self.tried.contains_key(&variant) => {}
                    Some(reason) => self.pruned.push(Refused { variant, reason }),
                }
            }
            self.build(&promising)?;
            for (place, variant) in promising.into_iter().enumerate() {
                if place > 0 && self.spent(LOOK_BESIDE) {
                    self.untried.push(Refused {
                        variant,
                        reason: TIME_UP.to_owned(),
                    });
                } else {
                    self.look_at(&inputs, variant, &mut full)?;
                }
            }
            full.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
        }
        // The rest is for comparison: what a poor kernel takes must not cost the best its looks.
        let mut kernels: BTreeSet<String> = (full.iter())
            .map(|runner| runner.variant.kernel.clone())
            .collect();
        for runner in others {
            // Preparing calls it once, timing once more if it is slow.
            let affordable =
                2.0 * runner.time_s < 0.3 * self.task.budget_s && runner.time_s < SUBMISSION_S_MAX;
            if affordable && !self.spent(0.9) && kernels.insert(runner.variant.kernel.clone()) {
                self.look_at(&inputs, runner.variant, &mut full)?;
            }
        }
        full.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
        Ok(full)
    }

    fn record(&mut self, variant: &Variant, status: &str, note: impl FnOnce(&mut Tried)) {
        let tried = self
            .tried
            .entry(variant.clone())
            .or_insert_with(|| entry(variant, status, None));
        status.clone_into(&mut tried.status);
        note(tried);
    }

    /// Builds, verifies and times one variant; `None` if it cannot or must not be used.
    fn time(
        &mut self,
        case: &Case,
        inputs: &[Values],
        variant: &Variant,
        sample_count: u32,
        give_up_above_s: Option<f64>,
    ) -> Result<Option<f64>, End> {
        if (self.session.interrupted)() {
            return Err(End::Interrupted);
        }
        let ready = match self.session.prepare(variant)? {
            Ok(ready) => ready,
            Err(reason) => {
                self.failed
                    .get_or_insert_with(|| format!("{variant}: {reason}"));
                self.record(variant, "failed", |t| t.reason = Some(reason));
                return Ok(None);
            }
        };
        match self.session.verify(case, inputs, &Data::Uniform)? {
            Verdict::Right(_) => {}
            Verdict::Refused(reason) => {
                self.failed
                    .get_or_insert_with(|| format!("{variant}: {reason}"));
                self.record(variant, "failed", |t| t.reason = Some(reason));
                return Ok(None);
            }
            Verdict::Wrong(_, reason) => {
                self.wrong
                    .get_or_insert_with(|| format!("{variant}: {reason}"));
                self.record(variant, "wrong", |t| t.reason = Some(reason));
                return Ok(None);
            }
        }
        let time_s_max = (self.task.budget_s * 0.05).clamp(0.05, 1.0);
        let policy = Policy {
            give_up_above_s,
            ..Policy::glance(
                &self.session.timer,
                sample_count,
                time_s_max,
                self.session.silence,
            )
        };
        match self.session.measure(&policy) {
            Ok(measurement) => {
                let at = (case != self.task.case).then(|| case.id());
                self.record(variant, "timed", |t| {
                    t.time_s_median = Some(measurement.summary.median);
                    t.at_case_id = at;
                    // The first time it was prepared is when it was compiled.
                    t.compile_s
                        .get_or_insert(ready.compile_s(measurement.host_s_median));
                });
                let median_s = measurement.summary.median;
                if case == self.task.case {
                    let bound = self.bounds.get(variant);
                    self.refuted |= bound.is_some_and(|(least_s, _)| median_s < *least_s);
                    let after_s = CALLS_AFTER * median_s;
                    self.reserve_s = if self.reserve_s > 0.0 {
                        self.reserve_s.min(after_s)
                    } else {
                        after_s
                    };
                }
                Ok(Some(median_s))
            }
            Err(Trouble::Fault(fault)) => Err(fault.into()),
            Err(Trouble::Refused(reason) | Trouble::Untrue(reason)) => {
                self.failed
                    .get_or_insert_with(|| format!("{variant}: {reason}"));
                self.record(variant, "failed", |t| t.reason = Some(reason));
                Ok(None)
            }
        }
    }
}

/// How many times the work of one size is that of another.
#[allow(clippy::cast_precision_loss)]
fn growth(from: &Case, to: &Case) -> f64 {
    let work = |case: &Case| case.flop_count().max(case.bytes_min()).max(1) as f64;
    work(to) / work(from)
}

/// The variants of one kernel that are still to be looked at, and what is known of the others.
struct Field {
    kernel: String,
    left: Vec<Variant>,
    /// How late each of them should be looked at; 0 for those that nobody knows anything of.
    ranks: BTreeMap<Variant, u32>,
    best: Option<(Variant, f64)>,
    tries: u32,
    /// Seconds that looking at them took.
    spent_s: f64,
}

impl Field {
    fn group(variants: Vec<Variant>, ranks: &BTreeMap<Variant, u32>) -> Vec<Self> {
        let mut fields: Vec<Self> = Vec::new();
        for variant in variants {
            Self::add(&mut fields, &variant, ranks);
        }
        fields
    }

    fn add(fields: &mut Vec<Self>, variant: &Variant, ranks: &BTreeMap<Variant, u32>) {
        let rank = ranks.get(variant).copied().unwrap_or(0);
        if let Some(field) = fields.iter_mut().find(|f| f.kernel == variant.kernel) {
            field.ranks.insert(variant.clone(), rank);
            field.left.push(variant.clone());
            return;
        }
        // The runner lists plain kernels first; the promising ones are looked at first.
        let field = Self {
            kernel: variant.kernel.clone(),
            ranks: [(variant.clone(), rank)].into(),
            left: vec![variant.clone()],
            best: None,
            tries: 0,
            spent_s: 0.0,
        };
        fields.insert(0, field);
    }

    /// What came of a look at a variant, and the seconds that the look took, compiling included.
    fn note(&mut self, variant: &Variant, time: Option<f64>, look_s: f64) {
        self.spent_s += look_s;
        if let Some(time_s) = time
            && self.best.as_ref().is_none_or(|(_, best)| time_s < *best)
        {
            self.best = Some((variant.clone(), time_s));
        }
    }

    /// Leaves only what is legal at another size, at which a call takes so many times as long.
    fn keep(&mut self, legal: &[Variant], growth: f64) {
        self.left.retain(|variant| legal.contains(variant));
        if let Some((_, best_s)) = &mut self.best {
            *best_s *= growth;
        }
    }

    fn rank(&self, variant: &Variant) -> u32 {
        self.ranks.get(variant).copied().unwrap_or(0)
    }

    /// How soon this kernel's next variant should be looked at; lower is sooner. Every kernel gets
    /// one look, those of which most is expected first; after that the time goes where the best times
    /// are, but never only there. It is seconds that count and not looks: where a driver compiles one
    /// kernel for seconds, others are looked at many times for the price of one look at that.
    ///
    /// `look_s` is what a look costs at the least.
    fn priority(&self, look_s: f64) -> f64 {
        match &self.best {
            _ if self.tries == 0 => {
                let ranks = self.left.iter().map(|variant| self.rank(variant));
                -1.0 / f64::from(1 + ranks.min().unwrap_or(0))
            }
            Some((_, time_s)) => {
                let looks = f64::from(self.tries).max(self.spent_s / look_s);
                time_s * (1.0 + looks / 8.0)
            }
            None => f64::MAX,
        }
    }

    /// One of those that least speaks against.
    fn lowest(&self) -> Option<usize> {
        (0..self.left.len()).min_by_key(|&i| self.rank(&self.left[i]))
    }

    /// Of those that least speaks against, an unexplored one and a neighbour of the best (one tunable
    /// different) by turns: how much the tunables matter is known soonest from a variant that shares
    /// none of them.
    fn take(&mut self) -> Option<Variant> {
        let lowest = self.rank(&self.left[self.lowest()?]);
        self.tries += 1;
        let distance = |a: &Variant, b: &Variant| {
            a.variant
                .iter()
                .filter(|(name, value)| b.variant.get(*name) != Some(value))
                .count()
        };
        let mut open = (0..self.left.len()).filter(|&i| self.rank(&self.left[i]) == lowest);
        let index = match &self.best {
            Some((best, _)) if !self.tries.is_multiple_of(2) => {
                open.min_by_key(|&i| distance(&self.left[i], best))
            }
            Some((best, _)) => open.rev().max_by_key(|&i| distance(&self.left[i], best)),
            None => open.next(),
        };
        Some(self.left.remove(index?))
    }
}

/// The least time in a pool; infinite while it is empty.
fn fastest(pool: &[Runner]) -> f64 {
    pool.iter().map(|r| r.time_s).fold(f64::INFINITY, f64::min)
}

/// The variant to look at next, of the kernels that are wanted.
fn next(fields: &mut [Field], wanted: impl Fn(&Field) -> bool) -> Option<Variant> {
    let field = next_of(fields, wanted)?;
    fields[field].take()
}

/// The kernel whose turn it is, of those that are wanted.
fn next_of(fields: &[Field], wanted: impl Fn(&Field) -> bool) -> Option<usize> {
    let look_s = fields
        .iter()
        .filter(|field| field.spent_s > 0.0)
        .map(|field| field.spent_s / f64::from(field.tries.max(1)))
        .fold(f64::INFINITY, f64::min)
        .max(LOOK_S_MIN);
    let urgency = |index: &usize| fields[*index].priority(look_s);
    (0..fields.len())
        .filter(|&index| !fields[index].left.is_empty() && wanted(&fields[index]))
        .min_by(|a, b| urgency(a).total_cmp(&urgency(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(kernel: &str, a: u32, b: u32) -> Variant {
        Variant {
            kernel: kernel.to_owned(),
            variant: [("A".to_owned(), a), ("B".to_owned(), b)].into(),
        }
    }

    #[test]
    fn every_kernel_is_looked_at_once_before_the_best_is_looked_at_again() {
        let mut fields = Field::group(
            ["x", "y", "z"]
                .iter()
                .flat_map(|k| (0..5).map(|a| variant(k, a, 0)))
                .collect(),
            &BTreeMap::new(),
        );
        let mut order: Vec<String> = Vec::new();
        for _ in 0..5 {
            let taken = next(&mut fields, |_| true).unwrap();
            let field = fields
                .iter_mut()
                .find(|f| f.kernel == taken.kernel)
                .unwrap();
            field.note(
                &taken,
                Some(if taken.kernel == "x" { 1.0 } else { 100.0 }),
                0.0,
            );
            order.push(taken.kernel);
        }
        assert_eq!(order, ["z", "y", "x", "x", "x"]);
    }

    #[test]
    fn the_second_look_at_a_kernel_shares_nothing_with_the_first_and_the_third_most_with_the_best()
    {
        let grid = (0..3).flat_map(|a| (0..3).map(move |b| variant("x", a, b)));
        let mut fields = Field::group(grid.collect(), &BTreeMap::new());
        let mut looked = Vec::new();
        for time_s in [2.0, 1.0, 3.0] {
            let taken = next(&mut fields, |_| true).unwrap();
            fields[0].note(&taken, Some(time_s), 0.0);
            looked.push((taken.variant["A"], taken.variant["B"]));
        }
        assert_eq!(looked[0], (0, 0));
        let (a, b) = looked[1];
        assert!(a != 0 && b != 0, "{looked:?}");
        let same = u32::from(looked[2].0 == a) + u32::from(looked[2].1 == b);
        assert_eq!(same, 1, "{looked:?}");
    }

    #[test]
    fn where_only_proven_kernels_are_asked_for_no_other_is_looked_at() {
        let all = ["x", "y"].map(|kernel| variant(kernel, 0, 0));
        let mut fields = Field::group(all.to_vec(), &BTreeMap::new());
        for field in &mut fields {
            field.tries = 1;
            if field.kernel == "x" {
                field.note(&variant("x", 1, 1), Some(1.0), 0.0);
            }
        }
        assert_eq!(
            next(&mut fields, |field| field.best.is_some())
                .unwrap()
                .kernel,
            "x"
        );
        assert!(next(&mut fields, |field| field.best.is_some()).is_none());
    }

    #[test]
    fn no_variant_is_looked_at_twice_and_none_is_forgotten() {
        let all: Vec<Variant> = (0..4)
            .flat_map(|a| (0..4).map(move |b| variant("x", a, b)))
            .collect();
        let mut fields = Field::group(all.clone(), &BTreeMap::new());
        let mut seen = Vec::new();
        while let Some(taken) = next(&mut fields, |_| true) {
            let time = f64::from(taken.variant["A"] + taken.variant["B"]) + 1.0;
            fields[0].note(&taken, Some(time), 0.0);
            seen.push(taken);
        }
        seen.sort();
        assert_eq!(seen, all);
    }

    #[test]
    fn a_kernel_that_compiles_for_seconds_gets_fewer_looks_than_one_as_fast_that_does_not() {
        let kernels = ["slow", "quick"];
        let all = kernels.map(|kernel| (0..20).map(move |a| variant(kernel, a, 0)));
        let mut fields = Field::group(all.into_iter().flatten().collect(), &BTreeMap::new());
        let mut looks = BTreeMap::new();
        for _ in 0..20 {
            let taken = next(&mut fields, |_| true).unwrap();
            let look_s = if taken.kernel == "slow" { 5.0 } else { 0.2 };
            let field = fields.iter_mut().find(|f| f.kernel == taken.kernel);
            field.unwrap().note(&taken, Some(1.0), look_s);
            *looks.entry(taken.kernel).or_insert(0) += 1;
        }
        assert_eq!(
            looks,
            [("quick".to_owned(), 19), ("slow".to_owned(), 1)].into()
        );
    }

    #[test]
    fn what_much_speaks_against_is_looked_at_last_and_still_looked_at() {
        let all: Vec<Variant> = (0..4).map(|a| variant("x", a, 0)).collect();
        let ranks = [(all[0].clone(), 2), (all[2].clone(), 1)].into();
        let mut fields = Field::group(all, &ranks);
        let mut order = Vec::new();
        while let Some(taken) = next(&mut fields, |_| true) {
            order.push(taken.variant["A"]);
            fields[0].note(&taken, Some(1.0), 0.0);
        }
        assert_eq!(order, [1, 3, 2, 0]);
    }

    /// A runner whose variants take as long as a test says, and which notes what it is asked to build.
    struct Fake {
        variants: Vec<Offer>,
        tells: bool,
        output: Vec<f64>,
        case: Case,
        /// In which case, and which variant.
        built: Vec<(Case, Variant)>,
        /// Seconds that building a variant takes the first time.
        build_s: f64,
        /// How many it builds side by side, and what it was asked to; and whether it dies of that.
        builds_at_once: u32,
        ahead: Vec<Vec<Variant>>,
        dies_building: bool,
    }

    /// Seconds of a call in a case.
    type CallTime = fn(&Case) -> f64;

    /// A variant, what a call takes, and its operations where it pads.
    type Offer = (Variant, CallTime, Option<u64>);

    fn offer(kernel: &str, a: u32, call_s: CallTime, flop_count: Option<u64>) -> Offer {
        (variant(kernel, a, 0), call_s, flop_count)
    }

    impl Conversation for Fake {
        fn ask(&mut self, request: &Request, _: Duration) -> Result<Response, Fault> {
            Ok(match request {
                Request::Case {
                    case, seed, data, ..
                } => {
                    let inputs = verify::inputs(case, *seed, data).unwrap();
                    let positions: Vec<u64> = (0..case.output().len()).collect();
                    let given = case.given(&inputs, data);
                    let expected = case.op.op().reference(given, &positions);
                    self.output = expected.iter().map(|expected| expected.value).collect();
                    self.case = case.clone();
                    Response::Variants {
                        variants: self.variants.iter().map(|(v, ..)| v.clone()).collect(),
                        refused: Vec::new(),
                        set_count: 1,
                        estimates: (self.variants.iter())
                            .filter(|_| self.tells)
                            .map(|(variant, _, flop_count)| Estimate {
                                variant: variant.clone(),
                                engine: Some("alu".to_owned()),
                                flop_count: *flop_count,
                                ..Estimate::default()
                            })
                            .collect(),
                        builds_at_once: self.builds_at_once,
                    }
                }
                Request::Build { .. } if self.dies_building => {
                    return Err(Fault::new("it died"));
                }
                Request::Build { variants } => {
                    self.ahead.push(variants.clone());
                    Response::Built
                }
                Request::Prepare { variant } => {
                    if !self.built.iter().any(|(_, built)| built == variant) {
                        std::thread::sleep(Duration::from_secs_f64(self.build_s));
                    }
                    self.built.push((self.case.clone(), variant.clone()));
                    Response::Ready {
                        compile_s: 0.0,
                        first_call_s: 0.0,
                        shader_sha256: None,
                        engine: "alu".to_owned(),
                        passes: Vec::new(),
                        clock: None,
                        output: None,
                        left_out: None,
                    }
                }
                Request::Measure {
                    repeat_count,
                    sample_count,
                    ..
                } => {
                    let (_, built) = self.built.last().unwrap();
                    let (_, call_s, _) = self.variants.iter().find(|(v, ..)| v == built).unwrap();
                    let span_s = call_s(&self.case) * f64::from(*repeat_count);
                    std::thread::sleep(Duration::from_secs_f64(span_s * f64::from(*sample_count)));
                    let span = crate::protocol::Span {
                        device_s: Some(span_s),
                        host_s: span_s,
                        submit_s: None,
                        repeat_count: *repeat_count,
                    };
                    Response::Samples {
                        samples: vec![span; *sample_count as usize],
                    }
                }
                Request::Outputs {
                    positions,
                    projection_seed,
                    all,
                    ..
                } => crate::runner::outputs(
                    &self.case,
                    self.output.len() as u64,
                    |index| self.output[index],
                    positions,
                    *projection_seed,
                    *all,
                ),
                _ => return Err(Fault::new("a search does not ask this")),
            })
        }
    }

    fn matmul(m: u64, n: u64, k: u64) -> Case {
        use crate::op::{Dtype, OpName, Shape};
        let shape = Shape::of(&[("m", m), ("n", n), ("k", k)]);
        Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap()
    }

    /// What comes of a search over these variants, and what was built for it. The ceiling is such that
    /// the case as it is takes 0.3 ms at least.
    fn search(variants: &[Offer], tells: bool) -> (Vec<Variant>, Vec<Tried>, Vec<Variant>) {
        let case = matmul(17, 32, 32);
        let (ranking, tried, built) = search_from(&case, &case, 20.0, variants, tells, 0.0);
        let built = built.into_iter().map(|(_, variant)| variant).collect();
        (ranking, tried, built)
    }

    /// The same, of any case, with a first round at the size of `scout`, so many seconds for it all, and
    /// so many to build a variant.
    fn search_from(
        scout: &Case,
        case: &Case,
        budget_s: f64,
        variants: &[Offer],
        tells: bool,
        build_s: f64,
    ) -> (Vec<Variant>, Vec<Tried>, Vec<(Case, Variant)>) {
        let mut fake = Fake {
            build_s,
            ..fake(case, variants, tells)
        };
        let (ranking, tried) = search_of(&mut fake, scout, case, budget_s);
        (ranking.unwrap(), tried, fake.built)
    }

    fn fake(case: &Case, variants: &[Offer], tells: bool) -> Fake {
        Fake {
            variants: variants.to_vec(),
            tells,
            output: Vec::new(),
            case: case.clone(),
            built: Vec::new(),
            build_s: 0.0,
            builds_at_once: 1,
            ahead: Vec::new(),
            dies_building: false,
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

    /// A search of nine seconds that knows nothing.
    fn task<'a>(case: &'a Case, device: &'a Device) -> Task<'a> {
        Task {
            case,
            scout: case.clone(),
            seed: 1,
            budget_s: 9.0,
            case_budget_s: 9.0,
            share_s: None,
            banned: &[],
            remembered: &[],
            remembered_of_all: true,
            pinned: false,
            device,
            ceilings: &[],
            runner: "fake",
        }
    }

    fn search_of(
        fake: &mut Fake,
        scout: &Case,
        case: &Case,
        budget_s: f64,
    ) -> (Result<Vec<Variant>, End>, Vec<Tried>) {
        #[allow(clippy::cast_precision_loss)]
        let ceilings = [Ceiling {
            name: crate::normalise::ALU_F32.to_owned(),
            value: case.flop_count() as f64 / (1.25 * 3e-4),
            unit: "flop_per_s".to_owned(),
            case_id: String::new(),
            runner: "fake".to_owned(),
        }];
        let device = Device::default();
        let task = Task {
            scout: scout.clone(),
            budget_s,
            case_budget_s: 1.5 * budget_s,
            ceilings: &ceilings,
            ..task(case, &device)
        };
        let mut tried = Vec::new();
        let mut session = Session::new(fake, timer(), Duration::from_secs(9), &|| false);
        let ranking = choose(&task, &mut session, &mut tried);
        (ranking, tried)
    }

    #[test]
    fn what_a_search_found_that_was_cut_short_is_where_the_next_begins_and_not_where_it_ends() {
        let case = matmul(17, 32, 32);
        let offers = [
            offer("known", 0, |_| 3e-3, None),
            offer("known", 1, |_| 2e-3, None),
            offer("unseen", 0, |_| 1e-3, None),
        ];
        let remembered = [variant("known", 0, 0)];
        let device = Device::default();
        let found = |remembered_of_all: bool| {
            let mut runner = fake(&case, &offers, false);
            let session =
                &mut Session::new(&mut runner, timer(), Duration::from_secs(9), &|| false);
            let task = Task {
                remembered: &remembered,
                remembered_of_all,
                ..task(&case, &device)
            };
            let mut tried = Vec::new();
            let best = choose(&task, session, &mut tried).unwrap().remove(0);
            (best, tried)
        };
        let (best, tried) = found(true);
        assert_eq!(best, variant("known", 1, 0));
        let unseen = tried.iter().find(|t| t.kernel == "unseen").unwrap();
        assert_eq!(unseen.reason.as_deref(), Some(REMEMBERED));
        let (best, tried) = found(false);
        assert_eq!(best, variant("unseen", 0, 0));
        assert!(tried.iter().all(|t| t.status == "timed"), "{tried:?}");
    }

    #[test]
    fn a_runner_that_builds_several_at_once_is_handed_several_each_once_and_finds_the_same() {
        let case = matmul(17, 32, 32);
        let mut variants: Vec<Offer> = (0..7).map(|a| offer("tile", a, |_| 2e-3, None)).collect();
        variants.push(offer("tile", 7, |_| 1e-3, None));
        variants.push(offer("plain", 0, |_| 3e-3, None));
        let mut several = Fake {
            builds_at_once: 3,
            ..fake(&case, &variants, false)
        };
        let (ranking, tried) = search_of(&mut several, &case, &case, 20.0);
        assert_eq!(ranking.unwrap()[0], variant("tile", 7, 0), "{tried:?}");
        assert!(several.ahead.iter().all(|batch| batch.len() <= 3));
        assert_eq!(several.ahead[0].len(), 3, "{:?}", several.ahead);
        let mut handed: Vec<&Variant> = several.ahead.iter().flatten().collect();
        assert_eq!(handed.len(), variants.len(), "{handed:?}");
        handed.sort();
        handed.dedup();
        assert_eq!(handed.len(), variants.len(), "{handed:?}");
        assert!(
            handed
                .iter()
                .all(|v| several.built.iter().any(|(_, b)| b == *v))
        );
    }

    #[test]
    fn a_runner_that_dies_building_several_at_once_is_asked_for_one_by_one_from_then_on() {
        let case = matmul(17, 32, 32);
        let variants = [
            offer("tile", 0, |_| 2e-3, None),
            offer("plain", 0, |_| 3e-3, None),
        ];
        let mut dying = Fake {
            builds_at_once: 2,
            dies_building: true,
            ..fake(&case, &variants, false)
        };
        let mut session = Session::new(&mut dying, timer(), Duration::from_secs(9), &|| false);
        session.case(&case, 1, &Data::Uniform).unwrap();
        let both = [variant("tile", 0, 0), variant("plain", 0, 0)];
        // One alone is built when it is prepared.
        session.build_ahead(&both[..1]).unwrap();
        assert_eq!(session.build_count(), 2);
        assert!(session.build_ahead(&both).is_err());
        assert_eq!((session.build_count(), &session.last), (1, &None));
        session.build_ahead(&both).unwrap();
    }

    #[test]
    fn what_spills_is_built_after_the_others_and_not_among_them() {
        let case = matmul(17, 32, 32);
        let offers = [
            offer("lean", 0, |_| 2e-3, None),
            offer("fat", 0, |_| 3e-3, None),
            offer("slim", 0, |_| 3e-3, None),
        ];
        let mut runner = Fake {
            builds_at_once: 8,
            ..fake(&case, &offers, false)
        };
        let session = &mut Session::new(&mut runner, timer(), Duration::from_secs(9), &|| false);
        session.case(&case, 1, &Data::Uniform).unwrap();
        let device = Device::default();
        let task = task(&case, &device);
        let fat = variant("fat", 0, 0);
        let mut search = Search::new(&task, session);
        search.ranks.insert(fat.clone(), 2);
        search.spilling.insert(fat.clone());
        let all = offers.iter().map(|offer| offer.0.clone()).collect();
        let mut fields = Field::group(all, &search.ranks);
        let first = search.batch(&mut fields, &[], true);
        assert_eq!(first.len(), 2);
        assert!(!first.contains(&fat), "{first:?}");
        assert_eq!(search.batch(&mut fields, &[], true), [fat]);
    }

    #[test]
    fn what_no_look_was_large_enough_for_is_not_said_to_have_been_looked_at() {
        let case = matmul(17, 32, 32);
        let mut runner = fake(&case, &[], false);
        let session = &mut Session::new(&mut runner, timer(), Duration::from_secs(9), &|| false);
        let device = Device::default();
        let task = task(&case, &device);
        let mut search = Search::new(&task, session);
        let [slow, late, large] = [0, 1, 2].map(|a| variant("x", a, 0));
        let refused = |variant: &Variant, reason: &str| Refused {
            variant: variant.clone(),
            reason: reason.to_owned(),
        };
        search.pruned.push(refused(&slow, "it cannot win"));
        search.untried.push(refused(&late, TIME_UP));
        search.own_up(vec![slow, late.clone(), large.clone()]);
        let untried: Vec<&Variant> = search.untried.iter().map(|r| &r.variant).collect();
        assert_eq!(untried, [&late, &large]);
    }

    /// Operations of the case in [`search`] times `pad`.
    fn padded(pad: u64) -> Option<u64> {
        Some(pad * 2 * 17 * 32 * 32)
    }

    #[test]
    fn what_cannot_beat_the_best_is_never_built_and_says_why() {
        let mut variants = vec![
            offer("plain", 0, |_| 3e-3, None),
            offer("small", 0, |_| 1e-3, padded(1)),
            offer("small", 1, |_| 1.5e-3, padded(2)),
        ];
        variants.extend((0..6).map(|a| offer("large", a, |_| 4e-3, padded(8))));
        let (with, tried, built) = search(&variants, true);
        let (without, all, all_built) = search(&variants, false);
        assert_eq!(with[0], variant("small", 0, 0));
        assert_eq!(with[0], without[0]);
        assert!(all_built.iter().any(|v| v.kernel == "large"));
        assert!(built.iter().all(|v| v.kernel != "large"), "{built:?}");
        assert!(all.iter().all(|t| t.status == "timed"), "{all:?}");
        // Six variants for one and the same reason are one row.
        let pruned: Vec<&Tried> = tried.iter().filter(|t| t.status == "pruned").collect();
        let [row] = pruned[..] else {
            panic!("{tried:?}")
        };
        let reason = row.reason.as_deref().unwrap();
        assert!(
            reason.contains("2.40e-3 s at least, by alu_f32"),
            "{reason}"
        );
        assert!(reason.contains("1.00e-3 s have been measured"), "{reason}");
        assert!(reason.contains("5 more like it"), "{reason}");
        assert_eq!((&*row.kernel, row.time_s_median), ("large", None));
        // What pads less than would cost it the race is looked at.
        assert!(built.contains(&variant("small", 1, 0)));
    }

    #[test]
    fn the_last_candidate_is_built_however_much_it_pads() {
        let only = [offer("large", 0, |_| 4e-3, padded(8))];
        let (ranking, tried, _) = search(&only, true);
        assert_eq!(ranking, [variant("large", 0, 0)]);
        assert_eq!(tried[0].status, "timed");
    }

    /// A plain kernel, whose time grows with the products, and one that takes half of that and a time for
    /// copying, which grows with the operands: at 64 cubed it is slower, at 256 cubed it is faster.
    fn plain_and_copying() -> [Offer; 2] {
        let plain: CallTime = |case| 1e-3 * growth(&matmul(64, 64, 64), case);
        let copies: CallTime = |case| {
            let elements = case.shape.get("k") * (case.shape.get("m") + case.shape.get("n"));
            0.5e-3 * growth(&matmul(64, 64, 64), case) + 1e-7 * f64::from(elements as u32)
        };
        let (small, full) = (matmul(64, 64, 64), matmul(256, 256, 256));
        assert!(copies(&small) > plain(&small) && copies(&full) < plain(&full));
        [
            offer("copies", 0, copies, None),
            offer("plain", 0, plain, None),
        ]
    }

    #[test]
    fn a_kernel_that_copies_is_judged_at_a_size_near_the_full_one() {
        let (small, full) = (matmul(64, 64, 64), matmul(256, 256, 256));
        let (ranking, tried, built) =
            search_from(&small, &full, 3.0, &plain_and_copying(), false, 0.0);
        let between = matmul(256, 256, 128);
        for variant in ["copies", "plain"].map(|kernel| variant(kernel, 0, 0)) {
            for case in [&small, &between] {
                assert!(
                    built.contains(&(case.clone(), variant.clone())),
                    "{built:?}"
                );
            }
        }
        let (_, first) = built.iter().find(|(case, _)| *case == full).unwrap();
        assert_eq!(*first, variant("copies", 0, 0));
        assert_eq!(ranking[0], variant("copies", 0, 0), "{tried:?}");
    }

    /// As where a driver compiles for seconds: the first looks end after the time at which the others are
    /// to end.
    #[test]
    fn what_took_long_to_build_is_still_judged_at_the_full_size() {
        let (small, full) = (matmul(64, 64, 64), matmul(256, 128, 128));
        let (ranking, tried, built) =
            search_from(&small, &full, 6.0, &plain_and_copying(), false, 2.4);
        for kernel in ["copies", "plain"] {
            let in_full = (full.clone(), variant(kernel, 0, 0));
            assert!(built.contains(&in_full), "{built:?}");
        }
        assert_eq!(ranking[0], variant("copies", 0, 0), "{tried:?}");
    }

    /// What is built in full size of ten variants of a kernel, the last of which is its best and takes
    /// `late`, and two of another, three times as slow.
    fn late_bloomer(call: [CallTime; 3], full: &Case, budget_s: f64) -> Vec<Variant> {
        let [tile, late, slow] = call;
        let mut variants: Vec<Offer> = (0..9).map(|a| offer("tile", a, tile, None)).collect();
        variants.push(offer("tile", 9, late, None));
        variants.extend((0..2).map(|a| offer("slow", a, slow, None)));
        let small = matmul(64, 64, 64);
        let (ranking, tried, built) = search_from(&small, full, budget_s, &variants, false, 0.0);
        assert_eq!(ranking[0], variant("tile", 9, 0), "{tried:?}");
        let in_full = built.into_iter().filter(|(case, _)| case == full);
        in_full.map(|(_, variant)| variant).collect()
    }

    #[test]
    fn where_a_call_takes_little_only_first_looks_are_in_small() {
        let tile: CallTime = |case| 1e-3 * growth(&matmul(64, 64, 64), case);
        let late: CallTime = |case| if case.shape.get("m") > 64 { 1e-3 } else { 9e-3 };
        let slow: CallTime = |case| 3e-3 * growth(&matmul(64, 64, 64), case);
        let built = late_bloomer([tile, late, slow], &matmul(256, 64, 64), 6.0);
        for number in 0..10 {
            assert!(built.contains(&variant("tile", number, 0)), "{built:?}");
        }
        // Of a slow kernel too there is one in full size, so that a report can compare them.
        assert!(built.iter().any(|v| v.kernel == "slow"), "{built:?}");
    }

    #[test]
    fn at_the_full_size_what_else_there_is_of_the_best_kernel_is_looked_at_while_there_is_time() {
        let tile: CallTime = |case| 3e-3 * growth(&matmul(64, 64, 64), case);
        let late: CallTime = |case| {
            if case.shape.get("m") > 256 {
                3e-3
            } else {
                6e-2
            }
        };
        let slow: CallTime = |case| 9e-3 * growth(&matmul(64, 64, 64), case);
        // There is no time for eight looks in full size before the best is known.
        late_bloomer([tile, late, slow], &matmul(512, 64, 64), 4.2);
    }

    #[test]
    fn a_ceiling_that_a_variant_has_beaten_bounds_nothing() {
        let variants = [
            offer("small", 0, |_| 1e-3, padded(1)),
            // It pads three times and yet is faster than 0.9 ms: the probe was slow that day.
            offer("middle", 0, |_| 5e-4, padded(3)),
            offer("large", 0, |_| 4e-4, padded(8)),
        ];
        let (ranking, tried, _) = search(&variants, true);
        assert_eq!(ranking[0], variant("large", 0, 0), "{tried:?}");
        assert!(tried.iter().all(|t| t.status == "timed"), "{tried:?}");
    }
}
