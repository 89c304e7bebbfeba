//! The command line: what is asked, in the words of the contract, and the exit codes.

use std::cmp::Reverse;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cache::Cache;
use crate::chips::{self, Chips, Identity};
use crate::compare::{Comparison, Terms, compare};
use crate::cost::{self, Question, Subject};
use crate::datasheet::{self, Datasheets};
use crate::display;
use crate::error::{Error, ErrorKind, Result};
use crate::folders;
use crate::gate::{self, Gate, Thresholds};
use crate::gpu::{self, BACKENDS};
use crate::input::Data;
use crate::interleave::{self, Race};
use crate::interrupt;
use crate::model::{Model, Phase};
use crate::op::{Case, Dtype, OpName, Role, Shape};
use crate::plan::{self, suite_names};
use crate::protocol::{Device, Variant, serve};
use crate::replay::{self, Agreement, Wish};
use crate::report::{self, Calibration, OutcomeStatus, PriceRecord, Report, Status};
use crate::run::{self, Options, Reach, Watcher};
use crate::runner::start::External;
use crate::runner::{NATIVE, SILENCE_S_MAX, native};
use crate::screen::{self, Progress};
use crate::verify::entropy;
use crate::{audit, calibrate, conformance, consistency, merge, schemas, signature, telemetry};

