"""Small fingerprints and datasets to plan for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from autoseg.dataset import Dataset
from autoseg.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.labels import LabelScheme

Grids = Sequence[tuple[Sequence[float], Sequence[int]]]


def fingerprint_of(grids: Grids, *, num_channels: int = 1, relative_size: float = 1.0) -> Fingerprint:
    """Fingerprint of cases with the given spacings (mm) and cropped shapes."""
    orientation = "SPL" if len(grids[0][0]) == 3 else "PL"
    cases = tuple(
        CaseFingerprint(
            id=f"case{number:03d}",
            spacing=tuple(spacing),
            shape=tuple(shape),
            cropped_shape=tuple(shape),
            orientation=orientation,
        )
        for number, (spacing, shape) in enumerate(grids)
    )
    statistics = IntensityStatistics(
        mean=100.0, median=99.0, std=20.0, min=-5.0, max=300.0, percentile_00_5=10.0, percentile_99_5=200.0
    )
    return Fingerprint(
        cases=cases,
        intensities=(statistics,) * num_channels,
        median_relative_size=relative_size,
        orientation=orientation,
    )


def dataset_of(*, num_labels: int, num_cases: int, channels: Sequence[str] = ("MR",)) -> Dataset:
    """Dataset with ``num_labels`` labels, background included."""
    table = {"background": 0, **{f"label{value}": value for value in range(1, num_labels)}}
    return Dataset(
        root=Path(),
        name="Dataset001_Test",
        channels=tuple(channels),
        labels=LabelScheme.from_table(table, where="test"),
        file_ending=".nii.gz",
        declared_count=num_cases,
        training=(),
        test=(),
    )


@pytest.fixture(scope="session")
def make_fingerprint() -> Callable[..., Fingerprint]:
    return fingerprint_of


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Dataset]:
    return dataset_of
