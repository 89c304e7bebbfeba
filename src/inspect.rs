//! `chipmark inspect`: what a driver's compiler makes of the kernels. None of them is launched, so a driver
//! that only compiles will do.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::audit;
use crate::display;
use crate::driver_statistics::spilled;
use crate::error::{Error, ErrorKind, Result};
use crate::input::Data;
use crate::interrupt::interrupted;
use crate::op::{Case, Dtype};
use crate::protocol::{Device, Executable, Variant};
use crate::run::{Opened, Reach, open};
use crate::runner::worker::transfer_kernel;
use crate::tune::{End, Session};

/// What is asked.
pub struct Request {
    /// Only kernels whose name matches.
    pub filter: Option<String>,
    /// Of these element types.
    pub dtypes: Vec<Dtype>,
    /// Every variant instead of the preferred ones.
    pub all_variants: bool,
    /// Whose kernels.
    pub runner: String,
    /// How to reach the device.
    pub reach: Reach,
}

/// A variant in one element type. What it is compiled to depends on nothing else.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Kernel and tunables.
    #[serde(flatten)]
    pub variant: Variant,
    /// The element type.
    pub dtype: Dtype,
    /// Registers of 32 bits that its arrays, vectors and matrices need, read off the module.
    pub register_count: Option<u32>,
    /// What the driver says of each entry point.
    pub executables: Vec<Executable>,
    /// Why it says nothing.
    pub reason: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Whose compiler it was.
    pub device: Device,
    /// In the order in which cases offered them.
    pub programs: Vec<Program>,
    /// Kernels of which nothing can run there, with the first reason.
    pub refused: BTreeMap<String, String>,
    /// Why it ended before it had asked for all, if it did.
    pub cut_short: Option<String>,
}

/// Names under which drivers state one and the same thing.
const REGISTERS: [&str; 6] = [
    "VGPRs",
    "Number of GPRs",
    "GPRs",
    "Register Count",
    "Registers used",
    "GRF registers",
];
const OCCUPANCY: [&str; 4] = [
    "Subgroups per SIMD",
    "Max warps/SM",
    "Threads",
    "Max Waves Per Core",
];
const INSTRUCTIONS: [&str; 3] = ["Instructions", "Instruction count", "Instruction Count"];

/// Asks the driver of the request's device about every kernel that is meant.
///
/// # Errors
/// A usage error where the filter is no regular expression or meets no kernel; otherwise as [`open`].
pub fn inspect(request: &Request, say: &mut dyn FnMut(&str)) -> Result<Findings> {
    let filter = audit::kernel_filter(request.filter.as_deref())?;
    let meant = |kernel: &str| filter.as_ref().is_none_or(|filter| filter.is_match(kernel));
    let mut opened = open(&request.runner, &request.reach)?;
    let mut findings = Findings {
        device: opened.record.device.clone(),
        programs: Vec::new(),
        refused: BTreeMap::new(),
        cut_short: None,
    };
    say(&format!(
        "{} ({}), {}",
        findings.device.name, findings.device.backend, findings.device.driver
    ));
    let mut seen = BTreeSet::new();
    'cases: for case in audit::awkward_cases(&request.dtypes)? {
        if interrupted() {
            findings.cut_short = Some("interrupted".to_owned());
            break;
        }
        let mut one = One {
            request,
            meant: &meant,
            case: &case,
            seen: &mut seen,
            findings: &mut findings,
        };
        loop {
            let known = one.seen.len();
            let Err(end) = one.run(&mut opened) else {
                break;
            };
            let reason = end.reason().to_owned();
            let died = matches!(end, End::Fault(_));
            if died {
                say(&format!("{}: {reason}", case.id()));
                match open(&request.runner, &request.reach) {
                    Ok(again) => opened = again,
                    // What was found is worth showing.
                    Err(error) => {
                        let reason = format!("after {reason}: {}", error.message);
                        findings.cut_short = Some(reason);
                        break 'cases;
                    }
                }
            }
            // The program that it died of has been seen: the rest of the case is done without it.
            if !died || one.seen.len() == known {
                let name = format!("({} in {})", case.op, case.dtype);
                one.findings.refused.entry(name).or_insert(reason);
                break;
            }
        }
    }
    let found: BTreeSet<&String> = findings
        .programs
        .iter()
        .map(|p| &p.variant.kernel)
        .collect();
    // That an op has not every element type is worth a line only where there is nothing else.
    let shown =
        |name: &String| !found.contains(name) && (found.is_empty() || !name.starts_with('('));
    findings.refused.retain(|name, _| shown(name));
    if findings.programs.is_empty() && findings.cut_short.is_none() {
        // Why a kernel cannot run says more than why an op has not every element type.
        let (ops, kernels): (Vec<_>, Vec<_>) =
            (findings.refused.iter()).partition(|(name, _)| name.starts_with('('));
        let known = crate::catalogue::kernels();
        let any = known.iter().any(|kernel| meant(&kernel.name));
        let why = kernels.first().or(ops.first().filter(|_| any));
        return Err(Error::usage(match why {
            Some((name, reason)) => format!("nothing was compiled: {name}: {reason}"),
            None => "nothing was compiled: no kernel matches; `--filter` takes kernel names such as matmul/naive".to_owned(),
        }));
    }
    Ok(findings)
}

