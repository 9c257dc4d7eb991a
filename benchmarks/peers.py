"""The other implementations' codecs, each a program that answers "WORK TIMES" with nanoseconds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Timed, looped, say
from interop import build

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
RUST = BUILD / "rust-codec" / "release" / "codec"


def versions() -> dict[str, str]:
    """Of the other implementations that take part."""
    found = {}
    if shutil.which("dpkg-query"):
        asked = ["dpkg-query", "-W", "-f", "${Version}", "libopenigtlink-dev"]
        debian = subprocess.run(asked, capture_output=True, text=True)
        if debian.returncode == 0:
            found["official C++"] = f"Debian {debian.stdout}"
    lock = (HERE / "rust" / "Cargo.lock").read_text()
    if RUST.exists():
        crate = re.search(r'name = "openigtlink-rust"\nversion = "(.*?)"', lock)
        assert crate
        found["Rust crate"] = crate[1]
    if importlib.util.find_spec("pyigtl"):
        found["pyigtl"] = importlib.metadata.version("pyigtl")
    return found


class Program:
    """A running harness."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, work: str) -> Timed | None:
        """Times one of its works; None if it has none of this name."""
        return (lambda times: self._ask(work, times) / 1e9) if self._ask(work, 1) >= 0 else None

    def _ask(self, work: str, times: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{work} {times}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        return -1 if answer == "-" else int(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@cache
def compiled_cpp(openigtlink: Path | None = None) -> Path | None:
    """The program of the official C++ library: Debian's, or the one in this folder."""
    headers, libraries = Path("/usr/include/openigtlink"), ["-lOpenIGTLink"]
    name = "codec-cpp"
    if openigtlink is not None:
        headers, name = openigtlink / "include" / "igtl", "codec-cpp-other"
        folder = openigtlink / "lib" / "igtl"
        libraries = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lOpenIGTLink", "-ligtlutil"]
    if not headers.is_dir() or not shutil.which("g++"):
        if openigtlink is not None:
            raise SystemExit(f"{headers} and g++ are needed")
        say("without the official C++ library (Debian: libopenigtlink-dev g++)")
        return None
    say(f"compiling benchmarks/cpp with the official C++ library into build/{name}, some seconds")
    BUILD.mkdir(exist_ok=True)
    program = BUILD / name
    source = HERE / "cpp" / "codec.cpp"
    command: list[str | Path] = ["g++", "-O2", "-w", f"-I{headers}", source, "-o", program]
    try:
        build.run(BUILD / f"{name}.log", *command, *libraries, "-lpthread")
    except RuntimeError as error:
        if openigtlink is not None:
            raise SystemExit(str(error)) from None
        say(f"without the official C++ library: {error}")
        return None
    return program


def cpp(openigtlink: Path | None = None) -> Program | None:
    """Start it."""
    program = compiled_cpp(openigtlink)
    return None if program is None else Program(program)


def compile_rust(*, wanted: bool) -> None:
    """Compile the program of the crate openigtlink-rust, or what has changed of it.

    Args:
        wanted: even if it was never compiled, which takes minutes.
    """
    if not shutil.which("cargo"):
        say("without the crate openigtlink-rust (no cargo)")
        return
    if not wanted and not RUST.exists():
        say("without the crate openigtlink-rust (--rust compiles its program)")
        return
    say("compiling benchmarks/rust into build/rust-codec; the first time that takes minutes")
    try:
        build.cargo(HERE / "rust", RUST.parents[1])
    except RuntimeError as error:
        RUST.unlink(missing_ok=True)
        say(f"without the crate openigtlink-rust: {error}")


def rust() -> Program | None:
    """Start the program of the crate openigtlink-rust, if it was compiled."""
    return Program(RUST) if RUST.exists() else None


def pyigtl() -> dict[str, Timed]:
    """pyigtl, in this process."""
    if importlib.util.find_spec("pyigtl") is None:
        say("without pyigtl (pip install pyigtl)")
        return {}
    import pyigtl as theirs

    def both(name: str, message: Any) -> dict[str, Timed]:
        wire = message.pack()
        read = "m = cls(); m.unpack(cls.parse_header(wire[:58]), wire[58:])"
        return {
            f"{name} pack": looped("m.pack()", m=message),
            f"{name} unpack": looped(read, cls=type(message), wire=wire),
        }

    points = [[float(k), 2.0, 3.0] for k in range(10000)]
    names = [f"P{k}" for k in range(10000)]
    return {
        **both("TRANSFORM", theirs.TransformMessage(np.eye(4), device_name="Probe")),
        "TRANSFORM build and pack": looped(
            "T(m, device_name='Probe').pack()", T=theirs.TransformMessage, m=np.eye(4)
        ),
        **both("IMAGE 640x480 u8", theirs.ImageMessage(np.full((1, 480, 640), 7, "u1"))),
        **both("POINT 10000", theirs.PointMessage(points, names, groups="Fiducial")),
    }
