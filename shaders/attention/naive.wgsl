// Attention as the definition reads: all scores, then their softmax, then the product with V.
//
// Three passes over a scratch matrix of query_len x kv_len scores for every head. They are written
// and read several times, which is what the `flash` kernels avoid, and for long sequences the
// scratch is larger than all tensors together. It is here as the twin that the others are judged
// against. Masked scores are never computed: every pass stops a row at its last visible key.

alias Input = f32; // elements of Q, K and V

const TILE_X = 16u; // keys (or elements of a row of the output) per workgroup, one per invocation
const TILE_Y = 16u; // queries per workgroup, one per invocation
const THREADS = 64u; // invocations that share the softmax of one row

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
@group(0) @binding(5) var<storage, read_write> weights: array<f32>;

// How many keys a query sees. The mask is aligned to the end: the last query sees every key.
fn visible_count(query: u32) -> u32 {
    if (params.causal == 0u) {
        return params.kv_len;
    }
    let end = query + 1u + params.kv_len;
    return select(0u, end - params.query_len, end > params.query_len);
}

// Where the keys and values of a head begin; groups of heads share them.
fn kv_start(batch_head: u32) -> u32 {
    let batch = batch_head / params.heads;
    let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);
    return (batch * params.kv_heads + kv_head) * params.kv_len * params.head_dim;
}

@compute @workgroup_size(TILE_X, TILE_Y)
fn scores(@builtin(global_invocation_id) id: vec3<u32>) {
    let key = id.x;
    let query = id.y;
    if (query >= params.query_len || key >= visible_count(query)) {
        return;
    }
    let row = id.z * params.query_len + query;
    let q_start = row * params.head_dim;
    let k_start = kv_start(id.z) + key * params.head_dim;
    var sum = 0.0;
    for (var i = 0u; i < params.head_dim; i++) {
        sum = fma(f32(q[q_start + i]), f32(k[k_start + i]), sum);
    }
    weights[row * params.kv_len + key] = sum * params.scale;
}

var<workgroup> partial: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn softmax(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let count = visible_count(group.x);
    let start = (group.y * params.query_len + group.x) * params.kv_len;

    // The largest score is taken off before the exponential, so that none overflows.
    var largest = -3.0e38;
    for (var i = thread; i < count; i += THREADS) {
        largest = max(largest, weights[start + i]);
    }
    partial[thread] = largest;
    workgroupBarrier();
    for (var i = 0u; i < THREADS; i++) {
        largest = max(largest, partial[i]);
    }
    workgroupBarrier();

    var sum = 0.0;
    for (var i = thread; i < count; i += THREADS) {
        let weight = exp(weights[start + i] - largest);
        weights[start + i] = weight;
        sum += weight;
    }
    partial[thread] = sum;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        total += partial[i];
    }
    for (var i = thread; i < count; i += THREADS) {
        weights[start + i] /= total;
    }
}

@compute @workgroup_size(TILE_X, TILE_Y)
fn product(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let query = id.y;
    if (column >= params.head_dim || query >= params.query_len) {
        return;
    }
    let row = id.z * params.query_len + query;
    let w_start = row * params.kv_len;
    let v_start = kv_start(id.z) + column;
    let count = visible_count(query);
    var sum = 0.0;
    for (var key = 0u; key < count; key++) {
        sum = fma(weights[w_start + key], f32(v[v_start + key * params.head_dim]), sum);
    }
    o[row * params.head_dim + column] = sum;
}
