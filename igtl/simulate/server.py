"""Simulated devices behind a server, as hardware would be: `igtl.simulate.serve`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple, Self, TypeVar

from igtl.blocking.server import Server
from igtl.blocking.server import serve as serve_clients
from igtl.codec.message import Message
from igtl.messages.imaging import Image
from igtl.messages.queries import GetImage, GetTrackingData, GetTransform, StartTrackingData
from igtl.messages.tracking import TrackingData, Transform
from igtl.options import PORT
from igtl.simulate.imaging import Ultrasound, head_phantom
from igtl.simulate.sensors import ForceSensor, InertialSensor, RobotArm
from igtl.simulate.stream import Stream
from igtl.simulate.tracking import Tracker
from igtl.tools.rate import Rate

M = TypeVar("M", bound=Message)
DEVICES: Final = {
    "tracker": "TRANSFORM of three tools, 60 Hz each; TDATA on request (STT_TDATA)",
    "ultrasound": "IMAGE Image_Reference and TRANSFORM NeedleToReference, 20 Hz",
    "ct": "IMAGE CT, 60 × 256 × 256, to each new client, and to GET_IMAGE",
    "force": "SENSOR Force, 100 Hz",
    "imu": "SENSOR Acceleration and Rate, 100 Hz",
    "robot": "TRANSFORM arm/measured_cp, 1 kHz; NDARRAY arm/measured_js, 100 Hz",
}
"""What can be simulated, and what it sends."""


class Source(NamedTuple):
    """One stream of a device.

    Attributes:
        name: of what it sends, "TYPE device".
        produce: the message for a time in seconds.
        hz: messages a second.
    """

    name: str
    produce: Callable[[float], Message]
    hz: float


def sources(
    device: str, *, noise: float = 0.0, dropout: float = 0.0, statuses: bool = False, seed: int = 0
) -> list[Source]:
    """Return the streams of a device; arguments as for `serve`."""
    if device == "tracker":
        tracker = Tracker(noise=noise, dropout=dropout, statuses=statuses, seed=seed)
        return [
            Source(f"TRANSFORM {name}", partial(tracker.transform, tool=k), 60)
            for k, name in enumerate(tracker.names)
        ]
    if device == "ultrasound":
        scanner = Ultrasound(seed=seed)
        return [
            Source("IMAGE Image_Reference", scanner.image, 20),
            Source("TRANSFORM NeedleToReference", scanner.needle, 20),
        ]
    if device == "force":
        return [Source("SENSOR Force", ForceSensor(seed=seed).sensor, 100)]
    if device == "imu":
        imu = InertialSensor(seed=seed)
        return [
            Source("SENSOR Acceleration", imu.acceleration, 100),
            Source("SENSOR Rate", imu.rate, 100),
        ]
    if device == "robot":
        arm = RobotArm()
        return [
            Source("TRANSFORM arm/measured_cp", arm.measured, 1000),
            Source("NDARRAY arm/measured_js", arm.joint_state, 100),
        ]
    if device == "ct":
        return []  # sent once
    raise ValueError(f"no device {device!r}; there are {', '.join(DEVICES)}")


class Simulator:
    """Simulated devices that serve clients; see `serve`.

    Attributes:
        server: the `igtl.Server`; handlers may be added to it.
        host, port: where it listens.
    """

    def __init__(self, server: Server, devices: tuple[str, ...], settings: dict[str, Any]) -> None:
        self.server = server
        self.host, self.port = server.host, server.port
        self._streams: dict[str, Stream] = {}
        found = [source for device in devices for source in sources(device, **settings)]
        if "tracker" in devices:
            self._answer_for(Tracker(**settings))
        if "ultrasound" in devices:
            server.provides(GetImage, "Image_*")(
                self._latest_image(Ultrasound(seed=settings["seed"]))
            )
        if "ct" in devices:
            ct = head_phantom(60, 256, noise=10, seed=settings["seed"])
            server.provides(GetImage, "CT")(lambda request, peer: ct)
            server.broadcast(ct, latch=True)
        server.command()(lambda command, peer: command.text)
        server.start()
        for name, produce, hz in found:
            self._streams[name] = Stream(produce, server.broadcast, hz)

    def _answer_for(self, tracker: Tracker) -> None:
        @self.server.provides(StartTrackingData)
        def _(request: StartTrackingData, peer: Any) -> Iterator[TrackingData]:
            interval = request.resolution_ms or 20
            for tick in Rate(1000 / interval):
                yield _for_peer(tracker.tracking_data(1e-3 * interval * tick), peer)

        @self.server.provides(GetTrackingData)
        def _(request: GetTrackingData, peer: Any) -> TrackingData:
            return _for_peer(tracker.tracking_data(self._seconds()), peer)

        @self.server.provides(GetTransform)
        def _(request: GetTransform, peer: Any) -> Transform | None:
            name = request.device_name or tracker.names[0]
            if name not in tracker.names:
                return None
            return _for_peer(tracker.transform(self._seconds(), tracker.names.index(name)), peer)

    def _latest_image(self, scanner: Ultrasound) -> Callable[[GetImage, Any], Image]:
        return lambda request, peer: scanner.image(self._seconds())

    def _seconds(self) -> float:
        """Seconds since the streams began."""
        return next(iter(self._streams.values())).seconds if self._streams else 0.0

    @property
    def sent(self) -> dict[str, int]:
        """Messages so far, by "TYPE device"."""
        return {name: stream.sent for name, stream in self._streams.items()}

    def close(self) -> None:
        """Stop the devices and the server."""
        for stream in self._streams.values():
            stream.stop()
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _for_peer(message: M, peer: Any) -> M:
    """Return the message without the statuses, if the peer reads version 1 only."""
    if peer.header_version == 1:
        message.metadata = None
    return message


def serve(
    *devices: str,
    host: str = "127.0.0.1",
    port: int = PORT,
    noise: float = 0.0,
    dropout: float = 0.0,
    statuses: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Simulator:
    """Serve simulated devices to many clients.

        with igtl.simulate.serve("tracker", "ultrasound", port=0) as simulator:
            with igtl.connect(port=simulator.port) as link: ...

    What they show depends on the seed and the time since the start alone. COMMANDs are answered
    with their own text.

    Args:
        devices: of DEVICES; default "tracker" and "ultrasound".
        host: where to listen; see `igtl.serve`.
        port: 0 takes a free one.
        noise: of the tracker, mm, standard deviation.
        dropout: share of the time in which a tool of the tracker is out of sight.
        statuses: tell that in the metadata, as PLUS does. Clients need header version 2.
        seed: of all that is random.
        settings: of `igtl.serve`.

    Raises:
        ValueError: there is no such device.
        OSError: the address cannot be used.
    """
    devices = devices or ("tracker", "ultrasound")
    for device in devices:
        if device not in DEVICES:
            raise ValueError(f"no device {device!r}; there are {', '.join(DEVICES)}")
    server = serve_clients(host, port, start=False, **settings)
    try:
        return Simulator(
            server, devices,
            {"noise": noise, "dropout": dropout, "statuses": statuses, "seed": seed},
        )  # fmt: skip
    except BaseException:
        server.close()
        raise
