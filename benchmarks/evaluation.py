"""How fast fifty labels are scored, autoseg against nnU-Net: same files, same number of processes, in turns.

    python benchmarks/evaluation.py --peer /path/to/python/with/nnunetv2 [--cases 4] [--rounds 3] [--workers 2]

The volumes are random label maps, smooth as organs are. nnU-Net computes overlap only, so autoseg is measured with
overlap only (the figure to compare) and with surface distances as well. Scores are compared to 1e-9 first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from autoseg.evaluation.folder import evaluate_folder
from autoseg.evaluation.measures import Measuring, parse_metrics
from autoseg.evaluation.report import Evaluation
from autoseg.geometry import Geometry
from autoseg.image import Segmentation, write_segmentation

_PEER = """
import sys, time
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
if __name__ == "__main__":
    reference, prediction, output, labels, workers = sys.argv[1:6]
    started = time.perf_counter()
    compute_metrics_on_folder(reference, prediction, output, SimpleITKIO(), ".nii.gz",
                              list(range(1, int(labels) + 1)), None, int(workers))
    print("SECONDS", time.perf_counter() - started)
"""


def make_cases(root: Path, *, cases: int, labels: int, shape: tuple[int, int, int]) -> tuple[Path, Path]:
    """Label maps, and predictions that differ in a tenth of the blocks."""
    rng = np.random.default_rng(0)
    coarse = tuple(n // 8 for n in shape)
    for case in range(cases):
        blocks = rng.integers(0, labels + 1, coarse)
        changed = np.where(rng.random(coarse) < 0.1, rng.integers(0, labels + 1, coarse), blocks)
        for name, grid in (("labels", blocks), ("predictions", changed)):
            array = zoom(grid, 8, order=0).astype(np.uint8)
            geometry = Geometry(shape=array.shape, spacing=(1.5, 0.8, 0.8))
            write_segmentation(root / name / f"case{case}.nii.gz", Segmentation(array=array, geometry=geometry))
    names = {"background": 0} | {f"label{n}": n for n in range(1, labels + 1)}
    (root / "dataset.json").write_text(json.dumps({"labels": names, "file_ending": ".nii.gz"}))
    return root / "labels", root / "predictions"


def run_own(folders: tuple[Path, Path], metrics: str, workers: int) -> tuple[float, Evaluation]:
    """Seconds and scores."""
    started = time.perf_counter()
    evaluation = evaluate_folder(*folders, measuring=Measuring(metrics=parse_metrics(metrics)), workers=workers)
    return time.perf_counter() - started, evaluation


def run_peer(python: str, folders: tuple[Path, Path], labels: int, workers: int, output: Path) -> float:
    """Seconds of nnU-Net's own function, imports not counted."""
    script = output.with_suffix(".py")
    script.write_text(_PEER)
    words = [python, str(script), *map(str, folders), str(output), str(labels), str(workers)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split("SECONDS")[1])


def compare(evaluation: Evaluation, summary: Path) -> float:
    """Largest difference of a Dice value."""
    theirs = json.loads(summary.read_text())
    mine = {(row.case, str(row.values[0])): row.dice for row in evaluation.cases}
    worst = 0.0
    for case in theirs["metric_per_case"]:
        name = Path(case["reference_file"]).name.removesuffix(".nii.gz")
        for key, metrics in case["metrics"].items():
            dice = mine[name, key]
            if dice is not None:
                worst = max(worst, abs(dice - metrics["Dice"]))
    return worst


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="Python with nnunetv2; without it only autoseg is measured")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 256, 256))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        folders = make_cases(root, cases=given.cases, labels=given.labels, shape=tuple(given.shape))
        seconds: dict[str, list[float]] = {"autoseg, overlap": [], "autoseg, overlap and surfaces": [], "nnU-Net": []}
        for _ in range(given.rounds):
            if given.peer:
                summary = root / "summary.json"
                seconds["nnU-Net"].append(run_peer(given.peer, folders, given.labels, given.workers, summary))
            spent, evaluation = run_own(folders, "dice,iou", given.workers)
            seconds["autoseg, overlap"].append(spent)
            if given.peer:
                print(f"largest difference of a Dice value: {compare(evaluation, summary):.1e}", file=sys.stderr)
            spent, _ = run_own(folders, "dice,iou,hd95,asd,nsd@1mm", given.workers)
            seconds["autoseg, overlap and surfaces"].append(spent)
        print(
            f"{given.cases} cases of {'x'.join(map(str, given.shape))}, {given.labels} labels, {given.workers} workers"
        )
        for name, values in seconds.items():
            if values:
                print(f"{name}: {statistics.median(values):.2f} s (median of {len(values)})")
        if given.peer:
            ratio = [a / b for a, b in zip(seconds["nnU-Net"], seconds["autoseg, overlap"], strict=True)]
            print(f"nnU-Net takes {statistics.median(ratio):.1f} times as long")


if __name__ == "__main__":
    main()
