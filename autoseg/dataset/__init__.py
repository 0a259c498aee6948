"""What is to be learned from: cases, channels and labels of a raw dataset, found on disk and not yet read."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from autoseg.dataset.case import Case, Dataset
from autoseg.dataset.source import DatasetSource

if TYPE_CHECKING:
    from autoseg.dataset.loading import find_input, load_dataset
    from autoseg.dataset.nnunet import find_cases

__all__ = ["Case", "Dataset", "DatasetSource", "find_cases", "find_input", "load_dataset"]

# Loaded when first used: they need SimpleITK, and planning, which only asks what a dataset declares, does not.
_LOADERS = {
    "find_cases": "autoseg.dataset.nnunet",
    "find_input": "autoseg.dataset.loading",
    "load_dataset": "autoseg.dataset.loading",
}


def __getattr__(name: str) -> object:
    if name not in _LOADERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LOADERS[name]), name)
