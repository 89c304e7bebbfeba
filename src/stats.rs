//! Order statistics of timings. Nothing is trimmed and nothing is assumed normal.

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
    /// The summary of `samples`; `None` if there are none or one is not finite.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let (low, high) = median_interval(sorted.len()).unwrap_or((0, last));
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
fn quantile(sorted: &[f64], fraction: f64) -> f64 {
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

    #[test]
    fn quartiles_match_numpy() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((summary.q1, summary.median, summary.q3), (1.75, 2.5, 3.25));
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
            let summary = Summary::of(&samples).unwrap();
            let parts = [summary.min, summary.q1, summary.median, summary.q3, summary.max];
            prop_assert!(parts.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(summary.ci95_low <= summary.median && summary.median <= summary.ci95_high);
            let middle = (seed as usize) % samples.len();
            samples.rotate_left(middle);
            prop_assert_eq!(Summary::of(&samples).unwrap(), summary);
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
        // Binomial(2000, 0.965): three standard deviations are 25.
        assert!((1900..1960).contains(&covered), "{covered} of 2000");
    }
}
