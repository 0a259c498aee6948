"""What is built is what lies in the tree: planners/ and trainers/ under their mapped names, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = {"autoseg": "autoseg", "planners": "autoseg/planners", "trainers": "autoseg/trainers"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the source archive, and with the wheel that was made from it."""
    copy = tmp_path_factory.mktemp("source")  # building writes into the source folder
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in (*MAPPED, "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    target = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(copy)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return target


@pytest.fixture(scope="session")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def expected_files() -> set[str]:
    """Names in the wheel of every module of the tree, and of the marker that says they are typed."""
    names = {"autoseg/py.typed"}
    for folder, package in MAPPED.items():
        for path in (ROOT / folder).rglob("*.py"):
            names.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    return names


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected_files()


def test_the_source_archive_holds_every_module(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    for folder in MAPPED:
        for module in (ROOT / folder).rglob("*.py"):
            assert module.relative_to(ROOT).as_posix() in packed
    assert {"README.md", "LICENSE", "setup.py", "pyproject.toml"} <= packed


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert "autoseg = autoseg.cli.main:main" in wheel.read(entry_points).decode()


def test_the_metadata_states_license_python_and_description(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    fields = message_from_bytes(wheel.read(metadata))
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Requires-Python"] == ">=3.11"
    assert fields["Name"] == "autoseg"
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_version_is_the_same_everywhere() -> None:
    import autoseg

    declared = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert declared is not None
    assert declared[1] == autoseg.__version__


def test_every_direct_dependency_is_pinned() -> None:
    pinned = {
        _normal(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    declared = re.findall(r'"([A-Za-z0-9_-]+)>=', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert len(declared) > 15
    assert {_normal(name) for name in declared} <= pinned


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
