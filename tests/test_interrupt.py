"""Ctrl-C ends any wait, at once, as KeyboardInterrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from igtl.blocking.changes import Changes

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT"),
]

HEAD = """
import numpy as np, socket, sys, igtl
quiet = socket.create_server(("127.0.0.1", 0))  # accepts in the kernel, and says nothing
port = quiet.getsockname()[1]
big = igtl.Image(np.zeros((200, 512, 512), np.uint16))
def ready():
    print("waiting", flush=True)
try:
"""
TAIL = """
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
WAITS = {
    "recv": "link = igtl.connect(port=port); ready(); link.recv()",
    "recv with a time-out": "link = igtl.connect(port=port); ready(); link.recv(timeout=100)",
    "send": "link = igtl.connect(port=port); ready(); link.send(big)",
    "send of a frame": "link = igtl.connect(port=port); whole = igtl.Frame.from_bytes(big.pack()); ready(); link.send(whole)",
    "send with a time-out": "link = igtl.connect(port=port, write_timeout=100); ready(); link.send(big)",
    "pipe": "a, b = igtl.pipe(); ready(); a.recv()",
    "accept": "listener = igtl.listen(port=0); ready(); listener.accept()",
    "server": "server = igtl.serve(port=0); ready(); server.wait()",
    "udp": "receiver = igtl.udp.Receiver(0); ready(); receiver.recv()",
    "handshake": "ready(); igtl.connect(port=port, ssl=igtl.tls.client(), open_timeout=100)",
    "reconnect": "quiet.close(); ready(); next(iter(igtl.reconnect(port=port)))",
    "healing recv": "quiet.close(); link = igtl.connect(port=port, reconnect=igtl.Backoff()); ready(); link.recv()",
    "healing send": "quiet.close(); link = igtl.connect(port=port, reconnect=igtl.Backoff(), policy='block', max_queued=1); ready(); link.send(big); link.send(big)",
    "rate": "ready(); [None for _ in igtl.Rate(0.01)]",
}


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c(wait: str) -> None:
    code = HEAD + "    " + WAITS[wait] + TAIL
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)  # it goes into the wait
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert out == "interrupted\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


EXIT = """
import threading, time
import igtl

listener = igtl.listen(port=0)
link = igtl.connect(port=listener.port, {options})
held = threading.Event()

HOLD = "with guard:\\n    held.set()\\n    sleep(1000)"  # with globals of its own: these are torn down
own = {{"guard": link.guard, "held": held, "sleep": time.sleep}}
threading.Thread(target=exec, args=(HOLD, own), daemon=True).start()
held.wait()
"""


@pytest.mark.parametrize("options", ["drain=True", "reconnect=igtl.Backoff()"])
def test_the_end_of_the_program_waits_for_no_thread(options: str) -> None:
    """A thread of a link that was not closed stands still at that time, and may hold a lock."""
    code = EXIT.format(options=options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


IN_EXEC = """
import igtl.cli
from igtl.blocking.server import Server
Server.wait = lambda self: exec("import signal; signal.raise_signal(signal.SIGINT)")
igtl.cli.main(["serve", "--at", ":0"])
"""


def test_ctrl_c_while_a_module_with_a_dataclass_loads_is_a_normal_end(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(IN_EXEC)
    command = [sys.executable, "-m", "run"]  # as `python -m igtl`
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_within_a_wait_is_told_as_such() -> None:
    """`Condition.wait` may be interrupted between giving its lock up and taking it again."""
    changed = Changes()
    with pytest.raises(KeyboardInterrupt), changed, changed:
        changed.release()
        changed.release()
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError, match="un-acquired"), changed:
        changed.release()


@pytest.mark.parametrize("windows", [False, True])
def test_a_wait_ends_when_told_or_in_time(windows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows it is made of short ones, between which Ctrl-C comes."""
    monkeypatch.setattr("igtl.blocking.changes._WINDOWS", windows)
    changed, said = Changes(), threading.Event()

    def say() -> None:
        said.set()
        changed.tell()

    timer = threading.Timer(0.5, say)
    with changed:
        assert not changed.wait(0.01)
        timer.start()
        assert changed.wait_for(said.is_set, 30)
        assert not changed.wait_for(lambda: not said.is_set(), 0.01)
    timer.join()
