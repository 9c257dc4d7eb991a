"""Where the messages of a recorded stream lie, and their pictures, read one by one."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl import _core
from igtl.codec.message import Message
from igtl.errors import BodyError
from igtl.messages.general import NDArray
from igtl.messages.imaging import FrameType, Image, Video
from igtl.messages.plus import TrackedFrame, UsMessage

Numbers = npt.NDArray[np.int64]
Small = npt.NDArray[np.int32]
PICTURES: Final = (Image, Video, TrackedFrame, UsMessage, NDArray)
_ALONE: Final = ("I420", "MJPG")  # codecs whose frames can each be decoded alone
_WAITS: Final = (FrameType.INTER, FrameType.SKIPPED)


class Shape(NamedTuple):
    """Shape and number type of a picture."""

    shape: tuple[int, ...]
    dtype: str


class Rows(NamedTuple):
    """The good messages of a stream, in order of arrival.

    Attributes:
        times_ns, stamps_ns: (N,) arrivals, and time stamps of the headers, nanoseconds since 1970;
            stamps are 0 where not set.
        chunks, places: (N,) number of the chunk of the file, and of the record in it.
        kinds: (N,) which of `shapes` each picture has; empty of other messages.
        starts: (N,) row from which a decoder must begin in order to show this one; empty of all
            but VIDEO.
        shapes: of pictures.
        bad_ns: (M,) arrivals of messages that are left out, rising.
    """

    times_ns: Numbers
    stamps_ns: Numbers
    chunks: Small
    places: Small
    kinds: Small
    starts: Numbers
    shapes: tuple[Shape, ...]
    bad_ns: Numbers


class RowsBuilder:
    """Collects `Rows` in the order of the file.

    There may be millions, so they are numbers from the beginning.
    """

    def __init__(self) -> None:
        self._bad = array("q")
        self._times, self._stamps = array("q"), array("q")
        self._chunks, self._places = array("i"), array("i")
        self._kinds = array("i")  # of pictures
        self._needs, self._ids = array("i"), array("q")  # of VIDEO
        self._shapes: dict[Shape, int] = {}

    def add_bad(self, time_ns: int) -> None:
        """Add a message that is left out."""
        self._bad.append(time_ns)

    def add(self, time_ns: int, chunk: int, place: int, message: Message) -> None:
        """Add a good message."""
        self._times.append(time_ns)
        self._stamps.append(_core.time_ns_of(message.timestamp_raw))
        self._chunks.append(chunk)
        self._places.append(place)
        if isinstance(message, PICTURES):
            shape = _shape_of(message)
            self._kinds.append(self._shapes.setdefault(shape, len(self._shapes)))
        if isinstance(message, Video):
            self._needs.append(_dependence(message))
            self._ids.append(message.message_id)

    def rows(self) -> Rows:
        """Return the rows of the messages.

        VIDEO that no decoder can show, for lack of a key frame, is bad.
        """
        times = np.frombuffer(self._times, np.int64)
        order: Any = slice(None)
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
        starts = np.zeros(0, np.int64)
        bad = np.frombuffer(self._bad, np.int64)
        if len(self._kinds) != len(times):  # of a channel that several types share
            self._kinds = array("i")
        if self._needs and len(self._needs) == len(times):
            needs, ids = np.frombuffer(self._needs, np.int32), np.frombuffer(self._ids, np.int64)
            usable, starts = _decodable(needs[order].tolist(), ids[order].tolist())
            ordered = np.arange(len(times))[order]
            order = ordered[usable]
            bad = np.concatenate([bad, times[np.setdiff1d(ordered, order)]])
        return Rows(
            times[order], np.frombuffer(self._stamps, np.int64)[order],
            np.frombuffer(self._chunks, np.int32)[order],
            np.frombuffer(self._places, np.int32)[order],
            np.frombuffer(self._kinds, np.int32)[order if self._kinds else slice(None)],
            starts, tuple(self._shapes), np.sort(bad),
        )  # fmt: skip


def _shape_of(message: Message) -> Shape:
    if isinstance(message, Video):
        width, height, _ = (int(n) for n in message.size)
        return Shape((height, width) if message.grey else (height, width, 3), "|u1")
    pixels = _pixels(message)
    return Shape(pixels.shape, pixels.dtype.str)


def _pixels(message: Any) -> npt.NDArray[Any]:
    """Return the array of a message; a volume of one slice is a picture."""
    pixels: npt.NDArray[Any] = message.array
    flat = len(pixels) == 1 and pixels.ndim > 2 and not isinstance(message, NDArray)
    return pixels[0] if flat else pixels


def _dependence(message: Video) -> int:
    """0: needs no other frame; 1: begins a run; 2: needs those before it; 3: does not say."""
    if message.codec in _ALONE:
        return 0
    if message.kind == FrameType.KEY:
        return 1
    return 2 if message.kind in _WAITS else 3


def _decodable(dependences: list[int], ids: list[int]) -> tuple[list[int], Numbers]:
    """Return the frames that a VideoDecoder shows, and for each the first frame that it needs.

    Both follow from what the frames say of themselves; the first frames are counted among the
    decodable ones.
    """
    usable: list[int] = []
    starts = array("q")
    start = -1  # waiting for a key frame
    before = 0
    for n, (dependence, number) in enumerate(zip(dependences, ids, strict=True)):
        late = 0 < number <= before and dependence != 1
        if not late:
            if before and number > before + 1:
                start = -1
            before = number
        if dependence == 0:
            first = len(usable)
        elif dependence == 1 or (dependence == 3 and start < 0 and not late):
            first = start = len(usable)
        elif start < 0 or late:
            continue
        else:
            first = start
        usable.append(n)
        starts.append(first)
    return usable, np.array(starts, np.int64)


class Pictures:
    """The pictures of a whole stream; of VIDEO the decoder, which goes on from the last one.

    Args:
        rows: of the stream.
        message: gives the message of a row.
    """

    def __init__(self, rows: Rows, message: Callable[[int], Message]) -> None:
        self.rows = rows
        self._message = message
        self._decoder: Any = None
        self._at = -1
        self._shown: Any = None
        self._one_at_a_time = threading.Lock()

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        message = self._message(row)
        if not isinstance(message, Video):
            return np.array(_pixels(message))
        with self._one_at_a_time:
            return np.array(self._decoded(row))

    def _decoded(self, row: int) -> Any:
        if row == self._at:
            return self._shown
        first = int(self.rows.starts[row])
        if self._decoder is None or not first <= self._at < row:
            from igtl.video.decoder import VideoDecoder  # FFmpeg is an extra

            self._decoder, self._at = VideoDecoder(), first - 1
        decoder, at, self._decoder, self._at = self._decoder, self._at, None, -1
        picture = None
        for n in range(at + 1, row + 1):
            message = self._message(n)
            assert isinstance(message, Video)
            picture = decoder.decode(message)
        if picture is None:
            raise BodyError("VIDEO", "payload", f"frame {row} cannot be shown without a key frame")
        self._decoder, self._at, self._shown = decoder, row, picture
        return picture


class Frames(Sequence[npt.NDArray[Any]]):
    """The pictures of a stream as an array of (N, H, W[, C]) that is read when it is asked for.

    `frames[k]` is one picture, `frames[a:b]`, `frames[rows]` and `np.asarray(frames)` are arrays of
    several, and iterating yields one after the other: only what is asked for is in memory. Each is
    a copy. Colours of VIDEO are RGB. A volume is (N, K, H, W[, C]).

    Raises:
        BodyError: of VIDEO: a frame is damaged, or cannot be shown without one that is missing.
    """

    def __init__(self, pictures: Pictures, chosen: Numbers) -> None:
        self._pictures = pictures
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:  # type: ignore[override]
        """Return a picture, or an array of several.

        Raises:
            IndexError: there is no such row.
            ValueError: the chosen pictures differ in shape.
        """
        wanted = self._chosen[key]
        if np.ndim(wanted) == 0:
            return self._pictures[int(wanted)]
        found = self._shape(wanted)
        out = np.empty((len(wanted), *found.shape), found.dtype)
        for n, row in enumerate(wanted.tolist()):
            out[n] = self._pictures[row]
        return out

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for row in self._chosen.tolist():
            yield self._pictures[row]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("the pictures are in a file: an array of them is a copy")
        return np.asarray(self[:], dtype)

    def _shape(self, wanted: Numbers) -> Shape:
        rows = self._pictures.rows
        kinds = np.unique(rows.kinds[wanted]).tolist() if len(wanted) else range(len(rows.shapes))
        shapes = sorted({rows.shapes[kind] for kind in kinds})
        if len(shapes) == 1:
            return shapes[0]
        if not shapes:
            return Shape((0, 0), "|u1")
        told = ", ".join(f"{s.shape} {np.dtype(s.dtype)}" for s in shapes)
        raise ValueError(f"the pictures differ in shape: {told}; take them one by one")

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W[, C]). ValueError if the pictures differ in shape."""
        return len(self), *self._shape(self._chosen).shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type. ValueError if the pictures differ."""
        return np.dtype(self._shape(self._chosen).dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __repr__(self) -> str:
        shapes = sorted({s.shape for s in self._pictures.rows.shapes})
        return f"<{len(self)} pictures of {' or '.join(map(str, shapes))}>"
