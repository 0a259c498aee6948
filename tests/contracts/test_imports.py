"""Starting is quick, and preprocessing workers are cheap: what does not compute with torch does not import it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLOW_PACKAGES = ("torch", "monai", "matplotlib")

# Imports each module in turn and says after which one a slow package had been loaded.
PROGRAM = """
import importlib, json, sys
slow, found = {slow!r}, {{}}
for module in {modules!r}:
    importlib.import_module(module)
    for package in slow:
        if package in sys.modules and package not in found:
            found[package] = module
print(json.dumps(found))
"""


def modules_in(folder: str, package: str) -> list[str]:
    """Full names of the modules in a folder of the tree, the package itself first."""
    names = sorted(path.stem for path in (ROOT / folder).glob("*.py"))
    return [package if name == "__init__" else f"{package}.{name}" for name in names]


LIGHT = {
    "the package and its core": [
        name
        for name in modules_in("autoseg", "autoseg")
        if name not in ("autoseg.device", "autoseg.communication")  # these ask torch
    ],
    "the command line": modules_in("autoseg/cli", "autoseg.cli"),
    "planners": modules_in("planners", "autoseg.planners"),
    "what planning knows of networks": ["autoseg.networks.catalog", "autoseg.networks.options"],
    "preprocessing": modules_in("autoseg/preprocessing", "autoseg.preprocessing"),
    "planning and preprocessing as one command": ["autoseg.pipeline.prepare"],
    "metrics and reports": ["autoseg.evaluation.metrics", "autoseg.evaluation.report"],
    "postprocessing": modules_in("autoseg/postprocessing", "autoseg.postprocessing"),
    "pictures": modules_in("autoseg/figures", "autoseg.figures"),
}


@pytest.mark.parametrize("area", LIGHT)
def test_importing_it_loads_no_slow_package(area: str) -> None:
    assert LIGHT[area], f"no module found for {area}"
    program = PROGRAM.format(slow=SLOW_PACKAGES, modules=LIGHT[area])
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == {}, "slow package -> first module that loads it"


def test_the_check_sees_a_slow_package() -> None:
    program = PROGRAM.format(slow=("colorsys",), modules=["json", "colorsys", "csv"])
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == {"colorsys": "colorsys"}


@pytest.mark.parametrize("arguments", [["--help"], ["plan-and-preprocess", "--help"], ["train", "--help"]])
def test_help_appears_without_a_slow_package(arguments: list[str]) -> None:
    program = (
        "import json, sys\n"
        f"sys.argv = ['autoseg', *{arguments!r}]\n"
        "from autoseg.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"print(json.dumps([p for p in {SLOW_PACKAGES!r} if p in sys.modules]))\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *usage, loaded = answer.stdout.strip().splitlines()
    assert "Usage: autoseg" in "\n".join(usage)
    assert json.loads(loaded) == []
