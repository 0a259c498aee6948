"""Batches that do not fit the device's memory are computed in parts whose gradients add up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from autoseg.errors import TrainingError


class BatchSplitting:
    """How many patches are computed at once; as many as the batch has until memory runs out.

    Args:
        criterion: The loss; decides whether parts give the gradient of the whole batch.
        tell: Told when a batch is split.
        may_split: False where other processes wait for this one after every batch.
    """

    def __init__(self, criterion: nn.Module, tell: Callable[[str], None], *, may_split: bool = True) -> None:
        self._may_split = may_split
        self._is_exact = bool(getattr(criterion, "is_mean_over_samples", False))
        self._tell = tell
        self._largest: int | None = None

    def parts(self, batch_size: int) -> list[slice]:
        """Runs of patches to compute one after another."""
        size = batch_size if self._largest is None else self._largest
        return [slice(start, min(start + size, batch_size)) for start in range(0, batch_size, size)]

    def shrink(self, batch_size: int, device: torch.device) -> None:
        """Compute half as many patches at once from now on.

        Raises:
            TrainingError: When there is but one patch left.
        """
        now = batch_size if self._largest is None else self._largest
        if not self._may_split:
            raise TrainingError(
                f"{batch_size} patches, this process's share of a batch, do not fit the memory of {device}. Start more "
                "processes, or plan smaller patches: autoseg plan-and-preprocess --gpu-memory GB"
            )
        if now == 1:
            raise TrainingError(
                f"one patch alone does not fit the memory of {device}. Plan smaller ones: "
                "autoseg plan-and-preprocess --gpu-memory GB"
            )
        self._largest = (now + 1) // 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
        exact = (
            "gradients stay those of the whole batch"
            if self._is_exact
            else "not quite the same: this loss is no mean over patches (batch Dice, ignored voxels or top-k), so "
            "each part is averaged for itself"
        )
        self._tell(
            f"{device} is out of memory: batches of {batch_size} are computed {self._largest} at a time; {exact}"
        )
