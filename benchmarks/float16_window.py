"""What float16 sums do to a prediction: a picture and the figures of docs/concepts/float16.md.

    python benchmarks/float16_window.py

The "network" answers its input, so that what comes out should be what went in: smooth random logits of two classes.
A volume of 1.5 windows per axis is predicted with nnU-Net's float16 weights and sums, and with autoseg's float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy import ndimage

from autoseg.figures.canvas import save_picture
from autoseg.inference.sliding_window import Tiling, gaussian_importance, sliding_window

SMALLEST_NORMAL = 2.0**-14  # of float16; below it, digits are lost
STEP_BELOW = 2.0**-24  # between numbers there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 64))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/float16_window.png"))
    arguments = parser.parse_args()
    patch = tuple(arguments.patch)
    weights = gaussian_importance(patch, accumulation="float16").float().numpy()
    logits = smooth_logits(tuple(n * 3 // 2 for n in patch))
    error = probability_error(logits, patch)
    alone = corner_of(error.shape, patch)
    print(
        f"{np.mean(weights < SMALLEST_NORMAL):.1%} of the weights of a {'x'.join(map(str, patch))} window are subnormal"
    )
    print(f"smallest weight {weights.min():.2e}: logits are rounded to steps of {STEP_BELOW / weights.min():.2g} there")
    print(f"largest error in probability {error.max():.3f}, where one window is alone {error[alone].max():.3f}")
    print(f"voxels that are wrong by more than 0.01: {np.mean(error > 0.01):.2%}")
    draw(weights, error, arguments.picture)
    print(arguments.picture)


def smooth_logits(shape: tuple[int, ...]) -> torch.Tensor:
    """Logits (2, z, y, x) of two classes with a standard deviation of 3."""
    noise = np.random.default_rng(0).normal(size=(2, *shape))
    smooth = np.stack([ndimage.gaussian_filter(field, 4) for field in noise])
    return torch.from_numpy((3 * smooth / smooth.std()).astype(np.float32))


def probability_error(logits: torch.Tensor, patch: tuple[int, ...]) -> np.ndarray:
    """Difference of the probability of the second class to that of the logits themselves."""
    tiling = Tiling(patch_size=patch, accumulation="float16")
    found = sliding_window(logits, lambda patches: patches.clone(), tiling, num_outputs=2)
    return (found.float().softmax(0) - logits.softmax(0))[1].abs().numpy()


def corner_of(shape: tuple[int, ...], patch: tuple[int, ...]) -> tuple[slice, ...]:
    """The corner that no second window reaches: windows are half a patch apart."""
    return tuple(slice(0, p // 2) for p, _ in zip(patch, shape, strict=True))


def draw(weights: np.ndarray, error: np.ndarray, path: Path) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    depth = weights.shape[0] // 8
    shown = left.imshow(weights[depth], norm=LogNorm(STEP_BELOW, 10), cmap="viridis")
    is_subnormal = (weights[depth] < SMALLEST_NORMAL).astype(float)
    left.contour(is_subnormal, levels=[0.5], colors="white", linewidths=1.2)
    left.set_title(
        f"Weights of a window in float16, slice {depth} of {len(weights)}:\noutside the line they are subnormal"
    )
    figure.colorbar(shown, ax=left)
    shown = right.imshow(error.max(axis=0), norm=LogNorm(1e-4, 0.3), cmap="magma")
    right.set_title("Largest error of a probability along the depth of a volume\nof 1.5 windows: its corners are wrong")
    figure.colorbar(shown, ax=right)
    for axes in (left, right):
        axes.set_xticks([])
        axes.set_yticks([])
    save_picture(figure, path)


if __name__ == "__main__":
    main()
