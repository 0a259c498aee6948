"""How fast fifty labels are scored, autoseg against nnU-Net: same files, in turns.

    python benchmarks/evaluation.py --peer /path/to/python/with/nnunetv2 [--cases 4] [--rounds 3] [--workers 2]

Measured twice: in one process each, imports not counted; and the whole commands, autoseg evaluate as it comes against
nnUNetv2_evaluate_simple with ``--workers`` processes, with the largest memory of a process and of its children.

The volumes are random label maps, smooth as organs are. nnU-Net computes overlap only, so autoseg is measured with
overlap only (the figure to compare) and with surface distances as well. The largest difference of a Dice value is
printed too.
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

PEER = "nnU-Net"
METRICS = {"autoseg, overlap": "dice,iou", "autoseg, overlap and surfaces": "dice,iou,hd95,asd,nsd@1mm"}
_PEER = """
import sys, time
from pathlib import Path
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
reference, prediction, labels = sys.argv[1:4]
started = time.perf_counter()
for path in sorted(Path(reference).glob("*.nii.gz")):
    compute_metrics(str(path), str(Path(prediction) / path.name), SimpleITKIO(), list(range(1, int(labels) + 1)), None)
print("SECONDS", time.perf_counter() - started)
"""
_MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("SECONDS", time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
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


def run_own(folders: tuple[Path, Path], metrics: str) -> tuple[float, Evaluation]:
    """Seconds and scores, in this process."""
    started = time.perf_counter()
    evaluation = evaluate_folder(*folders, measuring=Measuring(metrics=parse_metrics(metrics)))
    return time.perf_counter() - started, evaluation


def run_peer(python: str, folders: tuple[Path, Path], labels: int) -> float:
    """Seconds of nnU-Net's own function in one process, imports not counted."""
    words = [python, "-c", _PEER, *map(str, folders), str(labels)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split("SECONDS")[1])


def run_command(*words: str | Path) -> tuple[float, float]:
    """Seconds of a whole command, and MiB of the largest of its processes."""
    wanted = [sys.executable, "-c", _MEASURE, *map(str, words)]
    done = subprocess.run(wanted, capture_output=True, text=True, check=True)
    seconds, memory = done.stdout.split("SECONDS")[1].split()
    return float(seconds), float(memory)


def own_command(folders: tuple[Path, Path], metrics: str) -> tuple[str | Path, ...]:
    """The command of autoseg that belongs to this Python."""
    own = Path(sys.executable).with_name("autoseg")
    return own, "evaluate", "-r", folders[0], "-p", folders[1], "-m", metrics


def peer_command(
    python: str, folders: tuple[Path, Path], labels: int, workers: int, output: Path
) -> tuple[str | Path, ...]:
    """The command of nnU-Net beside its Python."""
    values = map(str, range(1, labels + 1))
    command = Path(python).with_name("nnUNetv2_evaluate_simple")
    return command, *folders, "-l", *values, "-o", output, "-np", str(workers)


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
    parser.add_argument("--workers", type=int, default=2, help="processes of nnU-Net's command")
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 256, 256))
    parser.add_argument("--overlap-only", action="store_true", help="leave out surface distances, which take longest")
    given = parser.parse_args()
    chosen = {name: metrics for name, metrics in METRICS.items() if metrics == "dice,iou" or not given.overlap_only}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        folders = make_cases(root, cases=given.cases, labels=given.labels, shape=tuple(given.shape))
        summary = root / "summary.json"
        inside: dict[str, list[float]] = {}
        commands: dict[str, list[tuple[float, float]]] = {}
        differences = []
        for _ in range(given.rounds):
            if given.peer:
                words = peer_command(given.peer, folders, given.labels, given.workers, summary)
                inside.setdefault(PEER, []).append(run_peer(given.peer, folders, given.labels))
                commands.setdefault(PEER, []).append(run_command(*words))
            for name, metrics in chosen.items():
                spent, evaluation = run_own(folders, metrics)
                inside.setdefault(name, []).append(spent)
                commands.setdefault(name, []).append(run_command(*own_command(folders, metrics)))
                if given.peer:
                    differences.append(compare(evaluation, summary))
        print(f"{given.cases} cases of {'x'.join(map(str, given.shape))}, {given.labels} labels")
        show("in one process", {name: [(seconds, 0.0) for seconds in values] for name, values in inside.items()})
        show(f"whole commands, nnU-Net with {given.workers} processes", commands)
        if differences:
            print(f"largest difference of a Dice value: {max(differences):.1e}")


def show(title: str, measured: dict[str, list[tuple[float, float]]]) -> None:
    """Medians, and how many times as long the other takes in the same round."""
    print(title)
    for name, values in measured.items():
        line = f"  {name}: {statistics.median(seconds for seconds, _ in values):.2f} s"
        if memory := max(memory for _, memory in values):
            line += f", largest process {memory:.0f} MiB"
        if PEER in measured and name != PEER:
            ratios = [peer / own for (peer, _), (own, _) in zip(measured[PEER], values, strict=True)]
            line += (
                f"; nnU-Net takes {statistics.median(ratios):.1f} times as long ({min(ratios):.1f}-{max(ratios):.1f})"
            )
        print(line)


if __name__ == "__main__":
    main()
