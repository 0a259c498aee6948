"""Loading looks at names and tables only, so empty files stand for images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.dataset import find_cases, load_dataset
from autoseg.errors import DatasetError

TABLE = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "tumor": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_table(root: Path, table: object) -> None:
    (root / "dataset.json").write_text(json.dumps(table), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A correct dataset of two channels, two training cases and a test case."""
    folder = tmp_path / "Dataset003_Brain"
    for case in ("b", "a"):
        touch(folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesTr" / f"{case}_0001.nii.gz")
        touch(folder / "labelsTr" / f"{case}.nii.gz")
    touch(folder / "imagesTs" / "t_0000.nii.gz", folder / "imagesTs" / "t_0001.nii.gz")
    write_table(folder, TABLE)
    return folder


def test_a_dataset_is_what_its_folder_and_table_say(root: Path) -> None:
    dataset = load_dataset(root)
    assert dataset.name == "Dataset003_Brain"
    assert dataset.channels == ("T1", "FLAIR")
    assert dataset.declared_count == 2
    assert [case.id for case in dataset.training] == ["a", "b"]
    assert [p.name for p in dataset.training[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert dataset.training[0].label == root / "labelsTr" / "a.nii.gz"
    assert [case.id for case in dataset.test] == ["t"]
    assert dataset.test[0].label is None


def test_other_files_and_hidden_ones_are_not_cases(root: Path) -> None:
    touch(root / "imagesTr" / "notes.txt", root / "imagesTr" / ".b_0000.nii.gz", root / "imagesTr" / "a_0000.json")
    assert len(load_dataset(root).training) == 2


def test_one_file_may_hold_all_channels(root: Path) -> None:
    (root / "imagesTr" / "a_0001.nii.gz").unlink()
    assert len(load_dataset(root).training[0].images) == 1


def test_the_number_of_cases_is_counted_where_it_is_not_declared(root: Path) -> None:
    write_table(root, {key: value for key, value in TABLE.items() if key != "numTraining"})
    assert load_dataset(root).declared_count == 2


def test_the_old_name_of_channels_is_understood(root: Path) -> None:
    table = {key: value for key, value in TABLE.items() if key != "channel_names"}
    write_table(root, table | {"modality": {"0": "CT", "1": "CT"}})
    assert load_dataset(root).channels == ("CT", "CT")


def test_a_table_of_files_replaces_the_folders(root: Path) -> None:
    touch(root / "elsewhere" / "x.nii.gz", root / "elsewhere" / "y.nii.gz", root / "elsewhere" / "seg.nii.gz")
    entry = {"images": ["elsewhere/x.nii.gz", "elsewhere/y.nii.gz"], "label": "elsewhere/seg.nii.gz"}
    write_table(root, TABLE | {"dataset": {"z": entry, "c": entry}})
    dataset = load_dataset(root)
    assert [case.id for case in dataset.training] == ["c", "z"]
    assert dataset.training[0].images[1] == root / "elsewhere" / "y.nii.gz"


def test_a_dataset_without_test_images_has_no_test_cases(root: Path) -> None:
    for path in (root / "imagesTs").iterdir():
        path.unlink()
    (root / "imagesTs").rmdir()
    assert load_dataset(root).test == ()


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in TABLE.items() if name != key}


ENTRY = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
WRONG_TABLES = [
    ([], "must hold an object, found list"),
    (without("channel_names"), "lacks 'channel_names'; nnU-Net's raw format requires it"),
    (without("labels"), "lacks 'labels'"),
    (without("file_ending"), "lacks 'file_ending'"),
    (TABLE | {"labels": ["background"]}, "labels must map names to integers, found ['background']"),
    (TABLE | {"labels": {"background": 0}}, "there is nothing to segment"),
    (TABLE | {"channel_names": {}}, 'channel_names must be {"0": name, "1": name, ...}, found {}'),
    (TABLE | {"channel_names": {"1": "CT"}}, "channel_names must be"),
    (TABLE | {"channel_names": ["CT"]}, "channel_names must be"),
    (TABLE | {"file_ending": "nii.gz"}, "file_ending must start with a dot, found 'nii.gz'"),
    (TABLE | {"file_ending": 3}, "file_ending must start with a dot, found 3"),
    (TABLE | {"file_ending": ".nrrd"}, "imagesTr holds no image ending in .nrrd"),
    (TABLE | {"numTraining": 0}, "numTraining must be a positive integer, found 0"),
    (TABLE | {"numTraining": "2"}, "numTraining must be a positive integer, found '2'"),
    (TABLE | {"regions_class_order": 1}, "regions_class_order must be a list of integers, found 1"),
    (TABLE | {"regions_class_order": ["1"]}, "regions_class_order must be a list of integers, found ['1']"),
    (TABLE | {"dataset": {}}, "dataset must map case ids to their images and label"),
    (TABLE | {"dataset": {"c": {"images": []}}}, 'dataset.c must be {"images": [...], "label": ...}'),
    (TABLE | {"dataset": {"c": ENTRY | {"images": "x.nii.gz"}}}, "dataset.c must be"),
    (TABLE | {"dataset": {"c": ENTRY | {"label": None}}}, "dataset.c must be"),
    (TABLE | {"dataset": {"c/d": ENTRY}}, "case id 'c/d' cannot be a file name"),
    (
        TABLE | {"dataset": {"c": ENTRY | {"images": ["gone.nii.gz"]}}},
        "gone.nii.gz, an image of case c, is no file (dataset.json)",
    ),
    (TABLE | {"dataset": {"c": ENTRY | {"label": "gone.nii.gz"}}}, "case c has no label: "),
]


@pytest.mark.parametrize(("table", "message"), WRONG_TABLES)
def test_a_wrong_table_is_refused_in_one_sentence(root: Path, table: object, message: str) -> None:
    write_table(root, table)
    with pytest.raises(DatasetError) as caught:
        load_dataset(root)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def break_json(root: Path) -> None:
    (root / "dataset.json").write_text('{"labels": ', encoding="utf-8")


def remove_labels(root: Path) -> None:
    for path in (root / "labelsTr").iterdir():
        path.unlink()
    (root / "labelsTr").rmdir()


WRONG_FILES: list[tuple[Callable[[Path], None], str]] = [
    (break_json, "dataset.json cannot be read as JSON"),
    (lambda root: (root / "dataset.json").unlink(), "has no dataset.json; is it a dataset in nnU-Net's raw format?"),
    (remove_labels, "has no folder labelsTr"),
    (lambda root: (root / "imagesTr").rename(root / "images"), "has no folder imagesTr"),
    (lambda root: (root / "labelsTr" / "b.nii.gz").unlink(), "case b has no label: "),
    (
        lambda root: touch(root / "imagesTr" / "a_0002.nii.gz"),
        "case a has 3 image file(s), a_0000.nii.gz, a_0001.nii.gz, a_0002.nii.gz; dataset.json declares 2 channel(s)",
    ),
    (
        lambda root: touch(root / "imagesTs" / "u.nii.gz"),
        "u.nii.gz has no channel suffix; 2 channels are expected as u_0000",
    ),
    (lambda root: touch(root / "imagesTs" / "t_0002.nii.gz"), "case t has 3 image file(s)"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG_FILES)
def test_missing_or_surplus_files_are_named(root: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(root)
    with pytest.raises(DatasetError) as caught:
        load_dataset(root)
    assert message in str(caught.value)


def test_an_absent_folder_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        find_cases(tmp_path / "nowhere", ".png", num_channels=1)


def test_with_one_channel_the_suffix_may_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "b.png", tmp_path / "a_0000.png", tmp_path / "c_12.png")
    assert [case.id for case in find_cases(tmp_path, ".png", num_channels=1)] == ["a", "b", "c_12"]


def test_dots_of_the_ending_are_meant_literally(tmp_path: Path) -> None:
    touch(tmp_path / "a_0000.nii.gz", tmp_path / "a_0000xniixgz")
    (case,) = find_cases(tmp_path, ".nii.gz", num_channels=1)
    assert [path.name for path in case.images] == ["a_0000.nii.gz"]


def test_the_reference_datasets_load(shared_dir: Path) -> None:
    for folder in sorted((shared_dir / "golden" / "raw").iterdir()):
        dataset = load_dataset(folder)
        table = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        assert len(dataset.training) == table["numTraining"] == dataset.declared_count
