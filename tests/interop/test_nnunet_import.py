"""Models of nnU-Net as workspaces: they predict here, through the commands, what they predicted there."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.dataset import Dataset
from autoseg.errors import ArtifactError, MissingArtifactError, PlanError, SettingsError
from autoseg.image import read_segmentation
from autoseg.inference.ensemble import Ensemble, Member
from autoseg.inference.export import PROBABILITIES_ENDING, read_probabilities
from autoseg.inference.model import load_model
from autoseg.interop.nnunet import plan_from_fingerprint
from autoseg.interop.nnunet_import import import_models
from autoseg.interop.nnunet_plans import plans_table, read_fingerprint
from autoseg.interop.nnunet_reading import read_plans
from autoseg.networks.factory import build_network
from autoseg.postprocessing.steps import PostprocessingStep
from autoseg.training import num_input_channels

MODELS = [
    "Dataset901_AnisoCT__nnUNetPlans__2d",
    "Dataset901_AnisoCT__nnUNetPlans__3d_fullres",
    "Dataset903_OddAxis__nnUNetResEncUNetMPlans__3d_fullres",
    "Dataset904_VeryThick__nnUNetResEncUNetMPlans__2d",
    "Dataset905_Regions__nnUNetPlans__3d_fullres",
]
KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"


def run(*words: str | Path) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", MODELS)
def test_the_commands_give_nnunets_predictions(name: str, shared_dir: Path, tmp_path: Path) -> None:
    golden = shared_dir / "golden" / "models" / name
    raw = shared_dir / "golden" / "raw" / name.split("__")[0]
    (tmp_path / "in").mkdir()
    for path in raw.glob("imagesTr/case01_*"):  # both cases: tests/inference/test_golden_models.py
        shutil.copy(path, tmp_path / "in")
    workspace, output = tmp_path / "workspace", tmp_path / "out"

    run("interop", "import-nnunet", golden / "model", "-w", workspace)
    run("ensemble-predict", "-w", workspace, "-i", tmp_path / "in", "-o", output, "--save-probabilities")

    assert json.loads((output / "prediction.json").read_text())["options"]["accumulation"] == "float16"
    made = read_segmentation(output / "case01.nii.gz")
    expected = read_segmentation(golden / "predictions" / "case01.nii.gz")
    assert made.geometry.differences(expected.geometry) == []
    assert (made.array != expected.array).mean() <= 0.0005
    probabilities = read_probabilities(output / f"case01{PROBABILITIES_ENDING}")
    assert np.abs(probabilities - read_probabilities(golden / "predictions" / "case01.npz")).max() < 2e-3


def tables(*, name: str = "3d_fullres", plans_name: str = "nnUNetPlans") -> tuple[dict[str, Any], dict[str, Any]]:
    """plans.json and dataset.json of a tiny dataset, planned by autoseg in nnU-Net's form and made smaller."""
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    statistics = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]] * 5,
        "shapes_after_crop": [[60, 60, 60]] * 5,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {"0": statistics},
    }
    plans = plan_from_fingerprint(dataset, fingerprint, planner="unet", gpu_memory_gb=0.02)
    assert "3d_cascade_fullres" in plans["configurations"]
    for entry in plans["configurations"].values():
        if "architecture" in entry:
            options = entry["architecture"]["arch_kwargs"]
            options["features_per_stage"] = [2] * options["n_stages"]
    assert name in plans["configurations"]
    return {**plans, "plans_name": plans_name}, dataset


