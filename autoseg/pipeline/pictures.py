"""Pictures of results for people."""

from __future__ import annotations

from pathlib import Path

from autoseg.dataset import find_cases
from autoseg.errors import MissingArtifactError
from autoseg.figures import draw_overlay
from autoseg.image import read_image, read_segmentation
from autoseg.workspace import Workspace


def draw_prediction(workspace: Workspace, path: Path, *, case_id: str | None = None) -> Path:
    """Draw a predicted test case over its image, with the reference's outline where labelsTs has it.

    Args:
        workspace: Holds predictions of the dataset's imagesTs.
        path: PNG to write.
        case_id: Which case; None takes the first.

    Returns:
        ``path``.

    Raises:
        MissingArtifactError: When the case is not predicted.
    """
    plan, root = workspace.load_plan(), workspace.dataset_root
    cases = find_cases(root / "imagesTs", plan.file_ending, num_channels=len(plan.channels))
    case = next((c for c in cases if case_id in (None, c.id)), None)
    predicted = workspace.predictions_dir / f"{case.id if case else case_id}{plan.file_ending}"
    if case is None or not predicted.is_file():
        raise MissingArtifactError(f"{predicted} does not exist. Make it: autoseg ensemble-predict -w {workspace.root}")
    reference = root / "labelsTs" / predicted.name
    image = read_image(case.images, frame=case.frame)
    draw_overlay(
        image.array,
        read_segmentation(predicted).array,
        path,
        reference=read_segmentation(reference).array if reference.is_file() else None,
        spacing=image.geometry.spacing,
        labels=plan.labels,
        title=case.id,
        orientation=image.geometry.orientation,
    )
    return path
