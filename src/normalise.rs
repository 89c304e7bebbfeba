//! From times to figures that can be compared: rates, ceilings and the fraction of them achieved.

use crate::op::OpName;
use crate::report::{Ceiling, Outcome, OutcomeStatus};

/// Measured fractions may exceed one by this much before they are not believed: two medians of one
/// device a minute apart differ by about as much.
const PLAUSIBLE_FRACTION_MAX: f64 = 1.02;

/// A copy writes as much as it reads, and processors read a line before they write it, so a case
/// that only reads may move its bytes at up to twice the rate of a copy.
const READ_OVER_COPY_MAX: f64 = 2.0;

/// Ceiling names.
pub const ALU_F32: &str = "alu_f32";
/// Bytes read and written per second by a copy far larger than any cache.
pub const MEMORY_COPY: &str = "memory_copy";
/// Seconds of one launch of an empty kernel.
pub const LAUNCH_LATENCY: &str = "launch_latency";

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
    let alu = measured(OpName::Fma)
        .filter_map(|o| Some((o, o.flops_per_second?)))
        .max_by(by_value);
    // The largest copy, not the fastest: a small one may live in a cache.
    let copy = measured(OpName::Copy)
        .max_by_key(|o| o.bytes_min)
        .and_then(|o| Some((o, o.bytes_per_second?)));
    let launch = measured(OpName::Empty)
        .filter_map(|o| Some((o, o.time_s.as_ref()?.median)))
        .min_by(by_value);
    [
        ceiling(ALU_F32, "flop_per_s", alu),
        ceiling(MEMORY_COPY, "bytes_per_s", copy),
        ceiling(LAUNCH_LATENCY, "s", launch),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The least seconds that the ceilings of `runner` allow for this much work, and the one that binds.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn roofline(
    flop_count: u64,
    bytes_min: u64,
    ceilings: &[Ceiling],
    runner: &str,
) -> Option<(f64, &'static str)> {
    let time = |name: &'static str, amount: u64| {
        ceilings
            .iter()
            .find(|ceiling| ceiling.name == name && ceiling.runner == runner)
            .map(|ceiling| (amount as f64 / ceiling.value, name))
    };
    let both = [time(ALU_F32, flop_count), time(MEMORY_COPY, bytes_min)];
    both.into_iter()
        .flatten()
        .filter(|(s, _)| *s > 0.0)
        .max_by(|a, b| a.0.total_cmp(&b.0))
}

/// Sets the rates of a measured outcome from its median time, and what they cost from its energy.
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
    outcome.joules_per_flop = outcome
        .energy
        .as_ref()
        .filter(|_| outcome.flop_count > 0)
        .map(|energy| energy.joules / outcome.flop_count as f64);
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
    let generosity: Vec<(String, &str, f64)> = [(ALU_F32, 1.0), (MEMORY_COPY, READ_OVER_COPY_MAX)]
        .into_iter()
        .flat_map(|(name, factor)| {
            let probes = &*outcomes;
            ceilings
                .iter()
                .filter(move |ceiling| ceiling.name == name)
                .filter_map(move |ceiling| {
                    let probe = probes
                        .iter()
                        .find(|o| o.case_id == ceiling.case_id && o.runner == ceiling.runner)?;
                    let times = probe.time_s.as_ref()?;
                    Some((
                        ceiling.runner.clone(),
                        name,
                        factor * times.median / times.min,
                    ))
                })
        })
        .collect();
    for outcome in outcomes
        .iter_mut()
        .filter(|o| o.status == OutcomeStatus::Measured)
    {
        let Some(times) = &outcome.time_s else {
            continue;
        };
        let found = roofline(
            outcome.flop_count,
            outcome.bytes_min,
            ceilings,
            &outcome.runner,
        );
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
    use crate::op::{Case, Dtype, Shape};
    use crate::report::{Times, unmeasured};

    fn outcome(op: OpName, sizes: &[(&str, u64)], median: f64) -> Outcome {
        let case = Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap();
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
