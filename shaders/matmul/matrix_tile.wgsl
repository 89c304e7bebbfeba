// A workgroup computes a large tile of C with matrix units, fed from panels in workgroup memory.
//
// A subgroup holds ROWS x COLUMNS blocks of 16 x 16 sums in its registers. Each step of 16 along k it
// loads ROWS blocks of A and COLUMNS blocks of B and multiplies all by all, so the limit is how fast
// workgroup memory feeds it: with 4 x 4 blocks 32 operations per byte in f16, with 2 x 2 half that.
// With 32 lanes 4 x 4 blocks are 128 registers a lane of f32 sums, to which 20 of factors and 32 of
// the next panels come. What the whole workgroup shares decides the traffic beyond: 128 x 128 does
// 64 operations per byte of A and B that it fetches, 128 x 256 does 85. Of the smaller two fit a
// multiprocessor of 65,536 registers side by side, so that one multiplies while the other is at a barrier.
//
// Panels go from memory to registers while the ones before are multiplied, four elements a load, and
// from there to workgroup memory between two barriers. Panels 16 deep take turns in two buffers, with
// one barrier each: who is done stores the next while others still multiply. Rows are padded by 16
// bytes, so that the eight rows of a load begin in different banks. Beyond k panels are filled with
// zeros, beyond m and n with what is never stored. A tile that lies wholly inside C goes there straight from the
// registers; one at the edge goes block by block through workgroup memory.
//
// Workgroups in flight at the same time should share operands in the last cache: they go down GROUP
// tiles of a column before they begin the next column.
//
// As it stands it has 23,040 bytes of workgroup memory. SUBGROUP_SIZE is how many lanes of a subgroup
// the tile is laid out for. Where the driver takes more, there are fewer subgroups, which take several
// turns; where it takes fewer, those beyond the last one do as that one does.

enable f16;
enable wgpu_cooperative_matrix;

alias Input = f16; // elements of A and B
alias Sum = f32; // sums, and elements of C

const SUBGROUP_SIZE = 32u;
const SUBGROUPS_M = 2u; // subgroups along a column of C
const SUBGROUPS_N = 2u; // subgroups along a row of C
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
const A_VECTORS = DEPTH / 4u; // in a row of a panel of A
const B_VECTORS = TILE_N / 4u; // in a row of a panel of B
const A_STRIDE = A_VECTORS + 2u; // vectors from one row to the next
const B_STRIDE = B_VECTORS + 2u;
const TOGETHER = max(16u / A_VECTORS, 1u); // rows of a panel of A that 16 invocations store to
const BUFFERS = max(32u / DEPTH, 1u); // panels that workgroup memory holds
const A_PANEL = TILE_M * A_STRIDE; // vectors of one panel
const B_PANEL = DEPTH * B_STRIDE;
const A_LOADS = TILE_M * A_VECTORS / THREADS; // vectors of A that an invocation stages
const B_LOADS = DEPTH * B_VECTORS / THREADS;
const PER_LANE = ELEMENTS / min(SUBGROUP_SIZE, 32u); // of one block, where lanes are fewest

const_assert DEPTH % BLOCK == 0u;
const_assert ROWS * COLUMNS * PER_LANE <= 128u; // the sums fit the registers
const_assert A_LOADS > 0u && A_LOADS * THREADS == TILE_M * A_VECTORS;
const_assert B_LOADS > 0u && B_LOADS * THREADS == DEPTH * B_VECTORS;
const_assert A_LOADS + B_LOADS <= 24u; // and so do the next panels
const_assert countOneBits(THREADS) * countOneBits(A_VECTORS) * countOneBits(B_VECTORS) == 1u; // see `whole`

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
@group(0) @binding(1) var<storage, read> a: array<vec4<Input>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<Input>>;
@group(0) @binding(3) var<storage, read_write> c: array<Sum>;

var<workgroup> a_tile: array<vec4<Input>, BUFFERS * A_PANEL>;
var<workgroup> b_tile: array<vec4<Input>, BUFFERS * B_PANEL>;
var<workgroup> stage: array<Sum, SUBGROUPS * ELEMENTS>; // one block for each subgroup

// Which row of the panel of A vector `piece` is in. Stores of 8 bytes are served for 16 invocations at a
// time, so for TOGETHER rows where these are short. The padding keeps eight neighbouring rows in banks
// of their own for loads of 16 bytes each; for such stores rows 8 / TOGETHER apart are.
fn row_of(piece: u32) -> u32 {
    let order = piece / A_VECTORS;
    return order / 8u * 8u + order % TOGETHER * (8u / TOGETHER) + order % 8u / TOGETHER;
}

// Vector `piece` of the panel of A that begins at column `first`, zero beyond k.
fn piece_of_a(a_first: u32, first_row: u32, first: u32, piece: u32) -> vec4<Input> {
    let a_row = params.k / 4u; // vectors in a row
    let row = min(first_row + row_of(piece), params.m - 1u);
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
    let a_own = a_first + (first_row + row_of(local)) * a_row + local % A_VECTORS;
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
        // With two buffers the one that is filled was last read before the barrier of the panel before;
        // the first ones may still be read for the turn before.
        if (BUFFERS > 1u) {
            workgroupBarrier();
        }
        for (var first = 0u; first < params.k; first += DEPTH) {
            let into = first / DEPTH % BUFFERS;
            if (BUFFERS == 1u) {
                workgroupBarrier();
            }
            for (var i = 0u; i < A_LOADS; i++) {
                let piece = local + i * THREADS;
                a_tile[into * A_PANEL + row_of(piece) * A_STRIDE + piece % A_VECTORS] = a_next[i];
            }
            for (var i = 0u; i < B_LOADS; i++) {
                let piece = local + i * THREADS;
                b_tile[into * B_PANEL + piece / B_VECTORS * B_STRIDE + piece % B_VECTORS] = b_next[i];
            }
            workgroupBarrier();

            let next = first + DEPTH;
            if (whole && next + DEPTH <= params.k) {
                for (var i = 0u; i < A_LOADS; i++) {
                    let on = i * THREADS;
                    a_next[i] = a[a_own + next / 4u + row_of(on) * a_row + on % A_VECTORS];
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
                    let at = into * A_PANEL + (own_row + i * BLOCK) * A_STRIDE + step / 4u;
                    left[i] = coopLoadT<MatrixA>(&a_tile[at], A_STRIDE);
                }
                for (var j = 0u; j < COLUMNS; j++) {
                    let at = into * B_PANEL + step * B_STRIDE + (own_column + j * BLOCK) / 4u;
                    let right = coopLoadT<MatrixB>(&b_tile[at], B_STRIDE);
                    for (var i = 0u; i < ROWS; i++) {
                        let slot = i * COLUMNS + j;
                        sum[slot] = coopMultiplyAdd(left[i], right, sum[slot]);
                    }
                }
            }
        }

        // What is stored, and where, must have names: else the loops here would not be unrolled.
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
