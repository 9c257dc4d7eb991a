"""Bridges: messages, losses, late receivers, requests, presence, access, and the commands. All in this
process, or beside it, over loopback; tests/test_bridge_network.py has computers and cables."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Frame
from igtl.bridge.access import rules_of
from igtl.bridge.clock import Clock
from igtl.bridge.kept import Kept, asking
from igtl.bridge.lanes import Bounds, Lane, kind_of
from igtl.bridge.names import Stamp, chunk_of, name_of
from igtl.bridge.outlet import Names
from igtl.bridge.sockets import Sockets
from tests.cpp import free_port

pytest.importorskip("zenoh", reason="eclipse-zenoh is not installed")
trustme = pytest.importorskip("trustme")
pytestmark = pytest.mark.timeout(
    300
)  # waits for conditions; other programs may want the processors


def until(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
    return found


def pose(name: str = "Probe", **header: Any) -> igtl.Transform:
    return igtl.Transform(np.eye(4), device_name=name, **header)


def slices(number: int, name: str = "US") -> igtl.Image:
    return igtl.Image(np.zeros((number, 4, 4), np.uint8), device_name=name)


@pytest.fixture
def hub() -> Iterator[str]:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    with igtl.bridge.Router(listen=endpoint):
        yield endpoint


def published(site: str, hub: str, source: Any = None, **options: Any) -> igtl.bridge.Publisher:
    publisher = igtl.bridge.Publisher(site, source, connect=hub, **options)
    until(lambda: publisher.connected)
    return publisher


def subscribed(sites: Any, hub: str, **options: Any) -> igtl.bridge.Subscriber:
    subscriber = igtl.bridge.Subscriber(sites, connect=hub, **options)
    until(lambda: subscriber.connected)
    return subscriber


def met(publisher: igtl.bridge.Publisher) -> None:
    """Wait until the hub knows of a receiver of the site."""
    until(lambda: all(wanted.matching_status.matching for wanted in publisher._wanted.values()))


def put_through(*publishers: igtl.bridge.Publisher) -> int:
    """The messages that have left the lanes."""
    return sum(p.stats.sent + p.stats.dropped["no receiver"] for p in publishers)


def accounted(subscriber: igtl.bridge.Subscriber) -> int:
    """What a receiver knows of them."""
    gap = subscriber.stats.dropped["gap"]
    assert gap == subscriber.lost.total()
    return subscriber.before + subscriber.stats.received + gap


# ---- parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [b"", b"Probe", b"a/b*c?d#e$f", b"@alive", b"%2F", b"\xff\xfe", "Sonde é".encode(), b"**"],
)
def test_names_and_chunks_of_keys(name: bytes) -> None:
    chunk = chunk_of(name)
    assert not set(chunk) & set("/*?#$@")
    assert chunk
    assert name_of(chunk) == name


def test_lanes_by_type() -> None:
    kinds = {
        "live": [pose(), igtl.Sensor([1.0])],
        "bulk": [slices(1)],
        "state": [slices(2), igtl.String("a"), igtl.Points([])],
    }
    for kind, messages in kinds.items():
        for message in messages:
            for version in (1, 2):
                assert kind_of(Frame.from_bytes(message.pack(version=version))) == kind


def test_a_lane_keeps_the_newest_pose_and_all_of_state() -> None:
    sent: dict[str, list[int]] = {"live": [], "state": []}
    lost: list[tuple[int, str]] = []
    for kind in ("live", "state"):
        lane: Lane[int] = Lane(
            kind, Bounds(3, 1000), sent[kind].append, lambda item, cause: lost.append((item, cause))
        )  # fmt: skip
        for number in range(5):
            lane.put(number, 10, b"TRANSFORM\0\0\0A" if kind == "live" else b"STRING\0\0\0\0\0\0A")
        lane.open(True)
        assert lane.drain(10)
        lane.close()
        lane.join()
    assert sent == {"live": [4], "state": [2, 3, 4]}
    assert lost == [(n, "superseded") for n in range(4)] + [(0, "overflow"), (1, "overflow")]


def test_ages_by_another_clock() -> None:
    clock = Clock()
    assert clock.age(1000.0, 5.0) == 0.0  # nothing is known yet
    assert clock.age(1000.5, 5.7) == pytest.approx(0.2)
    assert clock.age(1001.0, 5.9) == 0.0  # it was faster: the offset is smaller than thought
    clock.answered(6.0, 1001.2, 6.01)  # the other clock, between question and answer
    assert clock.measured
    assert clock.age(1001.2, 6.01) == pytest.approx(0.0, abs=0.011)
    clock.answered(100.0, 1001.3, 100.01)  # it stood still for 94 s
    assert clock.age(1001.3, 100.01) == pytest.approx(0.0, abs=0.011)
    assert clock.age(1001.3, 101.0) == pytest.approx(1.0, abs=0.011)


def test_what_is_kept_is_bounded_and_told_once() -> None:
    told: list[str] = []

    class Query:
        class key_expr:
            intersects = staticmethod(lambda key: True)

        def __init__(self, numbers: Any) -> None:
            self.payload = type("", (), {"to_bytes": lambda self: asking(numbers)})()

        def reply(self, key: str, data: bytes, attachment: bytes) -> None:
            told.append(f"{key} {Stamp.unpack(attachment).number}")

        def __enter__(self) -> None: ...

        def __exit__(self, *exc: object) -> None: ...

    kept = Kept(255, 25)
    for number, key in enumerate(("a", "b", "a", "c"), 1):
        kept.keep(key, bytes(10), Stamp(255, number, 0.0))
    kept.answer(Query({}))
    assert told == ["a 3", "c 4"]  # b was silent for longest
    told.clear()
    kept.answer(Query({"ff": {"a": 3, "c": 3}, "fe": {"c": 9}}))
    assert told == ["c 4"]


def test_names_for_clients_are_unique() -> None:
    names = Names()
    long = [names.of(f"hospital-north-or{n}", "ProbeToTracker") for n in range(20)]
    assert names.of("or1", "Probe") == "or1_Probe"
    assert len({*long}) == 20
    assert all(len(name.encode()) <= 20 for name in long)
    assert names.stream(long[7]) == ("hospital-north-or7", "ProbeToTracker")
    assert names.of("hospital-north-or7", "ProbeToTracker") == long[7]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("or1", "allows nothing"), ("or1 may=or1", "none of put"), ("or1 put=", "none of put"),
     ("or1 put=a,,b", "1 to 128 bytes")],
)  # fmt: skip
def test_wrong_rules(line: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        rules_of([line])


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="names the hub"):
        igtl.bridge.Publisher("or1")
    with pytest.raises(ValueError, match="is not an endpoint"):
        igtl.bridge.Subscriber("or1", connect="hub:7447")
    for site in ("", "*", "x" * 129):
        with pytest.raises(ValueError, match="a site has a name"):
            igtl.bridge.Publisher(site, connect="tcp/hub:7447")
    with pytest.raises(ValueError, match="goes by certificates"):
        igtl.bridge.Router(listen="tcp/127.0.0.1:0", allow=["or1 put=or1"])
    with pytest.raises(ValueError, match="cert and key"):
        igtl.bridge.Router(listen="tls/127.0.0.1:0", cert="a.pem")


# ---- messages -----------------------------------------------------------------------------------


def test_frames_arrive_as_they_came(hub: str) -> None:
    wrong = bytearray(igtl.String("a", device_name="a/b*").pack())
    wrong[50] ^= 1  # the CRC
    frames = [Frame.from_bytes(bytes(wrong)), Frame.from_bytes(pose("@é").pack(version=2))]
    with published("or/1*", hub) as publisher, subscribed("or/1*", hub, max_age=None) as subscriber:
        met(publisher)
        for frame in frames:
            publisher.put(frame)
        got = {bytes(found.frame): found.site for found in (subscriber.recv_frame(timeout=20),
                                                           subscriber.recv_frame(timeout=20))}  # fmt: skip
        assert got == {bytes(frame): "or/1*" for frame in frames}


def test_counters_of_both_ends_add_up(hub: str) -> None:
    got: list[Any] = []
    with published("or1", hub) as publisher, subscribed("*", hub, on_frame=got.append, max_age=None) as subscriber:  # fmt: skip
        until(lambda: subscriber.sites == ["or1"])
        for number in range(500):
            publisher.put(pose(f"T{number % 5}"))
            publisher.put(igtl.String(str(number), device_name="Log"))
            publisher.put(slices(1))
        assert publisher.drain(20)
        stats = publisher.stats
        assert stats.sent + stats.lost == 1500
        assert {*stats.dropped} <= {"superseded", "no receiver"}
        until(lambda: accounted(subscriber) == put_through(publisher))
        assert subscriber.stats.dropped == {}
        assert len(got) == stats.sent
        texts = [f.unpack().string for f, _ in got if f.type_name == "STRING"]
        assert texts == [str(number) for number in range(500)]


def test_gaps_are_counted(hub: str) -> None:
    """What Zenoh loses, as at a cut: here the numbers are wrong from the beginning."""
    with published("or1", hub) as publisher, subscribed("or1", hub) as subscriber:
        publisher.put(igtl.String("a", device_name="Log"))
        subscriber.recv(timeout=20)
        (stream,) = publisher._streams.values()
        until(lambda: stream.number == 1)  # the publisher's thread says so when it has sent
        stream.number += 7
        publisher.put(igtl.String("b", device_name="Log"))
        subscriber.recv(timeout=20)
        assert subscriber.stats.dropped == {"gap": 7}


def test_what_was_lost_last_becomes_known(hub: str) -> None:
    """Nothing follows it but the tally, while the site stays or when it goes."""
    for last in (False, True):
        with published("or1", hub) as publisher, subscribed("or1", hub) as subscriber:
            met(publisher)
            for message in (pose("a/b"), igtl.String("a", device_name="Log")):
                publisher.put(message)
            until(lambda: subscriber.stats.received == 2)
            streams = list(publisher._streams.values())
            until(lambda: all(stream.number == 1 for stream in streams))  # noqa: B023
            for stream in streams:
                stream.number += 7
            if not last:
                publisher.drain(20)
            else:
                publisher.close()
            # the last text is asked for, should there be a cut: it may come still
            lost = 14 if last else 13
            until(lambda: subscriber.stats.dropped["gap"] == lost)  # noqa: B023
            assert subscriber.lost == {"or1": lost}
            assert subscriber.stats.streams["TRANSFORM", "a/b"].lost["gap"] == 7


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals of Unix")
def test_a_hub_that_is_killed_hides_no_loss(command: Any) -> None:
    hub = f"tcp/127.0.0.1:{free_port()}"

    def router() -> Any:
        process = command("bridge", "router", "--endpoint", hub)
        said(process, "hub at")
        return process

    def kill(process: Any) -> None:
        """With what is on its way."""
        process.send_signal(signal.SIGSTOP)
        sent = put_through(*publishers)
        if going.is_set():
            until(lambda: put_through(*publishers) > sent + 20)
        else:
            feed()
            until(lambda: put_through(*publishers) == sent + 3 * len(publishers))
        process.kill()
        until(lambda: not any(end.connected for end in (*publishers, *receivers)))

    def feed() -> None:
        nonlocal put
        for publisher in publishers:
            for message in (pose(), slices(1), igtl.String(str(put), device_name="Log")):
                publisher.put(message)
                put += 1

    def feeding() -> None:
        while going.is_set():
            feed()
            time.sleep(0.002)

    put, going = 0, threading.Event()
    texts: list[int] = []

    def collect(received: igtl.bridge.Received) -> None:
        if received.site == "s0" and received.frame.type_name == "STRING":
            texts.append(int(received.frame.unpack().string))

    process = router()
    with contextlib.ExitStack() as stack:
        receivers = [
            stack.enter_context(subscribed("*", hub, max_age=None, on_frame=collect)),
            stack.enter_context(subscribed(["s0", "s1"], hub, on_frame=lambda received: None)),
        ]
        publishers = [stack.enter_context(published(f"s{n}", hub)) for n in range(3)]
        until(lambda: [r.sites for r in receivers] == [["s0", "s1", "s2"], ["s0", "s1"]])
        going.set()
        thread = threading.Thread(target=feeding)
        stack.callback(thread.join)
        stack.callback(going.clear)
        thread.start()
        for round in range(3):
            counted = [r.stats.received for r in receivers]
            until(lambda: all(r.stats.received > n + 200 for r, n in zip(receivers, counted, strict=True)))  # noqa: B023  # fmt: skip
            if round == 2:  # the last messages of all are lost, and nothing follows them
                going.clear()
                thread.join()
                until(lambda: not any(p.waiting for p in publishers))
            kill(process)
            process = router()
            until(lambda: all(end.connected for end in (*publishers, *receivers)))
        until(lambda: not any(p.waiting for p in publishers))
        for publisher in publishers:
            assert {*publisher.stats.dropped} <= {"superseded", "no receiver"}
        assert put == sum(p.stats.sent + p.stats.lost for p in publishers)
        until(lambda: accounted(receivers[0]) == put_through(*publishers))
        until(lambda: accounted(receivers[1]) == put_through(*publishers[:2]))
        assert {*receivers[0].lost} == {"s0", "s1", "s2"}
        assert {*receivers[1].lost} == {"s0", "s1"}
    assert texts == sorted(set(texts))


def test_an_old_pose_is_not_handed_out(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with published("or1", hub) as publisher, subscribed("or1", hub, max_age=20.0) as subscriber:
        until(lambda: any(p.clock.measured for p in subscriber._publishers.values()))
        publisher.put(pose())
        subscriber.recv(timeout=20)
        lane = publisher._lanes["live"]
        put = lane.put

        def put_long_ago(item: Any, *rest: Any) -> None:  # as if the hub had been away
            put(item._replace(at=item.at - 60), *rest)

        monkeypatch.setattr(lane, "put", put_long_ago)
        publisher.put(pose())
        publisher.put(igtl.String("still true"))
        assert isinstance(subscriber.recv(timeout=20)[0], igtl.String)
        until(lambda: subscriber.stats.dropped == {"stale": 1})


def test_late_receivers_get_the_last_of_each_stream(hub: str) -> None:
    with published("or1", hub) as publisher:
        for text in ("old", "new"):
            publisher.put(igtl.String(text, device_name="Case"))
        publisher.put(slices(3, "CT"))
        publisher.put(pose())
        assert publisher.drain(20)
        for streams in (2, 3):  # each of the receivers
            with subscribed("or1", hub) as late:
                got = [late.recv(timeout=20)[0] for _ in range(streams)]
                found = {message.device_name: message for message in got}
                assert found["Case"].string == "new"
                assert found["CT"].array.shape == (3, 4, 4)
                publisher.put(igtl.Status.ok(device_name="Next"))
                assert late.recv(timeout=20)[0].device_name == "Next"  # and nothing twice


def test_the_hub_comes_late_and_is_restarted() -> None:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    events: list[str] = []
    with igtl.bridge.Publisher("or1", connect=endpoint, on_event=events.append) as publisher:
        with igtl.bridge.Subscriber("or1", connect=endpoint) as subscriber:
            for number in range(3):  # the hub may know the publisher first: then the last of each
                publisher.put(igtl.String(str(number), device_name=f"Log{number}"))
            until(lambda: any("refused" in text for text in events))
            for round in range(2):
                with igtl.bridge.Router(listen=endpoint):
                    if round == 0:
                        texts = [subscriber.recv(timeout=20)[0].string for _ in range(3)]
                        assert sorted(texts) == ["0", "1", "2"]
                    publisher.put(igtl.String(f"round {round}", device_name="Log"))
                    assert subscriber.recv(timeout=20)[0].string == f"round {round}"
                until(lambda: not publisher.connected and not subscriber.connected)


def test_sites_come_and_go_and_two_of_one_name_are_told(hub: str) -> None:
    seen: list[tuple[str, bool]] = []
    told: list[str] = []
    mine: list[str] = []
    with subscribed("*", hub, on_site=lambda *what: seen.append(what), on_event=told.append) as subscriber:  # fmt: skip
        with published("or1", hub, on_event=mine.append):
            until(lambda: seen == [("or1", True)])
            with published("or1", hub):
                until(lambda: any("2 publishers of site 'or1'" in text for text in told))
                until(lambda: any("another publisher" in text for text in mine))
            assert subscriber.sites == ["or1"]
            assert len(seen) == 1
        until(lambda: seen == [("or1", True), ("or1", False)])


# ---- requests -----------------------------------------------------------------------------------


@contextlib.contextmanager
def clinic(hub: str, *sites: str, patience: float = 20.0) -> Iterator[igtl.Server]:
    """Sites with a server each, and one server that hands out all of them."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        for site in sites:
            source = stack.enter_context(igtl.serve(port=0))

            @source.command("*")
            def _(command: igtl.Command, peer: Any, site: str = site) -> str:
                if command.name == "Wait":
                    over.wait(60)
                return f"{site} has done {command.name}"

            @source.provides(igtl.GetImage)
            def _(request: igtl.GetImage, peer: Any) -> igtl.Image | None:
                return None if request.device_name == "None" else slices(3, request.device_name)

            link = stack.enter_context(igtl.connect(port=source.port, hello=True))
            stack.enter_context(published(site, hub, link))
            until(lambda source=source: source.clients)
            source.broadcast(igtl.String(site, device_name="Where"))
        server = stack.enter_context(igtl.serve(port=0, start=False))
        outlet = stack.enter_context(
            igtl.bridge.Outlet(server, list(sites), connect=hub, request_timeout=patience)
        )
        server.start()
        until(lambda: outlet.subscriber.connected and outlet.passed >= len(sites))
        stack.callback(over.set)
        yield server


