//! The measurement engine on a real adapter, given kernels and clocks that must not be believed.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

mod devices;

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chipmark::case::{Conditions, measure_case};
use chipmark::catalogue::{Kernel, kernels};
use chipmark::consistency::slower_than_simpler;
use chipmark::input::Data;
use chipmark::op::{Case, Dtype, OpName, Shape};
use chipmark::plan::RegimeName;
use chipmark::protocol::{FaultKind, PROTOCOL_VERSION, Request, Response, Variant, WhatIf};
use chipmark::report::{Outcome, OutcomeStatus, Tried};
use chipmark::runner::worker::WgpuRunner;
use chipmark::runner::{Conversation, Fault, InProcess};
use chipmark::telemetry::Sensors;
use chipmark::tune::{End, Session, Task};

/// Held by each test: what one of them times, another one's work would stretch.
static DEVICE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

const SILENCE: Duration = Duration::from_secs(60);

/// What a runner answers, changed on the way.
struct Tampered<F> {
    runner: InProcess,
    change: F,
}

impl<F: FnMut(&mut Response)> Conversation for Tampered<F> {
    fn ask(&mut self, request: &Request, timeout: Duration) -> Result<Response, Fault> {
        let mut response = self.runner.ask(request, timeout)?;
        (self.change)(&mut response);
        Ok(response)
    }
}

fn kernel(name: &str) -> Kernel {
    kernels().into_iter().find(|k| k.name == name).unwrap()
}

/// Measures `case` with nothing but `kernel`.
fn measured(
    kernel: Kernel,
    case: &Case,
    change: impl FnMut(&mut Response),
) -> Result<Outcome, End> {
    searched(vec![kernel], case, 3.0, change).0
}

/// Measures `case` with the best of these kernels, and tells what else was tried.
fn searched(
    kernels: Vec<Kernel>,
    case: &Case,
    budget_s: f64,
    change: impl FnMut(&mut Response),
) -> (Result<Outcome, End>, Vec<Tried>) {
    searched_and(kernels, case, budget_s, &[], change)
}

/// The same, and what is asked for beside the headline.
fn searched_and(
    kernels: Vec<Kernel>,
    case: &Case,
    budget_s: f64,
    regimes: &[RegimeName],
    change: impl FnMut(&mut Response),
) -> (Result<Outcome, End>, Vec<Tried>) {
    let mut runner = Tampered {
        runner: InProcess(Box::new(WgpuRunner::new(kernels))),
        change,
    };
    let hello = Request::Hello {
        protocol: PROTOCOL_VERSION,
        device: None,
        backend: None,
        checks: false,
    };
    let Ok(Response::Hello { timer, device, .. }) = runner.ask(&hello, SILENCE) else {
        panic!("the adapter does not open")
    };
    let mut session = Session::new(&mut runner, timer, SILENCE, &|| false);
    let task = Task {
        case,
        scout: case.clone(),
        seed: 5,
        budget_s: budget_s / 1.5,
        case_budget_s: budget_s,
        share_s: None,
        banned: &[],
        remembered: &[],
        remembered_of_all: true,
        pinned: false,
        device: &device,
        ceilings: &[],
        runner: "wgpu",
    };
    let sensors = Sensors::none("this is a test".to_owned());
    let mut conditions = Conditions {
        budget_s,
        checks: false,
        native: true,
        regimes,
        cold_bytes: Some(8 * case.tensor_bytes()),
        implausible: &|_| None,
        energy_window_s: 0.0,
        energy_until: None,
        sensors: &sensors,
        idle_power_w: None,
        launch_s: None,
        fault: None,
        watch: &mut |_| {},
    };
    let mut tried = Vec::new();
    let result = measure_case(&task, &mut session, &mut conditions, &mut tried);
    (result, tried)
}

fn case(op: OpName, sizes: &[(&str, u64)]) -> Case {
    Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap()
}

