"""The same image under two names: a case that is trained on and held out at the same time scores too well."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from autoseg.check.report import Problem
from autoseg.dataset import Case

_CHUNK = 1 << 20


def duplicate_problems(training: Sequence[Case], test: Sequence[Case]) -> Iterator[Problem]:
    """Cases whose images hold the same bytes, compressed the same way or not.

    Files are told apart by their size, compressed ones by the size and checksum of their content that gzip stores at
    the end; only what agrees in these is read. Of DICOM series all slices are compared, in any order and by any name.

    Args:
        training: Labelled cases.
        test: Cases to predict.
    """
    is_test = {case.id: False for case in training} | {f"test case {case.id}": True for case in test}
    named = [(case.id, case) for case in training] + [(f"test case {case.id}", case) for case in test]
    files = {path: name for name, case in named for path in case.images}
    reported: set[tuple[str, ...]] = set()
    for paths in _identical(files):
        names = tuple(dict.fromkeys(files[path] for path in paths))
        if names in reported or (len(names) > 1 and all(is_test[name] for name in names)):
            continue
        reported.add(names)
        listing = " and ".join(path.name for path in paths[:4]) + (f" and {len(paths) - 4} more" if paths[4:] else "")
        if len(names) == 1:
            yield Problem(severity="warning", case=names[0], message=f"two channels are the same image: {listing}")
        else:
            advice = "keep one, or put them into one group so that no fold trains on what it holds out"
            if any(is_test[name] for name in names):
                advice = "a prediction of it is no prediction of an unseen case"
            yield Problem(severity="warning", message=f"the same image under {len(names)} names, {listing}; {advice}")


def _identical(files: Mapping[Path, str]) -> Iterator[list[Path]]:
    for similar in _groups((path, _cheap_key(path)) for path in files):
        yield from _groups((path, _digest(path)) for path in similar)


def _groups(keys: Iterable[tuple[Path, object]]) -> list[list[Path]]:
    """Paths with the same key, where there are several."""
    found: dict[object, list[Path]] = {}
    for path, key in keys:
        found.setdefault(key, []).append(path)
    return [paths for paths in found.values() if len(paths) > 1]


def _cheap_key(path: Path) -> object:
    if path.is_dir():
        return "series", tuple(sorted(file.stat().st_size for file in path.iterdir() if file.is_file()))
    if not path.is_file():
        return "missing", path
    size = path.stat().st_size
    if path.suffix.lower() == ".gz" and size >= 8:
        with path.open("rb") as file:
            file.seek(-8, 2)
            return "gzip", file.read(8)
    return "plain", size


def _digest(path: Path) -> str:
    """Digest of what a file holds, uncompressed; of the bytes as they are where gzip cannot read them."""
    if path.is_dir():
        slices = sorted(_digest_of(file, is_compressed=False) for file in path.iterdir() if file.is_file())
        return hashlib.blake2b("".join(slices).encode()).hexdigest()
    try:
        return _digest_of(path, is_compressed=path.suffix.lower() == ".gz")
    except (OSError, EOFError):
        return _digest_of(path, is_compressed=False)


def _digest_of(path: Path, *, is_compressed: bool) -> str:
    digest = hashlib.blake2b()
    with gzip.open(path) if is_compressed else path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
