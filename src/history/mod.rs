//! How the time of a case went from report to report: what changed around it, and where it stepped
//! without any such change.

mod change_points;

use std::collections::BTreeMap;
use std::ops::Range;

use regex::Regex;
use serde::Serialize;

use crate::compare::FALSE_DISCOVERY_RATE;
use crate::display;
use crate::error::Result;
use crate::report::{Calibration, Outcome, OutcomeStatus, Report};
use crate::stats;
use crate::store::{Platform, Store, Stored};

/// Points that change points are sought among; fewer have the fence.
const POINTS_MIN: usize = 8;
/// Earlier points that a fence takes: the quartiles of four are passed by every tenth of the same.
const FENCE_MIN: usize = 6;
/// How far beyond the quartiles the fence stands, in distances between them: the outer fence of Tukey
/// ("Exploratory Data Analysis", 1977), since the inner one is passed by 13 % of the same.
const FENCE: f64 = 3.0;
/// The least relative change where no calibration says what a machine can tell.
const CHANGE_MIN: f64 = 0.01;
/// The largest p-value of a change point: Hunter's.
pub const P_MAX: f64 = 0.001;

/// What is sought.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Only cases whose id matches.
    pub filter: Option<Regex>,
    /// Only this platform, by its key.
    pub platform: Option<String>,
    /// Only this runner.
    pub runner: Option<String>,
    /// The largest p-value of a change point.
    pub p_max: f64,
    /// The least relative change of a change point; absent: the width of the newest calibration
    /// of the series, or 1 %.
    pub change_min: Option<f64>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            filter: None,
            platform: None,
            runner: None,
            p_max: P_MAX,
            change_min: None,
        }
    }
}

/// One measurement of a series.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The report's file below the folder.
    pub place: String,
    /// The report.
    pub report_id: String,
    /// When its run began, in UTC.
    pub started_at: String,
    /// Median seconds of one call; of several processes the median of theirs.
    pub time_s: f64,
    /// Lower end of its interval of 95 %; of two to five processes the fastest.
    pub ci95_low: f64,
    /// Upper end of it; of two to five processes the slowest.
    pub ci95_high: f64,
    /// The driver of the runner's device.
    pub driver: String,
    /// The runner's version.
    pub runner_version: String,
    /// The kernel.
    pub kernel: Option<String>,
    /// The commit of the program that measured it.
    pub commit: Option<String>,
}

/// What happened at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Something that the time may depend on was changed: before and after are different things.
    Split,
    /// The time stepped, and nothing known was changed.
    ChangePoint,
    /// The newest of too few points for steps lies beyond the fence of the others.
    Outlier,
}

impl EventKind {
    /// As people read it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Split => "changed",
            Self::ChangePoint => "change point",
            Self::Outlier => "outlier",
        }
    }
}

/// An event of a series.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// The first point after it, counted from 0.
    pub at: usize,
    /// What it is.
    pub kind: EventKind,
    /// What was changed, a line each; of other events, how sure they are.
    pub what: Vec<String>,
    /// Geometric mean of the times of the stretch before it; of an outlier their median.
    pub before_s: f64,
    /// The same of the stretch after it.
    pub after_s: f64,
    /// After over before: above one it became slower.
    pub ratio: f64,
    /// Of the difference between the two, of change points: the larger of Welch's and Student's, times
    /// the places that the step could have had.
    pub p_value: Option<f64>,
}

/// The measurements of one case by one runner under the same terms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// What was measured.
    pub platform: Platform,
    /// Whose kernels.
    pub runner: String,
    /// The case.
    pub case_id: String,
    /// The suite that it was a case of.
    pub suite: String,
    /// Engine, clock, cache, data and checks.
    pub labels: String,
    /// Its measurements, oldest first.
    pub points: Vec<Point>,
    /// What happened, oldest first.
    pub events: Vec<Event>,
}

/// All series of a folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct History {
    /// Them, by platform, case and runner.
    pub series: Vec<Series>,
}

