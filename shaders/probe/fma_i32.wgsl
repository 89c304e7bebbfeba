// Arithmetic ceiling in 32-bit integers: chains of multiply-adds that depend only on themselves.
//
// The chains are those of probe/fma_f32. Some hardware multiplies integers at full rate, some takes
// several turns for each product; indices and hashes are made of these. ACCUMULATORS independent
// chains per invocation hide the latency of one.
//
// The factor is one, but only the host knows: z -> 1 z + y counts steps exactly, and a single step
// left out by a clever compiler is a wrong answer.

const ACCUMULATORS = 8u;
const CHAINS = 24u;
const THREADS = 64u;
const TILE = THREADS;  // invocations per workgroup
const UNROLL = 8u;     // steps per turn of the loop, so that its own cost does not count

const_assert CHAINS % ACCUMULATORS == 0u;

struct Params {
    invocations: u32,
    steps: u32,
    factor: i32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<i32>;
@group(0) @binding(2) var<storage, read> y: array<i32>;
@group(0) @binding(3) var<storage, read_write> out: array<i32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.invocations) {
        return;
    }
    let start = x[id.x];
    let step = y[id.x];
    let factor = params.factor;
    let turns = params.steps / UNROLL;
    let rest = params.steps % UNROLL;
    var sum = 0;
    for (var first = 0u; first < CHAINS; first += ACCUMULATORS) {
        var z: array<i32, ACCUMULATORS>;
        for (var i = 0u; i < ACCUMULATORS; i++) {
            z[i] = start + i32(first + i);
        }
        for (var turn = 0u; turn < turns; turn++) {
            for (var u = 0u; u < UNROLL; u++) {
                for (var i = 0u; i < ACCUMULATORS; i++) {
                    z[i] = factor * z[i] + step;
                }
            }
        }
        for (var turn = 0u; turn < rest; turn++) {
            for (var i = 0u; i < ACCUMULATORS; i++) {
                z[i] = factor * z[i] + step;
            }
        }
        for (var i = 0u; i < ACCUMULATORS; i++) {
            sum += z[i];
        }
    }
    out[id.x] = sum;
}
