"""The XML that peers put into texts: selections, commands, replies and frame fields of PLUS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

_ENTITIES: Final = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))
_LINES: Final = (("\n", "&#10;"), ("\r", "&#13;"), ("\t", "&#9;"))  # a parser makes them spaces

Element = tuple[str, dict[str, str]]
"""Tag and attributes."""


def quoted(text: str) -> str:
    """Return a text as the value of an attribute, with its quotes."""
    for plain, entity in _ENTITIES + _LINES:
        text = text.replace(plain, entity)
    return f'"{text}"'


def element(tag: str, attributes: Mapping[str, str], inner: str | Iterable[str] = "") -> str:
    """Return an element as text; `inner` is XML already."""
    head = tag + "".join(f" {name}={quoted(value)}" for name, value in attributes.items())
    inner = inner if isinstance(inner, str) else "".join(inner)
    return f"<{head}>{inner}</{tag}>" if inner else f"<{head}/>"


def elements(text: str) -> list[Element]:
    """Return all elements of a document, in the order in which they begin.

    Texts between them are left out.

    Raises:
        ValueError: the text is not well-formed, or declares a document type, by which a short text
            can expand to a very long one.
    """
    from xml.parsers import expat  # for texts of peers only

    found: list[Element] = []

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type")

    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = lambda tag, attributes: found.append((tag, attributes))
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text.encode(errors="replace"), True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not well-formed XML: {error}") from None
    return found
