"""CRC-64 against the published check values, an independent library and a bitwise loop."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import fastcrc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from igtl import _core
from tests import reference

FORMS = _core.crc_forms()


def test_published_values() -> None:
    assert igtl.crc64(b"123456789") == 0x6C40DF5F0B497347
    assert igtl.crc64(b"") == 0
    assert igtl.crc64(b"\0") == 0
    assert igtl.crc64(b"\1") == 0x42F0E1EBA9EA3693


def test_portable_is_always_there() -> None:
    assert "portable" in FORMS
    with pytest.raises(ValueError, match="no CRC form"):
        igtl.crc64(b"", form="fast")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("form", FORMS)
def test_form_by_environment(form: str) -> None:
    """What packs and unpacks in this process uses the form that IGTL_CRC names."""
    code = """if True:
        import sys
        from tests.test_crc import FORMS, check_packing
        from igtl import _core
        check_packing(100, 5_000, 70_000, (8 << 20) + 77)
        print(_core.crc_form(), *FORMS)
    """
    done = python(code, IGTL_CRC=form)
    assert done.stdout.split() == [form, *FORMS], done.stderr


def test_fastest_form_unless_told() -> None:
    done = python("import igtl; print(igtl._core.crc_form())", IGTL_CRC="")
    assert done.stdout.strip() == FORMS[-1], done.stderr


def test_form_that_is_not_there() -> None:
    """An error that names the forms there are, not a silent use of another one."""
    done = python("import igtl", IGTL_CRC="vpclmul1024")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "IGTL_CRC is 'vpclmul1024'" in last
    assert last.endswith(", ".join(FORMS))


def test_every_form_in_c(tmp_path: Path) -> None:
    """Lengths, alignments, continued and copying, and reads and writes beyond the bytes."""
    if not shutil.which("gcc") or sys.platform != "linux":
        pytest.skip("needs gcc and its sanitizers")
    source = Path(__file__).with_name("crc64_check.c")
    program = tmp_path / "check"
    options = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    headers = f"-I{igtl.__path__[0]}"
    build = ["gcc", *options, *sanitizers, headers, str(source), "-o", str(program)]
    plain = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "ASAN_OPTIONS")}
    subprocess.run(build, env=plain, check=True)
    run = [str(program), str(len(FORMS))]
    done = subprocess.run(run, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("right") >= len(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_every_length_and_alignment(form: str) -> None:
    rng = random.Random(3)
    data = rng.randbytes(3000)
    for n in (*range(700), *rng.sample(range(700, 2900), 100)):
        at = rng.randrange(64)
        part = memoryview(data)[at : at + n]
        start = rng.getrandbits(64)
        expected = fastcrc.crc64.ecma_182(bytes(part))
        assert igtl.crc64(part, form=form) == expected
        split = rng.randrange(n + 1)
        first = igtl.crc64(part[:split], form=form)
        assert igtl.crc64(part[split:], first, form=form) == expected
        assert igtl.crc64(part, start, form=form) == slow(bytes(part), start)


def slow(data: bytes, crc: int) -> int:
    for byte in data:
        crc = reference._CRC[crc >> 56 ^ byte] ^ (crc << 8) & (1 << 64) - 1
    return crc


@pytest.mark.parametrize("form", FORMS)
@given(data=st.binary(max_size=5000))
def test_any_bytes(form: str, data: bytes) -> None:
    assert igtl.crc64(data, form=form) == fastcrc.crc64.ecma_182(data)


def test_large_and_any_buffer() -> None:
    data = random.Random(4).randbytes(3 << 20)
    expected = fastcrc.crc64.ecma_182(data)
    for buffer in (data, bytearray(data), memoryview(data)):
        assert igtl.crc64(buffer) == expected
    with pytest.raises((TypeError, ValueError)):
        igtl.crc64("text")  # type: ignore[arg-type]


def check_packing(*sizes: int) -> None:
    """pack() sums large data while copying it, pack_parts() without copying: same CRC."""
    import numpy as np

    for size in sizes:
        m = igtl.Unknown("BLOB", np.random.default_rng(size).bytes(size))
        wire = m.pack()
        assert wire[50:58] == fastcrc.crc64.ecma_182(wire[58:]).to_bytes(8, "big")
        assert b"".join(m.pack_parts()) == wire
        assert (len(m.pack_parts()) > 1) == (size >= 64 * 1024)
        assert m.pack(crc=False)[50:58] == bytes(8)
    into = bytearray(len(wire) + 64)  # the last may be copied past the caches, wherever it begins
    for at in range(0, 64, 11):
        assert m.pack_into(memoryview(into)[at:]) == len(wire)
        assert into[at : at + len(wire)] == wire


def test_fused_copy_of_large_content() -> None:
    check_packing(100, 5_000, 16_384, 16_385, 70_000, 1_000_000, (8 << 20) + 77)
