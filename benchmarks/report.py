"""From rows to what people read: a table in the terminal, docs/performance.md, pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.codec import SIDES, TOOLS
from benchmarks.measure import PEERS, Row, say, shown

TITLES = {
    "codec": "Packing and unpacking",
    "links": "Links",
    "fan-out": "One server, many clients",
    "load": "In use",
    "memory": "Memory beside the pixels",
    "import": "Import",
}
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RUNS = ROOT / "docs" / "performance"
"""Pictures, and the published run of each kind of CPU."""
TABLES = re.compile(r"<!-- measured: ([\w-]+) -->\n.*?<!-- /measured -->", re.S)
KINDS = re.compile(r"<!-- kinds -->\n.*?<!-- /kinds -->", re.S)


def value(row: Row, name: str, key: str = "p50") -> str:
    """A cell: a time, a rate or a count."""
    if name not in row.found or key not in row.found[name]:
        return ""
    number = row.found[name][key]
    if row.rate:
        return f"{1 / number:,.0f}/s" if number < 1e-3 else f"{1 / number:.3g}/s"
    if row.unit == "s":
        return shown(number)
    return f"{number:.3g}{'×' if row.unit == 'x' else ' ' + row.unit}"


def ours(row: Row) -> str:
    """Median and best of igtl, or median and p99 of single samples."""
    median = value(row, "igtl")
    if row.unit != "s" or row.rate:
        return median
    if p99 := value(row, "igtl", "p99"):
        return f"{median} (p99 {p99})"
    return f"{median} (best {value(row, 'igtl', 'best')})"


def against(row: Row) -> str:
    """Ratios to the others."""
    mine = row.found["igtl"]["p50"]
    ratios = [
        f"{number(mine / theirs)} {name if name != 'limit' else row.limit or 'limit'}"
        for name in PEERS[1:]
        if (theirs := row.found.get(name, {}).get("p50"))
    ]
    return ", ".join(ratios)


def number(ratio: float) -> str:
    if ratio < 0.01:
        return f"1/{1 / ratio:,.0f}"
    return f"{ratio:.2g}" if ratio < 1 else f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def goal(row: Row) -> tuple[str, str]:
    """The goal in words, and what came of it."""
    if row.goal is None:
        return "", ""
    met = {True: "met", False: "**not met**", None: "no peer"}[row.met]
    if row.of == "absolute":
        text = f"≤ {shown(row.goal) if row.unit == 's' else f'{row.goal:g}'}"
        if "p99" in row.found["igtl"]:
            text += " (p99)"
        return text, met
    of = row.limit if row.of == "limit" else row.of
    sign, least, ratio = (
        ("≥", 1 / row.goal, 1 / (row.ratio or 1)) if row.rate else ("≤", row.goal, row.ratio)
    )
    words = f"{least:.3g}" if least > 0.01 else number(least)
    return f"{sign} {words} × {of}", "" if row.ratio is None else f"{met}: {number(ratio or 0)}"


def markdown(rows: list[Row], machine: dict[str, Any], when: str) -> str:
    """The tables."""
    where = ", ".join(
        [
            machine["cpu"],
            f"{machine['processors']} processors",
            machine["system"],
            machine["python"],
        ]
    )
    out = [f"Measured {when} on {where}; CRC form {machine['crc']}. Medians."]
    if "contenders" in machine:  # reports of older versions name none
        peers = ", ".join(f"{name} {version}" for name, version in machine["contenders"].items())
        features = ", ".join(machine["features"]) or "not told by the system"
        out += [
            "",
            f"Contenders: {peers or 'none'}; numpy {machine['numpy']}. Instructions: {features}.",
        ]
    for section, title in TITLES.items():
        some = [row for row in rows if row.section == section]
        if not some:
            continue
        out += ["", f"### {title}", ""]
        notes = any(row.note for row in some)
        head = [
            "work",
            "igtl",
            *PEERS[1:],
            "igtl to",
            "goal",
            "result",
            *(["notes"] if notes else []),
        ]
        used = [h for h in head if h not in PEERS[1:] or any(h in row.found for row in some)]
        body = []
        for row in some:
            cells = {
                "work": row.name, "igtl": ours(row), "igtl to": against(row),
                "goal": goal(row)[0], "result": goal(row)[1], "notes": row.note,
            } | {name: value(row, name) for name in PEERS[1:]}  # fmt: skip
            body.append([cells[h] for h in used])
        keep = [i for i in range(len(used)) if any(cells[i] for cells in body)]
        table = [[used[i] for i in keep], *([cells[i] for i in keep] for cells in body)]
        names = {"C++": "official C++", "Rust": "Rust crate", "limit": "limit"}
        table[0] = [names.get(h, h) for h in table[0]]
        out.append("| " + " | ".join(table[0]) + " |")
        out.append("|" + "---|" * len(table[0]))
        out += ["| " + " | ".join(cells) + " |" for cells in table[1:]]
    return "\n".join(out)


def comparison(rows: list[Row], before: list[Row]) -> str:
    """Row by row: what igtl takes now to what it took in an earlier run; and the same of its ratio
    to the peer of the goal, or the first that was there both times, since the machine may be
    another one or busy."""
    then = {row.name: row for row in before}
    out = [
        "| work | before | now | now to before | ratio to | now to before |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        old = then.get(row.name)
        if old is None or "igtl" not in row.found or not (was := old.found["igtl"]["p50"]):
            continue
        now = row.found["igtl"]["p50"]
        cells = [row.name, value(old, "igtl"), value(row, "igtl"), number(now / was)]
        for peer in (row.of, *PEERS[1:]):
            theirs, once = row.found.get(peer), old.found.get(peer)
            if theirs and once and theirs["p50"] and once["p50"]:
                change = (now / theirs["p50"]) / (was / once["p50"])
                cells += [row.limit if peer == "limit" else peer, number(change)]
                break
        out.append("| " + " | ".join([*cells, "", ""][:6]) + " |")
    return "\n".join(out) if len(out) > 2 else "no row of the earlier run is among these"


def kind_of(machine: dict[str, Any]) -> str:
    """CPUs of one family that have the same form of the CRC are of one kind."""
    return re.sub(r"\W+", "-", f"{machine['family']} {machine['crc']}")


def run_of(kind: str) -> Path:
    """The published run of CPUs of this kind."""
    return RUNS / f"benchmarks-{kind}.json"


def published() -> Path:
    """The run whose tables the page shows."""
    found = TABLES.search(PAGE.read_text())
    if found is None:
        raise ValueError(f"{PAGE} has no place for the tables")
    return run_of(found.group(1))


def side_by_side() -> str:
    """The rows with a goal, and what came of it on each kind of CPU of which a run is published."""
    runs = [load(path) for path in sorted(RUNS.glob("benchmarks-*.json"), reverse=True)]
    kinds = [f"{data['machine']['family']}, {data['machine']['crc']}" for _, data in runs]
    heads = [f"{kind}, {data['when']}" for kind, (_, data) in zip(kinds, runs, strict=True)]
    out = [
        "| work | goal | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(runs),
    ]
    by_name = [{row.name: row for row in rows} for rows, _ in runs]
    for name in dict.fromkeys(name for rows in by_name for name in rows):
        found = [rows.get(name) for rows in by_name]
        words = next((goal(row)[0] for row in found if row and row.goal is not None), "")
        if words:
            cells = [result(row) if row else "not measured" for row in found]
            out.append(f"| {name} | {words} | " + " | ".join(cells) + " |")
    for kind, (rows, data) in zip(kinds, runs, strict=True):
        machine = data["machine"]
        met = sum(row.met is True for row in rows)
        missed = sum(row.met is False for row in rows)
        where = f"{kind}: {machine['cpu']}, {machine['system']}, {machine['python']}"
        figures = f"[all figures](performance/{run_of(kind_of(machine)).name})"
        out += ["", f"{where}; {met} goals met, {missed} not ({figures})."]
    return "\n".join(out)


def result(row: Row) -> str:
    """What a row came to, with its ratio or its figure."""
    found = goal(row)[1]
    if found and ":" not in found:
        key = "p99" if "p99" in row.found["igtl"] else "p50"
        found += f": {value(row, 'igtl', key)}"
    return found


def publish(text: str, kind: str) -> None:
    """Write the tables of a run into the page, and beside them what other CPUs came to."""
    whole = PAGE.read_text()
    tables = f"<!-- measured: {kind} -->\n{text}\n<!-- /measured -->"
    kinds = f"<!-- kinds -->\n{side_by_side()}\n<!-- /kinds -->"
    for mark, new in ((TABLES, tables), (KINDS, kinds)):
        before, *places = mark.split(whole)
        if len(places) != mark.groups + 1:
            raise ValueError(f"{PAGE} must have one place for {new.partition(' -->')[0]} -->")
        whole = before + new + places[-1]
    PAGE.write_text(whole)


def load(path: Path) -> tuple[list[Row], dict[str, Any]]:
    data = json.loads(path.read_text())
    return [Row(**row) for row in data.pop("rows")], data


# ---- pictures -----------------------------------------------------------------------------------


def curves(rows: list[Row], rates: list[dict[str, float]], folder: Path) -> list[Path]:
    """How cost grows: with tools, with image size, with clients, with the rate."""
    try:
        import matplotlib
    except ImportError:
        say("without pictures (pip install matplotlib)")
        return []

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    by_name = {row.name: row for row in rows}
    colours = {"igtl": "C0", "C++": "C3", "Rust": "C1", "limit": "0.6"}
    labels = {
        "igtl": "igtl, from Python",
        "C++": "official C++",
        "Rust": "Rust crate",
        "limit": "memcpy / reading",
    }
    made = []

    def plotted(name: str, title: str, across: str, up: str) -> Any:
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        axes.set(xscale="log", yscale="log", title=title, xlabel=across, ylabel=up)
        axes.grid(visible=True, which="both", alpha=0.2)
        path = folder / f"{name}.svg"
        made.append(path)

        def done() -> None:
            axes.legend()
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)

        return axes, done

    def family(axes: Any, names: dict[int, str], work: str, style: str) -> None:
        for peer, colour in colours.items():
            points = [
                (x, by_name[f"{name} {work}"].found[peer]["p50"] * 1e6)
                for x, name in names.items()
                if f"{name} {work}" in by_name and peer in by_name[f"{name} {work}"].found
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True), style, color=colour, label=f"{labels[peer]}, {work}"
                )

    tools = {n: f"TDATA {n}" for n in TOOLS}
    sides = {n * n: f"IMAGE {n}x{n} u8" for n in SIDES}
    for name, title, across, names in (
        ("tools", "TDATA: time of a message", "tools", tools),
        ("images", "IMAGE, 8 bit: time of a message", "pixels", sides),
    ):
        if any(f"{n} pack" in by_name for n in names.values()):
            axes, done = plotted(name, title, across, "µs")
            family(axes, names, "pack", "o-")
            family(axes, names, "unpack", "x--")
            done()
    clients = [
        (int(match.group(1)), row.found["igtl"]["p50"] * 1e6)
        for row in rows
        if (match := re.match(r"server, (\d+) clients .*each client", row.name))
    ]
    if clients:
        axes, done = plotted("clients", "Broadcast at 60 Hz", "clients", "µs a client")
        axes.plot(*zip(*clients, strict=True), "o-", label="igtl.aio.serve")
        done()
    if rates:
        axes, done = plotted(
            "rates", "A loop that sends TRANSFORMs and sleeps", "Hz", "µs of a processor a message"
        )
        for key, label in (("igtl", "igtl.Link.send"), ("limit", "bare socket")):
            xy = [(r["hz"], r[key] * 1e6) for r in rates]
            axes.plot(*zip(*xy, strict=True), "o-", color=colours[key], label=label)
        done()
    return made
