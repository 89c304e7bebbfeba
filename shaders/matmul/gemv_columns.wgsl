// A few rows of A by B as it lies: a vector of four columns a lane, k split over the workgroup.
//
// Down a column of B nothing is contiguous, so lanes go along the columns, where neighbours read
// neighbouring vectors. That alone is as many lanes as there are columns, too few to keep a memory
// busy; so THREADS_Y invocations walk k in turns for the same columns, and their sums are added in
// workgroup memory, one vector after the other. An invocation may take several vectors of a row,
// which makes the pieces of memory that a workgroup reads longer. n must be a multiple of four.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const M = 1u; // room for rows of A
const THREADS_X = 16u; // invocations along the columns
const THREADS_Y = 16u; // invocations along k
const VECTORS = 1u; // vectors of columns per invocation
const UNROLL = 4u; // rows of B that an invocation loads from at once

const TILE_N = 4u * THREADS_X * VECTORS; // columns of C per workgroup

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

var<workgroup> partial: array<vec4<Sum>, THREADS_X * THREADS_Y>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let n = params.n / 4u; // vectors in a row of B and of C
    let last = params.k - 1u;
    let first_vector = group.x * (THREADS_X * VECTORS) + local.x;
    // Loads are clamped into the matrices; what that invents beyond k meets zeros of A, and what it
    // invents beyond m and n is never stored.
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

    for (var first = local.y; first < params.k; first += THREADS_Y * UNROLL) {
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
                let value = select(Sum(), Sum(a[a_row[i] + min(at, last)]), at <= last);
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
            c[(group.z * params.m + i) * n + vector] = whole;
        }
    }
}
