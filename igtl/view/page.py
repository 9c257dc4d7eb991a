"""The page over HTTP and its live WebSocket: which client may see what, a task for each browser.

The files of the page hold nothing secret, and are served to any client that reaches the port. All
that was received needs the token: the WebSocket as a subprotocol, arrays as a bearer token. The
browser has it from the fragment of the page's address, which browsers never send.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hmac
import importlib.util
import json
import logging
import time
from collections.abc import Callable
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from igtl.extras import MissingExtra, need
from igtl.log import log, logger
from igtl.messages.imaging import Image
from igtl.view import shapes, wire
from igtl.view.feed import Feed, Stream
from igtl.view.flow import Flow
from igtl.view.wire import Quality

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_THREE: Final = "elements/scene/dist/index.js"  # of NiceGUI: three.js as an ES module
PROTOCOL: Final = "igtl.view"
_MAX_REQUEST: Final = 1 << 14  # bytes of what a browser says
_MAX_GZIP: Final = 1 << 28


def policy(embedders: str) -> str:
    """Return the content security policy: nothing but our own files, and pixels from memory.

    Args:
        embedders: sites that may show the page in a frame; "'none'", or sources.
    """
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {embedders}"
    )


def three() -> Path:
    """Return the file with three.js that NiceGUI contains; NiceGUI itself is not loaded.

    Raises:
        MissingExtra: NiceGUI is not installed, or a version without this file.
    """
    found = importlib.util.find_spec("nicegui")
    places = found.submodule_search_locations if found is not None else None
    for place in places or ():
        path = Path(place) / _THREE
        if path.is_file():
            return path
    raise MissingExtra(
        'nicegui (which brings three.js) is not installed: pip install "igtl[view]"', name="nicegui"
    )


class Pictures:
    """Encoded images, made in a thread: each once in each quality, for all pages."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, Quality], tuple[int, asyncio.Future[bytes]]] = {}

    async def get(self, stream: Stream, image: Image, change: int, quality: Quality) -> bytes:
        """Return the frame of an image."""
        key = stream.number, quality
        made = self._made.get(key)
        if made is None or made[0] != change:
            work = asyncio.get_running_loop().run_in_executor(
                None, wire.picture, stream.number, change, image, image.timestamp or 0.0, quality
            )
            made = self._made[key] = change, work
        return await asyncio.shield(made[1])


