"""Predict a folder of images with the best combination of what is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from autoseg.atomic import remove_leftovers
from autoseg.codec import digest, write_json
from autoseg.dataset import Case, find_input, load_dataset
from autoseg.errors import AutosegError, DatasetError, MissingArtifactError, SettingsError
from autoseg.evaluation.trust import CaseQuality
from autoseg.image import Image, read_image, write_image, write_segmentation
from autoseg.inference.export import PROBABILITIES_ENDING
from autoseg.inference.predictor import InferenceOptions
from autoseg.lock import hold
from autoseg.parallel import WriteBehind, read_ahead
from autoseg.pipeline.case_records import CaseRecord, how, keep_record, records_dir, write_report
from autoseg.pipeline.gate import Findings, InputGate, input_gate
from autoseg.pipeline.model_choice import choose_models
from autoseg.pipeline.outputs import PICTURES_DIR, ExtraOutputs, output_ending, write_extras, write_tables
from autoseg.pipeline.prediction_report import CaseTimes, PredictionReport, program_versions
from autoseg.pipeline.predictor import Predictor, PreparedCase
from autoseg.plan import Plan
from autoseg.progress import LoggingProgress, Progress
from autoseg.receipt import altered_files, begin, complete, digest_files, is_intact, standing
from autoseg.workspace import Workspace

QUALITY_DIR = "quality"
_MADE_AGAIN = (f"{QUALITY_DIR}/", f"{PICTURES_DIR}/")  # what people may correct is never overwritten


def ensemble_predict(
    workspace: Workspace | Path | str,
    images: Path | Sequence[Case] | None = None,
    output: Path | None = None,
    *,
    members: Sequence[str] | None = None,
    options: InferenceOptions = InferenceOptions(),
    checkpoint: Literal["best", "final"] = "final",
    require_complete: bool = False,
    save_probabilities: bool = False,
    save_uncertainty: bool = False,
    extras: ExtraOutputs = ExtraOutputs(),
    unchecked: bool = False,
    overwrite: bool = False,
    part: tuple[int, int] = (0, 1),
    device: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> PredictionReport:
    """Predict a folder of images with the best combination of the trained models.

    Args:
        workspace: Holds plan and results; or its folder, or its dataset's.
        images: Folder of images, or cases; None takes the dataset's imagesTs.
        output: Folder to write to; None takes the workspace's predictions.
        members: "configuration" or "configuration:fold,fold" each, instead of the selection.
        options: Window step, mirroring, types.
        checkpoint: Which weights predict.
        require_complete: Refuse when no configuration has all its folds.
        save_probabilities: Also write probabilities.
        save_uncertainty: Also write how much the folds differ in each voxel; every network runs once more.
        extras: Other files to write.
        unchecked: Predict images too that are of another kind than the training images.
        overwrite: Predict again what is there, and replace files that autoseg did not write.
        part: (i, n) predicts every n-th case, beginning with the i-th, so that n processes share the work.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        workers: Threads that read and preprocess images ahead; None takes one, and none for images so large that two
            at once would be short of memory. 0 does one thing after the other.
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
    _require_view(plan, cases)
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
        checkpoints=choice.checkpoint_digests(),
        versions=program_versions(),
    )
    name = f"part {part[0]} of {part[1]} of the predictions in {output}"
    with hold(output / ".autoseg" / f"{part[0]}-of-{part[1]}.lock", name, tell=progress.message):
        remove_leftovers(workspace.root, below=False)
        remove_leftovers(workspace.reports_dir)
        remove_leftovers(output, below=False)
        remove_leftovers(output / ".autoseg")
        remove_leftovers(records_dir(output))
        remove_leftovers(output / QUALITY_DIR)
        kept = set() if overwrite else _finished(output, cases, plan, report, probabilities=save_probabilities)
        todo = [case for case in cases if case.id not in kept]
        predictor = Predictor(choice)
        need = predictor.forecast_cases([case.images[0] for case in todo])
        if need is not None:
            progress.message(need.in_words)
        write_report(report, output, name=_report_name(plan), tell=progress.message)
        run = _Run(
            predictor=predictor,
            gate=None if unchecked or not todo else input_gate(workspace, plan, progress),
            output=output,
            report=report,
            save_probabilities=save_probabilities,
            save_uncertainty=save_uncertainty,
            extras=extras,
        )
        one_at_a_time = need is not None and need.is_large
        ahead = (0 if one_at_a_time else 1) if workers is None else workers
        done = list(run.predict(todo, ahead, progress))
        report = replace(
            report,
            predicted=tuple(o.case for o in done if not o.failure),
            kept=tuple(sorted(kept)),
            failures={o.case: o.failure for o in done if o.failure},
            times={o.case: o.times for o in done if o.times is not None},
            warnings={o.case: o.warnings for o in done if o.warnings},
            seconds=time.perf_counter() - started,
        )
        write_tables(extras, output, [c for c in cases if c.id not in report.failures], plan)
        whole = write_report(report, output, name=_report_name(plan), tell=progress.message)
    mine = {case.id for case in cases}
    return replace(
        report,
        times={case: times for case, times in whole.times.items() if case in mine},
        warnings={case: found for case, found in whole.warnings.items() if case in mine},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of a case."""

    case: str
    failure: str = ""
    times: CaseTimes | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ready:
    """A case whose networks can run."""

    prepared: PreparedCase
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """One folder of images: the next image is prepared and the last one written while the networks run."""

    predictor: Predictor
    gate: InputGate | None
    output: Path
    report: PredictionReport
    save_probabilities: bool
    save_uncertainty: bool
    extras: ExtraOutputs

    def predict(self, cases: Sequence[Case], ahead: int, progress: Progress) -> Iterator[_Outcome]:
        """Predict cases; one that fails does not stop the others."""
        ready = read_ahead(self._prepare, cases, ahead=ahead)
        with WriteBehind[_Outcome](1 if ahead else 0) as behind:
            for case, prepared in progress.track(ready, total=len(cases), description="predicting"):
                behind.put(self._predicted(case, prepared, progress))
                yield from behind.finished()
            yield from behind.rest()

    def _prepare(self, case: Case) -> _Ready:
        started = time.perf_counter()
        image = read_image(case.images, frame=case.frame)
        findings = Findings() if self.gate is None else self.gate.examine(image)
        if findings.refusals:
            raise DatasetError(
                f"case {case.id} is unlike the training images: {'; '.join(findings.refusals)}. To predict it "
                "nevertheless: --unchecked"
            )
        prepared = self.predictor.prepare(image, case_id=case.id)
        return _Ready(prepared=prepared, warnings=findings.warnings, seconds=time.perf_counter() - started)

    def _predicted(self, case: Case, ready: Callable[[], _Ready], progress: Progress) -> Callable[[], _Outcome]:
        """Run the networks; what is left to do is returned as a function."""
        try:
            found = ready()
            for sentence in found.warnings:
                progress.message(f"{case.id}: {sentence}")
            started = time.perf_counter()
            origin = _origin(case, self.report)
            begin(self.output, case.id, made_from=origin)
            files = _outputs(case, self.output, self.predictor.plan, probabilities=self.save_probabilities)
            path = files[1] if self.save_probabilities else None
            decided, overlap = self.predictor.decide(found.prepared, probabilities_path=path)
            if self.save_uncertainty:
                differing = self.predictor.disagreement(image=found.prepared.image, case_id=case.id)
                picture = Image(array=differing[None], geometry=found.prepared.image.geometry)
                write_image(self.output / f"{case.id}.uncertainty.nii.gz", picture)
        except (AutosegError, MemoryError, OSError) as error:
            return partial(self._failed, case.id, error)
        image = found.prepared.image
        seconds = time.perf_counter() - started

        def write() -> _Outcome:
            try:
                started = time.perf_counter()
                final, quality = self.predictor.finish(case.id, decided, overlap, seconds=found.seconds + seconds)
                write_segmentation(files[0], final)
                assessment = self.output / QUALITY_DIR / f"{case.id}.json"
                write_json(quality, assessment)
                _tell(quality, progress)
                more = write_extras(self.extras, self.output, case, image, final, self.predictor.plan)
                times = CaseTimes(prepare=found.seconds, predict=seconds, write=time.perf_counter() - started)
                outcome = _Outcome(case=case.id, times=times, warnings=found.warnings)
                self._record(outcome, files[0].name)  # before the receipt: a case that has one is not looked at again
                complete(self.output, case.id, made_from=origin, files=[*files, assessment, *more])
            except (AutosegError, MemoryError, OSError) as error:
                return self._failed(case.id, error)
            return outcome

        return write

    def _failed(self, case_id: str, error: BaseException) -> _Outcome:
        reason = str(error) if isinstance(error, AutosegError) else f"{type(error).__name__}: {error}"
        outcome = _Outcome(case=case_id, failure=reason)
        self._record(outcome, "")
        return outcome

    def _record(self, outcome: _Outcome, file: str) -> None:
        record = CaseRecord(
            made_with=how(self.report),
            file=file,
            failure=outcome.failure,
            times=outcome.times,
            warnings=outcome.warnings,
        )
        with suppress(OSError):  # a full disk is reported with the case; its times are not worth another failure
            keep_record(self.output, outcome.case, record)


def _tell(quality: CaseQuality, progress: Progress) -> None:
    if quality.flags:
        progress.message(f"look at {quality.case}: {'; '.join(quality.flags)}")


def _origin(case: Case, report: PredictionReport) -> str:
    """Digest of everything that decides what a case's segmentation looks like."""
    return digest([report.made_with(), digest_files(case.images)])


def _outputs(case: Case, output: Path, plan: Plan, *, probabilities: bool) -> list[Path]:
    """The segmentation, and the probabilities where they are wanted."""
    endings = (output_ending(case, plan), *([PROBABILITIES_ENDING] if probabilities else []))
    return [output / f"{case.id}{ending}" for ending in endings]


def _report_name(plan: Plan) -> str:
    """Name of the report; models of several views write to one folder."""
    return "prediction.json" if plan.view is None else f"prediction.{plan.view}.json"


def _require_view(plan: Plan, cases: Sequence[Case]) -> None:
    """Refuse cases that are known to be of another view than the models.

    Raises:
        DatasetError: Names the first of them.
    """
    other = [case for case in cases if plan.view is not None and case.view not in (None, plan.view)]
    if other:
        raise DatasetError(
            f"case {other[0].id} has the view {other[0].view}, and these models were trained on {plan.view}. Name the "
            "workspace of all views with -w, and every case goes to its own models"
        )


def _find_input(workspace: Workspace, plan: Plan, images: Path | Sequence[Case] | None) -> tuple[Case, ...]:
    if images is not None and not isinstance(images, Path):
        return tuple(images)
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
        if standing(output, case.id) == "absent":
            raise SettingsError(
                f"{files[0]} exists, and autoseg has no record of having written it; give another folder with -o, or "
                "--overwrite"
            )
        altered = [path for path in altered_files(output, case.id) if not path.startswith(_MADE_AGAIN)]
        if altered:
            raise SettingsError(
                f"{output / altered[0]} was altered, damaged or removed since it was predicted; give another folder "
                "with -o to keep it, or --overwrite"
            )
        if is_intact(output, case.id, made_from=_origin(case, report), files=files):
            finished.add(case.id)
    return finished
