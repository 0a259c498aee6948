"""Predict a folder of images with the best combination of what is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from autoseg import __version__
from autoseg.atomic import remove_leftovers
from autoseg.codec import digest, write_json
from autoseg.dataset import Case, find_input, load_dataset
from autoseg.errors import AutosegError, CasesFailedError, MissingArtifactError, SettingsError
from autoseg.evaluation.trust import CaseQuality
from autoseg.image import Image, read_image, write_image, write_segmentation
from autoseg.inference.ensemble import Member
from autoseg.inference.export import PROBABILITIES_ENDING
from autoseg.inference.predictor import InferenceOptions
from autoseg.lock import hold
from autoseg.parallel import read_ahead
from autoseg.pipeline.predictor import Predictor, choose_models
from autoseg.plan import Plan
from autoseg.postprocessing.steps import PostprocessingStep
from autoseg.progress import LoggingProgress, Progress
from autoseg.receipt import begin, complete, digest_files, is_intact, standing
from autoseg.workspace import Workspace

_RECORD = "prediction.json"
QUALITY_DIR = "quality"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionReport:
    """What a prediction run came to, also written to prediction.json.

    Args:
        version: autoseg's version.
        output: Folder of the segmentations.
        members: Configurations, folds and checkpoints that predict.
        postprocessing: What happens to the segmentations.
        first_stages: Cascade among the members -> models whose segmentation it starts from.
        selection: How members and operations were chosen.
        plan_digest: Digest of the plan.
        models_digest: Digest of the checkpoint files' sizes and times.
        options: How windows are placed and summed.
        predicted: Cases predicted now.
        kept: Cases that an equal run had predicted already.
        failures: Case id -> why it could not be predicted.
        seconds: Wall time.
    """

    schema_version: int = 1
    version: str = __version__
    output: str
    members: tuple[Member, ...]
    postprocessing: tuple[PostprocessingStep, ...]
    selection: str
    plan_digest: str
    models_digest: str
    options: InferenceOptions
    predicted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    first_stages: dict[str, Member] = field(default_factory=dict)

    def made_with(self) -> tuple[object, ...]:
        """Everything that decides what a segmentation looks like."""
        options = self.options.that_decide()
        return (
            *(self.version, self.members, self.first_stages, self.postprocessing),
            *(self.plan_digest, self.models_digest, options),
        )

    def summary(self) -> str:
        """One line for people."""
        kept = f", {len(self.kept)} were there already" if self.kept else ""
        members = " + ".join(member.describe() for member in self.members)
        return f"predicted {len(self.predicted)} case(s) with {members} in {self.seconds:.0f} s{kept}; {self.output}"

    def raise_for_failures(self) -> None:
        """Raise when some cases failed.

        Raises:
            CasesFailedError: Names each of them and its reason.
        """
        if self.failures:
            raise CasesFailedError(self.failures)


def ensemble_predict(
    workspace: Workspace | Path | str,
    images: Path | None = None,
    output: Path | None = None,
    *,
    members: Sequence[str] | None = None,
    options: InferenceOptions = InferenceOptions(),
    checkpoint: Literal["best", "final"] = "final",
    require_complete: bool = False,
    save_probabilities: bool = False,
    save_uncertainty: bool = False,
    overwrite: bool = False,
    part: tuple[int, int] = (0, 1),
    device: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> PredictionReport:
    """Predict a folder of images with the best combination of the trained models.

    Args:
        workspace: Holds plan and results; or its folder, or its dataset's.
        images: Folder of images; None takes the dataset's imagesTs.
        output: Folder to write to; None takes the workspace's predictions.
        members: "configuration" or "configuration:fold,fold" each, instead of the selection.
        options: Window step, mirroring, types.
        checkpoint: Which weights predict.
        require_complete: Refuse when no configuration has all its folds.
        save_probabilities: Also write probabilities.
        save_uncertainty: Also write how much the folds differ in each voxel; every network runs once more.
        overwrite: Predict again what is there, and replace files that autoseg did not write.
        part: (i, n) predicts every n-th case, beginning with the i-th, so that n processes share the work.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        workers: Threads that read images ahead; None takes one, 0 reads when an image is needed.
        progress: Told what happens; None logs.

    Raises:
        AutosegError: When there is nothing to predict with, or nothing to predict. A case that fails does not stop
            the others: see :meth:`PredictionReport.raise_for_failures`.
    """
    started = time.perf_counter()
    workspace = Workspace.of(workspace)
    progress = progress or LoggingProgress()
    plan = workspace.load_plan()
    cases = _find_input(workspace, plan, images)[part[0] :: part[1]]
    output = workspace.predictions_dir if output is None else output
    choice = choose_models(
        workspace,
        members=members,
        checkpoint=checkpoint,
        options=options,
        device=device,
        require_complete=require_complete,
        progress=progress,
    )
    report = PredictionReport(
        output=str(output),
        members=choice.ensemble.members,
        postprocessing=choice.ensemble.postprocessing,
        selection=choice.ensemble.selection,
        plan_digest=digest(plan),
        models_digest=choice.files_digest(),
        first_stages=choice.first_stages,
        options=choice.options,
    )
    name = f"part {part[0]} of {part[1]} of the predictions in {output}"
    with hold(output / ".autoseg" / f"{part[0]}-of-{part[1]}.lock", name, tell=progress.message):
        remove_leftovers(workspace.root, below=False)
        remove_leftovers(output, below=False)
        remove_leftovers(output / ".autoseg")
        kept = set() if overwrite else _finished(output, cases, plan, report, probabilities=save_probabilities)
        predictor = Predictor(choice)
        write_json(report, output / _RECORD)
        predicted, failures = [], dict[str, str]()
        todo = [case for case in cases if case.id not in kept]
        images_ahead = read_ahead(_read, todo, ahead=1 if workers is None else workers)
        for case, image in progress.track(images_ahead, total=len(todo), description="predicting"):
            try:
                wanted = _Wanted(probabilities=save_probabilities, uncertainty=save_uncertainty)
                _tell(_predict_case(case, image(), predictor, output, report, wanted), progress)
                predicted.append(case.id)
            except AutosegError as error:
                failures[case.id] = str(error)
        report = replace(
            report,
            predicted=tuple(predicted),
            kept=tuple(sorted(kept)),
            failures=failures,
            seconds=time.perf_counter() - started,
        )
        write_json(report, output / _RECORD)
    return report


def _read(case: Case) -> Image:
    return read_image(case.images, frame=case.frame)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is written besides the segmentation and its quality."""

    probabilities: bool
    uncertainty: bool


