"""A stand-in for ROS 2's rclpy, as small as `igtl.ros.Node` needs it. Its messages are made from
the definitions of rosbags, and take only values of the types that rclpy takes."""

from __future__ import annotations

import array
import queue
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
_NUMBERS = {"B": "uint8", "d": "float64"}


def _check(field: Any, value: Any, where: str) -> None:
    kind, what = field
    if kind is Nodetype.NAME:
        assert type(value).kind == what, f"{where}: {value!r} is no {what}"
    elif kind in (Nodetype.SEQUENCE, Nodetype.ARRAY):
        inner, _ = what
        if isinstance(value, array.array):
            assert inner == (Nodetype.BASE, (_NUMBERS[value.typecode], 0)), f"{where}: {value!r}"
            return
        assert isinstance(value, list), f"{where}: {value!r} is no list"
        for each in value:
            _check(inner, each, where)
    else:
        name = what[0]
        if name == "byte":
            assert isinstance(value, bytes), f"{where}: {value!r} is no byte"
            assert len(value) == 1
        elif name == "bool":
            assert isinstance(value, bool), f"{where}: {value!r}"
        elif name.startswith("float"):
            assert isinstance(value, float), f"{where}: {value!r}"
        elif name == "string":
            assert isinstance(value, str), f"{where}: {value!r}"
        else:
            assert type(value) is int, f"{where}: {value!r}"


def message_type(kind: str) -> type:
    """A class as rosidl makes it."""
    _, fields = STORE.fielddefs[kind]

    def init(self: Any, **given: Any) -> None:
        assert set(given) == {name for name, _ in fields}, kind
        for name, field in fields:
            _check(field, given[name], f"{kind}.{name}")
            setattr(self, name, given[name])

    return type(kind.rpartition("/")[2], (), {"kind": kind, "__init__": init})


class FakeRos:
    """What was published, and what waits for the subscribers.

    Attributes:
        published: (topic, message), in order.
        nodes: names of the nodes that are there.
    """

    def __init__(self) -> None:
        self.published: list[tuple[str, Any]] = []
        self.nodes: list[str] = []
        self.subscribers: dict[str, Callable[[Any], None]] = {}
        self._waiting: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._on = False

    # -- of the module rclpy

    def ok(self) -> bool:
        return self._on

    def init(self) -> None:
        assert not self._on
        self._on = True

    def shutdown(self) -> None:
        assert self._on
        self._on = False

    def create_node(self, name: str) -> FakeNode:
        assert self._on
        self.nodes.append(name)
        return FakeNode(self, name)

    def spin_once(self, node: FakeNode, timeout_sec: float) -> None:
        try:
            topic, message = self._waiting.get(timeout=timeout_sec)
        except queue.Empty:
            return
        self.subscribers[topic](message)

    # -- of the test

    def publish(self, topic: str, message: Any) -> None:
        """Publish as another node does."""
        self._waiting.put((topic, message))

    def wait(self, count: int, timeout: float = 20.0) -> None:
        """Until so many messages were published."""
        end = time.monotonic() + timeout
        while len(self.published) < count:
            assert time.monotonic() < end, f"{len(self.published)} of {count} published"
            time.sleep(0.01)


class FakeNode:
    """A node."""

    def __init__(self, ros: FakeRos, name: str) -> None:
        self._ros = ros
        self._name = name

    def create_publisher(self, kind: Any, topic: str, depth: int) -> FakePublisher:
        assert depth > 0
        return FakePublisher(self._ros, kind, topic)

    def create_subscription(
        self, kind: Any, topic: str, callback: Callable[[Any], None], depth: int
    ) -> None:
        assert depth > 0
        self._ros.subscribers[topic] = callback

    def destroy_node(self) -> None:
        self._ros.nodes.remove(self._name)


class FakePublisher:
    """A publisher of one type."""

    def __init__(self, ros: FakeRos, kind: Any, topic: str) -> None:
        self._ros, self._kind, self._topic = ros, kind, topic

    def publish(self, message: Any) -> None:
        assert type(message) is self._kind
        self._ros.published.append((self._topic, message))


class _Messages(ModuleType):
    """std_msgs.msg and the like."""

    def __init__(self, package: str) -> None:
        super().__init__(f"{package}.msg")
        self._package = package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = message_type(f"{self._package}/msg/{name}")
        setattr(self, name, found)
        return found


def install(monkeypatch: pytest.MonkeyPatch) -> FakeRos:
    """Make `import rclpy` and `import std_msgs.msg` find this."""
    ros = FakeRos()
    module = ModuleType("rclpy")
    for name in ("ok", "init", "shutdown", "create_node", "spin_once"):
        setattr(module, name, getattr(ros, name))
    monkeypatch.setitem(sys.modules, "rclpy", module)
    for package in {kind.partition("/")[0] for kind in STORE.fielddefs}:
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, f"{package}.msg", _Messages(package))
    return ros
