"""What a time budget buys: train one fold of a dataset, predict its test images, score them.

    python benchmarks/time_budget.py DATASET 2m 15m

DATASET is in nnU-Net's raw format with imagesTs and labelsTs. Prints one line per budget.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "from autoseg.cli.main import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One budget: seconds of each command, iterations and mean Dice."""

    budget: str
    train_seconds: float
    predict_seconds: float
    iterations: int
    features: int
    held_out_dice: float
    test_dice: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("budgets", nargs="+")
    parser.add_argument("--scratch", type=Path, default=Path("benchmark_scratch/time_budget"))
    arguments = parser.parse_args()
    for budget in arguments.budgets:
        print(measure(arguments.dataset, budget, arguments.scratch.resolve() / budget), flush=True)


def measure(dataset: Path, budget: str, workspace: Path) -> Row:
    run("plan-and-preprocess", dataset, "-w", workspace, "--gpu-memory", "8")
    train_seconds = run("train", "3d_fullres", "fold0", "-w", workspace, "--time-budget", budget)
    predict_seconds = run("ensemble-predict", "-w", workspace)
    scores = workspace / "test_scores.json"
    run("evaluate", "-r", dataset / "labelsTs", "-p", workspace / "predictions", "-o", scores)
    results = workspace / "results" / "3d_fullres"
    record = json.loads((results / "run.json").read_text())
    last_epoch = (results / "fold0" / "log.csv").read_text().strip().splitlines()[-1]
    held_out = json.loads((results / "fold0" / "validation" / "scores.json").read_text())
    return Row(
        budget=budget,
        train_seconds=train_seconds,
        predict_seconds=predict_seconds,
        iterations=int(last_epoch.split(",")[1]),
        features=record["configuration"]["network"]["features"][0],
        held_out_dice=held_out["mean"]["dice"],
        test_dice=json.loads(scores.read_text())["mean"]["dice"],
    )


def run(*words: str | Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", PROGRAM, *map(str, words)], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
