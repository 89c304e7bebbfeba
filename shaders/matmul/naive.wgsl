// One invocation computes one element of C by walking a row of A and a column of B.
//
// The plainest kernel there is: it reads each operand as often as it uses it and is bound by loads.
// It is here as the twin that the others are judged against, and because it works everywhere.

const TILE_N = 16u; // columns of C per workgroup, one per invocation
const TILE_M = 16u; // rows of C per workgroup, one per invocation

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

@compute @workgroup_size(TILE_N, TILE_M)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let row = id.y;
    if (column >= params.n || row >= params.m) {
        return;
    }
    var sum = 0.0;
    for (var i = 0u; i < params.k; i++) {
        sum = fma(a[row * params.k + i], b[i * params.n + column], sum);
    }
    c[row * params.n + column] = sum;
}
