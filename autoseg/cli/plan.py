"""autoseg plan show and autoseg plan diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autoseg.cli.app import app, command
from autoseg.cli.console import output
from autoseg.cli.options import Directory, WorkspaceDir, find_workspace

plan_app = typer.Typer(help="Look at a plan, or compare two.", no_args_is_help=True)
app.add_typer(plan_app, name="plan")

PlanFile = Annotated[Path, typer.Argument(help="A plan.json, or a workspace.")]


@command("show", group=plan_app)
def show(directory: Directory = Path(), workspace: WorkspaceDir = None) -> None:
    """Print the plan as a table, with the reason for every decision."""
    from autoseg.cli.plan_table import print_plan, print_reasons
    from autoseg.planning import memory_warnings

    plan = find_workspace(directory, workspace).load_plan()
    output.print(
        f"planned by {plan.planner} for {plan.gpu_memory_gb:g} GB ({plan.gpu_memory_source})",
        markup=False,
        highlight=False,
    )
    print_plan(plan)
    print_reasons(plan)
    for warning in memory_warnings(plan):
        output.print(f"warning: {warning}", markup=False, highlight=False)


@command("diff", group=plan_app)
def diff(first: PlanFile, second: PlanFile) -> None:
    """Print what differs between two plans, one line per value with its place in the file."""
    from autoseg.codec import read_json, to_plain
    from autoseg.plan import Plan

    plans = [
        read_json(Plan, path / "plan.json" if path.is_dir() else path, may_be_edited=True) for path in (first, second)
    ]
    tables = [_flat(_by_name(to_plain(plan))) for plan in plans]
    places = dict.fromkeys([*tables[0], *tables[1]])
    differing = [place for place in places if tables[0].get(place) != tables[1].get(place)]
    for place in differing:
        before, after = (table.get(place, "absent") for table in tables)
        output.print(f"{place}: {before} -> {after}", markup=False, highlight=False)
    if not differing:
        output.print("the plans agree")


def _by_name(plan: dict[str, Any]) -> dict[str, Any]:
    """Configurations by name instead of position, so that an added one does not shift the others."""
    return {**plan, "configurations": {c["name"]: c for c in plan["configurations"]}}


def _flat(value: object, place: str = "") -> dict[str, object]:
    """Values by their place in the file; lists of plain values stay whole."""
    if isinstance(value, dict):
        items = [(f"{place}.{key}" if place else key, item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {place: value}
    return {deeper: leaf for name, item in items for deeper, leaf in _flat(item, name).items()}
