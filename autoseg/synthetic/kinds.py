"""A small synthetic dataset of the kind of each preset, to see the preset work from images to scores.

Each has what makes its kind hard: calcification in some scans only, two views and two phases of one heart, chambers
that differ in place and not in brightness, thick slices under the field of a surface coil. Structures that are not
wanted are as bright as those that are. They say that a preset runs and learns; they say nothing of real images.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.atomic import atomic_path
from autoseg.codec import write_json
from autoseg.geometry import Geometry, directions_of
from autoseg.image import Image, Segmentation, write_image, write_segmentation

_ENDING = ".nii.gz"
WHOLE_HEART_VALUES = {"LV": 500, "RV": 600, "LA": 420, "RA": 550, "myocardium": 205, "aorta": 820, "PA": 850}
"""Values of the files of MM-WHS, whose data they are named after."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticImage:
    """One image.

    Args:
        name: Of the case.
        array: Intensities (z, y, x).
        labels: Label values of the same shape.
        spacing: Millimetres (z, y, x).
        columns: What a table says of it besides files: group, phase, view, ...
    """

    name: str
    array: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float, float]
    columns: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticKind:
    """A kind of dataset.

    Args:
        channel: Name of the channel.
        labels: Name -> value in training.
        make: Images of one patient, from his number and a source of randomness.
        stored_values: Label -> value in the files, where it is another one.
        has_table: Whether a table describes the dataset, not dataset.json.
        orientation: Anatomical direction of the array axes.
    """

    channel: str
    labels: dict[str, int]
    make: Callable[[int, np.random.Generator], Iterator[SyntheticImage]]
    stored_values: dict[str, int] | None = None
    has_table: bool = False
    orientation: str = "SPL"

    def write(self, folder: Path, *, num_training: int, num_test: int, seed: int = 0) -> None:
        """Write a dataset: dataset.json with nnU-Net's folders, or cases.csv; labels of the test cases in labelsTs.

        Args:
            folder: Folder to fill.
            num_training: Patients to learn from.
            num_test: Patients to predict.
            seed: Equal seeds give equal files on one machine; a patient depends on it and his number only.
        """
        rows = list[dict[str, str]]()
        for number in range(num_training + num_test):
            is_training = number < num_training
            split = "Tr" if is_training else "Ts"
            for image in self.make(number, np.random.default_rng((seed, number))):
                image_name = f"images{split}/{image.name}_0000{_ENDING}"
                label_name = f"labels{split}/{image.name}{_ENDING}"
                geometry = Geometry(
                    shape=image.array.shape, spacing=image.spacing, directions=directions_of(self.orientation)
                )
                stored = np.rint(image.array[None]).astype(np.float32)  # whole numbers, as scanners store them
                write_image(folder / image_name, Image(array=stored, geometry=geometry))
                write_segmentation(
                    folder / label_name, Segmentation(array=self._stored(image.labels), geometry=geometry)
                )
                rows.append(
                    {"case": image.name, "image": image_name, "label": label_name if is_training else ""}
                    | image.columns
                    | {"split": "train" if is_training else "test"}
                )
        if self.has_table:
            _write_table(rows, folder / "cases.csv")
        else:
            write_json(self._declaration(num_training), folder / "dataset.json")
        write_json(self._declaration(num_training), folder / "labelsTs" / "dataset.json")

    def _stored(self, labels: np.ndarray) -> np.ndarray:
        if self.stored_values is None:
            return labels
        table = np.zeros(max(self.labels.values()) + 1, np.uint16)
        for name, value in self.labels.items():
            table[value] = self.stored_values[name]
        return np.asarray(table[labels])

    def _declaration(self, num_training: int) -> dict[str, object]:
        found: dict[str, object] = {
            "channel_names": {"0": self.channel},
            "labels": {"background": 0, **self.labels},
            "numTraining": num_training,
            "file_ending": _ENDING,
        }
        if self.stored_values is not None:
            found["label_map"] = {str(self.stored_values[name]): value for name, value in self.labels.items()}
        return found


