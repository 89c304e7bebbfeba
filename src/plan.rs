//! Which cases are run: a suite, filtered, and what is left out because it cannot fit or end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use regex::Regex;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use crate::error::{Error, Result, one_line};
use crate::files;
use crate::normalise::{Work, bounds, roofline};
use crate::op::{Case, Dtype, OpName, Shape};
use crate::protocol::Device;
use crate::report::{Ceiling, TOO_SLOW};
use crate::shader::sha256;

/// The suites that come with the program.
const SUITES: [(&str, &str); 7] = [
    ("quick", include_str!("../suites/quick.toml")),
    ("standard", include_str!("../suites/standard.toml")),
    ("first", include_str!("../suites/first.toml")),
    ("llm", include_str!("../suites/llm.toml")),
    ("peers", include_str!("../suites/peers.toml")),
    ("tune", include_str!("../suites/tune.toml")),
    ("energy", include_str!("../suites/energy.toml")),
];

/// Kernels are expected to reach at least this fraction of the roofline when a case's time is
/// estimated; on a chip where they do not, some more cases are skipped than need be.
const EXPECTED_FRACTION_MIN: f64 = 0.05;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SuiteFile {
    name: String,
    #[allow(dead_code)] // for people who read the file
    description: String,
    case_budget_s: f64,
    call_s_max: f64,
    #[serde(default)]
    budget_s: Option<f64>,
    #[serde(default)]
    regimes: Vec<RegimeName>,
    #[serde(default)]
    energy_window_s: f64,
    cases: Vec<CaseSpec>,
}

/// Conditions that the chosen variant is timed under beside the headline's, which are hot caches and
/// uniform data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegimeName {
    /// Buffers taken by turns, so that each call finds its own evicted from the caches.
    Cold,
    /// Inputs of zeros, which need less power: what is faster on them is limited by power.
    Zero,
}

impl RegimeName {
    /// Its name in suites and reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Zero => "zero",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseSpec {
    op: OpName,
    dtype: Dtypes,
    shape: BTreeMap<String, Sizes>,
}

/// One dtype, or several, each of which all the shapes are run in.
struct Dtypes(Vec<Dtype>);

impl<'de> Deserialize<'de> for Dtypes {
    /// By hand, because of an enum without tags serde can only say that nothing matched.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Dtypes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a dtype or a list of dtypes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Dtypes, E> {
                let dtype = text
                    .parse()
                    .map_err(|error: Error| E::custom(error.message))?;
                Ok(Dtypes(vec![dtype]))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Dtypes, A::Error> {
                let mut dtypes = Vec::new();
                while let Some(dtype) = list.next_element()? {
                    dtypes.push(dtype);
                }
                if dtypes.is_empty() {
                    return Err(de::Error::custom("a list of dtypes must not be empty"));
                }
                Ok(Dtypes(dtypes))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// One size of a dimension, or several for as many cases. Lists of one case have the same length and
/// go along together.
#[derive(Deserialize)]
#[serde(untagged)]
enum Sizes {
    One(u64),
    Several(Vec<u64>),
}

impl CaseSpec {
    /// The shapes this stands for, in order.
    fn shapes(&self) -> Result<Vec<Shape>> {
        let mut count = None;
        for (name, sizes) in &self.shape {
            if let Sizes::Several(list) = sizes {
                let wanted = *count.get_or_insert(list.len());
                if list.is_empty() || list.len() != wanted {
                    return Err(Error::usage(format!(
                        "{} {name} lists {} sizes; lists of one case have the same length, here {wanted}, and none is empty",
                        self.op,
                        list.len()
                    )));
                }
            }
        }
        Ok((0..count.unwrap_or(1))
            .map(|index| {
                let size = |sizes: &Sizes| match sizes {
                    Sizes::One(size) => *size,
                    Sizes::Several(list) => list[index],
                };
                Shape(
                    self.shape
                        .iter()
                        .map(|(name, sizes)| (name.clone(), size(sizes)))
                        .collect(),
                )
            })
            .collect())
    }
}

/// What a run sets out to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the suite.
    pub suite: String,
    /// SHA-256 of its text.
    pub suite_sha256: String,
    /// Cases in the order they run: probes first, for they size the rest.
    pub cases: Vec<Case>,
    /// Seconds that one case may take.
    pub case_budget_s: f64,
    /// Longest single call that is worth waiting for.
    pub call_s_max: f64,
    /// Seconds for the whole run on a device that is not a CPU, where the suite sets a limit.
    pub budget_s: Option<f64>,
    /// Regimes beside the headline's.
    pub regimes: Vec<RegimeName>,
    /// Length of the window that energy is counted over; zero for none.
    pub energy_window_s: f64,
    /// Which share of the suite's cases this is, as number and count; all of them if absent.
    pub shard: Option<(u32, u32)>,
}

impl Plan {
    /// Narrows the plan to share `number` of `count`, counted from 1. Probes are in every share, for
    /// each needs its ceilings.
    ///
    /// # Errors
    /// A usage error where there is no such share, or nothing but probes would be left in it.
    pub fn narrow(&mut self, number: u32, count: u32) -> Result<()> {
        if number == 0 || number > count {
            return Err(Error::usage(format!(
                "--shard {number}/{count}: the first number must be from 1 to the second"
            )));
        }
        let mut place = 0;
        let all = self.cases.len();
        self.cases.retain(|case| {
            if case.op.is_probe() {
                return true;
            }
            place += 1;
            (place - 1) % count == number - 1
        });
        if count > 1 && self.cases.iter().all(|case| case.op.is_probe()) {
            return Err(Error::usage(format!(
                "--shard {number}/{count}: of the {all} cases none but probes would be left; use fewer shares"
            )));
        }
        self.shard = (count > 1).then_some((number, count));
        Ok(())
    }
}

/// The names of the suites.
#[must_use]
pub fn suite_names() -> Vec<&'static str> {
    SUITES.iter().map(|(name, _)| *name).collect()
}