#[test]
fn a_probe_whose_work_a_compiler_has_seen_through_is_implausible() {
    let _alone = alone();
    if devices::adapters().is_empty() {
        return devices::skipped("a_probe_whose_work_a_compiler_has_seen_through_is_implausible");
    }
    // What a compiler clever enough would make of the chains: right to the last bit, and no work.
    let honest = kernel("probe/fma_f32");
    let loops = honest.source.find("    var sum = 0.0;").unwrap();
    let closed = format!(
        "{}    out[id.x] = f32(CHAINS) * start + f32(CHAINS * (CHAINS - 1u) / 2u) + f32(CHAINS) * f32(params.steps) * step * factor;\n}}\n",
        &honest.source[..loops]
    )
    .replace("let turns = params.steps / UNROLL;", "")
    .replace("let rest = params.steps % UNROLL;", "");
    let clever = Kernel {
        source: Cow::Owned(closed),
        ..honest.clone()
    };
    let chains = case(OpName::Fma, &[("invocations", 4_194_240), ("steps", 16)]);
    // Work that other programs do meanwhile can make the double look long; three times it does not.
    let reasons: Vec<Option<String>> = (0..3)
        .map(|_| measured(clever.clone(), &chains, |_| {}).unwrap())
        .inspect(|outcome| assert!(outcome.verification.is_some(), "{outcome:?}"))
        .map(|outcome| {
            outcome
                .reason
                .filter(|_| outcome.status == OutcomeStatus::Implausible)
        })
        .collect();
    assert!(
        reasons
            .iter()
            .flatten()
            .any(|reason| reason.contains("left out")),
        "{reasons:?}"
    );
}

#[test]
fn what_stands_beside_the_headline_is_timed_by_no_clock_that_it_gave_up() {
    let _alone = alone();
    if devices::adapters().is_empty() {
        return devices::skipped(
            "what_stands_beside_the_headline_is_timed_by_no_clock_that_it_gave_up",
        );
    }
    let product = case(OpName::Matmul, &[("m", 128), ("n", 128), ("k", 128)]);
    let slow_clock = |response: &mut Response| {
        if let Response::Samples { samples } = response {
            for span in samples {
                span.device_s = span.device_s.map(|device_s| device_s * 0.1);
            }
        }
    };
    let kernels = vec![kernel("matmul/naive")];
    let regimes = [RegimeName::Cold, RegimeName::Zero];
    let outcome = searched_and(kernels, &product, 7.0, &regimes, slow_clock).0;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.labels.unwrap().timer, "host_slope");
    assert!(!outcome.regimes.is_empty(), "{:?}", outcome.regimes_reason);
    // By the clock that was given up it would be a tenth.
    for regime in &outcome.regimes {
        assert!(regime.time_ratio > 0.3, "{regime:?}");
    }
}

#[test]
fn a_device_clock_that_returns_zeros_gives_way_to_the_hosts() {
    let _alone = alone();
    if devices::adapters().is_empty() {
        return devices::skipped("a_device_clock_that_returns_zeros_gives_way_to_the_hosts");
    }
    let product = case(OpName::Matmul, &[("m", 128), ("n", 128), ("k", 128)]);
    let zeros = |response: &mut Response| {
        if let Response::Samples { samples } = response {
            for span in samples {
                span.device_s = span.device_s.map(|_| 0.0);
            }
        }
    };
    let outcome = measured(kernel("matmul/naive"), &product, zeros).unwrap();
    assert_eq!(outcome.status, OutcomeStatus::Measured);
    assert_eq!(outcome.labels.unwrap().timer, "host_slope");
    let times = outcome.time_s.unwrap();
    assert!(times.median > 0.0);
    // Where there is a device clock at all, the report says why it is not used.
    assert_eq!(outcome.clock_note.is_some(), times.invalid_count > 0);
}

