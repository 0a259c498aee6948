"""Losses beyond the default, computed a second time with NumPy; and weighted sums of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.dice import SoftDiceLoss
from autoseg.losses.factory import LOSSES, build_loss, parse_loss
from autoseg.losses.overlap import TverskyLoss


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Logits (2, 3, 4, 5) and targets of two labels."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 3, (2, 1, 4, 5), generator=generator, dtype=torch.int16)


def softmax(logits: Tensor) -> np.ndarray:
    raised = np.exp(logits.numpy())
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def truth_probability(pair: tuple[Tensor, Tensor]) -> np.ndarray:
    logits, target = pair
    return np.take_along_axis(softmax(logits), target.numpy().astype(int), axis=1)


def one_hot(target: Tensor) -> np.ndarray:
    return np.concatenate([(target.numpy() == k) for k in range(3)], axis=1).astype(float)


def loss(name: str, pair: tuple[Tensor, Tensor], labels: LabelScheme) -> float:
    return float(build_loss(name, labels=labels, batch_dice=True, num_scales=1)([pair[0]], [pair[1]]))


def test_topk_is_the_mean_of_the_worst_tenth(pair: tuple[Tensor, Tensor], two_labels: LabelScheme) -> None:
    entropies = np.sort(-np.log(truth_probability(pair)).ravel())
    assert loss("topk", pair, two_labels) == pytest.approx(entropies[-4:].mean())  # 40 voxels


def test_focal_weighs_by_the_squared_doubt(pair: tuple[Tensor, Tensor], two_labels: LabelScheme) -> None:
    p = truth_probability(pair)
    assert loss("focal", pair, two_labels) == pytest.approx(np.mean(-((1 - p) ** 2) * np.log(p)))


def test_mse_is_the_mean_squared_error(pair: tuple[Tensor, Tensor], two_labels: LabelScheme) -> None:
    expected = np.mean((pair[0].numpy() + 0.5 - one_hot(pair[1])) ** 2)
    assert loss("mse", pair, two_labels) == pytest.approx(expected)
    expected = np.mean((softmax(pair[0]) - one_hot(pair[1])) ** 2)
    assert loss("mse(brier=1)", pair, two_labels) == pytest.approx(expected)
    perfect = torch.from_numpy(one_hot(pair[1])) - 0.5  # the regression's answer, which decides for the truth
    assert loss("mse", (perfect, pair[1]), two_labels) == pytest.approx(0)
    assert bool((perfect.argmax(1) == pair[1][:, 0]).all())


def test_bce_takes_every_output_for_itself(pair: tuple[Tensor, Tensor], two_labels: LabelScheme) -> None:
    p, t = 1 / (1 + np.exp(-pair[0].numpy())), one_hot(pair[1])
    expected = np.mean(-t * np.log(p) - (1 - t) * np.log(1 - p))
    assert loss("bce", pair, two_labels) == pytest.approx(expected)


def test_tversky_weighs_missed_and_false_voxels(pair: tuple[Tensor, Tensor], two_labels: LabelScheme) -> None:
    p, t = softmax(pair[0])[:, 1:], one_hot(pair[1])[:, 1:]
    over = (0, 2, 3)
    hit, false, missed = (p * t).sum(over), (p * (1 - t)).sum(over), ((1 - p) * t).sum(over)
    expected = -np.mean((hit + 1e-5) / (hit + 0.3 * false + 0.7 * missed + 1e-5))
    assert loss("tversky", pair, two_labels) == pytest.approx(expected)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_tversky_with_equal_weights_is_soft_dice(
    pair: tuple[Tensor, Tensor], two_labels: LabelScheme, *, batch_dice: bool
) -> None:
    tversky = TverskyLoss(labels=two_labels, batch_dice=batch_dice, alpha=0.5, beta=0.5, smooth=0.5e-5)
    dice = SoftDiceLoss(labels=two_labels, batch_dice=batch_dice)
    assert float(tversky(*pair)) == pytest.approx(float(dice(*pair)))


def test_regions_use_sigmoids(two_regions: LabelScheme) -> None:
    logits = torch.tensor([[[[0.5]], [[-1.0]]]], dtype=torch.float64)
    target = torch.tensor([[[[1]], [[0]]]])
    p = 1 / (1 + np.exp(-np.asarray([0.5, 1.0])))  # probability of the truth
    assert loss("mse(brier=1)", (logits, target), two_regions) == pytest.approx(np.mean((1 - p) ** 2))
    assert loss("mse", (logits, target), two_regions) == pytest.approx(np.mean([0.0, 0.5**2]))
    assert loss("focal", (logits, target), two_regions) == pytest.approx(np.mean(-((1 - p) ** 2) * np.log(p)))
    assert loss("bce", (logits, target), two_regions) == pytest.approx(np.mean(-np.log(p)))


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("name", [*LOSSES.names(), "dice+0.5*focal", "ce+topk"])
@pytest.mark.parametrize("scheme", ["two_labels", "two_labels_and_ignore"])
def test_a_loss_that_says_so_is_the_mean_over_patches(
    name: str, scheme: str, request: pytest.FixtureRequest, *, batch_dice: bool
) -> None:
    labels: LabelScheme = request.getfixturevalue(scheme)
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(3, 3, 4, 5, generator=generator, dtype=torch.float64)
    top = 3 + (labels.ignore_value is not None)
    target = torch.randint(0, top, (3, 1, 4, 5), generator=generator, dtype=torch.int16)
    target[0, 0, :2] = top - 1
    criterion = build_loss(name, labels=labels, batch_dice=batch_dice, num_scales=1)
    whole = float(criterion([logits], [target]))
    parts = np.mean([float(criterion([logits[i : i + 1]], [target[i : i + 1]])) for i in range(3)])
    # Soft Dice with ignored voxels divides per patch anyway; everything else that says no differs.
    assert criterion.is_mean_over_samples == (whole == pytest.approx(parts, rel=1e-9))


def test_a_sum_is_the_sum(pair: tuple[Tensor, Tensor], two_labels: LabelScheme) -> None:
    parts = {name: loss(name, pair, two_labels) for name in ("dice", "focal", "ce", "dice_ce")}
    assert loss("dice+0.1*focal", pair, two_labels) == pytest.approx(parts["dice"] + 0.1 * parts["focal"])
    assert loss("dice + ce", pair, two_labels) == pytest.approx(parts["dice_ce"])
    assert loss("2*ce", pair, two_labels) == pytest.approx(2 * parts["ce"])


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("dice", [(1.0, "dice")]),
        ("dice+.5*ce+2*mse", [(1.0, "dice"), (0.5, "ce"), (2.0, "mse")]),
        ("my_package.losses:Mine", [(1.0, "my_package.losses:Mine")]),
    ],
)
def test_sums_are_read(text: str, terms: list[tuple[float, str]]) -> None:
    assert [(term.weight, term.name) for term in parse_loss(text)] == terms


@pytest.mark.parametrize(
    "text", ["", "dice+", "+dice", "dice*0.1", "0*dice", "-1*dice", "dice-ce+", "1e3*dice", "2dice"]
)
def test_malformed_sums_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="loss"):
        parse_loss(text)


def test_an_unknown_term_names_a_close_one(two_labels: LabelScheme) -> None:
    with pytest.raises(SettingsError, match="did you mean focal"):
        build_loss("dice+0.1*focall", labels=two_labels, batch_dice=True, num_scales=1)
