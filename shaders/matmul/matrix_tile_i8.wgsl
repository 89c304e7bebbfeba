// `matrix_tile` for integers of 8 bits, on units that multiply f16: those hold every byte exactly, and sums
// in f32 are exact up to 2^24, which 1,024 products of the largest bytes reach. Then sums go to C as
// integers, are added to what is there, and begin anew. WGSL has no units for bytes; where units for f16
// have many times the rate of `dot4I8Packed`, as on NVIDIA's GPUs, this is the faster way all the same.
//
// Panels wait in registers as bytes and become f16 on their way into workgroup memory, two with one
// instruction that puts them below an exponent and one that takes the offset away.
//
// As it stands it has 23,040 bytes of workgroup memory.

enable f16;
enable wgpu_cooperative_matrix;

const SUBGROUP_SIZE = 32u;
const SUBGROUPS_M = 2u; // subgroups along a column of C
const SUBGROUPS_N = 2u; // subgroups along a row of C
const ROWS = 4u; // blocks along a column of C per subgroup
const COLUMNS = 4u; // blocks along a row of C per subgroup
const DEPTH = 32u; // columns of A and rows of B staged at a time
const GROUP = 8u; // tiles down a column before the next column

const EXACT = 1024u; // products of bytes whose sum f32 holds exactly
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
const A_LOADS = TILE_M * A_VECTORS / THREADS; // words of A that an invocation stages
const B_LOADS = DEPTH * B_VECTORS / THREADS;
const PER_LANE = ELEMENTS / min(SUBGROUP_SIZE, 32u); // of one block, where lanes are fewest

const_assert DEPTH % BLOCK == 0u && EXACT % DEPTH == 0u;
const_assert ROWS * COLUMNS * PER_LANE <= 128u; // the sums fit the registers
const_assert A_LOADS > 0u && A_LOADS * THREADS == TILE_M * A_VECTORS;
const_assert B_LOADS > 0u && B_LOADS * THREADS == DEPTH * B_VECTORS;
const_assert A_LOADS + B_LOADS <= 48u; // and so do the next panels
const_assert countOneBits(THREADS) * countOneBits(A_VECTORS) * countOneBits(B_VECTORS) == 1u; // see `whole`

alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<u32>; // four bytes of a row
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> c: array<atomic<i32>>;

var<workgroup> a_tile: array<vec4<f16>, BUFFERS * A_PANEL>;
var<workgroup> b_tile: array<vec4<f16>, BUFFERS * B_PANEL>;
var<workgroup> stage: array<f32, SUBGROUPS * ELEMENTS>; // one block for each subgroup

// Which row of the panel of A word `piece` is in. Stores of 8 bytes are served for 16 invocations at a
// time, so for TOGETHER rows where these are short. The padding keeps eight neighbouring rows in banks
// of their own for loads of 16 bytes each; for such stores rows 8 / TOGETHER apart are.
fn row_of(piece: u32) -> u32 {
    let order = piece / A_VECTORS;
    return order / 8u * 8u + order % TOGETHER * (8u / TOGETHER) + order % 8u / TOGETHER;
}

// Word `piece` of the panel of A that begins at column `first`, zero beyond k.
fn piece_of_a(a_first: u32, first_row: u32, first: u32, piece: u32) -> u32 {
    let a_row = params.k / 4u; // words in a row
    let row = min(first_row + row_of(piece), params.m - 1u);
    let column = first / 4u + piece % A_VECTORS;
    let values = a[a_first + row * a_row + min(column, a_row - 1u)];
    return select(0u, values, column < a_row);
}

// Word `piece` of the panel of B that begins at row `first`; beyond k it meets zeros of A.
fn piece_of_b(b_first: u32, first_column: u32, first: u32, piece: u32) -> u32 {
    let b_row = params.n / 4u; // words in a row
    let row = min(first + piece / B_VECTORS, params.k - 1u);
    let column = min(first_column / 4u + piece % B_VECTORS, b_row - 1u);
    return b[b_first + row * b_row + column];
}

