"""The pictures of the demo: runs it, and takes the screen after three seconds, wide and narrow.

`python docs/picture.py` writes docs/demo.svg, and docs/demo-narrow.svg for phones.
"""

import io
import multiprocessing
import re
import time
from pathlib import Path

from rich.console import Console

import igtl
from igtl.cli import demo

FOLDER = Path(__file__).parent


def take(client: demo.Client, name: str, columns: int) -> None:
    """Write what a terminal of so many columns shows now."""
    console = Console(
        record=True, width=columns, height=60, force_terminal=True, file=io.StringIO()
    )
    console.print(demo.screen(client, console, 7))
    svg = console.export_svg(title="igtl demo")
    # fonts of the reader's machine: a picture fetches nothing from elsewhere
    path = FOLDER / name
    path.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    control, theirs = context.Pipe()
    with igtl.udp.Receiver(0) as receiver:
        address = receiver.host, receiver.port
        context.Process(target=demo.run_devices, args=(theirs, address), daemon=True).start()
        with igtl.connect("127.0.0.1", control.recv(), version=2) as link:
            client = demo.Client(receiver, link)
            time.sleep(3)
            take(client, "demo.svg", 106)
            take(client, "demo-narrow.svg", 48)
            control.send("stop")
            receiver.close()
            client.join()
