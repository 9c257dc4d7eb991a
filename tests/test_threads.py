"""The same objects in many threads at once: with a GIL the threads take turns within these loops; in
free-threaded Python (`ci/free-threaded`) they run beside each other."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import igtl
from igtl._stream import Lock

THREADS = 8
ROUNDS = 400


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[int], Any]) -> None:
    """Call `work` with the number of each thread, in all of them at once."""
    begin = threading.Barrier(THREADS)
    errors: list[BaseException] = []

    def run(n: int) -> None:
        try:
            begin.wait()
            work(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def pose(n: int) -> Any:
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, 3] = n, -n, n / 2
    return matrix


def test_messages_are_made_with_different_names_of_arguments() -> None:
    def work(n: int) -> None:
        for k in range(ROUNDS):
            made = (
                igtl.Transform(pose(k), device_name=f"T{n}", timestamp=1.0 + k),
                igtl.Transform(matrix=pose(k), timestamp=1.0 + k, device_name=f"T{n}"),
                igtl.Transform(pose(k), timestamp=1.0 + k),
            )
            for message in made[:2]:
                assert message.device_name == f"T{n}"
                assert igtl.unpack(message.pack()).matrix[0, 3] == k
            assert igtl.String(f"{n} {k}").string == f"{n} {k}"
            assert igtl.Point("p", position=(n, k, 0)).position[1] == k

    together(work)


def test_one_message_is_read_for_the_first_time_by_all() -> None:
    tools = [igtl.Tool(f"tool{n}", matrix=pose(n)) for n in range(5)]
    messages = [
        igtl.TrackingData(tools, metadata={"a": "1", "b": "zwei"}),
        igtl.Image(np.arange(24, dtype=np.uint16).reshape(2, 3, 4), metadata={"a": "1"}),
        igtl.Points([igtl.Point(f"p{n}", position=(n, 0, 0)) for n in range(5)]),
    ]
    wires = [message.pack(version=2) for message in messages]
    shared: list[list[Any]] = [[igtl.unpack(wire) for wire in wires] for _ in range(ROUNDS // 4)]

    def work(n: int) -> None:
        for tracking, image, points in shared:
            assert dict(tracking.metadata) == {"a": "1", "b": "zwei"}
            assert [tool.name for tool in tracking.tools] == [f"tool{k}" for k in range(5)]
            assert tracking.tools[n % 5].matrix[0, 3] == n % 5
            assert image.array.sum() == 276
            assert image.metadata["a"] == "1"
            assert points.points[4].position[0] == 4
            assert [tracking.pack(), image.pack()] == wires[:2]

    together(work)


def test_one_stream_is_counted_by_all() -> None:
    a, b = igtl.pipe()
    with a, b:
        received: list[igtl.Message] = []

        def work(n: int) -> None:
            if n == 0:
                while len(received) < (THREADS - 1) * ROUNDS:
                    received.append(b.recv(timeout=60))
            else:
                for k in range(ROUNDS):
                    a.send(igtl.Transform(pose(k), device_name=f"T{n}"))

        together(work)
        found: dict[str, list[float]] = {}
        for message in received:
            assert isinstance(message, igtl.Transform)
            found.setdefault(message.device_name, []).append(message.matrix[0, 3])
        assert found == {f"T{n}": list(range(ROUNDS)) for n in range(1, THREADS)}
        assert a.stats.sent == b.stats.received == (THREADS - 1) * ROUNDS


# ---- the lock of a link -------------------------------------------------------------------------


def test_one_thread_at_a_time_holds_a_lock() -> None:
    lock, inside = Lock(), []

    def work(n: int) -> None:
        for k in range(ROUNDS):
            if n % 4 == 0:
                taken = lock.acquire()
            elif n % 4 == 1:
                taken = lock.acquire(timeout=1e-4)
            elif n % 4 == 2:
                taken = lock.acquire(blocking=False)
            else:
                taken = lock.__enter__()
            if not taken:
                continue
            inside.append(n)
            if k % 8 == 0:
                time.sleep(1e-5)  # others run, and some have waited long enough
            assert inside == [n]
            inside.clear()
            lock.release()

    together(work)
    assert not lock.locked()
    assert lock.acquire(blocking=False)


def test_all_that_wait_for_a_lock_get_it() -> None:
    lock, got = Lock(), []

    def work(n: int) -> None:
        assert lock.acquire(timeout=-1 if n % 2 else 30)
        got.append(n)
        lock.release()

    lock.acquire()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    assert not lock.acquire(timeout=0.05)
    lock.release()
    for thread in threads:
        thread.join(30)
    assert sorted(got) == list(range(THREADS))


def test_a_lock_that_is_not_held_cannot_be_released() -> None:
    lock = Lock()
    with pytest.raises(RuntimeError, match="unlocked"):
        lock.release()
    with lock:
        assert lock.locked()
    assert not lock.locked()
