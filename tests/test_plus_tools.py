"""The command line, the doctor, recordings and relays beside the simulated PlusServer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl.cli import main
from igtl.doctor import Diagnosis, examine
from igtl.files.sequences import Stack, series_of
from igtl.simulate import PlusSimulator
from tests.test_tools import running


@pytest.fixture
def server() -> Iterator[PlusSimulator]:
    with igtl.simulate.plus(port=0, size=(64, 48), valid_only=False) as simulator:
        yield simulator


def invoke(*args: str, exit_code: int = 0) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(main, args)
    assert done.exit_code == exit_code, (done.output, done.exception)
    return done.output


def test_command(server: PlusSimulator) -> None:
    at = f"127.0.0.1:{server.port}"
    told = invoke("command", at, "RequestDeviceIds").splitlines()
    assert told[0] == "Tracker,UsDevice,CaptureDevice,VolumeReconstructorDevice"
    assert "UsDevice: UsDevice" in told
    text = '<Command Name="GetTransform" TransformName="ImageToProbe"/>'
    assert "ImageToProbe: 0.2 0 0 -1" in invoke("command", at, "GetTransform", text)
    assert json.loads(invoke("command", at, "Version", "--json"))["metadata"]["Status"] == "SUCCESS"
    assert "Unknown command type" in invoke("command", at, "Nope", exit_code=1)
    assert isinstance(server.received[0], igtl.Status)  # the hello
    # without it there are no values
    plain = invoke("command", at, "GetTransform", text, "--header-version", "1")
    assert plain == "GetTransform (ImageToProbe) Command successful.\n"


@pytest.mark.processes
def test_simulate() -> None:
    """As a command; it says what would have happened to PLUS."""
    with running("simulate", "--plus", "--at", "127.0.0.1:0") as command:
        with igtl.plus.connect(port=command.port) as plus:
            assert plus.version().startswith("Plus-")
            plus.send(igtl.Bind([igtl.String("a")]), force=True)
            command.wait_for("ended, as PLUS would: BIND was received")
    assert "--plus takes" in invoke("simulate", "--plus", "tracker", exit_code=2)


def test_monitor_shows_statuses(server: PlusSimulator) -> None:
    server.set_status("StylusToTracker", "OUT_OF_VIEW")
    at = f"127.0.0.1:{server.port}"
    names = ("ProbeToTracker", "StylusToTracker", "Image_Reference", "TRACKEDFRAME", "TDATA")
    shown = invoke("monitor", at, "-s", "1.5", *(w for name in names for w in ("--select", name)))
    assert "2 tools: ProbeToTracker, StylusToTracker OUT_OF_VIEW" in shown
    assert "64×48×1 uint8" in shown
    assert shown.count("StylusToTracker OUT_OF_VIEW") >= 2  # in the frame, too
    assert "STATUS" not in shown
    images = invoke("monitor", at, "-s", "1.5", "--hello", "-t", "IMAGE")
    assert "StylusToTracker OUT_OF_VIEW" in images
    assert "XToY" in invoke("monitor", at, "--select", "Probe", exit_code=2)


def test_record_and_save_as_a_sequence(server: PlusSimulator, tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    server.set_status("StylusToTracker", "OUT_OF_VIEW")
    file, at = tmp_path / "a.mcap", f"127.0.0.1:{server.port}"
    names = ["ProbeToTracker", "StylusToTracker", "Image_Reference", "TRACKEDFRAME"]
    select = [word for name in names for word in ("--select", name)]
    invoke("record", str(file), at, "-n", "9", "-t", "TRACKEDFRAME", "-q", *select)
    with igtl.Recording(file) as recording:
        assert {kind for kind, _ in recording.streams} == {"TRACKEDFRAME"}
        path = tmp_path / "a.igs.mha"
        with Stack(path) as stack, pytest.warns(igtl.FileWarning, match="the images move"):
            series = series_of(recording, path, 0.01, stack)
    assert series.frames.shape[0] == 9
    assert series.fields[0]["StylusToTrackerTransformStatus"] == "OUT_OF_VIEW"
    assert series.fields[0]["ProbeToTrackerTransformStatus"] == "OK"
    assert series.fields[0]["DepthMm"] == "45"


@pytest.mark.processes
def test_relay_passes_on_what_is_selected(server: PlusSimulator) -> None:
    at = f"127.0.0.1:{server.port}"
    with (
        running("relay", at, "--at", "127.0.0.1:0", "--select", "ProbeToTracker") as relay,
        igtl.connect(port=relay.port) as link,
    ):
        pose = link.recv(igtl.Transform, timeout=20)
        while pose.device_name != "ProbeToTracker" or not pose.metadata:
            pose = link.recv(igtl.Transform, timeout=20)  # what was sent before it was selected
        assert pose.metadata["TransformStatus"] == "OK"
        assert any(isinstance(m, igtl.ClientInfo) for m in server.received)


# ---- the doctor -----------------------------------------------------------------------------------


def plus_of(diagnosis: Diagnosis) -> str:
    found = [finding.text for finding in diagnosis.findings if finding.cause == "plus"]
    return found[0] if found else ""


def diagnosed(server: PlusSimulator, seconds: float = 0.7, **asked: Any) -> Diagnosis:
    return examine("127.0.0.1", server.port, seconds=seconds, **asked)


def test_the_doctor_knows_plus(server: PlusSimulator) -> None:
    server.set_status("StylusToTracker", "MISSING")
    diagnosis = diagnosed(server, hello=True)
    assert plus_of(diagnosis) == "This is PLUS. Not valid: StylusToTracker MISSING."
    assert not diagnosis.problems


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"device_name": "StylusTipToProbe"}, "Select(transforms=['StylusTipToProbe'])"),
        ({"device_name": "Image_Probe"}, "Select(images=['Image_Probe'])"),
        ({"type_name": "TRACKEDFRAME"}, "tracked_frames"),
        ({"type_name": "TDATA"}, "tracking_data"),
        ({"device_name": "Probe"}, "names transforms XToY"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_doctor_says_how_to_ask(
    server: PlusSimulator, asked: dict[str, str], word: str
) -> None:
    diagnosis = diagnosed(server, 0.5, hello=True, **asked)
    assert word in plus_of(diagnosis)
    assert diagnosis.cause == "names"


def test_the_doctor_knows_keep_alives() -> None:
    with igtl.simulate.plus(port=0, streams=False) as server:
        told = plus_of(diagnosed(server, 0.8))
    assert "--hello" in told
    assert "keep-alives only" in told


def test_the_doctor_on_silence_while_nothing_is_valid() -> None:
    with igtl.simulate.plus(port=0, size=(64, 48)) as server:
        # frames flow, but of what this configuration sends nothing is valid
        server.default(transforms=("StylusToTracker",))
        server.set_status("StylusToTracker", "MISSING")
        time.sleep(0.1)
        diagnosis = diagnosed(server, 0.5)
    assert diagnosis.cause == "silent"
    assert "no transform that it should send is valid" in diagnosis.verdict


def test_other_peers_are_not_plus() -> None:
    with igtl.simulate.serve("tracker", port=0, statuses=True) as simulator:
        diagnosis = examine("127.0.0.1", simulator.port, seconds=0.3, hello=True)
    assert plus_of(diagnosis) == ""


def test_words_of_a_selection() -> None:
    select = igtl.plus.Select.of(["ProbeToTracker", "Image_Reference", "TRACKEDFRAME", "VIDEO"])
    assert select.message_types == ["TRANSFORM", "TRACKEDFRAME", "VIDEO"]
    assert select.images == ("Image_Reference",)
    both = igtl.plus.Select.of(["Image_Reference", "IMAGE", "USMESSAGE"])
    assert both.message_types == ["IMAGE", "USMESSAGE"]
    np.testing.assert_equal(igtl.plus.Select.of(["Image_A"]).message_types, ["IMAGE"])