def write_model(
    folder: Path,
    *,
    name: str = "3d_fullres",
    folds: tuple[int | str, ...] = (0,),
    trainer: str = "nnUNetTrainer",
    plans_name: str = "nnUNetPlans",
    checkpoints: tuple[str, ...] = ("final",),
    axes: tuple[int, ...] | None = (0, 1),
    change: Callable[[dict[str, torch.Tensor]], object] = id,
) -> Path:
    """A model folder as nnU-Net lays it out, with random weights under every name that nnU-Net stores them."""
    plans, dataset = tables(name=name, plans_name=plans_name)
    plan = read_plans(plans, dataset, configurations=[name])
    configuration = plan.configurations[0]
    model = folder / f"{trainer}__{plans_name}__{name}"
    for fold in folds:
        torch.manual_seed(0 if fold == "all" else int(fold))
        channels = num_input_channels(plan, configuration)
        weights = dict(build_network(configuration.network, num_channels=channels, num_outputs=3).state_dict())
        change(weights)
        weights |= {f"decoder.encoder.{key}": value for key, value in weights.items() if key.startswith("encoder")}
        arguments = {"plans": plans, "configuration": name, "fold": fold, "dataset_json": dataset}
        content = {
            "network_weights": weights,
            "init_args": arguments,
            "trainer_name": trainer,
            "current_epoch": 3,
            "inference_allowed_mirroring_axes": axes,
        }
        for checkpoint in checkpoints:
            path = model / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, path)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset))
    return model


