// A workgroup computes a square tile of C, staging square tiles of A and B in workgroup memory.
//
// The textbook kernel: every element is fetched from memory once per workgroup instead of once per
// invocation, so traffic falls by a factor of TILE. Each multiply-add still needs two reads of
// workgroup memory, and that is what bounds it; `register_tile` is the answer to that. On a CPU
// there is no workgroup memory to gain from, and the barriers make it slower than `naive`.

const TILE = 16u; // side of the tiles of A, B and C
const TILE_N = TILE; // columns of C per workgroup
const TILE_M = TILE; // rows of C per workgroup

struct Params {
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

var<workgroup> a_tile: array<f32, TILE * TILE>;
var<workgroup> b_tile: array<f32, TILE * TILE>;

@compute @workgroup_size(TILE, TILE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let row = group.y * TILE + local.y;
    let column = group.x * TILE + local.x;
    // Loads are clamped into the matrices; what the clamping invents beyond k is made zero, and
    // what it invents beyond m and n is never stored.
    let a_row = min(row, params.m - 1u) * params.k;
    let b_column = min(column, params.n - 1u);
    var sum = 0.0;
    for (var first = 0u; first < params.k; first += TILE) {
        let a_k = first + local.x;
        let a_value = a[a_row + min(a_k, params.k - 1u)];
        let b_value = b[min(first + local.y, params.k - 1u) * params.n + b_column];
        workgroupBarrier();
        a_tile[local.y * TILE + local.x] = select(0.0, a_value, a_k < params.k);
        b_tile[local.y * TILE + local.x] = b_value;
        workgroupBarrier();
        for (var i = 0u; i < TILE; i++) {
            sum = fma(a_tile[local.y * TILE + i], b_tile[i * TILE + local.x], sum);
        }
    }
    if (row < params.m && column < params.n) {
        c[row * params.n + column] = sum;
    }
}
