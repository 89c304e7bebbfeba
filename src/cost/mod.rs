//! What it would cost to serve a model on a chip: the times of its measured kernels, added up layer
//! by layer, and what an hour of the chip costs.

use std::collections::BTreeSet;
use std::fmt::Write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chips::{Chip, Chips};
use crate::datasheet::Datasheets;
use crate::display;
use crate::error::{Error, Result};
use crate::model::{LEFT_OUT, Model, Phase};
use crate::normalise::one_device;
use crate::op::Dtype;
use crate::plan;
use crate::report::{Confidence, Outcome, OutcomeStatus, PriceRecord, Report, RunnerRecord, slug};

/// How the reason begins that energy was counted under other conditions than the time.
const OTHER_CALLS: &str = "its energy is of ";

/// Seconds of an hour.
const HOUR_S: f64 = 3600.0;

/// What a buyer asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Of which model.
    pub model: Model,
    /// In which element type its projections are multiplied.
    pub dtype: Dtype,
    /// What the chip is asked to do with it.
    pub phases: Vec<Phase>,
    /// Tokens of a request's prompt and of its answer, where whole requests are asked for.
    pub request: Option<(u64, u64)>,
    /// Only this runner, where one is named.
    pub runner: Option<String>,
}

/// One report with what is known beside it.
pub struct Subject {
    /// How it was given on the command line.
    pub name: String,
    /// It.
    pub report: Report,
    /// What an hour of its device costs, where the user says so.
    pub paid: Option<PriceRecord>,
    /// Its chip, where the user says so.
    pub chip_id: Option<String>,
}

/// A number with the interval that the measured intervals allow: all of them at one end together, so
/// it is wider than 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Range {
    /// From the medians.
    pub value: f64,
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
}

impl Range {
    /// The same of `amount` over it.
    fn under(self, amount: f64) -> Self {
        Self {
            value: amount / self.value,
            low: amount / self.high,
            high: amount / self.low,
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            value: self.value * factor,
            low: self.low * factor,
            high: self.high * factor,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            value: self.value + other.value,
            low: self.low + other.low,
            high: self.high + other.high,
        }
    }
}

/// A measured case with its share in a phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// What it is in the model: `qkv`, `attention`, `out`, `gate_up`, `down`, `head`.
    pub part: String,
    /// The case.
    pub case_id: String,
    /// The kernel that was measured.
    pub kernel: String,
    /// How often it runs.
    pub count: u64,
    /// Seconds of one call.
    pub time_s: Range,
    /// `cold` (weights come from memory), or `hot` where nothing else was measured.
    pub cache: String,
    /// Joules of one call, where they were counted under the conditions of its time.
    pub joules: Option<f64>,
    /// Why there are none.
    #[serde(default)]
    pub joules_reason: Option<String>,
}

/// Whether a model fits a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fit {
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Bytes of keys and values of all tokens in flight.
    pub kv_bytes: u64,
    /// Bytes of memory of the device, where they are known.
    pub memory_bytes: Option<f64>,
    /// Devices that it takes to hold both, activations not counted.
    pub device_count: Option<u64>,
}

/// What one runner of one report makes of one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Projection {
    /// Which report of the list, counted from 0.
    pub report_index: usize,
    /// Its device.
    pub device: String,
    /// The chip, where it is known.
    pub chip_id: Option<String>,
    /// Whose kernels.
    pub runner: String,
    /// The phase.
    pub phase: Phase,
    /// Seconds of it.
    pub time_s: Range,
    /// Tokens that come of it in a second.
    pub tokens_per_second: Range,
    /// Joules of a token, where every part's were counted under the conditions of its time.
    pub joules_per_token: Option<f64>,
    /// Why there are none, of the first part without.
    #[serde(default)]
    pub joules_reason: Option<String>,
    /// Whether the model fits.
    pub fit: Fit,
    /// What an hour of the device costs.
    pub price: Option<PriceRecord>,
    /// Dollars of a million tokens, where there is a price and the model fits.
    pub usd_per_million_tokens: Option<Range>,
    /// Why there are no dollars.
    pub usd_reason: Option<String>,
    /// What it is made of.
    pub shares: Vec<Share>,
}

