"""Workspaces as nnU-Net's preprocessed folders: file by file what nnU-Net 2.8.1 writes."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.codec import write_json
from autoseg.errors import MissingArtifactError
from autoseg.geometry import BoundingBox, Geometry
from autoseg.image import Image, Segmentation, read_segmentation, write_image, write_segmentation
from autoseg.interop.nnunet_export import export_preprocessed
from autoseg.interop.nnunet_properties import case_properties
from autoseg.labels import LabelScheme, Target
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.preprocessing.case import CaseTrace
from autoseg.workspace import Workspace

DATASETS = {
    "Dataset901_AnisoCT": None,
    "Dataset905_Regions": None,
    "Dataset907_Rgb2D": None,
    "Dataset908_Ignore": None,
    "Dataset909_Cascade": 0.1,
}
STATISTICS = "foreground_intensity_properties_per_channel"


def read(path: Path) -> Any:  # noqa: ANN401 - JSON is dynamically typed
    return json.loads(path.read_text())


def array(path: Path) -> np.ndarray:
    return np.asarray(blosc2.open(str(path), mode="r")[:])


def properties(path: Path) -> dict[str, Any]:
    """nnU-Net's way to read them; these files were written a moment ago."""
    return dict(pickle.loads(path.read_bytes()))


def assert_close(made: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert set(made) == set(expected)
    for channel, statistics in expected.items():
        assert made[channel] == pytest.approx(statistics, rel=1e-6)


@pytest.mark.parametrize("name", DATASETS)
def test_every_file_is_nnunets(name: str, shared_dir: Path, tmp_path: Path) -> None:
    golden = shared_dir / "golden" / "nnunet" / name
    raw = shared_dir / "golden" / "raw" / name
    workspace = plan_and_preprocess(
        raw, workspace=tmp_path / "workspace", gpu_memory_gb=DATASETS[name] or 8.0, workers=0
    )
    folder = export_preprocessed(workspace, tmp_path / "out", workers=0)

    assert folder == tmp_path / "out" / name
    for file in ("dataset.json", "splits_final.json"):
        assert read(folder / file) == read(golden / file)
    for file in ("dataset_fingerprint.json", "nnUNetPlans.json"):
        made, expected = read(folder / file), read(golden / file)
        assert_close(made.pop(STATISTICS), expected.pop(STATISTICS))
        assert made == expected
    ending = expected_ending(golden)
    assert {p.name for p in (folder / "gt_segmentations").iterdir()} == {p.name for p in (raw / "labelsTr").iterdir()}
    assert (folder / "gt_segmentations" / f"case00{ending}").read_bytes() == (
        raw / "labelsTr" / f"case00{ending}"
    ).read_bytes()
    for path in sorted((golden / "preprocessed").glob("*/*.npz")):
        made_path = folder / f"nnUNetPlans_{path.parent.name}" / path.stem
        assert_case_is_nnunets(made_path, np.load(path), read(path.with_suffix(".json")), read(golden / "dataset.json"))


def expected_ending(golden: Path) -> str:
    return str(read(golden / "dataset.json")["file_ending"])


def assert_case_is_nnunets(
    made: Path, expected: Mapping[str, np.ndarray], described: dict[str, Any], dataset: dict[str, Any]
) -> None:
    image, segmentation = array(made.with_suffix(".b2nd")), array(made.with_name(f"{made.name}_seg.b2nd"))
    assert image.dtype == np.float32
    assert segmentation.dtype == np.int16
    np.testing.assert_allclose(image, expected["data"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(segmentation, expected["seg"])
    found = properties(made.with_suffix(".pkl"))
    locations = found.pop("class_locations")
    assert plain(found) == plain(described)
    labels = {name: value for name, value in dataset["labels"].items() if name not in ("background", "ignore")}
    keys = [tuple(value) if isinstance(value, list) else value for value in labels.values()]
    if "ignore" in dataset["labels"]:
        keys.append((-1, 0, *keys))
    assert list(locations) == keys
    for key, positions in locations.items():
        is_there = np.isin(segmentation, key)
        assert len(positions) == min(10_000, max(is_there.sum(), 0))  # no class of these datasets is larger
        if len(positions):
            assert positions.dtype == np.int64
            assert is_there[tuple(positions.T)].all()


def plain(value: object) -> object:
    """Nested lists of floats: whether a number is a tuple's or a list's does not matter to nnU-Net."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return float(value) if isinstance(value, int | float) else value


def test_plans_of_another_planner_come_beside(shared_dir: Path, tmp_path: Path) -> None:
    name = "Dataset903_OddAxis"
    raw, golden = shared_dir / "golden" / "raw" / name, shared_dir / "golden" / "nnunet" / name
    for planner, only in (("unet", "2d"), ("resenc_m", "2d@resenc_m")):
        plan_and_preprocess(
            raw, workspace=tmp_path / "w", planner=planner, gpu_memory_gb=8.0, configurations=[only], workers=0
        )
    folder = export_preprocessed(Workspace(tmp_path / "w"), tmp_path / "out", workers=0)
    for file in ("nnUNetPlans.json", "nnUNetResEncUNetMPlans.json"):
        made, expected = read(folder / file), read(golden / file)
        assert made["configurations"] == expected["configurations"]
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    assert folders == {"gt_segmentations", "nnUNetPlans_2d"}  # both planners' plans name it


def write_turned_dataset(folder: Path, *, label_map: dict[str, int] | None = None) -> Path:
    """Three cases along the world's axes and one flipped; cubes of 1 mm, so that nothing is resampled."""
    rng = np.random.default_rng(3)
    shape = (12, 14, 16)
    for number in range(4):
        labels = np.zeros(shape, dtype=np.int16)
        labels[3:7, 2:8, 5:9] = 1 if label_map is None else 500
        labels[5:9, 8:12, 5:9] = 2 if label_map is None else 420
        intensities = (rng.normal(100, 5, shape) + labels).astype(np.float32)
        flipped = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)) if number == 3 else ()
        grid = Geometry(shape=shape, spacing=(1.0, 1.0, 1.0), origin=(3.0, 4.0, 5.0), directions=flipped)
        write_image(folder / "imagesTr" / f"c{number}_0000.nii.gz", Image(array=intensities[None], geometry=grid))
        write_segmentation(folder / "labelsTr" / f"c{number}.nii.gz", Segmentation(array=labels, geometry=grid))
    declaration = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "first": 1, "second": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
        **({} if label_map is None else {"label_map": label_map}),
    }
    (folder / "dataset.json").write_text(json.dumps(declaration))
    return folder


