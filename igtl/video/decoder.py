"""VIDEO messages to frames."""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np

from igtl.errors import BodyError
from igtl.extras import need
from igtl.log import log
from igtl.messages.imaging import FrameType, Image, Video
from igtl.video.codecs import DECODERS, FORMATS, Frame, Order, check_order, ffmpeg

MAX_PIXELS: Final = 1 << 26


class VideoDecoder:
    """Decodes the messages of one stream, each at once.

    Decoding begins with a key frame, and again after a message that was lost or damaged: until
    then `decode` returns None, and the frames are counted. To get a key frame soon, send StartVideo
    again.

    Args:
        max_pixels: of a frame; default 64 Mi. More raises BodyError, before they are allocated.

    Attributes:
        waiting: whether a key frame is needed.
        decoded: frames so far.
        lost: messages that never arrived, by the numbers of a numbered stream.
        skipped: messages that could not be decoded because a key frame was missing.
        damaged: messages that raised BodyError.
    """

    def __init__(self, *, max_pixels: int = MAX_PIXELS) -> None:
        self.waiting = True
        self.decoded = self.lost = self.skipped = self.damaged = 0
        self._max_pixels = max_pixels
        self._stream: tuple[Any, ...] = ()
        self._context: Any = None
        self._number = 0

    def decode(self, message: Video, *, order: Order = "RGB") -> Frame | None:
        """Return the frame of a message; None while a key frame is needed.

        Args:
            message: the next one of the stream.
            order: "RGB" (default), "BGR" (OpenCV), or "I420".

        Returns:
            uint8: (height, width) of a grey frame, else (height, width, 3), or with the order
            "I420" (height · 3 / 2, width).

        Raises:
            ValueError: the order does not exist, or is "I420" of a MJPG frame.
            BodyError: the frame is damaged, too large, or not of the size that the message says,
                or its codec does not exist. The next message can be decoded.
            ModuleNotFoundError: what the codec needs is not installed.
        """
        check_order(order)
        try:
            frame = self._decoded(message, order)
        except BodyError as error:
            self.damaged += 1
            self._restart(message, f"a damaged frame ({error})")
            raise
        self.decoded += frame is not None
        return frame

    def image(self, message: Video) -> Image | None:
        """Decode a message to an Image with the place, name and time stamp of the message.

        None while a key frame is needed; see `decode`.
        """
        frame = self.decode(message)
        if frame is None:
            return None
        image = Image.from_frame(
            frame, order=None if frame.ndim == 2 else "RGB", device_name=message.device_name
        )
        image.matrix, image.coordinate = message.matrix, message.coordinate
        image.timestamp_raw = message.timestamp_raw
        return image

    def _decoded(self, message: Video, order: Order) -> Frame | None:
        missing = self._missing(message)
        width, height, depth = (int(n) for n in message.size)
        if depth != 1 or not width or not height or width % 2 or height % 2:
            raise BodyError("VIDEO", "size", f"{width} × {height} × {depth} is not a video frame")
        if width * height > self._max_pixels:
            raise BodyError(
                "VIDEO", "size", f"{width} × {height}, the limit is {self._max_pixels} pixels"
            )
        if message.codec == "I420":
            planes = np.frombuffer(message.payload, np.uint8)
            if planes.size != width * height * 3 // 2:
                raise BodyError("VIDEO", "payload", f"{planes.size} bytes for {width} × {height}")
            return _ordered(planes.reshape(-1, width), message.grey, order)
        if message.codec == "MJPG":
            return _jpeg_frame(message, order)
        if message.codec not in DECODERS:
            raise BodyError("VIDEO", "codec", f"{message.codec!r} is not known here")
        return self._by_ffmpeg(message, missing, order)

    def _missing(self, message: Video) -> int:
        """Return how many messages of a numbered stream were lost before this one.

        A number below 0: it comes late, behind those that follow it.
        """
        before = self._number
        if 0 < message.message_id <= before and message.kind != FrameType.KEY:
            return -1
        self._number = message.message_id
        missing = max(0, message.message_id - before - 1) if before else 0
        self.lost += missing
        return missing

    def _by_ffmpeg(self, message: Video, missing: int, order: Order) -> Frame | None:
        av = ffmpeg()
        stream = message.codec, *(int(n) for n in message.size)
        if stream != self._stream:
            self._stream = stream
            self._context = None
            self.waiting = True
        if missing < 0:
            self.skipped += 1
            return None
        if missing and message.kind != FrameType.KEY:
            self._restart(message, f"{missing} lost frames")
        if self.waiting and message.kind in (FrameType.INTER, FrameType.SKIPPED):
            self.skipped += 1
            return None
        if self._context is None:
            self._context = self._opened(av, message)
        unsure = self.waiting and message.kind != FrameType.KEY  # some peers do not say what it is
        try:
            pictures = self._context.decode(av.Packet(message.payload))
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            if not unsure:
                raise BodyError("VIDEO", "payload", f"{message.codec}: {error}") from None
            pictures = []
        if unsure and not (pictures and pictures[0].key_frame):
            self._context = None
            self.skipped += 1
            return None
        if len(pictures) != 1:
            raise BodyError("VIDEO", "payload", f"{message.codec}: {len(pictures)} pictures")
        picture = pictures[0]
        width, height, _ = (int(n) for n in message.size)
        if (picture.width, picture.height) != (width, height):
            raise BodyError(
                "VIDEO",
                "size",
                f"{width} × {height}, the picture {picture.width} × {picture.height}",
            )
        if picture.is_corrupt:
            raise BodyError("VIDEO", "payload", f"{message.codec}: the picture is corrupt")
        if picture.format.name != "yuv420p":
            picture = picture.reformat(format="yuv420p")
        self.waiting = False
        return _ordered(picture, message.grey, order)

    def _opened(self, av: Any, message: Video) -> Any:
        name = DECODERS[message.codec]
        try:
            context = av.CodecContext.create(name, "r")
        except ValueError:
            raise BodyError("VIDEO", "codec", f"this FFmpeg has no {name}") from None
        context.thread_count = 1  # threads would keep a frame each
        context.flags |= av.codec.context.Flags.low_delay
        width, height, _ = (int(n) for n in message.size)
        # of the stream's own word for its size; encoders pad to whole blocks
        context.options = {
            "max_pixels": str(max((width + 64) * (height + 64), 1 << 16)),
            "err_detect": "explode",  # rather than invent what is missing
        }
        return context

    def _restart(self, message: Video, why: str) -> None:
        self._context = None
        self.waiting = True
        log(
            logging.WARNING, "%s of %r: waiting for a key frame after %s", message.codec,
            message.device_name, why, type="VIDEO", device=message.device_name, peer=message.peer,
        )  # fmt: skip


