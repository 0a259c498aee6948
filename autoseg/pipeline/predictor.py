"""The chosen models, loaded once, predicting images in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from autoseg.arrays import Room, let_go, own_bytes
from autoseg.errors import AutosegError, DatasetError, SettingsError
from autoseg.evaluation.trust import CaseQuality, ExpectedOverlap, judge, label_facts
from autoseg.geometry import Geometry, directions_of
from autoseg.image import Image, Segmentation, bytes_when_read, read_header
from autoseg.inference.ensemble import Member, combine
from autoseg.inference.export import Prediction, decide_labels
from autoseg.inference.memory import CasesForecast, working_memory
from autoseg.inference.predictor import FAST, ConfigurationPredictor, InferenceOptions, PreparedImage
from autoseg.inference.refinement import calibrated, refined, total_variation, watched
from autoseg.inference.region import foreground_region
from autoseg.inference.sums import WorkingMemory
from autoseg.pipeline.model_choice import ModelChoice, choose_models
from autoseg.pipeline.model_file import opened_model
from autoseg.postprocessing.steps import apply_postprocessing, is_pointwise, works_on_probabilities
from autoseg.preprocessing.case import CaseTrace
from autoseg.workspace import Workspace

_COPIES_REFINED = (
    3  # of all probabilities, where postprocessing needs them at once: as they were, changed, and on the way
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

        quick = replace(self.options, step=FAST.step, augmentation=FAST.augmentation)
        self._region = None if choice.region is None else choice.load(choice.region, quick)
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

    def prepare(
        self, image: Image | np.ndarray, spacing: Sequence[float] | None = None, *, case_id: str = "image"
    ) -> PreparedCase:
        """Everything that comes before the networks; may run in another thread while they predict another image.

        Args:
            image: An image as read, or intensities (c, z, y, x), (z, y, x) with one channel, or the same without z
                for 2D plans; axes of an array are taken to lie as those of the training images.
            spacing: Millimetres per voxel of an array, (z, y, x); required with an array.
            case_id: Name for errors.

        Raises:
            DatasetError: When channels or axes are not those of the plan.
            SettingsError: When the spacing of an array is missing, or memory is short.
        """
        if isinstance(image, np.ndarray):
            image = self._as_image(image, spacing)
        memory = self._memory(image, case_id)
        first = {m.first or m.predictor for m in self._members} | ({self._region} if self._region else set())
        known = {predictor: predictor.prepare(image, case_id=case_id, room=memory.room) for predictor in first}
        return PreparedCase(case_id=case_id, image=image, memory=memory, known=known)

    def predict(
        self,
        image: Image | np.ndarray | PreparedCase,
        spacing: Sequence[float] | None = None,
        *,
        case_id: str = "image",
    ) -> Prediction:
        """Probabilities of one image, on its own grid; the networks run while its slabs are read.

        Args:
            image: As for :meth:`prepare`, or what it returned.
            spacing: Of an array.
            case_id: Name for errors.

        Raises:
            DatasetError: When channels or axes are not those of the plan.
            SettingsError: When the spacing of an array is missing, or memory is short.
        """
        case = image if isinstance(image, PreparedCase) else self.prepare(image, spacing, case_id=case_id)
        members = self._members
        return combine(self._member_predictions(members, case), [member.weight for member in members])

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
        case = self.prepare(image, spacing, case_id=case_id)
        decided, overlap = self.decide(case, probabilities_path=probabilities_path)
        return self.finish(case_id, decided, overlap, seconds=time.perf_counter() - started)

    def decide(
        self, case: PreparedCase, *, probabilities_path: Path | None = None
    ) -> tuple[Segmentation, ExpectedOverlap]:
        """Run the networks and decide labels; what the probabilities promise is gathered as they pass."""
        overlap = ExpectedOverlap(labels=self.plan.labels)
        prediction = watched(self.predict(case), overlap.add)  # nothing is computed before its slabs are read
        prediction = refined(prediction, self.ensemble.postprocessing, self.plan.labels, case.image)
        return decide_labels(prediction, self.plan.labels, probabilities_path=probabilities_path), overlap

    def finish(
        self, case_id: str, decided: Segmentation, overlap: ExpectedOverlap, *, seconds: float
    ) -> tuple[Segmentation, CaseQuality]:
        """Postprocess the segmentation and judge it; needs no network, so it may run behind."""
        segmentation = apply_postprocessing(self.ensemble.postprocessing, decided)
        facts = label_facts(segmentation.array, segmentation.geometry.spacing, self.plan.labels.targets)
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
        predictions = self._member_predictions(folds, self.prepare(image, case_id=case_id))
        for slabs in zip(*(prediction.slabs for prediction in predictions), strict=True):
            parts = [slab for _, slab in slabs]
            result[predictions[0].index(slabs[0][0])] = total_variation(parts, weights, self.plan.labels)
        return result

    def _member_predictions(self, members: Sequence[_StagedPredictor], case: PreparedCase) -> list[Prediction]:
        """One prediction per member, each a stream of slabs."""
        kept: dict[ConfigurationPredictor, _KeptLogits] = {}
        coarse = {m.first for m in members if m.first is not None}
        region = self._find_region(case)
        predictions = []
        for member in members:
            previous = None
            if member.first is not None:
                first = self._prediction(member.first, case, None, kept, coarse)
                previous = decide_labels(first, member.predictor.labels)
            found = self._prediction(member.predictor, case, previous, kept, coarse, region)
            predictions.append(calibrated(found, member.temperature, self.plan.labels))
        return predictions

    def _prediction(
        self,
        predictor: ConfigurationPredictor,
        case: PreparedCase,
        previous: Segmentation | None,
        kept: dict[ConfigurationPredictor, _KeptLogits],
        coarse: set[ConfigurationPredictor],
        region: np.ndarray | None = None,
    ) -> Prediction:
        """A stream of slabs; that of a first stage which is also a member is computed once, and everywhere."""
        if predictor not in kept:
            prepared = case.known.get(predictor)
            if prepared is None:
                prepared = predictor.prepare(case.image, case_id=case.case_id, previous=previous, room=case.memory.room)
            whole = predictor in coarse
            slabs = predictor.logit_slabs(prepared.channels, case.memory, region=None if whole else region)
            if not whole:
                return predictor.finish(slabs, prepared.trace, case.case_id)
            shape = prepared.trace.resampled_shape
            kept[predictor] = _KeptLogits(logits=_gathered(slabs, shape, case.memory.room), trace=prepared.trace)
        known = kept[predictor]
        return predictor.finish(iter([known.logits]), known.trace, case.case_id)

    def _find_region(self, case: PreparedCase) -> np.ndarray | None:
        """Where the quick look of another configuration finds foreground; None where everything is to be looked at."""
        if self._region is None:
            return None
        prepared = case.known[self._region]
        return foreground_region(
            self._region.logit_slabs(prepared.channels, case.memory),
            self.plan.labels,
            spacing=prepared.trace.resampled_spacing,
            margin_mm=self.options.region_margin_mm,
        )

    def forecast_cases(self, images: Sequence[Path]) -> CasesForecast | None:
        """What the largest of some images will need, from their headers; unreadable ones are left out.

        Raises:
            SettingsError: When a limit on memory or the disk rules it out.
        """
        largest: CasesForecast | None = None
        for path in images:
            if path.is_dir():  # a series of slices: all of them would have to be opened
                continue
            try:
                header = read_header(path)
            except AutosegError:
                continue
            grid = header.geometry
            if grid.ndim != len(self.plan.transpose):
                continue
            needs = [p.forecast_grid(grid.shape, grid.spacing) for p in self._all_predictors()]
            found = CasesForecast(
                name=path.name,
                shape=grid.shape,
                image_bytes=bytes_when_read(path, header) * len(self.plan.channels) + self._beside(grid.shape),
                needs=tuple(needs),
                max_memory_gb=self.options.max_memory_gb,
                scratch=self.options.scratch,
            )
            if largest is None or found.total > largest.total:
                largest = found
        if largest is not None:
            largest.check()
        return largest

    def _all_predictors(self) -> list[ConfigurationPredictor]:
        every = [self._region, *(p for m in self._members for p in (m.first, m.predictor))]
        return list({p: None for p in every if p is not None})

    def _memory(self, image: Image, case_id: str) -> WorkingMemory:
        return working_memory(
            [predictor.forecast(image) for predictor in self._all_predictors()],
            own_bytes(image.array) + self._beside(image.geometry.shape),
            max_memory_gb=self.options.max_memory_gb,
            scratch=self.options.scratch,
            case_id=case_id,
        )

    def _beside(self, shape: Sequence[int]) -> int:
        """Bytes of the segmentation, and of all probabilities where postprocessing needs them at once."""
        steps = self.ensemble.postprocessing
        at_once = works_on_probabilities(steps) and not is_pointwise(steps)
        gathered = 4 * _COPIES_REFINED * self.plan.labels.num_outputs if at_once else 0
        return (2 + gathered) * math.prod(shape)

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
class PreparedCase:
    """An image whose networks can run.

    Args:
        case_id: Name of the case.
        image: As read.
        memory: Where sums of logits lie.
        known: What the networks that need no other network's answer will see.
    """

    case_id: str
    image: Image
    memory: WorkingMemory
    known: dict[ConfigurationPredictor, PreparedImage]


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


def _gathered(parts: Iterator[np.ndarray], shape: tuple[int, ...], room: Room) -> np.ndarray:
    """Consecutive planes (k, n, ...) as one array."""
    start, whole = 0, np.empty(0)
    for part in parts:
        if not start:
            whole = room.empty((len(part), *shape), part.dtype)
        whole[:, start : start + part.shape[1]] = part
        start += part.shape[1]
        let_go(whole)
    return whole


def _opened(path: Path) -> AbstractContextManager[Workspace | Path]:
    """A model file as a passing workspace; a folder as it is."""
    return opened_model(path) if path.suffix == ".zip" else nullcontext(path)
