"""Pictures are compared with pictures: what must not change them, and what must."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from autoseg.figures import Panel, draw_overlay, draw_panels, draw_progress
from autoseg.geometry import Reorientation
from autoseg.history import EpochRow
from autoseg.labels import LabelScheme

LABELS = LabelScheme.from_table({"background": 0, "organ": 1, "lesion": 2}, where="test")
ORANGE = np.array([0xE6, 0x9F, 0x00]) / 255  # the first label's color
SPACING = (3.0, 1.0, 1.5)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, size=(1, 8, 20, 16)).astype(np.float32)


@pytest.fixture
def segmentation() -> np.ndarray:
    array = np.zeros((8, 20, 16), dtype=np.uint8)
    array[2:6, 3:12, 5:14] = 1
    array[4, 6:9, 7:10] = 2
    return array


def draw(path: Path, image: np.ndarray, segmentation: np.ndarray, **options: Any) -> np.ndarray:  # noqa: ANN401 - keywords of draw_overlay
    """Draw, and read the picture as (rows, columns, 3) in 0..1."""
    options = {"spacing": SPACING[-segmentation.ndim :], "labels": LABELS, "title": "case"} | options
    draw_overlay(image, segmentation, path, **options)
    return np.asarray(matplotlib.image.imread(path))[..., :3]


def count(picture: np.ndarray, color: np.ndarray) -> int:
    return int((np.abs(picture - color).max(axis=-1) < 0.02).sum())


def test_turned_arrays_give_the_same_picture(tmp_path: Path, image: np.ndarray, segmentation: np.ndarray) -> None:
    reference = np.roll(segmentation, 2, axis=1)
    upright = draw(tmp_path / "a.png", image, segmentation, reference=reference, orientation="SPL")
    for code in ("SAR", "IPL", "LSP", "ARI"):
        turn = Reorientation.between("SPL", code)
        spacing = tuple(SPACING[axis] for axis in turn.permutation)
        arrays = [turn.apply(array) for array in (image, segmentation, reference)]
        turned = draw(tmp_path / "b.png", *arrays[:2], reference=arrays[2], orientation=code, spacing=spacing)
        np.testing.assert_array_equal(turned, upright, err_msg=code)


@pytest.mark.parametrize(
    ("place", "axis", "is_behind"),
    [
        ((slice(5, 8),), 0, False),  # superior: further up
        ((slice(None), slice(14, 20)), 0, True),  # posterior: further down in the axial slice
        ((slice(None), slice(None), slice(10, 16)), 1, True),  # the patient's left: further right
    ],
)
def test_slices_lie_as_a_radiologist_expects_them(
    place: tuple[slice, ...], axis: int, is_behind: bool, tmp_path: Path, image: np.ndarray
) -> None:
    middle = []
    for number, where in enumerate((place, tuple(slice(0, s.stop - s.start) if s.stop else s for s in place))):
        segmentation = np.zeros((8, 20, 16), dtype=np.uint8)
        segmentation[where] = 1
        picture = draw(tmp_path / f"{number}.png", image, segmentation, orientation="SPL")
        height, width = picture.shape[:2]
        part = slice(width // 3, None) if axis == 0 and len(place) == 1 else slice(0, width // 4)  # coronal or axial
        overlay = picture[int(height * 0.3) : int(height * 0.93), part]
        middle.append(np.argwhere(np.abs(overlay - ORANGE).max(axis=-1) < 0.02)[:, axis].mean())
    assert (middle[0] > middle[1]) == is_behind


def test_thick_slices_are_drawn_as_tall_as_they_are(tmp_path: Path, segmentation: np.ndarray) -> None:
    image = np.ones((1, *segmentation.shape))
    thick = draw(tmp_path / "a.png", image, segmentation, spacing=(4.0, 1.0, 1.0))
    thin = draw(tmp_path / "b.png", image.repeat(4, axis=1), segmentation.repeat(4, axis=0), spacing=(1.0, 1.0, 1.0))
    assert thick.shape == thin.shape
    assert count(thick, ORANGE) == pytest.approx(count(thin, ORANGE), rel=0.02)


def test_the_segmentation_shows_below_and_the_bare_image_above(
    tmp_path: Path, image: np.ndarray, segmentation: np.ndarray
) -> None:
    picture = draw(tmp_path / "a.png", image, segmentation)
    rows = np.flatnonzero((np.abs(picture - ORANGE).max(axis=-1) < 0.02).any(axis=1))
    assert rows.size
    assert rows.min() > picture.shape[0] * 0.4
    empty = draw(tmp_path / "b.png", image, np.zeros_like(segmentation))
    assert count(empty, ORANGE) == 0


def test_a_reference_adds_its_outline(tmp_path: Path, image: np.ndarray, segmentation: np.ndarray) -> None:
    without = draw(tmp_path / "a.png", image, segmentation)
    reference = np.roll(segmentation, 3, axis=1)
    with_it = draw(tmp_path / "b.png", image, segmentation, reference=reference)
    assert count(with_it, np.ones(3)) > count(without, np.ones(3)) + 100


def test_a_missed_lesion_is_shown(tmp_path: Path) -> None:
    """Far from what was found there is a reference lesion: the slices go where most targets are."""
    image = np.zeros((1, 10, 12, 12), dtype=np.float32)
    reference = np.zeros((10, 12, 12), dtype=np.uint8)
    reference[8, 3:5, 3:5] = 2
    blank = draw(tmp_path / "a.png", image, np.zeros_like(reference))
    picture = draw(tmp_path / "b.png", image, np.zeros_like(reference), reference=reference)
    assert count(picture, np.ones(3)) > count(blank, np.ones(3)) + 50


def test_a_small_lesion_outweighs_a_large_organ(tmp_path: Path, image: np.ndarray) -> None:
    organ = np.zeros((8, 20, 16), dtype=np.uint8)
    organ[:, 4:16, 4:12] = 1  # the same in every slice
    organ[6, 8:10, 8:10] = 2
    with_lesion = draw(tmp_path / "a.png", image, organ)
    blue = np.array([0x56, 0xB4, 0xE9]) / 255
    below = with_lesion[: -int(0.1 * len(with_lesion))]  # without the legend
    assert count(below, blue) > 50


def test_two_dimensional_images_are_drawn_side_by_side(
    tmp_path: Path, image: np.ndarray, segmentation: np.ndarray
) -> None:
    picture = draw(tmp_path / "a.png", image[:, 4], segmentation[4])
    columns = np.flatnonzero((np.abs(picture - ORANGE).max(axis=-1) < 0.02).any(axis=0))
    assert picture.shape[1] > picture.shape[0]
    assert np.median(columns) > picture.shape[1] / 2


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_odd_intensities_do_not_stop_the_drawing(
    odd: float, tmp_path: Path, image: np.ndarray, segmentation: np.ndarray
) -> None:
    constant = np.full_like(image, odd)
    assert count(draw(tmp_path / "a.png", constant, segmentation), ORANGE) > 100
    image[0, 4, 5, 5] = odd
    assert count(draw(tmp_path / "b.png", image, segmentation), ORANGE) > 100


def test_regions_and_many_labels_are_drawn(tmp_path: Path, image: np.ndarray, segmentation: np.ndarray) -> None:
    regions = LabelScheme.from_table({"background": 0, "all": [1, 2], "core": 2}, (1, 2), where="test")
    assert count(draw(tmp_path / "a.png", image, segmentation, labels=regions), ORANGE) > 100
    table = {"background": 0} | {f"label {n}": n for n in range(1, 21)}
    many = np.random.default_rng(1).integers(0, 21, size=segmentation.shape)
    draw(tmp_path / "b.png", image, many, labels=LabelScheme.from_table(table, where="test"))


def test_shapes_that_disagree_are_refused(tmp_path: Path, image: np.ndarray, segmentation: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        draw(tmp_path / "a.png", image, segmentation[1:])
    with pytest.raises(ValueError, match="cannot draw"):
        draw(tmp_path / "a.png", image, segmentation, reference=segmentation[:, 1:])
    with pytest.raises(ValueError, match="cannot draw"):
        draw(tmp_path / "a.png", image, segmentation, spacing=(1.0, 1.0))
    assert not (tmp_path / "a.png").exists()


def history(count: int) -> list[EpochRow]:
    return [
        EpochRow(
            epoch=number,
            iterations=10 * (number + 1),
            seconds=2.0 * (number + 1),
            learning_rate=0.01 * (1 - number / count),
            train_loss=1 / (number + 1),
            val_loss=1.1 / (number + 1),
            val_dice=1 - 1 / (number + 1),
            ema_dice=0.9 - 0.9 / (number + 1),
            waiting=0.1,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_progress_is_drawn_from_the_first_epoch_on(count: int, tmp_path: Path) -> None:
    draw_progress(history(count), tmp_path / "deep" / "progress.png")
    assert matplotlib.image.imread(tmp_path / "deep" / "progress.png").shape[0] > 500


def test_progress_shows_what_happened(tmp_path: Path) -> None:
    rows = history(10)
    draw_progress(rows, tmp_path / "a.png")
    draw_progress(rows, tmp_path / "again.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    for field in ("train_loss", "val_loss", "val_dice", "ema_dice", "learning_rate", "seconds", "waiting"):
        changed = [*rows[:-1], replace(rows[-1], **{field: getattr(rows[-1], field) * 0.5})]
        draw_progress(changed, tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes(), field


def test_undefined_scores_leave_gaps(tmp_path: Path) -> None:
    undefined = [replace(row, val_dice=float("nan"), ema_dice=float("nan")) for row in history(3)]
    draw_progress(undefined, tmp_path / "a.png")
    draw_progress([*undefined[:2], history(3)[2]], tmp_path / "b.png")
    assert (tmp_path / "b.png").is_file()


def test_no_global_state_of_matplotlib_is_touched(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from autoseg.figures import draw_progress\n"
        f"draw_progress([], pathlib.Path({str(tmp_path / 'a.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_cases_stand_side_by_side_with_the_dice_of_every_label(tmp_path: Path) -> None:
    reference = np.zeros((4, 20, 30), np.uint8)
    reference[2, 5:15, 5:15] = 1  # a hundred voxels
    prediction = np.zeros_like(reference)
    prediction[2, 5:15, 10:20] = 1  # half of them, and fifty others
    image = np.random.default_rng(0).normal(100, 5, reference.shape) + 50 * reference
    panel = Panel(title="case", image=image, reference=reference, prediction=prediction, spacing=(3.0, 1.0, 1.0))
    assert panel.position(LABELS) == 2
    assert panel.captions(LABELS) == ["organ  0.50", "lesion  absent, rightly"]
    draw_panels([panel], tmp_path / "one.png", labels=LABELS, title="one")
    draw_panels([panel] * 3, tmp_path / "three.png", labels=LABELS, title="three")
    one, three = (matplotlib.image.imread(tmp_path / name) for name in ("one.png", "three.png"))
    assert one.shape[0] == three.shape[0]
    assert three.shape[1] > 2 * one.shape[1]
    colored = np.ptp(one[..., :3], axis=-1) > 0.2
    thirds = np.array_split(colored[: int(0.9 * len(colored))], 3)
    assert not thirds[0].any()  # the image alone
    assert thirds[1].any()
    assert thirds[2].any()
    with pytest.raises(ValueError, match="one volume"):
        replace(panel, reference=reference[:2])
    with pytest.raises(ValueError, match="no case"):
        draw_panels([], tmp_path / "none.png", labels=LABELS, title="none")
