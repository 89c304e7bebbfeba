//! What a variant will need and at least take, told before any driver compiles it.
//!
//! The runner reads the needs off the module ([`of`]); the conductor holds them against the device
//! ([`rank`]), which decides the order of the search and nothing else, and against the ceilings of
//! the run ([`least_s`]), which is a bound: what it rules out need not be compiled.

use crate::catalogue::{Cover, Engine, Kernel};
use crate::normalise;
use crate::op::Case;
use crate::protocol::{Device, Estimate, Variant};
use crate::report::Ceiling;
use crate::variant::{Legal, SUBGROUP_SIZE, padding};

/// Registers of 32 bits that one invocation can have on GPUs of NVIDIA and AMD, and on Apple's, where
/// there are 256 of 16 bits. What needs more was seen to spill under the compilers for all three, and
/// most of what needs less not to (docs/kernels.md).
const REGISTERS_MAX: u32 = 255;
const REGISTERS_MAX_APPLE: u32 = 128;
/// Assumed of all other GPUs, for the order of a search alone: Intel's threads have 4 KiB of registers,
/// which is as many for each lane of a subgroup of 8.
const REGISTERS_MAX_OTHERS: u32 = 128;

/// Registers of one multiprocessor there.
const REGISTER_FILE: u32 = 65_536;

/// Vendors, by PCI id, whose register files are so.
const KNOWN_VENDORS: [&str; 2] = ["10de", "1002"];

/// How many times slower than it could be a kernel is taken for that does not tell what its tiles pad.
/// Plain kernels are among these, and an elaborate one that computes a few times too much is faster
/// still; kernels for a few rows are, too, and of these tiles compute many times too much.
const UNTOLD_COST: f64 = 8.0;

/// What sums that do not fit the registers were seen to cost.
const SPILL_COST: f64 = 4.0;

/// Whether more registers are told of a variant than an invocation has on this device.
#[must_use]
pub fn spills(estimate: &Estimate, device: &Device) -> bool {
    let limits = estimate.register_count.zip(registers_max(device));
    limits.is_some_and(|(needed, limit)| needed > limit)
}

/// Invocations on a multiprocessor below which little hides the latency of a load.
const RESIDENT_MIN: u32 = 128;

/// Workgroups that keep a GPU of unknown width busy: enough for most, and used for order only.
const WIDTH: [(&str, f64); 3] = [
    ("discrete_gpu", 128.0),
    ("virtual_gpu", 128.0),
    ("integrated_gpu", 16.0),
];

/// How much better than in the best sample of its probe a device may do for a moment, such as by a
/// clock that has just cooled down; beyond this a bound is a bound.
const GRACE: f64 = 1.25;

/// What a legal variant will need at this case.
#[must_use]
pub fn of(kernel: &Kernel, variant: &Variant, legal: &Legal, case: &Case) -> Estimate {
    let reflection = &legal.reflection;
    let invocation_count = |entry_point: &str| {
        let sizes = reflection.workgroup_sizes.get(entry_point);
        sizes.map_or(0, |[x, y, z]| x * y * z)
    };
    // The pass that makes the tiles is where the work is, else the widest; others prepare and add up.
    let workgroup_count = legal
        .grids
        .iter()
        .map(|grid| grid.iter().map(|&count| u64::from(count)).product())
        .zip(kernel.passes)
        .max_by_key(|(count, pass): &(u64, _)| {
            let tiles = pass.grid.iter().any(|cover| {
                matches!(cover, Cover::Tiles { extent, .. } if kernel.whole_tiles.contains(extent))
            });
            let invocations = u64::from(invocation_count(pass.entry_point));
            (tiles, count.saturating_mul(invocations))
        })
        .map(|(count, _)| count);
    Estimate {
        variant: variant.clone(),
        engine: Some(kernel.engine.label().to_owned()),
        workgroup_count,
        invocation_count: (kernel.passes.iter())
            .map(|pass| invocation_count(pass.entry_point))
            .max(),
        workgroup_bytes: Some(reflection.workgroup_bytes),
        register_count: reflection.register_counts.values().copied().max(),
        flop_count: (!kernel.whole_tiles.is_empty()).then(|| flop_count(kernel, legal, case)),
        padding_percent: Some(padding_percent(kernel, legal, case)),
    }
}

