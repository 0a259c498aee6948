"""One fold on several processes: each computes its share of every batch, and all take the step that one would take.

Every process computes the loss of the whole batch from its own patches and from sums over all processes. Gradients pass
through these sums, so that their mean over the processes is the gradient of the whole batch, whatever the loss: batch
Dice, voxels that are ignored, and shares of different size included.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autoseg.communication import sum_over_ranks
from autoseg.errors import SettingsError
from autoseg.losses.compound import DiceCrossEntropyLoss, WeightedSumLoss
from autoseg.losses.deep_supervision import DeepSupervisionLoss
from autoseg.ranks import Ranks

_SUMS = (DeepSupervisionLoss, WeightedSumLoss, DiceCrossEntropyLoss, nn.ModuleList)


def require_enough_patches(batch_size: int, ranks: Ranks) -> None:
    """Refuse more processes than a batch has patches.

    Raises:
        SettingsError: Says what helps.
    """
    if batch_size < ranks.size:
        raise SettingsError(
            f"{ranks.size} processes cannot share batches of {batch_size} patches; start at most {batch_size} "
            "(torchrun --nproc-per-node), or plan a larger batch: plan.json, batch_size"
        )


def loss_over_ranks(criterion: nn.Module, ranks: Ranks, *, batch_size: int) -> nn.Module:
    """The loss of the patches of all processes; the criterion itself for a process alone.

    Args:
        criterion: Loss of one process's outputs and targets; not modified.
        ranks: This process.
        batch_size: Patches of all processes.
    """
    return criterion if ranks.is_alone else _over_ranks(copy.deepcopy(criterion), ranks, batch_size)


def network_over_ranks(network: nn.Module, called: nn.Module, ranks: Ranks, *, unused: frozenset[str]) -> nn.Module:
    """The network with gradients averaged over all processes after every backward pass.

    Args:
        network: Holds the parameters.
        called: The network as it is called, compiled perhaps.
        ranks: This process; alone, ``called`` is returned.
        unused: Names of parameters that the loss does not depend on: they get no gradient, and nobody waits for one.
    """
    if ranks.is_alone:
        return called
    for name, parameter in network.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    device = next(network.parameters()).device
    return DistributedDataParallel(called, device_ids=[device] if device.type == "cuda" else None)


def synchronize_batch_statistics(network: nn.Module, ranks: Ranks) -> nn.Module:
    """Let batch normalization see the whole batch, where there is any; names of parameters stay.

    Raises:
        SettingsError: On CPUs, for which torch cannot do that.
    """
    has_any = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    if ranks.is_alone or not has_any:
        return network
    if next(network.parameters()).device.type != "cuda":
        raise SettingsError("batch normalization over several processes needs GPUs; train with one process on a CPU")
    synchronized: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return synchronized


def _over_ranks(loss: nn.Module, ranks: Ranks, batch_size: int) -> nn.Module:
    if isinstance(loss, _SUMS):
        for name, part in loss.named_children():
            setattr(loss, name, _over_ranks(part, ranks, batch_size))
        return loss
    if getattr(loss, "is_mean_over_samples", False):
        return _MeanOverRanks(loss, ranks, batch_size)
    if hasattr(loss, "sum_over_batch"):
        setattr(loss, "sum_over_batch", functools.partial(sum_over_ranks, ranks))  # noqa: B010 - mypy sees a module
        return loss
    return _LossOfGathered(loss, ranks, batch_size)


class _MeanOverRanks(nn.Module):
    """A loss that is a mean over patches: each process counts as much as it has patches."""

    is_mean_over_samples = True

    def __init__(self, loss: nn.Module, ranks: Ranks, batch_size: int) -> None:
        super().__init__()
        self.loss, self.ranks, self.batch_size = loss, ranks, batch_size

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return sum_over_ranks(self.ranks, self.loss(logits, target) * (len(logits) / self.batch_size))


class _LossOfGathered(nn.Module):
    """Any other loss: every process computes that of the whole batch, from the outputs of all."""

    is_mean_over_samples = False

    def __init__(self, loss: nn.Module, ranks: Ranks, batch_size: int) -> None:
        super().__init__()
        self.loss, self.ranks, self.batch_size = loss, ranks, batch_size

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.loss(self._gathered(logits), self._gathered(target.to(logits.dtype)).to(target.dtype))
        return loss

    def _gathered(self, own: Tensor) -> Tensor:
        """All patches in order; a sum of what each process has, zero elsewhere, takes shares of any size."""
        share = self.ranks.share(self.batch_size)
        before = own.new_zeros(share.start, *own.shape[1:])
        after = own.new_zeros(self.batch_size - share.stop, *own.shape[1:])
        return sum_over_ranks(self.ranks, torch.cat((before, own, after)))
