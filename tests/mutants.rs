//! Broken kernels that verification must catch. A check that lets one of these pass checks nothing.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

mod devices;

use std::borrow::Cow;
use std::time::Duration;

use chipmark::catalogue::{Feature, Kernel, Tunable, kernels};
use chipmark::input::Data;
use chipmark::op::{Case, OpName, Shape};
use chipmark::protocol::{PROTOCOL_VERSION, Request, Response};
use chipmark::runner::worker::WgpuRunner;
use chipmark::runner::{Conversation, InProcess};
use chipmark::shader::needs_f16;
use chipmark::verify::{Challenge, Verdict, check, entropy, inputs};

const SILENCE: Duration = Duration::from_secs(60);

/// One deliberate mistake: the text that is replaced must stand in the source exactly once.
struct Mutant {
    what: &'static str,
    kernel: &'static str,
    from: &'static str,
    to: &'static str,
    shape: &'static [(&'static str, u64)],
}

const ODD: &[(&str, u64)] = &[("m", 65), ("n", 67), ("k", 129)];
const DEEP: &[(&str, u64)] = &[("m", 33), ("n", 36), ("k", 2048)];
const PANELS: &[(&str, u64)] = &[("batch", 2), ("m", 35), ("n", 36), ("k", 28)];
const HEADS: &[(&str, u64)] = &[
    ("heads", 4),
    ("kv_heads", 2),
    ("query_len", 33),
    ("kv_len", 65),
    ("head_dim", 40),
];
const MASKED: &[(&str, u64)] = &[
    ("heads", 4),
    ("kv_heads", 2),
    ("query_len", 33),
    ("kv_len", 65),
    ("head_dim", 40),
    ("causal", 1),
];

const CHAINS: &[(&str, u64)] = &[("invocations", 1000), ("steps", 37)];
const LONG_CHAINS: &[(&str, u64)] = &[("invocations", 70), ("steps", 2049)];
const BLOCKS: &[(&str, u64)] = &[("blocks", 7), ("steps", 5)];
const ONE_BLOCK: &[(&str, u64)] = &[("blocks", 1), ("steps", 1)];
const LONG_BLOCKS: &[(&str, u64)] = &[("blocks", 3), ("steps", 391)];

/// Mistakes in kernels for matrix units, tried with the products spelt out.
const MATRIX_MUTANTS: &[Mutant] = &[
    Mutant {
        what: "the last pair of steps is left out",
        kernel: "probe/matrix_f16",
        from: "pair < steps / 2u;",
        to: "pair + 1u < steps / 2u;",
        shape: BLOCKS,
    },
    Mutant {
        what: "the odd step is left out",
        kernel: "probe/matrix_f16",
        from: "steps % 2u == 1u",
        to: "steps % 2u == 2u",
        shape: BLOCKS,
    },
    Mutant {
        what: "all blocks are computed from the last one's factors",
        kernel: "probe/matrix_f16",
        from: "min(first + i, last)",
        to: "max(first + i, last)",
        shape: BLOCKS,
    },
    Mutant {
        what: "the last block is never written",
        kernel: "probe/matrix_8x8_f16",
        from: "first + block <= last",
        to: "first + block < last",
        shape: BLOCKS,
    },
    Mutant {
        what: "a tile is multiplied by the wrong column of tiles",
        kernel: "probe/matrix_8x8_f32",
        from: "let row = i / SIDE * SIDE;\n                    sum[i] = coopMultiplyAdd(factor[row + k], odd[k * SIDE + i % SIDE]",
        to: "let row = i / SIDE * SIDE;\n                    sum[i] = coopMultiplyAdd(factor[row + k], odd[k * SIDE]",
        shape: BLOCKS,
    },
    Mutant {
        what: "half precision counts further than it can",
        kernel: "probe/matrix_f16_f16",
        from: "const FOLD = 192u;",
        to: "const FOLD = 100000u;",
        shape: &[("blocks", 3), ("steps", 2001)],
    },
    Mutant {
        what: "what was counted is handed over and kept as well",
        kernel: "probe/matrix_8x8_f16_f16",
        from: "            for (var i = 0u; i < ACCUMULATORS; i++) {\n                sum[i] = MatrixC();\n            }",
        to: "",
        shape: LONG_BLOCKS,
    },
];

