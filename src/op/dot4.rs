//! Chains of four-way dot products of 8-bit integers: what quantised arithmetic can do at most.
//!
//! One step is `z -> dot(bytes of z, weights) + c`: the four bytes of the 32-bit word z, each taken
//! as a signed integer, times four weights, summed, plus the number of the chain. So a step is one
//! instruction where the hardware has one, its operand is the result of the step before, and the
//! weights are only known at run time: nothing can be hoisted or left out. The iteration has no
//! closed form, but its start has only eight values, so the reference simply runs it.

use rayon::prelude::*;

use super::probe::{FMA_CHAINS, integer_input};
use super::{Dim, Dtype, Elements, Given, Op, Shape, Tensor, word};
use crate::error::{Error, Result};

/// `out[i] = sum over c of 1..=24 of the s-fold iteration of z -> dot4(z, weights) + c from x[i]`.
pub struct Dot4;

/// The weights, the first for the lowest byte. With these the iteration does not settle: a step
/// less gives another sum for every start and every number of steps that was looked at.
const WEIGHTS: [i8; 4] = [113, -89, 71, 57];

/// What the reference runs takes about a tenth of a second at this many steps.
const STEPS_MAX: u64 = 131_072;

/// Inputs are `-2..=5`.
const START_MIN: i32 = -2;
const START_COUNT: usize = 8;

/// Four signed bytes of a word times the weights, as `dot4I8Packed` has it.
fn dot4(z: i32, weights: [i8; 4]) -> i32 {
    z.to_le_bytes()
        .iter()
        .zip(weights)
        .map(|(&byte, weight)| i32::from(i8::from_le_bytes([byte])) * i32::from(weight))
        .sum()
}

/// The sum of all chains from one start.
fn total(start: i32, steps: u64) -> f64 {
    (1..=FMA_CHAINS)
        .map(|chain| {
            let chain = i32::try_from(chain).unwrap_or(0);
            (0..steps).fold(start, |z, _| dot4(z, WEIGHTS) + chain)
        })
        .map(f64::from)
        .sum()
}

/// The totals of every start there is, in order.
fn totals(shape: &Shape) -> Vec<f64> {
    (0..START_COUNT)
        .into_par_iter()
        .map(|index| {
            let start = START_MIN + i32::try_from(index).unwrap_or(0);
            total(start, shape.get("steps"))
        })
        .collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small integers
fn look_up(totals: &[f64], x: f32) -> f64 {
    let index = (x as i32 - START_MIN) as usize;
    totals.get(index).copied().unwrap_or(f64::NAN)
}

impl Op for Dot4 {
    fn dims(&self) -> &'static [Dim] {
        const {
            &[
                Dim::size("invocations", "i", None),
                Dim::size("steps", "s", None),
            ]
        }
    }

    fn dtypes(&self) -> &'static [Dtype] {
        &[Dtype::I8]
    }

    fn check(&self, shape: &Shape, _dtype: Dtype) -> Result<()> {
        if shape.get("steps") > STEPS_MAX {
            return Err(Error::usage(format!(
                "dot4 steps must be at most {STEPS_MAX} for the reference to run them, not {}",
                shape.get("steps")
            )));
        }
        Ok(())
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        let n = shape.get("invocations");
        vec![
            integer_input("x", &[n], dtype.input()),
            Tensor::output("out", &[n], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        vec![
            word(shape.get("invocations")),
            word(shape.get("steps")),
            u32::from_le_bytes(WEIGHTS.map(|weight| weight.to_le_bytes()[0])),
            0,
        ]
    }

    /// Four multiplications and four additions a step.
    fn flop_count(&self, shape: &Shape) -> u64 {
        8 * FMA_CHAINS * shape.get("invocations") * shape.get("steps")
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (1, shape.get("invocations"))
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        let totals = totals(given.shape);
        Box::new(move |index| look_up(&totals, given.inputs[0].get(index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_with_their_signs_and_from_the_lowest_up() {
        assert_eq!(dot4(0x04ff_02fe, [1, 10, 100, -100]), -2 + 20 - 100 - 400);
        assert_eq!(dot4(-1, WEIGHTS), -113 + 89 - 71 - 57);
    }

    #[test]
    fn no_number_of_steps_gives_the_sum_of_one_less_or_of_none() {
        for start in START_MIN..=5 {
            let mut chains: Vec<i32> = vec![start; 24];
            let none: i32 = chains.iter().sum();
            let mut before = none;
            for step in 1..5000 {
                for (chain, z) in (1..).zip(&mut chains) {
                    *z = dot4(*z, WEIGHTS) + chain;
                }
                let sum: i32 = chains.iter().sum();
                assert!(sum != before && sum != none, "start {start}, step {step}");
                before = sum;
            }
        }
    }
}
