// `subgroup_panel_trans_b` for binary16 read as words: two elements to each, and four to a load.
//
// The halves are unpacked to f32 by a built-in function that asks for no arithmetic in f16, once for
// every element of a panel; what follows is in f32. It runs on devices without f16 too. n and k must
// be multiples of four.

const SUBGROUP_SIZE = 32u; // lanes of a subgroup
const ROWS = 32u; // rows of C per lane, and per workgroup
const VECTORS = 1u; // vectors of four columns of C per lane
const DEPTH = 4u; // steps along k between two loads of B

const TILE_M = ROWS; // rows of C per workgroup
const TILE_N = SUBGROUP_SIZE * VECTORS * 4u; // columns of C per workgroup
const GROUPS = ROWS / SUBGROUP_SIZE; // rows of A per lane
const QUADS = DEPTH / 4u; // vectors of A and of transposed B along a panel

const_assert GROUPS > 0u && GROUPS * SUBGROUP_SIZE == ROWS;
const_assert QUADS > 0u && QUADS * 4u == DEPTH;
const_assert ROWS * VECTORS <= 128u; // more sums than this only spill
const_assert ROWS * VECTORS * DEPTH <= 1024u; // unrolled, more takes some drivers minutes to compile

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> b: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

// Four elements that were loaded as two words.
fn unpack(words: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

// Four elements along k of each of four rows of B, as one vector for each step.
fn turn(first: u32, row: u32) -> mat4x4<f32> {
    return transpose(mat4x4(
        unpack(b[first]),
        unpack(b[first + row]),
        unpack(b[first + 2u * row]),
        unpack(b[first + 3u * row]),
    ));
}

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let n = params.n / 4u; // vectors in a row of C
    let k = params.k / 4u; // vectors in a row of A and of transposed B
    let first_row = group.x * TILE_M;
    let first_vector = group.y * (TILE_N / 4u) + lane;
    let a_first = group.z * params.m * k;
    let b_first = group.z * params.n * k;
    let c_first = group.z * params.m * n;
    // Loads are clamped into the matrices; what that invents is never stored.
    var a_row: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        a_row[g] = a_first + min(first_row + g * SUBGROUP_SIZE + lane, params.m - 1u) * k;
    }
    var b_row: array<u32, VECTORS>;
    for (var j = 0u; j < VECTORS; j++) {
        b_row[j] = b_first + min(first_vector + j * SUBGROUP_SIZE, n - 1u) * 4u * k;
    }
    var sum: array<vec4<f32>, ROWS * VECTORS>;
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < VECTORS; j++) {
            sum[i * VECTORS + j] = vec4<f32>();
        }
    }

    let whole = params.k - params.k % DEPTH;
    for (var first = 0u; first < whole; first += DEPTH) {
        var b_part: array<vec4<f32>, DEPTH * VECTORS>;
        for (var q = 0u; q < QUADS; q++) {
            for (var j = 0u; j < VECTORS; j++) {
                let steps = turn(b_row[j] + first / 4u + q, k);
                for (var s = 0u; s < 4u; s++) {
                    b_part[(q * 4u + s) * VECTORS + j] = steps[s];
                }
            }
        }
        for (var g = 0u; g < GROUPS; g++) {
            var a_part: array<vec4<f32>, QUADS>;
            for (var q = 0u; q < QUADS; q++) {
                a_part[q] = unpack(a[a_row[g] + first / 4u + q]);
            }
            for (var r = 0u; r < SUBGROUP_SIZE; r++) {
                for (var q = 0u; q < QUADS; q++) {
                    let a_value = subgroupShuffle(a_part[q], r);
                    for (var s = 0u; s < 4u; s++) {
                        for (var j = 0u; j < VECTORS; j++) {
                            let slot = (g * SUBGROUP_SIZE + r) * VECTORS + j;
                            let b_value = b_part[(q * 4u + s) * VECTORS + j];
                            sum[slot] = fma(vec4(a_value[s]), b_value, sum[slot]);
                        }
                    }
                }
            }
        }
    }
    for (var step = whole; step < params.k; step += 4u) {
        var b_part: array<vec4<f32>, 4u * VECTORS>;
        for (var j = 0u; j < VECTORS; j++) {
            let steps = turn(b_row[j] + step / 4u, k);
            for (var s = 0u; s < 4u; s++) {
                b_part[s * VECTORS + j] = steps[s];
            }
        }
        for (var g = 0u; g < GROUPS; g++) {
            let a_part = unpack(a[a_row[g] + step / 4u]);
            for (var r = 0u; r < SUBGROUP_SIZE; r++) {
                let a_value = subgroupShuffle(a_part, r);
                for (var s = 0u; s < 4u; s++) {
                    for (var j = 0u; j < VECTORS; j++) {
                        let slot = (g * SUBGROUP_SIZE + r) * VECTORS + j;
                        sum[slot] = fma(vec4(a_value[s]), b_part[s * VECTORS + j], sum[slot]);
                    }
                }
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        if (first_row + i < params.m) {
            for (var j = 0u; j < VECTORS; j++) {
                let vector = first_vector + j * SUBGROUP_SIZE;
                if (vector < n) {
                    c[c_first + (first_row + i) * n + vector] = sum[i * VECTORS + j];
                }
            }
        }
    }
}
