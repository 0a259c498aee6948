"""Fingerprint, plan and preprocessing of a whole dataset: autoseg and nnU-Net in turn, time and memory as ratios.

    python benchmarks/preprocessing.py --peer-python PEER/bin/python hippocampus=DATASET ct_isotropic ct_anisotropic

PEER is an environment with nnunetv2. A dataset is NAME=FOLDER in nnU-Net's raw format, or the name of a synthetic CT
set that is made here: 6 volumes of about 512 x 512 x 200 voxels, spacings drawn per case. Both programs get two worker
processes; their outputs are compared voxel by voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
from scipy import ndimage

from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation
from autoseg.preprocessing.store import CaseStore

WORKERS = 2
DATASET_ID = 701


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one program."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Largest difference of the images and number of differing label voxels over all cases and configurations."""

    cases: int
    image: float
    label_voxels: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, help="only the first so many training cases")
    parser.add_argument("--log", type=Path, help="also append the results to this file, as they come")
    parser.add_argument("--scratch", type=Path, default=Path("benchmark_scratch"))
    arguments = parser.parse_args()
    for named in arguments.datasets:
        name, _, folder = named.partition("=")
        dataset = Path(folder) if folder else make_ct_set(arguments.scratch / "raw_sets", name)
        if arguments.cases is not None:
            dataset = first_cases(dataset, arguments.cases, arguments.scratch.resolve() / f"{name}_{arguments.cases}")
        peer_python, scratch = arguments.peer_python.absolute(), arguments.scratch.resolve() / name
        for line in compare(name, dataset, peer_python, scratch, arguments.rounds):
            print(line, flush=True)
            if arguments.log is not None:
                with arguments.log.open("a", encoding="utf-8") as log:
                    log.write(f"{line}\n")


def first_cases(dataset: Path, number: int, folder: Path) -> Path:
    """A dataset of the first cases; their files are linked, not copied."""
    shutil.rmtree(folder, ignore_errors=True)
    table = json.loads((dataset / "dataset.json").read_text())
    for label in sorted((dataset / "labelsTr").glob(f"*{table['file_ending']}"))[:number]:
        case = label.name.removesuffix(table["file_ending"])
        for path in (label, *(dataset / "imagesTr").glob(f"{case}_*{table['file_ending']}")):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / path.parent.name / path.name).symlink_to(path.resolve())
    (folder / "dataset.json").write_text(json.dumps({**table, "numTraining": number}))
    return folder


def compare(name: str, dataset: Path, peer_python: Path, scratch: Path, rounds: int) -> Iterator[str]:
    """Alternate both programs; what each round gave, then the medians of the ratios."""
    environment = prepare_peer(dataset, scratch)
    seconds, memory = [], []
    for number in range(rounds):
        peer = run_peer(peer_python, environment)
        own = run_autoseg(dataset, scratch / "workspace")
        seconds.append(peer.seconds / own.seconds)
        memory.append(own.peak_bytes / peer.peak_bytes)
        yield (
            f"{name} round {number + 1}: nnU-Net {peer.seconds:.1f} s, {peer.peak_bytes / 2**20:.0f} MB; "
            f"autoseg {own.seconds:.1f} s, {own.peak_bytes / 2**20:.0f} MB"
        )
    agreement = compare_arrays(scratch / "workspace", Path(environment["nnUNet_preprocessed"]))
    yield (
        f"{name}: {statistics.median(seconds):.1f} times faster, {statistics.median(memory):.2f} of the memory; "
        f"{agreement.cases} preprocessed cases, images differ by at most {agreement.image:.1e}, "
        f"{agreement.label_voxels} label voxels differ"
    )


def prepare_peer(dataset: Path, scratch: Path) -> dict[str, str]:
    """Give nnU-Net the folders it wants; the raw data is linked, not copied."""
    shutil.rmtree(scratch, ignore_errors=True)
    raw = scratch / "raw" / f"Dataset{DATASET_ID}_Benchmark"
    raw.mkdir(parents=True)
    for part in ("imagesTr", "labelsTr"):
        (raw / part).symlink_to((dataset / part).resolve())
    shutil.copy(dataset / "dataset.json", raw)
    folders = {f"nnUNet_{part}": str(scratch / part) for part in ("raw", "preprocessed", "results")}
    return {**os.environ, **folders}


def run_peer(python: Path, environment: dict[str, str]) -> Measured:
    shutil.rmtree(environment["nnUNet_preprocessed"], ignore_errors=True)
    program = (
        "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as run"
    )
    words = ["-d", str(DATASET_ID), "-npfp", str(WORKERS), "-np", str(WORKERS), "-c", "2d", "3d_fullres", "3d_lowres"]
    return measure([str(python), "-c", f"{program}; run()", *words, "--clean"], environment)


