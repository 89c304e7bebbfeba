//! When further samples would tell nothing new: the noise itself has settled.
//!
//! Two criteria in the manner of nvbench (its `stdrel` and `entropy` stopping criteria). A machine
//! whose noise is wide never reaches a narrow interval in reasonable time; once its noise is known,
//! going on only costs time, and the report says that the interval was not reached.

use std::collections::{BTreeMap, VecDeque};

/// Estimates that one criterion looks back on.
const HISTORY: usize = 256;

/// Fewest estimates before the noise may count as settled.
const NOISE_ESTIMATES_MIN: usize = 64;

/// Relative spread of the noise estimates below which the noise counts as settled.
const NOISE_SPREAD_MAX: f64 = 0.05;

/// Fewest estimates before the entropy may count as settled.
const ENTROPY_ESTIMATES_MIN: usize = 64;

/// Slope of the entropy per sample, as an angle in degrees, below which it counts as flat.
const ENTROPY_ANGLE_MAX_DEGREES: f64 = 0.048;

/// Least coefficient of determination of the line through the entropies, unless they are constant:
/// a flat line through a cloud says nothing.
const ENTROPY_R2_MIN: f64 = 0.36;

/// What is known of the noise of a growing list of samples.
#[derive(Clone, Debug)]
pub struct Settling {
    /// Width of a bin of the histogram, in seconds.
    bin_s: f64,
    count: f64,
    mean: f64,
    squares: f64,
    bins: BTreeMap<u64, u32>,
    noise: VecDeque<f64>,
    entropy: VecDeque<f64>,
}

impl Settling {
    /// For samples that count as equal if they fall into one bin of `bin_s` seconds: the precision
    /// that is asked for, or the quantum of the clock where that is coarser.
    #[must_use]
    pub fn new(bin_s: f64) -> Self {
        Self {
            bin_s: bin_s.max(f64::MIN_POSITIVE),
            count: 0.0,
            mean: 0.0,
            squares: 0.0,
            bins: BTreeMap::new(),
            noise: VecDeque::new(),
            entropy: VecDeque::new(),
        }
    }

    /// Takes one more sample, in seconds, into account.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn push(&mut self, sample_s: f64) {
        // Welford's update of mean and sum of squared deviations.
        self.count += 1.0;
        let difference = sample_s - self.mean;
        self.mean += difference / self.count;
        self.squares += difference * (sample_s - self.mean);
        *self
            .bins
            .entry((sample_s / self.bin_s).round() as u64)
            .or_insert(0) += 1;
        if self.count > 5.0 {
            let (noise, entropy) = (self.noise(), self.entropy());
            remember(&mut self.noise, noise);
            remember(&mut self.entropy, entropy);
        }
    }

    /// Relative standard deviation of the samples so far.
    #[must_use]
    pub fn noise(&self) -> f64 {
        if self.count < 2.0 || self.mean <= 0.0 {
            return f64::INFINITY;
        }
        (self.squares / (self.count - 1.0)).sqrt() / self.mean
    }

    /// Shannon entropy of the histogram, in bits.
    fn entropy(&self) -> f64 {
        -self
            .bins
            .values()
            .map(|&bin| {
                let share = f64::from(bin) / self.count;
                share * share.log2()
            })
            .sum::<f64>()
    }

    /// Whether the estimate of the noise has stopped moving.
    #[must_use]
    pub fn noise_settled(&self) -> bool {
        if self.noise.len() < NOISE_ESTIMATES_MIN {
            return false;
        }
        let (mean, deviation) = mean_and_deviation(&self.noise);
        mean > 0.0 && deviation / mean < NOISE_SPREAD_MAX
    }

    /// Whether new samples have stopped adding to the distribution's entropy.
    #[must_use]
    pub fn entropy_settled(&self) -> bool {
        if self.entropy.len() < ENTROPY_ESTIMATES_MIN {
            return false;
        }
        let (slope, r2) = line(&self.entropy);
        slope.atan().to_degrees().abs() < ENTROPY_ANGLE_MAX_DEGREES && r2 >= ENTROPY_R2_MIN
    }
}

fn remember(history: &mut VecDeque<f64>, value: f64) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(value);
}

#[allow(clippy::cast_precision_loss)]
fn mean_and_deviation(values: &VecDeque<f64>) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / count).sqrt())
}

/// Slope and coefficient of determination of the least-squares line through the values.
#[allow(clippy::cast_precision_loss)]
fn line(values: &VecDeque<f64>) -> (f64, f64) {
    let count = values.len() as f64;
    let middle = (count - 1.0) / 2.0;
    let mean = values.iter().sum::<f64>() / count;
    let (mut across, mut along, mut down) = (0.0, 0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let (x, y) = (index as f64 - middle, value - mean);
        across += x * x;
        along += x * y;
        down += y * y;
    }
    if down <= f64::EPSILON {
        return (0.0, 1.0);
    }
    (along / across, along * along / (across * down))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{keys, uniform, word};

    fn fed(count: u32, sample: impl Fn(u32) -> f64) -> Settling {
        let mut settling = Settling::new(5e-6);
        (0..count).for_each(|index| settling.push(sample(index)));
        settling
    }

    fn noise(index: u32) -> f64 {
        f64::from(uniform(word(keys(3, 0), index)))
    }

    #[test]
    fn steady_noise_settles_and_a_few_samples_do_not() {
        let sample = |index| 1e-3 * (1.0 + 0.05 * noise(index));
        assert!(!fed(40, sample).noise_settled());
        let settled = fed(400, sample);
        assert!(settled.noise_settled());
        // Uniform in +-5 %: a standard deviation of 5 % over the root of three.
        assert!((settled.noise() - 0.05 / 3f64.sqrt()).abs() < 2e-3);
    }

    #[test]
    fn a_drift_settles_by_neither_criterion() {
        let drift = fed(300, |index| 1e-3 * (1.0 + 0.002 * f64::from(index)));
        assert!(!drift.noise_settled());
        assert!(!drift.entropy_settled());
    }

    #[test]
    fn equal_samples_have_no_entropy_and_new_values_add_some() {
        let equal = fed(100, |_| 1e-3);
        assert_eq!(equal.entropy(), 0.0);
        assert!(equal.entropy_settled());
        let growing = fed(100, |index| 1e-3 * (1.0 + 0.1 * f64::from(index)));
        assert!((growing.entropy() - 100f64.log2()).abs() < 1e-9);
        assert!(!growing.entropy_settled());
    }

    #[test]
    fn a_distribution_of_few_values_settles_in_entropy() {
        let few = fed(2000, |index| 1e-3 * (1.0 + 0.1 * f64::from(index % 3)));
        assert!((few.entropy() - 3f64.log2()).abs() < 1e-3);
        // Its entropy has long been constant; only the fit's quality could still object.
        assert!(line(&few.entropy).0.abs() < 1e-4);
    }
}
