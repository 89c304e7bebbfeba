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
    /// As many as the named constant of the kernel says.
    Count(&'static str),
    /// Enough that the named constant of the kernel, times the count, covers the extent.
    Tiles {
        /// Dimension or derived extent of the op.
        extent: &'static str,
        /// Name of the `const` in the kernel that says how much of it one workgroup does.
        per: &'static str,
    },
    /// The named constant of the kernel for each unit of an extent of the op.
    Times {
        /// Dimension or derived extent of the op.
        extent: &'static str,
        /// Name of the `const` in the kernel that says how many workgroups share a unit.
        by: &'static str,
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
    /// Subgroup operations in a kernel that is right whatever number of lanes, from 32 up, subgroups have.
    /// Its constant `SUBGROUP_SIZE` is the number it is laid out for and tried wherever the device's
    /// subgroups may have it: on some devices it is the driver that chooses, from what the kernel looks
    /// like. Where there may be fewer than 32, as [`Feature::Subgroup`].
    AnySubgroup,
    /// Integers of 64 bits.
    Int64,
    /// Products of matrices that a subgroup forms by itself, in this very configuration.
    CooperativeMatrix(MatrixTile),
    /// The same for square matrices of this size, in the types that the dtype says.
    MatrixOfDtype(u32),
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
    /// One of the dimensions at least must not be a multiple of this number: another kernel is for
    /// those that are.
    Unaligned(&'static [&'static str], u64),
    /// Not what the kernel of that name does better: cases of this dtype that meet all of these, none
    /// of which is about a tunable.
    LeftTo(&'static str, Dtype, &'static [Requirement]),
    /// The dimension must not be smaller than this number.
    AtLeast(&'static str, u64),
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
    /// Constant of the kernel that says how many such extents the scratch buffer holds, if not one.
    pub scratch_copies: Option<&'static str>,
    /// Whether scratch is a texture of vectors of four, [`TEXTURE_WIDTH`](crate::gpu::TEXTURE_WIDTH)
    /// to a row: the passes that write it know it at the binding after the output, those that read it
    /// at the next one.
    pub scratch_is_texture: bool,
    /// What it needs of the device.
    pub features: &'static [Feature],
    /// What it needs of the shape.
    pub requirements: &'static [Requirement],
    /// Which units it uses.
    pub engine: Engine,
    /// Whether each call is submitted and waited for by itself, on the host's clock.
    pub apart: bool,
    /// Extents that it covers by tiles each of which it computes whole, what lies beyond the shape
    /// included. Only where that is certain: it bounds from below what the kernel can take, and
    /// variants are left out by it.
    pub whole_tiles: &'static [&'static str],
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
        scratch_copies: None,
        scratch_is_texture: false,
        features: &[],
        requirements: &[],
        engine: Engine::Alu,
        apart: false,
        whole_tiles: &[],
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
    use Cover::{Count, Each, One};
    use Requirement::{AtLeast, AtMost, Equals, LeftTo, Multiple, SmallestAtLeast, Unaligned};

    const EMPTY: &[Pass] = &[pass("main", [One, One, One])];
    const FMA: &[Pass] = &[pass("main", [tiles("invocations", "TILE"), One, One])];
    const STREAM: &[Pass] = &[pass("main", [strides("n", "TILE"), One, One])];
    const STREAM_TUNABLES: &[Tunable] =
        &[tune("THREADS", &[256, 64, 8]), tune("VECTORS", &[4, 16, 1])];
    // Loads ahead of all stores cost a processor 5 %, and it looks at one variant alone of the large sets.
    const COPY_TUNABLES: &[Tunable] = &[
        tune("THREADS", &[256, 64, 8]),
        tune("VECTORS", &[4, 16, 1]),
        tune("AHEAD", &[0, 1]),
    ];
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
    const WHOLE: &[&str] = &["m", "n"];
    // The sum along k is divided among workgroups, and their parts are added up.
    const SPLIT_K: &[Pass] = &[
        pass(
            "product",
            [
                tiles("n", "TILE_N"),
                tiles("m", "TILE_M"),
                Cover::Times {
                    extent: "batch",
                    by: "SPLITS",
                },
            ],
        ),
        pass("reduce", [tiles("c", "REDUCE_TILE"), One, One]),
    ];
    const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::F16F16];
    const PLAIN_B: &[Requirement] = &[Equals("trans_b", 0)];
    // Tiles for warps of 32 lanes, in vectors of four.
    const WARP_TILE: &[Tunable] = &[
        tune("WARPS_X", &[2, 4, 1]),
        tune("WARPS_Y", &[2, 4]),
        tune("ROWS", &[16, 8]),
        tune("DEPTH", &[16, 8, 32]),
        tune("BUFFERS", &[1, 2]),
        tune("GROUP", &[8, 1]),
    ];
    const DOT4_TILE: &[Tunable] = &[
        tune("WARPS_X", &[2, 4, 1]),
        tune("WARPS_Y", &[2, 4]),
        tune("ROWS", &[16, 8]),
        tune("DEPTH", &[8, 16]),
    ];
    const PLAIN_B_VEC4: &[Requirement] =
        &[Equals("trans_b", 0), Multiple("n", 4), Multiple("k", 4)];
    const TRANS_B_VEC4: &[Requirement] =
        &[Equals("trans_b", 1), Multiple("n", 4), Multiple("k", 4)];
    // Workgroups go down the columns first.
    const MATMUL_M_FIRST: &[Pass] = &[pass(
        "main",
        [tiles("m", "TILE_M"), tiles("n", "TILE_N"), Each("batch")],
    )];
    // A few rows of A: every kernel of this family has room for as many as there are.
    const GEMV_M: Tunable = tune("M", &[1, 2, 4, 8]);
    const FEW_ROWS: Requirement = AtMost("m", 8);
    const ROOM_M: Requirement = SmallestAtLeast {
        tunable: "M",
        dim: "m",
    };
    const TRANSPOSED: Requirement = Equals("trans_b", 1);
    const GEMV: &[Pass] = &[pass("main", [tiles("n", "COLUMNS"), One, Each("batch")])];
    const GEMV_COLUMNS: &[Pass] = &[pass("main", [tiles("n", "TILE_N"), One, Each("batch")])];
    const GEMV_COLUMNS_SPLIT: &[Pass] = &[
        pass(
            "multiply",
            [tiles("n", "TILE_N"), Count("SPLITS"), Each("batch")],
        ),
        pass("add", [tiles("matrix_c", "TILE_C"), One, Each("batch")]),
    ];
    const GEMV_TUNABLES: &[Tunable] = &[
        GEMV_M,
        tune("THREADS", &[64, 128, 8]),
        tune("COLUMNS", &[4, 2, 8]),
        tune("UNROLL", &[2, 4]),
    ];
    const GEMV_TUNABLES_WORDS: &[Tunable] = &[
        GEMV_M,
        tune("THREADS", &[64, 128, 8]),
        tune("COLUMNS", &[4, 2, 8]),
        tune("UNROLL", &[4, 2]),
    ];
    const MATMUL_QUADS: &[Requirement] =
        &[Equals("trans_b", 0), Multiple("n", 4), Multiple("k", 4)];
    const SUBGROUP_PACKED: &[Pass] = &[
        pass("pack_a", [Each("m"), One, Each("batch")]),
        pass("pack_b", [Each("k"), One, Each("batch")]),
        pass(
            "multiply",
            [tiles("m", "TILE_M"), tiles("n", "TILE_N"), Each("batch")],
        ),
    ];
    const SUBGROUP_PACKED_SCALAR: &[Pass] = &[
        pass("pack_a", [Each("m"), One, Each("batch")]),
        pass("pack_b", [tiles("k", "VECTOR"), One, Each("batch")]),
        pass(
            "multiply",
            [tiles("m", "TILE_M"), tiles("n", "TILE_N"), Each("batch")],
        ),
    ];
    const SUBGROUP_PANEL: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        tune("ROWS", &[64, 32, 16]),
        tune("VECTORS", &[2, 1]),
        tune("DEPTH", &[8, 4]),
    ];
    // Loads are cheap there, so what counts is that the unrolled turn fits the first cache of
    // instructions.
    const SUBGROUP_TEXTURE: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        tune("ROWS", &[32, 16, 64]),
        tune("VECTORS", &[2, 1]),
        tune("DEPTH", &[4, 8]),
    ];
    const F32_F16: &[Dtype] = &[Dtype::F32, Dtype::F16];
    const HALVES: &[Dtype] = &[Dtype::F16, Dtype::F16F16];
    const MATRIX_16: &[Feature] = &[Feature::MatrixOfDtype(16), Feature::AnySubgroup];
    // WGSL has no matrices of bytes; those of f16 hold them.
    const MATRIX_16_OF_BYTES: &[Feature] =
        &[matrix(16, Element::F16, Element::F32), Feature::AnySubgroup];
    const MATRIX_TILE: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 64]),
        tune("SUBGROUPS_M", &[2, 1]),
        tune("SUBGROUPS_N", &[2, 4]),
        tune("ROWS", &[4, 2]),
        tune("COLUMNS", &[4, 2]),
        tune("DEPTH", &[32, 64, 16]),
        tune("GROUP", &[8]),
    ];
    // Here 128 x 256 comes first: at 128 x 128 a compiler for NVIDIA's GPUs spills.
    const MATRIX_TILE_SCALAR: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 64]),
        tune("SUBGROUPS_M", &[2, 1]),
        tune("SUBGROUPS_N", &[4, 2]),
        tune("ROWS", &[4, 2]),
        tune("COLUMNS", &[4]),
        tune("DEPTH", &[32]),
        tune("GROUP", &[8]),
    ];
    // Down to tiles of 16 rows, for as few tokens.
    const MATRIX_TILE_SPLIT: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 64]),
        tune("SUBGROUPS_M", &[2, 1]),
        tune("SUBGROUPS_N", &[2, 4]),
        tune("ROWS", &[4, 2, 1]),
        tune("COLUMNS", &[4, 2]),
        tune("DEPTH", &[32]),
        tune("SPLITS", &[4, 16, 8]),
    ];
    // A panel is at least as deep as the blocks that share a scale. High tiles, for the unpacking is shared
    // by their rows.
    const MATRIX_TILE_W4: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 64]),
        tune("SUBGROUPS_M", &[2, 4, 1]),
        tune("SUBGROUPS_N", &[2, 4]),
        tune("ROWS", &[4, 2, 1]),
        tune("COLUMNS", &[4]),
        tune("DEPTH", &[32, 64]),
        tune("GROUP", &[8]),
    ];
    // Panels 128 deep are for few rows, whose time is that of reading weights: so many must be under way.
    const MATRIX_TILE_W4_SPLIT: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 64]),
        tune("SUBGROUPS_M", &[1, 2]),
        tune("SUBGROUPS_N", &[2, 4]),
        tune("ROWS", &[4, 2, 1]),
        tune("COLUMNS", &[4]),
        tune("DEPTH", &[32, 64, 128]),
        tune("SPLITS", &[4, 16, 8, 2]),
    ];
    const MATRIX_DIRECT: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 64]),
        tune("SUBGROUPS_M", &[2]),
        tune("SUBGROUPS_N", &[2, 4]),
        tune("ROWS", &[4, 2]),
        tune("COLUMNS", &[4, 2]),
        tune("GROUP", &[8]),
    ];
    const MATRIX_8: &[Feature] = &[Feature::MatrixOfDtype(8), Feature::Subgroup];
    const MATRIX_TILE_8: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8]),
        tune("SUBGROUPS_M", &[2]),
        tune("SUBGROUPS_N", &[2]),
        tune("ROWS", &[4, 8]),
        tune("COLUMNS", &[4, 8]),
        tune("DEPTH", &[16, 32]),
        tune("GROUP", &[8]),
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
    // Workgroups begin in the order of x, then y. A causal kernel whose longest walks are to come first has
    // the heads on x, so that the long walks of all heads come before any short one.
    const ATTENTION_LONGEST_FIRST: &[Pass] = &[pass(
        "main",
        [Each("batch_heads"), tiles("query_len", "TILE_Q"), One],
    )];
    // The keys of a head are split over workgroups, and what comes of the parts is merged.
    const DECODE: &[Pass] = &[
        pass(
            "main",
            [
                Count("SPLITS"),
                tiles("group_rows", "ROWS"),
                Each("batch_kv_heads"),
            ],
        ),
        pass("merge", [Each("query_len"), Each("batch_heads"), One]),
    ];
    const HEAD_DIM: Requirement = SmallestAtLeast {
        tunable: "HEAD_DIM",
        dim: "head_dim",
    };
    // Keys of a head one after the other, or in pages that a table names.
    const UNPAGED: Requirement = Equals("page", 0);
    const PAGED: Requirement = AtLeast("page", 1);
    const FULL: &[Requirement] = &[UNPAGED, Equals("causal", 0), HEAD_DIM];
    const FULL_VEC4: &[Requirement] = &[
        UNPAGED,
        Equals("causal", 0),
        Multiple("head_dim", 4),
        HEAD_DIM,
    ];
    const CAUSAL_VEC4: &[Requirement] = &[
        UNPAGED,
        Equals("causal", 1),
        Multiple("head_dim", 4),
        HEAD_DIM,
    ];
    const CAUSAL: &[Requirement] = &[UNPAGED, Equals("causal", 1), HEAD_DIM];
    const FEW_QUERIES: &[Requirement] = &[
        UNPAGED,
        AtMost("query_len", 8),
        Multiple("head_dim", 4),
        HEAD_DIM,
    ];
    const FEW_QUERIES_PAGED: &[Requirement] = &[
        PAGED,
        AtMost("query_len", 8),
        Multiple("head_dim", 4),
        HEAD_DIM,
    ];
    // The keys that a team loads at once lie in one page.
    const FEW_QUERIES_PAGED_BLOCK: &[Requirement] = &[
        PAGED,
        Multiple("page", 8),
        AtMost("query_len", 8),
        Multiple("head_dim", 4),
        HEAD_DIM,
    ];
    const NAIVE_ATTENTION: &[Tunable] = &[tune("TILE_X", &[16, 8]), tune("THREADS", &[64, 8])];
    const DECODE_TUNABLES: &[Tunable] = &[
        tune("HEAD_DIM", &[128, 64, 256, 32]),
        tune("THREADS", &[64, 128, 32]),
        tune("ROWS", &[4, 1, 8]),
        tune("SPLITS", &[32, 8, 16, 128]),
    ];
    const DECODE_SUBGROUP: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        tune("HEAD_DIM", &[128, 64, 256, 32]),
        tune("LANES", &[16, 32, 8]),
        tune("SUBGROUPS", &[4, 1]),
        tune("ROWS", &[4, 1, 8]),
        tune("BLOCK", &[4, 8, 2]),
        tune("SPLITS", &[32, 8, 16, 128]),
    ];
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
    const ATTENTION_PACKED: &[Pass] = &[
        pass("pack", [Each("kv_len"), Each("batch_kv_heads"), One]),
        pass(
            "main",
            [tiles("query_len", "TILE_Q"), Each("batch_heads"), One],
        ),
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

    const FLASH_MATRIX: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 64]),
        tune("HEAD_DIM", &[128, 64]),
        tune("SUBGROUPS", &[4, 8]),
        tune("ROWS", &[1, 2]),
        tune("KEYS", &[64, 32]),
        tune("PARTS", &[2, 1, 4]),
    ];
    const FLASH_MATRIX_8: &[Tunable] = &[
        tune("SUBGROUP_SIZE", &[32, 8]),
        tune("HEAD_DIM", &[128, 64]),
        tune("SUBGROUPS", &[4, 8]),
        tune("ROWS", &[2, 1]),
        tune("KEYS", &[32, 64]),
        tune("PARTS", &[2, 1, 4]),
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
            tunables: COPY_TUNABLES,
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
            tunables: COPY_TUNABLES,
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
            whole_tiles: WHOLE,
            dtypes: FLOATS,
            tunables: const { &[tune("TILE", &[16, 8, 32])] },
            passes: MATMUL,
        }),
        kernel!("matmul/register_tile", Matmul, {
            whole_tiles: WHOLE,
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
        kernel!("matmul/register_tile_vec4", Matmul, {
            whole_tiles: WHOLE,
            dtypes: FLOATS,
            tunables: WARP_TILE,
            passes: MATMUL,
            requirements: PLAIN_B_VEC4,
        }),
        kernel!("matmul/register_tile_trans_b", Matmul, {
            whole_tiles: WHOLE,
            dtypes: FLOATS,
            tunables: WARP_TILE,
            passes: MATMUL,
            requirements: TRANS_B_VEC4,
        }),
        kernel!("matmul/register_tile_split_k", Matmul, {
            whole_tiles: WHOLE,
            dtypes: FLOATS,
            tunables: const {
                &[
                    tune("WARPS_X", &[2, 1]),
                    tune("ROWS", &[16, 8]),
                    tune("SPLITS", &[4, 8, 16, 2]),
                ]
            },
            passes: SPLIT_K,
            scratch: Some("c"),
            scratch_copies: Some("SPLITS"),
            // Where there are more tiles, or less to divide, nothing is gained.
            requirements: const {
                &[
                    Equals("trans_b", 0),
                    Multiple("n", 4),
                    Multiple("k", 4),
                    AtMost("m", 1024),
                    AtMost("n", 4096),
                    AtLeast("k", 256),
                ]
            },
        }),
        kernel!("matmul/register_tile_trans_b_split_k", Matmul, {
            whole_tiles: WHOLE,
            dtypes: FLOATS,
            tunables: const {
                &[
                    tune("WARPS_X", &[2, 1]),
                    tune("WARPS_Y", &[2, 4]),
                    tune("ROWS", &[16, 8]),
                    tune("SPLITS", &[4, 8, 16, 2]),
                ]
            },
            passes: SPLIT_K,
            scratch: Some("c"),
            scratch_copies: Some("SPLITS"),
            requirements: const {
                &[
                    Equals("trans_b", 1),
                    Multiple("n", 4),
                    Multiple("k", 4),
                    AtMost("m", 512),
                    AtMost("n", 16384),
                    AtLeast("k", 256),
                ]
            },
        }),
        kernel!("matmul/naive_i8", Matmul, {
            dtypes: &[Dtype::I8],
            tunables: const { &[tune("TILE_N", &[16, 8]), tune("TILE_M", &[16, 8])] },
            passes: MATMUL,
        }),
        kernel!("matmul/dot4_tile", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::I8],
            tunables: DOT4_TILE,
            passes: MATMUL,
            requirements: TRANS_B_VEC4,
        }),
        kernel!("matmul/dot4_tile_plain_b", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::I8],
            tunables: DOT4_TILE,
            passes: MATMUL,
            requirements: PLAIN_B_VEC4,
        }),
        kernel!("matmul/naive_w4", Matmul, {
            dtypes: &[Dtype::W4A32, Dtype::W4A16],
            tunables: const { &[tune("TILE_N", &[16, 8]), tune("TILE_M", &[16, 8])] },
            passes: MATMUL,
        }),
        kernel!("matmul/register_tile_w4", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::W4A32, Dtype::W4A16],
            tunables: const {
                &[
                    tune("WARPS_X", &[2, 4, 1]),
                    tune("WARPS_Y", &[2, 4]),
                    tune("ROWS", &[16, 8]),
                    tune("DEPTH", &[16, 32]),
                ]
            },
            passes: MATMUL,
            requirements: TRANS_B_VEC4,
        }),
        kernel!("matmul/subgroup_broadcast", Matmul, {
            whole_tiles: WHOLE,
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
            whole_tiles: WHOLE,
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
        kernel!("matmul/gemv", Matmul, {
            dtypes: FLOATS,
            tunables: GEMV_TUNABLES,
            passes: GEMV,
            requirements: &[TRANSPOSED, FEW_ROWS, ROOM_M, Multiple("k", 4)],
        }),
        kernel!("matmul/gemv_subgroup", Matmul, {
            dtypes: FLOATS,
            tunables: const {
                &[
                    tune("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
                    GEMV_M,
                    tune("COLUMNS", &[4, 2, 8, 1]),
                    tune("UNROLL", &[2, 4]),
                ]
            },
            passes: GEMV,
            features: &[Feature::Subgroup],
            requirements: &[TRANSPOSED, FEW_ROWS, ROOM_M, Multiple("k", 4)],
        }),
        kernel!("matmul/gemv_f16", Matmul, {
            dtypes: &[Dtype::F16],
            tunables: GEMV_TUNABLES,
            passes: GEMV,
            requirements: &[TRANSPOSED, FEW_ROWS, ROOM_M, Multiple("k", 8)],
        }),
        kernel!("matmul/gemv_i8", Matmul, {
            dtypes: &[Dtype::I8],
            tunables: GEMV_TUNABLES_WORDS,
            passes: GEMV,
            requirements: &[TRANSPOSED, FEW_ROWS, ROOM_M, Multiple("k", 4)],
        }),
        kernel!("matmul/gemv_i8_vec4", Matmul, {
            dtypes: &[Dtype::I8],
            tunables: GEMV_TUNABLES,
            passes: GEMV,
            requirements: &[TRANSPOSED, FEW_ROWS, ROOM_M, Multiple("k", 16)],
        }),
        kernel!("matmul/gemv_w4", Matmul, {
            dtypes: &[Dtype::W4A32, Dtype::W4A16],
            tunables: GEMV_TUNABLES_WORDS,
            passes: GEMV,
            requirements: &[FEW_ROWS, ROOM_M],
        }),
        kernel!("matmul/gemv_w4_block", Matmul, {
            dtypes: &[Dtype::W4A32, Dtype::W4A16],
            tunables: const {
                &[
                    GEMV_M,
                    tune("THREADS", &[64, 8, 128]),
                    tune("COLUMNS", &[4, 2, 8]),
                ]
            },
            passes: GEMV,
            requirements: &[FEW_ROWS, ROOM_M],
        }),
        kernel!("matmul/gemv_columns", Matmul, {
            dtypes: FLOATS,
            tunables: const {
                &[
                    GEMV_M,
                    tune("THREADS_X", &[16, 8, 32]),
                    tune("THREADS_Y", &[16, 8, 32]),
                    tune("VECTORS", &[1, 4]),
                    tune("UNROLL", &[4, 8]),
                ]
            },
            passes: GEMV_COLUMNS,
            requirements: &[Equals("trans_b", 0), FEW_ROWS, ROOM_M, Multiple("n", 4)],
        }),
        kernel!("matmul/gemv_columns_split", Matmul, {
            dtypes: FLOATS,
            tunables: const {
                &[
                    GEMV_M,
                    tune("THREADS_X", &[16, 32, 8]),
                    tune("THREADS_Y", &[16, 8, 1]),
                    tune("VECTORS", &[1, 8]),
                    tune("SPLITS", &[8, 16]),
                ]
            },
            passes: GEMV_COLUMNS_SPLIT,
            scratch: Some("c"),
            scratch_copies: Some("SPLITS"),
            requirements: &[Equals("trans_b", 0), FEW_ROWS, ROOM_M, Multiple("n", 4)],
        }),
        kernel!("matmul/subgroup_panel", Matmul, {
            whole_tiles: WHOLE,
            tunables: SUBGROUP_PANEL,
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup],
            requirements: MATMUL_QUADS,
        }),
        kernel!("matmul/subgroup_panel_u64", Matmul, {
            whole_tiles: WHOLE,
            tunables: SUBGROUP_PANEL,
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup, Feature::Int64],
            requirements: MATMUL_QUADS,
        }),
        kernel!("matmul/subgroup_panel_trans_b", Matmul, {
            whole_tiles: WHOLE,
            tunables: SUBGROUP_PANEL,
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup],
            requirements: TRANS_B_VEC4,
        }),
        kernel!("matmul/subgroup_panel_trans_b_f16", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::F16],
            tunables: SUBGROUP_PANEL,
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup],
            requirements: TRANS_B_VEC4,
        }),
        kernel!("matmul/subgroup_panel_trans_b_i8", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::I8],
            tunables: SUBGROUP_PANEL,
            passes: MATMUL_M_FIRST,
            features: &[Feature::Subgroup],
            requirements: TRANS_B_VEC4,
        }),
        kernel!("matmul/subgroup_packed_u64", Matmul, {
            whole_tiles: WHOLE,
            tunables: SUBGROUP_PANEL,
            passes: SUBGROUP_PACKED,
            scratch: Some("operands"),
            features: &[Feature::Subgroup, Feature::Int64],
            requirements: MATMUL_QUADS,
        }),
        kernel!("matmul/subgroup_packed_texture", Matmul, {
            whole_tiles: WHOLE,
            tunables: SUBGROUP_TEXTURE,
            passes: SUBGROUP_PACKED,
            scratch: Some("operands"),
            scratch_is_texture: true,
            features: &[Feature::Subgroup],
            requirements: MATMUL_QUADS,
        }),
        kernel!("matmul/subgroup_packed_texture_scalar", Matmul, {
            whole_tiles: WHOLE,
            dtypes: F32_F16,
            tunables: SUBGROUP_TEXTURE,
            passes: SUBGROUP_PACKED_SCALAR,
            scratch: Some("padded_operands"),
            scratch_is_texture: true,
            features: &[Feature::Subgroup],
            requirements: const {
                &[LeftTo(
                    "matmul/subgroup_packed_texture",
                    Dtype::F32,
                    &[
                        Equals("trans_b", 0),
                        Multiple("n", 4),
                        Multiple("k", 4),
                        AtMost("k", 65_535), // it has a workgroup for each row of B
                    ],
                )]
            },
        }),
        kernel!("matmul/matrix_tile", Matmul, {
            whole_tiles: WHOLE,
            dtypes: HALVES,
            tunables: MATRIX_TILE,
            passes: MATMUL,
            features: MATRIX_16,
            requirements: &[Equals("trans_b", 0), Multiple("n", 4), Multiple("k", 4)],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_trans_b", Matmul, {
            whole_tiles: WHOLE,
            dtypes: HALVES,
            tunables: MATRIX_TILE,
            passes: MATMUL,
            features: MATRIX_16,
            requirements: &[Equals("trans_b", 1), Multiple("k", 4)],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_scalar", Matmul, {
            whole_tiles: WHOLE,
            dtypes: HALVES,
            tunables: MATRIX_TILE_SCALAR,
            passes: MATMUL,
            features: MATRIX_16,
            requirements: &[Equals("trans_b", 0), Unaligned(&["n", "k"], 4)],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_trans_b_scalar", Matmul, {
            whole_tiles: WHOLE,
            dtypes: HALVES,
            tunables: MATRIX_TILE_SCALAR,
            passes: MATMUL,
            features: MATRIX_16,
            requirements: &[Equals("trans_b", 1), Unaligned(&["k"], 4)],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_split_k", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::F16],
            tunables: MATRIX_TILE_SPLIT,
            passes: SPLIT_K,
            scratch: Some("c"),
            scratch_copies: Some("SPLITS"),
            features: MATRIX_16,
            requirements: const {
                &[
                    Equals("trans_b", 0),
                    Multiple("n", 4),
                    Multiple("k", 4),
                    AtMost("m", 512),
                    AtMost("n", 16384),
                    AtLeast("k", 256),
                ]
            },
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_trans_b_split_k", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::F16],
            tunables: MATRIX_TILE_SPLIT,
            passes: SPLIT_K,
            scratch: Some("c"),
            scratch_copies: Some("SPLITS"),
            features: MATRIX_16,
            requirements: const {
                &[
                    Equals("trans_b", 1),
                    Multiple("k", 4),
                    AtMost("m", 512),
                    AtMost("n", 16384),
                    AtLeast("k", 256),
                ]
            },
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_w4", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::W4A16],
            tunables: MATRIX_TILE_W4,
            passes: MATMUL,
            features: MATRIX_16,
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_w4_split_k", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::W4A16],
            tunables: MATRIX_TILE_W4_SPLIT,
            passes: SPLIT_K,
            scratch: Some("c"),
            scratch_copies: Some("SPLITS"),
            features: MATRIX_16,
            // The gate and up of a model of 8 billion have 28672 columns.
            requirements: &[AtMost("m", 512), AtMost("n", 32768), AtLeast("k", 256)],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_i8", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::I8],
            tunables: MATRIX_TILE,
            passes: MATMUL,
            features: MATRIX_16_OF_BYTES,
            requirements: PLAIN_B_VEC4,
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_trans_b_i8", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::I8],
            tunables: MATRIX_TILE,
            passes: MATMUL,
            features: MATRIX_16_OF_BYTES,
            requirements: &[Equals("trans_b", 1), Multiple("k", 4)],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_8x8", Matmul, {
            whole_tiles: WHOLE,
            dtypes: FLOATS,
            tunables: MATRIX_TILE_8,
            passes: MATMUL,
            features: MATRIX_8,
            requirements: &[Equals("trans_b", 0), Multiple("n", 4), Multiple("k", 4)],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_trans_b_8x8", Matmul, {
            whole_tiles: WHOLE,
            dtypes: FLOATS,
            tunables: MATRIX_TILE_8,
            passes: MATMUL,
            features: MATRIX_8,
            requirements: &[Equals("trans_b", 1), Multiple("k", 4)],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_tile_w4_8x8", Matmul, {
            whole_tiles: WHOLE,
            dtypes: &[Dtype::W4A32, Dtype::W4A16],
            tunables: const {
                &[
                    tune("SUBGROUP_SIZE", &[32, 8]),
                    tune("SUBGROUPS_M", &[2]),
                    tune("SUBGROUPS_N", &[2]),
                    tune("ROWS", &[4, 8]),
                    tune("COLUMNS", &[4, 8]),
                    tune("DEPTH", &[32]),
                    tune("GROUP", &[8]),
                ]
            },
            passes: MATMUL,
            features: MATRIX_8,
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_direct", Matmul, {
            whole_tiles: WHOLE,
            dtypes: HALVES,
            tunables: MATRIX_DIRECT,
            passes: MATMUL,
            features: MATRIX_16,
            requirements: &[
                Equals("trans_b", 0),
                Multiple("m", 64),
                Multiple("n", 64),
                Multiple("k", 16),
            ],
            engine: Engine::Matrix,
        }),
        kernel!("matmul/matrix_direct_trans_b", Matmul, {
            whole_tiles: WHOLE,
            dtypes: HALVES,
            tunables: MATRIX_DIRECT,
            passes: MATMUL,
            features: MATRIX_16,
            requirements: &[
                Equals("trans_b", 1),
                Multiple("m", 64),
                Multiple("n", 64),
                Multiple("k", 16),
            ],
            engine: Engine::Matrix,
        }),
        kernel!("attention/naive", Attention, {
            dtypes: F32_F16,
            tunables: NAIVE_ATTENTION,
            passes: ATTENTION_NAIVE,
            scratch: Some("scores"),
            requirements: const { &[UNPAGED] },
        }),
        kernel!("attention/naive_paged", Attention, {
            dtypes: F32_F16,
            tunables: NAIVE_ATTENTION,
            passes: ATTENTION_NAIVE,
            scratch: Some("scores"),
            requirements: const { &[PAGED] },
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
            dtypes: F32_F16,
            tunables: FLASH_TILE,
            passes: ATTENTION,
            requirements: FULL,
        }),
        kernel!("attention/flash_tile_causal", Attention, {
            dtypes: F32_F16,
            tunables: FLASH_TILE,
            passes: ATTENTION,
            requirements: CAUSAL,
        }),
        kernel!("attention/flash_subgroup", Attention, {
            dtypes: F32_F16,
            tunables: FLASH_SUBGROUP,
            passes: ATTENTION,
            features: &[Feature::Subgroup],
            requirements: FULL,
        }),
        kernel!("attention/flash_subgroup_causal", Attention, {
            dtypes: F32_F16,
            tunables: FLASH_SUBGROUP,
            passes: ATTENTION,
            features: &[Feature::Subgroup],
            requirements: CAUSAL,
        }),
        kernel!("attention/decode", Attention, {
            dtypes: F32_F16,
            tunables: DECODE_TUNABLES,
            passes: DECODE,
            scratch: Some("partial_rows"),
            scratch_copies: Some("SPLITS"),
            requirements: FEW_QUERIES,
        }),
        kernel!("attention/decode_paged", Attention, {
            dtypes: F32_F16,
            tunables: DECODE_TUNABLES,
            passes: DECODE,
            scratch: Some("partial_rows"),
            scratch_copies: Some("SPLITS"),
            requirements: FEW_QUERIES_PAGED,
        }),
        kernel!("attention/decode_subgroup", Attention, {
            dtypes: F32_F16,
            tunables: DECODE_SUBGROUP,
            passes: DECODE,
            scratch: Some("partial_rows"),
            scratch_copies: Some("SPLITS"),
            features: &[Feature::Subgroup],
            requirements: FEW_QUERIES,
        }),
        kernel!("attention/decode_paged_subgroup", Attention, {
            dtypes: F32_F16,
            tunables: DECODE_SUBGROUP,
            passes: DECODE,
            scratch: Some("partial_rows"),
            scratch_copies: Some("SPLITS"),
            features: &[Feature::Subgroup],
            requirements: FEW_QUERIES_PAGED_BLOCK,
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
        kernel!("attention/flash_panel_texture", Attention, {
            tunables: FLASH_PANEL,
            passes: ATTENTION_PACKED,
            scratch: Some("keys_and_values"),
            scratch_is_texture: true,
            features: &[Feature::Subgroup],
            requirements: FULL_VEC4,
        }),
        kernel!("attention/flash_panel_texture_causal", Attention, {
            tunables: FLASH_PANEL,
            passes: ATTENTION_PACKED,
            scratch: Some("keys_and_values"),
            scratch_is_texture: true,
            features: &[Feature::Subgroup],
            requirements: CAUSAL_VEC4,
        }),
        kernel!("attention/flash_panel_f16", Attention, {
            dtypes: &[Dtype::F16],
            tunables: FLASH_PANEL,
            passes: ATTENTION,
            features: &[Feature::Subgroup],
            requirements: FULL_VEC4,
        }),
        kernel!("attention/flash_panel_f16_causal", Attention, {
            dtypes: &[Dtype::F16],
            tunables: FLASH_PANEL,
            passes: ATTENTION,
            features: &[Feature::Subgroup],
            requirements: CAUSAL_VEC4,
        }),
        kernel!("attention/flash_matrix", Attention, {
            dtypes: &[Dtype::F16],
            tunables: FLASH_MATRIX,
            passes: ATTENTION,
            features: MATRIX_16,
            requirements: FULL_VEC4,
            engine: Engine::Matrix,
        }),
        kernel!("attention/flash_matrix_causal", Attention, {
            dtypes: &[Dtype::F16],
            tunables: FLASH_MATRIX,
            passes: ATTENTION_LONGEST_FIRST,
            features: MATRIX_16,
            requirements: CAUSAL_VEC4,
            engine: Engine::Matrix,
        }),
        kernel!("attention/flash_matrix_8x8", Attention, {
            dtypes: F32_F16,
            tunables: FLASH_MATRIX_8,
            passes: ATTENTION,
            features: MATRIX_8,
            requirements: FULL_VEC4,
            engine: Engine::Matrix,
        }),
        kernel!("attention/flash_matrix_8x8_causal", Attention, {
            dtypes: F32_F16,
            tunables: FLASH_MATRIX_8,
            passes: ATTENTION_LONGEST_FIRST,
            features: MATRIX_8,
            requirements: CAUSAL_VEC4,
            engine: Engine::Matrix,
        }),
    ]
}
