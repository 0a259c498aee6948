"""What every planner, present and future, must keep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.codec import read_json, write_json
from autoseg.dataset import Dataset
from autoseg.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.labels import LabelScheme
from autoseg.networks.factory import NETWORKS
from autoseg.plan import Plan
from autoseg.planning import PLANNERS, PlannerBudget

SEEDS = range(8)
PLANNING_PROGRAM = """
import sys
from pathlib import Path
from autoseg.codec import read_json
from autoseg.dataset import Dataset
from autoseg.fingerprint import Fingerprint
from autoseg.planning import PLANNERS, PlannerBudget

folder = Path(sys.argv[2])
dataset = read_json(Dataset, folder / "dataset.json")
fingerprint = read_json(Fingerprint, folder / "fingerprint.json")
assert PLANNERS.get(sys.argv[1])().plan(dataset, fingerprint, PlannerBudget()).configurations
print([name for name in sys.modules if name.split(".")[0] in ("torch", "SimpleITK", "matplotlib")])
"""
EXPLAINED = {"spacing", "patch_size", "batch_size", "network", "batch_dice", "normalization", "previous_stage"}


def random_fingerprint(seed: int) -> Fingerprint:
    """Cases of one kind of data; 2D for every fourth seed."""
    random = np.random.default_rng(seed)
    ndim = 2 if seed % 4 == 3 else 3
    spacing, shape = random.uniform(0.3, 4, ndim), random.integers(6, 500, ndim)
    cases = []
    for number in range(int(random.integers(2, 12))):
        size = tuple(int(n) for n in np.maximum(1, np.round(shape * random.uniform(0.8, 1.2, ndim))))
        cases.append(
            CaseFingerprint(
                id=f"case{number}",
                spacing=tuple(float(s) for s in spacing * random.uniform(0.7, 1.3, ndim)),
                shape=size,
                cropped_shape=size,
                orientation="SPL"[-ndim:],
            )
        )
    statistics = IntensityStatistics(
        mean=1.0, median=1.0, std=2.0, min=-9.0, max=9.0, percentile_00_5=-5.0, percentile_99_5=5.0
    )
    return Fingerprint(
        cases=tuple(cases),
        intensities=(statistics,) * 2,
        median_relative_size=float(random.uniform(0.3, 1)),
        orientation="SPL"[-ndim:],
    )


def dataset_for(fingerprint: Fingerprint) -> Dataset:
    return Dataset(
        root=Path(),
        name="Dataset001_Random",
        channels=("CT", "T1"),
        labels=LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="test"),
        file_ending=".nii.gz",
        declared_count=len(fingerprint.cases),
        training=(),
        test=(),
    )


def plan_with(name: str, seed: int) -> tuple[Plan, Fingerprint]:
    fingerprint = random_fingerprint(seed)
    budget = PlannerBudget(gpu_memory_gb=8.0, gpu_memory_source="test")
    return PLANNERS.get(name)().plan(dataset_for(fingerprint), fingerprint, budget), fingerprint


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PLANNERS.names())
def test_every_configuration_is_consistent(name: str, seed: int) -> None:
    plan, fingerprint = plan_with(name, seed)
    ndim = len(fingerprint.cases[0].spacing)
    assert plan.planner == name
    assert sorted(plan.transpose) == list(range(ndim))
    assert len(set(plan.configuration_names)) == len(plan.configurations)
    for configuration in plan.configurations:
        network = configuration.network
        assert all(p % d == 0 for p, d in zip(configuration.patch_size, network.divisor, strict=True))
        assert configuration.ndim == len(configuration.spacing) == len(configuration.median_shape) <= ndim
        assert configuration.batch_size >= 1
        assert len(configuration.normalization) == 2
        assert network.name in NETWORKS.names()
        assert configuration.previous_stage in (None, *plan.configuration_names)
        assert configuration.data in plan.configuration_names


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PLANNERS.names())
def test_every_decision_has_a_reason(name: str, seed: int) -> None:
    plan, _ = plan_with(name, seed)
    for configuration in plan.configurations:
        assert set(configuration.reasons) >= EXPLAINED
        assert all(len(reason) > 10 for reason in configuration.reasons.values())
    assert plan.notes


@pytest.mark.parametrize("name", PLANNERS.names())
def test_a_plan_survives_its_file(name: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        plan, _ = plan_with(name, seed)
        write_json(plan, tmp_path / "plan.json")
        assert read_json(Plan, tmp_path / "plan.json") == plan


@pytest.mark.parametrize("name", PLANNERS.names())
def test_planning_twice_gives_the_same(name: str) -> None:
    assert plan_with(name, 0)[0] == plan_with(name, 0)[0]


@pytest.mark.parametrize("name", PLANNERS.names())
def test_configurations_of_other_planners_are_marked(name: str) -> None:
    plan, _ = plan_with(name, 0)
    ending = "" if name == PLANNERS.names()[0] else f"@{name}"
    assert all(c.name.partition("@")[2] == ending.removeprefix("@") for c in plan.configurations)


@pytest.mark.parametrize("name", PLANNERS.names())
def test_planning_needs_no_torch(name: str, tmp_path: Path) -> None:
    """Workers and the command line would pay seconds for the import."""
    write_json(random_fingerprint(0), tmp_path / "fingerprint.json")
    write_json(dataset_for(random_fingerprint(0)), tmp_path / "dataset.json")
    arguments = [sys.executable, "-c", PLANNING_PROGRAM, name, str(tmp_path)]
    answer = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"
