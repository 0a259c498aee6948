"""Train folds, predict their held-out cases at full size and score them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.atomic import remove_leftovers
from autoseg.codec import write_json
from autoseg.communication import wait
from autoseg.dataset import load_dataset
from autoseg.device import choose_device, loader_workers
from autoseg.errors import AutosegError, JobsFailedError, LockedError, MissingArtifactError, SettingsError
from autoseg.lock import hold
from autoseg.networks.transfer import PretrainedWeights
from autoseg.pipeline.cascade import find_previous
from autoseg.pipeline.case_weights import weigh_cases
from autoseg.pipeline.folds import load_folds
from autoseg.pipeline.held_out import is_scored, predict_held_out
from autoseg.pipeline.jobs import Engine, FoldJob, follow, hindrance, with_dependencies
from autoseg.pipeline.pseudo_labels import completed_cases, label_unannotated
from autoseg.plan import Configuration, Plan
from autoseg.planning import memory_warnings
from autoseg.preprocessing.store import CaseStore, verify_cases
from autoseg.progress import LoggingProgress, Progress, SilentProgress
from autoseg.ranks import ALONE, Ranks
from autoseg.splits import Fold, FoldName, fold_dir_name, parse_fold
from autoseg.training import TRAINERS, RunRecord, TrainingJob
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

_PLAN_WAIT_SECONDS = 30.0  # for another command that changes plan.json at this moment


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What training a fold came to.

    Args:
        configuration: Its name.
        fold: "fold0", ..., "fold_all".
        iterations: Optimizer steps in all.
        seconds: Wall time of training with its validation passes.
        dice: Target name -> mean Dice over the held-out cases; empty for the fold of all cases.
        mean_dice: Mean over targets; None without held-out cases.
        results: Folder with checkpoints, log and validation.
        record: What was trained.
    """

    configuration: str
    fold: str
    iterations: int
    seconds: float
    dice: dict[str, float | None]
    mean_dice: float | None
    results: Path
    record: RunRecord

    def summary(self) -> str:
        """One line for people."""
        scores = ", ".join(f"{n} {'undefined' if d is None else f'{d:.3f}'}" for n, d in self.dice.items())
        scored = "no held-out cases" if self.mean_dice is None else f"held-out Dice {self.mean_dice:.3f} ({scores})"
        return (
            f"{self.configuration} {self.fold}: {self.iterations} iterations in {self.seconds:.0f} s, "
            f"{scored}; {self.results}"
        )


