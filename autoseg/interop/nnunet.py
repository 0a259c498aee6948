"""nnU-Net: its plans from its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.dataset import Dataset
from autoseg.errors import DatasetError
from autoseg.geometry import Geometry
from autoseg.interop.nnunet_plans import plans_table, read_fingerprint
from autoseg.labels import LabelScheme
from autoseg.planning import PLANNERS, PlannerBudget

_WHERE = "dataset.json"


def plan_from_fingerprint(
    dataset_json: dict[str, Any],
    fingerprint: dict[str, Any],
    *,
    planner: str,
    gpu_memory_gb: float | None,
    dataset_name: str | None = None,
) -> dict[str, Any]:
    """Plan with autoseg from nnU-Net's fingerprint, and put the plan in the form of nnUNetPlans.json.

    Equal to what nnU-Net 2.8 plans, except where its plan could not be trained (networks without a second stage).

    Args:
        dataset_json: Parsed dataset.json of the raw dataset.
        fingerprint: Parsed dataset_fingerprint.json.
        planner: "unet", "resenc_m", "resenc_l" or "resenc_xl".
        gpu_memory_gb: GPU memory to plan for; None takes the planner's preset.
        dataset_name: Name of the dataset's folder, e.g. "Dataset004_Hippocampus".

    Returns:
        The plans, with the keys in nnU-Net's order.

    Raises:
        AutosegError: When an input is malformed or nothing fits the memory.
    """
    # nnU-Net takes axes as stored and records no orientation: assume axes along the patient's.
    axes_3d, axes_2d = (Geometry(shape=(1,) * ndim, spacing=(1.0,) * ndim).orientation for ndim in (3, 2))
    measured = read_fingerprint(fingerprint, orientation=axes_3d, orientation_2d=axes_2d)
    dataset = _dataset(dataset_json, num_cases=len(measured.cases), name=dataset_name)
    plan = PLANNERS.get(planner)().plan(dataset, measured, PlannerBudget(gpu_memory_gb=gpu_memory_gb))
    reader = dataset_json.get("overwrite_image_reader_writer")
    return plans_table(plan, dataset, measured, reader=None if reader in (None, "None") else str(reader))


def _dataset(table: Mapping[str, Any], *, num_cases: int, name: str | None) -> Dataset:
    """A dataset that is only planned for: declarations without files."""
    try:
        channels = table["channel_names"] if "channel_names" in table else table["modality"]
        names = tuple(str(channels[str(index)]) for index in range(len(channels)))
        labels = LabelScheme.from_table(table["labels"], tuple(table.get("regions_class_order") or ()), where=_WHERE)
        file_ending = str(table["file_ending"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{_WHERE} is not in nnU-Net's form: {error!r}") from None
    return Dataset(
        root=Path(),
        name=name or f"Dataset001_{table.get('name', 'unnamed')}",
        channels=names,
        labels=labels,
        file_ending=file_ending,
        declared_count=int(table.get("numTraining", num_cases)),
        training=(),
        test=(),
    )
