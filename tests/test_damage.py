"""Files that were cut, or in which bytes were changed: FileError with a sentence, or a message that
can be sent; never another exception, and memory of the size of the file."""

from __future__ import annotations

import functools
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import igtl
from igtl import Attribute, AttributeType, PolyData

pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
pytest.importorskip("nibabel", reason="nibabel is not installed")
pytest.importorskip("nrrd", reason="pynrrd is not installed")
pytest.importorskip("pydicom", reason="pydicom is not installed")
MOST = 64 << 20
RNG = np.random.default_rng(3)


def volume() -> igtl.Message:
    return igtl.Image(RNG.integers(-100, 100, (3, 8, 9), np.int16))


def picture() -> igtl.Message:
    return igtl.Image(RNG.integers(0, 255, (1, 20, 30, 3), np.uint8))


def slice_() -> igtl.Message:
    return igtl.Image(RNG.integers(0, 255, (1, 20, 30), np.uint8))


def mesh() -> igtl.Message:
    points = RNG.normal(0, 50, (12, 3))
    return PolyData(
        points, polygons=[[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]],
        attributes=[Attribute("S", np.arange(12)), Attribute("N", points, AttributeType.NORMALS)],
    )  # fmt: skip


def points() -> igtl.Message:
    return igtl.Points([igtl.Point(f"F{n}", position=(n, 2, 3)) for n in range(5)])


def sequence() -> list[igtl.Message]:
    place = np.eye(4)
    return [
        message for n in range(3)
        for message in (
            igtl.Image(RNG.integers(0, 9, (2, 3, 4), np.int16), device_name="A", timestamp=n + 1),
            igtl.Transform(place, device_name="AToB", timestamp=n + 1),
        )
    ]  # fmt: skip


QUICK: dict[str, Callable[[], Any]] = {
    **dict.fromkeys((".nii", ".nii.gz", ".nrrd", ".mha", ".gipl"), volume),
    **dict.fromkeys((".png", ".jpg", ".bmp"), picture),
    ".dcm": slice_,
    **dict.fromkeys((".stl", ".ply", ".obj", ".off", ".vtu"), mesh),
    **dict.fromkeys((".mrk.json", ".fcsv"), points),
    **dict.fromkeys((".igs.mha", ".seq.nrrd", ".seq.mha"), sequence),
}
SLOW: dict[str, Callable[[], Any]] = {".tif": volume, ".vtk": mesh, ".vtp": mesh}


@functools.cache
def whole(suffix: str) -> bytes:
    if suffix in (".vtk", ".vtp", ".vtu") and not find_spec(
        "vtkmodules" if suffix != ".vtu" else "meshio"
    ):
        pytest.skip("VTK or meshio is not installed")
    made = (QUICK | SLOW)[suffix]()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", igtl.FileWarning)
        path = Path(folder, f"a{suffix}")
        if isinstance(made, list):
            igtl.files.save_sequence(made, path)
        else:
            igtl.files.save(made, path)
        return path.read_bytes()


def damaged(suffix: str, data: bytes) -> None:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        path = Path(folder, f"bad{suffix}")
        path.write_bytes(data)
        tracemalloc.start()
        try:
            if ".igs" in suffix or ".seq" in suffix:
                messages = igtl.files.load_sequence(path)
            else:
                messages = [igtl.files.load(path)]
            for message in messages:
                message.pack()
            told = None
        except igtl.FileError as error:
            told = error.path, error.reason
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MOST
        if told is not None:
            assert told[0] == path
            assert len(told[1]) > 5


def check(suffix: str, cut: float, changes: list[tuple[float, int]]) -> None:
    data = bytearray(whole(suffix))
    for place, value in changes:  # more of them at the beginning, where the counts are
        data[int(place**3 * (len(data) - 1))] = value
    damaged(suffix, bytes(data[: round(cut * len(data))]))


CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1), st.one_of(st.sampled_from(b"0123456789 -\n\xff\0"), st.integers(0, 255))
    ),
    max_size=4,
)
CUT = st.one_of(st.just(1.0), st.floats(0, 1))


@pytest.mark.parametrize("suffix", QUICK)
@settings(max_examples=min(60, settings().max_examples))
@given(cut=CUT, changes=CHANGES)
def test_damaged_files(suffix: str, cut: float, changes: list[tuple[float, int]]) -> None:
    check(suffix, cut, changes)


@pytest.mark.processes
@pytest.mark.parametrize("suffix", SLOW)
@settings(max_examples=5)
@given(cut=CUT, changes=CHANGES)
@example(cut=0.5, changes=[])
def test_damaged_files_of_fragile_decoders(
    suffix: str, cut: float, changes: list[tuple[float, int]]
) -> None:
    """Each in a process of its own."""
    check(suffix, cut, changes)


@pytest.mark.processes
def test_a_decoder_that_ends_its_process(tmp_path: Path) -> None:
    """Lengths of cells that do not fit: VTK reads beyond its memory."""
    pytest.importorskip("vtkmodules", reason="VTK is not installed")
    path = tmp_path / "a.vtk"
    data = whole(".vtk")
    at = data.index(b"POLYGONS")
    at = data.index(b"\n", at) + 1
    path.write_bytes(data[:at] + b"\x7f\xff\xff\x00" + data[at + 4 :])
    with pytest.raises(igtl.FileError, match="is damaged"):
        igtl.files.load(path)


@pytest.mark.parametrize("suffix", QUICK)
def test_foreign_files(suffix: str) -> None:
    whole(suffix)
    for content in (b"", b"\0" * 4000, b"<html></html>\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(300)):
        damaged(suffix, content)


MUCH: dict[str, bytes] = {
    ".mha": b"DimSize = 60000 60000 60000\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
    ".nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 60000 60000 60000\nencoding: raw\n\n",
    ".ply": b"ply\nformat ascii 1.0\nelement vertex 4000000000\nproperty float x\nend_header\n1 2\n",
    ".off": b"OFF\n4000000000 4000000000 0\n0 0 0\n",
    ".stl": b"x" * 80 + b"\xff\xff\xff\x7f" + bytes(100),
    ".mrk.json": b'{"markups": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("suffix", MUCH)
def test_files_that_announce_more_than_they_hold(suffix: str) -> None:
    damaged(suffix, MUCH[suffix])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, f"a{suffix}")
        path.write_bytes(MUCH[suffix])
        with pytest.raises(igtl.FileError):
            igtl.files.load(path)