fn labels(outcome: &Outcome) -> String {
    outcome.labels.as_ref().map_or_else(String::new, |labels| {
        let output = labels.output.as_deref().unwrap_or_default();
        [
            &labels.engine,
            &labels.timer,
            &labels.cache,
            &labels.data,
            &labels.checks,
            output,
        ]
        .join(" ")
        .trim_end()
        .to_owned()
    })
}

/// What a time depends on, by name.
fn circumstances(report: &Report, outcome: &Outcome) -> [(&'static str, String); 5] {
    let record = report
        .runners
        .iter()
        .find(|record| record.runner.name == outcome.runner);
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    [
        (
            "driver",
            record.map_or_else(String::new, |record| record.device.driver.clone()),
        ),
        ("suite", short(&report.suite.sha256)),
        (
            "runner",
            record.map_or_else(String::new, |record| record.runner.version.clone()),
        ),
        ("kernel", outcome.kernel.clone().unwrap_or_default()),
        (
            "shader",
            short(outcome.shader_sha256.as_deref().unwrap_or_default()),
        ),
    ]
}

/// What is known of a point beside what is shown of it.
struct Seen<'a> {
    point: Point,
    circumstances: [(&'static str, String); 5],
    calibration: Option<&'a Calibration>,
}

/// The series of a store's reports, and what happened in them.
#[must_use]
pub fn history(store: &Store, terms: &Terms) -> History {
    let mut groups: BTreeMap<_, Vec<Seen<'_>>> = BTreeMap::new();
    for stored in &store.reports {
        let wanted = |asked: &Option<String>, is: &str| asked.as_deref().is_none_or(|a| a == is);
        if !wanted(&terms.platform, &stored.platform.key) {
            continue;
        }
        for outcome in stored.report.with_status(OutcomeStatus::Measured) {
            let matches = |regex: &Regex| regex.is_match(&outcome.case_id);
            if !wanted(&terms.runner, &outcome.runner) || !terms.filter.as_ref().is_none_or(matches)
            {
                continue;
            }
            let Some(seen) = seen(stored, outcome) else {
                continue;
            };
            let key = (
                &stored.platform,
                &outcome.case_id,
                &outcome.runner,
                &stored.report.suite.name,
                labels(outcome),
            );
            groups.entry(key).or_default().push(seen);
        }
    }
    let p_max = believed(groups.values(), terms);
    let series = groups
        .into_iter()
        .map(|((platform, case_id, runner, suite, labels), seen)| {
            let events = events(&seen, terms, p_max);
            Series {
                platform: platform.clone(),
                runner: runner.clone(),
                case_id: case_id.clone(),
                suite: suite.clone(),
                labels,
                points: seen.into_iter().map(|seen| seen.point).collect(),
                events,
            }
        })
        .collect();
    History { series }
}

fn seen<'a>(stored: &'a Stored, outcome: &Outcome) -> Option<Seen<'a>> {
    let times = outcome.time_s.as_ref()?;
    let report = &stored.report;
    let circumstances = circumstances(report, outcome);
    // What tells two reports apart tells processes apart too: the first alone is one draw of several.
    let processes = Some(&times.process_medians)
        .filter(|medians| medians.len() > 1)
        .and_then(|medians| stats::Summary::of_independent(medians))
        .map(|all| (all.median, all.ci95_low, all.ci95_high));
    let (time_s, ci95_low, ci95_high) =
        processes.unwrap_or((times.median, times.ci95_low, times.ci95_high));
    let value = |name: &str| {
        let found = circumstances.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    Some(Seen {
        point: Point {
            place: stored.place.clone(),
            report_id: report.report_id.clone(),
            started_at: report.started_at.clone(),
            time_s,
            ci95_low,
            ci95_high,
            driver: value("driver"),
            runner_version: value("runner"),
            kernel: outcome.kernel.clone(),
            commit: report.tool.commit.clone(),
        },
        circumstances,
        calibration: report
            .calibration
            .as_ref()
            .filter(|calibration| calibration.runner == outcome.runner),
    })
}

fn middle(logs: &[f64]) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let count = logs.len() as f64;
    (logs.iter().sum::<f64>() / count).exp()
}

