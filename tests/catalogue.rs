//! Every kernel, every variant, through naga to every shading language, with no GPU at all.

#![allow(clippy::unwrap_used)] // a test that meets what it does not expect should stop right there

use std::process::Command;

use chipmark::catalogue::{Engine, Feature, Kernel, kernels};
use chipmark::op::Dtype;
use chipmark::protocol::Tunables;
use chipmark::unroll::{UnrollOptions, unroll};
use chipmark::variant::combinations;
use chipmark::{shader, spirv};
use naga::back::{glsl, hlsl, msl, spv};
use naga::proc::BoundsCheckPolicies;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use rayon::prelude::*;

fn info(module: &naga::Module) -> ModuleInfo {
    Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(module)
        .unwrap()
}

fn to_spirv(module: &naga::Module, info: &ModuleInfo) -> usize {
    let options = spv::Options {
        lang_version: (1, 4),
        ..Default::default()
    };
    spv::write_vec(module, info, &options, None).unwrap().len()
}

fn to_msl(module: &naga::Module, info: &ModuleInfo) -> usize {
    let options = msl::Options {
        lang_version: (2, 4),
        fake_missing_bindings: true,
        ..Default::default()
    };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default())
        .unwrap()
        .0
        .len()
}

fn to_hlsl(module: &naga::Module, info: &ModuleInfo) -> usize {
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        fake_missing_bindings: true,
        ..Default::default()
    };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .unwrap();
    // Zero of two names for one type, as `Input()` and `Sum()`, becomes one helper twice, which no
    // compiler of HLSL takes.
    let mut heads = std::collections::BTreeSet::new();
    for line in text.lines() {
        let head =
            line.ends_with(['{', ')']) && line.contains('(') && !line.starts_with([' ', '[']);
        assert!(!head || heads.insert(line), "defined twice: {line}");
    }
    text.len()
}

fn to_glsl(module: &naga::Module, info: &ModuleInfo, entry_point: &str) -> usize {
    let options = glsl::Options {
        version: glsl::Version::Desktop(450),
        ..Default::default()
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: entry_point.to_owned(),
        multiview: None,
    };
    let mut text = String::new();
    glsl::Writer::new(
        &mut text,
        module,
        info,
        &options,
        &pipeline,
        BoundsCheckPolicies::default(),
    )
    .unwrap()
    .write()
    .unwrap();
    text.len()
}

/// An unrolled module of more expressions than this goes to SPIR-V alone, but for the first variant of
/// a kernel in each dtype: what else large ones have is more of the same statements, and writing
/// them three times more takes most of the time.
const TRANSLATED_MAX: usize = 12_000;

fn expression_count(module: &naga::Module) -> usize {
    let functions = module.functions.iter().map(|(_, function)| function);
    let entry_points = module.entry_points.iter().map(|entry| &entry.function);
    functions
        .chain(entry_points)
        .map(|function| function.expressions.len())
        .sum()
}

/// The variants whose `const_assert`s hold, in every dtype.
fn buildable(kernel: &Kernel) -> Vec<(Tunables, Dtype, shader::Specialised)> {
    let combinations = combinations(kernel);
    let all: Vec<(Dtype, &Tunables)> = kernel
        .dtypes
        .iter()
        .flat_map(|&dtype| combinations.iter().map(move |tunables| (dtype, tunables)))
        .collect();
    all.into_par_iter()
        .filter_map(|(dtype, tunables)| {
            let built = shader::build(&kernel.name, &kernel.source, tunables, dtype).ok()?;
            Some((tunables.clone(), dtype, built))
        })
        .collect()
}

#[test]
fn every_file_is_a_working_variant_as_it_lies() {
    for kernel in kernels() {
        let built = shader::build(
            &kernel.name,
            &kernel.source,
            &Tunables::new(),
            kernel.dtypes[0],
        );
        assert!(built.is_ok(), "{}: {:?}", kernel.name, built.err());
    }
}

#[test]
fn every_preferred_variant_builds() {
    for kernel in kernels() {
        let first = combinations(&kernel).remove(0);
        let built = shader::build(&kernel.name, &kernel.source, &first, kernel.dtypes[0]);
        assert!(
            built.is_ok(),
            "{} {first:?}: {:?}",
            kernel.name,
            built.err()
        );
    }
}

