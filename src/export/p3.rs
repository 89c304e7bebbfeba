//! The table that p3-analysis reads for cascade plots and navigation charts: a problem is a case, a
//! platform a chip by an API, an application a runner, the figure of merit its median time.

use std::collections::BTreeMap;

use super::{Named, backend, chip, measured};
use crate::display;
use crate::error::Result;
use crate::report::{Outcome, Report};

pub fn write(reports: &[Named]) -> Result<String> {
    let all: Vec<(&Report, &Outcome, f64)> = reports
        .iter()
        .flat_map(|(_, report)| measured(report).map(move |outcome| (report, outcome)))
        .filter(|(_, outcome)| !outcome.op.is_probe())
        .filter_map(|(report, outcome)| Some((report, outcome, outcome.time_s.as_ref()?.median)))
        .collect();
    let key = |report: &Report, outcome: &Outcome| {
        (chip(report, &outcome.runner), outcome.case_id.clone())
    };
    let mut best: BTreeMap<(String, String), f64> = BTreeMap::new();
    for (report, outcome, time) in &all {
        let of = best.entry(key(report, outcome)).or_insert(*time);
        *of = of.min(*time);
    }
    let rows = all.iter().map(|(report, outcome, time)| {
        let best = best.get(&key(report, outcome)).copied().unwrap_or(*time);
        vec![
            outcome.case_id.clone(),
            format!(
                "{} {}",
                chip(report, &outcome.runner),
                backend(report, &outcome.runner)
            ),
            outcome.runner.clone(),
            time.to_string(),
            // An efficiency above one is a cache that the probe of memory did not have.
            display::plain(
                outcome
                    .fraction_of_ceiling
                    .map(|fraction| fraction.min(1.0)),
            ),
            (best / time).to_string(),
        ]
    });
    let columns = [
        "problem",
        "platform",
        "application",
        "fom",
        "arch eff",
        "app eff",
    ];
    display::csv(&columns, rows)
}
