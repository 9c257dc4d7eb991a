"""The operator's guide and the files of deploy/: they do what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from igtl.gateway import load
from tests.cpp import free_port

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gateway.md"
if not PAGE.is_file():
    pytest.skip("installed without the documents", allow_module_level=True)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
TOML = [text for kind, text in BLOCKS if kind == "toml"]
# what a block of the page leaves out
REST = {
    "[source.": '[source.rest]\nsimulate = ["tracker"]\n',
    "[sink.": '[sink.rest]\nserve = "localhost:0"\n',
    "[route.": '[route.rest]\nfrom = ["*"]\nto = ["*"]\n',
}


@pytest.mark.parametrize("number", range(len(TOML)))
def test_configurations(number: int, tmp_path: Path) -> None:
    text = TOML[number] + "".join(more for table, more in REST.items() if table not in TOML[number])
    for name in ("clinic.pem", "gateway.pem", "case.mcap"):
        (tmp_path / name).touch()
    path = tmp_path / "g.toml"
    path.write_text(text)
    load(path)


def test_the_page_has_them() -> None:
    assert len(TOML) >= 5
    assert sum(kind == "sh" for kind, _ in BLOCKS) >= 3


def test_the_configuration_of_the_service(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "gateway.toml").read_text()
    assert "/var/lib/igtl/" in text
    path = tmp_path / "gateway.toml"
    path.write_text(text.replace("/var/lib/igtl/", f"{tmp_path}/"))
    assert str(load(path)) == "2 sources, 2 routes, 2 sinks"


@pytest.mark.processes
@pytest.mark.timeout(240)  # eight commands, one after the other
@pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "sed"))) or sys.platform != "linux",
    reason="needs bash, curl and GNU sed",
)
def test_the_session(tmp_path: Path) -> None:
    """Its commands, one block after the other, at free ports."""
    pytest.importorskip("prometheus_client")
    pytest.importorskip("mcap")
    ports = {str(port): str(free_port()) for port in (18945, 18951, 18952, 9464)}
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "igtl"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m igtl "$@"\n')
    command.chmod(0o755)

    def moved(text: str) -> str:
        return re.sub("|".join(ports), lambda found: ports[found[0]], text)

    toml = moved(TOML[0]) + f'\n[gateway]\nhttp = "127.0.0.1:{ports["9464"]}"\n'
    (tmp_path / "hospital.toml").write_text(toml)
    session = moved("\n".join(text for kind, text in BLOCKS if kind == "sh"))
    ends = "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n"
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", ends + session],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "hospital.toml: 2 sources, 2 routes, 2 sinks" in done.stdout
    assert done.stdout.count("TRANSFORM") >= 3
    assert '"healthy": true' in done.stdout
    assert 'igtl_source_messages_total{device="ProbeToTracker",source="tracker"' in done.stdout
    assert "StylusToTracker" in done.stdout.rpartition("reloads_total")[2]  # of igtl info


@pytest.mark.processes
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "igtl-gateway.service").read_text()
    unit = tmp_path / "igtl-gateway.service"
    unit.write_text(text.replace("/opt/igtl/bin/igtl", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "igtl-gateway" in line]
    assert ours == []
