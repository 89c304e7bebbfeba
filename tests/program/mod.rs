//! The program as tests run it: started in a folder of its own, watched for hangs and panics, and a
//! small report of the host for those that need any report.
//!
//! Each program of tests uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Far longer than anything here takes, so that a hang is a failure and not a silent machine.
pub const HANG_S: u64 = 100;

/// Held while a fake runner is written or a process started: a process forked by another test in
/// between would hold the file open for writing, and running it would fail ("Text file busy").
pub static FORK: Mutex<()> = Mutex::new(());

pub fn lock() -> MutexGuard<'static, ()> {
    FORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// The one line that says what was wrong, which must be the only one.
    pub fn complaint(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "data was printed along with an error");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let [line] = lines[..] else {
            panic!("not exactly one line on stderr: {self:?}")
        };
        line.strip_prefix("chipmark: ")
            .unwrap_or_else(|| panic!("the line does not say who speaks: {line}"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub fn text(stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut stream = stream;
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a process that must end by itself, and fails the test if it does not.
pub fn wait(child: &mut Child) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(HANG_S);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the program hung for {HANG_S} s");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chipmark"));
    command
        .args(arguments)
        .current_dir(folder)
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn start(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = command(folder, arguments);
    let _lock = lock();
    command.spawn().unwrap()
}

/// Runs the program in `folder`. Whatever it is given, it must not panic.
pub fn chipmark(folder: &Path, arguments: &[&str]) -> Done {
    let mut child = start(folder, arguments);
    let (stdout, stderr) = (
        text(child.stdout.take().unwrap()),
        text(child.stderr.take().unwrap()),
    );
    let code = wait(&mut child);
    let done = Done {
        code,
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    };
    assert!(!done.stderr.contains("panicked"), "{done:?}");
    done
}

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The value that JSON itself has at `path`, which must be there.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value
        .pointer(path)
        .unwrap_or_else(|| panic!("there is no {path} in {value:#}"))
}

/// A suite of matrix products and attentions. It has no probes, so there are no ceilings, and
/// however noisy the machine is, nothing can be implausible.
pub fn suite(case_budget_s: f64, cases: &[&str]) -> String {
    let mut text = format!(
        "name = \"tiny\"\ndescription = \"For a test.\"\ncase_budget_s = {case_budget_s}\ncall_s_max = 5.0\n"
    );
    for case in cases {
        let (op, shape) = case.split_once(' ').unwrap();
        text += &format!("[[cases]]\nop = \"{op}\"\ndtype = \"f32\"\nshape = {{ {shape} }}\n");
    }
    text
}

pub const MATMUL: &str = "matmul m = 2, n = 2, k = 2";

pub const TINY: [&str; 5] = [
    "matmul m = 16, n = 24, k = 8",
    "matmul m = 31, n = 33, k = 35",
    "matmul m = 64, n = 64, k = 64",
    "matmul m = 1, n = 128, k = 100",
    "attention heads = 2, kv_heads = 1, query_len = 9, kv_len = 17, head_dim = 16",
];

/// One report of the host on the tiny suite, measured once for all tests that need any report.
pub fn report() -> &'static Value {
    static REPORT: OnceLock<Value> = OnceLock::new();
    REPORT.get_or_init(|| {
        let folder = folder();
        fs::write(folder.path().join("tiny.toml"), suite(0.15, &TINY)).unwrap();
        let done = chipmark(
            folder.path(),
            &[
                "run",
                "--suite",
                "tiny.toml",
                "--runner",
                "host",
                "--output",
                "-",
            ],
        );
        assert_eq!(done.code, 0, "{done:?}");
        done.json()
    })
}

/// The reports that lie in a folder and below it.
pub fn reports(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(reports(&path));
        } else if !journal(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether a file keeps what an unfinished run has learnt.
pub fn journal(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name.starts_with(".chipmark-") && name.ends_with(".unfinished.jsonl")
}

/// The files of unfinished runs in a folder.
pub fn journals(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap();
    files
        .map(|entry| entry.unwrap().path())
        .filter(|path| journal(path))
        .collect()
}

/// The only report in a folder: it must be valid and nothing else, such as a leftover temporary
/// file, may lie beside it.
pub fn only_report(folder: &Path) -> Value {
    let files = reports(folder);
    let [file] = &files[..] else {
        panic!("not exactly one file: {files:?}")
    };
    let done = chipmark(folder, &["validate", file.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{done:?}");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

pub fn outcomes(report: &Value) -> &Vec<Value> {
    at(report, "/outcomes").as_array().unwrap()
}

pub fn with_status<'a>(report: &'a Value, status: &str) -> Vec<&'a Value> {
    outcomes(report)
        .iter()
        .filter(|o| o["status"] == status)
        .collect()
}

pub fn reasons(report: &Value, status: &str) -> Vec<String> {
    with_status(report, status)
        .iter()
        .map(|o| {
            let reason = o["reason"].as_str().unwrap().to_owned();
            assert!(
                !reason.is_empty() && !reason.contains('\n'),
                "not one line: {reason:?}"
            );
            reason
        })
        .collect()
}

/// Whether a wgpu adapter can be opened here.
pub fn has_adapter() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let done = chipmark(&std::env::temp_dir(), &["devices", "--json"]);
        let devices = at(&done.json(), "/devices").as_array().unwrap().clone();
        devices.iter().any(|device| device["runner"] == "wgpu")
    })
}

/// Says so past the test harness, which keeps what a passing test prints.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

pub fn schema(which: &str) -> jsonschema::Validator {
    let printed = chipmark(&std::env::temp_dir(), &["schema", which]).json();
    jsonschema::validator_for(&printed).unwrap()
}

pub fn must_follow(schema: &jsonschema::Validator, value: &Value) {
    let errors: Vec<String> = schema
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}\nin {value:#}", errors.join("\n"));
}

/// A report with one change, as text.
pub fn changed(change: impl Fn(&mut Value)) -> String {
    let mut report = report().clone();
    change(&mut report);
    format!("{report:#}\n")
}

pub fn set(report: &mut Value, path: &str, value: Value) {
    *report
        .pointer_mut(path)
        .unwrap_or_else(|| panic!("there is no {path}")) = value;
}

/// Medians of six processes that agree to a thousandth.
pub fn steady(median: f64) -> Value {
    let medians = [1.0, 1.001, 0.999, 1.0005, 0.9995, 1.0];
    json!(medians.map(|factor| median * factor))
}

/// A report as text with the id of its content, as its writer or a forger makes it.
pub fn sealed(report: &Value) -> String {
    let mut report = report.clone();
    report.as_object_mut().unwrap().remove("report_id");
    let id = chipmark::shader::sha256(&serde_json_canonicalizer::to_vec(&report).unwrap());
    report["report_id"] = json!(id);
    report.to_string()
}
