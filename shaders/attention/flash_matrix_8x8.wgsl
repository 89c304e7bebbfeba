// `flash_matrix` for matrix units that multiply 8 x 8, in any of the types that they take.
//
// What is staged lies in arrays of single elements, because not every language that this is translated
// to can load matrices from vectors; from memory they come four elements a load all the same. Weights
// have the type of the inputs.
//
// As it stands, 32 lanes have 64 registers each of output, 32 of queries and 16 of what is fetched, and
// the workgroup 23,056 bytes of memory in f16; in f32 it needs 36,880, so one block of queries per
// subgroup is what fits 32 KiB there.

enable wgpu_cooperative_matrix;

alias Input = f16; // elements of Q, K and V

const SUBGROUP_SIZE = 32u;
const HEAD_DIM = 128u; // room for a head; a shorter head_dim is padded with zeros
const SUBGROUPS = 4u;
const ROWS = 2u; // blocks of 8 queries per subgroup
const KEYS = 32u; // keys between two looks at the running maximum
const PARTS = 2u; // neighbouring lanes that share a row of scores

const BLOCK = 8u;
const THREADS = SUBGROUP_SIZE * SUBGROUPS;
const OWN = ROWS * BLOCK; // queries per subgroup
const TILE_Q = SUBGROUPS * OWN; // queries per workgroup
const PIECES = HEAD_DIM / BLOCK; // blocks along a head
const VECTORS = HEAD_DIM / 4u; // vectors in a row of Q, K, V
const KV_STRIDE = HEAD_DIM + 8u; // elements from one row to the next: blocks begin at 16 bytes
const SCORE_VECTORS = KEYS / 4u; // in a row of scores
const SCORE_STRIDE = KEYS + 4u;
const WEIGHT_STRIDE = KEYS + 8u;
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

alias MatrixA = coop_mat8x8<Input, A>;
alias MatrixB = coop_mat8x8<Input, B>;
alias MatrixC = coop_mat8x8<f32, C>;

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
@group(0) @binding(1) var<storage, read> q: array<vec4<Input>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<Input>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<Input>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;

var<workgroup> kv_tile: array<Input, KEYS * KV_STRIDE>; // keys, then values
var<workgroup> scores: array<f32, TILE_Q * SCORE_STRIDE>; // later pieces of the output
var<workgroup> weights: array<Input, TILE_Q * WEIGHT_STRIDE>; // at first pieces of the queries
// Whether some maximum is too stale. A vector, because matrices are loaded from multiples of 16 bytes
// and what lies behind it must begin at one.
var<workgroup> outgrown: vec4<u32>;

// Where the keys and values of a head begin, in vectors; groups of heads share them.
fn kv_start(batch_head: u32) -> u32 {
    let batch = batch_head / params.heads;
    let kv_head = batch_head % params.heads / (params.heads / params.kv_heads);
    return (batch * params.kv_heads + kv_head) * params.kv_len * (params.head_dim / 4u);
}

// Vector `piece` of the keys from `first` on. Loads are clamped into the tensor; what that invents
// beyond the head meets zeros of the queries, and beyond the keys it is given no weight.
fn piece_of_k(kv_first: u32, first: u32, piece: u32) -> vec4<Input> {
    let d = params.head_dim / 4u;
    let key = min(first + piece / VECTORS, params.kv_len - 1u);
    return k[kv_first + key * d + min(piece % VECTORS, d - 1u)];
}

// The same of the values; what is invented beyond the head is never stored.
fn piece_of_v(kv_first: u32, first: u32, piece: u32) -> vec4<Input> {
    let d = params.head_dim / 4u;
    let key = min(first + piece / VECTORS, params.kv_len - 1u);
    return v[kv_first + key * d + min(piece % VECTORS, d - 1u)];
}

