"""A configuration, read from TOML and checked whole, before anything of it is begun."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from igtl.errors import IgtlError
from igtl.gateway import checks, keys
from igtl.gateway.checks import Check
from igtl.gateway.keys import Kind
from igtl.gateway.lines import lines_of
from igtl.options import unknown
from igtl.session.requests import name_fits

HTTP: Final = "127.0.0.1", 9464
_TABLES: Final = ("gateway", "route", "sink", "source", "transforms")
_MAX_SIZE: Final = 1 << 20  # bytes of a file


class Problem(NamedTuple):
    """One thing that is wrong with a configuration.

    Attributes:
        line: where; 0 if it is the whole file.
        text: what, and what would be right.
    """

    line: int
    text: str


class ConfigError(IgtlError, ValueError):
    """A configuration cannot be used.

    Attributes:
        path: of the file.
        problems: everything that is wrong with it, by line.
    """

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = sorted(problems)
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, list[Problem]]]:
        return type(self), (self.path, self.problems)

    @property
    def lines(self) -> list[str]:
        """Each problem as FILE:LINE: TEXT."""
        return [
            f"{self.path}:{line}: {text}" if line else f"{self.path}: {text}"
            for line, text in self.problems
        ]


@dataclass(frozen=True)
class Entry:
    """A source, sink or route. Two are equal if they have the same keys and values.

    Attributes:
        kind: the key that determines its kind ("connect"); "" of a route.
        place: the value of that key.
        values: its other keys, but for those of the connection.
        options: those of the connection, see `igtl.options`.
    """

    name: str
    kind: str = ""
    place: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key."""
        return self.values.get(key, default)


@dataclass(frozen=True)
class Config:
    """What a gateway is made from; see `load`.

    Attributes:
        http: where metrics and health are served; None: nowhere.
        transforms: poses that do not change, by name (XToY), rows of 4x4.
        sources, sinks, routes: by name. The keys `from` and `to` of a route are names that exist.
    """

    http: tuple[str, int] | None = HTTP
    transforms: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Entry] = field(default_factory=dict)
    sinks: Mapping[str, Entry] = field(default_factory=dict)
    routes: Mapping[str, Entry] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = {"source": self.sources, "route": self.routes, "sink": self.sinks}
        return ", ".join(
            f"{len(n)} {word}{'' if len(n) == 1 else 's'}" for word, n in parts.items()
        )


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration. Paths in it start at its folder.

    Args:
        path: of a TOML file, see docs/gateway.md.

    Raises:
        ConfigError: it cannot be used; it holds everything that is wrong.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as source:
        data = source.read(_MAX_SIZE + 1)
    return _Reader(os.fspath(path), data).config()


