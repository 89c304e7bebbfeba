//! Broken kernels that verification must catch. A check that lets one of these pass checks nothing.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

mod devices;
mod twin;

use std::borrow::Cow;
use std::time::Duration;

use chipmark::catalogue::{Engine, Feature, Kernel, MatrixTile, kernels};
use chipmark::gpu::Gpu;
use chipmark::input::Data;
use chipmark::op::{Case, Dtype, OpName, Shape};
use chipmark::protocol::{Estimate, PROTOCOL_VERSION, Request, Response, Variant};
use chipmark::runner::worker::WgpuRunner;
use chipmark::runner::{Conversation, InProcess};
use chipmark::shader::needs_f16;
use chipmark::verify::{Challenge, Verdict, check, entropy, inputs};
use twin::{TWINS, narrowed, twin};

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
/// More columns than one tile has where subgroups are largest.
const WIDE_ODD: &[(&str, u64)] = &[("m", 65), ("n", 579), ("k", 33)];
const ODD_TRANS_B: &[(&str, u64)] = &[("m", 65), ("n", 67), ("k", 129), ("trans_b", 1)];
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

/// For kernels that work in large tiles: none, one and several of them whole.
const TILES: &[(&str, u64)] = &[("m", 69), ("n", 76), ("k", 52)];
const INSIDE: &[(&str, u64)] = &[("m", 128), ("n", 192), ("k", 64)];
const TILE_STACK: &[(&str, u64)] = &[("batch", 3), ("m", 65), ("n", 72), ("k", 36)];
/// The same for those that divide k: a last part that is shorter, none that is, parts without any.
const LONG_TILES: &[(&str, u64)] = &[("m", 69), ("n", 76), ("k", 340)];
const LONG_INSIDE: &[(&str, u64)] = &[("m", 128), ("n", 192), ("k", 256)];
const LONG_STACK: &[(&str, u64)] = &[("batch", 2), ("m", 33), ("n", 72), ("k", 300)];
/// The same where four divides no row.
const ODD_TILES: &[(&str, u64)] = &[("m", 69), ("n", 77), ("k", 53)];
const ODD_INSIDE: &[(&str, u64)] = &[("m", 128), ("n", 192), ("k", 65)];
const ODD_STACK: &[(&str, u64)] = &[("batch", 3), ("m", 65), ("n", 71), ("k", 34)];
const ODD_THIN: &[(&str, u64)] = &[("m", 1), ("n", 3), ("k", 1)];
const THIN: &[(&str, u64)] = &[("m", 1), ("n", 4), ("k", 4)];
const SHORT_HEADS: &[(&str, u64)] = &[
    ("heads", 4),
    ("kv_heads", 2),
    ("query_len", 33),
    ("kv_len", 65),
    ("head_dim", 28),
];
const LONG_HEADS: &[(&str, u64)] = &[
    ("batch", 2),
    ("heads", 3),
    ("query_len", 70),
    ("kv_len", 130),
    ("head_dim", 32),
];
const SHORT_MASKED: &[(&str, u64)] = &[
    ("heads", 4),
    ("kv_heads", 2),
    ("query_len", 33),
    ("kv_len", 65),
    ("head_dim", 28),
    ("causal", 1),
];
const LONG_MASKED: &[(&str, u64)] = &[
    ("heads", 2),
    ("query_len", 130),
    ("kv_len", 70),
    ("head_dim", 32),
    ("causal", 1),
];
const INSIDE_BUT_A_COLUMN: &[(&str, u64)] = &[("m", 64), ("n", 40), ("k", 32)];
const INSIDE_BUT_A_ROW: &[(&str, u64)] = &[("m", 129), ("n", 64), ("k", 32)];
/// The same for weights of 4 bits, whose rows are whole blocks.
const W4_TILES: &[(&str, u64)] = &[("m", 69), ("n", 76), ("k", 160), ("trans_b", 1)];
const W4_INSIDE: &[(&str, u64)] = &[("m", 128), ("n", 192), ("k", 64), ("trans_b", 1)];
const W4_STACK: &[(&str, u64)] = &[
    ("batch", 3),
    ("m", 65),
    ("n", 73),
    ("k", 96),
    ("trans_b", 1),
];
const W4_THIN: &[(&str, u64)] = &[("m", 1), ("n", 3), ("k", 32), ("trans_b", 1)];
const W4_LONG: &[(&str, u64)] = &[("m", 33), ("n", 76), ("k", 352), ("trans_b", 1)];
const W4_LONG_INSIDE: &[(&str, u64)] = &[("m", 128), ("n", 192), ("k", 256), ("trans_b", 1)];
const W4_LONG_STACK: &[(&str, u64)] = &[
    ("batch", 2),
    ("m", 17),
    ("n", 40),
    ("k", 288),
    ("trans_b", 1),
];
/// More products than sums of bytes are exact for, twice.
const LONG_BYTES: &[(&str, u64)] = &[("m", 17), ("n", 20), ("k", 2100)];
const DIRECT: &[(&str, u64)] = &[("m", 64), ("n", 192), ("k", 80)];
const DIRECT_STACK: &[(&str, u64)] = &[("batch", 2), ("m", 128), ("n", 64), ("k", 16)];

