"""A client of PLUS for programs without an event loop: `igtl.plus.connect`."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self, TypeVar, Unpack, overload

from igtl._stream import Stats
from igtl.blocking.changes import Changes, guarded
from igtl.blocking.healing import ReconnectingLink
from igtl.blocking.opening import connect as connect_link
from igtl.blocking.steps import method, run
from igtl.codec.message import Message
from igtl.log import named
from igtl.messages.plus import TrackedFrame
from igtl.options import PORT, ReconnectSettings, seconds
from igtl.peers.plus import client, core
from igtl.peers.plus.client import Client, Devices, ParametersOf, ReconstructionOf
from igtl.peers.plus.core import BACKOFF, SETTINGS, Reading, State
from igtl.peers.plus.selection import Select
from igtl.session import subscribing
from igtl.session.backoff import Backoff, LinkEvent, OnEvent

M = TypeVar("M", bound=Message)


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


class Parameters(ParametersOf["Plus"]):
    """The parameters of one ultrasound device: `plus.us["UsDevice"]["DepthMm"] = 50`."""

    __getitem__ = method(client.parameter)
    __setitem__ = method(client.set_parameter)


class Reconstruction(ReconstructionOf["Plus"]):
    """A volume that is reconstructed; see `Plus.reconstruct` and `ReconstructionOf`."""

    snapshot = method(client.snapshot)

    def __enter__(self) -> Self:
        run(self.step("start"))
        return self

    def __exit__(self, *exc: object) -> None:
        run(self.end(exc[0] is not None))


class Plus(Client):
    """A client of PLUS; see `connect`.

    A thread reads what arrives, also while the program is busy, so that PLUS never waits for it; a
    second thread calls the handlers.

    Attributes:
        link: the link, which this owns. What is sent on it directly is not checked.
        tools: the statuses of the tools; see `Tools`.
        us: parameters of ultrasound devices.
        state, changed: what has arrived, and what guards it.
    """

    def __init__(
        self, link: ReconnectingLink, select: Select | None, timeout: float, silence: float
    ) -> None:
        self.link: ReconnectingLink = link
        state = State(link.stats, silence)
        super().__init__(state, Changes(), guarded, link.peer, select, timeout)
        self.us = Devices(self, Parameters)
        self._threads = [
            threading.Thread(target=work, name=f"igtl plus {name}", daemon=True)
            for name, work in (("reader", self._read), ("handlers", self._handle))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        self.state.reason = run(self.read(self.link))
        self.changed.tell()

    def _handle(self) -> None:
        run(self.call_handlers())

    def here(self) -> ReconnectingLink:
        """Return the link, which waits for its connection itself."""
        return self.link

    until = method(subscribing.until)
    wait = method(subscribing.wait)
    send = method(client.send)
    ask = method(client.ask)
    command = method(client.command)
    version = method(client.version)
    device_ids = method(client.device_ids)
    channel_ids = method(client.channel_ids)
    transform = method(client.transform)
    update_transform = method(client.update_transform)
    save_config = method(client.save_config)
    ping = method(client.ping)

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
        """Iterate over frames: each time the newest that has arrived and was not seen yet.

        The iterator waits for it. Frames for which the program had no time are passed over, and
        counted in the iterator's `passed_over` and as "superseded" in `stats.dropped`.

        Args:
            kind: class of the messages; default TRACKEDFRAME.
            name: of the device, for example "Image_Reference" of `igtl.Image`; default any.
            timeout: seconds to wait for a frame; then TimeoutError. None: for ever.
        """
        return Frames(self, kind, name, seconds("timeout", timeout))

    def select(self, select: Select) -> None:
        """Ask for something else, now and after each reconnection."""
        with self.changed:
            self.state.select(select)
        self.link.send(select.message(), latch=True)

    @contextlib.contextmanager
    def recording(
        self, device: str, filename: str | None = None, *, compress: bool = False
    ) -> Iterator[None]:
        """Let PLUS record while the `with` block runs.

        Args:
            device: id of a VirtualCapture device.
            filename: on the machine of PLUS; default: as configured.
            compress: write a compressed file.

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
        """Let PLUS reconstruct a volume of its frames while the `with` block runs.

            with plus.reconstruct("recvol_Reference") as volume:
                so_far = volume.snapshot()
            volume.image

        Args:
            name: the device name under which PLUS sends the volume.
            device: id of a VirtualVolumeReconstructor; default: the only one.
            timeout: seconds for each step.
        """
        return Reconstruction(self, name, device, timeout)

    # -- the connection

    @property
    def stats(self) -> Stats:
        """Counters over all connections."""
        return self.link.stats

    @property
    def lost(self) -> Counter[str]:
        """What was lost over all connections, by cause.

        Causes are "superseded" (frames passed over), "interrupted" (a message that a connection
        ended in), "resync", ….
        """
        return core.losses(self.stats)

    def close(self) -> None:
        """End the connection, and wait for a handler that is running."""
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
    """Connect to a PlusServer, and again whenever the connection is lost.

        with igtl.plus.connect(
            "localhost", select=igtl.plus.Select(images=["Image_Reference"], tracked_frames=True)
        ) as plus:
            for frame in plus.frames(): ...

    The client offers header version 2, sends its selection, and reads in a thread. It does so again
    after each reconnection.

    Args:
        host: of the server.
        port: of the server.
        select: what PLUS shall send; default: what its configuration says.
        timeout: seconds for the answer to a command.
        silence: seconds after which a tool of which nothing arrives is "SILENT".
        backoff: when to try again.
        on_event: called with each LinkEvent.
        settings: see `igtl.options.ReconnectOptions`. `open_timeout` is how long this waits for the
            server, which may be started meanwhile.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
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
