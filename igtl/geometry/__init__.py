"""Rigid poses, as objects, between frames by name and from points; calibrations; freehand volumes.

    probe = Pose(transform.matrix); probe @ [[0, 0, 10]]    # points of the probe, in the tracker
    graph = TransformGraph(); graph.add(message); graph["ImageToReference"]
    registration = register(fiducials_ct, fiducials_tracker); registration.fre
    tip = calibrate_pivot(poses).tip
    image_to_probe = calibrate_probe(pixels, tips_in_probe).matrix

Lengths are mm, quaternions (x, y, z, w). A pose named XToY maps points of X to points of Y.
"""

from igtl.geometry.calibration import Calibration, CalibrationError
from igtl.geometry.graph import NoTransform, Problem, TransformGraph
from igtl.geometry.lag import TimeCalibration, calibrate_time
from igtl.geometry.pictures import bright_line, bright_spots
from igtl.geometry.pivot import (
    PivotCalibration,
    SpinCalibration,
    calibrate_pivot,
    calibrate_spin,
)
from igtl.geometry.pose import Pose, interpolate, is_rigid, slerp
from igtl.geometry.probe import ProbeCalibration, calibrate_probe, calibrate_wires
from igtl.geometry.reconstruction import Reconstruction, ReconstructionError, Volume
from igtl.geometry.regions import fan, rectangle
from igtl.geometry.registration import Registration, register

__all__ = [
    "Calibration",
    "CalibrationError",
    "NoTransform",
    "PivotCalibration",
    "Pose",
    "ProbeCalibration",
    "Problem",
    "Reconstruction",
    "ReconstructionError",
    "Registration",
    "SpinCalibration",
    "TimeCalibration",
    "TransformGraph",
    "Volume",
    "bright_line",
    "bright_spots",
    "calibrate_pivot",
    "calibrate_probe",
    "calibrate_spin",
    "calibrate_time",
    "calibrate_wires",
    "fan",
    "interpolate",
    "is_rigid",
    "rectangle",
    "register",
    "slerp",
]
