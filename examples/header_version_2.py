"""Header version 2 (protocol 3): metadata and message ids, and which peers get them.

You see the keys that travel with a message, and what a peer that speaks version 1 only is spared.
"""

import argparse

import numpy as np

import igtl


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["extended", "metadata"])
    args = parser.parse_args(argv)
    pose = igtl.Transform(np.eye(4), device_name="Probe", message_id=42)
    if args.what == "metadata":
        pose.metadata["TransformStatus"] = "OK"
        pose.metadata["Größe"] = "12 µm"  # any text; ASCII goes out as such
        pose.metadata["Frame"] = 7
    wire = pose.pack()
    print(f"{len(wire)} bytes, header version {wire[1]}, extended header of {wire[59]} bytes")
    with igtl.listen(port=0) as listener:
        for hello in (True, False):
            with igtl.connect(port=listener.port) as link, listener.accept(timeout=5) as server:
                if hello:  # the peer says that it reads version 2; without that it is never sent
                    link.send_hello()
                    server.recv(timeout=5)
                try:
                    server.send(pose)
                except igtl.EncodeError as error:
                    print("to a peer of version 1:", error.reason)
                    continue
                got = link.recv(timeout=5)
                print("id", got.message_id, "metadata", dict(got.metadata))


if __name__ == "__main__":
    main()