/// The plan of a suite, by name or as a path to a `.toml` file, narrowed to the cases whose id
/// `filter` finds.
///
/// # Errors
/// A usage error for an unknown suite, a broken file or a filter that matches nothing.
pub fn plan(suite: &str, filter: Option<&str>) -> Result<Plan> {
    let text = match SUITES.iter().find(|(name, _)| *name == suite) {
        Some((_, text)) => (*text).to_owned(),
        None if Path::new(suite)
            .extension()
            .is_some_and(|ending| ending == "toml") =>
        {
            let text = files::read_text(suite)
                .map_err(|error| Error::usage(format!("--suite {suite}: {error}")))?;
            // A suite is the same one however a system ends its lines.
            text.replace("\r\n", "\n")
        }
        None => {
            return Err(Error::usage(format!(
                "--suite {suite}: there is no such suite; use {} or a .toml file",
                suite_names().join(", ")
            )));
        }
    };
    let file: SuiteFile = toml::from_str(&text).map_err(|error| {
        Error::usage(format!("--suite {suite}: {}", one_line(&error.to_string())))
    })?;
    let positive = |field: &str, value: f64| {
        if value.is_finite() && value > 0.0 && value <= 1e9 {
            Ok(value)
        } else {
            Err(Error::usage(format!(
                "--suite {suite}: {field} is {value}; it must be above zero"
            )))
        }
    };
    let mut cases = Vec::new();
    let refused = |error: Error| Error::usage(format!("--suite {suite}: {}", error.message));
    for spec in &file.cases {
        let shapes = spec.shapes().map_err(refused)?;
        let dtypes = spec.dtype.0.iter();
        for (dtype, shape) in dtypes.flat_map(|dtype| shapes.iter().map(move |s| (*dtype, s))) {
            let case = Case::new(spec.op, shape, dtype).map_err(refused)?;
            if cases.contains(&case) {
                return Err(Error::usage(format!(
                    "--suite {suite}: case {} stands there twice",
                    case.id()
                )));
            }
            cases.push(case);
        }
    }
    let filter = filter
        .map(|pattern| {
            Regex::new(pattern).map_err(|error| {
                Error::usage(format!(
                    "--filter {pattern}: {}",
                    one_line(&error.to_string())
                ))
            })
        })
        .transpose()?;
    if let Some(filter) = &filter
        && !narrow_to(&mut cases, filter)
    {
        return Err(Error::usage(format!(
            "--filter {filter}: no case of suite {suite} matches; `chipmark list --suite {suite}` shows them"
        )));
    }
    cases.sort_by_key(|case| !case.op.is_probe());
    Ok(Plan {
        suite: file.name,
        suite_sha256: sha256(text.as_bytes()),
        cases,
        case_budget_s: positive("case_budget_s", file.case_budget_s)?,
        call_s_max: positive("call_s_max", file.call_s_max)?,
        budget_s: file
            .budget_s
            .map(|value| positive("budget_s", value))
            .transpose()?,
        regimes: file.regimes,
        energy_window_s: if file.energy_window_s == 0.0 {
            0.0
        } else {
            positive("energy_window_s", file.energy_window_s)?
        },
        shard: None,
    })
}

