#!/usr/bin/env python3
"""PyTorch as a runner of chipmark: the vendor's own libraries behind one interface.

On NVIDIA that is cuBLAS, cuDNN and flash attention, on AMD rocBLAS and its kin, on Intel oneDNN, on
Apple Metal Performance Shaders, elsewhere the CPU's library. Calls of one span are captured in a CUDA
graph where that works, so that short kernels are not measured by how fast Python can launch them.
"""

import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import chipmark_runner as base
from chipmark_runner import Kernel, Refusal

torch = base.need("torch", "torch")
bias = base.need("torch.nn.attention.bias", "torch")

VERSION = "0.2.0"
# Calls that one captured graph holds at most.
GRAPH_CALLS_MAX = 200

TYPES = {
    "f32": torch.float32,
    "tf32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8e4m3": torch.float8_e4m3fn,
    "i8": torch.int8,
}

# Backends of scaled-dot-product attention: kernel name, switch, whether it is set for this kernel.
BACKENDS = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
    "math": torch.backends.cuda.enable_math_sdp,
}
# The one that PyTorch chooses.
ANY_BACKEND = "scaled_dot_product"
# Lengths beyond this do not change whether a backend can do a case.
TRIAL_LENGTH_MAX = 128


class Torch(base.Runner):
    """PyTorch on one device."""

    name = "torch"
    device = None

    def open(self, selector, backend):
        self.device = choose_device(selector, backend)
        kind = self.device.type
        if kind in ("cuda", "xpu"):
            # Events, graphs and streams belong to the current device.
            getattr(torch, kind).set_device(self.device.index or 0)
        self.asynchronous = kind != "cpu"
        name, driver, pci = describe(self.device)
        on_device = kind == "cuda"
        device = {
            "name": name,
            "backend": "rocm" if on_device and torch.version.hip else kind,
            "driver": driver,
            "device_type": "cpu" if kind == "cpu" else "other",
            "pci_bus_id": pci,
        }
        # Events tick every half microsecond.
        timer = {"clock": "device", "quantum_s": 0.5e-6}
        return device, timer if on_device else base.host_timer(
            "PyTorch shows no timestamps of this device"
        )

    def version(self):
        return f"{VERSION} (torch {torch.__version__})"

    # What there is

    def offer(self, case):
        op, dtype, shape = case["op"], case["dtype"], case["shape"]
        cuda = self.device.type == "cuda"
        if op == "matmul":
            return self.offer_matmul(dtype, shape), {}
        if op == "attention":
            if dtype not in ("f32", "f16", "bf16"):
                raise Refusal("unsupported", f"PyTorch has no attention in {dtype}")
            if shape.get("page_len", 0):
                raise Refusal("unsupported", "PyTorch has no paged keys")
            if base.masked(shape) and shape["query_len"] > shape["kv_len"]:
                raise Refusal(
                    "unsupported", "PyTorch gives NaN, not zeros, to queries that see no key"
                )
            return self.offer_attention(case)
        if dtype == "f32" and op in ("empty", "copy", "read", "triad", "round_trip"):
            return ["library"], {}
        if dtype == "f32" and op in ("upload", "readback") and cuda:
            return ["library"], {}
        raise Refusal("unsupported", f"this runner has no {op} in {dtype} on {self.device.type}")

    def offer_matmul(self, dtype, shape):
        cuda = self.device.type == "cuda"
        batch = shape.get("batch", 1)
        if dtype not in ("f32", "tf32", "f16", "f16_f16", "bf16", "f8e4m3", "i8"):
            raise Refusal("unsupported", f"PyTorch has no matmul in {dtype}")
        if dtype == "tf32" and (not cuda or torch.version.hip):
            raise Refusal("unsupported", "TF32 is NVIDIA's")
        if dtype == "i8" and batch > 1:
            raise Refusal("unsupported", "PyTorch's integer product has no batches")
        if dtype == "f8e4m3":
            n, k = shape["n"], shape["k"]
            if batch > 1 or not shape.get("trans_b", 0):
                message = "PyTorch's product of f8 takes B in rows of k only, and no batches"
                raise Refusal("unsupported", message)
            if n % 16 or k % 16:
                message = f"PyTorch's product of f8 takes n and k that 16 divides, not {n} and {k}"
                raise Refusal("unsupported", message)
        # Sums in f32 are handed over in f32 where the library can, else in what it multiplies.
        if dtype in ("f16", "bf16"):
            return ["library_f32_output", "library"] if cuda else ["library"]
        return ["library_f16_sums"] if dtype == "f16_f16" else ["library"]

    def offer_attention(self, case):
        """Which backends take a case like this one: they are asked with a small one."""
        shape = dict(case["shape"])
        for length in ("query_len", "kv_len"):
            shape[length] = min(shape[length], TRIAL_LENGTH_MAX)
        if base.masked(shape) and shape["query_len"] == shape["kv_len"]:
            # A mask that does not start at the first key is another thing to a backend.
            if case["shape"]["query_len"] != case["shape"]["kv_len"]:
                shape["query_len"] //= 2
        shape["batch"] = 1
        small = {**case, "shape": shape}
        kind = TYPES[case["dtype"]]
        trial = [torch.zeros(t.dims, dtype=kind, device=self.device) for t in base.inputs(small)]
        names, refused = [], {}
        # One backend alone is all that there is on some devices.
        for name in [ANY_BACKEND, *(BACKENDS if self.device.type in ("cuda", "cpu") else [])]:
            try:
                select_backend(name)
                attend(trial, shape)
                self.wait()
                names.append(name)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError) as error:
                if self.refusal(error).kind == "device_lost":
                    raise
                refused[name] = base.one_line(error)
        return names, refused

    # Tensors

    def place(self, values, element):
        return torch.from_numpy(values).to(self.device, TYPES[element])

    def make(self, number, tensor, data, seed):
        made = torch.zeros(tensor.count, dtype=TYPES[tensor.element], device=self.device)
        data = "integer" if tensor.always_integer else data
        if data != "zero":
            key, scale = base.keys(seed, number), tensor.scale if data == "uniform" else 1.0
            # Sixty-four bits are not everywhere; what lacks them gets its values from the CPU.
            where = self.device if self.device.type in ("cuda", "cpu", "xpu") else "cpu"
            for start in range(0, tensor.count, base.PIECE):
                end = min(start + base.PIECE, tensor.count)
                index = torch.arange(start, end, dtype=torch.int64, device=where)
                word = base.words(key, index)
                values = base.elements(word, data, tensor.element).to(torch.float32) * scale
                made[start:end] = values.to(self.device, made.dtype)
        return made.view(tensor.dims)

    def free_bytes(self):
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            return torch.cuda.mem_get_info(self.device)[0]
        return base.available_bytes() if self.device.type == "cpu" else None

    def forget(self):
        super().forget()
        self.graphs, self.host = {}, None
        if self.device is not None and self.device.type == "cuda":
            # Other runners of the same run need memory of the device too.
            torch.cuda.empty_cache()

    def refusal(self, error):
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return Refusal("out_of_memory", error)
        if isinstance(error, (RuntimeError, NotImplementedError)):
            text = str(error)
            # A library that refuses a call says CUDA error as well.
            refused = "CUBLAS_STATUS" in text or "CUDNN_STATUS" in text or "out of memory" in text
            lost = "CUDA error" in text and not refused
            return Refusal("device_lost" if lost else "validation", text)
        return None

    # Kernels

    def build(self, name):
        op, dtype, shape = self.case["op"], self.case["dtype"], self.case["shape"]
        self.graphs = {}
        if self.device.type == "cuda":
            # The product of f32 is to be of f32 numbers, not of their first ten bits; sums of short
            # numbers in f32 are to stay there.
            flags = torch.backends.cuda.matmul
            flags.allow_tf32 = dtype == "tf32"
            flags.allow_fp16_accumulation = name == "library_f16_sums"
            flags.allow_fp16_reduced_precision_reduction = False
            flags.allow_bf16_reduced_precision_reduction = False
        if op == "matmul":
            return self.matmul(name, dtype, shape)
        if op == "attention":
            select_backend(name)
            self.results = [None] * len(self.sets)

            def call(s):
                self.results[s] = attend(self.sets[s], shape)

            short = dtype in ("f16", "bf16")
            on_device = self.device.type != "cpu"
            return Kernel(
                call,
                engine="matrix" if on_device and short else "alu",
                output=dtype if short else None,
            )
        if op in ("upload", "readback"):
            return self.transfer(op)
        if op == "read":
            return self.column_sums(shape)
        self.results = [torch.empty_like(tensors[0]) for tensors in self.sets]
        if op == "triad":
            return Kernel(
                lambda s: torch.add(self.sets[s][0], self.sets[s][1], alpha=3, out=self.results[s])
            )
        if op == "round_trip":

            def there_and_back(s):
                self.results[s].copy_(self.sets[s][0])
                self.wait()

            return Kernel(there_and_back, clock="host")
        return Kernel(lambda s: self.results[s].copy_(self.sets[s][0]))

    def column_sums(self, shape):
        """Sums of each block of 32 rows, over the same blocks once a round."""
        rounds = shape.get("rounds", 1)
        blocks = shape["n"] // 4096
        self.results = [
            torch.empty([rounds, blocks, 128], device=self.device) for _ in self.sets
        ]

        def call(s):
            for out in self.results[s]:
                torch.sum(self.sets[s][0], dim=1, out=out)

        return Kernel(call)

    def transfer(self, op):
        """Copies between page-locked memory of the host and the device's, one after another."""
        self.host = [torch.empty(tensors[0].shape, pin_memory=True) for tensors in self.sets]
        if op == "readback":
            self.results = self.host
            source, target = [tensors[0] for tensors in self.sets], self.host
        else:
            for host, tensors in zip(self.host, self.sets):
                host.copy_(tensors[0])
            self.results = [torch.empty_like(tensors[0]) for tensors in self.sets]
            source, target = self.host, self.results

        def call(s):
            target[s].copy_(source[s], non_blocking=True)
            self.wait()

        return Kernel(call, clock="host")

    def matmul(self, name, dtype, shape):
        single = shape.get("batch", 1) == 1
        turn = (lambda b: b.mT) if shape.get("trans_b", 0) else (lambda b: b)
        pairs = [(a, turn(b)) for a, b in self.sets]
        on_device = self.device.type != "cpu"
        if dtype == "i8":
            kind = torch.int32
        elif name == "library_f32_output" or dtype in ("f32", "tf32", "f8e4m3"):
            kind = torch.float32
        else:
            kind = TYPES["f16" if dtype == "f16_f16" else dtype]
        dims = base.output_dims(self.case)
        self.results = [torch.empty(dims, dtype=kind, device=self.device) for _ in pairs]
        product = torch.mm if single else torch.bmm
        one = torch.ones((), device=self.device)

        def call(s):
            a, b = pairs[s]
            if dtype == "i8":
                torch._int_mm(a, b, out=self.results[s])
            elif dtype == "f8e4m3":
                torch._scaled_mm(
                    a, b, one, one, out_dtype=kind, use_fast_accum=False, out=self.results[s]
                )
            elif name == "library_f32_output":
                product(a, b, out_dtype=torch.float32, out=self.results[s])
            else:
                product(a, b, out=self.results[s])

        return Kernel(
            call,
            engine="matrix" if on_device and dtype != "f32" else "alu",
            output=dtype if dtype in ("f16", "bf16") and name == "library" else None,
        )

    def poison_results(self):
        # A graph writes where it wrote when it was captured.
        for results in [self.results, *(r.values() for _, r in self.graphs.values())]:
            poison(results)

    # Time

    def wait(self):
        if self.device.type != "cpu":
            module = getattr(torch, self.device.type)
            module.synchronize(self.device) if self.device.type in ("cuda", "xpu") else module.synchronize()

    def span(self, repeat):
        if self.device.type != "cuda" or self.kernel.clock == "host":
            return super().span(repeat)
        play = self.play(repeat)
        self.wait()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started = time.perf_counter()
        begin.record()
        play()
        end.record()
        submitted = time.perf_counter()
        self.wait()
        host_s = time.perf_counter() - started
        return {
            "device_s": begin.elapsed_time(end) * 1e-3,
            "host_s": host_s,
            "submit_s": submitted - started,
            "repeat_count": repeat,
        }

    def play(self, repeat):
        """What calls `repeat` times: graphs of many calls each where there are such, captured before
        any clock runs."""
        sets = len(self.sets)
        most = max(GRAPH_CALLS_MAX // sets, 1) * sets
        whole, rest = divmod(repeat, most)
        # A whole number of turns ends at the set that it began with.
        parts = [(most, whole), (rest, 1)]
        parts = [(calls, times) for calls, times in parts if calls and times]
        # Each graph has memory of its own.
        wanted = [(self.turn, calls) for calls, _ in parts]
        self.graphs = {key: graph for key, graph in self.graphs.items() if key in wanted}
        graphs = [self.graph(*key) for key in wanted]

        def run():
            for (calls, times), (graph, results) in zip(parts, graphs):
                if graph is None:
                    for _ in range(calls * times):
                        self.kernel.call(self.turn)
                        self.turn = (self.turn + 1) % sets
                    continue
                for _ in range(times):
                    graph.replay()
                # What a graph allocated when it was captured is where its calls leave their outputs.
                for s, result in results.items():
                    self.results[s] = result
                self.turn = (self.turn + calls * times) % sets

        return run

    def graph(self, turn, calls):
        """A graph of so many calls from the set `turn` on, with the outputs that it writes by set; None
        and nothing if there is none."""
        if (turn, calls) not in self.graphs:
            graph, before = torch.cuda.CUDAGraph(), list(self.results)
            order = [(turn + index) % len(self.sets) for index in range(calls)]
            try:
                self.wait()
                with torch.cuda.graph(graph):
                    for s in order:
                        self.kernel.call(s)
                results = {s: self.results[s] for s in set(order)}
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                graph, results = None, {}
            # Nothing was computed yet, and the memory may hold what an earlier call left.
            poison(results.values())
            self.graphs[turn, calls] = (graph, results)
            self.results = before
        return self.graphs[turn, calls]

    # Outputs

    def flat(self, result):
        # No sixty-four bits on some devices.
        whole = (result if self.device.type in ("cuda", "cpu") else result.cpu()).double().reshape(-1)
        if not result.is_floating_point():
            whole[whole == base.INTEGER_POISON] = math.nan
        return whole

    def project(self, flat, columns, seed):
        index = torch.arange(columns, dtype=torch.int64, device=flat.device)
        signs = 1.0 - 2.0 * (base.words(base.keys(seed, base.MASK), index) >> 31).double()
        rows = -(-flat.numel() // columns)
        padded = torch.nn.functional.pad(flat, (0, rows * columns - flat.numel()))
        return (padded.view(rows, columns) @ signs).tolist()


def poison(results):
    """Overwrites outputs, so that an element nobody writes shows."""
    for result in results:
        if result is not None:
            result.fill_(math.nan if result.is_floating_point() else base.INTEGER_POISON)


def select_backend(name):
    """Leaves only this backend of attention switched on, or all of them."""
    for backend, enable in BACKENDS.items():
        enable(name in (backend, ANY_BACKEND))


def attend(tensors, shape):
    """Attention by whichever backend is switched on."""
    q, k, v = tensors
    grouped = shape["heads"] != shape["kv_heads"]
    square = shape["query_len"] == shape["kv_len"]
    mask = None
    if base.masked(shape) and not square:
        mask = bias.causal_lower_right(shape["query_len"], shape["kv_len"])
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=base.masked(shape) and square, enable_gqa=grouped
    )


def choose_device(selector, backend):
    """The device of this name among the kinds that PyTorch finds here; the first if there is none."""
    kinds = [
        kind
        for kind in ("cuda", "xpu", "mps", "cpu")
        if kind == "cpu"
        or kind == "mps"
        and torch.backends.mps.is_available()
        or kind in ("cuda", "xpu")
        and getattr(torch, kind, None) is not None
        and getattr(torch, kind).is_available()
    ]
    there = ", ".join(kinds)
    if backend is not None:
        wanted = "cuda" if backend == "rocm" else backend
        kinds = [kind for kind in kinds if kind == wanted]
        if not kinds:
            message = f"PyTorch reaches no device by {backend!r}; these are there: {there}"
            raise Refusal("no_device", message)
    if selector is None:
        return torch.device(kinds[0])
    kind, _, index = selector.partition(":")
    if kind.isdigit():
        kind, index = kinds[0], kind
    if kind not in kinds or not (index or "0").isdigit():
        raise Refusal("no_device", f"there is no device {selector!r}; these are there: {there}")
    count = getattr(torch, kind).device_count() if kind in ("cuda", "xpu") else 1
    if int(index or 0) >= count:
        raise Refusal("no_device", f"there is no device {selector!r}; {kind} has {count}")
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
    return base.cpu_name(), f"{torch.get_num_threads()} threads", None


if __name__ == "__main__":
    Torch().serve()
