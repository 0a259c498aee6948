"""How much better a model is on what it was trained on: the gap between training, held-out and test cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.codec import write_json
from autoseg.dataset import Case, load_dataset
from autoseg.device import choose_device
from autoseg.errors import MissingArtifactError
from autoseg.evaluation.report import CaseScore, score_case, summarize
from autoseg.image import read_image, read_segmentation
from autoseg.inference.export import decide_labels
from autoseg.inference.model import TrainedModel, load_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.inference.volumes import score_volumes
from autoseg.pipeline.cascade import find_previous
from autoseg.pipeline.folds import load_folds
from autoseg.plan import Plan
from autoseg.preprocessing.store import CaseStore
from autoseg.progress import LoggingProgress, Progress
from autoseg.splits import fold_dir_name, parse_fold
from autoseg.workspace import Workspace

SCHEMA_VERSION = 1
WARNING_GAP = 0.1
"""Dice that is lost from training to held-out cases, or from those to test cases, before there is a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapReport:
    """Mean foreground Dice of a fold's final model over whole cases.

    Args:
        configuration: Its name.
        fold: "fold0", ...
        training: Over training cases.
        num_training: How many of them were looked at.
        held_out: Over the held-out cases.
        num_held_out: How many there are.
        test: Over the test cases whose labels lie in the dataset's labelsTs; None without any.
        num_test: How many there are.
        threshold: Loss from one to the next from which on there is a warning.
    """

    schema_version: int = SCHEMA_VERSION
    configuration: str
    fold: str
    training: float
    num_training: int
    held_out: float
    num_held_out: int
    test: float | None
    num_test: int
    threshold: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence per gap that is too wide."""
        found = []
        if self.training - self.held_out > self.threshold:
            found.append(
                f"overfitting: {self.training - self.held_out:.3f} of Dice are lost from training to held-out cases, "
                f"more than {self.threshold:g}. More cases, stronger augmentation or a shorter run help"
            )
        if self.test is not None and self.held_out - self.test > self.threshold:
            found.append(
                f"the test cases differ from the others: {self.held_out - self.test:.3f} of Dice are lost from "
                f"held-out to test cases, more than {self.threshold:g}. Hold out a domain at a time to see which: "
                "autoseg plan-and-preprocess --folds domain"
            )
        return tuple(found)

    def summary(self) -> str:
        """One line for people."""
        test = "no test labels" if self.test is None else f"{self.num_test} test {self.test:.3f}"
        return (
            f"{self.configuration} {self.fold}, Dice over whole cases: {self.num_training} training "
            f"{self.training:.3f}, {self.num_held_out} held-out {self.held_out:.3f}, {test}"
        )


def measure_gap(
    workspace: Workspace | Path | str,
    configuration: str,
    fold: str | int,
    *,
    threshold: float = WARNING_GAP,
    device: str = "auto",
    progress: Progress | None = None,
) -> GapReport:
    """Score a fold's final model on training, held-out and test cases; the report is kept as gap.json.

    As many training cases as there are held-out ones are looked at. All are predicted without mirroring.

    Args:
        workspace: Holds the trained fold; or its folder, or its dataset's.
        configuration: Name in the plan.
        fold: "fold0", "0" or 0.
        threshold: Loss of Dice from which on there is a warning.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: Told what happens; None logs.

    Raises:
        MissingArtifactError: When the fold is not trained, or holds no case out.
    """
    workspace, progress = Workspace.of(workspace), progress or LoggingProgress()
    plan, folds = workspace.load_plan(), load_folds(workspace)
    planned, number = plan.configuration(configuration), parse_fold(str(fold), num_folds=len(folds))
    if number == "all":
        raise MissingArtifactError("the model of all cases holds none out; name a fold, for instance fold0")
    run, cases = workspace.run(configuration, number), folds[number]
    if not run.final.is_file():
        raise MissingArtifactError(
            f"{configuration} {fold_dir_name(number)} has no final checkpoint. "
            f"Train it first: autoseg train {configuration} {fold_dir_name(number)}"
        )
    used = choose_device(device)
    model, store = load_model(run.final, used), CaseStore(workspace.preprocessed_dir(planned.data))
    options = InferenceOptions(device=used, augmentation="none")
    seen = _spread(cases.train, len(cases.val))
    previous = find_previous(workspace, planned, folds, [*seen, *cases.val])
    means = []
    for name, chosen in (("training", seen), ("held-out", cases.val)):
        progress.message(f"predicting {len(chosen)} {name} case(s)")
        means.append(score_volumes(model, store, chosen, previous=previous, options=options).mean)
    labelled = [] if planned.previous_stage is not None else _labelled_test_cases(workspace, plan)
    report = GapReport(
        configuration=configuration,
        fold=fold_dir_name(number),
        training=means[0],
        num_training=len(seen),
        held_out=means[1],
        num_held_out=len(cases.val),
        test=_score_images(labelled, plan, model, options, progress) if labelled else None,
        num_test=len(labelled),
        threshold=threshold,
    )
    write_json(report, run.gap)
    return report


def _spread(cases: Sequence[str], number: int) -> tuple[str, ...]:
    """So many of the cases, evenly spread over their order."""
    count = min(number, len(cases))
    return tuple(cases[i * len(cases) // count] for i in range(count))


def _labelled_test_cases(workspace: Workspace, plan: Plan) -> list[tuple[Case, Path]]:
    dataset = load_dataset(workspace.dataset_source)
    paths = [(case, dataset.root / "labelsTs" / f"{case.id}{plan.file_ending}") for case in dataset.test]
    return [(case, path) for case, path in paths if path.is_file()]


def _score_images(
    cases: Sequence[tuple[Case, Path]], plan: Plan, model: TrainedModel, options: InferenceOptions, progress: Progress
) -> float | None:
    predictor, scores = ConfigurationPredictor(plan, [model], options), list[CaseScore]()
    for case, path in progress.track(cases, total=len(cases), description="predicting test cases"):
        predicted = decide_labels(predictor.predict(read_image(case.images), case_id=case.id), plan.labels)
        scores += score_case(case.id, read_segmentation(path).array, predicted.array, plan.labels)
    return summarize(scores).mean.get("dice")
