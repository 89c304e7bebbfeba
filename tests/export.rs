//! Reports in the formats of others, from outside; and read by the programs that the formats are made
//! for, where these are installed.
#![allow(clippy::unwrap_used)]

mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use program::*;
use regex::Regex;

/// Every report that lies in `reports/`.
fn published() -> Vec<PathBuf> {
    reports(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reports"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect()
}

fn export(folder: &Path, format: &str, reports: &[&str]) -> String {
    let done = chipmark(folder, &[&["export", format], reports].concat());
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{format}");
    done.stdout
}

/// Gives a text to a program on its standard input, if the program is there; otherwise says so.
fn consumer(program: &str, arguments: &[&str], folder: &Path, input: &str) -> Option<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .inspect_err(|error| eprintln!("NOT CHECKED by {program}: {error}"))
        .ok()?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    Some(said)
}

/// Where `.ci/run` puts readers that are no program of the system.
fn consumers() -> PathBuf {
    let build = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    build.join("consumers")
}

/// Runs a program in Python with the readers' environment, if that and the module are there.
fn python(module: &str, folder: &Path, script: &str, input: &str) -> Option<String> {
    let python = consumers().join("bin/python");
    let probe = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!(
            "NOT CHECKED by {module}: {} has no {module}",
            python.display()
        );
        return None;
    }
    consumer(python.to_str().unwrap(), &["-c", script], folder, input)
}

/// The recipes of a section of `docs/exports.md`: shell lines and SQL statements in their order.
fn recipes(heading: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/exports.md");
    let page = fs::read_to_string(page).unwrap();
    let start = page.find(&format!("\n## {heading}\n")).unwrap() + 1;
    let section = &page[start..];
    let section = &section[..section[2..]
        .find("\n## ")
        .map_or(section.len(), |end| end + 2)];
    let mut found = Vec::new();
    let mut statement = String::new();
    for line in section.lines().filter_map(|line| line.strip_prefix("    ")) {
        if statement.is_empty() && !line.starts_with(|c: char| c.is_ascii_uppercase()) {
            found.push(line.to_owned());
            continue;
        }
        statement = format!("{statement}{line}\n");
        if line.ends_with(';') {
            found.push(std::mem::take(&mut statement));
        }
    }
    assert_eq!(statement, "", "a statement of {heading} does not end");
    found
}

/// A folder with the store below it, as the recipes want it.
fn store() -> tempfile::TempDir {
    let folder = folder();
    for path in published() {
        let kept = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
        let kept = folder.path().join(kept);
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        fs::copy(path, kept).unwrap();
    }
    folder
}

