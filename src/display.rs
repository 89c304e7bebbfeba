//! Numbers, units and tables as people read them.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use crate::error::{Error, Result};

/// Three significant digits with an SI prefix: `1.23 m`, `45.6 G`.
#[must_use]
pub fn si(value: f64) -> String {
    const PREFIXES: [(f64, &str); 8] = [
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1.0, ""),
        (1e-3, "m"),
        (1e-6, "u"),
    ];
    if value == 0.0 {
        return "0 ".to_owned();
    }
    // Rounding may carry into the next prefix, so the choice is made on the rounded value.
    let (scale, prefix) = PREFIXES
        .into_iter()
        .find(|(scale, _)| value.abs() >= scale * 0.9995)
        .unwrap_or((1e-9, "n"));
    let scaled = value / scale;
    let digits = match scaled.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$} {prefix}")
}

/// Up to three significant digits and no zeros at the end: `0.5`, `1.25`, `42`.
#[must_use]
pub fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A time for people.
#[must_use]
pub fn seconds(value: f64) -> String {
    format!("{}s", si(value))
}

/// One line under the headings and none between rows: a table of ten cases stays on one screen.
const LINES: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A plain table; the first column is left-aligned, numbers speak for themselves.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_style(LINES)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.to_vec());
    // A product is a remark and no number.
    let numeric = |text: &str| {
        text == "-" || text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(" x ")
    };
    for row in rows {
        table.add_row(row.iter().map(|text| {
            let alignment = if numeric(text) {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            };
            Cell::new(text).set_alignment(alignment)
        }));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// A table of a markdown document.
#[must_use]
pub fn markdown_table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&mut headings.iter().copied());
    text += &line(&mut headings.iter().map(|_| "---"));
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Every digit of a number, and nothing where there is none: for programs that read on.
#[must_use]
pub fn plain(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// A table as RFC 4180 has it, for spreadsheets.
///
/// # Errors
/// Where a row has more or fewer fields than there are columns, which is a fault of this program.
pub fn csv(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<String> {
    let failed = |error: String| Error::internal(format!("the table as CSV: {error}"));
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    let mut written = writer.write_record(columns);
    for row in rows {
        written = written.and_then(|()| writer.write_record(row));
    }
    written.map_err(|error| failed(error.to_string()))?;
    let bytes = writer
        .into_inner()
        .map_err(|error| failed(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_end_where_they_say_nothing_more() {
        let texts = [0.5, 1.0, 1.254, 10.0, 42.04, 100.0, 0.0, -2.5].map(digits);
        assert_eq!(texts, ["0.5", "1", "1.25", "10", "42", "100", "0", "-2.5"]);
    }

    #[test]
    fn three_digits_and_a_prefix_at_every_size() {
        let shown = [
            0.0, 1.0, 999.4, 999.6, 1234.0, 45.67e9, 183.4e-6, 2.5e-9, 1e13,
        ];
        let texts = shown.map(si);
        assert_eq!(
            texts,
            [
                "0 ", "1.00 ", "999 ", "1.00 k", "1.23 k", "45.7 G", "183 u", "2.50 n", "10.0 T"
            ]
        );
    }
}
