"""See ci/instructions. A count is the same on every run, as no time is; it differs by some percent
between compilers and Python versions, so the budget names those it was taken with. Only the thread
that works is counted: that of the server looks at its clients from time to time."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BUDGET = Path(__file__).parent / "instructions.json"
ROOM = 1.10
WARM = 20  # repetitions that are not counted: caches fill, bytecode specializes
SETUP = """
import asyncio, os, socket, threading
import numpy as np, igtl, igtl.aio
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
tools = Tools([Tool(name, matrix=pose) for name in names])
tracked = tools.pack()
Image, pixels = igtl.Image, np.zeros((1, 64, 64), "u1")
image = Image(pixels)
pictured = image.pack()
String, text = igtl.String, igtl.String("a few words")
written = text.pack()
NDArray, numbers = igtl.NDArray, np.arange(6.0)
array = NDArray(numbers)
listed = array.pack()
points = igtl.Points.from_arrays(np.zeros((1000, 3)))
listener = igtl.listen(port=0)
near = igtl.connect("127.0.0.1", listener.port, hello=False)
far = listener.accept(timeout=10)
inlet = igtl.udp.Receiver(0)
outlet = igtl.udp.Sender("127.0.0.1", inlet.port)
server = igtl.serve(port=0)
came = threading.Semaphore(0)
server.on_connect(lambda peer: came.release())
clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(10)]
for _ in clients: came.acquire()
loop = asyncio.new_event_loop()
a, b = loop.run_until_complete(igtl.aio.pipe())
"""
WORKS = {
    "TRANSFORM pack": "m.pack()",
    "TRANSFORM build": "T(pose, device_name='Probe')",
    "TRANSFORM build and pack": "T(pose, device_name='Probe').pack()",
    "TRANSFORM unpack": "unpack(wire).matrix",
    "TRANSFORM with metadata pack": "named.pack()",
    "TRANSFORM with metadata unpack": "unpack(noted).matrix",
    "TDATA of 5 build and pack": "Tools([Tool(name, matrix=pose) for name in names]).pack()",
    "TDATA of 5 unpack": "unpack(tracked).tools.matrices",
    "IMAGE 64x64 build": "Image(pixels)",
    "IMAGE 64x64 pack": "image.pack()",
    "IMAGE 64x64 unpack": "unpack(pictured).array",
    "STRING build": "String('a few words')",
    "STRING pack": "text.pack()",
    "STRING unpack": "unpack(written).string",
    "NDARRAY of 6 build": "NDArray(numbers)",
    "NDARRAY of 6 pack": "array.pack()",
    "NDARRAY of 6 unpack": "unpack(listed).array",
    "POINT, one of 1000": "points.points[7].position",
    "TRANSFORM through a Protocol": "p.receive_data(wire); p.next_message()",
    "TRANSFORM send and recv": "near.send(m); far.recv()",
    "TRANSFORM asyncio send and recv": "await a.send(m); await b.recv()",
    "TRANSFORM UDP send and recv": "outlet.send(m); inlet.recv()",
    "TRANSFORM broadcast to 10": "server.broadcast(m)",
    "TRANSFORM unpack in batches of 100": "batch.unpack(run)",
}


def often(work: str) -> int:
    return 50 if any(word in work for word in ("run", "send", "broadcast")) else 500


def program() -> str:
    """All works in one process, each between two calls that make valgrind write down its count."""
    lines = [SETUP]
    for k, work in enumerate(WORKS.values()):
        # in a function: a global found there costs the same however many there are
        waits = "await" in work
        lines.append(f"{'async ' * waits}def work{k}(n):\n    for _ in range(n): {work}")
        warm, counted = (
            f"loop.run_until_complete(work{k}({n}))" if waits else f"work{k}({n})"
            for n in (WARM, often(work))
        )
        lines.append(f"{warm}; os.getppid(); {counted}; os.getppid()")
    return "\n".join(
        [
            *lines,
            "near.close(); far.close(); listener.close()",
            "loop.run_until_complete(a.close()); loop.run_until_complete(b.close()); loop.close()",
            "inlet.close(); outlet.close(); server.close()",
        ]
    )


def count() -> dict[str, int]:
    """Instructions of one repetition of each work."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind", "--tool=callgrind", "--dump-before=getppid", "--separate-threads=yes",
            f"--callgrind-out-file={folder}/out", sys.executable, "-c", program(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stderr[-2000:]}")
        found = {}
        for k, (name, work) in enumerate(WORKS.items()):
            # the dumps: what was before a work, the work, …
            dump = Path(folder, f"out.{2 * k + 2}-01").read_text()
            total = re.search(r"^totals: (\d+)$", dump, re.M)
            assert total, name
            found[name] = round(int(total.group(1)) / often(work))
        return found


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
