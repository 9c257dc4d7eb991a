"""Sensors at 100 Hz into a CSV file: a force sensor, an inertial sensor, or both.

You see the columns with their units, and how many rows were written.
"""

import argparse
import csv
import time
from pathlib import Path

import igtl
from igtl import simulate

DEVICES = {"force": ["force"], "imu": ["imu"], "combined": ["force", "imu"]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(DEVICES))
    parser.add_argument("--file", type=Path, default=Path("sensors.csv"))
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args(argv)

    units: dict[str, str] = {}
    rows = 0
    with (
        simulate.serve(*DEVICES[args.kind], port=0) as simulator,
        args.file.open("w", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["time_s", "device", "x", "y", "z", "unit"])
        with igtl.connect(port=simulator.port, read_timeout=10) as link:
            end = time.monotonic() + args.seconds
            while time.monotonic() < end:
                sensor = link.recv(igtl.Sensor)
                units[sensor.device_name] = str(sensor.unit)
                table.writerow([sensor.timestamp, sensor.device_name, *sensor.values, sensor.unit])
                rows += 1
            for stream in link.stats.streams.values():
                print(f"{stream.device_name}: {units[stream.device_name]}, {stream.rate:.0f} Hz")
    print(f"{rows} rows in {args.file}")


if __name__ == "__main__":
    main()
