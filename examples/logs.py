"""Logging: what the library tells, as text and as JSON with fields.

You see one line for each connection that comes and goes, and for what is wrong with it.
"""

import argparse
import json
import logging
import sys
import time

import numpy as np

import igtl


class AsJson(logging.Formatter):
    """One object a line; the fields of igtl's records are `peer`, `type`, `device`, `size`, `cause`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            name: getattr(record, name, None)
            for name in ("peer", "type", "device", "size", "cause")
        }
        told = {"level": record.levelname, "text": record.getMessage()}
        return json.dumps(told | {k: str(v) for k, v in facts.items() if v is not None})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--level", default="INFO", choices=["DEBUG", "INFO", "WARNING"])
    args = parser.parse_args(argv)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        AsJson() if args.json else logging.Formatter("%(levelname)-7s %(message)s")
    )
    logger = logging.getLogger("igtl")
    logger.addHandler(handler)
    logger.setLevel(args.level)
    try:
        wire = bytearray(igtl.Transform(np.eye(4), device_name="Probe").pack())
        wire[70] ^= 1
        with igtl.serve(port=0, crc="warn") as server, igtl.connect(port=server.port) as link:
            link.send(igtl.Frame.from_bytes(bytes(wire)))
            while not any(peer.stats.received for peer in server.clients):
                time.sleep(0.01)
    finally:
        logger.removeHandler(handler)


if __name__ == "__main__":
    main()
