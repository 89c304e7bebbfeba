#!/usr/bin/env python3
"""PyTorch as a runner of chipmark: the vendor's own libraries behind one interface.

On NVIDIA that is cuBLAS, cuDNN and flash attention, on AMD rocBLAS and its kin, on Intel oneDNN, on
Apple Metal Performance Shaders, elsewhere the CPU's library. It speaks the protocol of
docs/protocol.md on its standard streams:

    chipmark run --runner wgpu --runner 'python3 runners/torch/chipmark_torch.py'

Made with PyTorch 2.11; its CPU backend is the only one this has run on yet. Calls of one span are
captured in a CUDA graph where that works, so that short kernels are not measured by how fast Python
can launch them.
"""

import json
import math
import sys
import time

import torch

PROTOCOL = 1
VERSION = "0.1.0"
MASK = 0xFFFFFFFF
# Elements that are made at a time: each takes several times eight bytes on the way.
PIECE = 1 << 24
# Calls that one captured graph holds at most.
GRAPH_CALLS_MAX = 200

FLOATS = {"f32": torch.float32, "f16": torch.float16, "f16_f16": torch.float16}


class Refusal(Exception):
    """Why a request is not carried out: kind and one line for people."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


# The input hash: docs/protocol.md has the definition and its test vectors.


def mix(x):
    """The mixer on Python's integers or on tensors of int64 that hold 32 bits."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def keys(seed, tensor):
    first = mix(seed ^ mix((tensor + 0x9E3779B9) & MASK))
    return first, mix(first ^ 0x85EBCA6B)


def words(key, start, end, device):
    index = torch.arange(start, end, dtype=torch.int64, device=device)
    return mix(mix((index + key[0]) & MASK) ^ key[1])


def elements(word, data, element, scale):
    """Values of random words: 24, 11, 8 or 4 bits of each."""
    if data == "integer":
        return (word >> 29) - 2
    if element == "f32":
        return ((word >> 8).double() / 8388608 - 1) * scale
    if element == "f16":
        return ((word >> 21).double() / 1024 - 1) * scale
    return (word >> 24) - 128


