// `matrix_tile_trans_b` for weights of 4 bits: they become f16 on their way into workgroup memory, and
// matrix units multiply those.
//
// An invocation stages a whole block of weights, sixteen bytes under one scale. It waits in registers
// while the last panel is multiplied, four words where as many weights in f16 have sixteen, and only then
// is unpacked: weights leave their word at their own size, under an exponent that makes ones of the bits
// at their place in the mantissa, and one fused product takes the offset away and scales them. Only
// places 8, 12 and 16 are used: there an offset times a scale of f16 has at most 24 bits and is exact, and
// the product inside the fused one, of up to 26, is not rounded; two shifts bring a word's other weights
// there. What unpacking costs is shared by all rows of A in a tile, so tiles are high where there are rows
// enough.
//
// As it stands it has 24,576 bytes of workgroup memory.

enable f16;
enable wgpu_cooperative_matrix;

alias Input = f16; // elements of A, and what weights are unpacked to
alias Sum = f32; // sums, and elements of C

const SUBGROUP_SIZE = 32u;
const SUBGROUPS_M = 2u; // subgroups along a column of C
const SUBGROUPS_N = 2u; // subgroups along a row of C
const ROWS = 4u; // blocks along a column of C per subgroup
const COLUMNS = 4u; // blocks along a row of C per subgroup
const DEPTH = 32u; // columns of A and rows of B staged at a time
const GROUP = 8u; // tiles down a column before the next column

const SCALED = 32u; // weights along k that share a scale
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
const SCALES = DEPTH / SCALED; // blocks of weights in a row of a panel
const B_BLOCKS = TILE_N * SCALES; // of those in a panel of B
const B_LOADS = (B_BLOCKS + THREADS - 1u) / THREADS;
const PER_LANE = ELEMENTS / min(SUBGROUP_SIZE, 32u); // of one block, where lanes are fewest

const_assert DEPTH % SCALED == 0u;
const_assert SUBGROUPS_M < 4u || (SUBGROUPS_N == 2u && ROWS == 4u); // else smaller tiles do as well
const_assert ROWS * COLUMNS * PER_LANE <= 128u; // the sums fit the registers
const_assert ROWS * COLUMNS * PER_LANE + A_LOADS * 2u + B_LOADS * 5u <= 208u; // with the next panels
const_assert A_LOADS > 0u && A_LOADS * THREADS == TILE_M * VECTORS;
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
@group(0) @binding(1) var<storage, read> a: array<vec4<Input>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> c: array<Sum>;

var<workgroup> a_tile: array<vec4<Input>, TILE_M * STRIDE>;
var<workgroup> b_tile: array<vec4<Input>, TILE_N * STRIDE>;
var<workgroup> stage: array<Sum, SUBGROUPS * ELEMENTS>; // one block for each subgroup

// Which row of the panel of A vector `piece` is in. Stores of 8 bytes are served for 16 invocations at a
// time, so for TOGETHER rows where these are short. The padding keeps eight neighbouring rows in banks
// of their own for loads of 16 bytes each; for such stores rows 8 / TOGETHER apart are.
fn row_of(piece: u32) -> u32 {
    let order = piece / VECTORS;
    return order / 8u * 8u + order % TOGETHER * (8u / TOGETHER) + order % 8u / TOGETHER;
}

// Vector `piece` of the panel of A that begins at column `first`, zero beyond k.
fn piece_of_a(a_first: u32, first_row: u32, first: u32, piece: u32) -> vec4<Input> {
    let length = params.k / 4u; // vectors in a row
    let row = min(first_row + row_of(piece), params.m - 1u);
    let column = first / 4u + piece % VECTORS;
    let values = a[a_first + row * length + min(column, length - 1u)];
    return select(vec4<Input>(), values, column < length);
}

// Where block `piece` of the panel of B that begins at `first` along k lies; beyond k it meets zeros of A.
fn block_of_b(b_first: u32, first_column: u32, first: u32, piece: u32) -> u32 {
    let length = params.k / SCALED; // blocks in a row
    let block = min(piece, B_BLOCKS - 1u); // a small panel has no block for some invocations
    let row = min(first_column + block / SCALES, params.n - 1u);
    return b_first + row * length + min(first / SCALED + block % SCALES, length - 1u);
}