def test_requests_of_a_client_reach_the_source_of_the_only_site(hub: str) -> None:
    with clinic(hub, "or1") as server, igtl.connect(port=server.port, hello=True) as client:
        assert client.recv(igtl.String, timeout=20).device_name == "Where"
        assert client.command("Go", "", timeout=20).text == "or1 has done Go"
        assert client.query(igtl.GetImage(device_name="CT"), timeout=20).array.shape == (3, 4, 4)
        assert isinstance(client.query(igtl.GetImage(device_name="None"), timeout=20), igtl.NoData)
        with pytest.raises(igtl.CommandFailed, match="start and stop them there"):
            with client.stream(igtl.StartTrackingData()):
                pass


def test_a_source_that_does_not_answer_in_time(hub: str) -> None:
    with clinic(hub, "or1", patience=0.5) as server:
        with igtl.connect(port=server.port, hello=True) as client:
            with pytest.raises(igtl.CommandFailed, match="has not answered within"):
                client.command("Wait", "", timeout=20)


def test_requests_of_a_client_reach_the_right_site(hub: str) -> None:
    with clinic(hub, "or1", "or2") as server:
        with (
            igtl.connect(port=server.port, hello=True) as one,
            igtl.connect(port=server.port, hello=True) as two,
        ):
            names = {one.recv(igtl.String, timeout=20).device_name for _ in range(2)}
            assert names == {"or1_Where", "or2_Where"}
            for client, site in ((one, "or1"), (two, "or2")):
                reply = client.command("Go", "", device_name=site, timeout=20)
                assert reply.text == f"{site} has done Go"
                image = client.query(igtl.GetImage(device_name=f"{site}_CT"), timeout=20)
                assert image.device_name == f"{site}_CT"
            with pytest.raises(igtl.CommandFailed, match=r"names no site; .* or1, or2"):
                one.command("Go", "", timeout=20)


