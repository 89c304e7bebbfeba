//! Parquet: a row a case, each figure a column of its own type, so that a query needs neither joins
//! nor casts. Every file has the same columns whatever its cases are, so that many are read as one
//! table.

use std::collections::BTreeSet;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::{Named, began_ms, chip, figures, record, shape};
use crate::error::{Error, Result};
use crate::op::OpName;
use crate::report::{Claim, Outcome, OutcomeStatus};

/// A column, a value a row.
enum Values {
    Text(Vec<Option<String>>),
    Number(Vec<Option<f64>>),
    Count(Vec<Option<i64>>),
    /// Milliseconds since 1970.
    Moment(Vec<Option<i64>>),
}

/// The columns in the order of the first row.
#[derive(Default)]
struct Table(Vec<(String, Values)>);

/// The cells of a row, one after the other; the first row makes the columns.
struct Row<'a> {
    table: &'a mut Table,
    at: usize,
}

macro_rules! cell {
    ($name:ident, $kind:ident, $value:ty) => {
        fn $name(&mut self, name: &str, value: Option<$value>) {
            if self.at == self.table.0.len() {
                let empty = Values::$kind(Vec::new());
                self.table.0.push((name.to_owned(), empty));
            }
            let (known, values) = &mut self.table.0[self.at];
            assert_eq!(known, name, "every row has the same columns");
            if let Values::$kind(values) = values {
                values.push(value);
            }
            self.at += 1;
        }
    };
}

impl Row<'_> {
    cell!(text, Text, String);
    cell!(number, Number, f64);
    cell!(count, Count, i64);
    cell!(moment, Moment, i64);

    fn word(&mut self, name: &str, value: &str) {
        self.text(name, Some(value.to_owned()));
    }
}

