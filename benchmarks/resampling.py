"""Time resampling against nnU-Net's own functions, one thread each, in alternation.

    python benchmarks/resampling.py --peer-python /path/to/python/with/nnunetv2

Without the option only this project's side runs. Prints seconds (the best of the repetitions), their ratio, the
largest difference of the results, and the memory that each side needed beyond its input, its result included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    spacing: tuple[float, ...]
    new_spacing: tuple[float, ...]
    order: int
    kind: str


ISOTROPIC = ((200, 256, 256), (160, 300, 300), (1.0, 1.0, 1.0), (1.25, 0.85, 0.85))
TASKS = {
    "image, order 3": Task(*ISOTROPIC, 3, "image"),
    "image, order 3, thick slices": Task(
        (60, 512, 512), (66, 400, 400), (5.0, 0.8, 0.8), (4.5, 1.02, 1.02), 3, "image"
    ),
    "logits, order 1": Task(*ISOTROPIC, 1, "image"),
    "5 labels, order 1": Task(*ISOTROPIC, 1, "labels"),
}


def make_input(task: Task) -> np.ndarray:
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=tuple(max(2, n // 16) for n in task.shape))
    steps = [np.linspace(0, n - 1, m).round().astype(int) for n, m in zip(coarse.shape, task.shape, strict=True)]
    blobs = coarse[np.ix_(*steps)]
    if task.kind == "labels":
        return np.digitize(blobs, (0, 0.7, 1.2, 1.7)).astype(np.int16)[None]
    return (blobs + generator.normal(size=task.shape)).astype(np.float32)[None]


def run_ours(task: Task, array: np.ndarray) -> np.ndarray:
    from autoseg.preprocessing.resampling import resample_image, resample_segmentation

    grid = {"spacing": task.spacing, "new_spacing": task.new_spacing, "order": task.order}
    if task.kind == "labels":
        return resample_segmentation(array[0], task.new_shape, **grid)[None]
    return resample_image(array, task.new_shape, **grid)


def run_peer(task: Task, array: np.ndarray) -> np.ndarray:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    return resample_data_or_seg_to_shape(
        array,
        task.new_shape,
        task.spacing,
        task.new_spacing,
        is_seg=task.kind == "labels",
        order=task.order,
        order_z=0,
        force_separate_z=None,
    )


def resident_megabytes(field: str) -> float:
    """Memory of this process as Linux counts it: "VmRSS" now, "VmHWM" at its peak. 0 on other systems."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)


def measure(side: str, name: str, folder: Path) -> None:
    """Run one side once in this process and print what it took as JSON."""
    task = TASKS[name]
    run = run_ours if side == "ours" else run_peer
    small = task._replace(shape=(8, 8, 8), new_shape=(9, 9, 9))
    run(small, make_input(small))  # imports are not what is measured
    array = np.load(folder / "input.npy")  # made elsewhere: making it takes more memory than resampling it
    before = resident_megabytes("VmRSS")
    start = time.perf_counter()
    resampled = run(task, array)
    seconds = time.perf_counter() - start
    megabytes = resident_megabytes("VmHWM") - before
    np.save(folder / f"{side}.npy", resampled)
    print(json.dumps({"seconds": seconds, "megabytes": megabytes}))


def start_side(python: str, side: str, name: str, folder: Path) -> dict[str, float]:
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [python, __file__, "--side", side, "--task", name, "--folder", str(folder)]
    output = subprocess.run(command, env={**os.environ, **limits}, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.strip().splitlines()[-1]))


def compare(peer_python: str | None, repetitions: int) -> None:
    sides = {"ours": sys.executable} | ({"peer": peer_python} if peer_python else {})
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        for name, task in TASKS.items():
            np.save(folder / "input.npy", make_input(task))
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for _ in range(repetitions):
                for side, python in sides.items():
                    runs[side].append(start_side(python, side, name, folder))
            best = {side: min(run["seconds"] for run in found) for side, found in runs.items()}
            memory = {side: found[0]["megabytes"] for side, found in runs.items()}
            line = f"{name:30s} ours {best['ours']:7.3f} s {memory['ours']:6.0f} MB"
            if "peer" in sides:
                ours, peer = (np.load(folder / f"{side}.npy") for side in sides)
                line += f" | peer {best['peer']:7.3f} s {memory['peer']:6.0f} MB"
                line += f" | ratio {best['peer'] / best['ours']:6.1f}"
                if task.kind == "labels":
                    line += f" | {np.count_nonzero(ours != peer)} voxels differ"
                else:
                    line += f" | largest difference {np.abs(ours - peer).max():.1e}"
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of an environment that holds nnunetv2")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options.side, options.task, options.folder)
    else:
        compare(options.peer_python, options.repetitions)


if __name__ == "__main__":
    main()
