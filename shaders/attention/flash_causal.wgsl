// `flash` with a causal mask: the walk ends at the last key that the workgroup's last query sees.
//
// Blocks of keys that no query of the workgroup sees cost nothing, so about half the work is saved.
// A query that sees fewer keys than its neighbours gives the others a weight of zero.

const HEAD_DIM = 64u; // room for a head; a shorter head_dim is padded with zeros
const THREADS = 32u; // invocations per workgroup
const QUERIES = 1u; // queries per invocation
const BLOCK = 4u; // keys between two corrections of the running maximum

const TILE_Q = THREADS * QUERIES; // queries per workgroup
const PIECES = HEAD_DIM / 4u; // vectors in a head
const LOG2_E = 1.4426950408889634; // exp(x) is exp2(x * LOG2_E), and exp2 is what hardware has
const LOWEST = -1.0e30; // stands for minus infinity, but differences of it are not NaN

const_assert HEAD_DIM % 4u == 0u;
const_assert BLOCK * HEAD_DIM <= 512u; // more loads in one block take some drivers minutes to compile
const_assert QUERIES * HEAD_DIM <= 256u; // more than this is in registers nowhere

struct Params {
    heads: u32,
    kv_heads: u32,
    query_len: u32,
    kv_len: u32,
    head_dim: u32,
    causal: u32,
    scale: f32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;

// How many keys a query sees. The mask is aligned to the end: the last query sees every key.
fn visible_count(query: u32) -> u32 {
    let end = query + 1u + params.kv_len;
    return select(0u, end - params.query_len, end > params.query_len);
}

// Which key-value head, of all in the batch, a query head reads; groups of heads share one.
fn kv_head_of(batch_head: u32) -> u32 {
    let batch = batch_head / params.heads;
    let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);
    return batch * params.kv_heads + kv_head;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let d = params.head_dim / 4u; // vectors in a head
    let first_query = group.x * TILE_Q + thread;
    let kv_first = kv_head_of(group.y) * params.kv_len * d;
    let last_query = min(group.x * TILE_Q + TILE_Q - 1u, params.query_len - 1u);
    let count = visible_count(last_query);

    var q_part: array<vec4<f32>, QUERIES * PIECES>;
    var sum: array<vec4<f32>, QUERIES * PIECES>;
    var largest: array<f32, QUERIES>;
    var total: array<f32, QUERIES>;
    var seen: array<u32, QUERIES>; // keys that a query sees
    for (var j = 0u; j < QUERIES; j++) {
        // Loads are clamped into the tensor; what that invents is made zero or never stored.
        let query = min(first_query + j * THREADS, params.query_len - 1u);
        let start = (group.y * params.query_len + query) * d;
        for (var i = 0u; i < PIECES; i++) {
            let values = q[start + min(i, d - 1u)] * (params.scale * LOG2_E);
            q_part[j * PIECES + i] = select(vec4<f32>(), values, i < d);
            sum[j * PIECES + i] = vec4<f32>();
        }
        largest[j] = LOWEST;
        total[j] = 0.0;
        seen[j] = visible_count(query);
    }

    for (var first = 0u; first < count; first += BLOCK) {
        // Scores of this block.
        var start: array<u32, BLOCK>;
        for (var b = 0u; b < BLOCK; b++) {
            start[b] = kv_first + min(first + b, params.kv_len - 1u) * d;
        }
        var score: array<f32, QUERIES * BLOCK>;
        for (var j = 0u; j < QUERIES * BLOCK; j++) {
            score[j] = 0.0;
        }
        for (var i = 0u; i < PIECES; i++) {
            let piece = min(i, d - 1u);
            for (var b = 0u; b < BLOCK; b++) {
                let key = k[start[b] + piece];
                for (var j = 0u; j < QUERIES; j++) {
                    score[j * BLOCK + b] += dot(q_part[j * PIECES + i], key);
                }
            }
        }

        // Their weights, relative to the new maximum; what was summed before is scaled to it.
        for (var j = 0u; j < QUERIES; j++) {
            var block_largest = largest[j];
            for (var b = 0u; b < BLOCK; b++) {
                let shown = select(LOWEST, score[j * BLOCK + b], first + b < seen[j]);
                block_largest = max(block_largest, shown);
            }
            let correction = exp2(largest[j] - block_largest);
            largest[j] = block_largest;
            total[j] *= correction;
            for (var i = 0u; i < PIECES; i++) {
                sum[j * PIECES + i] *= correction;
            }
            for (var b = 0u; b < BLOCK; b++) {
                let weight = exp2(score[j * BLOCK + b] - block_largest);
                score[j * BLOCK + b] = select(0.0, weight, first + b < seen[j]);
                total[j] += score[j * BLOCK + b];
            }
        }

        // The weighted values.
        for (var i = 0u; i < PIECES; i++) {
            let piece = min(i, d - 1u);
            for (var b = 0u; b < BLOCK; b++) {
                let value = v[start[b] + piece];
                for (var j = 0u; j < QUERIES; j++) {
                    let slot = j * PIECES + i;
                    sum[slot] = fma(vec4(score[j * BLOCK + b]), value, sum[slot]);
                }
            }
        }
    }

    for (var j = 0u; j < QUERIES; j++) {
        let query = first_query + j * THREADS;
        if (query < params.query_len) {
            let start = (group.y * params.query_len + query) * d;
            // A query that sees no key has no weights at all; its output is zero.
            let factor = select(0.0, 1.0 / total[j], total[j] > 0.0);
            for (var i = 0u; i < PIECES; i++) {
                if (i < d) {
                    o[start + i] = sum[j * PIECES + i] * factor;
                }
            }
        }
    }
}
