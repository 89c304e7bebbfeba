//! `chipmark verify`: every kernel over awkward shapes, or one shape on the user's own tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::catalogue::{Kernel, kernels};
use crate::display;
use crate::error::{Error, ErrorKind, Result};
use crate::input::{Data, Values, keys, word};
use crate::interrupt::interrupted;
use crate::npy;
use crate::op::{Case, Dtype, OpName, Role, Shape};
use crate::protocol::{Request, Response, Variant};
use crate::report::Verification;
use crate::run::{Opened, Reach, open};
use crate::runner::worker::transfer_kernel;
use crate::tune::{End, Session};
use crate::verify::{Verdict, inputs};

/// What is to be verified.
pub struct Audit {
    /// Over which cases.
    pub cases: Vec<Case>,
    /// Kernels by regular expression.
    pub filter: Option<String>,
    /// Who executes.
    pub runner: String,
    /// How to reach it.
    pub reach: Reach,
    /// Seed of the inputs.
    pub seed: u32,
    /// The user's tensors; absent for generated ones.
    pub data: Option<Data>,
    /// Where to write tensors.
    pub dump: Option<PathBuf>,
    /// Every variant and not only the preferred one of each kernel.
    pub all_variants: bool,
}

/// What came of one kernel over all cases.
#[derive(Clone, Debug, Default)]
struct Tally {
    checks: u32,
    variants: std::collections::BTreeSet<Variant>,
    elements: u64,
    exact: u32,
    worst: f64,
    /// Checks whose output is wrong or that could not be made.
    bad: u32,
    refusals: BTreeMap<String, u32>,
}

impl Tally {
    /// Why it did not run, most often.
    fn reason(&self) -> Option<&str> {
        let often = self.refusals.iter().max_by_key(|(_, count)| **count);
        often.map(|(reason, _)| reason.as_str())
    }
}

/// What came of a verification.
#[derive(Debug, Default)]
pub struct Findings {
    kernels: BTreeMap<String, Tally>,
    /// One line for each output that is wrong.
    pub wrong: Vec<String>,
    /// One line for each check that could not be made.
    pub failed: Vec<String>,
    interrupted: bool,
}

/// Shapes that catch what square powers of two hide: ones, primes, thin, wide, just over a tile; in
/// each of these dtypes that the op has.
///
/// # Errors
/// Never for the shapes there are.
pub fn awkward_cases(dtypes: &[Dtype]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for &dtype in dtypes {
        let only_libraries = matches!(dtype, Dtype::Tf32 | Dtype::Bf16 | Dtype::F8E4M3);
        let more = only_libraries.then(by_sixteens);
        for (op, shape) in awkward_shapes()
            .into_iter()
            .chain(more.into_iter().flatten())
        {
            // A layout that a dtype does not have is none of its cases.
            if op.op().dtypes().contains(&dtype) && op.op().check(&shape, dtype).is_ok() {
                cases.push(Case::new(op, &shape, dtype)?);
            }
        }
    }
    Ok(cases)
}

/// What libraries and matrix units want: 8-bit floats in rows of k only, and by sixteens; whole tiles
/// of the largest chips.
fn by_sixteens() -> Vec<(OpName, Shape)> {
    [[1, 16, 16], [33, 48, 80], [129, 272, 1040], [256, 512, 384]]
        .map(|[m, n, k]| {
            let sizes = [("m", m), ("n", n), ("k", k), ("trans_b", 1)];
            (OpName::Matmul, Shape::of(&sizes))
        })
        .into()
}

