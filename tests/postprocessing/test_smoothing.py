"""Noise on outlines and in probabilities goes, volumes and sharp edges stay; settings of zero change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import SettingsError
from autoseg.evaluation.surface import surfel_distances
from autoseg.evaluation.surfels import surfels_of
from autoseg.geometry import Geometry
from autoseg.image import Image
from autoseg.inference.export import Prediction
from autoseg.inference.refinement import refined
from autoseg.labels import LabelScheme
from autoseg.postprocessing.crf import CRF, dense_crf
from autoseg.postprocessing.probabilities import smooth_probabilities, threshold
from autoseg.postprocessing.smoothing import open_close, smooth
from autoseg.postprocessing.steps import PostprocessingStep, Surroundings, refine_probabilities

LABELS = LabelScheme.from_table({"background": 0, "organ": 1}, where="test")
TWO = LabelScheme.from_table({"background": 0, "organ": 1, "lesion": 2}, where="test")
REGIONS = LabelScheme.from_table({"background": 0, "whole": [1, 2], "core": [2]}, (1, 2), where="test")
SPACING = (2.0, 1.0, 1.0)


@pytest.fixture
def ball() -> np.ndarray:
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip((20, 40, 40), SPACING, strict=True)), indexing="ij")
    return np.asarray((z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < 13**2)


def hd95(a: np.ndarray, b: np.ndarray) -> float:
    return surfel_distances(surfels_of(a), surfels_of(b), SPACING).hausdorff(95)


@pytest.mark.parametrize(
    ("operation", "parameter", "noise"), [(smooth, {"sigma_mm": 1.5}, 0.12), (open_close, {"radius_mm": 1.0}, 0.01)]
)
def test_a_noisy_outline_becomes_smooth_and_the_volume_stays(
    ball: np.ndarray, operation: object, parameter: dict[str, float], noise: float
) -> None:
    rng = np.random.default_rng(0)
    near = ndimage.binary_dilation(ball, iterations=3) & ~ndimage.binary_erosion(ball, iterations=3)
    noisy = np.where(near & (rng.random(ball.shape) < noise), ~ball, ball)
    cleaned = operation(noisy.astype(np.uint8), (1,), Surroundings(spacing=SPACING), **parameter) == 1  # type: ignore[operator]
    assert hd95(ball, cleaned) < hd95(ball, noisy) or operation is open_close
    assert (cleaned != ball).sum() < (noisy != ball).sum()
    assert abs(cleaned.sum() / ball.sum() - 1) < 0.05


def test_smoothing_knows_millimetres() -> None:
    spike = np.zeros((9, 9), dtype=np.uint8)
    spike[:4] = 1
    spike[4, 4] = 1  # thinner than the blur in pixels, wider in millimetres
    assert smooth(spike, (1,), Surroundings(spacing=(1.0, 1.0)), sigma_mm=1.0)[4, 4] == 0
    assert smooth(spike, (1,), Surroundings(spacing=(9.0, 9.0)), sigma_mm=1.0)[4, 4] == 1


def test_zero_changes_nothing(ball: np.ndarray) -> None:
    around = Surroundings(spacing=SPACING, labels=LABELS, image=np.zeros((1, *ball.shape), np.float32))
    probabilities = np.random.default_rng(0).dirichlet((1, 1), ball.shape).astype(np.float32).transpose(3, 0, 1, 2)
    weights = dict(CRF.defaults) | {"appearance_weight": 0.0, "smoothness_weight": 0.0}
    assert np.array_equal(dense_crf(probabilities, (1,), around, **weights), probabilities)
    assert np.array_equal(smooth_probabilities(probabilities, (1,), around, sigma_mm=0), probabilities)
    np.testing.assert_allclose(threshold(probabilities, (1,), around, threshold=0.5), probabilities, atol=1e-6)
    assert np.array_equal(smooth(ball.astype(np.uint8), (1,), around, sigma_mm=0), ball)


class TestCrf:
    def noisy(self, ball: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image with a sharp edge, and probabilities with salt in them."""
        rng = np.random.default_rng(1)
        image = (100.0 * ball + rng.normal(0, 5, ball.shape)).astype(np.float32)[None]
        p = np.where(rng.random(ball.shape) < 0.15, 0.3 + 0.4 * ~ball, 0.2 + 0.6 * ball)
        return image, np.stack([1 - p, p]).astype(np.float32)

    def test_salt_goes_and_the_edge_stays(self, ball: np.ndarray) -> None:
        image, probabilities = self.noisy(ball)
        around = Surroundings(spacing=SPACING, labels=LABELS, image=image)
        result = dense_crf(probabilities, (1,), around, **dict(CRF.defaults))

        def dice(p: np.ndarray) -> float:
            mask = p[1] > 0.5
            return float(2 * (mask & ball).sum() / (mask.sum() + ball.sum()))

        assert dice(result) > 0.99 > dice(probabilities)
        np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-5)

    def test_one_step_equals_the_formula_written_out(self) -> None:
        rng = np.random.default_rng(2)
        image = rng.random((1, 4, 5)).astype(np.float32)
        q = rng.dirichlet((1, 1, 1), (4, 5)).astype(np.float32).transpose(2, 0, 1)
        parameters = dict(CRF.defaults) | {"radius": 2, "iterations": 1}
        found = dense_crf(q, (1,), Surroundings(spacing=(1.0, 1.5), labels=TWO, image=image), **parameters)
        low, high = np.percentile(image, [0.5, 99.5])
        scaled = (image[0] - low) / (high - low)
        expected = np.zeros_like(q)
        for i in range(4):
            for j in range(5):
                messages, norms = np.zeros((2, 3)), np.zeros(2)
                for k in range(max(0, i - 2), min(4, i + 3)):
                    for m in range(max(0, j - 1), min(5, j + 2)):  # two voxels of 1 mm are one of 1.5
                        if (k, m) != (i, j):
                            d2 = (k - i) ** 2 + (1.5 * (m - j)) ** 2
                            weights = (
                                np.exp(-d2 / 32 - (scaled[i, j] - scaled[k, m]) ** 2 / 0.02),
                                np.exp(-d2 / 4.5),
                            )
                            for n, weight in enumerate(weights):
                                messages[n] += weight * q[:, k, m]
                                norms[n] += weight
                score = np.log(q[:, i, j]) + 4 * messages[0] / norms[0] + 2 * messages[1] / norms[1]
                expected[:, i, j] = np.exp(score) / np.exp(score).sum()
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_it_needs_an_image(self, ball: np.ndarray) -> None:
        _, probabilities = self.noisy(ball)
        with pytest.raises(SettingsError, match="needs the image"):
            dense_crf(probabilities, (1,), Surroundings(spacing=SPACING, labels=LABELS), **dict(CRF.defaults))

    def test_regions_stay_between_zero_and_one(self, ball: np.ndarray) -> None:
        image, probabilities = self.noisy(ball)
        around = Surroundings(spacing=SPACING, labels=REGIONS, image=image)
        result = dense_crf(probabilities[::-1].copy(), (1, 2), around, **dict(CRF.defaults))
        assert result.shape == probabilities.shape
        assert 0 <= result.min() <= result.max() <= 1


