"""What the commands show, as tests/screens keeps it: a file a command, a part a screen.

`IGTL_WRITE_SCREENS=1 pytest -n 0 tests/test_screens.py tests/test_screens_work.py` writes them
anew; read the difference then. Screens that are equal stand once, under all their titles. Ports, times and rates are normalised.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl

SCREENS = Path(__file__).parent / "screens"
WRITE = os.environ.get("IGTL_WRITE_SCREENS") == "1"
VERSIONS = "".join(
    f"{name} {'.'.join(importlib.metadata.version(name).split('.')[:2])}\n"
    for name in ("click", "rich")
)
MARKS = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="errors have other words elsewhere"),
    pytest.mark.skipif(
        not WRITE and (SCREENS / "versions.txt").read_text() != VERSIONS,
        reason=f"the screens are of other versions than {VERSIONS.split()}",
    ),
]
WAYS: dict[str, dict[str, Any]] = {
    "80 × 24": {"tty": True},
    "120 × 40": {"tty": True, "columns": 120, "lines": 40},
    "50 × 16": {"tty": True, "columns": 50, "lines": 16},
    "NO_COLOR": {"tty": True, "NO_COLOR": "1"},
    "ASCII": {"tty": True, "charset": "ascii"},
    "cp1252": {"charset": "cp1252"},
    "pipe": {},
}
"""The terminals and pipes in which every command is seen at work."""

_HEAD = re.compile(r"^==== (.*) ====\n", re.MULTILINE)


def kept(command: str) -> dict[str, str]:
    """The screens of a command, by title."""
    file = SCREENS / f"{command}.txt"
    if not file.exists():
        return {}
    parts = _HEAD.split(file.read_text("utf-8"))[1:]
    return {
        title: shown
        for titles, shown in zip(parts[::2], parts[1::2], strict=True)
        for title in titles.split(", ")
    }


def same(command: str, title: str, shown: str) -> None:
    """Compare a screen with the one that is kept, or keep it."""
    screens = kept(command)
    if WRITE:
        screens[title] = shown
        titles: dict[str, list[str]] = {}
        for each, text in screens.items():
            titles.setdefault(text, []).append(each)
        (SCREENS / f"{command}.txt").write_text(
            "".join(f"==== {', '.join(each)} ====\n{text}" for text, each in titles.items()),
            "utf-8",
        )
        (SCREENS / "versions.txt").write_text(VERSIONS)
    assert title in screens, f"{title} of {command} is missing: IGTL_WRITE_SCREENS=1 writes it"
    assert shown == screens[title], f"{shown}\n---- is kept as ----\n{screens[title]}"


def normal(text: str) -> str:
    """The same whenever and wherever it is run."""
    text = re.sub(r"\b(localhost|127\.0\.0\.1)(:|, port )\d+", r"\1\g<2>18944", text)
    text = re.sub(r"port \d+ of", "port 18944 of", text)
    text = re.sub(
        r"(\d\d:\d\d:\d\d)([.,]\d{3})?(?= )",
        lambda m: "10:20:30" + (f"{m[2][0]}123" if m[2] else ""), text,
    )  # fmt: skip
    text = re.sub(r"\d{4}-\d\d-\d\d(?= 10:20:30,)", "2026-01-02", text)
    text = re.sub(r"(?<=  |· |- )\d+ s(?=  | ·| -)", "3 s", text)
    text = re.sub(r"\b\d+/s\b", "60/s", text)
    text = re.sub(r"(in|are) -?\d+\.\d ms", r"\1 0.5 ms", text)
    text = re.sub(r"\(\d+ times\)", "(7 times)", text)
    # of a client that has closed, by what this end did first: it read, or it sent
    text = re.sub(
        r"is gone: (Broken pipe|Connection reset by peer)", "is gone: closed by the peer", text
    )
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


# ---- servers to look at -------------------------------------------------------------------------

STAMP = 1_700_000_000.25


def messages() -> list[igtl.Message]:
    tracker = igtl.simulate.Tracker(seed=1)
    poses: list[igtl.Message] = [tracker.transform(1.25, k) for k in range(3)]
    image = igtl.Image(np.zeros((1, 240, 320), np.uint8), device_name="Image_Reference")
    text = igtl.String("Größe: 37 µm – " + "a long text that no terminal has room for " * 4)
    text.device_name = "Note"
    status = igtl.Status.ok("warm", device_name="Laser")
    force = igtl.Sensor([0.12, -3.4], unit="N", device_name="Force")
    scaled = igtl.Transform(np.diag([0.1, 0.1, 1, 1]), device_name="ImageToProbe")
    found = [*poses, image, text, status, force, scaled]
    for message in found:
        message.timestamp = STAMP
    return found


@contextlib.contextmanager
def serving(behave: Callable[[igtl.Link], None]) -> Iterator[str]:
    """A server that treats each client like this; its address."""
    with igtl.listen(port=0) as listener:

        def run() -> None:
            with contextlib.suppress(igtl.ConnectionClosed, OSError):
                while True:
                    with listener.accept() as link, contextlib.suppress(igtl.ConnectionClosed):
                        behave(link)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield f"localhost:{listener.port}"
        finally:
            listener.close()


def once(link: igtl.Link) -> None:
    for message in messages():
        link.send(message)


def stays(link: igtl.Link) -> None:
    once(link)
    for _ in link:
        pass


def silent(link: igtl.Link) -> None:
    for _ in link:
        pass
