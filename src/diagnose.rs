//! `chipmark diagnose`: why a kernel is far from its ceiling.
//!
//! The kernel is verified and timed as ever; then so are what-if variants of it, each with a part of
//! its work taken out (`what_if`), whose times say what the part costs. They compute wrong results by
//! design. So their times stay here: a diagnosis is no report, and nothing that reads, compares or
//! remembers times takes one.

use std::path::Path;
use std::time::Instant;

use regex::Regex;
use serde::Serialize;

use crate::case::sight;
use crate::display;
use crate::driver_statistics::spilled;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::input::Data;
use crate::interleave::{self, choose, policy, with_session};
use crate::interrupt::interrupted;
use crate::measure::{Policy, Trouble};
use crate::op::{Case, Dtype, OpName, Shape};
use crate::plan::{self, Plan};
use crate::protocol::{Device, Inspection, Tunables, Variant, WhatIf};
use crate::report::{Ceiling, OutcomeStatus, Report, RunnerRecord};
use crate::run::{self, Reach, Watcher};
use crate::tune::{End, Ready, Session};

/// The runner whose kernels are shaders that can be taken apart.
pub const WGPU: &str = "wgpu";

/// From this share of the whole time on, what is left of a kernel takes about as long as all of it.
const MOST: f64 = 0.8;

/// `loads_only` speaks for itself if it leaves out so many of the multiply-adds.
const LEFT_OUT_MIN: f64 = 0.5;

/// Without traffic a kernel that memory binds takes at most this, where nothing else is known of it.
const LITTLE: f64 = 0.5;

/// From this share on a launch is what takes the time.
const LAUNCH_SHARE: f64 = 0.5;

/// Two looks at the kernel itself that differ by more than this say nothing of its parts.
const STEADY: f64 = 0.15;

/// With fewer workgroups than this every GPU has units that idle.
const WORKGROUPS_MIN: u64 = 16;

/// Seconds for the search of a variant, where none is known.
const SEARCH_S_MAX: f64 = 10.0;

/// A case to be diagnosed.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The case.
    pub case: Case,
    /// Its variant; to be searched for if absent.
    pub variant: Option<Variant>,
    /// What a report says of it: the fraction of its ceiling, and which ceiling.
    pub fraction: Option<(f64, String)>,
}

/// What is to be diagnosed.
#[derive(Clone, Debug)]
pub struct Request {
    /// The runner by name, path or command.
    pub runner: String,
    /// How to reach it.
    pub reach: Reach,
    /// Seed of all inputs.
    pub seed: u32,
    /// The cases.
    pub subjects: Vec<Subject>,
    /// The suite that they come from, whose probes size a search.
    pub plan: Option<Plan>,
    /// Seconds for all of it.
    pub budget_s: Option<f64>,
    /// Compute units of the device, where the user knows them.
    pub unit_count: Option<u32>,
}

/// The measured cases of a report whose kernels are farthest from their ceilings, farthest first.
///
/// # Errors
/// A usage error where there is none, or the filter is no regular expression.
pub fn farthest(
    name: &str,
    report: &Report,
    filter: Option<&str>,
    count: usize,
) -> Result<Vec<Subject>> {
    let filter = filter.map(pattern).transpose()?;
    let mut found = Vec::new();
    for outcome in report.with_status(OutcomeStatus::Measured) {
        let (Some(fraction), Some(kernel)) = (outcome.fraction_of_ceiling, &outcome.kernel) else {
            continue;
        };
        if outcome.runner != WGPU
            || outcome.op.is_probe()
            || filter
                .as_ref()
                .is_some_and(|f| !f.is_match(&outcome.case_id))
        {
            continue;
        }
        let case = Case::new(outcome.op, &outcome.shape, outcome.dtype)
            .map_err(|error| Error::usage(format!("{name}: {}: {error}", outcome.case_id)))?;
        found.push(Subject {
            case,
            variant: Some(Variant {
                kernel: kernel.clone(),
                variant: outcome.variant.clone(),
            }),
            fraction: Some((fraction, outcome.roofline_bound.clone().unwrap_or_default())),
        });
    }
    if found.is_empty() {
        return Err(Error::usage(format!(
            "{name}: it has no measured case of runner {WGPU} with a fraction_of_ceiling{}; name cases with --suite and --filter instead",
            if filter.is_some() {
                " that --filter finds"
            } else {
                ""
            }
        )));
    }
    let fraction = |subject: &Subject| subject.fraction.as_ref().map_or(1.0, |(value, _)| *value);
    found.sort_by(|a, b| fraction(a).total_cmp(&fraction(b)));
    found.truncate(count);
    Ok(found)
}

