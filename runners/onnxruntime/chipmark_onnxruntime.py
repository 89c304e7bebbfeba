#!/usr/bin/env python3
"""ONNX Runtime as a runner of chipmark: one format of models, and whichever provider is installed.

An execution provider is ONNX Runtime's word for what runs the nodes of a graph: its own kernels for
the CPU, WGSL through Dawn (WebGPU), CUDA, MIGraphX, DirectML, CoreML, OpenVINO. Graphs of one node
or a few are made in memory. All tensors are inputs of the graph, so that nothing is computed
beforehand, and lie where the provider computes. A graph that a provider does not run whole is
refused: ONNX Runtime would leave the rest to the CPU without a word.
"""

import ctypes
import math
import os
import pkgutil
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import chipmark_runner as base
from chipmark_runner import Kernel, Refusal

numpy = base.need("numpy", "onnxruntime")
onnx = base.need("onnx", "onnxruntime")
ort = base.need("onnxruntime", "onnxruntime")
ml_dtypes = base.need("ml_dtypes", "onnxruntime")

VERSION = "0.2.0"
# Refusals are told in answers; what ONNX Runtime logs about them beside is noise.
SILENT = 4

TYPES = {
    "f32": (onnx.TensorProto.FLOAT, numpy.float32),
    "tf32": (onnx.TensorProto.FLOAT, numpy.float32),
    "f16": (onnx.TensorProto.FLOAT16, numpy.float16),
    "bf16": (onnx.TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "i8": (onnx.TensorProto.INT8, numpy.int8),
    "i32": (onnx.TensorProto.INT32, numpy.int32),
}

# From the fastest on, as far as a name tells. A provider that is not listed is run if it is named.
BEST_FIRST = ["cuda", "migraphx", "rocm", "dml", "coreml", "mlx", "webgpu", "cpu"]
ALIASES = {"directml": "dml"}
# Memory of the providers that have their own, in ONNX Runtime's words; the others take the host's.
MEMORIES = {"cuda": "cuda", "tensorrt": "cuda", "dml": "dml", "webgpu": "webgpu"}
# Providers of which one device among several is chosen by this option.
INDEXED = {
    "cuda": "device_id",
    "tensorrt": "device_id",
    "migraphx": "device_id",
    "rocm": "device_id",
    "dml": "device_id",
}
# Providers whose libraries take short numbers to matrix units; of the others nobody knows.
MATRIX_UNITS = ("cuda", "tensorrt", "migraphx", "rocm")

# The opset of the plain graphs is one that every provider has caught up with.
OPSET, ATTENTION_OPSET = 20, 23
MICROSOFT = "com.microsoft"

# Sizes of a trial: sums that are beyond the integers of f16, lengths of more than one tile.
TRIAL_SUM_LEN, TRIAL_KV_LEN, TRIAL_CACHE_LEN = 1536, 72, 520
# What one rounding to a type changes at most, relatively.
ROUNDOFF = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
# Words of libraries that have no memory left.
NO_ROOM = ("out of memory", "outofmemory", "bad_alloc", "failed to allocate", "max buffer size")
NO_KERNEL = "it has no kernel for this, and ONNX Runtime would leave it to the CPU"
WRONG = "its answers are wrong on this device"


@dataclass
class Provider:
    """A way to a device; `plugin` is ONNX Runtime's object for one that another package brings."""

    name: str
    index: int = 0
    plugin: object = None

    @property
    def short(self):
        return self.name.removesuffix("ExecutionProvider").lower()

    @property
    def memory_info(self):
        """The device's memory, told by a plugin; None if it computes in the host's."""
        return self.plugin and self.plugin.memory_info(ort.OrtDeviceMemoryType.DEFAULT)

    @property
    def on_host(self):
        return self.memory_info is None if self.plugin else self.short not in MEMORIES


@dataclass
class Buffer:
    """A tensor where the provider computes; `array` is its memory if that is the host's."""

    value: object
    array: object = None


@dataclass
class Graph:
    """What computes a case: nodes, tensors that go in beside the case's own, and the element type
    of the output, named `out`. `written` maps further outputs to inputs whose memory they share."""

    nodes: list
    element: str
    opset: int = OPSET
    beside: dict = field(default_factory=dict)
    constants: dict = field(default_factory=dict)
    written: dict = field(default_factory=dict)


@dataclass
class Assembly:
    """A graph that is compiled, with a binding and an output for each set of tensors."""

    session: object
    bindings: list
    outs: list
    element: str
    compile_s: float


class OnnxRuntime(base.Runner):
    """ONNX Runtime with one provider."""

    name = "onnxruntime"

    def __init__(self):
        super().__init__()
        self.trials, self.copiers, self.fence = {}, {}, None
        ort.set_default_logger_severity(SILENT)

    def serve(self):
        super().serve()
        self.start_over()

    def start_over(self):
        """Forgets a provider. Memory goes back to the session that it came from: those go last, or
        the process dies of it."""
        self.forget()
        self.fence, self.trials = None, {}
        self.copiers = {}

    # The device

    def open(self, selector, backend):
        self.opened = False
        self.provider = self.choose(selector, backend)
        # A call on memory of the device's own may return before it is done.
        self.asynchronous = not self.provider.on_host
        short = self.provider.short
        device = {"backend": short, "device_type": "other", **describe(self.provider)}
        if short == "cpu":
            note = "the host is the device"
        elif self.provider.on_host:
            note = "ONNX Runtime shows no timestamps; tensors lie in the host's memory"
        else:
            note = "ONNX Runtime shows no timestamps; calls are waited for by reading a word back"
        return device, base.host_timer(note)

    def choose(self, selector, backend):
        """The provider of this name, or the best one that works."""
        found = providers()
        there = ", ".join(f"{p.short}:{p.index}" if p.index else p.short for p in found)
        if backend is not None:
            found = [p for p in found if p.short == canonical(backend)]
            if not found:
                message = f"ONNX Runtime has no provider {backend!r} here; these are there: {there}"
                raise Refusal("no_device", message)
        name, _, index = (selector or "0").partition(":")
        if selector is None or name.isdigit():
            best = [p for p in found if backend or p.short in BEST_FIRST and p.index == 0]
            best = self.first_that_works(best, there)
            if int(name) == 0:
                return best
            name, index = best.short, name
        found = [p for p in found if p.short == canonical(name)]
        missing = Refusal("no_device", f"there is no device {selector!r}; these are there: {there}")
        if not found or not (index or "0").isdigit():
            raise missing
        wanted = int(index or 0)
        if found[0].plugin is None and found[0].short in INDEXED:
            return self.first_that_works([Provider(found[0].name, wanted)], there)
        if wanted >= len(found):
            raise missing
        return self.first_that_works([found[wanted]], there)

    def first_that_works(self, candidates, there):
        """The first provider that adds two numbers: a package may lack its driver or its device."""
        reason = ""
        for self.provider in candidates:
            self.start_over()
            try:
                if self.one_and_one() == 2.0:
                    return self.provider
                reason = reason or f"{self.provider.short}: one and one are not two"
            except Exception as error:
                why = explain(error)
                if why == NO_KERNEL:  # for as little as a sum of two numbers
                    why = "its library, its driver or its device is missing"
                reason = reason or f"{self.provider.short}: {why}"
        raise Refusal("no_device", f"{reason}; these are installed: {there}")

    def one_and_one(self):
        """Their sum, added by the provider."""
        one = self.place(numpy.ones(1, numpy.float32), "f32")
        graph = Graph([node("Add", ["x", "x"], "out")], "f32")
        session = self.session(graph, {"x": ([1], "f32")}, [1], "f32")
        binding = self.bind(session, {"x": one}, self.empty([1], "f32"), {})
        session.run_with_iobinding(binding)
        return float(self.read(binding, "f32")[0])

    def version(self):
        parts = [f"onnxruntime {ort.__version__}"]
        if self.provider.plugin:
            version = self.provider.plugin.ep_metadata.get("version", "of unknown version")
            parts.append(f"plugin {version}")
        return f"{VERSION} ({', '.join(parts)})"

    # What there is

    def offer(self, case):
        op, dtype, shape = case["op"], case["dtype"], case["shape"]
        if op == "matmul":
            names = self.matmul_names(dtype, shape)
        elif op == "attention":
            names = self.attention_names(dtype, shape)
        elif op in ("copy", "empty") and dtype in ("f32", "f16", "i32", "i8", "bf16"):
            names = ["identity"]
        else:
            raise Refusal("unsupported", f"this runner has no {op} in {dtype}")
        refused = self.too_large(names, shape) if op == "attention" else {}
        if len(refused) == len(names):
            raise Refusal("out_of_memory", refused[names[0]])
        reasons = {name: self.trial(name, case) for name in names if name not in refused}
        refused.update({name: why for name, why in reasons.items() if why is not None})
        if len(refused) == len(names):
            message = "; ".join(f"{name}: {why}" for name, why in refused.items())
            raise Refusal("unsupported", f"{self.provider.short} cannot: {message}")
        return [name for name in names if name not in refused], refused

    def matmul_names(self, dtype, shape):
        single, turned = shape.get("batch", 1) == 1, shape.get("trans_b", 0)
        if dtype == "i8":
            if turned:
                raise Refusal("unsupported", "MatMulInteger takes no transposed B")
            return ["matmul_integer"]
        if dtype == "tf32" and self.provider.short != "cuda":
            raise Refusal("unsupported", "TF32 is an option of the CUDA provider alone")
        if dtype not in ("f32", "tf32", "f16", "f16_f16", "bf16"):
            raise Refusal("unsupported", f"this runner has no matmul in {dtype}")
        # A node that transposes is not offered: where it is not fused it would be timed.
        names = ["fused_matmul"] if turned else ["onnx_matmul"]
        return ["gemm", *names] if single and turned else [*names, "gemm"] if single else names

    def attention_names(self, dtype, shape):
        if dtype not in ("f32", "f16", "bf16"):
            raise Refusal("unsupported", f"this runner has no attention in {dtype}")
        if shape.get("page_len", 0):
            raise Refusal("unsupported", "this runner has no paged keys")
        queries, keys, masked = shape["query_len"], shape["kv_len"], base.masked(shape)
        if masked and queries > keys:
            raise Refusal("unsupported", "a query that sees no key gets a mean, not zeros")
        names = ["onnx_attention"]
        if shape["heads"] == shape["kv_heads"]:
            names.append("multi_head")
        elif queries == 1 or masked and queries == keys:
            names.append("group_query")  # it knows no other masks
        return [*names, "decomposed"]

    def too_large(self, names, shape):
        """The kernels that keep all scores, if those do not fit, and why."""
        sizes = [shape[size] for size in ("batch", "heads", "query_len", "kv_len")]
        room, needed = self.free_bytes(), 8 * math.prod(sizes)
        if room is None or needed <= room:
            return {}
        reason = f"its scores and shares need {needed} bytes; {room} are there for them"
        # On the CPU every kernel does.
        return {n: reason for n in names if n == "decomposed" or self.provider.short == "cpu"}

    def trial(self, name, case):
        """Why a kernel cannot run cases like this one, or runs them wrongly; None if all is well.

        ONNX Runtime does not say what a provider has, nor in which type it sums; so a small case
        is run and compared. Whether a kernel is right at full size the conductor finds out."""
        op, dtype, shape = case["op"], case["dtype"], case["shape"]
        if op == "attention" and dtype != "f32":
            # Drivers may compile for minutes what turns out to be wrong in any type.
            why = self.trial(name, {**case, "dtype": "f32"})
            if why is not None and why.startswith(WRONG):
                return why
        small = {**case, "shape": trial_shape(op, shape)}
        key = (name, dtype, *sorted(small["shape"].items()))
        if key not in self.trials:
            try:
                tensors = base.inputs(small)
                values = [trial_values(op, number, t) for number, t in enumerate(tensors)]
                buffers = [self.place(v, t.element) for v, t in zip(values, tensors)]
                made = self.assemble(name, small, [buffers])
                made.session.run_with_iobinding(made.bindings[0])
                result = self.read(made.bindings[0], made.element)
                self.trials[key] = judge(small, values, made.element, result)
            except Exception as error:
                found = self.refusal(error)
                if found is None or found.kind in ("out_of_memory", "device_lost"):
                    raise
                self.trials[key] = explain(error)
        return self.trials[key]

    # Tensors

    def place(self, values, element):
        array = numpy.ascontiguousarray(values.astype(TYPES[element][1], copy=False))
        if self.provider.on_host:
            return on_host(array)
        buffer = self.empty(array.shape, element)
        self.fill(buffer, array)
        return buffer

    def empty(self, dims, element):
        """A tensor of any content."""
        onnx_type, kind = TYPES[element]
        if self.provider.on_host:
            return on_host(numpy.zeros(dims, kind))
        if self.provider.plugin:
            allocate = ort.OrtValue.ortvalue_from_shape_and_type
            return Buffer(allocate(list(dims), onnx_type, memory_info=self.provider.memory_info))
        # Other providers allocate in Python for the outputs of a graph, and only there.
        source, binding = on_host(numpy.zeros(dims, kind)), self.copier(element).io_binding()
        binding.bind_ortvalue_input("x", source.value)
        binding.bind_output("out", MEMORIES[self.provider.short], self.provider.index)
        self.copier(element).run_with_iobinding(binding)
        return Buffer(binding.get_outputs()[0])

    def fill(self, buffer, array):
        """Overwrites a tensor of the device's."""
        if buffer.array is not None:
            buffer.array[...] = array
        elif self.provider.plugin:
            ort.copy_tensors([on_host(array).value], [buffer.value])
        else:
            element = next(name for name, (_, kind) in TYPES.items() if kind == array.dtype)
            copier = self.copier(element)
            copier.run_with_iobinding(self.bind(copier, {"x": on_host(array)}, buffer, {}))

    def copier(self, element):
        """A session that copies tensors of any shape: the way into memory of some providers."""
        if element not in self.copiers:
            graph = Graph([node("Identity", ["x"], "out")], element)
            self.copiers[element] = self.session(graph, {"x": (None, element)}, None, element)
        return self.copiers[element]

    def read(self, binding, element):
        """The output of a binding's last call, flat."""
        if element == "bf16":
            # NumPy has no such type, and so ONNX Runtime does not hand it over.
            graph = Graph([node("Cast", ["x"], "out", to=TYPES["f32"][0])], "f32")
            session = self.session(graph, {"x": (None, "bf16")}, None, "f32")
            cast = session.io_binding()
            cast.bind_ortvalue_input("x", binding.get_outputs()[0])
            cast.bind_output("out", "cpu")
            session.run_with_iobinding(cast)
            binding = cast
        return binding.copy_outputs_to_cpu()[0].reshape(-1)

    def check_memory(self, case, tensors, sets):
        super().check_memory(case, tensors, sets)
        # A tensor is made as f32 in the host's memory, then turned into its type.
        room = base.available_bytes()
        needed = max(8 * tensor.count for tensor in tensors)
        if room is not None and needed > 2 * room:
            message = f"making a tensor needs {needed} bytes of the host; {2 * room} are there"
            raise Refusal("out_of_memory", message)

    def free_bytes(self):
        if self.provider.short == "cuda":
            return cuda_device(self.provider.index).get("bytes") or base.available_bytes()
        # Nobody says how much a device has; its driver may be one that takes it from the host.
        return base.available_bytes()

    def poison_results(self):
        for buffer in self.outs:
            if buffer.array is not None:
                buffer.array[...] = poison(buffer.array.dtype)
            else:
                dims = buffer.value.shape()
                kind = TYPES[self.element][1]
                self.fill(buffer, numpy.full(dims, poison(kind), dtype=kind))

    def flat(self, result):
        return super().flat(self.read(result, self.element))

    def forget(self):
        super().forget()
        self.outs, self.element = [], None

    def refusal(self, error):
        text = str(error)
        lower = text.lower()
        if isinstance(error, MemoryError) or any(word in lower for word in NO_ROOM):
            return Refusal("out_of_memory", text or "out of memory")
        if not isinstance(error, RuntimeError) and not is_onnxruntime(error):
            return None
        if "device lost" in lower or "device is lost" in lower or "cuda failure" in lower:
            return Refusal("device_lost", text)
        unknown = "NOT_IMPLEMENTED" in text or "disable_cpu_ep_fallback" in text
        return Refusal("unsupported" if unknown else "validation", explain(error))

    # Kernels

    def session(self, graph, inputs, dims, dtype):
        """Has a graph compiled; `inputs` maps names to dimensions and element types."""
        value = onnx.helper.make_tensor_value_info
        ins = [value(name, TYPES[element][0], shape) for name, (shape, element) in inputs.items()]
        outs = [value("out", TYPES[graph.element][0], dims)]
        for name, source in graph.written.items():
            shape, element = inputs[source]
            outs.append(value(name, TYPES[element][0], shape))
        constants = [onnx.numpy_helper.from_array(a, name) for name, a in graph.constants.items()]
        opsets = [onnx.helper.make_opsetid("", graph.opset), onnx.helper.make_opsetid(MICROSOFT, 1)]
        model = onnx.helper.make_model(
            onnx.helper.make_graph(graph.nodes, "chipmark", ins, outs, constants),
            opset_imports=opsets,
            ir_version=10,
        ).SerializeToString()

        provider = self.provider
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = core_count()
        # Threads that spin while they wait run on for tens of milliseconds after the last call,
        # into what is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider.short != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if provider.short == "dml":
            options.enable_mem_pattern = False  # it knows none
        settings = {}
        if provider.short in INDEXED:
            settings[INDEXED[provider.short]] = str(provider.index)
        if provider.short == "cuda":
            settings["use_tf32"] = str(int(dtype == "tf32"))
        if provider.plugin:
            options.add_provider_for_devices([provider.plugin], {})
            session = ort.InferenceSession(model, options)
        else:
            if provider.short == "openvino":
                # By default it computes in the type it finds fastest. For GPUs there is a plugin.
                settings.update(precision="ACCURACY", device_type="CPU")
            session = ort.InferenceSession(
                model, options, providers=[(provider.name, settings)], enable_fallback=False
            )
        if session.get_providers()[0] != provider.name:
            raise RuntimeError("its library or its driver is missing")
        return session

    def bind(self, session, inputs, out, written):
        """Binds tensors to a session: nothing is allocated or copied in a call."""
        binding = session.io_binding()
        binding.buffers = inputs, out  # it does not hold on to arrays by itself
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer.value)
        binding.bind_ortvalue_output("out", out.value)
        for name, source in written.items():
            binding.bind_ortvalue_output(name, inputs[source].value)
        return binding

    def assemble(self, name, case, sets):
        """What calls the kernel of this name on these sets of tensors."""
        graph = GRAPHS[case["op"]](name, case)
        inputs = {t.name: (t.dims, t.element) for t in base.inputs(case)}
        beside = {}
        for key, (array, element) in graph.beside.items():
            inputs[key] = list(array.shape), element
            beside[key] = self.place(array, element)
        dims = base.output_dims(case)
        started = time.perf_counter()
        session = self.session(graph, inputs, dims, case["dtype"])
        compile_s = time.perf_counter() - started
        outs = [self.empty(dims, graph.element) for _ in sets]
        bindings = [
            self.bind(session, {**dict(zip(inputs, buffers)), **beside}, out, graph.written)
            for buffers, out in zip(sets, outs)
        ]
        return Assembly(session, bindings, outs, graph.element, compile_s)

    def build(self, name):
        self.results, self.outs = [], []
        made = self.assemble(name, self.case, self.sets)
        self.results, self.outs, self.element = made.bindings, made.outs, made.element
        op, dtype = self.case["op"], self.case["dtype"]
        sums = op in ("matmul", "attention")
        units = sums and dtype != "f32" and self.provider.short in MATRIX_UNITS
        # What keeps its sums in f32, as a trial found, hands them over in the type of its inputs.
        narrow = sums and dtype in ("f16", "bf16")
        return Kernel(
            lambda s: made.session.run_with_iobinding(made.bindings[s]),
            compile_s=made.compile_s,
            engine="matrix" if units else "alu",
            output=made.element if narrow else None,
        )

    def wait(self):
        # Some providers return from a call, and from their own waiting, before it is done; a word
        # that is read back through the same queue is not there before.
        if not self.asynchronous:
            return
        if self.fence is None:
            word, copy = self.place(numpy.zeros(1, numpy.float32), "f32"), self.empty([1], "f32")
            self.fence = self.bind(self.copier("f32"), {"x": word}, copy, {})
        self.copier("f32").run_with_iobinding(self.fence)
        self.fence.synchronize_outputs()
        self.fence.copy_outputs_to_cpu()


