"""Where connections come from: Unix sockets, and sockets that the caller has made."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner

import igtl
import igtl.aio
from igtl.cli.arguments import Address
from tests.links import Aio, Loop, contexts, loop_for
from tests.wire import transform

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets there")


class Blocking:
    """The functions that open something."""

    connect = staticmethod(igtl.connect)
    listen = staticmethod(igtl.listen)
    serve = staticmethod(igtl.serve)


class Awaited:
    """Those of asyncio with the same face."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def _open(self, name: str, *args: Any, **settings: Any) -> Any:
        async def opened() -> Any:
            return await getattr(igtl.aio, name)(*args, **settings)

        return self.loop(opened())

    def connect(self, *args: Any, **settings: Any) -> Any:
        return Aio(self.loop, self._open("connect", *args, **settings))

    def listen(self, *args: Any, **settings: Any) -> Any:
        return Other(self.loop, self._open("listen", *args, **settings))

    def serve(self, *args: Any, **settings: Any) -> Any:
        return Other(self.loop, self._open("serve", *args, **settings))


class Other:
    """A listener or server of asyncio with a blocking face."""

    def __init__(self, loop: Loop, inner: Any) -> None:
        self.loop = loop
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def accept(self, **settings: Any) -> Any:
        return Aio(self.loop, self.loop(self.inner.accept(**settings)))

    def close(self) -> None:
        self.loop(self.inner.close())

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@pytest.fixture(params=["blocking", "aio", "aio-uvloop"])
def api(request: pytest.FixtureRequest) -> Iterator[Any]:
    with loop_for(request.param) as loop:
        yield Blocking if loop is None else Awaited(loop)


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:  # a path of pytest's own may be too long
        yield f"{folder}/link"


def exchange(a: Any, b: Any) -> None:
    there = transform()
    a.send(there)
    assert b.recv(timeout=5) == there
    b.send(transform("back"))
    assert a.recv(timeout=5).device_name == "back"


# ---- Unix sockets -------------------------------------------------------------------------------


@unix
def test_a_path_lives_as_long_as_its_listener(api: Any, path: str) -> None:
    with api.listen(f"unix:{path}") as listener:
        assert (listener.host, listener.port) == (f"unix:{path}", 0)
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        with api.connect(listener.host, listener.port) as a, listener.accept(timeout=5) as b:
            exchange(a, b)
            assert (a.peer, a.local, b.peer, b.local) == (listener.host, None, *[listener.host] * 2)
            assert listener.host in repr(b.link if isinstance(b, Aio) else b)
    assert not os.path.exists(path)


@unix
def test_a_server_at_a_path(api: Any, path: str) -> None:
    with api.serve(f"unix:{path}") as server:
        got: list[Any] = []

        @server.provides(igtl.GetStatus)
        def _(request: igtl.Message, peer: Any) -> igtl.Status:
            got.append(peer.peer)
            return igtl.Status.ok("here")

        with api.connect(f"unix:{path}") as link:
            assert link.query(igtl.GetStatus()).message == "here"
        assert got == [f"unix:{path}"]
        assert f"unix:{path}" in repr(server) or api is not Blocking
    assert not os.path.exists(path)


@unix
def test_a_path_whose_server_is_gone_is_taken_over(api: Any, path: str) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()  # as after a kill: the path stays
    with api.listen(f"unix:{path}"), api.connect(f"unix:{path}"):
        pass
    assert not os.path.exists(path)


@unix
def test_a_path_that_is_in_use_is_left_alone(api: Any, path: str) -> None:
    with api.listen(f"unix:{path}") as first:
        for make in (api.listen, api.serve):
            with pytest.raises(OSError, match="cannot listen on unix:") as caught:
                make(f"unix:{path}")
            assert caught.value.errno == errno.EADDRINUSE
        with api.connect(f"unix:{path}") as a, first.accept(timeout=5) as b:
            exchange(a, b)


@unix
def test_what_is_no_socket_is_left_alone(api: Any, path: str) -> None:
    with open(path, "w") as file:
        file.write("mine")
    with pytest.raises(OSError, match="cannot listen"):
        api.listen(f"unix:{path}")
    with pytest.raises(ConnectionRefusedError):
        api.connect(f"unix:{path}")
    with open(path) as file:
        assert file.read() == "mine"


@unix
def test_a_path_that_became_another_s_is_left_alone(api: Any, path: str) -> None:
    with api.listen(f"unix:{path}"):
        os.unlink(path)
        other = socket.socket(socket.AF_UNIX)
        other.bind(path)
    with other:
        assert os.path.exists(path)


@unix
def test_the_umask_decides_who_may_connect(api: Any, path: str) -> None:
    before = os.umask(0o077)
    try:
        with api.listen(f"unix:{path}"):
            assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0
    finally:
        os.umask(before)


@unix
def test_addresses_do_not_limit_a_unix_socket(api: Any, path: str) -> None:
    with pytest.raises(ValueError, match="permissions"):
        api.serve(f"unix:{path}", allow=["127.0.0.1"])
    assert not os.path.exists(path)


