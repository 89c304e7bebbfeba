//! The memory hierarchy as a runner sees it: latency and bandwidth by working set, and the caches
//! whose ends show as knees in them.

use crate::op::{Case, OpName};
use crate::report::{HierarchyPoint, MemoryHierarchy, Outcome, OutcomeStatus};

/// A level must be slower than the one before it by this factor to count as another level.
const LEVEL_RATIO_MIN: f64 = 1.15;

/// The same where it rests on the last point of the latency curve alone, which no other point
/// confirms. Of bandwidth, which many things disturb, such a fall says nothing.
const LAST_POINT_RATIO_MIN: f64 = 1.3;

/// Smaller ratios from one point to the next count as none.
const STEP_RATIO_MIN: f64 = 1.05;

/// A rise begins where it reaches this part of its steepest slope: before, translation misses and
/// the tail of the level below make gentle slopes of their own.
const STEEP_PART: f64 = 0.4;

/// A stretch whose slope is less than this part of the peaks on both sides lies between two rises.
const VALLEY_PART: f64 = 0.65;

/// A rise must be this many times the farthest that a point near it lies from the fit: what is in
/// the noise is no cache.
const NOISE_RATIO_MIN: f64 = 2.0;

/// How many points beyond a rise still tell how noisy it is.
const NOISE_REACH: usize = 2;

/// Points that a curve needs before anything can be read from it.
const POINTS_MIN: usize = 3;

/// What the measured `chase` and `read` cases of `runner` show; `None` where there are neither.
/// `stated_bytes` are the caches that the operating system knows of, where the device is the processor.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn hierarchy(
    outcomes: &[Outcome],
    runner: &str,
    stated_bytes: &[u64],
) -> Option<MemoryHierarchy> {
    let measured = |op: OpName| {
        outcomes.iter().filter(move |o| {
            o.op == op && o.runner == runner && o.status == OutcomeStatus::Measured
        })
    };
    // What shares a cache with the probe can only make it slower, so the sample least disturbed is
    // the one that tells of the hardware.
    let latency = curve(
        measured(OpName::Chase).filter_map(|o| {
            let steps = o.shape.get("steps").max(1) as f64;
            Some((read_bytes(o), o.time_s.as_ref()?.min / steps))
        }),
        f64::min,
    );
    let bandwidth = curve(
        measured(OpName::Read)
            .filter_map(|o| Some((read_bytes(o), o.bytes_min as f64 / o.time_s.as_ref()?.min))),
        f64::max,
    );
    if latency.is_empty() && bandwidth.is_empty() {
        return None;
    }
    let mut caches_bytes = knees(&latency, |seconds| seconds.log2(), LAST_POINT_RATIO_MIN);
    // A slow walk is easily driven out of a cache that others use too; a read by the whole chip is
    // not, and may show a level that the walk has missed.
    let reached = caches_bytes.last().map_or(0, |last| 2 * last);
    let beyond = knees(&bandwidth, |rate| -rate.log2(), f64::INFINITY);
    caches_bytes.extend(beyond.into_iter().filter(|&bytes| bytes > reached));
    let method = format!(
        "latency: one invocation walks one cycle through all 128-byte slots, at least once around a call ({} sizes); bandwidth: all elements read and summed ({} sizes); the fastest sample of each. Caches: knees of the latency curve after a monotone fit, and of the bandwidth curve at more than twice the last of them; a cache ends at the largest working set before a rise of {:.0} % or more, so its size is known to the spacing of the points.",
        latency.len(),
        bandwidth.len(),
        (LEVEL_RATIO_MIN - 1.0) * 100.0
    );
    Some(MemoryHierarchy {
        runner: runner.to_owned(),
        last_level_bytes: caches_bytes.iter().chain(stated_bytes).max().copied(),
        stated_bytes: stated_bytes.to_vec(),
        latency,
        bandwidth,
        caches_bytes,
        method,
    })
}

/// Size of the last cache that the measured cases of `runner` show, or that is stated if it is larger.
#[must_use]
pub fn last_level_bytes(outcomes: &[Outcome], runner: &str, stated_bytes: &[u64]) -> Option<u64> {
    hierarchy(outcomes, runner, stated_bytes)?.last_level_bytes
}

