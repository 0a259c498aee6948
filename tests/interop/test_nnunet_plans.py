"""Plans in nnU-Net's form: equal to nnU-Net 2.8.1's own, key by key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import ArtifactError, DatasetError, PlanError, SettingsError
from autoseg.interop.nnunet import plan_from_fingerprint

PLANNERS = {
    "default": ("unet", None),
    "default@4GB": ("unet", 4.0),
    "resenc_m": ("resenc_m", None),
    "resenc_l": ("resenc_l", None),
    "resenc_xl": ("resenc_xl", None),
}
FILES = {
    "nnUNetPlans.json": "unet",
    "nnUNetResEncUNetMPlans.json": "resenc_m",
    "nnUNetResEncUNetLPlans.json": "resenc_l",
}
DATASETS = ["901_AnisoCT", "902_TwoChannelMR", "903_OddAxis", "904_VeryThick", "905_Regions", "906_NoNorm", "907_Rgb2D"]
DATASETS += ["908_Ignore"]

STATISTICS = {"max": 9.0, "mean": 1.0, "median": 1.0, "min": 0.0, "percentile_00_5": 0.0, "percentile_99_5": 8.0}


def dataset_json(**changes: str) -> dict[str, Any]:
    table = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    return {**table, **changes}


def fingerprint(spacing: list[float], shape: list[int]) -> dict[str, Any]:
    return {
        "spacings": [spacing] * 3,
        "shapes_after_crop": [shape] * 3,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {"0": {**STATISTICS, "std": 2.0}},
    }


def plans_for(table: dict[str, Any], measured: dict[str, Any], planner: str = "unet") -> dict[str, Any]:
    return plan_from_fingerprint(table, measured, planner=planner, gpu_memory_gb=None)


def assert_same(made: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal values, types (JSON knows 1 and 1.0) and order of keys; nnU-Net sorts the intensities' keys only."""
    assert list(made) == list(expected)
    key = "foreground_intensity_properties_per_channel"
    assert made[key] == expected[key]
    for name in expected["configurations"]:
        assert json.dumps(made["configurations"][name]) == json.dumps(expected["configurations"][name]), name
    without = [{k: v for k, v in plans.items() if k != key} for plans in (made, expected)]
    assert json.dumps(without[0]) == json.dumps(without[1])


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("number", range(30))
def test_plans_of_random_fingerprints(shared_dir: Path, number: int, planner: str) -> None:
    golden = json.loads((shared_dir / "golden" / "plans" / f"{number:02d}.json").read_text())
    expected = golden["plans"][planner]
    name, gigabytes = PLANNERS[planner]
    made = plan_from_fingerprint(
        golden["dataset"],
        golden["fingerprint"],
        planner=name,
        gpu_memory_gb=gigabytes,
        dataset_name=expected["dataset_name"],
    )
    if planner == "default@4GB":  # was run under a name of its own, as nnU-Net wants it for another memory
        expected = json.loads(json.dumps(expected).replace('"small', '"nnUNetPlans'))
    assert_same(made, expected)


@pytest.mark.parametrize(
    ("dataset", "file_name"),
    [*((dataset, file_name) for dataset in DATASETS for file_name in FILES), ("909_Cascade", "nnUNetPlans.json")],
)
def test_plans_of_whole_datasets(shared_dir: Path, dataset: str, file_name: str) -> None:
    folder = shared_dir / "golden" / "nnunet" / f"Dataset{dataset}"
    table, measured, expected = (
        json.loads((folder / name).read_text()) for name in ("dataset.json", "dataset_fingerprint.json", file_name)
    )
    gigabytes = 0.1 if dataset == "909_Cascade" else None
    made = plan_from_fingerprint(
        table, measured, planner=FILES[file_name], gpu_memory_gb=gigabytes, dataset_name=folder.name
    )
    assert_same(made, expected)


def test_inputs_are_not_changed() -> None:
    table, measured = dataset_json(), fingerprint([1.0, 1.0, 1.0], [30, 40, 40])
    before = copy.deepcopy((table, measured))
    plans_for(table, measured)
    assert (table, measured) == before


def test_a_plan_is_plain_json() -> None:
    plans = plans_for(dataset_json(), fingerprint([1.0, 1.0, 1.0], [400, 400, 400]))
    assert json.loads(json.dumps(plans)) == plans
    assert list(plans["configurations"]) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]


