//! Attention on the CPU: products of blocks, and a vectorised softmax between them.

use std::cell::Cell;

use gemm::Parallelism;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::matmul::{Matrix, Short, elements, product};
use super::{Work, size, thread_count};
use crate::input::Element;

/// Attention as products of blocks, with the softmax carried along the keys: a block of scores
/// stays in cache between the product that makes it and the one that uses it.
///
/// The query heads that share a key-value head lie next to one another, so together they are one
/// matrix of queries; blocks are cut from that, and few queries per head still make a product.
pub(super) fn attention(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    match work.dtype.input() {
        Element::F16 => attend::<half::f16>(work, inputs, output),
        Element::Bf16 => attend::<half::bf16>(work, inputs, output),
        _ => attend::<f32>(work, inputs, output),
    }
}

fn attend<T: Short>(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    let (shape, values) = (work.shape, work.values);
    let (heads, kv_heads) = (size(shape, "heads"), size(shape, "kv_heads"));
    let (query_len, head_dim) = (size(shape, "query_len"), size(shape, "head_dim"));
    let (query_block, key_block) = (values[0], values[1]);
    let sizes = Sizes {
        query_len,
        kv_len: size(shape, "kv_len"),
        head_dim,
        causal: shape.get("causal") == 1,
        key_block,
    };
    let rows = heads / kv_heads * query_len;
    let kv_count = size(shape, "batch") * kv_heads;
    let queries: &[T] = elements(&inputs[0], kv_count * rows * head_dim);
    let keys: &[T] = elements(&inputs[1], kv_count * sizes.kv_len * head_dim);
    let values: &[T] = elements(&inputs[2], kv_count * sizes.kv_len * head_dim);
    let mut blocks: Vec<Block<'_, T>> = output
        .chunks_mut(rows * head_dim)
        .zip(queries.chunks(rows * head_dim))
        .enumerate()
        .flat_map(|(kv_head, (output, queries))| {
            let kv = kv_head * sizes.kv_len * head_dim..(kv_head + 1) * sizes.kv_len * head_dim;
            let (keys, values) = (&keys[kv.clone()], &values[kv]);
            output
                .chunks_mut(query_block * head_dim)
                .zip(queries.chunks(query_block * head_dim))
                .enumerate()
                .map(move |(block, (output, queries))| Block {
                    output,
                    queries,
                    keys,
                    values,
                    first_row: block * query_block,
                })
        })
        .collect();
    if blocks.len() >= thread_count() {
        blocks
            .par_iter_mut()
            .with_max_len(1)
            .for_each(|b| b.attend(&sizes, Parallelism::None));
    } else {
        blocks
            .iter_mut()
            .for_each(|block| block.attend(&sizes, Parallelism::Rayon(0)));
    }
}

/// What all blocks of one attention have in common.
struct Sizes {
    query_len: usize,
    kv_len: usize,
    head_dim: usize,
    causal: bool,
    /// Keys whose scores are held at a time.
    key_block: usize,
}

impl Sizes {
    /// How many keys the query in this row of the queries of a key-value head sees.
    fn visible(&self, row: usize) -> usize {
        if self.causal {
            (row % self.query_len + 1 + self.kv_len).saturating_sub(self.query_len)
        } else {
            self.kv_len
        }
    }
}

/// Some rows of the queries that share a key-value head, and where their results go.
struct Block<'a, T> {
    output: &'a mut [f32],
    queries: &'a [T],
    keys: &'a [T],
    values: &'a [T],
    first_row: usize,
}

/// What a block needs besides: scores with the state of the softmax, and short numbers in f32.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

