//! The page that holds devices against each other. Which ones is chosen in the browser; what the
//! browser cannot choose without scripts stands there for the two with most cases in common.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::json;

use super::chip::{Case, cases};
use super::page::{Cell, Column, Page, Row, chart, data, filters, numbers, table, words};
use super::view::View;
use crate::display;
use crate::error::Result;
use crate::portability::{Portability, portability};
use crate::report::Report;
use crate::stats;

/// The fastest measurement of every case, by case and the terms under which it may be compared.
fn fastest<'a, 'b>(cases: &'b [Case<'a>]) -> BTreeMap<(&'a str, &'b str), &'b Case<'a>> {
    let mut best: BTreeMap<(&str, &str), &Case<'_>> = BTreeMap::new();
    for case in cases {
        let slot = best.entry((case.id, case.terms.as_str())).or_insert(case);
        if case.time_s < slot.time_s {
            *slot = case;
        }
    }
    best
}

/// The two views with most cases in common; the first two where none has any.
fn most_common(all: &[Vec<Case<'_>>]) -> Option<(usize, usize)> {
    let sets: Vec<_> = all.iter().map(|cases| fastest(cases)).collect();
    let mut best: Option<(usize, (usize, usize))> = None;
    for first in 0..sets.len() {
        for second in first + 1..sets.len() {
            let count = sets[first]
                .keys()
                .filter(|key| sets[second].contains_key(*key))
                .count();
            if best.is_none_or(|(most, _)| count > most) {
                best = Some((count, (first, second)));
            }
        }
    }
    best.map(|(_, pair)| pair)
}

const RATIO_HELP: &str =
    "Speed against the first device: its time over this one's; above one this one is faster";

fn rows(base: &[Case<'_>], other: &[Case<'_>]) -> Vec<Row> {
    let others = fastest(other);
    fastest(base)
        .into_iter()
        .filter_map(|(key, case)| {
            let against = others.get(&key)?;
            let error = case.log_error.hypot(against.log_error);
            let found = stats::assumed(case.time_s, against.time_s, error)?;
            Some(Row::of(vec![
                Cell::text(case.id).class("code"),
                Cell::number(display::seconds(case.time_s), case.time_s),
                Cell::number(display::seconds(against.time_s), against.time_s),
                Cell::number(format!("{:.3}", found.ratio), found.ratio),
                Cell::number(format!("{:.3}", found.ci95_low), found.ci95_low),
                Cell::number(format!("{:.3}", found.ci95_high), found.ci95_high),
            ]))
        })
        .collect()
}

fn gap_rows(views: &[View]) -> Vec<Row> {
    let mut rows = Vec::new();
    for view in views {
        for outcome in &view.report.outcomes {
            let Some(gap) = &outcome.gap else { continue };
            rows.push(Row {
                facets: vec![("device", view.label.clone())],
                cells: vec![
                    Cell::text(&view.label).link(format!("chips/{}.html", view.key)),
                    Cell::text(&outcome.case_id).class("code"),
                    Cell::text(&outcome.runner),
                    Cell::text(outcome.kernel.as_deref().unwrap_or("–")).class("code"),
                    Cell::number(format!("{:.2}", gap.time_ratio), gap.time_ratio),
                    Cell::number(format!("{:.2}", gap.low), gap.low),
                    Cell::number(format!("{:.2}", gap.high), gap.high),
                    Cell::text(format!("{} {}", gap.runner, gap.kernel)),
                ],
            });
        }
    }
    rows
}

fn portable(found: &[Portability]) -> Vec<Row> {
    let row = |one: &Portability| Row {
        facets: vec![("runner", one.runner.clone())],
        cells: vec![
            Cell::text(&one.case_id).class("code"),
            Cell::text(&one.runner),
            Cell::text(one.efficiency.word()),
            #[allow(clippy::cast_precision_loss)]
            Cell::number(one.device_count.to_string(), one.device_count as f64),
            Cell::known(one.performance_portability, |value| format!("{value:.3}")),
            Cell::text(
                one.cascade
                    .iter()
                    .map(|step| format!("{} {:.3}", step.device, step.efficiency))
                    .collect::<Vec<_>>()
                    .join(", "),
            )
            .class("why"),
            Cell::text(one.reason.as_deref().unwrap_or_default()).class("why"),
        ],
    };
    found.iter().map(row).collect()
}

const COLUMNS: [Column; 6] = [
    words("Case"),
    numbers(
        "First",
        "Time of one call on the first device, its fastest runner",
    ),
    numbers(
        "Second",
        "Time of one call on the second device, its fastest runner",
    ),
    numbers("Speed", RATIO_HELP),
    numbers("From", "Lower end of its interval of 95 %"),
    numbers("To", "Upper end of it"),
];

/// What becomes of two devices without a script.
fn still(views: &[View], all: &[Vec<Case<'_>>], pair: Option<(usize, usize)>) -> Markup {
    html! {
        @if let Some((first, second)) = pair {
            p #compare-still { "First: " strong { (views[first].label) } ", second: " strong { (views[second].label) } "." }
            (table("ratios", "Speed of the second device against the first, the fastest runner of each", &COLUMNS, &rows(&all[first], &all[second])))
        } @else {
            p.quiet { "There is one device; a comparison takes two." }
        }
    }
}

/// The page.
///
/// # Errors
/// Internal ones.
pub(super) fn page(views: &[View]) -> Result<Page<'static>> {
    let all: Vec<Vec<Case<'_>>> = views.iter().map(cases).collect();
    let pair = most_common(&all);
    let named: Vec<(String, Report)> = views
        .iter()
        .map(|view| (view.label.clone(), view.report.clone()))
        .collect();
    let portability = portability(&named);
    let known: Vec<&Portability> = portability
        .iter()
        .filter(|one| !one.cascade.is_empty())
        .collect();
    let gaps = gap_rows(views);
    let devices: Vec<_> = views
        .iter()
        .map(|view| json!({ "key": view.key, "label": view.label }))
        .collect();
    let chosen: Vec<&str> = pair
        .map(|(first, second)| vec![views[first].key.as_str(), &views[second].key])
        .unwrap_or_default();
    let body = html! {
        form.pickers hidden #pickers aria-label="Devices" {
            label { span { "Against" } select name="base" {} }
            fieldset { legend { "Devices" } div.checks {} }
            label { span { "Runner" } select name="runner" { option value="" { "fastest of each" } } }
            label { span { "Op" } select name="op" { option value="" { "all" } } }
            label { span { "Type" } select name="dtype" { option value="" { "all" } } }
        }
        (chart("ratio-chart", "Speed against the first device", "Dots are ratios of times, bars their intervals of 95 %; right of the line is faster. Overlapping bars are not ranked.", "below"))
        p #summary aria-live="polite" {}
        (still(views, &all, pair))
        p.quiet { "Verdicts that hold over many cases at once, with the tie width of a calibration: " code { "chipmark compare REPORT REPORT" } "." }
        section #gap {
            h2 { "Portability gap" }
            p.lead { "How far portable kernels are from the best that the vendor's own library does on the same device, in the same run." }
            @if gaps.is_empty() {
                p.quiet { "No run had a vendor's library beside a portable kernel." }
            } @else {
                (chart("gap-chart", "Gap of every case", "Time of the portable kernel over the library's; one is parity.", "below"))
                (table("gaps", "Time of portable kernels over that of the vendor's library", &[
                    words("Device"), words("Case"), words("Runner"), words("Kernel"),
                    numbers("Gap", "Above one the portable kernel is slower"),
                    numbers("From", "The least that it is"), numbers("To", "The most that it is"),
                    words("Against"),
                ], &gaps))
            }
        }
        section #cascade {
            h2 { "Performance portability" }
            p.lead { "The harmonic mean of a runner's efficiency over all devices that were asked to run a case; zero where one cannot. A cascade adds the devices one by one, the best first." }
            @if known.is_empty() {
                p.quiet { "No case has an efficiency on two devices." }
            } @else {
                form.filters hidden #cascade-pick { label { span { "Case and runner" } select name="cascade" {} } }
                (chart("cascade-chart", "Cascade", "Bars are efficiencies, the line is the portability over the devices so far.", "below"))
            }
            @if !portability.is_empty() {
                (filters("portability", &html! {}))
                (table("portability", "Performance portability of every runner and case", &[
                    words("Case"), words("Runner"), words("Efficiency is"), numbers("Devices", ""),
                    numbers("Portability", "Harmonic mean; zero where a device cannot run the case"),
                    words("Efficiencies"), words("Unknown because"),
                ], &portable(&portability)))
            }
        }
        (data(&json!({ "page": "compare", "devices": devices, "chosen": chosen, "cascades": known }))?)
    };
    Ok(Page {
        root: "",
        file: "compare.html",
        title: "Compare",
        lead: html! { "Any devices, case by case, with intervals: what overlaps is not ranked." },
        body,
    })
}
