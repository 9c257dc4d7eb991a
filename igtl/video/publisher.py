"""One camera for many clients, each in the codec and at the rate it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy.typing as npt

from igtl.messages.imaging import FrameType, Image, Video
from igtl.messages.queries import StartVideo
from igtl.video.codecs import Codec, Order, codecs_here
from igtl.video.encoder import VideoEncoder, pixels_of, size_of

Group = tuple[Codec, int]
"""A codec, and least ms between two frames: clients that ask for the same share an encoder."""
_BEHIND: Final = 1.0  # seconds of video that wait for a client; then it skips to a key frame
_KEY_AGAIN: Final = 0.5  # seconds between two key frames for clients that lag, or ask again


class Publisher:
    """One camera for the clients of a server.

    Each client gets the codec and the rate that it asks for by STT_VIDEO; each codec and rate is
    encoded once, however many clients watch it.

    A client that connects or asks again gets a key frame at once, at most twice a second. A client
    that lags by more than a second skips to a key frame; the frames between are counted in its
    stats as "video". If a codec does not take the frames, for example because of their size, its
    clients get a STATUS that says so; other clients are not affected.

    Args:
        server: of `igtl.serve` or `igtl.aio.serve`.
        device_name: name of the stream.
        codecs: what clients may ask for; default all that can be encoded here. A client that asks
            for another one gets a STATUS that says so.
        settings: of VideoEncoder: fps, bit_rate, key_interval, quality, ijk_to_world.

    Attributes:
        encoders: the encoders in use, by codec and interval in ms.
    """

    def __init__(
        self,
        server: Any,
        device_name: str,
        *,
        codecs: Sequence[Codec] | None = None,
        fps: float = 30.0,
        bit_rate: int | None = None,
        key_interval: int = 30,
        quality: int = 85,
        ijk_to_world: npt.ArrayLike | None = None,
    ) -> None:
        self.device_name = device_name
        self.encoders: dict[Group, VideoEncoder] = {}
        self._codecs = codecs_here() if codecs is None else tuple(codecs)
        self._settings: dict[str, Any] = {
            "fps": fps, "bit_rate": bit_rate, "key_interval": key_interval, "quality": quality,
            "ijk_to_world": ijk_to_world,
        }  # fmt: skip
        self._publishing = threading.Lock()  # held while encoding
        self._lock = threading.Lock()  # of the viewers, never held for long
        self._viewers: list[_Viewer] = []
        self._due: dict[Group, float] = {}
        self._pressed: dict[Group, float] = {}
        self._begun = WeakKeyDictionary[Any, float]()  # when each client's last stream has begun
        VideoEncoder("I420", **self._settings)  # wrong settings show here
        server.provides(StartVideo, device_name)(self._provide)

    @property
    def watching(self) -> int:
        """How many clients watch the camera."""
        return len(self._viewers)

    def publish(
        self, frame: npt.ArrayLike | Image, *, order: Order = "RGB", timestamp: float | None = None
    ) -> None:
        """Encode a frame for the clients that watch, and queue it for each of them.

        Any thread may call it, one at a time. When no client watches, nothing is encoded.

        Args:
            frame: see VideoEncoder.encode.
            order: see VideoEncoder.encode.
            timestamp: see VideoEncoder.encode.

        Raises:
            EncodeError: the array is not a frame.
        """
        size_of(pixels_of(frame), order)
        now = time.monotonic()
        with self._publishing:
            with self._lock:
                viewers = [viewer for viewer in self._viewers if not viewer.failed]
            groups: dict[Group, list[_Viewer]] = {}
            for viewer in viewers:
                groups.setdefault(viewer.group, []).append(viewer)
            for group in self.encoders.keys() - groups.keys():
                self.encoders.pop(group).close()
                self._due.pop(group, None)
            for group, those in groups.items():
                try:
                    self._encode_for(group, those, frame, order, timestamp, now)
                except Exception as error:  # of what these clients have asked for
                    for viewer in those:
                        viewer.fail(error)

    def _encode_for(
        self,
        group: Group,
        viewers: list[_Viewer],
        frame: Any,
        order: Order,
        timestamp: float | None,
        now: float,
    ) -> None:
        codec, interval = group
        # a frame that comes a little early counts: the stream itself is paced
        if interval and now < self._due.get(group, 0.0) - 0.1e-3 * interval:
            return
        self._due[group] = max(self._due.get(group, 0.0) + 1e-3 * interval, now)
        encoder = self.encoders.get(group)
        if encoder is None:
            encoder = self.encoders[group] = VideoEncoder(
                codec, numbered=True, device_name=self.device_name, **self._settings
            )
        new = any(viewer.new for viewer in viewers)
        lagging = any(viewer.lagging for viewer in viewers)
        if lagging and now - self._pressed.get(group, 0.0) >= _KEY_AGAIN:
            self._pressed[group] = now
            new = True
        message = encoder.encode(frame, order=order, timestamp=timestamp, key=new)
        for viewer in viewers:
            viewer.put(message)

    def _provide(self, request: StartVideo, peer: Any) -> AsyncGenerator[Video] | None:
        if request.codec not in self._codecs:
            return None
        longest = max(1, int(_BEHIND * self._settings["fps"]))
        viewer = _Viewer((request.codec, request.interval_ms), peer, longest)
        return self._stream(viewer)

    async def _stream(self, viewer: _Viewer) -> AsyncGenerator[Video]:
        last = self._begun.get(viewer.peer)
        if last is not None:  # each begins with a key frame, or even with an encoder of its own
            await asyncio.sleep(last + _KEY_AGAIN - time.monotonic())
        self._begun[viewer.peer] = time.monotonic()
        viewer.begin()
        with self._lock:
            self._viewers.append(viewer)
        try:
            while True:
                yield await viewer.get()
        finally:
            with self._lock:
                self._viewers.remove(viewer)

    def close(self) -> None:
        """End the encoders. The server stays open; its streams get nothing more."""
        with self._publishing:
            for encoder in self.encoders.values():
                encoder.close()
            self.encoders.clear()


class _Viewer:
    """One client that watches: what waits for it. The event loop of the server owns it.

    Attributes:
        peer: the client.
        new, lagging: why it needs a key frame; `put` clears both when it gets one.
        failed: whether it gets nothing more, since what it asked for cannot be encoded.
    """

    def __init__(self, group: Group, peer: Any, longest: int) -> None:
        self.group = group
        self.new = True
        self.lagging = False
        self.peer = peer
        self.failed = False
        self._longest = longest
        self._frames: deque[Video] = deque()
        self._error: Exception | None = None
        self._begun = False
        self._skipping = True  # what comes before a key frame is of no use

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()

    def put(self, message: Video) -> None:
        """Queue a message for the client; from any thread."""
        if message.kind == FrameType.KEY:
            self.new = self.lagging = False
        with contextlib.suppress(RuntimeError):  # the server was closed meanwhile
            self._loop.call_soon_threadsafe(self._take, message)

    def fail(self, error: Exception) -> None:
        """Stop sending, since nothing more can be encoded for the client; from any thread."""
        self.failed = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: Exception) -> None:
        self._error = error
        self._ready.set()

    def _take(self, message: Video) -> None:
        if len(self._frames) >= self._longest:
            self._drop(message, len(self._frames))
            self._frames.clear()
            self._skipping = self.lagging = True
        if message.kind == FrameType.KEY:
            self._begun, self._skipping = True, False
        if not self._skipping:
            self._frames.append(message)
            self._ready.set()
        elif self._begun:
            self._drop(message, 1)

    def _drop(self, message: Video, times: int) -> None:
        self.peer.stats.count_dropped(message, "video", times)

    async def get(self) -> Video:
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._ready.clear()
            await self._ready.wait()
        message = self._frames.popleft()
        return message if self.peer.header_version == 2 else _plain(message)


def _plain(message: Video) -> Video:
    """Return the message without its number, which header version 1 cannot hold."""
    plain = Video.__new__(Video)
    plain.__setstate__(message._state())
    plain.message_id = 0
    return plain
