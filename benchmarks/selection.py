"""Whether the score that a selection promises comes true, and whether predicted Dice follows true Dice.

    python benchmarks/selection.py HIPPOCAMPUS -w WORKSPACE [--time-budget 60s] [--device cpu]

Plans, trains 2d and 3d_fullres in all folds within the budget each, selects, predicts the test images, and compares
with their labels in labelsTs. What is there already is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np

from autoseg.codec import read_json
from autoseg.evaluation.folder import evaluate_folder
from autoseg.evaluation.report import mean_of_defined, with_spread
from autoseg.evaluation.trust import TrustModel
from autoseg.inference.ensemble import Ensemble
from autoseg.workspace import Workspace

CONFIGURATIONS = ("2d", "3d_fullres")


def run(*words: str | Path) -> None:
    """One command of autoseg."""
    subprocess.run(["autoseg", *map(str, words)], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--time-budget", default="60s", help="of each fold")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    place = ("-w", given.workspace)
    chosen = [word for name in CONFIGURATIONS for word in ("--configurations", name)]
    run("plan-and-preprocess", given.dataset, *place, "--gpu-memory", "8", *chosen)
    for name in CONFIGURATIONS:
        for fold in range(5):
            if not Workspace(given.workspace).run(name, fold).scores.is_file():
                run("train", name, f"fold{fold}", *place, "--time-budget", given.time_budget, "--device", given.device)
    run("select", *place)
    output = given.workspace / "predictions"
    run("ensemble-predict", *place, "-o", output, "--device", given.device)
    report(Workspace(given.workspace.resolve()), given.dataset / "labelsTs", output)


def report(workspace: Workspace, references: Path, output: Path) -> None:
    """Compare what was promised with what came."""
    ensemble = read_json(Ensemble, workspace.ensemble_path)
    trust = read_json(TrustModel, workspace.trust_path)
    evaluation = with_spread(evaluate_folder(references, output))
    true: dict[str, list[float | None]] = {}
    for row in evaluation.cases:
        true.setdefault(row.case, []).append(row.dice)
    predicted = {case: json.loads((output / "quality" / f"{case}.json").read_text()) for case in true}
    pairs = [(quality["predicted_dice"], mean_of_defined(true[case])) for case, quality in predicted.items()]
    held = [quality["interval"][0] <= dice <= quality["interval"][1]
            for quality, (_, dice) in zip(predicted.values(), pairs, strict=True)]  # fmt: skip
    members = " + ".join(f"{m.weight:g} x {m.configuration}" for m in ensemble.members)
    temperatures = ", ".join(f"{m.configuration} {m.temperature:g}" for m in ensemble.members)
    print(f"chosen: {members}; temperatures: {temperatures}")
    for name, dice in ensemble.scores.items():
        print(f"  {name}: {dice:.4f} in cross-validation")
    print(f"promised (nested): {ensemble.promised:.4f}, 95 % interval {ensemble.promised_interval}")
    print(f"on {len(true)} test images: {evaluation.mean['dice']:.4f}, interval {evaluation.mean_intervals['dice']}")
    print(
        f"predicted and true Dice, cross-validation without the fold: r = {trust.correlation:.2f} ({trust.num_cases})"
    )
    r = np.corrcoef(np.asarray(pairs, dtype=float).T)[0, 1]
    error = np.mean([abs(a - b) for a, b in pairs])
    print(f"predicted and true Dice on the test images: r = {r:.2f}, mean error {error:.3f}")
    print(f"true Dice inside its interval: {np.mean(held):.0%}")
    flagged = {case: quality["flags"] for case, quality in predicted.items() if quality["flags"]}
    print(f"flagged: {flagged or 'none'}")


if __name__ == "__main__":
    main()
