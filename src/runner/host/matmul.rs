//! Matrix products on the CPU: of f32 through gemm, of short floats by widening blocks of them for
//! gemm, of bytes through rten-gemm.

use gemm::Parallelism;
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, QuantParams};
use rten_tensor::NdTensorView;

use super::{Work, size};
use crate::input::Element;

/// A type that a product of f32 can be made of.
pub(super) trait Short: bytemuck::Pod + Sync + Send {
    /// The same numbers in f32: those of `from` itself, or of `scratch`, where they are put.
    fn widened<'a>(from: &'a [Self], scratch: &'a mut Vec<f32>) -> &'a [f32];
}

impl Short for f32 {
    fn widened<'a>(from: &'a [Self], _scratch: &'a mut Vec<f32>) -> &'a [f32] {
        from
    }
}

macro_rules! widened_by_half {
    ($($short:ty),*) => {$(
        impl Short for $short {
            fn widened<'a>(from: &'a [Self], scratch: &'a mut Vec<f32>) -> &'a [f32] {
                use half::slice::HalfFloatSliceExt;
                scratch.resize(from.len(), 0.0);
                from.convert_to_f32_slice(scratch);
                scratch
            }
        }
    )*};
}
widened_by_half!(half::f16, half::bf16);

/// The elements of a tensor of this type, without what fills its last word.
pub(super) fn elements<T: bytemuck::Pod>(words: &[f32], len: usize) -> &[T] {
    &bytemuck::cast_slice(words)[..len]
}

