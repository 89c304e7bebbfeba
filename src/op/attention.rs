//! `O = softmax(Q K^T / sqrt(d)) V`, forward, with grouped-query heads and an optional causal mask.
//!
//! `q, o: [batch, heads, query_len, head_dim]`, `k, v: [batch, kv_heads, kv_len, head_dim]`. Query
//! head `h` reads key-value head `h / (heads / kv_heads)`. The causal mask is aligned to the end, so
//! that the last query sees every key: query `i` sees keys `0 ..= i + kv_len - query_len`. A query
//! that sees no key (possible when `query_len > kv_len`) yields zeros.
//!
//! # Pages
//!
//! Servers keep keys and values in pages of a few tokens, so that sequences of all lengths share a
//! memory without gaps. With a dimension `page` (tokens to a page) `k, v: [page_count, kv_heads,
//! page, head_dim]`, and a third input after them, `block_table: [batch, ceil(kv_len / page)]` of
//! 32-bit integers, says which physical page holds each page of a sequence: key `j` of sequence `b`
//! is number `j % page` of page `block_table[b, j / page]`. There are as many pages as entries, and
//! the table is a permutation of them, another one for each seed, so that every page is used and
//! none lies where the one before would suggest. What the last page of a sequence holds behind its
//! keys is not its own.
//!
//! Heads come before tokens, as TensorRT-LLM has it and FlashInfer can: what a workgroup reads is
//! one head of one page, which is then one piece of memory (4 KiB at 16 tokens of 128 numbers in
//! f16) and not as many as there are tokens. vLLM has tokens before heads, where pieces are single
//! rows. And a page of as many tokens as there are keys is the layout without pages.
//!
//! In f16 the inputs are binary16, while scores, softmax, sums and the output are binary32. A kernel
//! may round weights to binary16 before they meet V, as matrix units demand.

use rayon::prelude::*;

use super::{
    Dim, Dtype, Expected, F32_ROUNDOFF, Given, Op, Shape, Tensor, dot, signed_sum_factor,
    sum_error_factor, word,
};
use crate::error::{Error, Result};
use crate::input::{Data, Element, Permutation, Values};

/// Scaled dot-product attention.
pub struct Attention;

/// Queries are drawn from `[-4, 4)`: scores then have a standard deviation near 4/3, which makes
/// weights differ by factors as in a real model instead of all being nearly `1 / kv_len`.
const QUERY_SCALE: f32 = 4.0;

/// The largest head dimension the kernels are written for.
pub const HEAD_DIM_MAX: u64 = 256;

/// Multiply-adds one verification may spend on sampled rows.
const PROJECTION_COST_MAX: u64 = 1 << 24;

struct Sizes {
    batch: u64,
    heads: u64,
    kv_heads: u64,
    query_len: u64,
    kv_len: u64,
    head_dim: u64,
    causal: bool,
    /// Tokens to a page; 0 where keys are not in pages.
    page: u64,
}

impl Sizes {
    fn of(shape: &Shape) -> Self {
        Self {
            batch: shape.get("batch"),
            heads: shape.get("heads"),
            kv_heads: shape.get("kv_heads"),
            query_len: shape.get("query_len"),
            kv_len: shape.get("kv_len"),
            head_dim: shape.get("head_dim"),
            causal: shape.get("causal") == 1,
            page: shape.get("page"),
        }
    }

    /// How many pages the keys of a sequence take; none where they are not in pages.
    fn pages_each(&self) -> u64 {
        if self.page == 0 {
            0
        } else {
            self.kv_len.div_ceil(self.page)
        }
    }

    /// Where the row of a key, and that of its value, begins.
    fn key_start(&self, inputs: &[Values], batch: u64, kv_head: u64, key: u64) -> u64 {
        let row = match (key.checked_div(self.page), inputs.get(3)) {
            (Some(page), Some(table)) => {
                // Whole numbers that f32 holds exactly; a table of the user's has been checked.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let page = table.get(batch * self.pages_each() + page) as u64;
                (page * self.kv_heads + kv_head) * self.page + key % self.page
            }
            _ => (batch * self.kv_heads + kv_head) * self.kv_len + key,
        };
        row * self.head_dim
    }

