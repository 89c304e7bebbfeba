//! Notes the commit that the program is built from, so that a report can name it.

use std::process::Command;

/// What goes into the program.
const MADE_OF: [&str; 6] = ["src", "shaders", "suites", "chips", "models", "Cargo.lock"];

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    for path in MADE_OF.iter().chain(&[".git/logs/HEAD"]) {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        let changed = git(&[&["status", "--porcelain", "--"][..], &MADE_OF].concat());
        let suffix = if changed.is_some_and(|lines| !lines.is_empty()) {
            "-dirty"
        } else {
            ""
        };
        println!("cargo:rustc-env=CHIPMARK_COMMIT={commit}{suffix}");
    }
}
