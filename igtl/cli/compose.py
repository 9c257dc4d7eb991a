"""Messages from words of a command line, and from JSON as `igtl dump --json --arrays` prints it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import numpy as np

import igtl
from igtl.fields import Field
from igtl.messages.geometry import Attribute

_HEADER = ("device_name", "timestamp", "message_id", "metadata")
_SCALARS = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}


def class_of(name: str) -> type[igtl.Message] | None:
    """Return the class of a type name ("TRANSFORM") or a class name ("Transform")."""
    types = igtl.message_types()
    return types.get(name) or next((c for c in types.values() if c.__name__ == name), None)


def fields_of(cls: type[igtl.Message]) -> list[str]:
    """Return the fields that can be given."""
    init = inspect.getattr_static(cls, "__init__")
    if inspect.isfunction(init):  # written by hand
        return [p for p in inspect.signature(cls).parameters if p not in ("header", "self")]
    return [f.name for f in cls.__fields__ if not f.hidden]


def from_words(cls: type[igtl.Message], words: Iterable[str]) -> igtl.Message:
    """Return a message from `field=value` words.

    A value is JSON, or a text; `metadata.key=value` is an entry of the metadata.

    Raises:
        ValueError: a word is wrong; the text lists the fields.
    """
    texts = {f.name for f in cls.__fields__ if f.kind in ("text", "string", "zero_ended")}
    values: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name.startswith("metadata."):
            values.setdefault("metadata", {})[name.removeprefix("metadata.")] = text
        elif name in texts or name == "device_name":
            values[name] = text
        else:
            try:
                values[name] = json.loads(text)
            except ValueError:
                values[name] = text
    return build(cls, values)


def from_dict(values: dict[str, Any]) -> igtl.Message:
    """Return a message from a JSON object, whose "type" names its type.

    Raises:
        ValueError: the object is not a message.
    """
    values = dict(values)
    name = values.pop("type", None)
    if not isinstance(name, str):
        raise ValueError('the object has no "type"')
    cls = class_of(name)
    if cls is not None:
        return build(cls, values)
    content = bytes.fromhex(values.pop("content", ""))
    exact = _exact(values)
    try:
        message = igtl.Unknown(name, content, **_header(values), **values)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return _at(message, exact)


def build(cls: type[igtl.Message], values: dict[str, Any]) -> igtl.Message:
    """Return a message from plain values.

    Raises:
        ValueError: a value is wrong, missing, or too much.
    """
    values = dict(values)
    exact = _exact(values)
    header = _header(values)
    try:
        return _at(_MADE.get(cls, _declared)(cls, values, header), exact)
    except (TypeError, KeyError) as error:
        there = ", ".join([*fields_of(cls), *_HEADER])
        raise ValueError(f"{cls.type_name}: {error}; it takes {there}") from None


def _header(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values.pop(name) for name in _HEADER if name in values}


def _exact(values: dict[str, Any]) -> int | None:
    """Return the time stamp in ns, which has precedence over the one in seconds."""
    exact: int | None = values.pop("time_ns", None)
    if exact is not None:
        values.pop("timestamp", None)
    return exact


def _at(message: igtl.Message, time_ns: int | None) -> igtl.Message:
    if time_ns is not None:
        message.time_ns = time_ns
    return message


def _declared(cls: Any, values: dict[str, Any], header: dict[str, Any]) -> igtl.Message:
    declared = {f.name: f for f in cls.__fields__}
    fields = {
        name: _value(declared[name], value) if name in declared else value
        for name, value in values.items()
    }
    message: igtl.Message = cls(**fields, **header)
    return message


def _numbers(value: Any) -> Any:
    """Return an array of nested lists; one without numbers may be given by its shape."""
    if isinstance(value, dict) and 0 in value.get("shape", ()):
        return np.zeros(value["shape"], value["dtype"])
    return np.asarray(value)


def _array(cls: Any, values: dict[str, Any], header: dict[str, Any]) -> igtl.Message:
    """JSON says neither how long a number is nor that it is complex."""
    array = _numbers(values.pop("array"))
    default: Any = array.dtype
    if array.dtype.kind == "i":
        default = np.uint32 if array.size and array.max() >= 1 << 31 else np.int32
    message: igtl.Message = cls(array.astype(values.pop("dtype", default)), **values, **header)
    return message


def _table(cls: Any, values: dict[str, Any], header: dict[str, Any]) -> igtl.Message:
    table = np.asarray(values.pop("table"))
    kind = np.uint16 if table.ndim == 1 and (len(table) > 256 or table.max() > 255) else np.uint8
    message: igtl.Message = cls(table.astype(kind), **values, **header)
    return message


def _value(field: Field, value: Any) -> Any:
    if field.kind == "data" and isinstance(value, str):
        return bytes.fromhex(value)
    if field.kind == "int" and isinstance(value, str) and isinstance(field.default, IntEnum):
        try:
            return type(field.default)[value.upper()]
        except KeyError:
            names = ", ".join(type(field.default).__members__)
            raise TypeError(f"{field.name} {value!r} is none of {names}") from None
    if field.kind == "elements":
        known = {f.name: f for f in field.item.__fields__}
        return [
            field.item(**{k: _value(known[k], v) if k in known else v for k, v in item.items()})
            for item in value
        ]
    if field.name == "children":
        return [from_dict(child) for child in value]
    if field.name == "attributes":
        return [
            Attribute(a["name"], np.asarray(a["values"], np.float32), a.get("type"))
            if a.get("type") is not None else Attribute(a["name"], a["values"]) for a in value
        ]  # fmt: skip
    if field.name == "wanted":
        return [tuple(each) for each in value]
    if isinstance(value, dict) and "indices" in value:  # cells
        return value["indices"]
    return value


def _image(cls: Any, values: dict[str, Any], header: dict[str, Any]) -> igtl.Image:
    code = values.pop("scalar_type", None)
    dtype = values.pop("dtype", None if code is None else _SCALARS[code])
    array = _numbers(values.pop("array"))
    if dtype is not None:
        array = array.astype(dtype)
    elif array.dtype == np.int64:
        array = array.astype(np.uint8 if array.min() >= 0 and array.max() < 256 else np.int16)
    components = values.pop("components", 1)
    raw = {k: values.pop(k) for k in _PLACED if k in values}
    if components > 1 and array.ndim == 3:
        raise TypeError(f"array {array.shape} has no {components} components")
    image = igtl.Image.from_volume(array, **values, **header)
    for name, value in raw.items():
        setattr(image, name, value)
    return image


def _video(cls: Any, values: dict[str, Any], header: dict[str, Any]) -> igtl.Video:
    raw = {k: values.pop(k) for k in _PLACED if k in values and k != "size"}
    payload = values.pop("payload")
    video = igtl.Video(
        bytes.fromhex(payload) if isinstance(payload, str) else payload, values.pop("codec"),
        tuple(values.pop("size")), **values, **header,
    )  # fmt: skip
    for name, value in raw.items():
        setattr(video, name, value)
    return video


_PLACED = ("endian", "coordinate", "matrix", "size", "offset", "sub_size")
_MADE = {
    igtl.Image: _image, igtl.Video: _video, igtl.NDArray: _array, igtl.ColorTable: _table,
}  # fmt: skip
