"""Samples of the same instant put together, and poses put between others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

import igtl
from igtl.geometry import slerp
from igtl.session.pairing import Method, Pairing, interpolated
from igtl.session.requests import Selection

STREAMS = [Selection(igtl.Status, "image"), Selection(igtl.Transform, "probe")]


def image(t: float) -> igtl.Status:
    return igtl.Status.ok(device_name="image", timestamp=t)


def pose(t: float, angle: float = 0.0, x: float = 0.0, name: str = "probe") -> igtl.Transform:
    m = np.eye(4)
    m[:3, :3] = Rotation.from_euler("xyz", [angle, 0.3, -0.2]).as_matrix()
    m[0, 3] = x
    return igtl.Transform(m, device_name=name, timestamp=t)


def results(pairing: Pairing, now: float) -> list[Any]:
    out = []
    while (found := pairing.next(now)) is not None:
        out.append(tuple(round(m.timestamp or 0, 4) for m in found))
    return out


def make(tolerance: float = 0.01, method: Method = "nearest") -> Pairing:
    return Pairing(STREAMS, tolerance, method)


def test_nearest_of_before_and_after() -> None:
    p = make()
    for t in (1000.000, 1000.008, 1000.016):
        p.add(pose(t), 0)
    for t in (1000.001, 1000.009, 1000.0135):
        p.add(image(t), 0)
    assert results(p, 0) == [(1000.001, 1000.0), (1000.009, 1000.008), (1000.0135, 1000.016)]
    assert p.unmatched == {}


def test_waits_for_the_later_sample_but_not_longer_than_the_tolerance() -> None:
    p = make()
    p.add(pose(1000.0), 50.0)
    p.add(image(1000.004), 50.0)
    assert p.next(50.0) is None  # one nearer may come
    assert p.due() == pytest.approx(50.01)
    p.add(pose(1000.005), 50.002)
    assert results(p, 50.002) == [(1000.004, 1000.005)]
    p.add(image(1000.006), 50.1)
    assert p.next(50.105) is None
    assert results(p, 50.111) == [(1000.006, 1000.005)]  # none came


def test_the_tolerance_itself_still_counts() -> None:
    """Times that binary numbers hold exactly."""
    for distance, partner in ((0.25, 1000.0), (0.2578125, None)):
        for sign in (-1, 1):
            p = make(tolerance=0.25)
            p.add(pose(1000.0), 0)
            p.add(pose(1002.0), 0)
            p.add(image(1000.0 + sign * distance), 0)
            expected = [] if partner is None else [(1000.0 + sign * distance, partner)]
            assert results(p, 0) == expected
    p = make(tolerance=0.25)
    p.add(pose(1000.0), 8.0)
    p.add(image(1000.125), 8.0)
    assert p.due() == 8.25
    assert p.next(8.2421875) is None
    assert results(p, 8.25) == [(1000.125, 1000.0)]  # the moment that `due` has named


def test_a_sample_is_kept_for_as_long_as_it_can_be_a_partner() -> None:
    p = make(tolerance=0.25)
    p.add(pose(1000.0), 0)
    p.add(pose(1002.0), 0)
    p.add(image(1000.25), 0)
    p.add(image(1000.25), 0)
    assert results(p, 0) == [(1000.25, 1000.0)] * 2


def test_without_a_partner_it_is_counted() -> None:
    p = make()
    p.add(image(1000.0), 1.0)
    p.add(pose(1000.5), 1.0)
    assert p.next(1.0) is None
    assert p.unmatched == {"Status 'image'": 1}
    for k in range(1, 100):
        p.add(pose(1001 + k), 2.0)
    p.add(image(1200), 3.0)
    assert p.next(3.02) is None
    assert p.unmatched == {"Status 'image'": 2, "Transform 'probe'": 100}


def test_kept_samples_are_bounded() -> None:
    p = make()
    for k in range(5000):
        p.add(pose(1000 + k), 0)
    assert p.unmatched == {"Transform 'probe'": 4000}
    for k in range(5000):
        p.add(image(10_000 + k), 0)
    assert p.unmatched["Status 'image'"] == 4000


def test_stamp_of_zero_counts_as_arrival() -> None:
    p = make()
    t, m = pose(0), image(0)
    assert t.timestamp is None
    t.received, m.received = 1000.001, 1000.004
    p.add(t, 0)
    p.add(m, 0)
    assert p.next(1) == (m, t)


def test_three_streams() -> None:
    p = Pairing([*STREAMS, Selection(igtl.Transform, "needle*")], 0.01)
    for name in ("probe", "needle1"):
        p.add(pose(1000.002, name=name), 0)
    p.add(image(1000.002), 0)
    p.add(image(1000.02), 0)
    p.add(pose(1000.02), 0)
    assert results(p, 1) == [(1000.002, 1000.002, 1000.002)]
    assert p.unmatched["Status 'image'"] == 1  # the needle was missing


def test_interpolation() -> None:
    p = make(method="interpolate")
    p.add(pose(1000.000, 0.2, 10), 0)
    p.add(pose(1000.008, 0.6, 20), 0)
    p.add(image(1000.002), 0)
    found = p.next(0)
    assert found is not None
    between = found[1]
    assert isinstance(between, igtl.Transform)
    assert between.timestamp == pytest.approx(1000.002)
    np.testing.assert_allclose(between.position, [12.5, 0, 0], atol=1e-3)
    keys = Rotation.from_matrix([pose(0, a).matrix[:3, :3] for a in (0.2, 0.6)])
    expected = Slerp([0, 8], keys)([2]).as_matrix()[0]
    np.testing.assert_allclose(between.matrix[:3, :3], expected, atol=1e-6)
    # at the edge, or beside others: the nearest as it is
    p.add(image(1000.0101), 1)
    assert results(p, 2) == [(1000.0101, 1000.008)]


def test_what_is_no_pose_is_not_interpolated() -> None:
    stretched = pose(0)
    stretched.matrix[0, 0] *= 2
    mirrored = igtl.Transform(np.diag([1, 1, -1, 1]))
    for wrong in (stretched, mirrored, igtl.Status.ok(), igtl.Transform(np.full((3, 4), np.nan))):
        assert interpolated(pose(0), wrong, 0.5) is None
        assert interpolated(wrong, pose(0), 0.5) is None


def test_slerp_against_scipy() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        a, b = Rotation.random(2, random_state=rng.integers(1 << 30))
        share = float(rng.random())
        got = slerp(a.as_quat(), b.as_quat(), share)
        want = Slerp([0, 1], Rotation.concatenate([a, b]))(share).as_quat()
        assert abs(np.dot(got, want)) == pytest.approx(1, abs=1e-9)
    q = np.array([0, 0, 0, 1.0])
    np.testing.assert_allclose(slerp(q, -q, 0.5), q)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="two"):
        Pairing(STREAMS[:1], 0.1)
    for tolerance in (-1, float("nan")):
        with pytest.raises(ValueError, match="tolerance"):
            Pairing(STREAMS, tolerance)
    with pytest.raises(ValueError, match="method"):
        Pairing(STREAMS, 0.1, "cubic")  # type: ignore[arg-type]
