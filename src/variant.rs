//! Which variants of a kernel are legal on a device at a shape, and the grids they are called with.

use std::sync::Arc;

use crate::catalogue::{Cover, Feature, Kernel, MatrixTile, Requirement};
use crate::gpu::Capacity;
use crate::op::Case;
use crate::protocol::Tunables;
use crate::shader::{self, Reflection};

/// The constant by which subgroup kernels know how many lanes they have.
pub const SUBGROUP_SIZE: &str = "SUBGROUP_SIZE";

/// The fewest lanes with which kernels for any subgroup are right.
const LANES_OF_ANY: u32 = 32;

/// A variant that can run.
#[derive(Clone, Debug)]
pub struct Legal {
    /// What its specialised module says of itself.
    pub reflection: Arc<Reflection>,
    /// Workgroups of each pass.
    pub grids: Vec<[u32; 3]>,
    /// Bytes of the scratch buffer; zero if it needs none.
    pub scratch_bytes: u64,
}

/// Every combination of a kernel's tunables, its preferred one first.
#[must_use]
pub fn combinations(kernel: &Kernel) -> Vec<Tunables> {
    product(
        kernel
            .tunables
            .iter()
            .map(|tunable| (tunable.name, tunable.values)),
    )
}

/// Every combination of named values; the first has the first value of each.
pub(crate) fn product<'a>(tunables: impl Iterator<Item = (&'a str, &'a [u32])>) -> Vec<Tunables> {
    let mut all = vec![Tunables::new()];
    for (name, values) in tunables {
        all = values
            .iter()
            .flat_map(|&value| {
                all.iter().map(move |set| {
                    let mut set = set.clone();
                    set.insert(name.to_owned(), value);
                    set
                })
            })
            .collect();
    }
    all
}

