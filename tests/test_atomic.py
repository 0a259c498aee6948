from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoseg.atomic import atomic_path, machine, remove_leftovers


def test_a_finished_file_stands_under_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "scan.nii.gz"
    with atomic_path(path) as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_the_temporary_name_is_in_the_same_folder_and_keeps_the_ending(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "scan.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith("scan.nii.gz")
        assert temporary.name.startswith(".")  # searches for images skip it
        temporary.touch()


def test_after_a_failure_the_old_file_stands_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as temporary:
        temporary.write_text("half of the n\N{LATIN SMALL LETTER E WITH ACUTE}w", encoding="ascii")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_forgetting_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "plan.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from autoseg.atomic import atomic_path
with atomic_path(Path({str(tmp_path)!r}) / "below" / "scan.nii.gz") as temporary:
    temporary.write_text("half")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    (left,) = (tmp_path / "below").iterdir()
    (tmp_path / ".mine.part.of.a.name").touch()  # resembles one, and is a user's
    with atomic_path(tmp_path / "plan.json") as temporary:
        temporary.touch()
        assert remove_leftovers(tmp_path, below=False) == 0
        assert remove_leftovers(tmp_path) == 1
        assert temporary.exists()
    assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"below", "plan.json", ".mine.part.of.a.name"}


def test_parts_of_another_machine_are_removed_after_a_day(tmp_path: Path) -> None:
    parts = [tmp_path / f".{number:08x}-77-0.part.scan.nii.gz" for number in range(2)]
    assert machine() not in {part.name[1:9] for part in parts}
    for part, hours in zip(parts, (1, 25), strict=True):
        part.touch()
        os.utime(part, times=(time.time() - 3600 * hours,) * 2)
    assert remove_leftovers(tmp_path) == 1
    assert [part.exists() for part in parts] == [True, False]


def test_two_writers_of_one_process_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "first"  # the block that ends last


def test_file_and_folder_are_flushed_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    flush = os.fsync

    def observed(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append(f"{'folder' if is_folder else 'file'}, renamed: {(tmp_path / 'plan.json').exists()}")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", observed)
    with atomic_path(tmp_path / "plan.json") as temporary:
        temporary.touch()
    assert seen == ["file, renamed: False", "folder, renamed: True"]
