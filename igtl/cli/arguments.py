"""Arguments that several commands share."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

import igtl
from igtl.addresses import parsed
from igtl.cli import UNREACHABLE, Failure
from igtl.cli.news import reason
from igtl.log import named
from igtl.options import SITE, Version, WaySettings
from igtl.session.requests import name_fits

if TYPE_CHECKING:
    from ssl import SSLContext

F = TypeVar("F", bound=Callable[..., Any])
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


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
    @click.option(
        f"--{of}ca", "link_ca", type=_EXISTING, help="By TLS, checked by this authority (PEM)."
    )
    @click.option(
        f"--{of}cert",
        "link_cert",
        type=_EXISTING,
        help="By TLS, with this certificate of our own (PEM).",
    )
    @click.option(
        f"--{of}key", "link_key", type=_EXISTING, help="Its key, if it is not in the same file."
    )
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


def hub(command: F) -> F:
    """Add the option for the hub of a bridge; the command gets it as `hub`."""
    return click.option(
        "--connect", "hub", multiple=True, envvar="IGTL_BRIDGE", metavar="ENDPOINT",
        help="Hub of the bridge: tcp/HOST:PORT or tls/HOST:PORT; may be repeated. Default: the "
        "variable IGTL_BRIDGE.",
    )(command)  # fmt: skip


def bridging(command: F) -> F:
    """Add the options of a command that is an end of a bridge; it gets them as `way`."""

    @click.option("--ca", type=_EXISTING, help="The authority of the bridge's certificates (PEM).")
    @click.option("--cert", type=_EXISTING, help="Our certificate for the bridge (PEM).")
    @click.option("--key", type=_EXISTING, help="Its key.")
    @click.option(
        "--open-timeout", type=click.FloatRange(0.1, 60.0), default=0.7, show_default=True,
        help="Seconds of a try to connect, handshakes included: six round trips at least.",
    )  # fmt: skip
    @click.option(
        "--lease", type=click.FloatRange(1.0, 60.0), default=2.0, show_default=True,
        help="Seconds of silence after which an end is lost; hundreds of sites need 10.",
    )  # fmt: skip
    @click.option(
        "--send-buffer", type=click.IntRange(4096), default=16384, show_default=True,
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

    @click.option("--allow", multiple=True, help="Only these addresses or networks may connect.")
    @click.option("--serve-cert", type=_EXISTING, help="TLS for clients, with this certificate.")
    @click.option("--serve-key", type=_EXISTING, help="Its key, if it is not in the same file.")
    @click.option("--client-ca", type=_EXISTING, help="Only clients certified by this authority.")
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

    @click.option("--cert", type=_EXISTING, help="By TLS, with this certificate (PEM).")
    @click.option("--key", type=_EXISTING, help="Its key, if it is not in the same file.")
    @click.option(
        "--client-ca", type=_EXISTING, help="Only clients with a certificate of this authority."
    )
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
    count = click.option(
        "-n", "--count", type=click.IntRange(1), help="End after so many messages."
    )
    seconds = click.option(
        "-s", "--seconds", type=click.FloatRange(0, min_open=True), help="End after so long."
    )
    return count(seconds(command))


def overwriting(command: F) -> F:
    """Keep a file that exists, unless `--force` is given.

    The command names the path that it writes `path` or `file`.
    """

    @click.option("--force", is_flag=True, help="Write over the file, if it exists.")
    @functools.wraps(command)
    def wrapped(*args: Any, force: bool, **others: Any) -> Any:
        path: Path | None = others["path"] if "path" in others else others["file"]
        if path is not None and path.exists() and not force:
            text = f"{os.strerror(errno.EEXIST)}; --force writes over it"
            raise FileExistsError(errno.EEXIST, text, str(path))
        return command(*args, **others)

    return wrapped  # type: ignore[return-value]
