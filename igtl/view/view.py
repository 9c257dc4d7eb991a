"""The page: a server of its own in a thread, and what it shows."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable
from html import escape
from typing import Any, Final, Self

from igtl._stream import Stats
from igtl.codec.message import Message
from igtl.extras import need
from igtl.recording import Recording
from igtl.session.clock import Clock
from igtl.view.feed import Feed
from igtl.view.page import Page
from igtl.view.playing import Player, Taking
from igtl.view.sources import Following

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class View:
    """A live page in a browser, served from this process; see docs/view.md.

        with igtl.View(port=8080) as view:
            print(view.url)
            view.show(image)

    Args:
        link: followed from the beginning; see `follow`.
        host: address to listen at. Default: loopback only. Read docs/view.md before another one.
        port: default 0, a free one.
        token: which the browser must have. Default: a new one. It is part of `url`.
        control: browsers may also record. Default: they may only watch.
        folder: where the record button makes its files. Default: the current folder.
        patients: show the names of patients. Default: they are hidden.
        max_browsers: at once; default 8.
        cert, key: PEM files, to serve by HTTPS.

    Attributes:
        host, port: where it listens.
        url: of the page, with the token.

    Raises:
        OSError: it cannot listen there, or the certificate is wrong.
        ModuleNotFoundError: the extra `igtl[view]` is missing.
    """

    def __init__(
        self,
        link: Any = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        control: bool = False,
        folder: str | os.PathLike[str] = ".",
        patients: bool = False,
        max_browsers: int = 8,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
    ) -> None:
        uvicorn = need("uvicorn", "view")
        need("simplejpeg", "view")
        self._token = secrets.token_urlsafe(18) if token is None else token
        if not self._token or not all(c.isalnum() or c in "-_" for c in self._token):
            raise ValueError("a token consists of letters, digits, - and _")
        self._control = control
        self._secure = cert is not None
        self._player: Player | None = None
        self._following: list[Following] = []
        self._feed = Feed(patients=patients, on_change=self._changed)
        self._taking = Taking(self._feed, folder)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        address = "127.0.0.1" if host == "localhost" else host
        self._page = Page(
            self._feed, self._token, state=self._state, handle=self._handle,
            hosts=_LOOPBACK if address in _LOOPBACK else None, max_browsers=max_browsers,
        )  # fmt: skip
        config = uvicorn.Config(
            self._page.application(), log_config=None, access_log=False, lifespan="off",
            ws="websockets-sansio", ws_max_size=1 << 16, ws_per_message_deflate=False,
            server_header=False, limit_concurrency=16 + 8 * max_browsers,
            timeout_graceful_shutdown=1, ssl_certfile=cert, ssl_keyfile=key,
        )  # fmt: skip
        config.load()  # the certificate: errors are the caller's
        self._socket = socket.create_server((address, port), family=family)
        self.host, self.port = self._socket.getsockname()[:2]
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="igtl view server", daemon=True)
        self._thread.start()
        if link is not None:
            self.follow(link)

    def _run(self) -> None:
        from websockets.exceptions import InvalidState

        # uvicorn raises it on shutdown if a browser closes its WebSocket at the same moment
        with contextlib.suppress(InvalidState):
            self._server.run(sockets=[self._socket])

    @property
    def url(self) -> str:
        """Address of the page. The token is its fragment, which browsers do not send."""
        known = {"127.0.0.1": "localhost", **dict.fromkeys(("0.0.0.0", "::"), socket.gethostname())}
        host = known.get(self.host, self.host)
        if ":" in host:
            host = f"[{host}]"
        return f"http{'s' * self._secure}://{host}:{self.port}/#{self._token}"

    @property
    def browsers(self) -> int:
        """How many browsers watch."""
        return self._page.browsers

    # -- what is shown

    def show(self, message: Message, *, clock: Clock | None = None) -> None:
        """Show a message of any type, in addition to what is shown; from any thread.

        The arrays of the message may be changed once the page shows it, not before.

        Args:
            message: the message.
            clock: of its sender (`link.clock()`), by which the delay from its time stamp to its
                arrival is shown. Without it, the delay includes the difference of the clocks.
        """
        self._feed.take(message, clock=clock)

    def follow(self, link: Any) -> None:
        """Show all that a link receives, in a thread, until the link or the view is closed.

        Only the view receives from it then; others may send on it.

        Args:
            link: of `igtl.connect` (with `reconnect=` it is followed over reconnections),
                `igtl.pipe`, …, or an `igtl.udp.Receiver`.
        """
        self._following.append(Following(self._feed, link))

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Count the losses of a link whose messages the caller shows itself."""
        self._feed.watch(stats)

    def note(self, text: str, *, source: str = "igtl") -> None:
        """Add a line to the log of the page."""
        self._feed.note(text, source=source)

    def play(self, path: str | os.PathLike[str], *, loop: bool = False) -> None:
        """Play a recording, with a time bar for the browsers.

        Args:
            path: of the recording.
            loop: begin again at its end.

        Raises:
            FileError: the file is not a recording of OpenIGTLink.
            OSError: it cannot be read.
        """
        if self._player is not None:
            self._player.close()
        self._player = Player(self._feed, Recording(path), loop=loop)

    def widget(self, height: int = 640) -> Widget:
        """Return the page as an object that Jupyter shows in a frame.

        Args:
            height: of the frame, in pixels.
        """
        self._page.embedders = "'self' http://localhost:* http://127.0.0.1:* https:"
        return Widget(self.url, height)

    # -- what browsers get, and ask for

    def _changed(self) -> None:
        self._page.wake()

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"control": self._control}
        if self._player is not None:
            state["recording"] = self._player.state
        if self._control:
            state["taking"] = self._taking.state
        return state

    def _handle(self, request: dict[str, Any]) -> None:
        if "record" in request:
            if not self._control:
                raise ValueError("this page may only look; start it with control")
            self._taking.switch(bool(request["record"]))
        elif self._player is None:
            raise ValueError("no recording is shown")
        elif "play" in request:
            self._player.play(bool(request["play"]))
        elif "seek" in request:
            self._player.seek(float(request["seek"]))
        elif "step" in request:
            self._player.step(int(request["step"]))
        elif "speed" in request:
            self._player.speed(float(request["speed"]))
        self._page.wake()

    # -- end

    def wait(self) -> None:
        """Return once the server has ended: after `close` in another thread."""
        self._thread.join()

    def close(self) -> None:
        """Stop serving, and all threads. Links that were followed stay open."""
        for following in self._following:
            following.close()
        if self._player is not None:
            self._player.close()
        self._taking.close()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<View on {self.host}:{self.port}, {self.browsers} browsers>"


class Widget:
    """A frame with the page, for Jupyter.

    Attributes:
        url: of the page, with the token.
        height: of the frame, in pixels.
    """

    def __init__(self, url: str, height: int) -> None:
        self.url = url
        self.height = height

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{escape(self.url)}" width="100%" height="{self.height}" '
            'style="border:0" allow="fullscreen"></iframe>'
        )
