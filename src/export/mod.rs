//! Reports in the formats that dashboards already read, one file each.
//!
//! Numbers come from measured cases alone. Formats that have a place for what was not measured
//! (`junit`, `csv`, `jsonl`, `parquet`) say why. What other programs claim goes into `csv`, `jsonl`
//! and `parquet` alone, under a status of its own.

mod bmf;
mod csv;
mod github_action;
mod google_benchmark;
mod jsonl;
mod junit;
pub(crate) mod openmetrics;
mod otlp;
mod p3;
mod parquet;
mod perfherder;
mod pytorch_hud;
mod skia_perf;

use crate::error::{Error, Result};
use crate::op::OpName;
use crate::report::{Outcome, OutcomeStatus, Report, RunnerRecord, Times, slug};

/// A report with the name it was given by.
pub type Named = (String, Report);

/// How a format is made.
enum Writer {
    /// Of one report: what the format says of the machine holds for all of it.
    One(fn(&Report) -> Result<String>),
    /// Of any number.
    Many(fn(&[Named]) -> Result<String>),
    /// Of any number, and no text.
    Binary(fn(&[Named]) -> Result<Vec<u8>>),
}

/// Every format, with what reads it.
const FORMATS: [(&str, &str, Writer); 15] = [
    ("bmf", "Bencher Metric Format", Writer::One(bmf::write)),
    (
        "github-action-smaller",
        "github-action-benchmark, customSmallerIsBetter",
        Writer::Many(github_action::smaller),
    ),
    (
        "github-action-bigger",
        "github-action-benchmark, customBiggerIsBetter",
        Writer::Many(github_action::bigger),
    ),
    (
        "google-benchmark",
        "what reads Google Benchmark's JSON, such as its compare.py",
        Writer::One(google_benchmark::write),
    ),
    (
        "openmetrics",
        "Prometheus, by its textfile collector or a scrape",
        Writer::Many(openmetrics::write),
    ),
    (
        "openmetrics-history",
        "promtool tsdb create-blocks-from openmetrics",
        Writer::Many(openmetrics::history),
    ),
    (
        "junit",
        "continuous integration",
        Writer::Many(junit::write),
    ),
    (
        "csv",
        "spreadsheets and data frames: a row a figure",
        Writer::Many(csv::write),
    ),
    (
        "jsonl",
        "log stores and DuckDB: an object a case",
        Writer::Many(jsonl::write),
    ),
    (
        "parquet",
        "DuckDB, ClickHouse, Spark, pandas: a row a case, and no text",
        Writer::Binary(parquet::write),
    ),
    (
        "otlp",
        "OpenTelemetry collectors: an object a report",
        Writer::Many(otlp::write),
    ),
    (
        "skia-perf",
        "Skia Perf, format 1",
        Writer::One(skia_perf::write),
    ),
    (
        "pytorch-hud",
        "PyTorch's dashboard, format 3",
        Writer::Many(pytorch_hud::write),
    ),
    (
        "perfherder",
        "Mozilla's Perfherder",
        Writer::Many(perfherder::write),
    ),
    (
        "p3",
        "p3-analysis: cascades and navigation charts",
        Writer::Many(p3::write),
    ),
];

/// The formats that have a place for what nobody verified.
const WITH_CLAIMS: [&str; 3] = ["csv", "jsonl", "parquet"];

/// The names of all formats.
#[must_use]
pub fn names() -> Vec<&'static str> {
    FORMATS.iter().map(|(name, _, _)| *name).collect()
}

/// What each format is for, one line each.
#[must_use]
pub fn purposes() -> String {
    let lines: Vec<String> = FORMATS
        .iter()
        .map(|(name, reader, _)| format!("  {name:<22} {reader}"))
        .collect();
    lines.join("\n")
}

/// Whether a format is no text, which a terminal would take for commands.
#[must_use]
pub fn is_binary(format: &str) -> bool {
    FORMATS
        .iter()
        .any(|(name, _, writer)| *name == format && matches!(writer, Writer::Binary(_)))
}

/// Writes reports in a format.
///
/// # Errors
/// A usage error where the format is not known, takes one report and there are several, or no case of
/// them was measured.
pub fn export(format: &str, reports: &[Named]) -> Result<Vec<u8>> {
    let Some((_, _, writer)) = FORMATS.iter().find(|(name, _, _)| *name == format) else {
        return Err(Error::usage(format!(
            "export: no format {format:?} is known; there are {}",
            names().join(", ")
        )));
    };
    for (name, report) in reports {
        if report.with_status(OutcomeStatus::Measured).next().is_some() {
            continue;
        }
        if report.claims.is_empty() {
            return Err(Error::usage(format!(
                "{name}: it has no measured case to export"
            )));
        }
        if !WITH_CLAIMS.contains(&format) {
            return Err(Error::usage(format!(
                "{name}: it has no measured case, only unverified claims of other programs, and those go into {} alone",
                WITH_CLAIMS.join(", ")
            )));
        }
    }
    match (writer, reports) {
        (Writer::Many(write), reports) => Ok(write(reports)?.into_bytes()),
        (Writer::Binary(write), reports) => write(reports),
        (Writer::One(write), [(_, report)]) => Ok(write(report)?.into_bytes()),
        (Writer::One(_), _) => Err(Error::usage(format!(
            "export {format}: it holds one report, and {} were named; export each by itself",
            reports.len()
        ))),
    }
}

