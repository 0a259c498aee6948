"""autoseg preset list, show and train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from autoseg.cli.app import app, command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.dataset_options import ChannelNames, Images, LabelMap, Labels, LabelValues, dataset_source
from autoseg.cli.dataset_options import Table as DatasetTable
from autoseg.cli.options import Device, Workers, WorkspaceDir, every_part
from autoseg.cli.plan_and_preprocess import Folds, GpuMemory
from autoseg.durations import parse_duration
from autoseg.errors import SettingsError
from autoseg.presets import PRESETS, Preset, find_preset
from autoseg.splits import SplitRule
from autoseg.workspace import Workspace

preset_app = typer.Typer(help="Published systems as values: list them, see why, train one.", no_args_is_help=True)
app.add_typer(preset_app, name="preset")

Name = Annotated[str, typer.Argument(help="A name from autoseg preset list.")]


@command("list", group=preset_app)
def list_presets() -> None:
    """Print every preset with what it is for."""
    table = Table("preset", "trains", "for", box=None, pad_edge=False)
    for preset in PRESETS.values():
        table.add_row(preset.name, preset.stored_as, preset.summary)
    output.print(table)


@command("show", group=preset_app)
def show(name: Name) -> None:
    """Print each value of a preset with its reason and its source, and what it leaves out."""
    preset = find_preset(name)
    output.print(f"{preset.name}: {preset.summary}", markup=False, highlight=False)
    table = Table(
        Column("stage", no_wrap=True), Column("value", no_wrap=True), "why", "source", box=None, pad_edge=False
    )
    for stage, row in preset.rows():
        table.add_row(stage, row.value, row.why, row.source)
    output.print(table)
    for left_out in preset.left_out:
        output.print(f"not done: {left_out.what}; instead: {left_out.instead}", markup=False, highlight=False)


@command("train", group=preset_app)
def train(
    name: Name,
    dataset: Annotated[Path, typer.Argument(help="Folder of the dataset.")],
    fold: Annotated[str, typer.Argument(help="fold0 or 0; all = one model on all cases.")] = "fold0",
    workspace: WorkspaceDir = None,
    images: Images = None,
    labels: Labels = None,
    table: DatasetTable = None,
    channel_name: ChannelNames = None,
    label: LabelValues = None,
    label_map: LabelMap = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the preset's length.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Optimizer steps, instead of it.")] = None,
    time_budget: Annotated[str | None, typer.Option(help="Wall time, such as 15m, instead of it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Overrides a setting; repeatable.")] = None,
    gpu_memory: GpuMemory = None,
    folds: Folds = None,
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Plan with a preset's values, preprocess, and train a fold; a second run does what is missing."""
    preset = find_preset(name)
    lengths: dict[str, float | None] = {"epochs": epochs, "iterations": iterations}
    lengths["time_budget"] = None if time_budget is None else parse_duration(time_budget)
    given = [f"{length}={value}" for length, value in lengths.items() if value is not None]
    if len(given) > 1:
        raise SettingsError("--epochs, --iterations and --time-budget exclude each other; give one")
    from autoseg.cli.plan_table import print_plan
    from autoseg.pipeline.preset_training import prepare_preset, train_preset
    from autoseg.presets import preset_settings
    from autoseg.training_config import TrainingConfig

    asked = [*(settings or ()), *given]
    TrainingConfig().with_settings([*preset_settings(name, asked), *asked])  # a typo should not cost a preprocessing
    progress = ConsoleProgress()
    split = None if folds is None else SplitRule(num_folds=folds)
    source = dataset_source(
        dataset,
        images=images,
        labels=labels,
        table=table,
        channel_names=channel_name,
        label_values=label,
        label_map=label_map,
    )
    space = prepare_preset(
        preset,
        source,
        workspace=workspace,
        gpu_memory_gb=gpu_memory,
        split=split,
        workers=workers,
        progress=progress,
    )
    for part in every_part(space):
        print_plan(part.load_plan())
        patch = part.load_plan().configuration(preset.stored_as).reasons["patch_size"]
        progress.message(f"patch: {patch}")
        report = train_preset(preset, part, fold, asked=asked, device=device, workers=workers, progress=progress)
        output.print(report.summary(), markup=False, highlight=False)
    _print_next(preset, space)


def _print_next(preset: Preset, space: Workspace) -> None:
    """What follows training, with the preset's own values."""
    labels = tuple(target.name for target in every_part(space)[0].load_plan().labels.targets)
    words = [word for step in preset.steps_for(labels) for word in ("--postprocessing", step)]
    folder = ["-w", str(space.root)]
    if words:
        output.print(f"next: autoseg select {shlex.join([*folder, *words])}", markup=False, highlight=False)
    views = [] if preset.views is None else ["--tta", preset.views.value]
    for wanted in preset.outputs:
        option, _, value = wanted.value.partition("=")
        views += [f"--{option}", value]
    predict = shlex.join([*folder, "--members", preset.stored_as, *views])
    output.print(f"{'or' if words else 'next'}: autoseg ensemble-predict {predict}", markup=False, highlight=False)
    if preset.metrics is not None:
        scored = f"autoseg evaluate -m {preset.metrics.value} -r REFERENCES -p {space.root / 'predictions'}"
        output.print(f"then: {scored}", markup=False, highlight=False)
