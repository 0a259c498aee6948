"""Checkpoints come back as they were written, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.inference.model import (
    ModelRecord,
    TrainedModel,
    content_digest,
    load_model,
    read_checkpoint,
    write_checkpoint,
)
from autoseg.networks.factory import build_network


@pytest.fixture
def trained(make_record: Callable[..., ModelRecord]) -> tuple[ModelRecord, dict[str, torch.Tensor]]:
    record = make_record()
    torch.manual_seed(0)
    network = build_network(
        record.configuration.network, num_channels=record.num_channels, num_outputs=record.labels.num_outputs
    )
    return record, network.state_dict()


def test_a_checkpoint_comes_back(tmp_path: Path, trained: tuple[ModelRecord, dict[str, torch.Tensor]]) -> None:
    record, weights = trained
    path = tmp_path / "fold0" / "checkpoint.pt"
    state = {"optimizer": {"momentum": torch.ones(3)}, "history": [0.5, None], "step": 7}
    write_checkpoint(path, record=record, weights=weights, training=state)
    checkpoint = read_checkpoint(path)
    assert checkpoint.record == record
    assert checkpoint.weights.keys() == weights.keys()
    assert all(torch.equal(checkpoint.weights[name], weights[name]) for name in weights)
    assert checkpoint.training is not None
    assert torch.equal(checkpoint.training["optimizer"]["momentum"], torch.ones(3))
    assert checkpoint.training["history"] == [0.5, None]
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]  # no temporary file stays
    write_checkpoint(path, record=record, weights=weights)
    assert read_checkpoint(path).training is None


def test_a_loaded_model_predicts_and_does_not_train(
    tmp_path: Path, trained: tuple[ModelRecord, dict[str, torch.Tensor]]
) -> None:
    record, weights = trained
    write_checkpoint(tmp_path / "a.pt", record=record, weights=weights)
    model = load_model(tmp_path / "a.pt")
    assert isinstance(model, TrainedModel)
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    patch = torch.zeros((1, record.num_channels, *record.configuration.patch_size))
    assert model.network(patch).shape == (1, record.labels.num_outputs, *record.configuration.patch_size)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=r"absent\.pt does not exist"):
        load_model(tmp_path / "absent.pt")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_file_is_named(
    tmp_path: Path, trained: tuple[ModelRecord, dict[str, torch.Tensor]], kept: float
) -> None:
    path = tmp_path / "cut.pt"
    write_checkpoint(path, record=trained[0], weights=trained[1])
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(ArtifactError, match=r"cut\.pt"):
        load_model(path)


class Surprise:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("code of a checkpoint was executed",))


@pytest.mark.parametrize(
    "content",
    [
        {"network_weights": {}},
        [1, 2],
        {"record": "{", "weights": {}},
        {"record": "[]", "weights": {}},
        {"record": Surprise(), "weights": {}},
    ],
)
def test_foreign_files_are_refused_and_not_executed(tmp_path: Path, content: object) -> None:
    path = tmp_path / "foreign.pt"
    torch.save(content, path)
    with pytest.raises(ArtifactError, match=r"foreign\.pt"):
        load_model(path)


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("not a checkpoint at all")
    with pytest.raises(ArtifactError, match=r"notes\.pt"):
        load_model(tmp_path / "notes.pt")


def test_a_newer_version_and_an_unknown_key_are_refused(
    tmp_path: Path, trained: tuple[ModelRecord, dict[str, torch.Tensor]]
) -> None:
    record, weights = trained
    path = tmp_path / "a.pt"
    write_checkpoint(path, record=replace(record, schema_version=99), weights=weights)
    with pytest.raises(ArtifactError, match=r"a\.pt has schema version 99"):
        load_model(path)
    write_checkpoint(path, record=record, weights=weights)
    content = torch.load(path, weights_only=True)
    content["record"] = json.dumps(json.loads(content["record"]) | {"mirror_axis": [0]})
    del content["sha256"]
    torch.save({**content, "sha256": content_digest(content)}, path)
    with pytest.raises(ArtifactError, match=r"a\.pt: mirror_axis is not a field; did you mean mirror_axes"):
        load_model(path)


def test_flipped_bits_are_refused_or_change_nothing(
    tmp_path: Path, trained: tuple[ModelRecord, dict[str, torch.Tensor]]
) -> None:
    """torch itself compares no checksums; some bytes between the entries of its zip mean nothing."""
    record, weights = trained
    path = tmp_path / "a.pt"
    write_checkpoint(path, record=record, weights=weights, training={"step": 3})
    original, refused = path.read_bytes(), 0
    for position in np.random.default_rng(3).integers(len(original), size=150):
        altered = bytearray(original)
        altered[position] ^= 1 << int(position) % 8
        path.write_bytes(altered)
        try:
            checkpoint = read_checkpoint(path)
        except ArtifactError as error:
            assert str(path) in str(error)  # noqa: PT017 - either is right
            refused += 1
            continue
        assert checkpoint.record == record
        assert checkpoint.training == {"step": 3}
        assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in weights.items())
    assert refused > 100


def test_weights_of_another_network_are_refused(
    tmp_path: Path, trained: tuple[ModelRecord, dict[str, torch.Tensor]]
) -> None:
    record, weights = trained
    write_checkpoint(tmp_path / "a.pt", record=replace(record, num_channels=5), weights=weights)
    with pytest.raises(ArtifactError, match="do not fit the network"):
        load_model(tmp_path / "a.pt")


def test_an_interrupted_write_leaves_the_previous_file(
    tmp_path: Path, trained: tuple[ModelRecord, dict[str, torch.Tensor]]
) -> None:
    record, weights = trained
    path = tmp_path / "a.pt"
    write_checkpoint(path, record=record, weights=weights)
    before = path.read_bytes()

    class Unwritable:
        def __reduce__(self) -> tuple[object, ...]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, record=record, weights=weights, training={"state": Unwritable()})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
