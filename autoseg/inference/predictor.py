"""From an image to probabilities on its own grid, with the models of one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from autoseg.errors import DatasetError, SettingsError
from autoseg.image import Image, Segmentation
from autoseg.inference.model import Arithmetic, TrainedModel
from autoseg.inference.sliding_window import Network, choose_batch_size, sliding_window
from autoseg.labels import LabelScheme
from autoseg.plan import Accumulation, Configuration, Plan
from autoseg.preprocessing.case import CaseTrace, preprocess_case, restore
from autoseg.preprocessing.previous_stage import indicators

_CERTAIN = 1e4  # a logit whose exponential against its negative is exactly 1 or 0, and that float16 can hold
_SLAB = 1 << 24  # values turned into probabilities at once
_TORCH_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
    """How to predict; the defaults are nnU-Net's, except for sums in float32.

    Args:
        step: Largest distance of neighbouring tiles as a share of the tile.
        mirroring: Whether to average over mirrored tiles, along the axes that training mirrored.
        accumulation: Type of sums over tiles and folds; "float16" repeats nnU-Net's arithmetic, for its models. None
            takes what the plan says.
        device: torch device of the networks.
        precision: Arithmetic of the networks; "auto" is that of training, except float32 for float16 on a CPU.
        batch_size: Patches per call of a network; None chooses by patch and device.

    Raises:
        ValueError: When a value is impossible.
    """

    step: float = 0.5
    mirroring: bool = True
    accumulation: Accumulation | None = None
    device: str = "cpu"
    precision: Arithmetic | Literal["auto"] = "auto"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise ValueError(f"step must lie above 0 and not above 1, got {self.step}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")

    def for_plan(self, plan: Plan) -> InferenceOptions:
        """These options with what they leave to the plan filled in."""
        return replace(self, accumulation=self.accumulation or plan.accumulation)

    def arithmetic(self, trained: Arithmetic) -> Arithmetic:
        """Precision that "auto" means for a model that was trained with ``trained``."""
        if self.precision != "auto":
            return self.precision
        # Training in float16 needs a GPU; on a CPU float16 convolutions are emulated.
        return "float32" if trained == "float16" and torch.device(self.device).type == "cpu" else trained


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
        self.plan = plan
        self.models = tuple(models)
        self.options = options.for_plan(plan)

    @property
    def configuration(self) -> Configuration:
        """The configuration as trained."""
        return self.models[0].record.configuration

    @property
    def labels(self) -> LabelScheme:
        """What the outputs mean."""
        return self.models[0].record.labels

    def predict(self, image: Image, *, case_id: str = "image", previous: Segmentation | None = None) -> np.ndarray:
        """Probabilities of one image.

        Args:
            image: As read: (c, z, y, x) or (c, y, x), in any orientation.
            case_id: Name for errors.
            previous: Segmentation of the previous stage on the image's grid, for the second stage of a cascade.

        Returns:
            float32 (k, ...) on the image's grid: softmax over labels, or one sigmoid per region.

        Raises:
            DatasetError: When the image has other channels than the models.
            SettingsError: When a previous stage is missing, or given where there is none.
        """
        self._check_inputs(image, case_id, previous)
        case = preprocess_case(case_id, image, previous, self.plan, self.configuration)
        channels = case.image
        if previous is not None:
            assert case.segmentation is not None  # it was given
            channels = np.concatenate([channels, indicators(case.segmentation, self.labels)])
        return self.finish(self.logits(channels), case.trace)

    def logits(self, channels: np.ndarray) -> np.ndarray:
        """Mean logits (k, ...) of the folds on the preprocessed grid, from all input channels (c, ...)."""
        return predict_logits(self.models, channels, self.options)

    def finish(self, logits: np.ndarray, trace: CaseTrace) -> np.ndarray:
        """Probabilities (k, ...) on the image's grid from logits on the preprocessed grid, which stay as they are."""
        restored = restore(logits, trace, self.configuration.resampling, fill=outside_logits(self.labels))
        return logits_to_probabilities(restored, self.labels)

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


def predict_logits(models: Sequence[TrainedModel], image: np.ndarray, options: InferenceOptions) -> np.ndarray:
    """Average the logits of several models of one configuration over a preprocessed image.

    Args:
        models: Trained folds.
        image: Preprocessed float32 (c, ...), channels of a previous stage included.
        options: How to predict.

    Returns:
        Logits (k, ...) on the same grid in the type of ``options.accumulation``, float32 where it says nothing.

    Raises:
        SettingsError: When there is no model, or float16 sums overflow.
        ArtifactError: When a network's outputs are not finite.
    """
    if not models:
        raise SettingsError("a prediction needs at least one trained model")
    with torch.inference_mode():
        total = _model_logits(models[0], image, options)
        for model in models[1:]:
            total += _model_logits(model, image, options)
        total /= len(models)
    return total.numpy()


def outside_logits(labels: LabelScheme) -> tuple[float, ...]:
    """Logits of voxels that were cropped away: certainly background, or certainly in no region."""
    if labels.has_regions:
        return (-_CERTAIN,) * labels.num_outputs
    return (_CERTAIN, *(-_CERTAIN,) * (labels.num_outputs - 1))


def logits_to_probabilities(logits: np.ndarray, labels: LabelScheme) -> np.ndarray:
    """Softmax over labels or sigmoid per region, in float32, a slab at a time.

    Args:
        logits: (k, ...); overwritten when it is float32 already, because it may fill half of the memory.
        labels: Decides between the two.
    """
    probabilities = logits if logits.dtype == np.float32 and logits.flags.writeable else logits.astype(np.float32)
    thickness = max(1, _SLAB // (probabilities.size // probabilities.shape[1]))
    for start in range(0, probabilities.shape[1], thickness):
        slab = torch.from_numpy(probabilities[:, start : start + thickness])
        slab.copy_(slab.sigmoid() if labels.has_regions else slab.softmax(dim=0))
    return probabilities


def _model_logits(model: TrainedModel, image: np.ndarray, options: InferenceOptions) -> torch.Tensor:
    """Logits of one model on the CPU."""
    record = model.record
    device = torch.device(options.device)
    network = _network_call(model, device, options.arithmetic(record.precision))
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    return sliding_window(
        tensor.to(_collecting_device(device, record.labels.num_outputs, image.shape)),
        network,
        patch_size=record.configuration.patch_size,
        num_outputs=record.labels.num_outputs,
        step=options.step,
        mirror_axes=record.mirror_axes if options.mirroring else (),
        # The image may lie on another device than the network, whose size decides.
        batch_size=options.batch_size or choose_batch_size(record.configuration.patch_size, device),
        accumulation=options.accumulation or "float32",
    ).cpu()


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


def _collecting_device(device: torch.device, num_outputs: int, shape: Sequence[int]) -> torch.device:
    """Where the logits of a whole image are summed: beside the network, if they fit there with room to work."""
    if device.type != "cuda":
        return torch.device("cpu")
    needed = 4 * (num_outputs + 2 + shape[0]) * int(np.prod(shape[1:]))
    free, _ = torch.cuda.mem_get_info(device)
    return device if 2 * needed < free else torch.device("cpu")
