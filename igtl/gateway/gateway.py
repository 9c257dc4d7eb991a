"""Sources, routes and sinks of one process, made from a configuration and remade from another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from igtl._core import Frame
from igtl.codec.message import Message
from igtl.gateway.archive import Archive
from igtl.gateway.bridging import FromSite, ToSite
from igtl.gateway.config import Config, Entry
from igtl.gateway.parts import Part
from igtl.gateway.route import Route
from igtl.gateway.sinks import Connecting, Serving, Sink
from igtl.gateway.sources import (
    Connected,
    Datagrams,
    Device,
    Listening,
    Replayed,
    Simulated,
    Source,
)  # fmt: skip
from igtl.log import log

SOURCES: Final[Mapping[str, type[Source]]] = {
    "connect": Connected, "listen": Listening, "udp": Datagrams, "site": FromSite,
    "replay": Replayed, "simulate": Simulated, "device": Device,
}  # fmt: skip
SINKS: Final[Mapping[str, type[Sink]]] = {
    "serve": Serving, "connect": Connecting, "record": Archive, "site": ToSite,
}  # fmt: skip
_OPENING: Final = 1.0  # seconds for sinks to open before sources do
_PATIENCE: Final = 5.0  # seconds for frames that are on their way through a route that ends


class Gateway:
    """Everything that a configuration asks for.

        with Gateway(load("hospital.toml")) as gateway:
            gateway.apply(load("hospital.toml"))      # remakes what has changed

    A part that cannot be opened, or breaks, says so in its `reason` and is tried again; the others
    go on.

    Attributes:
        config: what it is made from.
        sources, sinks, routes: by name.
    """

    def __init__(self, config: Config) -> None:
        self.config = Config(http=None)
        self.sources: Mapping[str, Source] = {}
        self.sinks: Mapping[str, Sink] = {}
        self.routes: Mapping[str, Route] = {}
        self._routes_of: Mapping[str, tuple[Route, ...]] = {}
        self._askers_of: Mapping[str, tuple[Serving, ...]] = {}
        self._applying = threading.Lock()
        self.apply(config)

    def apply(self, config: Config) -> list[str]:
        """Remake what has changed; everything else keeps its connections, files and counters.

        Args:
            config: what the gateway is made from now on.

        Returns:
            What was made, remade or ended, each as "source NAME", sorted.
        """
        with self._applying:
            old, self.config = self.config, config
            moved = old.transforms != config.transforms
            old_sources, sources = self._sorted_out(self.sources, config.sources)
            old_sinks, sinks = self._sorted_out(self.sinks, config.sinks)
            old_routes, routes = self._sorted_out(
                self.routes, config.routes, lambda route: moved and "to_frame" in route.entry.values
            )
            new_sinks = [SINKS[e.kind](e) for e in config.sinks.values() if e.name not in sinks]
            new_routes = [
                Route(e, config.transforms, self._deliver_to(e.get("to")))
                for e in config.routes.values() if e.name not in routes
            ]  # fmt: skip
            for sink in new_sinks:
                if isinstance(sink, Serving) and sink.asks is not None:
                    sink.ask = self._ask(sink.asks)
            for source in old_sources:
                source.close()
            # from here on frames take the new ways, as far as these are open
            self.sinks = sinks | {sink.name: sink for sink in new_sinks}
            self.routes = routes | {route.name: route for route in new_routes}
            self._routes_of = {
                name: tuple(r for r in self.routes.values() if name in r.entry.get("from"))
                for name in config.sources
            }
            self._askers_of = {
                name: tuple(
                    sink for sink in self.sinks.values()
                    if isinstance(sink, Serving) and sink.asks == name
                )
                for name in config.sources
            }  # fmt: skip
            _wait_for_frames(sources.values())
            for route in old_routes:
                route.close()
            for sink in old_sinks:
                sink.close()
            new_sources = [
                SOURCES[e.kind](e, self._take) for e in config.sources.values()
                if e.name not in sources
            ]  # fmt: skip
            self.sources = sources | {source.name: source for source in new_sources}
            for sink in new_sinks:
                sink.start()
            opening = time.monotonic() + _OPENING
            for sink in new_sinks:  # so that what comes at once finds them open
                sink.tried.wait(max(0.0, opening - time.monotonic()))
            for source in new_sources:
                source.start()
            made = (*new_sources, *new_sinks, *new_routes)
            return sorted({str(each) for each in (*made, *old_sources, *old_sinks, *old_routes)})

    @staticmethod
    def _sorted_out(
        parts: Mapping[str, Any],
        entries: Mapping[str, Entry],
        changed: Callable[[Any], bool] = lambda part: False,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the parts that end, and those that stay, by name."""
        stays = {
            name: part for name, part in parts.items()
            if entries.get(name) == part.entry and not changed(part)
        }  # fmt: skip
        return [part for name, part in parts.items() if name not in stays], stays

    # -- frames

    def _take(self, frame: Frame, source: Source) -> None:
        for sink in self._askers_of.get(source.name, ()):
            if sink.answer(frame):
                return
        for route in self._routes_of.get(source.name, ()):
            route.forward(frame, source.name)

    def _ask(self, name: str) -> Callable[[Message], None]:
        def ask(message: Message) -> None:
            source = self.sources.get(name)
            if isinstance(source, Connected):  # but in the moment in which it is made anew
                source.send(message)

        return ask

    def _deliver_to(self, names: tuple[str, ...]) -> Callable[[Frame, str], None]:
        def deliver(frame: Frame, source: str) -> None:
            sinks = self.sinks
            for name in names:
                if name in sinks:  # but in the moment in which its route ends
                    sinks[name].put(frame, source)

        return deliver

    # -- state

    @property
    def parts(self) -> list[Part]:
        """All sources and sinks."""
        return [*self.sources.values(), *self.sinks.values()]

    def wait_open(self, timeout: float) -> bool:
        """Wait until each part was opened, or could not be.

        Args:
            timeout: seconds for all of them together.

        Returns:
            Whether that is so.
        """
        end = time.monotonic() + timeout
        return all(part.tried.wait(max(0.0, end - time.monotonic())) for part in self.parts)

    @property
    def faults(self) -> dict[str, str]:
        """What does not work, as "source NAME", and why, required or not."""
        return {str(part): reason for part in self.parts if (reason := part.reason)}

    @property
    def healthy(self) -> bool:
        """Whether everything works that is required."""
        return not any(part.required and part.reason for part in self.parts)

    def stuck(self) -> float:
        """Return for how many seconds a frame has been on its way to the sinks; 0 for none."""
        now = time.monotonic()
        return max((source.stuck(now) for source in self.sources.values()), default=0.0)

    def close(self) -> None:
        """End everything: sources first, then routes, so that sinks get what was on its way."""
        self.apply(Config(http=None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _wait_for_frames(sources: Any) -> None:
    """Wait until each frame that a source has handed on before now has left its routes."""
    now = time.monotonic()
    for source in sources:
        while source.stuck(end := time.monotonic()) > end - now:
            if end - now > _PATIENCE:
                log(logging.WARNING, "source %s: a frame is stuck on its way", source.name)
                return
            time.sleep(0.001)
