"""Entry point: registers the commands and runs the application."""

from __future__ import annotations

from autoseg.cli import demo, ensemble_predict, evaluate, plan_and_preprocess, select, train
from autoseg.cli.app import app

__all__ = ["app", "main"]

_COMMANDS = (plan_and_preprocess, train, ensemble_predict, select, evaluate, demo)  # imported for their registration


def main() -> None:
    """Run the command line."""
    app(prog_name="autoseg")