/// Three products, of nothing round.
const STACK: &[(&str, u64)] = &[("batch", 3), ("m", 5), ("n", 7), ("k", 9)];

const MUTANTS: &[Mutant] = &[
    Mutant {
        what: "the loop over k ends one early",
        kernel: "matmul/naive",
        from: "i < params.k;",
        to: "i + 1u < params.k;",
        shape: ODD,
    },
    Mutant {
        what: "the last row is never written",
        kernel: "matmul/naive",
        from: "row >= params.m",
        to: "row + 1u >= params.m",
        shape: ODD,
    },
    Mutant {
        what: "the last column is never written",
        kernel: "matmul/naive",
        from: "column >= params.n",
        to: "column + 1u >= params.n",
        shape: ODD,
    },
    Mutant {
        what: "B is read with the stride of A",
        kernel: "matmul/naive",
        from: "i * params.b_down",
        to: "min(i * params.k, (params.k - 1u) * params.b_down)",
        shape: ODD,
    },
    Mutant {
        what: "every product of a batch is the first",
        kernel: "matmul/naive",
        from: "let b_first = id.z * params.n * params.k + ",
        to: "let b_first = ",
        shape: STACK,
    },
    Mutant {
        what: "a tile forgets which product of the batch it belongs to",
        kernel: "matmul/register_tile",
        from: "let a_first = group.z * params.m * params.k;",
        to: "let a_first = 0u;",
        shape: STACK,
    },
    Mutant {
        what: "sums are kept in half precision",
        kernel: "matmul/naive",
        from: "sum = fma(Sum(a[a_first + i]), Sum(b[b_first + i * params.b_down]), sum);",
        to: "sum = quantizeToF16(fma(Sum(a[a_first + i]), Sum(b[b_first + i * params.b_down]), sum));",
        shape: DEEP,
    },
    Mutant {
        what: "sums lose their last bits",
        kernel: "matmul/naive",
        from: "c[(id.z * params.m + row) * params.n + column] = sum;",
        to: "c[(id.z * params.m + row) * params.n + column] = bitcast<f32>(bitcast<u32>(sum) & 0xffff0000u);",
        shape: ODD,
    },
    Mutant {
        what: "one element of the output is off",
        kernel: "matmul/naive",
        from: "c[(id.z * params.m + row) * params.n + column] = sum;",
        to: "c[(id.z * params.m + row) * params.n + column] = sum + select(0.0, 1.0, row == 11u && column == 13u);",
        shape: ODD,
    },
    Mutant {
        what: "operands of one position are swapped",
        kernel: "matmul/naive",
        from: "c[(id.z * params.m + row) * params.n + column] = sum;",
        to: "c[(id.z * params.m + row) * params.n + (column ^ select(0u, 1u, row == 2u && column < 2u))] = sum;",
        shape: ODD,
    },
    Mutant {
        what: "a barrier is missing",
        kernel: "matmul/workgroup_tile",
        from: "        b_tile[local.y * TILE + local.x] = b_value;\n        workgroupBarrier();",
        to: "        b_tile[local.y * TILE + local.x] = b_value;",
        shape: ODD,
    },
    Mutant {
        what: "the last panel is left out",
        kernel: "matmul/subgroup_panel",
        from: "first < whole; first += DEPTH",
        to: "first + DEPTH < whole; first += DEPTH",
        shape: PANELS,
    },
    Mutant {
        what: "a row gets the products of the row before",
        kernel: "matmul/subgroup_panel",
        from: "let a_value = subgroupShuffle(a_part[q], r);",
        to: "let a_value = subgroupShuffle(a_part[q], max(r, 1u) - 1u);",
        shape: PANELS,
    },
    Mutant {
        what: "the halves of a word are swapped",
        kernel: "matmul/subgroup_panel_u64",
        from: "vec4(low.x, high.x, low.y, high.y)",
        to: "vec4(high.x, low.x, high.y, low.y)",
        shape: PANELS,
    },
    Mutant {
        what: "a product of the batch is that of the first B",
        kernel: "matmul/subgroup_panel_u64",
        from: "let b_first = group.z * params.k * n;",
        to: "let b_first = 0u;",
        shape: PANELS,
    },
    Mutant {
        what: "the sum is not corrected to a new maximum",
        kernel: "attention/flash_panel",
        from: "sum[j * HEAD_DIM + i * 4u + c] *= correction[j];",
        to: "sum[j * HEAD_DIM + i * 4u + c] *= 1.0;",
        shape: HEADS,
    },
    Mutant {
        what: "the last block of keys counts its padding",
        kernel: "attention/flash_panel",
        from: "select(0.0, weight, first + b < count)",
        to: "weight",
        shape: HEADS,
    },
    Mutant {
        what: "a query sees a key too many",
        kernel: "attention/flash_panel_causal",
        from: "select(0.0, weight, first + b < seen[j])",
        to: "select(0.0, weight, first + b <= seen[j])",
        shape: MASKED,
    },
    Mutant {
        what: "values of words are taken for those of the neighbouring word",
        kernel: "attention/flash_panel_u64",
        from: "let low = vec2(u32(words.x), u32(words.y));",
        to: "let low = vec2(u32(words.y), u32(words.x));",
        shape: HEADS,
    },
    Mutant {
        what: "keys of another head are read where heads share them",
        kernel: "attention/flash_panel_u64_causal",
        from: "let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);",
        to: "let kv_head = batch_head % params.kv_heads;",
        shape: MASKED,
    },
    Mutant {
        what: "keys beyond the mask are seen",
        kernel: "attention/naive",
        from: "select(0u, end - params.query_len, end > params.query_len)",
        to: "min(select(0u, end - params.query_len, end > params.query_len) + 1u, params.kv_len)",
        shape: MASKED,
    },
    Mutant {
        what: "scores are scaled twice",
        kernel: "attention/flash_tile",
        from: "(params.scale * LOG2_E)",
        to: "(params.scale * params.scale * LOG2_E)",
        shape: HEADS,
    },
    Mutant {
        what: "the sum is not corrected to a new maximum",
        kernel: "attention/flash",
        from: "sum[j * PIECES + i] *= correction;",
        to: "sum[j * PIECES + i] *= 1.0;",
        shape: HEADS,
    },
    Mutant {
        what: "the last block of keys counts its padding",
        kernel: "attention/flash",
        from: "score[j * BLOCK + b] = select(0.0, weight, first + b < count);",
        to: "score[j * BLOCK + b] = weight;",
        shape: HEADS,
    },
    Mutant {
        what: "query heads read the wrong key head",
        kernel: "attention/flash",
        from: "let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);",
        to: "let kv_head = batch_head % params.kv_heads;",
        shape: HEADS,
    },
    Mutant {
        what: "a step of the chain is left out",
        kernel: "probe/fma_f32",
        from: "let rest = params.steps % UNROLL;",
        to: "let rest = max(params.steps % UNROLL, 1u) - 1u;",
        shape: &[("invocations", 1000), ("steps", 37)],
    },
    Mutant {
        what: "a step of the chain is left out",
        kernel: "probe/fma_f32_vec4",
        from: "let rest = params.steps % UNROLL;",
        to: "let rest = max(params.steps % UNROLL, 1u) - 1u;",
        shape: CHAINS,
    },
    Mutant {
        what: "a chain of four is summed without its last",
        kernel: "probe/fma_f32_vec4",
        from: "(sum.z + sum.w)",
        to: "sum.z",
        shape: CHAINS,
    },
    Mutant {
        what: "a step of the chain is left out",
        kernel: "probe/fma_f16_vec2",
        from: "let rest = count % UNROLL;",
        to: "let rest = max(count % UNROLL, 1u) - 1u;",
        shape: CHAINS,
    },
    Mutant {
        what: "half precision counts further than it can",
        kernel: "probe/fma_f16_vec2",
        from: "const FOLD = 256u;",
        to: "const FOLD = 4096u;",
        shape: LONG_CHAINS,
    },
    Mutant {
        what: "what was counted is handed over and kept as well",
        kernel: "probe/fma_f16_vec4",
        from: "z[i] = nothing;",
        to: "z[i] += nothing;",
        shape: LONG_CHAINS,
    },
    Mutant {
        what: "a step of the chain is left out",
        kernel: "probe/fma_f16_vec4",
        from: "let rest = count % UNROLL;",
        to: "let rest = max(count % UNROLL, 1u) - 1u;",
        shape: CHAINS,
    },
    Mutant {
        what: "a step of the chain is left out",
        kernel: "probe/fma_i32",
        from: "let rest = params.steps % UNROLL;",
        to: "let rest = max(params.steps % UNROLL, 1u) - 1u;",
        shape: CHAINS,
    },
    Mutant {
        what: "the last invocation writes nothing",
        kernel: "probe/fma_i32",
        from: "id.x >= params.invocations",
        to: "id.x + 1u >= params.invocations",
        shape: CHAINS,
    },
    Mutant {
        what: "a step of the chain is left out",
        kernel: "probe/fma_i32_vec4",
        from: "let rest = params.steps % UNROLL;",
        to: "let rest = max(params.steps % UNROLL, 1u) - 1u;",
        shape: CHAINS,
    },
    Mutant {
        what: "a step of the chain is left out",
        kernel: "probe/dot4_i8",
        from: "let rest = params.steps % UNROLL;",
        to: "let rest = max(params.steps % UNROLL, 1u) - 1u;",
        shape: CHAINS,
    },
    Mutant {
        what: "one of the four bytes does not count",
        kernel: "probe/dot4_i8",
        from: "let weights = params.weights;",
        to: "let weights = params.weights & 0x00ffffffu;",
        shape: CHAINS,
    },
    Mutant {
        what: "a byte is taken from the wrong place",
        kernel: "probe/dot4_i8",
        from: "8u * (id.x % 4u)",
        to: "8u * (id.x % 2u)",
        shape: CHAINS,
    },
    Mutant {
        what: "a read is left out",
        kernel: "probe/workgroup_read",
        from: "let rest = params.steps % RUN;",
        to: "let rest = max(params.steps % RUN, 1u) - 1u;",
        shape: CHAINS,
    },
    Mutant {
        what: "the reads stay where they are",
        kernel: "probe/workgroup_read",
        from: "at = (at + stride) % VECTORS;",
        to: "at = at % VECTORS;",
        shape: CHAINS,
    },
    Mutant {
        what: "a run that wraps reads something else",
        kernel: "probe/workgroup_read",
        from: "table[i % VECTORS]",
        to: "table[min(i, VECTORS - 1u)]",
        shape: CHAINS,
    },
    Mutant {
        what: "the tail of a copy is left out",
        kernel: "probe/copy",
        from: "if (index < count) {",
        to: "if (index + 1u < count) {",
        shape: &[("n", 100_004)],
    },
    Mutant {
        what: "every seventeenth load of a read is the one before again",
        kernel: "probe/read",
        from: "x[first + (row + i) * COLUMNS]",
        to: "x[first + select(row + i, row + i - 1u, row + i == 17u) * COLUMNS]",
        shape: &[("n", 37 * 4096), ("rounds", 3)],
    },
    Mutant {
        what: "a read ends a turn early",
        kernel: "probe/read",
        from: "row < params.rows;",
        to: "row + VECTORS < params.rows;",
        shape: &[("n", 4096)],
    },
    Mutant {
        what: "a second round reads the first block only",
        kernel: "probe/read",
        from: "index / COLUMNS % params.blocks",
        to: "select(0u, index / COLUMNS, index / COLUMNS < params.blocks)",
        shape: &[("n", 3 * 4096), ("rounds", 2)],
    },
    Mutant {
        what: "one vector is not written",
        kernel: "probe/write",
        from: "if (index < count) {",
        to: "if (index < count && index != 4711u) {",
        shape: &[("n", 100_004)],
    },
    Mutant {
        what: "neighbours are written alike",
        kernel: "probe/write",
        from: "vec4<u32>(0u, FACTOR, 2u * FACTOR, 3u * FACTOR)",
        to: "vec4<u32>(0u)",
        shape: &[("n", 4)],
    },
    Mutant {
        what: "what is written does not depend on the key",
        kernel: "probe/write",
        from: "vec4<u32>(x[0])",
        to: "vec4<u32>(min(x[0], 1u))",
        shape: &[("n", 100_004)],
    },
    Mutant {
        what: "a triad has the scalar one",
        kernel: "probe/triad",
        from: "params.scalar * c[index]",
        to: "c[index]",
        shape: &[("n", 100_004)],
    },
    Mutant {
        what: "a walk is a step short",
        kernel: "probe/chase",
        from: "let rest = params.steps % UNROLL;",
        to: "let rest = max(params.steps % UNROLL, 1u) - 1u;",
        shape: &[("lines", 192), ("steps", 1021)],
    },
    Mutant {
        what: "a walk begins at the second slot",
        kernel: "probe/chase",
        from: "var at = local.x * SLOT_WORDS;",
        to: "var at = links[local.x * SLOT_WORDS];",
        shape: &[("lines", 192), ("steps", 1021)],
    },
    Mutant {
        what: "a launch of the chain does nothing",
        kernel: "probe/chain",
        from: "out[i] = 2.0 * out[i];",
        to: "out[i] = 1.0 * out[i];",
        shape: &[("n", 5)],
    },
    Mutant {
        what: "a round trip brings nothing",
        kernel: "transfer/round_trip",
        from: "out[i] = x[i];",
        to: "out[i] = out[i];",
        shape: &[("n", 1)],
    },
];

