"""Sites of a bridge, and devices, as parts of a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.gateway import Gateway, load
from tests.cpp import free_port
from tests.test_links import until


def gateway(path: Path, source: str, sink: str) -> Gateway:
    path.write_text(
        f"""
        [source.in]
        {source}
        [sink.out]
        {sink}
        [route.way]
        from = ["in"]
        to = ["out"]
        """
    )
    return Gateway(load(path))


def test_two_gateways_over_a_bridge(tmp_path: Path) -> None:
    pytest.importorskip("zenoh")
    bridge: Any = pytest.importorskip("igtl.bridge", reason="igtl.bridge is not there")
    hub = f"tcp/127.0.0.1:{free_port()}"
    way = f'site = "or1"\nhub = "{hub}"\nlease = 20\nsend_buffer = 8192'
    near = gateway(tmp_path / "near.toml", 'listen = "127.0.0.1:0"', f"{way}\nmax_queued = 10")
    far = gateway(tmp_path / "far.toml", f"{way}\nmax_age = inf", 'serve = "127.0.0.1:0"')
    with near, far:
        until(lambda: near.faults.get("sink out") == "the hub is away")
        until(lambda: far.faults.get("source in") == "the hub is away")
        with bridge.Router(listen=hub):
            until(lambda: near.healthy and far.healthy)
            with (
                igtl.connect(port=near.sources["in"].port) as sender,  # type: ignore[attr-defined]
                igtl.connect(port=far.sinks["out"].port) as receiver,  # type: ignore[attr-defined]
            ):
                until(lambda: far.sinks["out"].clients)  # type: ignore[attr-defined]
                message = igtl.NDArray(np.arange(5.0), device_name="Forces")
                sender.send(message)
                assert receiver.recv(timeout=10) == message
            sink = near.sinks["out"]  # the hub may not have known of the receiver yet
            until(lambda: sink.delivered + sink.dropped["no receiver"] == 1)
        until(lambda: not near.healthy and not far.healthy)


def test_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: Any = pytest.importorskip("igtl.devices", reason="igtl.devices is not there")

    @dataclass(frozen=True, kw_only=True)
    class Counting(devices.Device):  # type: ignore[misc]
        name: str = devices.option("Counting", "device name of the messages")

        def messages(self) -> Iterator[Any]:
            for k in range(3):
                yield igtl.String(str(k), device_name=self.name)
            raise OSError("the plug is out")

    point = SimpleNamespace(name="counting", value="here:Counting", load=lambda: Counting)
    monkeypatch.setattr(
        "igtl.devices.registry.entry_points",
        lambda group, name="counting": [point] if name == "counting" else [],
    )
    with gateway(tmp_path / "g.toml", 'device = "counting:"', 'serve = "127.0.0.1:0"') as it:
        until(lambda: it.routes["way"].passed["STRING", "Counting"] >= 3)
        until(lambda: "the plug is out" in it.faults.get("source in", ""))
