// `gemv` with a subgroup for a workgroup, whose sums are added without workgroup memory.
//
// No barrier and no memory stand between the last load and the result, and many small workgroups
// fill a chip evenly. The walk along k is that of `gemv`.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const SUBGROUP_SIZE = 32u; // lanes of a subgroup, along k
const M = 1u; // room for rows of A
const COLUMNS = 4u; // columns of C per subgroup
const UNROLL = 2u; // vectors of each row of B that a lane loads at once

const_assert M * COLUMNS <= 32u; // more sums than this leave no registers for loads

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<Input>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<Input>>;
@group(0) @binding(3) var<storage, read_write> c: array<Sum>;

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let length = params.k / 4u; // vectors in a row of A and of B
    let last = length - 1u;
    let first_column = group.x * COLUMNS;
    // Loads are clamped into the matrices; what that invents beyond k meets zeros of A, and what it
    // invents beyond m and n is never stored.
    var a_row: array<u32, M>;
    for (var i = 0u; i < M; i++) {
        a_row[i] = (group.z * params.m + min(i, params.m - 1u)) * length;
    }
    var b_row: array<u32, COLUMNS>;
    for (var j = 0u; j < COLUMNS; j++) {
        b_row[j] = (group.z * params.n + min(first_column + j, params.n - 1u)) * length;
    }
    var sum: array<Sum, M * COLUMNS>;
    for (var i = 0u; i < M * COLUMNS; i++) {
        sum[i] = Sum();
    }

    // All lanes turn alike, so that they are all there when the sums are added.
    for (var turn = 0u; turn < length; turn += SUBGROUP_SIZE * UNROLL) {
        let first = turn + lane;
        var b_part: array<vec4<Input>, UNROLL * COLUMNS>;
        for (var u = 0u; u < UNROLL; u++) {
            let at = min(first + u * SUBGROUP_SIZE, last);
            for (var j = 0u; j < COLUMNS; j++) {
                b_part[u * COLUMNS + j] = b[b_row[j] + at];
            }
        }
        for (var u = 0u; u < UNROLL; u++) {
            let at = first + u * SUBGROUP_SIZE;
            for (var i = 0u; i < M; i++) {
                let values = vec4<Sum>(a[a_row[i] + min(at, last)]);
                let a_part = select(vec4<Sum>(), values, at <= last);
                for (var j = 0u; j < COLUMNS; j++) {
                    sum[i * COLUMNS + j] += dot(a_part, vec4<Sum>(b_part[u * COLUMNS + j]));
                }
            }
        }
    }

    for (var i = 0u; i < M; i++) {
        for (var j = 0u; j < COLUMNS; j++) {
            // In f32: adding f16 across lanes is a feature of its own in Vulkan.
            let whole = Sum(subgroupAdd(f32(sum[i * COLUMNS + j])));
            // One lane writes one element.
            let writer = (i * COLUMNS + j) % SUBGROUP_SIZE;
            let column = first_column + j;
            if (lane == writer && i < params.m && column < params.n) {
                c[(group.z * params.m + i) * params.n + column] = whole;
            }
        }
    }
}
