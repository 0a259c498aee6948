"""A plan as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from autoseg.cli.console import output
from autoseg.plan import Plan


def print_plan(plan: Plan) -> None:
    """Print one row per configuration."""
    table = Table("configuration", "spacing (mm)", "patch", "batch", "network", "intensities", box=None, pad_edge=False)
    for c in plan.configurations:
        network = f"{c.network.name} {c.network.features[0]}-{c.network.features[-1]}, {c.network.num_stages} stages"
        schemes = ", ".join(dict.fromkeys(n.steps for n in c.normalization))
        patch = _times(c.patch_size) + (f", {c.context} slices" if c.slices is not None else "")
        table.add_row(c.name, _times(c.spacing), patch, str(c.batch_size), network, schemes)
    output.print(table)


def _times(values: Sequence[float]) -> str:
    return "x".join(f"{value:g}" for value in values)


def print_reasons(plan: Plan) -> None:
    """Print why every value is what it is, general notes first."""
    for note in plan.notes:
        output.print(f"- {note}", markup=False, highlight=False)
    for configuration in plan.configurations:
        output.print(f"\n{configuration.name}", style="bold")
        for name, reason in configuration.reasons.items():
            output.print(f"  {name}: {reason}", markup=False, highlight=False)
