"""Images and segmentations on disk: everything SimpleITK reads, brought to (c, z, y, x)."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoseg.arrays import Room, let_go, slabs
from autoseg.atomic import atomic_path
from autoseg.errors import DatasetError
from autoseg.geometry import LARGEST_SPACING, LEAST_SPACING, Geometry
from autoseg.nifti import check_nifti_grid, check_nifti_is_complete, is_nifti, write_with_rotation
from autoseg.slices import check_tiff_pages, map_tiff, slice_files

_WIDEST_TABLE = 2**20
_LARGEST_LABEL = 2**31 - 1  # of those stored as floating-point numbers
_TIFF = (".tif", ".tiff")
_SLICES_ROOM = Room(largest=2**29)  # bytes of a volume of slices up to which it is held in memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Image:
    """Intensities on a grid.

    Args:
        array: (c, z, y, x), or (c, y, x) for a 2D image. As read it has the stored type where that is an integer of
            at most 16 bits, and is mapped from an uncompressed TIFF file instead of read; else float32.
        geometry: Grid of the spatial axes.
        num_nonfinite: Voxels that were NaN or infinite in the file and are zero in the array. Those of NIfTI files
            are not counted: ITK itself puts zeros there.
    """

    array: np.ndarray
    geometry: Geometry
    num_nonfinite: int = 0

    def __post_init__(self) -> None:
        if self.array.shape[1:] != self.geometry.shape:
            raise ValueError(f"array {self.array.shape} does not fit a grid of {self.geometry.shape}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segmentation:
    """Label values on a grid.

    Args:
        array: (z, y, x) or (y, x); an integer type.
        geometry: Its grid.
    """

    array: np.ndarray
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(f"array {self.array.shape} does not fit a grid of {self.geometry.shape}")

    @property
    def values(self) -> list[int]:
        """Every value that occurs, ascending."""
        return distinct_values(self.array)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What a file says about itself without its voxels being read.

    Args:
        geometry: Its grid.
        num_channels: Its channels.
        is_floating: Whether its voxels are stored as floating-point numbers.
        is_rectified: Whether its direction matrix was no rotation and had to be replaced by the nearest one.
    """

    geometry: Geometry
    num_channels: int
    is_floating: bool = False
    is_rectified: bool = False


def is_series(path: Path) -> bool:
    """Whether a path is a folder that holds a DICOM series, or the slices of a volume as TIFF or PNG files."""
    return path.is_dir() and (bool(slice_files(path)) or bool(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))))


def read_header(path: Path, *, frame: int | None = None) -> ImageHeader:
    """Read the grid and the number of channels, not the voxels.

    Args:
        path: The file, or the folder of a DICOM series.
        frame: The point in time that is meant of a 4D file; None counts all of them as channels.

    Raises:
        DatasetError: When the file does not exist, is not an image or has no such frame.
    """
    if path.is_dir() and (slices := slice_files(path)):
        return _header_of_slices(path, slices)
    if path.is_dir():
        array, geometry = _read(path)  # the distance between slices follows from all of their headers
        return ImageHeader(geometry=geometry, num_channels=len(array))
    check_nifti_grid(path)
    reader = sitk.ImageFileReader()
    is_rectified = False
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except RuntimeError as error:
        if not _is_no_rotation(path, error):
            raise _unreadable(path, error) from None
        is_rectified = True
        with _rectified(path, header_only=True) as copy:
            reader.SetFileName(str(copy))
            reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    spacing, origin, direction = reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()
    spacing, direction = _turned_forward(spacing, direction)
    spacing = _tiff_spacing(path, len(size)) or spacing
    channels = int(components)
    if len(size) == 4 and frame is None:
        channels *= int(size[3])
    elif len(size) == 4:
        _check_frame(path, int(size[3]), frame)
    return ImageHeader(
        geometry=_geometry(path, size, spacing, origin, direction),
        num_channels=channels,
        is_floating="float" in sitk.GetPixelIDValueAsString(reader.GetPixelID()),
        is_rectified=is_rectified,
    )


