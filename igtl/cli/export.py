"""`igtl export`: a recording as files of other programs."""

from __future__ import annotations

from pathlib import Path

import click

import igtl
from igtl.cli import arguments
from igtl.cli.arguments import Selection, overwriting, selecting
from igtl.cli.files import opened, size_of, told
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import say, size


@click.command("export")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@arguments.writes("this file; its suffix chooses the format", folder=None, required=True)
@selecting
@arguments.span
@arguments.quiet
@overwriting("path")
def command(
    file: Path,
    path: Path,
    selection: Selection,
    begin: float,
    end: float | None,
    quiet: bool,
) -> None:
    """Write a recording, a ROS 2 bag, or a file of images in time, for other programs.

    \b
    .npz, .h5            arrays of all streams: times, frames, matrices ...
    .csv                 a line for each pose, value or status
    .mp4                 the pictures of one stream
    .igs.mha, .seq.nrrd  images and their transforms, for PLUS and 3D Slicer
    bag/ (no suffix)     a ROS 2 bag: tf, images, topics, and all messages
    .foxglove.mcap       for Foxglove
    .mcap                a recording: of a bag, or of a part of another

    What a format has no place for is left out, and said.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = terminal(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    hidden = quiet or not console.is_terminal
    with opened(file) as recording:
        if recording.truncated:
            say(f"{file} was cut: it is exported up to there")
        with told(), Progress(*columns, console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task("reading", total=None)

            def show(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            igtl.export(
                recording, path, streams=selection.of(recording), start=begin, end=end,
                progress=None if hidden else show,
            )  # fmt: skip
    if not quiet:
        say(f"{path}: {size(size_of(path))}")
