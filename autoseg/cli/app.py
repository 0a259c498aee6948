"""The application object, and the frame around every command: common options and errors as exit codes."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from autoseg.cli.console import errors, messages
from autoseg.errors import AutosegError, CasesFailedError, WorkerError
from autoseg.memory import in_gigabytes, is_out_of_memory, memory_state, own_peak

EXIT_SOME_FAILED = 1
EXIT_WRONG_USE = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
_INTERRUPT_AGAIN_SECONDS = 2.0

app = typer.Typer(
    name="autoseg",
    help="Images and labels in, the best segmentation model out, without tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_COMMON = {
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and results only.")],
}


def command(name: str, *, group: typer.Typer = app) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command, give it ``--debug`` and ``--quiet``, and turn its errors into exit codes.

    Args:
        name: Name on the command line.
        group: Application or sub-application.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def framed(*, debug: bool = False, quiet: bool = False, **arguments: Any) -> None:  # noqa: ANN401
            messages.quiet = quiet
            raise typer.Exit(_run(functools.partial(function, **arguments), debug=debug))

        # typer reads the options from the signature.
        signature = inspect.signature(function, eval_str=True)
        common = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            for key, kind in _COMMON.items()
        ]
        framed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *common])  # type: ignore[attr-defined]
        framed.__annotations__ = {p.name: p.annotation for p in framed.__signature__.parameters.values()}  # type: ignore[attr-defined]
        group.command(name)(framed)
        return function

    return register


def _run(action: Callable[[], None], *, debug: bool) -> int:
    """Do it; every failure becomes one sentence on standard error and an exit code."""
    try:
        with insistent_interrupts():
            action()
    except typer.Exit as chosen:
        return chosen.exit_code
    except CasesFailedError as error:
        return _fail(error, EXIT_SOME_FAILED, debug=debug)
    except AutosegError as error:
        if debug and isinstance(error, WorkerError) and error.details:
            errors.print(error.details, markup=False, highlight=False)
        return _fail(error, EXIT_WRONG_USE, debug=debug)
    except KeyboardInterrupt:
        return tell_interrupted()
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last net: a defect, told as one
        if is_out_of_memory(error):
            return _fail(AutosegError(_memory_ran_out()), EXIT_WRONG_USE, debug=debug)
        code = _fail(error, EXIT_INTERNAL, debug=debug)
        if not debug:
            errors.print("This is a defect of autoseg. Repeat the command with --debug and report the traceback.")
        return code
    return 0


def tell_interrupted() -> int:
    """Say what to do after Ctrl-C; the exit code is returned."""
    errors.print("Interrupted. The same command goes on where this one stopped.")
    return EXIT_INTERRUPTED


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Repeat an interrupt that did not end the block: Python ignores what is raised while it tidies up an object."""
    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield
        return
    again: list[threading.Timer] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        timer = threading.Timer(_INTERRUPT_AGAIN_SECONDS, _interrupt_main_thread, [number])
        timer.daemon = True
        timer.start()
        again.append(timer)
        raise KeyboardInterrupt

    def tell(unraisable: Any) -> None:  # noqa: ANN401 - the interpreter's own type has no name
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):  # which comes again; its traceback says nothing
            told_before(unraisable)

    before, told_before = signal.signal(signal.SIGINT, interrupt), sys.unraisablehook
    sys.unraisablehook = tell
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = told_before
        for timer in again:
            timer.cancel()


def _interrupt_main_thread(number: int) -> None:
    """Send a signal so that it also ends a wait; one that another thread raises is looked at after the wait."""
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)
    else:  # Windows
        signal.raise_signal(number)


def _memory_ran_out() -> str:
    state = memory_state()
    return (
        f"memory ran out: this process took up to {in_gigabytes(own_peak())}; {in_gigabytes(state.available)} of "
        f"{in_gigabytes(state.total)} are free ({state.limited_by}). Use fewer processes (--workers 0) or raise the "
        "limit (ulimit -v, the batch system's); the same command goes on where this one stopped"
    )


def _fail(error: BaseException, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    text = str(error) if isinstance(error, AutosegError) else f"{type(error).__name__}: {error}"
    errors.print(f"Error: {text}", style="bold red", markup=False, highlight=False)
    return code
