"""Take a volume of 10^9 voxels through check, planning, preprocessing, training and prediction within some memory.

A dummy of 1000 x 1000 x 1000 voxels (8 bits, a BigTIFF stack) stands among four small cases, so that a fold can hold
out a small one; what is measured is the large one. Features of the planned network are cut to a few, because a
processor would take hours for the others; nothing that memory depends on for a large image changes with them.

Every command runs with RLIMIT_DATA at the limit, so no process of it can take more. The memory of all its processes
together is looked at ten times a second: their own (RssAnon), and what is resident with mapped files, which the system
may take back.

    python benchmarks/large_volume.py --scratch /data/scratch
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

SMALL = (160, 160, 160)
PROGRAM = Path(sys.executable).with_name("autoseg")


def main() -> None:
    """Make the dataset, run the commands under the limit, print a row of the table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(1000, 1000, 1000), metavar=("Z", "Y", "X"))
    parser.add_argument("--limit", type=float, default=4.0, help="GB")
    parser.add_argument("--features", type=int, default=4, help="of the network's first stage")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--scratch", type=Path, default=Path("benchmark_scratch"))
    parser.add_argument("--keep", action="store_true", help="keep the dataset and what was made of it")
    arguments = parser.parse_args()
    folder = (arguments.scratch / "large_volume").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run(folder, tuple(arguments.shape), arguments)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, shape: tuple[int, ...], arguments: argparse.Namespace) -> None:
    dataset, space, limit = folder / "Dataset001_Large", folder / "workspace", f"{arguments.limit:g}"
    make_dataset(dataset, shape)
    print("| command | seconds | own memory, all processes | with mapped files |\n|---|---|---|---|")
    most = int(arguments.limit * 1e9)
    watched("check", ["check", str(dataset)], most)
    chosen = ["--configurations", "3d_fullres", "--gpu-memory", "2"]
    watched(
        "plan-and-preprocess",
        ["plan-and-preprocess", str(dataset), "-w", str(space), "--max-memory", limit, *chosen],
        most,
    )
    narrow(space / "plan.json", arguments.features)
    fold = next(i for i, f in enumerate(json.loads((space / "splits.json").read_text())) if "large" not in f["val"])
    training = ["train", "3d_fullres", f"fold{fold}", "-w", str(space), "--iterations", str(arguments.iterations)]
    watched("train", [*training, "--device", "cpu"], most)
    predicting = ["ensemble-predict", "-i", str(dataset / "imagesTs"), "-o", str(folder / "out"), "-w", str(space)]
    how = ["--step", "1", "--no-mirroring", "--max-memory", limit, "--scratch", str(folder), "--device", "cpu"]
    watched("ensemble-predict", [*predicting, *how], most)
    with tifffile.TiffFile(folder / "out" / "large.tif") as stack:
        assert stack.series[0].shape == shape, stack.series[0].shape
    stored = sum(file.stat().st_size for file in (space / "preprocessed").rglob("large.*"))
    print(
        f"the large case takes {stored / 1e9:.2f} GB preprocessed; its segmentation has all {np.prod(shape):.3g} voxels"
    )


def make_dataset(folder: Path, shape: tuple[int, ...]) -> None:
    """Balls in noise: a thousand of them in 10^9 voxels."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    for number in range(4):
        _make_case(folder, f"small{number}", SMALL, seed=number)
    _make_case(folder, "large", shape, seed=9)
    os.link(folder / "imagesTr" / "large_0000.tif", folder / "imagesTs" / "large_0000.tif")
    declaration = {
        "channel_names": {"0": "microscopy"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 5,
        "file_ending": ".tif",
    }
    (folder / "dataset.json").write_text(json.dumps(declaration))


def _make_case(folder: Path, name: str, shape: tuple[int, ...], *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, label = (
        tifffile.memmap(path, shape=shape, dtype=np.uint8, bigtiff=True, photometric="minisblack")
        for path in (folder / "imagesTr" / f"{name}_0000.tif", folder / "labelsTr" / f"{name}.tif")
    )
    y, x = ((np.arange(n) % 100 - 50) ** 2 for n in shape[1:])
    for z in range(shape[0]):
        ball = (z % 100 - 50) ** 2 + y[:, None] + x < 20**2
        image[z] = rng.integers(20, 90, shape[1:], dtype=np.uint8) + 80 * ball
        label[z] = ball
    image.flush()
    label.flush()


def narrow(path: Path, features: int) -> None:
    """Give the planned networks few features."""
    plan = json.loads(path.read_text())
    for configuration in plan["configurations"]:
        network = configuration["network"]
        network["features"] = [min(features << stage, 32) for stage in range(len(network["features"]))]
    path.write_text(json.dumps(plan, indent=2))


def watched(name: str, arguments: list[str], limit: int) -> None:
    """Run a command under the limit and print what it took."""
    started = time.perf_counter()
    own = resident = 0
    with tempfile.TemporaryFile(mode="w+") as log:
        process = subprocess.Popen(
            [str(PROGRAM), *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        )
        while process.poll() is None:
            now = [_memory(pid) for pid in _tree(process.pid)]
            own, resident = max(own, sum(a for a, _ in now)), max(resident, sum(b for _, b in now))
            time.sleep(0.1)
        log.seek(0)
        said = log.read()
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"autoseg {' '.join(arguments)} failed:\n{said}")
    print(f"| `{name}` | {seconds:.0f} | {own / 1e9:.2f} GB | {resident / 1e9:.2f} GB |", flush=True)
    print("\n".join(f"    {line}" for line in said.splitlines() if "forecast" in line or "largest" in line), flush=True)


def _tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def _memory(pid: int) -> tuple[int, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    table = {line.split(":")[0]: line.split(":")[1].split() for line in lines if ":" in line}
    return tuple(int(table[key][0]) * 1024 if key in table else 0 for key in ("RssAnon", "VmRSS"))  # type: ignore[return-value]


if __name__ == "__main__":
    main()
