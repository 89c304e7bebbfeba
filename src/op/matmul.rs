//! `C[m,n] = A[m,k] B[k,n]`, all dense and row-major.

use rayon::prelude::*;

use super::{
    Dim, Dtype, Expected, F32_ROUNDOFF, Op, Shape, Tensor, dot, signed_sum_factor,
    sum_error_factor, word,
};
use crate::error::{Error, Result};
use crate::input::Values;

/// The matrix product.
pub struct Matmul;

/// Integer inputs reach 5, so partial sums stay below `25 k`; f32 is exact up to 2^24.
const EXACT_K_MAX: u64 = (1 << 24) / 25;

fn sizes(shape: &Shape) -> (u64, u64, u64) {
    (shape.get("m"), shape.get("n"), shape.get("k"))
}

/// How far an f32 sum of `k` products may be from the exact one, per unit of sum of magnitudes.
fn relative_bound(k: u64, exact: bool) -> f64 {
    if exact {
        0.0
    } else {
        sum_error_factor(k) * F32_ROUNDOFF
    }
}

impl Op for Matmul {
    fn dims(&self) -> &'static [Dim] {
        const {
            &[
                Dim::size("m", "m", None),
                Dim::size("n", "n", None),
                Dim::size("k", "k", None),
            ]
        }
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        let (m, n, k) = sizes(shape);
        // The count of operations must fit 64 bits to be reported at all.
        m.checked_mul(n)
            .and_then(|mn| mn.checked_mul(k))
            .and_then(|mnk| mnk.checked_mul(2))
            .map(|_| ())
            .ok_or_else(|| {
                Error::usage(format!(
                    "matmul of m {m}, n {n}, k {k} has more operations than can be counted"
                ))
            })
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        let (m, n, k) = sizes(shape);
        vec![
            Tensor::input("a", &[m, k], dtype.input()),
            Tensor::input("b", &[k, n], dtype.input()),
            Tensor::output("c", &[m, n], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        let (m, n, k) = sizes(shape);
        vec![word(m), word(n), word(k), 0]
    }

    fn flop_count(&self, shape: &Shape) -> u64 {
        let (m, n, k) = sizes(shape);
        2 * m * n * k
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (shape.get("m"), shape.get("n"))
    }

    fn reference_cost(&self, shape: &Shape) -> u64 {
        shape.get("k")
    }

    fn exact(&self, shape: &Shape) -> bool {
        shape.get("k") <= EXACT_K_MAX
    }

    fn reference(
        &self,
        shape: &Shape,
        inputs: &[Values],
        positions: &[u64],
        exact: bool,
    ) -> Vec<Expected> {
        let (_, n, k) = sizes(shape);
        let (a, b) = (&inputs[0], &inputs[1]);
        let relative = relative_bound(k, exact);
        positions
            .par_iter()
            .map(|&position| {
                let (row, column) = (position / n, position % n);
                let (value, magnitude) = dot((0..k).map(|i| {
                    (
                        f64::from(a.get(row * k + i)),
                        f64::from(b.get(i * n + column)),
                    )
                }));
                Expected {
                    value,
                    bound: relative * magnitude,
                }
            })
            .collect()
    }

    /// Freivalds' check: `C x` must equal `A (B x)`, which costs `O(mk + kn)` instead of `O(mnk)`.
    fn project(
        &self,
        shape: &Shape,
        inputs: &[Values],
        signs: &[f64],
        rows: &[u64],
        exact: bool,
    ) -> Vec<Expected> {
        let (_, n, k) = sizes(shape);
        let (a, b) = (&inputs[0], &inputs[1]);
        // B x, and for the bound the length of each row of B: the errors of one row of C are
        // weighed with signs that were drawn after they were made, so they add as a random walk,
        // and by the triangle inequality the root of the sum of squares of (|A| |B|) along a row
        // is at most |A| times the lengths of the rows of B.
        let projected: Vec<(f64, f64)> = (0..k)
            .into_par_iter()
            .map(|i| {
                let (sum, squares) =
                    signs
                        .iter()
                        .zip(i * n..)
                        .fold((0.0, 0.0), |(sum, squares), (sign, index)| {
                            let value = f64::from(b.get(index));
                            (sum + sign * value, squares + value * value)
                        });
                (sum, squares.sqrt())
            })
            .collect();
        let relative = relative_bound(k, exact) * signed_sum_factor(n);
        rows.par_iter()
            .map(|&row| {
                let (mut value, mut magnitude) = (0.0, 0.0);
                for (index, &(sum, length)) in (row * k..).zip(&projected) {
                    let element = f64::from(a.get(index));
                    value += element * sum;
                    magnitude += element.abs() * length;
                }
                Expected {
                    value,
                    bound: relative * magnitude,
                }
            })
            .collect()
    }

    fn shrink(&self, shape: &Shape) -> Option<Shape> {
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
    use crate::input::{Element, keys};

    fn inputs() -> Vec<Values> {
        vec![Values::Integer(keys(1, 0)), Values::Integer(keys(1, 1))]
    }

    #[test]
    fn the_projection_agrees_with_the_sum_of_the_elements_it_projects() {
        let shape = Shape::of(&[("m", 5), ("n", 7), ("k", 11)]);
        let signs = [1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0];
        let rows: Vec<u64> = (0..5).collect();
        let projected = Matmul.project(&shape, &inputs(), &signs, &rows, true);
        for (row, got) in rows.iter().zip(projected) {
            let positions: Vec<u64> = (row * 7..row * 7 + 7).collect();
            let elements = Matmul.reference(&shape, &inputs(), &positions, true);
            let sum: f64 = elements.iter().zip(signs).map(|(e, s)| e.value * s).sum();
            assert_eq!(
                got,
                Expected {
                    value: sum,
                    bound: 0.0
                }
            );
        }
    }

    #[test]
    fn one_wrong_element_of_a_large_product_breaks_the_bound_of_its_row() {
        let (n, k) = (4096, 4096);
        let shape = Shape::of(&[("m", 1), ("n", n), ("k", k)]);
        let inputs = vec![
            Values::Uniform(keys(9, 0), 1.0, Element::F32),
            Values::Uniform(keys(9, 1), 1.0, Element::F32),
        ];
        let signs = crate::runner::signs(5, n);
        let bound = Matmul.project(&shape, &inputs, &signs, &[0], false)[0].bound;
        // An element is about sqrt(k) / 3 in size; one that is missing changes the sum by that.
        assert!(bound < 21.3 / 2.0, "{bound}");
    }

    #[test]
    fn the_bound_covers_a_plain_f32_sum() {
        let shape = Shape::of(&[("m", 3), ("n", 5), ("k", 1021)]);
        let inputs = vec![
            Values::Uniform(keys(9, 0), 1.0, Element::F32),
            Values::Uniform(keys(9, 1), 1.0, Element::F32),
        ];
        let positions: Vec<u64> = (0..15).collect();
        for (position, expected) in positions
            .iter()
            .zip(Matmul.reference(&shape, &inputs, &positions, false))
        {
            let (row, column) = (position / 5, position % 5);
            let sum = (0..1021).fold(0.0f32, |sum, i| {
                inputs[0]
                    .get(row * 1021 + i)
                    .mul_add(inputs[1].get(i * 5 + column), sum)
            });
            assert!((f64::from(sum) - expected.value).abs() <= expected.bound);
            // A bound as large as the values would check nothing.
            assert!(expected.bound < 0.01);
        }
    }
}
