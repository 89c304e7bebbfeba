//! Every kernel, as data. Adding one means one `.wgsl` file and one entry here.

use std::borrow::Cow;
use std::fmt;

use crate::input::Element;
use crate::op::transfer::CHAIN_LAUNCHES;
use crate::op::{Dtype, OpName};

/// A named constant of a kernel that the harness may rewrite, and the values worth trying.
#[derive(Clone, Copy, Debug)]
pub struct Tunable {
    /// Name of the `const` in the source.
    pub name: &'static str,
    /// Values, the best guess for an unknown chip first.
    pub values: &'static [u32],
}

/// How many workgroups one dimension of a grid has.
#[derive(Clone, Copy, Debug)]
pub enum Cover {
    /// One.
    One,
    /// One for each unit of an extent of the op, such as `batch_heads`.
    Each(&'static str),
    /// Enough that the named constant of the kernel, times the count, covers the extent.
    Tiles {
        /// Dimension or derived extent of the op.
        extent: &'static str,
        /// Name of the `const` in the kernel that says how much of it one workgroup does.
        per: &'static str,
    },
    /// As many as [`Cover::Tiles`], but no more than a grid may have: a kernel that asks how many
    /// there are and goes on in strides covers the rest.
    Strides {
        /// Dimension or derived extent of the op.
        extent: &'static str,
        /// Name of the `const` in the kernel that says how much of it one workgroup does a turn.
        per: &'static str,
    },
}

/// One dispatch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Name of the entry point.
    pub entry_point: &'static str,
    /// Workgroups in x, y and z.
    pub grid: [Cover; 3],
}

/// What a kernel needs of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Subgroup operations. Such a kernel's constant `SUBGROUP_SIZE` is tried only where it is the
    /// device's smallest subgroup size, so that one workgroup of that many lanes is one subgroup.
    Subgroup,
    /// Integers of 64 bits.
    Int64,
    /// Products of matrices that a subgroup forms by itself, in this very configuration.
    CooperativeMatrix(MatrixTile),
}

/// A product of square matrices that a subgroup forms by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixTile {
    /// Rows and columns of each matrix.
    pub size: u32,
    /// What the factors are made of.
    pub input: Element,
    /// What sums are kept in.
    pub accumulator: Element,
}

impl fmt::Display for MatrixTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            size,
            input,
            accumulator,
        } = self;
        write!(
            f,
            "cooperative_matrix_{size}x{size}_{}_{}",
            input.label(),
            accumulator.label()
        )
    }
}

/// What a kernel needs of the shape.
#[derive(Clone, Copy, Debug)]
pub enum Requirement {
    /// The dimension must be a multiple of this number.
    Multiple(&'static str, u64),
    /// The dimension must not be larger than this number.
    AtMost(&'static str, u64),
    /// The dimension must equal this number.
    Equals(&'static str, u64),
    /// The tunable must be the smallest of its values that is at least the dimension.
    SmallestAtLeast {
        /// Name of the tunable.
        tunable: &'static str,
        /// Name of the dimension.
        dim: &'static str,
    },
}

/// Which units of the chip do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Ordinary arithmetic units.
    Alu,
    /// Units that multiply whole matrices.
    Matrix,
}

impl Engine {
    /// The word in reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Alu => "alu",
            Self::Matrix => "matrix",
        }
    }
}

/// One implementation of an op in WGSL.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The path of its source below `shaders/`, without the ending.
    pub name: Cow<'static, str>,
    /// What it computes.
    pub op: OpName,
    /// WGSL, valid as it lies on disk.
    pub source: Cow<'static, str>,
    /// Element types it works on.
    pub dtypes: &'static [Dtype],
    /// Constants that may be rewritten.
    pub tunables: &'static [Tunable],
    /// Dispatches of one call, in order.
    pub passes: &'static [Pass],
    /// Extent of the op that gives the f32 elements of a scratch buffer, bound after the output.
    pub scratch: Option<&'static str>,
    /// What it needs of the device.
    pub features: &'static [Feature],
    /// What it needs of the shape.
    pub requirements: &'static [Requirement],
    /// Which units it uses.
    pub engine: Engine,
    /// Whether each call is submitted and waited for by itself, on the host's clock.
    pub apart: bool,
}