fn awkward_shapes() -> Vec<(OpName, Shape)> {
    let chains = |op: OpName, invocations: u64, steps: u64| {
        let sizes = [("invocations", invocations), ("steps", steps)];
        (op, Shape::of(&sizes))
    };
    let blocks = |blocks: u64, steps: u64| {
        let sizes = [("blocks", blocks), ("steps", steps)];
        (OpName::MatrixFma, Shape::of(&sizes))
    };
    let mut cases = vec![
        (OpName::Empty, Shape::of(&[("n", 1)])),
        chains(OpName::Fma, 1000, 37),
        chains(OpName::Fma, 64, 1),
        // More steps than one handing over of sums in f16.
        chains(OpName::Fma, 65, 1029),
        chains(OpName::Dot4, 1003, 37),
        chains(OpName::Dot4, 1, 1),
        chains(OpName::Dot4, 65, 1029),
        blocks(1, 1),
        blocks(77, 37),
        blocks(130, 1030),
        chains(OpName::WorkgroupRead, 1, 1),
        chains(OpName::WorkgroupRead, 1003, 37),
        chains(OpName::WorkgroupRead, 515, 1029),
        (OpName::Copy, Shape::of(&[("n", 4)])),
        (OpName::Copy, Shape::of(&[("n", 100_004)])),
    ];
    let memory_and_launches: [(OpName, &[(&str, u64)]); 22] = [
        (OpName::Read, &[("n", 4096)]),
        (OpName::Read, &[("n", 3 * 4096)]),
        (OpName::Read, &[("n", 37 * 4096), ("rounds", 3)]),
        (OpName::Write, &[("n", 4)]),
        (OpName::Write, &[("n", 100_004)]),
        (OpName::Triad, &[("n", 4)]),
        (OpName::Triad, &[("n", 100_004)]),
        (OpName::Chase, &[("lines", 1), ("steps", 1)]),
        (OpName::Chase, &[("lines", 3), ("steps", 7)]),
        (OpName::Chase, &[("lines", 64), ("steps", 64)]),
        (OpName::Chase, &[("lines", 192), ("steps", 1021)]),
        (OpName::Chase, &[("lines", 1536), ("steps", 1537)]),
        (OpName::Chase, &[("lines", 4096), ("steps", 10_007)]),
        (OpName::Chain, &[("n", 1)]),
        (OpName::Chain, &[("n", 5)]),
        (OpName::RoundTrip, &[("n", 1)]),
        (OpName::Upload, &[("n", 1)]),
        (OpName::Upload, &[("n", 3)]),
        (OpName::Upload, &[("n", 100_003)]),
        (OpName::Readback, &[("n", 1)]),
        (OpName::Readback, &[("n", 3)]),
        (OpName::Readback, &[("n", 100_003)]),
    ];
    for (op, sizes) in memory_and_launches {
        cases.push((op, Shape::of(sizes)));
    }
    let matmuls = [
        [1, 1, 1],
        [1, 7, 5],
        [7, 1, 3],
        [2, 3, 1],
        [13, 17, 19],
        [31, 33, 32],
        [64, 64, 64],
        [65, 67, 129],
        [128, 128, 128],
        [3, 128, 1000],
        [257, 33, 31],
        [100, 260, 36],
        [1, 1024, 96],
        [129, 516, 1021],
    ];
    for [m, n, k] in matmuls {
        cases.push((OpName::Matmul, Shape::of(&[("m", m), ("n", n), ("k", k)])));
    }
    // Batches and transposed weights: batch, m, n, k, trans_b.
    let stacked = [
        [1, 1, 1, 1, 1],
        [1, 5, 67, 31, 1],
        [1, 33, 130, 129, 1],
        [3, 17, 20, 40, 0],
        [5, 2, 65, 7, 1],
        [1, 1, 67, 512, 1],
        [1, 3, 130, 96, 1],
        [1, 8, 33, 1056, 1],
        [2, 70, 132, 64, 1],
        [1, 129, 260, 160, 1],
        // A few rows, in both layouts.
        [3, 7, 37, 48, 1],
        [2, 5, 132, 517, 0],
        [1, 8, 36, 40, 1],
    ];
    for [batch, m, n, k, trans_b] in stacked {
        let sizes = [
            ("batch", batch),
            ("m", m),
            ("n", n),
            ("k", k),
            ("trans_b", trans_b),
        ];
        cases.push((OpName::Matmul, Shape::of(&sizes)));
    }
    let attentions = [
        // batch, heads, kv_heads, query_len, kv_len, head_dim
        [1, 1, 1, 1, 1, 1],
        [2, 4, 2, 5, 7, 8],
        [1, 6, 3, 33, 65, 64],
        [1, 2, 1, 9, 3, 40],
        [1, 2, 2, 17, 130, 128],
        [1, 1, 1, 70, 70, 256],
        [1, 3, 1, 1, 77, 13],
        [1, 2, 1, 64, 64, 33],
        [2, 8, 2, 31, 100, 96],
        // A few queries, in groups of all sorts.
        [1, 8, 2, 1, 300, 128],
        [2, 9, 3, 3, 517, 64],
        [1, 16, 1, 1, 1000, 40],
        [1, 7, 1, 8, 3, 256],
        [3, 2, 2, 2, 33, 32],
    ];
    for [batch, heads, kv_heads, query_len, kv_len, head_dim] in attentions {
        for causal in [0, 1] {
            let sizes = [
                ("batch", batch),
                ("heads", heads),
                ("kv_heads", kv_heads),
                ("query_len", query_len),
                ("kv_len", kv_len),
                ("head_dim", head_dim),
                ("causal", causal),
            ];
            cases.push((OpName::Attention, Shape::of(&sizes)));
        }
    }
    let pages = [
        // batch, heads, kv_heads, query_len, kv_len, head_dim, page
        [1, 1, 1, 1, 1, 1, 1],
        // Fewer keys than a page has, one more than some pages, and just as many.
        [3, 8, 2, 1, 5, 128, 16],
        [2, 6, 2, 3, 49, 64, 16],
        [1, 4, 4, 2, 96, 32, 32],
        [3, 4, 2, 1, 333, 40, 16],
        // Pages of nothing round, of one token, and as long as all keys; many queries.
        [2, 3, 1, 5, 130, 24, 24],
        [2, 4, 2, 9, 35, 13, 7],
        [1, 2, 1, 1, 70, 64, 1],
        [1, 7, 1, 8, 3, 256, 3],
        [3, 4, 2, 37, 100, 96, 8],
        [1, 16, 1, 1, 1100, 128, 64],
        // So many that a team goes from page to page.
        [2, 4, 2, 1, 2100, 64, 16],
    ];
    for [batch, heads, kv_heads, query_len, kv_len, head_dim, page] in pages {
        for causal in [0, 1] {
            let sizes = [
                ("batch", batch),
                ("heads", heads),
                ("kv_heads", kv_heads),
                ("query_len", query_len),
                ("kv_len", kv_len),
                ("head_dim", head_dim),
                ("causal", causal),
                ("page", page),
            ];
            cases.push((OpName::Attention, Shape::of(&sizes)));
        }
    }
    cases
}

