"""Models for nnU-Net: what it trained comes back as it was, and what is trained here has nnU-Net's form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.codec import write_json
from autoseg.errors import MissingArtifactError, PlanError
from autoseg.inference.model import read_checkpoint
from autoseg.interop.nnunet_checkpoint import _ALLOWED, read_nnunet_checkpoint
from autoseg.interop.nnunet_import import import_models
from autoseg.interop.nnunet_model_export import export_models, with_repetitions
from autoseg.pipeline.train import train
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

MODELS = [
    "Dataset901_AnisoCT__nnUNetPlans__2d",
    "Dataset901_AnisoCT__nnUNetPlans__3d_fullres",
    "Dataset903_OddAxis__nnUNetResEncUNetMPlans__3d_fullres",
    "Dataset904_VeryThick__nnUNetResEncUNetMPlans__2d",
    "Dataset905_Regions__nnUNetPlans__3d_fullres",
]
USED_IN_PREDICTION = (
    "patch_size",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "batch_dice",
    "architecture",
)
USED_IN_PREDICTION += ("resampling_fn_data_kwargs", "resampling_fn_probabilities_kwargs")


def load(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(_ALLOWED):
        return torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("name", MODELS)
def test_nnunets_models_come_back_as_they_were(name: str, shared_dir: Path, tmp_path: Path) -> None:
    original = shared_dir / "golden" / "models" / name / "model"
    workspace = import_models(original, tmp_path / "workspace")
    (folder,) = export_models(workspace, tmp_path / "results")
    given, made = (json.loads((place / "plans.json").read_text()) for place in (original, folder))
    configuration = name.split("__")[2]
    before, after = (table["configurations"][configuration] for table in (given, made))
    for key in USED_IN_PREDICTION:
        assert after[key] == before[key], key
    for key in ("transpose_forward", "transpose_backward", "image_reader_writer"):
        assert made[key] == given[key]
    for channel, statistics in made["foreground_intensity_properties_per_channel"].items():
        assert statistics == pytest.approx(given["foreground_intensity_properties_per_channel"][channel])
    declared = json.loads((folder / "dataset.json").read_text())
    assert declared["labels"] == json.loads((original / "dataset.json").read_text())["labels"]
    for checkpoint in sorted(original.glob("fold_*/checkpoint_final.pth")):
        reference, exported = load(checkpoint), load(folder / checkpoint.parent.name / checkpoint.name)
        assert list(exported["network_weights"]) == list(reference["network_weights"])  # every repetition, in order
        for key, tensor in reference["network_weights"].items():
            assert torch.equal(exported["network_weights"][key], tensor), key
        for key in ("trainer_name", "inference_allowed_mirroring_axes"):
            assert exported[key] == reference[key]
        groups = [state["optimizer_state"]["param_groups"][0]["params"] for state in (reference, exported)]
        assert groups[0] == groups[1]
        assert exported["init_args"]["configuration"] == configuration
        assert set(exported) == set(reference)
        assert set(exported["logging"]) == set(reference["logging"])


@pytest.mark.parametrize("style", [{}, {"norm": "batch", "activation": "relu"}, {"activation": "gelu", "dropout": 0.2}])
def test_what_is_trained_here_is_exported_with_the_network_that_was_trained(
    workspace: Workspace, tmp_path: Path, style: dict[str, Any]
) -> None:
    config = TrainingConfig(epochs=1, iterations_per_epoch=1, validation_iterations=1)
    plan = workspace.load_plan()
    narrow = replace(
        plan.configuration("2d").network, features=(4, 8, 8, 8)[: plan.configuration("2d").network.num_stages], **style
    )
    narrowed = tuple(replace(c, network=narrow) if c.name == "2d" else c for c in plan.configurations)
    write_json(replace(plan, configurations=narrowed), workspace.plan_path)
    train(workspace, "2d", 1, config=config, device="cpu", workers=0)
    write_json(plan, workspace.plan_path)
    result = CliRunner().invoke(app, ["interop", "export-nnunet-model", "-w", str(workspace.root), "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "Dataset001_dataset" / "nnUNetTrainer__nnUNetPlans__2d"
    assert str(folder) in "".join(result.output.split())
    plans = json.loads((folder / "plans.json").read_text())
    architecture = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert architecture["features_per_stage"] == list(narrow.features)
    words = {"batch": "BatchNorm2d", "relu": "ReLU", "gelu": "GELU", 0.2: "Dropout2d"}
    written = [str(architecture[key]).rpartition(".")[2] for key in ("norm_op", "nonlin", "dropout_op")]
    usual = ["InstanceNorm2d", "LeakyReLU", "None"]
    assert [name for name, default in zip(written, usual, strict=True) if name != default] == [
        words[value] for value in style.values()
    ]
    checkpoint = read_nnunet_checkpoint(folder / "fold_1" / "checkpoint_final.pth")
    own = read_checkpoint(workspace.run("2d", 1).final).weights
    assert checkpoint.weights.keys() == own.keys()
    assert all(torch.equal(checkpoint.weights[name], own[name]) for name in own)
    assert checkpoint.mirror_axes == (0, 1)
    back = import_models(folder, tmp_path / "back")
    assert back.trained_folds("2d") == (1,)
    assert back.load_plan().configuration("2d").network == narrow
    again = read_checkpoint(back.run("2d", 1).final).weights
    assert all(torch.equal(again[name], own[name]) for name in own)


def test_parameters_are_repeated_in_nnunets_order() -> None:
    names = ["encoder.stages.0.0.convs.0.conv.weight", "encoder.stages.0.0.convs.0.norm.bias"]
    names += ["decoder.stages.0.convs.0.conv.bias", "decoder.transpconvs.0.weight", "decoder.seg_layers.0.bias"]
    repeated = with_repetitions({name: torch.tensor(float(number)) for number, name in enumerate(names)})
    block = "encoder.stages.0.0.convs.0"
    encoder = [
        f"{block}.conv.weight",
        f"{block}.norm.bias",
        f"{block}.all_modules.0.weight",
        f"{block}.all_modules.1.bias",
    ]
    last = ["decoder.stages.0.convs.0.conv.bias", "decoder.stages.0.convs.0.all_modules.0.bias", *names[3:]]
    assert list(repeated) == [*encoder, *(f"decoder.{name}" for name in encoder), *last]
    assert [int(value) for value in repeated.values()] == [0, 1, 0, 1, 0, 1, 0, 1, 2, 2, 3, 4]


def test_a_network_that_nnunet_does_not_have_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match="nothing is trained"):
        export_models(workspace, tmp_path)
    plan = workspace.load_plan()
    gated = tuple(replace(c, network=replace(c.network, skip_gate="grid")) for c in plan.configurations)
    write_json(replace(plan, configurations=gated), workspace.plan_path)
    config = TrainingConfig(epochs=1, iterations_per_epoch=1, validation_iterations=1)
    train(workspace, "2d", "all", config=config, device="cpu", workers=0)
    with pytest.raises(PlanError, match="2d: nnU-Net has no network with skip_gate=grid"):
        export_models(workspace, tmp_path)
    assert not list(tmp_path.glob("Dataset*"))
