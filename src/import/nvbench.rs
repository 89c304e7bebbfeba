//! nvbench's JSON: benchmarks, each with states (a point of its axes on a device), each with summaries
//! that are known by their tags.

use std::collections::BTreeMap;

use super::{At, Found, Source};
use crate::error::Result;
use crate::protocol::Device;
use crate::report::Claim;

const PROGRAM: &str = "nvbench";

/// What a summary is by its hint: quantity and unit. Its means and rates are figures; how they scatter
/// and what was counted on the way is not.
fn figure(tag: &str, hint: &str) -> Option<(&'static str, &'static str)> {
    match hint {
        "duration" if tag.ends_with("/mean") || tag.ends_with("/median") => Some(("duration", "s")),
        "byte_rate" => Some(("bytes_per_second", "B/s")),
        "item_rate" => Some(("items_per_second", "1/s")),
        _ => None,
    }
}

pub fn read(source: &Source<'_>) -> Result<Vec<Found>> {
    let value = source.json()?;
    let root = At::root(source, &value);
    let versions = root.get("meta")?.get("version")?;
    let version = versions.get("nvbench")?.get("string")?.text()?;
    // The versions before put benchmarks and summaries under other keys.
    let format = versions.get("json")?.get("major")?;
    if format.value.as_u64() != Some(1) {
        return Err(format.refuse(&format!(
            "is {}, and 1 is the one that is known",
            format.value
        )));
    }
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    for device in root.get("devices")?.items()? {
        let id = device.get("id")?;
        let number = id.value.as_u64();
        let number = number.ok_or_else(|| id.refuse(&format!("is {}, not a number", id.value)))?;
        let of = Found {
            device: Device {
                name: device.get("name")?.text()?.to_owned(),
                backend: "cuda".to_owned(),
                device_type: "other".to_owned(),
                runner: PROGRAM.to_owned(),
                ..Device::default()
            },
            host: None,
            at: None,
            duration_s: 0.0,
            program: PROGRAM,
            claims: Vec::new(),
        };
        if found.insert(number, of).is_some() {
            return Err(id.refuse(&format!("is {number}, as that of another device")));
        }
    }
    for benchmark in root.get("benchmarks")?.items()? {
        let op = benchmark.get("name")?.text()?;
        let states = benchmark.maybe("states").map(|at| at.items()).transpose()?;
        for state in states.unwrap_or_default() {
            let id = state.get("device")?;
            let of = id.value.as_u64().and_then(|id| found.get_mut(&id));
            let of =
                of.ok_or_else(|| id.refuse(&format!("is {}, which is none of devices", id.value)))?;
            let claim = Claim {
                source: PROGRAM.to_owned(),
                source_version: Some(version.to_owned()),
                op: op.to_owned(),
                case: state.text_of("name")?.unwrap_or_default().to_owned(),
                ..Claim::default()
            };
            let skipped = state.maybe("is_skipped");
            if skipped.is_some_and(|at| at.value.as_bool() == Some(true)) {
                let why = state.text_of("skip_reason")?.unwrap_or("no reason given");
                of.claims.push(Claim {
                    figure: "state".to_owned(),
                    quantity: "duration".to_owned(),
                    unit: "s".to_owned(),
                    reason: Some(format!("skipped: {why}")),
                    ..claim
                });
                continue;
            }
            let summaries = state.maybe("summaries").map(|at| at.items()).transpose()?;
            for summary in summaries.unwrap_or_default() {
                let tag = summary.get("tag")?.text()?;
                let hint = summary.text_of("hint")?.unwrap_or_default();
                let Some((quantity, unit)) = figure(tag, hint) else {
                    continue;
                };
                let data = summary.get("data")?;
                let mut values = data.items()?.into_iter();
                let value = values.find(|at| at.value["name"] == "value");
                let value = value
                    .ok_or_else(|| data.refuse("has no value"))?
                    .get("value")?;
                of.claims.push(Claim {
                    figure: tag.to_owned(),
                    quantity: quantity.to_owned(),
                    value: Some(value.number()?),
                    unit: unit.to_owned(),
                    stated: Some(format!("{} {unit}", value.digits())),
                    ..claim.clone()
                });
            }
        }
    }
    Ok(found.into_values().collect())
}
