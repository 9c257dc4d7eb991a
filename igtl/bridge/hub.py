"""The way of one end of a bridge to its hub: opened, kept up, and why it cannot be."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from igtl.blocking.changes import Changes
from igtl.bridge.events import Events, joined
from igtl.bridge.names import ALL, permission_key
from igtl.bridge.sockets import Sockets
from igtl.extras import need
from igtl.log import log
from igtl.options import LONGEST, BridgeOptions

_BATCH: Final = 8 << 10  # bytes that leave together: what a pose waits for on a slow way
_FOREVER: Final = 60.0  # seconds, where an option is None
_CUT: Final = 2.0  # seconds after which what the other end has not confirmed means a cut
_KEEP_ALIVE: Final = 0.5  # seconds without a message after which one is sent, to notice a cut
_RETRY: Final = {"period_init_ms": 100, "period_max_ms": 250, "period_increase_factor": 1.5}
_REFUSALS: Final = 3  # times that a certificate may be refused before this end gives up
_AGAIN: Final = 0.1  # seconds until a question that the hub has not answered is asked again
_ANSWER: Final = 5.0  # seconds for what the hub says about permissions


Way = TypeVar("Way", bound=BridgeOptions)


class Refused(PermissionError):
    """The hub does not let this end in, or not to that site; the text says why."""


def configuration(options: BridgeOptions, mode: str, **settings: Any) -> Any:
    """Make the configuration of a session of Zenoh that searches for nothing and drops nothing."""
    zenoh = need("zenoh", "bridge")
    tcp = {"so_sndbuf": options.send_buffer}
    lease = options.lease or _FOREVER
    patience = 1000 * (options.open_timeout or _FOREVER)
    tls: dict[str, Any] = dict(tcp)
    if options.ca is not None:
        tls["root_ca_certificate"] = options.ca
    for side in ("listen", "connect") if options.cert is not None else ():
        tls |= {f"{side}_certificate": options.cert, f"{side}_private_key": options.key}
    if options.cert is not None and options.ca is not None:
        tls["enable_mtls"] = True
    settings = {
        "mode": mode,
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "connect/endpoints": options.connect,
        "connect/retry": _RETRY,
        "transport/shared_memory/enabled": False,
        "transport/link/tcp": tcp,
        "transport/link/tls": tls,
        "transport/link/tx/batch_size": _BATCH,
        "transport/link/tx/lease": int(1000 * lease),
        "transport/link/tx/keep_alive": max(4, round(lease / _KEEP_ALIVE)),  # so many in a lease
        # so long a connection that takes nothing holds up those that send: less than the lease, or
        # they are lost themselves
        "transport/link/tx/queue/congestion_control/block/wait_before_close": int(
            5e5 * patience_of(options)
        ),
        "transport/unicast/open_timeout": int(patience),
        **settings,
    }
    config = zenoh.Config()
    for key, value in settings.items():
        config.insert_json5(key, json.dumps(value))
    return config


def patience_of(options: BridgeOptions) -> float:
    """Return the seconds in which the other end must confirm what was sent.

    Its system confirms, however busy its programs are, so it may be much shorter than the lease.
    """
    return min(_CUT, options.lease or _FOREVER)


def checked(options: Way) -> Way:
    """Return these options if they name a hub.

    Raises:
        ValueError: these do not.
    """
    if not options.connect:
        raise ValueError("connect= names the hub: tcp/HOST:PORT or tls/HOST:PORT")
    return options


class Hub:
    """A connection to the hub, opened and kept up by a thread.

    Args:
        permissions: what this end wants to do there: ("put" | "get" | "ask", site).
        opened: called once with the session, before it is used.
        changed: called with each change of `connected`, from any thread.
        events: handles what Zenoh reports.
        tell: called with a line for the user about the connection; None: nothing is said, nor
            logged.
        idle: called from time to time while `connected`; returns the seconds until the next time.

    Attributes:
        connected: whether the hub is connected, and allows what this end asks for.
        refused: why this end has given up; None while it has not.
        session: of Zenoh, once it is open.
    """

    def __init__(
        self,
        options: BridgeOptions,
        permissions: Iterable[tuple[str, str]],
        *,
        opened: Callable[[Any], None],
        changed: Callable[[bool], None],
        events: Events,
        tell: Callable[[str], None] | None,
        idle: Callable[[], float] = lambda: LONGEST,
    ) -> None:
        self._config = configuration(
            options, "client",
            **{"connect/timeout_ms": int(2000 * (options.open_timeout or _FOREVER)),
               "connect/exit_on_failure": True},
        )  # fmt: skip
        self.connected = False
        self.refused: Refused | None = None
        self.session: Any = None
        self._options = options
        self._permissions = list(permissions)
        self._opened = opened
        self._changed = changed
        self._events = events
        self._tell = tell
        self._idle = idle
        self._told = ""
        self._welcome = False  # whether the hub has ever let this end do what it wants
        self._wake = Changes()
        self._there = False  # whether there is a connection
        self._serial = 0  # of its beginnings and ends
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="igtl bridge", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def tell(self, text: str, level: int = logging.INFO) -> None:
        """Tell the log and the user a line, but not the same line twice in a row."""
        if self._tell is not None and text != self._told:
            self._told = text
            log(level, "%s", text)
            self._tell(text)

    def close(self) -> None:
        """Leave the hub: nothing more is reported."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        joined(self._thread)

    # -- in the thread

    def _run(self) -> None:
        try:
            if self._open():
                self._watch()
        finally:
            self._set_connected(False)
            if self.session is not None:
                self.session.close()

    def _open(self) -> bool:
        zenoh = need("zenoh", "bridge")
        refusals = 0
        while not self._closed:
            try:
                self.session = zenoh.open(self._config)
            except zenoh.ZError as error:
                log(logging.DEBUG, "not opened: %s", error)
                reason = self._why_not("the hub does not answer")
                refusals = refusals + 1 if isinstance(reason, Refused) else 0
                if isinstance(reason, Refused) and refusals >= _REFUSALS:
                    self._give_up(reason)
                    return False
                self.tell(str(reason), logging.WARNING)
                continue
            self._opened(self.session)
            happened = self._events.handler(self._happened)
            self.session.info.declare_transport_events_listener(happened, history=True)
            return True
        return False

    def _happened(self, event: Any) -> None:
        """Note that a connection has begun or ended; a client of Zenoh has one at a time."""
        there = "PUT" in str(event.kind)
        if there:
            sockets = Sockets(patience_of(self._options))
            for link in self.session.info.links():
                sockets.begun(link.src, link.dst)
        with self._wake:
            self._there = there
            self._serial += 1
            self._wake.notify_all()
        if not there:
            self._set_connected(False)

    def _watch(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._there, timeout=_CUT)
                if self._closed:
                    return
                there, serial = self._there, self._serial
            if not there:
                self.tell(str(self._why_not("the hub does not answer")), logging.WARNING)
                continue
            refusals = (self.forbids(*permission) for permission in self._permissions)
            refused = next(filter(None, refusals), None)
            with self._wake:
                if serial != self._serial:
                    continue  # the connection has ended meanwhile
            if refused is None:
                self._welcome = True
                self._set_connected(True)
                where = self.session.info.links()
                self.tell(f"connected to {where[0].dst if where else self._options.connect[0]}")
            elif self._welcome:
                self.tell(str(refused), logging.ERROR)
            else:
                self._give_up(refused)
                return
            while self._lasts(serial, self._idle() if self.connected else LONGEST):
                pass
            if self._closed:
                return
            self.tell("the hub is lost", logging.WARNING)

    def _lasts(self, serial: int, patience: float) -> bool:
        """Return whether the connection is still there after so many seconds; at once if not."""
        with self._wake:
            return not self._wake.wait_for(lambda: self._closed or serial != self._serial, patience)

    def _give_up(self, refused: Refused) -> None:
        self.refused = refused
        self.tell(str(refused), logging.ERROR)
        self._changed(False)

    def _set_connected(self, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            self._changed(connected)

    # -- why not

    def forbids(self, verb: str, site: str) -> Refused | None:
        """Return why the hub does not let this end "put", "get" or "ask" a site.

        None means that it does, or that it does not tell, as a hub that is not of igtl.

        Raises:
            ZError: the session was closed.
        """

        def answers(key: str) -> bool:
            replies = self.session.get(key, timeout=_ANSWER)
            return any(reply.ok is not None for reply in replies)

        def knows() -> bool:
            for _ in range(4):
                if answers(permission_key("know", "hub")):
                    return True
                time.sleep(_AGAIN)  # the connection is new, and the hub not yet told all
            return False

        # a connection that ends meanwhile answers nothing either: so the hub must, before and after
        for _ in range(2):
            if not knows() or answers(permission_key(verb, site)):
                return None
        if not knows():
            return None
        cert = self._options.cert
        who = "this end" if cert is None else f"the certificate in {cert}"
        every = "all sites" if site == ALL else f"site {site!r}"
        return Refused(f"the hub does not allow {who} to {verb} {every}")

    def _why_not(self, text: str) -> Exception:
        """Return why there is no connection: a Refused if the certificates are the reason."""
        reasons = [self._probed(endpoint, text) for endpoint in self._options.connect]
        refused = [reason for reason in reasons if isinstance(reason, Refused)]
        if len(refused) == len(reasons):
            return refused[0]
        return next(reason for reason in reasons if not isinstance(reason, Refused))

    def _probed(self, endpoint: str, text: str) -> Exception:
        protocol, _, address = endpoint.partition("/")
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            with socket.create_connection((host, int(port)), self._options.open_timeout) as plain:
                if protocol == "tls" and (reason := self._probed_tls(plain, host)):
                    return Refused(f"{endpoint}: {reason}")
        except (OSError, OverflowError) as error:
            return ConnectionError(f"{endpoint}: {error}")
        return ConnectionError(f"{endpoint}: {text}")

    def _probed_tls(self, plain: socket.socket, host: str) -> str:
        """Return what is wrong with the certificates of both ends; "" for nothing."""
        import ssl

        from igtl.session import tls

        options = self._options
        try:
            context = tls.client(options.ca, cert=options.cert, key=options.key)
            with context.wrap_socket(plain, server_hostname=host) as secure:
                secure.recv(1)  # the hub says here what it thinks of this end's certificate
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not trusted: {error.verify_message}"
        except ssl.SSLError as error:
            return f"it refuses this end's certificate: {error.reason or error}"
        except TimeoutError:
            pass  # it waits for the first message
        except ConnectionError:
            return "it refuses this end's certificate"
        return ""
