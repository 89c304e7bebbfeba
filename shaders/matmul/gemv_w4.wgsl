// `gemv` on weights of 4 bits, eight to a word, with a scale for every 32 of them.
//
// A lane takes a word, so that a row of lanes takes a whole cache line and its vectors of A lie
// beside those of its neighbours; the scale of four words is one load that four lanes share. A
// weight becomes a float without being converted or shifted, for unpacking is most of the work: with
// its sign bit turned it is its value plus eight, and such four bits at their place below the
// exponent of 2^23 are a float from which 2^23 and eight of that place are taken away. What is left
// is too large by a power of sixteen, and A, which serves several columns, is made smaller by it.
// All of that is exact. The sum over a word is scaled once. Scales are unpacked by a built-in
// function that asks for no f16 arithmetic.

alias Input = f32; // elements of A

const M = 1u; // room for rows of A
const THREADS = 64u; // invocations along k
const COLUMNS = 4u; // columns of C per workgroup
const UNROLL = 4u; // words of each row of B that an invocation loads at once

const_assert M * COLUMNS <= 32u; // more sums than this leave no registers for loads
const_assert countOneBits(THREADS) == 1u; // sums are halved

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<Input>>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

var<workgroup> partial: array<f32, M * COLUMNS * THREADS>;

// What A is multiplied by where weights come sixteen, 256 or 4096 times too large.
const PLACES = vec4<f32>(1.0, 0.0625, 0.00390625, 0.000244140625);

// The four weights in the lower half of a word whose sign bits have been turned, each times its
// place.
fn weights(word: u32) -> vec4<f32> {
    let bits = vec4(word) & vec4(0xfu, 0xf0u, 0xf00u, 0xf000u);
    let offset = vec4(8388616.0, 8388736.0, 8390656.0, 8421376.0);
    return bitcast<vec4<f32>>(bits | vec4(0x4b000000u)) - offset;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let length = params.k / 8u; // words in a row of B
    let last = length - 1u;
    let first_column = group.x * COLUMNS;
    // Loads are clamped into the matrices; what that invents beyond k meets zeros of A, and what it
    // invents beyond m and n is never stored.
    var a_row: array<u32, M>;
    for (var i = 0u; i < M; i++) {
        a_row[i] = (group.z * params.m + min(i, params.m - 1u)) * length * 2u;
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
        var b_part: array<u32, UNROLL * COLUMNS>;
        var pair: array<u32, UNROLL * COLUMNS>; // the word that holds the scale
        for (var u = 0u; u < UNROLL; u++) {
            let at = min(first + u * THREADS, last);
            for (var j = 0u; j < COLUMNS; j++) {
                b_part[u * COLUMNS + j] = b[b_row[j] + at];
                pair[u * COLUMNS + j] = scales[(b_row[j] + at) / 8u];
            }
        }
        for (var u = 0u; u < UNROLL; u++) {
            let at = first + u * THREADS;
            var a_low: array<vec4<f32>, M>;
            var a_high: array<vec4<f32>, M>;
            for (var i = 0u; i < M; i++) {
                let start = a_row[i] + min(at, last) * 2u;
                a_low[i] = select(vec4<f32>(), vec4<f32>(a[start]) * PLACES, at <= last);
                a_high[i] = select(vec4<f32>(), vec4<f32>(a[start + 1u]) * PLACES, at <= last);
            }
            for (var j = 0u; j < COLUMNS; j++) {
                let word = b_part[u * COLUMNS + j] ^ 0x88888888u;
                let low = weights(word);
                let high = weights(word >> 16u);
                let both = unpack2x16float(pair[u * COLUMNS + j]);
                let odd = (b_row[j] + min(at, last)) / 4u % 2u == 1u;
                let scale = select(both.x, both.y, odd);
                for (var i = 0u; i < M; i++) {
                    let product = dot(a_low[i], low) + dot(a_high[i], high);
                    sum[i * COLUMNS + j] = fma(product, scale, sum[i * COLUMNS + j]);
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
