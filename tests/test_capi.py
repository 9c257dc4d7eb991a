"""The C level: a C and a Cython extension, compiled here against the installed package."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from tests.wire import extended, frame

SOURCES = Path(__file__).parent / "capi"
SHORT, NAME, TYPE, VERSION, CRC, BODY = range(-1, -7, -1)  # what igtl_capi.h names

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform == "win32", reason="compiles as POSIX systems do"),
]


def compiled(folder: Path, name: str, source: Path) -> Any:
    """The module `name`, built by the compiler that built Python."""
    target = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    linker = shlex.split(sysconfig.get_config_var("LDSHARED"))
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{igtl.get_include()}"]
    command = [*linker, "-fPIC", "-O1", "-Wall", *includes, str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location(name, target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["use_c", "use_cython"])
def extension(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("capi")
    if request.param == "use_c":
        return compiled(folder, "use_c", SOURCES / "use_c.c")
    pytest.importorskip("Cython")
    package = Path(igtl.get_include()).parent
    source = folder / "use_cython.c"
    command = [sys.executable, "-m", "cython", "-3", "-I", str(package)]
    subprocess.run([*command, str(SOURCES / "use_cython.pyx"), "-o", str(source)], check=True)
    return compiled(folder, "use_cython", source)


def sample() -> igtl.Transform:
    matrix = np.eye(4, dtype="f4")
    matrix[:3] = np.arange(12).reshape(3, 4) / 7
    return igtl.Transform(matrix, device_name="Probé", timestamp=1700000000.25)


def test_version(extension: Any) -> None:
    assert extension.version == 1


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 48, 271, 272, 5000])
def test_crc(extension: Any, size: int) -> None:
    data = bytes(range(256)) * 20
    assert extension.crc(data[:size], 0) == igtl.crc64(data[:size])
    assert extension.crc(data[7:size], 99) == igtl.crc64(data[7:size], 99)


def test_transform_is_the_librarys(extension: Any) -> None:
    m = sample()
    wire = m.pack()
    assert extension.pack(m.device_name, m.timestamp_raw, m.matrix.tobytes()) == wire
    read = (1, "TRANSFORM", "Probé", m.timestamp_raw, m.matrix.tobytes())
    assert extension.unpack(wire) == read
    assert extension.unpack(wire + b"the next message") == read
    m.metadata["a"] = "b"
    assert extension.unpack(m.pack()) == (2, *read[1:])
    longer = extended(wire[58:], ext=14)[:12] + b"xx" + wire[58:] + b"\0\0"
    assert extension.unpack(frame("TRANSFORM", longer, version=2))[4] == m.matrix.tobytes()


def test_names_of_full_length(extension: Any) -> None:
    identity = np.eye(4, dtype="f4").tobytes()
    wire = extension.pack("x" * 20, 0, identity)
    assert igtl.unpack(wire).device_name == "x" * 20
    assert extension.unpack(wire)[2] == "x" * 20
    assert extension.pack("x" * 21, 0, identity) == NAME
    full = frame("X" * 12, b"body")
    assert extension.header(full) == ("X" * 12, "Dev", 4, igtl.crc64(b"body"), full[:58])


def test_refusals(extension: Any) -> None:
    wire = sample().pack()
    for n in range(106):
        if n:
            assert extension.unpack(wire[:n]) == SHORT
    assert extension.header(wire[:57]) == SHORT
    assert extension.unpack(frame("TRANSFORM", wire[58:], size=2**64 - 1)) == SHORT
    assert extension.unpack(frame("TRANSFORMS", wire[58:])) == TYPE
    assert extension.unpack(frame("TRANSFORM", wire[58:], version=3)) == VERSION
    assert extension.unpack(wire[:-1] + b"?") == CRC
    assert extension.unpack(frame("TRANSFORM", wire[58:105])) == BODY
    assert extension.unpack(frame("TRANSFORM", b"")) == BODY
    for body in (b"", bytes(11), extended(wire[58:], ext=11), extended(wire[58:], ext=0xFFFF),
                 extended(wire[58:], mh=60000), extended(wire[58:], mh=0), extended(wire[58:], ms=2**32 - 1),
                 extended(wire[58:105])):  # fmt: skip
        assert extension.unpack(frame("TRANSFORM", body, version=2)) == BODY


def test_an_older_library_is_refused(tmp_path: Path) -> None:
    """By a header that needs more than this library has."""
    newer = tmp_path / "newer"
    newer.mkdir()
    text = (Path(igtl.get_include()) / "igtl_capi.h").read_text()
    changed = text.replace("#define IGTL_CAPI_VERSION 1", "#define IGTL_CAPI_VERSION 99")
    assert changed != text
    (newer / "igtl_capi.h").write_text(changed)
    (newer / "use_c.c").write_text((SOURCES / "use_c.c").read_text())
    with pytest.raises(ImportError, match="igtl has version 1 of its C level, 99 is needed"):
        compiled(tmp_path, "use_c", newer / "use_c.c")