/// The most operations of a case drawn at random: slow kernels on slow devices take a moment.
const RANDOM_FLOPS_MAX: u64 = 1 << 25;

/// The largest size that is drawn for a dimension that must be given, and for one that is usually 1.
const RANDOM_SIZE_MAX: u32 = 4096;
const RANDOM_COUNT_MAX: u32 = 16;

/// The largest size that is drawn for a dimension that most cases do not have.
const RANDOM_OPTION_MAX: u32 = 64;

/// The number of the stream that cases are drawn from; tensors have the first few.
const RANDOM_STREAM: u32 = 0x7261_6e64;

/// Words of one stream, one after the other.
struct Draw {
    keys: [u32; 2],
    index: u32,
}

impl Draw {
    /// A number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        self.index = self.index.wrapping_add(1);
        word(self.keys, self.index) % end
    }

    /// A size up to about `max`: each order of magnitude as likely as any other, and of each some
    /// that are anything, primes, multiples of a power of two, and their neighbours.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at least 1, at most max
    fn size(&mut self, max: u32) -> u64 {
        let share = f64::from(self.below(1 << 16)) / f64::from(1 << 16);
        let size = f64::from(max).powf(share) as u64;
        let step = 4u64 << self.below(6);
        match self.below(6) {
            0 => size,
            1 => (size..).find(|&size| is_prime(size)).unwrap_or(size),
            2..=4 => size.next_multiple_of(step),
            _ => size.next_multiple_of(step) + 1 - 2 * u64::from(self.below(2)),
        }
    }
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|factor| factor * factor <= number)
            .all(|factor| !number.is_multiple_of(factor))
}

