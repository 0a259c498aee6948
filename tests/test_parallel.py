"""The work consists of functions of the standard library: worker processes can import those."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autoseg.dataset import load_dataset
from autoseg.errors import DatasetError, WorkerError
from autoseg.memory import MemoryState
from autoseg.parallel import WorkerPool, default_workers, map_cases


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    assert list(map_cases(math.factorial, range(20), workers=workers)) == [math.factorial(n) for n in range(20)]


def test_no_jobs_start_nothing() -> None:
    assert list(map_cases(math.sqrt, [], workers=4)) == []


def test_zero_workers_work_in_this_process() -> None:
    done: list[str] = []
    assert list(map_cases(done.append, ["a", "b"], workers=0)) == [None, None]
    assert done == ["a", "b"]


def test_a_failure_names_its_case_and_keeps_the_traceback() -> None:
    with pytest.raises(WorkerError, match=r"case number -4\.0 failed in a worker: ValueError: ") as caught:
        list(map_cases(math.sqrt, [1.0, -4.0, 9.0], workers=2, label=lambda job: f"number {job}"))
    assert "Traceback (most recent call last)" in caught.value.details


def test_results_before_the_failure_are_delivered() -> None:
    results = map_cases(math.sqrt, [1.0, 4.0, -1.0], workers=2)
    assert (next(results), next(results)) == (1.0, 2.0)
    with pytest.raises(WorkerError):
        next(results)


def test_an_error_for_the_user_arrives_as_it_was_raised(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="absent_a is not a folder"):
        list(map_cases(load_dataset, [tmp_path / "absent_a", tmp_path / "absent_b"], workers=2))


def test_without_workers_the_original_exception_is_raised() -> None:
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(map_cases(math.sqrt, [1.0, -1.0], workers=0))


@pytest.mark.timeout(60)
def test_a_worker_that_dies_is_reported_and_not_waited_for() -> None:
    died = r"case scan [98]: its worker process ended with exit code [98].*\. Try fewer: --workers 1"
    with pytest.raises(WorkerError, match=died):
        list(map_cases(os._exit, [9, 8, 7], workers=2, label=lambda job: f"scan {job}"))


@pytest.mark.timeout(60)
def test_the_case_of_a_death_is_known() -> None:
    jobs = {"import time; time.sleep(30)": "slow", "pass": "done", "import os; os._exit(1)": "deadly"}
    with pytest.raises(WorkerError, match=r"^case deadly: its worker process ended with exit code 1"):
        list(map_cases(exec, list(jobs), workers=2, label=lambda job: jobs[job]))


@pytest.mark.timeout(60)
def test_a_worker_that_exits_does_not_end_this_process() -> None:
    with pytest.raises(WorkerError, match="case 3 failed in a worker: SystemExit: 3"):
        list(map_cases(sys.exit, [3, 4], workers=2))


def test_what_cannot_travel_between_processes_names_its_case() -> None:
    with pytest.raises(WorkerError, match="case b'a' cannot travel between processes"):
        list(map_cases(memoryview, [b"a", b"b"], workers=2))  # the result
    with pytest.raises(WorkerError, match="case a lock cannot travel between processes"):
        list(map_cases(id, [threading.Lock(), 1], workers=2, label=lambda job: "a lock" if job != 1 else "1"))


def test_a_consumer_that_stops_early_leaves_no_process_behind() -> None:
    results = map_cases(math.factorial, range(1000), workers=2)
    assert next(results) == 1
    results.close()  # type: ignore[attr-defined]  # it is a generator
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.timeout(120)
def test_spawned_processes_do_what_forked_ones_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on systems without a server process to fork from: results, failures, deaths, and the cases they are at."""
    monkeypatch.setattr("autoseg.workers._HAS_SERVER", False)
    with WorkerPool(2) as pool:
        pool.start(["autoseg.geometry"])
        assert list(pool.map(math.factorial, range(6))) == [math.factorial(n) for n in range(6)]
        assert {worker.process.name.split("-")[0] for worker in pool._crew.members} == {"SpawnProcess"}
        with pytest.raises(WorkerError, match=r"case -4\.0 failed in a worker: ValueError: ") as caught:
            list(pool.map(math.sqrt, [1.0, -4.0]))
        assert "Traceback" in caught.value.details
        with pytest.raises(DatasetError, match="absent_a is not a folder"):
            list(pool.map(load_dataset, [tmp_path / "absent_a", tmp_path / "absent_b"]))
        with pytest.raises(WorkerError, match=r"case 9: its worker process ended with exit code 9"):
            list(pool.map(os._exit, [9, 9], label=str))
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_worker_killed_once_is_replaced_and_one_killed_twice_is_told() -> None:
    kill, told = "__import__('os').kill(__import__('os').getpid(), 9)", list[str]()
    with (
        WorkerPool(2, tell=told.append) as pool,
        pytest.raises(WorkerError, match=r"case deadly: .* killed by SIGKILL at .* GB: out of memory\? So it did when"),
    ):
        list(pool.map(eval, [kill, "1"], label=lambda job: "deadly" if job == kill else job))
    assert len(told) == 1
    assert "case deadly: its worker process was killed by SIGKILL" in told[0]
    assert "It is tried again, with 1 of 2 worker processes" in told[0]


