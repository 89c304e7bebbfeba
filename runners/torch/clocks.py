#!/usr/bin/env python3
"""Our times of PyTorch's products against two other clocks on the same calls: CUDA events around a plain
loop, and Triton's do_bench. Takes a report of chipmark that has such products and prints a line each.

Exit code: 0 where all agree within 2 %, or there is nothing to compare with; 1 where they do not; 2 for a
file that is no such report.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import chipmark_torch

# The clocks should differ by no more.
TOLERANCE = 0.02
# Shorter calls are measured by how fast they are launched, and by do_bench with cold caches.
SECONDS_MIN = 0.5e-3
# The longest products of the report.
CASES_MAX = 4
# Each clock is read so often, by turns.
TURNS = 7


def products(report):
    """The longest measured products of PyTorch in a report."""
    found = [
        outcome
        for outcome in report["outcomes"]
        if (outcome["runner"], outcome["op"], outcome["status"]) == ("torch", "matmul", "measured")
        and outcome["time_s"]["median"] >= SECONDS_MIN
    ]
    found.sort(key=lambda outcome: -outcome["time_s"]["median"])
    return found[:CASES_MAX]


def compare(torch, bench, runner, outcome):
    """Medians of one call by our spans, by plain events and by do_bench, in seconds."""
    case = {"op": outcome["op"], "shape": outcome["shape"], "dtype": outcome["dtype"]}
    runner.handle({"type": "case", "case": case, "data": "uniform", "seed": 1})
    runner.handle({"type": "prepare", "kernel": outcome["kernel"], "variant": {}})
    call = runner.kernel.call
    repeat = max(3, round(0.05 / outcome["time_s"]["median"]))
    taken = {"ours": [], "events": [], "do_bench": []}
    for _ in range(TURNS):
        span = runner.span(repeat)
        taken["ours"].append(span["device_s"] / repeat)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(repeat):
            call(0)
        end.record()
        torch.cuda.synchronize()
        taken["events"].append(begin.elapsed_time(end) * 1e-3 / repeat)
        taken["do_bench"].append(
            bench(lambda: call(0), warmup=25, rep=100, return_mode="median") * 1e-3
        )
    return {clock: statistics.median(times) for clock, times in taken.items()}


def main(arguments):
    if len(arguments) != 1:
        print("usage: clocks.py REPORT", file=sys.stderr)
        return 2
    try:
        with open(arguments[0], encoding="utf-8") as file:
            found = products(json.load(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{arguments[0]}: it is no report of chipmark ({error!r})", file=sys.stderr)
        return 2
    if not found:
        print(f"{arguments[0]}: no product of torch takes {SECONDS_MIN * 1e3} ms or more")
        return 0
    torch = chipmark_torch.torch
    if not torch.cuda.is_available():
        print("PyTorch finds no GPU with CUDA's events here: nothing to compare with")
        return 0
    try:
        from triton.testing import do_bench
    except ImportError:
        print("Triton is not installed: nothing to compare with")
        return 0
    runner = chipmark_torch.Torch()
    runner.handle({"type": "hello", "protocol": chipmark_torch.base.PROTOCOL})
    agree = True
    for outcome in found:
        times = compare(torch, do_bench, runner, outcome)
        ratios = {clock: times["ours"] / times[clock] for clock in ("events", "do_bench")}
        good = all(abs(ratio - 1) <= TOLERANCE for ratio in ratios.values())
        agree = agree and good
        print(
            f"{outcome['case_id']} {outcome['kernel']}: ours {times['ours'] * 1e3:.4f} ms,"
            f" of CUDA events {ratios['events']:.4f}, of do_bench {ratios['do_bench']:.4f};"
            f" in the report {outcome['time_s']['median'] * 1e3:.4f} ms:"
            f" {'agrees' if good else 'DIFFERS'}"
        )
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
