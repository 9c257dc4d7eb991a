"""How field values look: as JSON-able data, in a few words for people, and on a terminal."""

from __future__ import annotations

from itertools import takewhile
from math import prod
from typing import Any

import numpy as np

SHOWN = 64  # arrays up to this size are written out


def plain(value: Any, arrays: bool) -> Any:
    """Return a JSON-able form of a field value."""
    if isinstance(value, np.ndarray):
        # an array without numbers may have any number of rows: its shape says all there is
        rows = prod(takewhile(bool, value.shape))
        if rows > SHOWN and not (arrays and value.size):
            digest = _sha256(np.ascontiguousarray(value).data)
            return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": digest}
        return _pairs(value.tolist()) if value.dtype.kind == "c" else value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        if arrays or len(raw) <= SHOWN:
            return raw.hex()
        return {"bytes": len(raw), "sha256": _sha256(raw)}
    if hasattr(value, "to_dict"):
        return value.to_dict(arrays=arrays)
    if isinstance(value, list | tuple) or hasattr(value, "__item__"):
        return [plain(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _pairs(values: Any) -> Any:
    """Complex numbers as [real, imaginary], in lists as deep as they are."""
    if isinstance(values, list):
        return [_pairs(each) for each in values]
    return [values.real, values.imag]


def _sha256(data: Any) -> str:
    import hashlib  # loads OpenSSL: not for those who show no large data

    return hashlib.sha256(data).hexdigest()


def short(value: Any) -> str:
    """Return a field value in a few words."""
    if isinstance(value, np.ndarray):
        if value.size <= 16:
            return np.array2string(value, precision=4, suppress_small=True, separator=", ").replace(
                "\n", ""
            )
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{memoryview(value).nbytes} bytes"
    if hasattr(value, "__item__"):  # Elements
        return repr(value)
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(map(repr, value[:8]))}, … {len(value)}]"
    text = repr(value[:120] if isinstance(value, str) else value)
    return text if len(text) <= 120 else text[:117] + "…"


def printable(text: str) -> str:
    """Return a text of one line for a terminal.

    What `repr` escapes is escaped (control characters, those that change the direction of writing,
    line breaks), except tabs, and nothing else.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
