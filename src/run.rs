//! The conductor: plan, and for every case verify, tune, measure, verify again; then normalise.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::case::{
    AUDIT_S_EXTERNAL, CLOCKS_DIFFER, Conditions, Moment, by_another_clock, by_clock_of, energy_s,
    measure_case, sight, times,
};
use crate::datasheet::{self, Datasheets};
use crate::energy::idle_power_w;
use crate::error::{Error, ErrorKind, Result};
use crate::hierarchy;
use crate::input;
use crate::interrupt::interrupted;
use crate::journal::{self, Identity, Journal};
use crate::machine;
use crate::measure::{Measurement, Policy, SUBMISSION_S_MAX};
use crate::normalise;
use crate::op::{Case, Dtype, OpName};
use crate::plan::{self, Plan};
use crate::protocol::{Device, FaultKind, PROTOCOL_VERSION, Request, Response, Variant};
use crate::report::{
    self, BUDGET_USED, Calibration, Ceiling, INTERRUPTED, MemoryHierarchy, Outcome, OutcomeStatus,
    Report, RunnerRecord, SCHEMA_VERSION, SHARE_USED, Status, Suite, Tool, Tried, by_budget,
};
use crate::runner::start::{EXTERNALS, External, start};
use crate::runner::{Conversation, Fault, InProcess, NATIVE, native};
use crate::shader::sha256;
use crate::telemetry::{self, Recorder, Sensors, suspect};
use crate::tune::{self, End, Session, Task};

/// A runner that dies of this many cases in a row is given up.
const DEATHS_MAX: u32 = 3;

/// A case is begun this often where variants take the runner with them.
const ATTEMPTS_MAX: usize = 3;

/// A variant is looked at in small first if even a poor one might take longer than this.
const SCOUT_S_MAX: f64 = 0.15;

/// How much more time a run takes at most than its budget says, relative: what is not done by then
/// is cut off.
const BUDGET_GRACE: f64 = 0.05;

/// A case that is no probe gets this many times the time of one that is, energy apart: it has a
/// search to make.
const CASE_WEIGHT: f64 = 4.0;

/// Most of a case's share of a limited run that is kept for its energy.
const ENERGY_SHARE_MAX: f64 = 0.5;

/// Calls of a probe that must fit its time: a look at each variant, checks, warm-up and samples.
const PROBE_CALLS: f64 = 12.0;

/// Longest time of the canary's warm-up, for a GPU to raise its clock again.
const CANARY_WARM_UP_S_MAX: f64 = 0.1;

/// Time that a device's idle power is averaged over: NVML's own mean is of one second.
const IDLE_S: f64 = 1.5;

/// Longest time to see a case again in a fresh process.
const SIGHT_S_MAX: f64 = 1.5;

/// What a poor kernel may be expected to reach of the roofline.
const POOR_FRACTION: f64 = 0.004;

/// How to reach runners and which device they should open.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Device as the user wrote it.
    pub device: Option<String>,
    /// API as the user wrote it.
    pub backend: Option<String>,
    /// Keep bounds checks in kernels.
    pub checks: bool,
    /// Run native runners in this process.
    pub in_process: bool,
    /// Longest silence of a runner.
    pub silence: Duration,
}

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to run.
    pub plan: Plan,
    /// Runners by name, path or command; the default choice if empty.
    pub runners: Vec<String>,
    /// How to reach them.
    pub reach: Reach,
    /// Seed of all inputs.
    pub seed: u32,
    /// Whether the user asked for that seed.
    pub seed_is_fixed: bool,
    /// Seconds for the whole run, where the user set a limit.
    pub budget_s: Option<f64>,
    /// Fresh processes in which each measured case is seen, the first included.
    pub process_count: u32,
    /// Folder that keeps what is learnt while the run is under way; none is kept if absent.
    pub journal: Option<PathBuf>,
    /// Go on with the unfinished run in that folder.
    pub resume: bool,
    /// What figures are measured against beside the ceilings of the run.
    pub datasheets: Datasheets,
    /// The command line, for the report.
    pub command: String,
    /// What differences this machine can tell, for the report.
    pub calibration: Option<Calibration>,
    /// Where the best variants of searches are kept, if anywhere.
    pub cache: Option<Cache>,
    /// Whether a search begins with what earlier ones have left there.
    pub recall: bool,
    /// The variant to measure instead of searching, by runner and case; where it does not work, the
    /// search is made after all.
    pub pinned: BTreeMap<(String, String), Variant>,
}

/// What a run tells whoever watches.
pub trait Watcher {
    /// A line of news: a warning, or which runner is at work.
    fn say(&mut self, line: &str);
    /// A case begins: its place among how many.
    fn begin(&mut self, index: usize, count: usize, case_id: &str, runner: &str);
    /// A case has ended.
    fn end(&mut self, outcome: &Outcome);
}

/// What is left of a runner that was given up.
struct Gone;

impl Conversation for Gone {
    fn ask(
        &mut self,
        _request: &Request,
        _timeout: Duration,
    ) -> std::result::Result<Response, Fault> {
        Err(Fault::new("the runner was given up".to_owned()))
    }
}

/// A runner that has said hello.
pub struct Opened {
    /// The line to it.
    pub conversation: Box<dyn Conversation>,
    /// Who it is, what it opened and by which clock it measures.
    pub record: RunnerRecord,
}

/// Starts a runner by name, path or command and has it open its device.
///
/// # Errors
/// [`ErrorKind::NoDevice`] where it finds none, [`ErrorKind::Usage`] where there is no such runner,
/// [`ErrorKind::Transient`] where it dies.
pub fn open(name: &str, reach: &Reach) -> Result<Opened> {
    let inside = reach.in_process.then(|| native(name)).flatten();
    let mut conversation: Box<dyn Conversation> = match inside {
        Some(runner) => Box::new(InProcess(runner)),
        None => Box::new(start(name)?),
    };
    let record = hello(&mut *conversation, name, reach)?;
    Ok(Opened {
        conversation,
        record,
    })
}

/// Has a runner open its device.
///
/// # Errors
/// As [`open`].
pub fn hello(
    conversation: &mut dyn Conversation,
    name: &str,
    reach: &Reach,
) -> Result<RunnerRecord> {
    let hello = Request::Hello {
        protocol: PROTOCOL_VERSION,
        device: reach.device.clone(),
        backend: reach.backend.clone(),
        checks: reach.checks,
    };
    let died = |message: String| Error::new(ErrorKind::Transient, message);
    match conversation
        .ask(&hello, reach.silence)
        .map_err(|fault| died(fault.message))?
    {
        Response::Hello {
            protocol,
            runner,
            device,
            timer,
        } if protocol == PROTOCOL_VERSION => Ok(RunnerRecord {
            runner,
            device: *device,
            timer,
        }),
        Response::Hello { protocol, .. } => Err(Error::usage(format!(
            "runner {name} speaks protocol {protocol}; this is {PROTOCOL_VERSION}"
        ))),
        Response::Error {
            kind: FaultKind::NoDevice,
            message,
        } => Err(Error::new(ErrorKind::NoDevice, message)),
        Response::Error {
            kind: FaultKind::Unsupported | FaultKind::Input,
            message,
        } => Err(Error::usage(format!("runner {name}: {message}"))),
        Response::Error { message, .. } => Err(died(format!("runner {name}: {message}"))),
        _ => Err(died(format!(
            "runner {name} answered hello with something else"
        ))),
    }
}

