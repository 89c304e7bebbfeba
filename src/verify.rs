//! Whether an output is right: the conductor's own check, on elements the runner could not foresee.
//!
//! Two nets are cast. A projection sums every row of the output with random signs and compares it
//! with the same sum computed from the inputs (for a matmul, Freivalds' check: it covers every
//! element at the cost of a matrix-vector product). Single positions, all of them where they are
//! few, are compared one by one, where the bound is tightest. An output that was not written is
//! still poisoned with NaN and fails both.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use crate::input::{self, Data, Element, Values};
use crate::npy;
use crate::op::{Case, Expected, Role, allow_rounding};
use crate::protocol::{FaultKind, Request, Response};
use crate::report::Verification;
use crate::runner::{Conversation, Fault, signs};

/// Outputs of at most this many elements are compared whole, if the reference is cheap enough.
const WHOLE_ELEMENTS_MAX: u64 = 1 << 16;

/// Multiply-adds that the single positions of one check may cost.
const POSITIONS_COST_MAX: u64 = 1 << 24;

/// Positions taken where not all are, at least and at most.
const POSITIONS_MIN: u64 = 16;
const POSITIONS_MAX: u64 = 256;

/// What came of a check.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Right, with the evidence.
    Right(Verification),
    /// Wrong, with the evidence and one line that names the worst element.
    Wrong(Verification, String),
    /// The runner could not give its output.
    Refused(String),
}

/// A seed from the operating system, which no runner can foresee.
#[must_use]
#[allow(clippy::cast_possible_truncation)]
pub fn entropy() -> u32 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish() as u32
}

/// The input tensors of a case as the runner has them.
///
/// # Errors
/// When a file of the user's is missing, unreadable or of another shape.
pub fn inputs(case: &Case, seed: u32, data: &Data) -> crate::error::Result<Vec<Values>> {
    let tensors = case.tensors();
    (0u32..)
        .zip(&tensors)
        .filter(|(_, tensor)| tensor.role == Role::Input)
        .map(|(number, tensor)| {
            if let Some(values) = tensor.values(data, seed, number) {
                return Ok(values);
            }
            let files: &BTreeMap<String, PathBuf> = match data {
                Data::Files(files) => files,
                _ => unreachable!("only files are not generated"),
            };
            let path = files.get(tensor.name).ok_or_else(|| {
                crate::error::Error::usage(format!(
                    "no file was given for tensor {:?}",
                    tensor.name
                ))
            })?;
            let mut values = npy::read(path, &tensor.dims)?;
            tensor.check(&values)?;
            // The runner has them in the tensor's own type.
            for value in &mut values {
                *value = tensor.element.nearest(*value);
            }
            Ok(Values::Array(values))
        })
        .collect()
}

/// Which parts of an output are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Challenge {
    /// Chooses positions, rows and signs.
    pub seed: u32,
    /// The set of buffers whose output it is.
    pub set_index: u32,
    /// What the runner says it rounds its output to, where that is shorter than the dtype's own.
    pub output: Option<Element>,
}

