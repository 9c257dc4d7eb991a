"""Computers in one network, for tests: a network namespace each, joined by a switch in another one.

    with hosts("hub", "or1", "ward") as net:
        process = net.start("hub", "tests.bridge_host", "router")
        net.pull("or1")

What is pulled loses all its packets silently, as behind a dead cable; `slow` limits what is sent to a host.
Linux, root and iproute2 are needed; nothing outside the namespaces is touched, and they are removed at
the end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.slow_network import why_not

ROOT = Path(__file__).parents[1]


def _run(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.strip()}")


class Hosts:
    """The namespaces; see the module.

    Attributes:
        address: of each host.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.address = {name: f"10.79.0.{n}" for n, name in enumerate(names, 1)}
        self._switch = f"igtl-switch{os.getpid()}"

    def _space(self, name: str) -> str:
        return f"igtl-{name}{os.getpid()}"

    def open(self) -> None:
        _run(f"ip netns add {self._switch}")
        _run(f"ip -n {self._switch} link add name switch type bridge")
        _run(f"ip -n {self._switch} link set switch up")
        for name, address in self.address.items():
            space = self._space(name)
            _run(f"ip netns add {space}")
            _run(f"ip -n {self._switch} link add name {name} type veth peer name net netns {space}")
            _run(f"ip -n {space} addr add {address}/24 dev net")
            for device in ("net", "lo"):
                _run(f"ip -n {space} link set {device} up")
            _run(f"ip -n {self._switch} link set {name} up")
            self.plug(name)

    def close(self) -> None:
        for space in (self._switch, *map(self._space, self.address)):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def pull(self, name: str) -> None:
        """The cable of a host: neither end notices, and no packet passes."""
        _run(f"ip -n {self._switch} link set {name} nomaster")

    def plug(self, name: str) -> None:
        """The same, undone."""
        _run(f"ip -n {self._switch} link set {name} master switch")

    def slow(self, name: str, mbit: float) -> None:
        """What is sent to a host passes a line of so many Mbit/s, in front of which 20 ms wait."""
        shape = f"tbf rate {mbit}mbit burst 8kb latency 20ms"
        _run(f"ip netns exec {self._switch} tc qdisc replace dev {name} root {shape}")

    def start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[str]:
        """A Python module that runs on a host; its standard output is read by the caller."""
        command = ["ip", "netns", "exec", self._space(name), sys.executable, "-m", module]
        return subprocess.Popen(
            [*command, *arguments], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    net = Hosts(names)
    try:
        try:
            net.open()
        except OSError as error:
            pytest.skip(f"no namespaces with a switch: {error}")
        yield net
    finally:
        net.close()
