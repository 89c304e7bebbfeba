//! A long table: a row a figure, so that no column is empty for most cases and new figures are new
//! rows. A case without a number has one row with its reason. Claims of other programs come last, with
//! a status and figures that no measured case has.

use super::{Named, backend, chip, figures, record, shape};
use crate::display;
use crate::error::Result;
use crate::report::{Claim, OutcomeStatus};

const COLUMNS: [&str; 21] = [
    "report_id",
    "started_at",
    "suite",
    "commit",
    "chip",
    "device",
    "backend",
    "driver",
    "runner",
    "case_id",
    "op",
    "shape",
    "dtype",
    "kernel",
    "status",
    "figure",
    "unit",
    "value",
    "ci95_low",
    "ci95_high",
    "reason",
];

pub fn write(reports: &[Named]) -> Result<String> {
    let mut rows = Vec::new();
    for (_, report) in reports {
        for outcome in &report.outcomes {
            let runner = &outcome.runner;
            let device = record(report, runner).map_or(&report.device, |record| &record.device);
            let head = [
                report.report_id.clone(),
                report.started_at.clone(),
                report.suite.name.clone(),
                report.tool.commit.clone().unwrap_or_default(),
                chip(report, runner),
                device.name.clone(),
                backend(report, runner).to_owned(),
                device.driver.clone(),
                runner.clone(),
                outcome.case_id.clone(),
                outcome.op.to_string(),
                shape(outcome).to_owned(),
                outcome.dtype.to_string(),
                outcome.kernel.clone().unwrap_or_default(),
                outcome.status.word().to_owned(),
            ];
            let reason = outcome.reason.clone().unwrap_or_default();
            let mut add = |tail: [String; 6]| rows.push([&head[..], &tail[..]].concat());
            if outcome.status != OutcomeStatus::Measured {
                let none = String::new;
                add([none(), none(), none(), none(), none(), reason]);
                continue;
            }
            for figure in figures(outcome) {
                add([
                    figure.name.to_owned(),
                    figure.unit.to_owned(),
                    display::plain(Some(figure.value)),
                    display::plain(figure.interval.map(|(low, _)| low)),
                    display::plain(figure.interval.map(|(_, high)| high)),
                    String::new(),
                ]);
            }
        }
        for claim in &report.claims {
            let none = String::new;
            rows.push(vec![
                report.report_id.clone(),
                report.started_at.clone(),
                report.suite.name.clone(),
                report.tool.commit.clone().unwrap_or_default(),
                chip(report, ""),
                report.device.name.clone(),
                report.device.backend.clone(),
                report.device.driver.clone(),
                claim.program(),
                claim.case_text(),
                claim.op.clone(),
                none(),
                none(),
                none(),
                Claim::STATUS.to_owned(),
                format!("claimed_{}", claim.quantity),
                claim.unit.clone(),
                display::plain(claim.value),
                none(),
                none(),
                claim.remark(),
            ]);
        }
    }
    display::csv(&COLUMNS, rows.into_iter())
}
