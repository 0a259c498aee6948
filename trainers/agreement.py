"""run.json: the settings and the network that all folds of a configuration share, decided by the first."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from autoseg.codec import read_json, to_plain, write_json
from autoseg.communication import wait
from autoseg.errors import SettingsError
from autoseg.lock import hold
from autoseg.losses.factory import build_loss
from autoseg.networks.catalog import rules_of
from autoseg.networks.rules import TrainingDefaults
from autoseg.progress import Progress
from autoseg.training import RunRecord, TrainingJob
from autoseg.training_config import OptimizerName

from .sizing import ConcretePrecision, Sized, size_for_budget
from .step import step_timer

SGD_STEPS = 10_000
"""Steps below which AdamW is taken; a guess: far from where it was tried, and 100 times what momentum 0.99 averages."""

_WAIT_SECONDS = 600.0  # measuring step times for a time budget takes a while on slow devices

_DEFAULTS: dict[str, tuple[float, float]] = {
    "sgd": (1e-2, 3e-5),
    "adam": (3e-3, 3e-5),
    "adamw": (3e-3, 1e-2),
}  # learning rate, decay


def agree_on_run(job: TrainingJob, device: torch.device, progress: Progress) -> RunRecord:
    """Read the record of an earlier fold, or decide and write it.

    Args:
        job: The fold to train.
        device: Where step times are measured when a time budget asks for it.
        progress: Told what was decided and why.

    Raises:
        SettingsError: When the recorded settings differ from the job's; lists the differences.
    """
    path = job.run_record_path
    if not job.ranks.is_first:
        wait(job.ranks)  # for the first process to decide
        if not path.is_file():
            raise SettingsError(f"{path} was written by the first process and is not there; all must share its storage")
        return read_json(RunRecord, path)
    lock = path.with_name(".run.lock")
    with hold(lock, str(path), wait=_WAIT_SECONDS, tell=progress.message):  # two folds may begin at the same moment
        record = _read_or_decide(job, device, progress)
    wait(job.ranks)
    return record


def _read_or_decide(job: TrainingJob, device: torch.device, progress: Progress) -> RunRecord:
    path = job.run_record_path
    if path.is_file():
        record = read_json(RunRecord, path)
        _refuse_differences(record, job)
        return record
    record = _decide(job, device)
    for name, reason in record.reasons.items():
        progress.message(f"{name}: {reason}")
    write_json(record, path)
    return record


def _refuse_differences(record: RunRecord, job: TrainingJob) -> None:
    recorded, wanted = to_plain(record.settings), to_plain(job.config)
    names = [name for name in wanted if name not in ("loggers", "compile")]  # they change nothing in the result
    differences = [f"{name} {recorded[name]} -> {wanted[name]}" for name in names if recorded[name] != wanted[name]]
    trained, planned = to_plain(record.configuration), to_plain(job.configuration)
    # Width and batch may have been reduced for a time budget; everything else must still be what was planned.
    shared = ("spacing", "patch_size", "normalization", "resampling", "batch_dice", "previous_stage", "mirror_axes")
    differences += [f"{n} {trained[n]} -> {planned[n]}" for n in shared if trained[n] != planned[n]]
    if differences:
        raise SettingsError(
            f"{job.run_record_path} was made with other settings: {'; '.join(differences)}. "
            f"Repeat them, give the variant a name with --as NAME, or remove {job.run_record_path.parent}"
        )


def _decide(job: TrainingJob, device: torch.device) -> RunRecord:
    config, reasons = job.config, dict[str, str]()
    _refuse_unknown_loss(job)
    config.mirror_axes(job.configuration.ndim)
    configuration, precision = job.configuration, _default_precision(job, device)
    if config.batch_size is not None:
        configuration = replace(configuration, batch_size=config.batch_size)
        reasons["batch_size"] = f"batches of {config.batch_size} as asked for; planned {job.configuration.batch_size}"
    steps = None
    if config.time_budget is not None:
        sized = _size(replace(job, configuration=configuration), device, config.time_budget)
        configuration, precision = sized.configuration, sized.precision
        steps = config.time_budget / sized.seconds_per_step
        reasons["network"] = sized.reason
    published = rules_of(configuration.network).training
    optimizer, why = _choose_optimizer(config.optimizer, steps, published)
    if why:
        reasons["optimizer"] = why
    learning_rate, weight_decay = _DEFAULTS[optimizer]
    if optimizer == published.optimizer:
        learning_rate = published.learning_rate or learning_rate
        weight_decay = weight_decay if published.weight_decay is None else published.weight_decay
    return RunRecord(
        configuration=configuration,
        settings=config,
        optimizer=optimizer,
        learning_rate=learning_rate if config.learning_rate is None else config.learning_rate,
        weight_decay=weight_decay if config.weight_decay is None else config.weight_decay,
        precision=precision,
        reasons=reasons,
    )


def _refuse_unknown_loss(job: TrainingJob) -> None:
    """Build the loss once, before a record would tie the other folds to settings that cannot be trained."""
    build_loss(
        job.config.loss,
        labels=job.plan.labels,
        batch_dice=job.configuration.batch_dice,
        num_scales=1,
        extent=job.configuration.patch_extent,
    )


def _choose_optimizer(
    wanted: OptimizerName, steps: float | None, published: TrainingDefaults
) -> tuple[Literal["sgd", "adam", "adamw"], str]:
    if wanted != "auto":
        return wanted, ""
    if published.optimizer is not None:
        return published.optimizer, f"{published.optimizer}: how this network was published to be trained"
    if steps is None or steps >= SGD_STEPS:
        return "sgd", ""
    return "adamw", f"AdamW: the budget allows about {steps:.0f} steps, SGD with momentum 0.99 wants {SGD_STEPS}"


def _default_precision(job: TrainingJob, device: torch.device) -> ConcretePrecision:
    if job.config.precision != "auto":
        return job.config.precision
    return "float16" if device.type == "cuda" else "float32"


def _size(job: TrainingJob, device: torch.device, budget: float) -> Sized:
    precisions: tuple[ConcretePrecision, ...] = (_default_precision(job, device),)
    if job.config.precision == "auto" and device.type == "cpu":
        precisions = ("float32", "bfloat16")
    measure = step_timer(job.plan, replace(job.config, time_budget=None), device, num_processes=job.ranks.size)
    if job.config.pretrained is not None:
        seconds, fastest = min((measure(job.configuration, p), p) for p in precisions)
        reason = f"as planned, so that the pretrained weights fit: {seconds:.3f} s per step in {fastest}"
        return Sized(configuration=job.configuration, precision=fastest, seconds_per_step=seconds, reason=reason)
    return size_for_budget(job.configuration, budget=budget, precisions=precisions, measure=measure)
