"""What the examples share: the option --address, and one line where a server cannot be reached.

`parser` makes the command line of a program that talks to a server, and `at` says where that is: the
address that was given, or a server that runs as long as the program needs it. `beside` works for such
a server in a thread.
"""

import argparse
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import igtl
from igtl.addresses import parsed


def parser(
    doc: str | None, default: str = "one that this program starts"
) -> argparse.ArgumentParser:
    """A command line with --address.

    Args:
        default: what is taken without it.
    """
    found = argparse.ArgumentParser(description=doc)
    found.add_argument(
        "--address",
        help="of the server: HOST:PORT, HOST, :PORT, unix:/PATH or ws://HOST:PORT/PATH; "
        f"default: {default}",
    )
    return found


@contextlib.contextmanager
def at(address: str | None, own: Callable[[], Any] | None = None) -> Iterator[tuple[str, int]]:
    """Host and port of the server at an address; without one, of the server that `own` opens, or
    igtl's default. Within, an address that is of no use ends the program with one line."""
    if address is None and own is not None:
        with own() as server:
            yield server.host, server.port
        return
    address = address or "localhost"
    try:
        where = parsed(address)
    except ValueError as error:
        sys.exit(str(error))
    try:
        yield where
    except (OSError, UnicodeError, igtl.IgtlError) as error:  # UnicodeError: no such host can be
        sys.exit(f"{address}: {getattr(error, 'strerror', None) or error}")


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread; at the end of the block the event that it gets tells it to end."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
