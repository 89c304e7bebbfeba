#!/usr/bin/env python3
"""AWS Trainium and Inferentia2 as a runner of chipmark, through PyTorch/XLA; unverified on hardware.

The library's kernels are PyTorch's products and attention, which neuronx-cc compiles for the chip; on
Trainium 2 and later kernels written in NKI stand beside them. One process has one core: a NeuronCore
or, where two of them act as one, a logical NeuronCore. PyTorch/XLA records operations and runs them at
`sync`; so each call is a graph of its own that is run once, and the end of a span is known by reading
an element of its last result back.

All of this is built to documentation, that of Neuron SDK 2.31, and tried on a simulated device only.
"""

import importlib
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import chipmark_runner as base
from chipmark_runner import Kernel, Refusal

VERSION = "0.1.0"
UNVERIFIED = "unverified on hardware"
REMEDY = "runners/neuron/README.md says what to install"

SYS = Path("/sys")
# Where the package aws-neuronx-tools puts it.
NEURON_LS = "/opt/aws/neuron/bin/neuron-ls"

# Physical NeuronCores of a chip, by the names that the driver gives to chips.
CORES = {"Inferentia2": 2, "Trainium1": 2, "Trainium2": 8, "Trainium3": 8}
# The same chips by the family of the EC2 instance, as the firmware's product name begins.
FAMILIES = {"inf2": "Inferentia2", "trn1": "Trainium1", "trn2": "Trainium2", "trn3": "Trainium3"}
# Chips that NKI is documented for, and whose logical cores may be two physical ones.
NKI_CHIPS = ("Trainium2", "Trainium3")

# Settings that change the arithmetic of the whole process.
ROUNDING = ("XLA_USE_BF16", "XLA_DOWNCAST_BF16", "NEURON_RT_STOCHASTIC_ROUNDING_EN")

# Tiles of the Tensor Engine: what is summed over, rows and columns of the product.
TILE = {"k": 128, "m": 128, "n": 512}
# One partition of SBUF: 28 MiB over 128 are 224 KiB in Trainium 2. How much of it NKI keeps for itself
# is not documented, so this is what NeuronCore-v2 has, 24 MiB over 128.
PARTITION_BYTES = 192 << 10
# What attention_cte of the NKI library takes.
HEAD_DIM_MAX, HEADS_MAX = 128, 512
# The largest number that Trainium 2 and PyTorch write alike in f8e4m3: beyond it Trainium 2 has
# infinity and NaN where PyTorch's float8_e4m3fn goes on to 448.
F8_MAX = 240.0

# How torch calls the types of tensors, and NKI the types of tiles.
TORCH_TYPES = {
    "f32": "float32",
    "tf32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f8e4m3": "float8_e4m3fn",
}
NKI_TYPES = {
    "f32": "float32",
    "tf32": "tfloat32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f8e4m3": "float8_e4m3",
}

# Codes of nrt_status.h that tell of memory, and of a core that is of no more use to this process.
NO_MEMORY = {"NRT_RESOURCE": 4, "NRT_FAIL_HOST_MEM_ALLOC": 11}
LOST = {
    "NRT_TIMEOUT": 5,
    "NRT_HW_ERROR": 6,
    "NRT_UNINITIALIZED": 13,
    "NRT_CLOSED": 14,
    "NRT_EXEC_UNIT_UNRECOVERABLE": 101,
    "NRT_EXEC_HW_ERR_COLLECTIVES": 1200,
    "NRT_EXEC_HW_ERR_HBM_UE": 1201,
    "NRT_EXEC_HW_ERR_NC_UE": 1202,
    "NRT_EXEC_HW_ERR_DMA_ABORT": 1203,
    "NRT_EXEC_HW_ERR_REPAIRABLE_HBM_UE": 1205,
}


# The machine


@dataclass
class Machine:
    """What is known of the chips of this machine without starting the runtime. They are all alike."""

    chip: str
    chip_count: int
    # Physical cores of one chip.
    cores: int
    instance: str
    driver: str
    # What neuron-ls says of each chip; empty where it cannot be asked.
    listing: list


