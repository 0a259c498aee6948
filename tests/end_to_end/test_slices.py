"""2.5D from a dataset of tubes to predictions along one axis and along all three."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg.codec import write_json
from autoseg.image import read_image, read_segmentation
from autoseg.inference.model import load_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.pipeline.train import train
from autoseg.plan import Configuration
from autoseg.synthetic.tubes import TUBE, write_tube_dataset
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

AXES = ((0,), (1,), (2,), (0, 1, 2))


def small(configuration: Configuration) -> Configuration:
    """A network that learns in seconds."""
    network = configuration.network
    features = tuple(max(8, f // 4) for f in network.features)
    return replace(configuration, batch_size=8, network=replace(network, features=features))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("tubes")
    write_tube_dataset(folder, num_training=6, num_test=3, edge=36)
    space = plan_and_preprocess(folder, configurations=["2p5d"], workers=0)
    plan = space.load_plan()
    write_json(
        replace(plan, configurations=tuple(small(c) if c.slices else c for c in plan.configurations)), space.plan_path
    )
    config = TrainingConfig(iterations=100, optimizer="adamw", learning_rate=5e-3, precision="float32")
    config = replace(config, iterations_per_epoch=100, validation_iterations=1, augmentation="none+mirror")
    report = train(space, "2p5d", 0, config=config, device="cpu", workers=0)
    assert set(report.dice) == {"kidney", "vessel"}
    return space


def tube_dice(predictor: ConfigurationPredictor, folder: Path) -> float:
    scores = []
    for path in sorted(folder.glob("imagesTs/*.tif")):
        name = path.stem.removesuffix("_0000")
        probability = predictor.predict(read_image([path])).to_array()[1]  # of the second region
        reference = read_segmentation(folder / "labelsTs" / f"{name}.tif").array == TUBE
        found = probability > 0.5
        scores.append(2 * (found & reference).sum() / (found.sum() + reference.sum()))
    return float(np.mean(scores))


@pytest.mark.slow
def test_three_axes_find_tubes_at_least_as_well_as_the_best_of_them(trained: Workspace) -> None:
    """R309: one network that learned slices of all axes."""
    plan = trained.load_plan()
    configuration = plan.configuration("2p5d")
    assert configuration.slices is not None
    assert configuration.slices.axes == (0, 1, 2)
    models = [load_model(trained.run("2p5d", 0).final)]
    options = InferenceOptions(augmentation="none")
    dice = {
        axes: tube_dice(
            ConfigurationPredictor(plan, models, replace(options, slice_axes=axes)), trained.dataset_source.root
        )
        for axes in AXES
    }
    best_alone = max(dice[axes] for axes in AXES[:3])
    assert best_alone > 0.3  # it has learned something
    assert dice[(0, 1, 2)] >= best_alone, dice
