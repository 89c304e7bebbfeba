#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::op::{Case, Dtype, Shape};
use crate::protocol::{Device, RunnerInfo, Timer};
use crate::report::{Energy, Gap, empty, unmeasured};

/// A report of two runners and three cases of which one is skipped, with a device that would like to
/// be more than a name.
fn report() -> Report {
    let runner = |name: &str| RunnerRecord {
        runner: RunnerInfo {
            name: name.to_owned(),
            version: "1".to_owned(),
        },
        device: Device {
            name: "Evil \"chip\"\n<script>\\".to_owned(),
            backend: "vulkan".to_owned(),
            driver: "d,1".to_owned(),
            ..Device::default()
        },
        timer: Timer {
            clock: "device".to_owned(),
            quantum_s: 1e-9,
            period_s: None,
            note: None,
        },
    };
    let outcome = |runner: &str, sizes: [u64; 3], status| {
        let [m, n, k] = sizes;
        let shape = Shape::of(&[("m", m), ("n", n), ("k", k)]);
        let case = Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap();
        unmeasured(&case, runner, status, "no, \"because\" & so on".to_owned())
    };
    let timed = |runner: &str, median: f64| {
        let mut outcome = outcome(runner, [8, 8, 8], OutcomeStatus::Measured);
        outcome.reason = None;
        outcome.kernel = Some("matmul/naive".to_owned());
        outcome.time_s = Some(Times {
            median,
            ci95_low: median * 0.5,
            ci95_high: median * 2.0,
            samples: vec![median * 0.5, median, median * 2.0],
            repeat_count: 7,
            ..Times::default()
        });
        #[allow(clippy::cast_precision_loss)]
        let rate = outcome.flop_count as f64 / median;
        outcome.flops_per_second = Some(rate);
        outcome.fraction_of_ceiling = Some(0.5);
        outcome
    };
    let mut ours = timed("wgpu", 2e-6);
    ours.gap = Some(Gap {
        runner: "host".to_owned(),
        kernel: "gemm".to_owned(),
        time_ratio: 2.0,
        low: 1.5,
        high: 3.0,
    });
    ours.energy = Some(Energy {
        joules: 0.25,
        ..Energy::default()
    });
    let mut report = empty();
    report.started_at = "2026-11-24T05:00:00Z".to_owned();
    report.tool.commit = Some("0123abc-dirty".to_owned());
    report.runners = vec![runner("wgpu"), runner("host")];
    report.device = report.runners[0].device.clone();
    report.outcomes = vec![
        ours,
        timed("host", 1e-6),
        outcome("wgpu", [4, 4, 4], OutcomeStatus::Skipped),
    ];
    report
}

fn named() -> Vec<Named> {
    vec![("r.json".to_owned(), report())]
}

/// An export that is text.
fn export(format: &str, reports: &[Named]) -> Result<String> {
    Ok(String::from_utf8(super::export(format, reports)?).unwrap())
}

fn json(format: &str) -> Value {
    serde_json::from_str(&export(format, &named()).unwrap()).unwrap()
}

const CASE: &str = "matmul/m8_n8_k8/f32";

#[test]
fn every_format_writes_what_ends_with_a_line_feed_and_holds_both_runners() {
    for format in names().into_iter().filter(|format| !is_binary(format)) {
        let text = export(format, &named()).unwrap();
        assert!(text.ends_with('\n'), "{format}");
        assert!(
            text.contains("wgpu") && text.contains("host"),
            "{format}: {text}"
        );
        assert!(text.contains("m8_n8_k8"), "{format}: {text}");
    }
}

#[test]
fn bencher_gets_nanoseconds_with_the_ends_of_their_interval() {
    let value = json("bmf");
    let latency = &value[format!("{CASE}/wgpu")]["latency"];
    for (field, wanted) in [
        ("value", 2000.0),
        ("lower_value", 1000.0),
        ("upper_value", 4000.0),
    ] {
        assert!(
            (latency[field].as_f64().unwrap() - wanted).abs() < 1e-6,
            "{latency}"
        );
    }
    // A rate's interval is that of the time turned round.
    let rate = &value[format!("{CASE}/wgpu")]["operations-per-second"];
    let ratio = |field: &str| rate[field].as_f64().unwrap() / rate["value"].as_f64().unwrap();
    assert!(
        (ratio("lower_value") - 0.5).abs() < 1e-12 && (ratio("upper_value") - 2.0).abs() < 1e-12
    );
}

