// Arithmetic ceiling in 8-bit integers: chains of four-way dot products.
//
// A dot product of four bytes with four bytes plus a number is one instruction on hardware made for
// quantised networks, and a dozen elsewhere. Each step takes the four bytes of the result before,
// so that no step can be hoisted or left out, and the weights are known to the host alone. The
// iteration wanders about in some sixteen bits; one step less ends somewhere else. ACCUMULATORS
// independent chains per invocation hide the latency of one.

const ACCUMULATORS = 8u;
const CHAINS = 24u;
const THREADS = 64u;
const TILE = THREADS;  // invocations per workgroup
const UNROLL = 8u;     // steps per turn of the loop, so that its own cost does not count

const_assert CHAINS % ACCUMULATORS == 0u;

struct Params {
    invocations: u32,
    steps: u32,
    weights: u32,      // four signed bytes
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;  // four signed bytes each
@group(0) @binding(2) var<storage, read_write> out: array<i32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.invocations) {
        return;
    }
    let start = extractBits(bitcast<i32>(x[id.x / 4u]), 8u * (id.x % 4u), 8u);
    let weights = params.weights;
    let turns = params.steps / UNROLL;
    let rest = params.steps % UNROLL;
    var sum = 0;
    for (var first = 0u; first < CHAINS; first += ACCUMULATORS) {
        var z: array<i32, ACCUMULATORS>;
        for (var i = 0u; i < ACCUMULATORS; i++) {
            z[i] = start;
        }
        for (var turn = 0u; turn < turns; turn++) {
            for (var u = 0u; u < UNROLL; u++) {
                for (var i = 0u; i < ACCUMULATORS; i++) {
                    z[i] = dot4I8Packed(bitcast<u32>(z[i]), weights) + i32(first + i + 1u);
                }
            }
        }
        for (var turn = 0u; turn < rest; turn++) {
            for (var i = 0u; i < ACCUMULATORS; i++) {
                z[i] = dot4I8Packed(bitcast<u32>(z[i]), weights) + i32(first + i + 1u);
            }
        }
        for (var i = 0u; i < ACCUMULATORS; i++) {
            sum += z[i];
        }
    }
    out[id.x] = sum;
}
