"""Shared by all tests: the golden vectors, and how peers that are not installed are treated."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from igtl.log import sum_up

Slicer = Callable[[list[dict[str, Any]]], list[Any]]
VECTORS = Path(__file__).parent / "vectors"
SLICER = VECTORS / "slicer"
PROGRAMS = ("g++", "gcc", "make", "cmake", "Chromium")  # that ci/peers installs

# `long` runs set IGTL_EXAMPLES; noisy machines need no deadline
settings.register_profile(
    "igtl",
    max_examples=int(os.environ.get("IGTL_EXAMPLES", "300")),
    deadline=None,
    derandomize="IGTL_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("igtl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A longer time-out than that of pyproject.toml, for what takes minutes."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(1800))


def pytest_runtest_setup() -> None:
    """A test finds the records of its own in the log, however many others have written."""
    sum_up(all=True)


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """A test ends the threads that it has begun: they would disturb those that come later. Those of
    an executor of asyncio wait for work as long as its loop lives, perhaps for several tests."""
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 20
    while left := [
        thread for thread in set(threading.enumerate()) - before
        if not thread.name.startswith("asyncio_")
    ]:  # fmt: skip
        assert time.monotonic() < end, left
        time.sleep(0.005)


def manifest(folder: Path = VECTORS) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())["vectors"]
    return found


def missing_peer(name: str) -> None:
    """Skip, or fail where all peers must be there (IGTL_REQUIRE_PEERS=1, set in CI)."""
    if os.environ.get("IGTL_REQUIRE_PEERS") == "1":
        pytest.fail(f"{name} is not installed, and IGTL_REQUIRE_PEERS=1", pytrace=False)
    pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def slicer() -> Slicer:
    """What 3D Slicer's own code makes of files: requests to facts, see `tests/slicer_peer.py`. It is
    installed by `ci/slicer`; IGTL_SLICER_PYTHON names another Python that has slicer-core."""
    there = Path(__file__).parent.parent / "build" / "slicer-venv" / "bin" / "python"
    python = os.environ.get("IGTL_SLICER_PYTHON", str(there))
    if not Path(python).exists():
        missing_peer("slicer-core")

    def ask(requests: list[dict[str, Any]]) -> list[Any]:
        done = subprocess.run(
            [python, str(Path(__file__).parent / "slicer_peer.py")], input=json.dumps(requests),
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers: list[Any] = json.loads(done.stdout.rpartition("--- answers ---")[2])
        assert len(answers) == len(requests)
        return answers

    return ask


@pytest.fixture(scope="session")
def programs() -> Path:
    """Folder of the built programs of the official C++ library. IGTL_CPP_PROGRAMS names the folder of
    another version (interop/README.md)."""
    from interop import build
    from tests import cpp

    if other := os.environ.get("IGTL_CPP_PROGRAMS"):
        return Path(other)
    for need, package in (
        (cpp.HEADERS, "libopenigtlink-dev"),
        (cpp.EXAMPLES, "openigtlink-examples"),
    ):
        if not need.is_dir():
            missing_peer(f"Debian's {package}")
    for tool in ("g++", "make", "cmake"):
        if not shutil.which(tool):
            missing_peer(tool)
    if not Path("/usr/include/nlohmann").is_dir():
        missing_peer("Debian's nlohmann-json3-dev")
    # one build at a time, whichever processes run tests
    make = ["flock", cpp.INTEROP / "Makefile", "make", "-C", cpp.INTEROP, "-j2"]
    build.run(build.BUILD / "make.log", *make)
    return build.BUILD


@pytest.hookimpl(wrapper=True, tryfirst=True)  # pytest's own wrapper prints the long list
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """One line at the end: what was skipped for want of packages, and what installs them."""
    yield
    missing: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if found := re.search(
            r"(?:Skipped: )?(.+) is not installed|could not import '(\S+)'", reason
        ):
            missing[found[1] or found[2]] += 1
    if missing:
        terminalreporter.write_line(skipped(missing), yellow=True)


def skipped(missing: Mapping[str, int]) -> str:
    """How many tests were skipped for want of these packages, and the command that installs them."""
    root = not hasattr(os, "geteuid") or os.geteuid() == 0  # sudo may be missing in a container
    means = {
        "ci/peers" if root else "sudo ci/peers": lambda name: (
            name.startswith("Debian's ") or name in PROGRAMS
        ),
        "ci/slicer": lambda name: name.startswith("slicer-core"),
        ".venv/bin/pip install -e '.[dev]'": lambda name: True,
    }
    needed = {next(how for how, fits in means.items() if fits(name)) for name in missing}
    names = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
    how = " && ".join(each for each in means if each in needed)
    total = sum(missing.values())
    return f"{total} skipped for want of {names}; to install what is missing: {how}"
