// `register_tile` with matrices in vectors of four, and one more level of tiles: that of a warp.
//
// A workgroup's tile of C is divided among warps, groups of 32 neighbouring invocations that
// hardware runs in step, and a warp's part among its lanes, 4 down and 8 along. A lane's block is
// not contiguous: it consists of 4 x 4 pieces that lie LANES_Y * 4 rows and LANES_X * 4 columns
// apart. So in each step of the product the lanes of a warp read a few vectors, each wanted by
// several of them at once, and all of them neighbours: no two different ones are in the same bank.
// Lanes are counted in zigzag, so that every quarter of a warp, which is what a 16-byte read is
// served by, covers 2 x 4 pieces and needs no more than 2 vectors of A and 4 of B.
//
// A is kept transposed, as vectors of four rows. An invocation loads four neighbouring rows of A,
// four columns of each, turns that block in its registers and stores it as four vectors; its
// neighbours store the vectors beside those, so that rows of the tile need no padding. f16 becomes
// Sum on that way and not in the product, where every value is read many times.
//
// Per lane: ROWS * COLUMNS sums, ROWS + COLUMNS operands, and the next panel, which is on its way
// from memory while the last one is multiplied. With 128 invocations and 16 x 8 sums that is 128 +
// 24 + 32 registers and some twenty for addresses, so two workgroups of 128 x 128 fit a
// multiprocessor of 65536 registers; with 256 invocations and 8 x 8 sums it is 64 + 16 + 24, which
// leaves room for two as well. Workgroup memory: BUFFERS * DEPTH * (TILE_M + TILE_N) sums, 16 KiB
// of f32 at 128 x 128 x 16. Two buffers save one of two barriers a turn.
//
// Workgroups are counted in groups of GROUP rows of tiles, within a group column by column: those
// that run together share their rows of A and their columns of B in the cache. n and k must be
// multiples of four.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const WARPS_X = 2u; // warps along a row of C
const WARPS_Y = 2u; // warps along a column of C
const ROWS = 16u; // rows of C per invocation
const COLUMNS = 8u; // columns of C per invocation
const DEPTH = 16u; // columns of A and rows of B staged at a time
const BUFFERS = 1u; // panels that workgroup memory holds
const GROUP = 8u; // rows of tiles in a group

const LANES_X = 8u; // lanes of a warp along a row of C
const LANES_Y = 4u; // and along a column
const THREADS = LANES_X * LANES_Y * WARPS_X * WARPS_Y;
const TILE_M = WARPS_Y * LANES_Y * ROWS; // rows of C per workgroup
const TILE_N = WARPS_X * LANES_X * COLUMNS; // columns of C per workgroup
const ROW_VECTORS = ROWS / 4u;
const COLUMN_VECTORS = COLUMNS / 4u;
const A_STRIDE = TILE_M / 4u; // vectors from one row of transposed A to the next
const B_STRIDE = TILE_N / 4u;
const STEPS = DEPTH / 4u; // vectors in a row of a panel of A
const A_BLOCKS = A_STRIDE * STEPS; // blocks of 4 x 4 in a panel of A
const A_LOADS = (A_BLOCKS + THREADS - 1u) / THREADS; // of those, how many an invocation stages
const B_LOADS = DEPTH * B_STRIDE / THREADS; // vectors of B that an invocation stages

const_assert ROWS % 4u == 0u && COLUMNS % 4u == 0u && DEPTH % 4u == 0u && A_STRIDE % 8u == 0u;
const_assert B_LOADS > 0u && B_LOADS * THREADS == DEPTH * B_STRIDE;
const_assert THREADS <= 256u && TILE_M >= 64u && TILE_M <= 128u;
// Shallow panels are for two buffers, deep ones for one.
const_assert DEPTH == 16u || (DEPTH > 16u) == (BUFFERS == 1u);

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<Input>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<Input>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<Sum>>;

