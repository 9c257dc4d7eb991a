"""Fiducials: a list of points goes to the navigation system, the patient is registered to it, and a
stylus is guided to a target.

You see the registration error (FRE), the expected error at the target (TRE), and the distance of the
stylus tip from the target as it comes nearer.
"""

import argparse

import numpy as np

import igtl
from igtl.geometry import register

PLANNED = {
    "Nasion": (0, 90, -10),
    "Tragus_L": (-75, 0, -5),
    "Tragus_R": (75, 0, -5),
    "Vertex": (0, 0, 120),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noise", type=float, default=0.5, help="of a touched point, mm")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(4)

    # the plan, in image coordinates, as 3D Slicer would send it
    a, b = igtl.pipe()
    a.send(
        igtl.Points(
            [igtl.Point(name, position=xyz) for name, xyz in PLANNED.items()], device_name="F"
        )
    )
    plan = b.recv(timeout=5).points
    print(len(plan), "points:", *plan.names)

    # the patient lies elsewhere; each point is touched with the stylus
    lies = igtl.Pose.of((0.1, -0.05, 0.2, 0.97), (120, -40, 800))
    touched = lies @ plan.positions + rng.normal(0, args.noise, (len(plan), 3))
    found = register(plan.positions, touched)
    target = np.array([10.0, 20.0, 60.0])  # in the image
    print(f"FRE {found.fre:.2f} mm, TRE at the target {found.tre(target)[0]:.2f} mm")

    # guidance: the tip, in image coordinates
    start = lies @ np.array([[80.0, 100.0, 140.0]])
    for share in np.linspace(0, 1, args.steps):
        tip = start + share * (lies @ target[None] - start)
        away = np.linalg.norm(found.pose.inverse @ tip - target)
        a.send(igtl.Transform(igtl.Pose.of(None, tip[0]).matrix, device_name="StylusTipToTracker"))
        print(f"{b.recv(timeout=5).device_name}: {away:.1f} mm to go")
    true = np.linalg.norm(lies @ target[None] - found.pose @ target[None])
    print(f"the target is {true:.2f} mm from where it is shown")


if __name__ == "__main__":
    main()
