//! `chipmark conformance`: whether a program that claims to be a runner is one. It is asked right
//! things, wrong things and things in the wrong order; its outputs are verified, its clock is held
//! against the conductor's, and what it may refuse it must refuse in so many words.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use crate::audit::{self, Audit};
use crate::case;
use crate::display;
use crate::error::{Error, ErrorKind, Result};
use crate::input::Data;
use crate::interrupt::interrupted;
use crate::measure::{Policy, Trouble, ask_spans, device_fits, host_fits};
use crate::npy;
use crate::op::{Case, Dtype, OpName, Role, Shape};
use crate::protocol::{
    DEVICE_TYPES, FaultKind, PROTOCOL_VERSION, Request, Response, Span, Variant,
};
use crate::report::RunnerRecord;
use crate::run::{Reach, hello};
use crate::runner::external::Process;
use crate::runner::start::start;
use crate::runner::{Conversation, Fault};
use crate::tune::{End, Session};
use crate::verify::{self, Verdict};

/// Seconds that a runner may take to end once the conversation is over.
const FAREWELL_S_MAX: u64 = 10;

/// A product eight times as large takes at least so many times as long, where it is more than launch.
const GROWTH_MIN: f64 = 1.5;

/// A call as long as this is work and not launch.
const WORK_S_MIN: f64 = 1e-3;

/// The sizes of square products among which one is long enough to be timed.
const SIZES: [u64; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Lines that are no request. The last is long, to see that it is read to its end.
fn garbage() -> Vec<String> {
    let mut lines: Vec<String> = [
        "not json at all",
        "{}",
        "[1, 2",
        "null",
        "{\"type\":\"dance\"}",
        "{\"type\":\"case\"}",
        "{\"type\":\"measure\",\"repeat_count\":\"many\",\"sample_count\":1,\"poison\":false}",
        "{\"type\":\"case\",\"case\":{\"op\":\"alchemy\",\"shape\":{\"n\":4},\"dtype\":\"f32\"},\"seed\":1,\"data\":\"uniform\"}",
    ]
    .map(str::to_owned)
    .to_vec();
    lines.push("x".repeat(1 << 20));
    lines
}

/// Whom to test and how.
pub struct Options {
    /// The runner: a name, the path of a program, or a command.
    pub runner: String,
    /// How to reach its device.
    pub reach: Reach,
    /// Kernels to verify, by regular expression; all of them if absent.
    pub filter: Option<String>,
    /// Seed of the inputs.
    pub seed: u32,
}

/// What came of one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// As the protocol asks.
    Passed,
    /// Not as the protocol asks.
    Failed,
    /// The runner need not do this, and says that it does not.
    Skipped,
}

/// One test with its result.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Test {
    /// Its name.
    pub name: &'static str,
    /// What came of it.
    pub mark: Mark,
    /// What was seen, or why it failed or was skipped.
    pub detail: String,
}

/// What came of all tests.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Findings {
    /// The runner as it was asked for.
    pub runner: String,
    /// What it says of itself, its device and its clock.
    pub record: RunnerRecord,
    /// Whether no test failed.
    pub conforms: bool,
    /// Every test.
    pub tests: Vec<Test>,
}

/// Why a test did not pass.
enum Not {
    Failed(String),
    Skipped(String),
    /// It died or broke the conversation: what follows needs a new process.
    Broken(String),
}

impl From<Fault> for Not {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault.message)
    }
}

impl From<Error> for Not {
    fn from(error: Error) -> Self {
        Self::Failed(error.message)
    }
}

impl From<Trouble> for Not {
    fn from(trouble: Trouble) -> Self {
        case::ended(trouble).into()
    }
}

impl From<End> for Not {
    fn from(end: End) -> Self {
        match end {
            End::Fault(fault) => Self::Broken(fault.message),
            End::Skipped(reason) => Self::Skipped(reason),
            End::Failed(reason) | End::Implausible(reason) | End::Wrong(reason) => {
                Self::Failed(reason)
            }
            End::Interrupted => Self::Skipped("interrupted".to_owned()),
        }
    }
}

