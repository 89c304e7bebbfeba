//! What a datasheet makes of measured figures: which chip a device is, fractions of its peaks,
//! dollars per unit of work, and figures beyond what the chip can do.

use crate::chips::{Chip, Chips, Identity, identify};
use crate::error::{Error, Result};
use crate::normalise::{BEYOND_CACHE, one_device, working_set_bytes};
use crate::op::{Dtype, OpName};
use crate::protocol::Device;
use crate::report::{
    ChipRecord, Confidence, Datasheet, MemoryHierarchy, Outcome, OutcomeStatus, PriceRecord,
    Report, RunnerRecord,
};

/// A figure may exceed a peak by this much where the clock is known: measured clocks are means.
const PEAK_EXCESS: f64 = 0.02;

/// The same where nobody has watched the clock. Boards run above the boost clock that a datasheet
/// assumes: by a tenth is common.
const PEAK_EXCESS_WITHOUT_CLOCK: f64 = 0.15;

/// What to measure figures against.
#[derive(Clone, Debug, Default)]
pub struct Datasheets {
    /// All chips.
    pub chips: Chips,
    /// The chip that the user says the first runner's device is.
    pub chip_id: Option<String>,
    /// Whose prices count, if not everybody's.
    pub provider: Option<String>,
    /// What the user pays for an hour of the first runner's device, over all other prices.
    pub paid: Option<PriceRecord>,
}

impl Datasheets {
    /// Which chip a device is.
    #[must_use]
    pub fn identity(&self, device: &Device) -> Identity {
        // A runner may know better than any name.
        match device.chip_id.as_deref().and_then(|id| self.chips.get(id)) {
            Some(chip) => Identity::Known {
                chip_id: chip.id.clone(),
                by: "runner".to_owned(),
                note: chip.variant_note.clone(),
            },
            None => identify(device, &self.chips),
        }
    }

    /// Writes into every runner's device which chip it is, and returns the chip of the first one's
    /// with what is known of it, or why it is not known.
    pub fn recognise(&self, runners: &mut [RunnerRecord]) -> Option<Identity> {
        let first = runners.first()?.device.clone();
        let chosen = self.chip_id.as_deref().and_then(|id| self.chips.get(id));
        let of = |device: &Device| match chosen.filter(|_| one_device(&first, device)) {
            Some(chip) => Identity::Known {
                chip_id: chip.id.clone(),
                by: "--chip".to_owned(),
                note: None,
            },
            None => self.identity(device),
        };
        let identity = of(&first);
        for record in runners {
            record.device.chip_id = of(&record.device).chip_id().map(str::to_owned);
        }
        Some(identity)
    }

    /// What a report says of the chip that was recognised.
    #[must_use]
    pub fn record(&self, identity: &Identity) -> Option<ChipRecord> {
        let Identity::Known { chip_id, by, note } = identity else {
            return None;
        };
        let chip = self.chips.get(chip_id)?;
        Some(ChipRecord {
            id: chip.id.clone(),
            name: chip.name.clone(),
            vendor: chip.vendor.clone(),
            by: by.clone(),
            note: note.clone(),
            devices_per_chip: chip.devices_per_chip.as_ref().map(|figure| figure.value),
            price: self.price(chip),
        })
    }

    /// Tells which chip the first runner's device is, for the user, before anything is measured.
    ///
    /// # Errors
    /// A usage error where there is a price and nobody knows of what.
    pub fn announce(&self, runners: &[RunnerRecord]) -> Result<Option<String>> {
        let identity = self.recognise(&mut runners.to_vec());
        let known = identity.as_ref().and_then(Identity::chip_id).is_some();
        if self.paid.is_some() && !known {
            return Err(Error::usage(
                "--price: which chip the device is cannot be told, so the price has nothing to stand for; name it with --chip ID",
            ));
        }
        let first = runners.first().map(|record| &record.device);
        let is_cpu = first.is_some_and(|device| device.device_type == "cpu");
        let worth_saying = |identity: &Identity| *identity != Identity::Unknown || !is_cpu;
        Ok(identity
            .filter(worth_saying)
            .map(|identity| format!("chip: {}", identity.line())))
    }

    /// As a report was made: its chip, and the price that it states.
    #[must_use]
    pub fn of_report(chips: Chips, report: &Report) -> Self {
        let chip = report.chip.as_ref();
        Self {
            chips,
            chip_id: chip.map(|chip| chip.id.clone()),
            provider: None,
            paid: chip.and_then(|chip| chip.price.clone()),
        }
    }

