#!/usr/bin/env python3
"""JAX as a runner of chipmark: what XLA makes of a case, on whatever it compiles for.

That is Google's TPU, GPUs of NVIDIA and AMD, the CPU, and what brings a PJRT plugin, as AWS Neuron
does. A kernel is a function compiled ahead of its calls. Its inputs are arguments, since XLA would
compute on constants while it compiles; its last argument is the output of the call before, which is
donated, so that a call writes where the one before wrote. Without that every call would have fresh
memory from the system, and a CPU would spend most of a copy on getting it.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import chipmark_runner as base
from chipmark_runner import Kernel, Refusal

# Other runners of the same run need memory of the device too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

jax = base.need("jax", "jax")
numpy = base.need("numpy", "jax")
backends = base.need("jax.extend.backend", "jax")
jnp, lax = jax.numpy, jax.lax
SingleDeviceSharding = jax.sharding.SingleDeviceSharding

VERSION = "0.1.0"

# What the caller's environment may have switched on: sixty-four bits would change the types of
# kernels, a cache of programs hides compile times, and what helps debugging adds work to calls.
for setting in ("enable_x64", "enable_compilation_cache", "disable_jit", "debug_nans", "debug_infs"):
    jax.config.update(f"jax_{setting}", False)
# On the CPU calls that need not wait for each other would run side by side. The other devices take
# them one by one.
jax.config.update("jax_cpu_enable_async_dispatch", False)

TYPES = {
    "f32": jnp.float32,
    "tf32": jnp.float32,
    "f16": jnp.float16,
    "bf16": jnp.bfloat16,
    "f8e4m3": jnp.float8_e4m3fn,
    "i8": jnp.int8,
}

# How exactly products are to be computed. Left to itself XLA multiplies f32 in TF32 on NVIDIA and in
# bf16 on a TPU, f16 on a TPU in bf16, and adds f8 on NVIDIA in fewer bits than f32 has.
PRECISION = {
    "f32": lax.Precision.HIGHEST,
    "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
    "f16": lax.Precision.HIGHEST,
    "bf16": lax.Precision.DEFAULT,
    "f8e4m3": lax.Precision.HIGHEST,
    "i8": lax.Precision.DEFAULT,
}

# Smaller tensors are drawn by NumPy sooner than XLA compiles what draws them.
DRAWN_BY_HOST_MAX = 1 << 20


@dataclass
class Recipe:
    """What a kernel computes, as a function of the input tensors."""

    function: object
    # What the output is handed over in where that is narrower than the sums.
    output: str | None = None
    # Whether tensors are [batch, len, heads, head_dim] instead of what the protocol has.
    turned: bool = False
    # Whether each call is waited for by itself.
    waits: bool = False


@dataclass
class Program:
    """A recipe that is compiled: `call` takes the inputs and the output of the call before."""

    recipe: Recipe
    call: object
    # Shape and type of the output.
    output: object
    compile_s: float


class Jax(base.Runner):
    """JAX on one device."""

    name = "jax"

    def open(self, selector, backend):
        self.device = choose_device(selector, backend)
        self.api = api_of(self.device)
        self.asynchronous = self.api != "cpu"
        jax.config.update("jax_default_device", self.device)
        device = {
            "name": name_of(self.device),
            "backend": self.api,
            "driver": driver_of(self.device),
            "device_type": "cpu" if self.api == "cpu" else "other",
        }
        here = "the host is the device"
        note = here if self.api == "cpu" else "JAX shows no timestamps of this device"
        return device, base.host_timer(note)

    def version(self):
        return f"{VERSION} (jax {jax.__version__})"

    # What there is

    def offer(self, case):
        # What is too large for the device need not be compiled for it.
        tensors = base.inputs(case)
        self.check_memory(case, tensors, 1)
        op = case["op"]
        if op in ("upload", "readback"):
            self.check_transfer(case)
            return ["device_put"], {}
        names, refused, kinds = [], {}, set()
        for name, recipe in self.recipes(case).items():
            try:
                self.programs[name] = self.compile(recipe, tensors)
                names.append(name)
            except Exception as error:  # JAX and XLA refuse with errors of many types
                refusal = error if isinstance(error, Refusal) else self.refusal(error)
                if refusal is not None and refusal.kind == "device_lost":
                    raise
                refused[name] = base.one_line(error)
                kinds.add(refusal.kind if refusal is not None else "validation")
        if not names:
            kind = "out_of_memory" if "out_of_memory" in kinds else "unsupported"
            raise Refusal(kind, "; ".join(f"{op}/{name}: {why}" for name, why in refused.items()))
        return names, refused

    def recipes(self, case):
        """What could run a case, by name, the preferred one first."""
        op, dtype, shape = case["op"], case["dtype"], case["shape"]
        if op == "matmul":
            return {"xla": self.matmul(dtype, shape)}
        if op == "attention":
            return self.attention(dtype, shape)
        if dtype != "f32":
            raise Refusal("unsupported", f"this runner has no {op} in {dtype}")
        if op == "read":
            rounds = shape.get("rounds", 1)
            # Sums of columns as JAX's users write them, and as one pass that adds row to row.
            return {
                "sum": Recipe(lambda x: by_rounds(lambda x: jnp.sum(x, 1), x, rounds)),
                "rows": Recipe(lambda x: by_rounds(add_rows, x, rounds)),
            }
        if op == "triad":
            return {"xla": Recipe(lambda b, c: b + 3 * c)}
        # A function that returned its argument would not be called at all.
        return {"xla": Recipe(jnp.copy, waits=op == "round_trip")}

    def matmul(self, dtype, shape):
        if dtype == "f16_f16":
            raise Refusal("unsupported", "XLA keeps sums of f16 in f32")
        if dtype == "tf32" and self.api != "cuda":
            raise Refusal("unsupported", "TF32 is NVIDIA's")
        stack = (0,) if shape.get("batch", 1) > 1 else ()
        rank = len(stack)
        columns = rank + 1 if shape.get("trans_b", 0) else rank
        numbers = (((rank + 1,), (columns,)), (stack, stack))
        kind = jnp.int32 if dtype == "i8" else jnp.float32
        return Recipe(
            lambda a, b: lax.dot_general(
                a, b, numbers, precision=PRECISION[dtype], preferred_element_type=kind
            )
        )

    def attention(self, dtype, shape):
        if dtype not in ("f32", "f16", "bf16"):
            raise Refusal("unsupported", f"this runner has no attention in {dtype}")
        if shape.get("page_len", 0):
            raise Refusal("unsupported", "this runner has no paged keys")
        short = None if dtype == "f32" else dtype

        def library(implementation, turned):
            # XLA makes one with its products of the turning; cuDNN would have copies made.
            turn = (lambda t: t) if turned else (lambda t: jnp.swapaxes(t, 1, 2))

            def function(*tensors):
                with jax.default_matmul_precision(PRECISION[dtype].name.lower()):
                    return turn(attend(*map(turn, tensors), shape, implementation))

            return Recipe(function, output=short, turned=turned)

        recipes = {"cudnn": library("cudnn", True)} if short and self.api == "cuda" else {}
        recipes["xla"] = library("xla", False)
        recipes["einsum"] = Recipe(lambda q, k, v: written_out(q, k, v, shape, PRECISION[dtype]))
        return recipes

    def compile(self, recipe, tensors):
        """The program of a recipe, or whatever error JAX and XLA have for it."""
        place = SingleDeviceSharding(self.device)
        like = lambda dims, kind: jax.ShapeDtypeStruct(tuple(dims), kind, sharding=place)
        dims_of = lambda tensor: turn_dims(tensor.dims) if recipe.turned else tensor.dims
        arguments = [like(dims_of(tensor), TYPES[tensor.element]) for tensor in tensors]
        started = time.perf_counter()
        output = jax.eval_shape(recipe.function, *arguments)
        output = like(output.shape, output.dtype)
        traced = jax.jit(
            lambda *all: recipe.function(*all[:-1]),
            donate_argnums=len(arguments),
            keep_unused=True,
        )
        call = traced.lower(*arguments, output).compile()
        compile_s = time.perf_counter() - started
        self.check_scratch(call, tensors)
        return Program(recipe, call, output, compile_s)

    def check_scratch(self, call, tensors):
        """Refuses a program whose scratch memory does not fit beside the tensors."""
        needed, room = call.memory_analysis(), self.free_bytes()
        if needed is None or room is None:
            return
        scratch, rest = needed.temp_size_in_bytes, sum(tensor.bytes for tensor in tensors)
        if scratch + rest > room:
            message = f"it needs {scratch} bytes of scratch memory beside {rest}; {room} are there"
            raise Refusal("out_of_memory", message)

    def check_transfer(self, case):
        if case["dtype"] != "f32":
            raise Refusal("unsupported", f"this runner has no {case['op']} in {case['dtype']}")
        if self.api == "cpu":
            raise Refusal("unsupported", "the CPU's memory is the host's")
        kinds = {memory.kind for memory in self.device.addressable_memories()}
        if not {"device", "pinned_host"} <= kinds:
            kinds = ", ".join(sorted(kinds))
            raise Refusal("unsupported", f"JAX has no page-locked memory here, only {kinds}")

    # Tensors

    def place(self, values, element):
        return jax.device_put(values.astype(TYPES[element]), self.device)

    def make(self, number, tensor, data, seed):
        data = "integer" if tensor.always_integer else data
        if data == "zero" or tensor.count <= DRAWN_BY_HOST_MAX:
            return super().make(number, tensor, data, seed)
        first, second = (numpy.uint32(key) for key in base.keys(seed, number))
        scale = numpy.float32(tensor.scale if data == "uniform" else 1.0)
        bits, divisor = base.GRIDS[tensor.element] if data == "uniform" else (3, 1)
        lowest = -2 if data == "integer" else -(1 << (bits - 1))
        kind = TYPES[tensor.element]
        return draw(tuple(tensor.dims), bits, lowest, kind, first, second, scale / divisor)

    def free_bytes(self):
        if self.api == "cpu":
            return base.available_bytes()
        stats = self.device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)

    def forget(self):
        super().forget()
        self.programs, self.program, self.turned = {}, None, False
        # JAX keeps for ever what it traced and compiled, and here few shapes come again.
        jax.clear_caches()

    def arrange(self, turned):
        """Has the inputs in the order of dimensions that a kernel takes."""
        if self.turned != turned:
            for tensors in self.sets:
                # One by one: not all of them are there twice.
                for index in range(len(tensors)):
                    tensors[index] = jnp.swapaxes(tensors[index], 1, 2)
            self.turned = turned

    def refusal(self, error):
        text = str(error)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
            return Refusal("out_of_memory", text)
        if isinstance(error, RuntimeError):
            signs = ("CUDA_ERROR_", "hipError", "DATA_LOSS", "UNAVAILABLE")
            lost = any(sign in text for sign in signs)
            return Refusal("device_lost" if lost else "validation", text)
        return None

    # Kernels

    def build(self, name):
        op = self.case["op"]
        self.program, self.results = None, []
        if op in ("upload", "readback"):
            return self.transfer(op)
        program = self.program = self.programs[name]
        recipe, call_program, sets = program.recipe, program.call, self.sets
        self.arrange(recipe.turned)

        def call(s):
            self.results[s] = call_program(*sets[s], self.results[s])
            if recipe.waits:
                self.wait()

        return Kernel(
            call,
            compile_s=program.compile_s,
            engine="matrix" if self.by_matrix_units() else "alu",
            output=recipe.output,
            clock="host" if recipe.waits else None,
        )

    def by_matrix_units(self):
        """Whether products of this dtype go to units that do nothing else."""
        if self.case["op"] not in ("matmul", "attention") or self.api == "cpu":
            return False
        # A TPU and its like multiply f32 in several passes of what they have.
        return self.case["dtype"] != "f32" or self.api not in ("cuda", "rocm")

    def transfer(self, op):
        """Copies between page-locked memory of the host and the device's, one after another."""
        host = SingleDeviceSharding(self.device, memory_kind="pinned_host")
        device = SingleDeviceSharding(self.device, memory_kind="device")
        target = device if op == "upload" else host
        sources = [tensors[0] for tensors in self.sets]
        if op == "upload":
            sources = [jax.device_put(source, host) for source in sources]

        def call(s):
            self.results[s] = jax.device_put(sources[s], target)
            self.wait()

        return Kernel(call, clock="host")

    def poison_results(self):
        super().poison_results()
        if self.program is not None:
            output = self.program.output
            integer = jnp.issubdtype(output.dtype, jnp.integer)
            poison = base.INTEGER_POISON if integer else numpy.nan
            for s in range(len(self.sets)):
                self.results[s] = jnp.full(output.shape, poison, output.dtype)

    def wait(self):
        jax.block_until_ready(self.results)

    def flat(self, result):
        values = numpy.asarray(result)
        return super().flat(values.swapaxes(1, 2) if self.turned else values)


