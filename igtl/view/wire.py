"""The binary frames of the live socket, as static/live.js reads them. Little endian.

A tick is any number of JSON texts and image frames, and one pose frame that closes it and that the
browser acknowledges once it has drawn.

    pose frame   u8 1, u8 0, u16 count, u32 tick, f64 time; then for each pose 64 bytes:
                 u16 stream, u16 state (1: valid), u32 0, f64 time stamp, f32 3 × 4 row by row
    image frame  u8 2, u8 format, u16 stream, u32 number, u16 width, u16 height, u16 stride, u16 0,
                 f32 low, f32 high, f64 time stamp, f32 4 × 4 row by row; then the pixels

Width and height are those that were sent: each `stride`-th pixel of the image. A pixel p means the
value low + p / 255 · (high - low).
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.extras import need
from igtl.messages.imaging import Image

POSE_BYTES: Final = 64
GREY, RGB, JPEG = 0, 1, 2
_POSES: Final = struct.Struct("<BBHId")
_POSE: Final = struct.Struct("<HHId12f")
_IMAGE: Final = struct.Struct("<BBHIHHHHffd")
_SMALL: Final = 1 << 14  # pixels; JPEG saves little below
_MAX_SIDE: Final = 4096  # pixels of a texture that every browser has


class Quality(NamedTuple):
    """How an image is sent: each `stride`-th pixel, as JPEG of a quality; None: exactly."""

    stride: int
    jpeg: int | None


EXACT: Final = Quality(1, None)
QUALITIES: Final = (
    Quality(1, 90), Quality(1, 75), Quality(1, 50), Quality(2, 70), Quality(2, 45),
    Quality(4, 60), Quality(4, 30),
)  # fmt: skip
"""From the best to the smallest."""
SIZES: Final = (45.0, 30.0, 20.0, 8.0, 5.0, 2.0, 1.0)
"""Of each: kB of 640 × 480 ultrasound, about."""


def pose(stream: int, valid: bool, timestamp: float, matrix: npt.NDArray[Any]) -> bytes:
    """One pose, 64 bytes. A number that is not finite in the matrix makes it invalid."""
    rows = matrix[:3].ravel().tolist()
    if not np.isfinite(rows).all():
        valid, rows = False, np.eye(4)[:3].ravel().tolist()
    return _POSE.pack(stream, valid, 0, timestamp, *rows)


def poses(tick: int, now: float, packed: list[bytes]) -> bytes:
    """Return the frame that closes a tick."""
    return _POSES.pack(1, 0, len(packed), tick & 0xFFFFFFFF, now) + b"".join(packed)


def picture(stream: int, number: int, image: Image, timestamp: float, quality: Quality) -> bytes:
    """Return an image frame of the first slice of an image."""
    with np.errstate(all="ignore"):  # an image from the wire may hold anything
        return _picture(stream, number, image, timestamp, quality)


def _picture(stream: int, number: int, image: Image, timestamp: float, quality: Quality) -> bytes:
    pixels = image.array[0]
    stride = max(quality.stride, -(-max(pixels.shape[:2]) // _MAX_SIDE))
    values, low, high = _bytes_of(pixels[::stride, ::stride])
    height, width = values.shape[:2]
    kind = GREY if values.ndim == 2 else RGB
    small = width * height <= _SMALL and stride == 1
    if quality.jpeg is None or small:
        body = values.tobytes()
    else:
        body = _jpeg(values, quality.jpeg)
        kind = JPEG
    head = _IMAGE.pack(
        2, kind, stream, number & 0xFFFFFFFF, width, height, stride, 0, low, high, timestamp
    )
    matrix = np.nan_to_num(image.array_to_world.astype("<f4"), posinf=0, neginf=0)
    return b"".join((head, matrix.tobytes(), body))


def _bytes_of(pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], float, float]:
    """Grey or RGB bytes, and the values of 0 and 255."""
    if pixels.ndim == 3:
        pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels), 0.0, 255.0
    low, high = limits(pixels)
    scale = 255 / (high - low)
    scaled = (np.nan_to_num(pixels.astype(np.float32)) - np.float32(low)) * np.float32(scale)
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8), low, high


def limits(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the least and the greatest finite value; never equal."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    bound = float(np.finfo(np.float32).max) / 4
    low, high = (min(max(float(v), -bound), bound) for v in (values.min(), values.max()))
    return low, high if high > low else low + max(1.0, 1e-6 * abs(low))


def _jpeg(values: npt.NDArray[np.uint8], quality: int) -> bytes:
    simplejpeg = need("simplejpeg", "view")
    grey = values.ndim == 2
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(values[..., np.newaxis] if grey else values), quality,
        "GRAY" if grey else "RGB", colorsubsampling="444" if grey else "420",
    )  # fmt: skip
    return encoded
