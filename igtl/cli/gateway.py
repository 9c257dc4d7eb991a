"""`igtl gateway`: sources, routes and sinks from a configuration, as a service."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import click

from igtl.cli.terminal import echo, say
from igtl.log import JSONFormatter, logger

_LEVELS = ("debug", "info", "warning", "error")


class _Invalid(click.ClickException):
    """A configuration that cannot be used: wrong arguments, for the exit code."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        for line in self.message.splitlines():
            say(line)


@click.command("gateway")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Check FILE, and do no more.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="Of the log, on standard error; json: an object a line.",
)  # fmt: skip
@click.option(
    "--log-level", type=click.Choice(_LEVELS), default="info", show_default=True,
    help="What is logged.",
)  # fmt: skip
def command(file: Path, check: bool, log_format: str, log_level: str) -> None:
    """Run relays, recorders and bridges from the configuration FILE (TOML), as one service.

    Its health is at http://127.0.0.1:9464/healthz, its metrics at /metrics (FILE may say where
    else). SIGHUP reads FILE again: what has not changed keeps its connections; a FILE that is wrong
    is reported, and the old one kept. systemd is told the state.

    Exits with 2 if FILE is wrong.

    \b
    igtl gateway --check hospital.toml
    igtl gateway hospital.toml --log-format json
    """
    from igtl.gateway import ConfigError, Service, load

    try:
        if check:
            echo(f"{file}: {load(file)}")
            return
        handler = logging.StreamHandler()
        handler.setFormatter(
            JSONFormatter() if log_format == "json"
            else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
        )  # fmt: skip
        logger.addHandler(handler)
        logger.setLevel(log_level.upper())
        service = Service(file)
    except ConfigError as error:
        raise _Invalid("\n".join(error.lines)) from None
    with service:
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, service.reload)
        service.run()
