//! The runners that come with the program, through the program's own verification.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

mod devices;

use std::process::{Command, Stdio};

/// Whether `python3` can import this module.
fn python_has(module: &str) -> bool {
    Command::new("python3")
        .args(["-c", &format!("import {module}")])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Tests the runner that this command starts, and wants it to pass.
fn must_conform(command: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_chipmark"))
        .args(["conformance", command])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("farewell"), "{text}");
}

#[test]
fn the_torch_runner_conforms_where_there_is_torch() {
    if !python_has("torch") {
        return devices::skipped("the_torch_runner_conforms_where_there_is_torch");
    }
    must_conform(concat!(
        "python3 ",
        env!("CARGO_MANIFEST_DIR"),
        "/runners/torch/chipmark_torch.py"
    ));
}

#[test]
fn the_runner_in_the_document_conforms_and_is_short() {
    let page = include_str!("../docs/protocol.md");
    let (_, rest) = page.split_once("```python\n").unwrap();
    let (program, _) = rest.split_once("```").unwrap();
    let lines = program.lines().count();
    assert!(lines < 100, "{lines} lines");
    if !python_has("json") {
        return devices::skipped("the_runner_in_the_document_conforms_and_is_short");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abacus.py");
    std::fs::write(&path, program).unwrap();
    must_conform(&format!("python3 {}", path.display()));
}
