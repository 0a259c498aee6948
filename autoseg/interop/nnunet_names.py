"""What nnU-Net calls planners, networks, normalizations and readers, and what autoseg calls them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from autoseg.errors import PlanError

T = TypeVar("T")

SLICE_THICKNESS = 999.0
"""nnU-Net stores 2D images as one slice this many times thicker than the coarser of the pixel's edges."""

RESAMPLING = "resample_data_or_seg_to_shape"

NORMALIZATIONS = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
    "none": "NoNormalization",
}

NORMS = {
    "instance": "torch.nn.modules.instancenorm.InstanceNorm",
    "batch": "torch.nn.modules.batchnorm.BatchNorm",
}
"""Classes of layers, which end in the number of axes."""

NONLINEARITIES = {
    "leaky_relu": "torch.nn.LeakyReLU",
    "relu": "torch.nn.ReLU",
    "elu": "torch.nn.ELU",
    "gelu": "torch.nn.GELU",
    "silu": "torch.nn.SiLU",
}

READERS_2D = {".png": "NaturalImage2DIO", ".bmp": "NaturalImage2DIO", ".tif": "NaturalImage2DIO"}
READERS = {
    ".nii.gz": "SimpleITKIO",
    ".nrrd": "SimpleITKIO",
    ".mha": "SimpleITKIO",
    ".gipl": "SimpleITKIO",
    ".tif": "Tiff3DIO",
    ".tiff": "Tiff3DIO",
    ".nii": "NibabelIO",
}
TURNING_READERS = {"NibabelIOWithReorient": "SAR", "SimpleITKIOWithReorient": "SAR"}
"""Readers that turn images, and the direction in which each array axis (z, y, x) then grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """nnU-Net's name of a network, and of its entry that counts encoder blocks."""

    class_name: str
    encoder_key: str


ARCHITECTURES = {
    "unet": Architecture(
        class_name="dynamic_network_architectures.architectures.unet.PlainConvUNet", encoder_key="n_conv_per_stage"
    ),
    "resenc": Architecture(
        class_name="dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        encoder_key="n_blocks_per_stage",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerNames:
    """How nnU-Net names a planner and what it plans."""

    plans: str
    planner: str


PLANNERS = {
    "unet": PlannerNames(plans="nnUNetPlans", planner="ExperimentPlanner"),
    "resenc_m": PlannerNames(plans="nnUNetResEncUNetMPlans", planner="nnUNetPlannerResEncM"),
    "resenc_l": PlannerNames(plans="nnUNetResEncUNetLPlans", planner="nnUNetPlannerResEncL"),
    "resenc_xl": PlannerNames(plans="nnUNetResEncUNetXLPlans", planner="nnUNetPlannerResEncXL"),
}


def counterpart(table: Mapping[str, T], name: str, kind: str) -> T:
    """Look a name up.

    Raises:
        PlanError: When nnU-Net has nothing of that kind under that name.
    """
    if name not in table:
        raise PlanError(f"nnU-Net has no {kind} {name!r}; it has {', '.join(table)}")
    return table[name]


def is_thick_slice(spacing: Sequence[float], shape: Sequence[float]) -> bool:
    """Whether a grid (z, y, x) is what nnU-Net makes of a 2D image.

    Args:
        spacing: Millimetres per voxel.
        shape: Voxels per axis.
    """
    thickness = SLICE_THICKNESS * max(spacing[1:])
    return len(spacing) == 3 and shape[0] == 1 and math.isclose(spacing[0], thickness, rel_tol=1e-6)


def three(values: Sequence[float], first: float) -> tuple[float, ...]:
    """Values along three axes; 2D data get a first one."""
    return (first, *values) if len(values) == 2 else tuple(values)


def plain_name(name: str) -> str:
    """Name without the planner: nnU-Net keeps planners apart by the name of the plans file."""
    return name.partition("@")[0]
