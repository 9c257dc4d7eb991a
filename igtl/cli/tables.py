"""Tables in the terminal: nothing wraps, and what is too long gives way at the right end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from igtl.cli.terminal import styled

if TYPE_CHECKING:
    from rich.table import Table

Cell = str | tuple[str, str]
"""A text, or a text and its style."""


def table(
    titles: Sequence[str], rows: Sequence[Sequence[Cell]], *, left: int, width: int,
    trim: bool = False,
) -> Table:  # fmt: skip
    """A table.

    Args:
        left: so many columns are of text, the others of numbers.
        width: of the terminal.
        trim: the last column is text too, cut to what is left of the width.
    """
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD, header_style="bold cyan", padding=(0, 1, 0, 0), pad_edge=False)
    texts = [[styled(cell) for cell in row] for row in rows]
    widths = [max([len(t), *(row[n].cell_len for row in texts)]) for n, t in enumerate(titles)]
    room = width - sum(w + 2 for w in widths[:-1]) - 3
    for n, title in enumerate(titles):
        last = trim and n == len(titles) - 1
        out.add_column(
            title, justify="left" if n < left or last else "right", no_wrap=True,
            width=max(4, min(widths[n], room)) if last else None, overflow="ellipsis",
        )  # fmt: skip
    for row in texts:
        out.add_row(*row)
    return out


def counted(number: int) -> Cell:
    """A number that should be 0."""
    return (str(number), "red") if number else "0"
