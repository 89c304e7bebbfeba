//! OpenMetrics 1.0, and by care the older text format of Prometheus as well: gauges alone, base units
//! as suffixes, families not interleaved, line feeds, `# EOF`. The textfile collector takes no
//! timestamps; for what has passed there is `history`, with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{Named, backend, began_s, chip, figures, measured, shape};
use crate::error::{Error, Result};
use crate::report::{OutcomeStatus, Report};

/// Families that only a server has.
const STORED: &str = "chipmark_served_reports";
const LEFT_OUT: &str = "chipmark_served_files_left_out";

/// Families with their unit, which is the end of the name, and what they are.
const FAMILIES: [(&str, &str, &str); 18] = [
    (
        "chipmark_report_info",
        "",
        "A report: always one, with what made it.",
    ),
    (
        "chipmark_report_start_seconds",
        "seconds",
        "When the run began, in seconds since 1970.",
    ),
    (
        "chipmark_report_outcomes",
        "",
        "Outcomes of the report by what came of them.",
    ),
    (
        "chipmark_case_duration_seconds",
        "seconds",
        "Time of one call, caches hot.",
    ),
    (
        "chipmark_case_cold_duration_seconds",
        "seconds",
        "Time of one call, caches cold.",
    ),
    (
        "chipmark_case_operations_per_second",
        "",
        "Arithmetic operations per second at the median time.",
    ),
    (
        "chipmark_case_bytes_per_second",
        "",
        "Least bytes of a call per second at the median time.",
    ),
    (
        "chipmark_case_ceiling_ratio",
        "ratio",
        "Fraction of what the ceilings measured in the same run allow.",
    ),
    (
        "chipmark_case_datasheet_ratio",
        "ratio",
        "Fraction of what the datasheet of the chip allows.",
    ),
    (
        "chipmark_case_energy_joules",
        "joules",
        "Energy of one call.",
    ),
    (
        "chipmark_case_cold_energy_joules",
        "joules",
        "Energy of one call that finds its tensors in no cache.",
    ),
    (
        "chipmark_case_portability_gap_ratio",
        "ratio",
        "Time over that of the best library on the same device.",
    ),
    (
        "chipmark_ceiling_operations_per_second",
        "",
        "Peak of arithmetic that a probe measured.",
    ),
    (
        "chipmark_ceiling_bytes_per_second",
        "",
        "Peak of memory traffic that a probe measured.",
    ),
    (
        "chipmark_ceiling_duration_seconds",
        "seconds",
        "Least latency that a probe measured.",
    ),
    (
        "chipmark_case_measured",
        "",
        "Whether a case of the report has a number.",
    ),
    (STORED, "", "Reports in the folder that is served."),
    (
        LEFT_OUT,
        "",
        "Files in the folder that is served which are no reports to believe.",
    ),
];

/// The family of a figure.
fn family(figure: &str) -> &'static str {
    match figure {
        "duration" => "chipmark_case_duration_seconds",
        "cold_duration" => "chipmark_case_cold_duration_seconds",
        "operations_per_second" => "chipmark_case_operations_per_second",
        "bytes_per_second" => "chipmark_case_bytes_per_second",
        "fraction_of_ceiling" => "chipmark_case_ceiling_ratio",
        "fraction_of_datasheet" => "chipmark_case_datasheet_ratio",
        "energy" => "chipmark_case_energy_joules",
        "cold_energy" => "chipmark_case_cold_energy_joules",
        _ => "chipmark_case_portability_gap_ratio",
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    pairs.join(",")
}

