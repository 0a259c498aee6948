"""Model files from strangers: whatever is suspicious is refused in one sentence, and leaves no workspace."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from pathlib import Path

import pytest

from autoseg.codec import write_json
from autoseg.errors import ArtifactError
from autoseg.pipeline.model_file import FileEntry, Manifest, import_model

CONTENT = {"plan.json": b"{}", "ensemble.json": b"{}", "models/2d/fold0/weights.npz": b"x" * 64}


def model(
    folder: Path,
    *,
    extra: dict[str, bytes] | None = None,
    link: str | None = None,
    listed: dict[str, bytes] | None = None,
    manifest: bool = True,
) -> Path:
    """A zip with the files of a model, and a manifest that lists ``listed``."""
    files = {
        name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        for name, content in (listed or CONTENT).items()
    }
    write_json(Manifest(name="x", created="now", license="CC0", files=files), folder / "manifest.json")
    path = folder / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if manifest:
            archive.write(folder / "manifest.json", "manifest.json")
        for name, content in {**CONTENT, **(extra or {})}.items():
            archive.writestr(name, content)
        if link is not None:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": {"../out.json": b"{}"}}, "leads out of its folder"),
        ({"extra": {"models/../../out.json": b"{}"}}, "leads out of its folder"),
        ({"extra": {"/tmp/out.json": b"{}"}}, "leads out of its folder"),
        ({"link": "models/2d/fold1"}, "holds the link"),
        ({"extra": {"bomb.bin": b"\0" * (8 << 20)}}, "more than a model plausibly does"),
        ({"extra": {"run.py": b"boom"}}, "holds run.py, which its manifest does not list"),
        ({"listed": {**CONTENT, "scores.json": b"{}"}}, "lacks scores.json"),
        ({"listed": {**CONTENT, "plan.json": b"[]"}}, "plan.json is not what the manifest says"),
        ({"listed": {**CONTENT, "plan.json": b"{} "}}, "plan.json is not what the manifest says"),
        ({"manifest": False}, "is no complete model of autoseg"),
        ({}, "plan.json"),  # as the manifest says, and yet no plan
    ],
)
def test_what_is_suspicious_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = model(tmp_path, **changes)  # type: ignore[arg-type]
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(ArtifactError, match=message.replace(".", r"\.")):
        import_model(path, tmp_path / "workspace")
    assert {p.name for p in tmp_path.iterdir()} == before
    assert not (tmp_path.parent / "out.json").exists()


def test_a_member_beside_the_weights_of_a_model_is_refused(tmp_path: Path) -> None:
    strange = {"models/2d/fold0/hook.py": b"boom"}
    path = model(tmp_path, extra=strange, listed={**CONTENT, **strange})
    with pytest.raises(ArtifactError):
        import_model(path, tmp_path / "workspace")
    assert not (tmp_path / "workspace").exists()


def test_the_manifest_itself_is_checked(tmp_path: Path) -> None:
    path = model(tmp_path)
    table = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    table["files"]["plan.json"]["size"] = 3
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(table))
        for name, content in CONTENT.items():
            archive.writestr(name, content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        import_model(path, tmp_path / "workspace")
