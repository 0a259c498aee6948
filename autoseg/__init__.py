"""autoseg: images and labels in, the best segmentation model out, without tuning.

Example:
    >>> import autoseg
    >>> autoseg.TrainingConfig(epochs=5).epochs
    5
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoseg.dataset import DatasetSource
    from autoseg.inference.predictor import InferenceOptions
    from autoseg.pipeline.predict import ensemble_predict
    from autoseg.pipeline.predictor import Predictor
    from autoseg.pipeline.prepare import plan_and_preprocess
    from autoseg.pipeline.train import train, train_missing
    from autoseg.pipeline.views import predict_views, prepare_views
    from autoseg.splits import SplitRule
    from autoseg.training_config import TrainingConfig
    from autoseg.workspace import Workspace

__version__ = "0.1.0"

# Loaded when first used: torch takes seconds to import, and planning does without it.
_PUBLIC = {
    "DatasetSource": "autoseg.dataset",
    "InferenceOptions": "autoseg.inference.predictor",
    "Predictor": "autoseg.pipeline.predictor",
    "SplitRule": "autoseg.splits",
    "TrainingConfig": "autoseg.training",
    "Workspace": "autoseg.workspace",
    "ensemble_predict": "autoseg.pipeline.predict",
    "plan_and_preprocess": "autoseg.pipeline.prepare",
    "predict_views": "autoseg.pipeline.views",
    "prepare_views": "autoseg.pipeline.views",
    "train": "autoseg.pipeline.train",
    "train_missing": "autoseg.pipeline.train",
}

__all__ = [
    "DatasetSource",
    "InferenceOptions",
    "Predictor",
    "SplitRule",
    "TrainingConfig",
    "Workspace",
    "__version__",
    "ensemble_predict",
    "plan_and_preprocess",
    "predict_views",
    "prepare_views",
    "train",
    "train_missing",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