/// Runs the plan on every runner and makes the report. The journal that comes with it may go once the
/// report is written and the run was not interrupted.
///
/// # Errors
/// When no runner can be opened, or an id cannot be made. A case that fails is in the report.
pub fn run(options: &Options, watcher: &mut dyn Watcher) -> Result<(Report, Option<Journal>)> {
    let started = Instant::now();
    let started_at = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let unfinished = match (&options.journal, options.resume) {
        (Some(folder), true) => Some(journal::find(folder, &identity(options)?)?),
        (None, true) => {
            return Err(Error::usage(
                "--resume needs the folder of the unfinished run; name it with --output",
            ));
        }
        _ => None,
    };
    if let Some(unfinished) = &unfinished
        && options.seed_is_fixed
        && options.seed != unfinished.seed
    {
        return Err(Error::usage(format!(
            "--resume: the unfinished run of {} has seed {}, not {}; leave --seed out",
            unfinished.started_at, unfinished.seed, options.seed
        )));
    }
    let (seed, started_at) = match &unfinished {
        Some(unfinished) => (unfinished.seed, unfinished.started_at.clone()),
        None => (options.seed, started_at),
    };
    let mut opened = open_all(options, watcher)?;
    let records: Vec<RunnerRecord> = opened
        .iter()
        .filter_map(|(_, opened)| Some(opened.as_ref().ok()?.record.clone()))
        .collect();
    if let Some(line) = options.datasheets.announce(&records)? {
        watcher.say(&line);
    }
    let journal = start_journal(
        options,
        seed,
        &started_at,
        &opened,
        unfinished.as_ref(),
        watcher,
    )?;
    let kept = unfinished.map_or_else(Vec::new, |unfinished| unfinished.outcomes);

    let mut ceilings = Vec::new();
    let budget_s = options.budget_s.or_else(|| {
        let on_cpu = |record: &RunnerRecord| record.device.device_type == "cpu";
        let cpu = opened
            .iter()
            .filter_map(|(_, opened)| Some(&opened.as_ref().ok()?.record))
            .all(on_cpu);
        options.plan.budget_s.filter(|_| !cpu)
    });
    let clock = RefCell::new(Budget {
        started,
        seconds: budget_s,
        weight_left: 0.0,
    });
    let journal = RefCell::new(journal);
    let mut sides: Vec<Side<'_>> = opened
        .iter_mut()
        .map(|(name, opened)| match opened {
            Ok(opened) => Side::Opened(Box::new(Work {
                name,
                label: opened.record.runner.name.clone(),
                sensors: Sensors::open(&opened.record.device),
                idle_power_w: None,
                options,
                seed,
                opened,
                banned: Vec::new(),
                one_by_one: false,
                deaths: 0,
                canary: None,
                cache_bytes: None,
                clock: &clock,
                journal: &journal,
                kept: &kept,
                outcomes: Vec::new(),
            })),
            Err(error) => Side::Closed(label(name), error),
        })
        .collect();
    clock.borrow_mut().weight_left = sides
        .iter()
        .map(|side| match side {
            Side::Opened(work) => {
                let cases = options.plan.cases.iter();
                cases
                    .map(|case| weight(&options.plan, case, &work.sensors))
                    .sum()
            }
            Side::Closed(..) => 0.0,
        })
        .sum();
    let mut outcomes = measure(&mut sides, options, &mut ceilings, watcher);
    drop(sides);
    let journal = journal.into_inner();
    normalise::set_fractions(&mut outcomes, &ceilings);
    let memory: Vec<MemoryHierarchy> = opened
        .iter()
        .filter_map(|(_, opened)| Some(&opened.as_ref().ok()?.record))
        .filter_map(|record| {
            let stated = machine::caches_of(&record.device);
            hierarchy::hierarchy(&outcomes, &record.runner.name, &stated)
        })
        .collect();

    let mut runners: Vec<RunnerRecord> = opened
        .into_iter()
        .filter_map(|(_, opened)| Some(opened.ok()?.record))
        .collect();
    normalise::set_gaps(&mut outcomes, &runners);
    let identity = options.datasheets.recognise(&mut runners);
    options.datasheets.apply(&mut outcomes, &runners, &memory);
    let device = runners
        .first()
        .map(|record| record.device.clone())
        .unwrap_or_default();
    let not_measured = |o: &Outcome| match o.status {
        OutcomeStatus::Failed | OutcomeStatus::Implausible => true,
        OutcomeStatus::Skipped => o.reason.as_deref().is_some_and(by_budget),
        OutcomeStatus::Measured => false,
    };
    let mut report = Report {
        schema_version: SCHEMA_VERSION.to_owned(),
        report_id: String::new(),
        status: if interrupted() {
            Status::Interrupted
        } else if outcomes.iter().any(not_measured) {
            Status::Partial
        } else {
            Status::Complete
        },
        started_at,
        duration_s: started.elapsed().as_secs_f64(),
        seed,
        tool: Tool {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("CHIPMARK_COMMIT").map(str::to_owned),
            command: options.command.clone(),
        },
        host: machine::host(),
        suite: Suite {
            name: options.plan.suite.clone(),
            sha256: options.plan.suite_sha256.clone(),
            shard: options
                .plan
                .shard
                .map(|(number, count)| format!("{number}/{count}")),
        },
        device,
        chip: identity.and_then(|identity| options.datasheets.record(&identity)),
        runners,
        ceilings,
        memory,
        calibration: options.calibration.clone(),
        interleave_id: None,
        outcomes,
        claims: Vec::new(),
    };
    report.seal()?;
    Ok((report, journal))
}

/// What must be equal for `--resume` to go on with a run.
fn identity(options: &Options) -> Result<Identity> {
    let ids: Vec<String> = options.plan.cases.iter().map(Case::id).collect();
    Ok(Identity {
        machine: machine::name(),
        tool: format!(
            "{} {}",
            env!("CARGO_PKG_VERSION"),
            option_env!("CHIPMARK_COMMIT").unwrap_or_default()
        ),
        suite_sha256: options.plan.suite_sha256.clone(),
        cases_sha256: sha256(ids.join("\n").as_bytes()),
        runners: options.runners.clone(),
        device: options.reach.device.clone(),
        backend: options.reach.backend.clone(),
        checks: options.reach.checks,
    })
}