def zip_of(folder: Path, path: Path) -> Path:
    """As nnUNetv2_export_model_to_zip writes it: paths below nnUNet_results, with files that autoseg ignores."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
        archive.writestr(f"{folder.name}/README", "not a model")
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "Dataset001_Tiny"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def test_a_model_folder_becomes_a_workspace(results: Path, target: Path) -> None:
    model = write_model(results, folds=(2, 0, "all"), checkpoints=("final", "best"))
    workspace = import_models(model, target)

    assert not workspace.has_dataset
    assert workspace.trained_folds("3d_fullres") == (0, 2, "all")
    assert workspace.run("3d_fullres", 2).best.is_file()
    plan = workspace.load_plan()
    assert plan.accumulation == "float16"
    assert plan.orientation is None
    ensemble = read_json(Ensemble, workspace.ensemble_path)
    assert ensemble.members == (Member(configuration="3d_fullres", folds=(0, 2)),)
    assert ensemble.postprocessing == ()
    loaded = load_model(workspace.run("3d_fullres", 0).final)
    assert loaded.record.mirror_axes == (0, 1)
    assert loaded.record.iterations == 750
    torch.manual_seed(0)
    fresh = build_network(plan.configurations[0].network, num_channels=1, num_outputs=3).state_dict()
    for name, weight in loaded.network.state_dict().items():
        torch.testing.assert_close(weight, fresh[name], rtol=0, atol=0)


def test_all_cases_alone_predict(results: Path, target: Path) -> None:
    write_model(results, folds=("all",), axes=None)
    workspace = import_models(results, target)
    assert read_json(Ensemble, workspace.ensemble_path).members[0].folds == ("all",)
    assert load_model(workspace.run("3d_fullres", "all").final).record.mirror_axes == ()


def test_a_zip_holds_several_configurations(results: Path, target: Path, tmp_path: Path) -> None:
    for name in ("2d", "3d_lowres", "3d_cascade_fullres"):
        write_model(results, name=name, axes=(0,))
    workspace = import_models(zip_of(results, tmp_path / "model.zip"), target)
    plan = workspace.load_plan()
    assert sorted(plan.configuration_names) == ["2d", "3d_cascade_fullres", "3d_lowres"]
    assert plan.configuration("3d_cascade_fullres").previous_stage == "3d_lowres"
    assert load_model(workspace.run("3d_cascade_fullres", 0).final).record.num_channels == 3
    members = read_json(Ensemble, workspace.ensemble_path).members
    assert [member.configuration for member in members] == ["2d", "3d_cascade_fullres"]  # which starts from 3d_lowres


def test_other_plans_and_trainers_get_names_of_their_own(results: Path, target: Path) -> None:
    write_model(results)
    write_model(results, trainer="nnUNetTrainer_250epochs")
    write_model(results, plans_name="myPlans")
    names = import_models(results, target).load_plan().configuration_names
    assert sorted(names) == ["3d_fullres", "3d_fullres@myPlans", "3d_fullres@nnUNetTrainer_250epochs"]


def write_choice(results: Path, names: list[str], *, function: str = KEEP_LARGEST) -> None:
    """inference_information.json and postprocessing.json, as find_best_configuration leaves them."""
    models = [dict(zip(("trainer", "plans_identifier", "configuration"), n.split("__"), strict=True)) for n in names]
    information = {"folds": [0, 1], "best_model_or_ensemble": {"selected_model_or_models": models}}
    (results / "inference_information.json").write_text(json.dumps(information))
    single = results / names[0] / "crossval_results_folds_0_1"
    folder = single if len(names) == 1 else results / "ensembles" / "___".join(["ensemble", *names, "0_1"])
    folder.mkdir(parents=True)
    operations = [{"labels_or_regions": [[1, 2], 2]}, {"labels_or_regions": 1}]
    record = {"postprocessing_fns": [function] * 2, "postprocessing_kwargs": operations}
    (folder / "postprocessing.json").write_text(json.dumps(record))


@pytest.mark.parametrize("configurations", [["2d"], ["2d", "3d_fullres"]])
def test_nnunets_choice_and_postprocessing_are_taken_over(
    results: Path, target: Path, configurations: list[str]
) -> None:
    for name in ("2d", "3d_fullres", "3d_lowres"):
        write_model(results, name=name, folds=(0, 1, 2))
    write_choice(results, [f"nnUNetTrainer__nnUNetPlans__{name}" for name in configurations])
    ensemble = read_json(Ensemble, import_models(results, target).ensemble_path)
    assert ensemble.members == tuple(Member(configuration=name, folds=(0, 1)) for name in configurations)
    assert ensemble.postprocessing == (
        PostprocessingStep(name="keep_largest", values=(1, 2)),
        PostprocessingStep(name="keep_largest", values=(1,)),
    )


def test_a_choice_of_models_that_are_not_there_is_named(
    results: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(results)
    write_choice(results, ["nnUNetTrainer__nnUNetPlans__2d"])
    caplog.set_level("INFO")
    assert read_json(Ensemble, import_models(results, target).ensemble_path).postprocessing == ()
    assert "nnUNetTrainer__nnUNetPlans__2d, is not among the models" in caplog.text


def test_postprocessing_that_autoseg_lacks_is_named(
    results: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = write_model(results, folds=(0, 1)).name
    write_choice(results, [name], function="fill_holes")
    caplog.set_level("INFO")
    assert read_json(Ensemble, import_models(results, target).ensemble_path).postprocessing == ()
    assert "does not have fill_holes" in caplog.text


def test_the_best_checkpoint_stands_in_for_a_missing_final_one(
    results: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    workspace = import_models(write_model(results, checkpoints=("best",)), target)
    assert workspace.run("3d_fullres", 0).final.is_file()
    assert "checkpoint_best.pth takes its place" in caplog.text


def test_a_cascade_without_its_first_stage_is_left_out(
    results: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cascade = write_model(results, name="3d_cascade_fullres")
    with pytest.raises(ArtifactError, match="predicts from 3d_lowres"):
        import_models(cascade, target)
    write_model(results, name="2d")
    caplog.set_level("INFO")
    assert import_models(results, target).load_plan().configuration_names == ("2d",)
    assert "3d_cascade_fullres is left out" in caplog.text


def test_nothing_to_import_is_said(results: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingArtifactError, match="holds no model of nnU-Net v2"):
        import_models(tmp_path / "empty", target)
    with pytest.raises(MissingArtifactError, match=r"nowhere\.zip does not exist"):
        import_models(tmp_path / "nowhere.zip", target)
    write_model(results)
    write_model(tmp_path / "Dataset002_Other")
    with pytest.raises(ArtifactError, match="several datasets"):
        import_models(tmp_path, target)
    assert not target.exists()


def test_an_existing_workspace_is_left_alone(results: Path, target: Path) -> None:
    model = write_model(results)
    import_models(model, target)
    with pytest.raises(SettingsError, match="is a workspace already"):
        import_models(model, target)


def test_weights_of_another_network_are_refused(results: Path, target: Path) -> None:
    model = write_model(results, trainer="nnUNetTrainerBN", change=lambda w: w.pop("decoder.seg_layers.0.bias"))
    with pytest.raises(ArtifactError, match="weights of nnUNetTrainerBN do not fit"):
        import_models(model, target)
    assert not (target / "workspace.json").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("network_class_name", "a.b.Primus", "is a Primus"),
        ("norm_op", "torch.nn.SyncBatchNorm", "norm_op"),
        ("nonlin", "torch.nn.Tanh", "nonlin"),
        ("nonlin_kwargs", {"inplace": True, "negative_slope": 0.2}, "nonlin_kwargs"),
        ("stem_channels", [8], "stem_channels"),
    ],
)
def test_networks_that_autoseg_does_not_build_are_named(key: str, value: object, message: str) -> None:
    plans, dataset = tables()
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = value
    with pytest.raises(PlanError, match=message):
        read_plans(plans, dataset, configurations=["3d_fullres"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("resampling_fn_data", "resample_torch_fornnunet", "resamples with resample_torch_fornnunet"),
        ("normalization_schemes", ["MyNormalization"], "MyNormalization"),
        ("resampling_fn_seg_kwargs", {"order": 1, "order_z": 1}, "thick slices"),
    ],
)
def test_preprocessing_that_autoseg_lacks_is_named(key: str, value: object, message: str) -> None:
    plans, dataset = tables()
    plans["configurations"]["3d_fullres"][key] = value
    with pytest.raises(PlanError, match=message):
        read_plans(plans, dataset, configurations=["3d_fullres"])


def test_malformed_plans_are_one_sentence() -> None:
    plans, dataset = tables()
    del plans["configurations"]["2d"]["patch_size"]
    with pytest.raises(ArtifactError, match="patch_size"):
        read_plans(plans, dataset, configurations=["2d"])
    plans["configurations"]["2d"] = {"inherits_from": "3d_fullres"}
    plans["configurations"]["3d_fullres"]["inherits_from"] = "2d"
    with pytest.raises(ArtifactError, match="2d -> 3d_fullres -> 2d"):
        read_plans(plans, dataset, configurations=["2d"])
    with pytest.raises(ArtifactError, match="not the ending of a file name"):
        read_plans(tables()[0], {**dataset, "file_ending": "/../x.nii"}, configurations=["3d_fullres"])


def test_plans_before_2_4_describe_the_same_network() -> None:
    plans, dataset = tables()
    expected = read_plans(plans, dataset, configurations=["3d_fullres"])
    entry = plans["configurations"]["3d_fullres"]
    options = entry.pop("architecture")["arch_kwargs"]
    entry |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 2,
        "unet_max_num_features": 2,
        "n_conv_per_stage_encoder": options["n_conv_per_stage"],
        "n_conv_per_stage_decoder": options["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": options["strides"],
        "conv_kernel_sizes": options["kernel_sizes"],
    }
    key = "foreground_intensity_properties_per_channel"
    plans["foreground_intensity_properties_by_modality"] = plans.pop(key)
    assert read_plans(plans, dataset, configurations=["3d_fullres"]) == expected


def test_readers_that_turn_images_become_an_orientation() -> None:
    plans, dataset = tables()
    turned = read_plans({**plans, "image_reader_writer": "NibabelIOWithReorient"}, dataset, configurations=["2d"])
    assert turned.orientation == "SAR"  # axes (z, y, x) grow towards superior, anterior, right


@pytest.mark.parametrize("planner", ["default", "resenc_l"])
@pytest.mark.parametrize("number", range(0, 30, 3))
def test_reading_undoes_writing(shared_dir: Path, number: int, planner: str) -> None:
    golden = json.loads((shared_dir / "golden" / "plans" / f"{number:02d}.json").read_text())
    plans = golden["plans"][planner]
    plan = read_plans(plans, golden["dataset"], configurations=plans["configurations"])
    name = "unet" if planner == "default" else planner
    dataset = Dataset(
        root=Path(),
        name=plans["dataset_name"],
        channels=plan.channels,
        labels=plan.labels,
        file_ending=plan.file_ending,
        declared_count=1,
        training=(),
        test=(),
    )
    fingerprint = read_fingerprint(golden["fingerprint"], orientation="SPL", orientation_2d="PL")
    written = plans_table(replace(plan, planner=name), dataset, fingerprint)
    assert json.loads(json.dumps(written)) == plans
