"""Trained models as nnU-Net v2's model folders, from which its predictor predicts and its trainer fine-tunes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from autoseg.atomic import atomic_path
from autoseg.codec import read_json, write_json
from autoseg.errors import MissingArtifactError, PlanError
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.history import EpochRow, read_rows
from autoseg.inference.model import Checkpoint, read_checkpoint
from autoseg.interop.nnunet_declaration import consecutive, declaration, folder_name, nnunet_declaration, with_values
from autoseg.interop.nnunet_names import ARCHITECTURES, PLANNERS, TURNING_READERS, plain_name
from autoseg.interop.nnunet_plans import beyond_nnunet, complete_configuration_table, plans_table_of
from autoseg.plan import Configuration, Plan
from autoseg.progress import LoggingProgress, Progress
from autoseg.splits import FoldName
from autoseg.workspace import Workspace

_TRAINER = "nnUNetTrainer"
_ITERATIONS_PER_EPOCH = 250  # of nnU-Net's trainer
_PART_OF_BLOCK = re.compile(r"(.+)\.(conv|norm)\.(\w+)")
_STAGE_OF_CASCADE = "3d_cascade_fullres"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exported:
    """One configuration with its trained folds.

    Args:
        planned: As the plan has it.
        trained: As it was trained; its network may be smaller.
        folds: Fold -> checkpoint.
    """

    planned: Configuration
    trained: Configuration
    folds: dict[FoldName, Path]


def export_models(
    workspace: Workspace,
    output: Path,
    *,
    checkpoint: Literal["final", "best"] = "final",
    progress: Progress | None = None,
) -> list[Path]:
    """Write every trained configuration as a folder that nnU-Net v2 predicts from.

    Args:
        workspace: Has trained folds.
        output: nnU-Net's folder of results; the dataset's folder is made in it.
        checkpoint: Which weights become nnU-Net's checkpoint_final.pth.
        progress: Told what is written and what is left out; None logs.

    Returns:
        The model folders, ``<trainer>__<plans>__<configuration>``.

    Raises:
        MissingArtifactError: When nothing is trained.
        PlanError: When nnU-Net has no counterpart of any of the networks, or of the file ending.
    """
    progress = progress or LoggingProgress()
    plan = workspace.load_plan()
    declared, new_values = _declared(workspace, plan)
    if new_values:
        progress.message(
            f"nnU-Net wants labels 0, 1, 2, ...; its predictions will hold {new_values}, old value: new one"
        )
    if plan.orientation is not None:
        progress.message(
            f"trained on images in the orientation {plan.orientation}; nnU-Net takes images as they are stored, so "
            "give it none in another one"
        )
    exported, reasons = _exportable(workspace, plan, checkpoint, progress)
    if not exported:
        raise PlanError(f"no model can be exported: {'; '.join(reasons)}")
    folders = []
    for one in exported:
        table = _plans_of(workspace, plan, one, declared)
        name = plain_name(one.planned.name)
        folder = output / str(table["dataset_name"]) / f"{_TRAINER}__{table['plans_name']}__{name}"
        for fold, path in progress.track(one.folds.items(), total=len(one.folds), description=f"exporting {name}"):
            rows = read_rows(log) if (log := workspace.run(one.planned.name, fold).log).is_file() else ()
            content = _checkpoint_table(
                read_checkpoint(path), table, declared, configuration=name, fold=fold, rows=rows
            )
            with atomic_path(folder / f"fold_{fold}" / "checkpoint_final.pth") as temporary:
                torch.save(content, temporary)
        write_json(declared, folder / "dataset.json")
        write_json(table, folder / "plans.json")  # last: with it the folder is a model
        folders.append(folder)
    return folders


def with_repetitions(weights: Mapping[str, Tensor], *, has_dropout: bool = False) -> dict[str, Tensor]:
    """Parameters under every name that nnU-Net stores them under, in its order.

    Its blocks register convolution and normalization once more in ``all_modules``, and its decoder the encoder.

    Args:
        weights: Every parameter once, the encoder's first.
        has_dropout: Whether a layer without parameters stands between convolution and normalization.
    """
    places = {"conv": 0, "norm": 2 if has_dropout else 1}  # in all_modules
    blocks: dict[str, dict[str, Tensor]] = {}  # what stands by itself is a block of one
    for name, tensor in weights.items():
        part = _PART_OF_BLOCK.fullmatch(name)
        blocks.setdefault(part[1] if part else name, {})[name] = tensor
    repeated: dict[str, Tensor] = {}
    for block, parts in blocks.items():
        repeated.update(parts)
        for name, tensor in parts.items():
            if part := _PART_OF_BLOCK.fullmatch(name):
                repeated[f"{block}.all_modules.{places[part[2]]}.{part[3]}"] = tensor
    encoder = {name: tensor for name, tensor in repeated.items() if name.startswith("encoder.")}
    decoder = {name: tensor for name, tensor in repeated.items() if not name.startswith("encoder.")}
    return {**encoder, **{f"decoder.{name}": tensor for name, tensor in encoder.items()}, **decoder}


def _declared(workspace: Workspace, plan: Plan) -> tuple[dict[str, Any], dict[int, int]]:
    """dataset.json as nnU-Net wants it, and label values that change."""
    new_values = consecutive(plan.labels)
    own = nnunet_declaration(workspace.dataset_root) if workspace.has_dataset else {}
    num_training = own.get("numTraining", 0)
    if workspace.fingerprint_path.is_file():
        num_training = len(read_json(Fingerprint, workspace.fingerprint_path).cases)
    declared = declaration(
        own,
        with_values(plan.labels, new_values),
        channels=plan.channels,
        num_training=num_training,
        file_ending=plan.file_ending,
    )
    return declared, new_values


def _exportable(
    workspace: Workspace, plan: Plan, checkpoint: Literal["final", "best"], progress: Progress
) -> tuple[list[_Exported], list[str]]:
    """Trained configurations that nnU-Net can represent, and why others are left out."""
    found, reasons = list[_Exported](), list[str]()
    for planned in plan.configurations:
        folds = workspace.trained_folds(planned.name)
        runs = {fold: workspace.run(planned.name, fold) for fold in folds}
        paths = {fold: run.best if checkpoint == "best" else run.final for fold, run in runs.items()}
        there = {fold: path for fold, path in paths.items() if path.is_file()}
        if not there:
            continue
        trained = read_checkpoint(next(iter(there.values()))).record.configuration
        if reason := _foreign(trained):
            reasons.append(f"{planned.name}: nnU-Net has no network with {reason}")
            progress.message(f"{reasons[-1]}; it is left out")
            continue
        found.append(_Exported(planned=planned, trained=trained, folds=there))
    if not found and not reasons:
        raise MissingArtifactError(f"nothing is trained in {workspace.root}. Train first: autoseg train")
    return found, reasons


def _foreign(configuration: Configuration) -> str:
    """What makes a network one that nnU-Net's plans cannot describe; empty for nnU-Net's own."""
    network = configuration.network
    if configuration.slices is not None:
        return f"{configuration.context} slices as channels"
    if network.name not in ARCHITECTURES:
        return f"name={network.name}"
    return ", ".join(beyond_nnunet(network))


def _plans_of(workspace: Workspace, plan: Plan, one: _Exported, declared: Mapping[str, Any]) -> dict[str, Any]:
    """plans.json of a model: the configuration as it was trained, and what it needs beside it."""
    planner, suffix = _planner_of(one.planned.name)
    name = plain_name(one.planned.name)
    members = [replace(one.trained, name=name, previous_stage=None)]
    stage = one.trained.previous_stage
    if stage is not None:
        members.append(replace(plan.configuration(stage), name=plain_name(stage)))
    part = replace(plan, planner=planner, configurations=tuple(members))
    named = declared.get("overwrite_image_reader_writer")
    reader = None if named in (None, "None", *TURNING_READERS) else str(named)
    if reader is None and plan.orientation in TURNING_READERS.values() and not workspace.has_dataset:
        reader = next(reader for reader, turned in TURNING_READERS.items() if turned == plan.orientation)
    table = plans_table_of(
        part, name=folder_name(plan.dataset), file_ending=plan.file_ending, cases=_cases(workspace, plan), reader=reader
    )
    table["plans_name"] = f"{PLANNERS[planner].plans}{suffix}"
    if stage is not None:
        table["configurations"][name]["previous_stage"] = plain_name(stage)
        table["configurations"][plain_name(stage)] = {
            **complete_configuration_table(members[1], table["plans_name"], set()),
            "next_stage": _STAGE_OF_CASCADE,
        }
    return table


def _planner_of(name: str) -> tuple[str, str]:
    """The planner in a configuration's name, or the default one and what tells a variant's plans apart."""
    label = name.partition("@")[2]
    return (label or "unet", "") if not label or label in PLANNERS else ("unet", f"_{label}")


def _cases(workspace: Workspace, plan: Plan) -> Sequence[CaseFingerprint]:
    """The dataset's cases, whose medians are recorded; of an imported model one case that is the median."""
    if workspace.fingerprint_path.is_file():
        return read_json(Fingerprint, workspace.fingerprint_path).cases
    ndim = len(plan.transpose)
    places = [plan.transpose.index(axis) for axis in range(ndim)]
    shape = tuple(max(1, round(plan.median_shape[place])) for place in places)
    spacing = tuple(plan.median_spacing[place] for place in places)
    return [CaseFingerprint(id="median", spacing=spacing, shape=shape, cropped_shape=shape, orientation="?" * ndim)]


