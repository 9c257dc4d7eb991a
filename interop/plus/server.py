"""A real PlusServer, where there is one: on the PATH, or named by IGTL_PLUS_SERVER."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_STARTING: Final = 60.0  # seconds
_SEQUENCE: Final = Path(__file__).parents[2] / "tests" / "vectors" / "plus" / "grey.igs.mha"
_CONFIGURATION: Final = """<PlusConfiguration version="2.9">
  <DataCollection StartupDelaySec="0.5">
    <DeviceSet Name="igtl" Description="Scenarios of igtl"/>
    <Device Id="UsDevice" Type="SavedDataSource" SequenceFile="{sequence}"
        UseData="IMAGE_AND_TRANSFORM" RepeatEnabled="TRUE" UseOriginalTimestamps="FALSE"
        AcquisitionRate="20" ToolReferenceFrame="Tracker">
      <DataSources>
        <DataSource Type="Video" Id="Video" PortUsImageOrientation="MF" BufferSize="100"/>
      </DataSources>
      <OutputChannels><OutputChannel Id="UsStream" VideoDataSourceId="Video"/></OutputChannels>
    </Device>
    <Device Id="CaptureDevice" Type="VirtualCapture" BaseFilename="igtl.igs.mha"
        EnableCapturingOnStart="FALSE" RequestedFrameRate="20">
      <InputChannels><InputChannel Id="UsStream"/></InputChannels>
    </Device>
    <Device Id="VolumeReconstructorDevice" Type="VirtualVolumeReconstructor"
        OutputVolFilename="igtl.mha" OutputVolDeviceName="recvol_Reference">
      <InputChannels><InputChannel Id="UsStream"/></InputChannels>
      <VolumeReconstruction ImageCoordinateFrame="Image" ReferenceCoordinateFrame="Reference"
          OutputSpacing="1 1 1" Interpolation="NEAREST_NEIGHBOR" CompoundingMode="MAXIMUM"
          FillHoles="OFF" NumberOfThreads="1" SkipInterval="1"/>
    </Device>
  </DataCollection>
  <CoordinateDefinitions>
    <Transform From="Image" To="Probe" Matrix="0.2 0 0 -1  0 0.25 0 -2  0 0 0.5 3  0 0 0 1"/>
  </CoordinateDefinitions>
  <PlusOpenIGTLinkServer ListeningPort="{port}" OutputChannelId="UsStream"
      MaxNumberOfIgtlMessagesToSend="1" MaxTimeSpentWithProcessingMs="50">
    <DefaultClientInfo>
      <MessageTypes><Message Type="IMAGE"/><Message Type="TRANSFORM"/></MessageTypes>
      <TransformNames>
        <Transform Name="ProbeToTracker"/><Transform Name="ReferenceToTracker"/>
      </TransformNames>
      <ImageNames><Image Name="Image" EmbeddedTransformToFrame="Reference"/></ImageNames>
    </DefaultClientInfo>
  </PlusOpenIGTLinkServer>
</PlusConfiguration>
"""


def missing() -> str:
    """Why there is no PlusServer; "" if there is one."""
    named = os.environ.get("IGTL_PLUS_SERVER")
    if named:
        return "" if Path(named).is_file() else f"IGTL_PLUS_SERVER is {named!r}, which is no file"
    if shutil.which("PlusServer"):
        return ""
    return "there is no PlusServer on the PATH, and IGTL_PLUS_SERVER does not name one"


@contextlib.contextmanager
def running() -> Iterator[int]:
    """A PlusServer at work; gives its port.

    Raises:
        RuntimeError: it does not start; the text is what it has said.
    """
    program = os.environ.get("IGTL_PLUS_SERVER") or shutil.which("PlusServer")
    assert program is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "igtl.xml"
        file.write_text(_CONFIGURATION.format(port=port, sequence=_SEQUENCE))
        log = Path(folder) / "log.txt"
        with log.open("w") as out:
            process = subprocess.Popen(
                [program, f"--config-file={file}"], cwd=folder, stdout=out, stderr=out
            )
        try:
            _wait_for(process, port, log)
            yield port
        finally:
            # after SIGINT its port is free at once, after a crash it is not
            process.send_signal(signal.SIGINT if sys.platform != "win32" else signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _STARTING
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"PlusServer does not start: {log.read_text()[-2000:]}")
