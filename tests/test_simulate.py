"""The simulated devices: the same for the same seed and time, and true to what they claim."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import simulate
from igtl.simulate import (
    ForceSensor,
    InertialSensor,
    RobotArm,
    Tracker,
    Ultrasound,
    head_phantom,
    pose,
)  # fmt: skip

TIMES = np.arange(0, 40, 0.04)


def test_everything_depends_on_time_and_seed_alone() -> None:
    for seconds in (0.0, 1.25, 7.008):
        for make in (
            lambda s, seed: Tracker(noise=0.2, noise_degrees=0.1, seed=seed).tracking_data(s),
            lambda s, seed: ForceSensor(seed=seed).sensor(s),
            lambda s, seed: InertialSensor(seed=seed).acceleration(s),
            lambda s, seed: InertialSensor(seed=seed).rate(s),
        ):
            a, b, other = make(seconds, 1), make(seconds, 1), make(seconds, 2)
            for m in (a, b, other):
                m.timestamp = 0
            assert a == b != other
    np.testing.assert_array_equal(Ultrasound().frame(2.5), Ultrasound().frame(2.5))
    assert Ultrasound().frame(2.5).max() > 20
    assert (Ultrasound().frame(2.5) != Ultrasound().frame(3.5)).any()
    one, two = (head_phantom(8, 64, noise=10, seed=3).array for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_noise_of_the_tracker_is_what_was_asked_for() -> None:
    tracker = Tracker(noise=0.25, noise_degrees=0.5, seed=4)
    apart = []
    turned = []
    for s in TIMES:
        true, found = igtl.Pose(pose(s)), igtl.Pose(tracker.pose(s))
        apart.append(found.translation - true.translation)
        turned.append(true.distance(found)[1])
    assert np.std(apart) == pytest.approx(0.25, rel=0.05)
    assert np.sqrt(np.mean(np.square(turned))) == pytest.approx(0.5 * np.sqrt(3), rel=0.05)
    np.testing.assert_array_equal(Tracker().pose(1.5, 2), pose(1.5, 2))


def test_drop_outs_and_statuses() -> None:
    tracker = Tracker(dropout=0.3, statuses=True, seed=5)
    missing = 0
    for s in TIMES:
        m = tracker.tracking_data(s)
        assert isinstance(igtl.unpack(m.pack(version=2)), igtl.TrackingData)
        for k, name in enumerate(tracker.names):
            there = tracker.sees(s, k)
            missing += not there
            assert (name in m.tools.names) == there
            assert m.metadata[f"{name}Status"] == ("OK" if there else "MISSING")
        assert tracker.transform(s).metadata["TransformStatus"] == (
            "OK" if tracker.sees(s) else "MISSING"
        )
    assert missing / (3 * len(TIMES)) == pytest.approx(0.3, abs=0.1)
    # out of sight for half a second, not for a sample
    changes = sum(tracker.sees(a) != tracker.sees(b) for a, b in itertools.pairwise(TIMES))
    assert 0 < changes < 80
    assert Tracker(["AToB"]).transform(0).device_name == "AToB"
    assert not Tracker().tracking_data(0).metadata


def test_the_inertial_sensor_feels_the_path_of_its_tool() -> None:
    """Integrated, its rates turn the tool as the tracker shows it; at rest it would feel g."""
    sensor = InertialSensor(noise=0, noise_rate=0)
    step, turn = 2e-3, igtl.Pose(pose(3.0))
    for n in range(500):
        w = sensor.rate(3.0 + (n + 0.5) * step).values * step
        turn = turn @ igtl.Pose.of((*(w / 2), 1.0))
    assert igtl.Pose(pose(4.0)).distance(turn)[1] < 0.05  # degrees, after a second
    velocity = (pose(3 + 1e-4)[:3, 3] - pose(3 - 1e-4)[:3, 3]) / 2e-4
    for n in range(500):
        s = 3.0 + (n + 0.5) * step
        felt = igtl.Pose(pose(s)).rotation @ sensor.acceleration(s).values
        velocity = velocity + (felt - (0, 0, 9.81)) * 1e3 * step
    expected = (pose(4 + 1e-4)[:3, 3] - pose(4 - 1e-4)[:3, 3]) / 2e-4
    np.testing.assert_allclose(velocity, expected, atol=0.5)  # mm/s
    assert str(sensor.rate(0).unit) == "rad/s"
    assert str(sensor.acceleration(0).unit) == "m/s^2"


def test_forces() -> None:
    forces = np.array([ForceSensor(noise=0).sensor(s).values for s in TIMES])
    assert forces[:, 2].min() == pytest.approx(-5, abs=0.01)
    assert (forces[:, 2] == 0).mean() > 0.3  # not pressed
    assert str(ForceSensor().sensor(0).unit) == "N"


def test_the_robot_moves_smoothly_and_rigidly() -> None:
    arm = RobotArm()
    places = np.array([arm.measured(s).matrix[:3, 3] for s in np.arange(0, 2, 1e-3)])
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 2  # mm in a millisecond
    for s in (0, 1, 5.5):
        igtl.Pose(arm.measured(s).matrix)
        js = igtl.unpack(arm.joint_state(s).pack())
        assert isinstance(js, igtl.NDArray)
        np.testing.assert_array_equal(js.array, arm.joints(s))
    straight = arm.forward(np.zeros(6))
    np.testing.assert_allclose(straight[:3, 3], [400, 0, 400 - 350 - 80], atol=1e-9)


def test_the_phantom() -> None:
    ct = head_phantom(20, 128)
    assert ct.array.shape == (20, 128, 128)
    assert set(np.unique(ct.array)) == {-1000, -950, 8, 35, 40, 900}
    noisy = head_phantom(20, 128, noise=10).array
    body = ct.array == 35
    assert noisy[body].std() == pytest.approx(10, rel=0.02)
    assert (noisy[ct.array == -1000] == -1000).all()
    wide = (ct.array[10] > -1000).any(axis=0).sum() * ct.spacing[0]
    assert wide == pytest.approx(240, rel=0.05)
    assert ct.spacing[2] * 20 == pytest.approx(200)


# ---- ultrasound -------------------------------------------------------------------------------


def test_the_needle_is_in_the_picture_where_its_pose_says() -> None:
    scanner = Ultrasound()
    bright = []
    for s in np.arange(0, 16, 0.37):
        column, row = scanner.tip(s)
        image, needle = scanner.image(s), scanner.needle(s)
        assert needle.device_name == "NeedleToReference"
        place = (image.ijk_to_world @ [column, row, 0, 1])[:3]
        np.testing.assert_allclose(needle.matrix[:3, 3], place, atol=1e-3)
        rotation = needle.matrix[:3, :3].astype(float)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(rotation) == pytest.approx(1)
        # its axis runs along the needle: a millimetre back from the tip is bright, ahead is not
        back, ahead = (
            (np.linalg.inv(image.ijk_to_world) @ needle.matrix @ [0, 0, z, 1])[:2] for z in (-3, 3)
        )
        picture = image.array[0].astype(float)

        def around(at: Any, picture: Any = picture) -> float:
            x, y = np.rint(at).astype(int)
            return float(picture[y - 1 : y + 2, x - 1 : x + 2].mean())

        bright.append((around(back), around((column, row)), around(ahead)))
    behind, at_tip, before = np.array(bright).T
    assert (at_tip > 150).mean() > 0.9
    assert (behind > before).mean() > 0.9
    tips = np.array([scanner.tip(s) for s in np.arange(0, 16, 0.1)])
    assert np.ptp(tips[:, 0]) > 80  # it moves


def test_speckle_depends_on_the_seed() -> None:
    a, b = Ultrasound(seed=1).frame(0), Ultrasound(seed=2).frame(0)
    assert (a != b).mean() > 0.3
    assert np.corrcoef(a[60:120, 100:220].ravel(), b[60:120, 100:220].ravel())[0, 1] < 0.9


# ---- behind a server --------------------------------------------------------------------------


def test_a_simulator_serves_all_that_it_says() -> None:
    with simulate.serve(*simulate.DEVICES, port=0, version=2) as simulator:
        with igtl.connect(port=simulator.port, version=2, read_timeout=10) as link:
            wanted = {tuple(name.split(" ")) for name in simulator.sent} | {("IMAGE", "CT")}
            seen: dict[Any, list[igtl.Message]] = {}
            while wanted - seen.keys() or len(seen["TRANSFORM", "arm/measured_cp"]) < 300:
                m = link.recv()
                seen.setdefault((m.type_name, m.device_name), []).append(m)
            assert seen.keys() == wanted
            for stream, messages in seen.items():
                ids = [m.message_id for m in messages]
                if stream != ("IMAGE", "CT"):
                    assert ids == list(range(ids[0], ids[0] + len(ids)))
            ct = seen["IMAGE", "CT"][0]
            assert isinstance(ct, igtl.Image)
            assert ct.array.shape == (60, 256, 256)
            assert link.query(igtl.GetImage(device_name="CT")) == ct
            assert isinstance(link.query(igtl.GetImage(device_name="Image_Reference")), igtl.Image)
            assert isinstance(link.query(igtl.GetImage(device_name="MRI")), igtl.NoData)
            pose = link.query(igtl.GetTransform(device_name="StylusToTracker"))
            assert isinstance(pose, igtl.Transform)
            assert isinstance(link.query(igtl.GetTransform(device_name="X")), igtl.NoData)
            assert isinstance(link.query(igtl.GetTrackingData()), igtl.TrackingData)
            assert link.command("Freeze", "<on/>").text == "<on/>"
            with link.stream(igtl.StartTrackingData(resolution_ms=10)) as frames:
                assert [len(next(frames).tools) for _ in range(5)] == [3] * 5
    end = time.monotonic() + 10  # the thread of a stream ends with its next message
    while left := [t for t in threading.enumerate() if t.name.startswith("igtl")]:
        assert time.monotonic() < end, left
        time.sleep(0.01)


def test_statuses_are_for_those_who_read_them() -> None:
    with simulate.serve("tracker", port=0, statuses=True) as simulator:
        for version in (1, 2):
            with igtl.connect(port=simulator.port, version=version, hello=version == 2) as link:  # type: ignore[arg-type]
                if version == 2:
                    while not any(p.header_version == 2 for p in simulator.server.clients):
                        link.recv(timeout=5)
                for request in (igtl.GetTransform(), igtl.GetTrackingData()):
                    answer = link.query(request, timeout=5)
                    assert not isinstance(answer, igtl.NoData)
                    assert bool(answer.metadata) == (version == 2)


def test_the_seed_reaches_what_is_asked_for() -> None:
    with simulate.serve("ct", "ultrasound", port=0, seed=3) as simulator:
        with igtl.connect(port=simulator.port, read_timeout=10) as link:
            ct = link.query(igtl.GetImage(device_name="CT"))
            assert isinstance(ct, igtl.Image)
            np.testing.assert_array_equal(ct.array, head_phantom(60, 256, noise=10, seed=3).array)
        # from the provider itself: a query would take the next image of the stream for the answer
        asked = igtl.GetImage(device_name="Image_Reference")
        provider = simulator.server._server._provider_of(asked)
        assert provider is not None
        answer, scanner = provider(asked, None), Ultrasound(seed=3)
        assert any(np.array_equal(answer.array[0], scanner.frame(n / 20)) for n in range(200))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="no device 'scanner'; there are tracker, ultrasound"):
        simulate.serve("scanner", port=0)
    with pytest.raises(ValueError, match="policy"):
        simulate.serve(port=0, policy="hope")


pytest_plugins = ["igtl.testing"]


def test_fixtures(igtl_pipe: Any, igtl_server: igtl.Server) -> None:
    a, b = igtl_pipe
    a.send(igtl.Status.ok(device_name="X"))
    assert b.recv(timeout=5).device_name == "X"
    igtl_server.on(igtl.String)(lambda message, peer: peer.send(message))
    with igtl.connect(port=igtl_server.port) as link:
        link.send(igtl.String("hello"))
        assert link.recv(igtl.String, timeout=5).string == "hello"


def test_fixture_of_the_simulator(igtl_simulator: simulate.Simulator) -> None:
    with igtl.connect(port=igtl_simulator.port) as link:
        link.recv(igtl.Image, "Image_Reference", timeout=5)
        link.recv(igtl.Transform, "ProbeToTracker", timeout=5)


@pytest.mark.parametrize("igtl_simulator", [("force",)], indirect=True)
def test_fixture_of_another_simulator(igtl_simulator: simulate.Simulator) -> None:
    assert list(igtl_simulator.sent) == ["SENSOR Force"]
    with igtl.connect(port=igtl_simulator.port) as link:
        assert len(link.recv(igtl.Sensor, "Force", timeout=5).values) == 3
