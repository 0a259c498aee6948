from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.receipt import begin, complete, digest_files, is_intact, standing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nii.gz", "a.probabilities.b2nd"):
        (tmp_path / name).write_bytes(name.encode())
    complete(tmp_path, "a", made_from="models", files=[tmp_path / "a.nii.gz", tmp_path / "a.probabilities.b2nd"])
    return tmp_path


def test_work_is_absent_then_begun_then_intact(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert standing(tmp_path, "a") == "absent"
    begin(tmp_path, "a", made_from="m")
    assert standing(tmp_path, "a") == "begun"
    assert not is_intact(tmp_path, "a", made_from="m")
    complete(tmp_path, "a", made_from="m", files=[tmp_path / "a.png"])
    assert standing(tmp_path, "a") == "intact"
    assert is_intact(tmp_path, "a", made_from="m", files=[tmp_path / "a.png"])


def test_other_origins_and_missing_parts_are_not_intact(folder: Path) -> None:
    assert is_intact(folder, "a", made_from="models")
    assert not is_intact(folder, "a", made_from="other models")
    assert not is_intact(folder, "a", made_from="models", files=[folder / "b.nii.gz"])
    assert not is_intact(folder, "b", made_from="models")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_damage_is_seen(folder: Path, damage: str) -> None:
    path = folder / "a.probabilities.b2nd"
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    else:
        content[3] ^= 4
        path.write_bytes(content if damage == "flipped" else content[:-1])
    assert standing(folder, "a") == "altered"
    assert not is_intact(folder, "a", made_from="models")


def test_a_damaged_receipt_vouches_for_nothing(folder: Path) -> None:
    path = folder / ".autoseg" / "a.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"models"', '"model5"'), encoding="utf-8")
    assert standing(folder, "a") == "absent"


def test_the_digest_of_files_is_of_names_and_content_and_looks_into_folders(tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_text("one", encoding="utf-8")
    before = digest_files([series])
    (series / "1.dcm").touch()
    assert digest_files([series]) == before
    (series / "1.dcm").rename(series / "2.dcm")
    assert digest_files([series]) != before
