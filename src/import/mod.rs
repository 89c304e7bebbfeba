//! `chipmark import`: figures that other benchmarks printed, brought into a report as claims.
//!
//! A claim is not an outcome. Nobody here verified what was computed or how it was timed, so claims
//! stand in a list of their own that nothing compares, ranks or sums up; they can be looked at and
//! exported beside what was measured.

mod clpeak;
mod llama_cpp;
mod nvbench;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::display;
use crate::error::{Error, Result, one_line};
use crate::files;
use crate::protocol::Device;
use crate::report::{Claim, Host, Report, SCHEMA_VERSION, Status, Suite, Tool};
use crate::shader::sha256;

/// A reader: of a text with its name in front of complaints.
type Reader = fn(&Source<'_>) -> Result<Vec<Found>>;

/// Every format, with the command that writes it.
const FORMATS: [(&str, &str, Reader); 3] = [
    (
        "clpeak",
        "clpeak -o FILE, or --xml-file FILE of clpeak 1",
        clpeak::read,
    ),
    (
        "nvbench",
        "a benchmark of nvbench with --json FILE",
        nvbench::read,
    ),
    (
        "llama-cpp",
        "test-backend-ops perf --output sql > FILE",
        llama_cpp::read,
    ),
];

/// The names of all formats.
#[must_use]
pub fn names() -> Vec<&'static str> {
    FORMATS.iter().map(|(name, _, _)| *name).collect()
}

/// What writes each format, one line each.
#[must_use]
pub fn writers() -> String {
    let lines: Vec<String> = FORMATS
        .iter()
        .map(|(name, writer, _)| format!("  {name:<12} {writer}"))
        .collect();
    lines.join("\n")
}

/// A file that is read.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
    /// What makes a file that can be read, for complaints.
    remedy: String,
}

impl Source<'_> {
    fn refuse(&self, what: &str) -> Error {
        Error::usage(format!(
            "{}: {}; {}",
            self.name,
            one_line(what),
            self.remedy
        ))
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(self.text).map_err(|error| {
            self.refuse(&if error.is_eof() {
                format!("it ends in the middle of the JSON ({error})")
            } else {
                format!("it is not JSON: {error}")
            })
        })
    }
}

/// What a file says of one device.
struct Found {
    device: Device,
    host: Option<Host>,
    /// When, if the file says so, in UTC (RFC 3339).
    at: Option<String>,
    duration_s: f64,
    /// The program that printed it.
    program: &'static str,
    claims: Vec<Claim>,
}

/// A value of a JSON file with the way to it.
#[derive(Clone)]
struct At<'a> {
    source: &'a Source<'a>,
    path: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    fn root(source: &'a Source<'a>, value: &'a Value) -> Self {
        Self {
            source,
            path: String::new(),
            value,
        }
    }

    fn refuse(&self, what: &str) -> Error {
        self.source.refuse(&format!("{} {what}", self.path))
    }

    fn maybe(&self, key: &str) -> Option<At<'a>> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        let dot = if self.path.is_empty() { "" } else { "." };
        Some(At {
            source: self.source,
            path: format!("{}{dot}{key}", self.path),
            value,
        })
    }

    fn get(&self, key: &str) -> Result<At<'a>> {
        self.maybe(key).ok_or_else(|| {
            let dot = if self.path.is_empty() { "" } else { "." };
            self.source
                .refuse(&format!("{}{dot}{key} is missing", self.path))
        })
    }

    fn items(&self) -> Result<Vec<At<'a>>> {
        let Some(values) = self.value.as_array() else {
            return Err(self.refuse("is no list"));
        };
        let at = |(index, value)| At {
            source: self.source,
            path: format!("{}[{index}]", self.path),
            value,
        };
        Ok(values.iter().enumerate().map(at).collect())
    }

    fn text(&self) -> Result<&'a str> {
        let text = self.value.as_str();
        text.ok_or_else(|| self.refuse(&format!("is {}, not a text", self.value)))
    }

    /// The text at a key, where there is one.
    fn text_of(&self, key: &str) -> Result<Option<&'a str>> {
        self.maybe(key).map(|at| at.text()).transpose()
    }

    /// A number, which some write as a text so that no digit is lost.
    fn number(&self) -> Result<f64> {
        let number = match self.value {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_f64(),
        };
        number
            .filter(|number: &f64| number.is_finite() && *number >= 0.0)
            .ok_or_else(|| self.refuse(&format!("is {}, not a number of zero or more", self.value)))
    }

    /// A number as the file has it.
    fn digits(&self) -> String {
        match self.value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        }
    }
}

