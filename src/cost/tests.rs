use super::*;
use crate::op::Case;
use crate::protocol::{Device, RunnerInfo, Timer};
use crate::report::{ChipRecord, Energy, Regime, Times, Verification, empty, unmeasured};

/// Two layers of width 64, for sums that a person can do.
fn model() -> Model {
    Model {
        name: "Tiny".to_owned(),
        source: String::new(),
        layers: 2,
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        feed_forward: 96,
        gated: true,
        vocabulary: 256,
        tied_embedding: false,
        experts: None,
    }
}

fn question() -> Question {
    Question {
        model: model(),
        dtype: Dtype::F16,
        phases: vec![
            Phase::Prefill { tokens: 8 },
            Phase::Decode {
                batch: 4,
                context: 32,
            },
        ],
        request: None,
        runner: None,
    }
}

fn times(seconds: f64) -> Times {
    Times {
        median: seconds,
        ci95_low: seconds * 0.5,
        ci95_high: seconds * 2.0,
        ..Times::default()
    }
}

fn verification() -> Verification {
    Verification {
        method: String::new(),
        data: "uniform".to_owned(),
        exact: false,
        max_error: 0.0,
        rms_error: 0.0,
        tolerance: 1.0,
        error_to_tolerance_max: 0.0,
        positions_checked: 1,
        rows_checked: 1,
        challenge_seed: 1,
    }
}

fn outcome(case: &Case, seconds: f64) -> Outcome {
    let mut outcome = unmeasured(case, "wgpu", OutcomeStatus::Measured, String::new());
    outcome.reason = None;
    outcome.kernel = Some("k".to_owned());
    outcome.time_s = Some(times(seconds));
    outcome.energy = Some(Energy {
        joules: seconds * 1000.0,
        window_s: 2.0,
        ..Energy::default()
    });
    outcome
}

/// A report in which part number `i` of the prefill took `2^i` milliseconds, and of the decode step
/// as many hundredths of them, all of it `factor` times.
fn subject(factor: f64, device: &str, pci_id: &str) -> Subject {
    let mut report = empty();
    let question = question();
    for (phase, unit) in question.phases.iter().zip([1e-3, 1e-5]) {
        let parts = question.model.parts(*phase, Dtype::F16).unwrap();
        for (place, part) in parts.iter().enumerate() {
            let seconds = f64::from(1 << place) * unit * factor;
            report.outcomes.push(outcome(&part.case, seconds));
        }
    }
    let device = Device {
        name: device.to_owned(),
        device_type: "discrete_gpu".to_owned(),
        pci_id: Some(pci_id.to_owned()),
        ..Device::default()
    };
    report.device = device.clone();
    report.runners.push(RunnerRecord {
        runner: RunnerInfo {
            name: "wgpu".to_owned(),
            version: "1".to_owned(),
        },
        device,
        timer: Timer {
            clock: "device".to_owned(),
            quantum_s: 1e-9,
            period_s: None,
            note: None,
        },
    });
    Subject {
        name: format!("{factor}.json"),
        report,
        paid: None,
        chip_id: None,
    }
}

fn h100(factor: f64) -> Subject {
    subject(factor, "NVIDIA H100 80GB HBM3", "10de:2330")
}

fn answered(question: &Question, subjects: &[Subject]) -> Answer {
    answer(question, subjects, &Chips::built_in().unwrap()).unwrap()
}

fn close(left: f64, right: f64) -> bool {
    (left / right - 1.0).abs() < 1e-12
}