def read_image(paths: Sequence[Path], *, frame: int | None = None) -> Image:
    """Read one case: one file per channel, or one file with several channels.

    Args:
        paths: Files in channel order.
        frame: Point in time to take of 4D files; None takes them as channels.

    Returns:
        Image of shape (c, z, y, x), or (c, y, x) for 2D formats; see :class:`Image` for its type.

    Raises:
        DatasetError: When a file cannot be read or the files lie on different grids.
    """
    channels, first, num_nonfinite = [], None, 0
    for path in paths:
        array, geometry = _read(path, frame)
        array, replaced = _without_nonfinite(array)
        num_nonfinite += replaced
        if first is None:
            first = geometry
        elif differing := [d for d in first.differences(geometry) if d.startswith(("shape", "spacing"))]:
            raise DatasetError(f"{path} and {paths[0]} are channels of one case but differ: {'; '.join(differing)}")
        channels.append(array if _keeps_type(array.dtype) else array.astype(np.float32))
    if first is None:
        raise DatasetError("a case needs at least one image file")
    if len({channel.dtype for channel in channels}) > 1:
        channels = [channel.astype(np.float32, copy=False) for channel in channels]
    array = channels[0] if len(channels) == 1 else np.concatenate(channels)
    return Image(array=array, geometry=first, num_nonfinite=num_nonfinite)


def bytes_when_read(path: Path, header: ImageHeader) -> int:
    """Memory that the voxels of a channel will take; none where they are mapped from the file.

    Args:
        path: The file.
        header: What it says.
    """
    if path.suffix.lower() in _TIFF and (mapped := map_tiff(path)) is not None and _keeps_type(mapped.dtype):
        return 0
    return 4 * math.prod(header.geometry.shape)


def read_segmentation(path: Path, *, frame: int | None = None) -> Segmentation:
    """Read a label file.

    Args:
        path: The file.
        frame: Point in time to take of a 4D file.

    Returns:
        Segmentation (z, y, x) or (y, x) in an integer type.

    Raises:
        DatasetError: When it cannot be read, has several channels, or holds values that are not integers.
    """
    array, geometry = _read(path, frame)
    if array.shape[0] != 1:
        raise DatasetError(f"{path} has {array.shape[0]} channels; a segmentation has one")
    labels = array[0]
    if not np.issubdtype(labels.dtype, np.integer):
        rounded = np.rint(labels)
        is_odd = (rounded != labels) | ~(np.abs(labels) <= _LARGEST_LABEL)  # so written, it holds for NaN too
        if is_odd.any():
            raise DatasetError(f"{path} holds {labels[is_odd][0]}, which is not an integer label")
        labels = rounded.astype(np.int32)
    return Segmentation(array=labels, geometry=geometry)


def write_segmentation(path: Path, segmentation: Segmentation) -> None:
    """Write a segmentation in the format of the file's ending, compressed where the format can; atomically.

    The spacing of a TIFF stack goes to a JSON file beside it, where :func:`read_segmentation` and nnU-Net look for it.
    """
    with atomic_path(path) as temporary:
        sitk.WriteImage(_to_itk(segmentation.array, segmentation.geometry), str(temporary), useCompression=True)
    spacing = segmentation.geometry.spacing
    if path.suffix.lower() in _TIFF and len(spacing) == 3 and spacing != (1.0, 1.0, 1.0):
        with atomic_path(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps({"spacing": spacing}), encoding="utf-8")


def write_image(path: Path, image: Image) -> None:
    """Write an image with one channel in the format of the file's ending; atomically.

    Raises:
        ValueError: When the image has several channels: each goes to a file of its own.
    """
    if image.array.shape[0] != 1:
        raise ValueError(f"one channel per file, got an array of shape {image.array.shape}")
    with atomic_path(path) as temporary:
        sitk.WriteImage(_to_itk(image.array[0], image.geometry), str(temporary), useCompression=True)