def _predict_case(
    case: Case, image: Image, predictor: Predictor, output: Path, report: PredictionReport, wanted: _Wanted
) -> CaseQuality:
    origin = _origin(case, report)
    begin(output, case.id, made_from=origin)
    files = _outputs(case, output, predictor.plan, probabilities=wanted.probabilities)
    path = files[1] if wanted.probabilities else None
    segmentation, quality = predictor.judge(image, case_id=case.id, probabilities_path=path)
    write_segmentation(files[0], segmentation)
    write_json(quality, output / QUALITY_DIR / f"{case.id}.json")
    if wanted.uncertainty:
        differing = predictor.disagreement(image, case_id=case.id)
        picture = Image(array=differing[None], geometry=image.geometry)
        write_image(output / f"{case.id}.uncertainty.nii.gz", picture)
    complete(output, case.id, made_from=origin, files=files)
    return quality


def _tell(quality: CaseQuality, progress: Progress) -> None:
    if quality.flags:
        progress.message(f"look at {quality.case}: {'; '.join(quality.flags)}")


def _origin(case: Case, report: PredictionReport) -> str:
    """Digest of everything that decides what a case's segmentation looks like."""
    return digest([report.made_with(), digest_files(case.images)])


def _outputs(case: Case, output: Path, plan: Plan, *, probabilities: bool) -> list[Path]:
    """The segmentation, and the probabilities where they are wanted."""
    endings = (plan.file_ending, *([PROBABILITIES_ENDING] if probabilities else []))
    return [output / f"{case.id}{ending}" for ending in endings]


def _find_input(workspace: Workspace, plan: Plan, images: Path | None) -> tuple[Case, ...]:
    source = workspace.dataset_source if workspace.has_dataset else None
    if images is not None:
        return find_input(source, images, plan.file_ending, num_channels=len(plan.channels))
    given = workspace.dataset_source
    folder = given.root / "imagesTs"
    if given.is_declared and folder.is_dir():  # even if the training cases are gone
        return find_input(given, folder, plan.file_ending, num_channels=len(plan.channels))
    tests = load_dataset(given).test
    if not tests:
        raise MissingArtifactError(
            "the dataset has no imagesTs and no other case to predict; name a folder: autoseg ensemble-predict -i"
        )
    return tests


def _finished(
    output: Path, cases: Sequence[Case], plan: Plan, report: PredictionReport, *, probabilities: bool
) -> set[str]:
    """Cases that an earlier run has made from the same images with the same models and options.

    Raises:
        SettingsError: When files are in the way that no prediction wrote, or that were altered since.
    """
    finished = set()
    for case in cases:
        files = _outputs(case, output, plan, probabilities=probabilities)
        if not files[0].exists():
            continue
        became = standing(output, case.id)
        if became == "absent":
            raise SettingsError(
                f"{files[0]} exists, and autoseg has no record of having written it; give another folder with -o, or "
                "--overwrite"
            )
        if became == "altered":
            raise SettingsError(
                f"{files[0]} or its probabilities were altered, damaged or removed since they were predicted; give "
                "another folder with -o to keep them, or --overwrite"
            )
        if is_intact(output, case.id, made_from=_origin(case, report), files=files):
            finished.add(case.id)
    return finished
