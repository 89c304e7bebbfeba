//! Every kernel on every adapter at hand, over awkward shapes, by the program itself.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

mod devices;

use std::process::{Command, Output};

use devices::{Adapter, adapters, skipped};

/// Attention at one head size each, with lengths that nothing divides: full, under a mask, at decode,
/// at decode over pages.
const ATTENTIONS: [&str; 4] = [
    "batch=1,heads=4,kv_heads=2,query_len=37,kv_len=53,head_dim=64",
    "batch=1,heads=4,kv_heads=2,query_len=37,kv_len=53,head_dim=64,causal=1",
    "batch=3,heads=8,kv_heads=2,query_len=1,kv_len=77,head_dim=128",
    "batch=3,heads=8,kv_heads=2,query_len=1,kv_len=77,head_dim=128,page=16",
];

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
                if index == 0 {
                    assert_right(adapter, &["--filter", "^(probe|transfer|matmul)/"]);
                    assert_right(adapter, &["--dtype", "f32", "--filter", "^attention/"]);
                    // What a head size changes in a kernel it changes in any type, and each costs the
                    // driver of a CPU seconds to compile.
                    for shape in ATTENTIONS {
                        let f16 = [
                            "--dtype",
                            "f16",
                            "--filter",
                            "^attention/",
                            "--shape",
                            shape,
                        ];
                        assert_right(adapter, &f16);
                    }
                    return;
                }
                // The other drivers: every probe and every kernel in f32; of the other dtypes what is
                // drawn.
                assert_right(adapter, &["--filter", "^(probe|transfer)/"]);
                let f32 = |filter| ["--dtype", "f32", "--filter", filter];
                assert_right(adapter, &f32("^matmul/"));
                if adapter.name.contains("SwiftShader") {
                    // It compiles some kernels of attention for ten seconds a head size.
                    assert_right(adapter, &f32("^attention/(naive|decode)"));
                    for shape in &ATTENTIONS[..2] {
                        let mut one = f32("^attention/flash").to_vec();
                        one.extend(["--shape", shape]);
                        assert_right(adapter, &one);
                    }
                } else {
                    assert_right(adapter, &f32("^attention/"));
                }
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
    let matmul = ["--checks", "--dtype", "f32", "--filter", "matmul"];
    assert_right(&adapter, &matmul);
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
    assert_right(&adapter, &["--random", "30"]);
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
