"""Other implementations as programs that pack from JSON, unpack to JSON and send messages back.

Each offers the same command line (interop/cpp is its model):

    pack    tcp PORT | udp PORT TO     reads descriptions, sends the messages that it packs from them
    reflect tcp PORT | udp PORT TO     prints what it read, packs that again and sends it
    unpack  abilities                  prints the types that it has

so that one harness talks to all of them, over igtl's own links.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import igtl

HERE = Path(__file__).parent
BUILD = HERE / "build"
NO_CLASS = "no class"
PATIENCE = 5.0
"""Seconds that a peer has for one message. A message takes microseconds to milliseconds."""


class Peer:
    """One implementation.

    Args:
        name: head of its columns in the matrix, without its version.
        command: returns the arguments that start its program of this name.
        transports: "tcp" (the peer serves), "client" (it connects to igtl), "udp".
        exact_time: whether its time stamps are as fine as the wire's.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[str], list[str]],
        transports: tuple[str, ...] = ("tcp", "udp"),
        *,
        exact_time: bool = True,
    ) -> None:
        self.command = command
        self.transports = transports
        self.exact_time = exact_time
        out = subprocess.run(
            [*command("unpack"), "abilities"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        self.abilities: dict[str, Any] = json.loads(out.stdout)
        self.name = f"{name} {self.abilities['library']}"

    @property
    def header_versions(self) -> tuple[Literal[1, 2], ...]:
        """The header versions in which it can be compared."""
        return (1, 2) if self.abilities["header_version"] >= 2 else (1,)

    def cannot(self, type_name: str, direction: str) -> str | None:
        """Return its own reason why it cannot read or write this type, or None."""
        if type_name not in self.abilities["types"]:
            return NO_CLASS
        why: str | None = self.abilities["types"][type_name].get(direction)
        return why


def native_cpp(folder: Path = BUILD / "cmake") -> Peer:
    """Return interop/cpp as built on this machine."""
    return Peer("C++", lambda program: [str(folder / program)])


def docker_cpp(image: str) -> Peer:
    """Return interop/cpp in its container."""
    start = ["docker", "run", "--rm", "-i", "--init", "--network", "host", image]
    return Peer("C++", lambda program: [*start, program])


def rust(version: str = "current") -> Peer:
    """Return interop/rust as built on this machine: the crate's "current" version or its "first"."""
    path = str(BUILD / "rust" / "release" / version)
    return Peer("Rust", lambda program: [path, program])


def pyigtl() -> Peer:
    """Return the PyPI package, in an interpreter of its own."""
    start = [sys.executable, str(HERE / "pyigtl_peer.py")]
    return Peer("pyigtl", lambda program: [*start, program], ("tcp", "client"), exact_time=False)


class Gone(Exception):
    """The peer crashed, closed the connection or does not answer."""


class Session:
    """One running program of a peer, joined to igtl by a transport."""

    def __init__(
        self, peer: Peer, program: str, transport: str, version: Literal[1, 2] = 1
    ) -> None:
        self._closing: list[Callable[[], Any]] = []
        arguments = [*peer.command(program), transport]
        server = None
        match transport:
            case "udp":
                self._receiver = igtl.udp.Receiver(0, on_error="raise")
                self._closing.append(self._receiver.close)
                arguments += ["0", str(self._receiver.port)]
            case "client":
                server = igtl.listen(port=0, version=version)
                self._closing.append(server.close)
                arguments.append(str(server.port))
            case _:
                arguments.append("0")
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()
        self.transport = transport
        try:
            self._join(server, version)
        except BaseException:
            self.close()
            raise

    def _join(self, server: igtl.Listener | None, version: Literal[1, 2]) -> None:
        if server is not None:
            self._link = server.accept(timeout=60)
            self._closing.append(self._link.close)
            return
        port = int(self.line(timeout=60)["port"])
        if self.transport == "udp":
            self._sender = igtl.udp.Sender("127.0.0.1", port)
            self._closing.append(self._sender.close)
        else:
            self._link = igtl.connect("127.0.0.1", port, version=version, open_timeout=30)
            self._closing.append(self._link.close)

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def line(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the next line of the program, parsed."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise Gone("no answer") from None
        if not line:
            raise Gone("its program stopped")
        parsed: dict[str, Any] = json.loads(line)
        return parsed

    def say(self, value: dict[str, Any]) -> None:
        """Write a line to the program."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Gone("its program stopped") from None

    def send(self, message: igtl.Message) -> None:
        try:
            (self._sender if self.transport == "udp" else self._link).send(message)
        except (igtl.ConnectionClosed, OSError):
            raise Gone("it closed the connection") from None

    def recv(self) -> igtl.Message:
        """Receive a message from the peer. ProtocolError: igtl refuses it."""
        try:
            if self.transport == "udp":
                return self._receiver.recv(timeout=PATIENCE)[0]
            return self._link.recv(timeout=PATIENCE)
        except TimeoutError:
            raise Gone("no message") from None
        except igtl.MessageTooLarge:
            raise Gone("it lost framing") from None
        except igtl.ConnectionClosed:
            raise Gone("it closed the connection") from None

    def close(self) -> None:
        for close in reversed(self._closing):
            close()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the program may have stopped
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
