//! The chip catalogue and what serving a model costs, from outside: what they show, the user's own
//! files, and every kind of bad input.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};

use program::*;

/// A model that a processor reads and writes in less than a millisecond.
const MODEL: &str = "name = \"Tiny\"\nlayers = 3\nhidden = 64\nheads = 4\nkv_heads = 2\nhead_dim = 16\n\
                     feed_forward = 96\nvocabulary = 200\n";

/// What is asked of it; `--suite` prints what measures just that.
const QUESTION: [&str; 11] = [
    "cost",
    "--model",
    "model.toml",
    "--dtype",
    "f32",
    "--prefill",
    "8",
    "--batch",
    "2",
    "--context",
    "16",
];

/// A report of the host on what the model asks for, measured once: without probes, so that nothing
/// can be implausible however noisy the machine is.
fn measured() -> &'static Value {
    static REPORT: OnceLock<Value> = OnceLock::new();
    REPORT.get_or_init(|| {
        let folder = folder();
        fs::write(folder.path().join("model.toml"), MODEL).unwrap();
        let printed = chipmark(folder.path(), &[&QUESTION[..], &["--suite"]].concat());
        assert_eq!(printed.code, 0, "{printed:?}");
        let suite = printed
            .stdout
            .replace("case_budget_s = 10.0", "case_budget_s = 0.2");
        assert_ne!(
            suite, printed.stdout,
            "the budget is no longer where it was"
        );
        // Without probes: their times are of no use here, and `run --filter` would keep them.
        let mut blocks = suite.split("\n[[cases]]\n");
        let head = blocks.next().unwrap().to_owned();
        let of_models =
            |block: &&str| block.contains("\"matmul\"") || block.contains("\"attention\"");
        let suite = blocks
            .filter(of_models)
            .fold(head, |suite, block| format!("{suite}\n[[cases]]\n{block}"));
        fs::write(folder.path().join("suite.toml"), suite).unwrap();
        let arguments = [
            "run",
            "--suite",
            "suite.toml",
            "--runner",
            "host",
            "--output",
            "-",
        ];
        let done = chipmark(folder.path(), &arguments);
        assert_eq!(done.code, 0, "{done:?}");
        done.json()
    })
}

/// A folder with the model and, under each name, a report.
fn laid_out(reports: &[(&str, &Value)]) -> tempfile::TempDir {
    let folder = folder();
    fs::write(folder.path().join("model.toml"), MODEL).unwrap();
    for (name, report) in reports {
        fs::write(folder.path().join(name), sealed(report)).unwrap();
    }
    folder
}

fn cost(folder: &Path, more: &[&str]) -> Done {
    chipmark(folder, &[&QUESTION[..], more].concat())
}

fn changed_report(report: &Value, change: impl Fn(&mut Value)) -> Value {
    let mut report = report.clone();
    change(&mut report);
    report
}

