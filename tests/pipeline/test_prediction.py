"""Folders of images become folders of segmentations: formats, orientations, extra files, bad images, the input gate."""

from __future__ import annotations

import csv
import itertools
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from autoseg.codec import write_json
from autoseg.errors import DatasetError, PlanError, SettingsError
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.geometry import Geometry, Reorientation
from autoseg.image import Image, read_image, read_segmentation, write_image
from autoseg.inference.predictor import FAST, InferenceOptions
from autoseg.inference.run_length import decode_runs, encode_runs
from autoseg.pipeline.gate import InputGate
from autoseg.pipeline.outputs import ExtraOutputs
from autoseg.pipeline.predict import ensemble_predict
from autoseg.pipeline.predictor import Predictor
from autoseg.postprocessing.steps import PostprocessingStep
from autoseg.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
CODES = ["".join(c) for axes in itertools.permutations(("LR", "PA", "SI")) for c in itertools.product(*axes)]


def make_image(seed: int = 0, *, shape: tuple[int, ...] = (9, 11, 13), spacing: float = 1.0, **grid: object) -> Image:
    array = np.random.default_rng(seed).normal(50, 20, (1, *shape)).astype(np.float32)
    geometry = Geometry(shape=shape, spacing=(spacing,) * len(shape), **grid)  # type: ignore[arg-type]
    return Image(array=array, geometry=geometry)


@pytest.fixture
def workspace(untrained_workspace: Workspace) -> Workspace:
    return untrained_workspace


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(3):
        write_image(tmp_path / "images" / f"case{number}_0000.nii.gz", make_image(number))
    return tmp_path / "images"


def predict(workspace: Workspace, images: Path, output: Path, **options: object):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return ensemble_predict(workspace, images, output, device="cpu", **options)  # type: ignore[arg-type]


def test_all_orders_and_directions_of_axes_give_the_same_segmentation(workspace: Workspace) -> None:
    predictor = Predictor.load(workspace, device="cpu", options=InferenceOptions(augmentation="none"))
    image = make_image()
    expected = predictor.segment(image)
    assert len(set(CODES)) == 48
    assert len(expected.values) > 1
    for code in CODES:
        turn = Reorientation.between(image.geometry.orientation, code)
        turned = Image(array=turn.apply(image.array).copy(), geometry=turn.apply_to_geometry(image.geometry))
        found = predictor.segment(turned)
        assert found.geometry == turned.geometry
        np.testing.assert_array_equal(turn.invert(found.array), expected.array, err_msg=code)


@pytest.mark.parametrize("angle", [0.2, 0.7])
def test_oblique_images_keep_their_grid(workspace: Workspace, tmp_path: Path, angle: float) -> None:
    c, s = float(np.cos(angle)), float(np.sin(angle))
    grid = {"directions": ((0.0, -s, c), (0.0, c, s), (1.0, 0.0, 0.0)), "origin": (5.0, -7.0, 11.0)}
    image = make_image(**grid)
    write_image(tmp_path / "in" / "oblique_0000.nii.gz", image)
    predict(workspace, tmp_path / "in", tmp_path / "out")
    found = read_segmentation(tmp_path / "out" / "oblique.nii.gz")
    assert image.geometry.differences(found.geometry) == []
    upright = make_image()
    straight = Predictor.load(workspace, device="cpu").segment(upright)
    np.testing.assert_array_equal(found.array, straight.array)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".tif"])
def test_results_come_in_the_format_of_the_images(make_workspace: MakeWorkspace, tmp_path: Path, ending: str) -> None:
    workspace = make_workspace(tmp_path / "workspace", ending=ending)
    write_image(tmp_path / "in" / f"a_0000{ending}", make_image())
    predict(workspace, tmp_path / "in", tmp_path / "out")
    image = read_image([tmp_path / "in" / f"a_0000{ending}"])
    found = read_segmentation(tmp_path / "out" / f"a{ending}")
    assert image.geometry.differences(found.geometry) == []
    assert set(found.values) <= {0, 3, 200}
    assert len(found.values) > 1


def test_pictures_come_back_as_pictures(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace", ndim=2, ending=".png")
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).integers(0, 255, (20, 31)).astype(np.uint8)
    Picture.fromarray(values).save(tmp_path / "in" / "a_0000.png")
    predict(workspace, tmp_path / "in", tmp_path / "out")
    with Picture.open(tmp_path / "out" / "a.png") as picture:
        found = np.asarray(picture)
    assert found.shape == values.shape
    assert set(np.unique(found)) <= {0, 3, 200}


