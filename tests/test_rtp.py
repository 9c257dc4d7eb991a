"""The RTP wrapper against datagrams of the official library."""

from __future__ import annotations

import json
import random

import pytest

import igtl
from igtl.codec import rtp
from tests.conftest import VECTORS

CASES = json.loads((VECTORS / "rtp.json").read_text())["vectors"]
IDS = [c["name"] for c in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_same_datagrams(case: dict) -> None:
    wanted = [bytes.fromhex(p) for p in case["packets_hex"]]
    start = int.from_bytes(case["initial_seq_argument"].to_bytes(2, "little"), "big")
    packets = rtp.split(
        bytes.fromhex(case["message_hex"]),
        sequence=start,
        time=rtp.parse(wanted[0]).time,
        ssrc=case["ssrc"],
        payload_length=case["rtp_payload_length"],
        payload_type=case["payload_type"],
    )
    assert packets == wanted


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_joined_in_any_order(case: dict) -> None:
    message = bytes.fromhex(case["message_hex"])
    packets = [rtp.parse(bytes.fromhex(p)) for p in case["packets_hex"]]
    packets.append(packets[0])
    random.Random(7).shuffle(packets)
    assert rtp.join(packets) == message
    assert igtl.unpack(rtp.join(packets)).pack() == message


def test_id_above_16_bits_is_lost() -> None:
    wire = igtl.String("x" * 500, message_id=70_000).pack()
    packets = [
        rtp.parse(p) for p in rtp.split(wire, sequence=0, time=0, ssrc=1, payload_length=200)
    ]
    assert len(packets) > 1
    with pytest.raises(igtl.CRCError):
        igtl.unpack(rtp.join(packets))


def test_refusals() -> None:
    wire = igtl.String("x" * 500).pack(version=2)
    kw = {"sequence": 0, "time": 0, "ssrc": 1}
    with pytest.raises(igtl.EncodeError, match="version 2"):
        rtp.split(igtl.String("x").pack(version=1), **kw)
    with pytest.raises(igtl.EncodeError, match="8192"):
        rtp.split(igtl.String("x" * 9000).pack(version=2), payload_length=71, **kw)
    with pytest.raises(ValueError, match="payload_length"):
        rtp.split(wire, payload_length=70, **kw)
    packets = rtp.split(wire, payload_length=200, **kw)
    parsed = [rtp.parse(p) for p in packets]
    with pytest.raises(igtl.BodyError, match="whole"):
        rtp.join(parsed[1:])
    with pytest.raises(igtl.BodyError, match="whole"):
        rtp.join(parsed[:-1])
    with pytest.raises(igtl.BodyError, match="different"):
        rtp.join([parsed[0]._replace(ssrc=9), *parsed[1:]])
    for cut in range(len(packets[0])):
        try:
            rtp.parse(packets[0][:cut])
        except igtl.BodyError:
            continue
        assert cut >= 82
    with pytest.raises(igtl.BodyError, match="not a fragment number"):
        rtp.parse(packets[0][:80] + b"\x40\x00" + packets[0][82:])
