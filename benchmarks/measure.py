"""Contenders taking turns, and what came of it."""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import sys
import timeit
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

import igtl

Timed = Callable[[int], float]
"""Seconds that so many repetitions take."""
Found = dict[str, float]
"""Seconds of one repetition: best, p50 (the median), and for samples of single ones p99."""
PEERS = ("igtl", "C++", "Rust", "pyigtl", "limit")


@dataclass
class Row:
    """One line of the table.

    Attributes:
        found: by contender: "igtl", "C++" (the official library), "Rust" (the crate
            openigtlink-rust), "pyigtl", and "limit" (what `limit` names). Seconds, or counts.
        goal: largest good ratio of igtl's median (or count) to that of `of`. None: no goal.
        unit: "s", or what is counted.
        rate: shown as so many a second.
    """

    section: str
    name: str
    found: dict[str, Found] = field(default_factory=dict)
    goal: float | None = None
    of: str = "C++"
    limit: str = ""
    unit: str = "s"
    rate: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """To what the goal names."""
        if self.of == "absolute":
            return self.found["igtl"].get("p99", self.found["igtl"]["p50"])
        if self.of not in self.found or "igtl" not in self.found:
            return None
        below = self.found[self.of]["p50"]
        return self.found["igtl"]["p50"] / below if below else None

    @property
    def met(self) -> bool | None:
        """Whether the goal was reached; None without goal or peer."""
        if self.goal is None or self.ratio is None:
            return None
        return self.ratio <= self.goal


@dataclass
class Work:
    """Rows that are measured together.

    Attributes:
        names: of the rows.
        seconds: about how long it takes, and with --quick.
        run: measures; its argument says whether fewer repeats are enough.
    """

    names: tuple[str, ...]
    seconds: tuple[float, float]
    run: Callable[[bool], Iterable[Row]]


def looped(statement: str, **names: Any) -> Timed:
    """A statement in timeit's own loop, ten nanoseconds a turn."""
    return timeit.Timer(statement, globals=names).timeit


def repetitions(timed: Timed, seconds: float) -> int:
    """How often, to take about so long."""
    times = 1
    if timed(1) > seconds:  # and warm
        return 1
    while (took := timed(times)) < seconds / 20:
        times *= 4
    return max(1, round(times * seconds / took))


def interleaved(
    contenders: dict[str, Timed], *, seconds: float = 0.01, repeats: int = 15
) -> dict[str, Found]:
    """Best and median of one turn; the contenders take turns. One that needs a quarter of a second
    for a turn has three."""
    counts = {name: repetitions(timed, seconds) for name, timed in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, timed in contenders.items():
            if len(samples[name]) < 3 or samples[name][-1] < 0.25:
                samples[name].append(timed(counts[name]) / counts[name])
    return {
        name: {"best": min(values), "p50": statistics.median(values)}
        for name, values in samples.items()
    }


def percentiles(samples: Iterable[float]) -> Found:
    """Of single samples."""
    ordered = sorted(samples)
    return {
        "best": ordered[0],
        "p50": statistics.median(ordered),
        "p99": ordered[int(0.99 * (len(ordered) - 1))],
    }


def pin(cpus: Iterable[int]) -> None:
    """Run on these processors only, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(cpus))


CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
ONE, OTHER = CPUS[-1], CPUS[0]
"""The processor on which both ends run where the time of one matters, and the other one."""


def steady_environment() -> dict[str, str]:
    """For the processes of a benchmark: memory that is not given back to the system between two
    messages. glibc does that by itself or not, from run to run, and it costs as much as a message;
    bare asyncio suffers most, which takes 256 KiB for each chunk it reads."""
    return {
        "MALLOC_TRIM_THRESHOLD_": "200000000",
        "MALLOC_MMAP_THRESHOLD_": "200000000",
    }


def cpu_features() -> list[str]:
    """Instructions of this CPU that igtl can use, where the system tells (Linux)."""
    info = Path("/proc/cpuinfo")
    found = (
        re.search(r"^(?:flags|Features)\s*: (.*)$", info.read_text(), re.M)
        if info.exists()
        else None
    )
    useful = r"sse4_1|pclmulqdq|avx2|vpclmulqdq|avx512(f|bw|vl|dq)|asimd|pmull"
    return [name for name in found[1].split() if re.fullmatch(useful, name)] if found else []


def machine() -> dict[str, Any]:
    """Where it was measured."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    said = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    vendor = re.sub("^(Authentic|Genuine)", "", said.get("vendor_id", ""))
    return {
        "cpu": said.get("model name") or platform.processor(),
        "family": f"{vendor} family {said['cpu family']}" if vendor else platform.machine(),
        "features": cpu_features(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "crc": igtl._core.crc_form(),
        "igtl": igtl.__version__,
    }


def shown(seconds: float) -> str:
    """A time with its unit."""
    for unit, factor in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        if abs(seconds) * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- the command line of a benchmark ------------------------------------------------------------


def command_line(program: str, doc: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have: which rows, only their names, fewer repeats."""
    found = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "--rows", default="", metavar="PATTERN",
        help="rows whose name begins so; the wildcards * and ? count",
    )  # fmt: skip
    found.add_argument("--list", action="store_true", help="only name the rows")
    found.add_argument("--quick", action="store_true", help="fewer repeats: a look, not a result")
    return found


def wanted(options: argparse.Namespace, name: str) -> bool:
    """Whether a row is among those that --rows names."""
    return fnmatchcase(name, options.rows + "*")


def chosen(options: argparse.Namespace, rows: dict[str, tuple[float, float]]) -> list[str]:
    """The rows that are to be measured; says how long that takes. Ends the program where there are
    none, or with --list.

    Args:
        rows: about how many seconds each takes, and with --quick.
    """
    names = [name for name in rows if wanted(options, name)]
    if not names:
        raise SystemExit(f"no row begins with {options.rows!r}; --list names them")
    if options.list:
        print("\n".join(names))
        raise SystemExit
    expected = sum(rows[name][options.quick] for name in names)
    say(f"{len(names)} of {len(rows)} rows, about {expected:.0f} seconds")
    return names


def run(main: Callable[[], None]) -> None:
    """A benchmark; one that lacks a package says so in a line."""
    try:
        main()
    except ModuleNotFoundError as error:
        raise SystemExit(f"skipped: {error}") from None
