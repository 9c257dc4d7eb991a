"""What a server does with what arrives: handlers, answers to requests, streams, commands."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, TypeVar

from igtl.aio.peer import Peer
from igtl.compressing import CompressingProtocol, capabilities
from igtl.errors import CommandFailed, ConnectionClosed, EncodeError
from igtl.exchange import fits, interval_of, ready_for, reply_to
from igtl.log import log, logger
from igtl.message import Message
from igtl.messages.general import Command, CommandReply, Status, StatusCode
from igtl.messages.queries import Get, GetCapability, GetStatus, Ready, Start, Stop

F = TypeVar("F", bound=Callable[..., Any])
_ASKS = (Get, Start, Stop)


class Runner:
    """How a server calls what its user has registered: here in the event loop."""

    async def in_order(self, work: Callable[..., Any], *args: Any) -> Any:
        """Handlers, one after the other."""
        result = work(*args)
        return await result if inspect.isawaitable(result) else result

    async def apart(self, work: Callable[..., Any], *args: Any) -> Any:
        """Commands and providers, which may take long."""
        return await self.in_order(work, *args)

    async def begun(self, provider: Callable[..., Any], *args: Any) -> Any:
        """The frames of a stream: an iterable, or an async one."""
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
            if hasattr(frames, "aclose"):
                await frames.aclose()
            elif isinstance(frames, Iterator) and hasattr(frames, "close"):
                frames.close()


class Answers:
    """The user's functions of a server, and when they are called."""

    def __init__(self, runner: Runner | None = None) -> None:
        self._runner = runner or Runner()
        self._handlers: list[tuple[type[Message], str, Callable[..., Any]]] = []
        self._providers: list[tuple[type[Message], str, Callable[..., Any]]] = []
        self._commands: dict[str, Callable[..., Any]] = {}

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Decorator: call this with (message, peer) for each message of a class whose device name
        fits; a coroutine function is awaited. One message of a client after the other."""

        def register(handler: F) -> F:
            self._handlers.append((kind, name, handler))
            return handler

        return register

    def provides(
        self, kind: type[Get[Any]] | type[Start[Any]], name: str = "*"
    ) -> Callable[[F], F]:
        """Decorator: this answers requests of a Get or Start class whose device name fits.

        Called with (request, peer); may be a coroutine function. For Get it returns the message,
        or None if there is none. For Start it returns an iterable of messages, or is a
        (possibly async) generator of them, or returns None to refuse; RTS_ is sent for it, the
        rate that the request allows is kept, and STP_ or the client's end stops it.
        """
        if not issubclass(kind, Get | Start):
            raise TypeError(f"{kind.__name__} is not a Get or Start class")

        def register(provider: F) -> F:
            self._providers.append((kind, name, provider))
            return provider

        return register

    def command(self, name: str = "*") -> Callable[[F], F]:
        """Decorator: this carries out the COMMAND of a name ("*": any other).

        Called with (command, peer), beside the handlers, so it may take its time; may be a
        coroutine function. What it returns (text, or None) is the reply; what it raises is
        reported as a failure with the text of the exception. A CommandReply is sent as it is.
        """

        def register(handler: F) -> F:
            self._commands[name] = handler
            return handler

        return register

    # -- messages

    async def _handle(self, peer: Peer, message: Message) -> None:
        handled = False
        for kind, name, handler in self._handlers:
            if fits(message, kind, name):
                handled = handled or kind is not Message
                await self._guarded(peer, handler, message, peer)
        if isinstance(message, Command):
            work = self._commands.get(message.name) or self._commands.get("*")
            if work is not None or not handled:
                peer._start(self._carry_out(peer, message, work))
        elif isinstance(message, _ASKS):
            provider = self._provider_of(message)
            if provider is not None or not handled:
                await self._answer(peer, message, provider)
        elif not handled and not any(kind is Message for kind, _, _ in self._handlers):
            peer.stats.count_dropped(message, "unhandled")

    async def _guarded(self, peer: Peer, handler: Callable[..., Any], *args: Any) -> None:
        """Call a handler; what it raises is logged, and the server goes on."""
        try:
            await self._runner.in_order(handler, *args)
        except ConnectionClosed:
            pass  # it was sending to someone who left
        except Exception as error:
            logger.exception("a handler failed", extra={"peer": peer.peer, "cause": error})

    async def _carry_out(
        self, peer: Peer, command: Command, work: Callable[..., Any] | None
    ) -> None:
        text, error = None, None
        try:
            if work is None:
                raise LookupError(f"there is no command {command.name!r} here")
            text = await self._runner.apart(work, command, peer)
        except CommandFailed as failed:
            error = str(failed)
        except Exception as failed:
            error = f"{type(failed).__name__}: {failed}" if work else str(failed)
            log(
                logging.WARNING, "command %r of %s failed: %s", command.name, peer.peer, error,
                peer=peer.peer, type="COMMAND", device=command.device_name, cause=failed,
            )  # fmt: skip
        if isinstance(text, CommandReply):
            reply = text
        else:
            reply = reply_to(
                command, None if text is None else str(text), error, peer.header_version
            )
        try:
            await self._tell(peer, reply)
        except EncodeError as failed:  # the handler's own reply, for example with metadata
            await self._tell(peer, reply_to(command, None, str(failed), peer.header_version))

    def _provider_of(self, request: Message) -> Callable[..., Any] | None:
        for kind, name, provider in self._providers:
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
            self._stop_streams(peer, request)
            await self._ready(peer, request, 0)
        elif provider is not None:
            peer._start(self._provide(peer, request, provider))
        elif isinstance(request, GetCapability):
            await self._tell(
                peer, capabilities(compression=isinstance(peer._protocol, CompressingProtocol))
            )
        elif isinstance(request, GetStatus):
            await self._tell(peer, Status.ok(device_name=request.device_name or "igtl"))
        else:
            await self._not_found(peer, request, "is not provided")

    async def _provide(self, peer: Peer, request: Message, provider: Callable[..., Any]) -> None:
        try:
            if isinstance(request, Start):
                await self._begin_stream(peer, request, provider)
                return
            found = await self._runner.apart(provider, request, peer)
            if found is None:
                await self._not_found(peer, request, "is not here")
            else:
                await self._tell(peer, found)
        except Exception as error:
            logger.exception(
                "the provider of %s failed", request.type_name,
                extra={"peer": peer.peer, "type": request.type_name, "cause": error},
            )  # fmt: skip
            await self._not_found(peer, request, "failed")

    async def _begin_stream(
        self, peer: Peer, request: Start[Any], provider: Callable[..., Any]
    ) -> None:
        self._stop_streams(peer, request)
        frames = await self._runner.begun(provider, request, peer)
        if frames is None:
            if ready_for(request) is None:
                await self._not_found(peer, request, "is refused")
            await self._ready(peer, request, 1)
            return
        await self._ready(peer, request, 0)
        task = peer._start(self._stream(peer, request, frames))
        peer._streams[type(request).answer, request.device_name] = task

    async def _stream(self, peer: Peer, request: Start[Any], frames: Any) -> None:
        interval, due = interval_of(request), time.monotonic()
        try:
            async with contextlib.aclosing(self._runner.iterated(frames)) as messages:
                async for message in messages:
                    # never more of a stream than the client can take, whatever its policy
                    await peer._connection.send(message, wait=True)
                    due = max(due + interval, time.monotonic())
                    await asyncio.sleep(due - time.monotonic())
        except ConnectionClosed:
            pass
        except Exception as error:
            logger.exception("a stream failed", extra={"peer": peer.peer, "cause": error})

    def _stop_streams(self, peer: Peer, request: Message) -> None:
        answer = request.answer  # type: ignore[attr-defined]
        for (kind, name), task in list(peer._streams.items()):
            if kind is answer and request.device_name in ("", name):
                task.cancel()
                del peer._streams[kind, name]

    async def _ready(self, peer: Peer, request: Any, status: int) -> None:
        kind: type[Ready[Any]] | None = ready_for(request)
        if kind is not None:
            await self._tell(peer, kind(status, device_name=request.device_name))

    async def _not_found(self, peer: Peer, request: Message, why: str) -> None:
        # a STATUS without a name ends 3D Slicer, and so would an RTS_ that it has not asked for
        name = request.device_name or "igtl"
        text = f"{request.type_name} {request.device_name!r} {why}"
        await self._tell(
            peer, Status(StatusCode.NOT_FOUND, 0, request.type_name, text, device_name=name)
        )

    async def _tell(self, peer: Peer, message: Message) -> None:
        with contextlib.suppress(ConnectionClosed):
            await peer.send(message)