# Graphs


def node(op, inputs, output, **attributes):
    """A node of one output, or of several."""
    outputs = [output] if isinstance(output, str) else output
    return onnx.helper.make_node(op, inputs, outputs, **attributes)


def dims_constant(dims):
    """A shape as Reshape takes it: of 64-bit integers, known beforehand."""
    return numpy.array(dims, numpy.int64)


def matmul_graph(name, case):
    """A product in one node."""
    dtype = case["dtype"]
    element = "i32" if dtype == "i8" else base.ELEMENTS[dtype]
    turned = int(case["shape"].get("trans_b", 0))
    if name == "matmul_integer":
        nodes = [node("MatMulInteger", ["a", "b"], "out")]
    elif name == "gemm":
        nodes = [node("Gemm", ["a", "b"], "out", transB=turned)]
    elif name == "fused_matmul":
        nodes = [node("FusedMatMul", ["a", "b"], "out", domain=MICROSOFT, transB=turned)]
    else:
        nodes = [node("MatMul", ["a", "b"], "out")]
    return Graph(nodes, "f32" if element == "tf32" else element)


def attention_graph(name, case):
    """Attention: one node of a provider's own, or the products and what lies between them."""
    return ATTENTIONS[name](base.ELEMENTS[case["dtype"]], case["shape"])


