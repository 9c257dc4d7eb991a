"""Rigid poses: as objects, between frames by name, from points and from a pivoting stylus.

    probe = Pose(transform.matrix); probe @ [[0, 0, 10]]    # points of the probe, in the tracker
    graph = TransformGraph(); graph.add(message); graph["ImageToReference"]
    registration = register(fiducials_ct, fiducials_tracker); registration.fre
    tip = calibrate_pivot(poses).tip

Lengths are mm, quaternions (x, y, z, w). A pose named XToY maps points of X to points of Y.
"""

from igtl.geometry.calibration import (
    CalibrationError,
    PivotCalibration,
    Registration,
    calibrate_pivot,
    register,
)
from igtl.geometry.graph import NoTransform, Problem, TransformGraph
from igtl.geometry.pose import Pose, interpolate, is_rigid, slerp

__all__ = [
    "CalibrationError",
    "NoTransform",
    "PivotCalibration",
    "Pose",
    "Problem",
    "Registration",
    "TransformGraph",
    "calibrate_pivot",
    "interpolate",
    "is_rigid",
    "register",
    "slerp",
]
