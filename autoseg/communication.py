"""What processes that train together tell each other; for a process alone everything here does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from autoseg.errors import TrainingError
from autoseg.ranks import Ranks

_TIMEOUT = timedelta(hours=2)  # held-out cases take their time, and a process that ends is noticed at once anyway


@contextmanager
def joined(ranks: Ranks, device: str) -> Iterator[None]:
    """Connect the processes for as long as the block lasts.

    Addresses come from the environment, where ``torchrun`` puts them.

    Args:
        ranks: This process.
        device: Where it computes; GPUs exchange tensors by NCCL, CPUs by Gloo.

    Raises:
        TrainingError: When the processes do not find, or lose, each other.
    """
    if ranks.is_alone:
        yield
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    try:
        dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.size, timeout=_TIMEOUT)
        yield
        # All are done before the connection goes. After an error nobody is waited for: the process ends, and with it
        # the others, which notice.
        dist.barrier()
        dist.destroy_process_group()
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise TrainingError(
            f"process {ranks.rank} lost the {ranks.size - 1} others, of which one ended; its own message says why"
        ) from error


def wait(ranks: Ranks) -> None:
    """Wait until all processes have come here."""
    if not ranks.is_alone:
        dist.barrier()


def value_of_first(ranks: Ranks, value: float) -> float:
    """The value that the first process has, so that all decide alike."""
    if ranks.is_alone:
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return float(shared)


def sum_over_ranks(ranks: Ranks, tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes; gradients pass, those of all processes added up."""
    if ranks.is_alone:
        return tensor
    summed: Tensor = _SumOverRanks.apply(tensor)  # type: ignore[no-untyped-call]  # torch's stubs
    return summed


def require_same(ranks: Ranks, value: float, message: str) -> None:
    """Stop where a process has another value than the first.

    Raises:
        TrainingError: With the message, in every process.
    """
    if ranks.is_alone:
        return
    differing = torch.tensor([float(value != value_of_first(ranks, value))])
    dist.all_reduce(differing)
    if float(differing):
        raise TrainingError(message)


class _SumOverRanks(torch.autograd.Function):
    """Every process uses the sum, so what reaches a summand is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ANN401, ARG004 - torch's signature
        summed = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


def _is_lost_connection(error: RuntimeError) -> bool:
    """Torch has an error of its own for that with NCCL only."""
    text = str(error).lower()
    signs = ("gloo", "connection closed", "connection reset", "connection refused", "broken pipe")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)