// Three weights, their signs turned, from bits 8, 12 and 16 on. Below the exponent of 2^15, 2^11 and 2^7
// they are that power and eight and their value; `offsets` takes the first two away, times the scale.
fn unpacked(bits: u32, scale: f32, offsets: vec3<f32>) -> vec3<f32> {
    let places = vec3(bits) & vec3(0xf00u, 0xf000u, 0xf0000u);
    let numbers = bitcast<vec3<f32>>(places | vec3(0x47000000u, 0x45000000u, 0x43000000u));
    return fma(numbers, vec3(scale), offsets);
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
    let b_first = group.z * params.n * (params.k / SCALED); // in blocks
    let c_first = group.z * params.m * params.n;
    // A panel that lies wholly inside A needs no limits. There an invocation's pieces are at one place and
    // at steps from it that are the same for all: where piece `on` is, for in powers of two places add up.
    let whole = first_row + TILE_M <= params.m;
    let a_row = params.k / 4u;
    let a_own = a_first + (first_row + row_of(local)) * a_row + local % VECTORS;
    // Rows of C must begin at 16 bytes for a block to be stored there.
    let inside = whole && first_column + TILE_N <= params.n && params.n % 8u == 0u;

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
        var b_next: array<vec4<u32>, B_LOADS>;
        var pair_next: array<u32, B_LOADS>; // the words that hold their scales
        for (var i = 0u; i < B_LOADS; i++) {
            let at = block_of_b(b_first, first_column, 0u, local + i * THREADS);
            b_next[i] = b[at];
            pair_next[i] = scales[at / 2u];
        }
        for (var first = 0u; first < params.k; first += DEPTH) {
            workgroupBarrier();
            for (var i = 0u; i < A_LOADS; i++) {
                let piece = local + i * THREADS;
                a_tile[row_of(piece) * STRIDE + piece % VECTORS] = a_next[i];
            }
            for (var i = 0u; i < B_LOADS; i++) {
                let piece = local + i * THREADS;
                if (B_BLOCKS % THREADS == 0u || piece < B_BLOCKS) {
                    let to = piece / SCALES * STRIDE + piece % SCALES * (SCALED / 4u);
                    let block = block_of_b(b_first, first_column, first, piece);
                    let scale = unpack2x16float(pair_next[i] >> (block % 2u * 16u)).x;
                    let offsets = vec3(-32776.0, -2056.0, -136.0) * scale; // of 2^15 + 8 and so on
                    // A row to an invocation: were all to begin with the first half of their words, the
                    // sixteen that store at a time would meet in half of the banks.
                    let upper = local / 8u % 2u;
                    let turned = upper * 16u;
                    for (var quarter = 0u; quarter < 4u; quarter++) {
                        let lain = b_next[i][quarter] ^ 0x88888888u;
                        let word = (lain << turned) | (lain >> turned);
                        let low = unpacked(word << 8u, scale, offsets);
                        let middle = unpacked(word, scale, offsets);
                        let high = unpacked(word >> 12u, scale, offsets);
                        b_tile[to + quarter * 2u + upper] = vec4<Input>(vec4(low, middle.y));
                        b_tile[to + quarter * 2u + 1u - upper] = vec4<Input>(vec4(middle.z, high));
                    }
                }
            }
            workgroupBarrier();

            let next = first + DEPTH;
            if (whole && next + DEPTH <= params.k) {
                for (var i = 0u; i < A_LOADS; i++) {
                    let on = i * THREADS;
                    a_next[i] = a[a_own + next / 4u + row_of(on) * a_row + on % VECTORS];
                }
            } else {
                for (var i = 0u; i < A_LOADS; i++) {
                    a_next[i] = piece_of_a(a_first, first_row, next, local + i * THREADS);
                }
            }
            for (var i = 0u; i < B_LOADS; i++) {
                let at = block_of_b(b_first, first_column, next, local + i * THREADS);
                b_next[i] = b[at];
                pair_next[i] = scales[at / 2u];
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
