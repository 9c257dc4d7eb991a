"""Large volumes in slabs, with progress, and resumed where the connection broke.

On the wire each slab is an ordinary IMAGE that holds a sub-volume (docs/protocol.md 8.3), which any
standard receiver pastes into its picture of that name. On a link at header version 2 it also has a
message id (its number, from 1) and the metadata key "igtl.transfer" (which transfer, which slab of
how many). A receiver that uses `Assembler` answers each with RTS_IMAGE, the same id and key, status
0; or status 1 when it does not know the transfer, since it was restarted. Senders without that key
never get an RTS_IMAGE. So

* between igtl ends an interrupted transfer goes on at the first slab that was not confirmed;
* every other receiver gets the whole volume again.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.aio import steps as aio
from igtl.aio.link import Link as AioLink
from igtl.blocking import steps as blocking
from igtl.blocking.link import Link
from igtl.codec.message import Message
from igtl.errors import BodyError, ConnectionClosed
from igtl.messages.imaging import Image
from igtl.messages.queries import ReadyImage
from igtl.session.facade import AnyLink
from igtl.session.operations import wait_version
from igtl.session.steps import Steps

__all__ = ["Assembler", "Upload"]

KEY: Final = "igtl.transfer"
SLAB_BYTES: Final = 4 << 20
_WINDOW = 4  # slabs on their way without a confirmation
_ANSWER = 1.0  # seconds for the first confirmation; without it the peer is a standard one
_FINISHED = 64  # transfers remembered after their end, whose last confirmation may be lost

Progress = Callable[[int, int], None]


class Tag(NamedTuple):
    """The value of KEY."""

    transfer: str
    slab: int
    slabs: int

    @classmethod
    def of(cls, m: Message) -> Tag | None:
        """Return the tag of a message; None if it has none, or one of another form."""
        words = m.metadata.get(KEY, "").split()
        if len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()):
            return None
        tag = cls(words[0], int(words[1]), int(words[2]))
        return tag if 0 <= tag.slab < tag.slabs <= 65535 else None

    def __str__(self) -> str:
        return f"{self.transfer} {self.slab} {self.slabs}"


class Upload:
    """A volume on its way; `send` it over one link, and if that breaks over the next.

        upload = igtl.transfer.Upload(ct)
        for link in igtl.reconnect("viewer", version=2):
            with contextlib.suppress(igtl.ConnectionClosed):
                upload.send(link)
                break

    Slabs are confirmed on a link of header version 2: one that was made with `version=2`, or whose
    peer has shown it, for which `send` waits until the connection is a quarter of a second old.

    Args:
        image: the whole volume. Its pixels are not copied, and must not change meanwhile.
        slab_bytes: pixels of a slab, at most; at least one slice. Default 4 MiB.

    Attributes:
        slabs: how many there are.
        confirmed: how many slabs the receiver has confirmed.
        confirms: whether the receiver confirms slabs; None while that is not known.
    """

    def __init__(self, image: Image, *, slab_bytes: int = SLAB_BYTES) -> None:
        if tuple(image.sub_size) != tuple(image.size):
            raise ValueError("the image is itself a part of a volume")
        slices = image.array.shape[0]
        per_slice = max(1, image.array.nbytes // max(1, slices))
        self._image = image
        self._step = max(1, slab_bytes // per_slice)
        self.slabs = max(1, -(-slices // self._step))
        self.confirmed = 0
        self.confirms: bool | None = None
        self._transfer = os.urandom(8).hex()
        self._sent = 0
        self._tagged = False

    @property
    def bytes_sent(self) -> int:
        """Bytes of pixels sent, or confirmed if the receiver confirms."""
        done = self.confirmed if self.confirms else self._sent
        slices = min(done * self._step, self._image.array.shape[0])
        return int(self._image.array[:slices].nbytes)

    def send(self, link: Link, *, progress: Progress | None = None, timeout: float = 10.0) -> None:
        """Send what the receiver does not have yet.

        Returns when all is sent, and confirmed if the receiver confirms. No other thread may
        receive on the link meanwhile; other messages stay queued.

        Args:
            link: to the receiver.
            progress: called with bytes done and bytes in all, after each slab.
            timeout: seconds between two confirmations.

        Raises:
            ConnectionClosed: the link has closed: resume on another.
            TimeoutError: the receiver no longer confirms.
        """
        blocking.run(self._sending(link, progress, timeout))

    async def send_async(
        self, link: AioLink, *, progress: Progress | None = None, timeout: float = 10.0
    ) -> None:
        """Send as `send` does, on a link of `igtl.aio`."""
        await aio.run(self._sending(link, progress, timeout))

    def _sending(self, link: AnyLink, progress: Progress | None, timeout: float) -> Steps[None]:
        yield from wait_version(link)
        self._begin(link)
        while not self._finished:
            if (slab := self._next()) is not None:
                try:
                    yield link.send(slab)
                except ConnectionClosed:
                    with contextlib.suppress(ConnectionClosed, TimeoutError):
                        while True:  # what was confirmed before the end
                            self._take((yield link.recv_selected(self, 0.0)))
                    raise
            else:
                try:
                    self._take((yield link.recv_selected(self, self._patience(timeout))))
                except TimeoutError:
                    self._silence(timeout)
            self._tell(progress)

    # -- without I/O

    def matches(self, m: Message) -> bool:
        """Return whether m confirms a slab of this transfer, or refuses it."""
        tag = Tag.of(m) if isinstance(m, ReadyImage) else None
        return tag is not None and tag.transfer == self._transfer

    def __str__(self) -> str:
        return f"confirmation of slab {self.confirmed + 1} of {self._image.device_name!r}"

    def _begin(self, link: AnyLink) -> None:
        self._tagged = link.header_version == 2
        if not (self._tagged and self.confirms):
            self.confirmed = 0
            self.confirms = None if self._tagged else False
        self._sent = self.confirmed

    @property
    def _finished(self) -> bool:
        done = self._sent if self.confirms is False else self.confirmed
        return bool(done == self.slabs)

    def _next(self) -> Image | None:
        """Return the next slab to send; None while confirmations are awaited."""
        window = self.slabs if self.confirms is False else _WINDOW if self.confirms else 1
        if self._sent == self.slabs or self._sent - self.confirmed >= window:
            return None
        k = self._sent
        self._sent += 1
        return self._slab(k)

    def _slab(self, k: int) -> Image:
        whole, first = self._image, k * self._step
        slab = Image.from_volume(
            whole.array[first : first + self._step], device_name=whole.device_name
        )
        slab.timestamp_raw = whole.timestamp_raw
        slab.coordinate = whole.coordinate
        slab.size = whole.size
        slab.matrix = whole.matrix  # of the centre of the whole, for each part alike
        slab.offset = (0, 0, first)
        if self._tagged:
            slab.metadata = {**whole.metadata, KEY: str(Tag(self._transfer, k, self.slabs))}
            slab.message_id = k + 1
        return slab

    def _patience(self, timeout: float) -> float:
        return timeout if self.confirms else min(_ANSWER, timeout)

    def _silence(self, timeout: float) -> None:
        if self.confirms:
            raise TimeoutError(f"no {self} within {timeout} s") from None
        self.confirms = False  # a standard receiver: the slab that was sent has arrived

    def _take(self, m: Message) -> None:
        tag = Tag.of(m)
        assert tag is not None
        self.confirms = True
        if m.status == 1:  # type: ignore[attr-defined]
            self.confirmed = self._sent = 0  # it was restarted, and has nothing
        elif tag.slab == self.confirmed:
            self.confirmed += 1
            self._sent = max(self._sent, self.confirmed)

    def _tell(self, progress: Progress | None) -> None:
        if progress is not None:
            progress(self.bytes_sent, int(self._image.array.nbytes))


class _Canvas:
    """A volume of which parts have come."""

    def __init__(self, part: Image) -> None:
        i, j, k = (int(n) for n in part.size)
        shape = (k, j, i) if part.components == 1 else (k, j, i, part.components)
        self.like = _likeness(part)
        self.array: npt.NDArray[Any] = np.zeros(shape, part.array.dtype)
        self.matrix = np.array(part.matrix)
        self.coordinate = part.coordinate
        self._slices = np.zeros(k, bool)
        self._voxels: npt.NDArray[np.bool_] | None = None  # only where parts are not whole slices
        self.next_slab = 0

    def paste(self, part: Image) -> None:
        (i, j, k), (ni, nj, nk) = (tuple(map(int, v)) for v in (part.offset, part.sub_size))
        self.array[k : k + nk, j : j + nj, i : i + ni] = part.array
        if (ni, nj) == self.array.shape[2:0:-1]:
            self._slices[k : k + nk] = True
            return
        if self._voxels is None:
            self._voxels = np.zeros(self.array.shape[:3], bool)
        self._voxels[k : k + nk, j : j + nj, i : i + ni] = True

    @property
    def complete(self) -> bool:
        if self._voxels is None:
            return bool(self._slices.all())
        missing = self._voxels[~self._slices]
        return bool(missing.all())

    def image(self, part: Image, array: npt.NDArray[Any]) -> Image:
        out = Image.from_volume(array, device_name=part.device_name)
        out.timestamp_raw = part.timestamp_raw
        out.coordinate = self.coordinate
        out.matrix = self.matrix
        out.metadata = {key: value for key, value in part.metadata.items() if key != KEY}
        return out


def _likeness(part: Image) -> tuple[Any, ...]:
    return (*map(int, part.size), part.components, part.array.dtype)


class Assembler:
    """Puts sub-volumes together; may outlive the connections they come by.

        assembler = igtl.transfer.Assembler()

        @server.on(igtl.Image)
        def _(image, peer):
            volume, reply = assembler.add(image)
            if reply is not None: peer.send(reply)
            if volume is not None: show(volume)

    Args:
        max_bytes: of all volumes that are incomplete; default 1 GiB. Beyond it the oldest are
            dropped, and counted in `dropped`.

    Attributes:
        dropped: incomplete volumes that were dropped.
    """

    def __init__(self, *, max_bytes: int = 1 << 30) -> None:
        self.dropped = 0
        self._max_bytes = max_bytes
        self._canvases: dict[tuple[str, str], _Canvas] = {}  # by transfer, device name
        self._finished: deque[str] = deque(maxlen=_FINISHED)

    def add(self, part: Image) -> tuple[Image | None, ReadyImage | None]:
        """Take a part, or a whole image.

        Returns:
            The whole volume, once all of its parts have arrived, and the answer for the sender,
            or None. Of parts that no Upload has sent, each further part gives the volume again.

        Raises:
            BodyError: the volume would be larger than max_bytes, or the part does not fit it.
        """
        tag = Tag.of(part)
        if tag is None:
            whole = tuple(part.sub_size) == tuple(part.size)
            return (part, None) if whole else (self._paste(part), None)
        if tag.transfer in self._finished:
            return None, self._reply(part, 0)
        key = tag.transfer, part.device_name
        canvas = self._canvases.get(key)
        if tag.slab != (canvas.next_slab if canvas else 0):
            if canvas and tag.slab < canvas.next_slab:
                return None, self._reply(part, 0)  # sent again
            # something is missing: only what follows without a gap counts
            return None, self._reply(part, 1) if canvas is None else None
        canvas = canvas or self._new(key, part)
        self._fit(canvas, part)
        canvas.paste(part)
        canvas.next_slab += 1
        if tag.slab + 1 < tag.slabs:
            return None, self._reply(part, 0)
        del self._canvases[key]
        self._finished.append(tag.transfer)
        return canvas.image(part, canvas.array), self._reply(part, 0)

    def _paste(self, part: Image) -> Image | None:
        key = "", part.device_name
        canvas = self._canvases.get(key)
        if canvas is None or canvas.like != _likeness(part):
            canvas = self._new(key, part)
        canvas.paste(part)
        return canvas.image(part, canvas.array.copy()) if canvas.complete else None

    def _new(self, key: tuple[str, str], part: Image) -> _Canvas:
        self._canvases.pop(key, None)
        i, j, k = (int(n) for n in part.size)
        size = i * j * k * part.components * part.array.dtype.itemsize
        if size > self._max_bytes:
            raise BodyError("IMAGE", "size", f"{size} bytes, the limit is {self._max_bytes}")
        while self._canvases and size + self._held() > self._max_bytes:
            del self._canvases[next(iter(self._canvases))]
            self.dropped += 1
        self._canvases[key] = canvas = _Canvas(part)
        return canvas

    def _held(self) -> int:
        return sum(canvas.array.nbytes for canvas in self._canvases.values())

    @staticmethod
    def _fit(canvas: _Canvas, part: Image) -> None:
        if canvas.like != _likeness(part):
            raise BodyError("IMAGE", "size", "another volume than the slabs before it")

    @staticmethod
    def _reply(part: Image, status: int) -> ReadyImage:
        reply = ReadyImage(status, device_name=part.device_name, message_id=part.message_id)
        reply.metadata = {KEY: part.metadata[KEY]}
        return reply
