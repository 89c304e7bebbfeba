//! Notes the commit that the program is built from, so that a report can name it.

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    for path in ["src", "shaders", "suites", "Cargo.lock", ".git/logs/HEAD"] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        let changed = git(&[
            "status",
            "--porcelain",
            "--",
            "src",
            "shaders",
            "suites",
            "Cargo.lock",
        ]);
        let suffix = if changed.is_some_and(|lines| !lines.is_empty()) {
            "-dirty"
        } else {
            ""
        };
        println!("cargo:rustc-env=CHIPMARK_COMMIT={commit}{suffix}");
    }
}
