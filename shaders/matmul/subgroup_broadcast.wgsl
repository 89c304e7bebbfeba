// A workgroup is one subgroup: lanes load A once between them and broadcast it to one another.
//
// No workgroup memory and no barrier. Lanes lie along a row of C, so a value of B belongs to one
// lane and a value of A is the same for all. Each lane loads one of SUBGROUP_SIZE neighbouring
// values of a row of A, and in each step of the product the lane that has the right one gives it to
// all. A lane holds a block of ROWS x COLUMNS of C, so ROWS shuffles serve ROWS * COLUMNS
// multiply-adds per lane.
//
// This is the kernel for processors whose workgroup memory is no faster than their caches: CPUs
// above all, where a broadcast between lanes costs nothing and a barrier costs much. Workgroups go
// down the columns of C first, so that those running together share columns of B.

const SUBGROUP_SIZE = 32u; // lanes of a subgroup
const ROWS = 16u; // rows of C per lane, and per workgroup
const COLUMNS = 4u; // columns of C per lane

const TILE_M = ROWS; // rows of C per workgroup
const TILE_N = SUBGROUP_SIZE * COLUMNS; // columns of C per workgroup

const_assert ROWS * COLUMNS <= 256u; // more sums than this are in registers nowhere
const_assert SUBGROUP_SIZE * ROWS * COLUMNS <= 4096u; // a block fits an instruction cache

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let first_row = group.x * TILE_M;
    let first_column = group.y * TILE_N + lane;
    let a_first = group.z * params.m * params.k;
    let b_first = group.z * params.k * params.n;
    let c_first = group.z * params.m * params.n;
    // Loads are clamped into the matrices; what that invents is never stored.
    var a_row: array<u32, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        a_row[i] = a_first + min(first_row + i, params.m - 1u) * params.k;
    }
    var b_column: array<u32, COLUMNS>;
    for (var j = 0u; j < COLUMNS; j++) {
        b_column[j] = b_first + min(first_column + j * SUBGROUP_SIZE, params.n - 1u);
    }
    var sum: array<f32, ROWS * COLUMNS>;
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < COLUMNS; j++) {
            sum[i * COLUMNS + j] = 0.0;
        }
    }

    let whole = params.k - params.k % SUBGROUP_SIZE;
    for (var first = 0u; first < whole; first += SUBGROUP_SIZE) {
        var a_part: array<f32, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            a_part[i] = a[a_row[i] + first + lane];
        }
        for (var step = 0u; step < SUBGROUP_SIZE; step++) {
            var b_part: array<f32, COLUMNS>;
            for (var j = 0u; j < COLUMNS; j++) {
                b_part[j] = b[(first + step) * params.n + b_column[j]];
            }
            for (var i = 0u; i < ROWS; i++) {
                let a_value = subgroupShuffle(a_part[i], step);
                for (var j = 0u; j < COLUMNS; j++) {
                    sum[i * COLUMNS + j] = fma(a_value, b_part[j], sum[i * COLUMNS + j]);
                }
            }
        }
    }
    for (var step = whole; step < params.k; step++) {
        var b_part: array<f32, COLUMNS>;
        for (var j = 0u; j < COLUMNS; j++) {
            b_part[j] = b[step * params.n + b_column[j]];
        }
        for (var i = 0u; i < ROWS; i++) {
            let a_value = a[a_row[i] + step];
            for (var j = 0u; j < COLUMNS; j++) {
                sum[i * COLUMNS + j] = fma(a_value, b_part[j], sum[i * COLUMNS + j]);
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        if (first_row + i < params.m) {
            for (var j = 0u; j < COLUMNS; j++) {
                let column = first_column + j * SUBGROUP_SIZE;
                if (column < params.n) {
                    c[c_first + (first_row + i) * params.n + column] = sum[i * COLUMNS + j];
                }
            }
        }
    }
}
