"""The picture of a selection: every contender's score with its interval, and the score to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.figures.canvas import save_picture


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedScore:
    """One line of the picture."""

    name: str
    score: float
    interval: tuple[float, float] | None
    is_chosen: bool


def draw_ranking(
    scores: Sequence[RankedScore],
    path: Path,
    *,
    title: str,
    expected: tuple[float, tuple[float, float] | None] | None,
) -> None:
    """Draw scores as points with intervals, best first.

    Args:
        scores: What competed.
        path: PNG to write; atomically.
        title: Name of the score.
        expected: Score to expect on new cases, and its interval; None where it is not known.
    """
    from matplotlib.figure import Figure

    ordered = sorted(scores, key=lambda score: score.score)
    figure = Figure(figsize=(8, 1.4 + 0.32 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    for line, score in enumerate(ordered):
        color = "#D55E00" if score.is_chosen else "#595959"
        if score.interval is not None:
            axes.plot(score.interval, (line, line), color=color, linewidth=1.5)
        axes.plot(score.score, line, "o", color=color, markersize=6)
    if expected is not None:
        axes.axvline(expected[0], color="#0072B2", linewidth=1.5, label="to expect on new cases")
        if expected[1] is not None:
            axes.axvspan(*expected[1], color="#0072B2", alpha=0.12, linewidth=0)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    axes.set_yticks(range(len(ordered)), [score.name for score in ordered])
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xlabel(f"{title}, 95 % interval over cases; orange: chosen")
    axes.grid(visible=True, axis="x", color="#E3E3E3", linewidth=0.7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    save_picture(figure, path)
