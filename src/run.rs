//! The conductor: plan, and for every case verify, tune, measure, verify again; then normalise.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::input::{self, Data};
use crate::interrupt::interrupted;
use crate::machine;
use crate::measure::{Policy, Trouble};
use crate::normalise;
use crate::op::Case;
use crate::plan::{self, Plan};
use crate::protocol::{Device, FaultKind, PROTOCOL_VERSION, Request, Response, Variant};
use crate::report::{
    self, Ceiling, Labels, Outcome, OutcomeStatus, Report, RunnerRecord, SCHEMA_VERSION, Status,
    Suite, Times, Tool, Tried,
};
use crate::runner::external::Process;
use crate::runner::{Conversation, Fault, InProcess, NATIVE, native};
use crate::tune::{self, End, Session, Task, choose};
use crate::verify::{self, Verdict};

/// A runner that dies this often in a row is given up.
const DEATHS_MAX: u32 = 3;

/// A variant is looked at in small first if even a poor one might take longer than this.
const SCOUT_S_MAX: f64 = 0.15;

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
    /// Runners by name or path; the default choice if empty.
    pub runners: Vec<String>,
    /// How to reach them.
    pub reach: Reach,
    /// Seed of all inputs.
    pub seed: u32,
    /// Seconds for the whole run, where the user set a limit.
    pub budget_s: Option<f64>,
    /// The command line, for the report.
    pub command: String,
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