def _to_itk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    if array.dtype == bool:
        array = array.astype(np.uint8)
    picture = sitk.GetImageFromArray(np.ascontiguousarray(array))
    picture.SetSpacing(geometry.itk_spacing)
    picture.SetOrigin(geometry.origin)
    picture.SetDirection(geometry.itk_direction)
    return picture


def _read(path: Path, frame: int | None = None) -> tuple[np.ndarray, Geometry]:
    """Voxels as (c, ...) in the stored type, and their grid."""
    check_nifti_is_complete(path)
    check_nifti_grid(path)
    if path.suffix.lower() in _TIFF:
        check_tiff_pages(path)
    if path.is_dir() and (slices := slice_files(path)):
        return _read_slices(path, slices)
    if path.suffix.lower() in _TIFF and (mapped := map_tiff(path)) is not None:
        spacing = _tiff_spacing(path, mapped.ndim) or (1.0,) * mapped.ndim
        return mapped[None], Geometry(shape=mapped.shape, spacing=spacing[::-1])
    try:
        picture = _read_picture(path)
        array = sitk.GetArrayFromImage(picture)
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    if np.iscomplexobj(array):
        raise DatasetError(f"{path} holds complex numbers; give magnitude and phase, or both parts, as channels")
    spacing = _tiff_spacing(path, picture.GetDimension()) or picture.GetSpacing()
    geometry = _geometry(path, picture.GetSize(), spacing, picture.GetOrigin(), picture.GetDirection())
    if picture.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif picture.GetDimension() < 4:
        array = array[None]
    elif frame is not None:
        _check_frame(path, len(array), frame)
        array = array[frame : frame + 1].copy()  # so that the other frames can go
    return array, geometry


