"""`igtl completion`: for the shell."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
def command(shell: str | None) -> None:
    """Print what makes a shell complete igtl's commands.

    \b
    bash:  echo 'eval "$(igtl completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(igtl completion zsh)"' >> ~/.zshrc
    fish:  igtl completion fish > ~/.config/fish/completions/igtl.fish

    SHELL: bash, zsh or fish; default the one that $SHELL names.
    """
    shell = shell or os.path.basename(os.environ.get("SHELL", ""))
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError("which shell? bash, zsh or fish")
    from igtl.cli import main

    click.echo(found(main, {}, "igtl", "_IGTL_COMPLETE").source())
