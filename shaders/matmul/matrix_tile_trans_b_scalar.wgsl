// `matrix_tile_trans_b` for a k that four does not divide: rows of A and of B, which are k long, then
// begin anywhere, and operands are loaded an element at a time, which needs no alignment.
//
// What is staged is the same, four elements to a vector with zeros beyond k, so all from workgroup
// memory on is as it stands in `matrix_tile_trans_b`, at the price of four times the loads.
//
// As it stands it has 38,912 bytes of workgroup memory.

enable f16;
enable wgpu_cooperative_matrix;

alias Input = f16; // elements of A and B
alias Sum = f32; // sums, and elements of C

const SUBGROUP_SIZE = 32u;
const SUBGROUPS_M = 2u; // subgroups along a column of C
const SUBGROUPS_N = 4u; // subgroups along a row of C
const ROWS = 4u; // blocks along a column of C per subgroup
const COLUMNS = 4u; // blocks along a row of C per subgroup
const DEPTH = 32u; // columns of A and rows of B staged at a time
const GROUP = 8u; // tiles down a column before the next column

const BLOCK = 16u;
const ELEMENTS = BLOCK * BLOCK;
const SUBGROUPS = SUBGROUPS_M * SUBGROUPS_N;
const THREADS = SUBGROUP_SIZE * SUBGROUPS;
const TILE_M = SUBGROUPS_M * ROWS * BLOCK; // rows of C per workgroup
const TILE_N = SUBGROUPS_N * COLUMNS * BLOCK; // columns of C per workgroup
const VECTORS = DEPTH / 4u; // in a row of a panel
const STRIDE = VECTORS + 2u; // vectors from one row to the next
const TOGETHER = max(16u / VECTORS, 1u); // rows that 16 invocations store to
const A_LOADS = TILE_M * VECTORS / THREADS; // vectors of A that an invocation stages
const B_LOADS = TILE_N * VECTORS / THREADS;
const PER_LANE = ELEMENTS / min(SUBGROUP_SIZE, 32u); // of one block, where lanes are fewest

const_assert DEPTH % BLOCK == 0u;
const_assert ROWS * COLUMNS * PER_LANE <= 128u; // the sums fit the registers
const_assert A_LOADS > 0u && A_LOADS * THREADS == TILE_M * VECTORS;
const_assert B_LOADS > 0u && B_LOADS * THREADS == TILE_N * VECTORS;
const_assert A_LOADS + B_LOADS <= 24u; // and so do the next panels
const_assert countOneBits(THREADS) * countOneBits(VECTORS) == 1u; // see `whole`

alias MatrixA = coop_mat16x16<Input, A>;
alias MatrixB = coop_mat16x16<Input, B>;
alias MatrixC = coop_mat16x16<Sum, C>;

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

var<workgroup> a_tile: array<vec4<Input>, TILE_M * STRIDE>;
var<workgroup> b_tile: array<vec4<Input>, TILE_N * STRIDE>;
var<workgroup> stage: array<Sum, SUBGROUPS * ELEMENTS>; // one block for each subgroup

// Which row of its panel vector `piece` is in. Stores of 8 bytes are served for 16 invocations at a
// time, so for TOGETHER rows where these are short. The padding keeps eight neighbouring rows in banks
// of their own for loads of 16 bytes each; for such stores rows 8 / TOGETHER apart are.
fn row_of(piece: u32) -> u32 {
    let order = piece / VECTORS;
    return order / 8u * 8u + order % TOGETHER * (8u / TOGETHER) + order % 8u / TOGETHER;
}

// Vector `piece` of the panel of A that begins at column `first`, zero beyond k.
fn piece_of_a(a_first: u32, first_row: u32, first: u32, piece: u32) -> vec4<Input> {
    let row = min(first_row + row_of(piece), params.m - 1u);
    let columns = vec4(first + piece % VECTORS * 4u) + vec4(0u, 1u, 2u, 3u);
    let at = vec4(a_first + row * params.k) + min(columns, vec4(params.k - 1u));
    let values = vec4<Input>(a[at.x], a[at.y], a[at.z], a[at.w]);
    return select(vec4<Input>(), values, columns < vec4(params.k));
}