/// So many cases of each of these ops that is no probe, drawn from the seed: sizes, flags and dtypes
/// of all kinds that the op allows, none with more than a moment's work.
///
/// # Errors
/// When none of the ops has any of the dtypes, or none of their shapes is small enough.
pub fn random_cases(ops: &[OpName], dtypes: &[Dtype], count: u32, seed: u32) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut draw = Draw {
        keys: keys(seed, RANDOM_STREAM),
        index: 0,
    };
    for &op in ops.iter().filter(|op| !op.is_probe()) {
        let dtypes: Vec<Dtype> = op
            .op()
            .dtypes()
            .iter()
            .copied()
            .filter(|dtype| dtypes.contains(dtype))
            .collect();
        let Ok(dtype_count @ 1..) = u32::try_from(dtypes.len()) else {
            continue;
        };
        for _ in 0..count {
            let dtype = dtypes[draw.below(dtype_count) as usize];
            // What the op refuses or what is too much work is drawn again: one in a hundred is good
            // in the strictest of dtypes.
            let case = (0..100_000)
                .find_map(|_| random_case(op, dtype, &mut draw))
                .ok_or_else(|| Error::internal(format!("no small case of {op} was drawn")))?;
            cases.push(case);
        }
    }
    if cases.is_empty() {
        return Err(Error::usage(
            "--random draws cases of matmul and attention: no such op has this dtype",
        ));
    }
    Ok(cases)
}

/// A case of these, if what was drawn is one and small.
fn random_case(op: OpName, dtype: Dtype, draw: &mut Draw) -> Option<Case> {
    let mut shape = Shape::default();
    for dim in op.op().dims() {
        let size = match dim.default {
            Some(_) if dim.flag => u64::from(draw.below(2)),
            // One case in four has it.
            Some(none) if dim.is_optional() && draw.below(4) > 0 => none,
            Some(_) if dim.is_optional() => draw.size(RANDOM_OPTION_MAX),
            Some(usual) if draw.below(2) == 0 => usual,
            Some(_) => draw.size(RANDOM_COUNT_MAX),
            None => draw.size(RANDOM_SIZE_MAX),
        };
        shape = shape.with(dim.name, size);
    }
    let case = Case::new(op, &shape, dtype).ok()?;
    (case.flop_count() <= RANDOM_FLOPS_MAX && case.tensor_bytes() <= RANDOM_FLOPS_MAX)
        .then_some(case)
}

/// Verifies and tells `say` what happens on the way.
///
/// # Errors
/// When the runner cannot be opened, a file of the user's is bad, or a dump cannot be written. Wrong
/// results are no error here: [`Findings::verdict`] makes one of them.
pub fn audit(request: &Audit, say: &mut dyn FnMut(&str)) -> Result<Findings> {
    let filter = kernel_filter(request.filter.as_deref())?;
    let mut opened = open(&request.runner, &request.reach)?;
    let device = &opened.record.device;
    say(&format!(
        "runner {}: {} ({}), seed {}",
        request.runner, device.name, device.backend, request.seed
    ));
    let mut findings = Findings::default();
    let mut one_by_one = false;
    for case in worth_asking(request, filter.as_ref()) {
        if interrupted() {
            findings.interrupted = true;
            break;
        }
        let exact = case.exact();
        let regimes = match &request.data {
            Some(data) => vec![data.clone()],
            None if exact => vec![Data::Uniform, Data::Integer],
            None => vec![Data::Uniform],
        };
        for data in regimes {
            let mut one = One {
                request,
                case,
                data: &data,
                filter: filter.as_ref(),
                findings: &mut findings,
                one_by_one,
            };
            let mut result = one.run(&mut opened)?;
            // It died while it built several: one by one they tell of which.
            if one.one_by_one && !one_by_one {
                one_by_one = true;
                opened = open(&request.runner, &request.reach)?;
                result = one.run(&mut opened)?;
            }
            if let Err(End::Fault(fault)) = result {
                findings.failed.push(format!(
                    "{}: {}{}",
                    case.id(),
                    fault.message,
                    again(request, case, None)
                ));
                opened = open(&request.runner, &request.reach)?;
            }
        }
    }
    if findings.kernels.values().all(|tally| tally.checks == 0)
        && findings.wrong.is_empty()
        && findings.failed.is_empty()
        && !findings.interrupted
    {
        // Why a kernel cannot run says more than why an op has not every element type.
        let (ops, kernels): (Vec<_>, Vec<_>) =
            (findings.kernels.iter()).partition(|(name, _)| name.starts_with('('));
        let why = kernels
            .into_iter()
            .chain(ops)
            .find_map(|(name, tally)| Some((name, tally.reason()?)));
        return Err(Error::usage(match why {
            Some((name, reason)) => format!("nothing was verified: {name}: {reason}"),
            None => "nothing was verified: no kernel matches; `--filter` takes kernel names such as matmul/naive".to_owned(),
        }));
    }
    Ok(findings)
}

