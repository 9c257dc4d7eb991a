"""What waits on a connection: the inbox and the outbox, their bounds and policies."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from igtl._stream import Stats
from igtl.options import Policy
from igtl.session.inbox import Inbox
from igtl.session.outbox import Outbox
from igtl.session.requests import selection
from tests.wire import transform

POLICIES: list[Policy] = ["block", "drop_oldest", "drop_newest", "latest"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def stream(type_name: str, name: str = "") -> bytes:
    return type_name.encode().ljust(12, b"\0") + name.encode().ljust(20, b"\0")


# ---- the outbox ---------------------------------------------------------------------------------


def outbox(policy: Policy, **limits: Any) -> tuple[Outbox[Any], list[tuple[Any, str]]]:
    lost: list[tuple[Any, str]] = []
    bounds = {"max_messages": 3, "max_bytes": 1000, **limits}
    return Outbox(policy, lost=lambda item, cause: lost.append((item, cause)), **bounds), lost


def left_in(queue: Outbox[Any]) -> list[Any]:
    found = []
    while (item := queue.get()) is not None:
        found.append(item)
    return found


@pytest.mark.parametrize(
    ("policy", "kept", "lost"),
    [
        ("drop_oldest", [2, 3, 4], [(0, "drop_oldest"), (1, "drop_oldest")]),
        ("drop_newest", [0, 1, 2], [(3, "drop_newest"), (4, "drop_newest")]),
        ("block", [0, 1, 2, 3, 4], []),
    ],
)
def test_a_full_outbox(policy: Policy, kept: list[int], lost: list[Any]) -> None:
    queue, dropped = outbox(policy)
    for k in range(5):
        queue.put(k, 10, stream("IMAGE", "CT"))
    assert (left_in(queue), dropped) == (kept, lost)


def test_latest_keeps_the_newest_of_each_stream_in_its_place() -> None:
    queue, dropped = outbox("latest")
    for k in range(7):
        queue.put(k, 10, stream("IMAGE", str(k % 2)))
    assert left_in(queue) == [6, 5]
    assert [cause for _, cause in dropped] == ["latest"] * 5


def test_bytes_count_too_and_an_empty_outbox_takes_anything() -> None:
    queue, _ = outbox("block", max_bytes=100)
    assert queue.has_room(10**9)
    queue.put("huge", 10**9, stream("IMAGE"))
    assert not queue.has_room(1)
    assert queue.get() == "huge"
    assert queue.bytes == 0
    queue.put("a", 60, stream("IMAGE"))
    assert queue.has_room(40)
    assert not queue.has_room(41)


def test_small_live_messages_leave_before_large_ones_and_each_stream_in_order() -> None:
    queue, _ = outbox("drop_oldest", max_messages=100)
    for k in range(3):
        queue.put(f"image {k}", 100, stream("IMAGE", "US"))
        queue.put(f"pose {k}", 10, stream("TRANSFORM", "Probe"))
    queue.put("status", 10, stream("STATUS"))
    queue.put("request", 10, stream("GET_IMAGE"))
    assert left_in(queue) == [
        "pose 0", "pose 1", "pose 2", "status", "request", "image 0", "image 1", "image 2",
    ]  # fmt: skip


def test_an_old_pose_gives_way_to_a_newer_one_but_a_burst_arrives_whole() -> None:
    clock = Clock()
    queue, dropped = outbox("drop_oldest", max_messages=100, max_age=0.2, clock=clock)
    for k in range(5):
        queue.put(k, 10, stream("TRANSFORM", "Probe"))
    queue.put("status", 10, stream("STATUS"))
    assert queue.get() == 0
    clock.now += 0.1
    assert queue.get() == 1
    clock.now += 0.15
    assert left_in(queue) == [4, "status"]  # the newest pose, and no event is lost
    assert dropped == [(2, "superseded"), (3, "superseded")]


@pytest.mark.parametrize(("policy", "max_age"), [("block", 0.2), ("drop_oldest", None)])
def test_old_poses_that_are_kept(policy: Policy, max_age: float | None) -> None:
    clock = Clock()
    queue, dropped = outbox(policy, max_messages=100, max_age=max_age, clock=clock)
    for k in range(3):
        queue.put(k, 10, stream("TRANSFORM", "Probe"))
    clock.now += 100
    assert (left_in(queue), dropped) == ([0, 1, 2], [])


@pytest.mark.parametrize(
    ("policy", "kept"), [("drop_oldest", list(range(8))), ("latest", [3, 4, 5, 6, 7])]
)
def test_images_do_not_age_out(policy: Policy, kept: list[int]) -> None:
    """They may be parts of a volume; with "latest" one of each stream waits. VIDEO stays whole."""
    clock = Clock()
    queue, dropped = outbox(policy, max_messages=100, clock=clock)
    for k in range(4):
        queue.put(k, 10, stream("IMAGE", "Image_Reference"))
    for k in range(4, 8):
        queue.put(k, 10, stream("VIDEO", "Camera"))
    clock.now += 100
    assert left_in(queue) == kept
    assert [item for item, _ in dropped] == [k for k in range(8) if k not in kept]
    assert queue.get() is None
    waiting = object()
    queue.put(waiting, 10, stream("IMAGE"))
    assert queue.holds(waiting)
    assert not queue.holds(object())


def test_what_is_put_back_leaves_first_and_what_is_discarded_does_not_leave() -> None:
    queue, dropped = outbox("drop_oldest", max_messages=100)
    items = ["a", "b", "c"]
    for item in items:
        queue.put(item, 10, stream("IMAGE"))
    assert queue.get() == "a"
    queue.put_back("a", 10, stream("IMAGE"))
    queue.discard(items[1])
    assert (left_in(queue), dropped, queue.bytes) == (["a", "c"], [], 0)


@given(
    st.sampled_from(POLICIES),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["TRANSFORM", "IMAGE", "STATUS"]), st.integers(1, 400)),
            st.none(),  # take one
            st.floats(0, 1),  # time passes
        ),
        max_size=60,
    ),
)
def test_put_is_taken_or_counted_and_each_stream_in_order(policy: Policy, steps: Any) -> None:
    clock = Clock()
    queue, dropped = outbox(policy, clock=clock)
    put: list[tuple[str, int]] = []
    taken: list[tuple[str, int]] = []
    for step in steps:
        if step is None:
            if (item := queue.get()) is not None:
                taken.append(item)
        elif isinstance(step, float):
            clock.now += step
        else:
            item = step[0], len(put)
            put.append(item)
            queue.put(item, step[1], stream(step[0]))
            assert policy == "block" or len(queue) <= 3
    taken += left_in(queue)
    assert sorted([*taken, *(item for item, _ in dropped)]) == sorted(put)
    assert queue.bytes == len(queue) == 0
    for type_name in ("TRANSFORM", "IMAGE", "STATUS"):
        numbers = [n for kind, n in taken if kind == type_name]
        assert numbers == sorted(numbers)


def test_wrong_bounds() -> None:
    for wrong in ({"max_messages": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            outbox("block", **wrong)
    with pytest.raises(ValueError, match="policy must be one of"):
        outbox("newest")  # type: ignore[arg-type]


# ---- the inbox ----------------------------------------------------------------------------------


def arrived(name: str, x: float, at: float = 0.0) -> igtl.Transform:
    message = transform(name, x)
    message.received_monotonic = at
    return message


def test_each_stream_has_its_own_bound() -> None:
    stats = Stats()
    inbox = Inbox(stats, max_messages=3, max_age=None)
    for k in range(10):
        inbox.put(arrived("A", k), 100)
    inbox.put(arrived("B", 0), 100)
    assert [m.position[0] for m in inbox] == [7, 8, 9, 0]
    assert stats.dropped == {"unread": 7}
    assert inbox.bytes == 400


def test_all_streams_together_have_a_bound() -> None:
    """The largest one gives way, and a single message always passes."""
    stats = Stats()
    inbox = Inbox(stats, max_total_bytes=1000, max_age=None)
    inbox.put(arrived("Small", 0), 100)
    for k in range(20):
        inbox.put(arrived("Large", k), 300)
    assert inbox.bytes <= 1000
    assert [m.device_name for m in inbox].count("Small") == 1
    inbox = Inbox(stats, max_bytes=10, max_total_bytes=10)
    inbox.put(arrived("Huge", 0), 10**9)
    assert len(inbox) == 1


@pytest.mark.parametrize(
    ("policy", "kept", "cause"),
    [
        ("drop_oldest", [3, 4], "unread"),
        ("drop_newest", [0, 1], "unread"),
        ("latest", [4], "superseded"),
    ],
)
def test_policies_of_the_inbox(policy: Any, kept: list[int], cause: str) -> None:
    stats = Stats()
    inbox = Inbox(stats, policy, max_messages=2, max_age=None)
    for k in range(5):
        inbox.put(arrived("A", k), 1)
    assert [m.position[0] for m in inbox] == kept
    assert stats.dropped == {cause: 5 - len(kept)}


def test_a_receiver_that_falls_behind_is_warned_once_a_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox(Stats(), max_age=None)
    for k in range(20):
        inbox.put(arrived("A", k, k * 0.1), 1)
        inbox.put(arrived("B", k, k * 0.05), 1)  # never more than a second behind
    while inbox.take() is not None:
        pass
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "TRANSFORM 'A' is read slower than it arrives"
    ]


def test_taking_goes_by_arrival_over_all_streams_that_are_wanted() -> None:
    inbox = Inbox(Stats(), max_age=None)
    for k in range(9):
        inbox.put(arrived("ABC"[k % 3], k), 1)
    assert inbox.take(selection(igtl.Transform, "B")).position[0] == 1
    assert inbox.take(selection(igtl.Transform, "[BC]")) is None  # no wildcard
    assert [inbox.take().position[0] for _ in range(3)] == [0, 2, 3]
    assert inbox.take(selection(igtl.Image, "*")) is None
    inbox.put_back(arrived("Z", 99), 1)
    assert inbox.take().position[0] == 99


def test_a_receiver_of_a_stream_passes_over_old_poses_but_one_of_all_does_not() -> None:
    clock, stats = Clock(), Stats()
    inbox = Inbox(stats, max_age=0.2, clock=clock)
    for k in range(5):
        inbox.put(arrived("Probe", k, clock.now + 0.1 * k), 1)
    clock.now += 0.45
    assert inbox.take(selection(igtl.Transform, "Probe"), fresh=True).position[0] == 3
    assert stats.dropped == {"superseded": 3}
    inbox.put(arrived("Probe", 9, clock.now), 1)
    clock.now += 100
    assert [inbox.take().position[0] for _ in range(2)] == [4, 9]


def test_latest_is_the_newest_and_counts_the_others() -> None:
    stats = Stats()
    inbox = Inbox(stats)
    for k in range(5):
        inbox.put(arrived("Probe", k, float(k)), 1)
    inbox.put(arrived("Stylus", 7, 7.0), 1)
    probe = selection(igtl.Transform, "Probe")
    assert inbox.latest(probe, newer_than=4.5) is None
    assert inbox.latest(probe, newer_than=4.0).position[0] == 4
    assert inbox.latest(probe) is None
    assert stats.dropped == {"superseded": 4}
    assert inbox.take().device_name == "Stylus"


def test_one_warning_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox(Stats(), max_messages=1, max_age=None)
    with caplog.at_level(logging.WARNING, "igtl"):
        for k in range(10):
            inbox.put(arrived("A", k), 1)
            inbox.put(arrived("B", k), 1)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert all("`latest`" in text and "inbox_policy" in text for text in texts)


@pytest.mark.parametrize("type_name", ["COMMAND", "RTS_COMMAND", "GET_IMAGE", "VIDEO"])
def test_latest_drops_nothing_of_which_each_counts(type_name: str) -> None:
    queue, dropped = outbox("latest")

    for k in range(3):
        queue.put(k, 10, stream(type_name, "command"))
    assert ([queue.get() for _ in range(3)], dropped) == ([0, 1, 2], [])


def test_an_inbox_of_the_latest_keeps_each_command() -> None:
    inbox = Inbox(igtl.Stats(), "latest")
    for k in range(3):
        inbox.put(igtl.Command(k, "Go", device_name="command"), 100)
        inbox.put(transform("T", k), 100)
    assert [m.command_id for m in iter(inbox) if isinstance(m, igtl.Command)] == [0, 1, 2]
    assert len(inbox) == 4