fn kernel(name: &str) -> Kernel {
    kernels()
        .into_iter()
        .find(|kernel| kernel.name == name)
        .unwrap()
}

/// The verdict on the preferred variant of `kernel`, over integers where they are exact and over
/// uniform data: a mutant may show in either.
fn verdicts(kernel: &Kernel, shape: &[(&str, u64)]) -> Vec<Verdict> {
    let case = Case::new(kernel.op, &Shape::of(shape), kernel.dtypes[0]).unwrap();
    let mut runner = InProcess(Box::new(WgpuRunner::new(vec![kernel.clone()])));
    let hello = Request::Hello {
        protocol: PROTOCOL_VERSION,
        device: None,
        backend: None,
        checks: false,
    };
    assert!(matches!(
        runner.ask(&hello, SILENCE),
        Ok(Response::Hello { .. })
    ));
    let mut verdicts = Vec::new();
    for data in [Data::Integer, Data::Uniform] {
        if data == Data::Integer && !case.exact() {
            continue;
        }
        let seed = entropy();
        let request = Request::Case {
            case: case.clone(),
            seed,
            data: data.clone(),
            set_count: 1,
        };
        let Ok(Response::Variants {
            variants, refused, ..
        }) = runner.ask(&request, SILENCE)
        else {
            panic!("{} cannot run", kernel.name)
        };
        assert!(!variants.is_empty(), "{}: {refused:?}", kernel.name);
        let ready = runner
            .ask(
                &Request::Prepare {
                    variant: variants[0].clone(),
                },
                SILENCE,
            )
            .unwrap();
        assert!(
            matches!(ready, Response::Ready { .. }),
            "{}: {ready:?}",
            kernel.name
        );
        let inputs = inputs(&case, seed, &data).unwrap();
        verdicts.push(
            check(
                &mut runner,
                &case,
                &inputs,
                &data,
                Challenge {
                    seed: entropy(),
                    set_index: 0,
                },
                SILENCE,
            )
            .unwrap(),
        );
    }
    verdicts
}