/// Mistakes in kernels for matrix units, tried on what stands in for them ([`stand_in`]).
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
    Mutant {
        what: "what lies beyond k counts",
        kernel: "matmul/matrix_tile",
        from: "select(vec4<Input>(), values, column < a_row)",
        to: "values",
        shape: TILES,
    },
    Mutant {
        what: "tiles at the edge are stored whole",
        kernel: "matmul/matrix_tile",
        from: "first_column + TILE_N <= params.n",
        to: "first_column < params.n",
        shape: INSIDE_BUT_A_COLUMN,
    },
    Mutant {
        what: "a band of tiles has a row too many",
        kernel: "matmul/matrix_tile",
        from: "min(groups.y - band_first, GROUP)",
        to: "GROUP",
        shape: INSIDE_BUT_A_ROW,
    },
    Mutant {
        what: "panels of B are all multiplied from the first buffer",
        kernel: "matmul/matrix_tile",
        from: "let at = into * B_PANEL + step * B_STRIDE",
        to: "let at = step * B_STRIDE",
        shape: TILES,
    },
    Mutant {
        what: "whole panels of A are all the first one",
        kernel: "matmul/matrix_tile",
        from: "a[a_own + next / 4u + row_of(on) * a_row",
        to: "a[a_own + row_of(on) * a_row",
        shape: INSIDE,
    },
    Mutant {
        what: "rows are stored in another order than they were loaded in",
        kernel: "matmul/matrix_tile_trans_b",
        from: "min(first_row + row_of(piece), params.m - 1u)",
        to: "min(first_row + piece / VECTORS, params.m - 1u)",
        shape: TILES,
    },
    Mutant {
        what: "the next panel is the one before",
        kernel: "matmul/matrix_tile_trans_b",
        from: "let next = first + DEPTH;",
        to: "let next = first;",
        shape: TILES,
    },
    Mutant {
        what: "blocks of B are not turned",
        kernel: "matmul/matrix_tile_trans_b",
        from: "coopLoad<MatrixB>",
        to: "coopLoadT<MatrixB>",
        shape: TILES,
    },
    Mutant {
        what: "blocks of B begin a column too late",
        kernel: "matmul/matrix_tile_trans_b_8x8",
        from: "let at = (own_column + j * BLOCK) * STRIDE + step;",
        to: "let at = (own_column + j * BLOCK + 1u) * STRIDE + step;",
        shape: TILES,
    },
    Mutant {
        what: "what lies beyond an odd k counts",
        kernel: "matmul/matrix_tile_scalar",
        from: "select(vec4<Input>(), values, columns < vec4(params.k))",
        to: "values",
        shape: ODD_TILES,
    },
    Mutant {
        what: "rows of whole panels of weights lie as close as those of a vector less",
        kernel: "matmul/matrix_tile_trans_b_scalar",
        from: "let at = b_own + next + row_of(on) * b_row",
        to: "let at = b_own + next + row_of(on) * (b_row - 4u)",
        shape: ODD_INSIDE,
    },
    Mutant {
        what: "rows of weights are taken to be whole vectors",
        kernel: "matmul/matrix_tile_trans_b_scalar",
        from: "vec4(b_first + row * params.k)",
        to: "vec4(b_first + row * (params.k / 4u * 4u))",
        shape: ODD_TILES,
    },
    Mutant {
        what: "parts of a batch are stored over one another",
        kernel: "matmul/matrix_tile_split_k",
        from: "(part * params.batch + batch) * params.m * params.n",
        to: "(part + batch) * params.m * params.n",
        shape: LONG_STACK,
    },
    Mutant {
        what: "a part walks into the next one",
        kernel: "matmul/matrix_tile_split_k",
        from: "first < end;",
        to: "first < params.k;",
        shape: LONG_TILES,
    },
    Mutant {
        what: "the last part is not added",
        kernel: "matmul/matrix_tile_trans_b_split_k",
        from: "part < SPLITS;",
        to: "part + 1u < SPLITS;",
        shape: LONG_TILES,
    },
    Mutant {
        what: "every part begins where k does",
        kernel: "matmul/matrix_tile_trans_b_split_k",
        from: "piece_of_b(b_first, first_column, start,",
        to: "piece_of_b(b_first, first_column, 0u,",
        shape: LONG_INSIDE,
    },
    Mutant {
        what: "of two scales in a word the first is always taken",
        kernel: "matmul/matrix_tile_w4",
        from: "(block % 2u * 16u)",
        to: "0u",
        shape: W4_TILES,
    },
    Mutant {
        what: "the last weights of a word are shifted too little",
        kernel: "matmul/matrix_tile_w4",
        from: "word >> 12u",
        to: "word >> 8u",
        shape: W4_TILES,
    },
    Mutant {
        what: "the next panel of weights is the one before",
        kernel: "matmul/matrix_tile_w4",
        from: "block_of_b(b_first, first_column, next,",
        to: "block_of_b(b_first, first_column, first,",
        shape: W4_INSIDE,
    },
    Mutant {
        what: "halves of a word are stored over one another",
        kernel: "matmul/matrix_tile_w4_8x8",
        from: "quarter * 8u + 4u + x",
        to: "quarter * 8u + x",
        shape: W4_TILES,
    },
    Mutant {
        what: "every part begins where the weights do",
        kernel: "matmul/matrix_tile_w4_split_k",
        from: "block_of_b(b_first, first_column, start,",
        to: "block_of_b(b_first, first_column, 0u,",
        shape: W4_LONG,
    },
    Mutant {
        what: "the last part is not added",
        kernel: "matmul/matrix_tile_w4_split_k",
        from: "part < SPLITS;",
        to: "part + 1u < SPLITS;",
        shape: W4_LONG,
    },
    Mutant {
        what: "a sum that goes on forgets what is in C",
        kernel: "matmul/matrix_tile_i8",
        from: "atomicAdd(&c[element], exact);",
        to: "atomicStore(&c[element], exact);",
        shape: LONG_BYTES,
    },
    Mutant {
        what: "a sum does not begin anew after it went to C",
        kernel: "matmul/matrix_tile_i8",
        from: "sum[i * COLUMNS + j] = MatrixC();",
        to: "",
        shape: LONG_BYTES,
    },
    Mutant {
        what: "signs of bytes are not turned",
        kernel: "matmul/matrix_tile_trans_b_i8",
        from: "word ^ 0x80808080u",
        to: "word",
        shape: TILES,
    },
    Mutant {
        what: "two bytes of a word are taken twice",
        kernel: "matmul/matrix_tile_trans_b_i8",
        from: "turned >> 8u",
        to: "turned",
        shape: TILES,
    },
    Mutant {
        what: "the last step along k is left out",
        kernel: "matmul/matrix_direct",
        from: "step < params.k;",
        to: "step + BLOCK < params.k;",
        shape: DIRECT,
    },
    Mutant {
        what: "a subgroup leaves its last column of blocks",
        kernel: "matmul/matrix_direct_trans_b",
        from: "row >= params.m || column >= params.n",
        to: "row >= params.m || column + 32u >= params.n",
        shape: DIRECT,
    },
    Mutant {
        what: "the output is not corrected to a new maximum",
        kernel: "attention/flash_matrix",
        from: "*= correction[r];\n                        }",
        to: "*= 1.0;\n                        }",
        shape: SHORT_HEADS,
    },
    Mutant {
        what: "the sum of weights is not corrected to a new maximum",
        kernel: "attention/flash_matrix",
        from: "total[r] *= correction[r];",
        to: "total[r] *= 1.0;",
        shape: SHORT_HEADS,
    },
    Mutant {
        what: "a row's maximum is that of a part of it",
        kernel: "attention/flash_matrix",
        from: "highest = max(highest, subgroupShuffleXor(highest, apart));",
        to: "highest = max(highest, subgroupShuffleXor(highest, 0u));",
        shape: SHORT_HEADS,
    },
    Mutant {
        what: "the last block of keys counts its padding",
        kernel: "attention/flash_matrix",
        from: "select(vec4(LOWEST), scaled, key < vec4(count))",
        to: "scaled",
        shape: SHORT_HEADS,
    },
    Mutant {
        what: "queries beyond the head are not zero",
        kernel: "attention/flash_matrix",
        from: "select(vec4<f16>(), values, column < d)",
        to: "values",
        shape: SHORT_HEADS,
    },
    Mutant {
        what: "keys beyond the mask are seen",
        kernel: "attention/flash_matrix_causal",
        from: "key < vec4(seen)",
        to: "key < vec4(seen + 1u)",
        shape: SHORT_MASKED,
    },
    Mutant {
        what: "a query that sees no key has an output",
        kernel: "attention/flash_matrix_causal",
        from: "select(0.0, 1.0 / weight, seen > 0u)",
        to: "1.0 / weight",
        shape: LONG_MASKED,
    },
    Mutant {
        what: "the walk over the keys ends where the first query's does",
        kernel: "attention/flash_matrix_causal",
        from: "visible_count(min(first_query + TILE_Q - 1u, q_last));",
        to: "visible_count(min(first_query, q_last));",
        shape: SHORT_MASKED,
    },
    Mutant {
        what: "a vector of weights is stored in the place of its neighbour",
        kernel: "attention/flash_matrix_8x8",
        from: "row * WEIGHT_STRIDE + (i * PARTS + part) * 4u;",
        to: "row * WEIGHT_STRIDE + ((i * PARTS + part) ^ 1u) * 4u;",
        shape: SHORT_HEADS,
    },
    Mutant {
        what: "only a quarter of the output is corrected",
        kernel: "attention/flash_matrix_8x8",
        from: "for (var i = part; i < CHUNK; i += PARTS) {",
        to: "for (var i = part; i < CHUNK_VECTORS; i += PARTS) {",
        shape: SHORT_HEADS,
    },
    Mutant {
        what: "keys beyond the mask are seen",
        kernel: "attention/flash_matrix_8x8_causal",
        from: "key < vec4(seen)",
        to: "key < vec4(seen + 1u)",
        shape: SHORT_MASKED,
    },
];

