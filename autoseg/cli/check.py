"""autoseg check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import EXIT_WRONG_USE, command
from autoseg.cli.console import output
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
from autoseg.cli.options import Directory, Workers

Report = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report as JSON.")]


@command("check")
def check(
    dataset: Dataset = None,
    directory: Directory = Path(),
    images: Images = None,
    labels: Labels = None,
    table: Table = None,
    channel_name: ChannelNames = None,
    label: LabelValues = None,
    label_map: LabelMap = None,
    workers: Workers = 0,
    report_path: Report = None,
) -> None:
    """List the problems of a dataset at once, before anything is planned; no voxel is read."""
    from autoseg.check import check_dataset
    from autoseg.codec import write_json
    from autoseg.dataset import load_dataset

    source = dataset_source(
        directory if dataset is None else dataset,
        images=images,
        labels=labels,
        table=table,
        channel_names=channel_name,
        label_values=label,
        label_map=label_map,
    )
    loaded = load_dataset(source)
    report = check_dataset(loaded, workers=workers or 0)
    for problem in report.problems:
        output.print(f"{problem.severity}: {problem}", markup=False, highlight=False)
    output.print(
        f"{report.num_cases} training and {len(loaded.test)} test cases, {len(report.errors)} errors, "
        f"{len(report.warnings)} warnings, orientation {report.majority_orientation or 'unknown'}",
        markup=False,
        highlight=False,
    )
    if report_path is not None:
        write_json(report, report_path)
    if report.errors:
        raise typer.Exit(EXIT_WRONG_USE)
