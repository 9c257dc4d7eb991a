"""The shape of the package: who may import whom, what is public, what `import igtl` loads."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import igtl

# A module imports only from lines above its own, or from its left on its own line.
LAYERS = [
    "errors fields extras",
    "_core",
    "metadata units show elements message",
    "messages.general messages.geometry messages.imaging messages.tracking messages.queries",
    "rtp log batch compression geometry.pose geometry.graph geometry.calibration geometry.__init__",
    "protocol queues",
    "compressing",
    "exchange pairing link",
    "sockets datagrams tls allow",
    "sync memory udp aio.connection aio.tls aio.link aio.udp",
    "retry healing aio.retry aio.peer aio.answers aio.server server transfer subscriber aio.subscriber",
    "aio.__init__",
    "rate simulate.tracking simulate.sensors simulate.imaging simulate.stream simulate.server simulate.__init__ testing recording.recorder recording.playback recording.reader recording.__init__ video.codecs video.encoder video.decoder video.publisher video.__init__ files.blame files.colors files.images files.meshes files.points files.__init__",
    "view.wire view.words view.shapes view.feed view.flow view.page view.sources view.playing view.view view.__init__",
    "relay doctor.diagnosis doctor.reaching doctor.session doctor.judging doctor.__init__",
    "__init__",
    "cli.__init__ cli.arguments cli.tables cli.sources cli.compose",
    "cli.completion cli.demo cli.dump cli.receive cli.send cli.query cli.command cli.echo cli.serve cli.simulate",
    "cli.bench cli.doctor cli.info cli.monitor cli.record cli.relay cli.replay cli.view",
    "__main__",
]
ORDER = [name for line in LAYERS for name in line.split()]
PACKAGE = Path(igtl.__file__).parent


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def short(name: str) -> str:
    """Name within the package: "igtl.cli" is "cli.__init__"."""
    inner = name.removeprefix("igtl").removeprefix(".") or "__init__"
    return f"{inner}.__init__" if f"{inner}.__init__" in ORDER else inner


def imported(path: Path) -> set[str]:
    """Modules of the package that this one imports when it is loaded or run."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # of a package: a module of it, or what it exports itself
                inner = f"{node.module}.{alias.name}"
                names.append(inner if short(inner) in ORDER else node.module)
    return {short(name) for name in names if name == "igtl" or name.startswith("igtl.")}


FILES = [
    p
    for p in sorted(PACKAGE.rglob("*.py"))
    if p.parent.name != "messages" or p.name != "__init__.py"
]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_layers(path: Path) -> None:
    module = module_of(path)
    assert module in ORDER, f"{module} has no place in LAYERS"
    for other in imported(path):
        assert ORDER.index(other) < ORDER.index(module), f"{module} imports {other}"


def test_every_layer_exists() -> None:
    assert {module_of(p) for p in FILES} | {"_core"} == set(ORDER)


def test_all_is_complete() -> None:
    assert len(set(igtl.__all__)) == len(igtl.__all__)
    modules = {m.name for m in pkgutil.iter_modules(igtl.__path__)}
    public = {name for name in dir(igtl) if not name.startswith("_")}
    assert public - modules - {"TYPE_CHECKING", "Any", "annotations"} == set(igtl.__all__) - modules
    for name in igtl.__all__:
        assert getattr(igtl, name) is not None
    assert set(igtl.aio.__all__) <= {name for name in dir(igtl.aio) if not name.startswith("_")}
    for cls in igtl.message_types().values():
        if cls.__module__.startswith("igtl."):
            assert getattr(igtl, cls.__name__) is cls


def test_docstrings() -> None:
    for name in igtl.__all__:
        value = getattr(igtl, name)
        if isinstance(value, type):
            assert value.__doc__, name
    for cls in {*igtl.message_types().values()}:
        if cls.__module__.startswith("igtl."):
            assert cls.__doc__, cls


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.processes
def test_import_loads_numpy_only() -> None:
    loaded = set(
        run(
            "import sys; before = set(sys.modules); import igtl; print(*(set(sys.modules) - before))"
        ).split()
    )
    roots = {name.partition(".")[0] for name in loaded}
    third_party = roots - set(sys.stdlib_module_names) - {"igtl"}
    assert {
        r for r in third_party if not r.startswith(("numpy", "_cython", "cython_runtime"))
    } == set()
    assert not roots & {"asyncio", "ssl", "click", "rich", "scipy"}


@pytest.mark.processes
def test_no_leaks() -> None:
    """Memory and descriptors stay where they are over many messages and links."""
    out = run(LEAKS)
    assert out.split() == ["ok"], out


