"""Whether this program runs in a container, as far as that explains why a peer is not found."""

from __future__ import annotations

import os
from typing import Final

_MARKS: Final = ("/.dockerenv", "/run/.containerenv")  # of Docker, of Podman
_OUTSIDE: Final = "host.docker.internal"
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def in_container() -> bool:
    """Return whether this program runs in a container."""
    return any(map(os.path.exists, _MARKS)) or "KUBERNETES_SERVICE_HOST" in os.environ


def of_no_listener(host: str) -> str:
    """Return the text to add when nothing listens there; "" or a sentence."""
    if host in LOOPBACK and in_container():
        return (
            f" This program runs in a container, where {host} is the container itself: the machine "
            f"around it is {_OUTSIDE} (Docker, Podman), another container has the name of its "
            "service."
        )
    if host == _OUTSIDE:
        return " The program on the machine around the container has to listen on 0.0.0.0."
    return ""


def of_no_name(host: str) -> str:
    """Return the text to add when a name cannot be found; "" or a sentence."""
    if host != _OUTSIDE:
        return ""
    if in_container():
        return f" On Linux start the container with --add-host {_OUTSIDE}:host-gateway."
    return " That name exists in containers only: here it is localhost."


def of_no_client(host: str) -> str:
    """Return the text to add when no client comes; "" or a sentence."""
    if host not in LOOPBACK:
        return ""
    if in_container():
        return (
            " This program runs in a container, and listens on its loopback only: listen on "
            "0.0.0.0, and publish the port (docker run -p)."
        )
    return " Only this machine can connect to it."