def run_autoseg(dataset: Path, workspace: Path) -> Measured:
    shutil.rmtree(workspace, ignore_errors=True)
    program = "from autoseg.cli.main import main; main()"
    words = ["plan-and-preprocess", str(dataset), "-w", str(workspace), "--gpu-memory", "8", "--workers", str(WORKERS)]
    return measure([sys.executable, "-c", program, *words], dict(os.environ))


def measure(words: list[str], environment: dict[str, str]) -> Measured:
    """Run a program; memory is the highest sum over its process tree, shared pages counted once."""
    started = time.perf_counter()
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        peak, done = [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                peak[0] = max(peak[0], sum(proportional_bytes(pid) for pid in process_tree(child.pid)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        text, _ = child.communicate()
        done.set()
        watcher.join()
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(words)} failed:\n{text[-3000:]}")
    return Measured(seconds=time.perf_counter() - started, peak_bytes=peak[0])


def process_tree(root: int) -> Iterator[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in task.read_text().split()]
            except OSError:  # it ended meanwhile
                continue


def proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def compare_arrays(workspace: Path, peer: Path) -> Agreement:
    """Compare every preprocessed case; a missing one is an error."""
    plans = json.loads((peer / f"Dataset{DATASET_ID}_Benchmark" / "nnUNetPlans.json").read_text())
    cases, image, label_voxels = 0, 0.0, 0
    for own in sorted(workspace.glob("preprocessed/*")):
        folder = peer / f"Dataset{DATASET_ID}_Benchmark" / plans["configurations"][own.name]["data_identifier"]
        theirs = [path for path in sorted(folder.glob("*.b2nd")) if not path.name.endswith("_seg.b2nd")]
        for path in theirs:
            case = path.name.removesuffix(".b2nd")
            expected = blosc2.open(str(path), mode="r")[:]
            stored = CaseStore(own).open(case).load()
            assert stored.segmentation is not None
            image = max(image, float(np.abs(stored.image.reshape(expected.shape) - expected).max()))
            labels = blosc2.open(str(folder / f"{case}_seg.b2nd"), mode="r")[:]
            label_voxels += int((stored.segmentation.reshape(labels.shape) != labels).sum())
            cases += 1
    return Agreement(cases=cases, image=image, label_voxels=label_voxels)


def make_ct_set(folder: Path, name: str) -> Path:
    """Six CT-like volumes; "ct_isotropic" has slices of 1.0-1.5 mm, "ct_anisotropic" of 3.0-5.0 mm."""
    ranges = {"ct_isotropic": (1.0, 1.5), "ct_anisotropic": (3.0, 5.0)}
    if name not in ranges:
        raise SystemExit(f"{name} is not a synthetic set; choose {' or '.join(ranges)}, or give NAME=FOLDER")
    root = folder / name
    if (root / "dataset.json").is_file():
        return root
    rng = np.random.default_rng(11)
    for number in range(6):
        shape = (int(rng.integers(190, 211)), 512, 512)
        in_plane = float(rng.uniform(0.6, 0.98))
        geometry = Geometry(shape=shape, spacing=(float(rng.uniform(*ranges[name])), in_plane, in_plane))
        image, segmentation = make_ct(shape, rng)
        write_image(root / "imagesTr" / f"ct{number}_0000.nii.gz", Image(array=image[None], geometry=geometry))
        labels = Segmentation(array=segmentation, geometry=geometry)
        write_segmentation(root / "labelsTr" / f"ct{number}.nii.gz", labels)
    table = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **{f"organ{i}": i for i in range(1, 6)}}}
    (root / "dataset.json").write_text(json.dumps({**table, "numTraining": 6, "file_ending": ".nii.gz"}))
    return root


def make_ct(shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A noisy body of -100..300 HU in air with five smooth organs."""
    coarse = tuple(max(4, n // 16) for n in shape)
    texture = ndimage.zoom(
        rng.normal(size=coarse).astype(np.float32), [n / c for n, c in zip(shape, coarse, strict=True)], order=1
    )
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    distance = np.sqrt(axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2) * np.ones(shape, np.float32)
    image = np.where(distance < 0.8, 40 + 30 * texture, -1000).astype(np.float32)
    segmentation = np.zeros(shape, np.uint8)
    for label in range(1, 6):
        center = rng.uniform(-0.4, 0.4, size=3)
        radius = rng.uniform(0.08, 0.25)
        squares = np.ix_(*[(axis - c) ** 2 for axis, c in zip(axes, center, strict=True)])
        organ = squares[0] + squares[1] + squares[2]
        inside = organ + 0.01 * texture < radius**2
        segmentation[inside], image[inside] = label, 60 + 30 * label
    image += rng.normal(0, 15, shape).astype(np.float32)
    return np.rint(image).astype(np.int16), segmentation


if __name__ == "__main__":
    main()
