from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.geometry import BoundingBox, Geometry
from autoseg.preprocessing import store as store_module
from autoseg.preprocessing.case import CaseTrace, PreprocessedCase
from autoseg.preprocessing.store import CaseStore, is_complete, storage_blocks, verify_case, write_case

MakePreprocessed = Callable[..., PreprocessedCase]


def make_preprocessed(
    case_id: str = "case", shape: tuple[int, ...] = (30, 40, 50), *, num_channels: int = 2, labelled: bool = True
) -> PreprocessedCase:
    generator = np.random.default_rng(0)
    segmentation = generator.integers(-1, 3, shape).astype(np.int16)
    positions = [np.argwhere(segmentation == value).astype(np.int32) for value in (1, 7, 2)]  # 7 does not occur
    ndim = len(shape)
    return PreprocessedCase(
        id=case_id,
        image=generator.normal(size=(num_channels, *shape)).astype(np.float32),
        segmentation=segmentation if labelled else None,
        foreground=tuple(positions) if labelled else (),
        trace=CaseTrace(
            geometry=Geometry(shape=shape, spacing=(1.5,) * ndim),
            orientation_code="SPL"[-ndim:],
            transpose=tuple(range(ndim)),
            original_shape=shape,
            box=BoundingBox.whole(shape),
            cropped_shape=shape,
            cropped_spacing=(1.5,) * ndim,
            resampled_shape=shape,
            resampled_spacing=(1.5,) * ndim,
        ),
    )


@pytest.mark.parametrize(
    ("shape", "patch_size"), [((30, 40, 50), (16, 16, 16)), ((30, 40, 50), (32, 32)), ((60, 70), (32, 32))]
)
@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_written_is_read(
    tmp_path: Path, shape: tuple[int, ...], patch_size: tuple[int, ...], labelled: bool
) -> None:
    case = make_preprocessed(shape=shape, labelled=labelled)
    write_case(case, tmp_path, patch_size=patch_size, digest="d")
    stored = CaseStore(tmp_path).open("case")
    assert stored.image_shape == case.image.shape
    assert stored.trace == case.trace
    loaded = stored.load()
    np.testing.assert_array_equal(loaded.image, case.image)
    assert loaded.image.dtype == np.float32
    if case.segmentation is None:
        assert loaded.segmentation is None
        assert loaded.foreground == ()
        with pytest.raises(MissingArtifactError, match="has no segmentation"):
            stored.read_segmentation(BoundingBox.whole(shape))
        return
    np.testing.assert_array_equal(loaded.segmentation, case.segmentation)
    assert len(loaded.foreground) == 3
    for positions, expected in zip(loaded.foreground, case.foreground, strict=True):
        assert positions.dtype == np.int32
        np.testing.assert_array_equal(positions, expected)


def test_boxes_are_read(tmp_path: Path) -> None:
    case = make_preprocessed()
    assert case.segmentation is not None
    write_case(case, tmp_path, patch_size=(16, 16, 16))
    stored = CaseStore(tmp_path).open("case")
    for start, stop in [((0, 0, 0), (1, 1, 1)), ((3, 10, 20), (19, 26, 36)), ((29, 0, 0), (30, 40, 50))]:
        box = BoundingBox(start=start, stop=stop)
        np.testing.assert_array_equal(stored.read_image(box), case.image[(slice(None), *box.slices)])
        np.testing.assert_array_equal(stored.read_segmentation(box), case.segmentation[box.slices])


@pytest.mark.parametrize(("start", "stop"), [((-1, 0, 0), (3, 3, 3)), ((0, 0, 0), (3, 3, 51)), ((0, 0), (3, 3))])
def test_boxes_that_reach_outside_are_refused(tmp_path: Path, start: tuple[int, ...], stop: tuple[int, ...]) -> None:
    write_case(make_preprocessed(), tmp_path, patch_size=(16, 16, 16))
    with pytest.raises(ValueError, match="reaches outside the image"):
        CaseStore(tmp_path).open("case").read_image(BoundingBox(start=start, stop=stop))


