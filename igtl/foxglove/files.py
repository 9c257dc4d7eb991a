"""Recordings as files for Foxglove."""

from __future__ import annotations

from pathlib import Path

from igtl.errors import ProtocolError
from igtl.extras import need
from igtl.files.notes import note
from igtl.files.part import Part, told
from igtl.foxglove.mapping import Mapping


def write(part: Part, path: Path) -> None:
    """Write a part of a recording in the schemas of Foxglove, with one message in memory."""
    sdk = need("foxglove", "foxglove")
    mcap = need("foxglove.mcap", "foxglove")
    context = sdk.Context()
    mapping = Mapping(context, compress=False)
    options = mcap.MCAPWriteOptions(
        compression=mcap.MCAPCompression.Lz4, profile="", calculate_chunk_crcs=False
    )
    shown: set[tuple[str, str]] = set()
    damaged = 0
    with sdk.open_mcap(path, allow_overwrite=True, context=context, writer_options=options):
        for recorded in part.frames():
            try:
                if mapping.take(recorded.frame.unpack(), recorded.time_ns):
                    shown.add(recorded.stream)
            except ProtocolError:
                damaged += 1
    left = [s for s in part.streams if (s.type_name, s.device_name) not in shown and len(s)]
    if left:
        note(f"Foxglove has no message for {told(left)}")
    if damaged:
        note(f"{damaged} messages are left out: damaged")
