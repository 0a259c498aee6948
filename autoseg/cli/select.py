"""autoseg select."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from autoseg.cli.app import command
from autoseg.cli.console import ConsoleProgress, output
from autoseg.cli.options import Directory, WorkspaceDir, every_part, find_workspace

Metric = Annotated[
    str, typer.Option("--metric", help="What to maximize; the mean where several are named: dice,nsd@1mm.")
]
RuleOption = Annotated[
    Literal["nested", "nnunet"],
    typer.Option("--rule", help="nested: choose again without each fold to get an honest score; nnunet: as nnU-Net."),
]
MaxMembers = Annotated[
    int, typer.Option("--max-members", min=1, help="Largest ensemble, members counted as often as they weigh.")
]
Try = Annotated[
    str,
    typer.Option("--try", help="Postprocessing to try: also smooth, open_close, threshold, smooth_probabilities, crf."),
]
Postprocessing = Annotated[
    list[str] | None,
    typer.Option(
        "--postprocessing",
        help='Use exactly this: "keep_largest(liver)", "remove_small(liver+tumor, min_mm3=50)", ..., none; repeatable.',
    ),
]
AnyCost = Annotated[
    bool, typer.Option("--any-cost", help="Take the best even if something cheaper does not differ from it.")
]


@command("select")
def select(
    directory: Directory = Path(),
    workspace: WorkspaceDir = None,
    metric: Metric = "dice",
    rule: RuleOption = "nested",
    max_members: MaxMembers = 5,
    operations: Try = "keep_largest,fill_holes,remove_small",
    postprocessing: Postprocessing = None,
    *,
    any_cost: AnyCost = False,
) -> None:
    """Choose the best combination of the trained configurations by their cross-validation."""
    found = find_workspace(directory, workspace)
    from autoseg.pipeline.choose import SelectionOptions, select_ensemble

    options = SelectionOptions(
        rule=rule,
        metric=metric,
        max_votes=max_members,
        operations=tuple(word.strip() for word in operations.split(",") if word.strip()),
        postprocessing=None if postprocessing is None else tuple(postprocessing),
        any_cost=any_cost,
    )
    for part in every_part(found):
        ensemble = select_ensemble(part, options=options, progress=ConsoleProgress())
        members = " + ".join(member.describe() for member in ensemble.members)
        report = part.reports_dir / "selection.md"
        listed = f"{part.ensemble_path}, {report}" if report.is_file() else str(part.ensemble_path)
        output.print(f"{members}; {listed}", markup=False, highlight=False)