/// The cases of a suite, without probes, whose variants have yet to be found.
///
/// # Errors
/// A usage error where none is left.
pub fn chosen(plan: &Plan, filter: Option<&str>) -> Result<Vec<Subject>> {
    let filter = filter.map(pattern).transpose()?;
    let wanted = |case: &&Case| {
        !case.op.is_probe() && filter.as_ref().is_none_or(|f| f.is_match(&case.id()))
    };
    let cases = plan.cases.iter().filter(wanted);
    let subjects: Vec<Subject> = cases
        .map(|case| Subject {
            case: case.clone(),
            variant: None,
            fraction: None,
        })
        .collect();
    if subjects.is_empty() {
        return Err(Error::usage(format!(
            "suite {} has no case to diagnose that --filter finds; `chipmark list --suite {}` shows what it has, and probes are not diagnosed",
            plan.suite, plan.suite
        )));
    }
    Ok(subjects)
}

fn pattern(text: &str) -> Result<Regex> {
    Regex::new(text)
        .map_err(|error| Error::usage(format!("--filter {text}: {}", one_line(&error.to_string()))))
}

/// Everything that a diagnosis found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// What this file is: never a report.
    pub kind: &'static str,
    /// What its times are.
    pub note: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// The device.
    pub device: Device,
    /// The clock that all times come from.
    pub clock: String,
    /// Whether kernels kept their bounds checks.
    pub checks: bool,
    /// Compute units of the device, as the user gave them.
    pub unit_count: Option<u32>,
    /// One for each case, in order.
    pub cases: Vec<Diagnosis>,
}

/// What `kind` says.
const KIND: &str = "chipmark_diagnosis";
/// What `note` says.
const NOTE: &str = "what-if variants compute wrong results by design: their times explain a kernel and are no results";

/// What was found of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// The case.
    pub case_id: String,
    /// The kernel; absent where none was found.
    pub kernel: Option<String>,
    /// Its tunables.
    pub variant: Tunables,
    /// What the report said of it.
    pub fraction_of_ceiling: Option<f64>,
    /// The ceiling that is meant.
    pub roofline_bound: Option<String>,
    /// Why there is no diagnosis, where there is none.
    pub reason: Option<String>,
    /// Whether the reason is that the kernel's results were wrong.
    pub wrong: bool,
    /// The figures.
    pub found: Option<Found>,
}

/// The figures of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Median time of the unchanged kernel, verified before and after.
    pub whole_s: f64,
    /// The same once more, after all what-if variants.
    pub whole_again_s: Option<f64>,
    /// The what-if variants.
    pub what_ifs: Vec<Part>,
    /// Time of a launch of the empty kernel, in the same process.
    pub launch_s: Option<f64>,
    /// Seconds to compile a program that differs from the kernel in one comparison, so that no cache
    /// of the driver's can know it.
    pub compile_cold_s: Option<f64>,
    /// Seconds to compile the kernel itself, which a cache of the driver's may know.
    pub compile_s: f64,
    /// What it takes of the device.
    pub inspection: Option<Inspection>,
    /// Why that is not known, where it is not.
    pub inspection_reason: Option<String>,
    /// What binds it.
    pub verdict: Verdict,
}

