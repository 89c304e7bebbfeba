// `flash_matrix` with a causal mask.
//
// The walk ends at the last key that the workgroup's last query sees, so about half of the work is
// saved. Workgroups with the longest walks come first, of all heads before any shorter one, so that
// short ones fill the end: heads lie along x, by which workgroups begin, and tiles of queries along y.

enable f16;
enable wgpu_cooperative_matrix;

const SUBGROUP_SIZE = 32u;
const HEAD_DIM = 128u; // room for a head; a shorter head_dim is padded with zeros
const SUBGROUPS = 4u;
const ROWS = 1u; // blocks of 16 queries per subgroup
const KEYS = 64u; // keys between two looks at the running maximum
const PARTS = 2u; // neighbouring lanes that share a row of scores

const BLOCK = 16u;
const THREADS = SUBGROUP_SIZE * SUBGROUPS;
const OWN = ROWS * BLOCK; // queries per subgroup
const TILE_Q = SUBGROUPS * OWN; // queries per workgroup
const PIECES = HEAD_DIM / BLOCK; // blocks along a head
const VECTORS = HEAD_DIM / 4u; // vectors in a row of Q, K, V
const KV_STRIDE = VECTORS + 2u; // vectors from one row to the next
const SCORE_VECTORS = KEYS / 4u; // in a row of scores
const SCORE_STRIDE = SCORE_VECTORS + 2u;
const WEIGHT_STRIDE = SCORE_VECTORS + 2u;
// Blocks of keys whose scores are summed side by side; more rows leave fewer registers for them.
const ABREAST = max(min(4u, KEYS / BLOCK) / (ROWS * ROWS), 1u);
const CHUNK = min(KEYS, HEAD_DIM); // elements of the head that pass workgroup memory at a time
const CHUNK_VECTORS = CHUNK / 4u;
const LOADS = KEYS * VECTORS / THREADS; // vectors of K or V that an invocation stages
const Q_LOADS = TILE_Q * CHUNK_VECTORS / THREADS;
const O_LOADS = Q_LOADS;
const SHARED_ROWS = THREADS / PARTS; // rows that all invocations together work on at a time
const ROW_TURNS = TILE_Q / SHARED_ROWS;
const PART_VECTORS = SCORE_VECTORS / PARTS; // of a row of scores, per invocation
const LOG2_E = 1.4426950408889634; // exp(x) is exp2(x * LOG2_E), and exp2 is what hardware has
const LOWEST = -1.0e30; // stands for minus infinity, but differences of it are not NaN
const GROWTH = 8.0; // weights reach two to this power

const_assert KEYS % BLOCK == 0u && HEAD_DIM % CHUNK == 0u;
const_assert LOADS > 0u && LOADS * THREADS == KEYS * VECTORS;
const_assert Q_LOADS > 0u && Q_LOADS * THREADS == TILE_Q * CHUNK_VECTORS;
const_assert ROW_TURNS > 0u && ROW_TURNS * SHARED_ROWS == TILE_Q;
const_assert PARTS <= SUBGROUP_SIZE && PART_VECTORS * PARTS == SCORE_VECTORS;

alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;

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
@group(0) @binding(1) var<storage, read> q: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;

var<workgroup> kv_tile: array<vec4<f16>, KEYS * KV_STRIDE>; // keys, then values
var<workgroup> scores: array<vec4<f32>, TILE_Q * SCORE_STRIDE - 2u>; // later pieces of the output
var<workgroup> weights: array<vec4<f16>, TILE_Q * WEIGHT_STRIDE>; // at first pieces of the queries
// Whether some maximum is too stale. A vector, because matrices are loaded from multiples of 16 bytes
// and what lies behind it must begin at one.
var<workgroup> outgrown: vec4<u32>;

// How many keys a query sees. The mask is aligned to the end: the last query sees every key.
fn visible_count(query: u32) -> u32 {
    let end = query + 1u + params.kv_len;
    return select(0u, end - params.query_len, end > params.query_len);
}

// Where the keys and values of a head begin, in vectors; groups of heads share them.
fn kv_start(batch_head: u32) -> u32 {
    let batch = batch_head / params.heads;
    let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);
    return (batch * params.kv_heads + kv_head) * params.kv_len * (params.head_dim / 4u);
}

// Vector `piece` of the keys from `first` on. Loads are clamped into the tensor; what that invents
// beyond the head meets zeros of the queries, and beyond the keys it is given no weight.
fn piece_of_k(kv_first: u32, first: u32, piece: u32) -> vec4<f16> {
    let d = params.head_dim / 4u;
    let key = min(first + piece / VECTORS, params.kv_len - 1u);
    return k[kv_first + key * d + min(piece % VECTORS, d - 1u)];
}