/// A phase that cannot be projected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// Which report of the list, counted from 0.
    pub report_index: usize,
    /// Whose kernels.
    pub runner: String,
    /// The phase.
    pub phase: Phase,
    /// The cases that are not measured, each with the reason.
    pub missing: Vec<String>,
}

/// Whole requests: a prompt that is read and an answer that is written among others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestCost {
    /// Which report of the list, counted from 0.
    pub report_index: usize,
    /// The chip, where it is known.
    pub chip_id: Option<String>,
    /// Whose kernels.
    pub runner: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub answer_tokens: u64,
    /// Sequences that are decoded together.
    pub batch: u64,
    /// Tokens over which each step of the answer attends, as measured.
    pub context: u64,
    /// Seconds of the device that a request takes up.
    pub device_s: Range,
    /// Dollars of a thousand requests, where there is a price and the model fits.
    pub usd_per_thousand: Option<Range>,
}

/// At what price one chip does the same for the same money as another at its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BreakEven {
    /// What is done: a phase or a request, in words.
    pub what: String,
    /// The report whose price is sought.
    pub report_index: usize,
    /// Its runner.
    pub runner: String,
    /// The report whose price is given.
    pub against_index: usize,
    /// Its runner.
    pub against_runner: String,
    /// That price, in dollars an hour.
    pub against_usd_per_hour: f64,
    /// Dollars an hour of the first at which both cost the same.
    pub usd_per_hour: Range,
    /// What an hour of the first does cost, where that is known.
    pub actual_usd_per_hour: Option<f64>,
}

/// One report as it was named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Named {
    /// How it was given on the command line.
    pub name: String,
    /// Its id.
    pub report_id: String,
}

/// What comes of a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The model.
    pub model: Model,
    /// Its parameters.
    pub parameter_count: u64,
    /// Element type of its projections.
    pub dtype: Dtype,
    /// What no number here holds.
    pub left_out: String,
    /// The reports.
    pub reports: Vec<Named>,
    /// What could be projected.
    pub projections: Vec<Projection>,
    /// What could not.
    pub refused: Vec<Refusal>,
    /// Whole requests, where they were asked for.
    pub requests: Vec<RequestCost>,
    /// Prices at which two chips cost the same.
    pub break_even: Vec<BreakEven>,
}

/// How headings and rows become a table.
type TableOf = dyn Fn(&[&str], &[Vec<String>]) -> String;

/// The columns of [`Answer::csv`]: names as in the JSON; times in seconds, sizes in bytes.
pub const COLUMNS: [&str; 25] = [
    "report",
    "device",
    "chip_id",
    "runner",
    "model",
    "dtype",
    "phase",
    "sequences",
    "tokens",
    "time_s",
    "tokens_per_second",
    "tokens_per_second_low",
    "tokens_per_second_high",
    "joules_per_token",
    "weight_bytes",
    "kv_bytes",
    "memory_bytes",
    "usd_per_hour",
    "price_origin",
    "price_as_of",
    "usd_per_million_tokens",
    "usd_per_million_tokens_low",
    "usd_per_million_tokens_high",
    "usd_reason",
    "joules_reason",
];

