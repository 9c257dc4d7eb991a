"""A peer that behaves as the connector node of 3D Slicer, as it was measured, in both roles.

For tests and courses without Slicer. It shows nothing; it says what Slicer would show.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from igtl.blocking.changes import Changes
from igtl.codec.message import Message
from igtl.log import logger
from igtl.messages.general import Command, CommandReply, Status, String
from igtl.messages.geometry import Points, PolyData
from igtl.messages.imaging import FrameType, Image, ScalarType, Video
from igtl.messages.queries import Get, Start, Stop
from igtl.messages.tracking import TrackingData, Transform
from igtl.options import PORT
from igtl.peers.slicer import HANDLED
from igtl.session.protocol import Protocol

Role = Literal["client", "server"]
TIMER: Final = 0.005  # seconds between two looks at what has arrived
RETRY: Final = 0.1  # seconds between two tries of a client
NOTICES: Final = {"client": 0.1, "server": 1.1}  # seconds between two looks at the connection
RING: Final = 50  # whole messages that are kept of each type, name and connection
_CRASHES: Final = HANDLED - {"VIDEO"}
_KINDS: Final = {
    "TRANSFORM": "LinearTransform", "IMAGE": "Volume", "VIDEO": "StreamingVolume",
    "POINT": "MarkupsFiducial", "POLYDATA": "Model", "STRING": "Text",
}  # fmt: skip


class SceneNode(NamedTuple):
    """What Slicer shows under one name.

    Attributes:
        kind: as Slicer calls it ("LinearTransform").
        name: device name, or the name of a tool.
        value: matrix (4x4), pixels, points or text; a PolyData; None for an empty picture.
        attributes: the metadata, as attributes of the node.
        message: the message that it was made of.
        updates: how often it was made or changed.
    """

    kind: str
    name: str
    value: Any
    attributes: dict[str, str]
    message: Message
    updates: int


class Reply(NamedTuple):
    """The end of a command.

    Attributes:
        state: "Success", "Fail" or "Expired".
        text: of the reply.
        error: its ErrorMessage.
        parameters: its metadata.
    """

    state: str
    text: str = ""
    error: str = ""
    parameters: Mapping[str, str] = {}


class _Connection:
    """One connection, read by a thread of its own."""

    def __init__(self, sock: socket.socket, address: Any) -> None:
        self.sock = sock
        self.protocol = Protocol(version=2, on_error="skip", peer=address)
        self.rings: dict[tuple[str, str], deque[Message]] = {}
        self.commands: deque[Message] = deque()
        self.fresh: dict[tuple[str, str], int] = {}

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class SlicerNode:
    """A simulated connector of 3D Slicer; see `slicer`.

    Attributes:
        role, host, port: of the connector.
        nodes: what is shown, by kind and name.
        crashed: what Slicer would have crashed on; "" while it runs.
        ignored: messages of types that Slicer does not take, by type.
        longest_send: longest time, in seconds, for which a send has stopped the window.
        hellos: how often it has said hello.
        handlers: functions that carry out commands, by name ("*": any other): they get the Command
            and return text, or raise. Commands without a handler get no answer.
    """

    def __init__(
        self, role: Role, host: str, port: int, *, restrict_names: bool, reuse_address: bool
    ) -> None:
        self.role = role
        self.host = host
        self.port = port
        self.nodes: dict[tuple[str, str], SceneNode] = {}
        self.crashed = ""
        self.ignored = Counter[str]()
        self.longest_send = 0.0
        self.hellos = 0
        self.handlers: dict[str, Callable[[Command], str]] = {}
        self._restrict_names = restrict_names
        self._reuse_address = reuse_address
        self._changed = Changes()
        self._connections: list[_Connection] = []
        self._old_rings: list[_Connection] = []
        self._actions: deque[Callable[[], None]] = deque()
        self._pushed: dict[tuple[str, str], Message] = {}
        self._replies: dict[int, Reply] = {}
        self._command_ids = 0
        self._decoders: dict[str, Any] = {}
        self._active = False
        self._listening: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self.activate()

    # -- the connector

    def activate(self) -> None:
        """Tick "Active".

        Raises:
            OSError: the port of a server is taken, as after a kill of Slicer.
        """
        if self._active:
            return
        if self.role == "server":
            sock = socket.socket()
            if self._reuse_address:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((self.host, self.port))
                sock.listen(5)
            except OSError:
                sock.close()
                raise
            self._listening = sock
            self.port = sock.getsockname()[1]
        self._active = True
        work = self._accept if self.role == "server" else self._connect
        for target in (work, self._window):
            self._begin(target)

    def deactivate(self) -> None:
        """Untick "Active": close all connections, and wait until the threads have ended."""
        with self._changed:
            self._cut()
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._threads.clear()

    def restart(self, *, timeout: float = 5.0) -> None:
        """Kill Slicer and start it again, with an empty scene.

        Args:
            timeout: seconds for which a server tries to take its port again.

        Raises:
            OSError: the port stayed taken.
        """
        self.deactivate()
        with self._changed:
            self.nodes.clear()
            self._pushed.clear()
            self._replies.clear()
            self.hellos = 0
            self.crashed = ""
        end = time.monotonic() + timeout
        while True:
            try:
                self.activate()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        """Close all connections, like `deactivate`."""
        self.deactivate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Number of connections."""
        return len(self._connections)

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels in the rings, those of connections that are gone included."""
        with self._changed:
            rings = [r for c in (*self._connections, *self._old_rings) for r in c.rings.values()]
            return sum(m.array.nbytes for r in rings for m in r if isinstance(m, Image))

    def _begin(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="igtl slicer node", daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- the network

    def _connect(self) -> None:
        while self._active:
            try:
                sock = socket.create_connection((self.host, self.port), timeout=1)
            except OSError:
                time.sleep(RETRY)
                continue
            self._read(sock, (self.host, self.port))
            time.sleep(RETRY)

    def _accept(self) -> None:
        listening = self._listening
        assert listening is not None
        while self._active:
            try:
                sock, address = listening.accept()
            except OSError:
                return
            self._begin(self._read, sock, address)

    def _read(self, sock: socket.socket, address: Any) -> None:
        sock.settimeout(None)
        connection = _Connection(sock, address)
        with self._changed:
            if not self._active:
                sock.close()
                return
            self._connections.append(connection)
            self._changed.notify_all()
        with contextlib.suppress(OSError, ValueError):
            while n := sock.recv_into(connection.protocol.get_buffer()):
                connection.protocol.received(n)
                while (message := connection.protocol.next_message()) is not None:
                    self._keep(connection, message)
        with self._changed:
            self._connections.remove(connection)
            self._old_rings.append(connection)
            connection.close()
            self._changed.notify_all()

    def _keep(self, connection: _Connection, message: Message) -> None:
        """Put what has arrived into its ring; some messages crash Slicer here."""
        with self._changed:
            if reason := self._fatal(message):
                self._crash(reason)
            elif message.type_name not in HANDLED:
                if message.type_name != "RTS_TDATA":
                    self.ignored[message.type_name] += 1
            elif isinstance(message, Command | CommandReply):
                connection.commands.append(message)
            else:
                key = message.type_name, message.device_name
                connection.rings.setdefault(key, deque(maxlen=RING)).append(message)
                connection.fresh[key] = connection.fresh.get(key, 0) + 1
            self._changed.notify_all()

    def _fatal(self, message: Message) -> str:
        _, _, rest = message.type_name.partition("_")
        if rest in _CRASHES and message.type_name not in ("RTS_COMMAND", "RTS_TDATA"):
            return f"a message of type {message.type_name}"
        if isinstance(message, Status) and self._restrict_names and not message.device_name:
            return "STATUS without a name"
        if isinstance(message, PolyData) and len(message.vertices) > 3:
            return "vertex cells"
        if isinstance(message, Image) and message.scalar_type not in list(ScalarType):
            return "an unknown type of pixels"
        return ""

    def _crash(self, reason: str) -> None:
        self.crashed = reason
        logger.error("3D Slicer would have crashed on %s", reason)
        self._cut()

    def _cut(self) -> None:
        """Close everything, which ends the threads."""
        self._active = False
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        for connection in self._connections:
            connection.close()

    # -- the window: one thread, which imports, sends, and runs what the user does

    def _window(self) -> None:
        was_connected, noticed = False, 0.0
        while self._active:
            with self._changed:
                if not self._actions:
                    self._changed.wait(TIMER)
                actions = [self._actions.popleft() for _ in range(len(self._actions))]
                connections, gone = list(self._connections), list(self._old_rings)
            now = time.monotonic()
            first = not was_connected and bool(connections)
            if first or now - noticed >= NOTICES[self.role]:
                noticed, before = now, was_connected
                was_connected = bool(connections)
                if was_connected and not before:
                    self._say_hello(connections[0])
            for action in actions:
                action()
            for connection in [*connections, *gone]:
                self._import(connection)

    def _say_hello(self, connection: _Connection) -> None:
        self._send(Status(0, metadata={"dummy": "dummy"}), [connection])
        for message in list(self._pushed.values()):
            self._send(message, [connection])
        self.hellos += 1

    def _send(self, message: Message, to: list[_Connection] | None = None) -> None:
        """Send on one connection after the other; the window waits for each."""
        message.timestamp_raw = 0
        bare = isinstance(message, Get | Start | Stop)
        wire = message.pack(version=1 if bare else 2)
        for connection in self._connections.copy() if to is None else to:
            start = time.monotonic()
            with contextlib.suppress(OSError):
                connection.sock.sendall(wire)
            self.longest_send = max(self.longest_send, time.monotonic() - start)

    def _import(self, connection: _Connection) -> None:
        with self._changed:
            commands = [connection.commands.popleft() for _ in range(len(connection.commands))]
            found = []
            for key, count in connection.fresh.items():
                ring = connection.rings[key]
                found += list(ring)[-min(count, RING) :] if key[0] == "VIDEO" else [ring[-1]]
            connection.fresh.clear()
        for command in commands:
            self._take_command(connection, command)
        for message in found:
            for kind, name, value in self._shown(message):
                with self._changed:
                    old = self.nodes.get((kind, name))
                    self.nodes[kind, name] = SceneNode(
                        kind, name, value, dict(message.metadata), message,
                        1 if old is None else old.updates + 1,
                    )  # fmt: skip
                    self._changed.notify_all()

    def _shown(self, message: Message) -> list[tuple[str, str, Any]]:
        """Return what is shown of a message: kind, name, value."""
        value: Any
        match message:
            case Transform():
                value = message.matrix
            case TrackingData():
                tools: dict[str, Any] = {}
                for tool in message.tools:
                    name = "" if len(tool.name.encode()) >= 20 else tool.name
                    tools.setdefault(name, tool.matrix)
                return [("LinearTransform", name, matrix) for name, matrix in tools.items()]
            case Image():
                value = _as_read(message)
            case Video():
                value = self._decoded(message)
            case Points():
                if not len(message.points) and not message.metadata:
                    return []
                value = message.points
            case PolyData():
                value = message
            case String():
                value = message.string if message.encoding == 3 else "Unknown encoding"
            case _:  # STATUS, and lists of images for the query nodes
                return [(message.type_name, message.device_name, message)]
        return [(_KINDS[message.type_name], message.device_name, value)]

    def _decoded(self, message: Video) -> Any:
        if message.codec != "VP90" or message.metadata:
            return None
        from igtl.video import VideoDecoder

        name = message.device_name
        if name not in self._decoders:
            if message.kind != FrameType.KEY:
                return None
            self._decoders[name] = VideoDecoder()
        return self._decoders[name].decode(message)

    # -- commands

    def _take_command(self, connection: _Connection, message: Message) -> None:
        if isinstance(message, CommandReply):
            said = message.metadata
            state = "Success" if said.get("Status") == "SUCCESS" else "Fail"
            error = said.get("ErrorMessage", "")
            with self._changed:
                self._replies[message.command_id] = Reply(state, message.text, error, dict(said))
                self._changed.notify_all()
            return
        assert isinstance(message, Command)
        work = self.handlers.get(message.name) or self.handlers.get("*")
        if work is None:
            return
        metadata = {"Status": "SUCCESS"}  # whatever became of it
        text = ""
        try:
            text = work(message)
        except Exception as error:
            metadata["ErrorMessage"] = str(error)
        reply = CommandReply(message.command_id, message.name, text, metadata=metadata)
        self._send(reply, [connection])

    def command(self, name: str, text: str = "", *, timeout: float = 5.0) -> Reply:
        """Send a COMMAND, as a module of Slicer does, and wait for the reply."""
        with self._changed:
            self._command_ids += 1
            number = self._command_ids
        command = Command(number, name, text, device_name="command", metadata={"Status": "SUCCESS"})
        self._do(lambda: self._send(command))
        with self._changed:
            self._changed.wait_for(lambda: number in self._replies, timeout)
            return self._replies.pop(number, Reply("Expired"))

    # -- what the user of Slicer does

    def _do(self, action: Callable[[], None]) -> None:
        with self._changed:
            self._actions.append(action)
            self._changed.notify_all()

    def freeze(self, seconds: float) -> None:
        """Let the window be busy for so many seconds, as with a dialog or a long computation."""
        self._do(lambda: time.sleep(seconds))

    def push(self, message: Message, *, status: str = "OK") -> None:
        """Send a node that stands under OUT, now and at each connection that is noticed."""
        key = "TransformStatus" if isinstance(message, Transform) else "Status"
        message.metadata = {"MRMLNodeName": _KINDS[message.type_name], key: status}
        if isinstance(message, Transform):
            message.metadata.update({"STREAM_ID_TO": "", "STREAM_ID_FROM": ""})
        self._pushed[message.type_name, message.device_name] = message
        self._do(lambda: self._send(message))

    def transform(self, name: str, matrix: npt.ArrayLike, *, status: str = "OK") -> None:
        """Move a transform."""
        self.push(Transform(np.asarray(matrix), device_name=name), status=status)

    def volume(
        self, name: str, array: npt.ArrayLike, *, ijk_to_world: npt.ArrayLike | None = None
    ) -> None:
        """Push a volume (k, j, i)."""
        place = np.eye(4) if ijk_to_world is None else ijk_to_world
        self.push(Image(np.asarray(array), ijk_to_world=place, device_name=name))

    def query(self, request: Get[Any] | Start[Any], *, timeout: float = 5.0) -> Message | None:
        """Ask as a query node does; None if no answer comes in time.

        The answer has the same name, and the type of which the request asks.
        """
        wanted = type(request).answer.type_name, request.device_name
        with self._changed:
            before = self._latest(wanted)
        self._do(lambda: self._send(request))
        with self._changed:
            self._changed.wait_for(lambda: self._latest(wanted) is not before, timeout)
            found = self._latest(wanted)
            return None if found is before else found

    def _latest(self, key: tuple[str, str]) -> Message | None:
        for connection in self._connections:
            if key in connection.rings:
                return connection.rings[key][-1]
        return None

    # -- waiting

    def wait(
        self,
        kind: str,
        name: str,
        ready: Callable[[SceneNode], bool] = lambda node: True,
        *,
        timeout: float = 5.0,
    ) -> SceneNode:
        """Wait for a node for which `ready` is true.

        Args:
            kind: as Slicer calls it.
            name: of the node.
            ready: is called with the node; default: it is there.
            timeout: seconds.

        Raises:
            TimeoutError: there is no such node in time; the text lists what is shown.
        """
        with self._changed:

            def shown() -> bool:
                return (kind, name) in self.nodes and ready(self.nodes[kind, name])

            if not self._changed.wait_for(shown, timeout):
                here = ", ".join(f"{k} {n!r}" for k, n in self.nodes) or "nothing"
                died = f"; crashed on {self.crashed}" if self.crashed else ""
                raise TimeoutError(f"no {kind} {name!r} within {timeout} s; shown: {here}{died}")
            return self.nodes[kind, name]

    def wait_connected(self, timeout: float = 5.0) -> bool:
        """Wait until there is a connection; returns whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._connections), timeout)

    def __repr__(self) -> str:
        return f"<SlicerNode, {self.role}, {len(self.nodes)} nodes>"


