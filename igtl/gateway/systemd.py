"""What a service tells systemd, as in sd_notify(3).

It sends datagrams to the socket that NOTIFY_SOCKET names; without one, it sends nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Tells systemd how the service is.

    Args:
        environment: where NOTIFY_SOCKET and WATCHDOG_USEC stand; default that of the process.

    Attributes:
        watchdog: seconds after which systemd restarts a service that says nothing; None: never.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        micros = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(micros) / 1e6 if path and micros.isdecimal() and ours else None
        self._status = ""

    def ready(self) -> None:
        """Tell that the service has begun, or has read its configuration again."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Tell that the service reads its configuration again."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the service ends."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Tell that the work of the service goes on."""
        self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Tell what `systemctl status` shows, when it has changed."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={' '.join(text.split())}")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(1.0)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass  # systemd itself notices what it does not hear
