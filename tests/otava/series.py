"""Makes series.json: fifty series and the change points that Apache Otava finds in them.

    pip install apache-otava && python tests/otava/series.py > tests/otava/series.json

Steps, two steps, drifts, noise and outliers are made from a seed; the rest are samples of real cases of
published reports, as they were taken and with a step of 5 % put in the middle.
"""

import json
import math
import random
import sys
from importlib.metadata import version
from pathlib import Path

from otava.analysis import compute_change_points

REPORTS = Path(__file__).resolve().parents[2] / "reports"
draw = random.Random(20261124)


def made(count, level, spread):
    return [level(index) * math.exp(draw.gauss(0, spread)) for index in range(count)]


series = {}
for number in range(10):
    count, at = draw.randint(24, 80), draw.uniform(0.3, 0.7)
    change, spread = draw.choice([0.02, 0.05, 0.1, 0.3]), draw.choice([0.003, 0.01, 0.02])
    place = round(count * at)
    series[f"step {number}: {change} at {place} of {count}, noise {spread}"] = made(
        count, lambda index: 1 + change * (index >= place), spread
    )
for number in range(8):
    count, change, spread = draw.randint(45, 90), draw.choice([0.05, 0.1, 0.2]), draw.choice([0.005, 0.01, 0.02])
    first, second = count // 3, 2 * count // 3
    back = number % 2 == 0
    series[f"two steps {number}: {change} at {first} and {second} of {count}, {'there and back' if back else 'up and up'}, noise {spread}"] = made(
        count, lambda index: 1 + change * (index >= first) + (-change if back else change) * (index >= second), spread
    )
for number in range(6):
    count, slope, spread = draw.randint(30, 80), draw.choice([0.02, 0.05, 0.1]), draw.choice([0.005, 0.01])
    series[f"drift {number}: {slope} over {count}, noise {spread}"] = made(count, lambda index: 1 + slope * index / count, spread)
for number in range(8):
    count, spread = draw.randint(20, 80), draw.choice([0.002, 0.01, 0.05])
    series[f"noise {number}: {spread}, {count}"] = made(count, lambda index: 1.0, spread)
for number in range(6):
    count, spread = draw.randint(25, 60), draw.choice([0.005, 0.01])
    values = made(count, lambda index: 1.0, spread)
    for place in draw.sample(range(count), 3):
        values[place] *= 1 + draw.choice([0.2, 0.5])
    series[f"outliers {number}: three of {count}, noise {spread}"] = values

real = []
for path in sorted(REPORTS.rglob("*.json")):
    for outcome in json.loads(path.read_text())["outcomes"]:
        samples = (outcome.get("time_s") or {}).get("samples") or []
        if outcome["op"] in ("matmul", "attention") and len(samples) >= 40:
            real.append((f"{path.relative_to(REPORTS)} {outcome['case_id']} {outcome['runner']}", samples[:60]))
for number, (name, samples) in enumerate(draw.sample(real, 12)):
    if number % 2:
        middle = len(samples) // 2
        samples = [value * (1.05 if index >= middle else 1) for index, value in enumerate(samples)]
        name += ", 5 % slower from the middle"
    series[f"real {number}: {name}"] = samples

found = []
for name, values in series.items():
    values = [float(f"{value:.6g}") for value in values]
    points, _ = compute_change_points([math.log(value) for value in values], max_pvalue=0.001)
    found.append({"name": name, "values": values, "otava": [int(point.index) for point in points]})
json.dump({"otava": version("apache-otava"), "series": found}, sys.stdout, indent=None)
sys.stdout.write("\n")
