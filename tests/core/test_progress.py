"""core.progress: one bar in every terminal, and lines of the log above it."""

from __future__ import annotations

import io
import logging

import pytest
from rapiddraw.cli import _logging_to_stderr
from rapiddraw.core import progress
from rapiddraw.core.progress import Progress, TerminalReporter


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A function that puts a terminal in the place of stderr; pytest gives stderr back between the set-up and the test."""
    return lambda: replaced(monkeypatch)


def replaced(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(progress, "_make_reporter", TerminalReporter)
    monkeypatch.setattr(TerminalReporter, "_open", [])
    return shown


def test_a_bar_inside_another_is_not_drawn(terminal):
    terminal = terminal()
    with Progress(2, "outer") as outer:
        for _ in range(2):
            with Progress(3, "inner") as inner:
                inner.update(3)
            outer.update()
    assert "outer" in terminal.getvalue() and "inner" not in terminal.getvalue()
    assert "\x1b[A" not in terminal.getvalue() and "\n\n" not in terminal.getvalue(), "the cursor never moves up"
    with Progress(1, "next") as bar:
        bar.update()
    assert "next" in terminal.getvalue()


def test_a_line_of_the_log_stands_alone_and_the_bar_below_it(terminal):
    terminal = terminal()
    with _logging_to_stderr(verbose=False), Progress(5, "train") as bar:
        bar.update(2)
        logging.getLogger("rapiddraw").warning("the disk is nearly full")
        bar.update()
    before, line, after = terminal.getvalue().partition("WARNING: the disk is nearly full\n")
    assert line and before.endswith("\r") and "train" in after


def test_where_no_terminal_is_nothing_is_drawn(terminal, monkeypatch):
    terminal()
    plain = io.StringIO()
    monkeypatch.setattr("sys.stderr", plain)
    with Progress(2, "outer") as bar, TerminalReporter.aside():
        bar.update(2)
    assert plain.getvalue() == ""