/// Bytes of the tensor that is read.
fn read_bytes(outcome: &Outcome) -> u64 {
    let case = Case {
        op: outcome.op,
        shape: outcome.shape.clone(),
        dtype: outcome.dtype,
    };
    case.tensors()
        .first()
        .map_or(0, |tensor| tensor.size_bytes())
}

/// Points by ascending size; of several at one size, what `better` leaves.
fn curve(
    values: impl Iterator<Item = (u64, f64)>,
    better: fn(f64, f64) -> f64,
) -> Vec<HierarchyPoint> {
    let mut best = std::collections::BTreeMap::<u64, f64>::new();
    for (bytes, value) in values.filter(|(_, value)| value.is_finite() && *value > 0.0) {
        best.entry(bytes)
            .and_modify(|known| *known = better(*known, value))
            .or_insert(value);
    }
    best.into_iter()
        .map(|(bytes, value)| HierarchyPoint { bytes, value })
        .collect()
}

/// The largest working set before each rise of `cost`, the logarithm of what gets worse as the
/// working set outgrows a cache. A rise to the last point alone must have `last_ratio_min`.
#[allow(clippy::cast_precision_loss)]
fn knees(curve: &[HierarchyPoint], cost: fn(f64) -> f64, last_ratio_min: f64) -> Vec<u64> {
    if curve.len() < POINTS_MIN {
        return Vec::new();
    }
    let costs: Vec<f64> = curve.iter().map(|p| cost(p.value)).collect();
    let fit = monotone(&costs);
    let noise = |first: usize, end: usize| {
        (first.saturating_sub(NOISE_REACH)..(end + NOISE_REACH + 1).min(costs.len()))
            .map(|at| (costs[at] - fit[at]).abs())
            .fold(0.0, f64::max)
    };
    let rise = |from: usize, to: usize| fit[to] - fit[from];
    // Step k leads from point k to point k + 1; its slope is per doubling of the working set.
    let slopes: Vec<f64> = (0..curve.len() - 1)
        .map(|k| {
            let octaves = (curve[k + 1].bytes as f64 / curve[k].bytes as f64).log2();
            if rise(k, k + 1) < STEP_RATIO_MIN.log2() {
                0.0
            } else {
                rise(k, k + 1) / octaves
            }
        })
        .collect();
    let mut found = Vec::new();
    let mut last: Option<(usize, f64)> = None;
    for (first, end) in rises(&slopes) {
        let peak = slopes[first..end].iter().copied().fold(0.0, f64::max);
        // A level is approached ever more slowly, and noise may tear the end of the way off.
        if let Some((before, steepest)) = last
            && curve[first].bytes <= 2 * curve[before].bytes
            && peak < VALLEY_PART * steepest
        {
            last = Some((end, steepest));
            continue;
        }
        last = Some((end, peak));
        let least = if end == slopes.len() && end - first == 1 {
            last_ratio_min
        } else {
            LEVEL_RATIO_MIN
        };
        if rise(first, end) >= least.log2().max(NOISE_RATIO_MIN * noise(first, end)) {
            found.push(curve[first].bytes);
        }
    }
    found
}

/// Stretches of steps that rise together, as first step and the one after the last.
fn rises(slopes: &[f64]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = 0;
    for run in slopes.split(|slope| *slope <= 0.0) {
        split(slopes, start, start + run.len(), &mut found);
        start += run.len() + 1;
    }
    found
}

/// Splits one stretch at the valley that lies deepest under the peaks on both of its sides, and so
/// on, and cuts what is gentle off the beginning of each part.
fn split(slopes: &[f64], first: usize, end: usize, found: &mut Vec<(usize, usize)>) {
    let peak = |range: std::ops::Range<usize>| slopes[range].iter().copied().fold(0.0, f64::max);
    let depth = |at: usize| slopes[at] / peak(first..at).min(peak(at + 1..end));
    let valley = (first + 1..end.saturating_sub(1))
        .min_by(|a, b| depth(*a).total_cmp(&depth(*b)))
        .filter(|at| depth(*at) < VALLEY_PART);
    if let Some(valley) = valley {
        split(slopes, first, valley, found);
        split(slopes, valley + 1, end, found);
        return;
    }
    let highest = peak(first..end);
    if let Some(steep) = (first..end).find(|at| slopes[*at] >= STEEP_PART * highest) {
        found.push((steep, end));
    }
}

