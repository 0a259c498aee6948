"""Entry point: registers the commands and runs the application."""

from __future__ import annotations

import os
import signal
import sys

from autoseg.cli import (
    check,
    compare,
    demo,
    doctor,
    ensemble,
    ensemble_predict,
    evaluate,
    explore,
    export,
    gap,
    interop,
    plan,
    plan_and_preprocess,
    postprocess,
    preset,
    report,
    select,
    serve,
    train,
)
from autoseg.cli.app import app, insistent_interrupts, tell_interrupted

__all__ = ["app", "main"]

# Imported for their registration.
_COMMANDS = (
    plan_and_preprocess,
    check,
    compare,
    plan,
    train,
    preset,
    ensemble_predict,
    ensemble,
    postprocess,
    serve,
    select,
    evaluate,
    explore,
    export,
    gap,
    report,
    interop,
    doctor,
    demo,
)


def main() -> None:
    """Run the command line."""
    # On a CPU that others use as well, threads that spin at barriers wait for each other's time slices: measured on
    # two busy cores, a training step takes half as long when they sleep instead. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with insistent_interrupts():
            app(prog_name="autoseg")
    except KeyboardInterrupt:  # before a command began
        sys.exit(tell_interrupted())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: taking the modules apart need not be interrupted