def text(path):
    """The words in a file of /sys; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def neuron_ls():
    """What neuron-ls prints as JSON; empty where it is not there or fails."""
    try:
        command = [NEURON_LS, "--json-output"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return asked.stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def chips_listed(printed):
    """The chips in what neuron-ls printed, in the order of their numbers. Its keys are not
    documented; `neuron_device`, `bdf`, `nc_count` and `memory_size` are as captured on machines."""
    try:
        listed = json.loads(printed)
        return sorted(listed, key=lambda chip: chip["neuron_device"])
    except (KeyError, TypeError, ValueError):
        return []


def survey(root, printed):
    """The machine, from its /sys and what neuron-ls printed; a refusal where no chip is there.

    Driver 2.31 moved nodes of its tree, so each thing has a second source: the name of the chip the
    type of the instance, the number of cores neuron-ls and then the documented number.
    """
    folders = (root / "devices/virtual/neuron_device").glob("neuron*")
    nodes = sorted(node for node in folders if re.fullmatch(r"neuron\d+", node.name))
    listing = chips_listed(printed)
    if not nodes and not listing:
        raise Refusal("no_device", f"the Neuron driver shows no chip here: {REMEDY}")
    instance = text(root / "devices/virtual/dmi/id/product_name")
    chip = text(nodes[0] / "info/architecture/device_name") if nodes else ""
    chip = chip or next((name for key, name in FAMILIES.items() if instance.startswith(key)), "")
    if chip not in CORES:
        known = ", ".join(CORES)
        message = f"this runner knows {known}, not {chip or 'a chip without a name'} ({instance})"
        raise Refusal("no_device", message)
    counted = text(nodes[0] / "core_count") if nodes else ""
    cores = int(counted) if counted.isdigit() else 0
    cores = cores or (listing[0].get("nc_count") if listing else None) or CORES[chip]
    driver = text(root / "module/neuron/version")
    return Machine(chip, len(nodes) or len(listing), cores, instance, driver, listing)


def choose(selector, count, chip, visible):
    """The index of the core that is meant among so many; `visible` is the user's own setting."""
    if selector is None or (not selector.isdigit() and selector.lower() in f"aws {chip}".lower()):
        first = re.match(r"\d+", visible or "0")
        return int(first.group()) if first else 0
    if selector.isdigit() and int(selector) < count:
        return int(selector)
    message = f"there is no core {selector!r}; {chip} has them here from 0 to {count - 1}"
    raise Refusal("no_device", message)