/// Starts the file that keeps what is learnt, with what an unfinished run had learnt already.
fn start_journal(
    options: &Options,
    seed: u32,
    started_at: &str,
    opened: &[MaybeOpened],
    unfinished: Option<&journal::Unfinished>,
    watcher: &mut dyn Watcher,
) -> Result<Option<Journal>> {
    let Some(folder) = &options.journal else {
        return Ok(None);
    };
    let devices: Vec<String> = opened
        .iter()
        .filter_map(|(_, opened)| Some(&opened.as_ref().ok()?.record.device))
        .map(|device| {
            let address = device.pci_bus_id.as_deref().unwrap_or("-");
            format!(
                "{} ({}, {address}, {})",
                device.name, device.backend, device.driver
            )
        })
        .collect();
    let mut outcomes = &[][..];
    if let Some(unfinished) = unfinished {
        if unfinished.devices != devices {
            return Err(Error::usage(format!(
                "--resume: {} was run on {}; here is {}",
                unfinished.path.display(),
                unfinished.devices.join(", "),
                devices.join(", ")
            )));
        }
        outcomes = &unfinished.outcomes;
        watcher.say(&format!(
            "going on with the run of {}: {} cases are done",
            unfinished.started_at,
            outcomes.len()
        ));
    }
    let identity = identity(options)?;
    let journal = Journal::start(folder, &identity, seed, started_at, &devices, outcomes)?;
    if let Some(unfinished) = unfinished {
        let _ = std::fs::remove_file(&unfinished.path);
    }
    Ok(Some(journal))
}

/// The time of the whole run and how it is shared out.
struct Budget {
    started: Instant,
    /// Absent where nobody set a limit.
    seconds: Option<f64>,
    /// Weights of the cases that are still to come.
    weight_left: f64,
}

/// Seconds of a case without its energy, where the run has no limit.
fn case_budget_s(plan: &Plan, case: &Case) -> f64 {
    let part = if case.op.is_probe() { 1.0 } else { CASE_WEIGHT };
    plan.case_budget_s * part / CASE_WEIGHT
}

/// What the share of a case in a run with a limit is in proportion to: the seconds it would have
/// without one.
fn weight(plan: &Plan, case: &Case, sensors: &Sensors) -> f64 {
    case_budget_s(plan, case) + energy_s(case, plan.energy_window_s, sensors)
}

/// What of its share a case has for all but its energy. Where energy would take more than half of it,
/// time comes first, and energy is counted only in what is left over.
fn without_energy(share_s: f64, energy_s: f64) -> f64 {
    if energy_s <= share_s * ENERGY_SHARE_MAX {
        share_s - energy_s
    } else {
        share_s
    }
}

impl Budget {
    fn left_s(&self) -> Option<f64> {
        Some(self.seconds? - self.started.elapsed().as_secs_f64())
    }

    /// When a runner is cut off.
    fn deadline(&self) -> Option<Instant> {
        let seconds = self.seconds? * (1.0 + BUDGET_GRACE);
        Some(self.started + Duration::from_secs_f64(seconds))
    }

    /// Takes a case out of what is still to come and returns its share of what is left; what one
    /// case does not use goes to those after it.
    fn share(&mut self, weight: f64) -> Option<f64> {
        let part = weight / self.weight_left.max(weight);
        self.weight_left -= weight;
        Some(self.left_s()? * part)
    }
}

/// A runner that may only be waited for until a deadline.
struct Deadlined<'a> {
    inner: &'a mut dyn Conversation,
    deadline: Option<Instant>,
}

impl Conversation for Deadlined<'_> {
    fn ask(
        &mut self,
        request: &Request,
        timeout: Duration,
    ) -> std::result::Result<Response, Fault> {
        let patience = self.deadline.map_or(timeout, |deadline| {
            timeout.min(deadline.saturating_duration_since(Instant::now()))
        });
        self.inner.ask(request, patience).map_err(|fault| Fault {
            from_outside: fault.from_outside || patience < timeout,
            ..fault
        })
    }
}

/// What a report calls a runner that never said its name.
fn label(name: &str) -> &str {
    let stem = std::path::Path::new(name).file_stem();
    stem.and_then(std::ffi::OsStr::to_str).unwrap_or(name)
}

type MaybeOpened = (String, Result<Opened>);

/// Opens the runners asked for. Without a wish that is the GPU, and the CPU where there is none:
/// a machine with nothing installed still gets a report, and is told what is missing.
fn open_all(options: &Options, watcher: &mut dyn Watcher) -> Result<Vec<MaybeOpened>> {
    let wished = !options.runners.is_empty();
    let names = if wished {
        options.runners.clone()
    } else {
        vec!["wgpu".to_owned()]
    };
    let mut opened: Vec<MaybeOpened> = Vec::new();
    for name in names {
        let result = open(&name, &options.reach);
        if let Err(error) = &result
            && error.kind == ErrorKind::Usage
        {
            return Err(error.clone());
        }
        opened.push((name, result));
    }
    let mut labels: Vec<&str> = opened
        .iter()
        .filter_map(|(_, opened)| Some(opened.as_ref().ok()?.record.runner.name.as_str()))
        .collect();
    labels.sort_unstable();
    if let Some(twice) = labels.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::usage(format!(
            "--runner: two runners call themselves {:?}; a report can hold only one of a name",
            twice[0]
        )));
    }
    let nothing = opened.iter().all(|(_, result)| result.is_err());
    let chosen_device = options.reach.device.is_some() || options.reach.backend.is_some();
    // Where the run ends here, the first error is what it ends with.
    let goes_on = !nothing || !wished && !chosen_device;
    for (name, result) in opened.iter().skip(usize::from(!goes_on)) {
        if let Err(error) = result {
            watcher.say(&format!("runner {name}: {}", error.message));
        }
    }
    if nothing && goes_on {
        watcher.say("no GPU can be measured, so the CPU is: install a Vulkan driver (on Linux `./x setup` installs a software one), then `chipmark devices` shows it");
        opened = vec![("host".to_owned(), Ok(open("host", &options.reach)?))];
    } else if nothing {
        if let Some((_, Err(error))) = opened.into_iter().next() {
            return Err(error);
        }
        return Err(Error::internal("there is no runner"));
    }
    Ok(opened)
}

/// One runner at work on the plan.
struct Work<'a> {
    /// As on the command line, to start it again.
    name: &'a str,
    /// As it calls itself, for the report: a path would say where it lay and not what it is.
    label: String,
    options: &'a Options,
    seed: u32,
    opened: &'a mut Opened,
    banned: Vec<Variant>,
    /// Whether the runner has died while it built several variants at once.
    one_by_one: bool,
    deaths: u32,
    /// The arithmetic that shows the device's pace, once it is known how to run it.
    canary: Option<Canary>,
    /// Size of the last cache, once it is known.
    cache_bytes: Option<u64>,
    sensors: Sensors,
    /// Average power before its first case, where it was measured.
    idle_power_w: Option<f64>,
    clock: &'a RefCell<Budget>,
    journal: &'a RefCell<Option<Journal>>,
    /// Outcomes of the unfinished run that this one goes on with.
    kept: &'a [Outcome],
    /// Of the cases so far.
    outcomes: Vec<Outcome>,
}

