//! PyTorch's benchmark database, format 3: a row a figure. A case is what it calls a model.

use serde_json::{Value, json};

use super::{Named, backend, chip, figures, measured, pretty};
use crate::error::Result;

pub fn write(reports: &[Named]) -> Result<String> {
    let mut rows: Vec<Value> = Vec::new();
    for (_, report) in reports {
        for outcome in measured(report) {
            let runner = &outcome.runner;
            let chip = chip(report, runner);
            for figure in figures(outcome) {
                rows.push(json!({
                    "benchmark": {
                        "name": "chipmark",
                        "mode": report.suite.name,
                        "dtype": outcome.dtype.to_string(),
                        "extra_info": {
                            "report_id": report.report_id,
                            "started_at": report.started_at,
                            "kernel": outcome.kernel,
                            "unit": figure.unit,
                            "ci95_low": figure.interval.map(|(low, _)| low),
                            "ci95_high": figure.interval.map(|(_, high)| high),
                        },
                    },
                    "model": {
                        "name": outcome.case_id,
                        "type": "kernel",
                        "backend": format!("{runner}-{}", backend(report, runner)),
                        "origins": ["chipmark"],
                    },
                    "metric": {
                        "name": figure.name,
                        "benchmark_values": [figure.value],
                    },
                    "runners": [{
                        "name": chip,
                        "type": report.device.device_type,
                        "gpu_info": report.device.name,
                        "gpu_count": 1,
                    }],
                }));
            }
        }
    }
    pretty(&Value::Array(rows))
}