thread_local! {
    /// It is taken out while in use, so that a thread that is lent to another block meanwhile makes
    /// its own instead of finding this one borrowed.
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

/// Up to so many rows, scores are made one row at a time; at 16 that is slower.
const FEW_ROWS: usize = 4;

impl<T: Short> Block<'_, T> {
    fn attend(&mut self, sizes: &Sizes, parallelism: Parallelism) {
        let arch = Arch::new();
        let d = sizes.head_dim;
        let rows = self.output.len() / d;
        #[allow(clippy::cast_precision_loss)] // head dimensions are small
        let scale = 1.0 / (d as f32).sqrt();
        // Keys that no row of the block sees are never looked at.
        let row_range = self.first_row..self.first_row + rows;
        let seen = row_range.map(|row| sizes.visible(row)).max().unwrap_or(0);
        let mut scratch = SCRATCH.take().unwrap_or_default();
        let queries = T::widened(self.queries, &mut scratch.queries);
        scratch
            .scores
            .resize(rows * (sizes.key_block.min(seen) + 2), 0.0);
        let (maxima, rest) = scratch.scores.split_at_mut(rows);
        let (totals, scores) = rest.split_at_mut(rows);
        maxima.fill(f32::NEG_INFINITY);
        totals.fill(0.0);

        for first_key in (0..seen).step_by(sizes.key_block) {
            let width = sizes.key_block.min(seen - first_key);
            let keys = first_key * d..(first_key + width) * d;
            let scores = &mut scores[..rows * width];
            let wide_keys = T::widened(&self.keys[keys.clone()], &mut scratch.keys);
            let transposed_keys = Matrix::row_major(wide_keys, d).transposed();
            // For few rows, a product would spend more on rearranging the keys than on using them.
            let rows_at_once = if rows <= FEW_ROWS { 1 } else { rows };
            for (scores, queries) in scores
                .chunks_mut(rows_at_once * width)
                .zip(queries.chunks(rows_at_once * d))
            {
                let queries = Matrix::row_major(queries, d);
                product(
                    scores,
                    width,
                    queries,
                    transposed_keys,
                    scale,
                    false,
                    parallelism,
                );
            }
            arch.dispatch(Weigh {
                scores: &mut *scores,
                output: self.output,
                maxima,
                totals,
                sizes,
                first_row: self.first_row,
                first_key,
                width,
            });
            let weights = Matrix::row_major(scores, width);
            let values = T::widened(&self.values[keys], &mut scratch.values);
            let values = Matrix::row_major(values, d);
            product(
                self.output,
                d,
                weights,
                values,
                1.0,
                first_key > 0,
                parallelism,
            );
        }
        for (row, &total) in self.output.chunks_mut(d).zip(&*totals) {
            if total > 0.0 {
                let factor = 1.0 / total;
                row.iter_mut().for_each(|value| *value *= factor);
            } else {
                row.fill(0.0);
            }
        }
        SCRATCH.set(Some(scratch));
    }
}

/// Turns a block of scores into weights relative to the largest score of each row so far, and
/// brings what was summed up before to the same scale.
struct Weigh<'a> {
    scores: &'a mut [f32],
    output: &'a mut [f32],
    maxima: &'a mut [f32],
    totals: &'a mut [f32],
    sizes: &'a Sizes,
    first_row: usize,
    first_key: usize,
    width: usize,
}

impl WithSimd for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let state = self.maxima.iter_mut().zip(self.totals);
        let rows = self
            .scores
            .chunks_mut(self.width)
            .zip(self.output.chunks_mut(self.sizes.head_dim));
        for (row, ((scores, output), (maximum, total))) in (self.first_row..).zip(rows.zip(state)) {
            let visible = self
                .sizes
                .visible(row)
                .saturating_sub(self.first_key)
                .min(self.width);
            let (scores, masked) = scores.split_at_mut(visible);
            masked.fill(0.0);
            if scores.is_empty() {
                continue;
            }
            let larger = maximum.max(largest(simd, scores));
            // The first time this is exp(-inf), and the output holds nothing yet.
            let correction = (*maximum - larger).exp();
            if self.first_key > 0 {
                output.iter_mut().for_each(|value| *value *= correction);
            }
            *total = *total * correction + weigh(simd, scores, larger);
            *maximum = larger;
        }
    }
}

