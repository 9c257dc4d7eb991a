"""The C of the compiled part by itself: tests/*_check.c, built with the sanitizers where they are there."""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import igtl

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform == "win32", reason="compiles as POSIX systems do"),
    pytest.mark.skipif(
        not (HERE.parent / "igtl" / "_wire.h").is_file(), reason="installed without the sources"
    ),
]


def built(folder: Path, name: str) -> Path:
    """The program, made by the compiler that built Python."""
    program = folder / name
    compiler = shlex.split(sysconfig.get_config_var("CC"))
    command = [
        *compiler,
        "-O1",
        "-Wall",
        "-Wno-unused-function",
        f"-I{igtl.__path__[0]}",
        str(HERE / f"{name}.c"),
        "-o",
        str(program),
    ]
    checked = subprocess.run(
        [*command, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"], capture_output=True
    )
    if (
        checked.returncode
        or subprocess.run([program], capture_output=True, timeout=60).returncode < 0
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return program


def test_numbers_and_headers(tmp_path: Path) -> None:
    done = subprocess.run(
        [built(tmp_path, "wire_check")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed, failed = (int(word) for word in done.stdout.split() if word.isdigit())
    assert (passed > 2000, failed) == (True, 0)
