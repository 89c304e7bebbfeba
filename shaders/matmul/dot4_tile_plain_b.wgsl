// `dot4_tile` for a B that lies as [k, n]: words of four neighbours along n become words of four
// along k on their way into workgroup memory.
//
// An invocation loads the same word of four neighbouring rows of B, a block of 4 x 4 bytes, and
// turns it in its registers: first bytes trade places within pairs of rows, then halves of words
// between the pairs. The result is one word of k for each of four columns, which is the very vector
// that the tile is made of. Neighbours load neighbouring words and write neighbouring vectors.
//
// The rest is as it stands in `dot4_tile`. Rows must begin with a word, so n and k must be
// multiples of four.

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
const B_STRIDE = TILE_N / 4u;
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

const EVEN = 0x00ff00ffu; // bytes 0 and 2 of a word
const LOWER = 0x0000ffffu; // bytes 0 and 1

// The transpose of a block of 4 x 4 bytes.
fn turn(rows: vec4<u32>) -> vec4<u32> {
    // Columns 0 and 2 of the upper and the lower pair of rows, then columns 1 and 3.
    let even = (rows.xz & vec2(EVEN)) | ((rows.yw & vec2(EVEN)) << vec2(8u));
    let odd = ((rows.xz >> vec2(8u)) & vec2(EVEN)) | (rows.yw & vec2(~EVEN));
    return vec4(
        (even.x & LOWER) | (even.y << 16u),
        (odd.x & LOWER) | (odd.y << 16u),
        (even.x >> 16u) | (even.y & ~LOWER),
        (odd.x >> 16u) | (odd.y & ~LOWER),
    );
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = params.n / 4u; // vectors in a row of C, and words in one of B
    let k = params.k / 4u; // words in a row of A
    let first_row = group.y * TILE_M;
    let first_vector = group.x * (TILE_N / 4u);
    let m_last = params.m - 1u;
    let n_last = n - 1u;
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
            let word = b_first + min(first_vector + piece % B_STRIDE, n_last);
            let row = min(first + piece / B_STRIDE, k_last) * 4u;
            b_next[i] = vec4(
                b[word + row * n],
                b[word + (row + 1u) * n],
                b[word + (row + 2u) * n],
                b[word + (row + 3u) * n],
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
            b_tile[piece] = turn(b_next[i]);
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
