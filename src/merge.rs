//! The shards of one run, joined into the report that one machine would have written.

use std::collections::{BTreeMap, BTreeSet};

use crate::chips::Chips;
use crate::datasheet::Datasheets;
use crate::error::{Error, Result};
use crate::hierarchy;
use crate::normalise;
use crate::report::{Outcome, OutcomeStatus, Report, Status, by_budget};

/// Which shares of how many a report holds: `1/3`, or `1,3/3` for some that were joined already.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    indices: BTreeSet<u32>,
    count: u32,
}

impl Share {
    fn of(text: &str) -> Option<Self> {
        let (indices, count) = text.split_once('/')?;
        let count: u32 = count.trim().parse().ok()?;
        let indices = indices
            .split(',')
            .map(|index| index.trim().parse().ok())
            .collect::<Option<BTreeSet<u32>>>()?;
        let within = indices.iter().all(|index| (1..=count).contains(index));
        within.then_some(Self { indices, count })
    }

    fn text(&self) -> String {
        let indices: Vec<String> = self.indices.iter().map(u32::to_string).collect();
        format!("{}/{}", indices.join(","), self.count)
    }

    fn is_whole(&self) -> bool {
        self.indices.len() == self.count as usize
    }
}

/// What has to be the same in all shards, by the names of the fields.
fn identity(report: &Report) -> Vec<(String, String)> {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let runners: BTreeSet<String> = report
        .runners
        .iter()
        .map(|record| format!("{} {}", record.runner.name, record.runner.version))
        .collect();
    let mut fields: Vec<(String, String)> = [
        ("suite.name", report.suite.name.clone()),
        ("suite.sha256", report.suite.sha256.clone()),
        ("device.name", report.device.name.clone()),
        ("device.backend", report.device.backend.clone()),
        ("device.driver", report.device.driver.clone()),
        ("device.pci_id", or_none(&report.device.pci_id)),
        ("tool.version", report.tool.version.clone()),
        ("tool.commit", or_none(&report.tool.commit)),
        (
            "runners",
            runners.into_iter().collect::<Vec<_>>().join(", "),
        ),
    ]
    .map(|(field, value)| (field.to_owned(), value))
    .into();
    // Each runner may have opened a device of its own, and `device` is that of the first alone.
    fields.extend(report.runners.iter().map(|record| {
        let device = &record.device;
        let field = format!("the device of runner {}", record.runner.name);
        let value = format!(
            "{} ({}, driver {}, pci_id {})",
            device.name,
            device.backend,
            device.driver,
            or_none(&device.pci_id)
        );
        (field, value)
    }));
    let checks = report.outcomes.iter().find_map(|o| o.labels.as_ref());
    if let Some(labels) = checks {
        fields.push(("labels.checks".to_owned(), labels.checks.clone()));
    }
    fields
}

/// Refuses two reports that are not of one run, naming the file and the field.
fn must_agree(first: &(String, Report), other: &(String, Report)) -> Result<()> {
    let ours: BTreeMap<String, String> = identity(&first.1).into_iter().collect();
    for (field, theirs) in identity(&other.1) {
        if let Some(ours) = ours.get(&field)
            && *ours != theirs
        {
            return Err(Error::usage(format!(
                "{}: {field} is {theirs:?}, but {} has {ours:?}; only shards of one run can be joined",
                other.0, first.0
            )));
        }
    }
    Ok(())
}

/// How much an outcome says; less is more.
fn rank(outcome: &Outcome) -> u32 {
    match outcome.status {
        OutcomeStatus::Measured => 0,
        OutcomeStatus::Implausible | OutcomeStatus::Failed => 1,
        OutcomeStatus::Skipped => 2,
    }
}