/// Keeps the cases whose id `filter` finds and the probes that bound them: without its ceilings a
/// case has no fraction, and without an estimate no guard. Says whether it found any.
pub(crate) fn narrow_to(cases: &mut Vec<Case>, filter: &Regex) -> bool {
    let wanted: Vec<Case> = cases
        .iter()
        .filter(|case| filter.is_match(&case.id()))
        .cloned()
        .collect();
    cases.retain(|case| wanted.contains(case) || wanted.iter().any(|wanted| bounds(case, wanted)));
    !wanted.is_empty()
}

/// Why one call of this case is not worth waiting for, by the ceilings known so far.
#[must_use]
pub fn too_slow(
    case: &Case,
    ceilings: &[Ceiling],
    runner: &str,
    call_s_max: f64,
) -> Option<String> {
    if !case.op.has_roofline() {
        return None;
    }
    let (best_s, bound) = roofline(&Work::of(case), ceilings, runner)?;
    // The probes are what the ceilings are made of, so their estimate is the ceiling itself.
    let expected_s = if case.op.is_probe() {
        best_s
    } else {
        best_s / EXPECTED_FRACTION_MIN
    };
    (expected_s > call_s_max).then(|| {
        format!(
            "{TOO_SLOW} {expected_s:.1} s by the measured {bound}; there is time for calls of {} s",
            (call_s_max * 1000.0).round() / 1000.0
        )
    })
}

/// Bytes that buffers which lie together are apart at least: where bindings may begin on any device
/// (the largest `min_storage_buffer_offset_alignment` that WebGPU allows).
pub const BUFFER_STRIDE: u64 = 256;

