"""Work on folders of predictions that are there: averaging their probabilities, postprocessing their segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import AutosegError, CasesFailedError, MissingArtifactError, SettingsError
from autoseg.image import read_header, read_segmentation, write_segmentation
from autoseg.inference.ensemble import combine
from autoseg.inference.export import PROBABILITIES_ENDING, decide_labels, stored_prediction
from autoseg.plan import Plan
from autoseg.postprocessing.steps import PostprocessingStep, apply_postprocessing
from autoseg.progress import LoggingProgress, Progress

_ENDINGS = (PROBABILITIES_ENDING, ".npz")


def ensemble_folders(
    folders: Sequence[Path],
    output: Path,
    plan: Plan,
    *,
    weights: Sequence[float] | None = None,
    save_probabilities: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Average the probabilities of several prediction folders, slab by slab, and decide labels.

    Args:
        folders: Each holds CASE.probabilities.b2nd (autoseg) or CASE.npz (nnU-Net), and CASE<file_ending> beside it.
        output: Folder to write segmentations to.
        plan: Names labels and the file ending.
        weights: One positive number per folder; None weighs all alike.
        save_probabilities: Also write the averaged probabilities.
        overwrite: Replace what is there.
        progress: Told what happens; None logs.

    Returns:
        Ids of the cases.

    Raises:
        MissingArtifactError: When a folder lacks probabilities of a case that another one has.
        SettingsError: When weights do not fit, or files are in the way.
        CasesFailedError: When some cases failed; the others are written.
    """
    progress = progress or LoggingProgress()
    shares = [1.0] * len(folders) if weights is None else list(weights)
    if len(shares) != len(folders) or not all(share > 0 for share in shares):
        raise SettingsError(f"{len(folders)} folders need as many positive weights, got {list(shares)}")
    found = [_probabilities_in(folder) for folder in folders]
    cases = sorted(set().union(*found))
    for folder, files in zip(folders, found, strict=True):
        if missing := [case for case in cases if case not in files]:
            raise MissingArtifactError(
                f"{folder} has no probabilities of {', '.join(missing[:5])}; predict with --save-probabilities"
            )
    _check_free(output, cases, plan, overwrite=overwrite)
    failures = dict[str, str]()
    for case in progress.track(cases, total=len(cases), description="averaging"):
        try:
            grid = read_header(folders[0] / f"{case}{plan.file_ending}").geometry
            parts = [stored_prediction(case, files[case], grid) for files in found]
            path = output / f"{case}{PROBABILITIES_ENDING}" if save_probabilities else None
            segmentation = decide_labels(combine(parts, shares), plan.labels, probabilities_path=path)
            write_segmentation(output / f"{case}{plan.file_ending}", segmentation)
        except AutosegError as error:
            failures[case] = str(error)
    if failures:
        raise CasesFailedError(failures)
    return tuple(cases)


def postprocess_folder(
    folder: Path,
    output: Path,
    plan: Plan,
    steps: Sequence[PostprocessingStep],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Apply postprocessing to every segmentation of a folder.

    Args:
        folder: Segmentations with the plan's file ending.
        output: Folder to write to; may not be the same one.
        plan: Names the file ending.
        steps: Operations, in order.
        overwrite: Replace what is there.
        progress: Told what happens; None logs.

    Returns:
        Ids of the cases.

    Raises:
        MissingArtifactError: When the folder holds no segmentation.
        SettingsError: When files are in the way.
        CasesFailedError: When some cases failed; the others are written.
    """
    progress = progress or LoggingProgress()
    if output.resolve() == folder.resolve():
        raise SettingsError(f"{folder} is both source and target; postprocessing keeps what it was given, name another")
    paths = sorted(folder.glob(f"*{plan.file_ending}")) if folder.is_dir() else []
    if not paths:
        raise MissingArtifactError(f"{folder} holds no segmentation ending in {plan.file_ending}")
    cases = [path.name.removesuffix(plan.file_ending) for path in paths]
    _check_free(output, cases, plan, overwrite=overwrite)
    failures = dict[str, str]()
    for path, case in progress.track(zip(paths, cases, strict=True), total=len(cases), description="postprocessing"):
        try:
            write_segmentation(output / path.name, apply_postprocessing(steps, read_segmentation(path)))
        except AutosegError as error:
            failures[case] = str(error)
    if failures:
        raise CasesFailedError(failures)
    return tuple(cases)


def _probabilities_in(folder: Path) -> dict[str, Path]:
    """Case id -> file with its probabilities."""
    if not folder.is_dir():
        raise MissingArtifactError(f"{folder} is not a folder")
    files = dict[str, Path]()
    for ending in reversed(_ENDINGS):
        files |= {path.name.removesuffix(ending): path for path in folder.glob(f"*{ending}")}
    if not files:
        raise MissingArtifactError(f"{folder} holds no probabilities; predict with --save-probabilities")
    return files


def _check_free(output: Path, cases: Sequence[str], plan: Plan, *, overwrite: bool) -> None:
    taken = [case for case in cases if (output / f"{case}{plan.file_ending}").exists()]
    if taken and not overwrite:
        raise SettingsError(
            f"{output / taken[0]}{plan.file_ending} exists; name another folder with -o, or --overwrite"
        )
