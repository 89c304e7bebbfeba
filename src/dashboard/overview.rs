//! The first page: devices side by side.

use std::collections::BTreeMap;

use maud::html;

use super::page::{Cell, Page, Row, chart, choice, data, distinct, filters, numbers, table, words};
use super::view::{Measure, View, day, figure, number, share};
use crate::error::Result;
use crate::report::OutcomeStatus;

/// The best figure of every device, runner, op and dtype.
fn rows(views: &[View]) -> Vec<Row> {
    let mut rows = Vec::new();
    for view in views {
        let mut best: BTreeMap<_, (f64, Measure, usize)> = BTreeMap::new();
        for (index, outcome) in view.report.outcomes.iter().enumerate() {
            let Some((value, measure)) = figure(outcome) else {
                continue;
            };
            let key = (
                super::view::rank(outcome.op),
                outcome.dtype,
                outcome.runner.as_str(),
            );
            let slot = best.entry(key).or_insert((value, measure, index));
            if measure.unit == slot.1.unit && (value > slot.0) == measure.more && value != slot.0 {
                *slot = (value, measure, index);
            }
        }
        for (((_, op), dtype, runner), (value, measure, index)) in best {
            let outcome = &view.report.outcomes[index];
            let joules = outcome.joules_per_flop.or(outcome.joules_per_byte);
            rows.push(Row {
                facets: vec![
                    ("op", op.to_string()),
                    ("dtype", dtype.to_string()),
                    ("runner", runner.to_owned()),
                    ("unit", measure.unit.to_owned()),
                ],
                cells: vec![
                    Cell::text(&view.label).link(format!("chips/{}.html", view.key)),
                    Cell::text(runner),
                    Cell::text(op.to_string()),
                    Cell::text(dtype.to_string()),
                    Cell::number(number(value, measure.unit), value),
                    Cell::known(outcome.fraction_of_ceiling, share),
                    Cell::known(outcome.fraction_of_datasheet, share),
                    Cell::known(outcome.gap.as_ref().map(|gap| gap.time_ratio), |ratio| {
                        format!("{ratio:.2}x")
                    }),
                    Cell::known(joules, |value| {
                        let per = if outcome.flop_count > 0 {
                            "J/FLOP"
                        } else {
                            "J/B"
                        };
                        number(value, per)
                    }),
                    Cell::text(&outcome.case_id).class("code").link(format!(
                        "chips/{}.html#case={}",
                        view.key,
                        super::view::fragment(&outcome.case_id)
                    )),
                    Cell::text(day(view, index)),
                ],
            });
        }
    }
    rows
}

/// The page.
///
/// # Errors
/// Internal ones.
pub(super) fn page(views: &[View], report_count: usize, rejected: usize) -> Result<Page<'static>> {
    let rows = rows(views);
    let values = |name: &str| {
        let facets = rows.iter().flat_map(|row| &row.facets);
        let mut values = distinct(
            facets
                .filter(|(facet, _)| *facet == name)
                .map(|(_, value)| value.clone()),
        );
        values.sort();
        values
    };
    let ops = values("op");
    let dtypes = values("dtype");
    let first = |wanted: &str, values: &[String]| {
        let found = values.iter().find(|value| *value == wanted);
        found.or(values.first()).cloned()
    };
    let counted = |status: OutcomeStatus| -> usize {
        views
            .iter()
            .map(|view| view.report.with_status(status).count())
            .sum()
    };
    let controls = html! {
        (choice("op", "Op", &ops, first("matmul", &ops).as_deref()))
        (choice("dtype", "Type", &dtypes, first("f32", &dtypes).as_deref()))
        (choice("runner", "Runner", &values("runner"), None))
    };
    let tiles = [
        (views.len(), "devices", "#best"),
        (report_count, "reports", "reports.html"),
        (counted(OutcomeStatus::Measured), "cases measured", ""),
        (
            counted(OutcomeStatus::Failed) + counted(OutcomeStatus::Implausible),
            "failed or implausible",
            "",
        ),
        (rejected, "files left out", "reports.html#left-out"),
    ];
    let body = html! {
        ul.tiles {
            @for (count, what, link) in tiles {
                li {
                    strong { (count) } " "
                    @if link.is_empty() { span { (what) } } @else { a href=(link) { (what) } }
                }
            }
        }
        (filters("best", &controls))
        (chart("best-chart", "Best of each device", "Each bar is the fastest verified case of the rows below.", "below"))
        (table("best", "The fastest case of every device, runner, op and type, of its newest measurements", &[
            words("Device"),
            words("Runner"),
            words("Op"),
            words("Type"),
            numbers("Best", "Rate of the fastest case; of latencies the shortest"),
            numbers("Of ceiling", "Fraction of the roofline that probes measured in the same run"),
            numbers("Of datasheet", "Fraction of the peak in the chip's datasheet"),
            numbers("Gap", "Time over that of the vendor's own library on the same device; above one it is slower"),
            numbers("Energy", "Joules of one operation, or of one byte moved"),
            words("Case"),
            words("Measured"),
        ], &rows))
        (data(&serde_json::json!({ "page": "overview" }))?)
    };
    Ok(Page {
        root: "",
        file: "index.html",
        title: "What chips really deliver",
        lead: html! { "Verified rates of kernels on " (views.len()) " devices, the newest measurement of every case." },
        body,
    })
}
