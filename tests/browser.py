"""A real browser on the page of `igtl view`: Chromium without a screen, drawing in software."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SCREENSHOTS = Path(os.environ.get("IGTL_SCREENSHOTS", "build/screenshots"))
_ARGUMENTS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage", "--ignore-gpu-blocklist",
]  # fmt: skip


def program() -> str | None:
    """Path of Chromium, if there is one."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


@contextmanager
def opened() -> Iterator[Any]:
    """The browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=_ARGUMENTS)
        yield browser
        browser.close()


class SlowNetwork:
    """A way to a port of this machine that passes so many bytes a second, and holds little back.

    Attributes:
        port: where it is entered.
    """

    def __init__(self, port: int, rate: float) -> None:
        self._to, self._rate = port, rate
        self._free = 0.0  # when what has entered is through
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            far = socket.socket()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            far.connect(("127.0.0.1", self._to))
            self._open += [near, far]
            self._start(self._pass, near, far)
            self._start(self._pass, far, near)

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1448):
                with self._lock:
                    self._free = max(self._free, time.monotonic()) + len(data) / self._rate
                    wait = self._free - time.monotonic()
                time.sleep(max(0.0, wait))
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> SlowNetwork:
        return self

    def __exit__(self, *exc: object) -> None:
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Tab:
    """A page of the browser, which notes what it may not do: errors, requests to other hosts."""

    def __init__(self, browser: Any, url: str, *, size: tuple[int, int] = (800, 480), **more: Any):
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **more)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("websocket", lambda socket: self._asked(socket.url))
        self.page.goto(url)

    def _asked(self, url: str) -> None:
        if not re.match(r"(https?|wss?)://(localhost|127\.0\.0\.1):|(blob|data):", url):
            self.elsewhere.append(url)

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression of the page is true; its value."""
        return self.page.wait_for_function(expression, timeout=1000 * seconds).json_value()

    def value(self, expression: str) -> Any:
        """Of an expression of the page."""
        return self.page.evaluate(expression)

    def text(self, selector: str) -> str:
        """Of an element."""
        return str(self.page.locator(selector).text_content())

    def picture(self, selector: str = "body", name: str | None = None) -> npt.NDArray[np.uint8]:
        """(height, width, 3): an element as it is seen; kept as a file of that name."""
        import simplejpeg

        element = self.page.locator(selector)
        data = element.screenshot(type="jpeg", quality=100)
        if name is not None:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
        decoded: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
        return decoded

    def settle(self) -> None:
        """Wait until all that has changed is drawn."""
        self.value(
            "() => new Promise(done => { igtlView.page.redraw(); let n = 0; const next = () =>"
            " n++ < 4 ? setTimeout(() => requestAnimationFrame(next), 60) : done(true); next(); })"
        )

    def close(self) -> None:
        """Close it; it has done nothing that it may not do."""
        self.context.close()
        assert self.errors == []
        assert self.elsewhere == []
