// Arithmetic ceiling: chains of fused multiply-adds that depend on nothing but themselves.
//
// A multiply-add takes several cycles before its result can be used, so one chain leaves the unit
// idle; ACCUMULATORS independent chains per invocation hide that latency. Which number is enough
// differs from chip to chip (too many spill), so several are tried and the best is the ceiling.
// Every invocation runs 24 chains in groups of ACCUMULATORS, so that the answer is the same for all.
//
// The factor is one, but only the host knows: z -> 1 z + y counts steps exactly in integers, and a
// single step left out by a clever compiler is a wrong answer.

const ACCUMULATORS = 8u;
const CHAINS = 24u;
const THREADS = 64u;
const TILE = THREADS;  // invocations per workgroup
const UNROLL = 8u;     // steps per turn of the loop, so that its own cost does not count

const_assert CHAINS % ACCUMULATORS == 0u;

struct Params {
    invocations: u32,
    steps: u32,
    factor: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

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
    var sum = 0.0;
    for (var first = 0u; first < CHAINS; first += ACCUMULATORS) {
        var z: array<f32, ACCUMULATORS>;
        for (var i = 0u; i < ACCUMULATORS; i++) {
            z[i] = start + f32(first + i);
        }
        for (var turn = 0u; turn < turns; turn++) {
            for (var u = 0u; u < UNROLL; u++) {
                for (var i = 0u; i < ACCUMULATORS; i++) {
                    z[i] = fma(factor, z[i], step);
                }
            }
        }
        for (var turn = 0u; turn < rest; turn++) {
            for (var i = 0u; i < ACCUMULATORS; i++) {
                z[i] = fma(factor, z[i], step);
            }
        }
        for (var i = 0u; i < ACCUMULATORS; i++) {
            sum += z[i];
        }
    }
    out[id.x] = sum;
}