#[test]
fn the_two_files_of_github_action_benchmark_share_no_figure() {
    let names = |format: &str| -> Vec<String> {
        let list = json(format);
        let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(name).collect()
    };
    let (smaller, bigger) = (
        names("github-action-smaller"),
        names("github-action-bigger"),
    );
    assert!(smaller.iter().any(|name| name.ends_with("/duration")));
    assert!(
        bigger
            .iter()
            .any(|name| name.ends_with("/operations_per_second"))
    );
    assert!(smaller.iter().all(|name| !bigger.contains(name)));
}

#[test]
fn google_benchmark_gets_a_row_a_sample_under_one_name() {
    let value = json("google-benchmark");
    assert_eq!(value["context"]["json_schema_version"], 1);
    let rows = value["benchmarks"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for (index, row) in rows[..3].iter().enumerate() {
        assert_eq!(row["name"], format!("{CASE}/wgpu"));
        assert_eq!(row["run_type"], "iteration");
        assert_eq!(
            (&row["repetitions"], &row["repetition_index"]),
            (&3.into(), &index.into())
        );
        assert_eq!(row["iterations"], 7);
        assert_eq!(row["real_time"], row["cpu_time"]);
    }
    assert!((rows[1]["real_time"].as_f64().unwrap() - 2000.0).abs() < 1e-9);
}

/// Families in one piece each, every sample under its own, label values escaped.
fn check_openmetrics(text: &str, stamped: bool) -> BTreeMap<String, String> {
    let sample = regex::Regex::new(
        r#"^([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\} (\S+)(?: (\d+))?$"#,
    )
    .unwrap();
    let (mut family, mut done, mut series) = (String::new(), Vec::new(), BTreeMap::new());
    assert!(text.ends_with("\n# EOF\n") && !text.contains('\r'));
    for line in text.lines().take_while(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().to_owned();
            assert!(!done.contains(&family), "{family} is in two pieces");
            done.push(family.clone());
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert!(
                name == family && name.ends_with(&format!("_{unit}")),
                "{line}"
            );
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest, format!("{family} gauge"));
        } else {
            let parts = sample.captures(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(&parts[1], family);
            assert!(parts[3].parse::<f64>().is_ok(), "{line}");
            assert_eq!(parts.get(4).is_some(), stamped, "{line}");
            let key = format!("{}{{{}}}", &parts[1], &parts[2]);
            series.insert(key, parts[3].to_owned());
        }
    }
    series
}

