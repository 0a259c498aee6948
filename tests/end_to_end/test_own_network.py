"""A network in one file of the user's own, as docs/how-to/add_a_network.md tells it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.inference.model import load_model
from autoseg.networks.catalog import NETWORKS
from autoseg.workspace import Workspace

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add_a_network.md"
NAME = "my_network:MyNetwork"
QUICK = ["--iterations", "20", "--device", "cpu", "--workers", "0", "--set", "validation_iterations=1"]


@pytest.fixture
def folder(tmp_path: Path, ball_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the guide's own file in it and a dataset beside."""
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert code is not None
    (tmp_path / "my_network.py").write_text(code[1], encoding="utf-8")
    dataset = Path(shutil.copytree(ball_dataset, tmp_path / "dataset"))
    ids = [f"case{number:02d}" for number in range(6)]
    folds = [{"train": ids[2:], "val": ids[:2]}, {"train": ids[:2], "val": ids[2:]}]
    (dataset / "splits_final.json").write_text(json.dumps(folds))
    monkeypatch.chdir(tmp_path)
    path, known = list(sys.path), dict(NETWORKS._references)
    yield tmp_path
    sys.path[:] = path
    NETWORKS._references.clear()
    NETWORKS._references.update(known)
    sys.modules.pop("my_network", None)


def run(*words: str, expected: int = 0) -> Result:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == expected, result.output
    return result


def test_own_file_is_planned_trained_and_predicts(folder: Path) -> None:
    run(
        *("plan-and-preprocess", "dataset", "--network", NAME, "--network-option", "num_convs=1"),
        *("--gpu-memory", "2", "--workers", "0", "--configurations", "3d_fullres@MyNetwork"),
    )
    space = Workspace.discover(folder / "dataset")
    planned = space.load_plan().configuration("3d_fullres@MyNetwork")
    assert planned.network.name == NAME
    assert planned.network.options == {"num_convs": 1}
    assert planned.network.deep_supervision
    assert "estimated" in planned.reasons["patch_size"]
    assert all(p % d == 0 for p, d in zip(planned.patch_size, planned.network.divisor, strict=True))

    run("train", "3d_fullres@MyNetwork", "fold0", "-C", "dataset", "--network", NAME, *QUICK)
    run("ensemble-predict", "-C", "dataset", "-o", "predicted", "--network", NAME, "--device", "cpu", "--workers", "0")
    assert len(list((folder / "predicted").glob("*.nii.gz"))) == 2
    model = load_model(space.run("3d_fullres@MyNetwork", 0).final)
    assert type(model.network).__name__ == "MyNetwork"


def test_a_name_in_a_file_imports_nothing(folder: Path) -> None:
    run(
        *("plan-and-preprocess", "dataset", "--network", NAME, "--gpu-memory", "2", "--workers", "0"),
        *("--configurations", "3d_fullres@MyNetwork"),
    )
    NETWORKS._references.pop(NAME)
    refused = run("train", "3d_fullres@MyNetwork", "fold0", "-C", "dataset", *QUICK, expected=2)
    assert "is not a network" in " ".join(refused.output.split())


def test_a_missing_class_is_named(folder: Path) -> None:
    refused = run("plan-and-preprocess", "dataset", "--network", "my_network:Nothing", expected=2)
    assert "cannot be loaded" in " ".join(refused.output.split())
