"""Build the peers' programs: natively by make and cargo, or the C++ programs in a container."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
IMAGE = "igtl-interop"
BASE = "debian:bookworm"


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stdout[-4000:]}")


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
            _run(HERE.parent / "ci" / "base-image")
    # the engine's own network may not reach a package mirror, so the build uses the host's
    cache = ["--no-cache"] if fresh else []
    _run("docker", "build", *cache, "--network", "host", "-t", IMAGE, HERE)
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
    folder = HERE / "build" / "other" if openigtlink else HERE / "build"
    _run("make", "-C", HERE, "programs", f"BUILD={folder}", *where)
    return folder / "cmake"


def rust() -> None:
    target = HERE / "build" / "rust"
    manifest = HERE / "rust" / "Cargo.toml"
    _run("cargo", "build", "-q", "--release", "--locked", "--manifest-path", manifest, "--target-dir", target)  # fmt: skip
