"""The bounded queue and its policies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from igtl.queues import Policy, Queue

POLICIES: list[Policy] = ["block", "drop_oldest", "drop_newest", "latest"]


def fill(policy: Policy, items: Any, **limits: int) -> tuple[list[Any], list[Any]]:
    queue: Queue[Any] = Queue(policy, **{"max_messages": 3, "max_bytes": 1000, **limits})
    dropped = []
    for key, value, size in items:
        dropped += queue.put((key, value), size, key)
        assert len(queue) <= limits.get("max_messages", 3) or policy == "block"
    return queue.items(), dropped


def numbered(n: int, streams: int = 1) -> Iterator[tuple[int, int, int]]:
    return ((k % streams, k, 10) for k in range(n))


def test_drop_oldest() -> None:
    kept, dropped = fill("drop_oldest", numbered(5))
    assert [v for _, v in kept] == [2, 3, 4]
    assert dropped == [((0, 0), "drop_oldest"), ((0, 1), "drop_oldest")]


def test_drop_newest() -> None:
    kept, dropped = fill("drop_newest", numbered(5))
    assert [v for _, v in kept] == [0, 1, 2]
    assert dropped == [((0, 3), "drop_newest"), ((0, 4), "drop_newest")]


def test_latest_keeps_the_newest_of_each_stream_in_its_place() -> None:
    kept, dropped = fill("latest", numbered(7, streams=2))
    assert kept == [(0, 6), (1, 5)]
    assert [cause for _, cause in dropped] == ["latest"] * 5
    kept, dropped = fill("latest", numbered(5, streams=5))
    assert [v for _, v in kept] == [2, 3, 4]
    assert [cause for _, cause in dropped] == ["drop_oldest"] * 2


def test_bytes_count_too_and_an_empty_queue_takes_anything() -> None:
    queue: Queue[str] = Queue("block", 10, 100)
    assert queue.has_room(10**9)
    queue.put("huge", 10**9)
    assert not queue.has_room(1)
    assert queue.get() == "huge"
    assert queue.bytes == 0
    queue.put("a", 60)
    assert queue.has_room(40)
    assert not queue.has_room(41)
    kept, dropped = fill("drop_oldest", [(0, 0, 400), (0, 1, 400), (0, 2, 900)])
    assert [v for _, v in kept] == [2]
    assert len(dropped) == 2


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_lost_uncounted(policy: Policy) -> None:
    queue: Queue[int] = Queue(policy, 5, 500)
    counter = itertools.count()
    put = got = lost = 0
    for step in range(1000):
        if step % 3:
            size = 50 + 37 * step % 400
            if policy != "block" or queue.has_room(size):
                lost += len(queue.put(next(counter), size, step % 7))
                put += 1
        elif queue:
            queue.get()
            got += 1
    assert put == got + lost + len(queue)


def test_take_and_put_back() -> None:
    queue: Queue[int] = Queue("drop_oldest", 10, 1000)
    for k in range(5):
        queue.put(k, 10)
    assert queue.take(lambda k: k == 3) == 3
    assert queue.take(lambda k: k == 3) is None
    queue.put_back(9, 10)
    assert queue.items() == [9, 0, 1, 2, 4]
    assert queue.bytes == 50
    assert queue.clear() == [9, 0, 1, 2, 4]
    assert queue.bytes == 0
    with pytest.raises(KeyError):
        queue.get()


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="policy"):
        Queue("newest", 1, 1)  # type: ignore[arg-type]
    for limits in ((0, 1), (1, 0)):
        with pytest.raises(ValueError):
            Queue("block", *limits)


def test_the_newest_takes_the_bytes_of_its_place() -> None:
    """The account follows what waits, whatever replaced what."""
    queue: Queue[str] = Queue("latest", 10, 100)
    for name, size in (("a", 50), ("b", 20), ("a", 10), ("a", 30), ("b", 70)):
        queue.put(name, size, name)
    assert queue.bytes == 100
    assert not queue.has_room(1)
    queue.put("a", 1, "a")
    assert queue.bytes == 71
    assert queue.has_room(29)
    assert not queue.has_room(30)
    assert queue.get() == "a"
    assert queue.bytes == 70
    assert queue.put("c", 31, "c") == [("b", "drop_oldest")]
    assert queue.bytes == 31
    queue.get()
    assert queue.bytes == 0
