"""Zip files from elsewhere: only what is wanted is taken out, and only if nothing in the file is suspicious."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from autoseg.errors import ArtifactError, MissingArtifactError

_MOST_FILES = 100_000
_LARGEST_RATIO = 100  # weights and JSON hardly shrink to a tenth; a deflate bomb reaches a thousandth
_SMALL = 1 << 20  # bytes that may shrink as they like
_SMALL_IN_ALL = 1 << 26  # and all files together


def extract(archive: Path, folder: Path, *, is_wanted: Callable[[str], bool]) -> tuple[str, ...]:
    """Take files out of a zip.

    Args:
        archive: The zip file.
        folder: Existing folder to write to, below which the paths of the archive are kept.
        is_wanted: Which of its files to take, by their path with forward slashes; everything else is left alone.

    Returns:
        The paths that were written.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is no complete zip, has a path that leads out of the folder, a link, the same path
            twice, an encrypted file, or wanted files that unpack to more than they plausibly hold or than the disk
            has room for. Nothing is written then, except where the damage shows only while unpacking.
    """
    if not archive.is_file():
        raise MissingArtifactError(f"{archive} does not exist")
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            _check_entries(entries, archive)
            wanted = [entry for entry in entries if not entry.is_dir() and is_wanted(entry.filename)]
            _check_sizes(wanted, archive, shutil.disk_usage(folder).free)
            for entry in wanted:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                # Reads no more than the stated size, and compares the checksum.
                with opened.open(entry) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise ArtifactError(f"{archive} is not a complete zip file: {error}") from None
    return tuple(entry.filename for entry in wanted)


def _check_entries(entries: list[zipfile.ZipInfo], archive: Path) -> None:
    if len(entries) > _MOST_FILES:
        raise ArtifactError(f"{archive} lists {len(entries)} files; {_MOST_FILES} are the most that are believed")
    seen = set()
    for entry in entries:
        name = entry.filename
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.orig_filename or ":" in name or not path.parts:
            raise ArtifactError(f"{archive} holds the path {name!r}, which leads out of its folder; it is not unpacked")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ArtifactError(f"{archive} holds the link {name!r}; it is not unpacked")
        if entry.flag_bits & 1:
            raise ArtifactError(f"{archive} holds the encrypted file {name!r}; it is not unpacked")
        if path in seen:
            raise ArtifactError(f"{archive} holds {name!r} twice; it is not unpacked")
        seen.add(path)


def _check_sizes(wanted: list[zipfile.ZipInfo], archive: Path, free: int) -> None:
    for entry in wanted:
        if entry.file_size > _SMALL + _LARGEST_RATIO * entry.compress_size:
            raise ArtifactError(
                f"{archive}: {entry.filename} would unpack from {entry.compress_size} to {entry.file_size} bytes, "
                "more than a model plausibly does; it is not unpacked"
            )
    total = sum(entry.file_size for entry in wanted)
    if total > _SMALL_IN_ALL + _LARGEST_RATIO * archive.stat().st_size:
        raise ArtifactError(
            f"{archive} would unpack from {archive.stat().st_size} to {total} bytes, more than a model plausibly does; "
            "it is not unpacked"
        )
    if total > free:
        raise ArtifactError(f"{archive} unpacks to {total} bytes, {free} are free on the disk")
