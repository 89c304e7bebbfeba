//! Probe operations: what the hardware can do at most. Each is exact, so that elided work shows.

use super::{Dim, Dtype, Elements, Given, Op, Shape, Tensor, word};
use crate::input::{Data, Element, Values};

/// One workgroup that copies one word.
pub struct Empty;

/// `out[i] = sum over c < 24 of the s-fold iteration of z -> 1 z + y[i], started at x[i] + c`.
///
/// The factor one is only known at run time, so no compiler can shorten the chain; the inputs are
/// integers, so the result counts the steps exactly: one step left out is a wrong answer. The dtype
/// is that of the multiply-adds; f16, which counts no further than 2048, hands over to a sum in f32
/// often enough.
pub struct Fma;

/// `dst = src`.
pub struct Copy;

/// Chains per invocation; a multiple of every accumulator count the kernels try.
pub const FMA_CHAINS: u64 = 24;

/// 24 chains of so many steps of at most 5 stay exact in f32, with room for the start values.
const STEPS_MAX: u64 = 131_072;

pub(super) const COPY_COLUMNS: u64 = 4096;

/// Rows of a copy whose sum is compared: 64 MiB of it. The others must still be finite.
pub(super) const COPY_ROWS_MAX: u64 = 4096;

pub(super) fn integer_input(name: &'static str, dims: &[u64], element: Element) -> Tensor {
    Tensor {
        always: Some(Data::Integer),
        ..Tensor::input(name, dims, element)
    }
}

impl Op for Empty {
    fn dims(&self) -> &'static [Dim] {
        const { &[Dim::size("n", "n", Some(1))] }
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        vec![
            Tensor::input("x", &[shape.get("n")], dtype.input()),
            Tensor::output("out", &[shape.get("n")], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        vec![word(shape.get("n")), 0, 0, 0]
    }

    fn flop_count(&self, _shape: &Shape) -> u64 {
        0
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (1, shape.get("n"))
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Box::new(move |index| f64::from(given.inputs[0].get(index)))
    }
}

#[allow(clippy::cast_precision_loss)] // small integers
fn fma_result(shape: &Shape, inputs: &[Values], index: u64) -> f64 {
    let chains = FMA_CHAINS as f64;
    let (x, y) = (
        f64::from(inputs[0].get(index)),
        f64::from(inputs[1].get(index)),
    );
    chains * x + chains * (chains - 1.0) / 2.0 + chains * shape.get("steps") as f64 * y
}

impl Op for Fma {
    fn dims(&self) -> &'static [Dim] {
        const {
            &[
                Dim::size("invocations", "i", None),
                Dim::size("steps", "s", None),
            ]
        }
    }

    fn dtypes(&self) -> &'static [Dtype] {
        &[Dtype::F32, Dtype::F16, Dtype::I32]
    }

    fn check(&self, shape: &Shape, _dtype: Dtype) -> crate::error::Result<()> {
        if shape.get("steps") > STEPS_MAX {
            return Err(crate::error::Error::usage(format!(
                "fma steps must be at most {STEPS_MAX} for the result to be exact, not {}",
                shape.get("steps")
            )));
        }
        Ok(())
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        let n = shape.get("invocations");
        vec![
            integer_input("x", &[n], dtype.input()),
            integer_input("y", &[n], dtype.input()),
            Tensor::output("out", &[n], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, dtype: Dtype) -> Vec<u32> {
        vec![
            word(shape.get("invocations")),
            word(shape.get("steps")),
            match dtype.input() {
                Element::I32 | Element::I8 | Element::I4 => 1,
                _ => 1.0f32.to_bits(),
            },
            0,
        ]
    }

    fn flop_count(&self, shape: &Shape) -> u64 {
        2 * FMA_CHAINS * shape.get("invocations") * shape.get("steps")
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (1, shape.get("invocations"))
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Box::new(move |index| fma_result(given.shape, given.inputs, index))
    }
}

impl Op for Copy {
    fn dims(&self) -> &'static [Dim] {
        const { &[Dim::size("n", "n", None)] }
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        vec![
            Tensor::input("src", &[shape.get("n")], dtype.input()),
            Tensor::output("dst", &[shape.get("n")], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        vec![word(shape.get("n")), 0, 0, 0]
    }

    fn flop_count(&self, _shape: &Shape) -> u64 {
        0
    }

    fn bytes_min(&self, shape: &Shape, dtype: Dtype) -> u64 {
        dtype.input().bytes(shape.get("n")) + dtype.output().bytes(shape.get("n"))
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (shape.get("n").div_ceil(COPY_COLUMNS), COPY_COLUMNS)
    }

    fn projected_rows(&self, shape: &Shape) -> u64 {
        self.output_rows(shape).0.min(COPY_ROWS_MAX)
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Box::new(move |index| f64::from(given.inputs[0].get(index)))
    }
}