// The same of B, row by row as it lies; beyond k it meets zeros of A.
fn piece_of_b(b_first: u32, first_column: u32, first: u32, piece: u32) -> vec4<Input> {
    let row = min(first_column + row_of(piece), params.n - 1u);
    let columns = vec4(first + piece % VECTORS * 4u) + vec4(0u, 1u, 2u, 3u);
    let at = vec4(b_first + row * params.k) + min(columns, vec4(params.k - 1u));
    return vec4<Input>(b[at.x], b[at.y], b[at.z], b[at.w]);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroup_count: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let order = group.y * groups.x + group.x;
    let band = GROUP * groups.x; // tiles in a band of GROUP rows of tiles
    let band_first = order / band * GROUP;
    let band_rows = min(groups.y - band_first, GROUP);
    let first_row = (band_first + order % band % band_rows) * TILE_M;
    let first_column = order % band / band_rows * TILE_N;
    let a_first = group.z * params.m * params.k;
    let b_first = group.z * params.n * params.k;
    let c_first = group.z * params.m * params.n;
    // A panel that lies wholly inside A and B needs no limits. There an invocation's pieces are at one place
    // and at steps from it that are the same for all: where piece `on` is, for in powers of two places add up.
    let whole = first_row + TILE_M <= params.m && first_column + TILE_N <= params.n;
    let a_row = params.k;
    let b_row = params.k;
    let a_own = a_first + (first_row + row_of(local)) * a_row + local % VECTORS * 4u;
    let b_own = b_first + (first_column + row_of(local)) * b_row + local % VECTORS * 4u;
    // Rows of C must begin at 16 bytes for a block to be stored there.
    let inside = whole && params.n % 8u == 0u;

    for (var turn = 0u; turn < SUBGROUPS; turn += subgroup_count) {
        let own = min(turn + subgroup, SUBGROUPS - 1u);
        let own_row = own / SUBGROUPS_N * ROWS * BLOCK;
        let own_column = own % SUBGROUPS_N * COLUMNS * BLOCK;
        var sum: array<MatrixC, ROWS * COLUMNS>;
        for (var i = 0u; i < ROWS * COLUMNS; i++) {
            sum[i] = MatrixC();
        }

        var a_next: array<vec4<Input>, A_LOADS>;
        for (var i = 0u; i < A_LOADS; i++) {
            a_next[i] = piece_of_a(a_first, first_row, 0u, local + i * THREADS);
        }
        var b_next: array<vec4<Input>, B_LOADS>;
        for (var i = 0u; i < B_LOADS; i++) {
            b_next[i] = piece_of_b(b_first, first_column, 0u, local + i * THREADS);
        }
        for (var first = 0u; first < params.k; first += DEPTH) {
            workgroupBarrier();
            for (var i = 0u; i < A_LOADS; i++) {
                let piece = local + i * THREADS;
                a_tile[row_of(piece) * STRIDE + piece % VECTORS] = a_next[i];
            }
            for (var i = 0u; i < B_LOADS; i++) {
                let piece = local + i * THREADS;
                b_tile[row_of(piece) * STRIDE + piece % VECTORS] = b_next[i];
            }
            workgroupBarrier();

            let next = first + DEPTH;
            if (whole && next + DEPTH <= params.k) {
                for (var i = 0u; i < A_LOADS; i++) {
                    let on = i * THREADS;
                    let at = a_own + next + row_of(on) * a_row + on % VECTORS * 4u;
                    a_next[i] = vec4<Input>(a[at], a[at + 1u], a[at + 2u], a[at + 3u]);
                }
                for (var i = 0u; i < B_LOADS; i++) {
                    let on = i * THREADS;
                    let at = b_own + next + row_of(on) * b_row + on % VECTORS * 4u;
                    b_next[i] = vec4<Input>(b[at], b[at + 1u], b[at + 2u], b[at + 3u]);
                }
            } else {
                for (var i = 0u; i < A_LOADS; i++) {
                    a_next[i] = piece_of_a(a_first, first_row, next, local + i * THREADS);
                }
                for (var i = 0u; i < B_LOADS; i++) {
                    b_next[i] = piece_of_b(b_first, first_column, next, local + i * THREADS);
                }
            }
            for (var step = 0u; step < DEPTH; step += BLOCK) {
                var left: array<MatrixA, ROWS>;
                for (var i = 0u; i < ROWS; i++) {
                    let at = (own_row + i * BLOCK) * STRIDE + step / 4u;
                    left[i] = coopLoadT<MatrixA>(&a_tile[at], STRIDE);
                }
                for (var j = 0u; j < COLUMNS; j++) {
                    let at = (own_column + j * BLOCK) * STRIDE + step / 4u;
                    let right = coopLoad<MatrixB>(&b_tile[at], STRIDE);
                    for (var i = 0u; i < ROWS; i++) {
                        let slot = i * COLUMNS + j;
                        sum[slot] = coopMultiplyAdd(left[i], right, sum[slot]);
                    }
                }
            }
        }

        for (var i = 0u; i < ROWS; i++) {
            for (var j = 0u; j < COLUMNS; j++) {
                let value = sum[i * COLUMNS + j];
                let row = first_row + own_row + i * BLOCK;
                let column = first_column + own_column + j * BLOCK;
                if (inside) {
                    let at = c_first + row * params.n + column;
                    let stride = params.n;
                    let to = &c[at];
                    coopStoreT(value, to, stride);
                } else {
                    let place = own * ELEMENTS;
                    let to = &stage[place];
                    coopStoreT(value, to, BLOCK);
                    workgroupBarrier();
                    for (var e = 0u; e < PER_LANE; e++) {
                        let at = e * subgroup_size + lane;
                        let y = row + at / BLOCK;
                        let x = column + at % BLOCK;
                        if (at < ELEMENTS && y < params.m && x < params.n) {
                            c[c_first + y * params.n + x] = stage[place + at];
                        }
                    }
                    workgroupBarrier();
                }
            }
        }
    }
}
