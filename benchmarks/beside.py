"""The figures in docs/compatibility.md, from those of the last published run:
`python -m benchmarks.beside`.

`--check` fails if the page has others; CI's tests call that.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks import report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN = "<!-- figures: written by python -m benchmarks.beside -->\n"
END = "<!-- figures: end -->"
ROWS = {
    "TRANSFORM pack": "TRANSFORM, pack",
    "TRANSFORM unpack": "TRANSFORM, unpack",
    "TDATA 5 unpack": "TDATA of 5 tools, unpack",
    "POINT 10000 pack": "POINT of 10,000, pack",
    "IMAGE 640x480 u8 pack": "IMAGE 640 × 480, pack",
    "IMAGE 512x512x100 u16 pack": "IMAGE 512 × 512 × 100, pack",
    "IMAGE 512x512x100 u16 unpack": "IMAGE 512 × 512 × 100, unpack",
    "TRANSFORM round trip, blocking": "TRANSFORM there and back, TCP",
}
PEERS = {"C++": "official C++ 1.11", "Rust": "Rust crate 0.4.1", "pyigtl": "pyigtl 0.3.4"}


def _time(seconds: float) -> str:
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if seconds < 1000 * size or unit == "s":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError


def _beside(theirs: float, ours: float) -> str:
    ratio = theirs / ours
    return (
        f"{_time(theirs)} ({ratio:,.0f} ×)" if ratio > 100 else f"{_time(theirs)} ({ratio:.2g} ×)"
    )


def table() -> str:
    """The table, of medians."""
    data: dict[str, Any] = json.loads(report.published().read_text())
    found = {row["name"]: row["found"] for row in data["rows"]}
    lines = [
        f"| CRC included | igtl | {' | '.join(PEERS.values())} |",
        f"|---|---|{'---|' * len(PEERS)}",
    ]
    for name, title in ROWS.items():
        ours = found[name]["igtl"]["p50"]
        cells = []
        for peer in PEERS:
            theirs = found[name].get(peer)
            cells.append("" if theirs is None else _beside(theirs["p50"], ours))
        lines.append(f"| {title} | **{_time(ours)}** | {' | '.join(cells)} |")
    machine = data["machine"]
    where = f"{machine['cpu']}, {machine['processors']} processors, {machine['python']}"
    lines.append("")
    lines.append(f"Measured {data['when']} on {where}; medians of contenders that take turns.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    page = PAGE.read_text()
    new = re.sub(
        re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: BEGIN + table() + END, page,
        flags=re.DOTALL,
    )  # fmt: skip
    if options.check:
        assert new == page, f"{PAGE} has other figures than {report.published()}"
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