def train(
    workspace: Workspace | Path | str,
    configuration: str,
    fold: str | int,
    *,
    config: TrainingConfig | None = None,
    variant: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    validate_only: bool = False,
    pretrained: PretrainedWeights | None = None,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train one fold, or go on with it; then predict its held-out cases.

    Args:
        workspace: Holds the plan and the preprocessed cases; or its folder, or its dataset's.
        configuration: Name in the plan, e.g. "3d_fullres".
        fold: "fold0", "0", 0 or "all".
        config: Settings; None takes the defaults.
        variant: Store as ``configuration@variant`` with results of its own.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        workers: Loader processes; None chooses.
        validate_only: Do not train; predict and score with the final checkpoint.
        pretrained: Weights to begin with; see :func:`autoseg.interop.pretrained.load_pretrained`.
        ranks: The processes that train the fold together, each with the same arguments but for its device, within
            :func:`autoseg.communication.joined`.
        progress: Told what happens; None logs.

    Raises:
        AutosegError: When the configuration, the fold or an artifact is missing or contradicts the settings.
    """
    workspace = Workspace.of(workspace)
    progress = (progress or LoggingProgress()) if ranks.is_first else SilentProgress()
    config = config or TrainingConfig()
    if pretrained is not None:
        config = replace(config, pretrained=pretrained.identity)
    if not ranks.is_first:
        wait(ranks)  # the first one may add a variant to the plan
    planned = _with_variant(workspace, workspace.load_plan(), configuration, variant)
    if ranks.is_first:
        wait(ranks)
    folds = load_folds(workspace)
    fold_name = parse_fold(str(fold), num_folds=len(folds))
    for warning in memory_warnings(workspace.load_plan(), [planned.name]):
        progress.message(f"warning: {workspace.plan_path}: {warning}")
    job = _job(workspace, planned, folds, fold_name, config, choose_device(device), workers)
    weights = weigh_cases(
        config.case_weights,
        job.fold.train,
        workspace=workspace,
        store=CaseStore(job.preprocessed_dir),
        labels=job.plan.labels,
    )
    job = replace(job, pretrained=pretrained, case_weights=weights, ranks=ranks)
    if validate_only and not job.run.final.is_file():
        raise MissingArtifactError(
            f"{planned.name} {fold_dir_name(fold_name)} has no final checkpoint to validate. "
            f"Train it first: autoseg train {planned.name} {fold_dir_name(fold_name)}"
        )
    what = f"{planned.name} {fold_dir_name(fold_name)}"
    with hold(job.run.lock, what, tell=progress.message) if ranks.is_first else nullcontext():
        return _train_and_score(workspace, job, progress, score=fold_name != "all", again=validate_only)


def _train_and_score(
    workspace: Workspace, job: TrainingJob, progress: Progress, *, score: bool, again: bool
) -> TrainingReport:
    if job.ranks.is_first:
        remove_leftovers(job.run.root)
        if not job.run.final.is_file():
            verify_cases(job.preprocessed_dir, [*job.fold.train, *job.fold.val])
        label_unannotated(workspace, job, progress)
    wait(job.ranks)
    job = replace(job, completed=completed_cases(job))
    trainer = TRAINERS.get(job.config.trainer, allow_reference=True)()
    fitted = trainer.fit(job, progress)
    wait(job.ranks)  # for the checkpoints, which the first one writes
    scores: dict[str, float | None] = {}
    mean: float | None = None
    if score:
        dataset = load_dataset(workspace.dataset_source)
        evaluation = predict_held_out(job, dataset, progress, again=again)
        scores = {name: metrics.get("dice") for name, metrics in evaluation.labels.items()}
        mean = evaluation.mean.get("dice")
    return TrainingReport(
        configuration=job.configuration.name,
        fold=job.fold_name,
        iterations=fitted.iterations,
        seconds=fitted.seconds,
        dice=scores,
        mean_dice=mean,
        results=job.run.root,
        record=fitted.record,
    )


def train_missing(
    workspace: Workspace | Path | str,
    configurations: Sequence[str],
    *,
    config: TrainingConfig | None = None,
    variant: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    pretrained: PretrainedWeights | None = None,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Iterator[TrainingReport]:
    """Train every fold that has no scores yet, in an order in which nothing waits for something later.

    A time budget is that of the whole command: each fold of each configuration gets an equal share, whether it is
    still missing or not, so that repeating an interrupted command gives the missing folds the same share.

    Args:
        workspace: Holds the plan and the preprocessed cases; or its folder, or its dataset's.
        configurations: Names in the plan; "all" alone stands for every one.
        config: Settings of every fold.
        variant: Store as ``configuration@variant``.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        workers: Loader processes; None chooses.
        pretrained: Weights that every fold begins with.
        ranks: The processes that train every fold together.
        progress: Told what happens; None logs.

    Yields:
        One report per trained fold.

    Raises:
        JobsFailedError: In the end, when some folds could not be trained; of a cascade those are left out that wait
            for them.
    """
    workspace = Workspace.of(workspace)
    progress = (progress or LoggingProgress()) if ranks.is_first else SilentProgress()
    config = config or TrainingConfig()
    _, jobs = missing_jobs(workspace, configurations, variant)
    config = with_budget_share(config, workspace, configurations)
    failures: dict[str, str] = {}
    for job in jobs:
        if reason := hindrance(job, failures):
            failures[job.name] = reason
            continue
        progress.message(f"training {job.name}")
        try:
            yield train(
                workspace,
                job.configuration,
                job.fold,
                config=config,
                variant=variant,
                device=device,
                workers=workers,
                pretrained=pretrained,
                ranks=ranks,
                progress=progress,
            )
        except LockedError as error:
            if not ranks.is_alone:
                raise
            progress.message(f"{job.name} is left to whoever works on it: {error}")
        except SettingsError:
            raise  # would be the same with every fold
        except AutosegError as error:
            if len(jobs) == 1 or not ranks.is_alone:
                raise
            failures[job.name] = str(error)
            progress.message(f"{job.name} failed, the others go on: {error}")
    if failures:
        raise JobsFailedError(failures)


def with_budget_share(config: TrainingConfig, workspace: Workspace, configurations: Sequence[str]) -> TrainingConfig:
    """The settings of one fold, where a time budget is that of the whole command.

    Every fold of every configuration has the same share, whether it is still missing or not, and wherever it is
    trained: folds that run side by side end the sooner, and a command that is repeated elsewhere asks for the same.

    Args:
        config: Settings of the command.
        workspace: Planned.
        configurations: Names in the plan; "all" alone stands for every one.
    """
    if config.time_budget is None:
        return config
    num_folds = len(_names(workspace.load_plan(), configurations)) * len(load_folds(workspace))
    return replace(config, time_budget=config.time_budget / num_folds)


def train_on(
    engine: Engine,
    workspace: Workspace,
    configurations: Sequence[str],
    *,
    variant: str | None = None,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Train every fold that has no scores yet, wherever the engine trains them.

    Args:
        engine: See :mod:`autoseg.pipeline.engines`; closed in the end.
        workspace: On storage that all machines of the engine share.
        configurations: Names in the plan; "all" alone stands for every one.
        variant: Store as ``configuration@variant``.
        progress: Told what happens; None logs.

    Returns:
        Names of the folds that were trained.

    Raises:
        JobsFailedError: When some could not be trained; the others were.
    """
    _, jobs = missing_jobs(workspace, configurations, variant)
    for name in dict.fromkeys(job.configuration for job in jobs):
        _with_variant(workspace, workspace.load_plan(), name, variant)  # once, before jobs would do it side by side
    failures = follow(jobs, engine, progress or LoggingProgress())
    if failures:
        raise JobsFailedError(failures)
    return tuple(job.name for job in jobs)


def missing_jobs(
    workspace: Workspace, configurations: Sequence[str], variant: str | None
) -> tuple[tuple[str, ...], tuple[FoldJob, ...]]:
    """Names of configurations, and their folds that have no scores yet, in an order in which nothing waits for later.

    Args:
        workspace: Planned.
        configurations: Names in the plan; "all" alone stands for every one.
        variant: Name of the variant to train.

    Raises:
        PlanError: When the plan lacks a configuration.
    """
    plan, folds = workspace.load_plan(), load_folds(workspace)
    names = _names(plan, configurations)
    stored = {name: name if variant is None else f"{name}@{variant}" for name in names}
    jobs = [
        FoldJob(configuration=name, stored=stored[name], fold=fold)
        for name in names
        for fold, cases in enumerate(folds)
        if not is_scored(workspace.run(stored[name], fold), plan, stored[name], cases)
    ]
    stages = {name: plan.configuration(name).previous_stage for name in names}
    previous = {stored[name]: None if stage is None else stored.get(stage, stage) for name, stage in stages.items()}
    return names, with_dependencies(jobs, previous)


def _names(plan: Plan, configurations: Sequence[str]) -> tuple[str, ...]:
    return trainable(plan) if list(configurations) == ["all"] else tuple(configurations)


def trainable(plan: Plan) -> tuple[str, ...]:
    """Configurations in training order: what is a previous stage of another one first."""
    previous = {c.previous_stage for c in plan.configurations}
    ordered = sorted(plan.configurations, key=lambda c: (c.previous_stage is not None, c.name not in previous))
    return tuple(c.name for c in ordered)


def _cases_of(fold: FoldName, folds: Sequence[Fold]) -> Fold:
    if fold != "all":
        return folds[fold]
    every = tuple(sorted({case for f in folds for case in (*f.train, *f.val)}))
    return Fold(train=every, val=every)


def _with_variant(workspace: Workspace, plan: Plan, name: str, variant: str | None) -> Configuration:
    """The planned configuration; a new variant is added to plan.json, so that everything later finds it by name."""
    if variant is None:
        return plan.configuration(name)
    with hold(workspace.plan_lock, str(workspace.plan_path), wait=_PLAN_WAIT_SECONDS):
        return _added_variant(workspace, workspace.load_plan(), name, variant)


def _added_variant(workspace: Workspace, plan: Plan, name: str, variant: str) -> Configuration:
    planned = plan.configuration(name)
    if not variant.replace("_", "").replace("-", "").isalnum():
        raise SettingsError(f"--as {variant}: a name of letters, digits, - and _ is needed")
    stored_name = f"{name}@{variant}"
    if stored_name in plan.configuration_names:
        return plan.configuration(stored_name)
    previous = f"{planned.previous_stage}@{variant}"
    added = replace(
        planned,
        name=stored_name,
        # The second stage of a variant follows the variant's first stage, where that exists.
        previous_stage=previous if previous in plan.configuration_names else planned.previous_stage,
        reasons={**planned.reasons, "name": f"variant of {name}"},
    )
    write_json(replace(plan, configurations=(*plan.configurations, added)), workspace.plan_path)
    return added


def _job(
    workspace: Workspace,
    configuration: Configuration,
    folds: Sequence[Fold],
    fold_name: FoldName,
    config: TrainingConfig,
    device: str,
    workers: int | None,
) -> TrainingJob:
    fold = _cases_of(fold_name, folds)
    preprocessed_dir = workspace.preprocessed_dir(configuration.data)
    stored = set(CaseStore(preprocessed_dir).case_ids())
    if missing := sorted({*fold.train, *fold.val} - stored):
        raise MissingArtifactError(
            f"{len(missing)} case(s) of {configuration.name} are not preprocessed, the first is {missing[0]}. "
            "Go on with: autoseg plan-and-preprocess"
        )
    return TrainingJob(
        plan=workspace.load_plan(),
        configuration=configuration,
        fold=fold,
        fold_name=fold_dir_name(fold_name),
        preprocessed_dir=preprocessed_dir,
        run=workspace.run(configuration.name, fold_name),
        run_record_path=workspace.run_record_path(configuration.name),
        config=config,
        device=device,
        workers=loader_workers(workers, device),
        previous=find_previous(workspace, configuration, folds, sorted({*fold.train, *fold.val})),
    )
