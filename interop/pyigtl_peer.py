"""The package `pyigtl` behind the command line of interop/cpp:

    pack    tcp PORT | client PORT     JSON descriptions to messages; as a server or a client
    reflect tcp PORT | client PORT     messages to JSON, and back again
    unpack  abilities

It runs without igtl. The loops of pyigtl poll, so that a message takes ten milliseconds or more.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import threading
import time
from typing import Any

import numpy as np
import pyigtl
from pyigtl.messages import PolyDataMessage, _igtl_nanosec_to_frac

SCALARS = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}
ABILITIES = {
    "library": importlib.metadata.version("pyigtl"),  # its __version__ is out of date
    "header_version": 1,
    "types": {
        "IMAGE": {},
        "TRANSFORM": {},
        "STRING": {},
        "POINT": {},
        "POSITION": {},
        "POLYDATA": {"unpack": "has no reader for this type"},
    },
}


def centre_shift(matrix: Any, size: Any) -> Any:
    """Return the way from the first voxel, which pyigtl's matrix places, to the centre."""
    return matrix[:3, :3] @ ((np.asarray(size) - 1) / 2)


def build(d: dict[str, Any]) -> Any:
    c = d["content"]
    time_stamp = d["timestamp"]["sec"] + d["timestamp"]["frac"] / 2**32
    header = {"device_name": d["device_name"], "timestamp": time_stamp}
    match d["type"]:
        case "TRANSFORM":
            return pyigtl.TransformMessage(np.array(c["matrix"]), **header)
        case "STRING":
            return pyigtl.StringMessage(c["string"], **header)
        case "POSITION":
            return pyigtl.PositionMessage([c["position"]], [c["quaternion"]], **header)
        case "POINT":
            e = c["elements"]
            return pyigtl.PointMessage(
                positions=[p["position"] for p in e], names=[p["name"] for p in e],
                rgba_colors=[p["rgba"] for p in e], groups=[p["group"] for p in e],
                diameters=[p["diameter_or_radius"] for p in e], owners=[p["owner"] for p in e],
                **header,
            )  # fmt: skip
        case "IMAGE":
            if c["size"] != c["subvolume_size"]:
                raise ValueError("no parts of volumes")
            order = "<" if c["endian"] == 2 else ">"
            i, j, k = c["size"]
            shape = (k, j, i) if c["num_components"] == 1 else (k, j, i, c["num_components"])
            dtype = np.dtype(SCALARS[c["scalar_type"]]).newbyteorder(order)
            pixels = np.frombuffer(bytes.fromhex(c["pixel_hex"]), dtype).reshape(shape)
            pixels = pixels.astype(dtype.newbyteorder("="))  # as its users hold them
            matrix = np.eye(4)
            matrix[:3] = np.array(c["matrix"]).reshape(4, 3).T
            matrix[:3, 3] -= centre_shift(matrix, c["size"])
            system = "ras" if c["coordinate"] == 1 else "lps"
            return pyigtl.ImageMessage(pixels, matrix, system, **header)
        case "POLYDATA":
            if c["attributes"]:
                raise ValueError("no attributes")
            flat = [
                np.array([n for cell in c[key] for n in (len(cell), *cell)])
                for key in ("vertices", "lines", "polygons", "triangle_strips")
            ]
            return PolyDataMessage(None, np.array(c["points"]), *flat, **header)
    raise ValueError("no class")


def describe(m: Any) -> dict[str, Any]:
    seconds = int(m.timestamp)
    fraction = _igtl_nanosec_to_frac(int((m.timestamp - seconds) * 10**9))
    content: dict[str, Any] = {}
    match m.message_type:
        case "TRANSFORM":
            content = {"matrix": np.asarray(m.matrix).tolist()}
        case "STRING":
            content = {"string": m.string}
        case "POSITION":
            content = {
                "position": m.positions[0] if m.positions else [],
                "quaternion": m.quaternions[0] if m.quaternions else [],
            }
        case "POINT":
            columns = zip(
                m.names, m.groups, m.rgba_colors, m.positions, m.diameters, m.owners, strict=True
            )
            keys = ("name", "group", "rgba", "position", "diameter_or_radius", "owner")
            content = {"elements": [dict(zip(keys, row, strict=True)) for row in columns]}
        case "IMAGE":
            size = m.image.shape[2::-1]
            wire = np.asarray(m.ijk_to_world_matrix)[:3].copy()
            wire[:, 3] += centre_shift(m.ijk_to_world_matrix, size)
            content = {
                "size": size, "matrix": wire.T.reshape(-1).tolist(),
                "num_components": m.image.shape[3] if m.image.ndim == 4 else 1,
                "coordinate": 1 if m.world_coordinate_system == "ras" else 2,
                "endian": 1 if m.image.dtype.byteorder == ">" else 2,
                "pixel_hex": m.image.tobytes().hex(),
            }  # fmt: skip
    return {
        "type": m.message_type,
        "device_name": m.device_name,
        "timestamp": {"sec": seconds, "frac": fraction},
        "content": content,
    }


def connected(role: str, port: int) -> Any:
    if role == "client":
        return pyigtl.OpenIGTLinkClient("127.0.0.1", port)
    server = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
    print(json.dumps({"port": server.server_address[1]}))
    return server


def main(program: str, role: str, port: int = 0) -> None:
    if program == "unpack":
        print(json.dumps(ABILITIES))
        return
    link = connected(role, port)
    if program == "pack":
        for line in sys.stdin:
            try:
                message = build(json.loads(line))
                message.pack()  # raised in its sending thread, an error would stop that thread
            except Exception as error:
                print(json.dumps({"refused": str(error)}))
                continue
            print(json.dumps({"sent": True}))
            link.send_message(message)
        return
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.is_set():
        for message in link.get_latest_messages():
            description = describe(message)
            try:
                message.pack()
                link.send_message(message)
            except Exception as error:
                description["not_packed_again"] = str(error)
            print(json.dumps(description))
        time.sleep(0.001)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
