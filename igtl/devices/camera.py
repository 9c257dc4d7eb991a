"""Cameras, films and the screen, as IMAGE or VIDEO."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from igtl.devices.device import Device, Item, option
from igtl.devices.film import Input, Picture, messages_of, pictures
from igtl.video.codecs import Codec, ffmpeg

_CAMERAS: Final = {"win32": "dshow", "darwin": "avfoundation"}
_SCREENS: Final = {"win32": "gdigrab", "darwin": "avfoundation"}
_WHOLE: Final = {"win32": "desktop", "darwin": "Capture screen 0:none"}
_GENERATED: Final = ("testsrc", "smptebars", "rgbtestsrc", "yuvtestsrc", "mandelbrot")
_RATE: Final = 30.0  # of a camera without the option fps, for the bit rate


@dataclass(frozen=True, kw_only=True)
class Filmed(Device):
    """Base of devices that read the frames of a camera or a film."""

    size: tuple[int, int] | None = option(None, "width and height to ask a camera for")
    fps: float | None = option(None, "frames a second to ask a camera for, or to play a film at")
    loop: bool = option(False, "play a film again and again")
    pace: bool = option(True, "play a film at its own speed; no: as fast as it is taken")
    format: str = option("", "what FFmpeg opens: lavfi for generated pictures, v4l2, dshow, …")
    ffmpeg: str = option("", "further options of FFmpeg, as input_format=mjpeg:rtbufsize=64M")

    takes: ClassVar[str] = "/dev/video0, 0, a file, rtsp://…, testsrc=size=640x480:rate=30"
    stamp: ClassVar[str] = "driver (v4l2), else arrival; of a film: when the frame is due"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rate(self.fps)

    @classmethod
    def found(cls) -> list[str] | None:
        """Return the cameras that FFmpeg can list; None if it cannot."""
        look = getattr(ffmpeg(), "enumerate_input_devices", None)  # of newer versions of PyAV
        if look is None:
            return None
        kind = _CAMERAS.get(sys.platform, "v4l2")
        prefix = "video=" if kind == "dshow" else ""
        try:
            return [f"{prefix}{device.name} ({device.description})" for device in look(kind)]
        except (OSError, ValueError):  # this FFmpeg cannot tell
            return None

    @property
    def live(self) -> bool:
        """Whether the input is live, and not a film."""
        return self.input.live

    @property
    def input(self) -> Input:
        """What FFmpeg opens."""
        argument = self.argument or "0"
        options = _options(self.ffmpeg)
        if self.format == "lavfi" or (not self.format and argument.startswith(_GENERATED)):
            return Input(argument, "lavfi", options, live=False, fps=self.fps)
        if "://" in argument:
            return Input(argument, self.format or None, options)
        system = _CAMERAS.get(sys.platform, "v4l2")
        is_camera = argument.isdigit() or argument.startswith(("/dev/", "video=", "default"))
        if not (self.format or is_camera):
            return Input(argument, None, options, live=False, fps=self.fps)
        kind = self.format or system
        if argument.isdigit() and kind == "v4l2":
            argument = f"/dev/video{argument}"
        if kind == "v4l2":
            options = {"timestamps": "abs", **options}  # of the wall clock
        return Input(argument, kind, {**_asked(self.size, self.fps), **options})

    def pictures(self) -> Iterator[Picture | None]:
        """Return the frames, from opening on; None while none is due."""
        return pictures(self.input, loop=self.loop, pace=self.pace)


@dataclass(frozen=True, kw_only=True)
class Camera(Filmed):
    """A camera, a film, an address, or generated pictures."""

    name: str = option("Camera", "device name of the messages")
    encode: Codec | None = option(None, "send VIDEO of this codec instead of IMAGE")

    sends: ClassVar = "IMAGE, or VIDEO"
    needs: ClassVar = {"av": "video"}

    def messages(self) -> Iterator[Item]:
        """Return the frames as IMAGE, or as VIDEO with `encode`."""
        return messages_of(self.pictures(), self.name, self.encode, self.fps or _RATE)


@dataclass(frozen=True, kw_only=True)
class Screen(Device):
    """The screen, or a part of it."""

    name: str = option("Screen", "device name of the messages")
    size: tuple[int, int] | None = option(None, "width and height of a part of it")
    at: tuple[int, int] = option((0, 0), "where that part begins, in pixels from the top left")
    fps: float = option(10.0, "frames a second")
    encode: Codec | None = option(None, "send VIDEO of this codec instead of IMAGE")

    takes: ClassVar = "the X display, as :0 (Linux); a window, as title=… (Windows)"
    sends: ClassVar = "IMAGE, or VIDEO"
    stamp: ClassVar = "driver (x11grab, gdigrab), else arrival"
    needs: ClassVar = {"av": "video"}

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rate(self.fps)

    @property
    def input(self) -> Input:
        """What FFmpeg opens."""
        x, y = self.at
        options = _asked(self.size, self.fps)
        kind = _SCREENS.get(sys.platform, "x11grab")
        url = self.argument or _WHOLE.get(sys.platform) or os.environ.get("DISPLAY", ":0")
        if kind == "gdigrab":
            options |= {"offset_x": str(x), "offset_y": str(y)}
        elif kind == "x11grab":
            options |= {"grab_x": str(x), "grab_y": str(y)}
        return Input(url, kind, options)

    def messages(self) -> Iterator[Item]:
        """Return the frames as IMAGE, or as VIDEO with `encode`."""
        return messages_of(pictures(self.input), self.name, self.encode, self.fps)


def _check_rate(fps: float | None) -> None:
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be above 0, not {fps}")


def _asked(size: tuple[int, int] | None, fps: float | None) -> dict[str, str]:
    """Return the options of a size and rate, which all of FFmpeg's drivers share."""
    options = {} if fps is None else {"framerate": f"{fps:g}"}
    return options if size is None else {**options, "video_size": "{}x{}".format(*size)}


def _options(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(":") if part]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"ffmpeg={text}: {wrong[0]!r} has no value")
    return {name: value for name, _, value in pairs}
