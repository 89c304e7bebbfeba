// `subgroup_packed_texture` for rows of any length, B in either layout, and f16.
//
// The copies load an element at a time, where it lies, and write vectors of four f32, the last of a row
// padded: B with zeros beyond k, which whatever A has there meets, and anything beyond n. What lies
// packed is a product of whole vectors, and from there on it is the same kernel; only C is stored an
// element at a time again.

alias Input = f32; // elements of A and B

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
const VECTOR = 4u; // elements of a vector

const_assert GROUPS > 0u && GROUPS * SUBGROUP_SIZE == ROWS;
const_assert QUADS > 0u && QUADS * 4u == DEPTH;
const_assert ROWS * VECTORS <= 128u; // more sums than this only spill
const_assert ROWS * VECTORS * DEPTH <= 1024u; // unrolled, more takes some drivers minutes to compile

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    b_row_stride: u32,
    b_column_stride: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Input>;
@group(0) @binding(2) var<storage, read> b: array<Input>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
// Blocks of A and panels of B: what the copies write and what the product reads are one texture.
@group(0) @binding(4) var written: texture_storage_2d<rgba32float, write>;
@group(0) @binding(5) var packed: texture_storage_2d<rgba32float, read>;

// Where vector `index` lies.
fn texel(index: u32) -> vec2<u32> {
    return vec2(index % TEXTURE_WIDTH, index / TEXTURE_WIDTH);
}

// Vectors in a row of A, and in one of B and C, the last one padded.
fn vectors_of(length: u32) -> u32 {
    return (length + VECTOR - 1u) / VECTOR;
}

// Where the panels of B begin.
fn panels_first() -> u32 {
    return params.batch * params.m * vectors_of(params.k);
}

// A workgroup moves one row of A.
@compute @workgroup_size(SUBGROUP_SIZE)
fn pack_a(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let k = vectors_of(params.k);
    let row = group.x;
    let start = (group.z * params.m + row) * params.k;
    let first_row = row / TILE_M * TILE_M;
    let rows = min(TILE_M, params.m - first_row);
    for (var q = lane; q < k; q += SUBGROUP_SIZE) {
        var values: vec4<f32>;
        for (var e = 0u; e < VECTOR; e++) {
            let column = q * VECTOR + e;
            values[e] = f32(a[start + min(column, params.k - 1u)]);
        }
        let at = (group.z * params.m + first_row) * k + q * rows + (row - first_row);
        textureStore(written, texel(at), values);
    }
}

// A workgroup moves four rows of B, and of the last ones those that are not there.
@compute @workgroup_size(SUBGROUP_SIZE)
fn pack_b(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = vectors_of(params.n);
    let k = vectors_of(params.k) * VECTOR; // rows with the padding
    for (var r = 0u; r < VECTOR; r++) {
        let row = group.x * VECTOR + r;
        let start = group.z * params.k * params.n + min(row, params.k - 1u) * params.b_row_stride;
        for (var vector = lane; vector < n; vector += SUBGROUP_SIZE) {
            var values: vec4<f32>;
            for (var e = 0u; e < VECTOR; e++) {
                let column = vector * VECTOR + e;
                let value = f32(b[start + min(column, params.n - 1u) * params.b_column_stride]);
                values[e] = select(0.0, value, row < params.k);
            }
            let first_vector = vector / TILE_VECTORS * TILE_VECTORS;
            let vectors = min(TILE_VECTORS, n - first_vector);
            let at = group.z * k * n + first_vector * k + row * vectors + (vector - first_vector);
            textureStore(written, texel(panels_first() + at), values);
        }
    }
}

@compute @workgroup_size(SUBGROUP_SIZE)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let n = vectors_of(params.n); // vectors in a row of B and C
    let k = vectors_of(params.k); // vectors in a row of A
    let steps = k * VECTOR; // along k, with the padding
    let first_row = group.x * TILE_M;
    let rows = min(TILE_M, params.m - first_row);
    let first_vector = group.y * TILE_VECTORS;
    let vectors = min(TILE_VECTORS, n - first_vector);
    let c_first = group.z * params.m * params.n;
    // Loads are clamped into the block and the panel; what that invents is never stored.
    let block = (group.z * params.m + first_row) * k;
    var a_row: array<u32, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        a_row[g] = block + min(g * SUBGROUP_SIZE + lane, rows - 1u);
    }
    let panel = panels_first() + group.z * steps * n + first_vector * steps;
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

    let whole = steps - steps % DEPTH;
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
    for (var step = whole; step < steps; step += 4u) {
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
                let column = (first_vector + j * SUBGROUP_SIZE + lane) * VECTOR;
                for (var e = 0u; e < VECTOR; e++) {
                    if (column + e < params.n) {
                        let at = c_first + (first_row + i) * params.n + column + e;
                        c[at] = sum[i * VECTORS + j][e];
                    }
                }
            }
        }
    }
}