def mix(x):
    """The mixer of the protocol on arrays of 32-bit words, which wrap by themselves."""
    x = (x ^ (x >> 16)) * numpy.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * numpy.uint32(0x846CA68B)
    return x ^ (x >> 16)


def drawn(dims, bits, lowest, kind, first, second, scale):
    """A tensor of the upper `bits` bits of random words, counted from `lowest`, times a scale."""
    index, stride = jnp.zeros(dims, jnp.uint32), 1
    for axis in reversed(range(len(dims))):
        along = lax.broadcasted_iota(jnp.uint32, dims, axis)
        index += along * numpy.uint32(stride & base.MASK)
        stride *= dims[axis]
    word = mix(mix(index + first) ^ second)
    grid = (word >> (32 - bits)).astype(jnp.int32) + lowest
    return (grid.astype(jnp.float32) * scale).astype(kind)


draw = jax.jit(drawn, static_argnums=(0, 1, 2, 3))


def add_rows(x):
    """Sums of the columns of each block, one row added to the next."""
    return sum(x[:, row] for row in range(1, x.shape[1])) + x[:, 0]


def by_rounds(sums, x, rounds):
    """What `sums` makes of all blocks, so many times over."""
    if rounds == 1:
        return sums(x)

    def one_round(x, _):
        # Without the barrier XLA would read once and hand the same sums out again.
        x = lax.optimization_barrier(x)
        return x, sums(x)

    again = lax.scan(one_round, x, None, length=rounds)[1]
    return again.reshape(-1, x.shape[-1])


