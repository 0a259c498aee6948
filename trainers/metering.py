"""What a training step takes in memory: measured on a GPU, elsewhere estimated without computing."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from autoseg.errors import TrainingError
from autoseg.networks.memory import GIB, estimate_memory
from autoseg.plan import Configuration, Plan
from autoseg.training import StepMemory, num_input_channels
from autoseg.training_config import TrainingConfig

from .splitting import BatchSplitting
from .step import example_batch, make_stepper

logger = logging.getLogger("autoseg")

_STEPS = 2  # the optimizer's own tensors are there from the second step on


def step_memory(plan: Plan, configuration: Configuration, device: str) -> StepMemory:
    """Peak memory of a training step of the default trainer, in its default precision.

    Args:
        plan: For channels and labels.
        configuration: What is trained.
        device: torch device. On CUDA real steps are taken; elsewhere :func:`estimate_memory` says what a GPU would
            take.
    """
    if not device.startswith("cuda"):
        found = estimate_memory(
            configuration.network,
            patch_size=configuration.patch_size,
            batch_size=configuration.batch_size,
            num_channels=num_input_channels(plan, configuration),
            labels=plan.labels,
        )
        return StepMemory(gigabytes=found.gigabytes, is_measured=False)
    return StepMemory(gigabytes=_measured(plan, configuration, torch.device(device)), is_measured=True)


def _measured(plan: Plan, configuration: Configuration, device: torch.device) -> float:
    """Peak in GiB of real steps on random patches; infinite where the device has not enough for a batch."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        stepper = make_stepper(
            configuration,
            plan,
            TrainingConfig(compile="false"),
            optimizer="sgd",
            learning_rate=1e-4,
            weight_decay=0.0,
            precision="float16",
            device=device,
        )
        # Batches must not be computed in parts: what the whole one takes is the question.
        whole = BatchSplitting(stepper.criterion, logger.info, may_split=False)
        stepper = replace(stepper, splitting=whole)
        images, targets = example_batch(configuration, plan, torch.device("cpu"))
        for _ in range(_STEPS):
            float(stepper.step(images, targets))
        return torch.cuda.max_memory_allocated(device) / GIB
    except (torch.OutOfMemoryError, TrainingError):
        return float("inf")
    finally:
        torch.cuda.empty_cache()
