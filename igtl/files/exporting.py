"""Recordings to the files of other programs: `igtl.export`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final

from igtl._core import Frame
from igtl.codec.compression import Compressed
from igtl.codec.message import Message
from igtl.errors import FileError, ProtocolError
from igtl.files import arrays, film, save_sequence, sequences, table
from igtl.files.blame import blamed
from igtl.files.notes import note, one_warning
from igtl.files.part import Decoding, Part, Progress
from igtl.recording.reader import Recording
from igtl.recording.recorder import Recorder

_NS: Final = 10**9
_QUEUED: Final = 8 << 20  # bytes that wait for the disk
_COMPRESSED: Final = "COMPRESSED"


def export(
    source: str | os.PathLike[str] | Recording,
    path: str | os.PathLike[str],
    *,
    streams: Collection[str | tuple[str, str]] | None = None,
    start: float = 0.0,
    end: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a recording to a file of another kind, which its suffix chooses.

    * .npz, .h5: arrays by "TYPE/device/name": times, timestamps, and frames of pictures, the
      columns of `igtl.batch` of other types (elements with their offsets), or json, a text for
      each message. In names of devices "/" is "%2F". .h5 needs `pip install "igtl[hdf5]"`.
    * .csv: a line for each message, of a list of tools or points one for each element, in order of
      arrival; pictures and types without columns are left out. A text that a spreadsheet would
      compute (it begins with =, +, - or @) has a ' before it.
    * .mp4: the pictures of one stream, 8 bits deep, as H.264 at the times of their arrival; an odd
      line or column is doubled. Needs `pip install "igtl[video]"`.
    * .igs.mha, .seq.nrrd and others of `save_sequence`: images, with the transforms of their
      instant.
    * no suffix: the folder of a ROS 2 bag, see `igtl.ros`.
      Needs `pip install "igtl[ros]"`.
    * .foxglove.mcap: for Foxglove, see `igtl.foxglove`.
      Needs `pip install "igtl[foxglove]"`.
    * .mcap: a recording again, of the chosen streams and the chosen time, or of a bag,
      byte by byte.

    One message at a time is in memory; for formats of columns, one stream at a time. A sequence
    needs twice its size on the disk while it is written. COMPRESSED messages are decompressed,
    except for a bag and a recording, which keep them.

    Args:
        source: a recording, its file, or the folder of a ROS 2 bag.
        path: of the file, which is replaced if it exists.
        streams: only these, each as in `recording[...]`; default all.
        start: seconds from the beginning of the recording.
        end: as `start`; default: the end of the recording.
        progress: called with what is done ("reading", "writing"), how much of it, and the total.

    Raises:
        KeyError: a stream does not exist, as with recording[...].
        FileError: the format is not known, or cannot hold this; the text says why.
        OSError: a file cannot be read or written.
        ModuleNotFoundError: a library is missing; the text says which package has it.

    Warns:
        FileWarning: something is left out.
    """
    path = Path(path)
    with one_warning(path), ExitStack() as stack:
        write = _writer_of(path)
        tell = progress or (lambda *_: None)
        if not isinstance(source, Recording):
            source = stack.enter_context(opened(source, tell))
        if path.exists() and path.samefile(source.path):
            raise FileError(path, "is the recording itself")
        keys = source.streams if streams is None else streams
        chosen = list({id(source[key]): source[key] for key in keys}.values())
        part = Part(source, chosen, start, end, tell)
        if write not in _STREAMED:
            part = stack.enter_context(_in_rows(part))
        partial = path.with_name(f"{path.name}.part")
        if write is _write_sequence:  # which may be several files that name each other
            write(part, path)
            return
        try:
            with blamed(path):
                write(part, partial)
                _replace(partial, path)
        except FileError as error:
            if error.path == partial:
                raise FileError(path, error.reason) from None
            raise
        finally:
            _remove(partial)


@contextmanager
def opened(
    path: str | os.PathLike[str], progress: Progress = lambda *_: None
) -> Iterator[Recording]:
    """Open a recording, or a ROS 2 bag as one.

    A bag is converted to a temporary recording.

    Args:
        path: the file of a recording, or the folder of a bag.
        progress: called with how much of the bag is read.

    Raises:
        FileError: the path is neither. OSError: it cannot be read.
        ModuleNotFoundError: rosbags is missing; the text says which package has it.
    """
    path = Path(path)
    with ExitStack() as stack:
        if path.is_dir():
            from igtl.ros import bags

            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="igtl-"))
            copy = Path(folder, f"{path.name}.mcap")
            with one_warning(path), blamed(path):
                bags.convert(path, copy, progress)
            path = copy
        yield stack.enter_context(Recording(path))


