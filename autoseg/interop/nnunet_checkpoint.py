"""Weights out of nnU-Net's checkpoints, without executing anything that lies in the file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar

from autoseg.errors import ArtifactError, MissingArtifactError

# The histories of scores in a checkpoint are NumPy scalars; before NumPy 2 their constructor had another address.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    scalar,
    (scalar, "numpy.core.multiarray.scalar"),
]
_REPEATED = (".all_modules.", "decoder.encoder.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NnUNetCheckpoint:
    """What prediction needs of one of nnU-Net's checkpoints.

    Args:
        weights: Parameter name -> tensor, every parameter once: nnU-Net stores most of them several times.
        mirror_axes: Patch axes that prediction may mirror.
        configuration: Name of the configuration it was trained for.
        plans: The plans it was trained with, as parsed JSON.
        dataset: The dataset.json it was trained with, as parsed JSON.
        trainer: Class name of its trainer.
        epochs: Epochs that it was trained for.
    """

    weights: dict[str, torch.Tensor]
    mirror_axes: tuple[int, ...]
    configuration: str
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    trainer: str
    epochs: int = 0


def read_nnunet_checkpoint(path: Path) -> NnUNetCheckpoint:
    """Read a checkpoint_*.pth.

    Args:
        path: File that nnU-Net v2 wrote.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is truncated, holds objects other than tensors, numbers, texts and lists of them, or
            is no checkpoint of nnU-Net.
    """
    if not path.is_file():
        raise MissingArtifactError(f"{path} does not exist")
    _check_size(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
        arguments = content["init_args"]
        mirror_axes = content["inference_allowed_mirroring_axes"]
        return NnUNetCheckpoint(
            weights={
                name: tensor
                for name, tensor in content["network_weights"].items()
                if not any(part in name for part in _REPEATED)
            },
            mirror_axes=tuple(int(axis) for axis in mirror_axes or ()),
            configuration=str(arguments["configuration"]),
            plans=arguments["plans"],
            dataset=arguments["dataset_json"],
            trainer=str(content["trainer_name"]),
            epochs=int(content.get("current_epoch", 0)),
        )
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"{path} is not a complete checkpoint of nnU-Net v2: {reason}") from None


def _check_size(path: Path) -> None:
    """Refuse a checkpoint that unpacks to much more than it is; torch stores tensors uncompressed.

    Raises:
        ArtifactError: When it does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        return  # an older format, or damaged: reading will tell
    if unpacked > 2 * path.stat().st_size + (1 << 20):
        raise ArtifactError(f"{path} would unpack to {unpacked} bytes, {path.stat().st_size} are there; it is not read")