class Page:
    """The application, and the browsers that watch.

    Args:
        feed: what is shown.
        token: which a browser must have.
        hosts: names by which browsers may address this server; None: any.
        state: what all browsers get when it changes.
        handle: called with the request of a browser: {"seek": 3.5}, ….
        max_browsers: at once; more are turned away.

    Attributes:
        browsers: how many watch.
        embedders: sites that may show the page in a frame; see `policy`.
    """

    def __init__(
        self,
        feed: Feed,
        token: str,
        *,
        hosts: frozenset[str] | None,
        state: Callable[[], dict[str, Any]],
        handle: Callable[[dict[str, Any]], None],
        max_browsers: int,
    ) -> None:
        self.embedders = "'none'"
        self._feed = feed
        self._token = token
        self._hosts = hosts
        self._state = state
        self._handle = handle
        self._max_browsers = max_browsers
        self._three = three()
        self._pictures = Pictures()
        self._events: set[asyncio.Event] = set()  # of all tasks that wait for a change
        self.browsers = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = False
        self._preparing: asyncio.Task[None] | None = None
        need("uvicorn", "view")
        self._starlette = need("starlette.applications", "view")
        self._routing = need("starlette.routing", "view")
        self._responses = need("starlette.responses", "view")
        self._websockets = need("starlette.websockets", "view")

    def application(self) -> Any:
        """Return the ASGI application."""
        route, socket = self._routing.Route, self._routing.WebSocketRoute
        app = self._starlette.Starlette(routes=[
            route("/", self._index), route("/three.js", self._library),
            route("/static/{name}", self._file), route("/blob/{name}", self._blob),
            socket("/live", self._live),
        ])  # fmt: skip

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and not self._is_our_name(_header(scope, b"host")):
                response = self._responses.PlainTextResponse("another host name", 421)
                await response(scope, receive, send)
                return
            await app(scope, receive, send)

        return guarded

    def wake(self) -> None:
        """Tell the tasks of the browsers that something has changed; from any thread."""
        if self._loop is None or self._woken:
            return
        self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._woken = False
        for event in self._events:
            event.set()

    # -- who may see it

    def _is_our_name(self, host: str) -> bool:
        """Return whether a host name is one of ours.

        Otherwise a page of another site, whose name leads to this machine, could connect (DNS
        rebinding).
        """
        return self._hosts is None or _without_port(host).lower() in self._hosts

    def _may_watch(self, websocket: Any) -> str | None:
        """Return the reason why a browser may not watch; None if it may."""
        host, origin = websocket.headers.get("host", ""), websocket.headers.get("origin", "")
        if not self._is_our_name(host):
            return "another host name"
        if origin not in (f"http://{host}", f"https://{host}"):
            return "a page of another origin"
        offered = websocket.scope.get("subprotocols", [])
        if PROTOCOL not in offered or not any(self._is_token(text) for text in offered):
            return "no token, or a wrong one"
        return None

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self._token.encode())

    # -- files

    def _respond(self, body: bytes, kind: str, *, cache_for: str = "no-cache", **more: str) -> Any:
        headers = {
            "Content-Security-Policy": policy(self.embedders), "Cache-Control": cache_for,
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin", **more,
        }  # fmt: skip
        return self._responses.Response(body, media_type=kind, headers=headers)

    async def _index(self, request: Any) -> Any:
        return self._respond((_STATIC / "index.html").read_bytes(), "text/html")

    async def _file(self, request: Any) -> Any:
        name = request.path_params["name"]
        path = _STATIC / name
        if path.parent != _STATIC or path.suffix not in _TYPES or not path.is_file():
            return self._responses.PlainTextResponse("not found", 404)
        return self._respond(path.read_bytes(), _TYPES[path.suffix])

    async def _library(self, request: Any) -> Any:
        if not _takes_gzip(request):
            return self._respond(self._three.read_bytes(), "text/javascript")
        packed = await asyncio.to_thread(_packed, self._three)
        return self._respond(packed, "text/javascript", **{"Content-Encoding": "gzip"})

    async def _blob(self, request: Any) -> Any:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self._is_token(given):
            return self._responses.PlainTextResponse("no token, or a wrong one", 403)
        data = self._feed.blobs.get(request.path_params["name"])
        if data is None:
            return self._responses.PlainTextResponse("no longer here", 404)
        kind, forever = "application/octet-stream", "private, max-age=31536000, immutable"
        if _takes_gzip(request) and not _is_local(request) and len(data) < _MAX_GZIP:
            packed = await asyncio.to_thread(gzip.compress, data, 1)
            return self._respond(packed, kind, cache_for=forever, **{"Content-Encoding": "gzip"})
        return self._respond(data, kind, cache_for=forever)

    # -- the live socket

    async def _live(self, websocket: Any) -> None:
        why = self._may_watch(websocket)
        if why is not None:
            log(logging.WARNING, "%s was refused: %s", _client(websocket), why)
            await websocket.close(1008)  # before it is accepted: HTTP 403
            return
        await websocket.accept(subprotocol=PROTOCOL)
        if self.browsers >= self._max_browsers:
            await websocket.close(1013, f"{self._max_browsers} browsers watch already")
            return
        self._loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        self._events.add(changed)
        self.browsers += 1
        flow = Flow(self._feed, now=time.monotonic())
        if self._preparing is None:
            self._preparing = asyncio.ensure_future(self._prepare())
        tasks = [
            asyncio.ensure_future(self._send(websocket, flow, changed)),
            asyncio.ensure_future(self._receive(websocket, flow, changed)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._events.discard(changed)
            self.browsers -= 1
            if not self.browsers and self._preparing is not None:
                self._preparing.cancel()
                self._preparing = None
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception) and not self._is_end(ended):
                    logger.error("a browser lost its page", exc_info=ended)
            with contextlib.suppress(RuntimeError, self._websockets.WebSocketDisconnect):
                await websocket.close(1011)  # the page connects again

    def _is_end(self, error: Exception) -> bool:
        """Return whether a connection has ended, rather than failed."""
        return isinstance(error, self._websockets.WebSocketDisconnect | RuntimeError | OSError)

    async def _receive(self, websocket: Any, flow: Flow, changed: asyncio.Event) -> None:
        while True:
            text = await websocket.receive_text()
            if len(text) <= _MAX_REQUEST:
                try:
                    await self._hear(text, flow)
                except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
                    flow.tell(refused=str(error) or type(error).__name__)
                changed.set()

    async def _hear(self, text: str, flow: Flow) -> None:
        """Take a text of a browser.

        "11 20.1 12 3.5" acknowledges the ticks 11 and 12, which the browser had for 20.1 and 3.5
        ms.
        """
        if not text.startswith("{"):
            numbers, now = text.split(), time.monotonic()
            for number, held in zip(numbers[::2], numbers[1::2], strict=True):
                flow.acknowledge(int(number), float(held) / 1e3, now)
            return
        request = json.loads(text)
        if "exact" in request:
            flow.exact = bool(request["exact"])
        else:
            await asyncio.to_thread(self._handle, request)  # it may wait for a disk

    async def _send(self, websocket: Any, flow: Flow, changed: asyncio.Event) -> None:
        while True:
            changed.clear()
            delay = flow.delay(time.monotonic())
            if delay is None or delay > 0.02:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), delay)
                continue
            if delay > 0:
                await asyncio.sleep(delay)
            tick = flow.tick(time.monotonic(), self._state())
            for text in tick.texts:
                await websocket.send_text(text)
            for stream, image, change in tick.images:
                try:
                    packed = await self._pictures.get(stream, image, change, flow.quality)
                except Exception as error:  # of this image: the others are shown
                    flow.tell(refused=f"{stream.key[1]}: {error}")
                    continue
                await websocket.send_bytes(packed)
            await websocket.send_bytes(wire.poses(tick.number, time.time(), tick.poses))

    async def _prepare(self) -> None:
        """Prepare the shapes, one after the other, in a thread, while a page watches."""
        done: dict[int, int] = {}
        changed = asyncio.Event()
        self._events.add(changed)
        try:
            while True:
                changed.clear()
                for stream in self._feed.all():
                    message, change = stream.newest, stream.changed
                    if done.get(stream.number) == change or not _is_shape(message):
                        continue
                    done[stream.number] = change
                    try:
                        drawn = await asyncio.to_thread(shapes.shape, message, self._feed.blobs)
                    except Exception as error:  # of this message: the others are shown
                        self._feed.note(str(error), source=" ".join(stream.key), severity="warn")
                        continue
                    self._feed.draw(stream, change, drawn)
                await changed.wait()
        finally:
            self._events.discard(changed)


def _is_shape(message: Any) -> bool:
    if isinstance(message, Image):
        return shapes.is_volume(message)
    return getattr(message, "type_name", "") in ("POLYDATA", "POINT", "TRAJ")


@cache
def _packed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), 6)


def _takes_gzip(request: Any) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def _is_local(request: Any) -> bool:
    try:
        return ip_address(request.client.host).is_loopback
    except (AttributeError, ValueError):
        return False


def _client(websocket: Any) -> str:
    client = websocket.client
    return "a browser" if client is None else f"{client.host}:{client.port}"


def _header(scope: Any, name: bytes) -> str:
    found = next((value for key, value in scope["headers"] if key == name), b"")
    return str(found, "latin-1")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
