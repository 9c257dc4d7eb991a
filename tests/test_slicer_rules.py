"""`igtl.slicer.check`: what 3D Slicer cannot take."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.peers.slicer import SlicerRefuses, check

OK = {"Status": "OK"}


def named(message: igtl.Message) -> igtl.Message:
    message.device_name = "N"
    return message


def image(dtype: Any = np.int16, shape: Any = (2, 3, 4), **given: Any) -> igtl.Image:
    return igtl.Image(np.zeros(shape, dtype), device_name="N", **given)


def part_of(whole: igtl.Image) -> igtl.Image:
    whole.size = (4, 3, 20)
    return whole


def flat() -> igtl.Image:
    found = image()
    found.matrix[:3, 2] = 0
    return found


TRIANGLE = {"points": np.eye(3), "polygons": [[0, 1, 2]], "device_name": "N"}
REFUSED: dict[str, tuple[igtl.Message, str]] = {
    "int32": (image(np.int32), "int16, uint16 or float32"),
    "uint32": (image(np.uint32), "arrive wrong"),
    "a part in colour": (part_of(image(np.uint8, (2, 3, 4, 3))), "whole image"),
    "an axis without length": (flat(), "size"),
    "no name": (igtl.Transform(np.eye(4)), "device name"),
    "STATUS without a name": (igtl.Status.ok(), "crashes"),
    "vertices": (igtl.PolyData(np.eye(3), vertices=[[0]], device_name="N"), "as Points"),
    "values of cells": (
        igtl.PolyData(**TRIANGLE, attributes=[igtl.Attribute("a", [1.0], 0x10)]), "values of points"
    ),
    "an empty list": (igtl.Points([], device_name="N"), "nothing is cleared"),
    "a text in Latin-1": (igtl.String("Öl", encoding=4, device_name="N"), "encoding=3"),
    "a text as igtl sends it": (igtl.String("Öl", device_name="N"), "encoding=3"),
    "a NUL": (igtl.String("a\0b", encoding=3, device_name="N"), "without NUL"),
    "a tool of 20 bytes": (
        igtl.TrackingData([igtl.Tool("T" * 20)], device_name="N"), "at most 19 bytes"
    ),
    "two tools of a name": (
        igtl.TrackingData([igtl.Tool("T"), igtl.Tool("T")], device_name="N"), "only the first"
    ),
    "I420": (igtl.Video(b"x", "I420", (2, 2, 1), device_name="N"), "VP90"),
    "H264": (igtl.Video(b"x", "H264", (2, 2, 1), device_name="N"), "empty picture"),
    "metadata of VIDEO": (
        igtl.Video(b"x", "VP90", (2, 2, 1), device_name="N", metadata=OK), "picture data"
    ),
    "a reply without Status": (igtl.CommandReply(1, "Go", "<x/>"), "for a failure"),
    "GET_IMAGE": (igtl.GetImage(device_name="N"), "serves no requests, and crashes"),
    "GET_TRANS": (igtl.GetTransform(device_name="N"), "serves no requests, and ignores"),
    "STT_TDATA": (igtl.StartTrackingData(device_name="N"), "crashes"),
    "RTS_IMAGE": (named(igtl.message_types()["RTS_IMAGE"](1)), "STATUS"),
    "a type of one's own": (igtl.Unknown("X_IMAGE", b"", device_name="N"), "another name"),
    "POSITION": (igtl.Position((0, 0, 0), device_name="N"), "send a TRANSFORM"),
    "SENSOR": (igtl.Sensor([1.0], device_name="N"), "send a STRING"),
    "CAPABILITY": (igtl.Capability(["IMAGE"], device_name="N"), "send one of"),
    "64 KiB of metadata": (
        igtl.Transform(np.eye(4), device_name="N", metadata={"k": "x" * 70_000}), "below 65536"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    message, text = REFUSED[what]
    with pytest.raises(SlicerRefuses) as caught:
        check(message)
    error = caught.value
    assert text in f"{error.reason}; {error.remedy}"
    assert str(error).startswith(f"{type(message).__name__}.{error.field}: ")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.remedy) == (str(error), error.remedy)


TAKEN = {
    "a volume": image(),
    "float64": image(np.float64),
    "a grey part": part_of(image()),
    "a transform": igtl.Transform(np.eye(4), device_name="N", metadata=OK),
    "a mesh": igtl.PolyData(**TRIANGLE),
    "an empty list": igtl.Points([], device_name="N", metadata=OK),
    "a text": igtl.String("Öl".encode(), encoding=3, device_name="N"),
    "tools": igtl.TrackingData([igtl.Tool("T" * 19)], device_name="N"),
    "video": igtl.Video(b"x", "VP90", (2, 2, 1), device_name="N"),
    "a command": igtl.Command(1, "Go"),
    "a reply": igtl.CommandReply(1, "Go", metadata=OK),
    "RTS_TDATA": named(igtl.message_types()["RTS_TDATA"](0)),
    "STATUS": igtl.Status.ok(device_name="N"),
}


@pytest.mark.parametrize("what", TAKEN)
def test_taken(what: str) -> None:
    check(TAKEN[what])


def test_two_gib_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without two GiB: the size is what its parts have."""
    huge = image()
    monkeypatch.setattr(
        igtl.Image,
        "pack_parts",
        lambda self, crc=True: [np.broadcast_to(np.uint8(0), 1 << 31).data],
    )
    with pytest.raises(SlicerRefuses, match="2 GiB"):
        check(huge)
