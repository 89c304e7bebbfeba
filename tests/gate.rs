//! What is made of finished reports, from outside: thresholds and formats of `check`, runners side by
//! side.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use program::*;

const FIRST: &str = "matmul/m16_n24_k8/f32";

/// The report of the host with steady medians of processes in every case, and one change.
fn steady_report(change: &dyn Fn(&mut Value)) -> String {
    changed(|report| {
        for outcome in report["outcomes"].as_array_mut().unwrap() {
            outcome["time_s"]["process_medians"] = steady(1e-3);
        }
        change(report);
    })
}

/// Writes a baseline, and a candidate whose first case takes a tenth longer and whose last is lost.
fn write_sides(folder: &Path) {
    fs::write(folder.join("baseline.json"), steady_report(&|_| {})).unwrap();
    let candidate = steady_report(&|report| {
        set(report, "/outcomes/0/time_s/process_medians", steady(1.1e-3));
        let last = TINY.len() - 1;
        set(report, &format!("/outcomes/{last}/status"), json!("failed"));
        set(
            report,
            &format!("/outcomes/{last}/reason"),
            json!("it broke: a < b & c"),
        );
    });
    fs::write(folder.join("candidate.json"), candidate).unwrap();
}

fn check(folder: &Path, thresholds: &str, more: &[&str]) -> Done {
    fs::write(folder.join("thresholds.toml"), thresholds).unwrap();
    let base = [
        "check",
        "--baseline",
        "baseline.json",
        "--candidate",
        "candidate.json",
        "--thresholds",
        "thresholds.toml",
    ];
    chipmark(folder, &[&base, more].concat())
}

#[test]
fn thresholds_decide_by_case_what_stops_a_change() {
    let folder = folder();
    write_sides(folder.path());
    let code = |thresholds: &str| check(folder.path(), thresholds, &[]).code;
    assert_eq!(code(""), 1);
    // The slow case is forgiven; the lost one is still not to be told.
    let forgiven = "[[case]]\nfilter = '^matmul/m16'\nslower_percent = 20\n";
    assert_eq!(code(forgiven), 5);
    let lost = "[[case]]\nfilter = '^attention'\n";
    assert_eq!(code(&format!("{forgiven}{lost}ignore = true")), 0);
    assert_eq!(code(&format!("{forgiven}{lost}required = true")), 1);
}

#[test]
fn thresholds_that_make_no_sense_are_refused_before_anything_is_shown() {
    let folder = folder();
    write_sides(folder.path());
    for (thresholds, needles) in [
        (
            "[default]\nslower_per_cent = 2",
            &["slower_per_cent", "slower_percent"][..],
        ),
        (
            "[[case]]\nfilter = '['\nignore = true",
            &["[[case]] 1", "unclosed"],
        ),
        (
            "[[case]]\nfilter = 'conv'\nignore = true",
            &["'conv'", "matches no case"],
        ),
        (
            "[default]\nslower_percent = 0",
            &["slower_percent is 0", "above 0"],
        ),
    ] {
        let done = check(folder.path(), thresholds, &[]);
        let complaint = done.complaint(2);
        assert!(complaint.contains("thresholds.toml: "), "{complaint}");
        for needle in needles {
            assert!(complaint.contains(needle), "{needle} is not in {complaint}");
        }
    }
    let absent = chipmark(
        folder.path(),
        &[
            "check",
            "--baseline",
            "baseline.json",
            "--candidate",
            "candidate.json",
            "--thresholds",
            "absent.toml",
        ],
    );
    assert!(absent.complaint(2).contains("absent.toml: "));
}

#[test]
fn a_gate_speaks_the_formats_of_continuous_integration() {
    let folder = folder();
    write_sides(folder.path());
    let ignore = "[[case]]\nfilter = 'm64_'\nignore = true";
    let shown = |format: &str| {
        let done = check(folder.path(), ignore, &["--format", format]);
        assert_eq!(done.code, 1, "{done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        done.stdout
    };
    let xml = shown("junit");
    for needle in [
        "tests=\"5\" skipped=\"1\" errors=\"1\" failures=\"1\"",
        "<failure message=\"takes 10 % longer, 1 % allowed\" type=\"slower\"/>",
        "<error message=\"the candidate has no number: it broke: a &lt; b &amp; c\" type=\"lost\"/>",
        "<skipped message=\"the thresholds leave it out\" type=\"left out\"/>",
        "<property name=\"gate\" value=\"regressed\"/>",
    ] {
        assert!(xml.contains(needle), "{needle} is not in {xml}");
    }
    let md = shown("md");
    assert!(
        md.starts_with("**regression: 1 of 3 compared cases slower"),
        "{md}"
    );
    assert!(md.contains("- lost: attention/") && md.contains("| slower |"));
    let value: Value = serde_json::from_str(&shown("json")).unwrap();
    must_follow(&schema("comparison"), &value["comparison"]);
    let finding = |id: &str| {
        let findings = at(&value, "/findings").as_array().unwrap();
        findings.iter().find(|f| f["case_id"] == id).unwrap()["finding"].clone()
    };
    assert_eq!(at(&value, "/gate"), "regressed");
    assert_eq!(finding(FIRST), "slower");
    assert_eq!(finding("matmul/m64_n64_k64/f32"), "left_out");
    assert!(shown("text").contains("lost: attention/b1_h2_kv1_q9_l17_d16/f32 (host)"));
}

#[test]
fn two_runners_of_one_report_stand_side_by_side_in_every_format() {
    let folder = folder();
    let both = changed(|report| {
        let mut others = outcomes(report).clone();
        for outcome in &mut others {
            outcome["runner"] = json!("other");
        }
        report["outcomes"].as_array_mut().unwrap().extend(others);
    });
    fs::write(folder.path().join("both.json"), both).unwrap();
    let compare = |more: &[&str]| {
        let base = ["compare", "both.json", "both.json"];
        chipmark(folder.path(), &[&base, more].concat())
    };
    let pair = ["--baseline-runner", "host", "--runner", "other"];
    let text = compare(&pair);
    assert_eq!((text.code, text.stderr.as_str()), (0, ""));
    assert!(text.stdout.contains("other against host"), "{text:?}");
    assert!(!text.stdout.contains("warning"), "{text:?}");
    let csv = compare(&[&pair[..], &["--format", "csv"]].concat());
    let lines: Vec<&str> = csv.stdout.split("\r\n").collect();
    assert_eq!(lines.len(), 1 + TINY.len() + 1, "{csv:?}");
    assert!(lines[0].starts_with("case_id,baseline,baseline_runner,candidate,runner,verdict,"));
    assert!(
        lines[1..=TINY.len()]
            .iter()
            .all(|line| line.contains(",host,both.json,other,"))
    );
    let absent = compare(&["--runner", "torch"]);
    assert!(
        absent
            .complaint(2)
            .contains("both.json has no such runner; it has host, other"),
        "{absent:?}"
    );
}