#[test]
fn openmetrics_is_in_families_with_base_units_and_escaped_labels() {
    let series = check_openmetrics(&export("openmetrics", &named()).unwrap(), false);
    let key = "chipmark_case_duration_seconds{chip=\"evil-chip-script\",backend=\"vulkan\",runner=\"wgpu\",op=\"matmul\",dtype=\"f32\",shape=\"m8_n8_k8\",stat=\"median\"}";
    assert_eq!(
        series.get(key).map(String::as_str),
        Some("0.000002"),
        "{series:#?}"
    );
    let info = series
        .keys()
        .find(|key| key.starts_with("chipmark_report_info"))
        .unwrap();
    assert!(
        info.contains(r#"device="Evil \"chip\"\n<script>\\""#),
        "{info}"
    );
    let missing = series
        .iter()
        .find(|(key, _)| key.contains("m4_n4_k4"))
        .unwrap();
    assert_eq!(missing.1, "0");
}

#[test]
fn reports_of_one_device_go_into_a_history_and_not_into_a_scrape() {
    let mut later = report();
    later.started_at = "2026-11-25T05:00:00Z".to_owned();
    later.report_id = "another".to_owned();
    let both = [named(), vec![("s.json".to_owned(), later)]].concat();
    let refused = export("openmetrics", &both).unwrap_err().message;
    assert!(
        refused.contains("s.json") && refused.contains("openmetrics-history"),
        "{refused}"
    );
    let text = export("openmetrics-history", &both).unwrap();
    check_openmetrics(&text, true);
    let of = |line: &&str| line.contains("ration_seconds{") && line.contains("runner=\"wgpu\"");
    let times: Vec<&str> = text
        .lines()
        .filter(of)
        .filter(|line| line.contains("median"))
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(times, ["1795496400", "1795582800"]);
    let twice = [named(), named()].concat();
    assert!(export("openmetrics-history", &twice).is_err());
}

#[test]
fn tables_have_a_row_a_figure_and_a_row_for_what_has_none() {
    let text = export("csv", &named()).unwrap();
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().unwrap().clone();
    let at = |name: &str| headers.iter().position(|column| column == name).unwrap();
    let rows: Vec<::csv::StringRecord> = reader.records().map(|row| row.unwrap()).collect();
    let skipped: Vec<_> = rows
        .iter()
        .filter(|row| &row[at("status")] == "skipped")
        .collect();
    assert_eq!(skipped.len(), 1);
    assert_eq!(&skipped[0][at("reason")], "no, \"because\" & so on");
    let energy = rows
        .iter()
        .find(|row| &row[at("figure")] == "energy")
        .unwrap();
    assert_eq!((&energy[at("value")], &energy[at("unit")]), ("0.25", "J"));
    // Of cold calls it is another figure.
    let mut reports = named();
    let counted = reports[0].1.outcomes[0].energy.as_mut().unwrap();
    counted.cache = Some("cold".to_owned());
    let text = export("csv", &reports).unwrap();
    assert!(text.contains(",cold_energy,") && !text.contains(",energy,"));
    let text = export("openmetrics", &reports).unwrap();
    assert!(text.contains("chipmark_case_cold_energy_joules{"), "{text}");
    let p3 = export("p3", &named()).unwrap();
    assert!(
        p3.starts_with("problem,platform,application,fom,arch eff,app eff\r\n"),
        "{p3}"
    );
    assert!(p3.contains(",wgpu,0.000002,0.5,0.5\r\n"), "{p3}");
    assert!(p3.contains(",host,0.000001,0.5,1\r\n"), "{p3}");
}

#[test]
fn json_lines_hold_every_outcome_without_its_samples() {
    let text = export("jsonl", &named()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["time_s"]["median"], 2e-6);
    assert!(lines[0]["time_s"].get("samples").is_none());
    assert_eq!(lines[0]["device"], "Evil \"chip\"\n<script>\\");
    assert_eq!(lines[2]["status"], "skipped");
}

#[test]
fn open_telemetry_gets_gauges_with_nanoseconds_as_strings() {
    let value = json("otlp");
    let metrics = value["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
        .as_array()
        .unwrap();
    let duration = metrics
        .iter()
        .find(|m| m["name"] == "chipmark.case.duration")
        .unwrap();
    assert_eq!(duration["unit"], "s");
    let point = &duration["gauge"]["dataPoints"][0];
    assert_eq!(point["timeUnixNano"], "1795496400000000000");
    assert_eq!(point["asDouble"], 2e-6);
}

#[test]
fn dashboards_of_projects_get_the_fields_they_ask_for() {
    let skia = json("skia-perf");
    assert_eq!(
        (&skia["version"], &skia["git_hash"]),
        (&1.into(), &"0123abc".into())
    );
    let fields: Vec<&String> = skia.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["git_hash", "key", "results", "version"]);
    let hud = &json("pytorch-hud")[0];
    for path in [
        "/benchmark/name",
        "/benchmark/mode",
        "/benchmark/dtype",
        "/model/name",
        "/model/type",
        "/model/backend",
        "/metric/name",
        "/metric/benchmark_values/0",
        "/runners/0/name",
    ] {
        assert!(hud.pointer(path).is_some(), "{path}: {hud}");
    }
    let suites = json("perfherder");
    let suite = &suites["suites"][0];
    assert_eq!(
        suite["subtests"][0]["replicates"].as_array().unwrap().len(),
        3
    );
    assert!((suite["value"].as_f64().unwrap() - 2e-3).abs() < 1e-12);
}

#[test]
fn junit_tells_a_crash_from_what_was_left_out_and_escapes_reasons() {
    let mut failed = report();
    failed.outcomes[1].status = OutcomeStatus::Failed;
    failed.outcomes[1].reason = Some("it <broke>".to_owned());
    let text = export("junit", &[("r.json".to_owned(), failed)]).unwrap();
    assert!(text.contains("errors=\"1\""), "{text}");
    assert!(text.contains("it &lt;broke&gt;"), "{text}");
    assert!(
        text.contains("<skipped message=\"no, &quot;because&quot; &amp; so on\""),
        "{text}"
    );
}

#[test]
fn what_cannot_be_exported_is_refused_with_the_remedy() {
    let refused = |format: &str, reports: &[Named]| export(format, reports).unwrap_err().message;
    assert!(refused("xls", &named()).contains("bmf, github-action-smaller"));
    let both = [named(), named()].concat();
    assert!(refused("bmf", &both).contains("each by itself"));
    let mut nothing = report();
    nothing.outcomes.truncate(0);
    assert!(refused("csv", &[("none.json".to_owned(), nothing)]).contains("none.json"));
    let mut odd = report();
    odd.started_at = "yesterday".to_owned();
    assert!(refused("otlp", &[("odd.json".to_owned(), odd)]).contains("started_at"));
}

#[test]
fn parquet_has_a_row_a_case_with_typed_columns_and_gaps_where_nothing_was_measured() {
    use ::parquet::basic::LogicalType;
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::record::{Field, RowAccessor};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cases.parquet");
    std::fs::write(&path, super::export("parquet", &named()).unwrap()).unwrap();
    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let at = |name: &str| {
        let columns = schema.columns();
        columns.iter().position(|c| c.name() == name).unwrap()
    };
    assert!(matches!(
        schema.column(at("started_at")).logical_type_ref(),
        Some(LogicalType::Timestamp(timestamp)) if timestamp.is_adjusted_to_u_t_c
    ));
    let rows: Vec<_> = reader
        .get_row_iter(None)
        .unwrap()
        .map(|row| row.unwrap())
        .collect();
    assert_eq!(rows.len(), 3, "two measured, one skipped");
    let ours = &rows[0];
    assert_eq!(ours.get_string(at("case_id")).unwrap(), CASE);
    assert_eq!(
        ours.get_timestamp_millis(at("started_at")).unwrap(),
        1_795_496_400_000
    );
    assert_eq!(ours.get_long(at("k")).unwrap(), 8);
    assert_eq!(ours.get_double(at("time_s")).unwrap(), 2e-6);
    assert_eq!(ours.get_double(at("time_s_ci95_low")).unwrap(), 1e-6);
    assert_eq!(ours.get_double(at("energy_joules")).unwrap(), 0.25);
    assert_eq!(
        ours.get_double(at("portability_gap_ci95_high")).unwrap(),
        3.0
    );
    assert_eq!(ours.get_string(at("driver")).unwrap(), "d,1");
    let empty = |row: &::parquet::record::Row, name: &str| {
        let (_, field) = row.get_column_iter().nth(at(name)).unwrap();
        matches!(field, Field::Null)
    };
    for name in ["reason", "chip_id", "head_dim"] {
        assert!(empty(ours, name), "{name}");
    }
    let skipped = &rows[2];
    assert_eq!(skipped.get_string(at("status")).unwrap(), "skipped");
    assert_eq!(
        skipped.get_string(at("reason")).unwrap(),
        "no, \"because\" & so on"
    );
    assert!(empty(skipped, "time_s") && empty(skipped, "kernel"));
}
