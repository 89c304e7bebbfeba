//! The commands that work on finished reports.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::args::{
    CostArgs, Format, GateFormat, HistoryArgs, ReplayArgs, ServeArgs, assigned, usd,
};
use super::{
    begin, calibration, command_line, judge, pretty, print, print_bytes, print_report, rescue,
    to_value,
};
use regex::Regex;

use crate::chips::Chips;
use crate::compare::{Comparison, Terms, compare};
use crate::cost::{self, Question, Subject};
use crate::dashboard;
use crate::datasheet::{self, Datasheets};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::export;
use crate::files;
use crate::gate::{self, Gate, Thresholds};
use crate::goals::{Goals, Standing};
use crate::history;
use crate::index::Index;
use crate::model::{Model, Phase};
use crate::op::Dtype;
use crate::replay::{self, Agreement, Wish};
use crate::report::{self, PriceRecord, Report, Status};
use crate::screen::{self, Progress};
use crate::serve::{self, Token};
use crate::store::Store;
use crate::{consistency, import, interrupt, merge, publish, run, signature};

/// Reports with the names that they were given by.
type Named = Vec<(String, Report)>;

/// The reports that were named. No shell on Windows makes files of `reports/*/*.json`, so this does.
/// Here and not for all arguments at once: `--filter '.*'` arrives like a path, for PowerShell takes the
/// quotes away.
fn expanded(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if !cfg!(windows) {
        return Ok(paths.to_vec());
    }
    let matching = |path: &PathBuf| {
        files::matching(path).map_err(|error| Error::usage(format!("{}: {error}", path.display())))
    };
    let lists: Vec<Vec<PathBuf>> = paths.iter().map(matching).collect::<Result<_>>()?;
    Ok(lists.concat())
}

/// As [`expanded`], where one report is too few.
fn several(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let paths = expanded(paths)?;
    if let [only] = &paths[..] {
        return Err(Error::usage(format!(
            "<REPORTS>: 2 or more are needed, and {} is the only one",
            only.display()
        )));
    }
    Ok(paths)
}

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

pub(super) fn shown(comparison: &Comparison, format: Format) -> Result<String> {
    Ok(match format {
        Format::Text => comparison.text(),
        Format::Md => comparison.markdown(),
        Format::Json => pretty(&to_value(comparison)?),
        Format::Csv => comparison.csv()?,
    })
}

/// Shows a report, or those of its cases that a filter lets through.
pub(super) fn show(path: &Path, filter: Option<&str>) -> Result<()> {
    let mut report = unaltered(path)?;
    if let Some(filter) = filter {
        let regex = Regex::new(filter)
            .map_err(|error| Error::usage(format!("--filter: {}", one_line(&error.to_string()))))?;
        report
            .outcomes
            .retain(|outcome| regex.is_match(&outcome.case_id));
        if report.outcomes.is_empty() {
            return Err(Error::usage(format!(
                "--filter {filter}: it matches no case of {}",
                path.display()
            )));
        }
    }
    print(&screen::summary(&report))
}

pub(super) fn goals_command(paths: &[PathBuf], goals: Option<&Path>, json: bool) -> Result<()> {
    let goals = Goals::load(goals)?;
    let mut standings = Vec::new();
    for path in &expanded(paths)? {
        standings.push(goals.hold(&unaltered(path)?));
    }
    if json {
        return print(&pretty(&to_value(&standings)?));
    }
    let texts: Vec<String> = standings.iter().map(Standing::text).collect();
    print(&texts.join("\n"))
}

pub(super) fn publish_command(paths: &[PathBuf], folder: &Path) -> Result<()> {
    for path in &expanded(paths)? {
        print(&format!("{}\n", publish::publish(path, folder)?.display()))?;
    }
    Ok(())
}

pub(super) fn index_command(folder: &Path, headline: bool, prefix: &str) -> Result<()> {
    let store = read_store(folder)?;
    let index = Index::of(&store, prefix);
    print(&if headline {
        index.headline()
    } else {
        index.page()
    })
}

pub(super) fn compare_command(paths: &[PathBuf], terms: &Terms, format: Format) -> Result<()> {
    let (reports, warnings) = read_reports(&several(paths)?)?;
    terms.check(&reports)?;
    let mut comparison = compare(&reports, terms);
    comparison.warnings.extend(warnings);
    print(&shown(&comparison, format)?)?;
    if comparison.common_case_count == 0 {
        return Err(Error::usage("the reports have no measured case in common"));
    }
    Ok(())
}