class _Reader:
    def __init__(self, path: str, data: bytes) -> None:
        self._path = path
        self._folder = Path(path).parent
        self._problems: list[Problem] = []
        if len(data) > _MAX_SIZE:
            raise ConfigError(path, [Problem(0, f"is larger than {_MAX_SIZE} bytes")])
        try:
            text = data.decode()
            self._tables = tomllib.loads(text)
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise ConfigError(path, [Problem(line, "is not UTF-8")]) from None
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"\(at line (\d+), column \d+\)", str(error))
            line = int(found[1]) if found else text.count("\n") + 1
            raise ConfigError(path, [Problem(line, f"is not TOML: {error}")]) from None
        self._lines = lines_of(text)

    def config(self) -> Config:
        for name in self._tables:
            if name not in _TABLES:
                self._blame((name,), f"there is no table {unknown(name, _TABLES, 'tables')}")
        gateway = self._values(("gateway",), self._table(("gateway",)), keys.GATEWAY)
        poses = {}
        for name, value in self._table(("transforms",)).items():
            try:
                poses[name] = checks.pose(name, value)
            except ValueError as error:
                self._blame(("transforms", name), str(error))
        sources = self._entries("source", keys.SOURCES, keys.SOURCE)
        sinks = self._entries("sink", keys.SINKS, keys.SINK)
        servers = [name for name, entry in sources.items() if entry.kind == "connect"]
        for name, entry in sinks.items():
            if (asked := entry.get("asks")) is not None and asked not in servers:
                text = f"there is no {unknown(asked, servers, 'sources that can be asked')}"
                self._blame(("sink", name, "asks"), text)
        routes = {name: self._route(name, sources, sinks) for name in self._table(("route",))}
        if not routes and not self._problems:
            self._problems.append(Problem(0, "there is no [route.NAME]: nothing is passed on"))
        if self._problems:
            raise ConfigError(self._path, self._problems)
        return Config(gateway.get("http", HTTP), poses, sources, sinks, routes)

    def _blame(self, path: tuple[str, ...], text: str) -> None:
        """Note what is wrong with a table, or a key of it."""
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1)
                     if path[:n] in self._lines), 0)  # fmt: skip
        table = path[:2] if path[0] in ("source", "sink", "route") else path[:1]
        where = f"[{'.'.join(table)}] " if path[0] in _TABLES else ""
        key = f"{'.'.join(path[len(table) :])}: " if len(path) > len(table) else ""
        self._problems.append(Problem(line, f"{where}{key}{text}"))

    def _table(self, path: tuple[str, ...]) -> dict[str, Any]:
        found: Any = self._tables
        for part in path:
            found = found.get(part, {})
        if not isinstance(found, dict):
            self._blame(path, f"must be a table, not {found!r}")
            return {}
        return found

    def _values(
        self, path: tuple[str, ...], table: Mapping[str, Any], known: Mapping[str, Check]
    ) -> dict[str, Any]:
        """Return the values of the keys that are right."""
        values = {}
        for key, value in table.items():
            if key not in known:
                self._blame((*path, key), f"there is no key {unknown(key, known, 'keys')}")
                continue
            try:
                values[key] = known[key](value, self._folder)
            except ValueError as error:
                self._blame((*path, key), str(error))
        return values

    def _entries(
        self, table: str, kinds: Mapping[str, Kind], common: Mapping[str, Check]
    ) -> dict[str, Entry]:
        entries = {}
        for name in self._table((table,)):
            path = table, name
            given = self._table(path)
            found = [key for key in given if key in kinds]
            if len(found) != 1:
                one = (
                    "one of"
                    if found
                    else f"a key that says what it is{_near(given, kinds)}: one of"
                )
                what = f"has {' and '.join(found)}, and can be " if found else "needs "
                self._blame(path, f"{what}{one} {', '.join(sorted(kinds))}")
                entries[name] = Entry(name)
                continue
            kind = kinds[found[0]]
            known = {**common, found[0]: kind.place, **kind.options, **kind.keys}
            values = self._values(path, given, known)
            place = values.pop(found[0], None)
            options = {key: values.pop(key) for key in [*values] if key in kind.options}
            entries[name] = Entry(name, found[0], place, values, options)
            self._check_together(path, entries[name])
        return entries

    def _check_together(self, path: tuple[str, ...], entry: Entry) -> None:
        """Check what depends on more than one key."""
        values = entry.values
        if entry.kind == "site" and "hub" not in self._table(path):
            self._blame(path, "needs hub: where the hub of the bridge is, tcp/HOST:PORT")
        serves = entry.kind in ("serve", "listen")
        secret = "client_ca" in values or "key" in values
        if secret and "cert" not in values and isinstance(entry.place, tuple):
            self._blame((*path, "key" if "key" in values else "client_ca"), "needs cert")
        if "latch" in values and values.get("version") == "auto":
            self._blame((*path, "latch"), "is not for version = 'auto'")
        host = entry.place[0] if isinstance(entry.place, tuple) else ""
        if serves and host.startswith("wss://") and "cert" not in values:
            self._blame((*path, entry.kind), "wss:// needs cert")
        if host.startswith("ws://") and values.keys() & {"tls", "ca", "cert"}:
            self._blame((*path, entry.kind), "is not TLS: wss:// is")

    def _route(self, name: str, sources: Mapping[str, Entry], sinks: Mapping[str, Entry]) -> Entry:
        path = "route", name
        values = self._values(path, self._table(path), keys.ROUTE)
        for key, known, noun in (("from", sources, "sources"), ("to", sinks, "sinks")):
            found: dict[str, None] = {}
            for pattern in values.get(key, ()):
                fitting = [each for each in known if name_fits(each, pattern)]
                if not fitting:
                    text = f"there is no {noun[:-1]} {unknown(pattern, known, noun)}"
                    self._blame((*path, key), text)
                found |= dict.fromkeys(fitting)
            if key not in self._table(path):
                self._blame(path, f"needs {key}: a list of {noun}; the {noun} are "
                            f"{', '.join(sorted(known)) or 'none'}")  # fmt: skip
            values[key] = tuple(found)
        for key, other in (("from_frame", "to_frame"), ("max_age", "to_frame")):
            if key in values and other not in values:
                self._blame((*path, key), f"needs {other}")
        if "codec" in values and "IMAGE to VIDEO" not in values.get("convert", ()):
            self._blame((*path, "codec"), "needs convert = ['IMAGE to VIDEO']")
        return Entry(name, values=values)


def _near(given: Iterable[str], kinds: Iterable[str]) -> str:
    """Return a hint at the kind that a misspelt key may mean."""
    from difflib import get_close_matches  # for the error only

    near = [(key, found) for key in given for found in get_close_matches(key, [*kinds], 1)]
    return f" (did you mean {near[0][1]!r} instead of {near[0][0]!r}?)" if near else ""
