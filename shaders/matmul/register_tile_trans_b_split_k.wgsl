// `register_tile_split_k` for a B that lies as [n, k], the way a linear layer keeps its weights.
//
// Few rows times many weights make few tiles, and each of them walks the whole of a long k: most of
// a large chip would wait. Here SPLITS workgroups share a tile, each walks its part of k and leaves
// its sums in scratch memory in f32, and a second pass adds them up. The price is that pass, and C
// written SPLITS times and read again.
//
// A part is whole panels, a panel of either operand is read along k and turned in blocks of 4 x 4 as
// in `register_tile_trans_b`, and so tiles, warps and lanes are as they stand there, with one buffer.
// n and k must be multiples of four.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const WARPS_X = 2u; // warps along a row of C
const WARPS_Y = 2u; // warps along a column of C
const ROWS = 16u; // rows of C per invocation
const COLUMNS = 8u; // columns of C per invocation
const DEPTH = 16u; // columns of A and of transposed B staged at a time
const SPLITS = 4u; // parts that k is divided into

const REDUCE_THREADS = 64u; // invocations that add parts up, each a vector of C
const REDUCE_TILE = REDUCE_THREADS * 4u; // elements of C per workgroup
const LANES_X = 8u; // lanes of a warp along a row of C
const LANES_Y = 4u; // and along a column
const THREADS = LANES_X * LANES_Y * WARPS_X * WARPS_Y;
const TILE_M = WARPS_Y * LANES_Y * ROWS; // rows of C per workgroup
const TILE_N = WARPS_X * LANES_X * COLUMNS; // columns of C per workgroup
const ROW_VECTORS = ROWS / 4u;
const COLUMN_VECTORS = COLUMNS / 4u;
const A_STRIDE = TILE_M / 4u; // vectors from one row of transposed A to the next
const B_STRIDE = TILE_N / 4u;
const STEPS = DEPTH / 4u; // vectors in a row of a panel
const A_BLOCKS = A_STRIDE * STEPS; // blocks of 4 x 4 in a panel of A
const A_LOADS = (A_BLOCKS + THREADS - 1u) / THREADS; // of those, how many an invocation stages
const B_BLOCKS = B_STRIDE * STEPS;
const B_LOADS = (B_BLOCKS + THREADS - 1u) / THREADS;

const_assert ROWS % 4u == 0u && COLUMNS % 4u == 0u && DEPTH % 4u == 0u;
const_assert A_STRIDE % 8u == 0u && B_STRIDE % 8u == 0u;
const_assert THREADS <= 256u && TILE_M >= 64u && TILE_M <= 128u;
const_assert SPLITS <= 16u; // scratch memory has room for so many

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
@group(0) @binding(4) var<storage, read_write> partials: array<vec4<f32>>;

var<workgroup> a_tile: array<vec4<Sum>, DEPTH * A_STRIDE>;
var<workgroup> b_tile: array<vec4<Sum>, DEPTH * B_STRIDE>;

@compute @workgroup_size(THREADS)
fn product(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = params.n / 4u; // vectors in a row of C
    let k = params.k / 4u; // vectors in a row of A and of transposed B
    let m_last = params.m - 1u;
    let n_last = params.n - 1u;
    let k_last = k - 1u;

    let first_row = group.y * TILE_M;
    let first_vector = group.x * B_STRIDE;
    // Parts are whole panels; where there are fewer panels than parts, the last ones are empty.
    let batch = group.z / SPLITS;
    let part = group.z % SPLITS;
    let part_len = ((params.k + DEPTH - 1u) / DEPTH + SPLITS - 1u) / SPLITS * DEPTH;
    let start = part * part_len;
    let end = min(start + part_len, params.k);

    let warp = thread / (LANES_X * LANES_Y);
    let lane = thread % (LANES_X * LANES_Y);
    // First piece of this lane, in pieces from the corner of the tile.
    let piece_y = warp / WARPS_X * (LANES_Y * ROW_VECTORS) + lane / 16u * 2u + lane % 2u;
    let piece_x = warp % WARPS_X * (LANES_X * COLUMN_VECTORS) + lane / 2u % 8u;

    let a_first = batch * params.m * k;
    let b_first = batch * params.n * k;
    let part_first = (part * params.batch + batch) * params.m * n;

    var sum: array<vec4<Sum>, ROWS * COLUMN_VECTORS>;
    for (var i = 0u; i < ROWS * COLUMN_VECTORS; i++) {
        sum[i] = vec4<Sum>();
    }

    // Turn t fetches panel t and multiplies panel t - 1.
    for (var first = start; ; first += DEPTH) {
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
        var b_next: array<vec4<Input>, B_LOADS * 4u>;
        for (var i = 0u; i < B_LOADS; i++) {
            let block = thread + i * THREADS;
            if (B_BLOCKS % THREADS == 0u || block < B_BLOCKS) {
                let row = (first_vector + block / (8u * STEPS) * 8u + block % 8u) * 4u;
                let column = b_first + min(first / 4u + block / 8u % STEPS, k_last);
                for (var y = 0u; y < 4u; y++) {
                    b_next[i * 4u + y] = b[min(row + y, n_last) * k + column];
                }
            }
        }

        if (first > start) {
            for (var step = 0u; step < DEPTH; step++) {
                var a_part: array<vec4<Sum>, ROW_VECTORS>;
                for (var i = 0u; i < ROW_VECTORS; i++) {
                    a_part[i] = a_tile[piece_y + step * A_STRIDE + i * LANES_Y];
                }
                var b_part: array<vec4<Sum>, COLUMN_VECTORS>;
                for (var j = 0u; j < COLUMN_VECTORS; j++) {
                    b_part[j] = b_tile[piece_x + step * B_STRIDE + j * LANES_X];
                }
                for (var i = 0u; i < ROWS; i++) {
                    for (var j = 0u; j < COLUMN_VECTORS; j++) {
                        let at = i * COLUMN_VECTORS + j;
                        sum[at] = fma(vec4(a_part[i / 4u][i % 4u]), b_part[j], sum[at]);
                    }
                }
            }
        }
        if (first >= end) {
            break;
        }

        workgroupBarrier();
        for (var i = 0u; i < A_LOADS; i++) {
            let block = thread + i * THREADS;
            if (A_BLOCKS % THREADS == 0u || block < A_BLOCKS) {
                let row = block / 8u % STEPS * 4u;
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
                let row = block / 8u % STEPS * 4u;
                let vector = block / (8u * STEPS) * 8u + block % 8u;
                for (var x = 0u; x < 4u; x++) {
                    b_tile[(row + x) * B_STRIDE + vector] = vec4<Sum>(vec4(
                        b_next[i * 4u][x],
                        b_next[i * 4u + 1u][x],
                        b_next[i * 4u + 2u][x],
                        b_next[i * 4u + 3u][x],
                    ));
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
                    let at = i * COLUMN_VECTORS + j;
                    partials[part_first + row * n + vector] = vec4<f32>(sum[at]);
                }
            }
        }
    }
}

@compute @workgroup_size(REDUCE_THREADS)
fn reduce(@builtin(global_invocation_id) id: vec3<u32>) {
    let count = params.batch * params.m * (params.n / 4u);
    if (id.x >= count) {
        return;
    }
    var sum = vec4<f32>();
    for (var part = 0u; part < SPLITS; part++) {
        sum += partials[part * count + id.x];
    }
    c[id.x] = vec4<Sum>(sum);
}
