"""A recording: a tracked ultrasound sequence to a file, read back as arrays, and played again.

You see what is in the file, the path of the needle, and that the replay sends the same bytes.
Takes `pip install "igtl[record]"`.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from common import at, parser

import igtl
from igtl import simulate


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--to", type=Path, help="file to write; default: a temporary one")
    options.add_argument("--count", type=int, default=200, help="messages to record")
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        file = args.to or Path(folder) / "case.mcap"
        own = partial(simulate.serve, port=0)
        with at(args.address, own) as where, igtl.connect(*where, read_timeout=10) as link:
            with igtl.Recorder(file) as recorder:
                for frame in link.frames():
                    recorder.write(frame, peer=link.peer)
                    if recorder.count == args.count:
                        break
        with igtl.Recording(file) as recording:
            print(recording)
            for stream in recording.streams.values():
                print(" ", stream)
            needle = recording["NeedleToReference"]
            path = np.linalg.norm(np.diff(needle.matrices[:, :3, 3], axis=0), axis=1).sum()
            print(f"the needle moved {path:.1f} mm in {np.ptp(needle.times):.1f} s")
            a, b = igtl.pipe()
            playback = recording.play(["NeedleToReference"], speed=10)
            for frame in playback:
                a.send(frame)
            same = [bytes(b.recv_frame()) for _ in range(playback.sent)] == [
                bytes(r.frame) for r in needle
            ]
            print(f"{playback.sent} played at ten times the speed, equal bytes: {same}")


if __name__ == "__main__":
    main()
