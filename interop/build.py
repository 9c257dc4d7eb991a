"""Builds the peers' programs: natively by make and cargo, or the C++ ones in a container."""

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
    """The image's name; with `fresh` nothing that was built before is used."""
    have = ["docker", "image", "inspect", BASE]
    if fresh or subprocess.run(have, capture_output=True).returncode:
        pulled = subprocess.run(["docker", "pull", "-q", BASE], capture_output=True)
        if pulled.returncode:  # no registry here
            _run(HERE.parent / "ci" / "base-image")
    # the host's network: a build inside the engine's own may not reach a package mirror
    cache = ["--no-cache"] if fresh else []
    _run("docker", "build", *cache, "--network", "host", "-t", IMAGE, HERE)
    return IMAGE


def native(openigtlink: str | None = None) -> Path:
    """Folder of the C++ programs, for the system's library or the one in this folder."""
    where = [f"OpenIGTLink_DIR={Path(openigtlink).resolve()}"] if openigtlink else []
    folder = "cmake-other" if openigtlink else "cmake"
    _run("make", "-C", HERE, "programs", f"CMAKE={folder}", *where)
    return HERE / "build" / folder


def rust() -> None:
    target = HERE / "build" / "rust"
    manifest = HERE / "rust" / "Cargo.toml"
    _run("cargo", "build", "-q", "--release", "--locked", "--manifest-path", manifest, "--target-dir", target)  # fmt: skip