/// Does what a `chipmark` line of a recipe says, with the names that a shell would put in.
fn do_line(folder: &Path, line: &str) {
    let mut arguments = Vec::new();
    for word in line.split(' ').skip(1) {
        if word == "reports/*/*.json" {
            arguments.extend(
                reports(&folder.join("reports"))
                    .iter()
                    .map(|path| path.display().to_string()),
            );
        } else {
            arguments.push(word.to_owned());
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(|word| &**word).collect();
    let done = chipmark(folder, &arguments);
    assert_eq!((done.code, &*done.stderr), (0, ""), "{line}");
}

#[test]
fn every_published_report_goes_into_every_format() {
    let folder = folder();
    for path in published() {
        let path = path.to_str().unwrap();
        for format in chipmark::export::names() {
            let text = export(folder.path(), format, &[path]);
            assert!(
                text.len() > 200, // more than any heading
                "{format} of {path} has {} bytes",
                text.len()
            );
        }
    }
}

/// Each statement on standard input, parted by form feeds, gives a line with the number of its rows.
const DUCKDB: &str = r#"
import duckdb, sys
for statement in sys.stdin.read().split("\f"):
    duckdb.execute("CREATE OR REPLACE TABLE answer AS " + statement)
    print(*duckdb.execute("SELECT count(*) FROM answer").fetchone())
"#;

#[test]
fn duckdb_answers_the_recipes_as_they_are_written() {
    let folder = store();
    let (lines, queries): (Vec<_>, Vec<_>) = recipes("DuckDB")
        .into_iter()
        .partition(|recipe| recipe.starts_with("chipmark "));
    for line in &lines {
        do_line(folder.path(), line);
    }
    assert_eq!((lines.len(), queries.len()), (2, 5));
    let Some(said) = python("duckdb", folder.path(), DUCKDB, &queries.join("\x0c")) else {
        return;
    };
    let counts: Vec<u64> = said.lines().map(|line| line.parse().unwrap()).collect();
    assert!(
        counts.len() == 5 && counts.iter().all(|count| *count > 2),
        "{counts:?}"
    );
    let measured: usize = published()
        .iter()
        .flat_map(|path| {
            let report: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            report["outcomes"].as_array().unwrap().clone()
        })
        .filter(|outcome| outcome["status"] == "measured")
        .count();
    let all = "SELECT * FROM 'cases.parquet' WHERE status = 'measured' AND time_s > 0 \
               AND started_at > TIMESTAMPTZ '2026-01-01 00:00:00+00'";
    let said = python("duckdb", folder.path(), DUCKDB, all).unwrap();
    assert_eq!(
        said.trim(),
        measured.to_string(),
        "Parquet has not what the reports have"
    );
}

const CHDB: &str = r#"
import sys
from chdb import session
session = session.Session()
session.query("CREATE DATABASE store")
session.query("USE store")
for statement in sys.stdin.read().split("\f"):
    print(len(str(session.query(statement, "CSV")).splitlines()))
"#;

#[test]
fn clickhouse_takes_the_table_and_reads_parquet() {
    let folder = store();
    for line in recipes("DuckDB")
        .iter()
        .filter(|line| line.starts_with("chipmark "))
    {
        do_line(folder.path(), line);
    }
    let mut statements = recipes("ClickHouse");
    // A library has no standard input: the same rows in the same format from the file.
    let at = statements
        .iter()
        .position(|s| s.starts_with("clickhouse-client "))
        .unwrap();
    assert!(statements[at].contains("INSERT INTO figures FORMAT CSVWithNames"));
    let format = statements[at].split(' ').nth(2).unwrap().to_owned();
    statements[at] = format!(
        "INSERT INTO figures SELECT * FROM file('figures.csv', CSVWithNames) \
         SETTINGS date_time_input_format = '{format}'"
    );
    statements.push("SELECT * FROM figures WHERE value > 0".to_owned());
    let Some(said) = python("chdb", folder.path(), CHDB, &statements.join("\x0c")) else {
        return;
    };
    let counts: Vec<u64> = said.lines().map(|line| line.parse().unwrap()).collect();
    let [0, 0, best, rows] = counts[..] else {
        panic!("{said}")
    };
    let table = fs::read_to_string(folder.path().join("figures.csv")).unwrap();
    let figures = table
        .lines()
        .filter(|line| line.contains(",measured,"))
        .count();
    assert!(
        best > 10 && usize::try_from(rows).unwrap() == figures,
        "{said} {figures}"
    );
}

#[test]
fn google_benchmarks_own_script_compares_two_reports() {
    let script = consumers().join("benchmark/compare.py");
    if !script.is_file() {
        eprintln!(
            "NOT CHECKED by compare.py: {} is not there",
            script.display()
        );
        return;
    }
    let folder = folder();
    let name = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let two: Vec<String> = published()
        .iter()
        .map(name)
        .filter(|path| path.contains("amd-epyc"))
        .take(2)
        .collect();
    for (report, file) in two.iter().zip(["a.json", "b.json"]) {
        let done = chipmark(
            folder.path(),
            &["export", "google-benchmark", report, "--output", file],
        );
        assert_eq!(done.code, 0, "{done:?}");
    }
    let run = format!(
        "import sys, runpy\nsys.path.insert(0, {folder:?})\nsys.argv = [{script:?}, '--no-color', 'benchmarks', 'a.json', 'b.json']\nrunpy.run_path({script:?}, run_name='__main__')",
        folder = script.parent().unwrap(),
    );
    let Some(said) = python("scipy", folder.path(), &run, "") else {
        return;
    };
    assert!(
        said.contains("matmul/") && said.contains("_pvalue"),
        "{said}"
    );
    assert!(said.contains("OVERALL_GEOMEAN"), "{said}");
}

#[test]
fn a_file_is_replaced_as_a_whole_and_one_that_cannot_be_written_is_named() {
    let folder = folder();
    fs::write(folder.path().join("r.json"), sealed(report())).unwrap();
    let path = folder.path().join("node.prom");
    fs::write(&path, "old").unwrap();
    let arguments = ["export", "openmetrics", "r.json", "--output", "node.prom"];
    let done = chipmark(folder.path(), &arguments);
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (0, "", ""));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(
        fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with(".chipmark-")
            })
            .count(),
        0,
        "a temporary file was left"
    );
    let nowhere = [
        "export",
        "csv",
        "r.json",
        "--output",
        "no/such/folder/out.csv",
    ];
    let done = chipmark(folder.path(), &nowhere);
    let complaint = done.complaint(2);
    assert!(
        complaint.contains("--output no/such/folder/out.csv"),
        "{complaint}"
    );
    let wrong = chipmark(folder.path(), &["export", "xls", "r.json"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(
        wrong.stderr.contains("xls") && wrong.stderr.contains("openmetrics"),
        "{wrong:?}"
    );
}

#[test]
fn the_dashboard_of_grafana_asks_for_metrics_and_labels_that_are_exported() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grafana.json");
    let text = fs::read_to_string(page).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(board["schemaVersion"], 42);
    // Every metric with the labels that one of its series has. No published report has energy, which
    // has the labels of every other figure of a case.
    let mut exported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let label = Regex::new(r#"(\w+)(=~?)""#).unwrap();
    let folder = folder();
    for path in published() {
        let text = export(folder.path(), "openmetrics", &[path.to_str().unwrap()]);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, labels) = line.split_once('{').unwrap();
            let names = label.captures_iter(labels).map(|found| found[1].to_owned());
            exported.entry(name.to_owned()).or_default().extend(names);
        }
    }
    let of_a_case = exported["chipmark_case_duration_seconds"].clone();
    for of_energy in [
        "chipmark_case_energy_joules",
        "chipmark_case_cold_energy_joules",
    ] {
        exported
            .entry(of_energy.to_owned())
            .or_insert_with(|| of_a_case.clone());
    }

    let panels = board["panels"].as_array().unwrap();
    let asked = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let asked: Vec<&str> = asked
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(asked.len() >= 10);
    let metric = Regex::new(r"(chipmark_\w+)\{([^}]*)\}").unwrap();
    let grouped = Regex::new(r"\b(?:by|without) \(([^)]*)\)").unwrap();
    for expression in &asked {
        let found = metric
            .captures(expression)
            .unwrap_or_else(|| panic!("{expression}"));
        let known = exported
            .get(&found[1])
            .unwrap_or_else(|| panic!("{} is not exported", &found[1]));
        let mut wanted: BTreeSet<&str> = label
            .captures_iter(found.get(2).unwrap().as_str())
            .map(|found| found.get(1).unwrap().as_str())
            .collect();
        for group in grouped.captures_iter(expression) {
            wanted.extend(group.get(1).unwrap().as_str().split(", "));
        }
        for scraped in ["instance", "job"] {
            wanted.remove(scraped); // of Prometheus, not ours
        }
        for name in wanted {
            assert!(known.contains(name), "{expression}: no series has {name}");
        }
    }
    for named in ["chip", "op", "dtype", "runner"] {
        let variables = board["templating"]["list"].as_array().unwrap();
        let variable = variables.iter().find(|v| v["name"] == named).unwrap();
        assert_eq!(
            variable["query"]["query"],
            format!("label_values(chipmark_case_measured, {named})")
        );
        assert!(exported["chipmark_case_measured"].contains(named));
    }
    let legends = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    for legend in legends.captures_iter(&text) {
        assert!(
            exported["chipmark_case_duration_seconds"].contains(&legend[1]),
            "{legend:?}"
        );
    }
}

