"""autoseg train."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, messages, output
from autoseg.cli.options import (
    Device,
    Directory,
    Network,
    Workers,
    WorkspaceDir,
    accept_network,
    every_part,
    find_workspace,
)
from autoseg.durations import parse_duration
from autoseg.errors import SettingsError
from autoseg.presets import preset_settings
from autoseg.ranks import ALONE, Ranks
from autoseg.workspace import Workspace

if TYPE_CHECKING:
    from autoseg.pipeline.engines import FoldCommand, JobNeeds
    from autoseg.pipeline.jobs import Engine
    from autoseg.pipeline.train import TrainingReport
    from autoseg.training_config import TrainingConfig


@command("train")
def train(
    configuration: Annotated[str, typer.Argument(help="For instance 3d_fullres; all stands for every one.")],
    fold: Annotated[str | None, typer.Argument(help="fold0 or 0; all = one model on all cases; none = missing")] = None,
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs (default 1000).")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Optimizer steps in all.")] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="Wall time, such as 15m; the schedule and the network are fitted to it.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, name=value; repeatable.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Settings of a published system: aicup, mnms2, cm_trancaf, sennet, spine.")
    ] = None,
    variant: Annotated[str | None, typer.Option("--as", help="Store the variant as CONFIGURATION@NAME.")] = None,
    pretrained: Annotated[
        Path | None, typer.Option(help="Begin with the weights of this checkpoint, autoseg's or nnU-Net's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, patches and augmentation.")] = None,
    network: Network = None,
    device: Device = "auto",
    workers: Workers = None,
    *,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Repeat bit for bit on a GPU too; slower.")
    ] = False,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Predict and score held-out cases.")] = False,
    engine: Annotated[str, typer.Option(help="Where missing folds are trained: local, ray or slurm.")] = "local",
    gpus_per_job: Annotated[
        int | None, typer.Option(min=0, help="With an engine: GPUs of each fold.", show_default="1 where there are any")
    ] = None,
    cpus_per_job: Annotated[
        int | None, typer.Option(min=1, help="With an engine: processors of each fold.", show_default="4")
    ] = None,
    slurm: Annotated[
        list[str] | None, typer.Option("--slurm", help="Option of sbatch, such as partition=gpu; repeatable.")
    ] = None,
) -> None:
    """Train a fold, then predict and score its held-out cases; an interrupted run goes on."""
    if sum(option is not None for option in (epochs, iterations, time_budget)) > 1:
        raise SettingsError("--epochs, --iterations and --time-budget exclude each other; give one")
    if validate_only and fold is None:
        raise SettingsError("--validate-only needs a fold, for instance fold0")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may not repeat; read at start
    # These import torch, which takes seconds: only after the words are known to be right.
    from autoseg.communication import joined
    from autoseg.device import choose_device
    from autoseg.interop.pretrained import load_pretrained
    from autoseg.training_config import TrainingConfig

    given: dict[str, object] = {"epochs": epochs, "iterations": iterations, "seed": seed}
    given["deterministic"] = deterministic or None
    given["time_budget"] = None if time_budget is None else parse_duration(time_budget)
    assignments = [*(settings or ()), *_assignments(given)]
    accept_network(network)
    asked = [*(settings or ()), *_assignments(given)]
    assignments = [*(preset_settings(preset, asked) if preset else ()), *asked]
    config = TrainingConfig().with_settings(assignments)
    weights = None if pretrained is None else load_pretrained(pretrained)
    parts, progress, ranks = every_part(find_workspace(directory, workspace)), ConsoleProgress(), started_ranks()
    if config.time_budget is not None and fold is None:  # that of the whole command
        config = replace(config, time_budget=config.time_budget / len(parts))
    if engine != "local" or gpus_per_job is not None or cpus_per_job is not None or slurm:
        if fold is not None or not ranks.is_alone:
            raise SettingsError("--engine trains every missing fold; leave out FOLD, and do not start it with torchrun")
        needs = _needs(gpus_per_job, cpus_per_job, slurm or ())
        for part in parts:
            shared = _with_budget_share(assignments, config, part, configuration)
            options = _words(shared, variant=variant, device=device, workers=workers, pretrained=pretrained)
            options += [] if network is None else ["--network", network]
            _train_elsewhere(engine, part, configuration, options, needs, variant, progress)
        return
    messages.quiet = messages.quiet or not ranks.is_first
    if not ranks.is_alone:
        device = choose_device(device, local_rank=ranks.local_rank)
    with joined(ranks, device):
        _train_here(
            parts,
            configuration,
            fold,
            validate_only=validate_only,
            config=config,
            variant=variant,
            device=device,
            workers=workers,
            pretrained=weights,
            ranks=ranks,
            progress=progress,
        )


def _train_here(
    parts: Sequence[Workspace],
    configuration: str,
    fold: str | None,
    *,
    ranks: Ranks,
    progress: ConsoleProgress,
    **options: Any,  # noqa: ANN401 - handed on
) -> None:
    """Train in every workspace, and tell what came of it; only the first process speaks."""
    for part in parts:
        trained = []
        for report in _reports(part, configuration, fold, ranks=ranks, progress=progress, **options):
            trained.append(report.configuration)
            if ranks.is_first:
                output.print(report.summary(), markup=False, highlight=False)
        if ranks.is_first:
            _tell_of_all_folds(part, configuration, trained, progress)


def _tell_of_all_folds(
    workspace: Workspace, configuration: str, trained: Sequence[str], progress: ConsoleProgress
) -> None:
    """Once the last fold of a configuration is there, say what all of them came to."""
    from autoseg.pipeline.cross_validation import cross_validation

    if not trained:
        progress.message(_nothing_to_do(configuration))
    for name in dict.fromkeys(trained):
        if (whole := cross_validation(workspace, name)) is not None:
            output.print(whole.summary(), markup=False, highlight=False)


def _nothing_to_do(configuration: str) -> str:
    return f"nothing to do: every fold of {configuration} is trained. Next: autoseg ensemble-predict"


def _reports(
    workspace: Workspace,
    configuration: str,
    fold: str | None,
    *,
    validate_only: bool,
    **options: Any,  # noqa: ANN401 - handed on
) -> Iterator[TrainingReport]:
    """Train the fold, or every missing one."""
    from autoseg.pipeline.train import train as train_fold
    from autoseg.pipeline.train import train_missing

    if fold is None:
        yield from train_missing(workspace, [configuration], **options)
    else:
        yield train_fold(workspace, configuration, fold, validate_only=validate_only, **options)


def _train_elsewhere(
    name: str,
    workspace: Workspace,
    configuration: str,
    options: Sequence[str],
    needs: JobNeeds,
    variant: str | None,
    progress: ConsoleProgress,
) -> None:
    """Train every missing fold with Ray or Slurm.

    Raises:
        SettingsError: When the engine is unknown, or its package is not installed.
    """
    from autoseg.pipeline.engines import FoldCommand, RayEngine, SlurmEngine
    from autoseg.pipeline.train import train_on

    engines: dict[str, Callable[[FoldCommand, JobNeeds], Engine]] = {"ray": RayEngine, "slurm": SlurmEngine}
    if name == "local":
        raise SettingsError("--gpus-per-job, --cpus-per-job and --slurm need --engine ray or slurm")
    if name not in engines:
        raise SettingsError(f"--engine {name}: choose local, ray or slurm")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home; read when it is imported
    engine = engines[name](FoldCommand(workspace=workspace, options=tuple(options)), needs)
    trained = train_on(engine, workspace, [configuration], variant=variant, progress=progress)
    for job in trained:
        output.print(f"{job}: trained", markup=False, highlight=False)
    if not trained:
        progress.message(_nothing_to_do(configuration))


def _with_budget_share(
    assignments: Sequence[str], config: TrainingConfig, workspace: Workspace, configuration: str
) -> list[str]:
    """The settings of one fold as words; a time budget is that of the whole command."""
    from autoseg.pipeline.train import with_budget_share

    share = with_budget_share(config, workspace, [configuration]).time_budget
    others = [words for words in assignments if not words.startswith("time_budget=")]
    return [*others, *_assignments({"time_budget": share})]


def _words(
    assignments: Sequence[str], *, variant: str | None, device: str, workers: int | None, pretrained: Path | None
) -> list[str]:
    """The options of this command as another process is given them."""
    weights = None if pretrained is None else str(pretrained.resolve())
    given = {"--as": variant, "--device": device, "--workers": workers, "--pretrained": weights}
    words = [word for assignment in assignments for word in ("--set", assignment)]
    return [*words, *(str(word) for option, value in given.items() if value is not None for word in (option, value))]


def _needs(gpus: int | None, cpus: int | None, slurm: Sequence[str]) -> JobNeeds:
    from autoseg.pipeline.engines import JobNeeds

    if wrong := [option for option in slurm if not option.partition("=")[2]]:
        raise SettingsError(f"--slurm {wrong[0]}: write it as in partition=gpu")
    return JobNeeds(gpus=gpus, cpus=cpus, slurm=dict((option.split("=", 1)) for option in slurm))


def _assignments(given: Mapping[str, object]) -> list[str]:
    """Options as settings, those that were given."""
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def started_ranks() -> Ranks:
    """The place of this process among those that torchrun started; a process alone without it.

    Raises:
        SettingsError: When the environment is not as torchrun makes it.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "MASTER_ADDR" not in os.environ or not set(names) <= set(os.environ):
        return ALONE
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in names)
        return Ranks(rank=rank, size=size, local_rank=local_rank)
    except ValueError as error:
        raise SettingsError(f"RANK, WORLD_SIZE and LOCAL_RANK are not as torchrun sets them: {error}") from None
