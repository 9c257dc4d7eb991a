"""What answers a request, and how a peer says no."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.session.requests import Exchange, stop_for
from tests.conftest import VECTORS

PLUS = VECTORS / "plus"


def from_plus(name: str) -> Any:
    return igtl.unpack((PLUS / f"{name}.bin").read_bytes())


def refusal(asked: igtl.Message, reply: igtl.Message) -> str:
    """The reason that the asker is given."""
    with pytest.raises(igtl.CommandFailed) as caught:
        Exchange(asked).result(reply)
    assert caught.value.reply is reply
    return str(caught.value)


def command_reply(text: str = "", **metadata: str) -> igtl.CommandReply:
    return igtl.CommandReply(7, "Go", text, metadata=metadata)


ASKED = igtl.Command(7, "Go")


# ---- pairing --------------------------------------------------------------------------------------


def test_the_message_id_pairs_whatever_the_name() -> None:
    asked = Exchange(igtl.GetTransform(device_name="A", message_id=5))
    named = igtl.Transform(np.eye(4), device_name="A", message_id=6)
    other = igtl.Transform(np.eye(4), device_name="B", message_id=5)
    assert asked.matches(other)
    assert asked.matches(named)
    assert not asked.matches(igtl.Transform(np.eye(4), device_name="B", message_id=6))
    assert not asked.matches(igtl.Transform(np.eye(4), device_name="B"))
    without = Exchange(igtl.GetTransform(device_name="A"))
    assert not without.matches(igtl.Transform(np.eye(4), device_name="B"))  # 0 is no id
    assert without.matches(igtl.Transform(np.eye(4)))


def test_commands_pair_by_their_id_alone() -> None:
    assert Exchange(ASKED).matches(igtl.CommandReply(7, "Other", "", device_name="x"))
    assert not Exchange(ASKED).matches(igtl.CommandReply(8, "Go", ""))


# ---- RTS_ ----------------------------------------------------------------------------------------


def test_the_status_byte() -> None:
    start = igtl.StartTrackingData()
    ready: Any
    for ready in (igtl.ReadyTrackingData(0), igtl.ReadyTrackingData(None)):
        assert Exchange(start).result(ready) is ready
    assert refusal(start, igtl.ReadyTrackingData(1)) == "STT_TDATA was refused"


@pytest.mark.parametrize("status", [0, 1, None])
def test_nothing_follows_from_the_status_byte_of_polydata(status: int | None) -> None:
    """docs/protocol.md section 9: the official library writes 1 for success."""
    ready = igtl.ReadyPolyData(status)
    for asked in (igtl.StartPolyData(), igtl.StopPolyData()):
        assert Exchange(asked).matches(ready)
        assert Exchange(asked).result(ready) is ready


def test_stop_takes_the_name_of_what_was_started() -> None:
    stop = stop_for(igtl.StartTrackingData(device_name="Tracker"))
    assert (type(stop), stop.device_name) == (igtl.StopTrackingData, "Tracker")
    assert Exchange(stop).matches(igtl.ReadyTrackingData(device_name="Tracker"))
    assert not Exchange(stop).matches(igtl.ReadyTrackingData(device_name="Other"))
    assert not Exchange(stop).matches(igtl.TrackingData(device_name="Tracker"))


# ---- refusals -------------------------------------------------------------------------------------


def test_a_status_is_told_in_words() -> None:
    asked = igtl.GetImage(device_name="CT")
    said = igtl.Status(igtl.StatusCode.BUSY, 0, "GET_IMAGE", "scanning", device_name="CT")
    assert refusal(asked, said) == "GET_IMAGE was refused: scanning"
    silent = igtl.Status(igtl.StatusCode.ACCESS_DENIED, 0, "GET_IMAGE", device_name="CT")
    assert refusal(asked, silent) == "GET_IMAGE was refused: ACCESS_DENIED"
    strange = igtl.Status(77, 0, "GET_IMAGE", device_name="CT")
    assert refusal(asked, strange) == "GET_IMAGE was refused: code 77"


def test_plus_refuses_a_request_like_a_command() -> None:
    refused = from_plus("query_failed_v1")
    asked = igtl.GetImage(device_name="x")
    assert Exchange(asked).matches(refused)
    assert refusal(asked, refused) == "ImageId has to contain a dash right after the deviceId."
    for other in (
        igtl.GetImage(device_name="y"), igtl.GetImageMeta(device_name="x"),
        igtl.StartImage(device_name="x"), igtl.Command(1, "GET_IMAGE", device_name="x"),
    ):  # fmt: skip
        assert not Exchange(other).matches(refused)
    refused.command_id = 3  # of a command that has this name by chance
    assert not Exchange(asked).matches(refused)
    done = igtl.CommandReply(0, "GET_IMAGE", '<CommandReply Status="SUCCESS"/>', device_name="x")
    assert not Exchange(asked).matches(done)  # the image follows


def test_a_link_takes_it_as_the_answer() -> None:
    a, b = igtl.pipe()
    with a, b:
        b.send(from_plus("query_failed_v1"))
        with pytest.raises(igtl.CommandFailed, match="dash right after"):
            a.query(igtl.GetImage(device_name="x"), timeout=5)


# ---- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "good"),
    [
        *((word, True) for word in ("SUCCESS", "Success", "success", "TRUE", "true", "OK", "ok", "1", " OK ")),
        *((word, False) for word in ("FAIL", "FALSE", "false", "0", "ERROR", "", "2", "OKAY", "Expired", "TRUE1")),
    ],
)  # fmt: skip
def test_words_of_a_status(word: str, good: bool) -> None:
    for reply in (command_reply(Status=word), command_reply(f'<CommandReply Status="{word}"/>')):
        if good:
            assert Exchange(ASKED).result(reply) is reply
        else:
            refusal(ASKED, reply)


def test_a_reply_that_says_nothing_is_a_success() -> None:
    for text in ("", "done", "<a/>", "<a><b Status='FAIL'/></a>", "Status=FAIL", '"Status="FAIL"'):
        reply = command_reply(text)
        assert Exchange(ASKED).result(reply) is reply


def test_metadata_go_before_the_text() -> None:
    reply = command_reply('<CommandReply Status="FAIL"/>', Status="SUCCESS")
    assert Exchange(ASKED).result(reply) is reply
    refusal(ASKED, command_reply('<CommandReply Status="SUCCESS"/>', Status="FAIL"))


@pytest.mark.parametrize("status", ["SUCCESS", "FAIL"])
def test_an_error_message_is_a_failure(status: str) -> None:
    """3D Slicer says SUCCESS whatever happened."""
    assert refusal(ASKED, command_reply(Status=status, ErrorMessage="no disk")) == "no disk"
    assert Exchange(ASKED).result(command_reply(Status="SUCCESS", ErrorMessage=""))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rts_command_v2_gettransform_fail", "GetTransform (NopeToProbe) Failed. Transform not found."),
        ("rts_command_v2_unknown", "Unknown command type requested."),
    ],
)  # fmt: skip
def test_the_reason_that_plus_gives(name: str, reason: str) -> None:
    reply = from_plus(name)
    assert refusal(igtl.Command(reply.command_id, "x"), reply) == reason
    reply.metadata = None  # as to a client of header version 1
    assert refusal(igtl.Command(reply.command_id, "x"), reply) == reason
    good = from_plus("rts_command_v2_gettransform")  # its metadata have a transform named "error"
    assert Exchange(igtl.Command(good.command_id, "x")).result(good) is good


@pytest.mark.parametrize(
    ("text", "metadata", "reason"),
    [
        ("<a Error='e' Message='m'/>", {"Error": "E", "ErrorMessage": "M"}, "E"),
        ("<a Error='e' Message='m'/>", {"Error": "", "ErrorMessage": "M"}, "M"),
        ("<a Message='m' Error='e'/>", {}, "e"),
        ("<a Error='' Message='m &lt;&amp;&#33;'/>", {}, "m <&!"),
        ('<a Message="it\'s"/>', {"Message": "of success"}, "it's"),
        ("plain words", {}, "plain words"),
        ("<a/>", {}, "<a/>"),
        ("<?xml version='1.0' Error='x'?><a Error='e'/>", {}, "e"),
        ("", {}, "the peer gave no reason"),
    ],
)
def test_the_order_of_reasons(text: str, metadata: dict[str, str], reason: str) -> None:
    assert refusal(ASKED, command_reply(text, Status="FAIL", **metadata)) == reason


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x "' + "y" * 1000 + '">]><a Status="FAIL" Error="&x;&x;&x;"/>',
        "<a " + "b=" * 500_000,
        "<" * 1_000_000,
        "<a " + 'b="' * 300_000,
        "<a " + "x" * 1_000_000 + '="1" Status="FAIL"/>',
        '<a Status="FAIL" Error="' + "e" * 1_000_000 + '"/>',
        "<a>" * 300_000,
        '<!ENTITY % a SYSTEM "file:///etc/passwd">%a;<a Error="%a;"/>',
    ],
)
def test_xml_expands_nothing_and_takes_no_time(text: str) -> None:
    start = time.process_time()
    assert len(refusal(ASKED, command_reply(text, Status="FAIL"))) <= max(len(text), 100)
    assert time.process_time() - start < 2
