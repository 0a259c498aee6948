"""A workspace as nnU-Net's preprocessed folder: plan and preprocess here, train there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.codec import read_json, to_plain, write_json
from autoseg.dataset import Case, Dataset, load_dataset
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Reorientation
from autoseg.image import Segmentation, read_segmentation, write_segmentation
from autoseg.interop.nnunet_declaration import consecutive, declaration, folder_name, nnunet_declaration, with_values
from autoseg.interop.nnunet_names import PLANNERS, SLICE_THICKNESS, TURNING_READERS, plain_name, three
from autoseg.interop.nnunet_plans import plans_table
from autoseg.interop.nnunet_properties import case_properties, worked_grid, write_properties
from autoseg.labels import LabelScheme
from autoseg.parallel import default_workers, map_cases
from autoseg.pipeline.folds import load_folds
from autoseg.plan import Configuration, Plan
from autoseg.preprocessing.case import CaseTrace
from autoseg.preprocessing.crop import OUTSIDE
from autoseg.preprocessing.store import CaseStore, write_array
from autoseg.progress import LoggingProgress, Progress
from autoseg.splits import write_splits
from autoseg.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseJob:
    """One case of one configuration.

    Args:
        case: Its files.
        labels: Meaning of the exported label values.
        new_values: Label value -> exported value, where they differ.
        source: Folder of preprocessed cases.
        target: Folder to write to.
        references: Folder for the reference segmentation; None where another configuration's job writes it.
        patch_size: Voxels that training reads at once.
        reader: nnU-Net's class that reads the images.
        file_ending: Ending of exported segmentations.
    """

    case: Case
    labels: LabelScheme
    new_values: dict[int, int]
    source: Path
    target: Path
    references: Path | None
    patch_size: tuple[int, ...]
    reader: str
    file_ending: str


def export_preprocessed(
    workspace: Workspace, output: Path, *, workers: int | None = None, progress: Progress | None = None
) -> Path:
    """Write what nnU-Net's plan-and-preprocess would have written, so that its trainer starts from there.

    Args:
        workspace: Planned and preprocessed.
        output: nnU-Net's folder of preprocessed datasets; files of an earlier export are replaced.
        workers: Worker processes; None takes one per processor, 0 works in this process.
        progress: Told what is written and what is left out; None logs.

    Returns:
        The dataset's folder in ``output``.

    Raises:
        MissingArtifactError: When nothing is preprocessed, or not all cases.
        PlanError: When nnU-Net has no counterpart of a network, a normalization or the file ending.
    """
    progress = progress or LoggingProgress()
    plan, dataset = workspace.load_plan(), load_dataset(workspace.dataset_source)
    fingerprint = read_json(Fingerprint, workspace.fingerprint_path)
    folds = load_folds(workspace)
    given = nnunet_declaration(dataset.root)
    new_values = consecutive(plan.labels)
    dataset = replace(dataset, name=folder_name(dataset.name), labels=with_values(plan.labels, new_values))
    named_reader = str(given.get("overwrite_image_reader_writer"))
    reader = named_reader if named_reader not in ("None", *TURNING_READERS) else None
    folder = output / dataset.name
    tables = _plans(plan, dataset, fingerprint, reader, progress)
    jobs = _jobs(workspace, plan, dataset, tables, folder, new_values, progress)
    done = map_cases(
        _export, jobs, workers=default_workers() if workers is None else workers, label=lambda job: job.case.id
    )
    for _ in progress.track(done, total=len(jobs), description="exporting"):
        pass
    for name, table in tables.items():
        write_json(table, folder / f"{name}.json")
    declared = declaration(
        given,
        dataset.labels,
        channels=dataset.channels,
        num_training=len(dataset.training),
        file_ending=dataset.file_ending,
    )
    write_json(declared, folder / "dataset.json")
    write_json(_fingerprint_table(fingerprint), folder / "dataset_fingerprint.json")
    write_splits(folds, folder / "splits_final.json")
    progress.message(f"train with nnU-Net: nnUNet_preprocessed={output} nnUNetv2_train {dataset.name} CONFIGURATION 0")
    return folder


def _plans(
    plan: Plan, dataset: Dataset, fingerprint: Fingerprint, reader: str | None, progress: Progress
) -> dict[str, dict[str, Any]]:
    """One table per planner, by the name of its plans."""
    groups: dict[str, list[Configuration]] = {}
    for configuration in plan.configurations:
        planner = configuration.name.partition("@")[2] or "unet"
        if configuration.slices is not None:
            progress.message(f"{configuration.name} is left out: nnU-Net has no stacks of slices")
        elif planner in PLANNERS:
            groups.setdefault(planner, []).append(configuration)
        else:
            progress.message(f"{configuration.name} is left out: nnU-Net has no planner {planner}")
    tables = {}
    for planner, configurations in groups.items():
        part = replace(plan, planner=planner, configurations=tuple(configurations))
        tables[PLANNERS[planner].plans] = plans_table(part, dataset, fingerprint, reader=reader)
    return tables


def _jobs(
    workspace: Workspace,
    plan: Plan,
    dataset: Dataset,
    tables: Mapping[str, dict[str, Any]],
    folder: Path,
    new_values: dict[int, int],
    progress: Progress,
) -> list[_CaseJob]:
    """Everything to write, each preprocessed folder once; says in the tables where a folder of its own is needed."""
    folders: dict[str, str] = {}  # nnU-Net's identifier of a folder -> ours
    found: list[tuple[Configuration, str]] = []
    for configuration in plan.configurations:
        planner = configuration.name.partition("@")[2] or "unet"
        table = tables.get(PLANNERS[planner].plans) if planner in PLANNERS else None
        # A cascade trains on full-resolution data.
        if table is None or configuration.previous_stage is not None or configuration.slices is not None:
            continue
        entry = table["configurations"][plain_name(configuration.name)]
        if folders.get(entry["data_identifier"], configuration.data) != configuration.data:
            entry["data_identifier"] = f"{table['plans_name']}_{plain_name(configuration.name)}"
        if entry["data_identifier"] not in folders:
            folders[entry["data_identifier"]] = configuration.data
            found.append((configuration, entry["data_identifier"]))
    reader = next(iter(tables.values()))["image_reader_writer"] if tables else ""
    jobs: list[_CaseJob] = []
    for configuration, identifier in found:
        source = workspace.preprocessed_dir(configuration.data)
        if _is_preprocessed(source, dataset, configuration, progress):
            references = None if jobs else folder / "gt_segmentations"
            jobs += [
                _CaseJob(
                    case=case,
                    labels=dataset.labels,
                    new_values=new_values,
                    source=source,
                    target=folder / identifier,
                    references=references,
                    patch_size=(1,) * (3 - configuration.ndim) + configuration.patch_size,
                    reader=reader,
                    file_ending=dataset.file_ending,
                )
                for case in dataset.training
            ]
    if not jobs:
        raise MissingArtifactError(f"nothing is preprocessed in {workspace.root}. Do it: autoseg plan-and-preprocess")
    return jobs


def _is_preprocessed(source: Path, dataset: Dataset, configuration: Configuration, progress: Progress) -> bool:
    """Whether the cases of a configuration are there; one that was not asked for may be absent altogether."""
    there = set(CaseStore(source).case_ids())
    missing = [case.id for case in dataset.training if case.id not in there]
    if not there:
        progress.message(f"{configuration.name} is planned and not preprocessed; its cases are left out")
    elif missing:
        raise MissingArtifactError(
            f"{source} lacks {len(missing)} of {len(dataset.training)} cases, the first is {missing[0]}. "
            "Do it: autoseg plan-and-preprocess"
        )
    return bool(there)


def _export(job: _CaseJob) -> None:
    """Write one case, and its reference segmentation where that is this job's part."""
    case = CaseStore(job.source).open(job.case.id).load()
    if case.segmentation is None:
        raise ArtifactError(f"case {case.id} in {job.source} has no segmentation; nnU-Net cannot train on it")
    image, segmentation = case.image, _converted(case.segmentation, job.new_values)[None]
    if image.ndim == 3:
        image, segmentation = image[:, None], segmentation[:, None]
    write_array(image, job.target / f"{case.id}.b2nd", job.patch_size)
    write_array(segmentation, job.target / f"{case.id}_seg.b2nd", job.patch_size)
    properties = case_properties(case.trace, case.foreground, job.labels, reader=job.reader)
    write_properties(job.target / f"{case.id}.pkl", properties)
    if job.references is not None and job.case.label is not None:
        _export_reference(job, job.case.label, job.references / f"{case.id}{job.file_ending}", case.trace)


