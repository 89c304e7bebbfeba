// `register_tile_trans_b` for weights of 4 bits: they become numbers on their way into workgroup
// memory.
//
// The product itself is that of any two matrices, at the price of workgroup memory for weights as
// long as sums: what 4 bits save is memory traffic, which this kernel has little of. Where m is so
// small that weights are used a few times only, another kernel is the right one.
//
// An invocation stages four neighbouring columns of C by four steps of k: half a word of each. The
// invocation that has the other half reads the same words at the same time, from the cache. Words
// and scales wait in registers while the last panel is multiplied, 8 registers a block; only then
// they are unpacked, each weight with a shift, a conversion and a multiplication. Scales are
// unpacked from 16 bits without arithmetic in f16, which not every device has.
//
// The rest, of tiles, warps, lanes, registers and groups, is as it stands in `register_tile_vec4`.
// n must be a multiple of four; k is one of 32 by itself.

alias Input = f32; // elements of A
alias Sum = f32; // sums, and elements of C

const WARPS_X = 2u; // warps along a row of C
const WARPS_Y = 2u; // warps along a column of C
const ROWS = 16u; // rows of C per invocation
const COLUMNS = 8u; // columns of C per invocation
const DEPTH = 16u; // columns of A and of transposed B staged at a time
const BUFFERS = 1u; // panels that workgroup memory holds
const GROUP = 8u; // rows of tiles in a group

const SCALED = 32u; // weights along k that share a scale

const LANES_X = 8u; // lanes of a warp along a row of C
const LANES_Y = 4u; // and along a column
const THREADS = LANES_X * LANES_Y * WARPS_X * WARPS_Y;
const TILE_M = WARPS_Y * LANES_Y * ROWS; // rows of C per workgroup
const TILE_N = WARPS_X * LANES_X * COLUMNS; // columns of C per workgroup
const ROW_VECTORS = ROWS / 4u;
const COLUMN_VECTORS = COLUMNS / 4u;
const A_STRIDE = TILE_M / 4u; // vectors from one step of the product to the next
const B_STRIDE = TILE_N / 4u;
const STEPS = DEPTH / 4u; // vectors in a row of a panel
const A_BLOCKS = A_STRIDE * STEPS; // blocks of 4 x 4 in a panel of A
const A_LOADS = (A_BLOCKS + THREADS - 1u) / THREADS; // of those, how many an invocation stages
const B_BLOCKS = B_STRIDE * STEPS;
const B_LOADS = (B_BLOCKS + THREADS - 1u) / THREADS;

const_assert ROWS % 4u == 0u && COLUMNS % 4u == 0u && DEPTH % 8u == 0u;
const_assert A_STRIDE % 8u == 0u && B_STRIDE % 8u == 0u;
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
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4<Sum>>;

var<workgroup> a_tile: array<vec4<Sum>, BUFFERS * DEPTH * A_STRIDE>;
var<workgroup> b_tile: array<vec4<Sum>, BUFFERS * DEPTH * B_STRIDE>;

// The 16 bits of a scale, in the lower half of a word.
fn scale_bits(index: u32) -> u32 {
    return scales[index / 2u] >> (index % 2u * 16u);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = params.n / 4u; // vectors in a row of C
    let k = params.k / 4u; // vectors in a row of A
    let m_last = params.m - 1u;
    let n_last = params.n - 1u;
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
    let b_first = group.z * params.n; // rows
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
        var b_next: array<vec4<u32>, B_LOADS>;
        var scale_next: array<vec4<u32>, B_LOADS>;
        for (var i = 0u; i < B_LOADS; i++) {
            let block = thread + i * THREADS;
            if (B_BLOCKS % THREADS == 0u || block < B_BLOCKS) {
                let row = (first_vector + block / (8u * STEPS) * 8u + block % 8u) * 4u;
                let step = min(first / 4u + block / 8u % STEPS, k_last);
                for (var y = 0u; y < 4u; y++) {
                    let start = (b_first + min(row + y, n_last)) * k + step; // in fours
                    b_next[i][y] = b[start / 2u];
                    scale_next[i][y] = scale_bits(start / (SCALED / 4u));
                }
            }
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
            let block = thread + i * THREADS;
            if (B_BLOCKS % THREADS == 0u || block < B_BLOCKS) {
                let row = (into * STEPS + block / 8u % STEPS) * 4u;
                let vector = block / (8u * STEPS) * 8u + block % 8u;
                let scale = vec4(
                    unpack2x16float(scale_next[i].x).x,
                    unpack2x16float(scale_next[i].y).x,
                    unpack2x16float(scale_next[i].z).x,
                    unpack2x16float(scale_next[i].w).x,
                );
                // Blocks lie in fours, so a word holds an even one and then an odd one.
                let half = b_next[i] >> vec4(block / 8u % 2u * 16u);
                for (var x = 0u; x < 4u; x++) {
                    let weights = extractBits(bitcast<vec4<i32>>(half), x * 4u, 4u);
                    b_tile[(row + x) * B_STRIDE + vector] = vec4<Sum>(vec4<f32>(weights) * scale);
                }
            }
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