/// Makes an outcome take `factor` times as long.
fn scale_times(outcome: &mut Value, factor: f64) {
    let scale = |times: &mut Value| {
        for field in ["median", "ci95_low", "ci95_high"] {
            times[field] = json!(times[field].as_f64().unwrap() * factor);
        }
    };
    if outcome["time_s"].is_object() {
        scale(&mut outcome["time_s"]);
    }
    for regime in outcome["regimes"].as_array_mut().into_iter().flatten() {
        scale(&mut regime["time_s"]);
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

fn number(value: &Value, path: &str) -> f64 {
    at(value, path).as_f64().unwrap()
}

#[test]
fn what_the_suite_of_a_question_measures_answers_the_question() {
    let folder = laid_out(&[("report.json", measured())]);
    let arguments = ["report.json", "--price", "0.36", "--request", "8:10"];
    let done = cost(
        folder.path(),
        &[&arguments[..], &["--format", "json"]].concat(),
    );
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let answer = done.json();
    assert_eq!(at(&answer, "/refused"), &json!([]));
    // By hand, from the report: three layers and one head of each phase.
    let time = |case: &str| {
        let outcomes = outcomes(measured()).iter();
        let of = outcomes.clone().find(|o| o["case_id"] == case);
        let outcome = of.unwrap_or_else(|| panic!("{case} is not in the report"));
        let cold = at(outcome, "/regimes").as_array().unwrap().iter();
        let cold = cold.clone().find(|regime| regime["cache"] == "cold");
        number(cold.unwrap_or(outcome), "/time_s/median")
    };
    let step = 3.0
        * (time("matmul/m2_n128_k64_trans_b/f32")
            + time("attention/b2_h4_kv2_q1_l16_d16/f32")
            + time("matmul/m2_n64_k64_trans_b/f32")
            + time("matmul/m2_n192_k64_trans_b/f32")
            + time("matmul/m2_n64_k96_trans_b/f32"))
        + time("matmul/m2_n200_k64_trans_b/f32");
    assert!(close(number(&answer, "/projections/1/time_s/value"), step));
    assert!(close(
        number(&answer, "/projections/1/tokens_per_second/value"),
        2.0 / step
    ));
    // 0.36 $ an hour are 100 $ for a million seconds.
    assert!(close(
        number(&answer, "/projections/1/usd_per_million_tokens/value"),
        100.0 * step / 2.0
    ));
    let prefill = number(&answer, "/projections/0/time_s/value");
    assert!(close(
        number(&answer, "/requests/0/device_s/value"),
        prefill + 10.0 * step / 2.0
    ));
    for format in ["text", "md", "csv"] {
        let done = cost(
            folder.path(),
            &[&arguments[..], &["--format", format]].concat(),
        );
        assert_eq!(done.code, 0, "{done:?}");
        assert!(done.stdout.contains("0.36"), "{format}: {done:?}");
    }
}

#[test]
fn the_price_at_which_two_reports_cost_the_same_is_said() {
    let slower = changed_report(measured(), |report| {
        for outcome in report["outcomes"].as_array_mut().unwrap() {
            scale_times(outcome, 4.0);
        }
    });
    let folder = laid_out(&[("fast.json", measured()), ("slow.json", &slower)]);
    let reports = ["fast.json", "slow.json", "--format", "json"];
    let done = cost(
        folder.path(),
        &[&reports[..], &["--price", "1=2.0", "--price", "2=1.0"]].concat(),
    );
    assert_eq!(done.code, 0, "{done:?}");
    let answer = done.json();
    let break_even = at(&answer, "/break_even").as_array().unwrap();
    assert!(!break_even.is_empty());
    for found in break_even {
        // A chip that is four times slower is worth a quarter.
        let (index, price) = (&found["report_index"], number(found, "/usd_per_hour/value"));
        let wanted = if index == 1 { 0.5 } else { 4.0 };
        assert!(close(price, wanted), "{found}");
    }
}

#[test]
fn a_phase_with_a_case_that_is_not_measured_is_refused_by_name() {
    let lost = changed_report(measured(), |report| {
        let outcomes = report["outcomes"].as_array_mut().unwrap();
        let of = outcomes
            .iter_mut()
            .find(|o| o["case_id"] == "matmul/m2_n64_k96_trans_b/f32");
        let outcome = of.unwrap();
        outcome["status"] = json!("failed");
        outcome["reason"] = json!("it broke");
    });
    let folder = laid_out(&[("report.json", &lost)]);
    let done = cost(folder.path(), &["report.json", "--format", "json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let answer = done.json();
    assert_eq!(at(&answer, "/projections").as_array().unwrap().len(), 1);
    assert_eq!(at(&answer, "/projections/0/phase/kind"), "prefill");
    let missing = at(&answer, "/refused/0/missing/0").as_str().unwrap();
    assert!(
        missing.contains("matmul/m2_n64_k96_trans_b/f32"),
        "{missing}"
    );
    assert!(missing.contains("it broke"), "{missing}");
    // Where no phase is left there is no answer.
    let done = cost(folder.path(), &["report.json", "--runner", "host"]);
    assert!(done.stdout.contains("it broke"), "{done:?}");
    let other = chipmark(
        folder.path(),
        &["cost", "report.json", "--model", "model.toml"],
    );
    assert_eq!(other.code, 2, "{other:?}");
    assert!(other.stderr.contains("--suite"), "{other:?}");
}

#[test]
fn questions_that_make_no_sense_end_with_code_2_and_one_line_that_names_field_and_remedy() {
    let mut tampered = measured().clone();
    tampered["duration_s"] = json!(1e-9);
    let newer = changed_report(measured(), |report| {
        report["schema_version"] = json!("2.0.0")
    });
    let folder = laid_out(&[("report.json", measured()), ("newer.json", &newer)]);
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("tampered.json", &tampered.to_string());
    write(
        "huge.toml",
        &MODEL.replace("hidden = 64", "hidden = 99999999999"),
    );
    write("none.toml", &MODEL.replace("layers = 3", "layers = 0"));
    write(
        "uneven.toml",
        &MODEL.replace("kv_heads = 2", "kv_heads = 3"),
    );
    write("short.toml", &MODEL.replace("head_dim = 16\n", ""));
    write(
        "sparse.toml",
        "[[chips]]\nid = \"mine\"\nname = \"Mine\"\nvendor = \"me\"\n[chips.peaks.matrix_sparse]\nf16 = 4e14\n",
    );
    write(
        "twice.toml",
        "[[chips]]\nid = \"nvidia-h100-sxm5-80gb\"\n[chips.peaks.matrix]\nf16 = 1.979e15\n",
    );
    let table: [(&[&str], &[&str]); 17] = [
        (&["--price", "-1"], &["--price -1", "from 0.0001"]),
        (&["--price", "nan"], &["--price nan"]),
        (&["--price", "1e9"], &["--price 1e9"]),
        (
            &["--price", "2=1.0"],
            &["--price 2=1.0", "there are 1 to 1"],
        ),
        (&["--price", "free"], &["--price free"]),
        (&["--chip", "h1000"], &["--chip", "h1000"]),
        (&["--runner", "torch"], &["torch", "host"]),
        (&["--prefill", "0"], &["--prefill 0", "at least 1"]),
        (&["--request", "9:10"], &["--request", "--prefill 9"]),
        (&["--dtype", "i8"], &["--dtype i8", "f16"]),
        (&["--model", "gpt-9"], &["gpt-9", "llama-3-8b"]),
        (
            &["--model", "huge.toml"],
            &["huge.toml", "hidden is 99999999999"],
        ),
        (&["--model", "none.toml"], &["none.toml", "layers is 0"]),
        (&["--model", "uneven.toml"], &["uneven.toml", "kv_heads 3"]),
        (&["--model", "short.toml"], &["short.toml", "head_dim"]),
        (&["--chips", "sparse.toml"], &["sparse.toml", "sparse"]),
        (&["--chips", "twice.toml"], &["twice.toml", "f16"]),
    ];
    for (arguments, words) in table {
        // An option given twice would be refused for that.
        let kept = QUESTION[1..]
            .chunks(2)
            .filter(|pair| pair[0] != arguments[0]);
        let asked: Vec<&str> = ["cost", "report.json"]
            .into_iter()
            .chain(kept.flatten().copied())
            .chain(arguments.iter().copied())
            .collect();
        let done = chipmark(folder.path(), &asked);
        let complaint = done.complaint(2);
        for word in words {
            assert!(
                complaint.contains(word),
                "{arguments:?}: no {word:?} in {complaint}"
            );
        }
    }
    for (report, word) in [
        ("tampered.json", "changed after it was written"),
        ("newer.json", "2.0.0"),
        ("absent.json", "absent.json"),
    ] {
        let done = cost(folder.path(), &[report]);
        let complaint = done.complaint(2);
        assert!(
            complaint.contains(report) && complaint.contains(word),
            "{complaint}"
        );
    }
}

#[test]
fn the_catalogue_shows_the_chips_of_the_clouds_with_a_source_for_every_number() {
    let folder = folder();
    let listed = chipmark(folder.path(), &["chips"]);
    assert_eq!(listed.code, 0);
    for id in [
        "aws-trainium1",
        "aws-trainium2",
        "aws-trainium3",
        "aws-inferentia2",
    ] {
        assert!(
            listed.stdout.contains(id),
            "{id} is not in {}",
            listed.stdout
        );
        let shown = chipmark(folder.path(), &["chips", id]);
        assert_eq!(shown.code, 0);
        assert!(shown.stdout.contains("bf16"), "{shown:?}");
        let chips = chipmark(folder.path(), &["chips", id, "--json"]).json();
        let peak = at(&chips, "/0/peaks/matrix/bf16");
        assert!(number(peak, "/value") > 1e13, "{peak}");
        let sources = at(peak, "/sources").as_array().unwrap();
        assert!(!sources.is_empty(), "{peak}");
        for source in sources {
            let explained = format!("\n{}: ", source.as_str().unwrap());
            assert!(shown.stdout.contains(&explained), "{explained} {shown:?}");
        }
    }
    let complaint = chipmark(folder.path(), &["chips", "trainium9"])
        .complaint(2)
        .to_owned();
    assert!(complaint.contains("trainium9"), "{complaint}");
}

#[test]
fn a_chip_and_a_price_of_the_users_own_count_in_a_file_or_in_the_settings() {
    let own = "[[chips]]\nid = \"mine-1\"\nname = \"Mine One\"\nvendor = \"Me\"\n\
               [chips.memory]\nbytes = 1e9\nbandwidth_bytes_per_s = 1e12\n\
               [chips.peaks.vector]\nf32 = 1e13\n[[chips.prices]]\nprovider = \"my cellar\"\nusd_per_hour_chip = 0.25\n";
    let folder = laid_out(&[("report.json", measured())]);
    fs::write(folder.path().join("own.toml"), own).unwrap();
    let shown = chipmark(folder.path(), &["chips", "mine-1", "--chips", "own.toml"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.stdout.contains("own.toml"), "{shown:?}");
    assert_eq!(chipmark(folder.path(), &["chips", "mine-1"]).code, 2);
    let settings = folder.path().join("config/chipmark");
    fs::create_dir_all(&settings).unwrap();
    fs::write(settings.join("chips.toml"), own).unwrap();
    assert_eq!(chipmark(folder.path(), &["chips", "mine-1"]).code, 0);
    let done = cost(
        folder.path(),
        &["report.json", "--chip", "mine-1", "--format", "json"],
    );
    assert_eq!(done.code, 0, "{done:?}");
    let answer = done.json();
    assert!(close(
        number(&answer, "/projections/0/price/usd_per_hour"),
        0.25
    ));
    assert!(close(
        number(&answer, "/projections/0/fit/memory_bytes"),
        1e9
    ));
}