def test_everything_that_can_be_written(workspace: Workspace, images: Path, tmp_path: Path) -> None:
    extras = ExtraOutputs(
        separate_labels=True,
        pictures=True,
        zip_path=tmp_path / "upload.zip",
        run_lengths=tmp_path / "runs.csv",
    )
    output = tmp_path / "out"
    report = predict(workspace, images, output, extras=extras, save_probabilities=True)
    assert report.predicted == ("case0", "case1", "case2")
    found = read_segmentation(output / "case1.nii.gz")
    for name, value in (("liver", 3), ("big_tumor", 200)):
        mask = read_segmentation(output / "case1" / f"{name}.nii.gz")
        np.testing.assert_array_equal(mask.array, found.array == value)
        assert mask.geometry.differences(found.geometry) == []
    with Picture.open(output / "pictures" / "case2.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    with zipfile.ZipFile(tmp_path / "upload.zip") as archive:
        assert archive.namelist() == ["case0.nii.gz", "case1.nii.gz", "case2.nii.gz"]
        archive.extract("case1.nii.gz", tmp_path / "unpacked")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "unpacked" / "case1.nii.gz").array, found.array)
    with (tmp_path / "runs.csv").open() as file:
        rows = {row["id"]: row["rle"] for row in csv.DictReader(file)}
    assert len(rows) == 3 * 9
    for number, plane in enumerate(found.array):
        np.testing.assert_array_equal(decode_runs(rows[f"case1_{number:04d}"], plane.shape), plane > 0)
    record = json.loads((output / "prediction.json").read_text())
    assert record["checkpoints"].keys() == {"results/3d_fullres/fold0/checkpoint_final.pt"}
    assert set(record["times"]["case0"]) == {"prepare", "predict", "write"}
    assert record["versions"]["torch"] == torch.__version__
    again = predict(workspace, images, output, extras=extras, save_probabilities=True)
    assert again.kept == ("case0", "case1", "case2")


@given(data=st.data())
def test_runs_decode_to_what_was_encoded(data: st.DataObject) -> None:
    shape = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])))
    mask = mask.reshape(shape)
    text = encode_runs(mask)
    assert (text == "1 0") == (not mask.any())
    np.testing.assert_array_equal(decode_runs(text, shape), mask)
    with pytest.raises(DatasetError, match="leaves a slice"):
        decode_runs(f"{mask.size} 2", shape)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_bad_image_is_reported_and_the_others_are_predicted(
    workspace: Workspace, images: Path, tmp_path: Path, workers: int
) -> None:
    broken = images / "case1_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    write_image(images / "case3_0000.nii.gz", make_image(5, spacing=1.5))
    (tmp_path / "out" / "case3.nii.gz.taken").mkdir(parents=True)
    report = predict(workspace, images, tmp_path / "out", workers=workers)
    assert report.predicted == ("case0", "case2", "case3")
    assert report.failures.keys() == {"case1"}
    expected = Predictor.load(workspace, device="cpu").segment(make_image(2))
    np.testing.assert_array_equal(read_segmentation(tmp_path / "out" / "case2.nii.gz").array, expected.array)


