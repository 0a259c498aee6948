"""Dice of a network over whole preprocessed cases: the score between epochs that patches only estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from autoseg.evaluation.metrics import overlap_counts
from autoseg.evaluation.report import mean_of_defined
from autoseg.inference.model import ModelRecord, TrainedModel
from autoseg.inference.predictor import InferenceOptions, logit_slabs, logits_to_probabilities
from autoseg.labels import LabelScheme
from autoseg.networks.base import SegmentationNetwork
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.previous_stage import read_previous, with_indicators
from autoseg.preprocessing.store import CaseStore


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeScores:
    """Dice over whole cases on the preprocessed grid.

    Args:
        cases: Case id -> Dice of every target in the order of the labels; None where it is undefined.
    """

    cases: dict[str, tuple[float | None, ...]]

    @property
    def mean(self) -> float:
        """Mean over targets of the mean over cases, as in reports; 0 where nothing is defined."""
        by_target = [mean_of_defined(scores) for scores in zip(*self.cases.values(), strict=True)]
        return mean_of_defined(by_target) or 0.0


def score_volumes(
    model: TrainedModel,
    store: CaseStore,
    case_ids: Sequence[str],
    *,
    previous: Mapping[str, Path],
    options: InferenceOptions,
) -> VolumeScores:
    """Segment preprocessed cases by sliding window and compare them with their preprocessed references.

    Args:
        model: What to score.
        store: The cases.
        case_ids: Which of them.
        previous: In a cascade, case id -> file of the previous stage's segmentation.
        options: How to predict; without mirroring it takes an eighth of the time.
    """
    return VolumeScores(
        cases={case_id: _score_case(model, store, case_id, previous=previous, options=options) for case_id in case_ids}
    )


def _score_case(
    model: TrainedModel, store: CaseStore, case_id: str, *, previous: Mapping[str, Path], options: InferenceOptions
) -> tuple[float | None, ...]:
    labels = model.record.labels
    case, predicted = segment_case(model, store, case_id, previous=previous, options=options)
    assert case.segmentation is not None  # cases of folds have one
    counts = overlap_counts(case.segmentation, predicted, labels.targets, ignore_value=labels.ignore_value)
    return tuple(None if np.isnan(c.dice) else c.dice for c in counts)


def segment_case(
    model: TrainedModel, store: CaseStore, case_id: str, *, previous: Mapping[str, Path], options: InferenceOptions
) -> tuple[PreprocessedCase, np.ndarray]:
    """Segment one preprocessed case by sliding window.

    Returns:
        The case, and label values with the shape of its segmentation. Arguments are those of :func:`score_volumes`.
    """
    labels, case = model.record.labels, store.open(case_id).load()
    channels = case.image
    if model.record.configuration.previous_stage is not None:
        channels = with_indicators(channels, read_previous(previous[case_id], channels.shape[1:]), labels)
    return case, np.concatenate([segment(slab, labels) for slab in logit_slabs([model], channels, options)])


def segment(logits: np.ndarray, labels: LabelScheme) -> np.ndarray:
    """Label values (...) from logits (k, ...)."""
    scores = logits_to_probabilities(logits, labels) if labels.has_regions else logits
    return labels.segmentation(scores)


@contextmanager
def predicting(network: nn.Module, record: ModelRecord) -> Iterator[TrainedModel]:
    """A network in training as one that predicts; afterwards it is as it was.

    Args:
        network: The network with its weights.
        record: What it is.
    """
    assert isinstance(network, SegmentationNetwork)  # trainers build no other
    was_training, had_scales = network.training, network.deep_supervision
    network.deep_supervision = False
    network.eval()
    try:
        yield TrainedModel(record=record, network=network)
    finally:
        network.deep_supervision = had_scales
        network.train(was_training)
