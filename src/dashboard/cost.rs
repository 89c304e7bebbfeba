//! The page of money: what a million tokens cost on each device, at prices that can be moved.

use std::collections::BTreeSet;

use maud::html;
use serde_json::json;

use super::page::{Cell, Page, Row, chart, choice, data, distinct, filters, numbers, table, words};
use super::view::View;
use crate::chips::Chips;
use crate::cost::{self, Projection, Question, Subject};
use crate::display;
use crate::error::Result;
use crate::model::{Model, Phase, model_names};
use crate::op::{Dtype, OpName};
use crate::report::OutcomeStatus;

/// The types that models are served in.
const DTYPES: [Dtype; 8] = [
    Dtype::F32,
    Dtype::Tf32,
    Dtype::F16,
    Dtype::F16F16,
    Dtype::Bf16,
    Dtype::F8E4M3,
    Dtype::W4A16,
    Dtype::W4A32,
];

/// What a model can be asked: prompts and answers whose attention was measured somewhere.
fn phases(views: &[View]) -> Vec<Phase> {
    let mut prefills = BTreeSet::new();
    let mut decodes = BTreeSet::new();
    for view in views {
        let measured = view.report.with_status(OutcomeStatus::Measured);
        // What a model asks for is stated without pages, and so looked up without.
        for outcome in measured
            .filter(|outcome| outcome.op == OpName::Attention && outcome.shape.get("page") == 0)
        {
            let size = |name| outcome.shape.get(name);
            match (size("batch"), size("query_len")) {
                (batch, 1) => {
                    decodes.insert((batch, size("kv_len")));
                }
                (1, tokens) => {
                    prefills.insert(tokens);
                }
                _ => {}
            }
        }
    }
    let decodes = decodes
        .into_iter()
        .map(|(batch, context)| Phase::Decode { batch, context });
    prefills
        .into_iter()
        .map(|tokens| Phase::Prefill { tokens })
        .chain(decodes)
        .collect()
}

/// A projection with what it is of.
struct Line {
    model: String,
    dtype: Dtype,
    view: usize,
    projection: Projection,
}

fn lines(views: &[View], chips: &Chips) -> Result<Vec<Line>> {
    let subjects: Vec<Subject> = views
        .iter()
        .map(|view| Subject {
            name: view.label.clone(),
            report: view.report.clone(),
            paid: None,
            chip_id: None,
        })
        .collect();
    let phases = phases(views);
    let mut lines = Vec::new();
    if phases.is_empty() {
        return Ok(lines);
    }
    for name in model_names() {
        for dtype in DTYPES {
            let question = Question {
                model: Model::load(name)?,
                dtype,
                phases: phases.clone(),
                request: None,
                runner: None,
            };
            let answer = cost::answer(&question, &subjects, chips)?;
            lines.extend(answer.projections.into_iter().map(|projection| Line {
                model: name.to_owned(),
                dtype,
                view: projection.report_index,
                projection,
            }));
        }
    }
    Ok(lines)
}

/// The page.
///
/// # Errors
/// Internal ones.
pub(super) fn page(views: &[View], chips: &Chips) -> Result<Page<'static>> {
    let lines = lines(views, chips)?;
    let what = |line: &Line| line.projection.phase.words();
    let rows: Vec<Row> = lines
        .iter()
        .map(|line| {
            let one = &line.projection;
            let view = &views[line.view];
            Row {
                facets: vec![
                    ("model", line.model.clone()),
                    ("dtype", line.dtype.to_string()),
                    ("phase", what(line)),
                    ("device", view.label.clone()),
                ],
                cells: vec![
                    Cell::text(&view.label).link(format!("chips/{}.html", view.key)),
                    Cell::text(&one.runner),
                    Cell::text(&line.model),
                    Cell::text(line.dtype.to_string()),
                    Cell::text(what(line)),
                    Cell::number(
                        display::digits(one.tokens_per_second.value),
                        one.tokens_per_second.value,
                    ),
                    Cell::number(
                        display::digits(one.tokens_per_second.low),
                        one.tokens_per_second.low,
                    ),
                    Cell::number(
                        display::digits(one.tokens_per_second.high),
                        one.tokens_per_second.high,
                    ),
                    Cell::known(
                        one.price.as_ref().map(|price| price.usd_per_hour),
                        display::digits,
                    ),
                    Cell::known(
                        one.usd_per_million_tokens.map(|range| range.value),
                        display::digits,
                    ),
                    Cell::known(one.joules_per_token, display::digits),
                    Cell::text(one.usd_reason.as_deref().unwrap_or_default()).class("why"),
                ],
            }
        })
        .collect();
    let values = |name: &str| {
        let facets = rows.iter().flat_map(|row| &row.facets);
        distinct(
            facets
                .filter(|(facet, _)| *facet == name)
                .map(|(_, value)| value.clone()),
        )
    };
    let points: Vec<_> = lines
        .iter()
        .map(|line| {
            let one = &line.projection;
            json!({
                "key": views[line.view].key,
                "label": views[line.view].label,
                "runner": one.runner,
                "model": line.model,
                "dtype": line.dtype.to_string(),
                "phase": what(line),
                "rate": one.tokens_per_second,
                "usd_per_hour": one.price.as_ref().map(|price| price.usd_per_hour),
                "origin": one.price.as_ref().map(|price| price.origin.clone()),
                "fits": one.fit.device_count.is_none_or(|count| count <= 1),
            })
        })
        .collect();
    let (models, dtypes, phases) = (values("model"), values("dtype"), values("phase"));
    let controls = html! {
        (choice("model", "Model", &models, models.first().map(String::as_str)))
        (choice("dtype", "Type", &dtypes, dtypes.first().map(String::as_str)))
        (choice("phase", "Work", &phases, phases.first().map(String::as_str)))
        (choice("device", "Device", &values("device"), None))
    };
    let body = html! {
        @if rows.is_empty() {
            p.quiet {
                "No report has all the cases that a model is made of. "
                code { "chipmark cost --suite --model llama-3.2-1b > suite.toml" } " writes them, and "
                code { "chipmark run --suite suite.toml" } " measures them."
            }
        } @else {
            (filters("costs", &controls))
            form.pickers hidden #prices aria-label="Price" {
                label { span { "Price of" } select name="priced" {} }
                label.slider {
                    span { "dollars an hour" }
                    input type="range" name="log-price" min="-2" max="2.5" step="0.01" value="0";
                }
                label { span { "exactly" } input type="number" name="price" min="0.0001" max="10000" step="any" inputmode="decimal"; }
                button type="button" name="forget" { "Prices as reported" }
            }
            p #breakeven aria-live="polite" {}
            (chart("cost-chart", "Dollars of a million tokens against tokens a second", "Down and to the right is better. Bars are what the measured intervals allow.", "below"))
            (table("costs", "What models would do on each device, projected from verified cases of their sizes", &[
                words("Device"), words("Runner"), words("Model"), words("Type"), words("Work"),
                numbers("Tokens/s", "From the medians"), numbers("From", "The least that the intervals allow"),
                numbers("To", "The most"), numbers("$/hour", "Price of the device"),
                numbers("$/M tokens", "Dollars of a million tokens"), numbers("J/token", "Where energy was counted under the conditions of the times"), words("No dollars because"),
            ], &rows))
        }
        (data(&json!({ "page": "cost", "points": points }))?)
    };
    Ok(Page {
        root: "",
        file: "cost.html",
        title: "Cost",
        lead: html! { "What a million tokens would cost: sums of measured cases, not a served model. Scheduling, sampling and networks are left out." },
        body,
    })
}
