"""Files and values as strangers make them, and the law for all: a correct result, or one error that helps."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import SimpleITK as sitk
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from autoseg.errors import AutosegError

T = TypeVar("T")

_LONG = 40  # times as many examples as in `make test`
CODES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


def fuzzed(examples: int) -> settings:
    """So many examples in ``make test``, and many more in ``make test-fuzz``; always the same ones in the former."""
    is_long = settings.get_current_profile_name() == "long"
    return settings(
        max_examples=examples * (_LONG if is_long else 1),
        deadline=None,
        derandomize=not is_long,
        phases=(Phase.explicit, Phase.generate) + ((Phase.shrink,) if is_long else ()),
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def result_or_error(work: Callable[[], T], *names: str) -> T | None:
    """The result, or None where an error named the file; anything else that is raised fails the test.

    Args:
        work: What to try.
        names: Any of them names the file.
    """
    try:
        return work()
    except AutosegError as error:
        told = str(error)
    assert any(name in told for name in names), f"{told} names none of {names}"
    return None


def rotation(angles: tuple[float, float, float], flips: tuple[bool, ...], order: list[int]) -> np.ndarray:
    """A direction matrix: three turns, then axes exchanged and reversed."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn, (a, b) = np.eye(3), [i for i in range(3) if i != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return np.asarray(matrix[:, order] * np.where(flips, -1, 1))


def write_itk(
    path: Path, array: np.ndarray, *, spacing: tuple[float, ...] | None = None, direction: np.ndarray | None = None
) -> None:
    """Write (z, y, x) or (y, x) with SimpleITK, not with what is tested."""
    picture = sitk.GetImageFromArray(array)
    if spacing is not None:
        picture.SetSpacing(spacing[::-1])
    if direction is not None:
        picture.SetDirection(direction.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(picture, str(path))


def nifti_bytes(
    dimensions: list[int],
    spacing: list[float],
    rows: np.ndarray,
    *,
    code: int,
    codes: tuple[int, int] = (0, 1),
    content: bytes,
    slope: float = 1.0,
) -> bytes:
    """A NIfTI-1 file with anything in its header, right or wrong.

    Args:
        dimensions: Up to eight numbers, the first of which should be the number of axes.
        spacing: Up to eight numbers, the first of which should be 1 or -1.
        rows: Affine (3, 4).
        code: Data type.
        codes: qform_code and sform_code.
        content: What follows the header.
        slope: Factor of the voxels.
    """
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, *(dimensions + [1] * 8)[:8])
    bits = 8 * np.dtype(CODES[code]).itemsize if code in CODES else 8
    struct.pack_into("<hh", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, *(spacing + [1.0] * 8)[:8])
    struct.pack_into("<3f", header, 108, 352, slope, 0)
    struct.pack_into("<hh", header, 252, *codes)
    struct.pack_into("<12f", header, 280, *np.asarray(rows, dtype=np.float32).ravel())
    header[344:348] = b"n+1\0"
    return bytes(header) + content


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70_000),
    st.sampled_from([0, -1, 10**6, -(10**9), 2**63, 10**30, 1e-30, 1e308, -0.5, float("nan"), float("inf")]),
    st.sampled_from(["", "..", "/etc/passwd", "a/b", "0", "-1", "*", "\x00", "\ud800", "ä ö", "x" * 300, "background"]),
    st.sampled_from([[], {}, [[]], [1, -1], [0], {"0": 0}, {"a": None}, [None], [1.5, 2.5, 3.5], [[1, 2], [3]]]),
)


@st.composite
def mutated(draw: st.DrawFn, original: Any) -> Any:  # noqa: ANN401 - JSON
    """A JSON value with one or two entries anywhere in it removed, replaced, renamed, doubled or added."""
    changed = deepcopy(original)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(changed))
        if not places:
            return draw(_LEAVES)
        holder, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["remove", "replace", "replace", "negate", "rename", "repeat"]))
        value = holder[key]
        if how == "remove":
            del holder[key]
        elif how == "negate" and isinstance(value, int | float):
            holder[key] = draw(st.sampled_from([-value, value * 10**9, value * 1e-9, str(value)]))
        elif how == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["", "0", "-1", "ignore", "unknown", "1e3", key + " ", key.upper()]))] = value
            del holder[key]
        elif how == "repeat" and isinstance(holder, list):
            holder.append(deepcopy(value))
        else:
            holder[key] = draw(_LEAVES)
    return changed


def _places(value: Any) -> Any:  # noqa: ANN401 - JSON
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
