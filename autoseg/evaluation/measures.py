"""What can be measured, by name: "dice", "hd95", "nsd@1mm", "lesion_f1@0.5"."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from autoseg.errors import SettingsError

Kind = Literal["overlap", "volume", "surfels", "voxels", "lesions"]
Empty = Literal["undefined", "perfect", "worst"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Metrics of one name.

    Args:
        kind: What they are made of.
        best: Value of a perfect segmentation.
        worst: Value that a missing target gets; infinite stands for the diagonal of the image.
        parameter: What stands behind the @, or nothing.
        says: One line for people.
    """

    kind: Kind
    best: float
    worst: float
    parameter: str = ""
    says: str


def _share(kind: Kind, says: str, parameter: str = "") -> Family:
    return Family(kind=kind, best=1.0, worst=0.0, says=says, parameter=parameter)


def _distance(kind: Kind, says: str) -> Family:
    return Family(kind=kind, best=0.0, worst=math.inf, says=says)


FAMILIES: dict[str, Family] = {
    "dice": _share("overlap", "2 TP / (2 TP + FP + FN)"),
    "iou": _share("overlap", "TP / (TP + FP + FN)"),
    "precision": _share("overlap", "TP / (TP + FP), positive predictive value"),
    "recall": _share("overlap", "TP / (TP + FN), sensitivity"),
    "specificity": _share("overlap", "TN / (TN + FP)"),
    "f1": _share("overlap", "harmonic mean of precision and recall, which is Dice"),
    "volume_reference": Family(kind="volume", best=0.0, worst=0.0, says="millilitres in the reference"),
    "volume_prediction": Family(kind="volume", best=0.0, worst=0.0, says="millilitres in the prediction"),
    "volume_difference": Family(kind="volume", best=0.0, worst=0.0, says="prediction less reference in millilitres"),
    "nsd": _share("surfels", "surface Dice: share of both surfaces within a tolerance of the other", "mm"),
    "hd": _distance("surfels", "largest distance between the surfaces in mm"),
    "hd95": _distance("surfels", "95th percentile of the distances, weighted with area, worse direction"),
    "asd": _distance("surfels", "mean distance over both surfaces, weighted with area"),
    "hd_voxels": _distance("voxels", "largest distance between border voxels, as MONAI and MedPy"),
    "hd95_voxels": _distance("voxels", "95th percentile between border voxels, worse direction, as MONAI"),
    "asd_voxels": _distance("voxels", "mean distance over both sets of border voxels, as MONAI and MedPy"),
    "lesion_f1": _share("lesions", "2 TP / (2 TP + FP + FN), counted in connected components", "IoU"),
    "lesion_precision": _share("lesions", "share of predicted components that are right", "IoU"),
    "lesion_recall": _share("lesions", "share of reference components that were found", "IoU"),
    "lesions_reference": Family(kind="lesions", best=0.0, worst=0.0, says="components in the reference"),
    "lesions_prediction": Family(kind="lesions", best=0.0, worst=0.0, says="components in the prediction"),
}
_ALIASES = {
    "ppv": "precision",
    "sensitivity": "recall",
    "jaccard": "iou",
    "assd": "asd",
    "surface_dice": "nsd",
    "assd_voxels": "asd_voxels",
}
_ALL = (
    *("dice", "iou", "precision", "recall", "specificity", "f1"),
    *("volume_reference", "volume_prediction", "volume_difference"),
    *("hd", "hd95", "asd", "nsd@0mm", "nsd@1mm", "nsd@2mm", "hd_voxels", "hd95_voxels", "asd_voxels"),
    *("lesion_f1", "lesion_precision", "lesion_recall", "lesions_reference", "lesions_prediction"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One thing to measure.

    Args:
        family: A name of :data:`FAMILIES`.
        parameter: Tolerance in mm of a surface Dice; least IoU of a found lesion, 0 for any overlap.
    """

    family: str
    parameter: float | None = None

    @property
    def name(self) -> str:
        """How it is called in tables, e.g. "nsd@1mm"."""
        if self.parameter is None:
            return self.family
        unit = FAMILIES[self.family].parameter
        return f"{self.family}@{self.parameter:g}{unit if unit == 'mm' else ''}"

    @property
    def kind(self) -> Kind:
        """What it is made of."""
        return FAMILIES[self.family].kind

    @property
    def is_better_higher(self) -> bool:
        """Whether more is better."""
        return FAMILIES[self.family].best > 0

    @property
    def is_quality(self) -> bool:
        """Whether it says how good a segmentation is; volumes and counts do not."""
        return FAMILIES[self.family].best != FAMILIES[self.family].worst or self.family == "volume_difference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What is measured, and what becomes of masks that are empty.

    Where reference and prediction are both without a target, ``both_empty`` decides: "undefined" leaves the case out of
    means, "perfect" gives it the best value, "worst" the worst. Where one of them is, overlap, surface Dice and lesion
    scores are 0, and distances are the diagonal of the image: a structure that is missed costs, and the mean stays a
    number. Volumes and counts are what they are.

    Args:
        metrics: What to measure.
        both_empty: See above.
    """

    metrics: tuple[Metric, ...]
    both_empty: Empty = "undefined"

    def needs(self, kind: Kind) -> bool:
        """Whether any metric is of a kind."""
        return any(metric.kind == kind for metric in self.metrics)

    def value_of_nothing(self, metric: Metric, diagonal: float) -> float | None:
        """Score where neither reference nor prediction has the target."""
        family = FAMILIES[metric.family]
        if self.both_empty == "undefined":
            return None
        value = family.best if self.both_empty == "perfect" else family.worst
        return diagonal if math.isinf(value) else value


def parse_metric(text: str) -> Metric:
    """Read a metric's name.

    Args:
        text: A name of :data:`FAMILIES` or a common other name for it (ppv, sensitivity, jaccard, ...), with
            @TOLERANCE in mm for nsd and, if wanted, @IOU for lesions.

    Raises:
        SettingsError: When it is unknown, or the parameter is missing, out of place or no number.

    Example:
        >>> parse_metric("NSD@1mm").name
        'nsd@1mm'
    """
    name, at, given = text.strip().lower().partition("@")
    name = _ALIASES.get(name, name)
    if name not in FAMILIES:
        close = difflib.get_close_matches(name, [*FAMILIES, *_ALIASES], n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(FAMILIES)}"
        raise SettingsError(f"there is no metric {text!r}; {hint}")
    expected = FAMILIES[name].parameter
    if not at:
        if expected == "mm":
            raise SettingsError(f"{name} needs a tolerance in mm, for instance {name}@1mm")
        return Metric(family=name)
    number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(mm)?", given)
    if not expected or number is None or (number[2] and expected != "mm"):
        allowed = f"a number ({expected}) stands behind its @" if expected else "it takes nothing behind an @"
        raise SettingsError(f"there is no metric {text!r}: {allowed}")
    value = float(number[1])
    if expected == "IoU" and not value < 1:
        raise SettingsError(f"{text!r}: the least IoU of a found lesion must be below 1")
    return Metric(family=name, parameter=value)


def parse_metrics(texts: str | Iterable[str]) -> tuple[Metric, ...]:
    """Read names separated by commas, or "all"; each metric is taken once, in the order given.

    Raises:
        SettingsError: When there is none, or one is unknown.
    """
    words = texts.split(",") if isinstance(texts, str) else [word for text in texts for word in text.split(",")]
    names = [name for word in words if word.strip() for name in (_ALL if word.strip() == "all" else (word,))]
    if not names:
        raise SettingsError("name at least one metric, for instance dice,hd95,nsd@1mm")
    return tuple(dict.fromkeys(parse_metric(name) for name in names))


def is_metric(text: str) -> bool:
    """Whether a text names a metric."""
    try:
        parse_metric(text)
    except SettingsError:
        return False
    return True


DICE_AND_IOU = Measuring(metrics=parse_metrics("dice,iou"))
