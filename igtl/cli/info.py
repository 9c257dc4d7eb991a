"""`igtl info`: what is in a recording, or in a file of several images."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

import igtl
from igtl.cli import FAILED, arguments
from igtl.cli.files import opened, size_of
from igtl.cli.tables import Cell, counted, table
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import echo, size, styled

_DATED = 1e8  # seconds since 1970: files of images count from their beginning


@click.command("info")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--check", is_flag=True, help="Check all of FILE: sizes, wrong CRCs, bad bodies.")
@click.option("--events", is_flag=True, help="What happened to the connections.")
@arguments.as_json
def command(file: Path, check: bool, events: bool, as_json: bool) -> None:
    """What is in a recording, a ROS 2 bag, or a file of images in time (.igs.mha, .seq.nrrd,
    .nii …): streams, rates, times, and whether it was cut.

    With --check exits with 1 if a message is bad or a part of the file cannot be read.
    """
    with opened(file) as recording:
        found = _facts(recording, file)
        bad = 0
        if check:
            bad = _check(recording, found)
        if events:
            found["events"] = recording.events
        found["damaged"] = recording.damaged
        if as_json:
            echo(json.dumps(found))
        else:
            _show(found)
    if bad or (check and recording.damaged):
        raise click.exceptions.Exit(FAILED)


def _facts(recording: igtl.Recording, file: Path) -> dict[str, Any]:
    return {
        "file": str(file),
        "size": size_of(file),
        "truncated": recording.truncated,
        "start": recording.start_ns / 1e9,
        "duration": recording.duration,
        "count": recording.count,
        "streams": [
            {
                "type": stream.type_name, "device_name": stream.device_name, "count": len(stream),
                "rate": stream.rate, "peers": stream.peers,
                "first": (stream.span_ns[0] - recording.start_ns) / 1e9,
                "last": (stream.span_ns[1] - recording.start_ns) / 1e9,
            }
            for stream in recording.streams.values()
        ],
    }  # fmt: skip


def _check(recording: igtl.Recording, found: dict[str, Any]) -> int:
    """Add what reading all of it shows; returns how many messages are bad."""
    from rich.progress import track

    sizes, crc, body = (Counter[tuple[str, str]]() for _ in range(3))
    console = terminal(stderr=True)
    for recorded in track(
        recording, "checking", total=recording.count, console=console, transient=True,
        disable=not console.is_terminal,
    ):  # fmt: skip
        frame, stream = recorded.frame, recorded.stream
        sizes[stream] += len(frame)
        try:
            frame.unpack()
        except igtl.CRCError:
            crc[stream] += 1
        except igtl.ProtocolError:
            body[stream] += 1
    for each in found["streams"]:
        stream = each["type"], each["device_name"]
        each.update(bytes=sizes[stream], wrong_crc=crc[stream], bad=body[stream])
    return crc.total() + body.total()


def _show(found: dict[str, Any]) -> None:
    console = terminal()
    start = datetime.fromtimestamp(found["start"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if found["start"] < _DATED:
        start = "without date"
    parts: list[Cell] = [
        size(found["size"]), start, f"{found['duration']:.1f} s", f"{found['count']} messages",
    ]  # fmt: skip
    if found["truncated"]:
        parts.append(("cut: no index at its end", "yellow"))
    if found["damaged"]:
        parts.append((f"{found['damaged']} damaged parts", "red"))
    line = styled((found["file"], "bold"))
    for part in map(styled, parts):  # a number and its unit stay in one line
        if line.cell_len + 2 + part.cell_len > console.width:
            console.print(line)
            line = part
        else:
            line = line.append("  ").append_text(part)
    console.print(line)
    checked = any("bytes" in each for each in found["streams"])
    titles = (
        "device", "type", "number", "Hz", "first s", "last s",
        *(("MB", "CRC", "bad") if checked else ()), "peer",
    )  # fmt: skip
    rows: list[list[Cell]] = []
    for each in sorted(found["streams"], key=lambda e: (e["device_name"], e["type"])):
        row: list[Cell] = [
            each["device_name"], each["type"], str(each["count"]), f"{each['rate']:.1f}",
            f"{each['first']:.1f}", f"{each['last']:.1f}",
        ]  # fmt: skip
        if checked:
            row += [f"{each['bytes'] / 1e6:.2f}", counted(each["wrong_crc"]), counted(each["bad"])]
        rows.append([*row, ", ".join(each["peers"])])
    drop = ["first s", "last s", "peer", "MB", "Hz", "CRC", "bad"]
    console.print(table(titles, rows, left=2, width=console.width, trim=True, drop=drop))
    for event in found.get("events", ()):
        at = event["time_ns"] / 1e9 - found["start"]
        text = f"{event['event']:<13} {event.get('peer', '')}  {event.get('text', '')}"
        console.print(styled(f"{at:8.3f} s  {text}"))
