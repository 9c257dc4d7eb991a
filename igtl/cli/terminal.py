"""What the commands print. All of it passes here: a peer chooses its names and texts, and none of
them may steer the terminal, look like a line of ours, or be taken for markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from igtl.codec.formatting import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def echo(*lines: str) -> None:
    """On standard output, each a line."""
    for line in lines:
        click.echo(printable(line))


def say(text: str) -> None:
    """A line on standard error."""
    click.echo(printable(text), err=True)


def console(*, stderr: bool = False) -> Console:
    """For what is drawn; its texts come from `styled`."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """One line of texts, or texts with their styles."""
    from rich.text import Text

    return Text.assemble(
        *(
            printable(part) if isinstance(part, str) else (printable(part[0]), part[1])
            for part in parts
        )
    )