@contextmanager
def _in_rows(part: Part) -> Iterator[Part]:
    """With COMPRESSED messages opened, and the rows of the streams known."""
    with ExitStack() as stack:
        if any(stream.type_name == _COMPRESSED for stream in part.streams):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="igtl-"))
            copy = Path(folder, "opened.mcap")
            _open_compressed(part, copy)
            recording = stack.enter_context(Recording(copy))
            part = Part(recording, [*recording.streams.values()], 0.0, None, part.progress)
        recording = part.recording
        recording.read_index(lambda done, total: part.progress("reading", done, total))
        if bad := sum(stream.bad_between(part.start, part.end) for stream in part.streams):
            note(f"{bad} messages are left out: damaged, or VIDEO without its key frame")
        yield part._replace(
            streams=[stream.between(part.start, part.end) for stream in part.streams]
        )


def _open_compressed(part: Part, path: Path) -> None:
    """Record again, with COMPRESSED messages opened; one that cannot be is left out."""
    damaged = 0
    with Recorder(path, max_queued_bytes=_QUEUED) as recorder:
        for recorded in part.frames():
            frame = recorded.frame
            if frame.type_name == _COMPRESSED:
                try:
                    inner = frame.unpack()
                    assert isinstance(inner, Compressed)
                    frame = Frame.from_bytes(inner.wire())
                except ProtocolError:
                    damaged += 1
                    continue
            recorder.write(
                frame, peer=recorded.peer, connection=recorded.connection,
                received=Fraction(recorded.time_ns, _NS),
            )  # fmt: skip
    if damaged:
        note(f"{damaged} COMPRESSED messages are left out: damaged, or too large")


def _write_recording(part: Part, path: Path) -> None:
    with Recorder(path, max_queued_bytes=_QUEUED) as recorder:
        for event in part.events():
            facts = {key: value for key, value in event.items() if key not in ("event", "time_ns")}
            received = Fraction(event["time_ns"], _NS)
            recorder.event(event["event"], received=received, **facts)
        for recorded in part.frames():
            recorder.write(
                recorded.frame, peer=recorded.peer, connection=recorded.connection,
                received=Fraction(recorded.time_ns, _NS),
            )  # fmt: skip


def _write_sequence(part: Part, path: Path) -> None:
    decoded = map(Decoding(), (message for _, message in part.messages()))
    images: Iterator[Message] = (message for message in decoded if message is not None)
    save_sequence(images, path)


def _write_bag(part: Part, path: Path) -> None:
    from igtl.ros import bags

    bags.write(part, path)


def _write_foxglove(part: Part, path: Path) -> None:
    from igtl.foxglove import files

    files.write(part, path)


_WRITERS: Final[dict[str, Callable[[Part, Path], None]]] = {
    ".npz": arrays.write_npz, ".csv": table.write, ".h5": arrays.write_h5,
    ".hdf5": arrays.write_h5, ".mp4": film.write, ".foxglove.mcap": _write_foxglove,
    ".mcap": _write_recording,
}  # fmt: skip
_STREAMED: Final = (_write_recording, _write_bag, _write_foxglove)
"""Those that take the messages one by one as they came, without rows."""


def _writer_of(path: Path) -> Callable[[Part, Path], None]:
    name = path.name.lower()
    for suffix, write in _WRITERS.items():
        if name.endswith(suffix):
            return write
    if sequences.is_sequence(path) or sequences.has_images(path):
        return _write_sequence
    if not path.suffix:
        return _write_bag
    known = ", ".join([*_WRITERS, *sequences.SUFFIXES])
    raise FileError(
        path, f"a recording is exported to {known}, another format of images, or a folder, which "
        "has no suffix and becomes a ROS 2 bag",
    )  # fmt: skip


def _replace(partial: Path, path: Path) -> None:
    """Put what was written in its place. A folder is replaced only if it is empty, or a bag."""
    if path.is_dir():
        if any(path.iterdir()) and not (path / "metadata.yaml").exists():
            raise FileError(path, "is a folder, but not a ROS 2 bag: it is not replaced")
        shutil.rmtree(path)
    os.replace(partial, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