/// Measures GPUs and AI accelerators: verified kernels, honest timing, one report per chip.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure a device and write its report
    Run(RunArgs),
    /// Show what can be measured here
    Devices {
        /// Only devices of this API
        #[arg(long, value_parser = BACKENDS)]
        backend: Option<String>,
        /// Only what this program reaches by itself: start none of the runners in `runners`
        #[arg(long)]
        native: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the cases of a suite, and which a device would have to skip
    List {
        /// Which device: its index or PCI id as `devices` shows them, or part of its name
        #[arg(long, value_name = "SEL")]
        device: Option<String>,
        /// Which API to reach it by
        #[arg(long, value_parser = BACKENDS)]
        backend: Option<String>,
        /// Which suite
        #[arg(long, default_value = "quick")]
        suite: String,
        /// Only cases whose id matches this regular expression
        #[arg(long)]
        filter: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Check every kernel against the f64 reference, without timing anything
    Verify(VerifyArgs),
    /// Show reports side by side; the first is the baseline
    Compare {
        /// Two reports or more
        #[arg(required = true, num_args = 2..)]
        reports: Vec<PathBuf>,
        #[command(flatten)]
        sides: SideArgs,
        /// Relative difference in per cent below which two times count as the same [default: the
        /// reports' calibration, or 1]
        #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
        tie: Option<f64>,
        /// How to show it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Fail if a report is slower than its baseline (code 1) or nobody can tell (code 5)
    Check {
        /// The report to be measured against
        #[arg(long, value_name = "REPORT")]
        baseline: PathBuf,
        /// The report that must not be slower
        #[arg(long, value_name = "REPORT")]
        candidate: PathBuf,
        #[command(flatten)]
        sides: SideArgs,
        /// Relative difference in per cent below which two times count as the same [default: the
        /// reports' calibration, or 1]
        #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
        tie: Option<f64>,
        /// What is asked of which cases, as TOML: how much slower, how far below the ceiling, which
        /// must be there and which are left out
        #[arg(long, value_name = "FILE")]
        thresholds: Option<PathBuf>,
        /// How to show it
        #[arg(long, value_enum, default_value_t = GateFormat::Text)]
        format: GateFormat,
    },
    /// Race two runners or builds by turns, each time in a fresh process, and compare them
    Ab(AbArgs),
    /// Find out what differences can be told here, by slowing a kernel down on purpose
    Calibrate(CalibrateArgs),
    /// Test whether a program is a runner: right outputs, honest refusals, a true clock
    Conformance(ConformanceArgs),
    /// Show what datasheets say of chips, with the source of every number
    Chips {
        /// A chip's id, or part of its id, name or vendor; all of them if absent
        #[arg(value_name = "ID|TEXT")]
        which: Option<String>,
        /// A file of chips and prices, over those that come with the program
        #[arg(long, value_name = "FILE")]
        chips: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Project tokens a second, dollars and break-even prices of a model from reports
    Cost(CostArgs),
    /// Show which variants earlier searches found best, or forget them
    Cache {
        /// Forget them all
        #[arg(long)]
        clear: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Join the shards of one run into one report
    Merge {
        /// The shards' reports
        #[arg(required = true, num_args = 2..)]
        reports: Vec<PathBuf>,
        /// Folder that the report is written below, or - for standard output
        #[arg(short, long, value_name = "DIR|-", default_value = "reports")]
        output: PathBuf,
    },
    /// Check that a file is a whole, untouched report
    Validate {
        /// The report
        report: PathBuf,
        /// Check its signature (REPORT.minisig) by this public key as well
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Sign a report in the format of minisign, or make the keys to do so
    Sign {
        /// The report; its signature is written beside it as REPORT.minisig
        #[arg(required_unless_present = "generate_key")]
        report: Option<PathBuf>,
        /// The secret key; its password comes from CHIPMARK_KEY_PASSWORD or the terminal
        #[arg(long, value_name = "FILE", required_unless_present = "generate_key")]
        key: Option<PathBuf>,
        /// Make chipmark.key and chipmark.pub in this folder instead, with a password if one is given
        #[arg(long, value_name = "DIR", conflicts_with_all = ["report", "key"])]
        generate_key: Option<PathBuf>,
    },
    /// Run a report's cases again: code 1 if they come out different, 5 if nobody can tell
    Replay(ReplayArgs),
    /// Print the JSON Schema of the report or of the protocol
    Schema {
        /// Which one
        #[arg(value_enum)]
        which: SchemaName,
    },
    /// Be a runner: speak the protocol on stdin and stdout
    Worker {
        /// Which runner to be
        #[arg(long, default_value = "wgpu", value_parser = NATIVE)]
        runner: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Md,
    Json,
    Csv,
}

/// Which runner of each side, where a report has several or the sides have different ones.
#[derive(Args)]
struct SideArgs {
    /// Compare only this runner of the baseline [default: each with the runner of the same name]
    #[arg(long, value_name = "NAME")]
    baseline_runner: Option<String>,
    /// Compare only this runner of the others; with both, also two runners of one report
    #[arg(long, value_name = "NAME")]
    runner: Option<String>,
}

impl SideArgs {
    fn terms(&self, tie: Option<f64>) -> Terms {
        Terms {
            tie,
            baseline_runner: self.baseline_runner.clone(),
            runner: self.runner.clone(),
            ..Terms::default()
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum GateFormat {
    Text,
    Md,
    Json,
    Junit,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemaName {
    Report,
    Request,
    Response,
    Comparison,
    Chips,
}

#[derive(Args)]
struct ReachArgs {
    /// Which device: its index or PCI id as `devices` shows them, or part of its name
    #[arg(long, value_name = "SEL")]
    device: Option<String>,
    /// Which API to reach it by
    #[arg(long, value_parser = BACKENDS)]
    backend: Option<String>,
    /// Keep bounds checks and loop limits in kernels (slower; the report says so)
    #[arg(long)]
    checks: bool,
    /// Run native runners in this process, for debugging: a crash takes everything with it
    #[arg(long)]
    in_process: bool,
    /// Seconds a runner may be silent before it is taken for dead
    #[arg(long, value_name = "SECONDS", default_value_t = SILENCE_S_MAX, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    silence: u64,
}

impl ReachArgs {
    fn reach(&self) -> Reach {
        Reach {
            device: self.device.clone(),
            backend: self.backend.clone(),
            checks: self.checks,
            in_process: self.in_process,
            silence: Duration::from_secs(self.silence),
        }
    }
}

impl ReachArgs {
    /// For a command whose every time comes from a process of its own.
    fn reach_of_processes(&self) -> Result<Reach> {
        if self.in_process {
            return Err(Error::usage(
                "--in-process: every time here has to come from a fresh process",
            ));
        }
        Ok(self.reach())
    }
}

#[derive(Args)]
struct ChipArgs {
    /// Which chip the first runner's device is, where neither its PCI id nor its name tells
    #[arg(long, value_name = "ID")]
    chip: Option<String>,
    /// A file of chips and prices, over those that come with the program
    #[arg(long, value_name = "FILE")]
    chips: Option<PathBuf>,
    /// Dollars for an hour of that device, over all other prices
    #[arg(long, value_name = "USD", value_parser = usd, allow_negative_numbers = true)]
    price: Option<f64>,
    /// Only prices of this provider
    #[arg(long, value_name = "NAME", conflicts_with = "price")]
    provider: Option<String>,
}

impl ChipArgs {
    fn datasheets(&self) -> Result<Datasheets> {
        let chips = Chips::load(self.chips.as_deref())?;
        if let Some(id) = &self.chip {
            chips
                .wanted(id)
                .map_err(|error| Error::usage(format!("--chip: {error}")))?;
        }
        let sells = |name: &str| {
            let prices = chips.all().iter().flat_map(|chip| &chip.prices);
            prices
                .map(|price| &*price.provider)
                .any(|provider| provider.eq_ignore_ascii_case(name))
        };
        if let Some(name) = self.provider.as_deref().filter(|name| !sells(name)) {
            let mut known: Vec<&str> = chips
                .all()
                .iter()
                .flat_map(|chip| &chip.prices)
                .map(|price| &*price.provider)
                .collect();
            known.sort_unstable();
            known.dedup();
            return Err(Error::usage(format!(
                "--provider {name}: nobody of that name sells a chip of the catalogue; there are {}",
                known.join(", ")
            )));
        }
        Ok(Datasheets {
            chips,
            chip_id: self.chip.clone(),
            provider: self.provider.clone(),
            paid: self.price.map(PriceRecord::given),
        })
    }
}

#[derive(Args)]
struct RunArgs {
    /// Which suite: a name or a .toml file
    #[arg(long, default_value = "quick")]
    suite: String,
    /// Only cases whose id matches this regular expression, and the probes
    #[arg(long, value_name = "REGEX")]
    filter: Option<String>,
    #[command(flatten)]
    reach: ReachArgs,
    /// Who executes: wgpu, host, torch, jax, ... as `devices` names them, a path, or a command; may be given more than once
    #[arg(long, value_name = "NAME|PATH")]
    runner: Vec<String>,
    /// Folder that reports are written below, or - for standard output
    #[arg(long, value_name = "DIR|-", default_value = "reports")]
    output: PathBuf,
    /// Seconds for the whole run; cases that no longer fit are skipped
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    budget: Option<f64>,
    /// Put what this machine can tell apart into the report: from FILE, or as `chipmark calibrate`
    /// stored it
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    calibrated: Option<Option<PathBuf>>,
    #[command(flatten)]
    chip: ChipArgs,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    seed: Option<u32>,
    /// Fresh processes to time each case in; comparisons need five or more a side
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    processes: u32,
    /// Only this share of the cases, such as 1/3, and the probes; `merge` joins the reports
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(u32, u32)>,
    /// Go on with the unfinished run of the same command in the output folder
    #[arg(long)]
    resume: bool,
    /// Search for the best variants anew instead of beginning with those of earlier runs
    #[arg(long)]
    no_cache: bool,
}

#[derive(Args)]
struct CostArgs {
    /// Reports of the suite llm, or of what --suite prints
    #[arg(required_unless_present = "suite")]
    reports: Vec<PathBuf>,
    /// Which model: llama-3.2-1b, llama-3-8b, llama-3-70b, mixtral-8x7b or a .toml file
    #[arg(long, value_name = "NAME|FILE", default_value = "llama-3-8b")]
    model: String,
    /// Element type of the projections: f16, f16_f16, bf16, f32, tf32, f8e4m3, w4a16 or w4a32; attention
    /// and head are in the f16 or f32 that goes with it
    #[arg(long, default_value = "f16")]
    dtype: String,
    /// Tokens of a prompt; may be given more than once
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [512, 2048])]
    prefill: Vec<u64>,
    /// Sequences that are decoded together; may be given more than once
    #[arg(long, value_name = "SEQUENCES", value_delimiter = ',', default_values_t = [1, 8, 64])]
    batch: Vec<u64>,
    /// Tokens that each sequence has when one more is decoded
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    context: u64,
    /// Cost of whole requests too: tokens of the prompt, which --prefill must have, and of the answer
    #[arg(long, value_name = "IN:OUT", value_parser = request)]
    request: Option<(u64, u64)>,
    /// Only this runner's kernels
    #[arg(long, value_name = "NAME")]
    runner: Option<String>,
    /// Dollars for an hour of a report's device, over all other prices: USD for all reports, or
    /// N=USD for the Nth
    #[arg(long, value_name = "[N=]USD", allow_negative_numbers = true)]
    price: Vec<String>,
    /// Which chip a report's device is, over what its name tells: ID for all reports, or N=ID
    #[arg(long, value_name = "[N=]ID")]
    chip: Vec<String>,
    /// A file of chips and prices, over those that come with the program
    #[arg(long, value_name = "FILE")]
    chips: Option<PathBuf>,
    /// Print the suite that measures what the question needs, for `run --suite FILE`
    #[arg(long, conflicts_with_all = ["reports", "request", "runner", "price", "chip", "chips"])]
    suite: bool,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct ReplayArgs {
    /// The report to run again
    report: PathBuf,
    /// Only cases whose id matches this regular expression, and the probes that bound them
    #[arg(long, value_name = "REGEX")]
    filter: Option<String>,
    /// Without --device and --backend it is the device of the report, which has to be here
    #[command(flatten)]
    reach: ReachArgs,
    /// Only this runner of the report, or a path or command in its place; may be given more than once
    #[arg(long, value_name = "NAME|PATH")]
    runner: Vec<String>,
    /// Folder that the new report is written below, or - for standard output
    #[arg(long, value_name = "DIR|-", default_value = "reports")]
    output: PathBuf,
    /// Seconds for the whole replay; cases that no longer fit are skipped
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    budget: Option<f64>,
    /// Fresh processes to time each case in; small differences need five or more in both reports
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    processes: u32,
    /// Put what this machine can tell apart into the new report: from FILE, or as `chipmark calibrate`
    /// stored it
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    calibrated: Option<Option<PathBuf>>,
    /// Relative difference in per cent below which two times count as the same [default: the
    /// reports' calibration, or 1]
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    tie: Option<f64>,
    /// How to show the comparison
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `[N=]VALUE` gives to each of `count` reports.
fn assigned(option: &str, texts: &[String], count: usize) -> Result<Vec<Option<String>>> {
    let mut values = vec![None; count];
    for text in texts {
        let (place, value) = match text.split_once('=') {
            None => (None, text.as_str()),
            Some((number, value)) => {
                let place = number.trim().parse::<usize>().ok();
                let place = place.filter(|place| (1..=count).contains(place));
                let refusal = || {
                    Error::usage(format!(
                        "{option} {text}: {number:?} is no number of a report; there are 1 to {count}"
                    ))
                };
                (Some(place.ok_or_else(refusal)?), value)
            }
        };
        for (index, slot) in values.iter_mut().enumerate() {
            if place.is_none_or(|place| place == index + 1) {
                *slot = Some(value.to_owned());
            }
        }
    }
    Ok(values)
}

fn request(text: &str) -> std::result::Result<(u64, u64), String> {
    let number = |part: &str| part.trim().parse::<u64>().ok().filter(|n| *n > 0);
    text.split_once(':')
        .and_then(|(tokens, answer)| Some((number(tokens)?, number(answer)?)))
        .ok_or_else(|| "it must be two whole numbers, such as 512:256".to_owned())
}

#[derive(Args)]
struct AbArgs {
    /// The runner to be measured against: wgpu, host, a path, or a command such as '/other/chipmark
    /// worker'
    #[arg(long, value_name = "RUNNER")]
    baseline: String,
    /// The other runner; it may be the same, to see what differences mean nothing
    #[arg(long, value_name = "RUNNER")]
    candidate: String,
    /// Which suite: a name or a .toml file
    #[arg(long, default_value = "quick")]
    suite: String,
    /// Only cases whose id matches this regular expression
    #[arg(long, value_name = "REGEX")]
    filter: Option<String>,
    /// Fresh processes on each side, by turns
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    #[command(flatten)]
    reach: ReachArgs,
    /// Folder that both reports are written below
    #[arg(long, value_name = "DIR", default_value = "reports")]
    output: PathBuf,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    seed: Option<u32>,
    /// Put what this machine can tell apart into both reports: from FILE, or as `chipmark calibrate`
    /// stored it
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    calibrated: Option<Option<PathBuf>>,
    #[command(flatten)]
    chip: ChipArgs,
    /// Relative difference in per cent below which two times count as the same [default: the
    /// calibration, or 1]
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    tie: Option<f64>,
    /// How to show the comparison
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct CalibrateArgs {
    /// Who executes: wgpu, host, torch, jax, ... as `devices` names them, a path, or a command
    #[arg(long, value_name = "RUNNER", default_value = "wgpu")]
    runner: String,
    #[command(flatten)]
    reach: ReachArgs,
    /// Fresh processes on each side of a comparison; below six none can be clear by itself
    #[arg(long, value_name = "K", default_value_t = 12, value_parser = clap::value_parser!(u32).range(6..=100))]
    processes: u32,
    /// Comparisons of the same with the same, and of each slowdown; forty say what 95 % means
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    comparisons: u32,
    /// A slowdown to inject in per cent, a multiple of 0.5 up to 50; may be given more than once
    /// [default: 0.5, 1, 2, 5 and 10]
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    slowdown: Vec<f64>,
    /// Folder that the calibration is written to [default: the user's settings, where `--calibrated`
    /// finds it]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Seed of the inputs and of the order of processes; a fresh one if absent
    #[arg(long)]
    seed: Option<u32>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ConformanceArgs {
    /// The runner: wgpu, host, torch, jax, ... as `devices` names them, a path, or a command
    #[arg(value_name = "RUNNER")]
    runner: String,
    #[command(flatten)]
    reach: ReachArgs,
    /// Of kernels, verify only those whose name matches this regular expression
    #[arg(long, value_name = "REGEX")]
    filter: Option<String>,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    seed: Option<u32>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct VerifyArgs {
    /// Only kernels whose name matches this regular expression
    #[arg(long, value_name = "REGEX")]
    filter: Option<String>,
    /// One shape instead of the built-in awkward ones, such as m=65,n=67,k=129
    #[arg(long, value_name = "k=v,...")]
    shape: Option<String>,
    /// So many cases of matmul and of attention drawn from the seed instead of the awkward ones
    #[arg(long, value_name = "N", conflicts_with_all = ["shape", "inputs"], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    random: Option<u32>,
    /// Only this dtype: f32, tf32, f16, f16_f16, bf16, f8e4m3, i32, i8, w4a16 or w4a32; all of them if absent, or
    /// with --shape the first that the op has
    #[arg(long)]
    dtype: Option<String>,
    /// Which op a --shape or --inputs is for; guessed from the shape if absent
    #[arg(long, value_parser = parse_op)]
    op: Option<OpName>,
    /// Who executes: wgpu, host, torch, jax, ... as `devices` names them, a path, or a command
    #[arg(long, value_name = "NAME|PATH", default_value = "wgpu")]
    runner: String,
    #[command(flatten)]
    reach: ReachArgs,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    seed: Option<u32>,
    /// Folder with the inputs as .npy files (a, b for matmul; q, k, v for attention)
    #[arg(long, value_name = "DIR")]
    inputs: Option<PathBuf>,
    /// Folder to write inputs and outputs to as .npy, one folder per case and kernel
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Every variant of every kernel instead of the preferred one
    #[arg(long)]
    all_variants: bool,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 && value <= 1e9 => Ok(value),
        _ => Err("it must be a number of seconds above zero, up to 1e9".to_owned()),
    }
}

/// Dollars: a price that somebody could ask for an hour of a chip.
fn usd(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && (1e-4..=1e4).contains(&value) => Ok(value),
        _ => Err("it must be dollars for an hour of one chip, from 0.0001 to 10000".to_owned()),
    }
}

fn shard(text: &str) -> std::result::Result<(u32, u32), String> {
    let number = |part: &str| part.trim().parse::<u32>().ok().filter(|&number| number > 0);
    text.split_once('/')
        .and_then(|(number_text, count)| Some((number(number_text)?, number(count)?)))
        .filter(|(number, count)| number <= count)
        .ok_or_else(|| {
            "it must be two whole numbers, such as 1/3 for the first of three shares".to_owned()
        })
}

/// The slowdowns to inject, ascending: whole turns of the probe's loop, and few enough to stay exact.
fn slowdowns(asked: &[f64]) -> Result<Vec<f64>> {
    if asked.is_empty() {
        return Ok(calibrate::SLOWDOWNS.to_vec());
    }
    let mut slowdowns = asked.to_vec();
    slowdowns.sort_by(f64::total_cmp);
    slowdowns.dedup();
    for slowdown in &slowdowns {
        let halves = slowdown * 200.0;
        if (halves - halves.round()).abs() > 1e-9 || *slowdown > calibrate::SLOWDOWN_MAX {
            return Err(Error::usage(format!(
                "--slowdown {}: it must be a multiple of 0.5 per cent, up to 50",
                slowdown * 100.0
            )));
        }
    }
    Ok(slowdowns)
}

/// Per cent as the user writes it, to a fraction.
fn percent(text: &str) -> std::result::Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value / 100.0),
        _ => Err("it must be a number of per cent above zero".to_owned()),
    }
}

fn parse_op(text: &str) -> std::result::Result<OpName, String> {
    OpName::ALL
        .into_iter()
        .find(|op| op.to_string() == text)
        .ok_or_else(|| {
            format!(
                "it must be one of {}",
                OpName::ALL.map(|op| op.to_string()).join(", ")
            )
        })
}

/// Runs the program and returns its exit code.
#[must_use]
pub fn main() -> u8 {
    quiet_the_display();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ErrorKind::Usage.exit_code()
            } else {
                0
            };
        }
    };
    let result = match cli.command {
        Command::Run(args) => run_command(&args),
        Command::Devices {
            backend,
            native,
            json,
        } => devices(backend.as_deref(), native, json),
        Command::List {
            device,
            backend,
            suite,
            filter,
            json,
        } => list(
            device.as_deref(),
            backend.as_deref(),
            &suite,
            filter.as_deref(),
            json,
        ),
        Command::Verify(args) => verify(&args),
        Command::Compare {
            reports,
            sides,
            tie,
            format,
        } => compare_command(&reports, &sides.terms(tie), format),
        Command::Check {
            baseline,
            candidate,
            sides,
            tie,
            thresholds,
            format,
        } => check(
            [baseline, candidate],
            sides.terms(tie),
            thresholds.as_deref(),
            format,
        ),
        Command::Ab(args) => ab(&args),
        Command::Calibrate(args) => calibrate_command(&args),
        Command::Conformance(args) => conformance_command(&args),
        Command::Cost(args) => cost_command(&args),
        Command::Chips { which, chips, json } => {
            chips_command(which.as_deref(), chips.as_deref(), json)
        }
        Command::Cache { clear, json } => cache_command(clear, json),
        Command::Merge { reports, output } => merge_command(&reports, &output),
        Command::Validate { report, key } => validate(&report, key.as_deref()),
        Command::Sign {
            report,
            key,
            generate_key,
        } => match (report, key, generate_key) {
            (Some(report), Some(key), _) => sign(&report, &key),
            (_, _, Some(folder)) => generate_key_command(&folder),
            _ => Err(Error::usage("sign: name a report and a key")),
        },
        Command::Replay(args) => replay_command(&args),
        Command::Schema { which } => print(&pretty(&match which {
            SchemaName::Report => report::schema(),
            SchemaName::Request => schemas::request(),
            SchemaName::Response => schemas::response(),
            SchemaName::Comparison => schemas::comparison(),
            SchemaName::Chips => schemas::chips(),
        })),
        Command::Worker { runner } => worker(&runner),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("chipmark: {error}");
            error.kind.exit_code()
        }
    }
}

/// GL drivers look for a display server through this variable and complain on stderr where a
/// machine has neither; what is measured here needs no display.
fn quiet_the_display() {
    if cfg!(unix) && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: this is the first thing the program does, so no other thread reads the
        // environment.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir());
        }
    }
}

/// Writes data to stdout. A reader that went away, such as `head`, is no error.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::usage(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn command_line() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn run_command(args: &RunArgs) -> Result<()> {
    let mut plan = plan::plan(&args.suite, args.filter.as_deref())?;
    if let Some((number, count)) = args.shard {
        plan.narrow(number, count)?;
    }
    let to_stdout = args.output == Path::new("-");
    if !to_stdout {
        report::check_writable("--output", &args.output)?;
    }
    interrupt::heed();
    let datasheets = args.chip.datasheets()?;
    let reach = args.reach.reach();
    // Of the first runner, whose device is the report's.
    let runner = args.runner.first().map_or("wgpu", String::as_str);
    let calibration = calibration(args.calibrated.as_ref(), runner, &reach)?;
    let options = Options {
        plan,
        runners: args.runner.clone(),
        reach,
        seed: args.seed.unwrap_or_else(entropy),
        seed_is_fixed: args.seed.is_some(),
        budget_s: args.budget,
        process_count: args.processes,
        journal: (!to_stdout).then(|| args.output.clone()),
        resume: args.resume,
        datasheets,
        command: command_line(),
        calibration,
        cache: Cache::of_user(),
        recall: !args.no_cache,
        pinned: std::collections::BTreeMap::new(),
    };
    let mut progress = Progress::new();
    let (report, journal) = run::run(&options, &mut progress)?;
    drop(progress);
    if to_stdout {
        eprint!("{}", screen::summary(&report));
        print(&report.to_json()?)?;
    } else {
        let path = report::write(&report, &args.output).map_err(|error| rescue(&report, error))?;
        print(&format!("{}{}\n", screen::summary(&report), path.display()))?;
        match journal {
            Some(journal) if report.status == Status::Interrupted => eprintln!(
                "what was measured is kept: the same command with --resume goes on from here ({})",
                journal.path().display()
            ),
            Some(journal) => journal.finish(),
            None => {}
        }
    }
    judge(&report)
}

fn conformance_command(args: &ConformanceArgs) -> Result<()> {
    if args.reach.in_process {
        return Err(Error::usage(
            "--in-process: what is tested here is a process of its own",
        ));
    }
    interrupt::heed();
    let options = conformance::Options {
        runner: args.runner.clone(),
        reach: args.reach.reach(),
        filter: args.filter.clone(),
        seed: args.seed.unwrap_or_else(entropy),
    };
    let mut progress = Progress::new();
    let findings = conformance::conformance(&options, &mut |line| progress.say(line))?;
    drop(progress);
    print(&if args.json {
        pretty(&to_value(&findings)?)
    } else {
        format!("{}\n", findings.table())
    })?;
    findings.verdict()
}

fn cost_command(args: &CostArgs) -> Result<()> {
    let dtype: Dtype = args.dtype.parse()?;
    if matches!(dtype, Dtype::I32 | Dtype::I8) {
        return Err(Error::usage(format!(
            "--dtype {dtype}: no model is served in it; choose f16, f16_f16, bf16, f32, tf32, f8e4m3, w4a16 or w4a32"
        )));
    }
    for (option, sizes) in [
        ("--prefill", &args.prefill[..]),
        ("--batch", &args.batch[..]),
        ("--context", std::slice::from_ref(&args.context)),
    ] {
        if sizes.contains(&0) {
            return Err(Error::usage(format!("{option} 0: it must be at least 1")));
        }
    }
    if let Some((tokens, _)) = args.request.filter(|(n, _)| !args.prefill.contains(n)) {
        return Err(Error::usage(format!(
            "--request: a prompt of {tokens} tokens needs --prefill {tokens}"
        )));
    }
    let prefills = args.prefill.iter().map(|&tokens| Phase::Prefill { tokens });
    let decodes = args.batch.iter().map(|&batch| Phase::Decode {
        batch,
        context: args.context,
    });
    let question = Question {
        model: Model::load(&args.model)?,
        dtype,
        phases: prefills.chain(decodes).collect(),
        request: args.request,
        runner: args.runner.clone(),
    };
    if args.suite {
        return print(&cost::suite(&question)?);
    }
    let chips = Chips::load(args.chips.as_deref())?;
    let named = args.reports.iter().map(|path| {
        let report = unaltered(path)?;
        Ok((path.display().to_string(), report))
    });
    let reports = named.collect::<Result<Named>>()?;
    let prices = assigned("--price", &args.price, reports.len())?;
    let ids = assigned("--chip", &args.chip, reports.len())?;
    let mut subjects = Vec::new();
    for (((name, report), price), chip_id) in reports.into_iter().zip(prices).zip(ids) {
        let paid = price
            .map(|text| usd(&text).map_err(|what| Error::usage(format!("--price {text}: {what}"))));
        if let Some(id) = &chip_id {
            chips
                .wanted(id)
                .map_err(|error| Error::usage(format!("--chip: {error}")))?;
        }
        subjects.push(Subject {
            name,
            report,
            paid: paid.transpose()?.map(PriceRecord::given),
            chip_id,
        });
    }
    let answer = cost::answer(&question, &subjects, &chips)?;
    print(&match args.format {
        Format::Text => answer.text(),
        Format::Md => answer.markdown(),
        Format::Csv => answer.csv()?,
        Format::Json => pretty(&to_value(&answer)?),
    })?;
    answer.verdict()
}

fn chips_command(which: Option<&str>, file: Option<&Path>, json: bool) -> Result<()> {
    let all = Chips::load(file)?;
    let found = match which {
        None => all.all().iter().collect(),
        Some(text) => chips::find(&all, text)?,
    };
    if json {
        return print(&pretty(&to_value(&found)?));
    }
    match (which, &found[..]) {
        (Some(_), [one]) => print(&chips::details(one, &all)),
        _ => print(&chips::overview(&found)),
    }
}

fn cache_command(clear: bool, json: bool) -> Result<()> {
    let cache = Cache::of_user().ok_or_else(|| {
        Error::usage("cache: there is no folder for it; set XDG_CACHE_HOME or HOME")
    })?;
    let path = cache.path().display().to_string();
    if clear {
        let count = cache.clear()?;
        return print(&if json {
            pretty(&serde_json::json!({ "path": path, "cleared_count": count }))
        } else {
            format!("forgot {count} variants in {path}\n")
        });
    }
    let entries = cache.entries();
    if json {
        return print(&pretty(
            &serde_json::json!({ "path": path, "entries": entries }),
        ));
    }
    let rows: Vec<Vec<String>> = entries
        .into_iter()
        .map(|entry| {
            let variant = Variant {
                kernel: entry.kernel,
                variant: entry.variant,
            };
            vec![
                entry.case_id,
                variant.to_string(),
                display::seconds(entry.time_s_median),
                format!("{} ({})", entry.device, entry.backend),
                entry.driver,
            ]
        })
        .collect();
    let headings = ["case", "variant", "time", "device", "driver"];
    print(&format!("{}\n{path}\n", display::table(&headings, &rows)))
}

/// A report that cannot be written where it should go must not be lost: it goes to the folder for
/// temporary files, or else to standard output.
fn rescue(report: &Report, error: Error) -> Error {
    eprint!("{}", screen::summary(report));
    let elsewhere = match report::write(report, &std::env::temp_dir()) {
        Ok(path) => path.display().to_string(),
        Err(_) => {
            let printed = report.to_json().and_then(|text| print(&text));
            printed.map_or_else(|_| "lost".to_owned(), |()| "standard output".to_owned())
        }
    };
    Error::new(
        error.kind,
        format!("{error}; the report went to {elsewhere} instead"),
    )
}

/// The exit code that a finished run deserves.
fn judge(report: &Report) -> Result<()> {
    let failed = report.with_status(OutcomeStatus::Failed).count();
    let wrong = report
        .with_status(OutcomeStatus::Failed)
        .filter(|o| {
            o.reason
                .as_deref()
                .is_some_and(|reason| reason.starts_with(run::WRONG))
        })
        .count();
    let implausible = report.with_status(OutcomeStatus::Implausible).count();
    let measured = report.with_status(OutcomeStatus::Measured).count();
    if wrong > 0 {
        return Err(Error::new(
            ErrorKind::WrongResults,
            format!("{wrong} cases had wrong results; the report says which"),
        ));
    }
    if report.status == Status::Interrupted {
        return Err(Error::new(
            ErrorKind::Partial,
            "the run was interrupted; what was measured is in the report",
        ));
    }
    if failed > 0 {
        return Err(Error::new(
            ErrorKind::Partial,
            format!(
                "{failed} of {} cases failed; the report says why",
                report.outcomes.len()
            ),
        ));
    }
    if implausible > 0 {
        return Err(Error::new(
            ErrorKind::MeasurementInvalid,
            format!(
                "{implausible} cases were faster than the device can be; the report says which"
            ),
        ));
    }
    if measured == 0 {
        return Err(Error::new(
            ErrorKind::Partial,
            "nothing was measured; every case was skipped",
        ));
    }
    Ok(())
}

fn devices(backend: Option<&str>, native_only: bool, json: bool) -> Result<()> {
    let datasheets = Datasheets {
        chips: Chips::load(None)?,
        ..Datasheets::default()
    };
    let mut devices = run::devices(backend);
    let mut externals = if native_only || backend.is_some() {
        Vec::new()
    } else {
        run::external_devices()
    };
    // What cannot be told is said; that a processor is in no catalogue is not worth a line.
    let mut unclear = String::new();
    let opened = externals
        .iter_mut()
        .filter_map(|(_, found)| found.as_mut().ok());
    for device in devices.iter_mut().chain(opened) {
        let identity = datasheets.identity(device);
        device.chip_id = identity.chip_id().map(str::to_owned);
        let worth_saying = match identity {
            Identity::Known { ref note, .. } => note.is_some(),
            Identity::Ambiguous { .. } => true,
            Identity::Unknown => device.device_type != "cpu",
        };
        if worth_saying {
            unclear.push_str(&format!("chip of {}: {}\n", device.name, identity.line()));
        }
    }
    let gpus = devices
        .iter()
        .filter(|device| device.runner == "wgpu")
        .count();
    if json {
        let listed: Vec<serde_json::Value> = devices
            .iter()
            .map(|device| {
                let mut value = serde_json::json!(device);
                value["sensors"] = telemetry::describe(device).into();
                value
            })
            .collect();
        let runners: Vec<serde_json::Value> = externals
            .iter()
            .map(|(external, found)| {
                serde_json::json!({
                    "name": external.name,
                    "reaches": external.reaches,
                    "device": found.as_ref().ok(),
                    "problem": found.as_ref().err(),
                })
            })
            .collect();
        print(&pretty(
            &serde_json::json!({ "devices": listed, "runners": runners }),
        ))?;
    } else {
        let mut index = 0usize;
        let mut rows: Vec<Vec<String>> = devices
            .iter()
            .map(|device| {
                let place = if device.runner == "wgpu" {
                    (index, index += 1).0.to_string()
                } else {
                    "-".to_owned()
                };
                row(&place, &device.runner, device)
            })
            .collect();
        let mut absent = String::new();
        for (external, found) in &externals {
            match found {
                Ok(device) => rows.push(row("-", external.name, device)),
                Err(why) => {
                    let External { name, reaches } = external;
                    absent.push_str(&format!("runner {name} ({reaches}): {why}\n"));
                }
            }
        }
        let headings = [
            "#", "name", "type", "backend", "also by", "runner", "chip", "pci id", "features",
            "driver",
        ];
        let sensors: String = devices
            .iter()
            .map(|device| {
                let found = telemetry::describe(device);
                format!("sensors of {} ({}): {found}\n", device.name, device.runner)
            })
            .collect();
        let table = display::table(&headings, &rows);
        print(&format!("{table}\n{unclear}{sensors}{absent}"))?;
    }
    if gpus == 0 {
        let what = backend.map_or_else(
            || "no wgpu adapter".to_owned(),
            |name| format!("no {name} adapter"),
        );
        eprintln!(
            "{what} was found: a GPU needs its vendor's driver; without a GPU, a software Vulkan driver serves (`./x setup` installs one)"
        );
    }
    if devices.is_empty() {
        return Err(Error::new(
            ErrorKind::NoDevice,
            "there is no device to measure",
        ));
    }
    Ok(())
}

fn row(place: &str, runner: &str, device: &Device) -> Vec<String> {
    let or_dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    vec![
        place.to_owned(),
        device.name.clone(),
        device.device_type.clone(),
        device.backend.clone(),
        or_dash(device.also_reached_by.join(", ")),
        runner.to_owned(),
        or_dash(device.chip_id.clone().unwrap_or_default()),
        or_dash(device.pci_id.clone().unwrap_or_default()),
        or_dash(device.features.join(", ")),
        or_dash(device.driver.clone()),
    ]
}

fn list(
    selector: Option<&str>,
    backend: Option<&str>,
    suite: &str,
    filter: Option<&str>,
    json: bool,
) -> Result<()> {
    let plan = plan::plan(suite, filter)?;
    let device = match gpu::select(gpu::enumerate(backend), selector) {
        Ok(candidate) => Some(candidate.device),
        // Without a wish, a list of cases needs no device.
        Err(_) if selector.is_none() && backend.is_none() => None,
        Err(error) => return Err(Error::new(ErrorKind::NoDevice, error.message)),
    };
    let device = device.as_ref();
    let skip = |case: &Case| device.and_then(|device| plan::too_large(case, 1, device));
    if json {
        let cases: Vec<serde_json::Value> = plan
            .cases
            .iter()
            .map(|case| {
                serde_json::json!({
                    "case_id": case.id(),
                    "op": case.op,
                    "shape": case.shape,
                    "dtype": case.dtype,
                    "flop_count": case.flop_count(),
                    "bytes_min": case.bytes_min(),
                    "skip": skip(case),
                })
            })
            .collect();
        return print(&pretty(&serde_json::json!({
            "suite": plan.suite,
            "suite_sha256": plan.suite_sha256,
            "device": device.map(|device| &device.name),
            "cases": cases,
        })));
    }
    #[allow(clippy::cast_precision_loss)]
    let rows: Vec<Vec<String>> = plan
        .cases
        .iter()
        .map(|case| {
            vec![
                case.id(),
                format!("{}FLOP", display::si(case.flop_count() as f64)),
                format!("{}B", display::si(case.bytes_min() as f64)),
                skip(case).map_or_else(
                    || "runs if it is fast enough".to_owned(),
                    |reason| format!("skipped: {reason}"),
                ),
            ]
        })
        .collect();
    let on = device.map_or_else(|| "no GPU here".to_owned(), |device| device.name.clone());
    print(&format!(
        "{}\n",
        display::table(
            &["case", "work", "least traffic", &format!("on {on}")],
            &rows
        )
    ))?;
    eprintln!("suites: {}", suite_names().join(", "));
    Ok(())
}

fn parse_shape(text: &str) -> Result<Shape> {
    let mut shape = Shape::default();
    for pair in text.split(',') {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("--shape {text}: {pair:?} is not name=number")))?;
        let value = match value.trim() {
            "true" => 1,
            "false" => 0,
            number => number.parse::<u64>().map_err(|_| {
                Error::usage(format!(
                    "--shape {text}: {name} is {number:?}; it must be a whole number from 1 up"
                ))
            })?,
        };
        if shape.0.insert(name.trim().to_owned(), value).is_some() {
            return Err(Error::usage(format!(
                "--shape {text}: {name} stands there twice"
            )));
        }
    }
    Ok(shape)
}

