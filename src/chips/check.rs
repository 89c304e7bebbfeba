//! What a file of chips may not say.

use std::collections::BTreeMap;

use super::identify::canonical;
use super::{Chip, Confidence, Figure, PeakDtype, Source};

type Checked = std::result::Result<(), String>;

/// A rate of one element type over another's by the same units: no engine is known to give more for
/// a halving of the bits than this, and a 2:4 headline beside a dense figure does.
const RATIO_MAX: f64 = 4.05;

/// Matrix units over ordinary ones in f32: the widest known is 117.
const MATRIX_OVER_VECTOR_MAX: f64 = 150.0;

/// An override this close to twice what the catalogue has is taken for a headline with sparsity.
const TWICE: std::ops::RangeInclusive<f64> = 1.95..=2.05;

/// Refuses peaks that count operations nobody does.
pub fn no_sparse(file: &toml::Table) -> Checked {
    fn walk(value: &toml::Value, path: &str, chip: &str) -> Checked {
        match value {
            toml::Value::Table(table) => table.iter().try_for_each(|(key, value)| {
                if key.to_lowercase().contains("spars") {
                    return Err(format!(
                        "chip {chip:?}: {path}{key} is a sparse peak; give the dense one, which of a 2:4 headline is half"
                    ));
                }
                walk(value, &format!("{path}{key}."), chip)
            }),
            _ => Ok(()),
        }
    }
    let chips = file.get("chips").and_then(toml::Value::as_array);
    chips.into_iter().flatten().try_for_each(|chip| {
        let id = chip.get("id").and_then(toml::Value::as_str).unwrap_or("?");
        walk(chip, "", id)
    })
}

/// Whether a text is a year, a month or a day: `2026`, `2026-07`, `2026-07-20`.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |part: &str, width: usize, range: std::ops::RangeInclusive<u32>| {
        part.len() == width
            && part
                .parse()
                .is_ok_and(|number: u32| range.contains(&number))
    };
    match parts[..] {
        [year] => number(year, 4, 2000..=2100),
        [year, month] => number(year, 4, 2000..=2100) && number(month, 2, 1..=12),
        [_, _, _] => text.parse::<jiff::civil::Date>().is_ok(),
        _ => false,
    }
}

/// Checks one chip. `before` is what it overrides.
pub fn chip(chip: &Chip, before: Option<&Chip>) -> Checked {
    let id = &chip.id;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if id.is_empty() || id.len() > 64 || !id.chars().all(plain) || id.starts_with('-') {
        return Err(format!(
            "chip id {id:?} must be lower-case letters, digits and hyphens, at most 64"
        ));
    }
    let refuse = |what: String| Err(format!("chip {id:?}: {what}"));
    if chip.name.is_empty() {
        return refuse("name is missing".to_owned());
    }
    let within = |field: &str, figure: &Option<Figure>, low: f64, high: f64| match figure {
        Some(figure) => amount(id, field, figure, low, high),
        None => Ok(()),
    };
    within("launch_year", &chip.launch_year, 2000.0, 2100.0)?;
    within("devices_per_chip", &chip.devices_per_chip, 1.0, 64.0)?;
    within("power_w", &chip.power_w, 0.1, 1e5)?;
    within("list_price_usd", &chip.list_price_usd, 1.0, 1e8)?;
    within("memory.bytes", &chip.memory.bytes, 1e6, 1e14)?;
    let bandwidth = &chip.memory.bandwidth_bytes_per_s;
    within("memory.bandwidth_bytes_per_s", bandwidth, 1e9, 1e17)?;
    within("peaks.clock_hz", &chip.peaks.clock_hz, 1e7, 1e10)?;
    let link = &chip.interconnect.bandwidth_bytes_per_s;
    within("interconnect.bandwidth_bytes_per_s", link, 1e6, 1e17)?;
    for figure in &chip.power_estimates_w {
        amount(id, "power_estimates_w", figure, 0.1, 1e5)?;
    }
    for (name, figure) in &chip.caches {
        amount(id, &format!("caches.{name}"), figure, 1e3, 1e12)?;
    }
    peaks(chip, before)?;
    prices(chip)?;
    if let Some(pci) = &chip.pci {
        let hex = |text: &String| {
            text.strip_prefix("0x").is_some_and(|digits| {
                digits.len() == 4
                    && digits
                        .chars()
                        .all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
            })
        };
        let all = std::iter::once(&pci.vendor_id).chain(&pci.device_ids);
        if let Some(wrong) = all.chain(&pci.shared_ids).find(|text| !hex(text)) {
            return refuse(format!(
                "pci: {wrong:?} must be four hexadecimal digits, such as 0x2330"
            ));
        }
        if let Some(lone) = pci
            .shared_ids
            .iter()
            .find(|id| !pci.device_ids.contains(id))
        {
            return refuse(format!(
                "pci: {lone} is in shared_ids but not in device_ids"
            ));
        }
    }
    Ok(())
}

