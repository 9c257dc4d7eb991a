"""The golden vectors' manifest in terms of the library, both ways: what a decoded message says
in the words of the manifest, and a message built from the manifest's values alone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

import igtl
from igtl import _core

# Keys of `content` that only fed the generator, or repeat another key in words.
GENERATOR_ONLY = {
    "IMAGE": {"spacing", "normals_ijk", "origin", "scalar_name"},
    "VIDEO": {"spacing"},
    "NDARRAY": {"scalar_name"},
}
# The library's cell scalars of one component: its own block cannot be told from nine components.
UNRECOVERABLE = "polydata_h1_quirk_cellscalar1"

# Their large pixels, tables and texts stand in the manifest as a hash only, or (long_exthdr) the
# surplus of the extended header not at all.
NOT_LISTED = {
    "image_h1_volume_uint16", "image_h2_rgb_frame", "colort_h1_idx16_map16",
    "colort_h1_idx16_map8", "colort_h1_idx16_maprgb", "string_h1_max65535",
    "transform_h2_long_exthdr", "string_h2_long_exthdr", "video_h2_X265", "video_h1_AV10",
    "video_h2_i420_frame",
}  # fmt: skip


def floats(values: Any) -> Any:
    """32-bit floats as the manifest means them: parse as double, round to float."""
    return np.asarray(values, np.float64).astype(np.float32)


def sha(data: Any) -> str:
    return hashlib.sha256(bytes(data)).hexdigest()


def wire_floats(matrix: Any) -> Any:
    return np.asarray(matrix)[:3].T.reshape(-1)


def from_wire_floats(wire: Any) -> Any:
    return floats(wire).reshape(4, 3).T


def elements(items: Any, **names: str) -> list[dict[str, Any]]:
    return [{key: getattr(item, attribute) for key, attribute in names.items()} for item in items]


def content_of(m: igtl.Message) -> dict[str, Any]:
    """The message in the manifest's words."""
    match m:
        case igtl.Transform():
            return {"matrix": m.matrix, "wire": wire_floats(m.matrix)}
        case igtl.Position():
            variant = {0: "position_only", 3: "quaternion3", 4: "full"}[len(m.quaternion)]
            return {"variant": variant, "position": m.position, "quaternion": m.quaternion}
        case igtl.Image():
            wire = m.array.astype(m.array.dtype.newbyteorder("<" if m.endian == 2 else ">"))
            return {
                "image_header_version": 1, "num_components": m.components,
                "scalar_type": m.scalar_type, "endian": m.endian, "coordinate": m.coordinate,
                "size": m.size, "matrix": wire_floats(m.matrix), "subvolume_offset": m.offset,
                "subvolume_size": m.sub_size, "pixel_bytes": m.array.nbytes,
                "pixel_sha256": sha(wire.tobytes()), "pixels": m.array.reshape(-1),
            }  # fmt: skip
        case igtl.Video():
            return {
                "video_header_version": 1, "endian": m.endian, "codec": m.codec,
                "frame_type": m.frame_type, "coordinate": m.coordinate, "size": m.size,
                "matrix": wire_floats(m.matrix), "subvolume_offset": m.offset,
                "subvolume_size": m.sub_size, "payload_bytes": len(m.payload),
                "payload_sha256": sha(m.payload), "payload_hex": bytes(m.payload).hex(),
            }  # fmt: skip
        case igtl.ImageMeta():
            return {"elements": [
                {"name": e.name, "device_name": e.device_name, "modality": e.modality,
                 "patient_name": e.patient_name, "patient_id": e.patient_id,
                 "timestamp": {"sec": e.timestamp_raw >> 32, "frac": e.timestamp_raw & 0xFFFFFFFF},
                 "size": e.size, "scalar_type": e.scalar_type} for e in m.images
            ]}  # fmt: skip
        case igtl.LabelMeta():
            return {"elements": elements(m.labels, name="name", device_name="device_name",
                                         label="label", rgba="color", size="size", owner="owner")}  # fmt: skip
        case igtl.Points():
            return {"elements": elements(m.points, name="name", group="group", rgba="color",
                                         position="position", diameter_or_radius="diameter",
                                         owner="owner")}  # fmt: skip
        case igtl.Trajectories():
            return {"elements": elements(m.trajectories, name="name", group="group", type="type",
                                         rgba="color", entry="entry", target="target",
                                         diameter_or_radius="diameter", owner="owner")}  # fmt: skip
        case igtl.TrackingData():
            return {"elements": [{"name": t.name, "type": t.type, "matrix": t.matrix,
                                  "wire": wire_floats(t.matrix)} for t in m.tools]}  # fmt: skip
        case igtl.QuaternionTrackingData():
            return {"elements": elements(m.tools, name="name", type="type", position="position",
                                         quaternion="quaternion")}  # fmt: skip
        case igtl.VideoMeta():
            return {"elements": [
                {"name": e.name, "device_name": e.device_name, "patient_name": e.patient_name,
                 "patient_id": e.patient_id, "zoom_level": e.zoom_level,
                 "focal_length": e.focal_length, "size": e.size,
                 "matrix": wire_floats(e.matrix), "scalar_type": e.scalar_type} for e in m.videos
            ]}  # fmt: skip
        case igtl.Status():
            return {"code": m.code, "subcode": str(m.subcode), "error_name": m.error_name,
                    "status_message": m.message}  # fmt: skip
        case igtl.Capability():
            return {"types": m.types}
        case igtl.Sensor():
            return {"length": len(m.values), "status": m.status, "unit": f"0x{m.unit_raw:016x}",
                    "unit_prefix": m.unit.prefix, "unit_terms": m.unit.terms, "data": m.values}  # fmt: skip
        case igtl.NDArray():
            code = next(c for c, d in {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4",
                                       10: "f4", 11: "f8", 13: "c16"}.items()
                        if m.array.dtype == d)  # fmt: skip
            flat = m.array.reshape(-1)
            if code == 13:
                flat = flat.view(np.float64).reshape(-1, 2)
            return {"scalar_type": code, "size": m.array.shape, "data": flat}
        case igtl.String():
            raw = _core.content(m)[4:]  # bytes as they stand, for the hash
            return {"encoding": m.encoding, "length": len(raw), "string": m.string,
                    "string_sha256": sha(raw)}  # fmt: skip
        case igtl.Command() | igtl.CommandReply():
            return {"command_id": m.command_id, "command_name": m.name, "encoding": m.encoding,
                    "length": len(m.text.encode()), "command": m.text}  # fmt: skip
        case igtl.Query():
            return {"query_id": m.query_id, "data_type": m.data_type, "device_uid": m.device_uid}
        case igtl.PolyData():
            return {
                "points": m.points, "vertices": list(m.vertices), "lines": list(m.lines),
                "polygons": list(m.polygons), "triangle_strips": list(m.triangle_strips),
                "attributes": [
                    {"type": a.type, "n": len(a.values), "name": a.name,
                     "ncomponents": a.components, "data": a.values.reshape(-1),
                     "ncomponents_wire": 9 if a.padded else a.components} for a in m.attributes
                ],
            }  # fmt: skip
        case igtl.ColorTable():
            wire = m.table.astype(m.table.dtype.newbyteorder(">")).tobytes()
            return {"index_type": m.index_type, "map_type": m.map_type, "entries": len(m.table),
                    "table_bytes": len(wire), "table_sha256": sha(wire),
                    "table": m.table}  # fmt: skip
        case igtl.Bind():
            return {"children": [child_of(c) for c in m.children]}
        case igtl.GetBind():
            return (
                {"children": [{"type": t, "device_name": d} for t, d in m.wanted]}
                if m.wanted
                else {}
            )
        case igtl.StartBind():
            return {"resolution": str(m.interval_ns),
                    "children": [{"type": t, "device_name": d} for t, d in m.wanted]}  # fmt: skip
        case igtl.StartTrackingData() | igtl.StartQuaternionTrackingData():
            return {"resolution_ms": m.resolution_ms, "coordinate_name": m.coordinate_name}
        case igtl.StartVideo():
            return {"codec": m.codec, "time_interval_ms": m.interval_ms,
                    "trailing_hex": f"{m.reserved:02x}"}  # fmt: skip
        case igtl.Unknown():
            return {"content_hex": bytes(m.content).hex()}
        case igtl.Ready():
            return {"status": m.status}
    assert isinstance(m, igtl.Get | igtl.Start | igtl.Stop), type(m)
    return {}