/// A runner that was asked for.
enum Side<'a> {
    Opened(Box<Work<'a>>),
    /// One that cannot be used here, by its label, and why.
    Closed(&'a str, &'a Error),
}

/// Every case on every runner, case by case: what is to be compared is measured at one time, so that
/// a drift of the machine hits all runners alike. Outcomes come in that order.
fn measure(
    sides: &mut [Side<'_>],
    options: &Options,
    ceilings: &mut Vec<Ceiling>,
    watcher: &mut dyn Watcher,
) -> Vec<Outcome> {
    for side in &*sides {
        if let Side::Opened(work) = side {
            let device = &work.opened.record.device;
            watcher.say(&format!(
                "runner {}: {} ({})",
                work.label, device.name, device.backend
            ));
        }
    }
    let mut works: Vec<&mut Work<'_>> = sides
        .iter_mut()
        .filter_map(|side| match side {
            Side::Opened(work) => Some(&mut **work),
            Side::Closed(..) => None,
        })
        .collect();
    let alone = works.len() == 1;
    let rest = |work: &mut Work<'_>| {
        if !alone {
            work.rest();
        }
    };
    works.iter_mut().for_each(|work| rest(work));
    works.iter_mut().for_each(|work| work.find_idle_power());
    for index in 0..options.plan.cases.len() {
        for work in &mut works {
            work.case(index, ceilings, watcher);
            rest(work);
        }
    }
    for process in 1..options.process_count {
        for work in &mut works {
            let mut outcomes = std::mem::take(&mut work.outcomes);
            work.see_again(process, &mut outcomes, watcher);
            work.outcomes = outcomes;
            rest(work);
        }
    }
    let cases = options.plan.cases.iter().enumerate();
    cases
        .flat_map(|(index, case)| {
            sides.iter().map(move |side| match side {
                Side::Opened(work) => work.outcomes[index].clone(),
                // That a runner has no device here is known beforehand; that it died is a failure.
                Side::Closed(label, error) => {
                    let status = if error.kind == ErrorKind::NoDevice {
                        OutcomeStatus::Skipped
                    } else {
                        OutcomeStatus::Failed
                    };
                    report::unmeasured(case, label, status, error.message.clone())
                }
            })
        })
        .collect()
}

/// A case of arithmetic alone, whose time is the inverse of the device's clock.
struct Canary {
    case: Case,
    variant: Variant,
    /// Seconds of one call when it was last run.
    last_s: Option<f64>,
}

