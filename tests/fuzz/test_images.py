"""Images of any shape, spacing, direction and type, and files that are no images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from fuzzing import CODES, fuzzed, nifti_bytes, result_or_error, rotation, write_bytes, write_itk
from hypothesis import example, given
from hypothesis import strategies as st

from autoseg.check.headers import HeaderJob, check_headers
from autoseg.check.voxels import VoxelJob, read_and_check
from autoseg.dataset import Case
from autoseg.image import read_header, read_image, read_segmentation
from autoseg.labels import LabelScheme
from autoseg.plan import NormalizationPlan, Plan
from autoseg.preprocessing.case import preprocess_case

MakePlan = Callable[..., Plan]
LABELS = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="dataset.json")
SPACINGS = st.one_of(st.floats(0.01, 50), st.sampled_from([1e-4, 0.3333333, 1.0, 1e3]))
ODD_FLOATS = st.sampled_from([0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 1.0, 2.5, 1e-3])


def values_of(kind: str, shape: tuple[int, ...], seed: int, content: str) -> np.ndarray:
    """Voxels of a type: anything it holds, a constant, or few labels; NaN and infinity where it has them."""
    generator = np.random.default_rng(seed)
    dtype = np.dtype(kind)
    if content == "constant":
        return np.full(shape, generator.integers(0, 100), dtype)
    if content == "labels":
        return generator.integers(0, 3, shape).astype(dtype)
    if dtype.kind == "f":
        array = (generator.normal(0, 1, shape) * 10.0 ** generator.integers(-20, 20)).astype(dtype)
        if content == "nonfinite":
            array[generator.random(shape) < 0.3] = generator.choice([np.nan, np.inf, -np.inf])
        return array
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


@fuzzed(60)
@given(
    ending=st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha"]),
    name=st.sampled_from(["a", "a b", "ünï 中", "x.y.z", "p_0000_1", "-", "%s{case}*[1]"]),
    kind=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]),
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple),
    spacing=st.tuples(SPACINGS, SPACINGS, SPACINGS),
    angles=st.tuples(*[st.sampled_from([0.0, 0.0, 0.05, 0.4, 1.2])] * 3),
    flips=st.tuples(*[st.booleans()] * 3),
    order=st.permutations([0, 1, 2]),
    content=st.sampled_from(["any", "constant", "labels", "nonfinite"]),
    scheme=st.sampled_from(["zscore", "rescale_to_0_1", "rgb_to_0_1", "none"]),
    use_mask=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_what_was_written_is_read_and_preprocessed_to_finite_numbers(
    make_plan: MakePlan,
    ending: str,
    name: str,
    kind: str,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    angles: tuple[float, float, float],
    flips: tuple[bool, ...],
    order: list[int],
    content: str,
    scheme: str,
    use_mask: bool,
    seed: int,
) -> None:
    array = values_of(kind, shape, seed, content)
    direction = rotation(angles, flips, order) if len(shape) == 3 else None
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}{ending}"
        write_itk(path, array, spacing=spacing[: len(shape)], direction=direction)
        image = read_image([path])
        header = read_header(path)
        segmentation = result_or_error(lambda: read_segmentation(path), str(path))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.where(np.isfinite(array), array, 0).astype(np.float32)
    np.testing.assert_array_equal(image.array[0], expected)
    np.testing.assert_allclose(image.geometry.spacing, spacing[: len(shape)], rtol=1e-5)
    assert header.geometry.differences(image.geometry) == []
    if content == "labels" or np.dtype(kind).kind in "ui":
        assert segmentation is not None
        np.testing.assert_array_equal(segmentation.array, array)
    plan = make_plan(
        spacing=tuple(1.5 * s for s in image.geometry.spacing),
        transpose=tuple(range(len(shape))),
        normalization=NormalizationPlan(scheme=scheme, use_mask=use_mask and scheme == "zscore"),
    )
    case = result_or_error(lambda: preprocess_case("the case", image, None, plan, plan.configurations[0]), "the case")
    if case is not None:
        assert np.isfinite(case.image).all()


@fuzzed(150)
@example(  # ITK looks for the directions of such a matrix for ever
    dimensions=[3, 2, 2, 2],
    spacing=[1.0] * 4,
    diagonal=[0.0, float("inf"), float("nan")],
    code=16,
    codes=(0, 1),
    missing=0,
    slope=1.0,
    seed=0,
)
@example(  # too large for an integer, and once read as another label
    dimensions=[3, 2, 2, 2],
    spacing=[1.0] * 4,
    diagonal=[1.0] * 3,
    code=768,
    codes=(0, 1),
    missing=0,
    slope=1e30,
    seed=1,
)
@example(  # no axis at all
    dimensions=[0, 1, 1, 1], spacing=[1.0] * 4, diagonal=[1.0] * 3, code=4, codes=(0, 1), missing=0, slope=1.0, seed=0
)
@given(
    dimensions=st.one_of(
        st.lists(st.integers(1, 5), max_size=7).map(lambda shape: [len(shape), *shape]),
        st.lists(st.integers(-2, 4), min_size=1, max_size=8),
        st.lists(st.sampled_from([0, 1, 3, 4, 7, 8, 32767, -32768]), min_size=1, max_size=8),
    ),
    spacing=st.lists(ODD_FLOATS, max_size=8),
    diagonal=st.lists(ODD_FLOATS, min_size=3, max_size=3),
    code=st.sampled_from([*CODES, 0, 1, 32, 128, 1536, 2304, 999]),
    codes=st.tuples(st.integers(-1, 5), st.integers(-1, 5)),
    missing=st.sampled_from([0, 0, 0, 1, 100]),
    slope=ODD_FLOATS,
    seed=st.integers(0, 10**6),
)
def test_any_nifti_header_gives_an_image_or_one_error(
    make_plan: MakePlan,
    dimensions: list[int],
    spacing: list[float],
    diagonal: list[float],
    code: int,
    codes: tuple[int, int],
    missing: int,
    slope: float,
    seed: int,
) -> None:
    rows = np.hstack([np.diag(diagonal), np.zeros((3, 1))])
    size = int(np.prod([max(1, n) for n in dimensions[1:]], dtype=float)) if len(dimensions) > 1 else 1
    width = np.dtype(CODES[code]).itemsize if code in CODES else 8
    content = np.random.default_rng(seed).integers(0, 3, min(size * width, 1 << 16), dtype=np.uint8).tobytes()
    content = content[: len(content) - missing] if missing else content
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("case.nii.gz" if seed % 2 else "case.nii")
        write_bytes(path, nifti_bytes(dimensions, spacing, rows, code=code, codes=codes, content=content, slope=slope))
        header = result_or_error(lambda: read_header(path), path.name)
        image = result_or_error(lambda: read_image([path]), path.name)
        result_or_error(lambda: read_segmentation(path), path.name)
        case = Case(id="case", images=(path,), label=path)
        headers = check_headers(HeaderJob(case=case, num_channels=1))
        voxels = read_and_check(VoxelJob(case=case, labels=LABELS, num_channels=1))
    if image is None:  # told, not skipped
        assert not voxels.is_usable
        assert any(path.name in str(problem) for problem in voxels.problems)
        return
    assert header is not None
    assert header.geometry.differences(image.geometry) == []
    assert header.num_channels == len(image.array)
    assert np.isfinite(image.array).all()
    if voxels.is_usable and not [p for p in headers.problems if p.severity == "error"]:
        plan = make_plan(spacing=image.geometry.spacing, transpose=tuple(range(image.geometry.ndim)))
        done = preprocess_case("case", image, voxels.segmentation, plan, plan.configurations[0])
        assert np.isfinite(done.image).all()
        assert done.segmentation is not None
        assert set(np.unique(done.segmentation)) <= {-1, 0, 1, 2}


@fuzzed(60)
@given(
    ending=st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".tif", ".png", ".bmp", ".dcm", ".gipl", ""]),
    content=st.binary(max_size=600),
    start=st.sampled_from(
        [b"", b"\x1f\x8b\x08\0", b"\x5c\x01\0\0", b"NRRD0004\n", b"NDims = 3\n", b"II*\0", b"\x89PNG\r\n\x1a\n"]
    ),
)
def test_what_is_no_image_is_told_with_its_name(ending: str, content: bytes, start: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"strange{ending}"
        path.write_bytes(start + content)
        for read in (read_header, read_segmentation, lambda file: read_image([file])):
            result_or_error(lambda read=read: read(path), "strange")  # type: ignore[misc]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".png"])
@fuzzed(15)
@given(share=st.floats(0, 1), bit=st.none() | st.integers(0, 7))
def test_damaged_images_are_read_or_told(ending: str, share: float, bit: int | None) -> None:
    """Truncated, or one bit flipped; formats without a checksum cannot tell a flipped bit in their voxels."""
    array = np.random.default_rng(0).integers(0, 3, (6, 7, 5) if ending != ".png" else (7, 5)).astype(np.uint8)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged{ending}"
        write_itk(path, array)
        content = bytearray(path.read_bytes())
        place = min(int(share * len(content)), len(content) - 1)
        if bit is None:
            del content[place:]
        else:
            content[place] ^= 1 << bit
        path.write_bytes(content)
        result_or_error(lambda: read_header(path), path.name)
        found = result_or_error(lambda: read_image([path]), path.name)
    if bit is None and found is not None:  # nothing that mattered was cut off
        np.testing.assert_array_equal(found.array[0], array)
