//! What is made of finished reports, from outside: thresholds and formats of `check`, runners side by
//! side, signatures, and reports run again.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use program::*;

const FIRST: &str = "matmul/m16_n24_k8/f32";

/// A report whose id was made anew after a change, as a forger would.
fn resealed(change: impl Fn(&mut Value)) -> String {
    sealed(&serde_json::from_str(&changed(change)).unwrap())
}

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
    let both: Value = serde_json::from_str(&both).unwrap();
    fs::write(folder.path().join("both.json"), sealed(&both)).unwrap();
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

#[test]
fn a_report_that_is_not_as_it_was_written_is_compared_with_a_warning() {
    let folder = folder();
    fs::write(folder.path().join("whole.json"), changed(|_| {})).unwrap();
    fs::write(
        folder.path().join("edited.json"),
        changed(|report| set(report, "/seed", json!(1))),
    )
    .unwrap();
    let done = chipmark(folder.path(), &["compare", "whole.json", "edited.json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let warnings: Vec<&str> = done
        .stdout
        .lines()
        .filter(|line| line.contains("was changed after it was written"))
        .collect();
    let [warning] = warnings[..] else {
        panic!("not one warning: {done:?}")
    };
    assert!(warning.starts_with("warning: edited.json: "), "{warning}");
}

// Provenance.

/// Written by minisign 0.11; the password is `secret`.
const KEY: &str = "untrusted comment: minisign encrypted secret key\nRWRTY0IyOvdW3Y61Op6thvey/o92sbHbJDPOq7BwzyWGFO/SITcAAAACAAAAAAAAAEAAAAAAJFqKiuBq5aXe0blyCXgnEt8K153sCH8I1WDTmpry+RbJM3dAKbejihLqroaCcz92Tc2AkQjNukkmZQfNEyMjI///16BpQ9o1lgXT1sY2DoXf15S+04taZlwQWOEqonIyy5thz0/QdjA=\n";
const PUBLIC: &str = "untrusted comment: minisign public key 38F834915B463E0B\nRWQLPkZbkTT4OP1lnQXTHkTm/zNE8klh2LGg8Od3NMX5m9XYMX2V0u8L\n";

fn with_password(folder: &Path, password: &str, arguments: &[&str]) -> Done {
    let mut command = command(folder, arguments);
    command.env("CHIPMARK_KEY_PASSWORD", password);
    let output = {
        let _lock = lock();
        command.spawn().unwrap()
    };
    let output = output.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_report_is_signed_by_a_key_with_a_password_and_confirmed_by_the_public_one() {
    let folder = folder();
    let path = folder.path();
    fs::write(path.join("report.json"), changed(|_| {})).unwrap();
    fs::write(path.join("my.key"), KEY).unwrap();
    fs::write(path.join("my.pub"), PUBLIC).unwrap();
    let sign = ["sign", "report.json", "--key", "my.key"];
    let validate = ["validate", "report.json", "--key", "my.pub"];
    // No signature, no password, no terminal to ask at.
    assert!(
        chipmark(path, &validate)
            .complaint(2)
            .contains("report.json.minisig")
    );
    let closed = chipmark(path, &sign);
    assert!(
        closed.complaint(2).contains("CHIPMARK_KEY_PASSWORD"),
        "{closed:?}"
    );
    let wrong = with_password(path, "guess", &sign);
    assert!(wrong.complaint(2).contains("my.key"), "{wrong:?}");
    let done = with_password(path, "secret", &sign);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert_eq!(done.stdout, "report.json.minisig\n");
    let id = at(report(), "/report_id").as_str().unwrap();
    let confirmed = chipmark(path, &validate);
    assert_eq!(confirmed.code, 0, "{confirmed:?}");
    assert!(
        confirmed.stdout.contains("signed by my.pub")
            && confirmed.stdout.contains(&format!("report_id:{id}")),
        "{confirmed:?}"
    );
    let silent = chipmark(path, &["validate", "report.json"]);
    assert_eq!(silent.code, 0);
    assert!(silent.stderr.contains("was not looked at"), "{silent:?}");
    // Another layout of the same content is a whole report, but not the file that was signed.
    fs::write(path.join("report.json"), report().to_string()).unwrap();
    assert_eq!(chipmark(path, &["validate", "report.json"]).code, 0);
    assert!(
        chipmark(path, &validate)
            .complaint(2)
            .contains("is no signature of it by my.pub")
    );
}

#[test]
fn new_keys_sign_and_what_is_not_whole_is_not_signed() {
    let folder = folder();
    let path = folder.path();
    let made = chipmark(path, &["sign", "--generate-key", "keys"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stderr.contains("has no password"), "{made:?}");
    fs::write(path.join("report.json"), changed(|_| {})).unwrap();
    let edited = changed(|r| set(r, "/outcomes/0/flop_count", json!(1)));
    fs::write(path.join("edited.json"), edited).unwrap();
    let sign = |name: &str| chipmark(path, &["sign", name, "--key", "keys/chipmark.key"]);
    assert_eq!(sign("report.json").code, 0);
    let validate = ["validate", "report.json", "--key", "keys/chipmark.pub"];
    assert_eq!(chipmark(path, &validate).code, 0);
    let refused = sign("edited.json");
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused
            .stdout
            .contains(&format!("outcome {FIRST} (host): flop_count is 1, but")),
        "{refused:?}"
    );
    assert!(!path.join("edited.json.minisig").exists());
    let again = chipmark(path, &["sign", "--generate-key", "keys"]);
    assert!(again.complaint(2).contains("there already"), "{again:?}");
}

#[test]
fn a_forger_who_makes_the_id_anew_is_told_every_figure_that_contradicts_another() {
    let folder = folder();
    let forged = resealed(|report| {
        set(report, "/outcomes/0/flops_per_second", json!(1e15));
        set(
            report,
            "/outcomes/1/verification/error_to_tolerance_max",
            json!(7.5),
        );
    });
    fs::write(folder.path().join("forged.json"), forged).unwrap();
    let done = chipmark(folder.path(), &["validate", "forged.json"]);
    assert_eq!(done.code, 2, "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let [rate, error] = lines[..] else {
        panic!("not two lines: {done:?}")
    };
    assert!(
        rate.starts_with(&format!(
            "outcome {FIRST} (host): flops_per_second is 1e15, but"
        )),
        "{rate}"
    );
    assert!(error.contains("error_to_tolerance_max is 7.5"), "{error}");
    assert!(
        done.stderr
            .starts_with("chipmark: forged.json: 2 figures contradict others"),
        "{done:?}"
    );
}

// Replay.

#[test]
fn a_replay_runs_the_same_cases_and_variants_on_the_same_inputs_and_says_what_came_of_it() {
    let folder = folder();
    let path = folder.path();
    fs::write(path.join("report.json"), changed(|_| {})).unwrap();
    let filter = "^matmul/m(16|64)_";
    let arguments = ["replay", "report.json", "--filter", filter, "--budget", "4"];
    let done = chipmark(path, &[&arguments[..], &["--output", "new"]].concat());
    // What the machine made of it is not what is tested here.
    assert!([0, 1, 5].contains(&done.code), "{done:?}");
    let line = done.stderr.lines().last().unwrap();
    let expected = match done.code {
        0 => "chipmark: the replay agrees: ",
        1 => "chipmark: the replay differs: ",
        _ => "chipmark: cannot tell: ",
    };
    assert!(line.starts_with(expected), "{line}");
    assert!(done.stdout.contains("of 2 cases compared"), "{done:?}");
    let new = only_report(&path.join("new"));
    assert_eq!(at(&new, "/seed"), at(report(), "/seed"));
    assert_eq!(at(&new, "/suite"), at(report(), "/suite"));
    assert_eq!(outcomes(&new).len(), 2);
    for outcome in outcomes(&new) {
        let was = outcomes(report())
            .iter()
            .find(|was| was["case_id"] == outcome["case_id"])
            .unwrap();
        assert_eq!(outcome["status"], "measured", "{outcome:#}");
        for field in ["kernel", "variant", "runner"] {
            assert_eq!(outcome[field], was[field]);
        }
        let tried = outcome["tried"].as_array().unwrap();
        let timed = tried.iter().filter(|tried| tried["status"] == "timed");
        assert_eq!(timed.count(), 1, "{tried:#?}");
    }
}

#[test]
fn a_replay_says_where_the_device_is_not_or_the_variant_is_another() {
    let folder = folder();
    let path = folder.path();
    let elsewhere = resealed(|report| {
        set(report, "/runners/0/name", json!("wgpu"));
        set(report, "/runners/0/device/name", json!("Chip of Tomorrow"));
        set(report, "/device/name", json!("Chip of Tomorrow"));
        set(report, "/runners/0/device/backend", json!("vulkan"));
        for outcome in report["outcomes"].as_array_mut().unwrap() {
            outcome["runner"] = json!("wgpu");
        }
    });
    fs::write(path.join("elsewhere.json"), elsewhere).unwrap();
    let done = chipmark(path, &["replay", "elsewhere.json"]);
    let complaint = done.complaint(3);
    assert!(
        complaint.contains("Chip of Tomorrow") && complaint.contains("--device"),
        "{complaint}"
    );
    let other = resealed(|report| {
        set(report, "/outcomes/0/kernel", json!("matmul/lost"));
        set(report, "/runners/0/device/driver", json!("an older one"));
    });
    fs::write(path.join("other.json"), other).unwrap();
    let done = chipmark(
        path,
        &[
            "replay",
            "other.json",
            "--filter",
            "m16_",
            "--budget",
            "4",
            "--output",
            "-",
        ],
    );
    assert!([0, 1, 5].contains(&done.code), "{done:?}");
    assert_eq!(outcomes(&done.json()).len(), 1);
    for needle in [
        "warning: the driver of runner host is",
        "warning: another variant was measured",
        "instead of matmul/lost",
    ] {
        assert!(done.stderr.contains(needle), "{needle} is not in {done:?}");
    }
    fs::write(
        path.join("edited.json"),
        changed(|report| set(report, "/seed", json!(1))),
    )
    .unwrap();
    for (arguments, needle) in [
        (&["replay", "absent.json"][..], "absent.json"),
        (&["replay", "edited.json"], "changed after it was written"),
        (
            &["replay", "other.json", "--filter", "conv"],
            "no measured case of other.json matches",
        ),
        (
            &["replay", "other.json", "--runner", "no-such-runner"],
            "no-such-runner",
        ),
    ] {
        let done = chipmark(path, arguments);
        assert!(done.complaint(2).contains(needle), "{done:?}");
    }
}
