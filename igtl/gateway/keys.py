"""The keys of a configuration, by the tables that they stand in.

A source or sink has one key that says what it is, and where; the others depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from igtl.gateway import checks
from igtl.gateway.checks import Check
from igtl.options import (
    BridgeOptions,
    ConnectOptions,
    CRCPolicy,
    ListenOptions,
    Options,
    PublisherOptions,
    ReconnectOptions,
    ServerOptions,
    SubscriberOptions,
)  # fmt: skip


class Kind(NamedTuple):
    """What a source or sink can be.

    Attributes:
        place: check of the key that names the kind.
        keys: of the gateway's own.
        options: the class whose options are keys as well.
    """

    place: Check
    keys: Mapping[str, Check] = {}
    options: Mapping[str, Check] = {}


_CRC: Final[tuple[CRCPolicy, ...]] = ("verify", "warn", "off")
# of the program that opens a connection, or of one that decodes what it receives
_NOT_OURS: Final = ("ssl", "sock", "drain", "crc", "on_error")
_INBOX: Final = tuple(name for name in ServerOptions.known if name.startswith("inbox_"))

_CLIENT_TLS: Final = {
    "tls": checks.flag, "ca": checks.file, "cert": checks.file, "key": checks.file,
}  # fmt: skip
_SERVER_TLS: Final = {"cert": checks.file, "key": checks.file, "client_ca": checks.file}
_HUB: Final = {
    "hub": checks.of_options(BridgeOptions)["connect"],
    "ca": checks.file, "cert": checks.file, "key": checks.file,
}  # fmt: skip
# those that a gateway names otherwise, and of requests, which it does not pass on
_NOT_OF_SITES: Final = ("connect", "ca", "cert", "key", "requests", "request_timeout")
_VERSION: Final = {"version": checks.choice("as is", "auto", 1, 2)}
_POLICY: Final = {"policy": checks.choice("drop_oldest", "drop_newest", "latest")}


def _of(kind: type[Options], *but: str) -> Mapping[str, Check]:
    return checks.of_options(kind, (*_NOT_OURS, *but))


def _some_of(kind: type[Options], *names: str) -> Mapping[str, Check]:
    return {name: check for name, check in _of(kind).items() if name in names}


GATEWAY: Final[Mapping[str, Check]] = {"http": checks.page}

SOURCE: Final[Mapping[str, Check]] = {
    "required": checks.flag,
    "silent_after": checks.number(),
}
SOURCES: Final[Mapping[str, Kind]] = {
    "connect": Kind(
        checks.address,
        {**_CLIENT_TLS, "start": checks.choice("TDATA", "QTDATA"), "select": checks.texts},
        _of(ConnectOptions),
    ),
    "listen": Kind(
        checks.address,
        {**_SERVER_TLS, **_some_of(ServerOptions, "allow", "max_clients")},
        _of(ListenOptions),
    ),
    "udp": Kind(checks.address, {"group": checks.text, "interface": checks.text}),
    "replay": Kind(
        checks.file,
        {"loop": checks.flag, "speed": checks.number(), "restamp": checks.flag},
    ),
    "device": Kind(checks.text),
    "site": Kind(checks.text, _HUB, _of(SubscriberOptions, *_NOT_OF_SITES)),
    "simulate": Kind(
        checks.devices,
        {
            "noise": checks.number(at_least=0, above=-1), "statuses": checks.flag,
            "dropout": checks.number(at_least=0, above=-1, at_most=1),
            "seed": checks.count(at_least=0),
        },
    ),
}  # fmt: skip

SINK: Final[Mapping[str, Check]] = {"required": checks.flag}
SINKS: Final[Mapping[str, Kind]] = {
    "serve": Kind(
        checks.address,
        {**_SERVER_TLS, **_VERSION, "asks": checks.text, "latch": checks.texts},
        {**_of(ServerOptions, "version", *_INBOX), **_POLICY},
    ),
    "connect": Kind(
        checks.address, {**_CLIENT_TLS, **_VERSION},
        {**_of(ReconnectOptions, "version", *_INBOX), **_POLICY},
    ),
    "site": Kind(checks.text, _HUB, _of(PublisherOptions, *_NOT_OF_SITES)),
    "record": Kind(
        checks.prefix,
        {
            "compression": checks.choice("lz4", "zstd", "none"),
            "rotate_bytes": checks.count(), "rotate_seconds": checks.number(),
            "keep_files": checks.count(), "keep_bytes": checks.count(),
            "max_queued_bytes": checks.count(),
        },
    ),
}  # fmt: skip

CONVERSIONS: Final = ("TDATA to TRANSFORM", "TRANSFORM to TDATA", "IMAGE to VIDEO")
ROUTE: Final[Mapping[str, Check]] = {
    "from": checks.texts,
    "to": checks.texts,
    "types": checks.texts,
    "names": checks.texts,
    "crc": checks.choice(*_CRC),
    "to_frame": checks.text,
    "from_frame": checks.text,
    "max_age": checks.number(),
    "convert": checks.choices(CONVERSIONS),
    "codec": checks.codec,
    "rename": checks.names,
    "max_rate": checks.number(),
}
