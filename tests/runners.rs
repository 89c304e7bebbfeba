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

#[test]
fn the_torch_runner_is_right_where_there_is_torch() {
    if !python_has("torch") {
        return devices::skipped("the_torch_runner_is_right_where_there_is_torch");
    }
    let runner = concat!(
        "python3 ",
        env!("CARGO_MANIFEST_DIR"),
        "/runners/torch/chipmark_torch.py"
    );
    for (op, dtype) in [
        ("matmul", "f32"),
        ("matmul", "f16"),
        ("matmul", "f16_f16"),
        ("attention", "f32"),
        ("attention", "f16"),
        ("copy", "f32"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_chipmark"))
            .args(["verify", "--runner", runner, "--op", op, "--dtype", dtype])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{op} {dtype}\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("right"), "{text}");
    }
}
