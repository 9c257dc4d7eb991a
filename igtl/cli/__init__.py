"""The `igtl` command. Each subcommand is a module of this package, loaded when it is called."""

from __future__ import annotations

import errno
import importlib
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

COMMANDS: Final = {
    "bench": "Measure igtl on this machine, or the round trip to a peer.",
    "command": "Send a COMMAND and print the reply.",
    "completion": "Print what makes a shell complete igtl's commands.",
    "demo": "A tracking loop to watch, on simulated devices.",
    "doctor": "Find out why nothing arrives.",
    "dump": "Print the messages a server sends.",
    "echo": "Send everything back to where it came from.",
    "info": "What is in a recording.",
    "monitor": "Watch the streams of a server: rates, jitter, gaps, errors.",
    "query": "Ask a server for one message.",
    "receive": "Save images, meshes and points that a server sends.",
    "record": "Record what servers send, every byte with its time.",
    "relay": "Pass on what one server sends to many clients.",
    "replay": "Send a recording again.",
    "send": "Send messages, images, meshes and fiducials to a server.",
    "serve": "Be a server: hand out files, print what clients send.",
    "simulate": "Serve simulated devices.",
    "view": "See it, live, in a browser.",
}
"""Each command and what it does: so that help and completion load none of them."""

FAILED, UNREACHABLE, TIMED_OUT = 1, 3, 4


class Failure(click.ClickException):
    """An error for the user, with an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class _Commands(click.Group):
    """Finds subcommands by name, so that starting one does not import the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"igtl.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [
            CompletionItem(name, help=text)
            for name, text in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names or super(click.Group, self).shell_complete(ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        from igtl.errors import ConnectionClosed, IgtlError, MessageTooLarge

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return None  # the usual end of what runs until it is stopped
        except (ConnectionClosed, MessageTooLarge) as error:
            raise Failure(str(error), UNREACHABLE) from None
        except (IgtlError, ModuleNotFoundError) as error:
            raise Failure(str(error)) from None
        except TimeoutError as error:
            raise Failure(str(error) or "timed out", TIMED_OUT) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # of our own output: `igtl dump | head`
                raise
            raise Failure(_told(error), FAILED if error.filename else UNREACHABLE) from None


def _told(error: OSError) -> str:
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 it failed, or something was found; 2 wrong arguments; 3 the peer "
    "could not be reached, or was lost; 4 nothing came in time. Ctrl-C is a normal end.",
)
@click.version_option(package_name="igtl")
def main() -> None:
    """OpenIGTLink from the command line.

    ADDRESS is HOST:PORT, HOST or :PORT; the port is 18944 and the host localhost where it is left
    out.
    """