def child_of(m: igtl.Message) -> dict[str, Any]:
    raw = _core.content(m)
    return {"type": m.type_name, "device_name": m.device_name, "body_size": len(raw),
            "body_hex": raw.hex(), "body_sha256": sha(raw), "content": content_of(m)}  # fmt: skip


# What the decoded message does not repeat: sizes that pack() computes.
COMPUTED = {"name_table_size", "data_wire_floats", "type_name", "timestamp_set_ns"}


def differences(want: Any, have: Any, skip: set[str], path: str = "") -> list[str]:
    """Where a value of the manifest and ours disagree."""
    if isinstance(want, dict):
        out = []
        for key, value in want.items():
            if key in skip or key in COMPUTED:
                continue
            if key not in have:
                out.append(f"{path}.{key} is missing")
            else:
                out += differences(value, have[key], skip, f"{path}.{key}")
        return out
    if isinstance(have, np.ndarray):
        wanted = np.asarray(want, np.float64 if have.dtype.kind == "f" else None)
        if wanted.size == 0 and have.size == 0:
            return []
        same = wanted.shape == have.shape and (wanted.astype(have.dtype) == have).all()
        return [] if same else [f"{path}: {want} != {have}"]
    if isinstance(want, list):
        if len(want) != len(have):
            return [f"{path}: {len(want)} != {len(have)} items"]
        return [d for k, (w, h) in enumerate(zip(want, have, strict=True))
                for d in differences(w, h, skip, f"{path}[{k}]")]  # fmt: skip
    if isinstance(want, float) and isinstance(have, float):
        # f32 fields compare as floats, f64 fields exactly
        return [] if want == have or np.float32(want) == np.float32(have) else [f"{path}: {want}"]
    return [] if want == have else [f"{path}: {want!r} != {have!r}"]


