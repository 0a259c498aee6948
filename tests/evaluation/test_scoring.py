"""Surfaces, lesions and counts: against surface-distance and MONAI on random masks, and in slabs of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from autoseg.errors import SettingsError
from autoseg.evaluation.lesions import count_lesions
from autoseg.evaluation.measures import Measuring, parse_metric, parse_metrics
from autoseg.evaluation.scoring import measure_case
from autoseg.evaluation.surface import surfel_distances
from autoseg.evaluation.surfels import surfel_sizes, surfels_of
from autoseg.labels import Target

ONE = (Target(name="one", values=(1,)),)
EVERYTHING = Measuring(metrics=parse_metrics("all"))
VOLUMES = [((14, 18, 21), (1.0, 1.0, 1.0)), ((14, 18, 21), (2.5, 1.0, 0.7)), ((40, 50), (0.7, 1.3))]


def measure(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], **options: object) -> dict[str, float | None]:
    case = measure_case(a.astype(np.uint8), b.astype(np.uint8), ONE, spacing=spacing, measuring=EVERYTHING, **options)  # type: ignore[arg-type]
    return case.values[0]


def random_masks(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), 2)
    return field > 0, field + gaussian_filter(rng.normal(size=shape), 2) / 2 > 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.0, 2.5), (0.7, 1.3)])
def test_surfel_sizes_are_those_of_surface_distance(spacing: tuple[float, ...]) -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    name = "surface_area" if len(spacing) == 3 else "contour_length"
    expected = getattr(tables, f"create_table_neighbour_code_to_{name}")(spacing)
    np.testing.assert_allclose(surfel_sizes(spacing), expected, rtol=0, atol=1e-14)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("shape", "spacing"), VOLUMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_surface_scores_equal_surface_distance(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    peer = pytest.importorskip("surface_distance")
    a, b = random_masks(shape, seed)
    expected = peer.compute_surface_distances(a, b, spacing)
    ours = measure(a, b, spacing)
    for tolerance in (0, 1, 2):
        score = peer.compute_surface_dice_at_tolerance(expected, tolerance)
        assert ours[f"nsd@{tolerance}mm"] == pytest.approx(score, abs=1e-12)
    assert ours["hd"] == pytest.approx(peer.compute_robust_hausdorff(expected, 100), abs=1e-12)
    assert ours["hd95"] == pytest.approx(peer.compute_robust_hausdorff(expected, 95), abs=1e-12)
    sums = [(expected[f"distances_{way}"], expected[f"surfel_areas_{side}"]) for way, side in
            (("gt_to_pred", "gt"), ("pred_to_gt", "pred"))]  # fmt: skip
    mean = sum((d * s).sum() for d, s in sums) / sum(s.sum() for _, s in sums)
    assert ours["asd"] == pytest.approx(mean, abs=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shape", "spacing"), VOLUMES)
def test_border_voxel_distances_equal_monai(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    monai = pytest.importorskip("monai.metrics")
    import torch

    a, b = random_masks(shape, 3)
    ours = measure(a, b, spacing)
    reference, prediction = (torch.from_numpy(m[None, None]).float() for m in (a, b))
    hausdorff = monai.compute_hausdorff_distance(prediction, reference, spacing=list(spacing))
    robust = monai.compute_hausdorff_distance(prediction, reference, spacing=list(spacing), percentile=95)
    average = monai.compute_average_surface_distance(prediction, reference, spacing=list(spacing), symmetric=True)
    assert ours["hd_voxels"] == pytest.approx(float(hausdorff), abs=1e-5)
    assert ours["hd95_voxels"] == pytest.approx(float(robust), abs=1e-5)
    assert ours["asd_voxels"] == pytest.approx(float(average), abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_overlap_equals_monai() -> None:
    monai = pytest.importorskip("monai.metrics")
    import torch

    a, b = random_masks((14, 18, 21), 5)
    ours = measure(a, b, (1, 1, 1))
    reference, prediction = (torch.from_numpy(np.stack([~m, m])[None]).float() for m in (a, b))
    matrix = monai.get_confusion_matrix(prediction, reference, include_background=False)
    for name in ("precision", "sensitivity", "specificity", "f1 score"):
        peer = float(monai.compute_confusion_matrix_metric(name, matrix))
        key = {"sensitivity": "recall", "f1 score": "f1"}.get(name, name)
        assert ours[key] == pytest.approx(peer, abs=1e-6)
    assert ours["dice"] == pytest.approx(float(monai.compute_dice(prediction, reference, include_background=False)))
    assert ours["iou"] == pytest.approx(float(monai.compute_iou(prediction, reference, include_background=False)))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_slabs_of_any_size_say_the_same_as_the_whole(data: st.DataObject, seed: int) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 8), min_size=2, max_size=3)))
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 5, shape) * (rng.random(shape) < data.draw(st.sampled_from([0.1, 0.5, 1])))
    prediction = np.where(rng.random(shape) < 0.3, rng.integers(0, 5, shape), reference)
    targets = [Target(name=str(v), values=v) for v in ((1,), (1, 2), (3,))]
    options = {"spacing": tuple(rng.uniform(0.5, 3, len(shape))), "measuring": EVERYTHING, "ignore_value": 4}
    whole = measure_case(reference, prediction, targets, **options)
    slabs = measure_case(reference, prediction, targets, **options, slab_voxels=data.draw(st.integers(1, 100)))
    assert slabs.counts == whole.counts
    assert np.array_equal(slabs.joint.table, whole.joint.table)
    for some, every in zip(slabs.values, whole.values, strict=True):
        assert some == pytest.approx(every, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_targets_measured_together_equal_each_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = rng.integers(0, 4, (2, 6, 9, 8))
    targets = [Target(name=str(v), values=(v,)) for v in (1, 2, 3)]
    together = measure_case(reference, prediction, targets, spacing=(2, 1, 1), measuring=EVERYTHING)
    for target, values in zip(targets, together.values, strict=True):
        alone = measure_case(reference, prediction, [target], spacing=(2, 1, 1), measuring=EVERYTHING)
        assert alone.values[0] == values


def test_ignored_voxels_belong_to_no_surface() -> None:
    reference = np.zeros((1, 8, 8), dtype=np.uint8)
    reference[0, 2:4, 2:4] = 1
    prediction = reference.copy()
    prediction[0, 6:, 6:] = 1
    reference[0, 6:, 6:] = 2
    case = measure_case(reference, prediction, ONE, spacing=(1, 1, 1), measuring=EVERYTHING, ignore_value=2)
    assert case.values[0]["hd"] == 0
    assert case.values[0]["lesions_prediction"] == 1


class TestByHand:
    """Two by two by two voxels, and shapes whose distances one can see."""

    def test_two_by_two_by_two(self) -> None:
        a = np.asarray([1, 1, 1, 0, 0, 0, 0, 0]).reshape(2, 2, 2)
        b = np.asarray([1, 1, 0, 1, 0, 0, 0, 0]).reshape(2, 2, 2)
        ours = measure(a, b, (1.0, 2.0, 5.0))  # TP 2, FP 1, FN 1, TN 4
        assert ours["recall"] == ours["precision"] == ours["dice"] == ours["f1"] == pytest.approx(2 / 3)
        assert ours["specificity"] == pytest.approx(4 / 5)
        assert ours["iou"] == pytest.approx(1 / 2)
        assert ours["volume_reference"] == ours["volume_prediction"] == pytest.approx(0.03)

    def test_iou_follows_from_dice(self) -> None:
        a, b = random_masks((9, 9, 9), 8)
        ours = measure(a, b, (1, 1, 1))
        assert ours["dice"] is not None
        assert ours["iou"] == pytest.approx(ours["dice"] / (2 - ours["dice"]))

    def test_a_shifted_block_is_as_far_as_it_was_shifted(self) -> None:
        a, b = np.zeros((2, 5, 9, 20), dtype=bool)
        a[1:4, 2:7, 2:6], b[1:4, 2:7, 5:9] = True, True
        ours = measure(a, b, (1.0, 1.0, 1.5))
        assert ours["hd"] == ours["hd_voxels"] == pytest.approx(4.5)
        assert ours["volume_difference"] == 0

    def test_surface_dice_grows_with_the_tolerance_and_is_symmetric(self) -> None:
        a, b = random_masks((12, 12, 12), 2)
        first = surfel_distances(surfels_of(a), surfels_of(b), (1, 1, 1))
        second = surfel_distances(surfels_of(b), surfels_of(a), (1, 1, 1))
        scores = [first.surface_dice(t) for t in (0, 0.5, 1, 2, 50)]
        assert scores == sorted(scores)
        assert scores[-1] == 1
        assert second.surface_dice(1) == pytest.approx(first.surface_dice(1), abs=1e-14)

    def test_half_the_voxel_size_at_twice_the_spacing_has_the_same_area(self) -> None:
        block = np.zeros((6, 6, 6), dtype=bool)
        block[1:5, 1:5, 1:5] = True
        sizes = surfels_of(block).sizes((1, 1, 1)).sum()
        assert surfels_of(block).sizes((2, 2, 2)).sum() == pytest.approx(4 * sizes)


class TestEmptyMasks:
    def test_one_of_two_is_the_worst_there_is(self) -> None:
        a = np.zeros((3, 4, 12), dtype=bool)
        a[1, 1, 1] = True
        for pair in ((a, ~a & a), (~a & a, a)):
            ours = measure(*pair, (1.0, 1.0, 1.0))
            for name in ("dice", "iou", "precision", "recall", "nsd@1mm", "lesion_f1"):
                assert ours[name] == 0
            for name in ("hd", "hd95", "asd", "hd_voxels", "hd95_voxels", "asd_voxels"):
                assert ours[name] == pytest.approx(13.0)  # the diagonal of 3 x 4 x 12

    @pytest.mark.parametrize(("rule", "dice", "hd"), [("undefined", None, None), ("perfect", 1, 0), ("worst", 0, 13)])
    def test_both_follow_the_rule(self, rule: str, dice: float | None, hd: float | None) -> None:
        nothing = np.zeros((3, 4, 12), dtype=np.uint8)
        measuring = Measuring(metrics=parse_metrics("dice,hd,specificity,volume_reference"), both_empty=rule)  # type: ignore[arg-type]
        (values,) = measure_case(nothing, nothing, ONE, spacing=(1, 1, 1), measuring=measuring).values
        assert values["dice"] == dice
        assert values["hd"] == (None if hd is None else pytest.approx(hd))
        assert values["specificity"] == 1
        assert values["volume_reference"] == 0


class TestLesions:
    reference = np.asarray([[1, 1, 0, 1, 0, 1, 0, 0, 0]], dtype=bool)
    prediction = np.asarray([[0, 1, 1, 1, 0, 0, 0, 1, 0]], dtype=bool)

    def test_any_overlap(self) -> None:
        # the first predicted component touches two lesions; one lesion is missed, one component is false
        counts = count_lesions(self.reference, self.prediction)
        assert (counts.found, counts.missed, counts.right, counts.false) == (2, 1, 1, 1)
        assert counts.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))

    def test_one_to_one_above_an_iou(self) -> None:
        counts = count_lesions(self.reference, self.prediction, min_iou=0.3)
        assert (counts.found, counts.missed, counts.right, counts.false) == (1, 2, 1, 1)
        assert count_lesions(self.reference, self.prediction, min_iou=0.5).found == 0

    def test_nothing_anywhere(self) -> None:
        empty = np.zeros((2, 2), dtype=bool)
        assert math.isnan(count_lesions(empty, empty).f1)


def test_names_are_read_and_refused_with_a_hint() -> None:
    assert [m.name for m in parse_metrics("Dice, PPV, nsd@0.5mm, nsd@2,dice")] == [
        "dice",
        "precision",
        "nsd@0.5mm",
        "nsd@2mm",
    ]
    for text, hint in [
        ("dize", "did you mean dice"),
        ("nsd", "tolerance in mm"),
        ("dice@1", "nothing behind"),
        ("lesion_f1@2", "below 1"),
        ("nsd@x", "a number"),
    ]:
        with pytest.raises(SettingsError, match=hint):
            parse_metric(text)
    with pytest.raises(SettingsError, match="at least one"):
        parse_metrics(" ,")
