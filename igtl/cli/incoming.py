"""Messages for commands that take a recording, a sequence or a live source alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import click

import igtl
from igtl.cli import Failure
from igtl.cli.files import opened
from igtl.cli.sources import Source
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import say

Take = Callable[[igtl.Message], object]


def from_file(path: Path) -> Iterator[igtl.Message]:
    """Yield all good messages of a recording or a file of images in time, in order of arrival.

    At the end it prints how many are bad. In a terminal it shows the progress.
    """
    from rich.progress import track

    console = terminal(stderr=True)
    bad = 0
    with opened(path) as recording:
        for recorded in track(
            recording, "reading", total=recording.count, console=console, transient=True,
            disable=not console.is_terminal,
        ):  # fmt: skip
            try:
                message = recorded.frame.unpack()
            except igtl.ProtocolError:
                bad += 1
                continue
            message.received = recorded.time_ns / 1e9
            yield message
    left_out(bad)


def left_out(count: int) -> None:
    """Print how many messages are damaged, if some are."""
    if count:
        say(f"{count} messages are damaged, and left out")


class Incoming:
    """Takes what a live source sends, in a thread of its own, within a `with` block.

    Args:
        source: the open source.
        take: called with each message, one at a time.

    Attributes:
        lock: held while a message is taken.
        failed: the error that has ended it; None in order.
        count: messages so far.
    """

    def __init__(self, source: Source, take: Take) -> None:
        self.lock = threading.Lock()
        self.failed: Exception | None = None
        self.count = 0
        self.begun = time.monotonic()
        self._ending = False
        self._source = source
        self._take = take
        self._thread = threading.Thread(target=self._run, name="igtl incoming", daemon=True)

    @property
    def over(self) -> bool:
        """Whether the source has ended."""
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending = True
        self._source.close()
        self._thread.join()

    def check(self) -> None:
        """Raise the error that has ended it, if there is one."""
        if self.failed is not None:
            failed = self.failed
            known = click.ClickException, igtl.IgtlError, OSError  # which the command line tells
            raise failed if isinstance(failed, known) else Failure(str(failed))

    def _run(self) -> None:
        try:
            for message in self._source.messages():
                with self.lock:
                    self._take(message)
                    self.count += 1
        except (igtl.IgtlError, ImportError, OSError, ValueError, click.ClickException) as error:
            if not self._ending:
                self.failed = error
