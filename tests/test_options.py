"""One name for one thing: the options of all commands, side by side."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import click
import pytest

from igtl.cli import COMMANDS
from igtl.cli.arguments import Address, Place

# an option whose help differs from command to command, and how it always begins
OPENINGS = {
    "--seconds": "How long to ",
    "--to": "Write ",
    "--check": "Check ",
}
# what is of TLS has one of these before it, where a command does TLS on two sides
SIDES = ("source-", "serve-", "client-")
WRITTEN = {"--to", "--report", "--plot"}
READ = {"--config", "--ca", "--cert", "--key"}


class Use(NamedTuple):
    command: str
    option: click.Option

    @property
    def name(self) -> str:
        return self.option.opts[-1]

    @property
    def meaning(self) -> str:
        """All that an option says of itself, but for its help, default, and the range of a number."""
        option = self.option
        return repr((
            option.opts, option.secondary_opts, type(option.type), getattr(option.type, "choices", ()),
            option.nargs, option.is_flag, option.metavar,
        ))  # fmt: skip


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for below, each in command.commands.items():
            yield from leaves(f"{name} {below}", each)
    else:
        yield name, command


LEAVES = dict(
    leaf for name in COMMANDS for leaf in leaves(name, importlib.import_module(f"igtl.cli.{name}").command)
)  # fmt: skip
USES = [
    Use(name, option)
    for name, command in LEAVES.items()
    for option in command.params
    if isinstance(option, click.Option)
]


def plain(option: str) -> str:
    """Without the side that it is of."""
    for side in SIDES:
        option = option.replace(f"--{side}", "--")
    return option


def spelled() -> dict[str, list[Use]]:
    found = defaultdict(list)
    for use in USES:
        for word in (*use.option.opts, *use.option.secondary_opts):
            found[word].append(use)
    return found


def test_there_is_something_to_compare() -> None:
    assert len(LEAVES) >= 28
    assert sum(len(uses) > 1 for uses in spelled().values()) > 30


@pytest.mark.parametrize("word", sorted(w for w, uses in spelled().items() if len(uses) > 1))
def test_an_option_means_the_same_in_every_command(word: str) -> None:
    uses = spelled()[word]
    assert len({use.meaning for use in uses}) == 1, {use.command: use.meaning for use in uses}
    helps = {use.option.help or "" for use in uses}
    opening = OPENINGS.get(uses[0].name)
    if opening is None:
        assert len(helps) == 1, helps
    else:
        assert all(text.startswith(opening) for text in helps), helps


def test_what_is_said_of_an_option_is_said_of_no_other() -> None:
    names = defaultdict(set)
    for use in USES:
        names[use.option.help].add(plain(use.name))
    assert {text: found for text, found in names.items() if len(found) > 1} == {}


def test_a_variable_holds_the_value_of_one_option() -> None:
    """So that the commands cannot have two names for what their code treats as one thing."""
    names = defaultdict(set)
    for use in USES:
        names[use.option.name].add(plain(use.name))
    assert {variable: found for variable, found in names.items() if len(found) > 1} == {}


def test_addresses_and_files_have_the_same_names_everywhere() -> None:
    for use in USES:
        kind = use.option.type
        if isinstance(kind, Address):
            assert use.name in ("--at", "--peer", "--send"), use
        elif isinstance(kind, click.Path) and kind.exists and kind.file_okay:
            assert plain(use.name) in READ, use
        elif isinstance(kind, click.Path) and not kind.exists:
            assert use.name in WRITTEN, use


def test_arguments_that_name_a_peer_are_called_address_or_source() -> None:
    for name, command in LEAVES.items():
        for argument in command.params:
            if isinstance(argument, click.Argument) and isinstance(argument.type, (Address, Place)):
                assert argument.make_metavar(click.Context(command)).strip("[].") in (
                    "ADDRESS", "ADDRESSES", "SOURCE", "ADDRESS | FILE",
                ), name  # fmt: skip


def test_what_writes_a_file_asks_before_it_writes_over_one() -> None:
    """But `igtl receive`, which chooses new names in its folder."""
    options = defaultdict(set)
    for use in USES:
        options[use.command].add(use.name)
    writing = {name for name, found in options.items() if found & WRITTEN} | {"record"}
    assert {name for name, found in options.items() if "--force" in found} == writing - {"receive"}


def test_a_server_has_every_option_of_a_server() -> None:
    sides = {"--cert", "--key", "--client-ca"}
    for name in ("echo", "replay", "serve", "simulate"):
        assert sides | {"--at"} <= {use.name for use in USES if use.command == name}
