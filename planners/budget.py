"""Fit patch, batch and network into GPU memory, by counting feature-map values instead of measuring."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autoseg.errors import PlanError
from autoseg.plan import Configuration, NetworkPlan
from autoseg.planners.preset import PlannerPreset, SizeRule, repeat_last
from autoseg.planners.topology import Topology, network_topology
from autoseg.planners.wording import voxels
from autoseg.planning import MemoryExcess

SMALLEST_BATCH = 2
"""Gradients of a single patch are too noisy for the learning rate that all networks share."""

_TOLERANCE = 1.25  # batches are rounded to the nearest: a batch of two that holds 2.5 is as planned
_FIRST_FEATURES = 32  # feature maps of the highest resolution; double with every stage
_FEWEST_SUPERVISED_STAGES = 3  # two stages have one output only: there is nothing coarser to supervise


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """Patch, batch and network of a configuration, with the figures that led to them.

    Args:
        spacing: Millimeters per voxel.
        median_shape: Median voxels per axis of the resampled cases.
        first_patch_size: Patch from which the shrinking started.
        num_shrinks: How often the patch was made smaller.
        topology: Strides, kernels and the final patch.
        network: The network.
        batch_size: Patches per optimizer step.
        elements: Feature-map values of one patch.
        capacity: Feature-map values that the memory holds in all.
        batch_to_fit: Patches that had to fit.
        memory_batch_size: Batch size that memory allows, before any limit.
        dataset_batch_size: Batch size that the number of training voxels allows.
    """

    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    first_patch_size: tuple[int, ...]
    num_shrinks: int
    topology: Topology
    network: NetworkPlan
    batch_size: int
    elements: int
    capacity: float
    batch_to_fit: int
    memory_batch_size: int
    dataset_batch_size: int

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Voxels per axis that the network sees."""
        return self.topology.patch_size

    @property
    def coverage(self) -> float:
        """Voxels of the patch per voxel of the median case; above 1 where the patch was rounded up."""
        return math.prod(self.patch_size) / math.prod(self.median_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizer:
    """Finds patch, batch and network for any resolution of one dataset.

    Args:
        preset: The planner's constants.
        memory_gb: GPU memory to fit into.
        num_labels: Entries of the dataset's label table; nnU-Net counts background, regions and ignore alike.
    """

    preset: PlannerPreset
    memory_gb: float
    num_labels: int

    def size(self, spacing: Sequence[float], median_shape: Sequence[float], *, dataset_voxels: float) -> Sizing:
        """Shrink the patch until the network fits, then let the batch grow into the memory that is left.

        Args:
            spacing: Millimeters per voxel, 2 or 3 axes.
            median_shape: Median voxels per axis of the resampled cases.
            dataset_voxels: Voxels of all training cases together.

        Raises:
            PlanError: When not even the smallest patch fits.
        """
        rule = self.preset.size_rule(len(spacing))
        capacity = self._capacity(rule)
        tried = self._shrink(spacing, median_shape, start_voxels=rule.start_voxels, limit=capacity / rule.batch_to_fit)
        topology = tried[-1]
        elements = self._elements(topology)
        by_memory = round(capacity / elements)
        by_dataset = round(dataset_voxels * self.preset.max_dataset_share / math.prod(topology.patch_size))
        return Sizing(
            spacing=tuple(spacing),
            median_shape=tuple(float(n) for n in median_shape),
            first_patch_size=tried[0].patch_size,
            num_shrinks=len(tried) - 1,
            topology=topology,
            network=network_plan(topology, self.preset),
            batch_size=max(min(by_memory, by_dataset), SMALLEST_BATCH),
            elements=elements,
            capacity=capacity,
            batch_to_fit=rule.batch_to_fit,
            memory_batch_size=by_memory,
            dataset_batch_size=by_dataset,
        )

    def excess(self, configuration: Configuration) -> MemoryExcess | None:
        """What of a configuration, edited since it was planned, is more than :meth:`size` would have let pass."""
        rule = self.preset.size_rule(configuration.ndim)
        capacity = self._capacity(rule)
        elements = feature_map_elements(configuration.network, configuration.patch_size, num_outputs=self.num_labels)
        needed = self.memory_gb * elements * configuration.batch_size / capacity
        if configuration.batch_size > max(round(capacity / elements), SMALLEST_BATCH):
            # Where not even the smallest batch fits, it is the patch that is too large.
            fits_with_less = elements * SMALLEST_BATCH <= capacity
            return MemoryExcess(field="batch_size" if fits_with_less else "patch_size", gigabytes=needed)
        if elements * min(rule.batch_to_fit, configuration.batch_size) > capacity * _TOLERANCE:
            return MemoryExcess(field="patch_size", gigabytes=needed)
        return None

    def _capacity(self, rule: SizeRule) -> float:
        """Feature-map values that the memory holds in all."""
        return rule.elements * rule.batch_size * (self.memory_gb / self.preset.memory_gb)

    def _shrink(
        self, spacing: Sequence[float], median_shape: Sequence[float], *, start_voxels: int, limit: float
    ) -> list[Topology]:
        """Every patch that was tried; the last one has no more feature-map values than ``limit``."""
        tried = [network_topology(spacing, starting_patch_size(spacing, median_shape, start_voxels))]
        while self._elements(tried[-1]) > limit:
            smaller = shrink_one_step(
                tried[-1], spacing, median_shape, exclude={topology.patch_size for topology in tried}
            )
            if smaller is None:
                raise PlanError(
                    f"{self.memory_gb:g} GB of GPU memory are too little: not even a patch of "
                    f"{voxels(tried[-1].patch_size)} voxels fits. Plan for more: --gpu-memory"
                )
            tried.append(smaller)
        return tried

    def _elements(self, topology: Topology) -> int:
        network = network_plan(topology, self.preset)
        return feature_map_elements(network, topology.patch_size, num_outputs=self.num_labels)


def starting_patch_size(spacing: Sequence[float], median_shape: Sequence[float], num_voxels: int) -> tuple[float, ...]:
    """Patch with equal millimeters along every axis and about ``num_voxels`` voxels, cut to the median case.

    Example:
        >>> starting_patch_size((5.0, 1.0, 1.0), (60.0, 512.0, 512.0), 256**3)
        (60.0, 438, 438)
    """
    fineness = [1 / s for s in spacing]
    scale = (num_voxels / math.prod(fineness)) ** (1 / len(fineness))
    return tuple(min(max(1, round(f * scale)), n) for f, n in zip(fineness, median_shape, strict=True))


def shrink_one_step(
    topology: Topology, spacing: Sequence[float], median_shape: Sequence[float], *, exclude: Collection[tuple[int, ...]]
) -> Topology | None:
    """Shorten the axis along which the patch covers most of the median case.

    nnU-Net takes that axis unconditionally; where that would leave no voxel, or a patch that was tried before, the next
    axis is taken here.

    Args:
        topology: Current topology and patch.
        spacing: Millimeters per voxel.
        median_shape: Median voxels per axis.
        exclude: Patches that are not to be tried again.

    Returns:
        Topology of the smaller patch; None when no axis can be shortened.
    """
    patch_size = topology.patch_size
    coverage = [p / m for p, m in zip(patch_size, median_shape, strict=True)]
    # Among equals the last axis: the first one is the coarsest and has the least to give.
    for axis in sorted(range(len(patch_size)), key=lambda a: (coverage[a], a), reverse=True):
        # Recompute the divisor for the smaller patch: stepping 256 by its own 64 would skip 224, which divides as well.
        step = network_topology(spacing, _shorten(patch_size, axis, topology.divisor[axis])).divisor[axis]
        if patch_size[axis] <= step:
            continue
        smaller = network_topology(spacing, _shorten(patch_size, axis, step))
        if smaller.patch_size not in exclude:
            return smaller
    return None


def _shorten(patch_size: tuple[int, ...], axis: int, step: int) -> tuple[int, ...]:
    return (*patch_size[:axis], patch_size[axis] - step, *patch_size[axis + 1 :])


def network_plan(topology: Topology, preset: PlannerPreset) -> NetworkPlan:
    """The network of a preset with a given topology."""
    num_stages = len(topology.strides)
    max_features = preset.size_rule(len(topology.patch_size)).max_features
    return NetworkPlan(
        name=preset.network,
        features=tuple(min(max_features, _FIRST_FEATURES * 2**stage) for stage in range(num_stages)),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=repeat_last(preset.encoder_blocks, num_stages),
        decoder_blocks=repeat_last(preset.decoder_blocks, num_stages - 1),
        # nnU-Net's weights for a single output are 0/0.
        deep_supervision=num_stages >= _FEWEST_SUPERVISED_STAGES,
    )


def feature_map_elements(network: NetworkPlan, patch_size: Sequence[int], *, num_outputs: int) -> int:
    """Values in all feature maps that convolutions write for one patch: proportional to the memory that training takes.

    Equal to what nnU-Net's networks count for themselves (dynamic-network-architectures), without building one.

    Args:
        network: A "unet" or a "resenc".
        patch_size: Voxels per axis.
        num_outputs: Channels of the output.

    Example:
        One stage of two convolutions with 32 feature maps, and an output of 2 channels, on 8x8 pixels:

        >>> one_stage = NetworkPlan(
        ...     name="unet",
        ...     features=(32,),
        ...     strides=((1, 1),),
        ...     kernel_sizes=((3, 3),),
        ...     encoder_blocks=(2,),
        ...     decoder_blocks=(),
        ... )
        >>> feature_map_elements(one_stage, (8, 8), num_outputs=2)
        4224
    """
    shape, stage_voxels = tuple(patch_size), []
    for stride in network.strides:
        shape = tuple(n // s for n, s in zip(shape, stride, strict=True))
        stage_voxels.append(math.prod(shape))
    values = [f * v for f, v in zip(network.features, stage_voxels, strict=True)]
    encoder = (
        _residual_encoder_elements(network, values) if network.name == "resenc" else _plain_elements(network, values)
    )
    # A decoder stage is a transposed convolution and its convolutions; stages count from the lowest resolution.
    decoder = sum((n + 1) * v for n, v in zip(network.decoder_blocks, reversed(values[:-1]), strict=True))
    return encoder + decoder + num_outputs * stage_voxels[0]


def _plain_elements(network: NetworkPlan, values: Sequence[int]) -> int:
    return sum(n * v for n, v in zip(network.encoder_blocks, values, strict=True))


def _residual_encoder_elements(network: NetworkPlan, values: Sequence[int]) -> int:
    """A stem, two convolutions per block, and one in the shortcut of each block that changes channels or resolution."""
    blocks = sum(2 * n * v for n, v in zip(network.encoder_blocks, values, strict=True))
    inputs = (network.features[0], *network.features[:-1])
    shortcuts = sum(
        v
        for v, i, f, stride in zip(values, inputs, network.features, network.strides, strict=True)
        if i != f or max(stride) > 1
    )
    return values[0] + blocks + shortcuts
