from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg.augmentation.patch import mirror_axes
from autoseg.codec import read_json
from autoseg.errors import ArtifactError
from autoseg.inference.model import read_checkpoint
from autoseg.labels import LabelScheme
from autoseg.pipeline.laterality import keep_sides_apart, sided_pairs
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.pipeline.train import train
from autoseg.plan import Plan
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

SIDED = LabelScheme.from_table({"background": 0, "Left Kidney": 1, "Right Kidney": 2}, where="test")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_kidney", "right_kidney"),
        ("kidney_left", "kidney_right"),
        ("Left Kidney", "Right Kidney"),
        ("KidneyLeft", "KidneyRight"),
        ("kidney-l", "kidney-r"),
        ("x_l_1", "x_r_1"),
        ("lh.hippocampus", "rh.hippocampus"),
        ("left", "right"),
    ],
)
def test_pairs_of_sides_are_found(left: str, right: str) -> None:
    assert sided_pairs([right, "liver", left]) == ((left, right),)


@pytest.mark.parametrize(
    "names",
    [
        ["left_kidney", "right_lung"],
        ["kidney_left", "kidney"],
        ["LV", "RV"],
        ["liver", "river"],
        ["l1", "r1"],
        ["Anterior", "Posterior"],
    ],
)
def test_other_names_are_no_pairs(names: list[str]) -> None:
    assert sided_pairs(names) == ()


@pytest.mark.parametrize(
    ("orientation", "transpose", "axes_3d", "axes_2d"),
    [
        ("SPL", (0, 1, 2), (0, 1), (0,)),
        ("SPR", (0, 1, 2), (0, 1), (0,)),
        ("LSP", (0, 1, 2), (1, 2), None),  # slices are sagittal: their sides cannot be told by mirroring them
        ("LSP", (1, 0, 2), (0, 2), (1,)),
        ("SLP", (0, 1, 2), (0, 2), (1,)),
    ],
)
def test_the_left_right_axis_of_the_plan_is_not_mirrored(
    workspace: Workspace,
    orientation: str,
    transpose: tuple[int, ...],
    axes_3d: tuple[int, ...],
    axes_2d: tuple[int, ...] | None,
) -> None:
    plan = replace(workspace.load_plan(), labels=SIDED, orientation=orientation, transpose=transpose)
    sided = keep_sides_apart(plan)
    assert sided.configuration("3d_fullres").mirror_axes == axes_3d
    assert sided.configuration("2d").mirror_axes == axes_2d
    assert mirror_axes(sided.configuration("3d_fullres")) == axes_3d
    reason = sided.configuration("3d_fullres").reasons["mirror_axes"]
    assert "mirrored, Left Kidney would look like Right Kidney" in reason


def test_plans_without_sides_or_orientation_stay_as_they_are(workspace: Workspace) -> None:
    plan = workspace.load_plan()
    assert keep_sides_apart(plan) == plan
    assert all(c.mirror_axes is None for c in plan.configurations)
    unknown = replace(plan, labels=SIDED, orientation=None)
    assert keep_sides_apart(unknown) == unknown


def test_a_plan_with_an_impossible_axis_is_refused(workspace: Workspace) -> None:
    table = json.loads(workspace.plan_path.read_text())
    table["configurations"][0]["mirror_axes"] = [3]
    workspace.plan_path.write_text(json.dumps(table))
    with pytest.raises(ArtifactError, match=r"configurations\.2d\.mirror_axes \(3,\) are not axes of the patch"):
        read_json(Plan, workspace.plan_path)


def test_models_of_sided_labels_are_never_mirrored_along_that_axis(ball_dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(ball_dataset, tmp_path / "dataset"))
    table = json.loads((root / "dataset.json").read_text())
    table["labels"] = {"background": 0, "ball_left": 1, "ball_right": 2}
    (root / "dataset.json").write_text(json.dumps(table))
    space = plan_and_preprocess(root, gpu_memory_gb=0.2, workers=0)
    stored = space.load_plan().orientation
    assert stored == "SPL"
    config = TrainingConfig(iterations=2, iterations_per_epoch=2, validation_iterations=1)
    train(space, "2d", 0, config=config, device="cpu", workers=0)
    assert read_checkpoint(space.run("2d", 0).final).record.mirror_axes == (0,)
    assert config.mirror_axes(2, allowed=(0,)) == (0,)
    assert replace(config, mirroring="0,1").mirror_axes(2, allowed=(0,)) == (0, 1)  # the user knows better