/// A matrix that lies in a slice: element `(i, j)` at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    pub(super) fn row_major(data: &'a [f32], columns: usize) -> Self {
        Self {
            data,
            row_stride: columns,
            column_stride: 1,
        }
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Whether a matrix of this size lies within the slice.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows > 0
            && columns > 0
            && (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// `c = scale a b`, or `c += scale a b`, with a dense row-major `c` of `columns` columns.
#[allow(unsafe_code)]
pub(super) fn product(
    c: &mut [f32],
    columns: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    add: bool,
    parallelism: Parallelism,
) {
    let rows = c.len() / columns;
    // Of the two, only `a` knows how deep the sum is: its rows are dense wherever this is called.
    let depth = a.row_stride;
    assert_eq!(c.len(), rows * columns, "the result is not a whole matrix");
    assert!(
        a.holds(rows, depth) && b.holds(depth, columns),
        "an operand is too short"
    );
    // SAFETY: every element gemm reads of `a` and `b` and writes of `c` is inside its slice, as
    // checked above; `c` is borrowed mutably, so it overlaps neither; all three are f32, which
    // any bit pattern is, and strides of slices that exist fit an isize.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            c.as_mut_ptr(),
            1,
            columns.cast_signed(),
            add,
            a.data.as_ptr(),
            a.column_stride.cast_signed(),
            a.row_stride.cast_signed(),
            b.data.as_ptr(),
            b.column_stride.cast_signed(),
            b.row_stride.cast_signed(),
            if add { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Sizes of one product of a case, and whether its right operand lies in rows of k.
#[derive(Clone, Copy)]
struct Sizes {
    m: usize,
    n: usize,
    k: usize,
    trans_b: bool,
}

impl Sizes {
    fn of(work: &Work<'_>) -> Self {
        Self {
            m: size(work.shape, "m"),
            n: size(work.shape, "n"),
            k: size(work.shape, "k"),
            trans_b: work.shape.get("trans_b") == 1,
        }
    }
}

/// Products one after the other, each on all threads: a batch is too rare a case here to tune.
pub(super) fn gemm(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    let Sizes { m, n, k, trans_b } = Sizes::of(work);
    for ((c, a), b) in output
        .chunks_mut(m * n)
        .zip(inputs[0].chunks(m * k))
        .zip(inputs[1].chunks(k * n))
    {
        let a = Matrix::row_major(a, k);
        let b = if trans_b {
            Matrix::row_major(b, k).transposed()
        } else {
            Matrix::row_major(b, n)
        };
        product(c, n, a, b, 1.0, false, Parallelism::Rayon(0));
    }
}

/// Products of short floats, each number of which is widened to f32 on its way into gemm.
pub(super) fn gemm_widened(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    match work.dtype.input() {
        Element::Bf16 => widened::<half::bf16>(work, inputs, output),
        _ => widened::<half::f16>(work, inputs, output),
    }
}

/// Up to so many rows, the right operand is read once and by pieces that stay in a core's cache.
const FEW_ROWS: usize = 16;

fn widened<T: Short>(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    let sizes = Sizes::of(work);
    let Sizes { m, n, k, .. } = sizes;
    let batch = size(work.shape, "batch");
    let a: &[T] = elements(&inputs[0], batch * m * k);
    let b: &[T] = elements(&inputs[1], batch * k * n);
    for ((c, a), b) in output
        .chunks_mut(m * n)
        .zip(a.chunks(m * k))
        .zip(b.chunks(k * n))
    {
        if m <= FEW_ROWS {
            by_columns(c, a, b, sizes, work.values[0]);
        } else {
            by_depth(c, a, b, sizes, work.values[0]);
        }
    }
}

/// Each thread widens some columns of the right operand and multiplies by these.
fn by_columns<T: Short>(c: &mut [f32], a: &[T], b: &[T], sizes: Sizes, block: usize) {
    let Sizes { m, n, k, trans_b } = sizes;
    let mut scratch = Vec::new();
    let a = Matrix::row_major(T::widened(a, &mut scratch), k);
    // Narrower than what the depth is cut into: here the whole depth is in the block.
    let width = (block * 64 / k.max(1)).clamp(16, 256);
    let tiles: Vec<(usize, Vec<f32>)> = (0..n)
        .into_par_iter()
        .step_by(width)
        .map_init(
            || (Vec::new(), Vec::new()),
            |(gathered, wide), first| {
                let width = width.min(n - first);
                let mut tile = vec![0.0; m * width];
                let b = if trans_b {
                    let rows = T::widened(&b[first * k..(first + width) * k], wide);
                    Matrix::row_major(rows, k).transposed()
                } else {
                    gathered.clear();
                    for row in b.chunks_exact(n) {
                        gathered.extend_from_slice(&row[first..first + width]);
                    }
                    Matrix::row_major(T::widened(gathered, wide), width)
                };
                product(&mut tile, width, a, b, 1.0, false, Parallelism::None);
                (first, tile)
            },
        )
        .collect();
    for (first, tile) in tiles {
        let width = tile.len() / m;
        for (c, tile) in c.chunks_mut(n).zip(tile.chunks(width)) {
            c[first..first + width].copy_from_slice(tile);
        }
    }
}

/// All threads widen a block of the depth of both operands, and multiply these.
fn by_depth<T: Short>(c: &mut [f32], a: &[T], b: &[T], sizes: Sizes, block: usize) {
    let Sizes { m, n, k, trans_b } = sizes;
    let (mut wide_a, mut wide_b) = (Vec::new(), Vec::new());
    for first in (0..k).step_by(block) {
        let depth = block.min(k - first);
        let a = columns(a, k, first..first + depth, &mut wide_a, m);
        let b = if trans_b {
            columns(b, k, first..first + depth, &mut wide_b, n).transposed()
        } else {
            columns(&b[first * n..], n, 0..n, &mut wide_b, depth)
        };
        product(c, n, a, b, 1.0, first > 0, Parallelism::Rayon(0));
    }
}

/// Some columns of so many rows of a row-major matrix, widened.
fn columns<'a, T: Short>(
    from: &[T],
    stride: usize,
    columns: std::ops::Range<usize>,
    wide: &'a mut Vec<f32>,
    rows: usize,
) -> Matrix<'a> {
    let width = columns.len();
    wide.resize(rows * width, 0.0);
    wide.par_chunks_mut(width)
        .zip(from.par_chunks(stride))
        .for_each_init(Vec::new, |scratch, (to, from)| {
            to.copy_from_slice(T::widened(&from[columns.clone()], scratch));
        });
    Matrix::row_major(wide, width)
}

/// What multiplies bytes: unsigned ones by signed ones, as the CPU's instructions want them.
fn bytes() -> GemmExecutor<u8, i8, i32> {
    GemmExecutor::new()
}

/// The name of the kernel that multiplies bytes.
pub(super) fn bytes_kernel() -> String {
    bytes().kernel_name().to_owned()
}

/// Why products of bytes are not to be had here, if they are not.
pub(super) fn bytes_refused() -> Option<String> {
    bytes().may_saturate().then(|| {
        format!(
            "rten-gemm's {} saturates: this CPU has no dot product of bytes (VNNI)",
            bytes_kernel()
        )
    })
}

/// What is added to the left operand when it is made, so that its bytes are unsigned: the kernel is
/// told that this stands for zero.
pub(super) const BYTE_OFFSET: u8 = 128;

/// Products of bytes, summed in 32-bit integers.
pub(super) fn rten(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    let Sizes { m, n, k, trans_b } = Sizes::of(work);
    let batch = size(work.shape, "batch");
    let a: &[u8] = elements(&inputs[0], batch * m * k);
    let b: &[i8] = elements(&inputs[1], batch * k * n);
    let c: &mut [i32] = bytemuck::cast_slice_mut(output);
    let bytes = bytes();
    let zero_points = vec![BYTE_OFFSET; m];
    for ((c, a), b) in c
        .chunks_mut(m * n)
        .zip(a.chunks(m * k))
        .zip(b.chunks(k * n))
    {
        let a = NdTensorView::from_data([m, k], a);
        let b = if trans_b {
            NdTensorView::from_data([n, k], b).transposed()
        } else {
            NdTensorView::from_data([k, n], b)
        };
        let options = GemmOptions {
            a_quant: Some(QuantParams {
                zero_point: &zero_points,
            }),
            ..GemmOptions::default()
        };
        bytes
            .gemm(c, GemmInputA::Unpacked(a), GemmInputB::Unpacked(b), options)
            .expect("operands of one case fit each other");
    }
}
