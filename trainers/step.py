"""One optimizer step, readable at a glance, and the measuring of what it costs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from torch import nn

from autoseg.errors import TrainingError
from autoseg.losses.factory import build_loss
from autoseg.networks.base import SegmentationNetwork
from autoseg.networks.factory import build_network
from autoseg.plan import Configuration, Plan
from autoseg.ranks import ALONE, Ranks
from autoseg.training import num_input_channels
from autoseg.training_config import TrainingConfig

from .compiling import compile_network, gradless_parameters, is_compiled
from .distributed import loss_over_ranks, network_over_ranks, require_enough_patches, synchronize_batch_statistics
from .optimization import build_optimizer
from .sizing import ConcretePrecision
from .splitting import BatchSplitting

logger = logging.getLogger("autoseg")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stepper:
    """Everything one optimizer step touches.

    Args:
        network: In training mode, on ``device``; holds the weights.
        called: The network as validation calls it, compiled where that was asked for.
        trained: The network as training calls it; with several processes it averages their gradients.
        criterion: Loss of outputs and targets per scale, of this process's patches.
        loss: The same of the patches of all processes, which training minimizes.
        optimizer: Over the network's parameters.
        scaler: Keeps float16 gradients from vanishing; disabled in other precisions.
        device: Where to compute.
        precision: Arithmetic of forward and backward.
        gradient_clip: Largest global gradient norm.
        splitting: Computes a batch in parts when memory runs out.
    """

    network: nn.Module
    called: nn.Module
    trained: nn.Module
    criterion: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: ConcretePrecision
    gradient_clip: float
    splitting: BatchSplitting

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs per scale, full resolution first, for images (b,c,...) that lie on the device."""
        return outputs_of(self.called, images, self.precision)

    def step(self, images: torch.Tensor, targets: list[torch.Tensor], *, fraction: float = 1.0) -> torch.Tensor:
        """Take one step and return the loss, which stays on the device: reading it every step would synchronize.

        Args:
            images: Patches (b, c, ...).
            targets: Per scale.
            fraction: Share of the run that lies behind; networks may leave a part of themselves alone until later.

        Raises:
            TrainingError: When a single patch is too much for the device's memory.
        """
        loss = None
        while loss is None:
            with suppress(torch.OutOfMemoryError):  # what the attempt held is freed when this block is left
                loss = self._accumulate(images, targets)
            if loss is None:
                self.splitting.shrink(len(images), self.device)
        for parameter in resting_parameters(self.network, fraction):
            parameter.grad = None  # was computed all the same: processes and compiled networks need steps to be alike
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def _accumulate(self, images: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
        """Add up the gradients of a batch, in as many parts as memory asks for; return the mean loss."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.splitting.parts(len(images))
        losses = []
        for part in parts:
            outputs = outputs_of(self.trained, images[part].to(self.device, non_blocking=True), self.precision)
            loss = self.loss(outputs, [t[part].to(self.device, non_blocking=True) for t in targets])
            share = (part.stop - part.start) / len(images)
            self.scaler.scale(loss * share if len(parts) > 1 else loss).backward()
            losses.append(loss.detach() * share)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def resting_parameters(network: nn.Module, fraction: float) -> Iterable[nn.Parameter]:
    """Parameters that a network leaves alone while this share of the run lies behind."""
    return cast("SegmentationNetwork", network).resting_parameters(fraction)


def outputs_of(network: nn.Module, images: torch.Tensor, precision: ConcretePrecision) -> list[torch.Tensor]:
    """Outputs per scale, full resolution first, computed in a precision for images (b,c,...) on the device."""
    if images.ndim == 5:
        images = images.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(images.device.type, dtype=_DTYPES[precision], enabled=precision != "float32"):
        outputs = network(images)
    return outputs if isinstance(outputs, list) else [outputs]


def make_stepper(
    configuration: Configuration,
    plan: Plan,
    config: TrainingConfig,
    *,
    optimizer: Literal["sgd", "adam", "adamw"],
    learning_rate: float,
    weight_decay: float,
    precision: ConcretePrecision,
    device: torch.device,
    ranks: Ranks = ALONE,
    tell: Callable[[str], None] = logger.info,
) -> Stepper:
    """Build network, loss and optimizer for a configuration; the seed decides the initial weights.

    Raises:
        SettingsError: When several processes cannot share its batches.
    """
    require_enough_patches(configuration.batch_size, ranks)
    torch.manual_seed(config.seed)
    network: nn.Module = build_network(
        configuration.network, num_channels=num_input_channels(plan, configuration), num_outputs=plan.labels.num_outputs
    )
    if config.pretrained is None and any(True for _ in resting_parameters(network, 0.0)):
        tell("a part of the network is not trained at first, and no --pretrained FILE gave it weights: they are random")
    network = network.to(device)
    if configuration.ndim == 3:
        # Channels last lets the CPU and tensor cores read a voxel's features in one go.
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # stubs lack 3d
    network = synchronize_batch_statistics(network, ranks).train()
    criterion = build_loss(
        config.loss,
        labels=plan.labels,
        batch_dice=configuration.batch_dice,
        num_scales=len(configuration.network.output_strides),
        supervision=configuration.network.supervision,
        extent=configuration.patch_extent,
        auxiliary_weight=configuration.network.auxiliary_weight,
    ).to(device)
    called, unused = network, frozenset[str]()
    own = replace(configuration, batch_size=len(ranks.share(configuration.batch_size)))
    forward = partial(outputs_of, precision=precision)
    if is_compiled(config, device):
        called = compile_network(network, forward, criterion, example_batch(own, plan, device), tell)
    if not ranks.is_alone:
        unused = gradless_parameters(network, partial(forward, network), criterion, example_batch(own, plan, device))
    return Stepper(
        network=network,
        called=called,
        trained=network_over_ranks(network, called, ranks, unused=unused),
        criterion=criterion,
        loss=loss_over_ranks(criterion, ranks, batch_size=configuration.batch_size),
        optimizer=build_optimizer(
            network,
            optimizer,
            learning_rate=learning_rate,
            momentum=config.momentum,
            weight_decay=weight_decay,
            amsgrad=config.amsgrad,
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "float16"),
        device=device,
        precision=precision,
        gradient_clip=config.gradient_clip,
        splitting=BatchSplitting(criterion, tell, may_split=ranks.is_alone),
    )


def step_timer(
    plan: Plan, config: TrainingConfig, device: torch.device, *, repeats: int = 2, num_processes: int = 1
) -> Callable[[Configuration, ConcretePrecision], float]:
    """Make a function that measures an optimizer step of a configuration on random patches.

    Args:
        plan: For channels and labels.
        config: Settings of the run.
        device: Where to measure.
        repeats: Steps timed after one that warms up; the fastest counts.
        num_processes: How many share a batch; the share of one is timed.
    """
    config = replace(config, compile="false")  # for every candidate that would take longer than measuring does

    def measure(configuration: Configuration, precision: ConcretePrecision) -> float:
        configuration = replace(configuration, batch_size=-(-configuration.batch_size // num_processes))
        stepper = make_stepper(
            configuration,
            plan,
            config,
            optimizer="sgd",
            learning_rate=1e-4,
            weight_decay=0.0,
            precision=precision,
            device=device,
        )
        images, targets = example_batch(configuration, plan, torch.device("cpu"))
        fastest = float("inf")
        for _ in range(1 + repeats):
            started = time.perf_counter()
            float(stepper.step(images, targets))
            fastest = min(fastest, time.perf_counter() - started)
        return fastest

    return measure


def example_batch(
    configuration: Configuration, plan: Plan, device: torch.device
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A random batch as training will have it."""
    generator, labels = torch.Generator().manual_seed(0), plan.labels
    batch, patch = configuration.batch_size, configuration.patch_size
    images = torch.randn(batch, num_input_channels(plan, configuration), *patch, generator=generator)
    targets = []
    for stride in configuration.network.output_strides:
        shape = tuple(n // s for n, s in zip(patch, stride, strict=True))
        if labels.has_regions:
            channels = len(labels.targets) + (labels.ignore_value is not None)
            targets.append(torch.zeros(batch, channels, *shape))
        else:
            targets.append(torch.randint(0, 2, (batch, 1, *shape), generator=generator, dtype=torch.int16))
    return images.to(device), [target.to(device) for target in targets]


def require_finite(loss: float, case_ids: tuple[str, ...], *, step: int, checkpoint: str) -> None:
    """Stop on a loss that is not a number, while the last checkpoint is still good.

    Raises:
        TrainingError: Names the cases of the batch.
    """
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise TrainingError(
            f"the loss became {loss} in iteration {step} on a batch of {', '.join(sorted(set(case_ids)))}. "
            f"Look at these cases, or lower the learning rate: --set learning_rate=...; {checkpoint} is from before"
        )
