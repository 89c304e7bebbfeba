//! From times to figures that can be compared: rates, ceilings and the fraction of them achieved.

use crate::op::{Case, Dtype, OpName};
use crate::report::{Ceiling, Outcome, OutcomeStatus};

/// Measured fractions may exceed one by this much before they are not believed: two medians of one
/// device a minute apart differ by about as much.
const PLAUSIBLE_FRACTION_MAX: f64 = 1.02;

/// A copy writes as much as it reads, and processors read a line before they write it, so a case
/// that only reads may move its bytes at up to twice the rate of a copy.
const READ_OVER_COPY_MAX: f64 = 2.0;

/// Fused multiply-adds in f32 by the ordinary units, two operations each.
pub const ALU_F32: &str = "alu_f32";
/// The same in f16.
pub const ALU_F16: &str = "alu_f16";
/// Multiply-adds of 32-bit integers, two operations each.
pub const ALU_I32: &str = "alu_i32";
/// Dot products of four 8-bit integers, eight operations each.
pub const ALU_I8: &str = "alu_i8";
/// Products of f16 matrices by matrix units, summed in f32.
pub const MATRIX_F16: &str = "matrix_f16";
/// The same summed in f16.
pub const MATRIX_F16_F16: &str = "matrix_f16_f16";
/// Products of f32 matrices by matrix units.
pub const MATRIX_F32: &str = "matrix_f32";
/// Bytes per second that all workgroups together read from workgroup memory.
pub const WORKGROUP_MEMORY: &str = "workgroup_memory";
/// Bytes read and written per second by a copy far larger than any cache.
pub const MEMORY_COPY: &str = "memory_copy";
/// Seconds of one launch of an empty kernel.
pub const LAUNCH_LATENCY: &str = "launch_latency";

/// What a case asks of a device.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    op: OpName,
    dtype: Dtype,
    flop_count: u64,
    bytes_min: u64,
    /// The units that do it, `alu` or `matrix`, once that is known.
    engine: Option<&'a str>,
}

impl<'a> Work<'a> {
    /// The work of a case before it is known who does it.
    #[must_use]
    pub fn of(case: &Case) -> Self {
        Self {
            op: case.op,
            dtype: case.dtype,
            flop_count: case.flop_count(),
            bytes_min: case.bytes_min(),
            engine: None,
        }
    }

    fn done(outcome: &'a Outcome) -> Self {
        Self {
            op: outcome.op,
            dtype: outcome.dtype,
            flop_count: outcome.flop_count,
            bytes_min: outcome.bytes_min,
            engine: outcome.labels.as_ref().map(|labels| &*labels.engine),
        }
    }

    /// The ceilings of its arithmetic; the highest of them binds. Numbers in f16 may be multiplied
    /// in f32 as well, and bytes as 32-bit integers, where that is faster; a probe is measured
    /// against nothing but its own kind.
    fn arithmetic(&self) -> &'static [&'static str] {
        const ALU: &str = "alu";
        const MATRIX: &str = "matrix";
        match (self.op, self.dtype, self.engine) {
            (OpName::Fma, Dtype::F16 | Dtype::F16F16, _) => &[ALU_F16],
            (OpName::Dot4, ..) => &[ALU_I8],
            (OpName::Fma, Dtype::F32, _) | (_, Dtype::F32, Some(ALU)) => &[ALU_F32],
            (OpName::MatrixFma, Dtype::F32, _) | (_, Dtype::F32, Some(MATRIX)) => &[MATRIX_F32],
            (OpName::MatrixFma, Dtype::F16, _) | (_, Dtype::F16, Some(MATRIX)) => &[MATRIX_F16],
            (OpName::MatrixFma, Dtype::F16F16, _) | (_, Dtype::F16F16, Some(MATRIX)) => {
                &[MATRIX_F16_F16]
            }
            (_, Dtype::F16 | Dtype::F16F16, Some(ALU)) => &[ALU_F16, ALU_F32],
            (_, Dtype::F32, _) => &[ALU_F32, MATRIX_F32],
            (_, Dtype::F16, _) => &[ALU_F16, ALU_F32, MATRIX_F16],
            (_, Dtype::F16F16, _) => &[ALU_F16, ALU_F32, MATRIX_F16, MATRIX_F16_F16],
            (_, Dtype::I32, _) => &[ALU_I32],
            (_, Dtype::I8, _) => &[ALU_I8, ALU_I32],
        }
    }

    /// The ceiling of its bytes.
    fn memory(&self) -> &'static str {
        match self.op {
            OpName::WorkgroupRead => WORKGROUP_MEMORY,
            _ => MEMORY_COPY,
        }
    }
}

