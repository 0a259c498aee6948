"""Probabilities become labels and come back from disk; slabs join without a seam."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.geometry import Geometry
from autoseg.inference import export
from autoseg.inference.export import (
    Prediction,
    decide_labels,
    read_probabilities,
    slab_slices,
    write_probabilities,
)
from autoseg.labels import LabelScheme

LABELS = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test")
GEOMETRY = Geometry(shape=(7, 5, 6), spacing=(3.0, 1.0, 1.0), origin=(1.0, 2.0, 3.0))


@pytest.fixture
def probabilities() -> np.ndarray:
    scores = np.random.default_rng(0).random((3, *GEOMETRY.shape), dtype=np.float32)
    return scores / scores.sum(axis=0)


@pytest.fixture(params=[1 << 24, 200])
def slab_values(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slab, and slabs of two planes with a thinner last one."""
    monkeypatch.setattr(export, "SLAB_VALUES", request.param)


def test_slabs_are_complete_and_ordered(slab_values: None, probabilities: np.ndarray) -> None:
    parts = slab_slices(probabilities.shape)
    np.testing.assert_array_equal(np.concatenate([probabilities[:, part] for part in parts], axis=1), probabilities)
    assert parts[0].start == 0
    assert parts[-1].stop == 7


def test_a_prediction_becomes_a_segmentation(slab_values: None, probabilities: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "case.probabilities.b2nd"
    expected = probabilities.argmax(axis=0)
    plain = decide_labels(Prediction.from_array("case", GEOMETRY, probabilities), LABELS)
    stored = decide_labels(Prediction.from_array("case", GEOMETRY, probabilities), LABELS, probabilities_path=path)
    for segmentation in (plain, stored):
        np.testing.assert_array_equal(segmentation.array, expected)
        assert segmentation.array.dtype == np.uint8
        assert segmentation.geometry == GEOMETRY
    stored_values = read_probabilities(path)
    assert stored_values.dtype == np.float32
    np.testing.assert_array_equal(stored_values, probabilities.astype(np.float16))
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_halfway_leaves_no_file(probabilities: np.ndarray, tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]  # noqa: ANN202 - a generator that fails
        yield slice(0, 2), probabilities[:, :2]
        raise RuntimeError("disk full")

    prediction = Prediction(case_id="case", geometry=GEOMETRY, slabs=broken())
    with pytest.raises(RuntimeError, match="disk full"):
        decide_labels(prediction, LABELS, probabilities_path=tmp_path / "case.probabilities.b2nd")
    assert list(tmp_path.iterdir()) == []


def test_probabilities_of_2d_images(tmp_path: Path) -> None:
    flat = np.random.default_rng(0).random((2, 5, 6), dtype=np.float32)
    write_probabilities(tmp_path / "a.probabilities.b2nd", flat)
    np.testing.assert_array_equal(read_probabilities(tmp_path / "a.probabilities.b2nd"), flat.astype(np.float16))


def test_nnunet_archives_are_read(tmp_path: Path, probabilities: np.ndarray) -> None:
    np.savez_compressed(tmp_path / "a.npz", probabilities=probabilities)
    loaded = read_probabilities(tmp_path / "a.npz")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, probabilities)


@pytest.mark.parametrize("name", ["a.npz", "a.probabilities.b2nd"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingArtifactError, match="does not exist"):
        read_probabilities(tmp_path / name)
    (tmp_path / name).write_bytes(b"\0" * 40)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_probabilities(tmp_path / name)


def test_truncated_and_foreign_arrays_are_refused(tmp_path: Path, probabilities: np.ndarray) -> None:
    path = tmp_path / "a.probabilities.b2nd"
    write_probabilities(path, probabilities)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_probabilities(path)
    np.savez(tmp_path / "other.npz", softmax=probabilities)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_probabilities(tmp_path / "other.npz")
    np.savez(tmp_path / "labels.npz", probabilities=np.zeros((2, 3, 4), dtype=int))
    with pytest.raises(ArtifactError, match="holds no probabilities"):
        read_probabilities(tmp_path / "labels.npz")
    np.savez(tmp_path / "objects.npz", probabilities=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_probabilities(tmp_path / "objects.npz")


def test_probabilities_must_lie_on_the_grid(probabilities: np.ndarray) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Prediction.from_array("case", GEOMETRY, probabilities[:, 1:])
