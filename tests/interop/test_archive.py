"""Zips from elsewhere: what is asked for comes out, and nothing gets where it should not."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.interop.archive import extract


def archive(path: Path, files: dict[str, bytes], *, link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
        if link is not None:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            made.writestr(entry, "/etc")
    return path


def take(path: Path, folder: Path) -> tuple[str, ...]:
    folder.mkdir(exist_ok=True)
    return extract(path, folder, is_wanted=lambda name: name.endswith(".json"))


def test_only_what_is_wanted_comes_out(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"x/plans.json": b"{}", "x/run.py": b"boom", "y.json": b"[]"})
    assert take(path, tmp_path / "out") == ("x/plans.json", "y.json")
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == ["x/plans.json", "y.json"]
    assert (tmp_path / "out" / "y.json").read_bytes() == b"[]"


@pytest.mark.parametrize("name", ["../a.json", "x/../../a.json", "/tmp/a.json", "C:/a.json", "..\\a.json"])
def test_paths_that_lead_out_are_refused_even_where_they_are_not_wanted(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"good.json": b"{}", name: b"{}"})
    with pytest.raises(ArtifactError, match="leads out of its folder"):
        take(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds the link 'etc\.json'"):
        take(archive(tmp_path / "a.zip", {}, link="etc.json"), tmp_path / "out")


def test_bombs_are_refused_before_they_unpack(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a.json": b"\0" * (8 << 20)})
    with pytest.raises(ArtifactError, match="more than a model plausibly does"):
        take(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_bombs_of_many_small_files_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {f"{number}.json": b"\0" * (1 << 20) for number in range(90)})
    with pytest.raises(ArtifactError, match="more than a model plausibly does"):
        take(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_size_that_the_zip_understates_is_noticed(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a.json": b"x" * 5000})
    content = path.read_bytes()
    size = (5000).to_bytes(4, "little")
    assert content.count(size) == 2  # of the local header and the directory
    path.write_bytes(content.replace(size, (50).to_bytes(4, "little")))
    with pytest.raises(ArtifactError, match="not a complete zip"):
        take(path, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_path_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("a.json", "1")
        made.writestr("a.json", "2")
    with pytest.raises(ArtifactError, match="twice"):
        take(tmp_path / "a.zip", tmp_path / "out")


def test_truncated_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a.json": bytes(range(256)) * 40})
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ArtifactError, match=r"a\.zip is not a complete zip"):
        take(path, tmp_path / "out")
    path.write_bytes(whole[:60] + b"####" + whole[64:])
    with pytest.raises(ArtifactError, match=r"a\.zip is not a complete zip"):
        take(path, tmp_path / "out")
    with pytest.raises(MissingArtifactError, match=r"b\.zip does not exist"):
        take(tmp_path / "b.zip", tmp_path / "out")