/// One what-if variant.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Its name.
    pub what_if: WhatIf,
    /// Median time; no result, for what it computes is wrong.
    pub time_s: Option<f64>,
    /// The same as a share of the unchanged kernel's.
    pub share_of_whole: Option<f64>,
    /// What was changed.
    pub changed: Option<String>,
    /// Which share of what could be left out is.
    pub left_out: Option<f64>,
    /// Why there is no time, where there is none.
    pub reason: Option<String>,
}

/// What binds a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// One of the words of [`BOUNDS`].
    pub bound_by: &'static str,
    /// The numbers it rests on.
    pub because: String,
}

/// Everything that a verdict can say.
pub const BOUNDS: [&str; 7] = [
    "memory",
    "arithmetic",
    "workgroup memory or synchronisation",
    "launch",
    "too few workgroups",
    "spills (driver)",
    "unclear",
];

/// What a verdict rests on.
#[derive(Clone, Debug, Default)]
struct Facts {
    whole_s: f64,
    again_s: Option<f64>,
    launch_s: Option<f64>,
    /// Shares of the whole time.
    math: Option<f64>,
    loads: Option<f64>,
    /// Which share of the multiply-adds `loads_only` leaves out.
    left_out: Option<f64>,
    stores: Option<f64>,
    has_workgroup_memory: bool,
    /// Of the launch with the most.
    workgroup_count: u64,
    unit_count: Option<u32>,
    is_cpu: bool,
    spilled: Vec<(String, f64)>,
}

/// The rule of METHODOLOGY.md, in its order: the first that holds.
fn verdict(facts: &Facts) -> Verdict {
    let say = |bound_by: &'static str, because: String| Verdict { bound_by, because };
    let share = display::digits;
    if let Some(again_s) = facts.again_s
        && (again_s / facts.whole_s - 1.0).abs() > STEADY
    {
        return say(
            "unclear",
            format!(
                "the unchanged kernel took {} at first and {} at the end; a quieter machine would tell more",
                display::seconds(facts.whole_s),
                display::seconds(again_s)
            ),
        );
    }
    if let Some(launch_s) = facts.launch_s
        && launch_s >= LAUNCH_SHARE * facts.whole_s
    {
        return say(
            "launch",
            format!(
                "an empty launch takes {} of the time, {} or more",
                share(launch_s / facts.whole_s),
                share(LAUNCH_SHARE)
            ),
        );
    }
    if !facts.spilled.is_empty() {
        let all: Vec<String> = facts
            .spilled
            .iter()
            .map(|(name, value)| format!("{name} {}", display::digits(*value)))
            .collect();
        return say(
            "spills (driver)",
            format!(
                "the driver keeps in memory what registers do not hold: {}",
                all.join(", ")
            ),
        );
    }
    let units = facts.unit_count.map_or(WORKGROUPS_MIN, u64::from);
    if facts.workgroup_count < units && (!facts.is_cpu || facts.unit_count.is_some()) {
        let of = match facts.unit_count {
            Some(_) => format!("the device has {units} compute units"),
            None => format!("below {units} any GPU has units that idle"),
        };
        return say(
            "too few workgroups",
            format!(
                "its largest launch has {} workgroups; {of}",
                facts.workgroup_count
            ),
        );
    }
    if let Some(stores) = facts.stores
        && stores >= MOST
    {
        return say(
            "memory",
            format!(
                "with next to nothing to sum over it still takes {} of the time: what it writes, or its start",
                share(stores)
            ),
        );
    }
    let known = |name: &str, value: Option<f64>| {
        value.map_or_else(
            || format!("{name} is not known"),
            |value| format!("{name} takes {} of the time", share(value)),
        )
    };
    // A time with most of the arithmetic still in it says nothing of loads alone.
    let enough = facts.left_out.is_none_or(|share| share >= LEFT_OUT_MIN);
    let loads = facts.loads.filter(|_| enough);
    let loads_only = match (facts.loads, facts.left_out) {
        (Some(_), Some(left_out)) if !enough => format!(
            "loads_only leaves out {} of the multiply-adds and does not count",
            share(left_out)
        ),
        _ => known("loads_only", loads),
    };
    let both = format!("{loads_only}, {}", known("math_only", facts.math));
    let most = |value: Option<f64>| value.map(|value| value >= MOST);
    match (most(loads), most(facts.math)) {
        (Some(true), Some(true)) if facts.has_workgroup_memory => {
            say("workgroup memory or synchronisation", both)
        }
        (Some(true), Some(true)) => say(
            "unclear",
            format!(
                "{both}, and there is no workgroup memory: what both keep binds, such as operations of subgroups, exponentials, integers, or waiting for single loads"
            ),
        ),
        (Some(true), Some(false)) => say("memory", both),
        (Some(false), Some(true)) => say("arithmetic", both),
        (Some(false), Some(false)) => say(
            "unclear",
            format!(
                "{both}: loads and arithmetic do not overlap, for want of occupancy or of loads under way"
            ),
        ),
        (None, Some(false)) if facts.math.is_some_and(|math| math <= LITTLE) => say("memory", both),
        (Some(true), None) if !facts.has_workgroup_memory => say("memory", both),
        (None, Some(true)) if !facts.has_workgroup_memory => say("arithmetic", both),
        _ => say("unclear", both),
    }
}

