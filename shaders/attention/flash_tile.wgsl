// Attention in one pass on tiles: a workgroup takes TILE_Q queries along the keys by tiles.
//
// The online softmax of `flash` with both products done as register tiles, as in the matmul kernel
// of that name. Per tile of keys: (1) scores, from chunks of Q and K, DEPTH elements of the head
// deep, staged transposed in workgroup memory; (2) the largest score of each row, found by the
// THREADS_X invocations that share the row through workgroup memory, and the weights, written
// there as the left operand of (3) the product with chunks of V. The output stays in registers,
// spread over the workgroup, so that a head of any size fits; the sums of the weights stay in
// parts until the end, because every part is corrected by the same factor.
//
// Chunks instead of whole tiles keep workgroup memory near 16 KiB whatever the head: Q is staged
// again for every tile of keys, but from a cache. An invocation's keys are THREADS_X apart and rows
// of transposed tiles are padded by a vector, so that neighbours do not collide in a bank.

alias Input = f32; // elements of Q, K and V

const HEAD_DIM = 64u; // room for a head; a shorter head_dim is padded with zeros
const ROWS = 4u; // queries per invocation
const THREADS_Y = 16u; // invocations along the queries
const DEPTH = 16u; // elements of the head staged at a time for the scores

const THREADS_X = 8u; // invocations along the keys, and along the elements of the output
const KEYS = 4u; // keys per invocation: one vector
const THREADS = THREADS_X * THREADS_Y;
const TILE_Q = THREADS_Y * ROWS; // queries per workgroup
const TILE_KV = THREADS_X * KEYS; // keys between two corrections of the running maximum
const V_DEPTH = min(TILE_KV, DEPTH * 64u / HEAD_DIM); // rows of V staged at a time
const ROW_VECTORS = ROWS / 4u;
const V_VECTORS = HEAD_DIM / 4u; // in a row of V
const O_VECTORS = V_VECTORS / THREADS_X; // in a row of the output, per invocation
const Q_STRIDE = TILE_Q / 4u + 1u; // vectors from one row of a transposed tile to the next
const K_STRIDE = THREADS_X + 1u;
const Q_LOADS = DEPTH * (TILE_Q / 4u) / THREADS; // vectors that an invocation stages
const K_LOADS = DEPTH * THREADS_X / THREADS;
const V_LOADS = V_DEPTH * V_VECTORS / THREADS;
const LOG2_E = 1.4426950408889634; // exp(x) is exp2(x * LOG2_E), and exp2 is what hardware has
const LOWEST = -1.0e30; // stands for minus infinity, but differences of it are not NaN

const_assert ROWS % 4u == 0u;
const_assert O_VECTORS > 0u && O_VECTORS * THREADS_X == V_VECTORS;
const_assert Q_LOADS * THREADS == DEPTH * (TILE_Q / 4u);
const_assert K_LOADS * THREADS == DEPTH * THREADS_X;
const_assert V_LOADS * THREADS == V_DEPTH * V_VECTORS && TILE_KV % V_DEPTH == 0u;
const_assert ROWS * HEAD_DIM <= 1024u; // the output fits the registers

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

// Where the keys and values of a head begin; groups of heads share them.
fn kv_start(batch_head: u32) -> u32 {
    let batch = batch_head / params.heads;
    let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);
    return (batch * params.kv_heads + kv_head) * params.kv_len * params.head_dim;
}

