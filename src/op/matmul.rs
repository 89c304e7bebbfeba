//! `C[m,n] = A[m,k] B[k,n]`, dense and row-major, alone or as a batch of independent products.
//!
//! With `trans_b`, B lies as `[n,k]`, the way a linear layer keeps its weights. In `w4a16` and `w4a32`
//! it must, and its elements are 4-bit integers that are multiplied by a scale: every
//! [`WEIGHT_BLOCK`] weights along `k` share one, in binary16. The scales are drawn so that every
//! weight times its scale is exact in binary16: whether a kernel unpacks weights to f16 or to f32,
//! and in which order it multiplies, makes no difference beyond that of any sum.

use rayon::prelude::*;

use super::{
    Dim, Dtype, Expected, Given, Op, Shape, Tensor, dot, signed_sum_factor, sum_error_factor, word,
};
use crate::error::{Error, Result};
use crate::input::{Element, Values};

/// The matrix product.
pub struct Matmul;

/// Weights along `k` that share a scale.
pub const WEIGHT_BLOCK: u64 = 32;

/// Products of 8-bit integers reach 2^14, so sums of so many stay within 32 bits.
const I8_K_MAX: u64 = (1 << 17) - 1;

fn sizes(shape: &Shape) -> (u64, u64, u64) {
    (shape.get("m"), shape.get("n"), shape.get("k"))
}

/// Products in the batch; a shape from before there were batches has one.
fn batch(shape: &Shape) -> u64 {
    shape.get("batch").max(1)
}

/// Indices between neighbours of B down a column and along a row.
fn strides_b(shape: &Shape) -> (u64, u64) {
    let (_, n, k) = sizes(shape);
    if shape.get("trans_b") == 1 {
        (1, k)
    } else {
        (n, 1)
    }
}

/// Elements of the right operand, which may be weights that share scales.
struct Right<'a> {
    values: &'a Values,
    scales: Option<&'a Values>,
    down: u64,
    along: u64,
    len: u64,
}

impl<'a> Right<'a> {
    fn of(given: Given<'a>) -> Self {
        let (_, n, k) = sizes(given.shape);
        let (down, along) = strides_b(given.shape);
        Self {
            values: &given.inputs[1],
            scales: given.inputs.get(2),
            down,
            along,
            len: n * k,
        }
    }

    fn get(&self, batch: u64, row: u64, column: u64) -> f64 {
        let index = batch * self.len + row * self.down + column * self.along;
        let value = f64::from(self.values.get(index));
        match self.scales {
            // Weights lie along k, and so do their scales.
            Some(scales) => value * f64::from(scales.get(index / WEIGHT_BLOCK)),
            None => value,
        }
    }
}

/// How far a sum of `k` products may be from the exact one: per unit of sum of magnitudes, and
/// besides.
fn bounds(given: &Given<'_>) -> (f64, f64) {
    let k = given.shape.get("k");
    if given.exact || given.dtype == Dtype::I8 {
        return (0.0, 0.0);
    }
    let (roundoff, tiny) = given.dtype.output().roundoff();
    // Scales of the user's may be longer, and weights times those are rounded where a kernel
    // computes in f16.
    let unpacking = match given.inputs.get(2) {
        Some(Values::Array(_)) => Element::F16.roundoff().0,
        _ => 0.0,
    };
    (sum_error_factor(k) * roundoff + unpacking, 2.0 * tiny)
}

