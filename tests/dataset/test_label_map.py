"""Files whose label values are not those of the table: everything speaks of the values in the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from autoseg.augmentation.targets import make_targets
from autoseg.cli.main import app
from autoseg.dataset import DatasetSource, load_dataset
from autoseg.errors import DatasetError
from autoseg.evaluation.folder import evaluate_folder
from autoseg.image import Segmentation, read_segmentation, write_segmentation
from autoseg.labels import LabelScheme
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.preprocessing.store import CaseStore

# Multi-Modality Whole Heart Segmentation: left and right ventricle and atrium, myocardium, aorta, pulmonary artery.
HEART = {"LV": 1, "RV": 2, "LA": 3, "RA": 4, "Myo": 5, "AA": 6, "PA": 7}
STORED = {"500": 1, "600": 2, "420": 3, "550": 4, "205": 5, "820": 6, "850": 7}


def scheme(label_map: object = STORED, **more: object) -> LabelScheme:
    declaration = {"labels": {"background": 0, **HEART}, "label_map": label_map, **more}
    return LabelScheme.from_declaration(declaration, where="dataset.json")


def test_names_belong_to_the_values_in_the_files() -> None:
    labels = scheme()
    assert {t.name: t.values for t in labels.targets} == {
        name: (int(stored),) for stored, value in STORED.items() for name, label in HEART.items() if label == value
    }
    assert (labels.num_outputs, labels.has_regions, labels.declared_count) == (8, False, 8)


def test_segmentation_and_training_target_are_inverse_to_each_other() -> None:
    labels = scheme()
    stored = np.array([[0, *map(int, STORED)]], dtype=np.int16)
    [indices] = make_targets(torch.from_numpy(stored), labels, [(1, 1)])
    scores = np.moveaxis(np.eye(8)[indices[0].numpy()], -1, 0)
    decided = labels.segmentation(scores)
    np.testing.assert_array_equal(decided, stored)
    assert decided.dtype == np.uint16


def test_regions_and_ignore_are_mapped_too() -> None:
    table = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    labels = LabelScheme.from_declaration(
        {"labels": table, "regions_class_order": [1, 2], "label_map": {"10": 1, "20": 2, "255": 3}}, where="x"
    )
    assert [t.values for t in labels.targets] == [(10, 20), (20,)]
    assert (labels.region_order, labels.ignore_value) == ((10, 20), 255)


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({k: v for k, v in STORED.items() if v != 3}, "says nothing about the label(s) 3"),
        (STORED | {"900": 8}, "names the label 8, which labels does not declare"),
        (STORED | {"many": 1}, "label_map must be"),
        ([500], "label_map must be"),
        (STORED | {"500": "LV"}, "label_map must be"),
        ({k: v for k, v in STORED.items() if v != 3} | {"-1": 3}, "must map positive values"),
    ],
)
def test_a_wrong_map_is_refused(label_map: object, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        scheme(label_map)
    assert message in str(caught.value)


@pytest.fixture
def stored_differently(ball_dataset: Path, tmp_path: Path) -> Path:
    """The ball dataset with 500 and 205 in its files instead of 1 and 2."""
    root = Path(shutil.copytree(ball_dataset, tmp_path / "dataset"))
    for path in root.glob("labels*/*"):
        labels = read_segmentation(path)
        array = np.asarray((0, 500, 205), dtype=np.uint16)[labels.array]
        write_segmentation(path, Segmentation(array=array, geometry=labels.geometry))
    return root


def test_a_mapped_dataset_is_prepared_in_its_own_values(stored_differently: Path, tmp_path: Path) -> None:
    source = DatasetSource(root=stored_differently, label_map={"500": 1, "205": 2})
    space = plan_and_preprocess(source, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)
    plan = space.load_plan()
    assert {t.name: t.values for t in plan.labels.targets} == {"shell": (500,), "core": (205,)}
    case = CaseStore(space.preprocessed_dir("3d_fullres")).open("case00").load()
    assert set(np.unique(case.segmentation)) - {-1} == {0, 205, 500}
    assert load_dataset(space.dataset_source).labels == plan.labels


def test_evaluation_finds_the_map_beside_the_references(stored_differently: Path) -> None:
    path = stored_differently / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label_map": {"500": 1, "205": 2}}))
    references = stored_differently / "labelsTr"
    evaluation = evaluate_folder(references, references)
    assert {name: metrics["dice"] for name, metrics in evaluation.labels.items()} == {"shell": 1.0, "core": 1.0}


def test_evaluation_takes_a_map_of_its_own(stored_differently: Path, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"500": 1, "205": 2}')
    references = str(stored_differently / "labelsTr")
    words = ["evaluate", "-r", references, "-p", references]
    assert "shell" in CliRunner().invoke(app, words).stdout  # by the table alone nothing is found
    result = CliRunner().invoke(app, [*words, "--label-map", str(tmp_path / "map.json")])
    assert result.exit_code == 0
    assert result.stdout.count("1.0000") == 6
    (tmp_path / "map.json").write_text('{"500": "LV"}')
    result = CliRunner().invoke(app, [*words, "--label-map", str(tmp_path / "map.json")])
    assert result.exit_code == 2
    assert "map.json must hold" in result.output.replace("\n", "")


def test_labels_with_gaps_need_no_map(stored_differently: Path, tmp_path: Path) -> None:
    path = stored_differently / "dataset.json"
    labels = {"background": 0, "shell": 500, "core": 205}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    space = plan_and_preprocess(stored_differently, workspace=tmp_path / "w", gpu_memory_gb=0.2, workers=0)
    assert space.load_plan().labels.values == (0, 205, 500)
