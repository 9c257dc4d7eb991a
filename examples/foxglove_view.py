"""Simulated devices in Foxglove, live and as a file.

You see the address to open in Foxglove ("Open connection", "Foxglove WebSocket"), where a stylus moves
beside an ultrasound image for as long as you say, and the file with the same that is written at the end.
Takes `pip install "igtl[record,foxglove]"`.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8765, help="0: a free one")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument(
        "--to", type=Path, help="file to write, as case.foxglove.mcap; default: a temporary one"
    )
    args = parser.parse_args(argv)
    tracker = simulate.Tracker(["StylusToReference"])
    scanner = simulate.Ultrasound(320, 240)
    with TemporaryDirectory() as folder:
        case = Path(folder) / "case.mcap"
        with igtl.foxglove.Server(port=args.port) as server, igtl.Recorder(case) as recorder:
            print(f"open {server.url} in Foxglove", flush=True)
            for n, _ in zip(range(round(30 * args.seconds)), igtl.Rate(30), strict=False):
                for message in (tracker.transform(n / 30), scanner.image(n / 30)):
                    server.show(message)
                    recorder.write(message)
            print(f"{server.shown} messages shown")
        file = args.to or case.with_suffix(".foxglove.mcap")
        igtl.export(case, file)
        print(f"{args.to or file.name}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