impl Work<'_> {
    /// Keeps an idle runner on a CPU off the others' time: one that polls while nobody asks took 8 % of a
    /// core, and so of what was measured beside it. What waits on other chips is left alone: it may have
    /// to answer to more than us.
    fn rest(&mut self) {
        if self.opened.record.device.device_type == "cpu" {
            self.opened.conversation.rest();
        }
    }

    /// What the device draws with nothing to do, if the energy of a case will be counted.
    fn find_idle_power(&mut self) {
        let plan = &self.options.plan;
        let is_kept = |case: &Case| {
            let is = |kept: &Outcome| kept.case_id == case.id() && kept.runner == self.label;
            self.kept.iter().any(is)
        };
        let counted = |case: &Case| {
            energy_s(case, plan.energy_window_s, &self.sensors) > 0.0 && !is_kept(case)
        };
        if plan.cases.iter().any(counted) {
            self.idle_power_w = idle_power_w(&self.sensors, IDLE_S);
        }
    }

    /// The case of this number in the plan.
    fn case(&mut self, index: usize, ceilings: &mut Vec<Ceiling>, watcher: &mut dyn Watcher) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        let (case, count) = (
            &self.options.plan.cases[index],
            self.options.plan.cases.len(),
        );
        let id = case.id();
        let weight = weight(&self.options.plan, case, &self.sensors);
        let share_s = self.clock.borrow_mut().share(weight);
        let kept = self
            .kept
            .iter()
            .rev()
            .find(|kept| kept.case_id == id && kept.runner == self.label);
        if let Some(kept) = kept {
            outcomes.push(kept.clone());
        } else {
            watcher.begin(index, count, &id, self.label.as_str());
            // What it took before others worked says nothing of this case.
            if self.options.runners.len() > 1 {
                self.renew_canary();
            }
            let mut outcome = self.outcome(case, share_s, &outcomes, ceilings);
            if outcome.status == OutcomeStatus::Measured {
                self.watch_pace(&mut outcome);
            }
            watcher.end(&outcome);
            self.note(&outcome, watcher);
            outcomes.push(outcome);
        }
        if let Some(outcome) = outcomes.last() {
            self.find_canary(case, outcome);
        }
        // Each probe may raise a ceiling that later cases are sized by.
        ceilings.retain(|ceiling| ceiling.runner != self.label.as_str());
        self.cache_bytes = hierarchy::last_level_bytes(
            &outcomes,
            self.label.as_str(),
            &machine::caches_of(&self.opened.record.device),
        );
        ceilings.extend(normalise::ceilings(
            &outcomes,
            self.label.as_str(),
            self.cache_bytes,
        ));
        if outcomes[index].status == OutcomeStatus::Implausible && kept.is_none() {
            self.raise_ceiling(index, &mut outcomes, ceilings, watcher);
        }
        self.outcomes = outcomes;
    }

    /// Bytes that calls by turns must touch so that none finds its own in a cache: four times the last
    /// cache. Of N bytes walked in a circle one of C bytes that evicts at random keeps the share
    /// h = exp(-(1 - h) N / C): 20 % at twice its size, 2 % at four times. The last cache is the largest
    /// that this runner's walks found, the system states, or the chip's datasheet has. Most libraries have
    /// no walk, and their weights come from memory all the same.
    fn cold_bytes(&self) -> Option<u64> {
        let device = &self.opened.record.device;
        let stated = machine::caches_of(device).into_iter().max();
        let sheets = &self.options.datasheets;
        let identity = sheets.identity(device);
        let chip = identity.chip_id().and_then(|id| sheets.chips.get(id));
        let known = chip.and_then(datasheet::last_cache);
        let largest = self.cache_bytes.max(stated).max(known)?;
        Some(largest.saturating_mul(normalise::BEYOND_CACHE))
    }

    /// A case beyond its roofline by both clocks may mean that the ceiling was measured while the
    /// device, or the machine, was busier than now: the probe behind it is seen again, and the better
    /// of its two times is the ceiling. The case then stands or falls by that.
    fn raise_ceiling(
        &mut self,
        index: usize,
        outcomes: &mut [Outcome],
        ceilings: &mut Vec<Ceiling>,
        watcher: &mut dyn Watcher,
    ) {
        let outcome = &outcomes[index];
        let clocks_disagree = outcome
            .second_clock
            .as_ref()
            .is_some_and(|second| (second.ratio - 1.0).abs() > CLOCKS_DIFFER);
        if outcome.op.is_probe() || clocks_disagree {
            return;
        }
        let (Some(_), Some((_, bound))) =
            (&outcome.time_s, normalise::roofline_of(outcome, ceilings))
        else {
            return;
        };
        let Some(ceiling) = ceilings
            .iter()
            .find(|ceiling| ceiling.name == bound && ceiling.runner == self.label)
        else {
            return;
        };
        let Some(probe_index) = outcomes
            .iter()
            .position(|probe| probe.case_id == ceiling.case_id && probe.runner == outcome.runner)
        else {
            return;
        };
        let probe = &outcomes[probe_index];
        let mut cases = self.options.plan.cases.iter();
        let Some(case) = cases.find(|case| case.id() == probe.case_id) else {
            return;
        };
        let measurement = match self.see(case, probe) {
            Ok(measurement) => measurement,
            Err(end) => {
                if matches!(end, End::Fault(_)) {
                    self.revive();
                }
                return;
            }
        };
        let slower = probe
            .time_s
            .as_ref()
            .is_none_or(|times| times.median <= measurement.summary.median);
        if slower {
            return;
        }
        watcher.say(&format!(
            "{} is beyond {bound}; measured again, {} is faster than before, and {bound} is raised",
            outcome.case_id, probe.case_id
        ));
        let probe = &mut outcomes[probe_index];
        probe.time_s = Some(times(&measurement));
        probe.stop_reason = Some(measurement.stop_reason.to_owned());
        probe.not_converged = measurement.not_converged;
        normalise::set_rates(probe);
        let probe = probe.clone();
        self.note(&probe, watcher);
        ceilings.retain(|ceiling| ceiling.runner != self.label);
        ceilings.extend(normalise::ceilings(outcomes, &self.label, self.cache_bytes));
        // The gate at the end of the run judges it by the new ceiling.
        let outcome = &mut outcomes[index];
        outcome.status = OutcomeStatus::Measured;
        outcome.reason = None;
        let outcome = outcome.clone();
        self.note(&outcome, watcher);
    }

    /// Prepares, checks and times the variant of an outcome once more with the runner as it is, and by
    /// the clock that its time is from.
    fn see(&mut self, case: &Case, outcome: &Outcome) -> std::result::Result<Measurement, End> {
        let variant = Variant {
            kernel: outcome.kernel.clone().unwrap_or_default(),
            variant: outcome.variant.clone(),
        };
        let native = NATIVE.contains(&self.name);
        let mut runner = Deadlined {
            inner: &mut *self.opened.conversation,
            deadline: self.clock.borrow().deadline(),
        };
        let mut session = Session::new(
            &mut runner,
            self.opened.record.timer.clone(),
            self.options.reach.silence,
            &interrupted,
        );
        let mut policy = Policy {
            warm_up_s_max: SIGHT_S_MAX * 0.6,
            ..Policy::thorough(&session.timer, SIGHT_S_MAX, session.silence)
        };
        if !native {
            policy.audit_s = policy.audit_s.max(AUDIT_S_EXTERNAL);
        }
        let policy = by_clock_of(outcome, policy);
        let seed = case_seed(self.seed, case);
        let measurement = sight(&mut session, case, seed, &variant, &policy)?.measurement;
        match by_another_clock(outcome, &measurement) {
            Some(reason) => Err(End::Failed(reason)),
            None => Ok(measurement),
        }
    }

    /// Times every measured case once more in a fresh process, for what differs between processes is
    /// in no interval of one. Every other process takes the cases in reverse, so that a drift does
    /// not always hit the same ones last.
    fn see_again(&mut self, process: u32, outcomes: &mut [Outcome], watcher: &mut dyn Watcher) {
        let wants = |outcome: &Outcome| {
            outcome.status == OutcomeStatus::Measured
                && outcome
                    .time_s
                    .as_ref()
                    .is_some_and(|times| times.process_medians.len() <= process as usize)
        };
        let mut order: Vec<usize> = (0..outcomes.len())
            .filter(|&i| wants(&outcomes[i]))
            .collect();
        if process % 2 == 1 {
            order.reverse();
        }
        if order.is_empty()
            || interrupted()
            || self.clock.borrow().left_s().is_some_and(|left| left <= 0.0)
        {
            return;
        }
        watcher.say(&format!(
            "runner {}: process {} of {}",
            self.label,
            process + 1,
            self.options.process_count
        ));
        self.opened.conversation = Box::new(Gone);
        match open(self.name, &self.options.reach) {
            Ok(opened) if opened.record.device.is_same(&self.opened.record.device) => {
                *self.opened = opened;
            }
            Ok(_) => {
                watcher.say("a fresh process found another device; no further ones are started");
                return;
            }
            Err(error) => {
                watcher.say(&format!("a fresh process could not be started: {error}"));
                return;
            }
        }
        for index in order {
            let outcome = &mut outcomes[index];
            let mut cases = self.options.plan.cases.iter();
            let Some(case) = cases.find(|case| case.id() == outcome.case_id) else {
                continue;
            };
            if interrupted() {
                return;
            }
            match self.see(case, outcome) {
                Ok(measurement) => {
                    if let Some(times) = &mut outcome.time_s {
                        if times.process_medians.is_empty() {
                            times.process_medians.push(times.median);
                            times.process_minima.push(times.min);
                        }
                        times.process_medians.push(measurement.summary.median);
                        times.process_minima.push(measurement.summary.min);
                    }
                    let outcome = outcome.clone();
                    self.note(&outcome, watcher);
                }
                // It was right in the first process: that it is wrong now is the finding.
                Err(End::Wrong(reason)) => {
                    outcome.status = OutcomeStatus::Failed;
                    outcome.reason = Some(format!("{WRONG} in process {}: {reason}", process + 1));
                    let outcome = outcome.clone();
                    self.note(&outcome, watcher);
                }
                Err(End::Fault(fault)) => {
                    watcher.say(&format!(
                        "process {} ended early, on {}: {}",
                        process + 1,
                        outcome.case_id,
                        fault.message
                    ));
                    return;
                }
                Err(End::Interrupted) => return,
                Err(End::Failed(reason) | End::Skipped(reason) | End::Implausible(reason)) => {
                    watcher.say(&format!(
                        "process {} has no time of {}: {reason}",
                        process + 1,
                        outcome.case_id
                    ));
                }
            }
        }
    }

    /// Keeps an outcome on disk, unless its case is to run again on `--resume`.
    fn note(&mut self, outcome: &Outcome, watcher: &mut dyn Watcher) {
        let again = is_cut_off(outcome) || outcome.reason.as_deref().is_some_and(by_budget);
        let mut journal = self.journal.borrow_mut();
        if let (Some(open), false) = (journal.as_mut(), again)
            && let Err(error) = open.add(outcome)
        {
            watcher.say(&format!(
                "{error}; the run goes on, but could not be resumed from here"
            ));
            *journal = None;
        }
    }

    /// The smallest case of arithmetic in f32 becomes the canary, in the variant that won it.
    fn find_canary(&mut self, case: &Case, outcome: &Outcome) {
        let smaller = self
            .canary
            .as_ref()
            .is_none_or(|canary| case.flop_count() < canary.case.flop_count());
        if let (OpName::Fma, Dtype::F32, true, OutcomeStatus::Measured, Some(kernel)) = (
            case.op,
            case.dtype,
            smaller,
            outcome.status,
            &outcome.kernel,
        ) {
            self.canary = Some(Canary {
                case: case.clone(),
                variant: Variant {
                    kernel: kernel.clone(),
                    variant: outcome.variant.clone(),
                },
                last_s: None,
            });
            self.renew_canary();
        }
    }

    fn renew_canary(&mut self) {
        let now_s = self.run_canary();
        if let Some(canary) = &mut self.canary {
            canary.last_s = now_s;
        }
    }

    /// Seconds of one call of the canary now; absent where the runner would rather not.
    fn run_canary(&mut self) -> Option<f64> {
        let out_of_time = self.clock.borrow().left_s().is_some_and(|left| left <= 0.0);
        if interrupted() || out_of_time || self.deaths >= DEATHS_MAX {
            return None;
        }
        let canary = self.canary.as_ref()?;
        let mut runner = Deadlined {
            inner: &mut *self.opened.conversation,
            deadline: self.clock.borrow().deadline(),
        };
        let mut session = Session::new(
            &mut runner,
            self.opened.record.timer.clone(),
            self.options.reach.silence,
            &interrupted,
        );
        // A GPU lowers its clock within milliseconds of idling, and how long it has idled depends on what
        // the host had to check meanwhile.
        let warm_up_s_max = match self.opened.record.device.device_type.as_str() {
            "cpu" => 0.0,
            _ => CANARY_WARM_UP_S_MAX,
        };
        let policy = Policy {
            sampled_s_min: 0.02,
            warm_up_s_max,
            ..Policy::glance(&session.timer, 7, 0.2 + warm_up_s_max, session.silence)
        };
        let seed = case_seed(self.seed, &canary.case);
        match sight(&mut session, &canary.case, seed, &canary.variant, &policy) {
            Ok(sight) => Some(sight.measurement.summary.median),
            // No case is to blame, and none shall find a runner that owes an answer.
            Err(End::Fault(_)) if !past(self.clock.borrow().deadline()) => {
                self.revive();
                None
            }
            Err(_) => None,
        }
    }

    /// Puts a new runner in the place of one that died outside any case.
    fn revive(&mut self) {
        self.opened.conversation = Box::new(Gone);
        match open(self.name, &self.options.reach) {
            Ok(opened) if opened.record.device.is_same(&self.opened.record.device) => {
                *self.opened = opened;
            }
            _ => self.deaths = DEATHS_MAX,
        }
    }

    /// Runs the canary after a case and says what its move means. A runner that dies of it is found
    /// dead by the next case.
    fn watch_pace(&mut self, outcome: &mut Outcome) {
        let before = self.canary.as_ref().and_then(|canary| canary.last_s);
        let after = self.run_canary();
        if let Some(canary) = &mut self.canary {
            canary.last_s = after;
        }
        outcome.throttle = Some(suspect(outcome.telemetry.as_ref(), before, after));
    }

    /// Measures a case. Where a variant takes the runner with it, the others have not been heard: the case
    /// begins anew without it while there is time, so that one variant does not cost the whole case.
    fn outcome(
        &mut self,
        case: &Case,
        share_s: Option<f64>,
        before: &[Outcome],
        ceilings: &[Ceiling],
    ) -> Outcome {
        let begun = Instant::now();
        let (deaths_before, mut one_by_one_before) = (self.deaths, self.one_by_one);
        // What was seen of each variant that a runner died of, and what became of the case by that.
        let mut killers: Vec<Tried> = Vec::new();
        let mut failed = None;
        loop {
            let banned_before = self.banned.len();
            let left_s = share_s.map(|share_s| share_s - begun.elapsed().as_secs_f64());
            let mut outcome = self.attempt(case, left_s, before, ceilings);
            let died = self.banned.len() > banned_before;
            if died && self.deaths < DEATHS_MAX {
                // What counts is how many cases in a row it dies of.
                self.deaths = deaths_before + 1;
            }
            killers.extend(outcome.tried.last().filter(|_| died).cloned());
            // A runner that died of several variants at once gets them one by one, and no one is blamed.
            let unsure =
                self.one_by_one && !one_by_one_before && !died && self.deaths > deaths_before;
            one_by_one_before = self.one_by_one;
            if unsure && self.deaths < DEATHS_MAX {
                self.deaths = deaths_before;
            }
            let again = died || unsure;
            let late = share_s.is_some_and(|share_s| begun.elapsed().as_secs_f64() >= share_s);
            if again
                && killers.len() < ATTEMPTS_MAX
                && self.deaths < DEATHS_MAX
                && !late
                && !interrupted()
            {
                failed = Some(outcome);
                continue;
            }
            // Where nothing is left to try, or no time, it is the death that the case ended with.
            // After an interrupt the other variants have not been heard, and a later run shall hear them.
            if again && interrupted() {
                let reason = format!("{INTERRUPTED} during this case");
                return report::unmeasured(case, &self.label, OutcomeStatus::Skipped, reason);
            }
            if outcome.status == OutcomeStatus::Skipped && !is_cut_off(&outcome) {
                outcome = failed.unwrap_or(outcome);
            }
            // The later attempts say of them only that they are left out.
            outcome.tried.retain(|entry| {
                let of =
                    |one: &Tried| (&one.kernel, &one.variant) == (&entry.kernel, &entry.variant);
                !killers.iter().any(of)
            });
            outcome.tried.extend(killers);
            return outcome;
        }
    }

    /// One attempt at a case.
    fn attempt(
        &mut self,
        case: &Case,
        share_s: Option<f64>,
        before: &[Outcome],
        ceilings: &[Ceiling],
    ) -> Outcome {
        let end =
            |status, reason: String| report::unmeasured(case, self.label.as_str(), status, reason);
        let skipped = |reason: &str| end(OutcomeStatus::Skipped, reason.to_owned());
        if interrupted() {
            return skipped(&format!("{INTERRUPTED} before this case"));
        }
        if self.deaths >= DEATHS_MAX {
            return end(
                OutcomeStatus::Failed,
                format!("the runner died of {DEATHS_MAX} cases in a row and was given up"),
            );
        }
        let used_up = format!(
            "{BUDGET_USED}, {} s",
            self.clock.borrow().seconds.unwrap_or(0.0)
        );
        let energy_s = energy_s(case, self.options.plan.energy_window_s, &self.sensors);
        let case_budget_s = case_budget_s(&self.options.plan, case);
        let budget_s = match (self.clock.borrow().left_s(), share_s) {
            (Some(left_s), Some(share_s)) => {
                if left_s <= 0.0 {
                    return skipped(&used_up);
                }
                case_budget_s.min(without_energy(share_s, energy_s))
            }
            _ => case_budget_s,
        };
        let energy_until = share_s.map(|share_s| Instant::now() + Duration::from_secs_f64(share_s));
        // The estimate of a probe is its ceiling itself; that of others is far on the safe side.
        let call_s_max = if case.op.is_probe() {
            budget_s / PROBE_CALLS
        } else {
            self.options
                .plan
                .call_s_max
                .min(budget_s)
                .min(longest_call_s(&self.opened.record.device))
        };
        // What one case overdraws, all later ones lack.
        let case_deadline =
            share_s.map(|share_s| Instant::now() + Duration::from_secs_f64(2.0 * share_s + 1.0));
        let run_deadline = self.clock.borrow().deadline();
        let deadline = run_deadline.min(case_deadline).or(run_deadline);
        if let Some(reason) = plan::too_slow(case, ceilings, self.label.as_str(), call_s_max) {
            return end(OutcomeStatus::Skipped, reason);
        }
        let mut tried = Vec::new();
        let native = NATIVE.contains(&self.name);
        let cold_bytes = self.cold_bytes();
        let mut runner = Deadlined {
            inner: &mut *self.opened.conversation,
            deadline,
        };
        let mut session = Session::new(
            &mut runner,
            self.opened.record.timer.clone(),
            self.options.reach.silence,
            &interrupted,
        );
        session.one_by_one = self.one_by_one;
        let device = &self.opened.record.device;
        let cache = self.options.cache.as_ref();
        let place = (self.label.clone(), case.id());
        let pinned = self.options.pinned.get(&place);
        let remembered = match pinned {
            Some(variant) => vec![variant.clone()],
            None => cache
                .filter(|_| self.options.recall)
                .map_or_else(Vec::new, |cache| cache.recall(device, case)),
        };
        let bounds = normalise::highest(ceilings, before);
        let task = Task {
            case,
            scout: scout(case, ceilings, self.label.as_str()),
            seed: case_seed(self.seed, case),
            budget_s: budget_s * 0.65,
            case_budget_s: budget_s,
            share_s,
            banned: &self.banned,
            remembered: &remembered,
            remembered_of_all: cache.is_some_and(|cache| cache.is_of_all(device, case)),
            pinned: pinned.is_some(),
            device,
            ceilings: &bounds,
            runner: self.label.as_str(),
        };
        let implausible = |outcome: &Outcome| {
            // Probes make the ceilings: a better one raises them, and is judged at the end.
            if outcome.op.is_probe() {
                return None;
            }
            let mut all = before.to_vec();
            let mut outcome = outcome.clone();
            self.label.clone_into(&mut outcome.runner);
            all.push(outcome);
            normalise::set_fractions(&mut all, ceilings);
            let judged = all.pop()?;
            (judged.status == OutcomeStatus::Implausible)
                .then_some(judged.reason)
                .flatten()
        };
        let sensors = &self.sensors;
        let (mut recorder, mut trace) = (None, None);
        let mut watch = |moment: Moment<'_>| match moment {
            Moment::Begin => recorder = Some(Recorder::start(sensors, telemetry::INTERVAL)),
            Moment::Over => trace = recorder.take().map(Recorder::stop),
            Moment::End(outcome) => {
                outcome.telemetry = trace.take().filter(|trace| !trace.points.is_empty());
            }
        };
        let mut conditions = Conditions {
            budget_s,
            checks: self.options.reach.checks,
            native,
            regimes: &self.options.plan.regimes,
            cold_bytes,
            implausible: &implausible,
            energy_window_s: self.options.plan.energy_window_s,
            energy_until,
            sensors,
            idle_power_w: self.idle_power_w,
            launch_s: ceilings
                .iter()
                .find(|c| c.name == normalise::LAUNCH_LATENCY && c.runner == self.label)
                .map(|c| c.value),
            fault: None,
            watch: &mut watch,
        };
        let result = measure_case(&task, &mut session, &mut conditions, &mut tried);
        // One that was cut off in time did not die of it.
        self.one_by_one |= session.one_by_one && !past(case_deadline) && !past(run_deadline);
        let guilty = session.last.take();
        if let (Err(End::Fault(fault)), Some(variant)) = (&result, &guilty) {
            tried.push(tune::entry(variant, "failed", Some(fault.message.clone())));
        }
        // A cache that cannot be written costs the next run a search, and this one nothing.
        let _ = match (cache, &result, &guilty) {
            (Some(cache), Ok(_), _) => cache.keep(device, case, &tried),
            (Some(cache), Err(End::Fault(_)), Some(variant)) => cache.forget(device, case, variant),
            _ => Ok(()),
        };
        let fault_after = conditions.fault.take();
        let deaths = std::mem::take(&mut self.deaths);
        let mut outcome = match result {
            Ok(mut outcome) => {
                self.label.clone_into(&mut outcome.runner);
                outcome
            }
            Err(End::Skipped(reason)) => end(OutcomeStatus::Skipped, reason),
            Err(End::Interrupted) => skipped(&format!("{INTERRUPTED} during this case")),
            Err(End::Implausible(reason)) => end(OutcomeStatus::Implausible, reason),
            Err(End::Failed(reason)) => end(OutcomeStatus::Failed, reason),
            Err(End::Wrong(reason)) => end(OutcomeStatus::Failed, format!("{WRONG}: {reason}")),
            Err(End::Fault(_)) if interrupted() => {
                skipped(&format!("{INTERRUPTED} during this case"))
            }
            Err(End::Fault(_)) if past(run_deadline) => {
                // It was cut off in the middle of something, and nothing more will be asked of it.
                let outcome = skipped(&format!("{used_up}, in the middle of this case"));
                self.opened.conversation = Box::new(Gone);
                outcome
            }
            Err(End::Fault(fault)) if past(case_deadline) => {
                let outcome = self.bury(case, fault, None);
                if self.deaths < DEATHS_MAX {
                    self.deaths = deaths;
                    let reason = format!(
                        "{SHARE_USED}, {:.1} s, was used up twice over in the middle of it",
                        share_s.unwrap_or(budget_s)
                    );
                    report::unmeasured(case, &self.label, OutcomeStatus::Skipped, reason)
                } else {
                    outcome
                }
            }
            Err(End::Fault(fault)) => {
                self.deaths = deaths;
                self.bury(case, fault, guilty)
            }
        };
        if fault_after.is_some() {
            self.revive();
        }
        outcome.tried = tried;
        outcome
    }

    /// The runner is gone: its case fails, the variant it was on is banned, and a new runner takes
    /// its place.
    fn bury(&mut self, case: &Case, fault: Fault, guilty: Option<Variant>) -> Outcome {
        self.deaths += 1;
        let reason = match &guilty {
            Some(variant) => format!("{} (on {variant})", fault.message),
            None => fault.message,
        };
        self.banned.extend(guilty.filter(|_| !fault.from_outside));
        // The old one goes before the new one comes: it may still hold the device.
        self.opened.conversation = Box::new(Gone);
        match open(self.name, &self.options.reach) {
            // Without the device that was lost, the first one left would be measured under its name.
            Ok(opened) if !opened.record.device.is_same(&self.opened.record.device) => {
                self.deaths = DEATHS_MAX;
                return report::unmeasured(
                    case,
                    self.label.as_str(),
                    OutcomeStatus::Failed,
                    format!(
                        "{reason}; after the restart its device was gone and {} was there instead",
                        opened.record.device.name
                    ),
                );
            }
            Ok(opened) => *self.opened = opened,
            Err(error) => {
                self.deaths = DEATHS_MAX;
                return report::unmeasured(
                    case,
                    self.label.as_str(),
                    OutcomeStatus::Failed,
                    format!("{reason}; it could not be restarted: {}", error.message),
                );
            }
        }
        report::unmeasured(case, self.label.as_str(), OutcomeStatus::Failed, reason)
    }
}