# ---- building ---------------------------------------------------------------------------------

_SCALARS = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8", 13: "c16"}


def build(v: dict[str, Any]) -> igtl.Message:
    """A message from the manifest's values alone."""
    m = build_content(v["type"], v["content"])
    m.device_name = v["device_name"]
    m.timestamp_raw = v["timestamp"]["sec"] << 32 | v["timestamp"]["frac"]
    m.message_id = v.get("message_id", 0)
    m.metadata = {
        e["key"]: (e["encoding"], bytes.fromhex(e["value_hex"])) for e in v.get("metadata", ())
    }
    return m


def build_content(kind: str, c: dict[str, Any]) -> igtl.Message:
    types = igtl.message_types()
    match kind:
        case "TRANSFORM":
            return igtl.Transform(floats(c["matrix"]))
        case "POSITION" | "QTRANS":
            return types[kind](floats(c["position"]), floats(c["quaternion"]))
        case "IMAGE":
            return build_image(c)
        case "VIDEO":
            m = igtl.Video(bytes.fromhex(c["payload_hex"]), c["codec"], tuple(c["size"]),
                           frame_type=c["frame_type"])  # fmt: skip
            m.matrix = from_wire_floats(c["matrix"])
            m.endian, m.coordinate = c["endian"], c["coordinate"]
            m.offset, m.sub_size = c["subvolume_offset"], c["subvolume_size"]
            return m
        case "IMGMETA":
            return igtl.ImageMeta([
                igtl.ImageInfo(
                    e["name"], e["device_name"], e["modality"], e["patient_name"], e["patient_id"],
                    e["timestamp"]["sec"] << 32 | e["timestamp"]["frac"], e["size"], e["scalar_type"],
                ) for e in c["elements"]
            ])  # fmt: skip
        case "LBMETA":
            return igtl.LabelMeta([
                igtl.LabelInfo(e["name"], e["device_name"], e["label"], e["rgba"], e["size"],
                               e["owner"]) for e in c["elements"]
            ])  # fmt: skip
        case "POINT":
            return igtl.Points([
                igtl.Point(e["name"], e["group"], e["rgba"], e["diameter_or_radius"], e["owner"],
                           position=floats(e["position"])) for e in c["elements"]
            ])  # fmt: skip
        case "TRAJ":
            return igtl.Trajectories([
                igtl.Trajectory(e["name"], e["group"], e["type"], e["rgba"], floats(e["entry"]),
                                floats(e["target"]), e["diameter_or_radius"], e["owner"])
                for e in c["elements"]
            ])  # fmt: skip
        case "TDATA":
            return igtl.TrackingData(
                [igtl.Tool(e["name"], e["type"], floats(e["matrix"])) for e in c["elements"]]
            )
        case "QTDATA":
            return igtl.QuaternionTrackingData([
                igtl.QuaternionTool(e["name"], e["type"], floats(e["position"]),
                                    floats(e["quaternion"])) for e in c["elements"]
            ])  # fmt: skip
        case "VIDEOMETA":
            return igtl.VideoMeta([
                igtl.VideoInfo(e["name"], e["device_name"], e["patient_name"], e["patient_id"],
                               e["zoom_level"], e["focal_length"], e["size"],
                               from_wire_floats(e["matrix"]), e["scalar_type"])
                for e in c["elements"]
            ])  # fmt: skip
        case "STATUS":
            return igtl.Status(c["code"], int(c["subcode"]), c["error_name"], c["status_message"])
        case "CAPABILITY":
            return igtl.Capability(c["types"])
        case "SENSOR":
            return igtl.Sensor(c["data"], int(c["unit"], 16), status=c.get("status", 0))
        case "NDARRAY":
            data = np.array(c["data"], np.float64 if c["scalar_type"] == 13 else None)
            dtype = _SCALARS[c["scalar_type"]]
            flat = data.reshape(-1).view("c16") if c["scalar_type"] == 13 else data.astype(dtype)
            return igtl.NDArray(flat.reshape(c["size"]))
        case "STRING":
            return igtl.String(c["string"].encode(), encoding=c["encoding"])
        case "COMMAND" | "RTS_COMMAND":
            return types[kind](c["command_id"], c["command_name"], c["command"].encode(),
                               encoding=c["encoding"])  # fmt: skip
        case "QUERY":
            return igtl.Query(c["query_id"], c["data_type"], c["device_uid"])
        case "POLYDATA":
            return igtl.PolyData(
                floats(c["points"]), c["vertices"], c["lines"], c["polygons"],
                c["triangle_strips"], [
                    igtl.Attribute(a["name"], floats(a["data"]).reshape(a["n"], -1), a["type"])
                    if a["n"] else igtl.Attribute(a["name"], np.zeros((0, a["ncomponents"])), a["type"])
                    for a in c["attributes"]
                ],
            )  # fmt: skip
        case "COLORT":
            dtype = "u2" if c["map_type"] == 5 else "u1"
            shape = (-1, 3) if c["map_type"] == 19 else (-1,)
            return igtl.ColorTable(np.array(c["table"], dtype).reshape(shape))
        case "BIND":
            children = []
            for child in c["children"]:
                if child["type"] in ("VENDOR", "UNKNOWN") or "content" not in child:
                    m: igtl.Message = igtl.unpack(as_message(child))
                else:
                    m = build_content(child["type"], child["content"])
                m.device_name = child["device_name"]
                children.append(m)
            return igtl.Bind(children)
        case "GET_BIND":
            return igtl.GetBind([(k["type"], k["device_name"]) for k in c.get("children", ())])
        case "STT_BIND":
            wanted = [(k["type"], k["device_name"]) for k in c["children"]]
            return igtl.StartBind(int(c["resolution"]), wanted)
        case "STT_TDATA" | "STT_QTDATA":
            return types[kind](c["resolution_ms"], c["coordinate_name"])
        case "STT_VIDEO":
            return igtl.StartVideo(c["codec"], c["time_interval_ms"], int(c["trailing_hex"], 16))
    if "content_hex" in c:
        return igtl.Unknown(kind, bytes.fromhex(c["content_hex"]))
    return types[kind](**c)


def build_image(c: dict[str, Any]) -> igtl.Image:
    i, j, k = c["subvolume_size"]
    shape = (k, j, i) if c["num_components"] == 1 else (k, j, i, c["num_components"])
    # large 32-bit values pass through double unharmed, 32-bit floats round to themselves
    pixels = np.array(c["pixels"], np.float64).astype(_SCALARS[c["scalar_type"]])
    m = igtl.Image(pixels.reshape(shape))
    m.size, m.offset = c["size"], c["subvolume_offset"]
    m.matrix = from_wire_floats(c["matrix"])
    m.endian, m.coordinate = c["endian"], c["coordinate"]
    return m


def as_message(child: dict[str, Any]) -> bytes:
    """A child of BIND whose content the manifest gives as bytes, as a message of its own."""
    body = bytes.fromhex(child["body_hex"])
    head = b"\0\1" + child["type"].encode().ljust(12, b"\0") + bytes(20) + bytes(8)
    return head + len(body).to_bytes(8, "big") + igtl.crc64(body).to_bytes(8, "big") + body
