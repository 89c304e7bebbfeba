// Memory ceiling: writes every element of a buffer, sixteen bytes a store, and reads nothing.
//
// What is written depends on the element's index and on a key that only the host knows, so that no
// element can be guessed, left from an earlier call or filled by a cheaper command. Tiles are
// handed out as in the copy.

const THREADS = 256u;
const VECTORS = 4u;
const TILE = 4u * THREADS * VECTORS; // elements per workgroup and turn
const FACTOR = 0x9e3779b9u;

struct Params {
    n: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let count = params.n / 4u;
    let key = vec4<u32>(x[0]) + vec4<u32>(0u, FACTOR, 2u * FACTOR, 3u * FACTOR);
    let step = groups.x * (THREADS * VECTORS);
    for (var first = group.x * (THREADS * VECTORS); first < count; first += step) {
        for (var i = 0u; i < VECTORS; i++) {
            let index = first + i * THREADS + local.x;
            if (index < count) {
                // Twenty-four bits are exact in an f32.
                out[index] = vec4<f32>((key + 4u * index * FACTOR) >> vec4<u32>(8u));
            }
        }
    }
}
