//! The page of trends: what happened to which case, and every series to look at.

use maud::html;
use serde_json::json;

use super::page::{Cell, Page, Row, chart, choice, data, distinct, filters, numbers, table, words};
use crate::display;
use crate::error::Result;
use crate::history::{Event, History, Series};

/// The name of a series in addresses and lists.
pub(super) fn name(series: &Series) -> String {
    [
        series.case_id.as_str(),
        &series.runner,
        &series.suite,
        &series.labels,
    ]
    .join(" | ")
}

fn rows(history: &History) -> Vec<Row> {
    let mut rows = Vec::new();
    for series in &history.series {
        for event in &series.events {
            let address = format!(
                "history.html#chip={}&series={}",
                series.platform.key,
                super::view::fragment(&name(series))
            );
            let worse = |event: &Event| {
                if event.ratio > 1.0 {
                    "slower"
                } else {
                    "faster"
                }
            };
            rows.push(Row {
                facets: vec![
                    ("kind", event.kind.words().to_owned()),
                    ("device", series.platform.label.clone()),
                    ("runner", series.runner.clone()),
                ],
                cells: vec![
                    Cell::text(&series.case_id).class("code").link(address),
                    Cell::text(&series.runner),
                    Cell::text(&series.platform.label),
                    Cell::text(series.points[event.at].started_at.get(..16).unwrap_or("?")),
                    Cell::text(event.kind.words()),
                    Cell::number(display::seconds(event.before_s), event.before_s),
                    Cell::number(display::seconds(event.after_s), event.after_s),
                    Cell::number(format!("{:.3}", event.ratio), event.ratio).class(worse(event)),
                    Cell::text(event.what.join("; ")).class("why"),
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
pub(super) fn page(history: &History) -> Result<Page<'static>> {
    let rows = rows(history);
    let values = |name: &str| {
        let facets = rows.iter().flat_map(|row| &row.facets);
        distinct(
            facets
                .filter(|(facet, _)| *facet == name)
                .map(|(_, value)| value.clone()),
        )
    };
    let platforms: Vec<_> = distinct(
        history
            .series
            .iter()
            .map(|series| series.platform.key.clone()),
    )
    .into_iter()
    .map(|key| {
        let series = history.series.iter().find(|one| one.platform.key == key);
        json!({ "key": key, "label": series.map(|one| one.platform.label.as_str()) })
    })
    .collect();
    let controls = html! {
        (choice("kind", "Event", &values("kind"), None))
        (choice("device", "Device", &values("device"), None))
        (choice("runner", "Runner", &values("runner"), None))
    };
    let body = html! {
        form.pickers hidden #series aria-label="Series" {
            label { span { "Device" } select name="chip" {} }
            label { span { "Case, runner, suite and terms" } select name="series" {} }
        }
        (chart("trend", "Time of one call", "Bars are intervals of 95 %. Solid lines are change points, dotted ones changes of driver, suite, runner or source.", "of the series"))
        div #points-place hidden {
            (table("points", "The measurements of this series", &[
                words("When"), numbers("Median", "Median time of one call"), numbers("From", "Lower end of its interval of 95 %"),
                numbers("To", "Upper end of it"), words("What happened"), words("Kernel"), words("Driver"), words("Commit"), words("File"),
            ], &[]))
        }
        noscript { p.quiet { "All points: " code { "chipmark history DIR --format csv" } "." } }
        section {
            h2 { "What happened" }
            @if rows.is_empty() {
                p.quiet { "Nothing: no case was measured often enough to step, and nothing around any was changed." }
            } @else {
                (filters("events", &controls))
                (table("events", "Change points, outliers, and what was changed around the cases", &[
                    words("Case"), words("Runner"), words("Device"), words("When"), words("Event"),
                    numbers("Before", "Geometric mean of the stretch before"), numbers("After", "Geometric mean of the stretch after"),
                    numbers("Ratio", "After over before; above one it became slower"), words("What"),
                ], &rows))
            }
        }
        (data(&json!({ "page": "history", "devices": platforms }))?)
    };
    Ok(Page {
        root: "",
        file: "history.html",
        title: "History",
        lead: html! { (history.series.len()) " series, one for each device, runner, case, suite and kind of measurement. Change points are E-divisive, confirmed by Welch's test for the chosen place and over all series; seven reports have a fence." },
        body,
    })
}
