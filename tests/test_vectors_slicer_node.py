"""15 messages of 3D Slicer's connector node: what they mean, and back to their bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.session.requests import Exchange
from tests.conftest import VECTORS, manifest

NODE = VECTORS / "slicer-node"
ALL = manifest(NODE)


def wire_of(v: dict[str, Any]) -> bytes:
    return (NODE / v["file"]).read_bytes()


def test_the_set_is_complete() -> None:
    assert len(ALL) == 15


@pytest.mark.parametrize("v", ALL, ids=[v["name"] for v in ALL])
def test_as_slicer_wrote_it(v: dict[str, Any]) -> None:
    wire = wire_of(v)
    assert hashlib.sha256(wire).hexdigest() == v["sha256"]
    m = igtl.unpack(wire)
    assert (m.type_name, m.header_version, m.device_name, m.message_id) == (
        v["type"], v["header_version"], v["device_name"], v["message_id"],
    )  # fmt: skip
    assert dict(m.metadata) == v["metadata"]
    assert m.timestamp is None
    assert m.pack() == wire
    _check(m, v["meaning"])


def _check(m: igtl.Message, means: dict[str, Any]) -> None:
    match m:
        case igtl.Image():
            assert m.size.tolist() == means["size_ijk"]
            assert (m.array.dtype, m.components) == (means["scalar"], means["components"])
            np.testing.assert_allclose(m.ijk_to_world, means["ijk_to_world"], atol=1e-5)
            assert m.array.reshape(-1).tolist() == means["values_i_fastest"]
        case igtl.Video():
            assert (m.codec, m.size.tolist()) == (means["codec"], means["size"])
            assert (m.kind == igtl.FrameType.KEY) == means["key_frame"]
            np.testing.assert_allclose(m.ijk_to_world, means["ijk_to_world"], atol=1e-5)
        case igtl.Transform():
            np.testing.assert_allclose(m.matrix, means["matrix"])
            assert m.metadata["TransformStatus"] == means["transform_status"]
        case igtl.Points():
            for have, want in zip(m.points, means["points"], strict=True):
                assert (have.name, have.position.tolist()) == (want["label"], want["position"])
                assert have.color[:3].tolist() == want["color"]
                assert (have.group != "Unselected") == want["selected"]
                assert (have.color[3] > 0) == want["visible"]
        case igtl.PolyData():
            np.testing.assert_allclose(m.points, means["points"])
            assert [c.tolist() for c in m.polygons] == means["polygons"]
        case igtl.String():
            assert m.string == means["text"]
        case igtl.Command():
            assert (m.command_id, m.name, m.text) == (
                means["command_id"], means["name"], means["text"]
            )  # fmt: skip
        case igtl.CommandReply():
            exchange = Exchange(igtl.Command(means["command_id"], means["name"]))
            assert exchange.matches(m)
            if means["succeeded"]:
                assert exchange.result(m).text == means["text"]
            else:
                with pytest.raises(igtl.CommandFailed, match=means["error"]):
                    exchange.result(m)
        case igtl.GetImage() | igtl.StartTrackingData():
            assert (m.type_name, m.device_name) == (means["asks"], means["device_name"])
        case igtl.Status():
            assert means == {"hello": True}
        case _:
            pytest.fail(f"no check for {type(m).__name__}")


def test_the_video_shows_what_was_filmed() -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    decoder = igtl.VideoDecoder()
    x, y = np.arange(64), np.arange(48)[:, np.newaxis]
    for frame in range(3):
        v = ALL[frame]
        shown = decoder.decode(igtl.unpack(wire_of(v)))
        filmed = np.zeros((48, 64, 3))
        filmed[..., 0], filmed[..., 1] = x * 255 // 64, y * 255 // 48
        filmed[..., 2] = np.where((x // 16 + frame) % 2, 200, 40)
        assert shown is not None
        error = np.mean((np.asarray(shown, float).reshape(filmed.shape) - filmed) ** 2)
        found = 10 * np.log10(255**2 / error)
        assert found > v["meaning"]["psnr_at_least_dB"]