def onnx_attention(element, shape):
    """The operator of the standard: it takes the tensors as they are."""
    square = shape["query_len"] == shape["kv_len"]
    masked = base.masked(shape)
    mask = {} if square or not masked else {"mask": (causal_mask(shape), element)}
    attend = node("Attention", ["q", "k", "v", *mask], "out", is_causal=int(masked and square))
    return Graph([attend], element, ATTENTION_OPSET, beside=mask)


def multi_head(element, shape):
    """MultiHeadAttention wants queries by position, then head, and answers so; keys as they are."""
    square = shape["query_len"] == shape["kv_len"]
    masked = base.masked(shape)
    mask = {}
    if masked and not square:
        mask["mask"] = (causal_mask(shape)[None, None], element)
    inputs = ["queries", "k", "v", *(["", "", "mask"] if mask else [])]
    nodes, constants = by_position("q", "queries", shape["heads"], shape["query_len"], shape)
    nodes.append(
        node(
            "MultiHeadAttention",
            inputs,
            "mixed",
            domain=MICROSOFT,
            num_heads=shape["heads"],
            unidirectional=int(masked and square),
        )
    )
    back, more = by_head("mixed", "out", shape)
    return Graph([*nodes, *back], element, beside=mask, constants={**constants, **more})


def group_query(element, shape):
    """GroupQueryAttention as decoders use it: a prompt seen causally, or one query and a cache of
    keys that its own key is written to, here the same key as is there."""
    heads, kv_heads, queries = shape["heads"], shape["kv_heads"], shape["query_len"]
    batch, kv_len = shape["batch"], shape["kv_len"]
    nodes, constants = by_position("q", "queries", heads, queries, shape)
    constants["lengths"] = numpy.full(batch, kv_len - 1, numpy.int32)
    constants["length"] = numpy.full(1, kv_len, numpy.int32)
    written, outputs, past = {}, ["mixed", "", ""], ["", ""]
    for tensor in "kv":
        if queries > 1:
            source = tensor
        else:
            source = f"{tensor}_last"
            constants.update(
                first=numpy.array([kv_len - 1], numpy.int64),
                end=numpy.array([kv_len], numpy.int64),
                axis=numpy.array([2], numpy.int64),
            )
            nodes.append(node("Slice", [tensor, "first", "end", "axis"], source))
        more, also = by_position(source, f"{tensor}_rows", kv_heads, queries, shape)
        nodes += more
        constants.update(also)
    if queries == 1:
        past, outputs = ["k", "v"], ["mixed", "k_cache", "v_cache"]
        written = {"k_cache": "k", "v_cache": "v"}
    inputs = ["queries", "k_rows", "v_rows", *past, "lengths", "length"]
    nodes.append(
        node(
            "GroupQueryAttention",
            inputs,
            outputs,
            domain=MICROSOFT,
            num_heads=heads,
            kv_num_heads=kv_heads,
        )
    )
    back, more = by_head("mixed", "out", shape)
    constants.update(more)
    return Graph([*nodes, *back], element, constants=constants, written=written)


