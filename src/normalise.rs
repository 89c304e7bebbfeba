//! From times to figures that can be compared: rates, ceilings and the fraction of them achieved.

use crate::op::transfer::CHAIN_LAUNCHES;
use crate::op::{Case, Dtype, OpName};
use crate::protocol::Device;
use crate::report::{Ceiling, Gap, Outcome, OutcomeStatus, RunnerRecord, is_left_over};

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
/// Bytes read per second.
pub const MEMORY_READ: &str = "memory_read";
/// Bytes written per second.
pub const MEMORY_WRITE: &str = "memory_write";
/// Bytes read and written per second where two are read for one written.
pub const MEMORY_TRIAD: &str = "memory_triad";
/// Seconds of one launch of an empty kernel.
pub const LAUNCH_LATENCY: &str = "launch_latency";
/// Seconds of one launch that waits for the result of the one before.
pub const LAUNCH_CHAIN: &str = "launch_chain";
/// Seconds from the submission of one launch to the host's knowing that it is done.
pub const ROUND_TRIP: &str = "round_trip";
/// Bytes per second from the host's memory to the device's.
pub const UPLOAD: &str = "upload";
/// Bytes per second from the device's memory to the host's.
pub const READBACK: &str = "readback";

/// Kernels for matrix units that multiply bytes as f16: WGSL has no matrices of bytes, libraries may.
const BYTES_AS_F16: [&str; 2] = ["matmul/matrix_tile_i8", "matmul/matrix_tile_trans_b_i8"];

fn multiplies_bytes_as_f16(kernel: &str) -> bool {
    BYTES_AS_F16.contains(&kernel)
}

