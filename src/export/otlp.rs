//! OTLP's JSON: an object of `resourceMetrics` a line and report; times in nanoseconds as strings,
//! as protobuf's JSON has 64-bit integers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Named, backend, began_s, chip, figures, measured, shape};
use crate::error::Result;

fn attributes(pairs: &[(&str, &str)]) -> Value {
    let attribute =
        |(key, value): &(&str, &str)| json!({ "key": key, "value": { "stringValue": value } });
    Value::Array(pairs.iter().map(attribute).collect())
}

/// Units as UCUM spells them.
fn ucum(unit: &str) -> &str {
    match unit {
        "op/s" => "{operation}/s",
        "B/s" => "By/s",
        unit => unit,
    }
}

pub fn write(reports: &[Named]) -> Result<String> {
    let mut text = String::new();
    for (name, report) in reports {
        let at = format!("{}000000000", began_s(name, report)?);
        let mut metrics: BTreeMap<&str, (&str, Vec<Value>)> = BTreeMap::new();
        for outcome in measured(report) {
            let runner = &*outcome.runner;
            for figure in figures(outcome) {
                let (_, points) = metrics
                    .entry(figure.name)
                    .or_insert((figure.unit, Vec::new()));
                let mut add = |stat: &str, value: f64| {
                    let pairs = [
                        ("chip", &*chip(report, runner)),
                        ("backend", backend(report, runner)),
                        ("runner", runner),
                        ("op", &outcome.op.to_string()),
                        ("dtype", &outcome.dtype.to_string()),
                        ("shape", shape(outcome)),
                        ("kernel", outcome.kernel.as_deref().unwrap_or_default()),
                        ("stat", stat),
                    ];
                    points.push(json!({
                        "attributes": attributes(&pairs),
                        "timeUnixNano": at,
                        "asDouble": value,
                    }));
                };
                add("median", figure.value);
                if let Some((low, high)) = figure.interval {
                    add("ci95_low", low);
                    add("ci95_high", high);
                }
            }
        }
        let metrics: Vec<Value> = metrics
            .into_iter()
            .map(|(name, (unit, points))| {
                json!({
                    "name": format!("chipmark.case.{name}"),
                    "unit": ucum(unit),
                    "gauge": { "dataPoints": points },
                })
            })
            .collect();
        let resource = [
            ("service.name", "chipmark"),
            ("service.version", &*report.tool.version),
            ("chipmark.report_id", &report.report_id),
            ("chipmark.suite", &report.suite.name),
            ("chipmark.device", &report.device.name),
            ("chipmark.driver", &report.device.driver),
            ("host.cpu.model.name", &report.host.cpu),
            ("os.description", &report.host.os),
        ];
        let line = json!({ "resourceMetrics": [{
            "resource": { "attributes": attributes(&resource) },
            "scopeMetrics": [{
                "scope": { "name": "chipmark", "version": report.tool.version },
                "metrics": metrics,
            }],
        }] });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    Ok(text)
}
