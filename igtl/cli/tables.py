"""Tables in the terminal: nothing wraps, no number is cut.

Where the terminal is too narrow columns give way as a whole, then texts at their right end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from igtl.cli import is_utf
from igtl.cli.terminal import styled

if TYPE_CHECKING:
    from rich.table import Table

Cell = str | tuple[str, str]
"""A text, or a text and its style."""

_ROOM = 20  # characters that a text gets before other columns do
_LEAST = 6  # to which it is cut where the width does not suffice


def table(
    titles: Sequence[str], rows: Sequence[Sequence[Cell]], *, left: int, width: int,
    trim: bool = False, drop: Sequence[str] = (),
) -> Table:  # fmt: skip
    """Return a table.

    Args:
        titles: of the columns.
        rows: of cells.
        left: so many columns are of text, the others of numbers.
        width: of the terminal.
        trim: the last column is text too, cut to what is left of the width.
        drop: titles of the columns that are left out where the width does not suffice for all, the
            least important first. Others than those of the table are ignored.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    texts = [[styled(cell) for cell in row] for row in rows]
    wanted = [max([len(t), *(row[n].cell_len for row in texts)]) for n, t in enumerate(titles)]
    is_text = [n < left or (trim and n == len(titles) - 1) for n in range(len(titles))]
    widths = [min(w, _ROOM) if text else w for w, text in zip(wanted, is_text, strict=True)]
    room = width - 1  # each column takes 2 more than its width
    shown = {n for n, title in enumerate(titles) if title not in drop}
    room -= sum(widths[n] + 2 for n in shown)
    for n in sorted(set(range(len(titles))) - shown, key=lambda n: -drop.index(titles[n])):
        if widths[n] + 2 <= room:
            shown.add(n)
            room -= widths[n] + 2
    for n in sorted(shown):  # what is left goes to the texts, and what lacks is taken from them
        if is_text[n]:
            more = max(min(room, wanted[n] - widths[n]), min(0, _LEAST - widths[n]))
            widths[n] += more
            room -= more
    cut = "ellipsis" if is_utf(Console().encoding) else "crop"
    out = Table(box=box.SIMPLE_HEAD, header_style="bold cyan", padding=(0, 1, 0, 0), pad_edge=False)
    for n in sorted(shown):
        out.add_column(
            titles[n], justify="left" if is_text[n] else "right", no_wrap=True,
            width=widths[n], overflow=cut,  # type: ignore[arg-type]
        )  # fmt: skip
    for row in texts:
        out.add_row(*(row[n] for n in sorted(shown)))
    return out


def explain(table: Table, **meanings: str) -> str:
    """Explain the titles that are shown: "jitter, age in ms; CRC: wrong ones".

    Args:
        table: with these titles.
        meanings: by title; titles of the same meaning stand together.
    """
    there = [str(column.header) for column in table.columns]
    said: dict[str, list[str]] = {}
    for title, meaning in meanings.items():
        if title in there:
            said.setdefault(meaning, []).append(title)
    return "; ".join(f"{', '.join(titles)}: {meaning}" for meaning, titles in said.items())


def counted(number: int) -> Cell:
    """Return a number that should be 0."""
    return (str(number), "red") if number else "0"
