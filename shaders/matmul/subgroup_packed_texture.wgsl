// `subgroup_packed_u64` with the copies in a texture instead of a buffer.
//
// Some devices read an image for all lanes at once, four floats to each, but walk through the lanes of
// a load from a buffer and test each against the end: software that runs shaders on a CPU, to which it
// is worth a third to a half of the time. Two passes write blocks of TILE_M rows of A as
// [k / 4][rows] and panels of TILE_N columns of B as [k][columns] vectors of four, one after the other
// along the rows of the texture; the product reads both from beginning to end. The copies cost one
// load and one store an element and belong to the time of the kernel. With loads this cheap a tile
// need not be large: one whose unrolled turn fits the first cache of instructions is the fastest.

const SUBGROUP_SIZE = 32u; // lanes of a subgroup
const ROWS = 32u; // rows of C per lane, and per workgroup
const VECTORS = 1u; // vectors of four columns of C per lane
const DEPTH = 4u; // steps along k between two loads of B

const TILE_M = ROWS; // rows of C per workgroup
const TILE_N = SUBGROUP_SIZE * VECTORS * 4u; // columns of C per workgroup
const TEXTURE_WIDTH = 4096u; // texels in a row of the texture, a power of two
const TILE_VECTORS = TILE_N / 4u; // vectors in a row of a panel of B
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
// Blocks of A and panels of B: what the copies write and what the product reads are one texture.
@group(0) @binding(4) var written: texture_storage_2d<rgba32float, write>;
@group(0) @binding(5) var packed: texture_storage_2d<rgba32float, read>;

// Where vector `index` lies.
fn texel(index: u32) -> vec2<u32> {
    return vec2(index % TEXTURE_WIDTH, index / TEXTURE_WIDTH);
}

// Where the panels of B begin.
fn panels_first() -> u32 {
    return params.batch * params.m * (params.k / 4u);
}

// A workgroup moves one row of A.
@compute @workgroup_size(SUBGROUP_SIZE)
fn pack_a(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let k = params.k / 4u;
    let matrix = group.z * params.m * k;
    let row = group.x;
    let first_row = row / TILE_M * TILE_M;
    let rows = min(TILE_M, params.m - first_row);
    for (var q = lane; q < k; q += SUBGROUP_SIZE) {
        let at = matrix + first_row * k + q * rows + (row - first_row);
        textureStore(written, texel(at), a[matrix + row * k + q]);
    }
}

// A workgroup moves one row of B.
@compute @workgroup_size(SUBGROUP_SIZE)
fn pack_b(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = params.n / 4u;
    let matrix = group.z * params.k * n;
    let row = group.x;
    for (var vector = lane; vector < n; vector += SUBGROUP_SIZE) {
        let first_vector = vector / TILE_VECTORS * TILE_VECTORS;
        let vectors = min(TILE_VECTORS, n - first_vector);
        let at = first_vector * params.k + row * vectors + (vector - first_vector);
        textureStore(written, texel(panels_first() + matrix + at), b[matrix + row * n + vector]);
    }
}

@compute @workgroup_size(SUBGROUP_SIZE)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let n = params.n / 4u; // vectors in a row of B and C
    let k = params.k / 4u; // vectors in a row of A
    let first_row = group.x * TILE_M;
    let rows = min(TILE_M, params.m - first_row);
    let first_vector = group.y * TILE_VECTORS;
    let vectors = min(TILE_VECTORS, n - first_vector);
    let c_first = group.z * params.m * n;
    // Loads are clamped into the block and the panel; what that invents is never stored.
    let block = (group.z * params.m + first_row) * k;
    var a_row: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        a_row[g] = block + min(g * SUBGROUP_SIZE + lane, rows - 1u);
    }
    let panel = panels_first() + group.z * params.k * n + first_vector * params.k;
    var b_vector: array<u32, VECTORS>;
    for (var j = 0u; j < VECTORS; j++) {
        b_vector[j] = panel + min(j * SUBGROUP_SIZE + lane, vectors - 1u);
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
                let at = (first + step) * vectors + b_vector[j];
                b_part[step * VECTORS + j] = textureLoad(packed, texel(at));
            }
        }
        for (var g = 0u; g < GROUPS; g++) {
            var a_part: array<vec4<f32>, QUADS>;
            for (var q = 0u; q < QUADS; q++) {
                let at = (first / 4u + q) * rows + a_row[g];
                a_part[q] = textureLoad(packed, texel(at));
            }
            // A vector of columns at a time, so that its part of B stays in registers for all rows.
            for (var j = 0u; j < VECTORS; j++) {
                for (var r = 0u; r < SUBGROUP_SIZE; r++) {
                    let slot = (g * SUBGROUP_SIZE + r) * VECTORS + j;
                    for (var q = 0u; q < QUADS; q++) {
                        let a_value = subgroupShuffle(a_part[q], r);
                        for (var s = 0u; s < 4u; s++) {
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
                let at = (step + s) * vectors + b_vector[j];
                b_part[s * VECTORS + j] = textureLoad(packed, texel(at));
            }
        }
        for (var g = 0u; g < GROUPS; g++) {
            let a_part = textureLoad(packed, texel(step / 4u * rows + a_row[g]));
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
                let vector = first_vector + j * SUBGROUP_SIZE + lane;
                if (vector < n) {
                    c[c_first + (first_row + i) * n + vector] = sum[i * VECTORS + j];
                }
            }
        }
    }
}
