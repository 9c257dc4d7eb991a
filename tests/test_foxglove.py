"""Files for Foxglove, read by mcap and protobuf, and the live server, as Foxglove connects to it."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl import Frame, Recorder
from igtl.cli import main

pytest.importorskip("foxglove")
pytest.importorskip("simplejpeg")
pytest.importorskip("mcap_protobuf")
websockets = pytest.importorskip("websockets")

MATRIX = igtl.Pose.of((0.1, -0.2, 0.3, 0.9), (10, -20, 30.5)).matrix
GREY = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8)


def messages() -> list[igtl.Message]:
    """One of each that Foxglove knows, and a volume, which it does not."""
    cube = [[0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0]]
    return [
        igtl.Transform(MATRIX, device_name="ProbeToReference"),
        igtl.TrackingData([igtl.Tool("AToB", matrix=np.eye(4))], device_name="Tracker"),
        igtl.Image.from_frame(GREY, device_name="Image_Reference"),
        igtl.Image.from_frame(GREY.astype(np.uint16), device_name="Deep"),
        igtl.Points(
            [igtl.Point("Nasion", position=(1, 2, 3), color=(255, 0, 0, 255), diameter=4)],
            device_name="Plan",
        ),
        igtl.Trajectories(
            [igtl.Trajectory("T", entry=(0, 0, 0), target=(0, 0, 50))], device_name="Way"
        ),
        igtl.PolyData(cube, polygons=[[0, 1, 2, 3]], lines=[[0, 1]], device_name="Skin"),
        igtl.Sensor([1, np.nan, 3], "N", device_name="arm/force"),
        igtl.Status(4, 0, "NotFound", "no tool", device_name="Tracker"),
        igtl.String("hello", device_name="Note"),
        igtl.Image.from_volume(np.zeros((3, 4, 5), np.uint8), device_name="CT"),
    ]


def decoded(path: Path) -> dict[str, list[Any]]:
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    found: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for schema, channel, message in reader.iter_messages():
            assert schema is not None
            if channel.message_encoding == "json":
                assert schema.encoding == "jsonschema"
                found.setdefault(channel.topic, []).append(json.loads(message.data))
        protobuf = [c.topic for c in reader.get_summary().channels.values()  # type: ignore[union-attr]
                    if c.message_encoding == "protobuf"]  # fmt: skip
        for each in reader.iter_decoded_messages(topics=protobuf):
            found.setdefault(each.channel.topic, []).append(each.decoded_message)
    return found


def test_a_file(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n, message in enumerate(messages()):
            message.timestamp = 1_600_000_000 + n
            recorder.write(message, received=1_700_000_000 + n)
        wire = bytearray(igtl.Transform(np.eye(4)).pack())
        wire[-1] ^= 1
        recorder.write(Frame.from_bytes(bytes(wire)))
    with pytest.warns(igtl.FileWarning, match="no message for IMAGE 'CT'.*1 messages.*damaged"):
        igtl.export(tmp_path / "a.mcap", tmp_path / "a.foxglove.mcap")
    found = decoded(tmp_path / "a.foxglove.mcap")
    moved = {(t.parent_frame_id, t.child_frame_id): t for m in found["/tf"] for t in m.transforms}
    assert set(moved) == {
        ("Reference", "Probe"), ("B", "A"), ("Reference", "Image_Reference"), ("world", "Deep"),
    }  # fmt: skip
    probe = moved["Reference", "Probe"]
    assert probe.timestamp.seconds == 1_600_000_000
    shift, turn = probe.translation, probe.rotation
    np.testing.assert_allclose([shift.x, shift.y, shift.z], [0.01, -0.02, 0.0305], atol=1e-7)
    expected = igtl.Pose(MATRIX).quaternion
    np.testing.assert_allclose([turn.x, turn.y, turn.z, turn.w], expected, atol=1e-6)
    (image,) = found["/Image_Reference"]
    assert (image.encoding, image.width, image.height, image.step) == ("mono8", 32, 24, 32)
    assert image.data == GREY.tobytes()
    assert found["/Deep"][0].encoding == "mono16"
    (entity,) = found["/Plan"][0].entities
    (sphere,), (text,) = entity.spheres, entity.texts
    assert (text.text, sphere.color.r, sphere.size.x) == ("Nasion", 1.0, 0.004)
    assert sphere.pose.position.z == pytest.approx(0.003)
    (line,) = found["/Way"][0].entities[0].lines
    assert [p.z for p in line.points] == pytest.approx([0, 0.05])
    (mesh,) = found["/Skin"][0].entities[0].triangles
    assert len(mesh.points) == 4
    assert sorted(mesh.indices) == [0, 0, 1, 2, 2, 3]
    assert mesh.points[2].y == pytest.approx(0.01)
    assert found["/arm/force"] == [{"values": [1.0, None, 3.0], "unit": "N"}]
    status, text = found["/log"]
    assert (status.name, status.level, text.level) == ("Tracker", 4, 2)
    assert "no tool" in status.message
    assert text.message == "hello"
    assert "/CT" not in found


async def received(port: int, topic: str) -> tuple[dict[str, Any], bytes]:
    """As Foxglove: the channel with this topic, and one message of it."""
    protocols = ["foxglove.sdk.v1"]
    async with websockets.connect(f"ws://127.0.0.1:{port}", subprotocols=protocols) as socket:
        assert socket.subprotocol == "foxglove.sdk.v1"
        channel: dict[str, Any] = {}
        while True:
            data = await asyncio.wait_for(socket.recv(), 20)
            if isinstance(data, bytes):
                if data[0] == 1:  # message data: subscription, log time, payload
                    number, _ = struct.unpack_from("<IQ", data, 1)
                    assert number == 7
                    return channel, data[13:]
                continue
            told = json.loads(data)
            if told["op"] == "advertise":
                for each in told["channels"]:
                    if each["topic"] == topic:
                        channel = each
                        wanted = [{"id": 7, "channelId": each["id"]}]
                        asked = {"op": "subscribe", "subscriptions": wanted}
                        await socket.send(json.dumps(asked))


def protobuf(channel: dict[str, Any], data: bytes) -> Any:
    """A message by the schema that the server announced."""
    from base64 import b64decode

    from mcap.records import Schema
    from mcap_protobuf.decoder import DecoderFactory

    assert channel["encoding"] == "protobuf"
    schema = Schema(1, b64decode(channel["schema"]), "protobuf", channel["schemaName"])
    decoder = DecoderFactory().decoder_for("protobuf", schema)
    assert decoder is not None
    return decoder(data)


async def while_sent(server: igtl.foxglove.Server, message: igtl.Message, topic: str) -> Any:
    """What a client gets while a message is shown again and again."""
    ended = asyncio.Event()

    async def send() -> None:
        while not ended.is_set():
            server.show(message)
            await asyncio.sleep(0.02)

    sending = asyncio.create_task(send())
    try:
        return await received(server.port, topic)
    finally:
        ended.set()
        await sending


def test_live() -> None:
    with igtl.foxglove.Server(port=0) as server:
        assert (server.host, server.url) == ("127.0.0.1", f"ws://localhost:{server.port}")
        found = protobuf(*asyncio.run(while_sent(server, messages()[0], "/tf")))
        assert found.transforms[0].child_frame_id == "Probe"
        picture = messages()[2]
        found = protobuf(*asyncio.run(while_sent(server, picture, "/Image_Reference")))
        assert found.format == "jpeg"
        import simplejpeg

        shown = simplejpeg.decode_jpeg(found.data, "GRAY")[..., 0]
        assert np.abs(shown.astype(int) - GREY).max() < 16
        server.show(messages()[-1])
        assert server.left_out == 1
        assert server.shown > 0
        server.show(igtl.Compressed(9, 1, "IMAGE", 10, b"", device_name="X"))
        assert server.bad == 1
        with pytest.raises(OSError, match=str(server.port)):
            igtl.foxglove.Server(port=server.port)


@pytest.mark.processes
def test_command(tmp_path: Path) -> None:
    """`igtl view FILE --foxglove`: played again and again, until a client has seen it."""
    import subprocess
    import sys

    with Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(20):
            message = igtl.Transform(MATRIX, device_name="ProbeToReference", timestamp=1000 + n)
            recorder.write(message, received=1000 + n / 50)
    arguments = [sys.executable, "-m", "igtl", "view", str(tmp_path / "a.mcap"), "--loop",
                 "--foxglove", "0"]  # fmt: skip
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            url = child.stdout.readline().strip()
            found = protobuf(*asyncio.run(received(int(url.rpartition(":")[2]), "/tf")))
        finally:
            child.terminate()
    (moved,) = found.transforms
    assert moved.parent_frame_id == "Reference"
    assert abs(moved.timestamp.seconds - time.time()) < 100  # moved to now
    result = CliRunner().invoke(main, ["view", "--foxglove", "70000"])
    assert result.exit_code == 2
