"""What in a workspace cannot be trusted: damaged, outdated, half-done and locked things, with what helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autoseg.atomic import find_leftovers
from autoseg.codec import digest, is_as_written
from autoseg.dataset import load_dataset
from autoseg.errors import ArtifactError, AutosegError, MissingArtifactError
from autoseg.lock import holder
from autoseg.pipeline.folds import load_folds
from autoseg.pipeline.prepare import case_digest, preprocessing_digest
from autoseg.pipeline.selection_report import SELECTION
from autoseg.plan import Plan
from autoseg.preprocessing.store import CaseStore, verify_case
from autoseg.receipt import RECEIPTS_DIR, altered_files, standings
from autoseg.workspace import Workspace

_MOST_NAMED = 3


def find_problems(workspace: Workspace, *, verify: bool = False) -> Iterator[str]:
    """Look through a workspace; one sentence per problem, nothing is changed.

    Args:
        workspace: Where to look.
        verify: Also read every array and checkpoint in full and compare digests; else sizes and records only.
    """
    yield from _artifacts(workspace)
    try:
        plan = workspace.load_plan()
    except AutosegError:
        return  # told above, or nothing is planned yet
    yield from _preprocessed(workspace, plan, verify=verify)
    yield from _results(workspace, verify=verify)
    yield from _predictions(workspace)
    yield from _reports(workspace)
    for path in sorted(workspace.root.rglob("*.lock")):
        if owner := holder(path):
            yield f"in use, or stopped without tidying up: {path} is held by {owner}; a dead process holds nothing"
    if leftovers := find_leftovers(workspace.root):
        yield f"left by stopped processes: {_names(leftovers)}; the next command removes them"


def _artifacts(workspace: Workspace) -> Iterator[str]:
    makers = {
        workspace.record_path: "autoseg plan-and-preprocess",
        workspace.fingerprint_path: "autoseg plan-and-preprocess",
        workspace.check_path: "autoseg plan-and-preprocess",
        workspace.ensemble_path: "autoseg select",
    }
    if workspace.splits_path.is_file():
        try:
            load_folds(workspace)
        except AutosegError as error:
            yield f"damaged or edited: {error}"
    makers |= dict.fromkeys(workspace.root.glob("results/*/run.json"), "autoseg train")
    makers |= dict.fromkeys(workspace.root.glob("results/*/*/validation/scores.json"), "autoseg train")
    for path, command in makers.items():
        try:
            if not is_as_written(path):
                yield f"damaged: {path} is not as autoseg wrote it; remove it and make it again: {command}"
        except MissingArtifactError:
            continue
        except ArtifactError as error:
            yield f"damaged: {error}; remove it and make it again: {command}"
    try:
        if not is_as_written(workspace.plan_path):
            yield f"edited: {workspace.plan_path} differs from what was planned; if nobody edited it, it is damaged"
    except AutosegError:
        return  # the state of the workspace tells


def _preprocessed(workspace: Workspace, plan: Plan, *, verify: bool) -> Iterator[str]:
    again = f"make them again: autoseg plan-and-preprocess -C {workspace.root}"
    sources: dict[str, str] = {}
    try:
        sources = {case.id: case_digest(case) for case in load_dataset(workspace.dataset_source).training}
    except (AutosegError, OSError) as error:
        if workspace.has_dataset:
            yield f"missing: the dataset cannot be looked at: {error}"
    for data, configuration in {c.data: c for c in reversed(plan.configurations)}.items():
        folder, made_from = workspace.preprocessed_dir(data), preprocessing_digest(plan, configuration)
        damaged, outdated = [], []
        for case in CaseStore(folder).case_ids():
            try:
                record = CaseStore(folder).open(case).record
                if verify:
                    verify_case(folder, case)
            except AutosegError:
                damaged.append(case)
                continue
            if case in sources and record.digest != digest([made_from, sources[case]]):
                outdated.append(case)
        if damaged:
            yield f"damaged: preprocessed cases of {data}: {_names(damaged)}; {again}"
        if outdated:
            yield f"outdated: preprocessed cases of {data}, of other files or settings: {_names(outdated)}; {again}"


def _results(workspace: Workspace, *, verify: bool) -> Iterator[str]:
    if verify:
        from autoseg.inference.model import read_checkpoint  # imports torch

        for path in sorted(workspace.root.glob("results/*/fold*/checkpoint_*.pt")):
            try:
                read_checkpoint(path)
            except AutosegError as error:
                yield f"damaged: {error}; to train that fold anew, remove {path.parent}"
    for folder in sorted(workspace.root.glob("results/*/fold*/validation")):
        if altered := [name for name, became in standings(folder).items() if became == "altered"]:
            train = f"autoseg train {folder.parts[-3]} {folder.parts[-2]}"
            yield f"damaged: held-out predictions in {folder}: {_names(altered)}; make them again: {train}"


def _predictions(workspace: Workspace) -> Iterator[str]:
    for became, word in (("altered", "altered or damaged"), ("begun", "begun and not finished")):
        names = [name for name, found in standings(workspace.predictions_dir).items() if found == became]
        if names:
            yield f"{word}: predictions in {workspace.predictions_dir}: {_names(names)}; autoseg ensemble-predict"


def _reports(workspace: Workspace) -> Iterator[str]:
    for folder in sorted(path.parent for path in workspace.reports_dir.rglob(RECEIPTS_DIR)):
        for name, became in standings(folder).items():
            if became != "altered":
                continue
            again = "autoseg select" if name == SELECTION else f"autoseg report {folder.name}"
            files = [str(folder / path) for path in altered_files(folder, name)]
            yield f"altered or damaged: {_names(files)}; make it again: {again}"


def _names(things: list[str] | list[Path]) -> str:
    more = f" and {len(things) - _MOST_NAMED} more" if len(things) > _MOST_NAMED else ""
    return ", ".join(str(thing) for thing in things[:_MOST_NAMED]) + more
