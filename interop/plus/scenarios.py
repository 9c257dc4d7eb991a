"""What a user of PLUS does, as functions of a port: for a real PlusServer and for the simulated one.

Each raises AssertionError, or another error, if it does not work. They need the tools
ProbeToTracker and ReferenceToTracker, the image Image in ImageToProbe, and the devices
CaptureDevice and VolumeReconstructorDevice.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Final

import numpy as np

import igtl

WAIT: Final = 15.0  # seconds for what takes a fraction of one
Select = igtl.plus.Select
FRAMES: Final = Select(
    transforms=["ProbeToTracker", "ReferenceToTracker"], images=["Image_Reference"],
    tracked_frames=True,
)  # fmt: skip


def tracking(port: int) -> None:
    """Poses with their statuses, which arrive by header version 2."""
    with igtl.plus.connect(port=port, select=Select(transforms=["ReferenceToTracker"])) as plus:
        pose = plus.wait(igtl.Transform, "ReferenceToTracker", max_age=WAIT, timeout=WAIT)
        while not pose.metadata:  # sent before PLUS has read the hello
            time.sleep(0.005)
            pose = plus.wait(igtl.Transform, "ReferenceToTracker", max_age=WAIT, timeout=WAIT)
        assert pose.metadata["TransformStatus"] == "OK"
        assert plus.tools["ReferenceToTracker"] == "OK"


def selection(port: int) -> None:
    """Only what is selected arrives."""
    with igtl.plus.connect(port=port, select=Select(strings=["DepthMm"])) as plus:
        assert plus.wait(igtl.String, "DepthMm", timeout=WAIT).string
        before = plus.stats.streams.get(("IMAGE", "Image_Reference"))
        count = before.received if before else 0
        time.sleep(0.5)
        after = plus.stats.streams.get(("IMAGE", "Image_Reference"))
        assert (after.received if after else 0) <= count + 1


def commands(port: int) -> None:
    """Commands, their values, and why one fails."""
    with igtl.plus.connect(port=port) as plus:
        assert plus.version().startswith("Plus-")
        assert plus.device_ids("VirtualCapture") == ["CaptureDevice"]
        assert plus.channel_ids()
        why = ""
        try:
            plus.command("StartRecording", capture_device_id="NoSuch")
        except igtl.CommandFailed as error:
            why = str(error)
        assert "VirtualCapture has not been found (NoSuch)" in why
        assert float(plus.command("GetFrameRate").values["FrameRate"]) > 0
        assert plus.ping() < WAIT


def legacy_commands(port: int) -> None:
    """Commands as STRING."""
    with igtl.plus.connect(port=port) as plus:
        assert "CaptureDevice" in plus.command("RequestDeviceIds", legacy=True).message
        try:
            plus.command("NoSuchCommand", legacy=True)
        except igtl.CommandFailed:
            return
        raise AssertionError("a command that does not exist was answered by success")


def calibration(port: int) -> None:
    """A transform is read, changed, read again, and put back."""
    with igtl.plus.connect(port=port) as plus:
        before = plus.transform("ImageToProbe")
        changed = before.copy()
        changed[0, 3] += 1
        plus.update_transform("ImageToProbe", changed, persistent=True, error=0.5)
        np.testing.assert_allclose(plus.transform("ImageToProbe"), changed, atol=1e-4)
        plus.update_transform("ImageToProbe", before)


def recording(port: int) -> None:
    """PLUS records while a block runs, and says how many frames."""
    with igtl.plus.connect(port=port) as plus, plus.recording("CaptureDevice", "igtl.igs.mha"):
        time.sleep(0.5)


def volume(port: int) -> None:
    """A volume is reconstructed; its image arrives at this client."""
    with igtl.plus.connect(port=port, select=FRAMES) as plus:
        with plus.reconstruct("recvol_Reference", device="VolumeReconstructorDevice") as found:
            time.sleep(0.5)
        assert found.image is not None
        assert found.image.device_name == "recvol_Reference"


def tracking_data(port: int) -> None:
    """All tools in one message."""
    select = Select(transforms=["ProbeToTracker", "ReferenceToTracker"], tracking_data=True)
    with igtl.plus.connect(port=port, select=select) as plus:
        assert "ReferenceToTracker" in plus.wait(igtl.TrackingData, timeout=WAIT).tools.names


def tracked_frames(port: int) -> None:
    """Images with the transforms of their instant."""
    with igtl.plus.connect(port=port, select=FRAMES) as plus:
        for frame in itertools.islice(plus.frames(timeout=WAIT), 3):
            assert frame.array.ndim >= 3
            assert frame.transforms["ReferenceToTracker"].matrix.shape == (4, 4)
            assert frame.timestamp


def tracked_frames_in_asyncio(port: int) -> None:
    """The same, awaited."""

    async def work() -> None:
        async with igtl.plus.aio.connect(port=port, select=FRAMES) as plus:
            frame = await anext(plus.frames(timeout=WAIT))
            assert "ReferenceToTracker" in frame.transforms
            assert (await plus.version()).startswith("Plus-")

    asyncio.run(work())


def slow_user(port: int) -> None:
    """100 ms of work for each frame: they stay young, and another client gets all of its own."""
    with (
        igtl.plus.connect(port=port, select=FRAMES) as slow,
        igtl.plus.connect(port=port, select=FRAMES) as fast,
    ):
        fast.wait(igtl.TrackedFrame, timeout=WAIT)
        began = fast.stats.streams["TRACKEDFRAME", ""].received
        ages = []
        for frame in itertools.islice(slow.frames(timeout=WAIT), 10):
            ages.append(time.monotonic() - (frame.received_monotonic or 0.0))
            time.sleep(0.1)
        assert fast.stats.streams["TRACKEDFRAME", ""].received - began >= 10
        assert sorted(ages)[len(ages) // 2] < 1
        assert not fast.lost


SCENARIOS: Final[tuple[Callable[[int], None], ...]] = (
    tracking, selection, commands, legacy_commands, calibration, recording, volume, tracking_data,
    tracked_frames, tracked_frames_in_asyncio, slow_user,
)  # fmt: skip
