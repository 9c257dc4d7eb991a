"""Frames by name, and the paths between them."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy.typing as npt

from igtl.codec.message import Message
from igtl.errors import IgtlError
from igtl.geometry.pose import Floats, Pose
from igtl.messages.plus import TrackedFrame, tool_states

_NAME: Final = re.compile(r"^([A-Z0-9]\w*?)To([A-Z0-9]\w*)$")


class NoTransform(IgtlError, LookupError):
    """There is no path from one frame to the other, or only one over a link that is too old.

    Attributes:
        name: the pose that was asked for ("ImageToReference").
        reason: which link is missing or too old.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[NoTransform], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class _Edge(NamedTuple):
    pose: Pose
    arrived: float  # monotonic


class Problem(NamedTuple):
    """What is wrong with a graph: kind is "stale" or "cycle"."""

    kind: str
    names: tuple[str, ...]
    text: str


class TransformGraph:
    """Poses between frames, by names of the form XToY, as PLUS and 3D Slicer use them.

        graph.add(transform)                # a message named "ProbeToTracker"
        graph["ImageToReference"]           # 4x4, over as many links as needed, in either direction

    Args:
        max_age: seconds after which a link is stale, counted from its arrival; None: never.
        clock: gives the time in seconds; default the monotonic clock.

    A newer link of the same name, or of the inverse, replaces a link. A link that PLUS declares
    invalid (metadata "TransformStatus", of a tool its name + "Status", other than "OK") is removed.
    """

    def __init__(
        self, *, max_age: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_age = max_age
        self._clock = clock
        self._edges: dict[tuple[str, str], _Edge] = {}

    def add(self, message: Message) -> None:
        """Take the links of a message; poses without a name of the form XToY are left out.

        A TRANSFORM, POSITION or QTRANS is a link by its device name, each tool of a TDATA by its
        name, and so is each transform of a TRACKEDFRAME.

        Raises:
            ValueError: a matrix is not rigid.
        """
        for name, matrix, status in tool_states(message):
            if not _NAME.match(name):
                continue
            if status != "OK":
                self.remove(name)
                continue
            try:
                self.set(name, matrix, arrived=message.received_monotonic)
            except ValueError:
                if not isinstance(message, TrackedFrame):
                    raise  # a frame also holds how its image lies, which scales

    def set(self, name: str, pose: Pose | npt.ArrayLike, *, arrived: float | None = None) -> None:
        """Set a link.

        Args:
            name: XToY.
            pose: a Pose, or a rigid 4x4 or 3x4 matrix, mm.
            arrived: when, by the clock; default now.

        Raises:
            ValueError: the name is not of that form, or the matrix is not rigid.
        """
        a, b = frames_of(name)
        self._edges.pop((b, a), None)
        now = self._clock() if arrived is None else arrived
        self._edges[a, b] = _Edge(pose if isinstance(pose, Pose) else Pose(pose), now)

    def remove(self, name: str) -> None:
        """Remove a link; nothing happens if there is none of that name."""
        a, b = frames_of(name)
        self._edges.pop((a, b), None)
        self._edges.pop((b, a), None)

    @property
    def names(self) -> list[str]:
        """The names of all links."""
        return sorted(f"{a}To{b}" for a, b in self._edges)

    def __getitem__(self, name: str) -> Floats:
        """4x4 that maps points of X to points of Y, by the path of fewest links.

        Raises:
            NoTransform: there is no path, or only one over a stale link; the text lists the links.
        """
        return self.pose(name).matrix

    def pose(self, name: str, *, without: str | None = None) -> Pose:
        """Return the same as a Pose; see `graph[name]`.

        Args:
            name: XToY.
            without: a link that the path may not use, in either direction.

        Raises:
            NoTransform: there is no path, or only one over a stale link.
        """
        a, b = frames_of(name)
        path = self._path(a, b, fresh=True, without=None if without is None else frames_of(without))
        if path is None:
            raise NoTransform(name, self._why(a, b))
        found = Pose()
        for one, two in path:
            found = self._step(one, two) @ found
        return found

    def _step(self, a: str, b: str) -> Pose:
        edge = self._edges.get((a, b))
        return edge.pose if edge is not None else self._edges[b, a].pose.inverse

    def _stale(self, edge: _Edge) -> bool:
        return self._max_age is not None and self._clock() - edge.arrived > self._max_age

    def _path(
        self, a: str, b: str, *, fresh: bool, without: tuple[str, str] | None = None
    ) -> list[tuple[str, str]] | None:
        next_to: dict[str, list[str]] = {}
        for (one, two), edge in self._edges.items():
            if without in ((one, two), (two, one)) or (fresh and self._stale(edge)):
                continue
            next_to.setdefault(one, []).append(two)
            next_to.setdefault(two, []).append(one)
        if a == b and a in next_to:
            return []
        came: dict[str, str] = {a: a}
        waiting = deque([a])
        while waiting:
            here = waiting.popleft()
            for there in next_to.get(here, ()):
                if there not in came:
                    came[there] = here
                    waiting.append(there)
        if b not in came or a == b:
            return None
        path = []
        while b != a:
            path.append((came[b], b))
            b = came[b]
        return path[::-1]

    def _why(self, a: str, b: str) -> str:
        frames = {frame for edge in self._edges for frame in edge}
        known = f"there are {', '.join(self.names) or 'none'}"
        for frame in (a, b):
            if frame not in frames:
                return f"no link to {frame!r}; {known}"
        path = self._path(a, b, fresh=False)
        if path is None:
            return f"{a!r} and {b!r} are not joined; {known}"
        for one, two in path:
            edge = self._edges.get((one, two)) or self._edges[two, one]
            if self._stale(edge):
                age = self._clock() - edge.arrived
                name = f"{one}To{two}" if (one, two) in self._edges else f"{two}To{one}"
                return f"{name} is {age:.3g} s old, the limit is {self._max_age:g} s"
        return known

    def __repr__(self) -> str:
        return f"<TransformGraph of {', '.join(self.names) or 'no links'}>"

    def _repr_html_(self) -> str:
        from igtl import notebook  # with its table of entities, for notebooks only

        now, problems = self._clock(), self.problems()
        return notebook.table(
            "TransformGraph, mm",
            ("link", "x", "y", "z", "age in s", "problem"),
            (
                (
                    name := f"{a}To{b}",
                    *map(float, edge.pose.translation),
                    now - edge.arrived,
                    "; ".join(p.text for p in problems if name in p.names),
                )
                for (a, b), edge in self._edges.items()
            ),
        )

    def problems(self) -> list[Problem]:
        """Links that are stale, and links that close a cycle.

        A cycle has one link more than needed; the text says how much the two paths disagree.
        """
        found = []
        for (a, b), edge in self._edges.items():
            name = f"{a}To{b}"
            if self._stale(edge):
                age = self._clock() - edge.arrived
                found.append(Problem("stale", (name,), f"{name} is {age:.3g} s old"))
        seen: set[frozenset[str]] = set()
        for (a, b), edge in self._edges.items():
            path = self._path(a, b, fresh=False, without=(a, b))
            if path is None:
                continue
            names = [f"{a}To{b}"]
            other = Pose()
            for one, two in path:
                names.append(f"{one}To{two}" if (one, two) in self._edges else f"{two}To{one}")
                other = self._step(one, two) @ other
            if frozenset(names) not in seen:
                seen.add(frozenset(names))
                mm, degrees = edge.pose.distance(other)
                off = f"{mm:.3g} mm, {degrees:.3g} degrees"
                text = f"{', '.join(names)} close a cycle; it fails to close by {off}"
                found.append(Problem("cycle", tuple(names), text))
        return found


def frames_of(name: str) -> tuple[str, str]:
    """X and Y of XToY.

    Raises:
        ValueError: the name is not of that form.
    """
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"{name!r} is not of the form XToY, each with a capital first letter")
    return match[1], match[2]
