//! The runners that come with the program, through the program's own tests of runners.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

mod devices;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A Python that can import this module: the system's, or one that `./x runner` made.
fn python_with(module: &str) -> Option<PathBuf> {
    let runners = Path::new(env!("CARGO_BIN_EXE_chipmark"))
        .ancestors()
        .nth(2)
        .unwrap()
        .join("runners");
    let made = ["jax", "onnxruntime", "torch", "neuron"]
        .map(|name| runners.join(name).join("bin").join("python"));
    std::iter::once(PathBuf::from("python3"))
        .chain(made)
        .find(|python| {
            Command::new(python)
                .args(["-c", &format!("import {module}")])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
}

/// Tests the runner that this command starts, and wants it to pass.
fn must_conform(words: &[&OsStr]) {
    let command: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_chipmark"))
        .args(["conformance", &command.join(" ")])
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

/// `./x runner` tests each runner in the environment that it makes. Again here are those that take
/// seconds.
fn must_conform_where_there_is(module: &str, program: &str, test: &str) {
    let Some(python) = python_with(module) else {
        return devices::skipped(test);
    };
    let program = Path::new(ROOT).join(program);
    must_conform(&[python.as_os_str(), program.as_os_str()]);
}

#[test]
fn the_jax_runner_conforms_where_there_is_jax() {
    // It takes minutes, and who has just run `./x runner jax`, as CI does, knows.
    if std::env::var("CHIPMARK_CONFORMED").is_ok_and(|name| name == "jax") {
        eprintln!(
            "SKIPPED: the_jax_runner_conforms_where_there_is_jax, as `./x runner jax` has shown it"
        );
        return;
    }
    must_conform_where_there_is(
        "jax",
        "runners/jax/chipmark_jax.py",
        "the_jax_runner_conforms_where_there_is_jax",
    );
}

#[test]
fn the_neuron_runner_conforms_on_a_simulated_chip_where_there_is_numpy() {
    must_conform_where_there_is(
        "numpy",
        "runners/neuron/simulated.py",
        "the_neuron_runner_conforms_on_a_simulated_chip_where_there_is_numpy",
    );
}

#[test]
fn the_tests_of_the_neuron_runner_pass_where_there_is_numpy() {
    let Some(python) = python_with("numpy") else {
        return devices::skipped("the_tests_of_the_neuron_runner_pass_where_there_is_numpy");
    };
    let output = Command::new(python)
        .args(["-m", "unittest", "discover", "-s", "runners/neuron"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    // A folder without tests is no success.
    assert!(text.contains("Ran ") && !text.contains("Ran 0 "), "{text}");
}

#[test]
fn the_inputs_of_runners_in_python_are_those_of_the_specification() {
    if python_with("json").is_none() {
        return devices::skipped("the_inputs_of_runners_in_python_are_those_of_the_specification");
    }
    // The test vectors of docs/protocol.md.
    let text = "import sys; sys.path.insert(0, 'runners'); import chipmark_runner as r\n\
        for s, t, i in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (12345, 2, 4294967295)]:\n    \
            w = r.words(r.keys(s, t), i); print(w, r.elements(w, 'uniform', 'f32'), r.elements(w, 'integer', 'f32'))";
    let output = Command::new(python_with("json").unwrap())
        .args(["-c", text])
        .current_dir(ROOT)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "516394440 -0.7595351934432983 -2\n\
         3417484482 0.5913901329040527 4\n\
         3417042988 0.5911846160888672 4\n\
         3888350630 0.8106542825698853 5\n\
         3281722500 0.5281710624694824 4\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_runner_whose_package_is_missing_says_so_in_one_line_with_the_remedy() {
    let Some(python) = python_with("json") else {
        return devices::skipped(
            "a_runner_whose_package_is_missing_says_so_in_one_line_with_the_remedy",
        );
    };
    for runner in ["torch", "jax", "onnxruntime"] {
        let output = Command::new(&python)
            // Without the packages of the system or the user.
            .args(["-I", "-S"])
            .arg(format!("{ROOT}/runners/{runner}/chipmark_{runner}.py"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{runner}: {text}");
        assert_eq!(text.lines().count(), 1, "{runner}: {text}");
        assert!(
            text.contains(&format!("`./x runner {runner}`")),
            "{runner}: {text}"
        );
    }
}

#[test]
fn the_runner_in_the_document_conforms_and_is_short() {
    let page = include_str!("../docs/protocol.md");
    let (_, rest) = page.split_once("```python\n").unwrap();
    let (program, _) = rest.split_once("```").unwrap();
    let lines = program.lines().count();
    assert!(lines < 100, "{lines} lines");
    let Some(python) = python_with("json") else {
        return devices::skipped("the_runner_in_the_document_conforms_and_is_short");
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abacus.py");
    std::fs::write(&path, program).unwrap();
    must_conform(&[python.as_os_str(), path.as_os_str()]);
}
