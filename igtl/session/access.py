"""Which addresses may connect to a server."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any


class AllowList:
    """Addresses and networks that may connect; None allows all.

    IPv4 addresses that an IPv6 socket shows as ::ffff:… count as what they are.

    Raises:
        ValueError: an entry is neither an address nor a network.
    """

    def __init__(self, entries: Iterable[str] | None) -> None:
        if isinstance(entries, str):
            raise TypeError(f"allow is a list of addresses and networks, not {entries!r}")
        self._networks = None if entries is None else [_network(e) for e in entries]

    def admits(self, address: Any) -> bool:
        """Return whether a peer's address, (host, port), may connect."""
        if self._networks is None:
            return True
        if not isinstance(address, tuple):
            return False
        host = ip_address(str(address[0]).partition("%")[0])
        if isinstance(host, IPv6Address) and host.ipv4_mapped:
            host = host.ipv4_mapped
        return any(host in network for network in self._networks)


def _network(entry: str) -> Any:
    network = ip_network(entry, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    return network