/// The case that shows what a launch costs.
fn empty() -> Result<Case> {
    Case::new(OpName::Empty, &Shape::default(), Dtype::F32)
}

/// The variant's times and facts, all in one process.
fn look(
    request: &Request,
    session: &mut Session<'_>,
    device: &Device,
    case: &Case,
    seed: u32,
    variant: &Variant,
) -> std::result::Result<Found, End> {
    let policy = policy(&request.runner, &session.timer, session.silence);
    let launch_s = launch(session, seed)?;
    session.case(case, seed, &Data::Uniform)?;
    let cold = session.what_if(variant, WhatIf::Cold)?;
    let whole = sight(session, case, seed, variant, &policy)?;
    let whole_s = whole.measurement.summary.median;
    let call_s = whole.measurement.host_s_median;
    let mut parts = Vec::new();
    // A runner that died of a what-if variant leaves what is known until then.
    let mut dead: Option<String> = None;
    for what_if in [WhatIf::MathOnly, WhatIf::LoadsOnly, WhatIf::StoresOnly] {
        if interrupted() {
            return Err(End::Interrupted);
        }
        let mut part = Part {
            what_if,
            time_s: None,
            share_of_whole: None,
            changed: None,
            left_out: None,
            reason: dead.clone(),
        };
        if dead.is_none() {
            match timed(session, variant, what_if, &policy) {
                Ok((time_s, ready)) => {
                    part.time_s = Some(time_s);
                    part.share_of_whole = Some(time_s / whole_s);
                    part.changed = ready.passes.last().cloned();
                    part.left_out = ready.left_out;
                }
                Err(Trouble::Fault(fault)) => {
                    part.reason = Some(fault.message.clone());
                    dead = Some(format!("the runner died before: {}", fault.message));
                }
                Err(Trouble::Refused(reason) | Trouble::Untrue(reason)) => {
                    part.reason = Some(reason);
                }
            }
        }
        parts.push(part);
    }
    let mut whole_again_s = None;
    if dead.is_none() {
        let again = sight(session, case, seed, variant, &policy)?;
        whole_again_s = Some(again.measurement.summary.median);
    }
    // The very last: it has the driver compile on a device of its own.
    let (mut inspection, mut inspection_reason) = (None, dead);
    if inspection_reason.is_none() {
        match session.inspect(variant) {
            Ok(Ok(found)) => inspection = Some(found),
            Ok(Err(reason)) => inspection_reason = Some(reason),
            Err(fault) => inspection_reason = Some(fault.message),
        }
    }
    let part = |wanted: WhatIf| parts.iter().find(|part| part.what_if == wanted);
    let share = |wanted: WhatIf| part(wanted)?.share_of_whole;
    let passes = inspection.iter().flat_map(|found| &found.passes);
    let counts = passes.map(|pass| pass.workgroup_count.iter().map(|&n| u64::from(n)).product());
    let facts = Facts {
        whole_s,
        again_s: whole_again_s,
        launch_s,
        math: share(WhatIf::MathOnly),
        loads: share(WhatIf::LoadsOnly),
        left_out: part(WhatIf::LoadsOnly).and_then(|part| part.left_out),
        stores: share(WhatIf::StoresOnly),
        has_workgroup_memory: inspection
            .as_ref()
            .is_none_or(|found| found.workgroup_bytes > 0),
        workgroup_count: counts.max().unwrap_or(u64::MAX),
        unit_count: request.unit_count,
        is_cpu: device.device_type == "cpu",
        spilled: inspection
            .as_ref()
            .and_then(|found| found.driver_statistics.as_deref())
            .map_or_else(Vec::new, spilled),
    };
    Ok(Found {
        whole_s,
        whole_again_s,
        verdict: verdict(&facts),
        what_ifs: parts,
        launch_s,
        compile_cold_s: cold.ok().map(|ready| ready.compile_s(call_s)),
        compile_s: whole.ready.compile_s(call_s),
        inspection,
        inspection_reason,
    })
}