fn logs(seen: &[Seen<'_>]) -> Vec<f64> {
    seen.iter().map(|seen| seen.point.time_s.ln()).collect()
}

/// The least relative change that counts.
fn change_min(seen: &[Seen<'_>], terms: &Terms) -> f64 {
    terms.change_min.unwrap_or_else(|| {
        let newest = seen.iter().rev().find_map(|seen| seen.calibration);
        newest.map_or(CHANGE_MIN, Calibration::width_apart)
    })
}

/// The stretches of a series in which nothing known was changed.
fn stretches(seen: &[Seen<'_>]) -> Vec<Range<usize>> {
    let mut splits: Vec<usize> = (1..seen.len())
        .filter(|&at| seen[at].circumstances != seen[at - 1].circumstances)
        .collect();
    splits.insert(0, 0);
    splits.push(seen.len());
    splits.windows(2).map(|ends| ends[0]..ends[1]).collect()
}

/// The p-value up to which change points are believed: among many series some step by chance, so of
/// those that would be called so over all of them only as many are kept as leave few false ones.
fn believed<'a>(all: impl Iterator<Item = &'a Vec<Seen<'a>>>, terms: &Terms) -> f64 {
    let mut p_values = Vec::new();
    for seen in all {
        let (logs, change_min) = (logs(seen), change_min(seen, terms));
        for stretch in stretches(seen) {
            if stretch.len() < POINTS_MIN {
                continue;
            }
            let (p_max, change_min) = (terms.p_max, change_min.ln_1p());
            let found = change_points::steps(&logs[stretch], p_max, p_max, change_min);
            // One in which nothing was found was looked at too.
            p_values.extend(found.is_empty().then_some(1.0));
            p_values.extend(found.iter().map(|step| step.p_value));
        }
    }
    let survive = stats::benjamini_hochberg(&p_values, FALSE_DISCOVERY_RATE);
    let kept = p_values
        .iter()
        .zip(survive)
        .filter(|(_, survives)| *survives);
    kept.map(|(p_value, _)| *p_value).fold(0.0, f64::max)
}

/// What happened in a series, with change points up to `p_max`.
fn events(seen: &[Seen<'_>], terms: &Terms, p_max: f64) -> Vec<Event> {
    let (logs, change_min) = (logs(seen), change_min(seen, terms));
    let stretches = stretches(seen);
    // Every stretch between two boundaries of any kind, so that what stands before and after an event
    // is of one kind.
    let mut marks: Vec<(usize, Option<f64>)> = Vec::new();
    for stretch in &stretches {
        let from = stretch.start;
        if from > 0 {
            marks.push((from, None));
        }
        if stretch.len() >= POINTS_MIN {
            let values = &logs[stretch.clone()];
            let found = change_points::steps(values, terms.p_max, p_max, change_min.ln_1p());
            marks.extend(
                found
                    .iter()
                    .map(|step| (from + step.at, Some(step.p_value))),
            );
        }
    }
    let mut events: Vec<Event> = marks
        .iter()
        .enumerate()
        .map(|(number, &(at, p_value))| {
            let from = if number == 0 { 0 } else { marks[number - 1].0 };
            let to = marks.get(number + 1).map_or(seen.len(), |(next, _)| *next);
            let (before_s, after_s) = (middle(&logs[from..at]), middle(&logs[at..to]));
            let (kind, what) = match p_value {
                Some(p_value) => (EventKind::ChangePoint, vec![format!("p {p_value:.1e}")]),
                None => (EventKind::Split, differences(&seen[at - 1], &seen[at])),
            };
            Event {
                at,
                kind,
                what,
                before_s,
                after_s,
                ratio: after_s / before_s,
                p_value,
            }
        })
        .collect();
    let last = stretches.last().map_or(0, |stretch| stretch.start);
    events.extend(outlier(&logs[last..], change_min).map(|event| Event {
        at: last + event.at,
        ..event
    }));
    events
}

fn differences(before: &Seen<'_>, after: &Seen<'_>) -> Vec<String> {
    before
        .circumstances
        .iter()
        .zip(&after.circumstances)
        .filter(|(one, other)| one != other)
        .map(|((name, one), (_, other))| {
            let shown = |text: &str| {
                if text.is_empty() {
                    "none".to_owned()
                } else {
                    text.to_owned()
                }
            };
            format!("{name} {} -> {}", shown(one), shown(other))
        })
        .collect()
}

/// Whether the newest of a few points lies beyond the fence of the earlier ones.
fn outlier(logs: &[f64], change_min: f64) -> Option<Event> {
    let (newest, earlier) = logs.split_last()?;
    if earlier.len() < FENCE_MIN || logs.len() >= POINTS_MIN {
        return None;
    }
    let summary = stats::Summary::of_independent(earlier)?;
    let reach = FENCE * (summary.q3 - summary.q1);
    let beyond = *newest < summary.q1 - reach || *newest > summary.q3 + reach;
    let change = newest - summary.median;
    (beyond && change.abs() >= change_min.ln_1p()).then(|| Event {
        at: earlier.len(),
        kind: EventKind::Outlier,
        what: vec![format!("beyond the fence of {} points", earlier.len())],
        before_s: summary.median.exp(),
        after_s: newest.exp(),
        ratio: change.exp(),
        p_value: None,
    })
}

/// The columns of [`History::csv`]: times in seconds.
pub const COLUMNS: [&str; 15] = [
    "platform",
    "runner",
    "case_id",
    "suite",
    "labels",
    "started_at",
    "place",
    "report_id",
    "time_s",
    "ci95_low",
    "ci95_high",
    "driver",
    "event",
    "what",
    "ratio",
];

impl History {
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for series in &self.series {
            for event in &series.events {
                rows.push(vec![
                    series.case_id.clone(),
                    series.runner.clone(),
                    series.platform.label.clone(),
                    series.points[event.at]
                        .started_at
                        .chars()
                        .take(16)
                        .collect(),
                    display::seconds(event.before_s),
                    display::seconds(event.after_s),
                    format!("{:.3}", event.ratio),
                    event.kind.words().to_owned(),
                    event.what.join("; "),
                ]);
            }
        }
        rows
    }

    /// One line of counts.
    fn counts(&self) -> String {
        let quiet = self
            .series
            .iter()
            .filter(|series| series.events.is_empty())
            .count();
        let points: usize = self.series.iter().map(|series| series.points.len()).sum();
        let of = |kind| {
            let events = self.series.iter().flat_map(|series| &series.events);
            events.filter(|event| event.kind == kind).count()
        };
        format!(
            "{} series of {points} points: {} change points, {} changes of driver, suite, runner or source, {} outliers; nothing happened in {quiet}",
            self.series.len(),
            of(EventKind::ChangePoint),
            of(EventKind::Split),
            of(EventKind::Outlier),
        )
    }

    const HEADINGS: [&'static str; 9] = [
        "case", "runner", "device", "when", "before", "after", "ratio", "event", "what",
    ];

    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let rows = self.rows();
        let table = if rows.is_empty() {
            String::new()
        } else {
            display::table(&Self::HEADINGS, &rows)
        };
        format!("{table}{}\n", self.counts())
    }

    /// For a page of text.
    #[must_use]
    pub fn markdown(&self) -> String {
        let rows = self.rows();
        let table = if rows.is_empty() {
            String::new()
        } else {
            format!("{}\n", display::markdown_table(&Self::HEADINGS, &rows))
        };
        format!("{table}{}\n", self.counts())
    }

    /// A row a point, with what happened at it.
    ///
    /// # Errors
    /// An internal error where it cannot be written.
    pub fn csv(&self) -> Result<String> {
        let mut rows = Vec::new();
        for series in &self.series {
            for (index, point) in series.points.iter().enumerate() {
                let here: Vec<&Event> = series.events.iter().filter(|e| e.at == index).collect();
                let joined = |text: fn(&Event) -> String| {
                    here.iter().map(|e| text(e)).collect::<Vec<_>>().join("; ")
                };
                rows.push(vec![
                    series.platform.key.clone(),
                    series.runner.clone(),
                    series.case_id.clone(),
                    series.suite.clone(),
                    series.labels.clone(),
                    point.started_at.clone(),
                    point.place.clone(),
                    point.report_id.clone(),
                    point.time_s.to_string(),
                    point.ci95_low.to_string(),
                    point.ci95_high.to_string(),
                    point.driver.clone(),
                    joined(|event| event.kind.words().to_owned()),
                    joined(|event| event.what.join("; ")),
                    joined(|event| event.ratio.to_string()),
                ]);
            }
        }
        display::csv(&COLUMNS, rows.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Reports of one device whose times are given: the change of every other thing is the caller's.
    fn store(times: &[f64], change: impl Fn(usize, &mut Report)) -> Store {
        let place = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("reports/swiftshader-device/2026-11-23-vulkan.json");
        let template = Report::read(&place).unwrap();
        let mut store = Store::default();
        for (index, factor) in times.iter().enumerate() {
            let mut report = template.clone();
            report.started_at = format!("2026-01-{:02}T{:02}:00:00Z", 1 + index / 24, index % 24);
            for outcome in &mut report.outcomes {
                if let Some(times) = &mut outcome.time_s {
                    times.median *= factor;
                }
            }
            change(index, &mut report);
            store.reports.push(Stored {
                place: format!("{index}.json"),
                platform: Platform {
                    label: "a device".to_owned(),
                    key: "a-device".to_owned(),
                },
                report,
            });
        }
        store
    }

    fn of(times: &[f64], change: impl Fn(usize, &mut Report)) -> Vec<Event> {
        let found = history(&store(times, change), &Terms::default());
        let first = found.series.first().unwrap();
        assert_eq!(first.points.len(), times.len());
        for series in &found.series {
            assert_eq!(
                series.events.len(),
                first.events.len(),
                "all cases step alike"
            );
        }
        first.events.clone()
    }

    fn wobble(index: usize) -> f64 {
        [1.0, 1.004, 0.997, 1.002, 0.999][index % 5]
    }

    #[test]
    fn a_step_is_a_change_point_and_noise_is_none() {
        let calm: Vec<f64> = (0..30).map(wobble).collect();
        assert_eq!(of(&calm, |_, _| {}), []);
        let stepped: Vec<f64> = (0..30)
            .map(|index| wobble(index) * if index < 18 { 1.0 } else { 1.1 })
            .collect();
        let events = of(&stepped, |_, _| {});
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].at, events[0].kind), (18, EventKind::ChangePoint));
        assert!((events[0].ratio - 1.1).abs() < 0.01, "{}", events[0].ratio);
        assert!(events[0].p_value.unwrap() < 1e-6);
        // Below the least change nothing is said of it.
        let terms = Terms {
            change_min: Some(0.2),
            ..Terms::default()
        };
        let found = history(&store(&stepped, |_, _| {}), &terms);
        assert!(found.series.iter().all(|series| series.events.is_empty()));
    }

    #[test]
    fn a_new_driver_splits_a_series_and_is_named() {
        let times: Vec<f64> = (0..20)
            .map(|index| wobble(index) * if index < 10 { 1.0 } else { 1.3 })
            .collect();
        let events = of(&times, |index, report| {
            if index >= 10 {
                for record in &mut report.runners {
                    record.device.driver = "the next one".to_owned();
                }
            }
        });
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((events[0].at, events[0].kind), (10, EventKind::Split));
        assert!(
            events[0].what[0].starts_with("driver ")
                && events[0].what[0].ends_with("-> the next one")
        );
        assert!((events[0].ratio - 1.3).abs() < 0.01);
        assert_eq!(events[0].p_value, None);
    }

    #[test]
    fn a_short_series_has_a_fence_for_its_newest() {
        let mut times: Vec<f64> = (0..7).map(wobble).collect();
        assert_eq!(of(&times, |_, _| {}), []);
        times[6] = 1.2;
        let events = of(&times, |_, _| {});
        assert_eq!((events[0].at, events[0].kind), (6, EventKind::Outlier));
        // The quartiles of five say too little.
        times.remove(0);
        assert_eq!(of(&times, |_, _| {}), []);
        times.truncate(3);
        assert_eq!(of(&times, |_, _| {}), []);
    }

    #[test]
    fn the_fence_stands_where_few_of_the_same_pass_it() {
        // Quartiles of 1.0 and 1.02: beyond the inner fence of 1.05, within the outer one of 1.08.
        let earlier = [1.0, 1.02, 1.0, 1.02, 1.0, 1.02];
        let with = |newest: f64| {
            let times: Vec<f64> = earlier.into_iter().chain([newest]).collect();
            of(&times, |_, _| {})
        };
        assert_eq!(with(1.07), []);
        assert_eq!(with(1.10).len(), 1);
    }

    #[test]
    fn of_the_same_one_in_twenty_passes_the_fence_at_most() {
        let mut seed = 1_u64;
        // Twelve uniform numbers add up to a normal one, nearly.
        let mut normal = || {
            let mut uniform = || {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                f64::from((seed >> 32) as u32) / f64::from(u32::MAX)
            };
            (0..12).map(|_| uniform()).sum::<f64>()
        };
        let passed = (0..20_000)
            .filter(|_| {
                let logs: Vec<f64> = (0..7).map(|_| normal()).collect();
                outlier(&logs, 0.0).is_some()
            })
            .count();
        // 4.1 %.
        assert!((700..950).contains(&passed), "{passed} of 20000");
    }

    #[test]
    fn a_report_of_several_processes_counts_with_the_median_of_theirs() {
        let store = store(&[1.0; 3], |index, report| {
            for outcome in &mut report.outcomes {
                if let Some(times) = &mut outcome.time_s {
                    // The first process is the slow one of three.
                    let fast = times.median / if index == 1 { 2.0 } else { 1.0 };
                    times.process_medians = vec![times.median, fast, fast * 0.99];
                }
            }
        });
        let found = history(&store, &Terms::default());
        for series in &found.series {
            let [first, second, _] = &series.points[..] else {
                panic!("{:?}", series.points)
            };
            assert!((first.time_s / second.time_s - 2.0).abs() < 0.05);
            assert!(second.ci95_low <= second.time_s && second.time_s <= second.ci95_high);
            assert!((second.ci95_high / second.time_s - 2.0).abs() < 1e-9);
        }
    }

    #[test]
    fn one_doubtful_step_among_many_calm_series_is_chance() {
        let p_values = |series_count: usize| {
            let store = store(&[1.0; 12], |index, report| {
                let measured = report.outcomes.iter().find(|o| o.time_s.is_some());
                let mut outcome = measured.unwrap().clone();
                outcome.gap = None;
                outcome.time_s.as_mut().unwrap().samples.clear();
                report.outcomes = (0..series_count)
                    .map(|series| {
                        let stepped = series == 0 && index >= 6;
                        let mut outcome = outcome.clone();
                        outcome.case_id = format!("case {series}");
                        let step = if stepped { 1.0105 } else { 1.0 };
                        outcome.time_s.as_mut().unwrap().median *= wobble(index) * step;
                        outcome
                    })
                    .collect();
            });
            let found = history(&store, &Terms::default());
            assert_eq!(found.series.len(), series_count);
            let events = found.series.iter().flat_map(|series| &series.events);
            events.filter_map(|event| event.p_value).collect::<Vec<_>>()
        };
        let alone = p_values(1);
        assert!((1.1e-4..1e-3).contains(&alone[0]), "{alone:?}");
        // Among five hundred the first find counts at 0.05 over 500.
        assert_eq!(p_values(500), [0.0; 0]);
    }

    #[test]
    fn terms_narrow_what_is_looked_at() {
        let store = store(&[1.0, 1.0], |_, _| {});
        let count = |terms: &Terms| history(&store, terms).series.len();
        let all = count(&Terms::default());
        assert!(all > 1);
        let none = |terms: &Terms| assert_eq!(count(terms), 0);
        none(&Terms {
            runner: Some("nobody".to_owned()),
            ..Terms::default()
        });
        none(&Terms {
            platform: Some("elsewhere".to_owned()),
            ..Terms::default()
        });
        let some = Terms {
            filter: Some(Regex::new("^matmul").unwrap()),
            ..Terms::default()
        };
        assert!((1..all).contains(&count(&some)));
    }
}
