"""Arguments that several commands share."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

import igtl
from igtl.addresses import parsed
from igtl.cli import UNREACHABLE, Failure
from igtl.cli.news import reason
from igtl.log import named
from igtl.options import SITE, BridgeOptions, Version, WaySettings
from igtl.session.requests import name_fits

if TYPE_CHECKING:
    from ssl import SSLContext

F = TypeVar("F", bound=Callable[..., Any])
EXISTING: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_CA: Final = "By TLS, checked by this authority (PEM)."
_CERT: Final = "By TLS, with this certificate of our own (PEM)."
_KEY: Final = "Its key, if it is not in the same file."


class Address(click.ParamType):  # type: ignore[type-arg]
    """HOST:PORT, HOST, :PORT or PORT, as (host, port); an IPv6 host stands in brackets.

    Also unix:/PATH; ws://HOST:PORT/PATH and wss://; or site:NAME of a bridge.
    """

    name = "address"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        """Return the (host, port) of a text."""
        if isinstance(value, tuple):
            return value
        try:
            return parsed(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Place(click.ParamType):  # type: ignore[type-arg]
    """A file that exists, or an address: a Path, or (host, port)."""

    name = "source"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path | tuple[str, int]:
        """Return the Path or the address of a text."""
        path = Path(value)
        if path.is_file():
            return path
        if path.suffix in (".mcap", ".mha", ".mhd", ".nrrd"):
            self.fail(f"{value}: there is no such file", param, ctx)
        address: tuple[str, int] = Address().convert(value, param, ctx)
        return address


class Connection(NamedTuple):
    """How to connect: the options of `connection`.

    Attributes:
        files: of TLS: the authority, our certificate and its key, as far as they were named.
    """

    hello: bool
    version: Version
    context: SSLContext | None
    files: WaySettings = {}
    server_name: str | None = None

    def open(self, address: tuple[str, int], **settings: Any) -> igtl.Link:
        """Return the link; raise a Failure if the server cannot be reached."""
        if address[0].startswith(SITE):
            raise Failure(f"{address[0]}: this command is for a server, not for a site of a bridge")
        try:
            link: igtl.Link = igtl.connect(
                *address, hello=self.hello, version=self.version, ssl=self.context,
                server_hostname=self.server_name, **settings,
            )  # fmt: skip
            return link
        except (OSError, UnicodeError) as error:  # UnicodeError: no such host can be
            raise Failure(f"{named(address)}: {reason(error)}", UNREACHABLE) from None


def connection(command: F, *, of: str = "") -> F:
    """Add the options of a command that connects; it gets them as `how`.

    Args:
        command: the command.
        of: what the names of the options of TLS begin with, where others go without.
    """

    @click.option("--hello", is_flag=True, help="Offer header version 2 (PLUS, igtl).")
    @click.option(
        "--header-version", type=click.Choice(["auto", "1", "2"]), default="auto",
        show_default=True, help="Header version to write; auto: 1 until the peer has sent 2.",
    )  # fmt: skip
    @click.option(
        f"--{of}tls", "link_tls", is_flag=True, help="By TLS, checked by the system's authorities."
    )
    @click.option(f"--{of}ca", "link_ca", type=EXISTING, help=_CA)
    @click.option(f"--{of}cert", "link_cert", type=EXISTING, help=_CERT)
    @click.option(f"--{of}key", "link_key", type=EXISTING, help=_KEY)
    @click.option(
        f"--{of}server-name", "server_name",
        help="By TLS, with this name in the server's certificate; default the host of ADDRESS.",
    )  # fmt: skip
    @functools.wraps(command)
    def wrapped(
        *args: Any, hello: bool, header_version: str, link_tls: bool, link_ca: Path | None,
        link_cert: Path | None, link_key: Path | None, server_name: str | None, **others: Any,
    ) -> Any:  # fmt: skip
        context = None
        if link_tls or link_ca or link_cert or server_name:
            context = igtl.tls.client(link_ca, cert=link_cert, key=link_key)
        version: Version = {"1": 1, "2": 2}.get(header_version, "auto")  # type: ignore[assignment]
        files: WaySettings = {"ca": link_ca, "cert": link_cert, "key": link_key}
        return command(*args, how=Connection(hello, version, context, files, server_name), **others)

    return wrapped  # type: ignore[return-value]


# ---- options that several commands have: each is declared here alone, so that it has one name, and
# ---- means the same everywhere (tests/test_options.py)

allow = click.option("--allow", multiple=True, help="Only these addresses or networks may connect.")
arrays = click.option("--arrays", is_flag=True, help="With --json: large arrays in full.")
as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, an object a line.")
by = click.option(
    "--by", type=click.Choice(["timestamp", "arrival"]), default="timestamp", show_default=True,
    help="The times that count.",
)  # fmt: skip
compress = click.option(
    "--compress", is_flag=True, help="Compressed, to a peer that is igtl and takes it."
)
config = click.option(
    "--config", type=EXISTING,
    help="What is known already: a configuration of PLUS, or a .json of igtl calibrate.",
)  # fmt: skip
count = click.option("-n", "--count", type=click.IntRange(1), help="End after so many messages.")
image = click.option("--image", help="The device that sends the pictures.")
listen = click.option(
    "--listen", is_flag=True, help="Be the server: wait at ADDRESS for one client."
)
loop = click.option("--loop", is_flag=True, help="Play the recording again and again.")
name = click.option("--name", help="Device name of what is sent; default that of the file, if any.")
peer = click.option(
    "--peer", type=Address(), help="Be a client, of the server at this address, instead."
)
quiet = click.option(
    "-q", "--quiet", is_flag=True, help="Say less: neither progress nor who comes and goes."
)
reference = click.option(
    "--reference", help="The pose of the marker beside the object, if they may move."
)
tool = click.option("--tool", help="The pose of the tool, such as ProbeToTracker.")
timeout = click.option(
    "--timeout", type=click.FloatRange(0), default=5.0, show_default=True, help="Seconds to wait."
)
udp = click.option("--udp", is_flag=True, help="By UDP: datagrams instead of a connection.")
verbose = click.option(
    "-v", "--verbose", is_flag=True, help="Matrices, metadata and all other fields."
)
_client_ca = click.option(
    "--client-ca", type=EXISTING, help="Only clients certified by this authority (PEM)."
)


def at(default: str) -> Callable[[F], F]:
    """Decorator: where a command is a server."""
    return click.option(
        "--at", type=Address(), default=default, show_default=True,
        help="Where to listen; host 0.0.0.0 accepts connections from other machines.",
    )  # fmt: skip


def seconds(
    what: str = "run", default: float | None = None, least: float | None = None
) -> Callable[[F], F]:
    """Decorator: how long a command takes.

    Args:
        what: what it does for so long.
        default: seconds; None: until Ctrl-C, or as `what` says.
        least: seconds; None: anything above 0.
    """
    limit = click.FloatRange(0, min_open=True) if least is None else click.FloatRange(least)
    return click.option(
        "-s", "--seconds", type=limit, default=default, show_default=True,
        help=f"How long to {what}.",
    )  # fmt: skip


def writes(
    what: str, *names: str, folder: bool | None = False, **settings: Any
) -> Callable[[F], F]:
    """Decorator: where a command writes its result.

    Args:
        what: completes the sentence "Write …".
        *names: of the parameter, if not `path`.
        folder: whether that is a folder; None: either.
        **settings: of the option.
    """
    kind = click.Path(file_okay=not folder, dir_okay=folder is not False, path_type=Path)
    return click.option("--to", *(names or ("path",)), type=kind, help=f"Write {what}.", **settings)


def serve_cert(command: F) -> F:
    """Decorator: TLS of a server, in a command that is a client too."""
    cert = click.option(
        "--serve-cert", type=EXISTING, help="By TLS for clients, with this certificate (PEM)."
    )
    return cert(click.option("--serve-key", type=EXISTING, help=_KEY)(command))


def span(command: F) -> F:
    """Decorator: which part of a recording is meant; the command gets `begin` and `end`."""
    begin = click.option(
        "--from", "begin", type=click.FloatRange(0), default=0.0, help="Seconds to skip."
    )
    end = click.option("--until", "end", type=click.FloatRange(0), help="Seconds where to end.")
    return begin(end(command))


def hub(command: F) -> F:
    """Add the option for the hub of a bridge; the command gets it as `hub`."""
    return click.option(
        "--connect", "hub", multiple=True, envvar="IGTL_BRIDGE", metavar="ENDPOINT",
        help="Hub of the bridge: tcp/HOST:PORT or tls/HOST:PORT; may be repeated. Default: the "
        "variable IGTL_BRIDGE.",
    )(command)  # fmt: skip


def bridging(command: F) -> F:
    """Add the options of a command that is an end of a bridge; it gets them as `way`."""

    @click.option("--ca", type=EXISTING, help=_CA)
    @click.option("--cert", type=EXISTING, help=_CERT)
    @click.option("--key", type=EXISTING, help=_KEY)
    @click.option(
        "--open-timeout", type=click.FloatRange(0.1, 60.0), default=BridgeOptions.open_timeout,
        show_default=True,
        help="Seconds of a try to connect, handshakes included: six round trips at least.",
    )  # fmt: skip
    @click.option(
        "--lease", type=click.FloatRange(1.0, 60.0), default=BridgeOptions.lease,
        show_default=True, help="Seconds of silence after which an end is lost.",
    )  # fmt: skip
    @click.option(
        "--send-buffer", type=click.IntRange(4096), default=BridgeOptions.send_buffer,
        show_default=True,
        help="Bytes that wait in the system at most; a long way with a high rate needs more.",
    )  # fmt: skip
    @functools.wraps(command)
    def wrapped(
        *args: Any, ca: Path | None, cert: Path | None, key: Path | None, send_buffer: int,
        open_timeout: float, lease: float, **others: Any,
    ) -> Any:  # fmt: skip
        if (cert is None) != (key is None):
            raise click.UsageError("--cert and --key go together")
        way: WaySettings = {
            "ca": ca, "cert": cert, "key": key, "send_buffer": send_buffer,
            "open_timeout": open_timeout, "lease": lease,
        }  # fmt: skip
        return command(*args, way=way, **others)

    return wrapped  # type: ignore[return-value]


def serving_too(command: F) -> F:
    """Add the options of a command that is a server beside being a client.

    It gets `context` and `allow`.
    """

    @allow
    @serve_cert
    @_client_ca
    @functools.wraps(command)
    def wrapped(
        *args: Any, allow: tuple[str, ...], serve_cert: Path | None, serve_key: Path | None,
        client_ca: Path | None, **others: Any,
    ) -> Any:  # fmt: skip
        if serve_cert is None and (serve_key or client_ca):
            raise click.UsageError("--serve-key and --client-ca need --serve-cert")
        context = None
        if serve_cert is not None:
            context = igtl.tls.server(serve_cert, serve_key, client_ca=client_ca)
        return command(*args, context=context, allow=allow or None, **others)

    return wrapped  # type: ignore[return-value]


def serving(command: F) -> F:
    """Add the options of a command that is a server; it gets `context`."""

    @click.option("--cert", type=EXISTING, help=_CERT)
    @click.option("--key", type=EXISTING, help=_KEY)
    @_client_ca
    @functools.wraps(command)
    def wrapped(
        *args: Any, cert: Path | None, key: Path | None, client_ca: Path | None, **others: Any
    ) -> Any:
        if cert is None and (key or client_ca):
            raise click.UsageError("--key and --client-ca need --cert")
        context = None if cert is None else igtl.tls.server(cert, key, client_ca=client_ca)
        return command(*args, context=context, **others)

    return wrapped  # type: ignore[return-value]


class Selection(NamedTuple):
    """Which messages are meant: the options of `selecting`."""

    types: tuple[str, ...]
    devices: tuple[str, ...]

    def takes(self, type_name: str, device_name: str) -> bool:
        """Return whether a message with these names is meant."""
        return (not self.types or any(name_fits(type_name, t) for t in self.types)) and (
            not self.devices or any(name_fits(device_name, d) for d in self.devices)
        )

    def of(self, recording: igtl.Recording) -> list[tuple[str, str]] | None:
        """The streams of a recording that are meant; None for all, or a Failure if there is none
        of a type or device.
        """
        for wanted, place in ((self.types, 0), (self.devices, 1)):
            names = sorted({stream[place] for stream in recording.streams})
            for each in wanted:
                if not any(name_fits(name, each) for name in names):
                    there = ", ".join(map(repr, names))
                    raise Failure(f"{each!r} is not recorded; there are {there}")
        if not (self.types or self.devices):
            return None
        found = [stream for stream in recording.streams if self.takes(*stream)]
        if not found:
            raise Failure("no stream has such a type and such a device name")
        return found


def selecting(command: F) -> F:
    """Add the options that choose messages; the command gets them as `selection`."""

    @click.option("-t", "--type", "types", multiple=True, help="Only these types (wildcards * ?).")
    @click.option(
        "-d", "--device", "devices", multiple=True, help="Only these devices (wildcards * ?)."
    )
    @functools.wraps(command)
    def wrapped(*args: Any, types: Any, devices: Any, **others: Any) -> Any:
        return command(*args, selection=Selection(types, devices), **others)

    return wrapped  # type: ignore[return-value]


def ending(command: F) -> F:
    """Add the options that end a command that would run until Ctrl-C."""
    return count(seconds()(command))


def overwriting(*names: str, edited: str = "") -> Callable[[F], F]:
    """Keep files that exist, unless `--force` is given.

    Args:
        names: of the parameters that are paths of files to write, or several of them.
        edited: suffix of files in which the command changes something, and keeps the rest.
    """

    def decorate(command: F) -> F:
        @click.option("--force", is_flag=True, help="Write over the file, if it exists.")
        @functools.wraps(command)
        def wrapped(*args: Any, force: bool, **others: Any) -> Any:
            for name in names:
                found = others[name]
                for path in found if isinstance(found, tuple) else (found,):
                    if path is None or force or (edited and path.suffix.lower() == edited):
                        continue
                    if path.exists():
                        text = f"{os.strerror(errno.EEXIST)}; --force writes over it"
                        raise FileExistsError(errno.EEXIST, text, str(path))
            return command(*args, **others)

        return wrapped  # type: ignore[return-value]

    return decorate
