"""What the commands print.

All of it passes here: a peer chooses its names and texts, and none of them may control the
terminal, look like a line of ours, or be taken for markup. What the encoding of an output lacks is
written in characters that it has.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from igtl.cli import is_utf
from igtl.codec.formatting import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def fitted(text: str) -> str:
    """Return a text of one line as the output can show it: so that its width is known before."""
    text = printable(text)
    stdout = getattr(sys.stdout, "rich_proxied_file", sys.stdout)  # while a picture is drawn
    encoding = getattr(stdout, "encoding", None) or "utf-8"
    if text.isascii() or is_utf(encoding):
        return text
    try:
        return text.encode(encoding, "igtl").decode(encoding)
    except LookupError:  # the encoding is unknown, or `tolerate` has not been called
        return text


def echo(*lines: str) -> None:
    """Print lines on standard output."""
    for line in lines:
        click.echo(printable(line), file=sys.stdout)


def report(*lines: str) -> None:
    """Print lines for a person on standard output, broken between words where it is a terminal."""
    for line in lines:
        echo(*wrapped(line, stdout=True).split("\n"))


def width() -> int | None:
    """Columns of the terminal; None if standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(text: str, *, stdout: bool = False) -> str:
    """Return a text for standard error, broken between words where that is a terminal.

    Args:
        text: of one or several lines; the parts of a line begin where it does.
        stdout: it is for standard output.
    """
    if not (sys.stdout if stdout else sys.stderr).isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return "\n".join(
        part
        for line in text.split("\n")
        for part in textwrap.wrap(
            line, columns, break_long_words=False, break_on_hyphens=False, replace_whitespace=False,
            subsequent_indent=line[: len(line) - len(line.lstrip(" "))],
        ) or [""]
    )  # fmt: skip


def size(number: int) -> str:
    """Return a number of bytes in words: 89 bytes, 12.3 kB, 52.4 MB."""
    if number < 1000:
        return f"{number} bytes"
    return f"{number / 1e3:.1f} kB" if number < 999_950 else f"{number / 1e6:,.1f} MB"


def first_that_fits(*texts: str) -> str:
    """Return the first of these lines that the terminal has room for.

    Of the last one as much as fits.

    The first in full if standard output is no terminal.
    """
    columns = width()
    if columns is None:
        return texts[0]
    for text in map(fitted, texts):
        if len(text) <= columns:
            return text
    end = fitted("…")
    return text[: columns - len(end)].rsplit(" ", 1)[0] + end


def say(text: str) -> None:
    """Print a line on standard error, above what is drawn there."""
    click.echo(wrapped(printable(text)), file=sys.stderr)  # what draws has put itself there


def console(*, stderr: bool = False) -> Console:
    """Return a console for what is drawn; its texts come from `styled`."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def waiting(what: str) -> AbstractContextManager[object]:
    """Says what the command does until the end of the block, on standard error if that is a
    terminal.
    """
    shown = console(stderr=True)
    return shown.status(styled(what)) if shown.is_terminal else nullcontext()


def styled(*parts: str | tuple[str, str]) -> Text:
    """One line of texts, or texts with their styles."""
    from rich.text import Text

    return Text.assemble(
        *(fitted(part) if isinstance(part, str) else (fitted(part[0]), part[1]) for part in parts)
    )
