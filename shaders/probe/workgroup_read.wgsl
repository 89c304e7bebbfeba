// Ceiling of workgroup memory: reads of sixteen bytes at changing places, summed up.
//
// Every tiled kernel feeds on workgroup memory, and often it is this that binds. Each workgroup
// copies a table of 256 vectors; each invocation then reads runs of eight vectors one after the
// other, and after each run moves on by a stride that only the host knows, so that no read can be
// hoisted, merged or foreseen. Neighbours read neighbouring vectors, so that no two of them want the
// same bank at once. The first vectors stand behind the last once more, so that a run need not wrap.
//
// The sums are of integers and exact: one read left out is a wrong answer. They are kept in
// ACCUMULATORS vectors, so that the reads and not the additions are what is waited for.

const THREADS = 256u;
const ACCUMULATORS = 2u;
const TILE = THREADS;  // invocations per workgroup
const VECTORS = 256u;  // of the table; a power of two
const RUN = 8u;        // vectors one after the other

const_assert RUN % ACCUMULATORS == 0u;

struct Params {
    invocations: u32,
    steps: u32,
    stride: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

var<workgroup> tile: array<vec4<f32>, VECTORS + RUN>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var i = local; i < VECTORS + RUN; i += THREADS) {
        tile[i] = table[i % VECTORS];
    }
    workgroupBarrier();
    let turns = params.steps / RUN;
    let rest = params.steps % RUN;
    let stride = params.stride;
    var at = id.x % VECTORS;
    var sums: array<vec4<f32>, ACCUMULATORS>;
    for (var i = 0u; i < ACCUMULATORS; i++) {
        sums[i] = vec4(0.0);
    }
    for (var turn = 0u; turn < turns; turn++) {
        for (var u = 0u; u < RUN; u += ACCUMULATORS) {
            for (var i = 0u; i < ACCUMULATORS; i++) {
                sums[i] += tile[at + u + i];
            }
        }
        at = (at + stride) % VECTORS;
    }
    for (var u = 0u; u < rest; u++) {
        sums[0] += tile[at + u];
    }
    var sum = vec4(0.0);
    for (var i = 0u; i < ACCUMULATORS; i++) {
        sum += sums[i];
    }
    if (id.x < params.invocations) {
        out[id.x] = (sum.x + sum.y) + (sum.z + sum.w);
    }
}
