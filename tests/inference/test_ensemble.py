"""Means of probabilities, and ensemble.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.codec import read_json, write_json
from autoseg.errors import ArtifactError, SettingsError
from autoseg.geometry import Geometry
from autoseg.inference import export
from autoseg.inference.ensemble import Ensemble, Member, average_probabilities, combine
from autoseg.inference.export import Prediction
from autoseg.postprocessing.steps import PostprocessingStep


def test_the_mean_is_weighted_and_inputs_stay() -> None:
    random = np.random.default_rng(0)
    first, second = random.random((2, 3, 4, 5, 6), dtype=np.float32)
    copies = first.copy(), second.copy()
    np.testing.assert_array_equal(average_probabilities([first, second], [1, 1]), (first + second) / 2)
    np.testing.assert_allclose(
        average_probabilities(iter([first, second]), [3, 1]), 0.75 * first + 0.25 * second, rtol=1e-6
    )
    np.testing.assert_array_equal(average_probabilities([first], [1]), first)
    np.testing.assert_array_equal([first, second], copies)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be averaged"):
        average_probabilities([np.zeros((2, 3, 3), np.float32), np.zeros((3, 3, 3), np.float32)], [1, 1])
    with pytest.raises(SettingsError, match="nothing to average"):
        average_probabilities([], [])


@pytest.mark.parametrize("slab", [1 << 24, 60])
def test_predictions_combine_slab_by_slab(monkeypatch: pytest.MonkeyPatch, slab: int) -> None:
    monkeypatch.setattr(export, "SLAB_VALUES", slab)
    geometry = Geometry(shape=(5, 4, 3), spacing=(1.0, 1.0, 1.0))
    parts = np.random.default_rng(0).random((2, 2, *geometry.shape), dtype=np.float32)
    mean = combine([Prediction.from_array("a", geometry, part) for part in parts], [1, 1])
    assert mean.case_id == "a"
    whole = np.concatenate([values for _, values in mean.slabs], axis=1)
    np.testing.assert_array_equal(whole, (parts[0] + parts[1]) / 2)


def test_ensemble_json_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.json"
    ensemble = Ensemble(
        members=(
            Member(configuration="2d", folds=(0, 1)),
            Member(configuration="3d_fullres", folds=("all",), checkpoint="best", weight=0.5),
        ),
        postprocessing=(PostprocessingStep(name="keep_largest", values=(1, 2)),),
        selection="cross-validation",
        scores={"2d": 0.5, "3d_fullres": None},
        reasons=("2d is best.",),
    )
    write_json(ensemble, path)
    assert read_json(Ensemble, path) == ensemble
    path.write_text(path.read_text().replace('"weight": 0.5', '"weight": 0'))
    with pytest.raises(ArtifactError, match="weight must be positive"):
        read_json(Ensemble, path)


def test_an_ensemble_without_models_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble(members=(), selection="given")
    with pytest.raises(ValueError, match="without a fold"):
        Member(configuration="2d", folds=())