/// Time of a launch of the empty kernel, verified like any other; `None` where it has none.
fn launch(session: &mut Session<'_>, seed: u32) -> std::result::Result<Option<f64>, End> {
    let case = empty().map_err(|error| End::Failed(error.message))?;
    let (variants, _) = session.case(&case, seed, &Data::Uniform)?;
    let Some(variant) = variants.first() else {
        return Ok(None);
    };
    let glance = Policy::glance(&session.timer, 12, 0.3, session.silence);
    let seen = sight(session, &case, seed, variant, &glance)?;
    Ok(Some(seen.measurement.summary.median))
}

/// Builds a what-if variant and times it.
fn timed(
    session: &mut Session<'_>,
    variant: &Variant,
    what_if: WhatIf,
    policy: &Policy,
) -> std::result::Result<(f64, Ready), Trouble> {
    let ready = session
        .what_if(variant, what_if)?
        .map_err(Trouble::Refused)?;
    let measurement = session.measure(policy)?;
    Ok((measurement.summary.median, ready))
}

/// Diagnoses all cases, each in a fresh process.
///
/// # Errors
/// When the runner cannot be opened or is not one whose kernels can be taken apart. What goes wrong
/// with a case is in the findings.
pub fn diagnose(request: &Request, watcher: &mut dyn Watcher) -> Result<Findings> {
    let started = Instant::now();
    let first = run::open(&request.runner, &request.reach)?.record;
    if first.runner.name != WGPU {
        return Err(Error::usage(format!(
            "--runner {}: its kernels are no shaders that could be taken apart; name {WGPU}, or the path of another build's worker",
            request.runner
        )));
    }
    watcher.say(&format!(
        "{} ({}): times of what-if variants are a diagnosis and no results",
        first.device.name, first.device.backend
    ));
    let ceilings = match &request.plan {
        Some(plan) => {
            interleave::size_up(plan, &request.runner, &request.reach, &first, request.seed)
        }
        None => Vec::new(),
    };
    let count = request.subjects.len();
    let mut cases = Vec::new();
    for (index, subject) in request.subjects.iter().enumerate() {
        let id = subject.case.id();
        watcher.begin(index, count, &id, &first.runner.name);
        let left_s = request
            .budget_s
            .map(|budget_s| budget_s - started.elapsed().as_secs_f64());
        let mut variant = subject.variant.clone();
        let found = match left_s {
            Some(left_s) if left_s <= 0.0 => Err(End::Skipped(format!(
                "the budget of {} s was used up",
                request.budget_s.unwrap_or_default()
            ))),
            _ => {
                #[allow(clippy::cast_precision_loss)] // a handful of cases
                let share_s = left_s.map(|left_s| left_s / (count - index) as f64);
                one(request, &first, &ceilings, subject, &mut variant, share_s)
            }
        };
        let diagnosis = Diagnosis {
            case_id: id.clone(),
            kernel: variant.as_ref().map(|variant| variant.kernel.clone()),
            variant: variant.map(|variant| variant.variant).unwrap_or_default(),
            fraction_of_ceiling: subject.fraction.as_ref().map(|(value, _)| *value),
            roofline_bound: subject.fraction.as_ref().map(|(_, name)| name.clone()),
            reason: found.as_ref().err().map(told),
            wrong: matches!(found, Err(End::Wrong(_))),
            found: found.ok(),
        };
        watcher.say(&format!(
            "[{}/{count}] {id}: {}",
            index + 1,
            diagnosis.news()
        ));
        cases.push(diagnosis);
    }
    Ok(Findings {
        kind: KIND,
        note: NOTE,
        version: env!("CARGO_PKG_VERSION"),
        clock: first.timer.clock.clone(),
        device: first.device,
        checks: request.reach.checks,
        unit_count: request.unit_count,
        cases,
    })
}

