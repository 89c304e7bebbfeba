//! Where a series of times steps: E-divisive means (Matteson and James, "A nonparametric approach for
//! multiple change point analysis of multivariate data", JASA 109, 2014) with t tests in place of
//! permutations, as Hunter does it (Fleming, Kołaczkowski et al., "Hunter: using change point
//! detection to hunt for performance regressions", ICPE 2023), whose successor is Apache Otava.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Points that each side of a step has at least. Two that lie close by chance make any third far off.
const SIDE_MIN: usize = 3;

/// How much weaker than asked a step may be while others are still sought: one that is found first may
/// only become clear once its neighbours are.
const WEAK: f64 = 10.0;

/// A step between `at - 1` and `at`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) at: usize,
    /// Of the difference between the stretches beside it, for a place that was chosen among all.
    pub(super) p_value: f64,
}

/// The two-sided p-value of Welch's t test (Welch, "The generalization of Student's problem when
/// several different population variances are involved", Biometrika 34, 1947).
pub(super) fn welch(first: &[f64], second: &[f64]) -> f64 {
    let (mean_a, error_a, freedom_a) = moments(first);
    let (mean_b, error_b, freedom_b) = moments(second);
    let error = error_a + error_b;
    // Differences of rounding are none.
    if (mean_a - mean_b).abs() <= 1e-12 * mean_a.abs().max(mean_b.abs()) {
        return 1.0;
    }
    if error <= 0.0 {
        return 0.0;
    }
    let freedom = error * error / (error_a * error_a / freedom_a + error_b * error_b / freedom_b);
    let t = (mean_a - mean_b).abs() / error.sqrt();
    StudentsT::new(0.0, 1.0, freedom).map_or(1.0, |student| 2.0 * student.sf(t))
}

/// The two-sided p-value of Student's t test, which takes the spreads of both sides for equal.
#[allow(clippy::cast_precision_loss)]
fn student(first: &[f64], second: &[f64]) -> f64 {
    let (mean_a, error_a, freedom_a) = moments(first);
    let (mean_b, error_b, freedom_b) = moments(second);
    let (count_a, count_b) = (first.len() as f64, second.len() as f64);
    let freedom = freedom_a + freedom_b;
    let variance = (error_a * count_a * freedom_a + error_b * count_b * freedom_b) / freedom;
    let error = variance * (1.0 / count_a + 1.0 / count_b);
    if (mean_a - mean_b).abs() <= 1e-12 * mean_a.abs().max(mean_b.abs()) {
        return 1.0;
    }
    if error <= 0.0 {
        return 0.0;
    }
    let t = (mean_a - mean_b).abs() / error.sqrt();
    StudentsT::new(0.0, 1.0, freedom).map_or(1.0, |student| 2.0 * student.sf(t))
}

/// The p-value of a step whose place was sought. Where two sides of noise differ most they differ more
/// than at a place that was named beforehand, so it counts once for each place that the step could
/// have had (Bonferroni). The larger of two tests is taken, for a place can be chosen that flatters
/// either: three points that lie close by chance have no spread for Welch's, and three that lie far
/// out together hide theirs from Student's behind that of the many.
#[allow(clippy::cast_precision_loss)]
fn sought(first: &[f64], second: &[f64]) -> f64 {
    let places = (first.len() + second.len() + 1).saturating_sub(2 * SIDE_MIN);
    let p_value = welch(first, second).max(student(first, second));
    (p_value * places.max(1) as f64).min(1.0)
}

/// The mean, the square of its standard error, and the degrees of freedom.
#[allow(clippy::cast_precision_loss)]
fn moments(values: &[f64]) -> (f64, f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let freedom = (count - 1.0).max(1.0);
    (mean, squares / freedom / count, freedom)
}

