"""Arrays of numbers there and back: any shape and any type that the wire has.

You see each array before and after, and what happens to a type that the wire does not have.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
from common import at, parser

import igtl


@contextlib.contextmanager
def echo() -> Iterator[igtl.Server]:
    """A server that sends each array back, as `igtl echo` does."""
    with igtl.serve(port=0, start=False) as server:
        server.on(igtl.NDArray)(lambda message, peer: peer.send(message))
        server.start()
        yield server


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    args = options.parse_args(argv)
    rng = np.random.default_rng(1)
    with at(args.address, echo) as where:
        with igtl.connect(*where, read_timeout=5) as link:
            for dtype in (
                "int8",
                "uint8",
                "int16",
                "uint16",
                "int32",
                "uint32",
                "float32",
                "float64",
                "complex128",
            ):
                array = rng.integers(0, 100, (3, 4, 5)).astype(dtype)
                link.send(igtl.NDArray(array, device_name="Array"))
                back = link.recv(igtl.NDArray).array
                print(
                    dtype,
                    array.shape,
                    "equal:",
                    back.dtype == dtype and np.array_equal(back, array),
                )
            try:
                igtl.NDArray(np.zeros(3, np.int64)).pack()
            except igtl.EncodeError as error:
                print(error)


if __name__ == "__main__":
    main()
