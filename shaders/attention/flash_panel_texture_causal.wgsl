// `flash_panel_causal` with keys and values copied into a texture first, as `flash_panel_texture` does
// it and for the same reason. All of them are copied, also keys that only a few queries see: what a
// copy costs is little against what is read of it.

const SUBGROUP_SIZE = 8u; // lanes of a subgroup, and keys between two corrections of the maximum
const HEAD_DIM = 64u; // room for a head; a shorter head_dim is padded with zeros
const QUERIES = 2u; // queries per lane
const KEYS = 2u; // keys whose scores are summed side by side

const TILE_Q = SUBGROUP_SIZE * QUERIES; // queries per workgroup
const TEXTURE_WIDTH = 4096u; // texels in a row of the texture, a power of two
const QUADS = HEAD_DIM / 4u; // vectors of a head
const LOG2_E = 1.4426950408889634; // exp(x) is exp2(x * LOG2_E), and exp2 is what hardware has
const LOWEST = -1.0e30; // stands for minus infinity, but differences of it are not NaN

const_assert QUADS > 0u && QUADS * 4u == HEAD_DIM;
const_assert SUBGROUP_SIZE % KEYS == 0u;
const_assert QUERIES * HEAD_DIM <= 512u; // more than this is in no registers or first-level cache
const_assert QUERIES * HEAD_DIM * SUBGROUP_SIZE <= 2048u; // unrolled, more takes some drivers minutes to compile

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
// Keys, then values: what the copy writes and what is read of it are one texture.
@group(0) @binding(5) var written: texture_storage_2d<rgba32float, write>;
@group(0) @binding(6) var packed: texture_storage_2d<rgba32float, read>;

// Where vector `index` lies.
fn texel(index: u32) -> vec2<u32> {
    return vec2(index % TEXTURE_WIDTH, index / TEXTURE_WIDTH);
}

// Where the values begin.
fn values_first() -> u32 {
    return params.batch * params.kv_heads * params.kv_len * (params.head_dim / 4u);
}

// A workgroup moves one key and its value.
@compute @workgroup_size(SUBGROUP_SIZE)
fn pack(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let d = params.head_dim / 4u;
    let start = (group.y * params.kv_len + group.x) * d;
    for (var i = lane; i < d; i += SUBGROUP_SIZE) {
        textureStore(written, texel(start + i), k[start + i]);
        textureStore(written, texel(values_first() + start + i), v[start + i]);
    }
}

// How many keys a query sees. The mask is aligned to the end: the last query sees every key.
fn visible_count(query: u32) -> u32 {
    let end = query + 1u + params.kv_len;
    return select(0u, end - params.query_len, end > params.query_len);
}

// Where the keys and values of a head begin; groups of heads share them.
fn kv_start(batch_head: u32) -> u32 {
    let batch = batch_head / params.heads;
    let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);
    return (batch * params.kv_heads + kv_head) * params.kv_len * (params.head_dim / 4u);
}

@compute @workgroup_size(SUBGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let d = params.head_dim / 4u; // vectors of a query, a key or a value
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
        for (var i = 0u; i < QUADS; i++) {
            let value = q[start + min(i, d - 1u)] * (params.scale * LOG2_E);
            for (var c = 0u; c < 4u; c++) {
                q_part[j * HEAD_DIM + i * 4u + c] = select(0.0, value[c], i < d);
                sum[j * HEAD_DIM + i * 4u + c] = 0.0;
            }
        }
        largest[j] = LOWEST;
        total[j] = 0.0;
        seen[j] = visible_count(query);
    }

    for (var first = 0u; first < count; first += SUBGROUP_SIZE) {
        let start = kv_first + min(first + lane, params.kv_len - 1u) * d;
        var part: array<vec4<f32>, QUADS>; // of this lane's key, then of its value
        for (var i = 0u; i < QUADS; i++) {
            part[i] = textureLoad(packed, texel(start + min(i, d - 1u)));
        }

        // Scores of this block.
        var score: array<f32, QUERIES * SUBGROUP_SIZE>;
        for (var j = 0u; j < QUERIES * SUBGROUP_SIZE; j++) {
            score[j] = 0.0;
        }
        for (var next = 0u; next < SUBGROUP_SIZE; next += KEYS) {
            for (var i = 0u; i < QUADS; i++) {
                for (var c = 0u; c < 4u; c++) {
                    for (var b = next; b < next + KEYS; b++) {
                        let element = subgroupShuffle(part[i][c], b);
                        for (var j = 0u; j < QUERIES; j++) {
                            let slot = j * SUBGROUP_SIZE + b;
                            let value = q_part[j * HEAD_DIM + i * 4u + c];
                            score[slot] = fma(value, element, score[slot]);
                        }
                    }
                }
            }
        }

        // Their weights, relative to the new maximum; what was summed before is to be scaled to it.
        var correction: array<f32, QUERIES>;
        for (var j = 0u; j < QUERIES; j++) {
            var block_largest = largest[j];
            for (var b = 0u; b < SUBGROUP_SIZE; b++) {
                let shown = select(LOWEST, score[j * SUBGROUP_SIZE + b], first + b < seen[j]);
                block_largest = max(block_largest, shown);
            }
            correction[j] = exp2(largest[j] - block_largest);
            largest[j] = block_largest;
            total[j] *= correction[j];
            for (var b = 0u; b < SUBGROUP_SIZE; b++) {
                let weight = exp2(score[j * SUBGROUP_SIZE + b] - block_largest);
                score[j * SUBGROUP_SIZE + b] = select(0.0, weight, first + b < seen[j]);
                total[j] += score[j * SUBGROUP_SIZE + b];
            }
        }

        // The weighted values.
        for (var i = 0u; i < QUADS; i++) {
            part[i] = textureLoad(packed, texel(values_first() + start + min(i, d - 1u)));
        }
        for (var i = 0u; i < QUADS; i++) {
            for (var c = 0u; c < 4u; c++) {
                for (var j = 0u; j < QUERIES; j++) {
                    sum[j * HEAD_DIM + i * 4u + c] *= correction[j];
                }
                for (var b = 0u; b < SUBGROUP_SIZE; b++) {
                    let element = subgroupShuffle(part[i][c], b);
                    for (var j = 0u; j < QUERIES; j++) {
                        let slot = j * HEAD_DIM + i * 4u + c;
                        sum[slot] = fma(score[j * SUBGROUP_SIZE + b], element, sum[slot]);
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
            for (var i = 0u; i < QUADS; i++) {
                if (i < d) {
                    let slot = j * HEAD_DIM + i * 4u;
                    o[start + i] = factor
                        * vec4(sum[slot], sum[slot + 1u], sum[slot + 2u], sum[slot + 3u]);
                }
            }
        }
    }
}