/// Joins shards, given with the names of their files. Of a case that several have, such as the
/// probes, a measured outcome is kept before others and then the one of the lowest shard; ceilings
/// and fractions are those of what was kept.
///
/// # Errors
/// A usage error that names file and field where a report is no shard, is of another run, or holds
/// a share that another one holds too.
pub fn merge(reports: Vec<(String, Report)>, command: String) -> Result<Report> {
    let mut shards: Vec<(Share, (String, Report))> = Vec::new();
    for (name, report) in reports {
        let text = report.suite.shard.as_deref().ok_or_else(|| {
            Error::usage(format!(
                "{name}: it has no suite.shard, so it is no part of a run"
            ))
        })?;
        let share = Share::of(text).ok_or_else(|| {
            Error::usage(format!(
                "{name}: suite.shard is {text:?}; it must be like 1/3"
            ))
        })?;
        for (other, (other_name, _)) in &shards {
            if other.count != share.count {
                return Err(Error::usage(format!(
                    "{name}: suite.shard is {text}, but {other_name} has {}",
                    other.text()
                )));
            }
            if let Some(twice) = other.indices.intersection(&share.indices).next() {
                return Err(Error::usage(format!(
                    "{name}: suite.shard {twice}/{} is in {other_name} too",
                    share.count
                )));
            }
        }
        shards.push((share, (name, report)));
    }
    shards.sort_by(|(a, _), (b, _)| a.indices.cmp(&b.indices));
    let mut shards = shards.into_iter();
    let Some((mut share, first)) = shards.next() else {
        return Err(Error::usage("there is no report to join"));
    };
    let mut merged = first.1.clone();
    for (other_share, other) in shards {
        must_agree(&first, &other)?;
        share.indices.extend(other_share.indices);
        absorb(&mut merged, other.1);
    }
    let labels: Vec<String> = merged
        .runners
        .iter()
        .map(|record| record.runner.name.clone())
        .collect();
    let memory = std::mem::take(&mut merged.memory);
    let stated = |label: &str| -> &[u64] {
        let known = memory.iter().find(|memory| memory.runner == label);
        known.map_or(&[], |memory| &memory.stated_bytes)
    };
    merged.ceilings = labels
        .iter()
        .flat_map(|label| {
            let cache = hierarchy::last_level_bytes(&merged.outcomes, label, stated(label));
            normalise::ceilings(&merged.outcomes, label, cache)
        })
        .collect();
    normalise::set_fractions(&mut merged.outcomes, &merged.ceilings);
    normalise::set_gaps(&mut merged.outcomes, &merged.runners);
    merged.memory = labels
        .iter()
        .filter_map(|label| hierarchy::hierarchy(&merged.outcomes, label, stated(label)))
        .collect();
    let datasheets = Datasheets::of_report(Chips::load(None)?, &merged);
    datasheets.apply(&mut merged.outcomes, &merged.runners, &merged.memory);
    let lost = |outcome: &Outcome| match outcome.status {
        OutcomeStatus::Measured => false,
        OutcomeStatus::Failed | OutcomeStatus::Implausible => true,
        OutcomeStatus::Skipped => outcome.reason.as_deref().is_some_and(by_budget),
    };
    if merged.status != Status::Interrupted {
        let whole = share.is_whole() && !merged.outcomes.iter().any(lost);
        merged.status = if whole {
            Status::Complete
        } else {
            Status::Partial
        };
    }
    merged.suite.shard = (!share.is_whole()).then(|| share.text());
    merged.tool.command = command;
    merged.seal()?;
    Ok(merged)
}

