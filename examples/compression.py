"""Compression: bytes by themselves, and messages between two igtl ends that both asked for it.

You see what each method and level saves on a CT with and without noise, and what a link sends.
"""

import argparse
import time

import igtl
from igtl.simulate import head_phantom


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=20)
    args = parser.parse_args(argv)
    volumes = {
        "without noise": head_phantom(args.slices, 256),
        "noise of 10 HU": head_phantom(args.slices, 256, noise=10),
    }
    for name, ct in volumes.items():
        for method, level in (("deflate", "fast"), ("deflate", "best"), ("gzip", "default")):
            packed = igtl.compress(ct.array, method=method, level=level)
            back = igtl.decompress(packed, max_size=ct.array.nbytes)
            assert back == ct.array.tobytes()
            print(
                f"{name}, {method} {level}: {100 * (1 - len(packed) / ct.array.nbytes):.1f} % saved"
            )
    with igtl.serve(port=0, compression=True, start=False) as server:
        got = []
        server.on(igtl.Image)(lambda message, peer: got.append(message))
        server.start()
        with igtl.connect(port=server.port, compression=True) as link:
            print("compresses:", link.wait_compressed(5))
            for ct in volumes.values():
                link.send(ct)
            size = link.stats.sent_bytes
            while len(got) < 2:
                time.sleep(0.01)
    whole = sum(ct.array.nbytes for ct in volumes.values())
    print(
        f"{size / 1e6:.2f} MB went over the link instead of {whole / 1e6:.2f}; equal:",
        got == [*volumes.values()],
    )


if __name__ == "__main__":
    main()