/// The series of one report: family, labels, value.
fn series(name: &str, report: &Report) -> Result<Vec<(&'static str, String, f64)>> {
    let mut found = Vec::new();
    for record in &report.runners {
        let runner = &*record.runner.name;
        let pairs = [
            ("chip", &*chip(report, runner)),
            ("device", &record.device.name),
            ("backend", &record.device.backend),
            ("driver", &record.device.driver),
            ("runner", runner),
            ("runner_version", &record.runner.version),
            ("suite", &report.suite.name),
            ("chipmark_version", &report.tool.version),
            ("commit", report.tool.commit.as_deref().unwrap_or("")),
            ("report_id", &report.report_id),
        ];
        found.push(("chipmark_report_info", labels(&pairs), 1.0));
        #[allow(clippy::cast_precision_loss)] // seconds of this century
        let began = began_s(name, report)? as f64;
        let pairs = [
            ("chip", &*chip(report, runner)),
            ("backend", &record.device.backend),
            ("runner", runner),
            ("suite", &report.suite.name),
        ];
        found.push(("chipmark_report_start_seconds", labels(&pairs), began));
        for (word, status) in [
            ("measured", OutcomeStatus::Measured),
            ("skipped", OutcomeStatus::Skipped),
            ("failed", OutcomeStatus::Failed),
            ("implausible", OutcomeStatus::Implausible),
        ] {
            let of = report.with_status(status).filter(|o| o.runner == runner);
            let pairs = [&pairs[..], &[("status", word)]].concat();
            #[allow(clippy::cast_precision_loss)] // a count
            found.push((
                "chipmark_report_outcomes",
                labels(&pairs),
                of.count() as f64,
            ));
        }
    }
    let case = |outcome: &crate::report::Outcome| {
        let runner = &*outcome.runner;
        [
            ("chip", chip(report, runner)),
            ("backend", backend(report, runner).to_owned()),
            ("runner", runner.to_owned()),
            ("op", outcome.op.to_string()),
            ("dtype", outcome.dtype.to_string()),
            ("shape", shape(outcome).to_owned()),
        ]
    };
    for outcome in measured(report) {
        let case = case(outcome);
        let case: Vec<(&str, &str)> = case.iter().map(|(k, v)| (*k, &**v)).collect();
        for figure in figures(outcome) {
            let mut add = |stat: &str, value: f64| {
                let pairs = [&case[..], &[("stat", stat)]].concat();
                found.push((family(figure.name), labels(&pairs), value));
            };
            add("median", figure.value);
            if let Some((low, high)) = figure.interval {
                add("ci95_low", low);
                add("ci95_high", high);
            }
        }
    }
    for outcome in &report.outcomes {
        let case = case(outcome);
        let case: Vec<(&str, &str)> = case.iter().map(|(k, v)| (*k, &**v)).collect();
        let is = f64::from(u8::from(outcome.status == OutcomeStatus::Measured));
        found.push(("chipmark_case_measured", labels(&case), is));
    }
    for ceiling in &report.ceilings {
        let family = match &*ceiling.unit {
            "bytes_per_s" => "chipmark_ceiling_bytes_per_second",
            "s" => "chipmark_ceiling_duration_seconds",
            _ => "chipmark_ceiling_operations_per_second",
        };
        let pairs = [
            ("chip", &*chip(report, &ceiling.runner)),
            ("backend", backend(report, &ceiling.runner)),
            ("runner", &ceiling.runner),
            ("ceiling", &ceiling.name),
        ];
        found.push((family, labels(&pairs), ceiling.value));
    }
    Ok(found)
}

/// A family's lines, under its heading.
fn text(lines: &BTreeMap<&'static str, Vec<String>>) -> String {
    let mut text = String::new();
    for (name, unit, help) in FAMILIES {
        let Some(lines) = lines.get(name) else {
            continue;
        };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        if !unit.is_empty() {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
    }
    text.push_str("# EOF\n");
    text
}

pub fn write(reports: &[Named]) -> Result<String> {
    let mut lines: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (name, report) in reports {
        for (family, labels, value) in series(name, report)? {
            let line = format!("{family}{{{labels}}}");
            if !seen.insert(line.clone()) {
                return Err(Error::usage(format!(
                    "{name}: another of the reports has the same series {line}; openmetrics-history has a time for each"
                )));
            }
            lines
                .entry(family)
                .or_default()
                .push(format!("{line} {value}"));
        }
    }
    Ok(text(&lines))
}

/// What a server tells of a folder: the newest value of each series, of reports that come oldest first,
/// and how many files there are.
///
/// # Errors
/// As [`write`], but for series that several reports have.
pub fn served(reports: &[Named], stored: usize, left_out: usize) -> Result<String> {
    let mut values = BTreeMap::new();
    for (name, report) in reports {
        for (family, labels, value) in series(name, report)? {
            values.insert((family, format!("{family}{{{labels}}}")), value);
        }
    }
    let mut lines: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for ((family, line), value) in values {
        let of = lines.entry(family).or_default();
        of.push(format!("{line} {value}"));
    }
    for (family, count) in [(STORED, stored), (LEFT_OUT, left_out)] {
        lines.insert(family, vec![format!("{family} {count}")]);
    }
    Ok(text(&lines))
}

/// With the moment at which each run began; series by series, each in the order of time, as the
/// maker of blocks wants it.
pub fn history(reports: &[Named]) -> Result<String> {
    let mut points: BTreeMap<(&'static str, String), BTreeMap<i64, f64>> = BTreeMap::new();
    for (name, report) in reports {
        let began = began_s(name, report)?;
        for (family, labels, value) in series(name, report)? {
            let line = format!("{family}{{{labels}}}");
            let of = points.entry((family, line.clone())).or_default();
            if of.insert(began, value).is_some() {
                return Err(Error::usage(format!(
                    "{name}: another of the reports has {line} at the same second"
                )));
            }
        }
    }
    let mut lines: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for ((family, line), points) in points {
        let of = lines.entry(family).or_default();
        of.extend(
            points
                .iter()
                .map(|(at, value)| format!("{line} {value} {at}")),
        );
    }
    Ok(text(&lines))
}