/// Specialises a variant and checks it against the device and the shape.
///
/// # Errors
/// The cause with both numbers, as one line for the report.
pub fn fit(
    kernel: &Kernel,
    tunables: &Tunables,
    case: &Case,
    capacity: &Capacity,
) -> Result<Legal, String> {
    // The device first: what it lacks is the reason at every shape.
    if !capacity.shader_f16 && shader::needs_f16(&kernel.source, case.dtype) {
        return Err("the device has no arithmetic in f16 (shader_f16)".to_owned());
    }
    for feature in kernel.features {
        let tile = match *feature {
            Feature::Subgroup | Feature::AnySubgroup => continue,
            Feature::Int64 if capacity.shader_int64 => continue,
            Feature::Int64 => {
                return Err("the device has no 64-bit integers (shader_int64)".to_owned());
            }
            Feature::CooperativeMatrix(tile) => tile,
            Feature::MatrixOfDtype(size) => MatrixTile {
                size,
                input: case.dtype.input(),
                accumulator: case.dtype.output(),
            },
        };
        if !capacity.matrix_tiles.contains(&tile) {
            let listed: Vec<String> = capacity
                .matrix_tiles
                .iter()
                .map(ToString::to_string)
                .collect();
            return Err(if listed.is_empty() {
                format!("it needs {tile}; the device has no cooperative matrices")
            } else {
                format!("it needs {tile}; the device has {}", listed.join(", "))
            });
        }
    }
    let any = kernel.features.contains(&Feature::AnySubgroup);
    if any || kernel.features.contains(&Feature::Subgroup) {
        let smallest = capacity
            .subgroup_size_min
            .ok_or("the device has no subgroup operations")?;
        let largest = capacity.subgroup_size_max.unwrap_or(smallest);
        let any_size = any && smallest >= LANES_OF_ANY;
        match tunables.get(SUBGROUP_SIZE) {
            Some(wanted) if any_size && !(smallest..=largest).contains(wanted) => {
                return Err(format!(
                    "it is laid out for subgroups of {wanted}; the device's have {smallest} to {largest}"
                ));
            }
            Some(&wanted) if !any_size && wanted != smallest => {
                return Err(format!(
                    "it is written for subgroups of {wanted}; the device's smallest is {smallest}"
                ));
            }
            _ => {}
        }
    }
    check_shape(kernel, tunables, case)?;
    let reflection = shader::reflection(&kernel.name, &kernel.source, tunables, case.dtype)?;
    if reflection.workgroup_bytes > capacity.workgroup_bytes_max {
        return Err(format!(
            "it needs {} bytes of workgroup memory; the limit is {}",
            reflection.workgroup_bytes, capacity.workgroup_bytes_max
        ));
    }
    let mut grids = Vec::new();
    for pass in kernel.passes {
        let size = reflection
            .workgroup_sizes
            .get(pass.entry_point)
            .ok_or_else(|| format!("its source has no entry point {:?}", pass.entry_point))?;
        let invocations = u64::from(size[0]) * u64::from(size[1]) * u64::from(size[2]);
        if invocations > u64::from(capacity.invocation_count_max) {
            return Err(format!(
                "it needs {invocations} invocations in a workgroup; the limit is {}",
                capacity.invocation_count_max
            ));
        }
        if let Some((got, limit)) = size
            .iter()
            .zip(&capacity.workgroup_size_max)
            .find(|(got, limit)| got > limit)
        {
            return Err(format!(
                "its workgroup is {got} long in one dimension; the limit is {limit}"
            ));
        }
        let mut grid = [1u32; 3];
        for (count, cover) in grid.iter_mut().zip(&pass.grid) {
            let mut wanted = workgroups(cover, case, constant_of(&reflection))?;
            if matches!(cover, Cover::Strides { .. }) {
                wanted = wanted.min(u64::from(capacity.workgroup_count_max));
            }
            if wanted > u64::from(capacity.workgroup_count_max) {
                return Err(format!(
                    "it needs {wanted} workgroups in one dimension; the limit is {}",
                    capacity.workgroup_count_max
                ));
            }
            *count = u32::try_from(wanted).unwrap_or(u32::MAX);
        }
        grids.push(grid);
    }
    let copies = kernel.scratch_copies.map_or(Ok(1), |name| {
        workgroups(&Cover::Count(name), case, constant_of(&reflection))
    })?;
    let scratch_bytes = kernel.scratch.map_or(0, |extent| {
        4 * copies * case.op.op().extent(&case.shape, extent)
    });
    let (scratch_bytes_max, what) = if kernel.scratch_is_texture {
        (capacity.texture_bytes_max, "texture")
    } else {
        let limit = capacity.binding_bytes_max.min(capacity.buffer_bytes_max);
        (limit, "binding")
    };
    if scratch_bytes > scratch_bytes_max {
        return Err(format!(
            "it needs {scratch_bytes} bytes of scratch memory; the largest {what} is {scratch_bytes_max}"
        ));
    }
    if let Some(budget) = capacity.memory_bytes_budget {
        let needed = scratch_bytes + case.tensor_bytes();
        if needed > budget {
            return Err(format!(
                "it needs {needed} bytes of memory; the budget is {budget}"
            ));
        }
    }
    Ok(Legal {
        reflection,
        grids,
        scratch_bytes,
    })
}

/// The case with its summed dimension as short as the kernel allows, and that length; `None` where
/// there is no such dimension or nothing shorter.
#[must_use]
pub fn shortest(
    kernel: &Kernel,
    tunables: &Tunables,
    case: &Case,
    capacity: &Capacity,
) -> Option<(Case, &'static str, u64)> {
    let dim = case.op.op().summed()?;
    let fits = |length: u64| {
        let short = Case::new(case.op, &case.shape.with(dim, length), case.dtype).ok()?;
        let legal = fit(kernel, tunables, &short, capacity).is_ok();
        legal.then_some((short, dim, length))
    };
    (0..u64::BITS)
        .map(|power| 1u64 << power)
        .take_while(|&length| length < case.shape.get(dim))
        .find_map(fits)
}

/// For each pass, the share of the tiles of its grid that lies beyond the sizes of the case.
#[must_use]
pub fn padding(kernel: &Kernel, case: &Case, reflection: &Reflection) -> Vec<f64> {
    let constant = constant_of(reflection);
    #[allow(clippy::cast_precision_loss)] // for people
    let used = |cover: &Cover| match *cover {
        Cover::Tiles { extent, per } => {
            let size = case.op.op().extent(&case.shape, extent);
            match constant(per).map(u64::from) {
                Some(per) if per > 0 && size > 0 => size as f64 / (size.div_ceil(per) * per) as f64,
                _ => 1.0,
            }
        }
        _ => 1.0,
    };
    let waste = |pass: &crate::catalogue::Pass| 1.0 - pass.grid.iter().map(used).product::<f64>();
    kernel.passes.iter().map(waste).collect()
}

