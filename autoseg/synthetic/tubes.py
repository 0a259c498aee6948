"""Synthetic volumes of tubes in an organ: vessels of a kidney as a microscope of X-rays shows them, made small.

Tubes run in all directions. One that crosses the slices is a dot in each of them, as the bright grains beside it are;
along another axis it is a line. Tubes outside of the organ look the same and are not to be found.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.codec import write_json
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation

ORGAN, TUBE = 1, 2
_SPACING = 0.05  # mm, along all axes
_AIR, _TISSUE, _BRIGHT = 20_000.0, 24_000.0, 31_000.0  # of 16 bits
_NOISE = 3_000.0
_INSIDE, _OUTSIDE, _GRAINS = 9, 5, 40


def write_tube_dataset(
    folder: Path, *, num_training: int = 8, num_test: int = 3, edge: int = 48, seed: int = 0
) -> None:
    """Write a dataset of TIFF stacks in nnU-Net's raw format, labels of the test cases (labelsTs) included.

    Its two regions overlap: the organ with all that is in it, and the tubes.

    Args:
        folder: Folder to fill; files of an earlier call are overwritten.
        num_training: Labelled cases in imagesTr and labelsTr.
        num_test: Cases in imagesTs and labelsTs.
        edge: Voxels along the first axis; the others are a little longer and shorter.
        seed: Equal seeds give equal files on one machine.
    """
    for split, count, stream in (("Tr", num_training, 0), ("Ts", num_test, 1)):
        for number in range(count):
            image, segmentation = tube_case(np.random.default_rng((seed, stream, number)), edge=edge)
            name = f"{'kidney' if split == 'Tr' else 'test'}_{number:02d}"
            write_image(folder / f"images{split}" / f"{name}_0000.tif", image)
            write_segmentation(folder / f"labels{split}" / f"{name}.tif", segmentation)
            for kind in ("images", "labels"):
                write_json({"spacing": list(image.geometry.spacing)}, folder / f"{kind}{split}" / f"{name}.json")
    table = {
        "channel_names": {"0": "X-ray"},
        "labels": {"background": 0, "kidney": [ORGAN, TUBE], "vessel": [TUBE]},
        "regions_class_order": [ORGAN, TUBE],
        "numTraining": num_training,
        "file_ending": ".tif",
    }
    write_json(table, folder / "dataset.json")


def tube_case(generator: np.random.Generator, *, edge: int = 48) -> tuple[Image, Segmentation]:
    """Make one case.

    Args:
        generator: Source of everything random.
        edge: Voxels along the first axis.

    Returns:
        Image (1, z, y, x) of 16 bits and its segmentation (z, y, x): 0, 1 in the organ, 2 in its tubes.
    """
    shape = (edge, edge + edge // 6, edge - edge // 6)
    places = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)  # (z, y, x, 3)
    middle = np.asarray(shape) / 2 + generator.uniform(-2, 2, size=3)
    radii = np.asarray(shape) * generator.uniform(0.3, 0.38, size=3)
    organ = (((places - middle) / radii) ** 2).sum(axis=-1) < 1
    inside = np.zeros(shape, dtype=bool)
    for _ in range(_INSIDE):
        inside |= _tube(generator, shape, through=_anywhere(generator, organ))
    outside = np.zeros(shape, dtype=bool)
    for _ in range(_OUTSIDE):
        outside |= _tube(generator, shape, through=_anywhere(generator, ~organ))
    centers = tuple(generator.integers(shape, size=(_GRAINS, 3)).T)
    sizes = np.zeros(shape)
    sizes[centers] = generator.uniform(1.2, 2.4, size=_GRAINS)
    distance, nearest = ndimage.distance_transform_edt(sizes == 0, return_indices=True)
    grains = distance < sizes[tuple(nearest)]
    brightness = np.where(organ, _TISSUE, _AIR)
    brightness[(inside & organ) | (outside & ~organ) | grains] = _BRIGHT
    noise = ndimage.gaussian_filter(generator.normal(size=shape), 0.6)
    image = ndimage.gaussian_filter(brightness, 0.5) + _NOISE * noise / noise.std()
    labels = organ.astype(np.uint8) * ORGAN
    labels[inside & organ] = TUBE
    geometry = Geometry(shape=shape, spacing=(_SPACING,) * 3)
    stored = np.clip(np.rint(image), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    return Image(array=stored[None], geometry=geometry), Segmentation(array=labels, geometry=geometry)


def _anywhere(generator: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A voxel (3,) of a mask."""
    found = np.argwhere(mask)
    return np.asarray(found[generator.integers(len(found))])


def _tube(generator: np.random.Generator, shape: tuple[int, ...], *, through: np.ndarray) -> np.ndarray:
    """A tube that bends a little, from border to border, as a boolean array."""
    direction, bend = generator.normal(size=(2, 3))
    direction /= np.linalg.norm(direction)
    along = np.linspace(-1.0, 1.0, 8 * max(shape))[:, None] * max(shape)
    line = through + along * direction + 0.08 * generator.random() * along**2 / max(shape) * bend
    voxels = np.rint(line).astype(int)
    voxels = voxels[((voxels >= 0) & (voxels < shape)).all(axis=1)]
    beside = np.ones(shape, dtype=bool)
    beside[tuple(voxels.T)] = False
    return np.asarray(ndimage.distance_transform_edt(beside) < generator.uniform(1.1, 2.2))
