"""The comparisons in the how-to are files that work: every row's settings, network and options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoseg.networks.catalog import NETWORKS, planned_rules
from autoseg.pipeline.comparison import Comparison, Row, read_comparison
from autoseg.planners.network_planning import plan_network, topology_for

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "compare.md"
FILES = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def read(text: str, folder: Path) -> Comparison:
    path = folder / "rows.toml"
    path.write_text(text, encoding="utf-8")
    return read_comparison(path)


def modules_of(row: Row) -> set[str]:
    """Classes of the modules that a row's network is made of, planned for a small thick-slice patch."""
    assert row.network is not None
    rules = planned_rules(row.network, row.network_options)
    topology = topology_for(rules, (4.0, 1.0, 1.0), (8, 64, 64))
    plan = plan_network(row.network, rules, topology, width=0.25, choices=row.network_options)
    network = NETWORKS.get(row.network)(plan, num_channels=1, num_outputs=3)
    return {type(module).__name__ for module in network.modules()}


def test_the_page_has_files() -> None:
    assert len(FILES) == 3


@pytest.mark.parametrize("text", FILES)
def test_every_row_can_be_trained(text: str, tmp_path: Path) -> None:
    comparison = read(text, tmp_path)
    for row in comparison.rows:
        comparison.settings(row, 0)
        if row.network is not None:
            assert modules_of(row)


def test_rows_of_the_whole_heart_ablation_leave_out_what_they_say(tmp_path: Path) -> None:
    rows = {row.name: modules_of(row) for row in read(FILES[1], tmp_path).rows}
    found = {
        name: ("GridGate" in parts, "PositionAttention" in parts, "SpatialConfiguration" in parts)
        for name, parts in rows.items()
    }
    assert found == {
        "AG + PAB + SCN": (True, True, True),
        "AG + PAB": (True, True, False),
        "AG + SCN": (True, False, True),
        "PAB + SCN": (False, True, True),
        "none of them": (False, False, False),
        "AG + PAB + SCN, focal 0.5": (True, True, True),
    }


def test_rows_of_the_spine_ablation_leave_out_what_they_say(tmp_path: Path) -> None:
    rows = {row.name: modules_of(row) for row in read(FILES[2], tmp_path).rows}
    found = {name: ("UXBlock" in parts, "HierarchicalLink" in parts) for name, parts in rows.items()}
    assert found == {
        "UX + HANC": (True, True),
        "no UX": (False, True),
        "no HANC": (True, False),
        "only residual blocks": (False, False),
        "U-Net++": (False, False),
    }
