"""Time-outs: what callers may give, in every function that takes one."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable
from typing import Any

import pytest

import igtl
import igtl.aio
from igtl.options import LONGEST, LinkOptions, seconds

Call = Callable[..., Any]


def test_seconds() -> None:
    assert seconds("t", None) is None
    assert seconds("t", math.inf) is None
    assert seconds("t", 0) == 0
    assert seconds("t", 2) == 2
    assert seconds("t", 1e9) == LONGEST
    for wrong in (-1, -0.001, math.nan, -math.inf):
        with pytest.raises(ValueError, match="t must be 0 seconds or more"):
            seconds("t", wrong)
    with pytest.raises(TypeError):
        seconds("t", "5")  # type: ignore[arg-type]


# each opens something, given one wrong option; nothing is opened, so no port is needed
OPENING: list[tuple[Call, list[str]]] = [
    (
        igtl.connect,
        ["open_timeout", "read_timeout", "message_timeout", "write_timeout", "keepalive"],
    ),
    (
        lambda **o: igtl.connect(reconnect=igtl.Backoff(), **o),
        ["open_timeout", "read_timeout", "message_timeout", "write_timeout", "keepalive"],
    ),
    (
        igtl.reconnect,
        ["open_timeout", "read_timeout", "message_timeout", "write_timeout", "keepalive"],
    ),
    (igtl.listen, ["read_timeout", "message_timeout", "write_timeout", "keepalive"]),
    (
        igtl.aio.connect,
        ["open_timeout", "read_timeout", "message_timeout", "write_timeout", "keepalive"],
    ),
    (
        igtl.aio.reconnect,
        ["open_timeout", "read_timeout", "message_timeout", "write_timeout", "keepalive"],
    ),
    (
        igtl.aio.listen,
        ["read_timeout", "message_timeout", "write_timeout", "keepalive", "handshake_timeout"],
    ),
    (igtl.Backoff, ["initial", "maximum", "settled"]),
]


@pytest.mark.parametrize("wrong", [-1.0, math.nan])
@pytest.mark.parametrize(("opens", "options"), OPENING)
def test_what_opens_refuses_it_at_the_call(opens: Call, options: list[str], wrong: float) -> None:
    for option in options:
        with pytest.raises(ValueError, match=option):
            opens(**{option: wrong})


WAITING: list[Call] = [
    lambda link, t: link.recv(timeout=t),
    lambda link, t: link.recv(igtl.Image, timeout=t),
    lambda link, t: link.recv_frame(timeout=t),
    lambda link, t: link.query(igtl.GetImage(), timeout=t),
    lambda link, t: link.command("Go", timeout=t),
    lambda link, t: link.ask(igtl.Command(1, "Go"), timeout=t),
    lambda link, t: link.wait_compressed(t),
    lambda link, t: link.stream(igtl.StartTrackingData(), timeout=t).__enter__(),
]
SUBSCRIBED: list[Call] = [
    lambda incoming, t: incoming.query(igtl.GetImage(), timeout=t),
    lambda incoming, t: incoming.command("Go", timeout=t),
]


@pytest.mark.parametrize("wrong", [-1.0, math.nan])
def test_what_waits_refuses_it(wrong: float) -> None:
    a, b = igtl.pipe()
    with a, b, igtl.listen(port=0) as listener:
        away = igtl.connect(port=listener.port, reconnect=igtl.Backoff())
        with away, igtl.subscribe(a) as incoming:
            calls: list[Call] = [lambda t, w=w: w(b, t) for w in WAITING]
            calls += [lambda t, w=w: w(away, t) for w in WAITING]
            calls += [lambda t, w=w: w(incoming, t) for w in SUBSCRIBED]
            calls.append(lambda t: incoming.wait(igtl.Image, timeout=t))
            calls.append(lambda t: listener.accept(timeout=t))
            calls.append(away.wait_connected)
            for call in calls:
                with pytest.raises(ValueError, match="timeout must be"):
                    call(wrong)


@pytest.mark.parametrize("wrong", [-1.0, math.nan])
def test_what_waits_refuses_it_in_asyncio(wrong: float) -> None:
    async def main() -> None:
        a, b = await igtl.aio.pipe()
        async with a, b, igtl.aio.listen(port=0) as listener, igtl.aio.subscribe(a) as incoming:
            calls: list[Call] = [lambda t, w=w: w(b, t) for w in WAITING[:-1]]
            calls += [lambda t, w=w: w(incoming, t) for w in SUBSCRIBED]
            start = igtl.StartTrackingData()
            calls.append(lambda t: b.stream(start, timeout=t).__aenter__())
            calls.append(lambda t: listener.accept(timeout=t))
            calls.append(lambda t: b.close(timeout=t))
            for call in calls:
                with pytest.raises(ValueError, match="timeout must be"):
                    await call(wrong)

    asyncio.run(main())


def test_keepalive() -> None:
    for wrong in (0, 1, 1.9):
        for opens in (igtl.connect, igtl.listen, igtl.aio.connect, igtl.aio.listen):
            with pytest.raises(ValueError, match="keepalive must be at least 2"):
                opens(keepalive=wrong)  # type: ignore[operator]
    assert LinkOptions(keepalive=math.inf).keepalive is None
    assert LinkOptions(keepalive=1e9).keepalive == 65_000
    with igtl.listen(port=0, keepalive=1e9) as listener:
        with igtl.connect(port=listener.port, keepalive=1e9) as a, listener.accept() as b:
            for link in (a, b):
                sock = link._transport.sock  # type: ignore[attr-defined]
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if hasattr(socket, "TCP_KEEPIDLE"):
                    idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                    assert idle == 32_500  # half of it: the probes take the other half


def test_infinity_and_huge_numbers_wait() -> None:
    a, b = igtl.pipe()
    with a, b, igtl.listen(port=0) as listener:
        for long in (math.inf, 1e9, 1e300):
            a.send(igtl.String("x"))
            assert b.recv(igtl.String, timeout=long).string == "x"
            with igtl.connect(
                port=listener.port, open_timeout=long, read_timeout=long, write_timeout=long,
                keepalive=long,
            ) as c, listener.accept(timeout=long) as d:  # fmt: skip
                c.send(igtl.String("y"))
                assert d.recv(igtl.String, timeout=long).string == "y"
                d.send(igtl.String("z"))
                assert c.recv(igtl.String).string == "z"
    backoff = igtl.Backoff(1, math.inf, settled=math.inf)
    assert backoff.limit(10_000) == LONGEST
    with pytest.raises(ValueError):
        igtl.Rate(1e-9)
    with pytest.raises(ValueError):
        igtl.Rate(1e300)


def test_infinity_and_huge_numbers_wait_in_asyncio() -> None:
    async def main() -> None:
        async with igtl.aio.listen(port=0, handshake_timeout=math.inf) as listener:
            for long in (math.inf, 1e9, 1e300):
                async with (
                    igtl.aio.connect(
                        port=listener.port, open_timeout=long, read_timeout=long, keepalive=long
                    ) as c,
                    await listener.accept(timeout=long) as d,
                ):
                    await c.send(igtl.String("y"))
                    assert (await d.recv(igtl.String, timeout=long)).string == "y"
                    await d.send(igtl.String("z"))
                    assert (await c.recv(igtl.String)).string == "z"
                    await c.close(timeout=long)

    asyncio.run(main())


def test_zero_opens_at_once_or_times_out() -> None:
    """A TimeoutError, or a connection: no other error."""
    with igtl.listen(port=0) as listener:
        with contextlib.suppress(TimeoutError):
            igtl.connect(port=listener.port, open_timeout=0).close()

        async def main() -> None:
            with pytest.raises(TimeoutError, match="no connection"):
                await igtl.aio.connect(port=listener.port, open_timeout=0)

        asyncio.run(main())
