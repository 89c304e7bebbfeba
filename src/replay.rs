//! `chipmark replay`: the cases of a report once more, here and now, and whether they come out as it
//! says.
//!
//! The same cases, inputs and variants go through the very run that makes any report, and the verdict
//! is the one of any comparison. What is new is only what goes in and what is warned of.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::compare::{Comparison, Verdict};
use crate::datasheet::Datasheets;
use crate::display;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::gpu::{self, BACKENDS};
use crate::op::Case;
use crate::plan::{self, Plan};
use crate::protocol::Variant;
use crate::report::{Calibration, Outcome, OutcomeStatus, Report, slug};
use crate::run::{Options, Reach};
use crate::runner::NATIVE;

/// The runner whose devices this program can list.
const WGPU: &str = "wgpu";

/// What the user wants of a replay besides the report.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Only these runners, as for a run; those of the report if empty.
    pub runners: Vec<String>,
    /// Only cases whose id this finds, and the probes that bound them.
    pub filter: Option<String>,
    /// Device and API; those of the report if neither is named.
    pub reach: Reach,
    /// Seconds for all of it.
    pub budget_s: Option<f64>,
    /// Fresh processes for each case.
    pub process_count: u32,
    /// The command line, for the report.
    pub command: String,
    /// What differences this machine can tell.
    pub calibration: Option<Calibration>,
    /// What to measure figures against.
    pub datasheets: Datasheets,
}

/// What is to be run, and what it will be held against.
pub struct Replay {
    /// The run.
    pub options: Options,
    /// The report without what is not replayed.
    pub original: Report,
    /// Probes that only run along: what the user did not ask for does not decide.
    pub left_out: BTreeSet<String>,
}

/// Turns a report, known by `name`, into a run of the same cases.
///
/// # Errors
/// A usage error where nothing is left to run, [`ErrorKind::NoDevice`] where the report's device is
/// not here and no other is named.
pub fn replay(name: &str, report: &Report, wish: Wish) -> Result<Replay> {
    let mut original = report.clone();
    let measured: BTreeSet<&str> = report
        .with_status(OutcomeStatus::Measured)
        .map(|outcome| outcome.runner.as_str())
        .collect();
    // A runner by path or command calls itself something that only it knows.
    let named: BTreeSet<&str> = wish.runners.iter().map(String::as_str).collect();
    let chosen: BTreeSet<&str> = match named.is_subset(&measured) && !named.is_empty() {
        true => named,
        false => measured.clone(),
    };
    let in_order = report.runners.iter().map(|record| &record.runner.name);
    let runners = if wish.runners.is_empty() {
        let there = in_order.filter(|runner| measured.contains(runner.as_str()));
        there.cloned().collect()
    } else {
        wish.runners.clone()
    };
    original.outcomes.retain(|outcome| {
        outcome.status == OutcomeStatus::Measured && chosen.contains(outcome.runner.as_str())
    });
    let (plan, left_out) = plan_of(name, &original, wish.filter.as_deref())?;
    let ids: BTreeSet<String> = plan.cases.iter().map(Case::id).collect();
    original
        .outcomes
        .retain(|outcome| ids.contains(&outcome.case_id));
    let pinned: BTreeMap<(String, String), Variant> = original
        .outcomes
        .iter()
        .filter_map(|outcome| {
            let place = (outcome.runner.clone(), outcome.case_id.clone());
            Some((place, variant(outcome)?))
        })
        .collect();
    let reach = reach(name, report, &runners, wish.reach)?;
    Ok(Replay {
        options: Options {
            plan,
            runners,
            reach,
            seed: report.seed,
            seed_is_fixed: true,
            budget_s: wish.budget_s,
            process_count: wish.process_count,
            journal: None,
            resume: false,
            command: wish.command,
            calibration: wish.calibration,
            // What one report chose is not what a search would find, and is not kept as such.
            cache: None,
            recall: false,
            pinned,
            datasheets: wish.datasheets,
        },
        original,
        left_out,
    })
}

fn variant(outcome: &Outcome) -> Option<Variant> {
    Some(Variant {
        kernel: outcome.kernel.clone()?,
        variant: outcome.variant.clone(),
    })
}