/// One case in a process of its own.
fn one(
    request: &Request,
    first: &RunnerRecord,
    ceilings: &[Ceiling],
    subject: &Subject,
    variant: &mut Option<Variant>,
    share_s: Option<f64>,
) -> std::result::Result<Found, End> {
    if interrupted() {
        return Err(End::Interrupted);
    }
    let case = &subject.case;
    let seed = run::case_seed(request.seed, case);
    let label = first.runner.name.as_str();
    let chosen = match variant.as_ref() {
        Some(variant) => variant.clone(),
        None => {
            let call_s_max = request.plan.as_ref().map_or(1.0, |plan| plan.call_s_max);
            if let Some(reason) = plan::too_slow(case, ceilings, label, call_s_max) {
                return Err(End::Skipped(reason));
            }
            let budget_s =
                share_s.map_or(SEARCH_S_MAX, |share_s| (share_s / 2.0).min(SEARCH_S_MAX));
            choose(
                &request.runner,
                &request.reach,
                first,
                case,
                run::scout(case, ceilings, label),
                seed,
                budget_s,
            )?
            .variant
        }
    };
    *variant = Some(chosen.clone());
    let mut opened =
        run::open(&request.runner, &request.reach).map_err(|error| End::Failed(error.message))?;
    with_session(&mut opened, request.reach.silence, |session| {
        look(request, session, &first.device, case, seed, &chosen)
    })
}

fn told(end: &End) -> String {
    match end {
        End::Skipped(reason)
        | End::Failed(reason)
        | End::Implausible(reason)
        | End::Wrong(reason) => reason.clone(),
        End::Fault(fault) => fault.message.clone(),
        End::Interrupted => "the diagnosis was interrupted".to_owned(),
    }
}

impl Diagnosis {
    /// One line about it.
    fn news(&self) -> String {
        match (&self.found, &self.reason) {
            (Some(found), _) => format!("bound by: {}", found.verdict.bound_by),
            (None, reason) => reason.clone().unwrap_or_default(),
        }
    }

    /// All of it for people.
    fn text(&self) -> String {
        let name = Variant {
            kernel: self.kernel.clone().unwrap_or_default(),
            variant: self.variant.clone(),
        };
        let mut text = format!("{}  {name}\n", self.case_id);
        if let (Some(fraction), Some(bound)) = (self.fraction_of_ceiling, &self.roofline_bound) {
            text.push_str(&format!(
                "in the report: {} of {bound}\n",
                display::digits(fraction)
            ));
        }
        match &self.found {
            None => text.push_str(&format!(
                "no diagnosis: {}\n",
                self.reason.as_deref().unwrap_or_default()
            )),
            Some(found) => text.push_str(&found.text()),
        }
        text
    }
}

