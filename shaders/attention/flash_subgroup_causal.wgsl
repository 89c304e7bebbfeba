// `flash_subgroup` with a causal mask.
//
// The walk ends at the last key that the subgroup's last query sees, so about half of the work is
// saved; within a block, masked weights are zero.

alias Input = f32; // elements of Q, K and V

const SUBGROUP_SIZE = 32u; // lanes of a subgroup
const HEAD_DIM = 64u; // room for a head; a shorter head_dim is padded with zeros
const QUERIES = 2u; // queries per lane
const BLOCK = 8u; // keys between two corrections of the running maximum

const TILE_Q = SUBGROUP_SIZE * QUERIES; // queries per workgroup
const CHUNKS = HEAD_DIM / SUBGROUP_SIZE; // loads that a row of K or V takes
const LOG2_E = 1.4426950408889634; // exp(x) is exp2(x * LOG2_E), and exp2 is what hardware has
const LOWEST = -1.0e30; // stands for minus infinity, but differences of it are not NaN

const_assert CHUNKS > 0u && CHUNKS * SUBGROUP_SIZE == HEAD_DIM;
const_assert QUERIES * HEAD_DIM <= 512u; // more than this is in no registers or first-level cache
const_assert QUERIES * HEAD_DIM * BLOCK <= 1024u; // unrolled, more takes some drivers minutes to compile

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
@group(0) @binding(1) var<storage, read> q: array<Input>;
@group(0) @binding(2) var<storage, read> k: array<Input>;
@group(0) @binding(3) var<storage, read> v: array<Input>;
@group(0) @binding(4) var<storage, read_write> o: array<f32>;

// How many keys a query sees. The mask is aligned to the end: the last query sees every key.
fn visible_count(query: u32) -> u32 {
    let end = query + 1u + params.kv_len;
    return select(0u, end - params.query_len, end > params.query_len);
}

// Where the keys and values of a head begin; groups of heads share them.
fn kv_start(batch_head: u32) -> u32 {
    let batch = batch_head / params.heads;
    let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);
    return (batch * params.kv_heads + kv_head) * params.kv_len * params.head_dim;
}

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let d = params.head_dim;
    let first_query = group.x * TILE_Q + lane;
    let kv_first = kv_start(group.y);
    let last_query = min(group.x * TILE_Q + TILE_Q - 1u, params.query_len - 1u);
    let count = visible_count(last_query);

    var q_part: array<f32, QUERIES * HEAD_DIM>;
    var sum: array<f32, QUERIES * HEAD_DIM>;
    var largest: array<f32, QUERIES>;
    var total: array<f32, QUERIES>;
    var seen: array<u32, QUERIES>; // keys that a query sees
    for (var j = 0u; j < QUERIES; j++) {
        // Loads are clamped into the tensors; what that invents beyond the head is made zero,
        // beyond the keys it is given no weight, beyond the queries it is never stored.
        let query = min(first_query + j * SUBGROUP_SIZE, params.query_len - 1u);
        let start = (group.y * params.query_len + query) * d;
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += SUBGROUP_SIZE) {
            for (var i = chunk; i < chunk + SUBGROUP_SIZE; i++) {
                let value = f32(q[start + min(i, d - 1u)]) * (params.scale * LOG2_E);
                q_part[j * HEAD_DIM + i] = select(0.0, value, i < d);
                sum[j * HEAD_DIM + i] = 0.0;
            }
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
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += SUBGROUP_SIZE) {
            let column = min(chunk + lane, d - 1u);
            for (var b = 0u; b < BLOCK; b++) {
                let key = f32(k[start[b] + column]);
                for (var i = 0u; i < SUBGROUP_SIZE; i++) {
                    let element = subgroupShuffle(key, i);
                    for (var j = 0u; j < QUERIES; j++) {
                        let slot = j * BLOCK + b;
                        score[slot] = fma(q_part[j * HEAD_DIM + chunk + i], element, score[slot]);
                    }
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
            if (block_largest > largest[j]) {
                let correction = exp2(largest[j] - block_largest);
                largest[j] = block_largest;
                total[j] *= correction;
                for (var chunk = 0u; chunk < HEAD_DIM; chunk += SUBGROUP_SIZE) {
                    for (var i = chunk; i < chunk + SUBGROUP_SIZE; i++) {
                        sum[j * HEAD_DIM + i] *= correction;
                    }
                }
            }
            for (var b = 0u; b < BLOCK; b++) {
                let weight = exp2(score[j * BLOCK + b] - block_largest);
                score[j * BLOCK + b] = select(0.0, weight, first + b < seen[j]);
                total[j] += score[j * BLOCK + b];
            }
        }

        // The weighted values.
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += SUBGROUP_SIZE) {
            let column = min(chunk + lane, d - 1u);
            var value: array<f32, BLOCK>;
            for (var b = 0u; b < BLOCK; b++) {
                value[b] = f32(v[start[b] + column]);
            }
            for (var i = 0u; i < SUBGROUP_SIZE; i++) {
                for (var b = 0u; b < BLOCK; b++) {
                    let element = subgroupShuffle(value[b], i);
                    for (var j = 0u; j < QUERIES; j++) {
                        let slot = j * HEAD_DIM + chunk + i;
                        sum[slot] = fma(score[j * BLOCK + b], element, sum[slot]);
                    }
                }
            }
        }
    }

    for (var j = 0u; j < QUERIES; j++) {
        let query = first_query + j * SUBGROUP_SIZE;
        if (query < params.query_len) {
            let start = (group.y * params.query_len + query) * d;
            // A query that sees no key has no weights at all; its output is zero.
            let factor = select(0.0, 1.0 / total[j], total[j] > 0.0);
            for (var chunk = 0u; chunk < HEAD_DIM; chunk += SUBGROUP_SIZE) {
                for (var i = chunk; i < chunk + SUBGROUP_SIZE; i++) {
                    if (i < d) {
                        o[start + i] = sum[j * HEAD_DIM + i] * factor;
                    }
                }
            }
        }
    }
}