def test_references_lie_on_the_grid_that_the_properties_describe(tmp_path: Path) -> None:
    raw = write_turned_dataset(tmp_path / "knees")
    workspace = plan_and_preprocess(raw, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)
    folder = export_preprocessed(workspace, tmp_path / "out", workers=0)
    assert folder.name == "Dataset001_knees"
    transpose = read(folder / "nnUNetPlans.json")["transpose_forward"]
    for case in ("c0", "c3"):
        reference = read_segmentation(folder / "gt_segmentations" / f"{case}.nii.gz")
        described = properties(folder / "nnUNetPlans_3d_fullres" / f"{case}.pkl")
        segmentation = array(folder / "nnUNetPlans_3d_fullres" / f"{case}_seg.b2nd")[0]
        np.testing.assert_array_equal(reference.array.transpose(transpose), np.maximum(segmentation, 0))
        assert reference.geometry.itk_direction == pytest.approx(described["sitk_stuff"]["direction"])
        assert reference.geometry.origin == pytest.approx(described["sitk_stuff"]["origin"])
    original = read_segmentation(raw / "labelsTr" / "c3.nii.gz")
    assert reference.geometry.orientation != original.geometry.orientation
    np.testing.assert_array_equal(reference.array, original.array[:, ::-1])


def test_labels_become_consecutive(tmp_path: Path) -> None:
    raw = write_turned_dataset(tmp_path / "raw", label_map={"500": 1, "420": 2})
    workspace = plan_and_preprocess(raw, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)
    folder = export_preprocessed(workspace, tmp_path / "out", workers=0)
    declared = read(folder / "dataset.json")
    assert declared["labels"] == {"background": 0, "second": 1, "first": 2}
    assert "label_map" not in declared
    reference = read_segmentation(folder / "gt_segmentations" / "c0.nii.gz").array
    assert set(np.unique(reference)) == {0, 1, 2}
    assert reference[3, 2, 5] == declared["labels"]["first"]
    case = folder / "nnUNetPlans_3d_fullres" / "c0"
    segmentation = array(case.with_name("c0_seg.b2nd"))
    locations = properties(case.with_suffix(".pkl"))["class_locations"]
    assert list(locations) == [1, 2]
    assert (segmentation[tuple(locations[2].T)] == 2).all()


