// A few rows of A by B as it lies: a vector of four columns a lane, k split over the workgroup.
//
// Down a column of B nothing is contiguous, so lanes go along the columns, where neighbours read
// neighbouring vectors. That alone is as many lanes as there are columns, too few to keep a memory
// busy; so THREADS_Y invocations walk k in turns for the same columns, and their sums are added in
// workgroup memory, one row of A after the other. n must be a multiple of four.

alias Input = f32; // elements of A and B
alias Sum = f32; // sums, and elements of C

const M = 1u; // room for rows of A
const THREADS_X = 16u; // invocations along the columns
const THREADS_Y = 16u; // invocations along k
const UNROLL = 4u; // vectors of B that an invocation loads at once

const TILE_N = 4u * THREADS_X; // columns of C per workgroup

const_assert M * UNROLL <= 32u; // more loads than this are not under way at once

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
    let vector = group.x * THREADS_X + local.x;
    // Loads are clamped into the matrices; what that invents beyond k meets zeros of A, and what it
    // invents beyond m and n is never stored.
    var a_row: array<u32, M>;
    for (var i = 0u; i < M; i++) {
        a_row[i] = (group.z * params.m + min(i, params.m - 1u)) * params.k;
    }
    let b_first = group.z * params.k * n + min(vector, n - 1u);
    var sum: array<vec4<Sum>, M>;
    for (var i = 0u; i < M; i++) {
        sum[i] = vec4<Sum>();
    }

    for (var first = local.y; first < params.k; first += THREADS_Y * UNROLL) {
        var b_part: array<vec4<Input>, UNROLL>;
        for (var u = 0u; u < UNROLL; u++) {
            b_part[u] = b[b_first + min(first + u * THREADS_Y, last) * n];
        }
        for (var u = 0u; u < UNROLL; u++) {
            let at = first + u * THREADS_Y;
            for (var i = 0u; i < M; i++) {
                let value = select(Sum(), Sum(a[a_row[i] + min(at, last)]), at <= last);
                sum[i] = fma(vec4(value), vec4<Sum>(b_part[u]), sum[i]);
            }
        }
    }

    for (var i = 0u; i < M; i++) {
        workgroupBarrier();
        partial[local.y * THREADS_X + local.x] = sum[i];
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
