"""Fixtures for tests of your own programs, with pytest.

Put into conftest.py:

    pytest_plugins = ["igtl.testing"]

    def test_my_loop(igtl_simulator):
        with igtl.connect(port=igtl_simulator.port) as link: ...

All connections use loopback and free ports, and are closed at the end of the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from igtl.blocking.link import Link
from igtl.blocking.pipe import pipe
from igtl.blocking.server import Server, serve
from igtl.simulate import Simulator
from igtl.simulate import serve as serve_devices


@pytest.fixture
def igtl_pipe() -> Iterator[tuple[Link, Link]]:
    """Two links in memory, each the other's peer."""
    a, b = pipe()
    with a, b:
        yield a, b


@pytest.fixture
def igtl_server() -> Iterator[Server]:
    """Provide a server without handlers yet, on a free port: `igtl_server.on(...)`, `.port`."""
    with serve(port=0) as server:
        yield server


@pytest.fixture
def igtl_simulator(request: Any) -> Iterator[Simulator]:
    """Provide simulated devices behind a server.

    By default a tracker and an ultrasound scanner.

    Others: `@pytest.mark.parametrize("igtl_simulator", [("robot", "force")], indirect=True)`.
    """
    with serve_devices(*getattr(request, "param", ()), port=0) as simulator:
        yield simulator
