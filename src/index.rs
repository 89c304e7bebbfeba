//! `chipmark index`: what a folder of published reports holds, as a page, and its headline as a table.
//!
//! A report is current if no better one of the same platform, driver and suite that has all it has is
//! in the folder: a complete one goes before one that is not, then the newest counts. Nothing is taken
//! out of the folder for being old.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::display;
use crate::normalise::{ALU_F32, MATRIX_F16, MEMORY_COPY, portable};
use crate::op::{Dtype, OpName};
use crate::report::{Outcome, OutcomeStatus, Report, RunnerRecord, Status};
use crate::screen;
use crate::store::{Store, Stored};

/// The reports of a folder, and which of them are current.
#[derive(Debug)]
pub struct Index<'a> {
    store: &'a Store,
    /// What stands before each place in a link.
    prefix: String,
    /// The current ones, by platform, driver, suite and age.
    current: Vec<&'a Stored>,
}

fn rank(stored: &Stored) -> (u8, Option<jiff::Timestamp>, &str) {
    let status = match stored.report.status {
        Status::Interrupted => 0,
        Status::Partial => 1,
        Status::Complete => 2,
    };
    let started_at = stored.report.started_at.parse().ok();
    (status, started_at, &stored.place)
}

/// What two reports must share for one to replace the other, or for their figures to stand together.
fn kind(stored: &Stored) -> (&str, &str) {
    (&stored.platform.key, &stored.report.device.driver)
}

/// Whether nothing is missed where `new` is read and `old` is not: it is of the same kind and suite and
/// has the same runners, with all cases that `old` has a number of. Of another text of the suite, whose
/// cases may have other names, it is their count that matters. So a run of a few cases or of fewer
/// runners puts nothing out of sight.
fn stands_for(new: &Stored, old: &Stored) -> bool {
    let alike = kind(new) == kind(old) && new.report.suite.name == old.report.suite.name;
    let (new, old) = (&new.report, &old.report);
    let names = |report: &Report| -> BTreeSet<String> {
        let records = report.runners.iter();
        records.map(|record| record.runner.name.clone()).collect()
    };
    let has_cases = || {
        if new.suite.sha256 != old.suite.sha256 {
            return new.outcomes.len() >= old.outcomes.len();
        }
        let place = |outcome: &Outcome| (outcome.runner.clone(), outcome.case_id.clone());
        let all: BTreeSet<_> = new.outcomes.iter().map(place).collect();
        old.with_status(OutcomeStatus::Measured)
            .all(|outcome| all.contains(&place(outcome)))
    };
    alike && names(old).is_subset(&names(new)) && has_cases()
}