/// What a `--filter` of kernels means.
///
/// # Errors
/// Where it is no regular expression.
pub(crate) fn kernel_filter(pattern: Option<&str>) -> Result<Option<Regex>> {
    let compiled = pattern.map(|pattern| {
        Regex::new(pattern)
            .map_err(|_| Error::usage(format!("--filter {pattern}: it is no regular expression")))
    });
    compiled.transpose()
}

/// The cases for which some kernel passes the filter. What our own runner has for a case is known
/// without asking, and to answer it reads all variants of all kernels of the op; others are asked. Where
/// there is none at all, all cases are left, for the reasons that the answers hold.
fn worth_asking<'a>(request: &'a Audit, filter: Option<&Regex>) -> Vec<&'a Case> {
    let all: Vec<&Case> = request.cases.iter().collect();
    let (Some(filter), "wgpu") = (filter, request.runner.as_str()) else {
        return all;
    };
    let mut kernels = kernels();
    kernels.retain(|kernel| filter.is_match(&kernel.name));
    let has_one = |case: &Case| {
        let of_it = |kernel: &Kernel| kernel.op == case.op && kernel.dtypes.contains(&case.dtype);
        let transfer = transfer_kernel(case.op).is_some_and(|name| filter.is_match(name));
        transfer || kernels.iter().any(of_it)
    };
    let some: Vec<&Case> = all.iter().copied().filter(|case| has_one(case)).collect();
    if some.is_empty() { all } else { some }
}

/// How to see the same once more: a line of its own below what went wrong. What the user's own files
/// have brought about, the user knows how to repeat.
fn again(request: &Audit, case: &Case, kernel: Option<&str>) -> String {
    if request.data.is_some() {
        return String::new();
    }
    let sizes: Vec<String> = (case.shape.0.iter())
        .map(|(name, size)| format!("{name}={size}"))
        .collect();
    let mut line = format!(
        "\n    again: chipmark verify --op {} --dtype {} --shape {} --seed {}",
        case.op,
        case.dtype,
        sizes.join(","),
        request.seed
    );
    if let Some(kernel) = kernel {
        line += &format!(" --filter '^{kernel}$'");
    }
    let Reach {
        device, backend, ..
    } = &request.reach;
    let runner = (request.runner != "wgpu").then_some(&request.runner);
    for (flag, value) in [
        ("--runner", runner),
        ("--device", device.as_ref()),
        ("--backend", backend.as_ref()),
    ] {
        if let Some(value) = value {
            line += &format!(" {flag} '{value}'");
        }
    }
    for (flag, set) in [
        ("--checks", request.reach.checks),
        ("--all-variants", request.all_variants),
    ] {
        if set {
            line += " ";
            line += flag;
        }
    }
    line
}

/// One case in one data regime.
struct One<'a> {
    request: &'a Audit,
    case: &'a Case,
    data: &'a Data,
    filter: Option<&'a Regex>,
    findings: &'a mut Findings,
    /// Whether the runner has died while it built several variants at once.
    one_by_one: bool,
}

