"""A diagnosis as a text that can be sent to others."""

from __future__ import annotations

import platform
import sys
import time
from importlib.metadata import version

from igtl.codec.formatting import printable
from igtl.doctor.diagnosis import Diagnosis

_TITLES = (
    "device", "type", "number", "Hz", "jitter ms", "age ms", "offset ms", "delay ms", "bytes",
    "wrong CRC", "not decoded", "no pose",
)  # fmt: skip


def markdown(diagnosis: Diagnosis) -> str:
    """Return all of a diagnosis in Markdown: findings, streams, versions.

    Of the machine it names the system and the versions of Python, numpy and igtl; no user, no host
    and no file, only the address of the peer and the names that the peer sends.
    """
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    spoken = " and ".join(map(str, sorted(diagnosis.versions))) or "none came"
    system = (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{platform.machine()}, {sys.byteorder}-endian"
    )
    lines = [
        f"# igtl doctor {diagnosis.address}", "",
        diagnosis.verdict, "",
        f"* When: {when}, for {diagnosis.seconds:.1f} s",
        f"* Header versions: {spoken}",
        f"* {str(diagnosis.clock).capitalize()}",
        f"* {', '.join(f'{name} {version(name)}' for name in ('igtl', 'numpy', 'click'))}",
        f"* {system}",
        "", "## Findings", "",
        *(f"* {finding.level}, {finding.cause}: {finding.text}" for finding in diagnosis.findings),
        "",
    ]  # fmt: skip
    if diagnosis.streams:
        lines += ["## Streams", "", _row(_TITLES), _row(("---",) * len(_TITLES))]
        lines += [_row(row) for row in _rows(diagnosis)]
        lines += ["", "offset: arrival after time stamp; delay: the same by the clock of the peer."]
    return "\n".join(lines).rstrip() + "\n"


def _rows(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    return [
        (
            f"`{printable(device)}`", f"`{printable(kind)}`", str(seen.count), f"{seen.rate:.1f}",
            f"{1000 * seen.jitter:.2f}", f"{1000 * seen.age:.0f}", _ms(seen.offset),
            _ms(diagnosis.delay(seen)), f"{seen.bytes / max(1, seen.count):.0f}",
            str(seen.wrong_crc), str(seen.bad), str(seen.impossible),
        )
        for (kind, device), seen in sorted(diagnosis.streams.items())
    ]  # fmt: skip


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
