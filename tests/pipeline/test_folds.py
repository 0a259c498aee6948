"""Folds are made once; what changes afterwards is told, and never under trained models."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.dataset import Dataset, DatasetSource, load_dataset
from autoseg.errors import SettingsError
from autoseg.pipeline.folds import settle_folds
from autoseg.progress import LoggingProgress
from autoseg.splits import Fold, SplitRule, make_splits, read_splits, write_splits
from autoseg.workspace import Workspace


class Listener(LoggingProgress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def dataset(ball_dataset: Path) -> Dataset:
    return load_dataset(ball_dataset)


@pytest.fixture
def space(dataset: Dataset, tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "w", dataset.root)


def settle(
    dataset: Dataset, space: Workspace, asked: SplitRule | None = None, listener: Listener | None = None
) -> tuple[Fold, ...]:
    return settle_folds(dataset, space, asked, {}, listener or Listener())


def pretend_training(space: Workspace) -> None:
    path = space.run("2d", 0).last
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")


def without(dataset: Dataset, *ids: str) -> Dataset:
    return replace(dataset, training=tuple(case for case in dataset.training if case.id not in ids))


def test_the_first_folds_are_nnunets(dataset: Dataset, space: Workspace) -> None:
    folds = settle(dataset, space)
    assert folds == make_splits([case.id for case in dataset.training])
    assert read_splits(space.splits_path) == folds


def test_folds_made_by_hand_are_kept(dataset: Dataset, space: Workspace) -> None:
    ids = [case.id for case in dataset.training]
    own = (Fold(train=tuple(ids[:3]), val=tuple(ids[3:])), Fold(train=tuple(ids[3:]), val=tuple(ids[:3])))
    write_splits(own, space.splits_path)
    assert settle(dataset, space) == own


def test_added_cases_get_new_folds_while_nothing_is_trained(dataset: Dataset, space: Workspace) -> None:
    settle(without(dataset, "case05"), space)
    listener = Listener()
    assert settle(dataset, space, listener=listener) == make_splits([case.id for case in dataset.training])
    assert listener.messages == ["folds are made anew: 1 case(s) are in no fold: case05"]


def test_cases_added_after_training_are_reported_and_folds_stay(dataset: Dataset, space: Workspace) -> None:
    before = settle(without(dataset, "case04", "case05"), space)
    pretend_training(space)
    listener = Listener()
    assert settle(dataset, space, listener=listener) == before
    assert listener.messages[0].startswith("warning: 2 case(s) are in no fold: case04, case05. The folds stay")
    assert settle(without(dataset, "case00"), space, listener=listener) == before
    assert "case00" in listener.messages[1]


def test_groups_that_folds_tear_apart_are_noticed(dataset: Dataset, space: Workspace) -> None:
    settle(dataset, space)
    grouped = replace(dataset, training=tuple(replace(c, group=f"g{i // 2}") for i, c in enumerate(dataset.training)))
    listener = Listener()
    folds = settle(grouped, space, listener=listener)
    assert "3 group(s) are trained on and held out: g0, g1, g2" in listener.messages[0]
    assert sorted(sorted(fold.val) for fold in folds) == [
        ["case00", "case01"],
        ["case02", "case03"],
        ["case04", "case05"],
    ]


def test_other_folds_than_those_trained_on_are_refused(dataset: Dataset, space: Workspace) -> None:
    settle(dataset, space)
    pretend_training(space)
    assert settle(dataset, space, SplitRule()) == settle(dataset, space)
    with pytest.raises(SettingsError, match="models were trained"):
        settle(dataset, space, SplitRule(num_folds=3))


def test_the_datasets_own_folds_and_a_rule_contradict_each_other(
    ball_dataset: Path, space: Workspace, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(ball_dataset, tmp_path / "d"))
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case00"], "val": ["case01"]}]))
    with pytest.raises(SettingsError, match="has folds already"):
        settle(load_dataset(root), space, SplitRule(num_folds=3))


def test_the_command_splits_by_domain_and_remembers_it(ball_dataset: Path, tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "image", "label", "domain"])
        for number in range(6):
            image, label = (ball_dataset / n for n in (f"imagesTr/case{number:02d}_0000", f"labelsTr/case{number:02d}"))
            writer.writerow([f"c{number}", f"{image}.nii.gz", f"{label}.nii.gz", "Oslo" if number < 2 else "Bern"])
    words = ["plan-and-preprocess", str(ball_dataset), "-w", str(tmp_path / "w"), "--gpu-memory", "0.2"]
    words += ["--workers", "0", "--configurations", "2d"]
    given = ["--table", str(table), "--split-by", "domain"]
    for more in (given, []):
        result = CliRunner().invoke(app, words + more)
        assert result.exit_code == 0, result.output
        folds = read_splits(tmp_path / "w" / "splits.json")
        assert [fold.val for fold in folds] == [("c2", "c3", "c4", "c5"), ("c0", "c1")]
    space = Workspace.discover(tmp_path / "w")
    assert space.split_rule == SplitRule(split_by="domain")
    assert space.dataset_source == DatasetSource(
        root=ball_dataset, table=table, channel_names=("image",), label_values={"1": 1, "2": 2}
    )
    result = CliRunner().invoke(app, [*words, "--split-by", "colour"])
    assert result.exit_code == 2
    assert "split_by must be one of 'group', 'domain'" in result.output