// The same of the values; what is invented beyond the head is never stored.
fn piece_of_v(kv_first: u32, first: u32, piece: u32) -> vec4<f16> {
    let d = params.head_dim / 4u;
    let key = min(first + piece / VECTORS, params.kv_len - 1u);
    return v[kv_first + key * d + min(piece % VECTORS, d - 1u)];
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroup_count: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    // Neighbours by this number are neighbours in a subgroup.
    let thread = subgroup * subgroup_size + lane;
    let part = thread % PARTS;
    let d = params.head_dim / 4u; // vectors in a row
    let first_query = (groups.y - 1u - group.y) * TILE_Q;
    let q_first = group.x * params.query_len;
    let kv_first = kv_start(group.x);
    let q_last = params.query_len - 1u;
    let count = visible_count(min(first_query + TILE_Q - 1u, q_last));

    for (var turn = 0u; turn < SUBGROUPS; turn += subgroup_count) {
        let own = min(turn + subgroup, SUBGROUPS - 1u) * OWN;
        var query: array<MatrixA, ROWS * PIECES>;
        for (var chunk = 0u; chunk < HEAD_DIM; chunk += CHUNK) {
            workgroupBarrier();
            for (var i = 0u; i < Q_LOADS; i++) {
                let piece = thread + i * THREADS;
                let row = min(first_query + piece / CHUNK_VECTORS, q_last);
                let column = chunk / 4u + piece % CHUNK_VECTORS;
                let values = q[(q_first + row) * d + min(column, d - 1u)];
                weights[piece / CHUNK_VECTORS * WEIGHT_STRIDE + piece % CHUNK_VECTORS] =
                    select(vec4<f16>(), values, column < d);
            }
            workgroupBarrier();
            for (var i = 0u; i < ROWS; i++) {
                for (var p = 0u; p < CHUNK; p += BLOCK) {
                    let at = (own + i * BLOCK) * WEIGHT_STRIDE + p / 4u;
                    query[i * PIECES + (chunk + p) / BLOCK] =
                        coopLoadT<MatrixA>(&weights[at], WEIGHT_STRIDE);
                }
            }
        }

        var sum: array<MatrixC, ROWS * PIECES>;
        for (var i = 0u; i < ROWS * PIECES; i++) {
            sum[i] = MatrixC();
        }
        var largest: array<f32, ROW_TURNS>; // what weights are relative to
        var total: array<f32, ROW_TURNS>; // of this invocation's part
        for (var r = 0u; r < ROW_TURNS; r++) {
            largest[r] = LOWEST;
            total[r] = 0.0;
        }
        var next: array<vec4<f16>, LOADS>;
        for (var i = 0u; i < LOADS; i++) {
            next[i] = piece_of_k(kv_first, 0u, thread + i * THREADS);
        }

        for (var first = 0u; first < count; first += KEYS) {
            // (1) Scores.
            workgroupBarrier();
            outgrown = vec4<u32>();
            for (var i = 0u; i < LOADS; i++) {
                let piece = thread + i * THREADS;
                kv_tile[piece / VECTORS * KV_STRIDE + piece % VECTORS] = next[i];
            }
            workgroupBarrier();
            for (var j = 0u; j < KEYS; j += ABREAST * BLOCK) {
                var score: array<MatrixC, ABREAST * ROWS>;
                for (var i = 0u; i < ABREAST * ROWS; i++) {
                    score[i] = MatrixC();
                }
                for (var p = 0u; p < PIECES; p++) {
                    for (var s = 0u; s < ABREAST; s++) {
                        let at = (j + s * BLOCK) * KV_STRIDE + p * BLOCK / 4u;
                        let key = coopLoad<MatrixB>(&kv_tile[at], KV_STRIDE);
                        for (var i = 0u; i < ROWS; i++) {
                            let slot = s * ROWS + i;
                            score[slot] = coopMultiplyAdd(query[i * PIECES + p], key, score[slot]);
                        }
                    }
                }
                for (var s = 0u; s < ABREAST; s++) {
                    for (var i = 0u; i < ROWS; i++) {
                        let value = score[s * ROWS + i];
                        let at = (own + i * BLOCK) * SCORE_STRIDE + (j + s * BLOCK) / 4u;
                        let to = &scores[at];
                        coopStoreT(value, to, SCORE_STRIDE);
                    }
                }
            }
            for (var i = 0u; i < LOADS; i++) {
                next[i] = piece_of_v(kv_first, first, thread + i * THREADS);
            }
            workgroupBarrier();

            // (2) Weights.
            for (var i = 0u; i < LOADS; i++) {
                let piece = thread + i * THREADS;
                kv_tile[piece / VECTORS * KV_STRIDE + piece % VECTORS] = next[i];
            }
            var correction: array<f32, ROW_TURNS>;
            for (var r = 0u; r < ROW_TURNS; r++) {
                let row = r * SHARED_ROWS + thread / PARTS;
                let seen = visible_count(min(first_query + row, q_last));
                var score: array<vec4<f32>, PART_VECTORS>;
                var highest = LOWEST;
                for (var i = 0u; i < PART_VECTORS; i++) {
                    let at = i * PARTS + part;
                    let key = vec4(0u, 1u, 2u, 3u) + (first + at * 4u);
                    let scaled = scores[row * SCORE_STRIDE + at] * (params.scale * LOG2_E);
                    score[i] = select(vec4(LOWEST), scaled, key < vec4(seen));
                    let pair = max(score[i].xy, score[i].zw);
                    highest = max(highest, max(pair.x, pair.y));
                }
                for (var apart = 1u; apart < PARTS; apart *= 2u) {
                    highest = max(highest, subgroupShuffleXor(highest, apart));
                }
                correction[r] = 1.0;
                if (highest > largest[r] + GROWTH) {
                    correction[r] = exp2(largest[r] - highest);
                    largest[r] = highest;
                    total[r] *= correction[r];
                    // Before the first block there is nothing to correct.
                    if (first > 0u) {
                        outgrown.x = 1u;
                    }
                }
                for (var i = 0u; i < PART_VECTORS; i++) {
                    let weight = exp2(score[i] - largest[r]);
                    total[r] += (weight.x + weight.y) + (weight.z + weight.w);
                    weights[row * WEIGHT_STRIDE + i * PARTS + part] = vec4<f16>(weight);
                }
            }
            // A barrier, and what it reads is the same for all.
            if (workgroupUniformLoad(&outgrown).x != 0u) {
                for (var p = 0u; p < HEAD_DIM; p += CHUNK) {
                    for (var i = 0u; i < ROWS; i++) {
                        for (var j = 0u; j < CHUNK; j += BLOCK) {
                            let value = sum[i * PIECES + (p + j) / BLOCK];
                            let at = (own + i * BLOCK) * SCORE_STRIDE + j / 4u;
                            let to = &scores[at];
                            coopStoreT(value, to, SCORE_STRIDE);
                        }
                    }
                    workgroupBarrier();
                    for (var r = 0u; r < ROW_TURNS; r++) {
                        let row = r * SHARED_ROWS + thread / PARTS;
                        for (var i = part; i < CHUNK_VECTORS; i += PARTS) {
                            scores[row * SCORE_STRIDE + i] *= correction[r];
                        }
                    }
                    workgroupBarrier();
                    for (var i = 0u; i < ROWS; i++) {
                        for (var j = 0u; j < CHUNK; j += BLOCK) {
                            let at = (own + i * BLOCK) * SCORE_STRIDE + j / 4u;
                            sum[i * PIECES + (p + j) / BLOCK] =
                                coopLoadT<MatrixC>(&scores[at], SCORE_STRIDE);
                        }
                    }
                    workgroupBarrier();
                }
            }

            // (3) The weighted values.
            for (var i = 0u; i < LOADS; i++) {
                next[i] = piece_of_k(kv_first, first + KEYS, thread + i * THREADS);
            }
            for (var j = 0u; j < KEYS; j += BLOCK) {
                var weight: array<MatrixA, ROWS>;
                for (var i = 0u; i < ROWS; i++) {
                    let at = (own + i * BLOCK) * WEIGHT_STRIDE + j / 4u;
                    weight[i] = coopLoadT<MatrixA>(&weights[at], WEIGHT_STRIDE);
                }
                for (var p = 0u; p < PIECES; p++) {
                    let at = j * KV_STRIDE + p * BLOCK / 4u;
                    let value = coopLoadT<MatrixB>(&kv_tile[at], KV_STRIDE);
                    for (var i = 0u; i < ROWS; i++) {
                        let slot = i * PIECES + p;
                        sum[slot] = coopMultiplyAdd(weight[i], value, sum[slot]);
                    }
                }
            }
        }

        // To a query that sees no key all are equally far below; its output is zero.
        var factor: array<f32, ROW_TURNS>;
        for (var r = 0u; r < ROW_TURNS; r++) {
            var weight = total[r];
            for (var apart = 1u; apart < PARTS; apart *= 2u) {
                weight += subgroupShuffleXor(weight, apart);
            }
            let row = r * SHARED_ROWS + thread / PARTS;
            let seen = visible_count(min(first_query + row, q_last));
            factor[r] = select(0.0, 1.0 / weight, seen > 0u);
        }
        for (var p = 0u; p < HEAD_DIM; p += CHUNK) {
            workgroupBarrier();
            for (var i = 0u; i < ROWS; i++) {
                for (var j = 0u; j < CHUNK; j += BLOCK) {
                    let value = sum[i * PIECES + (p + j) / BLOCK];
                    let at = (own + i * BLOCK) * SCORE_STRIDE + j / 4u;
                    let to = &scores[at];
                    coopStoreT(value, to, SCORE_STRIDE);
                }
            }
            workgroupBarrier();
            for (var r = 0u; r < ROW_TURNS; r++) {
                let row = r * SHARED_ROWS + thread / PARTS;
                // Rows of this turn's subgroups only: the others hold something else.
                let mine = row >= turn * OWN && row < (turn + subgroup_count) * OWN;
                if (mine && first_query + row <= q_last) {
                    let start = (q_first + first_query + row) * d + p / 4u;
                    for (var i = part; i < CHUNK_VECTORS; i += PARTS) {
                        if (p / 4u + i < d) {
                            o[start + i] = scores[row * SCORE_STRIDE + i] * factor[r];
                        }
                    }
                }
            }
        }
    }
}
