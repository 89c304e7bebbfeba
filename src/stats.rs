//! Order statistics of timings, and what two lists of them say about each other. Nothing is trimmed
//! and no timing is assumed normal.

/// The order statistics that a report shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Middle value.
    pub median: f64,
    /// Lower end of the median's 95 % interval; the minimum below six samples.
    pub ci95_low: f64,
    /// Upper end of it; the maximum below six samples.
    pub ci95_high: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// First quartile.
    pub q1: f64,
    /// Third quartile.
    pub q3: f64,
}

impl Summary {
    /// The summary of `samples` in the order taken; `None` if there are none or one is not finite. The
    /// interval counts only as many of them as are independent of each other.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let share = 1.0 / correlation_time(samples)?;
        Self::with_share(samples, share)
    }

    /// The summary of `samples` that do not depend on each other, as the medians of processes do not.
    #[must_use]
    pub fn of_independent(samples: &[f64]) -> Option<Self> {
        Self::with_share(samples, 1.0)
    }

    /// The summary of samples of which this share (above 0, at most 1) counts.
    fn with_share(samples: &[f64], share: f64) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let (low, high) = share_interval(sorted.len(), share).unwrap_or((0, last));
        Some(Self {
            median: quantile(&sorted, 0.5),
            ci95_low: sorted[low],
            ci95_high: sorted[high],
            min: sorted[0],
            max: sorted[last],
            q1: quantile(&sorted, 0.25),
            q3: quantile(&sorted, 0.75),
        })
    }

    /// Half the interval's width relative to the median.
    #[must_use]
    pub fn relative_half_width(&self) -> f64 {
        (self.ci95_high - self.ci95_low) / 2.0 / self.median
    }
}

/// Linear interpolation between order statistics (Hyndman and Fan's type 7, as in R and numpy).
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub(crate) fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let place = fraction * (sorted.len() - 1) as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (place - low as f64) * (sorted[high] - sorted[low])
}

/// Places (from 0) of the order statistics that enclose the median with at least 95 % probability,
/// whatever the distribution: the number of samples below the median is binomial(n, 1/2). `None`
/// below six samples, where even the extremes do not.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn median_interval(count: usize) -> Option<(usize, usize)> {
    const TAIL: f64 = 0.025;
    let n = count as f64;
    // In logarithms: 2^-n alone underflows beyond a thousand samples.
    let mut log_term = -n * std::f64::consts::LN_2;
    let mut cumulative = 0.0;
    let mut place = None;
    for below in 0..count {
        cumulative += log_term.exp();
        if cumulative > TAIL {
            break;
        }
        place = Some(below);
        log_term += ((n - below as f64) / (below as f64 + 1.0)).ln();
    }
    place.map(|low| (low, count - 1 - low))
}

/// The places among `count` order statistics that enclose the median where only a share of them is
/// independent: those of so many fewer, spread over all.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn share_interval(count: usize, share: f64) -> Option<(usize, usize)> {
    let fewer = (count as f64 * share).floor() as usize;
    let (low, _) = median_interval(fewer)?;
    // Ranks go in steps, and fewer samples must not seem to tell more.
    let low = (low * count / fewer).min(median_interval(count)?.0);
    Some((low, count - 1 - low))
}

/// How many successive samples tell as much as one independent sample would: the integrated
/// autocorrelation time of "lies above the median", by which the variance of the median's rank is larger.
/// Summed over Geyer's initial sequence of positive pairs (Practical Markov Chain Monte Carlo, Statistical
/// Science 7, 1992), and at least one: samples that avoid each other narrow nothing. `None` if there are
/// no samples or one is not finite.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn correlation_time(samples: &[f64]) -> Option<f64> {
    let median = median(samples)?;
    let above: Vec<f64> = samples
        .iter()
        .map(|value| match value.total_cmp(&median) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.0,
            std::cmp::Ordering::Less => -1.0,
        })
        .collect();
    let product = |lag: usize| -> f64 {
        let later = above.iter().skip(lag);
        above.iter().zip(later).map(|(a, b)| a * b).sum()
    };
    let variance = product(0);
    if variance == 0.0 {
        return Some(1.0); // all alike
    }
    let mut pairs = 0.0;
    for lag in (0..samples.len()).step_by(2) {
        let pair = (product(lag) + product(lag + 1)) / variance;
        if pair <= 0.0 {
            break;
        }
        pairs += pair;
    }
    Some((2.0 * pairs - 1.0).clamp(1.0, samples.len() as f64))
}

/// What two lists of times say about each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// First over second: above one the second takes less time.
    pub ratio: f64,
    /// Lower end of its 95 % interval.
    pub ci95_low: f64,
    /// Upper end of it.
    pub ci95_high: f64,
    /// How often chance alone would show a difference as clear as this, were there none.
    pub p_value: f64,
}

