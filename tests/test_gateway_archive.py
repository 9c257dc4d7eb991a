"""Recordings of a gateway: files that follow each other, and a disk that is full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Frame
from igtl.gateway import Gateway, load
from igtl.gateway.archive import Archive
from tests.test_links import until

pytest.importorskip("mcap")


def frame(number: int, size: int = 100) -> Frame:
    rng = np.random.default_rng(number)
    array = igtl.NDArray(rng.integers(0, 255, size, dtype=np.uint8), device_name=str(number))
    return Frame.from_bytes(array.pack())


@pytest.fixture
def archive() -> Iterator[Callable[[Path, str], Archive]]:
    """Makes one that works already, of a gateway without other parts."""
    with contextlib.ExitStack() as gateways:

        def made(folder: Path, keys: str) -> Archive:
            path = folder.parent / "g.toml"
            path.write_text(
                f"""
                [source.none]
                listen = "127.0.0.1:0"
                [sink.files]
                record = "{folder / "case"}"
                {keys}
                [route.way]
                from = ["none"]
                to = ["files"]
                """
            )
            gateway = gateways.enter_context(Gateway(load(path)))
            assert gateway.wait_open(10)
            found = gateway.sinks["files"]
            assert isinstance(found, Archive)
            return found

        yield made


def numbers(folder: Path) -> list[int]:
    """What all files hold, in order; each can be read."""
    found = []
    for path in sorted(folder.glob("*.mcap")):
        with igtl.Recording(path) as recording:
            found += [int(each.frame.device_name) for each in recording]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "records"
    found.mkdir()
    return found


def test_files_by_size_follow_each_other(folder: Path, archive: Any) -> None:
    sink = archive(folder, "rotate_bytes = 50_000")
    sent = 0
    while len(list(folder.iterdir())) < 4:
        sink.put(frame(sent, 2000), "one")
        sent += 1
        until(lambda: sink.waiting < 20)
    sink.close()
    assert numbers(folder) == list(range(sent))
    assert (sink.taken, sink.delivered, sink.dropped) == (sent, sent, {})
    # a last one without a message is gone
    assert sink.files - len(list(folder.iterdir())) in (0, 1)
    with igtl.Recording(min(folder.iterdir())) as recording:
        assert {each.peer for each in recording} == {"one"}


def test_files_by_time(folder: Path, archive: Any) -> None:
    sink = archive(folder, "rotate_seconds = 0.3")
    sent = 0
    while len(list(folder.iterdir())) < 3:
        sink.put(frame(sent), "one")
        sent += 1
        until(lambda: not sink.waiting)
    until(lambda: sink._recorder is not None and not sink._recorder.count)
    sink.close()
    assert numbers(folder) == list(range(sent))
    assert sink.files == len(list(folder.iterdir())) + 1  # the last one was empty, and is gone


def test_old_files_go(folder: Path, archive: Any) -> None:
    for name in ("case-mine.mcap", "case-20200101T000000000000Z.mcap.txt", "other"):
        (folder / name).write_text("not of the gateway")
    (folder / "case-20200101T000000000000Z.mcap").write_text("of an earlier run")
    sink = archive(folder, "rotate_bytes = 20_000\nkeep_files = 3")
    sent = 0
    while sink.files < 5:
        sink.put(frame(sent, 2000), "one")
        sent += 1
        until(lambda: sink.waiting < 20)
        assert len(list(folder.iterdir())) <= 3 + 3
    sink.put(frame(sent), "one")  # the last file is not empty
    sent += 1
    sink.close()
    assert len(list(folder.iterdir())) == 3 + 3
    assert {"case-mine.mcap", "other"} < {path.name for path in folder.iterdir()}
    for path in folder.glob("case-mine*"):
        path.unlink()
    found = numbers(folder)
    assert found == list(range(found[0], sent))
    assert found[0] > 0
    sink = archive(folder, "rotate_bytes = 20_000\nkeep_bytes = 50_000")
    while sink.files < 4:
        sink.put(frame(sent, 2000), "one")
        sent += 1
        until(lambda: sink.waiting < 20)
    sink.close()
    assert sum(path.stat().st_size for path in folder.glob("*.mcap")) < 100_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs Linux and root")
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(place)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(small_disk: Path, caplog: Any, archive: Any) -> None:
    """It is named, all that was not written is counted, and recording goes on when there is room."""
    sink = archive(small_disk, "")
    sent = 0

    def put(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sink.put(frame(sent, 20_000), "one")
            sent += 1

    while not sink.dropped:
        put(5)
        until(lambda: sink.waiting < 50)
    put(10)
    assert set(sink.dropped) == {"ENOSPC"}
    until(lambda: "No space left on device" in sink.reason)
    assert sum("No space left" in r.getMessage() for r in caplog.records) == 1
    until(lambda: not sink.waiting)
    assert sink.delivered + sink.dropped["ENOSPC"] == sink.taken == sent
    first = numbers(small_disk)
    assert first == list(range(sink.delivered))  # the file is whole up to where it was counted
    assert len(first) > 200
    (kept,) = small_disk.iterdir()
    os.truncate(kept, 0)  # as if it was moved away
    kept.unlink()
    until(lambda: not sink.reason)
    begun = sent
    put(7)
    sink.close()
    assert numbers(small_disk) == list(range(begun, sent))
    assert sink.delivered + sink.dropped.total() == sink.taken == sent
    assert sink.delivered == len(first) + 7


def test_a_disk_without_room_from_the_start(small_disk: Path, archive: Any) -> None:
    (small_disk / "ballast").write_bytes(bytes(6_200_000 - 300_000))
    sink = archive(small_disk, "")
    until(lambda: "No space left" in sink.reason)
    sink.put(frame(0), "one")
    assert sink.dropped == {"ENOSPC": 1}
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]  # no empty files
    (small_disk / "ballast").unlink()
    until(lambda: not sink.reason)
    sink.put(frame(1), "one")
    sink.close()
    assert numbers(small_disk) == [1]


def test_a_folder_that_goes_away(folder: Path, archive: Any) -> None:
    sink = archive(folder, "rotate_seconds = 0.1")
    sink.put(frame(0), "one")
    until(lambda: sink.delivered == 1)

    def remove() -> bool:  # a new file may come meanwhile
        for path in folder.iterdir():
            path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    until(remove)
    until(lambda: sink.put(frame(1), "one") or "ENOENT" in sink.dropped)
    folder.mkdir()
    until(lambda: not sink.reason)
    sink.close()
    assert sink.delivered + sink.dropped.total() == sink.taken


def test_a_disk_that_is_too_slow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, archive: Any
) -> None:
    sink = archive(folder, "max_queued_bytes = 10_000")
    asked = threading.Event()

    def take_nothing() -> None:
        asked.set()
        time.sleep(0.001)

    monkeypatch.setattr(sink, "_next", take_nothing)
    assert asked.wait(10)
    for k in range(50):
        sink.put(frame(k, 1000), "one")
    assert sink.dropped == {"max_queued_bytes": 41}
    assert sink.reason == "the disk does not keep up"
    monkeypatch.undo()
    sink.close()
    assert numbers(folder) == list(range(9))
    assert sink.reason == ""