def test_two_dimensional_data_keep_nnunets_thick_first_axis() -> None:
    plans = plans_for(dataset_json(), fingerprint([999 * 0.5, 0.4, 0.5], [1, 300, 200]))
    assert plans["transpose_forward"] == plans["transpose_backward"] == [0, 1, 2]
    assert plans["original_median_spacing_after_transp"] == [999 * 0.5, 0.4, 0.5]
    assert plans["original_median_shape_after_transp"] == [1, 300, 200]
    assert list(plans["configurations"]) == ["2d"]
    assert plans["configurations"]["2d"]["spacing"] == [0.4, 0.5]


def test_one_real_slice_stays_three_dimensional() -> None:
    """A spacing that no 2D image has: the same plan in the end, by the rule for single slices."""
    plans = plans_for(dataset_json(), fingerprint([5.0, 0.4, 0.5], [1, 300, 200]))
    assert plans["original_median_spacing_after_transp"] == [5.0, 0.4, 0.5]
    assert list(plans["configurations"]) == ["2d"]


@pytest.mark.parametrize(
    ("ending", "shape", "reader"),
    [
        (".nii.gz", [30, 40, 40], "SimpleITKIO"),
        (".nii", [30, 40, 40], "NibabelIO"),
        (".png", [1, 40, 40], "NaturalImage2DIO"),
        (".tif", [1, 40, 40], "NaturalImage2DIO"),
        (".tif", [30, 40, 40], "Tiff3DIO"),
        (".NRRD", [30, 40, 40], "SimpleITKIO"),
    ],
)
def test_the_reader_follows_from_the_ending(ending: str, shape: list[int], reader: str) -> None:
    first = 999.0 if shape[0] == 1 else 1.0
    plans = plans_for(dataset_json(file_ending=ending), fingerprint([first, 1.0, 1.0], shape))
    assert plans["image_reader_writer"] == reader


@pytest.mark.parametrize(
    ("wanted", "reader"), [("NibabelIOWithReorient", "NibabelIOWithReorient"), ("None", "SimpleITKIO")]
)
def test_a_dataset_may_name_its_reader(wanted: str, reader: str) -> None:
    table = dataset_json(overwrite_image_reader_writer=wanted)
    assert plans_for(table, fingerprint([1.0, 1.0, 1.0], [30, 40, 40]))["image_reader_writer"] == reader


def test_the_old_name_of_channels_is_understood() -> None:
    table = dataset_json()
    table["modality"] = {"0": "CT"}
    del table["channel_names"]
    plans = plans_for(table, fingerprint([1.0, 1.0, 1.0], [30, 40, 40]))
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["CTNormalization"]


def test_the_name_of_the_dataset_has_a_default() -> None:
    measured = fingerprint([1.0, 1.0, 1.0], [30, 40, 40])
    assert plans_for(dataset_json(name="Spleen"), measured)["dataset_name"] == "Dataset001_Spleen"
    made = plan_from_fingerprint(
        dataset_json(), measured, planner="unet", gpu_memory_gb=None, dataset_name="Dataset9_X"
    )
    assert made["dataset_name"] == "Dataset9_X"


@pytest.mark.parametrize("missing", ["channel_names", "labels", "file_ending"])
def test_an_incomplete_dataset_json_is_refused(missing: str) -> None:
    table = dataset_json()
    del table[missing]
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        plans_for(table, fingerprint([1.0, 1.0, 1.0], [30, 40, 40]))


@pytest.mark.parametrize(
    "missing",
    [
        "spacings",
        "shapes_after_crop",
        "median_relative_size_after_cropping",
        "foreground_intensity_properties_per_channel",
    ],
)
def test_an_incomplete_fingerprint_is_refused(missing: str) -> None:
    measured = fingerprint([1.0, 1.0, 1.0], [30, 40, 40])
    del measured[missing]
    with pytest.raises(ArtifactError, match=missing):
        plans_for(dataset_json(), measured)


def test_spacings_without_shapes_are_refused() -> None:
    measured = fingerprint([1.0, 1.0, 1.0], [30, 40, 40])
    measured["spacings"].pop()
    with pytest.raises(ArtifactError, match="2 spacings and 3 shapes"):
        plans_for(dataset_json(), measured)


def test_an_unknown_planner_is_refused_with_close_matches() -> None:
    with pytest.raises(SettingsError, match=r"did you mean .*resenc_l"):
        plans_for(dataset_json(), fingerprint([1.0, 1.0, 1.0], [30, 40, 40]), "resenc_L")


def test_an_ending_that_nnunet_cannot_read_is_refused() -> None:
    with pytest.raises(PlanError, match=r"\.dcm"):
        plans_for(dataset_json(file_ending=".dcm"), fingerprint([1.0, 1.0, 1.0], [30, 40, 40]))