fn constant_of(reflection: &Reflection) -> impl Fn(&str) -> Option<u32> + '_ {
    |name| reflection.constants.get(name).copied()
}

fn workgroups(
    cover: &Cover,
    case: &Case,
    constant: impl Fn(&str) -> Option<u32>,
) -> Result<u64, String> {
    let extent = |name: &str| case.op.op().extent(&case.shape, name);
    match *cover {
        Cover::One => Ok(1),
        Cover::Each(name) => Ok(extent(name)),
        Cover::Count(name) => match constant(name) {
            Some(count) if count > 0 => Ok(u64::from(count)),
            _ => Err(format!("its source has no positive constant {name}")),
        },
        Cover::Times { extent: name, by } => match constant(by) {
            Some(count) if count > 0 => Ok(extent(name).saturating_mul(u64::from(count))),
            _ => Err(format!("its source has no positive constant {by}")),
        },
        Cover::Tiles { extent: name, per } | Cover::Strides { extent: name, per } => {
            match constant(per) {
                Some(size) if size > 0 => Ok(extent(name).div_ceil(u64::from(size))),
                _ => Err(format!("its source has no positive constant {per}")),
            }
        }
    }
}

fn check_shape(kernel: &Kernel, tunables: &Tunables, case: &Case) -> Result<(), String> {
    let check = |one| check_requirement(one, kernel, tunables, case);
    kernel.requirements.iter().try_for_each(check)
}

/// Whether the case and the variant meet one requirement of the kernel.
fn check_requirement(
    requirement: &Requirement,
    kernel: &Kernel,
    tunables: &Tunables,
    case: &Case,
) -> Result<(), String> {
    match *requirement {
        Requirement::Multiple(dim, of) => {
            let size = case.shape.get(dim);
            if !size.is_multiple_of(of) {
                return Err(format!(
                    "it needs {dim} to be a multiple of {of}, not {size}"
                ));
            }
        }
        Requirement::Unaligned(dims, of) => {
            let sizes: Vec<String> = dims
                .iter()
                .map(|dim| (dim, case.shape.get(dim)))
                .filter(|(_, size)| size.is_multiple_of(of))
                .map(|(dim, size)| format!("{dim} {size}"))
                .collect();
            if sizes.len() == dims.len() {
                return Err(format!(
                    "it is for sizes that {of} does not divide, not for {}",
                    sizes.join(", ")
                ));
            }
        }
        Requirement::LeftTo(other, dtype, all) => {
            let meets = |one| check_requirement(one, kernel, tunables, case).is_ok();
            if case.dtype == dtype && all.iter().all(meets) {
                return Err(format!("it leaves such shapes in {dtype} to {other}"));
            }
        }
        Requirement::AtLeast(dim, limit) => {
            let size = case.shape.get(dim);
            if size < limit {
                return Err(format!("it is for {dim} from {limit} on, not {size}"));
            }
        }
        Requirement::AtMost(dim, limit) => {
            let size = case.shape.get(dim);
            if size > limit {
                return Err(format!("it is for {dim} up to {limit}, not {size}"));
            }
        }
        Requirement::Equals(dim, wanted) => {
            let size = case.shape.get(dim);
            if size != wanted {
                return Err(format!("it needs {dim} to be {wanted}, not {size}"));
            }
        }
        Requirement::SmallestAtLeast { tunable, dim } => {
            let size = case.shape.get(dim);
            let value = tunables.get(tunable).copied().map_or(0, u64::from);
            let best = kernel
                .tunables
                .iter()
                .filter(|t| t.name == tunable)
                .flat_map(|t| t.values)
                .map(|&v| u64::from(v))
                .filter(|&v| v >= size)
                .min();
            if best != Some(value) {
                return Err(format!(
                    "{tunable} {value} is not the smallest that holds {dim} {size}"
                ));
            }
        }
    }
    Ok(())
}

