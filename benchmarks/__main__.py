"""All benchmarks in one run: a table, JSON, and with --write docs/performance.md and pictures."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import codec, fanout, links, load, memory, peers, report
from benchmarks.measure import (
    CPUS,
    Row,
    Work,
    command_line,
    machine,
    pin,
    say,
    steady_environment,
    wanted,
)

ROOT = Path(__file__).parents[1]
SECTIONS = {"codec": codec, "links": links, "load": load, "fan-out": fanout, "memory": memory}


def chosen(options: argparse.Namespace) -> list[tuple[str, Work]]:
    """What is to be measured, with the section that it is in."""
    found = []
    for section in options.only or SECTIONS:
        module: Any = SECTIONS[section]
        for work in module.works(options.openigtlink):
            if any(wanted(options, name) for name in work.names):
                found.append((section, work))
    return found


def measured(options: argparse.Namespace) -> tuple[list[Row], list[dict[str, float]]]:
    works = chosen(options)
    if not works:
        raise SystemExit(f"no row begins with {options.rows!r}; --list names them")
    expected = sum(work.seconds[options.quick] for _, work in works) / 60
    say(f"{sum(len(work.names) for _, work in works)} rows, about {expected:.1f} minutes")
    if any(section == "codec" for section, _ in works):
        peers.compiled_cpp(options.openigtlink)
        peers.compile_rust(wanted=options.rust or options.write)
    rows: list[Row] = []
    rates: list[dict[str, float]] = []
    begun = time.monotonic()
    for k, (section, work) in enumerate(works):
        for row in work.run(options.quick):
            if wanted(options, row.name):
                rows.append(row)
        pin(CPUS)
        took = time.monotonic() - begun
        say(f"{took:5.0f} s  {k + 1}/{len(works)}  {section}: {work.names[-1]}")
    if not options.rows and any(section == "links" for section, _ in works):
        rates = links.rates(quick=options.quick)
    return rows, rates


def main() -> None:
    parser = command_line("benchmarks", __doc__)
    parser.add_argument(
        "--only", action="append", choices=list(SECTIONS), help="one section; may be repeated"
    )
    parser.add_argument(
        "--rust", action="store_true",
        help="also beside the crate openigtlink-rust; compiling it takes minutes, once",
    )  # fmt: skip
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
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="also the ratio of each row to an earlier JSON"
    )
    options = parser.parse_args()
    if options.write and (options.openigtlink or options.rows or options.only):
        parser.error(
            "docs/performance.md shows all rows beside Debian's library: only --quick with --write"
        )
    if options.list:
        print("\n".join(name for _, work in chosen(options) for name in work.names))
        return
    before = report.load(options.compare)[0] if options.compare else None
    if options.source:
        rows, data = report.load(options.source)
    else:
        rows, rates = measured(options)
        data = {
            "when": time.strftime("%Y-%m-%d"),
            "machine": {**machine(), "contenders": peers.versions()},
            "rates": rates,
        }
    text = report.markdown(rows, data["machine"], data["when"])
    print(text)
    failed = [row.name for row in rows if row.met is False]
    met = sum(row.met is True for row in rows)
    print(f"\n{met} goals met, {len(failed)} not: {'; '.join(failed) or '-'}")
    if before is not None:
        print(f"\n{report.comparison(rows, before)}")
    whole = json.dumps({**data, "rows": [asdict(row) for row in rows]}, indent=1)
    if not options.source:
        options.json.parent.mkdir(exist_ok=True)
        options.json.write_text(whole)
    pictures = report.curves(
        rows, data["rates"], report.RUNS if options.write else options.json.parent
    )
    if options.write:
        kind = report.kind_of(data["machine"])
        report.run_of(kind).write_text(whole + "\n")
        report.publish(text, kind)
    say(f"{options.source or options.json}; pictures: {', '.join(p.name for p in pictures) or '-'}")


if __name__ == "__main__":
    environment = steady_environment()
    if any(os.environ.get(key) != value for key, value in environment.items()):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks", *sys.argv[1:]],
            {**os.environ, **environment},
        )
    main()