// First chunks of Q and K, then of V.
var<workgroup> stage: array<vec4<f32>, max(DEPTH * (Q_STRIDE + K_STRIDE), V_DEPTH * V_VECTORS)>;
// Weights, a row per key; before that, the parts of a reduction, a row per invocation of a row.
var<workgroup> weights: array<vec4<f32>, TILE_KV * Q_STRIDE>;

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let d = params.head_dim;
    let thread = local.y * THREADS_X + local.x;
    let first_query = group.x * TILE_Q;
    let q_first = group.y * params.query_len;
    let kv_first = kv_start(group.y);
    let q_last = params.query_len - 1u;
    let kv_last = params.kv_len - 1u;
    let count = params.kv_len;

    var sum: array<vec4<f32>, ROWS * O_VECTORS>;
    for (var i = 0u; i < ROWS * O_VECTORS; i++) {
        sum[i] = vec4<f32>();
    }
    // Element r of vector i belongs to query (i * THREADS_Y + local.y) * 4 + r of the tile.
    var largest: array<vec4<f32>, ROW_VECTORS>;
    var total: array<vec4<f32>, ROW_VECTORS>;
    for (var i = 0u; i < ROW_VECTORS; i++) {
        largest[i] = vec4(LOWEST);
        total[i] = vec4<f32>();
    }

    for (var first = 0u; first < count; first += TILE_KV) {
        // (1) Scores: KEYS times ROW_VECTORS vectors of four queries.
        var score: array<vec4<f32>, KEYS * ROW_VECTORS>;
        for (var i = 0u; i < KEYS * ROW_VECTORS; i++) {
            score[i] = vec4<f32>();
        }
        for (var chunk = 0u; chunk < d; chunk += DEPTH) {
            workgroupBarrier();
            // Loads are clamped into the tensors; what that invents beyond the head is made zero,
            // beyond the keys it is given no weight, beyond the queries it is never stored.
            for (var i = 0u; i < Q_LOADS; i++) {
                let piece = thread + i * THREADS;
                let column = chunk + piece % DEPTH;
                let query = vec4(0u, 1u, 2u, 3u) + (first_query + piece / DEPTH * 4u);
                let at = (q_first + min(query, vec4(q_last))) * d + min(column, d - 1u);
                let values = vec4<f32>(vec4(q[at.x], q[at.y], q[at.z], q[at.w]));
                stage[piece % DEPTH * Q_STRIDE + piece / DEPTH] =
                    select(vec4<f32>(), values, column < d);
            }
            for (var i = 0u; i < K_LOADS; i++) {
                let piece = thread + i * THREADS;
                let column = min(chunk + piece % DEPTH, d - 1u);
                let key = vec4(0u, 1u, 2u, 3u) * THREADS_X + (first + piece / DEPTH);
                let at = kv_first + min(key, vec4(kv_last)) * d + column;
                stage[DEPTH * Q_STRIDE + piece % DEPTH * K_STRIDE + piece / DEPTH] =
                    vec4<f32>(vec4(k[at.x], k[at.y], k[at.z], k[at.w]));
            }
            workgroupBarrier();
            for (var step = 0u; step < DEPTH; step++) {
                let keys = stage[DEPTH * Q_STRIDE + step * K_STRIDE + local.x];
                for (var i = 0u; i < ROW_VECTORS; i++) {
                    let queries = stage[step * Q_STRIDE + i * THREADS_Y + local.y];
                    for (var j = 0u; j < KEYS; j++) {
                        let slot = j * ROW_VECTORS + i;
                        score[slot] = fma(queries, vec4(keys[j]), score[slot]);
                    }
                }
            }
        }

        // (2) Weights. First the largest score of each row, of this invocation's keys and of all.
        for (var i = 0u; i < ROW_VECTORS; i++) {
            var own = vec4(LOWEST);
            for (var j = 0u; j < KEYS; j++) {
                let key = first + j * THREADS_X + local.x;
                let slot = j * ROW_VECTORS + i;
                let scaled = score[slot] * (params.scale * LOG2_E);
                score[slot] = select(vec4(LOWEST), scaled, key < count);
                own = max(own, score[slot]);
            }
            weights[local.x * Q_STRIDE + i * THREADS_Y + local.y] = own;
        }
        workgroupBarrier();
        var correction: array<vec4<f32>, ROW_VECTORS>;
        for (var i = 0u; i < ROW_VECTORS; i++) {
            let before = largest[i];
            for (var x = 0u; x < THREADS_X; x++) {
                largest[i] = max(largest[i], weights[x * Q_STRIDE + i * THREADS_Y + local.y]);
            }
            correction[i] = exp2(before - largest[i]);
            total[i] *= correction[i];
        }
        workgroupBarrier();
        for (var i = 0u; i < ROW_VECTORS; i++) {
            for (var j = 0u; j < KEYS; j++) {
                let key = first + j * THREADS_X + local.x;
                let power = exp2(score[j * ROW_VECTORS + i] - largest[i]);
                let weight = select(vec4<f32>(), power, key < count);
                total[i] += weight;
                weights[(j * THREADS_X + local.x) * Q_STRIDE + i * THREADS_Y + local.y] = weight;
            }
        }
        for (var i = 0u; i < ROWS; i++) {
            for (var j = 0u; j < O_VECTORS; j++) {
                sum[i * O_VECTORS + j] *= correction[i / 4u][i % 4u];
            }
        }

        // (3) The weighted values.
        for (var chunk = 0u; chunk < TILE_KV; chunk += V_DEPTH) {
            workgroupBarrier();
            for (var i = 0u; i < V_LOADS; i++) {
                let piece = thread + i * THREADS;
                let key = min(first + chunk + piece / V_VECTORS, kv_last);
                let column = vec4(0u, 1u, 2u, 3u) + piece % V_VECTORS * 4u;
                let at = kv_first + key * d + min(column, vec4(d - 1u));
                stage[piece] = vec4<f32>(vec4(v[at.x], v[at.y], v[at.z], v[at.w]));
            }
            workgroupBarrier();
            for (var step = 0u; step < V_DEPTH; step++) {
                var weight: array<vec4<f32>, ROW_VECTORS>;
                for (var i = 0u; i < ROW_VECTORS; i++) {
                    weight[i] = weights[(chunk + step) * Q_STRIDE + i * THREADS_Y + local.y];
                }
                for (var j = 0u; j < O_VECTORS; j++) {
                    let values = stage[step * V_VECTORS + j * THREADS_X + local.x];
                    for (var i = 0u; i < ROWS; i++) {
                        let slot = i * O_VECTORS + j;
                        sum[slot] = fma(vec4(weight[i / 4u][i % 4u]), values, sum[slot]);
                    }
                }
            }
        }
    }

    // The parts of the sums of weights.
    workgroupBarrier();
    for (var i = 0u; i < ROW_VECTORS; i++) {
        weights[local.x * Q_STRIDE + i * THREADS_Y + local.y] = total[i];
    }
    workgroupBarrier();
    for (var i = 0u; i < ROW_VECTORS; i++) {
        total[i] = vec4<f32>();
        for (var x = 0u; x < THREADS_X; x++) {
            total[i] += weights[x * Q_STRIDE + i * THREADS_Y + local.y];
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        let query = first_query + (i / 4u * THREADS_Y + local.y) * 4u + i % 4u;
        if (query < params.query_len) {
            let start = (q_first + query) * d;
            // A query that sees no key has no weights at all; its output is zero.
            let weight = total[i / 4u][i % 4u];
            let factor = select(0.0, 1.0 / weight, weight > 0.0);
            for (var j = 0u; j < O_VECTORS; j++) {
                let column = (j * THREADS_X + local.x) * 4u;
                for (var x = 0u; x < 4u; x++) {
                    if (column + x < d) {
                        o[start + column + x] = sum[i * O_VECTORS + j][x] * factor;
                    }
                }
            }
        }
    }
}