/// The standard normal quantile of a two-sided 95 % interval.
const Z95: f64 = 1.959_963_984_540_054;

/// Resamples of a bootstrap. The ends of a 95 % interval are then order statistics ten to a hundred
/// deep, and the choice of the seed moves them by a few hundredths of the interval's width.
const RESAMPLE_COUNT: usize = 4000;

/// Up to this many pairs the signed-rank distribution is enumerated; beyond it is normal to well
/// within what a verdict can depend on.
const PAIRS_EXACT_MAX: usize = 64;

/// Up to this product of the two counts the rank-sum distribution is enumerated.
const PRODUCT_EXACT_MAX: usize = 225;

/// What paired times (one pair per block, both taken side by side) say: the median of the pairs'
/// ratios, its expanded percentile bootstrap interval over resampled pairs, and Wilcoxon's signed-rank test,
/// which is the sign-flip permutation test on the ranks of the log ratios, so that one hiccup of the
/// machine counts for no more than one pair. All on a log scale, so that swapping the two sides
/// gives exactly the inverse. `None` where the lists are empty, of unequal length or not positive.
#[must_use]
pub fn paired(first: &[f64], second: &[f64]) -> Option<Estimate> {
    let (first, second) = (logarithms(first)?, logarithms(second)?);
    if first.len() != second.len() {
        return None;
    }
    let mut differences: Vec<f64> = first.iter().zip(&second).map(|(a, b)| a - b).collect();
    differences.sort_unstable_by(f64::total_cmp);
    // Without the signs, so that both directions are resampled alike, only mirrored.
    let mut sizes: Vec<f64> = differences.iter().map(|d| d.abs()).collect();
    sizes.sort_unstable_by(f64::total_cmp);
    let mut random = Random::of(&sizes, 0);
    let mut turned = differences.clone();
    negate(&mut turned);
    let mirrored = fingerprint(&differences) > fingerprint(&turned);
    if mirrored {
        differences = turned;
    }
    let mut drawn: Vec<f64> = Vec::with_capacity(RESAMPLE_COUNT);
    let mut counts = vec![0u32; differences.len()];
    for _ in 0..RESAMPLE_COUNT {
        drawn.push(resampled_median(&differences, &mut counts, &mut random));
    }
    Some(estimate(
        quantile(&differences, 0.5),
        drawn,
        expanded_tail(differences.len()),
        signed_rank_p(&differences),
        mirrored,
    ))
}

/// What two independent lists of times say: the ratio of their medians (the middle two averaged as
/// logarithms), its percentile bootstrap interval with both lists resampled, and the Wilcoxon-Mann-
/// Whitney rank-sum test, which is the permutation test on ranks. Swapping the sides gives the
/// inverse. `None` where a list is empty or not positive.
#[must_use]
pub fn independent(first: &[f64], second: &[f64]) -> Option<Estimate> {
    let (mut first, mut second) = (logarithms(first)?, logarithms(second)?);
    first.sort_unstable_by(f64::total_cmp);
    second.sort_unstable_by(f64::total_cmp);
    let p_value = rank_sum_p(&first, &second);
    // One order of the two, whichever way round they are given. Equal lists have one anyway, and
    // different streams, or each resample of one would be met by the same resample of the other.
    let mirrored = fingerprint(&first) > fingerprint(&second);
    if mirrored {
        std::mem::swap(&mut first, &mut second);
    }
    let (mut one, mut two) = (Random::of(&first, 1), Random::of(&second, 2));
    let mut counts = vec![0u32; first.len().max(second.len())];
    let drawn: Vec<f64> = (0..RESAMPLE_COUNT)
        .map(|_| {
            resampled_median(&first, &mut counts, &mut one)
                - resampled_median(&second, &mut counts, &mut two)
        })
        .collect();
    let middle = quantile(&first, 0.5) - quantile(&second, 0.5);
    Some(estimate(middle, drawn, 0.025, p_value, mirrored))
}

/// What two medians say of which only an error on the log scale is known: a normal interval.
/// `None` where a median is not positive or the error not finite.
#[must_use]
pub fn assumed(first: f64, second: f64, log_standard_error: f64) -> Option<Estimate> {
    let middle = (first / second).ln();
    if !middle.is_finite() || !log_standard_error.is_finite() || log_standard_error < 0.0 {
        return None;
    }
    let half = Z95 * log_standard_error;
    let p_value = if log_standard_error > 0.0 {
        normal_p(middle / log_standard_error)
    } else if middle == 0.0 {
        1.0
    } else {
        0.0
    };
    Some(Estimate {
        ratio: middle.exp(),
        ci95_low: (middle - half).exp(),
        ci95_high: (middle + half).exp(),
        p_value,
    })
}