/// The measured cases of a report, with the times that its suite gives them. A suite of the user's is
/// not in its report; the times are then those of `quick`. Besides, the probes that the filter did
/// not ask for.
fn plan_of(
    name: &str,
    original: &Report,
    filter: Option<&str>,
) -> Result<(Plan, BTreeSet<String>)> {
    let mut cases: Vec<Case> = Vec::new();
    for outcome in &original.outcomes {
        let case = Case::new(outcome.op, &outcome.shape, outcome.dtype)
            .map_err(|error| Error::usage(format!("{name}: {}: {error}", outcome.case_id)))?;
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    if cases.is_empty() {
        return Err(Error::usage(format!(
            "{name}: it has no measured case to replay"
        )));
    }
    let mut left_out = BTreeSet::new();
    if let Some(pattern) = filter {
        let refuse = |what: String| Error::usage(format!("--filter {pattern}: {what}"));
        let filter = Regex::new(pattern).map_err(|error| refuse(one_line(&error.to_string())))?;
        if !plan::narrow_to(&mut cases, &filter) {
            return Err(refuse(format!("no measured case of {name} matches")));
        }
        let ids = cases.iter().map(Case::id);
        left_out.extend(ids.filter(|id| !filter.is_match(id)));
    }
    cases.sort_by_key(|case| !case.op.is_probe());
    let suite = &original.suite;
    let known = plan::suite_names().contains(&suite.name.as_str());
    let times = plan::plan(if known { &suite.name } else { "quick" }, None)?;
    let plan = Plan {
        suite: suite.name.clone(),
        suite_sha256: suite.sha256.clone(),
        cases,
        regimes: if known { times.regimes } else { Vec::new() },
        ..times
    };
    Ok((plan, left_out))
}

/// Where to find the device of the report, unless the user names one.
///
/// # Errors
/// [`ErrorKind::NoDevice`] where the report's device is not here and no other is named.
pub fn reach(name: &str, report: &Report, runners: &[String], wish: Reach) -> Result<Reach> {
    let chosen = wish.device.is_some() || wish.backend.is_some();
    let record = report
        .runners
        .iter()
        .find(|record| record.runner.name == WGPU);
    let (false, true, Some(record)) = (chosen, runners.iter().any(|r| r == WGPU), record) else {
        return Ok(wish);
    };
    let device = &record.device;
    let backend = BACKENDS
        .contains(&device.backend.as_str())
        .then(|| device.backend.clone());
    let place = gpu::enumerate(backend.as_deref())
        .iter()
        .position(|candidate| slug(&candidate.device.name) == slug(&device.name));
    let Some(place) = place else {
        return Err(Error::new(
            ErrorKind::NoDevice,
            format!(
                "{name} is of {} ({}), which is not here; --device names another to replay it on, and `chipmark devices` shows what there is",
                device.name, device.backend
            ),
        ));
    };
    // Programs of others know devices by other numbers.
    if runners
        .iter()
        .any(|runner| !NATIVE.contains(&runner.as_str()))
    {
        return Ok(wish);
    }
    Ok(Reach {
        device: Some(place.to_string()),
        backend,
        ..wish
    })
}

/// What is not as it was, one line each: it may explain what the times do not.
#[must_use]
pub fn differences(original: &Report, replayed: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut differ = |what: &str, one: &str, other: &str| {
        if one != other {
            lines.push(format!(
                "{what} is {other:?} and was {one:?} in the original"
            ));
        }
    };
    let commit = |report: &Report| report.tool.commit.clone().unwrap_or_default();
    differ(
        "the version of chipmark",
        &original.tool.version,
        &replayed.tool.version,
    );
    differ(
        "the commit of chipmark",
        &commit(original),
        &commit(replayed),
    );
    differ("the processor", &original.host.cpu, &replayed.host.cpu);
    differ(
        "the system's kernel",
        &original.host.kernel,
        &replayed.host.kernel,
    );
    for record in &replayed.runners {
        let mut records = original.runners.iter();
        let name = &record.runner.name;
        let Some(was) = records.find(|was| was.runner.name == *name) else {
            continue;
        };
        let of = |what: &str| format!("the {what} of runner {name}");
        differ(&of("version"), &was.runner.version, &record.runner.version);
        differ(&of("device"), &was.device.name, &record.device.name);
        differ(&of("API"), &was.device.backend, &record.device.backend);
        differ(&of("driver"), &was.device.driver, &record.device.driver);
    }
    let mut others = Vec::new();
    let mut sources = Vec::new();
    for (was, outcome) in pairs(original, replayed) {
        if outcome.status != OutcomeStatus::Measured {
            continue;
        }
        match (variant(was), variant(outcome)) {
            (Some(one), Some(other)) if one != other => others.push(format!(
                "{} ({}): {other} instead of {one}",
                outcome.case_id, outcome.runner
            )),
            _ if was.shader_sha256 != outcome.shader_sha256 => {
                sources.push(outcome.case_id.clone());
            }
            _ => {}
        }
    }
    for (what, list) in [
        (
            "another variant was measured, for the original's does not work here",
            others,
        ),
        ("the kernel's source is another text", sources),
    ] {
        if let Some(first) = list.first() {
            let more = match list.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            lines.push(format!("{what}: {first}{more}"));
        }
    }
    lines
}

/// The outcomes of both reports that belong together.
fn pairs<'a>(
    original: &'a Report,
    replayed: &'a Report,
) -> impl Iterator<Item = (&'a Outcome, &'a Outcome)> {
    original.outcomes.iter().filter_map(|was| {
        let mut outcomes = replayed.outcomes.iter();
        let found = outcomes.find(|o| o.case_id == was.case_id && o.runner == was.runner);
        Some((was, found?))
    })
}

