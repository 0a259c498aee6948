"""The picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.figures.canvas import save_picture

_MOST_NUMBERS = 12  # larger tables have no room for numbers


def draw_confusion(names: Sequence[str], counts: Sequence[Sequence[int]], path: Path) -> None:
    """Draw which share of each reference label the prediction gave to each label.

    Args:
        names: Background and labels.
        counts: Voxels, one row per reference label, one column per predicted one.
        path: PNG to write; atomically.
    """
    from matplotlib.figure import Figure

    table = np.asarray(counts, dtype=float)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = min(3 + 0.6 * len(names), 18)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("prediction")
    axes.set_ylabel("reference")
    if len(names) <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.3f}", ha="center", va="center", color=color, fontsize=9)
    figure.colorbar(picture, ax=axes, label="share of the reference's voxels", shrink=0.8)
    save_picture(figure, path)
