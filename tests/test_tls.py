"""TLS: who is let in, who is refused and why, renewed certificates, two threads on one link."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

import igtl
import igtl.aio
from igtl.session.tls import TLSLayer
from tests.links import Loop
from tests.test_links import until
from tests.wire import transform


class Files:
    """PEM files of an authority, a server on 127.0.0.1 and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.server = self.issue("server", "127.0.0.1", "localhost")
        self.client = self.issue("client", "someone@hospital.example")

    def issue(self, name: str, *identities: str, **options: Any) -> Path:
        path = self.folder / f"{name}.pem"  # certificate and key in one
        issued = self.authority.issue_cert(*identities, **options)
        issued.private_key_and_cert_chain_pem.write_to_path(path)
        return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("strangers"))


def sync_connect(port: int, context: ssl.SSLContext, *, talk: bool = True, **options: Any) -> None:
    with igtl.connect("127.0.0.1", port, ssl=context, **options) as link:
        if talk:
            link.send(transform())
        link.recv(igtl.Status, timeout=5)


def aio_connect(port: int, context: ssl.SSLContext, *, talk: bool = True, **options: Any) -> None:
    async def main() -> None:
        async with igtl.aio.connect("127.0.0.1", port, ssl=context, **options) as link:
            if talk:
                await link.send(transform())
            await link.recv(igtl.Status, timeout=5)

    asyncio.run(main())


CONNECTS = pytest.mark.parametrize("connects", [sync_connect, aio_connect])


@contextlib.contextmanager
def echoing(context: ssl.SSLContext | None, **settings: Any) -> Iterator[igtl.Server]:
    with igtl.serve(port=0, ssl=context, **settings) as server:

        @server.on(igtl.Transform)
        def _(message: Any, peer: Any) -> None:
            peer.send(igtl.Status.ok())

        yield server


@CONNECTS
def test_right_certificates_pass(files: Files, connects: Any) -> None:
    with echoing(igtl.tls.server(files.server)) as server:
        connects(server.port, igtl.tls.client(files.ca))
    mutual = igtl.tls.server(files.server, client_ca=files.ca)
    with echoing(mutual) as server:
        connects(server.port, igtl.tls.client(files.ca, cert=files.client))
        assert server.refused == {}


@CONNECTS
def test_wrong_authority(files: Files, strangers: Files, connects: Any) -> None:
    with echoing(igtl.tls.server(files.server)) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            connects(server.port, igtl.tls.client(strangers.ca))
        until(lambda: server.refused == {"tls": 1})


@CONNECTS
def test_wrong_name(files: Files, connects: Any) -> None:
    with echoing(igtl.tls.server(files.server)) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
            connects(server.port, igtl.tls.client(files.ca), server_hostname="tracker.example")


@CONNECTS
def test_expired(files: Files, connects: Any) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    old = files.issue("old", "127.0.0.1", not_after=past)
    with echoing(igtl.tls.server(old)) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            connects(server.port, igtl.tls.client(files.ca))


