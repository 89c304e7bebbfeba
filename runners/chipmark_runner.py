"""The protocol's side of a runner in Python: docs/protocol.md is its specification.

A library is a runner with a subclass of `Runner` that says what it can do, makes tensors, builds
kernels, and hands outputs back. Inputs, messages, their order and what is refused are here. NumPy is
the array library unless a subclass brings its own; nothing else is needed.
"""

import importlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass, field

PROTOCOL = 1
MASK = 0xFFFFFFFF
# Elements that are made at a time: each takes several times eight bytes on the way.
PIECE = 1 << 24
# Rows of an output that has none of its own are so long.
COLUMNS = 4096
# The lowest number of an output of integers is its poison, and is answered as a NaN.
INTEGER_POISON = -(2**31)


class Refusal(Exception):
    """Why a request is not carried out: kind of the error and one line for people."""

    def __init__(self, kind, message):
        super().__init__(one_line(message))
        self.kind = kind


def one_line(error):
    """The text of an error in one line of modest length."""
    return " ".join(str(error).split())[:300]


# Inputs


def mix(x):
    """The mixer, on Python's integers or on arrays of 64-bit integers that hold 32 bits."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def keys(seed, tensor):
    """The two keys of a tensor's stream."""
    first = mix(seed ^ mix((tensor + 0x9E3779B9) & MASK))
    return first, mix(first ^ 0x85EBCA6B)


def words(key, index):
    """The random words at these indices, as an array of what `index` is an array of."""
    return mix(mix((index + key[0]) & MASK) ^ key[1])


# Bits of a random word that a uniform value keeps, and what it is divided by.
GRIDS = {
    "f32": (24, 1 << 23),
    "tf32": (11, 1 << 10),
    "f16": (11, 1 << 10),
    "bf16": (8, 1 << 7),
    "f8e4m3": (4, 1 << 3),
    "i8": (8, 1),
    "i32": (8, 1),
}

SIZES = {"f32": 4, "tf32": 4, "f16": 2, "bf16": 2, "f8e4m3": 1, "i8": 1, "i32": 4}


def elements(word, data, element):
    """What random words stand for, before the scale: exact in every type of this name."""
    if data == "integer":
        return (word >> 29) - 2
    bits, divisor = GRIDS[element]
    # Of 32 bits the upper ones, as a signed number of so many bits.
    return ((word >> (32 - bits)) - (1 << (bits - 1))) / divisor


def nearest(values, element):
    """An array of f32 with each number the nearest of this type, as the conductor has it."""
    import numpy

    if element == "tf32":
        # Ties to even; what is added carries into the exponent where it must.
        bits = values.view(numpy.uint32)
        bits = (bits + numpy.uint32(0xFFF) + (bits >> 13 & 1)) & numpy.uint32(0xFFFFE000)
        return bits.view(numpy.float32)
    if element == "f8e4m3":
        return numpy.clip(values, -448, 448)
    if element in ("i8", "i32"):
        # Halves away from zero, and beyond the range its ends.
        away = numpy.copysign(numpy.floor(numpy.abs(values) + 0.5), values)
        return numpy.clip(away, -128, 127) if element == "i8" else away
    return values


@dataclass
class Tensor:
    """An input: `scale` multiplies uniform values; `always_integer` is drawn so whatever is asked."""

    name: str
    dims: list
    element: str
    scale: float = 1.0
    always_integer: bool = False

    @property
    def count(self):
        """How many elements it has."""
        return math.prod(self.dims)

    @property
    def bytes(self):
        """How many bytes it takes."""
        return self.count * SIZES[self.element]


ELEMENTS = {
    "f32": "f32",
    "tf32": "tf32",
    "f16": "f16",
    "f16_f16": "f16",
    "bf16": "bf16",
    "f8e4m3": "f8e4m3",
    "i8": "i8",
    "i32": "i32",
}


DIMENSIONS = {
    "matmul": "batch m n k trans_b",
    "attention": "batch heads kv_heads query_len kv_len head_dim causal",
}