fn amount(id: &str, field: &str, figure: &Figure, low: f64, high: f64) -> Checked {
    let value = figure.value;
    if !value.is_finite() || value < low || value > high {
        return Err(format!(
            "chip {id:?}: {field} is {value:e}; it must be from {low:e} to {high:e}"
        ));
    }
    if let Some(date) = figure.as_of.as_ref().filter(|date| !is_date(date)) {
        return Err(format!(
            "chip {id:?}: {field}: as_of is {date:?}; it must be a year, a month or a day, such as 2026-07-20"
        ));
    }
    Ok(())
}

fn peaks(chip: &Chip, before: Option<&Chip>) -> Checked {
    let id = &chip.id;
    let peaks = &chip.peaks;
    let tables = [
        ("matrix", &peaks.matrix, before.map(|b| &b.peaks.matrix)),
        ("vector", &peaks.vector, before.map(|b| &b.peaks.vector)),
        (
            "matrix_f16_accumulate",
            &peaks.matrix_f16_accumulate,
            before.map(|b| &b.peaks.matrix_f16_accumulate),
        ),
    ];
    for (table, by, old) in tables {
        for (dtype, figure) in by {
            let field = format!("peaks.{table}.{}", dtype.word());
            amount(id, &field, figure, 1e8, 1e18)?;
            let old = old
                .and_then(|old| old.get(dtype))
                .filter(|old| *old != figure);
            if let Some(old) = old
                && TWICE.contains(&(figure.value / old.value))
                && !figure
                    .note
                    .as_ref()
                    .is_some_and(|note| note.contains("dense"))
            {
                return Err(format!(
                    "chip {id:?}: {field} is {:e}, twice the dense {:e} of the catalogue, so it looks like a sparse peak; give the dense one, or a note that says it is dense",
                    figure.value, old.value
                ));
            }
        }
        use PeakDtype::{Bf16, F4, F8, F16, F32, I8, Tf32};
        for (more, less) in [
            (F8, F16),
            (I8, F16),
            (F8, Bf16),
            (I8, Bf16),
            (F4, F8),
            (F16, F32),
            (Bf16, F16),
            (F16, Tf32),
        ] {
            // Matrix units may have f32 at a small fraction for want of use.
            if (more, less) == (F16, F32) && table != "vector" {
                continue;
            }
            if let (Some(more_figure), Some(less_figure)) = (by.get(&more), by.get(&less))
                && more_figure.value / less_figure.value > RATIO_MAX
            {
                return Err(format!(
                    "chip {id:?}: peaks.{table}.{} is {:.1} times {}; more than 4 times is no dense peak",
                    more.word(),
                    more_figure.value / less_figure.value,
                    less.word()
                ));
            }
        }
    }
    let f32 = peaks.vector.get(&PeakDtype::F32);
    let f16 = peaks.matrix.get(&PeakDtype::F16);
    if let (Some(f16), Some(f32)) = (f16, f32)
        && f16.value / f32.value > MATRIX_OVER_VECTOR_MAX
    {
        return Err(format!(
            "chip {id:?}: peaks.matrix.f16 is {:.0} times peaks.vector.f32; more than {MATRIX_OVER_VECTOR_MAX} times is no one chip",
            f16.value / f32.value
        ));
    }
    for (what, list, by) in [
        ("matrix", &peaks.matrix_unsupported, &peaks.matrix),
        ("vector", &peaks.vector_unsupported, &peaks.vector),
    ] {
        if let Some(both) = list.iter().find(|dtype| by.contains_key(dtype)) {
            return Err(format!(
                "chip {id:?}: peaks.{what}_unsupported names {}, which has a peak",
                both.word()
            ));
        }
    }
    Ok(())
}