/// Why a case cannot fit a device, by the limits it states; the runner has the last word.
#[must_use]
pub fn too_large(case: &Case, set_count: u32, device: &Device) -> Option<String> {
    let limit = |name: &str| device.limits.get(name).copied().unwrap_or(u64::MAX);
    let binding = limit("binding_bytes_max").min(limit("buffer_bytes_max"));
    let budget = limit("memory_bytes_budget");
    if let Some(tensor) = case
        .tensors()
        .iter()
        .find(|tensor| tensor.size_bytes() > binding)
    {
        return Some(format!(
            "tensor {} needs {} bytes; the largest binding is {binding}",
            tensor.name,
            tensor.size_bytes()
        ));
    }
    let set_count = u64::from(set_count.max(1));
    let stride = case.output().size_bytes().next_multiple_of(BUFFER_STRIDE);
    let outputs = match set_count {
        1 => 0,
        _ => stride.saturating_mul(set_count),
    };
    if outputs > limit("buffer_bytes_max") {
        return Some(format!(
            "the outputs of {set_count} sets lie in one buffer and need {outputs} bytes; the largest is {}",
            limit("buffer_bytes_max")
        ));
    }
    let needed = case.tensor_bytes().saturating_mul(set_count);
    (needed > budget)
        .then(|| format!("the tensors need {needed} bytes; the memory budget is {budget}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_parses_and_starts_with_its_probes() {
        for name in suite_names() {
            let plan = plan(name, None).unwrap();
            assert_eq!(plan.suite, name);
            assert_eq!(plan.cases[0].op, OpName::Empty);
        }
    }

    #[test]
    fn a_suite_is_the_same_one_whichever_shell_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quick.toml");
        let built_in = plan("quick", None).unwrap();
        // As PowerShell 5.1 writes what is redirected.
        let text = include_str!("../suites/quick.toml").replace('\n', "\r\n");
        let units = "\u{feff}".encode_utf16().chain(text.encode_utf16());
        let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
        std::fs::write(&file, bytes).unwrap();
        let redirected = plan(file.to_str().unwrap(), None).unwrap();
        assert_eq!(redirected.suite_sha256, built_in.suite_sha256);
        assert_eq!(redirected.cases, built_in.cases);
    }

    #[test]
    fn a_list_of_sizes_is_one_case_each_and_lists_go_along_together() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sweep.toml");
        let text = |shape: &str| {
            format!(
                "name = \"sweep\"\ndescription = \"\"\ncase_budget_s = 1\ncall_s_max = 1\n\n[[cases]]\nop = \"chase\"\ndtype = \"f32\"\nshape = {shape}\n"
            )
        };
        let planned = |shape: &str| {
            std::fs::write(&file, text(shape)).unwrap();
            plan(file.to_str().unwrap(), None)
        };
        let ids = |shape: &str| -> Vec<String> {
            let plan = planned(shape).unwrap();
            plan.cases.iter().map(Case::id).collect()
        };
        assert_eq!(
            ids("{ lines = [256, 512], steps = 1024 }"),
            ["chase/l256_s1024/f32", "chase/l512_s1024/f32"]
        );
        assert_eq!(
            ids("{ lines = [256, 512], steps = [300, 600] }"),
            ["chase/l256_s300/f32", "chase/l512_s600/f32"]
        );
        let message = |shape: &str| planned(shape).unwrap_err().message;
        assert!(message("{ lines = [256, 512], steps = [300] }").contains("same length"));
        assert!(message("{ lines = [], steps = 9 }").contains("empty"));
    }

    #[test]
    fn each_shape_is_run_in_each_dtype_of_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("types.toml");
        let text = "name = \"types\"\ndescription = \"\"\ncase_budget_s = 1\ncall_s_max = 1\n\n[[cases]]\nop = \"matmul\"\ndtype = [\"f32\", \"w4a16\"]\nshape = { m = [1, 2], n = 4, k = 32, trans_b = 1 }\n";
        std::fs::write(&file, text).unwrap();
        let plan = plan(file.to_str().unwrap(), None).unwrap();
        let ids: Vec<String> = plan.cases.iter().map(Case::id).collect();
        assert_eq!(
            ids,
            [
                "matmul/m1_n4_k32_trans_b/f32",
                "matmul/m2_n4_k32_trans_b/f32",
                "matmul/m1_n4_k32_trans_b/w4a16",
                "matmul/m2_n4_k32_trans_b/w4a16"
            ]
        );
    }

    #[test]
    fn a_filter_keeps_the_probes_that_its_cases_are_measured_against() {
        let plan = plan("quick", Some("^matmul/m1024_n1024_k1024/")).unwrap();
        let ops: Vec<OpName> = plan.cases.iter().map(|case| case.op).collect();
        assert_eq!(ops.iter().filter(|op| **op == OpName::Matmul).count(), 1);
        assert!(ops.contains(&OpName::Fma) && ops.contains(&OpName::Copy));
    }

    #[test]
    fn only_probes_of_the_right_kind_bound_a_case() {
        let chains = Shape::of(&[("invocations", 64), ("steps", 8)]);
        let matmul = Shape::of(&[("m", 8), ("n", 8), ("k", 8)]);
        let matmul = Case::new(OpName::Matmul, &matmul, Dtype::F32).unwrap();
        let bound = |op, dtype| bounds(&Case::new(op, &chains, dtype).unwrap(), &matmul);
        assert!(bound(OpName::Fma, Dtype::F32));
        assert!(!bound(OpName::Fma, Dtype::I32));
        assert!(!bound(OpName::Dot4, Dtype::I8));
        assert!(!bound(OpName::WorkgroupRead, Dtype::F32));
    }

    #[test]
    fn bad_suites_and_filters_are_refused_by_name() {
        let message = |suite: &str, filter: Option<&str>| plan(suite, filter).unwrap_err().message;
        assert!(message("nonsense", None).contains("quick, standard"));
        assert!(message("quick", Some("^nothing$")).contains("no case"));
        assert!(message("quick", Some("(")).contains("--filter"));
        assert!(message("/nowhere/at/all.toml", None).contains("/nowhere/at/all.toml"));
    }
}
