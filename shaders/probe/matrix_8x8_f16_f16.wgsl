// Ceiling of matrix units in half precision throughout: 8 x 8 products by whole subgroups.
//
// Each subgroup holds BLOCKS blocks of sums, cut into four tiles each, in its registers and
// multiplies its own A of each by a B that all share: many products are independent of one another,
// which hides the latency of one. Nothing but registers is touched between two steps, so this is
// what the units can do, and what a matrix product that must also fetch its operands stays below.
//
// Even steps multiply by B and odd ones by I - B, so two steps add exactly A: dense data, and small
// integers for a sum. One step left out is a wrong answer.
//
// Half precision counts no further than 2048, so every FOLD pairs of steps the sums go through workgroup
// memory to ordinary f32 registers and start over.
//
// How many lanes a subgroup has is the driver's choice; SUBGROUP_SIZE is the fewest it may be, so a
// workgroup has at most SUBGROUPS of them, and fewer take several turns. Blocks beyond the end are
// computed from the last one's factors and not stored.

enable f16;
enable wgpu_cooperative_matrix;

const SUBGROUP_SIZE = 32u;
const SUBGROUPS = 4u;
const BLOCKS = 2u;        // of one subgroup at a time
const THREADS = SUBGROUP_SIZE * SUBGROUPS;
const TILE = SUBGROUPS * BLOCKS;  // blocks per workgroup
const BLOCK = 16u;
const ELEMENTS = BLOCK * BLOCK;
const SIDE = 2u;          // tiles along a block
const TILES = SIDE * SIDE;
const ACCUMULATORS = BLOCKS * TILES;
const SIZE = BLOCK / SIDE;
const PER_LANE = ELEMENTS / SUBGROUP_SIZE;  // of one block, where subgroups are smallest
const FOLD = 192u;        // pairs of steps of at most 5; two products of 400 on top: at most 1760

alias Input = f16;
alias Sum = f16;
alias MatrixA = coop_mat8x8<Input, A>;
alias MatrixB = coop_mat8x8<Input, B>;
alias MatrixC = coop_mat8x8<Sum, C>;

struct Params {
    blocks: u32,
    steps: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<Input>;
@group(0) @binding(2) var<storage, read> b: array<Input>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> complement: array<Input, ELEMENTS>;           // I - B
var<workgroup> stage: array<Sum, SUBGROUPS * ELEMENTS>;      // one block for each subgroup

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroup_count: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    for (var i = local; i < ELEMENTS; i += THREADS) {
        let identity = select(Input(0.0), Input(1.0), i / BLOCK == i % BLOCK);
        complement[i] = identity - b[i];
    }
    workgroupBarrier();
    let steps = params.steps;
    let last = params.blocks - 1u;
    var even: array<MatrixB, TILES>;
    var odd: array<MatrixB, TILES>;
    for (var i = 0u; i < TILES; i++) {
        let at = i / SIDE * SIZE * BLOCK + i % SIDE * SIZE;
        even[i] = coopLoadT<MatrixB>(&b[at], BLOCK);
        odd[i] = coopLoadT<MatrixB>(&complement[at], BLOCK);
    }
    for (var turn = 0u; turn < SUBGROUPS; turn += subgroup_count) {
        let first = group.x * TILE + (turn + subgroup) * BLOCKS;
        var factor: array<MatrixA, ACCUMULATORS>;
        var sum: array<MatrixC, ACCUMULATORS>;
        for (var i = 0u; i < ACCUMULATORS; i++) {
            let within = i % TILES / SIDE * SIZE * BLOCK + i % SIDE * SIZE;
            let at = min(first + i / TILES, last) * ELEMENTS + within;
            factor[i] = coopLoadT<MatrixA>(&a[at], BLOCK);
            sum[i] = MatrixC();
        }
        var total: array<f32, BLOCKS * PER_LANE>;
        for (var i = 0u; i < BLOCKS * PER_LANE; i++) {
            total[i] = 0.0;
        }
        // The odd step comes first: the branch on it is one that all invocations take alike.
        if (steps % 2u == 1u) {
            for (var k = 0u; k < SIDE; k++) {
                for (var i = 0u; i < ACCUMULATORS; i++) {
                    let row = i / SIDE * SIDE;
                    sum[i] = coopMultiplyAdd(factor[row + k], even[k * SIDE + i % SIDE], sum[i]);
                }
            }
        }
        let pairs = steps / 2u;
        for (var done = 0u; done == 0u || done < pairs; done += FOLD) {
            let count = min(pairs - done, FOLD);
            for (var pair = 0u; pair < count; pair++) {
                for (var k = 0u; k < SIDE; k++) {
                    for (var i = 0u; i < ACCUMULATORS; i++) {
                        let row = i / SIDE * SIDE;
                        sum[i] = coopMultiplyAdd(factor[row + k], even[k * SIDE + i % SIDE], sum[i]);
                    }
                }
                for (var k = 0u; k < SIDE; k++) {
                    for (var i = 0u; i < ACCUMULATORS; i++) {
                        let row = i / SIDE * SIDE;
                        sum[i] = coopMultiplyAdd(factor[row + k], odd[k * SIDE + i % SIDE], sum[i]);
                    }
                }
            }
            for (var block = 0u; block < BLOCKS; block++) {
                for (var i = 0u; i < TILES; i++) {
                    let value = sum[block * TILES + i];
                    let place = subgroup * ELEMENTS + i / SIDE * SIZE * BLOCK + i % SIDE * SIZE;
                    coopStoreT(value, &stage[place], BLOCK);
                }
                workgroupBarrier();
                for (var e = 0u; e < PER_LANE; e++) {
                    let at = e * subgroup_size + lane;
                    if (at < ELEMENTS) {
                        total[block * PER_LANE + e] += f32(stage[subgroup * ELEMENTS + at]);
                    }
                }
                workgroupBarrier();
            }
            for (var i = 0u; i < ACCUMULATORS; i++) {
                sum[i] = MatrixC();
            }
        }
        for (var block = 0u; block < BLOCKS; block++) {
            for (var e = 0u; e < PER_LANE; e++) {
                let at = e * subgroup_size + lane;
                if (at < ELEMENTS && first + block <= last) {
                    out[(first + block) * ELEMENTS + at] = total[block * PER_LANE + e];
                }
            }
        }
    }
}
