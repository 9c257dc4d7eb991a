"""The matrix: rows of types, columns of peers and directions; how docs/compatibility.md and `recorded.json` keep it."""

from __future__ import annotations

import json
from pathlib import Path

import igtl
from interop.content import type_of
from interop.known import KNOWN
from interop.peers import NO_CLASS
from interop.verdicts import Direction, Verdict
from tests import golden

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
VECTORS = Path(__file__).parents[1] / "tests" / "vectors"
RECORDED = Path(__file__).with_name("recorded.json")
BEGIN, END = "<!-- interop: written by interop/run --write -->\n", "<!-- interop: end -->\n"
DIRECTIONS: tuple[Direction, Direction] = ("reads", "writes")
Verdicts = dict[tuple[str, Direction], dict[str, Verdict]]
"""By peer and direction: a verdict for each row."""


def from_vectors(rows: list[str]) -> dict[str, Verdict]:
    """Compare the golden messages, which the official library 3.1 packed, type by type."""
    found: dict[str, Verdict] = {}
    for vector in json.loads((VECTORS / "manifest.json").read_text())["vectors"]:
        wire = (VECTORS / vector["file"]).read_bytes()
        m = igtl.unpack(wire)
        skip = golden.GENERATOR_ONLY.get(vector["type"], set())
        if vector["name"] == golden.UNRECOVERABLE:
            skip = skip | {"ncomponents", "data"}
        wrong = golden.differences(vector["content"], golden.content_of(m), skip)
        state = "bytes" if m.pack() == wire and not wrong else "wrong"
        before = found.get(vector["type"], Verdict("bytes"))
        if before.state == "bytes":
            why = f"{vector['name']}: {wrong}" if state == "wrong" else ""
            found[vector["type"]] = Verdict(state, why, before.messages + 1)  # type: ignore[arg-type]
    return {row: found.get(type_of(row), Verdict("none")) for row in rows}


def unexpected(verdicts: Verdicts) -> list[str]:
    """List the verdicts that differ from `known`; for a peer without an entry there, only "wrong"."""
    out = []
    for (peer, direction), rows in verdicts.items():
        for row, verdict in rows.items():
            if verdict.state == "none":
                continue
            if peer not in KNOWN:
                if verdict.state == "wrong":
                    out.append(f"{peer} {direction} {row}: wrong: {verdict.why}")
                continue
            state, why = KNOWN[peer].get(row, {}).get(direction, ("bytes", ""))
            if verdict.state != state:
                expected = f"{state} ({why})" if why else state
                out.append(
                    f"{peer} {direction} {row}: {verdict.state} ({verdict.why[:300]}), expected {expected}"
                )
    return out


def record(verdicts: Verdicts, date: str, seed: int, count: int) -> None:
    """Keep the verdicts on a library that CI cannot have."""
    columns: dict[str, dict[str, dict[str, str]]] = {}
    for (peer, direction), rows in verdicts.items():
        columns.setdefault(peer, {})[direction] = {
            row: f"none: {v.why}" if v.state == "none" else v.state for row, v in rows.items()
        }
    content = {"date": date, "seed": seed, "count": count, "verdicts": columns}
    RECORDED.write_text(json.dumps(content, indent=1) + "\n")


def recorded() -> tuple[str, Verdicts]:
    """Return the date of the recorded run and its verdicts."""
    content = json.loads(RECORDED.read_text())
    verdicts: Verdicts = {}
    for peer, directions in content["verdicts"].items():
        for direction, rows in directions.items():
            parts = {row: text.partition(": ") for row, text in rows.items()}
            verdicts[peer, direction] = {row: Verdict(p[0], p[2]) for row, p in parts.items()}
    return content["date"], verdicts


def table(vectors: dict[str, Verdict], verdicts: Verdicts) -> str:
    """Return the matrix in Markdown. Rows with equal verdicts share a line."""
    notes: dict[str, int] = {}

    def cell(column: tuple[str, Direction], row: str) -> str:
        if row not in verdicts[column]:
            return "?"  # a row that is newer than the recorded run
        verdict = verdicts[column][row]
        sign = {"bytes": "=", "values": "≈", "wrong": "✗", "none": "–"}[verdict.state]
        if verdict.state == "bytes" or verdict.why == NO_CLASS:
            return sign
        peer, direction = column
        known = KNOWN.get(peer, {}).get(row, {}).get(direction)
        why = known[1] if known else verdict.why
        return f"{sign} {notes.setdefault(why, len(notes) + 1)}"

    lines: dict[tuple[str, ...], list[str]] = {}
    for row in vectors:
        golden_cell = {"bytes": "=", "wrong": "✗", "none": "–"}[vectors[row].state]
        cells = (golden_cell, *(cell(column, row) for column in verdicts))
        lines.setdefault(cells, []).append(row)
    head = [
        "type",
        "golden vectors (C++ 3.1)",
        *(f"{peer} {direction}" for peer, direction in verdicts),
    ]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for cells, rows in lines.items():
        # where a row has a form of its own, its commas would run into the others'
        names = "; ".join(rows) if any("," in row for row in rows) else ", ".join(rows)
        out.append(f"| {names} | {' | '.join(cells)} |")
    out.append("")
    out += [f"{number}. {why}" for why, number in notes.items()]
    return "\n".join(out) + "\n"


def in_page() -> str:
    text = PAGE.read_text()
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def write_page(new: str) -> None:
    text = PAGE.read_text()
    start = text.index(BEGIN) + len(BEGIN)
    PAGE.write_text(text[:start] + new + text[text.index(END) :])
