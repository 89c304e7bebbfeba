//! No kernel reads or writes beyond a buffer, not even what it then throws away: devices are opened
//! without the driver's checks (`src/hal.rs`), and nothing else would stop it.
//!
//! Each index into a buffer is led through a function that notes whether it lies beyond the end. Once one
//! did, all that the workgroup writes goes to element 0, so most of its output is never written, and that
//! is what verification sees: a read whose value is masked is caught too. What a workgroup reads after all
//! that it writes, or without writing anything, is not.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

mod devices;
mod twin;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use chipmark::audit::awkward_cases;
use chipmark::catalogue::{Engine, Kernel, kernels};
use chipmark::input::Data;
use chipmark::op::{Case, OpName, Shape};
use chipmark::protocol::{PROTOCOL_VERSION, Request, Response, Variant};

use chipmark::runner::worker::WgpuRunner;
use chipmark::runner::{Conversation, InProcess};
use chipmark::verify::{Challenge, Verdict, check, entropy, inputs};
use rayon::prelude::*;
use regex::Regex;
use twin::{TWINS, twin};

const SILENCE: Duration = Duration::from_secs(600);

/// How many cases a kernel is tried at, from the smallest of those that it runs to the last. The types make
/// no difference to indices.
const CASES: usize = 4;

/// And a broken one: not every size brings the mistake out.
const MUTANT_CASES: usize = 24;

/// Clamps that keep reads inside whose values are thrown away: kernel, what is replaced, and by what.
const MUTANTS: &[(&str, &str, &str)] = &[
    (
        "matmul/register_tile_vec4",
        "min(first_vector + piece % B_STRIDE, n_last)",
        "first_vector + piece % B_STRIDE",
    ),
    (
        "matmul/gemv",
        "min(first_column + j, params.n - 1u)",
        "(first_column + j)",
    ),
    (
        "attention/flash_tile",
        "let key = min(first + chunk + piece / V_VECTORS, kv_last);",
        "let key = first + chunk + piece / V_VECTORS;",
    ),
];

/// `text` with every index into `name` led through a function of that name.
fn led(text: &str, name: &str) -> String {
    let begin = Regex::new(&format!(r"(^|[^\w.]){name}\[")).unwrap();
    let mut text = text.to_owned();
    let mut from = 0;
    while let Some(found) = begin.find_at(&text, from) {
        let open = found.end();
        let mut depth = 1;
        let inside = &text[open..];
        let length = inside.find(|letter| {
            depth += i32::from(letter == '[') - i32::from(letter == ']');
            depth == 0
        });
        let close = open + length.unwrap();
        text.insert(close, ')');
        let call = format!("place_in_{name}(");
        text.insert_str(open, &call);
        from = open + call.len();
    }
    text
}

/// The kernel with its indices watched.
fn watched(kernel: &Kernel) -> Kernel {
    let source = kernel.source.to_string();
    let buffers = Regex::new(r"var<storage, (read|read_write)> (\w+): array<").unwrap();
    let mut text = source.clone();
    let mut functions = "\nvar<workgroup> beyond: atomic<u32>;\n".to_owned();
    let mut count = 0;
    for found in buffers.captures_iter(&source) {
        let (access, name) = (&found[1], &found[2]);
        text = led(&text, name);
        let place = match access {
            "read" => "index",
            _ => "select(index, 0u, atomicLoad(&beyond) != 0u)",
        };
        writeln!(
            functions,
            "fn place_in_{name}(index: u32) -> u32 {{
    if (index >= arrayLength(&{name})) {{
        atomicStore(&beyond, 1u);
    }}
    return {place};
}}"
        )
        .unwrap();
        count += 1;
    }
    assert!(count > 0, "{}", kernel.name);
    Kernel {
        source: Cow::Owned(text + &functions),
        ..kernel.clone()
    }
}

/// The kernel's smallest variant at this case, which is the runner's from then on; none where it does not
/// run it. The driver of a CPU compiles a small one several times as fast.
fn variant(runner: &mut InProcess, case: &Case, seed: u32) -> Option<Variant> {
    let request = Request::Case {
        case: case.clone(),
        seed,
        data: Data::Uniform,
        set_count: 1,
    };
    let Ok(Response::Variants { variants, .. }) = runner.ask(&request, SILENCE) else {
        return None;
    };
    let size = |variant: &Variant| variant.variant.values().map(|&v| v.max(1)).product::<u32>();
    variants.into_iter().min_by_key(size)
}

