// `decode` with keys and values in pages, as servers keep them: a table says where each page lies.
//
// K and V are [page_count, kv_heads, page, head_dim]. The invocation that takes a key looks its page
// up once for the whole row, and leaves where the row lies in workgroup memory, where those that
// read V find it; so the table is read once per key and workgroup, and pages may have any number of
// tokens. All else is as in `decode`.

alias Input = f32; // elements of Q, K and V

const HEAD_DIM = 128u; // room for a head; a shorter head_dim is padded with zeros
const THREADS = 64u; // invocations of a workgroup, and keys of a tile
const ROWS = 4u; // rows of the output per workgroup
const UNROLL = 4u; // vectors that an invocation loads at once
const SPLITS = 32u; // workgroups that share the keys of a head

const VECTORS = HEAD_DIM / 4u; // in a row of K
const GROUPS = THREADS / VECTORS; // invocations that share a column of V
const RUN = 8u; // scores of which one invocation finds the largest
const RUNS = THREADS / RUN;
const MERGE_THREADS = 32u; // invocations that share a row in the second pass
const MERGE_BLOCK = 8u; // parts that it loads at once: one by one each would wait for the one before
const LOG2_E = 1.4426950408889634; // exp(x) is exp2(x * LOG2_E), and exp2 is what hardware has
const LOWEST = -1.0e30; // stands for minus infinity, but differences of it are not NaN

const_assert GROUPS > 0u && GROUPS * VECTORS == THREADS;
const_assert VECTORS % UNROLL == 0u; // an invocation takes as many keys of a tile, and of a row

struct Params {
    heads: u32,
    kv_heads: u32,
    query_len: u32,
    kv_len: u32,
    head_dim: u32,
    causal: u32,
    scale: f32,
    batch: u32,
    page: u32, // tokens to a page
    pages: u32, // of a sequence
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<Input>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<Input>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<Input>>;
@group(0) @binding(4) var<storage, read> block_table: array<u32>;
@group(0) @binding(5) var<storage, read_write> o: array<vec4<f32>>;
// For every row of the output and every part of the keys: the weighted sum, and in a vector behind
// it the score that its weights are relative to, and their sum.
@group(0) @binding(6) var<storage, read_write> parts: array<vec4<f32>>;

// How many keys a query sees. The mask is aligned to the end: the last query sees every key.
fn visible_count(query: u32) -> u32 {
    let end = query + 1u + params.kv_len;
    let masked = select(0u, end - params.query_len, end > params.query_len);
    return select(params.kv_len, masked, params.causal == 1u);
}

// Where the row of a key and that of its value begin, in vectors.
fn key_start(batch: u32, kv_head: u32, key: u32) -> u32 {
    let page = block_table[batch * params.pages + key / params.page];
    let row = (page * params.kv_heads + kv_head) * params.page + key % params.page;
    return row * (params.head_dim / 4u);
}

var<workgroup> queries: array<vec4<f32>, ROWS * VECTORS>;
var<workgroup> starts: array<u32, THREADS>; // of the rows of a tile of keys
var<workgroup> weights: array<f32, ROWS * THREADS>; // a row of scores, then weights, per row
var<workgroup> runs: array<f32, ROWS * RUNS>;
var<workgroup> shared_sum: array<vec4<f32>, ROWS * THREADS>;
var<workgroup> shared_largest: array<f32, ROWS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let width = params.head_dim / 4u; // vectors in a row of each tensor
    let heads_each = params.heads / params.kv_heads;
    let rows = heads_each * params.query_len; // that share these keys
    let first_row = group.y * ROWS;
    // Heads that share keys are neighbours, and so are their queries.
    let q_first = group.z * rows;
    let batch = group.z / params.kv_heads;
    let kv_head = group.z % params.kv_heads;
    let kv_last = params.kv_len - 1u;
    // This workgroup's part of the keys; there may be nothing left for the last ones.
    let length = (params.kv_len + SPLITS - 1u) / SPLITS;
    let begin = group.x * length;
    let end = min(begin + length, params.kv_len);
    let own_column = thread % VECTORS;
    let own_group = thread / VECTORS;

    // Loads are clamped into the tensors; what that invents beyond the head meets zeros of Q, beyond
    // the keys it is given no weight, beyond the rows it is never stored.
    for (var i = thread; i < ROWS * VECTORS; i += THREADS) {
        let row = min(first_row + i / VECTORS, rows - 1u);
        let column = i % VECTORS;
        let values = vec4<f32>(q[(q_first + row) * width + min(column, width - 1u)]);
        let scaled = values * (params.scale * LOG2_E);
        queries[i] = select(vec4<f32>(), scaled, column < width);
    }
    var sum: array<vec4<f32>, ROWS>;
    var largest: array<f32, ROWS>;
    var total: array<f32, ROWS>; // of this invocation's keys
    var seen: array<u32, ROWS>; // the end of the keys that a row sees
    for (var i = 0u; i < ROWS; i++) {
        sum[i] = vec4<f32>();
        largest[i] = LOWEST;
        total[i] = 0.0;
        seen[i] = min(end, visible_count(min(first_row + i, rows - 1u) % params.query_len));
    }

