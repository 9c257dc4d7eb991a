"""The client and the server of pyigtl, on links of igtl: the newest message of each device name."""

from __future__ import annotations

import atexit
import logging
import socket
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable

from igtl._core import Frame
from igtl.blocking.changes import Changes
from igtl.blocking.healing import ReconnectingLink
from igtl.blocking.opening import connect
from igtl.blocking.server import Server, serve
from igtl.blocking.subscriber import Subscriber, subscribe
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.options import PORT
from igtl.peers.pyigtl.messages import TYPES, MessageBase
from igtl.session.backoff import Backoff

logger = logging.getLogger(__name__)

_POLL = 0.001  # seconds between two looks at what is still queued


class OpenIGTLinkBase(ABC):
    """What the client and the server have in common."""

    def __init__(self) -> None:
        self._arrived = Changes()
        self._newest: dict[str, MessageBase] = {}
        close = weakref.WeakMethod(self.stop)
        # what is queued still leaves when a script ends without stop()
        atexit.register(lambda: (stop := close()) and stop())

    @abstractmethod
    def start(self) -> None:
        """Begin to communicate; the constructor does so unless told `start_now=False`."""

    @abstractmethod
    def stop(self) -> None:
        """Close the connection, after what is queued has left (for at most a second)."""

    @abstractmethod
    def is_connected(self) -> bool:
        """Return whether a peer is connected."""

    def wait_for_message(self, device_name: str, timeout: float | None = -1) -> MessageBase | None:
        """Return the newest message of a device name, or wait for one.

        It is then forgotten.

        Args:
            device_name: exactly as the peer writes it.
            timeout: seconds; None or negative: without end.

        Returns:
            None after the time-out. A warning in the log then lists the names that have arrived.
        """
        wait = None if timeout is None or timeout < 0 else timeout
        with self._arrived:
            if not self._arrived.wait_for(lambda: device_name in self._newest, wait):
                seen = ", ".join(sorted(self._newest)) or "nothing"
                logger.warning("no message of %r within %s s; unread: %s", device_name, wait, seen)
                return None
            return self._newest.pop(device_name)

    def get_latest_messages(self) -> list[MessageBase]:
        """Return the newest message of each device name that has not been read, oldest first."""
        with self._arrived:
            found, self._newest = list(self._newest.values()), {}
            return found

    def send_message(self, message: MessageBase, wait: bool = True) -> bool:
        """Send a message.

        Args:
            message: packed now, so it may be changed afterwards.
            wait: return when the system has all of it. Until a peer is there this waits without
                end, as it does in pyigtl; ask `is_connected` first.

        Raises:
            ValueError, igtl.EncodeError: the message cannot be sent; the text names the attribute.
        """
        if not isinstance(message, MessageBase):
            raise TypeError(f"a message of pyigtl is needed, not {type(message).__name__}")
        self._send(Frame.from_bytes(message.pack()), wait)
        return True

    @abstractmethod
    def _send(self, frame: Frame, wait: bool) -> None: ...

    def _take(self, message: Message) -> None:
        kind = TYPES.get(message.type_name)
        if kind is None:
            return  # as in pyigtl, a type that it does not know is left out
        made = kind().from_igtl(message)
        with self._arrived:
            self._newest.pop(made.device_name, None)  # the newest stands last
            self._newest[made.device_name] = made
            self._arrived.notify_all()


def _until(reached: Callable[[], bool]) -> None:
    """Wait as pyigtl does: nothing signals that a peer has come, or taken all."""
    while not reached():
        time.sleep(_POLL)


class OpenIGTLinkClient(OpenIGTLinkBase):
    """A client that connects again by itself.

    Args:
        host, port: of the server.
        start_now: connect at once.
        body_receive_timeout_sec: seconds a message may take to arrive whole once it has begun.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = PORT,
        start_now: bool = True,
        body_receive_timeout_sec: float = 5.0,
    ) -> None:
        super().__init__()
        self.host, self.port = host, port
        self.body_receive_timeout_sec = body_receive_timeout_sec
        self._subscriber: Subscriber | None = None
        self._link: ReconnectingLink
        if start_now:
            self.start()

    def start(self) -> None:
        """Connect, and connect again when the connection is lost."""
        if self._subscriber is not None:
            return
        self._link = connect(
            self.host, self.port, reconnect=Backoff(0.1, 2), policy="block",
            message_timeout=self.body_receive_timeout_sec,
        )  # fmt: skip
        self._subscriber = subscribe(self._link, start=False)
        self._subscriber.on()(self._take)
        self._subscriber.start()

    def stop(self) -> None:
        """Close the connection, after what is queued has left (for at most a second)."""
        if self._subscriber is not None:
            subscriber, self._subscriber = self._subscriber, None
            subscriber.close()

    def is_connected(self) -> bool:
        """Return whether the server is connected."""
        return self._subscriber is not None and self._link.connected

    def _send(self, frame: Frame, wait: bool) -> None:
        if self._subscriber is None:
            raise ConnectionClosed("this client was stopped, or not started")
        if wait:
            self._link.wait_connected()
        self._link.send(frame)
        if wait:
            _until(lambda: self._link.queued == 0)


class OpenIGTLinkServer(OpenIGTLinkBase):
    """A server; any number of clients gets each message, where pyigtl serves one.

    Args:
        port: 0 takes a free one, which `port` names then.
        local_server: listen on the loopback interface only.
        iface: with `local_server=False` the address of the interface to listen on; default: all
            of them. (pyigtl takes the name of an interface, on Linux only.)
        start_now: listen at once.
        body_receive_timeout_sec: seconds a message may take to arrive whole once it has begun.
    """

    def __init__(
        self,
        port: int | None = None,
        local_server: bool = True,
        iface: str | None = None,
        start_now: bool = True,
        body_receive_timeout_sec: float = 5.0,
    ) -> None:
        super().__init__()
        self.host = "127.0.0.1" if local_server else _address(iface)
        self.port = PORT if port is None else port
        self.body_receive_timeout_sec = body_receive_timeout_sec
        self._server: Server | None = None
        if start_now:
            self.start()

    def start(self) -> None:
        """Begin to listen."""
        if self._server is not None:
            return
        self._server = serve(
            self.host,
            self.port,
            start=False,
            policy="drop_oldest",
            message_timeout=self.body_receive_timeout_sec,
        )
        self._server.on()(lambda message, peer: self._take(message))
        self._server.start()
        self.port = self._server.port

    def stop(self) -> None:
        """Close all connections, after what is queued has left (for at most a second)."""
        if self._server is not None:
            server, self._server = self._server, None
            server.shutdown(timeout=1.0)

    def is_connected(self) -> bool:
        """Return whether at least one client is connected."""
        return self._server is not None and bool(self._server.clients)

    def _send(self, frame: Frame, wait: bool) -> None:
        if wait:
            _until(self.is_connected)
        if (server := self._server) is None:
            raise ConnectionClosed("this server was stopped")
        server.broadcast(frame)
        if wait:
            _until(lambda: all(client.queued == 0 for client in server.clients))


def _address(iface: str | None) -> str:
    """Return the address to listen on: one that the argument names, or all interfaces."""
    try:
        return socket.gethostbyname(iface) if iface else ""
    except OSError:
        logger.warning("%r is not an address: listening on all interfaces", iface)
        return ""
