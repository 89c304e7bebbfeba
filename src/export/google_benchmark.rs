//! Google Benchmark's JSON: a row a sample. Its compare.py reads `cpu_time` always, so both times are
//! the measured one; its U test wants nine repetitions, which only cases of a good part of a second do
//! not reach.

use serde_json::{Value, json};

use super::{backend, chip, measured, pretty};
use crate::error::Result;
use crate::report::Report;

pub fn write(report: &Report) -> Result<String> {
    let mut rows: Vec<Value> = Vec::new();
    for (family, outcome) in measured(report).enumerate() {
        let Some(times) = &outcome.time_s else {
            continue;
        };
        let name = format!("{}/{}", outcome.case_id, outcome.runner);
        for (index, sample) in times.samples.iter().enumerate() {
            let ns = sample * 1e9;
            let mut row = json!({
                "name": name,
                "family_index": family,
                "per_family_instance_index": 0,
                "run_name": name,
                "run_type": "iteration",
                "repetitions": times.samples.len(),
                "repetition_index": index,
                "threads": 1,
                "iterations": times.repeat_count,
                "real_time": ns,
                "cpu_time": ns,
                "time_unit": "ns",
                "label": outcome.kernel,
            });
            // As a counter of the user's would be: of this sample.
            if outcome.flop_count > 0 {
                #[allow(clippy::cast_precision_loss)] // a rate for people
                let rate = outcome.flop_count as f64 / sample;
                row["flops_per_second"] = json!(rate);
            }
            rows.push(row);
        }
    }
    let first = report.runners.first().map_or("", |r| &r.runner.name);
    pretty(&json!({
        "context": {
            "date": report.started_at,
            "host_name": chip(report, first),
            "executable": format!("chipmark {}", report.tool.version),
            "num_cpus": report.host.cpu_count,
            "mhz_per_cpu": 0,
            "cpu_scaling_enabled": false,
            "caches": [],
            "load_avg": [],
            "library_version": report.tool.version,
            "library_build_type": "release",
            "json_schema_version": 1,
            "device": report.device.name,
            "backend": backend(report, first),
            "driver": report.device.driver,
            "report_id": report.report_id,
        },
        "benchmarks": rows,
    }))
}