/// A kernel for matrix units with their products spelt out in ordinary WGSL: factors are places in
/// memory, and the lanes of a subgroup share the elements of a sum. All but the product itself is
/// the kernel's own text, and it runs anywhere.
fn spelt_out(kernel: &Kernel) -> Kernel {
    let size = if kernel.name.contains("8x8") { 8 } else { 16 };
    let tile = format!("coop_mat{size}x{size}");
    let mut source = String::new();
    for line in kernel.source.lines() {
        let line = line
            .replace("enable wgpu_cooperative_matrix;", "")
            .replace(&format!("{tile}<Input, A>"), "u32")
            .replace(&format!("{tile}<Input, B>"), "u32")
            .replace(
                &format!("{tile}<Sum, C>"),
                "array<Sum, SQUARE / SUBGROUP_SIZE>",
            )
            .replace("coopLoadT<MatrixA>(&a[", "(u32(")
            .replace("coopLoadT<MatrixB>(&b[", "(u32(")
            .replace("coopLoadT<MatrixB>(&complement[", "(ELEMENTS + u32(")
            .replace("coopStoreT(value, &stage[", "store(value, (")
            .replace("], BLOCK)", "))")
            .replace("coopMultiplyAdd(", "multiply_add(");
        source += &line;
        source += "\n";
        if line == ") {" {
            source += "lane_of = lane; lanes = subgroup_size; length = SIDE_LENGTH;\n";
        }
    }
    source += &format!("const SIDE_LENGTH = {size}u;\n");
    source += "const SQUARE = SIDE_LENGTH * SIDE_LENGTH;
var<private> lane_of: u32;
var<private> lanes: u32;
var<private> length: u32;
fn within(index: u32) -> u32 {
    return index / SIDE_LENGTH * BLOCK + index % SIDE_LENGTH;
}
fn store(matrix: MatrixC, at: u32) {
    var copy = matrix;
    for (var e = 0u; e * lanes + lane_of < length * length; e++) {
        stage[at + within(e * lanes + lane_of)] = copy[e];
    }
}
fn multiply_add(left: u32, right: u32, added: MatrixC) -> MatrixC {
    var copy = added;
    for (var e = 0u; e * lanes + lane_of < length * length; e++) {
        let index = e * lanes + lane_of;
        for (var k = 0u; k < length; k++) {
            let factor = a[left + within(index / SIDE_LENGTH * SIDE_LENGTH + k)];
            let at = within(k * SIDE_LENGTH + index % SIDE_LENGTH);
            var other: Input;
            if (right < ELEMENTS) {
                other = b[right + at];
            } else {
                other = complement[right - ELEMENTS + at];
            }
            copy[e] += Sum(factor) * Sum(other);
        }
    }
    return copy;
}
";
    let smallest = |tunable: &Tunable| Tunable {
        name: tunable.name,
        values: match tunable.name {
            "SUBGROUP_SIZE" => tunable.values,
            "BLOCKS" => &[1],
            _ => &[2],
        },
    };
    Kernel {
        source: Cow::Owned(source),
        tunables: kernel
            .tunables
            .iter()
            .map(smallest)
            .collect::<Vec<_>>()
            .leak(),
        features: &[Feature::Subgroup],
        ..kernel.clone()
    }
}

