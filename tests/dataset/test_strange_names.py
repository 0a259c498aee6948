"""Names of cases become names of files: none may lead out of the folder that results go to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from autoseg.dataset import DatasetSource, load_dataset
from autoseg.errors import DatasetError

STRANGE = ["../../out", "/tmp/out", "a/b", "a\\b", "..", "."]


def touch(root: Path) -> None:
    for name in ("imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize("name", STRANGE)
def test_in_a_table_of_dataset_json(tmp_path: Path, name: str) -> None:
    touch(tmp_path)
    cases = {name: {"images": ["imagesTr/x_0000.nii.gz"], "label": "labelsTr/x.nii.gz"}}
    table = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({**table, "dataset": cases}), encoding="utf-8")
    with pytest.raises(DatasetError, match="cannot be a file name"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("name", STRANGE)
def test_in_a_csv_table(tmp_path: Path, name: str) -> None:
    touch(tmp_path)
    path = tmp_path / "cases.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerows([["case", "image", "label"], [name, "imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz"]])
    source = DatasetSource(root=tmp_path, table=path, channel_names=("MR",), label_values={"a": 1})
    with pytest.raises(DatasetError, match="cannot be a file name"):
        load_dataset(source)


@pytest.mark.parametrize("name", ["a\x00b", "a\nb"])
def test_control_characters_are_no_names(tmp_path: Path, name: str) -> None:
    touch(tmp_path)
    cases = {name: {"images": ["imagesTr/x_0000.nii.gz"], "label": "labelsTr/x.nii.gz"}}
    table = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({**table, "dataset": cases}), encoding="utf-8")
    with pytest.raises(DatasetError, match="cannot be a file name"):
        load_dataset(tmp_path)
