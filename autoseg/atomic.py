"""Writing a file so that it is either complete under its name or not there, also after a crash or a power failure.

The temporary name says which process writes: ``.<machine>-<process>-<count>.part.<name>``. So what a killed process
left behind can be told from what a living one is writing, and :func:`remove_leftovers` takes it away.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from autoseg.errors import StorageError

_LEFTOVER = re.compile(r"\.([0-9a-f]{8})-(\d+)-\d+\.part\..+", re.DOTALL)
_FOREIGN_AGE = 24 * 3600.0  # seconds after which a part from another machine belongs to nobody
_DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG),
}
_count = itertools.count()


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary name in the same folder; rename it to ``path`` when the block ends without an error.

    The temporary name keeps the ending, because writers choose the format by it.

    Args:
        path: Final file; its folder is created.
        durable: Whether content and name are flushed to the disk before the block is left: rename alone promises
            neither. Takes milliseconds; not needed where damage is noticed and the file made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{machine()}-{os.getpid()}-{next(_count)}.part.{path.name}")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
        if durable:
            _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        if reason := _why_not_written(error, temporary):
            raise StorageError(
                f"{path} cannot be written: {reason}. Make room or name another folder; the same command then goes on"
            ) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def _why_not_written(error: OSError | RuntimeError, temporary: Path) -> str | None:
    """What the system says; writers in C++ keep it to themselves, so it is asked again. None if nothing is wrong."""
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.errno is not None:
        return None
    try:
        with temporary.open("ab") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as again:
        return os.strerror(again.errno) if again.errno in _DISK_ERRORS else None
    return None


def remove_leftovers(folder: Path, *, below: bool = True) -> int:
    """Remove the temporary files of processes that are gone.

    Args:
        folder: Need not exist.
        below: Whether its sub-folders are looked through as well.

    Returns:
        How many were removed. Those of this machine go when their process is dead; those of another one, whose
        processes cannot be seen from here, after a day.
    """
    removed = 0
    for path in find_leftovers(folder, below=below):
        with suppress(OSError):  # somebody else removes it too, or the folder is read-only
            path.unlink()
            removed += 1
    return removed


def find_leftovers(folder: Path, *, below: bool = True) -> list[Path]:
    """What :func:`remove_leftovers` would remove."""
    found = []
    for path in list(folder.rglob(".*.part.*") if below else folder.glob(".*.part.*")):
        match = _LEFTOVER.fullmatch(path.name)
        if match is not None and _is_abandoned(path, match[1], int(match[2])):
            found.append(path)
    return found


@lru_cache(maxsize=1)
def machine() -> str:
    """Eight digits that stand for everything whose process numbers mean the same: host, start, and container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def is_running(process: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_abandoned(path: Path, where: str, process: int) -> bool:
    if where == machine() and os.name == "posix":  # elsewhere asking for a process sends it a signal
        return not is_running(process)
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _FOREIGN_AGE
    return False


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, where the system can do that."""
    with suppress(OSError):  # Windows opens no folders, and some network file systems do not flush them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
