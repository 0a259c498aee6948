"""Settings for tests that compute a lot of little."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small convolutions are faster without the hand-over to other threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=1, help="seeds of the tasks that networks learn; published are 3")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tasks that take training run with seed 0 in the suite, and with more of them when asked: --seeds 3."""
    if "task_seed" in metafunc.fixturenames:
        metafunc.parametrize("task_seed", range(metafunc.config.getoption("--seeds", default=1)))
