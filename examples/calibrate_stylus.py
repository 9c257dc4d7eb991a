"""Calibrate a stylus: its tip, from poses in which it stands on its tip and swings, and its axis, from
poses in which it is rolled.

You see the tip and the axis that were found, what the residuals say of them, and how far they are
from the truth.
"""

import argparse

import numpy as np

from igtl.calibration import Pivot, Spin, missing
from igtl.geometry import CalibrationError
from igtl.simulate import Freehand


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noise", type=float, default=0.2, help="mm, of the tracker")
    args = parser.parse_args(argv)
    hand = Freehand(noise=args.noise)

    step = Pivot("StylusToTracker")
    for n, message in enumerate(hand.pivot(), 1):  # as they arrive from a tracker
        step.add(message)
        hints = missing(step.goals())
        if n % 20 == 0 and hints:
            print(f"{n} poses: {hints[0]}")
        if not hints:
            break
    outcome = step.solve()
    tip = outcome.transforms[0].matrix[:3, 3]
    print(f"tip at {np.round(tip, 2)} mm, residual {outcome.result.error:.2f} mm")
    print(f"off by {np.linalg.norm(tip - hand.tip):.3f} mm")

    spin = Spin("StylusToTracker", transforms={"StylusTipToStylus": outcome.transforms[0].matrix})
    for message in hand.spin():
        spin.add(message)
    axis = spin.solve().transforms[0].matrix[:3, 2]
    print(f"axis off by {np.degrees(np.arccos(min(1.0, axis @ hand.axis))):.3f} degrees")

    still = Pivot("StylusToTracker")
    for message in hand.pivot(2, degrees=0.2):
        still.add(message)
    try:
        still.solve()
    except CalibrationError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