/// Three products, of nothing round.
const STACK: &[(&str, u64)] = &[("batch", 3), ("m", 5), ("n", 7), ("k", 9)];

/// One row by transposed weights whose number nothing divides, and several rows of the same.
const TOKEN: &[(&str, u64)] = &[("m", 1), ("n", 67), ("k", 544), ("trans_b", 1)];
const TOKENS: &[(&str, u64)] = &[
    ("batch", 2),
    ("m", 3),
    ("n", 35),
    ("k", 320),
    ("trans_b", 1),
];
const THIN_STACK: &[(&str, u64)] = &[("m", 3), ("n", 132), ("k", 331)];
/// Two queries over a cache, with three heads to a group.
const CACHED: &[(&str, u64)] = &[
    ("heads", 6),
    ("kv_heads", 2),
    ("query_len", 2),
    ("kv_len", 333),
    ("head_dim", 40),
    ("causal", 1),
];
/// One query over more keys than one workgroup's turn.
const LONG_CACHE: &[(&str, u64)] = &[
    ("heads", 4),
    ("kv_heads", 2),
    ("query_len", 1),
    ("kv_len", 5000),
    ("head_dim", 64),
];
/// The same in pages, of which the last is not full, and two sequences of less than a page.
const PAGES: &[(&str, u64)] = &[
    ("batch", 3),
    ("heads", 6),
    ("kv_heads", 2),
    ("query_len", 2),
    ("kv_len", 333),
    ("head_dim", 40),
    ("page", 16),
];
/// So many pages that every team takes several turns over them.
const LONG_PAGES: &[(&str, u64)] = &[
    ("heads", 4),
    ("kv_heads", 2),
    ("query_len", 1),
    ("kv_len", 3001),
    ("head_dim", 64),
    ("page", 16),
];
const PART_OF_A_PAGE: &[(&str, u64)] = &[
    ("batch", 2),
    ("heads", 4),
    ("kv_heads", 2),
    ("query_len", 1),
    ("kv_len", 11),
    ("head_dim", 64),
    ("page", 16),
];
/// Shapes of kernels that take four elements at a time: nothing else divides them.
const FOURS: &[(&str, u64)] = &[("batch", 2), ("m", 67), ("n", 132), ("k", 52)];
const TALL_FOURS: &[(&str, u64)] = &[("m", 1200), ("n", 260), ("k", 4)];
const LONG_FOURS: &[(&str, u64)] = &[("batch", 2), ("m", 33), ("n", 68), ("k", 516)];
const LONG_TRANS_B: &[(&str, u64)] = &[
    ("batch", 2),
    ("m", 33),
    ("n", 68),
    ("k", 516),
    ("trans_b", 1),
];
const TRANS_B: &[(&str, u64)] = &[
    ("batch", 2),
    ("m", 67),
    ("n", 132),
    ("k", 52),
    ("trans_b", 1),
];
const WEIGHTS: &[(&str, u64)] = &[
    ("batch", 2),
    ("m", 67),
    ("n", 68),
    ("k", 96),
    ("trans_b", 1),
];