impl One<'_> {
    fn run(&mut self, opened: &mut Opened) -> Result<std::result::Result<(), End>> {
        let inputs = inputs(self.case, self.request.seed, self.data)?;
        let mut session = Session::new(
            &mut *opened.conversation,
            opened.record.timer.clone(),
            self.request.reach.silence,
            &interrupted,
        );
        session.one_by_one = self.one_by_one;
        let filter = self.filter;
        let wanted = |kernel: &str| filter.is_none_or(|filter| filter.is_match(kernel));
        let (variants, refused) = match session.case(self.case, self.request.seed, self.data) {
            Ok(found) => found,
            Err(End::Fault(fault)) => return Ok(Err(End::Fault(fault))),
            Err(End::Failed(reason) | End::Wrong(reason) | End::Implausible(reason)) => {
                self.findings
                    .failed
                    .push(format!("{}: {reason}", self.case.id()));
                return Ok(Ok(()));
            }
            Err(End::Skipped(reason)) => {
                let name = format!("({})", self.case.op);
                *self
                    .findings
                    .kernels
                    .entry(name)
                    .or_default()
                    .refusals
                    .entry(reason)
                    .or_default() += 1;
                return Ok(Ok(()));
            }
            Err(End::Interrupted) => return Ok(Ok(())),
        };
        let mut seen: Vec<&str> = Vec::new();
        let mut chosen: Vec<Variant> = Vec::new();
        for variant in variants.iter().filter(|variant| wanted(&variant.kernel)) {
            if self.request.all_variants || !seen.contains(&variant.kernel.as_str()) {
                seen.push(&variant.kernel);
                chosen.push(variant.clone());
            }
        }
        for (place, variant) in chosen.iter().enumerate() {
            let count = session.build_count();
            if place % count == 0 {
                let next = &chosen[place..chosen.len().min(place + count)];
                if let Err(fault) = session.build_ahead(next) {
                    self.one_by_one = true;
                    return Ok(Err(End::Fault(fault)));
                }
            }
            if let Err(fault) = self.variant(&mut session, variant, &inputs)? {
                self.bad(variant);
                let reason = format!("{} (on {variant})", fault.message);
                return Ok(Err(End::Fault(crate::runner::Fault::new(reason))));
            }
        }
        for refusal in refused
            .iter()
            .filter(|refusal| wanted(&refusal.variant.kernel))
        {
            let kernel = &refusal.variant.kernel;
            if !seen.contains(&kernel.as_str()) {
                let tally = self.findings.kernels.entry(kernel.clone()).or_default();
                *tally.refusals.entry(refusal.reason.clone()).or_default() += 1;
            }
        }
        Ok(Ok(()))
    }

    fn variant(
        &mut self,
        session: &mut Session<'_>,
        variant: &Variant,
        inputs: &[Values],
    ) -> Result<std::result::Result<(), crate::runner::Fault>> {
        let place = format!("{} {variant} on {} data", self.case.id(), self.data.label());
        let again = || again(self.request, self.case, Some(&variant.kernel));
        match session.prepare(variant) {
            Err(fault) => return Ok(Err(fault)),
            Ok(Err(reason)) => {
                let line = format!("{place}: {reason}{}", again());
                self.findings.failed.push(line);
                self.bad(variant);
                return Ok(Ok(()));
            }
            Ok(Ok(_)) => {}
        }
        match session.verify(self.case, inputs, self.data) {
            Err(fault) => return Ok(Err(fault)),
            Ok(Verdict::Right(evidence)) => self.tally(variant, &evidence),
            Ok(Verdict::Wrong(evidence, reason)) => {
                self.tally(variant, &evidence);
                let line = format!("{place}: {reason}{}", again());
                self.findings.wrong.push(line);
                self.bad(variant);
            }
            Ok(Verdict::Refused(reason)) => {
                let line = format!("{place}: {reason}{}", again());
                self.findings.failed.push(line);
                self.bad(variant);
            }
        }
        if let Some(folder) = &self.request.dump
            && *self.data != Data::Integer
        {
            return self.dump(session, variant, inputs, folder);
        }
        Ok(Ok(()))
    }

    fn tally_of(&mut self, variant: &Variant) -> &mut Tally {
        let tallies = &mut self.findings.kernels;
        tallies.entry(variant.kernel.clone()).or_default()
    }

    fn bad(&mut self, variant: &Variant) {
        self.tally_of(variant).bad += 1;
    }

    fn tally(&mut self, variant: &Variant, evidence: &Verification) {
        let tally = self.tally_of(variant);
        tally.checks += 1;
        tally.variants.insert(variant.clone());
        tally.elements += evidence.positions_checked;
        tally.exact += u32::from(evidence.exact);
        tally.worst = tally.worst.max(evidence.error_to_tolerance_max);
    }

    /// Writes inputs and output of one case and kernel to a folder of their own.
    fn dump(
        &self,
        session: &mut Session<'_>,
        variant: &Variant,
        inputs: &[Values],
        folder: &Path,
    ) -> Result<std::result::Result<(), crate::runner::Fault>> {
        let flat = |text: &str| text.replace(['/', ' ', '=', ','], "_");
        let name = if self.request.all_variants {
            flat(&variant.to_string())
        } else {
            flat(&variant.kernel)
        };
        let folder = folder.join(flat(&self.case.id())).join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|error| Error::usage(format!("--dump {}: {error}", folder.display())))?;
        let request = Request::Outputs {
            positions: Vec::new(),
            projection_seed: None,
            all: true,
            set_index: 0,
        };
        let values = match session.runner.ask(&request, session.silence) {
            Ok(Response::Outputs { values, .. }) => values,
            Ok(_) => {
                return Err(Error::internal(
                    "the runner did not give its output for --dump",
                ));
            }
            Err(fault) => return Ok(Err(fault)),
        };
        for (index, tensor) in self.case.tensors().iter().enumerate() {
            let path = folder.join(format!("{}.npy", tensor.name));
            #[allow(clippy::cast_possible_truncation)] // they were f32 before the pipe
            match tensor.role {
                Role::Input => npy::write(
                    &path,
                    &tensor.dims,
                    (0..tensor.len()).map(|i| inputs[index].get(i)),
                )?,
                Role::Output => npy::write(&path, &tensor.dims, values.iter().map(|&v| v as f32))?,
            }
        }
        Ok(Ok(()))
    }
}

