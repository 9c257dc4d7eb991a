"""`igtl reconstruct`: a volume from a freehand ultrasound scan."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

import igtl
from igtl import _core, calibration
from igtl.calibration import Scan
from igtl.cli import Failure, arguments
from igtl.cli.arguments import Place, overwriting
from igtl.cli.files import save
from igtl.cli.incoming import Incoming, from_file, left_out
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import report, say, styled
from igtl.geometry import Reconstruction, fan, rectangle
from igtl.geometry.reconstruction import MAX_VOXELS
from igtl.log import named

_HZ: Final = 4
_POSITIVE = click.FloatRange(0, min_open=True)


@click.command("reconstruct")
@click.argument("place", type=Place(), metavar="SOURCE")
@arguments.writes("the volume: .nrrd, .nii.gz, .mha and others", required=True)
@overwriting("path")
@click.option("--spacing", type=_POSITIVE, default=0.5, show_default=True, help="mm, of voxels.")
@arguments.image
@arguments.tool
@arguments.reference
@arguments.config
@click.option("--lag", type=float, default=0.0, help="Seconds by which poses are late.")
@click.option(
    "--paste", type=click.Choice(["nearest", "linear"]), default="nearest", show_default=True,
    help="A pixel into one voxel, or into eight by distance.",
)  # fmt: skip
@click.option(
    "--compounding", type=click.Choice(["mean", "max", "latest"]), default="mean",
    show_default=True, help="Of pictures that meet in a voxel.",
)  # fmt: skip
@click.option(
    "--fill", type=click.FloatRange(0), default=0.0, show_default=True,
    help="mm: fill holes up to this width.",
)  # fmt: skip
@click.option("--clip", type=int, nargs=4, help="Only these pixels: COLUMN ROW WIDTH HEIGHT.")
@click.option(
    "--fan", "fan_", type=float, nargs=6,
    help="Only this fan: COLUMN ROW of its origin, two angles (degrees, 0 is down), two radii.",
)  # fmt: skip
@click.option("--extent", type=float, nargs=6, help="mm: X X Y Y Z Z. Default: what is needed.")
@click.option(
    "--max-voxels", type=click.IntRange(1), default=MAX_VOXELS, show_default=True,
    help="The greatest size; 8 bytes each are needed, twice while the volume grows.",
)  # fmt: skip
@arguments.by
@arguments.seconds()
@receiving
def command(
    place: Path | tuple[str, int],
    path: Path,
    spacing: float,
    image: str | None,
    tool: str | None,
    reference: str | None,
    config: Path | None,
    lag: float,
    paste: Any,
    compounding: Any,
    fill: float,
    clip: tuple[int, int, int, int] | None,
    fan_: tuple[float, float, float, float, float, float] | None,
    extent: tuple[float, ...] | None,
    max_voxels: int,
    by: Any,
    seconds: float | None,
    source: Callable[..., Source],
) -> None:
    """Make a volume of ultrasound pictures that were taken freehand.

    SOURCE is a recording, a file of images in time, or the address of a server: of that until
    Ctrl-C or --seconds. Where a picture is, it says itself (an IMAGE of PLUS such as
    Image_Reference), or the pose of the probe does, by --tool and --config (ImageToProbe).

    \b
    igtl reconstruct scan.mcap --to scan.nrrd --spacing 0.4 --fill 2
    igtl reconstruct scan.mcap --tool ProbeToReference --config PlusDeviceSet.xml --to scan.nii.gz
    """
    if reference is not None and tool is None:
        raise click.UsageError("--reference needs --tool")
    if clip and fan_:
        raise click.UsageError("--clip and --fan exclude each other")
    limits = None if extent is None else (extent[:2], extent[2:4], extent[4:])
    known = calibration.load_known(config).transforms if config else {}
    mask: Any = None
    if clip:
        mask = lambda shape: rectangle(shape, *clip)  # noqa: E731
    elif fan_:
        mask = lambda shape: fan(shape, fan_[:2], fan_[2:4], fan_[4:])  # noqa: E731
    check: Callable[[], object] = lambda: None  # noqa: E731
    try:
        volume = Reconstruction(
            spacing, paste=paste, compounding=compounding, extent=limits, mask=mask,
            max_voxels=max_voxels,
        )  # fmt: skip
        scan = Scan(volume, image, tool, reference, transforms=known, lag=lag, by=by)
        if isinstance(place, Path):
            for message in from_file(place):
                scan.add(message)
        else:
            check = _live(scan, place, source, seconds)
            if not volume.frames:
                check()
        scan.finish()
    except ValueError as error:
        raise Failure(str(error)) from None
    result = volume.result(fill=fill)
    save(result.image(_core.fit(path.name.partition(".")[0], 20)), path)
    size = "x".join(str(n) for n in result.array.shape[::-1])
    closed = f", {result.holes} holes closed" if fill else ""
    report(
        f"{path}: {size} voxels of {spacing:g} mm, {volume.frames} pictures, "
        f"{100 * result.filled.mean():.0f} % filled{closed}"
    )
    left_out(scan.damaged)
    if scan.unplaced:
        say(f"{scan.unplaced} pictures are left out: no pose is near in time")
    if volume.outside:
        say(f"{volume.outside} pixels lie outside of the extent")
    check()


def _live(
    scan: Scan,
    address: tuple[str, int],
    source: Callable[..., Source],
    seconds: float | None,
) -> Callable[[], object]:
    """Feed a scan with what a server sends.

    Returns what raises the cause, if it has not ended in order: what there is until then is written
    first.
    """
    from rich.live import Live

    console = terminal(stderr=True)
    end = None if seconds is None else time.monotonic() + seconds
    shown = console.is_terminal
    with source(address, end=end, heal=True, tell=(lambda text: None) if shown else say) as opened:
        incoming = Incoming(opened, scan.add)
        try:
            with incoming, Live(console=console, auto_refresh=False, transient=True) as live:
                for _ in igtl.Rate(_HZ):
                    if shown:
                        volume = scan.volume
                        size = "x".join(str(n) for n in volume.shape[::-1])
                        text = (
                            f"{named(address)}  {time.monotonic() - incoming.begun:.0f} s  "
                            f"{volume.frames} pictures  {size} voxels   Ctrl-C ends"
                        )
                        away = (f"  {opened.away}", "yellow")
                        live.update(styled((text, "cyan"), away), refresh=True)
                    if incoming.over:
                        break
        except KeyboardInterrupt:
            pass  # the volume is made of what there is
    return incoming.check