impl Found {
    fn text(&self) -> String {
        let share = |time_s: f64| format!("{:.2}", time_s / self.whole_s);
        let row = |name: &str, time_s: Option<f64>, note: &str| {
            vec![
                name.to_owned(),
                time_s.map_or_else(|| "-".to_owned(), display::seconds),
                time_s.map_or_else(|| "-".to_owned(), share),
                note.to_owned(),
            ]
        };
        let mut rows = vec![row(
            "whole",
            Some(self.whole_s),
            "verified before and after",
        )];
        for part in &self.what_ifs {
            let note = part.changed.as_ref().or(part.reason.as_ref());
            let note = note.map_or("", String::as_str);
            rows.push(row(part.what_if.label(), part.time_s, note));
        }
        rows.push(row("launch", self.launch_s, "the empty kernel, verified"));
        rows.extend(
            self.whole_again_s
                .map(|again_s| row("whole again", Some(again_s), "verified before and after")),
        );
        let headings = ["diagnosis", "time", "of whole", "what it is"];
        let mut text = format!("{}\n", display::table(&headings, &rows));
        let cold = self.compile_cold_s.map_or_else(
            || "not known cold".to_owned(),
            |cold_s| format!("{} cold", display::seconds(cold_s)),
        );
        text.push_str(&format!(
            "compiled in: {cold}, {} as it is (a cache of the driver's may know it)\n",
            display::seconds(self.compile_s)
        ));
        match (&self.inspection, &self.inspection_reason) {
            (Some(inspection), _) => text.push_str(&facts(inspection)),
            (None, reason) => text.push_str(&format!(
                "what it takes of the device is not known: {}\n",
                reason.as_deref().unwrap_or_default()
            )),
        }
        text.push_str(&format!(
            "bound by: {}\n  {}\n",
            self.verdict.bound_by, self.verdict.because
        ));
        text
    }
}

/// What a variant takes of the device, for people.
fn facts(inspection: &Inspection) -> String {
    let by = |sizes: &[u32; 3]| {
        let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
        sizes.join(" x ")
    };
    let mut text = String::new();
    for pass in &inspection.passes {
        text.push_str(&format!(
            "pass {}: {} workgroups of {}, {:.0} % padding, {} registers a lane for arrays and vectors, {} expressions\n",
            pass.entry_point,
            by(&pass.workgroup_count),
            by(&pass.workgroup_size),
            100.0 * pass.padding,
            pass.register_count,
            pass.expression_count
        ));
    }
    let subgroup = inspection
        .subgroup_size_min
        .map_or_else(|| "not known".to_owned(), |size| size.to_string());
    text.push_str(&format!(
        "workgroup memory: {} bytes; smallest subgroup: {subgroup}\n",
        inspection.workgroup_bytes
    ));
    match (
        &inspection.driver_statistics,
        &inspection.driver_statistics_reason,
    ) {
        (Some(all), _) => {
            for one in all {
                let figures: Vec<String> = one
                    .statistics
                    .iter()
                    .map(|(name, value)| format!("{name} {}", display::digits(*value)))
                    .collect();
                text.push_str(&format!(
                    "driver on {}: {} (subgroup {}): {}\n",
                    one.entry_point,
                    one.name,
                    one.subgroup_size,
                    figures.join(", ")
                ));
            }
        }
        (None, reason) => text.push_str(&format!(
            "driver statistics: none: {}\n",
            reason.as_deref().unwrap_or_default()
        )),
    }
    text
}

impl Findings {
    /// All of it for people.
    #[must_use]
    pub fn text(&self) -> String {
        let cases: Vec<String> = self.cases.iter().map(Diagnosis::text).collect();
        format!(
            "{}\nDiagnosis, no results: what-if variants compute wrong numbers by design.\n",
            cases.join("\n")
        )
    }

    /// The exit code that the findings deserve.
    ///
    /// # Errors
    /// [`ErrorKind::WrongResults`] where a kernel's results were wrong, [`ErrorKind::Partial`] where
    /// not every case has a diagnosis.
    pub fn verdict(&self) -> Result<()> {
        let count = |wanted: &dyn Fn(&Diagnosis) -> bool| {
            self.cases.iter().filter(|case| wanted(case)).count()
        };
        let wrong = count(&|case| case.wrong);
        if wrong > 0 {
            return Err(Error::new(
                ErrorKind::WrongResults,
                format!("{wrong} cases had wrong results, so nothing of them was diagnosed"),
            ));
        }
        let without = count(&|case| case.found.is_none());
        if without > 0 {
            return Err(Error::new(
                ErrorKind::Partial,
                format!("{without} of {} cases have no diagnosis", self.cases.len()),
            ));
        }
        Ok(())
    }
}

