"""Any message: the codec's bytes equal the oracle's, and decode to an equal message."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import igtl
from tests import reference, strategies
from tests.draw import Draw

# Types that share one field list (all that have none, all answers to requests) run the same plan.
FIELD_LISTS = list({tuple(map(id, cls.__fields__)): cls for cls in strategies.TYPES}.values())


def name(cls: type[igtl.Message]) -> str:
    return cls.type_name


def agree(m: igtl.Message, version: int) -> igtl.Message:
    """Pack, compare with the oracle, decode, compare; the decoded message."""
    wire = m.pack(version=version)  # type: ignore[arg-type]
    assert wire == reference.message(m, version), m
    again = igtl.unpack(wire)
    assert again == m, m
    assert again.pack() == wire, m
    return again


@pytest.mark.parametrize("cls", FIELD_LISTS, ids=name)
@settings(max_examples=settings().max_examples // 3 + 1)  # test_drawn_messages has the many
@given(data=st.data())
def test_bytes_of_the_oracle(cls: type[igtl.Message], data: st.DataObject) -> None:
    m = data.draw(strategies.messages(cls))
    version = 2 if m.message_id or m.metadata else data.draw(st.sampled_from([1, 2]))
    again = agree(m, version)
    assert b"".join(m.pack_parts(version=version)) == m.pack(version=version)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(again)) == m
    assert copy.deepcopy(m) == m
    assert m.to_dict()["type"] == cls.type_name


@pytest.mark.parametrize("cls", strategies.TYPES, ids=name)
@pytest.mark.parametrize("examples", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_drawn_messages(cls: type[igtl.Message], examples: int) -> None:
    draw = Draw(cls.type_name)
    for _ in range(examples):
        m = draw.message(cls)
        agree(m, 2 if m.message_id or m.metadata else draw.choice((1, 2)))


@given(st.binary(max_size=400))
def test_crc_of_the_oracle(data: bytes) -> None:
    assert igtl.crc64(data) == reference.crc64(data)