const MUTANTS: &[Mutant] = &[
    Mutant {
        what: "what lies beyond k is packed",
        kernel: "matmul/subgroup_packed_texture_scalar",
        from: "select(0.0, value, row < params.k)",
        to: "value",
        shape: ODD,
    },
    Mutant {
        what: "a vector at the end of a row of C is stored whole",
        kernel: "matmul/subgroup_packed_texture_scalar",
        from: "if (column + e < params.n) {",
        to: "if (column < params.n) {",
        shape: WIDE_ODD,
    },
    Mutant {
        what: "transposed weights are packed as they lie",
        kernel: "matmul/subgroup_packed_texture_scalar",
        from: "min(row, params.k - 1u) * params.b_row_stride",
        to: "min(row, params.k - 1u) * params.n",
        shape: ODD_TRANS_B,
    },
    Mutant {
        what: "what is loaded beyond k counts",
        kernel: "matmul/gemv",
        from: "select(vec4<Sum>(), values, at <= last)",
        to: "values",
        shape: TOKEN,
    },
    Mutant {
        what: "a last step of the halving is left out",
        kernel: "matmul/gemv",
        from: "half > 0u;",
        to: "half > 1u;",
        shape: TOKEN,
    },
    Mutant {
        what: "rows of A are taken from the first product of the batch",
        kernel: "matmul/gemv",
        from: "(group.z * params.m + min(i, params.m - 1u)) * length;",
        to: "min(i, params.m - 1u) * length;",
        shape: TOKENS,
    },
    Mutant {
        what: "a lane's sums stay its own",
        kernel: "matmul/gemv_subgroup",
        from: "subgroupAdd(f32(sum[i * COLUMNS + j]))",
        to: "sum[i * COLUMNS + j]",
        shape: TOKENS,
    },
    Mutant {
        what: "a subgroup stops a turn early",
        kernel: "matmul/gemv_subgroup",
        from: "turn < length;",
        to: "turn + SUBGROUP_SIZE < length;",
        shape: TOKEN,
    },
    Mutant {
        what: "the upper half of a vector of halves meets the lower",
        kernel: "matmul/gemv_f16",
        from: "fma(a_high.w, high.w, part_sum)",
        to: "fma(a_high.w, low.w, part_sum)",
        shape: TOKEN,
    },
    Mutant {
        what: "a half is taken twice",
        kernel: "matmul/gemv_f16",
        from: "let high = vec4(unpack2x16float(part.z), unpack2x16float(part.w));",
        to: "let high = vec4(unpack2x16float(part.z), unpack2x16float(part.z));",
        shape: TOKENS,
    },
    Mutant {
        what: "bytes are taken for unsigned",
        kernel: "matmul/gemv_i8",
        from: "dot4I8Packed(a_part, b_part[u * COLUMNS + j])",
        to: "i32(dot4U8Packed(a_part, b_part[u * COLUMNS + j]))",
        shape: TOKEN,
    },
    Mutant {
        what: "a vector's last word is left out",
        kernel: "matmul/gemv_i8_vec4",
        from: "word < 4u;",
        to: "word < 3u;",
        shape: TOKENS,
    },
    Mutant {
        what: "the next column is written",
        kernel: "matmul/gemv_i8_vec4",
        from: "let column = first_column + i % COLUMNS;",
        to: "let column = first_column + (i + 1u) % COLUMNS;",
        shape: TOKENS,
    },
    Mutant {
        what: "the two scales of a word are swapped",
        kernel: "matmul/gemv_w4",
        from: "select(both.x, both.y, odd)",
        to: "select(both.y, both.x, odd)",
        shape: TOKEN,
    },
    Mutant {
        what: "the first weight of every four has no sign",
        kernel: "matmul/gemv_w4",
        from: "vec4(8388616.0,",
        to: "vec4(8388608.0,",
        shape: TOKEN,
    },
    Mutant {
        what: "a scale is taken from the wrong row",
        kernel: "matmul/gemv_w4",
        from: "scales[(b_row[j] + at) / 8u]",
        to: "scales[(b_row[0] + at) / 8u]",
        shape: TOKENS,
    },
    Mutant {
        what: "the scale is the neighbour's",
        kernel: "matmul/gemv_w4_block",
        from: "block % 2u * 16u",
        to: "(block + 1u) % 2u * 16u",
        shape: TOKEN,
    },
    Mutant {
        what: "the last four weights of a block are left out",
        kernel: "matmul/gemv_w4_block",
        from: "part < 8u;",
        to: "part < 7u;",
        shape: TOKENS,
    },
    Mutant {
        what: "the second weight of every four keeps its offset",
        kernel: "matmul/gemv_w4_block",
        from: "524296.0",
        to: "524288.0",
        shape: TOKEN,
    },
    Mutant {
        what: "the first of those that share columns keeps its sums to itself",
        kernel: "matmul/gemv_columns",
        from: "var whole = partial[local.x];",
        to: "var whole = vec4<Sum>();",
        shape: THIN_STACK,
    },
    Mutant {
        what: "a barrier is missing between two rows",
        kernel: "matmul/gemv_columns",
        from: "        workgroupBarrier();\n        if (local.y",
        to: "        if (local.y",
        shape: THIN_STACK,
    },
    Mutant {
        what: "a part of k runs into the next",
        kernel: "matmul/gemv_columns_split",
        from: "at < end);",
        to: "at <= end && at <= last);",
        shape: THIN_STACK,
    },
    Mutant {
        what: "the last part of k is not added",
        kernel: "matmul/gemv_columns_split",
        from: "split < SPLITS;",
        to: "split + 1u < SPLITS;",
        shape: THIN_STACK,
    },
    Mutant {
        what: "the parts of the keys are added without regard to their maxima",
        kernel: "attention/decode",
        from: "exp2(state[i].x - largest), split + i < count)",
        to: "1.0, split + i < count)",
        shape: CACHED,
    },
    Mutant {
        what: "the last part of the keys is added again for each that is not there",
        kernel: "attention/decode",
        from: "exp2(state[i].x - largest), split + i < count)",
        to: "exp2(state[i].x - largest), true)",
        shape: CACHED,
    },
    Mutant {
        what: "what was merged is not corrected to a new maximum",
        kernel: "attention/decode_subgroup",
        from: "let correction = exp2(before - largest);",
        to: "let correction = 1.0;",
        shape: LONG_CACHE,
    },
    Mutant {
        what: "sums are not corrected to a new maximum",
        kernel: "attention/decode",
        from: "sum[i] *= correction;",
        to: "sum[i] *= 1.0;",
        shape: LONG_CACHE,
    },
    Mutant {
        what: "every query sees what the last one sees",
        kernel: "attention/decode",
        from: "visible_count(min(first_row + i, rows - 1u) % params.query_len)",
        to: "visible_count(params.query_len - 1u)",
        shape: CACHED,
    },
    Mutant {
        what: "a lane keeps the half that it gives away",
        kernel: "attention/decode_subgroup",
        from: "let kept = select(score[i], score[i + half], upper);",
        to: "let kept = select(score[i + half], score[i], upper);",
        shape: CACHED,
    },
    Mutant {
        what: "the weights are those of the lane before",
        kernel: "attention/decode_subgroup",
        from: "subgroupShuffle(score[place % OWN], owner)",
        to: "subgroupShuffle(score[place % OWN], max(owner, 1u) - 1u)",
        shape: CACHED,
    },
    Mutant {
        what: "the weights of other lanes' keys are missing in the sum",
        kernel: "attention/decode_subgroup",
        from: "whole += subgroupShuffleXor(whole, half * TEAM / SCORES);",
        to: "whole += 0.0;",
        shape: LONG_CACHE,
    },
    Mutant {
        what: "all rows see what a lane's first row sees",
        kernel: "attention/decode_subgroup",
        from: "let row = min(first_row + own_row + i, rows - 1u);",
        to: "let row = min(first_row, rows - 1u);",
        shape: CACHED,
    },
    Mutant {
        what: "a team's result is left out",
        kernel: "attention/decode_subgroup",
        from: "t++) {\n            let factor",
        to: "t += 2u) {\n            let factor",
        shape: LONG_CACHE,
    },
    Mutant {
        what: "all groups of heads read the first keys",
        kernel: "attention/decode_subgroup",
        from: "let kv_first = group.z * params.kv_len * width;",
        to: "let kv_first = 0u;",
        shape: CACHED,
    },
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
        what: "a panel is overwritten while others still read it",
        kernel: "matmul/register_tile_vec4",
        from: "if (BUFFERS == 1u) {",
        to: "if (BUFFERS == 2u) {",
        shape: FOURS,
    },
    Mutant {
        what: "the last group of tiles is taken for a whole one",
        kernel: "matmul/register_tile_vec4",
        from: "min(GROUP, tiles_y - group_first)",
        to: "GROUP",
        shape: TALL_FOURS,
    },
    Mutant {
        what: "what lies beyond k is counted",
        kernel: "matmul/register_tile_vec4",
        from: "select(vec4<Input>(), values, step <= k_last)",
        to: "values",
        shape: FOURS,
    },
    Mutant {
        what: "a block is stored as it was loaded",
        kernel: "matmul/register_tile_trans_b",
        from: "b_next[i * 4u + 1u][x],\n                        b_next[i * 4u + 2u][x],",
        to: "b_next[i * 4u + 2u][x],\n                        b_next[i * 4u + 1u][x],",
        shape: TRANS_B,
    },
    Mutant {
        what: "columns of C end with its rows",
        kernel: "matmul/register_tile_trans_b",
        from: "b[min(row + y, n_last) * k + column]",
        to: "b[min(row + y, min(m_last, n_last)) * k + column]",
        shape: TRANS_B,
    },
    Mutant {
        what: "the last part is not added",
        kernel: "matmul/register_tile_split_k",
        from: "part < SPLITS;",
        to: "part + 1u < SPLITS;",
        shape: LONG_FOURS,
    },
    Mutant {
        what: "parts are rounded down and leave some of k out",
        kernel: "matmul/register_tile_split_k",
        from: "((params.k + DEPTH - 1u) / DEPTH + SPLITS - 1u)",
        to: "(params.k / DEPTH)",
        shape: LONG_FOURS,
    },
    Mutant {
        what: "parts are rounded down and leave some of k out",
        kernel: "matmul/register_tile_trans_b_split_k",
        from: "((params.k + DEPTH - 1u) / DEPTH + SPLITS - 1u)",
        to: "(params.k / DEPTH)",
        shape: LONG_TRANS_B,
    },
    Mutant {
        what: "a block of weights is stored as it was loaded",
        kernel: "matmul/register_tile_trans_b_split_k",
        from: "b_next[i * 4u + 1u][x],\n                        b_next[i * 4u + 2u][x],",
        to: "b_next[i * 4u + 2u][x],\n                        b_next[i * 4u + 1u][x],",
        shape: LONG_TRANS_B,
    },
    Mutant {
        what: "bytes lose their signs",
        kernel: "matmul/naive_i8",
        from: "return extractBits(bitcast<i32>(word), index % 4u * 8u, 8u);",
        to: "return i32(extractBits(word, index % 4u * 8u, 8u));",
        shape: ODD,
    },
    Mutant {
        what: "a byte of B is taken from where A has it",
        kernel: "matmul/naive_i8",
        from: "element(b[b_index / 4u], b_index)",
        to: "element(b[b_index / 4u], a_index)",
        shape: ODD,
    },
    Mutant {
        what: "what lies beyond k is counted",
        kernel: "matmul/dot4_tile",
        from: "select(vec4<u32>(), words, step <= k_last)",
        to: "words",
        shape: TRANS_B,
    },
    Mutant {
        what: "every product of a batch has the first one's B",
        kernel: "matmul/dot4_tile",
        from: "let b_first = group.z * params.n * k;",
        to: "let b_first = 0u;",
        shape: TRANS_B,
    },
    Mutant {
        what: "pairs of rows trade places",
        kernel: "matmul/dot4_tile_plain_b",
        from: "(odd.x & LOWER) | (odd.y << 16u)",
        to: "(odd.y & LOWER) | (odd.x << 16u)",
        shape: FOURS,
    },
    Mutant {
        what: "a column of B is half another one",
        kernel: "matmul/dot4_tile_plain_b",
        from: "(even.x >> 16u) | (even.y & ~LOWER)",
        to: "(even.x >> 16u) | (even.y << 16u)",
        shape: FOURS,
    },
    Mutant {
        what: "of two scales in a word the first is always taken",
        kernel: "matmul/naive_w4",
        from: "unpack2x16float(scales[index / 2u])[index % 2u]",
        to: "unpack2x16float(scales[index / 2u]).x",
        shape: WEIGHTS,
    },
    Mutant {
        what: "weights of a word are read from its end",
        kernel: "matmul/naive_w4",
        from: "extractBits(word, i % 8u * 4u, 4u)",
        to: "extractBits(word, 28u - i % 8u * 4u, 4u)",
        shape: WEIGHTS,
    },
    Mutant {
        what: "the second half of a word is never read",
        kernel: "matmul/register_tile_w4",
        from: "vec4(block / 8u % 2u * 16u)",
        to: "vec4(0u)",
        shape: WEIGHTS,
    },
    Mutant {
        what: "of two scales in a word the first is always taken",
        kernel: "matmul/register_tile_w4",
        from: "scales[index / 2u] >> (index % 2u * 16u)",
        to: "scales[index / 2u]",
        shape: WEIGHTS,
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
        what: "the last block of rows is laid out as if it were whole",
        kernel: "matmul/subgroup_packed_u64",
        from: "let rows = min(TILE_M, params.m - first_row);\n    for (var q",
        to: "let rows = TILE_M;\n    for (var q",
        shape: PANELS,
    },
    Mutant {
        what: "the panels of B begin within A",
        kernel: "matmul/subgroup_packed_u64",
        from: "return params.batch * params.m * (params.k / 4u);",
        to: "return params.m * (params.k / 4u) - 1u;",
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
        what: "the halves of a word are swapped",
        kernel: "attention/flash_panel_f16",
        from: "return vec4(unpack2x16float(words.x), unpack2x16float(words.y));",
        to: "return vec4(unpack2x16float(words.x), unpack2x16float(words.y).yx);",
        shape: HEADS,
    },
    Mutant {
        what: "a head is taken to have half of its words",
        kernel: "attention/flash_panel_f16",
        from: "let start = kv_first + min(first + lane, params.kv_len - 1u) * d;",
        to: "let start = kv_first + min(first + lane, params.kv_len - 1u) * (d / 2u);",
        shape: HEADS,
    },
    Mutant {
        what: "a query sees a key too many",
        kernel: "attention/flash_panel_f16_causal",
        from: "select(0.0, weight, first + b < seen[j])",
        to: "select(0.0, weight, first + b <= seen[j])",
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
        what: "pages are read in order, as if there were no table",
        kernel: "attention/naive_paged",
        from: "block_table[batch * params.pages + key / params.page]",
        to: "(batch * params.pages + key / params.page)",
        shape: PAGES,
    },
    Mutant {
        what: "tokens come before heads",
        kernel: "attention/naive_paged",
        from: "(page * params.kv_heads + kv_head) * params.page + key % params.page",
        to: "(page * params.page + key % params.page) * params.kv_heads + kv_head",
        shape: PAGES,
    },
    Mutant {
        what: "every sequence has the pages of the first",
        kernel: "attention/decode_paged",
        from: "block_table[batch * params.pages + key / params.page]",
        to: "block_table[key / params.page]",
        shape: PAGES,
    },
    Mutant {
        what: "a value is taken from the key beside it",
        kernel: "attention/decode_paged",
        from: "starts[turn + u * GROUPS]",
        to: "starts[(turn + u * GROUPS) ^ 1u]",
        shape: PAGES,
    },
    Mutant {
        what: "a team stays on the page of its first turn",
        kernel: "attention/decode_paged_subgroup",
        from: "        start = page_start(batch, kv_head, logical);\n",
        to: "",
        shape: LONG_PAGES,
    },
    Mutant {
        what: "the pages of the turn before are read",
        kernel: "attention/decode_paged_subgroup",
        from: "logical_page(first + TEAMS * BLOCK)",
        to: "logical_page(first)",
        shape: LONG_PAGES,
    },
    Mutant {
        what: "parts end within a block, which reaches into the next page",
        kernel: "attention/decode_paged_subgroup",
        from: "(params.kv_len + SPLITS * BLOCK - 1u) / (SPLITS * BLOCK) * BLOCK",
        to: "(params.kv_len + SPLITS - 1u) / SPLITS",
        shape: PAGES,
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
        from: "if (index < count) {\n                    destination[index] = source[index];",
        to: "if (index + 1u < count) {\n                    destination[index] = source[index];",
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

/// Which variant of a kernel is looked at.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// The one with the fewest registers and, of those, the smallest tunables: most mistakes show in it
    /// too, and the driver of a CPU compiles it several times as fast as the preferred one.
    Smallest,
    /// The one that the kernel's author prefers.
    Preferred,
}