class TestThreshold:
    @pytest.mark.parametrize("value", [0.2, 0.5, 0.8])
    def test_a_single_label_is_taken_above_it(self, value: float) -> None:
        p = np.random.default_rng(0).random((5, 6)).astype(np.float32)
        around = Surroundings(spacing=(1.0, 1.0), labels=LABELS)
        shifted = threshold(np.stack([1 - p, p]), (1,), around, threshold=value)
        assert np.array_equal(LABELS.segmentation(shifted) == 1, p > value)

    def test_a_region_is_taken_above_it_and_the_others_stay(self) -> None:
        p = np.random.default_rng(0).random((2, 5, 6)).astype(np.float32)
        shifted = threshold(p, (2,), Surroundings(spacing=(1.0, 1.0), labels=REGIONS), threshold=0.3)
        assert np.array_equal(shifted[1] > 0.5, p[1] > 0.3)
        assert np.array_equal(shifted[0], p[0])

    def test_the_strongest_of_several_labels_still_wins(self) -> None:
        p = np.asarray([0.5, 0.2, 0.3], dtype=np.float32).reshape(3, 1, 1)
        around = Surroundings(spacing=(1.0, 1.0), labels=TWO)
        both = threshold(threshold(p, (1,), around, threshold=0.2), (2,), around, threshold=0.2)
        assert TWO.segmentation(both).item() == 2

    def test_a_senseless_one_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="between 0 and 1"):
            threshold(np.zeros((2, 3, 3), np.float32), (1,), Surroundings(spacing=(1, 1), labels=LABELS), threshold=1)


def test_smoothed_probabilities_sum_to_one() -> None:
    p = np.random.default_rng(0).dirichlet((1, 1, 1), (6, 7, 8)).astype(np.float32).transpose(3, 0, 1, 2)
    around = Surroundings(spacing=SPACING, labels=TWO)
    for values in ((1,), (1, 2)):
        blurred = smooth_probabilities(p, values, around, sigma_mm=2)
        np.testing.assert_allclose(blurred.sum(axis=0), 1, atol=1e-5)
        assert blurred[1].std() < p[1].std()


@pytest.mark.parametrize("name", ["threshold", "smooth_probabilities"])
def test_slabs_of_a_prediction_are_refined_like_the_whole(name: str) -> None:
    geometry = Geometry(shape=(9, 6, 5), spacing=SPACING)
    p = np.random.default_rng(0).dirichlet((1, 1), geometry.shape).astype(np.float32).transpose(3, 0, 1, 2)
    image = Image(array=np.zeros((1, *geometry.shape), np.float32), geometry=geometry)
    parts = [slice(start, start + 2) for start in range(0, 8, 2)] + [slice(8, 9)]
    prediction = replace(Prediction.from_array("a", geometry, p), slabs=((part, p[:, part]) for part in parts))
    parameters = {"threshold": {"threshold": 0.3}, "smooth_probabilities": {"sigma_mm": 2.0}}[name]
    steps = (PostprocessingStep(name=name, values=(1,), parameters=parameters),)
    result = refined(prediction, steps, LABELS, image).to_array()
    np.testing.assert_allclose(result, refine_probabilities(steps, p, LABELS, SPACING), atol=1e-6)
