"""All benchmarks in one run: a table, JSON, and with --write docs/performance.md and pictures."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import codec, fanout, links, memory, report
from benchmarks.measure import Row, machine, say, steady_environment

ROOT = Path(__file__).parents[1]
SECTIONS = ("codec", "links", "fan-out", "memory")
DOCUMENT = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"


def measured(options: argparse.Namespace) -> tuple[list[Row], list[dict[str, float]]]:
    rows: list[Row] = []
    rates: list[dict[str, float]] = []
    for section in options.only or SECTIONS:
        say(section)
        if section == "codec":
            rows += codec.run(
                only=options.rows,
                repeats=5 if options.quick else 15,
                openigtlink=options.openigtlink,
            )
        elif section == "links":
            rows += links.run(quick=options.quick, openigtlink=options.openigtlink)
            rates = links.rates(quick=options.quick)
        elif section == "fan-out":
            rows += fanout.run(quick=options.quick)
        else:
            rows += memory.run(quick=options.quick)
    return rows, rates


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="one section; may be repeated"
    )
    parser.add_argument("--rows", default="", help="of the codec: rows whose name contains this")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: a look, not a result")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "build" / "benchmarks.json", help="default: %(default)s"
    )
    parser.add_argument(
        "--write", action="store_true", help="also into docs/performance.md, with pictures"
    )
    parser.add_argument(
        "--openigtlink",
        type=Path,
        metavar="DIR",
        help="measure the official C++ library installed in DIR (for example 3.x), not Debian's",
    )
    parser.add_argument("--from", dest="source", type=Path, help="no new run: show this JSON")
    options = parser.parse_args()
    if options.write and options.openigtlink:
        parser.error("docs/performance.md shows Debian's library: no --write with --openigtlink")
    if options.source:
        rows, data = report.load(options.source)
    else:
        rows, rates = measured(options)
        data = {
            "when": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "rates": rates,
        }
    text = report.markdown(rows, data["machine"], data["when"])
    print(text)
    failed = [row.name for row in rows if row.met is False]
    met = sum(row.met is True for row in rows)
    print(f"\n{met} goals met, {len(failed)} not: {'; '.join(failed) or '-'}")
    whole = json.dumps({**data, "rows": [asdict(row) for row in rows]}, indent=1)
    if not options.source:
        options.json.parent.mkdir(exist_ok=True)
        options.json.write_text(whole)
    pictures = report.curves(
        rows, data["rates"], PICTURES if options.write else options.json.parent
    )
    if options.write:
        report.write_into(DOCUMENT, text, data["when"])
        (PICTURES / "benchmarks.json").write_text(whole + "\n")
    say(f"pictures: {', '.join(p.name for p in pictures)}")


if __name__ == "__main__":
    environment = steady_environment()
    if any(os.environ.get(key) != value for key, value in environment.items()):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks", *sys.argv[1:]],
            {**os.environ, **environment},
        )
    main()
