"""The CRC: checked, warned of, or switched off, and left out when sending.

You see what becomes of a damaged message under each policy, and that the one behind it arrives.
"""

import argparse

import numpy as np

import igtl


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args(argv)
    wire = bytearray(igtl.Transform(np.eye(4), device_name="Damaged").pack())
    wire[70] ^= 1
    damaged = igtl.Frame.from_bytes(bytes(wire))
    for policy in ("verify", "warn", "off"):
        with igtl.listen(port=0, crc=policy, on_error="raise") as listener:
            with igtl.connect(port=listener.port) as link, listener.accept(timeout=5) as receiver:
                link.send(damaged)
                link.send(igtl.Status.ok(device_name="Next"))
                try:
                    message = receiver.recv(timeout=5)
                    print(f"{policy}: {message.device_name} came, crc_ok={message.crc_ok}")
                except igtl.CRCError as error:
                    print(f"{policy}: refused, {error}")
                print(f"{policy}: {receiver.recv(igtl.Status, timeout=5).device_name} came")
                print(f"{policy}: counted {dict(receiver.stats.errors)}")
    without = igtl.Transform(np.eye(4)).pack(crc=False)
    print("sent with crc=False:", without[50:58].hex())


if __name__ == "__main__":
    main()
