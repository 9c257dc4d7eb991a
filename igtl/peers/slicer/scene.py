"""What a program shows in 3D Slicer and learns from it, without I/O.

`Scene` is the base of the profile for threads and of the one for asyncio.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from html import unescape
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from igtl._core import Frame
from igtl._stream import Stats
from igtl.codec.message import Message
from igtl.errors import CommandFailed
from igtl.messages.general import Command, CommandReply, Status, String
from igtl.messages.geometry import Points
from igtl.messages.imaging import Image, Video
from igtl.messages.queries import Get, Start, Stop
from igtl.messages.tracking import Tool, TrackingData, Transform
from igtl.peers.slicer.convert import image_of, labels_of, mesh_of
from igtl.peers.slicer.rules import UTF8, SlicerRefuses, check
from igtl.session.inbox import Inbox, is_event
from igtl.session.requests import fits, named_after
from igtl.session.subscriptions import Subscriptions

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=Message)
_OK = {"Status": "OK"}
_KNOWN_PEERS = 100
_PARAMETER = re.compile(r"""<Parameter\b((?:[^<>"']|"[^"]*"|'[^']*')*)>""")
_ATTRIBUTE = re.compile(r"""([\w:.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_DEVICE = re.compile(r"""UsDeviceId\s*=\s*(?:"([^"]*)"|'([^']*)')""")


class Node(NamedTuple):
    """A node of the scene that this program shows, or that Slicer has sent.

    Attributes:
        type_name, name: of the messages that make it.
        sent, received: whether this program shows it, and whether Slicer has sent it.
        kind: what Slicer calls it ("LinearTransform"); "" where it did not say.
        status: of the last message of Slicer, "OK" or what a tracker says of its tool; "" if none.
    """

    type_name: str
    name: str
    sent: bool
    received: bool
    kind: str
    status: str


class Handler:
    """A function of the user, and the messages that wait for it."""

    def __init__(
        self, kind: type[Message], name: str, call: Callable[..., Any], every: bool, stats: Stats
    ) -> None:
        self.kind = kind
        self.name = name
        self.call = call
        self.waiting = Inbox(stats, "drop_oldest" if every else "latest", max_age=None)


class Scene:
    """What both profiles share: the messages that are shown, and the functions that are called.

    A Slicer that connects later gets the newest of each name that was shown. Sending never waits
    for Slicer: a message is packed at the call, and a newer message of a name replaces one that
    waits. All methods that show something raise SlicerRefuses, with the remedy, for what Slicer
    crashes on, ignores or shows wrongly.

    Attributes:
        stats: what was received and dropped because a handler had no time for it: "superseded" by
            a newer message, or "unread".
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        self.stats = Stats()
        self._newest = Subscriptions(self.stats)
        self._handlers: list[Handler] = []
        self._peers = OrderedDict[Any, Any]()
        self._sent: dict[tuple[str, str], None] = {}
        self._places: dict[str, npt.NDArray[np.float64]] = {}
        self._components: dict[str, int] = {}
        self._joined = 0

    def _publish(self, message: Message | Frame, *, latch: bool) -> None:
        raise NotImplementedError

    @property
    def host(self) -> str:
        """The address on which it listens, or to which it connects."""
        return self.server.host  # type: ignore[no-any-return]

    @property
    def port(self) -> int:
        """The port on which it listens, or to which it connects."""
        return self.server.port  # type: ignore[no-any-return]

    # -- showing

    def show(self, message: Message, *, latch: bool = True) -> None:
        """Show any message that Slicer takes.

        Args:
            message: the message.
            latch: also send it to each Slicer that connects later, until a newer one of this type
                and name replaces it. Commands and VIDEO are never sent again.

        Raises:
            SlicerRefuses: Slicer would crash on it, ignore it or show it wrongly.
        """
        check(message)
        if isinstance(message, Image):
            before = self._components.setdefault(message.device_name, message.components)
            if before != message.components:
                raise SlicerRefuses(
                    "Image", "components", f"{message.device_name!r} had {before} components: 3D "
                    "Slicer keeps its node, and shows others wrongly", "choose another name",
                )  # fmt: skip
            self._places[message.device_name] = message.ijk_to_world
        self._sent[message.type_name, message.device_name] = None
        if isinstance(message, Video):  # what follows the frame in version 2 is taken for video
            self._publish(Frame.from_bytes(message.pack(version=1)), latch=False)
        else:
            self._publish(message, latch=latch and not is_event(message.type_name))

    def transform(
        self, name: str, matrix: Any, *, status: str = "OK", timestamp: float | None = None
    ) -> None:
        """Show or move a linear transform.

        Args:
            name: of the node.
            matrix: 4x4 or 3x4, RAS mm, or an object with a `matrix`, such as a Pose.
            status: what Slicer shows as TransformStatus: "OK", "MISSING", "OUT_OF_VIEW" …
            timestamp: seconds since 1970; default now.
        """
        m = Transform(
            getattr(matrix, "matrix", matrix),
            device_name=name,
            metadata={"TransformStatus": status},
        )
        self.show(_stamped(m, timestamp, None))

    def volume(
        self,
        name: str,
        source: Any,
        *,
        ijk_to_world: npt.ArrayLike | None = None,
        spacing: tuple[float, float, float] | None = None,
        like: str | Image | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Show a volume.

        Args:
            name: of the node.
            source: array (k, j, i[, components]), an Image, or an image of SimpleITK or nibabel.
                Integers of more than 16 bits are converted to 16 where all values fit.
            ijk_to_world: 4x4 of the first voxel, RAS mm; default the place of the source, or 1 mm
                voxels from the origin on.
            spacing: mm along i, j, k instead, around the origin.
            like: an image at the same place: its name, or an Image, whose time stamp is used too.
            timestamp: seconds since 1970; default that of `like`, or now.
        """
        self._show_image(name, image_of(source, self._place(ijk_to_world, like), spacing), like,
                         timestamp)  # fmt: skip

    def labels(
        self,
        name: str,
        array: npt.ArrayLike,
        *,
        like: str | Image | None = None,
        ijk_to_world: npt.ArrayLike | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Show a label map (k, j, i), as uint8, int16 or uint16; arguments as for `volume`.

        Slicer makes a scalar volume of it, which its module Segmentations imports.
        """
        source = Image(labels_of(array), ijk_to_world=np.eye(4))
        self._show_image(
            name, image_of(source, self._place(ijk_to_world, like), None), like, timestamp
        )

    def frame(
        self,
        name: str,
        pixels: npt.ArrayLike,
        *,
        order: str | None = None,
        spacing: tuple[float, float] = (1.0, 1.0),
        ijk_to_world: npt.ArrayLike | None = None,
        like: str | Image | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Show a frame of a camera or of ultrasound.

        Args:
            name: of the node.
            pixels: (height, width), or (height, width, 3).
            order: "BGR" for OpenCV; default "RGB".
            spacing: mm along a row and along a column.
            ijk_to_world: 4x4 of the first pixel, RAS mm, instead of spacing.
            like: see `volume`.
            timestamp: see `volume`.
        """
        array = np.asarray(pixels)
        image = Image.from_frame(
            array,
            order=(order or "RGB") if array.ndim == 3 else None,  # type: ignore[arg-type]
            spacing=spacing,
            ijk_to_world=self._place(ijk_to_world, like),
        )
        self._show_image(name, image_of(image, None, None), like, timestamp)

    def _place(self, ijk_to_world: Any, like: str | Image | None) -> Any:
        if like is None or ijk_to_world is not None:
            return ijk_to_world
        if isinstance(like, Image):
            return like.ijk_to_world
        if like in self._places:
            return self._places[like]
        for message in self._newest.all():
            if isinstance(message, Image) and message.device_name == like:
                return message.ijk_to_world
        shown = ", ".join(map(repr, self._places)) or "none"
        raise KeyError(f"no image {like!r} was shown or received; shown are {shown}")

    def _show_image(self, name: str, image: Image, like: Any, timestamp: float | None) -> None:
        image.device_name = name
        image.metadata = _OK
        self.show(_stamped(image, timestamp, like))

    def points(
        self,
        name: str,
        positions: npt.ArrayLike,
        *,
        labels: Sequence[str] | None = None,
        selected: npt.ArrayLike | bool = True,
        visible: npt.ArrayLike | bool = True,
        color: npt.ArrayLike | None = None,
    ) -> None:
        """Show a list of points; [] clears it.

        Args:
            name: of the node.
            positions: (n, 3), RAS mm.
            labels: name of each; default F-1, F-2, …
            selected: for each, or one for all.
            visible: for each, or one for all.
            color: r, g, b, 0 to 255. Slicer takes one for all selected and one for all other
                points, that of the first of them.
        """
        place = np.asarray(positions, np.float32).reshape(-1, 3)
        if labels is None:
            labels = [f"F-{k}" for k in range(1, len(place) + 1)]
        self.show(
            Points.from_arrays(
                place, names=labels, selected=selected, visible=visible, color=color,
                device_name=name, metadata=_OK,
            )
        )  # fmt: skip

    def model(self, name: str, mesh: Any) -> None:
        """Show a surface or lines.

        Args:
            name: of the node.
            mesh: a PolyData, (points, polygons), or a mesh of VTK, PyVista, meshio or trimesh;
                RAS mm.
        """
        found = mesh_of(mesh)
        found.device_name = name
        found.metadata = _OK
        self.show(found)

    def text(self, name: str, text: str) -> None:
        """Show a text node."""
        raw: Any = text.encode()  # US-ASCII by its number, which is UTF-8 in Slicer
        self.show(String(raw, encoding=UTF8, device_name=name, metadata=_OK))

    def tools(
        self, tools: Mapping[str, Any], *, name: str = "Tools", timestamp: float | None = None
    ) -> None:
        """Show many transforms of one instant, each under the name of its tool.

        A tool that is left out keeps its last place in Slicer.

        Args:
            tools: matrices by name, at most 19 bytes each; see `transform`.
            name: of the message, which Slicer does not show.
            timestamp: seconds since 1970; default now.
        """
        rows = [Tool(tool, matrix=getattr(m, "matrix", m)) for tool, m in tools.items()]
        self.show(_stamped(TrackingData(rows, device_name=name, metadata=_OK), timestamp, None))

    def video(
        self,
        name: str,
        *,
        fps: float = 30.0,
        bit_rate: int | None = None,
        ijk_to_world: npt.ArrayLike | None = None,
    ) -> Camera:
        """Open a video stream in VP9 (needs `igtl[video]`).

        It is sent to each Slicer, without a request.

        Args:
            name: of the node.
            fps: frames a second that are coming.
            bit_rate: see VideoEncoder.
            ijk_to_world: 4x4 of the first pixel, RAS mm.
        """
        return Camera(self, name, fps, bit_rate, ijk_to_world)

    # -- what comes from Slicer

    def on(
        self, kind: type[Message] = Message, name: str = "*", *, every: bool = False
    ) -> Callable[[F], F]:
        """Call the decorated function with (message, peer) for what Slicer sends.

        Handlers run independently: a slow one delays neither others nor Slicer.

        Args:
            kind: class of the messages; default any.
            name: of the device, with the wildcards * and ?; default any.
            every: also messages that newer ones of their name have replaced meanwhile, up to 1,000
                and 64 MiB of each. Default: the newest only.

        Raises:
            TypeError: kind is not a class of messages.
        """
        if not (isinstance(kind, type) and issubclass(kind, Message)):
            raise TypeError(f"a handler is called for a class of messages, not for {kind!r}")

        def register(call: F) -> F:
            handler = Handler(kind, name, call, every, self.stats)
            self._run(handler)
            self._handlers.append(handler)
            return call

        return register

    def _run(self, handler: Handler) -> None:
        raise NotImplementedError

    def on_connect(self, handler: F) -> F:
        """Call the decorated function with the peer when a Slicer has connected.

        The nodes that were shown are on their way to it already.
        """
        self.server.on_connect(handler)
        return handler

    def on_disconnect(self, handler: F) -> F:
        """Call the decorated function with the peer when a Slicer is gone.

        The peer's close_reason says why.
        """
        self.server.on_disconnect(handler)
        return handler

    def _take(self, message: Message) -> list[Handler]:
        """Note a message from Slicer; returns the handlers that have something to do."""
        self._newest.take(message, 0)
        wanting = [each for each in self._handlers if fits(message, each.kind, each.name)]
        if wanting:
            size = sum(memoryview(part).nbytes for part in message.pack_parts(crc=False))
            for handler in wanting:
                handler.waiting.put(message, size)
        return wanting

    def _came(self, address: Any, peer: Any) -> None:
        """Note a Slicer that has connected."""
        self._joined += 1
        self._peers[address] = peer
        self._peers.move_to_end(address)
        if len(self._peers) > _KNOWN_PEERS:
            self._peers.popitem(last=False)

    def nodes(self) -> list[Node]:
        """Return the nodes that are shown, and those that Slicer has sent."""
        found = {key: self._node(key, None) for key in self._sent}
        for message in self._newest.all():
            key = message.type_name, message.device_name
            if not isinstance(message, Command | CommandReply | Get | Start | Stop | Status):
                found[key] = self._node(key, message)
        return list(found.values())

    def _node(self, key: tuple[str, str], message: Message | None) -> Node:
        said: Mapping[str, str] = {} if message is None else message.metadata
        status = said.get("TransformStatus", said.get("Status", ""))
        sent, received = key in self._sent, message is not None
        return Node(*key, sent, received, said.get("MRMLNodeName", ""), status)

    # -- commands and requests of Slicer

    def answers(self, name: str = "*") -> Callable[[F], F]:
        """Carry out the COMMAND of a Slicer module by the decorated function.

        "*" is any COMMAND without a function of its own.

        It is called with (command), in parallel to everything else, so it may take its time. It
        returns the reply: text, a dict (metadata), both as (text, dict), or None. An error that it
        raises is sent as the failure.
        """

        def register(call: F) -> F:
            self.server.command(name)(_called_alone(call, lambda command, answer: answer))
            return call

        return register

    def provides(
        self, kind: type[Get[Any]] | type[Start[Any]], name: str = "*"
    ) -> Callable[[F], F]:
        """Answer requests of Slicer's query nodes by the decorated function.

        These are GetImage, GetImageMeta, GetLabelMeta, GetPoints and StartTrackingData. The
        function is called with (request), in parallel to everything else; see
        `igtl.Server.provides` for what it returns. The answer gets the name of the request.
        """

        def register(call: F) -> F:
            self.server.provides(kind, name)(_called_alone(call, _answer))
            return call

        return register

    def ultrasound(
        self,
        *,
        get: Callable[[str], Any],
        set: Callable[[str, str], Any] | None = None,
        device: str | None = None,
    ) -> None:
        """Be the scanner of Slicer's module UltrasoundRemoteControl, which asks every 2 s.

        Args:
            get: called with the name of a parameter ("DepthMm"); its value, or it raises.
            set: called with name and text of a value that the user has set.
            device: UsDeviceId of the scanner; a command for another one fails. None: any.
        """

        def carry_out(command: Command, call: Callable[..., Any]) -> dict[str, str]:
            found = _DEVICE.search(command.text)
            asked = unescape(found.group(1) or found.group(2) or "") if found else ""
            if device is not None and asked not in ("", device):
                raise LookupError(f"there is no scanner {asked!r} here, only {device!r}")
            return {name: str(call(name, value)) for name, value in _parameters(command.text)}

        @self.answers("GetUsParameter")
        def _(command: Command) -> dict[str, str]:
            return carry_out(command, lambda name, value: get(name))

        @self.answers("SetUsParameter")
        def _(command: Command) -> dict[str, str]:
            if set is None:
                raise PermissionError("parameters cannot be set here")

            def change(name: str, value: str) -> Any:
                set(name, value)
                return get(name)

            return carry_out(command, change)


class Camera:
    """A video stream to each Slicer; see `Scene.video`.

    Attributes:
        encoder: the VideoEncoder.
    """

    def __init__(
        self, scene: Scene, name: str, fps: float, bit_rate: int | None, ijk_to_world: Any
    ) -> None:
        from igtl.video import VideoEncoder

        self.encoder = VideoEncoder(
            "VP90", fps=fps, bit_rate=bit_rate, key_interval=max(1, round(fps)),
            device_name=name, ijk_to_world=ijk_to_world,
        )  # fmt: skip
        self._scene = scene
        self._joined = -1

    def publish(
        self, frame: npt.ArrayLike, *, order: str = "RGB", timestamp: float | None = None
    ) -> None:
        """Encode and show a frame, (height, width) or (height, width, 3), RGB or as `order` says.

        Any thread may call it, one at a time. After a Slicer has connected the next frame is a key
        frame.
        """
        pixels = np.asarray(frame)
        if pixels.ndim == 2:  # grey is right with one of Slicer's two decoders only
            pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
        joined = self._scene._joined
        key, self._joined = joined != self._joined, joined
        self._scene.show(
            self.encoder.encode(pixels, order=order, timestamp=timestamp, key=key),  # type: ignore[arg-type]
            latch=False,
        )

    def close(self) -> None:
        """End the encoder."""
        self.encoder.close()


def _stamped(message: M, timestamp: float | None, like: Any) -> M:
    if timestamp is not None:
        message.timestamp = timestamp
    elif isinstance(like, Message) and like.timestamp is not None:
        message.timestamp_raw = like.timestamp_raw
    return message


def _answer(request: Message, found: Any) -> Any:
    if isinstance(found, Message):
        found = named_after(request, found)
        check(found)
    return found


def _called_alone(
    call: Callable[[Any], Any], finish: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """Return a function of the user that takes the request alone, as one of (request, peer)."""
    if inspect.iscoroutinefunction(call):

        @functools.wraps(call)
        async def work_later(request: Any, peer: Any) -> Any:
            return finish(request, await call(request))

        return work_later

    @functools.wraps(call)
    def work(request: Any, peer: Any) -> Any:
        return finish(request, call(request))

    return work


def _parameters(text: str) -> list[tuple[str, str]]:
    """Name and value of each <Parameter> of a command."""
    found = []
    for inner in _PARAMETER.findall(text):
        said = {key: unescape(a or b) for key, a, b in _ATTRIBUTE.findall(inner)}
        found.append((said.get("Name", ""), said.get("Value", "")))
    return found


def reply_of(failed: CommandFailed) -> CommandReply:
    """Return the reply to a command that Slicer did carry out.

    The `Status` of a reply of Slicer says nothing, an ErrorMessage does.

    Raises:
        CommandFailed: it has an ErrorMessage.
    """
    reply = failed.reply
    if isinstance(reply, CommandReply) and not reply.metadata.get("ErrorMessage"):
        return reply
    raise failed
