"""The `igtl` command. Each subcommand is a module of this package, loaded when it is called."""

from __future__ import annotations

import _thread
import codecs
import difflib
import errno
import importlib
import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from igtl.log import REMEDY

COMMANDS: Final = {
    "bench": "Measure igtl on this machine, or the round trip to a peer.",
    "bridge": "Connect sites past one machine, by a hub (Zenoh).",
    "calibrate": "Calibrate a tracked stylus and an ultrasound probe.",
    "command": "Send a COMMAND and print the reply.",
    "completion": "Print what makes a shell complete igtl's commands.",
    "demo": "A tracking loop to watch, on simulated devices.",
    "devices": "List devices for serve, and try them.",
    "doctor": "Find out why nothing arrives.",
    "dump": "Print the messages a server sends.",
    "echo": "Send everything back to where it came from.",
    "export": "A recording as arrays, a table, a film, a sequence, a ROS 2 bag, or for Foxglove.",
    "gateway": "Run relays and recorders from a configuration, as a service.",
    "info": "What is in a recording.",
    "monitor": "Watch the streams of a server: rates, jitter, gaps, errors.",
    "query": "Ask a server for one message.",
    "receive": "Save images, meshes and points that a server sends.",
    "reconstruct": "A volume from a freehand ultrasound scan.",
    "record": "Record what servers send, every byte with its time.",
    "relay": "Pass on what one server sends to many clients.",
    "replay": "Send a recording again.",
    "ros": "Publish what a server sends as topics of ROS 2.",
    "send": "Send messages, images, meshes and fiducials to a server.",
    "serve": "Be a server: hand out files, print what clients send.",
    "simulate": "Serve simulated devices.",
    "view": "See it, live, in a browser.",
}
"""Each command and what it does: so that help and completion load none of them."""

FAILED, UNREACHABLE, TIMED_OUT = 1, 3, 4

# the signals that ask a program to end, of those that the system has
_ENDING: Final = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]  # fmt: skip
_DROPPED: Final = 0.05  # seconds after which a signal comes again whose exception was dropped
_OF_THE_NETWORK: Final = (
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, getattr(errno, "EHOSTDOWN", None),
)  # fmt: skip

_ASCII: Final = "igtl_ascii"
_PLAIN: Final = {
    "✓": "+", "✗": "x", "–": "-", "—": "-", "…": "...", "·": "-", "×": "x", "±": "+-", "µ": "u",
    "°": " deg", "→": "->", "≤": "<=", "≥": ">=", "Δ": "d", "“": '"', "”": '"', "’": "'", "━": "-",
    "─": "-", "╸": "-", "╺": "-", "▀": "#", "█": "#", "░": ".", "●": "o", "•": "o", "∙": ".",
}  # fmt: skip
"""Characters of ours, and what stands for them where the encoding has none of them."""


class Failure(click.ClickException):
    """An error for the user, with an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def format_message(self) -> str:
        """Return the text, escaped for a terminal."""
        from igtl.codec.formatting import printable  # loads numpy

        return printable(self.message)


@contextmanager
def ended_by_signals() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt for each signal that asks the program to end, as for Ctrl-C.

    This lasts until the end of the block; it is raised in the main thread. Later signals are
    ignored, so that they do not interrupt what the first has begun, but for another Ctrl-C. A
    signal that the parent of the process has turned off (nohup) stays off. CPython drops what is
    raised within a callback of a weak reference or within `__del__`: such a signal comes again.
    Yields the signals that came.
    """
    came: list[int] = []
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        if not came or number == signal.SIGINT:
            came.append(number)
            raise KeyboardInterrupt

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if came and what.exc_type is KeyboardInterrupt:
            _thread.start_new_thread(again, (came.pop(),))  # takes no lock, which we may hold here
        else:
            shown(what)

    def again(number: int) -> None:
        time.sleep(_DROPPED)
        if not ended:
            _signal_main_thread(number)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    shown, sys.unraisablehook = sys.unraisablehook, dropped
    before = {
        number: signal.signal(number, end)
        for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN
    }  # fmt: skip
    try:
        yield came
    finally:
        ended = True
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = shown


