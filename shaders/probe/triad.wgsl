// Memory ceiling: a = b + s c, two vectors read for one written, with next to no arithmetic.
//
// The classic triad of the STREAM benchmark. The scalar comes from the host and the inputs are
// integers, so that the result is exact and every load and the scalar show in it. Tiles are handed
// out as in the copy.

const THREADS = 256u;
const VECTORS = 4u;
const AHEAD = 0u; // one if all loads come before the first store, zero if each is stored at once
const TILE = 4u * THREADS * VECTORS; // elements per workgroup and turn

struct Params {
    n: u32,
    scalar: f32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> c: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> a: array<vec4<f32>>;

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
            var left: array<vec4<f32>, VECTORS>;
            var right: array<vec4<f32>, VECTORS>;
            for (var i = 0u; i < VECTORS; i++) {
                let index = min(first + i * THREADS + local.x, count - 1u);
                left[i] = b[index];
                right[i] = c[index];
            }
            for (var i = 0u; i < VECTORS; i++) {
                let index = first + i * THREADS + local.x;
                if (index < count) {
                    a[index] = left[i] + params.scalar * right[i];
                }
            }
        } else {
            for (var i = 0u; i < VECTORS; i++) {
                let index = first + i * THREADS + local.x;
                if (index < count) {
                    a[index] = b[index] + params.scalar * c[index];
                }
            }
        }
    }
}
