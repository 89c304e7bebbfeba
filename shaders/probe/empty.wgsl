// The least a launch can do and still prove that it ran: one invocation copies one word.
//
// Its time is what a launch costs. A kernel without any effect might be left out by a driver, and
// nothing would tell.

struct Params {
    n: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(1)
fn main() {
    for (var i = 0u; i < params.n; i++) {
        out[i] = x[i];
    }
}
