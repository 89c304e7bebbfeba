//! The page of one device: where its cases lie under its roof, its memory, and everything that came
//! of every case.

use maud::{Markup, html};
use serde::Serialize;

use super::page::{Cell, Page, Row, chart, choice, data, distinct, filters, numbers, table, words};
use super::view::{View, day, day_of, figure, number, share};
use crate::compare::time_and_error;
use crate::display;
use crate::error::Result;
use crate::report::{Ceiling, HierarchyPoint, Outcome, OutcomeStatus, Report};
use crate::store::Store;

/// A measured case as the scripts get it.
#[derive(Serialize)]
pub(super) struct Case<'a> {
    pub(super) id: &'a str,
    pub(super) op: String,
    pub(super) dtype: String,
    pub(super) runner: &'a str,
    pub(super) kernel: Option<&'a str>,
    /// Seconds of one call as comparisons take it, and its standard error on the log scale.
    pub(super) time_s: f64,
    pub(super) log_error: f64,
    /// What numbers may only be compared with.
    pub(super) terms: String,
    pub(super) flop_per_s: Option<f64>,
    /// Operations on a byte of memory.
    pub(super) intensity: Option<f64>,
}

/// The measured cases of a view.
pub(super) fn cases(view: &View) -> Vec<Case<'_>> {
    let report = &view.report;
    report
        .with_status(OutcomeStatus::Measured)
        .filter_map(|outcome| {
            let (time_s, log_error) = time_and_error(report, outcome)?;
            #[allow(clippy::cast_precision_loss)]
            let intensity = (outcome.flop_count > 0 && outcome.bytes_min > 0)
                .then(|| outcome.flop_count as f64 / outcome.bytes_min as f64);
            Some(Case {
                id: &outcome.case_id,
                op: outcome.op.to_string(),
                dtype: outcome.dtype.to_string(),
                runner: &outcome.runner,
                kernel: outcome.kernel.as_deref(),
                time_s,
                log_error,
                terms: terms(outcome),
                flop_per_s: outcome.flops_per_second,
                intensity,
            })
        })
        .collect()
}

/// Labels without which a ratio of two times means nothing.
pub(super) fn terms(outcome: &Outcome) -> String {
    outcome.labels.as_ref().map_or_else(String::new, |labels| {
        let output = labels.output.as_deref().unwrap_or_default();
        [&labels.cache, &labels.data, &labels.checks, output].join(" ")
    })
}

#[derive(Serialize)]
struct Data<'a> {
    page: &'static str,
    label: &'a str,
    cases: Vec<Case<'a>>,
    ceilings: &'a [Ceiling],
    memory: Vec<Walk<'a>>,
}

#[derive(Serialize)]
struct Walk<'a> {
    runner: &'a str,
    latency: &'a [HierarchyPoint],
    bandwidth: &'a [HierarchyPoint],
    caches: &'a [u64],
}

fn outcome_rows(view: &View) -> Vec<Row> {
    let row = |(index, outcome): (usize, &Outcome)| {
        let best = figure(outcome);
        let times = outcome.time_s.as_ref();
        let status = outcome.status.word();
        let why = [&outcome.reason, &outcome.not_converged]
            .into_iter()
            .flatten()
            .cloned()
            .chain(
                outcome
                    .throttle
                    .iter()
                    .filter(|throttle| throttle.suspected)
                    .map(|throttle| format!("throttled: {}", throttle.evidence.join("; "))),
            )
            .collect::<Vec<_>>()
            .join("; ");
        Row {
            facets: vec![
                ("op", outcome.op.to_string()),
                ("dtype", outcome.dtype.to_string()),
                ("runner", outcome.runner.clone()),
                ("status", status.to_owned()),
                ("case", outcome.case_id.clone()),
            ],
            cells: vec![
                Cell::text(&outcome.case_id).class("code"),
                Cell::text(&outcome.runner),
                Cell::text(status).class(status),
                Cell::known(best.map(|(value, _)| value), |value| {
                    number(value, best.map_or("", |(_, measure)| measure.unit))
                }),
                Cell::known(times.map(|times| times.median), display::seconds),
                times.map_or_else(Cell::absent, |times| {
                    Cell::text(format!(
                        "{} – {}",
                        display::seconds(times.ci95_low),
                        display::seconds(times.ci95_high)
                    ))
                }),
                Cell::known(outcome.fraction_of_ceiling, share),
                Cell::known(outcome.fraction_of_datasheet, share),
                Cell::known(outcome.gap.as_ref().map(|gap| gap.time_ratio), |ratio| {
                    format!("{ratio:.2}x")
                }),
                Cell::known(
                    outcome.energy.as_ref().map(|energy| energy.joules),
                    |joules| number(joules, "J"),
                ),
                Cell::known(
                    outcome
                        .verification
                        .as_ref()
                        .map(|v| v.error_to_tolerance_max),
                    |ratio| format!("{ratio:.2}"),
                ),
                Cell::text(outcome.kernel.as_deref().unwrap_or("–")).class("code"),
                Cell::text(why).class("why"),
                Cell::text(day(view, index)),
            ],
        }
    };
    view.report.outcomes.iter().enumerate().map(row).collect()
}

