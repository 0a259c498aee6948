"""Trained models on disk: weights, and everything needed to use them, in one file without pickled code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from autoseg.atomic import atomic_path
from autoseg.codec import decode_artifact, to_plain
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.labels import LabelScheme
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.factory import build_network
from autoseg.plan import Configuration

SCHEMA_VERSION = 1

Arithmetic = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """What a checkpoint says about itself.

    Args:
        configuration: The configuration as trained; its network may be smaller than the plan's.
        labels: What the outputs mean.
        num_channels: Input channels of the network, those of a previous stage included.
        mirror_axes: Spatial axes that training mirrored, and prediction may.
        iterations: Optimizer steps taken.
        plan_digest: Digest of the plan it was trained with.
        precision: Arithmetic of the forward pass in training.
    """

    schema_version: int = SCHEMA_VERSION
    configuration: Configuration
    labels: LabelScheme
    num_channels: int
    mirror_axes: tuple[int, ...]
    iterations: int
    plan_digest: str
    precision: Arithmetic = "float32"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Content of a checkpoint file.

    Args:
        record: What was trained.
        weights: The network's ``state_dict``.
        training: State that resuming needs (optimizer, history, ...); tensors and plain values. None when the file
            was written for prediction only.
    """

    record: ModelRecord
    weights: dict[str, torch.Tensor]
    training: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedModel:
    """A network ready to predict.

    Args:
        record: What was trained.
        network: In evaluation mode, deep supervision off: (b, c, *patch) -> logits (b, k, *patch).
    """

    record: ModelRecord
    network: SegmentationNetwork


def write_checkpoint(
    path: Path,
    *,
    record: ModelRecord,
    weights: Mapping[str, torch.Tensor],
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically: an interrupted run leaves the previous file as it was.

    Args:
        path: File to write; its folder is created.
        record: What was trained; stored as JSON text.
        weights: ``state_dict`` of the network.
        training: State that resuming needs; only tensors, numbers, texts and lists, tuples and dicts of them.
    """
    content: dict[str, Any] = {"record": json.dumps(to_plain(record)), "weights": dict(weights)}
    if training is not None:
        content["training"] = dict(training)
    content["sha256"] = content_digest(content)
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def read_checkpoint(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed (``weights_only``).

    Args:
        path: File that :func:`write_checkpoint` wrote.
        device: Where its tensors go.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When the file is truncated, foreign or from another schema version.
    """
    if not path.is_file():
        raise MissingArtifactError(f"{path} does not exist")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the reader of a damaged or foreign file stumbles over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"{path} is not a complete checkpoint of autoseg: {reason}") from None
    if not isinstance(content, dict) or not isinstance(content.get("record"), str) or "weights" not in content:
        raise ArtifactError(f"{path} is not a checkpoint of autoseg: it has no record and weights")
    if content.pop("sha256", None) != content_digest(content):
        raise ArtifactError(f"{path} was altered or damaged since it was written: its content does not fit its digest")
    try:
        plain = json.loads(content["record"])
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}: the record is not JSON: {error}") from None
    record = decode_artifact(ModelRecord, plain, source=str(path))
    return Checkpoint(record=record, weights=content["weights"], training=content.get("training"))


def content_digest(value: object) -> str:
    """Hexadecimal SHA-256 of nested tensors and plain values; torch checks no checksums when it reads."""
    found = hashlib.sha256()
    _digest_into(found, value)
    return found.hexdigest()


def _digest_into(found: hashlib._Hash, value: object) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        # As bytes, because NumPy knows no bfloat16.
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        found.update(f"{{{len(value)}".encode())
        for key, item in value.items():
            found.update(f"{key!r}:".encode())
            _digest_into(found, item)
    elif isinstance(value, list | tuple):
        found.update(f"[{len(value)}".encode())
        for item in value:
            _digest_into(found, item)
    else:
        found.update(f"{value!r},".encode())


def load_model(path: Path, device: str | torch.device = "cpu") -> TrainedModel:
    """Build the network of a checkpoint and put its weights into it.

    Args:
        path: File that :func:`write_checkpoint` wrote.
        device: Where the network shall run.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is no checkpoint, or its weights do not fit its network.
    """
    checkpoint = read_checkpoint(path, "cpu")
    try:
        return build_model(checkpoint.record, checkpoint.weights, device)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ArtifactError(f"{path}: the weights do not fit the network: {error}") from None


def build_model(
    record: ModelRecord, weights: Mapping[str, torch.Tensor], device: str | torch.device = "cpu"
) -> TrainedModel:
    """Build a record's network with given weights, ready to predict.

    Args:
        record: Names the network and its inputs and outputs.
        weights: Complete ``state_dict``.
        device: Where the network shall run.

    Raises:
        RuntimeError: When the weights do not fit the network.
    """
    network = build_network(
        record.configuration.network, num_channels=record.num_channels, num_outputs=record.labels.num_outputs
    )
    network.load_state_dict(dict(weights))
    network.deep_supervision = False
    network.requires_grad_(False).eval()  # noqa: FBT003 - torch's own signature
    return TrainedModel(record=record, network=network.to(device))
