"""A workspace that predicts, made from models that nnU-Net trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.codec import digest, write_json
from autoseg.errors import ArtifactError, SettingsError
from autoseg.inference.ensemble import Ensemble, Member
from autoseg.inference.model import ModelRecord, build_model, write_checkpoint
from autoseg.interop.nnunet_checkpoint import NnUNetCheckpoint, read_nnunet_checkpoint
from autoseg.interop.nnunet_models import ChosenModels, ModelFolder, open_models, read_choice, read_postprocessing
from autoseg.interop.nnunet_reading import read_plans
from autoseg.plan import Configuration, Plan
from autoseg.postprocessing.steps import PostprocessingStep
from autoseg.progress import LoggingProgress, Progress
from autoseg.splits import FoldName, fold_dir_name
from autoseg.training import num_input_channels
from autoseg.workspace import Workspace

_ITERATIONS_PER_EPOCH = 250  # of nnU-Net's trainers
_KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"
_SUBSTITUTES = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """A model folder and what it is called here."""

    model: ModelFolder
    trainer: str
    plan: Plan  # of this configuration alone, under nnU-Net's name

    @property
    def planned(self) -> Configuration:
        return self.plan.configurations[0]

    @property
    def group(self) -> tuple[str, str]:
        """Models of one group have configurations with different names."""
        return self.trainer, str(self.model.plans["plans_name"])


def import_models(source: Path, root: Path, *, progress: Progress | None = None) -> Workspace:
    """Make a workspace from a model folder of nnU-Net v2, a dataset's results, or a zip that nnU-Net exported.

    Args:
        source: The folder or zip. Nothing in it is executed.
        root: Folder of the new workspace.
        progress: Told what is taken and what is left out; None logs.

    Raises:
        SettingsError: When there is a workspace already.
        MissingArtifactError: When the source holds no model.
        ArtifactError: When a file is damaged or cannot be trusted.
        PlanError: When a model is of a kind that autoseg does not have.
    """
    progress = progress or LoggingProgress()
    workspace = Workspace(root.resolve())
    if workspace.record_path.is_file() or workspace.plan_path.is_file():
        raise SettingsError(f"{workspace.root} is a workspace already; name a new folder with -w")
    with open_models(source) as models:
        named = _name(_without_first_stages_missing([_identify(model) for model in models], progress))
        plan = _merge(named)
        for name, found in named.items():
            for fold, folder in progress.track(
                found.model.folds.items(), total=len(found.model.folds), description=f"importing {name}"
            ):
                _import_fold(workspace, plan, name, fold, folder, progress)
        ensemble = _ensemble(named, progress)
    write_json(plan, workspace.plan_path)
    write_json(ensemble, workspace.ensemble_path)
    for reason in ensemble.reasons:
        progress.message(reason)
    # Last: an interrupted import leaves no workspace.
    return Workspace.create(workspace.root, None)


def _identify(model: ModelFolder) -> _Found:
    """nnU-Net, too, asks the first checkpoint for the configuration, and plans.json for everything about it."""
    first = _read_checkpoint(next(iter(model.folds.values())))
    name = first.configuration
    if not re.fullmatch(r"\w[\w.-]*", name):  # becomes the name of a folder
        raise ArtifactError(f"{model.root}: the checkpoint is of a configuration with the impossible name {name!r}")
    plan = read_plans(model.plans, model.dataset, configurations=[name])
    return _Found(model=model, trainer=first.trainer, plan=plan)


def _without_first_stages_missing(found: Sequence[_Found], progress: Progress) -> list[_Found]:
    """Leave out cascades that cannot predict, because the models they start from were not exported."""
    kept = []
    for one in found:
        stage = one.planned.previous_stage
        if stage is None or any(other.group == one.group and other.planned.name == stage for other in found):
            kept.append(one)
        else:
            progress.message(f"{one.planned.name} is left out: it predicts from {stage}, of which there is no model")
    if not kept:
        raise ArtifactError(
            f"{found[0].planned.name} predicts from {found[0].planned.previous_stage}, of which there is no model; "
            "import a folder or zip that holds both"
        )
    return kept


def _name(found: Sequence[_Found]) -> dict[str, _Found]:
    """Names in the workspace: nnU-Net's, and for other plans or trainers than the first "@" with what differs."""
    groups = list(dict.fromkeys(one.group for one in found))
    usual = ("nnUNetTrainer", "nnUNetPlans")
    first = usual if usual in groups else groups[0]
    named: dict[str, _Found] = {}
    for one in found:
        parts = [part for part, reference in zip(one.group, first, strict=True) if part != reference]
        suffix = f"@{re.sub(r'[^A-Za-z0-9_.-]', '_', '__'.join(parts))}" if parts else ""
        name = f"{one.planned.name}{suffix}"
        if name in named:
            raise ArtifactError(f"{one.model.root} and {named[name].model.root} are both models of {name}; import one")
        stage = one.planned.previous_stage
        renamed = replace(
            one.planned, name=name, data=name, previous_stage=None if stage is None else f"{stage}{suffix}"
        )
        named[name] = replace(one, plan=replace(one.plan, configurations=(renamed,)))
    return named


