// `gemv_w4` with a whole block of weights to a load: 32 of them, sixteen bytes, under one scale.
//
// A GPU may read words of weights faster than it unpacks them, and then instructions decide. A lane
// has all weights of a scale here, so that this is found, loaded and unpacked once for four words, and
// multiplied by the sum over the block. And weights leave their word at their own size: four bits at
// their place in the mantissa have it below an exponent that is smaller by that place, which is
// another for each of four and costs no more, so A is taken as it is. That leaves three instructions
// for a weight: bits masked below their exponent, the offset taken away, the product. All but the
// sums are exact. Only blocks beyond the first of a turn can lie beyond k; those are skipped.
//
// In return neighbouring lanes lie a block of A apart, and each of their loads of A meets four times the
// lines of the cache that it meets in `gemv_w4`. Columns share these loads.

alias Input = f32; // elements of A

const M = 1u; // room for rows of A
const THREADS = 64u; // invocations along k
const COLUMNS = 4u; // columns of C per workgroup
const UNROLL = 1u; // blocks of each row of B that an invocation loads at once

const_assert M * COLUMNS <= 32u; // more sums than this leave no registers for loads
const_assert countOneBits(THREADS) == 1u; // sums are halved

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

// What of A meets a block of B.
alias Block = array<vec4<Input>, 8>;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Block>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

var<workgroup> partial: array<f32, M * COLUMNS * THREADS>;

// The four weights in the lower half of a word whose sign bits have been turned: eight more than
// their value, below the one of 2^23, 2^19, 2^15 and 2^11.
fn weights(word: u32) -> vec4<f32> {
    let bits = vec4(word) & vec4(0xfu, 0xf0u, 0xf00u, 0xf000u);
    let exponents = vec4(0x4b000000u, 0x49000000u, 0x47000000u, 0x45000000u);
    return bitcast<vec4<f32>>(bits | exponents) - vec4(8388616.0, 524296.0, 32776.0, 2056.0);
}

// The scale of a block, out of the word that holds it and a neighbour's.
fn scale_of(block: u32, pair: u32) -> f32 {
    return unpack2x16float(pair >> (block % 2u * 16u)).x;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let length = params.k / 32u; // blocks in a row of A and of B
    let last = length - 1u;
    let first_column = group.x * COLUMNS;
    // Loads are clamped into the matrices; what that invents beyond k is skipped, and what it invents
    // beyond m and n is never stored.
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
        var pair: array<u32, UNROLL * COLUMNS>; // the word that holds the scale
        for (var u = 0u; u < UNROLL; u++) {
            let at = min(first + u * THREADS, last);
            for (var j = 0u; j < COLUMNS; j++) {
                b_part[u * COLUMNS + j] = b[b_row[j] + at];
                pair[u * COLUMNS + j] = scales[(b_row[j] + at) / 2u];
            }
        }
        for (var u = 0u; u < UNROLL; u++) {
            let at = first + u * THREADS;
            if (u == 0u || at <= last) {
                var product: array<f32, M * COLUMNS>;
                for (var i = 0u; i < M * COLUMNS; i++) {
                    product[i] = 0.0;
                }
                for (var part = 0u; part < 8u; part++) {
                    var a_part: array<vec4<f32>, M>;
                    for (var i = 0u; i < M; i++) {
                        a_part[i] = vec4<f32>(a[a_row[i] + at][part]);
                    }
                    for (var j = 0u; j < COLUMNS; j++) {
                        let word = b_part[u * COLUMNS + j][part / 2u] ^ 0x88888888u;
                        let four = weights(word >> (part % 2u * 16u));
                        for (var i = 0u; i < M; i++) {
                            // Four instructions: `dot` would take an addition more.
                            var whole = product[i * COLUMNS + j];
                            whole = fma(a_part[i].x, four.x, whole);
                            whole = fma(a_part[i].y, four.y, whole);
                            whole = fma(a_part[i].z, four.z, whole);
                            product[i * COLUMNS + j] = fma(a_part[i].w, four.w, whole);
                        }
                    }
                }
                for (var j = 0u; j < COLUMNS; j++) {
                    let scale = scale_of(b_row[j] + at, pair[u * COLUMNS + j]);
                    for (var i = 0u; i < M; i++) {
                        let sum_at = i * COLUMNS + j;
                        sum[sum_at] = fma(product[sum_at], scale, sum[sum_at]);
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
