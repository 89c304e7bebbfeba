// What a launch costs when it must wait for the one before: sixteen of them, each with one word.
//
// A device may overlap launches that have nothing to do with each other; in real work each needs
// the last one's result, and between them caches are flushed and the device drained. Doubling and
// adding do not commute, so that a launch that is lost or out of its place is a wrong answer.

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
fn start() {
    for (var i = 0u; i < params.n; i++) {
        out[i] = x[i] + 1.0;
    }
}

@compute @workgroup_size(1)
fn double() {
    for (var i = 0u; i < params.n; i++) {
        out[i] = 2.0 * out[i];
    }
}

@compute @workgroup_size(1)
fn increment() {
    for (var i = 0u; i < params.n; i++) {
        out[i] = out[i] + 1.0;
    }
}
