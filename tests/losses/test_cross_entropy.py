from __future__ import annotations

import math

import pytest
import torch

from autoseg.errors import SettingsError
from autoseg.labels import LabelScheme
from autoseg.losses.cross_entropy import CrossEntropyLoss
from autoseg.losses.factory import build_loss


def test_labels_by_hand(two_labels: LabelScheme) -> None:
    logits = torch.tensor([[[0.5, 0.1], [0.3, 0.1], [0.2, 0.8]]]).log()
    target = torch.tensor([[[0, 2]]], dtype=torch.int16)
    loss = CrossEntropyLoss(labels=two_labels)(logits, target)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2, abs=1e-6)


def test_ignored_voxels_do_not_count_in_the_mean(two_labels_and_ignore: LabelScheme) -> None:
    logits = torch.tensor([[[0.5, 0.1, 0.9], [0.3, 0.1, 0.05], [0.2, 0.8, 0.05]]]).log()
    target = torch.tensor([[[0, 2, 3]]], dtype=torch.int16)
    loss = CrossEntropyLoss(labels=two_labels_and_ignore)(logits, target)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2, abs=1e-6)


def test_regions_by_hand(two_regions: LabelScheme) -> None:
    probabilities = torch.tensor([[[0.8, 0.5], [0.1, 0.7]]])
    target = torch.tensor([[[1, 1], [0, 1]]], dtype=torch.bool)
    loss = CrossEntropyLoss(labels=two_regions)(probabilities.logit(), target)
    expected = -(math.log(0.8) + math.log(0.5) + math.log(0.9) + math.log(0.7)) / 4
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_regions_with_ignore_sum_over_regions(two_regions_and_ignore: LabelScheme) -> None:
    probabilities = torch.tensor([[[0.8, 0.5], [0.1, 0.7]]])
    target = torch.tensor([[[1, 1], [0, 1], [0, 1]]], dtype=torch.bool)
    loss = CrossEntropyLoss(labels=two_regions_and_ignore)(probabilities.logit(), target)
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.9)), abs=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "topk"])
def test_smoothing_spreads_the_truth_over_all_classes(two_labels: LabelScheme, name: str) -> None:
    """By hand: 0.9 of the truth's own term and 0.1 of the mean over all classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 1, 5, 4), generator=generator)
    terms = -logits.log_softmax(1)
    own = terms.gather(1, target)
    expected = 0.9 * own.mean() + 0.1 * terms.mean()
    text = f"{name}(smoothing=0.1{',share=1' if name == 'topk' else ''})"
    found = build_loss(text, labels=two_labels, batch_dice=False, num_scales=1)([logits], [target])
    assert float(found) == pytest.approx(float(expected))


def test_smoothing_of_regions_spreads_over_inside_and_outside(two_regions: LabelScheme) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 5, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2, (2, 2, 5, 4), generator=generator)
    wanted = target.double() * 0.8 + 0.1
    p = logits.sigmoid()
    expected = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    criterion = build_loss("cross_entropy(smoothing=0.2)", labels=two_regions, batch_dice=False, num_scales=1)
    assert float(criterion([logits], [target])) == pytest.approx(float(expected))
    with pytest.raises(SettingsError, match="smoothing must be at least 0 and below 1"):
        build_loss("topk(smoothing=1)", labels=two_regions, batch_dice=False, num_scales=1)
