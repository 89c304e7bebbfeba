#!/usr/bin/env python3
"""A Trainium 2 that is not there: NumPy behind the names of torch, torch_xla, nki and nkilib.

`install` puts the modules in place of the real ones, as far as the runner uses them. As a program this
file is the runner on such a chip, under a name that says so. It is lazy as PyTorch/XLA is: operations
are recorded, `sync` runs those whose results somebody still holds, and the others never run. Tiles of
NKI are held to the sizes, memories and types that are documented, and memory is NaN until written.
"""

import math
import os
import sys
import tempfile
import types
import weakref
from pathlib import Path

# One thread, so that the time of a product hangs less on what else the machine does.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy

# Executions by kind, for tests that count them; and the text of an error that the next one raises.
EXECUTED = {"matmul": 0, "attention": 0, "nki": 0}
FAULT = []


# Numbers


def shortened(values, bits):
    """Numbers of f32 rounded to so few bits of the fraction, ties to even."""
    word = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    drop = 23 - bits
    half = ((word >> drop) & 1) + (1 << (drop - 1)) - 1
    return ((word + half.astype(numpy.uint32)) >> drop << drop).view(numpy.float32)


def f8_values(exponent_max):
    """What the 128 positive bytes of an f8e4m3 stand for; NaN beyond this exponent field."""
    byte = numpy.arange(128)
    exponent, fraction = byte >> 3, byte & 7
    normal = (1 + fraction / 8) * 2.0 ** (exponent - 7)
    values = numpy.where(exponent == 0, fraction / 8 * 2.0**-6, normal)
    values[exponent > exponent_max] = numpy.nan
    return values.astype(numpy.float32)


# PyTorch's type goes to 448 and has one NaN; the chip's has the uppermost exponent for infinity.
F8_TORCH = f8_values(15)
F8_TORCH[127] = numpy.nan
F8_CHIP = f8_values(14)


def f8_bytes(values):
    """The bytes of float8_e4m3fn that are nearest to these numbers, as signed ones."""
    table = F8_TORCH[:127]
    flat = values.reshape(-1)
    size = numpy.abs(flat)
    upper = numpy.clip(numpy.searchsorted(table, size), 1, 126)
    nearer = numpy.where(size - table[upper - 1] < table[upper] - size, upper - 1, upper)
    byte = (nearer + 128 * (flat < 0)).astype(numpy.uint8)
    return byte.view(numpy.int8).reshape(values.shape)


def f8_read(signed, table):
    """The numbers that signed bytes stand for."""
    byte = signed.view(numpy.uint8)
    return table[byte & 127] * numpy.where(byte > 127, numpy.float32(-1), numpy.float32(1))


def rounded(values, kind):
    """Numbers as this type holds them."""
    if kind == "float16":
        return values.astype(numpy.float16).astype(numpy.float32)
    if kind in ("bfloat16", "tfloat32"):
        return shortened(values, 7 if kind == "bfloat16" else 10)
    if kind == "float8_e4m3fn":
        return f8_read(f8_bytes(values), F8_TORCH)
    whole = {"bool": bool, "int8": numpy.int8, "float64": numpy.float64}
    return numpy.asarray(values, dtype=whole.get(kind, numpy.float32))


# PyTorch and PyTorch/XLA


class Kind(str):
    """A type of elements, such as torch.float32."""


class Device(str):
    """A device, such as xla:0."""


HOST, CORE = Device("cpu"), Device("xla:0")
# Tensors of the device that are recorded and not yet computed.
PENDING = weakref.WeakSet()


class Tensor:
    """A tensor, or the recipe of one."""

    def __init__(self, recipe, kind, device):
        self.kind, self.device, self.recipe, self.known = kind, device, recipe, None
        if device is CORE:
            PENDING.add(self)
        else:
            self.array()

    def array(self):
        """Its elements, which are computed the first time."""
        if self.recipe is not None:
            self.known, self.recipe = self.recipe(), None
            PENDING.discard(self)
        return self.known

    def dim(self):
        return self.array().ndim

    def to(self, target):
        if isinstance(target, Device):
            return Tensor(self.array, self.kind, target)
        return Tensor(lambda: rounded(self.array(), target), target, self.device)

    def cpu(self):
        run()
        return Tensor(self.array, self.kind, HOST)

    def double(self):
        return self.to(Kind("float64"))

    def view(self, kind):
        assert (self.kind, kind) == ("float8_e4m3fn", "int8"), "only the bytes of an f8 are looked at"
        return Tensor(lambda: f8_bytes(self.array()), kind, self.device)

    @property
    def mT(self):
        return Tensor(lambda: self.array().swapaxes(-1, -2), self.kind, self.device)

    def reshape(self, *dims):
        return Tensor(lambda: self.array().reshape(dims), self.kind, self.device)

    def __getitem__(self, index):
        return Tensor(lambda: self.array()[index], self.kind, self.device)

    def numpy(self):
        return self.array()