/// Vectors that one turn of a reduction keeps apart, so that it need not wait for itself.
const REDUCTION_WIDTH: usize = 4;

#[inline(always)]
fn largest<S: Simd>(simd: S, scores: &[f32]) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(scores);
    let (turns, odd) = vectors.as_chunks::<REDUCTION_WIDTH>();
    let mut parts = [simd.splat_f32s(f32::NEG_INFINITY); REDUCTION_WIDTH];
    for turn in turns {
        for (part, &vector) in parts.iter_mut().zip(turn) {
            *part = simd.max_f32s(*part, vector);
        }
    }
    for &vector in odd {
        parts[0] = simd.max_f32s(parts[0], vector);
    }
    let [a, b, c, d] = parts;
    let all = simd.max_f32s(simd.max_f32s(a, b), simd.max_f32s(c, d));
    rest.iter()
        .copied()
        .fold(simd.reduce_max_f32s(all), f32::max)
}

/// Replaces scores by `exp(score - largest)` and returns the sum of these.
#[inline(always)]
fn weigh<S: Simd>(simd: S, scores: &mut [f32], largest: f32) -> f32 {
    let largest = simd.splat_f32s(largest);
    let (vectors, rest) = S::as_mut_simd_f32s(scores);
    let mut sum = simd.splat_f32s(0.0);
    for vector in vectors {
        *vector = exp(simd, simd.sub_f32s(*vector, largest));
        sum = simd.add_f32s(sum, *vector);
    }
    let weights = exp(simd, simd.sub_f32s(simd.partial_load_f32s(rest), largest));
    simd.partial_store_f32s(rest, weights);
    simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}

/// `exp(x)` for `x <= 0`, to about one unit in the last place.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Below this the result would leave the normal numbers; as a weight it is nothing.
    const SMALLEST: f32 = -86.0;
    // Added to a small number, it leaves that number rounded to an integer in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0;
    // ln 2 in two parts, the first of few bits, so that its multiples are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Cephes' minimax polynomial for (exp(r) - 1 - r) / r^2 where |r| <= ln(2) / 2.
    const COEFFICIENTS: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let constant = |value: f32| simd.splat_f32s(value);
    let x = simd.max_f32s(x, constant(SMALLEST));
    let shifted = simd.mul_add_e_f32s(x, constant(std::f32::consts::LOG2_E), constant(ROUNDER));
    let n = simd.sub_f32s(shifted, constant(ROUNDER));
    let r = simd.mul_add_e_f32s(n, constant(-LN_2[0]), x);
    let r = simd.mul_add_e_f32s(n, constant(-LN_2[1]), r);
    let mut polynomial = constant(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = simd.mul_add_e_f32s(polynomial, r, constant(*coefficient));
    }
    let r_plus_one = simd.add_f32s(r, constant(1.0));
    let mantissa = simd.mul_add_e_f32s(polynomial, simd.mul_f32s(r, r), r_plus_one);
    // Times 2^n, by adding n to the exponent.
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(mantissa), exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectorised_exponential_is_right_to_two_units_in_the_last_place() {
        struct Exp<'a>(&'a mut [f32]);
        impl WithSimd for Exp<'_> {
            type Output = f32;

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) -> f32 {
                weigh(simd, self.0, 0.0)
            }
        }
        let inputs: Vec<f32> = (0..43_003u16).map(|i| f32::from(i) * -2e-3).collect();
        let mut values = inputs.clone();
        let sum = Arch::new().dispatch(Exp(&mut values));
        for (&x, &got) in inputs.iter().zip(&values).filter(|(x, _)| **x >= -86.0) {
            let wanted = f64::from(x).exp();
            assert!(
                (f64::from(got) - wanted).abs() <= 2.4e-7 * wanted,
                "exp({x}) is {got}"
            );
        }
        let wanted: f64 = inputs.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((f64::from(sum) - wanted).abs() < 1e-5 * wanted);
    }
}
