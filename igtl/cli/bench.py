"""`igtl bench`: what igtl does on this machine, and how far away a peer is."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import numpy as np

import igtl
from igtl.cli import arguments, leave_signals_to_parent
from igtl.cli.arguments import Address, Connection, connection
from igtl.cli.tables import table
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import echo, waiting

Row = dict[str, Any]
_REPEATS = 7


def _best(work: Callable[[], Any], seconds: float) -> float:
    """Seconds of one call: the least mean of several runs."""
    number = 1
    while True:
        start = time.perf_counter()
        for _ in range(number):
            work()
        took = time.perf_counter() - start
        if took >= seconds / _REPEATS or number > 1_000_000:
            break
        number *= 2
    best = took / number
    for _ in range(_REPEATS - 1):
        start = time.perf_counter()
        for _ in range(number):
            work()
        best = min(best, (time.perf_counter() - start) / number)
    return best


def _messages() -> dict[str, igtl.Message]:
    tools = [igtl.Tool(f"Tool{k}", matrix=np.eye(4)) for k in range(5)]
    pixels = np.random.default_rng(1).integers(0, 255, (1, 480, 640), np.uint8)
    volume = np.random.default_rng(2).integers(0, 2000, (100, 512, 512), np.int16)
    return {
        "TRANSFORM": igtl.Transform(np.eye(4), device_name="Probe"),
        "TDATA, 5 tools": igtl.TrackingData(tools, device_name="Tracker"),
        "IMAGE 640 × 480": igtl.Image(pixels, device_name="Image"),
        "IMAGE 512 × 512 × 100, 52 MB": igtl.Image(volume, device_name="CT"),
    }


def _codec(seconds: float) -> list[Row]:
    rows = []
    for name, message in _messages().items():
        wire = message.pack()
        kept = bytearray(len(wire))
        rows.append({
            "what": name, "bytes": len(wire),
            "pack_us": 1e6 * _best(partial(message.pack_into, kept), seconds),
            "unpack_us": 1e6 * _best(partial(igtl.unpack, wire), seconds),
        })  # fmt: skip
    return rows


def _crc(seconds: float) -> list[Row]:
    rows = []
    for form in igtl._core.crc_forms():
        data = bytes(1 << 20)
        took = _best(partial(igtl.crc64, data, form=form), seconds)
        rows.append({"what": f"CRC, {form}", "gb_per_s": len(data) / took / 1e9})
    return rows


def serve_echo(control: Any) -> None:
    """Send everything back; this runs in another process."""
    leave_signals_to_parent()
    with igtl.serve(port=0, version=2, start=False) as server:
        server.on()(lambda message, peer: peer.send(message))
        server.start()
        control.send(server.port)
        with contextlib.suppress(EOFError):
            control.recv()


def _trips(link: igtl.Link, message: igtl.Message, seconds: float) -> np.ndarray[Any, Any]:
    """Return the times of round trips, in seconds."""
    times = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        link.send(message)
        link.recv(timeout=5)
        times.append(time.perf_counter() - start)
    return np.array(times[len(times) // 10 :])  # without what warms up


def _round_trips(link: igtl.Link, seconds: float) -> list[Row]:
    rows = []
    for name, message in list(_messages().items())[:3]:
        times = 1e6 * _trips(link, message, seconds)
        p50, p99 = np.percentile(times, [50, 99])
        rows.append({
            "what": name, "round_trips": len(times), "p50_us": float(p50), "p99_us": float(p99),
        })  # fmt: skip
    return rows


@click.command("bench")
@click.argument("address", type=Address(), required=False)
@arguments.seconds("measure each", 0.5, 0.01)
@arguments.as_json
@connection
def command(
    address: tuple[str, int] | None, seconds: float, as_json: bool, how: Connection
) -> None:
    """Measure igtl on this machine: packing, reading, CRC, and the round trip to a server in
    another process.

    With ADDRESS: the round trip to `igtl echo` there (its messages come back), nothing else.

    Figures are of this machine now. How igtl compares with other libraries is measured by
    `python -m benchmarks` in its sources.
    """
    results: dict[str, list[Row]] = {}
    with waiting("measuring"):
        if address is not None:
            with how.open(address) as link:
                results["round_trips"] = _round_trips(link, seconds)
        else:
            results["codec"] = _codec(seconds)
            results["crc"] = _crc(seconds)
            results["round_trips"] = _here(seconds)
    if as_json:
        echo(json.dumps({"version": igtl.__version__, **results}))
    else:
        _show(results)


def _here(seconds: float) -> list[Row]:
    context = multiprocessing.get_context("spawn")
    control, theirs = context.Pipe()
    process = context.Process(target=serve_echo, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        if not control.poll(30):
            raise click.ClickException("the server did not start")
        with igtl.connect("127.0.0.1", control.recv(), version=2) as link:
            return _round_trips(link, seconds)
    finally:
        control.close()
        process.join(10)


def _show(results: dict[str, list[Row]]) -> None:
    titles = {
        "codec": ("", "bytes", "pack µs", "unpack µs"),
        "crc": ("", "GB/s"),
        "round_trips": ("round trip", "number", "median µs", "99 % µs"),
    }
    console = terminal()
    for key, rows in results.items():
        cells = [
            [f"{v:,.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows
        ]
        columns = table(titles[key], cells, left=1, width=console.width, drop=("bytes", "number"))
        console.print(columns)
