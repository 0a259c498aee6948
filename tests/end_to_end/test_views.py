"""Views: a model of each by one command, images to the models of their view, and refusals that name the case."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.dataset import DatasetSource, load_dataset
from autoseg.errors import DatasetError, MissingArtifactError
from autoseg.image import read_segmentation
from autoseg.pipeline.prediction_report import PredictionReport
from autoseg.pipeline.views import cases_by_view, views_of
from autoseg.splits import read_splits
from autoseg.synthetic import KINDS
from autoseg.workspace import Workspace

KIND = KINDS["mnms2"]
LABELS = [word for name, value in KIND.labels.items() for word in ("--label", f"{name}={value}")]
SHORT = ("--set", "iterations_per_epoch=4", "--set", "validation_iterations=1", "--set", "batch_size=2")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def sentence(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views") / "hearts"
    KIND.write(folder, num_training=2, num_test=1)
    return folder


@pytest.fixture(scope="module")
def hearts(dataset: Path) -> Workspace:
    """Both views trained for a few steps, by one command."""
    space = dataset.parent / "workspace"
    result = run(
        *("preset", "train", "mnms2", dataset, "--table", dataset / "cases.csv", "--channel-name", "MRI", *LABELS),
        *("-w", space, "--folds", "2", "--gpu-memory", "2", "--iterations", "4", "--device", "cpu", "--workers", "0"),
        *SHORT,
    )
    assert result.exit_code == 0, result.output
    return Workspace.discover(space)


def test_one_command_trains_a_model_of_each_view(hearts: Workspace) -> None:
    assert set(hearts.by_view) == {"LA", "SA"}
    train = {}
    for view, space in hearts.by_view.items():
        plan = space.load_plan()
        assert plan.view == view
        assert {case.view for case in load_dataset(space.dataset_source).training} == {view}
        assert plan.median_shape[0] == {"LA": 1, "SA": 6}[view]
        assert space.run("2d@mnms2", 0).scores.is_file()
        train[view] = {case.split("_")[0] for case in read_splits(space.splits_path)[0].train}
    assert train["LA"] == train["SA"]  # a patient is held out in both views, with both phases


def test_images_go_to_the_models_of_their_view(hearts: Workspace, tmp_path: Path) -> None:
    result = run("ensemble-predict", "-w", hearts.root, "-o", tmp_path / "all", "--zip", tmp_path / "all.zip")
    assert result.exit_code == 0, result.output
    names = {f"002_{view}_{phase}" for view in ("SA", "LA") for phase in ("ED", "ES")}
    assert {path.name for path in (tmp_path / "all").glob("*.nii.gz")} == {f"{name}.nii.gz" for name in names}
    table = hearts.dataset_source.table
    assert table is not None
    for view, space in hearts.by_view.items():
        report = read_json(PredictionReport, tmp_path / "all" / f"prediction.{view}.json")
        assert report.predicted == tuple(sorted(name for name in names if view in name))
        own, other = tmp_path / view, tmp_path / f"not-{view}"
        rows = [
            row
            for row in csv.DictReader(table.read_text().splitlines())
            if row["split"] == "test" and row["view"] == view
        ]
        for row in rows:
            row["image"] = str(table.parent / row["image"])
        # The same images by that view's models directly, and by the other's, when the view is kept from them.
        _write(rows, tmp_path / "own.csv")
        _write([row | {"view": ""} for row in rows], tmp_path / "blind.csv")
        wrong = next(part for name, part in hearts.by_view.items() if name != view)
        assert run("ensemble-predict", "-w", space.root, "--table", tmp_path / "own.csv", "-o", own).exit_code == 0
        blind = ("--table", tmp_path / "blind.csv", "-o", other, "--unchecked")
        assert run("ensemble-predict", "-w", wrong.root, *blind).exit_code == 0
        for row in rows:
            file = f"{row['case']}.nii.gz"
            found = read_segmentation(tmp_path / "all" / file).array
            np.testing.assert_array_equal(found, read_segmentation(own / file).array)
            assert (found != read_segmentation(other / file).array).any()
    again = run("ensemble-predict", "-w", hearts.root, "-o", tmp_path / "all")
    assert again.output.count("2 were there already") == 2


def _write(rows: list[dict[str, str]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_an_unknown_view_names_the_case(hearts: Workspace, dataset: Path, tmp_path: Path) -> None:
    for name in ("002_LA_ED", "002_SA_ED"):
        shutil.copy(dataset / "imagesTs" / f"{name}_0000.nii.gz", tmp_path)
    predict = ("ensemble-predict", "-w", hearts.root, "-i", tmp_path, "-o", tmp_path / "out")
    unknown = run(*predict)
    assert unknown.exit_code == 2
    assert "the view of case 002_LA_ED (and of 1 more) is unknown" in sentence(unknown)
    assert "--view" in unknown.output
    nowhere = run(*predict, "--view", "4CH")
    assert (nowhere.exit_code, "models of LA, SA" in sentence(nowhere)) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_wrong_view_is_refused(hearts: Workspace, dataset: Path, tmp_path: Path) -> None:
    shutil.copy(dataset / "imagesTs" / "002_LA_ED_0000.nii.gz", tmp_path)
    looks = run("ensemble-predict", "-w", hearts.root, "-i", tmp_path, "-o", tmp_path / "out", "--view", "SA")
    assert looks.exit_code == 2
    assert "case 002_LA_ED is given as SA and looks like LA" in sentence(looks)
    right = run("ensemble-predict", "-w", hearts.root, "-i", tmp_path, "-o", tmp_path / "out", "--view", "LA")
    assert right.exit_code == 0, right.output
    said = run("ensemble-predict", "-w", hearts.by_view["SA"].root, "--table", dataset / "cases.csv")
    assert said.exit_code == 2
    assert "case 000_LA_ED has the view LA, and these models were trained on SA" in sentence(said)
    table = tmp_path / "cases.csv"
    table.write_text(
        (dataset / "cases.csv").read_text().replace(",LA,", ",2CH,").replace("images", f"{dataset}/images")
    )
    foreign = run("ensemble-predict", "-w", hearts.root, "--table", table)
    assert (foreign.exit_code, "has the view 2CH; there are models of LA, SA" in sentence(foreign)) == (2, True)


def test_commands_for_one_workspace_name_those_of_the_views(hearts: Workspace) -> None:
    result = run("report", "2d@mnms2", "-w", hearts.root)
    assert result.exit_code == 2
    assert f"-w {hearts.by_view['LA'].root}" in sentence(result)
    doctor = run("doctor", "-w", hearts.root)
    assert doctor.output.count("2d@mnms2") >= 2
    with pytest.raises(MissingArtifactError, match="one workspace per view"):
        hearts.load_plan()


def test_training_cases_need_a_view(dataset: Path) -> None:
    table = dataset / "cases.csv"
    source = DatasetSource(root=dataset, table=table, channel_names=("MRI",), label_values=KIND.labels)
    loaded = load_dataset(source)
    assert views_of(loaded) == ("LA", "SA")
    blank = (*loaded.training[:-1], replace(loaded.training[-1], view=None))
    with pytest.raises(DatasetError, match="case 001_SA_ES has no view"):
        views_of(replace(loaded, training=blank))
    odd = (*loaded.training[:-1], replace(loaded.training[-1], view="../SA"))
    with pytest.raises(DatasetError, match="name of a folder"):
        views_of(replace(loaded, training=odd))
    with pytest.raises(DatasetError, match="view 4CH; there are LA, SA"):
        load_dataset(replace(source, view="4CH"))


def test_cases_of_the_dataset_are_grouped(hearts: Workspace) -> None:
    grouped = cases_by_view(hearts)
    assert {view: [case.id for case in cases] for view, cases in grouped.items()} == {
        "LA": ["002_LA_ED", "002_LA_ES"],
        "SA": ["002_SA_ED", "002_SA_ES"],
    }


def test_any_configuration_is_planned_by_view(dataset: Path, tmp_path: Path) -> None:
    plan = ("plan-and-preprocess", dataset, "--table", dataset / "cases.csv", "--channel-name", "MRI", *LABELS)
    small = ("-w", tmp_path / "w", "--gpu-memory", "0.1", "--configurations", "2d", "--workers", "0")
    assert run(*plan, *small, "--by-view").exit_code == 0
    space = Workspace.discover(tmp_path / "w")
    before = {view: part.plan_path.read_bytes() for view, part in space.by_view.items()}
    assert run("plan-and-preprocess", dataset, *small).exit_code == 0  # the workspace knows table and views
    assert {view: part.plan_path.read_bytes() for view, part in space.by_view.items()} == before
    short = ("--iterations", "1", "--device", "cpu", "--workers", "0", *SHORT)
    result = run("train", "2d", "fold0", "-w", space.root, *short)
    assert result.exit_code == 0, result.output
    assert all(part.run("2d", 0).scores.is_file() for part in space.by_view.values())
    together = run(*plan, "-w", tmp_path / "together", *small[2:])
    assert together.exit_code == 0, together.output
    late = run(*plan, "-w", tmp_path / "together", *small[2:], "--by-view")
    assert (late.exit_code, "all views together" in sentence(late)) == (2, True)
