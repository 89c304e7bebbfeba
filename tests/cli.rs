//! The program from outside: what it says, what it leaves behind and with which exit code it ends,
//! on good input, on bad input and with runners that lie, hang and die.
//!
//! Snapshots lie in `tests/snapshots`; after a wanted change of what the program says:
//! `INSTA_UPDATE=always cargo test --release --test cli`, and read the difference.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
#[cfg(unix)]
use std::time::Duration;

use serde_json::{Value, json};

use program::*;

const NO_FILES: [PathBuf; 0] = [];

const COMMANDS: [&str; 29] = [
    "run",
    "devices",
    "list",
    "verify",
    "show",
    "compare",
    "check",
    "ab",
    "calibrate",
    "diagnose",
    "inspect",
    "conformance",
    "chips",
    "goals",
    "cost",
    "export",
    "import",
    "history",
    "dashboard",
    "serve",
    "publish",
    "index",
    "cache",
    "merge",
    "validate",
    "sign",
    "replay",
    "schema",
    "worker",
];

// What the program says about itself.

#[test]
fn the_help_of_the_program_and_of_every_command_is_as_recorded() {
    let folder = folder();
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"chipmark\.exe", "chipmark");
    settings.bind(|| {
        let help = chipmark(folder.path(), &["--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""));
        insta::assert_snapshot!("help", help.stdout);
        for name in COMMANDS {
            let help = chipmark(folder.path(), &[name, "--help"]);
            assert_eq!((help.code, help.stderr.as_str()), (0, ""));
            insta::assert_snapshot!(format!("help_{name}"), help.stdout);
        }
    });
}

#[test]
fn the_help_lists_exactly_the_commands_that_are_tested_here() {
    let help = chipmark(&std::env::temp_dir(), &["--help"]).stdout;
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(listed, COMMANDS, "add the command to COMMANDS");
}

#[test]
fn the_version_is_the_one_of_the_package() {
    let done = chipmark(&std::env::temp_dir(), &["--version"]);
    assert_eq!(done.code, 0);
    assert_eq!(
        done.stdout,
        concat!("chipmark ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn wrong_arguments_end_with_code_2_and_one_error_line_that_names_them() {
    let folder = folder();
    let table: [(&[&str], &[&str]); 14] = [
        (&[], &["Usage: chipmark"]),
        (&["frobnicate"], &["frobnicate"]),
        (&["run", "--frobnicate"], &["--frobnicate"]),
        (
            &["run", "--budget", "0"],
            &["--budget", "'0'", "above zero"],
        ),
        (&["run", "--budget=-1"], &["--budget", "'-1'"]),
        (&["run", "--budget", "inf"], &["--budget", "'inf'"]),
        (&["run", "--budget", "NaN"], &["--budget", "'NaN'"]),
        (&["run", "--seed", "4294967296"], &["--seed", "4294967296"]),
        (&["run", "--silence", "0"], &["--silence", "'0'"]),
        (
            &["run", "--backend", "glide"],
            &["--backend", "glide", "vulkan"],
        ),
        (&["schema", "poem"], &["poem", "report"]),
        (
            &["compare", "a.json", "b.json", "--format", "pdf"],
            &["--format", "pdf", "json"],
        ),
        (&["worker", "--runner", "torch"], &["--runner", "host"]),
        (
            &["verify", "--op", "conv", "--shape", "m=1"],
            &["--op", "conv", "matmul"],
        ),
    ];
    for (arguments, needles) in table {
        let done = chipmark(folder.path(), arguments);
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (2, ""),
            "{arguments:?}: {done:?}"
        );
        let errors = done
            .stderr
            .lines()
            .filter(|l| l.starts_with("error:"))
            .count();
        assert!(
            errors == usize::from(!arguments.is_empty()),
            "{arguments:?}: {done:?}"
        );
        for needle in needles {
            assert!(done.stderr.contains(needle), "{needle} is not in {done:?}");
        }
    }
    assert_eq!(reports(folder.path()), NO_FILES, "something was written");
}

// Bad input.

#[test]
fn a_bad_suite_or_filter_is_refused_by_name_before_anything_is_written() {
    let folder = folder();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("good.toml", &suite(1.0, &[MATMUL]));
    write("twice.toml", &suite(1.0, &[MATMUL, MATMUL]));
    write(
        "negative.toml",
        &suite(1.0, &["matmul m = -2, n = 2, k = 2"]),
    );
    write("zero.toml", &suite(1.0, &["matmul m = 0, n = 2, k = 2"]));
    write(
        "wide.toml",
        &suite(1.0, &["matmul m = 18446744073709551616, n = 2, k = 2"]),
    );
    write(
        "huge.toml",
        &suite(1.0, &["matmul m = 4000000000, n = 2, k = 1"]),
    );
    write("op.toml", &suite(1.0, &["conv m = 2"]));
    write(
        "dtype.toml",
        &suite(1.0, &[MATMUL]).replace("\"f32\"", "\"f31\""),
    );
    write(
        "field.toml",
        &suite(1.0, &[MATMUL]).replace("call_s_max", "call_s_maximum"),
    );
    write("budget.toml", &suite(0.0, &[MATMUL]));
    write(
        "endless.toml",
        &suite(1.0, &[MATMUL]).replace("call_s_max = 5.0", "call_s_max = nan"),
    );
    write("cut.toml", &suite(1.0, &[MATMUL])[..60]);
    write("empty.toml", "");
    fs::write(folder.path().join("binary.toml"), [0xff, 0xfd, 0, 1]).unwrap();
    let table: [(&[&str], &[&str]); 18] = [
        (
            &["--suite", "nonsense"],
            &["--suite nonsense", "quick", ".toml"],
        ),
        (
            &["--suite", "nowhere.toml"],
            &["nowhere.toml", "No such file"],
        ),
        (
            &["--suite", "twice.toml"],
            &["twice.toml", "matmul/m2_n2_k2/f32", "twice"],
        ),
        (&["--suite", "negative.toml"], &["negative.toml", "-2"]),
        (
            &["--suite", "zero.toml"],
            &["zero.toml", "m must be from 1", "not 0"],
        ),
        (
            &["--suite", "wide.toml"],
            &["wide.toml", "18446744073709551616"],
        ),
        (
            &["--suite", "huge.toml"],
            &["huge.toml", "4000000000", "too large"],
        ),
        (&["--suite", "op.toml"], &["op.toml", "conv", "matmul"]),
        (&["--suite", "dtype.toml"], &["dtype.toml", "f31", "f32"]),
        (
            &["--suite", "field.toml"],
            &["field.toml", "call_s_maximum"],
        ),
        (
            &["--suite", "budget.toml"],
            &["budget.toml", "case_budget_s", "above zero"],
        ),
        (
            &["--suite", "endless.toml"],
            &["endless.toml", "call_s_max", "above zero"],
        ),
        (&["--suite", "cut.toml"], &["cut.toml"]),
        (&["--suite", "empty.toml"], &["empty.toml", "name"]),
        (&["--suite", "binary.toml"], &["binary.toml", "UTF-8"]),
        (
            &["--suite", "good.toml", "--filter", "("],
            &["--filter (", "unclosed group"],
        ),
        (
            &["--suite", "good.toml", "--filter", "^conv"],
            &["--filter ^conv", "no case", "chipmark list"],
        ),
        (
            &["--filter", "nothing at all"],
            &["--filter nothing at all", "suite quick"],
        ),
    ];
    for command in ["run", "list"] {
        for (arguments, needles) in table {
            let done = chipmark(folder.path(), &[&[command], arguments].concat());
            let complaint = done.complaint(2);
            for needle in needles {
                assert!(
                    complaint.contains(needle),
                    "{needle:?} is not in {complaint:?}"
                );
            }
        }
    }
    assert!(!folder.path().join("reports").exists(), "a folder was made");
}

#[test]
fn an_impossible_shape_or_dtype_is_refused_by_dimension_and_rule() {
    let folder = folder();
    let table: [(&str, &[&str]); 17] = [
        ("m=0,n=1,k=1", &["m must be from 1 to", "not 0"]),
        ("m=-1,n=1,k=1", &["m is \"-1\"", "whole number"]),
        ("m=1.5,n=1,k=1", &["m is \"1.5\""]),
        (
            "m=18446744073709551616,n=1,k=1",
            &["m is \"18446744073709551616\""],
        ),
        (
            "m=18446744073709551615,n=1,k=1",
            &["m must be from 1 to 4294967295"],
        ),
        (
            "m=4294967295,n=4294967295,k=4294967295",
            &["more operations than can be counted"],
        ),
        (
            "m=4294967295,n=2,k=1",
            &["tensor \"c\"", "4294967295 x 2", "too large"],
        ),
        (
            "m=1,n=1,z=1",
            &["no op has all these", "matmul (batch, m, n, k, trans_b)"],
        ),
        ("m=1,n=1", &["needs the dimension \"k\""]),
        ("m=1,m=2,n=1,k=1", &["m stands there twice"]),
        ("m", &["\"m\" is not name=number"]),
        ("", &["is not name=number"]),
        ("m=,n=1,k=1", &["m is \"\""]),
        ("m=1,n=1,k=1,", &["\"\" is not name=number"]),
        ("=1", &["no op has all these"]),
        (
            "heads=3,kv_heads=2,query_len=1,kv_len=1,head_dim=8",
            &["multiple of kv_heads"],
        ),
        (
            "heads=4294967295,kv_heads=1,query_len=4294967295,kv_len=4294967295,head_dim=8",
            &["attention"],
        ),
    ];
    for (shape, needles) in table {
        let done = chipmark(
            folder.path(),
            &["verify", "--runner", "host", "--shape", shape],
        );
        let complaint = done.complaint(2);
        for needle in needles {
            assert!(
                complaint.contains(needle),
                "{needle:?} is not in {complaint:?}"
            );
        }
    }
    let done = chipmark(folder.path(), &["verify", "--dtype", "f31"]);
    let complaint = done.complaint(2);
    assert!(
        complaint.contains("f31") && complaint.contains("use f32"),
        "{complaint}"
    );
}

#[test]
fn a_case_beyond_memory_is_refused_with_both_numbers() {
    let folder = folder();
    // 17 GB for each of three tensors; on a machine that has twice as much the test means nothing.
    let shape = "m=65535,n=65535,k=65535";
    let devices = chipmark(folder.path(), &["devices", "--json"]).json();
    let host = at(&devices, "/devices")
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["runner"] == "host");
    let budget = at(host.unwrap(), "/limits/memory_bytes_budget")
        .as_u64()
        .unwrap();
    if budget > 3 * 65535 * 65535 * 4 {
        return skipped("this machine holds the largest case");
    }
    let done = chipmark(
        folder.path(),
        &["verify", "--runner", "host", "--shape", shape],
    );
    assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
    let complaint = done.stderr.lines().last().unwrap();
    let needed = (3u64 * 65535 * 65535 * 4).to_string();
    assert!(
        complaint.contains(&needed) && complaint.contains(&budget.to_string()),
        "{complaint}"
    );

    fs::write(
        folder.path().join("large.toml"),
        suite(0.2, &[MATMUL, "matmul m = 65535, n = 65535, k = 65535"]),
    )
    .unwrap();
    let done = chipmark(
        folder.path(),
        &[
            "run",
            "--suite",
            "large.toml",
            "--runner",
            "host",
            "--output",
            "out",
        ],
    );
    assert_eq!(done.code, 0, "{done:?}");
    let report = only_report(&folder.path().join("out"));
    assert_eq!(with_status(&report, "measured").len(), 1);
    assert!(reasons(&report, "skipped")[0].contains(&needed));
}

#[test]
fn a_kernel_filter_that_finds_nothing_says_what_it_takes() {
    let folder = folder();
    let verify = |filter: &str| {
        let done = chipmark(
            folder.path(),
            &[
                "verify",
                "--runner",
                "host",
                "--shape",
                "m=2,n=2,k=2",
                "--filter",
                filter,
            ],
        );
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
        done.stderr.lines().last().unwrap().to_owned()
    };
    let complaint = verify("nothing/at/all");
    assert!(
        complaint.contains("no kernel matches") && complaint.contains("--filter"),
        "{complaint}"
    );
    let complaint = verify("[");
    assert!(
        complaint.contains("--filter [") && complaint.contains("regular expression"),
        "{complaint}"
    );
}

#[test]
fn an_inspection_names_what_it_cannot_do_and_shows_each_program_once() {
    let folder = folder();
    let inspect = |more: &[&str]| chipmark(folder.path(), &[&["inspect"], more].concat());
    for (filter, needle) in [("nothing/at/all", "no kernel matches"), ("[", "--filter [")] {
        let done = inspect(&["--filter", filter]);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
        let complaint = done.stderr.lines().last().unwrap();
        assert!(complaint.contains(needle), "{complaint}");
    }
    let done = inspect(&["--dtype", "f31"]);
    assert_eq!(done.code, 2, "{done:?}");
    let done = inspect(&["--filter", "^matmul/naive", "--json"]);
    let found: Value = serde_json::from_str(&done.stdout).unwrap();
    let programs = found["programs"].as_array().unwrap();
    let names: Vec<(&str, &str)> = (programs.iter())
        .map(|one| {
            (
                one["kernel"].as_str().unwrap(),
                one["dtype"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(names.contains(&("matmul/naive", "f32")), "{names:?}");
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "{names:?}");
    // A driver that tells nothing is no success, and the reason is there.
    let silent = (programs.iter()).filter(|one| !one["reason"].is_null());
    let silent = silent.count();
    assert_eq!(done.code, if silent > 0 { 6 } else { 0 }, "{done:?}");
    for one in programs {
        let told = one["executables"].as_array().unwrap().len();
        assert_ne!(told == 0, one["reason"].is_null(), "{one}");
    }
}

#[test]
fn a_bad_report_file_is_refused_by_file_field_and_remedy() {
    let folder = folder();
    let good = changed(|_| {});
    let mut files: Vec<(&str, String, &[&str])> = vec![
        (
            "empty.json",
            String::new(),
            &["ends in the middle", "copy the whole file"],
        ),
        (
            "cut.json",
            good[..good.len() / 2].to_owned(),
            &["ends in the middle", "copy the whole file"],
        ),
        (
            "prose.json",
            "My report: very fast\n".to_owned(),
            &["not JSON", "line 1"],
        ),
        ("deep.json", "[".repeat(100_000), &["not JSON", "recursion"]),
        (
            "array.json",
            "[]".to_owned(),
            &["schema_version", "no chipmark report"],
        ),
        (
            "other.json",
            "{\"name\": \"left-pad\"}".to_owned(),
            &["schema_version", "no chipmark report"],
        ),
        (
            "newer.json",
            changed(|r| set(r, "/schema_version", json!("2.0.0"))),
            &["2.0.0 is newer", "update chipmark"],
        ),
        (
            "older.json",
            changed(|r| set(r, "/schema_version", json!("0.9.0"))),
            &["0.9.0 is older", "run the cases again"],
        ),
        (
            "number.json",
            changed(|r| set(r, "/schema_version", json!(1))),
            &["schema_version"],
        ),
        (
            "word.json",
            changed(|r| set(r, "/schema_version", json!("latest"))),
            &["\"latest\" is not a version"],
        ),
        (
            "negative.json",
            changed(|r| set(r, "/outcomes/0/time_s/median", json!(-1.0))),
            &[
                "outcome matmul/m16_n24_k8/f32",
                "time_s.median is -1",
                "above zero",
            ],
        ),
        (
            "null.json",
            changed(|r| set(r, "/outcomes/0/time_s/median", Value::Null)),
            &["does not follow the schema", "null"],
        ),
        (
            "outside.json",
            changed(|r| set(r, "/outcomes/1/time_s/ci95_high", json!(1e-12))),
            &["outcome matmul/m31_n33_k35/f32", "outside its own interval"],
        ),
        (
            "unproven.json",
            changed(|r| set(r, "/outcomes/0/verification", Value::Null)),
            &["outcome matmul/m16_n24_k8/f32", "no verification"],
        ),
        (
            "silent.json",
            changed(|r| set(r, "/outcomes/0/status", json!("failed"))),
            &["outcome matmul/m16_n24_k8/f32", "gives no reason"],
        ),
        (
            "status.json",
            changed(|r| set(r, "/outcomes/0/status", json!("great"))),
            &["great", "measured"],
        ),
    ];
    let infinite = good.replacen("\"median\": ", "\"median\": 1e999, \"mean\": ", 1);
    files.push(("infinite.json", infinite, &["number out of range", "line"]));
    fs::write(folder.path().join("good.json"), &good).unwrap();
    for (name, text, needles) in &files {
        fs::write(folder.path().join(name), text).unwrap();
        for arguments in [
            &["validate", *name][..],
            &["compare", "good.json", *name],
            &["compare", *name, "good.json"],
        ] {
            let done = chipmark(folder.path(), arguments);
            let complaint = done.complaint(2);
            assert!(complaint.starts_with(&format!("{name}: ")), "{complaint}");
            for needle in *needles {
                assert!(
                    complaint.contains(needle),
                    "{needle:?} is not in {complaint:?}"
                );
            }
        }
        assert_eq!(
            &fs::read_to_string(folder.path().join(name)).unwrap(),
            text,
            "the file was touched"
        );
    }
    fs::create_dir(folder.path().join("folder.json")).unwrap();
    fs::write(folder.path().join("latin.json"), b"{\"name\": \"caf\xe9\"}").unwrap();
    for name in ["missing.json", "folder.json", "latin.json"] {
        let done = chipmark(folder.path(), &["validate", name]);
        assert!(
            done.complaint(2).starts_with(&format!("{name}: ")),
            "{done:?}"
        );
    }
}

#[test]
fn a_report_that_powershell_redirected_is_read_and_one_alone_is_not_compared() {
    let folder = folder();
    let text = changed(|_| {});
    let units = "\u{feff}".encode_utf16().chain(text.encode_utf16());
    let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
    fs::write(folder.path().join("r.json"), bytes).unwrap();
    let done = chipmark(folder.path(), &["validate", "r.json"]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    // How many there are is known when wildcards have been expanded.
    for command in ["compare", "merge"] {
        let done = chipmark(folder.path(), &[command, "r.json"]);
        let complaint = done.complaint(2);
        assert!(complaint.starts_with("<REPORTS>: 2 or more"), "{complaint}");
    }
}

#[test]
fn a_report_that_was_changed_after_it_was_written_is_not_whole() {
    let folder = folder();
    let validate = |text: &str| {
        fs::write(folder.path().join("report.json"), text).unwrap();
        chipmark(folder.path(), &["validate", "report.json"])
    };
    let whole = validate(&changed(|_| {}));
    assert_eq!((whole.code, whole.stderr.as_str()), (0, ""));
    assert!(whole.stdout.contains("report.json: a whole"), "{whole:?}");
    // The layout is no part of the content.
    assert_eq!(validate(&report().to_string()).code, 0);

    let faster = validate(&changed(|r| {
        let median = at(r, "/outcomes/0/time_s/median").as_f64().unwrap();
        let low = at(r, "/outcomes/0/time_s/ci95_low").as_f64().unwrap();
        set(r, "/outcomes/0/time_s/median", json!((low + median) / 2.0));
        set(r, "/outcomes/0/time_s/ci95_low", json!(low * 0.5));
    }));
    let renamed = validate(&changed(|r| set(r, "/device/name", json!("Better CPU"))));
    let shorter = validate(&changed(|r| {
        r["outcomes"].as_array_mut().unwrap().pop();
    }));
    // Where the change contradicts what was left alone, it is shown.
    assert!(
        faster
            .stdout
            .contains("outcome matmul/m16_n24_k8/f32 (host): time_s.median is"),
        "{faster:?}"
    );
    assert!(
        renamed.stdout.contains("device: name is \"Better CPU\""),
        "{renamed:?}"
    );
    assert_eq!(shorter.stdout, "");
    for done in [faster, renamed, shorter] {
        assert_eq!(done.code, 2, "{done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        assert!(
            done.stderr.contains("report_id")
                && done.stderr.contains("changed after it was written"),
            "{done:?}"
        );
    }
}

#[test]
fn fields_that_a_later_minor_version_added_are_ignored_but_part_of_the_id() {
    let folder = folder();
    let mut later = report().clone();
    set(&mut later, "/schema_version", json!("1.999.0"));
    later["mood"] = json!({ "of_the_author": "good" });
    later["outcomes"][0]["time_s"]["mean"] = json!(0.125);
    later.as_object_mut().unwrap().remove("report_id");
    let id = chipmark::shader::sha256(&serde_json_canonicalizer::to_vec(&later).unwrap());
    later["report_id"] = json!(id);
    let mut validate = |mood: &str| {
        set(&mut later, "/mood/of_the_author", json!(mood));
        fs::write(folder.path().join("later.json"), later.to_string()).unwrap();
        chipmark(folder.path(), &["validate", "later.json"])
    };
    let whole = validate("good");
    assert_eq!((whole.code, whole.stderr.as_str()), (0, ""), "{whole:?}");
    assert!(
        validate("bad")
            .complaint(2)
            .contains("changed after it was written")
    );
}

#[test]
fn an_output_folder_that_cannot_be_written_is_refused_before_anything_is_measured() {
    let folder = folder();
    // Permission bits do not stop a test that runs as root, but nobody can make a folder in a file.
    fs::write(folder.path().join("file"), "precious").unwrap();
    fs::write(folder.path().join("tiny.toml"), suite(30.0, &TINY)).unwrap();
    for output in ["file", "file/below"] {
        let done = chipmark(
            folder.path(),
            &[
                "run",
                "--suite",
                "tiny.toml",
                "--runner",
                "host",
                "--output",
                output,
            ],
        );
        // The one line is the proof: a runner that was opened would have been announced.
        let complaint = done.complaint(2);
        assert!(
            complaint.starts_with(&format!("--output {output}: ")),
            "{complaint}"
        );
        assert!(complaint.contains("name a folder"), "{complaint}");
    }
    let done = chipmark(
        folder.path(),
        &[
            "verify",
            "--runner",
            "host",
            "--shape",
            "m=2,n=2,k=2",
            "--dump",
            "file/below",
        ],
    );
    assert!(
        done.complaint(2).starts_with("--dump file/below: "),
        "{done:?}"
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("file")).unwrap(),
        "precious"
    );
}

#[test]
fn two_runs_into_one_folder_leave_two_reports() {
    let folder = folder();
    fs::write(folder.path().join("tiny.toml"), suite(0.1, &[MATMUL])).unwrap();
    let run = || {
        let done = chipmark(
            folder.path(),
            &[
                "run",
                "--suite",
                "tiny.toml",
                "--runner",
                "host",
                "--output",
                "out",
            ],
        );
        assert_eq!(done.code, 0, "{done:?}");
        folder.path().join(done.stdout.lines().last().unwrap())
    };
    let first = run();
    let text = fs::read_to_string(&first).unwrap();
    let second = run();
    assert_ne!(first, second);
    assert_eq!(
        fs::read_to_string(&first).unwrap(),
        text,
        "the first report was overwritten"
    );
    let mut both = vec![first, second];
    both.sort();
    assert_eq!(reports(&folder.path().join("out")), both);
    for path in both {
        assert_eq!(
            chipmark(folder.path(), &["validate", path.to_str().unwrap()]).code,
            0
        );
    }
}

/// A version 1.0 `.npy` file.
fn npy(dtype: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(bytes);
    file
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn bad_input_tensors_are_refused_by_file_and_cause() {
    let folder = folder();
    let tensors = folder.path().join("tensors");
    let verify = |arguments: &[&str]| {
        let base = ["verify", "--runner", "host", "--inputs", "tensors"];
        let done = chipmark(folder.path(), &[&base, arguments].concat());
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
        let complaints: Vec<&str> = done
            .stderr
            .lines()
            .filter(|line| line.starts_with("chipmark: "))
            .collect();
        assert_eq!(complaints.len(), 1, "{done:?}");
        complaints[0].to_owned()
    };
    let shape = &["--shape", "m=2,n=3,k=1"][..];
    assert!(verify(&[]).contains("--inputs needs --shape"));
    assert!(verify(shape).contains("a.npy"));
    fs::create_dir(&tensors).unwrap();
    let complaint = verify(shape);
    assert!(
        complaint.contains("a.npy") && complaint.contains("tensor \"a\""),
        "{complaint}"
    );

    let good = npy("<f4", "(2, 1)", &floats(&[1.0, 2.0]));
    fs::write(
        tensors.join("b.npy"),
        npy("<f4", "(1, 3)", &floats(&[1.0, 2.0, 3.0])),
    )
    .unwrap();
    let bad: [(&str, Vec<u8>, &[&str]); 8] = [
        (
            "wrong shape",
            npy("<f4", "(1, 2)", &floats(&[1.0, 2.0])),
            &["[1, 2]", "needs [2, 1]"],
        ),
        (
            "wrong rank",
            npy("<f4", "(2,)", &floats(&[1.0, 2.0])),
            &["[2]", "needs [2, 1]"],
        ),
        (
            "integers",
            npy("<i4", "(2, 1)", &floats(&[1.0, 2.0])),
            &["element type", "float32"],
        ),
        (
            "half precision",
            npy("<f2", "(2, 1)", &[0; 4]),
            &["element type", "float32"],
        ),
        ("cut off", good[..good.len() - 3].to_vec(), &[]),
        ("not npy", b"a,b\n1,2\n".to_vec(), &[]),
        ("empty", Vec::new(), &[]),
        (
            "not finite",
            npy("<f4", "(2, 1)", &floats(&[1.0, f32::NAN])),
            &["element 1", "finite"],
        ),
    ];
    for (what, bytes, needles) in bad {
        fs::write(tensors.join("a.npy"), bytes).unwrap();
        let complaint = verify(shape);
        assert!(complaint.contains("a.npy"), "{what}: {complaint}");
        for needle in needles {
            assert!(
                complaint.contains(needle),
                "{what}: {needle:?} is not in {complaint:?}"
            );
        }
    }
    fs::write(tensors.join("a.npy"), good).unwrap();
    let done = chipmark(
        folder.path(),
        &[
            "verify",
            "--runner",
            "host",
            "--inputs",
            "tensors",
            "--dump",
            "out",
            "--shape",
            "m=2,n=3,k=1",
        ],
    );
    assert_eq!(done.code, 0, "{done:?}");
    let product = fs::read(
        folder
            .path()
            .join("out/matmul_m2_n3_k1_f32/matmul_gemm/c.npy"),
    )
    .unwrap();
    assert_eq!(
        product[product.len() - 24..],
        floats(&[1.0, 2.0, 3.0, 2.0, 4.0, 6.0])
    );
}

#[test]
fn a_runner_that_cannot_be_started_is_refused_by_name() {
    let folder = folder();
    fs::write(folder.path().join("tiny.toml"), suite(0.1, &[MATMUL])).unwrap();
    fs::write(folder.path().join("plain"), "no program\n").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    let run = |runner: &str| {
        let done = chipmark(
            folder.path(),
            &[
                "run",
                "--suite",
                "tiny.toml",
                "--runner",
                runner,
                "--output",
                "out",
            ],
        );
        let complaint = done.complaint(2).to_owned();
        assert!(complaint.contains(runner), "{complaint}");
        assert_eq!(reports(&folder.path().join("out")), NO_FILES);
        complaint
    };
    for runner in ["cuda", "./nowhere", "folder"] {
        let complaint = run(runner);
        assert!(
            complaint.contains("wgpu") && complaint.contains("host") && complaint.contains("path"),
            "{complaint}"
        );
    }
    assert!(run("./plain").contains("cannot be started"));
}

#[test]
fn a_device_that_is_not_there_ends_with_code_3() {
    let folder = folder();
    fs::write(folder.path().join("tiny.toml"), suite(0.1, &[MATMUL])).unwrap();
    let run = &["run", "--suite", "tiny.toml", "--output", "out"][..];
    for arguments in [run, &["verify", "--shape", "m=2,n=2,k=2"]] {
        for selection in ["99", "no such device"] {
            let done = chipmark(
                folder.path(),
                &[arguments, &["--device", selection]].concat(),
            );
            let complaint = done.complaint(3);
            assert!(
                !has_adapter() || complaint.contains(selection),
                "{complaint}"
            );
        }
    }
    assert_eq!(reports(&folder.path().join("out")), NO_FILES);
}

// Good input.

#[test]
fn a_report_on_stdout_is_nothing_but_json_that_follows_the_published_schema() {
    let folder = folder();
    fs::write(
        folder.path().join("tiny.toml"),
        suite(0.1, &[MATMUL, "empty n = 1"]),
    )
    .unwrap();
    let arguments = [
        "run",
        "--suite",
        "tiny.toml",
        "--runner",
        "host",
        "--output",
        "-",
        "--seed",
        "7",
    ];
    let done = chipmark(folder.path(), &arguments);
    assert_eq!(done.code, 0, "{done:?}");
    let report = done.json();
    assert!(
        done.stderr.contains("matmul/m2_n2_k2/f32") && done.stderr.contains("of ceiling"),
        "{done:?}"
    );
    must_follow(&schema("report"), &report);
    assert_eq!(report["seed"], 7);
    assert_eq!(at(&report, "/suite/name"), "tiny");
    assert!(
        at(&report, "/tool/command")
            .as_str()
            .unwrap()
            .ends_with(&arguments.join(" "))
    );
    assert_eq!(
        (
            outcomes(&report).len(),
            with_status(&report, "measured").len()
        ),
        (2, 1)
    );
    assert_eq!(
        reports(folder.path()).len(),
        1,
        "a file was written besides the suite"
    );
    fs::write(folder.path().join("report.json"), &done.stdout).unwrap();
    assert_eq!(
        chipmark(folder.path(), &["validate", "report.json"]).code,
        0
    );

    let measured = with_status(&report, "measured")[0];
    assert_eq!(measured["flop_count"], 16);
    assert_eq!(measured["bytes_min"], 48);
    let median = at(measured, "/time_s/median").as_f64().unwrap();
    assert!(
        (at(measured, "/flops_per_second").as_f64().unwrap() * median / 16.0 - 1.0).abs() < 1e-9
    );
    assert_eq!(at(measured, "/verification_exact/exact"), true);
    assert_eq!(at(measured, "/verification/positions_checked"), 4);
}

#[test]
fn a_used_up_budget_skips_cases_and_loses_none() {
    let folder = folder();
    fs::write(folder.path().join("tiny.toml"), suite(0.3, &TINY)).unwrap();
    let done = chipmark(
        folder.path(),
        &[
            "run",
            "--suite",
            "tiny.toml",
            "--runner",
            "host",
            "--output",
            "out",
            "--budget",
            "0.000001",
        ],
    );
    assert_eq!(done.code, 6, "{done:?}");
    assert!(done.stderr.contains("nothing was measured"), "{done:?}");
    let report = only_report(&folder.path().join("out"));
    let reasons = reasons(&report, "skipped");
    assert_eq!(reasons.len(), TINY.len());
    assert!(
        reasons.iter().all(|reason| reason.contains("budget")),
        "{reasons:?}"
    );
}

#[test]
fn the_same_seed_makes_the_same_tensors_and_another_makes_others() {
    let folder = folder();
    let dump = |seed: &str, to: &str| {
        let done = chipmark(
            folder.path(),
            &[
                "verify",
                "--runner",
                "host",
                "--shape",
                "m=5,n=6,k=7",
                "--seed",
                seed,
                "--dump",
                to,
            ],
        );
        assert_eq!(done.code, 0, "{done:?}");
        let case = folder
            .path()
            .join(to)
            .join("matmul_m5_n6_k7_f32/matmul_gemm");
        ["a", "b", "c"].map(|tensor| fs::read(case.join(format!("{tensor}.npy"))).unwrap())
    };
    let first = dump("1", "first");
    assert_eq!(first, dump("1", "again"));
    let other = dump("2", "other");
    assert!(
        first
            .iter()
            .zip(&other)
            .all(|(a, b)| a != b && a.len() == b.len())
    );
    assert_ne!(first[0], first[1]);
}

#[test]
fn the_devices_are_listed_with_every_documented_field() {
    let folder = folder();
    let done = chipmark(folder.path(), &["devices", "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let value = done.json();
    let devices = at(&value, "/devices").as_array().unwrap();
    assert!(devices.iter().any(|device| device["runner"] == "host"));
    for device in devices {
        for field in ["name", "backend", "driver", "device_type", "runner"] {
            assert!(device[field].is_string(), "{field}: {device:#}");
        }
        for field in ["pci_id", "pci_bus_id", "chip_id"] {
            assert!(
                device
                    .get(field)
                    .is_some_and(|v| v.is_string() || v.is_null()),
                "{field}: {device:#}"
            );
        }
        assert!(
            device["limits"].is_object() && device["features"].is_array(),
            "{device:#}"
        );
        assert!(device["also_reached_by"].is_array(), "{device:#}");
    }
    let table = chipmark(folder.path(), &["devices"]);
    assert_eq!(table.code, 0);
    for device in devices {
        assert!(
            table.stdout.contains(device["name"].as_str().unwrap()),
            "{table:?}"
        );
    }
}

#[test]
fn the_cases_of_a_suite_are_listed_with_every_documented_field() {
    let folder = folder();
    let value = chipmark(folder.path(), &["list", "--json"]).json();
    assert_eq!(value["suite"], "quick");
    assert_eq!(value["suite_sha256"].as_str().unwrap().len(), 64);
    assert!(value["device"].is_string() || value["device"].is_null());
    let cases = at(&value, "/cases").as_array().unwrap();
    assert!(cases.len() > 5);
    for case in cases {
        assert!(
            case["case_id"]
                .as_str()
                .unwrap()
                .starts_with(case["op"].as_str().unwrap()),
            "{case:#}"
        );
        assert!(
            case["shape"].is_object() && case["dtype"].is_string(),
            "{case:#}"
        );
        assert!(
            case["flop_count"].is_u64() && case["bytes_min"].is_u64(),
            "{case:#}"
        );
        assert!(
            case["skip"].is_string() || case["skip"].is_null(),
            "{case:#}"
        );
    }
    let table = chipmark(folder.path(), &["list"]);
    assert_eq!(table.code, 0);
    for case in cases {
        assert!(
            table.stdout.contains(case["case_id"].as_str().unwrap()),
            "{table:?}"
        );
    }
    let few = chipmark(
        folder.path(),
        &["list", "--json", "--filter", "^attention/"],
    )
    .json();
    let few = at(&few, "/cases").as_array().unwrap().clone();
    assert!(few.iter().any(|case| case["op"] == "attention"));
    assert!(few.iter().all(|case| case["op"] != "matmul"));
}

/// Writes tensors, reads them back and demands the same output to the last bit.
fn dumped_tensors_come_back(runner: &str, filter: &str) {
    for shape in [
        "m=33,n=20,k=17",
        "heads=4,kv_heads=2,query_len=5,kv_len=12,head_dim=8,causal=1",
    ] {
        let folder = folder();
        let base = [
            "verify", "--runner", runner, "--shape", shape, "--filter", filter, "--dump",
        ];
        let done = chipmark(folder.path(), &[&base[..], &["first"]].concat());
        assert_eq!(done.code, 0, "{done:?}");
        let outputs: Vec<PathBuf> = reports(&folder.path().join("first"))
            .into_iter()
            .filter(|path| path.ends_with("c.npy") || path.ends_with("o.npy"))
            .collect();
        assert!(!outputs.is_empty());
        for output in outputs {
            let tensors = output.parent().unwrap();
            let done = chipmark(
                folder.path(),
                &[
                    &base[..],
                    &["second", "--inputs", tensors.to_str().unwrap()],
                ]
                .concat(),
            );
            assert_eq!(done.code, 0, "{done:?}");
            let twin = folder
                .path()
                .join("second")
                .join(output.strip_prefix(folder.path().join("first")).unwrap());
            assert!(
                fs::read(&output).unwrap() == fs::read(&twin).unwrap(),
                "{} and {} differ",
                output.display(),
                twin.display()
            );
        }
    }
}

#[test]
fn tensors_dumped_by_the_host_give_the_same_output_bit_for_bit_when_read_back() {
    dumped_tensors_come_back("host", ".");
}

#[test]
fn tensors_dumped_by_a_gpu_give_the_same_output_bit_for_bit_when_read_back() {
    if !has_adapter() {
        return skipped("no wgpu adapter");
    }
    dumped_tensors_come_back("wgpu", "/naive$");
}

// Schemas.

#[test]
fn the_published_schemas_are_those_that_the_program_prints() {
    for name in ["report", "request", "response", "comparison", "chips"] {
        let printed = chipmark(&std::env::temp_dir(), &["schema", name]);
        assert_eq!(printed.code, 0);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.schema.json"));
        let published = fs::read_to_string(&path)
            .unwrap_or_default()
            .replace("\r\n", "\n");
        assert!(
            published == printed.stdout,
            "docs/{name}.schema.json is not what `chipmark schema {name}` prints; after a wanted change:\n    \
             for name in report request response comparison chips; do target/release/chipmark schema $name >docs/$name.schema.json; done"
        );
    }
}

#[test]
fn a_conversation_with_the_host_runner_follows_the_schemas() {
    use chipmark::input::Data;
    use chipmark::op::{Case, Dtype, OpName, Shape};
    use chipmark::protocol::{PROTOCOL_VERSION, Request, Response, Variant};

    let case = Case::new(
        OpName::Matmul,
        &Shape::of(&[("m", 3), ("n", 5), ("k", 7)]),
        Dtype::F32,
    )
    .unwrap();
    let everything = |all| Request::Outputs {
        positions: vec![0, 14],
        projection_seed: Some(9),
        all,
        set_index: 0,
    };
    let prepare = |kernel: &str| Request::Prepare {
        variant: Variant {
            kernel: kernel.to_owned(),
            ..Variant::default()
        },
    };
    let measure = Request::Measure {
        repeat_count: 2,
        sample_count: 3,
        poison: true,
    };
    let hello = |protocol| Request::Hello {
        protocol,
        device: None,
        backend: None,
        checks: false,
    };
    let files = Data::Files([("a".to_owned(), PathBuf::from("/nowhere/a.npy"))].into());
    // What is asked, and the type of the answer.
    let script = [
        (measure.clone(), "error"),
        (hello(PROTOCOL_VERSION + 1), "error"),
        (hello(PROTOCOL_VERSION), "hello"),
        (everything(true), "error"),
        (
            Request::Case {
                case: case.clone(),
                seed: 1,
                data: files,
                set_count: 1,
            },
            "error",
        ),
        (
            Request::Case {
                case: case.clone(),
                seed: 1,
                data: Data::Uniform,
                set_count: 1,
            },
            "variants",
        ),
        (everything(true), "outputs"), // still poisoned: words where numbers cannot be
        (prepare("matmul/magic"), "error"),
        (prepare("matmul/gemm"), "ready"),
        (everything(false), "outputs"),
        (measure, "samples"),
        (everything(true), "outputs"),
        (Request::Bye, "bye"),
    ];
    let (requests, responses) = (schema("request"), schema("response"));
    let mut child = {
        let mut command = command(&std::env::temp_dir(), &["worker", "--runner", "host"]);
        let _lock = lock();
        command.stdin(Stdio::piped()).spawn().unwrap()
    };
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answers = Vec::new();
    for (request, expected) in &script {
        let request = serde_json::to_value(request).unwrap();
        must_follow(&requests, &request);
        writeln!(stdin, "{request}").unwrap();
        let answer: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        must_follow(&responses, &answer);
        assert_eq!(answer["type"], *expected, "{request} -> {answer}");
        serde_json::from_value::<Response>(answer.clone()).unwrap();
        answers.push(answer);
    }
    assert!(
        lines.next().is_none(),
        "the runner said something after bye"
    );
    assert_eq!(wait(&mut child), 0);
    assert_eq!(answers[6]["values"], json!(vec!["NaN"; 15]));
    assert_eq!(answers[9]["values"].as_array().unwrap().len(), 2);
    assert_eq!(answers[9]["projection"].as_array().unwrap().len(), 3);
    assert_eq!(answers[10]["samples"].as_array().unwrap().len(), 3);
    assert_eq!(answers[11]["values"].as_array().unwrap().len(), 15);

    for broken in [
        json!({"type": "sing"}),
        json!({"type": "measure"}),
        json!({}),
        json!(null),
    ] {
        assert!(!requests.is_valid(&broken), "{broken}");
    }
    for broken in [
        json!({"type": "outputs", "values": ["nan"], "projection": []}),
        json!({"type": "ready"}),
    ] {
        assert!(!responses.is_valid(&broken), "{broken}");
    }
}

// Comparison.

/// Writes two reports of five cases, the second with the first case faster, the second slower, the
/// third as it was in six processes each, the fourth a little slower and the fifth missing.
fn write_pair(folder: &Path) {
    let times = |report: &mut Value, index: usize, median: f64, half: f64| {
        let time = report
            .pointer_mut(&format!("/outcomes/{index}/time_s"))
            .unwrap();
        time["median"] = json!(median);
        time["ci95_low"] = json!(median - half);
        time["ci95_high"] = json!(median + half);
    };
    let mut baseline = report().clone();
    set(&mut baseline, "/device/name", json!("Test CPU"));
    set(&mut baseline, "/report_id", json!("0".repeat(64)));
    set(&mut baseline, "/suite/sha256", json!("2".repeat(64)));
    for index in 0..TINY.len() {
        times(&mut baseline, index, 1e-3, 1e-5);
    }
    let mut candidate = baseline.clone();
    set(&mut candidate, "/report_id", json!("1".repeat(64)));
    times(&mut candidate, 0, 0.5e-3, 1e-5);
    times(&mut candidate, 1, 2e-3, 1e-5);
    times(&mut candidate, 3, 1.01e-3, 1e-5);
    for report in [&mut baseline, &mut candidate] {
        set(report, "/outcomes/2/time_s/process_medians", steady(1e-3));
        // What the machine did while this was made is not what is compared here.
        for outcome in report["outcomes"].as_array_mut().unwrap() {
            outcome["not_converged"] = Value::Null;
            outcome["throttle"] = Value::Null;
        }
    }
    candidate["outcomes"].as_array_mut().unwrap().pop();
    for (name, report) in [("baseline.json", baseline), ("candidate.json", candidate)] {
        fs::write(folder.join(name), report.to_string()).unwrap();
    }
}

#[test]
fn a_comparison_reads_as_recorded_in_every_format() {
    let folder = folder();
    write_pair(folder.path());
    for format in ["text", "md", "json"] {
        let done = chipmark(
            folder.path(),
            &[
                "compare",
                "baseline.json",
                "candidate.json",
                "--format",
                format,
            ],
        );
        assert_eq!((done.code, done.stderr.as_str()), (0, ""));
        // Logarithms may differ in their last digits from one system to another.
        let mut settings = insta::Settings::clone_current();
        settings.add_filter(r"(\d\.\d{6})\d+", "$1");
        settings.bind(|| insta::assert_snapshot!(format!("compare_{format}"), done.stdout));
    }
}

#[test]
fn a_comparison_in_json_follows_its_schema_and_ranks_only_what_can_be_told_apart() {
    let folder = folder();
    write_pair(folder.path());
    let done = chipmark(
        folder.path(),
        &[
            "compare",
            "baseline.json",
            "candidate.json",
            "--format",
            "json",
        ],
    );
    let comparison = done.json();
    must_follow(&schema("comparison"), &comparison);
    let verdict = |id: &str| {
        let cases = at(&comparison, "/cases").as_array().unwrap();
        cases.iter().find(|case| case["case_id"] == id).unwrap()["verdict"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(verdict("matmul/m16_n24_k8/f32"), "faster");
    assert_eq!(verdict("matmul/m31_n33_k35/f32"), "slower");
    assert_eq!(verdict("matmul/m64_n64_k64/f32"), "same");
    assert_eq!(verdict("matmul/m1_n128_k100/f32"), "ambiguous");
    assert_eq!(
        verdict("attention/b1_h2_kv1_q9_l17_d16/f32"),
        "not_comparable"
    );
}

#[test]
fn the_users_tie_width_decides_what_counts_as_the_same() {
    let folder = folder();
    write_pair(folder.path());
    let verdicts = |tie: &str| {
        let arguments = [
            "compare",
            "baseline.json",
            "candidate.json",
            "--format",
            "json",
            "--tie",
            tie,
        ];
        chipmark(folder.path(), &arguments).json()["verdicts"].clone()
    };
    assert_eq!(
        verdicts("30"),
        json!({"faster": 1, "slower": 1, "same": 2, "ambiguous": 0, "not_comparable": 1})
    );
    assert_eq!(
        verdicts("0.01%"),
        json!({"faster": 1, "slower": 1, "same": 0, "ambiguous": 2, "not_comparable": 1})
    );
    for bad in ["0", "-1", "wide"] {
        let done = chipmark(folder.path(), &["compare", "a", "b", "--tie", bad]);
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains("--tie"), "{done:?}");
    }
}

#[test]
fn a_gate_fails_only_on_what_is_confirmed_slower_and_says_where_it_cannot_tell() {
    let folder = folder();
    let mut baseline = report().clone();
    for index in 0..TINY.len() {
        set(
            &mut baseline,
            &format!("/outcomes/{index}/time_s/process_medians"),
            steady(1e-3),
        );
    }
    fs::write(folder.path().join("baseline.json"), baseline.to_string()).unwrap();
    let check = |change: &dyn Fn(&mut Value), more: &[&str]| {
        let mut candidate = baseline.clone();
        change(&mut candidate);
        fs::write(folder.path().join("candidate.json"), candidate.to_string()).unwrap();
        let base = [
            "check",
            "--baseline",
            "baseline.json",
            "--candidate",
            "candidate.json",
        ];
        let done = chipmark(folder.path(), &[&base, more].concat());
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        done
    };
    let first = "/outcomes/0/time_s/process_medians";

    let done = check(&|_| {}, &[]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("passed: none of 5"), "{done:?}");
    let done = check(&|r| set(r, first, steady(0.5e-3)), &[]);
    assert_eq!(done.code, 0, "{done:?}");

    let done = check(&|r| set(r, first, steady(1.1e-3)), &[]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.stderr.contains("regression: 1 of 5")
            && done
                .stderr
                .contains("matmul/m16_n24_k8/f32 takes 10 % longer"),
        "{done:?}"
    );
    // A regression is one whatever else is missing.
    let lossy = |r: &mut Value| {
        set(r, first, steady(1.1e-3));
        r["outcomes"].as_array_mut().unwrap().pop();
    };
    assert_eq!(check(&lossy, &[]).code, 1);
    assert_eq!(
        check(&|r| set(r, first, steady(1.1e-3)), &["--tie", "20"]).code,
        0
    );

    let done = check(&|r| set(r, first, steady(1.01e-3)), &["--format", "json"]);
    assert_eq!(done.code, 5, "{done:?}");
    assert_eq!(done.json()["gate"], "unclear");
    assert!(done.stderr.contains("1 ambiguous"), "{done:?}");
    let done = check(
        &|r| {
            set(r, "/outcomes/1/status", json!("failed"));
            set(r, "/outcomes/1/reason", json!("it broke"));
        },
        &[],
    );
    assert_eq!(done.code, 5, "{done:?}");
    assert!(done.stderr.contains("it broke"), "{done:?}");
    let done = check(&|r| set(r, "/outcomes", json!([])), &[]);
    assert_eq!(done.code, 5, "{done:?}");
    assert!(
        done.stderr.contains("no measured case in common"),
        "{done:?}"
    );
    let missing = chipmark(folder.path(), &["check", "--baseline", "baseline.json"]);
    assert_eq!(missing.code, 2, "{missing:?}");
}

#[test]
fn reports_with_no_case_in_common_are_shown_and_then_refused() {
    let folder = folder();
    write_pair(folder.path());
    let mut other = report().clone();
    other["outcomes"] = json!([]);
    fs::write(folder.path().join("other.json"), other.to_string()).unwrap();
    let done = chipmark(folder.path(), &["compare", "baseline.json", "other.json"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stdout.contains("only in the baseline"), "{done:?}");
    assert!(
        done.stderr.contains("no measured case in common"),
        "{done:?}"
    );
}

// Races.

/// The reports of both sides of a race, which must be whole and of one race.
fn both_sides(folder: &Path) -> [Value; 2] {
    let files = reports(folder);
    assert_eq!(files.len(), 2, "{files:?}");
    let mut sides: Vec<Value> = files
        .iter()
        .map(|file| {
            let done = chipmark(folder, &["validate", file.to_str().unwrap()]);
            assert_eq!(done.code, 0, "{done:?}");
            serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
        })
        .collect();
    assert_eq!(sides[0]["interleave_id"], sides[1]["interleave_id"]);
    assert!(sides[0]["interleave_id"].is_string());
    let second = sides.pop().unwrap();
    [sides.pop().unwrap(), second]
}

fn process_count(report: &Value, index: usize) -> usize {
    let medians = at(report, &format!("/outcomes/{index}/time_s/process_medians"));
    medians.as_array().unwrap().len()
}

#[test]
fn two_builds_are_raced_in_fresh_processes_and_compared_pair_by_pair() {
    let folder = folder();
    fs::write(folder.path().join("tiny.toml"), suite(0.2, &TINY)).unwrap();
    let worker = format!("{} worker --runner host", env!("CARGO_BIN_EXE_chipmark"));
    let done = chipmark(
        folder.path(),
        &[
            "ab",
            "--baseline",
            "host",
            "--candidate",
            &worker,
            "--suite",
            "tiny.toml",
            "--filter",
            "m16|attention",
            "--pairs",
            "6",
            "--output",
            "out",
            "--format",
            "json",
        ],
    );
    assert_eq!(done.code, 0, "{done:?}");
    let comparison = done.json();
    must_follow(&schema("comparison"), &comparison);
    let cases = at(&comparison, "/cases").as_array().unwrap();
    assert_eq!(cases.len(), 2, "{comparison:#}");
    for case in cases {
        assert_eq!(case["method"], "paired_turns");
        assert_eq!(case["baseline_process_count"], 6);
        assert!(case["p_value"].as_f64().unwrap() <= 1.0);
    }
    let sides = both_sides(&folder.path().join("out"));
    let ratios = |side: usize| -> Vec<f64> {
        let ratios = at(&sides[side], "/outcomes/0/time_s/turn_ratios");
        let ratios = ratios.as_array().unwrap();
        ratios.iter().map(|ratio| ratio.as_f64().unwrap()).collect()
    };
    for (ours, theirs) in ratios(0).into_iter().zip(ratios(1)) {
        assert!((ours * theirs - 1.0).abs() < 1e-9, "{ours} and {theirs}");
    }
    assert_eq!(ratios(1).len(), 6);
    for side in sides {
        must_follow(&schema("report"), &side);
        assert_eq!(side["status"], "complete");
        assert_eq!((process_count(&side, 0), process_count(&side, 1)), (6, 6));
        let times = at(&side, "/outcomes/0/time_s");
        assert_eq!(times["median"], times["process_medians"][0]);
    }
}

#[test]
fn a_race_with_a_runner_that_is_not_there_is_refused_by_side() {
    let folder = folder();
    for (runner, needle) in [
        ("./nowhere", "path"),
        ("./nowhere worker", "cannot be started"),
    ] {
        let done = chipmark(
            folder.path(),
            &["ab", "--baseline", "host", "--candidate", runner],
        );
        let complaint = done.complaint(2);
        assert!(
            complaint.contains("--candidate ./nowhere") && complaint.contains(needle),
            "{complaint}"
        );
    }
    let base = ["ab", "--baseline", "host", "--candidate", "host"];
    let inside = chipmark(folder.path(), &[&base[..], &["--in-process"]].concat());
    assert!(inside.complaint(2).contains("fresh process"));
    let none = chipmark(folder.path(), &[&base[..], &["--pairs", "0"]].concat());
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("--pairs"), "{none:?}");
}

// Calibration.

/// What `chipmark calibrate` might have found on this device.
fn calibration(device: &str) -> Value {
    json!({
        "made_at": "2026-01-01T00:00:00Z", "runner": "host", "device": device, "case_id": "",
        "process_count": 6, "same_count": 40, "false_alarm_count": 1, "slowdowns": [],
        "detectable_change": 0.02, "tie_width": 0.007, "process_relative_sd": 0.003,
    })
}

#[test]
fn a_calibration_of_this_device_goes_into_the_report_and_another_is_refused() {
    let folder = folder();
    fs::write(folder.path().join("tiny.toml"), suite(0.1, &[MATMUL])).unwrap();
    let device = report()["device"]["name"].as_str().unwrap();
    let write = |name: &str, value: &Value| {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    write("mine.json", &calibration(device));
    write("other.json", &calibration("Another device"));
    write("poem.json", &json!({"roses": "red"}));
    let base = [
        "run",
        "--suite",
        "tiny.toml",
        "--runner",
        "host",
        "--output",
        "-",
    ];
    let with = |file: &str| {
        chipmark(
            folder.path(),
            &[&base[..], &["--calibrated", file]].concat(),
        )
    };
    let done = with("mine.json");
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.json()["calibration"]["tie_width"], 0.007);
    must_follow(&schema("report"), &done.json());
    for (file, needle) in [
        ("other.json", "Another device"),
        ("poem.json", "no calibration"),
        ("nowhere.json", "nowhere.json"),
    ] {
        let done = with(file);
        let complaint = done.complaint(2);
        assert!(
            complaint.contains("--calibrated") && complaint.contains(needle),
            "{complaint}"
        );
    }
    // Without a file it is sought in the user's settings.
    let stored = |settings: &Path| {
        let mut command = command(folder.path(), &[&base[..], &["--calibrated"]].concat());
        command.env("XDG_CONFIG_HOME", settings);
        let child = {
            let _lock = lock();
            command.spawn().unwrap()
        };
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = stored(folder.path());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("chipmark calibrate"), "{said}");
    let name = said
        .split("chipmark/")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert!(
        name.starts_with("calibration-") && name.ends_with("-host.json"),
        "{name}"
    );
    fs::create_dir(folder.path().join("chipmark")).unwrap();
    write(&format!("chipmark/{name}"), &calibration(device));
    assert_eq!(stored(folder.path()).0, Some(0));
}

#[test]
fn a_calibration_that_could_find_nothing_is_refused() {
    let done = chipmark(&std::env::temp_dir(), &["calibrate", "--processes", "5"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("--processes"), "{done:?}");
}

// Shards.

#[test]
fn shards_are_joined_and_strangers_are_refused_by_file_and_field() {
    let folder = folder();
    let shard = |name: &str, text: &str, keep: fn(usize) -> bool| {
        let mut report = report().clone();
        set(&mut report, "/suite/shard", json!(text));
        let mut index = 0;
        report["outcomes"].as_array_mut().unwrap().retain(|_| {
            index += 1;
            keep(index - 1)
        });
        fs::write(folder.path().join(name), report.to_string()).unwrap();
        report
    };
    shard("one.json", "1/2", |index| index < 3);
    let two = shard("two.json", "2/2", |index| index >= 2);
    let done = chipmark(
        folder.path(),
        &["merge", "two.json", "one.json", "-o", "out"],
    );
    assert_eq!(done.code, 0, "{done:?}");
    let whole = only_report(&folder.path().join("out"));
    must_follow(&schema("report"), &whole);
    assert_eq!(outcomes(&whole).len(), TINY.len());
    assert_eq!(
        (whole["status"].as_str(), &whole["suite"]["shard"]),
        (Some("complete"), &json!(null))
    );

    let merge = |other: &Value| {
        fs::write(folder.path().join("other.json"), other.to_string()).unwrap();
        chipmark(folder.path(), &["merge", "one.json", "other.json"])
            .complaint(2)
            .to_owned()
    };
    for (path, field) in [
        ("/suite/sha256", "suite.sha256"),
        ("/device/name", "device.name"),
        ("/tool/version", "tool.version"),
        ("/suite/shard", "suite.shard"),
    ] {
        let mut other = two.clone();
        set(&mut other, path, json!("strange"));
        let complaint = merge(&other);
        for needle in ["other.json", field, "strange"] {
            assert!(complaint.contains(needle), "{needle}: {complaint}");
        }
    }
    assert!(!folder.path().join("reports").exists());
}

// Runners that lie, hang and die.

#[cfg(unix)]
mod fakes {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const HELLO: &str = r#"{"type":"hello","protocol":1,"runner":{"name":"fake","version":"1"},"device":{"name":"Fake chip","backend":"fake","driver":"","device_type":"other","runner":"fake","pci_id":null,"pci_bus_id":null,"chip_id":null,"limits":{},"features":[]},"timer":{"clock":"host","quantum_s":1e-9,"note":null}}"#;
    const VARIANTS: &str =
        r#"{"type":"variants","variants":[{"kernel":"fake/product","variant":{}}],"refused":[]}"#;
    const READY: &str =
        r#"{"type":"ready","compile_s":0.001,"shader_sha256":null,"engine":"alu","passes":[]}"#;
    /// Of a product of two by two.
    const ZEROS: &str = r#"{"type":"outputs","values":[0,0,0,0],"projection":[0,0]}"#;

    /// A folder with a suite of three cases and a runner `fake` in it.
    struct Stage {
        folder: tempfile::TempDir,
    }

    impl Stage {
        /// `body` is a POSIX shell script.
        fn new(body: &str) -> Self {
            let stage = Self { folder: folder() };
            let cases = [
                MATMUL,
                "matmul m = 2, n = 2, k = 3",
                "matmul m = 2, n = 2, k = 4",
            ];
            fs::write(stage.folder.path().join("tiny.toml"), suite(0.2, &cases)).unwrap();
            let path = stage.folder.path().join("fake");
            let _lock = lock();
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            stage
        }

        /// A runner that has an answer, as shell, to each type of request.
        fn answering(answers: &[(&str, &str)]) -> Self {
            let arms: String = answers
                .iter()
                .map(|(request, answer)| format!("*'\"type\":\"{request}\"'*) {answer} ;;\n"))
                .collect();
            Self::new(&format!(
                "while IFS= read -r line; do\ncase $line in\n{arms}*'\"type\":\"bye\"'*) exit 0 ;;\nesac\ndone"
            ))
        }

        /// The real host runner with `filter`, as shell, put over each line of its answers.
        fn tampering(filter: &str) -> Self {
            Self::new(&format!(
                "'{}' worker --runner host | while IFS= read -r line; do\n{filter}\ndone",
                env!("CARGO_BIN_EXE_chipmark")
            ))
        }

        fn run(&self, more: &[&str]) -> Done {
            let base = [
                "run",
                "--suite",
                "tiny.toml",
                "--runner",
                "./fake",
                "--output",
                "out",
            ];
            chipmark(self.folder.path(), &[&base, more].concat())
        }

        /// Runs to the end and returns the report, which must be valid and have all three cases.
        fn report(&self, code: i32, more: &[&str]) -> Value {
            let done = self.run(more);
            assert_eq!(done.code, code, "{done:?}");
            let report = only_report(&self.folder.path().join("out"));
            must_follow(&schema("report"), &report);
            assert_eq!(outcomes(&report).len(), 3);
            report
        }

        /// Runs, and is refused in one line before there is anything to report.
        fn refusal(&self, code: i32, more: &[&str]) -> String {
            let complaint = self.run(more).complaint(code).to_owned();
            assert_eq!(reports(&self.folder.path().join("out")), NO_FILES);
            complaint
        }
    }

    fn say(line: &str) -> String {
        format!("printf '%s\\n' '{line}'")
    }

    fn all_failed(report: &Value, needles: &[&str]) {
        let reasons = reasons(report, "failed");
        assert_eq!(reasons.len(), 3, "{report:#}");
        assert_eq!(report["status"], "partial");
        for reason in reasons {
            for needle in needles {
                assert!(reason.contains(needle), "{needle:?} is not in {reason:?}");
            }
        }
    }

    #[test]
    fn a_runner_on_a_cpu_does_nothing_while_others_are_measured() {
        let host = format!("'{}' worker --runner host", env!("CARGO_BIN_EXE_chipmark"));
        let named = |name: &str| format!("sed -u 's/\"name\":\"host\"/\"name\":\"{name}\"/'");
        // One keeps busy whether it is asked or not, and the other looks whether it does.
        let stage = Stage::new(&format!(
            "(while kill -0 $$ 2>/dev/null; do printf x >>ticks; sleep 0.005; done) </dev/null >/dev/null &\n{host} | {}",
            named("busy")
        ));
        let look = "case $line in *'\"type\":\"samples\"'*) a=$(wc -c <ticks); sleep 0.05; b=$(wc -c <ticks); echo $a $b >>seen ;; esac";
        let path = stage.folder.path().join("other");
        let script = format!(
            "#!/bin/sh\n{host} | {} | while IFS= read -r line; do\n{look}\nprintf '%s\\n' \"$line\"\ndone\n",
            named("other")
        );
        {
            let _lock = lock();
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let done = stage.run(&["--runner", "./other"]);
        assert_eq!(done.code, 0, "{done:?}");
        let report = only_report(&stage.folder.path().join("out"));
        let measured = outcomes(&report).iter();
        assert_eq!(measured.filter(|o| o["status"] == "measured").count(), 6);
        let seen = fs::read_to_string(stage.folder.path().join("seen")).unwrap();
        let counts: Vec<(&str, &str)> = seen.lines().filter_map(|l| l.split_once(' ')).collect();
        assert!(
            counts.len() > 3 && counts.iter().all(|(a, b)| a == b),
            "{seen}"
        );
        // It goes on when it is its turn.
        assert_ne!(counts[0].0, counts[counts.len() - 1].0, "{seen}");
    }

    #[test]
    fn a_device_that_lets_one_process_in_is_raced_by_one_after_the_other_and_the_run_says_so() {
        // The real host runner, which refuses while another of its processes lives.
        let busy = r#"{"type":"error","kind":"no_device","message":"the device is in use"}"#;
        let stage = Stage::new(&format!(
            "if kill -0 \"$(cat holder 2>/dev/null)\" 2>/dev/null; then\nread -r line\n{}\nexit 1\nfi\necho $$ >holder\nexec '{}' worker --runner host",
            say(busy),
            env!("CARGO_BIN_EXE_chipmark")
        ));
        let ab = "ab --baseline ./fake --candidate ./fake --suite tiny.toml --filter k4 --pairs 5 --output out --format json";
        let arguments: Vec<&str> = ab.split(' ').collect();
        let done = chipmark(stage.folder.path(), &arguments);
        assert_eq!(done.code, 0, "{done:?}");
        assert!(
            done.stderr.contains("run one after the other")
                && done.stderr.contains("the device is in use"),
            "{done:?}"
        );
        let comparison = done.json();
        let case = at(&comparison, "/cases/0");
        assert_eq!(case["method"], "paired_processes", "{comparison:#}");
        for side in both_sides(&stage.folder.path().join("out")) {
            must_follow(&schema("report"), &side);
            assert_eq!(process_count(&side, 0), 5);
            assert_eq!(side["outcomes"][0]["time_s"].get("turn_ratios"), None);
        }
    }

    #[test]
    fn a_runner_that_prints_garbage_is_given_up_with_what_it_said() {
        let complaint = Stage::new("echo 'Welcome to my runner!'; cat >/dev/null").refusal(75, &[]);
        assert!(
            complaint.contains("not the protocol") && complaint.contains("Welcome to my runner!"),
            "{complaint}"
        );
    }

    #[test]
    fn a_runner_that_prints_bytes_which_are_no_text_is_given_up() {
        let complaint = Stage::new("printf '\\377\\376\\n'; cat >/dev/null").refusal(75, &[]);
        assert!(complaint.contains("not text"), "{complaint}");
    }

    #[test]
    fn a_runner_that_says_nothing_is_given_up_after_the_silence_it_is_allowed() {
        let complaint = Stage::new("sleep 60").refusal(75, &["--silence", "1"]);
        assert!(complaint.contains("said nothing for 1 s"), "{complaint}");
    }

    #[test]
    fn a_runner_that_exits_at_once_is_given_up_with_its_exit_code_and_last_words() {
        let complaint = Stage::new("echo 'no licence found' >&2; exit 7").refusal(75, &[]);
        assert!(
            complaint.contains("exit code 7") && complaint.contains("no licence found"),
            "{complaint}"
        );
    }

    #[test]
    fn a_runner_of_another_protocol_is_refused_with_both_versions() {
        let newer = HELLO.replace("\"protocol\":1", "\"protocol\":99");
        let complaint = Stage::answering(&[("hello", &say(&newer))]).refusal(2, &[]);
        assert!(
            complaint.contains("protocol 99") && complaint.contains("this is 1"),
            "{complaint}"
        );
    }

    #[test]
    fn a_runner_without_a_device_ends_the_run_with_code_3_and_its_own_reason() {
        let answer = r#"{"type":"error","kind":"no_device","message":"the chip is at lunch"}"#;
        let complaint = Stage::answering(&[("hello", &say(answer))]).refusal(3, &[]);
        assert!(complaint.contains("the chip is at lunch"), "{complaint}");
    }

    #[test]
    fn a_runner_that_dies_on_a_variant_fails_that_case_and_is_not_given_the_variant_again() {
        let stage = Stage::answering(&[
            ("hello", &say(HELLO)),
            ("case", &say(VARIANTS)),
            (
                "prepare",
                "echo 'segmentation fault, probably' >&2; exit 139",
            ),
        ]);
        let report = stage.report(6, &[]);
        assert_eq!(report["status"], "partial");
        let failed = reasons(&report, "failed");
        for needle in [
            "exit code 139",
            "segmentation fault, probably",
            "fake/product",
        ] {
            assert!(
                failed[0].contains(needle),
                "{needle:?} is not in {:?}",
                failed[0]
            );
        }
        // It is the only variant, so the other cases have none left; that must be what they say.
        let skipped = reasons(&report, "skipped");
        assert_eq!(skipped.len(), 2, "{report:#}");
        for (outcome, reason) in outcomes(&report)[1..].iter().zip(skipped) {
            assert!(reason.contains("killed the runner"), "{reason}");
            assert_eq!(at(outcome, "/tried/0/kernel"), "fake/product");
            assert!(
                at(outcome, "/tried/0/reason")
                    .as_str()
                    .unwrap()
                    .contains("killed the runner"),
                "{outcome:#}"
            );
        }
    }

    #[test]
    fn a_runner_that_falls_silent_at_every_case_is_given_up_after_three() {
        let stage = Stage::answering(&[("hello", &say(HELLO)), ("case", "sleep 60")]);
        let report = stage.report(6, &["--silence", "2"]);
        all_failed(&report, &["said nothing for 2 s"]);
    }

    #[test]
    fn a_runner_whose_outputs_are_zeros_has_wrong_results() {
        let stage = Stage::answering(&[
            ("hello", &say(HELLO)),
            ("case", &say(VARIANTS)),
            ("prepare", &say(READY)),
            ("outputs", &say(ZEROS)),
        ]);
        let report = stage.report(4, &[]);
        all_failed(&report, &["wrong results", "fake/product", "expected"]);
        assert_eq!(at(&report, "/outcomes/0/tried/0/status"), "wrong");
    }

    #[test]
    fn a_runner_that_sends_too_few_outputs_or_none_fails_its_cases() {
        for answer in [
            r#"{"type":"outputs","values":[0],"projection":[]}"#,
            r#"{"type":"bye"}"#,
        ] {
            let stage = Stage::answering(&[
                ("hello", &say(HELLO)),
                ("case", &say(VARIANTS)),
                ("prepare", &say(READY)),
                ("outputs", &say(answer)),
            ]);
            let done = stage.run(&[]);
            assert!([4, 6].contains(&done.code), "{done:?}");
            all_failed(
                &only_report(&stage.folder.path().join("out")),
                &["fake/product"],
            );
        }
    }

    #[test]
    fn a_runner_that_cannot_do_an_op_has_its_cases_skipped_with_its_own_reason() {
        let answer = r#"{"type":"error","kind":"unsupported","message":"this chip only copies"}"#;
        let stage = Stage::answering(&[("hello", &say(HELLO)), ("case", &say(answer))]);
        let report = stage.report(6, &[]);
        assert_eq!(report["status"], "complete");
        assert!(
            reasons(&report, "skipped")
                .iter()
                .all(|reason| reason.contains("only copies"))
        );
    }

    #[test]
    fn a_real_runner_behind_a_harmless_filter_is_measured_like_any_other() {
        let report = Stage::tampering("printf '%s\\n' \"$line\"").report(0, &[]);
        assert_eq!(report["status"], "complete");
        assert!(
            outcomes(&report)
                .iter()
                .all(|o| o["status"] == "measured" && o["runner"] == "host")
        );
    }

    #[test]
    fn outputs_that_are_not_numbers_are_wrong_results() {
        let nan = r#"case $line in *'"type":"outputs"'*) line='{"type":"outputs","values":["NaN","NaN","NaN","NaN"],"projection":["NaN","NaN"]}' ;; esac
            printf '%s\n' "$line""#;
        all_failed(
            &Stage::tampering(nan).report(4, &[]),
            &["wrong results", "never written"],
        );
        // A bare NaN is not JSON at all.
        let bare = r#"case $line in *'"type":"outputs"'*) line='{"type":"outputs","values":[NaN,NaN,NaN,NaN],"projection":[NaN,NaN]}' ;; esac
            printf '%s\n' "$line""#;
        let report = Stage::tampering(bare).report(6, &[]);
        assert!(
            reasons(&report, "failed")[0].contains("not the protocol"),
            "{report:#}"
        );
        assert_eq!(with_status(&report, "measured").len(), 0);
    }

    #[test]
    fn one_wrong_element_is_found() {
        // The last of four values is negated; the sums of the rows are left as they are.
        let lie = r#"case $line in *'"type":"outputs"'*) line=$(printf '%s\n' "$line" | sed 's/,-\{0,1\}\([0-9.e-]*\)\],"projection"/,12\1],"projection"/') ;; esac
            printf '%s\n' "$line""#;
        all_failed(
            &Stage::tampering(lie).report(4, &[]),
            &["wrong results", "element 1 of row 1"],
        );
    }

    /// The real runner with the spans it measured rewritten by `sed`.
    fn with_spans(script: &str) -> Stage {
        Stage::tampering(&format!(
            "case $line in *'\"type\":\"samples\"'*) line=$(printf '%s\\n' \"$line\" | sed '{script}') ;; esac\nprintf '%s\\n' \"$line\""
        ))
    }

    #[test]
    fn spans_that_no_clock_can_show_are_refused() {
        for host_s in ["-1.0", "0.0"] {
            let stage = with_spans(&format!("s/\"host_s\":[^,}}]*/\"host_s\":{host_s}/g"));
            all_failed(
                &stage.report(6, &[]),
                &["are zero, backwards", "matmul/gemm"],
            );
        }
        let report = with_spans("s/\"host_s\":[^,}]*/\"host_s\":1e999/g").report(6, &[]);
        assert!(
            reasons(&report, "failed")[0].contains("not the protocol"),
            "{report:#}"
        );
    }

    /// The real runner with the requests it is given rewritten by `sed`, and its answers as they are.
    fn with_requests(script: &str) -> Stage {
        Stage::new(&format!(
            "while IFS= read -r line; do printf '%s\n' \"$line\" | sed '{script}'; done | '{}' worker --runner host",
            env!("CARGO_BIN_EXE_chipmark")
        ))
    }

    #[test]
    fn outputs_cached_from_another_seed_are_wrong_results() {
        // Whatever seed it is given, it answers with what it has computed once.
        let stage = with_requests("s/\"seed\":[0-9]*/\"seed\":1/");
        all_failed(&stage.report(4, &[]), &["wrong results", "expected"]);
    }

    #[test]
    fn a_wrong_result_on_a_random_shape_comes_with_the_command_that_shows_it_again() {
        let stage = with_requests("s/\"seed\":[0-9]*/\"seed\":1/");
        let verify = |arguments: &[&str]| {
            chipmark(
                stage.folder.path(),
                &[&["verify", "--runner", "./fake"], arguments].concat(),
            )
        };
        let random = ["--random", "3", "--op", "matmul", "--seed", "7"];
        let done = verify(&random);
        assert_eq!(done.code, 4, "{done:?}");
        let again = done.stderr.lines().find_map(|l| l.split_once("again: "));
        let words: Vec<&str> = (again.unwrap().1.split_whitespace())
            .map(|word| word.trim_matches('\''))
            .collect();
        assert_eq!(words[..2], ["chipmark", "verify"]);
        // The same runner is wrong again, and an honest one is right.
        let done = chipmark(stage.folder.path(), &words[1..]);
        assert_eq!(done.code, 4, "{done:?}");
        let honest: Vec<&str> = (words[1..].iter())
            .map(|&word| if word == "./fake" { "host" } else { word })
            .collect();
        let done = chipmark(stage.folder.path(), &honest);
        assert_eq!(done.code, 0, "{done:?}");
    }

    #[test]
    fn a_runner_with_right_outputs_and_times_too_short_for_physics_is_not_believed() {
        // A tenth of the time on every span: the conductor waits ten times as long as is claimed.
        let stage = with_a_slow_clock();
        let cases = ["matmul m = 160, n = 160, k = 160"];
        fs::write(stage.folder.path().join("tiny.toml"), suite(1.0, &cases)).unwrap();
        let done = stage.run(&[]);
        assert_eq!(done.code, 5, "{done:?}");
        let report = only_report(&stage.folder.path().join("out"));
        let reasons = reasons(&report, "implausible");
        assert!(
            reasons.len() == 1 && reasons[0].contains("the conductor waited"),
            "{report:#}"
        );
    }

    /// The tests of conformance that this runner fails, and the whole answer.
    fn failed_tests(stage: &Stage, runner: &str, code: i32) -> (Vec<String>, Value) {
        let arguments = ["conformance", runner, "--json", "--filter", "^matmul/gemm$"];
        let done = chipmark(stage.folder.path(), &arguments);
        assert_eq!(done.code, code, "{done:?}");
        let findings: Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(findings["conforms"], code == 0, "{findings:#}");
        let tests = findings["tests"].as_array().unwrap();
        assert_eq!(tests.len(), 15);
        let failed = tests.iter().filter(|test| test["mark"] == "failed");
        (
            failed
                .map(|test| test["name"].as_str().unwrap().to_owned())
                .collect(),
            findings,
        )
    }

    #[test]
    fn an_honest_runner_conforms_by_its_name_and_behind_a_pipe() {
        let stage = Stage::tampering(r#"printf '%s\n' "$line""#);
        for runner in ["host", "./fake"] {
            let (_, findings) = failed_tests(&stage, runner, 0);
            let skipped = |test: &&Value| test["mark"] == "skipped";
            let tests = findings["tests"].as_array().unwrap();
            assert_eq!(tests.iter().find(skipped), None, "{findings:#}");
        }
    }

    #[test]
    fn a_runner_that_answers_from_an_earlier_seed_does_not_conform() {
        let (failed, _) =
            failed_tests(&with_requests("s/\"seed\":[0-9]*/\"seed\":1/"), "./fake", 1);
        for name in ["outputs", "random", "seeds", "spans"] {
            assert!(failed.contains(&name.to_owned()), "{name}: {failed:?}");
        }
        assert!(!failed.contains(&"garbage".to_owned()), "{failed:?}");
    }

    #[test]
    fn a_runner_whose_clock_runs_slow_does_not_conform() {
        let stage = with_a_slow_clock();
        let (failed, findings) = failed_tests(&stage, "./fake", 1);
        assert!(failed.contains(&"clock".to_owned()), "{findings:#}");
        assert!(!failed.contains(&"outputs".to_owned()), "{findings:#}");
    }

    /// The real runner, called once whatever is asked and claiming what was, with `lie` for `sed` put
    /// over its samples.
    fn calling_once(lie: &str) -> Stage {
        Stage::new(&format!(
            r#"while IFS= read -r line; do
                case $line in *'"type":"measure"'*)
                    printf '%s\n' "$line" | sed 's/.*"repeat_count":\([0-9]*\).*/\1/' >asked
                    line=$(printf '%s\n' "$line" | sed 's/"repeat_count":[0-9]*/"repeat_count":1/') ;;
                esac
                printf '%s\n' "$line"
            done | '{}' worker --runner host | while IFS= read -r line; do
                case $line in *'"type":"samples"'*)
                    lie='{lie}s/"repeat_count":1/"repeat_count":'$(cat asked)/g
                    line=$(printf '%s\n' "$line" | sed "$lie") ;;
                esac
                printf '%s\n' "$line"
            done"#,
            env!("CARGO_BIN_EXE_chipmark")
        ))
    }

    /// The real runner whose spans are a tenth of what they were.
    fn with_a_slow_clock() -> Stage {
        with_spans("s/\"host_s\":\\([0-9]\\)\\./\"host_s\":0.\\1/g")
    }

    #[test]
    fn a_runner_that_calls_once_whatever_is_asked_does_not_conform() {
        let stage = calling_once("");
        let (failed, findings) = failed_tests(&stage, "./fake", 1);
        // Two of three sets of buffers were never written.
        assert!(failed.contains(&"sets".to_owned()), "{findings:#}");
        assert!(!failed.contains(&"outputs".to_owned()), "{findings:#}");
    }

    #[test]
    fn a_runner_that_dies_of_garbage_fails_that_and_is_tested_on() {
        let stage = Stage::new(&format!(
            "while IFS= read -r line; do case $line in *dance*) exit 3 ;; esac; printf '%s\n' \"$line\"; done | '{}' worker --runner host",
            env!("CARGO_BIN_EXE_chipmark")
        ));
        let (failed, findings) = failed_tests(&stage, "./fake", 1);
        assert_eq!(failed, ["garbage"], "{findings:#}");
    }

    #[test]
    fn a_runner_that_dies_building_several_at_once_is_asked_again_for_one_by_one() {
        if !has_adapter() {
            return skipped("no wgpu adapter");
        }
        let stage = Stage::new(&format!(
            "while IFS= read -r line; do
case $line in *'\"type\":\"build\"'*) echo died >>deaths; exit 3 ;; esac
printf '%s\\n' \"$line\"
done | '{}' worker --runner wgpu | sed -u 's/\"type\":\"variants\"/&,\"builds_at_once\":2/'",
            env!("CARGO_BIN_EXE_chipmark")
        ));
        // With time enough to look at several variants.
        let cases = [
            MATMUL,
            "matmul m = 2, n = 2, k = 3",
            "matmul m = 2, n = 2, k = 4",
        ];
        fs::write(stage.folder.path().join("tiny.toml"), suite(2.0, &cases)).unwrap();
        let report = stage.report(0, &[]);
        assert_eq!(with_status(&report, "measured").len(), 3, "{report:#}");
        let deaths = fs::read_to_string(stage.folder.path().join("deaths")).unwrap();
        assert_eq!(deaths.lines().count(), 1);
    }

    #[test]
    fn a_runner_that_builds_nothing_side_by_side_and_is_wrong_is_not_asked_for_ever() {
        if !has_adapter() {
            return skipped("no wgpu adapter");
        }
        let refusal = r#"{"type":"error","kind":"internal","message":"not several"}"#;
        let stage = Stage::new(&format!(
            "'{}' worker --runner wgpu | sed -u 's/\"type\":\"variants\"/&,\"builds_at_once\":2/; s/^{{\"type\":\"built\".*/{refusal}/; s/\"values\":\\[[^]]*\\]/\"values\":[7,7,7,7]/'",
            env!("CARGO_BIN_EXE_chipmark")
        ));
        let cases = ["matmul m = 2, n = 2, k = 3"];
        fs::write(stage.folder.path().join("tiny.toml"), suite(2.0, &cases)).unwrap();
        let done = stage.run(&[]);
        assert_eq!(done.code, 4, "{done:?}");
        let report = only_report(&stage.folder.path().join("out"));
        assert_eq!(with_status(&report, "failed").len(), 1, "{report:#}");
    }

    #[test]
    fn spans_so_short_that_rates_overflow_do_not_cost_the_report() {
        // It calls once whatever is asked, or the lie would make each span take seconds.
        let stage = calling_once("s/\"host_s\":[^,}]*/\"host_s\":1e-302/g; ");
        let cases = ["copy n = 64", "fma invocations = 64, steps = 8", MATMUL];
        fs::write(stage.folder.path().join("tiny.toml"), suite(0.2, &cases)).unwrap();
        let report = {
            let done = stage.run(&[]);
            assert!([0, 5, 6].contains(&done.code), "{done:?}");
            only_report(&stage.folder.path().join("out"))
        };
        assert_eq!(outcomes(&report).len(), 3);
    }

    #[test]
    fn a_runner_that_sends_fewer_spans_than_asked_is_refused() {
        let report = with_spans("s/\"samples\":.*/\"samples\":[]}/").report(6, &[]);
        all_failed(&report, &["0 samples when asked for 1"]);
    }

    #[test]
    fn a_runner_that_claims_more_calls_than_it_was_asked_for_is_refused() {
        let report =
            with_spans("s/\"repeat_count\":[0-9]*/\"repeat_count\":4000000000/g").report(6, &[]);
        assert_eq!(with_status(&report, "measured").len(), 0);
        all_failed(&report, &["4000000000"]);
    }

    #[test]
    fn a_runner_that_stops_reading_is_given_up_like_a_silent_one() {
        // The positions of 65536 elements do not fit a pipe that nobody empties.
        let prepare = format!("{}; exec sleep 60", say(READY));
        let stage = Stage::answering(&[
            ("hello", &say(HELLO)),
            ("case", &say(VARIANTS)),
            ("prepare", &prepare),
        ]);
        let cases = ["matmul m = 256, n = 256, k = 2"];
        fs::write(stage.folder.path().join("tiny.toml"), suite(0.2, &cases)).unwrap();
        let done = stage.run(&["--silence", "2"]);
        assert_eq!(done.code, 6, "{done:?}");
        let report = only_report(&stage.folder.path().join("out"));
        assert!(
            reasons(&report, "failed")[0].contains("said nothing for 2 s"),
            "{report:#}"
        );
    }

    /// Races the fake against the real host runner over one case.
    fn race(stage: &Stage, pairs: &str) -> Done {
        let arguments = [
            "ab",
            "--baseline",
            "host",
            "--candidate",
            "./fake",
            "--suite",
            "tiny.toml",
            "--filter",
            "k3",
            "--pairs",
            pairs,
            "--output",
            "out",
        ];
        chipmark(stage.folder.path(), &arguments)
    }

    #[test]
    fn a_process_that_dies_costs_its_block_and_no_more() {
        // The first opens the device, the second searches, the third is the first block's.
        let stage = Stage::new(&format!(
            "n=$(cat count 2>/dev/null || echo 0); n=$((n+1)); echo $n >count\n[ $n = 4 ] && exit 3\nexec '{}' worker --runner host",
            env!("CARGO_BIN_EXE_chipmark")
        ));
        let done = race(&stage, "4");
        assert_eq!(done.code, 0, "{done:?}");
        assert!(
            done.stderr.contains("block 2 is lost: candidate")
                && done.stderr.contains("exit code 3"),
            "{done:?}"
        );
        for side in both_sides(&stage.folder.path().join("out")) {
            assert_eq!(process_count(&side, 0), 3);
        }
    }

    #[test]
    fn a_side_with_wrong_results_has_no_time_and_neither_has_the_other() {
        let lie = r#"case $line in *'"type":"outputs"'*) line='{"type":"outputs","values":[0,0,0,0],"projection":[0,0]}' ;; esac
            printf '%s\n' "$line""#;
        let stage = Stage::tampering(lie);
        let done = race(&stage, "4");
        assert_eq!(done.code, 4, "{done:?}");
        let sides = both_sides(&stage.folder.path().join("out"));
        let wrong = sides.iter().flat_map(|side| reasons(side, "failed"));
        assert_eq!(
            wrong
                .filter(|reason| reason.contains("wrong results"))
                .count(),
            1
        );
        let spared: Vec<String> = sides
            .iter()
            .flat_map(|side| reasons(side, "skipped"))
            .collect();
        assert!(
            spared[0].contains("not raced, for the candidate"),
            "{spared:?}"
        );
    }

    #[test]
    fn one_broken_runner_of_two_costs_only_its_own_cases() {
        let stage = Stage::new("echo 'out of order' >&2; exit 1");
        let done = stage.run(&["--runner", "host"]);
        let report = only_report(&stage.folder.path().join("out"));
        assert_eq!(outcomes(&report).len(), 6);
        // What is to be compared was measured at one time and stands side by side.
        for pair in outcomes(&report).chunks(2) {
            assert_eq!(pair[0]["case_id"], pair[1]["case_id"]);
            assert_ne!(pair[0]["runner"], pair[1]["runner"]);
        }
        let host: Vec<&Value> = outcomes(&report)
            .iter()
            .filter(|o| o["runner"] == "host")
            .collect();
        assert!(host.iter().all(|o| o["status"] == "measured"), "{report:#}");
        // One that never said hello goes by the name of its file.
        let other = outcomes(&report).iter().filter(|o| o["runner"] == "fake");
        assert_eq!(other.clone().count(), 3);
        for outcome in other {
            assert_eq!(outcome["status"], "failed", "{outcome:#}");
            assert!(
                outcome["reason"].as_str().unwrap().contains("out of order"),
                "{outcome:#}"
            );
        }
        assert_eq!((done.code, report["status"].as_str()), (6, Some("partial")));
    }
}

// Death and interruption in the middle of a run.

#[cfg(unix)]
mod signals {
    use super::*;

    /// Eight cases of which each takes long enough to be hit.
    const LONG: [&str; 8] = [
        "matmul m = 200, n = 200, k = 200",
        "matmul m = 201, n = 200, k = 200",
        "attention heads = 4, kv_heads = 2, query_len = 64, kv_len = 65, head_dim = 16",
        "attention heads = 4, kv_heads = 2, query_len = 64, kv_len = 66, head_dim = 16",
        "attention heads = 4, kv_heads = 2, query_len = 64, kv_len = 67, head_dim = 16",
        "attention heads = 4, kv_heads = 2, query_len = 64, kv_len = 68, head_dim = 16",
        "attention heads = 4, kv_heads = 2, query_len = 64, kv_len = 69, head_dim = 16",
        "attention heads = 4, kv_heads = 2, query_len = 64, kv_len = 70, head_dim = 16",
    ];

    fn send(signal: &str, process: u32) {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("kill -{signal} {process}")]);
        let mut child = {
            let _lock = lock();
            command.spawn().unwrap()
        };
        assert!(child.wait().unwrap().success());
    }

    /// Starts a run, does `strike` to it (given the conductor's process id) while its third case is
    /// at work, and returns the exit code, stderr and the report.
    fn struck(folder: &Path, strike: impl FnOnce(u32)) -> (i32, String, Value) {
        fs::write(folder.join("long.toml"), suite(0.5, &LONG)).unwrap();
        let mut child = start(
            folder,
            &[
                "run",
                "--suite",
                "long.toml",
                "--runner",
                "host",
                "--output",
                "out",
            ],
        );
        let stdout = text(child.stdout.take().unwrap());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        for line in lines.by_ref() {
            let line = line.unwrap();
            said += &format!("{line}\n");
            if line.starts_with("[2/8]") {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(60));
        strike(child.id());
        for line in lines {
            said += &format!("{}\n", line.unwrap());
        }
        let code = wait(&mut child);
        stdout.join().unwrap();
        assert!(!said.contains("panicked"), "{said}");
        (code, said, only_report(&folder.join("out")))
    }

    /// The worker that a conductor has started.
    #[cfg(target_os = "linux")]
    fn worker_of(conductor: u32) -> u32 {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(process) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // The name is in brackets and may hold anything; the parent is the second field after it.
            let parent = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1));
            let arguments = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if parent == Some(&conductor.to_string()) && arguments.contains("worker") {
                return process;
            }
        }
        panic!("process {conductor} has no worker");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_killed_worker_fails_one_case_and_the_rest_go_on() {
        let folder = folder();
        let (code, said, report) = struck(folder.path(), |conductor| {
            send("KILL", worker_of(conductor))
        });
        assert_eq!(
            (code, report["status"].as_str()),
            (6, Some("partial")),
            "{said}"
        );
        assert_eq!(outcomes(&report).len(), LONG.len());
        let failed = reasons(&report, "failed");
        assert_eq!(failed.len(), 1, "{said}");
        assert!(failed[0].contains("signal 9"), "{failed:?}");
        let rest = with_status(&report, "measured").len() + with_status(&report, "skipped").len();
        assert_eq!(rest, LONG.len() - 1, "{said}");
        let dead = outcomes(&report)
            .iter()
            .position(|o| o["status"] == "failed")
            .unwrap();
        assert!(
            outcomes(&report)[dead + 1..]
                .iter()
                .any(|o| o["status"] == "measured"),
            "{said}"
        );
        must_follow(&schema("report"), &report);
    }

    fn an_interrupted_run_keeps_what_was_measured(signal: &str) {
        let folder = folder();
        let (code, said, report) = struck(folder.path(), |conductor| send(signal, conductor));
        assert_eq!(
            (code, report["status"].as_str()),
            (6, Some("interrupted")),
            "{said}"
        );
        assert!(
            said.lines().last().unwrap().contains("interrupted"),
            "{said}"
        );
        assert_eq!(outcomes(&report).len(), LONG.len(), "a case disappeared");
        assert!(with_status(&report, "measured").len() >= 2, "{said}");
        let skipped = reasons(&report, "skipped");
        assert!(
            !skipped.is_empty() && skipped.iter().all(|reason| reason.contains("interrupted")),
            "{skipped:?}"
        );
        assert_eq!(with_status(&report, "failed").len(), 0, "{said}");
        must_follow(&schema("report"), &report);
    }

    #[test]
    fn an_interrupted_race_keeps_whole_blocks() {
        let folder = folder();
        fs::write(folder.path().join("tiny.toml"), suite(0.2, &[MATMUL])).unwrap();
        let mut child = start(
            folder.path(),
            &[
                "ab",
                "--baseline",
                "host",
                "--candidate",
                "host",
                "--suite",
                "tiny.toml",
                "--pairs",
                "1000",
                "--output",
                "out",
            ],
        );
        let stdout = text(child.stdout.take().unwrap());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.starts_with("baseline host"), "{first}");
        std::thread::sleep(Duration::from_secs(2));
        send("INT", child.id());
        let said: Vec<String> = lines.map(Result::unwrap).collect();
        let code = wait(&mut child);
        stdout.join().unwrap();
        assert_eq!(code, 6, "{said:?}");
        let sides = both_sides(&folder.path().join("out"));
        // However far it came, both sides came as far.
        let counts = sides.each_ref().map(|side| {
            assert_eq!(side["status"], "interrupted");
            let medians = side.pointer("/outcomes/0/time_s/process_medians");
            medians.map(|medians| medians.as_array().unwrap().len())
        });
        assert_eq!(counts[0], counts[1], "{said:?}");
    }

    /// Goes on with what `struck` left and returns the report that comes of it.
    fn resumed(folder: &Path) -> Value {
        let arguments = [
            "run",
            "--suite",
            "long.toml",
            "--runner",
            "host",
            "--output",
            "out",
            "--resume",
        ];
        let done = chipmark(folder, &arguments);
        assert_eq!(done.code, 0, "{done:?}");
        assert!(done.stderr.contains("going on with the run of"), "{done:?}");
        let path = done.stdout.lines().last().unwrap();
        assert_eq!(
            journals(&folder.join("out")),
            NO_FILES,
            "the run is finished"
        );
        serde_json::from_str(&fs::read_to_string(folder.join(path)).unwrap()).unwrap()
    }

    fn measured(report: &Value) -> Vec<&Value> {
        with_status(report, "measured")
    }

    #[test]
    fn a_resumed_run_keeps_what_was_measured_and_ends_with_one_complete_report() {
        let folder = folder();
        let (_, said, before) = struck(folder.path(), |conductor| send("INT", conductor));
        assert!(said.contains("--resume"), "{said}");
        let report = resumed(folder.path());
        assert_eq!(report["status"], "complete");
        assert_eq!(outcomes(&report).len(), LONG.len());
        assert_eq!(report["seed"], before["seed"]);
        for old in measured(&before) {
            let new = outcomes(&report)
                .iter()
                .find(|new| new["case_id"] == old["case_id"])
                .unwrap();
            assert_eq!(
                at(new, "/time_s/samples"),
                at(old, "/time_s/samples"),
                "it was measured again"
            );
        }
        must_follow(&schema("report"), &report);
    }

    #[test]
    fn a_killed_conductor_loses_no_case_that_was_done() {
        let folder = folder();
        fs::write(folder.path().join("long.toml"), suite(0.5, &LONG)).unwrap();
        let base = [
            "run",
            "--suite",
            "long.toml",
            "--runner",
            "host",
            "--output",
            "out",
        ];
        let mut child = start(folder.path(), &base);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().starts_with("[3/8]")),
            "it ended early"
        );
        send("KILL", child.id());
        wait(&mut child);
        assert_eq!(reports(&folder.path().join("out")), NO_FILES);
        // Another command is another run.
        let other = [&base[..], &["--resume", "--checks"]].concat();
        let refused = chipmark(folder.path(), &other);
        assert!(
            refused.complaint(2).contains("differs in checks"),
            "{refused:?}"
        );
        let report = resumed(folder.path());
        assert_eq!(measured(&report).len(), LONG.len());
    }

    #[test]
    fn an_interrupt_from_the_keyboard_keeps_what_was_measured() {
        an_interrupted_run_keeps_what_was_measured("INT");
    }

    #[test]
    fn a_request_to_terminate_keeps_what_was_measured() {
        an_interrupted_run_keeps_what_was_measured("TERM");
    }
}

#[test]
fn every_report_of_this_repository_is_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports");
    let mut count = 0;
    for device in fs::read_dir(folder).unwrap() {
        let device = device.unwrap().path();
        // Beside the folders lies the page that lists them.
        if device.is_file() {
            continue;
        }
        for report in fs::read_dir(device).unwrap() {
            let path = report.unwrap().path();
            let done = Command::new(env!("CARGO_BIN_EXE_chipmark"))
                .arg("validate")
                .arg(&path)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{}: {said}", path.display());
            count += 1;
        }
    }
    assert!(count > 0, "there is no report");
}

// What searches leave for later ones.

#[test]
fn a_cache_shows_what_it_keeps_and_forgets_it_when_told() {
    let folder = folder();
    let empty = chipmark(folder.path(), &["cache", "--json"]);
    assert_eq!(empty.code, 0, "{empty:?}");
    assert_eq!(empty.json()["entries"], serde_json::json!([]));
    let file = folder.path().join("cache/chipmark/variants.json");
    assert_eq!(at(&empty.json(), "/path"), &*file.to_string_lossy());
    let entry = serde_json::json!({
        "device": "A chip", "backend": "vulkan", "driver": "driver 7",
        "case_id": "matmul/m8_n8_k8/f32", "kernel": "matmul/naive",
        "variant": { "TILE_M": 8, "TILE_N": 16 }, "shader_sha256": "0", "time_s_median": 0.25,
        "of_all": true,
    });
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let book = serde_json::json!({ "entries": [entry] });
    fs::write(&file, book.to_string()).unwrap();
    let listed = chipmark(folder.path(), &["cache", "--json"]).json();
    assert_eq!(at(&listed, "/entries/0"), &entry);
    let shown = chipmark(folder.path(), &["cache"]).stdout;
    for word in [
        "A chip",
        "driver 7",
        "matmul/m8_n8_k8/f32",
        "TILE_N=16",
        "250 ms",
    ] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
    let cleared = chipmark(folder.path(), &["cache", "--clear", "--json"]);
    assert_eq!(cleared.json()["cleared_count"], 1);
    assert!(!file.exists());
    let again = chipmark(folder.path(), &["cache", "--clear"]);
    assert_eq!(again.code, 0);
    assert!(again.stdout.contains("forgot 0 variants"), "{again:?}");
}

#[test]
fn a_second_run_begins_with_what_the_first_found_and_verifies_it_unless_told_to_search_anew() {
    let folder = folder();
    let text = suite(2.0, &["matmul m = 32, n = 32, k = 32"]);
    fs::write(folder.path().join("one.toml"), text).unwrap();
    let base = [
        "run", "--suite", "one.toml", "--runner", "wgpu", "--output", "-",
    ];
    let run = |more: &[&str]| chipmark(folder.path(), &[&base[..], more].concat());
    let first = run(&[]);
    if first.code == 3 {
        eprintln!("skipped: there is no adapter");
        return;
    }
    assert_eq!(first.code, 0, "{first:?}");
    // Variants that were looked at, and whether any was left out because of the cache.
    let looked = |done: &Done| {
        let json = done.json();
        let outcome = at(&json, "/outcomes/0");
        assert_eq!(outcome["status"], "measured", "{outcome:#}");
        assert!(outcome["verification"].is_object(), "{outcome:#}");
        let tried = outcome["tried"].as_array().unwrap().clone();
        let by_cache = tried.iter().any(|t| {
            t["reason"]
                .as_str()
                .is_some_and(|r| r.contains("--no-cache"))
        });
        let timed: Vec<Value> = tried
            .into_iter()
            .filter(|t| t["status"] == "timed")
            .collect();
        (timed, by_cache)
    };
    let kept = chipmark(folder.path(), &["cache", "--json"]).json()["entries"].clone();
    let kept = kept.as_array().unwrap();
    assert!((1..=4).contains(&kept.len()), "{kept:#?}");
    assert!(!looked(&first).1);
    let file = folder.path().join("cache/chipmark/variants.json");
    let change = |from: &str, to: &str| {
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace(from, to)).unwrap();
    };
    let began_with_them = |timed: &[Value]| {
        let again = |k: &Value| {
            timed
                .iter()
                .any(|t| k["kernel"] == t["kernel"] && k["variant"] == t["variant"])
        };
        assert!(kept.iter().any(again), "{kept:#?} {timed:#?}");
    };
    // Whether the first had time for a look at every kernel depends on the machine.
    change("\"of_all\": false", "\"of_all\": true");
    let (timed, by_cache) = looked(&run(&[]));
    assert!(by_cache, "{timed:#?}");
    began_with_them(&timed);
    // Other variants may be looked at, other kernels are not.
    for tried in &timed {
        assert!(
            kept.iter().any(|k| k["kernel"] == tried["kernel"]),
            "{tried:#}"
        );
    }
    assert!(!looked(&run(&["--no-cache"])).1);
    // Where the first had not, the search is made in full.
    change("\"of_all\": true", "\"of_all\": false");
    assert!(!looked(&run(&[])).1);
    // What does not fit the source any more is not begun with, and what is left is searched.
    change("\"shader_sha256\": \"", "\"shader_sha256\": \"stale ");
    assert!(!looked(&run(&[])).1);
}

