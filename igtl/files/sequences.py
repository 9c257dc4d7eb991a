"""Sequences, files of images in time with transforms, to timed messages and back.

PLUS and 3D Slicer record them; the transforms are those of the same instants.
"""

from __future__ import annotations

import math
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np

from igtl.codec.message import Message
from igtl.errors import FileError
from igtl.files.notes import note
from igtl.files.series import Series, placed, times_of
from igtl.messages.imaging import Image
from igtl.messages.plus import TrackedFrame, tool_states
from igtl.messages.tracking import TrackingData, Transform
from igtl.recording.reader import Recording

SUFFIXES: Final = (".igs.mha", ".igs.mhd", ".igs.nrrd", ".seq.mha", ".seq.mhd", ".seq.nrrd")
_TRANSFORM: Final = "Transform"
_STATUS: Final = "TransformStatus"
_STAMPS: Final = ("Timestamp", "UnfilteredTimestamp")


def is_sequence(path: Path) -> bool:
    """Return whether the name of a file is that of a sequence."""
    return path.name.lower().endswith(SUFFIXES)


def has_images(path: Path) -> bool:
    """Return whether a file is one of images, by its name.

    All formats of images but pictures can hold several.
    """
    return path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm"))


def messages_of(series: Series, path: Path, device_name: str) -> list[Message]:
    """Return the messages in the order of time: each image, then the transforms of its instant."""
    times = times_of(series)
    out: list[Message] = []
    for n in range(len(series.frames)):
        stamp = 0.0 if times is None else times[n]
        if not 0 <= stamp < 2**32:
            raise FileError(path, f"the time {stamp} of image {n} cannot be sent")
        fields = dict(series.fields[n]) if series.fields else {}
        transforms, others = _split(fields, path)
        if series.frames[n].size:
            image = series.image(n)
            image.device_name, image.timestamp = device_name, stamp
            image.metadata.update(others)
            out.append(image)
        for name, (matrix, status) in transforms.items():
            if "\0" in name:
                raise FileError(path, f"a transform has the name {name!r}")
            transform = Transform(matrix, device_name=name, timestamp=stamp)
            transform.metadata[_STATUS] = status
            out.append(transform)
    return out


def _split(fields: dict[str, str], path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return transforms with their statuses, by name, and all other fields of an image."""
    transforms: dict[str, Any] = {}
    for key in [key for key in fields if key.endswith(_TRANSFORM) and key != _TRANSFORM]:
        numbers = [float(word) for word in fields.pop(key).split()]
        if len(numbers) != 16:
            raise FileError(path, f"{key!r} has {len(numbers)} numbers, not 16")
        status = fields.pop(f"{key}Status", "OK")
        transforms[key.removesuffix(_TRANSFORM)] = np.reshape(numbers, (4, 4)), status
    for key in _STAMPS:
        fields.pop(key, None)
    return transforms, fields


class _Sample(NamedTuple):
    time: float | None
    matrix: Any
    status: str


class _Facts(NamedTuple):
    """What is kept of an image besides its pixels."""

    time: float | None
    place: Any
    metadata: dict[str, Any]


class Stack:
    """The pixels of images, one after the other, in a temporary file.

    The pixels of long sequences do not fit into memory.

    Args:
        path: of the sequence, in whose folder the temporary file lies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.uint8)
        self._count = 0

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile(dir=self._path.parent, prefix="igtl-")
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def add(self, pixels: Any) -> None:
        """Append the pixels of an image.

        Raises:
            FileError: they differ from the others in shape or type.
        """
        if not self._count:
            self._shape, self._dtype = pixels.shape, pixels.dtype
        if pixels.shape != self._shape or pixels.dtype != self._dtype:
            raise FileError(
                self._path, f"the images differ: {self._dtype} {self._shape}, "
                f"{pixels.dtype} {pixels.shape}",
            )  # fmt: skip
        self._file.write(np.ascontiguousarray(pixels).data)
        self._count += 1

    def array(self) -> Any:
        """(n, k, j, i[, components]); the system loads the pages that are used."""
        shape = self._count, *self._shape
        if not math.prod(shape):
            return np.zeros(shape, self._dtype)
        self._file.flush()
        return np.memmap(self._file, self._dtype, "r", shape=shape)