def _as_read(image: Image) -> Any:
    """Return the pixels as Slicer reads them: of 32-bit integers it takes 64 bits for each."""
    if image.scalar_type not in (ScalarType.INT32, ScalarType.UINT32):
        return image.array
    raw = image.array.tobytes()
    wide = np.frombuffer(raw.ljust(2 * len(raw), b"\0"), np.int64)
    return wide[: image.array.size].reshape(image.array.shape)


def slicer(
    role: Role = "client",
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    restrict_names: bool = False,
    reuse_address: bool = False,
) -> SlicerNode:
    """Simulate a connector of 3D Slicer, as it was measured on the real one.

        with igtl.slicer.serve(port=0) as mine, igtl.simulate.slicer(port=mine.port) as theirs:
            mine.transform("Needle", np.eye(4))
            theirs.wait("LinearTransform", "Needle")

    It imports the newest message of each name every 5 ms, all COMMANDs, and the last 50 of VIDEO;
    it sends on one thread, which waits for each peer; it says hello when it notices a new
    connection, which it does not if the one before has only just ended; it keeps 50 whole messages
    of each name and connection; it crashes on what the real one crashes on (`SlicerNode.crashed`).

    Args:
        role: "client" connects again and again, "server" listens.
        host: of the other end, or to listen on.
        port: of the other end, or to listen on; 0 takes a free one.
        restrict_names: as RestrictDeviceName, on which a STATUS without a name is fatal.
        reuse_address: whether a server takes its port again while the system holds it for old
            connections. The real one does not, on Linux.

    Raises:
        ValueError: there is no such role.
        OSError: the address cannot be used.
    """
    if role not in ("client", "server"):
        raise ValueError(f"role must be 'client' or 'server', not {role!r}")
    return SlicerNode(role, host, port, restrict_names=restrict_names, reuse_address=reuse_address)
