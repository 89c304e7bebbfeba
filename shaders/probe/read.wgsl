// Memory ceiling: loads every element, sixteen bytes a load, and writes one sum for 32 of them.
//
// The input is blocks of 32 rows of 128 elements, and every column of a block is summed. So
// neighbouring invocations load neighbouring vectors, VECTORS loads of an invocation are in flight
// at once, and no invocation needs another's result. Integers make the sums exact: a load that was
// left out is a wrong answer. A small input is read over several rounds, block after block, so that
// it can be measured in a cache with the whole chip at work.

const THREADS = 256u;
const VECTORS = 8u;
const COLUMNS = 32u;        // vectors in one row of a block
const ROWS = 32u;
const TILE = 4u * THREADS;  // sums per workgroup and turn

const_assert ROWS % VECTORS == 0u;

struct Params {
    blocks: u32,
    outputs: u32,
    rows: u32,    // ROWS, but no compiler may know
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let count = params.outputs / 4u;
    let step = groups.x * THREADS;
    for (var index = group.x * THREADS + local.x; index < count; index += step) {
        let block = index / COLUMNS % params.blocks;
        let first = block * (ROWS * COLUMNS) + index % COLUMNS;
        var sum = vec4<f32>(0.0);
        for (var row = 0u; row < params.rows; row += VECTORS) {
            var loaded: array<vec4<f32>, VECTORS>;
            for (var i = 0u; i < VECTORS; i++) {
                loaded[i] = x[first + (row + i) * COLUMNS];
            }
            for (var i = 0u; i < VECTORS; i++) {
                sum += loaded[i];
            }
        }
        out[index] = sum;
    }
}
