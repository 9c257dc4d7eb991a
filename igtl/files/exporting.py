"""Recordings to the files of other programs: `igtl.export`."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.codec.elements import Element
from igtl.codec.message import Message
from igtl.errors import FileError, ProtocolError
from igtl.extras import need
from igtl.files import save_sequence, sequences
from igtl.files.blame import blamed
from igtl.files.notes import note, one_warning
from igtl.messages.imaging import Video
from igtl.recording.reader import RecordedStream, Recording
from igtl.video.decoder import VideoDecoder

Progress = Callable[[str, int, int], object]
_TICKS: Final = 90_000  # of the clock of a film, each second
_NAMES: Final = str.maketrans({"%": "%25", "/": "%2F", "\\": "%5C", "\0": "%00"})


class _Part(NamedTuple):
    """What one file gets of a recording: the streams, cut to the time that was asked for."""

    recording: Recording
    streams: list[RecordedStream]
    start: float
    end: float | None
    progress: Progress

    def messages(self) -> Iterator[tuple[float, Message]]:
        """The good messages in order of arrival, and when each arrived, as in `times`."""
        keys = [(stream.type_name, stream.device_name) for stream in self.streams]
        total = sum(map(len, self.streams))
        done = 0
        for recorded in self.recording.frames(keys, start=self.start, end=self.end):
            try:
                message = recorded.frame.unpack()
            except ProtocolError:
                continue
            done += 1
            self.progress("writing", min(done, total), total)
            yield (recorded.time_ns - self.recording.start_ns) / 1e9, message


def export(
    source: str | os.PathLike[str] | Recording,
    path: str | os.PathLike[str],
    *,
    streams: Collection[str | tuple[str, str]] | None = None,
    start: float = 0.0,
    end: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a recording to a file of another kind, which its suffix chooses:

    * .npz, .h5: arrays by "TYPE/device/name": times, timestamps, and frames of pictures, the
      columns of `igtl.batch` of other types (elements with their offsets), or json, a text for
      each message. In names of devices "/" is "%2F". .h5 takes `pip install "igtl[hdf5]"`.
    * .csv: a line for each message, of a list of tools or points one for each element, in order of
      arrival; pictures and types without columns are left out.
    * .mp4: the pictures of one stream, 8 bits deep, as H.264 at the times of their arrival; an odd
      line or column is doubled. Takes `pip install "igtl[video]"`.
    * .igs.mha, .seq.nrrd and others of `save_sequence`: images, with the transforms of their
      instant.

    A message at a time is in memory, but for columns, of one stream at a time, and sequences, whose
    images are in memory together.

    Args:
        source: a recording, or its file.
        path: of the file, which is replaced if it exists.
        streams: only these, each as in `recording[...]`; default all.
        start, end: seconds from the beginning of the recording.
        progress: called with what is done ("reading", "writing"), how much of it, and the total.

    Raises:
        KeyError: as recording[...] has it.
        FileError: the format is not known, or cannot hold this; the text says why.
        OSError: a file cannot be read or written.
        ModuleNotFoundError: a library is missing; the text says what brings it.

    Warns:
        FileWarning: something is left out.
    """
    path = Path(path)
    with one_warning(path), ExitStack() as stack:
        write = _writer_of(path)
        if not isinstance(source, Recording):
            source = stack.enter_context(Recording(source))
        keys = source.streams if streams is None else streams
        chosen = {id(source[key]): source[key] for key in keys}.values()
        tell = progress or (lambda *_: None)
        source.read_index(lambda done, total: tell("reading", done, total))
        cut = [stream.between(start, end) for stream in chosen]
        part = _Part(source, cut, start, end, tell)
        if bad := sum(stream.bad for stream in chosen):
            note(f"{bad} messages are left out: damaged, or VIDEO without its key frame")
        if write is _to_sequence:
            _to_sequence(part, path)
            return
        partial = path.with_name(f"{path.name}.part")
        try:
            with blamed(path):
                write(part, partial)
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _writer_of(path: Path) -> Callable[[_Part, Path], None]:
    name = path.name.lower()
    for suffix, write in _WRITERS.items():
        if name.endswith(suffix):
            return write
    if sequences.is_sequence(path) or sequences.has_images(path):
        return _to_sequence
    known = ", ".join([*_WRITERS, *sequences.SUFFIXES])
    raise FileError(path, f"a recording is exported to {known}, or another format of images")


# -- arrays


