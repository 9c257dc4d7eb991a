"""The drawings of the pages: coordinates, names of poses, the place of an image, delivery.

`python docs/drawings.py` writes docs/drawings/*.svg. They are narrow enough for a phone, bring
their own background, and follow a dark colour scheme.
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "drawings"
STYLE = """
text { font: 15px system-ui, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--ink) }
.small { font-size: 13px } .bold { font-weight: 600 } .code { font-family: ui-monospace, monospace }
.middle { text-anchor: middle } .end { text-anchor: end }
.back { fill: var(--back) } .box { fill: var(--box); stroke: var(--ink); stroke-width: 1.5 }
.soft { fill: var(--box); stroke: var(--line); stroke-width: 1 }
.line { stroke: var(--ink); stroke-width: 1.5; fill: none; marker-end: url(#tip) }
.plain { stroke: var(--line); stroke-width: 1.5; fill: none }
.dash { stroke: var(--ink); stroke-width: 1.5; fill: none; stroke-dasharray: 5 4;
    marker-end: url(#tip) }
.r { stroke: var(--r) } .g { stroke: var(--g) } .b { stroke: var(--b) }
text.r { fill: var(--r); stroke: none } text.g { fill: var(--g); stroke: none }
text.b { fill: var(--b); stroke: none }
.axis { stroke-width: 2.5; fill: none } .tip { fill: var(--ink) }
.dot { fill: var(--r); stroke: none } .spot { fill: var(--b); stroke: none }
:root { --ink: #1b1b1b; --line: #767676; --back: #ffffff; --box: #eef2f6;
        --r: #b83200; --g: #00704e; --b: #005f9e }
@media (prefers-color-scheme: dark) {
:root { --ink: #ececec; --line: #9a9a9a; --back: #1c1e22; --box: #2b3038;
        --r: #ff9069; --g: #4fd6a5; --b: #7cc4ff } }
"""


class Drawing:
    """An SVG of a given size, 440 units wide, whose text says what it shows."""

    def __init__(self, name: str, height: int, title: str) -> None:
        self.name, self.height, self.title = name, height, title
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>')

    def rectangle(
        self, x: float, y: float, w: float, h: float, kind: str, corner: float = 0
    ) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" '
            f'rx="{corner:g}" class="{kind}"/>'
        )

    def ellipse(self, x: float, y: float, rx: float, ry: float, kind: str = "soft") -> None:
        self.parts.append(
            f'<ellipse cx="{x:g}" cy="{y:g}" rx="{rx:g}" ry="{ry:g}" class="{kind}"/>'
        )

    def box(self, x: float, y: float, w: float, h: float, *lines: str, kind: str = "box") -> None:
        self.rectangle(x, y, w, h, kind, 6)
        top = y + h / 2 - 8 * (len(lines) - 1) + 5
        for n, line in enumerate(lines):
            style = "middle bold" if n == 0 else "middle small"
            self.text(x + w / 2, top + 17 * n, line, style)

    def path(self, d: str, kind: str = "line") -> None:
        self.parts.append(f'<path d="{d}" class="{kind}"/>')

    def dot(self, x: float, y: float, kind: str = "dot", r: float = 4.5) -> None:
        self.ellipse(x, y, r, r, kind)

    def axes(self, x: float, y: float, *axes: tuple[float, float, str, str]) -> None:
        """Axes from a point: where each ends, its colour and its name."""
        for dx, dy, colour, name in axes:
            self.path(f"M{x:g} {y:g}l{dx:g} {dy:g}", f"axis {colour}")
            length = (dx * dx + dy * dy) ** 0.5
            at = (x + dx * (1 + 12 / length), y + dy * (1 + 12 / length) + 5)
            self.text(*at, name, f"middle small bold {colour}")

    def save(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        size = f'viewBox="0 0 440 {self.height}" width="528" height="{self.height * 1.2:g}"'
        tip = (
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" class="tip"/></marker></defs>'
        )
        body = "\n".join(self.parts)
        (FOLDER / f"{self.name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n{tip}\n"
            f'<rect width="440" height="{self.height}" rx="10" class="back"/>\n{body}\n</svg>\n'
        )


def patient() -> None:
    """RAS and LPS, seen on a head from the front."""
    d = Drawing("ras-lps", 330, "RAS and LPS")
    for x, title, users, names in [
        (110, "RAS", "3D Slicer, nibabel, igtl", ("R", "A", "S")),
        (330, "LPS", "DICOM, ITK, SimpleITK", ("L", "P", "S")),
    ]:
        d.text(x, 30, title, "middle bold")
        d.text(x, 50, users, "middle small")
        d.ellipse(x, 165, 52, 68)
        for side in (-1, 1):
            d.ellipse(x + side * 55, 168, 6, 14)
            d.dot(x + side * 20, 150, "plain", 5)
        d.path(f"M{x - 16} 202q16 12 32 0", "plain")
        sign = -1 if names[0] == "R" else 1  # the patient looks at the reader
        d.axes(
            x, 172, (sign * 78, 0, "r", names[0]), (-38, 46, "g", names[1]) if sign < 0
            else (38, -58, "g", names[1]), (0, -92, "b", names[2]),
        )  # fmt: skip
        d.dot(x, 172)
    d.text(110, 274, "x to the patient's right", "middle small r")
    d.text(110, 292, "y to the front (anterior)", "middle small g")
    d.text(110, 310, "z to the head (superior)", "middle small b")
    d.text(330, 274, "x to the patient's left", "middle small r")
    d.text(330, 292, "y to the back (posterior)", "middle small g")
    d.text(330, 310, "z to the head (superior)", "middle small b")
    d.save()


def frames() -> None:
    """The coordinate systems of a tracked probe."""
    d = Drawing("frames", 430, "The coordinate systems of a tracked ultrasound probe")
    d.box(150, 16, 140, 34, "tracker", kind="soft")
    d.axes(220, 76, (52, 0, "r", "x"), (0, 44, "g", "y"), (-46, -6, "b", "z"))
    d.text(300, 70, "Tracker", "bold")
    d.text(300, 88, "fixed to the camera", "small")
    d.box(46, 214, 56, 70, kind="soft")
    d.text(74, 254, "probe", "middle small")
    d.axes(74, 200, (48, 0, "r", "x"), (0, -44, "g", "y"), (-30, -26, "b", "z"))
    d.text(112, 226, "Probe", "bold")
    d.text(112, 244, "its marker", "small")
    d.path("M66 284L34 404L122 404L82 284", "plain")
    d.dot(34, 404)
    d.axes(34, 404, (60, 0, "r", "i"), (11, -52, "g", "j"))
    d.text(130, 372, "Image", "bold")
    d.text(130, 390, "pixels; the first", "small")
    d.text(130, 408, "one is the red dot", "small")
    d.ellipse(350, 352, 70, 40)
    d.text(350, 372, "patient", "middle small")
    d.axes(350, 318, (44, 0, "r", "x"), (0, -42, "g", "y"), (-32, 22, "b", "z"))
    d.text(338, 232, "Reference", "bold")
    d.text(338, 250, "its marker", "small")
    d.path("M98 186L198 92", "line")
    d.text(136, 124, "ProbeToTracker", "code small end")
    d.path("M336 300L236 98", "line")
    d.text(266, 178, "ReferenceToTracker", "code small end")
    d.path("M128 352Q152 300 108 270", "dash")
    d.text(146, 302, "ImageToProbe", "code small")
    d.text(146, 320, "(calibration)", "small")
    d.save()


def names() -> None:
    """A chain of poses and its product."""
    d = Drawing("names", 250, "A chain of poses: their names, and the product of their matrices")
    for x, name in [(58, "Image"), (162, "Probe"), (266, "Tracker"), (380, "Reference")]:
        d.box(x - 4.5 * len(name) - 9, 70, 9 * len(name) + 18, 38, name)
    d.path("M58 70Q110 20 156 66", "line")
    d.text(108, 34, "ImageToProbe", "middle small code")
    d.path("M162 108Q214 158 260 112", "line")
    d.text(212, 152, "ProbeToTracker", "middle small code")
    d.path("M380 70Q322 20 272 66", "line")
    d.text(322, 34, "ReferenceToTracker", "middle small code")
    d.text(220, 186, "ImageToReference =", "middle code small bold")
    d.text(220, 208, "inverse(ReferenceToTracker) @", "middle code small")
    d.text(220, 230, "ProbeToTracker @ ImageToProbe", "middle code small")
    d.save()


def voxels() -> None:
    """Where an image says that it is."""
    d = Drawing("voxels", 410, "Three points that programs call the place of an image")
    for i in range(5):
        for j in range(4):
            d.rectangle(70 + 60 * i, 60 + 60 * j, 60, 60, "soft")
            d.dot(100 + 60 * i, 90 + 60 * j, "plain", 1.5)
    d.path("M100 90L206 90", "axis r")
    d.path("M100 90L100 196", "axis g")
    d.text(196, 82, "i", "bold r")
    d.text(84, 200, "j", "bold g")
    d.text(100, 24, "corner: some file formats", "")
    d.path("M96 28L74 54", "line")
    d.dot(70, 60, "box", 6)
    d.dot(100, 90, "dot", 6)
    d.dot(220, 180, "spot", 6)
    d.text(70, 326, "1", "bold")
    d.dot(56, 321, "dot", 6)
    d.text(86, 326, "first voxel, its centre: ijk_to_world,", "")
    d.text(86, 345, "3D Slicer, ITK, NRRD, NIfTI, DICOM", "small")
    d.text(70, 374, "2", "bold")
    d.dot(56, 369, "spot", 6)
    d.text(86, 374, "centre of the image: image.matrix,", "")
    d.text(86, 393, "and what travels in the message", "small")
    d.text(110, 110, "1", "bold")
    d.text(230, 200, "2", "bold")
    d.save()


def delivery() -> None:
    """What happens to a message between two programs."""
    d = Drawing("delivery", 560, "Delivery: the outbox with two lanes, the network, the inbox")
    d.box(120, 14, 200, 34, "sending program")
    d.path("M220 48V78")
    d.text(230, 68, "send, broadcast", "small code")
    d.box(20, 80, 400, 132, kind="soft")
    d.text(34, 102, "outbox", "bold")
    d.text(98, 102, "one for each client, bounded: policy", "small")
    for y, first, kinds in [
        (114, "lane 1: goes first", "poses, STATUS, commands, requests"),
        (162, "lane 2", "images, volumes, meshes"),
    ]:
        d.box(34, y, 372, 40, first, kinds)
    d.path("M220 212V252")
    d.text(230, 236, "each message leaves whole", "small")
    d.box(120, 254, 200, 34, "network")
    d.path("M220 288V326")
    d.box(20, 328, 400, 148, kind="soft")
    d.text(34, 350, "inbox", "bold")
    d.text(86, 350, "a queue for each type and device name", "small")
    for n, (name, count) in enumerate(
        [("TRANSFORM Probe", 7), ("TRANSFORM Stylus", 2), ("IMAGE Image", 4)]
    ):
        y = 362 + 36 * n
        d.text(34, y + 20, name, "small code")
        for k in range(count):
            d.rectangle(190 + 22 * k, y + 5, 18, 20, "box", 3)
        d.path(f"M{190 + 22 * 8 + 6} {y + 2}v26", "plain")
    d.text(414, 382, "limit", "end small")
    d.path("M220 476V510")
    d.text(230, 498, "recv, latest", "small code")
    d.box(120, 512, 200, 34, "receiving program")
    d.save()


def badge(name: str, left: str, right: str) -> None:
    """A label of the README."""
    widths = [8 * len(text) + 10 for text in (left, right)]
    (FOLDER / f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{sum(widths)}" height="20" role="img">'
        f"<title>{escape(left)}: {escape(right)}</title>"
        f'<g font-family="Verdana, DejaVu Sans, sans-serif" font-size="11" text-anchor="middle">'
        f'<rect width="{sum(widths)}" height="20" rx="3" fill="#005f9e"/>'
        f'<path d="M3 0H{widths[0]}V20H3A3 3 0 0 1 0 17V3A3 3 0 0 1 3 0" fill="#444"/>'
        f'<text x="{widths[0] / 2:g}" y="14" fill="#fff">{escape(left)}</text>'
        f'<text x="{widths[0] + widths[1] / 2:g}" y="14" fill="#fff">{escape(right)}</text>'
        "</g></svg>\n"
    )


def badges() -> None:
    """What pyproject.toml says of Python and of the licence."""
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]
    found = [each.rpartition(" ")[2] for each in project["classifiers"] if ":: 3." in each]
    badge("python", "python", " | ".join(found))
    badge("licence", "licence", project["license"])


if __name__ == "__main__":
    for draw in (patient, frames, names, voxels, delivery, badges):
        draw()
    for path in sorted(FOLDER.iterdir()):
        print(path, path.stat().st_size, "bytes")