/// Refuses a place for the findings that cannot be written, before anything is measured.
///
/// # Errors
/// A usage error that names the option and the file.
pub fn check_writable(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    if path.is_dir() {
        return Err(Error::usage(format!(
            "--output {}: it is a folder; name a file",
            path.display()
        )));
    }
    match folder {
        Some(folder) if !folder.is_dir() => Err(Error::usage(format!(
            "--output {}: there is no folder {}; make it first",
            path.display(),
            folder.display()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(math: Option<f64>, loads: Option<f64>) -> Facts {
        Facts {
            whole_s: 1e-3,
            again_s: Some(1.02e-3),
            launch_s: Some(5e-6),
            math,
            loads,
            left_out: loads.map(|_| 0.9),
            stores: Some(0.05),
            has_workgroup_memory: true,
            workgroup_count: 256,
            unit_count: None,
            is_cpu: false,
            spilled: Vec::new(),
        }
    }

    fn bound(facts: &Facts) -> &'static str {
        let verdict = verdict(facts);
        assert!(BOUNDS.contains(&verdict.bound_by));
        assert!(!verdict.because.is_empty());
        verdict.bound_by
    }

    #[test]
    fn what_still_takes_most_of_the_time_alone_is_what_binds() {
        let of = |math, loads| bound(&facts(Some(math), Some(loads)));
        assert_eq!(of(0.3, 0.95), "memory");
        assert_eq!(of(0.95, 0.3), "arithmetic");
        assert_eq!(of(0.9, 0.9), "workgroup memory or synchronisation");
        assert_eq!(of(0.6, 0.6), "unclear");
        let mut plain = facts(Some(0.9), Some(0.9));
        plain.has_workgroup_memory = false;
        assert_eq!(bound(&plain), "unclear");
        plain.loads = None;
        assert_eq!(bound(&plain), "arithmetic");
        assert_eq!(bound(&facts(None, None)), "unclear");
    }

    #[test]
    fn multiply_adds_that_could_not_be_left_out_are_not_taken_for_loads() {
        let mut facts = facts(Some(0.9), Some(0.95));
        facts.left_out = Some(0.1);
        assert_eq!(bound(&facts), "unclear");
        assert!(verdict(&facts).because.contains("0.1"));
        facts.has_workgroup_memory = false;
        assert_eq!(bound(&facts), "arithmetic");
        // Without traffic little is left, and each value is used once: as in a product with a vector.
        facts.math = Some(0.3);
        assert_eq!(bound(&facts), "memory");
        facts.math = Some(0.7);
        assert_eq!(bound(&facts), "unclear");
    }

    #[test]
    fn what_explains_a_kernel_from_outside_comes_before_its_parts() {
        let mut facts = facts(Some(0.3), Some(0.95));
        facts.stores = Some(0.9);
        assert_eq!(bound(&facts), "memory");
        facts.unit_count = Some(300);
        assert_eq!(bound(&facts), "too few workgroups");
        facts.spilled = vec![("Spill Count".to_owned(), 12.0)];
        assert_eq!(bound(&facts), "spills (driver)");
        facts.launch_s = Some(0.6e-3);
        assert_eq!(bound(&facts), "launch");
        facts.again_s = Some(1.5e-3);
        assert_eq!(bound(&facts), "unclear");
    }

    #[test]
    fn a_processor_is_not_blamed_for_few_workgroups_unless_its_units_are_known() {
        let mut facts = facts(Some(0.3), Some(0.95));
        facts.workgroup_count = 4;
        assert_eq!(bound(&facts), "too few workgroups");
        facts.is_cpu = true;
        assert_eq!(bound(&facts), "memory");
        facts.unit_count = Some(8);
        assert_eq!(bound(&facts), "too few workgroups");
    }
}