fn choose(choice: Choice, variants: Vec<Variant>, estimates: &[Estimate]) -> Variant {
    let size = |variant: &Variant| {
        let estimate = estimates.iter().find(|e| e.variant == *variant);
        let registers = estimate.and_then(|e| e.register_count);
        let tunables = variant.variant.values().map(|&v| u64::from(v.max(1)));
        (registers, tunables.product::<u64>())
    };
    let mut variants = variants.into_iter();
    match choice {
        Choice::Smallest => variants.min_by_key(size),
        Choice::Preferred => variants.next(),
    }
    .unwrap()
}

/// The verdict on the smallest variant of `kernel`, over integers where they are exact and over
/// uniform data: a mutant may show in either.
fn verdicts(kernel: &Kernel, shape: &[(&str, u64)]) -> Vec<Verdict> {
    verdicts_in(kernel, shape, kernel.dtypes[0], Choice::Smallest)
}

fn verdicts_in(
    kernel: &Kernel,
    shape: &[(&str, u64)],
    dtype: Dtype,
    choice: Choice,
) -> Vec<Verdict> {
    let case = Case::new(kernel.op, &Shape::of(shape), dtype).unwrap();
    verdicts_of(kernel, &case, choice)
}

fn verdicts_of(kernel: &Kernel, case: &Case, choice: Choice) -> Vec<Verdict> {
    verdicts_on(&[Data::Integer, Data::Uniform], kernel, case, choice)
}

