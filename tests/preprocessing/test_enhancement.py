"""Bias fields, histograms, local contrast: each does what its name says, on images that were made for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import SettingsError
from autoseg.pipeline.intensities import parse_intensities
from autoseg.plan import BiasFieldPlan, ContrastPlan, HistogramPlan, NormalizationPlan
from autoseg.preprocessing import enhancement
from autoseg.preprocessing.enhancement import (
    correct_bias_field,
    equalize_contrast,
    landmarks_of,
    match_histogram,
)
from autoseg.preprocessing.normalization import normalize

RNG = np.random.default_rng(7)
QUICK = BiasFieldPlan(iterations=(50, 50, 30, 20))


def phantom(shape: tuple[int, int, int] = (6, 110, 110)) -> tuple[np.ndarray, np.ndarray]:
    """Two tissues in air under a field that changes 5-fold, and the mask of one tissue."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    body, core = y**2 + x**2 < 0.9**2, (y - 0.2) ** 2 + x**2 < 0.4**2
    image = np.where(core, 200.0, 100.0) * body
    field = np.exp(0.5 * x + 0.35 * y - 0.3 * x * y + 0.1 * z)
    noise = 1 + RNG.normal(0, 0.005, shape)
    return (image * field * noise).astype(np.float32), body & ~core


def variation(values: np.ndarray) -> float:
    return float(values.std() / values.mean())


def test_n4_takes_the_field_of_a_phantom_away() -> None:
    image, tissue = phantom()
    before, zeros = variation(image[tissue]), image == 0
    correct_bias_field(image, QUICK)
    assert before > 0.25
    assert variation(image[tissue]) < before / 20
    assert (image[zeros] == 0).all()


def test_fields_are_kept_on_disk_and_found_by_what_the_image_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = phantom((4, 40, 40))
    plan = BiasFieldPlan(shrink=1, iterations=(5,))
    first, second, other = image.copy(), image.copy(), image * 2
    correct_bias_field(first, plan, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(enhancement, "_RECENT", enhancement._RecentFields(4))
    with monkeypatch.context() as patched:
        patched.setattr(enhancement, "_estimate", None)  # would be an error, were it called
        correct_bias_field(second, plan, cache=tmp_path)
    np.testing.assert_array_equal(first, second)
    correct_bias_field(other, plan, cache=tmp_path)
    correct_bias_field(image.copy(), replace(plan, threshold=0.5), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_empty_image_has_no_field() -> None:
    nothing = np.zeros((3, 8, 8), np.float32)
    correct_bias_field(nothing, QUICK)
    assert not nothing.any()


def test_a_matched_histogram_is_that_of_the_reference() -> None:
    reference = RNG.gamma(2, 50, (10, 20, 20)).astype(np.float32)
    image = (RNG.normal(1000, 30, (12, 18, 25)) * (RNG.random((12, 18, 25)) < 0.8)).astype(np.float32)
    before = image.copy()
    match_histogram(image, HistogramPlan(landmarks=landmarks_of(reference)))
    inside = before != 0
    grid = np.linspace(0, reference.max(), 500)
    shares = [np.searchsorted(np.sort(a.ravel()), grid) / a.size for a in (image[inside], reference)]
    assert np.abs(shares[0] - shares[1]).max() < 0.02  # Kolmogorov's distance of the two distributions
    assert (image[~inside] == 0).all()
    order = np.argsort(before[inside], kind="stable")
    assert (np.diff(image[inside][order]) >= 0).all()


def test_matching_copes_with_few_distinct_intensities() -> None:
    image = RNG.integers(1, 4, (6, 7, 8)).astype(np.float32)
    match_histogram(image, HistogramPlan(landmarks=(0.0, 50.0, 100.0)))
    assert sorted(set(image.ravel())) == sorted({image.min(), np.median(image), image.max()})
    assert image.min() >= 0
    assert image.max() <= 100


def test_contrast_is_spread_within_the_range_and_nothing_changes_outside() -> None:
    image = (100 + RNG.normal(0, 1, (8, 40, 40)) + 100 * (np.arange(40) > 20)).astype(np.float32)
    outside = np.zeros(image.shape, bool)
    outside[:, :4] = True
    before, plan = image.copy(), ContrastPlan(clip_limit=0.05)
    equalize_contrast(image, plan, outside)
    np.testing.assert_array_equal(image[outside], before[outside])
    assert image.min() >= before.min() - 1e-3
    assert image.max() <= before.max() + 1e-3
    flat = (slice(None), slice(10, 30), slice(2, 12))
    assert image[flat].std() > 3 * before[flat].std()
    constant = np.full((4, 9, 9), 3.0, np.float32)
    equalize_contrast(constant, plan, np.zeros(constant.shape, bool))
    assert (constant == 3).all()


def test_a_window_is_monais_scaling_of_a_range() -> None:
    from monai.transforms import ScaleIntensityRange

    hounsfield = RNG.integers(-1024, 3000, (1, 9, 10, 11)).astype(np.float32)
    expected = ScaleIntensityRange(a_min=-42, a_max=423, b_min=0, b_max=1, clip=True)(hounsfield)
    plan = NormalizationPlan(scheme="window", window=(-42, 423))
    found = normalize(hounsfield, (plan,), np.zeros(hounsfield.shape[1:], bool))
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-6)


def test_steps_are_done_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg.preprocessing import normalization

    done: list[str] = []
    for name in ("correct_bias_field", "match_histogram", "equalize_contrast"):
        monkeypatch.setattr(normalization, name, lambda *_, name=name, **__: done.append(name))
    plan = NormalizationPlan(
        scheme="zscore",
        bias_field=BiasFieldPlan(),
        histogram=HistogramPlan(landmarks=(0.0, 1.0)),
        contrast=ContrastPlan(),
    )
    normalize(np.ones((1, 2, 3, 4)), (plan,), np.zeros((2, 3, 4), bool))
    assert done == ["correct_bias_field", "match_histogram", "equalize_contrast"]
    assert plan.steps == "n4+histogram+zscore+clahe"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scheme": "window"}, "needs a window"),
        ({"scheme": "zscore", "window": (0, 1)}, "no other scheme"),
        ({"scheme": "window", "window": (3, 3)}, "ascend"),
        ({"scheme": "ct", "bias_field": BiasFieldPlan()}, "relies on intensities"),
    ],
)
def test_plans_that_contradict_themselves_are_refused(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NormalizationPlan(**kwargs)


def test_requests_are_understood() -> None:
    request = parse_intensities("T1 = n4(shrink=2, mask=otsu) + histogram(reference=a_1) + zscore + clahe(clip=0.1)")
    assert request.channel == "T1"
    assert request.scheme == "zscore"
    assert request.bias_field == BiasFieldPlan(shrink=2, mask="otsu")
    assert request.reference == "a_1"
    assert request.contrast == ContrastPlan(clip_limit=0.1)
    assert parse_intensities("window(-42,423)").window == (-42, 423)
    assert parse_intensities("n4(shrink=2)").channel is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zscor", "did you mean zscore"),
        ("zscore+ct", "two schemes"),
        ("window(1)", "two numbers"),
        ("window(4,1)", "ascend"),
        ("n4(shrimp=2)", "shrink="),
        ("n4(shrink=x)", "invalid literal"),
        ("n4(mask=all)", "nonzero or otsu"),
        ("n4(shrink=0)", "must be positive"),
        ("CT=", "cannot be understood"),
        ("a b c", "cannot be understood"),
        ("zscore(1)", "takes no values"),
    ],
)
def test_requests_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_intensities(text)