/// The op whose dimensions these are: the one that has them all.
fn guess_op(shape: &Shape) -> Result<OpName> {
    let fits = |op: &OpName| {
        shape
            .0
            .keys()
            .all(|name| op.op().dims().iter().any(|dim| dim.name == name))
    };
    let mut fitting = OpName::ALL.into_iter().filter(fits);
    let first = fitting.next();
    if let (Some(first), Some(second)) = (first, fitting.next()) {
        return Err(Error::usage(format!(
            "--shape: both {first} and {second} have these dimensions; choose with --op"
        )));
    }
    first.ok_or_else(|| {
        let ops = OpName::ALL.map(|op| {
            let dims: Vec<&str> = op.op().dims().iter().map(|dim| dim.name).collect();
            format!("{op} ({})", dims.join(", "))
        });
        Error::usage(format!(
            "--shape: no op has all these dimensions; there are {}",
            ops.join("; ")
        ))
    })
}

fn verify(args: &VerifyArgs) -> Result<()> {
    let dtype: Option<Dtype> = args.dtype.as_deref().map(str::parse).transpose()?;
    let dtypes = dtype.as_ref().map_or(&Dtype::ALL[..], std::slice::from_ref);
    let seed = args.seed.unwrap_or_else(entropy);
    let cases = match (&args.shape, args.random) {
        (Some(text), _) => {
            let shape = parse_shape(text)?;
            let op = args.op.map_or_else(|| guess_op(&shape), Ok)?;
            let usual = op.op().dtypes().first().copied();
            vec![Case::new(
                op,
                &shape,
                dtype.or(usual).unwrap_or(Dtype::F32),
            )?]
        }
        (None, _) if args.inputs.is_some() => {
            return Err(Error::usage(
                "--inputs needs --shape, which says what the tensors are",
            ));
        }
        (None, Some(count)) => {
            let ops = args
                .op
                .as_ref()
                .map_or(&OpName::ALL[..], std::slice::from_ref);
            audit::random_cases(ops, dtypes, count, seed)?
        }
        (None, None) => audit::awkward_cases(dtypes)?
            .into_iter()
            .filter(|case| args.op.is_none_or(|op| op == case.op))
            .collect(),
    };
    let data = match &args.inputs {
        None => None,
        Some(folder) => Some(Data::Files(input_files(folder, &cases)?)),
    };
    if args.inputs.is_some() && cases.iter().any(|case| case.op.is_probe()) {
        return Err(Error::usage(
            "--inputs is for matmul and attention; probes make their own inputs",
        ));
    }
    if let Some(folder) = &args.dump {
        report::check_writable("--dump", folder)?;
    }
    interrupt::heed();
    let request = audit::Audit {
        cases,
        filter: args.filter.clone(),
        runner: args.runner.clone(),
        reach: args.reach.reach(),
        seed,
        data,
        dump: args.dump.clone(),
        all_variants: args.all_variants,
    };
    let mut progress = Progress::new();
    let result = audit::audit(&request, &mut |line| progress.say(line))?;
    drop(progress);
    print(&format!("{}\n", result.table()))?;
    result.verdict()
}

