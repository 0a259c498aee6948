"""What the long part will take, said before it begins: memory, disk and hours, from models with measured constants.

Memory and disk follow from shapes. Hours follow from the multiplications of a network and from how fast this machine
multiplies matrices, which is measured in a few hundredths of a second; convolutions reach a share of that.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.memory import in_gigabytes, memory_state
from autoseg.parallel import default_workers
from autoseg.plan import Configuration, NetworkPlan, Plan
from autoseg.preprocessing.case import target_spacing
from autoseg.preprocessing.resampling import resampled_shape
from autoseg.progress import Progress
from autoseg.training_config import TrainingConfig

SCHEMA_VERSION = 1
_PARENT_BYTES = 150 * 2**20  # measured: the command itself, and the server process that workers are forked from
_WORKER_BYTES = 80 * 2**20  # measured: a worker that has imported everything
_COMPRESSED = 0.9  # of float32 with 16 significant bits, by LZ4 with shuffled bytes; noise compresses no better
_CONVOLUTION_SHARE = 0.8  # of a matrix product's speed: measured, float32 training steps of a U-Net with 32 features
_AUTOMATIC_SHARE = 0.7  # of what is free that preparation may take where it would need more
_MATRIX = 512  # edge of the matrices that are multiplied


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationForecast:
    """What one configuration will take.

    Args:
        name: Configuration.
        disk_bytes: Its preprocessed cases; zero where they are shared with an earlier one.
        step_flops: Multiplications and additions of one training step, three times those of a prediction.
        hours_per_fold: Training with the default number of steps on this machine's processors; None where a GPU will
            do it, which nobody measured.
    """

    name: str
    disk_bytes: int
    step_flops: float
    hours_per_fold: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What preparation and training will take.

    Args:
        workers: Worker processes.
        memory_bytes: Main memory of preparation at its peak, all processes together.
        memory_available: What is left now; None if unknown.
        disk_free: Of the workspace's file system.
        configurations: One entry each.
        memory_limit: What preparation may take; None where it is not limited, and nothing goes to scratch files.
        scratch_bytes: Scratch files at the peak, all processes together, where memory is limited.
    """

    schema_version: int = SCHEMA_VERSION
    workers: int
    memory_bytes: int
    memory_available: int | None
    disk_free: int
    configurations: tuple[ConfigurationForecast, ...]
    memory_limit: int | None = None
    scratch_bytes: int = 0

    @property
    def disk_bytes(self) -> int:
        """Preprocessed cases of all configurations."""
        return sum(c.disk_bytes for c in self.configurations)

    def warnings(self) -> list[str]:
        """What will probably fail."""
        found = []
        needed = self.disk_bytes + self.scratch_bytes
        if needed > self.disk_free:
            found.append(
                f"the disk will be full: {in_gigabytes(needed)} are needed, {in_gigabytes(self.disk_free)} are free. "
                "Put the workspace elsewhere (-w), or prepare fewer configurations (--configurations)"
            )
        if self.memory_available is not None and self.memory_bytes > self.memory_available:
            found.append(
                f"memory may run out: about {in_gigabytes(self.memory_bytes)} are needed by {self.workers} workers, "
                f"{in_gigabytes(self.memory_available)} are free. Fewer need less: --workers 1"
            )
        return found


def make_forecast(
    plan: Plan,
    configurations: Sequence[Configuration],
    fingerprint: Fingerprint,
    folder: Path,
    *,
    workers: int,
    has_gpu: bool,
    max_memory_gb: float | None = None,
) -> Forecast:
    """Forecast from shapes, and from one short measurement where processors will train.

    Args:
        plan: Transposition and channels.
        configurations: Those to prepare.
        fingerprint: Shapes and spacings of all cases.
        folder: Where the workspace lies.
        workers: Worker processes of the preparation; 0 works in the command's own.
        has_gpu: Whether a GPU will train.
        max_memory_gb: What preparation may take; None takes most of what is free where that is too little.
    """
    num_channels = len(plan.channels)
    speed = None if has_gpu else _multiplications_per_second()
    seen: set[str] = set()
    made = []
    for c in configurations:
        voxels = [] if c.data in seen else [math.prod(_prepared_shape(case, plan, c)) for case in fingerprint.cases]
        seen.add(c.data)
        flops = step_flops(c, num_channels * c.context)
        seconds = None if speed is None else flops / (speed * _CONVOLUTION_SHARE)
        made.append(
            ConfigurationForecast(
                name=c.name,
                disk_bytes=int(sum(voxels) * (4 * num_channels * _COMPRESSED + 0.1)),  # labels compress well
                step_flops=flops,
                hours_per_fold=None if seconds is None else seconds * _default_steps() / 3600,
            )
        )
    at_once = max(1, workers)
    needed = _PARENT_BYTES + at_once * _WORKER_BYTES
    needed += _largest([_peak_bytes(case, plan, configurations) for case in fingerprint.cases], at_once)
    in_files = _largest([_scratch_bytes(case, plan, configurations) for case in fingerprint.cases], at_once)
    available = memory_state().available
    limit = None if max_memory_gb is None else int(max_memory_gb * 10**9)
    if limit is None and available is not None and needed > available:
        limit = int(_AUTOMATIC_SHARE * available)
    return Forecast(
        workers=workers,
        memory_bytes=needed if limit is None else min(needed, limit),
        memory_available=available,
        disk_free=shutil.disk_usage(folder).free,
        configurations=tuple(made),
        memory_limit=limit if limit is not None and needed > limit else None,
        scratch_bytes=in_files if limit is not None and needed > limit else 0,
    )


