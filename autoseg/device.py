"""Which device computes, from the words of the command line."""

from __future__ import annotations

import os

import torch

from autoseg.errors import SettingsError


def choose_device(wanted: str, *, local_rank: int | None = None) -> str:
    """Resolve "auto" and check that a named device is there.

    Args:
        wanted: "auto", "cpu", "cuda", "cuda:N" or "mps".
        local_rank: Number of this process among those on the machine that train together; each takes a GPU of its
            own. None for a process alone.

    Raises:
        SettingsError: When the device is unknown or absent.
    """
    if local_rank is not None:
        wanted = _own_device(wanted, local_rank)
    kind, _, index = wanted.partition(":")
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if index and (not index.isdecimal() or int(index) >= count):
            raise SettingsError(f"there is no device {wanted}; this machine has cuda:0 to cuda:{count - 1}")
        return wanted if index else "cuda:0"
    if kind == "cuda":
        raise SettingsError(f"{wanted} was asked for, but torch {torch.__version__} finds no CUDA device here")
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("mps was asked for, but torch finds no Apple GPU here")
    if wanted not in ("cpu", "mps"):
        raise SettingsError(f"{wanted!r} is not a device; choose auto, cpu, cuda, cuda:N or mps")
    return wanted


def _own_device(wanted: str, local_rank: int) -> str:
    """What a process among several on a machine asks for."""
    if wanted in ("auto", "cuda"):
        return f"cuda:{local_rank}" if torch.cuda.is_available() else wanted.replace("auto", "cpu")
    if wanted != "cpu":
        raise SettingsError(
            f"several processes cannot share {wanted}; choose --device cuda, of which each takes one, or cpu"
        )
    return wanted


def loader_workers(requested: int | None, device: str) -> int:
    """Loader processes: as asked for, else one on a CPU that trains itself, up to twelve beside a GPU.

    Args:
        requested: ``--workers``; None chooses.
        device: Where training runs.
    """
    if requested is not None:
        return requested
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(12, max(1, processors - 1)) if device.startswith("cuda") else 1
