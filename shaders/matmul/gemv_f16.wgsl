// `gemv` on binary16 read as words: eight elements to a load of sixteen bytes.
//
// A vector of four halves is only eight bytes, and a load of sixteen costs no more. The halves are
// unpacked to f32 by a built-in function that asks for no f16 arithmetic, so this runs on devices
// without it. k must be a multiple of eight.

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
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

var<workgroup> partial: array<f32, M * COLUMNS * THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let length = params.k / 8u; // vectors in a row of A and of B
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
    var sum: array<f32, M * COLUMNS>;
    for (var i = 0u; i < M * COLUMNS; i++) {
        sum[i] = 0.0;
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
                let words = a[a_row[i] + min(at, last)];
                // Halves of no bits are zeros.
                let a_part = select(vec4<u32>(), words, at <= last);
                let a_low = vec4(unpack2x16float(a_part.x), unpack2x16float(a_part.y));
                let a_high = vec4(unpack2x16float(a_part.z), unpack2x16float(a_part.w));
                for (var j = 0u; j < COLUMNS; j++) {
                    let part = b_part[u * COLUMNS + j];
                    let low = vec4(unpack2x16float(part.x), unpack2x16float(part.y));
                    let high = vec4(unpack2x16float(part.z), unpack2x16float(part.w));
                    // Eight instructions: `dot` would take a multiplication and an addition more each.
                    var part_sum = sum[i * COLUMNS + j];
                    part_sum = fma(a_low.x, low.x, part_sum);
                    part_sum = fma(a_low.y, low.y, part_sum);
                    part_sum = fma(a_low.z, low.z, part_sum);
                    part_sum = fma(a_low.w, low.w, part_sum);
                    part_sum = fma(a_high.x, high.x, part_sum);
                    part_sum = fma(a_high.y, high.y, part_sum);
                    part_sum = fma(a_high.z, high.z, part_sum);
                    part_sum = fma(a_high.w, high.w, part_sum);
                    sum[i * COLUMNS + j] = part_sum;
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