/// A device as roomy as WebGPU's own default limits, for checks that need no device.
#[must_use]
pub fn default_capacity() -> Capacity {
    Capacity {
        buffer_bytes_max: 256 << 20,
        binding_bytes_max: 128 << 20,
        texture_bytes_max: 512 << 20,
        workgroup_bytes_max: 16384,
        invocation_count_max: 256,
        workgroup_size_max: [256, 256, 64],
        workgroup_count_max: 65535,
        subgroup_size_min: Some(32),
        subgroup_size_max: Some(32),
        shader_f16: false,
        shader_int64: false,
        matrix_tiles: Vec::new(),
        memory_bytes_budget: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::kernels;
    use crate::op::{Dtype, OpName, Shape};

    fn naive() -> Kernel {
        kernels()
            .into_iter()
            .find(|k| k.name == "matmul/naive")
            .unwrap()
    }

    fn matmul(m: u64, n: u64, k: u64) -> Case {
        Case::new(
            OpName::Matmul,
            &Shape::of(&[("m", m), ("n", n), ("k", k)]),
            Dtype::F32,
        )
        .unwrap()
    }

    #[test]
    fn the_first_combination_has_every_preferred_value() {
        let kernel = naive();
        let all = combinations(&kernel);
        assert_eq!(
            all.len(),
            kernel
                .tunables
                .iter()
                .map(|t| t.values.len())
                .product::<usize>()
        );
        for tunable in kernel.tunables {
            assert_eq!(all[0][tunable.name], tunable.values[0]);
        }
    }

    #[test]
    fn a_grid_covers_the_shape_and_no_more() {
        let tunables = Tunables::from([("TILE_N".to_owned(), 16), ("TILE_M".to_owned(), 8)]);
        let legal = fit(&naive(), &tunables, &matmul(17, 33, 5), &default_capacity()).unwrap();
        assert_eq!(legal.grids, [[3, 3, 1]]);
    }

    #[test]
    fn a_kernel_for_any_subgroup_is_offered_for_every_size_that_the_device_may_choose() {
        use crate::catalogue::MatrixTile;
        use crate::input::Element;
        let shape = Shape::of(&[("m", 512), ("n", 512), ("k", 512)]);
        let case = Case::new(OpName::Matmul, &shape, Dtype::F16).unwrap();
        let sizes = |name: &str, smallest: u32, largest: u32| {
            let capacity = Capacity {
                subgroup_size_min: Some(smallest),
                subgroup_size_max: Some(largest),
                shader_f16: true,
                workgroup_bytes_max: 65536,
                invocation_count_max: 1024,
                workgroup_size_max: [1024, 1024, 64],
                matrix_tiles: vec![MatrixTile {
                    size: 16,
                    input: Element::F16,
                    accumulator: Element::F32,
                }],
                ..default_capacity()
            };
            let kernel = kernels().into_iter().find(|k| k.name == name).unwrap();
            let all = combinations(&kernel).into_iter();
            let fitting = all.filter(|tunables| fit(&kernel, tunables, &case, &capacity).is_ok());
            let sizes = fitting.map(|tunables| tunables[SUBGROUP_SIZE]);
            sizes.collect::<std::collections::BTreeSet<u32>>()
        };
        for name in ["matmul/matrix_tile", "matmul/matrix_direct"] {
            assert_eq!(sizes(name, 32, 64), [32, 64].into(), "{name}");
            assert_eq!(sizes(name, 32, 32), [32].into(), "{name}");
            assert_eq!(sizes(name, 64, 64), [64].into(), "{name}");
            // The driver might take 16.
            assert_eq!(sizes(name, 16, 32), [].into(), "{name}");
        }
        // What is written for one number of lanes stays with the smallest.
        assert_eq!(sizes("matmul/subgroup_broadcast", 32, 64), [32].into());
    }

    #[test]
    fn scratch_in_a_texture_is_addressed_and_bounded_as_one() {
        let mut found = 0;
        for kernel in kernels().iter().filter(|kernel| kernel.scratch_is_texture) {
            found += 1;
            let case = match kernel.op {
                // Padded it is as large.
                OpName::Matmul if kernel.name.ends_with("scalar") => matmul(64, 61, 63),
                OpName::Matmul => matmul(64, 64, 64),
                _ => Case::new(
                    kernel.op,
                    &Shape::of(&[
                        ("batch", 2),
                        ("heads", 4),
                        ("kv_heads", 2),
                        ("query_len", 16),
                        ("kv_len", 16),
                        ("head_dim", 64),
                        ("causal", u64::from(kernel.name.ends_with("causal"))),
                    ]),
                    Dtype::F32,
                )
                .unwrap(),
            };
            let size = 8;
            let mut capacity = Capacity {
                subgroup_size_min: Some(size),
                subgroup_size_max: Some(size),
                ..default_capacity()
            };
            let tunables = combinations(kernel)
                .into_iter()
                .find(|tunables| fit(kernel, tunables, &case, &capacity).is_ok())
                .unwrap();
            let legal = fit(kernel, &tunables, &case, &capacity).unwrap();
            let width = legal.reflection.constants["TEXTURE_WIDTH"];
            assert_eq!(width, crate::gpu::TEXTURE_WIDTH, "{}", kernel.name);
            // Two matrices of 64 x 64; two sequences of two heads of 16 keys and values of 64.
            let elements = 2 * 64 * 64;
            assert_eq!(legal.scratch_bytes, 4 * elements, "{}", kernel.name);
            capacity.texture_bytes_max = 4 * elements - 1;
            let refusal = fit(kernel, &tunables, &case, &capacity).unwrap_err();
            assert!(refusal.contains("largest texture is"), "{refusal}");
        }
        assert!(found > 0);
    }

    #[test]
    fn a_constant_may_count_workgroups_and_copies_of_scratch() {
        let kernel = kernels()
            .into_iter()
            .find(|k| k.name == "matmul/gemv_columns_split")
            .unwrap();
        let mut tunables = combinations(&kernel)
            .into_iter()
            .find(|tunables| tunables["M"] == 4 && tunables["VECTORS"] == 1)
            .unwrap();
        let case = matmul(3, 132, 331);
        for splits in [8u32, 16] {
            tunables.insert("SPLITS".to_owned(), splits);
            let legal = fit(&kernel, &tunables, &case, &default_capacity()).unwrap();
            assert_eq!(legal.grids[0][1], splits);
            assert_eq!(legal.scratch_bytes, u64::from(splits) * 4 * 3 * 132);
        }
    }

    #[test]
    fn a_kernel_for_unaligned_sizes_is_refused_where_all_are_aligned() {
        let kernel = kernels()
            .into_iter()
            .find(|k| k.name == "matmul/matrix_tile_scalar")
            .unwrap();
        let none = Tunables::new();
        let refused = |m, n, k| check_shape(&kernel, &none, &matmul(m, n, k)).err();
        assert_eq!(refused(5, 8, 7), None);
        assert_eq!(refused(5, 9, 8), None);
        assert_eq!(
            refused(5, 8, 12).unwrap(),
            "it is for sizes that 4 does not divide, not for n 8, k 12"
        );
    }

    #[test]
    fn what_another_kernel_does_better_is_left_to_it_in_that_dtype_alone() {
        const ALL: &[Requirement] = &[Requirement::Multiple("n", 4), Requirement::Multiple("k", 4)];
        let kernel = Kernel {
            requirements: &[Requirement::LeftTo("matmul/other", Dtype::F32, ALL)],
            ..naive()
        };
        let check = |n, k, dtype| {
            let shape = Shape::of(&[("m", 8), ("n", n), ("k", k)]);
            let case = Case::new(OpName::Matmul, &shape, dtype).unwrap();
            check_shape(&kernel, &Tunables::new(), &case)
        };
        let refused = check(8, 8, Dtype::F32).unwrap_err();
        assert!(
            refused.contains("f32") && refused.contains("matmul/other"),
            "{refused}"
        );
        assert!(check(8, 7, Dtype::F32).is_ok());
        assert!(check(7, 8, Dtype::F32).is_ok());
        assert!(check(8, 8, Dtype::F16).is_ok());
    }

    #[test]
    fn a_refusal_names_its_cause_with_both_numbers() {
        let tunables = Tunables::from([("TILE_N".to_owned(), 32), ("TILE_M".to_owned(), 16)]);
        let refused = fit(&naive(), &tunables, &matmul(1, 1, 1), &default_capacity()).unwrap_err();
        assert!(
            refused.contains("512") && refused.contains("256"),
            "{refused}"
        );
        let tunables = Tunables::from([("TILE_N".to_owned(), 8), ("TILE_M".to_owned(), 4)]);
        let refused = fit(
            &naive(),
            &tunables,
            &matmul(1_000_000, 1, 1),
            &default_capacity(),
        )
        .unwrap_err();
        assert!(
            refused.contains("250000") && refused.contains("65535"),
            "{refused}"
        );
    }
}
