"""The hub of a bridge: a router of Zenoh in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Self, Unpack

from igtl.bridge.access import access_control, rules_of
from igtl.bridge.events import Events
from igtl.bridge.hub import configuration, patience_of
from igtl.bridge.names import ALL, presence_key, site_of
from igtl.bridge.sockets import Sockets
from igtl.extras import need
from igtl.log import log
from igtl.options import RouterOptions, RouterSettings


class Router:
    """The hub of a bridge, which all sites and receivers connect to.

        with igtl.bridge.Router(
            listen="tls/0.0.0.0:7447", ca="ca.pem", cert="hub.pem", key="hub.key",
            allow=["or1-gateway put=or1", "ward get=or1,or2 ask=or1"],
        ) as router:
            ...

    Without `allow`, every connection may do everything; without TLS, every computer that reaches
    the port may connect. A rule is the common name of a certificate (`*`: of any), and its rights:
    put=SITES, get=SITES, ask=SITES; SITES are names with commas between them, or `*`. The hub
    refuses everything else, and the refused end gets an error.

    Args:
        on_event: called with a line when a connection or site appears or disappears.
        settings: see `igtl.options.RouterOptions`.

    Attributes:
        connections: the other ends by their address: the common name of each certificate, or "".
        sites: the sites that are there now.

    Raises:
        ValueError, TypeError: an option or a rule is not allowed.
        OSError: it cannot listen there, or a certificate cannot be read.
        MissingExtra: the extra `igtl[bridge]` is missing.
    """

    def __init__(
        self,
        *,
        on_event: Callable[[str], Any] = lambda text: None,
        **settings: Unpack[RouterSettings],
    ) -> None:
        zenoh = need("zenoh", "bridge")
        options = RouterOptions.of(settings)
        if not options.listen:
            raise ValueError("listen= names where the hub is: tcp/HOST:PORT or tls/HOST:PORT")
        extra: dict[str, Any] = {}
        if options.allow is not None:
            rules = rules_of(options.allow)
            if not all(each.startswith("tls/") for each in options.listen) or options.ca is None:
                raise ValueError(
                    "allow= goes by certificates: listen= must be tls/…, with ca=, cert= and key="
                )
            extra["access_control"] = access_control(rules)
        self.connections: dict[str, str] = {}
        self._tell = on_event
        self._sockets = Sockets(patience_of(options))
        self._lock = threading.Lock()
        self._tokens: dict[str, set[str]] = {}
        config = configuration(
            options, "router",
            **{"listen/endpoints": options.listen, "connect/timeout_ms": -1,
               "connect/exit_on_failure": False,
               "transport/unicast/max_sessions": options.max_connections,
               "transport/unicast/accept_pending": min(options.max_connections, 1000), **extra},
        )  # fmt: skip
        try:
            self._session = zenoh.open(config)
        except zenoh.ZError as error:
            raise OSError(f"{', '.join(options.listen)}: {error}") from None
        session = self._session
        self._events = Events(self.close)
        handler = self._events.handler
        session.declare_queryable("igtl/@may/**", handler(_allow))
        session.info.declare_link_events_listener(handler(self._linked), history=True)
        met = handler(self._met)
        session.liveliness().declare_subscriber(presence_key(ALL), met, history=True)

    @property
    def sites(self) -> list[str]:
        """The sites that are there now."""
        with self._lock:
            return sorted(self._tokens)

    def _said(self, text: str) -> None:
        log(logging.INFO, "%s", text)
        self._tell(text)

    def _linked(self, event: Any) -> None:
        link = event.link
        where = link.dst.partition("/")[2]
        name = link.auth_identifier or ""
        begun = "PUT" in str(event.kind)
        (self._sockets.begun if begun else self._sockets.ended)(link.src, link.dst)
        with self._lock:
            if begun:
                self.connections[where] = name
            else:
                self.connections.pop(where, None)
        who = f"{name} ({where})" if name else where
        self._said(f"{who} has {'connected' if begun else 'left'}")

    def _met(self, sample: Any) -> None:
        key, there = str(sample.key_expr), "PUT" in str(sample.kind)
        site = site_of(key)
        with self._lock:
            before = site in self._tokens
            tokens = self._tokens.setdefault(site, set())
            (tokens.add if there else tokens.discard)(key)
            if not tokens:
                del self._tokens[site]
            now = site in self._tokens
        if before != now:
            self._said(f"site {site!r} is {'there' if now else 'gone'}")

    def close(self) -> None:
        """Cut all connections, and stop listening."""
        self._session.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Router, {len(self.connections)} connections, {len(self.sites)} sites>"


def _allow(query: Any) -> None:
    """Answer whether a connection may do something: its query arrives here only if it may."""
    with query:
        query.reply(query.key_expr, b"yes")