def _ordered(picture: Any, grey: bool, order: Order) -> Frame:
    """Return the frame from planar YUV, of an array or a picture of FFmpeg."""
    frame: Frame
    if isinstance(picture, np.ndarray):
        planes = picture
        if grey or order == "I420":
            return planes[: len(planes) // 3 * 2].copy() if grey else planes.copy()
        picture = ffmpeg().VideoFrame.from_ndarray(planes, "yuv420p")
    if grey:
        plane = picture.planes[0]
        rows: Frame = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        return rows[: picture.height, : picture.width].copy()
    frame = picture.to_ndarray(format=FORMATS[order])
    return frame


def _jpeg_frame(message: Video, order: Order) -> Frame:
    simplejpeg = need("simplejpeg", "video")
    width, height, _ = (int(n) for n in message.size)
    if order == "I420":
        raise ValueError("MJPG comes as RGB or BGR")
    payload = bytes(message.payload)
    try:
        rows, columns, _, _ = simplejpeg.decode_jpeg_header(payload)
    except ValueError as error:
        raise BodyError("VIDEO", "payload", f"MJPG: {error}") from None
    if (columns, rows) != (width, height):
        raise BodyError("VIDEO", "size", f"{width} × {height}, the picture {columns} × {rows}")
    try:
        frame: Frame = simplejpeg.decode_jpeg(payload, "GRAY" if message.grey else order)
    except ValueError as error:
        raise BodyError("VIDEO", "payload", f"MJPG: {error}") from None
    return frame[..., 0] if message.grey else frame