def import_package(name):
    """This package, or why not and what to do."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # it is not there, or misses what it needs
        raise Refusal("no_device", f"{base.one_line(error)}: {REMEDY}") from None


def package_version(name):
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def failure(error):
    """The kind that an error of PyTorch/XLA or of the Neuron runtime stands for, by its text."""
    said = str(error)
    names = set(re.findall(r"NRT_[A-Z_]+", said))
    # As in "nrt_tensor_allocate status=4".
    codes = {int(code) for code in re.findall(r"nrta?_\w+:? status=(\d+)", said)}
    meant = lambda table: names & table.keys() or codes & set(table.values())
    if meant(LOST):
        return "device_lost"
    if meant(NO_MEMORY) or "RESOURCE_EXHAUSTED" in said:
        return "out_of_memory"
    return "validation"


class Neuron(base.Runner):
    """One core of a chip, through PyTorch/XLA."""

    name = "neuron"
    asynchronous = True

    def __init__(self):
        self.core = None
        super().__init__()

    def open(self, selector, backend):
        if backend not in (None, "neuron"):
            message = f"this runner reaches chips by 'neuron', not by {backend!r}"
            raise Refusal("no_device", message)
        self.machine = machine = survey(SYS, neuron_ls())
        self.logical = self.logical_size()
        per_chip = machine.cores // self.logical
        visible = os.environ.get("NEURON_RT_VISIBLE_CORES")
        core = choose(selector, machine.chip_count * per_chip, machine.chip, visible)
        if self.core not in (None, core):
            raise Refusal("input", f"core {self.core} is open; a process has one, not {core} as well")
        if self.core is None:
            self.start(core)
        chip = core // per_chip
        listed = machine.listing[chip] if chip < len(machine.listing) else {}
        limits = {"neuron_cores_used": self.logical, "neuron_cores_of_chip": machine.cores}
        # Two physical cores of a Trainium 2 share one of its four stacks of HBM. A logical core of
        # both has it all; one core alone is counted half of it.
        self.memory = (listed.get("memory_size") or 0) * self.logical // machine.cores or None
        if self.memory:
            limits["memory_bytes_budget"] = self.memory
        device = {
            # Not the whole chip, and the name says so: nobody is to compare it with one that is.
            "name": f"AWS {machine.chip}, {self.logical} of {machine.cores} cores",
            "backend": "neuron",
            "driver": f"{machine.driver or 'unknown'} on {machine.instance or 'unknown instance'}",
            "device_type": "other",
            "pci_bus_id": listed.get("bdf"),
            "limits": limits,
        }
        timer = base.host_timer(
            f"PyTorch/XLA shows no timestamps of this device; {UNVERIFIED}; spans end with an element "
            "read back, and hold what the host needs to record each call"
        )
        return device, timer

    def logical_size(self):
        """How many physical cores make up one logical core."""
        if self.machine.chip not in NKI_CHIPS:
            return 1
        # Two unless the user wants otherwise. The compiler, the runtime and NKI must agree.
        asked = os.environ.setdefault("NEURON_LOGICAL_NC_CONFIG", "2")
        if asked not in ("1", "2"):
            raise Refusal("input", f"NEURON_LOGICAL_NC_CONFIG is {asked!r}; it may be 1 or 2")
        return int(asked)

    def start(self, core):
        """Starts the runtime on this core. What it is told by the environment must stand before."""
        for name in ROUNDING:
            if os.environ.get(name, "0") not in ("", "0"):
                raise Refusal("input", f"{name} is set: it rounds what is to stay as it is")
        os.environ["NEURON_RT_VISIBLE_CORES"] = str(core)
        # F32 stays F32. Of two such options the later one holds. It is for the whole process: compiled
        # graphs are kept by what they compute, so the same graph cannot be had with other options.
        given = os.environ.get("NEURON_CC_FLAGS", "")
        os.environ["NEURON_CC_FLAGS"] = f"{given} --auto-cast=none".strip()
        self.torch = import_package("torch")
        import_package("torch_neuronx")
        self.xla = import_package("torch_xla")
        self.xla_model = import_package("torch_xla.core.xla_model")
        try:
            self.device = self.xla.device()
        except RuntimeError as error:  # no driver, or another process has the core
            raise Refusal("no_device", f"core {core} does not open: {error}") from None
        self.core = core

    def version(self):
        names = ("torch", "torch-neuronx", "neuronx-cc")
        versions = ", ".join(f"{name} {package_version(name)}" for name in names)
        return f"{VERSION}, {UNVERIFIED} ({versions})"

    # What there is

    def offer(self, case):
        op, dtype, shape = case["op"], case["dtype"], case["shape"]
        if op == "matmul" and dtype in TORCH_TYPES:
            library = ["library"] if dtype in ("f32", "f16", "bf16") else []
            return self.offer_nki(library, "nki_tiled", self.no_tiles(dtype, shape))
        if op == "attention" and dtype in ("f32", "f16", "bf16"):
            if shape.get("page_len", 0):
                raise Refusal("unsupported", "this runner has no paged keys")
            if base.masked(shape) and shape["query_len"] > shape["kv_len"]:
                raise Refusal(
                    "unsupported", "PyTorch gives NaN, not zeros, to queries that see no key"
                )
            return self.offer_nki(
                ["scaled_dot_product"], "nki_flash", self.no_flash(dtype, shape)
            )
        raise Refusal("unsupported", f"this runner has no {op} in {dtype}")

    def offer_nki(self, library, name, why_not):
        """The library's kernels and one in NKI, which is refused for a reason or offered as well."""
        return (library, {name: why_not}) if why_not else ([*library, name], {})

    def no_nki(self, module):
        """Why there are no kernels in NKI from this module here; None where there are."""
        if self.machine.chip not in NKI_CHIPS:
            return f"NKI is for Trainium 2 and later; this is {self.machine.chip}"
        try:
            importlib.import_module(module)
        except Exception as error:  # it is not there, or another version that reads otherwise
            return f"{module} cannot be had: {base.one_line(error)}"
        return None

    def no_tiles(self, dtype, shape):
        """Why the product in tiles does not take this shape; None where it does."""
        why_not = self.no_nki("nki_matmul")
        if why_not:
            return why_not
        if shape.get("batch", 1) > 1:
            return f"it multiplies one pair of matrices, not {shape['batch']}"
        for dim, tile in TILE.items():
            if shape[dim] % tile:
                return f"{dim} is {shape[dim]}, which tiles of {tile} do not divide"
        row_count = shape["m"] // TILE["m"]
        if row_count % self.logical:
            return f"{row_count} rows of tiles cannot be dealt out to {self.logical} cores alike"
        # Panels of both matrices, those of TF32 before and after it is rounded, and a tile of C.
        size = base.SIZES[dtype] * (2 if dtype == "tf32" else 1)
        needed = shape["k"] // TILE["k"] * (TILE["m"] + TILE["n"]) * size + TILE["n"] * 4
        if needed > PARTITION_BYTES:
            panels = f"panels of k {shape['k']} need {needed} bytes of a partition of SBUF"
            return f"{panels}; {PARTITION_BYTES} are there"
        return None

    def no_flash(self, dtype, shape):
        """Why the NKI library's attention does not take this shape; None where it does."""
        why_not = self.no_nki("nkilib.core.attention.attention_cte")
        if why_not:
            return why_not
        heads = shape["batch"] * shape["heads"]
        if dtype != "bf16":
            return f"it multiplies in bf16 whatever it is given, and this is {dtype}"
        if shape["head_dim"] > HEAD_DIM_MAX:
            return f"head_dim is {shape['head_dim']}; it takes {HEAD_DIM_MAX} at most"
        if heads > HEADS_MAX:
            return f"there are {heads} heads in all; it takes {HEADS_MAX} at most"
        if base.masked(shape) and shape["query_len"] != shape["kv_len"]:
            lengths = f"{shape['query_len']} queries, {shape['kv_len']} keys"
            return f"its mask begins at the first key: {lengths}"
        return None

    # Tensors

    def place(self, values, element):
        tensor = self.torch.from_numpy(values).to(getattr(self.torch, TORCH_TYPES[element]))
        if element == "f8e4m3":
            largest = float(abs(values).max(initial=0.0))
            if largest > F8_MAX:
                message = f"f8e4m3 goes to {F8_MAX:g} on this chip; {largest:g} is in the tensor"
                raise Refusal("input", message)
            # Under the name of bytes, since XLA's f8 is not the chip's; the kernel renames them.
            tensor = tensor.view(self.torch.int8)
        return tensor.to(self.device)

    def free_bytes(self):
        # Inputs are made in the host's memory and moved from there.
        known = [room for room in (self.memory, base.available_bytes()) if room is not None]
        return min(known, default=None)

    def forget(self):
        super().forget()
        self.last = None

    def poison_results(self):
        # XLA hands each result over in a buffer of its own: there is nothing to be filled, and a
        # result that is not computed anew is not there. NaN would also be an error to the runtime.
        super().poison_results()
        self.last = None

    def flat(self, result):
        return result.cpu().double().reshape(-1).numpy()

    # Kernels

    def build(self, name):
        case, shape = self.case, self.case["shape"]
        self.results, self.last = [None] * len(self.sets), None
        try:
            run = self.matmul(name) if case["op"] == "matmul" else self.attention(name, shape)

            def call(s):
                self.results[s] = self.last = run(*self.sets[s])
                # At once: a result that is replaced before it is computed would never be computed.
                self.xla.sync()

            compile_s = self.compile(call)
        except Exception as error:  # compilers throw what they like
            self.results, self.last = [], None
            raise self.refusal(error) or Refusal("validation", error) from None
        output = case["dtype"] if case["dtype"] in ("f16", "bf16") else None
        return Kernel(
            call, compile_s, engine="matrix", output=None if name == "nki_tiled" else output
        )

    def compile(self, call):
        """Seconds that the first call takes longer than the second: it compiles, or finds the graph
        in the compiler's cache on disk."""
        took = []
        for _ in range(2):
            started = time.perf_counter()
            call(0)
            self.wait()
            took.append(time.perf_counter() - started)
        return max(0.0, took[0] - took[1])

    def matmul(self, name):
        """A function of A and B. What is transposed is transposed in each call, in its graph."""
        turned = self.case["shape"].get("trans_b", 0)
        if name == "library":
            return lambda a, b: self.torch.matmul(a, b.mT if turned else b)
        dtype = self.case["dtype"]
        kernel = importlib.import_module("nki_matmul").tiled[self.logical]
        tile_type = getattr(importlib.import_module("nki.language"), NKI_TYPES[dtype])
        return lambda a, b: kernel(
            a.mT, b.mT if turned else b, tile_type, dtype == "tf32", dtype == "f8e4m3"
        )

    def attention(self, name, shape):
        """A function of Q, K and V."""
        causal = base.masked(shape)
        if name == "nki_flash":
            module = importlib.import_module("nkilib.core.attention.attention_cte")
            kernel, d = module.attention_cte[self.logical], shape["head_dim"]
            heads, kv_heads = (shape["batch"] * shape[key] for key in ("heads", "kv_heads"))
            # Heads count as batches; a head of keys serves heads / kv_heads in a row, as it should.
            return lambda q, k, v: kernel(
                q.reshape(heads, shape["query_len"], d),
                k.reshape(kv_heads, shape["kv_len"], d),
                v.reshape(kv_heads, shape["kv_len"], d),
                scale=1.0 / math.sqrt(d),
                causal_mask=causal,
                tp_k=True,
            )
        square = shape["query_len"] == shape["kv_len"]
        mask = None
        if causal and not square:
            import numpy

            seen = numpy.tri(
                shape["query_len"], shape["kv_len"], shape["kv_len"] - shape["query_len"], dtype=bool
            )
            mask = self.torch.from_numpy(seen).to(self.device)
        attend = self.torch.nn.functional.scaled_dot_product_attention
        return lambda q, k, v: attend(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and square,
            enable_gqa=shape["heads"] != shape["kv_heads"],
        )

    def wait(self):
        """Returns when all calls are done; an element of the last result is the proof."""
        if self.last is not None:
            self.xla_model.wait_device_ops()
            self.last[(0,) * self.last.dim()].cpu()

    def refusal(self, error):
        if isinstance(error, Refusal):
            return error
        if isinstance(error, RuntimeError):
            return Refusal(failure(error), error)
        return super().refusal(error)


if __name__ == "__main__":
    Neuron().serve()
