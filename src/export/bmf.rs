//! Bencher Metric Format: a benchmark a case and runner, its measures with their intervals. It has no
//! place for units or context, so the names of measures say the unit and the chip is the testbed.

use serde_json::{Map, Value, json};

use super::{figures, measured, pretty};
use crate::error::Result;
use crate::report::Report;

pub fn write(report: &Report) -> Result<String> {
    let several = report.runners.len() > 1;
    let mut benchmarks = Map::new();
    for outcome in measured(report) {
        let mut measures = Map::new();
        for figure in figures(outcome) {
            // Bencher's own measure of time is in nanoseconds.
            let (name, factor) = match figure.name {
                "duration" => ("latency".to_owned(), 1e9),
                "cold_duration" => ("cold-latency".to_owned(), 1e9),
                name => (name.replace('_', "-"), 1.0),
            };
            let mut measure = json!({ "value": figure.value * factor });
            if let Some((low, high)) = figure.interval {
                measure["lower_value"] = json!(low * factor);
                measure["upper_value"] = json!(high * factor);
            }
            measures.insert(name, measure);
        }
        let name = if several {
            format!("{}/{}", outcome.case_id, outcome.runner)
        } else {
            outcome.case_id.clone()
        };
        benchmarks.insert(name, Value::Object(measures));
    }
    pretty(&Value::Object(benchmarks))
}
