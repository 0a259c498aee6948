"""The curves of a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.figures.canvas import save_picture
from autoseg.history import EpochRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_progress(rows: Sequence[EpochRow], path: Path) -> None:
    """Draw losses, Dice, learning rate and seconds per epoch of a training run over its iterations.

    Args:
        rows: One per epoch, in order; none draws empty axes.
        path: PNG to write; atomically.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8.5), layout="constrained")
    loss, dice, rate, time = figure.subplots(4, 1, sharex=True, height_ratios=[3, 3, 1.3, 1.3])
    steps = [row.iterations for row in rows]
    spent = np.diff([0.0, *(row.seconds for row in rows)]).tolist()
    line: dict[str, Any] = {"linewidth": 1.5, "marker": "o" if len(rows) < 30 else "", "markersize": 3.5}
    thin = line | {"linewidth": 0.9, "alpha": 0.5, "markersize": 2.5}
    loss.plot(steps, [row.train_loss for row in rows], color="#0072B2", label="training", **line)
    loss.plot(steps, [row.val_loss for row in rows], color="#D55E00", label="validation", **line)
    dice.plot(steps, [row.val_dice for row in rows], color="#009E73", label="validation patches", **thin)
    dice.plot(steps, [row.ema_dice for row in rows], color="#009E73", label="moving average", **line)
    measured = [(row.iterations, row.volume_dice) for row in rows if row.volume_dice is not None]
    if measured:
        points, values = zip(*measured, strict=True)
        dice.plot(points, values, color="#332288", label="whole volumes", linewidth=1.2, marker="D", markersize=4)
    rate.plot(steps, [row.learning_rate for row in rows], color="#595959", **line)
    time.plot(steps, spent, color="#595959", label="in all", **line)
    waiting = [seconds * row.waiting for seconds, row in zip(spent, rows, strict=True)]
    time.plot(steps, waiting, color="#CC79A7", label="waiting for batches", **line)
    for axes, name in ((loss, "loss"), (dice, "Dice"), (rate, "learning rate"), (time, "seconds\nper epoch")):
        _dress_curves(axes, name, has_legend=axes is not rate)
    dice.set_ylim(0, 1)
    rate.set_ylim(bottom=0)
    time.set_ylim(bottom=0)
    time.set_xlabel("iterations")
    figure.suptitle(_summary(rows), fontsize=11, x=0.01, ha="left")
    save_picture(figure, path)


def _dress_curves(axes: Axes, name: str, *, has_legend: bool) -> None:
    axes.set_ylabel(name)
    axes.grid(visible=True, color="#E3E3E3", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    if has_legend:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _summary(rows: Sequence[EpochRow]) -> str:
    if not rows:
        return "no epoch is finished yet"
    last, scored = rows[-1], [row for row in rows if math.isfinite(row.ema_dice)]
    text = f"epoch {last.epoch}, {last.iterations} iterations, {last.seconds / 60:.1f} min"
    if not scored:
        return text
    best = max(scored, key=lambda row: row.ema_dice)
    return f"{text}; best moving average of Dice {best.ema_dice:.3f} in epoch {best.epoch}"