/// The split of `values` with the largest energy statistic: its place. In O(n^2) time.
#[allow(clippy::cast_precision_loss)]
fn best_split(values: &[f64]) -> Option<usize> {
    let count = values.len();
    if count < 2 * SIDE_MIN {
        return None;
    }
    let distance = |i: usize, j: usize| (values[i] - values[j]).abs();
    // Sums of distances within the left side, within the right side and between them, as the split
    // moves one point to the right at a time.
    let (mut left, mut between) = (0.0, 0.0);
    let mut right: f64 = (0..count)
        .flat_map(|i| (i + 1..count).map(move |j| (i, j)))
        .map(|(i, j)| distance(i, j))
        .sum();
    let mut best: Option<(f64, usize)> = None;
    for at in 1..=count - SIDE_MIN {
        let moved = at - 1;
        let to_left: f64 = (0..moved).map(|i| distance(i, moved)).sum();
        let to_right: f64 = (at..count).map(|j| distance(moved, j)).sum();
        left += to_left;
        right -= to_right;
        between += to_right - to_left;
        if at < SIDE_MIN {
            continue;
        }
        let (n, m) = (at as f64, (count - at) as f64);
        let pairs = |n: f64| n * (n - 1.0) / 2.0;
        let energy = 2.0 / (n * m) * between - left / pairs(n) - right / pairs(m);
        let q = n * m / (n + m) * energy;
        if best.is_none_or(|(most, _)| q > most) {
            best = Some((q, at));
        }
    }
    best.map(|(_, at)| at)
}