fn ceiling_rows(report: &Report) -> Vec<Row> {
    let unit = |ceiling: &Ceiling| match ceiling.unit.as_str() {
        "flop_per_s" => "FLOP/s",
        "op_per_s" => "OP/s",
        "bytes_per_s" => "B/s",
        _ => "s",
    };
    let row = |ceiling: &Ceiling| {
        Row::of(vec![
            Cell::text(&ceiling.name).class("code"),
            Cell::text(&ceiling.runner),
            Cell::number(number(ceiling.value, unit(ceiling)), ceiling.value),
            Cell::text(&ceiling.case_id).class("code"),
        ])
    };
    report.ceilings.iter().map(row).collect()
}

#[allow(clippy::cast_precision_loss)]
fn memory_rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for walk in &report.memory {
        for (what, unit, points) in [
            ("latency of a load", "s", &walk.latency),
            ("read bandwidth", "B/s", &walk.bandwidth),
        ] {
            for point in points {
                rows.push(Row::of(vec![
                    Cell::text(&walk.runner),
                    Cell::text(what),
                    Cell::number(number(point.bytes as f64, "B"), point.bytes as f64),
                    Cell::number(number(point.value, unit), point.value),
                ]));
            }
        }
    }
    rows
}

fn environment(report: &Report) -> Markup {
    let device = &report.device;
    let mut facts: Vec<(&str, String)> = vec![
        ("Device", device.name.clone()),
        ("Driver", device.driver.clone()),
        ("API", device.backend.clone()),
        ("Kind", device.device_type.replace('_', " ")),
        (
            "System",
            format!("{}, kernel {}", report.host.os, report.host.kernel),
        ),
        (
            "Processor",
            format!(
                "{}, {} logical processors",
                report.host.cpu, report.host.cpu_count
            ),
        ),
        #[allow(clippy::cast_precision_loss)]
        ("Memory", number(report.host.memory_bytes as f64, "B")),
        ("Suite", report.suite.name.clone()),
        ("Command", report.tool.command.clone()),
        (
            "Program",
            format!(
                "chipmark {}, commit {}",
                report.tool.version,
                report.tool.commit.as_deref().unwrap_or("unknown")
            ),
        ),
    ];
    if let Some(chip) = &report.chip {
        facts.insert(
            0,
            (
                "Chip",
                format!("{} ({}), told by {}", chip.name, chip.vendor, chip.by),
            ),
        );
        if let Some(note) = &chip.note {
            facts.push(("Note", note.clone()));
        }
        if let Some(price) = &chip.price {
            facts.push((
                "Price",
                format!(
                    "{} dollars an hour, {}",
                    display::digits(price.usd_per_hour),
                    price.origin
                ),
            ));
        }
    }
    if let Some(calibration) = &report.calibration {
        facts.push((
            "Calibration",
            format!(
                "differences below {} count as none; the same was called different {} of {} times",
                share(calibration.width_apart()),
                calibration.false_alarm_count,
                calibration.same_count
            ),
        ));
    }
    html! {
        dl.facts {
            @for (name, value) in facts {
                @if !value.is_empty() { div { dt { (name) } dd { (value) } } }
            }
            @for record in &report.runners {
                div {
                    dt { "Runner " (record.runner.name) }
                    dd { (record.runner.version) ", on " (record.device.name) " through " (record.device.backend)
                        ", clock of the " (record.timer.clock)
                        @if let Some(note) = &record.timer.note { " (" (note) ")" } }
                }
            }
        }
    }
}

