"""Weights to begin with: autoseg's checkpoints, nnU-Net's, and files of published weights of other networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from autoseg.errors import ArtifactError
from autoseg.inference.model import read_checkpoint
from autoseg.interop.nnunet_checkpoint import read_nnunet_checkpoint
from autoseg.labels import LabelScheme
from autoseg.networks.transfer import PretrainedWeights


def load_pretrained(path: Path) -> PretrainedWeights:
    """Read the weights of a checkpoint; nothing in the file is executed.

    Args:
        path: ``checkpoint_*.pt`` of autoseg, ``checkpoint_*.pth`` of nnU-Net v2, or a table of tensors as torchvision,
            timm and others publish it, alone or below "state_dict" or "model".

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is none of these.
    """
    weights: Mapping[str, Tensor] | None
    labels: LabelScheme | None = None
    try:
        own = read_checkpoint(path)
        weights, labels = own.weights, own.record.labels
    except ArtifactError as not_own:
        weights = _published(path)
        if weights is None:
            try:
                other = read_nnunet_checkpoint(path)
            except ArtifactError as not_other:
                raise ArtifactError(f"{path} holds no weights to begin with: {not_own}; {not_other}") from None
            table, order = other.dataset["labels"], other.dataset.get("regions_class_order", ())
            weights, labels = other.weights, LabelScheme.from_table(table, tuple(order), where=str(path))
    return PretrainedWeights(
        source=str(path), identity=f"{path.name} {_digest(weights)[:16]}", weights=weights, labels=labels
    )


def _published(path: Path) -> dict[str, Tensor] | None:
    """A table of tensors by their published names; None where the file is something else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - whatever the reader of a foreign file stumbles over
        return None
    if isinstance(content, Mapping) and "network_weights" in content:  # nnU-Net's, which says more than its weights
        return None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return None
    found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "model.", "backbone.", "encoder."):  # what other programs wrap an encoder in
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found or None


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Of names and values: the same weights in another file are the same."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(name.encode())
        found.update(tensor.float().numpy().tobytes())
    return found.hexdigest()