/// The names of all sizes that an op can have.
fn sizes() -> BTreeSet<&'static str> {
    let ops = OpName::ALL.iter();
    ops.flat_map(|op| op.op().dims()).map(|d| d.name).collect()
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What a row is about.
enum Subject<'a> {
    Outcome(&'a Outcome),
    Claim(&'a Claim),
}

fn add(table: &mut Table, (name, report): &Named, subject: &Subject<'_>) -> Result<()> {
    let (outcome, claim) = match subject {
        Subject::Outcome(outcome) => (Some(*outcome), None),
        Subject::Claim(claim) => (None, Some(*claim)),
    };
    let runner = outcome.map_or("", |outcome| &outcome.runner);
    let device = record(report, runner).map_or(&report.device, |record| &record.device);
    // One or the other is there.
    let either = |of_outcome: Option<String>, of_claim: Option<String>| of_outcome.or(of_claim);
    let text = |of: fn(&Outcome) -> String| outcome.map(of);
    let mut row = Row { table, at: 0 };
    row.word("report_id", &report.report_id);
    row.moment("started_at", Some(began_ms(name, report)?));
    row.word("suite", &report.suite.name);
    row.count("seed", Some(i64::from(report.seed)));
    row.word("tool_version", &report.tool.version);
    row.text("commit", report.tool.commit.clone());
    row.word("chip", &chip(report, runner));
    row.text("chip_id", device.chip_id.clone());
    row.word("device", &device.name);
    row.word("backend", &device.backend);
    row.word("driver", &device.driver);
    let program = claim.map(Claim::program);
    row.text("runner", either(text(|o| o.runner.clone()), program));
    let case = claim.map(Claim::case_text);
    row.text("case_id", either(text(|o| o.case_id.clone()), case));
    let op = claim.map(|claim| claim.op.clone());
    row.text("op", either(text(|o| o.op.to_string()), op));
    row.text("dtype", text(|o| o.dtype.to_string()));
    row.text("accumulator", text(|o| o.accumulator.clone()));
    row.text("shape", text(|o| shape(o).to_owned()));
    for size in sizes() {
        let value = outcome.and_then(|outcome| outcome.shape.0.get(size));
        row.count(size, value.copied().map(count));
    }
    row.word(
        "status",
        outcome.map_or(Claim::STATUS, |outcome| outcome.status.word()),
    );
    let reason = outcome.and_then(|outcome| outcome.reason.clone());
    row.text("reason", either(reason, claim.map(Claim::remark)));
    row.text("kernel", outcome.and_then(|outcome| outcome.kernel.clone()));
    let labels = outcome.and_then(|outcome| outcome.labels.as_ref());
    row.text("timer", labels.map(|labels| labels.timer.clone()));
    row.text("cache", labels.map(|labels| labels.cache.clone()));
    row.count("flop_count", outcome.map(|o| count(o.flop_count)));
    row.count("bytes_min", outcome.map(|o| count(o.bytes_min)));
    // Times of what is implausible are in the report; a table of measured figures has none.
    let measured = outcome.filter(|outcome| outcome.status == OutcomeStatus::Measured);
    let figures = measured.map(figures).unwrap_or_default();
    let figure = |name: &str| figures.iter().find(|figure| figure.name == name);
    for (column, name) in [
        ("time_s", "duration"),
        ("cold_time_s", "cold_duration"),
        ("portability_gap", "portability_gap"),
    ] {
        let interval = figure(name).and_then(|figure| figure.interval);
        let (low, high) = (interval.map(|ends| ends.0), interval.map(|ends| ends.1));
        row.number(column, figure(name).map(|figure| figure.value));
        row.number(&format!("{column}_ci95_low"), low);
        row.number(&format!("{column}_ci95_high"), high);
    }
    for (column, name) in [
        ("flops_per_second", "operations_per_second"),
        ("bytes_per_second", "bytes_per_second"),
        ("fraction_of_ceiling", "fraction_of_ceiling"),
        ("fraction_of_datasheet", "fraction_of_datasheet"),
        ("energy_joules", "energy"),
        ("cold_energy_joules", "cold_energy"),
    ] {
        row.number(column, figure(name).map(|figure| figure.value));
    }
    // Columns of their own, so that no sum over measured figures takes them in.
    row.text("claimed_quantity", claim.map(|c| c.quantity.clone()));
    row.number("claimed_value", claim.and_then(|c| c.value));
    row.text("claimed_unit", claim.map(|c| c.unit.clone()));
    Ok(())
}

/// The values that are there, and for each row whether it has one.
fn present<T, U>(values: &[Option<T>], with: impl Fn(&T) -> U) -> (Vec<U>, Vec<i16>) {
    let there = values.iter().flatten().map(with).collect();
    let levels = values.iter().map(|value| i16::from(value.is_some()));
    (there, levels.collect())
}

fn encode(table: &Table) -> std::result::Result<Vec<u8>, ParquetError> {
    let mut fields = Vec::new();
    for (name, values) in &table.0 {
        let (physical, logical) = match values {
            Values::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Values::Number(_) => (Physical::DOUBLE, None),
            Values::Count(_) => (Physical::INT64, None),
            Values::Moment(_) => {
                let utc = LogicalType::timestamp(true, TimeUnit::MILLIS);
                (Physical::INT64, Some(utc))
            }
        };
        let field = Type::primitive_type_builder(name, physical)
            .with_logical_type(logical)
            .with_repetition(Repetition::OPTIONAL);
        fields.push(Arc::new(field.build()?));
    }
    let schema = Type::group_type_builder("cases").with_fields(fields);
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let mut writer = SerializedFileWriter::new(
        Vec::new(),
        Arc::new(schema.build()?),
        Arc::new(properties.build()),
    )?;
    let mut rows = writer.next_row_group()?;
    for (_, values) in &table.0 {
        let Some(mut column) = rows.next_column()? else {
            break;
        };
        match values {
            Values::Text(values) => {
                let (values, levels) = present(values, |text| ByteArray::from(text.as_str()));
                let column = column.typed::<ByteArrayType>();
                column.write_batch(&values, Some(&levels), None)?;
            }
            Values::Number(values) => {
                let (values, levels) = present(values, |value| *value);
                let column = column.typed::<DoubleType>();
                column.write_batch(&values, Some(&levels), None)?;
            }
            Values::Count(values) | Values::Moment(values) => {
                let (values, levels) = present(values, |value| *value);
                let column = column.typed::<Int64Type>();
                column.write_batch(&values, Some(&levels), None)?;
            }
        }
        column.close()?;
    }
    rows.close()?;
    writer.into_inner()
}

pub fn write(reports: &[Named]) -> Result<Vec<u8>> {
    let mut table = Table::default();
    for named in reports {
        for outcome in &named.1.outcomes {
            add(&mut table, named, &Subject::Outcome(outcome))?;
        }
        for claim in &named.1.claims {
            add(&mut table, named, &Subject::Claim(claim))?;
        }
    }
    encode(&table).map_err(|error| Error::internal(format!("export parquet: {error}")))
}