def test_a_case_without_foreground(tmp_path: Path) -> None:
    case = make_preprocessed()
    empty = np.empty((0, 3), dtype=np.int32)
    case = PreprocessedCase(
        id="case", image=case.image, segmentation=case.segmentation, foreground=(empty, empty), trace=case.trace
    )
    write_case(case, tmp_path, patch_size=(16, 16, 16))
    assert [len(positions) for positions in CaseStore(tmp_path).open("case").foreground] == [0, 0]


def test_a_case_travels_to_other_processes_as_a_path(tmp_path: Path) -> None:
    write_case(make_preprocessed(), tmp_path, patch_size=(16, 16, 16))
    stored = CaseStore(tmp_path).open("case")
    box = BoundingBox(start=(0, 0, 0), stop=(8, 8, 8))
    before = stored.read_image(box)  # opens the file
    message = pickle.dumps(stored)
    assert len(message) < 1000
    np.testing.assert_array_equal(pickle.loads(message).read_image(box), before)


def test_completeness_follows_the_digest(tmp_path: Path) -> None:
    assert not is_complete(tmp_path, "case", "one")
    write_case(make_preprocessed(), tmp_path, patch_size=(16, 16, 16), digest="one")
    assert is_complete(tmp_path, "case", "one")
    assert not is_complete(tmp_path, "case", "two")
    write_case(make_preprocessed(), tmp_path, patch_size=(16, 16, 16), digest="two")
    assert is_complete(tmp_path, "case", "two")


def test_an_interrupted_rewrite_leaves_no_complete_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(make_preprocessed(), tmp_path, patch_size=(16, 16, 16), digest="one")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        write_case(make_preprocessed(num_channels=1), tmp_path, patch_size=(16, 16, 16), digest="one")
    assert not is_complete(tmp_path, "case", "one")
    assert CaseStore(tmp_path).case_ids() == []


def test_case_ids_are_those_of_complete_cases(tmp_path: Path) -> None:
    store = CaseStore(tmp_path / "cases")
    assert store.case_ids() == []
    for name in ("b", "a.image", "a"):
        write_case(make_preprocessed(name, (8, 8, 8)), store.folder, patch_size=(8, 8, 8))
    (store.folder / ".1.part.c.json").touch()
    (store.folder / "d.image.b2nd").touch()
    assert store.case_ids() == ["a", "a.image", "b"]
    with pytest.raises(MissingArtifactError, match=r"case d is not preprocessed in .*: autoseg plan-and-preprocess"):
        store.open("d")


@pytest.mark.parametrize("ending", [".image.b2nd", ".segmentation.b2nd", ".foreground.npy"])
@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_incomplete_files_are_named_with_the_remedy(tmp_path: Path, ending: str, damage: str) -> None:
    write_case(make_preprocessed(), tmp_path, patch_size=(16, 16, 16), digest="one")
    path = tmp_path / f"case{ending}"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
    with pytest.raises(ArtifactError, match=rf"case{ending} has \d+ bytes instead of .* autoseg plan-and-preprocess"):
        CaseStore(tmp_path).open("case")
    assert not is_complete(tmp_path, "case", "one")


def test_foreign_files_of_the_right_size_are_named(tmp_path: Path) -> None:
    write_case(make_preprocessed(), tmp_path, patch_size=(16, 16, 16))
    for ending in (".image.b2nd", ".foreground.npy"):
        path = tmp_path / f"case{ending}"
        path.write_bytes(b"x" * path.stat().st_size)
    stored = CaseStore(tmp_path).open("case")
    with pytest.raises(ArtifactError, match=r"case\.image\.b2nd cannot be read .*autoseg plan-and-preprocess"):
        stored.read_image(BoundingBox.whole((30, 40, 50)))
    with pytest.raises(ArtifactError, match=r"case\.foreground\.npy cannot be read"):
        _ = stored.foreground


