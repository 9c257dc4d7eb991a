"""Golden vectors, both ways: 361 messages packed by the official C++ library, and 27 written by
3D Slicer's network code, with what they mean."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import igtl
from tests import golden
from tests.conftest import SLICER, VECTORS, manifest

ALL = manifest()
IDS = [v["name"] for v in ALL]
LISTED = [
    v
    for v in ALL
    if v["byte_exact"]
    and v["name"] not in golden.NOT_LISTED
    and ("pixels" in v["content"] or v["type"] != "IMAGE")
]


def wire_of(v: dict[str, Any]) -> bytes:
    return (VECTORS / v["file"]).read_bytes()


def test_the_set_is_complete() -> None:
    assert len(ALL) == 361
    assert len({v["type"] for v in ALL}) == 83


@pytest.mark.parametrize("v", ALL, ids=IDS)
def test_decodes_to_the_manifest(v: dict[str, Any]) -> None:
    m = igtl.unpack(wire_of(v))
    assert m.type_name == v["type"]
    assert m.header_version == v["header_version"]
    assert m.device_name == v["device_name"]
    assert m.timestamp_raw == v["timestamp"]["sec"] << 32 | v["timestamp"]["frac"]
    assert m.message_id == v.get("message_id", 0)
    assert m.crc_ok
    listed = {e["key"]: e for e in v.get("metadata", ())}
    assert set(m.metadata) == set(listed)
    for key, entry in listed.items():
        assert m.metadata.encoding(key) == entry["encoding"]
        assert m.metadata.raw(key).hex() == entry["value_hex"]
        if entry["value"] is not None:
            assert m.metadata[key] == entry["value"]
    skip = golden.GENERATOR_ONLY.get(v["type"], set())
    found = golden.differences(v["content"], golden.content_of(m), skip)
    if v["name"] == golden.UNRECOVERABLE:
        assert isinstance(m, igtl.PolyData)
        real = v["content"]["attributes"][0]["data"]
        first = m.attributes[0].values.reshape(-1)[: len(real)]
        assert (first == golden.floats(real)).all()
        return
    assert not found


@pytest.mark.parametrize("v", ALL, ids=IDS)
def test_untouched_packs_to_the_bytes_it_came_from(v: dict[str, Any]) -> None:
    wire = wire_of(v)
    assert igtl.unpack(wire).pack() == wire
    assert b"".join(igtl.unpack(wire).pack_parts()) == wire
    buffer = bytearray(len(wire) + 3)
    assert igtl.unpack(wire).pack_into(buffer) == len(wire)
    assert buffer == wire + b"\0\0\0"


def test_what_the_manifest_lists_whole() -> None:
    assert len(LISTED) == 342


@pytest.mark.parametrize("v", LISTED, ids=[v["name"] for v in LISTED])
def test_built_from_values_alone(v: dict[str, Any]) -> None:
    assert golden.build(v).pack(version=v["header_version"]) == wire_of(v)


@pytest.mark.parametrize("v", ALL, ids=IDS)
def test_to_dict_is_json(v: dict[str, Any]) -> None:
    m = igtl.unpack(wire_of(v))
    for arrays in (False, True):
        d = json.loads(json.dumps(m.to_dict(arrays=arrays)))
        assert d["type"] == v["type"]
    assert type(m).__name__ in repr(m)
    assert "<table" in m._repr_html_()


# ---- 3D Slicer's network code -----------------------------------------------------------------

MEANT = manifest(SLICER)


@pytest.mark.parametrize("v", MEANT, ids=[v["name"] for v in MEANT])
def test_means_what_slicer_meant(v: dict[str, Any]) -> None:
    m = igtl.unpack((SLICER / v["file"]).read_bytes())
    means = v["meaning"]
    assert m.timestamp is None
    assert m.time_ns is None
    assert m.type_name == v["type"]
    match m:
        case igtl.Image():
            np.testing.assert_allclose(m.ijk_to_world, means["ijk_to_world"], atol=1e-3)
            np.testing.assert_allclose(m.spacing, means["spacing"], rtol=1e-5)
            assert m.size.tolist() == means["size_ijk"]
            assert m.array.reshape(-1).tolist() == means["values_i_fastest"]
            check_samples(m, m.array, means)
        case igtl.Video():
            np.testing.assert_allclose(m.ijk_to_world, means["ijk_to_world"], atol=1e-3)
            assert m.size.tolist() == means["size_ijk"]
            assert (m.codec, len(m.payload)) == ("I420", means["wire"]["payload_bytes"])
            assert m.frame_type == means["wire"]["frame_type"]
        case igtl.Transform():
            np.testing.assert_allclose(m.matrix, means["matrix"], atol=1e-3)
            point = np.array([*means["maps"]["point"], 1])
            np.testing.assert_allclose((m.matrix @ point)[:3], means["maps"]["to"], atol=1e-3)
        case igtl.PolyData():
            np.testing.assert_allclose(
                m.points, np.array(means["points"]).reshape(-1, 3), atol=1e-3
            )
            for kind in ("vertices", "lines", "polygons", "triangle_strips"):
                assert [c.tolist() for c in getattr(m, kind)] == means[kind]
            arrays = means["point_arrays"] + means["cell_arrays"]
            for have, want in zip(m.attributes, arrays, strict=True):
                assert have.name == want["name"]
                np.testing.assert_allclose(have.values, want["data"], atol=1e-3)
        case igtl.Points():
            for have, want in zip(m.points, means["points"], strict=True):
                assert have.name == want["label"]
                assert have.group == want["group"]
                assert have.color.tolist() == want["rgba"]
                assert bool(have.color[3]) == want["visible"]
                np.testing.assert_allclose(have.position, want["position"], atol=1e-3)
        case igtl.TrackingData():
            for row, (have, want) in enumerate(zip(m.tools, means["tools"], strict=True)):
                assert (have.name, have.type) == (want["name"], want["type"])
                assert m.metadata.get_int(want["full_name"] + "Index") == row
                np.testing.assert_allclose(have.matrix, want["matrix"], atol=1e-3)
        case igtl.String():
            assert (m.string, m.encoding) == (means["text"], means["encoding_field"])
        case igtl.Status():
            assert (m.code, m.error_name, m.message) == (
                means["code"], means["error_name"], means["message"]
            )  # fmt: skip
            assert m.subcode == means["subcode_on_wire"]
        case igtl.Command() | igtl.CommandReply():
            assert (m.command_id, m.name, m.text) == (
                means["id"], means["command_name"], means["text"]
            )  # fmt: skip
            assert m.metadata["Status"] == "SUCCESS"
        case igtl.GetImage() | igtl.StartTrackingData() | igtl.StopTrackingData():
            assert m.device_name == means["asks_for"]
        case _:
            pytest.fail(f"no check for {type(m).__name__}")


def check_samples(m: igtl.Image, array: Any, means: dict[str, Any]) -> None:
    assert means["samples"]
    for sample in means["samples"]:
        i, j, k = sample["ijk"]
        assert np.atleast_1d(array[k, j, i]).tolist() == list(np.atleast_1d(sample["value"]))
        world = m.ijk_to_world @ [i, j, k, 1]
        np.testing.assert_allclose(world[:3], sample["world"], atol=1e-3)