def inputs(case):
    """The input tensors of a case, in the order of their numbers."""
    op, dtype, shape = case["op"], case["dtype"], case["shape"]
    element = ELEMENTS.get(dtype)
    if element is None:
        raise Refusal("unsupported", f"this runner has no tensors of {dtype}")
    # A dimension that is not known may change everything. `page` of attention is one: no library here
    # reads keys through a table, and to gather them first would be another case.
    for name, size in shape.items():
        if size and op in DIMENSIONS and name not in DIMENSIONS[op].split():
            raise Refusal("unsupported", f"this runner has no {op} with {name} {size}")
    if op == "matmul":
        batch, m, n, k = shape.get("batch", 1), shape["m"], shape["n"], shape["k"]
        stack = [] if batch == 1 else [batch]
        b = [n, k] if shape.get("trans_b", 0) else [k, n]
        return [Tensor("a", [*stack, m, k], element), Tensor("b", [*stack, *b], element)]
    if op == "attention":
        q = [shape["batch"], shape["heads"], shape["query_len"], shape["head_dim"]]
        kv = [shape["batch"], shape["kv_heads"], shape["kv_len"], shape["head_dim"]]
        return [
            Tensor("q", q, element, 4.0),
            Tensor("k", kv, element),
            Tensor("v", kv, element),
        ]
    if op == "copy":
        return [Tensor("src", [shape["n"]], element)]
    if op in ("empty", "round_trip", "upload", "readback"):
        return [Tensor("x", [shape["n"]], element)]
    if op == "read":
        return [Tensor("x", [shape["n"] // 4096, 32, 128], element, always_integer=True)]
    if op == "triad":
        return [Tensor(name, [shape["n"]], element, always_integer=True) for name in "bc"]
    raise Refusal("unsupported", f"this runner has no {op}")


def output_dims(case):
    """The dimensions of a case's output."""
    op, shape = case["op"], case["shape"]
    if op == "matmul":
        batch = shape.get("batch", 1)
        return [*([] if batch == 1 else [batch]), shape["m"], shape["n"]]
    if op == "attention":
        return [shape["batch"], shape["heads"], shape["query_len"], shape["head_dim"]]
    if op == "read":
        return [shape.get("rounds", 1) * shape["n"] // 4096, 128]
    return [shape["n"]]


def output_columns(case):
    """How many elements of the output one number of a projection sums over."""
    dims = output_dims(case)
    one_row = case["op"] in ("empty", "round_trip")
    return dims[-1] if len(dims) > 1 or one_row else COLUMNS


def masked(shape):
    """Whether attention needs a mask at all: one query alone sees every key."""
    return bool(shape.get("causal", 0)) and shape["query_len"] > 1


@dataclass
class Kernel:
    """A kernel that is built: `call(set)` leaves the output of one call in the runner's results."""

    call: object
    compile_s: float = 0.0
    engine: str = "alu"
    # What the output is handed over in where that is narrower than the sums: f16 or bf16.
    output: str | None = None
    # "host" where the device cannot time it.
    clock: str | None = None
    extra: dict = field(default_factory=dict)


class Runner:
    """A runner; a subclass is a library. `self.results` holds one output for each set."""

    name = "runner"

    def __init__(self):
        self.opened = False
        self.forget()

    def forget(self):
        """Drops a case, and with it all memory that it took."""
        self.case = self.kernel = None
        self.sets, self.results, self.offered = [], [], []
        self.turn = 0

    # What a library brings

    def open(self, selector, backend):
        """Opens the device of this name, or the best one: `(device, timer)` of the answer."""
        raise NotImplementedError

    def version(self):
        """Version of the runner and of what it runs on."""
        raise NotImplementedError

    def offer(self, case):
        """Names of the kernels for this case, the preferred one first, and those refused with the
        reason: `(names, {name: reason})`. Names are without the op."""
        raise NotImplementedError

    def build(self, name):
        """The `Kernel` of this name for `self.case` and `self.sets`."""
        raise NotImplementedError

    def place(self, values, element):
        """A tensor of this element type on the device, from a NumPy array of f32."""
        raise NotImplementedError

    def wait(self):
        """Returns when everything that was called is done."""

    def free_bytes(self):
        """Bytes that tensors may take; None where nobody says."""
        return available_bytes()

    def set_count(self, asked):
        """How many sets of tensors are made where so many are asked for."""
        return asked

    def poison_results(self):
        """Overwrites every output, so that what is not written anew shows. Here: forgets them."""
        self.results = [None] * len(self.sets)

    def flat(self, result):
        """An output as a flat NumPy array of f64."""
        import numpy

        array = numpy.asarray(result)
        flat = array.astype(numpy.float64).reshape(-1)
        if array.dtype.kind == "i":
            flat[flat == INTEGER_POISON] = numpy.nan
        return flat

    def refusal(self, error):
        """The `Refusal` that an error of the library's stands for, or None for its own mistakes."""
        return Refusal("out_of_memory", error) if isinstance(error, MemoryError) else None

    # What a library with arrays of its own does otherwise

    def make(self, number, tensor, data, seed):
        """Input `number` with drawn elements."""
        import numpy

        made = numpy.zeros(tensor.count, dtype=numpy.float32)
        data = "integer" if tensor.always_integer else data
        if data != "zero":
            key, scale = keys(seed, number), tensor.scale if data == "uniform" else 1.0
            for start in range(0, tensor.count, PIECE):
                end = min(start + PIECE, tensor.count)
                word = words(key, numpy.arange(start, end, dtype=numpy.int64))
                made[start:end] = elements(word, data, tensor.element) * scale
        return self.place(made.reshape(tensor.dims), tensor.element)

    def project(self, flat, columns, seed):
        """The sum of each row with the signs of this seed, as a list."""
        import numpy

        word = words(keys(seed, MASK), numpy.arange(columns, dtype=numpy.int64))
        signs = 1.0 - 2.0 * (word >> 31)
        whole = len(flat) // columns * columns
        sums = (flat[:whole].reshape(-1, columns) @ signs).tolist()
        rest = flat[whole:]
        return sums + ([float(rest @ signs[: len(rest)])] if len(rest) else [])

    def span(self, repeat):
        """One timed span of so many calls: the host's clock around them and one wait."""
        call, count = self.kernel.call, len(self.sets)
        self.wait()
        started = time.perf_counter()
        for _ in range(repeat):
            call(self.turn)
            self.turn = (self.turn + 1) % count
        submitted = time.perf_counter()
        self.wait()
        host_s = time.perf_counter() - started
        # Where the host does the work itself nothing is submitted.
        submit_s = submitted - started if self.asynchronous else None
        return {"device_s": None, "host_s": host_s, "submit_s": submit_s, "repeat_count": repeat}

    # Whether calls return before they are done.
    asynchronous = False

    # The conversation

    def hello(self, request):
        if request.get("protocol") != PROTOCOL:
            asked = request.get("protocol")
            raise Refusal("unsupported", f"this runner speaks protocol {PROTOCOL}, not {asked}")
        device, timer = self.open(request.get("device"), request.get("backend"))
        self.opened = True
        absent = {"pci_id": None, "pci_bus_id": None, "chip_id": None, "limits": {}, "features": []}
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "runner": {"name": self.name, "version": self.version()},
            "device": {**absent, "runner": self.name, **device},
            "timer": {"note": None, **timer},
        }

    def load(self, request):
        self.forget()
        case, data = request["case"], request["data"]
        tensors = inputs(case)
        if not isinstance(data, dict) and data not in ("uniform", "integer", "zero"):
            raise Refusal("unsupported", f"this runner draws no {data!r} data")
        names, refused = self.offer(case)
        sets = self.set_count(max(1, request.get("set_count", 1)))
        if names:
            self.check_memory(case, tensors, sets)
            if isinstance(data, dict):
                make = lambda number, tensor: self.read_file(tensor, data["files"])
            else:
                make = lambda number, tensor: self.make(number, tensor, data, request["seed"])
            self.sets = [
                [make(number, tensor) for number, tensor in enumerate(tensors)] for _ in range(sets)
            ]
        self.case, self.offered = case, names
        named = lambda name: {"kernel": f"{case['op']}/{name}", "variant": {}}
        return {
            "type": "variants",
            "variants": [named(name) for name in names],
            "refused": [{**named(name), "reason": why} for name, why in refused.items()],
            "set_count": sets,
        }

    def check_memory(self, case, tensors, sets):
        """Refuses what does not fit: some systems promise memory that they do not have."""
        room = self.free_bytes()
        needed = sets * (4 * math.prod(output_dims(case)) + sum(tensor.bytes for tensor in tensors))
        if room is not None and needed > room:
            message = f"the tensors need {needed} bytes; {room} are there for them"
            raise Refusal("out_of_memory", message)

    def read_file(self, tensor, files):
        import numpy

        path = files.get(tensor.name)
        if path is None:
            raise Refusal("input", f"no file was given for tensor {tensor.name!r}")
        try:
            values = numpy.load(path).astype(numpy.float32)
        except (OSError, ValueError) as error:
            raise Refusal("input", f"{path}: {error}") from None
        if list(values.shape) != tensor.dims:
            raise Refusal("input", f"{path} is {list(values.shape)}, not {tensor.dims}")
        return self.place(nearest(values, tensor.element), tensor.element)

    def prepare(self, request):
        self.kernel, self.results = None, []
        op, _, name = request["kernel"].partition("/")
        if op != self.case["op"] or name not in self.offered or request["variant"]:
            raise Refusal("validation", f"there is no {self.case['op']} kernel {request['kernel']!r}")
        kernel = self.build(name)
        self.poison_results()
        started = time.perf_counter()
        kernel.call(0)
        self.wait()
        first_call_s = time.perf_counter() - started
        self.kernel = kernel
        return {
            "type": "ready",
            "compile_s": kernel.compile_s,
            "first_call_s": first_call_s,
            "shader_sha256": None,
            "engine": kernel.engine,
            "passes": [],
            "clock": kernel.clock,
            "output": kernel.output,
            **kernel.extra,
        }

    def measure(self, request):
        if self.kernel is None:
            raise Refusal("input", "no variant is prepared")
        if request.get("poison"):
            self.poison_results()
        repeat = request["repeat_count"]
        if repeat < 1 or request["sample_count"] < 1:
            raise Refusal("input", "repeat_count and sample_count are at least 1")
        spans = [self.span(repeat) for _ in range(request["sample_count"])]
        return {"type": "samples", "samples": spans}

    def outputs(self, request):
        which, count = request.get("set_index", 0), len(self.results)
        if not 0 <= which < count:
            raise Refusal("input", f"there is no output {which}; there are {count}")
        size = math.prod(output_dims(self.case))
        positions = request["positions"]
        beyond = [p for p in positions if not 0 <= p < size]
        if beyond:
            raise Refusal("input", f"position {beyond[0]} is beyond the output of {size} elements")
        seed, columns = request.get("projection_seed"), output_columns(self.case)
        if self.results[which] is None:  # no call has been here since it was poisoned
            values = [math.nan] * (size if request.get("all") else len(positions))
            projection = [] if seed is None else [math.nan] * -(-size // columns)
        else:
            flat = self.flat(self.results[which])
            values = (flat if request.get("all") else flat[positions]).tolist()
            projection = [] if seed is None else self.project(flat, columns, seed)
        return {
            "type": "outputs",
            "values": [number(value) for value in values],
            "projection": [number(value) for value in projection],
        }

    def handle(self, request):
        """The answer to a request."""
        if not isinstance(request, dict):
            raise Refusal("input", "a request is a JSON object")
        kind = request.get("type")
        if kind == "hello":
            return self.hello(request)
        if kind == "bye":
            return {"type": "bye"}
        if not self.opened:
            raise Refusal("input", "say hello first")
        if kind == "case":
            return self.load(request)
        if self.case is None:
            raise Refusal("input", "there is no case yet")
        handlers = {"prepare": self.prepare, "measure": self.measure, "outputs": self.outputs}
        if kind not in handlers:
            raise Refusal("input", f"this request is not understood: {kind!r}")
        return handlers[kind](request)

    def answer(self, line):
        """The answer to a line, whatever is in it."""
        try:
            return self.handle(json.loads(line))
        except Refusal as refusal:
            error = refusal
        except (KeyError, TypeError, ValueError, RecursionError) as mistake:
            error = self.refusal(mistake)
            error = error or Refusal("input", f"this request is not understood: {mistake!r}")
        except Exception as mistake:  # whatever a library throws, the runner goes on
            error = self.refusal(mistake) or Refusal("internal", repr(mistake))
        return {"type": "error", "kind": error.kind, "message": str(error)}

    def serve(self):
        """Answers line by line until `bye` or the end of the input."""
        # Libraries print, some of them from C: standard output is for answers alone.
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        for line in sys.stdin:
            if not line.strip():
                continue
            response = self.answer(line)
            print(json.dumps(response), file=answers, flush=True)
            if response["type"] == "bye":
                break


def number(value):
    """A float as JSON, which has no words for some."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def available_bytes():
    """Half of the main memory that is available; None where nobody says."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as info:
            line = next(line for line in info if line.startswith("MemAvailable:"))
            return int(line.split()[1]) * 1024 // 2
    except (OSError, StopIteration):
        return None


def cpu_name():
    """What the processor calls itself, as the native runners have it: with the family and the model of
    the silicon where the name has no number of a product."""
    facts = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                key, _, value = line.partition(":")
                facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = facts.get("model name") or "CPU"
    numbered = any(letter.isdigit() for letter in name.split("@")[0])
    if numbered or "cpu family" not in facts or "model" not in facts:
        return name
    return f"{name}, family {facts['cpu family']} model {facts['model']}"


def host_timer(note):
    """The timer of a runner that has no clock but the host's, and why."""
    quantum_s = time.get_clock_info("perf_counter").resolution
    return {"clock": "host", "quantum_s": quantum_s, "note": note}


def need(package, runner):
    """This package, or the end of the program in one line that says what to do."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        sys.exit(f"{one_line(error)}: `./x runner {runner}` makes an environment that has it")