def _checkpoint_table(
    checkpoint: Checkpoint,
    plans: Mapping[str, Any],
    declared: Mapping[str, Any],
    *,
    configuration: str,
    fold: FoldName,
    rows: Sequence[EpochRow],
) -> dict[str, Any]:
    """What nnU-Net stores, as plain values and tensors; optimizer and history as at the start of fine-tuning."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    num_targets = len(checkpoint.record.labels.targets)
    return {
        "network_weights": with_repetitions(weights, has_dropout=checkpoint.record.configuration.network.dropout > 0),
        "optimizer_state": _optimizer_table(len(weights)),
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [row.val_dice for row in rows],
            "ema_fg_dice": [row.ema_dice for row in rows],
            "dice_per_class_or_region": [[float("nan")] * num_targets for _ in rows],
            "train_losses": [row.train_loss for row in rows],
            "val_losses": [row.val_loss for row in rows],
            "lrs": [row.learning_rate for row in rows],
            "epoch_start_timestamps": [0.0, *(row.seconds for row in rows)][: len(rows)],
            "epoch_end_timestamps": [row.seconds for row in rows],
        },
        "_best_ema": max((row.ema_dice for row in rows), default=None),
        "current_epoch": len(rows) or checkpoint.record.iterations // _ITERATIONS_PER_EPOCH,
        "init_args": {
            "plans": dict(plans),
            "configuration": configuration,
            "fold": fold,
            "dataset_json": dict(declared),
            "device": torch.device("cpu"),
        },
        "trainer_name": _TRAINER,
        "inference_allowed_mirroring_axes": checkpoint.record.mirror_axes or None,
    }


def _optimizer_table(num_parameters: int) -> dict[str, Any]:
    """The state of nnU-Net's optimizer before its first step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    fresh = torch.optim.SGD([parameter], lr=1e-2, momentum=0.99, weight_decay=3e-5, nesterov=True).state_dict()
    fresh["param_groups"][0]["params"] = list(range(num_parameters))
    return dict(fresh)
