"""nnU-Net's checkpoints are read without running what lies in them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.interop.nnunet_checkpoint import read_nnunet_checkpoint


@pytest.fixture
def content() -> dict[str, Any]:
    """The entries that nnU-Net writes, histories of NumPy scalars included; most tensors stand there repeatedly."""
    weight = torch.arange(4.0)
    return {
        "network_weights": {
            "encoder.stages.0.0.convs.0.conv.weight": weight,
            "encoder.stages.0.0.convs.0.all_modules.0.weight": weight,
            "decoder.encoder.stages.0.0.convs.0.conv.weight": weight,
            "decoder.seg_layers.0.bias": weight,
        },
        "optimizer_state": {},
        "logging": {"mean_fg_dice": [np.float32(0.5), np.float64(0.25)], "epochs": [np.int64(3)]},
        "init_args": {
            "plans": {"plans_name": "nnUNetPlans"},
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"labels": {"background": 0}},
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 2),
    }


def test_every_parameter_comes_once(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "checkpoint_final.pth")
    checkpoint = read_nnunet_checkpoint(tmp_path / "checkpoint_final.pth")
    assert list(checkpoint.weights) == ["encoder.stages.0.0.convs.0.conv.weight", "decoder.seg_layers.0.bias"]
    assert checkpoint.mirror_axes == (0, 2)
    assert checkpoint.configuration == "3d_fullres"
    assert checkpoint.plans == {"plans_name": "nnUNetPlans"}
    assert checkpoint.trainer == "nnUNetTrainer"


def test_a_model_without_mirroring(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content | {"inference_allowed_mirroring_axes": None}, tmp_path / "a.pth")
    assert read_nnunet_checkpoint(tmp_path / "a.pth").mirror_axes == ()


class Surprise:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("code of a checkpoint was executed",))


def test_code_is_refused_and_not_executed(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content | {"logging": Surprise()}, tmp_path / "a.pth")
    with pytest.raises(ArtifactError, match=r"a\.pth"):
        read_nnunet_checkpoint(tmp_path / "a.pth")


def test_missing_truncated_and_foreign_files_are_named(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(MissingArtifactError, match=r"a\.pth does not exist"):
        read_nnunet_checkpoint(path)
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"a\.pth is not a complete checkpoint"):
        read_nnunet_checkpoint(path)
    torch.save({"record": "{}", "weights": {}}, path)
    with pytest.raises(ArtifactError, match="init_args"):
        read_nnunet_checkpoint(path)


def test_a_checkpoint_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content | {"network_weights": {"a": torch.zeros(1 << 20)}}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    assert read_nnunet_checkpoint(tmp_path / "plain.pth").weights["a"].shape == (1 << 20,)
    with pytest.raises(ArtifactError, match=r"bomb\.pth would unpack"):
        read_nnunet_checkpoint(tmp_path / "bomb.pth")