LEAKS = """
import gc, os, sys, numpy as np, igtl
from pathlib import Path
wires = [p.read_bytes() for p in sorted(Path('tests/vectors').glob('*.bin')) if p.stat().st_size < 20000]
def work():
    for wire in wires:
        m = igtl.unpack(wire)
        m.pack(); m.pack_parts(); m.to_dict(); repr(m)
        try:
            igtl.unpack(wire[:-1])
        except igtl.ProtocolError:
            pass
    p = igtl.Protocol()
    p.receive_data(b''.join(wires))
    list(p.messages())
    with igtl.listen(port=0) as s, igtl.connect(port=s.port) as a, s.accept() as b:
        a.send(igtl.Image(np.zeros((1, 300, 300), np.uint8)))
        b.recv(timeout=5)
def state():
    gc.collect()
    fds = len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 0
    return sys.getallocatedblocks(), fds
for _ in range(5):
    work()
before = state()
for _ in range(15):
    work()
after = state()
assert after[1] == before[1], (before, after)
assert after[0] - before[0] < 500, (before, after)
print('ok')
"""


ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {
    "media.md": ["av"],
    "data.md": ["nibabel", "SimpleITK"],
    "tools.md": ["mcap"],
    "view.md": ["nicegui", "simplejpeg"],
}
documents = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="installed without the documents"
)


@documents
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p.is_file() and "```python\n" in p.read_text()],
    ids=lambda p: p.name,
)
def test_examples_of_the_documents_run(page: Path) -> None:
    for module in NEEDS.get(page.name, []):
        pytest.importorskip(module, reason=f"{module} is not installed")
    blocks = page.read_text().split("```python\n")[1:]
    code = "\n".join(block.split("```")[0] for block in blocks)
    exec(compile(code, str(page), "exec"), {"__name__": "page"})


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="installed without the sources")
def test_every_package_is_shipped() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert PACKAGE.parent != ROOT or there == set(listed)


@documents
def test_figures_of_the_readme() -> None:
    """Those of the benchmarks, and the counts of the matrix."""
    subprocess.run([sys.executable, "-m", "benchmarks.readme", "--check"], check=True, cwd=ROOT)
    text = (ROOT / "README.md").read_text()
    matrix = text.partition("written by interop/run --write -->")[2].partition("<!-- interop: end")[
        0
    ]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in matrix.splitlines() if line.startswith("|")
    ]  # fmt: skip
    # a row of many types lists them; "IMAGE, part of a volume" is one form
    forms = [max(1, len(row[0].split(", ")) if row[0].count(",") > 2 else 1) for row in rows]
    agree = [
        sum(n for n, row in zip(forms, rows, strict=True) if row[head.index(name)][0] in "=≈")
        for name in (
            "golden vectors (C++ 3.1)",
            "C++ 1.11 reads",
            "Rust 0.4.1 reads",
            "pyigtl 0.3.4 reads",
        )
    ]
    assert f"of the {sum(forms)} in" in text
    assert f"| {' | '.join(map(str, agree))} |" in text


@documents
def test_what_the_readme_says_of_others() -> None:
    """Where they are installed."""
    looked = False
    found = importlib.util.find_spec("pyigtl")
    if found is not None and found.submodule_search_locations:
        looked = True
        source = "".join(
            p.read_text() for p in Path(found.submodule_search_locations[0]).glob("*.py")
        )
        for word in ("import asyncio", "import ssl", "recvfrom"):
            assert word not in source
        assert source.count("CRC64(") == 1  # in pack; unpack does not look
    headers = Path("/usr/include/openigtlink")
    if headers.is_dir():
        looked = True
        names = {p.name for p in headers.glob("igtl*.h")}
        assert not {n for n in names if "UDP" in n or "TLS" in n or "SSL" in n}
        assert "SetMetaDataElement" not in (headers / "igtlMessageBase.h").read_text()
    if not looked:
        pytest.skip("neither pyigtl nor the C++ library is installed")


@documents
def test_links_within_the_documents_lead_somewhere() -> None:
    pages = [*PAGES, *ROOT.glob("*.md"), *ROOT.glob("*/README.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.processes
def test_types_as_an_editor_sees_them() -> None:
    """tests/typing_cases.py under mypy --strict: right uses pass, wrong ones are reported."""
    api = importlib.import_module("mypy.api")
    root = ROOT
    out, errors, status = api.run(
        ["--config-file", str(root / "pyproject.toml"), str(root / "tests" / "typing_cases.py")]
    )
    assert status == 0, out + errors
