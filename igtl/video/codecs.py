"""What each codec takes: encoders with settings that keep no frame back, decoders, pixel orders."""

from __future__ import annotations

import os
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from igtl.extras import need

Codec = Literal["VP90", "H264", "X265", "AV10", "I420", "MJPG"]
"""Name of a codec: the table above says what each is."""
Order = Literal["RGB", "BGR", "I420"]
"""Order of the values of a pixel in an array; "I420": planes, as on the wire."""
Frame = npt.NDArray[np.uint8]

LOW_DELAY: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "VP90": (
        "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "row-mt": "1"}
    ),
    "H264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}),
    "X265": (
        "libx265",
        {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1",
         "x265-params": "log-level=none"},
    ),
    "AV10": ("libsvtav1", {"preset": "12", "svtav1-params": "pred-struct=1:rc=2:rtc=1"}),
}  # fmt: skip
DECODERS: Final = {
    "VP90": "vp9", "H264": "h264", "X265": "hevc", "O265": "hevc", "AV10": "libdav1d",
}  # fmt: skip
ALONE: Final = ("I420", "MJPG")  # codecs whose frames can each be decoded alone
FORMATS: Final = {"RGB": "rgb24", "BGR": "bgr24", "I420": "yuv420p"}


def ffmpeg() -> Any:
    """Return the module of PyAV.

    Raises:
        MissingExtra: it is not installed.
    """
    os.environ.setdefault("SVT_LOG", "0")  # or SVT-AV1 tells its settings on standard error
    return need("av", "video")


def check_order(order: str) -> None:
    """Raise ValueError for an order of bytes that does not exist."""
    if order not in FORMATS:
        raise ValueError(f"order must be one of {tuple(FORMATS)}, not {order!r}")


def codecs_here() -> tuple[Codec, ...]:
    """Return the codecs that can be encoded on this system."""
    out: list[Any] = ["I420"]
    try:
        available = ffmpeg().codecs_available
    except ModuleNotFoundError:
        available = ()
    out[:0] = [codec for codec, (name, _) in LOW_DELAY.items() if name in available]
    try:
        need("simplejpeg", "video")
        out.append("MJPG")
    except ModuleNotFoundError:
        pass
    return tuple(out)
