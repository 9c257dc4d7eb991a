"""What can go wrong, and how a program goes on: no peer, silence, damaged bytes, the wrong type.

You see the error that each of them raises, with its facts, and that the link works afterwards.
"""

import argparse

import numpy as np

import igtl


def pair():
    listener = igtl.listen(port=0, on_error="raise")
    link = igtl.connect(port=listener.port)
    return listener, link, listener.accept(timeout=5)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["reconnect", "timeout", "crc", "wrong-type"])
    args = parser.parse_args(argv)
    listener, link, peer = pair()
    with listener, link, peer:
        match args.what:
            case "reconnect":
                port = listener.port
                for each in (listener, link, peer):
                    each.close()
                try:  # give up after three tries; without `attempts` it would go on for ever
                    for _ in igtl.reconnect(port=port, backoff=igtl.Backoff(0.01, 0.1, attempts=3)):
                        pass
                except ConnectionRefusedError as error:
                    print("given up:", error.strerror)
            case "timeout":
                peer.send(igtl.Status.ok(device_name="Tracker"))
                try:
                    link.recv(igtl.Transform, "Probe*", timeout=0.2)
                except TimeoutError as error:
                    print("timed out:", error)
                print("still there:", link.recv(timeout=1))
            case "crc":
                wire = bytearray(igtl.Transform(np.eye(4)).pack())
                wire[80] ^= 255
                link.send(igtl.Frame.from_bytes(bytes(wire)))
                link.send(igtl.Status.ok("after it"))
                try:
                    peer.recv(timeout=1)
                except igtl.CRCError as error:
                    print(f"damaged: expected {error.expected:016x}, got {error.actual:016x}")
                print("the next:", peer.recv(timeout=1))
            case "wrong-type":
                link.send(igtl.Unknown("MY_TYPE", b"1234"))
                link.send(igtl.NoData("TRANSFORM"))  # an empty one: allowed, and no Transform
                for _ in range(2):
                    match peer.recv(timeout=1):
                        case igtl.Transform():
                            raise AssertionError
                        case igtl.Unknown(type_name=name, content=content):
                            print(f"an undeclared type: {name}, {len(content)} bytes")
                        case message:
                            print("no pose in it:", message)
                try:
                    igtl.Transform(np.eye(2))
                except igtl.EncodeError as error:
                    print("not sent:", error)


if __name__ == "__main__":
    main()