class Runner:
    def __init__(self):
        self.device = None
        self.case = None

    # hello

    def hello(self, request):
        if request.get("protocol") != PROTOCOL:
            raise Refusal(
                "unsupported",
                f"this runner speaks protocol {PROTOCOL}, not {request.get('protocol')}",
            )
        self.device = choose_device(request.get("device"))
        kind = self.device.type
        # The product is to be of f32 numbers, not of their first ten bits.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        name, driver, pci = describe(self.device)
        on_device = kind == "cuda"
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "runner": {"name": "torch", "version": f"{VERSION} (torch {torch.__version__})"},
            "device": {
                "name": name,
                "backend": "rocm" if on_device and torch.version.hip else kind,
                "driver": driver,
                "device_type": "cpu" if kind == "cpu" else "other",
                "runner": "torch",
                "pci_id": None,
                "pci_bus_id": pci,
                "chip_id": None,
                "limits": {},
                "features": [],
            },
            "timer": {
                "clock": "device" if on_device else "host",
                # Events tick every half microsecond.
                "quantum_s": 0.5e-6 if on_device else time.get_clock_info("perf_counter").resolution,
                "note": None if on_device else "PyTorch shows no timestamps of this device",
            },
        }

    # case

    def load(self, request):
        self.case = None
        case = request["case"]
        op, dtype, shape = case["op"], case["dtype"], case["shape"]
        sets = max(1, request.get("set_count", 1))
        if op == "matmul":
            tensors, refused = matmul_tensors(shape, dtype)
        elif op == "attention":
            tensors, refused = attention_tensors(shape, dtype)
        elif op == "copy" and dtype == "f32":
            tensors, refused = [("src", [shape["n"]], "f32", 1.0)], None
        else:
            raise Refusal("unsupported", f"this runner has no {op} in {dtype}")
        if refused:
            raise Refusal("unsupported", refused)
        # What the case before has left would stand in the way, and its call holds tensors too.
        self.sets = self.outputs = self.call = None
        self.graphs = {}
        self.check_memory(tensors, shape, sets)
        try:
            self.sets = [
                [self.tensor(number, *tensor, request) for number, tensor in enumerate(tensors)]
                for _ in range(sets)
            ]
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise Refusal("out_of_memory", one_line(error)) from None
        self.case, self.turn, self.call, self.graphs = case, 0, None, {}
        self.outputs = [None] * sets
        names = [f"{op}/{way}" for way in self.ways()]
        return {
            "type": "variants",
            "variants": [{"kernel": name, "variant": {}} for name in names],
            "refused": [],
            "set_count": sets,
        }

    def check_memory(self, tensors, shape, sets):
        """Refuses what does not fit: some systems promise memory that they do not have."""
        budget = free_bytes(self.device)
        # The output is at most f32 and, but for attention, no tensor tells its size.
        output = shape.get("batch", 1) * shape["m"] * shape["n"] if "m" in shape else 0
        output = output or math.prod(tensors[0][1])
        sizes = {"f32": 4, "f16": 2, "i8": 1}
        one = 4 * output + sum(math.prod(dims) * sizes[element] for _, dims, element, _ in tensors)
        if budget is not None and sets * one > budget:
            raise Refusal(
                "out_of_memory", f"the tensors need {sets * one} bytes; {budget} are there for them"
            )

    def tensor(self, number, name, dims, element, scale, request):
        data, count = request["data"], math.prod(dims)
        kind = {"f32": torch.float32, "f16": torch.float16, "i8": torch.int8}[element]
        if isinstance(data, dict):
            import numpy

            path = data["files"].get(name)
            if path is None:
                raise Refusal("input", f"no file was given for tensor {name!r}")
            try:
                values = torch.from_numpy(numpy.load(path).astype("float32"))
            except (OSError, ValueError) as error:
                raise Refusal("input", one_line(f"{path}: {error}")) from None
            if list(values.shape) != dims:
                raise Refusal("input", f"{path} is {list(values.shape)}, not {dims}")
            return values.to(self.device, kind)
        made = torch.zeros(count, dtype=kind, device=self.device)
        if data != "zero":
            key = keys(request["seed"], number)
            # Sixty-four bits are not everywhere; what lacks them gets its values from the CPU.
            where = self.device if self.device.type in ("cuda", "cpu", "xpu") else "cpu"
            for start in range(0, count, PIECE):
                end = min(start + PIECE, count)
                made[start:end] = elements(words(key, start, end, where), data, element, scale).to(
                    self.device, kind
                )
        return made.view(dims)

    def ways(self):
        op, dtype = self.case["op"], self.case["dtype"]
        if op == "matmul" and dtype == "f16":
            # Sums in f32 are handed over in f32 where the library can, else in f16.
            return ["library_f32_output", "library"] if self.device.type == "cuda" else ["library"]
        if op == "matmul" and dtype == "f16_f16":
            return ["library_f16_sums"]
        if op == "attention":
            return ["scaled_dot_product"]
        return ["library"]

    # prepare

    def prepare(self, request):
        op, dtype, shape = self.case["op"], self.case["dtype"], self.case["shape"]
        way = request["kernel"].partition("/")[2]
        if request["kernel"] != f"{op}/{way}" or way not in self.ways() or request["variant"]:
            raise Refusal("validation", f"there is no {op} kernel {request['kernel']!r}")
        self.call, self.graphs = None, {}
        output = None
        if op == "copy":
            self.outputs = [torch.empty_like(tensors[0]) for tensors in self.sets]
            call = lambda s: self.outputs[s].copy_(self.sets[s][0])
        elif op == "matmul":
            call, output = self.matmul(way, dtype, shape)
        else:
            call = self.attention(shape)
            output = "f16" if dtype == "f16" else None
        self.poison()
        started = time.perf_counter()
        self.attempt(call, 0)
        self.wait()
        first_call_s = time.perf_counter() - started
        self.call = call
        matrix = self.device.type != "cpu" and dtype in ("f16", "f16_f16", "i8") and op != "copy"
        return {
            "type": "ready",
            "compile_s": 0.0,
            "first_call_s": first_call_s,
            "shader_sha256": None,
            "engine": "matrix" if matrix else "alu",
            "passes": [],
            "clock": None,
            "output": output,
        }

    def attempt(self, call, which):
        try:
            call(which)
        except torch.OutOfMemoryError as error:
            raise Refusal("out_of_memory", one_line(error)) from None
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise Refusal("validation", one_line(error)) from None

    def matmul(self, way, dtype, shape):
        single = shape.get("batch", 1) == 1
        turn = (lambda b: b.mT) if shape.get("trans_b", 0) else (lambda b: b)
        pairs = [(a, turn(b)) for a, b in self.sets]
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_fp16_accumulation = way == "library_f16_sums"
        if dtype == "i8":
            kind = torch.int32
        elif way == "library_f32_output":
            kind = torch.float32
        else:
            kind = FLOATS[dtype]
        rows = [shape["m"], shape["n"]]
        dims = rows if single else [shape["batch"], *rows]
        self.outputs = [torch.empty(dims, dtype=kind, device=self.device) for _ in pairs]
        product = torch.mm if single else torch.bmm

        def call(s):
            a, b = pairs[s]
            if dtype == "i8":
                torch._int_mm(a, b, out=self.outputs[s])
            elif way == "library_f32_output":
                product(a, b, out_dtype=torch.float32, out=self.outputs[s])
            else:
                product(a, b, out=self.outputs[s])

        return call, "f16" if dtype == "f16" and way == "library" else None

    def attention(self, shape):
        causal = bool(shape.get("causal", 0))
        grouped = shape["heads"] != shape["kv_heads"]
        self.outputs = [None] * len(self.sets)

        def call(s):
            q, k, v = self.sets[s]
            self.outputs[s] = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=causal, enable_gqa=grouped
            )

        return call

    def poison(self):
        for output in self.outputs:
            if output is not None:
                output.fill_(float("nan") if output.is_floating_point() else -(2**31))

    # measure

    def measure(self, request):
        if self.call is None:
            raise Refusal("input", "no variant is prepared")
        if request.get("poison"):
            self.poison()
        repeat = request["repeat_count"]
        samples = [self.span(repeat) for _ in range(request["sample_count"])]
        return {"type": "samples", "samples": samples}

    def span(self, repeat):
        play = self.play(repeat)
        cuda = self.device.type == "cuda"
        self.wait()
        if cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started = time.perf_counter()
        if cuda:
            begin.record()
        play()
        if cuda:
            end.record()
        submitted = time.perf_counter()
        self.wait()
        host_s = time.perf_counter() - started
        return {
            "device_s": begin.elapsed_time(end) * 1e-3 if cuda else None,
            "host_s": host_s,
            "submit_s": submitted - started,
            "repeat_count": repeat,
        }

    def play(self, repeat):
        """What calls `repeat` times: graphs of many calls each where there are such."""
        count = min(repeat, GRAPH_CALLS_MAX) // len(self.sets) * len(self.sets)
        graph = self.graph(count) if self.device.type == "cuda" and count > 1 else None

        def run():
            left = repeat
            if graph is not None and self.turn == 0:
                while left >= count:
                    graph.replay()
                    left -= count
            for _ in range(left):
                self.call(self.turn)
                self.turn = (self.turn + 1) % len(self.sets)

        return run

    def graph(self, count):
        """A graph of `count` calls, a whole number of turns through the sets; None if there is none."""
        if count not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            try:
                torch.cuda.synchronize()
                with torch.cuda.graph(graph):
                    for index in range(count):
                        self.call(index % len(self.sets))
            except RuntimeError:
                graph = None
            self.graphs[count] = graph
        return self.graphs[count]

    def wait(self):
        kind = self.device.type
        if kind != "cpu":
            getattr(torch, kind).synchronize()

    # outputs

    def read(self, request):
        which = request.get("set_index", 0)
        if not 0 <= which < len(self.outputs):
            raise Refusal("input", f"there is no set {which}; the case has {len(self.outputs)}")
        output = self.outputs[which]
        if output is None:
            raise Refusal("input", "nothing has been called yet")
        # No sixty-four bits on some devices.
        whole = (output if self.device.type in ("cuda", "cpu") else output.cpu()).double()
        if not output.is_floating_point():
            whole[output == -(2**31)] = float("nan")
        flat = whole.reshape(-1)
        beyond = [p for p in request["positions"] if not 0 <= p < flat.numel()]
        if beyond:
            raise Refusal(
                "input",
                f"position {beyond[0]} is beyond the output of {flat.numel()} elements",
            )
        columns = whole.shape[-1] if self.case["op"] != "copy" else 4096
        if request.get("all"):
            values = flat
        else:
            values = flat[torch.tensor(request["positions"], dtype=torch.int64, device=flat.device)]
        projection = []
        seed = request.get("projection_seed")
        if seed is not None:
            word = words(keys(seed, MASK), 0, columns, flat.device)
            signs = 1.0 - 2.0 * (word >> 31).double()
            rows = -(-flat.numel() // columns)
            padded = torch.nn.functional.pad(flat, (0, rows * columns - flat.numel()))
            projection = (padded.view(rows, columns) @ signs).tolist()
        return {
            "type": "outputs",
            "values": [number(v) for v in values.tolist()],
            "projection": [number(v) for v in projection],
        }

    def handle(self, request):
        if not isinstance(request, dict):
            raise Refusal("input", "a request is a JSON object")
        kind = request.get("type")
        if kind == "hello":
            return self.hello(request)
        if kind == "bye":
            return {"type": "bye"}
        if self.device is None:
            raise Refusal("input", "say hello first")
        if kind == "case":
            return self.load(request)
        if self.case is None:
            raise Refusal("input", "there is no case yet")
        handlers = {"prepare": self.prepare, "measure": self.measure, "outputs": self.read}
        if kind not in handlers:
            raise Refusal("input", f"this request is not understood: {kind!r}")
        return handlers[kind](request)


def matmul_tensors(shape, dtype):
    batch, m, n, k = shape.get("batch", 1), shape["m"], shape["n"], shape["k"]
    element = {"f32": "f32", "f16": "f16", "f16_f16": "f16", "i8": "i8"}.get(dtype)
    if element is None:
        return [], f"PyTorch has no matmul in {dtype}"
    if dtype == "i8" and batch > 1:
        return [], "PyTorch's integer product has no batches"
    stack = lambda dims: dims if batch == 1 else [batch, *dims]
    b = [n, k] if shape.get("trans_b", 0) else [k, n]
    return [("a", stack([m, k]), element, 1.0), ("b", stack(b), element, 1.0)], None


def attention_tensors(shape, dtype):
    if dtype not in ("f32", "f16"):
        return [], f"this runner has no attention in {dtype}"
    if shape.get("causal", 0) and shape["query_len"] != shape["kv_len"]:
        return [], "PyTorch aligns a causal mask to the first key, not to the last"
    if shape.get("page_len", 0):
        return [], "PyTorch has no paged keys"
    q = [shape["batch"], shape["heads"], shape["query_len"], shape["head_dim"]]
    kv = [shape["batch"], shape["kv_heads"], shape["kv_len"], shape["head_dim"]]
    return [("q", q, dtype, 4.0), ("k", kv, dtype, 1.0), ("v", kv, dtype, 1.0)], None


def choose_device(selector):
    kinds = ["cuda", "xpu", "mps", "cpu"]
    there = [
        kind
        for kind in kinds
        if kind == "cpu"
        or kind == "mps"
        and torch.backends.mps.is_available()
        or kind in ("cuda", "xpu")
        and getattr(torch, kind, None) is not None
        and getattr(torch, kind).is_available()
    ]
    if selector is None:
        return torch.device(there[0])
    kind, _, index = selector.partition(":")
    if kind.isdigit():
        kind, index = there[0], kind
    if kind not in there:
        raise Refusal(
            "no_device", f"there is no device {selector!r}; these are there: {', '.join(there)}"
        )
    return torch.device(kind, int(index)) if index else torch.device(kind)


def describe(device):
    """Name, driver and PCI address."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        version = torch.version.hip or torch.version.cuda
        parts = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
        pci = None if None in parts else "{:04x}:{:02x}:{:02x}.0".format(*parts)
        return properties.name, f"{'ROCm' if torch.version.hip else 'CUDA'} {version}", pci
    if device.type == "xpu":
        return torch.xpu.get_device_name(device), "SYCL", None
    if device.type == "mps":
        return "Apple GPU", "Metal Performance Shaders", None
    name = "CPU"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            name = next(line.split(":")[1].strip() for line in info if "model name" in line)
    except (OSError, StopIteration):
        pass
    return name, f"{torch.get_num_threads()} threads", None


def free_bytes(device):
    """Bytes that tensors may take: what is free on a GPU, half of what is available in main memory;
    None where nobody says."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu":
        try:
            with open("/proc/meminfo", encoding="utf-8") as info:
                line = next(line for line in info if line.startswith("MemAvailable:"))
                return int(line.split()[1]) * 1024 // 2
        except (OSError, StopIteration):
            pass
    return None


def number(value):
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def one_line(error):
    return " ".join(str(error).split())[:300]


def main():
    runner = Runner()
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            response = runner.handle(json.loads(line))
        except Refusal as refusal:
            response = {"type": "error", "kind": refusal.kind, "message": str(refusal)}
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            message = f"this request is not understood: {one_line(repr(error))}"
            response = {"type": "error", "kind": "input", "message": message}
        except Exception as error:  # whatever a library throws, the runner goes on
            response = {"type": "error", "kind": "internal", "message": one_line(repr(error))}
        print(json.dumps(response), flush=True)
        if response["type"] == "bye":
            break


if __name__ == "__main__":
    main()
