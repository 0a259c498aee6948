"""Batches in time: every patch is a pure function of seed, step and place in the batch, whoever computes it.

So results do not depend on the number of worker processes, a run that is taken up again at step n sees the batches
that it would have seen, and processes that train together each make their own patches of the batch they share.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoseg.augmentation.histogram import match_histograms
from autoseg.augmentation.patch import initial_patch_size
from autoseg.augmentation.recipe import parse_recipe
from autoseg.augmentation.transforms import build_training_transform, build_validation_transform
from autoseg.data.policy import PatchChoice, PatchDraws, SamplingPolicy, draw_box
from autoseg.data.sampling import PatchSource, place_slice, read_patch, read_stack
from autoseg.data.watched import WatchedLoader
from autoseg.errors import TrainingError
from autoseg.geometry import BoundingBox
from autoseg.labels import LabelScheme
from autoseg.plan import Configuration
from autoseg.preprocessing.previous_stage import read_previous

T = TypeVar("T")

_OPEN_CASES = 64  # each keeps its files open; opening one again takes a millisecond


class Batch(NamedTuple):
    """Patches of one optimizer step.

    Args:
        images: (b, c, ...) float32.
        targets: One per output of the network, full resolution first; see :mod:`autoseg.losses.targets`.
        case_ids: Where each patch of the whole batch comes from, also those that another process computes.
    """

    images: Tensor
    targets: list[Tensor]
    case_ids: tuple[str, ...]


class CaseSource(Protocol):
    """Preprocessed cases by id, such as :class:`autoseg.preprocessing.store.CaseStore`."""

    def open(self, case_id: str) -> PatchSource:
        """Open a case without reading it."""


class PatchBatches(Dataset[Batch]):
    """Batches by step; picklable as long as the store is.

    Args:
        store: Where cases are read.
        case_ids: Cases to draw from.
        configuration: Patch and batch size, normalization and network.
        labels: What is segmented.
        augment: Whether patches are varied at random.
        sampling: Which patches are drawn.
        seed: Seed of all randomness, not negative.
        previous: In a cascade, case id -> file of the previous stage's segmentation on the same grid.
        augmentation: How patches are varied, see :func:`autoseg.augmentation.recipe.parse_recipe`; "none" leaves them
            as they are.
        mirror_axes: Axes that are mirrored; None takes all.
        case_weights: Case id -> how often it is drawn in proportion to the others; None draws all alike.
        patches: Which patches of every batch are made; None makes all.

    Raises:
        TrainingError: When there is no case.
    """

    def __init__(
        self,
        store: CaseSource,
        case_ids: Sequence[str],
        configuration: Configuration,
        labels: LabelScheme,
        *,
        augment: bool,
        sampling: SamplingPolicy,
        seed: int,
        previous: Mapping[str, Path] | None = None,
        augmentation: str = "nnunet",
        mirror_axes: tuple[int, ...] | None = None,
        case_weights: Mapping[str, float] | None = None,
        patches: range | None = None,
    ) -> None:
        if not case_ids:
            raise TrainingError("there are no cases to draw patches from")
        self._store = store
        self._case_ids = tuple(case_ids)
        self._configuration = configuration
        self._previous = previous or {}
        self._ignore_value = labels.ignore_value
        self._sampling = sampling
        self._patches = range(configuration.batch_size) if patches is None else patches
        # Training and validation draw from different streams of the same seed.
        self._entropy = (seed, int(augment))
        recipe = parse_recipe(augmentation)
        self._histogram_chance = recipe.chance("histogram") if augment else 0.0
        if augment and recipe.chances:
            self._patch_size = (
                initial_patch_size(configuration, recipe) if recipe.moves_voxels else configuration.patch_size
            )
            self._transform = build_training_transform(configuration, labels, recipe=recipe, mirror_axes=mirror_axes)
        else:
            self._patch_size = configuration.patch_size
            self._transform = build_validation_transform(configuration, labels)
        self._open: OrderedDict[str, PatchSource] = OrderedDict()
        self._draws = PatchDraws(
            self._case_ids,
            sampling,
            batch_size=configuration.batch_size,
            entropy=self._entropy,
            weights=case_weights,
            cases_with=self._find_targets(len(labels.targets)) if sampling.name == "class" else (),
        )

    def __getitem__(self, step: int) -> Batch:
        """Make the batch of a step, or this process's patches of it."""
        size = self._configuration.batch_size
        for_choice, *for_patches = np.random.SeedSequence((*self._entropy, step)).spawn(1 + size)
        choices = self._draws.of_step(step, np.random.default_rng(for_choice))
        with torch.no_grad(), _isolated_randomness():
            examples = [self._example(for_patches[i], choices[i]) for i in self._patches]
            images = torch.stack([image for image, _ in examples])
            targets = [torch.stack(scale) for scale in zip(*(targets for _, targets in examples), strict=True)]
        return Batch(images=images, targets=targets, case_ids=tuple(choice.case_id for choice in choices))

    def cases_of(self, step: int) -> tuple[str, ...]:
        """Cases that a step shows."""
        for_choice = np.random.SeedSequence((*self._entropy, step)).spawn(1)[0]
        return tuple(choice.case_id for choice in self._draws.of_step(step, np.random.default_rng(for_choice)))

    def _find_targets(self, num_targets: int) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """Index of every target that occurs, and the cases that have it."""
        cases: list[list[str]] = [[] for _ in range(num_targets)]
        for case_id in self._case_ids:
            foreground = self._store.open(case_id).foreground
            for positions, having in zip(foreground[:num_targets], cases, strict=True):
                if len(positions):
                    having.append(case_id)
        return tuple((index, tuple(having)) for index, having in enumerate(cases) if having)

    def _example(self, seed: np.random.SeedSequence, choice: PatchChoice) -> tuple[Tensor, list[Tensor]]:
        """Draw, read and transform a patch; leaves the global random states seeded."""
        for_box, for_numpy, for_torch = seed.spawn(3)
        np.random.seed(for_numpy.generate_state(4))
        torch.default_generator.manual_seed(int(for_torch.generate_state(1, np.uint64)[0]))
        source = self._case(choice.case_id)
        image, segmentation, box = self._read(np.random.default_rng(for_box), source, choice)
        if self._histogram_chance:
            self._take_a_histogram(np.random.default_rng(seed.spawn(1)[0]), choice, image, segmentation)
        layers = segmentation[None]
        if self._configuration.previous_stage is not None:
            previous = read_previous(self._previous[choice.case_id], source.image_shape[1:], box)
            layers = np.stack([segmentation, previous])
        if self._configuration.slices is not None:  # the slices become channels, the middle one is segmented
            image, layers = image.reshape(-1, *image.shape[2:]), layers[:, layers.shape[1] // 2]
        elif segmentation.ndim > self._configuration.ndim:  # a slice of a volume
            image, layers = image[:, 0], layers[:, 0]
        return self._transform(torch.from_numpy(image), torch.from_numpy(layers))

    def _read(
        self, generator: np.random.Generator, source: PatchSource, choice: PatchChoice
    ) -> tuple[np.ndarray, np.ndarray, BoundingBox]:
        """Draw and read a patch: image (c, ...), segmentation (...) and where they lie; slices come with neighbors."""
        slices = self._configuration.slices
        axis = None if slices is None else slices.axes[int(generator.integers(len(slices.axes)))]
        box = draw_box(
            generator,
            source,
            choice,
            self._sampling,
            patch_size=place_slice(self._patch_size, axis),
            final_size=place_slice(self._configuration.patch_size, axis),
            ignore_value=self._ignore_value,
        )
        if slices is None or axis is None:
            return (*read_patch(source, box), box)
        return (*read_stack(source, box, axis=axis, context=slices.context), box)

    def _take_a_histogram(
        self, generator: np.random.Generator, choice: PatchChoice, image: np.ndarray, segmentation: np.ndarray
    ) -> None:
        """Now and then give a patch, in place, the intensities of a patch of another case that was drawn alike."""
        others = [case_id for case_id in self._case_ids if case_id != choice.case_id]
        if not others or generator.random() >= self._histogram_chance:
            return
        other = PatchChoice(case_id=others[int(generator.integers(len(others)))], is_forced=choice.is_forced)
        reference, labels, _ = self._read(generator, self._case(other.case_id), other)
        match_histograms(image, segmentation >= 0, reference, labels >= 0)

    def _case(self, case_id: str) -> PatchSource:
        if case_id not in self._open:
            self._open[case_id] = self._store.open(case_id)
        self._open.move_to_end(case_id)
        if len(self._open) > _OPEN_CASES:
            self._open.popitem(last=False)
        return self._open[case_id]

    def __getstate__(self) -> dict[str, object]:
        """Leave open cases behind: each process opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}


@contextmanager
def _isolated_randomness() -> Iterator[None]:
    """Put the global random states back that the transforms draw from.

    One thread, since sums over several threads are rounded differently: batches made in this process would differ
    from a worker's. On a busy CPU it is also the faster way, because small tensors are not worth waiting for a thread.
    """
    numpy_state, num_threads = np.random.get_state(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            torch.set_num_threads(num_threads)


def make_loader(
    store: CaseSource,
    case_ids: Sequence[str],
    configuration: Configuration,
    labels: LabelScheme,
    *,
    augment: bool,
    sampling: SamplingPolicy,
    seed: int,
    start_step: int = 0,
    num_steps: int | None = None,
    workers: int = 0,
    pin_memory: bool = False,
    start_method: str | None = None,
    previous: Mapping[str, Path] | None = None,
    augmentation: str = "nnunet",
    mirror_axes: tuple[int, ...] | None = None,
    case_weights: Mapping[str, float] | None = None,
    patches: range | None = None,
    stride: int = 1,
) -> DataLoader[Batch]:
    """Load the batches of a range of steps, in order.

    Args:
        store: Where cases are read.
        case_ids: Cases to draw from.
        configuration: Patch and batch size, normalization and network.
        labels: What is segmented.
        augment: Whether patches are varied at random; without, they have the final size and the randomness is only
            in their choice.
        sampling: Which patches are drawn.
        seed: Seed of all randomness, not negative.
        start_step: First step.
        num_steps: How many steps, those that are skipped included; None goes on for ever.
        workers: Loader processes; 0 loads in this process.
        pin_memory: Whether batches are put where a GPU can fetch them.
        start_method: How worker processes start, "fork" or "spawn"; None takes the platform's way.
        previous: In a cascade, case id -> file of the previous stage's segmentation on the same grid.
        augmentation: How patches are varied where they are; "none" leaves them as they are.
        mirror_axes: Axes that are mirrored; None takes all.
        case_weights: Case id -> how often it is drawn in proportion to the others; None draws all alike.
        patches: Which patches of every batch are made, where several processes share it; None makes all.
        stride: Steps between two batches, where several processes take turns.

    Returns:
        A loader; iterating it again gives the same batches.

    Raises:
        TrainingError: When there is no case.
    """
    batches = PatchBatches(
        store,
        case_ids,
        configuration,
        labels,
        augment=augment,
        sampling=sampling,
        seed=seed,
        previous=previous,
        augmentation=augmentation,
        mirror_axes=mirror_axes,
        case_weights=case_weights,
        patches=patches,
    )
    stop = sys.maxsize if num_steps is None else start_step + num_steps
    return WatchedLoader(
        batches,
        range(start_step, stop, stride),
        workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator(),  # the loader would otherwise draw from the global random state
    )


def _as_it_is(batch: T) -> T:
    """Keep torch from turning the tuple of case ids into a list."""
    return batch