/// The standard error on the log scale that a 95 % interval stands for.
#[must_use]
pub fn log_standard_error(ci95_low: f64, ci95_high: f64) -> f64 {
    (ci95_high / ci95_low).ln() / 2.0 / Z95
}

/// Which of several differences are there when at most `rate` of those found may be false on
/// average: Benjamini and Hochberg's step-up procedure (1995). One answer for each p-value.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn benjamini_hochberg(p_values: &[f64], rate: f64) -> Vec<bool> {
    let mut sorted = p_values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let limit = sorted
        .iter()
        .zip(1u32..)
        .filter(|(p, rank)| **p <= rate * f64::from(*rank) / count)
        .map(|(&p, _)| p)
        .last();
    p_values
        .iter()
        .map(|&p| limit.is_some_and(|limit| p <= limit))
        .collect()
}

/// The smallest p-value that so many pairs can give.
#[must_use]
pub fn paired_p_min(pair_count: usize) -> f64 {
    0.5f64.powi(i32::try_from(pair_count).unwrap_or(i32::MAX) - 1)
}

/// Spread of values relative to their median: the median absolute deviation, scaled so that it is the
/// standard deviation of a normal distribution. A few values far off do not move it. Zero for none.
#[must_use]
pub fn robust_spread(values: &[f64]) -> f64 {
    /// One over the third quartile of the standard normal distribution.
    const SCALE: f64 = 1.4826;
    let Some(middle) = median(values).filter(|middle| *middle > 0.0) else {
        return 0.0;
    };
    let deviations: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    median(&deviations).map_or(0.0, |deviation| SCALE * deviation / middle)
}

/// Standard deviation of logarithms: the relative one of times, where it is small. Zero below two.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn relative_sd(times: &[f64]) -> f64 {
    let Some(logs) = logarithms(times).filter(|logs| logs.len() > 1) else {
        return 0.0;
    };
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
    (squares / (count - 1.0)).sqrt()
}

/// The median of any values; `None` of none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    Summary::of_independent(values).map(|summary| summary.median)
}

/// The share of resamples to leave out at each end so that an interval of one short list covers what
/// it says: the bootstrap takes a list's own spread for the truth, which is too narrow by
/// sqrt((n - 1) / n) and knows nothing of Student's t (Hesterberg, What Teachers Should Know About
/// the Bootstrap, 2015). Without it, intervals of seven pairs cover 86 %. The ratio of two
/// independent medians does not need it: the second list smooths the steps of the first.
#[allow(clippy::cast_precision_loss)]
fn expanded_tail(count: usize) -> f64 {
    let freedom = count.saturating_sub(1).max(1) as f64;
    let (z, n) = (Z95, count as f64);
    // Student's quantile by its expansion in 1 / freedom (Abramowitz and Stegun 26.7.5).
    let t = z
        + (z.powi(3) + z) / (4.0 * freedom)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * freedom.powi(2))
        + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z)
            / (384.0 * freedom.powi(3));
    normal_p((n / freedom).sqrt() * t) / 2.0
}

fn estimate(middle: f64, mut drawn: Vec<f64>, tail: f64, p_value: f64, mirrored: bool) -> Estimate {
    drawn.sort_unstable_by(f64::total_cmp);
    let mut ends = [quantile(&drawn, tail), middle, quantile(&drawn, 1.0 - tail)];
    if mirrored {
        negate(&mut ends);
    }
    // The middle belongs to its interval, also where the resamples are few and lopsided.
    Estimate {
        ratio: ends[1].exp(),
        ci95_low: ends[0].min(ends[1]).exp(),
        ci95_high: ends[2].max(ends[1]).exp(),
        p_value,
    }
}

/// Turns ascending values round, ascending again.
fn negate(values: &mut [f64]) {
    values.reverse();
    for value in values {
        *value = -*value;
    }
}

fn logarithms(times: &[f64]) -> Option<Vec<f64>> {
    let logs: Vec<f64> = times.iter().map(|time| time.ln()).collect();
    (!logs.is_empty() && logs.iter().all(|log| log.is_finite())).then_some(logs)
}

/// The median of as many draws with replacement from ascending values, by counting how often each
/// was drawn: no sort.
fn resampled_median(sorted: &[f64], counts: &mut [u32], random: &mut Random) -> f64 {
    let count = sorted.len();
    let counts = &mut counts[..count];
    counts.fill(0);
    for _ in 0..count {
        counts[random.below(count)] += 1;
    }
    let (low, high) = ((count - 1) / 2, count / 2);
    let mut seen = 0usize;
    let mut lower = None;
    for (&value, &times) in sorted.iter().zip(counts.iter()) {
        seen += times as usize;
        if seen > low && lower.is_none() {
            lower = Some(value);
        }
        if seen > high {
            return lower.map_or(value, |lower| f64::midpoint(lower, value));
        }
    }
    sorted[count - 1]
}

