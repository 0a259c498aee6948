"""What is asked of intensities is in the plan with its reason, and done to predicted images as in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import PlanError, SettingsError
from autoseg.image import read_image
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.preprocessing import enhancement
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.store import CaseStore

ASKED = ("n4(shrink=2,threshold=0.01)+histogram(reference=case02)+rescale_to_0_1+clahe(clip=0.02)",)


def test_steps_are_planned_with_reasons_and_the_same_at_prediction(
    ball_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = plan_and_preprocess(
        ball_dataset,
        workspace=tmp_path / "own",
        gpu_memory_gb=0.2,
        workers=0,
        configurations=["3d_fullres"],
        intensities=ASKED,
    )
    plan = space.load_plan()
    configuration = plan.configuration("3d_fullres")
    assert configuration.normalization[0].steps == "n4+histogram+rescale_to_0_1+clahe"
    assert "N4" in configuration.reasons["normalization"]
    assert "histogram of case case02" in configuration.reasons["normalization"]
    stored = CaseStore(space.preprocessed_dir(configuration.data)).open("case00").load()
    monkeypatch.setattr(enhancement, "_RECENT", enhancement._RecentFields(8))  # as in another process
    image = read_image([ball_dataset / "imagesTr" / "case00_0000.nii.gz"])
    predicted = preprocess_case("case00", image, None, plan, configuration)
    np.testing.assert_array_equal(predicted.image, stored.image)
    plain = plan_and_preprocess(
        ball_dataset, workspace=tmp_path / "plain", gpu_memory_gb=0.2, workers=0, configurations=["3d_fullres"]
    )
    other = CaseStore(plain.preprocessed_dir("3d_fullres")).open("case00").load()
    assert np.abs(other.image - stored.image).max() > 0.1


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("PET=zscore", PlanError, "there is no channel 'PET'"),
        ("histogram(reference=nobody)+zscore", SettingsError, "no training case 'nobody'"),
        ("n4+ct", PlanError, "relies on intensities"),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_sentence(
    ball_dataset: Path, tmp_path: Path, asked: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_and_preprocess(ball_dataset, workspace=tmp_path / "own", gpu_memory_gb=0.2, workers=0, intensities=[asked])
