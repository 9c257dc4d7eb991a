"""`interop/run`: round trips with every implementation that this machine has, and the matrix."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from interop import build, matrix, peers, verdicts
from interop.content import rows


@dataclass
class Candidate:
    """An implementation to compare with.

    Attributes:
        plan: what will be done for it, where, and how long that takes.
        missing: what this machine lacks for it; empty if it has all.
        make: does that, and returns it, in one version or more.
    """

    plan: str
    missing: str
    make: Callable[[], list[peers.Peer]]


def lacks(*tools: str) -> str:
    """Those of these programs that this machine does not have, in words."""
    return ", ".join(f"no {tool}" for tool in tools if not shutil.which(tool))


def candidates(native: bool, openigtlink: Path | None, fresh: bool) -> dict[str, Candidate]:
    """All that this machine could be compared with."""

    def rust() -> list[peers.Peer]:
        build.rust()
        return [peers.rust(), peers.rust("first")]

    if not native and openigtlink is None and build.docker_works():
        cpp = Candidate(
            f"builds the image {build.IMAGE} from {build.BASE} in Docker, and our programs in it; "
            "minutes the first time",
            "", lambda: [peers.docker_cpp(build.docker(fresh=fresh))],
        )  # fmt: skip
    else:
        absent = lacks("make", "cmake", "g++")
        cpp = Candidate(
            f"compiles interop/cpp with {openigtlink or 'the library of this system'} into "
            "interop/build; a minute or two the first time",
            absent and f"{absent} (Debian: ci/peers installs all that is needed)",
            lambda: [peers.native_cpp(build.native(openigtlink))],
        )
    return {
        "cpp": cpp,
        "pyigtl": Candidate(
            "as it is installed", "" if find_spec("pyigtl") else "no pyigtl", lambda: [peers.pyigtl()]
        ),
        "rust": Candidate(
            "compiles interop/rust and the crates it needs into interop/build/rust; minutes the "
            "first time",
            lacks("cargo"), rust,
        ),
    }  # fmt: skip


def made(names: Iterable[str], known: dict[str, Candidate], *, needed: bool) -> list[peers.Peer]:
    """Say what will be done for each, and do it; one that cannot be had is left out, with the reason.

    Args:
        needed: end the program instead.
    """
    found: list[peers.Peer] = []

    def left_out(name: str, why: str) -> None:
        if needed:
            sys.exit(f"{name}: {why}")
        print(f"{name:7} left out: {why}", flush=True)

    chosen = [name for name in names if not known[name].missing]
    for name in names:
        if known[name].missing:
            left_out(name, known[name].missing)
        else:
            print(f"{name:7} {known[name].plan}")
    print("then about a minute of messages for each of them", flush=True)
    for name in chosen:
        try:
            found += known[name].make()
        except (RuntimeError, ValueError, OSError) as error:
            left_out(name, str(error))
    if not found:
        sys.exit("no other implementation could be had")
    return found


@click.command()
@click.option(
    "--native", is_flag=True, help="Run the C++ programs on this host, not in a container."
)
@click.option(
    "--openigtlink",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Compare with the official library installed in DIR (for example 3.x) instead.",
)
@click.option("--fresh", is_flag=True, help="Build the container without any cache.")
@click.option(
    "--peer",
    "chosen",
    multiple=True,
    type=click.Choice(["cpp", "pyigtl", "rust"]),
    help="Compare with this peer only; may be repeated. Default: all.",
)
@click.option(
    "--count",
    default=40,
    show_default=True,
    help="Number of messages for each row, direction and transport.",
)
@click.option("--seed", default=1, show_default=True, help="Seed of the random content.")
@click.option(
    "--write",
    is_flag=True,
    help="Write the matrix into docs/compatibility.md; with --openigtlink, record the verdicts for it.",
)
@click.option("--check", is_flag=True, help="Fail also if the page has another matrix.")
def main(native: bool, openigtlink: Path | None, fresh: bool, chosen: tuple[str, ...], count: int, seed: int, write: bool, check: bool) -> None:  # fmt: skip
    """Send random messages of every type to other implementations and back, and compare bytes and
    values. Says first what it builds, where, and how long that takes, and leaves out what this
    machine does not have. The exit status is 0 if every verdict is the expected one
    (interop/known.py)."""
    if openigtlink is not None:
        if check or set(chosen) - {"cpp"}:
            raise click.UsageError("--openigtlink compares with that library only, without --check")
        chosen = ("cpp",)
    elif chosen and (write or check):
        raise click.UsageError("the table shows all peers: --write and --check need all of them")
    whole = not chosen
    begin = time.monotonic()
    known = candidates(native, openigtlink, fresh)
    needed = not whole or write or check or os.environ.get("IGTL_REQUIRE_PEERS") == "1"
    found = made(chosen or known, known, needed=needed)
    print(
        f"{', '.join(peer.name for peer in found)}: ready after {time.monotonic() - begin:.0f} s; seed {seed}",
        flush=True,
    )

    vectors = matrix.from_vectors(rows())
    result: matrix.Verdicts = {}
    for peer in found:
        # pyigtl polls, so that a message takes ten milliseconds or more
        n = count if peer.exact_time else max(count // 8, 12)
        for version in peer.header_versions:
            name = peer.name if version == 1 else f"{peer.name} v2"
            for direction in matrix.DIRECTIONS:
                begin = time.monotonic()
                verdict = verdicts.run(peer, direction, rows(), n, seed, version)
                result[name, direction] = verdict
                messages = sum(v.messages for v in verdict.values())
                how = ", ".join(peer.transports)
                print(f"{name} {direction} {messages} messages ({how}) in {time.monotonic() - begin:.0f} s", flush=True)  # fmt: skip

    if whole:
        date, recorded = matrix.recorded()
        table = matrix.table(vectors, recorded | result)
        table += (
            f"\nThe columns of C++ 3.1 were measured on {date}; CI cannot build that library.\n"
        )
    else:
        table = matrix.table(vectors, result)
    print(f"\n{table}")
    wrong = matrix.unexpected(result)
    wrong += [f"golden vectors: {v.why}" for v in vectors.values() if v.state == "wrong"]
    if write and not wrong:
        if openigtlink is None:
            matrix.write_page(table)
        else:
            matrix.record(result, time.strftime("%Y-%m-%d"), seed, count)
    elif check and table != matrix.in_page():
        wrong.append("docs/compatibility.md has another matrix: interop/run --write")
    if wrong:
        sys.exit("not as expected:\n  " + "\n  ".join(wrong))
    print("every verdict as expected")


if __name__ == "__main__":
    main()
