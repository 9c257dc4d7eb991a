"""A server for many clients, for programs without an event loop: `igtl.serve`.

It is `igtl.aio.server` in one I/O thread. Handlers run in a second thread, one after the other;
commands, providers and streams each in a thread of their own, so that they may take their time.
All of them are daemonic: a forgotten close cannot hang the interpreter's exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import queue
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import CancelledError as Cancelled
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any, Self, TypeVar, Unpack

from igtl._core import Frame
from igtl.aio import server as aio
from igtl.aio.answers import Busy, Runner, as_exception
from igtl.aio.peer import Peer as AioPeer
from igtl.blocking.link import Asking
from igtl.blocking.steps import method
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.log import named
from igtl.options import PORT, ServerOptions, ServerSettings, seconds
from igtl.session import serving
from igtl.session.requests import Exchange
from igtl.session.serving import PeerBase, ServerBase

T = TypeVar("T")
_IN_FLIGHT = 64  # calls on their way to the I/O thread; then the caller waits for it
_MAX_THREADS = 1000  # of commands, providers and streams of all clients, of those that left too
_LAST_WORDS = 0.5  # seconds for what is cancelled when the I/O thread ends


def _result(future: Future[T], timeout: float | None = None) -> T:
    """Wait for a result of the I/O thread; Ctrl-C interrupts the wait, on Windows too."""
    if sys.platform != "win32":
        return future.result(timeout)
    while True:
        try:
            return future.result(0.2)
        except NotYet:
            if future.done():
                raise


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._slots = threading.BoundedSemaphore(_IN_FLIGHT)
        self.thread = threading.Thread(target=self._run, name="igtl I/O", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self._cancel_all()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            with contextlib.suppress(ValueError):  # none was taken
                self._slots.release()  # wakes the threads that wait in `post`, one after the other

    def _cancel_all(self) -> None:
        """End what still runs, so that no thread waits for it for ever. A second time ends what
        waits for a thread of the user."""
        for _ in range(2):
            if tasks := asyncio.all_tasks(self.loop):
                for task in tasks:
                    task.cancel()
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_WORDS))

    @property
    def is_here(self) -> bool:
        """Whether the thread is one of this process: a forked child has none."""
        return os.getpid() == self._process

    def _check_process(self) -> None:
        if not self.is_here:
            raise RuntimeError("this server belongs to the process that this one was forked from")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it."""
        try:
            self._check_process()
            if threading.current_thread() is self.thread:
                raise RuntimeError("this would wait for the I/O thread in the I/O thread: await it")
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError as error:
            work.close()
            if self.loop.is_closed():
                raise ConnectionClosed("this server was closed") from None
            raise error from None
        try:
            return _result(future)
        except Cancelled:  # the loop has ended
            raise ConnectionClosed("this server was closed") from None
        except BaseException:
            future.cancel()
            raise

    def post(self, work: Callable[[], Any]) -> None:
        """Call something there soon, in the order of the calls; in the I/O thread, now."""
        self._check_process()
        if threading.current_thread() is self.thread:
            work()
            return

        def call() -> None:
            self._slots.release()
            work()

        self._slots.acquire()
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            self._slots.release()
            raise ConnectionClosed("this server was closed") from None

    def stop(self) -> None:
        """End the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self.thread:
            self.thread.join()


class _Threads(Runner):
    """Runs the user's functions in threads; coroutine functions run in the event loop, and get
    the peer of `igtl.aio`."""

    def __init__(self) -> None:
        self.io: _Loop
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._current: asyncio.Future[Any] | None = None  # of the handler that runs now
        self._apart = 0  # threads of commands, providers and streams
        self._left = False

    def wrapped(self, arg: Any) -> Any:
        """A peer as its user sees it; anything else as it is."""
        if not isinstance(arg, AioPeer):
            return arg
        if arg.facade is None:
            arg.facade = Peer(arg, self.io)
        return arg.facade

    def _call(self, answer: asyncio.Future[Any], work: Callable[..., Any], args: Any) -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = work(*map(self.wrapped, args))
        except BaseException as failed:
            error = as_exception(failed)
        with contextlib.suppress(RuntimeError):  # the server was closed meanwhile
            self.io.loop.call_soon_threadsafe(_settle, answer, result, error)

    # -- handlers

    def _serve_handlers(self) -> None:
        while (item := self._work.get()) is not None:
            self._current = item[0]
            self._call(*item)

    async def in_order(self, work: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(work):
            return await work(*args)
        if self._left:
            raise ConnectionClosed("this server was closed")
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._serve_handlers, name="igtl handlers", daemon=True
            )
            self._thread.start()
        answer = asyncio.get_running_loop().create_future()
        self._work.put((answer, work, args))
        return await answer

    async def leave(self) -> None:
        """The handler that runs now closes the server, so nothing waits for it any more, nor for
        the ones behind it, which will not run."""
        self._left = True
        waiting = [self._current]
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.append(self._work.get_nowait()[0])
        for answer in waiting:
            if answer is not None:
                _settle(answer, None, ConnectionClosed("this server was closed"))

    @property
    def in_handler(self) -> bool:
        """Whether this is the thread of the handlers."""
        return threading.current_thread() is self._thread

    # -- commands, providers and streams

    def _started(self, name: str, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """What a thread of its own makes of a function."""
        if self._apart >= _MAX_THREADS:
            raise Busy(f"is one more than {_MAX_THREADS} in progress for all clients")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._apart += 1
        answer.add_done_callback(self._ended)
        threading.Thread(
            target=self._call, args=(answer, work, args), name=f"igtl {name}", daemon=True
        ).start()
        return answer

    def _ended(self, answer: asyncio.Future[Any]) -> None:
        self._apart -= 1

    async def apart(self, work: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(work):
            return await work(*args)
        answer = self._started(getattr(work, "__name__", "command"), work, *args)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            await _over(answer)
            raise

    async def begun(self, provider: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(provider) or inspect.isasyncgenfunction(provider):
            return await super().begun(provider, *args)
        answer = self._started("stream", provider, *args)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            await _over(answer)
            if answer.exception() is None:
                await self.closed(answer.result())
            raise

    async def closed(self, frames: Any) -> None:
        if hasattr(frames, "aclose"):
            await super().closed(frames)
        elif hasattr(frames, "close"):
            await self.apart(frames.close)

    async def iterated(self, frames: Any) -> AsyncGenerator[Message]:
        if hasattr(frames, "__aiter__"):
            async for message in super().iterated(frames):
                yield message
            return
        items: asyncio.Queue[Any] = asyncio.Queue()
        room = threading.Semaphore(1)  # one frame at a time: the thread waits for the client
        stopped = threading.Event()

        def pull() -> None:
            try:
                for message in frames:
                    room.acquire()
                    if stopped.is_set():
                        break
                    with contextlib.suppress(RuntimeError):  # the server was closed meanwhile
                        self.io.loop.call_soon_threadsafe(items.put_nowait, message)
            finally:
                if hasattr(frames, "close"):
                    frames.close()

        end = self._started("stream", pull)
        end.add_done_callback(items.put_nowait)
        try:
            while (item := await items.get()) is not end:
                yield item
                room.release()
            end.result()
        finally:
            stopped.set()
            room.release()
            await _over(end)  # until then it counts

    def stop(self) -> None:
        """End the thread of the handlers when it has done what it does."""
        self._work.put(None)
        if self._thread is not None and not self.in_handler:
            self._thread.join(1)


def _settle(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)


async def _over(answer: asyncio.Future[Any]) -> None:
    """Return when a thread has ended, whatever became of it."""
    await asyncio.wait([answer])
    if not answer.cancelled():
        answer.exception()  # which is not reported as one that was never looked at


class Peer(PeerBase, Asking):
    """One client of a server; may be used in any thread.

    Attributes: see `PeerBase`.
    """

    def __init__(self, peer: AioPeer, io: _Loop) -> None:
        super().__init__(peer.connection, peer.id)
        self.connected_at, self.since = peer.connected_at, peer.since
        self._peer = peer
        self._io = io

    def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Queue a message for this client under the server's policy; packed at once.

        Raises:
            EncodeError: the message cannot be sent to it as it is.
            ConnectionClosed: it is gone.
        """
        connection = self._peer.connection
        packed = self._peer.session.pack(message, crc=crc)
        outbox = self._peer.session.outbox
        if outbox is None or outbox.policy == "block" or connection.is_over:
            self._io.run(connection.put_wait(packed, None))
        else:
            self._io.post(lambda: connection.put(packed))

    def request(self, exchange: Exchange, timeout: float | None) -> Message:
        return self._io.run(self._peer.request(exchange, timeout))

    def disconnect(self) -> None:
        """Send what is queued for it, then close."""
        self._io.run(self._peer.disconnect())

    def __repr__(self) -> str:
        return f"<Peer {self.id} {named(self.peer)} {self.stats}>"