/// What verification says of the kernel at a case that it runs.
fn verdict(runner: &mut InProcess, kernel: &Kernel, case: &Case) -> Verdict {
    let seed = entropy();
    let variant = variant(runner, case, seed).unwrap();
    let ready = runner.ask(&Request::Prepare { variant }, SILENCE).unwrap();
    assert!(
        matches!(ready, Response::Ready { .. }),
        "{} {}: {ready:?}",
        kernel.name,
        case.id()
    );
    let inputs = inputs(case, seed, &Data::Uniform).unwrap();
    let challenge = Challenge {
        seed: entropy(),
        set_index: 0,
        output: None,
    };
    check(runner, case, &inputs, &Data::Uniform, challenge, SILENCE).unwrap()
}

/// A runner of this kernel alone. With checks workgroup memory begins with zeros.
fn runner(kernel: &Kernel) -> InProcess {
    let mut runner = InProcess(Box::new(WgpuRunner::new(vec![kernel.clone()])));
    let hello = Request::Hello {
        protocol: PROTOCOL_VERSION,
        device: None,
        backend: None,
        checks: true,
    };
    let answer = runner.ask(&hello, SILENCE);
    assert!(matches!(answer, Ok(Response::Hello { .. })), "{answer:?}");
    runner
}

/// Cases from all that the kernel runs, and what comes of them.
fn verdicts(kernel: &Kernel, count: usize) -> Vec<(Case, Verdict)> {
    let mut runner = runner(kernel);
    let dtype = kernel.dtypes[0];
    let mut cases = awkward_cases(&[dtype]).unwrap();
    // Whole tiles, and k long enough to be split, which no awkward case has with B in rows of k.
    for (m, n, k) in [(128, 192, 80), (100, 72, 1100)] {
        for trans_b in [0, 1] {
            let sizes = [
                ("m", m),
                ("n", n),
                ("k", k),
                ("batch", 2),
                ("trans_b", trans_b),
            ];
            cases.extend(Case::new(OpName::Matmul, &Shape::of(&sizes), dtype));
        }
    }
    cases.retain(|case| case.op == kernel.op && variant(&mut runner, case, 1).is_some());
    let last = cases.len().saturating_sub(1);
    let mut chosen: Vec<usize> = (0..count).map(|n| n * last / (count - 1)).collect();
    chosen.dedup();
    (chosen.into_iter().take(cases.len()))
        .map(|index| {
            let case = cases[index].clone();
            let verdict = verdict(&mut runner, kernel, &case);
            (case, verdict)
        })
        .collect()
}

/// Whether the first adapter has what all kernels together need but matrix units.
fn can_run() -> bool {
    let all = chipmark::gpu::enumerate(None);
    all.first().is_some_and(|first| {
        let has = |name: &&str| first.device.features.iter().any(|feature| feature == name);
        first.device.backend == "vulkan"
            && ["subgroup", "shader_f16", "shader_int64"].iter().all(has)
    })
}

#[test]
fn every_index_into_a_buffer_lies_inside() {
    if !can_run() {
        return devices::skipped("every_index_into_a_buffer_lies_inside");
    }
    let seen: usize = kernels()
        .into_par_iter()
        .map(|kernel| {
            let kernel = match kernel.engine {
                Engine::Matrix if kernel.op == OpName::MatrixFma => return 0,
                Engine::Matrix => twin(&kernel, TWINS[0]),
                _ => kernel,
            };
            let verdicts = verdicts(&watched(&kernel), CASES);
            assert!(!verdicts.is_empty(), "{} ran at no case", kernel.name);
            for (case, verdict) in &verdicts {
                assert!(
                    matches!(verdict, Verdict::Right(_)),
                    "{} at {}: {verdict:?}",
                    kernel.name,
                    case.id()
                );
            }
            verdicts.len()
        })
        .sum();
    assert!(seen > 100, "{seen}");
}

#[test]
fn a_read_beyond_the_end_is_seen_even_if_nothing_comes_of_it() {
    if !can_run() {
        return devices::skipped("a_read_beyond_the_end_is_seen");
    }
    for (name, from, to) in MUTANTS {
        let mut kernel = kernels().into_iter().find(|k| k.name == *name).unwrap();
        assert_eq!(kernel.source.matches(from).count(), 1, "{name}");
        kernel.source = Cow::Owned(kernel.source.replace(from, to));
        let right = |(_, verdict): &(Case, Verdict)| matches!(verdict, Verdict::Right(_));
        let plain = verdicts(&kernel, MUTANT_CASES);
        assert!(plain.iter().all(right), "{name}: {plain:?}");
        let watched = verdicts(&watched(&kernel), MUTANT_CASES);
        assert!(!watched.iter().all(right), "{name}: nothing was seen");
    }
}
