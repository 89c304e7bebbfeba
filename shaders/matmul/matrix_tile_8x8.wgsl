// `matrix_tile` for matrix units that multiply 8 x 8, in any of the types that they take.
//
// A block of sums is 2 registers a lane of 32, so subgroups hold 4 x 4 of them or more: a byte that
// workgroup memory gives then pays for 16 operations in f16 and 8 in f32, with 8 x 8 for twice that.
// Panels are arrays of single elements there, because not every language that this is translated to
// can load matrices from vectors; from memory they come four elements a load all the same.
//
// As it stands it has 6,400 bytes of workgroup memory in f16 and 11,776 in f32.

enable wgpu_cooperative_matrix;

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const SUBGROUP_SIZE = 32u;
const SUBGROUPS_M = 2u; // subgroups along a column of C
const SUBGROUPS_N = 2u; // subgroups along a row of C
const ROWS = 4u; // blocks along a column of C per subgroup
const COLUMNS = 4u; // blocks along a row of C per subgroup
const DEPTH = 16u; // columns of A and rows of B staged at a time
const GROUP = 8u; // tiles down a column before the next column

const BLOCK = 8u;
const ELEMENTS = BLOCK * BLOCK;
const SUBGROUPS = SUBGROUPS_M * SUBGROUPS_N;
const THREADS = SUBGROUP_SIZE * SUBGROUPS;
const TILE_M = SUBGROUPS_M * ROWS * BLOCK; // rows of C per workgroup
const TILE_N = SUBGROUPS_N * COLUMNS * BLOCK; // columns of C per workgroup
const A_VECTORS = DEPTH / 4u; // in a row of a panel of A
const B_VECTORS = TILE_N / 4u; // in a row of a panel of B
const A_STRIDE = DEPTH + 8u; // elements from one row to the next: blocks begin at 16 bytes
const B_STRIDE = TILE_N + 8u;
const A_LOADS = TILE_M * A_VECTORS / THREADS; // vectors of A that an invocation stages
const B_LOADS = DEPTH * B_VECTORS / THREADS;
const PER_LANE = ELEMENTS / SUBGROUP_SIZE; // of one block, where subgroups are smallest

const_assert DEPTH % BLOCK == 0u;
const_assert ROWS * COLUMNS * PER_LANE <= 128u; // the sums fit the registers
const_assert A_LOADS > 0u && A_LOADS * THREADS == TILE_M * A_VECTORS;
const_assert B_LOADS > 0u && B_LOADS * THREADS == DEPTH * B_VECTORS;
const_assert A_LOADS + B_LOADS <= 24u; // and so do the next panels
const_assert countOneBits(THREADS) * countOneBits(A_VECTORS) * countOneBits(B_VECTORS) == 1u; // see `whole`

alias MatrixA = coop_mat8x8<Input, A>;
alias MatrixB = coop_mat8x8<Input, B>;
alias MatrixC = coop_mat8x8<Sum, C>;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<Input>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<Input>>;
@group(0) @binding(3) var<storage, read_write> c: array<Sum>;

var<workgroup> a_tile: array<Input, TILE_M * A_STRIDE>;
var<workgroup> b_tile: array<Input, DEPTH * B_STRIDE>;
var<workgroup> stage: array<Sum, SUBGROUPS * ELEMENTS>; // one block for each subgroup

// Vector `piece` of the panel of A that begins at column `first`, zero beyond k.
fn piece_of_a(a_first: u32, first_row: u32, first: u32, piece: u32) -> vec4<Input> {
    let a_row = params.k / 4u; // vectors in a row
    let row = min(first_row + piece / A_VECTORS, params.m - 1u);
    let column = first / 4u + piece % A_VECTORS;
    let values = a[a_first + row * a_row + min(column, a_row - 1u)];
    return select(vec4<Input>(), values, column < a_row);
}

// Vector `piece` of the panel of B that begins at row `first`; beyond k it meets zeros of A.
fn piece_of_b(b_first: u32, first_column: u32, first: u32, piece: u32) -> vec4<Input> {
    let b_row = params.n / 4u; // vectors in a row
    let row = min(first + piece / B_VECTORS, params.k - 1u);
    let column = min(first_column / 4u + piece % B_VECTORS, b_row - 1u);
    return b[b_first + row * b_row + column];
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
    let a_first = group.z * params.m * (params.k / 4u); // in vectors
    let b_first = group.z * params.k * (params.n / 4u);
    let c_first = group.z * params.m * params.n;
    // A panel that lies wholly inside A and B needs no limits. There an invocation's pieces are at one place
    // and at steps from it that are the same for all: where piece `on` is, for in powers of two places add up.
    let whole = first_row + TILE_M <= params.m && first_column + TILE_N <= params.n;
    let a_row = params.k / 4u;
    let b_row = params.n / 4u;
    let a_own = a_first + (first_row + local / A_VECTORS) * a_row + local % A_VECTORS;
    let b_own = b_first + first_column / 4u + local / B_VECTORS * b_row + local % B_VECTORS;
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
                let at = piece / A_VECTORS * A_STRIDE + piece % A_VECTORS * 4u;
                for (var x = 0u; x < 4u; x++) {
                    a_tile[at + x] = a_next[i][x];
                }
            }
            for (var i = 0u; i < B_LOADS; i++) {
                let piece = local + i * THREADS;
                let at = piece / B_VECTORS * B_STRIDE + piece % B_VECTORS * 4u;
                for (var x = 0u; x < 4u; x++) {
                    b_tile[at + x] = b_next[i][x];
                }
            }
            workgroupBarrier();

            let next = first + DEPTH;
            if (whole && next + DEPTH <= params.k) {
                for (var i = 0u; i < A_LOADS; i++) {
                    let on = i * THREADS;
                    a_next[i] = a[a_own + next / 4u + on / A_VECTORS * a_row + on % A_VECTORS];
                }
                for (var i = 0u; i < B_LOADS; i++) {
                    let on = i * THREADS;
                    b_next[i] = b[b_own + (next + on / B_VECTORS) * b_row + on % B_VECTORS];
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
                    let at = (own_row + i * BLOCK) * A_STRIDE + step;
                    left[i] = coopLoadT<MatrixA>(&a_tile[at], A_STRIDE);
                }
                for (var j = 0u; j < COLUMNS; j++) {
                    let at = step * B_STRIDE + own_column + j * BLOCK;
                    let right = coopLoadT<MatrixB>(&b_tile[at], B_STRIDE);
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
                    let place = subgroup * ELEMENTS;
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
