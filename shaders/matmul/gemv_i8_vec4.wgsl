// `gemv_i8` with loads of sixteen bytes, sixteen elements to a load.
//
// Fewer loads bring as much, each of four words that meet their four of A one by one. k must be a
// multiple of sixteen, so that every row begins where such a load may.

const M = 1u; // room for rows of A
const THREADS = 64u; // invocations along k
const COLUMNS = 4u; // columns of C per workgroup
const UNROLL = 2u; // vectors of each row of B that an invocation loads at once

const_assert M * COLUMNS <= 32u; // more sums than this leave no registers for loads
const_assert countOneBits(THREADS) == 1u; // sums are halved

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> c: array<i32>;

var<workgroup> partial: array<i32, M * COLUMNS * THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let length = params.k / 16u; // vectors in a row of A and of B
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
    var sum: array<i32, M * COLUMNS>;
    for (var i = 0u; i < M * COLUMNS; i++) {
        sum[i] = 0;
    }

    for (var first = thread; first < length; first += THREADS * UNROLL) {
        var b_part: array<vec4<u32>, UNROLL * COLUMNS>;
        for (var u = 0u; u < UNROLL; u++) {
            let at = min(first + u * THREADS, last);
            for (var j = 0u; j < COLUMNS; j++) {
                b_part[u * COLUMNS + j] = b[b_row[j] + at];
            }
        }
        for (var u = 0u; u < UNROLL; u++) {
            let at = first + u * THREADS;
            for (var i = 0u; i < M; i++) {
                let a_part = select(vec4<u32>(), a[a_row[i] + min(at, last)], at <= last);
                for (var j = 0u; j < COLUMNS; j++) {
                    for (var word = 0u; word < 4u; word++) {
                        sum[i * COLUMNS + j] +=
                            dot4I8Packed(a_part[word], b_part[u * COLUMNS + j][word]);
                    }
                }
            }
        }
    }

    for (var i = 0u; i < M * COLUMNS; i++) {
        partial[i * THREADS + thread] = sum[i];
    }
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (thread < half) {
            for (var i = 0u; i < M * COLUMNS; i++) {
                partial[i * THREADS + thread] += partial[i * THREADS + thread + half];
            }
        }
    }
    workgroupBarrier();
    for (var i = thread; i < M * COLUMNS; i += THREADS) {
        let row = i / COLUMNS;
        let column = first_column + i % COLUMNS;
        if (row < params.m && column < params.n) {
            c[(group.z * params.m + row) * params.n + column] = partial[i * THREADS];
        }
    }
}
