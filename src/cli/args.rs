//! What may be asked: commands, options, and how each value is read.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::calibrate;
use crate::chips::Chips;
use crate::compare::Terms;
use crate::datasheet::Datasheets;
use crate::error::{Error, Result};
use crate::export;
use crate::gpu::BACKENDS;
use crate::history;
use crate::import;
use crate::op::OpName;
use crate::report::PriceRecord;
use crate::run::Reach;
use crate::runner::{NATIVE, SILENCE_S_MAX};

/// Measures GPUs and AI accelerators: verified kernels, honest timing, one report per chip.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
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
    /// Show a report as the run that wrote it did
    Show {
        /// The report
        report: PathBuf,
        /// Only cases whose id matches this regular expression
        #[arg(long)]
        filter: Option<String>,
    },
    /// Show reports side by side; the first is the baseline
    Compare {
        /// Two reports or more
        #[arg(required = true)]
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
    /// Say why kernels are far from their ceilings, by leaving parts of their work out
    Diagnose(DiagnoseArgs),
    /// Show what the driver makes of every kernel (registers, spills), launching none
    Inspect(InspectArgs),
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
    /// Show how far the kernels of wgpu in a report are from what they are meant to reach
    Goals {
        /// Reports
        #[arg(required = true)]
        reports: Vec<PathBuf>,
        /// Goals as TOML, in place of those that come with the program
        #[arg(long, value_name = "FILE")]
        goals: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Project tokens a second, dollars and break-even prices of a model from reports
    Cost(CostArgs),
    /// Write reports in a format that other dashboards read
    #[command(after_help = format!("Formats and what reads them:\n{}", export::purposes()))]
    Export {
        /// Which format
        #[arg(value_name = "FORMAT", value_parser = export::names(), hide_possible_values = true)]
        format: String,
        /// Reports; some formats hold one only
        #[arg(required = true)]
        reports: Vec<PathBuf>,
        /// File to write, whole or not at all, or - for standard output
        #[arg(short, long, value_name = "FILE|-", default_value = "-")]
        output: PathBuf,
    },
    /// Bring in what another benchmark printed, as unverified claims that nothing ranks
    #[command(after_help = format!("Formats and what writes them:\n{}", import::writers()))]
    Import {
        /// Which format
        #[arg(value_name = "FORMAT", value_parser = import::names(), hide_possible_values = true)]
        format: String,
        /// The file
        file: PathBuf,
        /// Folder that a report a device is written below, or - for standard output
        #[arg(short, long, value_name = "DIR|-", default_value = "reports")]
        output: PathBuf,
    },
    /// Show how times went from report to report, and where they stepped
    History(HistoryArgs),
    /// Build a site of all reports in a folder: it works from disk and offline
    Dashboard {
        /// The folder; reports in folders below it count too
        #[arg(value_name = "DIR", default_value = "reports")]
        reports: PathBuf,
        /// Folder that the site is written to: a new one, an empty one, or an older site, which is
        /// replaced
        #[arg(short, long, value_name = "SITE", default_value = "site")]
        output: PathBuf,
    },
    /// Serve that site live, with metrics to scrape and a place to send reports to
    Serve(ServeArgs),
    /// Put reports into a folder of published ones, unchanged, if others can rely on them
    Publish {
        /// Reports
        #[arg(required = true)]
        reports: Vec<PathBuf>,
        /// The folder
        #[arg(long, value_name = "DIR", default_value = "reports")]
        into: PathBuf,
    },
    /// List the reports of a folder as a page in Markdown, and which of them are current
    Index {
        /// The folder
        #[arg(value_name = "DIR")]
        reports: PathBuf,
        /// Instead, the best figures of each device as a table
        #[arg(long)]
        headline: bool,
        /// What links to the reports begin with
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
    },
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
        /// The shards' reports, two or more
        #[arg(required = true)]
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
pub(super) enum Format {
    Text,
    Md,
    Json,
    Csv,
}

/// Which runner of each side, where a report has several or the sides have different ones.
#[derive(Args)]
pub(super) struct SideArgs {
    /// Compare only this runner of the baseline [default: each with the runner of the same name]
    #[arg(long, value_name = "NAME")]
    pub(super) baseline_runner: Option<String>,
    /// Compare only this runner of the others; with both, also two runners of one report
    #[arg(long, value_name = "NAME")]
    pub(super) runner: Option<String>,
}

impl SideArgs {
    pub(super) fn terms(&self, tie: Option<f64>) -> Terms {
        Terms {
            tie,
            baseline_runner: self.baseline_runner.clone(),
            runner: self.runner.clone(),
            ..Terms::default()
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum GateFormat {
    Text,
    Md,
    Json,
    Junit,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum SchemaName {
    Report,
    Request,
    Response,
    Comparison,
    Chips,
}

#[derive(Args)]
pub(super) struct ReachArgs {
    /// Which device: its index or PCI id as `devices` shows them, or part of its name
    #[arg(long, value_name = "SEL")]
    pub(super) device: Option<String>,
    /// Which API to reach it by
    #[arg(long, value_parser = BACKENDS)]
    pub(super) backend: Option<String>,
    /// Keep bounds checks and loop limits in kernels (slower; the report says so)
    #[arg(long)]
    pub(super) checks: bool,
    /// Run native runners in this process, for debugging: a crash takes everything with it
    #[arg(long)]
    pub(super) in_process: bool,
    /// Seconds a runner may be silent before it is taken for dead
    #[arg(long, value_name = "SECONDS", default_value_t = SILENCE_S_MAX, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) silence: u64,
}

impl ReachArgs {
    pub(super) fn reach(&self) -> Reach {
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
    pub(super) fn reach_of_processes(&self) -> Result<Reach> {
        if self.in_process {
            return Err(Error::usage(
                "--in-process: every time here has to come from a fresh process",
            ));
        }
        Ok(self.reach())
    }
}

#[derive(Args)]
pub(super) struct ChipArgs {
    /// Which chip the first runner's device is, where neither its PCI id nor its name tells
    #[arg(long, value_name = "ID")]
    pub(super) chip: Option<String>,
    /// A file of chips and prices, over those that come with the program
    #[arg(long, value_name = "FILE")]
    pub(super) chips: Option<PathBuf>,
    /// Dollars for an hour of that device, over all other prices
    #[arg(long, value_name = "USD", value_parser = usd, allow_negative_numbers = true)]
    pub(super) price: Option<f64>,
    /// Only prices of this provider
    #[arg(long, value_name = "NAME", conflicts_with = "price")]
    pub(super) provider: Option<String>,
}

impl ChipArgs {
    pub(super) fn datasheets(&self) -> Result<Datasheets> {
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
pub(super) struct RunArgs {
    /// Which suite: a name or a .toml file
    #[arg(long, default_value = "quick")]
    pub(super) suite: String,
    /// Only cases whose id matches this regular expression, and the probes
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<String>,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// Who executes: wgpu, host, torch, jax, ... as `devices` names them, a path, or a command; may be given more than once
    #[arg(long, value_name = "NAME|PATH")]
    pub(super) runner: Vec<String>,
    /// Folder that reports are written below, or - for standard output
    #[arg(long, value_name = "DIR|-", default_value = "reports")]
    pub(super) output: PathBuf,
    /// Seconds for the whole run; cases that no longer fit are skipped
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(super) budget: Option<f64>,
    /// Put what this machine can tell apart into the report: from FILE, or as `chipmark calibrate`
    /// stored it
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub(super) calibrated: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub(super) chip: ChipArgs,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    pub(super) seed: Option<u32>,
    /// Fresh processes to time each case in; comparisons need five or more a side
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) processes: u32,
    /// Only this share of the cases, such as 1/3, and the probes; `merge` joins the reports
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub(super) shard: Option<(u32, u32)>,
    /// Go on with the unfinished run of the same command in the output folder
    #[arg(long)]
    pub(super) resume: bool,
    /// Search for the best variants anew instead of beginning with those of earlier runs
    #[arg(long)]
    pub(super) no_cache: bool,
}

#[derive(Args)]
pub(super) struct CostArgs {
    /// Reports of the suite llm, or of what --suite prints
    #[arg(required_unless_present = "suite")]
    pub(super) reports: Vec<PathBuf>,
    /// Which model: llama-3.2-1b, llama-3-8b, llama-3-70b, mixtral-8x7b or a .toml file
    #[arg(long, value_name = "NAME|FILE", default_value = "llama-3-8b")]
    pub(super) model: String,
    /// Element type of the projections: f16, f16_f16, bf16, f32, tf32, f8e4m3, w4a16 or w4a32; attention
    /// and head are in the f16 or f32 that goes with it
    #[arg(long, default_value = "f16")]
    pub(super) dtype: String,
    /// Tokens of a prompt; may be given more than once
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [512, 2048])]
    pub(super) prefill: Vec<u64>,
    /// Sequences that are decoded together; may be given more than once
    #[arg(long, value_name = "SEQUENCES", value_delimiter = ',', default_values_t = [1, 8, 64])]
    pub(super) batch: Vec<u64>,
    /// Tokens that each sequence has when one more is decoded
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    pub(super) context: u64,
    /// Cost of whole requests too: tokens of the prompt, which --prefill must have, and of the answer
    #[arg(long, value_name = "IN:OUT", value_parser = request)]
    pub(super) request: Option<(u64, u64)>,
    /// Only this runner's kernels
    #[arg(long, value_name = "NAME")]
    pub(super) runner: Option<String>,
    /// Dollars for an hour of a report's device, over all other prices: USD for all reports, or
    /// N=USD for the Nth
    #[arg(long, value_name = "[N=]USD", allow_negative_numbers = true)]
    pub(super) price: Vec<String>,
    /// Which chip a report's device is, over what its name tells: ID for all reports, or N=ID
    #[arg(long, value_name = "[N=]ID")]
    pub(super) chip: Vec<String>,
    /// A file of chips and prices, over those that come with the program
    #[arg(long, value_name = "FILE")]
    pub(super) chips: Option<PathBuf>,
    /// Print the suite that measures what the question needs, for `run --suite FILE`
    #[arg(long, conflicts_with_all = ["reports", "request", "runner", "price", "chip", "chips"])]
    pub(super) suite: bool,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Args)]
pub(super) struct HistoryArgs {
    /// Folder of reports; those in folders below it count too
    #[arg(value_name = "DIR", default_value = "reports")]
    pub(super) reports: PathBuf,
    /// Only cases whose id matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<String>,
    /// Only this device, by the platform that --format json shows
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<String>,
    /// Only this runner
    #[arg(long, value_name = "NAME")]
    pub(super) runner: Option<String>,
    /// The largest p-value of a change point
    #[arg(long = "p", value_name = "P", default_value_t = history::P_MAX, value_parser = probability)]
    pub(super) p_max: f64,
    /// The least relative change of a change point in per cent [default: the width of the newest
    /// calibration in the reports for reports made apart, or 1]
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    pub(super) min_change: Option<f64>,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Args)]
pub(super) struct ReplayArgs {
    /// The report to run again
    pub(super) report: PathBuf,
    /// Only cases whose id matches this regular expression, and the probes that bound them
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<String>,
    /// Without --device and --backend it is the device of the report, which has to be here
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// Only this runner of the report, or a path or command in its place; may be given more than once
    #[arg(long, value_name = "NAME|PATH")]
    pub(super) runner: Vec<String>,
    /// Folder that the new report is written below, or - for standard output
    #[arg(long, value_name = "DIR|-", default_value = "reports")]
    pub(super) output: PathBuf,
    /// Seconds for the whole replay; cases that no longer fit are skipped
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(super) budget: Option<f64>,
    /// Fresh processes to time each case in; small differences need five or more in both reports
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) processes: u32,
    /// Put what this machine can tell apart into the new report: from FILE, or as `chipmark calibrate`
    /// stored it
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub(super) calibrated: Option<Option<PathBuf>>,
    /// Relative difference in per cent below which two times count as the same [default: the
    /// reports' calibration, or 1]
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    pub(super) tie: Option<f64>,
    /// How to show the comparison
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

/// What `[N=]VALUE` gives to each of `count` reports.
pub(super) fn assigned(
    option: &str,
    texts: &[String],
    count: usize,
) -> Result<Vec<Option<String>>> {
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

pub(super) fn request(text: &str) -> std::result::Result<(u64, u64), String> {
    let number = |part: &str| part.trim().parse::<u64>().ok().filter(|n| *n > 0);
    text.split_once(':')
        .and_then(|(tokens, answer)| Some((number(tokens)?, number(answer)?)))
        .ok_or_else(|| "it must be two whole numbers, such as 512:256".to_owned())
}

#[derive(Args)]
pub(super) struct AbArgs {
    /// The runner to be measured against: wgpu, host, a path, or a command such as '/other/chipmark
    /// worker'
    #[arg(long, value_name = "RUNNER")]
    pub(super) baseline: String,
    /// The other runner; it may be the same, to see what differences mean nothing
    #[arg(long, value_name = "RUNNER")]
    pub(super) candidate: String,
    /// Which suite: a name or a .toml file
    #[arg(long, default_value = "quick")]
    pub(super) suite: String,
    /// Only cases whose id matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<String>,
    /// Fresh processes on each side, two of which live at once and take turns
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) pairs: u32,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// Folder that both reports are written below
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub(super) output: PathBuf,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    pub(super) seed: Option<u32>,
    /// Put what this machine can tell apart into both reports: from FILE, or as `chipmark calibrate`
    /// stored it
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub(super) calibrated: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub(super) chip: ChipArgs,
    /// Relative difference in per cent below which two times count as the same [default: the
    /// calibration, or 1]
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    pub(super) tie: Option<f64>,
    /// How to show the comparison
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Args)]
pub(super) struct ServeArgs {
    /// The folder; reports in folders below it count too, and what is sent is stored in it
    #[arg(value_name = "DIR", default_value = "reports")]
    pub(super) reports: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub(super) address: String,
    /// File with the token that reports must be sent with, as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Let other machines in, directly or through a proxy, which is where encryption comes from: all
    /// may read, and send with the token
    #[arg(long)]
    pub(super) allow_remote: bool,
}

#[derive(Args)]
pub(super) struct CalibrateArgs {
    /// Who executes: wgpu, host, torch, jax, ... as `devices` names them, a path, or a command
    #[arg(long, value_name = "RUNNER", default_value = "wgpu")]
    pub(super) runner: String,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// Fresh processes on each side of a comparison; below six none can be clear by itself
    #[arg(long, value_name = "K", default_value_t = 12, value_parser = clap::value_parser!(u32).range(6..=100))]
    pub(super) processes: u32,
    /// Comparisons of the same with the same, and of each slowdown; forty say what 95 % means
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) comparisons: u32,
    /// A slowdown to inject in per cent, a multiple of 0.5 up to 50; may be given more than once
    /// [default: 0.5, 1, 2, 5 and 10]
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    pub(super) slowdown: Vec<f64>,
    /// Folder that the calibration is written to [default: the user's settings, where `--calibrated`
    /// finds it]
    #[arg(long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,
    /// Seed of the inputs and of the order of processes; a fresh one if absent
    #[arg(long)]
    pub(super) seed: Option<u32>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct DiagnoseArgs {
    /// A report, whose measured cases farthest from their ceilings are diagnosed with the variants that
    /// it chose; without --device and --backend on its device
    #[arg(conflicts_with = "suite")]
    pub(super) report: Option<PathBuf>,
    /// Cases of this suite instead, each with what a short search finds: a name or a .toml file
    /// [default without a report: quick]
    #[arg(long)]
    pub(super) suite: Option<String>,
    /// Only cases whose id matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<String>,
    /// How many cases of a report
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) top: u32,
    /// Whose kernels: wgpu, or the path or command of another build's worker
    #[arg(long, value_name = "RUNNER", default_value = "wgpu")]
    pub(super) runner: String,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// Compute units of the device, to tell when there are too few workgroups for them
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) units: Option<u32>,
    /// Seconds for all of it; cases that no longer begin in time have no diagnosis
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(super) budget: Option<f64>,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    pub(super) seed: Option<u32>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
    /// File to write the JSON to as well, whole or not at all
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct InspectArgs {
    /// Only kernels whose name matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<String>,
    /// Only this dtype: f32, f16, f16_f16, i32, i8, w4a16 or w4a32; all of them if absent
    #[arg(long)]
    pub(super) dtype: Option<String>,
    /// Every variant of every kernel instead of the preferred one
    #[arg(long)]
    pub(super) all_variants: bool,
    /// Whose kernels: wgpu, or the path or command of another build's worker
    #[arg(long, value_name = "RUNNER", default_value = "wgpu")]
    pub(super) runner: String,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// As JSON, with all that the driver says
    #[arg(long)]
    pub(super) json: bool,
    /// File to write the JSON to as well, whole or not at all
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct ConformanceArgs {
    /// The runner: wgpu, host, torch, jax, ... as `devices` names them, a path, or a command
    #[arg(value_name = "RUNNER")]
    pub(super) runner: String,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// Of kernels, verify only those whose name matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<String>,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    pub(super) seed: Option<u32>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Only kernels whose name matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<String>,
    /// One shape instead of the built-in awkward ones, such as m=65,n=67,k=129
    #[arg(long, value_name = "k=v,...")]
    pub(super) shape: Option<String>,
    /// So many cases of matmul and of attention drawn from the seed instead of the awkward ones
    #[arg(long, value_name = "N", conflicts_with_all = ["shape", "inputs"], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) random: Option<u32>,
    /// Only this dtype: f32, tf32, f16, f16_f16, bf16, f8e4m3, i32, i8, w4a16 or w4a32; all of them if absent, or
    /// with --shape the first that the op has
    #[arg(long)]
    pub(super) dtype: Option<String>,
    /// Which op a --shape or --inputs is for; guessed from the shape if absent
    #[arg(long, value_parser = parse_op)]
    pub(super) op: Option<OpName>,
    /// Who executes: wgpu, host, torch, jax, ... as `devices` names them, a path, or a command
    #[arg(long, value_name = "NAME|PATH", default_value = "wgpu")]
    pub(super) runner: String,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// Seed of the inputs; a fresh one if absent
    #[arg(long)]
    pub(super) seed: Option<u32>,
    /// Folder with the inputs as .npy files (a, b for matmul; q, k, v for attention)
    #[arg(long, value_name = "DIR")]
    pub(super) inputs: Option<PathBuf>,
    /// Folder to write inputs and outputs to as .npy, one folder per case and kernel
    #[arg(long, value_name = "DIR")]
    pub(super) dump: Option<PathBuf>,
    /// Every variant of every kernel instead of the preferred one
    #[arg(long)]
    pub(super) all_variants: bool,
}

pub(super) fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 && value <= 1e9 => Ok(value),
        _ => Err("it must be a number of seconds above zero, up to 1e9".to_owned()),
    }
}

/// Dollars: a price that somebody could ask for an hour of a chip.
pub(super) fn usd(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && (1e-4..=1e4).contains(&value) => Ok(value),
        _ => Err("it must be dollars for an hour of one chip, from 0.0001 to 10000".to_owned()),
    }
}

pub(super) fn shard(text: &str) -> std::result::Result<(u32, u32), String> {
    let number = |part: &str| part.trim().parse::<u32>().ok().filter(|&number| number > 0);
    text.split_once('/')
        .and_then(|(number_text, count)| Some((number(number_text)?, number(count)?)))
        .filter(|(number, count)| number <= count)
        .ok_or_else(|| {
            "it must be two whole numbers, such as 1/3 for the first of three shares".to_owned()
        })
}

/// The slowdowns to inject, ascending: whole turns of the probe's loop, and few enough to stay exact.
pub(super) fn slowdowns(asked: &[f64]) -> Result<Vec<f64>> {
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

fn probability(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("it must be a number between 0 and 1".to_owned()),
    }
}

/// Per cent as the user writes it, to a fraction.
pub(super) fn percent(text: &str) -> std::result::Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value / 100.0),
        _ => Err("it must be a number of per cent above zero".to_owned()),
    }
}

pub(super) fn parse_op(text: &str) -> std::result::Result<OpName, String> {
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