    /// What an hour of one device of a chip costs.
    #[must_use]
    pub fn price(&self, chip: &Chip) -> Option<PriceRecord> {
        if self.paid.is_some() && self.chip_id.as_deref().is_none_or(|id| id == chip.id) {
            return self.paid.clone();
        }
        let price = chip.price(self.provider.as_deref())?;
        Some(PriceRecord {
            usd_per_hour: price.usd_per_hour_chip.value / chip.device_count(),
            origin: price.origin(),
            as_of: price.as_of.clone(),
            confidence: price.usd_per_hour_chip.confidence,
            sources: price.usd_per_hour_chip.sources.clone(),
        })
    }

    /// Sets on every measured outcome what its chip's datasheet makes of it, and marks those beyond
    /// what the chip can do. Runners must have been recognised before.
    pub fn apply(
        &self,
        outcomes: &mut [Outcome],
        runners: &[RunnerRecord],
        memory: &[MemoryHierarchy],
    ) {
        for outcome in outcomes {
            (outcome.datasheet, outcome.fraction_of_datasheet) = (None, None);
            (outcome.usd_per_flop, outcome.usd_per_byte) = (None, None);
            let runner = runners.iter().find(|r| r.runner.name == outcome.runner);
            let chip_id = runner.and_then(|record| record.device.chip_id.as_deref());
            let Some(chip) = chip_id.and_then(|id| self.chips.get(id)) else {
                continue;
            };
            if outcome.status != OutcomeStatus::Measured {
                continue;
            }
            let found = memory.iter().find(|memory| memory.runner == outcome.runner);
            let cache = last_cache(chip).max(found.and_then(|memory| memory.last_level_bytes));
            set_fraction(outcome, chip, cache);
            self.set_dollars(outcome, chip);
            if let Some(reason) = beyond(outcome, chip, cache) {
                outcome.status = OutcomeStatus::Implausible;
                outcome.reason = Some(reason);
            }
        }
    }

    fn set_dollars(&self, outcome: &mut Outcome, chip: &Chip) {
        let Some(price) = self.price(chip) else {
            return;
        };
        let per = |rate: Option<f64>| Some(price.usd_per_hour / 3600.0 / rate?);
        outcome.usd_per_flop = per(outcome.flops_per_second);
        if outcome.flop_count == 0 && outcome.op.has_roofline() && outcome.op != OpName::Empty {
            outcome.usd_per_byte = per(outcome.bytes_per_second);
        }
    }
}

/// Bytes of the largest memory on the chip that a working set could live in.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn last_cache(chip: &Chip) -> Option<u64> {
    let sizes = chip.caches.values().map(|figure| figure.value as u64);
    sizes.max()
}

/// Whether the bytes of a case certainly came from memory.
fn from_memory(outcome: &Outcome, cache: Option<u64>) -> bool {
    cache.is_some_and(|cache| working_set_bytes(outcome) >= BEYOND_CACHE.saturating_mul(cache))
}

/// Median of the clocks that sensors saw.
fn observed_clock_hz(outcome: &Outcome) -> Option<f64> {
    let points = &outcome.telemetry.as_ref()?.points;
    let clocks: Vec<f64> = points.iter().filter_map(|p| p.sm_clock_hz).collect();
    crate::stats::median(&clocks).filter(|clock| *clock > 0.0)
}

fn is_integer(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::I8 | Dtype::I32)
}

/// Whether a case does nothing but arithmetic.
fn is_arithmetic(op: OpName) -> bool {
    matches!(op, OpName::Fma | OpName::Dot4 | OpName::MatrixFma)
}