def run():
    """What happens whenever the device runs something: it may fail."""
    if FAULT:
        raise RuntimeError(FAULT.pop())


def sync():
    """Runs what is recorded and still held by somebody."""
    run()
    for tensor in list(PENDING):
        tensor.array()


def from_numpy(values):
    kind = {"f": "float32", "b": "bool"}[values.dtype.kind]
    return Tensor(values.copy, Kind(kind), HOST)


def matmul(a, b):
    def recipe():
        EXECUTED["matmul"] += 1
        return rounded(numpy.matmul(a.array(), b.array()), a.kind)

    assert a.kind == b.kind and a.kind in ("float32", "float16", "bfloat16")
    return Tensor(recipe, a.kind, a.device)


def softmax_product(q, k, v, scale, seen):
    """Attention in f64 of [..., length, head_dim]; `seen` is None or which query sees which key."""
    EXECUTED["attention"] += 1
    scores = numpy.matmul(q, k.swapaxes(-1, -2), dtype=numpy.float64) * scale
    if seen is not None:
        scores = numpy.where(seen, scores, -numpy.inf)
    weights = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    return numpy.matmul(weights / weights.sum(axis=-1, keepdims=True), v)


def scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=False, enable_gqa=False):
    def recipe():
        queries, keys, values = q.array(), k.array(), v.array()
        assert enable_gqa or queries.shape[1] == keys.shape[1]
        group = queries.shape[1] // keys.shape[1]
        keys, values = (numpy.repeat(array, group, axis=1) for array in (keys, values))
        seen = None if attn_mask is None else attn_mask.array()
        if is_causal:
            seen = numpy.tri(queries.shape[2], keys.shape[2], dtype=bool)
        scale = 1.0 / math.sqrt(queries.shape[-1])
        return rounded(softmax_product(queries, keys, values, scale, seen), q.kind)

    return Tensor(recipe, q.kind, q.device)


# NKI


class Tile:
    """A tensor of a kernel: in HBM, or in SBUF or PSUM with its partitions first."""

    def __init__(self, array, kind, buffer):
        if buffer != "shared_hbm":
            assert array.shape[0] <= 128, f"{array.shape[0]} partitions"
        if buffer == "psum":
            assert kind == "float32" and array.shape[1] <= 512, "more than a bank of PSUM"
        self.array, self.dtype, self.buffer, self.written = array, kind, buffer, False
        self.shape = array.shape

    def __getitem__(self, index):
        part = self.array[index]
        assert all(part.shape), "a part without elements"
        return Tile(part, self.dtype, self.buffer)

    def view(self, kind):
        assert (self.dtype, kind) == ("int8", "float8_e4m3"), "only bytes are looked at as f8"
        return Tile(f8_read(self.array, F8_CHIP), kind, self.buffer)


# The launch that runs: programs in all, which of them, outputs of the first, how many are handed out.
LAUNCH = types.SimpleNamespace(programs=1, program=0, outputs=[], taken=0)


def ndarray(shape, dtype, buffer="sbuf"):
    tile = Tile(numpy.full(shape, numpy.nan, dtype=numpy.float32), dtype, buffer)
    if buffer != "shared_hbm":
        return tile
    # The programs of a launch write one output.
    if LAUNCH.taken == len(LAUNCH.outputs):
        LAUNCH.outputs.append(tile)
    LAUNCH.taken += 1
    return LAUNCH.outputs[LAUNCH.taken - 1]


def dma_copy(dst, src):
    assert "psum" not in (dst.buffer, src.buffer), "DMA does not reach PSUM"
    assert dst.shape == src.shape and dst.dtype == src.dtype, "DMA moves bytes"
    dst.array[...] = src.array


def tensor_copy(dst, src):
    assert "shared_hbm" not in (dst.buffer, src.buffer) and dst.shape == src.shape
    dst.array[...] = rounded(src.array, dst.dtype)


def nc_matmul(dst, stationary, moving):
    assert (dst.buffer, stationary.buffer, moving.buffer) == ("psum", "sbuf", "sbuf")
    assert stationary.dtype == moving.dtype and stationary.shape[0] == moving.shape[0]
    assert stationary.shape[1] <= 128 and moving.shape[1] <= 512
    product = stationary.array.T @ moving.array
    dst.array[...] = dst.array + product if dst.written else product
    dst.written = True


