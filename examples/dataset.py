"""A recording as a data set: pictures with the pose of their instant, as PyTorch and pandas take them.

You see the data set served in shuffled batches by nothing but len() and [], what `pandas.DataFrame`
would be given, and the same pairs in a file of arrays. No framework is needed: a class with
`__len__` and `__getitem__` is all that `torch.utils.data.DataLoader` asks for.
Takes `pip install "igtl[record]"`.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from common import at, parser

import igtl
from igtl import simulate


class Pairs:
    """Pictures and the poses that belong to them: a data set for `DataLoader(Pairs(file))`."""

    def __init__(self, file: Path, images: str, poses: str, tolerance: float = 0.02) -> None:
        self.file, self.streams, self.tolerance = file, (images, poses), tolerance
        self._open()

    def _open(self) -> None:
        self.recording = igtl.Recording(self.file)
        self.images, poses = self.recording.sync(*self.streams, tolerance=self.tolerance)
        self.matrices = poses.matrices  # small: in memory; the pictures stay in the file

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images.frames[k], self.matrices[k]

    # a worker process of a DataLoader opens the file for itself: start it by "spawn"
    def __getstate__(self) -> dict:
        return {"file": self.file, "streams": self.streams, "tolerance": self.tolerance}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def close(self) -> None:
        self.recording.close()


def batches(data: Pairs, size: int, seed: int = 0):
    """What a DataLoader does: rows in a random order, put together."""
    order = np.random.default_rng(seed).permutation(len(data))
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        pictures, poses = zip(*(data[int(k)] for k in rows), strict=True)
        yield np.stack(pictures), np.stack(poses)


def record(file: Path, count: int, address: str | None = None) -> None:
    """So many messages of a scanner."""
    own = partial(simulate.serve, "ultrasound", port=0)
    with at(address, own) as where, igtl.connect(*where, read_timeout=10) as link:
        with igtl.Recorder(file) as recorder:
            for frame in link.frames():
                recorder.write(frame, peer=link.peer)
                if recorder.count == count:
                    break


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=150, help="messages to record")
    options.add_argument("--batch", type=int, default=8, help="pairs in a batch")
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.mcap"
        record(file, args.count, args.address)
        data = Pairs(file, "IMAGE", "NeedleToReference")
        print(f"{len(data)} pairs; {data.images.frames}")
        served = sum(len(pictures) for pictures, _ in batches(data, args.batch))
        print(f"{served} served in batches of {args.batch}")
        # table = pandas.DataFrame(columns, index=...)
        needle = data.recording["NeedleToReference"].between(0.5)
        columns = {
            "time": needle.times,
            **dict(zip("xyz", needle.matrices[:, :3, 3].T, strict=True)),
        }
        print(f"a table of {', '.join(columns)} with {len(needle)} rows")
        igtl.export(data.recording, Path(folder) / "case.npz")
        with np.load(Path(folder) / "case.npz") as arrays:
            print(
                "arrays:", ", ".join(name for name in arrays if name.endswith(("frames", "matrix")))
            )
        data.close()


if __name__ == "__main__":
    main()
