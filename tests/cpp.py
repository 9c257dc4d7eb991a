"""Programs of the official C++ library: how tests start and end them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import igtl

INTEROP = Path(__file__).parents[1] / "interop"
EXAMPLES = Path("/usr/share/doc/openigtlink-examples/examples")
HEADERS = Path("/usr/include/openigtlink")


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port on which nothing listens: below those that the system hands out, since another test or
    program would soon get one of them."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket(type=kind) as s:
            s.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running(program: Path, *args: Any) -> Iterator[Any]:
    """The program with its output in a file; `text(word, count)` waits for that in its output."""
    with tempfile.NamedTemporaryFile() as out:
        process = subprocess.Popen(
            ["stdbuf", "-oL", str(program), *map(str, args)],
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

        def text(word: str, count: int = 1) -> str:
            end = time.monotonic() + 20
            while True:
                printed = Path(out.name).read_text()
                if printed.count(word) >= count:
                    return printed
                if time.monotonic() > end:
                    pytest.fail(f"{program.name} did not print {word!r} but:\n{printed[-2000:]}")
                time.sleep(0.02)

        try:
            yield text
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def link_to(program: Path, *args: Any) -> Iterator[tuple[igtl.Link, Any]]:
    """A link to a server example started on a free port."""
    port = free_port()
    with running(program, port, *args) as text:
        end = time.monotonic() + 20
        while True:
            try:
                link = igtl.connect("127.0.0.1", port, open_timeout=5)
                break
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        with link:
            yield link, text
