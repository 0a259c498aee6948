"""The one-file model: everything that predicts, in a zip without pickled code, that anybody can check and unpack."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from autoseg import __version__
from autoseg.atomic import atomic_path
from autoseg.codec import read_json, write_json
from autoseg.errors import ArtifactError, SettingsError
from autoseg.evaluation.report import Evaluation, read_evaluation, summarize, with_spread
from autoseg.evaluation.trust import TrustModel
from autoseg.fingerprint import Fingerprint
from autoseg.inference.ensemble import Ensemble, Member
from autoseg.inference.weights_file import pack_weights, unpack_weights
from autoseg.interop.archive import extract
from autoseg.pipeline.cascade import first_stage
from autoseg.pipeline.choose import current_ensemble
from autoseg.pipeline.model_card import ModelFacts, model_card
from autoseg.plan import Plan
from autoseg.progress import LoggingProgress, Progress
from autoseg.splits import FoldName, fold_dir_name, parse_fold
from autoseg.workspace import Workspace

_MANIFEST, _PLAN, _ENSEMBLE = "manifest.json", "plan.json", "ensemble.json"
_TRUST = "trust.json"
_FINGERPRINT, _SCORES, _CARD, _LICENSE = "fingerprint.json", "scores.json", "MODEL_CARD.md", "LICENSE.txt"
_MODELS = "models"
_RECORD, _WEIGHTS = "record.json", "weights.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """What the manifest says of one file.

    Args:
        sha256: Hexadecimal digest of its content.
        size: Bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """manifest.json of a model file.

    Args:
        kind: Says that this is a model of autoseg.
        name: What the model is called.
        version: Version of autoseg that wrote it.
        created: Time in UTC, ISO 8601.
        license: Under which the weights may be used; "not stated" where the author said nothing.
        files: Path in the archive -> what it must hold. The manifest itself is not listed.
    """

    schema_version: int = 1
    kind: str = "autoseg model"
    name: str
    version: str = __version__
    created: str
    license: str
    files: dict[str, FileEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScores:
    """scores.json of a model file: the cross-validation without names of cases.

    Args:
        metrics: What the selection maximized.
        promised: Score to expect on new cases of the same kind.
        promised_interval: Its 95 % confidence interval.
        candidates: What competed -> its mean Dice.
        members: Configuration -> label -> metric -> mean over its held-out cases.
        intervals: Configuration -> label -> metric -> 95 % confidence interval of the mean.
        num_cases: Held-out cases behind the figures.
    """

    schema_version: int = 1
    metrics: tuple[str, ...]
    promised: float | None
    promised_interval: tuple[float, float] | None
    candidates: dict[str, float | None]
    members: dict[str, dict[str, dict[str, float | None]]]
    intervals: dict[str, dict[str, dict[str, tuple[float, float]]]]
    num_cases: int


def export_model(
    workspace: Workspace | Path | str,
    path: Path,
    *,
    name: str | None = None,
    license_text: str | None = None,
    require_complete: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Write what predicts, with its plan, scores and a model card, to one zip.

    Names of cases stay behind: the fingerprint's are replaced by numbers.

    Args:
        workspace: Holds trained models; or its folder, or its dataset's.
        path: File to write, ending in .zip; atomically.
        name: What to call the model; None takes the dataset's name.
        license_text: Under which the weights may be used: a name such as CC-BY-4.0, or a text.
        require_complete: Refuse when no configuration has all its folds.
        progress: Told what happens; None logs.

    Raises:
        SettingsError: When the file name does not end in .zip.
        MissingArtifactError: When nothing is trained, or a checkpoint is missing.
    """
    if path.suffix != ".zip":
        raise SettingsError(f"{path}: the name of a model file ends in .zip")
    workspace, progress = Workspace.of(workspace), progress or LoggingProgress()
    plan = workspace.load_plan()
    ensemble = current_ensemble(workspace, require_complete=require_complete, progress=progress)
    members = _all_members(workspace, plan, ensemble)
    used = {member.configuration for member in members}
    plan = replace(plan, configurations=tuple(c for c in plan.configurations if c.name in used))
    with tempfile.TemporaryDirectory(prefix="autoseg-") as temporary:
        folder = Path(temporary)
        folds = [(member, fold) for member in members for fold in member.folds]
        for member, fold in progress.track(folds, total=len(folds), description="packing models"):
            source = workspace.run(member.configuration, fold)
            checkpoint = source.final if member.checkpoint == "final" else source.best
            pack_weights(checkpoint, folder / _model_path(member.configuration, fold))
        write_json(plan, folder / _PLAN)
        write_json(replace(ensemble, scores_digest=""), folder / _ENSEMBLE)
        scores = _scores(workspace, ensemble)
        write_json(scores, folder / _SCORES)
        fingerprint = _fingerprint(workspace)
        if fingerprint is not None:
            write_json(fingerprint, folder / _FINGERPRINT)
        if workspace.trust_path.is_file():
            write_json(read_json(TrustModel, workspace.trust_path), folder / _TRUST)
        facts = ModelFacts(
            name=name or plan.dataset,
            license=_license_name(license_text),
            plan=plan,
            ensemble=ensemble,
            fingerprint=fingerprint,
            labels=scores.members,
            intervals=scores.intervals,
            num_cases=scores.num_cases,
        )
        (folder / _CARD).write_text(model_card(facts), encoding="utf-8")
        if license_text is not None:
            (folder / _LICENSE).write_text(license_text + "\n", encoding="utf-8")
        manifest = Manifest(
            name=facts.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            license=facts.license,
            files={str(p.relative_to(folder).as_posix()): _entry(p) for p in _files_below(folder)},
        )
        write_json(manifest, folder / _MANIFEST)
        _zip(folder, path)
    return manifest


def import_model(path: Path, root: Path, *, progress: Progress | None = None) -> Workspace:
    """Make a workspace that predicts from a model file; neither a dataset nor training is needed.

    Names, sizes, links and digests are checked before anything is used, and nothing is executed.

    Args:
        path: What :func:`export_model` wrote.
        root: Folder of the new workspace.
        progress: Told what happens; None logs.

    Raises:
        SettingsError: When there is a workspace already.
        MissingArtifactError: When there is no such file.
        ArtifactError: When the file is damaged, was altered, or is something else.
    """
    progress = progress or LoggingProgress()
    workspace = Workspace(root.resolve())
    if workspace.record_path.is_file() or workspace.plan_path.is_file():
        raise SettingsError(f"{workspace.root} is a workspace already; name a new folder with -w")
    with tempfile.TemporaryDirectory(prefix="autoseg-") as temporary:
        folder = Path(temporary)
        extract(path, folder, is_wanted=lambda _: True)
        manifest = _checked_manifest(folder, path)
        plan = read_json(Plan, folder / _PLAN)
        ensemble = read_json(Ensemble, folder / _ENSEMBLE)
        models = _models_in(manifest, path)
        _check_members(ensemble, plan, models, path)
        for configuration, fold in progress.track(models, total=len(models), description="unpacking models"):
            unpack_weights(
                folder / _model_path(configuration, fold), plan, _checkpoints(workspace, ensemble, configuration, fold)
            )
        workspace.reports_dir.mkdir(parents=True, exist_ok=True)
        for name in (_CARD, _LICENSE, _SCORES):
            if name in manifest.files:
                shutil.copyfile(folder / name, workspace.reports_dir / name)
        if _FINGERPRINT in manifest.files:
            write_json(read_json(Fingerprint, folder / _FINGERPRINT), workspace.fingerprint_path)
        if _TRUST in manifest.files:
            write_json(read_json(TrustModel, folder / _TRUST), workspace.trust_path)
        write_json(ensemble, workspace.ensemble_path)
        write_json(plan, workspace.plan_path)
    # Last: an interrupted import leaves no workspace.
    return Workspace.create(workspace.root, None)


@contextmanager
def opened_model(path: Path) -> Iterator[Workspace]:
    """A passing workspace of a model file, for as long as it takes to load its weights."""
    with tempfile.TemporaryDirectory(prefix="autoseg-") as folder:
        yield import_model(path, Path(folder) / "model")


def _all_members(workspace: Workspace, plan: Plan, ensemble: Ensemble) -> list[Member]:
    """Members, and the first stages that cascades among them start from; each configuration with all folds needed."""
    folds: dict[str, set[FoldName]] = {}
    checkpoints: dict[str, Member] = {}
    for member in ensemble.members:
        stage = first_stage(workspace, plan, member)
        for one in (member, *([] if stage is None else [stage])):
            folds.setdefault(one.configuration, set()).update(one.folds)
            checkpoints.setdefault(one.configuration, one)
    return [replace(checkpoints[name], folds=tuple(sorted(found, key=str))) for name, found in folds.items()]


def _scores(workspace: Workspace, ensemble: Ensemble) -> ModelScores:
    evaluations: dict[str, Evaluation] = {}
    for member in ensemble.members:
        files = [workspace.run(member.configuration, fold).scores for fold in member.folds]
        rows = [row for file in files if file.is_file() for row in read_evaluation(file).cases]
        if rows:
            evaluations[member.configuration] = with_spread(summarize(rows))
    counts = [len({row.case for row in evaluation.cases}) for evaluation in evaluations.values()]
    return ModelScores(
        metrics=ensemble.metrics,
        promised=ensemble.promised,
        promised_interval=ensemble.promised_interval,
        candidates=ensemble.scores,
        members={name: evaluation.labels for name, evaluation in evaluations.items()},
        intervals={name: evaluation.intervals for name, evaluation in evaluations.items()},
        num_cases=max(counts, default=0),
    )


def _fingerprint(workspace: Workspace) -> Fingerprint | None:
    """The fingerprint with numbers instead of the names of cases; None where the workspace has none."""
    if not workspace.fingerprint_path.is_file():
        return None
    found = read_json(Fingerprint, workspace.fingerprint_path)
    cases = tuple(replace(case, id=f"case{number:04d}") for number, case in enumerate(found.cases))
    return replace(found, cases=cases, source="")


def _license_name(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[0].strip() if lines else "not stated"


def _model_path(configuration: str, fold: FoldName) -> Path:
    return Path(_MODELS) / configuration / fold_dir_name(fold)


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)


def _zip(folder: Path, path: Path) -> None:
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _files_below(folder):
            # Weights are noise to a compressor.
            method = zipfile.ZIP_STORED if file.suffix == ".npz" else zipfile.ZIP_DEFLATED
            archive.write(file, file.relative_to(folder).as_posix(), compress_type=method)


def _checked_manifest(folder: Path, path: Path) -> Manifest:
    """The manifest, if every file is there as it says and no other is."""
    if not (folder / _MANIFEST).is_file():
        raise ArtifactError(
            f"{path} is no complete model of autoseg: it has no {_MANIFEST}; a zip of nnU-Net is imported with "
            "autoseg interop import-nnunet"
        )
    manifest = read_json(Manifest, folder / _MANIFEST)
    if manifest.kind != "autoseg model":
        raise ArtifactError(f"{path} is {manifest.kind!r}, not a model of autoseg")
    found = {str(p.relative_to(folder).as_posix()) for p in _files_below(folder)} - {_MANIFEST}
    for name in sorted(set(manifest.files) - found):
        raise ArtifactError(f"{path} lacks {name}, which its manifest lists")
    for name in sorted(found - set(manifest.files)):
        raise ArtifactError(f"{path} holds {name}, which its manifest does not list")
    for name, entry in manifest.files.items():
        if _entry(folder / name) != entry:
            raise ArtifactError(f"{path}: {name} is not what the manifest says; the file was damaged or altered")
    for name in (_PLAN, _ENSEMBLE):
        if name not in manifest.files:
            raise ArtifactError(f"{path} lacks {name}")
    return manifest


def _models_in(manifest: Manifest, path: Path) -> list[tuple[str, FoldName]]:
    models = []
    for name in manifest.files:
        parts = Path(name).parts
        if parts[0] != _MODELS:
            continue
        if len(parts) != 4 or parts[3] not in (_RECORD, _WEIGHTS):
            raise ArtifactError(f"{path} holds {name}, which is no part of a model")
        if parts[3] == _WEIGHTS:
            models.append((parts[1], parse_fold(parts[2], num_folds=1000)))
    return models


def _check_members(ensemble: Ensemble, plan: Plan, models: Sequence[tuple[str, FoldName]], path: Path) -> None:
    known = {configuration.name for configuration in plan.configurations}
    for member in ensemble.members:
        missing = [fold for fold in member.folds if (member.configuration, fold) not in models]
        if missing or member.configuration not in known:
            raise ArtifactError(f"{path} says that {member.describe()} predicts, but does not hold all of it")
    for configuration, _ in models:
        if configuration not in known:
            raise ArtifactError(f"{path} holds a model of {configuration}, of which its plan says nothing")


def _checkpoints(workspace: Workspace, ensemble: Ensemble, configuration: str, fold: FoldName) -> Path:
    """Where a checkpoint goes: final, unless the ensemble asks for the best one."""
    kinds = {member.checkpoint for member in ensemble.members if member.configuration == configuration}
    run = workspace.run(configuration, fold)
    return run.best if kinds == {"best"} else run.final
