//! Blocks multiplied and added over and over: what matrix units can do at most.
//!
//! Every block of 16 by 16 elements has its own A; B is shared. Even steps multiply by B and odd
//! ones by `I - B`, so two steps together add exactly A: both factors are dense and the sum still
//! grows slowly enough to be exact in integers. After s steps a block holds `floor(s / 2) A`, and
//! one `A B` more if s is odd. One step left out is a wrong answer. How a kernel cuts a block into
//! tiles is its own business.

use super::probe::integer_input;
use super::{Dim, Dtype, Elements, Given, Op, Shape, Tensor, dot, word};
use crate::error::{Error, Result};
use crate::input::{Element, Values};

/// `out[b] = A[b] B + A[b] (I - B) + A[b] B + ...`, s terms of 16 x 16 x 16 multiply-adds each.
pub struct MatrixFma;

/// Rows and columns of a block.
pub const BLOCK: u64 = 16;

const BLOCK_ELEMENTS: u64 = BLOCK * BLOCK;

/// Sums of at most 5 for each two steps, and 400 on the way, stay exact in f32.
const STEPS_MAX: u64 = 131_072;

/// The most blocks whose rows are all compared.
const BLOCKS_PROJECTED_MAX: u64 = 1 << 14;

fn element(shape: &Shape, inputs: &[Values], index: u64) -> f64 {
    let (a, b) = (&inputs[0], &inputs[1]);
    let (first, column) = (index / BLOCK * BLOCK, index % BLOCK);
    let steps = shape.get("steps");
    #[allow(clippy::cast_precision_loss)] // small integers
    let pairs = (steps / 2) as f64;
    let (product, _) = if steps % 2 == 1 {
        dot((0..BLOCK).map(|k| {
            (
                f64::from(a.get(first + k)),
                f64::from(b.get(k * BLOCK + column)),
            )
        }))
    } else {
        (0.0, 0.0)
    };
    pairs * f64::from(a.get(index)) + product
}

impl Op for MatrixFma {
    fn dims(&self) -> &'static [Dim] {
        const {
            &[
                Dim::size("blocks", "b", None),
                Dim::size("steps", "s", None),
            ]
        }
    }

    fn dtypes(&self) -> &'static [Dtype] {
        &[Dtype::F16, Dtype::F16F16, Dtype::F32]
    }

    fn check(&self, shape: &Shape, _dtype: Dtype) -> Result<()> {
        if shape.get("steps") > STEPS_MAX {
            return Err(Error::usage(format!(
                "matrix_fma steps must be at most {STEPS_MAX} for the result to be exact, not {}",
                shape.get("steps")
            )));
        }
        Ok(())
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        let blocks = [shape.get("blocks"), BLOCK, BLOCK];
        vec![
            integer_input("a", &blocks, dtype.input()),
            integer_input("b", &[BLOCK, BLOCK], dtype.input()),
            // Sums in f16 are handed over before they are too large for it.
            Tensor::output("out", &blocks, Element::F32),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        vec![word(shape.get("blocks")), word(shape.get("steps")), 0, 0]
    }

    fn flop_count(&self, shape: &Shape) -> u64 {
        2 * BLOCK * BLOCK_ELEMENTS * shape.get("blocks") * shape.get("steps")
    }

    /// One row for each block.
    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (shape.get("blocks"), BLOCK_ELEMENTS)
    }

    fn projected_rows(&self, shape: &Shape) -> u64 {
        shape.get("blocks").min(BLOCKS_PROJECTED_MAX)
    }

    fn reference_cost(&self, _shape: &Shape) -> u64 {
        BLOCK
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Box::new(move |index| element(given.shape, given.inputs, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::keys;

    /// The definition, step by step in the order of the kernels, with sums in the accumulator's type
    /// that are handed over to f64 every `fold` steps.
    fn twin(
        inputs: &[Values],
        block: u64,
        steps: u64,
        fold: u64,
        accumulator: Element,
    ) -> Vec<f64> {
        let a = |i: u64, k: u64| inputs[0].get((block * BLOCK + i) * BLOCK + k);
        let b = |k: u64, j: u64| inputs[1].get(k * BLOCK + j);
        let mut total = vec![0.0; 256];
        let mut sum = vec![0.0f32; 256];
        for step in 0..steps {
            for (at, sum) in (0u64..).zip(&mut sum) {
                let (i, j) = (at / BLOCK, at % BLOCK);
                for k in 0..BLOCK {
                    let identity = if k == j { 1.0 } else { 0.0 };
                    let factor = if step % 2 == 0 {
                        b(k, j)
                    } else {
                        identity - b(k, j)
                    };
                    // Rounded after every product: stricter than any hardware.
                    *sum = accumulator.nearest(*sum + a(i, k) * factor);
                }
            }
            if (step + 1) % fold == 0 || step + 1 == steps {
                for (total, sum) in total.iter_mut().zip(&mut sum) {
                    *total += f64::from(*sum);
                    *sum = 0.0;
                }
            }
        }
        total
    }

    #[test]
    fn the_closed_form_is_what_the_steps_add_up_to_in_both_accumulators() {
        let inputs = [Values::Integer(keys(3, 0)), Values::Integer(keys(3, 1))];
        for (accumulator, fold, steps) in [
            (Element::F32, 4096, 1),
            (Element::F32, 4096, 1500),
            (Element::F16, 512, 37),
            (Element::F16, 512, 1025),
        ] {
            let shape = Shape::of(&[("blocks", 3), ("steps", steps)]);
            for block in 0..3 {
                let twin = twin(&inputs, block, steps, fold, accumulator);
                let closed: Vec<f64> = (0..256)
                    .map(|i| element(&shape, &inputs, block * 256 + i))
                    .collect();
                assert_eq!(twin, closed, "{accumulator:?} {steps}");
            }
        }
    }

    #[test]
    fn a_step_left_out_shows_in_every_block() {
        let inputs = [Values::Integer(keys(4, 0)), Values::Integer(keys(4, 1))];
        for steps in [2, 3, 64, 65] {
            let whole = Shape::of(&[("blocks", 1), ("steps", steps)]);
            let short = whole.with("steps", steps - 1);
            let differs = |i: u64| element(&whole, &inputs, i) != element(&short, &inputs, i);
            assert!((0..256).filter(|&i| differs(i)).count() > 200, "{steps}");
        }
    }
}
