from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.dataset import Case
from autoseg.dataset.kept import KEPT_CASES
from autoseg.errors import DatasetError
from autoseg.image import Image, Segmentation, write_image, write_segmentation
from autoseg.plan import Plan
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.job import PreprocessJob, PreprocessTarget, preprocess_file
from autoseg.preprocessing.store import CaseStore, is_complete


def test_files_in_files_out(
    tmp_path: Path, make_plan: Callable[..., Plan], make_case: Callable[..., tuple[Image, Segmentation]]
) -> None:
    image, segmentation = make_case()
    write_image(tmp_path / "a_0000.nii.gz", image)
    write_segmentation(tmp_path / "a.nii.gz", segmentation)
    plan = make_plan(spacing=(0.8, 1.1, 1.0))
    job = PreprocessJob(
        case=Case(id="a", images=(tmp_path / "a_0000.nii.gz",), label=tmp_path / "a.nii.gz"),
        plan=plan,
        targets=tuple(
            PreprocessTarget(configuration=plan.configurations[0], folder=tmp_path / name, digest=f"made from {name}")
            for name in ("one", "two")
        ),
    )
    assert preprocess_file(pickle.loads(pickle.dumps(job))) == "a"
    expected = preprocess_case("a", image, segmentation, plan, plan.configurations[0])
    for target in job.targets:
        assert is_complete(target.folder, "a", target.digest)
        stored = CaseStore(target.folder).open("a").load()
        np.testing.assert_array_equal(stored.image, expected.image)
        np.testing.assert_array_equal(stored.segmentation, expected.segmentation)


def test_a_kept_case_is_not_read_again(
    tmp_path: Path, make_plan: Callable[..., Plan], make_case: Callable[..., tuple[Image, Segmentation]]
) -> None:
    image, segmentation = make_case()
    case = Case(id="a", images=(tmp_path / "absent.nii.gz",), label=tmp_path / "absent.nii.gz")
    plan = make_plan(spacing=(0.8, 1.1, 1.0))
    target = PreprocessTarget(configuration=plan.configurations[0], folder=tmp_path, digest="")
    assert KEPT_CASES.keep(case, image, segmentation, limit=2**30)
    preprocess_file(PreprocessJob(case=case, plan=plan, targets=(target,)))
    expected = preprocess_case("a", image, segmentation, plan, plan.configurations[0])
    np.testing.assert_array_equal(CaseStore(tmp_path).open("a").load().image, expected.image)
    assert KEPT_CASES.num_bytes == 0


def test_unreadable_files_are_named(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    (tmp_path / "a_0000.nii.gz").write_bytes(b"no image")
    plan = make_plan()
    job = PreprocessJob(
        case=Case(id="a", images=(tmp_path / "a_0000.nii.gz",)),
        plan=plan,
        targets=(PreprocessTarget(configuration=plan.configurations[0], folder=tmp_path, digest=""),),
    )
    with pytest.raises(DatasetError, match=r"a_0000\.nii\.gz "):
        preprocess_file(job)


def test_workers_do_not_pay_for_torch() -> None:
    program = (
        "import sys, autoseg.check, autoseg.measurement, autoseg.preprocessing.job;"
        "sys.exit(', '.join({'torch', 'monai', 'matplotlib', 'acvl_utils'} & set(sys.modules)) or None)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
