"""Arguments that several commands share."""

from __future__ import annotations

from typing import Any

import click

from igtl.protocol import PORT


class Address(click.ParamType):  # type: ignore[type-arg]
    """HOST:PORT, HOST or :PORT; an IPv6 host stands in brackets. Gives (host, port)."""

    name = "address"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, port = str(value), str(PORT)
        if host.startswith("["):
            host, _, tail = host[1:].partition("]")
            port = tail.removeprefix(":") or port
        elif ":" in host:
            host, _, port = host.rpartition(":")
        if not port.isdecimal() or not 0 <= int(port) <= 65535:
            self.fail(f"{value!r}: {port!r} is not a port", param, ctx)
        return host or "localhost", int(port)
