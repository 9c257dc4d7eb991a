"""Sensors at 100 Hz into a CSV file: a force sensor, an inertial sensor, or both.

You see the columns with their units, and how many rows were written.
"""

import csv
import tempfile
import time
from functools import partial
from pathlib import Path

from common import at, parser

import igtl
from igtl import simulate

DEVICES = {"force": ["force"], "imu": ["imu"], "combined": ["force", "imu"]}


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("kind", choices=list(DEVICES))
    options.add_argument("--to", type=Path, help="file to write; default: a temporary one")
    options.add_argument("--seconds", type=float, default=2)
    args = options.parse_args(argv)

    units: dict[str, str] = {}
    rows = 0
    own = partial(simulate.serve, *DEVICES[args.kind], port=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        (args.to or Path(folder, "sensors.csv")).open("w", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["time_s", "device", "x", "y", "z", "unit"])
        with at(args.address, own) as where, igtl.connect(*where, read_timeout=10) as link:
            end = time.monotonic() + args.seconds
            while time.monotonic() < end:
                sensor = link.recv(igtl.Sensor)
                units[sensor.device_name] = str(sensor.unit)
                table.writerow([sensor.timestamp, sensor.device_name, *sensor.values, sensor.unit])
                rows += 1
            for device, unit in units.items():
                print(f"{device}: {unit}, {link.stats.streams['SENSOR', device].rate:.0f} Hz")
    print(f"{rows} rows in {args.to or 'a temporary file'}")


if __name__ == "__main__":
    main()
