"""Callbacks and latest values."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from tests.test_links import until
from tests.wire import frame, transform


def test_callbacks_and_latest() -> None:
    a, b = igtl.pipe()
    seen: list[Any] = []
    with a, igtl.subscribe(b, start=False) as incoming:

        @incoming.on(igtl.Transform, "Probe*")
        def _(message: igtl.Transform) -> None:
            assert threading.current_thread().name == "igtl handlers"
            seen.append(("probe", float(message.position[0])))

        @incoming.on()
        def _(message: igtl.Message) -> None:
            seen.append(("any", message.device_name))

        @incoming.on(igtl.Status)
        def _(message: igtl.Status) -> None:
            raise ZeroDivisionError  # logged; the others go on

        assert incoming.latest(igtl.Transform) is None
        for k in range(3):
            a.send(transform("ProbeToTracker", k))
            a.send(transform("Stylus", 10 * k))
        a.send(igtl.Status.ok(device_name="S"))
        incoming.start()
        until(lambda: len(seen) == 10)
        assert seen[:3] == [("probe", 0), ("any", "ProbeToTracker"), ("any", "Stylus")]
        newest = incoming.latest(igtl.Transform, "Stylus")
        assert newest is not None
        assert newest.position[0] == 20
        assert incoming.latest(igtl.Transform, "Probe*").position[0] == 2  # type: ignore[union-attr]
        assert incoming.latest(igtl.Image) is None
    assert not [t for t in incoming._threads if t.is_alive()]


def test_wait() -> None:
    a, b = igtl.pipe()
    with a, igtl.subscribe(b) as incoming:
        a.send(transform("Image_Reference"))
        assert incoming.wait(igtl.Transform, timeout=5).device_name == "Image_Reference"
        with pytest.raises(TimeoutError, match=r"no Image 'Image' within 0.02 s; seen: TRANSFORM"):
            incoming.wait(igtl.Image, "Image", timeout=0.02)
        caught: list[Any] = []

        def wait() -> None:
            try:
                incoming.wait(igtl.Image)
            except igtl.ConnectionClosed as closed:
                caught.append(closed)

        thread = threading.Thread(target=wait)
        thread.start()
        a.close()
        thread.join(5)
        assert len(caught) == 1


def test_waiting_ends_in_time_however_much_else_comes() -> None:
    a, b = igtl.pipe()
    stop = threading.Event()

    def feed() -> None:
        while not stop.is_set():
            a.send(transform())
            stop.wait(0.01)

    feeding = threading.Thread(target=feed, daemon=True)
    with a, igtl.subscribe(b) as incoming:
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                incoming.wait(igtl.Image, timeout=0.1)
            except BaseException as error:
                raised.append(error)

        waiting = threading.Thread(target=wait, daemon=True)
        feeding.start()
        incoming.wait(igtl.Transform, timeout=10)
        waiting.start()
        waiting.join(20)
        stop.set()
        feeding.join(10)
        assert [type(error) for error in raised] == [TimeoutError]
        with pytest.raises(TimeoutError):
            incoming.wait(igtl.Image, timeout=0)
        assert incoming.wait(igtl.Transform, timeout=0).device_name == "Probe"


def test_brackets_in_a_name_are_no_wildcards() -> None:
    a, b = igtl.pipe()
    seen: list[str] = []
    with a, igtl.subscribe(b, start=False) as incoming:
        incoming.on(igtl.Transform, "Tool[1]")(lambda m: seen.append(m.device_name))
        for name in ("Tool1", "Tool[1]", "end"):
            a.send(transform(name))
        incoming.start()
        incoming.wait(igtl.Transform, "end", timeout=10)
        until(lambda: seen == ["Tool[1]"])
        found = incoming.latest(igtl.Transform, "Tool[?]")
        assert found is not None
        assert found.device_name == "Tool[1]"


@pytest.mark.parametrize("heals", [False, True])
def test_a_subscriber_to_which_nothing_refers_closes_its_link(heals: bool) -> None:
    with igtl.listen(port=0) as listener:
        reconnect = igtl.Backoff(0.001, 0.01) if heals else None
        link = igtl.connect(port=listener.port, reconnect=reconnect)  # type: ignore[call-overload]
        incoming = igtl.subscribe(link)
        seen: list[Any] = []
        incoming.on()(seen.append)
        with listener.accept(timeout=10) as peer:
            peer.send(transform())
            until(lambda: len(seen) == 1)
            thread = incoming._threads[0]
            with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031
                del incoming
                gc.collect()
            with pytest.raises(igtl.ConnectionClosed):
                peer.recv(timeout=10)
            thread.join(10)
            assert not thread.is_alive()
            with pytest.raises(igtl.ConnectionClosed):  # also for who still refers to the link
                link.send(transform())
            if not heals:
                assert link._transport.sock.fileno() == -1
        with pytest.raises(TimeoutError):
            listener.accept(timeout=0.1)


def test_a_subscriber_to_which_nothing_refers_closes_its_link_in_asyncio() -> None:
    async def main() -> None:
        async with igtl.aio.listen(port=0) as listener:
            link = await igtl.aio.connect(port=listener.port)
            incoming = igtl.aio.subscribe(link)
            seen: list[Any] = []
            incoming.on()(seen.append)
            async with await listener.accept(timeout=10) as peer:
                await peer.send(transform())
                while not seen:
                    await asyncio.sleep(0.001)
                task = incoming._reading
                with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031
                    del incoming, link
                    gc.collect()
                with pytest.raises(igtl.ConnectionClosed):
                    await peer.recv(timeout=10)
                await asyncio.wait_for(task, 10)

    asyncio.run(main())


def test_asking_while_it_receives() -> None:
    a, b = igtl.pipe()
    with a, igtl.subscribe(b, start=False) as incoming:
        others: list[str] = []
        asked: list[str] = []
        incoming.on(igtl.Transform)(lambda m: others.append(m.device_name))

        @incoming.on(igtl.String)
        def _(message: Any) -> None:
            asked.append(incoming.command("Go", timeout=20).text)  # in a handler

        def answer() -> None:
            for m in a:
                a.send(transform("beside"))
                if isinstance(m, igtl.GetImage):
                    a.send(igtl.Image(np.zeros((1, 2, 2), np.uint8), device_name=m.device_name))
                elif isinstance(m, igtl.Command) and m.name == "Go":
                    a.send(igtl.CommandReply(m.command_id, m.name, "went"))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        incoming.start()
        image = incoming.query(igtl.GetImage(device_name="CT"), timeout=5)
        assert isinstance(image, igtl.Image)
        assert incoming.command("Go").text == "went"
        with pytest.raises(TimeoutError, match="Nothing"):
            incoming.command("Nothing", timeout=0.05)
        a.send(igtl.String("x"))
        until(lambda: asked == ["went"])
        until(lambda: others == ["beside"] * 4)  # beside each request
        a.close()
        with pytest.raises(igtl.ConnectionClosed):
            incoming.query(igtl.GetImage(), timeout=5)
        thread.join(5)


def test_bad_messages_are_skipped_and_streams_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igtl.session.subscriptions.MAX_STREAMS", 5)
    a, b = igtl.pipe()
    with a, igtl.subscribe(b) as incoming:
        a._transport.send([frame("TRANSFORM", bytes(47))])
        for k in range(20):
            a.send(transform(f"T{k}"))
        incoming.wait(igtl.Transform, "T19", timeout=5)
        assert len(incoming._receiving.state._newest) == 5
        assert b.stats.errors == {"BodyError": 1}


def test_in_asyncio() -> None:
    async def main() -> None:
        a, b = await igtl.aio.pipe()
        seen: list[Any] = []
        async with a, igtl.aio.subscribe(b) as incoming:

            @incoming.on(igtl.Transform, "Probe*")
            async def _(message: igtl.Transform) -> None:
                await asyncio.sleep(0)
                seen.append(float(message.position[0]))

            @incoming.on(igtl.Transform)
            def _(message: igtl.Transform) -> None:
                raise ZeroDivisionError

            for k in range(5):
                await a.send(transform("Probe", k))
                await a.send(transform("Stylus", k))
            await a.close()
            await incoming.join()
            assert seen == [0, 1, 2, 3, 4]
            newest = incoming.latest(igtl.Transform, "S*", max_age=600)
            assert newest is not None
            assert newest.position[0] == 4
            with pytest.raises(igtl.ConnectionClosed):  # it is not taken for the present
                incoming.latest(igtl.Transform, "S*")

    asyncio.run(main())


def test_over_a_link_that_heals_itself() -> None:
    with igtl.listen(port=0) as listener:
        link = igtl.connect(port=listener.port, reconnect=igtl.Backoff(0.001, 0.01))
        seen: list[str] = []
        with igtl.subscribe(link, start=False) as incoming:
            incoming.on()(lambda m: seen.append(m.device_name))
            incoming.start()
            for k in range(3):
                with listener.accept(timeout=10) as peer:
                    peer.send(transform(f"T{k}"))
                    until(lambda n=k: len(seen) > n)  # type: ignore[misc]
        assert seen == ["T0", "T1", "T2"]


def test_asking_in_asyncio_while_messages_come() -> None:
    async def main() -> None:
        async with igtl.aio.serve(port=0, start=False) as server:
            server.provides(igtl.GetStatus)(lambda request, peer: igtl.Status.ok("asked for"))

            @server.command("Double")
            async def _(command: igtl.Command, peer: Any) -> str:
                return command.text * 2

            @server.command("Hang up")
            async def _(command: igtl.Command, peer: Any) -> str:
                await peer.disconnect()
                return ""

            @server.command("Wait")
            async def _(command: igtl.Command, peer: Any) -> str:
                await asyncio.sleep(60)
                return ""

            await server.start()
            async with igtl.aio.connect(port=server.port) as link:
                incoming = igtl.aio.subscribe(link)
                seen: list[igtl.Message] = []
                asked: list[str] = []

                @incoming.on(igtl.Transform)
                async def _(message: igtl.Message) -> None:
                    seen.append(message)
                    answer = await incoming.query(igtl.GetStatus())  # in a handler
                    asked.append(type(answer).__name__)

                while not server.clients:
                    await asyncio.sleep(0.01)
                await server.broadcast(transform())
                status, reply = await asyncio.gather(
                    incoming.query(igtl.GetStatus(), timeout=5), incoming.command("Double", "ab")
                )
                assert isinstance(status, igtl.Status)
                assert status.message == "asked for"
                assert reply.text == "abab"
                with pytest.raises(igtl.CommandFailed, match="no command 'Fly'"):
                    await incoming.command("Fly")
                assert isinstance(await incoming.query(igtl.GetImage(), timeout=5), igtl.NoData)
                with pytest.raises(TimeoutError, match="no answer to COMMAND 'Wait' within"):
                    await incoming.command("Wait", timeout=0.05)
                assert len(seen) == 1
                assert asked == ["Status"]
                with pytest.raises(igtl.ConnectionClosed, match="before it answered"):
                    await incoming.command("Hang up")
                await incoming.join()
                with pytest.raises(igtl.ConnectionClosed):
                    await incoming.query(igtl.GetStatus())

    asyncio.run(main())
