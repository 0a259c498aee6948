"""Temperatures are recovered, expected Dice comes true where probabilities do, and odd predictions are flagged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoseg.evaluation.calibration import (
    calibration_error,
    cross_entropy,
    fit_temperature,
    sample_voxels,
    truth_of,
    with_temperature,
)
from autoseg.evaluation.trust import (
    ExpectedOverlap,
    LabelFacts,
    TrustModel,
    fit_trust,
    judge,
    label_facts,
    label_ranges,
)
from autoseg.inference.refinement import total_variation
from autoseg.labels import LabelScheme

LABELS = LabelScheme.from_table({"background": 0, "liver": 1, "tumor": 2}, where="test")
REGIONS = LabelScheme.from_table({"background": 0, "whole": [1, 2], "core": [2]}, (1, 2), where="test")


def drawn(seed: int, shape: tuple[int, ...] = (30, 40, 40)) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities, and a reference that is drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (3, *shape))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    reference = (rng.random(shape) > np.cumsum(probabilities, axis=0)[:2, ...]).sum(axis=0)
    return probabilities.astype(np.float32), reference


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
    def test_what_was_done_to_the_logits_is_found(self, temperature: float) -> None:
        probabilities, reference = drawn(0)
        changed = with_temperature(probabilities, 1 / temperature, LABELS)
        sample = sample_voxels(changed, reference, LABELS, most=40_000)
        assert fit_temperature([sample], LABELS) == pytest.approx(temperature, rel=0.07)

    def test_it_is_found_for_regions(self) -> None:
        rng = np.random.default_rng(1)
        p = rng.beta(0.5, 0.5, (2, 60_000)).astype(np.float32)
        core = rng.random(60_000) < p[1]
        whole = rng.random(60_000) < p[0]
        truth = np.where(core, 2, np.where(whole, 1, 0))
        sharp = with_temperature(np.stack([np.where(core, 0.9, p[0]), p[1]]).astype(np.float32), 0.5, REGIONS)
        found = fit_temperature([(sharp[1:].repeat(2, axis=0), np.where(core, 2, 0))], REGIONS)
        assert found == pytest.approx(2, rel=0.1)
        assert truth_of(truth, REGIONS)[1].sum() == core.sum()

    def test_cross_entropy_and_calibration_error_fall_and_labels_stay(self) -> None:
        probabilities, reference = drawn(2)
        sure = with_temperature(probabilities, 0.4, LABELS)
        sample, values = sample_voxels(sure, reference, LABELS, most=20_000)
        truth = truth_of(values, LABELS)
        calibrated = with_temperature(sample, fit_temperature([(sample, values)], LABELS), LABELS)
        assert cross_entropy(calibrated, truth, LABELS) < cross_entropy(sample, truth, LABELS)
        assert calibration_error(calibrated, truth) < calibration_error(sample, truth) / 3
        assert np.array_equal(LABELS.segmentation(calibrated), LABELS.segmentation(sample))
        np.testing.assert_allclose(calibrated.sum(axis=0), 1, atol=1e-5)

    def test_logits_are_divided_by_it(self) -> None:
        logits = np.random.default_rng(5).normal(0, 1, (3, 50))
        p, expected = (np.exp(z) / np.exp(z).sum(axis=0) for z in (logits, logits / 2.5))
        np.testing.assert_allclose(with_temperature(p.astype(np.float32), 2.5, LABELS), expected, atol=1e-5)
        single = 1 / (1 + np.exp(-logits[:2]))
        halved = 1 / (1 + np.exp(-logits[:2] / 2))
        np.testing.assert_allclose(with_temperature(single.astype(np.float32), 2, REGIONS), halved, atol=1e-5)

    def test_one_and_nothing_change_nothing(self) -> None:
        probabilities, _ = drawn(3, (2, 3, 4))
        assert with_temperature(probabilities, 1, LABELS) is probabilities
        assert fit_temperature([(np.empty((3, 0)), np.empty(0))], LABELS) == 1

    def test_ignored_voxels_are_not_drawn(self) -> None:
        labels = LabelScheme.from_table({"background": 0, "liver": 1, "ignore": 2}, where="test")
        reference = np.asarray([[1, 2, 1, 2]])
        _, values = sample_voxels(np.full((2, 1, 4), 0.5, np.float32), reference, labels)
        assert values.tolist() == [1, 1]


class TestExpectedDice:
    def test_it_comes_true_where_probabilities_do(self) -> None:
        probabilities, reference = drawn(4, (40, 60, 60))
        overlap = ExpectedOverlap(labels=LABELS)
        for start in range(0, 40, 7):
            overlap.add(probabilities[:, start : start + 7])
        decided = LABELS.segmentation(probabilities)
        dice = [
            2 * ((decided == v) & (reference == v)).sum() / ((decided == v).sum() + (reference == v).sum())
            for v in (1, 2)
        ]
        assert overlap.dice == pytest.approx(np.mean(dice), abs=0.01)

    def test_nothing_predicted_expects_nothing(self) -> None:
        overlap = ExpectedOverlap(labels=LABELS)
        overlap.add(np.asarray([0.9, 0.05, 0.05], dtype=np.float32).reshape(3, 1, 1, 1).repeat(50, axis=1))
        assert overlap.dice is None


def test_the_regression_is_scored_without_the_fold_of_each_case() -> None:
    rng = np.random.default_rng(0)
    cases = [f"c{n}" for n in range(60)]
    expected = dict(zip(cases, rng.uniform(0.5, 1, 60), strict=True))
    true = {case: 0.2 + 0.7 * value + rng.normal(0, 0.02) for case, value in expected.items()}
    folds = {case: f"fold{n % 5}" for n, case in enumerate(cases)}
    model = fit_trust(expected, true, folds, ())
    assert model.slope == pytest.approx(0.7, abs=0.05)
    assert model.intercept == pytest.approx(0.2, abs=0.05)
    assert model.correlation is not None
    assert model.correlation > 0.9
    assert 0.02 < model.error < 0.06
    assert 0 <= model.predicted_dice(5.0) <= 1
    nothing = fit_trust(expected, {case: rng.uniform(0.5, 1) for case in cases}, folds, ())
    assert nothing.correlation is not None
    assert nothing.correlation < 0.4
    assert nothing.error > 0.15
    assert fit_trust({}, {}, {}, ()).correlation is None


class TestFlags:
    @pytest.fixture
    @staticmethod
    def good() -> np.ndarray:
        volume = np.zeros((20, 30, 30), dtype=np.uint8)
        volume[4:16, 5:25, 5:25] = 1
        volume[8:12, 10:16, 10:16] = 2
        return volume

    @pytest.fixture
    @staticmethod
    def model(good: np.ndarray) -> TrustModel:
        spacing = (2.0, 1.0, 1.0)
        cases = []
        for n in range(10):
            case = good.copy()
            if n < 2:
                case[case == 2] = 1  # one in five has no tumor
            cases.append(label_facts(np.roll(case, n, axis=2), spacing, LABELS.targets))
        expected = {f"c{n}": 0.8 + n / 100 for n in range(10)}
        return fit_trust(
            expected, expected, {f"c{n}": str(n % 2) for n in range(10)}, label_ranges(cases, LABELS.targets)
        )

    def flags(self, segmentation: np.ndarray, model: TrustModel, expected: float | None = 0.85) -> tuple[str, ...]:
        facts = label_facts(segmentation, (2.0, 1.0, 1.0), LABELS.targets)
        return judge("x", facts, expected, model).flags

    def test_good_predictions_are_silent(self, good: np.ndarray, model: TrustModel) -> None:
        assert self.flags(good, model) == ()
        without_tumor = np.where(good == 2, 1, good)
        assert self.flags(without_tumor, model) == ()  # some training cases have none either

    @pytest.mark.parametrize(
        ("corrupt", "says"),
        [
            (lambda v: np.zeros_like(v), "nothing was found"),
            (lambda v: np.where(v == 1, 0, v), "no liver, which 100% of the training cases have"),
            (lambda v: np.ones_like(v), "at most"),
            (lambda v: np.where(np.arange(30) < 9, v, 0), "at least"),
            (lambda v: np.where(np.arange(30) % 4 == 0, 0, v), "pieces"),
        ],
    )
    def test_corrupted_ones_are_not(self, good: np.ndarray, model: TrustModel, corrupt: object, says: str) -> None:
        flags = self.flags(corrupt(good), model)  # type: ignore[operator]
        assert any(says in flag for flag in flags), flags

    def test_an_unsure_one_is_flagged_with_its_expected_dice(self, good: np.ndarray, model: TrustModel) -> None:
        assert any("a Dice of 0.40 is expected" in flag for flag in self.flags(good, model, expected=0.4))
        facts = label_facts(good, (2.0, 1.0, 1.0), LABELS.targets)
        quality = judge("x", facts, 0.85, model, seconds=3.0)
        assert quality.predicted_dice == pytest.approx(0.85, abs=1e-6)
        assert quality.interval is not None
        assert quality.interval[0] <= 0.85 <= quality.interval[1]
        assert quality.seconds == 3

    def test_without_a_model_only_emptiness_is_known(self, good: np.ndarray) -> None:
        facts = label_facts(good * 0, (2.0, 1.0, 1.0), LABELS.targets)
        assert judge("x", facts, None, None).flags == ("nothing was found",)
        present = tuple(replace(fact, millilitres=1.0) for fact in facts)
        assert judge("x", present, None, None).predicted_dice is None
        assert isinstance(facts[0], LabelFacts)


def test_folds_that_agree_have_no_disagreement_and_opposite_ones_all_of_it() -> None:
    sure = np.asarray([1.0, 0, 0], dtype=np.float32).reshape(3, 1, 1)
    other = np.asarray([0, 1.0, 0], dtype=np.float32).reshape(3, 1, 1)
    assert total_variation([sure, sure], [1, 1], LABELS).item() == 0
    assert total_variation([sure, other], [1, 1], LABELS).item() == pytest.approx(0.5)
    # the mean is (3/4, 1/4): a quarter apart for one, three quarters for the other
    assert total_variation([sure, other], [3, 1], LABELS).item() == pytest.approx((3 * 0.25 + 0.75) / 4)