def test_answers_go_to_the_one_that_has_asked(hub: str) -> None:
    """Both use the same command id."""
    with clinic(hub, "or1"), subscribed("or1", hub) as one, subscribed("or1", hub) as two:
        replies: dict[int, Any] = {}

        def ask(number: int, subscriber: igtl.bridge.Subscriber) -> None:
            command = igtl.Command(7, f"Go{number}", "")
            replies[number] = subscriber.request("or1", command, timeout=20).unpack()

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate((one, two))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(r.command_id, r.text) for _, r in sorted(replies.items())] == [
            (7, "or1 has done Go0"), (7, "or1 has done Go1"),
        ]  # fmt: skip
        with pytest.raises(LookupError, match="'or9' is not there"):
            one.request("or9", igtl.Command(1, "Go", ""))


def test_a_site_may_take_no_requests(hub: str) -> None:
    with published("or1", hub, requests=False), subscribed("or1", hub) as subscriber:
        until(lambda: subscriber.sites)
        with pytest.raises(LookupError, match="takes no requests"):
            subscriber.request("or1", igtl.Command(1, "Go", ""))


# ---- access -------------------------------------------------------------------------------------


class Files:
    """Certificates of one authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def of(self, name: str, ca: Path | None = None) -> dict[str, Any]:
        issued = self._authority.issue_cert("127.0.0.1", common_name=name)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return {"ca": ca or self.ca, "cert": cert, "key": key}


def test_certificates_decide(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files, others = Files(tmp_path), Files(tmp_path / "other")
    hub = f"tls/127.0.0.1:{free_port()}"
    rules = ["gateway put=or1  # a comment", "", "ward get=or1,or3", "console get=* ask=or1"]
    with igtl.bridge.Router(listen=hub, allow=rules, **files.of("hub")) as router:
        with igtl.serve(port=0) as source, igtl.connect(port=source.port, hello=True) as link:
            source.command("*")(lambda command, peer: "done")
            publisher = published("or1", hub, link, **files.of("gateway"))
            publisher.put(igtl.String("a", device_name="Case"))
            with publisher, subscribed(["or1", "or3"], hub, **files.of("ward")) as ward:
                assert ward.recv(timeout=20)[0].string == "a"
                assert set(router.connections.values()) == {"gateway", "ward"}
                with pytest.raises(igtl.bridge.Refused, match=r"not allow .*ward\.pem to ask site"):
                    ward.request("or1", igtl.Command(1, "Go", ""))
                with subscribed("*", hub, **files.of("console")) as console:
                    reply = console.request("or1", igtl.Command(1, "Go", ""), timeout=20)
                    assert reply.unpack().text == "done"
                refused = [
                    (igtl.bridge.Publisher("or2", connect=hub, **files.of("gateway")), "to put site 'or2'"),
                    (igtl.bridge.Publisher("or1", connect=hub, **files.of("ward")), "to put site 'or1'"),
                    (igtl.bridge.Subscriber("or2", connect=hub, **files.of("ward")), "to get site 'or2'"),
                    (igtl.bridge.Subscriber("*", connect=hub, **files.of("ward")), "to get all sites"),
                    (igtl.bridge.Subscriber("or1", connect=hub, **files.of("ward", ca=others.ca)),
                     "its certificate is not trusted"),
                    (igtl.bridge.Subscriber("or1", connect=hub, **others.of("ward", ca=files.ca)),
                     "it refuses this end's certificate"),
                ]  # fmt: skip
                for end, reason in refused:
                    with end, pytest.raises(igtl.bridge.Refused, match=reason):
                        end.wait(30)


# ---- commands -----------------------------------------------------------------------------------


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    with contextlib.ExitStack() as stack:

        def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "igtl", *arguments], text=True,
                env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started


def said(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it has not said {text!r}")


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.terminate()
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    return out, errors


@pytest.mark.skipif(sys.platform == "win32", reason="locks of another kind")
def test_looking_for_sockets_unlocks_no_file(tmp_path: Path) -> None:
    import fcntl

    file = tmp_path / "locked"
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with file.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        Sockets(1.0).begun("tcp/127.0.0.1:1", "tcp/127.0.0.1:2")
        done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True)
        assert b"BlockingIOError" in done.stderr


@pytest.mark.processes
def test_the_commands_together(tmp_path: Path, command: Any) -> None:
    hub, at = f"tcp/127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with igtl.serve(port=0) as source:
        source.broadcast(igtl.String("hello", device_name="Case"), latch=True)
        router = command("bridge", "router", "--endpoint", hub)
        said(router, "hub at")
        put = command("bridge", "put", "or1", f"127.0.0.1:{source.port}", "--connect", hub)
        said(put, "connected to")
        get = command("bridge", "get", "or1", "--at", at, IGTL_BRIDGE=hub)
        said(get, "Ctrl-C ends")
        port = int(at.rpartition(":")[2])
        with igtl.connect("127.0.0.1", port, reconnect=igtl.Backoff(0.05, 0.2)) as client:
            assert client.recv(igtl.String, timeout=30).string == "hello"
            monitor = command("monitor", "site:or1", "-s", "5", IGTL_BRIDGE=hub)
            file = tmp_path / "a.mcap"
            record = command("record", str(file), "site:or1", "-n", "3", "--connect", hub)
            while record.poll() is None or monitor.poll() is None:
                source.broadcast(pose())
                time.sleep(0.01)
            out, errors = monitor.communicate(timeout=60)
            assert {"Probe", "Case"} <= {*out.split()}, errors
        record.communicate()
        with igtl.Recording(file) as recording:
            assert ("TRANSFORM", "Probe") in recording.streams
        assert "messages put" in ended(put)[1]
        assert "messages handed out" in ended(get)[1]
        assert "site 'or1' is there" in ended(router)[1]


@pytest.mark.processes
def test_what_the_commands_refuse() -> None:
    for arguments, status, text in [
        (("bridge", "put", "or1", "localhost"), 2, "names the hub"),
        (("monitor", "site:or1"), 2, "site:NAME needs --connect"),
        (("monitor", "site:or1", "--udp", "--connect", "tcp/localhost:1"), 2, "not for a site"),
        (("query", "site:or1", "IMAGE"), 1, "not for a site of a bridge"),
        (("bridge", "router", "--rule", "or1 put=or1"), 2, "goes by certificates"),
        (("bridge", "router", "--rule", "or1"), 2, "allows nothing"),
    ]:
        environment = {key: value for key, value in os.environ.items() if key != "IGTL_BRIDGE"}
        done = subprocess.run(
            [sys.executable, "-m", "igtl", *arguments], capture_output=True, text=True,
            env=environment, timeout=60,
        )  # fmt: skip
        assert (done.returncode, text in done.stderr) == (status, True), done.stderr


@pytest.mark.processes
def test_a_forgotten_close_does_not_hold_up_the_end() -> None:
    code = """
import igtl, json, sys
hub = sys.argv[1]
igtl.bridge.Router(listen=hub)
publisher = igtl.bridge.Publisher("or1", connect=hub)
subscriber = igtl.bridge.Subscriber("or1", connect=hub)
publisher.put(igtl.String("a"))
print(json.dumps(subscriber.recv(timeout=20)[0].string))
"""
    hub = f"tcp/127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-c", code, hub], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, "a"), done.stderr
