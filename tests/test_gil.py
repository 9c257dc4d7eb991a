"""What a call can do without waiting is done with the GIL held. A thread that gives the GIL up for a small
message beside one that computes would wait for its return as long as the interpreter lets threads run (5 ms,
`sys.getswitchinterval`), in each call."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import igtl
from tests.test_links import until

pytestmark = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this Python has no GIL"
)

POSE = igtl.Transform(np.eye(4), device_name="Probe")
TIMES = 100  # as many datagrams as every system keeps
DELIVERY = 0.5  # seconds, in which a busy system too hands on what was sent


class Computing:
    """A thread that computes for as long as the interpreter lets it, and counts."""

    def __init__(self) -> None:
        self.rounds = 0
        self.ends = False
        self.thread = threading.Thread(target=self.compute)
        self.thread.start()

    def compute(self) -> None:
        while not self.ends:
            self.rounds += 1

    def ran(self, work: Callable[[], object], interval: float = 10) -> bool:
        """Whether it has run while this thread worked. interval: far longer than the work takes."""
        before = sys.getswitchinterval()
        work()
        sys.setswitchinterval(interval)
        try:
            for _ in range(TIMES):
                rounds = self.rounds
                work()
                if self.rounds != rounds:
                    return True
            return False
        finally:
            sys.setswitchinterval(before)


@pytest.fixture
def computing() -> Iterator[Computing]:
    computing = Computing()
    yield computing
    computing.ends = True
    computing.thread.join()


def test_waiting_lets_another_thread_run(computing: Computing) -> None:
    near, far = igtl.pipe()

    def wait() -> None:
        with pytest.raises(TimeoutError):
            far.recv(timeout=0.2)

    with near, far:
        assert computing.ran(wait, interval=0.2)


@pytest.mark.parametrize("timeout", [None, 5])
def test_small_messages_of_links(computing: Computing, timeout: float | None) -> None:
    with (
        igtl.listen(port=0, host="127.0.0.1") as listener,
        igtl.connect("127.0.0.1", listener.port, hello=False) as near,
        listener.accept(timeout=10) as far,
    ):
        assert not computing.ran(lambda: near.send(POSE))
        time.sleep(DELIVERY)
        assert not computing.ran(lambda: far.recv(timeout=timeout))


@pytest.mark.skipif(sys.platform != "linux", reason="datagrams pass by Python's sockets here")
@pytest.mark.parametrize("timeout", [None, 5])
def test_datagrams(computing: Computing, timeout: float | None) -> None:
    with (
        igtl.udp.Receiver(0, host="127.0.0.1") as inlet,
        igtl.udp.Sender("127.0.0.1", inlet.port) as outlet,
    ):
        assert not computing.ran(lambda: outlet.send(POSE))
        time.sleep(DELIVERY)
        assert not computing.ran(lambda: inlet.recv(timeout=timeout))


def test_broadcasts_to_a_few(computing: Computing) -> None:
    with igtl.serve(port=0, host="127.0.0.1") as server:
        came = threading.Semaphore(0)
        server.on_connect(lambda peer: came.release())
        clients = [igtl.connect("127.0.0.1", server.port, hello=False) for _ in range(3)]
        for _ in clients:
            assert came.acquire(timeout=10)
        ways = server._server.audience.passages
        until(lambda: len(ways) == 3 and all(way.is_open for way in ways))
        assert not computing.ran(lambda: server.broadcast(POSE))
        for client in clients:
            for _ in range(1 + TIMES):
                assert client.recv(timeout=10).device_name == "Probe"
            client.close()