def by_position(source, target, heads, length, shape):
    """Nodes from `[batch, heads, length, head_dim]` to `[batch, length, heads * head_dim]`."""
    dims = f"{target}_dims"
    flat = [shape["batch"], length, heads * shape["head_dim"]]
    constants = {dims: dims_constant(flat)}
    if length == 1 or heads == 1:
        return [node("Reshape", [source, dims], target)], constants
    turned = f"{target}_turned"
    nodes = [node("Transpose", [source], turned, perm=[0, 2, 1, 3])]
    return [*nodes, node("Reshape", [turned, dims], target)], constants


def by_head(source, target, shape):
    """The way back for the output."""
    batch, heads, length, width = (shape[n] for n in ("batch", "heads", "query_len", "head_dim"))
    dims = f"{target}_dims"
    if length == 1 or heads == 1:
        constants = {dims: dims_constant([batch, heads, length, width])}
        return [node("Reshape", [source, dims], target)], constants
    constants = {dims: dims_constant([batch, length, heads, width])}
    parted = f"{target}_parted"
    nodes = [node("Reshape", [source, dims], parted)]
    return [*nodes, node("Transpose", [parted], target, perm=[0, 2, 1, 3])], constants


def decomposed(element, shape):
    """Product, softmax, product. Heads that share keys are rows of one product."""
    kv_heads, width = shape["kv_heads"], shape["head_dim"]
    group = shape["heads"] // kv_heads
    kind = TYPES[element][1]
    constants = {
        "scale": numpy.array(width**-0.5, kind),
        "grouped": dims_constant([shape["batch"], kv_heads, group * shape["query_len"], width]),
        "apart": dims_constant([shape["batch"], shape["heads"], shape["query_len"], width]),
    }
    mask = {}
    if base.masked(shape):
        # Of the rank of the scores: WebGPU's Add fails on some others.
        mask["mask"] = (numpy.tile(causal_mask(shape), (1, 1, group, 1)), element)
    scores = "masked" if mask else "scores"
    queries, mixed = ("rows", "mixed") if group > 1 else ("q", "out")
    nodes = [
        *([node("Reshape", ["q", "grouped"], "rows")] if group > 1 else []),
        node("Mul", [queries, "scale"], "scaled"),
        node("Transpose", ["k"], "turned", perm=[0, 1, 3, 2]),
        node("MatMul", ["scaled", "turned"], "scores"),
        *([node("Add", ["scores", "mask"], "masked")] if mask else []),
        node("Softmax", [scores], "shares", axis=-1),
        node("MatMul", ["shares", "v"], mixed),
        *([node("Reshape", ["mixed", "apart"], "out")] if group > 1 else []),
    ]
    if group == 1:
        del constants["grouped"], constants["apart"]
    return Graph(nodes, element, beside=mask, constants=constants)