impl Findings {
    /// How many kernels were verified, and by how many checks.
    #[must_use]
    pub fn counts(&self) -> (usize, u32) {
        let verified = self.kernels.values().filter(|tally| tally.checks > 0);
        (
            verified.clone().count(),
            verified.map(|tally| tally.checks).sum(),
        )
    }

    /// One row per kernel.
    #[must_use]
    pub fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .kernels
            .iter()
            .map(|(kernel, tally)| {
                let verdict = match (tally.bad, tally.checks) {
                    (0, 0) => format!("skipped: {}", tally.reason().unwrap_or_default()),
                    (0, _) => "right".to_owned(),
                    (bad, _) => format!("WRONG or failed {bad} times"),
                };
                vec![
                    kernel.clone(),
                    tally.variants.len().to_string(),
                    tally.checks.to_string(),
                    tally.exact.to_string(),
                    tally.elements.to_string(),
                    if tally.checks == 0 {
                        "-".to_owned()
                    } else {
                        format!("{:.2}", tally.worst)
                    },
                    verdict,
                ]
            })
            .collect();
        let headings = [
            "kernel",
            "variants",
            "checks",
            "bit-exact",
            "elements",
            "error/tolerance",
            "verdict",
        ];
        display::table(&headings, &rows)
    }

    /// Success, or the error that these findings are.
    ///
    /// # Errors
    /// [`ErrorKind::WrongResults`] with every wrong output on a line of its own;
    /// [`ErrorKind::Partial`] where something could not be checked.
    pub fn verdict(&self) -> Result<()> {
        let list = |lines: &[String]| {
            lines
                .iter()
                .map(|line| format!("\n  {line}"))
                .collect::<String>()
        };
        if !self.wrong.is_empty() {
            return Err(Error::new(
                ErrorKind::WrongResults,
                format!(
                    "{} outputs are wrong:{}{}",
                    self.wrong.len(),
                    list(&self.wrong),
                    list(&self.failed)
                ),
            ));
        }
        if !self.failed.is_empty() {
            return Err(Error::new(
                ErrorKind::Partial,
                format!(
                    "{} checks could not be made:{}",
                    self.failed.len(),
                    list(&self.failed)
                ),
            ));
        }
        if self.interrupted {
            return Err(Error::new(
                ErrorKind::Partial,
                "the verification was interrupted",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_cases_are_small_and_of_every_kind() {
        let cases = random_cases(&OpName::ALL, &Dtype::ALL, 400, 7).unwrap();
        assert_eq!(cases.len(), 800, "matmul and attention");
        assert!(cases.iter().all(|c| c.flop_count() <= RANDOM_FLOPS_MAX));
        let any = |what: &str, is: &dyn Fn(&Case) -> bool| assert!(cases.iter().any(is), "{what}");
        for op in [OpName::Matmul, OpName::Attention] {
            for &dtype in op.op().dtypes() {
                any("dtype", &|c| c.op == op && c.dtype == dtype);
            }
            for dim in op.op().dims().iter().filter(|dim| dim.flag) {
                for value in [0, 1] {
                    any(dim.name, &|c| c.op == op && c.shape.get(dim.name) == value);
                }
            }
            any("batch", &|c| c.op == op && c.shape.get("batch") > 1);
        }
        let k = |c: &Case| c.shape.get("k");
        any("one", &|c| k(c) == 1);
        any("large prime", &|c| k(c) > 500 && is_prime(k(c)));
        any("multiple", &|c| k(c) > 500 && k(c).is_multiple_of(64));
        any("neighbour of one", &|c| {
            k(c) > 500 && k(c) % 64 == 1 && !is_prime(k(c))
        });
        let page = |c: &Case| c.shape.get("page");
        any("no pages", &|c| c.op == OpName::Attention && page(c) == 0);
        any("pages for decode", &|c| {
            page(c) > 0 && page(c) % 8 == 0 && c.shape.get("query_len") <= 8
        });
        any("a page that is not full", &|c| {
            page(c) > 1 && c.shape.get("kv_len") % page(c) != 0
        });
        any("grouped heads", &|c| {
            c.shape.get("heads") > c.shape.get("kv_heads") && c.shape.get("kv_heads") > 1
        });
    }

    #[test]
    fn a_kernel_is_not_blamed_for_another_whose_name_begins_with_its_own() {
        let tally = |bad| Tally {
            checks: 2,
            bad,
            ..Tally::default()
        };
        let findings = Findings {
            kernels: [("matmul/naive", 0), ("matmul/naive_i8", 2)]
                .map(|(kernel, bad)| (kernel.to_owned(), tally(bad)))
                .into(),
            failed: vec!["m1_n1_k1/i8 matmul/naive_i8 on uniform data: no".to_owned(); 2],
            ..Findings::default()
        };
        let table = findings.table();
        let row = |kernel: &str| {
            let mut lines = table.lines();
            lines.find(|line| line.split_whitespace().next() == Some(kernel))
        };
        assert!(row("matmul/naive").is_some_and(|row| row.contains("right")));
        assert!(row("matmul/naive_i8").is_some_and(|row| row.contains("failed 2 times")));
    }

    #[test]
    fn a_seed_always_draws_the_same_cases_and_another_seed_others() {
        let draw = |seed| random_cases(&[OpName::Matmul], &[Dtype::I8], 20, seed).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).iter().all(|c| c.dtype == Dtype::I8));
    }

    #[test]
    fn our_own_runner_is_asked_only_what_a_kernel_that_is_meant_can_do() {
        let asked = |runner: &str, pattern: &str| {
            let request = Audit {
                cases: awkward_cases(&Dtype::ALL).unwrap(),
                filter: None,
                runner: runner.to_owned(),
                reach: Reach {
                    device: None,
                    backend: None,
                    checks: false,
                    in_process: false,
                    silence: std::time::Duration::ZERO,
                },
                seed: 1,
                data: None,
                dump: None,
                all_variants: false,
            };
            let filter = Regex::new(pattern).unwrap();
            let cases = worth_asking(&request, Some(&filter));
            let all = cases.len() == request.cases.len();
            let mut kinds: Vec<_> = cases.iter().map(|c| (c.op, c.dtype)).collect();
            kinds.dedup();
            (all, kinds)
        };
        let (_, kinds) = asked("wgpu", "^matmul/gemv_w4$");
        let of_four_bits = [Dtype::W4A16, Dtype::W4A32].map(|dtype| (OpName::Matmul, dtype));
        assert_eq!(kinds, of_four_bits);
        let (_, kinds) = asked("wgpu", "^transfer/");
        let ops: Vec<OpName> = kinds.into_iter().map(|(op, _)| op).collect();
        for op in [OpName::Upload, OpName::Readback, OpName::RoundTrip] {
            assert!(ops.contains(&op), "{op} of {ops:?}");
        }
        assert!(!ops.contains(&OpName::Copy));
        assert!(asked("wgpu", "no such kernel").0, "for the reasons");
        assert!(asked("another", "^matmul/gemv_w4$").0, "it knows");
    }

    #[test]
    fn only_ops_that_are_measured_for_themselves_are_drawn() {
        assert!(random_cases(&[OpName::Copy], &Dtype::ALL, 3, 1).is_err());
        assert!(random_cases(&OpName::ALL, &[Dtype::I32], 3, 1).is_err());
    }
}