/// The longest call that may be asked of a device by an estimate that is far on the safe side: a system
/// that resets GPUs for being busy leaves twice the time that a submission gets there.
fn longest_call_s(device: &Device) -> f64 {
    if device.device_type == "cpu" {
        f64::INFINITY
    } else {
        2.0 * SUBMISSION_S_MAX
    }
}

/// How the reason of a case begins when kernels computed wrong numbers.
pub const WRONG: &str = "wrong results";

/// Whether a signal ended the case before all of it was there.
fn is_cut_off(outcome: &Outcome) -> bool {
    let reasons = [&outcome.reason, &outcome.energy_reason];
    reasons
        .into_iter()
        .flatten()
        .any(|reason| reason.starts_with(INTERRUPTED))
}

fn past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// The seed of a case's inputs: the run's, mixed with the case's name, so that no two cases share
/// tensors.
#[must_use]
pub fn case_seed(seed: u32, case: &Case) -> u32 {
    case.id().bytes().fold(input::mix(seed), |hash, byte| {
        input::mix(hash ^ u32::from(byte))
    })
}

/// The size at which each kernel can be looked at without waiting seconds for the poor ones.
pub(crate) fn scout(case: &Case, ceilings: &[Ceiling], runner: &str) -> Case {
    let slow = |case: &Case| {
        normalise::roofline(&normalise::Work::of(case), ceilings, runner)
            .is_some_and(|(best_s, _)| best_s / POOR_FRACTION > SCOUT_S_MAX)
    };
    let mut small = case.clone();
    while slow(&small) {
        let Some(shape) = case.op.op().shrink(&small.shape) else {
            break;
        };
        small.shape = shape;
    }
    small
}

