"""What commands share that read and write files.

Warnings are printed, `FILE[3]` chooses one of several images, and sequences of images are handled
as recordings.
"""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click

import igtl
from igtl.cli.terminal import say
from igtl.files import exporting, sequences

F = TypeVar("F", bound=Callable[..., Any])
_CHOSEN: Final = re.compile(r"(.+)\[(\d+)\]")


def place(word: str) -> tuple[Path, int | None] | None:
    """Return the file that a word names, and the number behind it.

    None if there is no such file.
    """
    if Path(word).exists():
        return Path(word), None
    match = _CHOSEN.fullmatch(word)
    if match is None or not Path(match[1]).exists():
        return None
    return Path(match[1]), int(match[2])


class File(click.ParamType):  # type: ignore[type-arg]
    """A file that exists, or FILE[3]."""

    name = "file"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the text, if the file exists."""
        if place(value) is None:
            self.fail(f"{value!r} does not exist", param, ctx)
        return str(value)


@contextmanager
def told() -> Iterator[None]:
    """Print the warnings about files, without the line of the program that has raised them."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", igtl.FileWarning)
        yield
    for each in found:
        if issubclass(each.category, igtl.FileWarning):
            say(f"warning: {each.message}")
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())


def load(word: str, **how: Any) -> igtl.Message:
    """Return the message of a file, or of one of its images: `FILE[3]`."""
    path, frame = place(word) or (Path(word), None)
    with told():
        return igtl.files.load(path, frame=frame, **how)


def save(message: igtl.Message, path: Path) -> None:
    """Write a message to a file."""
    with told():
        igtl.files.save(message, path)


@contextmanager
def opened(path: Path) -> Iterator[igtl.Recording]:
    """Open a recording; or a file of several images, or a ROS 2 bag, as one.

    These are copied into a temporary recording.
    """
    if not sequences.has_images(path):
        with ExitStack() as stack:
            with told():
                recording = stack.enter_context(exporting.opened(path))
            yield recording
        return
    with tempfile.TemporaryDirectory(prefix="igtl-") as folder:
        copy = Path(folder, "sequence.mcap")
        with told():
            messages = igtl.files.load_sequence(path)
        with igtl.Recorder(copy) as recorder:
            for message in messages:
                frame = igtl.Frame.from_bytes(message.pack(cut_name=True))
                recorder.write(frame, peer=path.name, received=message.timestamp or 0.0)
        with igtl.Recording(copy) as recording:
            yield recording


def sequences_too(command: F) -> F:
    """Let a command that records into `file` write a sequence where its suffix says so.

    It records into a temporary file, and the sequence is written at the end.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, file: Path, **others: Any) -> Any:
        if not sequences.is_sequence(file):
            return command(*args, file=file, **others)
        with tempfile.TemporaryDirectory(prefix="igtl-") as folder:
            copy = Path(folder, file.name)
            try:
                return command(*args, file=copy, **others)
            finally:
                if copy.exists():
                    with told(), igtl.Recording(copy) as recording:
                        igtl.files.save_sequence(recording, file)
                    say(f"{file}: written")

    return wrapped  # type: ignore[return-value]
