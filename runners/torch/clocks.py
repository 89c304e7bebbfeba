#!/usr/bin/env python3
"""Our times of PyTorch's products against two other clocks on the same calls: CUDA events around a plain
loop, and Triton's do_bench. Takes reports of chipmark that have such products and prints a line each.

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
# The longest products of all reports together.
CASES_MAX = 4
# Each clock is read so often, by turns.
TURNS = 7


def products(reports):
    """The longest measured products of PyTorch in the reports, each case and kernel once."""
    found = {
        (outcome["case_id"], outcome["kernel"]): outcome
        for report in reports
        for outcome in report["outcomes"]
        if (outcome["runner"], outcome["op"], outcome["status"]) == ("torch", "matmul", "measured")
        and outcome["time_s"]["median"] >= SECONDS_MIN
    }
    longest = sorted(found.values(), key=lambda outcome: -outcome["time_s"]["median"])
    return longest[:CASES_MAX]


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
    if not arguments:
        print("usage: clocks.py REPORT...", file=sys.stderr)
        return 2
    reports = []
    for path in arguments:
        try:
            with open(path, encoding="utf-8") as file:
                reports.append(json.load(file))
            products(reports[-1:])
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path}: it is no report of chipmark ({error!r})", file=sys.stderr)
            return 2
    found = products(reports)
    if not found:
        print(f"no product of torch in {', '.join(arguments)} takes {SECONDS_MIN * 1e3} ms or more")
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