def _read_slices(folder: Path, slices: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
    """Slices one by one into (c, z, y, x), in a scratch file where the volume is large."""
    volume: np.ndarray | None = None
    for number, path in enumerate(slices):
        plane = _read(path)[0]
        if plane.ndim != 3:
            raise DatasetError(f"{path} holds several planes, as a slice of {folder} it should hold one")
        if volume is None:
            volume = _SLICES_ROOM.empty((len(plane), len(slices), *plane.shape[1:]), plane.dtype)
        if plane.shape != (volume.shape[0], *volume.shape[2:]) or plane.dtype != volume.dtype:
            raise DatasetError(f"{path} and {slices[0]} are slices of one volume but differ in size or type")
        volume[:, number] = plane
        let_go(volume)
    assert volume is not None  # a folder of slices has two
    return volume, _header_of_slices(folder, slices).geometry


def _header_of_slices(folder: Path, slices: Sequence[Path]) -> ImageHeader:
    first = read_header(slices[0])
    shape = (len(slices), *first.geometry.shape)
    spacing = _tiff_spacing(folder, 3) or (1.0, 1.0, 1.0)
    return ImageHeader(
        geometry=Geometry(shape=shape, spacing=spacing[::-1]),
        num_channels=first.num_channels,
        is_floating=first.is_floating,
    )


def _check_frame(path: Path, number: int, frame: int | None) -> None:
    if frame is not None and frame >= number:
        raise DatasetError(f"{path} has {number} frames, 0 to {number - 1}; there is no frame {frame}")


def _tiff_spacing(path: Path, ndim: int) -> tuple[float, ...] | None:
    """Spacing (x, y, z) of a TIFF file as nnU-Net has it: from CASE.json beside a stack, else one millimetre.

    The resolution that the file itself states is that of a printer. None for other formats.

    Raises:
        DatasetError: When the JSON file does not hold three lengths.
    """
    if path.suffix.lower() not in _TIFF and not slice_files(path):
        return None
    beside = path.with_name(re.sub(r"_\d{4}$", "", path.stem) + ".json")
    if ndim != 3 or not beside.is_file():
        return (1.0,) * ndim
    try:
        z, y, x = (float(v) for v in json.loads(beside.read_text(encoding="utf-8"))["spacing"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f'{beside} must hold {{"spacing": [z, y, x]}} of {path.name}: {error!r}') from None
    return x, y, z


def _without_nonfinite(array: np.ndarray) -> tuple[np.ndarray, int]:
    """Zeros for NaN and infinity, as ITK does it with NIfTI, and their number."""
    if not np.issubdtype(array.dtype, np.floating):
        return array, 0
    finite = sum(int(np.count_nonzero(np.isfinite(c[part]))) for c in array for part in slabs(c.shape))
    number = array.size - finite
    return (array, 0) if not number else (np.where(np.isfinite(array), array, array.dtype.type(0)), number)


def _keeps_type(dtype: np.dtype[np.generic]) -> bool:
    """Whether values are kept as they are stored: float32, or integers that float32 would hold in twice the memory."""
    return dtype == np.float32 or (np.issubdtype(dtype, np.integer) and dtype.itemsize <= 2)


def _is_no_rotation(path: Path, error: RuntimeError) -> bool:
    """Whether ITK refuses a file because its direction matrix is not orthonormal."""
    return is_nifti(path) and "orthonormal" in str(error)


@contextmanager
def _rectified(path: Path, *, header_only: bool = False) -> Iterator[Path]:
    """A passing copy of a file with the nearest rotation as its direction matrix."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "rectified.nii"
        write_with_rotation(path, copy, header_only=header_only)
        yield copy


def _series_files(folder: Path) -> list[str]:
    """Slices of the DICOM series in a folder, in the order in which they lie."""
    if slices := slice_files(folder):
        for path in slices if slices[0].suffix.lower() in _TIFF else ():
            check_tiff_pages(path)
        return [str(path) for path in slices]
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(found) != 1:
        raise DatasetError(f"{folder} holds {len(found)} DICOM series; give every series a folder of its own")
    return list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0]))


def distinct_values(labels: np.ndarray) -> list[int]:
    """Every value that occurs in an integer array, ascending; far faster than sorting it."""
    low, high = int(labels.min()), int(labels.max())
    if high - low >= _WIDEST_TABLE:
        return [int(value) for value in np.unique(labels)]
    counts = np.zeros(high - low + 1, dtype=np.int64)
    for part in labels:  # plane by plane: counting takes eight bytes per voxel
        counts += np.bincount(part.reshape(-1).astype(np.int64) - low, minlength=len(counts))
    return [int(index) + low for index in np.flatnonzero(counts)]


def _read_picture(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(_series_files(path) if path.is_dir() else str(path))
    except RuntimeError as error:
        if not _is_no_rotation(path, error):
            raise
    with _rectified(path) as copy:
        return sitk.ReadImage(str(copy))


def _geometry(
    path: Path, size: Sequence[int], spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
) -> Geometry:
    if len(size) == 4:  # the fourth axis holds channels, not space
        matrix = np.asarray(direction).reshape(4, 4)[:3, :3]
        size, spacing, origin, direction = size[:3], spacing[:3], origin[:3], matrix.ravel().tolist()
    if not all(LEAST_SPACING <= abs(s) <= LARGEST_SPACING for s in spacing):
        raise DatasetError(
            f"{path} has an impossible grid: voxels of {', '.join(f'{s:g}' for s in spacing)} mm (x, y, z)"
        )
    try:
        return Geometry.from_itk(size, spacing, origin, direction)
    except ValueError as error:
        raise DatasetError(f"{path} has an impossible grid: {error}") from None


def _turned_forward(
    spacing: Sequence[float], direction: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Negative lengths made positive and their axes reversed, as ITK does when it reads voxels, but not headers."""
    signs = np.where(np.asarray(spacing) < 0, -1.0, 1.0)
    turned = np.asarray(direction).reshape(len(signs), -1) * signs
    return tuple(map(abs, spacing)), tuple(turned.ravel().tolist())


def _unreadable(path: Path, error: RuntimeError) -> DatasetError:
    if not path.exists():
        return DatasetError(f"{path} does not exist")
    reason = str(error).strip().splitlines()[-1]
    return DatasetError(f"{path} cannot be read as an image; is it complete? ({reason})")