def causal_mask(shape):
    """What is added to scores: nothing, or a number so low that it fits f16 and yet decides."""
    query = numpy.arange(shape["query_len"])[:, None]
    key = numpy.arange(shape["kv_len"])[None, :]
    seen = key <= query + shape["kv_len"] - shape["query_len"]
    return numpy.where(seen, numpy.float32(0), numpy.float32(-6e4))


def identity_graph(name, case):
    """A copy: ONNX Runtime drops the node inside of a graph, but not between input and output."""
    source = base.inputs(case)[0]
    return Graph([node("Identity", [source.name], "out")], source.element)


GRAPHS = {
    "matmul": matmul_graph,
    "attention": attention_graph,
    "copy": identity_graph,
    "empty": identity_graph,
}

ATTENTIONS = {
    "onnx_attention": onnx_attention,
    "multi_head": multi_head,
    "group_query": group_query,
    "decomposed": decomposed,
}


# Trials


def trial_shape(op, shape):
    """A small shape that goes the same way through a provider, as far as can be told."""
    if op == "matmul":
        batch, turned = min(shape.get("batch", 1), 2), shape.get("trans_b", 0)
        return {"batch": batch, "m": 19, "n": 23, "k": TRIAL_SUM_LEN, "trans_b": turned}
    if op == "attention":
        queries, keys = shape["query_len"], shape["kv_len"]
        group, kv_heads = shape["heads"] // shape["kv_heads"], min(shape["kv_heads"], 2)
        kv_len = TRIAL_CACHE_LEN if queries == 1 else TRIAL_KV_LEN
        length = 1 if queries == 1 else kv_len if queries == keys else kv_len // 2
        return {
            "batch": 1,
            "heads": group * kv_heads,
            "kv_heads": kv_heads,
            "query_len": length,
            "kv_len": kv_len,
            "head_dim": shape["head_dim"],
            "causal": int(base.masked(shape)),
        }
    return {"n": 5}