fn verdicts_on(data: &[Data], kernel: &Kernel, case: &Case, choice: Choice) -> Vec<Verdict> {
    let mut runner = InProcess(Box::new(WgpuRunner::new(vec![kernel.clone()])));
    let hello = Request::Hello {
        protocol: PROTOCOL_VERSION,
        device: None,
        backend: None,
        // A broken kernel may write where it should not, and a GPU's driver checks nothing without.
        checks: !first_is_cpu(),
    };
    assert!(matches!(
        runner.ask(&hello, SILENCE),
        Ok(Response::Hello { .. })
    ));
    let mut verdicts = Vec::new();
    for data in data {
        if *data == Data::Integer && !case.exact() {
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
            variants,
            refused,
            estimates,
            ..
        }) = runner.ask(&request, SILENCE)
        else {
            panic!("{} cannot run", kernel.name)
        };
        assert!(!variants.is_empty(), "{}: {refused:?}", kernel.name);
        let ready = runner
            .ask(
                &Request::Prepare {
                    variant: choose(choice, variants, &estimates),
                },
                SILENCE,
            )
            .unwrap();
        assert!(
            matches!(ready, Response::Ready { .. }),
            "{}: {ready:?}",
            kernel.name
        );
        let inputs = inputs(case, seed, data).unwrap();
        verdicts.push(
            check(
                &mut runner,
                case,
                &inputs,
                data,
                Challenge {
                    seed: entropy(),
                    set_index: 0,
                    output: None,
                },
                SILENCE,
            )
            .unwrap(),
        );
    }
    verdicts
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

/// Whether twins can run on the first adapter here.
fn runs_twins() -> bool {
    computes_in_f16() && first_is_cpu()
}

/// Whether the first adapter here is a driver for CPUs.
fn first_is_cpu() -> bool {
    let all = chipmark::gpu::enumerate(None);
    (all.first()).is_some_and(|first| first.device.device_type == "cpu")
}

