"""Frames by FFmpeg: of cameras, screens, films and generated pictures."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.devices.device import Item
from igtl.messages.imaging import Image
from igtl.video import VideoEncoder
from igtl.video.codecs import Codec, ffmpeg

_PATIENCE: Final = 10.0  # seconds for FFmpeg to open, or to read a packet from a network
_SAME_CLOCK: Final = 10.0  # seconds that a driver's stamp may be from now to be of the wall clock
_NAP: Final = 0.25  # seconds between two looks at whether the device is to be closed


@dataclass(frozen=True)
class Input:
    """What FFmpeg opens.

    Attributes:
        url: file, address or name of a device.
        format: of FFmpeg; None: from the content.
        options: of FFmpeg.
        live: whether the frames are of now: those of a film are paced by their own times.
        fps: of a film; None: its own.
    """

    url: str
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    live: bool = True
    fps: float | None = None


class Picture(NamedTuple):
    """One frame.

    Attributes:
        pixels: (height, width) if it is grey, else (height, width, 3) RGB; uint8.
        stamp: seconds since 1970.
    """

    pixels: npt.NDArray[np.uint8]
    stamp: float


def pictures(source: Input, *, loop: bool = False, pace: bool = True) -> Iterator[Picture | None]:
    """Yield the frames of an input; None while none is due.

    A live frame has the stamp of its driver where that is one of the wall clock, else the time at
    which it was read. A frame of a film has the time at which it is due.

    Args:
        source: what FFmpeg opens.
        loop: a film begins again at its end.
        pace: a film takes its time; False: as fast as the caller takes the frames.

    Raises:
        OSError, ValueError: FFmpeg cannot open or read it.
    """
    while True:
        if source.live:
            yield from _live(source)
            raise EOFError(f"{source.url} delivers no more frames")
        yield from _film(source, pace)
        if not loop:
            return


def _frames(source: Input) -> Generator[Any]:
    av = ffmpeg()
    settings: dict[str, Any] = {"timeout": _PATIENCE} if source.live else {}
    with av.open(
        source.url, format=source.format, options=dict(source.options), **settings
    ) as container:
        if not container.streams.video:
            raise ValueError(f"{source.url} has no pictures")
        stream = container.streams.video[0]
        if source.live:
            stream.codec_context.thread_count = 1  # threads would keep a frame each
        yield from container.decode(stream)


def _live(source: Input) -> Iterator[Picture]:
    for frame in _frames(source):
        now = time.time()
        stamp = now if frame.pts is None else float(frame.pts * frame.time_base)
        yield Picture(_pixels(frame), stamp if abs(now - stamp) < _SAME_CLOCK else now)


def _film(source: Input, pace: bool) -> Iterator[Picture | None]:
    begun, clock = time.time(), time.monotonic()
    first = None
    for number, frame in enumerate(_frames(source)):
        if source.fps is not None or frame.pts is None:
            at = number / (source.fps or 30.0)
        else:
            at = float(frame.pts * frame.time_base)
        first = at if first is None else first
        while pace and (wait := clock + at - first - time.monotonic()) > 0:
            time.sleep(min(wait, _NAP))
            if wait > _NAP:
                yield None
        yield Picture(_pixels(frame), begun + at - first)


def _pixels(frame: Any) -> npt.NDArray[np.uint8]:
    grey = frame.format.name.startswith("gray")
    pixels: npt.NDArray[np.uint8] = frame.to_ndarray(format="gray" if grey else "rgb24")
    return pixels


def messages_of(
    found: Iterator[Picture | None], name: str, codec: Codec | None, fps: float
) -> Iterator[Item]:
    """Yield the frames as IMAGE, or as VIDEO of a codec.

    Args:
        found: the frames; None is passed on.
        name: device name of the messages.
        codec: of VIDEO; None: IMAGE.
        fps: frames a second that are expected, for the bit rate.
    """
    encoder = None if codec is None else VideoEncoder(codec, fps=fps, device_name=name)
    for picture in found:
        if picture is None:
            yield None
        elif encoder is not None:
            yield encoder.encode(picture.pixels, timestamp=picture.stamp)
        else:
            yield Image.from_frame(
                picture.pixels, order=None if picture.pixels.ndim == 2 else "RGB",
                device_name=name, timestamp=picture.stamp,
            )  # fmt: skip
