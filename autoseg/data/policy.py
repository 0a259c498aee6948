"""What a batch shows: which cases, and which part of each. Every choice is a function of seed and step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoseg.data.sampling import PatchSource, box_around, choose_box, choose_voxel, is_forced, read_labels
from autoseg.errors import SettingsError
from autoseg.geometry import BoundingBox

PolicyName = Literal["case", "class", "probabilistic", "pos_neg", "windows"]

_BACKGROUND_TRIES = 50  # voxels looked at until one is background; a case of almost nothing else is taken as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPolicy:
    """How patches are drawn.

    Args:
        name: "case": the last patches of a batch must hold foreground, drawn by case and then by class (nnU-Net's).
            "class": the same, drawn by class among all of the dataset and then by case. "probabilistic": every patch
            must hold foreground with the chance ``foreground_share``. "pos_neg": every patch is centered on
            foreground with that chance, otherwise on background inside the image, and stays inside the volume.
            "windows": an epoch shows ``windows_per_case`` random windows of ``cases_per_epoch`` of the cases.
        foreground_share: Share of patches, or chance of each, that must hold foreground.
        patches_per_case: Patches that are drawn from a case once it is chosen.
        cases_per_epoch: Share of the cases that an epoch of windows shows.
        windows_per_case: Windows of each of them.
        min_image_share: A window is drawn again when less of it lies inside the image, where that is not zero.
        min_foreground_share: A window is drawn again when less of it is foreground.
        max_tries: After so many windows the last one is taken.
    """

    name: PolicyName = "case"
    foreground_share: float = 0.33
    patches_per_case: int = 1
    cases_per_epoch: float = 0.4
    windows_per_case: int = 16
    min_image_share: float = 0.0
    min_foreground_share: float = 0.0
    max_tries: int = 10

    def num_windows(self, num_cases: int) -> int:
        """Windows of an epoch, ``ceil(share * cases)`` times those of a case."""
        # 0.7 * 10 is 7.000000000000001: rounded before it is rounded up.
        return math.ceil(round(self.cases_per_epoch * num_cases, 9)) * self.windows_per_case

    def epoch_steps(self, num_cases: int, batch_size: int) -> int | None:
        """Batches of an epoch of windows; None where an epoch is no matter of sampling."""
        return math.ceil(self.num_windows(num_cases) / batch_size) if self.name == "windows" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchChoice:
    """What one patch of a batch is to be.

    Args:
        case_id: The case.
        is_forced: Whether it must hold foreground.
        target: Index of the target that it must hold; None draws one of those in the case.
    """

    case_id: str
    is_forced: bool
    target: int | None = None


class PatchDraws:
    """Draws the cases of every batch.

    Args:
        case_ids: Cases to draw from.
        policy: How.
        batch_size: Patches of a batch.
        entropy: Seed of the order of windows.
        weights: Case id -> how often it is drawn in proportion to the others; None draws all alike.
        cases_with: For "class": index of every target that occurs, and the cases that have it.

    Raises:
        SettingsError: When all weights are zero, or a case has none.
    """

    def __init__(
        self,
        case_ids: Sequence[str],
        policy: SamplingPolicy,
        *,
        batch_size: int,
        entropy: Sequence[int],
        weights: Mapping[str, float] | None = None,
        cases_with: Sequence[tuple[int, tuple[str, ...]]] = (),
    ) -> None:
        self._case_ids = tuple(case_ids)
        self._policy = policy
        self._batch_size = batch_size
        self._entropy = tuple(entropy)
        self._chances = None if weights is None else chances(self._case_ids, weights)
        self._cases_with = tuple(cases_with)
        self._windows: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=int))

    def of_step(self, step: int, generator: np.random.Generator) -> tuple[PatchChoice, ...]:
        """Choices for every patch of a batch; the generator is seeded with the step."""
        if self._policy.name == "windows":
            return tuple(PatchChoice(case_id=case, is_forced=False) for case in self._windows_of(step))
        num_drawn = math.ceil(self._batch_size / self._policy.patches_per_case)
        drawn = self._draw_cases(generator, num_drawn)
        cases = [self._case_ids[i] for i in np.repeat(drawn, self._policy.patches_per_case)[: self._batch_size]]
        if self._policy.name in ("probabilistic", "pos_neg"):
            forced = generator.random(self._batch_size) < self._policy.foreground_share
            return tuple(PatchChoice(case_id=c, is_forced=bool(f)) for c, f in zip(cases, forced, strict=True))
        return tuple(self._balanced(generator, index, case) for index, case in enumerate(cases))

    def _draw_cases(self, generator: np.random.Generator, count: int) -> np.ndarray:
        if self._chances is None:
            return generator.integers(len(self._case_ids), size=count)
        return generator.choice(len(self._case_ids), size=count, p=self._chances)

    def _balanced(self, generator: np.random.Generator, index: int, case: str) -> PatchChoice:
        """Give a forced patch a target of the dataset and a case that has it, where classes are to be balanced."""
        forced = is_forced(index, batch_size=self._batch_size, share=self._policy.foreground_share)
        if not forced or not self._cases_with:
            return PatchChoice(case_id=case, is_forced=forced)
        target, having = self._cases_with[generator.integers(len(self._cases_with))]
        return PatchChoice(case_id=having[generator.integers(len(having))], is_forced=True, target=target)

    def _windows_of(self, step: int) -> list[str]:
        steps = self._policy.epoch_steps(len(self._case_ids), self._batch_size)
        assert steps is not None  # asked for windows only
        epoch, position = divmod(step, steps)
        if self._windows[0] != epoch:
            self._windows = (epoch, self._window_order(epoch))
        order = self._windows[1]
        # The last batch of an epoch is filled up with windows from its beginning.
        places = range(position * self._batch_size, (position + 1) * self._batch_size)
        return [self._case_ids[order[place % len(order)]] for place in places]

    def _window_order(self, epoch: int) -> np.ndarray:
        """Case of every window of an epoch, in random order."""
        generator = np.random.default_rng(np.random.SeedSequence((*self._entropy, epoch, 1)))
        num_cases = self._policy.num_windows(len(self._case_ids)) // self._policy.windows_per_case
        shown = generator.choice(len(self._case_ids), size=num_cases, replace=False, p=self._chances)
        return generator.permutation(np.repeat(shown, self._policy.windows_per_case))


def chances(case_ids: Sequence[str], weights: Mapping[str, float]) -> np.ndarray:
    """Probability of every case to be drawn.

    Raises:
        SettingsError: When a case has no weight or a negative one, or all are zero.
    """
    if missing := [case for case in case_ids if case not in weights]:
        raise SettingsError(f"case {missing[0]} has no weight; give it one in the table's column weight")
    values = np.asarray([weights[case] for case in case_ids], dtype=float)
    if not np.isfinite(values).all() or values.min() < 0 or values.sum() == 0:
        raise SettingsError("weights of cases must not be negative, and not all zero")
    return np.asarray(values / values.sum())


def draw_box(
    generator: np.random.Generator,
    source: PatchSource,
    choice: PatchChoice,
    policy: SamplingPolicy,
    *,
    patch_size: Sequence[int],
    final_size: Sequence[int],
    ignore_value: int | None,
) -> BoundingBox:
    """Draw the part of a case that a patch shows.

    Args:
        generator: Source of randomness.
        source: The case.
        choice: What the patch is to be.
        policy: How it is drawn.
        patch_size: Voxels of the patch that is read; one axis less than the case means a slice of it.
        final_size: Voxels that the network sees.
        ignore_value: Label of voxels without annotation, if one is declared.
    """
    shape = source.image_shape[1:]
    flat = (1,) * (len(shape) - len(patch_size))
    patch, final = (*flat, *patch_size), (*flat, *final_size)
    if policy.name == "pos_neg":
        voxel = _foreground_or_background(generator, source, choice, has_ignored=ignore_value is not None)
        return box_around(voxel, shape, patch_size=patch, final_size=final)
    tests = policy.name == "windows" and (policy.min_image_share > 0 or policy.min_foreground_share > 0)
    for _ in range(policy.max_tries if tests else 1):
        box = choose_box(
            generator,
            source,
            patch_size=patch_size,
            final_size=final_size,
            has_ignored=ignore_value is not None,
            forced=choice.is_forced,
            target=choice.target,
        )
        if not tests or _is_acceptable(source, box, policy, final_size=final, ignore_value=ignore_value):
            break
    return box


def _foreground_or_background(
    generator: np.random.Generator, source: PatchSource, choice: PatchChoice, *, has_ignored: bool
) -> np.ndarray:
    """A voxel of a class of the case, or one of background that lies inside the image."""
    shape = source.image_shape[1:]
    if choice.is_forced:
        targets = source.foreground[:-1] if has_ignored else source.foreground
        chosen = choose_voxel(generator, targets, has_ignored=False, forced=True, target=choice.target)
        if chosen is not None:
            return chosen
    for _ in range(_BACKGROUND_TRIES):
        voxel = generator.integers(shape)
        box = BoundingBox(start=tuple(int(v) for v in voxel), stop=tuple(int(v) + 1 for v in voxel))
        if not source.read_segmentation(box).any():  # 0: neither a class, nor ignored, nor outside of the image
            break
    return voxel


def _is_acceptable(
    source: PatchSource,
    box: BoundingBox,
    policy: SamplingPolicy,
    *,
    final_size: Sequence[int],
    ignore_value: int | None,
) -> bool:
    """Whether the middle of a window holds as much image and foreground as is asked for."""
    margins = [(n - f) // 2 for n, f in zip(box.shape, final_size, strict=True)]
    start = tuple(a + m for a, m in zip(box.start, margins, strict=True))
    middle = BoundingBox(start=start, stop=tuple(a + f for a, f in zip(start, final_size, strict=True)))
    labels = read_labels(source, middle)
    foreground = (labels > 0) if ignore_value is None else (labels > 0) & (labels != ignore_value)
    return bool((labels >= 0).mean() >= policy.min_image_share and foreground.mean() >= policy.min_foreground_share)
