"""What may happen to a prediction after the network, as values: a name, the labels it treats, its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from autoseg.errors import SettingsError
from autoseg.image import Image, Segmentation
from autoseg.labels import LabelScheme
from autoseg.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surroundings:
    """What an operation may want to know besides the prediction.

    Args:
        spacing: Millimetres per axis.
        labels: What label values and outputs mean; None where only a segmentation is at hand.
        image: Intensities (c, ...) on the same grid; None where they are not at hand.
    """

    spacing: tuple[float, ...]
    labels: LabelScheme | None = None
    image: np.ndarray | None = None


Apply = Callable[..., np.ndarray]
"""(array, values, surroundings, **parameters) -> array: gives a new array and leaves the old one as it is.

The array holds label values (z, y, x) or (y, x), or probabilities (k, ...); ``values`` are the labels that it treats as
one object.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that can be done to a prediction.

    Args:
        apply: The work.
        on: What it works on; operations on probabilities come before labels are decided.
        defaults: Its parameters and what they are where nobody says otherwise.
        trials: Values that a search tries, per parameter; one where there are none.
        per_label: Whether labels can be treated one by one.
        is_pointwise: Whether each voxel is treated alone, so that slabs need no neighbours.
        says: What it does, for people, with {label} where the labels are named.
    """

    apply: Apply
    on: Literal["segmentation", "probabilities"]
    says: str
    defaults: Mapping[str, float] = field(default_factory=dict)
    trials: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    per_label: bool = True
    is_pointwise: bool = False


POSTPROCESSING: Registry[Operation] = Registry(
    "postprocessing operation",
    group="autoseg.postprocessing",
    built_in={
        "keep_largest": "autoseg.postprocessing.components:KEEP_LARGEST",
        "fill_holes": "autoseg.postprocessing.components:FILL_HOLES",
        "remove_small": "autoseg.postprocessing.components:REMOVE_SMALL",
        "smooth": "autoseg.postprocessing.smoothing:SMOOTH",
        "open_close": "autoseg.postprocessing.smoothing:OPEN_CLOSE",
        "threshold": "autoseg.postprocessing.probabilities:THRESHOLD",
        "smooth_probabilities": "autoseg.postprocessing.probabilities:SMOOTH_PROBABILITIES",
        "crf": "autoseg.postprocessing.crf:CRF",
        "inside": "autoseg.postprocessing.gating:INSIDE",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostprocessingStep:
    """One operation on the union of some labels.

    Args:
        name: A name of the postprocessing registry.
        values: Label values that it treats as one object.
        parameters: Those that differ from the operation's defaults.
    """

    name: str
    values: tuple[int, ...]
    parameters: dict[str, float] = field(default_factory=dict)

    def __hash__(self) -> int:
        """Steps are keys of tables; equal steps have equal names and values."""
        return hash((self.name, self.values))

    def describe(self, labels: LabelScheme) -> str:
        """In words, e.g. "Only the largest component of liver is kept"."""
        operation = POSTPROCESSING.get(self.name)
        names = {target.values: target.name for target in labels.targets}
        label = names.get(self.values)
        if label is None:
            singles = (names.get((value,), str(value)) for value in self.values)
            label = "the foreground" if self.values == labels.foreground_values else " and ".join(singles)
        return operation.says.format(label=label, **(dict(operation.defaults) | self.parameters))


Steps = tuple[PostprocessingStep, ...]


def apply_postprocessing(steps: Sequence[PostprocessingStep], segmentation: Segmentation) -> Segmentation:
    """Apply the operations on segmentations, one after the other; those on probabilities are left out.

    Raises:
        SettingsError: When an operation is unknown or does not have a parameter.
    """
    around = Surroundings(spacing=segmentation.geometry.spacing)
    array = segmentation.array
    for step in steps:
        operation = _operation(step)
        if operation.on == "segmentation":
            array = operation.apply(array, step.values, around, **_parameters(step, operation))
    return replace(segmentation, array=array)


def works_on_probabilities(steps: Sequence[PostprocessingStep]) -> bool:
    """Whether any of the operations comes before labels are decided."""
    return any(_operation(step).on == "probabilities" for step in steps)


def is_pointwise(steps: Sequence[PostprocessingStep]) -> bool:
    """Whether the operations on probabilities treat each voxel alone."""
    return all(_operation(s).is_pointwise for s in steps if _operation(s).on == "probabilities")


def refine_probabilities(
    steps: Sequence[PostprocessingStep],
    probabilities: np.ndarray,
    labels: LabelScheme,
    spacing: Sequence[float],
    image: Image | None = None,
) -> np.ndarray:
    """Apply the operations on probabilities, one after the other; those on segmentations are left out.

    Args:
        steps: What to do.
        probabilities: float32 (k, ...); not modified.
        labels: What the outputs mean.
        spacing: Millimetres per axis.
        image: Intensities on the same grid, for operations that look at them.

    Raises:
        SettingsError: When an operation is unknown, does not have a parameter, or needs an image.
    """
    around = Surroundings(spacing=tuple(spacing), labels=labels, image=None if image is None else image.array)
    for step in steps:
        operation = _operation(step)
        if operation.on == "probabilities":
            probabilities = operation.apply(probabilities, step.values, around, **_parameters(step, operation))
    return probabilities


def parse_step(text: str, labels: LabelScheme) -> PostprocessingStep:
    """Read a step as people write it: "keep_largest(liver)", "remove_small(liver+tumor, min_mm3=50)", "fill_holes".

    Args:
        text: A name, and in parentheses labels joined by + (all of the foreground where there are none) and parameters.
        labels: Which labels there are.

    Raises:
        SettingsError: When a part of it is unknown.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    if match is None:
        raise SettingsError(f"{text!r} is no postprocessing step; write for instance keep_largest(liver)")
    values, parameters = labels.foreground_values, dict[str, float]()
    targets = {target.name: place for place, target in enumerate(labels.targets)}
    for word in filter(None, (part.strip() for part in (match[2] or "").split(","))):
        name, equals, number = (part.strip() for part in word.partition("="))
        if not equals:
            values = _values_named(word, labels)
            continue
        try:
            # A target may be named where its number is meant.
            parameters[name] = float(targets.get(number, number))
        except ValueError:
            raise SettingsError(f"{text!r}: {name} must be a number, found {number!r}") from None
    step = PostprocessingStep(name=match[1], values=values, parameters=parameters)
    _parameters(step, _operation(step))
    return step


def _values_named(word: str, labels: LabelScheme) -> tuple[int, ...]:
    by_name = {target.name: target.values for target in labels.targets}
    found: set[int] = set()
    for name in (part.strip() for part in word.split("+")):
        if name not in by_name:
            raise SettingsError(f"there is no label {name!r}; there are {', '.join(by_name)}")
        found.update(by_name[name])
    return tuple(sorted(found))


def _operation(step: PostprocessingStep) -> Operation:
    found: object = POSTPROCESSING.get(step.name)
    if not isinstance(found, Operation):  # a plug-in may have registered anything
        raise SettingsError(f"{step.name} is registered as a postprocessing operation, but is {type(found).__name__}")
    return found


def _parameters(step: PostprocessingStep, operation: Operation) -> dict[str, float]:
    if foreign := [name for name in step.parameters if name not in operation.defaults]:
        known = ", ".join(operation.defaults) or "none"
        raise SettingsError(f"{step.name} has no parameter {foreign[0]!r}; it has: {known}")
    return dict(operation.defaults) | step.parameters
