"""Which device computes, from the words of the command line."""

from __future__ import annotations

import os

import torch

from autoseg.errors import SettingsError


def choose_device(wanted: str) -> str:
    """Resolve "auto" and check that a named device is there.

    Args:
        wanted: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        SettingsError: When the device is unknown or absent.
    """
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
