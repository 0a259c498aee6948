"""Receipts: which files belong to a finished piece of work, what they were made from, and their digests.

A receipt is written last. A file without one, or that differs from it, counts as not there; so a segmentation that
was truncated, altered, put there by something else, or made from other models or images is made again, never trusted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoseg.atomic import file_digest
from autoseg.codec import digest, read_json, write_json
from autoseg.errors import ArtifactError, MissingArtifactError

SCHEMA_VERSION = 1
RECEIPTS_DIR = ".autoseg"  # hidden, so that searches for images skip it


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What is known of a finished piece of work.

    Args:
        made_from: Digest of everything that decides what the files hold.
        files: Path, as seen from the folder the receipt is for -> SHA-256 of the content.
    """

    schema_version: int = SCHEMA_VERSION
    made_from: str
    files: dict[str, str]


def digest_files(paths: Sequence[Path]) -> str:
    """Digest of the names and the content of files; a folder stands for the files in it."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return digest([[file.name, file_digest(file)] for file in files])


Standing = Literal["absent", "begun", "altered", "intact"]


def begin(folder: Path, name: str, *, made_from: str) -> None:
    """Note that files are about to be written: what a crash leaves is then known to be autoseg's own.

    Args:
        folder: Where they will lie.
        name: Of the piece of work, usually the case id.
        made_from: Digest of everything that decides what they will hold.
    """
    write_json(Receipt(made_from=made_from, files={}), _path(folder, name))


def complete(folder: Path, name: str, *, made_from: str, files: Sequence[Path]) -> None:
    """Vouch for files that were written in full.

    Args:
        folder: Where they lie; files elsewhere are recorded by the way from here to them.
        name: Of the piece of work, usually the case id.
        made_from: Digest of everything that decides what they hold.
        files: What was written.
    """
    digests = {_relative(path, folder): file_digest(path) for path in files}
    write_json(Receipt(made_from=made_from, files=digests), _path(folder, name))


def standing(folder: Path, name: str) -> Standing:
    """What became of a piece of work: never begun, begun, altered or lost since it was finished, or intact."""
    receipt = _read(folder, name)
    if receipt is None:
        return "absent"
    if not receipt.files:
        return "begun"
    return "intact" if _fits(receipt, folder) else "altered"


def altered_files(folder: Path, name: str) -> tuple[str, ...]:
    """Files of a finished piece of work that are gone or hold something else now, as seen from the folder."""
    receipt = _read(folder, name)
    return (
        () if receipt is None else tuple(path for path in receipt.files if not _is_as_recorded(receipt, folder, path))
    )


def standings(folder: Path) -> dict[str, Standing]:
    """What became of every piece of work that a folder has a receipt of."""
    paths = sorted((folder / RECEIPTS_DIR).glob("*.json"))
    return {path.stem: standing(folder, path.stem) for path in paths if not path.name.startswith(".")}


def is_intact(folder: Path, name: str, *, made_from: str, files: Sequence[Path] = ()) -> bool:
    """Whether a piece of work is finished, unaltered, and made from what it would be made from now.

    Args:
        folder: As given to :func:`complete`.
        name: Likewise.
        made_from: Likewise.
        files: What the receipt must vouch for at least.
    """
    receipt = _read(folder, name)
    if receipt is None or receipt.made_from != made_from or not receipt.files:
        return False
    return {_relative(path, folder) for path in files} <= receipt.files.keys() and _fits(receipt, folder)


def origin(folder: Path, name: str) -> str | None:
    """What a piece of work was made from, as given to :func:`begin` or :func:`complete`; None where nobody knows."""
    receipt = _read(folder, name)
    return None if receipt is None else receipt.made_from


def _read(folder: Path, name: str) -> Receipt | None:
    try:
        return read_json(Receipt, _path(folder, name))
    except (ArtifactError, MissingArtifactError):
        return None


def _fits(receipt: Receipt, folder: Path) -> bool:
    return all(_is_as_recorded(receipt, folder, path) for path in receipt.files)


def _is_as_recorded(receipt: Receipt, folder: Path, path: str) -> bool:
    try:
        return file_digest(folder / path) == receipt.files[path]
    except OSError:
        return False


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _path(folder: Path, name: str) -> Path:
    return folder / RECEIPTS_DIR / f"{name}.json"