/// Answers a question from reports.
///
/// # Errors
/// A usage error where a size of the model is beyond what a case may have, or no report has the runner
/// that was asked for.
pub fn answer(question: &Question, subjects: &[Subject], chips: &Chips) -> Result<Answer> {
    let mut projections = Vec::new();
    let mut refused = Vec::new();
    let mut met = false;
    for (report_index, subject) in subjects.iter().enumerate() {
        for record in &subject.report.runners {
            let runner = &record.runner.name;
            if question.runner.as_ref().is_some_and(|only| only != runner) {
                continue;
            }
            met = true;
            let device = Priced::of(subject, record, chips);
            for phase in &question.phases {
                match project(question, subject, report_index, record, &device, *phase)? {
                    Ok(projection) => projections.push(projection),
                    Err(missing) => refused.push(Refusal {
                        report_index,
                        runner: runner.clone(),
                        phase: *phase,
                        missing,
                    }),
                }
            }
        }
    }
    if let (false, Some(runner)) = (met, &question.runner) {
        let there: BTreeSet<&str> = subjects
            .iter()
            .flat_map(|subject| &subject.report.runners)
            .map(|record| &*record.runner.name)
            .collect();
        let there: Vec<&str> = there.into_iter().collect();
        return Err(Error::usage(format!(
            "--runner {runner}: no report has a runner of that name; there is {}",
            there.join(", ")
        )));
    }
    let requests = requests(question, &projections);
    let break_even = break_evens(&projections, &requests);
    Ok(Answer {
        parameter_count: question.model.parameter_count(),
        model: question.model.clone(),
        dtype: question.dtype,
        left_out: LEFT_OUT.to_owned(),
        reports: subjects
            .iter()
            .map(|subject| Named {
                name: subject.name.clone(),
                report_id: subject.report.report_id.clone(),
            })
            .collect(),
        projections,
        refused,
        requests,
        break_even,
    })
}

/// What is known of the device of one runner.
struct Priced {
    chip_id: Option<String>,
    /// Why nobody knows which chip it is.
    unclear: String,
    memory_bytes: Option<f64>,
    price: Option<PriceRecord>,
}

impl Priced {
    #[allow(clippy::cast_precision_loss)]
    fn of(subject: &Subject, record: &RunnerRecord, chips: &Chips) -> Self {
        let report = &subject.report;
        let own = one_device(&report.device, &record.device);
        let sheets = Datasheets {
            chips: chips.clone(),
            ..Datasheets::default()
        };
        let told = subject.chip_id.clone().filter(|_| own);
        let identity = sheets.identity(&record.device);
        let chip_id = told.or_else(|| identity.chip_id().map(str::to_owned));
        let chip = chip_id.as_deref().and_then(|id| chips.get(id));
        let is_cpu = record.device.device_type == "cpu";
        let memory_bytes = chip
            .and_then(Chip::device_memory_bytes)
            .or(is_cpu.then_some(report.host.memory_bytes as f64));
        let stated = report.chip.as_ref().and_then(|chip| chip.price.clone());
        let stated = stated.filter(|_| own);
        let by_user = |price: &PriceRecord| price.confidence == Confidence::User;
        // What the user named when the report was made holds, as long as nobody names another.
        let price = subject.paid.clone().filter(|_| own);
        let price = price
            .or_else(|| stated.clone().filter(by_user))
            .or_else(|| chip.and_then(|chip| sheets.price(chip)))
            .or(stated);
        Self {
            chip_id,
            unclear: identity.line(),
            memory_bytes,
            price,
        }
    }
}

