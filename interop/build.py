"""Build the peers' programs: natively by make and cargo, or the C++ programs in a container."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"
IMAGE = "igtl-interop"
BASE = "debian:bookworm"


TELLING = re.compile(
    r"\berror(\[\w+\])?:|CMake Error|undefined reference|\*\*\*|^E: ", re.IGNORECASE
)
"""What the first line about a fault holds, of CMake, compilers, linkers, make, cargo and apt."""


def run(log: Path, *command: str | Path) -> None:
    """Run a command that builds something.

    Args:
        log: gets all that it printed, if it fails.
        command: the program and its arguments.

    Raises:
        RuntimeError: it failed; with the lines that tell why, and where the others are.
    """
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.stdout)
        lines = [f"    {line}" for line in telling(done.stdout)]
        failed = f"{Path(command[0]).name} failed (exit code {done.returncode})"
        raise RuntimeError("\n".join([f"{failed}; all that it printed is in {log}", *lines]))


def telling(printed: str, count: int = 12) -> list[str]:
    """Return so many lines from the first that names a fault on; the last ones if none does."""
    lines = [line for line in printed.splitlines() if line.strip()]
    first = next((k for k, line in enumerate(lines) if TELLING.search(line)), -count)
    return lines[first:][:count]


def docker_works() -> bool:
    return (
        shutil.which("docker") is not None
        and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


def docker(*, fresh: bool = False) -> str:
    """Build the image and return its name; `fresh` builds it without any cache."""
    have = ["docker", "image", "inspect", BASE]
    if fresh or subprocess.run(have, capture_output=True).returncode:
        pulled = subprocess.run(["docker", "pull", "-q", BASE], capture_output=True)
        if pulled.returncode:  # no registry can be reached
            run(BUILD / "base-image.log", HERE.parent / "ci" / "base-image")
    # the engine's own network may not reach a package mirror, so the build uses the host's
    cache = ["--no-cache"] if fresh else []
    build: list[str | Path] = ["docker", "build", *cache, "--network", "host", "-t", IMAGE, HERE]
    run(BUILD / "docker.log", *build)
    return IMAGE


def library(folder: Path) -> Path:
    """Return the CMake folder of the official library in or below `folder`.

    CMake itself would pass over a prefix that it cannot read and take the system's library.
    """
    found = sorted({path.parent for path in folder.rglob("OpenIGTLinkConfig.cmake")})
    if len(found) != 1:
        places = ", ".join(map(str, found)) or "none"
        raise ValueError(f"{folder}: one OpenIGTLinkConfig.cmake is needed, found: {places}")
    return found[0].resolve()


def native(openigtlink: Path | None = None) -> Path:
    """Return the folder of the C++ programs, for the system's library or the one in this folder."""
    where = [f"OpenIGTLink_DIR={library(openigtlink)}"] if openigtlink else []
    folder = BUILD / "other" if openigtlink else BUILD
    run(folder / "make.log", "make", "-C", HERE, "programs", f"BUILD={folder}", *where)
    return folder / "cmake"


def rust() -> None:
    cargo(HERE / "rust", BUILD / "rust")


def cargo(crate: Path, target: Path) -> None:
    """Compile the crate in this folder into another one, with the versions of its lock file."""
    build = ["cargo", "build", "-q", "--release", "--locked"]
    places: list[str | Path] = ["--manifest-path", crate / "Cargo.toml", "--target-dir", target]
    run(target / "cargo.log", *build, *places)