/// Of the pass that pads the most.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 100
fn padding_percent(kernel: &Kernel, legal: &Legal, case: &Case) -> u32 {
    let of_passes = padding(kernel, case, &legal.reflection);
    let most = of_passes.into_iter().fold(0.0, f64::max);
    (most * 100.0).round() as u32
}

/// Operations of a kernel that computes its tiles whole, what lies beyond the shape included. What it
/// adds along other dimensions is not counted, so it does no fewer than these.
fn flop_count(kernel: &Kernel, legal: &Legal, case: &Case) -> u64 {
    let covers = || kernel.passes.iter().flat_map(|pass| &pass.grid);
    let mut count = u128::from(case.flop_count());
    for whole in kernel.whole_tiles {
        let per = covers().find_map(|cover| match cover {
            Cover::Tiles { extent, per } if extent == whole => Some(*per),
            _ => None,
        });
        if let Some(size) = per.and_then(|per| legal.reflection.constants.get(per)) {
            let extent = case.op.op().extent(&case.shape, whole).max(1);
            let covered = extent.next_multiple_of(u64::from((*size).max(1)));
            count = count * u128::from(covered) / u128::from(extent);
        }
    }
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// How much longer than it has to a variant may take for what is known of it, as a power of two: 0
/// for one that nothing speaks against, 3 for one of whose tiles nothing is told. The search looks at
/// low ranks first, and at all if it has the time, for this is guesswork: of multiprocessors, say, no
/// API tells the number.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub fn rank(estimate: &Estimate, case: &Case, device: &Device) -> u32 {
    let mut times = match estimate.flop_count {
        Some(done) => done as f64 / case.flop_count().max(1) as f64,
        // Lanes whose tile lies beyond the shape may idle or compute for nothing: one token by a
        // kernel for sixteen queries is the work of one all the same, by a sixteenth of the lanes.
        None => {
            let padding = f64::from(estimate.padding_percent.unwrap_or(0).min(99));
            UNTOLD_COST / (1.0 - padding / 100.0)
        }
    };
    let width = WIDTH.iter().find(|(name, _)| *name == device.device_type);
    if let (Some((_, width)), Some(count)) = (width, estimate.workgroup_count) {
        times *= (width / count.max(1) as f64).max(1.0);
    }
    // Where the driver chooses among sizes of subgroups it was seen to take the largest for workgroups of
    // several (docs/kernels.md): of those that fewer lanes are laid out for, some are not there then.
    let largest = device.limits.get("subgroup_size_max").copied();
    if let (Some(largest), Some(&lanes)) = (largest, estimate.variant.variant.get(SUBGROUP_SIZE))
        && estimate.engine.as_deref() == Some(Engine::Matrix.label())
        && u64::from(lanes) < largest
    {
        times *= largest as f64 / f64::from(lanes);
    }
    if spills(estimate, device) {
        times *= SPILL_COST;
    }
    if let (Some(needed), true, Some(invocations)) = (
        estimate.register_count,
        known(device),
        estimate.invocation_count,
    ) && resident(estimate, needed, invocations, device) < RESIDENT_MIN.min(invocations)
    {
        times *= 2.0;
    }
    // Above half a power of two: what is hardly worse than another is looked at in its place.
    times.log2().round().max(0.0) as u32
}

/// The most registers of 32 bits that an invocation has on this device, where that is known.
fn registers_max(device: &Device) -> Option<u32> {
    // Metal gives no vendor's number.
    match device.name.starts_with("Apple") {
        true => Some(REGISTERS_MAX_APPLE),
        false if known(device) => Some(REGISTERS_MAX),
        // What is laid out for a CPU's registers and caches is looked at last on any GPU.
        false => (device.device_type != "cpu").then_some(REGISTERS_MAX_OTHERS),
    }
}

/// Whether the registers of this device are as those of NVIDIA's and AMD's GPUs.
fn known(device: &Device) -> bool {
    device.pci_id.as_ref().is_some_and(|id| {
        let vendor = id.split(':').next().unwrap_or_default();
        KNOWN_VENDORS.contains(&vendor.trim_start_matches("0x"))
    })
}

/// Invocations that a multiprocessor holds at a time.
fn resident(estimate: &Estimate, registers: u32, invocations: u32, device: &Device) -> u32 {
    let by_registers = REGISTER_FILE / registers.clamp(1, REGISTERS_MAX) / invocations.max(1);
    // What one workgroup may have is the least that a multiprocessor has.
    let by_memory = match (
        estimate.workgroup_bytes,
        device.limits.get("workgroup_bytes_max"),
    ) {
        (Some(needed), Some(&limit)) if needed > 0 => {
            u32::try_from(limit).unwrap_or(u32::MAX) / needed
        }
        _ => u32::MAX,
    };
    by_registers.min(by_memory).saturating_mul(invocations)
}

