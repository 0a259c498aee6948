"""autoseg ensemble-predict."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import (
    Compile,
    Device,
    Directory,
    Network,
    SliceAxes,
    Workers,
    WorkspaceDir,
    accept_network,
    every_part,
    find_workspace,
    parse_axes,
)
from autoseg.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoseg.dataset import Case
    from autoseg.pipeline.outputs import ExtraOutputs
    from autoseg.pipeline.prediction_report import PredictionReport
    from autoseg.pipeline.views import ViewsReport
    from autoseg.workspace import Workspace

Input = Annotated[
    Path | None, typer.Option("--input", "-i", help="Folder of images.", show_default="the dataset's imagesTs")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder to write to.", show_default="WORKSPACE/predictions")
]
Table = Annotated[
    Path | None,
    typer.Option("--table", metavar="FILE.csv", help="Images to predict: columns case, image; also view, frame."),
]
View = Annotated[str | None, typer.Option("--view", help="View of all images of the folder, such as SA.")]
Members = Annotated[
    list[str] | None, typer.Option("--members", help="CONFIGURATION[:FOLD,FOLD] instead of the selection; repeatable.")
]
Accumulation = Annotated[
    Literal["float32", "float16"] | None,
    typer.Option("--accumulation", help="Type that sums windows.", show_default="the plan's"),
]

Augmentation = Annotated[
    Literal["none", "mirrors", "turns", "six"] | None,
    typer.Option(
        "--tta",
        help="Views that are averaged: mirrored as in training; also turned; or six of a slice.",
        show_default="mirrors",
    ),
]
Region = Annotated[
    str | None,
    typer.Option("--region", metavar="CONFIGURATION", help="Look only where a quick look with it finds foreground."),
]
Step = Annotated[
    float | None, typer.Option(min=0.05, max=1.0, help="Window step as a share of the patch.", show_default="0.5")
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        "--max-memory", min=0.5, metavar="GB", help="Memory to take; sums that do not fit go to scratch files."
    ),
]
Scratch = Annotated[
    Path | None, typer.Option("--scratch", metavar="DIR", help="Folder of scratch files.", show_default="the system's")
]


@command("ensemble-predict")
def ensemble_predict(
    input_dir: Input = None,
    output_dir: Output = None,
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    table: Table = None,
    view: View = None,
    members: Members = None,
    checkpoint: Annotated[Literal["best", "final"], typer.Option(help="Which weights predict.")] = "final",
    step: Step = None,
    accumulation: Accumulation = None,
    tta: Augmentation = None,
    slice_axes: SliceAxes = None,
    region: Region = None,
    region_margin: Annotated[float, typer.Option("--region-margin", min=0, metavar="MM", help="Around it.")] = 20.0,
    compile_with: Compile = "none",
    max_memory: MaxMemory = None,
    scratch: Scratch = None,
    zip_path: Annotated[Path | None, typer.Option("--zip", metavar="FILE", help="Also all results in one zip.")] = None,
    run_lengths: Annotated[
        Path | None, typer.Option("--run-lengths", metavar="FILE.csv", help="Also the run lengths of every slice.")
    ] = None,
    part: Annotated[str, typer.Option(metavar="I/N", help="The I-th of N parts of the cases, from 0.")] = "0/1",
    network: Network = None,
    device: Device = "auto",
    workers: Workers = None,
    *,
    require_complete: Annotated[
        bool, typer.Option("--require-complete", help="Refuse when no configuration has all folds.")
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="One view and a step of 0.75, where neither is given: quicker, coarser.")
    ] = False,
    no_mirroring: Annotated[bool, typer.Option("--no-mirroring", help="One view, not all mirrored ones.")] = False,
    save_probabilities: Annotated[bool, typer.Option("--save-probabilities", help="Also write probabilities.")] = False,
    save_uncertainty: Annotated[
        bool, typer.Option("--save-uncertainty", help="Also write where the folds differ; takes twice as long.")
    ] = False,
    separate_labels: Annotated[
        bool, typer.Option("--separate-labels", help="Also write one file per label: CASE/LABEL.")
    ] = False,
    pictures: Annotated[bool, typer.Option("--pictures", help="Also draw every case over its image.")] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Predict images too that are unlike the training images.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict cases again that are there.")] = False,
) -> None:
    """Predict images with the best combination of the trained models."""
    found = find_workspace(directory, workspace)
    accept_network(network)
    from autoseg.inference.predictor import FAST, InferenceOptions
    from autoseg.pipeline.outputs import ExtraOutputs

    base = FAST if fast else InferenceOptions()
    options = replace(
        base,
        step=step or base.step,
        augmentation="none" if no_mirroring else tta or base.augmentation,
        slice_axes=parse_axes(slice_axes),
        region=region,
        region_margin_mm=region_margin,
        accumulation=accumulation,
        compiler=compile_with,
        max_memory_gb=max_memory,
        scratch=None if scratch is None else str(scratch),
    )
    report = _predict(
        found,
        _images(found, input_dir, table),
        output_dir,
        view=view,
        members=members,
        options=options,
        checkpoint=checkpoint,
        require_complete=require_complete,
        save_probabilities=save_probabilities,
        save_uncertainty=save_uncertainty,
        extras=ExtraOutputs(
            separate_labels=separate_labels, pictures=pictures, zip_path=zip_path, run_lengths=run_lengths
        ),
        unchecked=unchecked,
        overwrite=overwrite,
        part=_parse_part(part),
        device=device,
        workers=workers,
        progress=ConsoleProgress(),
    )
    output.print(report.summary(), markup=False, highlight=False)
    report.raise_for_failures()


def _images(workspace: Workspace, folder: Path | None, table: Path | None) -> Path | Sequence[Case] | None:
    """What is predicted: a folder, the rows of a table, or what the dataset has.

    Raises:
        AutosegError: When both are given, or the table cannot be used.
    """
    if table is None:
        return folder
    if folder is not None:
        raise SettingsError("give --input or --table, not both")
    from autoseg.dataset.table import cases_to_predict

    return cases_to_predict(table, num_channels=len(every_part(workspace)[0].load_plan().channels))


def _predict(
    workspace: Workspace,
    images: Path | Sequence[Case] | None,
    output_dir: Path | None,
    *,
    view: str | None,
    extras: ExtraOutputs,
    unchecked: bool,
    progress: ConsoleProgress,
    **options: Any,  # noqa: ANN401 - handed on
) -> PredictionReport | ViewsReport:
    """Predict with the models of the workspace, or each case with those of its view."""
    from autoseg.pipeline.predict import ensemble_predict as predict
    from autoseg.pipeline.views import predict_views

    shared: dict[str, Any] = {"extras": extras, "unchecked": unchecked, "progress": progress}
    if workspace.by_view:
        return predict_views(workspace, images, output_dir, partial(predict, **options), view=view, **shared)
    if view is not None and workspace.load_plan().view != view:
        raise SettingsError(f"--view {view}: the models of {workspace.root} are not trained by view")
    return predict(workspace, images, output_dir, **options, **shared)


def _parse_part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise SettingsError(f"--part {text}: give I/N with I from 0 to N-1, for instance 0/2 and 1/2")
    return int(match[1]), int(match[2])
