//! The catalogue as people read it.

use std::fmt::Write;

use super::{Chip, Chips, Figure, PeakDtype};
use crate::display;
use crate::error::Result;

/// The chip of this id, else those whose id, name or vendor holds the text.
///
/// # Errors
/// A usage error where there is none.
pub fn find<'a>(chips: &'a Chips, text: &str) -> Result<Vec<&'a Chip>> {
    if let Some(chip) = chips.get(text) {
        return Ok(vec![chip]);
    }
    let wanted = text.to_lowercase();
    let found: Vec<&Chip> = chips
        .all()
        .iter()
        .filter(|chip| {
            [&chip.id, &chip.name, &chip.vendor]
                .into_iter()
                .any(|field| field.to_lowercase().contains(&wanted))
        })
        .collect();
    if found.is_empty() {
        chips.wanted(text)?;
    }
    Ok(found)
}

fn short(figure: Option<&Figure>, unit: &str) -> String {
    figure.map_or_else(
        || "-".to_owned(),
        |figure| {
            // What nobody found a source for is marked wherever it stands.
            let mark = match figure.confidence {
                super::Confidence::Recalled => "?",
                _ => "",
            };
            format!("{}{unit}{mark}", display::si(figure.value))
        },
    )
}

/// One line a chip.
#[must_use]
pub fn overview(chips: &[&Chip]) -> String {
    let rows: Vec<Vec<String>> = chips
        .iter()
        .map(|chip| {
            let matrix = [PeakDtype::F16, PeakDtype::Bf16];
            let matrix = matrix.iter().find_map(|d| chip.peaks.matrix.get(d));
            let price = chip.price(None);
            vec![
                chip.id.clone(),
                short(matrix, "FLOP/s"),
                short(chip.peaks.vector.get(&PeakDtype::F32), "FLOP/s"),
                short(chip.memory.bytes.as_ref(), "B"),
                short(chip.memory.bandwidth_bytes_per_s.as_ref(), "B/s"),
                short(chip.power_w.as_ref(), "W"),
                price.map_or_else(
                    || "-".to_owned(),
                    |price| format!("{:.2}", price.usd_per_hour_chip.value),
                ),
                price.map_or_else(
                    || "-".to_owned(),
                    |price| {
                        let date = price.as_of.as_deref().unwrap_or("undated");
                        format!("{}, {}, {date}", price.provider, price.pricing.word())
                    },
                ),
                if chip.has_wgpu_path { "wgpu" } else { "runner" }.to_owned(),
            ]
        })
        .collect();
    let headings = [
        "chip",
        "matrix f16",
        "vector f32",
        "memory",
        "bandwidth",
        "power",
        "$/h",
        "price of",
        "by",
    ];
    format!(
        "{}\n\n{} chips; peaks are dense; ? marks a number that no source was found for; - what is not known. `chipmark chips ID` tells the source of each number.\n",
        display::table(&headings, &rows),
        chips.len()
    )
}

/// All that is known of one chip.
#[must_use]
pub fn details(chip: &Chip, chips: &Chips) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |what: &str, figure: Option<&Figure>, unit: &str| {
        if let Some(figure) = figure {
            let value = match unit {
                "" => format!("{}", figure.value),
                "$" => format!("{} $", figure.value),
                _ => format!("{}{unit}", display::si(figure.value)),
            };
            let mut notes: Vec<String> = figure.as_of.iter().cloned().collect();
            if figure.derived {
                notes.push("derived".to_owned());
            }
            notes.extend(figure.note.clone());
            rows.push(vec![
                what.to_owned(),
                value,
                figure.confidence.word().to_owned(),
                figure.sources.join(", "),
                notes.join("; "),
            ]);
        }
    };
    let peaks = &chip.peaks;
    for (units, table) in [
        ("matrix", &peaks.matrix),
        ("matrix, sums in f16,", &peaks.matrix_f16_accumulate),
        ("vector", &peaks.vector),
    ] {
        for (dtype, figure) in table {
            let unit = if *dtype == PeakDtype::I8 {
                "op/s"
            } else {
                "FLOP/s"
            };
            add(&format!("{units} {}", dtype.word()), Some(figure), unit);
        }
    }
    add("clock", peaks.clock_hz.as_ref(), "Hz");
    add("memory", chip.memory.bytes.as_ref(), "B");
    add(
        "memory bandwidth",
        chip.memory.bandwidth_bytes_per_s.as_ref(),
        "B/s",
    );
    for (name, figure) in &chip.caches {
        add(name.trim_end_matches("_bytes"), Some(figure), "B");
    }
    add(
        "link",
        chip.interconnect.bandwidth_bytes_per_s.as_ref(),
        "B/s",
    );
    add("power", chip.power_w.as_ref(), "W");
    for figure in &chip.power_estimates_w {
        add("power, as others guess", Some(figure), "W");
    }
    add("devices per chip", chip.devices_per_chip.as_ref(), "");
    add("launched", chip.launch_year.as_ref(), "");
    add("list price", chip.list_price_usd.as_ref(), "$");
    for price in &chip.prices {
        add(
            &format!("an hour, {}", price.origin()),
            Some(&price.usd_per_hour_chip),
            "$",
        );
    }
    let mut used: Vec<&str> = super::check::figures(chip)
        .into_iter()
        .flat_map(|figure| figure.sources.iter().map(String::as_str))
        .collect();
    used.sort_unstable();
    used.dedup();
    let mut text = format!("{}: {}, {}\n", chip.id, chip.name, chip.vendor);
    let mut line = |what: &str, content: &str| {
        if !content.is_empty() {
            let _ = writeln!(text, "  {what}: {content}");
        }
    };
    line("family", &chip.family);
    line("architecture", &chip.architecture);
    line("made in", &chip.process);
    line("memory", &chip.memory.kind);
    line(
        "link",
        chip.interconnect.name.as_deref().unwrap_or_default(),
    );
    line("peaks assume", &peaks.clock_basis);
    line("reached by", &chip.reachable_by.join(", "));
    line("reported as", &chip.aliases.join(", "));
    line("reported as, with others", &chip.shared_aliases.join(", "));
    if let Some(pci) = &chip.pci {
        let shared = |id: &String| {
            if pci.shared_ids.contains(id) {
                " (with others)"
            } else {
                ""
            }
        };
        let ids: Vec<String> = pci
            .device_ids
            .iter()
            .map(|id| format!("{}:{}{}", &pci.vendor_id[2..], &id[2..], shared(id)))
            .collect();
        line("PCI ids", &ids.join(", "));
    }
    let words = |list: &[PeakDtype]| list.iter().map(|d| d.word()).collect::<Vec<_>>().join(", ");
    line("matrix units have no", &words(&peaks.matrix_unsupported));
    line("vector units have no", &words(&peaks.vector_unsupported));
    line("note", chip.variant_note.as_deref().unwrap_or_default());
    for note in chip.notes.iter().chain(&peaks.notes) {
        line("note", note);
    }
    let headings = ["figure", "value", "confidence", "sources", "note"];
    let _ = write!(text, "\n{}\n\n", display::table(&headings, &rows));
    for id in used {
        let Some(source) = chips.source(id) else {
            continue;
        };
        let parts = [
            Some(&source.title),
            source.r#where.as_ref(),
            source.date.as_ref(),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        let _ = writeln!(text, "{id}: {}", parts.join("; "));
    }
    text
}
