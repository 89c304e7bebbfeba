// A workgroup computes a large tile of C, each invocation a block of it held in registers.
//
// Panels of A and B, DEPTH deep, are staged in workgroup memory. In every step of the product an
// invocation reads ROWS values of A and COLUMNS values of B from there and does ROWS * COLUMNS
// multiply-adds with them, so the larger the block, the fewer reads per multiply-add; it ends where
// the registers do. A is kept transposed, so that both operands are read as vec4.
//
// Where the values lie decides the rest. An invocation's block is not contiguous: its vec4 pieces
// are THREADS_X (or THREADS_Y) apart, so that neighbours read neighbouring vectors and no two
// collide in a bank. A row of transposed A is padded by one vector for the same reason, because it
// is written by neighbours in different rows. While one panel is multiplied the next is already on
// its way from memory into registers, so a turn of the loop has two barriers and waits for neither.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const THREADS_X = 16u; // invocations along a row of C
const THREADS_Y = 16u; // invocations along a column of C
const ROWS = 8u; // rows of C per invocation
const COLUMNS = 8u; // columns of C per invocation
const DEPTH = 8u; // columns of A and rows of B staged at a time

const THREADS = THREADS_X * THREADS_Y;
const TILE_M = THREADS_Y * ROWS; // rows of C per workgroup
const TILE_N = THREADS_X * COLUMNS; // columns of C per workgroup
const ROW_VECTORS = ROWS / 4u;
const COLUMN_VECTORS = COLUMNS / 4u;
const A_STRIDE = TILE_M / 4u + 1u; // vectors from one row of transposed A to the next
const B_STRIDE = TILE_N / 4u;
const A_LOADS = DEPTH * TILE_M / 4u / THREADS; // vectors of A that an invocation stages
const B_LOADS = DEPTH * TILE_N / 4u / THREADS;

const_assert ROWS % 4u == 0u && COLUMNS % 4u == 0u;
const_assert A_LOADS > 0u && A_LOADS * THREADS * 4u == DEPTH * TILE_M;
const_assert B_LOADS > 0u && B_LOADS * THREADS * 4u == DEPTH * TILE_N;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Input>;
@group(0) @binding(2) var<storage, read> b: array<Input>;
@group(0) @binding(3) var<storage, read_write> c: array<Sum>;

var<workgroup> a_tile: array<vec4<Input>, DEPTH * A_STRIDE>;
var<workgroup> b_tile: array<vec4<Input>, DEPTH * B_STRIDE>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let thread = local.y * THREADS_X + local.x;
    let first_row = group.y * TILE_M;
    let first_column = group.x * TILE_N;
    let m_last = params.m - 1u;
    let n_last = params.n - 1u;
    let k_last = params.k - 1u;
    let a_first = group.z * params.m * params.k;
    let b_first = group.z * params.k * params.n;
    let c_first = group.z * params.m * params.n;

    var sum: array<vec4<Sum>, ROWS * COLUMN_VECTORS>;
    for (var i = 0u; i < ROWS * COLUMN_VECTORS; i++) {
        sum[i] = vec4<Sum>();
    }

    // Turn t fetches panel t and multiplies panel t - 1.
    for (var first = 0u; ; first += DEPTH) {
        // Loads are clamped into the matrices; what the clamping invents beyond k is made zero,
        // and what it invents beyond m and n is never stored.
        var a_next: array<vec4<Input>, A_LOADS>;
        for (var i = 0u; i < A_LOADS; i++) {
            let piece = thread + i * THREADS;
            let row = first_row + piece / DEPTH * 4u;
            let step = first + piece % DEPTH;
            let column = min(step, k_last);
            let values = vec4(
                a[a_first + min(row, m_last) * params.k + column],
                a[a_first + min(row + 1u, m_last) * params.k + column],
                a[a_first + min(row + 2u, m_last) * params.k + column],
                a[a_first + min(row + 3u, m_last) * params.k + column],
            );
            a_next[i] = select(vec4<Input>(), values, step <= k_last);
        }
        var b_next: array<vec4<Input>, B_LOADS>;
        for (var i = 0u; i < B_LOADS; i++) {
            let piece = thread + i * THREADS;
            let row = b_first + min(first + piece / B_STRIDE, k_last) * params.n;
            let column = first_column + piece % B_STRIDE * 4u;
            b_next[i] = vec4(
                b[row + min(column, n_last)],
                b[row + min(column + 1u, n_last)],
                b[row + min(column + 2u, n_last)],
                b[row + min(column + 3u, n_last)],
            );
        }

        if (first > 0u) {
            for (var step = 0u; step < DEPTH; step++) {
                var a_part: array<vec4<Sum>, ROW_VECTORS>;
                for (var i = 0u; i < ROW_VECTORS; i++) {
                    a_part[i] = vec4<Sum>(a_tile[step * A_STRIDE + i * THREADS_Y + local.y]);
                }
                var b_part: array<vec4<Sum>, COLUMN_VECTORS>;
                for (var j = 0u; j < COLUMN_VECTORS; j++) {
                    b_part[j] = vec4<Sum>(b_tile[step * B_STRIDE + j * THREADS_X + local.x]);
                }
                for (var i = 0u; i < ROWS; i++) {
                    for (var j = 0u; j < COLUMN_VECTORS; j++) {
                        let at = i * COLUMN_VECTORS + j;
                        sum[at] = fma(vec4(a_part[i / 4u][i % 4u]), b_part[j], sum[at]);
                    }
                }
            }
        }
        if (first >= params.k) {
            break;
        }

        workgroupBarrier();
        for (var i = 0u; i < A_LOADS; i++) {
            let piece = thread + i * THREADS;
            a_tile[piece % DEPTH * A_STRIDE + piece / DEPTH] = a_next[i];
        }
        for (var i = 0u; i < B_LOADS; i++) {
            b_tile[thread + i * THREADS] = b_next[i];
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < ROWS; i++) {
        let row = first_row + (i / 4u * THREADS_Y + local.y) * 4u + i % 4u;
        if (row < params.m) {
            for (var j = 0u; j < COLUMN_VECTORS; j++) {
                let column = first_column + (j * THREADS_X + local.x) * 4u;
                for (var x = 0u; x < 4u; x++) {
                    if (column + x < params.n) {
                        c[c_first + row * params.n + column + x] = sum[i * COLUMN_VECTORS + j][x];
                    }
                }
            }
        }
    }
}
