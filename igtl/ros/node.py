"""A node of ROS 2, by rclpy: publishes messages of OpenIGTLink, and takes those of ROS."""

from __future__ import annotations

import array
import importlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Self

import numpy as np

from igtl.codec.message import Message
from igtl.errors import ProtocolError
from igtl.files.part import Decoding
from igtl.ros.from_ros import READ, from_ros
from igtl.ros.names import Topics
from igtl.ros.to_ros import to_ros

_DEPTH: Final = 10  # messages of a topic that wait
_SPIN: Final = 0.1  # seconds after which `spin` looks whether it is to end


class Node:
    """A node of ROS 2. Open it by `with`, or close() it.

    Args:
        name: of the node.

    Attributes:
        published: messages of ROS that were published.
        left_out: messages of OpenIGTLink that have no message of ROS, by type.
        bad: messages of ROS or OpenIGTLink that were damaged, or that the other cannot express.

    Raises:
        ModuleNotFoundError: rclpy is missing; it comes with ROS 2, not from PyPI.
    """

    def __init__(self, name: str = "igtl") -> None:
        try:
            self._rclpy = importlib.import_module("rclpy")
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "rclpy is not there: it comes with ROS 2, after `source /opt/ros/…/setup.bash`",
                name="rclpy",
            ) from None
        self.published = self.bad = 0
        self.left_out: dict[str, int] = {}
        self._decoded = Decoding()
        self._topics = Topics()
        self._publishers: dict[tuple[str, str], Any] = {}
        self._types: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._owns = not self._rclpy.ok()
        if self._owns:
            self._rclpy.init()
        self._node = self._rclpy.create_node(name)

    def publish(self, message: Message) -> int:
        """Publish what a message is in ROS, in any thread; returns how many messages that are.

        A message that is damaged, or has no message of ROS, is counted and left out.
        """
        count = 0
        with self._lock:
            try:
                decoded = self._decoded(message)
                if decoded is None:
                    return 0
                at = decoded.time_ns or time.time_ns()
                for topic, kind, ros in to_ros(decoded, at, self._make):
                    if (named := self._topics.of(topic, kind)) is not None:
                        self._publisher(named, kind).publish(ros)
                        count += 1
            except ProtocolError:
                self.bad += 1
                return count
            self.published += count
            if not count:
                kind = message.type_name
                self.left_out[kind] = self.left_out.get(kind, 0) + 1
        return count

    def subscribe(self, topic: str, kind: str, take: Callable[[Message], object]) -> None:
        """Call a function with the messages of OpenIGTLink in those of a topic, while `spin` runs.

        Args:
            topic: of ROS.
            kind: type of the topic, "std_msgs/msg/String" or "std_msgs/String".
            take: the function.

        Raises:
            ValueError: the type is not known; the text lists those that are.
        """
        package, _, name = kind.partition("/")
        kind = f"{package}/msg/{name.removeprefix('msg/')}"
        if kind not in READ:
            raise ValueError(f"{kind!r} is not read; known are {', '.join(sorted(READ))}")

        def received(ros: Any) -> None:
            try:
                for message in from_ros(topic, kind, ros):
                    take(message)
            except (ValueError, ProtocolError):
                self.bad += 1

        self._node.create_subscription(self._type(kind), topic, received, _DEPTH)

    def spin(self, seconds: float | None = None) -> None:
        """Receive messages until `stop`, the end of ROS, or the given seconds; None: no limit."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self._closed and self._rclpy.ok():
            left = _SPIN if end is None else min(_SPIN, end - time.monotonic())
            if left <= 0:
                return
            self._rclpy.spin_once(self._node, timeout_sec=left)

    def _publisher(self, topic: str, kind: str) -> Any:
        key = topic, kind
        if key not in self._publishers:
            self._publishers[key] = self._node.create_publisher(self._type(kind), topic, _DEPTH)
        return self._publishers[key]

    def _type(self, kind: str) -> Any:
        if kind not in self._types:
            package, _, name = kind.split("/")
            self._types[kind] = getattr(importlib.import_module(f"{package}.msg"), name)
        return self._types[kind]

    def _make(self, kind: str, **fields: Any) -> Any:
        """Make a message of rclpy.

        It wants arrays of the standard library, and bytes for a byte.
        """
        if kind == "diagnostic_msgs/msg/DiagnosticStatus":
            fields["level"] = bytes([fields["level"]])
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                code = "B" if value.dtype == np.uint8 else "d"
                fields[name] = array.array(code, value.tobytes())
        return self._type(kind)(**fields)

    def stop(self) -> None:
        """End `spin`, from any thread."""
        self._closed = True

    def close(self) -> None:
        """End the node, and ROS if the node has started it."""
        self.stop()
        self._node.destroy_node()
        if self._owns and self._rclpy.ok():
            self._rclpy.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
