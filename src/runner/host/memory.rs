//! Memory probes on the CPU: streams on all threads, and a walk on one.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Refusal, Work, filled, share, size};
use crate::input::{Cycle, SLOT_WORDS};
use crate::op::Tensor;
use crate::op::memory::{READ_BLOCK, READ_COLUMNS, TRIAD_SCALAR, WRITE_FACTOR};

/// Elements of a large page; a walk over small pages would show the limits of the address
/// translation among those of the caches.
const LARGE_PAGE: usize = (2 << 20) / 4;

/// Columns of a block and elements of a block, as lengths.
const COLUMNS: usize = READ_COLUMNS as usize;
const BLOCK: usize = READ_BLOCK as usize;

/// The memory ceiling. Each thread copies its share whole or in pieces: large copies go past the
/// caches, small ones share the work more evenly.
pub(super) fn copy(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    let piece = share(output.len(), work.values[0]);
    output
        .par_chunks_mut(piece)
        .zip(inputs[0].par_chunks(piece))
        .for_each(|(to, from)| to.copy_from_slice(from));
}

/// Sums the columns of each block. Several pieces per thread share the work evenly.
pub(super) fn read(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    let blocks = inputs[0].len() / BLOCK;
    let piece = share(output.len() / COLUMNS, work.values[0]);
    let arch = Arch::new();
    output
        .par_chunks_mut(piece * COLUMNS)
        .enumerate()
        .for_each(|(number, out)| {
            arch.dispatch(Sums {
                x: &inputs[0],
                first: number * piece % blocks,
                out,
            });
        });
}

struct Sums<'a> {
    x: &'a [f32],
    /// The block that the first row of `out` belongs to.
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        /// Vectors of one row that are summed at a time: additions that need not wait for another.
        const WIDTH: usize = 8;
        let mut blocks = self.x.chunks_exact(BLOCK).cycle().skip(self.first);
        for out in self.out.chunks_exact_mut(COLUMNS) {
            let Some(block) = blocks.next() else { return };
            let (vectors, _) = S::as_mut_simd_f32s(out);
            for (group, out) in vectors.chunks_exact_mut(WIDTH).enumerate() {
                let mut sums = [simd.splat_f32s(0.0); WIDTH];
                for row in block.chunks_exact(COLUMNS) {
                    let (row, _) = S::as_simd_f32s(row);
                    let row = &row[group * WIDTH..][..WIDTH];
                    for (sum, &vector) in sums.iter_mut().zip(row) {
                        *sum = simd.add_f32s(*sum, vector);
                    }
                }
                out.copy_from_slice(&sums);
            }
        }
    }
}

/// Writes every element from its index and the key.
pub(super) fn write(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    struct Fill<'a> {
        key: u32,
        out: &'a mut [f32],
    }
    impl WithSimd for Fill<'_> {
        type Output = ();

        #[inline(always)]
        #[allow(clippy::cast_precision_loss)] // 24 bits fit an f32 exactly
        fn with_simd<S: Simd>(self, _simd: S) {
            // Plain code: the compiler makes vectors of it for the instruction set at hand.
            for (index, out) in (0u32..).zip(self.out) {
                let word = self.key.wrapping_add(index.wrapping_mul(WRITE_FACTOR)) >> 8;
                *out = word.cast_signed() as f32;
            }
        }
    }
    let piece = share(output.len(), work.values[0]);
    let key = inputs[0][0].to_bits();
    let arch = Arch::new();
    output
        .par_chunks_mut(piece)
        .enumerate()
        .for_each(|(number, out)| {
            #[allow(clippy::cast_possible_truncation)] // indices have 32 bits
            let first = (number * piece) as u32;
            let key = key.wrapping_add(first.wrapping_mul(WRITE_FACTOR));
            arch.dispatch(Fill { key, out });
        });
}

/// `a = b + s c`.
pub(super) fn triad(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    struct Add<'a> {
        scalar: f32,
        b: &'a [f32],
        c: &'a [f32],
        a: &'a mut [f32],
    }
    impl WithSimd for Add<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _simd: S) {
            for (a, (b, c)) in self.a.iter_mut().zip(self.b.iter().zip(self.c)) {
                *a = b + self.scalar * c;
            }
        }
    }
    let piece = share(output.len(), work.values[0]);
    let scalar = std::hint::black_box(TRIAD_SCALAR);
    let arch = Arch::new();
    output
        .par_chunks_mut(piece)
        .zip(inputs[0].par_chunks(piece).zip(inputs[1].par_chunks(piece)))
        .for_each(|(a, (b, c))| arch.dispatch(Add { scalar, b, c, a }));
}

/// Walks along the links on this thread alone.
pub(super) fn chase(work: &Work<'_>, inputs: &[Vec<f32>], output: &mut [f32]) {
    let lines = size(work.shape, "lines");
    let links = &inputs[0][aligned(&inputs[0])..][..lines * SLOT_WORDS as usize];
    let mut at = 0u32;
    for _ in 0..work.shape.get("steps") {
        at = links[at as usize].to_bits();
    }
    #[allow(clippy::cast_precision_loss)] // slots are fewer than 2^24
    let last = (at / SLOT_WORDS) as f32;
    output[0] = last;
}

/// The first element of a slice that a large page can begin with.
fn aligned(slice: &[f32]) -> usize {
    let beyond = slice.as_ptr() as usize / 4 % LARGE_PAGE;
    (LARGE_PAGE - beyond) % LARGE_PAGE
}

/// The links of a walk: up to one large page of nothing, so that the cycle itself begins on one.
pub(super) fn links(tensor: &Tensor, cycle: Cycle) -> Result<Vec<f32>, Refusal> {
    let slack = Tensor {
        dims: vec![tensor.len() + LARGE_PAGE as u64],
        ..tensor.clone()
    };
    let mut links = filled(&slack, advise_large_pages, |_| 0.0)?;
    let start = aligned(&links);
    links[start..]
        .par_chunks_mut(SLOT_WORDS as usize)
        .zip(0..cycle.lines)
        .for_each(|(slot, line)| slot[0] = f32::from_bits(cycle.word(line * SLOT_WORDS)));
    Ok(links)
}

/// Asks the system for large pages, before the memory is first touched. Whether it has any is its
/// own affair, so its answer is not looked at.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn advise_large_pages(memory: &mut Vec<f32>) {
    let bytes = LARGE_PAGE * 4;
    let spare = memory.spare_capacity_mut();
    let start = spare.as_mut_ptr() as usize;
    let first = start.next_multiple_of(bytes);
    let end = (start + std::mem::size_of_val(spare)) / bytes * bytes;
    if first >= end {
        return;
    }
    // SAFETY: the range is whole pages inside memory that belongs to the vector and that nothing
    // has been written to yet; the first call gives up pages of earlier owners, which would stay
    // small, and the second changes no contents.
    unsafe {
        let at = start as *mut libc::c_void;
        let at = at.byte_add(first - start);
        libc::madvise(at, end - first, libc::MADV_DONTNEED);
        libc::madvise(at, end - first, libc::MADV_HUGEPAGE);
    }
}

/// Elsewhere pages have the size that the system gives them.
#[cfg(not(target_os = "linux"))]
fn advise_large_pages(_memory: &mut Vec<f32>) {}