fn input_files(
    folder: &Path,
    cases: &[Case],
) -> Result<std::collections::BTreeMap<String, PathBuf>> {
    let mut files = std::collections::BTreeMap::new();
    for tensor in cases
        .iter()
        .flat_map(Case::tensors)
        .filter(|tensor| tensor.role == Role::Input)
    {
        let path = folder.join(format!("{}.npy", tensor.name));
        let path = path.canonicalize().map_err(|error| {
            Error::usage(format!(
                "--inputs: {}: {error}; the case needs tensor {:?}",
                path.display(),
                tensor.name
            ))
        })?;
        files.insert(tensor.name.to_owned(), path);
    }
    Ok(files)
}

/// Reports with the names that they were given by.
type Named = Vec<(String, Report)>;

/// Reads reports; with them a warning for each that is not as it was written.
fn read_reports(paths: &[PathBuf]) -> Result<(Named, Vec<String>)> {
    let (mut reports, mut warnings) = (Vec::new(), Vec::new());
    for path in paths {
        let (report, expected) = Report::read_with_id(path)?;
        let name = path.display().to_string();
        if report.report_id != expected {
            warnings.push(format!(
                "{name}: it was changed after it was written; `chipmark validate` says how far"
            ));
        }
        reports.push((name, report));
    }
    Ok((reports, warnings))
}

