from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.losses.dice import SoftDiceLoss


def logits_of(probabilities: list[list[list[float]]]) -> Tensor:
    """Logits (b, k, 1, n) whose softmax is given."""
    return torch.tensor(probabilities).log()[:, :, None]


def test_one_patch_by_hand(two_labels: LabelScheme) -> None:
    # Voxel 0 is organ, voxel 1 is background, voxel 2 is tumor.
    logits = logits_of([[[0.2, 0.5, 0.2], [0.6, 0.3, 0.2], [0.2, 0.2, 0.6]]])
    target = torch.tensor([[[[1, 0, 2]]]])
    organ = 2 * 0.6 / (0.6 + 0.3 + 0.2 + 1)
    tumor = 2 * 0.6 / (0.2 + 0.2 + 0.6 + 1)
    for batch_dice in (True, False):
        loss = SoftDiceLoss(labels=two_labels, batch_dice=batch_dice, smooth=0.0)(logits, target)
        assert loss.item() == pytest.approx(-(organ + tumor) / 2, abs=1e-6)


def test_batch_dice_sums_before_it_divides(two_labels: LabelScheme) -> None:
    # Organ only: in the first patch it is there, in the second it is not.
    logits = logits_of([[[0.4], [0.6], [1e-9]], [[0.9], [0.1], [1e-9]]])
    target = torch.tensor([[[[1]]], [[[0]]]])
    together = SoftDiceLoss(labels=two_labels, batch_dice=True)(logits, target).item()
    apart = SoftDiceLoss(labels=two_labels, batch_dice=False)(logits, target).item()
    # The absent tumor, of which nothing is predicted, scores one.
    assert together == pytest.approx(-(2 * 0.6 / 1.7 + 1) / 2, abs=1e-3)
    assert apart == pytest.approx(-(2 * 0.6 / 1.6 + 1e-5 / 0.1 + 1 + 1) / 4, abs=1e-3)


def test_regions_by_hand(two_regions: LabelScheme) -> None:
    probabilities = torch.tensor([[[[0.8, 0.5]], [[0.1, 0.7]]]])
    target = torch.tensor([[[[1, 1]], [[0, 1]]]], dtype=torch.bool)
    loss = SoftDiceLoss(labels=two_regions, batch_dice=False)(probabilities.logit(), target)
    whole, tumor = 2 * 1.3 / (1.3 + 2), 2 * 0.7 / (0.8 + 1)
    assert loss.item() == pytest.approx(-(whole + tumor) / 2, abs=1e-4)


def test_a_perfect_prediction_scores_minus_one(two_labels: LabelScheme) -> None:
    target = torch.randint(0, 3, (2, 1, 5, 6), generator=torch.Generator().manual_seed(0))
    logits = 100.0 * torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1)
    assert SoftDiceLoss(labels=two_labels, batch_dice=False)(logits, target).item() == pytest.approx(-1, abs=1e-5)


def test_an_absent_class_that_is_not_predicted_scores_one(two_labels: LabelScheme) -> None:
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 100.0
    loss = SoftDiceLoss(labels=two_labels, batch_dice=False)(logits, torch.zeros(1, 1, 4, 4, dtype=torch.int16))
    assert loss.item() == pytest.approx(-1, abs=1e-5)


def test_sums_over_a_large_patch_do_not_overflow(two_labels: LabelScheme) -> None:
    target = torch.ones(1, 1, 300, 300, dtype=torch.int16)  # 90000 is more than float16 holds
    logits = torch.zeros(1, 3, 300, 300, dtype=torch.float16)
    logits[:, 1] = 20.0
    criterion = SoftDiceLoss(labels=two_labels, batch_dice=True)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = criterion(logits, target)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss.item() < -0.4