/// What a case asks of a device.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    op: OpName,
    dtype: Dtype,
    flop_count: u64,
    bytes_min: u64,
    /// The units that do it, `alu` or `matrix`, once that is known.
    engine: Option<&'a str>,
    /// Whether bytes are multiplied as f16.
    as_f16: bool,
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
            as_f16: false,
        }
    }

    fn done(outcome: &'a Outcome) -> Self {
        Self {
            op: outcome.op,
            dtype: outcome.dtype,
            flop_count: outcome.flop_count,
            bytes_min: outcome.bytes_min,
            engine: outcome.labels.as_ref().map(|labels| &*labels.engine),
            as_f16: (outcome.kernel.as_deref()).is_some_and(multiplies_bytes_as_f16),
        }
    }

    /// The ceilings of its arithmetic; the highest of them binds. Numbers in f16 may be multiplied
    /// in f32 as well, and bytes as 32-bit integers, where that is faster; a probe is measured
    /// against nothing but its own kind.
    fn arithmetic(&self) -> &'static [&'static str] {
        const ALU: &str = "alu";
        const MATRIX: &str = "matrix";
        // Weights of 4 bits are unpacked to what the activations are.
        match (self.op, self.dtype, self.engine) {
            (OpName::Fma, Dtype::F16 | Dtype::F16F16, _) => &[ALU_F16],
            (OpName::Dot4, ..) => &[ALU_I8],
            (OpName::Fma, Dtype::F32, _) | (_, Dtype::F32 | Dtype::W4A32, Some(ALU)) => &[ALU_F32],
            (OpName::MatrixFma, Dtype::F32, _) | (_, Dtype::F32 | Dtype::W4A32, Some(MATRIX)) => {
                &[MATRIX_F32]
            }
            (OpName::MatrixFma, Dtype::F16, _) | (_, Dtype::F16 | Dtype::W4A16, Some(MATRIX)) => {
                &[MATRIX_F16]
            }
            (OpName::MatrixFma, Dtype::F16F16, _) | (_, Dtype::F16F16, Some(MATRIX)) => {
                &[MATRIX_F16_F16]
            }
            (_, Dtype::F16 | Dtype::F16F16 | Dtype::W4A16, Some(ALU)) => &[ALU_F16, ALU_F32],
            // CPUs widen bf16 to f32. What no probe multiplies is measured against no ceiling.
            (_, Dtype::Bf16, Some(ALU)) => &[ALU_F32],
            (_, Dtype::Tf32 | Dtype::Bf16 | Dtype::F8E4M3, _) => &[],
            (_, Dtype::F32 | Dtype::W4A32, _) => &[ALU_F32, MATRIX_F32],
            (_, Dtype::F16 | Dtype::W4A16, _) => &[ALU_F16, ALU_F32, MATRIX_F16],
            (_, Dtype::F16F16, _) => &[ALU_F16, ALU_F32, MATRIX_F16, MATRIX_F16_F16],
            (_, Dtype::I32, _) => &[ALU_I32],
            (_, Dtype::I8, Some(ALU)) => &[ALU_I8, ALU_I32],
            (_, Dtype::I8, Some(MATRIX)) if self.as_f16 => &[MATRIX_F16],
            (_, Dtype::I8, Some(MATRIX)) => &[],
            (_, Dtype::I8, _) => &[ALU_I8, ALU_I32, MATRIX_F16],
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

/// The highest of the ceilings that bind the arithmetic of `case` by this kernel on these units, in
/// operations per second; none unless all of them were measured, for one that was not may be higher.
#[must_use]
pub fn arithmetic_ceiling_of(
    case: &Case,
    (kernel, engine): (&str, &str),
    ceilings: &[Ceiling],
    runner: &str,
) -> Option<(f64, &'static str)> {
    let work = Work {
        engine: Some(engine),
        as_f16: multiplies_bytes_as_f16(kernel),
        ..Work::of(case)
    };
    let mut highest = None;
    for &name in work.arithmetic() {
        let ceiling = ceilings
            .iter()
            .find(|ceiling| ceiling.name == name && ceiling.runner == runner)?;
        if highest.is_none_or(|(rate, _)| rate < ceiling.value) {
            highest = Some((ceiling.value, name));
        }
    }
    highest
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
        op => op.is_yardstick(),
    }
}

/// Memory probes and the ceilings they give.
const MEMORY: [(OpName, &str); 4] = [
    (OpName::Read, MEMORY_READ),
    (OpName::Write, MEMORY_WRITE),
    (OpName::Copy, MEMORY_COPY),
    (OpName::Triad, MEMORY_TRIAD),
];

/// A working set this many times the last cache cannot live in it: of what a pass over it leaves
/// there, the next pass finds next to nothing.
pub const BEYOND_CACHE: u64 = 4;

/// Bytes of all tensors of an outcome's case together.
#[must_use]
pub fn working_set_bytes(outcome: &Outcome) -> u64 {
    Case {
        op: outcome.op,
        shape: outcome.shape.clone(),
        dtype: outcome.dtype,
    }
    .tensor_bytes()
}

/// The ceilings that the measured probes of `runner` give. Memory ceilings come from the largest
/// working set alone, and only where that cannot have stayed in a last cache of
/// `last_level_bytes`; where the cache is not known, the largest serves.
#[must_use]
pub fn ceilings(outcomes: &[Outcome], runner: &str, last_level_bytes: Option<u64>) -> Vec<Ceiling> {
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
    // The largest, not the fastest: a small one may live in a cache.
    let largest_rate = |op: OpName| {
        measured(op)
            .max_by_key(|o| working_set_bytes(o))
            .and_then(|o| Some((o, o.bytes_per_second?)))
    };
    let memory = MEMORY.map(|(op, name)| {
        let beyond_cache = |(o, _): &(&Outcome, f64)| {
            last_level_bytes
                .is_none_or(|cache| working_set_bytes(o) >= BEYOND_CACHE.saturating_mul(cache))
        };
        ceiling(name, "bytes_per_s", largest_rate(op).filter(beyond_cache))
    });
    let least_time = |op: OpName, count: u32| {
        measured(op)
            .filter_map(|o| Some((o, o.time_s.as_ref()?.median / f64::from(count))))
            .min_by(by_value)
    };
    arithmetic
        .chain(ceiling(WORKGROUP_MEMORY, "bytes_per_s", workgroup))
        .chain(memory.into_iter().flatten())
        .chain(
            [
                ceiling(LAUNCH_LATENCY, "s", least_time(OpName::Empty, 1)),
                ceiling(LAUNCH_CHAIN, "s", least_time(OpName::Chain, CHAIN_LAUNCHES)),
                ceiling(ROUND_TRIP, "s", least_time(OpName::RoundTrip, 1)),
                ceiling(UPLOAD, "bytes_per_s", largest_rate(OpName::Upload)),
                ceiling(READBACK, "bytes_per_s", largest_rate(OpName::Readback)),
            ]
            .into_iter()
            .flatten(),
        )
        .collect()
}

/// What the best sample of the probe behind a ceiling reached; a ceiling is its median.
fn best_sample(ceiling: &Ceiling, outcomes: &[Outcome]) -> Option<f64> {
    let probe = outcomes
        .iter()
        .find(|o| o.case_id == ceiling.case_id && o.runner == ceiling.runner)?;
    let times = probe.time_s.as_ref()?;
    Some(ceiling.value * times.median / times.min)
}

/// Ceilings as high as any sample of their probes, for bounds that have to hold on a machine that was
/// disturbed while they were measured. Those whose probes are not among the outcomes are left out.
#[must_use]
pub fn highest(ceilings: &[Ceiling], outcomes: &[Outcome]) -> Vec<Ceiling> {
    let raised = |ceiling: &Ceiling| {
        Some(Ceiling {
            value: best_sample(ceiling, outcomes)?,
            ..ceiling.clone()
        })
    };
    // A latency is no rate.
    let rates = ceilings.iter().filter(|ceiling| ceiling.unit != "s");
    rates.filter_map(raised).collect()
}

/// The least seconds that the ceilings of `runner` allow for this much work, and the one that binds.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn roofline(
    work: &Work<'_>,
    ceilings: &[Ceiling],
    runner: &str,
) -> Option<(f64, &'static str)> {
    roofline_by(work.arithmetic(), work, ceilings, runner)
}

