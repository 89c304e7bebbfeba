//! What the pages show: a view a device, of its newest outcomes.

use std::collections::BTreeMap;

use crate::display;
use crate::op::OpName;
use crate::report::{Outcome, OutcomeStatus, Report, is_left_over};
use crate::store::{Platform, Store, Stored};

/// One device with the newest that is known of it.
pub(super) struct View {
    /// Names its page and its data: lower-case letters, digits and hyphens alone.
    pub(super) key: String,
    /// What people call it.
    pub(super) label: String,
    /// The newest report, with the newest outcome of every case and runner, the newest ceiling of each
    /// name and the newest walk through the memory of each runner, whichever report they are from.
    pub(super) report: Report,
    /// Of every outcome in `report`, its number in the store.
    pub(super) origins: Vec<usize>,
    /// The numbers of its reports in the store, newest first.
    pub(super) reports: Vec<usize>,
    /// The day of each of them.
    pub(super) days: BTreeMap<usize, String>,
}

/// The views of a store, by label.
pub(super) fn views(store: &Store) -> Vec<View> {
    let mut groups: BTreeMap<&Platform, Vec<usize>> = BTreeMap::new();
    for (number, stored) in store.reports.iter().enumerate() {
        groups.entry(&stored.platform).or_default().push(number);
    }
    let mut views: Vec<View> = groups
        .into_iter()
        .map(|(platform, numbers)| {
            let (key, label) = (platform.key.clone(), platform.label.clone());
            newest(key, label, &numbers, &store.reports)
        })
        .collect();
    views.sort_by(|a, b| (&a.label, &a.key).cmp(&(&b.label, &b.key)));
    views
}

fn newest(key: String, label: String, numbers: &[usize], reports: &[Stored]) -> View {
    let mut outcomes: Vec<(usize, &Outcome)> = Vec::new();
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut ceilings = BTreeMap::new();
    let mut memory = BTreeMap::new();
    let mut runners = BTreeMap::new();
    for &number in numbers {
        let report = &reports[number].report;
        for outcome in &report.outcomes {
            match places.get(&(outcome.runner.as_str(), outcome.case_id.as_str())) {
                None => {
                    places.insert((&outcome.runner, &outcome.case_id), outcomes.len());
                    outcomes.push((number, outcome));
                }
                Some(&place) => {
                    // That a later run had no time for a case is no news of it.
                    let left_out = outcome.reason.as_deref().is_some_and(is_left_over);
                    if !(left_out && outcomes[place].1.status == OutcomeStatus::Measured) {
                        outcomes[place] = (number, outcome);
                    }
                }
            }
        }
        for ceiling in &report.ceilings {
            ceilings.insert((&ceiling.runner, &ceiling.name), ceiling);
        }
        for walk in &report.memory {
            if !(walk.latency.is_empty() && walk.bandwidth.is_empty()) {
                memory.insert(&walk.runner, walk);
            }
        }
        for record in &report.runners {
            runners.insert(&record.runner.name, record);
        }
    }
    outcomes.sort_by(|(_, a), (_, b)| {
        (rank(a.op), a.dtype, work(a), &a.case_id, &a.runner).cmp(&(
            rank(b.op),
            b.dtype,
            work(b),
            &b.case_id,
            &b.runner,
        ))
    });
    let last = numbers.last().copied().unwrap_or_default();
    let origins = outcomes.iter().map(|(number, _)| *number).collect();
    let report = Report {
        outcomes: outcomes
            .into_iter()
            .map(|(_, outcome)| outcome.clone())
            .collect(),
        ceilings: ceilings.into_values().cloned().collect(),
        memory: memory.into_values().cloned().collect(),
        runners: runners.into_values().cloned().collect(),
        ..reports[last].report.clone()
    };
    View {
        key,
        label,
        report,
        origins,
        reports: numbers.iter().rev().copied().collect(),
        days: numbers
            .iter()
            .map(|&number| (number, day_of(&reports[number].report)))
            .collect(),
    }
}

/// What people came for stands first, the probes of the device behind it.
pub(super) fn rank(op: OpName) -> (bool, OpName) {
    (!matches!(op, OpName::Matmul | OpName::Attention), op)
}

/// Small cases before large ones.
fn work(outcome: &Outcome) -> u64 {
    outcome.flop_count.max(outcome.bytes_min)
}

/// What the cases of an op are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measure {
    /// `FLOP/s`, `OP/s`, `B/s` or `s`.
    pub(super) unit: &'static str,
    /// Whether more of it is better.
    pub(super) more: bool,
}

/// The figure that speaks for a measured outcome: its rate, or its time where it has none.
pub(super) fn figure(outcome: &Outcome) -> Option<(f64, Measure)> {
    let times = outcome.time_s.as_ref()?;
    if outcome.status != OutcomeStatus::Measured {
        return None;
    }
    let rated = match outcome.op {
        OpName::Empty | OpName::Chase => None,
        _ if outcome.flop_count > 0 => outcome.flops_per_second.map(|rate| (rate, "FLOP/s")),
        _ => outcome.bytes_per_second.map(|rate| (rate, "B/s")),
    };
    Some(match rated {
        Some((rate, unit)) => (rate, Measure { unit, more: true }),
        None if outcome.op == OpName::Chase => {
            // A walk of so many steps: what it is known for is one of them.
            #[allow(clippy::cast_precision_loss)]
            let steps = outcome.shape.get("steps").max(1) as f64;
            (
                times.median / steps,
                Measure {
                    unit: "s",
                    more: false,
                },
            )
        }
        None => (
            times.median,
            Measure {
                unit: "s",
                more: false,
            },
        ),
    })
}

/// A figure with its unit.
pub(super) fn number(value: f64, unit: &str) -> String {
    format!("{}{unit}", display::si(value))
}

/// A fraction in per cent.
pub(super) fn share(value: f64) -> String {
    format!("{} %", display::digits(value * 100.0))
}

/// The day of the report that an outcome of a view is from.
pub(super) fn day(view: &View, index: usize) -> String {
    view.days
        .get(&view.origins[index])
        .cloned()
        .unwrap_or_default()
}

/// The day of a report in UTC.
pub(super) fn day_of(report: &Report) -> String {
    report
        .started_at
        .parse::<jiff::Timestamp>()
        .map_or_else(|_| "?".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

/// Text that can stand in the state of an address: all but letters, digits and `-_./` as `%XX`.
pub(super) fn fragment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
