"""nnU-Net's fingerprint and plans as autoseg's types and back; the vocabulary of its JSON files stays in here.

The structure is that of nnU-Net 2.8: transposed axis order, class names, one entry per configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from autoseg.codec import from_plain, to_plain
from autoseg.dataset import Dataset
from autoseg.errors import ArtifactError, PlanError
from autoseg.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.interop.nnunet_names import (
    ARCHITECTURES,
    NONLINEARITIES,
    NORMALIZATIONS,
    NORMS,
    PLANNERS,
    READERS,
    READERS_2D,
    RESAMPLING,
    SLICE_THICKNESS,
    counterpart,
    is_thick_slice,
    plain_name,
    three,
)
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan

_DESCRIBED = (
    *("name", "features", "strides", "kernel_sizes", "encoder_blocks", "decoder_blocks", "deep_supervision"),
    *("norm", "activation", "dropout", "checkpointing", "options"),
)
"""What of a network nnU-Net's plans have words for, or what changes nothing in its parameters."""


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
    is_2d = bool(shapes) and all(is_thick_slice(s, n) for s, n in zip(spacings, shapes, strict=True))
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
    return plans_table_of(
        plan, name=dataset.name, file_ending=dataset.file_ending, cases=fingerprint.cases, reader=reader
    )


def plans_table_of(
    plan: Plan, *, name: str, file_ending: str, cases: Sequence[CaseFingerprint], reader: str | None = None
) -> dict[str, Any]:
    """Write a plan in the form of nnUNetPlans.json where the dataset itself is not at hand.

    Args:
        plan: What one planner made; all its configurations are taken.
        name: Name of the dataset.
        file_ending: Ending of its images.
        cases: Spacings and shapes whose medians are recorded.
        reader: nnU-Net's class that reads the images; None chooses by the file ending.

    Raises:
        PlanError: When nnU-Net has no counterpart of the planner, a network or a normalization.
    """
    names = counterpart(PLANNERS, plan.planner, "planner")
    is_2d = len(plan.transpose) == 2
    transpose = [0, *(1 + axis for axis in plan.transpose)] if is_2d else list(plan.transpose)
    # Of the images as they are, while Plan.median_shape is that of the resampled images.
    median_spacing = np.median([three(c.spacing, SLICE_THICKNESS * max(c.spacing)) for c in cases], axis=0)
    median_shape = np.median([three(c.cropped_shape, 1) for c in cases], axis=0)
    return {
        "dataset_name": name,
        "plans_name": names.plans,
        "original_median_spacing_after_transp": [float(median_spacing[axis]) for axis in transpose],
        "original_median_shape_after_transp": [round(median_shape[axis]) for axis in transpose],
        "image_reader_writer": reader or _reader(file_ending, is_2d=is_2d),
        "transpose_forward": transpose,
        "transpose_backward": [transpose.index(axis) for axis in range(len(transpose))],
        "configurations": {
            plain_name(c.name): _configuration_table(c, names.plans, {p.previous_stage for p in plan.configurations})
            for c in plan.configurations
        },
        "experiment_planner_used": names.planner,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": _intensities(plan.configurations[0].normalization),
    }


def _configuration_table(
    configuration: Configuration, plans_name: str, stages_before: set[str | None]
) -> dict[str, Any]:
    if configuration.previous_stage is not None:
        return {"inherits_from": "3d_fullres", "previous_stage": plain_name(configuration.previous_stage)}
    return complete_configuration_table(configuration, plans_name, stages_before)


def complete_configuration_table(
    configuration: Configuration, plans_name: str, stages_before: set[str | None]
) -> dict[str, Any]:
    """A configuration with all its entries, those included that a cascade usually inherits.

    Args:
        configuration: What is planned, or was trained.
        plans_name: nnU-Net's name of the plans.
        stages_before: Names of configurations that a cascade begins with.
    """
    name = plain_name(configuration.name)
    is_lowres = name == "3d_lowres"
    resampling = configuration.resampling
    by_order = {"order_z": resampling.order_z, "force_separate_z": resampling.force_separate_z}
    table = {
        # All planners prepare full resolution alike, so that nnU-Net lets them share the folder of the default one.
        "data_identifier": f"{plans_name if is_lowres else PLANNERS['unet'].plans}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": configuration.batch_size,
        "patch_size": list(configuration.patch_size),
        "median_image_size_in_voxels": [int(n) if is_lowres else n for n in configuration.median_shape],
        "spacing": list(configuration.spacing),
        "normalization_schemes": [
            counterpart(NORMALIZATIONS, n.steps, "normalization") for n in configuration.normalization
        ],
        "use_mask_for_norm": [n.use_mask for n in configuration.normalization],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": resampling.image_order, **by_order},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": resampling.segmentation_order, **by_order},
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": resampling.probabilities_order, **by_order},
        "architecture": architecture_table(configuration.network),
        "batch_dice": configuration.batch_dice,
    }
    if configuration.name in stages_before:
        table["next_stage"] = "3d_cascade_fullres"
    return table


def architecture_table(network: NetworkPlan) -> dict[str, Any]:
    """A network in the form of nnUNetPlans.json, as it is built: with its normalization, nonlinearity and dropout.

    Raises:
        PlanError: When nnU-Net has no such network, or its plans cannot describe it.
    """
    architecture = counterpart(ARCHITECTURES, network.name, "network")
    if foreign := beyond_nnunet(network):
        raise PlanError(f"nnU-Net's plans cannot describe a network with {', '.join(foreign)}")
    ndim = len(network.strides[0])
    nonlinearity = NONLINEARITIES[network.activation]
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
            "norm_op": f"{NORMS[network.norm]}{ndim}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": f"torch.nn.modules.dropout.Dropout{ndim}d" if network.dropout else None,
            "dropout_op_kwargs": {"p": network.dropout} if network.dropout else None,
            "nonlin": nonlinearity,
            # The exact Gaussian one has no variant that works in place.
            "nonlin_kwargs": {} if network.activation == "gelu" else {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def beyond_nnunet(network: NetworkPlan) -> list[str]:
    """What of a network nnU-Net's plans have no words for, as "name=value"; empty where there is nothing.

    Group normalization is not among its words: it makes layers from their number of feature maps alone. Dropout of its
    residual blocks is in other places than here.
    """
    found = [
        *([f"norm={network.norm}"] if network.norm not in NORMS else []),
        *([f"dropout={network.dropout:g}"] if network.dropout and network.name != "unet" else []),
    ]
    others = {field.name: field.default for field in fields(NetworkPlan) if field.name not in _DESCRIBED}
    found += [f"{name}={getattr(network, name)}" for name, usual in others.items() if getattr(network, name) != usual]
    # With biases, as nnU-Net's.
    return [*found, *(f"{name}={value}" for name, value in network.options.items() if value is not True)]


def _intensities(normalization: tuple[NormalizationPlan, ...]) -> dict[str, Any]:
    return {str(i): to_plain(n.statistics) for i, n in enumerate(normalization) if n.statistics is not None}


def _reader(file_ending: str, *, is_2d: bool) -> str:
    """nnU-Net tries its readers on the first image; the ending and the number of axes decide alike.

    Raises:
        PlanError: When none of nnU-Net's readers takes the ending.
    """
    readers = {**READERS, **READERS_2D} if is_2d else {**READERS_2D, **READERS}
    return counterpart(readers, file_ending.lower(), "reader of files that end in")