/// A row of a Markdown table is one line.
fn cell(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn date(report: &Report) -> &str {
    report.started_at.get(..10).unwrap_or(&report.started_at)
}

fn commit(report: &Report) -> String {
    let commit = report.tool.commit.as_deref().unwrap_or("unknown");
    // The mark of a tree with changes is kept.
    let short: String = commit.chars().take(7).collect();
    match commit.split_once('-') {
        Some((_, mark)) => format!("{short}-{mark}"),
        None => short,
    }
}

fn runners(report: &Report) -> String {
    let names: Vec<&str> = report
        .runners
        .iter()
        .map(|record| record.runner.name.as_str())
        .collect();
    names.join(", ")
}

fn status(report: &Report) -> String {
    let measured = report.with_status(OutcomeStatus::Measured).count();
    let word = match report.status {
        Status::Complete => "complete",
        Status::Partial => "partial",
        Status::Interrupted => "interrupted",
    };
    format!("{word}, {measured} of {}", report.outcomes.len())
}

impl<'a> Index<'a> {
    /// The index of a folder; links to its reports begin with `prefix`.
    #[must_use]
    pub fn of(store: &'a Store, prefix: &str) -> Self {
        let replaced = |old: &Stored| {
            let mut reports = store.reports.iter();
            reports.any(|new| rank(new) > rank(old) && stands_for(new, old))
        };
        let mut current: Vec<&Stored> = store.reports.iter().filter(|one| !replaced(one)).collect();
        current.sort_by_key(|stored| (kind(stored), &stored.report.suite.name, rank(stored)));
        Self {
            store,
            prefix: prefix.to_owned(),
            current,
        }
    }

    fn is_current(&self, stored: &Stored) -> bool {
        self.current.iter().any(|one| one.place == stored.place)
    }

    fn link(&self, stored: &Stored) -> String {
        format!("[{0}]({1}{0})", stored.place, self.prefix)
    }

    fn row(&self, stored: &Stored) -> Vec<String> {
        let report = &stored.report;
        [
            &stored.platform.label,
            &report.device.driver,
            &report.suite.name,
            &runners(report),
            date(report),
            &commit(report),
            &status(report),
            &self.link(stored),
        ]
        .map(cell)
        .to_vec()
    }

    /// The page: current reports, those that newer ones replaced, and files that are no good report.
    #[must_use]
    pub fn page(&self) -> String {
        let headings = [
            "device",
            "driver",
            "suite",
            "runners",
            "date",
            "commit",
            "cases measured",
            "report",
        ];
        let (current, replaced): (Vec<&Stored>, Vec<&Stored>) = self
            .store
            .reports
            .iter()
            .rev()
            .partition(|stored| self.is_current(stored));
        let table = |stored: &[&Stored]| {
            let rows: Vec<Vec<String>> = stored.iter().map(|stored| self.row(stored)).collect();
            display::markdown_table(&headings, &rows)
        };
        let mut text = format!(
            "## Current\n\nNo newer complete report of the same device, driver and suite has all that one of these has.\n\n{}",
            table(&current)
        );
        if !replaced.is_empty() {
            let _ = write!(
                text,
                "\n## Replaced\n\nKept as they were written: what was published stays published.\n\n{}",
                table(&replaced)
            );
        }
        if !self.store.rejected.is_empty() {
            let rows: Vec<Vec<String>> = self
                .store
                .rejected
                .iter()
                .map(|rejected| vec![cell(&rejected.place), cell(&rejected.reason)])
                .collect();
            let _ = write!(
                text,
                "\n## Not believed\n\n{}",
                display::markdown_table(&["file", "why"], &rows)
            );
        }
        text
    }

    /// The best figures of each device and runner in its current reports, a row each.
    #[must_use]
    pub fn headline(&self) -> String {
        let mut kinds: BTreeMap<_, Vec<&Stored>> = BTreeMap::new();
        for stored in self.current.iter().copied() {
            kinds.entry(kind(stored)).or_default().push(stored);
        }
        let rows: Vec<Vec<String>> = kinds
            .into_values()
            .flat_map(|of_kind| self.rows_of(&of_kind))
            .collect();
        display::markdown_table(
            &[
                "device",
                "driver",
                "runner",
                "f32 arithmetic",
                "f16 matrix units",
                "copy",
                "matmul f32",
                "matmul f16",
                "attention",
                "decode, of a copy",
                "date, commit",
                "report",
            ],
            &rows,
        )
    }

    /// The rows of one platform and driver: of each runner, the report of its that has the most to show.
    fn rows_of(&self, reports: &[&Stored]) -> Vec<Vec<String>> {
        let mut best: BTreeMap<(bool, &str), (usize, &Stored, &RunnerRecord)> = BTreeMap::new();
        for stored in reports.iter().copied() {
            for record in &stored.report.runners {
                let count = cases_of(&stored.report, record)
                    .filter(|outcome| !outcome.op.is_probe())
                    .count();
                // Portable kernels first: they are what is compared from chip to chip.
                let place = best
                    .entry((!portable(record), &record.runner.name))
                    .or_insert((count, stored, record));
                if count > place.0 {
                    *place = (count, stored, record);
                }
            }
        }
        best.into_values()
            .filter(|(count, ..)| *count > 0)
            .map(|(_, stored, record)| self.headline_row(stored, record))
            .collect()
    }

    fn headline_row(&self, stored: &Stored, record: &RunnerRecord) -> Vec<String> {
        let report = &stored.report;
        let ceiling = |name: &str, unit: &str| {
            report
                .ceilings
                .iter()
                .find(|ceiling| ceiling.name == name && ceiling.runner == record.runner.name)
                .map_or_else(
                    || "-".to_owned(),
                    |ceiling| format!("{}{unit}", display::si(ceiling.value)),
                )
        };
        let speed = |outcome: &Outcome| outcome.flops_per_second.unwrap_or_default();
        let best = |wanted: &dyn Fn(&Outcome) -> bool| {
            cases_of(report, record)
                .filter(|outcome| wanted(outcome))
                .max_by(|a, b| speed(a).total_cmp(&speed(b)))
        };
        let rate = |outcome: Option<&Outcome>| {
            outcome.map_or_else(
                || "-".to_owned(),
                |outcome| format!("{} ({})", screen::rate(outcome), sizes(outcome)),
            )
        };
        let of = |op: OpName, dtype: Dtype| {
            rate(best(&|outcome| {
                outcome.op == op && outcome.dtype == dtype && outcome.shape.get("query_len") != 1
            }))
        };
        let attention = rate(best(&|outcome| {
            outcome.op == OpName::Attention && outcome.shape.get("query_len") > 1
        }));
        let decode = cases_of(report, record)
            .filter(|outcome| {
                outcome.op == OpName::Attention && outcome.shape.get("query_len") == 1
            })
            .filter_map(|outcome| outcome.fraction_of_ceiling)
            .max_by(f64::total_cmp)
            .map_or_else(|| "-".to_owned(), |part| format!("{:.0} %", part * 100.0));
        // What ran beside the device of the report may have been another: the processor beside a GPU.
        let device = if record.device.name == report.device.name {
            stored.platform.label.clone()
        } else {
            format!("{}, {}", record.device.name, record.device.backend)
        };
        vec![
            cell(&device),
            cell(&record.device.driver),
            cell(&record.runner.name),
            ceiling(ALU_F32, "FLOP/s"),
            ceiling(MATRIX_F16, "FLOP/s"),
            ceiling(MEMORY_COPY, "B/s"),
            of(OpName::Matmul, Dtype::F32),
            of(OpName::Matmul, Dtype::F16),
            attention,
            decode,
            format!("{}, {}", date(report), commit(report)),
            format!("[{}]({}{})", report.suite.name, self.prefix, stored.place),
        ]
    }
}

/// Outcomes with a number of one runner.
fn cases_of<'a>(report: &'a Report, record: &'a RunnerRecord) -> impl Iterator<Item = &'a Outcome> {
    report
        .with_status(OutcomeStatus::Measured)
        .filter(|outcome| outcome.runner == record.runner.name)
}

/// The sizes that a reader needs to judge a rate.
fn sizes(outcome: &Outcome) -> String {
    let of = |name: &str| outcome.shape.get(name);
    match outcome.op {
        OpName::Matmul if of("m") == of("n") && of("n") == of("k") => of("m").to_string(),
        OpName::Matmul => format!("{} x {} x {}", of("m"), of("n"), of("k")),
        _ => format!(
            "{}, {} x {}",
            outcome.dtype,
            of("query_len"),
            of("head_dim")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn published() -> Store {
        Store::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reports")).unwrap()
    }

    #[test]
    fn every_published_report_stands_on_the_page_once_and_a_current_one_stands_for_it() {
        let store = published();
        let page = Index::of(&store, "").page();
        for stored in &store.reports {
            assert_eq!(page.matches(&format!("]({})", stored.place)).count(), 1);
        }
        let index = Index::of(&store, "");
        for stored in &store.reports {
            let stands = |one: &&Stored| stands_for(one, stored);
            assert!(index.current.iter().any(stands), "{}", stored.place);
        }
        let current = page.split("## Replaced").next().unwrap();
        let rows = current
            .lines()
            .filter(|line| line.starts_with("| "))
            .count();
        assert_eq!(rows, index.current.len() + 2, "{current}");
    }

    #[test]
    fn a_report_of_fewer_cases_or_runners_replaces_none_that_has_more() {
        let mut store = published();
        let newest = store
            .reports
            .iter()
            .find(|one| one.report.runners.len() > 1);
        let old = newest.unwrap().clone();
        let mut new = old.clone();
        new.place = "newer.json".to_owned();
        new.report.started_at = "2999-01-01T00:00:00Z".to_owned();
        new.report.status = Status::Complete;
        let mut count_of_current = |change: &dyn Fn(&mut Report)| {
            let mut changed = new.clone();
            change(&mut changed.report);
            store.reports = vec![old.clone(), changed];
            Index::of(&store, "").current.len()
        };
        assert_eq!(count_of_current(&|_| {}), 1);
        assert_eq!(count_of_current(&|report| report.outcomes.truncate(3)), 2);
        let fewer_runners = |report: &mut Report| {
            let gone = report.runners.pop().unwrap().runner.name;
            report.outcomes.retain(|outcome| outcome.runner != gone);
        };
        assert_eq!(count_of_current(&fewer_runners), 2);
        // A text that calls its cases by other names.
        let renamed = |report: &mut Report| {
            report.suite.sha256 = "0".repeat(64);
            for outcome in &mut report.outcomes {
                outcome.case_id.push_str("_renamed");
            }
        };
        assert_eq!(count_of_current(&renamed), 1);
        let renamed_and_few = |report: &mut Report| {
            renamed(report);
            report.outcomes.truncate(3);
        };
        assert_eq!(count_of_current(&renamed_and_few), 2);
    }

    #[test]
    fn a_complete_report_stays_current_beside_a_newer_one_that_was_cut_off() {
        let mut store = published();
        let mut newer = store.reports[0].clone();
        newer.place = "newer.json".to_owned();
        newer.report.started_at = "2999-01-01T00:00:00Z".to_owned();
        newer.report.status = Status::Interrupted;
        store.reports = vec![store.reports[0].clone(), newer];
        assert_eq!(store.reports[0].report.status, Status::Complete);
        let is_current = |store: &Store| -> Vec<bool> {
            let index = Index::of(store, "");
            let reports = store.reports.iter();
            reports.map(|stored| index.is_current(stored)).collect()
        };
        assert_eq!(is_current(&store), [true, false]);
        store.reports[1].report.status = Status::Complete;
        assert_eq!(is_current(&store), [false, true]);
    }

    #[test]
    fn the_headline_shows_the_best_verified_rates_with_their_sizes() {
        let store = published();
        let text = Index::of(&store, "reports/").headline();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > 4, "{text}");
        let columns = lines[0].matches('|').count();
        assert!(
            lines
                .iter()
                .all(|line| line.matches('|').count() == columns)
        );
        assert!(text.contains("](reports/"), "{text}");
        // Not one row is of a replaced report.
        let index = Index::of(&store, "reports/");
        for stored in store.reports.iter().filter(|one| !index.is_current(one)) {
            assert!(!text.contains(&stored.place), "{}", stored.place);
        }
    }

    #[test]
    fn names_from_files_cannot_break_out_of_a_cell() {
        let mut store = published();
        store.reports.truncate(1);
        store.reports[0].report.device.driver = "evil | driver\n# heading".to_owned();
        let page = Index::of(&store, "").page();
        assert!(page.contains("evil \\| driver # heading"), "{page}");
    }
}