/// Whether the first adapter here has subgroups and computes in f16.
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
        // What a single team, row or buffer cannot get wrong shows in the preferred variant.
        let found = [Choice::Smallest, Choice::Preferred]
            .into_iter()
            .find(|&choice| {
                let dtype = original.dtypes[0];
                let right = verdicts_in(&original, mutant.shape, dtype, choice);
                assert!(
                    !caught(&right),
                    "{} itself was called wrong: {right:?}",
                    mutant.kernel
                );
                caught(&verdicts_in(&broken, mutant.shape, dtype, choice))
            });
        match found {
            Some(choice) => eprintln!("caught: {} ({}, {choice:?})", mutant.what, mutant.kernel),
            None => escaped.push(format!("{} ({})", mutant.what, mutant.kernel)),
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
fn a_kernel_that_counts_the_rest_of_the_last_page_is_caught() {
    if devices::adapters().is_empty() {
        return devices::skipped("a_kernel_that_counts_the_rest_of_the_last_page_is_caught");
    }
    for name in ["attention/decode_paged", "attention/decode_paged_subgroup"] {
        let original = kernel(name);
        let whole_pages = "(params.pages * params.page)";
        let broken = Kernel {
            source: Cow::Owned(original.source.replace("params.kv_len", whole_pages)),
            ..original.clone()
        };
        for shape in [PAGES, PART_OF_A_PAGE] {
            let right = verdicts(&original, shape);
            assert!(!caught(&right), "{name} itself: {right:?}");
            let wrong = verdicts(&broken, shape);
            assert!(caught(&wrong), "{name} {shape:?}: {wrong:?}");
        }
    }
}

/// Where they are tried: at edges, inside, in batches.
fn twin_shapes(kernel: &Kernel) -> Vec<&'static [(&'static str, u64)]> {
    match kernel.op {
        // The long one is for sums that are handed over on the way.
        OpName::MatrixFma if kernel.source.contains("FOLD") => vec![BLOCKS, LONG_BLOCKS],
        OpName::MatrixFma => vec![BLOCKS, ONE_BLOCK],
        OpName::Attention if kernel.name.contains("causal") => vec![SHORT_MASKED, LONG_MASKED],
        OpName::Attention => vec![SHORT_HEADS, LONG_HEADS],
        _ if kernel.name.contains("w4_split_k") => vec![W4_LONG, W4_LONG_INSIDE, W4_LONG_STACK],
        _ if kernel.name.contains("w4") => vec![W4_TILES, W4_INSIDE, W4_STACK, W4_THIN],
        _ if kernel.name.contains("i8") => vec![TILES, INSIDE, TILE_STACK, THIN, LONG_BYTES],
        _ if kernel.name.contains("scalar") => vec![ODD_TILES, ODD_INSIDE, ODD_STACK, ODD_THIN],
        _ if kernel.name.contains("split_k") => vec![LONG_TILES, LONG_INSIDE, LONG_STACK],
        _ if kernel.name.contains("direct") => vec![DIRECT, DIRECT_STACK],
        _ => vec![TILES, INSIDE, TILE_STACK, THIN],
    }
}

/// Products of matrices of 8 x 8 that the first adapter here forms by itself. Drivers for CPUs do in
/// newer versions of Mesa.
fn units_of_8x8() -> Vec<MatrixTile> {
    let first = chipmark::gpu::enumerate(None).into_iter().next();
    let opened = first.and_then(|candidate| Gpu::open(candidate, false).ok());
    let tiles = opened.map_or_else(Vec::new, |gpu| gpu.capacity.matrix_tiles);
    tiles.into_iter().filter(|tile| tile.size == 8).collect()
}

/// The product of 8 x 8 that `kernel` wants in this type, or would if it were narrower.
fn tile_of(kernel: &Kernel, dtype: Dtype) -> MatrixTile {
    let named = kernel.features.iter().find_map(|feature| match *feature {
        Feature::CooperativeMatrix(tile) => Some(MatrixTile { size: 8, ..tile }),
        _ => None,
    });
    named.unwrap_or(MatrixTile {
        size: 8,
        input: dtype.input(),
        accumulator: dtype.output(),
    })
}

/// Whether a kernel can be had in blocks of 8 x 8: of a probe of 16 x 16 its op has the size.
fn narrows(kernel: &Kernel) -> bool {
    kernel.op != OpName::MatrixFma || kernel.source.contains("coop_mat8x8")
}

/// What stands in for `kernel` in the proportions of `number`: itself in blocks of 8 x 8 on units that
/// can do that, else its twin, as for probes of 16 x 16, whose size of block is their op's. With uniform
/// data no maximum ever becomes too stale, so the first ones correct each.
fn stand_in(kernel: &Kernel, number: usize, dtype: Dtype, units: &[MatrixTile]) -> Kernel {
    let mut other = if units.contains(&tile_of(kernel, dtype)) && narrows(kernel) {
        narrowed(kernel, TWINS[number])
    } else {
        twin(kernel, TWINS[number])
    };
    if number == 0 {
        other.source = Cow::Owned(other.source.replace("GROWTH = 8.0;", "GROWTH = 0.0;"));
    }
    other
}

/// A type that real units have, if the kernel has one; else its first.
fn first_on(units: &[MatrixTile], kernel: &Kernel) -> Dtype {
    let real = |dtype: &&Dtype| units.contains(&tile_of(kernel, **dtype));
    *kernel.dtypes.iter().find(real).unwrap_or(&kernel.dtypes[0])
}

/// The shape, laid out as the kernel wants it.
fn laid_out(kernel: &Kernel, shape: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
    let mut shape = shape.to_vec();
    if kernel.name.contains("trans_b") {
        shape.push(("trans_b", 1));
    }
    shape
}

#[test]
fn matrix_kernels_are_right_and_their_mutants_are_caught() {
    let (units, twins) = (units_of_8x8(), runs_twins());
    if units.is_empty() && !twins {
        return devices::skipped("matrix_kernels_are_right");
    }
    let runs = |other: &Kernel| twins || other.source.contains("coop_mat8x8");
    let form = |other: &Kernel| {
        let real = other.source.contains("coop_mat8x8");
        if real { "on real units" } else { "as a twin" }
    };
    for kernel in kernels().iter().filter(|k| k.engine == Engine::Matrix) {
        for number in 0..TWINS.len() {
            for shape in twin_shapes(kernel) {
                let shape = laid_out(kernel, shape);
                // The types make no difference to indices, so once is enough.
                let one = [first_on(&units, kernel)];
                for &dtype in if number == 0 { kernel.dtypes } else { &one } {
                    let other = stand_in(kernel, number, dtype, &units);
                    if !runs(&other) {
                        continue;
                    }
                    let verdicts = verdicts_in(&other, &shape, dtype, Choice::Smallest);
                    assert!(
                        verdicts.iter().all(|v| matches!(v, Verdict::Right(_))),
                        "{} {dtype} {number} {shape:?}: {verdicts:?}",
                        kernel.name
                    );
                    let form = form(&other);
                    eprintln!("right: {} in {dtype} {form} ({number})", kernel.name);
                }
            }
        }
    }
    for mutant in MATRIX_MUTANTS {
        let original = kernel(mutant.kernel);
        let mutated = mutated(&original, mutant);
        let dtype = first_on(&units, &original);
        let broken = stand_in(&mutated, 0, dtype, &units);
        if !runs(&broken) {
            continue;
        }
        let shape = laid_out(&broken, mutant.shape);
        let verdicts = verdicts_in(&broken, &shape, dtype, Choice::Smallest);
        assert!(
            caught(&verdicts),
            "{} ({}): {verdicts:?}",
            mutant.what,
            mutant.kernel
        );
        let form = form(&broken);
        eprintln!("caught: {} ({}) {form}", mutant.what, mutant.kernel);
    }
}