/// The projection of one phase, or what is missing for it.
#[allow(clippy::cast_precision_loss)]
fn project(
    question: &Question,
    subject: &Subject,
    report_index: usize,
    record: &RunnerRecord,
    device: &Priced,
    phase: Phase,
) -> Result<std::result::Result<Projection, Vec<String>>> {
    let runner = &record.runner.name;
    let mut shares = Vec::new();
    let mut missing = Vec::new();
    for part in question.model.parts(phase, question.dtype)? {
        let id = part.case.id();
        let found = subject
            .report
            .outcomes
            .iter()
            .find(|outcome| outcome.case_id == id && outcome.runner == *runner);
        match found {
            Some(outcome) if outcome.status == OutcomeStatus::Measured => {
                shares.extend(share(part.name, part.count, outcome));
            }
            Some(outcome) => {
                let reason = outcome.reason.as_deref().unwrap_or("not measured");
                missing.push(format!("{id}: {reason}"));
            }
            None => missing.push(format!("{id}: it is not in the report")),
        }
    }
    if !missing.is_empty() {
        return Ok(Err(missing));
    }
    let zero = Range {
        value: 0.0,
        low: 0.0,
        high: 0.0,
    };
    let time_s = shares.iter().fold(zero, |sum, share| {
        sum.plus(share.time_s.times(share.count as f64))
    });
    let tokens = phase.token_count() as f64;
    let tokens_per_second = time_s.under(tokens);
    let joules: Option<f64> = shares
        .iter()
        .map(|share| Some(share.joules? * share.count as f64))
        .sum();
    let joules_reason = shares.iter().find_map(|share| {
        let reason = share.joules_reason.as_ref()?;
        Some(format!("{}: {reason}", share.case_id))
    });
    let fit = fit(question, phase, device.memory_bytes);
    let usd_reason = no_dollars(device, &fit);
    let usd_per_million_tokens = device
        .price
        .as_ref()
        .filter(|_| usd_reason.is_none())
        .map(|price| tokens_per_second.under(price.usd_per_hour / HOUR_S * 1e6));
    Ok(Ok(Projection {
        report_index,
        device: record.device.name.clone(),
        chip_id: device.chip_id.clone(),
        runner: runner.clone(),
        phase,
        time_s,
        tokens_per_second,
        joules_per_token: joules.map(|joules| joules / tokens),
        joules_reason,
        fit,
        price: device.price.clone(),
        usd_per_million_tokens,
        usd_reason,
        shares,
    }))
}