def test_arrays_of_another_case_are_noticed(tmp_path: Path) -> None:
    write_case(make_preprocessed("a", (8, 8, 8), num_channels=2), tmp_path, patch_size=(8, 8, 8))
    write_case(make_preprocessed("b", (8, 8, 16), num_channels=1), tmp_path, patch_size=(8, 8, 8))
    record = (tmp_path / "a.json").read_text()
    (tmp_path / "a.image.b2nd").write_bytes((tmp_path / "b.image.b2nd").read_bytes())
    size = (tmp_path / "a.image.b2nd").stat().st_size
    sizes = CaseStore(tmp_path).open("b").record.file_sizes
    assert sizes[".image.b2nd"] == size
    (tmp_path / "a.json").write_text(_with_size(record, size))
    with pytest.raises(ArtifactError, match=r"does not hold float32 of shape \(2, 8, 8, 8\)"):
        CaseStore(tmp_path).open("a").read_image(BoundingBox.whole((8, 8, 8)))


def test_a_flipped_bit_is_seen_when_the_case_is_verified(tmp_path: Path) -> None:
    """Patches that are read afterwards need not be compared again: training begins with this."""
    write_case(make_preprocessed("a", (8, 8, 8)), tmp_path, patch_size=(8, 8, 8), digest="source")
    verify_case(tmp_path, "a")
    for path in sorted(tmp_path.glob("a.*")):
        original = path.read_bytes()
        for position in (len(original) // 3, len(original) - 2):
            altered = bytearray(original)
            altered[position] ^= 1
            path.write_bytes(altered)
            assert not is_complete(tmp_path, "a", "source"), (path, position)
            with pytest.raises(ArtifactError, match=re.escape(path.name)):
                verify_case(tmp_path, "a")
        path.write_bytes(original)
    assert is_complete(tmp_path, "a", "source")


def _with_size(record: str, size: int) -> str:
    import json

    data = json.loads(record)
    data["file_sizes"][".image.b2nd"] = size
    del data["sha256"]
    return json.dumps(data)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write_case(make_preprocessed(), tmp_path, patch_size=(16, 16, 16), digest="one")
    (tmp_path / "case.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"case\.json cannot be read as JSON.*autoseg plan-and-preprocess"):
        CaseStore(tmp_path).open("case")
    assert not is_complete(tmp_path, "case", "one")


@pytest.mark.parametrize(
    ("shape", "patch_size", "itemsize"),
    [
        ((1, 432, 512, 512), (128, 128, 128), 4),
        ((432, 512, 512), (128, 128, 128), 2),
        ((1, 20, 320, 320), (1, 320, 320), 4),
        ((3, 1024, 1300), (512, 640), 4),
        ((1, 1, 1, 1), (128, 128, 128), 4),
        ((4, 17, 900, 3), (8, 8, 8), 4),
    ],
)
def test_blocks_fit_a_cache_and_chunks_hold_whole_blocks(
    shape: tuple[int, ...], patch_size: tuple[int, ...], itemsize: int
) -> None:
    chunk, block = storage_blocks(shape, patch_size, itemsize)
    assert all(1 <= b <= c <= n for b, c, n in zip(block, chunk, shape, strict=True))
    assert math.prod(block) * itemsize <= 128 * 2**10
    assert math.prod(chunk) * itemsize <= 4 * 2**20
    lead = len(shape) - len(patch_size)
    assert chunk[:lead] == (1,) * lead
    # A block that reaches across the patch would be mostly read in vain.
    assert all(b <= max(1, 2 * p) for b, p in zip(block[lead:], patch_size, strict=True))


def test_layout_of_a_typical_volume() -> None:
    assert storage_blocks((1, 432, 512, 512), (128, 128, 128), 4) == ((1, 96, 96, 96), (1, 32, 32, 32))