#[test]
fn prometheus_takes_the_metrics_and_makes_blocks_of_the_history() {
    let folder = folder();
    for path in published() {
        let text = export(folder.path(), "openmetrics", &[path.to_str().unwrap()]);
        let Some(said) = consumer("promtool", &["check", "metrics"], folder.path(), &text) else {
            return;
        };
        assert_eq!(said, "", "promtool has something to say of {path:?}");
    }
    let all = published();
    let all: Vec<&str> = all.iter().map(|path| path.to_str().unwrap()).collect();
    let text = export(folder.path(), "openmetrics-history", &all);
    fs::write(folder.path().join("history.om"), text).unwrap();
    let make = [
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "history.om",
        "data",
    ];
    consumer("promtool", &make, folder.path(), "").unwrap();
    let blocks = fs::read_dir(folder.path().join("data")).unwrap().count();
    assert!(blocks > 0, "no block was made");
}

/// A few lines as clpeak 1 writes them.
const CLPEAK: &str = r#"<clpeak os="Linux x64">
<platform name="An OpenCL"><device name="A GPU" driver_version="1">
<global_memory_bandwidth unit="gbps"><float>25.5</float></global_memory_bandwidth>
</device></platform></clpeak>"#;

#[test]
fn figures_of_another_program_come_in_as_unverified_and_nothing_ranks_them() {
    let folder = folder();
    let path = folder.path();
    fs::write(path.join("clpeak.xml"), CLPEAK).unwrap();
    let done = chipmark(path, &["import", "clpeak", "clpeak.xml"]);
    assert_eq!((done.code, &*done.stderr), (0, ""), "{done:?}");
    assert!(done.stdout.starts_with("UNVERIFIED: "), "{done:?}");
    let [written] = &reports(&path.join("reports"))[..] else {
        panic!("{done:?}")
    };
    let report = written.to_str().unwrap();
    assert!(report.contains("reports/a-gpu/") && report.ends_with("-opencl.json"));
    assert_eq!(chipmark(path, &["validate", report]).code, 0);
    let table = export(path, "csv", &[report]);
    let line = table.lines().nth(1).unwrap();
    assert!(
        line.contains(",unverified,claimed_bytes_per_second,B/s,25500000000,"),
        "{line}"
    );
    for command in [
        &["compare", report, report][..],
        &["check", "--baseline", report, "--candidate", report],
        &["cost", report],
        &["export", "openmetrics", report],
        &["merge", report, report],
    ] {
        let done = chipmark(path, command);
        assert!(done.code == 2 || done.code == 5, "{command:?}: {done:?}");
    }
    for page in recipes("Figures of other programs") {
        if page.starts_with("chipmark export") {
            do_line(path, &page);
        } else if !page.starts_with("chipmark ") {
            let Some(said) = python("duckdb", path, DUCKDB, &page) else {
                continue;
            };
            assert_eq!(said.trim(), "1", "{page}");
        }
    }
    let printed = chipmark(path, &["import", "clpeak", "clpeak.xml", "--output", "-"]);
    assert_eq!(printed.json()["claims"][0]["value"], 25.5e9);
    fs::write(path.join("broken.xml"), &CLPEAK[..150]).unwrap();
    let refused = chipmark(path, &["import", "clpeak", "broken.xml"]);
    let complaint = refused.complaint(2);
    assert!(complaint.starts_with("broken.xml: "), "{complaint}");
}
