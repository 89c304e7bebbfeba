//! Probes of everything around a kernel: launches that wait for one another, the way to the device
//! and back, and the link that data takes.

use super::probe::{COPY_COLUMNS, COPY_ROWS_MAX, Empty, integer_input};
use super::{Dim, Dtype, Elements, Given, Op, Shape, Tensor, word};

/// Sixteen launches: the first makes `z = x + 1`, the others by turns `z = 2 z` and `z = z + 1`.
///
/// A launch that is left out, comes twice or changes places with its neighbour is a wrong answer.
pub struct Chain;

/// [`Empty`], one launch at a time.
pub struct RoundTrip;

/// `dst = src`, where `src` is in the host's memory and `dst` in the device's.
pub struct Upload;

/// `dst = src`, where `src` is in the device's memory and `dst` in the host's.
pub struct Readback;

/// Launches of one call of [`Chain`].
pub const CHAIN_LAUNCHES: u32 = 16;

fn chain(x: f64) -> f64 {
    (1..CHAIN_LAUNCHES).fold(
        x + 1.0,
        |z, launch| {
            if launch % 2 == 1 { 2.0 * z } else { z + 1.0 }
        },
    )
}

impl Op for Chain {
    fn dims(&self) -> &'static [Dim] {
        Empty.dims()
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        vec![
            integer_input("x", &[shape.get("n")], dtype.input()),
            Tensor::output("out", &[shape.get("n")], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, dtype: Dtype) -> Vec<u32> {
        Empty.params(shape, dtype)
    }

    fn flop_count(&self, _shape: &Shape) -> u64 {
        0
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        Empty.output_rows(shape)
    }

    fn reference_cost(&self, _shape: &Shape) -> u64 {
        u64::from(CHAIN_LAUNCHES)
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Box::new(move |index| chain(f64::from(given.inputs[0].get(index))))
    }
}

impl Op for RoundTrip {
    fn dims(&self) -> &'static [Dim] {
        Empty.dims()
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        Empty.tensors(shape, dtype)
    }

    fn params(&self, shape: &Shape, dtype: Dtype) -> Vec<u32> {
        Empty.params(shape, dtype)
    }

    fn flop_count(&self, _shape: &Shape) -> u64 {
        0
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        Empty.output_rows(shape)
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Empty.elements(given)
    }
}

/// Both directions are the same mathematics.
macro_rules! transfer {
    ($op:ident) => {
        impl Op for $op {
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

            /// What goes over the link, once.
            fn bytes_min(&self, shape: &Shape, dtype: Dtype) -> u64 {
                dtype.input().bytes(shape.get("n"))
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
    };
}

transfer!(Upload);
transfer!(Readback);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_without_one_of_its_launches_or_in_another_order_ends_elsewhere() {
        let launches: Vec<fn(f64) -> f64> = (0..CHAIN_LAUNCHES)
            .map(|launch| -> fn(f64) -> f64 {
                if launch > 0 && launch % 2 == 1 {
                    |z| 2.0 * z
                } else {
                    |z| z + 1.0
                }
            })
            .collect();
        let run = |launches: &[fn(f64) -> f64], x: f64| launches.iter().fold(x, |z, f| f(z));
        for x in -2..=5 {
            let x = f64::from(x);
            assert_eq!(run(&launches, x), chain(x));
            for left_out in 0..launches.len() {
                let mut fewer = launches.clone();
                fewer.remove(left_out);
                // From minus one, the first doubling has nothing to double.
                assert!(run(&fewer, x) != chain(x) || x == -1.0 && left_out == 1);
            }
            for at in 0..launches.len() - 1 {
                let mut swapped = launches.clone();
                swapped.swap(at, at + 1);
                assert!(run(&swapped, x) != chain(x), "{x} {at}");
            }
        }
    }
}
