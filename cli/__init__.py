"""Commands of `python -m rapiddraw`, one file each with `add_parser(subparsers)` and `run(args) -> exit code`.

Exit codes: 0 done, 1 failed, 2 wrong usage or an invalid graph, 130 stopped with Ctrl-C. Every failure is one line on stderr; `-v` adds
where it happened. The first Ctrl-C asks the work to stop at its next step, so that no file is left half written; the second stops at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from ..core.errors import Cancelled, GraphError, RapidDrawError
from ..core.progress import TerminalReporter, clear_cancel, request_cancel
from .common import note

log = logging.getLogger("rapiddraw")
COMMANDS = ("run", "validate", "profile", "nodes", "convert", "inspect", "train", "data", "knowledge", "bench", "serve")
DONE, FAILED, INVALID, STOPPED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Only that command's file is imported; none imports torch to show its help."""
    arguments = _verbose_first(sys.argv[1:] if argv is None else argv)
    try:
        parsed = _parser(arguments).parse_args(arguments)
    except SystemExit as stop:  # argparse has said what is wrong, or has shown the help
        return stop.code if isinstance(stop.code, int) else FAILED
    parsed.arguments = arguments
    with _logging_to_stderr(parsed.verbose), _interruptible():
        try:
            code = parsed.execute_command(parsed)
            sys.stdout.flush()
            return DONE if code is None else code
        except (Cancelled, KeyboardInterrupt):
            note("stopped")
            return STOPPED
        except BrokenPipeError:  # the reader has gone, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except RapidDrawError as error:
            log.debug("where it happened", exc_info=True)
            note(f"error: {error}")
            return INVALID if isinstance(error, GraphError) else FAILED
        except OSError as error:  # a file that another library cannot read or write
            log.debug("where it happened", exc_info=True)
            note(f"error: {error.filename or parsed.command}: {error.strerror or error}")
            return FAILED
        except Exception as error:
            log.debug("where it happened", exc_info=True)
            reason = " ".join(str(error).split())[:300]
            note(f"error: unexpected {type(error).__name__} ({reason}). This is a fault of RapidDraw: please report it with what -v shows")
            return FAILED


def _verbose_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with -v or --verbose, wherever it stands, before the command."""
    flags = [argument for argument in arguments if argument in ("-v", "--verbose")]
    return flags + [argument for argument in arguments if argument not in ("-v", "--verbose")]


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rapiddraw",
        description="Draw pictures from saved ComfyUI graphs, without ComfyUI; train and check the models behind them.",
        epilog="example: python -m rapiddraw run workflows/api/text_to_image.json --output out",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more, and where an error came from")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    for command in [named] if named in COMMANDS else COMMANDS:
        try:
            module = importlib.import_module(f".{command}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{command}":
                raise
            continue
        module.add_parser(subparsers)
        subparsers.choices[command].set_defaults(execute_command=module.run)
    return parser


class _AroundTheBar(logging.StreamHandler[TextIO]):
    """Lines of the log on stderr, above a progress bar that is shown meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        with TerminalReporter.aside():
            super().emit(record)


@contextlib.contextmanager
def _logging_to_stderr(verbose: bool) -> Iterator[None]:
    handler, before = _AroundTheBar(), log.level
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the first Ctrl-C into a request to stop. Off the main thread signals are not ours to handle."""

    def ask(number: int, frame: object) -> None:
        request_cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stderr.write("\nstopping at the next step (Ctrl-C again to stop at once)\n")

    clear_cancel()
    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        clear_cancel()
