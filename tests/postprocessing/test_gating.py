"""R312: a head for the organ bounds the head for what is in it."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import parse_step, refine_probabilities, works_on_probabilities
from autoseg.synthetic.tubes import TUBE, tube_case

REGIONS = LabelScheme.from_table({"background": 0, "kidney": [1, 2], "vessel": [2]}, (1, 2), where="test")
EXCLUSIVE = LabelScheme.from_table({"background": 0, "kidney": 1, "vessel": 2}, where="test")


def two_heads() -> np.ndarray:
    """Kidney (4 slices of 8 x 8): one large piece and a small one; vessels in each, and one outside of both."""
    probabilities = np.zeros((2, 4, 8, 8), np.float32)
    probabilities[0, :, :4, :4] = 0.9
    probabilities[0, 1, 6:, 6:] = 0.8  # a small piece, in one slice
    probabilities[1, :, 1, 1] = 0.7
    probabilities[1, 1, 7, 7] = 0.7
    probabilities[1, 2, 7, 0] = 0.99
    return probabilities


@pytest.mark.parametrize(("largest", "stays"), [(0, True), (2, False), (3, False)])
def test_what_lies_outside_is_gone_and_the_rest_is_as_it_was(largest: int, stays: bool) -> None:
    probabilities = two_heads()
    before = probabilities.copy()
    step = parse_step(f"inside(vessel, organ=kidney, largest={largest})", REGIONS)
    assert works_on_probabilities([step])
    found = refine_probabilities([step], probabilities, REGIONS, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(probabilities, before)
    np.testing.assert_array_equal(found[0], before[0])
    np.testing.assert_array_equal(found[1, :, 1, 1], before[1, :, 1, 1])
    assert found[1, 2, 7, 0] == 0
    assert (found[1, 1, 7, 7] > 0) == stays


def test_largest_may_be_of_every_slice_or_of_the_volume() -> None:
    probabilities = np.zeros((2, 3, 8, 8), np.float32)
    probabilities[0, :2, :4, :4] = 0.9  # the organ, in two slices
    probabilities[0, 2, 5:, 5:] = 0.9  # something else, alone in its slice
    probabilities[1, 2, 6, 6] = 0.7
    kept = {
        largest: refine_probabilities(
            [parse_step(f"inside(vessel, organ=kidney, largest={largest})", REGIONS)], probabilities, REGIONS, (1, 1, 1)
        )[1, 2, 6, 6]
        > 0
        for largest in (2, 3)
    }
    assert kept == {2: True, 3: False}


def test_without_regions_probabilities_still_sum_to_one() -> None:
    scores = np.random.default_rng(0).random((3, 4, 8, 8)).astype(np.float32)
    probabilities = scores / scores.sum(axis=0)
    step = parse_step("inside(vessel, organ=kidney, largest=0)", EXCLUSIVE)
    found = refine_probabilities([step], probabilities, EXCLUSIVE, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    outside = probabilities[1:].sum(axis=0) <= 0.5
    assert outside.any()
    assert (found[2][outside] == 0).all()
    np.testing.assert_array_equal(found[2][~outside], probabilities[2][~outside])
    np.testing.assert_array_equal(found[1], probabilities[1])


def test_tubes_outside_of_the_organ_are_no_false_positives_any_more() -> None:
    """A head that takes whatever is bright, and one that knows the organ, on a synthetic kidney."""
    image, segmentation = tube_case(np.random.default_rng(4))
    labels = LabelScheme.from_table({"background": 0, "organ": [1, 2], "tube": [2]}, (1, 2), where="test")
    bright = np.clip((image.array[0].astype(np.float32) - 20_000) / 14_000, 0, 1)
    probabilities = np.stack([0.95 * (segmentation.array > 0).astype(np.float32), bright])

    def false_positives(given: np.ndarray) -> int:
        decided = labels.segmentation(given)
        return int(((decided == TUBE) & (segmentation.array == 0)).sum())

    found = refine_probabilities([parse_step("inside(tube, organ=organ)", labels)], probabilities, labels, (1, 1, 1))
    assert false_positives(probabilities) > 200
    assert false_positives(found) == 0
    outside, inside = segmentation.array == 0, segmentation.array > 0
    np.testing.assert_array_equal(found[1][inside], probabilities[1][inside])
    assert not found[1][outside].any()


def test_an_organ_bounds_not_itself_and_must_exist() -> None:
    probabilities = two_heads()
    step = parse_step("inside(kidney+vessel, organ=kidney)", REGIONS)
    assert refine_probabilities([step], probabilities, REGIONS, (1, 1, 1)) is probabilities
    with pytest.raises(SettingsError, match="no target 7"):
        refine_probabilities([parse_step("inside(vessel, organ=7)", REGIONS)], probabilities, REGIONS, (1, 1, 1))
    with pytest.raises(SettingsError, match="must be a number"):
        parse_step("inside(vessel, organ=liver)", REGIONS)
