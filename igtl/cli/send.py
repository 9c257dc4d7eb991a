"""`igtl send`: files to a server."""

from __future__ import annotations

from pathlib import Path

import click

import igtl
from igtl.cli.arguments import Address


@click.command("send")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.argument("address", type=Address())
@click.option("--name", help="Device name; default the name of each file.")
@click.option("--compress", is_flag=True, help="Compressed, if the server is igtl and takes it.")
@click.option("--hello", is_flag=True, help="Offer header version 2 (PLUS, 3D Slicer, igtl).")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    files: tuple[Path, ...],
    address: tuple[str, int],
    name: str | None,
    compress: bool,
    hello: bool,
    quiet: bool,
) -> None:
    """Send images, meshes and fiducials from FILES to a server.

    A folder is a DICOM series. ADDRESS is HOST:PORT. What can be read: see `igtl.files`; it takes
    pip install "igtl[imaging]" or "igtl[mesh]".
    """
    from rich.console import Console
    from rich.progress import Progress

    try:
        with Progress(console=Console(stderr=True), disable=quiet) as progress:
            link = igtl.connect(*address, hello=hello, compression=compress)
            with link:
                if compress:
                    link.wait_compressed()
                bar = progress.add_task("", total=len(files))
                for file in files:
                    progress.update(bar, description=f"reading {file.name}")
                    message = igtl.files.load(file, device_name=name)
                    progress.update(bar, description=f"sending {file.name}")
                    link.send(message)
                    progress.advance(bar)
                progress.update(bar, description="sent")
            sent = link.stats.sent_bytes
    except (igtl.IgtlError, OSError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from None
    if not quiet:
        click.echo(f"{len(files)} sent, {sent / 1e6:.1f} MB", err=True)
