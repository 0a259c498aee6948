"""The model card: what a model is for, how well it did, and what nobody knows about it (Mitchell et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoseg import __version__
from autoseg.fingerprint import Fingerprint
from autoseg.inference.ensemble import Ensemble
from autoseg.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the card tells.

    Args:
        name: What the model is called.
        license: Under which the weights may be used.
        plan: The plan of its configurations.
        ensemble: What predicts.
        fingerprint: Of the training cases; None where it is not known.
        labels: Configuration -> label -> metric -> mean over held-out cases.
        intervals: The same with 95 % confidence intervals.
        num_cases: Held-out cases behind the figures.
    """

    name: str
    license: str
    plan: Plan
    ensemble: Ensemble
    fingerprint: Fingerprint | None
    labels: dict[str, dict[str, dict[str, float | None]]]
    intervals: dict[str, dict[str, dict[str, tuple[float, float]]]]
    num_cases: int


def model_card(facts: ModelFacts) -> str:
    """Write the card as Markdown."""
    plan = facts.plan
    segments = ", ".join(f"{t.name} ({'+'.join(map(str, t.values))})" for t in plan.labels.targets)
    members = "\n".join(f"- {member.describe()}, weight {member.weight:g}" for member in facts.ensemble.members)
    steps = "\n".join(f"- {step.describe(plan.labels)}" for step in facts.ensemble.postprocessing) or "- none"
    return f"""# {facts.name}

A segmentation model made with autoseg {__version__}.

| | |
|---|---|
| segments (label values) | {segments} |
| input | {len(plan.channels)} channel(s): {", ".join(plan.channels)}, files ending in {plan.file_ending} |
| licence of the weights | {facts.license} |

## Use

```console
$ autoseg import MODEL.zip -w model
$ autoseg ensemble-predict -w model -i IMAGES -o OUTPUT
```

or in Python: `autoseg.Predictor.load("MODEL.zip").segment(image, spacing)`.

## What predicts

{members}

Afterwards:

{steps}

## Training data

{_training_data(facts)}

## How well it did

{_promise(facts)}

{_score_table(facts)}

## What is not known

- How it does on images from other scanners, protocols, populations or diseases than those of the training cases. Check
  it on labelled cases of your own before you rely on it: `autoseg evaluate`.
- Whether its errors matter for your purpose. It is no medical device.
"""


def _training_data(facts: ModelFacts) -> str:
    if facts.fingerprint is None or not facts.fingerprint.cases:
        return "Not recorded."
    cases = facts.fingerprint.cases
    spacings = np.asarray([case.spacing for case in cases])
    shapes = np.asarray([case.shape for case in cases])
    axes = ("z", "y", "x")[-spacings.shape[1] :]
    lines = [f"{len(cases)} cases of {facts.plan.dataset}.", "", "| axis | spacing in mm | voxels |", "|---|---|---|"]
    for axis, name in enumerate(axes):
        low, middle, high = np.percentile(spacings[:, axis], [0, 50, 100])
        first, median, last = np.percentile(shapes[:, axis], [0, 50, 100])
        sizes = f"{first:.0f} to {last:.0f}, median {median:.0f}"
        lines.append(f"| {name} | {low:.3g} to {high:.3g}, median {middle:.3g} | {sizes} |")
    return "\n".join(lines)


def _promise(facts: ModelFacts) -> str:
    ensemble = facts.ensemble
    if ensemble.promised is None:
        return "No cross-validated score of the whole is recorded."
    interval = ensemble.promised_interval
    spread = "" if interval is None else f" (95 % interval {abs(interval[0]):.4f} to {abs(interval[1]):.4f})"
    return (
        f"Expect a mean {', '.join(ensemble.metrics)} of {abs(ensemble.promised):.4f}{spread} on new cases of the same "
        "kind: chosen without each fold of a cross-validation and scored on it."
    )


def _score_table(facts: ModelFacts) -> str:
    if not facts.labels:
        return ""
    lines = [
        f"Each configuration alone, on {facts.num_cases} held-out cases, before postprocessing:",
        "",
        "| configuration | label | Dice | 95 % interval |",
        "|---|---|---|---|",
    ]
    for name, labels in facts.labels.items():
        for label, metrics in labels.items():
            dice, interval = metrics.get("dice"), facts.intervals.get(name, {}).get(label, {}).get("dice")
            words = "undefined" if dice is None else f"{dice:.4f}"
            spread = "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
            lines.append(f"| {name} | {label} | {words} | {spread} |")
    return "\n".join(lines)
