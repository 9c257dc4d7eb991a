"""Reconstruct a volume from a freehand scan over a ball.

You see the size of the volume while it grows, then how far the ball in it is from the truth: its
volume and its centre.
"""

import argparse

import numpy as np

import igtl
from igtl.calibration import Scan
from igtl.geometry import Reconstruction
from igtl.simulate import Freehand


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spacing", type=float, default=0.5, help="mm, of the voxels")
    parser.add_argument("--paste", choices=["nearest", "linear"], default="nearest")
    parser.add_argument("--to", help="file to write: .nrrd, .nii.gz, .mha")
    args = parser.parse_args(argv)
    hand = Freehand(noise=0.1)

    volume = Reconstruction(args.spacing, paste=args.paste)
    scan = Scan(
        volume, tool="ProbeToReference", transforms={"ImageToProbe": hand.image_to_probe}
    )  # fmt: skip
    for n, message in enumerate(hand.sweep()):
        scan.add(message)
        if n % 100 == 99:
            print(f"{volume.frames} pictures, {' x '.join(map(str, volume.shape[::-1]))} voxels")
    scan.finish()
    found = volume.result(fill=2)

    inside = np.argwhere(found.array > 85)
    size = len(inside) * args.spacing**3
    true = 4 / 3 * np.pi * hand.radius**3
    centre = (found.ijk_to_world @ np.append(inside.mean(axis=0)[::-1], 1))[:3]
    print(f"{volume.frames} pictures, {found.holes} holes closed")
    print(f"volume {size / 1000:.2f} ml, off by {100 * abs(size / true - 1):.2f} %")
    print(f"centre off by {np.linalg.norm(centre - hand.centre):.3f} mm")
    if args.to:
        igtl.files.save(found.image(), args.to)
        print(f"written: {args.to}")


if __name__ == "__main__":
    main()
