//! Perfherder's artefact: a suite a report and runner, a subtest a case, with every sample. The value
//! of a suite is the geometric mean of its subtests, as Perfherder makes it where there is none.

use serde_json::{Value, json};

use super::{Named, backend, chip, measured, pretty};
use crate::error::Result;

pub fn write(reports: &[Named]) -> Result<String> {
    let mut suites: Vec<Value> = Vec::new();
    for (_, report) in reports {
        for record in &report.runners {
            let runner = &record.runner.name;
            let of = || measured(report).filter(|outcome| outcome.runner == *runner);
            let timed = || of().filter_map(|o| Some((o, o.time_s.as_ref()?)));
            let subtests: Vec<Value> = timed()
                .map(|(outcome, times)| {
                    json!({
                        "name": outcome.case_id,
                        "value": times.median * 1e3,
                        "unit": "ms",
                        "lowerIsBetter": true,
                        "replicates": times.samples.iter().map(|s| s * 1e3).collect::<Vec<f64>>(),
                    })
                })
                .collect();
            if subtests.is_empty() {
                continue;
            }
            #[allow(clippy::cast_precision_loss)] // a count
            let count = subtests.len() as f64;
            let logs: f64 = timed().map(|(_, times)| (times.median * 1e3).ln()).sum();
            suites.push(json!({
                "name": format!("{}-{}", report.suite.name, chip(report, runner)),
                "value": (logs / count).exp(),
                "unit": "ms",
                "lowerIsBetter": true,
                "extraOptions": [runner, backend(report, runner)],
                "subtests": subtests,
            }));
        }
    }
    pretty(&json!({ "framework": { "name": "chipmark" }, "suites": suites }))
}