/// Name and unit of the ceiling that a probe of arithmetic gives.
fn arithmetic_ceiling(op: OpName, dtype: Dtype) -> Option<(&'static str, &'static str)> {
    const FLOATING: &str = "flop_per_s";
    const INTEGER: &str = "op_per_s";
    match (op, dtype) {
        (OpName::Fma, Dtype::F32) => Some((ALU_F32, FLOATING)),
        (OpName::Fma, Dtype::F16) => Some((ALU_F16, FLOATING)),
        (OpName::Fma, Dtype::I32) => Some((ALU_I32, INTEGER)),
        (OpName::Dot4, Dtype::I8) => Some((ALU_I8, INTEGER)),
        (OpName::MatrixFma, Dtype::F16) => Some((MATRIX_F16, FLOATING)),
        (OpName::MatrixFma, Dtype::F16F16) => Some((MATRIX_F16_F16, FLOATING)),
        (OpName::MatrixFma, Dtype::F32) => Some((MATRIX_F32, FLOATING)),
        _ => None,
    }
}

/// Whether `probe` gives a ceiling that `case` is measured against.
#[must_use]
pub fn bounds(probe: &Case, case: &Case) -> bool {
    match probe.op {
        OpName::Fma | OpName::Dot4 | OpName::MatrixFma => arithmetic_ceiling(probe.op, probe.dtype)
            .is_some_and(|(name, _)| Work::of(case).arithmetic().contains(&name)),
        OpName::WorkgroupRead => Work::of(case).memory() == WORKGROUP_MEMORY,
        op => op.is_probe(),
    }
}

/// The ceilings that the measured probes of `runner` give.
#[must_use]
pub fn ceilings(outcomes: &[Outcome], runner: &str) -> Vec<Ceiling> {
    let measured = |op: OpName| {
        outcomes.iter().filter(move |o| {
            o.op == op && o.runner == runner && o.status == OutcomeStatus::Measured
        })
    };
    let ceiling = |name: &str, unit: &str, found: Option<(&Outcome, f64)>| {
        found.map(|(outcome, value)| Ceiling {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            case_id: outcome.case_id.clone(),
            runner: runner.to_owned(),
        })
    };
    let by_value = |a: &(&Outcome, f64), b: &(&Outcome, f64)| a.1.total_cmp(&b.1);
    let arithmetic = [OpName::Fma, OpName::Dot4, OpName::MatrixFma]
        .into_iter()
        .flat_map(|op| Dtype::ALL.map(|dtype| (op, dtype)))
        .filter_map(|(op, dtype)| {
            let (name, unit) = arithmetic_ceiling(op, dtype)?;
            let best = measured(op)
                .filter(|o| o.dtype == dtype)
                .filter_map(|o| Some((o, o.flops_per_second?)))
                .max_by(by_value);
            ceiling(name, unit, best)
        });
    let workgroup = measured(OpName::WorkgroupRead)
        .filter_map(|o| Some((o, o.bytes_per_second?)))
        .max_by(by_value);
    // The largest copy, not the fastest: a small one may live in a cache.
    let copy = measured(OpName::Copy)
        .max_by_key(|o| o.bytes_min)
        .and_then(|o| Some((o, o.bytes_per_second?)));
    let launch = measured(OpName::Empty)
        .filter_map(|o| Some((o, o.time_s.as_ref()?.median)))
        .min_by(by_value);
    arithmetic
        .chain(ceiling(WORKGROUP_MEMORY, "bytes_per_s", workgroup))
        .chain(ceiling(MEMORY_COPY, "bytes_per_s", copy))
        .chain(ceiling(LAUNCH_LATENCY, "s", launch))
        .collect()
}

/// The least seconds that the ceilings of `runner` allow for this much work, and the one that binds.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn roofline(
    work: &Work<'_>,
    ceilings: &[Ceiling],
    runner: &str,
) -> Option<(f64, &'static str)> {
    let time = |name: &'static str, amount: u64| {
        ceilings
            .iter()
            .find(|ceiling| ceiling.name == name && ceiling.runner == runner)
            .map(|ceiling| (amount as f64 / ceiling.value, name))
    };
    let arithmetic = work
        .arithmetic()
        .iter()
        .filter_map(|name| time(name, work.flop_count))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    let both = [arithmetic, time(work.memory(), work.bytes_min)];
    both.into_iter()
        .flatten()
        .filter(|(s, _)| *s > 0.0)
        .max_by(|a, b| a.0.total_cmp(&b.0))
}

/// Sets the rates of a measured outcome from its median time.
#[allow(clippy::cast_precision_loss)]
pub fn set_rates(outcome: &mut Outcome) {
    let Some(times) = &outcome.time_s else { return };
    let rate = |amount: u64| {
        (amount > 0)
            .then(|| amount as f64 / times.median)
            .filter(|rate| rate.is_finite())
    };
    outcome.flops_per_second = rate(outcome.flop_count);
    outcome.bytes_per_second = rate(outcome.bytes_min);
}

