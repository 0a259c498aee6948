"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference outputs and real images that lie beside the checkout; tests that need them skip where they do not."""
    if not _SHARED.is_dir():
        pytest.skip(f"needs the reference data in {_SHARED.name}/ beside the checkout")
    return _SHARED


@pytest.fixture(scope="session")
def hippocampus(shared_dir: Path) -> Path:
    """100 labelled and 20 test MRIs of the hippocampus (Medical Segmentation Decathlon, task 4)."""
    return shared_dir / "data" / "hippocampus"
