"""A large volume over a connection that breaks: the transfer goes on where it stopped.

You see the progress, the break, and that the second attempt sends only the rest.
"""

import argparse
import threading

import numpy as np

import igtl
from igtl import transfer


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=60)
    args = parser.parse_args(argv)
    volume = igtl.Image(
        np.random.default_rng(1).integers(0, 2000, (args.slices, 256, 256), np.int16),
        device_name="CT",
    )
    upload = transfer.Upload(volume, slab_bytes=1 << 20)
    assembler = transfer.Assembler()
    done: list[igtl.Image] = []

    def receive(listener: igtl.Listener, break_after: int | None) -> None:
        with listener.accept(timeout=10) as link:
            for number, part in enumerate(link, 1):
                whole, answer = assembler.add(part)
                if answer is not None:
                    link.send(answer)
                if whole is not None:
                    done.append(whole)
                    return
                if number == break_after:
                    return  # the network fails

    def tell(sent: int, total: int) -> None:
        print(f"{sent / 1e6:5.1f} of {total / 1e6:.1f} MB confirmed")

    with igtl.listen(port=0, version=2) as listener:
        for attempt, break_after in enumerate((3, None), 1):
            thread = threading.Thread(target=receive, args=(listener, break_after))
            thread.start()
            before = upload.bytes_sent
            with igtl.connect(port=listener.port, version=2) as link:
                try:
                    upload.send(link, progress=tell)
                except igtl.ConnectionClosed as error:
                    print("broken:", error)
            thread.join()
            print(f"attempt {attempt} sent {(upload.bytes_sent - before) / 1e6:.1f} MB")
    print("whole and equal:", np.array_equal(done[0].array, volume.array))


if __name__ == "__main__":
    main()