fn prices(chip: &Chip) -> Checked {
    let id = &chip.id;
    for price in &chip.prices {
        let field = format!("price of {}", price.provider);
        let hour = &price.usd_per_hour_chip;
        amount(id, &format!("{field}: usd_per_hour_chip"), hour, 1e-4, 1e4)?;
        if let Some(date) = price.as_of.as_ref().filter(|date| !is_date(date)) {
            return Err(format!(
                "chip {id:?}: {field}: as_of is {date:?}; it must be a year, a month or a day, such as 2026-07-20"
            ));
        }
        let Some(instance) = &price.usd_per_hour_instance else {
            continue;
        };
        amount(
            id,
            &format!("{field}: usd_per_hour_instance"),
            instance,
            1e-4,
            1e6,
        )?;
        let count = price.chips_per_instance.map_or(1.0, f64::from);
        if count < 1.0 || (instance.value / count / hour.value - 1.0).abs() > 0.01 {
            return Err(format!(
                "chip {id:?}: {field}: usd_per_hour_chip is {}, but the instance's {} over {count} chips is {}",
                hour.value,
                instance.value,
                instance.value / count
            ));
        }
    }
    Ok(())
}

/// Checks what only all chips together show.
pub fn together(chips: &[Chip], sources: &BTreeMap<String, Source>) -> Checked {
    let mut names: BTreeMap<String, &Chip> = BTreeMap::new();
    let mut ids: BTreeMap<(&str, &str), &Chip> = BTreeMap::new();
    for chip in chips {
        for alias in &chip.aliases {
            if let Some(other) = names
                .insert(canonical(alias), chip)
                .filter(|o| o.id != chip.id)
            {
                return Err(format!(
                    "chip {:?}: alias {alias:?} is {:?}'s too; what two chips report belongs to shared_aliases",
                    chip.id, other.id
                ));
            }
        }
        if let Some(pci) = &chip.pci {
            for id in pci
                .device_ids
                .iter()
                .filter(|id| !pci.shared_ids.contains(id))
            {
                if let Some(other) = ids.insert((&pci.vendor_id, id), chip) {
                    return Err(format!(
                        "chip {:?}: PCI id {id} is {:?}'s too; what two chips have belongs to shared_ids",
                        chip.id, other.id
                    ));
                }
            }
        }
    }
    for chip in chips {
        for alias in &chip.shared_aliases {
            if let Some(owner) = names.get(&canonical(alias)) {
                return Err(format!(
                    "chip {:?}: shared alias {alias:?} is an alias of {:?}, which it cannot be alone",
                    chip.id, owner.id
                ));
            }
        }
        for figure in figures(chip) {
            let known = |source: &String| {
                figure.confidence == Confidence::User || sources.contains_key(source)
            };
            if figure.sources.is_empty() || !figure.sources.iter().all(known) {
                return Err(format!(
                    "chip {:?}: the number {:e} names no known source: {:?}",
                    chip.id, figure.value, figure.sources
                ));
            }
        }
    }
    Ok(())
}

/// Every number of a chip.
pub fn figures(chip: &Chip) -> Vec<&Figure> {
    let peaks = &chip.peaks;
    [
        &chip.launch_year,
        &chip.devices_per_chip,
        &chip.power_w,
        &chip.list_price_usd,
        &chip.memory.bytes,
        &chip.memory.bandwidth_bytes_per_s,
        &peaks.clock_hz,
        &chip.interconnect.bandwidth_bytes_per_s,
    ]
    .into_iter()
    .flatten()
    .chain(&chip.power_estimates_w)
    .chain(chip.caches.values())
    .chain(peaks.matrix.values())
    .chain(peaks.vector.values())
    .chain(peaks.matrix_f16_accumulate.values())
    .chain(chip.prices.iter().flat_map(|price| {
        std::iter::once(&price.usd_per_hour_chip).chain(&price.usd_per_hour_instance)
    }))
    .collect()
}
