// `naive` with keys and values in pages: the plain twin of the kernels that read through a table.
//
// K and V are [page_count, kv_heads, page, head_dim], and the table says which page of them holds
// each page of a sequence. Every key is looked up by itself, wherever it is met; apart from that the
// three passes are those of `naive`, word for word. Keys behind the last one are never looked at, so
// what the rest of the last page holds does not matter.

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
    page: u32, // tokens to a page
    pages: u32, // of a sequence
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<Input>;
@group(0) @binding(2) var<storage, read> k: array<Input>;
@group(0) @binding(3) var<storage, read> v: array<Input>;
@group(0) @binding(4) var<storage, read> block_table: array<u32>;
@group(0) @binding(5) var<storage, read_write> o: array<f32>;
@group(0) @binding(6) var<storage, read_write> weights: array<f32>;

// How many keys a query sees. The mask is aligned to the end: the last query sees every key.
fn visible_count(query: u32) -> u32 {
    if (params.causal == 0u) {
        return params.kv_len;
    }
    let end = query + 1u + params.kv_len;
    return select(0u, end - params.query_len, end > params.query_len);
}

// Where the row of a key and that of its value begin; groups of heads share them.
fn key_start(batch_head: u32, key: u32) -> u32 {
    let batch = batch_head / params.heads;
    let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);
    let page = block_table[batch * params.pages + key / params.page];
    let row = (page * params.kv_heads + kv_head) * params.page + key % params.page;
    return row * params.head_dim;
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
    let k_start = key_start(id.z, key);
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
    let count = visible_count(query);
    var sum = 0.0;
    for (var key = 0u; key < count; key++) {
        sum = fma(weights[w_start + key], f32(v[key_start(id.z, key) + column]), sum);
    }
    o[row * params.head_dim + column] = sum;
}
