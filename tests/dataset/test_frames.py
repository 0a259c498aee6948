"""4D cine: a table picks end diastole and end systole out of one file; each becomes a case of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.check import check_dataset
from autoseg.dataset import DatasetSource, load_dataset
from autoseg.errors import DatasetError
from autoseg.image import read_image, read_segmentation
from autoseg.pipeline.prepare import plan_and_preprocess
from autoseg.preprocessing.store import CaseStore
from autoseg.splits import read_splits

SHAPE = (10, 24, 20)


def write_cine(path: Path, frames: np.ndarray) -> None:
    picture = sitk.JoinSeries([sitk.GetImageFromArray(frame) for frame in frames])
    picture.SetSpacing((1.2, 1.2, 5.0, 1.0))
    sitk.WriteImage(picture, str(path))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    lines = ["case,image,label,group,phase,view,frame"]
    for patient in range(4):
        labels = np.zeros((5, *SHAPE), np.uint8)
        for frame in (0, 3):  # only these two are annotated
            labels[frame, 3:7, 8 : 14 - frame, 6:12] = 1
        frames = (100 * labels + 10 * np.arange(5)[:, None, None, None] + rng.normal(50, 3, labels.shape)).astype("f4")
        write_cine(tmp_path / f"p{patient}.nii.gz", frames)
        write_cine(tmp_path / f"p{patient}_gt.nii.gz", labels)
        for phase, frame in (("ED", 0), ("ES", 3)):
            lines.append(f"p{patient}_{phase},p{patient}.nii.gz,p{patient}_gt.nii.gz,p{patient},{phase},SA,{frame}")
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def source(table: Path) -> DatasetSource:
    return DatasetSource(root=table.parent, table=table, channel_names=("MRI",), label_values={"ventricle": 1})


def test_a_frame_is_a_volume(table: Path) -> None:
    path = table.parent / "p1.nii.gz"
    whole = read_image([path]).array
    for frame in (0, 3):
        image = read_image([path], frame=frame)
        np.testing.assert_array_equal(image.array, whole[frame : frame + 1])
        assert image.geometry.spacing == pytest.approx((5.0, 1.2, 1.2))
    with pytest.raises(DatasetError, match="has 5 frames, 0 to 4; there is no frame 5"):
        read_image([path], frame=5)


def test_phases_are_cases_of_one_group(table: Path, tmp_path: Path) -> None:
    dataset = load_dataset(source(table))
    assert [(c.id, c.phase, c.view, c.frame) for c in dataset.training[:2]] == [
        ("p0_ED", "ED", "SA", 0),
        ("p0_ES", "ES", "SA", 3),
    ]
    assert not check_dataset(dataset).errors
    space = plan_and_preprocess(source(table), workspace=tmp_path / "own", gpu_memory_gb=0.2, workers=0)
    for fold in read_splits(space.splits_path):
        assert not {c[:2] for c in fold.train} & {c[:2] for c in fold.val}
    store = CaseStore(space.preprocessed_dir("2d"))
    labelled = {c: int((store.open(c).load().segmentation == 1).sum()) for c in ("p0_ED", "p0_ES")}  # type: ignore[operator]
    expected = read_segmentation(tmp_path / "p0_gt.nii.gz", frame=0).array.sum()
    assert labelled["p0_ED"] == expected == 2 * labelled["p0_ES"]


def test_frames_that_are_not_there_are_told(table: Path) -> None:
    table.write_text(table.read_text().replace("ED,SA,0", "ED,SA,9"))
    report = check_dataset(load_dataset(source(table)))
    assert sum("there is no frame 9" in p.message for p in report.errors) >= 4
    table.write_text(table.read_text().replace("ED,SA,9", "ED,SA,first"))
    with pytest.raises(DatasetError, match="line 2: frame must be a whole number"):
        load_dataset(source(table))
