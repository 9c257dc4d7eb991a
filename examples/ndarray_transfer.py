"""Arrays of numbers there and back: any shape and any type that the wire has.

You see each array before and after, and what happens to a type that the wire does not have.
"""

import argparse

import numpy as np

import igtl


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args(argv)
    rng = np.random.default_rng(1)
    with igtl.serve(port=0, start=False) as server:
        server.on(igtl.NDArray)(lambda message, peer: peer.send(message))
        server.start()
        with igtl.connect(port=server.port, read_timeout=5) as link:
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