    /// How many keys query `index` sees.
    fn visible(&self, index: u64) -> u64 {
        if self.causal {
            (index + 1 + self.kv_len).saturating_sub(self.query_len)
        } else {
            self.kv_len
        }
    }

    /// Pairs of query and key that are not masked, for one head.
    fn visible_pairs(&self) -> u64 {
        if !self.causal {
            return self.query_len * self.kv_len;
        }
        // Rows that see something form an arithmetic series that ends at kv_len.
        let rows = self.query_len.min(self.kv_len);
        let first = self.kv_len - rows + 1;
        rows * (first + self.kv_len) / 2
    }

    #[allow(clippy::cast_precision_loss)]
    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// One row of the output: its elements, the sums of weighted magnitudes, and the relative error
/// that rounding may have left in them.
struct Row {
    values: Vec<f64>,
    magnitudes: Vec<f64>,
    relative: f64,
    /// Sums of squares of what rounding the weights to short numbers may change; none where they
    /// are not.
    rounded: Vec<f64>,
}

impl Row {
    fn bound(&self, column: usize) -> f64 {
        // Errors of single weights have random signs.
        let weights = self.rounded.get(column).copied().unwrap_or(0.0);
        self.relative * self.magnitudes[column] + 6.0 * weights.sqrt()
    }
}

/// One output row in f64. Two passes over the keys, as the definition reads.
fn row(sizes: &Sizes, dtype: Dtype, inputs: &[Values], row: u64) -> Row {
    let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
    let d = sizes.head_dim;
    let (batch_head, query) = (row / sizes.query_len, row % sizes.query_len);
    let (batch, head) = (batch_head / sizes.heads, batch_head % sizes.heads);
    let kv_head = head / (sizes.heads / sizes.kv_heads);
    let start = |key: u64| sizes.key_start(inputs, batch, kv_head, key);
    let query_values: Vec<f64> = (0..d).map(|i| f64::from(q.get(row * d + i))).collect();
    let visible = sizes.visible(query);

    let mut score_magnitude = 0.0f64;
    let scores: Vec<f64> = (0..visible)
        .map(|key| {
            let (sum, magnitude) = dot(query_values
                .iter()
                .zip(start(key)..)
                .map(|(&a, i)| (a, f64::from(k.get(i)))));
            score_magnitude = score_magnitude.max(magnitude * sizes.scale());
            sum * sizes.scale()
        })
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = scores.iter().copied().fold(f64::INFINITY, f64::min);

    let width = usize::try_from(d).unwrap_or(0);
    let (mut values, mut magnitudes, mut total) = (vec![0.0; width], vec![0.0; width], 0.0);
    // Matrix units take the weights in the type of the inputs.
    let short = matches!(dtype.input(), Element::F16 | Element::Bf16);
    let (roundoff, tiny) = dtype.input().roundoff();
    let mut rounded = vec![0.0; if short { width } else { 0 }];
    for (key, score) in (0u64..).zip(&scores) {
        let weight = (score - largest).exp();
        total += weight;
        let error = if weight < tiny {
            weight
        } else {
            weight * roundoff
        };
        for (column, index) in (0..width).zip(start(key)..) {
            let value = f64::from(v.get(index));
            values[column] += weight * value;
            magnitudes[column] += weight * value.abs();
            if let Some(rounded) = rounded.get_mut(column) {
                *rounded += (error * value).powi(2);
            }
        }
    }
    if visible > 0 {
        for column in 0..width {
            values[column] /= total;
            magnitudes[column] /= total;
        }
        for rounded in &mut rounded {
            *rounded /= total * total;
        }
    }
    // Where f32 loses: the dot product of a score, the exponential (Vulkan allows 3 + 2|x| units in
    // the last place for exp, each up to two roundoffs), both of them in numerator and denominator,
    // and the weighted sum over the keys.
    let range = if visible > 0 { largest - smallest } else { 0.0 };
    let weight_error = sum_error_factor(d) * score_magnitude + 2.0 * (3.0 + 2.0 * range);
    Row {
        values,
        magnitudes,
        rounded,
        relative: F32_ROUNDOFF * (2.0 * weight_error + sum_error_factor(visible.max(1)) + 8.0),
    }
}

impl Op for Attention {
    fn dims(&self) -> &'static [Dim] {
        const {
            &[
                Dim::size("batch", "b", Some(1)),
                Dim::size("heads", "h", Some(1)),
                Dim::size("kv_heads", "kv", Some(1)),
                Dim::size("query_len", "q", None),
                Dim::size("kv_len", "l", None),
                Dim::size("head_dim", "d", None),
                Dim::flag("causal"),
                Dim::optional("page", "page"),
            ]
        }
    }

