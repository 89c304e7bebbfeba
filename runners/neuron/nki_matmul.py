"""The product of two matrices as an NKI kernel, for Trainium 2 and later.

Its idea: the Tensor Engine multiplies a tile of A, held still in its 128 x 128 cells, by a tile of B
that moves through them, and adds up in f32 where the sums lie, in PSUM. The dimension that is summed
over, K, runs along the 128 partitions of both tiles, so A is wanted transposed. A column panel of B,
512 wide and K deep, is loaded once and stays in SBUF while all row panels of A pass by it; A is thus
read N / 512 times and B once. A logical core of two physical ones deals the rows of tiles out to both.

The tile structure is that of the public NKI tutorial on matrix multiplication. NKI compiles this text
itself and takes a part of Python only, so what is below is plain.
"""

import nki
import nki.isa as nisa
import nki.language as nl


def load(source, rows, columns, tile_type, convert):
    """A tile of this type in SBUF with what `source`, a part of a tensor in HBM, holds."""
    tile = nl.ndarray((rows, columns), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source)
    result = tile
    if convert:
        # TF32 is binary32 in memory: an engine rounds it, since DMA may move bytes and nothing else.
        result = nl.ndarray((rows, columns), dtype=tile_type, buffer=nl.sbuf)
        nisa.tensor_copy(dst=result, src=tile)
    return result


@nki.jit
def tiled(a_t, b, tile_type, convert, reinterpret):
    """C[M,N] in f32 from A transposed, [K,M], and B, [K,N], multiplied as `tile_type`: `convert` if
    the tensors are of another type, `reinterpret` if they hold its bits under another name."""
    if reinterpret:
        a_t = a_t.view(tile_type)
        b = b.view(tile_type)
    k_size, m_size = a_t.shape
    n_size = b.shape[1]
    tile_k = nl.tile_size.pmax
    tile_m = nl.tile_size.gemm_stationary_fmax
    tile_n = nl.tile_size.gemm_moving_fmax
    c = nl.ndarray((m_size, n_size), dtype=nl.float32, buffer=nl.shared_hbm)
    rows = m_size // tile_m // nl.num_programs(0)
    first_row = nl.program_id(0) * rows

    for n in nl.affine_range(n_size // tile_n):
        b_tiles = []
        for k in nl.affine_range(k_size // tile_k):
            part = b[k * tile_k : (k + 1) * tile_k, n * tile_n : (n + 1) * tile_n]
            b_tiles.append(load(part, tile_k, tile_n, tile_type, convert))
        for row in nl.affine_range(rows):
            m = first_row + row
            a_tiles = []
            for k in nl.affine_range(k_size // tile_k):
                part = a_t[k * tile_k : (k + 1) * tile_k, m * tile_m : (m + 1) * tile_m]
                a_tiles.append(load(part, tile_k, tile_m, tile_type, convert))
            sums = nl.ndarray((tile_m, tile_n), dtype=nl.float32, buffer=nl.psum)
            for k in nl.affine_range(k_size // tile_k):
                # The first product overwrites the sums, the later ones are added to them.
                nisa.nc_matmul(dst=sums, stationary=a_tiles[k], moving=b_tiles[k])
            out = nl.ndarray((tile_m, tile_n), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(dst=out, src=sums)
            nisa.dma_copy(
                dst=c[m * tile_m : (m + 1) * tile_m, n * tile_n : (n + 1) * tile_n], src=out
            )
    return c
