"""See ci/instructions. A count is the same on every run, as no time is; it differs by some percent
between compilers and Python versions, so the budget names those it was taken with."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

BUDGET = Path(__file__).parent / "instructions.json"
ROOM = 1.10
SETUP = """
import numpy as np, igtl
from igtl import batch
pose = np.eye(4, dtype="f4")
m = igtl.Transform(pose, device_name="Probe")
wire = m.pack()
run = wire * 100
p = igtl.Protocol()
T, unpack = igtl.Transform, igtl.unpack
named = T(pose, device_name="Probe", metadata={"Mode": "fast", "Patient": "7"})
noted = named.pack()
Tool, Tools, names = igtl.Tool, igtl.TrackingData, ["Probe", "Drill", "Saw", "Ref", "Head"]
"""
WORKS = {
    "TRANSFORM pack": "m.pack()",
    "TRANSFORM build": "T(pose, device_name='Probe')",
    "TRANSFORM unpack": "unpack(wire).matrix",
    "TRANSFORM with metadata pack": "named.pack()",
    "TRANSFORM with metadata unpack": "unpack(noted).matrix",
    "TDATA of 5 build and pack": "Tools([Tool(name, matrix=pose) for name in names]).pack()",
    "TRANSFORM through a Protocol": "p.receive_data(wire); p.next_message()",
    "TRANSFORM unpack in batches of 100": "batch.unpack(run)",
}


def instructions(work: str, times: int) -> int:
    """Of a whole process that does this so often."""
    # in a function: a global found there costs the same however many there are
    code = f"{SETUP}\ndef work(n):\n    for _ in range(n): {work}\nwork({times})"
    out = Path("build") / f"callgrind.{abs(hash((work, times)))}"
    command = [
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={out}",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stderr[-2000:]}")
    out.unlink(missing_ok=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found.group(1))


def often(work: str) -> int:
    return 100 if "run" in work else 2000


def count() -> dict[str, int]:
    """Instructions of one repetition: the difference of two processes."""
    Path("build").mkdir(exist_ok=True)
    jobs = [(work, times) for work in WORKS.values() for times in (10, 10 + often(work))]
    with ThreadPoolExecutor(2) as pool:
        totals = dict(zip(jobs, pool.map(lambda job: instructions(*job), jobs), strict=True))
    return {
        name: round((totals[work, 10 + often(work)] - totals[work, 10]) / often(work))
        for name, work in WORKS.items()
    }


def main() -> None:
    found = count()
    if "--write" in sys.argv:
        taken = f"CPython {platform.python_version()}, numpy {np.__version__}, {platform.machine()}"
        BUDGET.write_text(json.dumps({"taken with": taken, "instructions": found}, indent=1) + "\n")
    budget = json.loads(BUDGET.read_text())["instructions"]
    over = [name for name in WORKS if found[name] > ROOM * budget[name]]
    for name in WORKS:
        print(f"{name:38} {found[name]:8,}  budget {budget[name]:8,}{'  over' * (name in over)}")
    raise SystemExit(f"more than {ROOM:.0%} of the budget: {', '.join(over)}" if over else 0)


if __name__ == "__main__":
    main()
