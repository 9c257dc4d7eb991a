"""What the commands print.

All of it passes here: a peer chooses its names and texts, and none of them may control the
terminal, look like a line of ours, or be taken for markup. What the encoding of an output lacks is
written in characters that it has.
"""

from __future__ import annotations

import shutil
import sys
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
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
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


def width() -> int | None:
    """Columns of the terminal; None if standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


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
    click.echo(printable(text), file=sys.stderr)  # what draws has put itself there


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
