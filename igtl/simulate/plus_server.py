"""A PlusServer without PLUS: what it sends, answers, ignores, and what stops it.

It is built as PLUS is: one thread sends to all clients, one after the other, and waits for a client
that does not read. What it does follows what was measured with PlusServer 2.9, harm included: what
freezes PLUS freezes it, what ends PLUS closes all its connections.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Self

from igtl.blocking.changes import Changes
from igtl.codec.message import Message
from igtl.codec.xml import element, elements
from igtl.errors import MessageTooLarge
from igtl.messages.general import Command, CommandReply, Status, String
from igtl.messages.imaging import Image, ImageMeta
from igtl.messages.plus import ClientInfo
from igtl.messages.queries import (
    GetImage,
    GetImageMeta,
    GetStatus,
    ReadyTrackingData,
    StartTrackingData,
    StopTrackingData,
)  # fmt: skip
from igtl.options import PORT
from igtl.peers.plus.selection import Client
from igtl.session.protocol import Protocol
from igtl.simulate.plus_commands import Commands, Failure, parsed
from igtl.simulate.plus_frames import TOOLS

_STALL: Final = 0.5  # seconds without progress after which a message is sent again from its start
_LEAVING: Final = 0.7  # seconds that a client that leaves holds up the others
_ALIVE: Final = 0.25  # seconds between two keep-alives
_REMEMBERED: Final = 10  # ids of commands
_LARGEST_ID: Final = 2**31 - 1
_ENDS: Final = ("BIND",)
_LOSES: Final = ("NDARRAY", "SENSOR", "QTRANS", "COLORT", "GET_TDATA")  # in version 2
_FREEZES: Final = ("GET_IMAGE", "GET_IMGMETA", "GET_POINT", "GET_POLYDATA")  # empty, in version 2
_LINGER: Final = "hh" if sys.platform == "win32" else "ii"


class _Client:
    """One connection."""

    def __init__(self, sock: socket.socket, default: Client) -> None:
        self.sock = sock
        self.info: Client | None = default  # None: it cannot be read
        self.version = 1
        self.streams = False  # TDATA
        self.ids: deque[int] = deque(maxlen=_REMEMBERED)
        self.sending = threading.Lock()
        self.gone = False
        self.told = 0.0


class PlusSimulator(Commands):
    """A simulated PlusServer; see `plus`.

    It has three tools, a probe with an ultrasound image, and the devices Tracker, UsDevice,
    CaptureDevice and VolumeReconstructorDevice.

    Attributes:
        host, port: where it listens.
        received: all messages that clients have sent.
        frozen: why it serves no client any more; "" while it does.
        crashed: why it has ended; "" if it has not.
        retransmitted: how often a message was begun again.
        others: see `Commands` and `Acquisition`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        rate: float,
        size: tuple[int, int],
        valid_only: bool,
        streams: bool,
    ) -> None:
        super().__init__(rate, size, valid_only=valid_only)
        self.received: list[Message] = []
        self.frozen = self.crashed = ""
        self.retransmitted = 0
        self._streams = streams
        self._default = Client(
            types=("IMAGE", "TRANSFORM"), transforms=TOOLS, images=(("Image", "Reference"),)
        )
        self._clients: list[_Client] = []
        self._changed = Changes()
        self._over = False
        self._leaving = 0.0
        self._listener = socket.create_server((host, port))
        self.host, self.port = self._listener.getsockname()[:2]
        self._threads = [
            threading.Thread(target=work, name=f"igtl plus {name}", daemon=True)
            for name, work in (("accept", self._accept), ("send", self._send_all))
        ]
        for thread in tuple(self._threads):  # the first one adds those of clients
            thread.start()

    # -- what a test or a course changes

    def default(
        self,
        *,
        transforms: Sequence[str] = (),
        images: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Set what clients get that connect from now on, until they ask for something else.

        In PLUS that is DefaultClientInfo. The types are TRANSFORM and IMAGE.

        Args:
            transforms: names of the form XToY.
            images: (name, frame) each.
        """
        self._default = Client(
            types=("IMAGE", "TRANSFORM"), transforms=tuple(transforms), images=tuple(images)
        )

    def pause(self, paused: bool = True) -> None:
        """Acquire no frames: then clients get keep-alives only."""
        self._streams = not paused

    @property
    def clients(self) -> list[Client | None]:
        """What each client has asked for; None for what cannot be read."""
        return [client.info for client in list(self._clients)]

    # -- connections

    def _accept(self) -> None:
        while not self._over:
            try:
                if not select.select([self._listener], [], [], 0.1)[0]:
                    continue
                sock, _ = self._listener.accept()
            except (OSError, ValueError):
                return
            client = _Client(sock, self._default)
            self._clients.append(client)
            thread = threading.Thread(
                target=self._receive, args=(client,), name="igtl plus client", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _receive(self, client: _Client) -> None:
        protocol = Protocol(on_error="skip")
        try:
            while not self._over:
                if not select.select([client.sock], [], [], 0.1)[0]:
                    continue
                n = client.sock.recv_into(protocol.get_buffer())
                if not n:
                    break
                protocol.received(n)
                for message in protocol.messages():
                    self.received.append(message)
                    if not self._take(client, message):
                        return  # nothing that this client sends is understood any more
        except (OSError, ValueError, MessageTooLarge):
            pass
        self._leave(client)

    def _leave(self, client: _Client) -> None:
        client.gone = True
        with contextlib.suppress(ValueError):
            self._clients.remove(client)
        client.sock.close()
        self._leaving = time.monotonic() + _LEAVING

    def _take(self, client: _Client, m: Message) -> bool:
        """Answer a message; returns whether the next one is understood."""
        kind = m.type_name
        empty = m.header_version == 2 and not m.metadata
        if kind in _ENDS:
            self._crash(f"{kind} was received")
            return False
        if m.header_version == 2:
            client.version = 2
            if kind in _LOSES:
                return False
        if kind == "GET_POINT" or (kind in _FREEZES and empty):
            self.frozen = f"{kind} was received"
            return False
        if self.frozen:
            return True
        match m:
            case ClientInfo():
                self._choose(client, m)
            case GetStatus():
                self._send(client, _status())
            case StartTrackingData():
                client.streams = True
                if client.info is not None:
                    # any message starts its clock anew, so another resolution than 0 starves
                    client.streams = m.resolution_ms == 0
                self._send(client, ReadyTrackingData(0))
            case StopTrackingData():
                client.streams = False
                self._send(client, ReadyTrackingData(0))
            case GetImage():
                self._send(client, _refused(m))
            case GetImageMeta():
                self._send(client, ImageMeta([], device_name="PlusServerImageMetaD", timestamp=0))
            case Command():
                self._command(client, m)
            case String(device_name=name) if name.startswith("CMD_"):
                return self._legacy(client, name.removeprefix("CMD_"), m.string)
        return True

    def _choose(self, client: _Client, info: ClientInfo) -> None:
        try:
            chosen = Client.read(info)
        except ValueError:
            client.info = None  # silence, and no error
            return
        client.info = chosen
        client.version = chosen.version
        client.streams = chosen.tracking_data and chosen.resolution == 0

    def _crash(self, reason: str) -> None:
        self.crashed = reason
        self.kill()

    # -- sending

    def _send(self, client: _Client, message: Message, version: int | None = None) -> None:
        """Send one message whole, beginning again where the client takes nothing for long."""
        if version is None:
            version = client.version
        if version == 1:
            message.metadata = None
        wire = message.pack(version=2 if version == 2 else 1, cut_name=True)
        with client.sending:
            client.told = time.monotonic()
            while not self._sent(client, memoryview(wire)):
                if self._over or client.gone:
                    return
                self.retransmitted += 1

    def _sent(self, client: _Client, rest: memoryview) -> bool:
        """Return whether the client has taken all of it without a pause."""
        moved = time.monotonic()
        while rest:
            if self._over or client.gone:
                return False
            try:
                client.sock.setblocking(False)
                ready = select.select([], [client.sock], [], 0.05)[1]
                n = client.sock.send(rest[: 1 << 16]) if ready else 0
            except BlockingIOError:
                n = 0
            except (OSError, ValueError):
                client.gone = True
                return False
            if n:
                rest, moved = rest[n:], time.monotonic()
            elif time.monotonic() - moved > _STALL:
                return False
        return True

    def _send_all(self) -> None:
        for tick in itertools.count():
            with self._changed:
                due = self.begun + tick * self.period
                self._changed.wait_for(lambda: self._over, max(0.0, due - time.monotonic()))
            if self._over:
                return
            if self.frozen:
                continue
            # a client that left is waited for, if there are others
            if self._clients and (pause := self._leaving - time.monotonic()) > 0:
                time.sleep(pause)
            seconds = time.monotonic() - self.begun
            if self._streams:
                self.note(seconds)
            for client in list(self._clients):
                if self._streams:
                    if client.info is not None:
                        for message in self.messages(client.info, seconds, streams=client.streams):
                            self._send(client, message)
                elif time.monotonic() - client.told >= _ALIVE:
                    self._send(client, _status(), version=1)

    # -- commands

    def _command(self, client: _Client, command: Command) -> None:
        if command.command_id in client.ids or not command.text:
            return  # no answer at all
        client.ids.append(command.command_id)
        name, besides = command.name, None
        try:
            name, attributes, inner = parsed(command.text)
            answer = self.carried_out(name, attributes, inner)
            facts = {"Status": "SUCCESS", "Message": answer.message, **answer.values}
            text, besides = answer.text, answer.besides
        except Failure as failure:
            facts = {"Status": "FAIL", "Error": str(failure), "Message": failure.message}
            text, name = "", name if failure.name is None else failure.name
        if not text:
            order = ("Name", "Status", "Error", "Message")
            told = {"Name": name, **facts}
            shown = {key: told[key] for key in order if key in told}
            text = element("CommandReply", shown).replace("/>", "></CommandReply>")
        reply = CommandReply(
            command.command_id, name, text, device_name=command.device_name, encoding=3
        )
        reply.metadata = {key: value for key, value in facts.items() if value or key == "Message"}
        if besides is not None:
            self._send(client, besides)
        self._send(client, reply)

    def _legacy(self, client: _Client, number: str, text: str) -> bool:
        if number.isdecimal() and int(number) > _LARGEST_ID:
            self._crash("the id of a command is too large")
            return False
        try:
            elements(text)
        except ValueError:
            self._crash("a command is not well-formed")
            return False
        if not number.isdecimal():
            self._acknowledge(client, "ACK", "FAIL", "Error attempting to process command.")
            return True
        if int(number) in client.ids:
            return True
        client.ids.append(int(number))
        try:
            name, attributes, inner = parsed(text)
            answer = self.carried_out(name, attributes, inner)
        except Failure as failure:
            if failure.name == "":
                unknown = "Error attempting to process command."
                self._acknowledge(client, "CMD", "FAIL", unknown)
            else:
                self._acknowledge(client, f"ACK_{number}", "FAIL", failure.message)
            return True
        if answer.besides is not None:
            self._send(client, answer.besides)
        self._acknowledge(client, f"ACK_{number}", "SUCCESS", answer.message)
        return True

    def _acknowledge(self, client: _Client, name: str, status: str, message: str) -> None:
        text = f'<CommandReply Status="{status}" Message="{message}" />'
        self._send(client, String(text, device_name=name, encoding=3))

    # -- end

    def kill(self, *, within: bool = False) -> None:
        """End as a process that is killed: connections are reset.

        Args:
            within: each client gets the first half of a message before.
        """
        if within:
            wire = Image.from_frame(self.picture).pack()
            for client in list(self._clients):
                with client.sending:
                    self._sent(client, memoryview(wire)[: len(wire) // 2])
        self._end(reset=not within)

    def _end(self, *, reset: bool) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._listener.close()
        for client in list(self._clients):
            client.gone = True
            with contextlib.suppress(OSError):
                if reset:  # as a system does for a process that was killed with data unread
                    client.sock.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(_LINGER, 1, 0)
                    )
                else:
                    client.sock.shutdown(socket.SHUT_RDWR)
            client.sock.close()
        self._clients.clear()

    def close(self) -> None:
        """Stop serving."""
        self._end(reset=False)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def plus(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    rate: float = 20.0,
    size: tuple[int, int] = (320, 240),
    valid_only: bool = True,
    streams: bool = True,
) -> PlusSimulator:
    """Simulate a PlusServer.

        with igtl.simulate.plus(port=0) as server, igtl.plus.connect(port=server.port) as plus: ...

    It answers commands, obeys CLIENTINFO, and sends IMAGE, TRANSFORM, TRACKEDFRAME, TDATA,
    POSITION and STRING as PLUS does, which includes what makes PLUS slow, and what freezes or ends
    it. VIDEO and USMESSAGE are not simulated.

    Args:
        host: where to listen.
        port: 0 takes a free one.
        rate: frames a second.
        size: (width, height) of the image, pixels.
        valid_only: transforms that are not valid are not sent, which is PLUS' default
            (SendValidTransformsOnly).
        streams: False: no frames are acquired, until `pause(False)`; clients get keep-alives.

    Raises:
        OSError: the address cannot be used.
        ValueError: the rate is not positive.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive, not {rate!r}")
    return PlusSimulator(host, port, rate=rate, size=size, valid_only=valid_only, streams=streams)


def _status() -> Status:
    return Status(1, 0, "\n", timestamp=0)


def _refused(request: GetImage) -> CommandReply:
    text = element("CommandReply", {
        "Name": "GET_IMAGE", "Status": "FAIL",
        "Error": "ImageId has to contain a dash right after the deviceId.",
        "Message": f"vtkPlusGetImageCommand GET_IMAGE, device: ({request.device_name}) Failed. See "
        "error message.",
    })  # fmt: skip
    return CommandReply(0, "GET_IMAGE", text, device_name=request.device_name, encoding=3)
