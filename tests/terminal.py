"""A terminal, as small as the screens of `igtl` need it, and the command in it, in this process."""

from __future__ import annotations

import contextlib
import gc
import io
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from igtl.cli import main
from igtl.log import logger

_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")
_COLOUR = re.compile(r"(?:^|;)(?:[349]\d|10\d)(?:;|$)")


class Terminal:
    """What a terminal shows: all lines since the beginning, those that have scrolled away too.

    It knows the few sequences that rich and click write, and fails on any other.

    Args:
        columns: characters of a line; what is longer goes on in the next one.
        lines: of the screen; the cursor goes up to the first of these.

    Attributes:
        coloured: a colour was written.
        wrapped: the beginnings of lines that were longer than the screen is wide.
    """

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.columns = columns
        self.lines = lines
        self.coloured = False
        self.wrapped: list[str] = []
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self._broken: dict[int, list[str]] = {}  # rows that go on in the next one
        self._main: Any = None  # the rows and the cursor under the alternate screen
        self._rest = ""  # of a sequence that is not complete

    def feed(self, text: str) -> None:
        """Show more text."""
        text, self._rest = self._rest + text, ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                if found is None:
                    new = text.find("\x1b", at + 1)
                    if 0 < new - at < 16:  # ends one that Ctrl-C has cut, as in a terminal
                        at = new
                        continue
                    assert len(text) - at < 16, f"unknown sequence {text[at : at + 16]!r}"
                    self._rest = text[at:]
                    return
                self._obey(found[1], found[2])
                at = found.end()
                continue
            self._show(text[at])
            at += 1

    @property
    def text(self) -> str:
        """All lines, without spaces at their ends; one that is longer than the screen is wide is one."""
        lines = [
            "".join(row) if row is self._broken.get(n) else "".join(row).rstrip() + "\n"
            for n, row in enumerate(self._rows)
        ]
        text = "".join(lines).rstrip("\n")
        return f"{text}\n" if text else ""

    def _show(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self._rows):
                self._rows.append([])
        else:
            assert character.isprintable(), f"{character!r} is no character of a screen"
            if self._column == self.columns:
                self.wrapped.append("".join(self._rows[self._row]))
                self._broken[self._row] = self._rows[self._row]
                self._show("\n")
            row = self._rows[self._row]
            row += " " * (self._column + 1 - len(row))
            row[self._column] = character
            self._column += 1

    def _obey(self, numbers: str, letter: str) -> None:
        if letter == "m":
            self.coloured = self.coloured or bool(_COLOUR.search(numbers))
        elif letter == "A":
            top = max(0, len(self._rows) - self.lines)
            self._row = max(top, self._row - int(numbers or 1))
        elif letter == "K":
            del self._rows[self._row][0 if numbers == "2" else self._column :]
        elif letter == "H":
            self._row = self._column = 0
        elif letter == "J":
            self._rows = [*self._rows[: self._row], []]
        elif numbers == "?1049" and letter == "h":
            self._main = self._rows, self._row, self._column
            self._rows, self._row, self._column = [[]], 0, 0
        elif numbers == "?1049" and letter == "l":
            self._rows, self._row, self._column = self._main
        else:
            assert numbers == "?25", f"unknown sequence {numbers}{letter}"  # the cursor


class _Device(io.RawIOBase):
    """The end of a terminal or a pipe into which a command writes."""

    def __init__(self, screen: Terminal, charset: str, tty: bool, wrote: Callable[[], None]):
        self._screen, self._charset, self._tty, self._wrote = screen, charset, tty, wrote

    def isatty(self) -> bool:
        return self._tty

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._screen.feed(bytes(data).decode(self._charset))
        self._wrote()
        return len(data)


