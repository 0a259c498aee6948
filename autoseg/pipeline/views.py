"""Models of each view of a dataset, side by side: trained by one command, and images go to those of their view.

The workspace of all views holds one ordinary workspace per view, in views/VIEW. Nothing else knows of views.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.dataset import Case, Dataset, DatasetSource, find_input, load_dataset
from autoseg.dataset.loading import remembered
from autoseg.errors import AutosegError, CasesFailedError, DatasetError, MissingArtifactError, SettingsError
from autoseg.image import read_header
from autoseg.pipeline.gate import InputGate, input_gate
from autoseg.pipeline.outputs import ExtraOutputs, write_tables
from autoseg.pipeline.predict import ensemble_predict
from autoseg.pipeline.prediction_report import PredictionReport
from autoseg.pipeline.prepare import as_given_before, plan_and_preprocess
from autoseg.progress import LoggingProgress, Progress
from autoseg.workspace import Workspace

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

Prepare = Callable[..., Workspace]
"""Takes a source and the keyword ``workspace``, as plan_and_preprocess does."""
Predict = Callable[..., PredictionReport]
"""Takes what ensemble_predict does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewsReport:
    """What predicting images of several views came to.

    Args:
        views: View -> what its models did.
    """

    views: dict[str, PredictionReport]

    @property
    def failures(self) -> dict[str, str]:
        """Case id -> why it could not be predicted."""
        return {case: reason for report in self.views.values() for case, reason in report.failures.items()}

    def summary(self) -> str:
        """One line per view for people."""
        return "\n".join(f"{view}: {report.summary()}" for view, report in self.views.items())

    def raise_for_failures(self) -> None:
        """Raise when some cases failed.

        Raises:
            CasesFailedError: Names each of them and its reason.
        """
        if self.failures:
            raise CasesFailedError(self.failures)


def prepare_views(
    source: DatasetSource,
    workspace: Path | None = None,
    prepare: Prepare = plan_and_preprocess,
    *,
    progress: Progress | None = None,
) -> Workspace:
    """Plan and preprocess the cases of each view in a workspace of its own.

    Patients keep their fold in every view where the column ``group`` names them and each has all views.

    Args:
        source: A dataset given by a table with the column ``view``.
        workspace: Folder for everything; None takes ``source.root``/autoseg.
        prepare: Prepares the dataset of one view; ``functools.partial`` gives it options.
        progress: Told what happens; None logs.

    Returns:
        The workspace of all views; :attr:`Workspace.by_view` has those of each.

    Raises:
        DatasetError: When a training case has no view, or a view cannot be the name of a folder.
        SettingsError: When the folder is an ordinary workspace already.
    """
    progress = progress or LoggingProgress()
    folder = source.root / "autoseg" if workspace is None else workspace
    dataset = load_dataset(source)
    views = views_of(dataset)
    if Workspace(folder).plan_path.is_file():
        raise SettingsError(f"{folder} holds models of all views together; name another folder with -w")
    whole = Workspace.create(folder, source.root, source=remembered(source, dataset), views=views)
    known = whole.dataset_source
    for view, space in whole.by_view.items():
        progress.message(f"view {view}: {space.root}")
        prepare(replace(known, view=view), workspace=space.root)
    return whole


def prepare_parts(
    source: DatasetSource, workspace: Path | None, prepare: Prepare, *, by_view: bool, progress: Progress | None = None
) -> Workspace:
    """Prepare a dataset by views where that is asked for, or was when the workspace was made; else as one.

    Args:
        source: The dataset; the folder alone where the workspace knows the rest.
        workspace: As for :func:`prepare_views`, and so are the others.
        prepare: Prepares a dataset.
        by_view: Whether each view gets models of its own.
        progress: Told what happens; None logs.

    Raises:
        AutosegError: When the dataset has problems, or a training case no view.
    """
    folder = source.root / "autoseg" if workspace is None else workspace
    if not by_view and not Workspace(folder).by_view:
        return prepare(source, workspace=workspace)
    return prepare_views(as_given_before(source, folder), workspace, prepare, progress=progress)


def views_of(dataset: Dataset) -> tuple[str, ...]:
    """The views of a dataset's training cases, in the order of their names.

    Raises:
        DatasetError: When a training case has none, or one that cannot be the name of a folder.
    """
    if without := [case.id for case in dataset.training if case.view is None]:
        raise DatasetError(
            f"case {without[0]}{_and_more(without)} has no view; every training case needs one in the column view of "
            "--table"
        )
    views = tuple(sorted({case.view for case in dataset.training if case.view is not None}))
    if odd := [view for view in views if _NAME.fullmatch(view) is None]:
        raise DatasetError(f"the view {odd[0]!r} cannot be the name of a folder; use letters, digits, - and _")
    return views


