"""Devices without hardware, for tests and courses.

There are a tracker, an ultrasound scanner with a needle, a CT of a phantom, a force sensor, an
inertial sensor and a robot arm. What they show depends on the time and the seed alone, so that a
receiver can be checked against it. `slicer` is a peer that behaves as 3D Slicer. `Freehand` is a
person who calibrates a stylus and a probe, and scans.

Each can be asked for the message of any instant (`Tracker().transform(1.5)`), sends at its rate by
`Stream`, and stands behind a server by `serve`; `igtl.testing` has fixtures for pytest.
"""

from igtl.simulate.freehand import Freehand
from igtl.simulate.imaging import Ultrasound, head_phantom
from igtl.simulate.plus_server import PlusSimulator, plus
from igtl.simulate.sensors import ForceSensor, InertialSensor, RobotArm
from igtl.simulate.server import DEVICES, Simulator, Source, serve, sources
from igtl.simulate.slicer_node import SlicerNode, slicer
from igtl.simulate.stream import Stream
from igtl.simulate.tracking import Tracker, pose

__all__ = [
    "DEVICES",
    "ForceSensor",
    "Freehand",
    "InertialSensor",
    "PlusSimulator",
    "RobotArm",
    "Simulator",
    "SlicerNode",
    "Source",
    "Stream",
    "Tracker",
    "Ultrasound",
    "head_phantom",
    "plus",
    "pose",
    "serve",
    "slicer",
    "sources",
]