/// A measured case as a share: with cold caches where that was measured, since the weights of a model
/// do not wait in a cache for the next token.
fn share(part: &str, count: u64, outcome: &Outcome) -> Option<Share> {
    let cold = outcome
        .regimes
        .iter()
        .find(|regime| regime.cache == "cold" && regime.data == "uniform");
    let times = cold
        .map(|regime| &regime.time_s)
        .or(outcome.time_s.as_ref())?;
    let headline = outcome
        .labels
        .as_ref()
        .map_or("hot", |labels| &*labels.cache);
    let cache = if cold.is_some() { "cold" } else { headline };
    let joules = match &outcome.energy {
        Some(energy) if energy.cache() == cache => Ok(energy.joules),
        Some(energy) => Err(format!(
            "{OTHER_CALLS}{} calls, its time of {cache} ones",
            energy.cache()
        )),
        None => Err(outcome
            .energy_reason
            .clone()
            .unwrap_or_else(|| "its energy was not counted".to_owned())),
    };
    Some(Share {
        part: part.to_owned(),
        case_id: outcome.case_id.clone(),
        kernel: outcome.kernel.clone().unwrap_or_default(),
        count,
        time_s: Range {
            value: times.median,
            low: times.ci95_low,
            high: times.ci95_high,
        },
        cache: cache.to_owned(),
        joules_reason: joules.as_ref().err().cloned(),
        joules: joules.ok(),
    })
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn fit(question: &Question, phase: Phase, memory_bytes: Option<f64>) -> Fit {
    let weight_bytes = question.model.weight_bytes(question.dtype);
    let kv_bytes = question.model.kv_bytes_per_token(question.dtype) * phase.kept_tokens();
    let needed = weight_bytes as f64 + kv_bytes as f64;
    Fit {
        weight_bytes,
        kv_bytes,
        memory_bytes,
        device_count: memory_bytes.map(|memory| (needed / memory).ceil() as u64),
    }
}

/// Why a projection has no dollars.
fn no_dollars(device: &Priced, fit: &Fit) -> Option<String> {
    if device.price.is_none() {
        return Some(match &device.chip_id {
            Some(id) => format!("no dated price of {id} is known; give one with --price"),
            None => format!(
                "which chip it is: {}; or give a price with --price",
                device.unclear
            ),
        });
    }
    match fit.device_count {
        Some(1) => None,
        Some(count) => Some(format!(
            "the model needs {count} devices, and what they lose to each other was not measured"
        )),
        None => Some("the memory of the device is not known".to_owned()),
    }
}

#[allow(clippy::cast_precision_loss)]
fn requests(question: &Question, projections: &[Projection]) -> Vec<RequestCost> {
    let Some((prompt, answer)) = question.request else {
        return Vec::new();
    };
    let same =
        |a: &Projection, b: &Projection| a.report_index == b.report_index && a.runner == b.runner;
    let reads = projections
        .iter()
        .filter(|p| p.phase == Phase::Prefill { tokens: prompt });
    reads
        .flat_map(|read| {
            let steps = projections.iter().filter(move |p| same(p, read));
            steps.filter_map(move |step| {
                let Phase::Decode { batch, context } = step.phase else {
                    return None;
                };
                // A step writes a token for each sequence of the batch.
                let written = step.time_s.times(answer as f64 / batch as f64);
                let device_s = read.time_s.plus(written);
                let price = step
                    .price
                    .as_ref()
                    .filter(|_| step.usd_reason.is_none() && read.usd_reason.is_none());
                Some(RequestCost {
                    report_index: step.report_index,
                    chip_id: step.chip_id.clone(),
                    runner: step.runner.clone(),
                    prompt_tokens: prompt,
                    answer_tokens: answer,
                    batch,
                    context,
                    device_s,
                    usd_per_thousand: price
                        .map(|price| device_s.times(price.usd_per_hour / HOUR_S * 1e3)),
                })
            })
        })
        .collect()
}

/// Prices at which one chip's work costs what it costs on another.
fn break_evens(projections: &[Projection], requests: &[RequestCost]) -> Vec<BreakEven> {
    struct Entry<'a> {
        what: String,
        place: (usize, &'a str),
        device: &'a str,
        /// Seconds of a device for the same work.
        device_s: Range,
        price: Option<f64>,
        fits: bool,
    }
    let price = |price: &Option<PriceRecord>| price.as_ref().map(|price| price.usd_per_hour);
    let phases = projections.iter().map(|p| Entry {
        what: p.phase.words(),
        place: (p.report_index, &p.runner),
        device: &p.device,
        device_s: p.time_s,
        price: price(&p.price),
        fits: p.fit.device_count == Some(1),
    });
    let whole = requests.iter().map(|r| {
        let same = |p: &&Projection| {
            p.report_index == r.report_index
                && p.runner == r.runner
                && p.phase
                    == Phase::Decode {
                        batch: r.batch,
                        context: r.context,
                    }
        };
        let step = projections.iter().find(same);
        Entry {
            what: request_words(r),
            place: (r.report_index, &r.runner),
            device: step.map_or("", |p| &p.device),
            device_s: r.device_s,
            price: step.and_then(|p| price(&p.price)),
            fits: step.is_some_and(|p| p.fit.device_count == Some(1)),
        }
    });
    // Of the runners of one device the buyer takes the fastest.
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for entry in phases.chain(whole).filter(|entry| entry.fits) {
        let same = |other: &Entry<'_>| {
            other.what == entry.what
                && other.place.0 == entry.place.0
                && other.device == entry.device
        };
        match entries.iter().position(same) {
            Some(at) if entry.device_s.value < entries[at].device_s.value => entries[at] = entry,
            Some(_) => {}
            None => entries.push(entry),
        }
    }
    let mut found = Vec::new();
    for against in &entries {
        let Some(paid) = against.price else { continue };
        for entry in &entries {
            if entry.what != against.what || entry.place == against.place {
                continue;
            }
            let (mine, theirs) = (entry.device_s, against.device_s);
            found.push(BreakEven {
                what: entry.what.clone(),
                report_index: entry.place.0,
                runner: entry.place.1.to_owned(),
                against_index: against.place.0,
                against_runner: against.place.1.to_owned(),
                against_usd_per_hour: paid,
                usd_per_hour: Range {
                    value: paid * theirs.value / mine.value,
                    low: paid * theirs.low / mine.high,
                    high: paid * theirs.high / mine.low,
                },
                actual_usd_per_hour: entry.price,
            });
        }
    }
    // Line by line what is to be decided.
    let place = |what: &str| entries.iter().position(|entry| entry.what == what);
    found.sort_by_key(|even: &BreakEven| place(&even.what));
    found
}

