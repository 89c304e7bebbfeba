// `subgroup_broadcast` with B and C as vectors of four: a lane's columns come four to a load.
//
// One load of B then brings four columns, which matters where a load costs much more than the
// multiply-adds that use it. n must be a multiple of four. On a CPU with subgroups of 8 this is
// nearly twice as fast as the scalar kernel, and the largest block (64 rows, 2 vectors) the best or
// close.

const SUBGROUP_SIZE = 32u; // lanes of a subgroup
const ROWS = 16u; // rows of C per lane, and per workgroup
const VECTORS = 1u; // vectors of four columns of C per lane

const TILE_M = ROWS; // rows of C per workgroup
const TILE_N = SUBGROUP_SIZE * VECTORS * 4u; // columns of C per workgroup

const_assert ROWS * VECTORS <= 128u; // more sums than this only spill
const_assert SUBGROUP_SIZE * ROWS * VECTORS <= 1024u; // a block fits an instruction cache

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let n = params.n / 4u; // vectors in a row of B and C
    let first_row = group.x * TILE_M;
    let first_vector = group.y * (TILE_N / 4u) + lane;
    let a_first = group.z * params.m * params.k;
    let b_first = group.z * params.k * n;
    let c_first = group.z * params.m * n;
    // Loads are clamped into the matrices; what that invents is never stored.
    var a_row: array<u32, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        a_row[i] = a_first + min(first_row + i, params.m - 1u) * params.k;
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

    let whole = params.k - params.k % SUBGROUP_SIZE;
    for (var first = 0u; first < whole; first += SUBGROUP_SIZE) {
        var a_part: array<f32, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            a_part[i] = a[a_row[i] + first + lane];
        }
        for (var step = 0u; step < SUBGROUP_SIZE; step++) {
            var b_part: array<vec4<f32>, VECTORS>;
            for (var j = 0u; j < VECTORS; j++) {
                b_part[j] = b[(first + step) * n + b_vector[j]];
            }
            for (var i = 0u; i < ROWS; i++) {
                let a_value = subgroupShuffle(a_part[i], step);
                for (var j = 0u; j < VECTORS; j++) {
                    sum[i * VECTORS + j] = fma(vec4(a_value), b_part[j], sum[i * VECTORS + j]);
                }
            }
        }
    }
    for (var step = whole; step < params.k; step++) {
        var b_part: array<vec4<f32>, VECTORS>;
        for (var j = 0u; j < VECTORS; j++) {
            b_part[j] = b[step * n + b_vector[j]];
        }
        for (var i = 0u; i < ROWS; i++) {
            let a_value = a[a_row[i] + step];
            for (var j = 0u; j < VECTORS; j++) {
                sum[i * VECTORS + j] = fma(vec4(a_value), b_part[j], sum[i * VECTORS + j]);
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
