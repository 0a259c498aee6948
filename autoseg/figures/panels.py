"""Several cases side by side: the image, the reference and the prediction below each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.figures.canvas import save_picture
from autoseg.figures.overlay import COLORS, draw_mask, windowed
from autoseg.labels import LabelScheme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAPER, _INK, _FAINT = "#101214", "#F2F2F2", "#9AA0A6"
_ROWS = ("image", "reference", "prediction")
_WIDTH, _GAP, _LEFT, _TOP = 2.5, 0.1, 0.35, 0.75  # inches
_LINE = 0.19  # inches


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """One case.

    Args:
        title: Above it, usually the case id.
        image: Intensities (z, y, x).
        reference: Label values it should have.
        prediction: Label values it was given.
        spacing: Millimetres (z, y, x).
        axis: Array axis along which slices are cut.
    """

    title: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing: Sequence[float]
    axis: int = 0

    def __post_init__(self) -> None:
        shapes = {self.image.shape, self.reference.shape, self.prediction.shape}
        if len(shapes) != 1 or self.image.ndim != 3 or len(self.spacing) != 3:
            raise ValueError(f"image, reference and prediction of {self.title} must be one volume, got {shapes}")

    def position(self, labels: LabelScheme) -> int:
        """The slice that shows most of what should be there; every label has the same weight."""
        masks = [target.mask(self.reference) for target in labels.targets]
        areas = [np.moveaxis(mask, self.axis, 0).sum(axis=(1, 2)) for mask in masks if mask.any()]
        if not areas:
            return int(self.image.shape[self.axis] // 2)
        return int(np.argmax(sum(area / area.max() for area in areas)))

    def cut(self, volume: np.ndarray, position: int) -> np.ndarray:
        """Slice (rows, columns)."""
        return np.asarray(np.take(volume, position, axis=self.axis))

    @property
    def shape_of_slice(self) -> float:
        """Height over width, in mm."""
        rows, columns = (axis for axis in range(3) if axis != self.axis)
        shape = self.image.shape
        return float(shape[rows] * self.spacing[rows] / (shape[columns] * self.spacing[columns]))

    def captions(self, labels: LabelScheme) -> list[str]:
        """Dice of every label of the whole volume."""
        found = []
        for target in labels.targets:
            wanted, got = target.mask(self.reference), target.mask(self.prediction)
            total = int(wanted.sum()) + int(got.sum())
            dice = f"{2 * int((wanted & got).sum()) / total:.2f}" if total else "absent, rightly"
            found.append(f"{target.name}  {dice}")
        return found


def draw_panels(panels: Sequence[Panel], path: Path, *, labels: LabelScheme, title: str) -> None:
    """Draw cases beside each other: image, reference, prediction, and each label's Dice.

    Args:
        panels: The cases, from left to right.
        path: PNG to write; atomically.
        labels: Names of the label values.
        title: Above all.

    Raises:
        ValueError: When there is no case.
    """
    if not panels:
        raise ValueError("there is no case to draw")
    save_picture(_figure(panels, labels, title), path)


def _figure(panels: Sequence[Panel], labels: LabelScheme, title: str) -> Figure:
    from matplotlib.figure import Figure

    tall = max(_WIDTH * panel.shape_of_slice for panel in panels)
    lines = math.ceil(len(labels.targets) / 2)
    width = _LEFT + len(panels) * (_WIDTH + _GAP)
    height = _TOP + len(_ROWS) * (tall + _GAP) + _LINE * (lines + 0.5)
    figure = Figure(figsize=(width, height), facecolor=_PAPER, dpi=110)
    figure.text(_GAP / width, 1 - 0.1 / height, title, color=_INK, fontsize=11, va="top")
    for number, panel in enumerate(panels):
        left = _LEFT + number * (_WIDTH + _GAP)
        position = panel.position(labels)
        shown = _shown(panel, labels)
        figure.text(left / width, 1 - (_TOP - 0.2) / height, panel.title, color=_FAINT, fontsize=8, va="bottom")
        for row, volume in enumerate((None, panel.reference, panel.prediction)):
            lower = height - _TOP - row * (tall + _GAP) - _WIDTH * panel.shape_of_slice
            size = (left / width, lower / height, _WIDTH / width, _WIDTH * panel.shape_of_slice / height)
            axes = figure.add_axes(size)
            axes.imshow(panel.cut(shown, position), cmap="gray", vmin=0, vmax=1, aspect="auto")
            axes.set_axis_off()
            if volume is not None:
                for index, target in enumerate(labels.targets):
                    draw_mask(axes, panel.cut(target.mask(volume), position), COLORS[index % len(COLORS)])
        for index, caption in enumerate(panel.captions(labels)):
            x = left + (index % 2) * _WIDTH / 2
            y = _LINE * (lines - index // 2)
            figure.text(x / width, y / height, caption, color=COLORS[index % len(COLORS)], fontsize=7.5, va="top")
    for row, name in enumerate(_ROWS):
        y = height - _TOP - row * (tall + _GAP) - tall / 2
        figure.text(0.1 / width, y / height, name, color=_FAINT, fontsize=8, va="center", rotation=90)
    return figure


def _shown(panel: Panel, labels: LabelScheme) -> np.ndarray:
    masks = [target.mask(panel.reference) for target in labels.targets]
    return windowed(panel.image, [mask for mask in masks if mask.any()])
