"""Verdicts: random messages to a peer and back, and from it, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import igtl
from igtl import _core
from interop.content import Content, defined, describe, differences, type_of
from interop.peers import Gone, Peer, Session

State = Literal["bytes", "values", "wrong", "none"]
Direction = Literal["reads", "writes"]
"""Whether the peer reads or writes."""
ORDER: tuple[State, ...] = ("bytes", "values", "wrong", "none")


@dataclass(frozen=True)
class Verdict:
    """The agreement between a peer and igtl on one kind of message.

    bytes: every byte is equal. values: the values are equal, bytes differ. wrong: the values differ.
    none: the peer has no class to compare.
    """

    state: State
    why: str = ""
    messages: int = 0


def worst(verdicts: list[Verdict]) -> Verdict:
    verdict = max(verdicts, key=lambda v: ORDER.index(v.state))
    return Verdict(verdict.state, verdict.why, sum(v.messages for v in verdicts))


def same_bytes(got: igtl.Message, m: igtl.Message) -> bool:
    """Whether the peer packed `m` as igtl does in the header version that the peer chose."""
    if got.header_version == 1 and _core.needs_v2(m):
        return False
    return defined(got) == m.pack(version=got.header_version)


def peer_reads(session: Session, m: igtl.Message) -> Verdict:
    """Send a message that igtl packs; the peer prints what it read, and packs that again."""
    session.send(m)
    heard = session.line()
    if "refused" in heard:
        return Verdict("wrong", f"refused: {heard['refused']}", 1)
    wrong = differences(heard, m)
    if wrong:
        return Verdict("wrong", "; ".join(wrong), 1)
    if "not_packed_again" in heard:
        return Verdict("values", f"cannot pack it again: {heard['not_packed_again']}", 1)
    try:
        back = session.recv()
    except igtl.ProtocolError:
        back = None
    if back is None or not same_bytes(back, m):
        return Verdict("values", "packs it again differently", 1)
    return Verdict("bytes", "", 1)


def peer_writes(session: Session, m: igtl.Message) -> Verdict:
    """Let the peer pack the same values; compare its message with igtl's values and bytes."""
    description = describe(m)
    session.say(description)
    answer = session.line()
    if "refused" in answer:
        return Verdict("wrong", f"cannot pack it: {answer['refused']}", 1)
    try:
        got = session.recv()
    except igtl.ProtocolError as error:
        return Verdict("wrong", f"igtl refuses: {type(error).__name__} {error}", 1)
    if same_bytes(got, m):
        return Verdict("bytes", "", 1)
    wrong = differences(description, got)
    if isinstance(m, igtl.StartBind):  # the official library never writes the interval
        wrong = [line for line in wrong if "resolution" not in line]
    return Verdict("wrong", "; ".join(wrong), 1) if wrong else Verdict("values", "", 1)


PROGRAMS: dict[Direction, str] = {"reads": "reflect", "writes": "pack"}
ABILITY: dict[Direction, str] = {"reads": "unpack", "writes": "pack"}


def run(
    peer: Peer,
    direction: Direction,
    rows: list[str],
    count: int,
    seed: int,
    header_version: Literal[1, 2] = 1,
) -> dict[str, Verdict]:
    """Return a verdict for each row, from `count` messages over each of the peer's transports."""
    found: dict[str, list[Verdict]] = {row: [] for row in rows}
    compare = peer_reads if direction == "reads" else peer_writes
    for transport in peer.transports:
        session = None
        for row in rows:
            why = peer.cannot(type_of(row), ABILITY[direction])
            if why is not None:
                found[row].append(Verdict("none", why))
                continue
            content = Content(f"{seed} {row}", exact_time=peer.exact_time)
            for _ in range(count):
                m = content.message(row, header_version)
                if transport == "udp" and len(m.pack()) > 65507:
                    continue  # a datagram cannot hold it
                try:
                    session = session or Session(
                        peer, PROGRAMS[direction], transport, header_version
                    )
                    verdict = compare(session, m)
                except Gone as gone:
                    verdict = Verdict("wrong", str(gone), 1)
                found[row].append(verdict)
                if verdict.state == "wrong":
                    if session is not None:  # it may have lost framing
                        session.close()
                    session = None
                    break
        if session is not None:
            session.close()
    return {row: worst(verdicts) for row, verdicts in found.items()}
