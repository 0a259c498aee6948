"""A tiny dataset, the three commands, and what their results must be however often they were killed."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from crashing import Run, Server

from autoseg.codec import write_json
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, read_segmentation, write_image, write_segmentation
from autoseg.inference.model import read_checkpoint
from autoseg.workspace import Workspace

# What may differ between two runs: wall time, and digests of files' times or of files that hold times.
_VOLATILE = {
    "sha256",
    "seconds",
    "models_digest",
    "made_from",
    "waiting",
    "scores_digest",
    "kept",
    "predicted",
    "times",
    "created",
}
_DIGESTS_OF_FILES = {"files", "file_digests"}
SETTINGS = ("--epochs", "2", "--set", "iterations_per_epoch=2", "--set", "validation_iterations=1", "--seed", "3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the three."""

    name: str
    arguments: tuple[str | Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Folders of an experiment; every run works at the same path, so that recorded paths agree."""

    root: Path

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    def steps(self, *, workers: int = 0) -> tuple[Step, ...]:
        place = ("-w", self.workspace, "--workers", str(workers))
        return (
            Step(name="plan-and-preprocess", arguments=(self.dataset, *place, "--gpu-memory", "0.1")),
            Step(name="train", arguments=("3d_fullres", "fold0", *place, *SETTINGS)),
            Step(name="ensemble-predict", arguments=place),
        )

    def state(self, number: int) -> Path:
        """Copy of the workspace as it is before a step."""
        return self.root / f"before_{number}"

    def result(self, number: int) -> Path:
        """Copy of the workspace after a step."""
        return self.root / f"after_{number}"

    def put_back(self, folder: Path) -> None:
        """Make the workspace what a copy of it is; nothing, where there is no such copy."""
        shutil.rmtree(self.workspace, ignore_errors=True)
        if folder.is_dir():
            shutil.copytree(folder, self.workspace)


def prepare(root: Path, server: Server) -> tuple[Scenario, list[Run]]:
    """Make the dataset and run the three commands undisturbed, keeping the workspace before and after each."""
    scenario = Scenario(root=root)
    write_dataset(scenario.dataset)
    runs = []
    for number, step in enumerate(scenario.steps()):
        if scenario.workspace.is_dir():
            shutil.copytree(scenario.workspace, scenario.state(number))
        run = server.run(step.name, *step.arguments)
        if run.code != 0:
            raise RuntimeError(f"{step.name} ended with {run.code}:\n{run.text}")
        shutil.copytree(scenario.workspace, scenario.result(number))
        if number == 0:
            _narrow(scenario.workspace)
        runs.append(run)
    return scenario, runs


def write_dataset(folder: Path) -> None:
    """Four labelled cases and two test cases of 10 x 16 x 14 voxels: a ball in noise."""
    rng = np.random.default_rng(1)
    for number in range(6):
        part, shape = ("Tr" if number < 4 else "Ts"), (10, 16, 14)
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
        center = np.asarray(shape) / 2 + rng.uniform(-1, 1, 3)
        inside = (((grid - center[:, None, None, None]) ** 2).sum(axis=0) < 16).astype(np.uint8)
        geometry = Geometry(shape=shape, spacing=(2.0 if number % 2 else 1.6, 1.0, 1.0), origin=(1.0, 2.0, 3.0))
        array = (100 + 50 * inside + rng.normal(0, 10, shape)).astype(np.float32)
        write_image(folder / f"images{part}" / f"c{number}_0000.nii.gz", Image(array=array[None], geometry=geometry))
        if part == "Tr":
            write_segmentation(folder / "labelsTr" / f"c{number}.nii.gz", Segmentation(array=inside, geometry=geometry))
    folds = [{"train": ["c0", "c1"], "val": ["c2", "c3"]}, {"train": ["c2", "c3"], "val": ["c0", "c1"]}]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    table = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}}
    (folder / "dataset.json").write_text(json.dumps({**table, "numTraining": 4, "file_ending": ".nii.gz"}))


def _narrow(folder: Path) -> None:
    """Fewer features, as a user may write into plan.json: what is tested is the same, in a third of the time."""
    workspace = Workspace(folder)
    plan = workspace.load_plan()
    narrow = tuple(
        replace(c, network=replace(c.network, features=(4, 8, 8, 8, 8, 8)[: c.network.num_stages]))
        for c in plan.configurations
    )
    write_json(replace(plan, configurations=narrow), workspace.plan_path)


def differences(expected: Path, found: Path) -> list[str]:
    """What differs between two workspaces besides wall times, one line per file."""
    names = [{path.relative_to(root).as_posix() for path in _files(root)} for root in (expected, found)]
    problems = [f"{name} is missing" for name in sorted(names[0] - names[1])]
    problems += [f"{name} should not be there" for name in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        try:
            if not _equal(_content(expected / name), _content(found / name)):
                problems.append(f"{name} differs")
        except Exception as error:  # noqa: BLE001 - whatever it is, the file is not what it should be
            problems.append(f"{name} cannot be read: {error}")
    return problems


def finished_units(folder: Path) -> dict[str, tuple[int, int]]:
    """Records of finished preprocessed and predicted cases -> identity of the file: what must not be done twice."""
    found = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if re.fullmatch(r"preprocessed/[^/]+/[^/.][^/]*\.json", name):
            record = True
        elif name.startswith("reports/"):
            continue  # of a selection, which is finished when ensemble.json stands
        elif re.fullmatch(r".+/\.autoseg/[^/.][^/]*\.json", name):
            record = bool(json.loads(path.read_text())["files"])
        else:
            continue
        if record:
            state = path.stat()
            found[name] = (state.st_ino, state.st_mtime_ns)
    return found


def steps_taken(folder: Path) -> int:
    """Optimizer steps in the newest checkpoint of the fold; 0 without one."""
    run = Workspace(folder).run("3d_fullres", 0)
    for path in (run.last, run.previous):
        if path.is_file():
            training = read_checkpoint(path).training
            assert training is not None
            return int(json.loads(training["state"])["step"])
    return 0


def _files(root: Path) -> Iterator[Path]:
    yield from (path for path in root.rglob("*") if path.is_file() and path.suffix != ".png")


def _content(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    if path.name == "forecast.json":  # nothing but measured times and what follows from them
        return sorted(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".json":
        return _stable(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".b2nd":
        return blosc2.open(str(path), mode="r")[:]
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".pt":
        checkpoint = read_checkpoint(path)
        training = checkpoint.training and {
            **checkpoint.training,
            "state": _stable(json.loads(checkpoint.training["state"])),
        }
        return [str(checkpoint.record), checkpoint.weights, training]
    if path.name.endswith(".nii.gz"):
        segmentation = read_segmentation(path)
        return [segmentation.array, str(segmentation.geometry)]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [{key: row[key] for key in row if key not in _VOLATILE} for row in csv.DictReader(file)]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:  # the card is prose with a date
            return {name: _stable_member(name, archive.read(name)) for name in archive.namelist() if name[-3:] != ".md"}
    return path.read_bytes()


def _stable_member(name: str, content: bytes) -> Any:  # noqa: ANN401 - JSON, or bytes
    return _stable(json.loads(content)) if name.endswith(".json") else content


def _stable(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        kept = {key: _stable(item) for key, item in value.items() if key not in _VOLATILE}
        return {key: sorted(item) if key in _DIGESTS_OF_FILES else item for key, item in kept.items()}
    return [_stable(item) for item in value] if isinstance(value, list) else value


def _equal(first: Any, second: Any) -> bool:  # noqa: ANN401 - nested arrays, tensors and plain values
    if isinstance(first, np.ndarray | torch.Tensor):
        if type(first) is not type(second) or first.dtype != second.dtype or first.shape != second.shape:
            return False
        return bool((first == second).all())
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(_equal(item, second[key]) for key, item in first.items())
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(_equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)