/// The line of a passed test, or why it did not pass.
type Passed = std::result::Result<String, Not>;

fn failed<T>(reason: impl Into<String>) -> std::result::Result<T, Not> {
    Err(Not::Failed(reason.into()))
}

/// A case with the variant it is run by.
#[derive(Clone)]
struct Sample {
    case: Case,
    variant: Variant,
}

/// A runner under test.
struct Bench<'a> {
    options: &'a Options,
    record: RunnerRecord,
    process: Option<Process>,
    sample: Option<Sample>,
}

/// A test: what it saw, or why it did not pass.
type Step<'a> = fn(&mut Bench<'a>) -> Passed;

/// Every test by name, in the order in which they run.
fn tests<'a>() -> [(&'static str, Step<'a>); 15] {
    [
        ("hello", Bench::says_who_it_is),
        ("version", Bench::knows_its_version),
        ("cases", Bench::has_a_case),
        ("garbage", Bench::survives_garbage),
        ("order", Bench::keeps_the_order),
        ("outputs", Bench::outputs_are_right),
        ("random", Bench::outputs_are_right_on_random_shapes),
        ("seeds", Bench::computes_anew),
        ("files", Bench::reads_files),
        ("too large", Bench::refuses_what_is_too_large),
        ("spans", Bench::spans_are_as_asked),
        ("sets", Bench::takes_sets_by_turns),
        ("clock", Bench::clock_is_true),
        ("work", Bench::does_the_work),
        ("farewell", Bench::ends),
    ]
}

