"""`igtl devices`: what can stand behind `igtl serve --feed`, and whether it works."""

from __future__ import annotations

import logging
from typing import Any

import click

from igtl.cli import FAILED, arguments
from igtl.cli.tables import table
from igtl.cli.terminal import console as terminal
from igtl.cli.terminal import echo, report, waiting
from igtl.devices import Check, Device, check, device_class, device_of, names, options_of
from igtl.extras import MissingExtra
from igtl.log import logger


class Specification(click.ParamType[Device]):
    """A device, as KIND:ARGUMENT?OPTION=VALUE,OPTION=VALUE."""

    name = "spec"

    def convert(self, value: Any, param: Any, ctx: Any) -> Device:
        """Return the Device of a text."""
        try:
            return value if isinstance(value, Device) else device_of(value)
        except ModuleNotFoundError:
            raise  # of an extra: the arguments are right
        except (ValueError, ImportError) as error:
            self.fail(str(error), param, ctx)


@click.command("devices")
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
@click.option(
    "--test", "tested", multiple=True, metavar="SPEC",
    help="Open this device and tell what it sends, instead; may be given again.",
)  # fmt: skip
@arguments.seconds("test each", 3.0, 0.1)
def command(kinds: tuple[str, ...], tested: tuple[str, ...], seconds: float) -> None:
    """List the devices that `igtl serve --feed` takes; of KIND, its options and what is found.

    A device is given as KIND:ARGUMENT?OPTION=VALUE,OPTION=VALUE; quote it, since shells expand a
    question mark. Packages add kinds by entry points of the group igtl.devices.

    With --test it opens devices, one after the other, and tells rates and the age of the time
    stamps. Exits with 1 if one does not work.

    \b
    igtl devices camera
    igtl devices --test "camera:/dev/video0?fps=30"
    """
    if tested:
        logger.addHandler(logging.NullHandler())  # what is logged is told below
        works = [_tested(spec, seconds) for spec in tested]
        if not all(works):
            raise click.exceptions.Exit(FAILED)
        return
    for kind in kinds:
        _describe(kind)
    if not kinds:
        _list()


def _tested(spec: str, seconds: float) -> bool:
    try:
        with waiting(f"testing {spec}"):
            found = check(spec, seconds=seconds)
    except ModuleNotFoundError as error:
        report(f"✗ {spec}: {error}")
        return False
    except (ValueError, ImportError) as error:
        raise click.BadParameter(str(error), param_hint="--test") from None
    report(*_told(spec, found))
    return found.works


def _told(spec: str, found: Check) -> list[str]:
    lines = [f"✗ {spec}: {found.error}" if found.error else f"✓ {spec} works"]
    if found.opened is not None:
        lines.append(f"  first message after {found.opened:.2f} s")
    for (kind, name), stream in sorted(found.streams.items()):
        lines.append(
            f"  {kind} {name}: {stream.number}, {stream.hz:.1f} Hz, "
            f"{1000 * stream.age:.0f} ms old; {stream.example:.60}"
        )
    if found.unreadable:
        lines.append(f"  {found.unreadable} pieces of data could not be read")
    if found.dropped:
        lines.append(f"  {found.dropped} messages were dropped")
    return lines


def _list() -> None:
    console = terminal()
    rows = []
    for kind in names():
        try:
            cls = device_class(kind)
        except ImportError as error:  # of another package
            rows.append((kind, ("✗", "red"), str(error)))
            continue
        missing = _missing(cls)
        mark = ("✗", "red") if missing else ("✓", "green")
        rows.append((kind, mark, missing or cls.sends))
    console.print(table(("device", "here", "sends"), rows, left=3, width=console.width, trim=True))
    report("igtl devices KIND lists the options; igtl devices --test SPEC tries a device.")


def _missing(cls: type[Device]) -> str:
    """Return what a device needs to have installed; "" if it can be used."""
    try:
        cls.require()
    except MissingExtra as error:
        return str(error)
    return ""


def _describe(kind: str) -> None:
    try:
        cls = device_class(kind)
    except (ValueError, ImportError) as error:
        raise click.BadParameter(str(error), param_hint="KIND") from None
    text = (cls.__doc__ or "").strip().partition("\n")[0]
    lines = [f"{kind}{':ARGUMENT?OPTION=VALUE,…' if cls.takes else ''}", f"  {text}"]
    if cls.takes:
        lines.append(f"  argument: {cls.takes}")
    lines += [f"  sends: {cls.sends}", f"  time stamps: {cls.stamp}"]
    if missing := _missing(cls):
        lines.append(f"  missing: {missing}")
    elif (found := cls.found()) is not None:
        lines.append(f"  found here: {'; '.join(found) or 'none'}")
    report(*lines)
    rows = []
    for option in options_of(cls):
        default = "" if option.default in (None, "") else f"; default {_word(option.default)}"
        rows.append((option.name, f"{option.text} ({option.values}{default})"))
    formatter = click.HelpFormatter()
    with formatter.indentation():
        formatter.write_dl(rows)
    echo(*formatter.getvalue().splitlines())


def _word(value: Any) -> str:
    """Return a value as a specification has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "x".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
