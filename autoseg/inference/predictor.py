"""From an image to logits and probabilities on its own grid, slab by slab, with the models of one configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from autoseg.arrays import IN_MEMORY, Room
from autoseg.errors import DatasetError, SettingsError
from autoseg.image import Image, Segmentation
from autoseg.inference.compiling import Compiler, compiled
from autoseg.inference.ensemble import mean_slabs
from autoseg.inference.export import Prediction, slab_thickness
from autoseg.inference.memory import Forecast, bytes_of, forecast, working_memory
from autoseg.inference.model import Arithmetic, TrainedModel
from autoseg.inference.region import on_grid
from autoseg.inference.sliding_window import Network, Tiling, window_slabs
from autoseg.inference.streams import side_by_side
from autoseg.inference.sums import WorkingMemory
from autoseg.inference.views import TestTimeAugmentation, views_of
from autoseg.labels import LabelScheme
from autoseg.plan import Accumulation, Configuration, Plan
from autoseg.preprocessing.case import CaseTrace, preprocess_case
from autoseg.preprocessing.previous_stage import with_indicators
from autoseg.preprocessing.restoring import SlabAxis, restore_slabs

_CERTAIN = 1e4  # a logit whose exponential against its negative is exactly 1 or 0, and that float16 can hold
_TORCH_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
    """How to predict; the defaults are nnU-Net's, except for sums in float32.

    Args:
        step: Largest distance of neighbouring tiles as a share of the tile.
        augmentation: Views of a tile that are averaged; "mirrors" uses the axes that training mirrored.
        slice_axes: Plan axes across which 2D networks cut a volume into slices; their logits are averaged in 3D. None
            takes those of the configuration, the first axis where it names none. 3D networks do not heed it.
        region: Configuration whose quick look (one fold, one view) decides where the others look; None: everywhere.
        region_margin_mm: How far around the foreground that it finds windows are looked at.
        accumulation: Type of sums over tiles and folds; "float16" repeats nnU-Net's arithmetic, for its models. None
            takes what the plan says.
        device: torch device of the networks.
        precision: Arithmetic of the networks; "auto" is that of training, except float32 for float16 on a CPU.
        compiler: What translates the networks; "openvino" computes in float32 on the CPU, whatever the precision.
        batch_size: Patches per call of a network; None chooses by patch and device.
        max_memory_gb: Memory that the program may take; sums of logits that do not fit go to scratch files. None
            takes a share of what is free.
        scratch: Folder of scratch files; None takes the system's.

    Raises:
        ValueError: When a value is impossible.
    """

    step: float = 0.5
    augmentation: TestTimeAugmentation = "mirrors"
    slice_axes: tuple[int, ...] | None = None
    region: str | None = None
    region_margin_mm: float = 20.0
    accumulation: Accumulation | None = None
    device: str = "cpu"
    precision: Arithmetic | Literal["auto"] = "auto"
    compiler: Compiler = "none"
    batch_size: int | None = None
    max_memory_gb: float | None = None
    scratch: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise ValueError(f"step must lie above 0 and not above 1, got {self.step}")
        axes = self.slice_axes
        if axes is not None and (not axes or len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}):
            raise ValueError(f"slice_axes must be one or more of 0, 1 and 2, got {axes}")
        if not self.region_margin_mm >= 0:
            raise ValueError(f"region_margin_mm must not be negative, got {self.region_margin_mm}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        if self.max_memory_gb is not None and not self.max_memory_gb > 0:
            raise ValueError(f"max_memory_gb must be positive, got {self.max_memory_gb}")

    def for_plan(self, plan: Plan) -> InferenceOptions:
        """These options with what they leave to the plan filled in."""
        return replace(self, accumulation=self.accumulation or plan.accumulation)

    def that_decide(self) -> InferenceOptions:
        """These options with everything at its default that changes how, not what, is predicted."""
        return replace(self, device="cpu", compiler="none", batch_size=None, max_memory_gb=None, scratch=None)

    def arithmetic(self, trained: Arithmetic) -> Arithmetic:
        """Precision that "auto" means for a model that was trained with ``trained``."""
        if self.compiler != "none":
            return "float32"
        if self.precision != "auto":
            return self.precision
        # Training in float16 needs a GPU; on a CPU float16 convolutions are emulated.
        return "float32" if trained == "float16" and torch.device(self.device).type == "cpu" else trained


FAST = InferenceOptions(step=0.75, augmentation="none")
"""One view of each tile, and tiles that overlap less: docs/benchmarks.md says what it saves and costs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedImage:
    """An image as the networks of a configuration see it.

    Args:
        case_id: Name of the case.
        channels: float32 (c, ...) on the preprocessed grid, those of a previous stage included.
        trace: What was done to the image.
    """

    case_id: str
    channels: np.ndarray
    trace: CaseTrace


