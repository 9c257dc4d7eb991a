"""Writing a recording."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque
from fractions import Fraction
from typing import Any, Final, Literal, NamedTuple, Self

from igtl import _core
from igtl._core import Frame
from igtl.blocking.changes import Changes
from igtl.codec.message import Message
from igtl.errors import naming
from igtl.extras import need
from igtl.log import named

ENCODING: Final = "openigtlink"
EVENTS: Final = "igtl/events"
_FLUSH: Final = 0.5  # seconds after which what was written is with the system, and readable
_CHUNK: Final = 256 * 1024
_MAX_STREAMS: Final = 4096  # of which a peer could make any number; the rest shares a channel
_NS: Final = 1_000_000_000


class _Item(NamedTuple):
    """An entry that waits for the thread; an event if `connection` is below 0."""

    time_ns: int
    wire: Any
    type_name: str
    device_name: str
    peer: str
    connection: int


class Recorder:
    """Writes messages to a new MCAP file, in a thread of its own; `write` may be called in any.

    Messages older than half a second are in the file even if the process is killed. If the disk is
    too slow, `write` waits: nothing is left out. If the disk is full, the file is cut to what was
    `written`, and can be read so far.

    Args:
        path: of the file, which must not exist yet.
        compression: of the file: "lz4" (default), "zstd" (smaller, slower), or "none".
        max_queued_bytes: what may wait for the disk; default 256 MiB.

    Attributes:
        count, bytes: messages taken so far, and their bytes.
        written: how many of them are in the file; all of them once it is closed.

    Raises:
        FileExistsError, OSError: the file cannot be made.
        ModuleNotFoundError: the package mcap is missing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compression: Literal["lz4", "zstd", "none"] = "lz4",
        max_queued_bytes: int = 256 << 20,
    ) -> None:
        mcap = need("mcap.writer", "record")
        if compression not in ("lz4", "zstd", "none"):
            raise ValueError(f"compression must be 'lz4', 'zstd' or 'none', not {compression!r}")
        self.path = os.fspath(path)
        self.count = self.bytes = self.written = 0
        self._file = open(self.path, "xb")  # noqa: SIM115  (closed by the thread)
        self._writer = mcap.Writer(
            self._file, chunk_size=_CHUNK, compression=mcap.CompressionType[compression.upper()]
        )
        self._writer.start(profile=ENCODING, library="igtl")
        self._channels: dict[Any, int] = {}
        # arrivals by a clock that cannot be set meanwhile, counted from the time of day
        self._zero = time.time_ns() - time.perf_counter_ns()
        self._changed = Changes()
        self._items: deque[_Item] = deque()
        self._waiting = 0
        self._max_waiting = max_queued_bytes
        self._ended = False
        self._added = 0  # messages that the writer has
        self._safe = 0  # bytes of the file that hold what was written
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="igtl recorder", daemon=True)
        self._thread.start()

    def write(
        self,
        message: Message | Frame,
        *,
        peer: Any = None,
        connection: int = 0,
        received: float | Fraction | None = None,
    ) -> None:
        """Record a message: the bytes of a frame, or a message, which is packed here.

        Args:
            message: the message.
            peer: the sender; kept as text ("host:port" of an address).
            connection: number of the connection, if there are several.
            received: arrival, seconds since 1970; a Fraction is exact to the nanosecond. Default:
                now. (`message.received` is what the link or the kernel noted.)

        Raises:
            OSError: the file could not be written.
            ValueError: the recorder is closed.
        """
        wire = memoryview(message.data if isinstance(message, Frame) else message.pack())
        at = self._now() if received is None else round(received * _NS)
        with self._changed:  # of several threads
            stream = message.type_name, message.device_name
            self._put(_Item(at, wire, *stream, named(peer), connection))
            self.count += 1
            self.bytes += len(wire)

    def event(
        self,
        what: str,
        *,
        peer: Any = None,
        connection: int = 0,
        received: float | Fraction | None = None,
        **facts: Any,
    ) -> None:
        """Record what happened to a connection.

        Args:
            what: "connected", "disconnected", "error", …
            peer: as for `write`.
            connection: as for `write`.
            received: when it happened, as for `write`.
            facts: JSON-able.

        Raises:
            OSError: the file could not be written.
            ValueError: the recorder is closed.
        """
        told = {"event": what, "peer": named(peer), "connection": connection, **facts}
        at = self._now() if received is None else round(received * _NS)
        self._put(_Item(at, json.dumps(told).encode(), "", "", "", -1))

    def _now(self) -> int:
        return self._zero + time.perf_counter_ns()

    def _put(self, item: _Item) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting < self._max_waiting or self._ended or self._error
            )
            if self._error is not None:
                raise self._error
            if self._ended:
                raise ValueError("this recorder is closed")
            self._items.append(item)
            self._waiting += len(item.wire)
            self._changed.notify_all()

    # -- the thread

    def _run(self) -> None:
        try:
            with naming(self.path), self._file:
                self._write_all()
                self._writer.finish()
        except Exception as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._safe)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _write_all(self) -> None:
        flushed = time.monotonic()
        self._flush()  # so that the file is a recording from the start
        unflushed = False
        while True:
            with self._changed:
                # idle: nothing to flush, nothing to wake up for
                left = flushed + _FLUSH - time.monotonic() if unflushed else None
                self._changed.wait_for(lambda: self._items or self._ended, left)
                if self._ended and not self._items:
                    break
                items, self._items = self._items, deque()
            for item in items:
                self._add(item)
                with self._changed:
                    self._waiting -= len(item.wire)
                    self._changed.notify_all()
            unflushed = unflushed or bool(items)
            if unflushed and time.monotonic() - flushed >= _FLUSH:
                self._flush()
                flushed, unflushed = time.monotonic(), False
        self._flush()  # if there is no room for the index, it is the index that is missing

    def _flush(self) -> None:
        self._writer.flush()
        self._safe = self._file.tell()
        self.written = self._added

    def _add(self, item: _Item) -> None:
        if item.connection < 0:
            channel = self._channel(EVENTS, EVENTS, "json", {})
            self._writer.add_message(channel, item.time_ns, item.wire, item.time_ns)
            return
        kind, device = item.type_name, item.device_name
        key = kind, device, item.peer, item.connection
        channel = self._channels.get(key, 0)
        if not channel:
            if len(self._channels) >= _MAX_STREAMS:
                kind = device = "*"
                key = kind, device, item.peer, item.connection
            facts = {
                "type": kind, "device_name": device, "peer": item.peer,
                "connection": str(item.connection),
            }  # fmt: skip
            channel = self._channel(key, f"{kind}/{device}", ENCODING, facts)
        stamp = _core.time_ns_of(int.from_bytes(item.wire[34:42], "big"))
        self._writer.add_message(channel, item.time_ns, item.wire, stamp or item.time_ns)
        self._added += 1

    def _channel(self, key: Any, topic: str, encoding: str, facts: dict[str, str]) -> int:
        if key not in self._channels:
            self._channels[key] = self._writer.register_channel(topic, encoding, 0, facts)
        return self._channels[key]

    @property
    def error(self) -> Exception | None:
        """The error that stopped the writing; None while there is none."""
        return self._error

    # -- end

    def close(self) -> None:
        """Write what is waiting and the index, and close the file.

        Raises:
            OSError: it could not be written.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        try:
            self._thread.join()
        except KeyboardInterrupt:  # not before the file is whole, unless it comes again
            self._thread.join()
            raise
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
