"""autoseg plan-and-preprocess."""

from __future__ import annotations

from functools import partial
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
from autoseg.cli.options import (
    Device,
    Directory,
    Network,
    SliceAxes,
    Workers,
    WorkspaceDir,
    accept_network,
    every_part,
    parse_axes,
)
from autoseg.codec import from_plain
from autoseg.errors import ArtifactError, SettingsError
from autoseg.splits import SplitRule

GpuMemory = Annotated[
    float | None, typer.Option("--gpu-memory", min=0.01, help="GPU memory in GiB to size networks for.")
]
Spacing = Annotated[
    tuple[float, float, float] | None,
    typer.Option("--spacing", metavar="Z Y X", help="Full-resolution target spacing in mm."),
]
Normalization = Annotated[
    list[str] | None,
    typer.Option(
        "--normalization",
        metavar="[CHANNEL=]STEPS",
        help="Instead of the planner's choice: CT=window(-42,423), n4+zscore, histogram+zscore+clahe; repeatable.",
    ),
]
Configurations = Annotated[
    list[str] | None, typer.Option("--configurations", help="Preprocess only this one; repeatable.")
]
Folds = Annotated[int | None, typer.Option("--folds", min=2, help="Number of folds; default 5.", show_default=False)]
SplitBy = Annotated[
    str | None, typer.Option("--split-by", help="group: keep groups together; domain: hold out one domain per fold.")
]
Stratify = Annotated[
    str | None, typer.Option("--stratify", help="domain or labels: give every fold its share of each.")
]

NetworkOptions = Annotated[
    list[str] | None, typer.Option("--network-option", help="An option of that network, name=value; repeatable.")
]
Patch = Annotated[
    tuple[int, int, int] | None,
    typer.Option("--patch", metavar="Z Y X", help="Voxels of that network's patch, where case and memory allow it."),
]
Variant = Annotated[
    str | None, typer.Option("--as", help="End the names of its configurations in @NAME instead of the network's name.")
]

Slices = Annotated[
    int | None,
    typer.Option("--slices", metavar="N", help="Also plan 2p5d: a 2D network that sees N neighboring slices."),
]
ByView = Annotated[
    bool,
    typer.Option("--by-view", help="A model of each view of the table; images go to that of their view."),
]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure", help="Take a training step of every configuration on --device; shrink what is too large."
    ),
]


MaxMemory = Annotated[
    float | None,
    typer.Option("--max-memory", min=1, metavar="GB", help="Memory to take; large arrays go to scratch files."),
]
Scratch = Annotated[
    Path | None, typer.Option("--scratch", metavar="DIR", help="Folder of scratch files.", show_default="the workspace")
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
    normalization: Normalization = None,
    network: Network = None,
    network_option: NetworkOptions = None,
    variant: Variant = None,
    patch: Patch = None,
    slices: Slices = None,
    slice_axes: SliceAxes = None,
    configurations: Configurations = None,
    folds: Folds = None,
    split_by: SplitBy = None,
    stratify: Stratify = None,
    by_view: ByView = False,  # noqa: FBT002 - a flag of the command line
    measure: Measure = False,  # noqa: FBT002
    device: Device = "auto",
    max_memory: MaxMemory = None,
    scratch: Scratch = None,
    workers: Workers = None,
) -> None:
    """Look at a dataset, plan the networks and prepare its cases; a second run does what is missing."""
    from autoseg.cli.plan_table import print_plan
    from autoseg.pipeline.prepare import plan_and_preprocess as prepare
    from autoseg.pipeline.views import prepare_parts

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
    accept_network(network)
    prepare_one = partial(
        prepare,
        planner=planner,
        gpu_memory_gb=gpu_memory,
        spacing=spacing,
        network=network,
        network_options=network_option or (),
        variant=variant,
        patch=patch,
        slices=slices,
        slice_axes=parse_axes(slice_axes),
        configurations=configurations,
        split=_split_rule(folds, split_by, stratify),
        intensities=normalization or (),
        measure_on=device if measure else None,
        max_memory_gb=max_memory,
        scratch=scratch,
        workers=workers,
        progress=ConsoleProgress(),
    )
    found = prepare_parts(source, workspace, prepare_one, by_view=by_view, progress=ConsoleProgress())
    for part in every_part(found):
        plan = part.load_plan()
        print_plan(plan)
    following = _just_planned(plan.configuration_names, planner, network and (variant or network.rpartition(":")[2]))
    output.print(f"next: autoseg train {following} fold0 -w {found.root}", markup=False, highlight=False)


def _just_planned(names: tuple[str, ...], planner: str, network: str | None) -> str:
    """The configuration to train first: of what this command asked for, the full resolution where there is one."""
    variant = network or ("" if planner == "unet" else planner)
    own = [name for name in names if name.partition("@")[2] == variant] or list(names)
    return next((name for name in own if name.partition("@")[0] == "3d_fullres"), own[0])


def _split_rule(folds: int | None, split_by: str | None, stratify: str | None) -> SplitRule | None:
    """The rule that the options ask for; None where there is none of them."""
    if folds is None and split_by is None and stratify is None:
        return None
    rule = {"num_folds": folds or SplitRule().num_folds, "split_by": split_by, "stratify": stratify}
    try:
        return from_plain(SplitRule, rule)
    except ArtifactError as error:
        raise SettingsError(f"folds cannot be made that way: {error}") from None