def series_of(
    messages: Iterable[Message] | Recording, path: Path, tolerance: float, stack: Stack
) -> Series:
    """Return the images among messages, with the transforms nearest in time.

    Their pixels are in the stack.
    """
    images: list[_Facts] = []
    names: set[str] = set()
    streams: dict[str, list[_Sample]] = {}
    left_out: set[str] = set()
    for message in _each(messages):
        if isinstance(message, Transform | TrackingData | TrackedFrame):
            for name, matrix, status in tool_states(message):
                streams.setdefault(name, []).append(
                    _Sample(message.timestamp, np.array(matrix), str(status))
                )
        image = _image_of(message) if isinstance(message, TrackedFrame) else message
        if isinstance(image, Image):
            names.add(image.device_name)
            if len(names) > 1:
                raise FileError(
                    path, f"a sequence has images of one device, not of {', '.join(sorted(names))}"
                )
            stack.add(image.array)
            images.append(_Facts(image.timestamp, placed(image, "RAS"), dict(image.metadata)))
        elif not isinstance(message, Transform | TrackingData):
            left_out.add(message.type_name)
    if left_out:
        note(f"a sequence has no place for {', '.join(sorted(left_out))}")
    if not images and not streams:
        raise FileError(path, "there is neither an image nor a transform")
    clock = max(streams.values(), key=len) if not images else []
    times = [image.time for image in images] or [sample.time for sample in clock]
    series = Series(stack.array(), images[0].place) if images else Series(
        np.zeros((len(times), 1, 0, 0), np.uint8), np.eye(4)
    )  # fmt: skip
    series.fields = _fields(images, times, streams, tolerance)
    if images and any(not np.allclose(i.place, images[0].place, atol=1e-4) for i in images):
        (device,) = names
        name = "To".join(device.split("_")) if device.count("_") == 1 else "ImageToReference"
        note(f"the images move: where each one is, is written as the transform {name}")
        series.ijk_to_world = np.eye(4)
        for each, facts in zip(series.fields, images, strict=True):
            each[name + _TRANSFORM] = _numbers(facts.place)
            each[f"{name}{_STATUS}"] = "OK"
    return series


def _image_of(frame: TrackedFrame) -> Image:
    """Return the image of a frame of PLUS, with its fields."""
    image = Image(frame.array, ijk_to_world=frame.ijk_to_world, device_name="Image")
    image.timestamp_raw = frame.timestamp_raw
    image.metadata = {k: text for k, text in frame.fields.items() if k not in _STAMPS}
    return image


def _each(messages: Iterable[Message] | Recording) -> Iterator[Message]:
    if isinstance(messages, Recording):
        for recorded in messages:
            yield recorded.frame.unpack()
    else:
        yield from messages


def _fields(
    images: list[_Facts],
    times: Sequence[float | None],
    streams: dict[str, list[_Sample]],
    tolerance: float,
) -> list[dict[str, str]]:
    timed = any(time is not None for time in times)
    if timed:
        for samples in streams.values():
            samples.sort(key=lambda sample: sample.time or 0.0)
    out = []
    for n, time in enumerate(times):
        fields: dict[str, str] = {"FrameNumber": str(n)}
        if timed:
            fields["Timestamp"] = f"{time or 0.0:.6f}"
        if images:
            fields["ImageStatus"] = "OK"
            fields |= _texts(images[n])
        for name, samples in streams.items():
            sample = _nearest(samples, time or 0.0, tolerance) if timed else (
                samples[n] if n < len(samples) else None
            )  # fmt: skip
            key = name + _TRANSFORM
            fields[key] = _numbers(np.eye(4) if sample is None else sample.matrix)
            fields[f"{key}Status"] = "MISSING" if sample is None else sample.status
        out.append(fields)
    return out


def _texts(image: _Facts) -> dict[str, str]:
    """Return the metadata of an image that a line of text holds."""
    out = {}
    for key, value in image.metadata.items():
        text = str(value)
        if set("=\r\n") & set(key) or set("\r\n") & set(text):
            note(f"the field {key!r} is not one line of text, and is left out")
        elif not key.endswith((_TRANSFORM, _STATUS)):
            out[key] = text
    return out


def _nearest(samples: list[_Sample], time: float, tolerance: float) -> _Sample | None:
    at = bisect_left(samples, time, key=lambda sample: sample.time or 0.0)
    near = samples[max(0, at - 1) : at + 1]
    found = min(near, key=lambda sample: abs((sample.time or 0.0) - time))
    return found if abs((found.time or 0.0) - time) <= tolerance else None


def _numbers(matrix: Any) -> str:
    return " ".join(f"{x:.9g}" for x in np.asarray(matrix, np.float64).ravel())
