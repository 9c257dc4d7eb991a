"""Calibrations of a tracked probe and a stylus, from what a server sends or a recording holds.

    step = Pivot("StylusToTracker")
    for message in link:
        step.add(message)
        goals = step.goals()                        # what there is, and what is needed
        if not missing(goals): break
    outcome = step.solve()                          # CalibrationError says which motion is missing
    save_outcome(outcome, "PlusDeviceSet.xml")      # or .json
    with igtl.plus.connect("plus") as plus: send_outcome(outcome, plus)

| step | what it finds |
|---|---|
| Pivot, Spin | the tip and the axis of a stylus |
| Time | the lag of a tracker against pictures |
| Touches, Wires | where the pixels of a probe are: by stylus, by a phantom of wires |

`Scan` takes the same messages into a volume (`igtl.geometry.Reconstruction`). The arithmetic is in
`igtl.geometry`.
"""

from igtl.calibration.plot import plot
from igtl.calibration.plusconfig import NamedTransform, PlusConfig, read_config, update_config
from igtl.calibration.results import load_known, save_outcome, send_outcome
from igtl.calibration.scan import Scan
from igtl.calibration.seen import Time, Touches, Wires
from igtl.calibration.steps import Goal, Outcome, Panel, Pivot, Spin, Step, missing

__all__ = [
    "Goal",
    "NamedTransform",
    "Outcome",
    "Panel",
    "Pivot",
    "PlusConfig",
    "Scan",
    "Spin",
    "Step",
    "Time",
    "Touches",
    "Wires",
    "load_known",
    "missing",
    "plot",
    "read_config",
    "save_outcome",
    "send_outcome",
    "update_config",
]
