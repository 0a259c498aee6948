"""Which models predict: those that the user names, or the selection, before any of them is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autoseg.atomic import file_digest
from autoseg.codec import digest, read_json
from autoseg.device import choose_device
from autoseg.errors import ArtifactError, MissingArtifactError, SettingsError
from autoseg.evaluation.trust import TrustModel
from autoseg.inference.ensemble import Ensemble, Member
from autoseg.inference.model import load_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.pipeline.cascade import first_stage
from autoseg.pipeline.choose import current_ensemble
from autoseg.plan import Plan
from autoseg.progress import LoggingProgress, Progress
from autoseg.splits import fold_dir_name, parse_fold
from autoseg.training import num_input_channels
from autoseg.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelChoice:
    """Which models predict, before any of them is loaded.

    Args:
        workspace: Where their checkpoints lie.
        plan: The plan.
        ensemble: Members and postprocessing.
        first_stages: Cascade among the members -> models whose segmentation it starts from.
        options: How they predict.
        region: Models that decide where the others look.
    """

    workspace: Workspace
    plan: Plan
    ensemble: Ensemble
    first_stages: dict[str, Member]
    options: InferenceOptions
    region: Member | None = None

    @property
    def all_members(self) -> tuple[Member, ...]:
        """Members, first stages, and who looks first."""
        return (*self.ensemble.members, *self.first_stages.values(), *filter(None, [self.region]))

    def files_digest(self) -> str:
        """Changes when a checkpoint does, without reading gigabytes."""
        files = []
        for member in self.all_members:
            for fold in member.folds:
                path = self._checkpoint(member, fold)
                state = path.stat() if path.is_file() else None
                files.append([member.configuration, fold, state and state.st_size, state and state.st_mtime_ns])
        return digest(files)

    def checkpoint_digests(self) -> dict[str, str]:
        """Checkpoint, as seen from the workspace -> SHA-256 of the file; those that are missing are left out."""
        paths = [self._checkpoint(member, fold) for member in self.all_members for fold in member.folds]
        return {str(path.relative_to(self.workspace.root)): file_digest(path) for path in paths if path.is_file()}

    def load(self, member: Member, options: InferenceOptions | None = None) -> ConfigurationPredictor:
        """Load the folds of a member, to predict with the choice's options or others.

        Raises:
            ArtifactError: When a checkpoint cannot be read or was trained for other labels or channels.
        """
        models = []
        num_channels = num_input_channels(self.plan, self.plan.configuration(member.configuration))
        for fold in member.folds:
            path = self._checkpoint(member, fold)
            model = load_model(path, self.options.device)
            if model.record.labels != self.plan.labels or model.record.num_channels != num_channels:
                raise ArtifactError(
                    f"{path} was trained with other labels or channels than {self.workspace.plan_path} declares; "
                    "train it again, or put the plan back that it was trained with"
                )
            models.append(model)
        return ConfigurationPredictor(self.plan, models, options or self.options)

    def trust(self) -> TrustModel | None:
        """What the cross-validation says about single predictions of these members; None where it says nothing."""
        path = self.workspace.trust_path
        return read_json(TrustModel, path) if self.ensemble.selection != "given" and path.is_file() else None

    def _checkpoint(self, member: Member, fold: int | Literal["all"]) -> Path:
        run = self.workspace.run(member.configuration, fold)
        return run.final if member.checkpoint == "final" else run.best


def choose_models(
    workspace: Workspace,
    *,
    members: Sequence[str] | None = None,
    checkpoint: Literal["best", "final"] = "final",
    options: InferenceOptions = InferenceOptions(),
    device: str = "auto",
    require_complete: bool = False,
    progress: Progress | None = None,
) -> ModelChoice:
    """Take the members that are named, else the selection.

    Args:
        workspace: Holds plan and results.
        members: "configuration" or "configuration:fold,fold" each.
        checkpoint: Which weights predict.
        options: Window step, mirroring, types.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        require_complete: Refuse when no configuration has all its folds.
        progress: Told what is chosen; None logs.

    Raises:
        MissingArtifactError: When something that is needed is not trained.
        SettingsError: When the members contradict each other.
    """
    plan = workspace.load_plan()
    if members:
        ensemble = _given_ensemble(workspace, plan, members)
    else:
        progress = progress or LoggingProgress()
        ensemble = current_ensemble(workspace, require_complete=require_complete, progress=progress)
    ensemble = replace(ensemble, members=tuple(replace(m, checkpoint=checkpoint) for m in ensemble.members))
    stages = {m.configuration: first_stage(workspace, plan, m) for m in ensemble.members}
    return ModelChoice(
        workspace=workspace,
        plan=plan,
        ensemble=ensemble,
        first_stages={name: stage for name, stage in stages.items() if stage is not None},
        options=replace(options, device=choose_device(device)).for_plan(plan),
        region=_region_member(workspace, plan, options.region, checkpoint),
    )


def _region_member(
    workspace: Workspace, plan: Plan, name: str | None, checkpoint: Literal["best", "final"]
) -> Member | None:
    """The first trained fold of the configuration that looks first."""
    if name is None:
        return None
    stage = plan.configuration(name).previous_stage
    if stage is not None:
        raise SettingsError(f"{name} begins with {stage} itself and cannot tell where to look; try --region {stage}")
    trained = workspace.trained_folds(name)
    if not trained:
        raise MissingArtifactError(
            f"--region {name}: no fold of {name} is trained in {workspace.root}. Train one: autoseg train {name} fold0"
        )
    return Member(configuration=name, folds=trained[:1], checkpoint=checkpoint)


def _given_ensemble(workspace: Workspace, plan: Plan, members: Sequence[str]) -> Ensemble:
    """The members that the user names, all trained folds where no folds are given."""
    found = []
    for text in members:
        name, _, listed = text.partition(":")
        plan.configuration(name)
        trained = workspace.trained_folds(name)
        if listed:
            folds = tuple(parse_fold(word, num_folds=1000) for word in listed.split(","))
        else:
            folds = tuple(f for f in trained if f != "all") or trained
        if not trained or any(fold not in trained for fold in folds):
            raise MissingArtifactError(
                f"{text} is not trained; finished folds of {name}: {', '.join(map(fold_dir_name, trained)) or 'none'}. "
                f"Train: autoseg train {name} {fold_dir_name(folds[0]) if folds else 'fold0'}"
            )
        found.append(Member(configuration=name, folds=folds))
    if len({m.configuration for m in found}) != len(found):
        raise SettingsError("--members names a configuration twice; list its folds behind one colon")
    return Ensemble(members=tuple(found), selection="given", reasons=("named by the user",))
