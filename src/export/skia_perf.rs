//! Skia Perf, format 1: it refuses fields it does not know. Keys are what traces are told apart by, so
//! they hold no version; the commit is the place on its axis.

use serde_json::{Value, json};

use super::{backend, chip, figures, measured, pretty};
use crate::error::{Error, Result};
use crate::report::Report;

pub fn write(report: &Report) -> Result<String> {
    let Some(commit) = &report.tool.commit else {
        return Err(Error::usage(
            "export skia-perf: the report does not know the commit that it was made by, which is Skia Perf's axis",
        ));
    };
    let results: Vec<Value> = measured(report)
        .flat_map(|outcome| {
            figures(outcome).into_iter().map(|figure| {
                let mut stats = vec![json!({ "value": "median", "measurement": figure.value })];
                if let Some((low, high)) = figure.interval {
                    stats.push(json!({ "value": "ci95_low", "measurement": low }));
                    stats.push(json!({ "value": "ci95_high", "measurement": high }));
                }
                json!({
                    "key": {
                        "test": outcome.case_id,
                        "figure": figure.name,
                        "runner": outcome.runner,
                        "chip": chip(report, &outcome.runner),
                        "backend": backend(report, &outcome.runner),
                        "unit": figure.unit,
                        "improvement_direction": if figure.bigger_is_better { "up" } else { "down" },
                    },
                    "measurements": { "stat": stats },
                })
            })
        })
        .collect();
    pretty(&json!({
        "version": 1,
        "git_hash": commit.trim_end_matches("-dirty"),
        "key": { "suite": report.suite.name },
        "results": results,
    }))
}