/// Random numbers for resampling: SplitMix64 (Steele, Lea and Flood, 2014), seeded by the data
/// itself, so that the same reports give the same verdict.
struct Random(u64);

impl Random {
    fn of(values: &[f64], stream: u64) -> Self {
        Self(fingerprint(values) ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }

    #[allow(clippy::cast_possible_truncation)] // below `count`
    fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }
}

fn scramble(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn fingerprint(values: &[f64]) -> u64 {
    values.iter().fold(values.len() as u64, |hash, value| {
        scramble(hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ value.to_bits())
    })
}

/// Twice the rank of each value, equal values sharing the mean of their ranks: twice, because such
/// a mean may be a half.
fn doubled_ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let end = (start..order.len())
            .take_while(|&i| values[order[i]] == values[order[start]])
            .last()
            .map_or(start, |last| last)
            + 1;
        for &place in &order[start..end] {
            // Ranks start+1 to end; twice their mean.
            ranks[place] = start + 1 + end;
        }
        start = end;
    }
    ranks
}

/// Two-sided p-value of the signed-rank test: over all assignments of signs, how often the sum of
/// the positive ranks lies as far from its middle as here. Differences of zero take part in the
/// ranking and then count for nothing (Pratt, 1959).
#[allow(clippy::cast_precision_loss)]
fn signed_rank_p(differences: &[f64]) -> f64 {
    let sizes: Vec<f64> = differences.iter().map(|d| d.abs()).collect();
    let ranks: Vec<(usize, bool)> = doubled_ranks(&sizes)
        .into_iter()
        .zip(differences)
        .filter(|(_, d)| **d != 0.0)
        .map(|(rank, d)| (rank, *d > 0.0))
        .collect();
    let total: usize = ranks.iter().map(|(rank, _)| rank).sum();
    let positive: usize = ranks
        .iter()
        .filter(|(_, up)| *up)
        .map(|(rank, _)| rank)
        .sum();
    if ranks.is_empty() {
        return 1.0;
    }
    // Twice the distance from the middle, which is half the total.
    let distance = (2 * positive).abs_diff(total);
    if ranks.len() > PAIRS_EXACT_MAX {
        let variance: f64 = ranks.iter().map(|(rank, _)| (*rank as f64).powi(2)).sum();
        return normal_p(distance as f64 / variance.sqrt());
    }
    let mut chance = vec![0.0f64; total + 1];
    chance[0] = 1.0;
    let mut reached = 0;
    for (rank, _) in ranks {
        reached += rank;
        for sum in (0..=reached).rev() {
            let with = if sum >= rank { chance[sum - rank] } else { 0.0 };
            chance[sum] = 0.5 * (chance[sum] + with);
        }
    }
    tails(&chance, total, distance)
}

/// The chance of all sums whose double lies at least `distance` from `twice_the_middle`.
fn tails(chance: &[f64], twice_the_middle: usize, distance: usize) -> f64 {
    let sum: f64 = chance
        .iter()
        .enumerate()
        .filter(|(sum, _)| (2 * sum).abs_diff(twice_the_middle) >= distance)
        .map(|(_, chance)| chance)
        .sum();
    // Rounding in the last place is no chance of its own.
    if sum > 1.0 - 1e-12 { 1.0 } else { sum }
}

/// Two-sided p-value of the rank-sum test: over all ways to deal the ranks to the two sides, how
/// often the first side's sum lies as far from its mean as here.
#[allow(clippy::cast_precision_loss)]
fn rank_sum_p(first: &[f64], second: &[f64]) -> f64 {
    let all: Vec<f64> = first.iter().chain(second).copied().collect();
    let ranks = doubled_ranks(&all);
    let (ours, count) = (first.len(), all.len());
    let sum: usize = ranks[..ours].iter().sum();
    // The mean of the doubled sum is ours * (count + 1), so that twice it is whole.
    let twice_the_mean = 2 * ours * (count + 1);
    let distance = (2 * sum).abs_diff(twice_the_mean);
    if ours * second.len() > PRODUCT_EXACT_MAX {
        let mean = (count + 1) as f64;
        let squares: f64 = ranks.iter().map(|&rank| (rank as f64 - mean).powi(2)).sum();
        let share = (ours * second.len()) as f64 / (count * (count - 1)) as f64;
        let sd = (squares * share).sqrt();
        return if sd > 0.0 {
            normal_p(distance as f64 / 2.0 / sd)
        } else {
            1.0
        };
    }
    // Ways to reach each sum with so many ranks of those looked at.
    let total: usize = ranks.iter().sum();
    let width = total + 1;
    let mut ways = vec![0.0f64; (ours + 1) * width];
    ways[0] = 1.0;
    for rank in ranks {
        for taken in (1..=ours).rev() {
            let (below, here) = ways.split_at_mut(taken * width);
            let below = &below[(taken - 1) * width..];
            for (way, with) in here[rank..width].iter_mut().zip(below) {
                *way += with;
            }
        }
    }
    let last = &mut ways[ours * width..];
    let all_ways: f64 = last.iter().sum();
    for way in last.iter_mut() {
        *way /= all_ways;
    }
    tails(last, twice_the_mean, distance)
}

