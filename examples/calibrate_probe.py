"""Calibrate a tracked ultrasound probe: the lag of its tracker, then where its pixels are, by a stylus
and by a phantom of wires.

You see what was found and how far it is from the truth; with --to, it is written into a configuration
of PLUS.
"""

import argparse

import numpy as np

from igtl.calibration import Step, Time, Touches, Wires, save_outcome
from igtl.simulate import Freehand
from igtl.simulate.freehand import HEIGHT, WIDTH


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noise", type=float, default=0.1, help="mm, of the tracker")
    parser.add_argument("--lag", type=float, default=0.073, help="seconds")
    parser.add_argument("--to", help="file to write: configuration of PLUS (.xml) or .json")
    args = parser.parse_args(argv)
    hand = Freehand(noise=args.noise)

    time = Time("ProbeToTracker", "Image")
    for message in hand.tank(lag=args.lag):
        time.add(message)
    facts = time.solve().facts
    print(f"lag {facts['lag ms']:.2f} ms ± {facts['uncertainty ms']:.2f} ms")
    print(f"lag off by {abs(facts['lag ms'] - 1000 * args.lag):.2f} ms")

    tip = np.eye(4)
    tip[:3, 3] = hand.tip  # found by calibrate_stylus.py
    ways: dict[str, tuple[Step, object]] = {
        "stylus": (Touches(transforms={"StylusTipToStylus": tip}), hand.touches()),
        "wires": (Wires(hand.wires), hand.phantom()),
    }
    corners = np.array([[u, v, 0, 1] for u in (0, WIDTH) for v in (0, HEIGHT)])
    for name, (step, messages) in ways.items():
        for message in messages:
            step.add(message)
        outcome = step.solve()
        (found,) = outcome.transforms
        off = np.linalg.norm(((found.matrix - hand.image_to_probe) @ corners.T)[:3], axis=0)
        print(
            f"by {name}: residual {outcome.result.error:.2f} mm, corners off by {off.max():.3f} mm"
        )
        if args.to:
            save_outcome(outcome, args.to)
            print(f"{found.name} is in {args.to}")


if __name__ == "__main__":
    main()
