from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.atomic import atomic_path


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
