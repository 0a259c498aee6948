"""Every preset on a small synthetic dataset of its kind, from images to scores, with its table and its picture.

    python benchmarks/presets.py [aicup mnms2 cm_trancaf spine] --folder FOLDER [--device cpu] [--first-fold]

Writes the dataset (autoseg.synthetic), trains both of two folds with the preset, selects with the preset's own
postprocessing, predicts held-back patients and scores them. --first-fold trains one fold and predicts with it, without
selection and postprocessing. What is there already is kept. FOLDER/NAME.md and NAME.png hold the result. The synthetic
images say that a preset runs and learns; nothing about real ones.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.cli.main import app
from autoseg.evaluation.report import Evaluation, read_evaluation
from autoseg.figures import Panel, draw_panels
from autoseg.history import read_rows
from autoseg.image import read_image, read_segmentation
from autoseg.presets import PRESETS
from autoseg.synthetic import KINDS
from autoseg.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a preset is tried.

    Args:
        patients: To learn from.
        held_back: To predict.
        iterations: Optimizer steps of each fold (and view).
        settings: What differs from the preset, because the run is short.
        left_out: Steps of the preset's postprocessing that the preset itself says to leave out here.
        drawn: How many predicted images are drawn.
    """

    patients: int
    held_back: int
    iterations: int
    settings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    drawn: int = 4


TRIALS = {
    "aicup": Trial(patients=12, held_back=4, iterations=300, left_out=("keep_largest(calcification)",)),
    "mnms2": Trial(patients=10, held_back=3, iterations=150, settings=("batch_size=6",)),
    "cm_trancaf": Trial(patients=10, held_back=4, iterations=150, settings=("batch_size=2", "learning_rate=1e-3")),
    "spine": Trial(patients=10, held_back=4, iterations=120, settings=("batch_size=4",)),
}


_BRIEF = ("validation_iterations=2",)  # fifty validation batches would take longer than training


def autoseg(*words: str | Path) -> None:
    """One command, shown."""
    print("$ autoseg", *words, flush=True)
    if code := app([str(word) for word in words], standalone_mode=False):
        raise SystemExit(code)


def try_preset(name: str, folder: Path, *, device: str, share: float, folds: tuple[int, ...]) -> None:
    """Run a preset from images to scores."""
    trial, preset, kind = TRIALS[name], PRESETS[name], KINDS[name]
    dataset, workspace, predictions = (
        folder / name / "dataset",
        folder / name / "workspace",
        folder / name / "predicted",
    )
    if not (dataset / "labelsTs" / "dataset.json").is_file():
        kind.write(dataset, num_training=trial.patients, num_test=trial.held_back)
    source: list[str | Path] = [dataset]
    if kind.has_table:
        source += ["--table", dataset / "cases.csv", "--channel-name", kind.channel]
        source += [word for label, value in kind.labels.items() for word in ("--label", f"{label}={value}")]
    steps = max(1, round(share * trial.iterations))
    settings = [word for setting in (*_BRIEF, *trial.settings) for word in ("--set", setting)]
    place = ("-w", workspace, "--device", device, "--workers", "0")
    for fold in folds:
        length = ("--folds", "2", "--iterations", str(steps))
        autoseg("preset", "train", name, *source, f"fold{fold}", *place, *length, *settings)
    if len(folds) > 1:
        chosen = [step for step in preset.steps_for(tuple(kind.labels)) if step not in trial.left_out] or ["none"]
        autoseg("select", "-w", workspace, *(word for step in chosen for word in ("--postprocessing", step)))
    views = () if preset.views is None else ("--tta", preset.views.value)
    members = () if len(folds) > 1 else ("--members", preset.stored_as)
    autoseg("ensemble-predict", *place, "-o", predictions, *members, *views)
    groups = ("--groups", dataset / "cases.csv", "--view-weights", "SA=0.75,LA=0.25") if kind.has_table else ()
    scores = folder / name / "scores.json"
    found = ("-r", dataset / "labelsTs", "-p", predictions, "-o", scores)
    autoseg("evaluate", *found, "-m", "hd95", "--workers", "0", *groups)
    evaluation = read_evaluation(scores)
    text = "\n".join(
        [table(evaluation), *(by_view(evaluation) if kind.has_table else ()), spent(workspace, preset.stored_as)]
    )
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    draw(name, dataset, predictions, folder / f"{name}.png", most=trial.drawn)


def table(evaluation: Evaluation) -> str:
    """Mean Dice and HD95 of each label over the images in which they are defined."""
    lines = ["| label | Dice | HD95 (mm) | images |", "|---|---|---|---|"]
    for label in evaluation.labels:
        rows = [row for row in evaluation.cases if row.label == label]
        dice, distance = ([v for row in rows if (v := row.value(m)) is not None] for m in ("dice", "hd95"))
        finite = [value for value in distance if math.isfinite(value)]
        mean = f"{np.mean(finite):.1f}" if finite else "-"
        lines.append(f"| {label} | {np.mean(dice):.3f} ± {np.std(dice, ddof=1):.3f} | {mean} | {len(dice)} |")
    return "\n".join(lines) + "\n"


def by_view(evaluation: Evaluation) -> list[str]:
    """Mean Dice of each view and phase, by the case's name."""
    labels = list(evaluation.labels)
    lines = [f"| | {' | '.join(labels)} |", "|---|" + "---|" * len(labels)]
    for view in ("SA", "LA"):
        for phase in ("ED", "ES"):
            rows = [row for row in evaluation.cases if row.case.endswith(f"_{view}_{phase}")]
            means = (np.mean([row.value("dice") or 0.0 for row in rows if row.label == label]) for label in labels)
            lines.append(f"| {view} {phase} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return ["\n".join(lines) + "\n"]


def spent(workspace: Path, configuration: str) -> str:
    """Steps and seconds of every fold."""
    whole = Workspace.discover(workspace)
    words = []
    for view, part in (whole.by_view or {"": whole}).items():
        for fold in part.trained_folds(configuration):
            last = read_rows(part.run(configuration, fold).log)[-1]
            words.append(f"{view} fold {fold}: {last.iterations} steps in {last.seconds:.0f} s".strip())
    return "; ".join(words)


def draw(name: str, dataset: Path, predictions: Path, path: Path, *, most: int) -> None:
    """Draw the first predicted images; of two views and phases one each."""
    files = sorted(predictions.glob("*.nii.gz"))[:most]
    whole = Workspace.discover(dataset.parent / "workspace")
    labels = next(iter((whole.by_view or {"": whole}).values())).load_plan().labels
    panels = []
    for file in files:
        case = file.name.removesuffix(".nii.gz")
        image = read_image((dataset / "imagesTs" / f"{case}_0000.nii.gz",))
        panels.append(
            Panel(
                title=case,
                image=image.array[0],
                reference=read_segmentation(dataset / "labelsTs" / file.name).array,
                prediction=read_segmentation(file).array,
                spacing=image.geometry.spacing,
            )
        )
    draw_panels(panels, path, labels=labels, title=f"{name}: {PRESETS[name].summary}")


def main() -> None:
    """Try what was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*TRIALS, []], help="presets; all without one")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--share", type=float, default=1.0, help="of the optimizer steps, for a quick look")
    parser.add_argument("--first-fold", action="store_true", help="train one fold, without selection")
    given = parser.parse_args()
    folds = (0,) if given.first_fold else (0, 1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.names or TRIALS:
        try_preset(name, given.folder, device=given.device, share=given.share, folds=folds)


if __name__ == "__main__":
    main()
