"""Messages live in Foxglove, by its WebSocket protocol."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Final, Self

from igtl.codec.message import Message
from igtl.errors import ProtocolError
from igtl.extras import need
from igtl.foxglove.mapping import Mapping
from igtl.recording.reader import Recording

PORT: Final = 8765
"""Where Foxglove looks by default."""


class Server:
    """Serves messages to Foxglove (and Lichtblick), which connects to `url`.

    Open it by `with`, or close() it. A browser that is too slow loses the oldest messages that wait
    for it.

    Args:
        host: where to listen; default this machine only. Any program that can reach it sees all.
        port: default 8765; 0: a free one.

    Attributes:
        host, port: where it listens.
        shown, left_out: messages that were shown, and those for which Foxglove has no schema.
        bad: messages that were damaged.

    Raises:
        OSError: it cannot listen there.
        ModuleNotFoundError: foxglove-sdk is missing; the text says which package has it.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = PORT) -> None:
        sdk = need("foxglove", "foxglove")
        context = sdk.Context()
        self._mapping = Mapping(context, compress=True)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._player: threading.Thread | None = None
        self.shown = self.left_out = self.bad = 0
        self.host = "127.0.0.1" if host == "localhost" else host
        try:
            self._server: Any = sdk.start_server(
                name="igtl", host=self.host, port=port, context=context
            )
        except RuntimeError as error:
            raise OSError(f"{host}:{port}: {error}") from None
        self.port: int = self._server.port

    @property
    def url(self) -> str:
        """The address for Foxglove: "Open connection", "Foxglove WebSocket"."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host.replace('127.0.0.1', 'localhost')}:{self.port}"

    def show(self, message: Message) -> None:
        """Show a message of any type, from any thread; one that is damaged is counted."""
        with self._lock:
            try:
                shown = self._mapping.take(message, time.time_ns())
            except ProtocolError:
                self.bad += 1
                return
            self.shown += bool(shown)
            self.left_out += not shown

    def note(self, text: str, *, source: str = "igtl") -> None:
        """Add a line to the log."""
        with self._lock:
            self._mapping.note(text, source, time.time_ns())

    def play(self, path: str | os.PathLike[str], *, loop: bool = False) -> None:
        """Play a recording in a thread, with its time stamps moved to now.

        Args:
            path: of the recording.
            loop: begin again at the end, for ever.

        Raises:
            FileError: the file is not a recording of OpenIGTLink.
            OSError: it cannot be read.
            RuntimeError: another recording is playing.
        """
        if self._player is not None:
            raise RuntimeError("a recording is played already")
        recording = Recording(path)
        self._player = threading.Thread(
            target=self._play, args=(recording, loop), name="igtl foxglove", daemon=True
        )
        self._player.start()

    def _play(self, recording: Recording, loop: bool) -> None:
        with recording:
            for frame in recording.play(loop=loop, restamp=True):
                if self._closing.is_set():
                    return
                try:
                    message = frame.unpack()
                except ProtocolError:
                    self.bad += 1
                    continue
                self.show(message)

    def close(self) -> None:
        """Stop serving. A recording that is playing ends with its next message."""
        self._closing.set()
        self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<foxglove.Server on {self.host}:{self.port}>"