class ConfigurationPredictor:
    """Predicts images with all folds of one configuration.

    Args:
        plan: The plan that the models were trained with.
        models: One per fold; their logits are averaged.
        options: How to predict.

    Raises:
        SettingsError: When there is no model, or models of different configurations or labels.
    """

    def __init__(
        self, plan: Plan, models: Sequence[TrainedModel], options: InferenceOptions = InferenceOptions()
    ) -> None:
        if not models:
            raise SettingsError("a prediction needs at least one trained model")
        first = models[0].record
        for model in models[1:]:
            if model.record.configuration != first.configuration or model.record.labels != first.labels:
                names = f"{first.configuration.name} and {model.record.configuration.name}"
                raise SettingsError(f"logits of {names} cannot be averaged: the models were trained differently")
        if options.slice_axes not in (None, (0,)) and len(plan.transpose) == 2:
            raise SettingsError("images of this plan have two axes: there are no slices to cut, leave --slice-axes out")
        self.plan = plan
        self.options = options.for_plan(plan)
        self.models = tuple(compiled(model, options.compiler, options.device) for model in models)

    @property
    def configuration(self) -> Configuration:
        """The configuration as trained."""
        return self.models[0].record.configuration

    @property
    def labels(self) -> LabelScheme:
        """What the outputs mean."""
        return self.models[0].record.labels

    def predict(
        self,
        image: Image,
        *,
        case_id: str = "image",
        previous: Segmentation | None = None,
        memory: WorkingMemory | None = None,
    ) -> Prediction:
        """Probabilities of one image; the networks run while its slabs are read.

        Args:
            image: As read: (c, z, y, x) or (c, y, x), in any orientation.
            case_id: Name for errors.
            previous: Segmentation of the previous stage on the image's grid, for the second stage of a cascade.
            memory: Where sums lie; None follows the options.

        Returns:
            Softmax over labels, or one sigmoid per region, on the image's grid.

        Raises:
            DatasetError: When the image has other channels than the models.
            SettingsError: When a previous stage is missing, or given where there is none; when memory is short.
        """
        memory = memory or self.memory_for(image, case_id)
        prepared = self.prepare(image, case_id=case_id, previous=previous, room=memory.room)
        return self.finish(self.logit_slabs(prepared.channels, memory), prepared.trace, case_id)

    def prepare(
        self,
        image: Image,
        *,
        case_id: str = "image",
        previous: Segmentation | None = None,
        room: Room = IN_MEMORY,
    ) -> PreparedImage:
        """Preprocess an image; arguments and errors as for :meth:`predict`. Needs no network, so it may run ahead.

        Args:
            image: As for :meth:`predict`.
            case_id: Likewise.
            previous: Likewise.
            room: Where large arrays lie.
        """
        self._check_inputs(image, case_id, previous)
        case = preprocess_case(case_id, image, previous, self.plan, self.configuration, room=room)
        channels = case.image
        if previous is not None:
            assert case.segmentation is not None  # it was given
            channels = with_indicators(channels, case.segmentation, self.labels, room)
        return PreparedImage(case_id=case_id, channels=channels, trace=case.trace)

    def logit_slabs(
        self, channels: np.ndarray, memory: WorkingMemory | None = None, *, region: np.ndarray | None = None
    ) -> Iterator[np.ndarray]:
        """Mean logits (k, n, ...) of the folds on the preprocessed grid, some planes at a time.

        Args:
            channels: All input channels (c, ...).
            memory: Where sums lie; None keeps them in memory.
            region: Boolean, any grid over the same box: what no window that touches it covers is background.
        """
        return logit_slabs(self.models, channels, self.options, memory, region=region)

    def finish(self, logits: Iterator[np.ndarray], trace: CaseTrace, case_id: str) -> Prediction:
        """Probabilities on the image's grid from logits on the preprocessed grid."""
        placed = SlabAxis.of(trace)
        labels, orders = self.labels, self.configuration.resampling
        grid = trace.geometry.shape

        def slabs() -> Iterator[tuple[slice, np.ndarray]]:
            thickness = slab_thickness(labels.num_outputs, grid, placed.axis)
            for part, slab in restore_slabs(logits, trace, orders, fill=outside_logits(labels), thickness=thickness):
                yield part, logits_to_probabilities(slab, labels)

        return Prediction(case_id=case_id, geometry=trace.geometry, slabs=slabs(), axis=placed.axis)

    def memory_for(self, image: Image, case_id: str = "image") -> WorkingMemory:
        """Where the sums of an image's logits lie, by the options.

        Raises:
            SettingsError: When neither memory nor disk suffices.
        """
        return working_memory(
            [self.forecast(image)],
            bytes_of(image),
            max_memory_gb=self.options.max_memory_gb,
            scratch=self.options.scratch,
            case_id=case_id,
        )

    def forecast(self, image: Image) -> Forecast:
        """What the prediction of an image will need."""
        return self.forecast_grid(image.geometry.shape, image.geometry.spacing)

    def forecast_grid(self, shape: Sequence[int], spacing: Sequence[float]) -> Forecast:
        """What the prediction of an image (axes as stored) will need."""
        record = self.models[0].record
        order = self.plan.transpose
        return forecast(
            self.configuration,
            tuple(shape[axis] for axis in order),
            tuple(spacing[axis] for axis in order),
            num_channels=record.num_channels // self.configuration.context,
            num_outputs=record.labels.num_outputs,
            tilings=_tilings(record.configuration, record.mirror_axes, self.options),
            copies_of_sums=len(_summed_apart(self.models, self.options)),
            device=self.options.device,
        )

    def _check_inputs(self, image: Image, case_id: str, previous: Segmentation | None) -> None:
        expected = len(self.plan.channels)
        if image.array.shape[0] != expected:
            names = ", ".join(self.plan.channels)
            raise DatasetError(f"case {case_id} has {image.array.shape[0]} channel(s); expected {expected}: {names}")
        stage = self.configuration.previous_stage
        if stage is not None and previous is None:
            raise SettingsError(f"{self.configuration.name} needs the segmentation of {stage} for case {case_id}")
        if stage is None and previous is not None:
            raise SettingsError(f"{self.configuration.name} takes no previous segmentation, one was given")


