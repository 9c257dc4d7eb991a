"""Where another implementation and igtl are known not to agree on every byte, and why.

The verdict of every row of the matrix that is not here must be "bytes". A run fails when a verdict is
another than the one here: in both directions, so that a peer's repair is noticed too. Who is right is
decided by the official library 3.1, which packed tests/vectors.
"""

from __future__ import annotations

from interop.verdicts import Direction, State

Known = dict[str, dict[Direction, tuple[State, str]]]

UNIT_VECTORS = "unit vectors and spacing are kept apart: the last bit of the matrix may change"
SCAN_TIME = "turns the scan time into nanoseconds and back: up to 64 units of 2**-32 s (15 ns) off"
PADDED = "pads the values with whatever stands behind them in memory"
NO_TEXTURE = "has no texture coordinates, takes them for scalars"
SHORT = "writes 28 bytes into a buffer of 12 or 24"
CPP_1_11: Known = {
    "IMAGE": {"reads": ("values", UNIT_VECTORS), "writes": ("values", UNIT_VECTORS)},
    "IMAGE, part of a volume": {
        "reads": ("values", UNIT_VECTORS),
        "writes": ("values", UNIT_VECTORS),
    },
    "IMGMETA": {"reads": ("values", SCAN_TIME), "writes": ("values", SCAN_TIME)},
    "POLYDATA, padded attributes": {"reads": ("values", PADDED), "writes": ("values", PADDED)},
    "POLYDATA, texture coordinates": {"reads": ("wrong", NO_TEXTURE), "writes": ("wrong", NO_TEXTURE)},
    "POSITION, 12 and 24 bytes": {
        "reads": ("values", "is read right; packing it again " + SHORT),
        "writes": ("wrong", SHORT),
    },
    "STT_BIND": {"writes": ("values", "never writes the interval")},
}  # fmt: skip

ASCII = "cannot send text that is not ASCII"
NO_PARTS = "has no parts of volumes"
NO_ATTRIBUTES = "has no attributes"
NATIVE_CELLS = "writes the vertices in the byte order of the machine"
FIELDS_OF_152 = "takes POSITION for a list of 152-byte elements with names and colours"
PYIGTL: Known = {
    "IMAGE": {
        "reads": ("values", "cannot send on a big-endian image; its matrix is that of a corner, in double"),
        "writes": ("values", "always little endian; its matrix is that of a corner, in double"),
    },
    "IMAGE, part of a volume": {"reads": ("wrong", NO_PARTS), "writes": ("wrong", NO_PARTS)},
    "POLYDATA": {"writes": ("wrong", NATIVE_CELLS)},
    "POLYDATA, attributes": {"writes": ("wrong", NO_ATTRIBUTES)},
    "POLYDATA, padded attributes": {"writes": ("wrong", NO_ATTRIBUTES)},
    "POLYDATA, texture coordinates": {"writes": ("wrong", NO_ATTRIBUTES)},
    "POSITION": {"reads": ("wrong", FIELDS_OF_152), "writes": ("wrong", FIELDS_OF_152)},
    "POSITION, 12 and 24 bytes": {"reads": ("wrong", FIELDS_OF_152), "writes": ("wrong", FIELDS_OF_152)},
    "STRING, UTF-8": {"reads": ("values", ASCII), "writes": ("wrong", ASCII)},
}  # fmt: skip


def both(why: str, state: State = "wrong") -> dict[Direction, tuple[State, str]]:
    return {"reads": (state, why), "writes": (state, why)}


BY_ROWS = "matrices row by row"
RUST: Known = {
    "BIND": both("entries of 32 bytes without contents"),
    "CAPABILITY": both("a count in front of the names"),
    "COLORT": both("is COLORTABLE there, with RGBA entries"),
    "COMMAND": both("a name of 20 bytes, not 128"),
    "IMAGE": both("a header of 60 bytes, without the part of the volume"),
    "IMAGE, part of a volume": both("a header of 60 bytes, without the part of the volume"),
    "NDARRAY, complex": both("has no complex numbers"),
    "POLYDATA": both("another layout of header and cells"),
    "POLYDATA, attributes": both("another layout of header and cells"),
    "POLYDATA, padded attributes": both("another layout of header and cells"),
    "POLYDATA, texture coordinates": both("another layout of header and cells"),
    "POSITION, 12 and 24 bytes": both("has the 28-byte form only"),
    "STATUS": {"reads": ("wrong", "panics at codes 12 and up: takes the code for the size of an extended header")},
    "STRING, UTF-8": {"reads": ("wrong", "panics at 102 bytes and more: takes the encoding for the size of an extended header")},
    "TDATA": both(BY_ROWS),
    "VIDEO": both("a layout of its own"),
    "VIDEOMETA": both("a layout of its own"),
    "GET_TRANS": {"reads": ("wrong", "knows GET_TRANSFOR only"), "writes": ("values", "named GET_TRANSFOR")},
    "STP_TRANS": {"reads": ("wrong", "knows STP_TRANSFOR only"), "writes": ("values", "named STP_TRANSFOR")},
    "RTS_TDATA": both("two bytes, and 1 for success"),
}  # fmt: skip

RUST_FIRST: Known = {
    **{row: known for row, known in RUST.items() if row not in ("STATUS", "STRING, UTF-8")},
    "TRANSFORM": both(BY_ROWS),
}

KNOWN: dict[str, Known] = {
    "C++ 1.11": CPP_1_11,
    "pyigtl 0.3.4": PYIGTL,
    "Rust 0.4.1": RUST,
    "Rust 0.1.0": RUST_FIRST,
}
