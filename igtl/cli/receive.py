"""`igtl receive`: what a server sends, into files."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import click

import igtl
from igtl.cli.arguments import Address

_STRANGE = re.compile(r"[^\w.-]+")


def _free(folder: Path, name: str, suffix: str) -> Path:
    """A name that is not taken; nothing of a peer's name leads out of the folder."""
    stem = _STRANGE.sub("_", name).strip("._") or "unnamed"
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}{suffix}"
    return path


@click.command("receive")
@click.argument("address", type=Address(), default="localhost:18944")
@click.option(
    "--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the files; made if it is not there.",
)  # fmt: skip
@click.option("--listen", is_flag=True, help="Be the server: wait at ADDRESS for one client.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many files.")
@click.option("-s", "--seconds", type=click.FloatRange(0, min_open=True), help="End after so long.")
@click.option("-d", "--device", default="*", help="Only these devices (wildcards * ?).")
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
@click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
def command(
    address: tuple[str, int],
    folder: Path,
    listen: bool,
    count: int | None,
    seconds: float | None,
    device: str,
    images: str,
    meshes: str,
    points: str,
    quiet: bool,
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
    saved, failed, others = 0, 0, Counter[str]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _opened(address, listen, end) as link:
            while count is None or saved < count:
                left = None if end is None else max(0.0, end - time.monotonic())
                try:
                    message = link.recv(igtl.Message, device, timeout=left)
                except TimeoutError:
                    break
                except igtl.ConnectionClosed as closed:
                    if not closed.clean:
                        raise
                    break
                except igtl.MessageTooLarge:
                    raise
                except igtl.ProtocolError as error:
                    failed += 1
                    click.echo(f"bad message: {error}", err=True)
                    continue
                suffix = suffixes.get(type(message))
                if suffix is None:
                    others[message.type_name] += 1
                    continue
                path = _free(folder, message.device_name, suffix)
                try:
                    igtl.files.save(message, path)
                except igtl.IgtlError as error:
                    failed += 1
                    click.echo(f"not saved: {error}", err=True)
                    continue
                saved += 1
                if not quiet:
                    click.echo(path)
    except KeyboardInterrupt:
        pass
    except (igtl.IgtlError, OSError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from None
    if others and not quiet:
        listed = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
        click.echo(f"not saved: {listed}", err=True)
    if failed:
        raise click.exceptions.Exit(1)


def _opened(address: tuple[str, int], listen: bool, end: float | None) -> igtl.Link:
    host, port = address
    if not listen:
        return igtl.connect(host, port)
    with igtl.listen(host, port, compression=True) as listener:
        left = None if end is None else max(0.0, end - time.monotonic())
        return listener.accept(timeout=left)
