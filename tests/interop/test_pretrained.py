"""Fine-tuning: from autoseg's checkpoints and from nnU-Net's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from autoseg.cli.main import app
from autoseg.codec import read_json
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.inference.model import read_checkpoint
from autoseg.interop.nnunet_checkpoint import read_nnunet_checkpoint
from autoseg.interop.nnunet_reading import read_plans
from autoseg.interop.pretrained import load_pretrained
from autoseg.networks.factory import build_network
from autoseg.networks.transfer import transfer
from autoseg.training import RunRecord
from autoseg.workspace import Workspace

SHORT = ["--iterations", "2", "--set", "validation_iterations=1", "--device", "cpu", "--workers", "0"]
GOLDEN = "golden/models/Dataset901_AnisoCT__nnUNetPlans__3d_fullres/model"


def run(*words: str | Path, expected: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == expected, result.output
    return result


def test_a_run_begins_with_the_weights_of_another_and_says_so(workspace: Workspace, tmp_path: Path) -> None:
    run("train", "2d", "all", "-w", workspace.root, *SHORT)
    source = tmp_path / "pretrained.pt"
    shutil.copy(workspace.run("2d", "all").final, source)
    tuned = ["train", "2d", "fold0", "-w", workspace.root, *SHORT, "--as", "tuned"]
    # A learning rate that changes nothing: the run ends with what it began with.
    tuned += ["--set", "learning_rate=1e-30"]
    result = run(*tuned, "--pretrained", source)
    assert "weights from" in result.output
    paths = workspace.run("2d@tuned", 0)
    before, after = read_checkpoint(source).weights, read_checkpoint(paths.final).weights
    assert all(torch.equal(before[name], after[name]) for name in before)
    report = json.loads(paths.transfer_report.read_text())
    assert sorted(report["taken"]) == sorted(before)
    recorded = read_json(RunRecord, workspace.run_record_path("2d@tuned")).settings.pretrained
    assert recorded is not None
    assert recorded.startswith("pretrained.pt ")
    # Another fold must begin with the same weights.
    tuned[2] = "fold1"
    refused = run(*tuned, expected=2)
    assert "pretrained pretrained.pt" in " ".join(refused.output.split())


def test_nnunets_weights_are_read(shared_dir: Path) -> None:
    path = next((shared_dir / GOLDEN).glob("fold_*/checkpoint_final.pth"))
    pretrained = load_pretrained(path)
    checkpoint = read_nnunet_checkpoint(path)
    plan = read_plans(checkpoint.plans, checkpoint.dataset, configurations=[checkpoint.configuration])
    network = build_network(
        plan.configurations[0].network, num_channels=len(plan.channels), num_outputs=plan.labels.num_outputs
    )
    report = transfer(pretrained, network, plan.labels)
    assert set(report.taken) == set(network.state_dict())
    assert not report.unused
    assert pretrained.identity == load_pretrained(path).identity


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match="does not exist"):
        load_pretrained(tmp_path / "none.pt")
    torch.save({"weights": 3}, tmp_path / "foreign.pt")
    with pytest.raises(ArtifactError, match="holds no weights to begin with"):
        load_pretrained(tmp_path / "foreign.pt")
