//! What people read in a terminal: the summary of a run and its progress.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::display::{seconds, si, table};
use crate::op::{Dtype, OpName};
use crate::report::{ChipRecord, Confidence, Gap, MemoryHierarchy, Outcome, OutcomeStatus, Report};
use crate::run::Watcher;

/// The rate of an outcome with its unit; `-` where it has none that says anything.
#[must_use]
pub fn rate(outcome: &Outcome) -> String {
    #[allow(clippy::cast_precision_loss)]
    if let (OpName::Chase, Some(times)) = (outcome.op, &outcome.time_s) {
        let steps = outcome.shape.get("steps").max(1) as f64;
        return format!("{} a load", seconds(times.median / steps));
    }
    // A rate of the few bytes that a launch moves says nothing.
    if !outcome.op.has_roofline() || outcome.op == OpName::Empty {
        return match outcome.op {
            OpName::Upload | OpName::Readback => outcome
                .bytes_per_second
                .map_or_else(|| "-".to_owned(), |rate| format!("{}B/s", si(rate))),
            _ => "-".to_owned(),
        };
    }
    match (outcome.flops_per_second, outcome.bytes_per_second) {
        (Some(rate), _) if matches!(outcome.dtype, Dtype::I32 | Dtype::I8) => {
            format!("{}op/s", si(rate))
        }
        (Some(rate), _) => format!("{}FLOP/s", si(rate)),
        (None, Some(rate)) => format!("{}B/s", si(rate)),
        (None, None) => "-".to_owned(),
    }
}

fn interval(outcome: &Outcome) -> String {
    outcome.time_s.as_ref().map_or_else(
        || "-".to_owned(),
        |times| {
            let half = (times.ci95_high - times.ci95_low) / 2.0 / times.median * 100.0;
            format!("{} ± {half:.1}%", seconds(times.median))
        },
    )
}

fn chosen(outcome: &Outcome) -> String {
    let Some(kernel) = &outcome.kernel else {
        return "-".to_owned();
    };
    let technique = kernel.rsplit('/').next().unwrap_or(kernel);
    technique.to_owned()
}

fn of_datasheet(outcome: &Outcome) -> String {
    let (Some(fraction), Some(datasheet)) = (outcome.fraction_of_datasheet, &outcome.datasheet)
    else {
        return "-".to_owned();
    };
    let per_cent = |fraction: f64| format!("{:.0}%", fraction * 100.0);
    // What nobody found a source for is marked wherever it stands.
    let mark = match datasheet.confidence {
        Confidence::Recalled => "?",
        _ => "",
    };
    let observed = datasheet.fraction_at_observed_clock.map(per_cent);
    let observed = observed.map_or_else(String::new, |text| format!(", {text} at its clock"));
    format!("{}{mark} {}{observed}", per_cent(fraction), datasheet.peak)
}

/// The table at the end of a run.
#[must_use]
pub fn summary(report: &Report) -> String {
    let several = report.runners.len() > 1;
    let mut headings = vec!["case", "kernel", "time", "rate", "of ceiling", "verified"];
    let cold = |outcome: &Outcome| {
        outcome
            .regimes
            .iter()
            .find(|regime| regime.cache == "cold")
            .map(|regime| regime.time_ratio)
    };
    let measured = || report.with_status(OutcomeStatus::Measured);
    let some_cold = measured().any(|outcome| cold(outcome).is_some());
    let some_energy = measured().any(|outcome| outcome.energy.is_some());
    let some_gap = measured().any(|outcome| outcome.gap.is_some());
    let some_datasheet = measured().any(|outcome| outcome.fraction_of_datasheet.is_some());
    if some_datasheet {
        headings.insert(5, "of datasheet");
    }
    if some_cold {
        headings.insert(4, "cold");
    }
    if some_gap {
        headings.insert(4, "gap");
    }
    if some_energy {
        headings.push("energy");
    }
    if several {
        headings.insert(1, "runner");
    }
    let rows: Vec<Vec<String>> = report
        .outcomes
        .iter()
        .filter(|outcome| outcome.status == OutcomeStatus::Measured)
        .map(|outcome| {
            let mut row = vec![
                outcome.case_id.clone(),
                chosen(outcome),
                interval(outcome),
                rate(outcome),
                match (outcome.fraction_of_ceiling, &outcome.roofline_bound) {
                    (Some(fraction), Some(bound)) if outcome.op != OpName::Empty => {
                        format!("{:.0}% {bound}", fraction * 100.0)
                    }
                    _ => "-".to_owned(),
                },
                match (&outcome.verification, &outcome.verification_exact) {
                    (Some(v), exact) => {
                        let exact = if exact.is_some() { "bit-exact" } else { "yes" };
                        format!("{exact}, max err {:.1e}", v.max_error)
                    }
                    _ => "no".to_owned(),
                },
            ];
            if some_datasheet {
                row.insert(5, of_datasheet(outcome));
            }
            if some_cold {
                let ratio = cold(outcome);
                row.insert(
                    4,
                    ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}x")),
                );
            }
            if some_gap {
                let gap = outcome.gap.as_ref();
                row.insert(
                    4,
                    gap.map_or_else(
                        || "-".to_owned(),
                        |gap| format!("{:.2}x {}", gap.time_ratio, gap.runner),
                    ),
                );
            }
            if some_energy {
                let energy = outcome.energy.as_ref();
                row.push(energy.map_or_else(|| "-".to_owned(), |e| format!("{}J", si(e.joules))));
            }
            if several {
                row.insert(1, outcome.runner.clone());
            }
            row
        })
        .collect();
    let mut text = table(&headings, &rows);
    text.push('\n');
    for outcome in report
        .outcomes
        .iter()
        .filter(|outcome| outcome.status != OutcomeStatus::Measured)
    {
        let word = match outcome.status {
            OutcomeStatus::Skipped => "skipped",
            OutcomeStatus::Failed => "FAILED",
            OutcomeStatus::Implausible => "IMPLAUSIBLE",
            OutcomeStatus::Measured => continue,
        };
        let runner = if several {
            format!(" [{}]", outcome.runner)
        } else {
            String::new()
        };
        text += &format!(
            "{word} {}{runner}: {}\n",
            outcome.case_id,
            outcome.reason.as_deref().unwrap_or_default()
        );
    }
    for line in remarks(report) {
        text += &format!("{line}\n");
    }
    if let Some(chip) = &report.chip {
        text += &format!("{}\n", chip_line(chip));
    }
    for memory in &report.memory {
        text += &format!("{}\n", caches(memory, several));
    }
    for ceiling in &report.ceilings {
        let unit = match ceiling.unit.as_str() {
            "flop_per_s" => "FLOP/s",
            "op_per_s" => "op/s",
            "bytes_per_s" => "B/s",
            unit => unit,
        };
        let runner = if several {
            format!(" [{}]", ceiling.runner)
        } else {
            String::new()
        };
        text += &format!(
            "ceiling {}{runner}: {}{unit}\n",
            ceiling.name,
            si(ceiling.value)
        );
    }
    text
}