def test_the_report_is_complete_after_an_interruption_and_with_parts(
    workspace: Workspace, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    broken = images / "case1_0000.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    write_image(images / "case3_0000.nii.gz", make_image(5))
    first = predict(workspace, images, output, part=(0, 2))
    assert (first.predicted, first.failures) == (("case0", "case2"), {})
    second = predict(workspace, images, output, part=(1, 2))
    assert second.predicted == ("case3",)
    assert second.failures.keys() == second.times.keys() ^ {"case1", "case3"} == {"case1"}
    record = json.loads((output / "prediction.json").read_text())
    assert record["kept"] == ["case0", "case2"]
    assert record["times"].keys() == {"case0", "case2", "case3"}
    assert record["failures"].keys() == {"case1"}
    before = record["times"]["case2"]
    # as if the run had been killed before case2, and the file had been mended meanwhile
    (output / "case2.nii.gz").unlink()
    broken.write_bytes(whole)
    (output / ".autoseg" / "case2.json").unlink()
    (output / ".autoseg" / "cases" / "case0.json").write_text("{")
    resumed = predict(workspace, images, output)
    assert (resumed.predicted, resumed.kept) == (("case1", "case2"), ("case0", "case3"))
    record = json.loads((output / "prediction.json").read_text())
    assert record["failures"] == {}
    assert record["times"].keys() == {"case1", "case2", "case3"}  # what case0 took is lost with its record
    assert record["times"]["case2"] != before
    other = predict(workspace, images, output, options=InferenceOptions(step=1.0), overwrite=True, part=(0, 4))
    assert other.predicted == ("case0",)
    record = json.loads((output / "prediction.json").read_text())
    assert record["times"].keys() == {"case0"}  # the others were made otherwise


def test_a_quick_look_may_say_where_to_look(workspace: Workspace, images: Path, tmp_path: Path) -> None:
    image = make_image(3, shape=(20, 24, 22))
    whole = Predictor.load(workspace, device="cpu").segment(image).array
    quick = Predictor.load(workspace, device="cpu", options=FAST).segment(image).array != 0
    options = InferenceOptions(region="3d_fullres", region_margin_mm=0)
    found = Predictor.load(workspace, device="cpu", options=options).segment(image).array
    assert quick.any()
    np.testing.assert_array_equal(found[quick], whole[quick])
    assert not (found[~quick] != whole[~quick])[found[~quick] != 0].any()  # elsewhere the same, or background
    report = predict(workspace, images, tmp_path / "out", options=options)
    assert report.options.region == "3d_fullres"
    assert predict(workspace, images, tmp_path / "out", options=options).kept == report.predicted
    with pytest.raises(PlanError, match="3d_lowres"):
        predict(workspace, images, tmp_path / "other", options=InferenceOptions(region="3d_lowres"))


def test_memory_is_forecast_and_a_limit_that_cannot_be_kept_is_refused_first(
    workspace: Workspace, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    class Listener:
        def message(self, text: str) -> None:
            said.append(text)

        def track(self, items, *, total: int, description: str):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, ARG002
            yield from items

    predict(workspace, images, tmp_path / "out", progress=Listener())
    assert any("the largest image, case0_0000.nii.gz (9x11x13), will take up to" in text for text in said)
    with pytest.raises(SettingsError, match=r"--max-memory allows 0\.5 GB"):
        predict(workspace, images, tmp_path / "other", options=InferenceOptions(max_memory_gb=0.5))
    assert not list((tmp_path / "other").glob("*.nii.gz"))


def test_smoothed_probabilities_count_in_the_forecast(workspace: Workspace, images: Path) -> None:
    predictor = Predictor.load(workspace, device="cpu")
    paths = [images / "case0_0000.nii.gz"]
    plain = predictor.forecast_cases(paths)
    step = PostprocessingStep(name="smooth_probabilities", values=predictor.plan.labels.foreground_values)
    predictor.ensemble = replace(predictor.ensemble, postprocessing=(step,))
    smoothed = predictor.forecast_cases(paths)
    assert plain is not None
    assert smoothed is not None
    num_outputs, voxels = predictor.plan.labels.num_outputs, 9 * 11 * 13
    assert smoothed.image_bytes - plain.image_bytes == 3 * 4 * num_outputs * voxels


def gate(make_workspace: MakeWorkspace, *, folder: Path, scheme: str) -> InputGate:
    plan = make_workspace(folder, scheme=scheme).load_plan()
    cases = tuple(
        CaseFingerprint(id=f"c{i}", spacing=(s,) * 3, shape=(9, 11, 13), cropped_shape=(9, 11, 13), orientation="SPL")
        for i, s in enumerate((1.0, 1.2))
    )
    statistics = plan.configurations[0].normalization[0].statistics
    return InputGate(
        plan=plan,
        fingerprint=Fingerprint(
            cases=cases,
            intensities=(statistics,) if statistics else (),
            median_relative_size=1.0,
            orientation="SPL",
        ),
    )


def test_the_gate_lets_training_like_images_pass_and_names_what_is_foreign(
    make_workspace: MakeWorkspace, tmp_path: Path
) -> None:
    ct = gate(make_workspace, folder=tmp_path / "ct", scheme="ct")
    assert ct.examine(make_image()).warnings == ()
    assert ct.examine(make_image()).refusals == ()
    wide = ct.examine(make_image(spacing=3.0))
    assert len(wide.warnings) == 2  # spacing and field of view
    assert "spacing is 3 x 3 x 3 mm, the training images' 1 to 1.2" in wide.warnings[0]
    assert any("spacing" in s for s in ct.examine(make_image(spacing=0.001)).refusals)  # metres taken for millimetres
    shifted = make_image()
    shifted = replace(shifted, array=shifted.array + 1000)  # Hounsfield units without their offset
    assert "none of them like the training foreground's" in ct.examine(shifted).refusals[0]
    flat = replace(shifted, array=np.full_like(shifted.array, 7))
    assert "every voxel of CT has the intensity 7" in ct.examine(flat).refusals[0]
    mr = gate(make_workspace, folder=tmp_path / "mr", scheme="zscore")
    assert mr.examine(shifted).refusals == ()  # intensities of an MRI mean nothing by themselves


def test_foreign_images_are_refused_unless_the_user_insists(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace", scheme="ct")
    write_json(gate(make_workspace, folder=tmp_path / "gate", scheme="ct").fingerprint, workspace.fingerprint_path)
    for name, spacing in (("good", 1.0), ("tiny", 0.1), ("wide", 3.0)):
        write_image(tmp_path / "in" / f"{name}_0000.nii.gz", make_image(spacing=spacing))
    report = predict(workspace, tmp_path / "in", tmp_path / "out")
    assert report.predicted == ("good", "wide")
    assert "--unchecked" in report.failures["tiny"]
    assert report.warnings.keys() == {"wide"}
    assert predict(workspace, tmp_path / "in", tmp_path / "all", unchecked=True).failures == {}
