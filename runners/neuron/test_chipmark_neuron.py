"""Tests of the Neuron runner on the simulated chip: `python3 -m unittest discover -s runners/neuron`."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

try:
    import numpy
except ImportError:
    raise unittest.SkipTest("there is no numpy") from None

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import chipmark_neuron as runner
import simulated

HELLO = {"type": "hello", "protocol": 1, "device": None, "backend": None, "checks": False}
# What the runner is told by, or tells with; none of the user's own is to be in a test.
VARIABLES = ("NEURON_CC_FLAGS", "NEURON_RT_VISIBLE_CORES", "NEURON_LOGICAL_NC_CONFIG", *runner.ROUNDING)


def matmul(m, n, k, **more):
    return {"m": m, "n": n, "k": k, **more}


def attention(heads, kv_heads, query_len, kv_len, causal, head_dim=16, batch=2):
    keys = "batch heads kv_heads query_len kv_len head_dim causal".split()
    return dict(zip(keys, (batch, heads, kv_heads, query_len, kv_len, head_dim, causal)))


class Simulation(unittest.TestCase):
    """A fresh runner on a made-up machine."""

    def setUp(self):
        simulated.install()
        simulated.FAULT.clear()
        clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for patch in (
            mock.patch.dict(os.environ, clean, clear=True),
            mock.patch.object(runner, "SYS", self.root),
            mock.patch.object(runner, "neuron_ls", lambda: self.printed),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        self.on("Trainium2", 8, "trn2.3xlarge")

    def on(self, chip, cores, instance, chip_count=1):
        """Puts a machine of this kind in place, and a runner that has not been greeted."""
        self.printed = simulated.machine(self.root, chip, cores, instance, chip_count)
        self.runner = runner.Neuron()

    def ask(self, **request):
        return self.runner.answer(json.dumps(request))

    def hello(self, **fields):
        return self.ask(**{**HELLO, **fields})

    def case(self, op, dtype, shape, data="uniform", set_count=1, seed=7):
        case = {"op": op, "shape": shape, "dtype": dtype}
        return self.ask(type="case", case=case, seed=seed, data=data, set_count=set_count)

    def kernels(self, op, dtype, shape):
        """Kernels offered, and those refused with the reason, without the op."""
        answer = self.case(op, dtype, shape)
        self.assertEqual(answer["type"], "variants", answer)
        short = lambda one: one["kernel"].partition("/")[2]
        return list(map(short, answer["variants"])), {
            short(one): one["reason"] for one in answer["refused"]
        }

    def prepare(self, kernel):
        answer = self.ask(type="prepare", kernel=kernel, variant={})
        self.assertEqual(answer["type"], "ready", answer)
        return answer

    def measure(self, repeat_count, sample_count=1, poison=True):
        return self.ask(
            type="measure", repeat_count=repeat_count, sample_count=sample_count, poison=poison
        )

    def output(self, set_index=0):
        """Every element of an output."""
        answer = self.ask(
            type="outputs", positions=[], projection_seed=None, all=True, set_index=set_index
        )
        return numpy.array([float(value) for value in answer["values"]])

    def refused(self, answer, kind, *words):
        self.assertEqual((answer["type"], answer.get("kind")), ("error", kind), answer)
        for word in words:
            self.assertIn(word, answer["message"])


class Outputs(Simulation):
    def setUp(self):
        super().setUp()
        self.hello()

    def near(self, wanted, tolerance):
        got = self.output()
        self.assertEqual(got.shape, wanted.reshape(-1).shape)
        self.assertLess(numpy.abs(got - wanted.reshape(-1)).max(), tolerance)

    def test_the_product_of_the_protocols_own_conversation_is_exact(self):
        self.case("matmul", "f32", matmul(2, 3, 4), data="integer")
        self.prepare("matmul/library")
        self.assertEqual(self.output().tolist(), [26, 9, 34, 24, 17, 27])

    def test_products_are_right_in_every_dtype_and_kernel_either_way_round(self):
        bounds = {"f32": 1e-4, "tf32": 1e-4, "f16": 2e-2, "bf16": 0.2, "f8e4m3": 1e-4}
        for dtype, bound in bounds.items():
            for turned in (0, 1):
                shape = matmul(256, 1024, 384, trans_b=turned)
                for kernel in self.kernels("matmul", dtype, shape)[0]:
                    with self.subTest(dtype=dtype, turned=turned, kernel=kernel):
                        ready = self.prepare(f"matmul/{kernel}")
                        narrow = kernel == "library" and dtype in ("f16", "bf16")
                        self.assertEqual(ready["output"], dtype if narrow else None)
                        a, b = (tensor.array() for tensor in self.runner.sets[0])
                        if dtype == "f8e4m3":
                            a, b = (simulated.f8_read(bits, simulated.F8_TORCH) for bits in (a, b))
                        b = b.T if turned else b
                        self.near(a.astype(float) @ b, bound if narrow else 1e-4)

    def test_the_types_that_only_tiles_have_are_offered_as_tiles_only(self):
        for dtype in ("tf32", "f8e4m3"):
            self.assertEqual(self.kernels("matmul", dtype, matmul(256, 512, 128))[0], ["nki_tiled"])
        self.refused(self.case("matmul", "i8", matmul(256, 512, 128)), "unsupported", "i8")

    def test_batches_of_products_are_right(self):
        self.case("matmul", "f32", matmul(3, 5, 7, batch=4))
        self.prepare("matmul/library")
        a, b = (tensor.array() for tensor in self.runner.sets[0])
        self.near(numpy.matmul(a, b), 1e-5)

    def test_attention_is_right_in_every_kernel(self):
        shapes = [
            attention(4, 4, 9, 9, 0),
            attention(6, 2, 9, 9, 1),  # heads share keys
            attention(4, 2, 5, 12, 1),  # the mask begins after the first key
            attention(4, 1, 1, 12, 1),  # one query sees every key
        ]
        count = 0
        for dtype, bound in (("f32", 1e-5), ("f16", 2e-3), ("bf16", 2e-2)):
            for shape in shapes:
                for kernel in self.kernels("attention", dtype, shape)[0]:
                    with self.subTest(dtype=dtype, kernel=kernel, **shape):
                        self.prepare(f"attention/{kernel}")
                        self.near(self.attended(shape), bound)
                        count += 1
        self.assertEqual(count, 3 * 4 + 3)  # the library's flash attention takes three of them

    def attended(self, shape):
        """The definition, head by head and query by query."""
        q, k, v = (tensor.array().astype(float) for tensor in self.runner.sets[0])
        wanted = numpy.zeros(q.shape)
        for b, head, query in numpy.ndindex(q.shape[:3]):
            seen = shape["kv_len"]
            if shape["causal"]:
                seen += query + 1 - shape["query_len"]
            of = head // (shape["heads"] // shape["kv_heads"])
            scores = k[b, of, :seen] @ q[b, head, query] / shape["head_dim"] ** 0.5
            weights = numpy.exp(scores - scores.max())
            wanted[b, head, query] = weights @ v[b, of, :seen] / weights.sum()
        return wanted

    def test_every_call_is_executed_and_none_is_left_out(self):
        for kernel, kind in (("library", "matmul"), ("nki_tiled", "nki")):
            self.case("matmul", "bf16", matmul(256, 512, 128))
            self.prepare(f"matmul/{kernel}")
            before = simulated.EXECUTED[kind]
            spans = self.measure(5, sample_count=2)["samples"]
            self.assertEqual(simulated.EXECUTED[kind] - before, 10)
            self.assertEqual([span["repeat_count"] for span in spans], [5, 5])
            for span in spans:
                self.assertIsNone(span["device_s"])
                self.assertTrue(0 < span["submit_s"] <= span["host_s"])

    def test_sets_take_turns_and_poison_is_answered_until_a_call_overwrites_it(self):
        answer = self.case("matmul", "f32", matmul(3, 5, 7), set_count=3)
        self.assertEqual(answer["set_count"], 3)
        self.prepare("matmul/library")
        self.measure(3)
        for index in range(3):
            self.assertEqual(self.output(index).tolist(), self.output(0).tolist())
            self.assertFalse(numpy.isnan(self.output(index)).any())
        self.measure(2)
        written = [not numpy.isnan(self.output(index)).any() for index in range(3)]
        self.assertEqual(sorted(written), [False, True, True])

    def test_one_core_and_two_give_the_same_tiles(self):
        outputs = []
        for cores in ("1", "2"):
            os.environ["NEURON_LOGICAL_NC_CONFIG"] = cores
            self.runner = runner.Neuron()
            device = self.hello()["device"]
            self.assertEqual(device["name"], f"AWS Trainium2, {cores} of 8 cores")
            self.case("matmul", "f32", matmul(512, 512, 256))
            self.prepare("matmul/nki_tiled")
            outputs.append(self.output())
        self.assertTrue(numpy.array_equal(*outputs))

    def test_a_core_that_does_nothing_shows(self):
        self.case("matmul", "f32", matmul(256, 512, 128))
        # The kernel is told of two cores, and the second does not run.
        with mock.patch.object(simulated, "range", lambda stop: range(min(stop, 1)), create=True):
            self.prepare("matmul/nki_tiled")
        self.assertEqual(numpy.isnan(self.output()).sum(), 128 * 512)


class Refusals(Simulation):
    def reason(self, dtype, shape, op="matmul", kernel="nki_tiled"):
        self.hello()
        offered, refused = self.kernels(op, dtype, shape)
        self.assertNotIn(kernel, offered)
        return refused[kernel]

    def test_shapes_that_tiles_do_not_divide_are_refused_with_both_numbers(self):
        for shape, words in (
            (matmul(100, 512, 128), ("100", "128")),
            (matmul(256, 500, 128), ("500", "512")),
            (matmul(256, 512, 130), ("130", "128")),
            (matmul(128, 512, 128), ("1 rows", "2 cores")),
            (matmul(256, 512, 128, batch=3), ("3",)),
            (matmul(256, 512, 1 << 15), ("32768", "329728", "196608")),
        ):
            for word in words:
                self.assertIn(word, self.reason("bf16", shape))

    def test_what_the_flash_attention_does_not_take_is_refused_with_both_numbers(self):
        for dtype, shape, words in (
            ("f16", attention(2, 2, 8, 8, 0), ("bf16", "f16")),
            ("bf16", attention(2, 2, 8, 8, 0, head_dim=192), ("192", "128")),
            ("bf16", attention(300, 2, 8, 8, 0), ("600", "512")),
            ("bf16", attention(2, 2, 8, 9, 1), ("8 queries", "9 keys")),
        ):
            for word in words:
                self.assertIn(word, self.reason(dtype, shape, "attention", "nki_flash"))

    def test_chips_before_trainium_2_have_no_kernels_in_nki(self):
        for chip, instance in (("Inferentia2", "inf2.xlarge"), ("Trainium1", "trn1.2xlarge")):
            self.on(chip, 2, instance)
            self.assertIn(chip, self.reason("bf16", matmul(256, 512, 128)))
            self.assertEqual(self.kernels("matmul", "tf32", matmul(256, 512, 128))[0], [])
            self.assertEqual(self.kernels("matmul", "f32", matmul(3, 5, 7))[0], ["library"])
            self.assertNotIn("NEURON_LOGICAL_NC_CONFIG", os.environ)

    def test_a_missing_nki_is_a_reason_and_not_the_end(self):
        with mock.patch.dict(sys.modules, {"nki_matmul": None}):
            self.assertIn("nki_matmul", self.reason("f32", matmul(256, 512, 128)))

    def test_numbers_that_the_chips_f8_lacks_are_refused(self):
        self.hello()
        with tempfile.TemporaryDirectory() as folder:
            files = {name: f"{folder}/{name}.npy" for name in "ab"}
            values = numpy.zeros((256, 128), dtype=numpy.float32)
            values[3, 4] = -256
            numpy.save(files["a"], values)
            numpy.save(files["b"], numpy.zeros((128, 512)))
            answer = self.case("matmul", "f8e4m3", matmul(256, 512, 128), data={"files": files})
        self.refused(answer, "input", "256", "240")

    def test_what_does_not_fit_a_core_is_out_of_memory_and_the_runner_goes_on(self):
        self.hello()
        answer = self.case("matmul", "f32", matmul(65535, 65535, 65535), set_count=64)
        self.refused(answer, "out_of_memory", "are there for them")
        self.assertLessEqual(self.runner.free_bytes(), 24 << 30)
        self.assertEqual(self.kernels("matmul", "f32", matmul(3, 5, 7))[0], ["library"])


class Errors(Simulation):
    def test_texts_of_the_runtime_are_told_apart(self):
        for text, kind in (
            ("nrt_tensor_allocate status=4", "out_of_memory"),
            ("Failure: NRT_RESOURCE in nrt_load()", "out_of_memory"),
            ("NRT_FAIL_HOST_MEM_ALLOC", "out_of_memory"),
            ("Bad StatusOr access: RESOURCE_EXHAUSTED: no room", "out_of_memory"),
            ("NRT_EXEC_HW_ERR_HBM_UE", "device_lost"),
            ("nrt_execute status=1202", "device_lost"),
            ("nrt_execute status=101", "device_lost"),
            ("NRT_TIMEOUT", "device_lost"),
            # After a core is lost, what it cannot allocate says nothing of memory.
            ("nrt_execute status=101, then nrt_tensor_allocate status=4", "device_lost"),
            ("nrt_execute status=1003", "validation"),
            ("NCC_EVRF066: configured with LNC=1", "validation"),
        ):
            with self.subTest(text):
                self.assertEqual(runner.failure(RuntimeError(text)), kind)

    def test_errors_come_back_as_what_they_are_and_the_runner_goes_on(self):
        self.hello()
        self.case("matmul", "f32", matmul(3, 5, 7))
        simulated.FAULT.append("nrt_tensor_allocate status=4")
        self.refused(
            self.ask(type="prepare", kernel="matmul/library", variant={}), "out_of_memory"
        )
        self.refused(self.ask(type="outputs", positions=[0], projection_seed=None), "input")
        self.prepare("matmul/library")
        simulated.FAULT.append("NRT_EXEC_HW_ERR_NC_UE")
        self.refused(self.measure(3), "device_lost", "NRT_EXEC_HW_ERR_NC_UE")

    def test_a_kernel_that_does_not_compile_is_not_the_runners_mistake(self):
        self.hello()
        self.case("matmul", "f32", matmul(256, 512, 128))
        broken = mock.Mock(side_effect=TypeError("a list is no argument"))
        with mock.patch.object(simulated, "Tile", broken):
            answer = self.ask(type="prepare", kernel="matmul/nki_tiled", variant={})
        self.refused(answer, "validation", "a list is no argument")


class Machines(Simulation):
    def test_hello_says_what_was_not_verified_and_how_much_of_the_chip_it_has(self):
        answer = self.hello()
        self.assertIn("unverified on hardware", answer["runner"]["version"])
        self.assertEqual(answer["timer"]["clock"], "host")
        self.assertIn("unverified on hardware", answer["timer"]["note"])
        device = answer["device"]
        self.assertEqual(device["name"], "AWS Trainium2, 2 of 8 cores")
        self.assertEqual(device["backend"], "neuron")
        self.assertEqual(device["pci_bus_id"], "0000:00:1e.0")
        limits = {"neuron_cores_used": 2, "neuron_cores_of_chip": 8, "memory_bytes_budget": 24 << 30}
        self.assertEqual(device["limits"], limits)

    def test_a_core_is_chosen_by_its_index_over_all_chips(self):
        self.on("Inferentia2", 2, "inf2.24xlarge", chip_count=6)
        self.assertEqual(self.hello(device="11")["device"]["pci_bus_id"], "0000:05:1e.0")
        self.assertEqual(os.environ["NEURON_RT_VISIBLE_CORES"], "11")
        self.refused(self.hello(device="3"), "input", "11", "3")

    def test_devices_that_are_not_there_are_refused_with_those_that_are(self):
        self.refused(self.hello(device="4"), "no_device", "'4'", "from 0 to 3")
        self.refused(self.hello(device="H100"), "no_device", "H100", "Trainium2")
        self.refused(self.hello(backend="cuda"), "no_device", "cuda")
        self.assertEqual(self.hello(device="trainium", backend="neuron")["type"], "hello")

    def test_the_users_own_choice_of_cores_stands_unless_another_is_asked_for(self):
        choose = lambda selector, visible: runner.choose(selector, 32, "Trainium1", visible)
        self.assertEqual(choose(None, None), 0)
        self.assertEqual(choose(None, "4-7"), 4)
        self.assertEqual(choose("trainium1", "6"), 6)
        self.assertEqual(choose("9", "4-7"), 9)

    def test_the_compiler_is_told_last_to_leave_f32_alone(self):
        os.environ["NEURON_CC_FLAGS"] = "--auto-cast=all --optlevel 1"
        self.hello()
        self.assertEqual(
            os.environ["NEURON_CC_FLAGS"], "--auto-cast=all --optlevel 1 --auto-cast=none"
        )

    def test_settings_that_round_or_make_no_sense_are_refused(self):
        senseless = [(name, "1") for name in runner.ROUNDING] + [("NEURON_LOGICAL_NC_CONFIG", "3")]
        for name, value in senseless:
            with mock.patch.dict(os.environ, {name: value}):
                self.refused(self.hello(), "input", name)
        with mock.patch.dict(os.environ, {"XLA_USE_BF16": "0"}):
            self.assertEqual(self.hello()["type"], "hello")

    def test_a_missing_package_is_no_device_in_one_line_with_the_remedy(self):
        for package in ("torch", "torch_neuronx", "torch_xla"):
            with mock.patch.dict(sys.modules, {package: None}):
                self.refused(self.hello(), "no_device", package, "README.md")
        self.assertEqual(self.hello()["type"], "hello")

    def test_a_core_that_does_not_open_is_no_device(self):
        busy = mock.Mock(side_effect=RuntimeError("NeuronCore(s) not available"))
        with mock.patch.object(sys.modules["torch_xla"], "device", busy):
            self.refused(self.hello(), "no_device", "core 0", "not available")

    def survey(self, printed=""):
        return runner.survey(self.root, printed)

    def test_the_machine_is_read_from_sys(self):
        self.on("Trainium1", 2, "trn1.32xlarge", chip_count=16)
        machine = self.survey()
        self.assertEqual((machine.chip, machine.chip_count, machine.cores), ("Trainium1", 16, 2))
        self.assertEqual((machine.instance, machine.listing), ("trn1.32xlarge", []))

    def test_what_a_newer_driver_moved_is_found_elsewhere(self):
        node = self.root / "devices/virtual/neuron_device/neuron0"
        (node / "info/architecture/device_name").unlink()
        self.assertEqual((self.survey().chip, self.survey().cores), ("Trainium2", 8))
        (node / "core_count").unlink()
        self.assertEqual(self.survey('[{"neuron_device": 0, "nc_count": 4}]').cores, 4)
        self.assertEqual(self.survey().cores, 8)

    def test_chips_that_are_unknown_or_absent_are_no_device(self):
        self.on("Inferentia", 4, "inf1.xlarge")
        self.refused(self.hello(), "no_device", "Inferentia", "inf1.xlarge")
        self.printed = "no such command"
        with mock.patch.object(runner, "SYS", self.root / "elsewhere"):
            self.refused(self.hello(), "no_device", "README.md")

    def test_a_listing_that_cannot_be_read_is_as_none(self):
        for printed in ("", "not json", "7", '{"neuron_device": 0}', '[{"bdf": "x"}]', "[1]"):
            self.assertEqual(runner.chips_listed(printed), [], printed)
        order = runner.chips_listed('[{"neuron_device": 1}, {"neuron_device": 0}]')
        self.assertEqual([chip["neuron_device"] for chip in order], [0, 1])


class Programs(unittest.TestCase):
    """The files themselves, as processes."""

    def converse(self, program, *requests):
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        command = [sys.executable, str(HERE / program)]
        ended = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return [json.loads(line) for line in ended.stdout.splitlines()]

    def test_the_simulated_chip_holds_a_whole_conversation_under_a_name_of_its_own(self):
        case = {"op": "matmul", "shape": matmul(256, 512, 128), "dtype": "bf16"}
        hello, variants, ready, samples, outputs, bye = self.converse(
            "simulated.py",
            HELLO,
            {"type": "case", "case": case, "seed": 7, "data": "integer"},
            {"type": "prepare", "kernel": "matmul/nki_tiled", "variant": {}},
            {"type": "measure", "repeat_count": 3, "sample_count": 2, "poison": True},
            {"type": "outputs", "positions": [0, 131071], "projection_seed": 7},
            {"type": "bye"},
        )
        self.assertIn("simulated", hello["device"]["name"])
        self.assertIn("simulated", hello["runner"]["name"])
        kernels = [one["kernel"] for one in variants["variants"]]
        self.assertEqual(kernels, ["matmul/library", "matmul/nki_tiled"])
        self.assertEqual((ready["engine"], len(samples["samples"])), ("matrix", 2))
        self.assertEqual((len(outputs["values"]), len(outputs["projection"])), (2, 256))
        self.assertEqual(bye, {"type": "bye"})

    @unittest.skipIf(Path("/sys/devices/virtual/neuron_device").exists(), "there is a chip")
    def test_without_a_chip_the_runner_says_so_and_goes_on(self):
        refusal, bye = self.converse("chipmark_neuron.py", HELLO, {"type": "bye"})
        self.assertEqual((refusal["type"], refusal["kind"]), ("error", "no_device"))
        self.assertEqual(bye, {"type": "bye"})


if __name__ == "__main__":
    unittest.main()
