"""What a server does with what arrives: handlers, answers to requests, streams, commands."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from igtl import _core
from igtl._core import Frame
from igtl.aio.peer import Limit, Peer
from igtl.codec.message import Message
from igtl.errors import CommandFailed, ConnectionClosed, EncodeError
from igtl.log import log
from igtl.messages.general import Command, CommandReply, Status, StatusCode
from igtl.messages.queries import Get, GetCapability, GetStatus, Ready, Start, Stop
from igtl.session.compress import CompressingProtocol, capabilities
from igtl.session.requests import (
    CommandAnswer,
    answer_of,
    fits,
    interval_of,
    named_after,
    ready_for,
    reply_to,
    with_status,
)  # fmt: skip
from igtl.session.serving import Functions, ServerBase

_ASKS = (Get, Start, Stop)
# of answers to requests without one: a STATUS without a name ends 3D Slicer
_NAMELESS = "igtl"


class Busy(Exception):
    """The server carries out as much as it may."""


def as_exception(error: BaseException) -> Exception:
    """Return the error of a user's function, as one that a task and a future can carry.

    SystemExit would end the event loop, and no future takes StopIteration.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    carried = RuntimeError(f"it raised {error!r}")
    carried.__cause__ = error
    return carried


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Whatever a function of the user raises leaves this as an Exception.

    What comes from outside passes: that this task is to end, and Ctrl-C.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if (
            isinstance(error, GeneratorExit)
            or (isinstance(error, asyncio.CancelledError) and task and task.cancelling())
            or (
                isinstance(error, KeyboardInterrupt)
                and threading.current_thread() is threading.main_thread()
            )
        ):
            raise
        raise as_exception(error) from error


class Runner:
    """How a server calls what its user has registered: here in the event loop."""

    async def in_order(self, work: Callable[..., Any], *args: Any) -> Any:
        """Handlers, one after the other."""
        result = work(*args)
        return await result if inspect.isawaitable(result) else result

    async def apart(self, work: Callable[..., Any], *args: Any) -> Any:
        """Commands and providers, which may take long.

        When this is cancelled it returns as soon as the function has.

        Raises:
            Busy: there is no room for more.
        """
        return await self.in_order(work, *args)

    async def begun(self, provider: Callable[..., Any], *args: Any) -> Any:
        """Return the frames of a stream: an iterable, or an async one; see `apart`."""
        return await self.in_order(provider, *args)

    async def iterated(self, frames: Any) -> AsyncGenerator[Message]:
        """One frame after the other; the generator is closed in the end."""
        try:
            if hasattr(frames, "__aiter__"):
                async for message in frames:
                    yield message
            else:
                for message in frames:
                    yield message
        finally:
            await self.closed(frames)

    async def closed(self, frames: Any) -> None:
        """Close the frames of a stream, if they can be closed."""
        if hasattr(frames, "aclose"):
            await frames.aclose()
        elif isinstance(frames, Iterator) and hasattr(frames, "close"):
            frames.close()


