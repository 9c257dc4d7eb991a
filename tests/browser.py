"""A real browser on the page of `igtl view`: Chromium without a screen, drawing in software."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
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
        if not re.match(r"(https?|ws)://(localhost|127\.0\.0\.1):|(blob|data):", url):
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
