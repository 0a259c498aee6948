"""nnU-Net's fingerprint and plans as autoseg's types and back; the vocabulary of its JSON files stays in here.

The structure is that of nnU-Net 2.8: transposed axis order, class names, one entry per configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from autoseg.codec import from_plain, to_plain
from autoseg.dataset import Dataset
from autoseg.errors import ArtifactError, PlanError
from autoseg.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan

T = TypeVar("T")

_SLICE_THICKNESS = 999.0
"""nnU-Net stores 2D images as one slice this many times thicker than the coarser of the pixel's edges."""

_RESAMPLING = "resample_data_or_seg_to_shape"

_READERS_2D = {".png": "NaturalImage2DIO", ".bmp": "NaturalImage2DIO", ".tif": "NaturalImage2DIO"}
_READERS = {
    ".nii.gz": "SimpleITKIO",
    ".nrrd": "SimpleITKIO",
    ".mha": "SimpleITKIO",
    ".gipl": "SimpleITKIO",
    ".tif": "Tiff3DIO",
    ".tiff": "Tiff3DIO",
    ".nii": "NibabelIO",
}

_NORMALIZATIONS = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
    "none": "NoNormalization",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """nnU-Net's name of a network, and of its entry that counts encoder blocks."""

    class_name: str
    encoder_key: str