class Answers(ServerBase):
    """The user's functions of a server, and when they are called."""

    def __init__(self, runner: Runner | None = None) -> None:
        super().__init__(Functions())
        self.runner = runner or Runner()

    # -- messages

    async def handle(self, peer: Peer, message: Message) -> None:
        """Call the handlers of a message, and carry out a command."""
        handled = False
        for kind, name, handler in self.functions.handlers:
            if fits(message, kind, name):
                handled = handled or kind is not Message
                await self.guarded(peer, handler, message, peer)
        if isinstance(message, Command):
            work = self.functions.commands.get(message.name) or self.functions.commands.get("*")
            if work is not None or not handled:
                await self._command(peer, message, work)
        elif isinstance(message, _ASKS):
            provider = self._provider_of(message)
            if provider is not None or not handled:
                await self._answer(peer, message, provider)
        elif not handled and not any(kind is Message for kind, _, _ in self.functions.handlers):
            peer.stats.count_dropped(message, "unhandled")

    async def _called(self, how: Callable[..., Any], work: Callable[..., Any], *args: Any) -> Any:
        with _contained():
            return await how(work, *args)

    async def guarded(self, peer: Peer, handler: Callable[..., Any], *args: Any) -> None:
        """Call a handler; what it raises is logged, and the server goes on."""
        try:
            await self._called(self.runner.in_order, handler, *args)
        except ConnectionClosed:
            pass  # it was sending to someone who left
        except Exception as error:
            log(logging.ERROR, "a handler failed", peer=peer.peer, cause=error, error=error)

    # -- commands

    async def _command(self, peer: Peer, command: Command, work: Callable[..., Any] | None) -> None:
        if not peer.begin("max_commands", command, self._carry_out(peer, command, work)):
            await self._reply(peer, command, None, "too many commands are in progress")
        await asyncio.sleep(0)  # what is quick finishes before the next one

    async def _carry_out(
        self, peer: Peer, command: Command, work: Callable[..., Any] | None
    ) -> None:
        result, error = None, None
        try:
            if work is None:
                raise LookupError(f"there is no command {command.name!r} here")
            result = await self._called(self.runner.apart, work, command, peer)
            if not isinstance(result, CommandReply):
                result = answer_of(result)
        except CommandFailed as failed:
            error = str(failed)
        except Exception as failed:
            known = work is None or isinstance(failed, Busy)
            error = str(failed) if known else f"{type(failed).__name__}: {failed}"
            log(
                logging.WARNING, "command %r of %s failed: %s", command.name, peer.peer, error,
                peer=peer.peer, type="COMMAND", device=command.device_name, cause=failed,
            )  # fmt: skip
        if isinstance(result, CommandReply):
            try:
                with contextlib.suppress(ConnectionClosed):
                    await peer.send(with_status(result, peer.header_version))
                return
            except Exception as failed:  # it cannot be packed, for example has metadata
                result, error = None, str(failed)
        await self._reply(peer, command, result, error)

    async def _reply(
        self, peer: Peer, command: Command, answer: CommandAnswer | None, error: str | None
    ) -> None:
        try:
            reply = reply_to(command, answer, error, peer.header_version)
            reply.name = _core.fit(command.name, 128)  # of bytes that are no text it has grown
            reply.device_name = ""
            await self._tell(peer, command, reply)
        except EncodeError as failed:  # of the text, or of the name
            nameless = Command(command.command_id, "")
            failure = reply_to(nameless, None, str(failed), peer.header_version)
            await self._tell(peer, command, failure)

    # -- requests

    def _provider_of(self, request: Message) -> Callable[..., Any] | None:
        for kind, name, provider in self.functions.providers:
            if isinstance(request, Stop):
                same = issubclass(kind, Start) and kind.answer is type(request).answer
            else:
                same = isinstance(request, kind)
            # no name asks for any
            if same and (not request.device_name or fits(request, Message, name)):
                return provider
        return None

    async def _answer(
        self, peer: Peer, request: Message, provider: Callable[..., Any] | None
    ) -> None:
        if isinstance(request, Stop) and provider is not None:
            peer.stop(lambda key: _same_stream(request, key))
            await self._ready(peer, request, 0)
        elif provider is not None:
            await self._provided(peer, request, provider)
        elif isinstance(request, GetCapability):
            compresses = isinstance(peer.session.protocol, CompressingProtocol)
            await self._tell(peer, request, capabilities(compression=compresses))
        elif isinstance(request, GetStatus):
            await self._tell(peer, request, Status.ok(device_name=_NAMELESS))
        else:
            await self._refuse(peer, request, "is not provided")

    async def _provided(self, peer: Peer, request: Message, provider: Callable[..., Any]) -> None:
        if isinstance(request, Start):
            key = type(request).answer, request.device_name
            # asked for again: the new one begins when the old one has ended
            before = peer.stop(lambda other: other == key)
            work = self._stream(peer, request, provider, before)
            limit: Limit = "max_streams"
        else:
            key = None
            work = self._provide(peer, request, provider)
            limit = "max_requests"
        if not peer.begin(limit, request, work, key):
            await self._refuse(peer, request, f"is one more than {limit}", StatusCode.BUSY)
        await asyncio.sleep(0)  # what is quick finishes before the next one

    async def _provide(self, peer: Peer, request: Message, provider: Callable[..., Any]) -> None:
        try:
            found = await self._called(self.runner.apart, provider, request, peer)
            if found is None:
                await self._refuse(peer, request, "is not here")
            else:
                await peer.send(named_after(request, found))
        except ConnectionClosed:
            pass
        except Exception as error:
            await self._failed(peer, request, error)

    async def _failed(self, peer: Peer, request: Message, error: Exception) -> None:
        """Tell the client that a provider has raised this."""
        if isinstance(error, Busy):
            await self._refuse(peer, request, str(error), StatusCode.BUSY)
            return
        log(
            logging.ERROR, "the provider of %s failed", request.type_name,
            peer=peer.peer, type=request.type_name, cause=error, error=error,
        )  # fmt: skip
        await self._refuse(peer, request, "failed")

    # -- streams

    async def _stream(
        self,
        peer: Peer,
        request: Start[Any],
        provider: Callable[..., Any],
        before: list[asyncio.Task[None]],
    ) -> None:
        try:
            if before:
                await asyncio.wait(before)
            frames = await self._called(self.runner.begun, provider, request, peer)
            if frames is None:
                if ready_for(request) is None:
                    await self._refuse(peer, request, "is refused")
                await self._ready(peer, request, 1)
                return
            with _contained():
                await self._send_all(peer, request, frames)
        except ConnectionClosed:
            pass
        except Exception as error:
            await self._failed(peer, request, error)

    async def _send_all(self, peer: Peer, request: Start[Any], frames: Any) -> None:
        interval = interval_of(request)
        try:
            await self._ready(peer, request, 0)
        except BaseException:
            await self.runner.closed(frames)  # they were not begun, so nothing else closes them
            raise
        due = time.monotonic()
        async with contextlib.aclosing(self.runner.iterated(frames)) as messages:
            async for message in messages:
                # never more of a stream than the client can take, whatever its policy
                await peer.connection.send(named_after(request, message), wait=True)
                due = max(due + interval, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    # -- what a client gets as answer

    async def _ready(self, peer: Peer, request: Any, status: int) -> None:
        kind: type[Ready[Any]] | None = ready_for(request)
        if kind is not None:
            await self._tell(peer, request, kind(status))

    async def _refuse(
        self, peer: Peer, request: Message, why: str, code: StatusCode = StatusCode.NOT_FOUND
    ) -> None:
        text = f"{request.type_name} {request.device_name!r} {why}"
        status = Status(code, 0, request.type_name, text, device_name=_NAMELESS)
        await self._tell(peer, request, status)

    async def _tell(self, peer: Peer, request: Message, answer: Message) -> None:
        """Send an answer under the device name of the request, as its bytes came.

        The name may be no text. An answer to a request without a name keeps its own.
        """
        wire = answer.pack(version=2 if peer.header_version == 2 else 1)
        name = _core.stream_key(request)[12:32].ljust(20, b"\0")
        if name[0]:
            wire = wire[:14] + name + wire[34:]
        with contextlib.suppress(ConnectionClosed):
            await peer.send(Frame.from_bytes(wire))


def _same_stream(stop: Stop[Any], key: tuple[type[Message], str]) -> bool:
    """Return whether a STP_ message ends the stream of this class and device name."""
    kind, name = key
    return kind is type(stop).answer and stop.device_name in ("", name)