fn mutated(original: &Kernel, mutant: &Mutant) -> Kernel {
    assert_eq!(
        original.source.matches(mutant.from).count(),
        1,
        "{}: the text to change stands there not exactly once: {:?}",
        mutant.kernel,
        mutant.from
    );
    Kernel {
        source: Cow::Owned(original.source.replace(mutant.from, mutant.to)),
        ..original.clone()
    }
}

/// Whether some adapter here can run matrix kernels once their products are spelt out.
fn computes_in_f16() -> bool {
    chipmark::gpu::enumerate(None).first().is_some_and(|first| {
        ["subgroup", "shader_f16"]
            .iter()
            .all(|name| first.device.features.iter().any(|f| f == name))
    })
}

fn caught(verdicts: &[Verdict]) -> bool {
    verdicts
        .iter()
        .any(|verdict| matches!(verdict, Verdict::Wrong(..)))
}

#[test]
fn a_chain_with_any_one_launch_left_out_is_caught() {
    if devices::adapters().is_empty() {
        return devices::skipped("a_chain_with_any_one_launch_left_out_is_caught");
    }
    let original = kernel("probe/chain");
    for left_out in 0..original.passes.len() {
        let mut passes = original.passes.to_vec();
        passes.remove(left_out);
        let broken = Kernel {
            passes: passes.leak(),
            ..original.clone()
        };
        let verdicts = verdicts(&broken, &[("n", 64)]);
        assert!(caught(&verdicts), "launch {left_out}: {verdicts:?}");
    }
}

