"""Models that nnU-Net trained predict here what they predicted there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.dataset import Case, load_dataset
from autoseg.fingerprint import IntensityStatistics
from autoseg.image import read_image, read_segmentation
from autoseg.inference.model import ModelRecord, TrainedModel, build_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.interop.nnunet_checkpoint import NnUNetCheckpoint, read_nnunet_checkpoint
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan

MODELS = [
    "Dataset901_AnisoCT__nnUNetPlans__2d",
    "Dataset901_AnisoCT__nnUNetPlans__3d_fullres",
    "Dataset903_OddAxis__nnUNetResEncUNetMPlans__3d_fullres",
    "Dataset904_VeryThick__nnUNetResEncUNetMPlans__2d",
    "Dataset905_Regions__nnUNetPlans__3d_fullres",
]
SCHEMES = {"CTNormalization": "ct", "ZScoreNormalization": "zscore"}


def tuples(table: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(entry) for entry in table)


def configuration_of(table: Mapping[str, Any], name: str, intensities: Mapping[str, Any]) -> Configuration:
    kwargs = table["architecture"]["arch_kwargs"]
    is_plain = table["architecture"]["network_class_name"].endswith("PlainConvUNet")
    network = NetworkPlan(
        name="unet" if is_plain else "resenc",
        features=tuple(kwargs["features_per_stage"]),
        strides=tuples(kwargs["strides"]),
        kernel_sizes=tuples(kwargs["kernel_sizes"]),
        encoder_blocks=tuple(kwargs["n_conv_per_stage" if is_plain else "n_blocks_per_stage"]),
        decoder_blocks=tuple(kwargs["n_conv_per_stage_decoder"]),
    )
    normalization = tuple(
        NormalizationPlan(
            scheme=SCHEMES[scheme], use_mask=use_mask, statistics=IntensityStatistics(**intensities[str(channel)])
        )
        for channel, (scheme, use_mask) in enumerate(
            zip(table["normalization_schemes"], table["use_mask_for_norm"], strict=True)
        )
    )
    return Configuration(
        name=name,
        data=table["data_identifier"],
        spacing=tuple(table["spacing"]),
        median_shape=tuple(table["median_image_size_in_voxels"]),
        patch_size=tuple(table["patch_size"]),
        batch_size=table["batch_size"],
        batch_dice=table["batch_dice"],
        normalization=normalization,
        network=network,
    )


def plan_of(checkpoint: NnUNetCheckpoint) -> Plan:
    plans, dataset = checkpoint.plans, checkpoint.dataset
    intensities = plans["foreground_intensity_properties_per_channel"]
    name = checkpoint.configuration
    channels = dataset["channel_names"]
    return Plan(
        planner="nnunet",
        dataset=plans["dataset_name"],
        channels=tuple(channels[str(i)] for i in range(len(channels))),
        labels=LabelScheme.from_table(
            dataset["labels"], tuple(dataset.get("regions_class_order", ())), where="dataset.json"
        ),
        file_ending=dataset["file_ending"],
        gpu_memory_gb=8.0,
        gpu_memory_source="nnU-Net",
        orientation=None,  # nnU-Net takes axes as stored
        transpose=tuple(plans["transpose_forward"]),
        median_spacing=tuple(plans["original_median_spacing_after_transp"]),
        median_shape=tuple(plans["original_median_shape_after_transp"]),
        configurations=(configuration_of(plans["configurations"][name], name, intensities),),
    )


def trained(checkpoint: NnUNetCheckpoint, plan: Plan) -> TrainedModel:
    record = ModelRecord(
        configuration=plan.configurations[0],
        labels=plan.labels,
        num_channels=len(plan.channels),
        mirror_axes=checkpoint.mirror_axes,
        iterations=0,
        plan_digest="",
        precision="float16",
    )
    return build_model(record, checkpoint.weights)


class Golden:
    """One model of nnU-Net with what it predicted."""

    def __init__(self, shared_dir: Path, name: str) -> None:
        self.folder = shared_dir / "golden" / "models" / name
        self.dataset = load_dataset(shared_dir / "golden" / "raw" / name.split("__")[0])
        checkpoints = [read_nnunet_checkpoint(p) for p in sorted(self.folder.glob("model/fold_*/checkpoint_final.pth"))]
        self.plan = plan_of(checkpoints[0])
        self.models = [trained(checkpoint, self.plan) for checkpoint in checkpoints]

    @property
    def cases(self) -> tuple[Case, ...]:
        return self.dataset.training[:2]

    def probabilities(self, case: Case) -> np.ndarray:
        with np.load(self.folder / "predictions" / f"{case.id}.npz") as archive:
            return archive["probabilities"].astype(np.float32)

    def segmentation(self, case: Case) -> np.ndarray:
        return read_segmentation(self.folder / "predictions" / f"{case.id}{self.plan.file_ending}").array


@pytest.fixture(params=MODELS)
def golden(shared_dir: Path, request: pytest.FixtureRequest) -> Golden:
    return Golden(shared_dir, request.param)


def test_nnunets_arithmetic_gives_nnunets_predictions(golden: Golden) -> None:
    predictor = ConfigurationPredictor(golden.plan, golden.models, InferenceOptions(accumulation="float16"))
    for case in golden.cases:
        probabilities = predictor.predict(read_image(case.images), case_id=case.id)
        assert probabilities.dtype == np.float32
        # the stored probabilities are rounded to float16, which is 2.4e-4 at most
        difference = np.abs(probabilities - golden.probabilities(case)).max()
        differing = (golden.plan.labels.segmentation(probabilities) != golden.segmentation(case)).mean()
        assert difference < 2e-3
        assert differing <= 0.0005


def test_float32_sums_differ_only_where_float16_fails(golden: Golden) -> None:
    predictor = ConfigurationPredictor(golden.plan, golden.models)
    case = golden.cases[0]
    probabilities = predictor.predict(read_image(case.images), case_id=case.id)
    difference = np.abs(probabilities - golden.probabilities(case))
    differing = (golden.plan.labels.segmentation(probabilities) != golden.segmentation(case)).mean()
    assert np.median(difference) < 2e-3
    assert difference.max() < 0.2
    assert differing < 0.01