fn shown(comparison: &Comparison, format: Format) -> Result<String> {
    Ok(match format {
        Format::Text => comparison.text(),
        Format::Md => comparison.markdown(),
        Format::Json => pretty(&to_value(comparison)?),
        Format::Csv => comparison.csv()?,
    })
}

fn to_value(data: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(data).map_err(|error| Error::internal(error.to_string()))
}

fn compare_command(paths: &[PathBuf], terms: &Terms, format: Format) -> Result<()> {
    let (reports, warnings) = read_reports(paths)?;
    terms.check(&reports)?;
    let mut comparison = compare(&reports, terms);
    comparison.warnings.extend(warnings);
    print(&shown(&comparison, format)?)?;
    if comparison.common_case_count == 0 {
        return Err(Error::usage("the reports have no measured case in common"));
    }
    Ok(())
}

fn check(
    paths: [PathBuf; 2],
    mut terms: Terms,
    thresholds: Option<&Path>,
    format: GateFormat,
) -> Result<()> {
    let thresholds = thresholds.map(Thresholds::read).transpose()?;
    let thresholds = thresholds.unwrap_or_default();
    let (reports, warnings) = read_reports(&paths)?;
    terms.check(&reports)?;
    thresholds.apply(&reports, &mut terms)?;
    let mut comparison = compare(&reports, &terms);
    comparison.warnings.extend(warnings);
    let judgement = gate::judge(&comparison, &reports[0].1, &reports[1].1, &thresholds);
    print(&match format {
        GateFormat::Text => judgement.text(&comparison),
        GateFormat::Md => judgement.markdown(&comparison),
        GateFormat::Json => {
            let mut value = to_value(&judgement)?;
            value["comparison"] = to_value(&comparison)?;
            pretty(&value)
        }
        GateFormat::Junit => judgement.junit(&comparison)?,
    })?;
    match judgement.gate {
        Gate::Passed => {
            eprintln!("chipmark: {}", judgement.reason);
            Ok(())
        }
        Gate::Regressed => Err(Error::new(ErrorKind::GateFailed, judgement.reason)),
        Gate::Unclear => Err(Error::new(ErrorKind::MeasurementInvalid, judgement.reason)),
    }
}

