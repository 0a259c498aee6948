"""Which configuration follows which, and in what order they train."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg.errors import MissingArtifactError
from autoseg.inference.ensemble import Member
from autoseg.pipeline.cascade import find_previous, first_stage, next_stages
from autoseg.pipeline.folds import load_folds
from autoseg.pipeline.train import train, trainable
from autoseg.plan import Plan
from autoseg.splits import Fold
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace


@pytest.fixture
def cascade(planned_cascade: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(planned_cascade, tmp_path / "workspace")))


def test_the_first_stage_trains_before_the_cascade(cascade: Workspace) -> None:
    plan = cascade.load_plan()
    assert set(trainable(plan)) == {"2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"}
    backwards = replace(plan, configurations=plan.configurations[::-1])
    for each in (plan, backwards):
        order = trainable(each)
        assert order[0] == "3d_lowres"
        assert order[-1] == "3d_cascade_fullres"


def test_a_variant_of_the_first_stage_serves_cascades_that_do_not_exist_yet(cascade: Workspace) -> None:
    plan = cascade.load_plan()
    for name in ("3d_lowres", "3d_lowres@quick"):
        assert [c.data for c in next_stages(plan, name)] == ["3d_fullres"]
    assert next_stages(plan, "3d_fullres") == ()


def test_a_variant_of_the_cascade_follows_the_variant_of_its_first_stage(cascade: Workspace) -> None:
    config = TrainingConfig(epochs=1, iterations_per_epoch=1, validation_iterations=1)
    with pytest.raises(MissingArtifactError, match="segmentations that 3d_lowres makes"):
        train(cascade, "3d_cascade_fullres", 0, config=config, variant="own", device="cpu", workers=0)
    assert cascade.load_plan().configuration("3d_cascade_fullres@own").previous_stage == "3d_lowres"
    train(cascade, "3d_lowres", "all", config=config, variant="quick", device="cpu", workers=0)
    with pytest.raises(MissingArtifactError, match="segmentations that 3d_lowres@quick makes"):
        train(cascade, "3d_cascade_fullres", 0, config=config, variant="quick", device="cpu", workers=0)


def test_a_case_that_no_fold_holds_out_cannot_train_a_cascade(cascade: Workspace) -> None:
    configuration = cascade.load_plan().configuration("3d_cascade_fullres")
    folds = [Fold(train=("case00",), val=("case01",))]
    with pytest.raises(MissingArtifactError, match="must hold out every case once"):
        find_previous(cascade, configuration, folds, ["case00", "case01"])


def test_the_first_stage_predicts_with_the_folds_of_its_cascade_where_it_has_them(cascade: Workspace) -> None:
    plan: Plan = cascade.load_plan()
    assert len(load_folds(cascade)) == 2
    with pytest.raises(MissingArtifactError, match="autoseg train 3d_lowres"):
        first_stage(cascade, plan, Member(configuration="3d_cascade_fullres", folds=(0,)))
    for fold in (0, 1):
        final = cascade.run("3d_lowres", fold).final
        final.parent.mkdir(parents=True)
        final.touch()
    for folds, expected in (((0,), (0,)), ((0, 1), (0, 1)), (("all",), (0, 1))):
        stage = first_stage(cascade, plan, Member(configuration="3d_cascade_fullres", folds=folds))
        assert stage == Member(configuration="3d_lowres", folds=expected)
    assert first_stage(cascade, plan, Member(configuration="3d_lowres", folds=(0,))) is None
