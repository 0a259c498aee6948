from __future__ import annotations

import math

import pytest
import torch

from autoseg.labels import LabelScheme
from autoseg.losses.cross_entropy import CrossEntropyLoss


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
