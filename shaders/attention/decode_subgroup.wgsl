// Attention of a few queries over many keys, bound by reading K and V: a token against its cache.
//
// The keys of one key-value head are split over SPLITS workgroups, since one head alone is too
// little work for a workgroup's part of a large chip to be busy. A workgroup serves ROWS rows of the
// output at once: the query heads of a group, and if there are several queries those too, for they
// all read the same keys; so K and V are read once for the whole group.
//
// Inside, a row of K is taken by a team of lanes, CHUNKS vectors of four each, so that neighbours
// read neighbouring vectors. Then each lane has a part of the score of every row and key of a block.
// Lanes exchange halves of these, then halves of what they kept, and so on: at the end each has OWN
// whole scores instead of all, and does the softmax of these alone. All lanes are told the weights,
// by which their vectors of V are to be multiplied, and no memory is needed between the two products.
// Each team walks keys of its own, BLOCK of them at a time, with a softmax of its own that is
// corrected where a larger score turns up. At the end the teams' results are merged in workgroup
// memory, and the second pass merges those of the workgroups. head_dim must be a multiple of four.
//
// The fewer lanes a team has, the more keys a subgroup works on with the same instructions, and the
// more registers a lane needs.

alias Input = f32; // elements of Q, K and V

const SUBGROUP_SIZE = 32u; // lanes of a subgroup
const SUBGROUPS = 4u; // subgroups of a workgroup
const HEAD_DIM = 128u; // room for a head; a shorter head_dim is padded with zeros
const LANES = 16u; // lanes that share a row of K, where it and the subgroup have more
const ROWS = 4u; // rows of the output per workgroup
const BLOCK = 4u; // keys that a team loads at once
const SPLITS = 32u; // workgroups that share the keys of a head

const VECTORS = HEAD_DIM / 4u; // in a row of K
const WIDEST = min(SUBGROUP_SIZE, VECTORS); // lanes that can share a row of K
const TEAM = min(LANES, WIDEST); // lanes that do
const CHUNKS = VECTORS / TEAM; // vectors of a row that a lane takes
const TEAMS = SUBGROUP_SIZE * SUBGROUPS / TEAM;
const SCORES = ROWS * BLOCK; // of a team at a time, keys of a row beside each other
const OWN = max(SCORES / TEAM, 1u); // scores that a lane ends up with
const SPREAD = max(TEAM / SCORES, 1u); // lanes that end up with the same ones
const OWN_ROWS = max(OWN / BLOCK, 1u); // rows that these are of
const OWN_KEYS = OWN / OWN_ROWS; // keys of each
const THREADS = SUBGROUP_SIZE * SUBGROUPS;
const MERGE_THREADS = 32u; // invocations that share a row in the second pass
const MERGE_BLOCK = 8u; // parts that it loads at once: one by one each would wait for the one before
const LOG2_E = 1.4426950408889634; // exp(x) is exp2(x * LOG2_E), and exp2 is what hardware has
const LOWEST = -1.0e30; // stands for minus infinity, but differences of it are not NaN

// One way to say each size of team, and small ones have no registers for large blocks.
const_assert LANES == 32u || (LANES < WIDEST && CHUNKS * BLOCK <= 8u);
const_assert SUBGROUP_SIZE % TEAM == 0u && CHUNKS * TEAM == VECTORS;
const_assert countOneBits(TEAM) == 1u; // sums are exchanged with ever nearer neighbours
const_assert ROWS * CHUNKS <= 32u; // sums, as many vectors of Q, and the loads fit the registers
const_assert CHUNKS * BLOCK <= 16u;

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
// For every row of the output and every part of the keys: the weighted sum, and in a vector behind
// it the score that its weights are relative to, and their sum.
@group(0) @binding(5) var<storage, read_write> parts: array<vec4<f32>>;

// How many keys a query sees. The mask is aligned to the end: the last query sees every key.
fn visible_count(query: u32) -> u32 {
    let end = query + 1u + params.kv_len;
    let masked = select(0u, end - params.query_len, end > params.query_len);
    return select(params.kv_len, masked, params.causal == 1u);
}