// Four neighbours in workgroup memory.
fn four_scores(at: u32) -> vec4<f32> {
    return vec4(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroup_count: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    // Neighbours by this number are neighbours in a subgroup.
    let thread = subgroup * subgroup_size + lane;
    let part = thread % PARTS;
    let d = params.head_dim / 4u; // vectors in a row
    let first_query = group.x * TILE_Q;
    let q_first = group.y * params.query_len;
    let kv_first = kv_start(group.y);
    let q_last = params.query_len - 1u;
    let count = params.kv_len;

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
                let held = select(vec4<Input>(), values, column < d);
                let at = piece / CHUNK_VECTORS * WEIGHT_STRIDE + piece % CHUNK_VECTORS * 4u;
                for (var x = 0u; x < 4u; x++) {
                    weights[at + x] = held[x];
                }
            }
            workgroupBarrier();
            for (var i = 0u; i < ROWS; i++) {
                for (var p = 0u; p < CHUNK; p += BLOCK) {
                    let at = (own + i * BLOCK) * WEIGHT_STRIDE + p;
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
        var next: array<vec4<Input>, LOADS>;
        for (var i = 0u; i < LOADS; i++) {
            next[i] = piece_of_k(kv_first, 0u, thread + i * THREADS);
        }

        for (var first = 0u; first < count; first += KEYS) {
            // (1) Scores.
            workgroupBarrier();
            outgrown = vec4<u32>();
            for (var i = 0u; i < LOADS; i++) {
                let piece = thread + i * THREADS;
                let at = piece / VECTORS * KV_STRIDE + piece % VECTORS * 4u;
                for (var x = 0u; x < 4u; x++) {
                    kv_tile[at + x] = next[i][x];
                }
            }
            workgroupBarrier();
            for (var j = 0u; j < KEYS; j += ABREAST * BLOCK) {
                var score: array<MatrixC, ABREAST * ROWS>;
                for (var i = 0u; i < ABREAST * ROWS; i++) {
                    score[i] = MatrixC();
                }
                for (var p = 0u; p < PIECES; p++) {
                    for (var s = 0u; s < ABREAST; s++) {
                        let at = (j + s * BLOCK) * KV_STRIDE + p * BLOCK;
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
                        let at = (own + i * BLOCK) * SCORE_STRIDE + j + s * BLOCK;
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
                let at = piece / VECTORS * KV_STRIDE + piece % VECTORS * 4u;
                for (var x = 0u; x < 4u; x++) {
                    kv_tile[at + x] = next[i][x];
                }
            }
            var correction: array<f32, ROW_TURNS>;
            for (var r = 0u; r < ROW_TURNS; r++) {
                let row = r * SHARED_ROWS + thread / PARTS;
                var score: array<vec4<f32>, PART_VECTORS>;
                var highest = LOWEST;
                for (var i = 0u; i < PART_VECTORS; i++) {
                    let at = i * PARTS + part;
                    let key = vec4(0u, 1u, 2u, 3u) + (first + at * 4u);
                    let scaled = four_scores(row * SCORE_STRIDE + at * 4u) * (params.scale * LOG2_E);
                    score[i] = select(vec4(LOWEST), scaled, key < vec4(count));
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
                    let held = vec4<Input>(weight);
                    let at = row * WEIGHT_STRIDE + (i * PARTS + part) * 4u;
                    for (var x = 0u; x < 4u; x++) {
                        weights[at + x] = held[x];
                    }
                }
            }
            // A barrier, and what it reads is the same for all.
            if (workgroupUniformLoad(&outgrown).x != 0u) {
                for (var p = 0u; p < HEAD_DIM; p += CHUNK) {
                    for (var i = 0u; i < ROWS; i++) {
                        for (var j = 0u; j < CHUNK; j += BLOCK) {
                            let value = sum[i * PIECES + (p + j) / BLOCK];
                            let at = (own + i * BLOCK) * SCORE_STRIDE + j;
                            let to = &scores[at];
                            coopStoreT(value, to, SCORE_STRIDE);
                        }
                    }
                    workgroupBarrier();
                    for (var r = 0u; r < ROW_TURNS; r++) {
                        let row = r * SHARED_ROWS + thread / PARTS;
                        for (var i = part; i < CHUNK; i += PARTS) {
                            scores[row * SCORE_STRIDE + i] *= correction[r];
                        }
                    }
                    workgroupBarrier();
                    for (var i = 0u; i < ROWS; i++) {
                        for (var j = 0u; j < CHUNK; j += BLOCK) {
                            let at = (own + i * BLOCK) * SCORE_STRIDE + j;
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
                    let at = (own + i * BLOCK) * WEIGHT_STRIDE + j;
                    weight[i] = coopLoadT<MatrixA>(&weights[at], WEIGHT_STRIDE);
                }
                for (var p = 0u; p < PIECES; p++) {
                    let at = j * KV_STRIDE + p * BLOCK;
                    let value = coopLoadT<MatrixB>(&kv_tile[at], KV_STRIDE);
                    for (var i = 0u; i < ROWS; i++) {
                        let slot = i * PIECES + p;
                        sum[slot] = coopMultiplyAdd(weight[i], value, sum[slot]);
                    }
                }
            }
        }

        var factor: array<f32, ROW_TURNS>;
        for (var r = 0u; r < ROW_TURNS; r++) {
            var weight = total[r];
            for (var apart = 1u; apart < PARTS; apart *= 2u) {
                weight += subgroupShuffleXor(weight, apart);
            }
            factor[r] = 1.0 / weight;
        }
        for (var p = 0u; p < HEAD_DIM; p += CHUNK) {
            workgroupBarrier();
            for (var i = 0u; i < ROWS; i++) {
                for (var j = 0u; j < CHUNK; j += BLOCK) {
                    let value = sum[i * PIECES + (p + j) / BLOCK];
                    let at = (own + i * BLOCK) * SCORE_STRIDE + j;
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
                            o[start + i] = four_scores(row * SCORE_STRIDE + i * 4u) * factor[r];
                        }
                    }
                }
            }
        }
    }
}
