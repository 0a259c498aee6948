"""How much memory there is, is left, and a process has taken; from Linux' tables, and unknown elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # what version 1 of control groups says where there is no limit
_OUT_OF_MEMORY = (
    *("can't start new thread", "can't allocate memory", "Cannot allocate memory", "bad_alloc", "out of memory"),
    *("not enough memory", "Unable to allocate", "could not create a primitive"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryState:
    """Memory that this process and its children may use.

    Args:
        total: Bytes, the smallest of the machine's and what the container or batch system allows; None if unknown.
        available: Bytes left without swapping; None if unknown.
        limited_by: "the machine" or the control group that sets the limit.
    """

    total: int | None
    available: int | None
    limited_by: str


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes that a process holds now, and the most that it ever held."""

    now: int
    peak: int


def memory_state() -> MemoryState:
    """Look at the machine and at the control groups around this process."""
    table = _table(_PROC / "meminfo")
    total, available = table.get("MemTotal"), table.get("MemAvailable")
    limited_by = "the machine"
    for folder, limit, used in _limits():
        if total is None or limit < total:
            total, limited_by = limit, f"control group {folder}"
        left = max(0, limit - used)
        available = left if available is None else min(available, left)
    return MemoryState(total=total, available=available, limited_by=limited_by)


def process_memory(process: int) -> ProcessMemory | None:
    """Memory of a process; None where it is gone or the system does not tell."""
    table = _table(_PROC / str(process) / "status")
    if "VmRSS" not in table:
        return None
    return ProcessMemory(now=table["VmRSS"], peak=table.get("VmHWM", table["VmRSS"]))


def own_peak() -> int:
    """The most bytes that this process ever held; 0 where the system does not tell."""
    return _most("RUSAGE_SELF")


def most_of_children() -> int:
    """The most bytes that any ended child of this process ever held; 0 where the system does not tell."""
    return _most("RUSAGE_CHILDREN")


def _most(whose: str) -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(getattr(resource, whose)).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, whatever the library calls it."""
    words = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(sign in words for sign in _OUT_OF_MEMORY)
    )


def in_gigabytes(size: int | None) -> str:
    """A number of bytes for people.

    Example:
        >>> in_gigabytes(7_800_000_000)
        '7.8 GB'
    """
    return "an unknown amount" if size is None else f"{size / 1e9:.1f} GB"


def _table(path: Path) -> dict[str, int]:
    """Lines "name: number kB" as bytes."""
    found = {}
    with suppress(OSError, UnicodeDecodeError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if len(words) == 2 and words[1] == "kB" and words[0].isdecimal():
                found[name] = int(words[0]) * 1024
    return found


def _limits() -> Iterator[tuple[str, int, int]]:
    """Every control group around this process that limits memory: its name, the limit, and what it uses now."""
    with suppress(OSError):
        for line in (_PROC / "self/cgroup").read_text(encoding="ascii", errors="replace").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers == "":
                root, files, idle = _CGROUPS, ("memory.max", "memory.current"), "inactive_file"
            elif "memory" in controllers.split(","):
                root = _CGROUPS / "memory"
                files, idle = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
            else:
                continue
            yield from _limits_below(root, name, files, idle)


def _limits_below(root: Path, name: str, files: tuple[str, str], idle: str) -> Iterator[tuple[str, int, int]]:
    parts = [part for part in name.split("/") if part and part != ".."]
    for depth in range(len(parts), -1, -1):  # a group is bound by those around it
        folder = root.joinpath(*parts[:depth])
        with suppress(OSError, ValueError):  # "max" is no number: no limit
            limit, used = (int((folder / file).read_text(encoding="ascii")) for file in files)
            if limit < _UNLIMITED:
                yield str(folder), limit, max(0, used - _idle(folder / "memory.stat", idle))


def _idle(path: Path, key: str) -> int:
    """Bytes of cached files that are given back when memory is wanted."""
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, size = line.partition(" ")
            if name == key:
                return int(size)
    return 0


def shared_memory_free() -> int | None:
    """Bytes free in /dev/shm, through which loader processes hand over batches; None where there is none."""
    with suppress(OSError, AttributeError):
        state = os.statvfs("/dev/shm")  # noqa: S108 - looked at, not written to
        return state.f_bavail * state.f_frsize
    return None