macro_rules! kernel {
    ($name:literal, $op:ident, { $($field:ident: $value:expr),* $(,)? }) => {
        Kernel {
            name: Cow::Borrowed($name),
            op: OpName::$op,
            source: Cow::Borrowed(include_str!(concat!("../shaders/", $name, ".wgsl"))),
            $($field: $value,)*
            ..Kernel::TEMPLATE
        }
    };
}

const fn tiles(extent: &'static str, per: &'static str) -> Cover {
    Cover::Tiles { extent, per }
}

const fn strides(extent: &'static str, per: &'static str) -> Cover {
    Cover::Strides { extent, per }
}

impl Kernel {
    const TEMPLATE: Self = Self {
        name: Cow::Borrowed(""),
        op: OpName::Empty,
        source: Cow::Borrowed(""),
        dtypes: &[Dtype::F32],
        tunables: &[],
        passes: &[],
        scratch: None,
        features: &[],
        requirements: &[],
        engine: Engine::Alu,
        apart: false,
    };
}

const fn tune(name: &'static str, values: &'static [u32]) -> Tunable {
    Tunable { name, values }
}

const fn matrix(size: u32, input: Element, accumulator: Element) -> Feature {
    Feature::CooperativeMatrix(MatrixTile {
        size,
        input,
        accumulator,
    })
}

const fn pass(entry_point: &'static str, grid: [Cover; 3]) -> Pass {
    Pass { entry_point, grid }
}