#[allow(clippy::cast_precision_loss)]
fn set_fraction(outcome: &mut Outcome, chip: &Chip, cache: Option<u64>) {
    let op = outcome.op;
    if !op.has_roofline() || matches!(op, OpName::Empty | OpName::WorkgroupRead) {
        return;
    }
    let Some(times) = &outcome.time_s else { return };
    let engine = outcome.labels.as_ref().map(|labels| &*labels.engine);
    let counts = outcome.flop_count > 0;
    let arithmetic = counts.then(|| chip.peak(engine, outcome.dtype)).flatten();
    // Without its arithmetic peak nobody knows which of the two binds.
    if counts && arithmetic.is_none() {
        return;
    }
    let bandwidth = chip.bandwidth().filter(|_| !is_arithmetic(op));
    if !is_arithmetic(op) && bandwidth.is_none() {
        return;
    }
    let arithmetic = arithmetic.map(|peak| (outcome.flop_count as f64 / peak.value, peak, true));
    let bandwidth = bandwidth.map(|peak| (outcome.bytes_min as f64 / peak.value, peak, false));
    let bounds = arithmetic.into_iter().chain(bandwidth);
    let Some((least_s, peak, is_rate)) = bounds.max_by(|a, b| a.0.total_cmp(&b.0)) else {
        return;
    };
    let fraction = least_s / times.median;
    // Faster than memory, and small enough for a cache: memory is not what bounds it.
    if !is_rate && fraction > 1.0 && !from_memory(outcome, cache) {
        return;
    }
    let observed = observed_clock_hz(outcome).filter(|_| is_rate);
    let stated = chip.peaks.clock_hz.as_ref().map(|figure| figure.value);
    outcome.fraction_of_datasheet = Some(fraction);
    outcome.datasheet = Some(Datasheet {
        chip_id: chip.id.clone(),
        peak: peak.name,
        value: peak.value,
        unit: match (is_rate, is_integer(outcome.dtype)) {
            (true, true) => "op_per_s",
            (true, false) => "flop_per_s",
            (false, _) => "bytes_per_s",
        }
        .to_owned(),
        clock_basis: is_rate.then(|| chip.peaks.clock_basis.clone()),
        confidence: peak.figure.confidence,
        sources: peak.figure.sources.clone(),
        observed_clock_hz: observed,
        fraction_at_observed_clock: observed
            .zip(stated)
            .map(|(observed, stated)| fraction * stated / observed),
    });
}

/// What of a report contradicts the datasheet of its chip, or what the report itself says of it, one
/// line each: figures beyond what the chip can do, fractions and dollars that do not follow.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn contradictions(report: &Report, chips: &Chips) -> Vec<String> {
    let datasheets = Datasheets::of_report(chips.clone(), report);
    let mut runners = report.runners.clone();
    datasheets.recognise(&mut runners);
    let mut found = Vec::new();
    for outcome in report.with_status(OutcomeStatus::Measured) {
        let place = format!("outcome {} ({})", outcome.case_id, outcome.runner);
        let median = outcome.time_s.as_ref().map(|times| times.median);
        if let (Some(fraction), Some(datasheet), Some(median)) =
            (outcome.fraction_of_datasheet, &outcome.datasheet, median)
        {
            let work = match datasheet.unit.as_str() {
                "bytes_per_s" => outcome.bytes_min,
                _ => outcome.flop_count,
            };
            let follows = work as f64 / datasheet.value / median;
            if !near(fraction, follows) {
                found.push(format!(
                    "{place}: fraction_of_datasheet is {fraction:e}, but work over peak and median is {follows:e}"
                ));
            }
        }
        let paid = report.chip.as_ref().and_then(|chip| chip.price.as_ref());
        if let (Some(usd), Some(rate), Some(price)) =
            (outcome.usd_per_flop, outcome.flops_per_second, paid)
        {
            let follows = price.usd_per_hour / 3600.0 / rate;
            let runner = runners.iter().find(|r| r.runner.name == outcome.runner);
            let same = runner.is_some_and(|r| one_device(&r.device, &report.device));
            if same && !near(usd, follows) {
                found.push(format!(
                    "{place}: usd_per_flop is {usd:e}, but price over rate is {follows:e}"
                ));
            }
        }
        let runner = runners.iter().find(|r| r.runner.name == outcome.runner);
        let chip_id = runner.and_then(|record| record.device.chip_id.as_deref());
        if let Some(chip) = chip_id.and_then(|id| chips.get(id)) {
            let memory = report.memory.iter().find(|m| m.runner == outcome.runner);
            let cache = last_cache(chip).max(memory.and_then(|memory| memory.last_level_bytes));
            found.extend(beyond(outcome, chip, cache).map(|what| format!("{place}: {what}")));
        }
    }
    found
}

fn near(stated: f64, follows: f64) -> bool {
    (stated - follows).abs() <= 1e-9 * stated.abs().max(follows.abs())
}