#[test]
fn a_search_times_every_kernel_and_none_that_is_simpler_beats_the_one_it_chooses() {
    let _alone = alone();
    if devices::adapters().is_empty() {
        return devices::skipped("a_search_times_every_kernel");
    }
    // Far apart on any device, so that other work on the machine does not change their order.
    let names = [
        "matmul/naive",
        "matmul/workgroup_tile",
        "matmul/register_tile",
    ];
    let square = case(OpName::Matmul, &[("m", 192), ("n", 192), ("k", 192)]);
    let (outcome, tried) = searched(names.map(kernel).into(), &square, 12.0, |_| {});
    let mut outcome = outcome.unwrap();
    for name in names {
        assert!(
            tried
                .iter()
                .any(|t| t.kernel == name && t.status == "timed"),
            "{name}: {tried:?}"
        );
    }
    outcome.tried = tried;
    assert_eq!(slower_than_simpler(&[outcome]), [""; 0]);
}

/// The answers of a fresh runner to these requests, after hello and a case of 64 rows with a sum of 64.
fn conversation(kernel_name: &str, requests: Vec<Request>) -> Vec<Response> {
    let mut runner = InProcess(Box::new(WgpuRunner::new(vec![
        kernel(kernel_name),
        kernel("probe/empty"),
    ])));
    let case = match kernel(kernel_name).op {
        OpName::Matmul => {
            let shape = Shape::of(&[("m", 64), ("n", 68), ("k", 64)]);
            Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap()
        }
        op => Case::new(op, &Shape::default(), Dtype::F32).unwrap(),
    };
    let first = [
        Request::Hello {
            protocol: PROTOCOL_VERSION,
            device: None,
            backend: None,
            checks: false,
        },
        Request::Case {
            case,
            seed: 7,
            data: Data::Uniform,
            set_count: 1,
        },
    ];
    let mut all = first
        .into_iter()
        .chain(requests)
        .map(|request| runner.ask(&request, SILENCE).unwrap());
    assert!(matches!(all.next(), Some(Response::Hello { .. })));
    assert!(matches!(all.next(), Some(Response::Variants { .. })));
    all.collect()
}

fn variant(name: &str) -> Variant {
    Variant {
        kernel: name.to_owned(),
        variant: chipmark::variant::combinations(&kernel(name))[0].clone(),
    }
}

#[test]
fn what_if_variants_run_and_compute_something_else_but_for_the_one_that_only_compiles_anew() {
    let _alone = alone();
    const NAME: &str = "matmul/register_tile";
    let everything = Request::Outputs {
        positions: Vec::new(),
        projection_seed: None,
        all: true,
        set_index: 0,
    };
    let what_ifs = [
        WhatIf::Cold,
        WhatIf::MathOnly,
        WhatIf::LoadsOnly,
        WhatIf::StoresOnly,
    ];
    let mut requests = vec![
        Request::Prepare {
            variant: variant(NAME),
        },
        everything.clone(),
    ];
    for what_if in what_ifs {
        requests.push(Request::WhatIf {
            variant: variant(NAME),
            what_if,
        });
        requests.push(Request::Measure {
            repeat_count: 2,
            sample_count: 1,
            poison: true,
        });
        requests.push(everything.clone());
    }
    // The kernel itself is as it was.
    requests.push(Request::Prepare {
        variant: variant(NAME),
    });
    requests.push(everything);
    let answers = conversation(NAME, requests);
    let values = |answer: &Response| match answer {
        Response::Outputs { values, .. } => values.clone(),
        other => panic!("{other:?}"),
    };
    let right = values(&answers[1]);
    assert_eq!(right.len(), 64 * 68);
    for (index, what_if) in what_ifs.into_iter().enumerate() {
        let [ready, samples, outputs] = &answers[2 + 3 * index..5 + 3 * index] else {
            panic!("three answers")
        };
        let Response::Ready { passes, .. } = ready else {
            panic!("{what_if:?}: {ready:?}")
        };
        let says = match what_if {
            WhatIf::Cold => "unlike any program",
            WhatIf::MathOnly => "loads come from few",
            WhatIf::LoadsOnly => "multiply-adds are left out",
            WhatIf::StoresOnly => "k is 1 instead of 64",
        };
        assert!(passes.last().unwrap().contains(says), "{passes:?}");
        assert!(matches!(samples, Response::Samples { .. }), "{samples:?}");
        let outputs = values(outputs);
        // All of it is written all the same.
        assert!(outputs.iter().all(|value| value.is_finite()), "{what_if:?}");
        assert_eq!(outputs == right, what_if == WhatIf::Cold, "{what_if:?}");
    }
    assert_eq!(values(answers.last().unwrap()), right);
}

