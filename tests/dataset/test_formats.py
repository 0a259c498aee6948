"""Every format gives the same dataset as nnU-Net's, and a workspace loads it again the same way."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.dataset import DatasetSource, find_cases, find_input, load_dataset
from autoseg.dataset.loading import remembered
from autoseg.errors import DatasetError
from autoseg.geometry import Geometry
from autoseg.image import (
    Image,
    Segmentation,
    read_header,
    read_image,
    read_segmentation,
    write_image,
    write_segmentation,
)
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.workspace import Workspace

GRID = Geometry(shape=(4, 5, 6), spacing=(2.0, 1.0, 1.0))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def put_label(path: Path, *values: int) -> None:
    array = np.zeros(GRID.shape, np.uint16)
    array.flat[: len(values)] = values
    write_segmentation(path, Segmentation(array=array, geometry=GRID))


def put_image(path: Path) -> None:
    write_image(path, Image(array=np.ones((1, *GRID.shape), np.float32), geometry=GRID))


def decathlon(root: Path, **changes: object) -> Path:
    entries = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ("b", "a")]
    for entry in entries:
        touch(*(root / path for path in entry.values()))
    touch(root / "imagesTs" / "t.nii.gz")
    table = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumour"},
        "numTraining": 2,
        "training": entries,
        "test": ["./imagesTs/t.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(table | changes))
    return root


def test_the_decathlons_table_is_understood(tmp_path: Path) -> None:
    dataset = load_dataset(decathlon(tmp_path))
    assert dataset.channels == ("FLAIR", "T1w")
    assert [(t.name, t.values) for t in dataset.labels.targets] == [("edema", (1,)), ("tumour", (2,))]
    assert [case.id for case in dataset.training] == ["a", "b"]
    assert dataset.training[0].label == tmp_path / "labelsTr" / "a.nii.gz"
    assert [(case.id, case.label) for case in dataset.test] == [("t", None)]
    assert (dataset.file_ending, dataset.declared_count) == (".nii.gz", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": ["CT"]}, "modality must be"),
        ({"labels": ["a"]}, "labels must map names to integers"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "two labels are called 'a'"),
        ({"training": [{"image": "a.nii.gz"}]}, 'a training case must be {"image": ..., "label": ...}'),
        ({"training": []}, "training with at least one"),
        ({"numTraining": 0}, "numTraining must be a positive integer"),
        ({"test": ["gone.nii.gz"]}, "gone.nii.gz, an image of case gone, is no file (dataset.json)"),
    ],
)
def test_a_wrong_decathlon_table_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset(decathlon(tmp_path, **change))
    assert message in str(caught.value)


def test_patterns_find_what_lies_anywhere(tmp_path: Path) -> None:
    for case in ("p1", "p2", "p3"):
        touch(tmp_path / "raw" / case / f"{case}_ct.nii.gz", tmp_path / "raw" / case / f"{case}_pet.nii.gz")
    for case in ("p1", "p2"):
        touch(tmp_path / "segs" / f"{case}-by-anna.nrrd")
    source = DatasetSource(
        root=tmp_path,
        images=("raw/{case}/{case}_ct.nii.gz", "raw/{case}/{case}_pet.nii.gz"),
        labels="segs/{case}-by-*.nrrd",
        channel_names=("CT", "PET"),
        label_values={"liver": 1},
    )
    dataset = load_dataset(source)
    assert [case.id for case in dataset.training] == ["p1", "p2"]
    assert [p.name for p in dataset.training[0].images] == ["p1_ct.nii.gz", "p1_pet.nii.gz"]
    assert [case.id for case in dataset.test] == ["p3"]
    assert (dataset.channels, dataset.file_ending, dataset.declared_count) == (("CT", "PET"), ".nrrd", 2)
    assert dataset.labels.targets[0].name == "liver"
    assert [c.id for c in find_input(source, tmp_path / "raw" / "p1", ".nrrd", num_channels=2)] == ["p1"]


def test_channels_and_labels_that_nobody_names_are_looked_for(tmp_path: Path) -> None:
    for case, values in (("a", (0, 3)), ("b", (7, 0))):
        put_image(tmp_path / f"{case}.nii.gz")
        put_label(tmp_path / f"{case}_seg.nii.gz", *values)
    source = DatasetSource(root=tmp_path, images=("{case}.nii.gz",), labels="{case}_seg.nii.gz")
    dataset = load_dataset(source)
    assert [case.id for case in dataset.training] == ["a", "b"]  # a_seg fits {case} too, but is a label
    assert dataset.test == ()
    assert dataset.channels == ("image",)
    assert [(t.name, t.values) for t in dataset.labels.targets] == [("3", (3,)), ("7", (7,))]
    again = remembered(source, dataset)
    assert (again.channel_names, again.label_values) == (("image",), {"3": 3, "7": 7})
    assert load_dataset(again) == dataset


def test_input_in_another_format_than_the_labels_is_found(tmp_path: Path) -> None:
    touch(tmp_path / "x.nii.gz", tmp_path / "notes.txt")
    source = DatasetSource(root=tmp_path, images=("dicom/{case}",), labels="segs/{case}.nrrd")
    [case] = find_input(source, tmp_path, ".nrrd", num_channels=1)
    assert (case.id, case.images) == ("x", (tmp_path / "x.nii.gz",))
    with pytest.raises(DatasetError, match=r"holds no image ending in \.nrrd"):
        find_input(None, tmp_path, ".nrrd", num_channels=1)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (("imgs/a.nii.gz",), "segs/{case}.nii.gz", "must say where the name of the case stands"),
        (("none/{case}.nii.gz",), "segs/{case}.nii.gz", "has nothing like none/{case}.nii.gz"),
        (("imgs/{case}.nii.gz",), "none/{case}.nii.gz", "has no label like none/{case}.nii.gz"),
        (("imgs/{case}.nii.gz", "more/{case}.nii.gz"), "segs/{case}.nii.gz", "case b has no image"),
        (("imgs/{case}.nii.gz",), "more/*{case}.nii.gz", "is a label without an image"),
        (("imgs/{case}.n*",), "segs/{case}.nii.gz", "are both imgs/{case}.n* of case a"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(
    tmp_path: Path, images: tuple[str, ...], labels: str, message: str
) -> None:
    touch(*(tmp_path / "imgs" / n for n in ("a.nii.gz", "b.nii.gz", "a.nrrd")))
    touch(tmp_path / "segs" / "a.nii.gz", tmp_path / "more" / "a.nii.gz", tmp_path / "more" / "c.nii.gz")
    with pytest.raises(DatasetError) as caught:
        load_dataset(DatasetSource(root=tmp_path, images=images, labels=labels, label_values={"x": 1}))
    assert message in str(caught.value)


def put_table(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_names_files_groups_and_domains(tmp_path: Path) -> None:
    for name in ("x1", "x2", "y1", "y2", "s1", "s2"):
        touch(tmp_path / "d" / f"{name}.nii.gz")
    row = {"case": "2", "image_CT": "d/x1.nii.gz", "image_MR": "d/y1.nii.gz", "label": "d/s1.nii.gz"}
    row |= {"group": "Ann", "domain": "Oslo", "phase": "ED", "view": "short axis", "split": "train"}
    other = row | {"case": "1", "image_CT": "d/x2.nii.gz", "image_MR": "d/y2.nii.gz", "label": "", "split": "test"}
    path = put_table(tmp_path / "cases.csv", [row, other])
    dataset = load_dataset(DatasetSource(root=tmp_path, table=path, label_values={"liver": 1}))
    [case] = dataset.training
    assert (case.id, case.group, case.domain, case.phase, case.view) == ("2", "Ann", "Oslo", "ED", "short axis")
    assert [p.name for p in case.images] == ["x1.nii.gz", "y1.nii.gz"]
    assert dataset.channels == ("CT", "MR")
    assert [case.id for case in dataset.test] == ["1"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"case": "a", "label": "s.nii.gz"}], "needs the columns case, image"),
        ([{"case": "a", "image": "x.nii.gz", "label": "s.nii.gz", "colour": "red"}], "the column 'colour'"),
        ([{"case": "", "image": "x.nii.gz", "label": "s.nii.gz"}], "line 2: case or image is empty"),
        ([{"case": "a", "image": "x.nii.gz", "label": "s.nii.gz"}] * 2, "case a stands in line 2 and in line 3"),
        ([{"case": "a", "image": "x.nii.gz", "label": "", "split": "train"}], "is for training and has no label"),
        ([{"case": "a", "image": "x.nii.gz", "label": "s.nii.gz", "split": "odd"}], "split must be train or test"),
        ([{"case": "a", "image": "x.nii.gz", "label": ""}], "no case has a label"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    path = put_table(tmp_path / "cases.csv", rows)
    with pytest.raises(DatasetError) as caught:
        load_dataset(DatasetSource(root=tmp_path, table=path, label_values={"x": 1}))
    assert message in str(caught.value)


def test_contradicting_descriptions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="belong together"):
        DatasetSource(root=tmp_path, images=("{case}.nii",))
    with pytest.raises(DatasetError, match="not both"):
        DatasetSource(root=tmp_path, images=("{case}.nii",), labels="x", table=tmp_path)
    with pytest.raises(DatasetError, match="go with --images or --table"):
        DatasetSource(root=tmp_path, channel_names=("CT",))


def test_a_dicom_series_is_an_image(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "data" / "dicom" / "hippocampus_crop"
    image = read_image([folder])
    assert image.array.shape == (1, 32, 51, 35)
    assert read_header(folder).geometry == image.geometry
    shutil.copytree(folder, tmp_path / "imagesTs" / "p1")
    [case] = find_cases(tmp_path / "imagesTs", ".nii.gz", num_channels=1)
    assert (case.id, case.images) == ("p1", (tmp_path / "imagesTs" / "p1",))
    shutil.copy(folder / "1.dcm", tmp_path / "copy.dcm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds 0 DICOM series"):
        read_image([tmp_path / "empty"])


def test_a_tiff_stack_has_the_spacing_that_stands_beside_it(tmp_path: Path) -> None:
    labels = Segmentation(array=np.arange(120, dtype=np.uint8).reshape(4, 5, 6), geometry=GRID)
    write_segmentation(tmp_path / "a.tif", labels)
    read = read_segmentation(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.array, labels.array)
    assert read.geometry.spacing == (2.0, 1.0, 1.0)
    assert read_header(tmp_path / "a.tif").geometry == read.geometry
    (tmp_path / "a.json").unlink()
    assert read_segmentation(tmp_path / "a.tif").geometry.spacing == (1.0, 1.0, 1.0)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"a\.json must hold"):
        read_segmentation(tmp_path / "a.tif")


def test_one_color_file_is_a_case_of_three_channels(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), str(tmp_path / "photo.png"))
    assert [case.id for case in find_cases(tmp_path, ".png", num_channels=3)] == ["photo"]


def test_a_workspace_remembers_how_the_dataset_was_given(ball_dataset: Path, tmp_path: Path) -> None:
    source = DatasetSource(
        root=ball_dataset,
        images=("imagesTr/{case}_0000.nii.gz",),
        labels="labelsTr/{case}.nii.gz",
        channel_names=("MRI",),
        label_values={"shell": 1, "core": 2},
    )
    space = plan_and_preprocess(source, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)
    declared = plan_and_preprocess(ball_dataset, workspace=tmp_path / "v", gpu_memory_gb=0.2, workers=0)
    plan, expected = space.load_plan(), declared.load_plan()
    assert (plan.labels, plan.configurations[0].patch_size) == (expected.labels, expected.configurations[0].patch_size)
    again = Workspace.discover(tmp_path / "w").dataset_source
    assert load_dataset(again) == load_dataset(source)
    # Named by its folder alone, the dataset is loaded as it was given before.
    assert plan_and_preprocess(ball_dataset, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0) == space
    assert Workspace.discover(tmp_path / "w").dataset_source == again