var<workgroup> team_sum: array<vec4<f32>, ROWS * TEAMS * VECTORS>;
var<workgroup> team_state: array<vec2<f32>, ROWS * TEAMS>; // largest score, sum of weights

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) lanes: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let width = params.head_dim / 4u; // vectors in a row of each tensor
    let heads_each = params.heads / params.kv_heads;
    let rows = heads_each * params.query_len; // that share these keys
    let first_row = group.y * ROWS;
    // Heads that share keys are neighbours, and so are their queries.
    let q_first = group.z * rows;
    let kv_first = group.z * params.kv_len * width;
    let kv_last = params.kv_len - 1u;
    // This workgroup's part of the keys; there may be nothing left for the last ones.
    let length = (params.kv_len + SPLITS - 1u) / SPLITS;
    let begin = group.x * length;
    let end = min(begin + length, params.kv_len);
    let team = (subgroup * lanes + lane) / TEAM;
    let member = lane % TEAM;
    let team_lane = lane - member; // the first lane of the team
    let own = member / SPREAD * OWN; // the first of this lane's scores
    let own_row = own / BLOCK;
    let own_key = own % BLOCK;

    // Loads are clamped into the tensors; what that invents beyond the head meets zeros of Q, beyond
    // the keys it is given no weight, beyond the rows it is never stored.
    var q_part: array<vec4<f32>, ROWS * CHUNKS>;
    var sum: array<vec4<f32>, ROWS * CHUNKS>;
    for (var i = 0u; i < ROWS; i++) {
        let row = min(first_row + i, rows - 1u);
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            let column = chunk * TEAM + member;
            let values = vec4<f32>(q[(q_first + row) * width + min(column, width - 1u)]);
            let scaled = values * (params.scale * LOG2_E);
            q_part[i * CHUNKS + chunk] = select(vec4<f32>(), scaled, column < width);
            sum[i * CHUNKS + chunk] = vec4<f32>();
        }
    }
    // Of this lane's rows; of the weights, those of its keys alone are added.
    var largest: array<f32, OWN_ROWS>;
    var total: array<f32, OWN_ROWS>;
    var seen: array<u32, OWN_ROWS>; // the end of the keys that a row sees
    for (var i = 0u; i < OWN_ROWS; i++) {
        let row = min(first_row + own_row + i, rows - 1u);
        largest[i] = LOWEST;
        total[i] = 0.0;
        seen[i] = min(end, visible_count(row % params.query_len));
    }

    // All lanes turn alike, so that they are all there when sums are exchanged.
    for (var turn = begin; turn < end; turn += TEAMS * BLOCK) {
        let first = turn + team * BLOCK;
        var k_part: array<vec4<Input>, BLOCK * CHUNKS>;
        var v_part: array<vec4<Input>, BLOCK * CHUNKS>;
        for (var b = 0u; b < BLOCK; b++) {
            let start = kv_first + min(first + b, kv_last) * width;
            for (var chunk = 0u; chunk < CHUNKS; chunk++) {
                let at = start + min(chunk * TEAM + member, width - 1u);
                k_part[b * CHUNKS + chunk] = k[at];
                v_part[b * CHUNKS + chunk] = v[at];
            }
        }
        var score: array<f32, SCORES>;
        for (var i = 0u; i < ROWS; i++) {
            for (var b = 0u; b < BLOCK; b++) {
                var product = 0.0;
                for (var chunk = 0u; chunk < CHUNKS; chunk++) {
                    product += dot(q_part[i * CHUNKS + chunk], vec4<f32>(k_part[b * CHUNKS + chunk]));
                }
                score[i * BLOCK + b] = product;
            }
        }
        for (var half = SCORES / 2u; half >= OWN; half /= 2u) {
            let distance = half * TEAM / SCORES;
            let upper = (member & distance) != 0u;
            for (var i = 0u; i < half; i++) {
                let given = select(score[i + half], score[i], upper);
                let kept = select(score[i], score[i + half], upper);
                score[i] = kept + subgroupShuffleXor(given, distance);
            }
        }
        for (var distance = SPREAD / 2u; distance > 0u; distance /= 2u) {
            score[0] += subgroupShuffleXor(score[0], distance);
        }
        var correction: array<f32, OWN_ROWS>;
        for (var i = 0u; i < OWN_ROWS; i++) {
            var block_largest = LOWEST;
            for (var b = 0u; b < OWN_KEYS; b++) {
                let place = i * OWN_KEYS + b;
                score[place] = select(LOWEST, score[place], first + own_key + b < seen[i]);
                block_largest = max(block_largest, score[place]);
            }
            for (var half = BLOCK / 2u; half >= OWN; half /= 2u) {
                let distance = half * TEAM / SCORES;
                block_largest = max(block_largest, subgroupShuffleXor(block_largest, distance));
            }
            block_largest = max(block_largest, largest[i]);
            correction[i] = exp2(largest[i] - block_largest);
            largest[i] = block_largest;
            total[i] *= correction[i];
            for (var b = 0u; b < OWN_KEYS; b++) {
                let place = i * OWN_KEYS + b;
                let visible = first + own_key + b < seen[i];
                score[place] = select(0.0, exp2(score[place] - block_largest), visible);
                total[i] += score[place];
            }
        }
        // What was a lane's own is all lanes' now: corrections of the rows, and weights.
        for (var i = 0u; i < ROWS; i++) {
            let place = i * BLOCK;
            let owner = team_lane + place / OWN * SPREAD;
            let factor = subgroupShuffle(correction[place % OWN / BLOCK], owner);
            for (var chunk = 0u; chunk < CHUNKS; chunk++) {
                sum[i * CHUNKS + chunk] *= factor;
            }
            for (var b = 0u; b < BLOCK; b++) {
                let place = i * BLOCK + b;
                let owner = team_lane + place / OWN * SPREAD;
                let weight = subgroupShuffle(score[place % OWN], owner);
                for (var chunk = 0u; chunk < CHUNKS; chunk++) {
                    let slot = i * CHUNKS + chunk;
                    let values = vec4<f32>(v_part[b * CHUNKS + chunk]);
                    sum[slot] = fma(vec4(weight), values, sum[slot]);
                }
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        let row = i * TEAMS + team;
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            team_sum[row * VECTORS + chunk * TEAM + member] = sum[i * CHUNKS + chunk];
        }
    }
    for (var i = 0u; i < OWN_ROWS; i++) {
        var whole = total[i];
        for (var half = BLOCK / 2u; half >= OWN; half /= 2u) {
            whole += subgroupShuffleXor(whole, half * TEAM / SCORES);
        }
        if (own_key == 0u && member % SPREAD == 0u) {
            team_state[(own_row + i) * TEAMS + team] = vec2(largest[i], whole);
        }
    }
    workgroupBarrier();
    for (var i = thread; i < min(ROWS, rows - first_row) * (width + 1u); i += THREADS) {
        let row = i / (width + 1u);
        let column = i % (width + 1u);
        var all_largest = LOWEST;
        for (var t = row * TEAMS; t < (row + 1u) * TEAMS; t++) {
            all_largest = max(all_largest, team_state[t].x);
        }
        var whole = vec4<f32>();
        var all_total = 0.0;
        for (var t = row * TEAMS; t < (row + 1u) * TEAMS; t++) {
            let factor = exp2(team_state[t].x - all_largest);
            let values = team_sum[t * VECTORS + min(column, VECTORS - 1u)];
            whole = fma(vec4(factor), values, whole);
            all_total = fma(factor, team_state[t].y, all_total);
        }
        let state = vec4(all_largest, all_total, 0.0, 0.0);
        let start = ((q_first + first_row + row) * SPLITS + group.x) * (width + 1u);
        parts[start + column] = select(whole, state, column == width);
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
