// The way to the device and back: the least a launch can do, submitted and waited for by itself.
//
// The same work as the empty launch, which is timed on the device and many to a submission. Here
// the host's clock runs from a submission of one launch to its completion: what a program pays that
// needs an answer before it can go on.

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
