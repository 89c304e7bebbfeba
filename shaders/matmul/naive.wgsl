// One invocation computes one element of C by walking a row of A and a column of B.
//
// The plainest kernel there is: it reads each operand as often as it uses it and is bound by loads.
// It is here as the twin that the others are judged against, and because it works everywhere, on
// either layout of B.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const TILE_N = 16u; // columns of C per workgroup, one per invocation
const TILE_M = 16u; // rows of C per workgroup, one per invocation

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

@compute @workgroup_size(TILE_N, TILE_M)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let row = id.y;
    if (column >= params.n || row >= params.m) {
        return;
    }
    let a_first = id.z * params.m * params.k + row * params.k;
    let b_first = id.z * params.n * params.k + column * params.b_along;
    var sum = Sum();
    for (var i = 0u; i < params.k; i++) {
        sum = fma(Sum(a[a_first + i]), Sum(b[b_first + i * params.b_down]), sum);
    }
    c[(id.z * params.m + row) * params.n + column] = sum;
}
