"""Ultrasound with tracking: images and the needle pose of the same instant, brought into one frame.

You see for each image where the needle tip is in it, in pixels, and its distance from a target.
"""

import argparse

import numpy as np

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="images")
    args = parser.parse_args(argv)
    with simulate.serve("ultrasound", port=0) as simulator:
        with igtl.connect(port=simulator.port, read_timeout=10) as link:
            pairs = link.sync(
                (igtl.Image, "Image_Reference"),
                (igtl.Transform, "NeedleToReference"),
                tolerance=0.02,
            )
            for (image, needle), _ in zip(pairs, range(args.count), strict=False):
                tip = np.append(needle.position, 1)
                column, row, _, _ = np.linalg.inv(image.ijk_to_world) @ tip
                apart = abs(image.timestamp - needle.timestamp)
                bright = image.array[0, round(row), round(column)]
                print(
                    f"tip at pixel {column:.1f}, {row:.1f} (grey {bright}), {1000 * apart:.1f} ms apart"
                )


if __name__ == "__main__":
    main()
