"""Where the keys of a TOML text stand: `tomllib` does not tell the lines of what it has read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Final, NamedTuple

Path = tuple[str, ...]
_TOKEN: Final = re.compile(
    r"""(?P<skip>[ \t\r]+|\#[^\n]*)
    |(?P<end>\n)
    |(?P<mark>[][{}=,.])
    |(?P<text>\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')
    |(?P<bare>[^\s\[\]{}=,."'#]+)""",
    re.DOTALL | re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def lines_of(text: str) -> dict[Path, int]:
    """Return the line of each table and key by full name: ("source", "tracker", "connect") to 7.

    Args:
        text: TOML that tomllib has read.
    """
    return _Reader(_tokens(text)).found


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or ""
        if kind != "skip":
            yield _Token(kind, found[0], line)
        line += found[0].count("\n")
    yield _Token("end", "", line)


class _Reader:
    """Goes through the tokens once; keeps only where the keys are."""

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self.found: dict[Path, int] = {}
        self._tokens = tokens
        self._now = next(tokens)
        table: Path = ()
        while self._now.text or self._now.kind != "end":
            if self._now.kind == "end":
                self._step()
            elif self._now.text == "[":
                table = self._header()
            else:
                self._pair(table)

    def _step(self) -> _Token:
        """Go past one token and return it."""
        passed = self._now
        self._now = next(self._tokens, _Token("end", "", passed.line))
        return passed

    def _header(self) -> Path:
        while self._now.text == "[":  # twice for an array of tables
            self._step()
        line = self._now.line
        table = self._key()
        while self._now.text == "]":
            self._step()
        self._note(table, line)
        return table

    def _key(self) -> Path:
        parts = []
        while self._now.kind in ("text", "bare") or self._now.text == ".":
            token = self._step()
            if token.kind == "text":  # in TOML's own words, escapes and all
                parts.append(tomllib.loads(f"x = {token.text}")["x"])
            elif token.kind == "bare":
                parts.append(token.text)
        return tuple(parts)

    def _pair(self, table: Path) -> None:
        line = self._now.line
        path = (*table, *self._key())
        self._note(path, line)
        self._step()  # "="
        self._value(path)

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.found.setdefault(path[:length], line)

    def _value(self, path: Path) -> None:
        if self._now.text not in ("[", "{"):
            while self._now.kind != "end" and self._now.text not in (",", "]", "}"):
                self._step()
            return
        closing = "]" if self._step().text == "[" else "}"
        while self._now.text != closing:
            if self._now.kind == "end" or self._now.text == ",":
                self._step()
            elif closing == "]":
                self._value(path)
            else:
                self._pair(path)
        self._step()