#[test]
fn variants_that_were_built_side_by_side_compute_what_those_built_one_by_one_do() {
    let _alone = alone();
    const NAME: &str = "matmul/register_tile";
    let one = variant(NAME);
    let mut other = one.clone();
    other.variant.insert("DEPTH".to_owned(), 16);
    let mut misfit = one.clone();
    misfit.variant.insert("THREADS_X".to_owned(), 3);
    let everything = Request::Outputs {
        positions: Vec::new(),
        projection_seed: None,
        all: true,
        set_index: 0,
    };
    let prepare = |variant: &Variant| Request::Prepare {
        variant: variant.clone(),
    };
    let apart = conversation(NAME, vec![prepare(&one), everything.clone()]);
    let together = conversation(
        NAME,
        vec![
            Request::Build {
                variants: vec![
                    one.clone(),
                    Variant {
                        kernel: "matmul/nobody_has_this".to_owned(),
                        ..Variant::default()
                    },
                    misfit.clone(),
                    other.clone(),
                    one.clone(),
                ],
            },
            prepare(&one),
            everything.clone(),
            prepare(&other),
            everything,
            prepare(&misfit),
        ],
    );
    assert_eq!(together[0], Response::Built);
    for (ready, outputs) in [(1, 2), (3, 4)] {
        assert!(
            matches!(together[ready], Response::Ready { .. }),
            "{together:?}"
        );
        assert_eq!(together[outputs], apart[1]);
    }
    // Why it cannot be built is said to whoever wants it.
    assert!(
        matches!(together[5], Response::Error { .. }),
        "{together:?}"
    );
}

#[test]
fn what_cannot_be_taken_out_is_said_and_what_a_variant_takes_is_counted() {
    let _alone = alone();
    const NAME: &str = "matmul/register_tile";
    let of = |what_if| Request::WhatIf {
        variant: variant("probe/empty"),
        what_if,
    };
    let inspect = |name: &str| Request::Inspect {
        variant: variant(name),
    };
    let answers = conversation(
        "probe/empty",
        vec![
            of(WhatIf::LoadsOnly),
            of(WhatIf::StoresOnly),
            inspect("probe/empty"),
        ],
    );
    for (answer, needle) in answers.iter().zip(["multiply-adds", "shorter sum"]) {
        let Response::Error { kind, message } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(*kind, FaultKind::Unsupported);
        assert!(message.contains(needle), "{message}");
    }
    assert!(
        matches!(answers[2], Response::Inspected { .. }),
        "{answers:?}"
    );
    let answers = conversation(NAME, vec![inspect(NAME)]);
    let Response::Inspected { inspection } = &answers[0] else {
        panic!("{answers:?}")
    };
    assert_eq!(inspection.passes.len(), 1);
    let pass = &inspection.passes[0];
    let covered: u32 = pass.workgroup_count.iter().product();
    assert!(covered >= 1 && pass.register_count > 0 && pass.expression_count > 0);
    assert!(
        pass.padding > 0.0 && pass.padding < 1.0,
        "68 is no multiple of a tile: {pass:?}"
    );
    assert!(inspection.workgroup_bytes > 0);
    assert_ne!(
        inspection.driver_statistics.is_some(),
        inspection.driver_statistics_reason.is_some()
    );
}