/// The ascending sequence that is nearest to `values` in least squares: neighbours out of order are
/// replaced by their mean until none are.
#[allow(clippy::cast_precision_loss)]
fn monotone(values: &[f64]) -> Vec<f64> {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for &value in values {
        let (mut mean, mut count) = (value, 1);
        while let Some(&(before, size)) = pools.last()
            && before > mean
        {
            pools.pop();
            mean = (mean * count as f64 + before * size as f64) / (count + size) as f64;
            count += size;
        }
        pools.push((mean, count));
    }
    pools
        .into_iter()
        .flat_map(|(mean, count)| std::iter::repeat_n(mean, count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::mix;
    use crate::op::{Dtype, Shape};
    use crate::report::{Times, unmeasured};

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    /// Sizes of `count` octaves from `first` on, two points in each.
    fn sizes(first: u64, count: u32) -> Vec<u64> {
        (0..count)
            .flat_map(|octave| [first << octave, (first << octave) * 3 / 2])
            .collect()
    }

    /// Random walks through caches that keep what fits: every level catches its share of the loads.
    #[allow(clippy::cast_precision_loss)]
    fn latency(bytes: u64, caches: &[(u64, f64)], memory_s: f64) -> f64 {
        let (mut time_s, mut caught) = (0.0, 0.0);
        for &(size, level_s) in caches {
            let share = (size as f64 / bytes as f64).min(1.0);
            time_s += (share - caught) * level_s;
            caught = share;
        }
        time_s + (1.0 - caught) * memory_s
    }

    /// Relative noise of up to `amplitude` on both sides, mostly small and of one seed.
    fn noise(seed: u32, index: usize, amplitude: f64) -> f64 {
        let draw = |salt: u32| {
            f64::from(mix(mix(seed) ^ mix(index as u32 ^ salt))) / f64::from(u32::MAX) - 0.5
        };
        1.0 + amplitude * (draw(1) + draw(2))
    }

    fn caches(sizes: &[u64], seed: u32, amplitude: f64, value: impl Fn(u64) -> f64) -> Vec<u64> {
        let points: Vec<HierarchyPoint> = sizes
            .iter()
            .enumerate()
            .map(|(index, &bytes)| HierarchyPoint {
                bytes,
                value: value(bytes) * noise(seed, index, amplitude),
            })
            .collect();
        knees(&points, |seconds| seconds.log2(), LAST_POINT_RATIO_MIN)
    }

    #[test]
    fn the_three_caches_of_a_processor_are_found_through_noise() {
        let levels = [(32 * KIB, 1e-9), (MIB, 3e-9), (32 * MIB, 12e-9)];
        for seed in 0..200 {
            let found = caches(&sizes(8 * KIB, 15), seed, 0.05, |bytes| {
                latency(bytes, &levels, 90e-9)
            });
            assert_eq!(found, [32 * KIB, MIB, 32 * MIB], "seed {seed}");
        }
    }

    #[test]
    fn the_second_level_of_a_gpu_is_found_to_the_spacing_of_the_points() {
        let levels = [(50 * MIB, 200e-9)];
        for seed in 0..200 {
            let found = caches(&sizes(64 * KIB, 12), seed, 0.05, |bytes| {
                latency(bytes, &levels, 550e-9)
            });
            assert_eq!(found, [48 * MIB], "seed {seed}");
        }
    }

    #[test]
    fn where_nothing_rises_and_where_there_is_but_one_point_there_is_no_cache() {
        for seed in 0..200 {
            let flat = caches(&sizes(8 * KIB, 15), seed, 0.08, |_| 80e-9);
            assert!(flat.is_empty(), "seed {seed}: {flat:?}");
        }
        assert!(caches(&[MIB], 1, 0.0, |_| 80e-9).is_empty());
        assert!(caches(&[], 1, 0.0, |_| 80e-9).is_empty());
    }

    #[test]
    fn a_gentle_slope_before_the_knee_does_not_make_the_cache_smaller() {
        // Translation misses: some percent with every doubling beyond 4 MiB.
        let levels = [(32 * MIB, 12e-9)];
        let found = caches(&sizes(64 * KIB, 12), 1, 0.0, |bytes| {
            #[allow(clippy::cast_precision_loss)]
            let octaves = (bytes as f64 / (4.0 * MIB as f64)).log2().max(0.0);
            latency(bytes, &levels, 90e-9) * 1.12f64.powf(octaves)
        });
        assert_eq!(found, [32 * MIB]);
    }

    #[test]
    fn what_lies_within_the_noise_around_it_is_no_cache() {
        // Walks on a processor whose last cache neighbours keep to themselves: 2 MiB of it are left,
        // and beyond 12 MiB the points go up and down as much as they go up.
        let walks = [
            (256, 4.1),
            (512, 5.7),
            (768, 6.9),
            (1024, 10.2),
            (1536, 14.2),
            (2048, 18.9),
            (4096, 153.0),
            (8192, 149.0),
            (12_288, 154.0),
            (16_384, 210.0),
            (24_576, 157.0),
            (32_768, 219.0),
        ]
        .map(|(size, value)| HierarchyPoint {
            bytes: size * KIB,
            value,
        });
        let found = knees(&walks, |seconds| seconds.log2(), LAST_POINT_RATIO_MIN);
        assert_eq!(found, [768 * KIB, 2 * MIB]);
    }

    #[test]
    fn a_single_outlier_is_no_cache() {
        let found = caches(&sizes(8 * KIB, 15), 1, 0.0, |bytes| {
            if bytes == 96 * KIB { 104e-9 } else { 80e-9 }
        });
        assert!(found.is_empty(), "{found:?}");
        let found = caches(&sizes(8 * KIB, 15), 1, 0.0, |bytes| {
            if bytes >= 190 * MIB { 100e-9 } else { 80e-9 }
        });
        assert!(found.is_empty(), "{found:?}");
    }

    fn outcome(op: OpName, sizes: &[(&str, u64)], median: f64) -> Outcome {
        let case = Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.time_s = Some(Times {
            median,
            min: median,
            ..Times::default()
        });
        outcome
    }

    #[test]
    fn outcomes_become_curves_by_ascending_size_and_only_the_runners_own_count() {
        let mut outcomes = Vec::new();
        for lines in [1 << 20, 1 << 10, 1 << 16, 1 << 18, 1 << 13] {
            let walk = [("lines", lines), ("steps", 1 << 20)];
            let load_s = latency(lines * 128, &[(8 * MIB, 50e-9)], 400e-9);
            outcomes.push(outcome(OpName::Chase, &walk, load_s * f64::from(1 << 20)));
        }
        let mut foreign = outcome(OpName::Chase, &[("lines", 64), ("steps", 64)], 1.0);
        foreign.runner = "host".to_owned();
        outcomes.push(foreign);
        outcomes.push(outcome(OpName::Read, &[("n", 1 << 20)], 1e-3));
        let found = hierarchy(&outcomes, "wgpu", &[]).unwrap();
        let sizes: Vec<u64> = found.latency.iter().map(|point| point.bytes).collect();
        assert_eq!(sizes, [128 * KIB, MIB, 8 * MIB, 32 * MIB, 128 * MIB]);
        assert!((found.latency[0].value - 50e-9).abs() < 1e-12);
        assert_eq!(found.caches_bytes, [8 * MIB]);
        assert_eq!(found.last_level_bytes, Some(8 * MIB));
        assert_eq!(found.bandwidth[0].bytes, 4 * MIB);
        assert_eq!(last_level_bytes(&outcomes, "wgpu", &[]), Some(8 * MIB));
        assert_eq!(last_level_bytes(&outcomes, "host", &[]), None);
        assert_eq!(hierarchy(&outcomes, "torch", &[]), None);
    }

    #[test]
    fn without_walks_the_bandwidth_tells() {
        let outcomes: Vec<Outcome> = (12..=26)
            .map(|exponent| {
                let n = 1u64 << exponent;
                // 800 GB/s in a cache of 16 MiB, 100 GB/s beyond.
                #[allow(clippy::cast_precision_loss)]
                let time_s = n as f64 * 4.0 / if n * 4 > 16 * MIB { 100e9 } else { 800e9 };
                outcome(OpName::Read, &[("n", n)], time_s)
            })
            .collect();
        assert_eq!(last_level_bytes(&outcomes, "wgpu", &[]), Some(16 * MIB));
    }
}