def test_what_nnunet_cannot_have_is_named_and_left_out(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = workspace.load_plan()
    quick = replace(plan.configurations[0], name=f"{plan.configurations[0].name}@quick")
    write_json(replace(plan, configurations=(*plan.configurations, quick)), workspace.plan_path)
    shutil.rmtree(workspace.preprocessed_dir("2d"))
    caplog.set_level("INFO")
    folder = export_preprocessed(workspace, tmp_path, workers=0)
    assert f"{quick.name} is left out" in caplog.text
    assert "2d is planned and not preprocessed" in caplog.text
    assert not (folder / "nnUNetPlans_2d").exists()
    assert (folder / "nnUNetPlans_3d_fullres" / "case00.pkl").is_file()


def test_a_half_preprocessed_workspace_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.preprocessed_dir("3d_fullres") / "case02.json").unlink()
    with pytest.raises(MissingArtifactError, match="lacks 1 of 6 cases, the first is case02"):
        export_preprocessed(workspace, tmp_path, workers=0)
    shutil.rmtree(workspace.root / "preprocessed")
    with pytest.raises(MissingArtifactError, match="nothing is preprocessed"):
        export_preprocessed(workspace, tmp_path, workers=0)


def test_the_command_says_where_and_how_to_go_on(workspace: Workspace, tmp_path: Path) -> None:
    words = ["interop", "export-nnunet", "-w", str(workspace.root), "-o", str(tmp_path / "out"), "--workers", "0"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "nnUNetv2_train Dataset001_dataset" in result.output
    assert (tmp_path / "out" / "Dataset001_dataset" / "nnUNetPlans.json").is_file()
    result = CliRunner().invoke(app, ["interop", "import-nnunet", str(tmp_path / "no.zip"), "-w", str(tmp_path / "w")])
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_nibabels_affine_leads_to_the_same_place() -> None:
    grid = Geometry(
        shape=(4, 5, 6),
        spacing=(3.0, 2.0, 1.0),
        origin=(10.0, 20.0, 30.0),
        directions=((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)),
    )
    trace = CaseTrace(
        geometry=grid,
        orientation_code=grid.orientation,
        transpose=(0, 1, 2),
        original_shape=grid.shape,
        box=BoundingBox.whole(grid.shape),
        cropped_shape=grid.shape,
        cropped_spacing=grid.spacing,
        resampled_shape=grid.shape,
        resampled_spacing=grid.spacing,
    )
    labels = LabelScheme(targets=(Target(name="a", values=(1,)),), declared_count=2)
    made = case_properties(trace, (np.zeros((0, 3), np.int32),), labels, reader="NibabelIO")
    x, y, z, _ = made["nibabel_stuff"]["original_affine"] @ (5, 4, 3, 1)
    assert (-x, -y, z) == pytest.approx(grid.world_position((3, 4, 5)))
    assert made["class_locations"] == {1: []}
