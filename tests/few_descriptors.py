"""A server with few descriptors, in a process of its own: `python -m tests.few_descriptors KIND LIMIT`.

It sends back what it gets. Prints its port; then, for each line on stdin, one JSON object: seconds since
it began, seconds of CPU time, how many warnings were logged, and how many threads an exception ended. The
end of stdin ends it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Iterator

import igtl
from tests.test_server import call, serving


class Counting(logging.Handler):
    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def echo(link: igtl.Link) -> None:
    with link:
        for message in link:
            link.send(message)


@contextlib.contextmanager
def listening() -> Iterator[igtl.Listener]:
    """A thread for each client."""

    def accept() -> None:
        for link in listener:
            threading.Thread(target=echo, args=(link,), daemon=True).start()

    with igtl.listen(port=0) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener


def main(kind: str, limit: int) -> None:
    logged = Counting(logging.WARNING)
    logging.getLogger().addHandler(logged)
    crashed: list[str] = []
    threading.excepthook = lambda args: crashed.append(repr(args.exc_value))
    with listening() if kind == "listen" else serving(kind) as server:
        if kind != "listen":
            server.on(igtl.Transform)(lambda message, peer: call(peer.send(message)))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        print(server.port, flush=True)
        start = time.monotonic()
        for _ in sys.stdin:
            told = {
                "seconds": time.monotonic() - start,
                "cpu": time.process_time(),
                "logged": logged.count,
                "crashed": crashed,
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
