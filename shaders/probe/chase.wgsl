// Latency: one invocation walks from slot to slot, and each load tells where the next one goes.
//
// The slots are 128 bytes apart and lie on one single cycle, so that a walk over all of them is as
// cold as their number makes it; no two steps in a row have the same length, so that nothing can
// fetch ahead. A slot holds the place of the next, ready to be used: between two loads there is no
// arithmetic. Only the host knows that there is one walker. A compiler that knew would keep the
// place in a scalar register, and on some chips load it through a cache that nothing else uses.

const THREADS = 32u;
const UNROLL = 64u;     // steps per turn of the loop: its own cost does not count, and some drivers
                        // for processors end every loop after 65535 turns
const SLOT_WORDS = 32u;

struct Params {
    steps: u32,
    walkers: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> links: array<u32>;
@group(0) @binding(2) var<storage, read_write> last: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_id) local: vec3<u32>) {
    if (local.x >= params.walkers) {
        return;
    }
    let turns = params.steps / UNROLL;
    let rest = params.steps % UNROLL;
    var at = local.x * SLOT_WORDS;
    for (var turn = 0u; turn < turns; turn++) {
        for (var i = 0u; i < UNROLL; i++) {
            at = links[at];
        }
    }
    for (var turn = 0u; turn < rest; turn++) {
        at = links[at];
    }
    last[local.x] = f32(at / SLOT_WORDS);
}