// The bytes of a word. With its sign turned a byte is 128 more, and below the exponent of 2^10 in f16 ones
// are at its own place. Two are had at a time, the first and the third, the second and the last.
fn numbers(word: u32) -> vec4<f16> {
    let turned = word ^ 0x80808080u;
    let pairs = (vec2(turned, turned >> 8u) & vec2(0xff00ffu)) | vec2(0x64006400u);
    // To f32 and back changes no bit: it stands for a bitcast, which naga has not from 32 bits to two f16,
    // and compilers leave it out.
    let more = vec4<f16>(vec4(unpack2x16float(pairs.x), unpack2x16float(pairs.y)));
    return (more - vec4<f16>(1152.0h)).xzyw;
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
    let a_first = group.z * params.m * (params.k / 4u); // in words
    let b_first = group.z * params.k * (params.n / 4u);
    let c_first = group.z * params.m * params.n;
    // A panel that lies wholly inside A and B needs no limits. There an invocation's pieces are at one place
    // and at steps from it that are the same for all: where piece `on` is, for in powers of two places add up.
    let whole = first_row + TILE_M <= params.m && first_column + TILE_N <= params.n;
    let a_row = params.k / 4u;
    let b_row = params.n / 4u;
    let a_own = a_first + (first_row + row_of(local)) * a_row + local % A_VECTORS;
    let b_own = b_first + first_column / 4u + local / B_VECTORS * b_row + local % B_VECTORS;

    for (var turn = 0u; turn < SUBGROUPS; turn += subgroup_count) {
        let own = min(turn + subgroup, SUBGROUPS - 1u);
        let is_first = turn + subgroup == own; // not one that does as the last one does
        let own_row = own / SUBGROUPS_N * ROWS * BLOCK;
        let own_column = own % SUBGROUPS_N * COLUMNS * BLOCK;
        var sum: array<MatrixC, ROWS * COLUMNS>;
        for (var i = 0u; i < ROWS * COLUMNS; i++) {
            sum[i] = MatrixC();
        }

        var a_next: array<u32, A_LOADS>;
        for (var i = 0u; i < A_LOADS; i++) {
            a_next[i] = piece_of_a(a_first, first_row, 0u, local + i * THREADS);
        }
        var b_next: array<u32, B_LOADS>;
        for (var i = 0u; i < B_LOADS; i++) {
            b_next[i] = piece_of_b(b_first, first_column, 0u, local + i * THREADS);
        }
        // With two buffers the one that is filled was last read before the barrier of the panel before;
        // the first ones may still be read for the turn before.
        if (BUFFERS > 1u) {
            workgroupBarrier();
        }
        for (var done = 0u; done < params.k; done += EXACT) {
            let end = min(done + EXACT, params.k);
            for (var first = done; first < end; first += DEPTH) {
                let into = first / DEPTH % BUFFERS;
                if (BUFFERS == 1u) {
                    workgroupBarrier();
                }
                for (var i = 0u; i < A_LOADS; i++) {
                    let piece = local + i * THREADS;
                    a_tile[into * A_PANEL + row_of(piece) * A_STRIDE + piece % A_VECTORS] = numbers(a_next[i]);
                }
                for (var i = 0u; i < B_LOADS; i++) {
                    let piece = local + i * THREADS;
                    b_tile[into * B_PANEL + piece / B_VECTORS * B_STRIDE + piece % B_VECTORS] = numbers(b_next[i]);
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
                    let place = own * ELEMENTS;
                    let to = &stage[place];
                    coopStoreT(value, to, BLOCK);
                    workgroupBarrier();
                    for (var e = 0u; e < PER_LANE; e++) {
                        let at = e * subgroup_size + lane;
                        let y = first_row + own_row + i * BLOCK + at / BLOCK;
                        let x = first_column + own_column + j * BLOCK + at % BLOCK;
                        if (is_first && at < ELEMENTS && y < params.m && x < params.n) {
                            let element = c_first + y * params.n + x;
                            let exact = i32(stage[place + at]);
                            // Nobody else adds to this element. The addition is atomic because nothing waits
                            // for its result, as it would for a load.
                            if (done > 0u) {
                                atomicAdd(&c[element], exact);
                            } else {
                                atomicStore(&c[element], exact);
                            }
                        }
                    }
                    workgroupBarrier();
                    sum[i * COLUMNS + j] = MatrixC();
                }
            }
        }
    }
}