pub(super) fn check(
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

pub(super) fn export_command(format: &str, paths: &[PathBuf], output: &Path) -> Result<()> {
    let (reports, warnings) = read_reports(&expanded(paths)?)?;
    let to_stdout = output == Path::new("-");
    if to_stdout && export::is_binary(format) && std::io::stdout().is_terminal() {
        return Err(Error::usage(format!(
            "export {format}: it is no text, and standard output is a terminal; name a file with --output"
        )));
    }
    let content = export::export(format, &reports)?;
    for warning in warnings {
        eprintln!("chipmark: {warning}");
    }
    if to_stdout {
        print_bytes(&content)
    } else {
        files::replace(output, &content)
            .map_err(|error| Error::usage(format!("--output {}: {error}", output.display())))
    }
}

/// Reads a folder of reports; what is left out of it is told.
fn read_store(folder: &Path) -> Result<Store> {
    let store = Store::read(folder)?;
    for rejected in &store.rejected {
        eprintln!(
            "chipmark: {}: left out: {}",
            one_line(&folder.join(&rejected.place).display().to_string()),
            one_line(&rejected.reason)
        );
    }
    if store.reports.is_empty() {
        return Err(Error::usage(format!(
            "{}: it holds no report that can be used; `chipmark run` writes them",
            folder.display()
        )));
    }
    Ok(store)
}

pub(super) fn history_command(args: &HistoryArgs) -> Result<()> {
    let filter = args.filter.as_deref().map(|pattern| {
        Regex::new(pattern)
            .map_err(|error| Error::usage(format!("--filter: {}", one_line(&error.to_string()))))
    });
    let terms = history::Terms {
        filter: filter.transpose()?,
        platform: args.platform.clone(),
        runner: args.runner.clone(),
        p_max: args.p_max,
        change_min: args.min_change,
    };
    let store = read_store(&args.reports)?;
    let found = history::history(&store, &terms);
    if found.series.is_empty() {
        return Err(Error::usage(format!(
            "{}: no measured case is of that filter, platform and runner",
            args.reports.display()
        )));
    }
    print(&match args.format {
        Format::Text => found.text(),
        Format::Md => found.markdown(),
        Format::Json => pretty(&to_value(&found)?),
        Format::Csv => found.csv()?,
    })
}

pub(super) fn dashboard_command(reports: &Path, output: &Path) -> Result<()> {
    let store = read_store(reports)?;
    let built = dashboard::build(&store, output, &command_line())?;
    print(&format!(
        "{}: {} pages of {} reports, {} files left out\n",
        output.join("index.html").display(),
        built.page_count,
        built.report_count,
        built.rejected_count
    ))
}

pub(super) fn serve_command(args: &ServeArgs) -> Result<()> {
    let token = args.token_file.as_deref().map(Token::read).transpose()?;
    let terms = serve::Terms {
        address: args.address.clone(),
        token,
        allow_remote: args.allow_remote,
        command: command_line(),
    };
    interrupt::heed();
    serve::serve(&args.reports, &terms, |address| {
        // Whoever started it may be waiting for this line, and may have gone since.
        let _ = print(&format!("http://{address}/\n"));
    })
}

pub(super) fn import_command(format: &str, file: &Path, output: &Path) -> Result<()> {
    let reports = import::import(format, file, &command_line())?;
    if output == Path::new("-") {
        let [report] = &reports[..] else {
            return Err(Error::usage(format!(
                "{}: it is about {} devices, and standard output takes the report of one; name a folder with --output",
                file.display(),
                reports.len()
            )));
        };
        return print_report(report);
    }
    report::check_writable("--output", output)?;
    for report in &reports {
        let path = report::write(report, output)?;
        print(&format!("{}{}\n", import::table(report), path.display()))?;
    }
    Ok(())
}

pub(super) fn merge_command(paths: &[PathBuf], output: &Path) -> Result<()> {
    let report = merge::merge(read_reports(&several(paths)?)?.0, command_line())?;
    if output == Path::new("-") {
        return print_report(&report);
    }
    report::check_writable("--output", output)?;
    let path = report::write(&report, output)?;
    print(&format!("{}{}\n", screen::summary(&report), path.display()))
}

pub(super) fn validate(path: &Path, key: Option<&Path>) -> Result<()> {
    let report = whole(path)?;
    for line in consistency::slower_than_simpler(&report.outcomes) {
        eprintln!("chipmark: {line}");
    }
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

pub(super) fn sign(path: &Path, key: &Path) -> Result<()> {
    let report = whole(path)?;
    let written = signature::sign(path, &report.report_id, key)?;
    print(&format!("{}\n", written.display()))
}

pub(super) fn generate_key_command(folder: &Path) -> Result<()> {
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

pub(super) fn replay_command(args: &ReplayArgs) -> Result<()> {
    let name = args.report.display().to_string();
    let report = whole(&args.report)?;
    let to_stdout = args.output == Path::new("-");
    if !to_stdout {
        report::check_writable("--output", &args.output)?;
    }
    let _awake = begin();
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
        print_report(&replayed)?;
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

pub(super) fn cost_command(args: &CostArgs) -> Result<()> {
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
    let paths = expanded(&args.reports)?;
    let named = paths.iter().map(|path| {
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