def logit_slabs(
    models: Sequence[TrainedModel],
    image: np.ndarray,
    options: InferenceOptions,
    memory: WorkingMemory | None = None,
    *,
    region: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Average the logits of several models of one configuration, and of all axes of slices, over a preprocessed image.

    Args:
        models: Trained folds.
        image: Preprocessed float32 (c, ...), channels of a previous stage included.
        options: How to predict.
        memory: Where sums lie; None keeps them in memory.
        region: Boolean, any grid over the same box: what no window that touches it covers is background.

    Yields:
        Logits (k, n, ...) of consecutive planes of the same grid, in the type of ``options.accumulation``, float32
        where it says nothing.

    Raises:
        SettingsError: When there is no model, or float16 sums overflow.
        ArtifactError: When a network's outputs are not finite.
    """
    streams = [
        _model_slabs(group, image, tiling, options, memory, region=region)
        for group in _summed_apart(models, options)
        for tiling in _tilings(group[0].record.configuration, group[0].record.mirror_axes, options)
    ]
    yield from mean_slabs(streams)


def outside_logits(labels: LabelScheme) -> tuple[float, ...]:
    """Logits of voxels that were cropped away: certainly background, or certainly in no region."""
    if labels.has_regions:
        return (-_CERTAIN,) * labels.num_outputs
    return (_CERTAIN, *(-_CERTAIN,) * (labels.num_outputs - 1))


def logits_to_probabilities(logits: np.ndarray, labels: LabelScheme) -> np.ndarray:
    """Softmax over labels or sigmoid per region, in float32.

    Args:
        logits: (k, ...); not modified.
        labels: Decides between the two.
    """
    values = torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32))
    return (values.sigmoid() if labels.has_regions else values.softmax(dim=0)).numpy()


def _summed_apart(models: Sequence[TrainedModel], options: InferenceOptions) -> list[list[TrainedModel]]:
    """Models whose logits are averaged before they are summed over tiles, which takes the sums of one.

    In float16 every rounding shows, and nnU-Net sums its folds one by one.
    """
    if not models:
        raise SettingsError("a prediction needs at least one trained model")
    first = models[0].record
    alike = all(m.record.mirror_axes == first.mirror_axes and m.record.precision == first.precision for m in models)
    if options.accumulation == "float16" or not alike:
        return [[model] for model in models]
    return [list(models)]


def _tilings(configuration: Configuration, mirror_axes: Sequence[int], options: InferenceOptions) -> tuple[Tiling, ...]:
    """How an image is seen: one way, or one per axis of slices."""
    patch = configuration.patch_size
    views = views_of(options.augmentation, mirror_axes, len(patch))
    divisor = configuration.network.divisor
    for view in views:
        if any(n % d for n, d in zip(view.shape(patch), divisor, strict=True)):
            raise SettingsError(
                f"a patch of {patch} voxels cannot be turned for {configuration.name}: its network needs multiples of "
                f"{divisor}; predict with --tta mirrors"
            )
    tiling = Tiling(
        patch_size=patch,
        step=options.step,
        views=views,
        batch_size=options.batch_size,
        accumulation=options.accumulation or "float32",
        context=configuration.context,
    )
    if configuration.ndim > 2:
        return (tiling,)
    planned = (0,) if configuration.slices is None else configuration.slices.axes
    return tuple(replace(tiling, slice_axis=axis) for axis in options.slice_axes or planned)


def _model_slabs(
    models: Sequence[TrainedModel],
    image: np.ndarray,
    tiling: Tiling,
    options: InferenceOptions,
    memory: WorkingMemory | None,
    *,
    region: np.ndarray | None,
) -> Iterator[np.ndarray]:
    """Logits of models whose outputs are averaged tile by tile, on the CPU."""
    record = models[0].record
    device = torch.device(options.device)
    network = _mean_of([_network_call(model, device, options.arithmetic(record.precision)) for model in models])
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    summing = _summing_device(device, record.labels.num_outputs, tiling, image.shape)
    # What is compiled has streams of its own; a GPU needs none.
    spread = device.type == "cpu" and options.compiler == "none"
    with side_by_side(network, tiling.patch_size) if spread else nullcontext(network) as running:
        slabs = window_slabs(
            tensor.to(summing),
            running,
            tiling,
            num_outputs=record.labels.num_outputs,
            region=None if region is None else on_grid(region, image.shape[1:]),
            outside=outside_logits(record.labels),
            memory=memory if summing.type == "cpu" else None,
            # The image may lie on another device than the network, whose size decides.
            compute_device=device,
        )
        for slab in slabs:
            yield slab.cpu().numpy()


def _mean_of(networks: Sequence[Network]) -> Network:
    """The mean of several networks' answers."""
    if len(networks) == 1:
        return networks[0]

    def run(patches: torch.Tensor) -> torch.Tensor:
        total = networks[0](patches).float()
        for network in networks[1:]:
            total = total + network(patches)
        return total / len(networks)

    return run


def _network_call(model: TrainedModel, device: torch.device, precision: Arithmetic) -> Network:
    network = model.network.to(device)

    def run(patches: torch.Tensor) -> torch.Tensor:
        with _autocast(device, precision):
            logits: torch.Tensor = network(patches.to(device))
        return logits

    return run


def _autocast(device: torch.device, precision: Arithmetic) -> AbstractContextManager[object]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_TORCH_TYPES[precision])


def _summing_device(device: torch.device, num_outputs: int, tiling: Tiling, shape: Sequence[int]) -> torch.device:
    """Where logits are summed: beside the network, if image and sums fit there with room to work."""
    if device.type != "cuda":
        return torch.device("cpu")
    needed = tiling.sums(shape[1:], num_outputs, device).num_bytes + 4 * int(np.prod(shape))
    free, _ = torch.cuda.mem_get_info(device)
    return device if 2 * needed < free else torch.device("cpu")
