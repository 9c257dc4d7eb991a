"""`interop/run`: round trips with every implementation that this machine has, and the matrix."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import click

from interop import build, matrix, peers, verdicts
from interop.content import rows


def cpp(native: bool, openigtlink: Path | None, fresh: bool) -> peers.Peer:
    if not native and openigtlink is None:
        if build.docker_works():
            peer = peers.docker_cpp(build.docker(fresh=fresh))
            print(f"{peer.name}: in Docker")
            return peer
        print("no Docker engine on this machine")
    peer = peers.native_cpp(build.native(openigtlink))
    print(f"{peer.name}: native, {openigtlink or 'the library of this system'}")
    return peer


def cargo_here(*, needed: bool) -> bool:
    if shutil.which("cargo"):
        return True
    without = "no cargo on this machine: the crate openigtlink-rust is left out"
    if needed or os.environ.get("IGTL_REQUIRE_PEERS") == "1":
        sys.exit(without)
    print(without)
    return False


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
    values. The exit status is 0 if every verdict is the expected one (interop/known.py)."""
    if openigtlink is not None:
        if check or set(chosen) - {"cpp"}:
            raise click.UsageError("--openigtlink compares with that library only, without --check")
        chosen = ("cpp",)
    elif chosen and (write or check):
        raise click.UsageError("the table shows all peers: --write and --check need all of them")
    whole = not chosen
    begin = time.monotonic()
    found = []
    if whole or "cpp" in chosen:
        found.append(cpp(native, openigtlink, fresh))
    if whole or "pyigtl" in chosen:
        found.append(peers.pyigtl())
    if "rust" in chosen or (whole and cargo_here(needed=write or check)):
        build.rust()
        found += [peers.rust(), peers.rust("first")]
    print(f"ready after {time.monotonic() - begin:.0f} s; seed {seed}")

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
                print(f"{name} {direction} {messages} messages ({how}) in {time.monotonic() - begin:.0f} s")  # fmt: skip

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
