"""Parts of a network that are not trained until later."""

from __future__ import annotations

from dataclasses import replace

import torch

from autoseg.labels import LabelScheme
from autoseg.plan import Configuration, NetworkPlan, NormalizationPlan, Plan
from autoseg.trainers.step import Stepper, make_stepper
from autoseg.training_config import TrainingConfig

CONFIGURATION = Configuration(
    name="2d",
    data="2d",
    spacing=(1.0, 1.0),
    median_shape=(16.0, 16.0),
    patch_size=(16, 16),
    batch_size=2,
    batch_dice=False,
    normalization=(NormalizationPlan(scheme="zscore"),),
    network=NetworkPlan(
        name="scn",
        features=(4, 8),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3), (3, 3)),
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    ),
)


def make_plan() -> Plan:
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
        configurations=(CONFIGURATION,),
    )


def batch() -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 1, 16, 16, generator=generator)
    return images, [torch.randint(0, 3, (2, 1, 16, 16), generator=generator, dtype=torch.int16)]


def stepper(train: str, told: list[str], *, pretrained: str | None = None) -> Stepper:
    return make_stepper(
        replace(CONFIGURATION, network=replace(CONFIGURATION.network, options={"train": train})),
        make_plan(),
        TrainingConfig(seed=1, pretrained=pretrained),
        optimizer="adamw",
        learning_rate=0.01,
        weight_decay=0.1,
        precision="float32",
        device=torch.device("cpu"),
        tell=told.append,
    )


def moved(made: Stepper, *, fraction: float) -> set[str]:
    """Parts of the network that a step changes; the first step only gives the last layer of the refinement a value."""
    before = {name: p.detach().clone() for name, p in made.network.named_parameters()}
    for _ in range(2):
        made.step(*batch(), fraction=fraction)
    return {n.partition(".")[0] for n, p in made.network.named_parameters() if not torch.equal(p, before[n])}


def test_the_first_half_trains_the_refinement_alone() -> None:
    made = stepper("frozen_then_joint", [])
    assert moved(made, fraction=0.0) == {"refinement"}
    assert moved(made, fraction=0.49) == {"refinement"}
    assert moved(made, fraction=0.5) == {"refinement", "segmenter"}
    assert moved(stepper("joint", []), fraction=0.0) == {"refinement", "segmenter"}
    assert moved(stepper("frozen", []), fraction=1.0) == {"refinement"}


def test_a_resting_network_without_weights_is_told() -> None:
    told: list[str] = []
    stepper("frozen_then_joint", told)
    assert "--pretrained" in told[0]
    told.clear()
    stepper("joint", told)
    stepper("frozen_then_joint", told, pretrained="model.pt")
    assert not told
