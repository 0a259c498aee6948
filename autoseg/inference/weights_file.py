"""Weights as plain arrays: for files that travel, since torch's own format is a pickle."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from autoseg.codec import read_json, write_json
from autoseg.errors import ArtifactError
from autoseg.inference.model import ModelRecord, build_model, read_checkpoint, write_checkpoint
from autoseg.plan import Plan

_RECORD, _WEIGHTS = "record.json", "weights.npz"


def pack_weights(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint's record as JSON and its weights as NumPy arrays, one per parameter.

    Args:
        checkpoint: File of a trained fold.
        folder: Receives record.json and weights.npz.

    Raises:
        MissingArtifactError: When there is no such checkpoint.
        ArtifactError: When it cannot be read.
    """
    read = read_checkpoint(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(read.record, folder / _RECORD)
    np.savez(folder / _WEIGHTS, allow_pickle=False, **{name: _as_array(t) for name, t in read.weights.items()})


def unpack_weights(folder: Path, plan: Plan, checkpoint: Path) -> None:
    """Make a checkpoint of what :func:`pack_weights` wrote, if its network can be built and is of the plan.

    Args:
        folder: Holds record.json and weights.npz.
        plan: Whose labels and configurations the model must have.
        checkpoint: File to write.

    Raises:
        ArtifactError: When files are damaged, or weights, network and plan do not fit together.
    """
    record = read_json(ModelRecord, folder / _RECORD)
    if record.labels != plan.labels or record.configuration.name not in plan.configuration_names:
        raise ArtifactError(f"{folder / _RECORD} is of another plan than the model file's")
    try:
        with np.load(folder / _WEIGHTS, allow_pickle=False) as stored:
            weights = {name: torch.from_numpy(stored[name]) for name in stored}
        build_model(record, weights)
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(f"{folder.name}/{_WEIGHTS} holds no weights for its network: {reason}") from None
    write_checkpoint(checkpoint, record=record, weights=weights)


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    # NumPy has no bfloat16; float32 holds each of its values.
    plain = tensor.detach().cpu()
    return np.asarray((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