fn merge_command(paths: &[PathBuf], output: &Path) -> Result<()> {
    let report = merge::merge(read_reports(paths)?.0, command_line())?;
    if output == Path::new("-") {
        return print(&report.to_json()?);
    }
    report::check_writable("--output", output)?;
    let path = report::write(&report, output)?;
    print(&format!("{}{}\n", screen::summary(&report), path.display()))
}

/// What `--calibrated` asks for, before anything is measured.
fn calibration(
    asked: Option<&Option<PathBuf>>,
    runner: &str,
    reach: &Reach,
) -> Result<Option<Calibration>> {
    asked
        .map(|file| calibrate::wanted(file.as_deref(), runner, reach))
        .transpose()
}

fn calibrate_command(args: &CalibrateArgs) -> Result<()> {
    let reach = args.reach.reach_of_processes()?;
    let folder = args
        .output
        .clone()
        .or_else(folders::settings)
        .ok_or_else(|| Error::usage("--output: there is no folder for settings here; name one"))?;
    report::check_writable("--output", &folder)?;
    interrupt::heed();
    let request = calibrate::Request {
        runner: args.runner.clone(),
        reach,
        process_count: args.processes,
        comparison_count: args.comparisons,
        slowdowns: slowdowns(&args.slowdown)?,
        seed: args.seed.unwrap_or_else(entropy),
    };
    let mut progress = Progress::new();
    let findings = calibrate::calibrate(&request, &mut progress)?;
    drop(progress);
    print(&if args.json {
        pretty(&to_value(&findings.calibration)?)
    } else {
        findings.text()
    })?;
    if findings.interrupted {
        return Err(Error::new(
            ErrorKind::Partial,
            "the calibration was interrupted; what is shown was not stored",
        ));
    }
    let path = calibrate::store(&findings, &folder)?;
    eprintln!("stored: {}", path.display());
    Ok(())
}

