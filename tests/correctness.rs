//! Every kernel on every adapter at hand, over awkward shapes, by the program itself.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

mod devices;

use std::process::{Command, Output};

use devices::{Adapter, adapters, skipped};

/// Attention at one head size each, with lengths that nothing divides: full, at decode, at decode over
/// pages.
const ATTENTIONS: [&str; 3] = [
    "batch=1,heads=4,kv_heads=2,query_len=37,kv_len=53,head_dim=64",
    "batch=3,heads=8,kv_heads=2,query_len=1,kv_len=77,head_dim=128",
    "batch=3,heads=8,kv_heads=2,query_len=1,kv_len=77,head_dim=128,page=16",
];

/// Attention under a mask, at one head size and shorter ones that it is padded from: with more keys
/// than queries, as many, and fewer.
const MASKED: [&str; 3] = [
    "batch=1,heads=4,kv_heads=2,query_len=37,kv_len=53,head_dim=64,causal=1",
    "batch=2,heads=2,kv_heads=2,query_len=70,kv_len=70,head_dim=40,causal=1",
    "batch=1,heads=3,kv_heads=1,query_len=33,kv_len=9,head_dim=13,causal=1",
];

/// Kernels of attention whose name does not end in `_causal`.
const UNMASKED: &str = "^attention/.*([^l]|[^a]l)$";

fn verify(adapter: &Adapter, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chipmark"))
        .args(["verify", "--backend", &adapter.backend])
        .args(arguments)
        .envs(
            adapter
                .environment
                .iter()
                .map(|(name, value)| (*name, value)),
        )
        .output()
        .unwrap()
}

fn assert_right(adapter: &Adapter, arguments: &[&str]) {
    let output = verify(adapter, arguments);
    let text = format!(
        "{} {arguments:?}\n{}{}",
        adapter.name,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("right"), "nothing was verified: {text}");
}

#[test]
fn every_kernel_is_right_on_every_adapter() {
    let adapters = adapters();
    if adapters.is_empty() {
        return skipped("every_kernel_is_right_on_every_adapter");
    }
    // Side by side: most of the time is one thread of one driver compiling.
    std::thread::scope(|scope| {
        for (index, adapter) in adapters.iter().enumerate() {
            eprintln!("verifying on {}", adapter.name);
            scope.spawn(move || {
                // What a head size changes in a kernel it changes in any type, under a mask and on any
                // driver, and each costs the driver of a CPU seconds to compile: all of them on one
                // adapter, in f32, without a mask.
                let at = |dtype, filter, shapes: &[&str]| {
                    for shape in shapes {
                        let one = ["--dtype", dtype, "--filter", filter, "--shape", shape];
                        assert_right(adapter, &one);
                    }
                };
                let f32 = |filter| assert_right(adapter, &["--dtype", "f32", "--filter", filter]);
                at("f32", "^attention/.*_causal$", &MASKED);
                if index == 0 {
                    assert_right(adapter, &["--filter", "^(probe|transfer|matmul)/"]);
                    f32(UNMASKED);
                    at("f16", "^attention/", &ATTENTIONS);
                    at("f16", "^attention/", &MASKED[..1]);
                    return;
                }
                // The other drivers: every probe and every kernel in f32; of the other dtypes what is
                // drawn.
                assert_right(adapter, &["--filter", "^(probe|transfer)/"]);
                f32("^matmul/");
                f32("^attention/(naive|decode)");
                at("f32", "^attention/flash", &ATTENTIONS[..1]);
                assert_right(adapter, &["--random", "15", "--filter", "^matmul/"]);
            });
        }
    });
}

#[test]
fn kernels_are_right_with_checks_on_and_in_process() {
    let Some(adapter) = adapters().into_iter().next() else {
        return skipped("kernels_are_right_with_checks_on_and_in_process");
    };
    assert_right(&adapter, &["--checks", "--filter", "probe|naive"]);
    let shape = "m=67,n=132,k=41";
    let matmul = ["--checks", "--dtype", "f32", "--filter", "matmul"];
    assert_right(&adapter, &[&matmul[..], &["--shape", shape]].concat());
    assert_right(
        &adapter,
        &["--in-process", "--filter", "matmul/(naive|register_tile)$"],
    );
}

#[test]
fn every_kernel_is_right_on_shapes_that_nobody_thought_of() {
    let Some(adapter) = adapters().into_iter().next() else {
        return skipped("every_kernel_is_right_on_shapes_that_nobody_thought_of");
    };
    assert_right(&adapter, &["--random", "12"]);
}

#[test]
fn every_matmul_variant_is_right_at_a_shape_that_nothing_divides() {
    let Some(adapter) = adapters().into_iter().next() else {
        return skipped("every_matmul_variant_is_right_at_a_shape_that_nothing_divides");
    };
    assert_right(
        &adapter,
        &[
            "--all-variants",
            "--filter",
            "matmul",
            "--shape",
            "m=67,n=132,k=41",
        ],
    );
}

#[test]
fn the_host_is_right_without_any_adapter() {
    let output = Command::new(env!("CARGO_BIN_EXE_chipmark"))
        .args(["verify", "--runner", "host"])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
