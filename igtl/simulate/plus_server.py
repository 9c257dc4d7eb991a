"""A PlusServer without PLUS: what it sends, answers, ignores, and what stops it.

It is built as PLUS is: one thread sends to all clients, one after the other, and waits for the one
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from igtl.codec.message import Message
from igtl.codec.xml import element, elements
from igtl.errors import MessageTooLarge
from igtl.messages.general import Command, CommandReply, Status, String
from igtl.messages.imaging import Image, ImageMeta
from igtl.messages.plus import ClientInfo, TrackedFrame
from igtl.messages.queries import (
    GetImage,
    GetImageMeta,
    GetStatus,
    ReadyTrackingData,
    StartTrackingData,
    StopTrackingData,
)  # fmt: skip
from igtl.messages.tracking import Position, Tool, ToolType, TrackingData, Transform
from igtl.options import PORT
from igtl.peers.plus.selection import Client
from igtl.session.protocol import Protocol
from igtl.simulate.imaging import Ultrasound
from igtl.simulate.tracking import pose

Matrix = npt.NDArray[np.float64]
_STALL: Final = 0.5  # seconds without progress after which a message is sent again from its start
_LEAVING: Final = 0.7  # seconds that a client that leaves holds up the others
_ALIVE: Final = 0.25  # seconds between two keep-alives
_REMEMBERED: Final = 10  # ids of commands
_LARGEST_ID: Final = 2**31 - 1
_ENDS: Final = ("BIND",)
_LOSES: Final = ("NDARRAY", "SENSOR", "QTRANS", "COLORT", "GET_TDATA")  # in version 2
_FREEZES: Final = ("GET_IMAGE", "GET_IMGMETA", "GET_POINT", "GET_POLYDATA")  # empty, in version 2
_FAILED: Final = "Command failed. See error message."
_TOOLS: Final = ("ProbeToTracker", "StylusToTracker", "ReferenceToTracker")
_NUMBERS: Final = ("DepthMm", "GainPercent", "FrequencyMhz", "DynRangeDb", "PowerDb", "ZoomFactor")
_LINGER: Final = "hh" if sys.platform == "win32" else "ii"
_VERSION: Final = "Plus-2.9.0.igtl - simulated"


class Failure(Exception):
    """A command failed: the reason that PLUS gives, and its message."""

    def __init__(self, error: str, message: str = _FAILED, name: str | None = None) -> None:
        super().__init__(error)
        self.message = message
        self.name = name


class Answer(NamedTuple):
    """What a command gave: its message, values, text if it has one of its own, and what is sent
    besides."""

    message: str
    values: Mapping[str, str] = {}
    text: str = ""
    besides: Message | None = None


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


class PlusSimulator:
    """A simulated PlusServer; see `plus`. It has three tools, a probe with an ultrasound image, and
    the devices Tracker, UsDevice, CaptureDevice and VolumeReconstructorDevice.

    Attributes:
        host, port: where it listens.
        received: all messages that clients have sent.
        frozen: why it serves no client any more; "" while it does.
        crashed: why it has ended; "" if it has not.
        acquired: frames so far; their number is the field FrameNumber.
        retransmitted: how often a message was begun again.
        saved: names of the files that SaveConfig would have written.
        transforms: what UpdateTransform changes, by name, 4x4.
        parameters: of the scanner.
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
        self.received: list[Message] = []
        self.frozen = self.crashed = ""
        self.retransmitted = self.acquired = 0
        self.saved: list[str] = []
        self.transforms: dict[str, Matrix] = {
            "ImageToProbe": np.array(
                [[0.2, 0, 0, -1], [0, 0.25, 0, -2], [0, 0, 0.5, 3], [0, 0, 0, 1]]
            ),
            "StylusTipToStylus": np.array(
                [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 150], [0, 0, 0, 1.0]]
            ),
        }
        self.parameters = dict.fromkeys(_NUMBERS, 0.0) | {"DepthMm": 45.0, "GainPercent": 50.0}
        self._facts: dict[str, dict[str, str]] = {}
        self._statuses = dict.fromkeys(_TOOLS, "OK")
        self._valid_only = valid_only
        self._streams = streams
        self._scanner = Ultrasound(*size)
        self._picture = self._scanner.frame(0.0)
        self._period = 1 / rate
        self._default = Client(
            types=("IMAGE", "TRANSFORM"), transforms=_TOOLS, images=(("Image", "Reference"),)
        )
        self._clients: list[_Client] = []
        self._changed = threading.Condition()
        self._over = False
        self._leaving = 0.0
        self._recording: list[int] | None = None
        self._volume: list[npt.NDArray[np.uint8]] | None = None
        self._listener = socket.create_server((host, port))
        self.host, self.port = self._listener.getsockname()[:2]
        self._begun = time.monotonic()
        self._threads = [
            threading.Thread(target=work, name=f"igtl plus {name}", daemon=True)
            for name, work in (("accept", self._accept), ("send", self._send_all))
        ]
        for thread in self._threads:
            thread.start()

    # -- what a test or a course changes

    def set_status(self, tool: str, status: str) -> None:
        """Let a tool be "OK", "MISSING", "OUT_OF_VIEW", … from now on.

        Raises:
            KeyError: there is no such tool.
        """
        if tool not in self._statuses:
            raise KeyError(f"there is no tool {tool!r}; there are {', '.join(_TOOLS)}")
        self._statuses[tool] = status

    def default(
        self,
        *,
        transforms: Sequence[str] = (),
        images: Sequence[tuple[str, str]] = (),
    ) -> None:
        """What clients get that connect from now on, until they ask for something else
        (DefaultClientInfo): TRANSFORM and IMAGE of these.

        Args:
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
        """Answer a message; whether the next one is understood."""
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
        """Whether the client has taken all of it without a pause."""
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
                due = self._begun + tick * self._period
                self._changed.wait_for(lambda: self._over, max(0.0, due - time.monotonic()))
            if self._over:
                return
            if self.frozen:
                continue
            # a client that left is waited for, if there are others
            if self._clients and (pause := self._leaving - time.monotonic()) > 0:
                time.sleep(pause)
            seconds = time.monotonic() - self._begun
            if self._streams:
                self._note(seconds)
            for client in list(self._clients):
                if self._streams:
                    for message in self._messages(client, seconds):
                        self._send(client, message)
                elif time.monotonic() - client.told >= _ALIVE:
                    self._send(client, _status(), version=1)

    def _note(self, seconds: float) -> None:
        """A frame was acquired: it is recorded, and part of the volume."""
        self.acquired += 1
        self._picture = self._scanner.frame(seconds)
        if self._recording is not None:
            self._recording.append(1)
        if self._volume is not None:
            self._volume.append(self._picture)

    def _messages(self, client: _Client, seconds: float) -> Iterator[Message]:
        """What a client gets of the frame of an instant. What it asks for and is not there makes
        all of it stay away."""
        info = client.info
        if info is None:
            return
        now = time.time()
        try:
            poses = {name: self._placed(name, seconds) for name in info.transforms}
            images = [
                (name, frame, self._placed(f"{name}To{frame}", seconds)[0])
                for name, frame in info.images
            ]
        except KeyError:
            return
        for kind in info.types:
            match kind:
                case "TRANSFORM":
                    for name, (m, status) in poses.items():
                        if status == "OK" or not self._valid_only:
                            yield _transform(name, m, status, now)
                case "POSITION":
                    for name, (m, status) in poses.items():
                        if status == "OK" or not self._valid_only:
                            yield _position(name, m, status, now)
                case "TDATA" if client.streams:
                    yield self._tracking_data(poses, now)
                case "IMAGE":
                    for name, frame, place in images:
                        yield self._image(name, frame, place, seconds, now)
                case "TRACKEDFRAME":
                    for _, _, place in images:
                        yield TrackedFrame(
                            self._picture, ijk_to_world=place, transforms=poses,
                            fields=self._fields(now), timestamp=now,
                        )  # fmt: skip
                case "STRING":
                    fields = self._fields(now)
                    for name in info.strings:
                        if name in fields:
                            yield String(fields[name], device_name=name, timestamp=now)

    def _fields(self, now: float) -> dict[str, str]:
        return {
            "DepthMm": f"{self.parameters['DepthMm']:g}", "FrameNumber": str(self.acquired),
            "Timestamp": f"{now:.6f}",
        }  # fmt: skip

    def _image(self, name: str, frame: str, place: Matrix, seconds: float, now: float) -> Image:
        image = Image.from_frame(
            self._picture, ijk_to_world=place, device_name=f"{name}_{frame}",
            timestamp=now,
        )  # fmt: skip
        image.metadata = self._fields(now)
        for tool in _TOOLS:
            m, status = self._placed(tool, seconds)
            image.metadata[f"{tool}Transform"] = _text(m)
            image.metadata[f"{tool}TransformStatus"] = status
        return image

    def _tracking_data(self, poses: Mapping[str, tuple[Matrix, str]], now: float) -> TrackingData:
        shown = [
            (name, m, status) for name, (m, status) in poses.items()
            if status == "OK" or not self._valid_only
        ]  # fmt: skip
        message = TrackingData(
            [Tool(name[:20], ToolType.INSTRUMENT_6D, m) for name, m, _ in shown],
            device_name=f"TDATA_{len(shown)}Elem", timestamp=now,
        )  # fmt: skip
        for k, (name, _, status) in enumerate(shown):
            message.metadata[f"{name}Status"] = status
            message.metadata[f"{name}Index"] = str(k)
        return message

    # -- geometry

    def _edge(self, name: str, seconds: float) -> tuple[Matrix, str] | None:
        if name in self._statuses:
            return pose(seconds, _TOOLS.index(name)), self._statuses[name]
        found = self.transforms.get(name)
        return None if found is None else (found, "OK")

    def _placed(self, name: str, seconds: float) -> tuple[Matrix, str]:
        """4x4 and status of XToY, over as many links as it takes.

        Raises:
            KeyError: there is no way.
        """
        edges: dict[str, dict[str, tuple[Matrix, str]]] = {}
        for each in (*self._statuses, *self.transforms):
            a, _, b = each.partition("To")
            found = self._edge(each, seconds)
            assert found is not None
            edges.setdefault(a, {})[b] = found
            back: Matrix = np.linalg.inv(found[0]).astype(np.float64)
            edges.setdefault(b, {})[a] = back, found[1]
        a, _, b = name.partition("To")
        reached: dict[str, tuple[Matrix, str]] = {a: (np.eye(4), "OK")} if a in edges else {}
        waiting = deque(reached)
        while waiting and b not in reached:
            here = waiting.popleft()
            m, status = reached[here]
            for there, (step, its) in edges[here].items():
                if there not in reached:
                    reached[there] = step @ m, status if its == "OK" else its
                    waiting.append(there)
        if b not in reached or a == b:
            raise KeyError(name)
        return reached[b]

    # -- commands

    def _command(self, client: _Client, command: Command) -> None:
        if command.command_id in client.ids or not command.text:
            return  # no answer at all
        client.ids.append(command.command_id)
        name, besides = command.name, None
        try:
            name, attributes, inner = _parsed(command.text)
            answer = self._carried_out(name, attributes, inner)
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
            name, attributes, inner = _parsed(text)
            answer = self._carried_out(name, attributes, inner)
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

    def _carried_out(
        self, name: str, attributes: dict[str, str], inner: list[dict[str, str]]
    ) -> Answer:
        commands: dict[str, Callable[[dict[str, str], list[dict[str, str]]], Answer]] = {
            "Version": self._version, "RequestDeviceIds": self._device_ids,
            "RequestChannelIds": self._channel_ids, "GetFrameRate": self._frame_rate,
            "GetTransform": self._get_transform, "UpdateTransform": self._update_transform,
            "SaveConfig": self._save_config, "StartRecording": self._start_recording,
            "StopRecording": self._stop_recording,
            "StartVolumeReconstruction": self._start_volume,
            "GetVolumeReconstructionSnapshot": self._snapshot,
            "StopVolumeReconstruction": self._stop_volume,
            "GetUsParameter": self._get_parameter, "SetUsParameter": self._set_parameter,
        }  # fmt: skip
        if name not in commands:
            raise Failure("Unknown command type requested.", "", "")
        return commands[name](attributes, inner)

    def _version(self, attributes: dict[str, str], inner: Any) -> Answer:
        versions = {"IGTLHeaderVersion": "2", "IGTLProtocolVersion": "3", "PlusVersion": _VERSION}
        return Answer("Success.", versions)

    def _device_ids(self, attributes: dict[str, str], inner: Any) -> Answer:
        kinds = {
            "Tracker": "FakeTracker", "UsDevice": "SavedDataSource",
            "CaptureDevice": "VirtualCapture",
            "VolumeReconstructorDevice": "VirtualVolumeReconstructor",
        }  # fmt: skip
        wanted = attributes.get("DeviceType", "")
        ids = [name for name, kind in kinds.items() if wanted in ("", kind)]
        return Answer(",".join(ids), {name: name for name in ids})

    def _channel_ids(self, attributes: dict[str, str], inner: Any) -> Answer:
        ids = ["TrackerStream", "UsStream"]
        return Answer(",".join(ids), {name: name for name in ids})

    def _frame_rate(self, attributes: dict[str, str], inner: Any) -> Answer:
        rate, spread = f"{1 / self._period:.6f}", "0.000122"
        text = f"<CommandReply FrameRate={rate} FrameRateStdDev={spread} />"  # as PLUS writes it
        return Answer("", {"FrameRate": rate, "FrameRateStdDev": spread}, text)

    def _get_transform(self, attributes: dict[str, str], inner: Any) -> Answer:
        name = attributes.get("TransformName", "")
        try:
            m, _ = self._placed(name, time.monotonic() - self._begun)
        except KeyError:
            raise Failure(f"GetTransform ({name}) Failed. Transform not found.") from None
        facts = {name: _text(m), "persistent": "true", **self._facts.get(name, {})}
        return Answer(f"GetTransform ({name}) Command successful.", facts)

    def _update_transform(self, attributes: dict[str, str], inner: Any) -> Answer:
        name = attributes.get("TransformName", "")
        numbers = attributes.get("TransformValue", "").split()
        if len(numbers) != 16 or "To" not in name:
            raise Failure("Unknown command type requested.", "", "")
        self.transforms[name] = np.reshape([float(n) for n in numbers], (4, 4))
        told = {"TransformError": "error", "TransformDate": "date"}
        facts = {key: attributes[given] for given, key in told.items() if given in attributes}
        facts["persistent"] = attributes.get("TransformPersistent", "TRUE").lower()
        self._facts[name] = facts
        return Answer(f"UpdateTransform ({name}) completed successfully")

    def _save_config(self, attributes: dict[str, str], inner: Any) -> Answer:
        name = attributes.get("Filename", "simulated.xml")
        self.saved.append(name)
        return Answer(f"SaveConfig ({name}) Completed successfully.")

    def _captures(self, attributes: dict[str, str], command: str) -> str:
        device = attributes.get("CaptureDeviceId", "")
        if device != "CaptureDevice":
            raise Failure(f"VirtualCapture has not been found ({device}), {command}")
        return f"VirtualCapture ({device}) {command} "

    def _start_recording(self, attributes: dict[str, str], inner: Any) -> Answer:
        base = self._captures(attributes, "StartRecording")
        if self._recording is not None:
            raise Failure(f"{base}Recording to file is already in progress.")
        self._recording = []
        return Answer(f"{base}successful.")

    def _stop_recording(self, attributes: dict[str, str], inner: Any) -> Answer:
        base = self._captures(attributes, "StopRecording")
        if self._recording is None:
            raise Failure(f"{base}Recording to file is already stopped.")
        count, self._recording = len(self._recording), None
        name = attributes.get("OutputFilename", "rec.igs.mha")
        return Answer(f"{base}Recording {count} frames successful to file {name}")

    def _reconstructs(self, attributes: dict[str, str], command: str) -> tuple[str, str]:
        device = attributes.get("VolumeReconstructorDeviceId", "")
        if device not in ("", "VolumeReconstructorDevice"):
            raise Failure(f"Device {device} is not found.")
        name = attributes.get("OutputVolDeviceName", "recvol_Reference")
        return f"{command}(VolumeReconstructorDevice)", name

    def _start_volume(self, attributes: dict[str, str], inner: Any) -> Answer:
        base, _ = self._reconstructs(attributes, "StartVolumeReconstruction")
        if self._volume is not None:
            raise Failure(
                f"{base} Reconstruction starting from live frames failed: live volume "
                "reconstruction is in progress."
            )
        self._volume = []
        return Answer(f"{base} Volume reconstruction from live frames started.")

    def _volume_so_far(self, base: str, name: str) -> Image:
        if self._volume is None:
            raise Failure(
                f"{base} Reconstruction stop from live frames failed: live volume reconstruction "
                "is already stopped, device."
            )
        most = np.maximum.reduce(self._volume or [self._picture])[np.newaxis]
        # its stamp counts from the start of PLUS
        since = time.monotonic() - self._begun
        return Image(most, spacing=(1, 1, 1), device_name=name, timestamp=since)

    def _snapshot(self, attributes: dict[str, str], inner: Any) -> Answer:
        base, name = self._reconstructs(attributes, "GetVolumeReconstructionSnapshot")
        volume = self._volume_so_far(base, name)
        text = f"{base} Volume reconstruction snapshot: image sent as: {name}"
        return Answer(text, besides=volume)

    def _stop_volume(self, attributes: dict[str, str], inner: Any) -> Answer:
        base, name = self._reconstructs(attributes, "StopVolumeReconstruction")
        volume = self._volume_so_far(base, name)
        self._volume = None
        return Answer(f"{base} Reconstruction completed: image sent as: {name}", besides=volume)

    def _scans(self, attributes: dict[str, str]) -> None:
        device = attributes.get("UsDeviceId", "")
        if device not in ("", "UsDevice"):
            raise Failure(f"Device {device} is not found.")

    def _get_parameter(self, attributes: dict[str, str], inner: list[dict[str, str]]) -> Answer:
        self._scans(attributes)
        wrong, values = "", {}
        for parameter in inner:
            name = parameter.get("Name", "")
            if name in self.parameters:
                values[name] = f"{self.parameters[name]:g}"
            else:
                wrong += f"Invalid parameter {name}. "
        if wrong:
            raise Failure(wrong)
        entries = [
            element("Parameter", {"Name": name, "Success": "true", "Value": value})
            for name, value in values.items()
        ]
        return Answer("", values, element("CommandReply", {}, entries))

    def _set_parameter(self, attributes: dict[str, str], inner: list[dict[str, str]]) -> Answer:
        self._scans(attributes)
        wrong, values = "", {}
        for parameter in inner:
            name, value = parameter.get("Name", ""), parameter.get("Value", "")
            try:
                number = float(value)
            except ValueError:
                wrong += f"Failed to parse {name}. "
                continue
            if name not in self.parameters:
                wrong += f"Invalid parameter {name}. "
                continue
            self.parameters[name] = number
            values[name] = "SUCCESS"
        if wrong:
            raise Failure(wrong)
        entries = [element("Parameter", {"Name": name, "Success": "true"}) for name in values]
        return Answer("", values, element("CommandReply", {}, entries))

    # -- end

    def kill(self, *, within: bool = False) -> None:
        """End as a process that is killed: connections are reset.

        Args:
            within: each client gets the first half of a message before.
        """
        if within:
            wire = Image.from_frame(self._picture).pack()
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
    """Simulate a PlusServer:

        with igtl.simulate.plus(port=0) as server, igtl.plus.connect(port=server.port) as plus: ...

    It answers commands, obeys CLIENTINFO, and sends IMAGE, TRANSFORM, TRACKEDFRAME, TDATA,
    POSITION and STRING as PLUS does, which includes what makes PLUS slow, and what freezes or ends
    it. VIDEO and USMESSAGE are not simulated.

    Args:
        host, port: where to listen; 0 takes a free port.
        rate: frames a second.
        size: (width, height) of the image, pixels.
        valid_only: transforms that are not valid are not sent, which is PLUS' default
            (SendValidTransformsOnly).
        streams: False: no frames are acquired, until `pause(False)`; clients get keep-alives.

    Raises:
        OSError: the address cannot be used. ValueError: rate must be positive.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive, not {rate!r}")
    return PlusSimulator(host, port, rate=rate, size=size, valid_only=valid_only, streams=streams)


