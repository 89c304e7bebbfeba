// Arithmetic ceiling in half precision: chains of fused multiply-adds in vectors of four.
//
// The chains of probe/fma_f16_vec2 in wider vectors: compilers that split or join vectors by rules of
// their own may do better with one than with the other. ACCUMULATORS of them are in flight at a time.
//
// The factor is one, but only the host knows: z -> 1 z + y counts steps exactly in integers, and a
// single step left out by a clever compiler is a wrong answer. Half precision counts no further than
// 2048, so every FOLD steps what was counted goes to a sum in f32 and the chain starts over from
// nothing, which again only the host knows.

enable f16;

const ACCUMULATORS = 3u;
const VECTORS = 6u;   // of 4 chains each
const THREADS = 64u;
const TILE = THREADS;  // invocations per workgroup
const UNROLL = 8u;     // steps per turn of the loop, so that its own cost does not count
const FOLD = 256u;     // steps of at most 5, from a start of at most 28: at most 1308

const_assert VECTORS % ACCUMULATORS == 0u;
const_assert FOLD % UNROLL == 0u;

struct Params {
    invocations: u32,
    steps: u32,
    factor: f32,
    nothing: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f16>;
@group(0) @binding(2) var<storage, read> y: array<f16>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.invocations) {
        return;
    }
    let start = x[id.x] + vec4<f16>(0.0h, 1.0h, 2.0h, 3.0h);
    let step = vec4<f16>(y[id.x]);
    let factor = vec4<f16>(f16(params.factor));
    let nothing = vec4<f16>(f16(params.nothing));
    var sum = 0.0;
    for (var first = 0u; first < VECTORS; first += ACCUMULATORS) {
        var z: array<vec4<f16>, ACCUMULATORS>;
        for (var i = 0u; i < ACCUMULATORS; i++) {
            z[i] = start + vec4<f16>(f16(4u * (first + i)));
        }
        var left = params.steps;
        while (left > 0u) {
            let count = min(left, FOLD);
            let turns = count / UNROLL;
            let rest = count % UNROLL;
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
                sum += (f32(z[i].x) + f32(z[i].y)) + (f32(z[i].z) + f32(z[i].w));
                z[i] = nothing;
            }
            left -= count;
        }
    }
    out[id.x] = sum;
}
