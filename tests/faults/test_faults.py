"""A few of the faults of ``make test-faults``, so that every change meets some."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from campaign import (
    can_mount,
    full_disks,
    interrupts,
    killed_workers,
    kills_by_operation,
    kills_by_time,
)
from crashing import Server
from damage import damaged_files
from laboratory import Finding, Laboratory
from scenario import prepare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    folder = tmp_path_factory.mktemp("faults")
    with Server(folder / "log") as server:
        scenario, runs = prepare(folder, server)
        yield Laboratory(scenario=scenario, server=server, undisturbed=tuple(runs))


def bad(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.wrong or finding.lost or finding.is_hung]


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_killed_command_is_resumed_to_the_same_results(lab: Laboratory, step: int) -> None:
    assert bad(kills_by_time(lab, step, 1, random.Random(step))) == []


@pytest.mark.slow
def test_a_command_killed_at_a_file_operation_is_resumed(lab: Laboratory) -> None:
    assert bad(kills_by_operation(lab, 0, 1)) == []


@pytest.mark.slow
def test_ctrl_c_ends_a_command_and_all_its_processes(lab: Laboratory) -> None:
    assert bad(interrupts(lab, 1, 1, workers=1)) == []


@pytest.mark.slow
def test_a_killed_worker_is_told_or_replaced(lab: Laboratory) -> None:
    assert bad(killed_workers(lab, 0, 1)) == []


@pytest.mark.slow
def test_damaged_files_are_made_again_or_refused(lab: Laboratory) -> None:
    assert bad(damaged_files(lab, random.Random(5), most=2)) == []


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs the right to mount file systems")
def test_a_full_disk_is_told_in_one_sentence(lab: Laboratory) -> None:
    assert bad(full_disks(lab, 2, [4])) == []


@pytest.mark.slow
def test_a_wrong_result_would_be_seen(lab: Laboratory, tmp_path: Path) -> None:
    """The comparison itself: another seed gives other weights."""
    lab.scenario.put_back(lab.scenario.state(1))
    step = lab.scenario.steps()[1]
    run = lab.server.run(step.name, *step.arguments, "--seed", "4")
    finding = lab.resume(1, "nothing", "nowhere", run)
    assert "made with other settings: seed 4 -> 3" in finding.wrong
