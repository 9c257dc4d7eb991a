"""The `igtl` command. Each subcommand is a module of this package, loaded when it is called."""

from __future__ import annotations

import importlib

import click


class _Lazy(click.Group):
    """Finds subcommands by name, so that starting one does not import the others."""

    _names = ("demo", "dump", "receive", "send")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._names)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self._names:
            return None
        command: click.Command = importlib.import_module(f"igtl.cli.{name}").command
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="igtl")
def main() -> None:
    """OpenIGTLink from the command line."""
