"""From the settings of a run to how its patches are drawn."""

from __future__ import annotations

from autoseg.data.policy import SamplingPolicy
from autoseg.training_config import TrainingConfig


def training_policy(config: TrainingConfig) -> SamplingPolicy:
    """How patches are drawn for training."""
    return SamplingPolicy(
        name=config.sampling,
        foreground_share=config.foreground_share,
        patches_per_case=config.patches_per_case,
        cases_per_epoch=config.cases_per_epoch,
        windows_per_case=config.windows_per_case,
        min_image_share=config.window_image_share,
        min_foreground_share=config.window_foreground_share,
        max_tries=config.window_tries,
    )


def validation_policy(config: TrainingConfig) -> SamplingPolicy:
    """How patches are drawn for the score between epochs: as nnU-Net does, so that variants can be compared."""
    return SamplingPolicy(foreground_share=config.foreground_share)
