"""What a file does not keep, or leaves in doubt: collected, and told in one warning for a file."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

from igtl.errors import FileWarning

_notes: Final[ContextVar[list[str] | None]] = ContextVar("igtl.files.notes", default=None)


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Collect notes instead of giving warnings."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


@contextlib.contextmanager
def one_warning(path: Any) -> Iterator[None]:
    """Collect the notes of a file that is read or written, and give one FileWarning at the end."""
    with collected() as notes:
        yield
    if notes:
        warnings.warn(FileWarning(f"{path}: {'; '.join(notes)}"), stacklevel=4)


def note(text: str) -> None:
    """Note that something is left out or in doubt.

    Outside of a file (an object of another library is converted) the warning comes at once.
    """
    notes = _notes.get()
    if notes is None:
        warnings.warn(FileWarning(text), stacklevel=3)
    elif text not in notes:
        notes.append(text)