/// Takes over what `other` knows and `merged` does not.
fn absorb(merged: &mut Report, other: Report) {
    for outcome in other.outcomes {
        let place = merged
            .outcomes
            .iter()
            .position(|o| o.case_id == outcome.case_id && o.runner == outcome.runner);
        match place {
            // Shards come in ascending order, so that an equal one stays.
            Some(place) if rank(&outcome) < rank(&merged.outcomes[place]) => {
                merged.outcomes[place] = outcome;
            }
            Some(_) => {}
            None => merged.outcomes.push(outcome),
        }
    }
    for hierarchy in other.memory {
        if merged.memory.iter().all(|m| m.runner != hierarchy.runner) {
            merged.memory.push(hierarchy);
        }
    }
    merged.calibration = merged.calibration.take().or(other.calibration);
    merged.duration_s += other.duration_s;
    // RFC 3339 in UTC sorts as text.
    merged.started_at = merged.started_at.clone().min(other.started_at);
    if other.status == Status::Interrupted {
        merged.status = Status::Interrupted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Case, Dtype, OpName, Shape};
    use crate::protocol::{Device, RunnerInfo, Timer};
    use crate::report::{RunnerRecord, Times, empty, unmeasured};

    fn measured(op: OpName, sizes: &[(&str, u64)], time_s: f64) -> Outcome {
        let case = Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.time_s = Some(Times {
            median: time_s,
            ci95_low: time_s,
            ci95_high: time_s,
            min: time_s,
            max: time_s,
            ..Times::default()
        });
        normalise::set_rates(&mut outcome);
        outcome
    }

    fn probe(time_s: f64) -> Outcome {
        measured(OpName::Fma, &[("invocations", 64), ("steps", 1000)], time_s)
    }

    fn matmul(m: u64, time_s: f64) -> Outcome {
        measured(OpName::Matmul, &[("m", m), ("n", 8), ("k", 8)], time_s)
    }

    fn shard(text: &str, outcomes: Vec<Outcome>) -> (String, Report) {
        let mut report = empty();
        report.suite.shard = Some(text.to_owned());
        report.runners = vec![RunnerRecord {
            runner: RunnerInfo {
                name: "wgpu".to_owned(),
                version: "1".to_owned(),
            },
            device: Device::default(),
            timer: Timer {
                clock: "device".to_owned(),
                quantum_s: 1e-9,
                period_s: None,
                note: None,
            },
        }];
        report.outcomes = outcomes;
        (format!("{}.json", text.replace('/', "-")), report)
    }

    fn joined(shards: Vec<(String, Report)>) -> Result<Report> {
        merge(shards, "chipmark merge".to_owned())
    }

    #[test]
    fn all_shards_make_a_whole_report_with_the_ceilings_of_the_lowest() {
        let second = shard("2/2", vec![probe(2e-6), matmul(8, 1e-3)]);
        let mut first = shard("1/2", vec![probe(1e-6), matmul(4, 1e-3)]);
        first.1.started_at = "2026-01-02T00:00:00Z".to_owned();
        // In any order of files.
        let report = joined(vec![second, first]).unwrap();
        assert_eq!(report.status, Status::Complete);
        assert_eq!(report.suite.shard, None);
        assert_eq!(report.outcomes.len(), 3);
        assert_eq!(report.started_at, "2026-01-01T00:00:00Z");
        assert!((report.duration_s - 2.0).abs() < 1e-12);
        let work = f64::from(2 * 24 * 64 * 1000);
        assert!((report.ceilings[0].value / (work / 1e-6) - 1.0).abs() < 1e-12);
        let fraction = report.outcomes[2].fraction_of_ceiling.unwrap();
        let want = f64::from(2 * 8 * 8 * 8) / (work / 1e-6) / 1e-3;
        assert!((fraction / want - 1.0).abs() < 1e-9);
        assert_eq!(report.report_id, report.computed_id().unwrap());
    }

    #[test]
    fn a_missing_shard_leaves_a_partial_report_that_can_be_joined_further() {
        let some = joined(vec![
            shard("1/3", vec![matmul(1, 1.0)]),
            shard("3/3", vec![matmul(3, 1.0)]),
        ])
        .unwrap();
        assert_eq!(some.status, Status::Partial);
        assert_eq!(some.suite.shard.as_deref(), Some("1,3/3"));
        let whole = joined(vec![
            ("some.json".to_owned(), some),
            shard("2/3", vec![matmul(2, 1.0)]),
        ])
        .unwrap();
        assert_eq!((whole.status, whole.outcomes.len()), (Status::Complete, 3));
    }

    #[test]
    fn what_was_measured_is_kept_before_what_was_not() {
        let mut missed = matmul(4, 1.0);
        missed.status = OutcomeStatus::Skipped;
        missed.reason = Some(format!("{}, 3 s", crate::report::BUDGET_USED));
        let first = shard("1/2", vec![missed.clone()]);
        let report = joined(vec![first.clone(), shard("2/2", vec![matmul(4, 2.0)])]).unwrap();
        assert_eq!(report.outcomes[0].status, OutcomeStatus::Measured);
        assert_eq!(report.status, Status::Complete);
        let report = joined(vec![first, shard("2/2", vec![])]).unwrap();
        assert_eq!(report.status, Status::Partial);
    }

    #[test]
    fn an_interrupted_shard_makes_an_interrupted_report() {
        let mut second = shard("2/2", vec![]);
        second.1.status = Status::Interrupted;
        let report = joined(vec![shard("1/2", vec![matmul(1, 1.0)]), second]).unwrap();
        assert_eq!(report.status, Status::Interrupted);
    }

    type Change = fn(&mut Report);

    type ChangeDevice = fn(&mut Device);

    #[test]
    fn shards_agree_in_the_device_of_every_runner_and_not_only_of_the_first() {
        let with_host = |text: &str, change: ChangeDevice| {
            let (name, mut report) = shard(text, vec![]);
            let mut host = report.runners[0].clone();
            host.runner.name = "host".to_owned();
            host.device.name = "CPU A".to_owned();
            change(&mut host.device);
            report.runners.push(host);
            (name, report)
        };
        let table: [(ChangeDevice, &str); 4] = [
            (|d| d.name = "CPU B".to_owned(), "CPU B"),
            (|d| d.backend = "other".to_owned(), "other"),
            (|d| d.driver = "7".to_owned(), "driver 7"),
            (|d| d.pci_id = Some("10de:1".to_owned()), "10de:1"),
        ];
        for (change, theirs) in table {
            let shards = vec![with_host("1/2", |_| {}), with_host("2/2", change)];
            let message = joined(shards).unwrap_err().message;
            for needle in ["2-2.json", "runner host", theirs, "CPU A", "1-2.json"] {
                assert!(message.contains(needle), "{needle}: {message}");
            }
            assert_eq!(message.lines().count(), 1);
        }
        let same = vec![with_host("1/2", |_| {}), with_host("2/2", |_| {})];
        assert!(joined(same).is_ok());
    }

    #[test]
    fn what_is_no_part_of_one_run_is_refused_by_file_and_field() {
        let table: [(Change, &[&str]); 9] = [
            (
                |r| r.suite.sha256 = "other".to_owned(),
                &["suite.sha256", "other"],
            ),
            (
                |r| r.device.name = "Other".to_owned(),
                &["device.name", "Other"],
            ),
            (|r| r.device.driver = "7".to_owned(), &["device.driver"]),
            (|r| r.tool.version = "9".to_owned(), &["tool.version", "9"]),
            (
                |r| r.tool.commit = Some("abc".to_owned()),
                &["tool.commit", "abc", "none"],
            ),
            (
                |r| r.runners[0].runner.version = "2".to_owned(),
                &["runners", "wgpu 2"],
            ),
            (|r| r.suite.shard = None, &["suite.shard"]),
            (
                |r| r.suite.shard = Some("3/2".to_owned()),
                &["suite.shard", "3/2"],
            ),
            (
                |r| r.suite.shard = Some("1/2".to_owned()),
                &["1/2", "1-2.json too"],
            ),
        ];
        for (change, needles) in table {
            let mut other = shard("2/2", vec![matmul(2, 1.0)]);
            change(&mut other.1);
            let error = joined(vec![shard("1/2", vec![matmul(1, 1.0)]), other]).unwrap_err();
            for needle in ["2-2.json"].iter().chain(needles) {
                assert!(error.message.contains(needle), "{needle}: {error}");
            }
        }
        let counts = joined(vec![shard("1/2", vec![]), shard("2/3", vec![])]).unwrap_err();
        assert!(counts.message.contains("2/3") && counts.message.contains("1/2"));
        // The seed may differ, and so may the checks of a shard that measured nothing.
        let mut other = shard("2/2", vec![]);
        other.1.seed = 99;
        assert!(joined(vec![shard("1/2", vec![]), other]).is_ok());
    }
}
