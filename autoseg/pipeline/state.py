"""How far a workspace is, and the command that continues."""

from __future__ import annotations

from dataclasses import dataclass

from autoseg.errors import AutosegError, MissingArtifactError
from autoseg.pipeline.folds import load_folds
from autoseg.preprocessing.store import CaseStore
from autoseg.splits import FoldName, fold_dir_name
from autoseg.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationState:
    """One configuration.

    Args:
        name: Its name.
        preprocessed: Cases that are preprocessed for it.
        scored: Folds that are trained and scored.
        trained: Folds with a final checkpoint, scored or not.
        started: Folds that can be resumed.
    """

    name: str
    preprocessed: int
    scored: tuple[int, ...]
    trained: tuple[FoldName, ...]
    started: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceState:
    """A workspace at one moment.

    Args:
        num_cases: Cases in the folds.
        num_folds: Folds.
        configurations: In the plan's order.
        problems: What cannot be read, one sentence each.
        next_command: What to type to get on.
    """

    num_cases: int
    num_folds: int
    configurations: tuple[ConfigurationState, ...]
    problems: tuple[str, ...]
    next_command: str


def inspect_workspace(workspace: Workspace) -> WorkspaceState:
    """Look at what is there; nothing is written, and what cannot be read becomes a problem, not an error."""
    problems = []
    try:
        plan = workspace.load_plan()
        folds = load_folds(workspace) if workspace.splits_path.is_file() else ()
    except MissingArtifactError:
        return _unplanned(workspace)
    except AutosegError as error:
        problems.append(str(error))
        return WorkspaceState(
            num_cases=0, num_folds=0, configurations=(), problems=tuple(problems), next_command="repair or remove it"
        )
    cases = {case for fold in folds for case in (*fold.train, *fold.val)}
    states = []
    for configuration in plan.configurations:
        stored = set(CaseStore(workspace.preprocessed_dir(configuration.data)).case_ids())
        runs = [workspace.run(configuration.name, number) for number in range(len(folds))]
        states.append(
            ConfigurationState(
                name=configuration.name,
                preprocessed=len(stored & cases),
                scored=tuple(number for number, run in enumerate(runs) if run.scores.is_file()),
                trained=workspace.trained_folds(configuration.name),
                started=tuple(n for n, run in enumerate(runs) if run.last.is_file() and not run.final.is_file()),
            )
        )
    return WorkspaceState(
        num_cases=len(cases),
        num_folds=len(folds),
        configurations=tuple(states),
        problems=tuple(problems),
        next_command=_next_command(workspace, states, len(cases)),
    )


def _unplanned(workspace: Workspace) -> WorkspaceState:
    dataset = workspace.dataset_root if workspace.has_dataset else "DATASET"
    return WorkspaceState(
        num_cases=0,
        num_folds=0,
        configurations=(),
        problems=(),
        next_command=f"autoseg plan-and-preprocess {dataset} -w {workspace.root}",
    )


def _next_command(workspace: Workspace, states: list[ConfigurationState], num_cases: int) -> str:
    """The step that brings most: finish what was begun, then predict, then train what is missing."""
    where = f"-w {workspace.root}"
    if workspace.has_dataset and any(state.preprocessed < num_cases for state in states):
        return f"autoseg plan-and-preprocess {workspace.dataset_root} {where}"
    for state in states:
        if state.started:
            return f"autoseg train {state.name} {fold_dir_name(state.started[0])} {where}"
    if any(state.trained for state in states):
        return f"autoseg ensemble-predict {where}"
    names = [state.name for state in states]
    return f"autoseg train {'3d_fullres' if '3d_fullres' in names else names[0]} fold0 {where}"
