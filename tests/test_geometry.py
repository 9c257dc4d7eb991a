"""Poses, frames by name, registration and pivot calibration, against known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

import igtl
from igtl.geometry import (
    CalibrationError,
    NoTransform,
    Pose,
    TransformGraph,
    calibrate_pivot,
    interpolate,
    register,
    slerp,
)  # fmt: skip

RNG = np.random.default_rng(21)


def pose(seed: int, size: float = 100) -> Pose:
    rng = np.random.default_rng(seed)
    return Pose.of(Rotation.random(random_state=seed), rng.normal(0, size, 3))


# ---- poses ------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_poses_compute_as_matrices(a: int, b: int) -> None:
    p, q = pose(a), pose(b)
    np.testing.assert_allclose((p @ q).matrix, p.matrix @ q.matrix, atol=1e-10)
    np.testing.assert_allclose((p @ p.inverse).matrix, np.eye(4), atol=1e-10)
    points = np.arange(12.0).reshape(4, 3)
    np.testing.assert_allclose(p @ (q @ points), (p @ q) @ points, atol=1e-9)
    np.testing.assert_allclose(p @ points[1], (p @ points)[1])
    rotation = Rotation.from_quat(p.quaternion)
    np.testing.assert_allclose(rotation.as_matrix(), p.rotation, atol=1e-12)
    mm, degrees = p.distance(q)
    assert mm == pytest.approx(np.linalg.norm(p.translation - q.translation))
    turn = rotation.inv() * Rotation.from_matrix(q.rotation)
    assert degrees == pytest.approx(np.degrees(turn.magnitude()), abs=1e-6)


def test_forms_of_a_pose() -> None:
    rotation = Rotation.from_euler("xyz", (10, 20, 30), degrees=True)
    t = (1, 2, 3)
    made = Pose.of(rotation, t)
    for other in (Pose.of(rotation.as_quat(), t), Pose.of(-5 * rotation.as_quat(), t),
                  Pose.of(rotation.as_matrix(), t), Pose(made.matrix), Pose(made.matrix[:3])):  # fmt: skip
        np.testing.assert_allclose(other.matrix, made.matrix, atol=1e-12)
    messages = [
        igtl.Transform(made.matrix),
        igtl.Position((1, 2, 3), rotation.as_quat()),
        igtl.TrackingData([igtl.Tool("P", matrix=made.matrix)]).tools[0],
    ]
    for m in messages:
        np.testing.assert_allclose(Pose.from_message(m).matrix, made.matrix, atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        made.matrix[0, 0] = 2
    assert Pose() == Pose(np.eye(4)) != made
    assert "translation=(1, 2, 3) mm" in repr(made)


@pytest.mark.parametrize("wrong", [
    np.diag([2, 1, 1, 1]), np.diag([1.001, 1, 1, 1]), np.diag([-1, 1, 1, 1]), np.full((4, 4), np.nan), np.eye(4) * 2,
    [[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
])  # fmt: skip
def test_what_is_no_pose(wrong: Any) -> None:
    with pytest.raises(ValueError, match="not a rigid pose"):
        Pose(wrong)
    with pytest.raises(ValueError, match="shape"):
        Pose(np.eye(3))
    with pytest.raises(ValueError, match="length 0"):
        Pose.of((0, 0, 0, 0))


def test_rotations_as_trackers_write_them() -> None:
    """Electromagnetic trackers, and files of few decimals, leave axes that are not quite of length 1."""
    exact = Rotation.from_quat([0.1, 0.5, -0.3, 0.8]).as_matrix()
    rough = exact.round(4) * (1 + 7e-5)
    assert 1e-4 < np.abs(rough.T @ rough - np.eye(3)).max() < 3e-4
    found = Pose.of(rough)
    np.testing.assert_allclose(found.rotation, exact, atol=1e-4)
    np.testing.assert_allclose(found.rotation.T @ found.rotation, np.eye(3), atol=1e-12)


# ---- between poses ----------------------------------------------------------------------------


def test_interpolation_is_scipys() -> None:
    n = 20
    times = np.cumsum(RNG.uniform(1, 3, n))
    rotations = Rotation.random(n, random_state=3)
    matrices = np.stack([Pose.of(r, RNG.normal(0, 50, 3)).matrix for r in rotations])
    at = np.linspace(times[0], times[-1], 101)
    found = interpolate(times, matrices, at)
    np.testing.assert_allclose(found[:, :3, :3], Slerp(times, rotations)(at).as_matrix(), atol=1e-9)
    for axis in range(3):
        straight = np.interp(at, times, matrices[:, axis, 3])
        np.testing.assert_allclose(found[:, axis, 3], straight, atol=1e-9)
    np.testing.assert_allclose(interpolate(times, matrices, times), matrices, atol=1e-9)


def test_interpolation_knows_what_it_does_not_know() -> None:
    matrices = np.stack([np.eye(4)] * 3)
    found = interpolate([0, 10, 100], matrices, [-1, 0, 5, 10, 50, 100, 101], max_gap=20)
    known = np.isfinite(found).all(axis=(1, 2))
    assert known.tolist() == [False, True, True, True, False, True, False]
    ns = 1_700_000_000_000_000_000 + np.array([0, 8_333_333])  # as time_ns
    moved = np.stack([np.eye(4), Pose.of(None, (8, 0, 0)).matrix])
    half = interpolate(ns, moved, [ns[0] + 4_166_667])
    assert half[0, 0, 3] == pytest.approx(4, abs=1e-5)
    for times, wrong in (([0, 0, 1], matrices), ([0, 1], matrices), ([0, 1, 2], np.zeros((3, 3)))):
        with pytest.raises(ValueError, match=r"rise|must be"):
            interpolate(times, wrong, [0])


@given(st.integers(0, 1000), st.floats(0, 1))
def test_slerp_of_any_two(seed: int, share: float) -> None:
    p, q = pose(seed).quaternion, pose(seed + 1).quaternion
    middle = slerp(p, q, share)
    assert np.linalg.norm(middle) == pytest.approx(1)
    np.testing.assert_allclose(slerp(p, -q, share), middle, atol=1e-12)  # the shorter way
    np.testing.assert_allclose(slerp(p, p + 1e-9, share), p, atol=1e-8)


# ---- frames -----------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_chain_over_several_links() -> None:
    graph = TransformGraph()
    image, probe, reference = pose(1), pose(2), pose(3)
    graph.set("ImageToProbe", image)
    graph.add(igtl.Transform(probe.matrix, device_name="ProbeToTracker"))
    graph.add(igtl.TrackingData([igtl.Tool("ReferenceToTracker", matrix=reference.matrix)]))
    expected = reference.inverse.matrix @ probe.matrix @ image.matrix
    np.testing.assert_allclose(graph["ImageToReference"], expected, atol=1e-3)
    np.testing.assert_allclose(
        graph["ReferenceToImage"], np.linalg.inv(graph["ImageToReference"]), atol=1e-9
    )
    np.testing.assert_allclose(graph["ImageToProbe"], image.matrix)
    np.testing.assert_allclose(graph["ProbeToProbe"], np.eye(4))
    assert graph.names == ["ImageToProbe", "ProbeToTracker", "ReferenceToTracker"]
    assert graph.problems() == []
    graph.set("ProbeToImage", pose(4))  # the way back takes its place
    np.testing.assert_allclose(graph["ImageToProbe"], pose(4).inverse.matrix)


def test_missing_links() -> None:
    graph = TransformGraph()
    with pytest.raises(NoTransform, match="no link to 'Image'; there are none") as caught:
        graph["ImageToReference"]
    assert caught.value.name == "ImageToReference"
    graph.set("ImageToProbe", pose(1))
    graph.set("StylusToReference", pose(2))
    with pytest.raises(NoTransform, match="'Image' and 'Reference' are not joined"):
        graph["ImageToReference"]
    with pytest.raises(ValueError, match="not of the form XToY"):
        graph["Image"]
    graph.add(igtl.Transform(np.eye(4), device_name="Probe"))  # no link: left out
    graph.add(igtl.Status.ok())
    assert graph.names == ["ImageToProbe", "StylusToReference"]
    with pytest.raises(ValueError, match="not a rigid pose"):
        graph.add(igtl.Transform(np.diag([2, 2, 2, 1]), device_name="AToB"))


def test_stale_links() -> None:
    clock = Clock()
    graph = TransformGraph(max_age=0.5, clock=clock)
    graph.set("ImageToProbe", pose(1), arrived=100.0)
    graph.set("ProbeToTracker", pose(2), arrived=100.0)
    clock.now = 100.4
    graph["ImageToTracker"]
    graph.set("ImageToProbe", pose(1))
    clock.now = 100.7
    with pytest.raises(NoTransform, match=r"ProbeToTracker is 0.7 s old, the limit is 0.5 s"):
        graph["TrackerToImage"]
    assert [(p.kind, p.names) for p in graph.problems()] == [("stale", ("ProbeToTracker",))]
    graph.set("ProbeToTracker", pose(2))
    graph["ImageToTracker"]


def test_links_that_plus_declares_invalid() -> None:
    graph = TransformGraph()
    graph.add(igtl.Transform(np.eye(4), device_name="ProbeToTracker"))
    invalid = igtl.Transform(np.eye(4), device_name="ProbeToTracker")
    invalid.metadata["TransformStatus"] = "MISSING"
    graph.add(invalid)
    assert graph.names == []
    tools = igtl.TrackingData([igtl.Tool("AToB"), igtl.Tool("CToD")])
    tools.metadata = {"AToBStatus": "OK", "CToDStatus": "MISSING"}
    graph.set("CToD", np.eye(4))
    graph.add(tools)
    assert graph.names == ["AToB"]


def test_cycles_are_reported() -> None:
    graph = TransformGraph()
    graph.set("AToB", Pose.of(None, (1, 0, 0)))
    graph.set("BToC", Pose.of(None, (1, 0, 0)))
    graph.set("AToC", Pose.of(None, (2, 0, 3)))
    (problem,) = graph.problems()
    assert problem.kind == "cycle"
    assert set(problem.names) == {"AToB", "BToC", "AToC"}
    assert "fails to close by 3 mm" in problem.text
    assert graph["AToC"][:3, 3].tolist() == [2, 0, 3]  # the way of fewest links


# ---- registration -----------------------------------------------------------------------------


def test_registration_without_noise() -> None:
    truth = pose(5)
    for n in (3, 4, 30):
        points = RNG.normal(0, 60, (n, 3))
        found = register(points, truth @ points)
        np.testing.assert_allclose(found.pose.matrix, truth.matrix, atol=1e-9)
        assert found.fre < 1e-9
    flat = np.column_stack([RNG.normal(0, 60, (6, 2)), np.zeros(6)])  # no mirror image
    np.testing.assert_allclose(register(flat, truth @ flat).pose.matrix, truth.matrix, atol=1e-9)


def test_registration_with_noise() -> None:
    """FRE and TRE are what theory says of noise of 1 mm, over many trials."""
    truth, fle = pose(6), 1.0
    points = np.array(
        [[0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100], [80, 80, 0], [50, 60, 90.0]]
    )
    target = np.array([150.0, -40, 30])
    fre2, tre2, told2 = [], [], []
    for _ in range(600):
        noisy = truth @ points + RNG.normal(0, fle / np.sqrt(3), points.shape)
        found = register(points, noisy)
        reference, _ = Rotation.align_vectors(
            noisy - noisy.mean(axis=0), points - points.mean(axis=0)
        )
        np.testing.assert_allclose(found.pose.rotation, reference.as_matrix(), atol=1e-6)
        fre2.append(found.fre**2)
        tre2.append(np.sum((found.pose @ target - truth @ target) ** 2))
        told2.append(found.tre(target)[0] ** 2)
        assert found.errors.shape == (6,)
    assert np.mean(fre2) == pytest.approx((1 - 2 / 6) * fle**2, rel=0.1)
    assert np.mean(told2) == pytest.approx(np.mean(tre2), rel=0.15)


@pytest.mark.parametrize(("source", "reason"), [
    (np.zeros((2, 3)), "2 points"),
    (np.zeros((5, 3)), "lie on a line"),
    (np.outer(np.arange(5), (1, 2, 3)), "lie on a line"),
    (np.outer(np.arange(5), (1, 2, 3)) + RNG.normal(0, 1e-4, (5, 3)), "lie on a line"),
    (np.array([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]]), "not finite"),
    (np.zeros((4, 2)), r"must both be \(n, 3\)"),
])  # fmt: skip
def test_registration_refuses(source: Any, reason: str) -> None:
    good = RNG.normal(0, 50, (len(source), 3))
    for a, b in ((source, good), (good, source)):
        with pytest.raises(CalibrationError, match=reason):
            register(a, b)


# ---- pivot calibration ------------------------------------------------------------------------

TIP, PIVOT = np.array([12.0, -3, 160]), np.array([30.0, -200, 850])


def pivoting(rotations: Any, noise: float = 0) -> list[Any]:
    return [Pose.of(r, PIVOT - r.apply(TIP) + RNG.normal(0, noise or 1e-12, 3)) for r in rotations]


def swings(n: int, degrees: float = 30) -> Any:
    return Rotation.from_euler("xyz", RNG.uniform(-degrees, degrees, (n, 3)), degrees=True)


def test_pivot_without_noise() -> None:
    found = calibrate_pivot(pivoting(swings(10)))
    np.testing.assert_allclose(found.tip, TIP, atol=1e-6)
    np.testing.assert_allclose(found.pivot, PIVOT, atol=1e-6)
    assert found.error < 1e-6


def test_pivot_with_noise() -> None:
    found = calibrate_pivot([p.matrix for p in pivoting(swings(300), noise=0.25)])
    np.testing.assert_allclose(found.tip, TIP, atol=0.3)
    # three coordinates of 0.25 mm each, six of 900 numbers are fitted
    assert found.error == pytest.approx(0.25 * np.sqrt(3), rel=0.1)
    assert found.residuals.shape == (300,)
    assert found.error == pytest.approx(np.sqrt(np.mean(found.residuals**2)))


def test_pivot_refuses() -> None:
    with pytest.raises(CalibrationError, match="2 poses"):
        calibrate_pivot(pivoting(swings(2)))
    about_one_axis = Rotation.from_euler("z", np.linspace(-40, 40, 20)[:, None], degrees=True)
    with pytest.raises(CalibrationError, match="one axis only"):
        calibrate_pivot(pivoting(about_one_axis, noise=0.05))
    with pytest.raises(CalibrationError, match="turn too little"):
        calibrate_pivot(pivoting(swings(50, degrees=0.5), noise=0.1))
    with pytest.raises(ValueError, match="not a rigid pose"):
        calibrate_pivot([np.eye(4), np.eye(4), np.diag([2, 2, 2, 1])])
