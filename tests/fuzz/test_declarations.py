"""dataset.json and plan.json with something wrong in them, and names and labels that nobody expected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from fuzzing import fuzzed, mutated, result_or_error, write_itk
from hypothesis import given
from hypothesis import strategies as st

from autoseg.dataset import Dataset, load_dataset
from autoseg.errors import AutosegError
from autoseg.image import read_image
from autoseg.pipeline.checking import check_everything
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.store import CaseStore
from autoseg.progress import LoggingProgress
from autoseg.workspace import Workspace

TABLE: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "organ": [1, 2], "tumor": 2, "ignore": 3},
    "regions_class_order": [1, 2],
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "dataset": {
        "a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"},
        "b": {"images": ["imagesTr/b_0000.nii.gz"], "label": "labelsTr/b.nii.gz"},
    },
}
DECATHLON: dict[str, Any] = {
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "a", "2": "b"},
    "numTraining": 2,
    "numTest": 1,
    "tensorImageSize": "3D",
    "training": [
        {"image": "./imagesTr/a_0000.nii.gz", "label": "./labelsTr/a.nii.gz"},
        {"image": "./imagesTr/b_0000.nii.gz", "label": "./labelsTr/b.nii.gz"},
    ],
    "test": ["./imagesTs/t_0000.nii.gz"],
}
SHAPE = (5, 6, 7)
LETTERS = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\")


def write_files(root: Path, *, names: tuple[str, ...] = ("a", "b"), labels: np.ndarray | None = None) -> None:
    """Two or more labelled images and one without label."""
    rng = np.random.default_rng(3)
    for name in names:
        write_itk(root / "imagesTr" / f"{name}_0000.nii.gz", rng.normal(0, 50, SHAPE).astype(np.float32))
        array = rng.integers(0, 3, SHAPE).astype(np.uint8) if labels is None else labels
        write_itk(root / "labelsTr" / f"{name}.nii.gz", array)
    write_itk(root / "imagesTs" / "t_0000.nii.gz", rng.normal(0, 50, SHAPE).astype(np.float32))


def checked(root: Path) -> Dataset:
    """A dataset of which nothing is known to be wrong; problems become one error, as in the command."""
    dataset = load_dataset(root)
    report = check_everything(dataset, workers=0, progress=LoggingProgress())
    if report.errors:
        raise AutosegError("; ".join(str(problem) for problem in report.errors).replace("\n", " "))
    return dataset


@fuzzed(80)
@given(table=st.one_of(mutated(TABLE), mutated(TABLE), mutated(DECATHLON)))
def test_a_changed_dataset_json_is_right_or_told(table: Any) -> None:  # noqa: ANN401 - JSON
    with TemporaryDirectory() as folder:
        root = Path(folder) / "Dataset001_X"
        write_files(root)
        (root / "dataset.json").write_text(json.dumps(table), encoding="utf-8")
        dataset = result_or_error(lambda: checked(root), "dataset.json", "Dataset001_X")
    if dataset is not None:
        for case in (*dataset.training, *dataset.test):
            assert all(path.name for path in case.images)
            assert "/" not in case.id


@fuzzed(10)
@given(
    values=st.lists(st.integers(-3, 70_000), min_size=1, max_size=3, unique=True),
    declared=st.lists(st.integers(-3, 70_000), min_size=1, max_size=2, unique=True),
    agree=st.booleans(),
    kind=st.sampled_from(["i4", "f4", "f8"]),
    names=st.lists(
        st.one_of(
            st.sampled_from(["a b", "ünï 中 文", "v1.2.3", "p_0000_x", "_0000", "a_0000", "-o", "%d{case}", "x.nii"]),
            st.text(
                st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\\"), min_size=1, max_size=8
            ),
        ).filter(lambda name: not name.startswith(".")),
        min_size=2,
        max_size=3,
        unique=True,
    ),
)
def test_any_labels_and_names_are_preprocessed_unchanged_or_told(
    values: list[int], declared: list[int], agree: bool, kind: str, names: list[str]
) -> None:
    declared = [v for v in values if v != 0] if agree else declared
    array = np.random.default_rng(0).choice([0, *values], SHAPE).astype(kind)
    with TemporaryDirectory() as folder:
        root, target = Path(folder) / "Dataset001_X", Path(folder) / "workspace"
        write_files(root, names=tuple(names), labels=array)
        labels = {"background": 0, **{f"label {value}": value for value in declared}}
        table = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": len(names), "file_ending": ".nii.gz"}
        (root / "dataset.json").write_text(json.dumps(table), encoding="utf-8")
        workspace = result_or_error(
            lambda: plan_and_preprocess(root, workspace=target, gpu_memory_gb=0.1, workers=0, configurations=["2d"]),
            "Dataset001_X",
            "label value",
        )
        if workspace is None:
            return
        assert set(np.unique(array).astype(int)) <= {0, *declared}
        plan = workspace.load_plan()
        store = CaseStore(workspace.preprocessed_dir(plan.configuration("2d").data))
        assert sorted(store.case_ids()) == sorted(names)
        for name in names:
            found = np.asarray(store.open(name).load().segmentation)
            assert set(np.unique(found)) - {-1} <= set(np.unique(array).astype(int)) | {0}


@fuzzed(80)
@given(data=st.data())
def test_a_changed_plan_json_is_right_or_told(planned_workspace: Path, ball_dataset: Path, data: st.DataObject) -> None:
    original = json.loads((planned_workspace / "plan.json").read_text(encoding="utf-8"))
    original.pop("sha256", None)
    plan_text = data.draw(mutated(original))
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        shutil.copy(planned_workspace / "workspace.json", workspace.root)
        workspace.plan_path.write_text(json.dumps(plan_text), encoding="utf-8")
        plan = result_or_error(workspace.load_plan, "plan.json")
    if plan is None:
        return
    image = read_image([ball_dataset / "imagesTr" / "case00_0000.nii.gz"])
    for configuration in plan.configurations:
        done = result_or_error(
            lambda configuration=configuration: preprocess_case("case00", image, None, plan, configuration),  # type: ignore[misc]
            "case00",
            "plan",
        )
        assert done is None or np.isfinite(done.image).all()
