// `naive` for weights of 4 bits: one invocation takes them out of words of eight, one by one.
//
// 32 weights along k share a scale of 16 bits, two of which make a word; they are unpacked without
// arithmetic in f16, which not every device has. The products of a block are added before the scale
// is applied, once. It works on any shape and is the twin that the others are judged against.

alias Input = f32; // elements of A

const TILE_N = 16u; // columns of C per workgroup, one per invocation
const TILE_M = 16u; // rows of C per workgroup, one per invocation

const BLOCK = 32u; // weights that share a scale

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Input>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(TILE_N, TILE_M)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let row = id.y;
    if (column >= params.n || row >= params.m) {
        return;
    }
    let a_first = (id.z * params.m + row) * params.k;
    let b_first = (id.z * params.n + column) * params.k;
    var sum = 0.0;
    // k is a multiple of BLOCK, so blocks are whole and begin with a word.
    for (var first = 0u; first < params.k; first += BLOCK) {
        var part = 0.0;
        for (var i = 0u; i < BLOCK; i++) {
            let word = bitcast<i32>(b[(b_first + first + i) / 8u]);
            let weight = extractBits(word, i % 8u * 4u, 4u);
            part = fma(f32(a[a_first + first + i]), f32(weight), part);
        }
        let index = (b_first + first) / BLOCK;
        sum = fma(part, unpack2x16float(scales[index / 2u])[index % 2u], sum);
    }
    c[(id.z * params.m + row) * params.n + column] = sum;
}
