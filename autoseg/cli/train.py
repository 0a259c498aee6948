"""autoseg train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Device, Directory, Workers, WorkspaceDir, find_workspace, parse_duration
from autoseg.errors import SettingsError


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
    variant: Annotated[str | None, typer.Option("--as", help="Store the variant as CONFIGURATION@NAME.")] = None,
    pretrained: Annotated[
        Path | None, typer.Option(help="Begin with the weights of this checkpoint, autoseg's or nnU-Net's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, patches and augmentation.")] = None,
    device: Device = "auto",
    workers: Workers = None,
    *,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Repeat bit for bit on a GPU too; slower.")
    ] = False,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Predict and score held-out cases.")] = False,
) -> None:
    """Train a fold, then predict and score its held-out cases; an interrupted run goes on."""
    if sum(option is not None for option in (epochs, iterations, time_budget)) > 1:
        raise SettingsError("--epochs, --iterations and --time-budget exclude each other; give one")
    if validate_only and fold is None:
        raise SettingsError("--validate-only needs a fold, for instance fold0")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may not repeat; read at start
    # Both import torch, which takes seconds: only after the words are known to be right.
    from autoseg.interop.pretrained import load_pretrained
    from autoseg.pipeline.train import train as train_fold
    from autoseg.pipeline.train import train_missing
    from autoseg.training_config import TrainingConfig

    assignments = list(settings or ())
    given = {"epochs": epochs, "iterations": iterations, "seed": seed}
    assignments += [f"{name}={value}" for name, value in given.items() if value is not None]
    if deterministic:
        assignments.append("deterministic=true")
    if time_budget is not None:
        assignments.append(f"time_budget={parse_duration(time_budget)}")
    config = TrainingConfig().with_settings(assignments)
    weights = None if pretrained is None else load_pretrained(pretrained)
    found, progress = find_workspace(directory, workspace), ConsoleProgress()
    if fold is None:
        reports = train_missing(
            found,
            [configuration],
            config=config,
            variant=variant,
            device=device,
            workers=workers,
            pretrained=weights,
            progress=progress,
        )
        num_trained = 0
        for report in reports:
            output.print(report.summary(), markup=False, highlight=False)
            num_trained += 1
        if num_trained == 0:
            progress.message(f"nothing to do: every fold of {configuration} is trained. Next: autoseg ensemble-predict")
        return
    report = train_fold(
        found,
        configuration,
        fold,
        config=config,
        variant=variant,
        device=device,
        workers=workers,
        validate_only=validate_only,
        pretrained=weights,
        progress=progress,
    )
    output.print(report.summary(), markup=False, highlight=False)
