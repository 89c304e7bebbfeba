//! Memory probes: how fast memory is read, written and both, and how long one load takes.
//!
//! Each is exact, so that a load, a store or a step that was left out is a wrong answer.

use super::probe::{COPY_COLUMNS, COPY_ROWS_MAX, integer_input};
use super::{Dim, Dtype, Elements, Given, Op, Shape, Tensor, word};
use crate::error::{Error, Result};
use crate::input::{Data, SLOT_WORDS, Values};

/// `out[b, c] = sum over r < 32 of x[b mod B, r, c]`, where `x` is B blocks of 32 rows of 128.
///
/// A working set that is read over several `rounds` lets a small one keep a large chip busy. Blocks
/// are laid out so that neighbouring invocations read neighbouring vectors and none needs another's
/// result; one element in 32 is written.
pub struct Read;

/// `out[i] = (key + 2654435769 i mod 2^32) / 2^8`, rounded down, where `key` has the bits of `x[0]`.
pub struct Write;

/// `a = b + s c` in integers, where only the host knows that `s` is three.
pub struct Triad;

/// The slot that a walk of `steps` steps from slot 0 along [`crate::input::Cycle`] ends on.
pub struct Chase;

/// Rows of one block of [`Read`]: how many elements one sum has.
pub const READ_ROWS: u64 = 32;

/// Columns of one block of [`Read`].
pub const READ_COLUMNS: u64 = 128;

/// Elements of one block of [`Read`].
pub const READ_BLOCK: u64 = READ_ROWS * READ_COLUMNS;

/// The factor of [`Write`]: odd, so that neighbours differ, and 2^32 over the golden ratio.
pub const WRITE_FACTOR: u32 = 0x9e37_79b9;

/// The scalar of [`Triad`].
pub const TRIAD_SCALAR: f32 = 3.0;

/// Slots of a [`Chase`] whose number an f32 still holds exactly.
const LINES_MAX: u64 = 1 << 24;

fn read_blocks(shape: &Shape) -> u64 {
    shape.get("n") / READ_BLOCK
}

fn read_outputs(shape: &Shape) -> u64 {
    read_blocks(shape) * shape.get("rounds") * READ_COLUMNS
}

fn column_sum(shape: &Shape, x: &Values, index: u64) -> f64 {
    let block = index / READ_COLUMNS % read_blocks(shape);
    let first = block * READ_BLOCK + index % READ_COLUMNS;
    (0..READ_ROWS)
        .map(|row| f64::from(x.get(first + row * READ_COLUMNS)))
        .sum()
}

impl Op for Read {
    fn dims(&self) -> &'static [Dim] {
        const { &[Dim::size("n", "n", None), Dim::size("rounds", "r", Some(1))] }
    }

    fn check(&self, shape: &Shape, _dtype: Dtype) -> Result<()> {
        let (n, rounds) = (shape.get("n"), shape.get("rounds"));
        if !n.is_multiple_of(READ_BLOCK) {
            return Err(Error::usage(format!(
                "read n must be a multiple of {READ_BLOCK}, not {n}"
            )));
        }
        match n.checked_mul(rounds) {
            Some(total) if total / READ_ROWS <= super::ELEMENTS_MAX => Ok(()),
            _ => Err(Error::usage(format!(
                "read of {n} elements over {rounds} rounds has more sums than can be indexed"
            ))),
        }
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        vec![
            integer_input(
                "x",
                &[read_blocks(shape), READ_ROWS, READ_COLUMNS],
                dtype.input(),
            ),
            Tensor::output(
                "out",
                &[read_blocks(shape) * shape.get("rounds"), READ_COLUMNS],
                dtype.output(),
            ),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        vec![
            word(read_blocks(shape)),
            word(read_outputs(shape)),
            word(READ_ROWS),
            0,
        ]
    }

    fn extent(&self, shape: &Shape, name: &str) -> u64 {
        match name {
            "outputs" => read_outputs(shape),
            _ => shape.get(name),
        }
    }

    fn flop_count(&self, _shape: &Shape) -> u64 {
        0
    }

    fn bytes_min(&self, shape: &Shape, dtype: Dtype) -> u64 {
        dtype
            .input()
            .bytes(shape.get("n") * shape.get("rounds") + read_outputs(shape))
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (read_outputs(shape) / READ_COLUMNS, READ_COLUMNS)
    }

    fn projected_rows(&self, shape: &Shape) -> u64 {
        self.output_rows(shape).0.min(COPY_ROWS_MAX)
    }

    fn reference_cost(&self, _shape: &Shape) -> u64 {
        READ_ROWS
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Box::new(move |index| column_sum(given.shape, &given.inputs[0], index))
    }
}

#[allow(clippy::cast_possible_truncation)] // indices have 32 bits
fn written(x: &Values, index: u64) -> f64 {
    let key = x.get(0).to_bits();
    f64::from(key.wrapping_add((index as u32).wrapping_mul(WRITE_FACTOR)) >> 8)
}

impl Op for Write {
    fn dims(&self) -> &'static [Dim] {
        const { &[Dim::size("n", "n", None)] }
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        vec![
            // Uniform whatever is asked for: the bits of a small integer would be a poor key.
            Tensor {
                always: Some(Data::Uniform),
                ..Tensor::input("x", &[1], dtype.input())
            },
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
        (shape.get("n").div_ceil(COPY_COLUMNS), COPY_COLUMNS)
    }

