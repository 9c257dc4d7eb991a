"""The gallery of the examples: runs each, and keeps what its terminal showed as a picture.

`python -m docs.gallery_pictures`, from the folder of the project, writes docs/gallery.md and
docs/gallery/; with names of examples it runs only these.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

import igtl
from igtl import notebook
from igtl.simulate import Ultrasound, head_phantom

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "gallery.md"
FOLDER = ROOT / "docs" / "gallery"
COLUMNS, LINES = 96, 14
WORDS = {  # what an example is told here, beside its defaults
    "client": "all", "devices": "marker", "error_handling": "wrong-type",
    "header_version_2": "metadata", "image_streaming": "ct", "performance": "--count 5000",
    "sensor_logger": "combined", "server": "--seconds 1", "udp_tracking": "--compare-tcp",
    "video_streaming": "vp9",
}  # fmt: skip
HEAD = """# Gallery

<!-- written by python -m docs.gallery_pictures -->

This page shows what each program of `examples/` prints. The pictures are from one run on a machine
that had other work to do, and are cut after a few lines. Their rates and times are those of that
run; [Performance](performance.md) has measured ones.

Run the programs in a clone of the sources. `--help` shows their options. `--address` names your own
device or server, where a program can use one. Files are kept only with `--to`.

[The example notebook](guide/jupyter.md#the-example-notebook) shows messages, links, recordings and
graphs in Jupyter.
"""


def names() -> list[str]:
    """The examples, in the order of their list."""
    listed = (EXAMPLES / "README.md").read_text().partition("| you want |")[2].partition("##")[0]
    return list(dict.fromkeys(re.findall(r"`(\w+)\.py", listed)))


def command(name: str) -> str:
    """How it is run."""
    return f"python examples/{name}.py {WORDS.get(name, '')}".rstrip()


def sentence(name: str) -> str:
    """The first paragraph of its docstring."""
    doc = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())) or ""
    return " ".join(doc.partition("\n\n")[0].split())


def page() -> str:
    """The text of docs/gallery.md."""
    parts = [HEAD]
    for name in names():
        pictures = [f"![What {name}.py prints](gallery/{name}.svg)"]
        if name in PICTURES:
            pictures.append(f"![{PICTURES[name][0]}](gallery/{name}.png)")
        told = "\n\n".join([sentence(name), f"```sh\n{command(name)}\n```", *pictures])
        parts.append(f"## {name}.py\n\n{told}\n")
    return "\n".join(parts)


def terminal(name: str) -> str:
    """Run it; its terminal as SVG."""
    words = command(name).split()[1:]
    ran = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    lines = ran.stdout.rstrip().splitlines()
    console = Console(record=True, width=COLUMNS, force_terminal=True, file=io.StringIO())
    console.print(Text(f"$ {command(name)}", style="bold"))
    for line in lines[:LINES]:
        console.print(Text(line))
    if len(lines) > LINES:
        console.print(Text(f"… {len(lines) - LINES} more lines", style="dim"))
    svg = console.export_svg(title=f"{name}.py", unique_id=name)
    # fonts of the reader's machine: a picture fetches nothing from elsewhere
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)


# ---- pictures -----------------------------------------------------------------------------------


def ball() -> Any:
    """The volume that reconstruct.py makes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ball.mha")
        words = [str(EXAMPLES / "reconstruct.py"), "--to", str(path)]
        subprocess.run([sys.executable, *words], capture_output=True, check=True)
        return igtl.files.load(path).array


def marker() -> Any:
    """A picture of the film that devices.py renders."""
    sys.path.append(str(EXAMPLES))
    import devices

    with tempfile.TemporaryDirectory() as folder:
        film, _ = devices.render(Path(folder), devices.poses(3))
        with igtl.devices.open(f"camera:{film}?pace=no") as camera:
            return next(m for m in camera if isinstance(m, igtl.Image)).array


PICTURES: dict[str, tuple[str, Callable[[], Any]]] = {
    "image_streaming": ("The middle slice of the CT", lambda: head_phantom(100, 512).array),
    "tracked_ultrasound": (
        "An ultrasound image with a needle", lambda: Ultrasound().image(1.0).array,
    ),
    "reconstruct": ("A slice of the volume, through the ball", ball),
    "devices": ("A picture of the film, with the marker", marker),
}  # fmt: skip
"""What a terminal does not show: what it is, and its array (k, j, i)."""


def main(chosen: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in chosen or names():
        (FOLDER / f"{name}.svg").write_text(terminal(name))
        if name in PICTURES:
            pixels = notebook.slice_of(PICTURES[name][1]())
            assert pixels is not None
            (FOLDER / f"{name}.png").write_bytes(notebook.png(pixels))
        print(name, flush=True)
    PAGE.write_text(page())
    print(sum(path.stat().st_size for path in FOLDER.iterdir()), "bytes of pictures")


if __name__ == "__main__":
    main(sys.argv[1:])
