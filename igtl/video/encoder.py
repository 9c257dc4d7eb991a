"""Frames to VIDEO messages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from igtl.errors import EncodeError
from igtl.extras import need
from igtl.messages.imaging import FrameType, Image, Video
from igtl.video.codecs import ALONE, FORMATS, LOW_DELAY, Codec, Order, check_order, ffmpeg

_HD: Final = 720  # lines from which a second thread makes encoding faster, not slower
_BITS: Final = 0.4  # a pixel
_SVT: Final = "svtav1-params"


class VideoEncoder:
    """Encodes the frames of one stream, each at once: no frame waits for a later one.

    Args:
        codec: see `igtl.video`; default "VP90".
        fps: expected frames per second; the default bit rate follows from it. Default 30.
        bit_rate: bits per second; default 0.4 a pixel (3.7 Mbit/s for 640 × 480 at 30).
        key_interval: number of frames from one key frame to the next; a client that joins late,
            or lost a frame, sees a picture at the next one; default 30.
        quality: of JPEG, 1 … 100; default 85.
        device_name: of the messages.
        ijk_to_world: 4x4 of the first pixel, RAS mm; default 1 mm pixels around the origin.
        numbered: give each message its number, from 1, as message id, so that a decoder sees when
            one was lost. Needs header version 2; default no.

    Raises:
        ModuleNotFoundError: what the codec needs is not installed; the text says which package
            has it.
        ValueError: there is no such codec.
        EncodeError: FFmpeg was built without the encoder.
    """

    def __init__(
        self,
        codec: Codec = "VP90",
        *,
        fps: float = 30.0,
        bit_rate: int | None = None,
        key_interval: int = 30,
        quality: int = 85,
        device_name: str = "",
        ijk_to_world: npt.ArrayLike | None = None,
        numbered: bool = False,
    ) -> None:
        if codec not in LOW_DELAY and codec not in ALONE:
            raise ValueError(f"codec must be one of {(*LOW_DELAY, *ALONE)}, not {codec!r}")
        if fps <= 0 or key_interval < 1 or (bit_rate is not None and bit_rate < 1):
            raise ValueError("fps, key_interval and bit_rate must be positive")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality {quality}, must be 1 to 100")
        if codec == "MJPG":
            need("simplejpeg", "video")
        if codec in LOW_DELAY and LOW_DELAY[codec][0] not in ffmpeg().codecs_available:
            raise EncodeError(
                "VideoEncoder", "codec", f"this FFmpeg has no {LOW_DELAY[codec][0]} for {codec}"
            )
        self.codec = codec
        self.fps = fps
        self.device_name = device_name
        self.ijk_to_world = ijk_to_world
        self._bit_rate = bit_rate
        self._key_interval = key_interval
        self._quality = quality
        self._numbered = numbered
        self._size = 0, 0  # width, height
        self._context: Any = None
        self._count = 0
        self._key = True

    def request_key(self) -> None:
        """Make the next frame a key frame. May be called in any thread."""
        self._key = True

    def encode(
        self,
        frame: npt.ArrayLike | Image,
        *,
        order: Order = "RGB",
        timestamp: float | None = None,
        key: bool = False,
    ) -> Video:
        """Encode one frame.

        Args:
            frame: uint8, (height, width) grey, (height, width, 3) colour, or (height · 3 / 2,
                width) with the order "I420"; width and height even. Or an Image of one slice,
                whose matrix, name and time stamp the message takes over. When the size changes,
                a new stream begins, with a key frame.
            order: "RGB" (default), "BGR" (OpenCV), or "I420".
            timestamp: seconds since 1970; default now.
            key: make it a key frame.

        Raises:
            EncodeError: the array is not a frame, or the encoder refuses it.
        """
        placed = frame if isinstance(frame, Image) else None
        pixels = pixels_of(frame)
        width, height, grey = size_of(pixels, order)
        if (width, height) != self._size:
            self.close()
            self._size = width, height
        key, self._key = key or self._key or self.codec in ALONE, False
        payload, is_key = self._payload(pixels, order, grey, key)
        self._count += 1
        kind = FrameType.KEY if is_key else FrameType.INTER
        message = Video(
            payload, self.codec, (width, height, 1),
            frame_type=kind << 8 if grey else kind, ijk_to_world=self.ijk_to_world,
            device_name=self.device_name, message_id=self._count if self._numbered else 0,
        )  # fmt: skip
        if placed is not None:
            message.matrix, message.coordinate = placed.matrix, placed.coordinate
            message.timestamp_raw = placed.timestamp_raw
            message.device_name = placed.device_name or self.device_name
        if timestamp is not None:
            message.timestamp = timestamp
        return message

    def _payload(
        self, pixels: npt.NDArray[Any], order: Order, grey: bool, key: bool
    ) -> tuple[bytes, bool]:
        if self.codec == "MJPG":
            return self._jpeg(pixels, order, grey), True
        if self.codec == "I420" and (grey or order == "I420"):
            return _planes(pixels, grey).tobytes(), True
        av = ffmpeg()
        if grey:
            picture = av.VideoFrame.from_ndarray(_planes(pixels, grey), "yuv420p")
        else:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), FORMATS[order])
        if picture.format.name != "yuv420p":
            picture = picture.reformat(format="yuv420p")
        if self.codec == "I420":
            return picture.to_ndarray().tobytes(), True
        try:
            if self._context is None:
                self._context = self._opened(av)
        except av.error.FFmpegError as error:
            raise self._refused(error) from None
        picture.pts = self._count
        picture.time_base = self._context.time_base
        none = av.video.frame.PictureType.NONE
        picture.pict_type = av.video.frame.PictureType.I if key else none
        try:
            packets = self._context.encode(picture)
        except av.error.FFmpegError as error:
            self.close()
            raise self._refused(error) from None
        if len(packets) != 1:
            raise EncodeError("VideoEncoder", "frame", f"{self.codec} made {len(packets)} packets")
        return bytes(packets[0]), packets[0].is_keyframe

    def _opened(self, av: Any) -> Any:
        width, height = self._size
        name, options = LOW_DELAY[self.codec]
        context = av.CodecContext.create(name, "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.framerate = Fraction(self.fps).limit_denominator(1000)
        context.time_base = 1 / context.framerate
        context.bit_rate = self._bit_rate or int(_BITS * width * height * self.fps)
        context.gop_size = self._key_interval
        context.max_b_frames = 0
        # what reformat makes of RGB, for those who ask the stream
        context.color_range = av.video.reformatter.ColorRange.MPEG
        context.colorspace = av.video.reformatter.Colorspace.SMPTE170M
        context.thread_count = 1 if height < _HD else 2
        if self.codec == "AV10":
            options = {**options, _SVT: f"{options[_SVT]}:lp={context.thread_count}"}
        context.options = dict(options)
        with _same_scheduling():
            context.open()
        return context

    def _refused(self, error: Exception) -> EncodeError:
        return EncodeError("VideoEncoder", "frame", f"{self.codec}: {error}")

    def _jpeg(self, pixels: npt.NDArray[Any], order: Order, grey: bool) -> bytes:
        if order == "I420":
            raise EncodeError("VideoEncoder", "order", "MJPG takes grey, RGB or BGR frames")
        space, sampling = ("GRAY", "Gray") if grey else (order, "420")
        pixels = np.ascontiguousarray(pixels[..., np.newaxis] if grey else pixels)
        encoded: bytes = need("simplejpeg", "video").encode_jpeg(
            pixels, self._quality, space, sampling
        )
        return encoded

    def close(self) -> None:
        """End the stream; another frame begins a new one."""
        context, self._context = self._context, None
        self._key = True
        if context is not None and context.is_open:  # one that did not take the size is not
            context.encode(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextlib.contextmanager
def _same_scheduling() -> Iterator[None]:
    """Keep the scheduling of this thread, and give it to the threads that start meanwhile.

    SVT-AV1 gives its own threads and the one that opens it the highest real-time priority wherever
    it may, that is for root. They would take the processors from every other program for good.
    """
    try:
        before = set(os.listdir("/proc/self/task"))
    except OSError:  # not Linux, where the encoder does nothing of the kind
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in (0, *map(int, set(os.listdir("/proc/self/task")) - before)):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                if os.sched_getscheduler(thread) != policy:
                    os.sched_setscheduler(thread, policy, priority)


def pixels_of(frame: npt.ArrayLike | Image) -> npt.NDArray[Any]:
    """Return the array of a frame.

    Raises:
        EncodeError: the frame is an image of several slices.
    """
    if not isinstance(frame, Image):
        return np.asarray(frame)
    if frame.array.shape[0] != 1:
        raise EncodeError("VideoEncoder", "frame", f"an image of {frame.array.shape[0]} slices")
    pixels: npt.NDArray[Any] = frame.array[0]
    return pixels


def size_of(pixels: npt.NDArray[Any], order: str) -> tuple[int, int, bool]:
    """Width, height, and whether a frame is grey.

    Raises:
        EncodeError: no codec takes this array as a frame.
    """
    check_order(order)
    shape = pixels.shape
    colour = len(shape) == 3 and shape[2] == 3 and order != "I420"
    if pixels.dtype != np.uint8 or not (colour or len(shape) == 2):
        raise EncodeError(
            "VideoEncoder", "frame",
            f"{pixels.dtype} {shape} with order {order!r}: must be uint8, (height, width) or "
            "(height, width, 3), or (height · 3 / 2, width) with the order 'I420'",
        )  # fmt: skip
    height, width = shape[:2]
    if order == "I420":
        if height % 3:
            raise EncodeError("VideoEncoder", "frame", f"{height} rows, I420 has height · 3 / 2")
        height = height // 3 * 2
    if height % 2 or width % 2 or not (0 < height <= 65534 and 0 < width <= 65534):
        raise EncodeError(
            "VideoEncoder", "frame",
            f"{width} × {height}: both must be even, since a colour covers four pixels; crop it",
        )  # fmt: skip
    return width, height, len(shape) == 2 and order != "I420"


def _planes(pixels: npt.NDArray[Any], grey: bool) -> npt.NDArray[np.uint8]:
    """(height · 3 / 2, width): the luma, and below it the chroma."""
    if not grey:
        return np.ascontiguousarray(pixels)
    height, width = pixels.shape
    planes = np.empty((height * 3 // 2, width), np.uint8)
    planes[:height] = pixels
    planes[height:] = 128
    return planes