@unix
def test_tls_at_a_path_needs_a_name(api: Any, path: str) -> None:
    server_ssl, client_ssl = contexts()
    with api.serve(f"unix:{path}", ssl=server_ssl) as server:
        server.provides(igtl.GetStatus)(lambda request, peer: igtl.Status.ok("here"))
        with pytest.raises(ValueError, match="server_hostname"):
            api.connect(f"unix:{path}", ssl=client_ssl)
        with api.connect(f"unix:{path}", ssl=client_ssl, server_hostname="localhost") as link:
            assert link.query(igtl.GetStatus()).message == "here"


@unix
def test_a_link_that_reconnects_to_a_path(path: str) -> None:
    backoff = igtl.Backoff(0.01, 0.05)
    with igtl.connect(f"unix:{path}", reconnect=backoff) as link:
        for _ in range(2):  # the second one at the same path
            with igtl.listen(f"unix:{path}") as listener, listener.accept(timeout=10) as peer:
                link.wait_connected(10)
                peer.send(there := transform())
                assert link.recv(timeout=10) == there


def test_a_system_without_unix_sockets(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    # the thread of a blocking server has an event loop, which needs what was taken away here
    for make in (api.connect, api.listen) if api is Blocking else (api.listen, api.serve):
        with pytest.raises(OSError, match="no Unix sockets"):
            make("unix:/run/igtl")


@unix
def test_a_path_on_the_command_line(path: str) -> None:
    from igtl.cli import main

    assert Address().convert(f"unix:{path}", None, None) == (f"unix:{path}", 0)
    with igtl.serve(f"unix:{path}") as server:
        server.provides(igtl.GetStatus)(lambda request, peer: igtl.Status.ok("at the path"))
        found = CliRunner().invoke(main, ["query", f"unix:{path}", "STATUS"])
        assert (found.exit_code, "at the path" in found.output) == (0, True), found.output
    found = CliRunner().invoke(main, ["query", f"unix:{path}", "STATUS"])
    assert found.exit_code != 0
    assert f"unix:{path}:" in found.output


# ---- sockets that the caller has made -----------------------------------------------------------


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        a = socket.create_connection(listening.getsockname())
        return a, listening.accept()[0]


@pytest.mark.parametrize("made", [tcp_pair, pytest.param(socket.socketpair, marks=unix)])
def test_a_connected_socket(api: Any, made: Callable[[], Any]) -> None:
    ends = made()
    with api.connect(sock=ends[0]) as a, api.connect(sock=ends[1]) as b:
        exchange(a, b)
    assert [end.fileno() for end in ends] == [-1, -1] or api is not Blocking
    with contextlib.suppress(OSError):
        assert not [end for end in ends if end.fileno() != -1 and end.getpeername()]


@pytest.mark.parametrize("listening", [True, False])
@pytest.mark.parametrize("kind", ["tcp", pytest.param("unix", marks=unix)])
def test_a_listening_socket(api: Any, path: str, kind: str, listening: bool) -> None:
    for make in ("listen", "serve"):
        sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        sock.bind(path if kind == "unix" else ("127.0.0.1", 0))
        if listening:
            sock.listen()
        with getattr(api, make)(sock=sock) as server:
            with api.connect(server.host, server.port) as link:
                assert link.connected
        assert sock.fileno() == -1
        assert kind == "tcp" or os.path.exists(path)  # whoever has made it removes it
        if kind == "unix":
            os.unlink(path)


def test_sockets_that_cannot_be_used(api: Any) -> None:
    for make in (api.connect, api.listen, api.serve):
        with pytest.raises(TypeError, match="sock must be a socket"):
            make(sock=3)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            pytest.raises(ValueError, match="stream socket"),
        ):
            make(sock=datagrams)
    bare = socket.socket()
    with pytest.raises(OSError, match="not connected"):
        api.connect(sock=bare)
    assert bare.fileno() == -1


def test_a_socket_is_for_one_connection() -> None:
    with socket.socket() as sock:
        for make in (
            lambda: igtl.connect(sock=sock, reconnect=igtl.Backoff()),
            lambda: igtl.reconnect(sock=sock),
            lambda: igtl.aio.reconnect(sock=sock),
        ):
            with pytest.raises(TypeError, match="opens its own"):
                make()


def test_a_slow_network_is_measured() -> None:
    """The benchmark, for a moment; its figures are not looked at."""
    slow_network = pytest.importorskip("benchmarks.slow_network")
    if reason := slow_network.why_not():
        pytest.skip(reason)
    try:
        found = slow_network.measure(100, slow_network.SMALL, "latest", 0.5)
    except OSError as error:
        pytest.skip(f"no namespaces, or no token bucket: {error}")
    assert found["sent"] == {"tools": 480, "images": 15}
    assert found["images"] > 0
    assert 0 < found["p50"] <= found["p95"]
    assert found["missing"] == 0