/// Starts a runner by name or path and has it open its device.
///
/// # Errors
/// [`ErrorKind::NoDevice`] where it finds none, [`ErrorKind::Usage`] where there is no such runner,
/// [`ErrorKind::Transient`] where it dies.
pub fn open(name: &str, reach: &Reach) -> Result<Opened> {
    let mut conversation: Box<dyn Conversation> = if NATIVE.contains(&name) {
        if reach.in_process {
            let runner =
                native(name).ok_or_else(|| Error::internal(format!("runner {name} is missing")))?;
            Box::new(InProcess(runner))
        } else {
            let program = std::env::current_exe().map_err(|error| {
                Error::internal(format!("the program cannot find itself: {error}"))
            })?;
            let mut command = Command::new(program);
            command.args(["worker", "--runner", name]);
            Box::new(Process::start(name, command)?)
        }
    } else if std::path::Path::new(name).is_file() {
        let path = std::path::absolute(name).unwrap_or_else(|_| PathBuf::from(name));
        Box::new(Process::start(name, Command::new(path))?)
    } else {
        return Err(Error::usage(format!(
            "--runner {name}: it is neither {} nor the path of a program",
            NATIVE.join(" nor ")
        )));
    };
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
        } if protocol == PROTOCOL_VERSION => Ok(Opened {
            conversation,
            record: RunnerRecord {
                runner,
                device: *device,
                timer,
            },
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

/// Runs the plan on every runner and makes the report.
///
/// # Errors
/// When no runner can be opened, or an id cannot be made. A case that fails is in the report.
pub fn run(options: &Options, watcher: &mut dyn Watcher) -> Result<Report> {
    let started = Instant::now();
    let started_at = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let mut opened = open_all(options, watcher)?;

    let mut outcomes = Vec::new();
    let mut ceilings = Vec::new();
    for (name, opened) in &mut opened {
        match opened {
            Ok(opened) => {
                let mut work = Work {
                    name,
                    label: opened.record.runner.name.clone(),
                    options,
                    opened,
                    banned: Vec::new(),
                    deaths: 0,
                    started,
                };
                outcomes.extend(work.run(&mut ceilings, watcher));
            }
            Err(error) => {
                // That a runner has no device here is known beforehand; that it died is a failure.
                let status = if error.kind == ErrorKind::NoDevice {
                    OutcomeStatus::Skipped
                } else {
                    OutcomeStatus::Failed
                };
                let cases = options.plan.cases.iter();
                outcomes.extend(cases.map(|case| {
                    report::unmeasured(case, label(name), status, error.message.clone())
                }));
            }
        }
    }
    normalise::set_fractions(&mut outcomes, &ceilings);

    let runners: Vec<RunnerRecord> = opened
        .into_iter()
        .filter_map(|(_, opened)| Some(opened.ok()?.record))
        .collect();
    let device = runners
        .first()
        .map(|record| record.device.clone())
        .unwrap_or_default();
    let not_measured = |o: &Outcome| match o.status {
        OutcomeStatus::Failed | OutcomeStatus::Implausible => true,
        OutcomeStatus::Skipped => o
            .reason
            .as_deref()
            .is_some_and(|reason| reason.starts_with(BUDGET_USED)),
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
        device,
        runners,
        ceilings,
        memory: Vec::new(),
        calibration: None,
        interleave_id: None,
        outcomes,
    };
    report.seal()?;
    Ok(report)
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
        watcher.say("no GPU can be measured, so the CPU is: install a Vulkan driver (`./x setup` installs a software one), then `chipmark devices` shows it");
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
    opened: &'a mut Opened,
    banned: Vec<Variant>,
    deaths: u32,
    started: Instant,
}

impl Work<'_> {
    fn run(&mut self, ceilings: &mut Vec<Ceiling>, watcher: &mut dyn Watcher) -> Vec<Outcome> {
        let device = &self.opened.record.device;
        watcher.say(&format!(
            "runner {}: {} ({})",
            self.label.as_str(),
            device.name,
            device.backend
        ));
        let mut outcomes: Vec<Outcome> = Vec::new();
        let count = self.options.plan.cases.len();
        for (index, case) in self.options.plan.cases.iter().enumerate() {
            watcher.begin(index, count, &case.id(), self.label.as_str());
            let outcome = self.outcome(case, ceilings);
            watcher.end(&outcome);
            outcomes.push(outcome);
            // Each probe may raise a ceiling that later cases are sized by.
            ceilings.retain(|ceiling| ceiling.runner != self.label.as_str());
            ceilings.extend(normalise::ceilings(&outcomes, self.label.as_str()));
        }
        outcomes
    }

    fn outcome(&mut self, case: &Case, ceilings: &[Ceiling]) -> Outcome {
        let end =
            |status, reason: String| report::unmeasured(case, self.label.as_str(), status, reason);
        let skipped = |reason: &str| end(OutcomeStatus::Skipped, reason.to_owned());
        if interrupted() {
            return skipped("the run was interrupted before this case");
        }
        if self.deaths >= DEATHS_MAX {
            return end(
                OutcomeStatus::Failed,
                format!("the runner died {DEATHS_MAX} times in a row and was given up"),
            );
        }
        let budget_s = match self.options.budget_s {
            None => self.options.plan.case_budget_s,
            Some(total) => {
                let left = total - self.started.elapsed().as_secs_f64();
                if left <= 0.0 {
                    return skipped(&format!("{BUDGET_USED}, {total} s"));
                }
                self.options.plan.case_budget_s.min(left)
            }
        };
        if let Some(reason) = plan::too_slow(
            case,
            ceilings,
            self.label.as_str(),
            self.options.plan.call_s_max,
        ) {
            return end(OutcomeStatus::Skipped, reason);
        }
        let mut tried = Vec::new();
        let mut session = Session {
            runner: &mut *self.opened.conversation,
            timer: self.opened.record.timer.clone(),
            silence: self.options.reach.silence,
            interrupted: &interrupted,
            last: None,
        };
        let task = Task {
            case,
            scout: scout(case, ceilings, self.label.as_str()),
            seed: case_seed(self.options.seed, case),
            budget_s: budget_s * 0.65,
            banned: &self.banned,
        };
        let result = measure_case(&task, &mut session, budget_s, self.options, &mut tried);
        let guilty = session.last.take();
        if let (Err(End::Fault(fault)), Some(variant)) = (&result, &guilty) {
            tried.push(tune::entry(variant, "failed", Some(fault.message.clone())));
        }
        let mut outcome = match result {
            Ok(mut outcome) => {
                self.deaths = 0;
                self.label.clone_into(&mut outcome.runner);
                outcome
            }
            Err(End::Skipped(reason)) => end(OutcomeStatus::Skipped, reason),
            Err(End::Interrupted) => skipped("the run was interrupted during this case"),
            Err(End::Failed(reason)) => end(OutcomeStatus::Failed, reason),
            Err(End::Wrong(reason)) => end(OutcomeStatus::Failed, format!("{WRONG}: {reason}")),
            Err(End::Fault(_)) if interrupted() => {
                skipped("the run was interrupted during this case")
            }
            Err(End::Fault(fault)) => self.bury(case, fault, guilty),
        };
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
            Ok(opened) if !same_device(&opened.record.device, &self.opened.record.device) => {
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

fn same_device(one: &Device, other: &Device) -> bool {
    let identity = |device: &Device| {
        (
            device.name.clone(),
            device.backend.clone(),
            device.pci_bus_id.clone(),
            device.driver.clone(),
        )
    };
    identity(one) == identity(other)
}

/// How the reason of a case begins that the user's time limit left out.
const BUDGET_USED: &str = "the budget of the run was used up";

/// How the reason of a case begins when kernels computed wrong numbers.
pub const WRONG: &str = "wrong results";

/// The seed of a case's inputs: the run's, mixed with the case's name, so that no two cases share
/// tensors.
#[must_use]
pub fn case_seed(seed: u32, case: &Case) -> u32 {
    case.id().bytes().fold(input::mix(seed), |hash, byte| {
        input::mix(hash ^ u32::from(byte))
    })
}

/// The size at which all variants can be looked at without waiting seconds for the poor ones.
fn scout(case: &Case, ceilings: &[Ceiling], runner: &str) -> Case {
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

fn measure_case(
    task: &Task<'_>,
    session: &mut Session<'_>,
    budget_s: f64,
    options: &Options,
    tried: &mut Vec<Tried>,
) -> std::result::Result<Outcome, End> {
    let started = Instant::now();
    let case = task.case;
    let ranking = choose(task, session, tried)?;
    let chosen = ranking
        .first()
        .cloned()
        .ok_or_else(|| End::Failed("no variant was chosen".to_owned()))?;

    let verification_exact = if case.op.op().exact(&case.shape) {
        session.case(case, task.seed, &Data::Integer)?;
        session.prepare(&chosen)?.map_err(End::Failed)?;
        Some(right(session, case, task.seed, &Data::Integer, &chosen)?)
    } else {
        None
    };
    session.case(case, task.seed, &Data::Uniform)?;
    let ready = session.prepare(&chosen)?.map_err(End::Failed)?;
    right(session, case, task.seed, &Data::Uniform, &chosen)?;
    let left_s = (budget_s - started.elapsed().as_secs_f64()).max(budget_s * 0.15);
    let policy = Policy::thorough(&session.timer, left_s, session.silence);
    let measurement = session.measure(&policy).map_err(|trouble| match trouble {
        Trouble::Fault(fault) => End::Fault(fault),
        Trouble::Refused(reason) => End::Failed(reason),
    })?;
    // The very buffers that were timed, poisoned before and checked at places chosen after.
    let verification = right(session, case, task.seed, &Data::Uniform, &chosen)?;

    let summary = measurement.summary;
    let mut outcome = report::unmeasured(case, "", OutcomeStatus::Measured, String::new());
    outcome.reason = None;
    outcome.kernel = Some(chosen.kernel);
    outcome.variant = chosen.variant;
    outcome.shader_sha256 = ready.shader_sha256;
    outcome.shader_passes = ready.passes;
    outcome.compile_s = tried
        .iter()
        .find(|t| Some(&t.kernel) == outcome.kernel.as_ref() && t.variant == outcome.variant)
        .and_then(|t| t.compile_s);
    outcome.labels = Some(Labels {
        engine: ready.engine,
        timer: measurement.clock.to_owned(),
        cache: "hot".to_owned(),
        data: case.data_label(&Data::Uniform).to_owned(),
        checks: if options.reach.checks { "on" } else { "off" }.to_owned(),
    });
    outcome.time_s = Some(Times {
        median: summary.median,
        ci95_low: summary.ci95_low,
        ci95_high: summary.ci95_high,
        min: summary.min,
        max: summary.max,
        q1: summary.q1,
        q3: summary.q3,
        samples: measurement.samples,
        repeat_count: measurement.repeat_count,
        host_median: measurement.host_s_median,
        invalid_count: measurement.invalid_count,
        ..Times::default()
    });
    outcome.stop_reason = Some(measurement.stop_reason.to_owned());
    outcome.verification = Some(verification);
    outcome.verification_exact = verification_exact;
    normalise::set_rates(&mut outcome);
    Ok(outcome)
}

fn right(
    session: &mut Session<'_>,
    case: &Case,
    seed: u32,
    data: &Data,
    variant: &Variant,
) -> std::result::Result<report::Verification, End> {
    let inputs = verify::inputs(case, seed, data).map_err(|error| End::Failed(error.message))?;
    match session.verify(case, &inputs, data)? {
        Verdict::Right(verification) => Ok(verification),
        Verdict::Wrong(_, reason) => Err(End::Wrong(format!(
            "{variant} on {} data: {reason}",
            data.label()
        ))),
        Verdict::Refused(reason) => Err(End::Failed(reason)),
    }
}

/// Every device that the native runners can open, for `chipmark devices`.
#[must_use]
pub fn devices(backend: Option<&str>) -> Vec<Device> {
    let mut devices: Vec<Device> = crate::gpu::enumerate(backend)
        .into_iter()
        .map(|candidate| candidate.device)
        .collect();
    if backend.is_none() {
        let reach = Reach {
            device: None,
            backend: None,
            checks: false,
            in_process: true,
            silence: Duration::from_secs(60),
        };
        if let Ok(opened) = open("host", &reach) {
            devices.push(opened.record.device);
        }
    }
    devices
}
