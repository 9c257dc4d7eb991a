"""A message type of your own: one class, one line a field, on both sides.

You see it sent and received with everything that built-in types have; a peer that has not declared it
gets it as Unknown, and can pass it on unchanged.
"""

import argparse

import igtl
from igtl.fields import Array, array, count_of, f32, text, u16


class Force(igtl.Message, type_name="FORCE"):
    """Force at a tool tip, in newtons."""

    tool: str = text(20)
    _count: int = count_of("samples", u16)  # on the wire, never set by the user
    samples: Array = array(f32, "_count", per=3)  # (n, 3)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args(argv)
    a, b = igtl.pipe()
    a.send(Force("Drill", [[0, 0, 1.5], [0, 0, 1.75]], device_name="Robot"))
    got = b.recv(Force, timeout=5)
    print(got)
    print("to JSON:", got.to_dict()["samples"])
    got.samples[0, 2] = 9.5  # edits count
    print("on the wire:", len(got.pack()), "bytes, equal again:", igtl.unpack(got.pack()) == got)


if __name__ == "__main__":
    main()