fn ab(args: &AbArgs) -> Result<()> {
    let reach = args.reach.reach_of_processes()?;
    let plan = plan::plan(&args.suite, args.filter.as_deref())?;
    report::check_writable("--output", &args.output)?;
    interrupt::heed();
    let calibration = calibration(args.calibrated.as_ref(), &args.baseline, &reach)?;
    let race = Race {
        plan,
        filter: args.filter.clone(),
        runners: [args.baseline.clone(), args.candidate.clone()],
        reach,
        seed: args.seed.unwrap_or_else(entropy),
        pair_count: args.pairs,
        datasheets: args.chip.datasheets()?,
        command: command_line(),
        calibration,
    };
    let mut progress = Progress::new();
    let reports = interleave::race(&race, &mut progress)?;
    drop(progress);
    let mut named = Vec::new();
    for (side, report) in ["baseline", "candidate"].iter().zip(reports) {
        let path = report::write(&report, &args.output).map_err(|error| rescue(&report, error))?;
        eprintln!("{side}: {}", path.display());
        named.push((path.display().to_string(), report));
    }
    let terms = Terms {
        tie: args.tie,
        ..Terms::default()
    };
    let comparison = compare(&named, &terms);
    print(&shown(&comparison, args.format)?)?;
    // The side that failed says more than the one that was spared for it.
    named.sort_by_key(|(_, report)| Reverse(report.with_status(OutcomeStatus::Failed).count()));
    named.iter().try_for_each(|(_, report)| judge(report))
}