@CONNECTS
@pytest.mark.parametrize("who", ["none", "stranger"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificate(
    files: Files, strangers: Files, connects: Any, who: str, version: Any
) -> None:
    with echoing(igtl.tls.server(files.server, client_ca=files.ca)) as server:
        cert = strangers.client if who == "stranger" else None
        context = igtl.tls.client(files.ca, cert=cert)
        context.maximum_version = version
        # with TLS 1.3 the client learns it when it first reads; what it has sent by then lies
        # unread at the server, and may turn the alert into a reset
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            connects(server.port, context, talk=False)
        until(lambda: server.refused == {"tls": 1})


@CONNECTS
def test_plain_and_tls_do_not_mix(files: Files, connects: Any) -> None:
    with echoing(None) as plain:
        with pytest.raises((ssl.SSLError, ConnectionError, TimeoutError)):
            connects(plain.port, igtl.tls.client(files.ca), open_timeout=0.5)
    with echoing(igtl.tls.server(files.server)) as server:
        with igtl.connect("127.0.0.1", server.port) as link:
            with pytest.raises(igtl.IgtlError):
                link.send(transform())
                for _ in range(10):
                    link.recv(timeout=5)
        until(lambda: server.refused == {"tls": 1})


@pytest.mark.parametrize("kind", ["tls", "aio-tls"])
def test_what_is_no_tls_is_answered_once(kind: str, files: Files) -> None:
    """However much the client reads."""
    context = igtl.tls.server(files.server)
    with contextlib.ExitStack() as stack:
        if kind == "tls":
            server: Any = stack.enter_context(igtl.listen(port=0, ssl=context))
        else:
            server = stack.enter_context(igtl.serve(port=0, ssl=context))
        got: list[bytes] = []

        def read_all() -> None:
            with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
                sock.sendall(transform().pack())
                with contextlib.suppress(ConnectionError):
                    while data := sock.recv(65536):
                        got.append(data)

        thread = threading.Thread(target=read_all)
        thread.start()
        if kind == "tls":
            with server.accept(timeout=10) as link:
                with pytest.raises(ssl.SSLError, match="does not speak TLS"):
                    link.recv(timeout=10)
        thread.join(10)
        assert b"".join(got) == bytes([21, 3, 1, 0, 2, 2, 70])


SERVERS = ["serve", "listen", "aio.listen"]


@contextlib.contextmanager
def listening(server: str, context: ssl.SSLContext | None) -> Iterator[tuple[int, list[Any]]]:
    """A server of some kind, and the errors of its links so far."""
    met: list[Any] = []
    if server == "serve":
        with igtl.serve(port=0, ssl=context) as serving:
            yield serving.port, met
    elif server == "listen":
        with igtl.listen(port=0, ssl=context) as listener:

            def accept() -> None:
                for link in listener:
                    with link:
                        try:
                            link.recv(timeout=10)
                        except Exception as error:
                            met.append(error)

            thread = threading.Thread(target=accept, daemon=True)
            thread.start()
            yield listener.port, met
        thread.join(10)
    else:
        loop = Loop()

        async def accept_aio(listener: igtl.aio.Listener) -> None:
            async for link in listener:
                async with link:
                    try:
                        await link.recv(timeout=10)
                    except Exception as error:
                        met.append(error)

        async def opened() -> igtl.aio.Listener:
            return await igtl.aio.listen(port=0, ssl=context)

        aio_listener = loop(opened())
        accepting = loop.start(accept_aio(aio_listener))
        yield aio_listener.port, met
        loop(aio_listener.close())
        accepting.result(10)
        loop.close()


@pytest.mark.parametrize("server", SERVERS)
def test_a_plain_client_of_a_tls_server_is_told(
    files: Files, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the server, or its log, says what was wrong with the client."""
    with listening(server, igtl.tls.server(files.server)) as (port, met):
        with igtl.connect("127.0.0.1", port) as link:
            link.send(transform())
            with pytest.raises(igtl.MessageTooLarge, match="the peer speaks TLS"):
                link.recv(timeout=10)
            with pytest.raises(igtl.ConnectionClosed, match="the peer speaks TLS"):
                list(link)

        async def main() -> None:
            async with igtl.aio.connect("127.0.0.1", port) as link:
                await link.send(transform())
                with pytest.raises(igtl.MessageTooLarge, match="the peer speaks TLS"):
                    await link.recv(timeout=10)

        asyncio.run(main())
        text = "does not speak TLS"
        until(lambda: text in caplog.text or (len(met) == 2 and text in str(met[0])))


@pytest.mark.parametrize("server", SERVERS)
@CONNECTS
def test_a_tls_client_of_a_plain_server_is_told(
    files: Files, server: str, connects: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(server, None) as (port, met):
        with pytest.raises((ssl.SSLError, ConnectionError), match="speak TLS"):
            connects(port, igtl.tls.client(files.ca), open_timeout=20)
        until(lambda: "the peer speaks TLS" in caplog.text)
        if server != "serve":
            until(lambda: len(met) == 1)
            assert "the peer speaks TLS" in str(met[0])


def test_a_server_that_speaks_first_shows_that_it_is_plain(files: Files) -> None:
    with igtl.serve(port=0) as server:
        server.broadcast(transform(), latch=True)
        for connects in (sync_connect, aio_connect):
            with pytest.raises(ssl.SSLError, match="does not speak TLS"):
                connects(server.port, igtl.tls.client(files.ca))


def test_a_wait_ends_in_time_during_the_handshake(files: Files) -> None:
    """And the handshake goes on with the next wait."""
    with igtl.listen(port=0, ssl=igtl.tls.server(files.server)) as listener:
        with socket.create_connection(("127.0.0.1", listener.port)) as raw:
            with listener.accept(timeout=10) as link:
                for timeout in (0, 0.05):
                    with pytest.raises(TimeoutError):
                        link.recv(timeout=timeout)
                assert link.close_reason is None

                def talk() -> None:
                    context = igtl.tls.client(files.ca)
                    with context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
                        tls.sendall(transform().pack())
                        tls.settimeout(10)
                        with contextlib.suppress(OSError):
                            tls.recv(1)

                thread = threading.Thread(target=talk)
                thread.start()
                assert link.recv(timeout=10).device_name == "Probe"
            thread.join(10)


def test_old_versions_are_refused(files: Files) -> None:
    for context in (igtl.tls.client(files.ca), igtl.tls.server(files.server)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@CONNECTS
def test_a_renewed_certificate_is_used_without_a_restart(
    files: Files, tmp_path: Path, connects: Any
) -> None:
    path = tmp_path / "server.pem"
    path.write_bytes(files.server.read_bytes())
    serials = []

    def serial(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            context = igtl.tls.client(files.ca)
            with context.wrap_socket(sock, server_hostname="127.0.0.1") as tls:
                serials.append(tls.getpeercert()["serialNumber"])  # type: ignore[index]

    with echoing(igtl.tls.server(path)) as server:
        context = igtl.tls.client(files.ca)
        with igtl.connect("127.0.0.1", server.port, ssl=context) as old:
            serial(server.port)
            path.write_text("half a file")  # not usable: the old one stays
            serial(server.port)
            path.write_bytes(files.issue("renewed", "127.0.0.1").read_bytes())
            os.utime(path, (1, 1))
            serial(server.port)
            connects(server.port, igtl.tls.client(files.ca))
            old.send(transform())  # connections live on
            assert old.recv(igtl.Status, timeout=5).is_ok
    assert serials[0] == serials[1] != serials[2]


def test_a_handshake_that_hangs_blocks_nobody(files: Files) -> None:
    context = igtl.tls.server(files.server)
    with echoing(context, handshake_timeout=3) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                sock = socket.create_connection(("127.0.0.1", server.port))
                stack.enter_context(sock)
            sync_connect(server.port, igtl.tls.client(files.ca))
            until(lambda: server.refused == {"tls": 20})
    # and with a listener, which hands out links whose handshake is still to come
    with igtl.listen(port=0, ssl=context) as listener:
        with socket.create_connection(("127.0.0.1", listener.port)):
            mute = listener.accept(timeout=5)
            mute._transport._handshake_timeout = 0.1  # type: ignore[attr-defined]
            with mute, pytest.raises(igtl.ConnectionClosed, match="handshake"):
                mute.recv(timeout=5)


def test_a_mute_server_is_given_up(files: Files) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        start = time.monotonic()
        with pytest.raises(TimeoutError, match="handshake"):
            igtl.connect(
                "127.0.0.1", mute.getsockname()[1], ssl=igtl.tls.client(files.ca), open_timeout=0.3
            )
        assert time.monotonic() - start < 10


def test_threads_send_while_another_receives(files: Files) -> None:
    """More than the network holds in each direction at once, so that both sides block."""
    n, size = 40, 400_000
    server_context = igtl.tls.server(files.server)
    with igtl.listen(port=0, ssl=server_context) as listener:
        accepted: list[igtl.Link] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept(timeout=10)))
        thread.start()

        def talk(link: igtl.Link, got: list[Any]) -> list[threading.Thread]:
            def send(k: int) -> None:
                for _ in range(n):
                    link.send(igtl.Image(np.full((1, 400, size // 400), k, np.uint8)))

            def receive() -> None:
                got.extend(link.recv(timeout=30) for _ in range(2 * n))

            jobs = [threading.Thread(target=send, args=(k,)) for k in range(2)]
            jobs.append(threading.Thread(target=receive))
            for job in jobs:
                job.start()
            return jobs

        def serve(got: list[Any]) -> None:
            thread.join(10)
            jobs.extend(talk(accepted[0], got))

        jobs: list[threading.Thread] = []
        left: list[Any] = []
        right: list[Any] = []
        server_side = threading.Thread(target=serve, args=(right,))
        server_side.start()
        # the handshake takes both sides: the server's takes place in its first recv
        with igtl.connect("127.0.0.1", listener.port, ssl=igtl.tls.client(files.ca)) as a:
            server_side.join(10)
            jobs.extend(talk(a, left))
            for job in jobs:
                job.join(60)
            for got in (left, right):
                assert sorted(int(m.array.max()) for m in got) == [0] * n + [1] * n
                assert all(m.array.min() == m.array.max() for m in got)
            accepted[0].close()


@pytest.mark.parametrize(
    "options", [{}, {"drain": True}, {"reconnect": igtl.Backoff(0.01)}],
    ids=["plain", "drained", "healing"],
)  # fmt: skip
def test_one_thread_at_a_time_uses_the_state_of_tls(
    files: Files, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """OpenSSL corrupts memory otherwise. Links close while messages come and go."""
    using: dict[int, threading.Lock] = defaultdict(threading.Lock)
    overlaps: list[str] = []

    def alone(function: Any) -> Any:
        def guarded(layer: TLSLayer, *args: Any) -> Any:
            if not using[id(layer)].acquire(blocking=False):
                overlaps.append(function.__name__)
                raise ssl.SSLError("another thread is using this connection")
            try:
                time.sleep(0.001)  # in which another thread may come
                return function(layer, *args)
            finally:
                using[id(layer)].release()

        return guarded

    for name in ("feed", "read_into", "wrap", "prepare_close", "outgoing"):
        monkeypatch.setattr(TLSLayer, name, alone(getattr(TLSLayer, name)))
    with igtl.serve(port=0, ssl=igtl.tls.server(files.server)) as server:
        closing = threading.Event()

        def broadcast() -> None:
            while not closing.wait(0.001):
                server.broadcast(transform())

        sender = threading.Thread(target=broadcast)
        sender.start()
        try:
            for _ in range(20):
                context = igtl.tls.client(files.ca)
                with igtl.connect("127.0.0.1", server.port, ssl=context, **options) as link:
                    link.recv(timeout=10)
                    link.send(transform())
        finally:
            closing.set()
            sender.join()
    assert overlaps == []


def test_a_receiver_gets_what_came_with_the_end_of_the_handshake_of_a_sender(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        igtl.listen(port=0, ssl=igtl.tls.server(files.server)) as listener,
        socket.create_connection(("127.0.0.1", listener.port), 20) as sock,
        listener.accept(timeout=20) as link,
    ):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = igtl.tls.client(files.ca)
        tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        sender = threading.Thread(target=lambda: link.send(igtl.Status.ok()))
        sender.start()
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(transform().pack())
        session = link.session
        received, there, go = session.received, threading.Event(), threading.Event()

        def late(n: int) -> None:
            there.set()
            go.wait(20)
            received(n)

        monkeypatch.setattr(session, "received", late)
        sock.sendall(outgoing.read())
        assert there.wait(20)
        got: list[igtl.Message] = []
        receiver = threading.Thread(target=lambda: got.append(link.recv()))
        receiver.start()
        until(link._receiving.locked)
        time.sleep(0.05)  # it looks at the inbox, in which nothing is yet
        go.set()
        receiver.join(20)
        sender.join(30)
        assert [message.device_name for message in got] == ["Probe"]


@pytest.mark.parametrize("kind", ["tls", "aio-tls"])
@pytest.mark.parametrize("role", ["server", "client"])
def test_cut_without_close_notify(files: Files, kind: str, role: str) -> None:
    """An attacker can end a connection, but not make it look like an end in order."""
    for cut in (106, 60):  # between two messages, and within one
        with cut_short(files, role, transform().pack()[:cut]) as peer:
            read = asyncio.run(aio_read(peer)) if kind == "aio-tls" else sync_read(peer)
        assert [m.device_name for m in read[:-1]] == ["Probe"] * (cut == 106)
        assert isinstance(read[-1], igtl.ConnectionClosed)
        assert not read[-1].clean


class Peer:
    """Opens an igtl link to, or from, the bare TLS peer of a test."""

    def __init__(self, files: Files, role: str, bare: Any) -> None:
        self.role = role
        self.bare = bare  # is given the port, or None to listen on one, which it returns
        self.context = igtl.tls.server(files.server)
        if role == "client":
            self.context = igtl.tls.client(files.ca)


@contextlib.contextmanager
def cut_short(files: Files, role: str, sent: bytes) -> Iterator[Peer]:
    """A peer that sends these bytes under TLS, and ends the connection beneath it."""
    threads: list[threading.Thread] = []

    def talk(sock: socket.socket) -> None:
        if role == "server":
            context = igtl.tls.client(files.ca)
            tls = context.wrap_socket(sock, server_hostname="127.0.0.1")
        else:
            tls = igtl.tls.server(files.server).wrap_socket(sock, server_side=True)
        tls.sendall(sent)
        with socket.socket(fileno=tls.detach()) as bare:
            bare.shutdown(socket.SHUT_WR)
            bare.settimeout(10)
            with contextlib.suppress(OSError):
                while bare.recv(1000):
                    pass

    def start(work: Any) -> None:
        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def bare(port: int | None) -> int:
            if port is None:
                start(lambda: talk(listener.accept()[0]))
                return int(listener.getsockname()[1])
            start(lambda: talk(socket.create_connection(("127.0.0.1", port))))
            return port

        yield Peer(files, role, bare)
        for thread in threads:
            thread.join(10)


def sync_read(peer: Peer) -> list[Any]:
    """What comes until the link is over, and its error."""
    read: list[Any] = []

    def receive(link: igtl.Link) -> None:
        with link:
            try:
                while True:
                    read.append(link.recv(timeout=10))
            except igtl.ConnectionClosed as closed:
                read.append(closed)

    if peer.role == "client":
        receive(igtl.connect("127.0.0.1", peer.bare(None), ssl=peer.context))
    else:
        with igtl.listen(port=0, ssl=peer.context) as listener:
            peer.bare(listener.port)
            receive(listener.accept(timeout=10))
    return read


async def aio_read(peer: Peer) -> list[Any]:
    read: list[Any] = []

    async def receive(link: igtl.aio.Link) -> None:
        async with link:
            try:
                while True:
                    read.append(await link.recv(timeout=10))
            except igtl.ConnectionClosed as closed:
                read.append(closed)

    if peer.role == "client":
        await receive(await igtl.aio.connect("127.0.0.1", peer.bare(None), ssl=peer.context))
    else:
        async with igtl.aio.listen(port=0, ssl=peer.context) as listener:
            peer.bare(listener.port)
            await receive(await listener.accept(timeout=10))
    return read
