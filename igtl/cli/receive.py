"""`igtl receive`: what a server sends, into files."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click

import igtl
from igtl.cli import FAILED, TIMED_OUT, Failure, arguments
from igtl.cli.arguments import Address, Selection, ending, selecting
from igtl.cli.files import save
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import echo, say
from igtl.log import named

_STRANGE = re.compile(r"[^\w.-]+")


def _free(folder: Path, name: str, suffix: str) -> Path:
    """Return a name that is not taken; nothing of a peer's name leads out of the folder."""
    stem = _STRANGE.sub("_", name).strip("._") or "unnamed"
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}{suffix}"
    return path


@click.command("receive")
@click.argument("address", type=Address(), default="localhost:18944")
@arguments.writes("the files into this folder; made if it is not there", folder=True, required=True)
@click.option(
    "--images", default=".nrrd", show_default=True,
    type=click.Choice([".nrrd", ".nii", ".nii.gz", ".mha"]), help="Format of images.",
)  # fmt: skip
@click.option(
    "--meshes", default=".vtu", show_default=True,
    type=click.Choice([".vtu", ".vtk", ".vtp", ".stl", ".ply", ".obj"]), help="Format of meshes.",
)  # fmt: skip
@click.option(
    "--points", default=".mrk.json", show_default=True,
    type=click.Choice([".mrk.json", ".fcsv"]), help="Format of points.",
)  # fmt: skip
@arguments.quiet
@ending
@selecting
@receiving
def command(
    address: tuple[str, int],
    path: Path,
    images: str,
    meshes: str,
    points: str,
    quiet: bool,
    count: int | None,
    seconds: float | None,
    selection: Selection,
    source: Callable[..., Source],
) -> None:
    """Save images, meshes and points that a server sends.

    ADDRESS is HOST:PORT, default localhost:18944. Each message becomes a file of its device's
    name; a file that is there is never written over. Prints the name of each. Exits with 1 if a
    message was bad, or its format could not hold it.
    """
    suffixes: dict[type[igtl.Message], str] = {
        igtl.Image: images, igtl.PolyData: meshes, igtl.Points: points,
    }  # fmt: skip
    end = None if seconds is None else time.monotonic() + seconds
    saved = 0
    failed, others = Counter[str](), Counter[str]()

    def bad(error: igtl.IgtlError, what: str = "bad message") -> None:
        failed[what] += 1
        say(f"{what}: {error}")

    path.mkdir(parents=True, exist_ok=True)
    limited = count is not None or seconds is not None
    with source(address, end=end, limited=limited, selection=selection, bad=bad) as incoming:
        for message in incoming.messages():
            suffix = suffixes.get(type(message))
            if suffix is None:
                others[message.type_name] += 1
            elif selection.takes(message.type_name, message.device_name):
                file = _free(path, message.device_name, suffix)
                try:
                    save(message, file)
                except (igtl.IgtlError, OSError) as error:
                    file.unlink(missing_ok=True)  # a part of it, if anything
                    if not isinstance(error, igtl.IgtlError):  # of the disk
                        raise
                    bad(error, "not saved")
                    continue
                saved += 1
                if not quiet:
                    echo(str(file))
                if saved == count:
                    break
    if others and not quiet:
        listed = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
        say(f"not saved: {listed}")
    if failed:
        raise click.exceptions.Exit(FAILED)
    if seconds is not None and not saved:
        raise Failure(f"{named(address)}: no image, mesh or points came", TIMED_OUT)