class Session:
    """One command in a terminal, or with both its outputs in one pipe.

    Args:
        monkeypatch: sets the environment.
        columns, lines, charset: of the terminal; the lines of a pipe have no limit.
        tty: it is a terminal.
        on: called with the first match of each of these patterns in what is shown, in a thread.
            `Session.press` presses Ctrl-C.
        environment: of the command.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, columns: int = 80, lines: int = 24,
        charset: str = "utf-8", tty: bool = False, **environment: str,
    ) -> None:  # fmt: skip
        self.terminal = Terminal(columns if tty else 1 << 20, lines)
        self._patch = monkeypatch
        self._runs = True
        self._charset = charset
        self._tty = tty
        self._on: dict[re.Pattern[str], Callable[[re.Match[str]], None]] = {}
        self._before = ""
        self._lock = threading.Lock()
        self._acts: list[threading.Thread] = []
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "PYTHONIOENCODING"):
            monkeypatch.delenv(name, raising=False)
        size = {"COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm"}
        for name, value in {**size, **environment}.items():
            monkeypatch.setenv(name, value)

    def on(self, pattern: str, act: Callable[[re.Match[str]], None]) -> None:
        """Call this, in a thread, with the first match of a pattern in what is shown."""
        self._on[re.compile(pattern.replace(" ", r"\s+"))] = act

    def press(self, *_: object) -> None:
        """Press Ctrl-C while the command waits: not while it draws, where a person rarely hits.

        What is shown before is kept.
        """
        while self._runs and any(
            module.startswith("rich") or function == "write" for module, function in _calls()
        ):
            time.sleep(0.001)
        if not self._runs:  # it has ended by itself
            return
        self._before = self.terminal.text
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def after(self, number: int, told: str = "") -> None:
        """Press Ctrl-C when the command has dealt with so many messages of its source, and
        has told this."""
        from igtl.cli.sources import Source

        def counted(make: Any) -> Any:
            def wrapped(source: Source) -> Iterator[Any]:
                for n, found in enumerate(make(source)):
                    yield found
                    if n == number - 1 and self._runs:  # not those of the next session
                        # another thread tells of the connection
                        while not (_waits() and told in self.terminal.text):
                            time.sleep(0.001)
                        self.press()

            return wrapped

        for name in ("messages", "frames"):
            self._patch.setattr(Source, name, counted(getattr(Source, name)))

    def run(self, *args: str) -> str:
        """What is shown at the end of a command, after what was shown at Ctrl-C, and the exit code."""
        handlers, level = list(logger.handlers), logger.level
        device = _Device(self.terminal, self._charset, self._tty, self._wrote)
        code: Any = 0
        with (
            io.TextIOWrapper(device, self._charset, write_through=True) as out,
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), _patient(),
        ):  # fmt: skip
            try:
                main.main(args, prog_name="igtl")
            except SystemExit as end:
                code = end.code
            finally:
                self._runs = False
                for thread in self._acts:  # a Ctrl-C of theirs is not for the next test
                    thread.join()
                logger.handlers[:] = handlers
                logger.setLevel(level)
        shown = self.terminal.text
        if self._before:
            shown = f"{self._before}^C\n{shown.removeprefix(self._before)}"
        return f"{shown}exit code {code}\n"

    def _wrote(self) -> None:
        with self._lock:
            if not self._on:
                return
            shown = self.terminal.text
            for pattern in list(self._on):
                if found := pattern.search(shown):
                    act = self._on.pop(pattern)
                    self._acts.append(threading.Thread(target=act, args=(found,)))
                    self._acts[-1].start()


def _waits() -> bool:
    """Whether the main thread does what lasts until Ctrl-C; or it receives, and this is called there."""
    if threading.main_thread() is threading.current_thread():
        return True
    names = _calls()
    return bool(names & {("igtl.tools.rate", "__next__"), ("igtl.ros.node", "spin")}) or (
        ("threading", "wait") in names and ("threading", "start") not in names  # of a thread
    )


def _calls() -> set[tuple[str, str]]:
    """The modules and functions that the main thread is in.

    Where CPython looks for them in 3.11, a collection of garbage blocks the whole interpreter
    (its issue 106883).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
    finally:
        if collects:
            gc.enable()
    return {(f.f_globals["__name__"], f.f_code.co_name) for f, _ in traceback.walk_stack(frame)}


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """A Ctrl-C that comes after the end of a command does not end the tests."""
    before = signal.signal(signal.SIGINT, lambda *args: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