/// As [`roofline`], with the ceilings of arithmetic given.
#[allow(clippy::cast_precision_loss)]
fn roofline_by(
    arithmetic: &[&'static str],
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
    let arithmetic = arithmetic
        .iter()
        .filter_map(|name| time(name, work.flop_count))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    let both = [arithmetic, time(work.memory(), work.bytes_min)];
    both.into_iter()
        .flatten()
        .filter(|(s, _)| *s > 0.0)
        .max_by(|a, b| a.0.total_cmp(&b.0))
}

/// As [`roofline`], for what an outcome did.
#[must_use]
pub fn roofline_of(outcome: &Outcome, ceilings: &[Ceiling]) -> Option<(f64, &'static str)> {
    roofline(&Work::done(outcome), ceilings, &outcome.runner)
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
    outcome.joules_per_byte = outcome
        .energy
        .as_ref()
        .filter(|_| outcome.flop_count == 0 && outcome.op.has_roofline() && outcome.bytes_min > 0)
        .map(|energy| energy.joules / outcome.bytes_min as f64);
}

/// Whether a runner's kernels run on the devices of every vendor.
#[must_use]
pub fn portable(record: &RunnerRecord) -> bool {
    matches!(&*record.runner.name, "wgpu" | "cubecl") || record.device.backend == "webgpu"
}

/// Whether two APIs show one piece of hardware. Where one of them tells no address, that both are the
/// processor, or that neither is, has to do.
#[must_use]
pub fn one_device(one: &Device, other: &Device) -> bool {
    match (&one.pci_bus_id, &other.pci_bus_id) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => (one.device_type == "cpu") == (other.device_type == "cpu"),
    }
}

/// Sets the portability gap on the outcomes of portable runners that another runner measured on the
/// same device. Probes measure the device and not a library.
pub fn set_gaps(outcomes: &mut [Outcome], runners: &[RunnerRecord]) {
    let record = |name: &str| runners.iter().find(|record| record.runner.name == name);
    let gaps: Vec<Option<Gap>> = outcomes
        .iter()
        .map(|outcome| {
            let own = record(&outcome.runner).filter(|record| portable(record))?;
            let times = outcome.time_s.as_ref()?;
            if outcome.op.is_probe() || outcome.status != OutcomeStatus::Measured {
                return None;
            }
            let (best, best_times) = outcomes
                .iter()
                .filter(|other| {
                    other.case_id == outcome.case_id && other.status == OutcomeStatus::Measured
                })
                .filter(|other| {
                    record(&other.runner).is_some_and(|other| {
                        !portable(other) && one_device(&own.device, &other.device)
                    })
                })
                .filter_map(|other| Some((other, other.time_s.as_ref()?)))
                .min_by(|(_, one), (_, other)| one.median.total_cmp(&other.median))?;
            Some(Gap {
                runner: best.runner.clone(),
                kernel: best.kernel.clone().unwrap_or_default(),
                time_ratio: times.median / best_times.median,
                low: times.ci95_low / best_times.ci95_high,
                high: times.ci95_high / best_times.ci95_low,
            })
        })
        .collect();
    for (outcome, gap) in outcomes.iter_mut().zip(gaps) {
        outcome.gap = gap;
    }
}

