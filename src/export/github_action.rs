//! github-action-benchmark: a list of numbers, in two files since the direction comes from the tool
//! that is named in the workflow.

use serde_json::{Value, json};

use super::{Figure, Named, backend, chip, figures, measured, pretty};
use crate::display::digits;
use crate::error::Result;

pub fn smaller(reports: &[Named]) -> Result<String> {
    write(reports, false)
}

pub fn bigger(reports: &[Named]) -> Result<String> {
    write(reports, true)
}

fn write(reports: &[Named], bigger: bool) -> Result<String> {
    let mut entries: Vec<Value> = Vec::new();
    for (_, report) in reports {
        for outcome in measured(report) {
            let runner = &outcome.runner;
            let place = format!("{}/{}", chip(report, runner), backend(report, runner));
            let wanted = |figure: &Figure| figure.bigger_is_better == bigger;
            for figure in figures(outcome).into_iter().filter(wanted) {
                let (unit, factor) = match figure.unit {
                    "s" => ("us", 1e6),
                    "op/s" => ("Gop/s", 1e-9),
                    "B/s" => ("GB/s", 1e-9),
                    "1" => ("ratio", 1.0),
                    unit => (unit, 1.0),
                };
                let mut entry = json!({
                    "name": format!("{place}/{runner}/{}/{}", outcome.case_id, figure.name),
                    "unit": unit,
                    "value": figure.value * factor,
                });
                if let Some((low, high)) = figure.interval {
                    let half = (high - low) / 2.0 * factor;
                    entry["range"] = json!(format!("± {}", digits(half)));
                    entry["extra"] = json!(format!(
                        "ci95=[{}, {}]\nkernel={}",
                        low * factor,
                        high * factor,
                        outcome.kernel.as_deref().unwrap_or("-")
                    ));
                }
                entries.push(entry);
            }
        }
    }
    pretty(&Value::Array(entries))
}
