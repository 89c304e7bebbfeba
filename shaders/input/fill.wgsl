// Fills a buffer with the input stream of one tensor, or with one repeated word.
//
// Every element is a pure function of (seed, tensor, index): two rounds of the lowbias32 mixer. A
// cycle of slots is one too: its factor and summand come with the call. And so is a permutation.
// src/input.rs is this shader's twin; docs/protocol.md has the test vectors. One invocation writes
// one word: one element of 32 bits, two of 16, four of 8 or eight of 4. Half precision is packed by a built-in
// function that needs no feature, and every value is exact in its type, so rounding never matters.

struct Params {
    words: u32,       // words to write
    mode: u32,        // 0 uniform * scale, 1 integer -2..5, 2 the word `fill`, 3 a cycle,
                      // 4 uniform on the grid of bytes * scale, 5 a permutation
    key_add: u32,     // first key of the stream; factor of a cycle
    key_xor: u32,     // second key of the stream; summand of a cycle
    scale: f32,
    fill: u32,        // the word; slots of a cycle; numbers of a permutation
    row: u32,         // invocations in one row of the grid
    element: u32,     // 0 f32, 1 f16, 2 i32, 3 i8, 4 i4
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

fn random(index: u32) -> u32 {
    return mix32(mix32(index + params.key_add) ^ params.key_xor);
}

// The number at this place of a permutation: the bits that numbers below `fill` take are mixed, and
// what is none of them is mixed again.
fn permuted(index: u32) -> u32 {
    if (params.fill <= 1u) {
        return 0u;
    }
    let mask = 0xffffffffu >> countLeadingZeros(params.fill - 1u);
    let shift = (countOneBits(mask) + 1u) / 2u;
    var x = index % params.fill;
    loop {
        x = (x + params.key_add) & mask;
        x ^= x >> shift;
        x = (x * 0x7feb352du) & mask;
        x ^= x >> shift;
        x = (x ^ params.key_xor) & mask;
        x = (x * 0x846ca68bu) & mask;
        x ^= x >> shift;
        if (x < params.fill) {
            break;
        }
    }
    return x;
}

fn float(word: u32) -> f32 {
    if (params.mode == 1u) {
        return f32(word >> 29u) - 2.0;
    }
    if (params.mode == 4u) {
        return (f32(word >> 24u) - 128.0) * params.scale;
    }
    // Uniform in [-1, 1) on the finest grid that the type has all over it.
    if (params.element == 1u) {
        return (f32(word >> 21u) * (1.0 / 1024.0) - 1.0) * params.scale;
    }
    return (f32(word >> 8u) * (1.0 / 8388608.0) - 1.0) * params.scale;
}

fn integer(word: u32) -> i32 {
    if (params.mode == 1u) {
        return i32(word >> 29u) - 2;
    }
    return select(i32(word >> 24u) - 128, i32(word >> 28u) - 8, params.element == 4u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let index = id.y * params.row + id.x;
    if (index >= params.words) {
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
    if (params.mode == 5u) {
        target_words[index] = permuted(index);
        return;
    }
    var word = 0u;
    switch (params.element) {
        case 1u: {
            let first = 2u * index;
            word = pack2x16float(vec2(float(random(first)), float(random(first + 1u))));
        }
        case 2u: {
            word = bitcast<u32>(integer(random(index)));
        }
        case 3u: {
            for (var i = 0u; i < 4u; i++) {
                let byte = bitcast<u32>(integer(random(4u * index + i))) & 0xffu;
                word |= byte << (8u * i);
            }
        }
        case 4u: {
            for (var i = 0u; i < 8u; i++) {
                let nibble = bitcast<u32>(integer(random(8u * index + i))) & 0xfu;
                word |= nibble << (4u * i);
            }
        }
        default: {
            word = bitcast<u32>(float(random(index)));
        }
    }
    target_words[index] = word;
}