/// The steps of a series, ascending: those whose p-value is at most `p_max` and across which the mean
/// changes by at least `change_min`. Means and changes are on the scale of the values. They are chosen
/// from those that `p_sought`, which is no less, finds.
pub(super) fn steps(values: &[f64], p_sought: f64, p_max: f64, change_min: f64) -> Vec<Step> {
    let mut places = Vec::new();
    let mut open = vec![(0, values.len())];
    while let Some((from, to)) = open.pop() {
        let Some(at) = best_split(&values[from..to]).map(|at| from + at) else {
            continue;
        };
        if sought(&values[from..at], &values[at..to]) <= p_sought * WEAK {
            places.push(at);
            open.push((from, at));
            open.push((at, to));
        }
    }
    places.sort_unstable();
    // The weakest goes first, since the stretches beside it then become one and others clearer.
    loop {
        let sides = |index: usize| {
            let from = if index == 0 { 0 } else { places[index - 1] };
            let to = places.get(index + 1).copied().unwrap_or(values.len());
            (&values[from..places[index]], &values[places[index]..to])
        };
        let judged: Vec<(f64, f64)> = (0..places.len())
            .map(|index| {
                let (before, after) = sides(index);
                let change = (moments(after).0 - moments(before).0).abs();
                (sought(before, after), change)
            })
            .collect();
        let doubtful = judged
            .iter()
            .enumerate()
            .filter(|(_, (p_value, _))| *p_value > p_max)
            .max_by(|a, b| a.1.0.total_cmp(&b.1.0));
        let small = judged
            .iter()
            .enumerate()
            .filter(|(_, (_, change))| *change < change_min)
            .min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        match doubtful.or(small) {
            Some((index, _)) => {
                places.remove(index);
            }
            None => {
                return places
                    .iter()
                    .zip(judged)
                    .map(|(&at, (p_value, _))| Step { at, p_value })
                    .collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Noise without a generator's state: the fractional parts of multiples of the golden ratio.
    fn noise(index: usize) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let value = (index as f64 + 1.0) * 0.618_033_988_749_895 * 7.0;
        value.fract() - 0.5
    }

    fn series(levels: &[(usize, f64)], spread: f64) -> Vec<f64> {
        let mut values = Vec::new();
        for &(count, level) in levels {
            for _ in 0..count {
                values.push(level + spread * noise(values.len()));
            }
        }
        values
    }

    fn places(values: &[f64]) -> Vec<usize> {
        steps(values, 0.001, 0.001, 0.0)
            .iter()
            .map(|step| step.at)
            .collect()
    }

    #[test]
    fn a_p_value_of_welch_is_that_of_the_tables() {
        // As scipy.stats.ttest_ind(first, second, equal_var=False) of SciPy 1.16 has it.
        let first = [
            27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7,
            21.4,
        ];
        let second = [
            27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 30.5,
            24.4,
        ];
        assert!((welch(&first, &second) - 0.008_071_938_172_194_901).abs() < 1e-14);
        assert_eq!(welch(&[1.0, 1.0], &[1.0, 1.0]), 1.0);
        assert_eq!(welch(&[1.0, 1.0], &[2.0, 2.0]), 0.0);
        // Of 2 +- 1 and 5 +- 1 with four degrees of freedom: t is 3 / sqrt(2 / 3), whose tails are
        // 1 - s (3 - s^2) / 2 with s = t / sqrt(t^2 + 4).
        let s = (13.5_f64 / 17.5).sqrt();
        let tails = 1.0 - s * (3.0 - s * s) / 2.0;
        let p_value = student(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
        assert!((p_value - tails).abs() < 1e-12, "{p_value} {tails}");
        assert_eq!(student(&[1.0, 1.0], &[2.0, 2.0]), 0.0);
    }

    #[test]
    fn steps_are_found_where_they_are_and_noise_has_none() {
        assert_eq!(places(&series(&[(20, 0.0), (20, 1.0)], 0.2)), [20]);
        assert_eq!(
            places(&series(&[(12, 0.0), (15, 1.0), (13, 0.4)], 0.2)),
            [12, 27]
        );
        assert_eq!(places(&series(&[(60, 0.0)], 1.0)), [0; 0]);
        assert_eq!(places(&[1.0; 30]), [0; 0]);
        assert_eq!(
            places(&series(&[(6, 0.0), (1, 5.0), (20, 0.0)], 0.1)),
            [0; 0],
            "one far off is no step"
        );
        let small = series(&[(20, 0.0), (20, 0.01)], 0.001);
        assert_eq!(steps(&small, 0.001, 0.001, 0.005).len(), 1);
        assert_eq!(steps(&small, 0.001, 0.001, 0.02).len(), 0);
        assert!(places(&[]).is_empty() && places(&[1.0, 2.0]).is_empty());
    }

    /// Above 0 and below 1, from a linear congruence.
    #[allow(clippy::cast_precision_loss)]
    fn uniform(seed: &mut u64) -> f64 {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((*seed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// By Box and Muller.
    fn normal(seed: &mut u64) -> f64 {
        (-2.0 * uniform(seed).ln()).sqrt() * (std::f64::consts::TAU * uniform(seed)).cos()
    }

    /// As skewed as times are on a machine with other work.
    fn exponential(seed: &mut u64) -> f64 {
        -uniform(seed).ln()
    }

    #[test]
    fn noise_steps_no_more_often_than_the_p_value_says() {
        let mut seed = 1;
        for draw in [normal, exponential] {
            for count in [8, 12, 30, 60] {
                let stepped = (0..2000)
                    .filter(|_| {
                        let noise: Vec<f64> = (0..count).map(|_| draw(&mut seed)).collect();
                        !steps(&noise, 0.01, 0.01, 0.0).is_empty()
                    })
                    .count();
                // One in a hundred is 20, give or take 4.5.
                assert!(stepped <= 24, "{stepped} of 2000 series of {count} points");
            }
        }
    }

    proptest! {
        #[test]
        fn a_shift_of_all_values_moves_no_step(shift in -5.0..5.0_f64, at in 5_usize..25) {
            let values = series(&[(at, 0.0), (30 - at, 1.0)], 0.3);
            let shifted: Vec<f64> = values.iter().map(|value| value + shift).collect();
            prop_assert_eq!(places(&values), places(&shifted));
        }

        #[test]
        fn a_reversed_series_has_its_steps_reversed(at in 5_usize..25) {
            let values = series(&[(at, 0.0), (30 - at, 1.0)], 0.1);
            let reversed: Vec<f64> = values.iter().rev().copied().collect();
            prop_assert_eq!(places(&values), vec![at]);
            prop_assert_eq!(places(&reversed), vec![30 - at]);
        }
    }
}
