"""Predictions beside references, a picture for every combination of view and phase, or for another kind of group."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.evaluation.folder import IMAGE_ENDINGS, files_by_case
from autoseg.evaluation.report import Evaluation, mean_of_defined
from autoseg.figures import Panel, draw_panels
from autoseg.image import read_image, read_segmentation
from autoseg.labels import LabelScheme, Target

_TOGETHER = ("view", "phase")
_MOST = 3  # cases of a picture: the worst, the middle, the best


def draw_group_panels(
    evaluation: Evaluation, reference_dir: Path, prediction_dir: Path, images_dir: Path, folder: Path
) -> list[Path]:
    """Draw the worst, the middle and the best case of each group: image, reference, prediction.

    Args:
        evaluation: Scores of the cases, with what they belong to; view and phase are combined, other kinds of group
            are left alone where there is one of these.
        reference_dir: Folder of references.
        prediction_dir: Folder of predictions.
        images_dir: Folder of images; of several channels the first is shown.
        folder: Receives one PNG per group.

    Returns:
        The pictures, by the groups' names.

    Raises:
        DatasetError: When no case is in a group, or an image is missing.
    """
    references, predictions, images = (
        files_by_case(d, IMAGE_ENDINGS) for d in (reference_dir, prediction_dir, images_dir)
    )
    written = []
    for name, cases in sorted(_by_group(evaluation).items()):
        panels = []
        for case, dice in _chosen(evaluation, [case for case in cases if case in predictions]).items():
            image = images.get(f"{case}_0000") or images.get(case)
            if image is None:
                raise DatasetError(f"{images_dir} has no image of case {case}; --images names the folder they lie in")
            reference = read_segmentation(references[case])
            panels.append(
                Panel(
                    title=f"{case}, Dice {dice:.2f}",
                    image=read_image([image]).array[0],
                    reference=reference.array,
                    prediction=read_segmentation(predictions[case]).array,
                    spacing=reference.geometry.spacing,
                )
            )
        if panels:
            written.append(folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png")
            draw_panels(panels, written[-1], labels=_labels(evaluation), title=name)
    return written


def _by_group(evaluation: Evaluation) -> dict[str, list[str]]:
    """Name of a combination -> its cases."""
    groups: dict[str, Mapping[str, str]] = {row.case: row.groups for row in evaluation.cases}
    kinds = {kind for found in groups.values() for kind in found}
    if not kinds:
        raise DatasetError("no case belongs to a group; name a table with view, phase or other columns: --groups FILE")
    used = [kind for kind in _TOGETHER if kind in kinds] or sorted(kinds)[:1]
    named: dict[str, list[str]] = {}
    for case, found in groups.items():
        named.setdefault(" ".join(found.get(kind, f"no {kind}") for kind in used), []).append(case)
    return named


def _chosen(evaluation: Evaluation, cases: list[str]) -> dict[str, float]:
    """The worst, the middle and the best of some cases, with their mean Dice."""
    dice = {case: mean_of_defined([row.dice for row in evaluation.cases if row.case == case]) or 0.0 for case in cases}
    ordered = sorted(dice, key=lambda case: (dice[case], case))
    if len(ordered) > _MOST:
        ordered = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    return {case: dice[case] for case in ordered}


def _labels(evaluation: Evaluation) -> LabelScheme:
    """What was scored, as it is drawn."""
    targets = {row.label: Target(name=row.label, values=row.values) for row in evaluation.cases}
    return LabelScheme(targets=tuple(targets.values()), declared_count=len(targets) + 1)
