"""Ultrasound with tracking: images and the needle pose of the same instant, brought into one frame.

You see for each image where the needle tip is in it, in pixels, how bright the image is there, how far
the tip is from a target, and how far the two time stamps are apart.
"""

from functools import partial

import numpy as np
from common import at, parser

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument(
        "--target", type=float, nargs=3, default=(0, 0, 0), metavar=("X", "Y", "Z"), help="mm, RAS"
    )
    options.add_argument("--count", type=int, default=20, help="images")
    args = options.parse_args(argv)
    with at(args.address, partial(simulate.serve, "ultrasound", port=0)) as where:
        with igtl.connect(*where, read_timeout=10) as link:
            pairs = link.sync(
                (igtl.Image, "Image_Reference"),
                (igtl.Transform, "NeedleToReference"),
                tolerance=0.02,
            )
            for (image, needle), _ in zip(pairs, range(args.count), strict=False):
                tip = np.append(needle.position, 1)
                column, row, _, _ = np.linalg.inv(image.ijk_to_world) @ tip
                away = np.linalg.norm(needle.position - args.target)
                apart = abs(image.timestamp - needle.timestamp)
                bright = image.array[0, round(row), round(column)]
                print(
                    f"tip at pixel {column:.1f}, {row:.1f} (grey {bright}), {away:.1f} mm from the "
                    f"target, {1000 * apart:.1f} ms apart"
                )


if __name__ == "__main__":
    main()