impl Op for Matmul {
    fn dims(&self) -> &'static [Dim] {
        const {
            &[
                Dim::quiet("batch", "b", 1),
                Dim::size("m", "m", None),
                Dim::size("n", "n", None),
                Dim::size("k", "k", None),
                Dim::flag("trans_b"),
            ]
        }
    }

    fn dtypes(&self) -> &'static [Dtype] {
        &[
            Dtype::F32,
            Dtype::F16,
            Dtype::F16F16,
            Dtype::Tf32,
            Dtype::Bf16,
            Dtype::F8E4M3,
            Dtype::I8,
            Dtype::W4A16,
            Dtype::W4A32,
        ]
    }

    fn check(&self, shape: &Shape, dtype: Dtype) -> Result<()> {
        let (m, n, k) = sizes(shape);
        let batch = batch(shape);
        if dtype.has_4_bit_weights()
            && (shape.get("trans_b") == 0 || !k.is_multiple_of(WEIGHT_BLOCK))
        {
            return Err(Error::usage(format!(
                "matmul in {dtype} has its weights in rows of k and in blocks of {WEIGHT_BLOCK}: trans_b must be 1 and k a multiple of {WEIGHT_BLOCK}, not {k}"
            )));
        }
        if dtype == Dtype::I8 && k > I8_K_MAX {
            return Err(Error::usage(format!(
                "matmul in i8 adds up to {I8_K_MAX} products in 32 bits, not {k}"
            )));
        }
        // The count of operations must fit 64 bits to be reported at all.
        [m, n, k, 2]
            .iter()
            .try_fold(batch, |product, &size| product.checked_mul(size))
            .map(|_| ())
            .ok_or_else(|| {
                Error::usage(format!(
                    "matmul of batch {batch}, m {m}, n {n}, k {k} has more operations than can be counted"
                ))
            })
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        let (m, n, k) = sizes(shape);
        let batch = batch(shape);
        // A single product has matrices, not stacks of one.
        let stack = |rows: u64, columns: u64| match batch {
            1 => vec![rows, columns],
            _ => vec![batch, rows, columns],
        };
        let b = match shape.get("trans_b") {
            1 => stack(n, k),
            _ => stack(k, n),
        };
        let output = Tensor::output("c", &stack(m, n), dtype.output());
        if dtype.has_4_bit_weights() {
            return vec![
                Tensor::input("a", &stack(m, k), dtype.input()),
                Tensor::input("b", &b, Element::I4),
                Tensor {
                    // 7 bits by the 3 of a weight: exact in the 11 of f16.
                    drawn: Element::I8,
                    scale: 1.0 / 1024.0,
                    ..Tensor::input("scales", &stack(n, k / WEIGHT_BLOCK), Element::F16)
                },
                output,
            ];
        }
        vec![
            Tensor::input("a", &stack(m, k), dtype.input()),
            Tensor::input("b", &b, dtype.input()),
            output,
        ]
    }

    /// Sizes, and how many elements of B lie between neighbours down a column and along a row.
    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        let (m, n, k) = sizes(shape);
        let (down, along) = strides_b(shape);
        vec![
            word(m),
            word(n),
            word(k),
            word(batch(shape)),
            word(down),
            word(along),
            0,
            0,
        ]
    }

    fn extent(&self, shape: &Shape, name: &str) -> u64 {
        let (m, n, k) = sizes(shape);
        match name {
            "batch" => batch(shape),
            "operands" => batch(shape) * (m + n) * k,
            "padded_operands" => {
                let (n, k) = (n.next_multiple_of(4), k.next_multiple_of(4));
                batch(shape) * (m + n) * k
            }
            "matrix_c" => m * n,
            "c" => batch(shape) * m * n,
            _ => shape.get(name),
        }
    }

    fn summed(&self) -> Option<&'static str> {
        Some("k")
    }

    fn flop_count(&self, shape: &Shape) -> u64 {
        let (m, n, k) = sizes(shape);
        2 * batch(shape) * m * n * k
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (batch(shape) * shape.get("m"), shape.get("n"))
    }

    fn reference_cost(&self, shape: &Shape) -> u64 {
        shape.get("k")
    }

    fn exact(&self, shape: &Shape, dtype: Dtype) -> bool {
        let k = shape.get("k");
        // Integer inputs reach 5, so sums of products stay below 25 k, or 125 k with a scale; f32
        // is exact up to 2^24, f16 up to 2^11.
        match dtype {
            Dtype::I8 => true,
            Dtype::F16F16 => k <= (1 << 11) / 25,
            Dtype::W4A16 | Dtype::W4A32 => k <= (1 << 24) / 125,
            _ => k <= (1 << 24) / 25,
        }
    }

    fn reference(&self, given: Given<'_>, positions: &[u64]) -> Vec<Expected> {
        let (m, n, k) = sizes(given.shape);
        let (a, b) = (&given.inputs[0], Right::of(given));
        let (relative, tiny) = bounds(&given);
        positions
            .par_iter()
            .map(|&position| {
                let (row, column) = (position / n, position % n);
                let (value, magnitude) =
                    dot((0..k).map(|i| (f64::from(a.get(row * k + i)), b.get(row / m, i, column))));
                Expected {
                    value,
                    bound: relative * magnitude + tiny,
                }
            })
            .collect()
    }

    /// Freivalds' check: `C x` must equal `A (B x)`, which costs `O(mk + kn)` instead of `O(mnk)`.
    fn project(&self, given: Given<'_>, signs: &[f64], rows: &[u64]) -> Vec<Expected> {
        let (m, n, k) = sizes(given.shape);
        let (a, b) = (&given.inputs[0], Right::of(given));
        // B x, and for the bound the length of each row of B: the errors of one row of C are
        // weighed with signs that were drawn after they were made, so they add as a random walk,
        // and by the triangle inequality the root of the sum of squares of (|A| |B|) along a row
        // is at most |A| times the lengths of the rows of B.
        let projected: Vec<(f64, f64)> = (0..batch(given.shape) * k)
            .into_par_iter()
            .map(|row| {
                let (batch, i) = (row / k, row % k);
                let (sum, squares) =
                    signs
                        .iter()
                        .zip(0..n)
                        .fold((0.0, 0.0), |(sum, squares), (sign, column)| {
                            let value = b.get(batch, i, column);
                            (sum + sign * value, squares + value * value)
                        });
                (sum, squares.sqrt())
            })
            .collect();
        let (relative, tiny) = bounds(&given);
        let factor = signed_sum_factor(n);
        rows.par_iter()
            .map(|&row| {
                let (mut value, mut magnitude) = (0.0, 0.0);
                let start = usize::try_from(row / m * k).unwrap_or(usize::MAX);
                for (index, &(sum, length)) in (row * k..(row + 1) * k).zip(&projected[start..]) {
                    let element = f64::from(a.get(index));
                    value += element * sum;
                    magnitude += element.abs() * length;
                }
                #[allow(clippy::cast_precision_loss)] // a count of columns
                let tiny = tiny * (n as f64).sqrt();
                Expected {
                    value,
                    bound: factor * (relative * magnitude + tiny),
                }
            })
            .collect()
    }

    fn shrink(&self, shape: &Shape) -> Option<Shape> {
        if batch(shape) > 1 {
            return Some(shape.with("batch", batch(shape) / 2));
        }
        let (largest, size) = ["m", "n", "k"]
            .map(|name| (name, shape.get(name)))
            .into_iter()
            .max_by_key(|&(_, size)| size)?;
        // Halving keeps multiples of large powers of two, so that the same kernels stay legal.
        (size >= 128).then(|| shape.with(largest, size / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Data;
    use crate::op::{Case, OpName};

    /// Inputs of a case, as a runner makes them.
    fn inputs(case: &Case, data: &Data) -> Vec<Values> {
        (0u32..)
            .zip(case.tensors())
            .take(case.tensors().len() - 1)
            .map(|(number, tensor)| tensor.values(data, 9, number).unwrap())
            .collect()
    }

    fn case(sizes: &[(&str, u64)], dtype: Dtype) -> Case {
        Case::new(OpName::Matmul, &Shape::of(sizes), dtype).unwrap()
    }

    /// A batch of products in every layout and dtype that there is, as short as can be.
    fn small() -> Vec<Case> {
        let mut cases = Vec::new();
        for &dtype in Matmul.dtypes() {
            for trans_b in [0, 1] {
                let sizes = [
                    ("batch", 2),
                    ("m", 3),
                    ("n", 7),
                    ("k", 32),
                    ("trans_b", trans_b),
                ];
                cases.extend(Case::new(OpName::Matmul, &Shape::of(&sizes), dtype));
            }
        }
        assert_eq!(cases.len(), 16, "weights of 4 bits lie one way only");
        cases
    }

    #[test]
    fn the_projection_agrees_with_the_sum_of_the_elements_it_projects() {
        let signs = [1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0];
        let rows: Vec<u64> = (0..6).collect();
        for case in small() {
            let inputs = inputs(&case, &Data::Integer);
            let given = case.given(&inputs, &Data::Integer);
            for (row, got) in rows.iter().zip(Matmul.project(given, &signs, &rows)) {
                let positions: Vec<u64> = (row * 7..row * 7 + 7).collect();
                let elements = Matmul.reference(given, &positions);
                let sum: f64 = elements.iter().zip(signs).map(|(e, s)| e.value * s).sum();
                assert_eq!(
                    got,
                    Expected {
                        value: sum,
                        bound: 0.0
                    },
                    "{}",
                    case.id()
                );
            }
        }
    }

    #[test]
    fn a_transposed_operand_is_the_same_matrix_laid_out_differently() {
        let plain = case(&[("m", 3), ("n", 5), ("k", 4)], Dtype::F32);
        let transposed = case(&[("m", 3), ("n", 5), ("k", 4), ("trans_b", 1)], Dtype::F32);
        let a: Vec<f32> = (0..12u8).map(f32::from).collect();
        let b: Vec<f32> = (0..20u8).map(f32::from).collect();
        let turned = (0..20).map(|i| b[i % 4 * 5 + i / 4]).collect();
        let positions: Vec<u64> = (0..15).collect();
        let inputs = [Values::Array(a.clone()), Values::Array(b)];
        let other = [Values::Array(a), Values::Array(turned)];
        assert_eq!(
            Matmul.reference(plain.given(&inputs, &Data::Uniform), &positions),
            Matmul.reference(transposed.given(&other, &Data::Uniform), &positions)
        );
    }

    #[test]
    fn every_weight_times_its_scale_is_exact_in_f16() {
        let case = case(
            &[("m", 1), ("n", 64), ("k", 256), ("trans_b", 1)],
            Dtype::W4A16,
        );
        let inputs = inputs(&case, &Data::Uniform);
        let b = Right::of(case.given(&inputs, &Data::Uniform));
        let mut seen = std::collections::BTreeSet::new();
        for column in 0..64 {
            for i in 0..256 {
                #[allow(clippy::cast_possible_truncation)] // exact
                let weight = b.get(0, i, column) as f32;
                assert_eq!(Element::F16.nearest(weight), weight);
                seen.insert(weight.to_bits());
            }
        }
        assert!(seen.len() > 500, "only {} different weights", seen.len());
    }

    #[test]
    fn layouts_that_cannot_be_are_refused_with_the_remedy() {
        let refuse = |sizes: &[(&str, u64)], dtype: Dtype| {
            Case::new(OpName::Matmul, &Shape::of(sizes), dtype)
                .unwrap_err()
                .message
        };
        let sizes = [("m", 1), ("n", 1), ("k", 32)];
        assert!(refuse(&sizes, Dtype::W4A16).contains("trans_b must be 1"));
        let sizes = [("m", 1), ("n", 1), ("k", 33), ("trans_b", 1)];
        assert!(refuse(&sizes, Dtype::W4A32).contains("multiple of 32, not 33"));
        let sizes = [("m", 1), ("n", 1), ("k", 200_000)];
        assert!(refuse(&sizes, Dtype::I8).contains("131071"));
    }

    #[test]
    fn a_single_product_keeps_the_id_it_always_had() {
        let sizes = [("m", 1), ("n", 2), ("k", 32)];
        assert_eq!(case(&sizes, Dtype::F32).id(), "matmul/m1_n2_k32/f32");
        let sizes = [("batch", 8), ("m", 1), ("n", 2), ("k", 32), ("trans_b", 1)];
        assert_eq!(
            case(&sizes, Dtype::W4A16).id(),
            "matmul/b8_m1_n2_k32_trans_b/w4a16"
        );
    }

    #[test]
    fn one_wrong_element_of_a_large_product_breaks_the_bound_of_its_row() {
        let case = case(&[("m", 1), ("n", 4096), ("k", 4096)], Dtype::F32);
        let inputs = inputs(&case, &Data::Uniform);
        let signs = crate::runner::signs(5, 4096);
        let bound = Matmul.project(case.given(&inputs, &Data::Uniform), &signs, &[0])[0].bound;
        // An element is about sqrt(k) / 3 in size; one that is missing changes the sum by that.
        assert!(bound < 21.3 / 2.0, "{bound}");
    }

    #[test]
    fn the_bound_covers_a_plain_sum_and_not_one_in_a_shorter_type() {
        let sizes = [("m", 3), ("n", 5), ("k", 1024)];
        for dtype in [Dtype::F32, Dtype::F16, Dtype::F16F16] {
            let case = case(&sizes, dtype);
            let inputs = inputs(&case, &Data::Uniform);
            let positions: Vec<u64> = (0..15).collect();
            let expected = Matmul.reference(case.given(&inputs, &Data::Uniform), &positions);
            let sum_in = |element: Element, position: u64| {
                let (row, column) = (position / 5, position % 5);
                (0..1024).fold(0.0f32, |sum, i| {
                    let product = inputs[0].get(row * 1024 + i) * inputs[1].get(i * 5 + column);
                    element.nearest(product + sum)
                })
            };
            let within = |element: Element, (position, expected): (u64, &Expected)| {
                (f64::from(sum_in(element, position)) - expected.value).abs() <= expected.bound
            };
            assert!((0..).zip(&expected).all(|e| within(dtype.output(), e)));
            if dtype.output() == Element::F32 {
                assert!(!(0..).zip(&expected).all(|e| within(Element::F16, e)));
            }
        }
    }
}
