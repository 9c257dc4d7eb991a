"""`igtl query`: ask a server for one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import igtl
from igtl.cli import FAILED, Failure, arguments
from igtl.cli.arguments import Address, Connection, connection, overwriting
from igtl.cli.dump import line
from igtl.cli.files import save
from igtl.cli.terminal import echo, waiting
from igtl.log import named


def _requests() -> dict[str, type[igtl.Get[Any]]]:
    """Return the Get classes by the type that they ask for."""
    return {
        cls.answer.type_name: cls
        for cls in igtl.message_types().values() if issubclass(cls, igtl.Get)
    }  # fmt: skip


class _Asked(click.ParamType):  # type: ignore[type-arg]
    name = "type"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        kinds = _requests()
        if value not in kinds:
            self.fail(f"{value!r} cannot be asked for; {', '.join(sorted(kinds))} can", param, ctx)
        return kinds[value]

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        return [CompletionItem(kind) for kind in _requests() if kind.startswith(incomplete)]


@click.command("query")
@click.argument("address", type=Address())
@click.argument("kind", metavar="TYPE", type=_Asked())
@click.argument("device", default="")
@arguments.timeout
@arguments.writes("the answer, as the file that the suffix says")
@overwriting("path")
@arguments.as_json
@arguments.arrays
@connection
def command(
    address: tuple[str, int],
    kind: type[igtl.Get[Any]],
    device: str,
    timeout: float,
    path: Path | None,
    as_json: bool,
    arrays: bool,
    how: Connection,
) -> None:
    """Ask a server for one message, and print or save it.

    TYPE is what is asked for: IMAGE, TRANSFORM, CAPABILITY, STATUS, … (GET_ is put in front);
    DEVICE its device name, default any. Exits with 1 if the server has none, with 4 if it says
    nothing.

    Do not ask 3D Slicer: a request crashes it.
    """
    with how.open(address) as link, waiting(f"waiting for the answer of {named(address)}"):
        try:
            answer = link.query(kind(device_name=device), timeout=timeout)
        except igtl.CommandFailed as error:
            raise Failure(f"refused: {error}") from None
    if isinstance(answer, igtl.NoData):
        what = f"{kind.answer.type_name} {device!r}" if device else kind.answer.type_name
        raise Failure(f"the server has no {what}", FAILED)
    if path is not None:
        save(answer, path)
        echo(str(path))
    elif as_json:
        echo(json.dumps(answer.to_dict(arrays=arrays)))
    elif isinstance(answer, igtl.Capability):
        echo(*answer.types)
    else:
        echo(line(answer, verbose=True))
