"""A segmentation drawn over its image, as a radiologist would look at it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.figures.canvas import save_picture
from autoseg.geometry import BoundingBox, Reorientation
from autoseg.labels import LabelScheme

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which color-blind readers tell apart (https://jfly.uni-koeln.de/color/); brightest first,
# because the image below is gray.
COLORS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
_PAPER, _INK, _FAINT = "#101214", "#F2F2F2", "#9AA0A6"
_DASHES = (0, (3.0, 2.0))
_MOST_LEGEND_ENTRIES = 12
_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}
_DISPLAY = "SPL"  # array axes towards superior, posterior, left: the patient's right lies on the viewer's left


def draw_overlay(
    image: np.ndarray,
    segmentation: np.ndarray,
    path: Path,
    *,
    reference: np.ndarray | None = None,
    spacing: Sequence[float],
    labels: LabelScheme,
    title: str,
    orientation: str | None = None,
) -> None:
    """Draw a segmentation over its image: per plane the slice that shows most of it, without and with the overlay.

    Args:
        image: (c, z, y, x), or (c, y, x) for 2D. The first channel is shown, in a window that suits what is outlined.
        segmentation: Label values, (z, y, x) or (y, x).
        path: PNG to write; atomically.
        reference: What it should be, same shape; its outline is dashed, and Dice stands in the legend.
        spacing: Millimetres per voxel and array axis, for the true aspect ratio and the scale bar.
        labels: Names of the label values.
        title: Usually the case id.
        orientation: Anatomical direction of the array axes, e.g. "SPL"; the slices are then shown in radiological
            convention and their edges named. None shows the axes as stored.

    Raises:
        ValueError: When shapes do not agree.
    """
    grids = {"image": image.shape[1:], "segmentation": segmentation.shape}
    if reference is not None:
        grids["reference"] = reference.shape
    if len(set(grids.values())) != 1 or len(spacing) != segmentation.ndim:
        raise ValueError(f"cannot draw {grids} with a spacing of {tuple(spacing)} mm")
    layers = _layers(segmentation, reference, labels)
    overlay = _Overlay(
        image=windowed(image[0], [m for layer in layers for m in (layer.found, layer.wanted) if m is not None]),
        layers=layers,
        has_reference=reference is not None,
        spacing=tuple(float(s) for s in spacing),
    )
    if orientation is not None and segmentation.ndim == 3:
        overlay = overlay.turned(Reorientation.between(orientation, _DISPLAY))
    save_picture(overlay.figure(title), path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One of the planes of a volume; ``axis``, ``rows`` and ``columns`` are array axes.

    Args:
        name: Of the plane, once the axes are turned to the display's orientation.
        axis: The axis that it is perpendicular to; None for a 2D image.
        rows: The axis drawn vertically.
        columns: The axis drawn from left to right.
        is_upward: Whether the vertical axis grows upward.
    """

    name: str
    axis: int | None
    rows: int
    columns: int
    is_upward: bool = False

    def cut(self, volume: np.ndarray, position: int) -> np.ndarray:
        """Slice (rows, columns) of a volume (z, y, x), as drawn from the top."""
        plane = volume if self.axis is None else np.take(volume, position, axis=self.axis)
        return plane[::-1] if self.is_upward else plane

    @property
    def edge_letters(self) -> tuple[str, str, str, str]:
        """Anatomical directions of the left, right, upper and lower edge."""
        right, vertical = _DISPLAY[self.columns], _DISPLAY[self.rows]
        upper = vertical if self.is_upward else _OPPOSITE[vertical]
        return _OPPOSITE[right], right, upper, _OPPOSITE[upper]