_ARCHITECTURES = {
    "unet": _Architecture(
        class_name="dynamic_network_architectures.architectures.unet.PlainConvUNet", encoder_key="n_conv_per_stage"
    ),
    "resenc": _Architecture(
        class_name="dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        encoder_key="n_blocks_per_stage",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannerNames:
    """How nnU-Net names a planner and what it plans."""

    plans: str
    planner: str


_PLANNERS = {
    "unet": _PlannerNames(plans="nnUNetPlans", planner="ExperimentPlanner"),
    "resenc_m": _PlannerNames(plans="nnUNetResEncUNetMPlans", planner="nnUNetPlannerResEncM"),
    "resenc_l": _PlannerNames(plans="nnUNetResEncUNetLPlans", planner="nnUNetPlannerResEncL"),
    "resenc_xl": _PlannerNames(plans="nnUNetResEncUNetXLPlans", planner="nnUNetPlannerResEncXL"),
}


def read_fingerprint(table: Mapping[str, Any], *, orientation: str, orientation_2d: str) -> Fingerprint:
    """Understand a dataset_fingerprint.json. 2D data lose the thick axis that nnU-Net gives them.

    Args:
        table: The parsed file.
        orientation: What to assume of 3D images: nnU-Net does not record it.
        orientation_2d: What to assume of 2D images.

    Raises:
        ArtifactError: When an entry is missing or has another form.
    """
    try:
        spacings = [tuple(float(s) for s in spacing) for spacing in table["spacings"]]
        shapes = [tuple(int(n) for n in shape) for shape in table["shapes_after_crop"]]
        relative_size = float(table["median_relative_size_after_cropping"])
        intensities = table["foreground_intensity_properties_per_channel"]
        channels = [intensities[key] for key in sorted(intensities, key=int)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"not a dataset_fingerprint.json of nnU-Net: {error!r}") from None
    if len(spacings) != len(shapes):
        raise ArtifactError(f"the fingerprint has {len(spacings)} spacings and {len(shapes)} shapes")
    is_2d = bool(shapes) and all(_is_thick_slice(s, n) for s, n in zip(spacings, shapes, strict=True))
    first_axis = 1 if is_2d else 0
    cases = tuple(
        CaseFingerprint(
            id=f"case{number}",
            spacing=spacing[first_axis:],
            shape=shape[first_axis:],
            cropped_shape=shape[first_axis:],
            orientation=orientation_2d if is_2d else orientation,
        )
        for number, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
    )
    return Fingerprint(
        cases=cases,
        intensities=tuple(
            from_plain(IntensityStatistics, statistics, where=f"foreground_intensity_properties_per_channel.{channel}")
            for channel, statistics in enumerate(channels)
        ),
        median_relative_size=relative_size,
        orientation=orientation_2d if is_2d else orientation,
    )


def plans_table(plan: Plan, dataset: Dataset, fingerprint: Fingerprint, *, reader: str | None = None) -> dict[str, Any]:
    """Write a plan in the form of nnUNetPlans.json.

    Args:
        plan: What one planner made; all its configurations are taken.
        dataset: Name and file ending.
        fingerprint: Spacings and shapes of the cases.
        reader: nnU-Net's class that reads the images; None chooses by the file ending.

    Raises:
        PlanError: When nnU-Net has no counterpart of the planner, a network or a normalization.
    """
    names = _counterpart(_PLANNERS, plan.planner, "planner")
    is_2d = len(plan.transpose) == 2
    transpose = [0, *(1 + axis for axis in plan.transpose)] if is_2d else list(plan.transpose)
    cases = fingerprint.cases
    # Of the images as they are, while Plan.median_shape is that of the resampled images.
    median_spacing = np.median([_three(c.spacing, _SLICE_THICKNESS * max(c.spacing)) for c in cases], axis=0)
    median_shape = np.median([_three(c.cropped_shape, 1) for c in cases], axis=0)
    return {
        "dataset_name": dataset.name,
        "plans_name": names.plans,
        "original_median_spacing_after_transp": [float(median_spacing[axis]) for axis in transpose],
        "original_median_shape_after_transp": [round(median_shape[axis]) for axis in transpose],
        "image_reader_writer": reader or _reader(dataset.file_ending, is_2d=is_2d),
        "transpose_forward": transpose,
        "transpose_backward": [transpose.index(axis) for axis in range(len(transpose))],
        "configurations": {
            _plain_name(c.name): _configuration_table(c, names.plans, {p.previous_stage for p in plan.configurations})
            for c in plan.configurations
        },
        "experiment_planner_used": names.planner,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": _intensities(plan.configurations[0].normalization),
    }


def _configuration_table(
    configuration: Configuration, plans_name: str, stages_before: set[str | None]
) -> dict[str, Any]:
    name = _plain_name(configuration.name)
    if configuration.previous_stage is not None:
        return {"inherits_from": "3d_fullres", "previous_stage": _plain_name(configuration.previous_stage)}
    is_lowres = name == "3d_lowres"
    resampling = configuration.resampling
    by_order = {"order_z": resampling.order_z, "force_separate_z": resampling.force_separate_z}
    table = {
        # All planners prepare full resolution alike, so that nnU-Net lets them share the folder of the default one.
        "data_identifier": f"{plans_name if is_lowres else _PLANNERS['unet'].plans}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": configuration.batch_size,
        "patch_size": list(configuration.patch_size),
        "median_image_size_in_voxels": [int(n) if is_lowres else n for n in configuration.median_shape],
        "spacing": list(configuration.spacing),
        "normalization_schemes": [
            _counterpart(_NORMALIZATIONS, n.scheme, "normalization") for n in configuration.normalization
        ],
        "use_mask_for_norm": [n.use_mask for n in configuration.normalization],
        "resampling_fn_data": _RESAMPLING,
        "resampling_fn_seg": _RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": resampling.image_order, **by_order},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": resampling.segmentation_order, **by_order},
        "resampling_fn_probabilities": _RESAMPLING,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": resampling.probabilities_order, **by_order},
        "architecture": _architecture_table(configuration.network),
        "batch_dice": configuration.batch_dice,
    }
    if configuration.name in stages_before:
        table["next_stage"] = "3d_cascade_fullres"
    return table


def _architecture_table(network: NetworkPlan) -> dict[str, Any]:
    architecture = _counterpart(_ARCHITECTURES, network.name, "network")
    ndim = len(network.strides[0])
    return {
        "network_class_name": architecture.class_name,
        "arch_kwargs": {
            "n_stages": network.num_stages,
            "features_per_stage": list(network.features),
            "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
            "kernel_sizes": [list(kernel) for kernel in network.kernel_sizes],
            "strides": [list(stride) for stride in network.strides],
            architecture.encoder_key: list(network.encoder_blocks),
            "n_conv_per_stage_decoder": list(network.decoder_blocks),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _is_thick_slice(spacing: tuple[float, ...], shape: tuple[int, ...]) -> bool:
    thickness = _SLICE_THICKNESS * max(spacing[1:])
    return len(spacing) == 3 and shape[0] == 1 and math.isclose(spacing[0], thickness, rel_tol=1e-6)


def _three(values: Sequence[float], first: float) -> tuple[float, ...]:
    """Values along three axes; 2D data get a first one."""
    return (first, *values) if len(values) == 2 else tuple(values)


def _intensities(normalization: tuple[NormalizationPlan, ...]) -> dict[str, Any]:
    return {str(i): to_plain(n.statistics) for i, n in enumerate(normalization) if n.statistics is not None}


def _reader(file_ending: str, *, is_2d: bool) -> str:
    """nnU-Net tries its readers on the first image; the ending and the number of axes decide alike.

    Raises:
        PlanError: When none of nnU-Net's readers takes the ending.
    """
    readers = {**_READERS, **_READERS_2D} if is_2d else {**_READERS_2D, **_READERS}
    return _counterpart(readers, file_ending.lower(), "reader of files that end in")


def _plain_name(name: str) -> str:
    """Name without the planner: nnU-Net keeps planners apart by the name of the plans file."""
    return name.partition("@")[0]


def _counterpart(table: Mapping[str, T], name: str, kind: str) -> T:
    if name not in table:
        raise PlanError(f"nnU-Net has no {kind} {name!r}; it has {', '.join(table)}")
    return table[name]
