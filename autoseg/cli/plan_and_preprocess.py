"""autoseg plan-and-preprocess."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.dataset_options import (
    ChannelNames,
    Dataset,
    Images,
    LabelMap,
    Labels,
    LabelValues,
    Table,
    dataset_source,
)
from autoseg.cli.options import Directory, Workers, WorkspaceDir
from autoseg.errors import SettingsError

GpuMemory = Annotated[
    float | None, typer.Option("--gpu-memory", min=0.01, help="GPU memory in GiB to size networks for.")
]
Spacing = Annotated[
    tuple[float, float, float] | None,
    typer.Option("--spacing", metavar="Z Y X", help="Full-resolution target spacing in mm."),
]
Configurations = Annotated[
    list[str] | None, typer.Option("--configurations", help="Preprocess only this one; repeatable.")
]


@command("plan-and-preprocess")
def plan_and_preprocess(
    dataset: Dataset = None,
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    images: Images = None,
    labels: Labels = None,
    table: Table = None,
    channel_name: ChannelNames = None,
    label: LabelValues = None,
    label_map: LabelMap = None,
    planner: Annotated[str, typer.Option("--planner", help="unet, resenc_m, resenc_l, resenc_xl, ...")] = "unet",
    gpu_memory: GpuMemory = None,
    spacing: Spacing = None,
    configurations: Configurations = None,
    workers: Workers = None,
) -> None:
    """Look at a dataset, plan the networks and prepare its cases; a second run does what is missing."""
    from autoseg.cli.plan_table import print_plan
    from autoseg.pipeline.prepare import plan_and_preprocess as prepare

    if spacing is not None and min(spacing) <= 0:
        raise SettingsError(f"--spacing must be positive millimetres, got {spacing}")
    source = dataset_source(
        directory if dataset is None else dataset,
        images=images,
        labels=labels,
        table=table,
        channel_names=channel_name,
        label_values=label,
        label_map=label_map,
    )
    found = prepare(
        source,
        workspace=workspace,
        planner=planner,
        gpu_memory_gb=gpu_memory,
        spacing=spacing,
        configurations=configurations,
        workers=workers,
        progress=ConsoleProgress(),
    )
    plan = found.load_plan()
    print_plan(plan)
    following = "3d_fullres" if "3d_fullres" in plan.configuration_names else plan.configuration_names[0]
    output.print(f"next: autoseg train {following} fold0 -w {found.root}", markup=False, highlight=False)
