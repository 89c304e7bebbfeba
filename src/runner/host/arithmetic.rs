//! The probe of the CPU's arithmetic.

use std::hint::black_box;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Work, lane_count, share, size};
use crate::op::probe::FMA_CHAINS;

/// The arithmetic ceiling. Lanes are neighbouring invocations, and each works on `ACCUMULATORS`
/// chains at a time, because one chain would wait for its own result at every step.
pub(super) fn fma(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    let steps = size(work.shape, "steps");
    // Several pieces per thread, so that a core that is held up does not hold up the others.
    let piece = share(output.len(), 4).next_multiple_of(lane_count());
    // A factor that the compiler knew to be one would be left out.
    let factor = black_box(1.0);
    let pieces = output
        .par_chunks_mut(piece)
        .zip(inputs[0].par_chunks(piece).zip(inputs[1].par_chunks(piece)));
    let arch = Arch::new();
    match work.values[0] {
        8 => pieces.for_each(|(out, (x, y))| {
            arch.dispatch(Chains::<8> {
                x,
                y,
                out,
                factor,
                steps,
            })
        }),
        12 => pieces.for_each(|(out, (x, y))| {
            arch.dispatch(Chains::<12> {
                x,
                y,
                out,
                factor,
                steps,
            })
        }),
        _ => pieces.for_each(|(out, (x, y))| {
            arch.dispatch(Chains::<24> {
                x,
                y,
                out,
                factor,
                steps,
            })
        }),
    }
}

struct Chains<'a, const ACCUMULATORS: usize> {
    x: &'a [f32],
    y: &'a [f32],
    out: &'a mut [f32],
    factor: f32,
    steps: usize,
}

impl<const ACCUMULATORS: usize> WithSimd for Chains<'_, ACCUMULATORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let factor = simd.splat_f32s(self.factor);
        let (x, x_rest) = S::as_simd_f32s(self.x);
        let (y, y_rest) = S::as_simd_f32s(self.y);
        let (out, out_rest) = S::as_mut_simd_f32s(self.out);
        for (out, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = chains::<S, ACCUMULATORS>(simd, x, y, factor, self.steps);
        }
        if !out_rest.is_empty() {
            let (x, y) = (
                simd.partial_load_f32s(x_rest),
                simd.partial_load_f32s(y_rest),
            );
            let sums = chains::<S, ACCUMULATORS>(simd, x, y, factor, self.steps);
            simd.partial_store_f32s(out_rest, sums);
        }
    }
}

#[inline(always)]
fn chains<S: Simd, const ACCUMULATORS: usize>(
    simd: S,
    x: S::f32s,
    y: S::f32s,
    factor: S::f32s,
    steps: usize,
) -> S::f32s {
    const { assert!(FMA_CHAINS.is_multiple_of(ACCUMULATORS as u64)) };
    #[allow(clippy::cast_precision_loss)] // chains are few
    let start = |chain: u64| simd.add_f32s(x, simd.splat_f32s(chain as f32));
    let mut sum = simd.splat_f32s(0.0);
    for first in (0..FMA_CHAINS).step_by(ACCUMULATORS) {
        let mut z = [x; ACCUMULATORS];
        for (chain, z) in (first..).zip(&mut z) {
            *z = start(chain);
        }
        for _ in 0..steps {
            for z in &mut z {
                // Fused where the CPU can; where not, the result is exact all the same.
                *z = simd.mul_add_e_f32s(factor, *z, y);
            }
        }
        for z in z {
            sum = simd.add_f32s(sum, z);
        }
    }
    sum
}
