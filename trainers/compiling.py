"""Compiling a network, where that pays and where it works."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoseg.training_config import TrainingConfig

_SHORTEST_BUDGET = 1800.0  # seconds: compiling takes minutes of them


def is_compiled(config: TrainingConfig, device: torch.device) -> bool:
    """Whether a network is to be compiled: as asked for, or for long runs on CUDA."""
    if config.compile != "auto":
        return config.compile == "true"
    is_long = config.time_budget is None or config.time_budget >= _SHORTEST_BUDGET
    return device.type == "cuda" and sys.platform != "win32" and is_long


Forward = Callable[[nn.Module, Tensor], list[Tensor]]
"""Calls a network as training does, in its precision and memory layout: images (b,c,...) to outputs per scale."""


def compile_network(
    network: nn.Module,
    forward: Forward,
    criterion: nn.Module,
    batch: tuple[Tensor, list[Tensor]],
    tell: Callable[[str], None],
) -> nn.Module:
    """A compiled form that shares the network's parameters; the network itself where compiling fails.

    It is tried at once, in training and in evaluation: otherwise a missing compiler would end a run in its first epoch.

    Args:
        network: On its device, in training mode.
        forward: How it will be called.
        criterion: Loss of outputs and targets per scale.
        batch: Images (b,c,...) and targets per scale such as training will have.
        tell: Told how it went.
    """
    compiled = network
    try:
        compiled = torch.compile(network)  # type: ignore[assignment]  # a module for a module
        gradless_parameters(network, lambda images: forward(compiled, images), criterion, batch)
        with torch.no_grad():
            network.eval()
            forward(compiled, batch[0])
    except torch.OutOfMemoryError:
        pass  # training splits batches that are too large
    except Exception as error:  # noqa: BLE001 - compilers fail in many ways, and none is a reason not to train
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        tell(f"the network is not compiled, because that failed: {reason}")
        return network
    finally:
        network.train()
    tell("the network is compiled")
    return compiled


def gradless_parameters(
    network: nn.Module,
    forward: Callable[[Tensor], list[Tensor]],
    criterion: nn.Module,
    batch: tuple[Tensor, list[Tensor]],
) -> frozenset[str]:
    """Names of parameters that the loss does not depend on, found by trying; the network stays as it was.

    Args:
        network: Holds the parameters; in training mode.
        forward: Calls it, compiled perhaps.
        criterion: Loss of outputs and targets per scale.
        batch: Images (b,c,...) and targets per scale.
    """
    images, targets = batch
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}  # running statistics, if any
    try:
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):  # dropout draws
            criterion(forward(images), targets).backward()
        return frozenset(name for name, parameter in network.named_parameters() if parameter.grad is None)
    finally:
        network.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
