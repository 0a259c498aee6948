"""autoseg explore."""

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
from autoseg.cli.options import Directory, Workers

Metadata = Annotated[
    Path | None, typer.Option("--metadata", help="CSV file with a column case; its other columns are counted.")
]
Report = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the report as JSON.")]


@command("explore")
def explore(
    dataset: Dataset = None,
    directory: Directory = Path(),
    images: Images = None,
    labels: Labels = None,
    table: Table = None,
    channel_name: ChannelNames = None,
    label: LabelValues = None,
    label_map: LabelMap = None,
    metadata: Metadata = None,
    workers: Workers = None,
    *,
    report_path: Report = None,
) -> None:
    """Say what a dataset consists of: grids, label volumes, and how many cases of each origin there are."""
    from autoseg.codec import write_json
    from autoseg.dataset import load_dataset
    from autoseg.parallel import default_workers
    from autoseg.pipeline.exploring import Exploration, Spread
    from autoseg.pipeline.exploring import explore as look

    source = dataset_source(
        directory if dataset is None else dataset,
        images=images,
        labels=labels,
        table=table,
        channel_names=channel_name,
        label_values=label,
        label_map=label_map,
    )
    workers = default_workers() if workers is None else workers
    found: Exploration = look(load_dataset(source), metadata=metadata, workers=workers, progress=ConsoleProgress())

    def say(text: str) -> None:
        output.print(text, markup=False, highlight=False)

    def spread(values: Spread) -> str:
        return f"{values.median:.4g} ({values.min:.4g} to {values.max:.4g})"

    say(f"{found.dataset}: {found.training} training and {found.test} test cases; medians, smallest to largest")
    say(f"voxels per axis: {' x '.join(map(spread, found.shapes))}")
    say(f"spacing, mm: {' x '.join(map(spread, found.spacings))}")
    say(f"orientation: {', '.join(f'{code} {number}' for code, number in found.orientations.items())}")
    unit = "ml" if len(found.shapes) == 3 else "cm2"
    for target in found.labels:
        size = "" if target.volume_ml is None else f", {spread(target.volume_ml)} {unit}"
        say(f"{target.name}: in {target.cases} of {found.training} cases{size}")
    for column, counts in found.counts.items():
        say(f"{column}: {', '.join(f'{value} {number}' for value, number in counts.items())}")
    if found.without_metadata:
        say(f"{len(found.without_metadata)} case(s) are not in the metadata: {', '.join(found.without_metadata[:10])}")
    if found.without_case:
        say(f"{len(found.without_case)} row(s) belong to no case: {', '.join(found.without_case[:10])}")
    if report_path is not None:
        write_json(found, report_path)