// Diagnosis.

#[test]
fn what_cannot_be_diagnosed_is_refused_in_one_line() {
    let folder = folder();
    let report = report().to_string();
    fs::write(folder.path().join("host.json"), report).unwrap();
    fs::write(folder.path().join("one.toml"), suite(1.0, &[MATMUL])).unwrap();
    let table: [(&[&str], &[&str]); 6] = [
        (
            &["host.json"],
            &["host.json", "runner wgpu", "fraction_of_ceiling", "--suite"],
        ),
        (&["nowhere.json"], &["nowhere.json"]),
        (
            &["--suite", "one.toml", "--filter", "conv"],
            &["--filter conv", "one.toml"],
        ),
        (
            &["--suite", "one.toml", "--runner", "host"],
            &["--runner host", "wgpu"],
        ),
        (
            &["--suite", "one.toml", "--output", "nowhere/why.json"],
            &["--output nowhere/why.json", "folder"],
        ),
        (
            &["--suite", "one.toml", "--output", "."],
            &["--output .", "name a file"],
        ),
    ];
    for (arguments, needles) in table {
        let done = chipmark(folder.path(), &[&["diagnose"], arguments].concat());
        let complaint = done.complaint(2);
        for needle in needles {
            assert!(complaint.contains(needle), "{needle} is not in {complaint}");
        }
    }
    let both = chipmark(
        folder.path(),
        &["diagnose", "host.json", "--suite", "one.toml"],
    );
    assert_eq!(both.code, 2);
    assert!(both.stderr.contains("--suite"), "{both:?}");
}

