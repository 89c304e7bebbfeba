// Memory ceiling: copies one buffer to another, sixteen bytes a load, several loads per invocation.
//
// Neighbouring invocations take neighbouring vectors, so that every load and store of a subgroup is
// one contiguous piece; VECTORS of them in flight per invocation cover the latency of memory. Where
// a grid may not have enough workgroups for the whole buffer, each takes several tiles.

const THREADS = 256u;
const VECTORS = 4u;
const AHEAD = 0u; // one if all loads come before the first store, zero if each is stored at once
const TILE = 4u * THREADS * VECTORS; // elements per workgroup and turn

struct Params {
    n: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> destination: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let count = params.n / 4u;
    let step = groups.x * (THREADS * VECTORS);
    for (var first = group.x * (THREADS * VECTORS); first < count; first += step) {
        if (AHEAD == 1u) {
            // What stands behind a condition no compiler brings forward, so the loads stand before it.
            var values: array<vec4<f32>, VECTORS>;
            for (var i = 0u; i < VECTORS; i++) {
                values[i] = source[min(first + i * THREADS + local.x, count - 1u)];
            }
            for (var i = 0u; i < VECTORS; i++) {
                let index = first + i * THREADS + local.x;
                if (index < count) {
                    destination[index] = values[i];
                }
            }
        } else {
            for (var i = 0u; i < VECTORS; i++) {
                let index = first + i * THREADS + local.x;
                if (index < count) {
                    destination[index] = source[index];
                }
            }
        }
    }
}
