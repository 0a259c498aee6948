"""What tests of single training steps share."""

from __future__ import annotations

import pytest

from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan


@pytest.fixture(scope="session")
def small_plan() -> Plan:
    """One 2D configuration with two stages, of patches of 16x16 voxels, for a background and two labels."""
    configuration = Configuration(
        name="2d",
        data="2d",
        spacing=(1.0, 1.0),
        median_shape=(16.0, 16.0),
        patch_size=(16, 16),
        batch_size=2,
        batch_dice=False,
        normalization=(NormalizationPlan(scheme="zscore"),),
        network=NetworkPlan(
            name="unet",
            features=(4, 8),
            strides=((1, 1), (2, 2)),
            kernel_sizes=((3, 3), (3, 3)),
            encoder_blocks=(1, 1),
            decoder_blocks=(1,),
        ),
    )
    return Plan(
        planner="unet",
        dataset="toy",
        channels=("MRI",),
        labels=LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test"),
        file_ending=".nii.gz",
        gpu_memory_gb=8.0,
        gpu_memory_source="test",
        orientation=None,
        transpose=(0, 1, 2),
        median_spacing=(1.0, 1.0, 1.0),
        median_shape=(8.0, 16.0, 16.0),
        configurations=(configuration,),
    )