/// Why a figure cannot be right, if the datasheet says so: more arithmetic than the fastest units of
/// the chip do, or more bytes than its memory gives. Peaks from memory alone prove nothing.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn beyond(outcome: &Outcome, chip: &Chip, cache: Option<u64>) -> Option<String> {
    let sourced = |confidence: Confidence| confidence != Confidence::Recalled;
    if let (Some(rate), Some(peak)) = (
        outcome.flops_per_second,
        chip.peak(None, outcome.dtype)
            .filter(|peak| sourced(peak.figure.confidence)),
    ) {
        let clocks = outcome.telemetry.iter().flat_map(|trace| &trace.points);
        let highest = clocks.filter_map(|p| p.sm_clock_hz).reduce(f64::max);
        let stated = chip.peaks.clock_hz.as_ref().map(|figure| figure.value);
        let factor = match highest.zip(stated) {
            Some((highest, stated)) => (highest / stated).max(1.0) * (1.0 + PEAK_EXCESS),
            None => 1.0 + PEAK_EXCESS_WITHOUT_CLOCK,
        };
        if rate > peak.value * factor {
            return Some(format!(
                "{rate:.3e} operations per second are more than {} can do: {} is {:.3e} by the datasheet",
                chip.id, peak.name, peak.value
            ));
        }
    }
    let bandwidth = chip.bandwidth()?;
    let rate = outcome.bytes_per_second?;
    let moves = outcome.op.has_roofline()
        && !is_arithmetic(outcome.op)
        && outcome.op != OpName::WorkgroupRead;
    let limit = bandwidth.value * (1.0 + PEAK_EXCESS);
    (moves
        && sourced(bandwidth.figure.confidence)
        && rate > limit
        && from_memory(outcome, cache))
    .then(|| {
        format!(
            "{rate:.3e} bytes per second are more than the memory of {} gives: {:.3e} by the datasheet",
            chip.id, bandwidth.value
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalise::set_rates;
    use crate::op::{Case, Shape};
    use crate::protocol::{RunnerInfo, Timer};
    use crate::report::{Labels, Times, Trace, TracePoint, empty, unmeasured};

    const H100: &str = "nvidia-h100-sxm5-80gb";

    fn runner(name: &str, pci_id: &str) -> RunnerRecord {
        RunnerRecord {
            runner: RunnerInfo {
                name: "wgpu".to_owned(),
                version: "1".to_owned(),
            },
            device: Device {
                name: name.to_owned(),
                device_type: "discrete_gpu".to_owned(),
                pci_id: Some(pci_id.to_owned()),
                ..Device::default()
            },
            timer: Timer {
                clock: "device".to_owned(),
                quantum_s: 1e-9,
                period_s: None,
                note: None,
            },
        }
    }

    fn outcome(op: OpName, dtype: Dtype, engine: &str, sizes: &[(&str, u64)], s: f64) -> Outcome {
        let case = Case::new(op, &Shape::of(sizes), dtype).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.reason = None;
        outcome.labels = Some(Labels {
            engine: engine.to_owned(),
            timer: "device".to_owned(),
            cache: "hot".to_owned(),
            data: "uniform".to_owned(),
            checks: "off".to_owned(),
            output: None,
        });
        outcome.time_s = Some(Times {
            median: s,
            ci95_low: s,
            ci95_high: s,
            min: s,
            max: s,
            ..Times::default()
        });
        set_rates(&mut outcome);
        outcome
    }

    fn judged(mut outcome: Outcome) -> Outcome {
        let sheets = Datasheets {
            chips: Chips::built_in().unwrap(),
            ..Datasheets::default()
        };
        let mut runners = vec![runner("NVIDIA H100 80GB HBM3", "10de:2330")];
        assert_eq!(
            sheets.recognise(&mut runners).unwrap().chip_id(),
            Some(H100)
        );
        sheets.apply(std::slice::from_mut(&mut outcome), &runners, &[]);
        outcome
    }

    const CUBE: [(&str, u64); 3] = [("m", 8192), ("n", 8192), ("k", 8192)];

    #[test]
    fn a_fraction_names_the_peak_it_is_of() {
        // 1.0995 TFLOP in 2 ms are 550 TFLOP/s.
        let done = judged(outcome(OpName::Matmul, Dtype::F16, "matrix", &CUBE, 2e-3));
        let sheet = done.datasheet.as_ref().unwrap();
        assert_eq!((&*sheet.peak, &*sheet.unit), ("matrix f16", "flop_per_s"));
        assert!(
            sheet
                .clock_basis
                .as_ref()
                .is_some_and(|basis| !basis.is_empty())
        );
        let rate = 2.0 * 8192f64.powi(3) / 2e-3;
        assert!((done.fraction_of_datasheet.unwrap() - rate / sheet.value).abs() < 1e-12);
        assert_eq!(sheet.fraction_at_observed_clock, None);
        // Four dollars an hour or so for so many operations.
        let usd = done.usd_per_flop.unwrap();
        assert!(usd > 1e-19 && usd < 1e-17, "{usd}");
        assert_eq!(done.usd_per_byte, None);
    }

    #[test]
    fn at_a_lower_clock_the_fraction_of_what_was_possible_is_higher() {
        let mut before = outcome(OpName::Matmul, Dtype::F16, "matrix", &CUBE, 2e-3);
        let at = |hz: f64| TracePoint {
            sm_clock_hz: Some(hz),
            ..TracePoint::default()
        };
        let chips = Chips::built_in().unwrap();
        let stated = chips
            .get(H100)
            .unwrap()
            .peaks
            .clock_hz
            .clone()
            .unwrap()
            .value;
        before.telemetry = Some(Trace {
            source: "nvml".to_owned(),
            points: vec![at(stated / 2.0); 3],
        });
        let done = judged(before);
        let sheet = done.datasheet.unwrap();
        let ratio = sheet.fraction_at_observed_clock.unwrap() / done.fraction_of_datasheet.unwrap();
        assert!((ratio - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_product_of_one_row_is_measured_against_the_memory() {
        let row = [("m", 1), ("n", 28_672), ("k", 8192)];
        let done = judged(outcome(OpName::Matmul, Dtype::F16, "alu", &row, 200e-6));
        let sheet = done.datasheet.unwrap();
        assert_eq!(
            (&*sheet.peak, sheet.clock_basis),
            ("memory bandwidth", None)
        );
    }

    #[test]
    fn what_lives_in_a_cache_has_no_fraction_of_memory() {
        let small = judged(outcome(
            OpName::Copy,
            Dtype::F32,
            "alu",
            &[("n", 1 << 20)],
            1e-6,
        ));
        assert_eq!(small.status, OutcomeStatus::Measured);
        assert_eq!(small.fraction_of_datasheet, None);
    }

    #[test]
    fn more_than_the_chip_can_do_is_implausible() {
        let fast = judged(outcome(OpName::Matmul, Dtype::F16, "matrix", &CUBE, 0.9e-3));
        assert_eq!(fast.status, OutcomeStatus::Implausible);
        assert!(fast.reason.unwrap().contains("matrix f16"));
        // 8 GB and more each way in 2 ms.
        let copied = [("n", 1 << 31)];
        let copy = judged(outcome(OpName::Copy, Dtype::F32, "alu", &copied, 2e-3));
        assert_eq!(copy.status, OutcomeStatus::Implausible);
        assert!(copy.reason.unwrap().contains("memory"));
        // A tenth above the boost clock is what boards do.
        let boosted = judged(outcome(
            OpName::Matmul,
            Dtype::F16,
            "matrix",
            &CUBE,
            1.03e-3,
        ));
        assert_eq!(boosted.status, OutcomeStatus::Measured);
    }

    #[test]
    fn a_finished_report_is_held_against_the_datasheet() {
        let chips = Chips::built_in().unwrap();
        let mut report = empty();
        report.runners = vec![runner("NVIDIA H100 80GB HBM3", "10de:2330")];
        report.device = report.runners[0].device.clone();
        let honest = judged(outcome(OpName::Matmul, Dtype::F16, "matrix", &CUBE, 2e-3));
        report.outcomes = vec![honest.clone()];
        assert_eq!(contradictions(&report, &chips), [""; 0]);
        // Someone writes another fraction, or a time that no such chip can have.
        let mut flattered = honest;
        flattered.fraction_of_datasheet = Some(0.9);
        let mut forged = judged(outcome(OpName::Matmul, Dtype::F16, "matrix", &CUBE, 0.5e-3));
        forged.status = OutcomeStatus::Measured;
        report.outcomes = vec![flattered, forged];
        let found = contradictions(&report, &chips);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("fraction_of_datasheet is 9e-1"),
            "{found:?}"
        );
        assert!(
            found[1].contains("more than nvidia-h100-sxm5-80gb can do"),
            "{found:?}"
        );
    }

    #[test]
    fn the_user_decides_for_the_first_device_and_not_for_another() {
        let sheets = Datasheets {
            chips: Chips::built_in().unwrap(),
            chip_id: Some("nvidia-h100-pcie-80gb".to_owned()),
            ..Datasheets::default()
        };
        let mut cpu = runner("AMD EPYC", "0:0");
        cpu.device.device_type = "cpu".to_owned();
        cpu.device.pci_id = None;
        let mut runners = vec![
            runner("Some GPU", "10de:0001"),
            runner("Other name", "10de:0001"),
            cpu,
        ];
        let identity = sheets.recognise(&mut runners).unwrap();
        let record = sheets.record(&identity).unwrap();
        assert_eq!(
            (&*record.id, &*record.by),
            ("nvidia-h100-pcie-80gb", "--chip")
        );
        let told: Vec<Option<&str>> = runners
            .iter()
            .map(|r| r.device.chip_id.as_deref())
            .collect();
        assert_eq!(
            told,
            [
                Some("nvidia-h100-pcie-80gb"),
                Some("nvidia-h100-pcie-80gb"),
                None
            ]
        );
    }
}