class Jit:
    """A kernel; `kernel[2](...)` runs it on both cores of a logical one."""

    def __init__(self, function):
        self.function = function

    def __getitem__(self, programs):
        def launch(*arguments, **options):
            def recipe():
                EXECUTED["nki"] += 1
                LAUNCH.programs, LAUNCH.outputs = programs, []
                for LAUNCH.program in range(programs):
                    LAUNCH.taken = 0
                    tiles = [
                        Tile(a.array(), str(a.kind), "shared_hbm") if isinstance(a, Tensor) else a
                        for a in arguments
                    ]
                    result = self.function(*tiles, **options)
                return result.array

            return Tensor(recipe, Kind("float32"), CORE)

        return launch


class AttentionCte:
    """The NKI library's attention for long sequences, with the layouts that the runner uses."""

    def __getitem__(self, programs):
        def launch(q, k, v, scale=1.0, causal_mask=True, tp_q=True, tp_k=False):
            def recipe():
                assert tp_q and tp_k, "rows of queries and of keys"
                queries, keys, values = q.array(), k.array(), v.array()
                assert queries.shape[0] % keys.shape[0] == 0 and queries.shape[-1] <= 128
                group = queries.shape[0] // keys.shape[0]
                keys, values = (numpy.repeat(array, group, axis=0) for array in (keys, values))
                seen = numpy.tri(queries.shape[1], keys.shape[1], dtype=bool) if causal_mask else None
                return rounded(softmax_product(queries, keys, values, scale, seen), q.kind)

            return Tensor(recipe, q.kind, CORE)

        return launch


# The machine


def install():
    """Puts the modules where imports find them, and each into the one it is part of."""
    kinds = "float32 float16 bfloat16 float8_e4m3fn int8 bool".split()
    attend = {"scaled_dot_product_attention": scaled_dot_product_attention}
    tiles = types.SimpleNamespace(pmax=128, gemm_stationary_fmax=128, gemm_moving_fmax=512)
    names = "float32 float16 bfloat16 tfloat32 float8_e4m3 sbuf psum shared_hbm".split()
    language = {
        "tile_size": tiles,
        "ndarray": ndarray,
        "affine_range": range,
        "num_programs": lambda axes=0: LAUNCH.programs,
        "program_id": lambda axis=0: LAUNCH.program,
        **{name: name for name in names},
    }
    instructions = {"dma_copy": dma_copy, "tensor_copy": tensor_copy, "nc_matmul": nc_matmul}
    contents = {
        "torch": {"from_numpy": from_numpy, "matmul": matmul, **{name: Kind(name) for name in kinds}},
        "torch.nn": {},
        "torch.nn.functional": attend,
        "torch_neuronx": {},
        "torch_xla": {"device": lambda: CORE, "sync": sync},
        "torch_xla.core": {},
        "torch_xla.core.xla_model": {"wait_device_ops": run},
        "nki": {"jit": Jit},
        "nki.isa": instructions,
        "nki.language": language,
        "nkilib": {},
        "nkilib.core": {},
        "nkilib.core.attention": {},
        "nkilib.core.attention.attention_cte": {"attention_cte": AttentionCte()},
    }
    for name, content in contents.items():
        module = sys.modules[name] = types.ModuleType(name)
        vars(module).update(content)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def machine(root, chip="Trainium2", cores=8, instance="trn2.3xlarge", chip_count=1):
    """Writes the /sys of a machine, and returns what neuron-ls would print there."""
    nodes = root / "devices/virtual/neuron_device"
    files = {
        root / "devices/virtual/dmi/id/product_name": instance,
        root / "module/neuron/version": "0.0",
    }
    for index in range(chip_count):
        files[nodes / f"neuron{index}/core_count"] = str(cores)
        files[nodes / f"neuron{index}/info/architecture/device_name"] = chip
    for path, words in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(words + "\n", encoding="utf-8")
    chips = (
        f'{{"neuron_device": {index}, "bdf": "0000:{index:02x}:1e.0", "nc_count": {cores}, '
        f'"memory_size": {cores * (12 << 30)}}}'
        for index in range(chip_count)
    )
    return f"[{', '.join(chips)}]"


def main():
    install()
    import chipmark_neuron

    class Simulated(chipmark_neuron.Neuron):
        """The runner, under a name that nobody takes for a chip's."""

        name = "neuron_simulated"

        def open(self, selector, backend):
            device, timer = super().open(selector, backend)
            return {**device, "name": f"simulated {device['name']}"}, timer

    with tempfile.TemporaryDirectory() as folder:
        printed = machine(Path(folder))
        chipmark_neuron.SYS = Path(folder)
        chipmark_neuron.neuron_ls = lambda: printed
        Simulated().serve()


if __name__ == "__main__":
    main()