/// The reports that a file makes: one a device, in the order of the file.
///
/// # Errors
/// A usage error that names the file, the field and what would write a readable one.
pub fn import(format: &str, path: &Path, command: &str) -> Result<Vec<Report>> {
    let Some((_, writer, read)) = FORMATS.iter().find(|(name, _, _)| *name == format) else {
        return Err(Error::usage(format!(
            "import: no format {format:?} is known; there are {}",
            names().join(", ")
        )));
    };
    let name = path.display().to_string();
    let refuse = |error: std::io::Error| Error::usage(format!("{name}: {error}"));
    let text = files::read_text(path).map_err(refuse)?;
    let source = Source {
        name: &name,
        text: &text,
        remedy: format!("{format} reads what this writes: {writer}"),
    };
    let found = read(&source)?;
    if found.iter().all(|found| found.claims.is_empty()) {
        return Err(source.refuse("it holds no figure"));
    }
    // A file without a date is as old as its last change.
    let written = fs::metadata(path)
        .and_then(|facts| facts.modified())
        .map_err(refuse)?;
    let written = jiff::Timestamp::try_from(written)
        .map_err(|error| Error::usage(format!("{name}: its date: {error}")))?;
    let written = written.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let found = found.into_iter().filter(|found| !found.claims.is_empty());
    found
        .map(|mut found| {
            clean(&mut found);
            let at = found.at.unwrap_or_else(|| written.clone());
            at.parse::<jiff::Timestamp>().map_err(|error| {
                source.refuse(&format!("its date is {at:?}, which is no moment: {error}"))
            })?;
            let unknown = || "unknown".to_owned();
            let mut report = Report {
                schema_version: SCHEMA_VERSION.to_owned(),
                report_id: String::new(),
                status: Status::Complete,
                started_at: at,
                duration_s: found.duration_s,
                seed: 0,
                tool: Tool {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    commit: option_env!("CHIPMARK_COMMIT").map(str::to_owned),
                    command: command.to_owned(),
                },
                // That of the file: this machine may be another.
                host: found.host.unwrap_or_else(|| Host {
                    os: unknown(),
                    kernel: unknown(),
                    cpu: unknown(),
                    cpu_count: 0,
                    memory_bytes: 0,
                }),
                suite: Suite {
                    name: format!("import {}", found.program),
                    sha256: sha256(text.as_bytes()),
                    shard: None,
                },
                device: found.device,
                chip: None,
                runners: Vec::new(),
                ceilings: Vec::new(),
                memory: Vec::new(),
                calibration: None,
                interleave_id: None,
                outcomes: Vec::new(),
                claims: found.claims,
            };
            report.seal()?;
            Ok(report)
        })
        .collect()
}

/// Takes out what would steer the terminal it is shown in: the file may come from anyone.
fn clean(found: &mut Found) {
    let plain = |text: &mut String| {
        if text.contains(char::is_control) {
            *text = text.replace(char::is_control, " ").trim().to_owned();
        }
    };
    let device = &mut found.device;
    for text in [&mut device.name, &mut device.backend, &mut device.driver] {
        plain(text);
    }
    for claim in &mut found.claims {
        let always = [&mut claim.op, &mut claim.case, &mut claim.figure];
        always.into_iter().for_each(plain);
        [&mut claim.quantity, &mut claim.unit]
            .into_iter()
            .for_each(plain);
        let version = claim.source_version.iter_mut();
        let rest = version
            .chain(claim.stated.iter_mut())
            .chain(claim.reason.iter_mut());
        rest.for_each(plain);
    }
}

/// The claims of a report for people, under a heading that says what they are.
#[must_use]
pub fn table(report: &Report) -> String {
    let programs: BTreeSet<String> = report.claims.iter().map(Claim::program).collect();
    let programs: Vec<String> = programs.into_iter().collect();
    let rows: Vec<Vec<String>> = report
        .claims
        .iter()
        .map(|claim| {
            let figure = match (claim.value, &claim.reason) {
                (Some(value), _) => format!("{}{}", display::si(value), claim.unit),
                (None, reason) => format!("none: {}", reason.as_deref().unwrap_or("unknown")),
            };
            vec![
                claim.op.clone(),
                claim.case.clone(),
                claim.figure.clone(),
                figure,
            ]
        })
        .collect();
    format!(
        "UNVERIFIED: what {} printed about {} ({}). Nobody checked results or clocks; nothing here is compared or ranked.\n{}\n",
        programs.join(" and "),
        report.device.name,
        report.device.backend,
        display::table(&["op", "case", "figure", "claimed"], &rows)
    )
}

#[cfg(test)]
mod tests;