def _merge(named: dict[str, _Found]) -> Plan:
    """One plan with all configurations."""
    plans = [one.plan for one in named.values()]
    first = plans[0]
    for other in plans[1:]:
        for field in ("channels", "labels", "file_ending", "orientation", "transpose"):
            if getattr(other, field) != getattr(first, field):
                raise ArtifactError(
                    f"{first.configurations[0].name} and {other.configurations[0].name} differ in {field}; "
                    "import them into workspaces of their own"
                )
    return replace(
        first,
        configurations=tuple(plan.configurations[0] for plan in plans),
        notes=tuple(dict.fromkeys(note for plan in plans for note in plan.notes)),
    )


def _import_fold(workspace: Workspace, plan: Plan, name: str, fold: FoldName, folder: Path, progress: Progress) -> None:
    configuration = plan.configuration(name)
    run = workspace.run(name, fold)
    final = _path_of_final(folder)
    if final.name != _SUBSTITUTES[0]:
        progress.message(f"{name} {fold_dir_name(fold)} has no {_SUBSTITUTES[0]}; {final.name} takes its place")
    best = folder / "checkpoint_best.pth"
    for source, target in ((final, run.final), *([(best, run.best)] if best.is_file() else [])):
        checkpoint = read_nnunet_checkpoint(source)
        record = ModelRecord(
            configuration=configuration,
            labels=plan.labels,
            num_channels=num_input_channels(plan, configuration),
            mirror_axes=_mirror_axes(checkpoint, configuration, source),
            iterations=checkpoint.epochs * _ITERATIONS_PER_EPOCH,
            plan_digest=digest(plan),
            precision="float16",
        )
        try:
            build_model(record, checkpoint.weights)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ArtifactError(
                f"{source}: the weights of {checkpoint.trainer} do not fit the network in plans.json: {reason}"
            ) from None
        write_checkpoint(target, record=record, weights=checkpoint.weights)


def _mirror_axes(checkpoint: NnUNetCheckpoint, configuration: Configuration, source: Path) -> tuple[int, ...]:
    axes = checkpoint.mirror_axes
    if len(set(axes)) != len(axes) or any(not 0 <= axis < configuration.ndim for axis in axes):
        raise ArtifactError(f"{source} mirrors along axes {axes}, its patches have {configuration.ndim}")
    return axes


def _read_checkpoint(folder: Path) -> NnUNetCheckpoint:
    return read_nnunet_checkpoint(_path_of_final(folder))


def _path_of_final(folder: Path) -> Path:
    """The checkpoint that stands for the end of training."""
    return next((path for name in _SUBSTITUTES if (path := folder / name).is_file()), folder / _SUBSTITUTES[0])


def _ensemble(named: dict[str, _Found], progress: Progress) -> Ensemble:
    """nnU-Net's choice where it is recorded and its models are there, else everything that was found."""
    by_folder = {found.model.root.name: name for name, found in named.items()}
    models = [found.model for found in named.values()]
    choice = read_choice(models)
    if choice is not None and not set(choice.names) <= set(by_folder):
        progress.message(f"nnU-Net's choice, {' + '.join(choice.names)}, is not among the models")
        choice = None
    if choice is not None:
        members = tuple(_member(by_folder[name], named, choice.folds) for name in choice.names)
        reason = "nnU-Net's cross-validation chose these members"
    else:
        first_stages = {found.planned.previous_stage for found in named.values()}  # they work for their cascades
        members = tuple(_member(name, named, ()) for name in named if name not in first_stages)
        reason = "all models that were found predict together; ensemble-predict --members chooses among them"
        if len(models) == 1:
            reason = "the only model that was found"
            choice = ChosenModels(names=(models[0].root.name,), folds=members[0].folds)
    return Ensemble(
        members=members,
        postprocessing=() if choice is None else _postprocessing(choice, models, progress),
        selection="given",
        reasons=(f"{' + '.join(member.describe() for member in members)}: {reason}",),
    )


def _member(name: str, named: dict[str, _Found], folds: Sequence[FoldName]) -> Member:
    there = tuple(named[name].model.folds)
    wanted = tuple(fold for fold in folds if fold in there)
    return Member(configuration=name, folds=wanted or tuple(f for f in there if f != "all") or there)


def _postprocessing(
    choice: ChosenModels, models: Sequence[ModelFolder], progress: Progress
) -> tuple[PostprocessingStep, ...]:
    operations = read_postprocessing(choice, models)
    if unknown := sorted({function for function, _ in operations} - {_KEEP_LARGEST}):
        progress.message(f"nnU-Net's postprocessing is left out: autoseg does not have {', '.join(unknown)}")
        return ()
    return tuple(PostprocessingStep(name="keep_largest", values=values) for _, values in operations)