/// Asks the runner for parts of its output and judges them. `challenge` decides which parts.
///
/// # Errors
/// When the runner dies.
pub fn check(
    runner: &mut dyn Conversation,
    case: &Case,
    inputs: &[Values],
    data: &Data,
    challenge: Challenge,
    silence: Duration,
) -> Result<Verdict, Fault> {
    let Challenge {
        seed: challenge,
        set_index,
        output,
    } = challenge;
    let op = case.op.op();
    let (row_count, columns) = op.output_rows(&case.shape);
    let positions = positions(case, challenge);
    let request = Request::Outputs {
        positions: positions.clone(),
        projection_seed: Some(challenge),
        all: false,
        set_index,
    };
    let (values, projection) = match runner.ask(&request, silence)? {
        Response::Outputs { values, projection } => (values, projection),
        Response::Error {
            kind: FaultKind::DeviceLost,
            message,
        } => return Err(Fault::new(message)),
        Response::Error { message, .. } => return Ok(Verdict::Refused(message)),
        _ => {
            return Ok(Verdict::Refused(
                "the runner answered with something else than outputs".to_owned(),
            ));
        }
    };
    if values.len() != positions.len() || projection.len() as u64 != row_count {
        return Ok(Verdict::Refused(format!(
            "the runner sent {} values and {} row sums; asked for {} and {row_count}",
            values.len(),
            projection.len(),
            positions.len()
        )));
    }

    // Operations that are exact on any data say so through a bound of zero of their own.
    let given = case.given(inputs, data);
    let rows = projected_rows(case, row_count, challenge);
    let mut expected_rows = op.project(given, &signs(challenge, columns), &rows);
    let mut expected = op.reference(given, &positions);
    if let Some(output) = output {
        allow_rounding(output, &mut expected, &mut expected_rows, columns);
    }

    let mut judge = Judge::default();
    // Every row must at least be finite, also those whose reference was not afforded.
    for (row, value) in projection.iter().enumerate() {
        if !value.is_finite() {
            judge.unwritten(row as u64);
        }
    }
    for (row, want) in rows.iter().zip(expected_rows) {
        let got = projection[usize::try_from(*row).unwrap_or(0)];
        judge.compare(|| format!("the signed sum of row {row}"), got, want);
    }
    judge.elements = true;
    for ((position, got), want) in positions.iter().zip(values).zip(expected) {
        judge.compare(
            || {
                format!(
                    "element {} of row {}",
                    position % columns,
                    position / columns
                )
            },
            got,
            want,
        );
    }
    let whole = positions.len() as u64 == case.output().len();
    let verification = Verification {
        method: match (whole, rows.len() as u64 == row_count) {
            (true, _) => "every element",
            (false, true) => "projection of every row, sampled elements",
            (false, false) => "projection of sampled rows, sampled elements",
        }
        .to_owned(),
        data: case.data_label(data).to_owned(),
        exact: given.exact,
        max_error: judge.max_error,
        rms_error: judge.rms_error(),
        tolerance: judge.tolerance,
        error_to_tolerance_max: judge.worst_ratio.min(f64::MAX),
        positions_checked: positions.len() as u64,
        rows_checked: rows.len() as u64,
        challenge_seed: challenge,
    };
    Ok(match judge.complaint {
        None => Verdict::Right(verification),
        Some(complaint) => Verdict::Wrong(verification, complaint),
    })
}

/// Collects the differences of one check.
#[derive(Default)]
struct Judge {
    elements: bool,
    max_error: f64,
    squares: f64,
    count: u32,
    tolerance: f64,
    worst_ratio: f64,
    complaint: Option<String>,
}

impl Judge {
    fn unwritten(&mut self, row: u64) {
        if self.complaint.is_none() {
            self.complaint = Some(format!(
                "row {row} holds an element that is not finite or was never written"
            ));
        }
        self.worst_ratio = f64::MAX;
    }

    fn compare(&mut self, place: impl Fn() -> String, got: f64, want: Expected) {
        let error = (got - want.value).abs();
        let within = error <= want.bound;
        let ratio = if want.bound > 0.0 {
            error / want.bound
        } else if error == 0.0 {
            0.0
        } else {
            f64::MAX
        };
        if error.is_finite() && self.elements {
            self.squares += error * error;
            self.count += 1;
            if error >= self.max_error {
                (self.max_error, self.tolerance) = (error, want.bound);
            }
        }
        // NaN compares false with everything, so `within` is the test that catches it.
        if !within && (self.complaint.is_none() || ratio > self.worst_ratio) {
            self.complaint = Some(format!(
                "{} is {got:e}; expected {:e} within {:e}",
                place(),
                want.value,
                want.bound
            ));
        }
        if ratio.is_finite() {
            self.worst_ratio = self.worst_ratio.max(ratio);
        }
    }

    fn rms_error(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            (self.squares / f64::from(self.count)).sqrt()
        }
    }
}

/// Draws from `0..below` by the challenge's stream.
fn draw(challenge: u32, stream: u32, count: u64, below: u64) -> Vec<u64> {
    let keys = input::keys(challenge, stream);
    (0..count)
        .map(|i| {
            let i = u32::try_from(i).unwrap_or(u32::MAX);
            // Two words, so that positions beyond 2^32 draws of bias do not matter.
            let wide = (u64::from(input::word(keys, 2 * i)) << 32)
                | u64::from(input::word(keys, 2 * i + 1));
            wide % below
        })
        .collect()
}