fn request_words(request: &RequestCost) -> String {
    format!(
        "request of {} and {} tokens among {}",
        request.prompt_tokens, request.answer_tokens, request.batch
    )
}

/// A value with its interval: `12.3 [12.1, 12.6]`.
fn shown(range: &Range) -> String {
    format!(
        "{} [{}, {}]",
        significant(range.value),
        significant(range.low),
        significant(range.high)
    )
}

/// Four significant digits, without a prefix.
fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let places = (3 - value.abs().log10().floor() as i64).max(0) as usize;
    format!("{value:.places$}")
}

impl Answer {
    /// Whether anything could be projected.
    ///
    /// # Errors
    /// A usage error that says what to run.
    pub fn verdict(&self) -> Result<()> {
        if self.projections.is_empty() {
            let first = self
                .refused
                .iter()
                .flat_map(|refusal| &refusal.missing)
                .next();
            let first = first.map_or_else(String::new, |text| format!(" (such as {text})"));
            return Err(Error::usage(format!(
                "no phase of {} can be projected: cases of it are not measured{first}; run them with the suite that `chipmark cost --model M --suite` prints",
                self.model.name
            )));
        }
        Ok(())
    }

    /// The name of a side in tables: the report's number, the chip or device, the runner.
    fn place(&self, report_index: usize, runner: &str) -> String {
        let projection = self
            .projections
            .iter()
            .find(|p| p.report_index == report_index && p.runner == runner);
        let chip = projection.map_or("", |p| p.chip_id.as_deref().unwrap_or(&p.device));
        // What is in brackets is driver or compiler version.
        let chip = chip.split(" (").next().unwrap_or_default();
        format!("#{} {chip}, {runner}", report_index + 1)
    }

    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        self.written(
            &|headings, rows| format!("{}\n", display::table(headings, rows)),
            "",
        )
    }

    /// For a page in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        self.written(&display::markdown_table, "\n")
    }

    /// A row for each projection, with the columns of [`COLUMNS`].
    ///
    /// # Errors
    /// Never but for want of memory.
    pub fn csv(&self) -> Result<String> {
        let plain = display::plain;
        let rows = self.projections.iter().map(|p| {
            let (phase, sequences, tokens) = match p.phase {
                Phase::Prefill { tokens } => ("prefill", 1, tokens),
                Phase::Decode { batch, context } => ("decode", batch, context),
            };
            let usd = p.usd_per_million_tokens;
            let price = p.price.as_ref();
            vec![
                self.reports[p.report_index].name.clone(),
                p.device.clone(),
                p.chip_id.clone().unwrap_or_default(),
                p.runner.clone(),
                self.model.name.clone(),
                self.dtype.to_string(),
                phase.to_owned(),
                sequences.to_string(),
                tokens.to_string(),
                plain(Some(p.time_s.value)),
                plain(Some(p.tokens_per_second.value)),
                plain(Some(p.tokens_per_second.low)),
                plain(Some(p.tokens_per_second.high)),
                plain(p.joules_per_token),
                p.fit.weight_bytes.to_string(),
                p.fit.kv_bytes.to_string(),
                plain(p.fit.memory_bytes),
                plain(price.map(|price| price.usd_per_hour)),
                price.map_or_else(String::new, |price| price.origin.clone()),
                price
                    .and_then(|price| price.as_of.clone())
                    .unwrap_or_default(),
                plain(usd.map(|usd| usd.value)),
                plain(usd.map(|usd| usd.low)),
                plain(usd.map(|usd| usd.high)),
                p.usd_reason.clone().unwrap_or_default(),
                p.joules_reason.clone().unwrap_or_default(),
            ]
        });
        display::csv(&COLUMNS, rows)
    }

    fn written(&self, table: &TableOf, gap: &str) -> String {
        let mut text = format!(
            "{}, {} parameters, {}; from measured kernels alone, without {}.\n\n",
            self.model.name,
            display::si(to_f64(self.parameter_count)).trim_end(),
            self.dtype,
            self.left_out
        );
        for (index, report) in self.reports.iter().enumerate() {
            let _ = writeln!(text, "#{} {}{gap}", index + 1, report.name);
        }
        // The answer last: the table of cases is long, and a terminal shows the end.
        if !self.projections.is_empty() {
            let _ = write!(text, "\n{}", self.measured(table));
        }
        let lines = self.lines();
        if !lines.is_empty() {
            text.push('\n');
        }
        for line in lines {
            let _ = writeln!(text, "{line}{gap}");
        }
        if !self.projections.is_empty() {
            let _ = write!(text, "\n{}", self.phases(table));
        }
        if !self.requests.is_empty() {
            let _ = write!(text, "\n{}", self.whole_requests(table));
        }
        if !self.break_even.is_empty() {
            let _ = write!(text, "\n{}", self.prices(table));
        }
        text
    }

    fn phases(&self, table: &TableOf) -> String {
        let some_energy = self
            .projections
            .iter()
            .any(|p| p.joules_per_token.is_some());
        let mut headings = vec![
            "on",
            "phase",
            "a step",
            "tokens/s",
            "$ per million tokens",
            "memory",
        ];
        if some_energy {
            headings.push("J/token");
        }
        let rows: Vec<Vec<String>> = self
            .projections
            .iter()
            .map(|p| {
                let needed = to_f64(p.fit.weight_bytes + p.fit.kv_bytes);
                let memory = p.fit.memory_bytes.map_or_else(
                    || "?".to_owned(),
                    |memory| format!("{}B", display::si(memory)),
                );
                let mut row = vec![
                    self.place(p.report_index, &p.runner),
                    p.phase.words(),
                    display::seconds(p.time_s.value),
                    shown(&p.tokens_per_second),
                    p.usd_per_million_tokens
                        .as_ref()
                        .map_or("-".to_owned(), shown),
                    format!("{}B of {memory}", display::si(needed)),
                ];
                if some_energy {
                    row.push(p.joules_per_token.map_or("-".to_owned(), significant));
                }
                row
            })
            .collect();
        table(&headings, &rows)
    }

    fn whole_requests(&self, table: &TableOf) -> String {
        let rows: Vec<Vec<String>> = self
            .requests
            .iter()
            .map(|request| {
                vec![
                    self.place(request.report_index, &request.runner),
                    request_words(request),
                    format!("{} s", shown(&request.device_s)),
                    request
                        .usd_per_thousand
                        .as_ref()
                        .map_or("-".to_owned(), shown),
                ]
            })
            .collect();
        table(&["on", "request", "of the device", "$ per thousand"], &rows)
    }

    /// Prices, what has none, and what could not be projected, each once.
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        let mut add = |line: String| {
            if !lines.contains(&line) {
                lines.push(line);
            }
        };
        for p in &self.projections {
            let place = self.place(p.report_index, &p.runner);
            if let Some(price) = &p.price {
                let device = place.strip_suffix(&*format!(", {}", p.runner));
                add(format!(
                    "price: {}: {} $ an hour ({})",
                    device.unwrap_or(&place),
                    price.usd_per_hour,
                    price.origin
                ));
            }
            if let Some(reason) = &p.usd_reason {
                add(format!(
                    "no dollars: {place}: {}: {reason}",
                    p.phase.words()
                ));
            }
            // Of a device whose energy nobody counted there is nothing to explain.
            let counted = p.shares.iter().any(|share| match &share.joules_reason {
                Some(reason) => reason.starts_with(OTHER_CALLS),
                None => true,
            });
            if let Some(reason) = p.joules_reason.as_ref().filter(|_| counted) {
                add(format!(
                    "no J/token: {place}: {}: {reason}",
                    p.phase.words()
                ));
            }
        }
        let hot = self
            .projections
            .iter()
            .any(|p| p.shares.iter().any(|s| s.cache == "hot"));
        if hot {
            add("note: cases marked hot were measured with their weights in a cache, where they fit one".to_owned());
        }
        for refusal in &self.refused {
            let more = match refusal.missing.len() {
                1 => String::new(),
                count => format!("; and {} more", count - 1),
            };
            add(format!(
                "not projected: #{} {}, {}: {}{more}",
                refusal.report_index + 1,
                refusal.runner,
                refusal.phase.words(),
                refusal.missing.first().map_or("", String::as_str)
            ));
        }
        lines
    }

    fn prices(&self, table: &TableOf) -> String {
        let rows: Vec<Vec<String>> = self
            .break_even
            .iter()
            .map(|even| {
                vec![
                    even.what.clone(),
                    self.place(even.report_index, &even.runner),
                    shown(&even.usd_per_hour),
                    even.actual_usd_per_hour.map_or("-".to_owned(), significant),
                    self.place(even.against_index, &even.against_runner),
                    significant(even.against_usd_per_hour),
                ]
            })
            .collect();
        table(
            &["for", "breaks even at", "$/h", "asked", "with", "at $/h"],
            &rows,
        )
    }

    /// The cases that all this rests on, each once.
    fn measured(&self, table: &TableOf) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        for p in &self.projections {
            for share in &p.shares {
                let row = vec![
                    share.case_id.clone(),
                    self.place(p.report_index, &p.runner),
                    share.kernel.clone(),
                    display::seconds(share.time_s.value),
                    share.cache.clone(),
                    format!(
                        "{} of {}, {}",
                        share.part,
                        p.phase.words(),
                        match share.count {
                            1 => "once".to_owned(),
                            count => format!("{count} times"),
                        }
                    ),
                ];
                match rows.iter_mut().find(|known| known[..2] == row[..2]) {
                    Some(known) => known[5] = format!("{}; {}", known[5], row[5]),
                    None => rows.push(row),
                }
            }
        }
        table(
            &["measured case", "on", "kernel", "time", "caches", "as"],
            &rows,
        )
    }
}