_VIEWS = (
    _View(name="axial", axis=0, rows=1, columns=2),
    _View(name="coronal", axis=1, rows=0, columns=2, is_upward=True),
    _View(name="sagittal", axis=2, rows=0, columns=1, is_upward=True),
)
_FLAT_VIEW = _View(name="", axis=None, rows=0, columns=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """A target that occurs: its masks (z, y, x) and how it is drawn."""

    name: str
    color: str
    found: np.ndarray
    wanted: np.ndarray | None

    def turned(self, turn: Reorientation) -> _Layer:
        """The same with other axes."""
        wanted = None if self.wanted is None else turn.apply(self.wanted)
        return replace(self, found=turn.apply(self.found), wanted=wanted)

    @property
    def caption(self) -> str:
        """Name, and Dice where there is a reference."""
        if self.wanted is None:
            return self.name
        total = int(self.found.sum()) + int(self.wanted.sum())
        return f"{self.name}  Dice {2 * int((self.found & self.wanted).sum()) / total:.2f}"


def _layers(segmentation: np.ndarray, reference: np.ndarray | None, labels: LabelScheme) -> tuple[_Layer, ...]:
    layers = []
    for number, target in enumerate(labels.targets):
        found = target.mask(segmentation)
        wanted = None if reference is None else target.mask(reference)
        if found.any() or (wanted is not None and wanted.any()):
            color = COLORS[number % len(COLORS)]
            layers.append(_Layer(name=target.name, color=color, found=found, wanted=wanted))
    return tuple(layers)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Overlay:
    """What :func:`draw_overlay` draws; the image (z, y, x) is already windowed to 0..1."""

    image: np.ndarray
    layers: tuple[_Layer, ...]
    has_reference: bool
    spacing: tuple[float, ...]
    is_turned: bool = False

    def turned(self, turn: Reorientation) -> _Overlay:
        """The same with the axes in the display's orientation."""
        layers = tuple(layer.turned(turn) for layer in self.layers)
        spacing = tuple(self.spacing[axis] for axis in turn.permutation)
        return replace(self, image=turn.apply(self.image), layers=layers, spacing=spacing, is_turned=True)

    def figure(self, title: str) -> Figure:
        """Put the panels together: one column per plane, the bare image above, the overlay below."""
        views = _VIEWS if self.image.ndim == 3 else (_FLAT_VIEW,)
        extent = [n * s for n, s in zip(self.image.shape, self.spacing, strict=True)]
        entries = self._legend_entries()
        figure, panels = _panels([(extent[v.columns], extent[v.rows]) for v in views], num_entries=len(entries))
        for view, (plain, overlaid) in zip(views, panels, strict=True):
            position = self._most_telling(view)
            self._draw_image(plain, view, position)
            self._draw_image(overlaid, view, position)
            self._draw_layers(overlaid, view, position)
            self._annotate(plain, view, position)
        _draw_scale_bar(panels[0][1], extent[views[0].columns])
        _write(figure, title, inches=0.12, size=12, color=_INK)
        if self.image.ndim == 3:
            note = "radiological convention: the patient's right is on the left" if self.is_turned else "axes as stored"
            _write(figure, note, inches=0.37, size=8, color=_FAINT)
        columns = _legend_columns(figure.get_figwidth())
        figure.legend(handles=entries, loc="lower left", ncols=columns, frameon=False, labelcolor=_INK, fontsize=9)
        return figure

    def _most_telling(self, view: _View) -> int:
        """Slice that shows most; every target has the same weight, so that a small one is not overlooked."""
        if view.axis is None:
            return 0
        score = np.zeros(self.image.shape[view.axis])
        other = tuple(axis for axis in range(3) if axis != view.axis)
        for layer in self.layers:
            for mask in (layer.found, layer.wanted):
                if mask is not None and mask.any():
                    area = mask.sum(axis=other)
                    score += area / area.max()
        return int(np.argmax(score)) if score.any() else len(score) // 2

    def _draw_image(self, axes: Axes, view: _View, position: int) -> None:
        axes.imshow(view.cut(self.image, position), cmap="gray", vmin=0, vmax=1, aspect="auto")
        axes.set_axis_off()

    def _draw_layers(self, axes: Axes, view: _View, position: int) -> None:
        for layer in self.layers:
            draw_mask(axes, view.cut(layer.found, position), layer.color)
        for layer in self.layers:
            if layer.wanted is not None:
                _draw_outline(
                    axes, view.cut(layer.wanted, position), colors="white", linewidths=1.2, linestyles=[_DASHES]
                )

    def _annotate(self, axes: Axes, view: _View, position: int) -> None:
        if view.axis is None:
            return
        name = view.name if self.is_turned else f"array axis {view.axis}"
        axes.set_title(f"{name}, {position + 1} of {self.image.shape[view.axis]}", color=_FAINT, fontsize=9, pad=3)
        if not self.is_turned:
            return
        places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
        for letter, (x, y) in zip(view.edge_letters, places, strict=True):
            _write_over(axes, letter, x, y, ha=_side(x, "left", "right"), va=_side(y, "bottom", "top"), weight="bold")

    def _legend_entries(self) -> list[Artist]:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        shown = self.layers[:_MOST_LEGEND_ENTRIES]
        entries: list[Artist] = [
            Patch(facecolor=(layer.color, 0.4), edgecolor=layer.color, label=layer.caption) for layer in shown
        ]
        if len(shown) < len(self.layers):
            entries.append(Patch(facecolor="none", label=f"and {len(self.layers) - len(shown)} more"))
        if not self.layers:
            entries.append(Patch(facecolor="none", label="nothing segmented"))
        if self.has_reference:
            entries.append(Line2D([], [], color="white", linestyle=_DASHES, linewidth=1.2, label="reference"))
        return entries


def _panels(sizes: Sequence[tuple[float, float]], *, num_entries: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Place two axes per plane at one scale for all: below each other, or side by side for a single plane.

    Args:
        sizes: Width and height of each plane in mm.
        num_entries: Entries of the legend, which lies below.

    Returns:
        The figure, and per plane the axes for the bare image and for the overlay.
    """
    from matplotlib.figure import Figure

    is_single = len(sizes) == 1
    columns = [*sizes, *sizes] if is_single else list(sizes)
    gap, top = 0.12, 0.5 if is_single else 0.85  # inches
    most_wide, most_high = sum(w for w, _ in columns), max(h for _, h in columns)
    scale = min(9.6 / most_wide, 4.2 / most_high)  # inches per mm
    tallest = scale * most_high
    width = max(4.5, scale * most_wide + gap * (len(columns) + 1))
    bottom = 0.2 + 0.22 * math.ceil(num_entries / _legend_columns(width))
    height = top + tallest + (0 if is_single else tallest + gap) + bottom
    figure = Figure(figsize=(width, height), facecolor=_PAPER, dpi=150)

    def place(left: float, lower: float, size: tuple[float, float]) -> Axes:
        return figure.add_axes((left / width, lower / height, scale * size[0] / width, scale * size[1] / height))

    lefts = [gap * (i + 1) + scale * sum(w for w, _ in columns[:i]) for i in range(len(columns))]
    if is_single:
        return figure, [(place(lefts[0], bottom, columns[0]), place(lefts[1], bottom, columns[1]))]
    middle = bottom + tallest  # lower panels end here, upper ones begin a gap above: short planes stay side by side
    return figure, [
        (place(left, middle + gap, size), place(left, middle - scale * size[1], size))
        for left, size in zip(lefts, columns, strict=True)
    ]


def _legend_columns(width: float) -> int:
    """Columns of a legend in a figure of that many inches."""
    return max(2, int(width / 2.2))


def draw_mask(axes: Axes, mask: np.ndarray, color: str) -> None:
    """Tint a mask (rows, columns) and outline it."""
    from matplotlib.colors import ListedColormap

    tint = np.ma.masked_array(np.ones(mask.shape), ~mask)
    axes.imshow(tint, cmap=ListedColormap([color]), alpha=0.25, interpolation="nearest", aspect="auto")
    _draw_outline(axes, mask, colors=color, linewidths=1.6)


def _draw_outline(axes: Axes, mask: np.ndarray, **style: Any) -> None:  # noqa: ANN401 - keywords of matplotlib
    """Draw the border of a mask (rows, columns) along the edges of its voxels, closed at the image's border."""
    if not mask.any():
        return
    fine = 8  # a contour cuts corners by half a sample; of an enlarged mask that is too little to see
    box = BoundingBox.around(mask)
    enlarged = np.pad(np.kron(mask[box.slices], np.ones((fine, fine))), 1)
    rows, columns = (
        start - 0.5 + (np.arange(n) - 0.5) / fine for start, n in zip(box.start, enlarged.shape, strict=True)
    )
    limits = axes.get_xlim(), axes.get_ylim()
    axes.contour(columns, rows, enlarged, levels=[0.5], **style)
    axes.set(xlim=limits[0], ylim=limits[1])


def _draw_scale_bar(axes: Axes, extent: float) -> None:
    """Draw a bar of 1, 2, 5, 10, ... mm over at most a third of the width, which is ``extent`` mm."""
    length = max(m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5) if m * 10.0**e <= max(extent / 3, 1e-4))
    left, y = 0.03, 0.04
    axes.plot([left, left + length / extent], [y, y], transform=axes.transAxes, color=_INK, linewidth=2.5)
    _write_over(axes, f"{length:g} mm", left, y + 0.02, ha="left", va="bottom")


def _side(share: float, low: str, high: str) -> str:
    """Alignment that keeps a text at this share of the axes inside them."""
    return low if share < 0.1 else high if share > 0.9 else "center"


def _write_over(axes: Axes, text: str, x: float, y: float, **style: Any) -> None:  # noqa: ANN401 - keywords of matplotlib
    """Write over an image, legible on black and on white; ``x`` and ``y`` are shares of the axes."""
    from matplotlib.patheffects import withStroke

    dark_rim = withStroke(linewidth=2, foreground="black")
    axes.text(x, y, text, transform=axes.transAxes, color=_INK, fontsize=9, path_effects=[dark_rim], **style)


def _write(figure: Figure, text: str, *, inches: float, size: float, color: str) -> None:
    """Write a line that many inches below the upper edge."""
    y = 1 - inches / figure.get_figheight()
    figure.text(0.12 / figure.get_figwidth(), y, text, color=color, fontsize=size, va="top")


def windowed(channel: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Scale (z, y, x) so that the window's ends become 0 and 1; ``masks`` are what is outlined.

    The window shows what is outlined: from half a width below the outlined intensities to half a width above, and at
    most from the 0.5th to the 99.5th percentile of the image. A liver thus gets a soft-tissue window, a lung a wide
    one.
    """
    finite = channel[np.isfinite(channel)]
    inside = finite[finite > finite.min()] if finite.size else finite  # leaves out padding
    low, high = (float(v) for v in np.percentile(inside, (0.5, 99.5))) if inside.size else (0.0, 1.0)
    outlined = [channel[mask] for mask in masks]
    intensities = np.concatenate([v[np.isfinite(v)] for v in outlined]) if outlined else finite[:0]
    if intensities.size:
        darkest, brightest = (float(v) for v in np.percentile(intensities, (0.5, 99.5)))
        margin = max((brightest - darkest) / 2, (high - low) / 10)
        low, high = max(low, darkest - margin), min(high, brightest + margin)
    scaled = (np.nan_to_num(channel, nan=low) - low) / max(high - low, 1e-6)
    return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)
