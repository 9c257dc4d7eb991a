"""Recordings as arrays: .npz of numpy and .h5 of HDF5."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.extras import need
from igtl.files.part import Part, Progress
from igtl.recording.reader import RecordedStream

_NAMES: Final = str.maketrans({"%": "%25", "/": "%2F", "\\": "%5C", "\0": "%00"})


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


def _name(stream: RecordedStream) -> str:
    """Return the name of a stream's arrays.

    HDF5 and zip files accept it, and no other stream has it.
    """
    device = stream.device_name.translate(_NAMES)
    if device in (".", ".."):
        device = device.replace(".", "%2E")
    return f"{stream.type_name}/{device or '%'}"


def _written(part: Part) -> Iterator[tuple[RecordedStream, _Column]]:
    """Yield all columns; their blocks tell the progress."""
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


def write_npz(part: Part, path: Path) -> None:
    """Write a file of numpy, a block of rows at a time."""
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


def write_h5(part: Part, path: Path) -> None:
    """Write a file of HDF5, with a group for each stream."""
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
