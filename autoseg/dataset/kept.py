"""Cases that were read to be measured, kept by the process that read them until they are preprocessed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autoseg.dataset.case import Case
from autoseg.image import Image, Segmentation

_PROBE = 4096  # voxels that tell most images with fractions from those without


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Kept:
    """A case in as few bytes as hold it exactly."""

    image: Image
    voxels: np.ndarray
    segmentation: Segmentation | None

    @property
    def num_bytes(self) -> int:
        return self.voxels.nbytes + (0 if self.segmentation is None else self.segmentation.array.nbytes)


class KeptCases:
    """Cases of one process, in memory. Whole-numbered intensities, as CT and most MR images have, take two bytes."""

    def __init__(self) -> None:
        self._cases: dict[Case, _Kept] = {}

    @property
    def num_bytes(self) -> int:
        """Memory that the voxels of all kept cases take."""
        return sum(kept.num_bytes for kept in self._cases.values())

    def keep(self, case: Case, image: Image, segmentation: Segmentation | None, *, limit: int) -> bool:
        """Keep a case if it fits.

        Args:
            case: Its files.
            image: As read; its array may be kept as it is and must not be changed afterwards.
            segmentation: As read; likewise.
            limit: Bytes that all kept cases of this process may take.

        Returns:
            Whether it is kept.
        """
        room = limit - self.num_bytes - (0 if segmentation is None else segmentation.array.nbytes)
        if image.array.size > room:
            return False
        voxels = _narrowed(image.array)
        if voxels.nbytes > room:
            return False
        placeholder = replace(image, array=np.broadcast_to(image.array.dtype.type(0), image.array.shape))
        self._cases[case] = _Kept(image=placeholder, voxels=voxels, segmentation=segmentation)
        return True

    def take(self, case: Case) -> tuple[Image, Segmentation | None] | None:
        """Give a case back, with exactly the voxels that were read, and forget it; None where it was not kept."""
        kept = self._cases.pop(case, None)
        if kept is None:
            return None
        return replace(kept.image, array=kept.voxels.astype(kept.image.array.dtype, copy=False)), kept.segmentation

    def clear(self) -> None:
        """Forget everything."""
        self._cases.clear()


KEPT_CASES = KeptCases()
"""Those of this process. Worker processes end with their pool; whoever works without them clears it."""


def _narrowed(array: np.ndarray) -> np.ndarray:
    """The same values as 16-bit integers, where that holds them; else the array."""
    if array.dtype.itemsize <= 2:
        return array
    flat = array.reshape(-1)
    probe = flat[:: max(1, flat.size // _PROBE)]
    if (probe != np.rint(probe)).any() or np.abs(probe).max(initial=0) > np.iinfo(np.int16).max:
        return array
    with np.errstate(invalid="ignore"):  # what does not fit is seen right after
        narrow = array.astype(np.int16)
    return narrow if np.array_equal(narrow, array) else array
