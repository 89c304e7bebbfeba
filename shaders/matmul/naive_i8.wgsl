// `naive` for integers of 8 bits: one invocation takes bytes out of words of four, one by one.
//
// It works on any shape and either layout of B, whether rows begin with a word or in the middle of
// one, and is the twin that the others are judged against.

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
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> c: array<i32>;

// One byte of a word of four, with its sign.
fn element(word: u32, index: u32) -> i32 {
    return extractBits(bitcast<i32>(word), index % 4u * 8u, 8u);
}

@compute @workgroup_size(TILE_N, TILE_M)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let row = id.y;
    if (column >= params.n || row >= params.m) {
        return;
    }
    let a_first = id.z * params.m * params.k + row * params.k;
    let b_first = id.z * params.n * params.k + column * params.b_along;
    var sum = 0i;
    for (var i = 0u; i < params.k; i++) {
        let a_index = a_first + i;
        let b_index = b_first + i * params.b_down;
        sum += element(a[a_index / 4u], a_index) * element(b[b_index / 4u], b_index);
    }
    c[(id.z * params.m + row) * params.n + column] = sum;
}
