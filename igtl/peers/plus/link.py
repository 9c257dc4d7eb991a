"""A client of PLUS for programs without an event loop: `igtl.plus.connect`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar, Unpack, overload

import numpy.typing as npt

from igtl._stream import Stats
from igtl.blocking.drained import wait
from igtl.blocking.healing import ReconnectingLink
from igtl.blocking.healing import connect as connect_link
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.log import logger, named
from igtl.messages.imaging import Image
from igtl.messages.plus import TrackedFrame
from igtl.messages.queries import GetStatus
from igtl.options import PORT, ReconnectSettings, seconds
from igtl.peers.plus import core
from igtl.peers.plus.core import BACKOFF, SETTINGS, Matrix, Reading, Reply, Request, State, Tools
from igtl.peers.plus.rules import check_for_server
from igtl.peers.plus.selection import Select
from igtl.session.backoff import Backoff, LinkEvent, OnEvent
from igtl.session.requests import Exchange, Selection

M = TypeVar("M", bound=Message)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[[Any], Any])


class Frames(Reading[M]):
    """Iterator over the newest frames; see `Plus.frames`."""

    def __init__(self, plus: Plus, kind: type[M], name: str, timeout: float | None) -> None:
        self._plus = plus
        self._timeout = timeout
        with plus.changed:
            super().__init__(plus.state, kind, name)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> M:
        return self._plus.until(self.next, self.wanted, self._timeout)


class Parameters:
    """The parameters of one ultrasound device: `plus.us["UsDevice"]["DepthMm"] = 50`."""

    def __init__(self, plus: Plus, device: str) -> None:
        self._plus = plus
        self._device = device

    def __getitem__(self, name: str) -> float | str:
        """A number, or a text of several.

        Raises:
            CommandFailed: there is no such device or parameter, or it is not set.
        """
        return self._plus.ask(core.get_parameter(self._device, name))

    def __setitem__(self, name: str, value: object) -> None:
        self._plus.ask(core.set_parameter(self._device, name, value))


class Devices:
    """The ultrasound devices, by their id."""

    def __init__(self, plus: Plus) -> None:
        self._plus = plus

    def __getitem__(self, device: str) -> Parameters:
        return Parameters(self._plus, device)


class Reconstruction:
    """A volume that is reconstructed; see `Plus.reconstruct`.

    Attributes:
        image: the final volume; None until the end of the `with` block.
    """

    def __init__(self, plus: Plus, name: str, device: str | None, timeout: float) -> None:
        self.image: Image | None = None
        self._plus = plus
        self._name = name
        self._device = device
        self._timeout = timeout

    def _step(self, step: str) -> None:
        self._plus.ask(core.reconstruction(step, self._name, self._device), timeout=self._timeout)

    def _image(self, step: str) -> Image:
        frames = Frames(self._plus, Image, self._name, self._timeout)
        self._step(step)
        return next(frames)

    def snapshot(self) -> Image:
        """The volume so far."""
        return self._image("snapshot")

    def __enter__(self) -> Self:
        self._step("start")
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.image = self._image("stop")
        else:
            with contextlib.suppress(Exception):  # what was raised is told
                self._step("stop")


class Plus:
    """A client of PLUS; see `connect`. A thread reads whatever the program does, so that PLUS
    never waits for it, and calls handlers in another thread.

    Attributes:
        link: the link, which this owns. What is sent on it directly is not checked.
        tools: the statuses of the tools; see `Tools`.
        us: parameters of ultrasound devices.
        state, changed: what has arrived, and what guards it.
    """

    def __init__(
        self, link: ReconnectingLink, select: Select | None, timeout: float, silence: float
    ) -> None:
        self.link = link
        self.state = State(link.stats, silence)
        if select is not None:
            self.state.select(select)
        self.changed = threading.Condition()
        self.us = Devices(self)
        self._timeout = timeout
        self._threads = [
            threading.Thread(target=work, name=f"igtl plus {name}", daemon=True)
            for name, work in (("reader", self._read), ("handlers", self._call_handlers))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def tools(self) -> Tools:
        """The statuses of the tools by name, and `tools.on_change`."""
        return self.state.tools

    # -- the threads

    def _read(self) -> None:
        while True:
            left = self.state.tools.next_deadline() - time.monotonic()
            message: Message | None = None
            try:
                message = self.link.recv(timeout=max(0.0, left) if left < 3600 else None)
            except TimeoutError:
                pass
            except (ConnectionClosed, MessageTooLarge, OSError) as error:
                with self.changed:
                    self.state.reason = error
                    self.changed.notify_all()
                return
            except ProtocolError:  # it is counted
                continue
            with self.changed:
                if message is not None:
                    self.state.take(message, self.link.session.protocol.last_size)
                self.state.expire(time.monotonic())
                self.changed.notify_all()

    def _call_handlers(self) -> None:
        state = self.state
        while True:
            with self.changed:
                while not (state.waiting or state.changes or state.reason is not None):
                    self.changed.wait()
                changes, state.changes = state.changes, []
                message = state.waiting.take()
            for change in changes:
                for told in state.tools.handlers:
                    _call(told, *change)
            if message is not None:
                for handler in state.handlers_of(message):
                    _call(handler, message)
            elif not changes and state.reason is not None:
                return

    def until(self, take: Callable[[], T | None], wanted: object, timeout: float | None) -> T:
        """What `take` returns, as soon as it returns something.

        Raises:
            TimeoutError: that took too long; the text says what has arrived.
            ConnectionClosed, or another error: nothing more will arrive.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self.changed:
            while (found := take()) is None:
                left = None if end is None else max(0.0, end - time.monotonic())
                if left == 0.0 or not wait(self.changed, left):
                    raise TimeoutError(f"no {wanted} within {timeout} s; seen: {self.state.seen()}")
            return found

    # -- what arrives

    @overload
    def frames(self, *, timeout: float | None = ...) -> Frames[TrackedFrame]: ...
    @overload
    def frames(
        self, kind: type[M], name: str = ..., *, timeout: float | None = ...
    ) -> Frames[M]: ...
    def frames(
        self, kind: type[Any] = TrackedFrame, name: str = "*", *, timeout: float | None = None
    ) -> Frames[Any]:
        """Iterate over frames: each time the newest that has arrived and was not seen yet; waits
        for it. Frames for which the program had no time are passed over, and counted in the
        iterator's `passed_over` and as "superseded" in `stats.dropped`.

        Args:
            kind, name: TRACKEDFRAME, or for example `igtl.Image, "Image_Reference"`.
            timeout: seconds to wait for a frame; then TimeoutError. None: for ever.
        """
        return Frames(self, kind, name, seconds("timeout", timeout))

    def latest(self, kind: type[M], name: str = "*", *, max_age: float | None = None) -> M | None:
        """The newest message of a class whose device name fits, or None.

        Args:
            max_age: seconds since its arrival; an older one counts as none.
        """
        max_age = seconds("max_age", max_age)
        with self.changed:
            return self.state.newest(kind, name, max_age)

    def wait(
        self,
        kind: type[M],
        name: str = "*",
        *,
        max_age: float | None = None,
        timeout: float | None = None,
    ) -> M:
        """As `latest`, but waits for it.

        Raises:
            TimeoutError: none came; the text lists what did.
        """
        timeout, max_age = seconds("timeout", timeout), seconds("max_age", max_age)
        take = lambda: self.state.newest(kind, name, max_age)  # noqa: E731
        return self.until(take, Selection(kind, name), timeout)

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Decorator: call this with each message of a class whose device name fits; see
        `igtl.Subscriber.on`."""
        return self.state.on(kind, name)

    # -- what is sent

    def send(self, message: Message, *, force: bool = False) -> None:
        """Send a message, unless it harms PLUS.

        Raises:
            PlusRefuses: it freezes, ends or confuses PLUS, as the text says; `force` sends it.
        """
        if not force:
            check_for_server(message)
        self.link.send(message)

    def select(self, select: Select) -> None:
        """Ask for something else, now and after each reconnection."""
        with self.changed:
            self.state.select(select)
        self.link.send(select.message(), latch=True)

    def ask(self, request: Request[T], *, timeout: float | None = None, force: bool = False) -> T:
        """Carry out a command, and return what its reply means."""
        if not force:
            check_for_server(request.exchange.request)
        timeout = self._timeout if timeout is None else timeout
        return request.result(self.link.request(request.exchange, timeout))

    def command(
        self,
        name: str,
        inner: str = "",
        *,
        legacy: bool = False,
        device_name: str = "",
        timeout: float | None = None,
        force: bool = False,
        **attributes: object,
    ) -> Reply:
        """Carry out any command of PLUS.

        Args:
            name: upper and lower case count.
            inner: XML within the element of the command.
            legacy: as STRING CMD_n, for old versions of PLUS, which do not say why one fails.
            device_name: of the COMMAND.
            timeout: seconds; default that of `connect`.
            force: send it even if it harms PLUS.
            attributes: of the command: `output_filename="a.mha"` is written OutputFilename="a.mha".
                None is left out, True is written TRUE, an array as its numbers.

        Raises:
            CommandFailed: PLUS says no; the text is its reason.
            PlusRefuses: the text is not well-formed.
            TimeoutError: PLUS does not answer.
        """
        request = Request(
            name, core.as_it_is, attributes, inner=inner, legacy=legacy, device_name=device_name
        )
        return self.ask(request, timeout=timeout, force=force)

    def version(self) -> str:
        """The version of PLUS."""
        return self.ask(core.version())

    def device_ids(self, kind: str | None = None) -> list[str]:
        """The ids of its devices.

        Args:
            kind: of which type, for example "VirtualCapture"; default all.
        """
        return self.ask(core.device_ids(kind))

    def channel_ids(self) -> list[str]:
        """The ids of its output channels."""
        return self.ask(core.channel_ids())

    def transform(self, name: str) -> Matrix:
        """4x4 of XToY, mm: one of its configuration, or a tracked one.

        Raises:
            CommandFailed: PLUS has none of this name.
        """
        return self.ask(core.transform(name))

    def update_transform(
        self,
        name: str,
        matrix: npt.ArrayLike,
        *,
        persistent: bool = True,
        error: float | None = None,
        date: str | None = None,
    ) -> str:
        """Set a transform, for example a calibration; returns what PLUS says.

        Args:
            name: XToY. matrix: 4x4, mm.
            persistent: whether `save_config` writes it.
            error: of the calibration. date: when it was made.
        """
        return self.ask(core.update_transform(name, matrix, persistent, error, date))

    def save_config(self, filename: str | None = None) -> str:
        """Write the configuration; returns what PLUS says.

        Args:
            filename: on the machine of PLUS; default: the one that it was started with.
        """
        return self.ask(core.save_config(filename))

    @contextlib.contextmanager
    def recording(
        self, device: str, filename: str | None = None, *, compress: bool = False
    ) -> Iterator[None]:
        """Let PLUS record while the `with` block runs.

        Args:
            device: id of a VirtualCapture device.
            filename: on the machine of PLUS; default: as configured.

        Raises:
            CommandFailed: PLUS cannot begin, or cannot finish the file.
        """
        self.ask(core.start_recording(device, filename, compress))
        try:
            yield
        finally:
            self.ask(core.stop_recording(device))

    def reconstruct(
        self, name: str, *, device: str | None = None, timeout: float = 60.0
    ) -> Reconstruction:
        """Let PLUS reconstruct a volume of its frames while the `with` block runs:

            with plus.reconstruct("recvol_Reference") as volume:
                so_far = volume.snapshot()
            volume.image

        Args:
            name: the device name under which PLUS sends the volume.
            device: id of a VirtualVolumeReconstructor; default: the only one.
            timeout: seconds for each step.
        """
        return Reconstruction(self, name, device, timeout)

    def ping(self, timeout: float | None = None) -> float:
        """Seconds until PLUS answers a GET_STATUS: the only test of life while it has no valid
        transform to send, when it sends nothing at all.

        Raises:
            TimeoutError: it does not answer: it is frozen, or gone.
        """
        begun = time.perf_counter()
        self.link.request(Exchange(GetStatus()), self._timeout if timeout is None else timeout)
        return time.perf_counter() - begun

    # -- the connection

    @property
    def connected(self) -> bool:
        """Whether PLUS is there, as far as this end knows."""
        return self.link.connected

    @property
    def stats(self) -> Stats:
        """Counters over all connections."""
        return self.link.stats

    @property
    def lost(self) -> Counter[str]:
        """What was lost over all connections, by cause: "superseded" (frames passed over),
        "interrupted" (a message that a connection ended in), "resync", ….
        """
        return core.losses(self.stats)

    def close(self) -> None:
        """End the connection, and wait for a handler that is at work."""
        self.link.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "connected to" if self.connected else "waiting for"
        return f"<Plus {state} {named(self.link.peer)} {self.stats}>"


def _call(handler: Callable[..., Any], *arguments: Any) -> None:
    try:
        handler(*arguments)
    except BaseException as error:  # SystemExit would end the thread, and every handler with it
        logger.error("a handler failed", exc_info=error, extra={"cause": error})


def connect(
    host: str = "localhost",
    port: int = PORT,
    *,
    select: Select | None = None,
    timeout: float = 5.0,
    silence: float = 1.0,
    backoff: Backoff = BACKOFF,
    on_event: OnEvent | None = None,
    **settings: Unpack[ReconnectSettings],
) -> Plus:
    """Connect to a PlusServer, and again whenever the connection is lost:

        with igtl.plus.connect(
            "localhost", select=igtl.plus.Select(images=["Image_Reference"], tracked_frames=True)
        ) as plus:
            for frame in plus.frames(): ...

    It says hello first, asks for what is selected, reads in a thread, and does both again after
    each reconnection.

    Args:
        host, port: of the server.
        select: what PLUS shall send; default: what its configuration says.
        timeout: seconds for the answer to a command.
        silence: seconds after which a tool of which nothing arrives is "SILENT".
        backoff: when to try again.
        on_event: called with each LinkEvent.
        settings: see `igtl.options.ReconnectOptions`. `open_timeout` is how long this waits for the
            server, which may be started meanwhile.

    Raises:
        OSError: there is no server within the open_timeout: the error of the last attempt.
    """
    failed: list[Exception | None] = [None]

    def told(event: LinkEvent) -> None:
        failed[0] = event.error
        if on_event is not None:
            on_event(event)

    given: dict[str, Any] = {**SETTINGS, **settings}
    link = connect_link(host, port, reconnect=backoff, on_event=told, **given)
    try:
        if not link.wait_connected(given.get("open_timeout", 10.0)):
            raise failed[0] or TimeoutError(f"{host}:{port} does not answer")
        if select is not None:
            link.send(select.message(), latch=True)
    except BaseException:
        link.close()
        raise
    return Plus(link, select, timeout, silence)
