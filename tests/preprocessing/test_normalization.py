from __future__ import annotations

import numpy as np
import pytest

from autoseg.errors import DatasetError, PlanError, SettingsError
from autoseg.fingerprint import IntensityStatistics
from autoseg.plan import NormalizationPlan
from autoseg.preprocessing.normalization import NORMALIZATIONS, normalize

STATISTICS = IntensityStatistics(
    mean=40.0, median=35.0, std=20.0, min=-500.0, max=900.0, percentile_00_5=-100.0, percentile_99_5=200.0
)
NOWHERE = np.zeros((2, 2), dtype=bool)
IMAGE = np.array([[[1.0, 2.0], [3.0, 6.0]]], dtype=np.float32)


def apply(image: np.ndarray, plan: NormalizationPlan, outside: np.ndarray = NOWHERE) -> np.ndarray:
    before = image.copy()
    normalized = normalize(image, (plan,), outside)
    np.testing.assert_array_equal(image, before)  # inputs are never changed
    assert normalized.dtype == np.float32
    assert normalized.flags.c_contiguous
    return normalized[0]


def test_zscore_gives_zero_mean_and_unit_deviation() -> None:
    image = np.random.default_rng(0).uniform(900, 1000, (1, 8, 9, 10)).astype(np.float32)
    normalized = apply(image, NormalizationPlan(scheme="zscore"), np.zeros((8, 9, 10), dtype=bool))
    assert normalized.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert normalized.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)


def test_masked_zscore_neither_sees_nor_changes_what_is_outside() -> None:
    image = np.array([[[7.0, 2.0], [4.0, 6.0]]], dtype=np.float32)
    outside = np.array([[True, False], [False, False]])
    normalized = apply(image, NormalizationPlan(scheme="zscore", use_mask=True), outside)
    deviation = (8 / 3) ** 0.5  # of 2, 4 and 6
    np.testing.assert_allclose(normalized, [[7, -2 / deviation], [0, 2 / deviation]], rtol=1e-6)


def test_masked_zscore_of_an_image_without_inside_changes_nothing() -> None:
    normalized = apply(IMAGE, NormalizationPlan(scheme="zscore", use_mask=True), ~NOWHERE)
    np.testing.assert_array_equal(normalized, IMAGE[0])


def test_ct_clips_and_uses_the_statistics_of_the_dataset() -> None:
    image = np.array([[[-1000.0, 40.0], [60.0, 1000.0]]], dtype=np.float32)
    normalized = apply(image, NormalizationPlan(scheme="ct", statistics=STATISTICS))
    np.testing.assert_allclose(normalized, [[-7, 0], [1, 8]], rtol=1e-6)


def test_rescaling_maps_the_range_to_0_and_1() -> None:
    normalized = apply(IMAGE, NormalizationPlan(scheme="rescale_to_0_1"))
    np.testing.assert_allclose(normalized, [[0, 0.2], [0.4, 1]], rtol=1e-6)


def test_rgb_divides_by_255() -> None:
    normalized = apply(IMAGE * 42.5, NormalizationPlan(scheme="rgb_to_0_1"))
    np.testing.assert_allclose(normalized, IMAGE[0] / 6, rtol=1e-6)


@pytest.mark.parametrize("factor", [-1.0, 100.0])
def test_rgb_refuses_what_is_no_color(factor: float) -> None:
    with pytest.raises(DatasetError, match="expects intensities from 0 to 255, found"):
        normalize(IMAGE * np.float32(factor), (NormalizationPlan(scheme="rgb_to_0_1"),), NOWHERE)


def test_none_keeps_intensities() -> None:
    np.testing.assert_array_equal(apply(IMAGE, NormalizationPlan(scheme="none")), IMAGE[0])


@pytest.mark.parametrize("scheme", ["zscore", "ct", "rescale_to_0_1"])
def test_images_without_contrast_stay_finite(scheme: str) -> None:
    flat = IntensityStatistics(mean=5, median=5, std=0, min=5, max=5, percentile_00_5=5, percentile_99_5=5)
    image = np.full((1, 2, 2), 5, dtype=np.float32)
    np.testing.assert_array_equal(apply(image, NormalizationPlan(scheme=scheme, statistics=flat)), 0)


def test_channels_are_normalized_apart() -> None:
    image = np.concatenate([IMAGE, 10 * IMAGE, IMAGE])
    plans = (
        NormalizationPlan(scheme="none"),
        NormalizationPlan(scheme="rescale_to_0_1"),
        NormalizationPlan(scheme="none"),
    )
    normalized = normalize(image, plans, NOWHERE)
    np.testing.assert_array_equal(normalized[[0, 2]], image[[0, 2]])
    assert normalized[1].max() == 1


def test_plans_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlanError, match=r"normalizes 2 channel\(s\), the image has 1"):
        normalize(IMAGE, (NormalizationPlan(scheme="none"),) * 2, NOWHERE)
    with pytest.raises(PlanError, match="needs foreground statistics"):
        normalize(IMAGE, (NormalizationPlan(scheme="ct"),), NOWHERE)
    with pytest.raises(SettingsError, match="did you mean zscore"):
        normalize(IMAGE, (NormalizationPlan(scheme="z-score"),), NOWHERE)


@pytest.mark.parametrize("name", NORMALIZATIONS.names())
def test_every_scheme_works_in_place_on_float32(name: str) -> None:
    channel = np.linspace(0, 255, 24, dtype=np.float32).reshape(2, 3, 4)
    window = (20.0, 200.0) if name == "window" else None
    plan = NormalizationPlan(scheme=name, statistics=STATISTICS, window=window)
    NORMALIZATIONS.get(name)(channel, plan, np.zeros(channel.shape, dtype=bool))
    assert channel.dtype == np.float32
    assert np.isfinite(channel).all()
    assert (np.diff(channel.ravel()) >= 0).all()  # order is kept
