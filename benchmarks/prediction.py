"""Prediction with nnU-Net's own model: nnU-Net and autoseg in turn, whole commands from a cold start.

    python benchmarks/prediction.py small ct --peer-python PEER/bin/python --dataset hippocampus --rounds 3

PEER is an environment with nnunetv2. "small" predicts the 20 test images of DATASET (nnU-Net's raw format) with a
3d_fullres U-Net of 32 to 256 features, mirrored along three axes. "ct" predicts one synthetic CT of 200x512x512 voxels
with a U-Net of --ct-features features and patches of 48x96x96, without mirroring. Both networks are trained by autoseg
for a few iterations (enough for outputs that are no noise; what they are worth does not matter here), written as
nnU-Net's model folder and read from there by both programs. Each round runs nnU-Net with two processes for each of its
two kinds of workers, then autoseg, with OpenVINO too where it is installed; segmentations are compared voxel by voxel,
and memory is the highest sum over the process tree. ``--steps`` also takes the time of every step, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from preprocessing import Measured, make_ct, measure

from autoseg.codec import write_json
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, read_segmentation, write_image, write_segmentation
from autoseg.workspace import Workspace

AUTOSEG = [sys.executable, "-c", "from autoseg.cli.main import main; main()"]
CT_PATCH = (48, 96, 96)
CT_SPACING = (1.5, 0.8, 0.8)
CT_SHAPE = (200, 512, 512)
CT_PREDICTED_SPACING = (1.25, 0.7, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What both programs predict.

    Args:
        name: For the table.
        model: nnU-Net's model folder.
        workspace: The same model, imported.
        images: Folder of images.
        mirroring: Whether windows are mirrored.
    """

    name: str
    model: Path
    workspace: Path
    images: Path
    mirroring: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=("small", "ct"))
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, help="of the small cases")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=40, help="that the networks are trained for")
    parser.add_argument("--ct-features", type=int, default=8)
    parser.add_argument("--steps", action="store_true", help="also the time of every step")
    parser.add_argument("--log", type=Path, help="also append the results to this file, as they come")
    parser.add_argument("--scratch", type=Path, default=Path("benchmark_scratch/prediction"))
    arguments = parser.parse_args()
    scratch, peer_python = arguments.scratch.resolve(), arguments.peer_python.absolute()
    for name in arguments.tasks:
        if name == "small":
            if arguments.dataset is None:
                parser.error("small needs --dataset")
            task = small_task(arguments.dataset.resolve(), scratch / name, arguments.iterations)
        else:
            task = ct_task(scratch / name, max(4, arguments.iterations // 4), arguments.ct_features)
        for line in compare(task, peer_python, scratch / f"{name}_out", arguments.rounds, steps=arguments.steps):
            print(line, flush=True)
            if arguments.log is not None:
                with arguments.log.open("a", encoding="utf-8") as log:
                    log.write(f"{line}\n")


def compare(task: Task, peer_python: Path, scratch: Path, rounds: int, *, steps: bool) -> Iterator[str]:
    """Alternate the programs; what each round gave, then the medians of the ratios."""
    own: dict[str, Callable[[Path], Measured]] = {"autoseg": lambda out: run_autoseg(task, out)}
    if find_spec("openvino") is not None:
        own["autoseg with OpenVINO"] = lambda out: run_autoseg(task, out, "--compile", "openvino")
    faster: dict[str, list[float]] = {name: [] for name in own}
    smaller: dict[str, list[float]] = {name: [] for name in own}
    for number in range(rounds):
        shutil.rmtree(scratch, ignore_errors=True)
        peer = run_peer(task, peer_python, scratch / "peer")
        words = [f"nnU-Net {peer.seconds:.1f} s, {peer.peak_bytes / 2**20:.0f} MB"]
        for name, run in own.items():
            found = run(scratch / name)
            faster[name].append(peer.seconds / found.seconds)
            smaller[name].append(found.peak_bytes / peer.peak_bytes)
            words.append(f"{name} {found.seconds:.1f} s, {found.peak_bytes / 2**20:.0f} MB")
        yield f"{task.name} round {number + 1}: {'; '.join(words)}"
    for name in own:
        yield (
            f"{task.name}: {name} {statistics.median(faster[name]):.2f} times as fast ({min(faster[name]):.2f} to "
            f"{max(faster[name]):.2f}), {statistics.median(smaller[name]):.2f} of the memory; "
            f"{differences(scratch / 'peer', scratch / name)}"
        )
    if steps:
        yield from step_by_step(task, peer_python, list(own))


def differences(expected: Path, found: Path) -> str:
    """How many voxels of all segmentations differ; a missing one is an error."""
    voxels = differing = cases = foreground = 0
    for path in sorted(expected.glob("*.nii.gz")):
        theirs, ours = read_segmentation(path).array, read_segmentation(found / path.name).array
        voxels, differing, cases = voxels + theirs.size, differing + int((theirs != ours).sum()), cases + 1
        foreground += int((theirs > 0).sum())
    share = 100 * differing / voxels
    return f"{differing} of {voxels} voxels of {cases} case(s) differ ({share:.4f} %), {foreground} are foreground"


def run_peer(task: Task, python: Path, output: Path) -> Measured:
    program = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as run; run()"
    words = ["-i", str(task.images), "-o", str(output), "-m", str(task.model), "-f", "0", "-npp", "2", "-nps", "2"]
    words += ["-device", "cpu", "--disable_progress_bar", *([] if task.mirroring else ["--disable_tta"])]
    return measure([str(python), "-c", program, *words], peer_environment(output))


def peer_environment(folder: Path) -> dict[str, str]:
    return {**os.environ, **{f"nnUNet_{part}": str(folder) for part in ("raw", "preprocessed", "results")}}


def run_autoseg(task: Task, output: Path, *more: str) -> Measured:
    words = ["ensemble-predict", "-w", str(task.workspace), "-i", str(task.images), "-o", str(output), *more]
    words += ["--device", "cpu", "--workers", "2", *([] if task.mirroring else ["--no-mirroring"])]
    return measure([*AUTOSEG, *words], dict(os.environ))


def step_by_step(task: Task, peer_python: Path, own: Sequence[str]) -> Iterator[str]:
    """Seconds of every step of all cases, nothing overlapping, in one process each."""
    here = Path(__file__).parent
    mirroring = [] if task.mirroring else ["--no-mirroring"]
    programs = {"nnU-Net": [str(peer_python), str(here / "peer_prediction.py"), str(task.model)]}
    for name in own:
        compiler = ["--compile", "openvino"] if "OpenVINO" in name else []
        programs[name] = [sys.executable, str(here / "prediction_steps.py"), str(task.workspace), *compiler]
    for name, words in programs.items():
        answer = subprocess.run(
            [*words, str(task.images), *mirroring],
            env=peer_environment(task.images),
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise SystemExit(answer.stderr[-3000:])
        seconds: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
        yield f"{task.name} steps of {name}: {', '.join(f'{step} {taken:.1f} s' for step, taken in seconds.items())}"


def small_task(dataset: Path, scratch: Path, iterations: int) -> Task:
    """Twenty test MRIs and a network as wide as nnU-Net plans it."""
    task = Task(
        name="20 small cases",
        model=scratch / "model",
        workspace=scratch / "imported",
        images=dataset / "imagesTs",
        mirroring=True,
    )
    if not task.workspace.is_dir():
        shutil.rmtree(scratch, ignore_errors=True)
        make_model(dataset, scratch, task, iterations, features=32)
    return task


def ct_task(scratch: Path, iterations: int, features: int) -> Task:
    """One CT of common size; the network is trained on four small ones of the same kind."""
    task = Task(
        name="one CT",
        model=scratch / "model",
        workspace=scratch / "imported",
        images=scratch / "images",
        mirroring=False,
    )
    if not task.workspace.is_dir():
        shutil.rmtree(scratch, ignore_errors=True)
        rng = np.random.default_rng(3)
        dataset = scratch / "dataset"
        for number in range(4):
            write_ct(dataset, f"ct{number}", shape=(64, 144, 144), spacing=CT_SPACING, rng=rng)
        write_ct(scratch / "large", "ct", shape=CT_SHAPE, spacing=CT_PREDICTED_SPACING, rng=rng)
        (scratch / "large" / "imagesTr").rename(task.images)
        table = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **{f"organ{i}": i for i in range(1, 6)}}}
        (dataset / "dataset.json").write_text(json.dumps({**table, "numTraining": 4, "file_ending": ".nii.gz"}))
        make_model(dataset, scratch, task, iterations, features=features, patch=CT_PATCH)
    return task


def write_ct(
    folder: Path, name: str, *, shape: tuple[int, int, int], spacing: tuple[float, ...], rng: np.random.Generator
) -> None:
    geometry = Geometry(shape=shape, spacing=spacing)
    image, segmentation = make_ct(shape, rng)
    write_image(folder / "imagesTr" / f"{name}_0000.nii.gz", Image(array=image[None], geometry=geometry))
    labels = Segmentation(array=segmentation, geometry=geometry)
    write_segmentation(folder / "labelsTr" / f"{name}.nii.gz", labels)


def make_model(
    dataset: Path, scratch: Path, task: Task, iterations: int, *, features: int, patch: tuple[int, ...] | None = None
) -> None:
    """Train a little, write nnU-Net's model folder, import it again."""
    space = Workspace(scratch / "workspace")
    autoseg("plan-and-preprocess", dataset, "-w", space.root, "--gpu-memory", 8, "--configurations", "3d_fullres")
    plan = space.load_plan()
    planned = plan.configuration("3d_fullres")
    wide = tuple(features * width // planned.network.features[0] for width in planned.network.features)
    network = replace(planned.network, features=wide)
    changed = replace(planned, network=network, patch_size=patch or planned.patch_size)
    others = tuple(c for c in plan.configurations if c.name != changed.name)
    write_json(replace(plan, configurations=(*others, changed)), space.plan_path)
    words = [
        "--iterations",
        iterations,
        "--set",
        "batch_size=2",
        "--set",
        "optimizer=adamw",
        "--set",
        "validation_iterations=1",
    ]
    autoseg("train", "3d_fullres", "fold0", "-w", space.root, *words, "--device", "cpu")
    autoseg("interop", "export-nnunet-model", "-w", space.root, "-o", scratch / "exported")
    (exported,) = (scratch / "exported").glob("*/*")
    exported.rename(task.model)
    autoseg("interop", "import-nnunet", task.model, "-w", task.workspace)


def autoseg(*words: object) -> None:
    subprocess.run([*AUTOSEG, *map(str, words), "--quiet"], check=True)


if __name__ == "__main__":
    main()
