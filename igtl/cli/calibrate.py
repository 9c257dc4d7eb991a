"""`igtl calibrate`: tip and axis of a stylus, the lag of a tracker, where a probe's pixels are."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

import igtl
from igtl import calibration
from igtl.calibration import Goal, Outcome, Step
from igtl.cli import Failure, arguments
from igtl.cli.arguments import Address, Place, overwriting
from igtl.cli.incoming import Incoming, from_file, left_out
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import echo, report, say, styled
from igtl.geometry import CalibrationError
from igtl.log import named

if TYPE_CHECKING:
    from rich.console import Group

F = TypeVar("F", bound=Callable[..., Any])
_HZ: Final = 4  # pictures a second
_BAR: Final = 24  # characters; fewer, but this least, where the terminal is narrow
_LEAST: Final = 6
_BESIDE: Final = 26  # characters beside a bar and its name
_OUT = click.Path(dir_okay=False, path_type=Path)


@click.group("calibrate")
def command() -> None:
    """Calibrate a tracked stylus and an ultrasound probe.

    First the tip of the stylus (pivot), then the lag of the tracker (time), then where the pixels
    of the probe are (probe). SOURCE is a recording, a file of images in time, or the address of a
    server; of a server, the screen says what motion is still missing, and the command ends when
    there is enough, at Ctrl-C, or after --seconds.

    \b
    igtl calibrate pivot localhost:18944 --to PlusDeviceSet.xml
    igtl calibrate probe case.mcap --config PlusDeviceSet.xml --plot probe.png
    """


def _calibrating(command: F) -> F:
    """Add SOURCE and the options of all calibrations; the command returns the Step."""

    @click.argument("place", type=Place(), metavar="SOURCE")
    @arguments.by
    @arguments.seconds("measure (default: until there is enough)")
    @arguments.writes(
        "the result: .xml into a configuration of PLUS, .json all of it", "paths", multiple=True
    )
    @click.option("--send", type=Address(), help="Set it in the PlusServer at this address.")
    @click.option("--plot", "picture", type=_OUT, help="A picture of the residuals (.png, .svg).")
    @arguments.as_json
    @overwriting("paths", "picture", edited=".xml")
    @receiving
    @functools.wraps(command)
    def wrapped(
        place: Path | tuple[str, int], seconds: float | None, paths: tuple[Path, ...],
        send: tuple[str, int] | None, picture: Path | None, as_json: bool,
        source: Callable[..., Source], tracker: str | None = None, **others: Any,
    ) -> None:  # fmt: skip
        step: Step = command(**others)
        if isinstance(place, Path):
            for message in from_file(place):
                step.add(message)
        else:
            _live(step, place, source, seconds)
        left_out(step.damaged)
        try:
            outcome = step.solve()
        except CalibrationError as error:
            for hint in calibration.missing(step.goals()):
                say(f"→ {hint}")
            raise Failure(str(error)) from None
        if as_json:
            echo(json.dumps(outcome.to_dict()))
        else:
            _tell(outcome)
        for path in paths:
            calibration.save_outcome(outcome, path, device=tracker)
            say(f"{path}: written")
        if picture is not None:
            calibration.plot(outcome, picture)
            say(f"{picture}: written")
        if send is not None:
            try:
                with igtl.plus.connect(*send) as plus:
                    for told in calibration.send_outcome(outcome, plus):
                        say(f"{named(send)}: {told}")
            except ValueError as error:
                raise Failure(str(error)) from None

    return wrapped  # type: ignore[return-value]


@command.command("pivot")
@arguments.tool
@arguments.reference
@_calibrating
def pivot(tool: str | None, reference: str | None, by: Any) -> Step:
    """The tip of a stylus that stands on its tip and swings to all sides."""
    return calibration.Pivot(tool, reference, by=by)


@command.command("spin")
@arguments.tool
@arguments.reference
@arguments.config
@_calibrating
def spin(tool: str | None, reference: str | None, config: Path | None, by: Any) -> Step:
    """The axis of a stylus that is rolled about its shaft, held still else.

    With --config the frame begins at the tip that is known, and its z axis points forwards.
    """
    known = calibration.load_known(config).transforms if config else {}
    return calibration.Spin(tool, reference, transforms=known, by=by)


@command.command("time")
@arguments.tool
@arguments.image
@click.option("--tracker", help="The tracker in the configuration of PLUS (--to FILE.xml).")
@_calibrating
def time_(tool: str | None, image: str | None, by: Any) -> Step:
    """The lag of a tracker against pictures: the probe moves up and down over something that shows
    as a line, such as the bottom of a water tank, at a changing pace.
    """
    return calibration.Time(tool, image, by=by)


@command.command("probe")
@arguments.tool
@arguments.image
@click.option("--stylus", help="The pose of the stylus.")
@click.option("--wires", is_flag=True, help="By the phantom of wires that --config describes.")
@arguments.reference
@arguments.config
@_calibrating
def probe(
    tool: str | None,
    image: str | None,
    stylus: str | None,
    wires: bool,
    reference: str | None,
    config: Path | None,
    by: Any,
) -> Step:
    """Where the pixels of a tracked probe are: by a stylus whose tip is the brightest spot of the
    pictures, as in water, or by a phantom of wires in the shape of N.

    --config holds the tip of the stylus (StylusTipToStylus), or the phantom as PLUS describes it:
    its patterns from the top of the picture to the bottom, and where it is (PhantomToReference)
    beside its marker.
    """
    known = calibration.load_known(config) if config else calibration.PlusConfig()
    if wires:
        if stylus is not None:
            raise click.UsageError("--stylus is for a calibration without --wires")
        if not len(known.wires):
            raise click.UsageError("--wires needs a --config with patterns NWire")
        return calibration.Wires(
            known.wires, tool, reference, image, transforms=known.transforms, by=by
        )
    if reference is not None:
        raise click.UsageError("--reference is for --wires")
    return calibration.Touches(tool, stylus, image, transforms=known.transforms, by=by)


# ---- live ---------------------------------------------------------------------------------------


def _live(
    step: Step,
    address: tuple[str, int],
    source: Callable[..., Source],
    seconds: float | None,
) -> None:
    """Feed a step with what a server sends, and show what is missing, until there is enough."""
    from rich.live import Live

    console = terminal(stderr=True)
    shown = console.is_terminal
    news: list[str] = []

    def tell(text: str) -> None:
        news.append(text)
        if not shown:
            say(text)

    end = None if seconds is None else time.monotonic() + seconds
    title = f"igtl calibrate {step.kind} {named(address)}"
    state = _State(step)
    with source(address, end=end, heal=True, tell=tell) as opened:
        incoming = Incoming(opened, step.add)
        try:
            with incoming, Live(console=console, auto_refresh=False, screen=shown) as live:
                for _ in igtl.Rate(_HZ):
                    with incoming.lock:
                        state.update()
                    goals = state.goals
                    if shown:
                        passed = time.monotonic() - incoming.begun
                        head = f"{title} · {passed:.0f} s · {incoming.count} messages"
                        live.update(
                            _screen(head, goals, state.told, news, console.width), refresh=True
                        )
                    if incoming.over or (seconds is None and not calibration.missing(goals)):
                        break
        except KeyboardInterrupt:
            pass  # the answer is worked out of what there is
    incoming.check()


class _State:
    """What is known of a step while it goes on.

    What takes long is done less often, so that it takes a quarter of the time at most.
    """

    def __init__(self, step: Step) -> None:
        self.told = "no result yet"
        self.goals: list[Goal] = []
        self._step = step
        self._due = {self._look: 0.0, self._solve: 0.0}

    def update(self) -> None:
        """Find out what there is so far."""
        for part, due in self._due.items():
            begun = time.monotonic()
            if begun >= due:
                part()
                now = time.monotonic()
                self._due[part] = now + 3 * (now - begun)

    def _look(self) -> None:
        self.goals = self._step.goals()

    def _solve(self) -> None:
        try:
            self.told = _summary(self._step.solve())
        except CalibrationError:
            self.told = "no result yet"


def _screen(head: str, goals: list[Goal], told: str, news: list[str], columns: int) -> Group:
    from rich.console import Group

    lines = [styled((head, "bold"), " · Ctrl-C ends"), styled("")]
    width = max([len(goal.name) for goal in goals], default=0)
    bar = max(_LEAST, min(_BAR, columns - width - _BESIDE))
    for goal in goals:
        share = min(1.0, goal.have / goal.want)
        full = int(share * bar)
        style = "green" if goal.reached else "yellow"
        lines.append(
            styled(
                f"  {goal.name:<{width}}  ",
                ("█" * full, style),
                ("░" * (bar - full), "bright_black"),
                f"  {goal.have:.3g} of {goal.want:g} {goal.unit}".rstrip(),
            )
        )
    lines += [styled(""), styled(f"  {told}"), styled("")]
    hints = calibration.missing(goals)
    lines += [styled((f"  → {hint}", "bold yellow")) for hint in hints]
    if not hints:
        lines.append(styled(("  enough", "bold green")))
    if news:
        lines.append(styled((f"  {news[-1]}", "bright_black")))
    return Group(*lines)


# ---- the result ---------------------------------------------------------------------------------


def _summary(outcome: Outcome) -> str:
    result = outcome.result
    return (
        f"error {result.error:.3g} {outcome.unit} (greatest {result.worst:.3g}), "
        f"{result.samples} samples, {result.rejected} left out"
    )


def _tell(outcome: Outcome) -> None:
    report(f"{outcome.kind}: {_summary(outcome)}")
    for name, value in outcome.facts.items():
        report(f"  {name:<18} {value:.6g}")
    for transform in outcome.transforms:
        report(f"  {transform.name}")
        for row in transform.matrix:
            report("   " + "".join(f"{x:11.5f}" for x in row))