fn as_written(path: &Path, report: &Report, expected: &str) -> Result<()> {
    if report.report_id == expected {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{}: report_id is {}, but the content's is {expected}; the file was changed after it was written",
        path.display(),
        report.report_id
    )))
}

/// Reads a report that must be as it was written.
fn unaltered(path: &Path) -> Result<Report> {
    let (report, expected) = Report::read_with_id(path)?;
    as_written(path, &report, &expected)?;
    Ok(report)
}

/// Reads a report that must be as it was written and contradict itself nowhere; what speaks against
/// that is printed, a line each.
fn whole(path: &Path) -> Result<Report> {
    let (report, expected) = Report::read_with_id(path)?;
    let mut found = consistency::violations(&report);
    found.extend(datasheet::contradictions(&report, &Chips::load(None)?));
    let lines: String = found.iter().map(|line| format!("{line}\n")).collect();
    print(&lines)?;
    as_written(path, &report, &expected)?;
    if !found.is_empty() {
        return Err(Error::usage(format!(
            "{}: {} figures contradict others or the datasheet of the chip, as in no report that a run wrote",
            path.display(),
            found.len()
        )));
    }
    Ok(report)
}

fn validate(path: &Path, key: Option<&Path>) -> Result<()> {
    let report = whole(path)?;
    let signed = match key {
        Some(key) => {
            let comment = signature::verify(path, &report.report_id, key)?;
            format!(
                ", signed by {} ({})",
                key.display(),
                comment.replace('\t', ", ")
            )
        }
        None => {
            let beside = signature::path_of(path);
            if beside.exists() {
                eprintln!(
                    "chipmark: {} was not looked at; --key FILE names the public key to check it by",
                    beside.display()
                );
            }
            String::new()
        }
    };
    print(&format!(
        "{}: a whole {} report of {}{signed}\n",
        path.display(),
        report.schema_version,
        report.device.name
    ))
}

fn sign(path: &Path, key: &Path) -> Result<()> {
    let report = whole(path)?;
    let written = signature::sign(path, &report.report_id, key)?;
    print(&format!("{}\n", written.display()))
}

fn generate_key_command(folder: &Path) -> Result<()> {
    let password = signature::password("Password for the new key (empty for none): ")?;
    let open = password.as_ref().is_none_or(String::is_empty);
    let (secret, public) = signature::generate(folder, password)?;
    if open {
        eprintln!(
            "chipmark: {} has no password: whoever reads it can sign; {} sets one",
            secret.display(),
            signature::PASSWORD_VARIABLE
        );
    }
    print(&format!("{}\n{}\n", secret.display(), public.display()))
}

fn replay_command(args: &ReplayArgs) -> Result<()> {
    let name = args.report.display().to_string();
    let report = whole(&args.report)?;
    let to_stdout = args.output == Path::new("-");
    if !to_stdout {
        report::check_writable("--output", &args.output)?;
    }
    interrupt::heed();
    let reach = args.reach.reach();
    let first = args
        .runner
        .first()
        .or(report.runners.first().map(|r| &r.runner.name));
    let runner = first.map_or("wgpu", String::as_str);
    let wish = Wish {
        runners: args.runner.clone(),
        filter: args.filter.clone(),
        calibration: calibration(args.calibrated.as_ref(), runner, &reach)?,
        reach,
        budget_s: args.budget,
        process_count: args.processes,
        command: command_line(),
        datasheets: Datasheets {
            chips: Chips::load(None)?,
            ..Datasheets::default()
        },
    };
    let replay = replay::replay(&name, &report, wish)?;
    let mut progress = Progress::new();
    let (replayed, _) = run::run(&replay.options, &mut progress)?;
    drop(progress);
    let new_name = if to_stdout {
        print(&replayed.to_json()?)?;
        "the replay".to_owned()
    } else {
        let path =
            report::write(&replayed, &args.output).map_err(|error| rescue(&replayed, error))?;
        path.display().to_string()
    };
    let warnings = replay::differences(&replay.original, &replayed);
    let judged = judge(&replayed);
    let interrupted = replayed.status == Status::Interrupted;
    let reports = [(name, replay.original), (new_name, replayed)];
    let terms = Terms {
        tie: args.tie,
        left_out: replay.left_out,
        ..Terms::default()
    };
    let mut comparison = compare(&reports, &terms);
    comparison.warnings.extend(warnings);
    let text = shown(&comparison, args.format)?;
    if to_stdout {
        eprint!("{text}");
    } else {
        print(&text)?;
    }
    match judged {
        Err(error) if interrupted || error.kind == ErrorKind::WrongResults => return Err(error),
        _ => {}
    }
    match replay::agreement(&comparison) {
        (Agreement::Agrees, line) => {
            eprintln!("chipmark: {line}");
            Ok(())
        }
        (Agreement::Differs, line) => Err(Error::new(ErrorKind::GateFailed, line)),
        (Agreement::Unclear, line) => Err(Error::new(ErrorKind::MeasurementInvalid, line)),
    }
}

fn worker(name: &str) -> Result<()> {
    let mut runner =
        native(name).ok_or_else(|| Error::usage(format!("there is no runner {name}")))?;
    serve(&mut *runner, std::io::stdin().lock(), std::io::stdout()).map_err(|error| {
        Error::new(
            ErrorKind::Transient,
            format!("the conductor went away: {error}"),
        )
    })
}
