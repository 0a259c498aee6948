"""autoseg check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.app import EXIT_WRONG_USE, command
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
from autoseg.cli.options import Directory, Workers

HeadersOnly = Annotated[bool, typer.Option("--headers-only", help="Do not read voxels.")]
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
    workers: Workers = None,
    *,
    report_path: Report = None,
    headers_only: HeadersOnly = False,
) -> None:
    """List the problems of a dataset at once: what is repaired, what to judge, what keeps it from being used."""
    from autoseg.check import check_dataset
    from autoseg.codec import write_json
    from autoseg.dataset import load_dataset
    from autoseg.parallel import default_workers
    from autoseg.pipeline.checking import check_everything

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
    if headers_only:
        report = check_dataset(loaded)
    else:
        workers = default_workers() if workers is None else workers
        report = check_everything(loaded, workers=workers, progress=ConsoleProgress())
    for problem in report.problems:
        output.print(f"{problem.severity}: {problem}", markup=False, highlight=False)
    output.print(
        f"{report.num_cases} training and {len(loaded.test)} test cases, {len(report.errors)} errors, "
        f"{len(report.warnings)} warnings, {len(report.repairs)} repairs, "
        f"orientation {report.majority_orientation or 'unknown'}",
        markup=False,
        highlight=False,
    )
    if report_path is not None:
        write_json(report, report_path)
    if report.errors:
        raise typer.Exit(EXIT_WRONG_USE)
