"""Weights to fine-tune from: autoseg's checkpoints and nnU-Net's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from autoseg.errors import ArtifactError
from autoseg.inference.model import read_checkpoint
from autoseg.interop.nnunet_checkpoint import read_nnunet_checkpoint
from autoseg.labels import LabelScheme
from autoseg.networks.transfer import PretrainedWeights


def load_pretrained(path: Path) -> PretrainedWeights:
    """Read the weights of a checkpoint; nothing in the file is executed.

    Args:
        path: ``checkpoint_*.pt`` of autoseg or ``checkpoint_*.pth`` of nnU-Net v2.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is neither of the two.
    """
    try:
        own = read_checkpoint(path)
        weights, labels = own.weights, own.record.labels
    except ArtifactError as not_own:
        try:
            other = read_nnunet_checkpoint(path)
        except ArtifactError as not_other:
            raise ArtifactError(f"{path} holds no weights to begin with: {not_own}; {not_other}") from None
        table, order = other.dataset["labels"], other.dataset.get("regions_class_order", ())
        weights, labels = other.weights, LabelScheme.from_table(table, tuple(order), where=str(path))
    return PretrainedWeights(
        source=str(path), identity=f"{path.name} {_digest(weights)[:16]}", weights=weights, labels=labels
    )


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Of names and values: the same weights in another file are the same."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(name.encode())
        found.update(tensor.float().numpy().tobytes())
    return found.hexdigest()
