"""What a gateway counts, for Prometheus.

It is read from the gateway's counters when it is asked for, so that a message costs nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

from igtl.extras import need
from igtl.gateway.archive import Archive
from igtl.gateway.gateway import Gateway
from igtl.gateway.sinks import Serving

REASONS: Final = ("changed", "unchanged", "invalid")
"""What a reload can come to."""


class Metrics:
    """The numbers of a gateway in the text format of Prometheus.

    Attributes:
        reloads: how many there were of each of REASONS.

    Raises:
        MissingExtra: the package prometheus-client is missing.
    """

    def __init__(self, gateway: Gateway) -> None:
        need("prometheus_client", "gateway")
        from prometheus_client import CollectorRegistry, exposition
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        self._counter, self._gauge = CounterMetricFamily, GaugeMetricFamily
        self._choose = exposition.choose_encoder
        self._gateway = gateway
        self._begun = time.time()
        self.reloads = dict.fromkeys(REASONS, 0)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Return the numbers now, and their content type.

        Args:
            accept: the header of that name: which form the reader takes.
        """
        encode, kind = self._choose(accept)
        return encode(self._registry), kind

    def describe(self) -> list[Any]:
        """Return nothing, for the registry: what there is depends on the configuration."""
        return []

    def collect(self) -> Iterator[Any]:
        """Return families of numbers, for the registry."""
        info = self._gauge("igtl_gateway_info", "Version of igtl.", labels=["version"])
        info.add_metric([version("igtl")], 1)
        yield info
        yield self._gauge(
            "igtl_gateway_start_time_seconds", "When the gateway began, seconds since 1970.",
            value=self._begun,
        )  # fmt: skip
        yield self._gauge(
            "igtl_gateway_healthy", "Whether all that is required works.",
            value=float(self._gateway.healthy),
        )  # fmt: skip
        family = self._counter(
            "igtl_gateway_reloads", "Times that the configuration was read again.",
            labels=["result"],
        )  # fmt: skip
        for result, number in self.reloads.items():
            family.add_metric([result], number)
        yield family
        yield from self._of_sources()
        yield from self._of_routes()
        yield from self._of_sinks()

    def _of_sources(self) -> Iterator[Any]:
        stream = ["source", "type", "device"]
        received = self._counter("igtl_source_messages", "Messages that came.", labels=stream)
        size = self._counter("igtl_source_bytes", "Their bytes.", labels=stream)
        age = self._gauge("igtl_source_age_seconds", "Since the last message.", labels=stream)
        rate = self._gauge("igtl_source_rate", "Messages a second, newest ones.", labels=stream)
        jitter = self._gauge("igtl_source_jitter_seconds", "Of their intervals.", labels=stream)
        lost = self._counter(
            "igtl_source_lost", "Messages lost before they came here.", labels=["source", "cause"]
        )
        up = self._gauge("igtl_source_up", "Whether the source works.", labels=["source"])
        came = self._counter("igtl_source_connections", "Connections so far.", labels=["source"])
        for name, source in self._gateway.sources.items():
            for (kind, device), counted in source.stats.streams.items():
                labels = [name, kind, device]
                received.add_metric(labels, counted.received)
                size.add_metric(labels, counted.received_bytes)
                age.add_metric(labels, counted.age or 0.0)
                rate.add_metric(labels, counted.rate)
                jitter.add_metric(labels, counted.jitter)
            for cause, number in source.lost.items():
                lost.add_metric([name, cause], number)
            up.add_metric([name], float(not source.reason))
            came.add_metric([name], source.connections)
        yield from (received, size, age, rate, jitter, lost, up, came)

    def _of_routes(self) -> Iterator[Any]:
        passed = self._counter(
            "igtl_route_passed", "Messages handed to the sinks.",
            labels=["route", "type", "device"],
        )  # fmt: skip
        simple = {
            "received": "Messages that came from the sources.",
            "filtered": "Messages that are not wanted.",
            "thinned": "Messages left out for the sake of max_rate.",
            "converted": "Messages that became others.",
            "made": "Messages that they became.",
        }
        families = {
            what: self._counter(f"igtl_route_{what}", text, labels=["route"])
            for what, text in simple.items()
        }
        failed = self._counter(
            "igtl_route_failed", "Messages that could not be passed on.", labels=["route", "cause"]
        )
        kept = self._gauge(
            "igtl_route_kept", "Messages that wait for their turn.", labels=["route"]
        )
        for name, route in self._gateway.routes.items():
            for (kind, device), number in [*route.passed.items()]:
                passed.add_metric([name, kind, device], number)
            for what, family in families.items():
                family.add_metric([name], getattr(route, what))
            for cause, number in [*route.failed.items()]:
                failed.add_metric([name, cause], number)
            kept.add_metric([name], route.kept)
        yield from (passed, *families.values(), failed, kept)

    def _of_sinks(self) -> Iterator[Any]:
        taken = self._counter("igtl_sink_taken", "Messages the sink was handed.", labels=["sink"])
        delivered = self._counter(
            "igtl_sink_delivered", "Messages sent to peers, or written.", labels=["sink"]
        )
        dropped = self._counter(
            "igtl_sink_dropped", "Messages that were not.", labels=["sink", "cause"]
        )
        waiting = self._gauge("igtl_sink_waiting", "Messages that wait.", labels=["sink"])
        up = self._gauge("igtl_sink_up", "Whether the sink works.", labels=["sink"])
        clients = self._gauge("igtl_sink_clients", "Clients that are connected.", labels=["sink"])
        came = self._counter("igtl_sink_connections", "Clients so far.", labels=["sink"])
        refused = self._counter(
            "igtl_sink_refused", "Clients that were not let in.", labels=["sink", "cause"]
        )
        answered = self._counter(
            "igtl_sink_answered", "Answers of a source to one client.", labels=["sink"]
        )
        files = self._counter("igtl_sink_files", "Files that were begun.", labels=["sink"])
        for name, sink in self._gateway.sinks.items():
            taken.add_metric([name], sink.taken)
            delivered.add_metric([name], sink.delivered)
            for cause, number in sink.dropped.items():
                dropped.add_metric([name, cause], number)
            waiting.add_metric([name], sink.waiting)
            up.add_metric([name], float(not sink.reason))
            if isinstance(sink, Serving):
                clients.add_metric([name], len(sink.clients))
                came.add_metric([name], sink.came)
                answered.add_metric([name], sink.answered)
                for cause, number in sink.refused.items():
                    refused.add_metric([name, cause], number)
            elif isinstance(sink, Archive):
                files.add_metric([name], sink.files)
        yield from (taken, delivered, dropped, waiting, up, clients, came, refused, answered, files)