class _Column(NamedTuple):
    """An array that is written a block of rows at a time."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterable[npt.NDArray[Any]]


def _whole(name: str, values: Any) -> _Column:
    array = np.asarray(values)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    return _Column(name, array.shape, array.dtype, [array])


def _columns(stream: RecordedStream) -> Iterator[_Column]:
    yield _whole("times", stream.times)
    yield _whole("timestamps", stream.timestamps)
    if not len(stream):
        return
    if not stream.has_frames:
        yield from _values(stream)
        return
    frames = stream.frames
    try:
        shape, dtype = frames.shape, frames.dtype
    except ValueError as error:
        raise ValueError(f"{stream.type_name} {stream.device_name!r}: {error}") from None
    yield _Column("frames", shape, dtype, (frame[np.newaxis] for frame in frames))


def _values(stream: RecordedStream) -> Iterator[_Column]:
    try:
        batch = stream.batch
    except (TypeError, ValueError):  # no columns, or none that all messages share
        yield _whole("json", [json.dumps(message.to_dict()) for message in stream.messages()])
        return
    for name, values in batch.columns.items():
        if batch.offsets is None or isinstance(values, np.ndarray | list):
            yield _whole(name, values)
            continue
        yield _whole(f"{name}/offsets", batch.offsets)
        for field in values.__item__.__fields__:
            if not field.hidden:
                yield _whole(f"{name}/{field.name}", getattr(values, field.plural))


def _told(streams: list[RecordedStream]) -> str:
    return ", ".join(f"{stream.type_name} {stream.device_name!r}" for stream in streams)


def _name(stream: RecordedStream) -> str:
    """Of its arrays; one that HDF5 and zip files take, and no other stream has."""
    device = stream.device_name.translate(_NAMES)
    if device in (".", ".."):
        device = device.replace(".", "%2E")
    return f"{stream.type_name}/{device or '%'}"


def _written(part: _Part) -> Iterator[tuple[RecordedStream, _Column]]:
    """All columns; their blocks tell the progress."""
    total = sum(map(len, part.streams))
    done = 0
    for stream in part.streams:
        for column in _columns(stream):
            if column.name == "frames":
                counted = _counting(column.blocks, done, total, part.progress)
                yield stream, column._replace(blocks=counted)
            else:
                yield stream, column
        done += len(stream)
        part.progress("writing", done, total)


def _counting(
    blocks: Iterable[npt.NDArray[Any]], done: int, total: int, progress: Progress
) -> Iterator[npt.NDArray[Any]]:
    for n, block in enumerate(blocks, done + 1):
        yield block
        progress("writing", n, total)


def _to_npz(part: _Part, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:

        def add(name: str, column: _Column) -> None:
            facts = {
                "descr": np.lib.format.dtype_to_descr(column.dtype), "fortran_order": False,
                "shape": column.shape,
            }  # fmt: skip
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, facts)
                for block in column.blocks:
                    member.write(np.ascontiguousarray(block, column.dtype).tobytes())

        add("start_ns", _whole("start_ns", part.recording.start_ns))
        for stream, column in _written(part):
            add(f"{_name(stream)}/{column.name}", column)


def _to_h5(part: _Part, path: Path) -> None:
    h5py = need("h5py", "hdf5")
    with h5py.File(path, "w") as file:
        file.attrs["start_ns"] = part.recording.start_ns
        for stream, column in _written(part):
            group = file.require_group(_name(stream))
            group.attrs["type"] = stream.type_name
            group.attrs["device_name"] = stream.device_name
            group.attrs["peers"] = ", ".join(stream.peers)
            if column.dtype.kind == "U":
                (values,) = column.blocks
                group.create_dataset(
                    column.name, data=values.astype(object), dtype=h5py.string_dtype()
                )
                continue
            large = column.name == "frames"  # a picture is read without the others
            chunks = (1, *(max(n, 1) for n in column.shape[1:])) if large else None
            data = group.create_dataset(column.name, column.shape, column.dtype, chunks=chunks)
            at = 0
            for block in column.blocks:
                if block.size:
                    data[at : at + len(block)] = block
                at += len(block)


# -- a table


def _to_csv(part: _Part, path: Path) -> None:
    kept = [stream for stream in part.streams if len(stream) and _is_flat(type(stream[0]))]
    if left := [stream for stream in part.streams if len(stream) and stream not in kept]:
        note(f"a table has no place for {_told(left)}")
    names: dict[str, None] = {}  # in the order of the columns
    for stream in kept:
        first = stream[0]
        fixed = all(
            field.kind != "elements" and not (field.kind == "array" and _varies(field.count))
            for field in type(first).__fields__
        )
        for message in [first] if fixed else stream.messages(crc="off"):
            for row in _lines(message):
                names.update(dict.fromkeys(row))
    facts = ("time", "timestamp", "type", "device_name")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*facts, *names])
        for time, message in part._replace(streams=kept).messages() if kept else ():
            stamp = message.timestamp
            head = [
                f"{time:.9f}", "" if not stamp else f"{stamp:.9f}", message.type_name,
                message.device_name,
            ]  # fmt: skip
            for row in _lines(message):
                writer.writerow([*head, *(row.get(name, "") for name in names)])


def _varies(count: Any) -> bool:
    return not isinstance(count, int)


def _is_flat(kind: type[Message]) -> bool:
    try:
        kind.__layout__.need_columns()
    except TypeError:
        return False
    return True


def _lines(message: Message) -> Iterator[dict[str, Any]]:
    """Name and value of each cell: a line, or one for each element of a list."""
    cells: dict[str, Any] = {}
    listed: list[tuple[str, Any]] = []
    for field in type(message).__fields__:
        if field.kind == "elements" and not field.hidden:
            listed.append((field.name, getattr(message, field.name)))
        elif not field.hidden:
            _flatten(cells, field.name, getattr(message, field.name))
    lines = 0
    for name, elements in listed:
        for element in elements:
            yield cells | _cells_of(name, element)
            lines += 1
    if not lines:
        yield cells


def _cells_of(name: str, element: Element) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for field in type(element).__fields__:
        if not field.hidden:
            _flatten(cells, f"{name}.{field.name}", getattr(element, field.name))
    return cells


def _flatten(cells: dict[str, Any], name: str, value: Any) -> None:
    if not isinstance(value, np.ndarray):
        cells[name] = value
        return
    rows = value[:3] if value.shape == (4, 4) else value  # the last row is 0 0 0 1
    digits = ".9g" if value.dtype == np.float32 else ""
    for at, number in zip(np.ndindex(rows.shape), rows.ravel().tolist(), strict=True):
        cells[f"{name}_{''.join(map(str, at)) if value.ndim == 2 else at[0]}"] = format(
            number, digits
        )


# -- a film, and sequences


def _to_mp4(part: _Part, path: Path) -> None:
    shown = [
        stream for stream in part.streams
        if len(stream) and stream.has_frames and stream.type_name != "NDARRAY"
    ]  # fmt: skip
    if len(shown) != 1:
        raise FileError(
            path, f"a film shows one stream of pictures, not {_told(shown) or 'none'}; choose one"
        )  # fmt: skip
    (stream,) = shown
    shape, dtype = stream.frames.shape, stream.frames.dtype
    grey = len(shape) == 3
    if dtype != np.uint8 or not (grey or (len(shape) == 4 and shape[3] == 3)):
        raise FileError(path, f"a film has grey or RGB pictures of uint8, not {shape[1:]} {dtype}")
    av = need("av", "video")
    odd = (0, shape[1] % 2), (0, shape[2] % 2), (0, 0)
    with av.open(str(path), "w", format="mp4") as container:
        film = container.add_stream("libx264", rate=max(1, round(stream.rate)))
        film.width, film.height, film.pix_fmt = (
            shape[2] + odd[1][1],
            shape[1] + odd[0][1],
            "yuv420p",
        )
        film.codec_context.time_base = Fraction(1, _TICKS)
        film.options = {"crf": "18", "preset": "veryfast"}
        before = -1
        for n, (time, picture) in enumerate(zip(stream.times, stream.frames, strict=True), 1):
            even = np.ascontiguousarray(np.pad(picture, odd[: picture.ndim], "edge"))
            frame = av.VideoFrame.from_ndarray(even, "gray" if grey else "rgb24")
            before = max(before + 1, round((time - stream.times[0]) * _TICKS))
            frame.pts, frame.time_base = before, Fraction(1, _TICKS)
            container.mux(film.encode(frame))
            part.progress("writing", n, len(stream))
        container.mux(film.encode())


def _to_sequence(part: _Part, path: Path) -> None:
    save_sequence(_with_images(part.messages()), path)


def _with_images(messages: Iterable[tuple[float, Message]]) -> Iterator[Message]:
    """VIDEO as images."""
    decoders: dict[str, VideoDecoder] = {}
    for _, message in messages:
        if not isinstance(message, Video):
            yield message
            continue
        decoder = decoders.setdefault(message.device_name, VideoDecoder())
        try:
            image = decoder.image(message)
        except ProtocolError:
            note("damaged VIDEO is left out")
            continue
        if image is not None:
            yield image


_WRITERS: Final[dict[str, Callable[[_Part, Path], None]]] = {
    ".npz": _to_npz, ".csv": _to_csv, ".h5": _to_h5, ".hdf5": _to_h5, ".mp4": _to_mp4,
}  # fmt: skip