def cases_by_view(
    workspace: Workspace, images: Path | Sequence[Case] | None = None, *, view: str | None = None
) -> dict[str, tuple[Case, ...]]:
    """The images to predict, by the view whose models predict them.

    Args:
        workspace: That of all views.
        images: Folder of images, or cases; None takes the dataset's cases without label.
        view: Of all these images; None takes what each case says.

    Raises:
        DatasetError: When the view of a case is unknown, or no model is of it; names the case.
        MissingArtifactError: When there is no case to predict.
        SettingsError: When there is no model of ``view``.
    """
    known = tuple(workspace.by_view)
    if view is not None and view not in known:
        raise SettingsError(f"--view {view}: there are models of {', '.join(known)}")
    cases = _cases(workspace, images)
    if view is not None:
        cases = tuple(replace(case, view=view) for case in cases)
    if unknown := [case.id for case in cases if case.view is None]:
        raise DatasetError(
            f"the view of case {unknown[0]}{_and_more(unknown)} is unknown, and there are models of "
            f"{', '.join(known)}. Name it in the column view of --table, or with --view for all images of the folder"
        )
    if foreign := next((case for case in cases if case.view not in known), None):
        raise DatasetError(f"case {foreign.id} has the view {foreign.view}; there are models of {', '.join(known)}")
    grouped = {name: tuple(case for case in cases if case.view == name) for name in known}
    return {name: found for name, found in grouped.items() if found}


def predict_views(
    workspace: Workspace,
    images: Path | Sequence[Case] | None = None,
    output: Path | None = None,
    predict: Predict = ensemble_predict,
    *,
    view: str | None = None,
    extras: ExtraOutputs = ExtraOutputs(),
    unchecked: bool = False,
    progress: Progress | None = None,
) -> ViewsReport:
    """Predict images of several views into one folder, each with the models of its view.

    Args:
        workspace: That of all views.
        images: As for :func:`cases_by_view`.
        output: Folder to write to; None takes the workspace's predictions.
        predict: Predicts cases of one view with the workspace of that view; ``functools.partial`` gives it options.
        view: Of all images; None takes what each case says.
        extras: Other files to write; tables hold the cases of all views.
        unchecked: Predict images too that are of another kind than the training images, or look like another view.
        progress: Told what happens; None logs.

    Raises:
        AutosegError: Before anything is predicted, when a view is unknown or wrong, or nothing is trained.
    """
    progress = progress or LoggingProgress()
    output = workspace.predictions_dir if output is None else output
    parts = workspace.by_view
    grouped = cases_by_view(workspace, images, view=view)
    plans = {name: parts[name].load_plan() for name in grouped}  # what is missing shows before anything is predicted
    if not unchecked:
        gates = {name: input_gate(space, space.load_plan(), progress) for name, space in parts.items()}
        _refuse_other_views(grouped, {name: gate for name, gate in gates.items() if gate is not None})
    alone = replace(extras, zip_path=None, run_lengths=None)
    reports = dict[str, PredictionReport]()
    for name, cases in grouped.items():
        progress.message(f"view {name}: {len(cases)} case(s)")
        reports[name] = predict(parts[name], cases, output, extras=alone, unchecked=unchecked, progress=progress)
    written = {case for report in reports.values() for case in (*report.predicted, *report.kept)}
    cases_written = [case for cases in grouped.values() for case in cases if case.id in written]
    write_tables(extras, output, sorted(cases_written, key=lambda case: case.id), next(iter(plans.values())))
    return ViewsReport(views=reports)


def _cases(workspace: Workspace, images: Path | Sequence[Case] | None) -> tuple[Case, ...]:
    source = workspace.dataset_source
    if isinstance(images, Path):
        plan = next(iter(workspace.by_view.values())).load_plan()
        return find_input(source, images, plan.file_ending, num_channels=len(plan.channels))
    cases = load_dataset(source).test if images is None else tuple(images)
    if not cases:
        raise MissingArtifactError(
            "the dataset's table has no case to predict; name others: autoseg ensemble-predict --table FILE.csv"
        )
    return cases


def _refuse_other_views(grouped: Mapping[str, Sequence[Case]], gates: Mapping[str, InputGate]) -> None:
    """Refuse cases whose grid is unusual for their view and usual for another one.

    Raises:
        DatasetError: Names them.
    """
    found = [
        sentence for view, cases in grouped.items() for case in cases for sentence in _misplaced(case, view, gates)
    ]
    if found:
        raise DatasetError(f"{'; '.join(found)}. Correct the view, or predict nevertheless: --unchecked")


def _misplaced(case: Case, view: str, gates: Mapping[str, InputGate]) -> Iterator[str]:
    if view not in gates or not case.images[0].is_file():
        return
    try:
        grid = read_header(case.images[0], frame=case.frame).geometry
    except AutosegError:
        return  # is told when the case is read
    if own := gates[view].unusual_grid(grid):
        others = [name for name, gate in gates.items() if name != view and not gate.unusual_grid(grid)]
        if others:
            yield f"case {case.id} is given as {view} and looks like {' or '.join(others)}: {' and '.join(own)}"


def _and_more(names: Sequence[str]) -> str:
    return f" (and of {len(names) - 1} more)" if len(names) > 1 else ""