def _signal_main_thread(number: int) -> None:
    """Send a signal as the system does: it interrupts what the main thread waits for."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def leave_signals_to_parent() -> None:
    """Ignore the signals that a terminal sends, in a child process, which its parent ends."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Handle an error of an output's encoding.

    Our own characters get a likeness, others are escaped.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or ascii(c)[1:-1] for c in found), error.end


def _kept(name: str) -> codecs.CodecInfo | None:
    """ASCII by another name: click writes UTF-8 to an output whose encoding is named ASCII."""
    if name != _ASCII:
        return None
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_.encode, ascii_.decode, ascii_.streamreader, ascii_.streamwriter,
        ascii_.incrementalencoder, ascii_.incrementaldecoder, name=_ASCII,
    )  # fmt: skip


def _tolerate() -> None:
    """Let both outputs write what their encodings lack in other characters."""
    codecs.register_error("igtl", _replaced)
    codecs.register(_kept)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not is_utf(stream.encoding):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_ASCII if is_ascii else None, errors="igtl")


def is_utf(encoding: str | None) -> bool:
    """Return whether an output can write any character."""
    return (encoding or "utf-8").lower().startswith("utf")


@contextmanager
def _broken_between_words() -> Iterator[None]:
    """Break what an error says between words, where it is shown in a terminal."""
    try:
        yield
    except click.ClickException as error:
        from igtl.cli.terminal import wrapped

        text = wrapped(f"Error: {error.format_message()}").removeprefix("Error: ")
        error.format_message = lambda: text  # type: ignore[method-assign]
        raise


class _Commands(click.Group):
    """Finds subcommands by name, so that starting one does not import the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            like = difflib.get_close_matches(name, COMMANDS, 3)
            if like and not ctx.resilient_parsing:  # completion asks for half a name too
                ctx.fail(f"No such command {name!r}. Did you mean {' or '.join(like)}?")
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

    def make_context(self, *args: Any, **others: Any) -> click.Context:
        _tolerate()  # before help or an error is printed
        with _broken_between_words():
            return super().make_context(*args, **others)

    def invoke(self, ctx: click.Context) -> Any:
        with _broken_between_words(), ended_by_signals() as signals:
            self._invoke(ctx)
        if signals and signals[0] != signal.SIGINT:
            raise click.exceptions.Exit(128 + signals[0])

    def _invoke(self, ctx: click.Context) -> None:
        from igtl.errors import ConnectionClosed, IgtlError, MessageTooLarge

        try:
            super().invoke(ctx)
        except KeyboardInterrupt:  # the usual end of what runs until it is stopped
            # CPython ends by the signal, though it was caught, if it interrupted the last exec
            exec("")
        except (ConnectionClosed, MessageTooLarge) as error:
            raise Failure(str(error), UNREACHABLE) from None
        except (IgtlError, ModuleNotFoundError) as error:
            raise Failure(str(error)) from None
        except TimeoutError as error:
            raise Failure(str(error) or "timed out", TIMED_OUT) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # of our own output: `igtl dump | head`
                raise
            raise Failure(_told(error), UNREACHABLE if _is_of_network(error) else FAILED) from None


@contextmanager
def listening(where: str) -> Iterator[None]:
    """Fail in words if another program has the address at which the block begins to listen."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE or "already in use" in str(error):  # of other libraries
            text = f"cannot listen on {where}: {os.strerror(errno.EADDRINUSE)}"
            raise Failure(f"{text}{REMEDY}") from None
        raise


def _told(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{error.strerror}{REMEDY}"
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EIO):
        return f"standard output: {error.strerror}"  # files have names
    return str(error)


def _is_of_network(error: OSError) -> bool:
    return isinstance(error, (ConnectionError, socket.gaierror)) or error.errno in _OF_THE_NETWORK


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 it failed, or something was found; 2 wrong arguments; 3 the peer "
    "could not be reached, or was lost; 4 nothing came in time. Ctrl-C is a normal end; SIGTERM "
    "and SIGHUP end as Ctrl-C does, with 143 and 129.",
)
@click.version_option(package_name="igtl")
def main() -> None:
    """OpenIGTLink from the command line.

    ADDRESS is HOST:PORT, HOST, :PORT or PORT; the port is 18944 and the host localhost where it
    is left out.
    """
