"""A recording with a time bar; and the record button."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from igtl.blocking.changes import Changes
from igtl.codec.message import Message
from igtl.errors import IgtlError, ProtocolError
from igtl.recording import Recorder, Recording
from igtl.recording.playback import Recorded
from igtl.view.feed import Feed

_SPARSE: Final = 500  # messages of a stream of which each place is looked up
_BEFORE: Final = 1.0  # seconds before a place from which the other streams are taken
_STEP: Final = 0.04
_NS: Final = 1_000_000_000
SPEEDS: Final = (0.1, 16.0)


class Player:
    """Plays a recording into a feed, in a thread of its own.

    Args:
        feed: where its messages go.
        recording: which the player closes at its end.
        loop: begin again at the end.
    """

    def __init__(self, feed: Feed, recording: Recording, *, loop: bool = False) -> None:
        self._feed = feed
        self._recording = recording
        self._loop = loop
        self._changed = Changes()
        self._playing = True
        self._closed = False
        self._speed = 1.0
        self._position = 0.0
        self._wanted: float | None = 0.0  # where to go
        self._rebased = False  # the schedule begins anew
        self._sparse: dict[tuple[str, str], list[int]] = {}
        self._shown: dict[tuple[str, str], int] = {}
        self._thread = threading.Thread(target=self._run, name="igtl view player", daemon=True)
        self._thread.start()

    @property
    def state(self) -> dict[str, Any]:
        """What the time bar shows."""
        return {
            "name": Path(self._recording.path).name, "duration": round(self._recording.duration, 3),
            "position": round(self._position, 1), "playing": self._playing, "speed": self._speed,
            "cut": self._recording.truncated,
        }  # fmt: skip

    # -- what a browser asks for

    def play(self, on: bool) -> None:
        """Play, or stop here; at the end, play from the beginning."""
        with self._changed:
            if on and self._position >= self._recording.duration:
                self._wanted = 0.0
            self._playing = on
            self._rebased = True
            self._changed.notify_all()

    def seek(self, position: float) -> None:
        """Go to a place, in seconds from the beginning."""
        with self._changed:
            self._wanted = min(max(position, 0.0), self._recording.duration)
            self._changed.notify_all()

    def step(self, direction: int) -> None:
        """Stop, and go forwards or back by 40 ms."""
        with self._changed:
            self._playing = False
            origin = self._position if self._wanted is None else self._wanted
        self.seek(origin + _STEP * (1 if direction > 0 else -1))

    def speed(self, factor: float) -> None:
        """Set how fast it plays, 0.1 … 16 times."""
        with self._changed:
            self._speed = min(max(factor, SPEEDS[0]), SPEEDS[1])
            self._rebased = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread, and close the recording."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._recording.close()

    # -- the thread

    def _index(self) -> dict[tuple[str, str], list[int]]:
        """Arrivals of each message of streams with few: volumes, meshes, texts."""
        out: dict[tuple[str, str], list[int]] = {
            key: [] for key in self._recording.streams if len(self._recording[key]) <= _SPARSE
        }
        for recorded in self._recording.frames(list(out)) if out else ():
            key = recorded.frame.type_name, recorded.frame.device_name
            if key in out:
                out[key].append(recorded.time_ns)
        return out

    def _run(self) -> None:
        try:
            self._play()
        except (IgtlError, OSError) as error:
            self._feed.note(str(error), severity="warn")

    def _play(self) -> None:
        self._sparse = self._index()
        frames: Iterator[Recorded] = iter(())
        while True:
            with self._changed:
                self._feed.paused = not self._playing
                while not self._playing and self._wanted is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                wanted, self._wanted = self._wanted, None
            if wanted is not None:
                self._show(wanted)
                frames = self._recording.frames(start=wanted)
            if self._playing and not self._take_when_due(frames):
                with self._changed:
                    if self._wanted is None:
                        self._position = self._recording.duration
                        self._playing = self._loop
                        self._wanted = 0.0 if self._loop else None

    def _take_when_due(self, frames: Iterator[Recorded]) -> bool:
        """Take messages until a browser asks for something; False at the end."""
        self._rebased = True
        begun = from_ = 0.0
        for recorded in frames:
            at = self._at(recorded)
            with self._changed:
                while not (self._closed or self._wanted is not None):
                    if self._rebased:
                        self._rebased = False
                        begun, from_ = time.perf_counter(), self._position
                    self._feed.paused = not self._playing
                    if not self._playing:
                        self._changed.wait()
                        continue
                    left = begun + (at - from_) / self._speed - time.perf_counter()
                    if left <= 0:
                        break
                    self._changed.wait(min(left, 0.1))
                    # the bar moves on while nothing is due
                    self._position = max(self._position, min(at, at - left * self._speed))
                if self._closed or self._wanted is not None:
                    return True
                self._position = at
            self._take(recorded)
        return False

    def _show(self, position: float) -> None:
        """Show all streams as they were at a place."""
        self._feed.reset()
        self._position = position
        until = self._recording.start_ns + round(position * _NS)
        newest: dict[tuple[str, str], Recorded] = {}
        for key, times in self._sparse.items():
            before = [t for t in times if t <= until]
            if before and self._shown.get(key) != before[-1]:
                at = (before[-1] - self._recording.start_ns) / _NS
                span = self._recording.frames([key], start=max(0.0, at - 1e-6), end=at + 1e-6)
                for recorded in span:
                    newest[key] = recorded
        dense = [key for key in self._recording.streams if key not in self._sparse]
        if dense:
            span = self._recording.frames(dense, start=max(0.0, position - _BEFORE), end=position)
            for recorded in span:
                key = recorded.frame.type_name, recorded.frame.device_name
                if key[0] == "VIDEO":  # each frame needs those before it
                    self._take(recorded)
                else:
                    newest[key] = recorded
        for recorded in newest.values():
            self._take(recorded)

    def _at(self, recorded: Recorded) -> float:
        return (recorded.time_ns - self._recording.start_ns) / _NS

    def _take(self, recorded: Recorded) -> None:
        key = recorded.frame.type_name, recorded.frame.device_name
        if key in self._sparse:
            self._shown[key] = recorded.time_ns
        try:
            message = recorded.frame.unpack("warn")
        except ProtocolError:
            return
        self._feed.take(message, received=recorded.time_ns / _NS)


class Taking:
    """The record button: everything that is received goes into a file of a folder.

    Args:
        feed: whose messages are recorded.
        folder: where the files are made; named by the time.
    """

    def __init__(self, feed: Feed, folder: str | os.PathLike[str]) -> None:
        self._feed = feed
        self._folder = Path(folder)
        self._recorder: Recorder | None = None
        self._lock = threading.Lock()

    @property
    def state(self) -> dict[str, Any]:
        """What the button shows."""
        recorder = self._recorder
        if recorder is None:
            return {"on": False}
        return {"on": True, "name": Path(recorder.path).name, "count": recorder.count}

    def switch(self, on: bool) -> None:
        """Begin or end a file.

        Raises:
            OSError: the file cannot be made, or could not be written.
        """
        with self._lock:
            if on and self._recorder is None:
                name = f"{datetime.now():%Y-%m-%d-%H%M%S}.mcap"
                self._recorder = Recorder(self._folder / name)
                self._feed.taps.append(self._write)
                self._feed.note(f"recording into {name}")
            elif not on and self._recorder is not None:
                recorder, self._recorder = self._recorder, None
                self._feed.taps.remove(self._write)
                recorder.close()
                self._feed.note(f"{recorder.count} messages in {Path(recorder.path).name}")

    def _write(self, message: Message) -> None:
        recorder = self._recorder
        if recorder is None:
            return
        try:
            recorder.write(message, peer=message.peer, received=message.received)
        except (OSError, ValueError) as error:
            self._feed.note(f"recording failed: {error}", severity="warn")
            with self._lock:
                if self._recorder is recorder:
                    self._recorder = None
                    self._feed.taps.remove(self._write)

    def close(self) -> None:
        """End a file that is being written."""
        self.switch(False)
