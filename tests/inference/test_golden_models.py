"""Models that nnU-Net trained predict here what they predicted there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.dataset import Case, load_dataset
from autoseg.image import read_image, read_segmentation
from autoseg.inference.model import ModelRecord, TrainedModel, build_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.interop.nnunet_checkpoint import NnUNetCheckpoint, read_nnunet_checkpoint
from autoseg.interop.nnunet_reading import read_plans
from autoseg.plan import Plan

MODELS = [
    "Dataset901_AnisoCT__nnUNetPlans__2d",
    "Dataset901_AnisoCT__nnUNetPlans__3d_fullres",
    "Dataset903_OddAxis__nnUNetResEncUNetMPlans__3d_fullres",
    "Dataset904_VeryThick__nnUNetResEncUNetMPlans__2d",
    "Dataset905_Regions__nnUNetPlans__3d_fullres",
]


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
        first = checkpoints[0]
        self.plan = read_plans(first.plans, first.dataset, configurations=[first.configuration])
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
    predictor = ConfigurationPredictor(golden.plan, golden.models)
    for case in golden.cases:
        probabilities = predictor.predict(read_image(case.images), case_id=case.id).to_array()
        assert probabilities.dtype == np.float32
        # the stored probabilities are rounded to float16, which is 2.4e-4 at most
        difference = np.abs(probabilities - golden.probabilities(case)).max()
        differing = (golden.plan.labels.segmentation(probabilities) != golden.segmentation(case)).mean()
        assert difference < 2e-3
        assert differing <= 0.0005


def test_float32_sums_differ_only_where_float16_fails(golden: Golden) -> None:
    predictor = ConfigurationPredictor(golden.plan, golden.models, InferenceOptions(accumulation="float32"))
    case = golden.cases[0]
    probabilities = predictor.predict(read_image(case.images), case_id=case.id).to_array()
    difference = np.abs(probabilities - golden.probabilities(case))
    differing = (golden.plan.labels.segmentation(probabilities) != golden.segmentation(case)).mean()
    assert np.median(difference) < 2e-3
    assert difference.max() < 0.2
    assert differing < 0.01