/// Sets the fraction of the ceiling on every measured outcome, and marks those that no device with
/// these ceilings can have reached.
pub fn set_fractions(outcomes: &mut [Outcome], ceilings: &[Ceiling]) {
    let copied: Vec<(String, u64)> = ceilings
        .iter()
        .filter(|ceiling| ceiling.name == MEMORY_COPY)
        .filter_map(|ceiling| {
            let copy = outcomes
                .iter()
                .find(|o| o.case_id == ceiling.case_id && o.runner == ceiling.runner)?;
            Some((ceiling.runner.clone(), copy.bytes_min))
        })
        .collect();
    // The gate is the most generous roofline: the probe's best sample and not its median.
    let generosity: Vec<(&str, &str, f64)> = ceilings
        .iter()
        .filter_map(|ceiling| {
            let probe = outcomes
                .iter()
                .find(|o| o.case_id == ceiling.case_id && o.runner == ceiling.runner)?;
            let times = probe.time_s.as_ref()?;
            let factor = if ceiling.name == MEMORY_COPY {
                READ_OVER_COPY_MAX
            } else {
                1.0
            };
            Some((
                ceiling.runner.as_str(),
                ceiling.name.as_str(),
                factor * times.median / times.min,
            ))
        })
        .collect();
    for outcome in outcomes
        .iter_mut()
        .filter(|o| o.status == OutcomeStatus::Measured)
    {
        let Some(times) = &outcome.time_s else {
            continue;
        };
        let found = roofline(&Work::done(outcome), ceilings, &outcome.runner);
        let Some((roofline_time_s, bound)) = found else {
            continue;
        };
        let fraction = roofline_time_s / times.median;
        outcome.roofline_time_s = Some(roofline_time_s);
        outcome.roofline_bound = Some(bound.to_owned());
        outcome.fraction_of_ceiling = Some(fraction);
        // Less than half of what the copy moved may stay in a cache that the copy overflowed.
        let copied_bytes = copied
            .iter()
            .find(|(runner, _)| *runner == outcome.runner)
            .map_or(0, |(_, bytes)| *bytes);
        let may_be_cached = bound == MEMORY_COPY && outcome.bytes_min < copied_bytes / 2;
        let generosity = generosity
            .iter()
            .find(|(runner, name, _)| *runner == outcome.runner && *name == bound);
        let fraction_max =
            PLAUSIBLE_FRACTION_MAX * generosity.map_or(1.0, |(_, _, factor)| *factor);
        if fraction > fraction_max && !may_be_cached {
            outcome.status = OutcomeStatus::Implausible;
            outcome.reason = Some(format!(
                "it took {:.3e} s, but {bound} allows no less than {roofline_time_s:.3e} s",
                times.median
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Shape;
    use crate::report::{Times, unmeasured};

    fn outcome(op: OpName, sizes: &[(&str, u64)], median: f64) -> Outcome {
        outcome_in(Dtype::F32, op, sizes, median)
    }

    fn outcome_in(dtype: Dtype, op: OpName, sizes: &[(&str, u64)], median: f64) -> Outcome {
        let case = Case::new(op, &Shape::of(sizes), dtype).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.time_s = Some(Times {
            median,
            ci95_low: median,
            ci95_high: median,
            min: median,
            max: median,
            q1: median,
            q3: median,
            samples: vec![median],
            repeat_count: 1,
            host_median: median,
            invalid_count: 0,
            ..Times::default()
        });
        set_rates(&mut outcome);
        outcome
    }

    /// 48 FLOP in 1 s per invocation and step; 8 bytes per copied element and second.
    fn probes() -> Vec<Outcome> {
        vec![
            outcome(OpName::Fma, &[("invocations", 1000), ("steps", 1000)], 1e-3),
            outcome(OpName::Copy, &[("n", 4)], 1e-9),
            outcome(OpName::Copy, &[("n", 1 << 20)], 1e-3),
        ]
    }

    #[test]
    fn the_memory_ceiling_is_the_largest_copy_and_not_the_fastest() {
        let ceilings = ceilings(&probes(), "wgpu");
        let copy = ceilings.iter().find(|c| c.name == MEMORY_COPY).unwrap();
        assert!(copy.case_id.contains("n1048576"), "{copy:?}");
    }

    #[test]
    fn every_probe_of_arithmetic_gives_a_ceiling_of_its_own() {
        let chains = [("invocations", 1000), ("steps", 1000)];
        let blocks = [("blocks", 1000), ("steps", 1000)];
        let outcomes = [
            outcome_in(Dtype::F32, OpName::Fma, &chains, 1e-3),
            outcome_in(Dtype::F16, OpName::Fma, &chains, 1e-4),
            outcome_in(Dtype::I32, OpName::Fma, &chains, 1e-2),
            outcome_in(Dtype::I8, OpName::Dot4, &chains, 1e-3),
            outcome_in(Dtype::F16, OpName::MatrixFma, &blocks, 1e-3),
            outcome_in(Dtype::F16F16, OpName::MatrixFma, &blocks, 1e-3),
            outcome_in(Dtype::F32, OpName::WorkgroupRead, &chains, 1e-3),
        ];
        let found: Vec<(String, String, f64)> = ceilings(&outcomes, "wgpu")
            .into_iter()
            .map(|c| (c.name, c.unit, c.value.round()))
            .collect();
        let expected = [
            (ALU_F32, "flop_per_s", 48e9),
            (ALU_F16, "flop_per_s", 480e9),
            (ALU_I32, "op_per_s", 4.8e9),
            (ALU_I8, "op_per_s", 192e9),
            (MATRIX_F16, "flop_per_s", 8.192e12),
            (MATRIX_F16_F16, "flop_per_s", 8.192e12),
            (WORKGROUP_MEMORY, "bytes_per_s", 16e9),
        ]
        .map(|(name, unit, value)| (name.to_owned(), unit.to_owned(), value));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_case_is_bound_by_the_ceiling_of_its_own_dtype_and_engine() {
        let ceilings: Vec<Ceiling> = [
            (ALU_F32, 10.0),
            (ALU_F16, 2.0),
            (ALU_I8, 40.0),
            (MATRIX_F16, 100.0),
            (MATRIX_F16_F16, 200.0),
            (WORKGROUP_MEMORY, 50.0),
            (MEMORY_COPY, 1e9),
        ]
        .map(|(name, value)| Ceiling {
            name: name.to_owned(),
            value,
            unit: String::new(),
            case_id: String::new(),
            runner: "wgpu".to_owned(),
        })
        .into();
        let bound = |op, dtype, engine| {
            let work = Work {
                op,
                dtype,
                flop_count: 1000,
                bytes_min: 1000,
                engine,
            };
            roofline(&work, &ceilings, "wgpu").map(|(_, name)| name)
        };
        let matmul = |dtype, engine| bound(OpName::Matmul, dtype, Some(engine));
        assert_eq!(matmul(Dtype::F32, "alu"), Some(ALU_F32));
        assert_eq!(matmul(Dtype::F16, "matrix"), Some(MATRIX_F16));
        assert_eq!(matmul(Dtype::F16F16, "matrix"), Some(MATRIX_F16_F16));
        // Where f16 is slow, a kernel that multiplies in f32 is not beyond what is possible.
        assert_eq!(matmul(Dtype::F16, "alu"), Some(ALU_F32));
        assert_eq!(matmul(Dtype::I8, "alu"), Some(ALU_I8));
        assert_eq!(bound(OpName::Fma, Dtype::F16, Some("alu")), Some(ALU_F16));
        // Nothing is known of matrix units in f32 here, and ordinary ones do not bind them.
        assert_eq!(matmul(Dtype::F32, "matrix"), Some(MEMORY_COPY));
        // Before it is known who does it, the best of all counts.
        assert_eq!(bound(OpName::Matmul, Dtype::F16, None), Some(MATRIX_F16));
        let reads = Case::new(
            OpName::WorkgroupRead,
            &Shape::of(&[("invocations", 64), ("steps", 8)]),
            Dtype::F32,
        );
        let reads = roofline(&Work::of(&reads.unwrap()), &ceilings, "wgpu");
        assert_eq!(reads.map(|(_, name)| name), Some(WORKGROUP_MEMORY));
    }

    #[test]
    fn a_case_faster_than_its_roofline_is_implausible_and_one_in_cache_is_not() {
        let mut outcomes = probes();
        let ceilings = ceilings(&outcomes, "wgpu");
        // 2 GFLOP at 48 GFLOP/s need 42 ms.
        let matmul = [("m", 1000), ("n", 1000), ("k", 1000)];
        outcomes.push(outcome(OpName::Matmul, &matmul, 40e-3));
        outcomes.push(outcome(OpName::Matmul, &matmul, 43e-3));
        // Four elements copied faster than memory: they never left the cache.
        set_fractions(&mut outcomes, &ceilings);
        assert_eq!(outcomes[1].status, OutcomeStatus::Measured);
        assert!(outcomes[1].fraction_of_ceiling.unwrap() > 1.0);
        assert_eq!(outcomes[3].status, OutcomeStatus::Implausible);
        assert!(outcomes[3].reason.as_ref().unwrap().contains(ALU_F32));
        assert_eq!(outcomes[4].status, OutcomeStatus::Measured);
    }
}
