"""The plan: every decision that was made for a dataset, with its reason, in plain values that may be edited."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from autoseg.errors import PlanError
from autoseg.fingerprint import IntensityStatistics
from autoseg.geometry import LARGEST_SPACING, LEAST_SPACING
from autoseg.labels import LabelScheme

SCHEMA_VERSION = 1

Accumulation = Literal["float32", "float16"]
Norm = Literal["instance", "batch", "group", "layer"]
Activation = Literal["leaky_relu", "relu", "elu", "gelu", "silu"]
SkipGate = Literal["none", "grid", "same"]
Supervision = Literal["pyramid", "nested"]
OptionValue = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasFieldPlan:
    """How the field of a magnetic resonance coil is estimated, by N4.

    Args:
        shrink: How many times coarser planes are on which it is estimated; the axis across them is left alone.
        iterations: At most, one entry per level; each level halves the distance of the control points.
        threshold: Change of the field below which a level ends.
        mask: What is looked at: every positive voxel, or those above Otsu's threshold.
    """

    shrink: int = 4
    iterations: tuple[int, ...] = (50, 50, 50, 50)
    threshold: float = 1e-3
    mask: Literal["nonzero", "otsu"] = "nonzero"

    def __post_init__(self) -> None:
        if self.shrink < 1 or not self.iterations or min(self.iterations) < 1 or not self.threshold > 0:
            raise ValueError(f"shrink, iterations and threshold must be positive, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramPlan:
    """The histogram that every image is given.

    Args:
        landmarks: Intensities of the reference's voxels that are not zero at evenly spaced shares of them, ascending.
        reference: Case that they were taken from.
    """

    landmarks: tuple[float, ...]
    reference: str = ""

    def __post_init__(self) -> None:
        if len(self.landmarks) < 2 or any(a > b for a, b in zip(self.landmarks, self.landmarks[1:], strict=False)):
            raise ValueError("landmarks must be two or more intensities that ascend")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastPlan:
    """Contrast-limited adaptive histogram equalization.

    Args:
        clip_limit: From 0 to 1; the higher, the more contrast.
        neighbourhood: Its edge as a share of the image's.
    """

    clip_limit: float = 0.01
    neighbourhood: float = 0.125

    def __post_init__(self) -> None:
        if not (0 < self.clip_limit <= 1 and 0 < self.neighbourhood <= 1):
            raise ValueError(f"clip_limit and neighbourhood must lie above 0 and not above 1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizationPlan:
    """How one channel's intensities are normalized.

    Args:
        scheme: A name of the normalization registry: "zscore", "ct", "window", "rescale_to_0_1", "rgb_to_0_1", "none".
        use_mask: Whether only voxels inside the nonzero mask count and change (z-score only).
        statistics: Dataset-wide foreground intensities; "ct" clips and scales with them.
        window: Intensities that "window" maps to 0 and 1; what lies beyond them is clipped.
        bias_field: Correction of a coil's field before everything else; None leaves it out.
        histogram: Histogram that the image is given then; None leaves it out.
        contrast: Equalization of local contrast after the normalization; None leaves it out.
    """

    scheme: str
    use_mask: bool = False
    statistics: IntensityStatistics | None = None
    window: tuple[float, float] | None = None
    bias_field: BiasFieldPlan | None = None
    histogram: HistogramPlan | None = None
    contrast: ContrastPlan | None = None

    def __post_init__(self) -> None:
        if (self.scheme == "window") != (self.window is not None):
            raise ValueError('"window" needs a window of two intensities, and no other scheme has one')
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"the window must ascend, got {self.window}")
        if self.scheme == "ct" and (self.bias_field is not None or self.histogram is not None):
            raise ValueError('"ct" relies on intensities as they are stored; choose another scheme for changed ones')

    @property
    def steps(self) -> str:
        """Everything that is done, in its order, as it is written on the command line: "n4+zscore"."""
        optional = {"n4": self.bias_field, "histogram": self.histogram}
        before = [name for name, plan in optional.items() if plan is not None]
        return "+".join([*before, self.scheme, *(["clahe"] if self.contrast is not None else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplingPlan:
    """Interpolation orders, within the plane and along a much thicker axis where that axis is treated apart.

    Args:
        image_order: Spline order for images.
        segmentation_order: Spline order for label indicators.
        probabilities_order: Spline order for the network's outputs on the way back.
        order_z: Order along the thick axis in all three.
        force_separate_z: Treat the thick axis apart always, never, or (None) where spacings differ more than 3-fold.
    """

    image_order: int = 3
    segmentation_order: int = 1
    probabilities_order: int = 1
    order_z: int = 0
    force_separate_z: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """A network and its topology; lists have one entry per stage, highest resolution first.

    Args:
        name: A name of the network registry.
        features: Feature maps per stage.
        strides: Stride with which each stage begins, per axis; the first is all ones.
        kernel_sizes: Convolution kernel per stage and axis.
        encoder_blocks: Convolutions (plain) or residual blocks (residual encoder) per stage.
        decoder_blocks: Convolutions per decoder stage, lowest resolution first; one entry less than stages.
        deep_supervision: Whether coarser decoder stages are supervised as well.
        supervision: What the supervised outputs are: a "pyramid" of falling resolution, or "nested" networks that all
            answer at full resolution (U-Net++).
        supervised_stages: How many decoder stages have an output, highest resolution first; None takes all.
        auxiliary_weight: Weight of the loss of what a refinement was given, beside that of what it made of it; 0 where
            nothing is refined, or only the refined counts.
        norm: Normalization layer: "instance", "batch", "group" (eight groups) or "layer" (one group of all channels).
        activation: Nonlinearity after it.
        dropout: Share of feature maps that training drops after every convolution.
        squeeze_excitation: Whether blocks weigh their feature maps by the image's content.
        skip_gate: Attention gates on the skips: "grid" (steered by the coarser stage), "same" (by the upsampled one).
        checkpointing: Whether training computes feature maps a second time instead of keeping them.
        options: What only this network knows; names and types are those of its rules.
    """

    name: str
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    deep_supervision: bool = True
    supervision: Supervision = "pyramid"
    supervised_stages: int | None = None
    auxiliary_weight: float = 0.0
    norm: Norm = "instance"
    activation: Activation = "leaky_relu"
    dropout: float = 0.0
    squeeze_excitation: bool = False
    skip_gate: SkipGate = "none"
    checkpointing: bool = False
    options: dict[str, OptionValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stages = len(self.features)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.supervised_stages is not None and self.supervised_stages < 1:
            raise ValueError(f"supervised_stages must be positive, got {self.supervised_stages}")
        if self.auxiliary_weight < 0:
            raise ValueError(f"auxiliary_weight must not be negative, got {self.auxiliary_weight}")
        lengths = (len(self.strides), len(self.kernel_sizes), len(self.encoder_blocks), len(self.decoder_blocks) + 1)
        if stages < 1 or any(n != stages for n in lengths):
            raise ValueError(f"{stages} features do not fit the lengths {lengths} of strides, kernels and blocks")
        for name in ("strides", "kernel_sizes"):
            steps = getattr(self, name)
            if any(len(step) != len(self.strides[0]) or min(step, default=0) < 1 for step in steps):
                raise ValueError(f"{name} {steps} must be positive, one number per axis in every stage")
        if min(*self.features, *self.encoder_blocks, *self.decoder_blocks) < 1:
            raise ValueError(f"features {self.features} and blocks must be positive")

    @property
    def num_stages(self) -> int:
        """Resolutions of the encoder, the input's included."""
        return len(self.features)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each patch edge must be a multiple of."""
        product = [1] * len(self.strides[0])
        for stride in self.strides:
            product = [p * s for p, s in zip(product, stride, strict=True)]
        return tuple(product)

    @property
    def output_strides(self) -> tuple[tuple[int, ...], ...]:
        """Voxels of the patch per voxel of each output, per axis; the full resolution first.

        One entry without deep supervision; with it one per supervised decoder stage, so that the deepest encoder stage
        has none. Nested outputs all have full resolution. Where the outputs that a refinement was given are supervised
        as well, they follow the refined one.
        """
        stride = (1,) * len(self.strides[0])
        supervised = max(1, self.num_stages - 1)
        if self.supervised_stages is not None:
            supervised = min(supervised, self.supervised_stages)
        found = []
        for step in self.strides[: supervised if self.deep_supervision else 1]:
            stride = tuple(p * s for p, s in zip(stride, step, strict=True))
            found.append(stride)
        if self.supervision == "nested":
            found = [found[0]] * len(found)
        has_auxiliary = self.deep_supervision and self.auxiliary_weight > 0
        return (found[0], *found) if has_auxiliary else tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlan:
    """How a 2D network sees a volume: in stacks of neighboring slices, of which it segments the middle one.

    Args:
        context: Slices of a stack, an odd number; beyond the volume's border its last slice is repeated.
        axes: Plan axes across which slices are cut. Training draws one of them for every patch; prediction cuts along
            all of them and averages.
    """

    context: int = 5
    axes: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.context < 1 or self.context % 2 == 0:
            raise ValueError(f"context must be an odd number of slices, got {self.context}")
        if not self.axes or len(set(self.axes)) != len(self.axes) or not set(self.axes) <= {0, 1, 2}:
            raise ValueError(f"axes must be one or more of 0, 1 and 2, got {self.axes}")

    @staticmethod
    def in_plane(axis: int) -> tuple[int, int]:
        """Plan axes that the rows and columns of a slice run along, if it is cut across ``axis``."""
        first, second = (other for other in range(3) if other != axis)
        return first, second


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One way to train: resolution, patch, batch and network. Axes are transposed as the plan says.

    Args:
        name: "2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres", with "@variant" appended for variants.
        data: Folder below preprocessed/ that it trains on; several configurations may share one.
        spacing: Millimetres per voxel; two entries for a 2D configuration that keeps every case's own slices.
        median_shape: Median voxels per axis of the resampled cases, same axes as ``spacing``.
        patch_size: Voxels per axis that the network sees.
        batch_size: Patches per optimizer step.
        batch_dice: Whether the Dice loss sums over the batch before it divides.
        normalization: One entry per channel.
        resampling: Interpolation orders.
        network: Network and topology.
        previous_stage: Configuration whose segmentation is an additional input (cascade).
        mirror_axes: Axes along which patches may be mirrored, in training and in prediction; None allows all.
        slices: Of a 2.5D configuration, what its 2D network sees; None for all others.
        reasons: Field name -> why it has its value.
        request: Digest of what the planner was given; the same request leaves an edited configuration as it is.
    """

    name: str
    data: str
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    batch_dice: bool
    normalization: tuple[NormalizationPlan, ...]
    resampling: ResamplingPlan = ResamplingPlan()
    network: NetworkPlan
    previous_stage: str | None = None
    mirror_axes: tuple[int, ...] | None = None
    slices: SlicePlan | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    request: str = ""

    def __post_init__(self) -> None:
        if self.slices is not None and (len(self.patch_size) != 2 or self.previous_stage is not None):
            raise ValueError("stacks of slices need a patch of two axes, and no previous stage")
        if len(self.spacing) != len(self.patch_size) and (self.slices is None or len(self.spacing) != 3):
            raise ValueError(f"spacing {self.spacing} and patch_size {self.patch_size} differ in dimension")
        if not all(LEAST_SPACING <= s <= LARGEST_SPACING for s in self.spacing):
            raise ValueError(f"spacing {self.spacing} must be positive millimetres, {LEAST_SPACING:g} at least")
        if min(self.patch_size, default=0) < 1:
            raise ValueError(f"patch_size {self.patch_size} must be positive")
        if any(p % d for p, d in zip(self.patch_size, self.network.divisor, strict=True)):
            raise ValueError(f"patch_size {self.patch_size} is not a multiple of {self.network.divisor}")
        if self.mirror_axes is not None and not set(self.mirror_axes) <= set(range(len(self.patch_size))):
            raise ValueError(f"mirror_axes {self.mirror_axes} are not axes of the patch {self.patch_size}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")

    @property
    def patch_extent(self) -> tuple[float, ...]:
        """Millimetres that a patch measures per axis."""
        spacing = self.spacing[-len(self.patch_size) :]  # of stacks, which are cut where the axes are alike
        return tuple(edge * size for edge, size in zip(spacing, self.patch_size, strict=True))

    @property
    def ndim(self) -> int:
        """Axes that the network sees, 2 or 3."""
        return len(self.patch_size)

    @property
    def context(self) -> int:
        """Slices that the network sees as channels; one without stacks."""
        return 1 if self.slices is None else self.slices.context


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything later stages need to know.

    Args:
        planner: Name of the planner that made it.
        dataset: Name of the dataset.
        channels: Channel names in order.
        labels: What is segmented.
        file_ending: Ending of images and predictions.
        gpu_memory_gb: Memory the networks were sized for.
        gpu_memory_source: Where that figure came from.
        orientation: Anatomical direction of the stored array axes that most cases share; cases that differ are
            turned to it. None takes axes as stored.
        transpose: Plan axis i is stored array axis ``transpose[i]``.
        median_spacing: Median spacing of the cases, transposed, mm.
        median_shape: Median shape after cropping and resampling to full resolution, transposed.
        configurations: What can be trained, by name.
        notes: Sentences about decisions that concern all configurations.
        accumulation: Type in which prediction sums windows and folds; "float16" is nnU-Net's, for its models.
        view: Direction of view of all its cases, so that images of another one are refused; None takes any.
    """

    schema_version: int = SCHEMA_VERSION
    planner: str
    dataset: str
    channels: tuple[str, ...]
    labels: LabelScheme
    file_ending: str
    gpu_memory_gb: float
    gpu_memory_source: str
    orientation: str | None
    transpose: tuple[int, ...]
    median_spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    configurations: tuple[Configuration, ...]
    notes: tuple[str, ...] = ()
    accumulation: Accumulation = "float32"
    view: str | None = None

    def __post_init__(self) -> None:
        if sorted(self.transpose) != list(range(len(self.transpose))):
            raise ValueError(f"transpose {self.transpose} must name every axis once, such as (0, 1, 2)")

    def configuration(self, name: str) -> Configuration:
        """Look up a configuration.

        Raises:
            PlanError: When there is none of that name; lists close matches.
        """
        for configuration in self.configurations:
            if configuration.name == name:
                return configuration
        names = self.configuration_names
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the plan has {', '.join(names)}"
        raise PlanError(f"there is no configuration {name!r}; {hint}")

    @property
    def configuration_names(self) -> tuple[str, ...]:
        """Names in the plan's order."""
        return tuple(c.name for c in self.configurations)
