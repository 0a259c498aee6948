"""The chosen models, loaded once, predicting images in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from autoseg.codec import digest, read_json
from autoseg.device import choose_device
from autoseg.errors import ArtifactError, DatasetError, MissingArtifactError, SettingsError
from autoseg.evaluation.trust import CaseQuality, ExpectedOverlap, TrustModel, judge, label_facts
from autoseg.geometry import Geometry, directions_of
from autoseg.image import Image, Segmentation
from autoseg.inference.ensemble import Ensemble, Member, combine
from autoseg.inference.export import Prediction, decide_labels
from autoseg.inference.memory import WorkingMemory, bytes_of, working_memory
from autoseg.inference.model import load_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.inference.refinement import calibrated, refined, total_variation, watched
from autoseg.pipeline.cascade import first_stage
from autoseg.pipeline.choose import current_ensemble
from autoseg.pipeline.model_file import opened_model
from autoseg.plan import Plan
from autoseg.postprocessing.steps import apply_postprocessing
from autoseg.preprocessing.case import CaseTrace
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
    """

    workspace: Workspace
    plan: Plan
    ensemble: Ensemble
    first_stages: dict[str, Member]
    options: InferenceOptions

    def files_digest(self) -> str:
        """Changes when a checkpoint does, without reading gigabytes."""
        files = []
        for member in (*self.ensemble.members, *self.first_stages.values()):
            for fold in member.folds:
                path = self._checkpoint(member, fold)
                state = path.stat() if path.is_file() else None
                files.append([member.configuration, fold, state and state.st_size, state and state.st_mtime_ns])
        return digest(files)

    def load(self, member: Member) -> ConfigurationPredictor:
        """Load the folds of a member.

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
        return ConfigurationPredictor(self.plan, models, self.options)

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
    )


class Predictor:
    """Predicts images with the chosen models; load it once, predict many.

    Args:
        choice: Which models.

    Raises:
        ArtifactError: When a checkpoint cannot be read.
    """

    def __init__(self, choice: ModelChoice) -> None:
        self.plan = choice.plan
        self.ensemble = choice.ensemble
        self.trust = choice.trust()
        self.options = choice.options
        loaded: dict[tuple[object, ...], ConfigurationPredictor] = {}

        def load(member: Member) -> ConfigurationPredictor:
            key = member.configuration, member.folds, member.checkpoint
            if key not in loaded:  # a first stage may be a member too
                loaded[key] = choice.load(member)
            return loaded[key]

        first = {name: load(stage) for name, stage in choice.first_stages.items()}
        self._members = [
            _StagedPredictor(
                predictor=load(m), first=first.get(m.configuration), temperature=m.temperature, weight=m.weight
            )
            for m in self.ensemble.members
        ]

    @classmethod
    def load(
        cls,
        workspace: Workspace | Path | str,
        *,
        members: Sequence[str] | None = None,
        checkpoint: Literal["best", "final"] = "final",
        options: InferenceOptions = InferenceOptions(),
        device: str = "auto",
    ) -> Self:
        """Load the best of what is trained in a workspace, or the named members; see :func:`choose_models`.

        Args:
            workspace: A workspace, its folder, its dataset's, or a model file (``.zip``), which is checked first.
            members: "configuration" or "configuration:fold,fold" each.
            checkpoint: Which weights predict.
            options: Window step, mirroring, types.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        """
        place = nullcontext(workspace) if isinstance(workspace, Workspace) else _opened(Path(workspace))
        with place as found:  # weights are in memory before a model file's passing workspace goes
            chosen = choose_models(
                Workspace.of(found), members=members, checkpoint=checkpoint, options=options, device=device
            )
            return cls(chosen)

    def predict(
        self, image: Image | np.ndarray, spacing: Sequence[float] | None = None, *, case_id: str = "image"
    ) -> Prediction:
        """Probabilities of one image, on its own grid.

        Args:
            image: An image as read, or intensities (c, z, y, x), (z, y, x) with one channel, or the same without z
                for 2D plans; axes of an array are taken to lie as those of the training images.
            spacing: Millimetres per voxel of an array, (z, y, x); required with an array.
            case_id: Name for errors.

        Raises:
            DatasetError: When channels or axes are not those of the plan.
            SettingsError: When the spacing of an array is missing.
        """
        if isinstance(image, np.ndarray):
            image = self._as_image(image, spacing)
        members = self._members
        return combine(self._member_predictions(members, image, case_id), [member.weight for member in members])

    def segment(
        self,
        image: Image | np.ndarray,
        spacing: Sequence[float] | None = None,
        *,
        case_id: str = "image",
        probabilities_path: Path | None = None,
    ) -> Segmentation:
        """Label values of one image after postprocessing; arguments as for :meth:`predict`.

        See :meth:`judge` for what can be said about them.

        Args:
            image: As for :meth:`predict`.
            spacing: As for :meth:`predict`.
            case_id: Name for errors.
            probabilities_path: Also store the probabilities there.
        """
        return self.judge(image, spacing, case_id=case_id, probabilities_path=probabilities_path)[0]

    def judge(
        self,
        image: Image | np.ndarray,
        spacing: Sequence[float] | None = None,
        *,
        case_id: str = "image",
        probabilities_path: Path | None = None,
    ) -> tuple[Segmentation, CaseQuality]:
        """Label values after postprocessing, and what can be said about them without a reference.

        Args:
            image: As for :meth:`predict`.
            spacing: As for :meth:`predict`.
            case_id: Name for errors.
            probabilities_path: Also store the probabilities there.
        """
        started = time.perf_counter()
        if isinstance(image, np.ndarray):
            image = self._as_image(image, spacing)
        prediction = self.predict(image, case_id=case_id)  # nothing is computed before its slabs are read
        overlap = ExpectedOverlap(labels=self.plan.labels)
        prediction = watched(prediction, overlap.add)
        prediction = refined(prediction, self.ensemble.postprocessing, self.plan.labels, image)
        decided = decide_labels(prediction, self.plan.labels, probabilities_path=probabilities_path)
        segmentation = apply_postprocessing(self.ensemble.postprocessing, decided)
        facts = label_facts(segmentation.array, segmentation.geometry.spacing, self.plan.labels.targets)
        seconds = time.perf_counter() - started
        return segmentation, judge(case_id, facts, overlap.dice, self.trust, seconds=seconds)

    def disagreement(self, image: Image, *, case_id: str = "image") -> np.ndarray:
        """How much the folds of all members differ in each voxel, between 0 and 1; every network runs once more.

        The mean over folds of the total variation distance between a fold's probabilities and their mean: the share of
        belief that a fold puts elsewhere than the others together. Lakshminarayanan et al. (NIPS 2017) use ensembles'
        disagreement in the same way.

        Args:
            image: An image as read.
            case_id: Name for errors.

        Returns:
            float32 on the image's grid.
        """
        folds = [single for member in self._members for single in member.folds()]
        weights = [single.weight for single in folds]
        result = np.zeros(image.geometry.shape, dtype=np.float32)
        predictions = self._member_predictions(folds, image, case_id)
        for slabs in zip(*(prediction.slabs for prediction in predictions), strict=True):
            parts = [slab for _, slab in slabs]
            result[predictions[0].index(slabs[0][0])] = total_variation(parts, weights, self.plan.labels)
        return result

    def _member_predictions(self, members: Sequence[_StagedPredictor], image: Image, case_id: str) -> list[Prediction]:
        """One prediction per member, each a stream of slabs."""
        memory = self._memory(image, case_id)
        kept: dict[ConfigurationPredictor, _KeptLogits] = {}
        coarse = {m.first for m in members if m.first is not None}
        predictions = []
        for member in members:
            previous = None
            if member.first is not None:
                first = self._prediction(member.first, image, None, case_id, memory, kept, coarse)
                previous = decide_labels(first, member.predictor.labels)
            found = self._prediction(member.predictor, image, previous, case_id, memory, kept, coarse)
            predictions.append(calibrated(found, member.temperature, self.plan.labels))
        return predictions

    def _prediction(
        self,
        predictor: ConfigurationPredictor,
        image: Image,
        previous: Segmentation | None,
        case_id: str,
        memory: WorkingMemory,
        kept: dict[ConfigurationPredictor, _KeptLogits],
        coarse: set[ConfigurationPredictor],
    ) -> Prediction:
        """A stream of slabs; that of a first stage which is also a member is computed once."""
        if predictor not in kept:
            prepared = predictor.prepare(image, case_id=case_id, previous=previous)
            slabs = predictor.logit_slabs(prepared.channels, memory)
            if predictor not in coarse:
                return predictor.finish(slabs, prepared.trace, case_id)
            kept[predictor] = _KeptLogits(logits=np.concatenate(list(slabs), axis=1), trace=prepared.trace)
        known = kept[predictor]
        return predictor.finish(iter([known.logits]), known.trace, case_id)

    def _memory(self, image: Image, case_id: str) -> WorkingMemory:
        predictors = {p for m in self._members for p in (m.predictor, m.first) if p is not None}
        return working_memory(
            [predictor.forecast(image) for predictor in predictors],
            bytes_of(image),
            max_memory_gb=self.options.max_memory_gb,
            scratch=self.options.scratch,
            case_id=case_id,
        )

    def _as_image(self, array: np.ndarray, spacing: Sequence[float] | None) -> Image:
        ndim = len(self.plan.transpose)
        if spacing is None:
            raise SettingsError("an array has no spacing of its own; give it as spacing=(z, y, x) in mm")
        channels = array[None] if array.ndim == ndim else array
        if channels.ndim != ndim + 1 or len(spacing) != ndim:
            raise DatasetError(
                f"an array of shape {array.shape} with spacing {tuple(spacing)} is no image with {ndim} spatial axes"
            )
        geometry = Geometry(
            shape=channels.shape[1:],
            spacing=tuple(float(s) for s in spacing),
            directions=directions_of(self.plan.orientation) if self.plan.orientation else (),
        )
        return Image(array=channels.astype(np.float32, copy=False), geometry=geometry)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _StagedPredictor:
    """A member, and in a cascade the models of its first stage."""

    predictor: ConfigurationPredictor
    first: ConfigurationPredictor | None
    temperature: float
    weight: float

    def folds(self) -> list[_StagedPredictor]:
        """Each of its models alone, sharing the weights."""
        whole = self.predictor
        share = self.weight / len(whole.models)
        alone = (ConfigurationPredictor(whole.plan, [model], whole.options) for model in whole.models)
        return [replace(self, predictor=predictor, weight=share) for predictor in alone]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _KeptLogits:
    """Logits (k, ...) of a first stage, whose grid is coarse, and what was done to the image."""

    logits: np.ndarray
    trace: CaseTrace


def _opened(path: Path) -> AbstractContextManager[Workspace | Path]:
    """A model file as a passing workspace; a folder as it is."""
    return opened_model(path) if path.suffix == ".zip" else nullcontext(path)


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