/// The page of a device.
///
/// # Errors
/// Internal ones.
pub(super) fn page<'a>(view: &'a View, store: &Store) -> Result<Page<'a>> {
    let report = &view.report;
    let rows = outcome_rows(view);
    let values = |name: &str| {
        let facets = rows.iter().flat_map(|row| &row.facets);
        distinct(
            facets
                .filter(|(facet, _)| *facet == name)
                .map(|(_, value)| value.clone()),
        )
    };
    let controls = html! {
        (choice("op", "Op", &values("op"), None))
        (choice("dtype", "Type", &values("dtype"), None))
        (choice("runner", "Runner", &values("runner"), None))
        (choice("status", "Outcome", &values("status"), None))
    };
    let memory = memory_rows(report);
    let counts: Vec<String> = [
        OutcomeStatus::Measured,
        OutcomeStatus::Skipped,
        OutcomeStatus::Failed,
        OutcomeStatus::Implausible,
    ]
    .into_iter()
    .map(|status| (report.with_status(status).count(), status.word()))
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    let reports = view.reports.iter().map(|&number| {
        let stored = &store.reports[number];
        Row::of(vec![
            Cell::text(day_of(&stored.report)),
            Cell::text(&stored.place).class("code"),
            Cell::text(&stored.report.suite.name),
            Cell::text(&stored.report.device.driver),
            Cell::text(stored.report.tool.commit.as_deref().unwrap_or("unknown")).class("code"),
            Cell::text(&stored.report.tool.command).class("code"),
        ])
    });
    let reports: Vec<Row> = reports.collect();
    let payload = Data {
        page: "chip",
        label: &view.label,
        cases: cases(view),
        ceilings: &report.ceilings,
        memory: report
            .memory
            .iter()
            .map(|walk| Walk {
                runner: &walk.runner,
                latency: &walk.latency,
                bandwidth: &walk.bandwidth,
                caches: &walk.caches_bytes,
            })
            .collect(),
    };
    let body = html! {
        nav.inpage aria-label="On this page" {
            a href="#cases" { "Cases" } a href="#ceilings" { "Ceilings" }
            @if !memory.is_empty() { a href="#memory" { "Memory" } }
            a href="#environment" { "Environment" } a href="#made-of" { "Reports" }
            a href={ "../compare.html#chips=" (view.key) } { "Compare" }
            a href={ "../history.html#chip=" (view.key) } { "History" }
        }
        (filters("cases", &controls))
        (chart("roofline", "Roofline", "Every case by its operations on a byte, under the ceilings that probes measured.", "of cases"))
        (table("cases", "Every case with what came of it", &[
            words("Case"),
            words("Runner"),
            words("Outcome"),
            numbers("Rate", "Rate, or the time of one call where there is no rate"),
            numbers("Median", "Median time of one call"),
            numbers("95 % interval", "Order-statistic interval of the median"),
            numbers("Of ceiling", "Fraction of the roofline that probes measured in the same run"),
            numbers("Of datasheet", "Fraction of the peak in the chip's datasheet"),
            numbers("Gap", "Time over that of the vendor's own library on the same device"),
            numbers("Energy", "Joules of one call, cold where the case has a cold time"),
            numbers("Error", "Largest difference from the f64 reference over what rounding can explain"),
            words("Kernel"),
            words("Reason"),
            words("Measured"),
        ], &rows))
        section id="ceilings-section" {
            h2 { "Ceilings" }
            @if report.ceilings.is_empty() {
                p.quiet { "No probe has measured a ceiling of this device." }
            } @else {
                (table("ceilings", "Peaks that probe kernels measured", &[
                    words("Ceiling"), words("Runner"), numbers("Value", ""), words("Case"),
                ], &ceiling_rows(report)))
            }
        }
        @if !memory.is_empty() {
            section {
                h2 { "Memory hierarchy" }
                (chart("memory-chart", "Latency and bandwidth by working set", "Steps are caches; dotted lines are the sizes found.", "below"))
                (table("memory", "Latency and bandwidth by working set", &[
                    words("Runner"), words("What"), numbers("Working set", ""), numbers("Value", ""),
                ], &memory))
            }
        }
        section id="environment" {
            h2 { "Environment" }
            (environment(report))
        }
        section {
            h2 { "Reports" }
            (table("made-of", "The reports of this device, newest first", &[
                words("Day"), words("File"), words("Suite"), words("Driver"), words("Commit"), words("Command"),
            ], &reports))
        }
        (data(&payload)?)
    };
    Ok(Page {
        root: "../",
        file: "",
        title: &view.label,
        lead: html! { (report.device.name) ", " (counts.join(", ")) ", last measured " (day_of(&store.reports[view.reports[0]].report)) "." },
        body,
    })
}
