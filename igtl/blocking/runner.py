"""How `igtl.serve` calls the functions of its user.

Its I/O runs in one thread. Handlers run in a second thread, one after the other; commands,
providers and streams each in a thread of their own, so that they may take their time. All of them
are daemonic: a forgotten close cannot hang the interpreter's exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import CancelledError as Cancelled
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

from igtl.aio.answers import Busy, Runner, as_exception
from igtl.aio.peer import Peer as AioPeer
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed

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


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._ended = False
        self._slots = threading.BoundedSemaphore(_IN_FLIGHT)
        self._posted: deque[Callable[[], Any]] = deque()
        self._woken = False  # the loop is about to call what was posted
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
            self._ended = True
            with contextlib.suppress(ValueError):  # none was taken
                self._slots.release()  # wakes the threads that wait in `post`, one after the other

    def _cancel_all(self) -> None:
        """End what still runs, so that no thread waits for it for ever.

        A second time ends what waits for a thread of the user.
        """
        for _ in range(2):
            if tasks := asyncio.all_tasks(self.loop):
                for task in tasks:
                    task.cancel()
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_WORDS))

    @property
    def is_here(self) -> bool:
        """Whether the thread is one of this process: a forked child has none."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Check that the thread is there.

        Raises:
            RuntimeError: it is in the process that this one was forked from.
            ConnectionClosed: it has ended.
        """
        if os.getpid() != self._process:
            raise RuntimeError("this server belongs to the process that this one was forked from")
        if self._ended:
            raise ConnectionClosed("this server was closed")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it."""
        try:
            self.check()
            if threading.current_thread() is self.thread:
                raise RuntimeError("this would wait for the I/O thread in the I/O thread: await it")
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        except (RuntimeError, ConnectionClosed) as error:
            work.close()
            self.check()
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
        self.check()
        if threading.current_thread() is self.thread:
            work()
            return

        self._slots.acquire()
        self._posted.append(work)
        try:
            if not self._woken:  # one wake-up for all that is posted meanwhile
                self._woken = True
                self.loop.call_soon_threadsafe(self._call_posted)
            elif self.loop.is_closed():
                raise RuntimeError
        except RuntimeError:
            self._slots.release()
            raise ConnectionClosed("this server was closed") from None

    def _call_posted(self) -> None:
        self._woken = False
        for _ in range(len(self._posted)):  # what is posted from now on wakes the loop again
            work = self._posted.popleft()
            self._slots.release()
            try:
                work()
            except Exception as error:
                self.loop.call_exception_handler({"message": "in a server", "exception": error})

    def stop(self) -> None:
        """End the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self.thread:
            self.thread.join()


class Threads(Runner):
    """Runs the user's functions in threads.

    Coroutine functions run in the event loop, and get the peer of `igtl.aio`.

    Args:
        facade: makes a peer for them.

    Attributes:
        io: the event loop.
    """

    def __init__(self, facade: Callable[[AioPeer, Loop], Any]) -> None:
        self.io = Loop()
        self._facade = facade
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._current: asyncio.Future[Any] | None = None  # of the handler that runs now
        self._apart = 0  # threads of commands, providers and streams
        self._left = False

    def wrapped(self, arg: Any) -> Any:
        """Return a peer as its user sees it; anything else as it is."""
        if not isinstance(arg, AioPeer):
            return arg
        if arg.facade is None:
            arg.facade = self._facade(arg, self.io)
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
        """Call a handler in the thread of the handlers, one after the other."""
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
        """Let the running handler close the server: nothing waits for it any more.

        Nor does anything wait for the handlers behind it, which will not run.
        """
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
        """Return the result of a function, which a thread of its own calls."""
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
        """Call a function in a thread of its own; see `Runner.apart`."""
        if inspect.iscoroutinefunction(work):
            return await work(*args)
        answer = self._started(getattr(work, "__name__", "command"), work, *args)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            await _over(answer)
            raise

    async def begun(self, provider: Callable[..., Any], *args: Any) -> Any:
        """Return the frames of a stream, made in a thread of their own; see `Runner.begun`."""
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
        """Close the frames of a stream, those of a plain generator in a thread."""
        if hasattr(frames, "aclose"):
            await super().closed(frames)
        elif hasattr(frames, "close"):
            await self.apart(frames.close)

    async def iterated(self, frames: Any) -> AsyncGenerator[Message]:
        """One frame after the other; plain iterables run in a thread of their own."""
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
