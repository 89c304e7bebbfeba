//! Reads of workgroup memory at changing places: how fast workgroups can feed themselves.
//!
//! Every workgroup holds the same table of 256 vectors of four f32. Invocation i reads, at step s,
//! the vector `(i + floor(s / 8) stride + s mod 8) mod 256` and adds its components up. The stride is
//! only known at run time, so no read can be hoisted or foreseen, and neighbours read neighbouring
//! vectors, so no two of them want the same bank. The table holds integers: the sum is exact, and a
//! read left out is a wrong answer. How many invocations share a table is the kernel's business.

use rayon::prelude::*;

use super::probe::integer_input;
use super::{Dim, Dtype, Elements, Given, Op, Shape, Tensor, word};
use crate::error::{Error, Result};
use crate::input::Values;

/// `out[i] = sum over s of the four components of table[(i + floor(s/8) stride + s mod 8) mod 256]`.
pub struct WorkgroupRead;

/// Vectors in the table.
const VECTORS: u64 = 256;

/// Reads between two changes of the address by the stride.
const RUN: u64 = 8;

/// Odd, so that every vector is reached, and beyond a run, so that runs do not overlap at once.
const STRIDE: u64 = 37;

/// Sums of this many reads of four integers of at most 5 stay exact in f32.
const STEPS_MAX: u64 = 524_288;

/// The results, which repeat with the size of the table.
fn sums(shape: &Shape, inputs: &[Values]) -> Vec<f64> {
    let vectors: Vec<f64> = (0..VECTORS)
        .map(|vector| {
            (4 * vector..4 * vector + 4)
                .map(|index| f64::from(inputs[0].get(index)))
                .sum()
        })
        .collect();
    (0..VECTORS)
        .into_par_iter()
        .map(|invocation| {
            (0..shape.get("steps"))
                .map(|step| (invocation + step / RUN * STRIDE + step % RUN) % VECTORS)
                .filter_map(|at| vectors.get(usize::try_from(at).ok()?))
                .sum()
        })
        .collect()
}

fn look_up(sums: &[f64], index: u64) -> f64 {
    usize::try_from(index % VECTORS)
        .ok()
        .and_then(|at| sums.get(at).copied())
        .unwrap_or(f64::NAN)
}

impl Op for WorkgroupRead {
    fn dims(&self) -> &'static [Dim] {
        const {
            &[
                Dim::size("invocations", "i", None),
                Dim::size("steps", "s", None),
            ]
        }
    }

    fn check(&self, shape: &Shape, _dtype: Dtype) -> Result<()> {
        if shape.get("steps") > STEPS_MAX {
            return Err(Error::usage(format!(
                "workgroup_read steps must be at most {STEPS_MAX} for the result to be exact, not {}",
                shape.get("steps")
            )));
        }
        Ok(())
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        vec![
            integer_input("table", &[VECTORS, 4], dtype.input()),
            Tensor::output("out", &[shape.get("invocations")], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        vec![
            word(shape.get("invocations")),
            word(shape.get("steps")),
            word(STRIDE),
            0,
        ]
    }

    /// The additions are there to prove the reads.
    fn flop_count(&self, _shape: &Shape) -> u64 {
        0
    }

    /// Bytes read from workgroup memory, not from that of the device.
    fn bytes_min(&self, shape: &Shape, dtype: Dtype) -> u64 {
        dtype
            .input()
            .bytes(4 * shape.get("invocations") * shape.get("steps"))
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (1, shape.get("invocations"))
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        let sums = sums(given.shape, given.inputs);
        Box::new(move |index| look_up(&sums, index))
    }
}
