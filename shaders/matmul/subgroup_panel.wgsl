// `subgroup_broadcast_vec4` with a panel of B kept while rows of A pass over it.
//
// DEPTH rows of B are loaded first, for all columns of the block. Then come the rows of A, each lane
// holding one of SUBGROUP_SIZE neighbouring rows in vectors of four along k: the lane that has the
// right row gives its vector to all, and the row's sums take all DEPTH products before the next row
// comes. So sums are touched once in DEPTH steps instead of in every one, which counts where they
// are too many for registers, and both operands come four to a load. n and k must be multiples of
// four.
//
// On a CPU with subgroups of 8 this is half as fast again as `subgroup_broadcast_vec4` with the same
// block of 64 rows and 2 vectors; a block of half the rows is a seventh slower and compiles in half
// the time.

const SUBGROUP_SIZE = 32u; // lanes of a subgroup
const ROWS = 32u; // rows of C per lane, and per workgroup
const VECTORS = 1u; // vectors of four columns of C per lane
const DEPTH = 4u; // steps along k between two loads of B

const TILE_M = ROWS; // rows of C per workgroup
const TILE_N = SUBGROUP_SIZE * VECTORS * 4u; // columns of C per workgroup
const GROUPS = ROWS / SUBGROUP_SIZE; // rows of A per lane
const QUADS = DEPTH / 4u; // vectors of A along a panel

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
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let n = params.n / 4u; // vectors in a row of B and C
    let k = params.k / 4u; // vectors in a row of A
    let first_row = group.x * TILE_M;
    let first_vector = group.y * (TILE_N / 4u) + lane;
    let a_first = group.z * params.m * k;
    let b_first = group.z * params.k * n;
    let c_first = group.z * params.m * n;
    // Loads are clamped into the matrices; what that invents is never stored.
    var a_row: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        a_row[g] = a_first + min(first_row + g * SUBGROUP_SIZE + lane, params.m - 1u) * k;
    }
    var b_vector: array<u32, VECTORS>;
    for (var j = 0u; j < VECTORS; j++) {
        b_vector[j] = b_first + min(first_vector + j * SUBGROUP_SIZE, n - 1u);
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
        for (var step = 0u; step < DEPTH; step++) {
            for (var j = 0u; j < VECTORS; j++) {
                b_part[step * VECTORS + j] = b[(first + step) * n + b_vector[j]];
            }
        }
        for (var g = 0u; g < GROUPS; g++) {
            var a_part: array<vec4<f32>, QUADS>;
            for (var q = 0u; q < QUADS; q++) {
                a_part[q] = a[a_row[g] + first / 4u + q];
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
        for (var s = 0u; s < 4u; s++) {
            for (var j = 0u; j < VECTORS; j++) {
                b_part[s * VECTORS + j] = b[(step + s) * n + b_vector[j]];
            }
        }
        for (var g = 0u; g < GROUPS; g++) {
            let a_part = a[a_row[g] + step / 4u];
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
