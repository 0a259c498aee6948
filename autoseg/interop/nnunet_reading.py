"""nnU-Net's plans.json and dataset.json as a plan that predicts what nnU-Net predicts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoseg.codec import from_plain
from autoseg.errors import ArtifactError, AutosegError, PlanError
from autoseg.fingerprint import IntensityStatistics
from autoseg.interop.nnunet_names import (
    ARCHITECTURES,
    NONLINEARITIES,
    NORMALIZATIONS,
    NORMS,
    PLANNERS,
    RESAMPLING,
    TURNING_READERS,
    counterpart,
    is_thick_slice,
)
from autoseg.interop.nnunet_plans import architecture_table
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan, ResamplingPlan

_SCHEMES = {class_name: scheme for scheme, class_name in NORMALIZATIONS.items()}
_NETWORKS = {a.class_name.rpartition(".")[2]: name for name, a in ARCHITECTURES.items()}
_SIZED_FOR = {"resenc_l": 24.0, "resenc_xl": 40.0}  # GB; every other planner of nnU-Net plans for 8
_CLASS_KEYS = ("conv_op", "norm_op", "dropout_op", "nonlin")
_STATISTICS = tuple(field.name for field in dataclasses.fields(IntensityStatistics))


def read_plans(plans: Mapping[str, Any], dataset: Mapping[str, Any], *, configurations: Iterable[str]) -> Plan:
    """Understand what nnU-Net planned.

    Args:
        plans: Parsed plans.json, also of versions before nnU-Net 2.4, which describe networks in another way.
        dataset: Parsed dataset.json of the model.
        configurations: Names of the configurations to take.

    Returns:
        A plan that takes axes as stored and sums windows in float16, as nnU-Net does.

    Raises:
        PlanError: When it asks for something that autoseg does not have, such as another network.
        ArtifactError: When an entry is missing or has another form.
    """
    try:
        return _plan(plans, dataset, configurations)
    except AutosegError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtifactError(f"plans.json or dataset.json is not in nnU-Net's form: {error!r}") from None


def _plan(plans: Mapping[str, Any], dataset: Mapping[str, Any], names: Iterable[str]) -> Plan:
    transpose = tuple(int(axis) for axis in plans["transpose_forward"])
    spacing = tuple(float(s) for s in plans["original_median_spacing_after_transp"])
    shape = tuple(float(n) for n in plans["original_median_shape_after_transp"])
    if is_thick_slice(spacing, shape):
        spacing, shape, transpose = spacing[1:], shape[1:], tuple(axis - 1 for axis in transpose[1:])
    channels = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
    file_ending = str(dataset["file_ending"])
    if not re.fullmatch(r"(\.[A-Za-z0-9]+)+", file_ending):
        raise ArtifactError(f"dataset.json: file_ending {file_ending!r} is not the ending of a file name")
    planner = str(plans.get("experiment_planner_used", "an unnamed planner"))
    preset = next((name for name, known in PLANNERS.items() if known.planner == planner), "unet")
    return Plan(
        planner="nnunet",
        dataset=str(plans["dataset_name"]),
        channels=tuple(str(channels[str(i)]) for i in range(len(channels))),
        labels=LabelScheme.from_table(
            dataset["labels"], tuple(dataset.get("regions_class_order") or ()), where="dataset.json"
        ),
        file_ending=file_ending,
        gpu_memory_gb=_SIZED_FOR.get(preset, 8.0),
        gpu_memory_source="nnU-Net's default; its plans do not record it",
        orientation=TURNING_READERS.get(str(plans.get("image_reader_writer"))),
        accumulation="float16",
        transpose=transpose,
        median_spacing=spacing,
        median_shape=shape,
        configurations=tuple(_configuration(plans, name) for name in names),
        notes=(f"imported from nnU-Net, which planned it with {planner} ({plans['plans_name']})",),
    )


def _configuration(plans: Mapping[str, Any], name: str) -> Configuration:
    table = _resolve(counterpart(plans["configurations"], name, "configuration in plans.json"), plans, seen=(name,))
    network = _network(table, name)
    previous = table.get("previous_stage")
    return Configuration(
        name=name,
        data=name,
        spacing=tuple(float(s) for s in table["spacing"]),
        median_shape=tuple(float(n) for n in table["median_image_size_in_voxels"]),
        patch_size=tuple(int(n) for n in table["patch_size"]),
        batch_size=int(table["batch_size"]),
        batch_dice=bool(table["batch_dice"]),
        normalization=_normalization(table, plans),
        resampling=_resampling(table, name),
        network=network,
        previous_stage=None if previous is None else str(previous),
    )


def _resolve(table: Mapping[str, Any], plans: Mapping[str, Any], *, seen: tuple[str, ...]) -> dict[str, Any]:
    """An entry with everything that it inherits."""
    parent = table.get("inherits_from")
    if parent is None:
        return dict(table)
    if parent in seen:
        raise ArtifactError(f"plans.json: configurations inherit in a circle: {' -> '.join((*seen, parent))}")
    return {**_resolve(plans["configurations"][parent], plans, seen=(*seen, parent)), **table}


def _normalization(table: Mapping[str, Any], plans: Mapping[str, Any]) -> tuple[NormalizationPlan, ...]:
    known = plans.get("foreground_intensity_properties_per_channel")
    if known is None:
        known = plans["foreground_intensity_properties_by_modality"]  # before nnU-Net 2.2
    return tuple(
        NormalizationPlan(
            scheme=counterpart(_SCHEMES, scheme, "normalization that autoseg has, called"),
            use_mask=bool(use_mask),
            statistics=_statistics(known.get(str(channel)), channel),
        )
        for channel, (scheme, use_mask) in enumerate(
            zip(table["normalization_schemes"], table["use_mask_for_norm"], strict=True)
        )
    )


def _statistics(table: Mapping[str, Any] | None, channel: int) -> IntensityStatistics | None:
    if table is None:
        return None
    where = f"foreground_intensity_properties_per_channel.{channel}"
    return from_plain(IntensityStatistics, {key: table[key] for key in _STATISTICS}, where=where)


def _resampling(table: Mapping[str, Any], name: str) -> ResamplingPlan:
    orders: dict[str, int] = {}
    along_z = set()
    for part, usual in (("data", 3), ("seg", 1), ("probabilities", 1)):
        function = table.get(f"resampling_fn_{part}", RESAMPLING)
        if function != RESAMPLING:
            raise PlanError(f"{name} resamples with {function}, which autoseg does not have; it has {RESAMPLING}")
        options = table.get(f"resampling_fn_{part}_kwargs", {})
        orders[part] = int(options.get("order", usual))
        along_z.add((int(options.get("order_z", 0)), options.get("force_separate_z")))
    if len(along_z) > 1:
        raise PlanError(f"{name} treats thick slices of images, labels and probabilities differently: {along_z}")
    order_z, force_separate_z = along_z.pop()
    return ResamplingPlan(
        image_order=orders["data"],
        segmentation_order=orders["seg"],
        probabilities_order=orders["probabilities"],
        order_z=order_z,
        force_separate_z=force_separate_z,
    )


def _network(table: Mapping[str, Any], name: str) -> NetworkPlan:
    class_name, options = _architecture(table)
    if class_name not in _NETWORKS:
        raise PlanError(f"{name} is a {class_name}, which autoseg does not have; it has {', '.join(_NETWORKS)}")
    kind = _NETWORKS[class_name]
    stages = int(options["n_stages"])
    network = NetworkPlan(
        name=kind,
        features=tuple(int(n) for n in options["features_per_stage"]),
        strides=_per_axis(options["strides"]),
        kernel_sizes=_per_axis(options["kernel_sizes"]),
        encoder_blocks=_per_stage(options[ARCHITECTURES[kind].encoder_key], stages),
        decoder_blocks=_per_stage(options["n_conv_per_stage_decoder"], stages - 1),
        norm=_style(NORMS, options.get("norm_op"), "instance", strip="123d"),
        activation=_style(NONLINEARITIES, options.get("nonlin"), "leaky_relu"),
        dropout=float((options.get("dropout_op_kwargs") or {}).get("p", 0.5)) if options.get("dropout_op") else 0.0,
    )
    given = {key: value for key, value in options.items() if not isinstance(value, int) or key == "conv_bias"}
    expected = architecture_table(network)["arch_kwargs"]
    if differing := [key for key in given if _bare(key, given[key]) != _bare(key, expected.get(key))]:
        key = differing[0]
        raise PlanError(
            f"{name}: a network with {key} {given[key]!r} is not what autoseg builds: {expected.get(key)!r}"
        )
    return network


def _style(names: Mapping[str, str], given: object, usual: str, *, strip: str = "") -> Any:  # noqa: ANN401 - a Literal
    """The word for a class of layers; the usual one where there is none, so that the comparison tells what differs."""
    bare = str(given).rpartition(".")[2].rstrip(strip)
    return next((word for word, name in names.items() if name.rpartition(".")[2] == bare), usual)


def _bare(key: str, value: object) -> object:
    """A class without its module, which differs between versions of torch; blocks as they stand."""
    return str(value).rpartition(".")[2] if key in _CLASS_KEYS else value


def _architecture(table: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Class name of the network and its options."""
    if "architecture" in table:
        class_name = str(table["architecture"]["network_class_name"]).rpartition(".")[2]
        return class_name, dict(table["architecture"]["arch_kwargs"])
    class_name = str(table["UNet_class_name"])  # before nnU-Net 2.4
    blocks = list(table["n_conv_per_stage_encoder"])
    features = [int(table["UNet_base_num_features"]) * 2**stage for stage in range(len(blocks))]
    encoder_key = "n_conv_per_stage" if class_name == "PlainConvUNet" else "n_blocks_per_stage"
    return class_name, {
        "n_stages": len(blocks),
        "features_per_stage": [min(n, int(table["unet_max_num_features"])) for n in features],
        "kernel_sizes": table["conv_kernel_sizes"],
        "strides": table["pool_op_kernel_sizes"],
        encoder_key: blocks,
        "n_conv_per_stage_decoder": list(table["n_conv_per_stage_decoder"]),
    }


def _per_axis(stages: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in stage) for stage in stages)


def _per_stage(blocks: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    return (blocks,) * num_stages if isinstance(blocks, int) else tuple(int(n) for n in blocks)