#[test]
fn every_variant_passes_every_backend_plain_and_unrolled() {
    let kernels = kernels();
    let variants: Vec<_> = kernels
        .iter()
        .flat_map(|kernel| {
            let variants = buildable(kernel);
            assert!(
                !variants.is_empty(),
                "{} has no variant that builds",
                kernel.name
            );
            let mut seen = std::collections::BTreeSet::new();
            variants.into_iter().map(move |variant| {
                let first = seen.insert(variant.1);
                (kernel, variant, first)
            })
        })
        .collect();
    let count = variants.len();
    variants
        .into_par_iter()
        .for_each(|(kernel, (tunables, dtype, built), first)| {
            // The cost is in the largest ones; a bound keeps the suite short and is the worker's.
            let options = UnrollOptions {
                max_expressions: 64_000,
                ..Default::default()
            };
            let (unrolled, stats) = unroll(&built.module, &options);
            // A store to a place that has no name yet makes naga's IR such that the pass gives up.
            assert!(
                kernel.engine != Engine::Matrix || stats.loops_unrolled > 0,
                "{} is not unrolled",
                kernel.name
            );
            for module in [&built.module, &unrolled] {
                let place = format!("{} {dtype} {tunables:?}", kernel.name);
                let info = info(module);
                assert!(to_spirv(module, &info) > 0, "{place}");
                if std::ptr::eq(module, &unrolled)
                    && !first
                    && expression_count(module) > TRANSLATED_MAX
                {
                    continue;
                }
                assert!(to_msl(module, &info) > 0, "{place}");
                // Neither language can express a product by a whole subgroup, and no device that is
                // reached through it offers one.
                if kernel.engine == Engine::Matrix {
                    continue;
                }
                assert!(to_hlsl(module, &info) > 0, "{place}");
                // GLSL as naga writes it has no f16 and no 64-bit integers, and no device reached
                // through it offers them.
                if shader::needs_f16(&kernel.source, dtype)
                    || kernel.features.contains(&Feature::Int64)
                {
                    continue;
                }
                for pass in kernel.passes {
                    assert!(to_glsl(module, &info, pass.entry_point) > 0, "{place}");
                }
            }
        });
    assert!(count > 100, "only {count} variants");
}

/// naga does not say that what it writes is valid SPIR-V, and drivers may crash where it is not. The
/// rules for Vulkan would refuse naga's every array in workgroup memory, for a layout that no driver
/// minds, so it is held against those for SPIR-V alone.
#[test]
fn the_validator_of_spirv_accepts_every_preferred_variant_plain_and_unrolled() {
    let Ok(found) = Command::new("spirv-val").arg("--version").output() else {
        eprintln!("SKIPPED: there is no spirv-val (package spirv-tools)");
        return;
    };
    let version = String::from_utf8_lossy(&found.stdout).into_owned();
    let year = version.split(" v").nth(1).and_then(|rest| rest.get(..4));
    let knows_matrices = year.is_some_and(|year| year >= "2024");
    if !knows_matrices {
        eprintln!(
            "SKIPPED for kernels of matrix units, which this spirv-val does not know: {version}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    kernels()
        .into_par_iter()
        .filter(|kernel| knows_matrices || kernel.engine != Engine::Matrix)
        .for_each(|kernel| {
            let preferred = combinations(&kernel).remove(0);
            for &dtype in kernel.dtypes {
                let built = shader::build(&kernel.name, &kernel.source, &preferred, dtype).unwrap();
                let (unrolled, _) = unroll(&built.module, &UnrollOptions::default());
                for (form, module) in [("plain", &built.module), ("unrolled", &unrolled)] {
                    for pass in kernel.passes {
                        let name = format!("{} {dtype} {form} {}", kernel.name, pass.entry_point);
                        let file = folder.path().join(name.replace('/', " "));
                        let words = spirv::of(module, pass.entry_point, (1, 6)).unwrap();
                        let bytes: Vec<u8> =
                            words.iter().flat_map(|word| word.to_le_bytes()).collect();
                        std::fs::write(&file, bytes).unwrap();
                        let mut validate = Command::new("spirv-val");
                        let said = validate
                            .args(["--target-env", "spv1.6"])
                            .arg(&file)
                            .output();
                        let said = said.unwrap();
                        let why = String::from_utf8_lossy(&said.stderr);
                        assert!(said.status.success(), "{name}: {version}{why}");
                    }
                }
            }
        });
}

#[test]
fn kernel_names_are_unique_and_their_grids_name_constants_of_the_source() {
    use chipmark::catalogue::Cover;
    let kernels = kernels();
    let names: std::collections::BTreeSet<_> =
        kernels.iter().map(|kernel| kernel.name.clone()).collect();
    assert_eq!(names.len(), kernels.len());
    for kernel in &kernels {
        let built = shader::build(
            &kernel.name,
            &kernel.source,
            &Tunables::new(),
            kernel.dtypes[0],
        )
        .unwrap();
        for pass in kernel.passes {
            assert!(
                built
                    .reflection
                    .workgroup_sizes
                    .contains_key(pass.entry_point),
                "{}",
                kernel.name
            );
            for cover in &pass.grid {
                if let Cover::Tiles { per, .. }
                | Cover::Strides { per, .. }
                | Cover::Count(per)
                | Cover::Times { by: per, .. } = cover
                {
                    assert!(
                        built.reflection.constants.contains_key(*per),
                        "{} has no {per}",
                        kernel.name
                    );
                }
            }
        }
    }
}
