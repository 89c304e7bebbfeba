// Matrix units fed straight from memory: no panel is staged and no invocation waits for another.
//
// A subgroup computes ROWS x COLUMNS blocks of 16 x 16 by itself. Every step of 16 along k it loads
// its blocks of A and B from where they lie; that subgroups of one workgroup want the same ones is
// left to the first cache. With 4 x 4 blocks that is 32 operations per byte that the cache must give
// in f16, in segments of 32 bytes, and loads of the step after are in flight only if the driver
// reorders them. What it saves is barriers, copies and workgroup memory.
//
// Blocks are loaded and stored whole, so m and n must be multiples of a subgroup's tile and k of 16.
// A subgroup whose tile lies outside has nothing to do.
//
// With 32 lanes 4 x 4 blocks are 128 registers a lane of f32 sums and 20 of factors; no workgroup
// memory. Subgroups go on in strides where the driver makes them larger than SUBGROUP_SIZE.

enable f16;
enable wgpu_cooperative_matrix;

alias Input = f16; // elements of A and B
alias Sum = f32; // sums, and elements of C

const SUBGROUP_SIZE = 32u;
const SUBGROUPS_M = 2u; // subgroups along a column of C
const SUBGROUPS_N = 2u; // subgroups along a row of C
const ROWS = 4u; // blocks along a column of C per subgroup
const COLUMNS = 4u; // blocks along a row of C per subgroup
const GROUP = 8u; // tiles down a column before the next column

const BLOCK = 16u;
const SUBGROUPS = SUBGROUPS_M * SUBGROUPS_N;
const THREADS = SUBGROUP_SIZE * SUBGROUPS;
const TILE_M = SUBGROUPS_M * ROWS * BLOCK; // rows of C per workgroup
const TILE_N = SUBGROUPS_N * COLUMNS * BLOCK; // columns of C per workgroup

const_assert ROWS * COLUMNS * BLOCK * BLOCK / SUBGROUP_SIZE <= 128u; // the sums fit the registers
const_assert ROWS <= 4u && COLUMNS <= 4u; // a subgroup's tile divides m and n

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

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroup_count: u32,
) {
    let order = group.y * groups.x + group.x;
    let band = GROUP * groups.x; // tiles in a band of GROUP rows of tiles
    let band_first = order / band * GROUP;
    let band_rows = min(groups.y - band_first, GROUP);
    let first_row = (band_first + order % band % band_rows) * TILE_M;
    let first_column = order % band / band_rows * TILE_N;
    let a_stride = params.k / 4u; // vectors from one row to the next
    let b_stride = params.n / 4u;
    let c_stride = params.n;
    let a_first = group.z * params.m * a_stride;
    let b_first = group.z * params.k * b_stride;
    let c_first = group.z * params.m * params.n;

    for (var own = subgroup; own < SUBGROUPS; own += subgroup_count) {
        let row = first_row + own / SUBGROUPS_N * ROWS * BLOCK;
        let column = first_column + own % SUBGROUPS_N * COLUMNS * BLOCK;
        if (row >= params.m || column >= params.n) {
            continue;
        }
        var sum: array<MatrixC, ROWS * COLUMNS>;
        for (var i = 0u; i < ROWS * COLUMNS; i++) {
            sum[i] = MatrixC();
        }
        for (var step = 0u; step < params.k; step += BLOCK) {
            var left: array<MatrixA, ROWS>;
            for (var i = 0u; i < ROWS; i++) {
                let at = a_first + (row + i * BLOCK) * a_stride + step / 4u;
                left[i] = coopLoadT<MatrixA>(&a[at], a_stride);
            }
            for (var j = 0u; j < COLUMNS; j++) {
                let at = b_first + step * b_stride + (column + j * BLOCK) / 4u;
                let right = coopLoadT<MatrixB>(&b[at], b_stride);
                for (var i = 0u; i < ROWS; i++) {
                    let slot = i * COLUMNS + j;
                    sum[slot] = coopMultiplyAdd(left[i], right, sum[slot]);
                }
            }
        }
        // What is stored, and where, must have names: else the loops here would not be unrolled.
        for (var i = 0u; i < ROWS; i++) {
            for (var j = 0u; j < COLUMNS; j++) {
                let value = sum[i * COLUMNS + j];
                let at = c_first + (row + i * BLOCK) * c_stride + column + j * BLOCK;
                let to = &c[at];
                coopStoreT(value, to, c_stride);
            }
        }
    }
}
