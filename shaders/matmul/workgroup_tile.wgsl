// A workgroup computes a square tile of C, staging square tiles of A and B in workgroup memory.
//
// The textbook kernel: every element is fetched from memory once per workgroup instead of once per
// invocation, so traffic falls by a factor of TILE. Each multiply-add still needs two reads of
// workgroup memory, and that is what bounds it; `register_tile` is the answer to that. On a CPU
// there is no workgroup memory to gain from, and the barriers make it slower than `naive`.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const TILE = 16u; // side of the tiles of A, B and C
const TILE_N = TILE; // columns of C per workgroup
const TILE_M = TILE; // rows of C per workgroup

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    b_down: u32, // elements of B from one to the next down a column
    b_along: u32, // and along a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Input>;
@group(0) @binding(2) var<storage, read> b: array<Input>;
@group(0) @binding(3) var<storage, read_write> c: array<Sum>;

var<workgroup> a_tile: array<Input, TILE * TILE>;
var<workgroup> b_tile: array<Input, TILE * TILE>;

@compute @workgroup_size(TILE, TILE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = group.y * TILE + local.y;
    let column = group.x * TILE + local.x;
    // Loads are clamped into the matrices; what the clamping invents beyond k is made zero, and
    // what it invents beyond m and n is never stored.
    let a_row = (group.z * params.m + min(row, params.m - 1u)) * params.k;
    let b_column = group.z * params.n * params.k + min(column, params.n - 1u) * params.b_along;
    var sum = Sum(0);
    for (var first = 0u; first < params.k; first += TILE) {
        let a_k = first + local.x;
        let a_value = a[a_row + min(a_k, params.k - 1u)];
        let b_value = b[min(first + local.y, params.k - 1u) * params.b_down + b_column];
        workgroupBarrier();
        a_tile[local.y * TILE + local.x] = select(Input(0), a_value, a_k < params.k);
        b_tile[local.y * TILE + local.x] = b_value;
        workgroupBarrier();
        for (var i = 0u; i < TILE; i++) {
            sum = fma(Sum(a_tile[local.y * TILE + i]), Sum(b_tile[i * TILE + local.x]), sum);
        }
    }
    if (row < params.m && column < params.n) {
        c[(group.z * params.m + row) * params.n + column] = sum;
    }
}