def trial_values(op, number, tensor):
    """Integers where sums are to be exact, else numbers as a case has them."""
    key = base.keys(1, number)
    word = base.words(key, numpy.arange(tensor.count, dtype=numpy.int64))
    data, scale = ("uniform", tensor.scale) if op == "attention" else ("integer", 1.0)
    values = base.elements(word, data, tensor.element) * scale
    return numpy.asarray(values, numpy.float32).reshape(tensor.dims)


def judge(case, values, element, result):
    """What is wrong with the result of a trial; None if nothing is."""
    op, dtype, shape = case["op"], case["dtype"], case["shape"]
    values = [v.astype(numpy.float64) for v in values]
    if op == "attention":
        wanted, bound = (a.reshape(-1) for a in reference_attention(*values, shape, dtype))
        errors = numpy.abs(result.astype(numpy.float64) - wanted)
        worst = int(numpy.argmax(numpy.nan_to_num(errors / bound, nan=numpy.inf)))
        if errors[worst] <= bound[worst]:
            return None
        found = f"{errors[worst]:.2g} off in a small case, {bound[worst]:.2g} allowed"
        rounds = dtype != "f32" and errors.max() < 0.02
        return f"it rounds sums to {dtype}: {found}" if rounds else f"{WRONG}: {found}"
    if op == "matmul":
        a, b = values
        wanted = a @ (b.swapaxes(-1, -2) if shape.get("trans_b", 0) else b)
    else:
        wanted = values[0]
    wanted = wanted.reshape(-1)
    kind = numpy.float32 if element == "bf16" else TYPES[element][1]
    rounded = wanted.astype(TYPES[element][1]).astype(kind)
    exact = numpy.array_equal(rounded, result)
    if dtype == "f16_f16" and exact:
        return "it keeps its sums in f32: what it runs is f16"
    if dtype == "f16_f16" or exact:
        close = numpy.allclose(wanted, result.astype(numpy.float64), rtol=0.05, atol=1.0)
        return None if close else f"{WRONG} in a small case"
    worst = int(numpy.argmax(numpy.abs(rounded.astype(numpy.float64) - result)))
    found = f"{result[worst]:g} instead of {rounded[worst]:g} in a small case"
    short = dtype in ("f16", "bf16")
    return f"it rounds sums to {dtype}: {found}" if short else f"{WRONG}: {found}"