    fn projected_rows(&self, shape: &Shape) -> u64 {
        self.output_rows(shape).0.min(COPY_ROWS_MAX)
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Box::new(move |index| written(&given.inputs[0], index))
    }
}

fn triad(inputs: &[Values], index: u64) -> f64 {
    f64::from(inputs[0].get(index)) + f64::from(TRIAD_SCALAR) * f64::from(inputs[1].get(index))
}

impl Op for Triad {
    fn dims(&self) -> &'static [Dim] {
        const { &[Dim::size("n", "n", None)] }
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        vec![
            integer_input("b", &[shape.get("n")], dtype.input()),
            integer_input("c", &[shape.get("n")], dtype.input()),
            Tensor::output("a", &[shape.get("n")], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        vec![word(shape.get("n")), TRIAD_SCALAR.to_bits(), 0, 0]
    }

    /// Its multiply-adds wait for memory, and its figure is a bandwidth.
    fn flop_count(&self, _shape: &Shape) -> u64 {
        0
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (shape.get("n").div_ceil(COPY_COLUMNS), COPY_COLUMNS)
    }

    fn projected_rows(&self, shape: &Shape) -> u64 {
        self.output_rows(shape).0.min(COPY_ROWS_MAX)
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        Box::new(move |index| triad(given.inputs, index))
    }
}

fn last_slot(shape: &Shape, links: &Values) -> f64 {
    let steps = shape.get("steps");
    match links {
        Values::Cycle(cycle) => f64::from(cycle.after(steps)),
        // Links from elsewhere are followed one by one.
        other => {
            let last = (0..steps).fold(0, |at, _| u64::from(other.get(at).to_bits()));
            f64::from(word(last / u64::from(SLOT_WORDS)))
        }
    }
}

impl Op for Chase {
    fn dims(&self) -> &'static [Dim] {
        const { &[Dim::size("lines", "l", None), Dim::size("steps", "s", None)] }
    }

    fn check(&self, shape: &Shape, _dtype: Dtype) -> Result<()> {
        let (lines, steps) = (shape.get("lines"), shape.get("steps"));
        let mut rest = lines;
        for prime in [2, 3] {
            while rest.is_multiple_of(prime) {
                rest /= prime;
            }
        }
        if rest != 1 || lines > LINES_MAX {
            return Err(Error::usage(format!(
                "chase lines must be a product of twos and threes of at most {LINES_MAX}, not {lines}"
            )));
        }
        if steps < lines {
            return Err(Error::usage(format!(
                "chase steps must be at least the {lines} lines, or calls that follow one another would find theirs in a cache; not {steps}"
            )));
        }
        Ok(())
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        let lines = shape.get("lines");
        vec![
            Tensor {
                always: Some(Data::Cycle(word(lines))),
                ..Tensor::input("links", &[lines, u64::from(SLOT_WORDS)], dtype.input())
            },
            Tensor::output("last", &[1], dtype.output()),
        ]
    }

    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        // One walker; only the host knows that there are no more.
        vec![word(shape.get("steps")), 1, 0, 0]
    }

    fn flop_count(&self, _shape: &Shape) -> u64 {
        0
    }

    /// One word of each line.
    fn bytes_min(&self, shape: &Shape, dtype: Dtype) -> u64 {
        dtype.input().bytes(shape.get("lines") + 1)
    }

    fn output_rows(&self, _shape: &Shape) -> (u64, u64) {
        (1, 1)
    }

    fn reference_cost(&self, _shape: &Shape) -> u64 {
        64
    }

    fn elements<'a>(&self, given: Given<'a>) -> Elements<'a> {
        let last = last_slot(given.shape, &given.inputs[0]);
        Box::new(move |_| last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Cycle, keys};
    use crate::op::{Case, OpName};

    #[test]
    fn every_element_of_a_read_is_in_exactly_one_sum_of_each_round() {
        let shape = Shape::of(&[("n", 3 * READ_BLOCK), ("rounds", 2)]);
        let values: Vec<f32> = (0..3 * READ_BLOCK).map(|i| (i % 7) as f32).collect();
        let total: f64 = values.iter().map(|&v| f64::from(v)).sum();
        let positions: Vec<u64> = (0..read_outputs(&shape)).collect();
        let inputs = [Values::Array(values)];
        let element = Read.elements(Given {
            shape: &shape,
            dtype: Dtype::F32,
            inputs: &inputs,
            exact: true,
        });
        let sum: f64 = positions.into_iter().map(element).sum();
        assert_eq!(sum, 2.0 * total);
    }

    #[test]
    fn the_walk_is_known_without_walking() {
        let shape = Shape::of(&[("lines", 192), ("steps", 1000)]);
        let cycle = Cycle::drawn(keys(5, 0), 192);
        let words: Vec<f32> = (0..192 * SLOT_WORDS)
            .map(|index| f32::from_bits(cycle.word(index)))
            .collect();
        assert_eq!(
            last_slot(&shape, &Values::Cycle(cycle)),
            last_slot(&shape, &Values::Array(words))
        );
    }

    #[test]
    fn walks_that_leave_lines_out_and_odd_numbers_of_lines_are_refused() {
        let refuse = |lines: u64, steps: u64| {
            let shape = Shape::of(&[("lines", lines), ("steps", steps)]);
            Case::new(OpName::Chase, &shape, Dtype::F32)
                .unwrap_err()
                .message
        };
        assert!(refuse(128, 127).contains("at least the 128 lines"));
        assert!(refuse(10, 100).contains("twos and threes"));
        assert!(refuse(1 << 25, 1 << 25).contains("16777216"));
    }
}