/// All positions where they are few; else both ends, where wrong bounds show, and random ones.
fn positions(case: &Case, challenge: u32) -> Vec<u64> {
    let len = case.output().len();
    let op = case.op.op();
    let (rows, columns) = op.output_rows(&case.shape);
    let affordable = POSITIONS_COST_MAX / op.reference_cost(&case.shape).max(1);
    // Where a whole row costs as much as one element, the row is the unit.
    let units = if op.reference_is_by_row() { rows } else { len };
    if len <= WHOLE_ELEMENTS_MAX && units <= affordable {
        return (0..len).collect();
    }
    let count = affordable.clamp(POSITIONS_MIN, POSITIONS_MAX);
    let mut chosen = draw(challenge, 1, count, len);
    chosen.extend([0, columns.min(len) - 1, len - columns.min(len), len - 1]);
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

fn projected_rows(case: &Case, row_count: u64, challenge: u32) -> Vec<u64> {
    let count = case.op.op().projected_rows(&case.shape);
    if count >= row_count {
        return (0..row_count).collect();
    }
    let mut rows = draw(challenge, 2, count, row_count);
    rows.extend([0, row_count - 1]);
    rows.sort_unstable();
    rows.dedup();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Dtype, OpName, Shape};

    /// A runner that has this output and knows nothing else.
    struct Has(Case, Vec<f64>);

    impl Conversation for Has {
        fn ask(&mut self, request: &Request, _timeout: Duration) -> Result<Response, Fault> {
            match request {
                Request::Outputs {
                    positions,
                    projection_seed,
                    all,
                    ..
                } => Ok(crate::runner::outputs(
                    &self.0,
                    self.1.len() as u64,
                    |index| self.1[index],
                    positions,
                    *projection_seed,
                    *all,
                )),
                _ => Err(Fault::new("it has an output and knows nothing else")),
            }
        }
    }

    /// Whether this output is right for the case on uniform data of seed 1, by a runner that says it
    /// rounds to `output`.
    fn is_right(case: &Case, values: &[f64], output: Option<Element>) -> bool {
        let inputs = inputs(case, 1, &Data::Uniform).unwrap();
        let challenge = Challenge {
            seed: entropy(),
            set_index: 0,
            output,
        };
        let mut runner = Has(case.clone(), values.to_vec());
        let silence = Duration::from_secs(1);
        let verdict = check(
            &mut runner,
            case,
            &inputs,
            &Data::Uniform,
            challenge,
            silence,
        );
        matches!(verdict, Ok(Verdict::Right(_)))
    }

    #[test]
    fn an_output_rounded_to_f16_is_right_only_where_that_is_said() {
        let f16 = Some(Element::F16);
        let matmul = Shape::of(&[("m", 64), ("n", 192), ("k", 512)]);
        let attention = Shape::of(&[("query_len", 64), ("kv_len", 192), ("head_dim", 64)]);
        for (op, shape) in [(OpName::Matmul, matmul), (OpName::Attention, attention)] {
            let case = Case::new(op, &shape, Dtype::F16).unwrap();
            let inputs = inputs(&case, 1, &Data::Uniform).unwrap();
            let positions: Vec<u64> = (0..case.output().len()).collect();
            let given = case.given(&inputs, &Data::Uniform);
            let exact: Vec<f64> = (op.op().reference(given, &positions).iter())
                .map(|expected| expected.value)
                .collect();
            #[allow(clippy::cast_possible_truncation)] // that is the point
            let rounded: Vec<f64> = exact
                .iter()
                .map(|&value| f64::from(Element::F16.nearest(value as f32)))
                .collect();
            assert!(is_right(&case, &exact, None));
            assert!(is_right(&case, &rounded, f16));
            // Of attention, weights in f16 may differ as much.
            assert!(op == OpName::Attention || !is_right(&case, &rounded, None));
            // Rounded more than it says: to the 8 bits of bfloat16.
            let coarse: Vec<f64> = exact
                .iter()
                .map(|&value| f64::from(half::bf16::from_f64(value).to_f32()))
                .collect();
            assert!(!is_right(&case, &coarse, f16), "{op}");
        }
    }

    #[test]
    fn one_element_in_the_wrong_place_of_a_large_rounded_output_is_seen_in_its_row() {
        let shape = Shape::of(&[("m", 300), ("n", 400), ("k", 64)]);
        let case = Case::new(OpName::Matmul, &shape, Dtype::F16).unwrap();
        let inputs = inputs(&case, 1, &Data::Uniform).unwrap();
        let positions: Vec<u64> = (0..case.output().len()).collect();
        let given = case.given(&inputs, &Data::Uniform);
        let mut values: Vec<f64> = (case.op.op().reference(given, &positions).iter())
            .map(|expected| expected.value)
            .collect();
        assert!(is_right(&case, &values, Some(Element::F16)));
        // Two elements of one row change places; which of them are looked at singly is chance.
        let row = 150 * 400;
        let far = (0..400)
            .max_by(|&a, &b| {
                let away = |column: usize| (values[row + column] - values[row]).abs();
                away(a).total_cmp(&away(b))
            })
            .unwrap();
        let missed = (0..50)
            .filter(|_| {
                let mut swapped = values.clone();
                swapped.swap(row, row + far);
                is_right(&case, &swapped, Some(Element::F16))
            })
            .count();
        // Equal signs hide a swap in the sum; that is every second challenge.
        assert!(missed < 45, "missed {missed} of 50");
        values[row + far] = 0.0;
        assert!(!is_right(&case, &values, Some(Element::F16)));
    }
}
