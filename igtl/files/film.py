"""Recordings as a film: .mp4."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from igtl.errors import FileError
from igtl.extras import need
from igtl.files.part import Part, told

_TICKS: Final = 90_000  # of the clock of a film, each second


def write(part: Part, path: Path) -> None:
    """Write the one stream of pictures as H.264."""
    shown = [
        stream for stream in part.streams
        if len(stream) and stream.has_frames and stream.type_name != "NDARRAY"
    ]  # fmt: skip
    if len(shown) != 1:
        raise FileError(
            path, f"a film shows one stream of pictures, not {told(shown) or 'none'}; choose one"
        )  # fmt: skip
    (stream,) = shown
    shape, dtype = stream.frames.shape, stream.frames.dtype
    grey = len(shape) == 3
    if dtype != np.uint8 or not (grey or (len(shape) == 4 and shape[3] == 3)):
        raise FileError(path, f"a film has grey or RGB pictures of uint8, not {shape[1:]} {dtype}")
    av = need("av", "video")
    odd = (0, shape[1] % 2), (0, shape[2] % 2), (0, 0)
    is_odd = shape[1] % 2 or shape[2] % 2
    with av.open(str(path), "w", format="mp4") as container:
        film = container.add_stream("libx264", rate=max(1, round(stream.rate)))
        film.width, film.height, film.pix_fmt = (
            shape[2] + odd[1][1],
            shape[1] + odd[0][1],
            "yuv420p",
        )
        film.codec_context.time_base = Fraction(1, _TICKS)
        film.options = {"crf": "18", "preset": "ultrafast"}  # the quality is that of the crf
        before = -1
        for n, (time, picture) in enumerate(zip(stream.times, stream.frames, strict=True), 1):
            if is_odd:
                picture = np.pad(picture, odd[: picture.ndim], "edge")
            pixels = np.ascontiguousarray(picture)
            frame = av.VideoFrame.from_ndarray(pixels, "gray" if grey else "rgb24")
            before = max(before + 1, round((time - stream.times[0]) * _TICKS))
            frame.pts, frame.time_base = before, Fraction(1, _TICKS)
            container.mux(film.encode(frame))
            part.progress("writing", n, len(stream))
        container.mux(film.encode())