/// One case: all that it has and no case before it had.
struct One<'a> {
    request: &'a Request,
    meant: &'a dyn Fn(&str) -> bool,
    case: &'a Case,
    seen: &'a mut BTreeSet<(Variant, Dtype)>,
    findings: &'a mut Findings,
}

impl One<'_> {
    fn run(&mut self, opened: &mut Opened) -> std::result::Result<(), End> {
        let mut session = Session::new(
            &mut *opened.conversation,
            opened.record.timer.clone(),
            self.request.reach.silence,
            &interrupted,
        );
        let (variants, refused) = session.case(self.case, 1, &Data::Zero)?;
        for refusal in refused {
            if (self.meant)(&refusal.variant.kernel) {
                let kernel = refusal.variant.kernel;
                self.findings
                    .refused
                    .entry(kernel)
                    .or_insert(refusal.reason);
            }
        }
        let mut kernels = BTreeSet::new();
        // What the driver does by itself is no program: it has no shader.
        let without = transfer_kernel(self.case.op);
        let compiled = variants
            .into_iter()
            .filter(|variant| Some(variant.kernel.as_str()) != without);
        for variant in compiled {
            let first = kernels.insert(variant.kernel.clone());
            if !(self.meant)(&variant.kernel)
                || !(first || self.request.all_variants)
                || !self.seen.insert((variant.clone(), self.case.dtype))
            {
                continue;
            }
            let mut program = Program {
                variant,
                dtype: self.case.dtype,
                register_count: None,
                executables: Vec::new(),
                reason: None,
            };
            let answer = session.inspect(&program.variant);
            let fault = match answer {
                Ok(Ok(found)) => {
                    let counts = found.passes.iter().map(|pass| pass.register_count);
                    program.register_count = counts.max();
                    program.reason = found.driver_statistics_reason;
                    program.executables = found.driver_statistics.unwrap_or_default();
                    None
                }
                Ok(Err(reason)) => {
                    program.reason = Some(reason);
                    None
                }
                Err(fault) => {
                    program.reason = Some(fault.message.clone());
                    Some(fault)
                }
            };
            self.findings.programs.push(program);
            if let Some(fault) = fault {
                return Err(fault.into());
            }
        }
        Ok(())
    }
}

/// The first of these statistics that a driver has.
fn figure(executable: &Executable, names: &[&str]) -> Option<f64> {
    let known = names
        .iter()
        .find_map(|name| executable.statistics.get(*name));
    known.copied()
}

impl Program {
    /// The entry point with the most instructions, which is where the work is.
    fn main(&self) -> Option<&Executable> {
        let size = |executable: &&Executable| figure(executable, &INSTRUCTIONS).unwrap_or(0.0);
        (self.executables.iter()).max_by(|a, b| size(a).total_cmp(&size(b)))
    }

    fn row(&self) -> Vec<String> {
        let main = self.main();
        let text = |names: &[&str]| {
            main.and_then(|main| figure(main, names))
                .map_or_else(|| "-".to_owned(), display::digits)
        };
        let spills: Vec<String> = spilled(&self.executables)
            .into_iter()
            .map(|(name, value)| format!("{name} {}", display::digits(value)))
            .collect();
        let name = self.variant.to_string();
        let (kernel, tunables) = name.split_once(' ').unwrap_or((&name, "-"));
        vec![
            kernel.to_owned(),
            self.dtype.to_string(),
            tunables.to_owned(),
            main.map_or_else(|| "-".to_owned(), |main| main.subgroup_size.to_string()),
            self.register_count
                .map_or_else(|| "-".to_owned(), |count| count.to_string()),
            text(&REGISTERS),
            text(&OCCUPANCY),
            text(&INSTRUCTIONS),
            match (&self.reason, spills.is_empty()) {
                (Some(reason), _) => format!("none: {reason}"),
                (None, true) => "-".to_owned(),
                (None, false) => spills.join(", "),
            },
        ]
    }
}

