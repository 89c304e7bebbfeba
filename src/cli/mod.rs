//! The command line: what is asked, in the words of the contract, and the exit codes.

mod args;
mod reports;

use std::cmp::Reverse;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use clap::Parser;

use crate::awake::{self, Awake};
use crate::cache::Cache;
use crate::chips::{self, Chips, Identity};
use crate::compare::{Terms, compare};
use crate::datasheet::Datasheets;
use crate::display;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::gpu;
use crate::input::Data;
use crate::inspect;
use crate::interleave::{self, Race};
use crate::interrupt;
use crate::op::{Case, Dtype, OpName, Role, Shape};
use crate::plan::{self, suite_names};
use crate::protocol::{Device, Variant, serve};
use crate::report::{self, Calibration, OutcomeStatus, Report, Status};
use crate::run::{self, Options, Reach, Watcher};
use crate::runner::native;
use crate::runner::start::External;
use crate::runner::worker::STACK_BYTES;
use crate::screen::{self, Progress};
use crate::verify::entropy;
use crate::{audit, calibrate, conformance, diagnose, replay, schemas, telemetry};

use args::*;
use reports::*;

/// Runs the program and returns its exit code.
#[must_use]
pub fn main() -> u8 {
    quiet_the_display();
    // Compilers recurse deep, in a worker and in this process alike, and Windows gives 1 MiB to the
    // thread that a program begins with. A name, for a panic tells it.
    let program = std::thread::Builder::new()
        .name("main".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(answer);
    match program.map(JoinHandle::join) {
        Ok(Ok(code)) => code,
        // It was told where it happened.
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        // Where there is no memory for that stack, most commands need none of it.
        Err(_) => answer(),
    }
}

/// Reads the command line, does what it asks, and returns the exit code.
fn answer() -> u8 {
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
        Command::Show { report, filter } => show(&report, filter.as_deref()),
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
        Command::Diagnose(args) => diagnose_command(&args),
        Command::Inspect(args) => inspect_command(&args),
        Command::Conformance(args) => conformance_command(&args),
        Command::Cost(args) => cost_command(&args),
        Command::Goals {
            reports,
            goals,
            json,
        } => goals_command(&reports, goals.as_deref(), json),
        Command::Publish { reports, into } => publish_command(&reports, &into),
        Command::Index {
            reports,
            headline,
            prefix,
        } => index_command(&reports, headline, &prefix),
        Command::Chips { which, chips, json } => {
            chips_command(which.as_deref(), chips.as_deref(), json)
        }
        Command::Export {
            format,
            reports,
            output,
        } => export_command(&format, &reports, &output),
        Command::History(args) => history_command(&args),
        Command::Dashboard { reports, output } => dashboard_command(&reports, &output),
        Command::Serve(args) => serve_command(&args),
        Command::Import {
            format,
            file,
            output,
        } => import_command(&format, &file, &output),
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
    print_bytes(text.as_bytes())
}

/// Writes a report to stdout in ASCII, which is the same JSON: PowerShell takes what a program writes
/// for text in the console's code page, and would make other letters, and so another report, of the rest.
fn print_report(report: &Report) -> Result<()> {
    print(&in_ascii(&report.to_json()?))
}

/// JSON with all that is not ASCII as escapes.
fn in_ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for letter in json.chars() {
        if letter.is_ascii() {
            ascii.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

fn print_bytes(content: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(content).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::usage(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// What was typed, with the program's name alone: where it lies is nobody's business.
fn command_line() -> String {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(program) = words.first_mut() {
        let name = Path::new(&*program).file_stem();
        *program = name.map_or_else(|| "chipmark".into(), |name| name.to_string_lossy().into());
    }
    words.join(" ")
}

/// Before runners are at work: from here on Ctrl-C ends them in good order, and the machine stays awake
/// as long as what is returned lives.
fn begin() -> Awake {
    interrupt::heed();
    awake::hold()
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
    let _awake = begin();
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
        print_report(&report)?;
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
    let _awake = begin();
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
        Err(_) => print_report(report)
            .map_or_else(|_| "lost".to_owned(), |()| "standard output".to_owned()),
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
            "{what} was found: a GPU needs its vendor's driver; without a GPU, a software Vulkan driver serves (on Linux `./x setup` installs one)"
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
    let _awake = begin();
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

fn to_value(data: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(data).map_err(|error| Error::internal(error.to_string()))
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
        .or_else(files::settings)
        .ok_or_else(|| Error::usage("--output: there is no folder for settings here; name one"))?;
    report::check_writable("--output", &folder)?;
    let _awake = begin();
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

fn diagnose_command(args: &DiagnoseArgs) -> Result<()> {
    if let Some(path) = &args.output {
        diagnose::check_writable(path)?;
    }
    let filter = args.filter.as_deref();
    let reach = args.reach.reach();
    let (subjects, plan, reach) = match &args.report {
        Some(path) => {
            let report = Report::read(path)?;
            let name = path.display().to_string();
            let top = usize::try_from(args.top).unwrap_or(usize::MAX);
            let subjects = diagnose::farthest(&name, &report, filter, top)?;
            // A worker by path is one of wgpu, with wgpu's devices.
            let runners = [diagnose::WGPU.to_owned()];
            let reach = replay::reach(&name, &report, &runners, reach)?;
            (subjects, None, reach)
        }
        None => {
            let plan = plan::plan(args.suite.as_deref().unwrap_or("quick"), filter)?;
            (diagnose::chosen(&plan, filter)?, Some(plan), reach)
        }
    };
    let _awake = begin();
    let request = diagnose::Request {
        runner: args.runner.clone(),
        reach,
        seed: args.seed.unwrap_or_else(entropy),
        subjects,
        plan,
        budget_s: args.budget,
        unit_count: args.units,
    };
    let mut progress = Progress::new();
    let findings = diagnose::diagnose(&request, &mut progress)?;
    drop(progress);
    let json = pretty(&to_value(&findings)?);
    write_whole("--output", args.output.as_deref(), &json)?;
    print(&if args.json { json } else { findings.text() })?;
    findings.verdict()
}

fn inspect_command(args: &InspectArgs) -> Result<()> {
    if let Some(path) = &args.output {
        diagnose::check_writable(path)?;
    }
    let dtype: Option<Dtype> = args.dtype.as_deref().map(str::parse).transpose()?;
    let _awake = begin();
    let request = inspect::Request {
        filter: args.filter.clone(),
        dtypes: dtype.map_or_else(|| Dtype::ALL.to_vec(), |dtype| vec![dtype]),
        all_variants: args.all_variants,
        runner: args.runner.clone(),
        reach: args.reach.reach(),
    };
    let mut progress = Progress::new();
    let findings = inspect::inspect(&request, &mut |line| progress.say(line))?;
    drop(progress);
    let json = pretty(&to_value(&findings)?);
    write_whole("--output", args.output.as_deref(), &json)?;
    print(&if args.json {
        json
    } else {
        format!("{}\n", findings.table())
    })?;
    findings.verdict()
}

/// Writes a text to the file that an option names, if it is given.
fn write_whole(option: &str, path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    files::replace(path, text)
        .map_err(|error| Error::usage(format!("{option} {}: {error}", path.display())))
}

fn ab(args: &AbArgs) -> Result<()> {
    let reach = args.reach.reach_of_processes()?;
    let plan = plan::plan(&args.suite, args.filter.as_deref())?;
    report::check_writable("--output", &args.output)?;
    let _awake = begin();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_in_ascii_is_the_same_json() {
        let json = r#"{"name":"Radeon™ µ𝄞 \\"}"#;
        let ascii = in_ascii(json);
        assert_eq!(ascii, r#"{"name":"Radeon\u2122 \u00b5\ud834\udd1e \\"}"#);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&ascii), value(json));
    }
}