def test_default_is_at_least_one_worker() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)


def test_a_pool_keeps_its_processes_for_several_rounds() -> None:
    with WorkerPool(2) as pool:
        pool.start(["autoseg.geometry"])
        rounds = [set(pool.map(eval, ["__import__('os').getpid()"] * 8)) for _ in range(3)]
    found = set.union(*rounds)
    assert 1 <= len(found) <= 2
    assert os.getpid() not in found


def test_a_pool_goes_on_after_a_failed_round() -> None:
    with WorkerPool(2) as pool:
        with pytest.raises(WorkerError):
            list(pool.map(math.sqrt, [1.0, -1.0, 4.0]))
        assert list(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]


def test_a_job_goes_to_the_process_that_worked_on_its_case_before() -> None:
    jobs = [f"(__import__('time').sleep(0.04), __import__('os').getpid())[1] + 0 * {n}" for n in range(10, 22)]
    with WorkerPool(3) as pool:
        list(pool.map(abs, [-1] * 12))  # all have started
        first = list(pool.map(eval, jobs, home=lambda job: job[-2:]))
        again = list(pool.map(eval, jobs[::-1], home=lambda job: job[-2:]))[::-1]
    moved = sum(a != b for a, b in zip(first, again, strict=True))
    assert moved <= 4  # a process that has nothing left takes over what others have not begun; by chance 8 would move
    assert len(set(again)) > 1


def test_a_process_without_work_of_its_own_helps_another() -> None:
    with WorkerPool(2) as pool:
        list(pool.map(eval, ["__import__('time').sleep(0.2)"] * 2, home=str))
        pool._crew.homes.update(dict.fromkeys(map(repr, range(6)), pool._crew.members[0]))  # all belong to one process
        work = [f"(__import__('time').sleep(0.1), __import__('os').getpid())[1] + 0 * {n}" for n in range(6)]
        assert len(set(pool.map(eval, work, home=lambda job: job[-1]))) == 2


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from autoseg.parallel import map_cases\nprint('begun')\nprint(list(map_cases(abs, [-1, -2, -3], workers=2)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["begun", "[1,", "2,", "3]"]


def test_fewer_work_at_a_time_while_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is free than the greediest process so far held: no second one may begin, and that is told once."""
    told = list[str]()
    with WorkerPool(2, tell=told.append) as pool:
        assert sorted(pool.map(abs, [-1, 2, -3])) == [1, 2, 3]
        least = min(worker.peak for worker in pool._crew.members)
        assert least > 0
        short = MemoryState(total=64 << 30, available=0, limited_by="the machine")
        monkeypatch.setattr("autoseg.parallel.memory_state", lambda: short)
        for worker in pool._crew.members:
            worker.peak = 8 << 30
        assert list(pool.map(abs, [-4, 5, -6, 7])) == [4, 5, 6, 7]
    assert len(told) == 1
    assert "memory is short: 0.0 GB are left, a case took up to 8.6 GB; 1 of 2 worker processes go on" in told[0]
