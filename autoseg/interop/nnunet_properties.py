"""What nnU-Net keeps beside a preprocessed case: its grid, its crop and where its foreground lies.

nnU-Net reads this from a pickle, so this module writes one: plain Python values and NumPy arrays, no classes of
autoseg. It is the only pickle that autoseg writes, and autoseg reads none.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.geometry import Geometry, Reorientation
from autoseg.interop.nnunet_names import SLICE_THICKNESS, three
from autoseg.labels import LabelScheme
from autoseg.preprocessing.case import CaseTrace


def write_properties(path: Path, properties: Mapping[str, Any]) -> None:
    """Write a case's .pkl; atomically.

    Args:
        path: File to write.
        properties: What :func:`case_properties` made.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        pickle.dump(dict(properties), file)


def case_properties(
    trace: CaseTrace, foreground: Sequence[np.ndarray], labels: LabelScheme, *, reader: str
) -> dict[str, Any]:
    """What nnU-Net's preprocessor notes about a case. 2D cases get its thick first axis.

    Args:
        trace: What was done to the case.
        foreground: Voxel positions (n, ndim) per target, and of annotated voxels last where there is an ignore label.
        labels: Meaning of the targets.
        reader: nnU-Net's class that reads and writes the images, which decides how the grid is described.

    Returns:
        Shapes and boxes in transposed axes, the spacing in those of the file.
    """
    grid = worked_grid(trace)
    box = [[int(a), int(b)] for a, b in zip(trace.box.start, trace.box.stop, strict=True)]
    return {
        **_description(grid, reader),
        "spacing": [float(s) for s in three(grid.spacing, SLICE_THICKNESS * max(grid.spacing))],
        "shape_before_cropping": _shape(trace.original_shape),
        "bbox_used_for_cropping": [[0, 1], *box] if len(box) == 2 else box,
        "shape_after_cropping_and_before_resampling": _shape(trace.cropped_shape),
        "class_locations": _class_locations(foreground, labels),
    }


def worked_grid(trace: CaseTrace) -> Geometry:
    """Grid of the image after it was turned to the dataset's orientation, axes not yet transposed."""
    turn = Reorientation.between(trace.geometry.orientation, trace.orientation_code)
    return turn.apply_to_geometry(trace.geometry)


def _description(grid: Geometry, reader: str) -> dict[str, Any]:
    if reader.startswith("SimpleITK"):
        return {
            "sitk_stuff": {"spacing": grid.itk_spacing, "origin": grid.origin, "direction": grid.itk_direction},
        }
    if reader.startswith("Nibabel"):
        affine = np.eye(4)
        affine[:3, :3] = (np.asarray(grid.directions) * np.asarray(grid.spacing)[:, None])[::-1].T
        affine[:3, 3] = grid.origin
        affine[:2] *= -1  # NIfTI's world grows towards the right and anterior, ITK's towards the left and posterior
        return {"nibabel_stuff": {"original_affine": affine}}
    return {}


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(n) for n in three(shape, 1))


def _class_locations(
    foreground: Sequence[np.ndarray], labels: LabelScheme
) -> dict[int | tuple[int, ...], np.ndarray | list[int]]:
    """Positions with nnU-Net's four columns, the first being the channel; an empty list where there are none."""
    keys: list[int | tuple[int, ...]] = [t.values[0] if len(t.values) == 1 else t.values for t in labels.targets]
    if labels.ignore_value is not None:
        keys.append((-1, *labels.values))
    locations: dict[int | tuple[int, ...], np.ndarray | list[int]] = {}
    for key, positions in zip(keys, foreground, strict=True):
        columns = np.zeros((len(positions), 4), dtype=np.int64)
        columns[:, 4 - positions.shape[1] :] = positions
        locations[key] = columns if len(positions) else []
    return locations
