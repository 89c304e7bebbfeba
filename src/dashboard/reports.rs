//! The page of files: what the site was made of, and what was left out and why.

use maud::html;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::page::{Cell, Page, Row, choice, data, distinct, filters, numbers, table, words};
use super::view::{View, day_of};
use crate::error::Result;
use crate::report::OutcomeStatus;
use crate::store::Store;

/// A place as part of an address.
pub fn encoded(place: &str) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'-')
        .remove(b'.')
        .remove(b'_');
    utf8_percent_encode(place, KEPT).to_string()
}

/// The page; where the site is served, with links to the files.
///
/// # Errors
/// Internal ones.
pub(super) fn page(store: &Store, views: &[View], is_served: bool) -> Result<Page<'static>> {
    let mut rows = Vec::new();
    for (number, stored) in store.reports.iter().enumerate().rev() {
        let report = &stored.report;
        let view = views.iter().find(|view| view.reports.contains(&number));
        let (label, key) = view.map_or(("", ""), |view| (&view.label, &view.key));
        let status = format!("{:?}", report.status).to_lowercase();
        #[allow(clippy::cast_precision_loss)]
        let count = |status| report.with_status(status).count() as f64;
        let measured = count(OutcomeStatus::Measured);
        let file = Cell::text(&stored.place).class("code");
        let file = if is_served {
            file.link(format!("reports/{}", encoded(&stored.place)))
        } else {
            file
        };
        #[allow(clippy::cast_precision_loss)]
        let others = report.outcomes.len() as f64 - measured;
        rows.push(Row {
            facets: vec![
                ("suite", report.suite.name.clone()),
                ("status", status.clone()),
            ],
            cells: vec![
                Cell::text(day_of(report)),
                Cell::text(label).link(format!("chips/{key}.html")),
                file,
                Cell::text(&report.suite.name),
                Cell::text(status),
                Cell::number(measured.to_string(), measured),
                Cell::number(others.to_string(), others),
                Cell::text(&report.device.driver),
                Cell::text(report.tool.commit.as_deref().unwrap_or("unknown")).class("code"),
                Cell::text(&report.report_id).class("code"),
            ],
        });
    }
    let values = |name: &str| {
        let facets = rows.iter().flat_map(|row: &Row| &row.facets);
        distinct(
            facets
                .filter(|(facet, _)| *facet == name)
                .map(|(_, value)| value.clone()),
        )
    };
    let controls = html! {
        (choice("suite", "Suite", &values("suite"), None))
        (choice("status", "Status", &values("status"), None))
    };
    let left_out: Vec<Row> = store
        .rejected
        .iter()
        .map(|rejected| {
            Row::of(vec![
                Cell::text(&rejected.place).class("code"),
                Cell::text(&rejected.reason).class("why"),
            ])
        })
        .collect();
    let body = html! {
        (filters("files", &controls))
        (table("files", "The reports that every page is made of", &[
            words("Day"), words("Device"), words("File"), words("Suite"), words("Status"),
            numbers("Measured", "Cases measured"), numbers("Others", "Cases skipped, failed or implausible"),
            words("Driver"), words("Commit"), words("Report id"),
        ], &rows))
        section id="left-out" {
            h2 { "Left out" }
            @if left_out.is_empty() {
                p.quiet { "Nothing: every file in the folder is a whole report." }
            } @else {
                (table("left-out-files", "Files that no figure was taken from, with the reason", &[
                    words("File"), words("Reason"),
                ], &left_out))
            }
        }
        (data(&serde_json::json!({ "page": "reports" }))?)
    };
    Ok(Page {
        root: "",
        file: "reports.html",
        title: "Reports",
        lead: html! { "The files behind every figure. They are the truth; this site is only a view of them." },
        body,
    })
}