def _write_table(rows: Sequence[dict[str, str]], path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class _Canvas:
    """An image that is being painted: shapes cover what was there before.

    Args:
        shape: Voxels (z, y, x).
        spacing: Millimetres (z, y, x).
        brightness: Of the empty image.
    """

    def __init__(self, shape: tuple[int, int, int], spacing: tuple[float, float, float], brightness: float) -> None:
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
        self.z, self.y, self.x = np.meshgrid(*axes, indexing="ij", sparse=True)  # mm from the middle
        self.spacing = spacing
        self.values = np.full(shape, brightness, np.float32)
        self.labels = np.zeros(shape, np.uint8)

    def paint(self, where: np.ndarray, brightness: float, label: int = 0) -> None:
        """Give voxels an intensity and a label."""
        where = np.broadcast_to(where, self.values.shape)
        self.values[where] = brightness
        self.labels[where] = label

    def ellipsoid(self, center: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray) -> np.ndarray:
        """Which voxels lie in an ellipsoid; center and radii (z, y, x) in mm."""
        parts = (((p - c) / r) ** 2 for p, c, r in zip((self.z, self.y, self.x), center, radii, strict=True))
        return np.asarray(sum(parts) <= 1)

    def scanned(self, rng: np.random.Generator, *, noise: float, blur: float = 0.6) -> np.ndarray:
        """The intensities, blurred over ``blur`` mm and noisy."""
        smooth = ndimage.gaussian_filter(self.values, [blur / s for s in self.spacing])
        return np.asarray(smooth + rng.normal(0, noise, smooth.shape), np.float32)


def _heart_ct(number: int, rng: np.random.Generator) -> Iterator[SyntheticImage]:
    """Hounsfield units: myocardium around contrast agent, the aortic valve, calcification on every second valve."""
    spacing = (1.25, 0.8, 0.8)
    canvas = _Canvas((30, 56, 56), spacing, -850.0)
    canvas.paint(canvas.ellipsoid((0, 0, 0), (30, 20, 20.5)), 30)
    canvas.paint(canvas.ellipsoid((0, 15, rng.uniform(-8, 8)), (40, 3.5, 4.5)), 650)  # the spine: as bright as calcium
    canvas.paint(canvas.ellipsoid((0, -14, rng.uniform(-6, 6)), (25, 2.5, 2.5)), 330)  # a vessel
    y, x = rng.uniform(-3, 1.5, 2)
    r = rng.uniform(7.5, 9.0)
    wall = rng.uniform(2.6, 3.4)
    top = rng.uniform(3.0, 5.0)  # mm above the middle, where the ventricle ends and the aorta begins
    below = canvas.z <= top
    canvas.paint(canvas.ellipsoid((-2, y, x), (15 + wall, r + wall, r + wall)) & below, 105, 1)
    canvas.paint(canvas.ellipsoid((-2, y, x), (15, r, r)) & below, 320)
    in_plane = (canvas.y - y) ** 2 + (canvas.x - x) ** 2
    canvas.paint((in_plane <= (0.62 * r) ** 2) & ~below, 330)  # the aorta
    canvas.paint((in_plane <= (0.62 * r) ** 2) & (np.abs(canvas.z - top) <= 1.9), 190, 2)
    if number % 2 == 0:
        for angle in rng.uniform(0, 2 * np.pi, 2):
            place = (top, y + 0.4 * r * np.sin(angle), x + 0.4 * r * np.cos(angle))
            canvas.paint(canvas.ellipsoid(place, (1.6, 1.5, 1.7)), 850, 3)
    yield SyntheticImage(
        name=f"patient{number:04d}",
        array=canvas.scanned(rng, noise=22.0),
        labels=canvas.labels,
        spacing=spacing,
        columns={},
    )


def _cardiac_views(number: int, rng: np.random.Generator) -> Iterator[SyntheticImage]:
    """MRI of one heart: a stack of the short axis and one slice of the long axis, at end diastole and end systole."""
    radius, wall = rng.uniform(15, 18), rng.uniform(5.5, 7.5)
    place = rng.uniform(-5, 5, 2)
    vendor = "A" if number % 2 == 0 else "B"
    gain = rng.uniform(0.8, 1.0) if vendor == "A" else rng.uniform(1.3, 1.6)
    for phase, squeeze in (("ED", 1.0), ("ES", rng.uniform(0.62, 0.72))):
        inner = radius * squeeze
        thick = wall * (1.35 if phase == "ES" else 1.0)
        for view, canvas in (("SA", _short_axis(inner, thick, place)), ("LA", _long_axis(inner, thick, place))):
            yield SyntheticImage(
                name=f"{number:03d}_{view}_{phase}",
                array=gain * canvas.scanned(rng, noise=14.0, blur=0.8),
                labels=canvas.labels,
                spacing=canvas.spacing,
                columns={"group": f"{number:03d}", "domain": vendor, "phase": phase, "view": view},
            )


def _short_axis(inner: float, thick: float, place: np.ndarray) -> _Canvas:
    canvas = _Canvas((6, 64, 64), (10.0, 1.5, 1.5), 40.0)
    y, x = place
    canvas.paint(canvas.ellipsoid((0, y + 34, x - 24), (60, 9, 12)), 200)  # the stomach: as bright as blood
    taper = np.sqrt(np.clip(1 - ((canvas.z - 5) / 55) ** 2, 0.05, 1))  # narrower towards the apex
    distance = np.sqrt((canvas.y - y) ** 2 + (canvas.x - x) ** 2)
    right = ((canvas.y - y - 3) / (1.05 * (inner + thick))) ** 2 + ((canvas.x - x + inner + thick) / 17) ** 2
    canvas.paint(right <= taper**2, 195, 3)
    canvas.paint(distance <= (inner + thick) * taper, 90, 2)
    canvas.paint(distance <= inner * taper, 200, 1)
    return canvas


def _long_axis(inner: float, thick: float, place: np.ndarray) -> _Canvas:
    canvas = _Canvas((1, 64, 64), (8.0, 1.5, 1.5), 40.0)
    y, x = place
    below = canvas.y - y >= -14  # the plane of the valves
    canvas.paint(canvas.ellipsoid((0, y - 30, x), (9, 14, 1.1 * inner)), 200)  # an atrium: as bright as the ventricle
    canvas.paint(canvas.ellipsoid((0, y - 14, x - inner - thick - 4), (9, 34, 15)) & below, 195, 3)
    canvas.paint(canvas.ellipsoid((0, y - 14, x), (9, 42 + thick, inner + thick)) & below, 90, 2)
    canvas.paint(canvas.ellipsoid((0, y - 14, x), (9, 42, inner)) & below, 200, 1)
    return canvas


def _whole_heart(number: int, rng: np.random.Generator) -> Iterator[SyntheticImage]:
    """CT of seven structures, the left side as bright as the aorta, the right side as the pulmonary artery."""
    spacing = (2.5, 2.4, 2.4)
    canvas = _Canvas((38, 40, 40), spacing, -700.0)
    canvas.paint(canvas.ellipsoid((0, 0, 0), (70, 46, 47)), 20)
    shift = rng.uniform(-5, 5, 3)
    scale = rng.uniform(0.9, 1.08)

    def part(center: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        wobble = rng.uniform(-1.5, 1.5, 3)
        return canvas.ellipsoid(scale * np.asarray(center) + shift + wobble, scale * np.asarray(radii))

    canvas.paint(canvas.ellipsoid((0, 38, 8), (90, 6, 6)), 340)  # the descending aorta, which is not wanted
    left, right = rng.uniform(320, 360), rng.uniform(180, 215)
    names = {name: value for value, name in enumerate(WHOLE_HEART_VALUES, start=1)}
    canvas.paint(part((32, -8, 4), (24, 8, 8)), left, names["aorta"])
    canvas.paint(part((30, -14, 18), (20, 7, 8)), right, names["PA"])
    canvas.paint(part((12, 20, 10), (12, 12, 18)), left, names["LA"])
    canvas.paint(part((6, 6, -24), (16, 14, 12)), right, names["RA"])
    canvas.paint(part((-16, -18, -10), (16, 14, 20)), right, names["RV"])
    middle = scale * np.asarray((-16.0, 2.0, 16.0)) + shift
    canvas.paint(canvas.ellipsoid(middle, scale * np.asarray((24.0, 19.0, 19.0))), 110, names["myocardium"])
    canvas.paint(canvas.ellipsoid(middle, scale * np.asarray((17.0, 12.5, 12.5))), left, names["LV"])
    yield SyntheticImage(
        name=f"ct_{1000 + number}",
        array=canvas.scanned(rng, noise=22.0, blur=1.2),
        labels=canvas.labels,
        spacing=spacing,
        columns={},
    )


def _thick_slices(number: int, rng: np.random.Generator) -> Iterator[SyntheticImage]:
    """Sagittal MRI: a row of vertebrae over ten thick slices, discs between them, under a surface coil's field."""
    spacing = (4.0, 1.1, 1.1)
    canvas = _Canvas((10, 64, 64), spacing, 70.0)
    bend = rng.uniform(-0.004, 0.004)
    middle = rng.uniform(-6, 6)
    curve = middle + bend * canvas.y**2
    height, depth = rng.uniform(11.0, 13.0), rng.uniform(8.5, 10.0)
    disc = rng.uniform(3.5, 4.5)
    start = rng.uniform(0, height + disc)
    inside = (np.abs(canvas.z) <= rng.uniform(11.0, 15.0)) & (np.abs(canvas.x - curve) <= depth)
    along = np.mod(canvas.y + start, height + disc)
    canvas.paint(np.abs(canvas.x - curve + 26) <= 4, 135)  # fat: as bright as bone, and of another form
    canvas.paint((np.abs(canvas.x - curve - depth - 6) <= 4) & (np.abs(canvas.z) <= 8), 30)  # the canal
    canvas.paint(inside, 45)  # discs
    canvas.paint(inside & (along <= height), 140, 1)
    field = np.exp(-(((canvas.x - 26) / 52) ** 2) - ((canvas.y - rng.uniform(-12, 12)) / 60) ** 2)
    array = canvas.scanned(rng, noise=7.0) * (0.35 + 1.3 * field)
    yield SyntheticImage(
        name=f"spine{number:03d}",
        array=np.maximum(array, 0),
        labels=canvas.labels,
        spacing=spacing,
        columns={},
    )


KINDS = {
    "aicup": SyntheticKind(
        channel="CT", labels={"myocardium": 1, "aortic valve": 2, "calcification": 3}, make=_heart_ct
    ),
    "mnms2": SyntheticKind(channel="MRI", labels={"LV": 1, "MYO": 2, "RV": 3}, make=_cardiac_views, has_table=True),
    "cm_trancaf": SyntheticKind(
        channel="CT",
        labels={name: value for value, name in enumerate(WHOLE_HEART_VALUES, start=1)},
        make=_whole_heart,
        stored_values=WHOLE_HEART_VALUES,
    ),
    "spine": SyntheticKind(channel="MRI", labels={"vertebra": 1}, make=_thick_slices, orientation="LIP"),
}
"""Name of a preset -> the kind of dataset that it is for."""
