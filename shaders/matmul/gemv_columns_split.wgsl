// `gemv_columns` with k split over workgroups as well, in two passes.
//
// Where n is small its columns make too few workgroups for a large chip. Here SPLITS of them share
// the same columns, each with its part of k, and leave their sums in scratch memory; the second pass
// adds those. It costs a launch, so it pays where the first pass alone would leave much of the chip
// idle.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const M = 1u; // room for rows of A
const THREADS_X = 16u; // invocations along the columns
const THREADS_Y = 16u; // invocations along k
const VECTORS = 1u; // vectors of columns per invocation
const UNROLL = 4u; // rows of B that an invocation loads from at once
const SPLITS = 8u; // workgroups that share the same columns

const TILE_N = 4u * THREADS_X * VECTORS; // columns of C per workgroup
const THREADS = 64u; // invocations of a workgroup in the second pass, a vector of C each
const TILE_C = 4u * THREADS;

const_assert M * VECTORS <= 16u; // sums and loads fit the registers
const_assert UNROLL * VECTORS <= 32u;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Input>;
@group(0) @binding(2) var<storage, read> b: array<vec4<Input>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<Sum>>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec4<f32>>;

var<workgroup> partial: array<vec4<Sum>, THREADS_X * THREADS_Y>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let n = params.n / 4u; // vectors in a row of B and of C
    let last = params.k - 1u;
    // This workgroup's part of k; there may be nothing left for the last ones.
    let depth = (params.k + SPLITS - 1u) / SPLITS;
    let begin = group.y * depth;
    let end = min(begin + depth, params.k);
    let first_vector = group.x * (THREADS_X * VECTORS) + local.x;
    // Loads are clamped into the matrices; what that invents beyond the part meets zeros of A, and
    // what it invents beyond m and n is never stored.
    var a_row: array<u32, M>;
    for (var i = 0u; i < M; i++) {
        a_row[i] = (group.z * params.m + min(i, params.m - 1u)) * params.k;
    }
    let b_first = group.z * params.k * n;
    var b_vector: array<u32, VECTORS>;
    for (var j = 0u; j < VECTORS; j++) {
        b_vector[j] = b_first + min(first_vector + j * THREADS_X, n - 1u);
    }
    var sum: array<vec4<Sum>, M * VECTORS>;
    for (var i = 0u; i < M * VECTORS; i++) {
        sum[i] = vec4<Sum>();
    }

    for (var first = begin + local.y; first < end; first += THREADS_Y * UNROLL) {
        var b_part: array<vec4<Input>, UNROLL * VECTORS>;
        for (var u = 0u; u < UNROLL; u++) {
            let row = min(first + u * THREADS_Y, last) * n;
            for (var j = 0u; j < VECTORS; j++) {
                b_part[u * VECTORS + j] = b[row + b_vector[j]];
            }
        }
        for (var u = 0u; u < UNROLL; u++) {
            let at = first + u * THREADS_Y;
            for (var i = 0u; i < M; i++) {
                let value = select(Sum(), Sum(a[a_row[i] + min(at, last)]), at < end);
                for (var j = 0u; j < VECTORS; j++) {
                    let slot = i * VECTORS + j;
                    sum[slot] = fma(vec4(value), vec4<Sum>(b_part[u * VECTORS + j]), sum[slot]);
                }
            }
        }
    }

    for (var slot = 0u; slot < M * VECTORS; slot++) {
        let i = slot / VECTORS;
        let vector = first_vector + slot % VECTORS * THREADS_X;
        workgroupBarrier();
        partial[local.y * THREADS_X + local.x] = sum[slot];
        workgroupBarrier();
        if (local.y == 0u && vector < n && i < params.m) {
            var whole = partial[local.x];
            for (var y = 1u; y < THREADS_Y; y++) {
                whole += partial[y * THREADS_X + local.x];
            }
            let row = (group.z * SPLITS + group.y) * params.m + i;
            parts[row * n + vector] = vec4<f32>(whole);
        }
    }
}

@compute @workgroup_size(THREADS)
fn add(@builtin(global_invocation_id) id: vec3<u32>) {
    let count = params.m * params.n / 4u; // vectors in one C
    if (id.x >= count) {
        return;
    }
    var whole = vec4<f32>();
    for (var split = 0u; split < SPLITS; split++) {
        whole += parts[(id.z * SPLITS + split) * count + id.x];
    }
    c[id.z * count + id.x] = vec4<Sum>(whole);
}