def tell_forecast(forecast: Forecast, progress: Progress) -> None:
    """Say it in two lines, and a warning where something will not suffice."""
    progress.message(
        f"forecast: {in_gigabytes(forecast.memory_bytes)} of memory for preparation, "
        f"{in_gigabytes(forecast.disk_bytes)} on the disk"
        + (f", and up to {in_gigabytes(forecast.scratch_bytes)} of scratch files" if forecast.scratch_bytes else "")
    )
    hours = [(c.name, c.hours_per_fold) for c in forecast.configurations if c.hours_per_fold is not None]
    if hours:
        listing = ", ".join(f"{name} {_in_words(value)}" for name, value in hours)
        progress.message(
            f"forecast: a fold on these processors takes, with {_default_steps()} steps, {listing}; "
            "--time-budget fits network and steps to the time there is"
        )
    for warning in forecast.warnings():
        progress.message(f"warning: {warning}")


def step_flops(configuration: Configuration, num_channels: int) -> float:
    """Floating-point operations of a training step: the convolutions of a U-Net of the planned shape, forth and back.

    Other networks are counted as if they were one with the same stages.

    Args:
        configuration: Patch, batch and network.
        num_channels: Input channels.
    """
    network = configuration.network
    residual = 2 if "res" in network.name else 1  # convolutions per block
    voxels = math.prod(configuration.patch_size)
    total, incoming, sizes = 0.0, num_channels, []
    for features, stride, kernel, blocks in zip(
        network.features, network.strides, network.kernel_sizes, network.encoder_blocks, strict=True
    ):
        voxels //= math.prod(stride)
        sizes.append(voxels)
        first = incoming * features + (blocks * residual - 1) * features**2
        total += 2.0 * voxels * math.prod(kernel) * first
        incoming = features
    total += _decoder_flops(network, sizes)
    return 3 * total * configuration.batch_size


def _decoder_flops(network: NetworkPlan, sizes: Sequence[int]) -> float:
    total = 0.0
    for stage, blocks in zip(range(network.num_stages - 2, -1, -1), network.decoder_blocks, strict=True):
        features, below = network.features[stage], network.features[stage + 1]
        kernel = math.prod(network.kernel_sizes[stage])
        total += 2.0 * sizes[stage] * (below * features + kernel * (2 + max(0, blocks - 1)) * features**2)
    return total


def _multiplications_per_second() -> float:
    """Operations per second of float32 matrix products on all processors that this process may use.

    One thread is timed by the processor time it gets, so that other work on the machine does not count.
    """
    rng = np.random.default_rng(0)
    left, right = (rng.random((_MATRIX, _MATRIX), dtype=np.float32) for _ in range(2))
    best = math.inf
    with threadpool_limits(1):
        for _ in range(5):
            started = time.thread_time()
            left @ right
            best = min(best, time.thread_time() - started)
    return default_workers() * 2.0 * _MATRIX**3 / best


def _peak_bytes(case: CaseFingerprint, plan: Plan, configurations: Sequence[Configuration]) -> int:
    """Memory of preparing a case: as read and as normalized, or as normalized and as resampled, whichever is more."""
    channels = len(plan.channels)
    stored, cropped = math.prod(case.shape), math.prod(case.cropped_shape)
    prepared = max(math.prod(_prepared_shape(case, plan, c)) for c in configurations)
    reading = stored * (6 * channels + 2) + cropped * (4 * channels + 7)  # the mask's components take four bytes
    resampling = cropped * (4 * channels + 2) + prepared * (8 * channels + 6)
    return max(reading, resampling)


def _scratch_bytes(case: CaseFingerprint, plan: Plan, configurations: Sequence[Configuration]) -> int:
    """Scratch files of a case: two masks, labels, and channels before, halfway through and after resampling."""
    channels, cropped = len(plan.channels), math.prod(case.cropped_shape)
    prepared = max(math.prod(_prepared_shape(case, plan, c)) for c in configurations)
    return (
        math.prod(case.shape)
        + cropped * (4 * channels + 3)
        + prepared * (4 * channels + 2)
        + 4 * max(cropped, prepared)
    )


def _largest(sizes: Sequence[int], count: int) -> int:
    """Sum of the largest few."""
    return sum(sorted(sizes, reverse=True)[:count])


def _prepared_shape(case: CaseFingerprint, plan: Plan, configuration: Configuration) -> tuple[int, ...]:
    shape = tuple(case.cropped_shape[axis] for axis in plan.transpose)
    spacing = tuple(case.spacing[axis] for axis in plan.transpose)
    return resampled_shape(shape, spacing=spacing, new_spacing=target_spacing(spacing, configuration))


def _default_steps() -> int:
    config = TrainingConfig()
    return (config.epochs or 1000) * config.iterations_per_epoch


def _in_words(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"