class Server(ServerBase):
    """A server for many clients; see `serve`. Its methods may be called in any thread.

    Attributes:
        host, port: where it listens.
        others: see `igtl.session.serving.ServerBase`.
    """

    def __init__(self, open_server: Callable[[Runner], Any]) -> None:
        self._threads = _Threads()
        self._io = self._threads.io = _Loop()
        self._closed = threading.Event()
        self._closing = threading.Lock()
        try:
            self._server: aio.Server = self._io.run(open_server(self._threads))
        except BaseException:
            self._io.stop()
            raise
        super().__init__(self._server.functions)
        self.host, self.port = self._server.host, self._server.port
        self.refused, self.gone = self._server.refused, self._server.gone

    def start(self) -> None:
        """Begin to listen, if `serve` was told not to."""
        self._io.run(self._server.start())

    @property
    def clients(self) -> list[Peer]:
        """Who is connected."""
        return [self._threads.wrapped(peer) for peer in self._server.clients]

    def broadcast(self, message: Message | Frame, *, latch: bool = False, crc: bool = True) -> None:
        """Send a message to all clients; packed once, at once, for each header version.

        Clients still at version 1 get it without metadata and id, which is counted in
        `Peer.stripped`; a new client has a quarter of a second to show version 2. With the
        policy "block" this waits for the slowest.

        Args:
            latch: also hand it to every client that comes later, at once, until a newer one of
                this type and device name takes its place.
        """
        packed = self._server.pack(message, latch=latch, crc=crc)
        if self._server.compresses:
            self._server.compress(packed)  # here, not in the I/O thread
        if self._server.options.policy == "block":
            self._io.run(self._server.deliver(packed))
        else:
            self._io.post(lambda: self._server.deliver_now(packed))

    def peer_of(self, client: int) -> Peer:
        found: Peer = self._threads.wrapped(self._server.peers[client])
        return found

    send_to = method(serving.send_to)
    disconnect = method(serving.disconnect)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server is closed, or `timeout` seconds; returns whether it is closed.
        Ctrl-C interrupts the wait."""
        timeout = seconds("timeout", timeout)
        if sys.platform != "win32" or timeout is not None:
            return self._closed.wait(timeout)
        while not self._closed.wait(0.2):
            pass
        return True

    def shutdown(self, *, timeout: float | None = 5.0) -> None:
        """Stop listening, send what is queued, handle what still comes, and close.

        A handler may call it: then what waits behind that handler is not handled. In a forked
        child, which has no part of the server, it does nothing.

        Args:
            timeout: seconds until a client that has not taken everything is cut. None: wait for
                all.
        """
        timeout = seconds("timeout", timeout)
        if not self._io.is_here:
            return
        if self._threads.in_handler:
            with contextlib.suppress(ConnectionClosed):
                self._io.run(self._threads.leave())
        with self._closing:
            if self._closed.is_set():
                return
            self._io.run(self._server.shutdown(timeout=timeout))
            self._threads.stop()
            self._io.stop()
            self._closed.set()

    close = method(serving.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server on {named((self.host, self.port))}, {len(self._server.clients)} clients>"


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    start: bool = True,
    **settings: Unpack[ServerSettings],
) -> Server:
    """Serve many clients:

        with igtl.serve(port=18944, start=False) as server:
            @server.on(Transform, "Probe*")
            def _(message, peer): peer.send(Status.ok())
            server.start()
            server.broadcast(image)

    Args:
        host: address to listen on; default loopback only, "0.0.0.0" for all.
        port: 0 takes a free one.
        start: False: take the port, but listen only from `start()` on, so that handlers that are
            registered before miss nothing. What comes and has no handler is counted as
            "unhandled".
        settings: see `igtl.options.ServerOptions`.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError: the address cannot be used.
    """
    options = ServerOptions.of(settings)
    return Server(lambda runner: aio.open_server(host, port, options, start, runner))
