"""What a selection leaves for people: reports/selection.md with its pictures and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoseg.evaluation.intervals import Interval, bootstrap_means
from autoseg.evaluation.report import score_table, write_rows
from autoseg.evaluation.selection import CandidateScore, Selection
from autoseg.evaluation.tables import pivot_by_label, write_text
from autoseg.evaluation.trust import TrustModel
from autoseg.figures.ranking import RankedScore, draw_ranking
from autoseg.labels import LabelScheme
from autoseg.receipt import complete

_TRIALS = "postprocessing.csv"
SELECTION = "selection"
"""Name of the receipt of a selection's report."""


def write_selection_report(
    selection: Selection, labels: LabelScheme, folder: Path, trust: TrustModel | None = None, *, made_from: str
) -> Path:
    """Write selection.md, selection.png, and postprocessing.csv with every operation that was tried.

    Args:
        selection: What was chosen.
        labels: What was scored.
        folder: Where reports go.
        trust: What was learned about single predictions.
        made_from: Digest of the scores that were compared, for the receipt.

    Returns:
        The Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    intervals = {candidate.name: _interval(candidate, selection) for candidate in selection.candidates}
    chosen = _chosen(selection)
    draw_ranking(
        [
            RankedScore(name=c.name, score=abs(c.score), interval=intervals[c.name], is_chosen=c.name == chosen)
            for c in selection.candidates
            if c.score is not None
        ],
        folder / "selection.png",
        title=", ".join(selection.metrics),
        expected=None if selection.nested_score is None else (abs(selection.nested_score), _turned(selection)),
    )
    write_rows(
        folder / _TRIALS,
        ["operation", "label", "parameter", "value", "before", "after", "kept"],
        (
            [
                *(trial.step.name, trial.label or "all", *_parameter(trial.step.parameters)),
                *(abs(trial.before), abs(trial.after), trial.is_kept),
            ]
            for trial in selection.trials
        ),
    )
    sections = [
        "# Selection\n",
        f"**{chosen}** predicts, by {', '.join(selection.metrics)} in cross-validation.\n",
        _promise(selection),
        "![Scores of what competed](selection.png)\n",
        "## What competed\n",
        _candidates_table(selection, intervals, chosen),
        "p: probability of a difference from the best as large as this by chance alone (paired test over cases, "
        "signs of the differences flipped at random).\n",
        "## Why\n",
        "".join(f"- {reason}\n" for reason in selection.reasons),
        "## The chosen one, after postprocessing, on the cases it was chosen on\n",
        pivot_by_label(selection.evaluation).markdown(),
    ]
    if selection.postprocessing:
        kept = "".join(f"- {step.describe(labels)}\n" for step in selection.postprocessing)
        sections += ["## Postprocessing\n", kept]
    if trust is not None:
        sections += ["## What a single prediction can be judged by\n", _trust(trust)]
    path = folder / "selection.md"
    write_text("\n".join(sections), path)
    complete(folder, SELECTION, made_from=made_from, files=[path, folder / "selection.png", folder / _TRIALS])
    return path


def _trust(trust: TrustModel) -> str:
    if trust.correlation is None:
        return "Too few cases to learn from.\n"
    return (
        f"The Dice of a case, predicted from its probabilities by a regression without its fold, correlates with the "
        f"true one with r = {trust.correlation:.2f} ({trust.num_cases} cases); nine in ten are closer than "
        f"{trust.error:.3f}. Cases with less than {trust.look_below:.3f} are flagged.\n"
    )


def _chosen(selection: Selection) -> str:
    for candidate in selection.candidates:
        if (candidate.members, candidate.weights) == (selection.members, selection.weights):
            return candidate.name
    return " + ".join(selection.members)


def _promise(selection: Selection) -> str:
    after = _words(selection.score_after)
    if selection.nested_score is None:
        return f"Its score on the cases it was chosen on is {after}; expect less on new ones.\n"
    interval = _turned(selection)
    spread = "" if interval is None else f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"
    return (
        f"Expect **{_words(selection.nested_score)}**{spread} on new cases of the same kind: the score of each fold "
        f"with what was chosen without it. On the cases it was chosen on it reaches {after}, which is flattered by "
        "the choice.\n"
    )


def _candidates_table(selection: Selection, intervals: dict[str, Interval | None], chosen: str) -> str:
    lines = ["| candidate | networks | score | 95 % interval | p |", "|---|---|---|---|---|"]
    for candidate in sorted(selection.candidates, key=lambda c: -(c.score if c.score is not None else -1e9)):
        interval = intervals[candidate.name]
        name = f"**{candidate.name}**" if candidate.name == chosen else candidate.name
        spread = "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
        lines.append(
            f"| {name} | {candidate.cost:g} | {_words(candidate.score)} | {spread} | {candidate.p_value:.2g} |"
        )
    return "\n".join(lines) + "\n"


def _interval(candidate: CandidateScore, selection: Selection) -> Interval | None:
    evaluation = candidate.evaluation
    cases = list(dict.fromkeys(row.case for row in evaluation.cases))
    tables = [score_table(evaluation, metric, cases) for metric in selection.metrics]
    _, overall = bootstrap_means(np.mean(tables, axis=0))
    return overall


def _turned(selection: Selection) -> Interval | None:
    """Interval of the nested score; distances were maximized with their sign turned."""
    if selection.nested_interval is None:
        return None
    low, high = sorted(abs(bound) for bound in selection.nested_interval)
    return low, high


def _parameter(parameters: dict[str, float]) -> tuple[str, float | None]:
    return next(iter(parameters.items()), ("", None))


def _words(score: float | None) -> str:
    return "undefined" if score is None else f"{abs(score):.4f}"