/// What should be known of the numbers as a whole, each in one line.
fn remarks(report: &Report) -> Vec<String> {
    let measured: Vec<&Outcome> = report.with_status(OutcomeStatus::Measured).collect();
    let names = |outcomes: &[&Outcome]| {
        let mut names: Vec<&str> = outcomes.iter().map(|o| o.case_id.as_str()).collect();
        let more = names.len().saturating_sub(3);
        names.truncate(3);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("{}{more}", names.join(", "))
    };
    let having = |wanted: &dyn Fn(&Outcome) -> bool| -> Vec<&Outcome> {
        measured.iter().copied().filter(|o| wanted(o)).collect()
    };
    let mut lines = Vec::new();
    let wide = having(&|o| o.not_converged.is_some());
    if !wide.is_empty() {
        lines.push(format!(
            "not converged, {} of {} cases: the interval shows how well each is known ({})",
            wide.len(),
            measured.len(),
            names(&wide)
        ));
    }
    let moved = having(&|o| o.throttle.as_ref().is_some_and(|t| t.suspected));
    if !moved.is_empty() {
        lines.push(format!(
            "pace not kept, {} of {} cases: throttled or disturbed; the report's throttle has the evidence ({})",
            moved.len(),
            measured.len(),
            names(&moved)
        ));
    }
    for record in &report.runners {
        let name = &record.runner.name;
        let gaps: Vec<&Gap> = measured
            .iter()
            .filter(|outcome| outcome.runner == *name)
            .filter_map(|outcome| outcome.gap.as_ref())
            .collect();
        if let Some(line) = gap_line(name, &gaps) {
            lines.push(line);
        }
    }
    let other = having(&|o| o.clock_note.is_some());
    if !other.is_empty() {
        lines.push(format!(
            "timed by the host's clock because the device's could not be believed: {}",
            names(&other)
        ));
    }
    lines
}

/// The portability gap over all cases, in one line.
fn gap_line(name: &str, gaps: &[&Gap]) -> Option<String> {
    #[allow(clippy::cast_precision_loss)] // a count
    let mean = (gaps.iter().map(|gap| gap.time_ratio.ln()).sum::<f64>() / gaps.len() as f64).exp();
    let least = gaps.iter().map(|gap| gap.time_ratio).reduce(f64::min)?;
    let most = gaps.iter().map(|gap| gap.time_ratio).reduce(f64::max)?;
    let mut against: Vec<&str> = gaps.iter().map(|gap| gap.runner.as_str()).collect();
    against.sort_unstable();
    against.dedup();
    Some(format!(
        "portability gap of {name}: {mean:.2} times the time of the best of {} (geometric mean of {} cases, {least:.2} to {most:.2})",
        against.join(", "),
        gaps.len()
    ))
}

/// Which chip it was and what an hour of it costs, in one line.
fn chip_line(chip: &ChipRecord) -> String {
    let note = chip.note.as_ref();
    let note = note.map_or_else(String::new, |note| format!("; {note}"));
    let price = chip.price.as_ref().map_or_else(String::new, |price| {
        format!("; {} $ an hour ({})", price.usd_per_hour, price.origin)
    });
    format!(
        "chip: {} ({}, by {}{note}){price}",
        chip.name, chip.id, chip.by
    )
}