/// One figure of a measured case.
struct Figure {
    /// What it is, in words joined by underscores.
    name: &'static str,
    /// `s`, `op/s`, `B/s`, `J` or `1`.
    unit: &'static str,
    value: f64,
    /// The ends of its 95 % interval, where it has one.
    interval: Option<(f64, f64)>,
    bigger_is_better: bool,
}

fn duration(name: &'static str, times: &Times) -> Figure {
    Figure {
        name,
        unit: "s",
        value: times.median,
        interval: Some((times.ci95_low, times.ci95_high)),
        bigger_is_better: false,
    }
}

/// Every figure of a measured case, its time first. Rates of what does no work are left out, as they
/// are on the screen.
fn figures(outcome: &Outcome) -> Vec<Figure> {
    let Some(times) = &outcome.time_s else {
        return Vec::new();
    };
    let mut figures = vec![duration("duration", times)];
    let scaled = |value: f64| {
        // What is inverse to the time has the interval of the time, turned round.
        Some((
            value * times.median / times.ci95_high,
            value * times.median / times.ci95_low,
        ))
    };
    let rated = outcome.op.has_roofline() && outcome.op != OpName::Empty;
    let mut bigger = |name, unit, value: Option<f64>| {
        if let Some(value) = value {
            figures.push(Figure {
                name,
                unit,
                value,
                interval: scaled(value),
                bigger_is_better: true,
            });
        }
    };
    if rated {
        bigger("operations_per_second", "op/s", outcome.flops_per_second);
        bigger("bytes_per_second", "B/s", outcome.bytes_per_second);
        bigger("fraction_of_ceiling", "1", outcome.fraction_of_ceiling);
        bigger("fraction_of_datasheet", "1", outcome.fraction_of_datasheet);
    }
    if let Some(energy) = &outcome.energy {
        // Series of one name hold what was counted alike.
        let is_cold = energy.cache() == "cold";
        figures.push(Figure {
            name: if is_cold { "cold_energy" } else { "energy" },
            unit: "J",
            value: energy.joules,
            interval: None,
            bigger_is_better: false,
        });
    }
    if let Some(gap) = &outcome.gap {
        figures.push(Figure {
            name: "portability_gap",
            unit: "1",
            value: gap.time_ratio,
            interval: Some((gap.low, gap.high)),
            bigger_is_better: false,
        });
    }
    let cold = |regime: &&crate::report::Regime| regime.cache == "cold" && regime.data == "uniform";
    if let Some(regime) = outcome.regimes.iter().find(cold) {
        figures.push(duration("cold_duration", &regime.time_s));
    }
    figures
}

fn record<'a>(report: &'a Report, runner: &str) -> Option<&'a RunnerRecord> {
    report.runners.iter().find(|r| r.runner.name == runner)
}

/// The chip that a runner ran on: its id in the catalogue, else the name of its device as a slug.
fn chip(report: &Report, runner: &str) -> String {
    let device = record(report, runner).map_or(&report.device, |record| &record.device);
    device.chip_id.clone().unwrap_or_else(|| slug(&device.name))
}

/// The API that a runner reached it by.
fn backend<'a>(report: &'a Report, runner: &str) -> &'a str {
    let device = record(report, runner).map_or(&report.device, |record| &record.device);
    &device.backend
}

/// The sizes of a case as its id has them: `m1024_n1024_k1024`.
fn shape(outcome: &Outcome) -> &str {
    outcome.case_id.split('/').nth(1).unwrap_or_default()
}

/// The moment at which a report was begun.
fn began(name: &str, report: &Report) -> Result<jiff::Timestamp> {
    report.started_at.parse().map_err(|error| {
        Error::usage(format!(
            "{name}: started_at is {:?}, which is no moment: {error}",
            report.started_at
        ))
    })
}

/// It in seconds since 1970.
fn began_s(name: &str, report: &Report) -> Result<i64> {
    Ok(began(name, report)?.as_second())
}

/// It in milliseconds since 1970.
fn began_ms(name: &str, report: &Report) -> Result<i64> {
    Ok(began(name, report)?.as_millisecond())
}

/// Measured outcomes.
fn measured(report: &Report) -> impl Iterator<Item = &Outcome> {
    report.with_status(OutcomeStatus::Measured)
}

/// JSON with a line feed at its end.
fn pretty(value: &serde_json::Value) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::internal(format!("export: {error}")))?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests;
