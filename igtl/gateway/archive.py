"""Recordings in files that follow each other, as long as there is room."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from igtl._core import Frame
from igtl.blocking.changes import Changes
from igtl.gateway.config import Entry
from igtl.gateway.sinks import Sink
from igtl.log import log
from igtl.recording.recorder import Recorder

_TICK: Final = 0.25  # seconds
_ROOM: Final = 1 << 20  # bytes that must be free for a new file
_MAX_QUEUED: Final = 64 << 20
_IN_RECORDER: Final = 1 << 20  # of them, in the recorder itself


class _Item(NamedTuple):
    frame: Frame
    source: str
    received: float


class Archive(Sink):
    """Writes what it takes to MCAP files PREFIX-TIME.mcap.

    It begins a new file when the last is large or old enough, and deletes the oldest if there are
    too many. While the disk takes nothing, messages are counted by the name of the error
    ("ENOSPC").
    """

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        get = entry.get
        self._prefix: Path = entry.place
        self._names = re.compile(re.escape(self._prefix.name) + r"-\d{8}T\d{12}Z\.mcap")
        self._compression = get("compression", "lz4")
        self._rotate_bytes: int | None = get("rotate_bytes")
        self._rotate_seconds: float | None = get("rotate_seconds")
        self._keep_files: int | None = get("keep_files")
        self._keep_bytes: int | None = get("keep_bytes")
        self._max_queued: int = get("max_queued_bytes", _MAX_QUEUED)
        self._changed = Changes()
        self._items: deque[_Item] = deque()
        self._queued = 0  # bytes
        self._broken = ""  # the cause of what is dropped
        self._recorder: Recorder | None = None
        self._begun = 0.0
        self._written = 0
        self.files = 0
        """Files that were begun."""

    def send(self, frame: Frame, source: str) -> None:
        """Let a frame wait to be written; never waits itself."""
        size = len(frame)
        with self._changed:
            if self._broken:
                self._dropped.add(self._broken)
            elif self._items and self._queued + size > self._max_queued:
                self._dropped.add("max_queued_bytes")
            else:
                self._items.append(_Item(frame, source, time.time()))
                self._queued += size
                self._changed.notify()

    @property
    def delivered(self) -> int:
        """Messages that were written."""
        with self._changed:
            recorder = self._recorder
            return self._written + (0 if recorder is None else recorder.written)

    @property
    def waiting(self) -> int:
        """Messages that are not written yet."""
        return max(0, self.taken - self.delivered - self.dropped.total())

    @property
    def reason(self) -> str:
        """Why it does not record; "" while it does."""
        if not self._failure and self._queued > self._max_queued // 2:
            return "the disk does not keep up"
        return self._failure

    @property
    def path(self) -> str | None:
        """The file that is being written."""
        recorder = self._recorder
        return None if recorder is None else recorder.path

    # -- the thread

    def run(self) -> None:
        """Record until it is closed, in files that follow each other."""
        handed: _Item | None = None
        try:
            self._begin()
            with self._changed:
                self._broken = ""
            self.opened()
            while (handed := self._next()) or self._items or not self.closed.is_set():
                self._look_after()
                if handed and self._recorder is not None:
                    self._recorder.write(handed.frame, peer=handed.source, received=handed.received)
                handed = None
            self._end()
        except OSError as error:
            cause = errno.errorcode.get(error.errno or 0, type(error).__name__)
            with self._changed:
                self._broken = cause
                lost = len(self._items) + (handed is not None)
                self._items.clear()
                self._queued = 0
            self._dropped.add(cause, lost)
            self._give_up(cause)
            raise

    def _next(self) -> _Item | None:
        """Return what is to be written next; None if nothing comes for a moment."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self.closed.is_set(), _TICK)
            if not self._items:
                return None
            item = self._items.popleft()
            self._queued -= len(item.frame)
            return item

    def _begin(self) -> None:
        """Begin a new file.

        Raises:
            OSError: there is no room, or it cannot be made.
        """
        folder = self._prefix.parent
        self._delete_old(for_new=1)
        if shutil.disk_usage(folder).free < _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        now = datetime.now(UTC)
        path = folder / f"{self._prefix.name}-{now:%Y%m%dT%H%M%S%f}Z.mcap"
        self._recorder = Recorder(
            path, compression=self._compression, max_queued_bytes=_IN_RECORDER
        )
        self._begun = self._looked = time.monotonic()
        self.files += 1

    def _look_after(self) -> None:
        """See, from time to time, to errors of the disk, the next file and old files."""
        now = time.monotonic()
        if now - self._looked < _TICK or self._recorder is None:
            return
        self._looked = now
        if self._recorder.error is not None:
            raise self._recorder.error
        size = os.path.getsize(self._recorder.path)
        large = self._rotate_bytes is not None and size >= self._rotate_bytes
        old = self._rotate_seconds is not None and now - self._begun >= self._rotate_seconds
        if (large or old) and self._recorder.count:
            self._end()
            self._begin()
        elif self._keep_bytes is not None:
            self._delete_old()

    def _end(self) -> None:
        """End the file."""
        recorder = self._recorder
        if recorder is not None:
            recorder.close()
            self._settle(recorder)

    def _give_up(self, cause: str) -> None:
        """Close the file, and count what it does not hold."""
        recorder = self._recorder
        if recorder is not None:
            with contextlib.suppress(OSError):  # it is told already
                recorder.close()
            self._settle(recorder)
            self._dropped.add(cause, recorder.count - recorder.written)

    def _settle(self, recorder: Recorder) -> None:
        """Account for a file that is closed; leave no empty one behind."""
        with self._changed:
            self._recorder = None
            self._written += recorder.written
        if not recorder.written:
            Path(recorder.path).unlink(missing_ok=True)

    def _delete_old(self, for_new: int = 0) -> None:
        """Keep so many files, and so many bytes, and the file that is being written.

        Args:
            for_new: files that there will be one more of.
        """
        if self._keep_files is None and self._keep_bytes is None:
            return
        found = sorted(p for p in self._prefix.parent.iterdir() if self._names.fullmatch(p.name))
        sizes = {path: path.stat().st_size for path in found}
        for path in found:
            many = self._keep_files is not None and len(sizes) + for_new > self._keep_files
            much = self._keep_bytes is not None and sum(sizes.values()) > self._keep_bytes
            if str(path) == self.path or not (many or much):
                return
            try:
                path.unlink()
            except OSError as error:
                log(logging.WARNING, "sink %s: %s is kept: %s", self.name, path, error, cause=error)
            del sizes[path]