/// The caches found, in one line.
fn caches(memory: &MemoryHierarchy, several: bool) -> String {
    #[allow(clippy::cast_precision_loss)]
    let bytes = |bytes: u64| match bytes {
        small if small < 1 << 20 => format!("{:.0} KiB", small as f64 / 1024.0),
        large => format!("{:.0} MiB", large as f64 / f64::from(1 << 20)),
    };
    let runner = if several {
        format!(" [{}]", memory.runner)
    } else {
        String::new()
    };
    let found = if memory.caches_bytes.is_empty() {
        "none found".to_owned()
    } else {
        let sizes: Vec<String> = memory.caches_bytes.iter().map(|&b| bytes(b)).collect();
        sizes.join(", ")
    };
    let stated = if memory.stated_bytes.is_empty() {
        String::new()
    } else {
        let sizes: Vec<String> = memory.stated_bytes.iter().map(|&b| bytes(b)).collect();
        format!(" (the system states {})", sizes.join(", "))
    };
    let ends = match (memory.latency.first(), memory.latency.last()) {
        (Some(first), Some(last)) if first.bytes < last.bytes => format!(
            "; a dependent load takes {} in {} and {} in {}",
            seconds(first.value),
            bytes(first.bytes),
            seconds(last.value),
            bytes(last.bytes)
        ),
        _ => String::new(),
    };
    format!("caches{runner}: {found}{stated}{ends}")
}

/// Progress on stderr: a spinner on a terminal, a line per case elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    place: String,
}

impl Progress {
    /// Progress for whoever looks at stderr.
    #[must_use]
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(std::time::Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            place: String::new(),
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watcher for Progress {
    fn say(&mut self, line: &str) {
        self.line(line);
    }

    fn begin(&mut self, index: usize, count: usize, case_id: &str, runner: &str) {
        self.place = format!("[{}/{count}]", index + 1);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} {case_id} [{runner}]", self.place));
            bar.reset_elapsed();
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        let result = match outcome.status {
            OutcomeStatus::Measured => {
                format!(
                    "{}, {} ({})",
                    interval(outcome),
                    rate(outcome),
                    chosen(outcome)
                )
            }
            OutcomeStatus::Skipped => {
                format!("skipped: {}", outcome.reason.as_deref().unwrap_or_default())
            }
            OutcomeStatus::Implausible => format!(
                "IMPLAUSIBLE: {}",
                outcome.reason.as_deref().unwrap_or_default()
            ),
            OutcomeStatus::Failed => {
                format!("FAILED: {}", outcome.reason.as_deref().unwrap_or_default())
            }
        };
        let Outcome {
            case_id, runner, ..
        } = outcome;
        self.line(&format!("{} {case_id} [{runner}]: {result}", self.place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Case, Shape};
    use crate::report::{Datasheet, PriceRecord, empty, unmeasured};

    fn figure(fraction: f64, confidence: Confidence, at_clock: Option<f64>) -> Outcome {
        let shape = Shape::of(&[("m", 8), ("n", 8), ("k", 8)]);
        let case = Case::new(OpName::Matmul, &shape, Dtype::F16).unwrap();
        let mut outcome = unmeasured(&case, "wgpu", OutcomeStatus::Measured, String::new());
        outcome.fraction_of_datasheet = Some(fraction);
        outcome.datasheet = Some(Datasheet {
            chip_id: "a-chip".to_owned(),
            peak: "matrix f16".to_owned(),
            value: 1e15,
            unit: "flop_per_s".to_owned(),
            clock_basis: None,
            confidence,
            sources: Vec::new(),
            observed_clock_hz: at_clock.map(|_| 1e9),
            fraction_at_observed_clock: at_clock,
        });
        outcome
    }

    #[test]
    fn a_run_on_a_known_chip_shows_fractions_of_its_datasheet_and_what_it_costs() {
        let mut report = empty();
        report.outcomes = vec![
            figure(0.654, Confidence::Vendor, Some(0.702)),
            figure(0.5, Confidence::Recalled, None),
        ];
        assert!(!summary(&report).contains("chip:"));
        report.chip = Some(ChipRecord {
            id: "a-chip".to_owned(),
            name: "A Chip".to_owned(),
            vendor: "V".to_owned(),
            by: "PCI id 10de:2330".to_owned(),
            note: None,
            devices_per_chip: None,
            price: Some(PriceRecord {
                usd_per_hour: 2.5,
                origin: "a cloud, on demand, 2026-07-20".to_owned(),
                as_of: Some("2026-07-20".to_owned()),
                confidence: Confidence::Secondary,
                sources: Vec::new(),
            }),
        });
        let text = summary(&report);
        for wanted in [
            "of datasheet",
            "65% matrix f16, 70% at its clock",
            "50%? matrix f16",
            "chip: A Chip (a-chip, by PCI id 10de:2330); 2.5 $ an hour (a cloud, on demand, 2026-07-20)",
        ] {
            assert!(text.contains(wanted), "no {wanted:?} in {text}");
        }
    }
}