/// The chance that a standard normal value lies at least `z` from zero: erfc(|z| / sqrt 2) by the
/// Chebyshev fit of Numerical Recipes (`erfcc`), good to 1.2e-7 of its value everywhere.
fn normal_p(z: f64) -> f64 {
    const COEFFICIENTS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let series = COEFFICIENTS.iter().rev().fold(0.0, |sum, c| sum * t + c);
    (t * (series - x * x).exp()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_median_interval_matches_the_published_table() {
        // Conover, Practical Nonparametric Statistics: n -> ranks of the 95 % interval, from one.
        for (n, ranks) in [
            (6, (1, 6)),
            (10, (2, 9)),
            (20, (6, 15)),
            (50, (18, 33)),
            (100, (40, 61)),
        ] {
            let (low, high) = median_interval(n).unwrap();
            assert_eq!((low + 1, high + 1), ranks, "n = {n}");
        }
        assert_eq!(median_interval(5), None);
    }

    #[test]
    fn thousands_of_samples_do_not_underflow() {
        let (low, high) = median_interval(10_000).unwrap();
        assert!(
            (4890..4910).contains(&low) && high == 9_999 - low,
            "{low} {high}"
        );
    }

    /// Samples of which each is the one before times `memory` and something new.
    fn remembering(memory: f64, count: usize, random: &mut Random) -> Vec<f64> {
        let fresh = (1.0 - memory * memory).sqrt();
        let mut value = 0.0;
        let mut samples = Vec::with_capacity(count);
        for at in 0..count + 100 {
            // Twelve uniform numbers make a normal one, near enough.
            let uniform = (0..12).map(|_| random.next() as f64 / u64::MAX as f64);
            value = memory * value + fresh * (uniform.sum::<f64>() - 6.0);
            if at >= 100 {
                samples.push(1.0 + 0.01 * value);
            }
        }
        samples
    }

    #[test]
    fn intervals_cover_also_where_samples_depend_on_each_other() {
        let mut random = Random(7);
        let mut covered = |memory: f64, count: usize| {
            let mut counts = [0u32; 2];
            for _ in 0..1000 {
                let samples = remembering(memory, count, &mut random);
                let both = [Summary::of(&samples), Summary::of_independent(&samples)];
                for (count, summary) in counts.iter_mut().zip(both) {
                    let summary = summary.unwrap();
                    *count += u32::from(summary.ci95_low <= 1.0 && 1.0 <= summary.ci95_high);
                }
            }
            counts
        };
        for (memory, count, least, most) in [
            (0.0, 20, 940, 985),
            (0.0, 100, 935, 980),
            (0.5, 40, 890, 970),
            (0.5, 200, 915, 975),
            (0.8, 200, 890, 970),
        ] {
            let [corrected, plain] = covered(memory, count);
            eprintln!(
                "memory {memory}, {count} samples: {corrected} of 1000, {plain} if taken for independent"
            );
            assert!(
                (least..=most).contains(&corrected),
                "{memory} {count}: {corrected}"
            );
            assert!(memory < 0.5 || plain < 850, "{memory} {count}: {plain}");
        }
    }

    /// Real samples: both halves of one measurement should agree.
    #[test]
    fn intervals_of_both_halves_of_a_measurement_seldom_lie_apart() {
        let mut files = vec![std::path::PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/reports"
        ))];
        let [mut total, mut apart, mut apart_plain] = [0u32; 3];
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(
                    std::fs::read_dir(path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
                continue;
            }
            let Some(text) = (path.extension().is_some_and(|e| e == "json"))
                .then(|| std::fs::read_to_string(&path).unwrap())
            else {
                continue;
            };
            let report: serde_json::Value = serde_json::from_str(&text).unwrap();
            // Those that METHODOLOGY speaks of, and none that a run on this machine has left here.
            let version = report["schema_version"].as_str().unwrap();
            if !(0..8).any(|minor| version.starts_with(&format!("1.{minor}."))) {
                continue;
            }
            for outcome in report["outcomes"].as_array().unwrap() {
                let samples: Vec<f64> = (outcome["time_s"]["samples"].as_array())
                    .map(|list| list.iter().filter_map(serde_json::Value::as_f64).collect())
                    .unwrap_or_default();
                if samples.len() < 40 {
                    continue;
                }
                let (first, second) = samples.split_at(samples.len() / 2);
                let are_apart = |of: fn(&[f64]) -> Option<Summary>| {
                    let (a, b) = (of(first).unwrap(), of(second).unwrap());
                    u32::from(a.ci95_high < b.ci95_low || b.ci95_high < a.ci95_low)
                };
                total += 1;
                apart += are_apart(Summary::of);
                apart_plain += are_apart(Summary::of_independent);
            }
        }
        eprintln!("{total} measurements: apart {apart}, {apart_plain} if taken for independent");
        assert!(total > 300);
        assert!(3 * apart < apart_plain);
    }

    #[test]
    fn how_long_samples_remember() {
        let alternating: Vec<f64> = (0..40).map(|i| f64::from(i % 2)).collect();
        assert_eq!(correlation_time(&alternating), Some(1.0));
        assert_eq!(correlation_time(&[1.0; 9]), Some(1.0));
        assert_eq!(correlation_time(&[]), None);
        // Two levels, one after the other: all of it is one observation or two.
        let step: Vec<f64> = (0..40).map(|i| f64::from(i / 20)).collect();
        assert!(correlation_time(&step).unwrap() > 10.0);
        let summary = Summary::of(&step).unwrap();
        assert_eq!((summary.ci95_low, summary.ci95_high), (0.0, 1.0));
    }

    #[test]
    fn quartiles_match_numpy() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((summary.q1, summary.median, summary.q3), (1.75, 2.5, 3.25));
    }

    #[test]
    fn a_robust_spread_is_not_moved_by_a_few_values_far_off() {
        let even: Vec<f64> = (0..101).map(|i| 1.0 + f64::from(i) * 1e-3).collect();
        let mut far = even.clone();
        far[100] = 50.0;
        assert!((robust_spread(&even) - 1.4826 * 0.025 / 1.05).abs() < 1e-3);
        assert_eq!(robust_spread(&even), robust_spread(&far));
        assert_eq!(robust_spread(&[]), 0.0);
    }

    #[test]
    fn no_samples_and_broken_samples_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    proptest! {
        #[test]
        fn the_parts_are_ordered_and_independent_of_sample_order(
            mut samples in proptest::collection::vec(1e-9f64..1e3, 1..200), seed in any::<u64>()
        ) {
            let summary = Summary::of_independent(&samples).unwrap();
            let parts = [summary.min, summary.q1, summary.median, summary.q3, summary.max];
            prop_assert!(parts.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(summary.ci95_low <= summary.median && summary.median <= summary.ci95_high);
            let middle = (seed as usize) % samples.len();
            samples.rotate_left(middle);
            prop_assert_eq!(Summary::of_independent(&samples).unwrap(), summary);
            // In whatever order they come, samples that remember tell no more.
            let in_order = Summary::of(&samples).unwrap();
            prop_assert!(in_order.ci95_low <= summary.ci95_low && summary.ci95_high <= in_order.ci95_high);
            prop_assert_eq!(in_order.median, summary.median);
        }
    }

    #[test]
    fn the_interval_covers_the_true_median_nineteen_times_in_twenty() {
        // 2000 draws of 15 from the input hash; coverage is at least 95 % by construction.
        let keys = crate::input::keys(11, 0);
        let covered = (0..2000u32)
            .filter(|draw| {
                let samples: Vec<f64> = (0..15)
                    .map(|i| {
                        f64::from(crate::input::uniform(crate::input::word(
                            keys,
                            draw * 15 + i,
                        )))
                    })
                    .collect();
                let summary = Summary::of(&samples).unwrap();
                summary.ci95_low <= 0.0 && 0.0 <= summary.ci95_high
            })
            .count();
        // Binomial(2000, 0.965): three standard deviations are 25. Some intervals are wider, where chance
        // made samples follow each other.
        assert!((1900..1980).contains(&covered), "{covered} of 2000");
    }

    /// Draws that are the same in every run.
    struct Draws(Random);

    impl Draws {
        fn new(seed: u64) -> Self {
            Self(Random(scramble(seed)))
        }

        #[allow(clippy::cast_precision_loss)]
        fn uniform(&mut self) -> f64 {
            ((self.0.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        }

        /// Box and Muller's transform.
        fn normal(&mut self) -> f64 {
            (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
        }

        fn lognormal(&mut self, count: usize, median: f64, sd: f64) -> Vec<f64> {
            (0..count)
                .map(|_| median * (sd * self.normal()).exp())
                .collect()
        }
    }

    fn holds(estimate: Estimate, ratio: f64) -> bool {
        (estimate.ci95_low..=estimate.ci95_high).contains(&ratio)
    }

    #[test]
    fn intervals_of_ratios_cover_the_true_ratio_of_lognormal_times() {
        for count in [6, 7, 8, 10, 15, 20, 40] {
            let mut draws = Draws::new(count as u64);
            let tries = 600;
            let (mut covered_paired, mut covered_independent) = (0, 0);
            for _ in 0..tries {
                let second = draws.lognormal(count, 1e-3, 0.03);
                // The blocks drift, both of a pair alike.
                let first: Vec<f64> = second
                    .iter()
                    .map(|time| 1.2 * time * (0.02 * draws.normal()).exp())
                    .collect();
                covered_paired += u32::from(holds(paired(&first, &second).unwrap(), 1.2));
                let first = draws.lognormal(count + 2, 1.2e-3, 0.05);
                covered_independent += u32::from(holds(independent(&first, &second).unwrap(), 1.2));
            }
            let share = |covered: u32| f64::from(covered) / f64::from(tries);
            assert!(
                share(covered_paired) >= 0.92,
                "{count} pairs: {}",
                share(covered_paired)
            );
            assert!(
                share(covered_independent) >= 0.92,
                "{count} a side: {}",
                share(covered_independent)
            );
        }
    }

    fn inverse(one: Estimate, other: Estimate) -> bool {
        let close = |a: f64, b: f64| (a * b - 1.0).abs() < 1e-9;
        close(one.ratio, other.ratio)
            && close(one.ci95_low, other.ci95_high)
            && close(one.ci95_high, other.ci95_low)
            && (one.p_value - other.p_value).abs() < 1e-9
    }

    proptest! {
        #[test]
        fn swapping_the_sides_inverts_the_ratio_and_its_interval(
            pairs in proptest::collection::vec((1e-6f64..1e3, 1e-6f64..1e3), 1..40)
        ) {
            let (first, second): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            prop_assert!(inverse(paired(&first, &second).unwrap(), paired(&second, &first).unwrap()));
            prop_assert!(inverse(
                independent(&first, &second).unwrap(),
                independent(&second, &first).unwrap()
            ));
        }

        #[test]
        fn the_same_data_give_the_same_estimate_and_it_lies_in_its_interval(
            first in proptest::collection::vec(1e-6f64..1e3, 1..30),
            second in proptest::collection::vec(1e-6f64..1e3, 1..30)
        ) {
            let estimate = independent(&first, &second).unwrap();
            prop_assert_eq!(independent(&first, &second).unwrap(), estimate);
            prop_assert!(holds(estimate, estimate.ratio));
            prop_assert!((0.0..=1.0).contains(&estimate.p_value));
        }
    }

    #[test]
    fn signed_ranks_are_counted_exactly() {
        // All signs, by hand.
        for (differences, hits, all) in [
            (&[1.0, 2.0, 3.0][..], 2, 8),
            // Sums of positive ranks as far out as 5 of 6: 0, 1, 5, 6.
            (&[-1.0, 2.0, 3.0], 4, 8),
            (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 64),
            // Ties share ranks: 1.5, 1.5, 3; the sum is 4.5 and as far out are 6, 4.5, 4.5, 1.5, 1.5, 0.
            (&[-1.0, 1.0, 3.0], 6, 8),
            // A zero takes rank one and then counts for nothing.
            (&[0.0, 2.0, 3.0], 2, 4),
            (&[0.0, 0.0], 1, 1),
        ] {
            let p = signed_rank_p(differences);
            let want = f64::from(hits) / f64::from(all);
            assert!((p - want).abs() < 1e-12, "{differences:?}: {p}, not {want}");
        }
        let all_up: Vec<f64> = (1..=10).map(f64::from).collect();
        assert!((signed_rank_p(&all_up) - paired_p_min(10)).abs() < 1e-15);
    }

    #[test]
    fn rank_sums_are_counted_exactly() {
        // Mann and Whitney's table: U = 0 for 3 and 3 has 2 of 20 ways, U = 1 has 4.
        let p = rank_sum_p(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
        assert!((p - 2.0 / 20.0).abs() < 1e-12, "{p}");
        let p = rank_sum_p(&[1.0, 2.0, 4.0], &[3.0, 5.0, 6.0]);
        assert!((p - 4.0 / 20.0).abs() < 1e-12, "{p}");
        let p = rank_sum_p(&[1.0; 5], &[2.0; 5]);
        assert!((p - 2.0 / 252.0).abs() < 1e-12, "{p}");
        assert!((rank_sum_p(&[1.0; 5], &[1.0; 5]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_exact_tests_and_their_normal_limits_agree_where_they_meet() {
        let mut draws = Draws::new(5);
        for _ in 0..50 {
            let exact: Vec<f64> = (0..PAIRS_EXACT_MAX).map(|_| draws.normal() + 0.2).collect();
            let mut beyond = exact.clone();
            beyond.push(0.001);
            let (one, other) = (signed_rank_p(&exact), signed_rank_p(&beyond));
            assert!((one - other).abs() < 0.02 + 0.1 * one, "{one} {other}");
            let first = draws.lognormal(15, 1.0, 0.1);
            let mut second = draws.lognormal(15, 1.05, 0.1);
            let exact = rank_sum_p(&first, &second);
            second.push(1.03);
            let normal = rank_sum_p(&first, &second);
            assert!(
                (exact - normal).abs() < 0.05 + 0.1 * exact,
                "{exact} {normal}"
            );
        }
    }

    #[test]
    fn normal_tails_match_the_tables() {
        for (z, p) in [
            (0.0, 1.0),
            (1.0, 0.317_310_5),
            (-1.959_963_984_5, 0.05),
            (3.290_526_73, 0.001),
        ] {
            assert!((normal_p(z) / p - 1.0).abs() < 1e-6, "{z}: {}", normal_p(z));
        }
        assert!((normal_p(6.0) / 1.973_175e-9 - 1.0).abs() < 1e-4);
    }

    #[test]
    fn p_values_of_no_difference_are_as_rare_as_they_say() {
        let mut draws = Draws::new(9);
        let tries = 4000;
        let (mut pairs, mut sides) = (0, 0);
        for _ in 0..tries {
            let (first, second) = (draws.lognormal(8, 1.0, 0.1), draws.lognormal(8, 1.0, 0.1));
            let logs: Vec<f64> = first
                .iter()
                .zip(&second)
                .map(|(a, b)| (a / b).ln())
                .collect();
            pairs += u32::from(signed_rank_p(&logs) <= 0.05);
            sides += u32::from(rank_sum_p(&first, &second) <= 0.05);
        }
        // Three standard deviations of binomial(4000, 0.05) are 41.
        assert!(pairs <= 241 && sides <= 241, "{pairs} {sides}");
        assert!(pairs >= 120 && sides >= 120, "{pairs} {sides}");
    }

    #[test]
    fn benjamini_and_hochberg_find_what_their_paper_finds() {
        // The fifteen p-values of the paper's example; at 5 % the first four are kept.
        let p_values = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
            0.5719, 0.6528, 0.7590, 1.0,
        ];
        let found = benjamini_hochberg(&p_values, 0.05);
        assert_eq!(found.iter().filter(|kept| **kept).count(), 4);
        assert!(found[..4].iter().all(|kept| *kept));
        assert_eq!(benjamini_hochberg(&[], 0.05), Vec::<bool>::new());
        // The largest may save those before it.
        assert_eq!(benjamini_hochberg(&[0.04, 0.05], 0.05), [true, true]);
        assert_eq!(benjamini_hochberg(&[0.04, 0.06], 0.05), [false, false]);
    }

    #[test]
    fn the_share_of_false_finds_is_what_was_asked_for() {
        // 40 cases of which 10 differ; the mean share of false ones among those found.
        let mut draws = Draws::new(3);
        let tries = 300;
        let mut share = 0.0;
        let mut found_true = 0;
        for _ in 0..tries {
            let p_values: Vec<f64> = (0..40)
                .map(|case| {
                    let shift = if case < 10 { 0.04 } else { 0.0 };
                    let logs: Vec<f64> = (0..12).map(|_| shift + 0.02 * draws.normal()).collect();
                    signed_rank_p(&logs)
                })
                .collect();
            let found = benjamini_hochberg(&p_values, 0.05);
            let right = found[..10].iter().filter(|kept| **kept).count();
            let wrong = found[10..].iter().filter(|kept| **kept).count();
            #[allow(clippy::cast_precision_loss)]
            {
                share += wrong as f64 / (right + wrong).max(1) as f64;
            }
            found_true += right;
        }
        let share = share / f64::from(tries);
        assert!(share <= 0.05, "{share}");
        assert!(found_true > 2900, "{found_true} of 3000");
        // With no difference anywhere, a find of any kind is as rare.
        let alarms = (0..1000)
            .filter(|_| {
                let p_values: Vec<f64> = (0..20).map(|_| draws.uniform()).collect();
                benjamini_hochberg(&p_values, 0.05).contains(&true)
            })
            .count();
        assert!(alarms <= 71, "{alarms} of 1000");
    }

    #[test]
    fn one_hiccup_among_ten_pairs_does_not_hide_a_difference() {
        let base: Vec<f64> = (0..10).map(|i| 1.0 + 0.001 * f64::from(i)).collect();
        let mut other: Vec<f64> = base.iter().map(|time| time * 1.03).collect();
        other[4] = 5.0;
        let found = paired(&base, &other).unwrap();
        assert!(found.p_value < 0.01 && found.ci95_high < 0.98, "{found:?}");
    }

    #[test]
    fn lists_that_say_nothing_give_no_estimate() {
        assert_eq!(paired(&[], &[]), None);
        assert_eq!(paired(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(independent(&[0.0], &[1.0]), None);
        assert_eq!(independent(&[f64::NAN], &[1.0]), None);
        assert_eq!(assumed(1.0, 0.0, 0.1), None);
    }
}
