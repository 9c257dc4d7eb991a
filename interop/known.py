"""The known differences between other implementations and igtl, each with its reason.

The verdict of every row of the matrix that is not listed here must be "bytes". A run fails when a
verdict differs from the one listed here, for the better too, so that a peer's repair is noticed. The
official library 3.1, which packed tests/vectors, decides which side is right; where that library itself
is listed, docs/protocol.md gives the rule.
"""

from __future__ import annotations

from interop.verdicts import Direction, State

Known = dict[str, dict[Direction, tuple[State, str]]]


def both(why: str, state: State = "wrong") -> dict[Direction, tuple[State, str]]:
    return {"reads": (state, why), "writes": (state, why)}


UNIT_VECTORS = "keeps unit vectors and spacing apart: the last bit of the matrix may change"
SCAN_TIME = "converts the scan time to nanoseconds and back: up to 64 units of 2**-32 s (15 ns) off"
PADDED = "pads the values with what follows them in memory"
CPP: Known = {
    "IMAGE": both(UNIT_VECTORS, "values"),
    "IMAGE, part of a volume": both(UNIT_VECTORS, "values"),
    "IMGMETA": both(SCAN_TIME, "values"),
    "POLYDATA, padded attributes": both(PADDED, "values"),
    "STT_BIND": {"writes": ("values", "never writes the interval")},
}
"""The official library, 1.11 and 3.1."""

SHORT = "writes 28 bytes into a buffer of 12 or 24"
CPP_1_11: Known = CPP | {
    "POLYDATA, texture coordinates": both("has no texture coordinates, takes them for scalars"),
    "POSITION, 12 and 24 bytes": {
        "reads": ("values", "reads it correctly; packing it again, " + SHORT),
        "writes": ("wrong", SHORT),
    },
}

TEXTURE = "packs 3 values for each texture coordinate and announces 9"
NO_ID = "has no setter for the query id and sends uninitialised memory"
CODEC = "appends the bytes of the interval to the codec, up to the first 0"
NOT_READ = "implements no UnpackContent for this class: reports a wrong body"
CRASHES = "implements no PackContent for this class: Pack() dereferences a null pointer"
CPP_3_1: Known = CPP | {
    "POLYDATA, texture coordinates": {"reads": ("values", TEXTURE), "writes": ("wrong", TEXTURE)},
    "QUERY": {"writes": ("wrong", NO_ID)},
    "VIDEO": both(UNIT_VECTORS, "values"),
    "VIDEOMETA": {"reads": ("values", UNIT_VECTORS)},
    "STT_POLYDATA": {"reads": ("wrong", NOT_READ), "writes": ("wrong", CRASHES)},
    "STP_POLYDATA": {"writes": ("wrong", CRASHES)},
    "STT_VIDEO": {"reads": ("wrong", CODEC)},
}

NO_CONTENT = "does not read the message id where there is neither content nor metadata"
WITHOUT_CONTENT = (
    "GET_COLORT", "GET_IMAGE", "GET_IMGMETA", "GET_LBMETA", "GET_POINT", "GET_POLYDATA", "GET_STATUS",
    "GET_TRAJ", "GET_TRANS", "GET_VMETA", "STP_BIND", "STP_IMAGE", "STP_QTDATA", "STP_TDATA", "STP_VIDEO",
)  # fmt: skip
CPP_3_1_V2: Known = (
    CPP_3_1
    | {row: {"reads": ("wrong", NO_CONTENT)} for row in WITHOUT_CONTENT}
    | {
        "STT_POLYDATA": {
            "reads": ("wrong", NOT_READ),
            "writes": ("values", "implements no PackContent for this class: sends no content"),
        },
        "STP_POLYDATA": {"reads": ("wrong", NOT_READ)},
    }
)

ASCII = "cannot send text that is not ASCII"
NO_PARTS = "cannot express a part of a volume"
NO_ATTRIBUTES = "has no attributes"
NATIVE_CELLS = "writes the vertices in the byte order of the machine"
FIELDS_OF_152 = "takes POSITION for a list of 152-byte elements with names and colours"
PYIGTL: Known = {
    "IMAGE": {
        "reads": ("values", "cannot pack a big-endian image again; stores the matrix of a corner, in double"),
        "writes": ("values", "always writes little endian; stores the matrix of a corner, in double"),
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


BY_ROWS = "stores matrices row by row"
RUST: Known = {
    "BIND": both("uses entries of 32 bytes without contents"),
    "CAPABILITY": both("puts a count before the names"),
    "COLORT": both("names the type COLORTABLE and uses RGBA entries"),
    "COMMAND": both("uses a name of 20 bytes, not 128"),
    "IMAGE": both("uses a header of 60 bytes, without the part of the volume"),
    "IMAGE, part of a volume": both("uses a header of 60 bytes, without the part of the volume"),
    "NDARRAY, complex": both("has no complex numbers"),
    "POLYDATA": both("uses another layout of header and cells"),
    "POLYDATA, attributes": both("uses another layout of header and cells"),
    "POLYDATA, padded attributes": both("uses another layout of header and cells"),
    "POLYDATA, texture coordinates": both("uses another layout of header and cells"),
    "POSITION, 12 and 24 bytes": both("has only the form of 28 bytes"),
    "STATUS": {"reads": ("wrong", "panics at codes 12 and up: takes the code for the size of an extended header")},
    "STRING, UTF-8": {"reads": ("wrong", "panics at 102 bytes and more: takes the encoding for the size of an extended header")},
    "TDATA": both(BY_ROWS),
    "VIDEO": both("uses a layout of its own"),
    "VIDEOMETA": both("uses a layout of its own"),
    "GET_TRANS": {"reads": ("wrong", "reads only GET_TRANSFOR"), "writes": ("values", "names the type GET_TRANSFOR")},
    "STP_TRANS": {"reads": ("wrong", "reads only STP_TRANSFOR"), "writes": ("values", "names the type STP_TRANSFOR")},
    "RTS_TDATA": both("uses two bytes, and 1 for success"),
}  # fmt: skip

RUST_FIRST: Known = {
    **{row: known for row, known in RUST.items() if row not in ("STATUS", "STRING, UTF-8")},
    "TRANSFORM": both(BY_ROWS),
}

KNOWN: dict[str, Known] = {
    "C++ 1.11": CPP_1_11,
    "C++ 3.1": CPP_3_1,
    "C++ 3.1 v2": CPP_3_1_V2,
    "pyigtl 0.3.4": PYIGTL,
    "Rust 0.4.1": RUST,
    "Rust 0.1.0": RUST_FIRST,
}
