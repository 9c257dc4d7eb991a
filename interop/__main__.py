"""`interop/run`: round trips with every implementation there is here, and the matrix."""

from __future__ import annotations

import os
import shutil
import sys
import time

import click

from interop import build, matrix, peers, verdicts
from interop.content import rows


def cpp(native: bool, openigtlink: str | None, fresh: bool) -> peers.Peer:
    if not native and not openigtlink:
        if build.docker_works():
            peer = peers.docker_cpp(build.docker(fresh=fresh))
            print(f"{peer.name}: in Docker")
            return peer
        print("no Docker engine here")
    peer = peers.native_cpp(build.native(openigtlink))
    print(f"{peer.name}: native, {openigtlink or 'the library of this system'}")
    return peer


def cargo_here(*, needed: bool) -> bool:
    if shutil.which("cargo"):
        return True
    without = "no cargo here: without the crate openigtlink-rust"
    if needed or os.environ.get("IGTL_REQUIRE_PEERS") == "1":
        sys.exit(without)
    print(without)
    return False


@click.command()
@click.option("--native", is_flag=True, help="The C++ programs on this host, not in a container.")
@click.option(
    "--openigtlink",
    metavar="DIR",
    help="An official library of your own, found by CMake (OpenIGTLink_DIR).",
)
@click.option("--fresh", is_flag=True, help="Build the container from nothing.")
@click.option(
    "--peer",
    "chosen",
    multiple=True,
    type=click.Choice(["cpp", "pyigtl", "rust"]),
    help="Only these. Default: all.",
)
@click.option(
    "--count", default=40, show_default=True, help="Messages of each row, direction and transport."
)
@click.option("--seed", default=1, show_default=True, help="Of the random content.")
@click.option("--write", is_flag=True, help="Write the matrix into README.md.")
@click.option("--check", is_flag=True, help="Fail, too, when README.md has another matrix.")
def main(native: bool, openigtlink: str | None, fresh: bool, chosen: tuple[str, ...], count: int, seed: int, write: bool, check: bool) -> None:  # fmt: skip
    """Sends random messages of every type to other implementations and back, and compares bytes and
    values. Exit status 0: every verdict is the expected one (interop/known.py)."""
    whole = not chosen
    if not whole and (write or check):
        raise click.UsageError("README.md shows all peers: --write and --check want them all")
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
        # pyigtl polls: ten milliseconds and more a message
        n = count if peer.exact_time else max(count // 8, 12)
        for version in peer.header_versions:
            name = peer.name if version == 1 else f"{peer.name}, header version 2,"
            for direction in matrix.DIRECTIONS:
                begin = time.monotonic()
                verdict = verdicts.run(peer, direction, rows(), n, seed, version)
                result[name, direction] = verdict
                messages = sum(v.messages for v in verdict.values())
                how = ", ".join(peer.transports)
                print(f"{name} {direction} {messages} messages ({how}) in {time.monotonic() - begin:.0f} s")  # fmt: skip

    table = matrix.table(vectors, result)
    print(f"\n{table}")
    wrong = matrix.unexpected(result)
    wrong += [f"golden vectors: {v.why}" for v in vectors.values() if v.state == "wrong"]
    if write and not wrong:
        matrix.write_readme(table)
    elif check and table != matrix.in_readme():
        wrong.append("README.md has another matrix: interop/run --write")
    if wrong:
        sys.exit("not as expected:\n  " + "\n  ".join(wrong))
    print("every verdict as expected")


if __name__ == "__main__":
    main()
