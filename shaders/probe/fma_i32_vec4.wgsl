// Arithmetic ceiling in 32-bit integers, in vectors: the chains of probe/fma_i32, four to a vec4.
//
// The arithmetic is the same; its form is not. Hardware with wide registers, and compilers that
// keep vectors whole, are at their best here, others with scalars: the better one is the ceiling.
// ACCUMULATORS vectors are in flight at a time.
//
// The factor is one, but only the host knows: z -> 1 z + y counts steps exactly, and a single step
// left out by a clever compiler is a wrong answer.

const ACCUMULATORS = 2u;
const VECTORS = 6u;    // of four chains each
const THREADS = 64u;
const TILE = THREADS;  // invocations per workgroup
const UNROLL = 8u;     // steps per turn of the loop, so that its own cost does not count

const_assert VECTORS % ACCUMULATORS == 0u;

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
    let start = x[id.x] + vec4(0, 1, 2, 3);
    let step = vec4(y[id.x]);
    let factor = vec4(params.factor);
    let turns = params.steps / UNROLL;
    let rest = params.steps % UNROLL;
    var sum = vec4(0);
    for (var first = 0u; first < VECTORS; first += ACCUMULATORS) {
        var z: array<vec4<i32>, ACCUMULATORS>;
        for (var i = 0u; i < ACCUMULATORS; i++) {
            z[i] = start + i32(4u * (first + i));
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
    out[id.x] = (sum.x + sum.y) + (sum.z + sum.w);
}
