"""A small synthetic dataset for the demo and for tests: quick to make and to learn, but not to be had by a threshold.

Each case is a body with one deformed organ and, inside it, dark lesions. Vessels have the organ's intensity and cysts
outside it have the lesions', so intensity alone tells neither: size, shape and place do. Scanners differ between cases
(voxel size, thick or thin slices, field of view, gain, bias field, noise).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.codec import write_json
from autoseg.geometry import Geometry
from autoseg.image import Image, Segmentation, write_image, write_segmentation

ORGAN, LESION = 1, 2
_ENDING = ".nii.gz"
_FIELD_OF_VIEW = (32.0, 48.0, 40.0)  # mm per axis (z, y, x)
_SPACINGS = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (2.5, 0.9, 0.9), (1.25, 1.1, 1.1), (1.0, 0.9, 0.9))  # mm
# Brightness at a gain of one: air, body, organ and vessels, lesions and cysts.
_AIR, _BODY, _BRIGHT, _DARK = 0.0, 300.0, 480.0, 150.0


def write_synthetic_dataset(folder: Path, *, num_training: int = 12, num_test: int = 4, seed: int = 0) -> None:
    """Write a 3D dataset in nnU-Net's raw format, labels of the test cases (labelsTs) included.

    Args:
        folder: Folder to fill; files of an earlier call are overwritten.
        num_training: Labelled cases in imagesTr and labelsTr; at least one.
        num_test: Cases in imagesTs and labelsTs.
        seed: Equal seeds give equal files on one machine. A case depends on the seed and its number only,
            so that asking for more keeps the earlier ones.

    Raises:
        ValueError: When there is no training case or a number is negative.
    """
    if num_training < 1 or num_test < 0:
        raise ValueError(f"cannot make {num_training} training and {num_test} test cases")
    for split, count, stream in (("Tr", num_training, 0), ("Ts", num_test, 1)):
        for number in range(count):
            image, segmentation = synthetic_case(np.random.default_rng((seed, stream, number)))
            name = f"{'case' if split == 'Tr' else 'test'}_{number:03d}"
            write_image(folder / f"images{split}" / f"{name}_0000{_ENDING}", image)
            write_segmentation(folder / f"labels{split}" / f"{name}{_ENDING}", segmentation)
    table = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "organ": ORGAN, "lesion": LESION},
        "numTraining": num_training,
        "file_ending": _ENDING,
    }
    write_json(table, folder / "dataset.json")


def synthetic_case(generator: np.random.Generator) -> tuple[Image, Segmentation]:
    """Make one case.

    Args:
        generator: Source of everything random.

    Returns:
        Image (1, z, y, x) of whole numbers, as scanners store them, and its segmentation (z, y, x) with values 0, 1, 2.
    """
    geometry = _random_geometry(generator)
    anatomy = _random_anatomy(generator)
    fine = 2  # positions per voxel and axis: a voxel at a border shows a mixture, as in a scanner
    positions = _positions(geometry, fine)
    brightness = np.full(positions[0].shape, _AIR, dtype=np.float32)
    labels = np.zeros(positions[0].shape, dtype=np.uint8)
    body = np.ones(positions[0].shape, dtype=bool)
    for number, shape in enumerate(anatomy):
        inside = shape.contains(positions) & body
        if number == 0:
            body = inside
        brightness[inside] = shape.brightness
        labels[inside] = shape.label
    shares = np.stack([_average(labels == value, fine) for value in (0, ORGAN, LESION)])
    noisy = _scan(_average(brightness, fine), geometry, generator)
    segmentation = np.argmax(shares, axis=0).astype(np.uint8)
    return Image(array=noisy[None], geometry=geometry), Segmentation(array=segmentation, geometry=geometry)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ellipsoid:
    """An ellipsoid with a wavy surface.

    Args:
        center: Position (z, y, x) in mm from the middle of the field of view.
        radii: Half axes in mm.
        rotation: Rows are the directions of the half axes, (3, 3).
        waves: Amplitude and phase of surface waves, as a share of the radius and in radians.
        brightness: At a gain of one.
        label: Value in the segmentation.
    """

    center: np.ndarray
    radii: tuple[float, float, float]
    rotation: np.ndarray
    waves: tuple[float, float] = (0.0, 0.0)
    brightness: float
    label: int = 0

    def contains(self, positions: Sequence[np.ndarray]) -> np.ndarray:
        """Which of the positions (three arrays that broadcast, mm) lie inside, as a boolean array."""
        z, y, x = (p - c for p, c in zip(positions, self.center.tolist(), strict=True))
        u, v, w = ((a * z + b * y + c * x) / r for (a, b, c), r in zip(self.rotation.tolist(), self.radii, strict=True))
        distance = u * u + v * v + w * w
        amplitude, phase = self.waves
        if amplitude == 0:
            return np.asarray(distance <= 1)
        surface = 1 + amplitude * (np.sin(3 * u + phase) * np.cos(2 * v) + np.sin(2 * w - phase))
        return np.asarray(distance <= surface * surface)


def _random_geometry(generator: np.random.Generator) -> Geometry:
    """Voxel size, a field of view of about 32 x 48 x 40 mm anywhere in the scanner, slightly oblique."""
    spacing = _SPACINGS[generator.integers(len(_SPACINGS))]
    extent = np.asarray(_FIELD_OF_VIEW) * generator.uniform(0.95, 1.05, size=3)
    shape = tuple(round(float(e / s)) for e, s in zip(extent, spacing, strict=True))
    tilt = _rotation(generator.normal(0.0, 0.05, size=3))
    x, y, z = np.eye(3) @ tilt
    if generator.random() < 0.2:
        y = -y  # stored from back to front, as some scanners do; the world positions stay right
    return Geometry(
        shape=shape,
        spacing=spacing,
        origin=tuple(float(o) for o in generator.uniform(-120.0, 120.0, size=3)),
        directions=tuple(tuple(float(component) for component in axis) for axis in (z, y, x)),
    )


def _random_anatomy(generator: np.random.Generator) -> Iterator[_Ellipsoid]:
    """Shapes in the order in which they cover each other: body, vessels, cysts, organ, lesions."""
    yield _Ellipsoid(center=np.zeros(3), radii=(19.0, 22.0, 18.5), rotation=np.eye(3), brightness=_BODY)
    center = generator.uniform((-3.0, -7.0, -5.0), (3.0, 7.0, 5.0))
    outside = [p for p in generator.uniform((-12, -17, -14), (12, 17, 14), size=(40, 3)) if _is_apart(p, center)]
    for position in outside[:5]:
        radius = float(generator.uniform(1.6, 2.6))
        turn = _rotation(generator.uniform(-np.pi, np.pi, size=3))
        yield _Ellipsoid(center=position, radii=(16.0, radius, radius), rotation=turn, brightness=_BRIGHT)
    for position in outside[5:9]:
        yield _ball(position, float(generator.uniform(1.5, 2.6)), generator, label=0)
    radii = generator.uniform((7.0, 8.5, 7.0), (9.5, 11.5, 9.5))
    turn = _rotation(generator.normal(0.0, 0.5, size=3))
    waves = (0.08, float(generator.uniform(0, 2 * np.pi)))
    size = (float(radii[0]), float(radii[1]), float(radii[2]))
    yield _Ellipsoid(center=center, radii=size, rotation=turn, waves=waves, brightness=_BRIGHT, label=ORGAN)
    for _ in range(generator.integers(1, 4)):
        direction = generator.normal(size=3)
        step = generator.uniform(0.15, 0.6) * direction / np.linalg.norm(direction) * radii
        # A sphere of 1.1 mm is a handful of voxels, one of 3.2 mm more than a hundred.
        yield _ball(center + step @ turn, float(generator.uniform(1.1, 3.2)), generator, label=LESION)


def _ball(center: np.ndarray, radius: float, generator: np.random.Generator, *, label: int) -> _Ellipsoid:
    turn = _rotation(generator.uniform(-np.pi, np.pi, size=3))
    return _Ellipsoid(
        center=center, radii=(radius, radius, 1.25 * radius), rotation=turn, brightness=_DARK, label=label
    )


def _is_apart(position: np.ndarray, center: np.ndarray) -> bool:
    """Whether a look-alike there cannot be taken for a part of the organ."""
    return float(np.linalg.norm(position - center)) > 14.0


def _positions(geometry: Geometry, fine: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances from the middle of the grid in mm, ``fine`` per voxel, as three arrays (z, y, x) of full shape."""
    axes = [
        ((np.arange(n * fine, dtype=np.float32) + 0.5) / fine - n / 2) * s
        for n, s in zip(geometry.shape, geometry.spacing, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z, y, x


def _average(array: np.ndarray, fine: int) -> np.ndarray:
    """Mean over blocks of ``fine`` positions along each axis (z, y, x)."""
    z, y, x = (n // fine for n in array.shape)
    return np.asarray(array.reshape(z, fine, y, fine, x, fine).mean(axis=(1, 3, 5)))


def _scan(brightness: np.ndarray, geometry: Geometry, generator: np.random.Generator) -> np.ndarray:
    """What a scanner makes of the brightness (z, y, x): texture, bias field, gain, noise that is never negative."""
    texture = ndimage.gaussian_filter(generator.normal(size=brightness.shape), [1.5 / s for s in geometry.spacing])
    signal = brightness * (1 + 0.07 * texture / texture.std())
    axes = np.meshgrid(*(np.linspace(-1.0, 1.0, n) for n in brightness.shape), indexing="ij", sparse=True)
    linear, quadratic = generator.normal(0.0, 0.12, size=3), generator.normal(0.0, 0.08, size=3)
    bias = sum(a * axis + b * axis**2 for a, b, axis in zip(linear, quadratic, axes, strict=True))
    gain = generator.uniform(0.7, 1.5)
    signal = gain * signal * np.exp(bias)
    spread = gain * generator.uniform(25.0, 45.0)
    real, imaginary = generator.normal(0.0, spread, size=(2, *brightness.shape))
    magnitude = np.hypot(signal + real, imaginary)  # of a complex signal: Rician noise
    return np.asarray(np.rint(magnitude), dtype=np.float32)


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) from three angles in radians, one per axis, applied in order."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (a for a in range(3) if a != axis)
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix
