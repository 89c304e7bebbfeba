//! Reports in the formats of others, from outside; and read by the programs that the formats are made
//! for, where these are installed.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use program::*;

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

#[test]
fn every_published_report_goes_into_every_format() {
    let folder = folder();
    for path in published() {
        let path = path.to_str().unwrap();
        for format in chipmark::export::names() {
            let text = export(folder.path(), format, &[path]);
            assert!(
                text.len() > 500,
                "{format} of {path} has {} bytes",
                text.len()
            );
        }
    }
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