    fn dtypes(&self) -> &'static [Dtype] {
        &[Dtype::F32, Dtype::F16, Dtype::Bf16]
    }

    fn check(&self, shape: &Shape, _dtype: Dtype) -> Result<()> {
        let s = Sizes::of(shape);
        if !s.heads.is_multiple_of(s.kv_heads) {
            return Err(Error::usage(format!(
                "attention heads ({}) must be a multiple of kv_heads ({})",
                s.heads, s.kv_heads
            )));
        }
        if s.head_dim > HEAD_DIM_MAX {
            return Err(Error::usage(format!(
                "attention head_dim must be at most {HEAD_DIM_MAX}, not {}",
                s.head_dim
            )));
        }
        [s.batch, s.heads, s.query_len, s.kv_len, s.head_dim, 4]
            .iter()
            .try_fold(1u64, |n, &size| n.checked_mul(size))
            .ok_or_else(|| {
                Error::usage("attention of this shape has more operations than can be counted")
            })?;
        let pages = s.batch * s.pages_each();
        if pages > u64::from(Permutation::COUNT_MAX) {
            return Err(Error::usage(format!(
                "attention keys and values may lie in at most {} pages, not {pages}",
                Permutation::COUNT_MAX
            )));
        }
        Ok(())
    }

    fn tensors(&self, shape: &Shape, dtype: Dtype) -> Vec<Tensor> {
        let s = Sizes::of(shape);
        let pages = s.batch * s.pages_each();
        let kv = if s.page == 0 {
            [s.batch, s.kv_heads, s.kv_len, s.head_dim]
        } else {
            [pages, s.kv_heads, s.page, s.head_dim]
        };
        let query = [s.batch, s.heads, s.query_len, s.head_dim];
        let table = (s.page > 0).then(|| Tensor {
            always: Some(Data::Permutation(word(pages))),
            ..Tensor::input("block_table", &[s.batch, s.pages_each()], Element::I32)
        });
        [
            Tensor {
                scale: QUERY_SCALE,
                ..Tensor::input("q", &query, dtype.input())
            },
            Tensor::input("k", &kv, dtype.input()),
            Tensor::input("v", &kv, dtype.input()),
        ]
        .into_iter()
        .chain(table)
        .chain([Tensor::output("o", &query, dtype.output())])
        .collect()
    }

    #[allow(clippy::cast_possible_truncation)] // the scale is meant to be an f32
    fn params(&self, shape: &Shape, _dtype: Dtype) -> Vec<u32> {
        let s = Sizes::of(shape);
        let mut words = vec![
            word(s.heads),
            word(s.kv_heads),
            word(s.query_len),
            word(s.kv_len),
            word(s.head_dim),
            u32::from(s.causal),
            (s.scale() as f32).to_bits(),
            word(s.batch),
        ];
        if s.page > 0 {
            words.extend([word(s.page), word(s.pages_each()), 0, 0]);
        }
        words
    }

    fn extent(&self, shape: &Shape, name: &str) -> u64 {
        let s = Sizes::of(shape);
        match name {
            "batch_heads" => s.batch * s.heads,
            "batch_kv_heads" => s.batch * s.kv_heads,
            // Rows of the output that read the same keys.
            "group_rows" => s.heads / s.kv_heads * s.query_len,
            // For each row of the output, one of sums, and the state of a softmax as a vector.
            "partial_rows" => s.batch * s.heads * s.query_len * (s.head_dim + 4),
            "keys_and_values" => 2 * s.batch * s.kv_heads * s.kv_len * s.head_dim,
            "query_rows" => s.batch * s.heads * s.query_len,
            "scores" => s.batch * s.heads * s.query_len * s.kv_len,
            _ => shape.get(name),
        }
    }

    fn summed(&self) -> Option<&'static str> {
        Some("kv_len")
    }

    fn flop_count(&self, shape: &Shape) -> u64 {
        let s = Sizes::of(shape);
        4 * s.batch * s.heads * s.head_dim * s.visible_pairs()
    }

    fn bytes_min(&self, shape: &Shape, dtype: Dtype) -> u64 {
        let s = Sizes::of(shape);
        let queries = s.heads * s.query_len;
        // A causal mask over more queries than keys still reads every key.
        let keys = 2 * s.kv_heads * s.kv_len;
        let rows = s.batch * s.head_dim;
        // Of pages what the keys take of them, and the table.
        let table = Element::I32.bytes(s.batch * s.pages_each());
        dtype.input().bytes(rows * (queries + keys)) + dtype.output().bytes(rows * queries) + table
    }

    fn output_rows(&self, shape: &Shape) -> (u64, u64) {
        (self.extent(shape, "query_rows"), shape.get("head_dim"))
    }

    fn reference_cost(&self, shape: &Shape) -> u64 {
        2 * shape.get("kv_len") * shape.get("head_dim")
    }

    fn reference_is_by_row(&self) -> bool {
        true
    }

    fn projected_rows(&self, shape: &Shape) -> u64 {
        let rows = self.output_rows(shape).0;
        rows.min((PROJECTION_COST_MAX / self.reference_cost(shape)).max(16))
    }

    /// The exponential is never exact.
    fn exact(&self, _shape: &Shape, _dtype: Dtype) -> bool {
        false
    }

    fn reference(&self, given: Given<'_>, positions: &[u64]) -> Vec<Expected> {
        let sizes = Sizes::of(given.shape);
        let d = sizes.head_dim;
        let mut wanted: Vec<u64> = positions.iter().map(|position| position / d).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let rows: Vec<Row> = wanted
            .par_iter()
            .map(|&index| row(&sizes, given.dtype, given.inputs, index))
            .collect();
        positions
            .iter()
            .map(|position| {
                let at = wanted.partition_point(|&index| index < position / d);
                let column = usize::try_from(position % d).unwrap_or(0);
                Expected {
                    value: rows[at].values[column],
                    bound: rows[at].bound(column),
                }
            })
            .collect()
    }

    fn project(&self, given: Given<'_>, signs: &[f64], rows: &[u64]) -> Vec<Expected> {
        let sizes = Sizes::of(given.shape);
        rows.par_iter()
            .map(|&index| {
                let row = row(&sizes, given.dtype, given.inputs, index);
                Expected {
                    value: row
                        .values
                        .iter()
                        .zip(signs)
                        .map(|(value, sign)| value * sign)
                        .sum(),
                    bound: signed_sum_factor(sizes.head_dim)
                        * (0..row.values.len())
                            .map(|column| row.bound(column).powi(2))
                            .sum::<f64>()
                            .sqrt(),
                }
            })
            .collect()
    }

    fn shrink(&self, shape: &Shape) -> Option<Shape> {
        let s = Sizes::of(shape);
        if s.query_len >= 64 && s.kv_len >= 64 {
            Some(
                shape
                    .with("query_len", s.query_len / 2)
                    .with("kv_len", s.kv_len / 2),
            )
        } else if s.batch > 1 {
            Some(shape.with("batch", s.batch / 2))
        } else if s.kv_heads.is_multiple_of(2) {
            Some(
                shape
                    .with("heads", s.heads / 2)
                    .with("kv_heads", s.kv_heads / 2),
            )
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Data, keys};
    use crate::op::{Case, OpName};

    fn shape(query_len: u64, kv_len: u64, causal: u64) -> Shape {
        Shape::of(&[
            ("batch", 2),
            ("heads", 4),
            ("kv_heads", 2),
            ("query_len", query_len),
            ("kv_len", kv_len),
            ("head_dim", 8),
            ("causal", causal),
        ])
    }

    fn given<'a>(shape: &'a Shape, dtype: Dtype, inputs: &'a [Values]) -> Given<'a> {
        Given {
            shape,
            dtype,
            inputs,
            exact: false,
        }
    }

    #[test]
    fn the_bound_of_f16_covers_rounded_weights_and_shows_a_key_left_out() {
        let (kv_len, d) = (1024u64, 8u64);
        let sizes = [("query_len", 1), ("kv_len", kv_len), ("head_dim", d)];
        let case = Case::new(OpName::Attention, &Shape::of(&sizes), Dtype::F16).unwrap();
        let inputs: Vec<Values> = (0u32..)
            .zip(case.tensors())
            .take(3)
            .map(|(number, tensor)| tensor.values(&Data::Uniform, 3, number).unwrap())
            .collect();
        let positions: Vec<u64> = (0..d).collect();
        let expected = Attention.reference(case.given(&inputs, &Data::Uniform), &positions);
        let score = |key: u64| {
            (0..d)
                .map(|i| f64::from(inputs[0].get(i)) * f64::from(inputs[1].get(key * d + i)))
                .sum::<f64>()
                / (d as f64).sqrt()
        };
        let largest = (0..kv_len).map(score).fold(f64::NEG_INFINITY, f64::max);
        // The output without one key, its weights rounded as matrix units have them.
        let output = |left_out: Option<u64>, column: u64| {
            let (mut sum, mut total) = (0.0, 0.0);
            for key in (0..kv_len).filter(|key| Some(*key) != left_out) {
                let weight = (score(key) - largest).exp();
                #[allow(clippy::cast_possible_truncation)] // that is the point
                let short = f64::from(Element::F16.nearest(weight as f32));
                total += weight;
                sum += short * f64::from(inputs[2].get(key * d + column));
            }
            sum / total
        };
        let within = |left_out: Option<u64>, column: u64| {
            let wanted = expected[usize::try_from(column).unwrap()];
            (output(left_out, column) - wanted.value).abs() <= wanted.bound
        };
        assert!((0..d).all(|column| within(None, column)));
        // A key of average weight: if one column is close by chance, another is not.
        let average = (0..kv_len).min_by(|&a, &b| {
            let away = |key| ((score(key) - largest).exp() - 0.02).abs();
            away(a).total_cmp(&away(b))
        });
        assert!(!(0..d).all(|column| within(average, column)));
    }

    #[test]
    fn causal_work_counts_exactly_the_visible_pairs() {
        for (query_len, kv_len) in [(1, 1), (5, 5), (3, 9), (9, 3), (1, 17)] {
            let sizes = Sizes::of(&shape(query_len, kv_len, 1));
            let counted: u64 = (0..query_len).map(|i| sizes.visible(i)).sum();
            assert_eq!(sizes.visible_pairs(), counted, "q {query_len} l {kv_len}");
        }
    }

    /// Inputs of a case as a runner has them.
    fn inputs_of(case: &Case, seed: u32) -> Vec<Values> {
        (0u32..)
            .zip(case.tensors())
            .take(case.tensors().len() - 1)
            .map(|(number, tensor)| tensor.values(&Data::Uniform, seed, number).unwrap())
            .collect()
    }

    #[test]
    fn a_paged_case_is_the_one_whose_keys_were_gathered_by_hand() {
        for (kv_len, page) in [(35, 16), (5, 16), (48, 16), (21, 7), (9, 1)] {
            for causal in [0, 1] {
                let whole = shape(3, kv_len, causal);
                let case =
                    Case::new(OpName::Attention, &whole.with("page", page), Dtype::F32).unwrap();
                let inputs = inputs_of(&case, 5);
                let (pages, d) = (kv_len.div_ceil(page), 8);
                let gather = |tensor: &Values| {
                    let mut rows = Vec::new();
                    for (batch, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        for key in 0..kv_len {
                            let entry = inputs[3].get(batch * pages + key / page);
                            // Pages, heads, tokens, elements.
                            let at = ((entry as u64 * 2 + head) * page + key % page) * d;
                            rows.extend((at..at + d).map(|index| tensor.get(index)));
                        }
                    }
                    Values::Array(rows)
                };
                let gathered = [inputs[0].clone(), gather(&inputs[1]), gather(&inputs[2])];
                let positions: Vec<u64> = (0..8 * 3 * d).collect();
                assert_eq!(
                    Attention.reference(case.given(&inputs, &Data::Uniform), &positions),
                    Attention.reference(given(&whole, Dtype::F32, &gathered), &positions),
                    "l {kv_len} page {page} causal {causal}"
                );
            }
        }
    }

    #[test]
    fn pages_cost_their_table_and_nothing_of_the_last_one_that_is_not_a_key() {
        let whole = Case::new(OpName::Attention, &shape(1, 35, 0), Dtype::F16).unwrap();
        let paged = shape(1, 35, 0).with("page", 16);
        let paged = Case::new(OpName::Attention, &paged, Dtype::F16).unwrap();
        // Two sequences of three pages, each an entry of four bytes.
        assert_eq!(paged.bytes_min(), whole.bytes_min() + 2 * 3 * 4);
        assert_eq!(paged.flop_count(), whole.flop_count());
        assert_eq!(paged.tensors()[1].dims, [6, 2, 16, 8]);
        assert_eq!(paged.tensors()[3].dims, [2, 3]);
        assert_eq!(paged.tensors().len(), 5);
    }

    #[test]
    fn the_table_names_every_page_once_whatever_data_is_asked_for() {
        let shape = shape(1, 35, 0).with("page", 4);
        let case = Case::new(OpName::Attention, &shape, Dtype::F32).unwrap();
        let table = &case.tensors()[3];
        let entries = |data: &Data, seed: u32| -> Vec<u32> {
            let values = table.values(data, seed, 3).unwrap();
            (0..table.len()).map(|i| values.get(i) as u32).collect()
        };
        for data in [Data::Uniform, Data::Integer, Data::Zero] {
            let mut found = entries(&data, 9);
            assert_eq!(found, entries(&Data::Uniform, 9));
            found.sort_unstable();
            assert!(found.into_iter().eq(0..18));
        }
        assert_ne!(entries(&Data::Uniform, 9), entries(&Data::Uniform, 10));
    }

    #[test]
    fn a_table_that_names_a_page_that_is_not_there_is_refused() {
        let shape = shape(1, 35, 0).with("page", 16);
        let case = Case::new(OpName::Attention, &shape, Dtype::F32).unwrap();
        let table = &case.tensors()[3];
        // Sequences may share a page.
        assert!(table.check(&[0.0, 1.0, 2.0, 0.0, 4.0, 5.0]).is_ok());
        for bad in [6.0, -1.0, 0.5, f32::NAN] {
            let message = table.check(&[0.0, bad]).unwrap_err().message;
            assert!(message.contains("from 0 to 5"), "{message}");
        }
        assert!(case.tensors()[1].check(&[0.5]).is_ok());
    }

    #[test]
    fn more_pages_than_a_table_can_name_are_refused_with_both_numbers() {
        let sizes = [("query_len", 1), ("kv_len", (1 << 24) + 1), ("head_dim", 1)];
        let shape = Shape::of(&sizes);
        let refused = Case::new(OpName::Attention, &shape.with("page", 1), Dtype::F32).unwrap_err();
        assert!(refused.message.contains("16777216 pages, not 16777217"));
        assert!(Case::new(OpName::Attention, &shape.with("page", 2), Dtype::F32).is_ok());
    }

    #[test]
    fn equal_keys_give_the_mean_of_the_visible_values() {
        // Zero queries make all scores equal, so each output is a plain mean.
        let shape = shape(3, 5, 1);
        let v = Values::Integer(keys(4, 2));
        let inputs = vec![Values::Zero, Values::Integer(keys(4, 1)), v.clone()];
        let positions: Vec<u64> = (0..8 * 3 * 8).collect();
        for (position, got) in positions
            .iter()
            .zip(Attention.reference(given(&shape, Dtype::F32, &inputs), &positions))
        {
            let (row, column) = (position / 8, position % 8);
            let (head, query) = (row / 3, row % 3);
            let kv_head = (head / 4) * 2 + (head % 4) / 2;
            let visible = query + 3;
            let mean = (0..visible)
                .map(|key| f64::from(v.get((kv_head * 5 + key) * 8 + column)))
                .sum::<f64>()
                / f64::from(u32::try_from(visible).unwrap());
            assert!((got.value - mean).abs() < 1e-12);
        }
    }

    #[test]
    fn a_query_that_sees_no_key_yields_zero() {
        let inputs: Vec<Values> = (0..3)
            .map(|t| Values::Uniform(keys(1, t), 1.0, Element::F32))
            .collect();
        let shape = shape(4, 2, 1);
        let got = Attention.reference(given(&shape, Dtype::F16, &inputs), &[0, 8]);
        assert!(got.iter().all(|expected| expected.value == 0.0));
    }
}