    for (var first = begin; first < end; first += THREADS) {
        workgroupBarrier();
        let key = first + thread;
        let start = key_start(batch, kv_head, min(key, kv_last));
        starts[thread] = start;
        var score: array<f32, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            score[i] = 0.0;
        }
        for (var column = 0u; column < width; column += UNROLL) {
            var k_part: array<vec4<Input>, UNROLL>;
            for (var u = 0u; u < UNROLL; u++) {
                k_part[u] = k[start + min(column + u, width - 1u)];
            }
            for (var u = 0u; u < UNROLL; u++) {
                for (var i = 0u; i < ROWS; i++) {
                    score[i] += dot(queries[i * VECTORS + column + u], vec4<f32>(k_part[u]));
                }
            }
        }
        for (var i = 0u; i < ROWS; i++) {
            score[i] = select(LOWEST, score[i], key < seen[i]);
            weights[i * THREADS + thread] = score[i];
        }
        workgroupBarrier();
        for (var i = thread; i < ROWS * RUNS; i += THREADS) {
            var run_largest = LOWEST;
            for (var j = 0u; j < RUN; j++) {
                run_largest = max(run_largest, weights[i * RUN + j]);
            }
            runs[i] = run_largest;
        }
        workgroupBarrier();
        for (var i = 0u; i < ROWS; i++) {
            let before = largest[i];
            for (var j = 0u; j < RUNS; j++) {
                largest[i] = max(largest[i], runs[i * RUNS + j]);
            }
            let correction = exp2(before - largest[i]);
            let weight = select(0.0, exp2(score[i] - largest[i]), key < seen[i]);
            total[i] = fma(total[i], correction, weight);
            sum[i] *= correction;
            weights[i * THREADS + thread] = weight;
        }
        workgroupBarrier();
        // Keys of the tile that this invocation's group takes, as far as there are keys.
        let tile = min(THREADS, end - first);
        for (var turn = own_group; turn < tile; turn += GROUPS * UNROLL) {
            var v_part: array<vec4<Input>, UNROLL>;
            for (var u = 0u; u < UNROLL; u++) {
                let row = starts[turn + u * GROUPS];
                v_part[u] = v[row + min(own_column, width - 1u)];
            }
            for (var u = 0u; u < UNROLL; u++) {
                for (var i = 0u; i < ROWS; i++) {
                    let weight = weights[i * THREADS + turn + u * GROUPS];
                    sum[i] = fma(vec4(weight), vec4<f32>(v_part[u]), sum[i]);
                }
            }
        }
    }

    // All of the weights have been used, so their place is free for the totals.
    workgroupBarrier();
    for (var i = 0u; i < ROWS; i++) {
        shared_sum[i * THREADS + thread] = sum[i];
        weights[i * THREADS + thread] = total[i];
        if (thread == 0u) {
            shared_largest[i] = largest[i];
        }
    }
    workgroupBarrier();
    for (var i = thread; i < min(ROWS, rows - first_row) * (width + 1u); i += THREADS) {
        let row = i / (width + 1u);
        let column = i % (width + 1u);
        var whole = vec4<f32>();
        if (column < width) {
            for (var j = column; j < THREADS; j += VECTORS) {
                whole += shared_sum[row * THREADS + j];
            }
        } else {
            whole.x = shared_largest[row];
            for (var j = row * THREADS; j < (row + 1u) * THREADS; j++) {
                whole.y += weights[j];
            }
        }
        parts[((q_first + first_row + row) * SPLITS + group.x) * (width + 1u) + column] = whole;
    }
}

@compute @workgroup_size(MERGE_THREADS)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let width = params.head_dim / 4u;
    let row = group.y * params.query_len + group.x;
    let first = row * SPLITS * (width + 1u);
    // The parts that there are keys for.
    let length = (params.kv_len + SPLITS - 1u) / SPLITS;
    let count = (params.kv_len + length - 1u) / length;
    for (var column = thread; column < width; column += MERGE_THREADS) {
        var whole = vec4<f32>();
        var total = 0.0;
        var largest = LOWEST;
        // What lies beyond the last part is the last part again, with no weight.
        for (var split = 0u; split < count; split += MERGE_BLOCK) {
            var state: array<vec2<f32>, MERGE_BLOCK>;
            var values: array<vec4<f32>, MERGE_BLOCK>;
            for (var i = 0u; i < MERGE_BLOCK; i++) {
                let at = first + min(split + i, count - 1u) * (width + 1u);
                state[i] = parts[at + width].xy;
                values[i] = parts[at + column];
            }
            let before = largest;
            for (var i = 0u; i < MERGE_BLOCK; i++) {
                largest = max(largest, state[i].x);
            }
            let correction = exp2(before - largest);
            whole *= correction;
            total *= correction;
            for (var i = 0u; i < MERGE_BLOCK; i++) {
                let factor = select(0.0, exp2(state[i].x - largest), split + i < count);
                whole = fma(vec4(factor), values[i], whole);
                total = fma(factor, state[i].y, total);
            }
        }
        // A query that sees no key has no weights at all; its output is zero.
        o[row * width + column] = whole * select(0.0, 1.0 / total, total > 0.0);
    }
}