#[allow(clippy::cast_precision_loss)]
fn to_f64(amount: u64) -> f64 {
    amount as f64
}

/// The suite that measures every case of these phases, as a `.toml` file for `run --suite`.
///
/// # Errors
/// A usage error where a size of the model is beyond what a case may have.
pub fn suite(question: &Question) -> Result<String> {
    let mut cases = Vec::new();
    for phase in &question.phases {
        for part in question.model.parts(*phase, question.dtype)? {
            if !cases.contains(&part.case) {
                cases.push(part.case);
            }
        }
    }
    // Measured as `llm` measures.
    let llm = plan::plan("llm", None)?;
    let probes = llm.cases.into_iter().filter(|case| case.op.is_probe());
    let mut text = format!(
        "name = {:?}\ndescription = \"What {} asks of a chip, layer by layer.\"\n\n# Seconds that one case may take, choice of variant included; a probe gets a quarter of it.\ncase_budget_s = {:?}\n# A case whose single call may take longer than this is skipped.\ncall_s_max = {:?}\n# Beside the headline, with cold caches: weights come from memory.\nregimes = [\"cold\"]\n",
        slug(&question.model.name),
        question.model.name,
        llm.case_budget_s,
        llm.call_s_max,
    );
    let _ = write!(
        text,
        "# Steady work over which energy is counted.\nenergy_window_s = {:?}\n",
        llm.energy_window_s
    );
    text.push_str("\n# What the cases are measured against, then the cases.");
    for case in probes.chain(cases) {
        let sizes: Vec<String> = case
            .shape
            .0
            .iter()
            .map(|(name, size)| format!("{name} = {size}"))
            .collect();
        let _ = write!(
            text,
            "\n[[cases]]\nop = \"{}\"\ndtype = \"{}\"\nshape = {{ {} }}\n",
            case.op,
            case.dtype,
            sizes.join(", ")
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