impl Findings {
    /// One row per program.
    #[must_use]
    pub fn table(&self) -> String {
        let first = |names: &'static [&'static str], otherwise: &'static str| {
            (self
                .programs
                .iter()
                .flat_map(|program| &program.executables))
            .flat_map(|one| {
                names
                    .iter()
                    .find(|name| one.statistics.contains_key(**name))
            })
            .next()
            .map_or(otherwise, |name| *name)
        };
        let headings = [
            "kernel",
            "dtype",
            "variant",
            "subgroup",
            "registers told",
            first(&REGISTERS, "registers"),
            first(&OCCUPANCY, "occupancy"),
            first(&INSTRUCTIONS, "instructions"),
            "spilled",
        ];
        let rows: Vec<Vec<String>> = self.programs.iter().map(Program::row).collect();
        let mut text = display::table(&headings, &rows);
        for (kernel, reason) in &self.refused {
            text.push_str(&format!("\nskipped {kernel}: {reason}"));
        }
        text
    }

    /// Success, or that some programs have no statistics.
    ///
    /// # Errors
    /// [`ErrorKind::Partial`] where the driver said nothing of a program, or it ended before it had asked for all.
    pub fn verdict(&self) -> Result<()> {
        if let Some(reason) = &self.cut_short {
            return Err(Error::new(ErrorKind::Partial, reason.clone()));
        }
        let without: Vec<&Program> = (self.programs.iter())
            .filter(|program| program.reason.is_some())
            .collect();
        let Some(first) = without.first() else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Partial,
            format!(
                "the driver says nothing of {} of {} programs: {} in {}: {}",
                without.len(),
                self.programs.len(),
                first.variant,
                first.dtype,
                first.reason.as_deref().unwrap_or_default()
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(entry_point: &str, statistics: &[(&str, f64)]) -> Executable {
        Executable {
            entry_point: entry_point.to_owned(),
            subgroup_size: 32,
            statistics: (statistics.iter())
                .map(|&(name, value)| (name.to_owned(), value))
                .collect(),
            ..Executable::default()
        }
    }

    fn program(kernel: &str, executables: Vec<Executable>, reason: Option<&str>) -> Program {
        Program {
            variant: Variant {
                kernel: kernel.to_owned(),
                variant: [("ROWS".to_owned(), 8)].into(),
            },
            dtype: Dtype::F32,
            register_count: Some(88),
            executables,
            reason: reason.map(str::to_owned),
        }
    }

    fn findings(programs: Vec<Program>) -> Findings {
        Findings {
            device: Device::default(),
            programs,
            refused: [("matmul/other".to_owned(), "it needs more".to_owned())].into(),
            cut_short: None,
        }
    }

    #[test]
    fn a_row_is_of_the_longest_entry_point_under_the_drivers_own_names() {
        let amd = [
            executable("pack", &[("VGPRs", 12.0), ("Instructions", 40.0)]),
            executable(
                "multiply",
                &[
                    ("VGPRs", 120.0),
                    ("Subgroups per SIMD", 12.0),
                    ("Instructions", 1595.0),
                    ("Spilled SGPRs", 36.0),
                    ("Spilled VGPRs", 0.0),
                ],
            ),
        ];
        let found = findings(vec![program("matmul/one", amd.to_vec(), None)]);
        let table = found.table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("VGPRs") && lines[0].contains("Subgroups per SIMD"));
        let row: Vec<&str> = lines[2].split_whitespace().collect();
        // Scalar registers spill to others and cost little.
        let expected = [
            "matmul/one",
            "f32",
            "ROWS=8",
            "32",
            "88",
            "120",
            "12",
            "1595",
            "-",
        ];
        assert_eq!(row, expected, "{table}");
        assert!(table.contains("skipped matmul/other: it needs more"));
        found.verdict().unwrap();
    }

    #[test]
    fn what_spills_and_what_the_driver_is_silent_of_is_said() {
        let nvidia = executable(
            "main",
            &[
                ("Number of GPRs", 255.0),
                ("Instruction count", 9000.0),
                ("Spills to memory", 20.0),
                ("Spills to reg", 24.0),
            ],
        );
        let silent = program("matmul/two", Vec::new(), Some("no extension"));
        let found = findings(vec![program("matmul/one", vec![nvidia], None), silent]);
        let table = found.table();
        assert!(table.contains("Spills to memory 20"), "{table}");
        assert!(!table.contains("Spills to reg"), "{table}");
        assert!(table.contains("none: no extension"), "{table}");
        let error = found.verdict().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Partial);
        assert!(
            error.message.contains("1 of 2 programs"),
            "{}",
            error.message
        );
    }
}