/// Every kernel, grouped by op, within an op from the plainest to the most elaborate.
#[must_use]
pub fn kernels() -> Vec<Kernel> {
    use Cover::{Each, One};
    use Requirement::{Equals, Multiple, SmallestAtLeast};

    const EMPTY: &[Pass] = &[pass("main", [One, One, One])];
    const FMA: &[Pass] = &[pass("main", [tiles("invocations", "TILE"), One, One])];
    const STREAM: &[Pass] = &[pass("main", [strides("n", "TILE"), One, One])];
    const STREAM_TUNABLES: &[Tunable] =
        &[tune("THREADS", &[256, 64, 8]), tune("VECTORS", &[4, 16, 1])];
    const READ: &[Pass] = &[pass("main", [strides("outputs", "TILE"), One, One])];
    const CHAIN: &[Pass] = &{
        let mut passes = [pass("start", [One, One, One]); CHAIN_LAUNCHES as usize];
        let mut launch = 1;
        while launch < passes.len() {
            passes[launch].entry_point = if launch % 2 == 1 {
                "double"
            } else {
                "increment"
            };
            launch += 1;
        }
        passes
    };
    const MATRIX_FMA: &[Pass] = &[pass("main", [tiles("blocks", "TILE"), One, One])];
    const MATRIX_TUNABLES: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        tune("SUBGROUPS", &[4, 2, 8]),
        tune("ACCUMULATORS", &[8, 4, 2, 16]),
    ];
    // Four accumulators of 8 x 8 make a block.
    const MATRIX_TUNABLES_8: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        tune("SUBGROUPS", &[4, 2, 8]),
        tune("BLOCKS", &[2, 4, 1]),
    ];
    const MATMUL: &[Pass] = &[pass(
        "main",
        [tiles("n", "TILE_N"), tiles("m", "TILE_M"), Each("batch")],
    )];
    const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::F16F16];
    const PLAIN_B: &[Requirement] = &[Equals("trans_b", 0)];
    // Workgroups go down the columns first.
    const MATMUL_M_FIRST: &[Pass] = &[pass(
        "main",
        [tiles("m", "TILE_M"), tiles("n", "TILE_N"), Each("batch")],
    )];
    const MATMUL_QUADS: &[Requirement] =
        &[Equals("trans_b", 0), Multiple("n", 4), Multiple("k", 4)];
    const SUBGROUP_PANEL: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        tune("ROWS", &[64, 32, 16]),
        tune("VECTORS", &[2, 1]),
        tune("DEPTH", &[8, 4]),
    ];
    const ATTENTION_NAIVE: &[Pass] = &[
        pass(
            "scores",
            [
                tiles("kv_len", "TILE_X"),
                tiles("query_len", "TILE_Y"),
                Each("batch_heads"),
            ],
        ),
        pass("softmax", [Each("query_len"), Each("batch_heads"), One]),
        pass(
            "product",
            [
                tiles("head_dim", "TILE_X"),
                tiles("query_len", "TILE_Y"),
                Each("batch_heads"),
            ],
        ),
    ];
    const ATTENTION: &[Pass] = &[pass(
        "main",
        [tiles("query_len", "TILE_Q"), Each("batch_heads"), One],
    )];
    const HEAD_DIM: Requirement = SmallestAtLeast {
        tunable: "HEAD_DIM",
        dim: "head_dim",
    };
    const FULL: &[Requirement] = &[Equals("causal", 0), HEAD_DIM];
    const FULL_VEC4: &[Requirement] = &[Equals("causal", 0), Multiple("head_dim", 4), HEAD_DIM];
    const CAUSAL_VEC4: &[Requirement] = &[Equals("causal", 1), Multiple("head_dim", 4), HEAD_DIM];
    const CAUSAL: &[Requirement] = &[Equals("causal", 1), HEAD_DIM];
    const FLASH: &[Tunable] = &[
        tune("HEAD_DIM", &[64, 128, 256, 32]),
        tune("THREADS", &[32, 64]),
        tune("QUERIES", &[1, 2, 4]),
        tune("BLOCK", &[4, 8, 2]),
    ];
    const FLASH_TILE: &[Tunable] = &[
        tune("HEAD_DIM", &[64, 128, 256, 32]),
        tune("ROWS", &[4, 8]),
        tune("THREADS_Y", &[16, 8]),
        tune("DEPTH", &[16, 32]),
    ];
    // A block has as many keys as the subgroup has lanes, and is unrolled: larger ones are too large.
    const FLASH_PANEL: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[8, 4, 16]),
        tune("HEAD_DIM", &[64, 128, 32]),
        tune("QUERIES", &[4, 2, 1]),
        tune("KEYS", &[2, 1]),
    ];
    const FLASH_SUBGROUP: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        tune("HEAD_DIM", &[64, 128, 256, 32]),
        tune("QUERIES", &[2, 4, 1]),
        tune("BLOCK", &[8, 4]),
    ];

    vec![
        kernel!("probe/empty", Empty, { passes: EMPTY }),
        kernel!("probe/fma_f32", Fma, {
            tunables: const { &[tune("ACCUMULATORS", &[8, 12, 4, 24])] },
            passes: FMA,
        }),
        kernel!("probe/fma_f32_vec4", Fma, {
            tunables: const { &[tune("ACCUMULATORS", &[2, 3, 1, 6])] },
            passes: FMA,
        }),
        kernel!("probe/fma_f16_vec2", Fma, {
            dtypes: &[Dtype::F16],
            tunables: const { &[tune("ACCUMULATORS", &[6, 12, 4, 3])] },
            passes: FMA,
        }),
        kernel!("probe/fma_f16_vec4", Fma, {
            dtypes: &[Dtype::F16],
            tunables: const { &[tune("ACCUMULATORS", &[3, 6, 2])] },
            passes: FMA,
        }),
        kernel!("probe/fma_i32", Fma, {
            dtypes: &[Dtype::I32],
            tunables: const { &[tune("ACCUMULATORS", &[8, 12, 4, 24])] },
            passes: FMA,
        }),
        kernel!("probe/fma_i32_vec4", Fma, {
            dtypes: &[Dtype::I32],
            tunables: const { &[tune("ACCUMULATORS", &[2, 3, 1, 6])] },
            passes: FMA,
        }),
        kernel!("probe/dot4_i8", Dot4, {
            dtypes: &[Dtype::I8],
            tunables: const { &[tune("ACCUMULATORS", &[8, 12, 4, 24])] },
            passes: FMA,
        }),
        kernel!("probe/matrix_f16", MatrixFma, {
            dtypes: &[Dtype::F16],
            tunables: MATRIX_TUNABLES,
            passes: MATRIX_FMA,
            features: const {
                &[matrix(16, Element::F16, Element::F32), Feature::Subgroup]
            },
            engine: Engine::Matrix,
        }),
        kernel!("probe/matrix_f16_f16", MatrixFma, {
            dtypes: &[Dtype::F16F16],
            tunables: MATRIX_TUNABLES,
            passes: MATRIX_FMA,
            features: const {
                &[matrix(16, Element::F16, Element::F16), Feature::Subgroup]
            },
            engine: Engine::Matrix,
        }),
        kernel!("probe/matrix_8x8_f16", MatrixFma, {
            dtypes: &[Dtype::F16],
            tunables: MATRIX_TUNABLES_8,
            passes: MATRIX_FMA,
            features: const {
                &[matrix(8, Element::F16, Element::F32), Feature::Subgroup]
            },
            engine: Engine::Matrix,
        }),
        kernel!("probe/matrix_8x8_f16_f16", MatrixFma, {
            dtypes: &[Dtype::F16F16],
            tunables: MATRIX_TUNABLES_8,
            passes: MATRIX_FMA,
            features: const {
                &[matrix(8, Element::F16, Element::F16), Feature::Subgroup]
            },
            engine: Engine::Matrix,
        }),
        kernel!("probe/matrix_8x8_f32", MatrixFma, {
            tunables: MATRIX_TUNABLES_8,
            passes: MATRIX_FMA,
            features: const {
                &[matrix(8, Element::F32, Element::F32), Feature::Subgroup]
            },
            engine: Engine::Matrix,
        }),
        kernel!("probe/workgroup_read", WorkgroupRead, {
            tunables: const {
                &[tune("THREADS", &[256, 64, 128]), tune("ACCUMULATORS", &[2, 4, 1, 8])]
            },
            passes: const { &[pass("main", [tiles("invocations", "TILE"), One, One])] },
        }),
        kernel!("probe/copy", Copy, {
            tunables: STREAM_TUNABLES,
            passes: STREAM,
            requirements: &[Multiple("n", 4)],
        }),
        kernel!("probe/read", Read, {
            tunables: const { &[tune("THREADS", &[256, 64, 8]), tune("VECTORS", &[8, 16, 2])] },
            passes: READ,
        }),
        kernel!("probe/write", Write, {
            tunables: STREAM_TUNABLES,
            passes: STREAM,
            requirements: &[Multiple("n", 4)],
        }),
        kernel!("probe/triad", Triad, {
            tunables: STREAM_TUNABLES,
            passes: STREAM,
            requirements: &[Multiple("n", 4)],
        }),
        kernel!("probe/chase", Chase, { passes: EMPTY }),
        kernel!("probe/chain", Chain, { passes: CHAIN }),
        kernel!("transfer/round_trip", RoundTrip, { passes: EMPTY, apart: true }),
        kernel!("matmul/naive", Matmul, {
            dtypes: FLOATS,
            tunables: const { &[tune("TILE_N", &[16, 8, 32]), tune("TILE_M", &[16, 8, 4])] },
            passes: MATMUL,
        }),
        kernel!("matmul/workgroup_tile", Matmul, {
            dtypes: FLOATS,
            tunables: const { &[tune("TILE", &[16, 8, 32])] },
            passes: MATMUL,
        }),
        kernel!("matmul/register_tile", Matmul, {
            dtypes: FLOATS,
            requirements: PLAIN_B,
            tunables: const {
                &[
                    tune("THREADS_X", &[16, 8]),
                    tune("THREADS_Y", &[16, 8]),
                    tune("ROWS", &[8, 4]),
                    tune("COLUMNS", &[8]),
                    tune("DEPTH", &[8, 16, 32]),
                ]
            },
            passes: MATMUL,
        }),
        kernel!("matmul/subgroup_broadcast", Matmul, {
            tunables: const {
                &[
                    tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
                    tune("ROWS", &[16, 32, 8]),
                    tune("COLUMNS", &[4, 8, 2, 1]),
                ]
            },
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup],
            requirements: PLAIN_B,
        }),
        kernel!("matmul/subgroup_broadcast_vec4", Matmul, {
            tunables: const {
                &[
                    tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
                    tune("ROWS", &[16, 32, 64, 8]),
                    tune("VECTORS", &[1, 2]),
                ]
            },
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup],
            requirements: &[Equals("trans_b", 0), Multiple("n", 4)],
        }),
        kernel!("matmul/subgroup_panel", Matmul, {
            tunables: SUBGROUP_PANEL,
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup],
            requirements: MATMUL_QUADS,
        }),
        kernel!("matmul/subgroup_panel_u64", Matmul, {
            tunables: SUBGROUP_PANEL,
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup, Feature::Int64],
            requirements: MATMUL_QUADS,
        }),
        kernel!("attention/naive", Attention, {
            tunables: const { &[tune("TILE_X", &[16, 8]), tune("THREADS", &[64, 8])] },
            passes: ATTENTION_NAIVE,
            scratch: Some("scores"),
        }),
        kernel!("attention/flash", Attention, {
            tunables: FLASH,
            passes: ATTENTION,
            requirements: FULL_VEC4,
        }),
        kernel!("attention/flash_causal", Attention, {
            tunables: FLASH,
            passes: ATTENTION,
            requirements: CAUSAL_VEC4,
        }),
        kernel!("attention/flash_tile", Attention, {
            tunables: FLASH_TILE,
            passes: ATTENTION,
            requirements: FULL,
        }),
        kernel!("attention/flash_tile_causal", Attention, {
            tunables: FLASH_TILE,
            passes: ATTENTION,
            requirements: CAUSAL,
        }),
        kernel!("attention/flash_subgroup", Attention, {
            tunables: FLASH_SUBGROUP,
            passes: ATTENTION,
            features: &[Feature::Subgroup],
            requirements: FULL,
        }),
        kernel!("attention/flash_subgroup_causal", Attention, {
            tunables: FLASH_SUBGROUP,
            passes: ATTENTION,
            features: &[Feature::Subgroup],
            requirements: CAUSAL,
        }),
        kernel!("attention/flash_panel", Attention, {
            tunables: FLASH_PANEL,
            passes: ATTENTION,
            features: &[Feature::Subgroup],
            requirements: FULL_VEC4,
        }),
        kernel!("attention/flash_panel_causal", Attention, {
            tunables: FLASH_PANEL,
            passes: ATTENTION,
            features: &[Feature::Subgroup],
            requirements: CAUSAL_VEC4,
        }),
        kernel!("attention/flash_panel_u64", Attention, {
            tunables: FLASH_PANEL,
            passes: ATTENTION,
            features: &[Feature::Subgroup, Feature::Int64],
            requirements: FULL_VEC4,
        }),
        kernel!("attention/flash_panel_u64_causal", Attention, {
            tunables: FLASH_PANEL,
            passes: ATTENTION,
            features: &[Feature::Subgroup, Feature::Int64],
            requirements: CAUSAL_VEC4,
        }),
    ]
}