#[test]
fn every_mutant_is_caught_and_its_original_is_not() {
    if devices::adapters().is_empty() {
        return devices::skipped("every_mutant_is_caught_and_its_original_is_not");
    }
    let mut escaped = Vec::new();
    for mutant in MUTANTS {
        let original = kernel(mutant.kernel);
        if needs_f16(&original.source, original.dtypes[0]) && !computes_in_f16() {
            devices::skipped(mutant.kernel);
            continue;
        }
        let broken = mutated(&original, mutant);
        let right = verdicts(&original, mutant.shape);
        assert!(
            !caught(&right),
            "{} itself was called wrong: {right:?}",
            mutant.kernel
        );
        let verdicts = verdicts(&broken, mutant.shape);
        if caught(&verdicts) {
            eprintln!("caught: {} ({})", mutant.what, mutant.kernel);
        } else {
            escaped.push(format!("{} ({}): {verdicts:?}", mutant.what, mutant.kernel));
        }
    }
    assert!(
        escaped.is_empty(),
        "mutants that verification let pass:\n{}",
        escaped.join("\n")
    );
    assert!(MUTANTS.len() >= 8);
}

#[test]
fn matrix_kernels_are_right_with_their_products_spelt_out_and_their_mutants_are_caught() {
    if !computes_in_f16() {
        return devices::skipped("matrix_kernels_are_right_with_their_products_spelt_out");
    }
    for kernel in kernels().iter().filter(|k| k.op == OpName::MatrixFma) {
        // The long one is for sums that are handed over on the way.
        let last = if kernel.source.contains("FOLD") {
            LONG_BLOCKS
        } else {
            ONE_BLOCK
        };
        for shape in [BLOCKS, last] {
            let verdicts = verdicts(&spelt_out(kernel), shape);
            assert!(
                verdicts.iter().all(|v| matches!(v, Verdict::Right(_))),
                "{} {shape:?}: {verdicts:?}",
                kernel.name
            );
        }
    }
    for mutant in MATRIX_MUTANTS {
        let broken = mutated(&kernel(mutant.kernel), mutant);
        let verdicts = verdicts(&spelt_out(&broken), mutant.shape);
        assert!(
            caught(&verdicts),
            "{} ({}): {verdicts:?}",
            mutant.what,
            mutant.kernel
        );
    }
}