/// What a replay shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Every case came out as it was.
    Agrees,
    /// Some case is confirmed slower or faster.
    Differs,
    /// Neither: some case cannot be told, or could not be measured.
    Unclear,
}

/// Whether the original's cases came out again, and one line that says so.
#[must_use]
pub fn agreement(comparison: &Comparison) -> (Agreement, String) {
    let with = |wanted: &[Verdict]| -> Vec<String> {
        let cases = comparison.cases.iter();
        let cases = cases.filter(|case| wanted.contains(&case.verdict));
        cases
            .map(|case| match (case.ratio, &case.reason) {
                (Some(ratio), None) => format!(
                    "{} takes {} % of the time it took",
                    case.case_id,
                    display::digits(100.0 / ratio)
                ),
                (_, reason) => format!(
                    "{}: {}",
                    case.case_id,
                    reason.as_deref().unwrap_or("no reason is known")
                ),
            })
            .collect()
    };
    let shown = |list: &[String]| match list {
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one}; and {} more", rest.len()),
        [] => String::new(),
    };
    let count = comparison.case_count;
    let differing = with(&[Verdict::Faster, Verdict::Slower]);
    if !differing.is_empty() {
        let verdicts = comparison.verdicts;
        return (
            Agreement::Differs,
            format!(
                "the replay differs: of {count} cases {} faster, {} slower: {}",
                verdicts.faster,
                verdicts.slower,
                shown(&differing)
            ),
        );
    }
    let open = with(&[Verdict::Ambiguous, Verdict::NotComparable]);
    if !open.is_empty() || comparison.common_case_count == 0 {
        return (
            Agreement::Unclear,
            format!(
                "cannot tell: no case of {count} differs, but {} cannot be told: {}",
                open.len(),
                shown(&open)
            ),
        );
    }
    (
        Agreement::Agrees,
        format!("the replay agrees: each of {count} cases takes the time it took"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Terms, compare};
    use crate::op::{Dtype, OpName, Shape};
    use crate::protocol::{Device, RunnerInfo, Timer};
    use crate::report::{Labels, RunnerRecord, Times, empty, unmeasured};
    use std::time::Duration;

    fn outcome(runner: &str, op: OpName, sizes: &[(&str, u64)]) -> Outcome {
        let case = Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap();
        let mut outcome = unmeasured(&case, runner, OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.kernel = Some(format!("{op}/kernel"));
        outcome.variant.insert("TILE".to_owned(), 8);
        outcome
    }

    fn record(name: &str) -> RunnerRecord {
        RunnerRecord {
            runner: RunnerInfo {
                name: name.to_owned(),
                version: "1".to_owned(),
            },
            device: Device {
                name: "A chip".to_owned(),
                driver: "1".to_owned(),
                ..Device::default()
            },
            timer: Timer {
                clock: "host".to_owned(),
                quantum_s: 1e-9,
                period_s: None,
                note: None,
            },
        }
    }

    /// Two runners, two products, one of which only the host measured, and two probes.
    fn report() -> Report {
        let mut report = empty();
        report.runners = vec![record("host"), record("torch")];
        let product =
            |runner: &str, m: u64| outcome(runner, OpName::Matmul, &[("m", m), ("n", 8), ("k", 8)]);
        let mut skipped = product("torch", 2);
        skipped.status = OutcomeStatus::Skipped;
        skipped.reason = Some("too large".to_owned());
        report.outcomes = vec![
            product("host", 1),
            product("torch", 1),
            product("host", 2),
            skipped,
            outcome("host", OpName::Fma, &[("invocations", 8), ("steps", 8)]),
            outcome("host", OpName::Upload, &[("n", 8)]),
        ];
        report
    }

    fn wish(runners: &[&str], filter: Option<&str>) -> Wish {
        Wish {
            runners: runners.iter().map(|&runner| runner.to_owned()).collect(),
            filter: filter.map(str::to_owned),
            reach: Reach {
                device: None,
                backend: None,
                checks: false,
                in_process: false,
                silence: Duration::from_secs(1),
            },
            budget_s: None,
            process_count: 1,
            command: String::new(),
            calibration: None,
            datasheets: Datasheets::default(),
        }
    }

    fn ids(replay: &Replay) -> Vec<String> {
        replay.options.plan.cases.iter().map(Case::id).collect()
    }

    #[test]
    fn what_was_measured_is_run_again_on_the_same_inputs_and_variants_probes_first() {
        let found = replay("r", &report(), wish(&[], None)).unwrap();
        assert_eq!(
            ids(&found),
            [
                "fma/i8_s8/f32",
                "upload/n8/f32",
                "matmul/m1_n8_k8/f32",
                "matmul/m2_n8_k8/f32"
            ]
        );
        assert_eq!(found.options.runners, ["host", "torch"]);
        assert_eq!(found.options.seed, 1);
        assert_eq!(found.original.outcomes.len(), 5);
        let place = ("torch".to_owned(), "matmul/m1_n8_k8/f32".to_owned());
        assert_eq!(found.options.pinned[&place].variant["TILE"], 8);
        assert_eq!(found.options.plan.suite, "tiny");
        assert_eq!(found.options.plan.regimes, []);
    }

    #[test]
    fn one_runner_or_a_filter_leaves_less_to_run_and_to_compare() {
        let found = replay("r", &report(), wish(&["torch"], None)).unwrap();
        assert_eq!(ids(&found), ["matmul/m1_n8_k8/f32"]);
        assert_eq!(found.original.outcomes.len(), 1);
        // A path may be any of the runners.
        let found = replay("r", &report(), wish(&["./mine"], None)).unwrap();
        assert_eq!(found.original.outcomes.len(), 5);
        let found = replay("r", &report(), wish(&[], Some("m2_"))).unwrap();
        assert_eq!(ids(&found), ["fma/i8_s8/f32", "matmul/m2_n8_k8/f32"]);
        assert_eq!(found.left_out, BTreeSet::from(["fma/i8_s8/f32".to_owned()]));
        for (pattern, needle) in [("conv", "no measured case of r"), ("(", "unclosed")] {
            let refused = replay("r", &report(), wish(&[], Some(pattern)));
            let message = refused.err().unwrap().message;
            assert!(message.contains(needle), "{message}");
        }
        let mut nothing = report();
        nothing.outcomes.clear();
        let refused = replay("r", &nothing, wish(&[], None)).err().unwrap();
        assert!(refused.message.contains("no measured case to replay"));
    }

    #[test]
    fn what_is_not_as_it_was_is_told_once() {
        let original = report();
        assert_eq!(differences(&original, &original), [""; 0]);
        let mut replayed = original.clone();
        replayed.tool.commit = Some("abc".to_owned());
        replayed.runners[1].device.driver = "2".to_owned();
        replayed.outcomes[0].variant.insert("TILE".to_owned(), 16);
        replayed.outcomes[1].shader_sha256 = Some("1".to_owned());
        replayed.outcomes[2].shader_sha256 = Some("1".to_owned());
        let lines = differences(&original, &replayed);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].contains("commit of chipmark is \"abc\""));
        assert!(lines[1].contains("driver of runner torch is \"2\" and was \"1\""));
        assert!(lines[2].contains("matmul/m1_n8_k8/f32 (host)"));
        assert!(lines[3].ends_with("matmul/m1_n8_k8/f32 and 1 more"));
    }

    #[test]
    fn a_replay_agrees_only_where_every_case_does() {
        let timed = |factors: &[f64]| {
            let mut report = empty();
            for (m, factor) in (1..).zip(factors) {
                let mut outcome = outcome("host", OpName::Matmul, &[("m", m), ("n", 8), ("k", 8)]);
                outcome.labels = Some(Labels {
                    engine: "alu".to_owned(),
                    timer: "host".to_owned(),
                    cache: "hot".to_owned(),
                    data: "uniform".to_owned(),
                    checks: "off".to_owned(),
                    output: None,
                });
                let medians = [1.0, 1.001, 0.999, 1.0005, 0.9995, 1.0];
                outcome.time_s = Some(Times {
                    median: *factor,
                    ci95_low: *factor,
                    ci95_high: *factor,
                    process_medians: medians.iter().map(|m| m * factor).collect(),
                    ..Times::default()
                });
                report.outcomes.push(outcome);
            }
            report
        };
        let verdict = |factors: &[f64]| {
            let reports = [
                ("a".to_owned(), timed(&[1.0, 1.0])),
                ("b".to_owned(), timed(factors)),
            ];
            agreement(&compare(&reports, &Terms::default()))
        };
        assert_eq!(verdict(&[1.0, 1.0]).0, Agreement::Agrees);
        for factor in [0.5, 2.0] {
            let (found, line) = verdict(&[1.0, factor]);
            assert_eq!(found, Agreement::Differs);
            assert!(line.contains("matmul/m2_n8_k8/f32 takes"), "{line}");
        }
        assert_eq!(verdict(&[1.0, 1.01]).0, Agreement::Unclear);
        let (found, line) = verdict(&[1.0]);
        assert_eq!(found, Agreement::Unclear);
        assert!(line.contains("only in the baseline"), "{line}");
        assert_eq!(verdict(&[]).0, Agreement::Unclear);
    }
}