def _export_reference(job: _CaseJob, label: Path, target: Path, trace: CaseTrace) -> None:
    """Copy a reference segmentation, turned as its image was, with the exported values."""
    turn = Reorientation.between(trace.geometry.orientation, trace.orientation_code)
    if turn.is_identity and not job.new_values and label.name.endswith(job.file_ending):
        with atomic_path(target) as temporary:
            shutil.copyfile(label, temporary)
        return
    array = np.ascontiguousarray(turn.apply(_converted(read_segmentation(label).array, job.new_values)))
    write_segmentation(target, Segmentation(array=array, geometry=worked_grid(trace)))


def _converted(segmentation: np.ndarray, new: Mapping[int, int]) -> np.ndarray:
    if not new:
        return segmentation
    converted = np.where(segmentation == OUTSIDE, OUTSIDE, 0).astype(np.int16)
    for value, wanted in new.items():
        converted[segmentation == value] = wanted
    return converted


def _fingerprint_table(fingerprint: Fingerprint) -> dict[str, Any]:
    """dataset_fingerprint.json."""
    return {
        "foreground_intensity_properties_per_channel": {
            str(channel): to_plain(statistics) for channel, statistics in enumerate(fingerprint.intensities)
        },
        "median_relative_size_after_cropping": fingerprint.median_relative_size,
        "shapes_after_crop": [list(three(case.cropped_shape, 1)) for case in fingerprint.cases],
        "spacings": [list(three(case.spacing, SLICE_THICKNESS * max(case.spacing))) for case in fingerprint.cases],
    }
