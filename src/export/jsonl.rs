//! JSON Lines: an outcome a line as the report has it, with what it shares with the others of its
//! report. Samples, sensor traces and the variants that were tried stay in the report. Claims of other
//! programs are lines of their own, with the status `unverified`.

use serde_json::{Map, Value, json};

use super::{Named, chip, record};
use crate::error::{Error, Result};
use crate::report::{Claim, Report};

pub fn write(reports: &[Named]) -> Result<String> {
    let mut text = String::new();
    for (_, report) in reports {
        for outcome in &report.outcomes {
            let failed = |error: serde_json::Error| Error::internal(format!("export: {error}"));
            let mut line = serde_json::to_value(outcome).map_err(failed)?;
            let Some(fields) = line.as_object_mut() else {
                continue;
            };
            for heavy in ["tried", "telemetry"] {
                fields.remove(heavy);
            }
            let regimes = fields.get_mut("regimes").and_then(Value::as_array_mut);
            let cold = regimes.into_iter().flatten();
            let mut times: Vec<&mut Value> = cold.filter_map(|r| r.get_mut("time_s")).collect();
            for time in &mut times {
                strip(time);
            }
            if let Some(time) = fields.get_mut("time_s") {
                strip(time);
            }
            share(fields, report, &outcome.runner);
            text.push_str(&line.to_string());
            text.push('\n');
        }
        for claim in &report.claims {
            let failed = |error: serde_json::Error| Error::internal(format!("export: {error}"));
            let mut line = serde_json::to_value(claim).map_err(failed)?;
            if let Some(fields) = line.as_object_mut() {
                fields.insert("status".to_owned(), json!(Claim::STATUS));
                share(fields, report, "");
            }
            text.push_str(&line.to_string());
            text.push('\n');
        }
    }
    Ok(text)
}

/// What a line shares with the others of its report.
fn share(fields: &mut Map<String, Value>, report: &Report, runner: &str) {
    let device = record(report, runner).map_or(&report.device, |record| &record.device);
    for (name, value) in [
        ("report_id", json!(report.report_id)),
        ("schema_version", json!(report.schema_version)),
        ("started_at", json!(report.started_at)),
        ("suite", json!(report.suite.name)),
        ("suite_sha256", json!(report.suite.sha256)),
        ("seed", json!(report.seed)),
        ("tool_version", json!(report.tool.version)),
        ("commit", json!(report.tool.commit)),
        ("chip", json!(chip(report, runner))),
        ("device", json!(device.name)),
        ("backend", json!(device.backend)),
        ("driver", json!(device.driver)),
    ] {
        fields.insert(name.to_owned(), value);
    }
}

fn strip(time: &mut Value) {
    if let Some(fields) = time.as_object_mut() {
        fields.remove("samples");
    }
}
