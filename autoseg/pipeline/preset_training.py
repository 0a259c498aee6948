"""A preset from a dataset to a trained fold, by the functions that any model is planned and trained with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from autoseg.dataset import DatasetSource, load_dataset
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.pipeline.train import TrainingReport, train
from autoseg.pipeline.views import prepare_parts
from autoseg.presets import Preset, preset_settings
from autoseg.progress import Progress
from autoseg.splits import SplitRule
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace


def prepare_preset(
    preset: Preset,
    dataset: Path | str | DatasetSource,
    *,
    workspace: Path | str | None = None,
    gpu_memory_gb: float | None = None,
    split: SplitRule | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Workspace:
    """Plan a dataset with the values of a preset and preprocess it; what is complete and unchanged is kept.

    A preset of several views makes a workspace per view where the dataset's table names views; see
    :attr:`Workspace.by_view`.

    Args:
        preset: Its planning is used.
        dataset: As for :func:`~autoseg.pipeline.prepare.plan_and_preprocess`, and so are all others.
        workspace: Folder for everything derived.
        gpu_memory_gb: Memory to size the network for.
        split: How to make folds.
        workers: Worker processes.
        progress: Told what happens.

    Raises:
        AutosegError: When the dataset has problems, or nothing fits.
    """
    source = dataset if isinstance(dataset, DatasetSource) else DatasetSource(root=Path(dataset))
    prepare = partial(
        plan_and_preprocess,
        gpu_memory_gb=gpu_memory_gb,
        spacing=None if preset.spacing is None else preset.spacing.value,
        network=preset.network.value,
        network_options=[option.value for option in preset.network_options],
        variant=preset.name,
        patch=None if preset.patch is None else preset.patch.value,
        bases=[preset.configuration],
        slices=None if preset.slices is None else preset.slices.value,
        configurations=[preset.stored_as],
        split=split,
        intensities=[] if preset.normalization is None else [preset.normalization.value],
        workers=workers,
        progress=progress,
    )
    folder = None if workspace is None else Path(workspace)
    return prepare_parts(source, folder, prepare, by_view=_has_views(preset, source), progress=progress)


def _has_views(preset: Preset, source: DatasetSource) -> bool:
    """Whether there are views to train models of."""
    if preset.by_view is None or not preset.by_view.value or source.table is None or source.view is not None:
        return False
    return any(case.view is not None for case in load_dataset(source).training)


def train_preset(
    preset: Preset,
    workspace: Workspace,
    fold: str | int,
    *,
    asked: Sequence[str] = (),
    device: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train a fold with the settings of a preset, or go on with it.

    Args:
        preset: Its settings are used.
        workspace: From :func:`prepare_preset`, that of one view where there are several.
        fold: As for :func:`~autoseg.pipeline.train.train`, and so are the others.
        asked: Settings that override the preset's, ``name=value``.
        device: Where to train.
        workers: Loader processes.
        progress: Told what happens.

    Raises:
        AutosegError: When the fold or an artifact is missing or contradicts the settings.
    """
    config = TrainingConfig().with_settings([*preset_settings(preset.name, asked), *asked])
    return train(workspace, preset.stored_as, fold, config=config, device=device, workers=workers, progress=progress)
