//! `test-backend-ops perf` of llama.cpp as SQL: an INSERT a case with every field by its name. Its CSV
//! has no times.

use std::collections::{BTreeMap, HashMap};

use super::{Found, Source};
use crate::error::Result;
use crate::protocol::Device;
use crate::report::Claim;

const PROGRAM: &str = "llama.cpp test-backend-ops";

const INSERT: &str = "INSERT INTO test_backend_ops (";

/// The figures of a case: field, quantity, unit, and how many of it one is. Its GB are of 1024^3.
const FIGURES: [(&str, &str, &str, f64); 3] = [
    ("time_us", "duration", "s", 1e-6),
    ("flops", "operations_per_second", "op/s", 1.0),
    ("bandwidth_gb_s", "bytes_per_second", "B/s", 1_073_741_824.0),
];

/// The fields of a line. Values stand between apostrophes and hold what they hold: the program
/// doubles none.
fn fields<'a>(
    source: &Source<'_>,
    place: &str,
    line: &'a str,
) -> Result<HashMap<&'a str, &'a str>> {
    let refuse = |what: &str| source.refuse(&format!("{place}: {what}"));
    let rest = line.strip_prefix(INSERT).unwrap_or_default();
    let (names, values) = rest
        .split_once(") VALUES (")
        .ok_or_else(|| refuse("no VALUES after the names of fields"))?;
    let values = values
        .trim_end()
        .strip_prefix('\'')
        .and_then(|values| values.strip_suffix("');"))
        .ok_or_else(|| refuse("its values do not stand between (' and '); is the line whole?"))?;
    let names: Vec<&str> = names.split(", ").collect();
    let values: Vec<&str> = values.split("', '").collect();
    if names.len() != values.len() {
        return Err(refuse(&format!(
            "{} fields and {} values",
            names.len(),
            values.len()
        )));
    }
    Ok(names.into_iter().zip(values).collect())
}

pub fn read(source: &Source<'_>) -> Result<Vec<Found>> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for (index, line) in source.text.lines().enumerate() {
        if !line.starts_with(INSERT) {
            continue; // the table, and what other programs wrote into the same file
        }
        let place = format!("line {}", index + 1);
        let row = fields(source, &place, line)?;
        let field = |name: &str| {
            let value = row.get(name).copied();
            value.ok_or_else(|| source.refuse(&format!("{place}: {name} is missing")))
        };
        let mode = field("test_mode")?;
        if mode != "perf" {
            return Err(source.refuse(&format!("{place}: test_mode is {mode:?}, not \"perf\"")));
        }
        let backend = field("backend_name")?;
        let description = row.get("device_description").copied().unwrap_or_default();
        let registry = row.get("backend_reg_name").copied().unwrap_or_default();
        let or_backend = |text: &str| if text.is_empty() { backend } else { text }.to_owned();
        let at = field("test_time")?.to_owned();
        let of = found.entry(backend.to_owned()).or_insert_with(|| Found {
            device: Device {
                name: or_backend(description),
                backend: or_backend(registry).to_lowercase(),
                device_type: "other".to_owned(),
                runner: PROGRAM.to_owned(),
                ..Device::default()
            },
            host: None,
            at: Some(at),
            duration_s: 0.0,
            program: PROGRAM,
            claims: Vec::new(),
        });
        let claim = Claim {
            source: PROGRAM.to_owned(),
            source_version: Some(field("build_commit")?.to_owned()),
            op: field("op_name")?.to_owned(),
            case: field("op_params")?.to_owned(),
            ..Claim::default()
        };
        if field("supported")? != "1" {
            of.claims.push(Claim {
                figure: "time_us".to_owned(),
                quantity: "duration".to_owned(),
                unit: "s".to_owned(),
                reason: Some("not supported".to_owned()),
                ..claim
            });
            continue;
        }
        for (name, quantity, unit, scale) in FIGURES {
            let text = field(name)?;
            let value: f64 = text
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite() && *value >= 0.0)
                .ok_or_else(|| {
                    source.refuse(&format!(
                        "{place}: {name} is {text:?}, not a number of zero or more"
                    ))
                })?;
            // Of rate and bandwidth it gives one, and zero for the other.
            if value > 0.0 {
                of.claims.push(Claim {
                    figure: name.to_owned(),
                    quantity: quantity.to_owned(),
                    value: Some(value * scale),
                    unit: unit.to_owned(),
                    stated: Some(format!("{text} in {name}")),
                    ..claim.clone()
                });
            }
        }
    }
    if found.is_empty() {
        let what = if source.text.contains("\"op_name\",\"op_params\"") {
            "it is the CSV, which has no times"
        } else {
            "no line of it inserts into test_backend_ops"
        };
        return Err(source.refuse(what));
    }
    Ok(found.into_values().collect())
}