def reference_attention(q, k, v, shape, dtype):
    """Attention in f64, and how far a kernel may be off that sums in f32, but takes its weights and
    hands its output over in the type of its inputs."""
    group = shape["heads"] // shape["kv_heads"]
    k, v = (numpy.repeat(tensor, group, axis=1) for tensor in (k, v))
    scores = q @ k.swapaxes(-1, -2) * shape["head_dim"] ** -0.5
    if base.masked(shape):
        scores = scores + causal_mask(shape)
    weights = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    wanted = weights @ v
    bound = 6.0 * numpy.sqrt(weights**2 @ v**2) + numpy.abs(wanted)
    return wanted, ROUNDOFF[dtype] * bound + 1e-5 * (weights @ numpy.abs(v))


# Arrays and errors


def on_host(array):
    """A tensor in the host's memory, on the array's own."""
    if array.dtype == TYPES["bf16"][1]:
        make = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
        return Buffer(make(array.view(numpy.uint16), TYPES["bf16"][0]), array)
    return Buffer(ort.OrtValue.ortvalue_from_numpy(array), array)


def poison(kind):
    """What an output holds until a call writes it."""
    if numpy.dtype(kind).kind != "i":
        return math.nan
    return numpy.iinfo(kind).min


def is_onnxruntime(error):
    """Whether an exception comes from ONNX Runtime."""
    return type(error).__module__.startswith("onnxruntime")