#[test]
fn a_diagnosis_says_what_binds_a_kernel_and_leaves_no_time_of_a_what_if_anywhere_else() {
    let folder = folder();
    let text = suite(1.0, &["matmul m = 32, n = 32, k = 32"]);
    fs::write(folder.path().join("one.toml"), text).unwrap();
    let base = ["diagnose", "--suite", "one.toml", "--budget", "60"];
    let done = chipmark(
        folder.path(),
        &[&base[..], &["--json", "--output", "why.json"]].concat(),
    );
    if done.code == 3 {
        eprintln!("skipped: there is no adapter");
        return;
    }
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.stderr.contains("a diagnosis and no results"),
        "{done:?}"
    );
    let written = fs::read_to_string(folder.path().join("why.json")).unwrap();
    assert_eq!(written, done.stdout);
    let json = done.json();
    assert_eq!(json["kind"], "chipmark_diagnosis");
    assert!(json.get("outcomes").is_none() && json.get("schema_version").is_none());
    let found = at(&json, "/cases/0/found");
    assert!(found["whole_s"].as_f64().unwrap() > 0.0, "{found:#}");
    let names: Vec<&Value> = (0..3).map(|i| &found["what_ifs"][i]["what_if"]).collect();
    assert_eq!(names, ["math_only", "loads_only", "stores_only"]);
    for part in found["what_ifs"].as_array().unwrap() {
        // A time with what was changed, or the reason why there is none.
        assert_ne!(
            part["time_s"].is_number(),
            part["reason"].is_string(),
            "{part:#}"
        );
        assert_eq!(part["time_s"].is_number(), part["changed"].is_string());
    }
    assert!(found["compile_cold_s"].as_f64().unwrap() > 0.0);
    assert_ne!(
        found["inspection"]["driver_statistics"].is_null(),
        found["inspection"]["driver_statistics_reason"].is_null()
    );
    let bound_by = found["verdict"]["bound_by"].as_str().unwrap();
    assert!(chipmark::diagnose::BOUNDS.contains(&bound_by), "{bound_by}");
    // It is no report, and nothing was remembered of it.
    let refused = chipmark(folder.path(), &["validate", "why.json"]);
    assert!(refused.complaint(2).contains("no chipmark report"));
    assert!(!folder.path().join("reports").exists());
    let kept = chipmark(folder.path(), &["cache", "--json"]).json();
    assert_eq!(kept["entries"], json!([]));
}