#[test]
fn a_projection_is_the_sum_that_a_person_would_do() {
    let mut subject = h100(1.0);
    subject.paid = Some(PriceRecord::given(3.6));
    let answer = answered(&question(), &[subject]);
    let [prefill, decode] = &answer.projections[..] else {
        panic!("{:?}", answer.refused)
    };
    // Two layers of 1 + 2 + 4 + 8 + 16 ms and a head of 32 ms are 94 ms for 8 tokens.
    assert!(close(prefill.time_s.value, 0.094));
    assert!(close(prefill.tokens_per_second.value, 8.0 / 0.094));
    // 3.6 dollars an hour are a thousandth of a dollar a second: 0.094 s cost 94 millionths, and a
    // million tokens 125 000 times as much.
    assert!(close(prefill.usd_per_million_tokens.unwrap().value, 11.75));
    // The times may be half or twice as much.
    assert!(close(
        prefill.usd_per_million_tokens.unwrap().low,
        11.75 / 2.0
    ));
    assert!(close(
        prefill.usd_per_million_tokens.unwrap().high,
        11.75 * 2.0
    ));
    assert!(close(prefill.tokens_per_second.low, 4.0 / 0.094));
    // A thousand joules a second.
    assert!(close(prefill.joules_per_token.unwrap(), 94.0 / 8.0));
    // A hundredth of that for 4 tokens.
    assert!(close(decode.time_s.value, 0.000_94));
    assert!(close(decode.tokens_per_second.value, 4.0 / 0.000_94));
    assert!(close(decode.usd_per_million_tokens.unwrap().value, 0.235));
    // 2 layers of (64 + 64) * 64 + 64 * 64 + 3 * 96 * 64 = 30 720 weights and norms of 2 * 64, an
    // embedding and a head of 256 * 64 and a norm of 64; keys and values of 4 * 32 tokens.
    let parameters = 2 * (30_720 + 128) + 2 * 16_384 + 64;
    assert_eq!(answer.parameter_count, parameters);
    assert_eq!(decode.fit.weight_bytes, 2 * parameters);
    assert_eq!(decode.fit.kv_bytes, 4 * 32 * 2 * 2 * 2 * 16 * 2);
    assert_eq!(decode.fit.device_count, Some(1));
    // And to the last digit that is printed.
    let text = answer.text();
    for line in [
        "85.11 [42.55, 170.2]",
        "11.75 [5.875, 23.50]",
        "0.2350 [0.1175, 0.4700]",
        "11.75\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn two_chips_break_even_where_their_tokens_cost_the_same() {
    let mut cheap = subject(2.0, "NVIDIA L4", "10de:27b8");
    cheap.paid = Some(PriceRecord::given(0.7));
    let mut dear = h100(0.5);
    dear.paid = Some(PriceRecord::given(4.0));
    let answer = answered(&question(), &[cheap, dear]);
    let even = |index: usize| {
        let mut found = answer.break_even.iter();
        found
            .find(|even| even.report_index == index && even.what == "prefill 8")
            .unwrap()
    };
    // The slow one takes four times as long, so a quarter of 4 dollars makes it equal.
    assert!(close(even(0).usd_per_hour.value, 1.0));
    assert!(close(even(0).usd_per_hour.low, 1.0 / 4.0));
    assert!(close(even(0).usd_per_hour.high, 4.0));
    assert_eq!(even(0).actual_usd_per_hour, Some(0.7));
    assert!(close(even(1).usd_per_hour.value, 2.8));
    assert_eq!(answer.break_even.len(), 4);
}

#[test]
fn a_request_is_its_prompt_and_its_share_of_every_step() {
    let mut subject = h100(1.0);
    subject.paid = Some(PriceRecord::given(3.6));
    let mut question = question();
    question.request = Some((8, 100));
    let answer = answered(&question, &[subject]);
    let [request] = &answer.requests[..] else {
        panic!()
    };
    // 94 ms, and a hundred steps of 0.94 ms of which four share each.
    assert!(close(request.device_s.value, 0.094 + 0.0235));
    assert!(close(request.usd_per_thousand.unwrap().value, 0.1175));
}

#[test]
fn what_is_not_measured_is_refused_by_name_and_not_guessed() {
    let mut lacking = h100(1.0);
    let place = 2;
    let id = lacking.report.outcomes[place].case_id.clone();
    lacking.report.outcomes[place].status = OutcomeStatus::Implausible;
    lacking.report.outcomes[place].reason = Some("too fast".to_owned());
    let answer = answered(&question(), &[lacking]);
    assert_eq!(answer.projections.len(), 1);
    assert_eq!(answer.refused[0].missing, [format!("{id}: too fast")]);
    answer.verdict().unwrap();
    let nothing = Subject {
        report: {
            let mut report = h100(1.0).report;
            report.outcomes.clear();
            report
        },
        ..h100(1.0)
    };
    let answer = answered(&question(), &[nothing]);
    assert_eq!(answer.refused[0].missing.len(), 6);
    let message = answer.verdict().unwrap_err().message;
    assert!(message.contains("it is not in the report"), "{message}");
    // A runner of which there is none.
    let mut other = question();
    other.runner = Some("torch".to_owned());
    assert!(super::answer(&other, &[h100(1.0)], &Chips::built_in().unwrap()).is_err());
}

#[test]
fn weights_come_from_memory_where_that_was_measured() {
    let mut subject = h100(1.0);
    for outcome in &mut subject.report.outcomes {
        let median = outcome.time_s.as_ref().unwrap().median;
        outcome.regimes.push(Regime {
            cache: "cold".to_owned(),
            data: "uniform".to_owned(),
            set_count: 2,
            time_s: times(median * 3.0),
            time_ratio: 3.0,
            differs: true,
            not_converged: None,
            verification: verification(),
        });
    }
    let answer = answered(&question(), &[subject]);
    assert!(close(answer.projections[0].time_s.value, 0.282));
    assert_eq!(answer.projections[0].shares[0].cache, "cold");
    assert!(!answer.text().contains("marked hot"));
    // Joules of hot calls are none of cold ones.
    assert_eq!(answer.projections[0].joules_per_token, None);
    assert_eq!(answer.projections[0].shares[0].joules, None);
    let reason = answer.projections[0].joules_reason.as_ref().unwrap();
    assert!(
        reason.contains("of hot calls, its time of cold ones"),
        "{reason}"
    );
    let text = answer.text();
    assert!(
        text.contains("no J/token: ") && text.contains(reason),
        "{text}"
    );
    assert!(answer.csv().unwrap().contains(reason));
}

#[test]
fn joules_of_cold_calls_go_with_cold_times_and_with_no_others() {
    let cold = |also_timed: bool| {
        let mut subject = h100(1.0);
        for outcome in &mut subject.report.outcomes {
            outcome.energy.as_mut().unwrap().cache = Some("cold".to_owned());
            let median = outcome.time_s.as_ref().unwrap().median;
            outcome.regimes.extend(also_timed.then(|| Regime {
                cache: "cold".to_owned(),
                data: "uniform".to_owned(),
                set_count: 2,
                time_s: times(median * 3.0),
                time_ratio: 3.0,
                differs: true,
                not_converged: None,
                verification: verification(),
            }));
        }
        answered(&question(), &[subject])
    };
    let answer = cold(true);
    assert!(close(
        answer.projections[0].joules_per_token.unwrap(),
        94.0 / 8.0
    ));
    assert_eq!(answer.projections[0].joules_reason, None);
    assert!(!answer.text().contains("no J/token"));
    assert_eq!(cold(false).projections[0].joules_per_token, None);
}

#[test]
fn one_part_without_energy_takes_it_from_the_phase_and_says_which() {
    let mut subject = h100(1.0);
    let outcome = &mut subject.report.outcomes[1];
    outcome.energy = None;
    outcome.energy_reason = Some("it was too late".to_owned());
    let id = outcome.case_id.clone();
    let answer = answered(&question(), &[subject]);
    assert_eq!(answer.projections[0].joules_per_token, None);
    let reason = answer.projections[0].joules_reason.clone().unwrap();
    assert_eq!(reason, format!("{id}: it was too late"));
    assert!(answer.projections[1].joules_per_token.is_some());
}

#[test]
fn a_model_that_does_not_fit_has_no_dollars_and_a_chip_without_a_price_neither() {
    let mut large = question();
    // 184 GB of weights on a chip of 86.
    large.model.layers = 3_000_000;
    let mut small = h100(1.0);
    small.paid = Some(PriceRecord::given(2.0));
    let answer = answered(&large, &[small]);
    let projection = &answer.projections[0];
    assert_eq!(projection.fit.device_count, Some(3));
    assert_eq!(projection.usd_per_million_tokens, None);
    assert!(
        projection
            .usd_reason
            .as_ref()
            .unwrap()
            .contains("3 devices")
    );
    assert!(answer.break_even.is_empty());
    let unknown = subject(1.0, "Some GPU", "10de:0001");
    let answer = answered(&question(), &[unknown]);
    assert!(
        answer.projections[0]
            .usd_reason
            .as_ref()
            .unwrap()
            .contains("--price")
    );
    assert_eq!(answer.projections[0].fit.device_count, None);
}

#[test]
fn a_price_of_the_catalogue_comes_with_its_date() {
    let answer = answered(&question(), &[h100(1.0)]);
    let price = answer.projections[0].price.as_ref().unwrap();
    assert!(
        price
            .as_of
            .as_ref()
            .is_some_and(|date| date.starts_with("2026-"))
    );
    assert!(answer.text().contains(&price.origin));
}

#[test]
fn the_suite_of_a_model_measures_what_its_projection_needs() {
    let question = question();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.toml");
    std::fs::write(&path, suite(&question).unwrap()).unwrap();
    let plan = crate::plan::plan(path.to_str().unwrap(), None).unwrap();
    for phase in &question.phases {
        for part in question.model.parts(*phase, Dtype::F16).unwrap() {
            assert!(plan.cases.iter().any(|case| case.id() == part.case.id()));
        }
    }
}

#[test]
fn the_price_that_a_report_was_made_with_holds_until_another_is_named() {
    let chips = Chips::built_in().unwrap();
    let mut named = h100(1.0);
    let price = |subject: &Subject| {
        let answer = answer(&question(), std::slice::from_ref(subject), &chips).unwrap();
        answer.projections[0].price.as_ref().unwrap().usd_per_hour
    };
    let listed = price(&named);
    let record = |usd: f64, confidence: Confidence| ChipRecord {
        id: "nvidia-h100-sxm5-80gb".to_owned(),
        name: String::new(),
        vendor: String::new(),
        by: "name".to_owned(),
        note: None,
        devices_per_chip: None,
        price: Some(PriceRecord {
            confidence,
            ..PriceRecord::given(usd)
        }),
    };
    // What the catalogue said when the report was made gives way to what it says now.
    named.report.chip = Some(record(77.0, Confidence::Secondary));
    assert!((price(&named) - listed).abs() < 1e-12);
    named.report.chip = Some(record(1.25, Confidence::User));
    assert!((price(&named) - 1.25).abs() < 1e-12);
    named.paid = Some(PriceRecord::given(2.0));
    assert!((price(&named) - 2.0).abs() < 1e-12);
}