def _status() -> Status:
    return Status(1, 0, "\n", timestamp=0)


def _text(m: Matrix) -> str:
    return " ".join(f"{x:.6g}" for x in m.ravel())


def _transform(name: str, m: Matrix, status: str, now: float) -> Transform:
    valid = status == "OK"
    message = Transform(m if valid else np.eye(4), device_name=name, timestamp=now)
    message.metadata = {"TransformStatus": status, "TransformValid": "1" if valid else "0"}
    return message


def _position(name: str, m: Matrix, status: str, now: float) -> Position:
    placed = Transform(m)
    return Position(
        placed.position, placed.quaternion, device_name=name, timestamp=now,
        metadata={"TransformStatus": status},
    )  # fmt: skip


def _refused(request: GetImage) -> CommandReply:
    text = element("CommandReply", {
        "Name": "GET_IMAGE", "Status": "FAIL",
        "Error": "ImageId has to contain a dash right after the deviceId.",
        "Message": f"vtkPlusGetImageCommand GET_IMAGE, device: ({request.device_name}) Failed. See "
        "error message.",
    })  # fmt: skip
    return CommandReply(0, "GET_IMAGE", text, device_name=request.device_name, encoding=3)


def _parsed(text: str) -> tuple[str, dict[str, str], list[dict[str, str]]]:
    """Name, attributes and nested elements of a command.

    Raises:
        Failure: it is none.
    """
    try:
        (_, attributes), *rest = elements(text)
    except ValueError:
        raise Failure("Unknown command type requested.", "", "") from None
    name = attributes.get("Name", "")
    return name, attributes, [inner for tag, inner in rest if tag == "Parameter"]
