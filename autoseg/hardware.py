"""What the machine offers: GPU memory for planning, without importing torch into this process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass

_CAP_GB = 24.0  # more than this makes patches larger than published results needed
_WITHOUT_GPU_GB = 8.0  # the memory that nnU-Net's reference networks were sized for
_KEPT_BACK = 0.10  # for the driver, the allocator's gaps and other programs
_QUERY = (
    "import torch;"
    "print(min((torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())),default=0))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """GPU memory to plan for.

    Args:
        gigabytes: In GiB.
        source: Where the figure came from, in words.
    """

    gigabytes: float
    source: str


def planning_memory(requested_gb: float | None = None) -> GpuMemory:
    """Memory that networks are sized for: what was asked for, else the smallest visible GPU less 10 %, at most 24 GiB.

    Args:
        requested_gb: The user's figure, which always wins.

    Example:
        >>> planning_memory(11.0)
        GpuMemory(gigabytes=11.0, source='--gpu-memory')
    """
    if requested_gb is not None:
        return GpuMemory(gigabytes=requested_gb, source="--gpu-memory")
    total = _smallest_gpu_bytes()
    if total == 0:
        return GpuMemory(gigabytes=_WITHOUT_GPU_GB, source="no GPU found, nnU-Net's reference memory")
    usable = total / 2**30 * (1 - _KEPT_BACK)
    source = f"smallest visible GPU, {total / 2**30:.1f} GiB less {_KEPT_BACK:.0%}, at most {_CAP_GB:.0f}"
    return GpuMemory(gigabytes=round(min(usable, _CAP_GB), 2), source=source)


def _smallest_gpu_bytes() -> int:
    """Ask torch in a process of its own, and only where a driver is installed: the import takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        answer = subprocess.run(  # noqa: S603 - this interpreter and a constant program
            [sys.executable, "-c", _QUERY], capture_output=True, text=True, timeout=120, check=True
        )
        return int(answer.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0