def explain(error):
    """What an error of ONNX Runtime's says, without the path of its source."""
    if not is_onnxruntime(error) and not isinstance(error, (Refusal, RuntimeError)):
        return base.one_line(repr(error))
    text = base.one_line(error)
    if "assigned to the default CPU EP" in text or "IsNodeCompatibleWithProvider" in text:
        return NO_KERNEL
    return re.sub(r"\d+ : [A-Z_]+ : ", "", text.rpartition("ONNXRuntimeError] : ")[2], count=1)


# Devices


def canonical(name):
    """A provider's short name from what a user wrote."""
    lower = name.lower()
    return ALIASES.get(lower, lower.removesuffix("executionprovider"))


def providers():
    """Every provider that is installed, the best first."""
    plugins = [
        Provider(device.ep_name, 0, device)
        for device in plugin_devices()
        if device.ep_name != "CPUExecutionProvider"
    ]
    for number, provider in enumerate(plugins):
        provider.index = sum(p.name == provider.name for p in plugins[:number])
    names = {provider.name for provider in plugins}
    built_in = [Provider(name) for name in ort.get_available_providers() if name not in names]
    found = [p for p in [*plugins, *built_in] if p.short != "azure"]  # a service, and no device
    rank = lambda p: BEST_FIRST.index(p.short) if p.short in BEST_FIRST else len(BEST_FIRST)
    return sorted(found, key=lambda p: (rank(p), p.index))


# Libraries of plugins that ONNX Runtime was told of: it takes each once.
registered = set()


def plugin_devices():
    """Devices of the providers that come as packages of their own."""
    for module in pkgutil.iter_modules():
        if not module.name.startswith("onnxruntime_ep_") or module.name in registered:
            continue
        registered.add(module.name)
        try:
            path = __import__(module.name).get_library_path()
            ort.register_execution_provider_library(module.name, path)
        except Exception as error:
            print(f"{module.name}: {base.one_line(error)}", file=sys.stderr)
    return ort.get_ep_devices() if registered else []


def core_count():
    """Physical cores that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if not allowed:
        return os.cpu_count() or 1
    cores = set()
    for processor in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology")
        try:
            names = ("physical_package_id", "core_id")
            cores.add(tuple((path / name).read_text() for name in names))
        except OSError:
            cores.add(processor)
    return len(cores)


def describe(provider):
    """What can be known of a provider's device."""
    if provider.short == "cpu":
        limits = {"thread_count": core_count()}
        room = base.available_bytes()
        limits.update({} if room is None else {"memory_bytes_budget": room})
        return {
            "name": base.cpu_name(),
            "driver": f"{core_count()} threads",
            "device_type": "cpu",
            "limits": limits,
        }
    if provider.short == "openvino" and not provider.plugin:
        return {"name": base.cpu_name(), "driver": "OpenVINO", "device_type": "cpu"}
    if provider.short in ("cuda", "tensorrt"):
        found = cuda_device(provider.index)
        name, bus = found.get("name", "CUDA device"), found.get("bus")
        return {"name": name, "driver": "", "pci_bus_id": bus}
    if provider.plugin:
        device = provider.plugin.device
        pci = f"{device.vendor_id:04x}:{device.device_id:04x}"
        vendor = device.vendor or f"vendor {device.vendor_id:04x}"
        return {
            "name": f"{vendor} {device.type.name} {device.device_id:04x}",
            "driver": "",
            "pci_id": pci if device.vendor_id and device.device_id else None,
            "pci_bus_id": device.metadata.get("pci_bus_id"),
        }
    return {"name": f"{provider.short} device {provider.index}", "driver": ""}


def cuda_device(index):
    """Name, bus address and memory by NVIDIA's driver; empty if it is not there."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return {}
    device, size = ctypes.c_int(), ctypes.c_size_t()
    name, bus = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetPCIBusId(bus, len(bus), device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    )
    if failed:
        return {}
    return {"name": name.value.decode(), "bus": bus.value.decode().lower(), "bytes": size.value}


if __name__ == "__main__":
    OnnxRuntime().serve()
