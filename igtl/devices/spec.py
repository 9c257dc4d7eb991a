"""Specifications of devices: "kind:argument?option=value,option=value"."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any, Literal, NamedTuple

from igtl.devices.device import Device
from igtl.devices.registry import device_class, meant

_FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


class Option(NamedTuple):
    """An option of a kind of device.

    Attributes:
        name: as in specifications.
        type: of its value.
        default: where it is not given.
        text: what it means.
    """

    name: str
    type: Any
    default: Any
    text: str

    @property
    def values(self) -> str:
        """Which values there are, in words."""
        return _values(self.type)


def options_of(cls: type[Device]) -> list[Option]:
    """Return the options of a class of devices, its own first."""
    hints = typing.get_type_hints(cls)
    found = [
        Option(f.name, hints[f.name], f.default, f.metadata["help"])
        for f in dataclasses.fields(cls) if "help" in f.metadata
    ]  # fmt: skip
    common = {f.name for f in dataclasses.fields(Device)}
    return sorted(found, key=lambda o: o.name in common)


def device_of(spec: str, **options: Any) -> Device:
    """Return the device of a specification, not opened.

    Args:
        spec: "kind", "kind:argument" or "kind:argument?option=value,option=value". The options
            begin at the last "?": an argument that has one itself is followed by another "?".
            A comma that no `name=` follows is part of the value.
        options: values by name, which take the place of those in the specification.

    Raises:
        ValueError: there is no such kind or option, or its value is not allowed.
    """
    head, _, query = spec.rpartition("?") if "?" in spec else (spec, "", "")
    kind, _, argument = head.partition(":")
    cls = device_class(kind)
    known = {o.name: o for o in options_of(cls)}
    values: dict[str, Any] = {}
    for part in re.split(r",(?=\s*[A-Za-z_]\w*=)", query) if query else []:
        name, equals, text = part.strip().partition("=")
        name = name.replace("-", "_")
        _check(kind, name, known)
        if not equals:
            raise ValueError(f"option {name!r} of {kind} has no value: write {name}=…")
        try:
            values[name] = _value(known[name].type, text)
        except ValueError:
            raise ValueError(
                f"option {name!r} of {kind} is {known[name].values}, not {text!r}"
            ) from None
    for name in options:
        _check(kind, name, known)
    if argument and not cls.takes:
        raise ValueError(f"{kind} takes no argument, so {argument!r} must go")
    return cls(argument, **{**values, **options})


def _check(kind: str, name: str, known: dict[str, Option]) -> None:
    if name not in known:
        raise ValueError(f"{kind} has no option {name!r}{meant(name, known)}")


def _plain(kind: Any) -> Any:
    """Return the type without the None of an optional one."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        (kind,) = (t for t in typing.get_args(kind) if t is not type(None))
    return kind


def _value(kind: Any, text: str) -> Any:
    kind = _plain(kind)
    if typing.get_origin(kind) is Literal:
        for value in typing.get_args(kind):
            if str(value).lower() == text.lower():
                return value
        raise ValueError(text)
    if typing.get_origin(kind) is tuple:
        parts = re.split(r"[,x]", text)
        inner = typing.get_args(kind)
        if inner[-1] is not Ellipsis and len(parts) != len(inner):
            raise ValueError(text)
        return tuple(inner[0](part) for part in parts)
    if kind is bool:
        if text.lower() not in _FLAGS:
            raise ValueError(text)
        return _FLAGS[text.lower()]
    return kind(text)


def _values(kind: Any) -> str:
    kind = _plain(kind)
    if typing.get_origin(kind) is Literal:
        return " | ".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        return "N,N,…" if inner[-1] is Ellipsis else "x".join("N" for _ in inner)
    return {bool: "yes | no", int: "an integer", float: "a number"}.get(kind, "text")