def turn_dims(dims):
    """Dimensions with the middle two exchanged, as JAX has them in attention."""
    batch, heads, length, width = dims
    return [batch, length, heads, width]


def attend(q, k, v, shape, implementation):
    """Attention by JAX's own function, on tensors of [batch, len, heads, head_dim]."""
    query_len, kv_len = shape["query_len"], shape["kv_len"]
    mask = None
    square = query_len == kv_len
    if base.masked(shape) and not square:
        # JAX's own causal mask starts at the first key.
        mask = seen((1, 1, query_len, kv_len), kv_len - query_len)
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        is_causal=base.masked(shape) and square,
        implementation=implementation,
    )
    return clear_blind(out, shape, 1)


def written_out(q, k, v, shape, precision):
    """Attention as its formula has it, with sums and output in f32."""
    batch, heads, query_len, width = q.shape
    kv_heads, kv_len = k.shape[1], k.shape[2]
    sums = {"precision": precision, "preferred_element_type": jnp.float32}
    # Query heads that share a head of keys become rows of one product.
    group = [batch, kv_heads, heads // kv_heads, query_len, width]
    scores = jnp.einsum("bkgqd,bkld->bkgql", q.reshape(group), k, **sums)
    scores *= numpy.float32(width**-0.5)
    if base.masked(shape):
        lowest = numpy.finfo(numpy.float32).min
        scores = jnp.where(seen(scores.shape, kv_len - query_len), scores, lowest)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgql,bkld->bkgqd", weights, v, **sums)
    return clear_blind(out.reshape(q.shape), shape, 2)


def seen(dims, offset):
    """Which key, the last dimension, is seen by which query, the one before it."""
    query = lax.broadcasted_iota(jnp.int32, dims, len(dims) - 2)
    key = lax.broadcasted_iota(jnp.int32, dims, len(dims) - 1)
    return key <= query + offset


def clear_blind(out, shape, axis):
    """Zeros for the queries, along this axis, that see no key."""
    blind = shape["query_len"] - shape["kv_len"]
    if not base.masked(shape) or blind <= 0:
        return out
    return jnp.where(lax.broadcasted_iota(jnp.int32, out.shape, axis) < blind, 0, out)


# Devices


def all_devices():
    """The devices that JAX finds here, those of its preferred platform first."""
    try:
        found = list(jax.local_devices())
        for client in backends.backends().values():
            found += [device for device in client.local_devices() if device not in found]
    except (RuntimeError, AssertionError) as error:
        # JAX asserts that the platforms of JAX_PLATFORMS are there.
        asked = os.environ.get("JAX_PLATFORMS")
        why = str(error) or f"none by JAX_PLATFORMS={asked}"
        raise Refusal("no_device", f"JAX finds no device: {why}") from None
    return found


def choose_device(selector, backend):
    """The device of this name, or the first."""
    found = all_devices()
    there = ", ".join(f"{api_of(device)} ({name_of(device)})" for device in found)
    if backend is not None:
        found = [device for device in found if backend.lower() in platforms_of(device)]
        if not found:
            message = f"JAX reaches no device by {backend!r}; these are there: {there}"
            raise Refusal("no_device", message)
    if selector is None:
        return found[0]
    wanted = selector.lower()
    platform, _, number = wanted.partition(":")
    if platform.isdecimal():
        fitting, number = found, platform
    else:
        fitting = [device for device in found if platform in platforms_of(device)]
    if number and fitting:
        fitting = fitting[int(number) :] if number.isdecimal() else []
    else:
        fitting = fitting or [device for device in found if wanted in name_of(device).lower()]
    if not fitting:
        message = f"there is no device {selector!r}; these are there: {there}"
        raise Refusal("no_device", message)
    return fitting[0]


def api_of(device):
    """The platform's name; of GPUs, whose they are."""
    version = device.client.platform_version.lower()
    if device.platform == "gpu":
        return next((vendor for vendor in ("cuda", "rocm") if vendor in version), "gpu")
    return device.platform.lower()


def platforms_of(device):
    """The names by which a device's platform may be asked for."""
    return {device.platform.lower(), api_of(device)}


def name_of(device):
    """What the chip calls itself."""
    return base.cpu_name() if device.platform == "cpu" else device.device_kind


def driver_of(device):
    """Version of the library, and of the plugin where there is one."""
    library = f"jaxlib {jax.lib.__version__}"
    said = base.one_line(device.client.platform_version)
    return library if said == device.platform else f"{library}, {said}"


if __name__ == "__main__":
    Jax().serve()