/// The ceilings of arithmetic that nobody knows, by runner: their probes failed, or the suite has none.
/// Where a runner leaves all of them out, as it does where it has no such instruction, there is none.
fn unknown_ceilings(outcomes: &[Outcome], ceilings: &[Ceiling]) -> Vec<(String, &'static str)> {
    let mut runners: Vec<&str> = outcomes.iter().map(|outcome| &*outcome.runner).collect();
    runners.sort_unstable();
    runners.dedup();
    let kinds = [OpName::Fma, OpName::Dot4, OpName::MatrixFma]
        .into_iter()
        .flat_map(|op| Dtype::ALL.map(|dtype| (op, dtype)))
        .filter_map(|(op, dtype)| Some((op, dtype, arithmetic_ceiling(op, dtype)?.0)));
    let mut unknown = Vec::new();
    for (op, dtype, name) in kinds {
        for &runner in &runners {
            let found = ceilings
                .iter()
                .any(|ceiling| ceiling.runner == runner && ceiling.name == name);
            let mut probes = (outcomes.iter())
                .filter(|o| o.op == op && o.dtype == dtype && o.runner == runner)
                .peekable();
            // A probe for which there was no time says nothing of what there is.
            let left_out = probes.peek().is_some()
                && probes.all(|probe| {
                    probe.status == OutcomeStatus::Skipped
                        && !probe.reason.as_deref().is_some_and(is_left_over)
                });
            if !found && !left_out {
                unknown.push((runner.to_owned(), name));
            }
        }
    }
    unknown
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
            Some((ceiling.runner.clone(), working_set_bytes(copy)))
        })
        .collect();
    let unknown = unknown_ceilings(outcomes, ceilings);
    // The gate is the most generous roofline: a probe's best sample and not its median, and of the
    // memory probes the fastest, since a case may move its bytes in any mixture.
    let best = |ceiling: &Ceiling| best_sample(ceiling, outcomes);
    let generosity: Vec<(&str, &str, f64)> = ceilings
        .iter()
        .filter_map(|ceiling| {
            let of_runner = || ceilings.iter().filter(|c| c.runner == ceiling.runner);
            let is_memory = MEMORY.iter().any(|(_, name)| ceiling.name == *name);
            let rate = if !is_memory {
                best(ceiling)?
            } else if ceiling.name != MEMORY_COPY {
                return None;
            } else if of_runner().any(|c| c.name == MEMORY_READ) {
                let memory = of_runner().filter(|c| MEMORY.iter().any(|(_, name)| c.name == *name));
                memory.filter_map(best).fold(0.0, f64::max)
            } else {
                READ_OVER_COPY_MAX * best(ceiling)?
            };
            Some((
                ceiling.runner.as_str(),
                ceiling.name.as_str(),
                rate / ceiling.value,
            ))
        })
        .collect();
    for outcome in outcomes
        .iter_mut()
        .filter(|o| o.status == OutcomeStatus::Measured && o.op.has_roofline())
    {
        let Some(times) = &outcome.time_s else {
            continue;
        };
        let work = Work::done(outcome);
        // Where a ceiling is missing that may be the highest, none of its arithmetic is known.
        let unknown = outcome.labels.is_some()
            && (work.arithmetic().iter())
                .any(|name| unknown.contains(&(outcome.runner.clone(), *name)));
        let arithmetic = if unknown { &[] } else { work.arithmetic() };
        let Some((roofline_time_s, bound)) =
            roofline_by(arithmetic, &work, ceilings, &outcome.runner)
        else {
            continue;
        };
        let fraction = roofline_time_s / times.median;
        // Where nobody has measured what its arithmetic could do, memory alone is no ceiling to be
        // proud of, though nothing is faster than it either.
        let arithmetic_known = ceilings.iter().any(|ceiling| {
            ceiling.runner == outcome.runner && arithmetic.contains(&&*ceiling.name)
        });
        let half_known = !outcome.op.is_probe() && !arithmetic_known;
        if !half_known {
            outcome.roofline_time_s = Some(roofline_time_s);
            outcome.roofline_bound = Some(bound.to_owned());
            outcome.fraction_of_ceiling = Some(fraction);
        }
        // Less than half of what the copy moved may stay in a cache that the copy overflowed.
        let copied_bytes = copied
            .iter()
            .find(|(runner, _)| *runner == outcome.runner)
            .map_or(0, |(_, bytes)| *bytes);
        let is_cold = (outcome.labels.as_ref()).is_some_and(|labels| labels.cache == "cold");
        let may_be_cached =
            bound == MEMORY_COPY && !is_cold && working_set_bytes(outcome) < copied_bytes / 2;
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
    use crate::protocol::{RunnerInfo, Timer};
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
        let ceilings = ceilings(&probes(), "wgpu", None);
        let copy = ceilings.iter().find(|c| c.name == MEMORY_COPY).unwrap();
        assert!(copy.case_id.contains("n1048576"), "{copy:?}");
    }

    #[test]
    fn bounds_come_from_the_best_sample_of_a_probe_and_from_rates_only() {
        let mut outcomes = probes();
        outcomes.push(outcome(OpName::Empty, &[("n", 1)], 1e-6));
        let ceilings = ceilings(&outcomes, "wgpu", None);
        // Other work took three quarters of the machine from most samples.
        outcomes[0].time_s.as_mut().unwrap().min = 2.5e-4;
        let highest = highest(&ceilings, &outcomes);
        let rate = |list: &[Ceiling]| list.iter().find(|c| c.name == ALU_F32).map(|c| c.value);
        let raised = rate(&highest).unwrap() / rate(&ceilings).unwrap();
        assert!((raised - 4.0).abs() < 1e-9, "{raised}");
        assert!(highest.iter().all(|c| c.name != LAUNCH_LATENCY));
    }

    #[test]
    fn a_probe_that_may_have_stayed_in_the_cache_is_no_memory_ceiling() {
        let outcomes = probes();
        let names = |cache: Option<u64>| -> Vec<String> {
            let ceilings = ceilings(&outcomes, "wgpu", cache);
            ceilings.into_iter().map(|c| c.name).collect()
        };
        // The largest copy has two buffers of 4 MiB.
        assert_eq!(names(Some(2 << 20)), [ALU_F32, MEMORY_COPY]);
        assert_eq!(names(Some((2 << 20) + 1)), [ALU_F32]);
        assert_eq!(names(None), [ALU_F32, MEMORY_COPY]);
    }

    #[test]
    fn every_probe_gives_its_ceiling_and_a_chain_that_of_one_launch() {
        let outcomes = [
            outcome(OpName::Empty, &[("n", 1)], 1e-6),
            outcome(OpName::Read, &[("n", 1 << 20)], 1e-3),
            outcome(OpName::Write, &[("n", 1 << 20)], 1e-3),
            outcome(OpName::Triad, &[("n", 1 << 20)], 1e-3),
            outcome(OpName::Chain, &[("n", 1)], 32e-6),
            outcome(OpName::RoundTrip, &[("n", 1)], 5e-6),
            outcome(OpName::Upload, &[("n", 1 << 20)], 1e-3),
            outcome(OpName::Readback, &[("n", 1 << 20)], 2e-3),
        ];
        let ceilings = ceilings(&outcomes, "wgpu", None);
        let value = |name: &str| ceilings.iter().find(|c| c.name == name).unwrap().value;
        assert_eq!(ceilings.len(), 8);
        assert!((value(LAUNCH_CHAIN) - 2e-6).abs() < 1e-12);
        assert!((value(ROUND_TRIP) - 5e-6).abs() < 1e-12);
        assert!((value(UPLOAD) / value(READBACK) - 2.0).abs() < 1e-9);
        // A write reads its key besides.
        assert!((value(MEMORY_TRIAD) / value(MEMORY_WRITE) - 3.0).abs() < 1e-5);
    }

    #[test]
    fn where_reads_were_measured_they_bound_what_a_case_can_move_and_not_a_guess() {
        let vector = [("m", 1), ("n", 2048), ("k", 2048)];
        let judged = |read_s: Option<f64>, copy_over_matmul: f64| {
            let mut outcomes = probes();
            outcomes.extend(read_s.map(|s| outcome(OpName::Read, &[("n", 1 << 20)], s)));
            let ceilings = ceilings(&outcomes, "wgpu", None);
            // 16.8 MB at the copy's 8.4 GB/s take 2 ms; arithmetic takes far less.
            let mut case = outcome(OpName::Matmul, &vector, 1.0);
            #[allow(clippy::cast_precision_loss)]
            let copy_s = case.bytes_min as f64 / (8.0 * f64::from(1 << 20) / 1e-3);
            case = outcome(OpName::Matmul, &vector, copy_s / copy_over_matmul);
            outcomes.push(case);
            set_fractions(&mut outcomes, &ceilings);
            outcomes.last().unwrap().status
        };
        assert_eq!(judged(None, 1.9), OutcomeStatus::Measured);
        assert_eq!(judged(None, 2.1), OutcomeStatus::Implausible);
        // Reads at 1.2 times the copy's rate: 33/32 of 4 MiB a call.
        let read_s = 33.0 / 32.0 * 4.0 / 8.0 / 1.2 * 1e-3;
        assert_eq!(judged(Some(read_s), 1.15), OutcomeStatus::Measured);
        assert_eq!(judged(Some(read_s), 1.9), OutcomeStatus::Implausible);
    }

    #[test]
    fn a_ceiling_that_may_be_higher_and_is_not_known_bounds_nothing() {
        let sides = [("m", 1024), ("n", 1024), ("k", 1024)];
        let judged = |probe: Option<(OutcomeStatus, &str)>| {
            let mut outcomes = probes();
            let chains = [("invocations", 1000), ("steps", 1000)];
            outcomes.extend(probe.map(|(status, reason)| {
                let mut probe = outcome_in(Dtype::F16, OpName::Fma, &chains, 1e-6);
                probe.status = status;
                probe.reason = Some(reason.to_owned());
                probe
            }));
            // Far above what f32 chains reach.
            let mut product = outcome_in(Dtype::F16, OpName::Matmul, &sides, 1e-3);
            product.labels = Some(crate::report::Labels {
                engine: "alu".to_owned(),
                ..crate::report::Labels::default()
            });
            outcomes.push(product);
            let ceilings = ceilings(&outcomes, "wgpu", None);
            set_fractions(&mut outcomes, &ceilings);
            let judged = outcomes.pop().unwrap();
            (judged.status, judged.fraction_of_ceiling.is_some())
        };
        // The suite has no such probe, or it came to grief.
        assert_eq!(judged(None), (OutcomeStatus::Measured, false));
        let failed = judged(Some((OutcomeStatus::Failed, "wrong results")));
        assert_eq!(failed, (OutcomeStatus::Measured, false));
        let late = judged(Some((OutcomeStatus::Skipped, crate::report::BUDGET_USED)));
        assert_eq!(late, (OutcomeStatus::Measured, false));
        // There is no arithmetic in f16, so f32's binds.
        let left_out = judged(Some((OutcomeStatus::Skipped, "the device has no f16")));
        assert_eq!(left_out.0, OutcomeStatus::Implausible);
    }

    #[test]
    fn what_waits_for_loads_or_the_link_has_no_roofline() {
        let mut outcomes = probes();
        let ceilings = ceilings(&outcomes, "wgpu", None);
        outcomes.push(outcome(OpName::Upload, &[("n", 1 << 20)], 1e-6));
        let walk = [("lines", 1 << 16), ("steps", 1 << 16)];
        outcomes.push(outcome(OpName::Chase, &walk, 1e-9));
        set_fractions(&mut outcomes, &ceilings);
        for outcome in &outcomes[3..] {
            assert_eq!(outcome.status, OutcomeStatus::Measured);
            assert_eq!(outcome.fraction_of_ceiling, None);
        }
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
        let found: Vec<(String, String, f64)> = ceilings(&outcomes, "wgpu", None)
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
                as_f16: true,
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
        // Units for bytes would be faster than those for f16, but no shader has them.
        assert_eq!(matmul(Dtype::I8, "matrix"), Some(MATRIX_F16));
        let sizes = [("m", 8), ("n", 8), ("k", 8)];
        let mut bytes = outcome_in(Dtype::I8, OpName::Matmul, &sizes, 1.0);
        for (kernel, expected) in [
            ("matmul/matrix_tile_i8", MATRIX_F16),
            ("matmul/library", MEMORY_COPY),
        ] {
            bytes.kernel = Some(kernel.to_owned());
            let work = Work {
                engine: Some("matrix"),
                ..Work::done(&bytes)
            };
            assert_eq!(
                roofline(&work, &ceilings, "wgpu").map(|(_, name)| name),
                Some(expected)
            );
        }
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
    fn bytes_are_multiplied_as_f16_by_all_kernels_for_matrix_units_that_take_them() {
        use crate::catalogue::{Engine, kernels};
        let taking = kernels()
            .into_iter()
            .filter(|k| k.engine == Engine::Matrix && k.dtypes.contains(&Dtype::I8));
        let names: Vec<_> = taking.map(|kernel| kernel.name.into_owned()).collect();
        assert_eq!(names, BYTES_AS_F16);
    }

    #[test]
    fn a_gap_is_to_the_fastest_library_on_the_same_device() {
        let runner = |name: &str, device_type: &str, address: Option<&str>| RunnerRecord {
            runner: RunnerInfo {
                name: name.to_owned(),
                version: String::new(),
            },
            device: Device {
                device_type: device_type.to_owned(),
                pci_bus_id: address.map(str::to_owned),
                ..Device::default()
            },
            timer: Timer {
                clock: "host".to_owned(),
                quantum_s: 1e-8,
                period_s: None,
                note: None,
            },
        };
        let runners = [
            runner("wgpu", "discrete_gpu", Some("0000:0A:00.0")),
            runner("torch", "other", Some("0000:0a:00.0")),
            runner("jax", "other", None),
            runner("elsewhere", "other", Some("0000:0b:00.0")),
            runner("host", "cpu", None),
            runner("cubecl", "other", None),
        ];
        let matmul = [("m", 64), ("n", 64), ("k", 64)];
        let timed = |name: &str, median: f64| {
            let mut outcome = outcome(OpName::Matmul, &matmul, median);
            name.clone_into(&mut outcome.runner);
            outcome.kernel = Some(format!("matmul/{name}"));
            outcome
        };
        let mut outcomes = vec![
            timed("wgpu", 6.0),
            timed("torch", 3.0),
            timed("jax", 2.0),
            // On another device, on the processor, and no more a library than our own.
            timed("elsewhere", 1.0),
            timed("host", 1.0),
            timed("cubecl", 1.0),
        ];
        if let Some(times) = &mut outcomes[0].time_s {
            (times.ci95_low, times.ci95_high) = (5.0, 7.0);
        }
        let mut slow = timed("torch", 0.5);
        slow.status = OutcomeStatus::Implausible;
        outcomes.push(slow);
        set_gaps(&mut outcomes, &runners);
        let gap = outcomes[0].gap.as_ref().unwrap();
        assert_eq!((&*gap.runner, &*gap.kernel), ("jax", "matmul/jax"));
        assert_eq!((gap.time_ratio, gap.low, gap.high), (3.0, 2.5, 3.5));
        assert_eq!(outcomes[5].gap.as_ref().unwrap().time_ratio, 1.0);
        assert!([1, 2, 3, 4, 6].iter().all(|&at| outcomes[at].gap.is_none()));
    }

    #[test]
    fn without_a_ceiling_of_its_arithmetic_a_case_has_no_fraction_but_memory_still_bounds_it() {
        let mut outcomes = probes();
        outcomes.retain(|outcome| outcome.op == OpName::Copy);
        let ceilings = ceilings(&outcomes, "wgpu", None);
        let gemv = [("m", 1), ("n", 20_000), ("k", 20_000)];
        outcomes.push(outcome(OpName::Matmul, &gemv, 10.0));
        outcomes.push(outcome(OpName::Matmul, &gemv, 1e-9));
        let from = outcomes.len() - 2;
        set_fractions(&mut outcomes, &ceilings);
        assert_eq!(outcomes[from].fraction_of_ceiling, None);
        assert_eq!(outcomes[from].roofline_bound, None);
        assert_eq!(outcomes[from + 1].status, OutcomeStatus::Implausible);
    }

    #[test]
    fn a_case_faster_than_its_roofline_is_implausible_and_one_in_cache_is_not() {
        let mut outcomes = probes();
        let ceilings = ceilings(&outcomes, "wgpu", None);
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
        // Cold, they have no cache to stay in.
        let mut cold = probes();
        cold[1].labels = Some(crate::report::Labels {
            cache: "cold".to_owned(),
            ..crate::report::Labels::default()
        });
        set_fractions(&mut cold, &ceilings);
        assert_eq!(cold[1].status, OutcomeStatus::Implausible);
    }
}
