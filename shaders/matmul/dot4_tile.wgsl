// Register tiles of integers of 8 bits, for a B that lies as [n, k]: four products an instruction.
//
// Four neighbours along k make a word, in A as in B, and a dot product of two words adds four
// products to a sum of 32 bits at once. For all else a word is what a number is in other kernels:
// panels of words are staged in workgroup memory, an invocation reads ROWS of A and COLUMNS of B in
// each step and does ROWS * COLUMNS dot products with them.
//
// Tiles, warps and lanes are as they stand in `register_tile_vec4`. Staging is as in
// `register_tile`: an invocation loads a word each of four neighbouring rows, which make a vector,
// and its neighbours those behind it, 32 bytes of a row when DEPTH is 8. Neighbours so write to
// different rows of the tile, which are therefore one vector longer than they need be: an odd
// number of vectors leads each to a bank of its own. 128 + 24 + 32 registers at 16 x 8 sums and 128
// invocations; 8 KiB of workgroup memory at 128 x 128 x 8 words.
//
// Rows must begin with a word, so k must be a multiple of four; n must be one for the sake of C.
// Where the hardware has no such instruction it is spelt out, and this is no better than any other
// kernel.

const WARPS_X = 2u; // warps along a row of C
const WARPS_Y = 2u; // warps along a column of C
const ROWS = 16u; // rows of C per invocation
const COLUMNS = 8u; // columns of C per invocation
const DEPTH = 8u; // words of four steps of the product staged at a time

const LANES_X = 8u; // lanes of a warp along a row of C
const LANES_Y = 4u; // and along a column
const THREADS = LANES_X * LANES_Y * WARPS_X * WARPS_Y;
const TILE_M = WARPS_Y * LANES_Y * ROWS; // rows of C per workgroup
const TILE_N = WARPS_X * LANES_X * COLUMNS; // columns of C per workgroup
const ROW_VECTORS = ROWS / 4u;
const COLUMN_VECTORS = COLUMNS / 4u;
const A_STRIDE = TILE_M / 4u + 1u; // vectors from one word of k to the next
const B_STRIDE = TILE_N / 4u + 1u;
const A_LOADS = DEPTH * TILE_M / 4u / THREADS; // vectors of A that an invocation stages
const B_LOADS = DEPTH * TILE_N / 4u / THREADS;

const_assert ROWS % 4u == 0u && COLUMNS % 4u == 0u;
const_assert A_LOADS > 0u && A_LOADS * THREADS * 4u == DEPTH * TILE_M;
const_assert B_LOADS > 0u && B_LOADS * THREADS * 4u == DEPTH * TILE_N;
const_assert THREADS <= 256u && TILE_M >= 64u && TILE_M <= 128u;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<i32>>;

// A vector holds one word each of four rows of A or of four columns of B.
var<workgroup> a_tile: array<vec4<u32>, DEPTH * A_STRIDE>;
var<workgroup> b_tile: array<vec4<u32>, DEPTH * B_STRIDE>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = params.n / 4u; // vectors in a row of C
    let k = params.k / 4u; // words in a row of A and of transposed B
    let first_row = group.y * TILE_M;
    let first_vector = group.x * (TILE_N / 4u);
    let m_last = params.m - 1u;
    let n_last = params.n - 1u;
    let k_last = k - 1u;

    let warp = thread / (LANES_X * LANES_Y);
    let lane = thread % (LANES_X * LANES_Y);
    // First piece of this lane, in pieces from the corner of the tile.
    let piece_y = warp / WARPS_X * (LANES_Y * ROW_VECTORS) + lane / 16u * 2u + lane % 2u;
    let piece_x = warp % WARPS_X * (LANES_X * COLUMN_VECTORS) + lane / 2u % 8u;

    let a_first = group.z * params.m * k;
    let b_first = group.z * params.n * k;
    let c_first = group.z * params.m * n;

    var sum: array<vec4<i32>, ROWS * COLUMN_VECTORS>;
    for (var i = 0u; i < ROWS * COLUMN_VECTORS; i++) {
        sum[i] = vec4<i32>();
    }

    // Turn t fetches panel t and multiplies panel t - 1.
    for (var first = 0u; ; first += DEPTH) {
        // Loads are clamped into the matrices; what the clamping invents beyond k is made zero,
        // and what it invents beyond m and n is never stored.
        var a_next: array<vec4<u32>, A_LOADS>;
        for (var i = 0u; i < A_LOADS; i++) {
            let piece = thread + i * THREADS;
            let row = first_row + piece / DEPTH * 4u;
            let step = first + piece % DEPTH;
            let column = a_first + min(step, k_last);
            let words = vec4(
                a[min(row, m_last) * k + column],
                a[min(row + 1u, m_last) * k + column],
                a[min(row + 2u, m_last) * k + column],
                a[min(row + 3u, m_last) * k + column],
            );
            a_next[i] = select(vec4<u32>(), words, step <= k_last);
        }
        var b_next: array<vec4<u32>, B_LOADS>;
        for (var i = 0u; i < B_LOADS; i++) {
            let piece = thread + i * THREADS;
            let row = first_vector * 4u + piece / DEPTH * 4u;
            let column = b_first + min(first + piece % DEPTH, k_last);
            b_next[i] = vec4(
                b[min(row, n_last) * k + column],
                b[min(row + 1u, n_last) * k + column],
                b[min(row + 2u, n_last) * k + column],
                b[min(row + 3u, n_last) * k + column],
            );
        }

        if (first > 0u) {
            for (var step = 0u; step < DEPTH; step++) {
                var a_part: array<vec4<u32>, ROW_VECTORS>;
                for (var i = 0u; i < ROW_VECTORS; i++) {
                    a_part[i] = a_tile[step * A_STRIDE + piece_y + i * LANES_Y];
                }
                var b_part: array<vec4<u32>, COLUMN_VECTORS>;
                for (var j = 0u; j < COLUMN_VECTORS; j++) {
                    b_part[j] = b_tile[step * B_STRIDE + piece_x + j * LANES_X];
                }
                for (var i = 0u; i < ROWS; i++) {
                    let row = a_part[i / 4u][i % 4u];
                    for (var j = 0u; j < COLUMN_VECTORS; j++) {
                        sum[i * COLUMN_VECTORS + j] += vec4(
                            dot4I8Packed(row, b_part[j].x),
                            dot4I8Packed(row, b_part[j].y),
                            dot4I8Packed(row, b_part[j].z),
                            dot4I8Packed(row, b_part[j].w),
                        );
                    }
                }
            }
        }
        if (first >= k) {
            break;
        }

        workgroupBarrier();
        for (var i = 0u; i < A_LOADS; i++) {
            let piece = thread + i * THREADS;
            a_tile[piece % DEPTH * A_STRIDE + piece / DEPTH] = a_next[i];
        }
        for (var i = 0u; i < B_LOADS; i++) {
            let piece = thread + i * THREADS;
            b_tile[piece % DEPTH * B_STRIDE + piece / DEPTH] = b_next[i];
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < ROWS; i++) {
        let row = first_row + (piece_y + i / 4u * LANES_Y) * 4u + i % 4u;
        if (row < params.m) {
            for (var j = 0u; j < COLUMN_VECTORS; j++) {
                let vector = first_vector + piece_x + j * LANES_X;
                if (vector < n) {
                    c[c_first + row * n + vector] = sum[i * COLUMN_VECTORS + j];
                }
            }
        }
    }
}
