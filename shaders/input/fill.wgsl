// Fills a buffer with the input stream of one tensor, or with one repeated word.
//
// Every element is a pure function of (seed, tensor, index): two rounds of the lowbias32 mixer. A
// cycle of slots is one too: its factor and summand come with the call.
// src/input.rs is this shader's twin; docs/protocol.md has the test vectors.

struct Params {
    count: u32,       // elements to write
    mode: u32,        // 0 uniform [-1, 1) * scale, 1 integer -2..5, 2 the word `fill`, 3 a cycle
    key_add: u32,     // first key of the stream; factor of a cycle
    key_xor: u32,     // second key of the stream; summand of a cycle
    scale: f32,
    fill: u32,        // the word; slots of a cycle
    row: u32,         // invocations in one row of the grid
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> target_words: array<u32>;

const SLOT_WORDS = 32u;

fn mix32(value: u32) -> u32 {
    var x = value;
    x ^= x >> 16u;
    x *= 0x7feb352du;
    x ^= x >> 15u;
    x *= 0x846ca68bu;
    return x ^ (x >> 16u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let index = id.y * params.row + id.x;
    if (index >= params.count) {
        return;
    }
    if (params.mode == 2u) {
        target_words[index] = params.fill;
        return;
    }
    if (params.mode == 3u) {
        let slot = (index / SLOT_WORDS * params.key_add + params.key_xor) % params.fill;
        target_words[index] = select(0u, slot * SLOT_WORDS, index % SLOT_WORDS == 0u);
        return;
    }
    let random = mix32(mix32(index + params.key_add) ^ params.key_xor);
    var value: f32;
    if (params.mode == 0u) {
        value = (f32(random >> 8u) * (1.0 / 8388608.0) - 1.0) * params.scale;
    } else {
        value = f32(random >> 29u) - 2.0;
    }
    target_words[index] = bitcast<u32>(value);
}
