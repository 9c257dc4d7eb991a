"""The part of a recording that is written to one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from igtl.codec.message import Message
from igtl.errors import ProtocolError
from igtl.files.notes import note
from igtl.messages.imaging import Video
from igtl.recording.playback import Recorded
from igtl.recording.reader import RecordedStream, Recording
from igtl.video.decoder import VideoDecoder

Progress = Callable[[str, int, int], object]


class Part(NamedTuple):
    """Streams of a recording, cut to the chosen time.

    Attributes:
        recording: of which it is a part.
        streams: the streams, cut to that time if their rows are known, else whole.
        start, end: seconds from the beginning of the recording.
        progress: called with what is done, how much of it, and the total.
    """

    recording: Recording
    streams: list[RecordedStream]
    start: float
    end: float | None
    progress: Progress

    def frames(self) -> Iterator[Recorded]:
        """Yield all messages in order of arrival, damaged ones too."""
        keys = [(stream.type_name, stream.device_name) for stream in self.streams]
        total = sum(map(len, self.streams))
        frames = self.recording.frames(keys, start=self.start, end=self.end)
        for done, recorded in enumerate(frames, 1):
            yield recorded
            if done % 64 == 0:
                self.progress("writing", min(done, total), total)
        self.progress("writing", total, total)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what happened to the connections in this time, as in `Recording.events`."""
        zero = self.recording.start_ns
        first = zero + round(self.start * 1e9)
        last = None if self.end is None else zero + round(self.end * 1e9)
        for event in self.recording.events:
            if event["time_ns"] >= first and (last is None or event["time_ns"] <= last):
                yield event

    def messages(self) -> Iterator[tuple[float, Message]]:
        """Yield the good messages in order of arrival, and when each arrived, as in `times`."""
        for recorded in self.frames():
            try:
                message = recorded.frame.unpack()
            except ProtocolError:
                continue
            yield (recorded.time_ns - self.recording.start_ns) / 1e9, message


def told(streams: Iterable[RecordedStream]) -> str:
    """Streams by type and name, for a text."""
    return ", ".join(f"{stream.type_name} {stream.device_name!r}" for stream in streams)


class Decoding:
    """VIDEO as images: a decoder for each device."""

    def __init__(self) -> None:
        self._decoders: dict[str, VideoDecoder] = {}

    def __call__(self, message: Message) -> Message | None:
        """Return the image of a VIDEO, or None if there is none; another message as it is.

        Raises:
            ModuleNotFoundError: FFmpeg is missing; the text says which package has it.
        """
        if not isinstance(message, Video):
            return message
        decoder = self._decoders.setdefault(message.device_name, VideoDecoder())
        try:
            return decoder.image(message)
        except ProtocolError:
            note("damaged VIDEO is left out")
            return None