/// Tests a runner and tells `say` what happens on the way.
///
/// # Errors
/// When it cannot be started, has no device, or refuses `hello`. A test that fails is no error here:
/// [`Findings::verdict`] makes one of it.
pub fn conformance(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Findings> {
    let mut process = start(&options.runner)?;
    let record = hello(&mut process, &options.runner, &options.reach)?;
    say(&format!(
        "runner {}: {} ({}), seed {}",
        options.runner, record.device.name, record.device.backend, options.seed
    ));
    let mut bench = Bench {
        options,
        record,
        process: Some(process),
        sample: None,
    };
    let mut findings = Vec::new();
    for (name, test) in tests() {
        if interrupted() {
            return Err(Error::new(ErrorKind::Partial, "interrupted"));
        }
        let (mark, detail) = match test(&mut bench) {
            Ok(detail) => (Mark::Passed, detail),
            Err(Not::Skipped(reason)) => (Mark::Skipped, reason),
            Err(Not::Failed(reason)) => (Mark::Failed, reason),
            Err(Not::Broken(reason)) => {
                bench.process = None;
                (Mark::Failed, reason)
            }
        };
        if mark == Mark::Failed {
            say(&format!("{name}: {detail}"));
        }
        findings.push(Test { name, mark, detail });
    }
    Ok(Findings {
        runner: options.runner.clone(),
        conforms: findings.iter().all(|test| test.mark != Mark::Failed),
        record: bench.record,
        tests: findings,
    })
}

impl Bench<'_> {
    fn silence(&self) -> Duration {
        self.options.reach.silence
    }

    /// The process that is there, or a new one that has said hello.
    fn process(&mut self) -> std::result::Result<&mut Process, Not> {
        let process = match self.process.take() {
            Some(process) => process,
            None => self.another()?,
        };
        Ok(self.process.insert(process))
    }

    fn another(&self) -> std::result::Result<Process, Not> {
        let broken = |error: Error| Not::Broken(error.message);
        let mut process = start(&self.options.runner).map_err(broken)?;
        hello(&mut process, &self.options.runner, &self.options.reach).map_err(broken)?;
        Ok(process)
    }

    fn session<T>(
        &mut self,
        talk: impl FnOnce(&mut Session<'_>) -> std::result::Result<T, Not>,
    ) -> std::result::Result<T, Not> {
        let (timer, silence) = (self.record.timer.clone(), self.silence());
        talk(&mut Session::new(
            self.process()?,
            timer,
            silence,
            &interrupted,
        ))
    }

    fn sample(&self) -> std::result::Result<Sample, Not> {
        self.sample
            .clone()
            .ok_or_else(|| Not::Skipped("it runs no case".to_owned()))
    }

    /// Sends a line and wants it refused.
    fn refuses(&mut self, line: &str, what: &str) -> std::result::Result<FaultKind, Not> {
        let silence = self.silence();
        match self.process()?.ask_line(line, silence)? {
            Response::Error { kind, message } if !message.is_empty() => Ok(kind),
            Response::Error { .. } => failed(format!("{what} is refused without a word of why")),
            other => failed(format!(
                "{what} is answered with {}, not with an error",
                brief(&other)
            )),
        }
    }

    fn says_who_it_is(&mut self) -> Passed {
        let RunnerRecord {
            runner,
            device,
            timer,
        } = &self.record;
        for (field, text) in [
            ("runner.name", &runner.name),
            ("runner.version", &runner.version),
            ("device.name", &device.name),
            ("device.backend", &device.backend),
        ] {
            if text.trim().is_empty() {
                return failed(format!("{field} is empty"));
            }
        }
        if !DEVICE_TYPES.contains(&device.device_type.as_str()) {
            return failed(format!(
                "device.device_type is {:?}; known are {}",
                device.device_type,
                DEVICE_TYPES.join(", ")
            ));
        }
        if !["device", "host"].contains(&timer.clock.as_str()) {
            return failed(format!(
                "timer.clock is {:?}; known are device and host",
                timer.clock
            ));
        }
        if !(timer.quantum_s > 0.0 && timer.quantum_s < 0.1) {
            return failed(format!(
                "timer.quantum_s is {}; a clock ticks in more than 0 and less than 0.1 s",
                timer.quantum_s
            ));
        }
        Ok(format!(
            "{} {} on {}, by the {} clock",
            runner.name, runner.version, device.name, timer.clock
        ))
    }

    fn knows_its_version(&mut self) -> Passed {
        const FOREIGN: u32 = 999;
        let silence = self.silence();
        let mut process =
            start(&self.options.runner).map_err(|error| Not::Broken(error.message))?;
        let request = Request::Hello {
            protocol: FOREIGN,
            device: self.options.reach.device.clone(),
            backend: self.options.reach.backend.clone(),
            checks: false,
        };
        match process.ask(&request, silence)? {
            Response::Error {
                kind: FaultKind::Unsupported | FaultKind::Input,
                ..
            } => Ok(format!("protocol {FOREIGN} is refused")),
            Response::Hello {
                protocol: PROTOCOL_VERSION,
                ..
            } => Ok(format!(
                "protocol {FOREIGN} is answered with {PROTOCOL_VERSION}"
            )),
            other => failed(format!(
                "a hello of protocol {FOREIGN} is answered with {}",
                brief(&other)
            )),
        }
    }

    /// Finds a case that it runs: the first of some, products before probes.
    fn has_a_case(&mut self) -> Passed {
        let mut reasons = Vec::new();
        for (op, sizes, dtype) in [
            (
                OpName::Matmul,
                vec![("m", 33), ("n", 36), ("k", 40)],
                Dtype::F32,
            ),
            (
                OpName::Matmul,
                vec![("m", 33), ("n", 36), ("k", 40)],
                Dtype::F16,
            ),
            (
                OpName::Attention,
                vec![("query_len", 17), ("kv_len", 33), ("head_dim", 64)],
                Dtype::F32,
            ),
            (
                OpName::Attention,
                vec![("query_len", 17), ("kv_len", 33), ("head_dim", 64)],
                Dtype::F16,
            ),
            (OpName::Copy, vec![("n", 4096)], Dtype::F32),
            (
                OpName::Fma,
                vec![("invocations", 1000), ("steps", 37)],
                Dtype::F32,
            ),
        ] {
            let case = Case::new(op, &Shape::of(&sizes), dtype)?;
            let seed = self.options.seed;
            match self.session(|session| Ok(session.case(&case, seed, &Data::Uniform)?)) {
                Ok((variants, _)) if !variants.is_empty() => {
                    let variant = variants[0].clone();
                    let detail = format!("runs {}, preferably by {variant}", case.id());
                    self.sample = Some(Sample { case, variant });
                    return Ok(detail);
                }
                Ok(_) => reasons.push(format!("{}: no variant", case.id())),
                Err(Not::Skipped(reason)) => reasons.push(format!("{}: {reason}", case.id())),
                Err(not) => return Err(not),
            }
        }
        failed(format!("it runs none of these: {}", reasons.join("; ")))
    }

    fn survives_garbage(&mut self) -> Passed {
        let lines = garbage();
        for line in &lines {
            let shown: String = line.chars().take(60).collect();
            let kind = self.refuses(line, &shown)?;
            if !matches!(kind, FaultKind::Input | FaultKind::Unsupported) {
                return failed(format!(
                    "{shown} is refused as {kind:?}, not as input or unsupported"
                ));
            }
        }
        // It goes on, and a field of a later version does not trouble it.
        let Sample { case, .. } = self.sample()?;
        let line = serde_json::json!({
            "type": "case", "case": case, "seed": self.options.seed, "data": "uniform",
            "set_count": 1, "from_a_later_version": {"of": ["this", "protocol"]}
        });
        let silence = self.silence();
        match self.process()?.ask_line(&line.to_string(), silence)? {
            Response::Variants { .. } => Ok(format!(
                "refuses {} lines that are no requests, and goes on",
                lines.len()
            )),
            other => failed(format!(
                "after garbage, a case with an unknown field is answered with {}",
                brief(&other)
            )),
        }
    }

    fn keeps_the_order(&mut self) -> Passed {
        let Sample { case, variant } = self.sample()?;
        let line = |request: &Request| serde_json::to_string(request).unwrap_or_default();
        let prepare = line(&Request::Prepare {
            variant: variant.clone(),
        });
        let measure = line(&Request::Measure {
            repeat_count: 1,
            sample_count: 1,
            poison: false,
        });
        let outputs = |position: u64, set_index: u32| {
            line(&Request::Outputs {
                positions: vec![position],
                projection_seed: None,
                all: false,
                set_index,
            })
        };
        self.process = None;
        self.refuses(&prepare, "a prepare before any case")?;
        self.refuses(&measure, "a measure before any case")?;
        self.refuses(&outputs(0, 0), "outputs before any case")?;
        let seed = self.options.seed;
        self.session(|session| Ok(session.case(&case, seed, &Data::Uniform)?))?;
        self.refuses(&measure, "a measure before any prepare")?;
        self.session(|session| {
            let (offered, _) = session.case(&case, seed, &Data::Uniform)?;
            let count = session.build_count();
            session.build_ahead(&offered[..offered.len().min(count)])?;
            if session.build_count() < count {
                return Err(Not::Failed(format!(
                    "it says that it builds {count} variants at once, and refuses to"
                )));
            }
            Ok(())
        })?;
        let nobody = line(&Request::Prepare {
            variant: Variant {
                kernel: "matmul/nobody_has_this".to_owned(),
                ..Variant::default()
            },
        });
        self.refuses(&nobody, "a variant that it never named")?;
        self.session(|session| session.prepare(&variant)?.map_err(Not::Failed))?;
        let beyond = case.output().len();
        self.refuses(&outputs(beyond, 0), "a position beyond the output")?;
        self.refuses(&outputs(0, 7), "a set of buffers that was not made")?;
        // A new case takes the variant of the old one away.
        self.session(|session| Ok(session.case(&case, seed, &Data::Uniform)?))?;
        self.refuses(&measure, "a measure of a variant of the case before")?;
        Ok("what comes too early or names what is not there is refused".to_owned())
    }

    /// Verifies these cases; `nothing` says what it is if no kernel runs any of them.
    fn audit(&mut self, cases: Vec<Case>, nothing: fn(String) -> Not) -> Passed {
        // A process of its own: the other one makes room.
        self.process = None;
        let request = Audit {
            cases,
            filter: self.options.filter.clone(),
            runner: self.options.runner.clone(),
            reach: self.options.reach.clone(),
            seed: self.options.seed,
            data: None,
            dump: None,
            all_variants: false,
        };
        let findings = audit::audit(&request, &mut |_| ()).map_err(|error| {
            if error.kind == ErrorKind::Usage {
                nothing(error.message)
            } else {
                Not::Broken(error.message)
            }
        })?;
        findings.verdict()?;
        let (kernels, checks) = findings.counts();
        Ok(format!("right: {kernels} kernels in {checks} checks"))
    }

    fn outputs_are_right(&mut self) -> Passed {
        let cases = audit::awkward_cases(&Dtype::ALL)?;
        self.audit(cases, Not::Failed)
    }

    fn outputs_are_right_on_random_shapes(&mut self) -> Passed {
        const COUNT: u32 = 10;
        // A runner that holds little may refuse all of one draw, and hardly all of many.
        const DRAWS: u32 = 8;
        let Sample { case, .. } = self.sample()?;
        if case.op.is_probe() {
            return Err(Not::Skipped("it runs probes only".to_owned()));
        }
        let ops = std::slice::from_ref(&case.op);
        let mut refusal = String::new();
        for draw in 0..DRAWS {
            let seed = self.options.seed.wrapping_add(draw);
            let cases = audit::random_cases(ops, &[case.dtype], COUNT, seed)?;
            match self.audit(cases, Not::Skipped) {
                Err(Not::Skipped(reason)) => refusal = reason,
                found => return found,
            }
        }
        // The filter may be for another op.
        Err(match self.options.filter {
            Some(_) => Not::Skipped(refusal),
            None => Not::Failed(refusal),
        })
    }

    /// Runs the sample on these inputs and verifies it.
    fn is_right(&mut self, seed: u32, data: &Data) -> std::result::Result<(), Not> {
        let Sample { case, variant } = self.sample()?;
        let inputs = verify::inputs(&case, seed, data)?;
        self.session(|session| {
            session.case(&case, seed, data)?;
            session.prepare(&variant)?.map_err(Not::Failed)?;
            judged(session.verify(&case, &inputs, data)?)
        })
        .map_err(|not| match not {
            Not::Failed(reason) => Not::Failed(format!(
                "{} {variant} on {} data of seed {seed}: {reason}",
                case.id(),
                data.label()
            )),
            not => not,
        })
    }

    fn computes_anew(&mut self) -> Passed {
        let seed = self.options.seed;
        let seeds = [seed, seed ^ 0x5555_5555, seed];
        for seed in seeds {
            self.is_right(seed, &Data::Uniform)?;
        }
        self.is_right(seed, &Data::Zero)?;
        Ok("another seed gives another output, zeros give zeros".to_owned())
    }

    fn reads_files(&mut self) -> Passed {
        let Sample { case, .. } = self.sample()?;
        if case.op.is_probe() {
            return Err(Not::Skipped("it runs probes only".to_owned()));
        }
        let seed = self.options.seed;
        let cannot = |error: Error| Not::Skipped(error.message);
        let folder = tempfile::tempdir()
            .map_err(|error| Not::Skipped(format!("no folder for files: {error}")))?;
        let inputs = verify::inputs(&case, seed, &Data::Uniform).map_err(cannot)?;
        let mut files = std::collections::BTreeMap::new();
        let tensors = case.tensors();
        let wanted = tensors.iter().filter(|tensor| tensor.role == Role::Input);
        for (tensor, values) in wanted.zip(&inputs) {
            let path = folder.path().join(format!("{}.npy", tensor.name));
            let values = (0..tensor.len()).map(|index| values.get(index));
            npy::write(&path, &tensor.dims, values).map_err(cannot)?;
            files.insert(tensor.name.to_owned(), path);
        }
        self.is_right(seed, &Data::Files(files.clone()))?;
        // And one that is not there is a mistake of the user's, which it survives.
        for path in files.values_mut() {
            path.set_extension("gone");
        }
        let line = serde_json::to_string(&Request::Case {
            case,
            seed,
            data: Data::Files(files),
            set_count: 1,
        })
        .unwrap_or_default();
        match self.refuses(&line, "a case on files that are not there")? {
            FaultKind::Input => Ok("tensors come from .npy files too".to_owned()),
            kind => failed(format!(
                "a missing file is refused as {kind:?}, not as input"
            )),
        }
    }

    /// Asks for 3 TiB: more than any device has, in tensors that can still be indexed.
    fn refuses_what_is_too_large(&mut self) -> Passed {
        const SIZE: u64 = 65_535;
        const SETS: u32 = 64;
        let Sample { case, .. } = self.sample()?;
        if case.op != OpName::Matmul {
            return Err(Not::Skipped("it runs no matmul".to_owned()));
        }
        let shape = Shape::of(&[("m", SIZE), ("n", SIZE), ("k", SIZE)]);
        let large = Case::new(case.op, &shape, case.dtype)?;
        let request = Request::Case {
            case: large.clone(),
            seed: self.options.seed,
            data: Data::Uniform,
            set_count: SETS,
        };
        let silence = self.silence();
        let detail = match self.process()?.ask(&request, silence)? {
            Response::Error {
                kind: FaultKind::OutOfMemory | FaultKind::Unsupported | FaultKind::Input,
                message,
            } => message,
            Response::Error { kind, message } => {
                return failed(format!(
                    "{} is refused as {kind:?} ({message}); it is out_of_memory, unsupported or input",
                    large.id()
                ));
            }
            Response::Variants {
                variants, refused, ..
            } if variants.is_empty() && !refused.is_empty() => refused[0].reason.clone(),
            Response::Variants { set_count, .. } if set_count < SETS => {
                format!("it has room for {set_count} sets of {}", large.id())
            }
            other => {
                return failed(format!(
                    "{SETS} sets of {} are more than any device holds, and are answered with {}",
                    large.id(),
                    brief(&other)
                ));
            }
        };
        self.is_right(self.options.seed, &Data::Uniform)?;
        Ok(format!(
            "refuses {SETS} sets of {} and goes on: {detail}",
            large.id()
        ))
    }

    fn spans_are_as_asked(&mut self) -> Passed {
        const REPEATS: u32 = 3;
        const SPANS: u32 = 4;
        let Sample { case, variant } = self.sample()?;
        let seed = self.options.seed;
        let inputs = verify::inputs(&case, seed, &Data::Uniform)?;
        let by_device = self.record.timer.clock == "device";
        self.session(|session| {
            session.case(&case, seed, &Data::Uniform)?;
            session.prepare(&variant)?.map_err(Not::Failed)?;
            let asked = Instant::now();
            let spans = ask_spans(session.runner, session.silence, REPEATS, SPANS, true)?;
            let waited_s = asked.elapsed().as_secs_f64();
            let by_device = by_device && session.clock.is_none();
            for span in &spans {
                fits(span, waited_s, by_device).map_err(Not::Failed)?;
            }
            let claimed_s: f64 = spans.iter().map(|span| span.host_s).sum();
            if claimed_s > waited_s * 1.02 + 1e-3 {
                return failed(format!(
                    "its spans add up to {claimed_s:.3e} s; the answer came after {waited_s:.3e} s"
                ));
            }
            // What was poisoned before the spans has been written by them.
            judged(session.verify(&case, &inputs, &Data::Uniform)?)
        })?;
        Ok(format!(
            "gives {SPANS} spans of {REPEATS} calls as asked, and the calls write the output"
        ))
    }

    fn takes_sets_by_turns(&mut self) -> Passed {
        const SETS: u32 = 3;
        let Sample { case, variant } = self.sample()?;
        let seed = self.options.seed;
        let inputs = verify::inputs(&case, seed, &Data::Uniform)?;
        self.session(|session| {
            session.case_in_sets(&case, seed, &Data::Uniform, SETS)?;
            session.prepare(&variant)?.map_err(Not::Failed)?;
            ask_spans(session.runner, session.silence, SETS, 1, true)?;
            for set in 0..SETS {
                judged(session.verify_set(&case, &inputs, &Data::Uniform, set)?).map_err(
                    |not| match not {
                        Not::Failed(reason) => Not::Failed(format!(
                            "after {SETS} calls on {SETS} sets, set {set}: {reason}"
                        )),
                        not => not,
                    },
                )?;
            }
            Ok(())
        })?;
        Ok(format!("writes {SETS} sets of buffers in {SETS} calls"))
    }

    /// Sets a square product up and measures it.
    fn time_square(
        &mut self,
        size: u64,
        how: fn(&Session<'_>) -> Policy,
    ) -> std::result::Result<(f64, String), Not> {
        let Sample { case, variant } = self.sample()?;
        if case.op != OpName::Matmul {
            return Err(Not::Skipped("it runs no matmul".to_owned()));
        }
        let shape = Shape::of(&[("m", size), ("n", size), ("k", size)]);
        let case = Case::new(case.op, &shape, case.dtype)?;
        let seed = self.options.seed;
        self.session(|session| {
            let (variants, _) = session.case(&case, seed, &Data::Uniform)?;
            if !variants.contains(&variant) {
                return Err(Not::Skipped(format!(
                    "{variant} does not run {}",
                    case.id()
                )));
            }
            session.prepare(&variant)?.map_err(Not::Failed)?;
            let measurement = session.measure(&how(session))?;
            let inputs = verify::inputs(&case, seed, &Data::Uniform)?;
            judged(session.verify(&case, &inputs, &Data::Uniform)?)?;
            Ok((measurement.summary.min, case.id()))
        })
    }

    /// The first square product that is more than a launch, with its time.
    fn long_enough(&mut self) -> std::result::Result<(u64, f64, String), Not> {
        for size in SIZES {
            let (time_s, id) = self.time_square(size, glance)?;
            if time_s >= WORK_S_MIN {
                return Ok((size, time_s, id));
            }
        }
        Err(Not::Skipped(format!(
            "no product up to {} takes {} here",
            SIZES[SIZES.len() - 1],
            display::seconds(WORK_S_MIN)
        )))
    }

    fn clock_is_true(&mut self) -> Passed {
        let (size, ..) = self.long_enough()?;
        let (time_s, id) = self.time_square(size, thorough)?;
        Ok(format!(
            "{id} takes {} a call, and the conductor's clock agrees",
            display::seconds(time_s)
        ))
    }

    fn does_the_work(&mut self) -> Passed {
        let (size, mut single_s, id) = self.long_enough()?;
        let (mut double_s, double_id) = self.time_square(2 * size, glance)?;
        if double_s < GROWTH_MIN * single_s {
            // Once more, for the machine may have been busier then than it is now.
            single_s = single_s.min(self.time_square(size, glance)?.0);
            double_s = double_s.max(self.time_square(2 * size, glance)?.0);
        }
        if double_s < GROWTH_MIN * single_s {
            return failed(format!(
                "{double_id} is eight times the work of {id} and takes {} against {}",
                display::seconds(double_s),
                display::seconds(single_s)
            ));
        }
        Ok(format!(
            "eight times the work takes {:.1} times as long",
            double_s / single_s
        ))
    }

    fn ends(&mut self) -> Passed {
        let farewell = Duration::from_secs(FAREWELL_S_MAX);
        let silence = self.silence();
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.another()?,
        };
        match process.ask(&Request::Bye, silence)? {
            Response::Bye => {}
            other => return failed(format!("bye is answered with {}", brief(&other))),
        }
        process.finish(farewell)?;
        // The end of input is a bye as well.
        self.another()?.finish(farewell)?;
        Ok("bye and the end of its input both end it in good order".to_owned())
    }
}

/// A few samples: how long it takes, roughly.
fn glance(session: &Session<'_>) -> Policy {
    Policy::glance(&session.timer, 3, 0.5, session.silence)
}

/// A measurement as for a report, with the runner's clock held against the conductor's.
fn thorough(session: &Session<'_>) -> Policy {
    Policy {
        warm_up_s_max: 0.3,
        sample_count_max: 40,
        ..Policy::thorough(&session.timer, 2.0, session.silence)
    }
}

/// A verdict as the result of a test.
fn judged(verdict: Verdict) -> std::result::Result<(), Not> {
    match verdict {
        Verdict::Right(_) => Ok(()),
        Verdict::Wrong(_, reason) | Verdict::Refused(reason) => Err(Not::Failed(reason)),
    }
}

/// Why the times of a span cannot be.
fn fits(span: &Span, waited_s: f64, by_device: bool) -> std::result::Result<(), String> {
    if !host_fits(span, waited_s) {
        return Err(format!(
            "host_s of a span is {}; the answer came after {waited_s:.3e} s",
            span.host_s
        ));
    }
    match span.device_s {
        None if by_device => {
            Err("timer.clock is device, and a span comes without device_s".to_owned())
        }
        Some(device_s) if !device_fits(span, device_s) => Err(format!(
            "device_s of a span is {device_s}, host_s {}",
            span.host_s
        )),
        _ => Ok(()),
    }
}

/// What kind of response it is, for a complaint.
fn brief(response: &Response) -> String {
    match response {
        Response::Hello { .. } => "hello".to_owned(),
        Response::Variants { variants, .. } => format!("{} variants", variants.len()),
        Response::Built => "built".to_owned(),
        Response::Ready { .. } => "ready".to_owned(),
        Response::Inspected { .. } => "inspected".to_owned(),
        Response::Samples { samples } => format!("{} samples", samples.len()),
        Response::Outputs { .. } => "outputs".to_owned(),
        Response::Error { kind, message } => format!("an error of kind {kind:?} ({message})"),
        Response::Bye => "bye".to_owned(),
    }
}

impl Findings {
    /// One row per test.
    #[must_use]
    pub fn table(&self) -> String {
        let rows: Vec<Vec<String>> = (self.tests.iter())
            .map(|test| {
                let mark = match test.mark {
                    Mark::Passed => "passed",
                    Mark::Failed => "FAILED",
                    Mark::Skipped => "skipped",
                };
                let detail = test.detail.lines().next().unwrap_or_default();
                vec![test.name.to_owned(), mark.to_owned(), detail.to_owned()]
            })
            .collect();
        display::table(&["test", "result", "what was seen"], &rows)
    }

    /// Success, or the error that these findings are.
    ///
    /// # Errors
    /// [`ErrorKind::GateFailed`] with every test that failed.
    pub fn verdict(&self) -> Result<()> {
        let failed: Vec<&str> = (self.tests.iter())
            .filter(|test| test.mark == Mark::Failed)
            .map(|test| test.name)
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::GateFailed,
            format!(
                "{} does not conform: {} of {} tests failed ({}); docs/protocol.md says what is asked",
                self.runner,
                failed.len(),
                self.tests.len(),
                failed.join(", ")
            ),
        ))
    }
}