var<workgroup> a_tile: array<vec4<Sum>, BUFFERS * DEPTH * A_STRIDE>;
var<workgroup> b_tile: array<vec4<Sum>, BUFFERS * DEPTH * B_STRIDE>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = params.n / 4u; // vectors in a row of B and C
    let k = params.k / 4u; // vectors in a row of A
    let m_last = params.m - 1u;
    let n_last = n - 1u;
    let k_last = k - 1u;

    let tiles_x = (params.n + TILE_N - 1u) / TILE_N;
    let tiles_y = (params.m + TILE_M - 1u) / TILE_M;
    let place = group.y * tiles_x + group.x;
    let group_first = place / (GROUP * tiles_x) * GROUP;
    let group_rows = min(GROUP, tiles_y - group_first);
    let first_row = (group_first + place % (GROUP * tiles_x) % group_rows) * TILE_M;
    let first_vector = place % (GROUP * tiles_x) / group_rows * B_STRIDE;

    let warp = thread / (LANES_X * LANES_Y);
    let lane = thread % (LANES_X * LANES_Y);
    // First piece of this lane, in pieces from the corner of the tile.
    let piece_y = warp / WARPS_X * (LANES_Y * ROW_VECTORS) + lane / 16u * 2u + lane % 2u;
    let piece_x = warp % WARPS_X * (LANES_X * COLUMN_VECTORS) + lane / 2u % 8u;

    let a_first = group.z * params.m * k;
    let b_first = group.z * params.k * n;
    let c_first = group.z * params.m * n;

    var sum: array<vec4<Sum>, ROWS * COLUMN_VECTORS>;
    for (var i = 0u; i < ROWS * COLUMN_VECTORS; i++) {
        sum[i] = vec4<Sum>();
    }

    // Turn t fetches panel t and multiplies panel t - 1.
    for (var first = 0u; ; first += DEPTH) {
        // Loads are clamped into the matrices; what the clamping invents beyond k is made zero,
        // and what it invents beyond m and n is never stored.
        var a_next: array<vec4<Input>, A_LOADS * 4u>;
        for (var i = 0u; i < A_LOADS; i++) {
            let block = thread + i * THREADS;
            if (A_BLOCKS % THREADS == 0u || block < A_BLOCKS) {
                let row = first_row + (block / (8u * STEPS) * 8u + block % 8u) * 4u;
                let step = first / 4u + block / 8u % STEPS;
                let column = a_first + min(step, k_last);
                for (var y = 0u; y < 4u; y++) {
                    let values = a[min(row + y, m_last) * k + column];
                    a_next[i * 4u + y] = select(vec4<Input>(), values, step <= k_last);
                }
            }
        }
        var b_next: array<vec4<Input>, B_LOADS>;
        for (var i = 0u; i < B_LOADS; i++) {
            let piece = thread + i * THREADS;
            let row = b_first + min(first + piece / B_STRIDE, params.k - 1u) * n;
            b_next[i] = b[row + min(first_vector + piece % B_STRIDE, n_last)];
        }

        let into = first / DEPTH % BUFFERS;
        if (first > 0u) {
            let out_of = (into + BUFFERS - 1u) % BUFFERS;
            let a_from = out_of * (DEPTH * A_STRIDE) + piece_y;
            let b_from = out_of * (DEPTH * B_STRIDE) + piece_x;
            for (var step = 0u; step < DEPTH; step++) {
                var a_part: array<vec4<Sum>, ROW_VECTORS>;
                for (var i = 0u; i < ROW_VECTORS; i++) {
                    a_part[i] = a_tile[a_from + step * A_STRIDE + i * LANES_Y];
                }
                var b_part: array<vec4<Sum>, COLUMN_VECTORS>;
                for (var j = 0u; j < COLUMN_VECTORS; j++) {
                    b_part[j] = b_tile[b_from + step * B_STRIDE + j * LANES_X];
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

        // With two buffers the one that is filled was last read before the barrier of the turn
        // before.
        if (BUFFERS == 1u) {
            workgroupBarrier();
        }
        for (var i = 0u; i < A_LOADS; i++) {
            let block = thread + i * THREADS;
            if (A_BLOCKS % THREADS == 0u || block < A_BLOCKS) {
                let row = (into * STEPS + block / 8u % STEPS) * 4u;
                let vector = block / (8u * STEPS) * 8u + block % 8u;
                for (var x = 0u; x < 4u; x++) {
                    a_tile[(row + x) * A_STRIDE + vector] = vec4<Sum>(vec4(
                        a_next[i * 4u][x],
                        a_next[i * 4u + 1u][x],
                        a_next[i * 4u + 2u][x],
                        a_next[i * 4u + 3u][x],
                    ));
                }
            }
        }
        for (var i = 0u; i < B_LOADS; i++) {
            b_tile[into * (DEPTH * B_STRIDE) + thread + i * THREADS] = vec4<Sum>(b_next[i]);
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