/// The least seconds in which a variant can do what it has to at this case, and the ceiling it would
/// then stand at; none where one of the ceilings that may bind it was not measured.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn least_s(
    estimate: &Estimate,
    case: &Case,
    ceilings: &[Ceiling],
    runner: &str,
) -> Option<(f64, &'static str)> {
    let engine = estimate.engine.as_deref()?;
    let by = (&*estimate.variant.kernel, engine);
    let (rate, name) = normalise::arithmetic_ceiling_of(case, by, ceilings, runner)?;
    Some((estimate.flop_count? as f64 / (GRACE * rate), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::kernels;
    use crate::op::{Dtype, OpName, Shape};
    use crate::variant::{combinations, default_capacity, fit};

    fn kernel(name: &str) -> Kernel {
        kernels().into_iter().find(|k| k.name == name).unwrap()
    }

    fn matmul(m: u64, n: u64, k: u64) -> Case {
        let shape = Shape::of(&[("m", m), ("n", n), ("k", k)]);
        Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap()
    }

    /// The estimate of the preferred variant with some values changed.
    fn estimate(name: &str, values: &[(&str, u32)], case: &Case) -> Estimate {
        let kernel = kernel(name);
        let mut variant = Variant {
            kernel: name.to_owned(),
            variant: combinations(&kernel).remove(0),
        };
        for &(tunable, value) in values {
            variant.variant.insert(tunable.to_owned(), value);
        }
        let mut capacity = default_capacity();
        capacity.workgroup_bytes_max = 1 << 16;
        let legal = fit(&kernel, &variant.variant, case, &capacity).unwrap();
        of(&kernel, &variant, &legal, case)
    }

    fn device(pci_id: Option<&str>, device_type: &str) -> Device {
        Device {
            pci_id: pci_id.map(str::to_owned),
            device_type: device_type.to_owned(),
            ..Device::default()
        }
    }

    #[test]
    fn at_decode_kernels_for_one_query_come_before_those_that_pad_it_to_many() {
        let shape = Shape::of(&[
            ("heads", 32),
            ("kv_heads", 8),
            ("query_len", 1),
            ("kv_len", 4096),
            ("head_dim", 128),
        ]);
        let case = Case::new(OpName::Attention, &shape, Dtype::F32).unwrap();
        let head = [("HEAD_DIM", 128)];
        let rank_of = |name: &str, more: &[(&str, u32)]| {
            let values = [&head[..], more].concat();
            rank(&estimate(name, &values, &case), &case, &device(None, "cpu"))
        };
        let decode = rank_of("attention/decode", &[]);
        let flash = rank_of("attention/flash", &[("BLOCK", 4), ("QUERIES", 1)]);
        assert!(decode + 2 <= flash, "{decode} and {flash}");
    }

    #[test]
    fn a_large_register_tile_is_told_from_one_that_spills() {
        let case = matmul(1024, 1024, 1024);
        let large = estimate("matmul/register_tile_vec4", &[], &case);
        let needed = large.register_count.unwrap();
        // 128 sums, 16 and 8 of the step, 16 and 16 of the next panels.
        assert!((168..=REGISTERS_MAX).contains(&needed), "{needed}");
        assert_eq!(large.workgroup_count, Some(64));
        let nvidia = device(Some("10de:2330"), "discrete_gpu");
        let spills = Estimate {
            register_count: Some(300),
            ..large.clone()
        };
        assert!(rank(&spills, &case, &nvidia) > rank(&large, &case, &nvidia));
        let unknown = device(None, "discrete_gpu");
        assert_eq!(
            rank(&spills, &case, &unknown),
            rank(&large, &case, &unknown)
        );
        // Apple's have half as many: there it is the large one that spills.
        let apple = Device {
            name: "Apple M3".to_owned(),
            ..device(None, "integrated_gpu")
        };
        let small = estimate("matmul/register_tile_vec4", &[("ROWS", 8)], &case);
        let needed = small.register_count.unwrap();
        assert!(needed <= REGISTERS_MAX_APPLE, "{needed}");
        assert!(rank(&large, &case, &apple) > rank(&small, &case, &apple));
    }

    #[test]
    fn tiles_that_hang_over_the_shape_or_leave_the_chip_idle_rank_behind_those_that_do_not() {
        let case = matmul(17, 4096, 4096);
        let tall = estimate("matmul/register_tile", &[], &case);
        let low = estimate(
            "matmul/register_tile",
            &[("THREADS_Y", 8), ("ROWS", 4), ("DEPTH", 16)],
            &case,
        );
        assert_eq!(tall.flop_count, Some(case.flop_count() / 17 * 128));
        assert_eq!(low.flop_count, Some(case.flop_count() / 17 * 32));
        let gpu = device(None, "discrete_gpu");
        assert!(rank(&tall, &case, &gpu) > rank(&low, &case, &gpu));
        let plain = estimate("matmul/naive", &[], &case);
        assert_eq!(plain.flop_count, None);
        // A plain kernel waits for those with tiles that fit, and not for those that hang over.
        assert!(rank(&plain, &case, &gpu) >= rank(&low, &case, &gpu));
        assert!(rank(&plain, &case, &gpu) < rank(&tall, &case, &gpu));
        let alone = matmul(128, 128, 4096);
        let one = estimate("matmul/register_tile_vec4", &[], &alone);
        let split = estimate("matmul/register_tile_split_k", &[("SPLITS", 16)], &alone);
        assert_eq!(
            (one.workgroup_count, split.workgroup_count),
            (Some(1), Some(16))
        );
        assert!(rank(&one, &alone, &gpu) > rank(&split, &alone, &gpu));
        assert_eq!(rank(&one, &alone, &device(None, "cpu")), 0);
    }

    #[test]
    fn where_the_driver_chooses_the_size_of_subgroups_matrix_kernels_for_the_largest_come_first() {
        let of = |lanes: u32| Estimate {
            engine: Some("matrix".to_owned()),
            flop_count: Some(2 * 512 * 512 * 512),
            variant: Variant {
                kernel: "matmul/matrix_tile".to_owned(),
                variant: [(SUBGROUP_SIZE.to_owned(), lanes)].into(),
            },
            ..Estimate::default()
        };
        let case = matmul(512, 512, 512);
        let on = |lanes: u32, smallest: u64, largest: u64| {
            let limits = [
                ("subgroup_size_min", smallest),
                ("subgroup_size_max", largest),
            ];
            let device = Device {
                limits: limits.map(|(name, size)| (name.to_owned(), size)).into(),
                ..device(Some("1002:744c"), "discrete_gpu")
            };
            rank(&of(lanes), &case, &device)
        };
        assert!(on(32, 32, 64) > on(64, 32, 64));
        assert_eq!(on(32, 32, 32), on(64, 32, 64));
    }

    #[test]
    fn a_bound_needs_every_ceiling_that_could_be_higher() {
        let ceiling = |name: &str, value: f64| Ceiling {
            name: name.to_owned(),
            value,
            unit: "flop_per_s".to_owned(),
            case_id: String::new(),
            runner: "wgpu".to_owned(),
        };
        let case = Case {
            dtype: Dtype::F16,
            ..matmul(17, 64, 64)
        };
        let told = Estimate {
            engine: Some("alu".to_owned()),
            flop_count: Some(2_500_000),
            ..Estimate::default()
        };
        let mut ceilings = vec![ceiling(normalise::ALU_F32, 1e6)];
        assert_eq!(least_s(&told, &case, &ceilings, "wgpu"), None);
        ceilings.push(ceiling(normalise::ALU_F16, 2e6));
        let bound = least_s(&told, &case, &ceilings, "wgpu");
        assert_eq!(bound, Some((1.0, normalise::ALU_F16)));
        assert_eq!(least_s(&told, &case, &ceilings, "host"), None);
        let unpadded = Estimate {
            flop_count: None,
            ..told
        };
        assert_eq!(least_s(&unpadded, &case, &ceilings, "wgpu"), None);
    }

    #[test]
    fn whole_tiles_are_extents_that_a_kernel_covers_by_tiles_once() {
        for kernel in kernels() {
            for whole in kernel.whole_tiles {
                let covers = kernel.passes.iter().flat_map(|pass| &pass.grid);
                let count = covers
                    .filter(|cover| matches!(cover, Cover::Tiles { extent, .. } if extent == whole))
                    .count();
                assert_eq!(count, 1, "{} {whole}", kernel.name);
            }
        }
    }
}
