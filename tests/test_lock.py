"""Locks between real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoseg.errors import LockedError, SettingsError
from autoseg.lock import _remove, _state, hold, holder

HOLDING = """
import sys, time
from pathlib import Path
from autoseg.lock import hold
with hold(Path(sys.argv[1]), "it", lease_seconds=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(100)
"""


@contextmanager
def held_elsewhere(path: Path, *, lease_seconds: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDING, str(path), str(lease_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_lock_is_a_file_that_goes_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fold.lock"
    with hold(path, "fold0"):
        assert holder(path) is not None
        assert f"process {os.getpid()} on " in str(holder(path))
    assert not path.exists()
    assert holder(path) is None
    with hold(path, "fold0"):
        pass


def test_a_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "fold.lock"
    with held_elsewhere(path) as process:
        used = rf"^fold0 of 2d is in use by process {process.pid} on \S+\. Wait"
        with pytest.raises(LockedError, match=used), hold(path, "fold0 of 2d"):
            pytest.fail("held twice")
        assert path.exists()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fold.lock"
    with held_elsewhere(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.exists()
        with hold(path, "fold0"):
            assert f"process {os.getpid()} on " in str(holder(path))


def test_a_lock_of_another_host_is_taken_over_when_nobody_touches_it(tmp_path: Path) -> None:
    """Its process cannot be seen, so it is watched; one whose number lives here by chance is no proof of life."""
    path, told = tmp_path / "fold.lock", list[str]()
    with held_elsewhere(path, lease_seconds=1.0) as process:
        text = path.read_text(encoding="utf-8")
        process.kill()
        process.wait()
    foreign = re.sub(r"host=.+", "host=elsewhere", re.sub(r"pid=\d+", f"pid={os.getpid()}", text))
    assert "host=elsewhere" in foreign
    path.write_text(foreign, encoding="utf-8")
    with hold(path, "fold0", tell=told.append, lease_seconds=1.0):
        assert f"process {os.getpid()} on " in str(holder(path))
    assert told == [
        f"fold0 is locked by process {os.getpid()} on elsewhere, which cannot be seen from here; waiting whether it is "
        "alive"
    ]


def test_a_living_holder_can_be_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "plan.lock"
    code = HOLDING.replace("time.sleep(100)", "time.sleep(0.3)")
    with subprocess.Popen([sys.executable, "-c", code, str(path), "60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with hold(path, "plan.json", wait=60.0):
            assert f"process {os.getpid()} on " in str(holder(path))


def test_a_damaged_lock_file_is_no_lock_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "fold.lock"
    path.write_bytes(b"\x00" * 40)
    os.utime(path, (1, 1))
    with hold(path, "fold0"):
        pass


def test_an_empty_lock_file_is_taken_over_by_one_of_those_who_find_it(tmp_path: Path) -> None:
    """A process killed between making its lock and writing into it leaves such a file."""
    path = tmp_path / "fold.lock"
    path.touch()
    code = """
import sys, time
from pathlib import Path
from autoseg.errors import LockedError
from autoseg.lock import hold
try:
    with hold(Path(sys.argv[1]), "it"):
        print("held", flush=True)
        time.sleep(3)
except LockedError as error:
    print("refused", error, flush=True)
"""
    command = [sys.executable, "-c", code, str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0] for process in processes)
    if said != ["held\n", "held\n"]:  # the second came when the first had ended
        assert said[0] == "held\n"
        assert re.match(r"refused it is in use by process \d+ on ", said[1])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_lock_file_that_gets_a_holder_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "fold.lock"
    path.touch()
    before = _state(path)
    assert before is not None
    path.write_text("somebody's", encoding="utf-8")
    assert not _remove(path, before)
    assert path.read_text(encoding="utf-8") == "somebody's"


def test_a_dead_file_is_removed_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "fold.lock"
    path.touch()
    before = _state(path)
    assert before is not None
    claim = tmp_path / "fold.lock.removing"
    claim.touch()
    assert not _remove(path, before)  # another one is at it
    assert path.exists()
    os.utime(claim, (1, 1))  # and was killed, long ago
    assert _remove(path, before)
    assert list(tmp_path.iterdir()) == []


def test_locks_work_without_kernel_locks(tmp_path: Path) -> None:
    """As on systems that have no fcntl: taken, refused to a second process, taken over from a dead and an empty one."""
    code = """
import sys
sys.modules["fcntl"] = None
import os, signal, subprocess
from pathlib import Path
from autoseg.errors import LockedError
from autoseg.lock import hold, holder
path = Path(sys.argv[1])
if sys.argv[2] == "hold":
    with hold(path, "it"):
        print("held", flush=True)
        input()
    sys.exit()
for kill in (False, True):
    command = [sys.executable, __file__, str(path), "hold"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\\n"
        try:
            with hold(path, "it"):
                sys.exit("held twice")
        except LockedError as error:
            assert f"in use by process {other.pid}" in str(error), error
        if kill:
            other.send_signal(signal.SIGKILL)
        else:
            other.communicate("\\n")
        other.wait()
    assert path.exists() == kill
    with hold(path, "it"):
        assert f"process {os.getpid()} on " in holder(path)
path.touch()
told = []
with hold(path, "it", tell=told.append):
    assert "named no process" in told[0]
print("all right")
"""
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, str(script), str(tmp_path / "fold.lock"), "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "all right\n", done.stderr


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to, root included")
def test_a_folder_that_cannot_be_written_to_is_named() -> None:
    refused = pytest.raises(SettingsError, match=r"^/proc/self/autoseg cannot be written to: ")
    with refused, hold(Path("/proc/self/autoseg/x.lock"), "fold0"):
        pytest.fail("held")