/// Every device that the native runners can open, for `chipmark devices`.
#[must_use]
pub fn devices(backend: Option<&str>) -> Vec<Device> {
    let mut devices: Vec<Device> = crate::gpu::enumerate(backend)
        .into_iter()
        .map(|candidate| candidate.device)
        .collect();
    if backend.is_none()
        && let Ok(opened) = open("host", &first_device(true))
    {
        devices.push(opened.record.device);
    }
    devices
}

/// How to reach whatever device a runner prefers.
fn first_device(in_process: bool) -> Reach {
    Reach {
        device: None,
        backend: None,
        checks: false,
        in_process,
        silence: Duration::from_secs(60),
    }
}

/// Which device each of the runners in the folder `runners` opens here, or why it opens none: each is
/// started, all at once, for some take seconds to load.
#[must_use]
pub fn external_devices() -> Vec<(External, std::result::Result<Device, String>)> {
    let asked = EXTERNALS.map(|external| {
        let ask = move || match external.installed() {
            None => Err(format!("not installed: {}", external.remedy())),
            Some(_) => open(external.name, &first_device(false))
                .map(|opened| opened.record.device)
                .map_err(|error| error.message),
        };
        (external, std::thread::spawn(ask))
    });
    asked
        .into_iter()
        .map(|(external, asked)| {
            let dead = |_| Err("asking it failed".to_owned());
            (external, asked.join().unwrap_or_else(dead))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Meter;

    #[test]
    fn a_probe_of_the_suite_energy_has_a_share_that_its_window_fits() {
        let meter = Meter {
            source: "a meter".to_owned(),
            covers: "the board".to_owned(),
            settle_s: 0.1,
        };
        let sensors = Sensors::of_formulas(None, Some(meter), |_| None, |_| Some(50.0));
        for suite in ["energy", "llm", "standard"] {
            let plan = plan::plan(suite, None).unwrap();
            let of = |case: &Case| weight(&plan, case, &sensors);
            let weight_left: f64 = plan.cases.iter().map(of).sum();
            // The seconds that all may take together.
            let mut budget = Budget {
                started: Instant::now(),
                seconds: Some(weight_left),
                weight_left,
            };
            let mut cases = plan.cases.iter();
            let probe = cases.find(|case| case.op == OpName::Fma).unwrap();
            let share_s = budget.share(of(probe)).unwrap();
            let energy_s = energy_s(probe, plan.energy_window_s, &sensors);
            assert!(energy_s > plan.energy_window_s, "{suite}");
            assert!((share_s / (plan.case_budget_s / 4.0 + energy_s) - 1.0).abs() < 0.01);
        }
        // Where nothing can be counted shares are what they were: four to one.
        let plan = plan::plan("quick", None).unwrap();
        let none = Sensors::none(String::new());
        let of = |op| {
            let case = plan.cases.iter().find(|case| case.op == op).unwrap();
            weight(&plan, case, &none)
        };
        assert!((of(OpName::Matmul) / of(OpName::Fma) - CASE_WEIGHT).abs() < 1e-12);
    }

    #[test]
    fn time_comes_before_energy_where_there_is_little_of_it() {
        assert!((without_energy(30.0, 12.0) - 18.0).abs() < 1e-12);
        assert!((without_energy(20.0, 12.0) - 20.0).abs() < 1e-12);
        assert!((without_energy(20.0, 0.0) - 20.0).abs() < 1e-12);
    }
}
