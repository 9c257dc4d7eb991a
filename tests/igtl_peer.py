"""igtl itself with the command line of interop/cpp: so that the suite's parts for header version 2 run
where no library of protocol 3 is installed. It shows nothing about igtl."""

from __future__ import annotations

import json
import sys
from typing import Any

import igtl
from interop.content import describe
from tests import golden

TYPES = ("TRANSFORM", "STATUS", "STRING", "POINT", "TDATA", "COMMAND", "RTS_COMMAND", "VIDEOMETA")


def main(program: str, transport: str, *ports: str) -> None:
    if program == "unpack":
        types: dict[str, Any] = {name: {} for name in TYPES}
        print(json.dumps({"library": "itself", "header_version": 2, "types": types}))
        return
    if transport == "tcp":
        with igtl.listen(port=0, version=2) as server:
            print(json.dumps({"port": server.port}), flush=True)
            link = server.accept()
        send, receive = link.send, link.__iter__()
    else:
        receiver = igtl.udp.Receiver(0)
        print(json.dumps({"port": receiver.port}), flush=True)
        send = igtl.udp.Sender("127.0.0.1", int(ports[1])).send
        receive = (message for message, _ in receiver)  # type: ignore[assignment]
    if program == "pack":
        for line in sys.stdin:
            send(golden.build(json.loads(line)))
            print(json.dumps({"sent": True}), flush=True)
    for message in receive:
        print(json.dumps(describe(message)), flush=True)
        send(message)


if __name__ == "__main__":
    main(*sys.argv[1:])