/// Products of bytes go on in C before their sum in f32 could be rounded: the largest add up to just below
/// 2^24 by then. Sums of uniform bytes never come near that.
#[test]
fn sums_of_the_largest_bytes_are_exact() {
    let (units, twins) = (units_of_8x8(), runs_twins());
    if units.is_empty() && !twins {
        return devices::skipped("sums_of_the_largest_bytes_are_exact");
    }
    let folder = tempfile::tempdir().unwrap();
    let later = Mutant {
        what: "sums go on in C too late",
        kernel: "",
        from: "const EXACT = 1024u;",
        to: "const EXACT = 2048u;",
        shape: LONG_BYTES,
    };
    let matrix_kernels = kernels().into_iter().filter(|k| k.engine == Engine::Matrix);
    for kernel in matrix_kernels.filter(|k| k.dtypes == [Dtype::I8]) {
        let shape = Shape::of(&laid_out(&kernel, LONG_BYTES));
        let case = Case::new(OpName::Matmul, &shape, Dtype::I8).unwrap();
        let tensors = case.tensors();
        let files = tensors[..2].iter().map(|tensor| {
            let path = folder.path().join(format!(
                "{} {}.npy",
                case.id().replace('/', " "),
                tensor.name
            ));
            let count: u64 = tensor.dims.iter().product();
            // One in 16 is less in A, or units that add products by eights would add multiples of 8.
            let less = |i: u64| tensor.name == "a" && (i % shape.get("k")).is_multiple_of(16);
            let all = (0..count).map(|i| if less(i) { 126.0 } else { 127.0 });
            chipmark::npy::write(&path, &tensor.dims, all).unwrap();
            (tensor.name.to_owned(), path)
        });
        let data = [Data::Files(files.collect())];
        let verdicts = |kernel: &Kernel| {
            let stand_in = stand_in(kernel, 0, Dtype::I8, &units);
            verdicts_on(&data, &stand_in, &case, Choice::Smallest)
        };
        let right = verdicts(&kernel);
        let are_right = right.iter().all(|v| matches!(v, Verdict::Right(_)));
        assert!(are_right, "{}: {right:?}", kernel.name);
        let late = verdicts(&mutated(&kernel, &later));
        assert!(caught(&late), "{}: {late:?}", kernel.name);
    }
}

/// Matrix kernels that `wanted` keeps, laid out for `sizes` lanes of a subgroup, which are not those that
/// the driver takes, in the proportions of `number`: on real units of 8 x 8 where there are some, else as
/// twins.
fn right_for_other_subgroups(number: usize, sizes: u32, wanted: impl Fn(&Kernel) -> bool) {
    let size: &'static [u32] = vec![sizes].leak();
    let (units, kernels) = (units_of_8x8(), kernels());
    // Fewer than any GPU has.
    let fewest = format!("min(SUBGROUP_SIZE, {}u)", lanes());
    let chosen = (kernels.iter()).filter(|k| k.engine == Engine::Matrix && wanted(k));
    let mut count = 0;
    for kernel in chosen {
        let dtype = first_on(&units, kernel);
        let real = units.contains(&tile_of(kernel, dtype)) && narrows(kernel);
        let mut values = TWINS[number].to_vec();
        for (name, values) in &mut values {
            match *name {
                "SUBGROUP_SIZE" => *values = size,
                "DEPTH" => *values = &[16],
                // Places for more scores would not fit beside those of so many subgroups.
                "KEYS" if !real => *values = &[16],
                _ => {}
            }
        }
        let mut other = match real {
            true => narrowed(kernel, &values),
            false => twin(kernel, &values),
        };
        other.features = &[];
        other.source = Cow::Owned(other.source.replace("min(SUBGROUP_SIZE, 32u)", &fewest));
        let shapes = twin_shapes(kernel);
        // Drivers for CPUs take long for twins.
        for shape in shapes.iter().take(if real { shapes.len() } else { 1 }) {
            let shape = laid_out(kernel, shape);
            let verdicts = verdicts_in(&other, &shape, dtype, Choice::Smallest);
            assert!(
                verdicts.iter().all(|v| matches!(v, Verdict::Right(_))),
                "{} {dtype} {shape:?}: {verdicts:?}",
                kernel.name
            );
        }
        count += 1;
    }
    assert!(count > 0);
}

/// Lanes of a subgroup of the first adapter.
fn lanes() -> u32 {
    let limits = &chipmark::gpu::enumerate(None)[0].device.limits;
    u32::try_from(limits["subgroup_size_min"]).unwrap()
}

/// Where a driver makes subgroups larger than the smallest there may be, a workgroup has fewer of them
/// than its kernel counts on.
#[test]
fn matrix_kernels_are_right_with_fewer_subgroups_than_they_count_on() {
    if units_of_8x8().is_empty() && !runs_twins() {
        return devices::skipped("matrix_kernels_are_right_with_fewer_subgroups");
    }
    right_for_other_subgroups(1, lanes() / 2, |_| true);
}

/// And where it makes them smaller than a kernel is laid out for, there are more.
#[test]
fn matrix_kernels_for_any_subgroup_are_right_with_more_of_them_than_they_count_on() {
    if units_of_8x8().is_empty() && !runs_twins() {
        return devices::skipped("matrix_kernels_are_right_with_more_subgroups");
    }
    // Of the twin of attention one proportion has too much workgroup memory, of blocks of 8 x 8 the other
    // has too few loads for so many lanes.
    let number = usize::from(units_of_8x8().is_empty());
    right_for_other_subgroups(number, lanes() * 2, |kernel| {
        kernel.features.contains(&Feature::AnySubgroup)
    });
}
